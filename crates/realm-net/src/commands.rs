//! What handles ask of the loop.

use libp2p::PeerId;
use libp2p::gossipsub::{MessageAcceptance, PublishError};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use realm_model::key::PublicKey;

use crate::book::{self, Kind, Source};
use crate::class::{Admission, Class, Names, Topic};
use crate::event::{DownReason, HintId, Verdict, count};
use crate::handle::{Command, DialReply};
use crate::swarm::{Dial, End, Net, Work};
use crate::{Error, hints, identity, kept};

/// Requests and opens that wait for a connection, of all peers together.
const WAITING_MAX: usize = 256;
/// How long they wait.
pub(crate) const WAITING_MS_MAX: u64 = 10_000;
/// Requests that wait for an answer.
const REQUESTS_MAX: usize = 1_024;

impl Net<'_> {
    pub(crate) fn command(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Publish { topic, bytes } => self.publish(topic, bytes),
            Command::Verdict { hint, verdict } => self.verdict(&hint, verdict),
            Command::Request { peer, bytes, reply } => self.work(peer, Work::Request(bytes, reply)),
            Command::Open {
                peer,
                protocol,
                reply,
            } => self.work(peer, Work::Open(protocol, reply)),
            Command::Admit { admission, done } => {
                self.admit(admission);
                let _ = done.send(());
            }
            Command::Addresses { peer, addresses } => {
                let addresses = addresses.iter().filter_map(|text| kept::address(text).ok());
                self.kept
                    .book
                    .learn(peer, Source::Told, addresses.collect());
            }
            Command::Dial { address, reply } => self.dial(&address, reply),
            Command::Realm { realm, done } => match Names::new(realm.as_deref()) {
                Ok(names) => {
                    self.kept.names = names;
                    let _ = done.send(Ok(()));
                    return Some(End::Anew);
                }
                Err(error) => {
                    let _ = done.send(Err(error));
                }
            },
            Command::Disconnect { peer } => self.close_peer(&peer, DownReason::Closed),
            Command::Stop { done } => return Some(End::Stopped(Some(done))),
            #[cfg(test)]
            Command::Test(test) => self.test(test),
        }
        None
    }

    fn publish(&mut self, topic: Topic, bytes: Vec<u8>) {
        let topic = hints::topic(&self.kept.names, topic);
        let Some(hints) = self.parts.swarm.behaviour_mut().hints.inner() else {
            return;
        };
        match hints.publish(topic, bytes) {
            // Alone, or the same hint again: nothing is lost that anti-entropy would not bring.
            Ok(_) | Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => {}
            Err(error) => tracing::debug!(%error, "a hint was not published"),
        }
    }

    fn verdict(&mut self, hint: &HintId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => {
                count(&self.kept.counters.hints_rejected);
                MessageAcceptance::Reject
            }
        };
        self.report(hint, acceptance);
    }

    pub(crate) fn report(&mut self, hint: &HintId, acceptance: MessageAcceptance) {
        if let Some(hints) = self.parts.swarm.behaviour_mut().hints.inner() {
            hints.report_message_validation_result(&hint.message, &hint.via, acceptance);
        }
    }

    /// Does it on the best connection, or has one made.
    pub(crate) fn work(&mut self, peer: PublicKey, work: Work) {
        if let Some(best) = self.parts.live.best(&peer) {
            let (class, id) = (best.class, best.id);
            return self.work_on(peer, class, id, work);
        }
        let now_ms = self.kept.now_ms();
        if self.kept.classes.of_key(&peer) != Class::Member || !self.kept.book.has_addresses(&peer)
        {
            return refuse(work, Error::Unknown);
        }
        if self.parts.waiting.values().map(Vec::len).sum::<usize>() >= WAITING_MAX {
            return refuse(work, Error::Overloaded);
        }
        self.parts
            .waiting
            .entry(peer)
            .or_default()
            .push((now_ms + WAITING_MS_MAX, work));
        self.kept.book.begin(&peer, now_ms, true);
        self.advance(&peer, now_ms);
    }

    pub(crate) fn work_on(
        &mut self,
        peer: PublicKey,
        class: Class,
        id: libp2p::swarm::ConnectionId,
        work: Work,
    ) {
        let now_ms = self.kept.now_ms();
        let Some(conn) = self.parts.live.conn(&peer, id) else {
            return refuse(work, Error::Unknown);
        };
        conn.had_streams |= matches!(work, Work::Open(..));
        let in_use = conn.hold(now_ms);
        let to = identity::peer_id(&peer);
        match work {
            Work::Open(protocol, reply) => match self.kept.names.stream(protocol) {
                Some(name) => self
                    .parts
                    .swarm
                    .behaviour_mut()
                    .streams
                    .open(to, id, name, in_use, reply),
                None => refuse(Work::Open(protocol, reply), Error::Unsupported),
            },
            Work::Request(bytes, reply) => {
                let full = self.parts.requests.len() >= REQUESTS_MAX;
                match self.parts.swarm.behaviour_mut().requests.inner() {
                    Some(requests) if class == Class::Member && !full => {
                        let request = requests.send_request(&to, bytes);
                        self.parts.requests.insert(request, (reply, in_use));
                    }
                    Some(_) if full => refuse(Work::Request(bytes, reply), Error::Overloaded),
                    Some(_) | None => refuse(Work::Request(bytes, reply), Error::Unsupported),
                }
            }
        }
    }

    fn admit(&mut self, admission: Admission) {
        let before = self.kept.classes.set(admission);
        self.kept.draw_mesh();
        let now_ms = self.kept.now_ms();
        let peers: Vec<_> = self.parts.live.peers.keys().copied().collect();
        for peer in peers {
            let class = self.kept.classes.of_key(&peer);
            let differs = self.parts.live.peers[&peer]
                .conns
                .iter()
                .any(|conn| conn.class != class);
            if differs {
                // Where it was reached as a stranger, it is reached as a member.
                let conns = self.parts.live.peers[&peer].conns.iter();
                let dialled = conns.filter(|conn| conn.dialled && conn.kind() != Kind::Relay);
                let worked = dialled.map(|conn| conn.address.clone()).collect();
                self.kept.book.learn(peer, Source::Worked, worked);
                self.close_peer(&peer, DownReason::ClassChanged);
                self.kept.book.again(&peer, now_ms, 0);
            }
        }
        let gone = {
            let held = self.kept.classes.read();
            before
                .members
                .difference(&held.members)
                .copied()
                .collect::<Vec<_>>()
        };
        for peer in gone {
            let id = identity::peer_id(&peer);
            self.parts.relays.remove(&peer);
            self.parts.cuts.remove(&peer);
            if let Some(kad) = self.parts.swarm.behaviour_mut().kad.inner() {
                kad.remove_peer(&id);
            }
        }
        self.parts.changed = true;
    }

    fn dial(&mut self, text: &str, reply: DialReply) {
        let address = match kept::address(text) {
            Ok(address) => address,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let named: Option<PeerId> = match address.iter().last() {
            Some(Part::P2p(peer)) => Some(peer),
            Some(_) | None => None,
        };
        let key = named.as_ref().and_then(identity::key_of);
        if let Some(key) = key
            && self.parts.live.best(&key).is_some()
        {
            let _ = reply.send(Ok(key));
            return;
        }
        let relayed = book::kind(&address) == Some(Kind::Relay);
        let options: DialOpts = match named {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![address])
                .condition(PeerCondition::Always)
                .build(),
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        let id = options.connection_id();
        let door = &mut self.parts.swarm.behaviour_mut().door;
        door.let_out(id);
        if relayed {
            door.look_out();
        }
        match self.parts.swarm.dial(options) {
            Ok(()) => {
                self.parts.dials.insert(id, Dial::Asked(reply));
            }
            Err(error) => {
                let _ = reply.send(Err(Error::Unreachable(crate::dialling::told(&error))));
            }
        }
    }
}

pub(crate) fn refuse(work: Work, error: Error) {
    match work {
        Work::Request(_, reply) => {
            let _ = reply.send(Err(error));
        }
        Work::Open(_, reply) => {
            let _ = reply.send(Err(error));
        }
    }
}
