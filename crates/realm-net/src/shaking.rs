//! Handshakes under way with whoever connects, counted by where they come from before anybody is known.
//!
//! A connection that stays silent holds its place for as long as a handshake may take, so no source
//! gets all the places. TCP and QUIC are counted apart: who connects over QUIC may write any address
//! as its own. Not here: how often a source may begin one (`door`).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;

use crate::Limits;
use crate::book::ip_of;

/// Sources that are remembered as those of members and clients: twice the members that a node holds.
const KNOWN_MAX: usize = 1_024;

/// Part of an address by which strangers are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4([u8; 4]),
    /// The first 64 bits: a single customer has that many addresses.
    V6([u8; 8]),
    Other,
}

impl Source {
    pub(crate) fn of(address: &Multiaddr) -> Self {
        let ip = address
            .iter()
            .find_map(|part| ip_of(&part))
            .map(|ip| ip.to_canonical());
        match ip {
            Some(IpAddr::V4(ip)) => Self::V4(ip.octets()),
            Some(IpAddr::V6(ip)) => {
                let octets = ip.octets();
                Self::V6(std::array::from_fn(|index| octets[index]))
            }
            None => Self::Other,
        }
    }
}

/// How a connection comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tcp,
    Quic,
    /// Through a member that relays: it counts what it passes on.
    Relayed,
}

impl Way {
    fn of(local: &Multiaddr, remote: &Multiaddr) -> Self {
        let has = |address: &Multiaddr, wanted: &Protocol<'_>| {
            address.iter().any(|part| part.tag() == wanted.tag())
        };
        if has(local, &Protocol::P2pCircuit) || has(remote, &Protocol::P2pCircuit) {
            Self::Relayed
        } else if has(local, &Protocol::QuicV1) || has(remote, &Protocol::QuicV1) {
            Self::Quic
        } else {
            Self::Tcp
        }
    }
}

/// The handshakes under way, and the sources that have a right to more of them.
pub(crate) struct Shaking {
    all_max: usize,
    per_source_max: usize,
    per_known_source_max: usize,
    under_way: HashMap<ConnectionId, (Way, Source)>,
    /// Where members and clients were, the newest last.
    known: VecDeque<Source>,
}

impl Shaking {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all_max: limits.pending_incoming_max,
            per_source_max: limits.pending_per_source_max,
            per_known_source_max: limits.pending_per_known_source_max,
            under_way: HashMap::new(),
            known: VecDeque::new(),
        }
    }

    /// Whether one more may begin; if so it counts until [`Shaking::end`].
    pub(crate) fn begin(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> bool {
        let (way, source) = (Way::of(local, remote), Source::of(remote));
        let is_known = way == Way::Relayed || self.known.contains(&source);
        // The last quarter is for those who were let in before.
        let (all_max, same_max) = match (way, is_known) {
            (Way::Relayed, _) => (self.all_max, self.all_max),
            (Way::Tcp | Way::Quic, true) => (self.all_max, self.per_known_source_max),
            (Way::Tcp | Way::Quic, false) => (self.all_max - self.all_max / 4, self.per_source_max),
        };
        let same_way = self.under_way.values().filter(|(other, _)| *other == way);
        let (mut all, mut same) = (0, 0);
        for (_, other) in same_way {
            all += 1;
            same += usize::from(*other == source);
        }
        let has_room = all < all_max && same < same_max;
        if has_room {
            self.under_way.insert(id, (way, source));
        }
        has_room
    }

    /// It is done, one way or the other.
    pub(crate) fn end(&mut self, id: ConnectionId) {
        self.under_way.remove(&id);
    }

    /// A member or a client is there.
    pub(crate) fn knows(&mut self, remote: &Multiaddr) {
        let source = Source::of(remote);
        if source == Source::Other {
            return;
        }
        self.known.retain(|known| *known != source);
        if self.known.len() == KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "/ip4/192.0.2.1/tcp/4747";
    const QUIC: &str = "/ip4/192.0.2.1/udp/4747/quic-v1";

    struct Attack {
        shaking: Shaking,
        next: usize,
    }

    impl Attack {
        fn new() -> Self {
            let limits = Limits {
                pending_incoming_max: 40,
                pending_per_source_max: 4,
                pending_per_known_source_max: 16,
                ..Limits::default()
            };
            Self {
                shaking: Shaking::new(&limits),
                next: 0,
            }
        }

        /// How many of `n` silent connections from one address get in.
        fn check(&mut self, local: &str, remote: &str, n: usize, expected: usize) {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            let mut begun = 0;
            for _ in 0..n {
                self.next += 1;
                let id = ConnectionId::new_unchecked(self.next);
                begun += usize::from(self.shaking.begin(id, &local, &remote));
            }
            assert_eq!(begun, expected, "{remote} at {local}");
        }
    }

    #[test]
    fn one_source_does_not_take_the_places_of_others() {
        let mut attack = Attack::new();
        attack.check(TCP, "/ip4/198.51.100.1/tcp/1000", 1_000, 4);
        attack.check(TCP, "/ip4/198.51.100.2/tcp/1000", 1, 1);
        // Over QUIC addresses are not proven: what is taken there says nothing about TCP.
        attack.check(QUIC, "/ip4/198.51.100.1/udp/1000/quic-v1", 1_000, 4);
        // One customer has all the addresses of a /64.
        attack.check(TCP, "/ip6/2001:db8:1:2::1/tcp/1000", 3, 3);
        attack.check(TCP, "/ip6/2001:db8:1:2:f::9/tcp/1000", 1_000, 1);
        attack.check(TCP, "/ip6/2001:db8:1:3::1/tcp/1000", 1, 1);
        // What ends makes room.
        attack.shaking.end(ConnectionId::new_unchecked(1));
        attack.check(TCP, "/ip4/198.51.100.1/tcp/1001", 1_000, 1);
    }

    #[test]
    fn many_sources_leave_room_for_those_who_were_let_in_before() {
        let mut attack = Attack::new();
        attack
            .shaking
            .knows(&"/ip4/203.0.113.9/tcp/4747".parse().unwrap());
        for last in 0..100 {
            let remote = format!("/ip4/198.51.100.{last}/tcp/1000");
            attack.check(
                TCP,
                &remote,
                4,
                if last < 7 {
                    4
                } else if last == 7 {
                    2
                } else {
                    0
                },
            );
        }
        attack.check(TCP, "/ip4/203.0.113.9/tcp/999", 1_000, 10);
        // What a member relays is not from an address.
        attack.check(
            "/ip4/192.0.2.7/tcp/1/p2p-circuit",
            "/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X",
            5,
            5,
        );
    }

    #[test]
    fn the_sources_that_are_known_are_bounded() {
        let mut attack = Attack::new();
        for index in 0..2 * KNOWN_MAX {
            let remote = format!("/ip4/10.0.{}.{}/tcp/1", index / 256, index % 256);
            attack.shaking.knows(&remote.parse().unwrap());
        }
        assert_eq!(attack.shaking.known.len(), KNOWN_MAX);
        attack.check(TCP, "/ip4/10.0.7.255/tcp/1", 1_000, 16);
        attack.check(TCP, "/ip4/10.0.0.1/tcp/1", 1_000, 4);
    }
}
