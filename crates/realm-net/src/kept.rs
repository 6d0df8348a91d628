//! What outlives a panic of the swarm: who is admitted, where they are, what was listened on, and the
//! way to the agent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use realm_model::key::PublicKey;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::book::Book;
use crate::class::{Class, Classes, Names};
use crate::event::{Counters, DownReason, Event, PeerView};
use crate::mesh::{Mesh, mesh};
use crate::sockets::Sockets;
use crate::{Config, Error};

/// Events that wait for the agent.
pub(crate) const EVENTS_MAX: usize = 1_024;
/// Bytes of hints and of requests that wait for the agent.
const HINT_BYTES_WAITING_MAX: usize = 4 * 1024 * 1024;
const REQUEST_BYTES_WAITING_MAX: usize = 8 * 1024 * 1024;
/// Bytes of answers that peers have not read yet, of all together: a few of the largest.
const ANSWER_BYTES_WAITING_MAX: usize = 32 * 1024 * 1024;

pub(crate) struct Kept {
    pub(crate) config: Config,
    pub(crate) keys: Keypair,
    pub(crate) me: PublicKey,
    pub(crate) names: Names,
    pub(crate) classes: Classes,
    pub(crate) mesh: Mesh,
    /// When it was drawn, or a member came, whichever was later.
    pub(crate) mesh_grew_ms: u64,
    pub(crate) book: Book,
    /// With the ports that the system chose, once it did.
    pub(crate) listen: Vec<Multiaddr>,
    pub(crate) announce: Vec<Multiaddr>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) sockets: Sockets,
    pub(crate) views: watch::Sender<Arc<Vec<PeerView>>>,
    pub(crate) hint_room: Arc<Semaphore>,
    pub(crate) request_room: Arc<Semaphore>,
    pub(crate) answer_room: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
    /// Peers that the agent believes to be up.
    up: BTreeMap<PublicKey, Class>,
    /// What must not be lost while the queue is full: per peer the last word, so it stays small.
    owed: VecDeque<Event>,
    begun: Instant,
}

impl Kept {
    pub(crate) fn new(
        config: Config,
        keys: Keypair,
        me: PublicKey,
        events: mpsc::Sender<Event>,
        views: watch::Sender<Arc<Vec<PeerView>>>,
    ) -> Result<Self, Error> {
        let parse = |texts: &[String]| {
            let parsed = texts.iter().map(|text| address(text));
            parsed.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            names: Names::new(config.realm.as_deref())?,
            listen: parse(&config.listen)?,
            announce: parse(&config.announce)?,
            config,
            keys,
            me,
            classes: Classes::default(),
            mesh: Mesh::default(),
            mesh_grew_ms: 0,
            book: Book::default(),
            counters: Arc::default(),
            sockets: Sockets::start()?,
            views,
            hint_room: Arc::new(Semaphore::new(HINT_BYTES_WAITING_MAX)),
            request_room: Arc::new(Semaphore::new(REQUEST_BYTES_WAITING_MAX)),
            answer_room: Arc::new(Semaphore::new(ANSWER_BYTES_WAITING_MAX)),
            events,
            up: BTreeMap::new(),
            owed: VecDeque::new(),
            begun: Instant::now(),
        })
    }

    /// Milliseconds since the start of this network.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The members changed: whom to hold a connection to.
    pub(crate) fn draw_mesh(&mut self) {
        let now_ms = self.now_ms();
        let held = self.classes.read();
        let mesh = mesh(&self.me, &held.members, &self.config.limits);
        if mesh != self.mesh {
            self.mesh = mesh;
            self.mesh_grew_ms = now_ms;
        }
        self.book.retain(self.me, &held.members, now_ms);
    }

    pub(crate) fn has_room_for_hint(&self) -> bool {
        self.events.capacity() > EVENTS_MAX / 2
    }

    pub(crate) fn has_room_for_stream(&self) -> bool {
        self.events.capacity() > EVENTS_MAX / 4
    }

    /// Tells the agent, or drops it: for what comes again, or whose absence somebody else notices.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    /// Tells the agent that a peer is up; nothing is told of strangers.
    pub(crate) fn tell_up(&mut self, event: Event) {
        if let Event::Up { peer, class, .. } = &event
            && *class != Class::Stranger
        {
            let came = self.up.insert(*peer, *class).is_none();
            if came && *class == Class::Member {
                self.mesh_grew_ms = self.now_ms();
            }
            self.owe(*peer, event);
        }
    }

    pub(crate) fn tell_down(&mut self, peer: PublicKey, reason: DownReason) {
        if self.up.remove(&peer).is_some() {
            self.owe(peer, Event::Down { peer, reason });
        }
    }

    /// All peers are down: the swarm is gone.
    pub(crate) fn tell_all_down(&mut self) {
        for peer in self.up.keys().copied().collect::<Vec<_>>() {
            self.tell_down(peer, DownReason::Restarted);
        }
        self.views.send_replace(Arc::default());
    }

    fn owe(&mut self, about: PublicKey, event: Event) {
        // Only these two are ever owed: the newer one says it all.
        self.owed.retain(|owed| {
            !matches!(owed, Event::Up { peer, .. } | Event::Down { peer, .. } if *peer == about)
        });
        self.owed.push_back(event);
        self.pay();
    }

    /// Hands over what was owed, in order.
    pub(crate) fn pay(&mut self) {
        while let Some(event) = self.owed.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.owed.push_front(event);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return self.owed.clear(),
            }
        }
    }
}

pub(crate) fn address(text: &str) -> Result<Multiaddr, Error> {
    text.parse()
        .map_err(|_| Error::Address(text.chars().take(200).collect()))
}
