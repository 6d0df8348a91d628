//! What the calls of one transaction do to the tables.
//!
//! Bytes of buckets and the last revision are counted in memory and written once, at its end. Not here:
//! when a transaction begins, and who hears of its end.

use std::sync::Arc;

use realm_model::cloud::Change;
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::format::{
    self, ENDS, ENTRIES, Entry, FACT_BYTES, FACT_REVISION, FACT_VERSION, FACTS, Head, LARGE,
    VERSION,
};
use super::watchers::Watchers;
use crate::disk::{Fault, Format};

/// Ends of entries that are held in memory while they are swept.
const SWEPT_AT_ONCE: usize = 1_000;

/// Entries that a transaction sweeps, at the least: those who called wait for it.
const SWEEP_MAX: usize = 1_000;
/// Entries that a transaction sweeps which nobody waits for.
const SWEEP_ALONE_MAX: usize = 5_000;

/// Values by key, as a file has them.
#[derive(Default)]
pub(super) struct Values {
    pub(super) watchers: Watchers,
}

impl Format for Values {
    const VERSION: u64 = VERSION;
    const NAME: &'static str = "keyvalue";
    const CACHE_BYTES: usize = 32 * 1024 * 1024;
    type Batch<'t> = Batch<'t>;
    type Done = Done;

    fn make(transaction: &WriteTransaction) -> Result<(), Fault> {
        transaction.open_table(ENTRIES)?;
        transaction.open_table(LARGE)?;
        transaction.open_table(ENDS)?;
        let mut facts = transaction.open_table(FACTS)?;
        facts.insert(FACT_VERSION, VERSION)?;
        facts.insert(FACT_REVISION, 0)?;
        facts.insert(FACT_BYTES, 0)?;
        Ok(())
    }

    fn version(transaction: &ReadTransaction) -> Result<u64, Fault> {
        transaction.open_table(ENTRIES)?;
        transaction.open_table(LARGE)?;
        transaction.open_table(ENDS)?;
        let facts = transaction.open_table(FACTS)?;
        Ok(facts.get(FACT_VERSION)?.map_or(0, |one| one.value()))
    }

    fn begin<'t>(
        &self,
        transaction: &'t WriteTransaction,
        now_ms: u64,
    ) -> Result<Batch<'t>, Fault> {
        Batch::new(transaction, now_ms)
    }

    fn end<'t>(
        &self,
        mut batch: Batch<'t>,
        transaction: &'t WriteTransaction,
        alone: bool,
    ) -> Result<Done, Fault> {
        batch.sweep(if alone { SWEEP_ALONE_MAX } else { SWEEP_MAX })?;
        batch.finish(transaction)
    }

    fn done(&self, done: Done) -> Option<u64> {
        self.watchers.tell(&done.changes);
        done.next_end_ms
    }
}

/// An open transaction.
pub(super) struct Batch<'t> {
    entries: Table<'t, &'static [u8], &'static [u8]>,
    large: Table<'t, &'static [u8], &'static [u8]>,
    ends: Table<'t, &'static [u8], u64>,
    now_ms: u64,
    revision: u64,
    /// Of all entries.
    bytes: u64,
    changes: Vec<(String, Arc<Change>)>,
    /// Entries with an end that were set.
    n_ending: usize,
}

/// What a transaction did, beside what is in the file.
pub(super) struct Done {
    changes: Vec<(String, Arc<Change>)>,
    /// When the next entry ends.
    next_end_ms: Option<u64>,
}

impl<'t> Batch<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction, now_ms: u64) -> Result<Self, Fault> {
        let facts = transaction.open_table(FACTS)?;
        let revision = facts.get(FACT_REVISION)?.map_or(0, |one| one.value());
        let bytes = facts.get(FACT_BYTES)?.map_or(0, |one| one.value());
        Ok(Self {
            entries: transaction.open_table(ENTRIES)?,
            large: transaction.open_table(LARGE)?,
            ends: transaction.open_table(ENDS)?,
            now_ms,
            revision,
            bytes,
            changes: Vec::new(),
            n_ending: 0,
        })
    }

    pub(super) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// An entry whose time is not over.
    pub(super) fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Fault> {
        let place = format::place(bucket, key);
        format::read(&self.entries, &self.large, &place, self.now_ms)
    }

    /// Sets a value, with a new revision.
    pub(super) fn set(
        &mut self,
        bucket: &str,
        key: &str,
        value: &[u8],
        ends_at_ms: u64,
    ) -> Result<(), Fault> {
        let place = format::place(bucket, key);
        self.take(&place)?;
        self.revision += 1;
        let head = Head {
            revision: self.revision,
            ends_at_ms,
        };
        let (bytes, apart) = format::write(&place, head, value);
        self.entries.insert(&place[..], &bytes[..])?;
        if let Some(apart) = apart {
            self.large.insert(&place[..], apart)?;
        }
        let n_bytes = format::size(&place, value.len());
        if ends_at_ms != 0 {
            let end = format::end(ends_at_ms, &place);
            self.ends.insert(&end[..], n_bytes)?;
            self.n_ending += 1;
        }
        self.bytes = self.bytes.saturating_add(n_bytes);
        self.changed(bucket, key, Some(value.to_vec()));
        Ok(())
    }

    /// Deletes a key if it is there.
    pub(super) fn delete(&mut self, bucket: &str, key: &str) -> Result<(), Fault> {
        let place = format::place(bucket, key);
        if self.take(&place)? {
            self.changed(bucket, key, None);
        }
        Ok(())
    }

    /// Deletes entries whose time is over, up to so many, or to twice what was set: who sets entries that
    /// end, however many at once, leaves fewer of them than there were.
    pub(super) fn sweep(&mut self, n_max: usize) -> Result<(), Fault> {
        let mut left = n_max.max(2 * self.n_ending);
        while left > 0 {
            let n = left.min(SWEPT_AT_ONCE);
            if self.sweep_some(n)? < n {
                return Ok(());
            }
            left -= n;
        }
        Ok(())
    }

    /// How many it were.
    fn sweep_some(&mut self, n_max: usize) -> Result<usize, Fault> {
        let limit = self.now_ms.saturating_add(1).to_be_bytes();
        let over: Vec<Vec<u8>> = self
            .ends
            .range(..&limit[..])?
            .take(n_max)
            .map(|row| row.map(|(end, _)| end.value().to_vec()))
            .collect::<Result<_, _>>()?;
        let n = over.len();
        for end in over {
            let found = format::end_and_place(&end)
                .and_then(|(_, place)| Some((place, format::bucket_and_key(place)?)));
            let Some((place, (bucket, key))) = found else {
                // A row that nothing here wrote: left where it is, every sweep would begin with it.
                self.ends.remove(&end[..])?;
                continue;
            };
            if self.take(place)? {
                self.changed(bucket, key, None);
            }
            self.ends.remove(&end[..])?;
        }
        Ok(n)
    }

    /// Writes down what was counted.
    pub(super) fn finish(self, transaction: &WriteTransaction) -> Result<Done, Fault> {
        let mut facts = transaction.open_table(FACTS)?;
        facts.insert(FACT_REVISION, self.revision)?;
        facts.insert(FACT_BYTES, self.bytes)?;
        let next_end_ms = self
            .ends
            .first()?
            .and_then(|(end, _)| format::end_and_place(end.value()).map(|(at_ms, _)| at_ms));
        Ok(Done {
            changes: self.changes,
            next_end_ms,
        })
    }

    /// Takes an entry out of all tables, be its time over or not: whether it was there.
    fn take(&mut self, place: &[u8]) -> Result<bool, Fault> {
        let Some(old) = self.entries.remove(place)? else {
            return Ok(false);
        };
        // What cannot be read is written over or deleted all the same: that mends it.
        let head = format::head(place, old.value()).ok();
        let beside = format::beside_bytes(old.value());
        drop(old);
        let apart = self.large.remove(place)?.map(|one| one.value().len());
        let n_bytes = format::size(place, beside + apart.unwrap_or(0));
        self.bytes = self.bytes.saturating_sub(n_bytes);
        if let Some(head) = head
            && head.ends_at_ms != 0
        {
            let end = format::end(head.ends_at_ms, place);
            self.ends.remove(&end[..])?;
        }
        Ok(true)
    }

    fn changed(&mut self, bucket: &str, key: &str, value: Option<Vec<u8>>) {
        let change = Change {
            key: key.to_owned(),
            value,
        };
        self.changes.push((bucket.to_owned(), Arc::new(change)));
    }
}

#[cfg(test)]
mod tests {
    use redb::{Database, ReadableDatabase, ReadableTableMetadata};

    use super::*;
    use crate::disk::{open, write_one};

    /// A transaction at a time of the test's own, in which so many entries are set that end at another.
    fn set(database: &Database, now_ms: u64, keys: std::ops::Range<u32>, ends_at_ms: u64) {
        write_one(
            &Values::default(),
            database,
            now_ms,
            move |batch: &mut Batch<'_>| {
                for nth in keys {
                    batch.set("a", &nth.to_string(), b"x", ends_at_ms)?;
                }
                Ok(())
            },
        );
    }

    fn n_ending(database: &Database) -> u64 {
        let transaction = database.begin_read().unwrap();
        transaction.open_table(ENDS).unwrap().len().unwrap()
    }

    /// Whoever writes entries that end sweeps more than he writes: the file does not grow without end.
    #[test]
    fn what_ends_is_swept_faster_than_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let database = open::<Values>(&folder.path().join("kv")).unwrap();
        for round in 1..=20 {
            let now_ms = u64::from(round) * 2_000;
            set(
                &database,
                now_ms,
                round * 4_000..(round + 1) * 4_000,
                now_ms + 1_000,
            );
            let n = n_ending(&database);
            assert!(n <= 4_000, "{n} after {round} rounds");
        }
    }

    /// After everybody wrote nothing that ends for a while, what is left over goes first.
    #[test]
    fn what_is_left_over_is_swept_twice_as_fast_as_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let database = open::<Values>(&folder.path().join("kv")).unwrap();
        set(&database, 1, 0..20_000, 1_001);
        for round in 1..5_u32 {
            set(
                &database,
                5_000,
                20_000 + round * 4_000..24_000 + round * 4_000,
                9_000,
            );
        }
        assert_eq!(n_ending(&database), 16_000);
        // The same keys again are no more entries, and sweep as much.
        set(&database, 20_000, 0..8_000, 90_000);
        assert_eq!(n_ending(&database), 8_000);
    }
}
