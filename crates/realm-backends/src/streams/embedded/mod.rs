//! Streams in one file of the node's own. How it is written and read is `disk`'s; not here: who may open a
//! stream, and how much may be in all of them.

mod batch;
mod heard;
mod tables;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::streams::{
    Bounds, Keep, Place, Record, StoredRecord, StreamError, Streams, check_records, check_stream,
};
use realm_model::cloud::{Answer, CloudError, limits};
use tokio::time::{Instant, timeout_at};

use self::batch::{Batch, Records};
use self::tables::{
    FACT_BYTES, FACTS, POSITIONS, RECORDS, STREAMS, Stream, damaged, key, record, time,
};
use crate::disk::{Disk, OpenError};
use crate::watch::Watch;

/// Streams in a file.
pub struct Embedded {
    disk: Disk<Records>,
}

impl Embedded {
    /// Opens a file, or makes it. May wait for the disk: not for a thread that serves.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the file is in use, damaged, or cannot be read. Nothing is changed then.
    pub fn open(path: &Path, keep: Keep, watch: Arc<dyn Watch>) -> Result<Self, OpenError> {
        let disk = Disk::open(path, Records::new(keep), watch)?;
        Ok(Self { disk })
    }

    fn stream(&self, at: Place<'_>) -> Result<Option<Stream>, StreamError> {
        check_stream(at.name)?;
        let found = self.disk.view(|transaction| {
            let streams = transaction.open_table(STREAMS)?;
            let row = streams.get(&*key(at))?;
            Ok(row.map(|row| Stream::of(row.value())))
        });
        Ok(found?)
    }

    /// Records that are there now.
    fn read_now(
        &self,
        at: Place<'_>,
        after: u64,
        n_max: usize,
    ) -> Result<Vec<StoredRecord>, CloudError> {
        self.disk.view(|transaction| {
            let mut found = Vec::new();
            let streams = transaction.open_table(STREAMS)?;
            let Some(stream) = streams.get(&*key(at))?.map(|row| Stream::of(row.value())) else {
                return Ok(found);
            };
            let from = after.saturating_add(1).max(stream.first);
            if from > stream.last {
                return Ok(found);
            }
            let records = transaction.open_table(RECORDS)?;
            let (mut n_bytes, number) = (0, stream.number);
            let rows = records.range((number, from)..=(number, stream.last))?;
            for row in rows.take(n_max) {
                let (place, bytes) = row?;
                let (_, seq) = place.value();
                let (time_ms, record) = record(at, (number, seq), bytes.value())?;
                n_bytes += record.size();
                if n_bytes > limits::RECORDS_BYTES_MAX && !found.is_empty() {
                    break;
                }
                found.push(StoredRecord {
                    seq,
                    time_ms,
                    record,
                });
            }
            Ok(found)
        })
    }
}

impl Streams for Embedded {
    fn append<'a>(
        &'a self,
        at: Place<'a>,
        mut records: Vec<Record>,
        expected: Option<u64>,
    ) -> Answer<'a, Vec<u64>, StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            let n_bytes = check_records(&records)?;
            for record in &mut records {
                record.metadata.sort_by(|one, other| one.0.cmp(&other.0));
            }
            self.disk
                .write((records.len(), n_bytes), || {
                    let key = key(at);
                    move |batch: &mut Batch<'_>| batch.append(&key, &records, expected)
                })
                .await
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
            let until = Instant::now() + wait;
            // Before it is looked: what comes in between is heard.
            let mut hearing =
                (!wait.is_zero() && n_max > 0).then(|| self.disk.format().heard.listen(key(at)));
            loop {
                let found = self.read_now(at, after, n_max)?;
                let Some(hearing) = hearing.as_mut().filter(|_| found.is_empty()) else {
                    return Ok(found);
                };
                if timeout_at(until, hearing.appended()).await.is_err() {
                    return Ok(Vec::new());
                }
            }
        })
    }

    fn bounds<'a>(&'a self, at: Place<'a>) -> Answer<'a, Bounds, StreamError> {
        Box::pin(async move {
            let stream = self.stream(at)?;
            Ok(
                stream.map_or(Bounds { first: 1, last: 0 }, |stream| Bounds {
                    first: stream.first,
                    last: stream.last,
                }),
            )
        })
    }

    fn find<'a>(&'a self, at: Place<'a>, time_ms: u64) -> Answer<'a, u64, StreamError> {
        Box::pin(async move {
            let Some(stream) = self.stream(at)? else {
                return Ok(1);
            };
            // Times never go down: the first one that is late enough is found by halves.
            let (mut from, mut to) = (stream.first, stream.last + 1);
            while from < to {
                let seq = from + (to - from) / 2;
                let found_ms = self.disk.view(|transaction| {
                    let records = transaction.open_table(RECORDS)?;
                    let Some(bytes) = records.get((stream.number, seq))? else {
                        return Ok(None);
                    };
                    time(bytes.value()).map(Some).ok_or_else(|| damaged(at))
                })?;
                // What went meanwhile was before everything that is there.
                if found_ms.is_none_or(|found_ms| found_ms < time_ms) {
                    from = seq + 1;
                } else {
                    to = seq;
                }
                // Each of them reads a record, which may be large.
                tokio::task::yield_now().await;
            }
            Ok(from)
        })
    }

    fn trim<'a>(&'a self, at: Place<'a>, before: u64) -> Answer<'a, (), StreamError> {
        Box::pin(async move {
            check_stream(at.name)?;
            self.disk
                .write((1, 0), || {
                    let key = key(at);
                    move |batch: &mut Batch<'_>| batch.trim(&key, before).map(Ok)
                })
                .await
        })
    }

    fn position<'a>(
        &'a self,
        at: Place<'a>,
        consumer: &'a str,
    ) -> Answer<'a, Option<u64>, StreamError> {
        Box::pin(async move {
            check_stream(consumer)?;
            let Some(stream) = self.stream(at)? else {
                return Ok(None);
            };
            let position = self.disk.view(|transaction| {
                let positions = transaction.open_table(POSITIONS)?;
                let position = positions.get((stream.number, consumer))?;
                Ok(position.map(|position| position.value()))
            });
            Ok(position?)
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
            self.disk
                .write((1, consumer.len()), || {
                    let (key, consumer) = (key(at), consumer.to_owned());
                    move |batch: &mut Batch<'_>| batch.commit(&key, &consumer, seq, expected)
                })
                .await
        })
    }

    fn keep(&self, keep: Keep) {
        self.disk.format().keep(keep);
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            self.disk.view(|transaction| {
                let bytes = transaction.open_table(FACTS)?.get(FACT_BYTES)?;
                Ok(Some(bytes.map_or(0, |bytes| bytes.value())))
            })
        })
    }
}
