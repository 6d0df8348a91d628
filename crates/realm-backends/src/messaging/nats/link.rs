//! The streams and consumers that have to be on the server. Not here: the connection to it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use realm_model::cloud::{CloudError, Group, limits};
use tokio::time::timeout;

use super::names::{Names, consumer};
use crate::messaging::Room;
use crate::nats::{self, ANSWER, Connected, is_full, words};
use crate::server::Access;
use crate::{ServerError, Watch};

/// How long the server looks for repetitions of one message.
const REPETITIONS: Duration = Duration::from_secs(120);

/// Dead letters that are kept, and bytes of them.
const DEAD_MAX: i64 = 1_000;
const DEAD_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// A group's messages that are under way at once, at all of its members.
const UNDER_WAY_MAX: i64 = 20_000;

/// The stream of one kind of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Messages,
    Dead,
    Later,
}

pub(super) struct Link {
    link: nats::Link,
    pub(super) names: Names,
    room: Room,
}

impl Link {
    pub(super) fn new(
        host: &str,
        is_tls: bool,
        access: &Access,
        room: Room,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        Ok(Self {
            link: nats::Link::new(host, is_tls, access, watch)?,
            names: Names::new(&access.prefix).ok_or(ServerError::Prefix)?,
            room,
        })
    }

    /// A connection, and its streams; waits as long as it takes to know that there is none.
    pub(super) async fn get(&self) -> Result<Arc<Connected>, CloudError> {
        let prepare = |connected: Arc<Connected>| self.prepare(connected);
        self.link.get(prepare).await
    }

    async fn prepare(&self, connected: Arc<Connected>) -> Result<(), String> {
        for kind in [Kind::Messages, Kind::Dead, Kind::Later] {
            let config = self.stream(kind);
            let name = config.name.clone();
            let found = connected.jetstream.get_or_create_stream(config.clone());
            let found = found.await;
            let found = found.map_err(|error| format!("the stream `{name}`: {}", words(&error)))?;
            if found.cached_info().config.subjects != config.subjects {
                let prefix = self.names.prefix();
                return Err(format!(
                    "the stream `{name}` is there and not that of the prefix `{prefix}`"
                ));
            }
        }
        Ok(())
    }

    fn stream(&self, kind: Kind) -> stream::Config {
        let bound = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let common = stream::Config {
            name: self.stream_name(kind),
            storage: StorageType::File,
            num_replicas: 1,
            max_bytes: bound(self.room.n_bytes_max),
            max_messages: bound(self.room.n_messages_max),
            discard: DiscardPolicy::New,
            duplicate_window: REPETITIONS,
            ..stream::Config::default()
        };
        match kind {
            Kind::Messages => stream::Config {
                subjects: vec![self.names.subject(">")],
                // Gone once every group is done with it.
                retention: RetentionPolicy::Interest,
                ..common
            },
            Kind::Dead => stream::Config {
                subjects: vec![self.names.dead()],
                max_messages: DEAD_MAX,
                max_bytes: DEAD_BYTES_MAX,
                discard: DiscardPolicy::Old,
                ..common
            },
            Kind::Later => stream::Config {
                subjects: vec![self.names.later(">")],
                retention: RetentionPolicy::WorkQueue,
                ..common
            },
        }
    }

    pub(super) fn stream_name(&self, kind: Kind) -> String {
        self.names.stream(match kind {
            Kind::Messages => "",
            Kind::Dead => "=dead",
            Kind::Later => "=later",
        })
    }

    /// Writes a message into its stream.
    pub(super) async fn publish(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<(), CloudError> {
        let connected = self.get().await?;
        let publishing = async {
            let answer = connected.jetstream.send_publish(subject, message).await?;
            answer.await
        };
        match timeout(ANSWER, publishing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(match error.kind() {
                PublishErrorKind::TimedOut => CloudError::Timeout,
                PublishErrorKind::MaxPayloadExceeded => CloudError::TooLarge {
                    what: "the message with its metadata",
                    bytes: limits::MESSAGE_BYTES_MAX as u64,
                    bytes_max: connected.client.max_payload() as u64,
                },
                PublishErrorKind::Other if is_full(&error) => CloudError::Full("the queue"),
                // The streams may have been deleted: they are looked for with the next connection.
                PublishErrorKind::StreamNotFound => {
                    self.link.lose().await;
                    CloudError::Unavailable
                }
                PublishErrorKind::Other
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending
                | PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::WrongLastSequence => self.failed(&error),
            }),
            Err(_) => Err(CloudError::Timeout),
        }
    }

    /// What a guest hears of an error that the operator has to look at.
    pub(super) fn failed(&self, error: &dyn std::error::Error) -> CloudError {
        self.link.failed(error)
    }

    /// A group's consumer; `settings` has what a member says, which a group that is kept for later
    /// members does not know.
    pub(super) async fn consumer(
        &self,
        group: &Group,
        ack_wait: Option<Duration>,
    ) -> Result<jetstream::consumer::PullConsumer, CloudError> {
        let connected = self.get().await?;
        let name = consumer(group);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("group `{}` of realm", group.name)),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ack_wait.unwrap_or(Duration::from_secs(30)),
            // Without an end: realm buries the dead itself, and says why.
            max_deliver: -1,
            filter_subject: self.names.subject(&group.topic),
            max_ack_pending: UNDER_WAY_MAX,
            ..pull::Config::default()
        };
        let stream = self.stream_name(Kind::Messages);
        let stream = connected.jetstream.get_stream_no_info(&stream);
        let stream = stream.await.map_err(|error| self.failed(&error))?;
        if ack_wait.is_none() {
            let found = stream.get_or_create_consumer(&name, config).await;
            return found.map_err(|error| self.failed(&error));
        }
        let found = stream.create_consumer(config).await;
        found.map_err(|error| self.failed(&error))
    }

    pub(super) async fn forget(&self, group: &Group) -> Result<(), CloudError> {
        let connected = self.get().await?;
        let stream = self.stream_name(Kind::Messages);
        let stream = connected.jetstream.get_stream_no_info(&stream);
        let stream = stream.await.map_err(|error| self.failed(&error))?;
        match stream.delete_consumer(&consumer(group)).await {
            Ok(_) => Ok(()),
            Err(error) if error.to_string().contains("not found") => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}
