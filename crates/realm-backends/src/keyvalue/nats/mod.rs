//! Values by key in buckets of NATS JetStream, which other programs see as such.
//!
//! A bucket is one of the server's, of the prefix and its name; a key's revision is the number of its last
//! message. One key changes at once, several do not. Not here: how buckets and connections come to be.

mod clock;
mod ends;
mod link;
mod names;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::kv;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind};
use async_nats::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use realm_model::binding;
use realm_model::cloud::{
    Answer, Changes, Check, CloudError, Edit, KeyPage, KeyValue, Revision, Swapped, Versioned,
    check_key, check_ttl, check_value, limits, within,
};

use super::iterations::{Iterations, place_of};
use super::{check_batch, check_commit, check_keys};
use crate::server::{Access, ServerError};
use crate::watch::Watch;
use link::{Link, words};

/// Room for headers in the largest message that a server takes.
const HEADERS_BYTES: usize = 1024;
/// Requests of one batch that are under way at once.
const AT_ONCE: usize = 32;
/// What says of a message that it deletes.
const OPERATION: &str = "KV-Operation";
const DELETED: &str = "DEL";

/// A store on a server.
pub struct Nats {
    link: Arc<Link>,
    iterations: Iterations,
}

/// The last that a server has of a key.
#[derive(Default)]
struct Last {
    /// The number of its message; 0: there is none.
    number: u64,
    /// `None`: it says that the key was deleted.
    value: Option<Bytes>,
    /// When it ends: since 1970, by the clock of the server.
    ends: Option<Duration>,
}

/// A message that is to be the last of a key.
#[derive(Default)]
struct Next<'a> {
    key: &'a str,
    /// `None` deletes.
    value: Option<&'a [u8]>,
    ttl: Option<Duration>,
    /// What it says of its end beside that; since 1970.
    ends: Option<Duration>,
    /// After which one alone.
    after: Option<u64>,
}

/// How a message was not taken.
enum Refused {
    /// Another one came first.
    Late,
    Error(CloudError),
}

impl Nats {
    /// A store; the server is asked when it is needed. Called within the runtime that lasts as long.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: what is named cannot be used, whatever the server says.
    pub fn new(
        server: &binding::Server,
        access: &Access,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        Ok(Self {
            link: Arc::new(Link::new(server, access, watch)?),
            iterations: Iterations::default(),
        })
    }

    async fn last(&self, bucket: &str, key: &str) -> Result<Last, CloudError> {
        check_key(key)?;
        match self.link.find(bucket).await? {
            Some(store) => self.last_in(&store, key).await,
            None => Ok(Last::default()),
        }
    }

    async fn last_in(&self, store: &kv::Store, key: &str) -> Result<Last, CloudError> {
        let subject = format!("{}{}", store.prefix, names::key(key));
        let config = &store.stream.cached_info().config;
        // Any copy answers a direct request, and one may lag behind; the leader does not.
        let message = if config.allow_direct && config.num_replicas <= 1 {
            match store.stream.direct_get_last_for_subject(subject).await {
                Ok(message) => message,
                Err(error) => {
                    return match error.kind() {
                        DirectGetErrorKind::NotFound => Ok(Last::default()),
                        // Nobody answers for a bucket that is not there any more.
                        DirectGetErrorKind::TimedOut => {
                            self.link.forget(store);
                            Err(CloudError::Timeout)
                        }
                        DirectGetErrorKind::InvalidSubject
                        | DirectGetErrorKind::Request
                        | DirectGetErrorKind::ErrorResponse(..)
                        | DirectGetErrorKind::Other => {
                            self.link.forget(store);
                            Err(self.link.unavailable(&words(&error)))
                        }
                    };
                }
            }
        } else {
            match store.stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return Ok(Last::default());
                }
                Err(error) => {
                    self.link.forget(store);
                    return Err(self.link.unavailable(&words(&error)));
                }
            }
        };
        self.link.health.answered();
        read(message)
    }

    /// Writes a message as the last of its key: its number.
    async fn put(&self, store: &kv::Store, next: Next<'_>) -> Result<u64, Refused> {
        let connected = self.link.connected().await.map_err(Refused::Error)?;
        let config = &store.stream.cached_info().config;
        let mut headers = HeaderMap::new();
        if next.value.is_none() {
            headers.insert(OPERATION, DELETED);
        }
        let ttl = match (next.value, next.ttl) {
            (_, Some(_)) if !config.allow_message_ttl => {
                return Err(Refused::Error(CloudError::Unsupported("end keys by time")));
            }
            (Some(_), Some(ttl)) => Some(ends::seconds(ttl)),
            (None, _) if config.allow_message_ttl => Some(link::MARKER_TTL.as_secs()),
            (_, _) => None,
        };
        if let Some(ttl) = ttl {
            headers.insert(header::NATS_MESSAGE_TTL, HeaderValue::from(ttl));
        }
        if let Some(ends) = next.ends {
            headers.insert(ends::ENDS, ends.as_millis().to_string());
        }
        if let Some(after) = next.after {
            headers.insert(
                header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
                HeaderValue::from(after),
            );
        }
        let value = next.value.unwrap_or_default();
        let bytes_max = connected.client.max_payload().saturating_sub(HEADERS_BYTES);
        within("the value", value.len(), bytes_max).map_err(Refused::Error)?;
        let subject = format!("{}{}", store.prefix, names::key(next.key));
        let payload = Bytes::copy_from_slice(value);
        let publish = connected
            .jetstream
            .publish_with_headers(subject, headers, payload);
        let acknowledged = async { publish.await?.await };
        match acknowledged.await {
            Ok(done) => {
                self.link.health.answered();
                Ok(done.sequence)
            }
            Err(error) => Err(self.refused(store, &error)),
        }
    }

    fn refused(&self, store: &kv::Store, error: &PublishError) -> Refused {
        match error.kind() {
            PublishErrorKind::WrongLastSequence => Refused::Late,
            PublishErrorKind::TimedOut => Refused::Error(CloudError::Timeout),
            PublishErrorKind::StreamNotFound => {
                self.link.forget(store);
                Refused::Error(self.link.unavailable(&words(error)))
            }
            PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::MaxPayloadExceeded
            | PublishErrorKind::Other => Refused::Error(self.link.unavailable(&words(error))),
        }
    }

    async fn set(&self, store: &kv::Store, next: Next<'_>) -> Result<(), CloudError> {
        match self.put(store, next).await {
            Ok(_) => Ok(()),
            Err(Refused::Late) => Err(CloudError::Failed("it was not taken".to_owned())),
            Err(Refused::Error(error)) => Err(error),
        }
    }

    async fn delete_in(&self, store: &kv::Store, key: &str) -> Result<(), CloudError> {
        // That a key was deleted is kept: of one that is not there that would be kept for nothing.
        if self.last_in(store, key).await?.value.is_none() {
            return Ok(());
        }
        let next = Next {
            key,
            ..Next::default()
        };
        self.set(store, next).await
    }

    /// Writes a message if the key is as it was read: whether it was.
    async fn put_after(
        &self,
        bucket: &str,
        revision: &Revision,
        next: Next<'_>,
    ) -> Result<bool, CloudError> {
        let Ok(after) = <[u8; 8]>::try_from(&revision.0[..]) else {
            return Ok(false);
        };
        let after = Some(u64::from_be_bytes(after));
        let store = self.link.make(bucket).await?;
        match self.put(&store, Next { after, ..next }).await {
            Ok(_) => Ok(true),
            Err(Refused::Late) => Ok(false),
            Err(Refused::Error(error)) => Err(error),
        }
    }

    async fn page(
        &self,
        (bucket, store): (&str, &kv::Store),
        number: u64,
        from: u64,
    ) -> Result<KeyPage, CloudError> {
        let failed = |error: &dyn std::error::Error| self.link.unavailable(&words(error));
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from,
            },
            ack_policy: AckPolicy::None,
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: link::ANSWER_TIMEOUT,
            ..pull::Config::default()
        };
        let consumer = store.stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| failed(&error))?;
        let batch = consumer
            .fetch()
            .max_messages(limits::PAGE_KEYS)
            .messages()
            .await;
        let mut batch = batch.map_err(|error| failed(&error))?;
        let (mut keys, mut n_messages, mut last) = (Vec::new(), 0, from);
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| failed(&*error))?;
            n_messages += 1;
            last = message
                .info()
                .map_err(|error| failed(&*error))?
                .stream_sequence;
            if is_deletion(message.headers.as_ref()) {
                continue;
            }
            let key = message
                .subject
                .strip_prefix(&store.prefix)
                .and_then(names::guest_key);
            keys.extend(key.filter(|key| check_key(key).is_ok()));
        }
        // It would go by itself after a while.
        let _ = store
            .stream
            .delete_consumer(&consumer.cached_info().name)
            .await;
        self.iterations.only_new(number, bucket, &mut keys);
        let is_more = n_messages == limits::PAGE_KEYS;
        if !is_more {
            self.iterations.end(number, bucket);
        }
        Ok(KeyPage {
            keys,
            cursor: is_more.then(|| format!("{number}.{}", last + 1)),
        })
    }
}

fn read(message: StreamMessage) -> Result<Last, CloudError> {
    let number = message.sequence;
    if is_deletion(Some(&message.headers)) {
        return Ok(Last {
            number,
            ..Last::default()
        });
    }
    within("the value", message.payload.len(), limits::VALUE_BYTES_MAX)?;
    let written = u64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(0);
    Ok(Last {
        number,
        ends: ends::of(&message.headers, Duration::from_nanos(written)),
        value: Some(message.payload),
    })
}

fn is_deletion(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| {
        let operation = headers.get(OPERATION).map(HeaderValue::as_str);
        matches!(operation, Some(DELETED | "PURGE"))
            || headers.get(header::NATS_MARKER_REASON).is_some()
    })
}

fn versioned(last: Last) -> Versioned {
    Versioned {
        value: last.value.map(Vec::from),
        revision: Revision(last.number.to_be_bytes().to_vec()),
    }
}

async fn in_time<T>(all: impl Future<Output = Result<T, CloudError>>) -> Result<T, CloudError> {
    tokio::time::timeout(Duration::from_millis(limits::CALL_TIMEOUT_MS), all)
        .await
        .unwrap_or(Err(CloudError::Timeout))
}

impl KeyValue for Nats {
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(in_time(async move {
            Ok(self.last(bucket, key).await?.value.map(Vec::from))
        }))
    }

    fn set<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> Answer<'a, ()> {
        Box::pin(in_time(async move {
            check_key(key)?;
            check_value(value)?;
            check_ttl(ttl)?;
            let store = self.link.make(bucket).await?;
            let next = Next {
                key,
                value: Some(value),
                ttl,
                ..Next::default()
            };
            Self::set(self, &store, next).await
        }))
    }

    fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()> {
        Box::pin(in_time(async move {
            check_key(key)?;
            match self.link.find(bucket).await? {
                Some(store) => self.delete_in(&store, key).await,
                None => Ok(()),
            }
        }))
    }

    fn exists<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, bool> {
        Box::pin(in_time(async move {
            Ok(self.last(bucket, key).await?.value.is_some())
        }))
    }

    fn ttl<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Option<Duration>>> {
        Box::pin(in_time(async move {
            check_key(key)?;
            let Some(store) = self.link.find(bucket).await? else {
                return Ok(None);
            };
            let last = self.last_in(&store, key).await?;
            let left = match last.ends {
                Some(ends) => Some(ends.saturating_sub(self.link.now(&store).await?)),
                None => None,
            };
            Ok(last.value.map(|_| left))
        }))
    }

    fn keys<'a>(&'a self, bucket: &'a str, cursor: Option<&'a str>) -> Answer<'a, KeyPage> {
        Box::pin(in_time(async move {
            let place = cursor.map(place_of).transpose()?;
            let Some(store) = self.link.find(bucket).await? else {
                return Ok(KeyPage::default());
            };
            let (number, from) = place.unwrap_or_else(|| (self.iterations.begin(bucket), 1));
            // Messages are counted from 1.
            let from = from.max(1);
            self.page((bucket, &store), number, from).await
        }))
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a str,
        keys: &'a [String],
    ) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(in_time(async move {
            check_keys(keys)?;
            let Some(store) = self.link.find(bucket).await? else {
                return Ok(vec![None; keys.len()]);
            };
            let mut all = Vec::with_capacity(keys.len());
            let mut n_bytes = 0;
            let asked: Vec<_> = keys.iter().map(|key| self.last_in(&store, key)).collect();
            let mut answers = stream::iter(asked).buffered(AT_ONCE);
            while let Some(last) = answers.try_next().await? {
                n_bytes += last.value.as_ref().map_or(0, Bytes::len);
                within("the batch", n_bytes, limits::BATCH_BYTES_MAX)?;
                all.push(last.value.map(Vec::from));
            }
            Ok(all)
        }))
    }

    fn set_many<'a>(&'a self, bucket: &'a str, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        Box::pin(in_time(async move {
            check_batch(pairs)?;
            if pairs.is_empty() {
                return Ok(());
            }
            let store = self.link.make(bucket).await?;
            let sets: Vec<_> = pairs
                .iter()
                .map(|(key, value)| {
                    let next = Next {
                        key,
                        value: Some(value),
                        ..Next::default()
                    };
                    Self::set(self, &store, next)
                })
                .collect();
            let sets = stream::iter(sets).buffered(AT_ONCE);
            sets.try_for_each(|()| std::future::ready(Ok(()))).await
        }))
    }

    fn delete_many<'a>(&'a self, bucket: &'a str, keys: &'a [String]) -> Answer<'a, ()> {
        Box::pin(in_time(async move {
            check_keys(keys)?;
            let Some(store) = self.link.find(bucket).await? else {
                return Ok(());
            };
            let all: Vec<_> = keys.iter().map(|key| self.delete_in(&store, key)).collect();
            let all = stream::iter(all).buffered(AT_ONCE);
            all.try_for_each(|()| std::future::ready(Ok(()))).await
        }))
    }

    fn increment<'a>(&'a self, bucket: &'a str, key: &'a str, delta: i64) -> Answer<'a, i64> {
        Box::pin(in_time(async move {
            check_key(key)?;
            let store = self.link.make(bucket).await?;
            // Of those who add at once one succeeds in each round, and the call has an end in time.
            loop {
                let last = self.last_in(&store, key).await?;
                let now = match last.ends {
                    Some(_) => self.link.now(&store).await?,
                    None => Duration::ZERO,
                };
                let (sum, left) = ends::added(last.value.as_deref(), last.ends, delta, now)?;
                let text = sum.to_string();
                let next = Next {
                    key,
                    value: Some(text.as_bytes()),
                    ttl: left,
                    ends: last.ends.filter(|_| left.is_some()),
                    after: Some(last.number),
                };
                match self.put(&store, next).await {
                    Ok(_) => return Ok(sum),
                    Err(Refused::Late) => {}
                    Err(Refused::Error(error)) => return Err(error),
                }
            }
        }))
    }

    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Versioned> {
        Box::pin(in_time(async move {
            Ok(versioned(self.last(bucket, key).await?))
        }))
    }

    fn swap<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        revision: &'a Revision,
        value: &'a [u8],
    ) -> Answer<'a, Swapped> {
        Box::pin(in_time(async move {
            check_key(key)?;
            check_value(value)?;
            let next = Next {
                key,
                value: Some(value),
                ..Next::default()
            };
            if self.put_after(bucket, revision, next).await? {
                return Ok(Swapped::Done);
            }
            Ok(Swapped::Changed(versioned(self.last(bucket, key).await?)))
        }))
    }

    fn commit<'a>(
        &'a self,
        bucket: &'a str,
        checks: &'a [Check],
        edits: &'a [Edit],
    ) -> Answer<'a, bool> {
        Box::pin(in_time(async move {
            check_commit(checks, edits)?;
            let mut keys = checks
                .iter()
                .map(|check| &check.key)
                .chain(edits.iter().map(edited));
            let Some(key) = keys.next() else {
                return Ok(true);
            };
            if keys.any(|other| other != key) {
                return Err(CloudError::Unsupported("change several keys at once"));
            }
            // Several checks of one key hold together only if they say the same.
            let revision = checks.first().map(|check| &check.revision);
            if checks.iter().any(|check| Some(&check.revision) != revision) {
                return Ok(false);
            }
            // Of several edits of one key the last one is left.
            let next = match edits.last() {
                Some(Edit::Set(key, value, ttl)) => Next {
                    key,
                    value: Some(value),
                    ttl: *ttl,
                    ..Next::default()
                },
                Some(Edit::Delete(key)) => Next {
                    key,
                    ..Next::default()
                },
                None => {
                    let last = versioned(self.last(bucket, key).await?);
                    return Ok(revision == Some(&last.revision));
                }
            };
            match revision {
                Some(revision) => self.put_after(bucket, revision, next).await,
                None => {
                    let store = self.link.make(bucket).await?;
                    Self::set(self, &store, next).await?;
                    Ok(true)
                }
            }
        }))
    }

    fn watch<'a>(&'a self, bucket: &'a str) -> Answer<'a, Box<dyn Changes>> {
        Box::pin(in_time(watching::watch(self.link.clone(), bucket)))
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        // The server counts what it needs for a bucket, deletions among it: that is another number.
        Box::pin(async { Ok(None) })
    }
}

fn edited(edit: &Edit) -> &String {
    match edit {
        Edit::Set(key, _, _) | Edit::Delete(key) => key,
    }
}
