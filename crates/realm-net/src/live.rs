//! The connections that stand: who, how, since when, and when it last gave a sign of life.
//!
//! Pure: time is an argument in milliseconds. libp2p's ping tells a failure only the second time, and
//! a dead QUIC connection stands for ten seconds: here a peer without a sign of life for six is gone.

use std::collections::BTreeMap;

use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::ConnectionId;
use realm_model::key::PublicKey;

use crate::book::{Kind, bare};
use crate::class::Class;
use crate::event::How;
use crate::identity;
use crate::wire::{InUse, Wire};

/// A connection without a sign of life for that long is dead. Pings go every two seconds.
pub(crate) const SILENCE_MS_MAX: u64 = 6_000;
/// How soon an older connection must show life once a newer one of the same peer stands: a process
/// that came back on the same key leaves a dead one behind.
const SUSPECT_MS_MAX: u64 = 3_000;
/// Connections of one peer are left alone that long before the worse ones are closed: streams that
/// were just opened go on.
const TIDY_MS: u64 = 5_000;

pub(crate) struct Conn {
    pub(crate) id: ConnectionId,
    pub(crate) class: Class,
    pub(crate) how: How,
    pub(crate) address: Multiaddr,
    pub(crate) dialled: bool,
    pub(crate) since_ms: u64,
    pub(crate) sign_ms: u64,
    /// Whether the other side answers pings; one to whom we are a stranger does not.
    pub(crate) pings: bool,
    pub(crate) rtt_us: Option<u64>,
    /// Last request or stream.
    pub(crate) used_ms: u64,
    /// Whether either side opened a stream of its own, beside requests.
    pub(crate) had_streams: bool,
    /// Goes with the connection, and breaks its streams.
    pub(crate) wire: Wire,
}

impl Conn {
    pub(crate) fn new(
        id: ConnectionId,
        class: Class,
        endpoint: &ConnectedPoint,
        now_ms: u64,
    ) -> Self {
        let address = endpoint.get_remote_address().clone();
        let how = how(endpoint);
        Self {
            id,
            class,
            how,
            address: if matches!(how, How::Relay { .. }) {
                address
            } else {
                bare(address)
            },
            dialled: endpoint.is_dialer(),
            since_ms: now_ms,
            sign_ms: now_ms,
            pings: true,
            rtt_us: None,
            used_ms: now_ms,
            had_streams: false,
            wire: Wire::default(),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.how {
            How::Quic => Kind::Quic,
            How::Tcp => Kind::Tcp,
            How::Relay { .. } => Kind::Relay,
        }
    }

    /// Notes that it is of use at this moment, and until what is returned is dropped.
    pub(crate) fn hold(&mut self, now_ms: u64) -> InUse {
        self.used_ms = now_ms;
        self.wire.hold()
    }

    pub(crate) fn is_in_use(&self) -> bool {
        self.wire.is_in_use()
    }
}

fn how(endpoint: &ConnectedPoint) -> How {
    let (remote, local) = match endpoint {
        ConnectedPoint::Dialer { address, .. } => (address, None),
        ConnectedPoint::Listener {
            local_addr,
            send_back_addr,
        } => (send_back_addr, Some(local_addr)),
    };
    let circuit = [Some(remote), local]
        .into_iter()
        .flatten()
        .find(|address| endpoint_is_relayed(address));
    if let Some(address) = circuit {
        let via = address
            .iter()
            .take_while(|part| !matches!(part, Part::P2pCircuit))
            .find_map(|part| {
                if let Part::P2p(peer) = part {
                    identity::key_of(&peer)
                } else {
                    None
                }
            });
        return How::Relay { via };
    }
    let is_quic = remote.iter().any(|part| matches!(part, Part::QuicV1));
    if is_quic { How::Quic } else { How::Tcp }
}

fn endpoint_is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Part::P2pCircuit))
}

#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) conns: Vec<Conn>,
    /// Hints flow: the peer has subscribed.
    pub(crate) subscribed: bool,
    /// What was told to the agent.
    pub(crate) told: Option<(How, Multiaddr)>,
}

impl Peer {
    /// The best connection: by its kind, then the one that gave a sign last.
    pub(crate) fn best(&self) -> Option<&Conn> {
        self.conns
            .iter()
            .min_by_key(|conn| (conn.kind(), std::cmp::Reverse(conn.sign_ms)))
    }

    pub(crate) fn since_ms(&self) -> Option<u64> {
        self.conns.iter().map(|conn| conn.since_ms).min()
    }
}

#[derive(Default)]
pub(crate) struct Live {
    pub(crate) peers: BTreeMap<PublicKey, Peer>,
}

impl Live {
    pub(crate) fn best(&self, key: &PublicKey) -> Option<&Conn> {
        self.peers.get(key)?.best()
    }

    pub(crate) fn conn(&mut self, key: &PublicKey, id: ConnectionId) -> Option<&mut Conn> {
        self.peers
            .get_mut(key)?
            .conns
            .iter_mut()
            .find(|conn| conn.id == id)
    }

    pub(crate) fn add(&mut self, key: PublicKey, conn: Conn) {
        self.peers.entry(key).or_default().conns.push(conn);
    }

    /// Takes a connection out; the whole peer when it was its last.
    pub(crate) fn remove(
        &mut self,
        key: &PublicKey,
        id: ConnectionId,
    ) -> Option<(Conn, Option<Peer>)> {
        let peer = self.peers.get_mut(key)?;
        let index = peer.conns.iter().position(|conn| conn.id == id)?;
        let conn = peer.conns.remove(index);
        let gone = peer
            .conns
            .is_empty()
            .then(|| self.peers.remove(key))
            .flatten();
        Some((conn, gone))
    }

    /// The time during which this process itself stood still counts against nobody.
    pub(crate) fn forgive(&mut self, stood_ms: u64) {
        for conn in self.peers.values_mut().flat_map(|peer| &mut peer.conns) {
            conn.sign_ms += stood_ms;
        }
    }

    /// Connections without a sign of life.
    pub(crate) fn silent(&self, now_ms: u64) -> Vec<(PublicKey, ConnectionId)> {
        self.each(|_, conn| conn.pings && now_ms.saturating_sub(conn.sign_ms) > SILENCE_MS_MAX)
    }

    /// Older connections that showed no life since a newer one of the same peer was made. With that of
    /// a member all of its connections go: what gossip sent over the older one alone is lost
    /// (rust-libp2p #5097).
    pub(crate) fn suspect(&self, now_ms: u64) -> Vec<(PublicKey, ConnectionId)> {
        let mut suspect = Vec::new();
        for (key, peer) in &self.peers {
            let newest_ms = peer.conns.iter().map(|conn| conn.since_ms).max();
            let newest_ms = newest_ms.unwrap_or(now_ms);
            if now_ms.saturating_sub(newest_ms) <= SUSPECT_MS_MAX {
                continue;
            }
            let is_dead =
                |conn: &&Conn| conn.pings && conn.since_ms < newest_ms && conn.sign_ms < newest_ms;
            let gossips = |conn: &Conn| conn.class == Class::Member;
            let with_all = peer.conns.iter().filter(is_dead).any(gossips);
            let conns = peer.conns.iter().filter(|conn| with_all || is_dead(conn));
            suspect.extend(conns.map(|conn| (*key, conn.id)));
        }
        suspect
    }

    /// Connections that a better one of the same peer makes needless. One of the two sides decides,
    /// by the order of the keys, so that they do not close one each.
    pub(crate) fn needless(&self, me: &PublicKey, now_ms: u64) -> Vec<(PublicKey, ConnectionId)> {
        let mut needless = Vec::new();
        for (key, peer) in self
            .peers
            .iter()
            .filter(|(key, peer)| me < *key && peer.conns.len() > 1)
        {
            let settled = |conn: &&Conn| now_ms.saturating_sub(conn.since_ms) > TIDY_MS;
            if !peer.conns.iter().all(|conn| settled(&conn)) {
                continue;
            }
            let keep = peer
                .conns
                .iter()
                .min_by_key(|conn| (conn.kind(), !conn.dialled, conn.since_ms));
            let keep = keep.map(|conn| conn.id);
            let idle = peer
                .conns
                .iter()
                .filter(|conn| Some(conn.id) != keep && !conn.is_in_use());
            needless.extend(idle.map(|conn| (*key, conn.id)));
        }
        needless
    }

    pub(crate) fn each(
        &self,
        matches: impl Fn(&PublicKey, &Conn) -> bool,
    ) -> Vec<(PublicKey, ConnectionId)> {
        let all = self
            .peers
            .iter()
            .flat_map(|(key, peer)| peer.conns.iter().map(move |conn| (key, conn)));
        all.filter(|(key, conn)| matches(key, conn))
            .map(|(key, conn)| (*key, conn.id))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use realm_model::key::SecretKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed(&[seed; 32]).public()
    }

    fn conn(id: usize, address: &str, since_ms: u64, sign_ms: u64) -> Conn {
        let endpoint = ConnectedPoint::Listener {
            local_addr: "/ip4/192.0.2.9/tcp/1".parse().unwrap(),
            send_back_addr: address.parse().unwrap(),
        };
        let id = ConnectionId::new_unchecked(id);
        Conn {
            sign_ms,
            ..Conn::new(id, Class::Member, &endpoint, since_ms)
        }
    }

    const QUIC: &str = "/ip4/192.0.2.1/udp/1/quic-v1";
    const TCP: &str = "/ip4/192.0.2.1/tcp/1";

    fn live(conns: Vec<Conn>) -> Live {
        let mut live = Live::default();
        conns.into_iter().for_each(|conn| live.add(key(2), conn));
        live
    }

    #[test]
    fn silence_has_a_limit_unless_this_process_stood_still() {
        let mut live = live(vec![conn(1, QUIC, 0, 1_000)]);
        assert_eq!(live.silent(1_000 + SILENCE_MS_MAX), []);
        assert_eq!(live.silent(1_001 + SILENCE_MS_MAX).len(), 1);
        live.forgive(30_000);
        assert_eq!(live.silent(31_000), []);
    }

    #[test]
    fn an_older_connection_that_shows_no_life_beside_a_newer_is_suspect() {
        let check = |class: Class, older_sign_ms: u64, now_ms: u64, expected: &[usize]| {
            let mut conns = vec![conn(1, QUIC, 0, older_sign_ms), conn(2, QUIC, 5_000, 5_100)];
            conns.iter_mut().for_each(|conn| conn.class = class);
            let suspect = live(conns).suspect(now_ms).into_iter().map(|(_, id)| id);
            let expected = expected.iter().map(|id| ConnectionId::new_unchecked(*id));
            assert_eq!(
                suspect.collect::<Vec<_>>(),
                expected.collect::<Vec<_>>(),
                "{class:?} {older_sign_ms} {now_ms}"
            );
        };
        for class in [Class::Member, Class::Client] {
            check(class, 4_000, 5_000 + SUSPECT_MS_MAX, &[]);
            check(class, 5_001, 60_000, &[]);
        }
        check(Class::Member, 4_000, 5_001 + SUSPECT_MS_MAX, &[1, 2]);
        // A person's next call goes on.
        check(Class::Client, 4_000, 5_001 + SUSPECT_MS_MAX, &[1]);
    }

    #[test]
    fn one_side_closes_the_worse_of_two_connections_when_nobody_uses_it() {
        let two = || vec![conn(1, TCP, 0, 0), conn(2, QUIC, 0, 0)];
        let (low, high) = (key(1).min(key(2)), key(1).max(key(2)));
        let mut live = Live::default();
        two().into_iter().for_each(|conn| live.add(high, conn));
        assert_eq!(live.needless(&low, TIDY_MS), []);
        assert_eq!(
            live.needless(&low, TIDY_MS + 1),
            [(high, ConnectionId::new_unchecked(1))]
        );
        let stream = live.peers[&high].conns[0].wire.hold();
        assert_eq!(live.needless(&low, TIDY_MS + 1), []);
        drop(stream);
        let mut live = Live::default();
        two().into_iter().for_each(|conn| live.add(low, conn));
        assert_eq!(live.needless(&high, TIDY_MS + 1), []);
    }

    #[test]
    fn the_way_is_read_off_the_addresses() {
        let relay = identity::peer_id(&key(7));
        let (local, remote) = (
            format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit"),
            format!("/p2p/{}", identity::peer_id(&key(2))),
        );
        let endpoint = ConnectedPoint::Listener {
            local_addr: local.parse().unwrap(),
            send_back_addr: remote.parse().unwrap(),
        };
        assert_eq!(how(&endpoint), How::Relay { via: Some(key(7)) });
        assert_eq!(conn(1, QUIC, 0, 0).how, How::Quic);
        assert_eq!(conn(1, TCP, 0, 0).how, How::Tcp);
    }
}
