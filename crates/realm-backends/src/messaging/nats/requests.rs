//! Requests over NATS, without its streams: they are for now, and other clients speak the same.

use std::sync::Arc;
use std::time::Duration;

use async_nats::StatusCode;
use futures_util::StreamExt as _;
use realm_model::cloud::{CloudError, Delivery, Message, Subscription, limits};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Shared, headers, names};
use crate::messaging::requests::Once;

/// After an error, until the next try.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a request of a client that does not say waits at most.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A request on its way to a member.
pub(super) struct Asked {
    message: Message,
    until: Instant,
}

impl Asked {
    /// `None`: nobody waits for a reply any more.
    pub(super) fn delivery(self) -> Option<Delivery> {
        (self.until > Instant::now()).then(|| Delivery {
            message: self.message,
            attempt: 1,
            receipt: Box::new(Once),
        })
    }
}

/// Takes requests for as long as somebody answers.
pub(super) async fn listen(
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    sender: mpsc::Sender<Asked>,
) {
    while !sender.is_closed() {
        let _ = listen_once(&shared, &subscription, &sender).await;
        sleep(PAUSE).await;
    }
}

async fn listen_once(
    shared: &Shared,
    subscription: &Subscription,
    sender: &mpsc::Sender<Asked>,
) -> Result<(), CloudError> {
    let link = &shared.link;
    let connected = link.get().await?;
    let subject = link.names.request(&subscription.group.topic);
    let queue = names::consumer(&subscription.group);
    let subscribed = connected.client.queue_subscribe(subject, queue).await;
    let mut subscriber = subscribed.map_err(|error| link.failed(&error))?;
    // Of the server's answer nothing is known but that it came before that of the next flush.
    let flushed = connected.client.flush().await;
    flushed.map_err(|error| link.failed(&error))?;
    shared.listening.notify_waiters();
    while let Some(message) = subscriber.next().await {
        let topic = link.names.request_topic(&message.subject);
        // The server's own subjects are nobody's inbox: it would be this node that writes there.
        let reply = message.reply.filter(|reply| !reply.starts_with('$'));
        let (Some(topic), Some(reply)) = (topic, reply) else {
            continue;
        };
        if message.payload.len() > limits::MESSAGE_BYTES_MAX {
            continue;
        }
        let headers = message.headers.as_ref();
        let wait = headers.and_then(|headers| headers.get(headers::TIMEOUT));
        let wait = wait.and_then(|value| value.as_str().parse().ok());
        let wait = wait.map_or(TIMEOUT, Duration::from_millis).min(TIMEOUT);
        let asked = Asked {
            message: Message {
                reply_to: Some(reply.to_string()),
                ..headers::read(topic, headers, &message.payload)
            },
            until: Instant::now() + wait,
        };
        // Where so many wait already, this one is not answered in time anyway.
        let _ = sender.try_send(asked);
    }
    Ok(())
}

/// Asks, and waits for replies.
pub(super) async fn ask(
    shared: &Shared,
    topic: &str,
    message: Message,
    timeout: Duration,
    n_replies: u32,
) -> Result<Vec<Message>, CloudError> {
    let until = Instant::now() + timeout;
    let link = &shared.link;
    let connected = link.get().await?;
    let client = &connected.client;
    let inbox = client.new_inbox();
    let subscribed = client.subscribe(inbox.clone()).await;
    let mut subscriber = subscribed.map_err(|error| link.failed(&error))?;
    let mut headers = headers::write(&message);
    headers.insert(headers::TIMEOUT, timeout.as_millis().to_string());
    let subject = link.names.request(topic);
    let data = message.data.into();
    let sent = client.publish_with_reply_and_headers(subject, inbox, headers, data);
    sent.await.map_err(|error| link.failed(&error))?;
    let n_replies = n_replies.clamp(1, limits::REPLIES_MAX) as usize;
    let mut replies = Vec::new();
    while replies.len() < n_replies {
        let Ok(Some(reply)) = timeout_at(until, subscriber.next()).await else {
            break;
        };
        if reply.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(CloudError::NotFound("a subscriber of this topic"));
        }
        if reply.payload.len() > limits::MESSAGE_BYTES_MAX {
            continue;
        }
        let mut reply = headers::read("", reply.headers.as_ref(), &reply.payload);
        reply.topic = None;
        replies.push(reply);
    }
    if replies.is_empty() {
        return Err(CloudError::Timeout);
    }
    Ok(replies)
}
