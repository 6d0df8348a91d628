//! Makes connections and tends those that stand: dials what is missing, closes what is dead, stale,
//! needless or too old, and keeps reservations at relays.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use libp2p::Multiaddr;
use libp2p::TransportError;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use realm_model::key::PublicKey;

use crate::book::{self, Kind};
use crate::class::Class;
use crate::commands::refuse;
use crate::event::{DownReason, Event, How, count};
use crate::live::{Conn, Peer};
use crate::mesh::Way;
use crate::swarm::{Dial, Net};
use crate::{Error, identity, mesh};

/// A listener that failed is tried again that often.
const LISTEN_AGAIN_MS: u64 = 1_000;
/// How often a member on a worse way than need be is dialled on a better one.
const IMPROVE_MS: u64 = 60_000;
/// A member without an address is looked up that often.
const LOOK_UP_MS: u64 = 30_000;
/// Between two look-ups, of whomever.
const LOOK_UPS_APART_MS: u64 = 2_000;
/// After another mesh was drawn or another member came, the others have that long to dial this node
/// before it looks for more: in a realm that wakes up everybody would dial three times as many as it
/// keeps, and a hundred nodes that share two cores would make handshakes and nothing else.
const PATIENCE_MS: u64 = 5_000;
/// Attempts that begin in one tick: a handshake takes each side some milliseconds of a core.
const ATTEMPTS_PER_TICK: usize = 4;
/// Connected that long, and no subscription seen: the streams are stale (rust-libp2p #5097). Doubled
/// with each cut, since a peer to whom we are a stranger does not subscribe either.
const DEAF_MS: u64 = 6_000;
const DEAF_DOUBLINGS_MAX: u32 = 4;
/// Peers cut off in one tick: in a storm, more would make it worse.
const CUTS_PER_TICK: usize = 1;
/// A connection to a member outside the mesh ends when unused that long, where there are enough others:
/// the next stream to it goes without a handshake meanwhile.
const UNUSED_MS: u64 = 60_000;
/// The same of one that nobody opened a stream on, to a member that the mesh would hardly have dialled: it
/// was made for a question, which comes again after half a minute, to somebody else.
const ASKED_MS: u64 = 10_000;
/// Relays at which a node behind a NAT can be found: one may fail.
const RESERVATIONS: usize = 2;
/// Longest reason in a view.
const REASON_CHARS_MAX: usize = 200;

impl Net<'_> {
    /// Listens again where a listener is missing.
    pub(crate) fn listen(&mut self, now_ms: u64) {
        if now_ms < self.parts.next_listen_ms {
            return;
        }
        self.parts.next_listen_ms = now_ms + LISTEN_AGAIN_MS;
        for (index, address) in self.kept.listen.clone().into_iter().enumerate() {
            if self
                .parts
                .listeners
                .values()
                .any(|listened| *listened == index)
            {
                continue;
            }
            if let Err(reason) = self.listen_on(index, address.clone()) {
                self.kept.tell(Event::ListenFailed {
                    address: address.to_string(),
                    reason,
                });
            }
        }
        self.reserve();
    }

    /// Behind a NAT: keeps reservations at members that relay.
    fn reserve(&mut self) {
        if !self.parts.behind_nat || self.parts.circuits.len() >= RESERVATIONS {
            return;
        }
        let at: Vec<PublicKey> = self.parts.circuits.values().copied().collect();
        let missing = RESERVATIONS - at.len();
        let candidates: Vec<(PublicKey, Multiaddr)> = self
            .parts
            .relays
            .iter()
            .filter(|key| !at.contains(key))
            .filter_map(|key| {
                let conn = self.parts.live.best(key)?;
                (conn.kind() != Kind::Relay && conn.dialled).then(|| (*key, conn.address.clone()))
            })
            .take(missing)
            .collect();
        for (relay, address) in candidates {
            let circuit = address
                .with(Part::P2p(identity::peer_id(&relay)))
                .with(Part::P2pCircuit);
            if let Ok(listener) = self.parts.swarm.listen_on(circuit) {
                self.parts.circuits.insert(listener, relay);
            }
        }
    }

    /// Closes what should not stand.
    pub(crate) fn tend(&mut self, now_ms: u64) {
        for (peer, id) in self.parts.live.silent(now_ms) {
            count(&self.kept.counters.peers_lost);
            self.close(&peer, id, DownReason::NoAnswer);
        }
        for (peer, id) in self.parts.live.suspect(now_ms) {
            self.close(&peer, id, DownReason::Stale);
            self.kept.book.again(&peer, now_ms, 0);
        }
        let stranger_ms = u64::try_from(self.kept.config.limits.stranger_time_max.as_millis());
        let stranger_ms = stranger_ms.unwrap_or(u64::MAX);
        let old = self.parts.live.each(|_, conn| {
            conn.class == Class::Stranger
                && !conn.dialled
                && now_ms.saturating_sub(conn.since_ms) > stranger_ms
        });
        let unused = self.surplus(now_ms);
        let needless = self.parts.live.needless(&self.kept.me, now_ms);
        for (peer, id) in old.into_iter().chain(unused).chain(needless) {
            self.close(&peer, id, DownReason::Closed);
        }
        self.cut_deaf(now_ms);
    }

    /// Connections that this node made, that nobody uses, and without which enough to members remain: those
    /// that the mesh wants least.
    fn surplus(&self, now_ms: u64) -> Vec<(PublicKey, ConnectionId)> {
        let (mesh, live) = (&self.kept.mesh, &self.parts.live);
        let is_member = |conn: &Conn| conn.class == Class::Member;
        let members = live.peers.values().filter_map(Peer::best);
        let surplus = members.filter(|conn| is_member(conn)).count();
        let surplus = surplus.saturating_sub(mesh.target);
        if surplus == 0 {
            return Vec::new();
        }
        // What goes through a relay ends with the connection to it, and so does the place there.
        let vias = live.peers.values().flat_map(|peer| &peer.conns);
        let vias = vias.filter_map(|conn| match conn.how {
            How::Relay { via } => via,
            How::Quic | How::Tcp => None,
        });
        let relays: BTreeSet<PublicKey> =
            vias.chain(self.parts.circuits.values().copied()).collect();
        let patience_ms = |key: &PublicKey, conn: &Conn| match conn.had_streams || mesh.is_near(key)
        {
            true => UNUSED_MS,
            false => ASKED_MS,
        };
        let mut unused = live.each(|key, conn| {
            is_member(conn)
                && conn.dialled
                && !conn.is_in_use()
                && !relays.contains(key)
                && !mesh.is_core(key)
                && now_ms.saturating_sub(conn.used_ms) > patience_ms(key, conn)
        });
        unused.sort_by_key(|(key, _)| Reverse(mesh.place(key)));
        unused.truncate(surplus);
        unused
    }

    /// Asks gossip who has subscribed; it knows best, over connections that come and go.
    pub(crate) fn subscribed(&mut self) {
        let Some(hints) = self.parts.swarm.behaviour_mut().hints.inner() else {
            return;
        };
        let peers = hints.all_peers().filter(|(_, topics)| !topics.is_empty());
        let peers: BTreeSet<_> = peers
            .filter_map(|(peer, _)| identity::key_of(peer))
            .collect();
        for (key, peer) in &mut self.parts.live.peers {
            let subscribed = peers.contains(key);
            if subscribed {
                self.parts.cuts.remove(key);
            }
            self.parts.changed |= subscribed != peer.subscribed;
            peer.subscribed = subscribed;
        }
    }

    fn cut_deaf(&mut self, now_ms: u64) {
        if self.parts.swarm.behaviour_mut().hints.inner().is_none() {
            return;
        }
        self.subscribed();
        let is_deaf = |key: &PublicKey, peer: &Peer| {
            let cuts = self.parts.cuts.get(key).copied().unwrap_or(0);
            let patience_ms = DEAF_MS << cuts.min(DEAF_DOUBLINGS_MAX);
            let (Some(best), Some(since_ms)) = (peer.best(), peer.since_ms()) else {
                return false;
            };
            // It answered pings all that time: it is there and not overloaded, it has not subscribed.
            best.class == Class::Member
                && !peer.subscribed
                && now_ms.saturating_sub(since_ms) > patience_ms
                && (!best.pings || best.sign_ms.saturating_sub(since_ms) > patience_ms / 2)
        };
        let peers = self
            .parts
            .live
            .peers
            .iter()
            .filter(|(key, peer)| is_deaf(key, peer));
        let deaf: Vec<PublicKey> = peers.map(|(key, _)| *key).take(CUTS_PER_TICK).collect();
        for peer in deaf {
            count(&self.kept.counters.cuts);
            *self.parts.cuts.entry(peer).or_default() += 1;
            self.close_peer(&peer, DownReason::Stale);
            self.kept.book.again(&peer, now_ms, 1_000);
        }
    }

    /// Dials the members that are missing, and goes on with attempts under way.
    pub(crate) fn dial_missing(&mut self, now_ms: u64) {
        let live = &self.parts.live;
        let way = |key: &PublicKey| {
            let up = live.best(key).map(|conn| conn.class) == Some(Class::Member);
            match up {
                true => Way::Up,
                false if self.kept.book.is_open(key, now_ms) => Way::Open,
                false => Way::Shut,
            }
        };
        let patient = now_ms.saturating_sub(self.kept.mesh_grew_ms) < PATIENCE_MS;
        let missing = mesh::missing(&self.kept.mesh, patient, way);
        let mut begun = missing.iter();
        for _ in 0..ATTEMPTS_PER_TICK {
            if !begun.any(|peer| self.kept.book.begin(peer, now_ms, false)) {
                break;
            }
        }
        self.improve(now_ms);
        for peer in self.kept.book.attempts() {
            self.advance(&peer, now_ms);
        }
        // Without a member to ask, a look-up would end with nothing, and wait for its next turn. With
        // one, its records bring most addresses at once, and each look-up dials many members.
        let asks = self.parts.live.peers.values().any(|peer| peer.subscribed);
        let due = !patient && now_ms >= self.parts.next_look_up_ms;
        if asks
            && due
            && let Some(peer) = self.kept.book.next_look_up(&missing, now_ms, LOOK_UP_MS)
        {
            self.parts.next_look_up_ms = now_ms + LOOK_UPS_APART_MS;
            let id = identity::peer_id(&peer);
            self.parts.swarm.behaviour_mut().door.look_out();
            if let Some(kad) = self.parts.swarm.behaviour_mut().kad.inner() {
                kad.get_closest_peers(id);
            }
        }
    }

    /// Tries better ways to members of the mesh that are reached by a worse one.
    fn improve(&mut self, now_ms: u64) {
        if now_ms < self.parts.next_improve_ms {
            return;
        }
        self.parts.next_improve_ms = now_ms + IMPROVE_MS;
        let better = self.parts.live.peers.iter().filter_map(|(key, peer)| {
            let best = peer.best()?;
            let known = self.kept.book.best(key)?;
            // The lower key tries, unless only the other side has addresses: both are asked to.
            (best.class == Class::Member && known < best.kind()).then_some(*key)
        });
        for peer in better.collect::<Vec<_>>() {
            self.kept.book.begin(&peer, now_ms, true);
        }
    }

    /// Goes on with the attempt to reach a peer, if there is one.
    pub(crate) fn advance(&mut self, peer: &PublicKey, now_ms: u64) {
        let better_than = self.parts.live.best(peer).map(Conn::kind);
        while let Some(addresses) = self.kept.book.step(peer, now_ms, better_than) {
            let kind = addresses.first().and_then(book::kind).unwrap_or(Kind::Tcp);
            let options = DialOpts::peer_id(identity::peer_id(peer))
                .addresses(addresses)
                .condition(PeerCondition::Always)
                .build();
            let id = options.connection_id();
            let door = &mut self.parts.swarm.behaviour_mut().door;
            door.let_out(id);
            if kind == Kind::Relay {
                door.look_out();
            }
            match self.parts.swarm.dial(options) {
                Ok(()) => {
                    self.parts.dials.insert(id, Dial::Book(*peer, kind));
                }
                Err(error) => self.kept.book.failed(peer, Some(kind), told(&error)),
            }
        }
        if better_than.is_none() && !self.kept.book.is_trying(peer) {
            self.give_up(peer);
        }
    }

    /// What waits for a peer that cannot be reached is told so.
    fn give_up(&mut self, peer: &PublicKey) {
        for (_, work) in self.parts.waiting.remove(peer).unwrap_or_default() {
            let why = self.kept.book.trouble(peer, None).unwrap_or_default();
            refuse(work, Error::Unreachable(why));
        }
    }

    /// What has waited for too long is told so.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.parts.waiting.retain(|peer, works| {
            for (_, work) in works.extract_if(.., |(until_ms, _)| *until_ms <= now_ms) {
                let why = self.kept.book.trouble(peer, None);
                refuse(work, why.map_or(Error::Timeout, Error::Unreachable));
            }
            !works.is_empty()
        });
    }

    pub(crate) fn dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        count(&self.kept.counters.dials_failed);
        match self.parts.dials.remove(&id) {
            Some(Dial::Asked(reply)) => {
                let _ = reply.send(Err(Error::Unreachable(told(error))));
            }
            Some(Dial::Book(peer, kind)) => {
                self.kept.book.failed(&peer, Some(kind), told(error));
                let now_ms = self.kept.now_ms();
                self.advance(&peer, now_ms);
            }
            None => {}
        }
    }

    /// Closes one connection. It is gone for us at once: a dead one takes time to be closed.
    pub(crate) fn close(&mut self, peer: &PublicKey, id: ConnectionId, reason: DownReason) {
        self.parts.swarm.close_connection(id);
        self.forget(peer, id, reason);
    }

    pub(crate) fn close_peer(&mut self, peer: &PublicKey, reason: DownReason) {
        let Some(known) = self.parts.live.peers.get(peer) else {
            return;
        };
        let ids: Vec<_> = known.conns.iter().map(|conn| conn.id).collect();
        for id in ids {
            self.close(peer, id, reason.clone());
        }
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, peer: &PublicKey, id: ConnectionId, reason: DownReason) {
        let Some((_, gone)) = self.parts.live.remove(peer, id) else {
            return;
        };
        self.parts.changed = true;
        match gone {
            Some(gone) => {
                let now_ms = self.kept.now_ms();
                // A peer that never subscribed does not know us: it is not asked twice a second.
                let wait_ms = if gone.subscribed { 250 } else { 5_000 };
                self.kept.book.again(peer, now_ms, wait_ms);
                self.kept.tell_down(*peer, reason);
            }
            None => self.tell_way(peer),
        }
    }

    /// Tells the agent the best way to a peer, when it is another than it was told.
    pub(crate) fn tell_way(&mut self, key: &PublicKey) {
        let Some(peer) = self.parts.live.peers.get_mut(key) else {
            return;
        };
        let Some(best) = peer.best() else {
            return;
        };
        let (class, how, address) = (best.class, best.how, best.address.clone());
        if peer.told.as_ref() == Some(&(how, address.clone())) {
            return;
        }
        peer.told = Some((how, address.clone()));
        self.kept.tell_up(Event::Up {
            peer: *key,
            class,
            how,
            address: address.to_string(),
        });
    }
}

/// The reasons of a failed dial on one line.
pub(crate) fn told(error: &DialError) -> String {
    let text = match error {
        DialError::Transport(all) => {
            let each = all.iter().map(|(_, error)| match error {
                TransportError::Other(error) => innermost(error),
                TransportError::MultiaddrNotSupported(_) => {
                    "not an address that can be dialled".to_owned()
                }
            });
            let mut reasons: Vec<String> = each.collect();
            reasons.dedup();
            reasons.join(", ")
        }
        DialError::WrongPeerId { .. } => "another key answers there".to_owned(),
        DialError::Denied { cause } => cause.downcast_ref::<crate::door::Denied>().map_or_else(
            || "too many connections, or too little memory".to_owned(),
            ToString::to_string,
        ),
        DialError::NoAddresses => "no address".to_owned(),
        DialError::LocalPeerId { .. } => "that is this node itself".to_owned(),
        DialError::DialPeerConditionFalse(_) | DialError::Aborted => "given up".to_owned(),
    };
    text.chars().take(REASON_CHARS_MAX).collect()
}

/// The last of a chain of causes says most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Whether a way is direct.
pub(crate) fn is_direct(how: How) -> bool {
    match how {
        How::Quic | How::Tcp => true,
        How::Relay { .. } => false,
    }
}
