//! What the calls of one transaction do to streams, and how what is not kept goes in passing.
//!
//! Nobody who appends waits for what is old: a transaction takes away a bounded number of records, and the
//! rest goes with the next ones.

use std::collections::BTreeMap;
use std::mem;
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
/// Bytes of what a transaction reads to know its age, or takes away: twice what calls may bring to one.
const SWEEP_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Between two looks for what is too old, of which the first one saw all.
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
    oldest: Oldest,
}

/// By the number of a stream: its oldest record, and when that was appended. Records do not change, and to
/// read one for its time alone costs as much as it is large.
type Oldest = BTreeMap<u32, (u64, u64)>;

/// How much one look may still do, and what it knows.
struct Look {
    n_left: usize,
    bytes_left: usize,
    oldest: Oldest,
}

impl Look {
    const fn new(n_max: usize, bytes_max: usize, oldest: Oldest) -> Self {
        Self {
            n_left: n_max,
            bytes_left: bytes_max,
            oldest,
        }
    }

    const fn is_cut(&self) -> bool {
        self.n_left == 0 || self.bytes_left == 0
    }

    const fn read(&mut self, n_bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(n_bytes);
    }
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
    /// It looked, and saw all.
    looked_ms: Option<u64>,
    oldest: Oldest,
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
        // Back with what is on the disk: where this transaction fails, what it saw is read again.
        let (next_ms, looked_ms, oldest) = {
            let mut tidying = self.tidying();
            let next_ms = earlier(tidying.next_ms, batch.next_ms);
            (next_ms, tidying.looked_ms, mem::take(&mut tidying.oldest))
        };
        let is_due = next_ms.is_some_and(|at_ms| at_ms <= batch.now_ms)
            && batch.now_ms.abs_diff(looked_ms) >= LOOK_EVERY_MS;
        let mut done = Done {
            appended: Vec::new(),
            keep: batch.keep,
            next_ms,
            looked_ms: None,
            oldest,
        };
        if is_due {
            let n_max = if alone { SWEEP_ALONE_MAX } else { SWEEP_MAX };
            let n_max = n_max.max(2 * batch.n_appended);
            let mut look = Look::new(n_max, SWEEP_BYTES_MAX, done.oldest);
            done.next_ms = batch.tidy(&mut look)?;
            // What is left goes with the next transaction: they may come faster than looks.
            done.looked_ms = (!look.is_cut()).then_some(batch.now_ms);
            done.oldest = look.oldest;
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
        tidying.oldest = done.oldest;
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
            None if self.is_full(key)? => {
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
        let mut n_bytes = 0;
        for record in records {
            stream.last += 1;
            let place = (stream.number, stream.last);
            let bytes = tables::bytes(place, stream.time_ms, record);
            self.records.insert(place, &*bytes)?;
            n_bytes += bytes.len();
            stream.bytes += tables::size(&bytes);
            self.bytes += tables::size(&bytes);
            numbers.push(stream.last);
        }
        self.n_appended += records.len();
        if let Some(bytes_max) = self.keep.bytes {
            let n_max = SWEEP_MAX.max(2 * records.len());
            let mut look = Look::new(n_max, 2 * n_bytes, Oldest::new());
            self.shrink(&mut stream, bytes_max, &mut look)?;
            if stream.bytes > bytes_max && look.is_cut() {
                self.next_ms = Some(0);
            }
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

    /// Whether no further stream has room beside those that are there: in its part, or in all.
    fn is_full(&self, key: &str) -> Result<bool, Fault> {
        if self.streams.len()? >= limits::ALL_STREAMS_MAX as u64 {
            return Ok(true);
        }
        let part = key.split_once('\n').map_or(key, |(part, _)| part);
        // A vertical tab is what comes after a line break.
        let (from, to) = (format!("{part}\n"), format!("{part}\u{b}"));
        let of_part = self.streams.range(&*from..&*to)?;
        Ok(of_part.take(limits::STREAMS_MAX).count() >= limits::STREAMS_MAX)
    }

    /// What is before a number is read no more; it goes in passing.
    pub(super) fn trim(&mut self, key: &str, before: u64) -> Result<(), Fault> {
        let Some(mut stream) = self.stream(key)? else {
            return Ok(());
        };
        let first = before.min(stream.last + 1);
        if first <= stream.first {
            return Ok(());
        }
        stream.first = first;
        self.next_ms = Some(0);
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
    fn sweep_one(&mut self, stream: &mut Stream, look: &mut Look) -> Result<bool, Fault> {
        if stream.swept > stream.last {
            return Ok(false);
        }
        if let Some(bytes) = self.records.remove((stream.number, stream.swept))? {
            look.read(bytes.value().len());
            let size = tables::size(bytes.value());
            stream.bytes = stream.bytes.saturating_sub(size);
            self.bytes = self.bytes.saturating_sub(size);
        }
        look.n_left -= 1;
        stream.swept += 1;
        stream.first = stream.first.max(stream.swept);
        Ok(true)
    }

    /// Takes the oldest ones of a stream that has more than it may.
    fn shrink(
        &mut self,
        stream: &mut Stream,
        bytes_max: u64,
        look: &mut Look,
    ) -> Result<(), Fault> {
        // The last one stays, however large it is.
        while stream.bytes > bytes_max && stream.swept < stream.last && !look.is_cut() {
            self.sweep_one(stream, look)?;
        }
        Ok(())
    }

    /// When the oldest record of a stream is too old.
    fn over_ms(&self, stream: &Stream, look: &mut Look) -> Result<Option<u64>, Fault> {
        let Some(age) = self.keep.age else {
            return Ok(None);
        };
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        if let Some((seq, time_ms)) = look.oldest.get(&stream.number)
            && *seq == stream.swept
        {
            return Ok(Some(time_ms.saturating_add(age_ms)));
        }
        let Some(bytes) = self.records.get((stream.number, stream.swept))? else {
            return Ok(None);
        };
        look.read(bytes.value().len());
        let Some(time_ms) = tables::time(bytes.value()) else {
            return Ok(None);
        };
        look.oldest.insert(stream.number, (stream.swept, time_ms));
        Ok(Some(time_ms.saturating_add(age_ms)))
    }

    /// Takes away what was trimmed, is too old, or is too much, as far as the look may go: when to look
    /// again.
    fn tidy(&mut self, look: &mut Look) -> Result<Option<u64>, Fault> {
        let mut all = Vec::new();
        for row in self.streams.iter()? {
            let (key, row) = row?;
            all.push((key.value().to_owned(), Stream::of(row.value())));
        }
        let mut next_ms = None;
        for (key, before) in all {
            if look.is_cut() {
                break;
            }
            let mut stream = before;
            while !look.is_cut() {
                let is_trimmed = stream.swept < stream.first;
                let is_over = |over_ms: Option<u64>| over_ms.is_some_and(|at| at <= self.now_ms);
                if !is_trimmed && !is_over(self.over_ms(&stream, look)?) {
                    break;
                }
                if !self.sweep_one(&mut stream, look)? {
                    break;
                }
            }
            if let Some(bytes_max) = self.keep.bytes {
                self.shrink(&mut stream, bytes_max, look)?;
            }
            if stream != before {
                self.put(&key, stream)?;
            }
            next_ms = earlier(next_ms, self.over_ms(&stream, look)?);
        }
        Ok(if look.is_cut() {
            Some(self.now_ms)
        } else {
            next_ms
        })
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
