//! A file of the node's own with tables in it: one thread writes, everybody reads, and an answer comes when
//! it is on the disk.
//!
//! Calls that wait while it writes go into its next transaction together: under load one wait for the disk
//! serves hundreds of them, and without load none waits for others. Not here: which tables, and what is
//! done to them ([`Format`]).

mod open;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use realm_model::cloud::{CloudError, limits};
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::{Semaphore, oneshot};

pub use open::OpenError;
#[cfg(test)]
pub(crate) use open::open;
use writer::Message;
#[cfg(test)]
pub(crate) use writer::write_one;

use crate::watch::{Health, Watch};

/// Bytes of everything that waits for the writer, in units of [`ROOM_UNIT`].
const ROOM_UNITS: u32 = 64 * 1024;
const ROOM_UNIT: usize = 1024;
/// What each key of a call that waits takes beside itself and its value, at the most.
const JOB_KEY_BYTES: usize = 256;

/// What lies in a file.
pub(crate) trait Format: Send + Sync + 'static {
    /// The only version there is.
    const VERSION: u64;
    /// The name of the thread.
    const NAME: &'static str;
    /// Bytes of pages that are kept in memory for each file; the system keeps more.
    const CACHE_BYTES: usize;
    /// The tables of an open transaction.
    type Batch<'t>;
    /// What a transaction did, beside what is in the file.
    type Done;

    /// Makes all tables.
    fn make(transaction: &WriteTransaction) -> Result<(), Fault>;

    /// Opens all tables: the version of what is in them.
    fn version(transaction: &ReadTransaction) -> Result<u64, Fault>;

    /// Begins, at milliseconds since 1970.
    fn begin<'t>(
        &self,
        transaction: &'t WriteTransaction,
        now_ms: u64,
    ) -> Result<Self::Batch<'t>, Fault>;

    /// Tidies up as much as it may, and writes down what was counted. `alone`: nobody waits for it.
    fn end<'t>(
        &self,
        batch: Self::Batch<'t>,
        transaction: &'t WriteTransaction,
        alone: bool,
    ) -> Result<Self::Done, Fault>;

    /// It is on the disk. When there is something to tidy up next, if anything.
    fn done(&self, done: Self::Done) -> Option<u64>;
}

/// Why the file did not give or take something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Storage(#[from] redb::StorageError),
    #[error(transparent)]
    Table(#[from] redb::TableError),
    #[error(transparent)]
    Transaction(#[from] redb::TransactionError),
    #[error(transparent)]
    Commit(#[from] redb::CommitError),
    /// An entry that does not have its checksum, or is none.
    #[error("an entry of {place} is damaged")]
    Damaged { place: String },
    #[error("the storage engine panicked")]
    Panicked,
}

impl Fault {
    /// Whether the file as it is open cannot be used any more, and opening it anew may help.
    pub(crate) fn ends_the_file(&self) -> bool {
        !matches!(self, Self::Damaged { .. })
    }

    /// What a guest hears.
    pub(crate) fn answer(&self) -> CloudError {
        match self {
            Self::Damaged { .. } => CloudError::Failed("the entry is damaged".to_owned()),
            Self::Storage(_)
            | Self::Table(_)
            | Self::Transaction(_)
            | Self::Commit(_)
            | Self::Panicked => CloudError::Unavailable,
        }
    }
}

/// A file that is open.
pub(crate) struct Disk<F: Format> {
    shared: Arc<Shared<F>>,
    messages: Option<mpsc::Sender<Message<F>>>,
    room: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<F> {
    path: PathBuf,
    /// `None`: it cannot be used, and the writer tries to open it again.
    file: RwLock<Option<Database>>,
    format: F,
    health: Health,
}

impl<F: Format> Disk<F> {
    /// Opens a file, or makes it. May wait for the disk: not for a thread that serves.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the file is in use, damaged, or cannot be read. Nothing is changed then.
    pub(crate) fn open(path: &Path, format: F, watch: Arc<dyn Watch>) -> Result<Self, OpenError> {
        let database = open::open::<F>(path)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            file: RwLock::new(Some(database)),
            format,
            health: Health::new(watch),
        });
        let (messages, receiver) = mpsc::channel();
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name(F::NAME.to_owned())
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

    pub(crate) fn format(&self) -> &F {
        &self.shared.format
    }

    /// Reads in the thread that asks.
    pub(crate) fn view<T>(
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

    /// Hands work to the writer, and waits until it is on the disk. `prepare` takes what the work needs
    /// with it, once there is room for it. The work fails before it changes anything, or not at all.
    pub(crate) async fn write<T, E, W>(
        &self,
        (n_keys, n_bytes): (usize, usize),
        prepare: impl FnOnce() -> W + Send,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<CloudError> + Send + 'static,
        W: FnOnce(&mut F::Batch<'_>) -> Result<Result<T, E>, Fault> + Send + 'static,
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
            receiver
                .await
                .unwrap_or_else(|_| Err(CloudError::Unavailable.into()))
        };
        let time = Duration::from_millis(limits::CALL_TIMEOUT_MS);
        tokio::time::timeout(time, all)
            .await
            .unwrap_or_else(|_| Err(CloudError::Timeout.into()))
    }
}

/// What the writer does, and tells who waits.
fn work_of<F, T, E, W>(
    shared: Arc<Shared<F>>,
    work: W,
    sender: oneshot::Sender<Result<T, E>>,
) -> writer::Work<F>
where
    F: Format,
    T: Send + 'static,
    E: From<CloudError> + Send + 'static,
    W: FnOnce(&mut F::Batch<'_>) -> Result<Result<T, E>, Fault> + Send + 'static,
{
    Box::new(move |batch| {
        if sender.is_closed() {
            return Ok(Box::new(|_| {}));
        }
        let result = match work(batch) {
            // One entry that cannot be read is no reason to refuse what others write.
            Err(fault) if !fault.ends_the_file() => {
                shared.health.failed(&shared.words(&fault));
                Err(fault.answer().into())
            }
            result => result?,
        };
        Ok(Box::new(move |end: Result<(), CloudError>| {
            let _ = sender.send(match end {
                Ok(()) => result,
                Err(error) => Err(error.into()),
            });
        }))
    })
}

impl<F: Format> Drop for Disk<F> {
    fn drop(&mut self) {
        self.messages = None;
        // So that whoever opens the file next finds it closed, with everything in it.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<F> Shared<F> {
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

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
