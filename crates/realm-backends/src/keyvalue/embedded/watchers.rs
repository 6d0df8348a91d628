//! Who watches a bucket, and what has happened since.
//!
//! Each watcher has a queue with an end: who does not take from it is told that he missed something, and
//! holds nobody else up. Not here: what a change is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use realm_model::cloud::{Answer, Change, Changes, CloudError};
use tokio::sync::mpsc;

/// Changes that wait for one watcher.
const CHANGES_MAX: usize = 4_096;
/// Bytes of them: two of the largest values, and many of the usual ones.
const BYTES_MAX: usize = 40 * 1024 * 1024;

/// All of a store.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<Watcher>>);

struct Watcher {
    bucket: String,
    queue: mpsc::Sender<Arc<Change>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    bytes: AtomicUsize,
    is_behind: AtomicBool,
}

/// The end of a queue from which one watcher takes.
pub(super) struct Queue {
    changes: mpsc::Receiver<Arc<Change>>,
    state: Arc<State>,
}

impl Watchers {
    /// A new one, beginning with this moment.
    pub(super) fn add(&self, bucket: &str) -> Queue {
        let (queue, changes) = mpsc::channel(CHANGES_MAX);
        let state = Arc::new(State::default());
        let watcher = Watcher {
            bucket: bucket.to_owned(),
            queue,
            state: state.clone(),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| !one.queue.is_closed());
        all.push(watcher);
        Queue { changes, state }
    }

    /// Tells all of them, in this order.
    pub(super) fn tell(&self, changes: &[(String, Arc<Change>)]) {
        if changes.is_empty() {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|watcher| {
            changes
                .iter()
                .filter(|(bucket, _)| *bucket == watcher.bucket)
                .all(|(_, change)| watcher.take(change))
        });
    }
}

impl Watcher {
    /// Whether it goes on.
    fn take(&self, change: &Arc<Change>) -> bool {
        let n_bytes = size(change);
        let before = self.state.bytes.fetch_add(n_bytes, Ordering::Relaxed);
        let has_room = before == 0 || before + n_bytes <= BYTES_MAX;
        let is_taken = has_room && self.queue.try_send(change.clone()).is_ok();
        if !is_taken {
            self.state.is_behind.store(true, Ordering::Release);
        }
        is_taken
    }
}

impl Changes for Queue {
    fn next(&mut self) -> Answer<'_, Change> {
        Box::pin(async {
            match self.changes.recv().await {
                Some(change) => {
                    let n_bytes = size(&change);
                    self.state.bytes.fetch_sub(n_bytes, Ordering::Relaxed);
                    Ok(Arc::unwrap_or_clone(change))
                }
                None if self.state.is_behind.load(Ordering::Acquire) => Err(CloudError::Failed(
                    "the watcher fell behind, and changes were missed".to_owned(),
                )),
                None => Err(CloudError::Unavailable),
            }
        })
    }
}

fn size(change: &Change) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, Vec::len)
}
