//! Short words for messages, subscriptions and waiting.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use realm_backends::messaging::Room;
use realm_model::cloud::{Deliveries, Delivery, Group, Message, Messaging, Subscription};

/// Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing has to come until it is believed that nothing does.
const SILENCE: Duration = Duration::from_millis(700);

/// A backend, and what has to stay there as long.
pub(crate) struct Bed {
    pub(crate) messaging: Arc<dyn Messaging>,
    /// The same, with room for little.
    pub(crate) small: Arc<dyn Messaging>,
    pub(crate) _keep: Box<dyn Any + Send>,
}

/// Room for a few messages.
pub(crate) const SMALL: Room = Room {
    n_messages_max: 20,
    n_bytes_max: 100_000,
};

pub(crate) fn text(words: impl Into<String>) -> Message {
    Message {
        data: words.into().into_bytes(),
        ..Message::default()
    }
}

pub(crate) fn words(message: &Message) -> String {
    String::from_utf8(message.data.clone()).unwrap()
}

pub(crate) fn group(topic: &str, name: &str) -> Group {
    Group {
        topic: topic.to_owned(),
        name: name.to_owned(),
    }
}

pub(crate) fn subscription(topic: &str, name: &str, n_in_flight: u32) -> Subscription {
    Subscription {
        group: group(topic, name),
        n_in_flight,
        ack_wait: Duration::from_secs(20),
        n_deliveries: 5,
        dead_letter: None,
        wanted: None,
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let future = tokio::time::timeout(PATIENCE, future);
    future.await.expect("it comes in time")
}

pub(crate) async fn next(member: &mut Box<dyn Deliveries>) -> Delivery {
    soon(member.next()).await.unwrap()
}

/// The next message's words; it is done.
pub(crate) async fn take(member: &mut Box<dyn Deliveries>) -> String {
    let delivery = next(member).await;
    delivery.receipt.ack().await.unwrap();
    words(&delivery.message)
}

pub(crate) async fn nothing_comes(member: &mut Box<dyn Deliveries>) {
    if let Ok(delivery) = tokio::time::timeout(SILENCE, member.next()).await {
        panic!("`{}` came", words(&delivery.unwrap().message));
    }
}

pub(crate) fn value<'a>(message: &'a Message, key: &str) -> Option<&'a str> {
    let pair = message.metadata.iter().find(|(name, _)| name == key);
    pair.map(|(_, value)| value.as_str())
}

/// Subscribes, and hears.
pub(crate) async fn member(
    on: &Arc<dyn Messaging>,
    subscription: &Subscription,
) -> Box<dyn Deliveries> {
    soon(on.subscribe(subscription)).await.unwrap()
}

/// Sends, for good.
pub(crate) async fn send(on: &Arc<dyn Messaging>, topic: &str, words: impl Into<String>) {
    soon(on.send(topic, text(words), None)).await.unwrap();
}
