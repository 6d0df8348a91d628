//! Records as they are read: by a consumer of the server that is there for one call.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream};
use futures_util::StreamExt as _;
use realm_model::cloud::streams::{Place, StoredRecord, StreamError};
use realm_model::cloud::{CloudError, limits};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Nats, link, read};
use crate::nats::ANSWER;

/// When the server forgets a consumer whose call was dropped.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// Between two looks whether a stream that is waited for is there.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes that one pull brings: the records of a call, what stands beside them, and what is one too many.
pub(super) const PULL_BYTES_MAX: usize = limits::RECORDS_BYTES_MAX + 2 * limits::RECORD_BYTES_MAX;

/// Records, and the place among those who read that they take until they are handed over.
type Pulled<'a> = (Vec<StoredRecord>, Option<SemaphorePermit<'a>>);

impl Nats {
    pub(super) async fn read_all(
        &self,
        at: Place<'_>,
        after: u64,
        n_max: usize,
        wait: Duration,
    ) -> Result<Vec<StoredRecord>, StreamError> {
        let until = Instant::now() + wait;
        let stream = loop {
            if let Some(stream) = self.link.find(at).await? {
                break stream;
            }
            if Instant::now() >= until {
                return Ok(Vec::new());
            }
            sleep_until(until.min(Instant::now() + LOOK_EVERY)).await;
        };
        let Some(from) = after.checked_add(1) else {
            return Ok(Vec::new());
        };
        if from > link::bounds_of(&stream).last && wait.is_zero() {
            return Ok(Vec::new());
        }
        let config = pull::Config {
            description: Some("a reader of realm".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGOTTEN,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| self.link.failed(&error))?;
        let pulled = self.pull(&consumer, n_max, until).await;
        // Where that fails it is forgotten soon.
        let name = &consumer.cached_info().name;
        let _ = timeout(ANSWER, stream.delete_consumer(name)).await;
        let (found, _place) = pulled?;
        Ok(found)
    }

    async fn pull(
        &self,
        consumer: &PullConsumer,
        n_max: usize,
        until: Instant,
    ) -> Result<Pulled<'_>, CloudError> {
        let (mut found, place) = self.pull_now(consumer, n_max).await?;
        let wait = until.saturating_duration_since(Instant::now());
        if !found.is_empty() || wait.is_zero() {
            return Ok((found, place));
        }
        // Who waits brings one record at most, and is in nobody's way.
        drop(place);
        let batch = consumer.batch().max_messages(1).expires(wait);
        let batch = batch.messages().await;
        let mut batch = batch.map_err(|error| self.link.failed(&error))?;
        match timeout_at(until, batch.next()).await {
            Ok(Some(Ok(message))) => found.push(self.stored(&message)?),
            Ok(Some(Err(error))) => return Err(self.link.failed(&*error)),
            Ok(None) | Err(_) => return Ok((found, None)),
        }
        if n_max == 1 {
            return Ok((found, None));
        }
        let (more, place) = self.pull_now(consumer, n_max - 1).await?;
        found.extend(more);
        Ok((cut(found), place))
    }

    /// What is there, as far as it fits.
    async fn pull_now(
        &self,
        consumer: &PullConsumer,
        n_max: usize,
    ) -> Result<Pulled<'_>, CloudError> {
        let pulling = async {
            let place = self.reading.acquire().await;
            let place = place.map_err(|_| CloudError::Unavailable)?;
            let batch = consumer
                .fetch()
                .max_messages(n_max)
                .max_bytes(PULL_BYTES_MAX);
            let batch = batch.messages().await;
            let mut batch = batch.map_err(|error| self.link.failed(&error))?;
            let mut found = Vec::new();
            while let Some(message) = batch.next().await {
                match message {
                    Ok(message) => found.push(self.stored(&message)?),
                    // The next one would be too much for this pull.
                    Err(_) if !found.is_empty() => break,
                    Err(error) => return Err(self.link.failed(&*error)),
                }
            }
            Ok((cut(found), Some(place)))
        };
        let patience = Duration::from_millis(limits::CALL_TIMEOUT_MS);
        timeout(patience, pulling)
            .await
            .unwrap_or(Err(CloudError::Timeout))
    }

    fn stored(&self, message: &jetstream::Message) -> Result<StoredRecord, CloudError> {
        let info = message.info().map_err(|error| self.link.failed(&*error))?;
        Ok(StoredRecord {
            seq: info.stream_sequence,
            time_ms: link::milliseconds(info.published.unix_timestamp_nanos()),
            record: read(message.headers.as_ref(), &message.payload),
        })
    }

    pub(super) async fn find_first(&self, at: Place<'_>, time_ms: u64) -> Result<u64, StreamError> {
        let Some(stream) = self.link.find(at).await? else {
            return Ok(1);
        };
        let bounds = link::bounds_of(&stream);
        let (mut from, mut to) = (bounds.first, bounds.last + 1);
        while from < to {
            let middle = from + (to - from) / 2;
            match self.at_or_after(&stream, at, middle).await? {
                Some((seq, found_ms)) if found_ms < time_ms => from = seq + 1,
                Some(_) | None => to = middle,
            }
        }
        // What stood there may be gone: the next one that is there.
        let first = self.at_or_after(&stream, at, from).await?;
        Ok(first.map_or(bounds.last + 1, |(seq, _)| seq))
    }

    /// The first record that is there from a number on, and its time.
    async fn at_or_after(
        &self,
        stream: &Stream<Info>,
        at: Place<'_>,
        seq: u64,
    ) -> Result<Option<(u64, u64)>, CloudError> {
        let subject = self.link.names.subject(at);
        let found = stream.raw_message_builder();
        match found.sequence(seq).next_by_subject(subject).send().await {
            Ok(found) => {
                let time_ms = link::milliseconds(found.time.unix_timestamp_nanos());
                Ok(Some((found.sequence, time_ms)))
            }
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::InvalidSubject
                | RawMessageErrorKind::JetStream(_)
                | RawMessageErrorKind::Other => Err(self.link.failed(&error)),
            },
        }
    }
}

/// As many as may be returned; one at least.
fn cut(mut found: Vec<StoredRecord>) -> Vec<StoredRecord> {
    let mut n_bytes = 0;
    let fits = found.iter().take_while(|one| {
        n_bytes += one.record.size();
        n_bytes <= limits::RECORDS_BYTES_MAX
    });
    let n = fits.count().max(1);
    found.truncate(n);
    found
}
