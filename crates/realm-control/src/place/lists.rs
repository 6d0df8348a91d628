//! The lists of routes: which nodes each of them concerns, and which of their routes count there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use realm_model::manifest::{Manifest, NodeSelector, RouteSpec};
use realm_model::name::{ComponentName, NodeName};

use super::Group;
use crate::authority::Authority;
use crate::desired::Desired;

/// The lists of routes, which nodes each of them concerns, and what comes of that.
pub(super) struct Lists<'a> {
    /// In order of precedence.
    pub(super) all: Vec<(&'a NodeSelector, &'a Vec<RouteSpec>)>,
    /// Nodes that are concerned by the same lists, which are looked at once.
    pub(super) kinds: Vec<(Vec<usize>, Vec<usize>)>,
    /// Every component with the lists that want it.
    pub(super) groups: BTreeMap<&'a ComponentName, Vec<Group<'a>>>,
    /// Routes that do not count on the nodes of a kind, in order.
    pub(super) shadowed: Vec<Shadowed<'a>>,
}

/// A route that does not count on some nodes, since one before it is for the same host and path.
pub(super) struct Shadowed<'a> {
    pub(super) kind: usize,
    pub(super) list: usize,
    pub(super) route: &'a RouteSpec,
    /// The list of the one that counts, and that one.
    pub(super) by: (usize, &'a RouteSpec),
}

impl<'a> Lists<'a> {
    pub(super) fn of(
        desired: &'a Desired,
        manifest: &Manifest,
        authority: &Authority,
        nodes: &[NodeName],
    ) -> Self {
        let all: Vec<_> = desired.parts().flat_map(in_precedence).collect();
        let mut kinds: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            let concerned = all.iter().enumerate().filter(|(_, (selector, _))| {
                crate::plan::selects(selector, node, manifest, authority)
            });
            let kind = concerned.map(|(list, _)| list).collect();
            kinds.entry(kind).or_default().push(index);
        }
        let mut lists = Self {
            all,
            kinds: kinds.into_iter().collect(),
            groups: BTreeMap::new(),
            shadowed: Vec::new(),
        };
        lists.group();
        lists
    }

    fn group(&mut self) {
        let mut groups: BTreeMap<(&ComponentName, usize), Group<'_>> = BTreeMap::new();
        for (number, (kind, nodes)) in self.kinds.iter().enumerate() {
            // The first of two routes for the same host and path counts.
            let mut taken = BTreeMap::new();
            for list in kind {
                let Some((selector, routes)) = self.all.get(*list) else {
                    continue;
                };
                for route in *routes {
                    let first = taken.entry((&route.host, &route.path));
                    if let Entry::Occupied(by) = first {
                        self.shadowed.push(Shadowed {
                            kind: number,
                            list: *list,
                            route,
                            by: *by.get(),
                        });
                        continue;
                    }
                    first.or_insert((*list, route));
                    for component in route.answering() {
                        let group = groups.entry((component, *list));
                        let group = group.or_insert_with(|| Group {
                            selector,
                            upkeep: route.upkeep,
                            nodes: BTreeSet::new(),
                        });
                        group.nodes.extend(nodes);
                    }
                }
            }
        }
        for ((component, _), group) in groups {
            self.groups.entry(component).or_default().push(group);
        }
    }
}

/// The lists of one namespace: those for one node before those for a tag before those for all.
pub(crate) fn in_precedence(part: &Manifest) -> Vec<(&NodeSelector, &Vec<RouteSpec>)> {
    let mut lists: Vec<_> = part.routing.iter().collect();
    lists.sort_by_key(|(selector, _)| match selector {
        NodeSelector::Node(_) => 0,
        NodeSelector::Tag(_) => 1,
        NodeSelector::All => 2,
    });
    lists
}
