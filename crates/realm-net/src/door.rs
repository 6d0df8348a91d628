//! Which connections are made at all: who may be dialled, and how many of each class may stand.
//!
//! The first behaviour to be asked. Counts by direction and per peer are libp2p's own
//! (`connection_limits`); here are those that depend on who the peer is.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::Limits;
use crate::behaviour::LOOK_UP_TIME_MAX;
use crate::bucket::Bucket;
use crate::class::{Class, Classes};
use crate::identity;
use crate::shaking::{Shaking, Source};

/// Sources whose handshakes are counted.
const SOURCES_MAX: usize = 4_096;

/// Why a connection is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the peer has no Ed25519 key")]
    Key,
    #[error("the peer has this node's own key")]
    Own,
    #[error("the peer is not a member")]
    NotAMember,
    #[error("nobody looks for the peer")]
    NotWanted,
    #[error("too many connections of its class")]
    Full,
    #[error("too many connections of strangers from its address")]
    Source,
    #[error("too many new strangers")]
    Rate,
    #[error("too many handshakes with its address")]
    Handshakes,
    #[error("too many handshakes under way")]
    Pending,
}

struct Standing {
    peer: PeerId,
    class: Class,
    source: Option<Source>,
}

pub(crate) struct Door {
    me: PeerId,
    classes: Classes,
    limits: Limits,
    strangers: Bucket,
    handshakes: HashMap<Source, Bucket>,
    shaking: Shaking,
    begun: Instant,
    standing: HashMap<ConnectionId, Standing>,
    /// Dials that the agent or a person asked for, to whomever, and those of the mesh.
    asked: HashSet<ConnectionId>,
    /// Until when members may be dialled on behalf of what this node looks for.
    looking_until_ms: u64,
}

impl Door {
    pub(crate) fn new(me: PeerId, classes: Classes, limits: &Limits) -> Self {
        Self {
            me,
            classes,
            strangers: Bucket::new(limits.strangers_rate, 0),
            handshakes: HashMap::new(),
            shaking: Shaking::new(limits),
            limits: limits.clone(),
            begun: Instant::now(),
            standing: HashMap::new(),
            asked: HashSet::new(),
            looking_until_ms: 0,
        }
    }

    /// The next dial of this id may go to anybody.
    pub(crate) fn let_out(&mut self, id: ConnectionId) {
        self.asked.insert(id);
    }

    /// A look-up of this node begins, or a dial through a relay: members that are not connected may
    /// be dialled on its behalf.
    pub(crate) fn look_out(&mut self) {
        let time_max = u64::try_from(LOOK_UP_TIME_MAX.as_millis()).unwrap_or(u64::MAX);
        self.looking_until_ms = self.now_ms().saturating_add(time_max);
    }

    fn count(&self, matches: impl Fn(&Standing) -> bool) -> usize {
        self.standing
            .values()
            .filter(|standing| matches(standing))
            .count()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Before anybody is known: the machine that asks may not make this one compute without end.
    fn may_shake(&mut self, remote: &Multiaddr) -> bool {
        let now_ms = self.now_ms();
        if self.handshakes.len() >= SOURCES_MAX {
            self.handshakes.retain(|_, bucket| !bucket.is_full(now_ms));
        }
        // With more sources than that at once, each of them is held to be a new one.
        if self.handshakes.len() >= SOURCES_MAX {
            self.handshakes.clear();
        }
        let rate = self.limits.handshakes_per_source_rate;
        let bucket = self.handshakes.entry(Source::of(remote));
        bucket
            .or_insert_with(|| Bucket::new(rate, now_ms))
            .take(now_ms)
    }

    /// Where members and clients come from, others of them may come again.
    fn remember(&mut self, peer: &PeerId, remote: &Multiaddr) {
        // Through a relay the address is that of the relay, which is a member itself.
        if self.classes.of(peer) != Class::Stranger {
            self.shaking.knows(remote);
        }
    }

    fn judge(
        &mut self,
        id: ConnectionId,
        peer: &PeerId,
        remote: Option<&Multiaddr>,
    ) -> Result<(), Denied> {
        if *peer == self.me {
            return Err(Denied::Own);
        }
        if identity::key_of(peer).is_none() {
            return Err(Denied::Key);
        }
        let class = self.classes.of(peer);
        let source = remote.filter(|_| class == Class::Stranger).map(Source::of);
        let max = match class {
            Class::Member => self.limits.members_max,
            Class::Client => self.limits.clients_max,
            Class::Stranger => self.limits.strangers_max,
        };
        // Strangers that this node dials are few, and it chose them.
        let chosen = class == Class::Stranger && remote.is_none();
        if !chosen && self.count(|standing| standing.class == class) >= max {
            return Err(Denied::Full);
        }
        if source.is_some() {
            let same = self.count(|standing| standing.source == source);
            if same >= self.limits.strangers_per_source_max {
                return Err(Denied::Source);
            }
            let now_ms = self.now_ms();
            if !self.strangers.take(now_ms) {
                return Err(Denied::Rate);
            }
        }
        let peer = *peer;
        self.standing.insert(
            id,
            Standing {
                peer,
                class,
                source,
            },
        );
        Ok(())
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if !self.shaking.begin(id, local, remote) {
            return Err(ConnectionDenied::new(Denied::Pending));
        }
        if self.may_shake(remote) {
            Ok(())
        } else {
            self.shaking.end(id);
            Err(ConnectionDenied::new(Denied::Handshakes))
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.shaking.end(id);
        self.judge(id, &peer, Some(remote))
            .map_err(ConnectionDenied::new)?;
        self.remember(&peer, remote);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.asked.remove(&id) {
            return Ok(Vec::new());
        }
        // Look-ups and relays dial by themselves: they reach members and nobody else.
        let Some(peer) = peer.filter(|peer| self.classes.of(peer) == Class::Member) else {
            return Err(ConnectionDenied::new(Denied::NotAMember));
        };
        // Kademlia refreshes its table with every member that comes, and would dial them all: in a
        // large realm everybody would be connected with everybody. Another way to a member that is
        // connected, and what this node looks for itself, is no such dial.
        let is_connected = self.standing.values().any(|one| one.peer == peer);
        if is_connected || self.now_ms() < self.looking_until_ms {
            return Ok(Vec::new());
        }
        Err(ConnectionDenied::new(Denied::NotWanted))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.judge(id, &peer, None).map_err(ConnectionDenied::new)?;
        self.remember(&peer, remote);
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.standing.remove(&closed.connection_id);
        } else if let FromSwarm::DialFailure(failure) = event {
            self.standing.remove(&failure.connection_id);
            self.asked.remove(&failure.connection_id);
        } else if let FromSwarm::ListenFailure(failure) = event {
            self.standing.remove(&failure.connection_id);
            self.shaking.end(failure.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
