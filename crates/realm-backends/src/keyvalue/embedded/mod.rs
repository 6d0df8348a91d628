//! Values by key in one file of the node's own: transactions, and an answer when it is on the disk.
//!
//! Readers read where they are, beside the one thread that writes. Calls that wait while it writes go
//! into its next transaction together: under load one wait for the disk serves hundreds of them, and
//! without load none waits for others. Not here: who may open a bucket, and how much may be in it.

mod batch;
mod file;
mod format;
mod watchers;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use realm_model::cloud::{
    Answer, Changes, Check, CloudError, Edit, KeyPage, KeyValue, Revision, Swapped, Versioned,
    check_key, check_ttl, check_value, increased, limits, within,
};
use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::sync::{Semaphore, oneshot};

use batch::Batch;
pub use file::OpenError;
use format::{ENDS, ENTRIES, Entry, FACT_BYTES, FACTS, Fault, LARGE};
use watchers::Watchers;
use writer::Message;

use super::{check_batch, check_commit, check_keys};
use crate::watch::{Health, Watch};

/// Bytes of pages that are kept in memory for each file; the system keeps more.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Entries whose time is over that are looked at to say what a store has: those that are swept next.
const OVER_MAX: usize = 1_000;
/// Bytes of everything that waits for the writer, in units of [`ROOM_UNIT`].
const ROOM_UNITS: u32 = 64 * 1024;
const ROOM_UNIT: usize = 1024;
/// What each key of a call that waits takes beside itself and its value, at the most.
const JOB_KEY_BYTES: usize = 256;

/// A store in a file.
pub struct Embedded {
    shared: Arc<Shared>,
    messages: Option<mpsc::Sender<Message>>,
    room: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    cache_bytes: usize,
    /// `None`: it cannot be used, and the writer tries to open it again.
    file: RwLock<Option<Database>>,
    watchers: Watchers,
    health: Health,
}

impl Embedded {
    /// Opens a file, or makes it. May wait for the disk: not for a thread that serves.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the file is in use, damaged, or cannot be read. Nothing is changed then.
    pub fn open(path: &Path, watch: Arc<dyn Watch>) -> Result<Self, OpenError> {
        let database = file::open(path, CACHE_BYTES)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            cache_bytes: CACHE_BYTES,
            file: RwLock::new(Some(database)),
            watchers: Watchers::default(),
            health: Health::new(watch),
        });
        let (messages, receiver) = mpsc::channel();
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("keyvalue".to_owned())
            .spawn(move || writer::run(&of_thread, &receiver))
            .map_err(|source| OpenError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            shared,
            messages: Some(messages),
            room: Arc::new(Semaphore::new(ROOM_UNITS as usize)),
            thread: Some(thread),
        })
    }

    /// Reads in the thread that asks.
    fn view<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, CloudError> {
        let file = self.shared.file.read();
        let file = file.unwrap_or_else(PoisonError::into_inner);
        let database = file.as_ref().ok_or(CloudError::Unavailable)?;
        let result = catch_unwind(AssertUnwindSafe(|| read(&database.begin_read()?)))
            .unwrap_or(Err(Fault::Panicked));
        result.map_err(|fault| {
            let answer = fault.answer();
            if !fault.ends_the_file() {
                self.shared.health.failed(&self.shared.words(&fault));
            } else if let Some(messages) = &self.messages {
                // The writer closes the file: here that would wait for everybody who reads.
                let _ = messages.send(Message::Faulty(fault));
            }
            answer
        })
    }

    fn entry(&self, bucket: &str, key: &str) -> Result<Option<Entry>, CloudError> {
        check_key(key)?;
        self.view(|transaction| {
            let entries = transaction.open_table(ENTRIES)?;
            let large = transaction.open_table(LARGE)?;
            format::read(&entries, &large, &format::place(bucket, key), now_ms())
        })
    }

    /// Hands work to the writer, and waits until it is on the disk. `prepare` takes what the work needs
    /// with it, once there is room for it. The work fails before it changes anything, or not at all.
    async fn write<T, W>(
        &self,
        (n_keys, n_bytes): (usize, usize),
        prepare: impl FnOnce() -> W + Send,
    ) -> Result<T, CloudError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Batch<'_>) -> Result<Result<T, CloudError>, Fault> + Send + 'static,
    {
        // Of a key without a value as well something is held until it is written.
        let n_bytes = n_bytes + n_keys * JOB_KEY_BYTES;
        let (sender, receiver) = oneshot::channel();
        let all = async {
            let units = u32::try_from(n_bytes / ROOM_UNIT + 1).unwrap_or(ROOM_UNITS);
            let room = self.room.clone().acquire_many_owned(units.min(ROOM_UNITS));
            let room = room.await.map_err(|_| CloudError::Unavailable)?;
            let messages = self.messages.as_ref().ok_or(CloudError::Unavailable)?;
            let job = Message::Job {
                work: work_of(self.shared.clone(), prepare(), sender),
                n_bytes,
                room,
            };
            messages.send(job).map_err(|_| CloudError::Unavailable)?;
            receiver.await.unwrap_or(Err(CloudError::Unavailable))
        };
        let time = Duration::from_millis(limits::CALL_TIMEOUT_MS);
        tokio::time::timeout(time, all)
            .await
            .unwrap_or(Err(CloudError::Timeout))
    }
}

/// What the writer does, and tells who waits.
fn work_of<T, W>(
    shared: Arc<Shared>,
    work: W,
    sender: oneshot::Sender<Result<T, CloudError>>,
) -> writer::Work
where
    T: Send + 'static,
    W: FnOnce(&mut Batch<'_>) -> Result<Result<T, CloudError>, Fault> + Send + 'static,
{
    Box::new(move |batch| {
        if sender.is_closed() {
            return Ok(Box::new(|_| {}));
        }
        let result = match work(batch) {
            // One entry that cannot be read is no reason to refuse what others write.
            Err(fault) if !fault.ends_the_file() => {
                shared.health.failed(&shared.words(&fault));
                Err(fault.answer())
            }
            result => result?,
        };
        Ok(Box::new(move |end: Result<(), CloudError>| {
            let _ = sender.send(end.and(result));
        }))
    })
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.messages = None;
        // So that whoever opens the file next finds it closed, with everything in it.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_open(&self) -> bool {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        file.is_some()
    }

    /// Ends the use of a file until the writer has opened it again.
    fn close(&self, fault: &Fault) {
        let mut file = self.file.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = file.take() {
            // It may panic over what it could not write.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
            self.health.failed(&self.words(fault));
        }
    }

    fn words(&self, fault: &Fault) -> String {
        format!("`{}`: {fault}", self.path.display())
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
            self.write((1, key.len() + value.len()), || {
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
            self.write((1, key.len()), || {
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
            self.view(|transaction| {
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
            self.view(|transaction| {
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
                    let (_, key) = format::bucket_and_key(place).ok_or_else(|| Fault::Damaged {
                        bucket: bucket.to_owned(),
                    })?;
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
            let all = self.view(|transaction| {
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
            self.write((pairs.len(), n_bytes), || {
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
            self.write((keys.len(), n_bytes), || {
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
            self.write((1, key.len()), || {
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
            self.write((1, key.len() + value.len()), || {
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
            self.write((checks.len() + edits.len(), n_bytes), || {
                let (bucket, checks, edits) = (bucket.to_owned(), checks.to_vec(), edits.to_vec());
                move |batch: &mut Batch<'_>| commit(batch, &bucket, &checks, &edits)
            })
            .await
        })
    }

    fn watch<'a>(&'a self, bucket: &'a str) -> Answer<'a, Box<dyn Changes>> {
        Box::pin(async move {
            let queue: Box<dyn Changes> = Box::new(self.shared.watchers.add(bucket));
            Ok(queue)
        })
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move { self.view(|transaction| counted(transaction, now_ms()).map(Some)) })
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

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::format::Head;
    use super::*;

    /// Before each write a quota is looked at: that is a bounded amount of work, whatever has ended.
    #[test]
    fn of_what_has_ended_a_bounded_part_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let database = file::open(&folder.path().join("kv"), CACHE_BYTES).unwrap();
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
