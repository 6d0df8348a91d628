//! One invocation: what the guest's task, the caller and the response body know in common, and
//! the clockwork that interrupts a running guest.
//!
//! Time has three forms here. *Running* time is what is spent inside `poll` of the guest's call
//! (`epoch_timeout_ms`). *Wall* time is everything. An epoch *tick* is when a running guest is
//! looked at: it yields to the other tasks, pays for its fuel, and ends if it ran too long.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::{Result, StoreContextMut, UpdateDeadline};
use wasmtime_wasi_http::WasiBody;

use crate::fuel::Bucket;
use crate::meter::Meter;
use crate::outcome::Outcome;
use crate::state::State;

/// A guest that ran for longer than this takes turns with others of its kind, one per core: so
/// any number of spinning guests leaves the workers free for the rest. Ordinary requests run for
/// well below 1 ms.
const HOG_AFTER: Duration = Duration::from_millis(5);

/// No outcome yet.
const OPEN: u8 = u8::MAX;

/// The response head, or why there is none.
pub(crate) type Head = std::result::Result<http::Response<WasiBody>, Outcome>;

/// What the parts of one invocation know in common.
pub(crate) struct Shared {
    start: Instant,
    running_ns: AtomicU64,
    /// Nanoseconds after `start`, plus one, at which the current `poll` began; 0 outside.
    poll_began_ns: AtomicU64,
    outcome: AtomicU8,
    growth_denied: AtomicBool,
    started: AtomicBool,
    head: Mutex<Option<oneshot::Sender<Head>>>,
    head_sent: AtomicBool,
    reader: AtomicWaker,
    body_ended: Notify,
    hog: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            running_ns: AtomicU64::new(0),
            poll_began_ns: AtomicU64::new(0),
            outcome: AtomicU8::new(OPEN),
            growth_denied: AtomicBool::new(false),
            started: AtomicBool::new(false),
            head: Mutex::new(None),
            head_sent: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            body_ended: Notify::new(),
            hog: Mutex::new(None),
        })
    }

    /// Where the response head will arrive.
    pub(crate) fn expect_head(&self) -> oneshot::Receiver<Head> {
        let (sender, receiver) = oneshot::channel();
        *lock(&self.head) = Some(sender);
        receiver
    }

    /// Sends the response head; the first one counts.
    pub(crate) fn answer(&self, response: http::Response<WasiBody>) {
        if let Some(head) = lock(&self.head).take() {
            self.head_sent.store(true, Relaxed);
            // Nobody listens any more: the caller went away, and the task is about to end.
            let _ = head.send(Ok(response));
        }
    }

    pub(crate) fn answered(&self) -> bool {
        self.head_sent.load(Relaxed)
    }

    /// Sets the outcome, unless there is one, and tells whoever waits.
    pub(crate) fn conclude(&self, outcome: Outcome) {
        let first = self
            .outcome
            .compare_exchange(OPEN, outcome as u8, AcqRel, Acquire);
        if first.is_err() {
            return;
        }
        if let Some(head) = lock(&self.head).take() {
            let _ = head.send(Err(outcome));
        }
        self.reader.wake();
    }

    /// The outcome, if there is one.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        Outcome::from_byte(self.outcome.load(Acquire))
    }

    /// The outcome, if it is a bad one.
    pub(crate) fn failure(&self) -> Option<Outcome> {
        self.outcome().filter(|outcome| *outcome != Outcome::Ok)
    }

    /// The reader of the response body wants to know of a failure.
    pub(crate) fn watch(&self, reader: &Waker) {
        self.reader.register(reader);
    }

    pub(crate) fn end_body(&self) {
        self.body_ended.notify_one();
    }

    /// Waits until the response body was read whole.
    pub(crate) async fn body_ended(&self) {
        self.body_ended.notified().await;
    }

    /// The request body is too large: the answer is 413, unless the guest gave another one.
    pub(crate) fn refuse_body(&self) {
        if !self.answered() {
            self.conclude(Outcome::RequestTooLarge);
        }
    }

    /// An instance was made.
    pub(crate) fn start(&self) {
        self.started.store(true, Relaxed);
    }

    pub(crate) fn started(&self) -> bool {
        self.started.load(Relaxed)
    }

    pub(crate) fn deny_growth(&self) {
        self.growth_denied.store(true, Relaxed);
    }

    pub(crate) fn growth_denied(&self) -> bool {
        self.growth_denied.load(Relaxed)
    }

    /// Time inside `poll` so far.
    pub(crate) fn running(&self) -> Duration {
        let began = self.poll_began_ns.load(Relaxed);
        let current = match began {
            0 => 0,
            began => self.elapsed_ns().saturating_sub(began),
        };
        Duration::from_nanos(self.running_ns.load(Relaxed).saturating_add(current))
    }

    fn enter(&self) {
        self.poll_began_ns.store(self.elapsed_ns(), Relaxed);
    }

    fn leave(&self) {
        let began = self.poll_began_ns.swap(0, Relaxed);
        self.running_ns
            .fetch_add(self.elapsed_ns().saturating_sub(began), Relaxed);
        // A guest that waits must not keep its turn from the others.
        self.release_turn();
    }

    /// Never 0.
    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn keep_turn(&self, turn: OwnedSemaphorePermit) {
        *lock(&self.hog) = Some(turn);
    }

    fn release_turn(&self) {
        lock(&self.hog).take();
    }
}

/// Values that are replaced as a whole: a panic cannot leave one half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls `call` to its end or to `deadline`, and measures the time inside.
///
/// At the deadline the outcome is set before `call` (and the guest's store in it) is dropped, so
/// that the response body sees a failure, not an end.
pub(crate) async fn drive(shared: &Shared, deadline: Instant, call: impl Future<Output = ()>) {
    let mut call = pin!(call);
    let mut wall = pin!(tokio::time::sleep_until(deadline.into()));
    poll_fn(|context| {
        if wall.as_mut().poll(context).is_ready() {
            shared.conclude(Outcome::WallTimeout);
            return Poll::Ready(());
        }
        shared.enter();
        let polled = call.as_mut().poll(context);
        shared.leave();
        polled
    })
    .await;
}

/// What a running guest is held to at each tick.
pub(crate) struct Rein {
    pub(crate) running_max: Duration,
    pub(crate) bucket: Option<Arc<Bucket>>,
    pub(crate) hogs: Arc<Semaphore>,
    pub(crate) meter: Arc<Meter>,
    /// Fuel that was left when the guest was last charged.
    pub(crate) fuel_left: u64,
}

impl Rein {
    /// Charges what was used since the last time.
    pub(crate) fn charge(&mut self, fuel_left: u64, now: Instant) {
        if let Some(bucket) = &self.bucket {
            let used = self.fuel_left.saturating_sub(fuel_left);
            self.fuel_left = fuel_left;
            self.meter.burned(used);
            bucket.charge(used, now);
        }
    }
}

/// The epoch callback: ends, suspends or only interrupts the guest.
pub(crate) fn on_tick(mut store: StoreContextMut<'_, State>) -> Result<UpdateDeadline> {
    let now = Instant::now();
    let fuel_left = store.get_fuel().unwrap_or(u64::MAX);
    let state = store.data_mut();
    state.rein.meter.preempted();
    state.rein.charge(fuel_left, now);
    let running = state.shared.running();
    if running >= state.rein.running_max {
        state.shared.conclude(Outcome::EpochTimeout);
        return Ok(UpdateDeadline::Interrupt);
    }
    let indebted = state
        .rein
        .bucket
        .as_ref()
        .filter(|bucket| bucket.wait(now).is_some());
    let hog = running >= HOG_AFTER;
    if indebted.is_none() && !hog {
        return Ok(UpdateDeadline::Yield(1));
    }
    state.shared.release_turn();
    let bucket = indebted.cloned();
    Ok(UpdateDeadline::YieldCustom(1, suspend(state, bucket, hog)))
}

/// Waits until the fuel debt is paid, and for a turn.
fn suspend(
    state: &State,
    bucket: Option<Arc<Bucket>>,
    hog: bool,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let shared = Arc::clone(&state.shared);
    let meter = Arc::clone(&state.rein.meter);
    let hogs = Arc::clone(&state.rein.hogs);
    Box::pin(async move {
        if let Some(bucket) = bucket {
            settle(&bucket, &meter).await;
        }
        // Even where a turn is free at once, the other tasks of this worker come first.
        tokio::task::yield_now().await;
        if hog && let Ok(turn) = hogs.acquire_owned().await {
            shared.keep_turn(turn);
        }
    })
}

/// Waits until the bucket is out of debt, and counts the time, however the wait ends.
pub(crate) async fn settle(bucket: &Bucket, meter: &Meter) {
    if bucket.wait(Instant::now()).is_none() {
        return;
    }
    let _throttled = Throttled {
        meter,
        began: Instant::now(),
    };
    while let Some(wait) = bucket.wait(Instant::now()) {
        tokio::time::sleep(wait).await;
    }
}

struct Throttled<'a> {
    meter: &'a Meter,
    began: Instant,
}

impl Drop for Throttled<'_> {
    fn drop(&mut self) {
        self.meter.throttled(self.began.elapsed());
    }
}
