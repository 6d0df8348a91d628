//! What a replica takes by itself: messages of the topics that its component subscribes to, and changes in
//! the buckets that it watches (`watching`).
//!
//! Each is handed to a fresh instance, so many at once as the subscription says and `max_concurrency`
//! has room for. What the guest deals with is done; what it does not comes again later, and in the end
//! to the dead letters. Not here: the queue, and when a replica begins and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use realm_model::cloud::rules::Wanted;
use realm_model::cloud::{CloudError, Deliveries, Delivery, Group, Messaging, Subscription};
use realm_model::trigger::{SubscriptionSpec, Triggers};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval_at, sleep};

use crate::component::LoadError;
use crate::replica::Replica;
use crate::trigger::{Event, Undone};
use crate::watching::Watching;

/// The longest wait before a message is delivered again.
const BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);
/// Until the next try, where a queue does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Until the next try, where a replica has no room for a message that it has taken.
const NO_ROOM: Duration = Duration::from_millis(100);

/// A replica that takes messages. Dropped, it takes no more, and what is under way ends and goes back.
pub struct Working {
    under_way: Arc<AtomicU32>,
    closed: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Working {
    /// Takes nothing more; what is under way goes on.
    pub fn take_no_more(&self) {
        self.closed.send_replace(true);
    }

    /// Messages that were taken, and of which the queue does not know yet how it went.
    pub fn under_way(&self) -> u32 {
        self.under_way.load(Relaxed)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One subscription of a replica.
#[derive(Clone)]
struct Taking {
    replica: Replica,
    spec: Arc<SubscriptionSpec>,
    from: Arc<dyn Messaging>,
    under_way: Arc<AtomicU32>,
    closed: watch::Receiver<bool>,
}

/// Counts a message from its arrival to its end, however that comes.
pub(crate) struct Counted(Arc<AtomicU32>);

impl Counted {
    pub(crate) fn new(under_way: &Arc<AtomicU32>) -> Self {
        under_way.fetch_add(1, Relaxed);
        Self(Arc::clone(under_way))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Replica {
    /// Begins to take what its component subscribes to; `None`: nothing. Called within a runtime.
    ///
    /// # Errors
    /// If it exports no handler of that.
    pub async fn work(&self, triggers: &Triggers) -> Result<Option<Working>, LoadError> {
        if triggers.is_empty() {
            return Ok(None);
        }
        let loaded = self.0.component.loaded().await?;
        if !triggers.watches.is_empty() && loaded.handlers.changes.is_none() {
            return Err(LoadError::NoHandler {
                export: "wasi:keyvalue/watcher@0.2.0-draft2",
                key: "watch",
            });
        }
        if !triggers.subscriptions.is_empty() && loaded.handlers.messages.is_none() {
            return Err(LoadError::NoHandler {
                export: "wasi:messaging/incoming-handler@0.2.0-draft",
                key: "subscribe",
            });
        }
        let (sender, closed) = watch::channel(false);
        let under_way = Arc::default();
        let mut tasks = Vec::new();
        for identifier in &triggers.watches {
            let found = self.0.component.stores.bucket(identifier);
            let Some(opened) = found else { continue };
            let watching = Watching {
                replica: self.clone(),
                identifier: identifier.clone(),
                opened,
                under_way: Arc::clone(&under_way),
                closed: closed.clone(),
            };
            tasks.push(tokio::spawn(watching.run()));
        }
        for spec in &triggers.subscriptions {
            let found = self.0.component.stores.messages(&spec.from);
            // The manifest binds it, or it would not be one; and what it leads to was made before.
            let Some((from, part)) = found else { continue };
            let mut spec = spec.clone();
            if !part.is_empty() {
                spec.topic = format!("{part}.{}", spec.topic);
                let dead_letter = spec.dead_letter.take();
                spec.dead_letter = dead_letter.map(|topic| format!("{part}.{topic}"));
            }
            let taking = Taking {
                replica: self.clone(),
                spec: Arc::new(spec),
                from,
                under_way: Arc::clone(&under_way),
                closed: closed.clone(),
            };
            tasks.push(tokio::spawn(taking.run()));
        }
        Ok(Some(Working {
            under_way,
            closed: sender,
            tasks,
        }))
    }
}

/// The group that a subscription is a member of, in the binding.
fn group(spec: &SubscriptionSpec) -> Group {
    Group {
        topic: spec.topic.clone(),
        name: spec.group.clone(),
    }
}

impl Taking {
    /// Until it is closed: as a member, and as another one where the queue failed.
    async fn run(mut self) {
        let mut under_way = JoinSet::new();
        let mut pause = PAUSE_MIN;
        while !*self.closed.borrow() {
            let subscription = self.subscription();
            let failed = match self.from.subscribe(&subscription).await {
                Ok(member) => {
                    pause = PAUSE_MIN;
                    self.take(member, &mut under_way).await
                }
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                let topic = &self.spec.topic;
                let words = format!("messages of `{topic}` do not come: {error}");
                self.replica.0.say(words);
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = self.closed.wait_for(|closed| *closed) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    fn subscription(&self) -> Subscription {
        let meter = Arc::clone(&self.replica.0.component.settings.meter);
        Subscription {
            group: group(&self.spec),
            n_in_flight: self.spec.concurrency,
            ack_wait: Duration::from_millis(self.spec.ack_wait_ms),
            n_deliveries: self.spec.attempts,
            dead_letter: self.spec.dead_letter.clone(),
            wanted: Wanted::new(&self.spec.rules, Arc::new(move || meter.message_filtered())),
        }
    }

    /// Takes messages until it is closed (`None`), or the queue fails.
    async fn take(
        &mut self,
        mut member: Box<dyn Deliveries>,
        under_way: &mut JoinSet<()>,
    ) -> Option<CloudError> {
        let n = usize::try_from(self.spec.concurrency.max(1)).unwrap_or(usize::MAX);
        let room = Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        loop {
            while under_way.try_join_next().is_some() {}
            let next = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, member.next().await)
            };
            let (permit, delivery) = tokio::select! {
                biased;
                _ = self.closed.wait_for(|closed| *closed) => return None,
                next = next => next,
            };
            let delivery = match delivery {
                Ok(delivery) => delivery,
                Err(error) => return Some(error),
            };
            let (one, counted) = (self.clone(), Counted::new(&self.under_way));
            under_way.spawn(async move {
                one.deal_with(delivery).await;
                drop((permit, counted));
            });
        }
    }

    /// Hands a message to the guest, as often as it takes to find room, and says how it went.
    async fn deal_with(mut self, delivery: Delivery) {
        let Delivery {
            message,
            attempt,
            receipt,
        } = delivery;
        let is_request = message.reply_to.is_some();
        let event = Event::Message(message, Arc::clone(&self.from));
        let every = Duration::from_millis(self.spec.ack_wait_ms / 3).max(Duration::from_millis(1));
        let mut extending = interval_at(tokio::time::Instant::now() + every, every);
        let undone = loop {
            let mut delivering = Box::pin(self.replica.deliver(event.clone()));
            let end = loop {
                tokio::select! {
                    end = &mut delivering => break end,
                    // As long as it is worked on here, nobody else is to begin with it.
                    _ = extending.tick() => drop(receipt.extend().await),
                }
            };
            match end {
                Err(Undone::NoRoom) if !*self.closed.borrow() => {
                    tokio::select! {
                        () = sleep(NO_ROOM) => {}
                        _ = self.closed.wait_for(|closed| *closed) => {}
                    }
                    let _ = receipt.extend().await;
                }
                end => break end.err(),
            }
        };
        let settings = &self.replica.0.component.settings;
        let said = match undone {
            None => {
                settings.meter.message_done();
                receipt.ack().await
            }
            // The guest did not see it, or not to its end, and that is not its fault.
            Some(Undone::NoRoom | Undone::Stopped) => receipt.give_back().await,
            Some(undone) => self.undone(&undone, attempt, is_request, &*receipt).await,
        };
        if let Err(error) = said {
            let topic = &self.spec.topic;
            let words = format_args!("a message of `{topic}` may come again: {error}");
            self.replica.0.say(words);
        }
    }

    async fn undone(
        &self,
        undone: &Undone,
        attempt: u32,
        is_request: bool,
        receipt: &dyn realm_model::cloud::Receipt,
    ) -> Result<(), CloudError> {
        let SubscriptionSpec {
            topic, attempts, ..
        } = &*self.spec;
        let (words, meter) = (undone.words(), &self.replica.0.component.settings.meter);
        if is_request {
            let line = format_args!("a request to `{topic}` was not dealt with: {words}");
            self.replica.0.say(line);
            return Ok(());
        }
        let after = backoff(self.spec.backoff_ms, attempt);
        if receipt.retry(after, &words).await? {
            meter.message_dead();
            self.replica.0.say(format_args!(
                "message-dead: a message of `{topic}` after {attempt} deliveries: {words}"
            ));
        } else {
            meter.message_retried();
            self.replica.0.say(format_args!(
                "message-retried: a message of `{topic}`, delivery {attempt} of {attempts}, again in {} ms: {words}",
                after.as_millis()
            ));
        }
        Ok(())
    }
}

/// How long until the next delivery: it doubles with each.
fn backoff(first_ms: u64, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(32);
    Duration::from_millis(first_ms.saturating_mul(1 << doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_and_has_an_end() {
        let wait = |attempt| backoff(1_000, attempt).as_secs();
        assert_eq!([wait(0), wait(1), wait(2), wait(5)], [1, 1, 2, 16]);
        assert_eq!(wait(u32::MAX), 3_600);
        assert_eq!(backoff(u64::MAX, 40), BACKOFF_MAX);
    }
}
