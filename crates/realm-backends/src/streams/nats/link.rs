//! The streams that have to be on the server, made when they are needed, and what it says of records.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    GetStreamError, GetStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType, Stream};
use realm_model::cloud::streams::{Bounds, Keep, Place};
use realm_model::cloud::{CloudError, limits};
use tokio::time::timeout;

use super::names::Names;
use crate::nats::{self, ANSWER, Connected, is_full};
use crate::server::Access;
use crate::{ServerError, Watch};

/// Names of streams that are known to be there as they have to be.
const KNOWN_MAX: usize = 10_000;

pub(super) struct Link {
    link: nats::Link,
    pub(super) names: Names,
    keep: Mutex<Keep>,
    known: Mutex<BTreeSet<String>>,
    /// Who finds none makes it alone.
    making: tokio::sync::Mutex<()>,
    n_made: AtomicUsize,
}

fn held<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole values come and go: a panic leaves nothing torn.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(
        host: &str,
        is_tls: bool,
        access: &Access,
        keep: Keep,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        Ok(Self {
            link: nats::Link::new(host, is_tls, access, watch)?,
            names: Names::new(&access.prefix).ok_or(ServerError::Prefix)?,
            keep: Mutex::new(keep),
            known: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            n_made: AtomicUsize::new(0),
        })
    }

    pub(super) fn keep(&self, keep: Keep) {
        if std::mem::replace(&mut *held(&self.keep), keep) != keep {
            held(&self.known).clear();
        }
    }

    /// Bytes of a message, with its headers, that the server takes.
    pub(super) async fn message_bytes_max(&self) -> Result<usize, CloudError> {
        Ok(self.get().await?.client.max_payload())
    }

    pub(super) fn failed(&self, error: &dyn std::error::Error) -> CloudError {
        self.link.failed(error)
    }

    async fn get(&self) -> Result<Arc<Connected>, CloudError> {
        self.link.get(|_| async { Ok(()) }).await
    }

    /// A stream as it is now, if there is one.
    pub(super) async fn find(&self, at: Place<'_>) -> Result<Option<Stream<Info>>, CloudError> {
        let name = self.names.stream(at)?;
        self.find_named(&name).await
    }

    async fn find_named(&self, name: &str) -> Result<Option<Stream<Info>>, CloudError> {
        let connected = self.get().await?;
        match connected.jetstream.get_stream(name).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    pub(super) async fn bounds(&self, at: Place<'_>) -> Result<Bounds, CloudError> {
        let stream = self.find(at).await?;
        Ok(stream.map_or(Bounds { first: 1, last: 0 }, |stream| bounds_of(&stream)))
    }

    /// Makes a stream, if there is none, and has it keep what the binding says.
    pub(super) async fn make(&self, at: Place<'_>) -> Result<(), CloudError> {
        let keep = *held(&self.keep);
        let age = keep.age.unwrap_or_default();
        let bytes = keep.bytes.and_then(|bytes| i64::try_from(bytes).ok());
        let config = Config {
            name: self.names.stream(at)?,
            description: Some("a stream of realm".to_owned()),
            subjects: vec![self.names.subject(at)],
            max_age: age,
            max_bytes: bytes.unwrap_or(-1),
            ..common()
        };
        self.make_with(config).await
    }

    /// The stream of positions.
    pub(super) async fn positions(&self) -> Result<Stream<()>, CloudError> {
        let name = self.names.positions();
        let config = Config {
            name: name.clone(),
            description: Some("how far consumers of realm have come".to_owned()),
            subjects: vec![self.names.all_positions()],
            max_messages_per_subject: 1,
            max_bytes: -1,
            ..common()
        };
        self.make_with(config).await?;
        let connected = self.get().await?;
        let stream = connected.jetstream.get_stream_no_info(&name).await;
        stream.map_err(|error| self.failed(&error))
    }

    async fn make_with(&self, config: Config) -> Result<(), CloudError> {
        if held(&self.known).contains(&config.name) {
            return Ok(());
        }
        let _turn = self.making.lock().await;
        if held(&self.known).contains(&config.name) {
            return Ok(());
        }
        let connected = self.get().await?;
        match self.find_named(&config.name).await? {
            Some(found) => self.fit(&connected, &found, &config).await?,
            None => {
                if self.n_made.load(Ordering::Relaxed) >= limits::STREAMS_MAX {
                    return Err(CloudError::Full("the list of streams"));
                }
                let made = connected.jetstream.create_stream(config.clone()).await;
                // Somebody else may have made it meanwhile.
                if let Err(error) = made
                    && self.find_named(&config.name).await?.is_none()
                {
                    return Err(self.failed(&error));
                }
                self.n_made.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut known = held(&self.known);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(config.name);
        Ok(())
    }

    /// Has a stream that is there keep what it has to; all else of it stays as its operator has it.
    async fn fit(
        &self,
        connected: &Connected,
        found: &Stream<Info>,
        config: &Config,
    ) -> Result<(), CloudError> {
        let there = &found.cached_info().config;
        if there.subjects != config.subjects {
            let words = format!("the stream `{}` is there and not realm's", config.name);
            return Err(self.failed(&std::io::Error::other(words)));
        }
        if there.max_age == config.max_age && there.max_bytes == config.max_bytes {
            return Ok(());
        }
        let wanted = Config {
            max_age: config.max_age,
            max_bytes: config.max_bytes,
            ..there.clone()
        };
        let updated = connected.jetstream.update_stream(&wanted).await;
        updated.map(drop).map_err(|error| self.failed(&error))
    }

    /// Sends something: what the server will say of it.
    pub(super) async fn send(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<PublishAckFuture, CloudError> {
        let connected = self.get().await?;
        let sending = connected.jetstream.send_publish(subject, message);
        match timeout(ANSWER, sending).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.of_publish(&connected, &error)),
            Err(_) => Err(CloudError::Timeout),
        }
    }

    /// What it said: the number of the record; `None`: something else is there than was expected.
    pub(super) async fn said(
        &self,
        at: Place<'_>,
        answer: Result<PublishAck, PublishError>,
    ) -> Result<Option<u64>, CloudError> {
        match answer {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => {
                if error.kind() == PublishErrorKind::StreamNotFound {
                    // Somebody deleted it: the next record makes it anew.
                    let name = self.names.stream(at)?;
                    held(&self.known).remove(&name);
                    held(&self.known).remove(&self.names.positions());
                }
                let connected = self.get().await?;
                Err(self.of_publish(&connected, &error))
            }
        }
    }

    fn of_publish(&self, connected: &Connected, error: &PublishError) -> CloudError {
        match error.kind() {
            PublishErrorKind::TimedOut => CloudError::Timeout,
            PublishErrorKind::MaxPayloadExceeded => CloudError::TooLarge {
                what: "the record with its metadata",
                bytes: limits::RECORD_BYTES_MAX as u64,
                bytes_max: connected.client.max_payload() as u64,
            },
            PublishErrorKind::Other if is_full(error) => CloudError::Full("the stream"),
            PublishErrorKind::Other
            | PublishErrorKind::StreamNotFound
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence => self.failed(error),
        }
    }
}

/// What both kinds of streams have.
fn common() -> Config {
    Config {
        max_messages: -1,
        max_message_size: -1,
        storage: StorageType::File,
        num_replicas: 1,
        discard: DiscardPolicy::Old,
        max_age: Duration::ZERO,
        ..Config::default()
    }
}

/// Where a stream begins and ends.
pub(super) fn bounds_of(stream: &Stream<Info>) -> Bounds {
    let state = &stream.cached_info().state;
    let last = state.last_sequence;
    Bounds {
        first: match state.messages {
            0 => last + 1,
            _ => state.first_sequence,
        },
        last,
    }
}

/// Of nanoseconds since 1970.
pub(super) fn milliseconds(nanoseconds: i128) -> u64 {
    u64::try_from(nanoseconds / 1_000_000).unwrap_or(0)
}

fn is_missing(error: &GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        GetStreamErrorKind::EmptyName
        | GetStreamErrorKind::Request
        | GetStreamErrorKind::InvalidStreamName => false,
    }
}
