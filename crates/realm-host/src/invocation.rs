//! One invocation: what the guest's task, the caller and the response body know in common, and
//! the clockwork that interrupts a running guest.
//!
//! Time has three forms here. *Running* time is what is spent inside `poll` of the guest's call
//! (`epoch_timeout_ms`). *Wall* time is everything. An epoch *tick* is when a running guest is
//! looked at: it yields to the other tasks, pays for its fuel, and ends if it ran too long.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep_until};
use wasmtime::{AsContextMut as _, Result, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi_http::WasiBody;

use crate::cloud::otel::Caller;
use crate::config::GuestTask;
use crate::deadline::{Deadline, Deadlines};
use crate::engine::Host;
use crate::fuel::Bucket;
use crate::heavy::{self, HEAVY_AFTER, HEAVY_AFTER_TICKS};
use crate::logs::Ear;
use crate::meter::Meter;
use crate::outcome::Outcome;
use crate::state::State;
use crate::term::Term;

/// What a poll that only serves stays far below: a tick.
const LONG_POLL: Duration = Duration::from_millis(1);

/// No outcome yet.
const OPEN: u8 = u8::MAX;

/// The response head, or why there is none.
pub(crate) type Head = std::result::Result<http::Response<WasiBody>, Outcome>;

/// What the parts of one invocation know in common.
pub(crate) struct Shared {
    start: Instant,
    running_ns: AtomicU64,
    /// When the current `poll` began, as `now_ns` has it; 0 outside.
    poll_began_ns: AtomicU64,
    outcome: AtomicU8,
    /// Bytes that were asked for in vain, all in all; 0: never.
    growth_denied: AtomicU64,
    started: AtomicBool,
    head: Mutex<Option<oneshot::Sender<Head>>>,
    head_sent: AtomicBool,
    reader: AtomicWaker,
    body_ended: Notify,
    /// Nothing of the request is left in the guest's hands.
    request_gone: AtomicBool,
    /// It is a case for the heavy threads.
    heavy: AtomicBool,
    /// It is there.
    moved: AtomicBool,
    /// Who hears what the guest writes.
    ear: OnceLock<Ear>,
    /// Who asked; nobody where it is no request.
    caller: OnceLock<Caller>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            running_ns: AtomicU64::new(0),
            poll_began_ns: AtomicU64::new(0),
            outcome: AtomicU8::new(OPEN),
            growth_denied: AtomicU64::new(0),
            started: AtomicBool::new(false),
            head: Mutex::new(None),
            head_sent: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            body_ended: Notify::new(),
            request_gone: AtomicBool::new(false),
            heavy: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            ear: OnceLock::new(),
            caller: OnceLock::new(),
        })
    }

    /// Somebody hears what the guest writes, from its beginning.
    pub(crate) fn tell(&self, ear: Ear) {
        let _ = self.ear.set(ear);
    }

    pub(crate) fn ear(&self) -> Option<&Ear> {
        self.ear.get()
    }

    /// It answers a request.
    pub(crate) fn called_by(&self, caller: Caller) {
        let _ = self.caller.set(caller);
    }

    pub(crate) fn caller(&self) -> Option<&Caller> {
        self.caller.get()
    }

    /// How long ago it began.
    pub(crate) fn age(&self) -> Duration {
        self.start.elapsed()
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

    /// The answer is too large, and may be so after the guest came to a good end: what it wrote
    /// last is read later. Whether that is the outcome.
    pub(crate) fn overrule(&self) -> bool {
        let too_large = Outcome::ResponseTooLarge;
        let was = self.outcome.fetch_update(AcqRel, Acquire, |outcome| {
            [OPEN, Outcome::Ok as u8]
                .contains(&outcome)
                .then_some(too_large as u8)
        });
        was.is_ok()
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

    /// The request body is too large, or does not come: that is the answer, unless the guest gave
    /// another one.
    pub(crate) fn refuse_body(&self, outcome: Outcome) {
        if !self.answered() {
            self.conclude(outcome);
        }
    }

    pub(crate) fn let_go_of_request(&self) {
        self.request_gone.store(true, Relaxed);
    }

    /// Whether another invocation may follow in the same instance: this one has its answer, and
    /// the guest holds nothing of its request.
    pub(crate) fn ended_well(&self) -> bool {
        self.outcome() == Some(Outcome::Ok)
            && self.request_gone.load(Relaxed)
            && self.growth_denied().is_none()
    }

    /// An instance was made.
    pub(crate) fn start(&self) {
        self.started.store(true, Relaxed);
    }

    pub(crate) fn started(&self) -> bool {
        self.started.load(Relaxed)
    }

    /// The guest was to have `bytes` in all, and does not get them.
    pub(crate) fn deny_growth(&self, bytes: u64) {
        self.growth_denied.fetch_max(bytes, Relaxed);
    }

    /// The most that was asked for in vain.
    pub(crate) fn growth_denied(&self) -> Option<u64> {
        let bytes = self.growth_denied.load(Relaxed);
        (bytes > 0).then_some(bytes)
    }

    /// Time inside `poll` so far.
    pub(crate) fn running(&self) -> Duration {
        let began = self.poll_began_ns.load(Relaxed);
        let current = match began {
            0 => 0,
            began => self.now_ns().saturating_sub(began),
        };
        Duration::from_nanos(self.running_ns.load(Relaxed).saturating_add(current))
    }

    fn enter(&self) {
        self.poll_began_ns.store(self.now_ns(), Relaxed);
    }

    /// How long it was inside.
    fn leave(&self) -> Duration {
        let began = self.poll_began_ns.swap(0, Relaxed);
        let inside_ns = self.now_ns().saturating_sub(began);
        self.running_ns.fetch_add(inside_ns, Relaxed);
        Duration::from_nanos(inside_ns)
    }

    /// What running time is measured by, inside one `poll`: the clock, and on the heavy threads,
    /// where others come first, the processor's time of this thread. Never 0.
    fn now_ns(&self) -> u64 {
        let time = if self.moved.load(Relaxed) {
            heavy::thread_time()
        } else {
            self.start.elapsed()
        };
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

/// Values that are replaced as a whole: a panic cannot leave one half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest's call: on the heap, since it may move to another thread pool.
pub(crate) type Call = GuestTask;

/// Polls `call` to its end, to its wall time or to the end of `term`, and measures the time inside; moves it to
/// the heavy threads once it is a case for them, or `at_once`.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    wall: Wall,
    host: &Host,
    at_once: bool,
    call: Call,
    term: Option<Term>,
) {
    let Some(term) = term else {
        return drive_freely(shared, wall, host, at_once, call).await;
    };
    let over = async {
        term.over().await;
        // Before the guest's store goes, as at the wall time.
        shared.conclude(Outcome::Stopped);
    };
    tokio::select! {
        biased;
        () = over => {}
        () = drive_freely(Arc::clone(&shared), wall, host, at_once, call) => {}
    }
}

async fn drive_freely(
    shared: Arc<Shared>,
    mut wall: Wall,
    host: &Host,
    at_once: bool,
    mut call: Call,
) {
    if !at_once && poll(&shared, Some(&mut wall), &mut call, true).await == Polled::Ended {
        return;
    }
    let Some(threads) = host.0.heavy.handle() else {
        poll(&shared, Some(&mut wall), &mut call, false).await;
        return;
    };
    shared.moved.store(true, Relaxed);
    let there = Arc::clone(&shared);
    let task = threads.spawn(async move {
        poll(&there, None, &mut call, false).await;
    });
    // Ends with this future, as the call would.
    let mut task = AbortOnDropJoinHandle::from(task);
    // The wall time is kept here: where others want all the processor there is, those threads have no time
    // to look at it.
    poll_fn(|context| match Pin::new(&mut task).poll(context) {
        Poll::Pending if wall.is_over(context) => {
            shared.conclude(Outcome::WallTimeout);
            Poll::Ready(())
        }
        polled @ (Poll::Ready(()) | Poll::Pending) => polled,
    })
    .await;
}

/// What a guest came to, while `driving` it. One that was ended is not waited for: where others want all the
/// processor there is, it waits for some until it is gone itself, and so does its place among those of its
/// component.
pub(crate) async fn said<T>(
    mut receiver: oneshot::Receiver<T>,
    driving: JoinHandle<()>,
    shared: &Shared,
) -> Option<T> {
    tokio::select! {
        biased;
        said = &mut receiver => return said.ok(),
        _ = driving => {}
    }
    let is_ended = matches!(
        shared.outcome(),
        Some(Outcome::WallTimeout | Outcome::Stopped | Outcome::Cancelled)
    );
    match is_ended {
        true => receiver.try_recv().ok(),
        // It has done, and is about to say so.
        false => receiver.await.ok(),
    }
}

#[derive(PartialEq, Eq)]
enum Polled {
    Ended,
    Heavy,
}

/// The wall time of one call.
pub(crate) enum Wall {
    /// Kept by the epoch thread, entered when the call first waits for something.
    Request {
        at: Instant,
        deadlines: Arc<Deadlines>,
        entered: Option<Deadline>,
    },
    /// Kept by a timer: the epoch thread need not run while a program waits.
    Run(Pin<Box<Sleep>>),
}

impl Wall {
    pub(crate) fn of_a_request(at: Instant, host: &Host) -> Self {
        Self::Request {
            at,
            deadlines: Arc::clone(host.0.ticker.deadlines()),
            entered: None,
        }
    }

    pub(crate) fn of_a_run(at: Instant) -> Self {
        Self::Run(Box::pin(sleep_until(at.into())))
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        match self {
            Self::Request {
                at,
                deadlines,
                entered,
            } => entered
                .get_or_insert_with(|| deadlines.enter(*at))
                .is_over(context.waker()),
            Self::Run(timer) => timer.as_mut().poll(context).is_ready(),
        }
    }
}

/// At the deadline, if it is kept here (`wall`), the outcome is set before the caller drops `call` (and the
/// guest's store in it), so that the response body sees a failure, not an end.
async fn poll(
    shared: &Shared,
    mut wall: Option<&mut Wall>,
    call: &mut Call,
    movable: bool,
) -> Polled {
    let mut n_long = 0;
    poll_fn(|context| {
        shared.enter();
        let polled = call.as_mut().poll(context);
        // The host computes for the guest, piece by piece, and no tick sees it: this does.
        n_long += u32::from(shared.leave() >= LONG_POLL);
        if n_long >= HEAVY_AFTER_TICKS && shared.running() >= HEAVY_AFTER {
            shared.heavy.store(true, Relaxed);
        }
        let is_over = |wall: &mut &mut Wall| wall.is_over(context);
        if polled.is_pending() && wall.as_mut().is_some_and(is_over) {
            shared.conclude(Outcome::WallTimeout);
            return Poll::Ready(Polled::Ended);
        }
        if polled.is_pending() && movable && shared.heavy.load(Relaxed) {
            return Poll::Ready(Polled::Heavy);
        }
        polled.map(|()| Polled::Ended)
    })
    .await
}

/// What a running guest is held to at each tick.
pub(crate) struct Rein {
    pub(crate) running_max: Duration,
    pub(crate) bucket: Option<Arc<Bucket>>,
    pub(crate) meter: Arc<Meter>,
    /// Fuel that was left when the guest was last charged.
    pub(crate) fuel_left: u64,
    /// How often this invocation was looked at.
    pub(crate) ticks: u32,
}

/// Charges a guest for the fuel that it used since the last time.
pub(crate) fn charge(mut store: StoreContextMut<'_, State>, now: Instant) {
    // Asked only where fuel is counted: elsewhere the question makes an error.
    if store.data().rein.bucket.is_none() {
        return;
    }
    let left = store.get_fuel().unwrap_or(u64::MAX);
    let rein = &mut store.data_mut().rein;
    let used = rein.fuel_left.saturating_sub(left);
    rein.fuel_left = left;
    rein.meter.burned(used);
    if let Some(bucket) = &rein.bucket {
        bucket.charge(used, now);
    }
}

/// The epoch callback: ends, suspends or only interrupts the guest.
pub(crate) fn on_tick(mut store: StoreContextMut<'_, State>) -> Result<UpdateDeadline> {
    let now = Instant::now();
    charge(store.as_context_mut(), now);
    let state = store.data_mut();
    state.rein.meter.preempted();
    let running = state.shared.running();
    if running >= state.rein.running_max {
        state.shared.conclude(Outcome::EpochTimeout);
        return Ok(UpdateDeadline::Interrupt);
    }
    state.rein.ticks += 1;
    // Both: a thread that had to wait for a processor saw few ticks in a long time, and ticks come
    // fast where they were held up.
    if running >= HEAVY_AFTER && state.rein.ticks >= HEAVY_AFTER_TICKS {
        state.shared.heavy.store(true, Relaxed);
    }
    match &state.rein.bucket {
        Some(bucket) if bucket.wait(now).is_some() => {
            let bucket = Arc::clone(bucket);
            let meter = Arc::clone(&state.rein.meter);
            let settled = Box::pin(async move { settle(&bucket, &meter).await });
            Ok(UpdateDeadline::YieldCustom(1, settled))
        }
        Some(_) | None => Ok(UpdateDeadline::Yield(1)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// The name of the thread on which a call ends that computes in so many pieces of 3 ms.
    async fn ends_on(n_pieces: u32) -> Option<String> {
        let host = Host::cold(Config::default()).unwrap();
        let (sender, ended) = std::sync::mpsc::channel();
        let call: Call = Box::pin(async move {
            for _ in 0..n_pieces {
                let until = Instant::now() + Duration::from_millis(3);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
            let thread = std::thread::current();
            sender.send(thread.name().map(str::to_owned)).unwrap();
        });
        let wall = Wall::of_a_run(Instant::now() + Duration::from_secs(60));
        drive(Shared::new(), wall, &host, false, call, None).await;
        ended.recv().unwrap()
    }

    #[tokio::test]
    async fn who_has_done_is_heard_and_who_was_ended_is_not_waited_for() {
        let done = Shared::new();
        done.conclude(Outcome::Ok);
        let (sender, receiver) = oneshot::channel();
        let driving = tokio::spawn(async {});
        let says = tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sender.send("done").unwrap();
        });
        assert_eq!(said(receiver, driving, &done).await, Some("done"));
        says.await.unwrap();

        let ended = Shared::new();
        ended.conclude(Outcome::WallTimeout);
        let (_sender, receiver) = oneshot::channel::<()>();
        assert_eq!(said(receiver, tokio::spawn(async {}), &ended).await, None);
    }

    #[tokio::test]
    async fn what_the_host_computes_for_a_guest_leaves_the_serving_threads_too() {
        assert_ne!(ends_on(1).await.as_deref(), Some("realm-heavy"));
        assert_eq!(ends_on(20).await.as_deref(), Some("realm-heavy"));
    }
}
