//! The loop: one task that owns the swarm, takes commands, and looks after connections.
//!
//! `commands` does what handles ask, `events` what the swarm tells, `dialling` makes and tends
//! connections. Nothing in the loop waits: what takes time is a task, a stage, or the swarm's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::request_response::{InboundRequestId, OutboundRequestId};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, Swarm};
use realm_model::key::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::behaviour::{Behaviour, behaviour};
use crate::book::Kind;
use crate::class::Class;
use crate::codec::{Answer, RESPONSE_BYTES_MAX};
use crate::event::{Answered, PeerView, count};
use crate::handle::{Command, DialReply, RequestReply};
use crate::kept::Kept;
use crate::live::Live;
use crate::slots::Slots;
use crate::streams::OpenReply;
use crate::transport::{self, Alarm};
use crate::wire::InUse;
use crate::{Error, Protocol};

/// How often connections are looked after.
const TICK: Duration = Duration::from_millis(250);
/// A tick that comes that late means that this process stood still (stopped, swapped, overloaded).
const STOOD_STILL_MS: u64 = 1_500;
/// How often views are published for their round-trip times alone.
const VIEW_MS: u64 = 1_000;

/// How long peers are told good-bye.
const PARTING_TIME_MAX: Duration = Duration::from_millis(500);

/// Why the loop ended.
pub(crate) enum End {
    /// Nobody wants it any more.
    Stopped(Option<oneshot::Sender<()>>),
    /// To be made anew, under other names.
    Anew,
    /// A task of the swarm panicked, or it could not be made.
    Broken(String),
}

/// Who waits for the outcome of a dial.
pub(crate) enum Dial {
    /// The book; the kind of its addresses.
    Book(PublicKey, Kind),
    /// A caller.
    Asked(DialReply),
}

/// What waits for a connection.
pub(crate) enum Work {
    Request(Vec<u8>, RequestReply),
    Open(Protocol, OpenReply),
}

/// All that belongs to one life of the swarm.
pub(crate) struct Parts {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) alarm: Alarm,
    pub(crate) live: Live,
    pub(crate) slots: Slots,
    pub(crate) dials: HashMap<ConnectionId, Dial>,
    /// Who waits for an answer, and that the connection is in use until it is there.
    pub(crate) requests: HashMap<OutboundRequestId, (RequestReply, InUse)>,
    /// Requests of others that are not answered to the end, and that their connections are in use.
    pub(crate) asked: HashMap<InboundRequestId, InUse>,
    /// Room that answers take until the peer has read them.
    pub(crate) answering: HashMap<InboundRequestId, OwnedSemaphorePermit>,
    pub(crate) waiting: BTreeMap<PublicKey, Vec<(u64, Work)>>,
    /// How often a peer was cut off since it did not subscribe.
    pub(crate) cuts: BTreeMap<PublicKey, u32>,
    /// Listener → its place in `kept.listen`.
    pub(crate) listeners: HashMap<ListenerId, usize>,
    /// Reservation → its relay.
    pub(crate) circuits: HashMap<ListenerId, PublicKey>,
    /// Members that offer to relay.
    pub(crate) relays: BTreeSet<PublicKey>,
    pub(crate) behind_nat: bool,
    pub(crate) answers: mpsc::UnboundedSender<Answered>,
    /// Not bounded, since what it holds is: a reply per request under way.
    answered: mpsc::UnboundedReceiver<Answered>,
    pub(crate) next_listen_ms: u64,
    pub(crate) next_improve_ms: u64,
    pub(crate) next_look_up_ms: u64,
    ticked_ms: u64,
    viewed_ms: u64,
    pub(crate) changed: bool,
}

pub(crate) struct Net<'a> {
    pub(crate) kept: &'a mut Kept,
    pub(crate) parts: Parts,
}

impl<'a> Net<'a> {
    pub(crate) fn new(kept: &'a mut Kept) -> Result<Self, Error> {
        let alarm = Alarm::default();
        let swarm = transport::swarm(&kept.keys, kept.sockets.runtime(), &alarm, |circuits| {
            behaviour(
                &kept.config,
                &kept.keys,
                &kept.names,
                &kept.classes,
                circuits,
            )
        })?;
        let (answers, answered) = mpsc::unbounded_channel();
        let now_ms = kept.now_ms();
        let parts = Parts {
            swarm,
            alarm,
            live: Live::default(),
            slots: Slots::new(&kept.config.limits),
            dials: HashMap::new(),
            requests: HashMap::new(),
            asked: HashMap::new(),
            answering: HashMap::new(),
            waiting: BTreeMap::new(),
            cuts: BTreeMap::new(),
            listeners: HashMap::new(),
            circuits: HashMap::new(),
            relays: BTreeSet::new(),
            behind_nat: kept.config.nat == crate::Nat::Behind,
            answers,
            answered,
            next_listen_ms: now_ms,
            next_improve_ms: now_ms,
            next_look_up_ms: now_ms,
            ticked_ms: now_ms,
            viewed_ms: now_ms,
            changed: true,
        };
        let mut net = Self { kept, parts };
        for address in net.kept.announce.clone() {
            net.parts.swarm.add_external_address(address);
        }
        Ok(net)
    }

    pub(crate) fn into_parts(self) -> Parts {
        self.parts
    }

    pub(crate) fn from_parts(kept: &'a mut Kept, parts: Parts) -> Self {
        Self { kept, parts }
    }

    pub(crate) async fn run(mut self, inbox: &mut mpsc::Receiver<Command>) -> End {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let alarm = self.parts.alarm.clone();
        loop {
            tokio::select! {
                command = inbox.recv() => {
                    let Some(command) = command else {
                        return End::Stopped(None);
                    };
                    if let Some(end) = self.command(command) {
                        self.part().await;
                        return end;
                    }
                }
                Some(answered) = self.parts.answered.recv() => self.answer(answered),
                event = self.parts.swarm.select_next_some() => self.event(event),
                _ = tick.tick() => self.tick(),
                () = alarm.rung() => return End::Broken("a task of a connection".to_owned()),
            }
        }
    }

    /// Says good-bye, so that peers need not find out by silence.
    async fn part(&mut self) {
        let peers: Vec<_> = self.parts.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.parts.swarm.disconnect_peer_id(peer);
        }
        let closing = async {
            while self.parts.swarm.connected_peers().next().is_some() {
                self.parts.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(PARTING_TIME_MAX, closing).await;
    }

    fn answer(&mut self, answered: Answered) {
        let Answered {
            request,
            channel,
            mut answer,
        } = answered;
        if let Answer::Body(bytes) = &answer {
            let size = u32::try_from(bytes.len().max(1)).unwrap_or(u32::MAX);
            let room = self.kept.answer_room.clone().try_acquire_many_owned(size);
            match room {
                Ok(room) if bytes.len() <= RESPONSE_BYTES_MAX => {
                    self.parts.answering.insert(request, room);
                }
                Ok(_) | Err(_) => {
                    count(&self.kept.counters.requests_refused);
                    answer = Answer::Busy;
                }
            }
        }
        if let Some(requests) = self.parts.swarm.behaviour_mut().requests.inner()
            && requests.send_response(channel, answer).is_err()
        {
            // The peer has gone meanwhile, and nothing more is told of its request.
            self.parts.answering.remove(&request);
            self.parts.asked.remove(&request);
        }
    }

    fn tick(&mut self) {
        #[cfg(debug_assertions)]
        crate::planted::panic_if_planted();
        let now_ms = self.kept.now_ms();
        let gap_ms = now_ms.saturating_sub(self.parts.ticked_ms);
        self.parts.ticked_ms = now_ms;
        if gap_ms > STOOD_STILL_MS {
            self.parts.live.forgive(gap_ms);
        }
        self.listen(now_ms);
        self.tend(now_ms);
        self.dial_missing(now_ms);
        self.expire(now_ms);
        self.kept.pay();
        if self.parts.changed || now_ms.saturating_sub(self.parts.viewed_ms) >= VIEW_MS {
            self.parts.changed = false;
            self.parts.viewed_ms = now_ms;
            self.view(now_ms);
        }
    }

    /// Publishes all connected peers and all members.
    pub(crate) fn view(&mut self, now_ms: u64) {
        let mut views: BTreeMap<PublicKey, PeerView> = BTreeMap::new();
        let held = self.kept.classes.read();
        let wanted = |key: &PublicKey| {
            self.kept
                .mesh
                .order
                .iter()
                .take(self.kept.mesh.core)
                .any(|one| one == key)
        };
        for key in held.members.iter().filter(|key| **key != self.kept.me) {
            let why = self.kept.book.trouble(key, None);
            views.insert(
                *key,
                PeerView {
                    peer: *key,
                    class: Class::Member,
                    how: None,
                    address: None,
                    dialled: false,
                    rtt_us: None,
                    up_ms: 0,
                    connections: 0,
                    hints: false,
                    wanted: wanted(key),
                    why,
                },
            );
        }
        for (key, peer) in &self.parts.live.peers {
            let Some(best) = peer.best() else {
                continue;
            };
            let up_ms = now_ms.saturating_sub(peer.since_ms().unwrap_or(now_ms));
            views.insert(
                *key,
                PeerView {
                    peer: *key,
                    class: best.class,
                    how: Some(best.how),
                    address: Some(best.address.to_string()),
                    dialled: best.dialled,
                    rtt_us: best.rtt_us,
                    up_ms,
                    connections: peer.conns.len(),
                    hints: peer.subscribed,
                    wanted: wanted(key),
                    why: self.kept.book.trouble(key, Some(best.kind())),
                },
            );
        }
        self.kept
            .views
            .send_replace(Arc::new(views.into_values().collect()));
    }

    /// Listens on all addresses at once, and fails with the first that does not work.
    pub(crate) fn listen_now(&mut self) -> Result<(), Error> {
        for (index, address) in self.kept.listen.clone().into_iter().enumerate() {
            self.listen_on(index, address.clone())
                .map_err(|error| Error::Setup(format!("cannot listen on `{address}`: {error}")))?;
        }
        Ok(())
    }

    pub(crate) fn listen_on(&mut self, index: usize, address: Multiaddr) -> Result<(), String> {
        let listener = self
            .parts
            .swarm
            .listen_on(address)
            .map_err(|error| reason(&error))?;
        self.parts.listeners.insert(listener, index);
        Ok(())
    }
}

/// What the system said, below the words of the layers above it.
fn reason(error: &dyn std::error::Error) -> String {
    let mut lowest = error;
    while let Some(below) = lowest.source() {
        lowest = below;
    }
    lowest.to_string()
}
