//! Why a node has replicas of a component, or has none: every reason at once, from the functions that
//! place them. Not how the replicas are: that is the view's.

mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use realm_model::entry::NamespaceName;
use realm_model::manifest::{Manifest, NodeSelector, RouteSpec};
use realm_model::name::{ComponentName, NodeName};

use super::{Candidate, Group, Lists, Scene, Seat, Taken, candidates};
use crate::authority::Authority;
use crate::desired::Desired;
use crate::losses::Away;
use crate::plan::{Standing, selects};

/// Places beyond those that are wanted of which it is said whose they would be.
const NEXT_MAX: u32 = 256;
/// Ranks that are looked at for that: more take the loop of an agent longer than the answer is worth.
const NEXT_RANKS_MAX: usize = 200_000;

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// What shall run.
    pub desired: &'a Desired,
    /// The nodes.
    pub authority: &'a Authority,
    /// Whether others stand in for a node where a component waits for it for so many milliseconds.
    pub gone: &'a dyn Fn(&NodeName, u64) -> bool,
    /// Whether a node is away, or was.
    pub away: &'a dyn Fn(&NodeName) -> Option<Away>,
    /// The time, in seconds since 1970.
    pub unix_s: u64,
}

/// Where the replicas of one component shall be, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explained {
    /// Every approved node, and those without approval that a list of the component names.
    pub nodes: BTreeMap<NodeName, Place>,
    /// Replicas that shall be, without those that nodes withhold.
    pub wanted: u32,
    /// Those of them that no node can have.
    pub unplaced: u32,
    /// Reasons that concern no single node.
    pub reasons: Vec<Reason>,
}

/// What one node shall have of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Replicas: as many as the placement says.
    pub replicas: u32,
    /// Whether it runs none of them because of how it stands in the realm.
    pub withheld: bool,
    /// Why it has them, with what is in their way; or every reason why it has none.
    pub reasons: Vec<Reason>,
}

/// Why a node has replicas of a component, or has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A list gives each of its nodes replicas of its own.
    Pinned {
        /// The list.
        list: NodeSelector,
        /// Replicas.
        replicas: u32,
    },
    /// It ranks them highest of the nodes of a list.
    Placed {
        /// The list.
        list: NodeSelector,
        /// Replicas.
        replicas: u32,
    },
    /// It has them while another node is gone.
    StandsIn {
        /// That node.
        base: NodeName,
        /// Replicas.
        replicas: u32,
    },
    /// What runs by itself runs on every node.
    Everywhere,
    /// It has them, and is not reached.
    NotReached {
        /// For how long, in milliseconds.
        away_ms: u64,
        /// What is waited until others stand in; `None`: nobody will.
        lost_after_ms: Option<u64>,
    },
    /// It is gone: others have its replicas, or they wait for it.
    Lost {
        /// Since when, as far as it is known.
        away: Option<Away>,
        /// How long the list waits for a node, in milliseconds.
        lost_after_ms: u64,
        /// Who stands in.
        by: BTreeSet<NodeName>,
        /// Whether nobody else may have them.
        pinned: bool,
    },
    /// How it stands in the realm: the code and the words of its plan.
    Standing {
        /// The code.
        code: &'static str,
        /// The words.
        words: &'static str,
    },
    /// It is cordoned, and stands in for nobody.
    StandsInForNobody,
    /// No list that leads to the component concerns it: these do not.
    NotListed {
        /// Those lists.
        lists: Vec<NodeSelector>,
    },
    /// What the component has in a list goes to another one there, since an earlier list says so.
    PathTaken {
        /// The first of its routes there.
        route: String,
        /// The list that it is in.
        list: NodeSelector,
        /// The earlier list.
        by_list: NodeSelector,
        /// The component that answers.
        by: ComponentName,
    },
    /// Others rank higher.
    Outranked {
        /// The list.
        list: NodeSelector,
        /// Replicas that it wants.
        replicas: u32,
        /// The number of replicas with which it would have one; `None`: far more.
        next: Option<u32>,
    },
    /// Of the whole component: no list leads to it.
    NoRoute,
    /// No approved node is concerned by a list.
    NodeAbsent {
        /// The list.
        list: NodeSelector,
        /// Replicas that it wants.
        replicas: u32,
    },
    /// Nobody can have these.
    NoNode {
        /// How many.
        replicas: u32,
    },
    /// Other namespaces want the name and do not get it.
    NameTaken {
        /// The one that has it.
        by: NamespaceName,
        /// The others.
        others: Vec<NamespaceName>,
    },
}

/// Explains the components of a realm.
pub struct Why<'a> {
    asked: Asked<'a>,
    manifest: &'a Manifest,
    nodes: Vec<NodeName>,
    candidates: Vec<Candidate<'a>>,
    lists: Lists<'a>,
    /// Component → lists that lead to it.
    leading: BTreeMap<&'a ComponentName, BTreeSet<usize>>,
    /// The kind of each node.
    kinds: BTreeMap<usize, usize>,
    /// (Component, kind, list) → the first of its routes that does not count there.
    shadowed: BTreeMap<(&'a ComponentName, usize, usize), usize>,
}

impl<'a> Why<'a> {
    /// `None`: nothing was applied yet.
    pub fn of(asked: Asked<'a>) -> Option<Self> {
        let manifest = asked.desired.manifest.as_deref()?;
        let nodes: Vec<NodeName> = asked.authority.nodes.keys().cloned().collect();
        let lists = Lists::of(asked.desired, manifest, asked.authority, &nodes);
        let mut leading: BTreeMap<&ComponentName, BTreeSet<usize>> = BTreeMap::new();
        for (number, (_, routes)) in lists.all.iter().enumerate() {
            for route in *routes {
                for component in route.answering() {
                    leading.entry(component).or_default().insert(number);
                }
            }
        }
        let kinds = lists.kinds.iter().enumerate();
        let kinds = kinds
            .flat_map(|(kind, (_, nodes))| nodes.iter().map(move |node| (*node, kind)))
            .collect();
        let mut shadowed = BTreeMap::new();
        for (number, one) in lists.shadowed.iter().enumerate() {
            for component in one.route.answering() {
                let key = (component, one.kind, one.list);
                shadowed.entry(key).or_insert(number);
            }
        }
        Some(Self {
            asked,
            manifest,
            candidates: candidates(manifest, asked.authority),
            nodes,
            lists,
            leading,
            kinds,
            shadowed,
        })
    }

    /// Everything about one component; `None`: it is in no manifest.
    pub fn explain(&self, component: &ComponentName) -> Option<Explained> {
        let spec = self.manifest.components.get(component)?;
        let mut explained = match spec.mode().takes_requests() || spec.singleton {
            true => self.placed(component, spec.singleton),
            false => self.everywhere(component),
        };
        let desired = self.asked.desired;
        let others: Vec<NamespaceName> = desired.displaced(component).collect();
        if let (Some(by), false) = (desired.namespace_of(component), others.is_empty()) {
            explained.reasons.push(Reason::NameTaken { by, others });
        }
        Some(explained)
    }

    /// What runs by itself.
    fn everywhere(&self, component: &ComponentName) -> Explained {
        let mut explained = Explained::default();
        for node in &self.nodes {
            let mut place = Place {
                replicas: 1,
                reasons: vec![Reason::Everywhere],
                ..Place::default()
            };
            self.hinder(component, node, None, &mut place);
            explained.wanted += u32::from(!place.withheld);
            explained.nodes.insert(node.clone(), place);
        }
        explained
    }

    fn placed(&self, component: &ComponentName, is_singleton: bool) -> Explained {
        let groups = self.lists.groups.get(component);
        let everywhere = [Group::everywhere(self.nodes.len())];
        let is_lone = is_singleton && groups.is_none() && !self.leading.contains_key(component);
        let groups: &[Group<'_>] = match is_lone {
            true => &everywhere,
            false => groups.map_or(&[], Vec::as_slice),
        };
        let one = [Group::of_one(groups)];
        let groups = if is_singleton { &one } else { groups };
        let desired = self.asked.desired;
        let scene = Scene::of(
            component,
            desired,
            &self.nodes,
            &self.candidates,
            self.asked.gone,
        );
        let placed = scene.placed(groups);
        let seated: Vec<Seated<'_>> = groups
            .iter()
            .map(|group| Seated::of(&scene, group))
            .collect();
        let mut explained = Explained::default();
        for (index, node) in self.nodes.iter().enumerate() {
            let replicas = placed.shares.get(&index).copied().unwrap_or_default();
            let mut place = Place {
                replicas,
                withheld: false,
                reasons: self.reasons(component, &scene, &seated, index, replicas > 0),
            };
            if replicas > 0 {
                let waits = seated.iter().filter(|one| one.has(index));
                let movable = waits.clone().all(|one| !one.group.is_pinned());
                let lost_after_ms = waits.map(|one| one.group.upkeep.lost_after_ms).max();
                self.hinder(
                    component,
                    node,
                    lost_after_ms.map(|ms| (ms, movable)),
                    &mut place,
                );
            }
            explained.wanted += if place.withheld { 0 } else { replicas };
            explained.nodes.insert(node.clone(), place);
        }
        let open = placed.seats.iter().filter(|seat| !seat.closed);
        let unplaced = open.filter(|seat| seat.holder.is_none()).count();
        let unplaced = u32::try_from(unplaced).unwrap_or(u32::MAX);
        if unplaced > 0 {
            explained
                .reasons
                .push(Reason::NoNode { replicas: unplaced });
        }
        explained.unplaced = unplaced;
        if !is_lone {
            self.absent(component, &mut explained);
        }
        explained.wanted += explained.unplaced;
        explained
    }

    /// Lists that no approved node is concerned by, and the nodes without approval that they name.
    fn absent(&self, component: &ComponentName, explained: &mut Explained) {
        let Some(leading) = self.leading.get(component) else {
            explained.reasons.push(Reason::NoRoute);
            return;
        };
        let mut strangers: BTreeSet<&NodeName> = BTreeSet::new();
        for number in leading {
            let Some((selector, routes)) = self.lists.all.get(*number) else {
                continue;
            };
            strangers.extend(match selector {
                NodeSelector::Node(name) => Some(name),
                NodeSelector::Tag(_) | NodeSelector::All => None,
            });
            let listed = self.manifest.nodes.keys();
            strangers.extend(listed.filter(|node| self.selects(selector, node)));
            let mut kinds = self.lists.kinds.iter();
            if kinds.any(|(kind, _)| kind.contains(number)) {
                continue;
            }
            let route = routes.iter().find(|route| route.leads_to(component));
            let replicas = route.map_or(0, |route| route.upkeep.replicas);
            explained.unplaced = explained.unplaced.saturating_add(replicas);
            explained.reasons.push(Reason::NodeAbsent {
                list: (*selector).clone(),
                replicas,
            });
        }
        for node in strangers {
            if !explained.nodes.contains_key(node) {
                let mut place = Place::default();
                self.hinder(component, node, None, &mut place);
                explained.nodes.insert(node.clone(), place);
            }
        }
    }

    /// Why a node has replicas, or every reason why it has none.
    fn reasons(
        &self,
        component: &ComponentName,
        scene: &Scene<'_>,
        seated: &[Seated<'_>],
        node: usize,
        has_some: bool,
    ) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let mut unnamed = Vec::new();
        // Of a singleton all lists are one.
        let of_one = seated.first().filter(|one| {
            self.asked.desired.is_singleton(component) && one.group.nodes.contains(&node)
        });
        if let Some(one) = of_one {
            let mut reasons = match one.has(node) {
                true => one.having(&self.nodes, node).into_iter().collect(),
                false => self.lacking(component, scene, one, node),
            };
            reasons.retain(|reason| !has_some || reason.is_having());
            return reasons;
        }
        for number in self.leading.get(component).into_iter().flatten() {
            let Some((selector, _)) = self.lists.all.get(*number) else {
                continue;
            };
            let Some(one) = seated.iter().find(|one| one.is_in(selector, node)) else {
                match self.shadow(component, node, *number) {
                    Some(taken) => reasons.push(taken),
                    None => unnamed.push((*selector).clone()),
                }
                continue;
            };
            match one.has(node) {
                true => reasons.extend(one.having(&self.nodes, node)),
                false => reasons.extend(self.lacking(component, scene, one, node)),
            }
        }
        let is_lost = |reason: &Reason| matches!(reason, Reason::Lost { .. });
        let is_told = reasons.is_empty() || !unnamed.is_empty();
        if is_told && !reasons.iter().any(is_lost) {
            let missing = Reason::NotListed { lists: unnamed };
            let would_do = missing.code() == "tag-missing";
            reasons.push(missing);
            // With the tag alone it would have none either.
            if would_do && !scene.may_begin(node) {
                reasons.extend(self.standing(component, &self.nodes[node]));
            }
        }
        // What keeps it from having more is of no interest.
        reasons.retain(|reason| !has_some || reason.is_having());
        reasons
    }

    /// Why a node has nothing of a list that concerns it.
    fn lacking(
        &self,
        component: &ComponentName,
        scene: &Scene<'_>,
        one: &Seated<'_>,
        node: usize,
    ) -> Vec<Reason> {
        let name = &self.nodes[node];
        let mut own = one.seats.iter().filter(|seat| seat.base == node).peekable();
        if own.peek().is_some() {
            let by = own.filter_map(|seat| self.nodes.get(seat.holder?));
            return vec![Reason::Lost {
                away: (self.asked.away)(name),
                lost_after_ms: one.group.upkeep.lost_after_ms,
                by: by.cloned().collect(),
                pinned: one.group.is_pinned(),
            }];
        }
        if !scene.may_begin(node) {
            return self.standing(component, name).into_iter().collect();
        }
        let mut reasons = vec![Reason::Outranked {
            list: one.group.selector.clone(),
            replicas: one.group.upkeep.replicas,
            next: one.next.get(&node).copied(),
        }];
        let is_moved = |seat: &Seat| seat.holder != Some(seat.base);
        if self.candidates[node].approved.cordoned.is_some() && one.seats.iter().any(is_moved) {
            reasons.push(Reason::StandsInForNobody);
        }
        reasons
    }

    /// What stands between a node and the replicas that it shall have.
    fn hinder(
        &self,
        component: &ComponentName,
        node: &NodeName,
        waits: Option<(u64, bool)>,
        place: &mut Place,
    ) {
        if let Some(standing) = self.standing(component, node) {
            // What runs under an approval that is over goes on.
            place.withheld = standing.code() != "approval-expired";
            place.reasons.push(standing);
        }
        if let Some(Away::For(away_ms)) = (self.asked.away)(node) {
            place.reasons.push(Reason::NotReached {
                away_ms,
                lost_after_ms: waits.and_then(|(ms, movable)| movable.then_some(ms)),
            });
        }
    }

    fn standing(&self, component: &ComponentName, node: &NodeName) -> Option<Reason> {
        let standing = Standing::of(self.asked.authority, node, self.asked.unix_s);
        let since = self.asked.desired.since(component);
        let (code, words) = standing.withholds(since, false)?;
        Some(Reason::Standing { code, words })
    }

    /// The first route of a component in a list that does not count on a node.
    fn shadow(&self, component: &ComponentName, node: usize, list: usize) -> Option<Reason> {
        let kind = *self.kinds.get(&node)?;
        let number = self.shadowed.get(&(component, kind, list))?;
        let shadowed = self.lists.shadowed.get(*number)?;
        let (by_list, by) = shadowed.by;
        let selector = |list: usize| self.lists.all.get(list).map(|(one, _)| (*one).clone());
        Some(Reason::PathTaken {
            route: written(shadowed.route),
            list: selector(list)?,
            by_list: selector(by_list)?,
            by: by.component.clone(),
        })
    }

    fn selects(&self, selector: &NodeSelector, node: &NodeName) -> bool {
        selects(selector, node, self.manifest, self.asked.authority)
    }
}

/// A list of one component, with the places that it gives.
struct Seated<'a> {
    group: &'a Group<'a>,
    seats: Vec<Seat>,
    /// Nodes that have no place → the number of replicas with which they would have one.
    next: BTreeMap<usize, u32>,
}

impl<'a> Seated<'a> {
    fn of(scene: &Scene<'_>, group: &'a Group<'a>) -> Self {
        Self {
            group,
            seats: scene.seats(group),
            next: match group.is_pinned() {
                true => BTreeMap::new(),
                false => next(scene, group),
            },
        }
    }

    fn is_in(&self, list: &NodeSelector, node: usize) -> bool {
        self.group.selector == list && self.group.nodes.contains(&node)
    }

    fn has(&self, node: usize) -> bool {
        self.seats.iter().any(|seat| seat.holder == Some(node))
    }

    fn having(&self, nodes: &[NodeName], node: usize) -> Vec<Reason> {
        let mut by_base: BTreeMap<usize, u32> = BTreeMap::new();
        let held = self.seats.iter().filter(|seat| seat.holder == Some(node));
        for seat in held {
            *by_base.entry(seat.base).or_default() += 1;
        }
        let own = by_base.remove(&node);
        let list = self.group.selector.clone();
        let own = own.map(|replicas| match self.group.is_pinned() {
            true => Reason::Pinned { list, replicas },
            false => Reason::Placed { list, replicas },
        });
        let others = by_base.into_iter().filter_map(|(base, replicas)| {
            let base = nodes.get(base)?.clone();
            Some(Reason::StandsIn { base, replicas })
        });
        own.into_iter().chain(others).collect()
    }
}

/// With how many replicas each node that has none would have its first one.
fn next(scene: &Scene<'_>, group: &Group<'_>) -> BTreeMap<usize, u32> {
    let mut eligible: Vec<usize> = group.nodes.iter().copied().collect();
    eligible.retain(|node| scene.may_begin(*node));
    let (replicas, mut taken) = (group.upkeep.replicas, Taken::default());
    let mut first: BTreeMap<usize, u32> = BTreeMap::new();
    let slots = replicas.saturating_add(NEXT_MAX);
    if eligible.len().saturating_mul(slots as usize) > NEXT_RANKS_MAX {
        return first;
    }
    for slot in 0..slots {
        let Some(node) = scene.take(&eligible, slot, &mut taken) else {
            break;
        };
        first.entry(node).or_insert(slot + 1);
        if first.len() == eligible.len() {
            break;
        }
    }
    first.retain(|_, number| *number > replicas);
    first
}

/// `shop.example.com/auth/...`, or the path alone.
pub(crate) fn written(route: &RouteSpec) -> String {
    match &route.host {
        Some(host) => format!("{host}{}", route.path),
        None => route.path.to_string(),
    }
}
