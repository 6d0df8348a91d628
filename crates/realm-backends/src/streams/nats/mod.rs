//! NATS with JetStream: a stream of the server for each stream of a guest, made with the first record.
//!
//! Numbers and times are the server's. Positions of consumers are the last messages of their subjects in one
//! further stream. Not here: which server, and who may use it.

mod link;
mod names;
mod reading;

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use futures_util::StreamExt as _;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use realm_model::cloud::streams::{
    Bounds, Keep, Place, Record, StoredRecord, StreamError, Streams, check_records, check_stream,
};
use realm_model::cloud::{Answer, CloudError, Message, limits, within};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::link::Link;
use crate::messaging::nats::headers;
use crate::{Access, ServerError, Watch};

/// The key of a record, percent-encoded.
const KEY: &str = "Realm-Key";

/// Reads that bring records at a time, each up to [`reading::PULL_BYTES_MAX`]: what they bring is counted as
/// their guests' once all of it is here.
const READS_MAX: usize = 16;

/// Streams on a NATS server.
pub struct Nats {
    link: Link,
    reading: Semaphore,
}

impl Nats {
    /// Streams on the server at `HOST:PORT`. It is asked when it is needed, and need not be there yet.
    /// Called within a runtime.
    ///
    /// # Errors
    ///
    /// What of `access` cannot be used.
    pub fn new(
        host: &str,
        is_tls: bool,
        access: &Access,
        keep: Keep,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        let link = Link::new(host, is_tls, access, keep, watch)?;
        Ok(Self {
            link,
            reading: Semaphore::new(READS_MAX),
        })
    }

    async fn append_all(
        &self,
        at: Place<'_>,
        records: Vec<Record>,
        expected: Option<u64>,
    ) -> Result<Vec<u64>, StreamError> {
        self.link.make(at).await?;
        let subject = self.link.names.subject(at);
        let messages: Vec<_> = records.into_iter().map(written).collect();
        let bytes_max = self.link.message_bytes_max().await?;
        // Before the first is sent, so that nothing is there of a batch that does not fit.
        for (headers, data) in &messages {
            within(
                "the record with its metadata",
                size(headers, data),
                bytes_max,
            )?;
        }
        let mut sent = Vec::with_capacity(messages.len());
        for (headers, data) in messages {
            let mut message = PublishMessage::build().headers(headers).payload(data);
            if let Some(expected) = expected {
                message = message.expected_last_sequence(expected);
            }
            sent.push(self.link.send(subject.clone(), message).await?);
        }
        let mut numbers = Vec::with_capacity(sent.len());
        for answer in sent {
            let ended = match self.link.said(at, answer.await).await? {
                Some(seq) => Ok(seq),
                None => Err(StreamError::Conflict(self.link.bounds(at).await?.last)),
            };
            numbers.push(ended?);
        }
        Ok(numbers)
    }

    /// The position of a consumer, and the number of the message that says so.
    async fn position_of(
        &self,
        at: Place<'_>,
        consumer: &str,
    ) -> Result<Option<(u64, u64)>, CloudError> {
        let stream = self.link.positions().await?;
        let subject = self.link.names.position(at, consumer);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(found) => {
                let text = std::str::from_utf8(&found.payload).ok();
                let position = text.and_then(|text| text.parse().ok());
                let position = position.ok_or_else(|| {
                    CloudError::Failed("the position is none of realm's".to_owned())
                })?;
                Ok(Some((position, found.sequence)))
            }
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::InvalidSubject
                | RawMessageErrorKind::JetStream(_)
                | RawMessageErrorKind::Other => Err(self.link.failed(&error)),
            },
        }
    }

    async fn commit_position(
        &self,
        at: Place<'_>,
        consumer: &str,
        seq: u64,
        expected: Option<u64>,
    ) -> Result<(), StreamError> {
        let known = self.position_of(at, consumer).await?;
        let position = known.map(|(position, _)| position);
        if position == expected && position.is_none() {
            self.may_have_another_consumer(at).await?;
        }
        if position != expected {
            return Err(StreamError::Conflict(position.unwrap_or(0)));
        }
        let subject = self.link.names.position(at, consumer);
        let message = PublishMessage::build()
            .payload(seq.to_string().into())
            .expected_last_subject_sequence(known.map_or(0, |(_, message)| message));
        let answer = self.link.send(subject, message).await?;
        if self.link.said(at, answer.await).await?.is_some() {
            return Ok(());
        }
        let now = self.position_of(at, consumer).await?;
        Err(StreamError::Conflict(
            now.map_or(0, |(position, _)| position),
        ))
    }

    async fn may_have_another_consumer(&self, at: Place<'_>) -> Result<(), CloudError> {
        if self.link.bounds(at).await?.last == 0 {
            let words = "the stream has no records yet".to_owned();
            return Err(CloudError::Invalid(words));
        }
        let stream = self.link.positions().await?;
        let subjects = self.link.names.position(at, "*");
        let found = stream.info_with_subjects(subjects).await;
        let found = found.map_err(|error| self.link.failed(&error))?;
        if found.take(limits::CONSUMERS_MAX).count().await >= limits::CONSUMERS_MAX {
            return Err(CloudError::Full("the list of consumers"));
        }
        Ok(())
    }
}

/// A call that ends in time, whatever the server does.
async fn in_time<T>(call: Answer<'_, T, StreamError>) -> Result<T, StreamError> {
    let patience = Duration::from_millis(limits::CALL_TIMEOUT_MS);
    match timeout(patience, call).await {
        Ok(ended) => ended,
        Err(_) => Err(CloudError::Timeout.into()),
    }
}

/// A record as the server carries it: its metadata are headers.
fn written(record: Record) -> (HeaderMap, Bytes) {
    let mut headers = headers::write(&Message {
        metadata: record.metadata,
        ..Message::default()
    });
    if let Some(key) = &record.key {
        let key = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string();
        headers.insert(KEY, key);
    }
    (headers, record.data.into())
}

/// What the server counts it for.
fn size(headers: &HeaderMap, data: &Bytes) -> usize {
    let pairs = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(|value| name.len() + value.as_str().len() + ": \r\n".len())
    });
    "NATS/1.0\r\n\r\n".len() + pairs.sum::<usize>() + data.len()
}

/// The other way round, whoever sent it.
fn read(headers: Option<&HeaderMap>, data: &[u8]) -> Record {
    let key = headers.and_then(|headers| headers.get(KEY));
    let key = key.and_then(|key| percent_decode_str(key.as_str()).decode_utf8().ok());
    let Message { data, metadata, .. } = headers::read("", headers, data);
    Record {
        key: key.map(std::borrow::Cow::into_owned),
        data,
        metadata,
    }
}

impl Streams for Nats {
    fn append<'a>(
        &'a self,
        at: Place<'a>,
        records: Vec<Record>,
        expected: Option<u64>,
    ) -> Answer<'a, Vec<u64>, StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            check_records(&records)?;
            if expected.is_some() && records.len() > 1 {
                // Somebody could come between two of them, and a part would be there.
                let what = "append several records under a condition: append one";
                return Err(CloudError::Unsupported(what).into());
            }
            in_time(Box::pin(self.append_all(at, records, expected))).await
        })
    }

    fn read<'a>(
        &'a self,
        at: Place<'a>,
        after: u64,
        n_max: usize,
        wait: Duration,
    ) -> Answer<'a, Vec<StoredRecord>, StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            let n_max = n_max.min(limits::RECORDS_MAX);
            if n_max == 0 {
                return Ok(Vec::new());
            }
            let reading = Box::pin(self.read_all(at, after, n_max, wait));
            let mut found = in_time(reading).await?;
            // A server that is asked for what is beyond the end may begin elsewhere.
            found.retain(|record| record.seq > after);
            Ok(found)
        })
    }

    fn bounds<'a>(&'a self, at: Place<'a>) -> Answer<'a, Bounds, StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            let bounds = async { Ok(self.link.bounds(at).await?) };
            in_time(Box::pin(bounds)).await
        })
    }

    fn find<'a>(&'a self, at: Place<'a>, time_ms: u64) -> Answer<'a, u64, StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            in_time(Box::pin(self.find_first(at, time_ms))).await
        })
    }

    fn trim<'a>(&'a self, at: Place<'a>, before: u64) -> Answer<'a, (), StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            let trimming = async {
                let Some(stream) = self.link.find(at).await? else {
                    return Ok(());
                };
                let bounds = link::bounds_of(&stream);
                let before = before.min(bounds.last + 1);
                if before > bounds.first {
                    let purged = stream.purge().sequence(before).await;
                    purged.map_err(|error| self.link.failed(&error))?;
                }
                Ok(())
            };
            in_time(Box::pin(trimming)).await
        })
    }

    fn position<'a>(
        &'a self,
        at: Place<'a>,
        consumer: &'a str,
    ) -> Answer<'a, Option<u64>, StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            check_stream(consumer)?;
            let position = async {
                let position = self.position_of(at, consumer).await?;
                Ok(position.map(|(position, _)| position))
            };
            in_time(Box::pin(position)).await
        })
    }

    fn commit<'a>(
        &'a self,
        at: Place<'a>,
        consumer: &'a str,
        seq: u64,
        expected: Option<u64>,
    ) -> Answer<'a, (), StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            check_stream(consumer)?;
            let commit = self.commit_position(at, consumer, seq, expected);
            in_time(Box::pin(commit)).await
        })
    }

    fn keep(&self, keep: Keep) {
        self.link.keep(keep);
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async { Ok(None) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            key in proptest::option::of("\\PC{0,20}"),
            metadata in prop::collection::vec(("\\PC{0,12}", "\\PC{0,12}"), 0..6),
            data: Vec<u8>,
        ) {
            let mut record = Record { key, data, metadata };
            let (headers, data) = written(record.clone());
            record.metadata.sort_by(|one, other| one.0.cmp(&other.0));
            prop_assert_eq!(read(Some(&headers), &data), record);
        }
    }
}
