//! Who is reached, how, and what that says of this node: isolated, stale, or not yet able to act.
//!
//! A breadth-first search over the connections that reachable nodes say they have. A node that
//! nobody reachable is connected with is lost. Pure functions; not a failure detector: who is
//! connected is an argument.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use realm_model::key::PublicKey;
use realm_model::record::{KeyBytes, ReachedBy};

use crate::records::{Members, Records};

/// How long a node with a durable state of its own waits for a peer before it acts alone.
pub const ALONE_MS: u64 = 10_000;

/// A beacon that is overdue by this factor is missed, not late.
pub const BEACONS_MISSED: u64 = 3;

/// A connection of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// How.
    pub how: ReachedBy,
    /// Round-trip time in milliseconds.
    pub rtt_ms: u32,
    /// Why not directly, as a code; empty for a direct one.
    pub why: String,
}

/// How a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// It is this node.
    Here,
    /// By a connection of this node.
    Linked(Link),
    /// Somebody reachable is connected with it.
    Through {
        /// The connection that leads there.
        first: PublicKey,
        /// Connections on the way, at least 2.
        hops: u32,
        /// Their round-trip times together, by the word of those on the way.
        rtt_ms: u32,
    },
    /// Nobody reachable is connected with it.
    Lost,
}

/// What the view of the realm says of this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// Fewer than half of the other approved nodes are reached.
    pub isolated: bool,
    /// The owners' beacon is overdue: somebody may be holding back what is new.
    pub stale: bool,
}

/// How each approved node is reached from `own`, which has the connections `links`.
pub fn reach(
    own: PublicKey,
    links: &BTreeMap<PublicKey, Link>,
    records: &Records,
    members: &Members,
) -> BTreeMap<PublicKey, Reached> {
    let mut reached: BTreeMap<PublicKey, Reached> = BTreeMap::new();
    let mut queue = VecDeque::new();
    for (key, link) in links {
        if members.contains_key(&(*key).into()) && *key != own {
            reached.insert(*key, Reached::Linked(link.clone()));
            queue.push_back((*key, *key, 1, link.rtt_ms));
        }
    }
    while let Some((node, first, hops, rtt_ms)) = queue.pop_front() {
        let Some(record) = records.get(node) else {
            continue;
        };
        for peer in &record.body.peers {
            let Some(key) = members.get(&peer.key).copied() else {
                continue;
            };
            let rtt_ms = rtt_ms.saturating_add(peer.rtt_ms);
            let hops = hops + 1;
            match reached.get_mut(&key) {
                // Of two ways that are equally long the quicker one is shown.
                Some(Reached::Through {
                    hops: known_hops,
                    rtt_ms: known_ms,
                    first: known_first,
                }) if *known_hops == hops && rtt_ms < *known_ms => {
                    (*known_ms, *known_first) = (rtt_ms, first);
                }
                Some(_) => {}
                None if key == own => {}
                None => {
                    let through = Reached::Through {
                        first,
                        hops,
                        rtt_ms,
                    };
                    reached.insert(key, through);
                    queue.push_back((key, first, hops, rtt_ms));
                }
            }
        }
    }
    for key in members.values() {
        reached.entry(*key).or_insert(Reached::Lost);
    }
    if members.contains_key(&own.into()) {
        reached.insert(own, Reached::Here);
    }
    reached
}

/// Nodes that nobody reachable is connected with.
pub fn lost(reached: &BTreeMap<PublicKey, Reached>) -> BTreeSet<KeyBytes> {
    let lost = reached.iter().filter(|(_, how)| **how == Reached::Lost);
    lost.map(|(key, _)| (*key).into()).collect()
}

/// What the view says of this node. `beacon_age_ms` is the time since the last entry of the
/// beacon's chain came, by this node's monotonic clock, and `beacon_every_ms` how often one is
/// promised; without a promise nothing is stale.
pub fn signals(
    reached: &BTreeMap<PublicKey, Reached>,
    beacon_age_ms: u64,
    beacon_every_ms: Option<u64>,
) -> Signals {
    let others = reached.values().filter(|how| **how != Reached::Here);
    let n_others = others.count();
    let n_lost = lost(reached).len();
    Signals {
        // Of two nodes that do not meet, none is the one that is cut off: the other is `lost`.
        isolated: n_others > 1 && (n_others - n_lost) * 2 < n_others,
        stale: beacon_every_ms
            .is_some_and(|every| beacon_age_ms > every.saturating_mul(BEACONS_MISSED)),
    }
}

/// Whether a view is complete enough to start or stop anything that does not run already.
///
/// `others` approved nodes there are besides this one, `rounds` anti-entropy rounds were completed
/// since the start, `up_ms` ago. A node whose state is durable may act alone after [`ALONE_MS`]
/// without a peer; one without any state of its own has nothing to act on.
pub const fn may_act(others: usize, rounds: u64, up_ms: u64, has_state: bool) -> bool {
    has_state && (others == 0 || rounds > 0 || up_ms >= ALONE_MS)
}
