//! The connection to the server: made when it is needed, made anew where it does not come back, and the
//! streams that have to be there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use realm_model::cloud::{CloudError, Group, limits};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::headers;
use super::names::{Names, consumer};
use crate::messaging::Room;
use crate::server::{Access, tls_config};
use crate::watch::Health;
use crate::{ServerError, Watch};

/// How long a connection may take to be made, to come back, and an answer of the server to come.
const CONNECT: Duration = Duration::from_secs(4);
const COMES_BACK: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(4);
/// After a try to connect that failed, callers hear so for this long without another one.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the server looks for repetitions of one message.
const REPETITIONS: Duration = Duration::from_secs(120);

/// Dead letters that are kept, and bytes of them.
const DEAD_MAX: i64 = 1_000;
const DEAD_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// What the server puts before the subject of a message that it keeps for devices, in a stream of its own
/// (`$MQTT_msgs`). Where no device wants it, it keeps nothing.
const DEVICES: &str = "$MQTT.msgs.";
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
    url: String,
    options: ConnectOptions,
    pub(super) names: Names,
    room: Room,
    health: Health,
    runtime: Handle,
    state: Mutex<Connecting>,
}

#[derive(Default)]
struct Connecting {
    there: Option<Arc<Connected>>,
    failed_at: Option<Instant>,
}

/// A connection that stands, or did a moment ago.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
}

impl Link {
    pub(super) fn new(
        host: &str,
        is_tls: bool,
        access: &Access,
        room: Room,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        let mut options = ConnectOptions::new()
            .name("realm")
            .connection_timeout(CONNECT)
            .request_timeout(Some(ANSWER))
            .ping_interval(Duration::from_secs(10));
        if let Some(password) = &access.password {
            let password = password.as_str().to_owned();
            options = match &access.user {
                Some(user) => options.user_and_password(user.clone(), password),
                None => options.token(password),
            };
        }
        let scheme = if is_tls { "tls" } else { "nats" };
        if is_tls {
            let config = tls_config(access)?;
            options = options.require_tls(true).tls_client_config(config);
        }
        Ok(Self {
            url: format!("{scheme}://{host}"),
            options,
            names: Names::new(&access.prefix).ok_or(ServerError::Prefix)?,
            room,
            health: Health::new(watch),
            runtime: Handle::current(),
            state: Mutex::default(),
        })
    }

    /// A connection, and its streams; waits as long as it takes to know that there is none.
    pub(super) async fn get(&self) -> Result<Arc<Connected>, CloudError> {
        let mut state = self.state.lock().await;
        if let Some(there) = &state.there {
            if is_back(&there.client).await {
                return Ok(Arc::clone(there));
            }
            // Its tasks end with its last handle.
            state.there = None;
        }
        if state.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(CloudError::Unavailable);
        }
        match self.connect().await {
            Ok(connected) => {
                let connected = Arc::new(connected);
                state.there = Some(Arc::clone(&connected));
                state.failed_at = None;
                self.health.answered();
                Ok(connected)
            }
            Err(why) => {
                state.failed_at = Some(Instant::now());
                self.health.failed(&why);
                Err(CloudError::Unavailable)
            }
        }
    }

    async fn connect(&self) -> Result<Connected, String> {
        // What reads and writes the connection lives where this backend was made, and not with the guest
        // that happens to be the first to ask.
        let connecting = self.options.clone().connect(self.url.clone());
        let connecting = self.runtime.spawn(timeout(CONNECT, connecting));
        let client = connecting
            .await
            .map_err(|error| error.to_string())?
            .map_err(|_| format!("{} does not answer", self.url))?
            .map_err(|error| format!("{}: {}", self.url, words(&error)))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(ANSWER)
            .ack_timeout(ANSWER)
            .build(client.clone());
        for kind in [Kind::Messages, Kind::Dead, Kind::Later] {
            let config = self.stream(kind);
            let name = config.name.clone();
            let found = jetstream.get_or_create_stream(config.clone()).await;
            let found = found.map_err(|error| format!("the stream `{name}`: {}", words(&error)))?;
            if found.cached_info().config.subjects != config.subjects {
                let prefix = self.names.prefix();
                return Err(format!(
                    "the stream `{name}` is there and not that of the prefix `{prefix}`"
                ));
            }
        }
        Ok(Connected { client, jetstream })
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
                    self.state.lock().await.there = None;
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

    /// Keeps a message for devices that subscribed over MQTT with a quality of service of 1, where the
    /// server itself keeps what one device sends to another: they get it when they are there again.
    pub(super) async fn keep_for_devices(
        &self,
        subject: &str,
        data: Bytes,
    ) -> Result<(), CloudError> {
        let mut headers = HeaderMap::new();
        headers.insert(headers::MQTT, headers::AT_LEAST_ONCE);
        let kept = PublishMessage::build().headers(headers).payload(data);
        let subject = format!("{DEVICES}{subject}");
        let connected = self.get().await?;
        let publishing = async {
            let answer = connected.jetstream.send_publish(subject, kept).await?;
            answer.await
        };
        match timeout(ANSWER, publishing).await {
            Ok(Ok(_)) => Ok(()),
            // No device was ever connected.
            Ok(Err(error)) if error.kind() == PublishErrorKind::StreamNotFound => Ok(()),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(CloudError::Timeout),
        }
    }

    /// What a guest hears of an error that the operator has to look at.
    pub(super) fn failed(&self, error: &dyn std::error::Error) -> CloudError {
        self.health.failed(&words(error));
        CloudError::Unavailable
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

/// Whether a connection stands, or stands again in a moment.
async fn is_back(client: &Client) -> bool {
    let until = Instant::now() + COMES_BACK;
    while client.connection_state() != State::Connected {
        if Instant::now() >= until {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Whether the server refuses a message because its stream has no room.
fn is_full(error: &async_nats::jetstream::context::PublishError) -> bool {
    let source = std::error::Error::source(error);
    let Some(error) = source.and_then(|one| one.downcast_ref::<jetstream::Error>()) else {
        return false;
    };
    let codes = [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
    ];
    codes.contains(&error.error_code())
}

/// An error with its causes, for the operator.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // The client's errors often say their cause themselves.
        if !words.contains(&said) {
            words.push_str(": ");
            words.push_str(&said);
        }
        cause = error.source();
    }
    words
}
