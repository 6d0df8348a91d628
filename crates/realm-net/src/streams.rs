//! The behaviour behind streams: what each class may open here, and opening streams to others.
//!
//! In place of `libp2p-stream`, which drops what a slow reader does not take and knows no classes.
//! Nothing waits in here without a bound: an inbound stream goes to the loop at once, which takes or
//! refuses it; a connection holds few opens under way.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent, DialUpgradeError,
    FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, StreamUpgradeError,
    SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::oneshot;

use crate::class::{Class, Classes, Names, Protocol};
use crate::stream::{OPEN_TIME_MAX, Opened};
use crate::wire::InUse;
use crate::{Error, Refusal};

/// Streams that a connection hands over before the loop has looked at them; more are reset. The loop
/// takes them within microseconds: this bounds one burst.
const INBOUND_WAITING_MAX: usize = 256;
/// Opens under way per connection; more are refused to the caller.
const OPENING_MAX: usize = 1_024;

/// Where the answer of an open goes.
pub(crate) type OpenReply = oneshot::Sender<Result<Opened, Error>>;

/// A stream that a peer opened.
pub(crate) struct Inbound {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) class: Class,
    pub(crate) protocol: Protocol,
    pub(crate) io: libp2p::Stream,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inbound {:?} of {}", self.protocol, self.peer)
    }
}

pub(crate) struct Streams {
    classes: Classes,
    names: Names,
    events: VecDeque<ToSwarm<Inbound, Open>>,
}

impl Streams {
    pub(crate) fn new(classes: Classes, names: Names) -> Self {
        Self {
            classes,
            names,
            events: VecDeque::new(),
        }
    }

    pub(crate) fn open(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        protocol: StreamProtocol,
        in_use: InUse,
        reply: OpenReply,
    ) {
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Open {
                protocol,
                in_use,
                reply,
            },
        });
    }

    fn handler(&self, peer: &PeerId) -> Handler {
        let class = self.classes.of(peer);
        Handler {
            class,
            offered: self.names.open_to(class),
            opens: VecDeque::new(),
            opening: 0,
            inbound: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Inbound;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(&peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(&peer))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        (class, protocol, io): THandlerOutEvent<Self>,
    ) {
        self.events.push_back(ToSwarm::GenerateEvent(Inbound {
            peer,
            connection,
            class,
            protocol,
            io,
        }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Told to a handler: open this.
pub(crate) struct Open {
    protocol: StreamProtocol,
    in_use: InUse,
    reply: OpenReply,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Open {}", self.protocol)
    }
}

/// The protocols of one connection.
pub(crate) struct Handler {
    class: Class,
    offered: Vec<(StreamProtocol, Protocol)>,
    opens: VecDeque<Open>,
    /// Opens that the swarm works on.
    opening: usize,
    inbound: VecDeque<(Class, Protocol, libp2p::Stream)>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = (Class, Protocol, libp2p::Stream);
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (InUse, OpenReply);

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        Offer::new(
            self.offered.iter().map(|(name, _)| name.clone()).collect(),
            (),
        )
    }

    fn connection_keep_alive(&self) -> bool {
        // Connections of others end when they have been idle for a while.
        self.class == Class::Member
    }

    fn on_behaviour_event(&mut self, open: Open) {
        #[cfg(test)]
        assert!(open.protocol != crate::tests::PANIC, "planted");
        if self.opens.len() + self.opening >= OPENING_MAX {
            let _ = open.reply.send(Err(Error::Refused(Refusal::Busy)));
        } else {
            self.opens.push_back(open);
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(stream) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        if let Some(open) = self.opens.pop_front() {
            self.opening += 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: Offer::new(vec![open.protocol], (open.in_use, open.reply)),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Offer, Offer, (), Self::OutboundOpenInfo>,
    ) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
            protocol: (io, name),
            info: (),
        }) = event
        {
            let offered = self.offered.iter().find(|(offered, _)| *offered == name);
            if let Some((_, protocol)) = offered
                && self.inbound.len() < INBOUND_WAITING_MAX
            {
                self.inbound.push_back((self.class, *protocol, io));
            }
        } else if let ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
            protocol: (io, _),
            info: (in_use, reply),
        }) = event
        {
            self.opening -= 1;
            let _ = reply.send(Ok(Opened { io, in_use }));
        } else if let ConnectionEvent::DialUpgradeError(DialUpgradeError {
            info: (_, reply),
            error,
        }) = event
        {
            self.opening -= 1;
            let _ = reply.send(Err(match error {
                StreamUpgradeError::Timeout => Error::Timeout,
                StreamUpgradeError::NegotiationFailed => Error::Unsupported,
                StreamUpgradeError::Io(error) => Error::Broken(error.to_string()),
                StreamUpgradeError::Apply(never) => match never {},
            }));
        }
    }
}

/// Names to agree on; the stream itself is the outcome.
pub(crate) struct Offer(Vec<StreamProtocol>);

impl Offer {
    fn new<I>(names: Vec<StreamProtocol>, info: I) -> SubstreamProtocol<Self, I> {
        SubstreamProtocol::new(Self(names), info).with_timeout(OPEN_TIME_MAX)
    }
}

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<libp2p::Stream> for Offer {
    type Output = (libp2p::Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, io: libp2p::Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((io, name)))
    }
}

impl OutboundUpgrade<libp2p::Stream> for Offer {
    type Output = (libp2p::Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, io: libp2p::Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((io, name)))
    }
}
