//! A member of a group on NATS: it pulls as many messages as it has room for, and answers requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::BatchBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, AckKind};
use futures_util::StreamExt as _;
use realm_model::cloud::{
    Answer, CloudError, DEAD_WHY, Deliveries, Delivery, Message, Receipt, Subscription,
    check_topic, limits,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::requests::{self, Asked};
use super::{Shared, headers, later, letters, unreadable};
use crate::messaging::Death;
use crate::messaging::budget::{Holder, LARGEST, Share};

/// How long one pull stays open: as long as a server that restarted is not asked again, at most.
const PULL: Duration = Duration::from_secs(3);
/// After an error, until the next try.
const PAUSE: Duration = Duration::from_millis(300);
/// How often deliveries are looked for whose time is over.
const SWEEP: Duration = Duration::from_millis(200);
/// Requests that wait for this member.
const REQUESTS_MAX: usize = 1_000;
/// Bytes of messages that one pull brings, about: at the least, which the server wants for one message, and at
/// the most.
const PULL_BYTES_MIN: usize = 2 * LARGEST;
const PULL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A member. Dropped, it pulls nothing more, and what it did not look at goes back.
pub(super) struct Taking {
    messages: mpsc::Receiver<Handed>,
    requests: mpsc::Receiver<Asked>,
    tasks: [JoinHandle<()>; 2],
}

/// A message on its way to the member.
struct Handed {
    message: Message,
    attempt: u32,
    held: Held,
}

/// A delivery that is under way. Dropped without a word, it is given back.
struct Held {
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    /// There until it is dropped.
    message: Option<jetstream::Message>,
    attempt: u32,
    settled: AtomicBool,
    lease: Arc<Lease>,
    /// The room that the message takes in memory.
    _share: Share,
}

/// How long a delivery is this member's, and the room that it takes meanwhile.
struct Lease {
    /// When the server gives it to somebody else.
    until: Mutex<Instant>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Lease {
    fn is_over(&self) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until <= Instant::now()
    }

    /// Makes room for another one.
    fn end(&self) {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        permit.take();
    }
}

impl Taking {
    pub(super) fn new(shared: &Arc<Shared>, subscription: &Subscription) -> Self {
        let subscription = Arc::new(subscription.clone());
        let n = subscription.n_in_flight.clamp(1, 10_000) as usize;
        let (sender, messages) = mpsc::channel(n);
        let pulling = pull(Arc::clone(shared), Arc::clone(&subscription), n, sender);
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let answering = requests::listen(Arc::clone(shared), subscription, sender);
        Self {
            messages,
            requests,
            tasks: [tokio::spawn(pulling), tokio::spawn(answering)],
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Deliveries for Taking {
    fn next(&mut self) -> Answer<'_, Delivery> {
        Box::pin(async {
            loop {
                tokio::select! {
                    handed = self.messages.recv() => {
                        let handed = handed.ok_or(CloudError::Unavailable)?;
                        return Ok(Delivery {
                            message: handed.message,
                            attempt: handed.attempt,
                            receipt: Box::new(handed.held),
                        });
                    }
                    asked = self.requests.recv() => {
                        let asked = asked.ok_or(CloudError::Unavailable)?;
                        if let Some(delivery) = asked.delivery() {
                            return Ok(delivery);
                        }
                    }
                }
            }
        })
    }
}

/// Pulls for as long as somebody takes.
async fn pull(
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    n: usize,
    sender: mpsc::Sender<Handed>,
) {
    let (room, holder) = (Arc::new(Semaphore::new(n)), Arc::default());
    let mut is_large = false;
    while !sender.is_closed() {
        let pulled = pull_once(
            &shared,
            &subscription,
            &room,
            &holder,
            &mut is_large,
            &sender,
        );
        if pulled.await.is_err() {
            sleep(PAUSE).await;
        }
    }
}

/// With one consumer, until something is wrong with it.
async fn pull_once(
    shared: &Arc<Shared>,
    subscription: &Arc<Subscription>,
    room: &Arc<Semaphore>,
    holder: &Arc<Holder>,
    // Whether the next one may be larger than what a pull brings: another client sent it, and it is to die.
    is_large: &mut bool,
    sender: &mpsc::Sender<Handed>,
) -> Result<(), CloudError> {
    let link = &shared.link;
    let ack_wait = Some(subscription.ack_wait);
    let consumer = link.consumer(&subscription.group, ack_wait).await?;
    let statistics = link.get().await?.client.statistics();
    let n_connects = || statistics.connects.load(Ordering::Relaxed);
    let mut leases: Vec<Arc<Lease>> = Vec::new();
    loop {
        let mut permits = vec![first_permit(room, &mut leases).await?];
        while !shared.handed.has_room(holder) {
            sleep(SWEEP).await;
        }
        while let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            permits.push(permit);
        }
        let connected = n_connects();
        let batch = consumer.batch().expires(PULL);
        let batch = if std::mem::take(is_large) {
            batch.max_messages(1)
        } else {
            let n_bytes = shared.handed.n_left() / 8;
            let n_bytes = n_bytes.clamp(PULL_BYTES_MIN, PULL_BYTES_MAX);
            batch.max_messages(permits.len()).max_bytes(n_bytes)
        };
        let pull = Pull {
            shared,
            subscription,
            holder,
            sender,
        };
        let took = pull.take(batch, permits, is_large, &mut leases).await;
        // The connection may have been given up, and another one made.
        link.get().await?;
        if n_connects() != connected {
            unreadable::remove(shared, subscription).await?;
        }
        took?;
    }
}

/// For whom a pull is.
struct Pull<'a> {
    shared: &'a Arc<Shared>,
    subscription: &'a Arc<Subscription>,
    holder: &'a Arc<Holder>,
    sender: &'a mpsc::Sender<Handed>,
}

impl Pull<'_> {
    /// Hands over what one pull brings.
    async fn take(
        &self,
        batch: BatchBuilder<'_>,
        mut permits: Vec<OwnedSemaphorePermit>,
        is_large: &mut bool,
        leases: &mut Vec<Arc<Lease>>,
    ) -> Result<(), CloudError> {
        let Self {
            shared,
            subscription,
            holder,
            sender,
        } = *self;
        let link = &shared.link;
        let began = Instant::now();
        let mut has_come = false;
        let batch = batch.messages().await;
        let mut batch = batch.map_err(|error| link.failed(&error))?;
        while let Some(message) = batch.next().await {
            *is_large = message.is_err();
            has_come = true;
            let message = message.map_err(|error| link.failed(&*error))?;
            let Some(permit) = permits.pop() else { break };
            let n_bytes = message.length + LARGEST - limits::MESSAGE_BYTES_MAX;
            let share = shared.handed.count(holder, n_bytes);
            let Some(handed) = receive(shared, subscription, message, permit, share).await else {
                continue;
            };
            leases.push(Arc::clone(&handed.held.lease));
            if sender.send(handed).await.is_err() {
                return Err(CloudError::Unavailable);
            }
        }
        *is_large = !has_come && began.elapsed() < PULL / 2;
        Ok(())
    }
}

/// Room for one message, as soon as there is any: also that of deliveries of which nothing was heard.
async fn first_permit(
    room: &Arc<Semaphore>,
    leases: &mut Vec<Arc<Lease>>,
) -> Result<OwnedSemaphorePermit, CloudError> {
    loop {
        leases.retain(|lease| {
            if lease.is_over() {
                lease.end();
            }
            // The other handle is the receipt's.
            Arc::strong_count(lease) > 1 && !lease.is_over()
        });
        if let Ok(permit) = timeout(SWEEP, Arc::clone(room).acquire_owned()).await {
            return permit.map_err(|_| CloudError::Unavailable);
        }
    }
}

/// What came, unless it is dead or none of ours.
async fn receive(
    shared: &Arc<Shared>,
    subscription: &Arc<Subscription>,
    message: jetstream::Message,
    permit: OwnedSemaphorePermit,
    share: Share,
) -> Option<Handed> {
    let n = message.info().ok()?.delivered;
    let topic = shared.link.names.topic(&message.subject);
    let is_topic = topic.is_some_and(|topic| check_topic(topic).is_ok());
    let (attempt, why) = judged(
        n,
        is_topic,
        message.payload.len(),
        subscription.n_deliveries,
    );
    let held = Held {
        shared: Arc::clone(shared),
        subscription: Arc::clone(subscription),
        message: Some(message),
        attempt,
        settled: AtomicBool::new(false),
        lease: Arc::new(Lease {
            until: Mutex::new(Instant::now() + subscription.ack_wait),
            permit: Mutex::new(Some(permit)),
        }),
        _share: share,
    };
    if let Some(why) = why {
        // If it cannot be buried, it comes again, and not at once.
        if held.bury(why).await.is_err() {
            let _ = held.say(AckKind::Nak(Some(PAUSE))).await;
        }
        return None;
    }
    Some(Handed {
        message: held.content(),
        attempt,
        held,
    })
}

/// How often a message was looked at with this delivery, and why it is dead, if it is. The number is what a
/// server says.
fn judged(
    n: i64,
    is_topic: bool,
    n_bytes: usize,
    n_deliveries: u32,
) -> (u32, Option<&'static str>) {
    let attempt = u32::try_from(n.max(1)).unwrap_or(u32::MAX);
    // One that is dead already was not looked at this time.
    let before = attempt.saturating_sub(1);
    if !is_topic {
        (before, Some("its name is no topic"))
    } else if n_bytes > limits::MESSAGE_BYTES_MAX {
        (before, Some("it is larger than a message may be"))
    } else if attempt > n_deliveries.max(1) {
        let why = "it was delivered, and nothing was heard of it in time";
        (before, Some(why))
    } else {
        (attempt, None)
    }
}

impl Held {
    fn message(&self) -> Result<&jetstream::Message, CloudError> {
        self.message.as_ref().ok_or(CloudError::Unavailable)
    }

    fn content(&self) -> Message {
        let Some(message) = &self.message else {
            return Message::default();
        };
        let names = &self.shared.link.names;
        let topic = names.topic(&message.subject).unwrap_or_default();
        headers::read(topic, message.headers.as_ref(), &message.payload)
    }

    /// Nothing more is to be said.
    fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
        self.lease.end();
    }

    /// Says something of the delivery, and waits until the server knows.
    async fn say(&self, kind: AckKind) -> Result<(), CloudError> {
        let message = self.message()?;
        let patience = Duration::from_millis(limits::CALL_TIMEOUT_MS / 2);
        match timeout(patience, message.double_ack_with(kind)).await {
            Ok(Ok(())) => {
                self.settle();
                Ok(())
            }
            Ok(Err(error)) => Err(self.shared.link.failed(&*error)),
            Err(_) => Err(CloudError::Timeout),
        }
    }

    /// Keeps the message as a dead letter, sends it on, and is done with it.
    async fn bury(&self, why: &str) -> Result<(), CloudError> {
        let link = &self.shared.link;
        let content = self.content();
        let topic = content.topic.clone().unwrap_or_default();
        let group = &self.subscription.group.name;
        let further = self.subscription.dead_letter.as_ref();
        let further = further.filter(|_| !content.is_dead());
        let mut letter = content.into_dead(group, self.attempt, why, later::due_ms(Duration::ZERO));
        // The same message dies once in a group, though this is done again after a failure.
        let info = self.message()?.info().ok();
        let id = info.map(|info| format!("{}-{}", info.stream_sequence, info.consumer));
        let id = id.unwrap_or_default();
        let kept = link.publish(link.names.dead(), written(&letter, &id)).await;
        if matches!(kept, Err(CloudError::TooLarge { .. })) {
            // With what is said of its death the server does not take it: without its bytes, then.
            letter.data = Vec::new();
            let pairs = letter.metadata.iter_mut();
            for (_, said) in pairs.filter(|(key, _)| key == DEAD_WHY) {
                said.insert_str(0, letters::WITHOUT);
            }
            link.publish(link.names.dead(), written(&letter, &id))
                .await?;
        } else {
            kept?;
        }
        if let Some(topic) = further {
            let subject = link.names.subject(topic);
            link.publish(subject, written(&letter, &id)).await?;
        }
        self.say(AckKind::Ack).await?;
        (self.shared.on_death)(&Death {
            topic,
            group: group.clone(),
            n_deliveries: self.attempt,
            why: why.to_owned(),
        });
        Ok(())
    }
}

/// A message for a stream, and what tells it from every other one.
fn written(message: &Message, id: &str) -> PublishMessage {
    PublishMessage::build()
        .headers(headers::write(message))
        .payload(message.data.clone().into())
        .message_id(id)
}

impl Receipt for Held {
    fn ack(&self) -> Answer<'_, ()> {
        Box::pin(self.say(AckKind::Ack))
    }

    fn retry<'a>(&'a self, after: Duration, why: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            // The server gave it to somebody else by now.
            if self.lease.is_over() {
                self.settle();
                return Ok(false);
            }
            if self.attempt >= self.subscription.n_deliveries {
                self.bury(why).await?;
                return Ok(true);
            }
            let after = (!after.is_zero()).then_some(after);
            self.say(AckKind::Nak(after)).await?;
            Ok(false)
        })
    }

    fn give_back(&self) -> Answer<'_, ()> {
        Box::pin(self.say(AckKind::Nak(None)))
    }

    fn extend(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            if self.lease.is_over() {
                return Err(CloudError::NotFound("the delivery"));
            }
            let said = self.message()?.ack_with(AckKind::Progress).await;
            said.map_err(|error| self.shared.link.failed(&*error))?;
            let until = Instant::now() + self.subscription.ack_wait;
            *self
                .lease
                .until
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = until;
            Ok(())
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lease.end();
        if self.settled.load(Ordering::Relaxed) || self.lease.is_over() {
            return;
        }
        // Without a runtime the server waits until nothing was heard of it in time.
        if let (Some(message), Ok(runtime)) = (self.message.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let _ = message.ack_with(AckKind::Nak(None)).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_deliveries_hurts_nobody() {
        let (well, large) = (limits::MESSAGE_BYTES_MAX, limits::MESSAGE_BYTES_MAX + 1);
        assert_eq!(judged(1, true, well, 3), (1, None));
        assert_eq!(judged(3, true, well, 3), (3, None));
        let number = |n, n_bytes| judged(n, true, n_bytes, 3).0;
        assert_eq!(
            [number(0, well), number(0, large), number(4, well)],
            [1, 0, 3]
        );
        assert_eq!(
            [number(i64::MIN, large), number(i64::MAX, well)],
            [0, u32::MAX - 1]
        );
        assert!(judged(0, true, large, 3).1.is_some() && judged(4, true, well, 3).1.is_some());
        assert!(judged(2, true, well, 0).1.is_some());
        assert!(judged(1, false, well, 3).1.is_some());
    }
}
