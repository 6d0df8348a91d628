//! What the calls of one transaction do to streams, and how what is not kept goes in passing.
//!
//! Nobody who appends waits for what is old: a transaction takes away a bounded number of records, and the
//! rest goes with the next ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use realm_model::cloud::streams::{Keep, Record, StreamError};
use realm_model::cloud::{CloudError, limits};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::heard::Heard;
use super::tables::{
    self, FACT_BYTES, FACT_STREAM, FACT_VERSION, FACTS, POSITIONS, RECORDS, Row, STREAMS, Stream,
    VERSION,
};
use crate::disk::{Fault, Format};

/// Records that a transaction takes away, at the least: those who called wait for it.
const SWEEP_MAX: usize = 1_000;
/// Records that a transaction takes away which nobody waits for.
const SWEEP_ALONE_MAX: usize = 5_000;
/// Between two looks for what is too old.
const LOOK_EVERY_MS: u64 = 200;

/// Streams, as a file has them.
pub(super) struct Records {
    pub(super) heard: Heard,
    tidying: Mutex<Tidying>,
}

#[derive(Default)]
struct Tidying {
    keep: Keep,
    looked_ms: u64,
    /// When something has to go; `None`: nothing.
    next_ms: Option<u64>,
}

impl Records {
    pub(super) fn new(keep: Keep) -> Self {
        let tidying = Tidying {
            keep,
            // What went over its age while nobody was here.
            next_ms: Some(0),
            ..Tidying::default()
        };
        Self {
            heard: Heard::default(),
            tidying: Mutex::new(tidying),
        }
    }

    pub(super) fn keep(&self, keep: Keep) {
        let mut tidying = self.tidying();
        if tidying.keep != keep {
            tidying.keep = keep;
            tidying.next_ms = Some(0);
        }
    }

    fn tidying(&self) -> MutexGuard<'_, Tidying> {
        self.tidying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open transaction.
pub(super) struct Batch<'t> {
    streams: Table<'t, &'static str, Row>,
    records: Table<'t, (u32, u64), &'static [u8]>,
    positions: Table<'t, (u32, &'static str), u64>,
    now_ms: u64,
    keep: Keep,
    bytes: u64,
    last_stream: u64,
    appended: Vec<String>,
    n_appended: usize,
    /// When something has to go, by what was done here.
    next_ms: Option<u64>,
}

/// What a transaction did, beside what is in the file.
pub(super) struct Done {
    appended: Vec<String>,
    /// By which it was tidied up.
    keep: Keep,
    /// What is known now of when something has to go.
    next_ms: Option<u64>,
    looked_ms: Option<u64>,
}

impl Format for Records {
    const VERSION: u64 = VERSION;
    const NAME: &'static str = "streams";
    const CACHE_BYTES: usize = 16 * 1024 * 1024;
    type Batch<'t> = Batch<'t>;
    type Done = Done;

    fn make(transaction: &WriteTransaction) -> Result<(), Fault> {
        transaction.open_table(STREAMS)?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(POSITIONS)?;
        let mut facts = transaction.open_table(FACTS)?;
        facts.insert(FACT_VERSION, VERSION)?;
        facts.insert(FACT_BYTES, 0)?;
        facts.insert(FACT_STREAM, 0)?;
        Ok(())
    }

    fn version(transaction: &ReadTransaction) -> Result<u64, Fault> {
        transaction.open_table(STREAMS)?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(POSITIONS)?;
        let facts = transaction.open_table(FACTS)?;
        Ok(facts.get(FACT_VERSION)?.map_or(0, |one| one.value()))
    }

    fn begin<'t>(
        &self,
        transaction: &'t WriteTransaction,
        now_ms: u64,
    ) -> Result<Batch<'t>, Fault> {
        let facts = transaction.open_table(FACTS)?;
        let bytes = facts.get(FACT_BYTES)?.map_or(0, |one| one.value());
        let last_stream = facts.get(FACT_STREAM)?.map_or(0, |one| one.value());
        Ok(Batch {
            streams: transaction.open_table(STREAMS)?,
            records: transaction.open_table(RECORDS)?,
            positions: transaction.open_table(POSITIONS)?,
            now_ms,
            keep: self.tidying().keep,
            bytes,
            last_stream,
            appended: Vec::new(),
            n_appended: 0,
            next_ms: None,
        })
    }

    fn end<'t>(
        &self,
        mut batch: Batch<'t>,
        transaction: &'t WriteTransaction,
        alone: bool,
    ) -> Result<Done, Fault> {
        let (next_ms, looked_ms) = {
            let tidying = self.tidying();
            (earlier(tidying.next_ms, batch.next_ms), tidying.looked_ms)
        };
        let is_due = next_ms.is_some_and(|at_ms| at_ms <= batch.now_ms)
            && batch.now_ms.abs_diff(looked_ms) >= LOOK_EVERY_MS;
        let mut done = Done {
            appended: Vec::new(),
            keep: batch.keep,
            next_ms,
            looked_ms: None,
        };
        if is_due {
            let n_max = if alone { SWEEP_ALONE_MAX } else { SWEEP_MAX };
            done.next_ms = batch.tidy(n_max.max(2 * batch.n_appended))?;
            done.looked_ms = Some(batch.now_ms);
        }
        let mut facts = transaction.open_table(FACTS)?;
        facts.insert(FACT_BYTES, batch.bytes)?;
        facts.insert(FACT_STREAM, batch.last_stream)?;
        done.appended = batch.appended;
        Ok(done)
    }

    fn done(&self, done: Done) -> Option<u64> {
        self.heard.tell(done.appended.iter());
        let mut tidying = self.tidying();
        if tidying.keep == done.keep {
            tidying.next_ms = done.next_ms;
        }
        if let Some(looked_ms) = done.looked_ms {
            tidying.looked_ms = looked_ms;
        }
        tidying.next_ms
    }
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Batch<'_> {
    fn stream(&self, key: &str) -> Result<Option<Stream>, Fault> {
        let row = self.streams.get(key)?;
        Ok(row.map(|row| Stream::of(row.value())))
    }

    fn put(&mut self, key: &str, stream: Stream) -> Result<(), Fault> {
        self.streams.insert(key, stream.row())?;
        Ok(())
    }

    /// Appends records, if the last one is the one that is expected.
    pub(super) fn append(
        &mut self,
        key: &str,
        records: &[Record],
        expected: Option<u64>,
    ) -> Result<Result<Vec<u64>, StreamError>, Fault> {
        let known = self.stream(key)?;
        let last = known.map_or(0, |stream| stream.last);
        if expected.is_some_and(|expected| expected != last) {
            return Ok(Err(StreamError::Conflict(last)));
        }
        let mut stream = match known {
            Some(stream) => stream,
            None if self.streams.len()? >= limits::STREAMS_MAX as u64 => {
                return Ok(Err(CloudError::Full("the list of streams").into()));
            }
            None => {
                self.last_stream += 1;
                Stream::new(u32::try_from(self.last_stream).unwrap_or(u32::MAX))
            }
        };
        // A clock that was set back takes nothing out of order.
        stream.time_ms = stream.time_ms.max(self.now_ms);
        let mut numbers = Vec::with_capacity(records.len());
        for record in records {
            stream.last += 1;
            let place = (stream.number, stream.last);
            let bytes = tables::bytes(place, stream.time_ms, record);
            self.records.insert(place, &*bytes)?;
            stream.bytes += tables::size(&bytes);
            self.bytes += tables::size(&bytes);
            numbers.push(stream.last);
        }
        self.n_appended += records.len();
        if let Some(bytes_max) = self.keep.bytes {
            self.shrink(&mut stream, bytes_max, SWEEP_MAX.max(2 * records.len()))?;
        }
        if let Some(age) = self.keep.age {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let over_ms = stream.time_ms.saturating_add(age_ms);
            self.next_ms = earlier(self.next_ms, Some(over_ms));
        }
        self.put(key, stream)?;
        self.appended.push(key.to_owned());
        Ok(Ok(numbers))
    }

    /// What is before a number is read no more; it goes in passing.
    pub(super) fn trim(&mut self, key: &str, before: u64) -> Result<(), Fault> {
        let Some(mut stream) = self.stream(key)? else {
            return Ok(());
        };
        stream.first = stream.first.max(before.min(stream.last + 1));
        self.next_ms = earlier(self.next_ms, Some(0));
        self.put(key, stream)
    }

    /// A consumer has come further, if it was where it is expected to be.
    pub(super) fn commit(
        &mut self,
        key: &str,
        consumer: &str,
        seq: u64,
        expected: Option<u64>,
    ) -> Result<Result<(), StreamError>, Fault> {
        let Some(stream) = self.stream(key)? else {
            let words = "the stream has no records yet".to_owned();
            return Ok(Err(CloudError::Invalid(words).into()));
        };
        let place = (stream.number, consumer);
        let position = self.positions.get(place)?.map(|one| one.value());
        if position != expected {
            return Ok(Err(StreamError::Conflict(position.unwrap_or(0))));
        }
        if position.is_none() {
            let of_stream = (stream.number, "")..(stream.number.saturating_add(1), "");
            let n = self.positions.range(of_stream)?.take(limits::CONSUMERS_MAX);
            if n.count() >= limits::CONSUMERS_MAX {
                return Ok(Err(CloudError::Full("the list of consumers").into()));
            }
        }
        self.positions.insert(place, seq)?;
        Ok(Ok(()))
    }

    /// Takes the oldest record away: whether there was one.
    fn sweep_one(&mut self, stream: &mut Stream) -> Result<bool, Fault> {
        if stream.swept > stream.last {
            return Ok(false);
        }
        if let Some(bytes) = self.records.remove((stream.number, stream.swept))? {
            let size = tables::size(bytes.value());
            stream.bytes = stream.bytes.saturating_sub(size);
            self.bytes = self.bytes.saturating_sub(size);
        }
        stream.swept += 1;
        stream.first = stream.first.max(stream.swept);
        Ok(true)
    }

    /// Takes the oldest ones of a stream that has more than it may: how many it were.
    fn shrink(
        &mut self,
        stream: &mut Stream,
        bytes_max: u64,
        n_max: usize,
    ) -> Result<usize, Fault> {
        let mut n = 0;
        // The last one stays, however large it is.
        while stream.bytes > bytes_max && stream.swept < stream.last && n < n_max {
            self.sweep_one(stream)?;
            n += 1;
        }
        Ok(n)
    }

    /// When the oldest record of a stream is too old.
    fn over_ms(&self, stream: &Stream) -> Result<Option<u64>, Fault> {
        let Some(age) = self.keep.age else {
            return Ok(None);
        };
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let oldest = self.records.get((stream.number, stream.swept))?;
        let time_ms = oldest.and_then(|bytes| tables::time(bytes.value()));
        Ok(time_ms.map(|time_ms| time_ms.saturating_add(age_ms)))
    }

    /// Takes away what was trimmed, is too old, or is too much, up to so many records: when to look again.
    fn tidy(&mut self, n_max: usize) -> Result<Option<u64>, Fault> {
        let mut all = Vec::new();
        for row in self.streams.iter()? {
            let (key, row) = row?;
            all.push((key.value().to_owned(), Stream::of(row.value())));
        }
        let (mut n, mut next_ms) = (0, None);
        for (key, before) in all {
            let mut stream = before;
            while n < n_max {
                let is_trimmed = stream.swept < stream.first;
                let is_over = |over_ms: Option<u64>| over_ms.is_some_and(|at| at <= self.now_ms);
                if !is_trimmed && !is_over(self.over_ms(&stream)?) {
                    break;
                }
                if !self.sweep_one(&mut stream)? {
                    break;
                }
                n += 1;
            }
            if let Some(bytes_max) = self.keep.bytes {
                n += self.shrink(&mut stream, bytes_max, n_max.saturating_sub(n))?;
            }
            if stream != before {
                self.put(&key, stream)?;
            }
            next_ms = earlier(next_ms, self.over_ms(&stream)?);
        }
        if n >= n_max {
            return Ok(Some(self.now_ms));
        }
        Ok(next_ms)
    }
}
