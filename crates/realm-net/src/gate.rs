//! A behaviour behind a gate: connections that may not use it get no handler of it, and it never
//! hears of them.
//!
//! A block list closes the whole connection; this closes one protocol. Counts of connections that
//! the swarm tells are corrected, since behaviours rely on them. Whether a connection passes is
//! decided once, when it is made.

use std::collections::{HashMap, HashSet};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::toggle::{Toggle, ToggleConnectionHandler};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::class::{Class, Classes};

/// Whether a connection of a class, made in a direction, may use the behaviour.
pub(crate) type Passes = fn(Class, Endpoint) -> bool;

/// May hold no behaviour: then nobody passes.
pub(crate) struct Gated<B: NetworkBehaviour> {
    open: Toggle<B>,
    /// Makes the handlers that do nothing.
    shut: Toggle<B>,
    classes: Classes,
    passes: Passes,
    /// Got a handler of the behaviour, but the swarm has not told whether the connection came up.
    expected: HashSet<ConnectionId>,
    admitted: HashMap<PeerId, Vec<ConnectionId>>,
    /// The same connections: the relay names one with the peer of another.
    ids: HashSet<ConnectionId>,
}

impl<B: NetworkBehaviour> Gated<B> {
    pub(crate) fn new(behaviour: Option<B>, classes: Classes, passes: Passes) -> Self {
        Self {
            open: behaviour.into(),
            shut: None.into(),
            classes,
            passes,
            expected: HashSet::new(),
            admitted: HashMap::new(),
            ids: HashSet::new(),
        }
    }

    pub(crate) fn inner(&mut self) -> Option<&mut B> {
        self.open.as_mut()
    }

    fn door(&mut self, id: ConnectionId, peer: &PeerId, role: Endpoint) -> &mut Toggle<B> {
        if self.open.is_enabled() && (self.passes)(self.classes.of(peer), role) {
            self.expected.insert(id);
            &mut self.open
        } else {
            &mut self.shut
        }
    }

    fn is_admitted(&self, id: ConnectionId) -> bool {
        self.ids.contains(&id)
    }

    fn established(&mut self, event: ConnectionEstablished<'_>) {
        if !self.expected.remove(&event.connection_id) {
            return;
        }
        let ids = self.admitted.entry(event.peer_id).or_default();
        let other_established = ids.len();
        ids.push(event.connection_id);
        self.ids.insert(event.connection_id);
        self.open
            .on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                other_established,
                ..event
            }));
    }

    fn closed(&mut self, event: ConnectionClosed<'_>) {
        let Some(ids) = self.admitted.get_mut(&event.peer_id) else {
            return;
        };
        let before = ids.len();
        ids.retain(|id| *id != event.connection_id);
        let remaining_established = ids.len();
        if remaining_established == before {
            return;
        }
        self.ids.remove(&event.connection_id);
        if remaining_established == 0 {
            self.admitted.remove(&event.peer_id);
        }
        self.open
            .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                remaining_established,
                ..event
            }));
    }

    /// What the behaviour says to a handler reaches an admitted connection or nobody.
    fn outgoing<E, I>(&self, event: ToSwarm<E, I>) -> Option<ToSwarm<E, I>> {
        let ToSwarm::NotifyHandler {
            peer_id,
            handler,
            event,
        } = event
        else {
            return Some(event);
        };
        let id = match handler {
            NotifyHandler::One(id) => self.is_admitted(id).then_some(id),
            NotifyHandler::Any => self
                .admitted
                .get(&peer_id)
                .and_then(|ids| ids.first().copied()),
        }?;
        Some(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(id),
            event,
        })
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gated<B> {
    type ConnectionHandler = ToggleConnectionHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.open
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.door(id, &peer, Endpoint::Listener)
            .handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.open
            .handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.door(id, &peer, Endpoint::Dialer)
            .handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionEstablished(event) = event {
            return self.established(event);
        }
        if let FromSwarm::ConnectionClosed(event) = event {
            return self.closed(event);
        }
        if let FromSwarm::AddressChange(change) = event
            && !self.is_admitted(change.connection_id)
        {
            return;
        }
        // A connection that got a handler may still be denied by another behaviour.
        if let FromSwarm::DialFailure(failure) = event {
            self.expected.remove(&failure.connection_id);
        }
        if let FromSwarm::ListenFailure(failure) = event {
            self.expected.remove(&failure.connection_id);
        }
        self.open.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if self.is_admitted(id) {
            self.open.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let Poll::Ready(event) = self.open.poll(cx) else {
                return Poll::Pending;
            };
            if let Some(event) = self.outgoing(event) {
                return Poll::Ready(event);
            }
        }
    }
}
