//! Where else components answer: nodes that say that they have healthy replicas, and how far they are.
//! Not which of them a request goes to; load and failures of the moment decide that.

use std::collections::BTreeMap;

use realm_model::entry::ChainId;
use realm_model::key::PublicKey;
use realm_model::name::ComponentName;
use realm_model::record::ComponentSummary;

use crate::reach::Reached;
use crate::records::Records;

/// A node that answers for a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// How far it is: nearer ones are asked first.
    pub ring: Ring,
    /// The node.
    pub node: PublicKey,
}

/// Classes of round-trip times. Within one the load counts more than a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ring {
    /// Below 2 ms: the same machine or rack.
    Rack,
    /// Below 20 ms: the same city.
    City,
    /// Below 100 ms: the same continent.
    Continent,
    /// Further away.
    World,
}

impl Ring {
    /// The class of a round-trip time in milliseconds.
    pub const fn of(rtt_ms: u32) -> Self {
        match rtt_ms {
            0..2 => Self::Rack,
            2..20 => Self::City,
            20..100 => Self::Continent,
            _ => Self::World,
        }
    }
}

/// What a node without a connection counts as further away.
const DIALLING_MS: u32 = 20;

/// Which other nodes answer for each component, nearest first: those that are reached, and say of
/// themselves that replicas are healthy there. Nobody is believed about others.
pub fn ways(
    records: &Records,
    reached: &BTreeMap<PublicKey, Reached>,
) -> BTreeMap<ComponentName, Vec<Way>> {
    on_nodes(records, reached, |one| one.serving.unwrap_or(one.healthy))
}

/// Which other nodes run each component, nearest first: the same, and those whose replicas no route leads
/// to.
pub fn running(
    records: &Records,
    reached: &BTreeMap<PublicKey, Reached>,
) -> BTreeMap<ComponentName, Vec<Way>> {
    on_nodes(records, reached, |one| {
        one.serving.unwrap_or(0).max(one.healthy)
    })
}

fn on_nodes(
    records: &Records,
    reached: &BTreeMap<PublicKey, Reached>,
    number: impl Fn(&ComponentSummary) -> u32,
) -> BTreeMap<ComponentName, Vec<Way>> {
    let mut ways: BTreeMap<ComponentName, Vec<Way>> = BTreeMap::new();
    for (node, how) in reached {
        let rtt_ms = match how {
            Reached::Here | Reached::Lost => continue,
            Reached::Linked(link) => link.rtt_ms,
            // A connection is to be made first, if one can be.
            Reached::Through { rtt_ms, .. } => rtt_ms.saturating_add(DIALLING_MS),
        };
        let way = Way {
            ring: Ring::of(rtt_ms),
            node: *node,
        };
        let Some(record) = records.get(*node) else {
            continue;
        };
        let components = record.body.components.iter();
        let healthy =
            components.filter(|one| number(one) > 0 && ChainId::DEFAULT.as_str() == one.namespace);
        for name in healthy.filter_map(|one| one.name.parse().ok()) {
            ways.entry(name).or_default().push(way);
        }
    }
    for ways in ways.values_mut() {
        ways.sort_unstable();
        ways.dedup();
    }
    ways
}

#[cfg(test)]
mod tests {
    use realm_model::digest::Digest;
    use realm_model::entry::RealmId;
    use realm_model::record::{NodeBody, NodeRecord, ReachedBy, Version};

    use super::*;
    use crate::reach::Link;
    use crate::records::Members;
    use crate::testing::{component_name, key};

    const OTHERS: [&str; 4] = ["a", "b", "c", "d"];

    fn summary(name: &str, healthy: u32) -> ComponentSummary {
        ComponentSummary {
            name: name.to_owned(),
            namespace: ChainId::DEFAULT.as_str().to_owned(),
            wanted: 1,
            healthy,
            state: String::new(),
            code: String::new(),
            reason: String::new(),
            digest: None,
            serving: None,
            seats: None,
            failed: None,
        }
    }

    fn linked(rtt_ms: u32) -> Reached {
        Reached::Linked(Link {
            how: ReachedBy::Direct,
            rtt_ms,
            why: String::new(),
        })
    }

    /// Each of the others is reached so, and says so many replicas of `app` are healthy there.
    fn check(others: [(Reached, u32); 4], expected: &[(&str, Ring)]) {
        let realm = RealmId::new(Digest::of(b"a realm"));
        let members: Members = OTHERS
            .map(|name| key(name).public())
            .into_iter()
            .map(|key| (key.into(), key))
            .collect();
        let mut records = Records::new(realm, key("own").public());
        let mut reached = BTreeMap::from([(key("own").public(), Reached::Here)]);
        for (name, (how, healthy)) in OTHERS.iter().zip(others) {
            let mut body = NodeBody::of(name.parse().expect("a name"));
            body.components = vec![summary("app", healthy), summary("not a name", 1)];
            let version = Version {
                epoch: 1,
                boot: 1,
                counter: 1,
            };
            let bytes = NodeRecord::sign(realm, &key(name), version, body);
            records.offer(&bytes, &members, true);
            reached.insert(key(name).public(), how);
        }
        let found = ways(&records, &reached);
        let found = found
            .get(&component_name("app"))
            .cloned()
            .unwrap_or_default();
        let mut expected: Vec<Way> = expected
            .iter()
            .map(|(name, ring)| Way {
                ring: *ring,
                node: key(name).public(),
            })
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn who_is_reached_and_healthy_answers_and_the_nearest_comes_first() {
        check(
            [
                (linked(150), 1),
                (linked(1), 2),
                (linked(19), 0),
                (linked(20), 1),
            ],
            &[
                ("b", Ring::Rack),
                ("d", Ring::Continent),
                ("a", Ring::World),
            ],
        );
        let through = Reached::Through {
            first: key("b").public(),
            hops: 2,
            rtt_ms: 3,
        };
        check(
            [
                (Reached::Lost, 1),
                (linked(0), 1),
                (through, 1),
                (Reached::Lost, 1),
            ],
            &[("b", Ring::Rack), ("c", Ring::Continent)],
        );
        check(OTHERS.map(|_| (linked(1), 0)), &[]);
    }
}
