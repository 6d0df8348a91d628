//! Whether a backend does what it is asked: an observer hears of each failure, and once of the success
//! after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Observer;

pub(crate) struct Health {
    observer: Arc<dyn Observer>,
    is_down: AtomicBool,
}

impl Health {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            observer,
            is_down: AtomicBool::new(false),
        }
    }

    pub(crate) fn failed(&self, cause: &str) {
        self.is_down.store(true, Ordering::Relaxed);
        self.observer.down(cause);
    }

    pub(crate) fn answered(&self) {
        // A load first: a swap on each call would bounce the line between all threads.
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            self.observer.up();
        }
    }
}
