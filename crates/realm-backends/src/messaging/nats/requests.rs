//! Requests over NATS, without its streams: they are for now, and other clients speak the same.

use std::sync::Arc;
use std::time::Duration;

use async_nats::StatusCode;
use futures_util::StreamExt as _;
use realm_model::cloud::{CloudError, Delivery, Message, Subscription, limits};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Shared, headers, names};
use crate::messaging::budget::{Holder, Share, bytes_of};
use crate::messaging::requests::{INBOX_BYTES_MAX, Once};

/// After an error, until the next try.
const PAUSE: Duration = Duration::from_millis(300);

/// A request on its way to a member.
pub(super) struct Asked {
    message: Message,
    until: Instant,
    share: Share,
}

impl Asked {
    /// `None`: nobody waits for a reply any more.
    pub(super) fn delivery(self) -> Option<Delivery> {
        (self.until > Instant::now()).then(|| Delivery {
            message: self.message,
            attempt: 1,
            receipt: Box::new(Once::new(self.share)),
        })
    }
}

/// Takes requests for as long as somebody answers.
pub(super) async fn listen(
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    sender: mpsc::Sender<Asked>,
) {
    let holder = Arc::default();
    while !sender.is_closed() {
        let _ = listen_once(&shared, &subscription, &sender, &holder).await;
        sleep(PAUSE).await;
    }
}

/// Whether a client waits there for replies. Whoever asks names the subject, and it is this node that writes to
/// it: anything else may be a topic of another component, or the server's own, where the asker himself may
/// not write. What clients wait at begins with `_INBOX`, and with `_R_` where accounts meet.
fn is_inbox(subject: &str) -> bool {
    ["_INBOX", "_R_"]
        .iter()
        .any(|start| subject.starts_with(start))
}

async fn listen_once(
    shared: &Shared,
    subscription: &Subscription,
    sender: &mpsc::Sender<Asked>,
    holder: &Arc<Holder>,
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
        let reply = message.reply.filter(|reply| is_inbox(reply));
        let (Some(topic), Some(reply)) = (topic, reply) else {
            continue;
        };
        if message.payload.len() > limits::MESSAGE_BYTES_MAX {
            continue;
        }
        let headers = message.headers.as_ref();
        let wait = headers.and_then(|headers| headers.get(headers::TIMEOUT));
        let wait = wait.and_then(|value| value.as_str().parse().ok());
        let wait = wait.map_or(limits::REQUEST_TIME_MAX, Duration::from_millis);
        let message = Message {
            reply_to: Some(reply.to_string()),
            ..headers::read(topic, headers, &message.payload)
        };
        // Where so many wait already, this one is not answered in time anyway.
        if let Some(share) = shared.waiting.take(holder, bytes_of(&message)) {
            let _ = sender.try_send(Asked {
                message,
                until: Instant::now() + wait.min(limits::REQUEST_TIME_MAX),
                share,
            });
        }
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
    let holder = Arc::default();
    let (mut replies, mut shares, mut n_bytes) = (Vec::new(), Vec::new(), 0);
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
        n_bytes += bytes_of(&reply);
        let share = shared.replies.take(&holder, bytes_of(&reply));
        let share = share.filter(|_| replies.is_empty() || n_bytes <= INBOX_BYTES_MAX);
        // No more of them are waited for than there is room for.
        let Some(share) = share else { break };
        shares.push(share);
        replies.push(reply);
    }
    if replies.is_empty() {
        return Err(CloudError::Timeout);
    }
    Ok(replies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_to_inboxes_alone() {
        for inbox in ["_INBOX.a.b", "_INBOX_of_alice.a", "_R_.abc"] {
            assert!(is_inbox(inbox), "{inbox}");
        }
        for other in [
            "",
            "$JS.API.X",
            "shop.orders",
            "shop=request.x",
            "a._INBOX.b",
            "_inbox.a",
        ] {
            assert!(!is_inbox(other), "{other}");
        }
    }
}
