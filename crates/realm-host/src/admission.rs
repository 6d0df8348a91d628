//! How many invocations a replica takes at once, and how many may wait for a moment.
//!
//! Refusing early is the point: a request that would wait long is better off elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a request waits for room: longer than a burst of ordinary requests takes, shorter
/// than a balancer would take to try another replica.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// The door of one replica.
pub(crate) struct Admission {
    slots: Arc<Semaphore>,
    /// One permit per live instance of the whole host.
    instances: Arc<Semaphore>,
    waiting: AtomicU32,
    /// As many may wait as may run: what runs in 250 ms or less will be free for them.
    waiting_max: u32,
}

/// Room for one invocation, as long as it lives.
pub(crate) struct Admitted {
    _slot: Option<OwnedSemaphorePermit>,
    _instance: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(concurrency_max: u32, instances: Arc<Semaphore>) -> Self {
        let concurrency_max = concurrency_max.max(1);
        Self {
            slots: Arc::new(Semaphore::new(concurrency_max as usize)),
            instances,
            waiting: AtomicU32::new(0),
            waiting_max: concurrency_max,
        }
    }

    /// Room for a request; `None`: there is none, and there was none for a while.
    pub(crate) async fn enter(&self) -> Option<Admitted> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
            && let Ok(instance) = Arc::clone(&self.instances).try_acquire_owned()
        {
            return Some(Admitted {
                _slot: Some(slot),
                _instance: instance,
            });
        }
        let _place = Place::take(&self.waiting, self.waiting_max)?;
        tokio::time::timeout(WAIT_MAX, async {
            // The slot first: who holds a scarce instance must not wait for a slot.
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            let instance = Arc::clone(&self.instances).acquire_owned().await.ok()?;
            Some(Admitted {
                _slot: Some(slot),
                _instance: instance,
            })
        })
        .await
        .ok()
        .flatten()
    }

    /// Room for a probe: a busy replica is not an unhealthy one, so probes take no slot.
    pub(crate) async fn enter_probe(&self) -> Option<Admitted> {
        let instance = Arc::clone(&self.instances).acquire_owned();
        let instance = tokio::time::timeout(WAIT_MAX, instance).await.ok()?.ok()?;
        Some(Admitted {
            _slot: None,
            _instance: instance,
        })
    }
}

/// One place in the queue.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32, max: u32) -> Option<Self> {
        let place = Self(waiting);
        // Counted before it is compared: two that come together cannot both take the last place.
        (waiting.fetch_add(1, Relaxed) < max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(concurrency_max: u32, instances: usize) -> Admission {
        Admission::new(concurrency_max, Arc::new(Semaphore::new(instances)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_replica_lets_some_wait_and_refuses_the_rest() {
        let admission = Arc::new(admission(1, 10));
        let running = admission.enter().await.unwrap();
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter().await.is_some() }
        });
        tokio::task::yield_now().await;
        // The only place in the queue is taken: refused at once.
        let began = tokio::time::Instant::now();
        assert!(admission.enter().await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(running);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends() {
        let admission = admission(1, 10);
        let _running = admission.enter().await.unwrap();
        assert!(admission.enter().await.is_none());
        assert_eq!(admission.waiting.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_need_an_instance_but_no_slot() {
        let admission = admission(1, 2);
        let _running = admission.enter().await.unwrap();
        let _probe = admission.enter_probe().await.unwrap();
        assert!(admission.enter_probe().await.is_none());
    }
}
