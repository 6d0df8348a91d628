//! What the calls of one transaction do to the tables.
//!
//! Bytes of buckets and the last revision are counted in memory and written once, at its end. Not here:
//! when a transaction begins, and who hears of its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use realm_model::cloud::Change;
use redb::{ReadableTable, Table, WriteTransaction};

use super::format::{self, BYTES, ENDS, ENTRIES, Entry, FACT_REVISION, FACTS, Fault, Head, LARGE};

/// An open transaction.
pub(super) struct Batch<'t> {
    entries: Table<'t, &'static [u8], &'static [u8]>,
    large: Table<'t, &'static [u8], &'static [u8]>,
    ends: Table<'t, &'static [u8], u64>,
    now_ms: u64,
    revision: u64,
    /// Bytes that came and went, by bucket.
    bytes: BTreeMap<String, (u64, u64)>,
    changes: Vec<(String, Arc<Change>)>,
}

/// What a transaction did, beside what is in the file.
pub(super) struct Done {
    pub(super) changes: Vec<(String, Arc<Change>)>,
    /// When the next entry ends.
    pub(super) next_end_ms: Option<u64>,
}

impl<'t> Batch<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction, now_ms: u64) -> Result<Self, Fault> {
        let facts = transaction.open_table(FACTS)?;
        let revision = facts.get(FACT_REVISION)?.map_or(0, |one| one.value());
        Ok(Self {
            entries: transaction.open_table(ENTRIES)?,
            large: transaction.open_table(LARGE)?,
            ends: transaction.open_table(ENDS)?,
            now_ms,
            revision,
            bytes: BTreeMap::new(),
            changes: Vec::new(),
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
        self.take(bucket, &place)?;
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
        let n_bytes = (key.len() + value.len()) as u64;
        if ends_at_ms != 0 {
            let end = format::end(ends_at_ms, &place);
            self.ends.insert(&end[..], n_bytes)?;
        }
        self.bytes.entry(bucket.to_owned()).or_default().0 += n_bytes;
        self.changed(bucket, key, Some(value.to_vec()));
        Ok(())
    }

    /// Deletes a key if it is there.
    pub(super) fn delete(&mut self, bucket: &str, key: &str) -> Result<(), Fault> {
        let place = format::place(bucket, key);
        if self.take(bucket, &place)? {
            self.changed(bucket, key, None);
        }
        Ok(())
    }

    /// Deletes entries whose time is over, up to so many.
    pub(super) fn sweep(&mut self, n_max: usize) -> Result<(), Fault> {
        let limit = self.now_ms.saturating_add(1).to_be_bytes();
        let over: Vec<Vec<u8>> = self
            .ends
            .range(..&limit[..])?
            .take(n_max)
            .map(|row| row.map(|(end, _)| end.value().to_vec()))
            .collect::<Result<_, _>>()?;
        for end in over {
            let found = format::end_and_place(&end)
                .and_then(|(_, place)| Some((place, format::bucket_and_key(place)?)));
            let Some((place, (bucket, key))) = found else {
                // A row that nothing here wrote: left where it is, every sweep would begin with it.
                self.ends.remove(&end[..])?;
                continue;
            };
            if self.take(bucket, place)? {
                self.changed(bucket, key, None);
            }
            self.ends.remove(&end[..])?;
        }
        Ok(())
    }

    /// Writes down what was counted.
    pub(super) fn finish(self, transaction: &WriteTransaction) -> Result<Done, Fault> {
        let mut totals = transaction.open_table(BYTES)?;
        for (bucket, (came, went)) in &self.bytes {
            let before = totals.get(bucket.as_str())?.map_or(0, |one| one.value());
            let after = before.saturating_add(*came).saturating_sub(*went);
            if after == 0 {
                totals.remove(bucket.as_str())?;
            } else {
                totals.insert(bucket.as_str(), after)?;
            }
        }
        transaction
            .open_table(FACTS)?
            .insert(FACT_REVISION, self.revision)?;
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
    fn take(&mut self, bucket: &str, place: &[u8]) -> Result<bool, Fault> {
        let Some(old) = self.entries.remove(place)? else {
            return Ok(false);
        };
        // What cannot be read is written over or deleted all the same: that mends it.
        let head = format::head(place, old.value()).ok();
        let beside = format::beside_bytes(old.value());
        drop(old);
        let apart = self.large.remove(place)?.map(|one| one.value().len());
        let key_bytes = place.len() - format::prefix(bucket).len();
        let n_bytes = key_bytes + beside + apart.unwrap_or(0);
        self.bytes.entry(bucket.to_owned()).or_default().1 += n_bytes as u64;
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
