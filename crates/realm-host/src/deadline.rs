//! The wall time of all guests, kept by the epoch thread.
//!
//! A timer of the runtime would be armed and disarmed for each request, at the price of a system
//! call (it wakes the runtime's driver). Here a guest that ends at its first poll costs nothing,
//! and any other one an entry in a map. True to an epoch tick. Not here: what happens then.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Instant;

use futures_util::task::AtomicWaker;

/// Maps that threads share: more than serving threads on most machines, so that they do not meet.
const SHARDS: usize = 16;

/// The deadlines of guests that wait for something.
#[derive(Default)]
pub(crate) struct Deadlines {
    shards: [Mutex<Shard>; SHARDS],
    next_id: AtomicU64,
}

type Shard = BTreeMap<(Instant, u64), Arc<Alarm>>;

#[derive(Default)]
struct Alarm {
    rung: AtomicBool,
    waker: AtomicWaker,
}

/// One guest's deadline, until it is dropped.
pub(crate) struct Deadline {
    deadlines: Arc<Deadlines>,
    shard: usize,
    key: (Instant, u64),
    alarm: Arc<Alarm>,
}

impl Deadlines {
    /// Enters a deadline.
    pub(crate) fn enter(self: &Arc<Self>, at: Instant) -> Deadline {
        let (shard, alarm) = (shard_of_thread(), Arc::<Alarm>::default());
        let key = (at, self.next_id.fetch_add(1, Relaxed));
        self.lock(shard).insert(key, Arc::clone(&alarm));
        Deadline {
            deadlines: Arc::clone(self),
            shard,
            key,
            alarm,
        }
    }

    /// Wakes the guests whose time is up.
    pub(crate) fn ring(&self, now: Instant) {
        for shard in &self.shards {
            // Who holds it may be a thread that makes way for others: the epochs do not wait for
            // that, and the next tick looks again.
            let mut shard = match shard.try_lock() {
                Ok(shard) => shard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => continue,
            };
            while let Some(first) = shard.first_entry()
                && first.key().0 <= now
            {
                let alarm = first.remove();
                alarm.rung.store(true, SeqCst);
                alarm.waker.wake();
            }
        }
    }

    /// Maps that are whole between two operations.
    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deadline {
    /// Whether the time is up; if not, `waker` is woken when it is.
    pub(crate) fn is_over(&self, waker: &Waker) -> bool {
        // Registered before the question: a deadline that passes in between is not missed.
        self.alarm.waker.register(waker);
        self.alarm.rung.load(SeqCst)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.deadlines.lock(self.shard).remove(&self.key);
    }
}

/// The same for all that one thread enters.
fn shard_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed) % SHARDS);
    }
    SHARD.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::task::noop_waker_ref;

    use super::*;

    #[test]
    fn deadlines_ring_in_time_and_are_forgotten_when_dropped() {
        let deadlines = Arc::new(Deadlines::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let [first, second, third] = [1, 2, 3].map(|seconds| deadlines.enter(at(seconds)));
        let over = |deadline: &Deadline| deadline.is_over(noop_waker_ref());
        deadlines.ring(start);
        assert!(!over(&first));
        drop(second);
        deadlines.ring(at(2));
        assert!(over(&first) && !over(&third));
        let left = |deadlines: &Deadlines| -> usize {
            (0..SHARDS).map(|shard| deadlines.lock(shard).len()).sum()
        };
        assert_eq!(left(&deadlines), 1);
        drop((first, third));
        assert_eq!(left(&deadlines), 0);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let deadlines = Arc::new(Deadlines::default());
        let deadline = deadlines.enter(Instant::now());
        let waiting = tokio::spawn(std::future::poll_fn(move |context| {
            if deadline.is_over(context.waker()) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        }));
        tokio::task::yield_now().await;
        deadlines.ring(Instant::now());
        waiting.await.unwrap();
    }
}
