//! NATS with JetStream: a stream for what a binding sends, a durable consumer for each group.
//!
//! What was sent is on the server's disk; it goes once every group is done with it. Whom nothing is
//! sent to keeps nothing. The dead are buried by realm, not by the server, which would only stop to
//! deliver them. Devices that speak MQTT with the same server send and get messages as other clients
//! do. Not here: which server, and who may use it.

pub(crate) mod headers;
mod later;
mod letters;
mod link;
mod member;
mod names;
mod requests;
mod unreadable;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use realm_model::cloud::{
    Answer, Deliveries, Group, Letter, Message, Messaging, Subscription, check_message,
    check_pattern, check_topic,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use self::link::Link;
use self::member::Taking;
use super::budget::Budget;
use super::selective::selective;
use super::{OnDeath, Room};
use crate::{Access, ServerError, Watch};

/// How long a member waits until the server knows that it answers requests.
const LISTENING: Duration = Duration::from_secs(2);

/// What the server says of a message that is not there.
const NOT_THERE: &str = "no message found";

/// Messages on a NATS server.
pub struct Nats {
    shared: Arc<Shared>,
    /// Groups that this node made: none but these does it forget, since others may share the server.
    kept: Mutex<BTreeSet<Group>>,
}

struct Shared {
    link: Link,
    /// Whether what is sent is for devices as well.
    devices: bool,
    on_death: OnDeath,
    listening: Notify,
    /// Room for what members get.
    handed: Arc<Budget>,
    /// For requests, from being asked to being answered.
    waiting: Arc<Budget>,
    /// For replies, until all of a request are there.
    replies: Arc<Budget>,
}

impl Nats {
    /// Messages on the server at `HOST:PORT`. It is asked when it is needed, and need not be there yet.
    /// With `devices`, what is sent is kept for subscribers of its MQTT that are away. Called within a
    /// runtime.
    ///
    /// # Errors
    ///
    /// What of `access` cannot be used.
    pub fn new(
        host: &str,
        is_tls: bool,
        access: &Access,
        room: Room,
        watch: Arc<dyn Watch>,
        on_death: OnDeath,
        devices: bool,
    ) -> Result<Self, ServerError> {
        let shared = Arc::new(Shared {
            link: Link::new(host, is_tls, access, room, watch)?,
            devices,
            on_death,
            listening: Notify::new(),
            handed: Arc::default(),
            waiting: Arc::default(),
            replies: Arc::default(),
        });
        later::keep(&shared);
        Ok(Self {
            shared,
            kept: Mutex::default(),
        })
    }
}

impl Messaging for Nats {
    fn send<'a>(
        &'a self,
        topic: &'a str,
        message: Message,
        delay: Option<Duration>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            check_topic(topic)?;
            check_message(&message)?;
            let link = &self.shared.link;
            let mut headers = headers::write(&message);
            let delay = delay.filter(|delay| !delay.is_zero());
            let is_later = delay.is_some();
            let subject = match delay {
                Some(delay) => {
                    headers.insert(headers::DUE, later::due_ms(delay).to_string());
                    // What is taken now fits when it is sent.
                    headers.insert(headers::SPARE, "-".repeat(headers::SPARE_BYTES));
                    link.names.later(topic)
                }
                None => link.names.subject(topic),
            };
            let data = message.data.into();
            if self.shared.devices && !is_later {
                headers.insert(headers::MQTT, headers::AT_LEAST_ONCE);
                link.keep_for_devices(&subject, Bytes::clone(&data)).await?;
            }
            let sent = PublishMessage::build().headers(headers).payload(data);
            link.publish(subject, sent).await
        })
    }

    fn request<'a>(
        &'a self,
        topic: &'a str,
        message: Message,
        timeout: Duration,
        n_replies: u32,
    ) -> Answer<'a, Vec<Message>> {
        Box::pin(async move {
            check_topic(topic)?;
            check_message(&message)?;
            requests::ask(&self.shared, topic, message, timeout, n_replies).await
        })
    }

    fn reply<'a>(&'a self, reply_to: &'a str, message: Message) -> Answer<'a, ()> {
        Box::pin(async move {
            check_message(&message)?;
            let link = &self.shared.link;
            let connected = link.get().await?;
            let (subject, headers) = (reply_to.to_owned(), headers::write(&message));
            let data = message.data.into();
            let client = &connected.client;
            let sent = client.publish_with_headers(subject, headers, data).await;
            sent.map_err(|error| link.failed(&error))
        })
    }

    fn subscribe<'a>(&'a self, subscription: &'a Subscription) -> Answer<'a, Box<dyn Deliveries>> {
        Box::pin(async move {
            check_pattern(&subscription.group.topic)?;
            if let Some(topic) = &subscription.dead_letter {
                check_topic(topic)?;
            }
            // What is sent after this call reaches the group.
            let ack_wait = Some(subscription.ack_wait);
            let link = &self.shared.link;
            link.consumer(&subscription.group, ack_wait).await?;
            let listening = self.shared.listening.notified();
            let taking: Box<dyn Deliveries> = Box::new(Taking::new(&self.shared, subscription));
            let _ = timeout(LISTENING, listening).await;
            Ok(selective(taking, subscription))
        })
    }

    fn keep_groups<'a>(&'a self, groups: &'a [Group]) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = &self.shared.link;
            for group in groups {
                check_pattern(&group.topic)?;
                link.consumer(group, None).await?;
            }
            let wanted: BTreeSet<Group> = groups.iter().cloned().collect();
            let gone: Vec<Group> = {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let gone = kept.difference(&wanted).cloned().collect();
                kept.extend(wanted);
                gone
            };
            for group in gone {
                link.forget(&group).await?;
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.remove(&group);
            }
            Ok(())
        })
    }

    fn dead(&self, n_max: usize) -> Answer<'_, Vec<Message>> {
        Box::pin(letters::newest(&self.shared.link, n_max))
    }

    fn letters(&self) -> Answer<'_, Vec<Letter>> {
        Box::pin(letters::all(&self.shared.link))
    }

    fn letter(&self, number: u64) -> Answer<'_, Option<Letter>> {
        Box::pin(letters::one(&self.shared.link, number))
    }

    fn settle_letter(&self, number: u64, is_retried: bool) -> Answer<'_, bool> {
        Box::pin(letters::settle(&self.shared.link, number, is_retried))
    }
}
