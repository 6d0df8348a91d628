//! The connections that stand: who, how, since when, and when it last gave a sign of life.
//!
//! Pure: time is an argument in milliseconds. libp2p's ping tells a failure only the second time, and
//! a dead QUIC connection stands for ten seconds: here a peer without a sign of life for six is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::ConnectionId;
use realm_model::key::PublicKey;

use crate::book::{Kind, bare};
use crate::class::Class;
use crate::event::How;
use crate::identity;
use crate::stream::InUse;

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
    pub(crate) in_use: InUse,
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
            in_use: Arc::new(()),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.how {
            How::Quic => Kind::Quic,
            How::Tcp => Kind::Tcp,
            How::Relay { .. } => Kind::Relay,
        }
    }

    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.in_use) > 1
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

    /// Peers with an older connection that showed no life since a newer one was made. All of their
    /// connections are closed: what was sent over the older one alone is lost (rust-libp2p #5097).
    pub(crate) fn suspect(&self, now_ms: u64) -> Vec<PublicKey> {
        let is_suspect = |peer: &Peer| {
            let Some(newest_ms) = peer.conns.iter().map(|conn| conn.since_ms).max() else {
                return false;
            };
            now_ms.saturating_sub(newest_ms) > SUSPECT_MS_MAX
                && peer
                    .conns
                    .iter()
                    .any(|conn| conn.pings && conn.since_ms < newest_ms && conn.sign_ms < newest_ms)
        };
        self.peers
            .iter()
            .filter(|(_, peer)| is_suspect(peer))
            .map(|(key, _)| *key)
            .collect()
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
