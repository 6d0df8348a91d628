//! To which other nodes this one lends the messages that wait in its queues: for a group that has no
//! member here, to nodes that run a component of it. Not what waits, and not how it goes there.
//!
//! Each of those nodes takes as many as it has room for, so that none waits behind a busy one. A view that
//! is old costs time: who has no member any more says so, and nothing leaves the queue before it is
//! dealt with.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::cloud::Group;
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::name::ComponentName;

use crate::ways::Way;

/// Nodes to which one node lends the messages of one group at a time. Each costs a stream; other nodes
/// that send have others.
pub const BORROWERS_MAX: usize = 8;
/// Groups for which one node lends to another one at a time: each is a stream of their connection, which
/// has to have room for requests.
pub const GROUPS_EACH_MAX: usize = 128;

/// A group, in a binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shared {
    /// The name of the binding.
    pub binding: String,
    /// The group.
    pub group: Group,
}

/// What is known of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The components that the manifest subscribes to it.
    pub components: BTreeSet<ComponentName>,
    /// The nodes that may come to run one of them, by what is signed.
    pub may: BTreeSet<PublicKey>,
}

/// Who borrows from whom: for each group that is open here the nodes that its messages are lent to, the
/// nearest first. `running`: which other nodes run each component, the nearest first; `here`: groups that
/// have a member on this node.
pub fn borrowers(
    me: &PublicKey,
    groups: &BTreeMap<Shared, Members>,
    running: &BTreeMap<ComponentName, Vec<Way>>,
    here: &BTreeSet<Shared>,
) -> BTreeMap<Shared, Vec<PublicKey>> {
    let mut lent = BTreeMap::new();
    let mut streams: BTreeMap<PublicKey, usize> = BTreeMap::new();
    for (shared, members) in groups {
        if here.contains(shared) {
            continue;
        }
        let ways = members.components.iter().filter_map(|one| running.get(one));
        let ways: BTreeSet<Way> = ways.flatten().copied().collect();
        let mut ways: Vec<Way> = ways
            .into_iter()
            .filter(|way| way.node != *me && members.may.contains(&way.node))
            .collect();
        // Nodes that send side by side do not all choose the same ones of many.
        ways.sort_by_cached_key(|way| (way.ring, rank(me, &way.node)));
        let mut nodes: Vec<PublicKey> = Vec::new();
        for way in ways {
            let n = streams.entry(way.node).or_default();
            if nodes.len() < BORROWERS_MAX && *n < GROUPS_EACH_MAX && !nodes.contains(&way.node) {
                *n += 1;
                nodes.push(way.node);
            }
        }
        if !nodes.is_empty() {
            lent.insert(shared.clone(), nodes);
        }
    }
    lent
}

fn rank(me: &PublicKey, other: &PublicKey) -> Digest {
    Digest::of(&[me.as_bytes().as_slice(), other.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{component_name, node_key};
    use crate::ways::Ring;

    fn shared(group: &str) -> Shared {
        Shared {
            binding: "orders".to_owned(),
            group: Group {
                topic: "orders.>".to_owned(),
                name: group.to_owned(),
            },
        }
    }

    /// `packer: b c` for each group, its components and who may run them; `packer: b/0 c/2` for who runs
    /// them and how far that is; the groups with a member here. What comes of it: `packer: b c`.
    #[track_caller]
    fn check(groups: &[(&str, &str, &str)], running: &[(&str, &str)], here: &[&str], is: &[&str]) {
        let keys = |names: &str| names.split_whitespace().map(node_key).collect::<Vec<_>>();
        let groups = groups.iter().map(|(group, components, may)| {
            let members = Members {
                components: components.split_whitespace().map(component_name).collect(),
                may: keys(may).into_iter().collect(),
            };
            (shared(group), members)
        });
        let running = running.iter().map(|(component, nodes)| {
            let ways = nodes.split_whitespace().map(|way| {
                let (node, ring) = way.split_once('/').expect("a ring");
                let ring = match ring {
                    "0" => Ring::Rack,
                    "1" => Ring::City,
                    _ => Ring::World,
                };
                Way {
                    ring,
                    node: node_key(node),
                }
            });
            (component_name(component), ways.collect())
        });
        let here = here.iter().map(|group| shared(group)).collect();
        let lent = borrowers(&node_key("a"), &groups.collect(), &running.collect(), &here);
        let lent = lent.into_iter();
        let lent: Vec<_> = lent
            .map(|(shared, nodes)| (shared.group.name, nodes))
            .collect();
        let is = is.iter().map(|line| {
            let (group, nodes) = line.split_once(": ").expect("nodes");
            (group.to_owned(), keys(nodes))
        });
        assert_eq!(lent, is.collect::<Vec<_>>());
    }

    #[test]
    fn a_group_without_a_member_here_is_lent_to_those_that_run_it() {
        let groups = [("packer", "packer", "a b c"), ("mail", "mail", "a b c")];
        let running = [("packer", "c/2 b/0"), ("mail", "c/1")];
        check(&groups, &running, &[], &["mail: c", "packer: b c"]);
        check(&groups, &running, &["packer"], &["mail: c"]);
        check(&groups, &running, &["packer", "mail"], &[]);
        check(&groups, &[], &[], &[]);
    }

    #[test]
    fn nobody_gets_what_it_may_not_run_whatever_it_says_of_itself() {
        let groups = [("packer", "packer", "a c")];
        check(&groups, &[("packer", "b/0 c/2")], &[], &["packer: c"]);
        check(&groups, &[("packer", "b/0")], &[], &[]);
        check(&groups, &[("other", "c/0")], &[], &[]);
    }

    #[test]
    fn components_that_share_a_group_share_its_nodes() {
        let groups = [("packer", "packer packer2", "a b c")];
        let running = [("packer", "a/0 c/1 b/1"), ("packer2", "c/1 b/0")];
        check(&groups, &running, &[], &["packer: b c"]);
    }

    #[test]
    fn of_many_nodes_some_are_chosen_and_by_others_others() {
        let names: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
        let nodes: Vec<PublicKey> = names.iter().map(|name| node_key(name)).collect();
        let members = Members {
            components: [component_name("packer")].into(),
            may: nodes.iter().copied().collect(),
        };
        let groups = BTreeMap::from([(shared("packer"), members)]);
        let ways = nodes.iter().map(|node| Way {
            ring: Ring::Rack,
            node: *node,
        });
        let running = BTreeMap::from([(component_name("packer"), ways.collect::<Vec<_>>())]);
        let chosen = |me: &str| {
            let lent = borrowers(&node_key(me), &groups, &running, &BTreeSet::new());
            lent[&shared("packer")].clone()
        };
        let all: BTreeSet<PublicKey> = names.iter().flat_map(|name| chosen(name)).collect();
        assert_eq!(chosen("n0").len(), BORROWERS_MAX);
        assert!(all.len() > 30, "{}", all.len());
    }

    #[test]
    fn one_node_borrows_for_so_many_groups_and_no_more() {
        let members = Members {
            components: [component_name("packer")].into(),
            may: [node_key("b")].into(),
        };
        let groups = (0..300).map(|n| (shared(&format!("g{n}")), members.clone()));
        let way = Way {
            ring: Ring::Rack,
            node: node_key("b"),
        };
        let running = BTreeMap::from([(component_name("packer"), vec![way])]);
        let here = BTreeSet::new();
        let lent = borrowers(&node_key("a"), &groups.collect(), &running, &here);
        assert_eq!(lent.len(), GROUPS_EACH_MAX);
    }
}
