//! Sessions that are open, counted, and those that wait for the next guest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use realm_model::cloud::{CloudError, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Sessions without a guest that are kept at a time.
const IDLE_MAX: usize = 4;

/// How long a session is kept without a guest.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// A cap on sessions, and the idle ones.
pub(super) struct Pool<T> {
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Idle<T>>>,
}

/// One without a guest.
struct Idle<T> {
    /// Its own.
    number: u64,
    database: String,
    one: T,
}

impl<T> Pool<T> {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits::SESSIONS_MAX)),
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

    /// The one of a database that was given back last.
    pub(super) fn take(&self, database: &str) -> Option<T> {
        let mut idle = self.lock();
        let at = idle.iter().rposition(|one| one.database == database)?;
        Some(idle.remove(at).one)
    }

    /// Gives one back; where enough of them wait, the one that does so for longest is dropped.
    pub(super) fn put(&self, number: u64, database: &str, one: T) {
        let mut idle = self.lock();
        let dropped = (idle.len() >= IDLE_MAX).then(|| idle.remove(0));
        idle.push(Idle {
            number,
            database: database.to_owned(),
            one,
        });
        drop(idle);
        drop(dropped);
    }

    /// Takes back the one of this number, if nobody took it.
    pub(super) fn retire(&self, number: u64) -> Option<T> {
        let mut idle = self.lock();
        let at = idle.iter().position(|one| one.number == number)?;
        Some(idle.remove(at).one)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle<T>>> {
        // A list whose entries come and go at once: no panic can leave it torn.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
