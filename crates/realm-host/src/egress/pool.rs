//! Connections of one component that wait for its next request to the same target.
//!
//! Each was dialled to an address that the rules of this very component allowed, and none is used
//! for longer than `AGE_MAX`, so that a name can move. Never shared with another component: what a
//! connection carries, and how fast, is nobody else's to see. Not here: dialling (`send`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::{TrySendError, http1, http2};
use tokio::time::{Instant, sleep_until, timeout};
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi_http::{Error, WasiBody};

use super::http::Target;

/// How long a connection waits. Below the 5 s after which common servers close theirs, so that a
/// request seldom meets a connection that is just going.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// How long a connection is used: after that the name is looked up again.
const AGE_MAX: Duration = Duration::from_secs(120);
/// How long a connection may take to get ready after the answer before: its task has yet to run.
const READY_TIMEOUT: Duration = Duration::from_millis(20);
/// Connections that wait, per target: what a steady load keeps busy.
const IDLE_PER_TARGET_MAX: usize = 32;
/// Connections of one component, per target and in all: what stands behind a target has bounds as
/// well, and each takes a descriptor of this process. One more is refused at once.
const PER_TARGET_MAX: u32 = 256;
const CONNECTIONS_MAX: u32 = 512;
/// Requests at once on one connection of HTTP/2: with the windows in `send`, a guest that does not
/// read its answer leaves room for the others.
pub(super) const STREAMS_MAX: usize = 16;

/// Connections that are tried before a new one is made.
const TRIES_MAX: usize = 3;

/// The connections of a component.
#[derive(Default)]
pub(super) struct Pool {
    waiting: Mutex<Waiting>,
    open: Mutex<Open>,
}

/// Those that wait. A connection that is dropped here gives its place back, so this lock is taken
/// before the other one, never after it.
#[derive(Default)]
struct Waiting {
    idle: BTreeMap<Target, Vec<Idle>>,
    /// Whether a task waits for the next connection to grow too old.
    reaping: bool,
}

/// How many there are.
#[derive(Default)]
struct Open {
    by_target: BTreeMap<Target, u32>,
    sum: u32,
}

/// What the pool keeps: for HTTP/2 also while it is used.
enum Idle {
    One(Box<One>, Instant),
    Many(Arc<Many>),
}

/// A connection of HTTP/1.1.
pub(super) struct One {
    pub(super) sender: http1::SendRequest<WasiBody>,
    link: Link,
}

/// A connection of HTTP/2.
pub(super) struct Many {
    sender: http2::SendRequest<WasiBody>,
    /// What the other side takes at once.
    streams_max: Arc<AtomicUsize>,
    /// After a request without an answer, nobody else is to wait for one here.
    broken: AtomicBool,
    used: Mutex<Instant>,
    link: Link,
}

/// What every connection holds.
pub(super) struct Link {
    born: Instant,
    /// Ends with whoever holds it.
    _task: AbortOnDropJoinHandle<()>,
    _place: Reserved,
}

/// A place that is taken, for a connection that is being made or is there.
pub(super) struct Reserved {
    pool: Weak<Pool>,
    target: Target,
}

/// A connection for one request.
pub(super) struct Lease {
    connection: Connection,
    /// Whether it served before, and may be gone without knowing.
    pub(super) is_used: bool,
    pool: Weak<Pool>,
    target: Target,
}

pub(super) enum Connection {
    One(Box<One>),
    Many(Arc<Many>),
}

type Sent = Result<http::Response<hyper::body::Incoming>, TrySendError<http::Request<WasiBody>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each step leaves what is inside whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A connection that waits, and is ready.
    pub(super) async fn take(self: &Arc<Self>, target: &Target) -> Option<Lease> {
        for _ in 0..TRIES_MAX {
            let mut connection = lock(&self.waiting).take(target)?;
            let is_ready = match &mut connection {
                Connection::One(one) => {
                    let ready = timeout(READY_TIMEOUT, one.sender.ready()).await;
                    matches!(ready, Ok(Ok(())))
                }
                Connection::Many(many) => many.sender.is_ready(),
            };
            if is_ready {
                return Some(self.lease(target, connection, true));
            }
        }
        None
    }

    /// A place for one more connection.
    pub(super) fn reserve(self: &Arc<Self>, target: &Target) -> Result<Reserved, Error> {
        loop {
            if lock(&self.open).take(target)? {
                return Ok(Reserved {
                    pool: Arc::downgrade(self),
                    target: target.clone(),
                });
            }
            // One that waits, for another target as a rule, makes room.
            let oldest = lock(&self.waiting).oldest();
            if oldest.is_none() {
                return Err(Error::ConnectionLimitReached);
            }
        }
    }

    /// A connection that was just made.
    pub(super) fn first(self: &Arc<Self>, target: &Target, connection: Connection) -> Lease {
        if let Connection::Many(many) = &connection {
            self.keep(target, Idle::Many(Arc::clone(many)));
        }
        self.lease(target, connection, false)
    }

    fn lease(self: &Arc<Self>, target: &Target, connection: Connection, is_used: bool) -> Lease {
        Lease {
            connection,
            is_used,
            pool: Arc::downgrade(self),
            target: target.clone(),
        }
    }

    fn keep(self: &Arc<Self>, target: &Target, idle: Idle) {
        let mut waiting = lock(&self.waiting);
        let same = waiting.idle.entry(target.clone()).or_default();
        if same.len() >= IDLE_PER_TARGET_MAX {
            return;
        }
        same.push(idle);
        if !std::mem::replace(&mut waiting.reaping, true) {
            tokio::spawn(reap(Arc::downgrade(self)));
        }
    }
}

/// Closes what waits for too long; ends when nothing waits, or with the pool.
async fn reap(pool: Weak<Pool>) {
    loop {
        sleep_until(Instant::now() + IDLE_MAX).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut waiting = lock(&pool.waiting);
        waiting.close_old();
        if waiting.idle.is_empty() {
            waiting.reaping = false;
            return;
        }
    }
}

impl Open {
    /// Whether there was a place; an error where only this target has too many.
    fn take(&mut self, target: &Target) -> Result<bool, Error> {
        let open = self.by_target.get(target).copied().unwrap_or_default();
        if open >= PER_TARGET_MAX {
            return Err(Error::ConnectionLimitReached);
        }
        if self.sum >= CONNECTIONS_MAX {
            return Ok(false);
        }
        self.by_target.insert(target.clone(), open + 1);
        self.sum += 1;
        Ok(true)
    }

    fn give_back(&mut self, target: &Target) {
        self.sum = self.sum.saturating_sub(1);
        let Some(open) = self.by_target.get_mut(target) else {
            return;
        };
        *open = open.saturating_sub(1);
        if *open == 0 {
            self.by_target.remove(target);
        }
    }
}

impl Waiting {
    fn take(&mut self, target: &Target) -> Option<Connection> {
        let same = self.idle.get_mut(target)?;
        let now = Instant::now();
        same.retain(|idle| !idle.is_over(now));
        if let Some(many) = same.iter().find_map(Idle::room) {
            return Some(Connection::Many(many));
        }
        // The last one first: the others grow old and go.
        let index = same
            .iter()
            .rposition(|idle| matches!(idle, Idle::One(..)))?;
        match same.swap_remove(index) {
            Idle::One(one, _) => Some(Connection::One(one)),
            Idle::Many(_) => None,
        }
    }

    /// What nobody uses and has waited for the longest.
    fn oldest(&mut self) -> Option<Idle> {
        let all = self.idle.iter().flat_map(|(target, same)| {
            let numbered = same.iter().enumerate();
            numbered.filter_map(move |(index, idle)| Some((idle.since()?, target, index)))
        });
        let (_, target, index) = all.min_by_key(|(since, ..)| *since)?;
        let target = target.clone();
        Some(self.idle.get_mut(&target)?.swap_remove(index))
    }

    fn close_old(&mut self) {
        let now = Instant::now();
        self.idle.retain(|_, same| {
            same.retain(|idle| !idle.is_over(now));
            !same.is_empty()
        });
    }
}

impl Idle {
    /// HTTP/2 with room for one more request; one reference is the pool's.
    fn room(&self) -> Option<Arc<Many>> {
        match self {
            // More than the other side takes would wait for each other.
            Self::Many(many) => {
                let streams_max = many.streams_max.load(Relaxed).min(STREAMS_MAX);
                (Arc::strong_count(many) <= streams_max).then(|| Arc::clone(many))
            }
            Self::One(..) => None,
        }
    }

    /// Since when nobody uses it.
    fn since(&self) -> Option<Instant> {
        match self {
            Self::One(_, since) => Some(*since),
            Self::Many(many) if Arc::strong_count(many) == 1 => Some(*lock(&many.used)),
            Self::Many(_) => None,
        }
    }

    /// Whether nobody shall take it any more; who uses it still may.
    fn is_over(&self, now: Instant) -> bool {
        let (is_gone, link) = match self {
            Self::One(one, _) => (one.sender.is_closed(), &one.link),
            Self::Many(many) => {
                let is_gone = many.sender.is_closed() || many.broken.load(Relaxed);
                (is_gone, &many.link)
            }
        };
        is_gone
            || link.born + AGE_MAX <= now
            || self.since().is_some_and(|since| since + IDLE_MAX <= now)
    }
}

impl Link {
    pub(super) fn new(
        reserved: Reserved,
        connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static,
    ) -> Self {
        let task = async {
            // How it ended is told to whoever waits for an answer.
            let _ = connection.await;
        };
        Self {
            born: Instant::now(),
            _task: wasmtime_wasi::runtime::spawn(task),
            _place: reserved,
        }
    }
}

impl Connection {
    pub(super) fn one(sender: http1::SendRequest<WasiBody>, link: Link) -> Self {
        Self::One(Box::new(One { sender, link }))
    }

    pub(super) fn many(
        sender: http2::SendRequest<WasiBody>,
        streams_max: Arc<AtomicUsize>,
        link: Link,
    ) -> Self {
        Self::Many(Arc::new(Many {
            sender,
            streams_max,
            broken: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
            link,
        }))
    }
}

impl Lease {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.connection, Connection::Many(_))
    }

    pub(super) async fn send(&mut self, request: http::Request<WasiBody>) -> Sent {
        match &mut self.connection {
            Connection::One(one) => one.sender.try_send_request(request).await,
            Connection::Many(many) => many.sender.clone().try_send_request(request).await,
        }
    }

    /// There was no answer in time: nobody shall wait here again.
    pub(super) fn give_up(&self) {
        if let Connection::Many(many) = &self.connection {
            many.broken.store(true, Relaxed);
        }
    }

    /// The answer is there, to its end.
    pub(super) fn give_back(self) {
        match self.connection {
            Connection::One(one) if !one.sender.is_closed() => {
                if let Some(pool) = self.pool.upgrade() {
                    pool.keep(&self.target, Idle::One(one, Instant::now()));
                }
            }
            Connection::One(_) => {}
            Connection::Many(many) => *lock(&many.used) = Instant::now(),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            lock(&pool.open).give_back(&self.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target {
            tls: false,
            host: host.to_owned(),
            port: 80,
        }
    }

    #[test]
    fn there_is_an_end_to_the_connections_of_a_component() {
        let pool = Arc::new(Pool::default());
        let reserve = |host: &str| pool.reserve(&target(host));
        let mut held: Vec<_> = (0..PER_TARGET_MAX).map(|_| reserve("a").ok()).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(matches!(reserve("a"), Err(Error::ConnectionLimitReached)));
        held.extend((0..CONNECTIONS_MAX - PER_TARGET_MAX).map(|_| reserve("b").ok()));
        assert!(held.iter().all(Option::is_some));
        assert!(matches!(reserve("c"), Err(Error::ConnectionLimitReached)));
        held.pop();
        assert!(reserve("c").is_ok());
        drop(held);
        let open = lock(&pool.open);
        assert_eq!((open.sum, open.by_target.len()), (0, 0));
    }
}
