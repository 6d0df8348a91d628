//! How many invocations a replica takes at once, and how many may wait for a moment.
//!
//! Refusing early is the point: a request that would wait long is better off elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::guest::Live;
use crate::kept::{Keep, Keepers, Kept};
use crate::room::{Place, ProbePlace, Tenant};

/// How long a request waits for room: longer than a burst of ordinary requests takes, shorter
/// than a balancer would take to try another replica. A probe waits as long, which is below the
/// time that any health check allows.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// The door of one replica.
pub(crate) struct Admission {
    slots: Arc<Semaphore>,
    /// Its component's share of the instances of the whole host.
    tenant: Arc<Tenant>,
    waiting: AtomicU32,
    /// As many may wait as may run: what runs in 250 ms or less will be free for them.
    waiting_max: u32,
}

/// Room for one invocation, as long as it lives.
#[derive(Default)]
pub(crate) struct Admitted {
    _slot: Option<OwnedSemaphorePermit>,
    pub(crate) place: Option<Place>,
    _probe: Option<ProbePlace>,
}

/// Room for a request, and the instance that waited for one, if any did: it has that place.
pub(crate) type Entered = (Admitted, Option<Live>);

impl Admission {
    pub(crate) fn new(concurrency_max: u32, tenant: Arc<Tenant>) -> Self {
        let concurrency_max = concurrency_max.max(1);
        Self {
            slots: Arc::new(Semaphore::new(concurrency_max as usize)),
            tenant,
            waiting: AtomicU32::new(0),
            waiting_max: concurrency_max,
        }
    }

    /// Room for a request; `None`: there is none, and there was none for a while.
    pub(crate) async fn enter(&self, keep: &Keep, keepers: &Keepers) -> Option<Entered> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            if let Some(kept) = keep.take() {
                return Some(Admitted::kept(slot, kept));
            }
            if let Some(place) = self.tenant.try_take() {
                return Some(Admitted::fresh(slot, place));
            }
        }
        let _queued = Queued::enter(&self.waiting, self.waiting_max)?;
        tokio::time::timeout(WAIT_MAX, async {
            // The slot first: who holds a scarce instance must not wait for a slot.
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            if let Some(kept) = keep.take() {
                return Some(Admitted::kept(slot, kept));
            }
            loop {
                if let Some(place) = self.tenant.try_take() {
                    return Some(Admitted::fresh(slot, place));
                }
                if !keepers.reclaim(&self.tenant) {
                    break;
                }
            }
            let place = self.tenant.take().await?;
            Some(Admitted::fresh(slot, place))
        })
        .await
        .ok()
        .flatten()
    }

    /// Room for a probe: a busy replica is not an unhealthy one, so probes take no slot, and what
    /// is kept for them where the component has no instance left.
    pub(crate) async fn enter_probe(&self) -> Option<Admitted> {
        if let Some(place) = self.tenant.try_take() {
            return Some(Admitted {
                place: Some(place),
                ..Admitted::default()
            });
        }
        let probe = tokio::time::timeout(WAIT_MAX, self.tenant.take_for_probe());
        Some(Admitted {
            _probe: Some(probe.await.ok()??),
            ..Admitted::default()
        })
    }
}

impl Admitted {
    fn fresh(slot: OwnedSemaphorePermit, place: Place) -> Entered {
        let admitted = Self {
            _slot: Some(slot),
            place: Some(place),
            _probe: None,
        };
        (admitted, None)
    }

    fn kept(slot: OwnedSemaphorePermit, kept: Kept) -> Entered {
        let (admitted, _) = Self::fresh(slot, kept.place);
        (admitted, Some(kept.live))
    }
}

/// One place in the queue.
struct Queued<'a>(&'a AtomicU32);

impl<'a> Queued<'a> {
    fn enter(waiting: &'a AtomicU32, max: u32) -> Option<Self> {
        let queued = Self(waiting);
        // Counted before it is compared: two that come together cannot both take the last place.
        (waiting.fetch_add(1, Relaxed) < max).then_some(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Room;

    fn admission(concurrency_max: u32, instances: u32) -> Admission {
        Admission::new(concurrency_max, Arc::new(Room::new(instances).tenant()))
    }

    async fn enter(admission: &Admission) -> Option<Entered> {
        admission.enter(&Keep::default(), &Keepers::default()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_replica_lets_some_wait_and_refuses_the_rest() {
        let admission = Arc::new(admission(1, 10));
        let running = enter(&admission).await.unwrap();
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { enter(&admission).await.is_some() }
        });
        tokio::task::yield_now().await;
        // The only place in the queue is taken: refused at once.
        let began = tokio::time::Instant::now();
        assert!(enter(&admission).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(running);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends() {
        let admission = admission(1, 10);
        let _running = enter(&admission).await.unwrap();
        assert!(enter(&admission).await.is_none());
        assert_eq!(admission.waiting.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_need_neither_a_slot_nor_a_free_instance() {
        let admission = admission(1, 1);
        let _running = enter(&admission).await.unwrap();
        let _first = admission.enter_probe().await.unwrap();
        let _second = admission.enter_probe().await.unwrap();
        assert!(admission.enter_probe().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn probes_take_an_ordinary_instance_where_there_is_one() {
        let admission = admission(1, 50);
        let mut probes = Vec::new();
        for _ in 0..50 {
            probes.push(admission.enter_probe().await.unwrap());
        }
    }
}
