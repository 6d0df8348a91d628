//! How many requests a server has at once, and how many wait for a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a request waits for room: longer than a burst takes, shorter than a balancer would take
/// to try another replica. As for instances that answer requests.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// The requests of one server: so many at once, and as many that wait.
pub(crate) struct Room {
    max: u32,
    slots: Arc<Semaphore>,
    waiting: AtomicU32,
    in_flight: Arc<AtomicU32>,
}

/// What one request holds to its end.
pub(crate) struct Place {
    in_flight: Arc<AtomicU32>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Room {
    pub(crate) fn new(max: u32) -> Self {
        let max = max.max(1);
        Self {
            max,
            slots: Arc::new(Semaphore::new(max as usize)),
            waiting: AtomicU32::new(0),
            in_flight: Arc::new(AtomicU32::new(0)),
        }
    }

    /// Requests that are not answered to their end.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// A place, if there is one or will be in a moment.
    pub(crate) async fn admit(&self) -> Option<Place> {
        let slot = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                // Counted before it is compared: two that come together cannot both be the last.
                let _queued = Queued::enter(&self.waiting, self.max)?;
                let slot = timeout(WAIT_MAX, Arc::clone(&self.slots).acquire_owned());
                slot.await.ok()?.ok()?
            }
        };
        self.in_flight.fetch_add(1, Relaxed);
        Some(Place {
            in_flight: Arc::clone(&self.in_flight),
            _slot: slot,
        })
    }
}

/// One place in the queue.
struct Queued<'a>(&'a AtomicU32);

impl<'a> Queued<'a> {
    fn enter(waiting: &'a AtomicU32, max: u32) -> Option<Self> {
        let queued = Self(waiting);
        (waiting.fetch_add(1, Relaxed) < max).then_some(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
