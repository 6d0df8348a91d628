//! Values by key in one file of the node's own: transactions, and an answer when it is on the disk.
//!
//! How it is written and read is `disk`'s. Not here: who may open a bucket, and how much may be in it.

mod batch;
mod format;
mod watchers;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::{
    Answer, Changes, Check, CloudError, Edit, KeyPage, KeyValue, Revision, Swapped, Versioned,
    check_key, check_ttl, check_value, increased, limits, within,
};
use redb::ReadTransaction;

use batch::{Batch, Values};
use format::{ENDS, ENTRIES, Entry, FACT_BYTES, FACTS, LARGE};

use super::{check_batch, check_commit, check_keys};
use crate::disk::{Disk, Fault, OpenError, now_ms};
use crate::watch::Watch;

/// Entries whose time is over that are looked at to say what a store has: those that are swept next.
const OVER_MAX: usize = 1_000;

/// A store in a file.
pub struct Embedded {
    disk: Disk<Values>,
}

impl Embedded {
    /// Opens a file, or makes it. May wait for the disk: not for a thread that serves.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the file is in use, damaged, or cannot be read. Nothing is changed then.
    pub fn open(path: &Path, watch: Arc<dyn Watch>) -> Result<Self, OpenError> {
        let disk = Disk::open(path, Values::default(), watch)?;
        Ok(Self { disk })
    }

    fn entry(&self, bucket: &str, key: &str) -> Result<Option<Entry>, CloudError> {
        check_key(key)?;
        self.disk.view(|transaction| {
            let entries = transaction.open_table(ENTRIES)?;
            let large = transaction.open_table(LARGE)?;
            format::read(&entries, &large, &format::place(bucket, key), now_ms())
        })
    }
}

impl KeyValue for Embedded {
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.entry(bucket, key)?.map(|entry| entry.value)) })
    }

    fn set<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            check_key(key)?;
            check_value(value)?;
            check_ttl(ttl)?;
            self.disk
                .write((1, key.len() + value.len()), || {
                    let (bucket, key, value) = (bucket.to_owned(), key.to_owned(), value.to_vec());
                    move |batch: &mut Batch<'_>| {
                        batch.set(&bucket, &key, &value, end_of(ttl, batch.now_ms()))?;
                        Ok(Ok(()))
                    }
                })
                .await
        })
    }

    fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            check_key(key)?;
            self.disk
                .write((1, key.len()), || {
                    let (bucket, key) = (bucket.to_owned(), key.to_owned());
                    move |batch: &mut Batch<'_>| {
                        batch.delete(&bucket, &key)?;
                        Ok(Ok(()))
                    }
                })
                .await
        })
    }

    fn exists<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.ttl(bucket, key).await?.is_some()) })
    }

    fn ttl<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Option<Duration>>> {
        Box::pin(async move {
            check_key(key)?;
            self.disk.view(|transaction| {
                let place = format::place(bucket, key);
                let entries = transaction.open_table(ENTRIES)?;
                let Some(bytes) = entries.get(&place[..])? else {
                    return Ok(None);
                };
                let (head, now_ms) = (format::head(&place, bytes.value())?, now_ms());
                if head.is_over(now_ms) {
                    return Ok(None);
                }
                Ok(Some(
                    (head.ends_at_ms != 0).then(|| left_of(head.ends_at_ms, now_ms)),
                ))
            })
        })
    }

    fn keys<'a>(&'a self, bucket: &'a str, cursor: Option<&'a str>) -> Answer<'a, KeyPage> {
        Box::pin(async move {
            let after = cursor.unwrap_or_default();
            within("the cursor", after.len(), limits::KEY_BYTES_MAX)?;
            let prefix = format::prefix(bucket);
            // A key is not empty, so the first comes after the bare prefix.
            let start = format::place(bucket, after);
            let now_ms = now_ms();
            self.disk.view(|transaction| {
                let mut page = KeyPage::default();
                let entries = transaction.open_table(ENTRIES)?;
                let rows = entries.range(&start[..]..)?;
                for (nth, row) in rows.enumerate() {
                    let (place, bytes) = row?;
                    let place = place.value();
                    if place == start {
                        continue;
                    }
                    if !place.starts_with(&prefix) {
                        return Ok(page);
                    }
                    let (_, key) =
                        format::bucket_and_key(place).ok_or_else(|| format::in_bucket(bucket))?;
                    if !format::head(place, bytes.value())?.is_over(now_ms) {
                        page.keys.push(key.to_owned());
                    }
                    // Rows that have ended count as well: a page is a bounded amount of work.
                    if nth + 1 >= limits::PAGE_KEYS {
                        page.cursor = Some(key.to_owned());
                        return Ok(page);
                    }
                }
                Ok(page)
            })
        })
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a str,
        keys: &'a [String],
    ) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            check_keys(keys)?;
            let now_ms = now_ms();
            let all = self.disk.view(|transaction| {
                let entries = transaction.open_table(ENTRIES)?;
                let large = transaction.open_table(LARGE)?;
                let (mut all, mut n_bytes) = (Vec::with_capacity(keys.len()), 0);
                for key in keys {
                    let place = format::place(bucket, key);
                    let entry = format::read(&entries, &large, &place, now_ms)?;
                    let value = entry.map(|entry| entry.value);
                    n_bytes += value.as_ref().map_or(0, Vec::len);
                    if n_bytes > limits::BATCH_BYTES_MAX {
                        return Ok(Err(n_bytes));
                    }
                    all.push(value);
                }
                Ok(Ok(all))
            })?;
            all.or_else(|n_bytes| {
                within("the batch", n_bytes, limits::BATCH_BYTES_MAX).map(|()| Vec::new())
            })
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a str, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        Box::pin(async move {
            let n_bytes = check_batch(pairs)?;
            self.disk
                .write((pairs.len(), n_bytes), || {
                    let (bucket, pairs) = (bucket.to_owned(), pairs.to_vec());
                    move |batch: &mut Batch<'_>| {
                        for (key, value) in &pairs {
                            batch.set(&bucket, key, value, 0)?;
                        }
                        Ok(Ok(()))
                    }
                })
                .await
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a str, keys: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move {
            check_keys(keys)?;
            let n_bytes = keys.iter().map(String::len).sum();
            self.disk
                .write((keys.len(), n_bytes), || {
                    let (bucket, keys) = (bucket.to_owned(), keys.to_vec());
                    move |batch: &mut Batch<'_>| {
                        for key in &keys {
                            batch.delete(&bucket, key)?;
                        }
                        Ok(Ok(()))
                    }
                })
                .await
        })
    }

    fn increment<'a>(&'a self, bucket: &'a str, key: &'a str, delta: i64) -> Answer<'a, i64> {
        Box::pin(async move {
            check_key(key)?;
            self.disk
                .write((1, key.len()), || {
                    let (bucket, key) = (bucket.to_owned(), key.to_owned());
                    move |batch: &mut Batch<'_>| {
                        let entry = batch.read(&bucket, &key)?;
                        let ends_at_ms = entry.as_ref().map_or(0, |entry| entry.head.ends_at_ms);
                        let before = entry.map(|entry| entry.value);
                        let sum = match increased(before.as_deref(), delta) {
                            Ok(sum) => sum,
                            Err(error) => return Ok(Err(error)),
                        };
                        batch.set(&bucket, &key, sum.to_string().as_bytes(), ends_at_ms)?;
                        Ok(Ok(sum))
                    }
                })
                .await
        })
    }

    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Versioned> {
        Box::pin(async move { Ok(versioned(self.entry(bucket, key)?)) })
    }

    fn swap<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        revision: &'a Revision,
        value: &'a [u8],
    ) -> Answer<'a, Swapped> {
        Box::pin(async move {
            check_key(key)?;
            check_value(value)?;
            self.disk
                .write((1, key.len() + value.len()), || {
                    let (bucket, key, value) = (bucket.to_owned(), key.to_owned(), value.to_vec());
                    let revision = revision.clone();
                    move |batch: &mut Batch<'_>| {
                        let now = versioned(batch.read(&bucket, &key)?);
                        if now.revision != revision {
                            return Ok(Ok(Swapped::Changed(now)));
                        }
                        batch.set(&bucket, &key, &value, 0)?;
                        Ok(Ok(Swapped::Done))
                    }
                })
                .await
        })
    }

    fn commit<'a>(
        &'a self,
        bucket: &'a str,
        checks: &'a [Check],
        edits: &'a [Edit],
    ) -> Answer<'a, bool> {
        Box::pin(async move {
            let n_bytes = check_commit(checks, edits)?;
            self.disk
                .write((checks.len() + edits.len(), n_bytes), || {
                    let (bucket, checks, edits) =
                        (bucket.to_owned(), checks.to_vec(), edits.to_vec());
                    move |batch: &mut Batch<'_>| commit(batch, &bucket, &checks, &edits)
                })
                .await
        })
    }

    fn watch<'a>(&'a self, bucket: &'a str) -> Answer<'a, Box<dyn Changes>> {
        Box::pin(async move {
            let queue: Box<dyn Changes> = Box::new(self.disk.format().watchers.add(bucket));
            Ok(queue)
        })
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            self.disk
                .view(|transaction| counted(transaction, now_ms()).map(Some))
        })
    }
}

fn commit(
    batch: &mut Batch<'_>,
    bucket: &str,
    checks: &[Check],
    edits: &[Edit],
) -> Result<Result<bool, CloudError>, Fault> {
    for check in checks {
        if versioned(batch.read(bucket, &check.key)?).revision != check.revision {
            return Ok(Ok(false));
        }
    }
    for edit in edits {
        match edit {
            Edit::Set(key, value, ttl) => {
                batch.set(bucket, key, value, end_of(*ttl, batch.now_ms()))?;
            }
            Edit::Delete(key) => batch.delete(bucket, key)?,
        }
    }
    Ok(Ok(true))
}

/// A key that is not there has one revision, whatever it was before.
fn versioned(entry: Option<Entry>) -> Versioned {
    let revision = entry.as_ref().map_or(0, |entry| entry.head.revision);
    Versioned {
        value: entry.map(|entry| entry.value),
        revision: Revision(revision.to_be_bytes().to_vec()),
    }
}

/// What a store counts for.
fn counted(transaction: &ReadTransaction, now_ms: u64) -> Result<u64, Fault> {
    let total = transaction.open_table(FACTS)?.get(FACT_BYTES)?;
    let total = total.map_or(0, |one| one.value());
    // What has ended and is not swept is not there. Where more of it waits than this, it is gone in a
    // moment: this is asked before every write, and has to cost the same whatever others left.
    let limit = now_ms.saturating_add(1).to_be_bytes();
    let mut over: u64 = 0;
    let ends = transaction.open_table(ENDS)?;
    for row in ends.range(..&limit[..])?.take(OVER_MAX) {
        over = over.saturating_add(row?.1.value());
    }
    Ok(total.saturating_sub(over))
}

/// When an entry ends, not before its time: in the millisecond `now_ms` almost a whole one may be over.
fn end_of(ttl: Option<Duration>, now_ms: u64) -> u64 {
    ttl.map_or(0, |ttl| {
        let ttl_ms = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        now_ms.saturating_add(ttl_ms).saturating_add(1)
    })
}

/// What is left until then, not more than it was.
fn left_of(ends_at_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(ends_at_ms.saturating_sub(now_ms).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::ReadableDatabase;

    use super::format::Head;
    use super::*;
    use crate::disk::open;

    /// Before each write a quota is looked at: that is a bounded amount of work, whatever has ended.
    #[test]
    fn of_what_has_ended_a_bounded_part_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let database = open::<Values>(&folder.path().join("kv")).unwrap();
        let counted_after = |n_entries: u64| {
            let transaction = database.begin_write().unwrap();
            let mut batch = Batch::new(&transaction, 1).unwrap();
            for nth in 0..n_entries {
                batch.set("a", &format!("{nth:06}"), b"x", 1_000).unwrap();
            }
            batch.finish(&transaction).unwrap();
            transaction.commit().unwrap();
            counted(&database.begin_read().unwrap(), 5_000).unwrap()
        };
        let entry = format::size(&format::place("a", "000000"), 1);
        assert_eq!(counted_after(900), 0, "what is swept next is not counted");
        let swept_next = OVER_MAX as u64;
        assert_eq!(counted_after(10_000), (10_000 - swept_next) * entry);
    }

    proptest! {
        #[test]
        fn an_entry_ends_after_its_time_and_not_much_later(
            set_at in 0_u64..3_000_000_000_000_000_000, ttl_ms in 1_000_u64..1_000_000, more in 0_u64..1_000_000,
        ) {
            let ttl = Duration::from_millis(ttl_ms) + Duration::from_nanos(more);
            let ms = |at: Duration| u64::try_from(at.as_millis()).unwrap();
            let set_at = Duration::from_nanos(set_at);
            let head = Head { revision: 1, ends_at_ms: end_of(Some(ttl), ms(set_at)) };
            let last = set_at + ttl - Duration::from_nanos(1);
            prop_assert!(!head.is_over(ms(last)));
            prop_assert!(head.is_over(ms(set_at + ttl + Duration::from_millis(2))));
            let left = left_of(head.ends_at_ms, ms(set_at));
            prop_assert!(left < ttl + Duration::from_millis(1) && left >= Duration::from_millis(ttl_ms));
        }
    }
}
