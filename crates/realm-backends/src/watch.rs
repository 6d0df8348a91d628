//! Whether a backend is there: told when that changes, with the cause, which no guest reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Hears when a backend goes away and when it is back.
pub trait Watch: Send + Sync {
    /// It does not do what it should. `why` is for the operator: it may name addresses, never secrets.
    /// Told again with each new call that fails.
    fn down(&self, why: &str);

    /// It answers again.
    fn up(&self);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn down(&self, _why: &str) {}
    fn up(&self) {}
}

/// Tells a watch of each failure, and once of the success after it.
pub(crate) struct Health {
    watch: Arc<dyn Watch>,
    is_down: AtomicBool,
}

impl Health {
    pub(crate) fn new(watch: Arc<dyn Watch>) -> Self {
        Self {
            watch,
            is_down: AtomicBool::new(false),
        }
    }

    pub(crate) fn failed(&self, why: &str) {
        self.is_down.store(true, Ordering::Relaxed);
        self.watch.down(why);
    }

    pub(crate) fn answered(&self) {
        // A load first: a swap on each call would bounce the line between all threads.
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            self.watch.up();
        }
    }
}
