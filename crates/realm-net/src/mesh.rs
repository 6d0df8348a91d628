//! Which members a node keeps a connection to: everybody in a small realm, a few in a large one.
//!
//! Pure. Neighbours on a ring keep the graph in one piece, whatever nodes are missing; those picked by
//! a hash of both keys make the ways short. Each node dials its half, and is dialled by as many.

use std::collections::BTreeSet;

use realm_model::key::PublicKey;
use sha2::{Digest as _, Sha256};

use crate::Limits;

/// Members in the order in which a node wants to be connected to them, and how many of the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mesh {
    pub(crate) order: Vec<PublicKey>,
    /// Always dialled, reachable or not.
    pub(crate) core: usize,
    /// Connections to hold up in all: those beyond the core replace what cannot be reached.
    pub(crate) target: usize,
}

fn hash(parts: [&PublicKey; 2]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"realm.mesh.v1");
    for part in parts {
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

/// The mesh of `me` among `members` (which may contain `me`).
pub(crate) fn mesh(me: &PublicKey, members: &BTreeSet<PublicKey>, limits: &Limits) -> Mesh {
    let others: Vec<PublicKey> = members.iter().filter(|key| *key != me).copied().collect();
    if others.len() < limits.full_mesh_max {
        let all = others.len();
        return Mesh {
            order: others,
            core: all,
            target: all,
        };
    }
    let target = limits.neighbours.min(others.len());
    let own = target.div_ceil(2);
    // Half of what a node dials follows it on the ring, half is picked by both keys.
    let after = own.div_ceil(2);
    let here = hash([me, me]);
    let mut ring: Vec<_> = others.iter().map(|key| (hash([key, key]), *key)).collect();
    ring.sort_unstable();
    let start = ring.partition_point(|(place, _)| *place <= here);
    let mut order: Vec<PublicKey> = (0..after)
        .map(|step| ring[(start + step) % ring.len()].1)
        .collect();
    let mut rest: Vec<_> = others
        .into_iter()
        .filter(|key| !order.contains(key))
        .map(|key| (hash([me, &key]), key))
        .collect();
    rest.sort_unstable();
    order.extend(rest.into_iter().map(|(_, key)| key));
    Mesh {
        order,
        core: own,
        target,
    }
}

/// Whom to dial, given who is connected: the core, and then as many as are missing.
pub(crate) fn missing(mesh: &Mesh, is_up: impl Fn(&PublicKey) -> bool) -> Vec<PublicKey> {
    let up = mesh.order.iter().filter(|key| is_up(key)).count();
    // What the core lacks is dialled elsewhere too, since it may stay away for long.
    let more = mesh.target.saturating_sub(up);
    let (core, rest) = mesh.order.split_at(mesh.core.min(mesh.order.len()));
    let core = core.iter().filter(|key| !is_up(key));
    let rest = rest.iter().filter(|key| !is_up(key)).take(more);
    core.chain(rest).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use realm_model::key::SecretKey;

    use super::*;

    fn keys(count: u16) -> BTreeSet<PublicKey> {
        (0..count)
            .map(|number| {
                let mut seed = [0; 32];
                seed[..2].copy_from_slice(&number.to_le_bytes());
                SecretKey::from_seed(&seed).public()
            })
            .collect()
    }

    fn farthest(graph: &BTreeMap<PublicKey, BTreeSet<PublicKey>>) -> Option<usize> {
        let first = graph.keys().next()?;
        let mut seen = BTreeMap::from([(*first, 0)]);
        let mut next = VecDeque::from([*first]);
        while let Some(key) = next.pop_front() {
            for other in &graph[&key] {
                if !seen.contains_key(other) {
                    seen.insert(*other, seen[&key] + 1);
                    next.push_back(*other);
                }
            }
        }
        (seen.len() == graph.len()).then(|| *seen.values().max().unwrap())
    }

    #[test]
    fn a_small_realm_is_a_full_mesh() {
        let members = keys(24);
        for me in &members {
            let mesh = mesh(me, &members, &Limits::default());
            assert_eq!((mesh.core, mesh.target, mesh.order.len()), (23, 23, 23));
        }
    }

    #[test]
    fn a_large_realm_is_one_piece_with_short_ways_and_about_sixteen_connections() {
        let members = keys(400);
        let mut graph: BTreeMap<PublicKey, BTreeSet<PublicKey>> = BTreeMap::new();
        for me in &members {
            let mesh = mesh(me, &members, &Limits::default());
            assert_eq!((mesh.core, mesh.target), (8, 16));
            for other in mesh.order.iter().take(mesh.core) {
                graph.entry(*me).or_default().insert(*other);
                graph.entry(*other).or_default().insert(*me);
            }
        }
        let most = graph.values().map(BTreeSet::len).max().unwrap();
        let mean = graph.values().map(BTreeSet::len).sum::<usize>() as f64 / 400.0;
        assert!((14.0..=16.0).contains(&mean), "{mean}");
        assert!(most <= 32, "{most}");
        assert!(farthest(&graph).unwrap() <= 4);
    }

    #[test]
    fn who_does_not_answer_is_replaced_and_still_tried() {
        let members = keys(100);
        let me = *members.first().unwrap();
        let mesh = mesh(&me, &members, &Limits::default());
        let core: Vec<_> = mesh.order[..8].to_vec();
        // Nobody is up: the core is dialled, and eight more to reach sixteen.
        let all = missing(&mesh, |_| false);
        assert_eq!(all[..8], core[..]);
        assert_eq!(all.len(), 24);
        // Sixteen others are up: only the core is still tried.
        let up: BTreeSet<_> = mesh.order[8..24].iter().copied().collect();
        assert_eq!(missing(&mesh, |key| up.contains(key)), core);
        // All of the core and eight more: nothing is missing.
        let up: BTreeSet<_> = mesh.order[..16].iter().copied().collect();
        assert_eq!(missing(&mesh, |key| up.contains(key)), []);
    }
}
