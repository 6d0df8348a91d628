//! The end of a replica from outside: all its guests end at once, whatever they do. For what must not
//! go on anywhere by a certain time; others are drained. Not here: when that is.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// What ends the guests of one replica. Cheap to clone.
#[derive(Clone, Default)]
pub struct Term(Arc<Inner>);

#[derive(Default)]
struct Inner {
    over: AtomicBool,
    ended: Notify,
    guests: AtomicUsize,
}

impl Term {
    /// Ends every guest, and admits no other one. A guest that computes ends at its next epoch tick.
    pub fn end(&self) {
        self.0.over.store(true, SeqCst);
        self.0.ended.notify_waiters();
    }

    /// Whether it was ended.
    pub fn is_over(&self) -> bool {
        self.0.over.load(SeqCst)
    }

    /// Whether it was ended, and no guest is left.
    pub fn is_gone(&self) -> bool {
        self.is_over() && self.0.guests.load(SeqCst) == 0
    }

    /// Waits for the end.
    pub async fn over(&self) {
        let mut ended = pin!(self.0.ended.notified());
        // Before the question: an end that comes in between is not missed.
        ended.as_mut().enable();
        if !self.is_over() {
            ended.await;
        }
    }

    /// A guest begins.
    pub(crate) fn enter(&self) -> Guest {
        self.0.guests.fetch_add(1, SeqCst);
        Guest(self.clone())
    }
}

/// A guest that is there.
pub(crate) struct Guest(Term);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.0.guests.fetch_sub(1, SeqCst);
    }
}
