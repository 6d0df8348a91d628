//! What the swarm tells the loop.

use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, MessageAcceptance};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::{ConnectionError, ConnectionId, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, autonat, dcutr, identify, kad, mdns, ping, relay, request_response,
};

use crate::behaviour::BehaviourEvent;
use crate::book::{Kind, Source, ip_of, kind};
use crate::class::{Class, Topic};
use crate::codec::Answer;
use crate::dialling::is_direct;
use crate::event::{Answered, DownReason, Event, Hint, HintId, Reply, count};
use crate::hints::MEMBER_SCORE;
use crate::live::Conn;
use crate::stream::{Incoming, refuse};
use crate::streams::Inbound;
use crate::swarm::{Dial, Net};
use crate::wire::InUse;
use crate::{Error, Refusal, identity};

/// Addresses taken from one peer about itself, or about another.
const FOUND_MAX: usize = 8;

impl Net<'_> {
    pub(crate) fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                self.closed(&peer_id, connection_id, cause);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                self.dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "a connection was not taken");
                count(&self.kept.counters.connections_denied);
            }
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                self.listening(listener_id, &address);
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                for address in addresses {
                    self.expired(address);
                }
                self.parts.circuits.remove(&listener_id);
                if let Some(index) = self.parts.listeners.remove(&listener_id) {
                    let address = self.kept.listen[index].to_string();
                    let reason = reason
                        .err()
                        .map(|error| error.to_string())
                        .unwrap_or_default();
                    self.kept.tell(Event::ListenFailed { address, reason });
                }
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                self.kept.tell(Event::Listening {
                    address: crate::book::bare(address).to_string(),
                });
            }
            SwarmEvent::ExpiredListenAddr { address, .. }
            | SwarmEvent::ExternalAddrExpired { address } => self.expired(address),
            SwarmEvent::IncomingConnection { .. }
            | SwarmEvent::ListenerError { .. }
            | SwarmEvent::Dialing { .. }
            | SwarmEvent::NewExternalAddrCandidate { .. }
            | SwarmEvent::NewExternalAddrOfPeer { .. } => {}
            // libp2p may grow: what this version does not know, it does not need.
            _ => {}
        }
    }

    fn closed(&mut self, peer: &PeerId, id: ConnectionId, cause: Option<ConnectionError>) {
        if let Some(key) = identity::key_of(peer) {
            let reason = match cause {
                None | Some(ConnectionError::KeepAliveTimeout) => DownReason::Closed,
                Some(ConnectionError::IO(error)) => DownReason::Failed(error.to_string()),
            };
            self.forget(&key, id, reason);
        }
    }

    fn established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &libp2p::core::ConnectedPoint,
    ) {
        let Some(key) = identity::key_of(&peer) else {
            return;
        };
        let now_ms = self.kept.now_ms();
        let conn = Conn::new(id, self.kept.classes.of(&peer), endpoint, now_ms);
        let (class, kind, address) = (conn.class, conn.kind(), conn.address.clone());
        let dialled = conn.dialled;
        self.parts.live.add(key, conn);
        self.parts.changed = true;
        match self.parts.dials.remove(&id) {
            Some(Dial::Asked(reply)) => {
                let _ = reply.send(Ok(key));
            }
            Some(Dial::Book(..)) | None => {}
        }
        self.kept.book.connected(&key, kind);
        if class == Class::Member {
            if dialled && kind != Kind::Relay {
                self.kept
                    .book
                    .learn(key, Source::Worked, vec![address.clone()]);
                if let Some(kad) = self.parts.swarm.behaviour_mut().kad.inner() {
                    kad.add_address(&peer, address);
                }
            }
            if let Some(hints) = self.parts.swarm.behaviour_mut().hints.inner() {
                hints.set_application_score(&peer, MEMBER_SCORE);
            }
        }
        self.tell_way(&key);
        for (_, work) in self.parts.waiting.remove(&key).unwrap_or_default() {
            self.work_on(key, class, id, work);
        }
    }

    fn listening(&mut self, listener: ListenerId, address: &Multiaddr) {
        // A port that the system chose is kept, for a restart of the swarm.
        if let Some(index) = self.parts.listeners.get(&listener)
            && let Some(listened) = self.kept.listen.get_mut(*index)
            && let Some(chosen) = address.iter().find_map(port_of)
        {
            let with_port = |part: Part<'_>| {
                if matches!(part, Part::Tcp(0)) {
                    Part::Tcp(chosen)
                } else if matches!(part, Part::Udp(0)) {
                    Part::Udp(chosen)
                } else {
                    part.acquire()
                }
            };
            *listened = listened.iter().map(with_port).collect();
        }
        self.kept.tell(Event::Listening {
            address: crate::book::bare(address.clone()).to_string(),
        });
    }

    fn expired(&self, address: Multiaddr) {
        self.kept.tell(Event::Expired {
            address: crate::book::bare(address).to_string(),
        });
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Ping(event) => self.pinged(&event),
            BehaviourEvent::Streams(inbound) => self.inbound(inbound),
            BehaviourEvent::Identify(event) => self.identified(event),
            BehaviourEvent::Requests(event) => self.requested(event),
            BehaviourEvent::Hints(event) => self.hinted(event),
            BehaviourEvent::Kad(event) => self.looked_up(event),
            BehaviourEvent::Autonat(event) => self.nat(&event),
            BehaviourEvent::Dcutr(event) => self.punched(&event),
            BehaviourEvent::Mdns(event) => self.neighbours(event),
            BehaviourEvent::Circuits(relay::client::Event::ReservationReqAccepted { .. })
            | BehaviourEvent::Circuits(_)
            | BehaviourEvent::Relay(_) => {}
            BehaviourEvent::Door(never)
            | BehaviourEvent::Counts(never)
            | BehaviourEvent::Memory(never) => match never {},
        }
    }

    fn pinged(&mut self, event: &ping::Event) {
        let now_ms = self.kept.now_ms();
        let Some(conn) = identity::key_of(&event.peer)
            .and_then(|key| self.parts.live.conn(&key, event.connection))
        else {
            return;
        };
        match &event.result {
            Ok(rtt) => {
                conn.sign_ms = now_ms;
                conn.rtt_us = u64::try_from(rtt.as_micros()).ok();
            }
            Err(ping::Failure::Unsupported) => conn.pings = false,
            // Silence is judged by its length alone.
            Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => {}
        }
    }

    fn inbound(&mut self, inbound: Inbound) {
        let Inbound {
            peer,
            connection,
            class,
            protocol,
            io,
        } = inbound;
        let now_ms = self.kept.now_ms();
        let Some(key) = identity::key_of(&peer) else {
            return;
        };
        let Some(conn) = self.parts.live.conn(&key, connection) else {
            return;
        };
        conn.had_streams = true;
        let in_use = conn.hold(now_ms);
        let address = conn.address.to_string();
        let slot = self.parts.slots.stream(key, class, protocol, now_ms);
        match slot {
            Some(slot) if self.kept.has_room_for_stream() => {
                let incoming = Incoming::new(io, in_use, slot);
                self.kept.tell(Event::Stream {
                    from: key,
                    class,
                    address,
                    protocol,
                    incoming,
                });
            }
            slot => {
                count(&self.kept.counters.streams_refused);
                refuse(io, Refusal::Busy, slot);
            }
        }
    }

    fn identified(&mut self, event: identify::Event) {
        // What is told as `Pushed` is what this node has said of itself to the peer.
        let identify::Event::Received {
            peer_id,
            connection_id,
            info,
        } = event
        else {
            return;
        };
        let Some(key) = identity::key_of(&peer_id) else {
            return;
        };
        let is_relay = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        if is_relay && self.parts.relays.len() < self.kept.config.limits.members_max {
            self.parts.relays.insert(key);
        } else if !is_relay {
            self.parts.relays.remove(&key);
        }
        // Loopback is of use only to those who reached the peer there.
        let local = self
            .parts
            .live
            .conn(&key, connection_id)
            .is_some_and(|conn| is_loopback(&conn.address));
        let addresses: Vec<_> = info
            .listen_addrs
            .into_iter()
            .filter(|address| local || !is_loopback(address))
            .take(FOUND_MAX)
            .collect();
        self.found(&peer_id, addresses);
    }

    /// Addresses that are only claimed: kept for members, told for others.
    fn found(&mut self, peer: &PeerId, addresses: Vec<Multiaddr>) {
        let Some(key) = identity::key_of(peer).filter(|key| *key != self.kept.me) else {
            return;
        };
        let addresses: Vec<_> = addresses
            .into_iter()
            .filter(|address| kind(address).is_some())
            .take(FOUND_MAX)
            .collect();
        if addresses.is_empty() {
            return;
        }
        if self.kept.classes.of_key(&key) == Class::Member {
            // Whom we hold a connection to, we name to others.
            let direct = addresses
                .iter()
                .filter(|one| kind(one) < Some(Kind::Relay))
                .cloned();
            let connected = self.parts.live.best(&key).is_some();
            if connected && let Some(kad) = self.parts.swarm.behaviour_mut().kad.inner() {
                for address in direct {
                    kad.add_address(peer, address);
                }
            }
            self.kept.book.learn(key, Source::Found, addresses.clone());
        }
        let addresses = addresses.iter().map(ToString::to_string).collect();
        self.kept.tell(Event::Found {
            peer: key,
            addresses,
        });
    }

    fn requested(&mut self, event: request_response::Event<Vec<u8>, Answer>) {
        use request_response::{Event as Told, Message, OutboundFailure};
        match event {
            Told::Message {
                peer,
                connection_id,
                message:
                    Message::Request {
                        request_id,
                        request,
                        channel,
                    },
                ..
            } => {
                // Until the answer has gone, the connection stands.
                if let Some(in_use) = self.used(&peer, connection_id) {
                    self.parts.asked.insert(request_id, in_use);
                }
                self.asked(&peer, request_id, request, channel);
            }
            Told::Message {
                peer,
                connection_id,
                message:
                    Message::Response {
                        request_id,
                        response,
                    },
            } => {
                self.used(&peer, connection_id);
                if let Some((reply, _)) = self.parts.requests.remove(&request_id) {
                    let _ = reply.send(match response {
                        Answer::Body(bytes) => Ok(bytes),
                        Answer::Busy => Err(Error::Refused(Refusal::Busy)),
                    });
                }
            }
            Told::OutboundFailure {
                request_id, error, ..
            } => {
                if let Some((reply, _)) = self.parts.requests.remove(&request_id) {
                    let _ = reply.send(Err(match error {
                        OutboundFailure::Timeout => Error::Timeout,
                        OutboundFailure::UnsupportedProtocols => Error::Unsupported,
                        OutboundFailure::DialFailure => Error::Unknown,
                        OutboundFailure::ConnectionClosed => {
                            Error::Broken("it was closed".to_owned())
                        }
                        OutboundFailure::Io(error) => Error::Broken(error.to_string()),
                    }));
                }
            }
            Told::InboundFailure { request_id, .. } | Told::ResponseSent { request_id, .. } => {
                self.parts.answering.remove(&request_id);
                self.parts.asked.remove(&request_id);
            }
        }
    }

    /// Notes that a connection is of use at this moment.
    fn used(&mut self, peer: &PeerId, connection: ConnectionId) -> Option<InUse> {
        let now_ms = self.kept.now_ms();
        let key = identity::key_of(peer)?;
        let conn = self.parts.live.conn(&key, connection)?;
        Some(conn.hold(now_ms))
    }

    fn asked(
        &mut self,
        peer: &PeerId,
        request: request_response::InboundRequestId,
        bytes: Vec<u8>,
        channel: request_response::ResponseChannel<Answer>,
    ) {
        let now_ms = self.kept.now_ms();
        let Some(from) = identity::key_of(peer) else {
            return;
        };
        let room = u32::try_from(bytes.len().max(1)).ok();
        let room = room.and_then(|size| {
            self.kept
                .request_room
                .clone()
                .try_acquire_many_owned(size)
                .ok()
        });
        let may = self.parts.slots.may_ask(from, now_ms) && self.kept.has_room_for_stream();
        match room {
            Some(room) if may => {
                let answers = self.parts.answers.clone();
                let reply = Reply {
                    request,
                    channel: Some(channel),
                    answers,
                    _room: room,
                };
                self.kept.tell(Event::Request { from, bytes, reply });
            }
            Some(_) | None => {
                count(&self.kept.counters.requests_refused);
                let answer = Answer::Busy;
                let _ = self.parts.answers.send(Answered {
                    request,
                    channel,
                    answer,
                });
            }
        }
    }

    fn hinted(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => {
                let id = HintId {
                    message: message_id,
                    via: propagation_source,
                };
                if let Some(hint) = self.hint(&id, message) {
                    count(&self.kept.counters.hints_taken);
                    self.kept.tell(Event::Hint(hint));
                } else {
                    count(&self.kept.counters.hints_dropped);
                    self.report(&id, MessageAcceptance::Ignore);
                }
            }
            gossipsub::Event::Subscribed { .. } => self.subscribed(),
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(%peer_id, "a neighbour takes hints too slowly");
            }
            gossipsub::Event::Unsubscribed { .. }
            | gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    /// The hint for the agent, if its bearer is a member and not too fast, and there is room.
    fn hint(&mut self, id: &HintId, message: gossipsub::Message) -> Option<Hint> {
        let now_ms = self.kept.now_ms();
        let via = identity::key_of(&id.via)?;
        if !self.parts.slots.may_hint(via, now_ms) || !self.kept.has_room_for_hint() {
            return None;
        }
        let is_member = self.kept.classes.of_key(&via) == Class::Member;
        let names = &self.kept.names;
        let topic = Topic::ALL
            .into_iter()
            .find(|topic| crate::hints::topic(names, *topic).hash() == message.topic)?;
        let size = u32::try_from(message.data.len().max(1)).ok()?;
        let room = self
            .kept
            .hint_room
            .clone()
            .try_acquire_many_owned(size)
            .ok()?;
        is_member.then_some(Hint {
            via,
            topic,
            bytes: message.data,
            id: id.clone(),
            _room: room,
        })
    }

    fn looked_up(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed {
            result: kad::QueryResult::GetClosestPeers(result),
            ..
        } = event
        else {
            return;
        };
        let peers = match result {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        for peer in peers {
            self.found(&peer.peer_id, peer.addrs);
        }
    }

    fn nat(&mut self, event: &autonat::v1::Event) {
        let autonat::v1::Event::StatusChanged { new, .. } = event else {
            return;
        };
        let behind_nat = match new {
            autonat::v1::NatStatus::Public(_) => false,
            autonat::v1::NatStatus::Private => true,
            autonat::v1::NatStatus::Unknown => return,
        };
        self.parts.behind_nat = behind_nat;
        if let Some(kad) = self.parts.swarm.behaviour_mut().kad.inner() {
            let mode = if behind_nat {
                kad::Mode::Client
            } else {
                kad::Mode::Server
            };
            kad.set_mode(Some(mode));
        }
        self.kept.tell(Event::Reachability { behind_nat });
    }

    fn punched(&mut self, event: &dcutr::Event) {
        let Some(key) = identity::key_of(&event.remote_peer_id) else {
            return;
        };
        if let Err(error) = &event.result {
            let direct = self
                .parts
                .live
                .best(&key)
                .is_some_and(|conn| is_direct(conn.how));
            if !direct {
                self.kept
                    .book
                    .failed(&key, Some(Kind::Quic), format!("hole punching: {error}"));
            }
        }
    }

    fn neighbours(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else {
            return;
        };
        let mut by_peer: std::collections::BTreeMap<PeerId, Vec<Multiaddr>> = Default::default();
        for (peer, address) in found {
            by_peer.entry(peer).or_default().push(address);
        }
        for (peer, addresses) in by_peer {
            self.found(&peer, addresses);
        }
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| ip_of(&part).is_some_and(|ip| ip.is_loopback()))
}

fn port_of(part: Part<'_>) -> Option<u16> {
    if let Part::Tcp(port) | Part::Udp(port) = part {
        Some(port)
    } else {
        None
    }
}
