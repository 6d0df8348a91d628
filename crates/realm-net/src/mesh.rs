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

impl Mesh {
    /// How soon a member is wanted: 0 first.
    pub(crate) fn place(&self, member: &PublicKey) -> usize {
        let place = self.order.iter().position(|key| key == member);
        place.unwrap_or(usize::MAX)
    }

    pub(crate) fn is_core(&self, member: &PublicKey) -> bool {
        self.place(member) < self.core
    }

    /// Whether this node dials the member where a few others are missing.
    pub(crate) fn is_near(&self, member: &PublicKey) -> bool {
        self.place(member) < 2 * self.target
    }
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

/// What is known of a member when it is decided whom to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is connected.
    Up,
    /// It can be dialled, or is being dialled.
    Open,
    /// It has no address, or did not answer and is to be left alone for a while.
    Shut,
}

/// Whom to dial, given who is connected: the core, and then as many as are missing. A node that is
/// `patient` leaves it at the core, since others dial it as well.
pub(crate) fn missing(
    mesh: &Mesh,
    patient: bool,
    way: impl Fn(&PublicKey) -> Way,
) -> Vec<PublicKey> {
    let up = mesh.order.iter().filter(|key| way(key) == Way::Up).count();
    // What the core lacks is dialled elsewhere too, since it may stay away for long. A node that
    // has just joined knows the address of one member, wherever that stands in the order: who
    // cannot be dialled must not take the turn of who can.
    let more = match patient && up > 0 {
        true => 0,
        false => mesh.target.saturating_sub(up),
    };
    let (core, rest) = mesh.order.split_at(mesh.core.min(mesh.order.len()));
    let core = core.iter().filter(|key| way(key) != Way::Up);
    let rest = rest.iter().filter(|key| way(key) == Way::Open).take(more);
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
    fn a_large_realm_is_one_piece_with_short_ways_and_about_eight_connections() {
        let members = keys(400);
        let mut graph: BTreeMap<PublicKey, BTreeSet<PublicKey>> = BTreeMap::new();
        for me in &members {
            let mesh = mesh(me, &members, &Limits::default());
            assert_eq!((mesh.core, mesh.target), (4, 8));
            for other in mesh.order.iter().take(mesh.core) {
                graph.entry(*me).or_default().insert(*other);
                graph.entry(*other).or_default().insert(*me);
            }
        }
        let most = graph.values().map(BTreeSet::len).max().unwrap();
        let mean = graph.values().map(BTreeSet::len).sum::<usize>() as f64 / 400.0;
        assert!((7.0..=8.0).contains(&mean), "{mean}");
        assert!(most <= 24, "{most}");
        assert!(farthest(&graph).unwrap() <= 4);
    }

    /// The mesh of the first of 100 members; those up and those that can be dialled by their
    /// places in the order (from, to); and the places that are to be dialled.
    fn check(
        patient: bool,
        up: &[(usize, usize)],
        open: &[(usize, usize)],
        expected: &[(usize, usize)],
    ) {
        let members = keys(100);
        let me = *members.first().unwrap();
        let mesh = mesh(&me, &members, &Limits::default());
        let place = |key: &PublicKey| mesh.order.iter().position(|one| one == key).unwrap();
        let among = |ranges: &[(usize, usize)], key: &PublicKey| {
            ranges
                .iter()
                .any(|(from, to)| (*from..*to).contains(&place(key)))
        };
        let way = |key: &PublicKey| match (among(up, key), among(open, key)) {
            (true, _) => Way::Up,
            (false, true) => Way::Open,
            (false, false) => Way::Shut,
        };
        let got: Vec<usize> = missing(&mesh, patient, way).iter().map(place).collect();
        let expected: Vec<usize> = expected.iter().flat_map(|(from, to)| *from..*to).collect();
        assert_eq!(got, expected, "up {up:?}, open {open:?}");
    }

    const ALL: (usize, usize) = (0, 99);

    #[test]
    fn who_does_not_answer_is_replaced_and_still_tried() {
        // Nobody is up: the core is dialled, and eight more.
        check(false, &[], &[ALL], &[(0, 12)]);
        // Eight others are up: only the core is still tried.
        check(false, &[(4, 12)], &[ALL], &[(0, 4)]);
        // All of the core and four more: nothing is missing.
        check(false, &[(0, 8)], &[ALL], &[]);
    }

    #[test]
    fn who_cannot_be_dialled_does_not_take_the_turn_of_who_can() {
        // One address is known, as after joining.
        check(false, &[], &[(77, 78)], &[(0, 4), (77, 78)]);
        // Of the first fifty none answers.
        check(false, &[], &[(50, 99)], &[(0, 4), (50, 58)]);
    }

    #[test]
    fn with_patience_the_rest_is_dialled_only_where_nobody_is_up() {
        check(true, &[(0, 3)], &[ALL], &[(3, 4)]);
        check(true, &[], &[ALL], &[(0, 12)]);
    }
}
