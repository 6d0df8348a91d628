//! What a replica hears by itself: changes of keys in the buckets that its component watches.
//!
//! One at a time, in the order of the store, each by a fresh instance. A guest that traps over a change
//! does not see it again: it is said in the log. What happens while nobody watches is not heard of. Not
//! here: stores, and when a replica begins and ends.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use realm_model::cloud::{Change, Changes, CloudError, KeyValue};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::cloud::Opened;
use crate::replica::Replica;
use crate::trigger::{Event, Undone};
use crate::worker::Counted;

/// Until the next try, where a store does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Until the next try, where a replica has no room for a change.
const NO_ROOM: Duration = Duration::from_millis(100);

/// One bucket that a replica watches.
pub(crate) struct Watching {
    pub(crate) replica: Replica,
    pub(crate) identifier: String,
    pub(crate) opened: Opened<dyn KeyValue>,
    pub(crate) under_way: Arc<AtomicU32>,
    pub(crate) closed: watch::Receiver<bool>,
}

impl Watching {
    /// Until it is closed: from now on, and anew where the store failed.
    pub(crate) async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        while !*self.closed.borrow() {
            let Opened { store, part } = self.opened.clone();
            let failed = match store.watch(&part).await {
                Ok(changes) => {
                    pause = PAUSE_MIN;
                    self.hear(changes).await
                }
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                let identifier = &self.identifier;
                let words = format!("changes in `{identifier}` may have been missed: {error}");
                self.replica.0.say(words);
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = self.closed.wait_for(|closed| *closed) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Hears changes until it is closed (`None`), or the store fails.
    async fn hear(&mut self, mut changes: Box<dyn Changes>) -> Option<CloudError> {
        loop {
            let next = tokio::select! {
                biased;
                _ = self.closed.wait_for(|closed| *closed) => return None,
                next = changes.next() => next,
            };
            match next {
                Ok(change) => self.deal_with(change).await,
                Err(error) => return Some(error),
            }
        }
    }

    /// Hands a change to the guest, as often as it takes to find room.
    async fn deal_with(&mut self, change: Change) {
        let _counted = Counted::new(&self.under_way);
        let key = change.key.clone();
        let event = Event::Change(change, self.opened.clone());
        let meter = &self.replica.0.component.settings.meter;
        loop {
            match self.replica.deliver(event.clone()).await {
                Ok(()) => return meter.message_done(),
                Err(Undone::NoRoom) if !*self.closed.borrow() => tokio::select! {
                    () = sleep(NO_ROOM) => {}
                    _ = self.closed.wait_for(|closed| *closed) => {}
                },
                Err(undone) => {
                    meter.message_dead();
                    let (identifier, words) = (&self.identifier, undone.words());
                    let key = realm_model::text::one_line(&key, 80);
                    return self.replica.0.say(format_args!(
                        "change-lost: a change of `{key}` in `{identifier}`: {words}"
                    ));
                }
            }
        }
    }
}
