//! Sessions that are open, counted, and those that wait for the next guest.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use realm_model::cloud::{CloudError, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Sessions without a guest that are kept at a time.
const IDLE_MAX: usize = 4;

/// How long a session is kept without a guest.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// A cap on sessions, and the idle ones, each with a number.
pub(super) struct Pool<T> {
    places: Arc<Semaphore>,
    idle: Mutex<Vec<(u64, T)>>,
}

impl<T> Pool<T> {
    pub(super) fn new(n_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(n_max)),
            idle: Mutex::default(),
        }
    }

    /// A place for one session, held as long as that is open.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, CloudError> {
        let wait = Duration::from_millis(limits::CALL_TIMEOUT_MS / 2);
        let place = tokio::time::timeout(wait, Arc::clone(&self.places).acquire_owned()).await;
        match place {
            Ok(place) => place.map_err(|_| CloudError::Unavailable),
            Err(_) => Err(CloudError::Timeout),
        }
    }

    /// The one that was given back last.
    pub(super) fn take(&self) -> Option<T> {
        self.lock().pop().map(|(_, one)| one)
    }

    /// Gives one back; it is dropped where enough of them wait: whether it is kept.
    pub(super) fn put(&self, number: u64, one: T) -> bool {
        let mut idle = self.lock();
        let kept = idle.len() < IDLE_MAX;
        if kept {
            idle.push((number, one));
        }
        kept
    }

    /// Takes back the one of this number, if nobody took it.
    pub(super) fn retire(&self, number: u64) -> Option<T> {
        let mut idle = self.lock();
        let at = idle.iter().position(|(own, _)| *own == number)?;
        Some(idle.remove(at).1)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, T)>> {
        self.idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
