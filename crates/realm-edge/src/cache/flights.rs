//! Requests for the same, at once: one of them asks, and the others wait for what it brings. Not for
//! long, and not for what they could not use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

/// How long one waits for another: then it asks by itself.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How many wait, over all components.
const WAITING_MAX: usize = 10_000;
/// How long after an answer that was not for the cache nobody waits for the next one.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// What is remembered of those.
const ALONE_MAX: usize = 8_192;

/// What came of a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    /// There is an answer for whoever asked the same.
    Kept,
    /// There is none for others.
    Alone,
    /// Whoever asked went away before there was an answer.
    Gone,
}

/// Where one hears what came of a flight, once it did.
pub(super) type Told = watch::Receiver<Option<Landed>>;

pub(super) struct Flights {
    under_way: Mutex<HashMap<Box<[u8]>, Told>>,
    waiting: Semaphore,
    /// What was answered for one alone, until when.
    alone: Mutex<HashMap<Box<[u8]>, Instant>>,
}

/// Whoever asks for the others.
pub(super) struct Flight {
    flights: Arc<Flights>,
    what: Box<[u8]>,
    told: watch::Sender<Option<Landed>>,
}

/// What one does that wants something.
pub(super) enum Turn {
    /// Ask, for all.
    Lead(Flight),
    /// Wait for who does.
    Follow(Told),
    /// Ask for itself.
    Alone,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
            waiting: Semaphore::new(WAITING_MAX),
            alone: Mutex::default(),
        }
    }
}

impl Flights {
    pub(super) fn join(self: &Arc<Self>, what: &[u8], now: Instant) -> Turn {
        let is_alone = |until: &Instant| *until > now;
        if lock(&self.alone).get(what).is_some_and(is_alone) {
            return Turn::Alone;
        }
        let mut under_way = lock(&self.under_way);
        if let Some(told) = under_way.get(what) {
            return Turn::Follow(told.clone());
        }
        let (told, tells) = watch::channel(None);
        let what: Box<[u8]> = what.into();
        under_way.insert(what.clone(), tells);
        Turn::Lead(Flight {
            flights: Arc::clone(self),
            what,
            told,
        })
    }

    /// What the leader brought; `None`: it takes too long, or too many wait.
    pub(super) async fn wait(&self, mut told: Told, since: Instant) -> Option<Landed> {
        let _place = self.waiting.try_acquire().ok()?;
        let left = WAIT_MAX.checked_sub(since.elapsed())?;
        let landed = tokio::time::timeout(left, told.wait_for(Option::is_some));
        match landed.await {
            Ok(Ok(landed)) => *landed,
            Ok(Err(_)) => Some(Landed::Gone),
            Err(_) => None,
        }
    }

    fn remember(&self, what: &[u8], now: Instant) {
        let mut alone = lock(&self.alone);
        if alone.len() >= ALONE_MAX {
            alone.retain(|_, until| *until > now);
        }
        // Who makes up so many has others wait a moment, no more.
        if alone.len() < ALONE_MAX {
            alone.insert(what.into(), now + ALONE_FOR);
        }
    }
}

impl Flight {
    /// Whether anybody waits for it.
    pub(super) fn is_followed(&self) -> bool {
        // Beside the one for those who come.
        self.told.receiver_count() > 1
    }

    pub(super) fn land(self, landed: Landed) {
        if landed == Landed::Alone {
            self.flights.remember(&self.what, Instant::now());
        }
        self.end(landed);
    }

    /// It failed: this says nothing of the next one.
    pub(super) fn fail(self) {
        self.end(Landed::Alone);
    }

    fn end(&self, landed: Landed) {
        lock(&self.flights.under_way).remove(&self.what);
        self.told.send_replace(Some(landed));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.told.borrow().is_none() {
            self.end(Landed::Gone);
        }
    }
}

/// Each change is one of a map's own.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn where_too_many_wait_already_the_next_one_asks_at_once() {
        let flights = Arc::new(Flights::default());
        let Turn::Lead(_flight) = flights.join(b"a", Instant::now()) else {
            panic!("nobody else asks");
        };
        let Turn::Follow(told) = flights.join(b"a", Instant::now()) else {
            panic!("somebody asks");
        };
        let all = u32::try_from(WAITING_MAX).unwrap();
        let _others = flights.waiting.try_acquire_many(all).unwrap();
        let before = tokio::time::Instant::now();
        assert_eq!(flights.wait(told, Instant::now()).await, None);
        assert!(before.elapsed() < WAIT_MAX);
    }
}
