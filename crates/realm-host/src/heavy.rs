//! Threads for guests that compute for long, with a lower priority than those that serve.
//!
//! A guest that ran for [`HEAVY_AFTER`] goes on here, and those of a component whose guests mostly
//! come here begin here: a request waits for a serving thread several times, and each time for all
//! guests that stand before it. So any number of spinning guests leaves the serving threads free,
//! and yet a lone guest that computes gets all the processor there is: the operating system
//! decides, at its own grain. Without such guests there are no such threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::thread::{sched_getaffinity, sched_setaffinity};
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
use tokio::runtime::{Builder, Handle, Runtime};

/// Ordinary requests run for well below 1 ms; a guest above this is not about to end.
pub(crate) const HEAVY_AFTER: Duration = Duration::from_millis(5);
/// And seen by so many ticks of the epoch, of 1 ms each.
pub(crate) const HEAVY_AFTER_TICKS: u32 = 4;
/// Where the guests of a component run for so long on average, they begin on the heavy threads.
const HEAVY_ON_AVERAGE: Duration = Duration::from_millis(1);
/// Time of a guest that failed counts so many times: others are not to wait for what is in vain.
const FAILED_FACTOR: u32 = 4;
/// A sixteenth of the average is the last guest: it follows some dozens of them.
const AVERAGE_SHIFT: u32 = 4;
/// Added to the nice value, for a system that has no idle policy for us: a tenth of the processor's
/// time beside a busy serving thread.
const NICENESS: i32 = 10;

/// The threads, once they are needed.
#[derive(Default)]
pub(crate) struct Heavy(OnceLock<Option<Runtime>>);

impl Heavy {
    /// Where heavy guests run; `None`: the system gives no threads, so they stay where they are.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.0.get_or_init(start).as_ref().map(Runtime::handle)
    }
}

/// How long the guests of one component run, on average.
#[derive(Default)]
pub(crate) struct Habit {
    average_ns: AtomicU64,
}

impl Habit {
    /// A guest ran for so long. Two that end at once may count as one.
    pub(crate) fn ran(&self, time: Duration, has_failed: bool) {
        let counted = match has_failed {
            true => time.saturating_mul(FAILED_FACTOR),
            false => time,
        };
        let ran_ns = u64::try_from(counted.as_nanos()).unwrap_or(u64::MAX >> AVERAGE_SHIFT);
        let average_ns = self.average_ns.load(Relaxed);
        let kept_ns = average_ns - (average_ns >> AVERAGE_SHIFT);
        let average_ns = kept_ns.saturating_add(ran_ns >> AVERAGE_SHIFT);
        self.average_ns.store(average_ns, Relaxed);
    }

    /// Whether the next one is a case for the heavy threads from its beginning.
    pub(crate) fn is_heavy(&self) -> bool {
        u128::from(self.average_ns.load(Relaxed)) >= HEAVY_ON_AVERAGE.as_nanos()
    }
}

/// The processor's time that the calling thread has had.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // Neither is ever negative, and there are less than 10^9 nanoseconds.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn start() -> Option<Runtime> {
    Builder::new_multi_thread()
        .thread_name("realm-heavy")
        .enable_all()
        .on_thread_start(|| {
            // It begins on the cores of the thread that needed it first: that may be a single one.
            if let Err(error) = sched_getaffinity(Some(rustix::process::getpid()))
                .and_then(|all| sched_setaffinity(None, &all))
            {
                tracing::warn!(%error, "heavy guests cannot use every core");
            }
            // Niceness alone shares the time well, and yet lets whoever wakes up wait for a slice
            // of it: several at each request. A thread of the idle policy makes way at once.
            let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
            let thread = thread_priority::thread_native_id();
            if let Err(error) =
                thread_priority::set_thread_priority_and_policy(thread, ThreadPriority::Min, idle)
            {
                tracing::warn!(?error, "heavy guests delay requests");
            }
            // Last, since the policy sets a nice value of its own. On Linux this is about the
            // calling thread. Being nicer is always allowed.
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::warn!(%error, "heavy guests run at the priority of requests");
            }
        })
        .build()
        .inspect_err(|error| tracing::warn!(%error, "no threads for heavy guests"))
        .ok()
}

impl Drop for Heavy {
    fn drop(&mut self) {
        if let Some(Some(runtime)) = self.0.take() {
            // A runtime must not be waited for on a thread that serves.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ran: impl IntoIterator<Item = Duration>, heavy: bool) {
        let habit = Habit::default();
        ran.into_iter().for_each(|time| habit.ran(time, false));
        assert_eq!(habit.is_heavy(), heavy);
    }

    #[test]
    fn who_fails_leaves_sooner() {
        for (us, has_failed, heavy) in [(400, false, false), (400, true, true), (200, true, false)]
        {
            let habit = Habit::default();
            for _ in 0..100 {
                habit.ran(Duration::from_micros(us), has_failed);
            }
            assert_eq!(habit.is_heavy(), heavy, "{us} {has_failed}");
        }
    }

    #[test]
    fn a_component_is_heavy_by_what_its_guests_mostly_do() {
        let us = Duration::from_micros;
        check([], false);
        check([us(100); 100], false);
        check([us(3_000); 100], true);
        // A slow one among quick ones is no habit, and a habit can be lost.
        check(
            (0..100).map(|n| us(if n % 10 == 0 { 5_000 } else { 50 })),
            false,
        );
        check([us(3_000); 100].into_iter().chain([us(50); 100]), false);
        check([Duration::MAX; 3], true);
    }

    #[test]
    fn they_may_use_every_core_whoever_needs_them_first() {
        let all = sched_getaffinity(None).unwrap();
        let mut one = rustix::thread::CpuSet::new();
        one.set((0..).find(|core| all.is_set(*core)).unwrap());
        let cores = std::thread::spawn(move || {
            sched_setaffinity(None, &one).unwrap();
            let heavy = Heavy::default();
            let (sender, cores) = std::sync::mpsc::channel();
            heavy.handle().unwrap().spawn(async move {
                sender.send(sched_getaffinity(None).unwrap()).unwrap();
            });
            cores.recv().unwrap()
        });
        assert_eq!(cores.join().unwrap(), all);
    }
}
