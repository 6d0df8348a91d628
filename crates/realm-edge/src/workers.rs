//! The threads that serve connections: one per core, each with a runtime of its own, so that a
//! request never crosses threads and wakes nobody.
//!
//! Where there is one for each core they stay there. Linux places threads by how busy the cores
//! are, and counts for that what runs at idle priority: beside guests that compute it leaves two
//! serving threads on one core for many milliseconds, and the other core to the guests.
//!
//! A new connection goes to the thread that was given the fewest lately, and in the long run to the one that
//! has the fewest: connections that come together are divided evenly, wherever short ones happen to wait at
//! that moment. Not a listener per thread (`SO_REUSEPORT`): the kernel's choice is blind to load, and a
//! second process could share the port unnoticed. What web servers bring over FastCGI is accepted where it is served, by whoever wakes
//! up first; of a burst that may be one thread alone, which then passes on what is over its share.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::turns;

/// Threads for blocking work (files of guests) that one worker may start: all workers together
/// stay below what tokio gives a whole process.
const BLOCKING_THREADS_MAX: usize = 64;
/// A worker that accepts connections itself passes them on once it has an eighth more than the one with the
/// fewest, and two: kept ones stay for hours where they are, and short ones that come and go by chance
/// cost a waking less where they came.
const SHARE_OVER: usize = 8;
/// As many connections that a worker has count like one that it was given just now.
const GIVEN_WEIGHT: u64 = 64;
/// A worker that was given one counts half as much after so long.
const GIVEN_HALF_LIFE: Duration = Duration::from_millis(250);

/// The workers of one edge.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    next: AtomicUsize,
    given: Mutex<Given>,
    stop: CancellationToken,
}

/// What workers were given lately.
struct Given {
    /// Of each worker, in parts of [`GIVEN_WEIGHT`].
    parts: Vec<u64>,
    halved_at: Instant,
}

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's place at one worker, given back when dropped.
pub(crate) struct Seat {
    pub(crate) runtime: Handle,
    /// Which one that is.
    pub(crate) worker: usize,
    connections: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` threads; none: connections are served by the runtime of the caller. Who waits for longer
    /// than `turn_timeout` for a turn gets none.
    pub(crate) fn start(count: usize, turn_timeout: Duration) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let cores = Cores::of_this_thread();
        let runtimes = match count {
            0 => vec![Handle::current()],
            _ => (0..count)
                .map(|index| start(index, cores.share(index, count), turn_timeout, &stop))
                .collect::<io::Result<_>>()
                // Those that did start have nothing to do.
                .inspect_err(|_| stop.cancel())?,
        };
        let worker = |runtime| Worker {
            runtime,
            connections: Arc::default(),
        };
        let workers: Vec<_> = runtimes.into_iter().map(worker).collect();
        Ok(Self {
            given: Mutex::new(Given::new(workers.len())),
            workers,
            next: AtomicUsize::new(0),
            stop,
        })
    }

    /// A seat for one more connection; where several workers are due, they take turns.
    pub(crate) fn seat(&self) -> Seat {
        self.seat_by(Instant::now())
    }

    fn seat_by(&self, now: Instant) -> Seat {
        // A panic leaves no more than a count behind.
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.halve(now);
        let index = self.first_by(|index| {
            let has = u64::try_from(self.connections(index)).unwrap_or(u64::MAX);
            given.parts[index].saturating_add(has)
        });
        given.parts[index] += GIVEN_WEIGHT;
        self.seat_at(index)
    }

    /// A seat at this worker, which has accepted the connection, unless it has clearly more than its share:
    /// then at the one with the fewest.
    pub(crate) fn seat_near(&self, index: usize) -> Seat {
        let idlest = self.first_by(|index| self.connections(index));
        let fewest = self.connections(idlest);
        let share = fewest + fewest / SHARE_OVER + 1;
        self.seat_at(match self.connections(index) <= share {
            true => index,
            false => idlest,
        })
    }

    /// The worker that has the least.
    fn first_by<K: Ord>(&self, key: impl Fn(usize) -> K) -> usize {
        let count = self.workers.len();
        let first = self.next.fetch_add(1, Relaxed) % count;
        (0..count)
            .map(|offset| (first + offset) % count)
            .min_by_key(|worker| key(*worker))
            .expect("there is one at least")
    }

    fn connections(&self, index: usize) -> usize {
        self.workers[index].connections.load(Relaxed)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.workers.len()
    }

    /// A seat at this worker.
    pub(crate) fn seat_at(&self, index: usize) -> Seat {
        let worker = &self.workers[index];
        worker.connections.fetch_add(1, Relaxed);
        Seat {
            runtime: worker.runtime.clone(),
            worker: index,
            connections: Arc::clone(&worker.connections),
        }
    }

    /// Ends the threads, and what still runs there.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Given {
    fn new(count: usize) -> Self {
        Self {
            parts: vec![0; count],
            halved_at: Instant::now(),
        }
    }

    fn halve(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.halved_at);
        let times = passed.as_nanos() / GIVEN_HALF_LIFE.as_nanos();
        if times > 0 {
            self.halved_at = now;
            let times = u32::try_from(times).unwrap_or(u32::MAX).min(u64::BITS - 1);
            self.parts.iter_mut().for_each(|parts| *parts >>= times);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

/// The cores that a thread may run on; `None`: the system does not say.
#[derive(Clone, Copy)]
struct Cores(Option<CpuSet>);

/// A thread's own core, and those of the threads that it starts.
struct Share {
    own: Cores,
    all: Cores,
}

impl Cores {
    fn of_this_thread() -> Self {
        Self(sched_getaffinity(None).ok())
    }

    /// What thread `index` of `count` gets: a core of its own if that leaves none without a
    /// thread. A process that may use a part of its cores' time has fewer threads than cores.
    fn share(self, index: usize, count: usize) -> Share {
        let own = self.0.and_then(|all| {
            let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
            let mut own = CpuSet::new();
            own.set(cores.nth(index)?);
            (all.count() as usize == count).then_some(own)
        });
        Share {
            own: Self(own),
            all: self,
        }
    }

    /// Holds the calling thread to these cores. Without that it only is a little slower.
    fn keep(self) {
        if let Some(cores) = self.0
            && let Err(error) = sched_setaffinity(None, &cores)
        {
            tracing::debug!(%error, "a serving thread has no core of its own");
        }
    }
}

fn start(
    index: usize,
    share: Share,
    turn_timeout: Duration,
    stop: &CancellationToken,
) -> io::Result<Handle> {
    let Share { own, all } = share;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        // A thread begins on the cores of the one that starts it.
        .on_thread_start(move || all.keep())
        .build()?;
    let handle = runtime.handle().clone();
    let stopped = stop.clone();
    let thread = std::thread::Builder::new().name(format!("realm-edge-{index}"));
    // Nobody waits for it: what matters has ended before it is told to stop.
    let _: JoinHandle<()> = thread.spawn(move || {
        own.keep();
        runtime.block_on(async {
            turns::divide(turn_timeout);
            stopped.cancelled().await;
        });
        // A file operation that hangs must not hold up the end.
        runtime.shutdown_background();
    })?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TURN_TIMEOUT;

    fn workers(count: usize) -> Workers {
        let workers = (0..count).map(|_| Worker {
            runtime: Handle::current(),
            connections: Arc::default(),
        });
        Workers {
            workers: workers.collect(),
            next: AtomicUsize::new(0),
            given: Mutex::new(Given::new(count)),
            stop: CancellationToken::new(),
        }
    }

    fn connections(workers: &Workers) -> Vec<usize> {
        let count = |worker: &Worker| worker.connections.load(Relaxed);
        workers.workers.iter().map(count).collect()
    }

    #[tokio::test]
    async fn connections_spread_evenly_and_fill_up_gaps() {
        let workers = workers(3);
        let now = Instant::now();
        let mut seats: Vec<_> = (0..60).map(|_| workers.seat_by(now)).collect();
        assert_eq!(connections(&workers), [20, 20, 20]);
        seats.retain(|seat| seat.worker != 1);
        assert_eq!(connections(&workers), [20, 0, 20]);
        // One after another, as they come where there is time.
        for seconds in 1..=20 {
            seats.push(workers.seat_by(now + Duration::from_secs(seconds * 10)));
        }
        assert_eq!(connections(&workers), [20, 20, 20]);
        drop(seats);
        assert_eq!(connections(&workers), [0, 0, 0]);
    }

    #[tokio::test]
    async fn connections_that_come_together_are_divided_wherever_others_wait() {
        let workers = workers(2);
        let mut now = Instant::now();
        // Short ones, which one of the workers ends at once, and of which the other has sixty.
        let mut waiting = std::collections::VecDeque::new();
        for _ in 0..10_000 {
            now += Duration::from_micros(40);
            let seat = workers.seat_by(now);
            if seat.worker == 1 {
                waiting.push_back(seat);
                waiting.truncate(60);
            }
        }
        assert_eq!(connections(&workers), [0, 60]);
        let kept: Vec<_> = (0..32).map(|_| workers.seat_by(now)).collect();
        let first = kept.iter().filter(|seat| seat.worker == 0).count();
        assert!((16..=18).contains(&first), "{first}");
    }

    #[tokio::test]
    async fn who_accepts_for_itself_keeps_its_share_alone() {
        let workers = workers(2);
        let mut seats: Vec<_> = (0..64).map(|_| workers.seat_near(0)).collect();
        assert_eq!(connections(&workers), [34, 30]);
        // A few more or fewer stay where they come.
        seats.retain(|seat| seat.worker == 1);
        let few: Vec<_> = (0..32).map(|_| workers.seat_near(0)).collect();
        assert_eq!(connections(&workers), [32, 30]);
        assert!(few.iter().all(|seat| seat.worker == 0));
        drop((seats, few));
        assert_eq!(connections(&workers), [0, 0]);
    }

    #[tokio::test]
    async fn each_worker_is_a_thread_of_its_own_until_it_is_stopped() {
        let workers = Workers::start(2, TURN_TIMEOUT).unwrap();
        let mut names = Vec::new();
        let mut seats = Vec::new();
        for _ in 0..2 {
            let seat = workers.seat();
            let name = seat
                .runtime
                .spawn(async { std::thread::current().name().map(str::to_owned) });
            names.push(name.await.unwrap().unwrap());
            seats.push(seat);
        }
        names.sort();
        assert_eq!(names, ["realm-edge-0", "realm-edge-1"]);
        let hanging = seats[0].runtime.spawn(std::future::pending::<()>());
        workers.stop();
        assert!(hanging.await.unwrap_err().is_cancelled());
    }

    fn cores() -> Vec<usize> {
        let cores = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU)
            .filter(|core| cores.is_set(*core))
            .collect()
    }

    /// The cores of each worker, and of a thread that it starts.
    #[track_caller]
    fn check(count: usize, expected: &[Vec<usize>]) {
        let workers = Workers::start(count, TURN_TIMEOUT).unwrap();
        let caller = Builder::new_current_thread().build().unwrap();
        for (worker, expected) in workers.workers.iter().zip(expected) {
            let own = caller.block_on(worker.runtime.spawn(async { cores() }));
            assert_eq!(own.unwrap(), *expected);
            let started = caller.block_on(worker.runtime.spawn_blocking(cores));
            assert_eq!(started.unwrap(), cores());
        }
        workers.stop();
    }

    #[test]
    fn a_worker_has_a_core_of_its_own_where_each_core_has_a_worker() {
        let cores = cores();
        let own: Vec<_> = cores.iter().map(|core| vec![*core]).collect();
        check(cores.len(), &own);
        let count = cores.len() + 1;
        check(count, &vec![cores; count]);
    }
}
