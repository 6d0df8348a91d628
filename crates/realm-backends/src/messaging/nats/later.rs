//! Messages that are to be sent later: kept in a stream of their own until their time, by whichever
//! node is there then.
//!
//! A message that is not due yet goes back to the server with the delay that is left. So it is the
//! server that remembers, also over its own restarts.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, AckKind};
use futures_util::StreamExt as _;
use realm_model::cloud::CloudError;
use tokio::time::sleep;

use super::link::{Kind, Link};
use super::{Shared, headers};
use crate::messaging::Death;

/// How long one pull stays open, and how many come at once: they are sent one after the other, and are in
/// memory until then.
const PULL: Duration = Duration::from_secs(3);
const AT_ONCE: usize = 16;
/// After an error, until the next try.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a node that took a message may be silent before another one takes it.
const ACK_WAIT: Duration = Duration::from_secs(10);

pub(super) fn due_ms(delay: Duration) -> u64 {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    now_ms().saturating_add(delay_ms)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Sends what is due, as long as the binding is open.
pub(super) async fn run(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let moved = once(&shared).await;
        drop(shared);
        if moved.is_err() {
            sleep(PAUSE).await;
        }
    }
}

/// One pull.
async fn once(shared: &Shared) -> Result<(), CloudError> {
    let link = &shared.link;
    let consumer = consumer(link).await?;
    let batch = consumer.batch().max_messages(AT_ONCE).expires(PULL);
    let batch = batch.messages().await;
    let mut batch = batch.map_err(|error| link.failed(&error))?;
    let mut moved = Ok(());
    while let Some(message) = batch.next().await {
        let message = message.map_err(|error| link.failed(&*error))?;
        // One that cannot be moved does not hold up those behind it.
        if let Err(error) = one(shared, &message).await {
            moved = Err(error);
        }
    }
    moved
}

async fn consumer(link: &Link) -> Result<PullConsumer, CloudError> {
    let connected = link.get().await?;
    let stream = link.stream_name(Kind::Later);
    let stream = connected.jetstream.get_stream_no_info(&stream);
    let stream = stream.await.map_err(|error| link.failed(&error))?;
    let config = pull::Config {
        durable_name: Some("realm".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        // All that wait count as under way.
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    let found = stream.get_or_create_consumer("realm", config).await;
    found.map_err(|error| link.failed(&error))
}

/// Whether a header goes with the message, and was not for the time until then alone.
fn is_kept(name: &str) -> bool {
    ![headers::DUE, headers::SPARE].contains(&name) && !headers::is_of_server(name)
}

async fn one(shared: &Shared, message: &jetstream::Message) -> Result<(), CloudError> {
    let link = &shared.link;
    let due = message
        .headers
        .as_ref()
        .and_then(|all| all.get(headers::DUE));
    let due = due.and_then(|due| due.as_str().parse::<u64>().ok());
    let left_ms = due.unwrap_or(0).saturating_sub(now_ms());
    if left_ms > 0 {
        let left = Duration::from_millis(left_ms);
        let said = message.ack_with(AckKind::Nak(Some(left))).await;
        return said.map_err(|error| link.failed(&*error));
    }
    if let (Some(topic), Ok(info)) = (link.names.later_topic(&message.subject), message.info()) {
        let headers = message.headers.iter().flat_map(HeaderMap::iter);
        let headers = headers.flat_map(|(name, values)| {
            let values = values
                .iter()
                .map(move |value| (name.clone(), value.clone()));
            values.filter(|(name, _)| is_kept(name.as_ref()))
        });
        // A node that ends before the next line leaves this to another one, which is known by its id.
        let id = format!("later-{}", info.stream_sequence);
        let subject = link.names.subject(topic);
        let mut headers: HeaderMap = headers.collect();
        if shared.devices {
            headers.insert(headers::MQTT, headers::AT_LEAST_ONCE);
            let data = message.payload.clone();
            link.keep_for_devices(&subject, data).await?;
        }
        let sent = PublishMessage::build()
            .headers(headers)
            .payload(message.payload.clone())
            .message_id(id);
        match link.publish(subject, sent).await {
            // Of another client, which left no room for what is said of it: it never fits.
            Err(CloudError::TooLarge { .. }) => {
                (shared.on_death)(&Death {
                    topic: topic.to_owned(),
                    group: String::new(),
                    n_deliveries: 0,
                    why: "it is too large to be sent when it is due".to_owned(),
                });
            }
            sent => sent?,
        }
    }
    let said = message.double_ack().await;
    said.map_err(|error| link.failed(&*error))
}

/// Keeps a message until it is due.
pub(super) fn keep(shared: &Arc<Shared>) {
    tokio::spawn(run(Arc::downgrade(shared)));
}
