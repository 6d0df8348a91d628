//! The thread that writes: one transaction, and one wait for the disk, for all calls that came meanwhile.
//!
//! It also sweeps what has ended, and opens the file anew after the disk refused something. Not here:
//! what a call does, and who may call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use realm_model::cloud::CloudError;
use redb::Database;

use super::batch::{Batch, Done};
use super::format::Fault;
use super::{Shared, file, now_ms};

/// Calls of one transaction.
const JOBS_MAX: usize = 1_024;
/// Bytes that the calls of one transaction bring, after which no more is taken.
const JOBS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Entries that a transaction sweeps, at the least: those who called wait for it.
const SWEEP_MAX: usize = 1_000;
/// Entries that a transaction sweeps which nobody waits for.
const SWEEP_ALONE_MAX: usize = 5_000;
/// A sweep is a transaction: not more often than this for its own sake.
const SWEEP_EVERY: Duration = Duration::from_millis(200);
/// The clock of the wall may jump, so it is looked at from time to time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After the file could not be opened.
const OPEN_EVERY: Duration = Duration::from_secs(1);

/// Says to who called how it ended.
pub(super) type Finish = Box<dyn FnOnce(Result<(), CloudError>) + Send>;

/// What a call does in a transaction.
pub(super) type Work = Box<dyn for<'t> FnOnce(&mut Batch<'t>) -> Result<Finish, Fault> + Send>;

/// What the thread is told.
pub(super) enum Message {
    /// Something to write.
    Job {
        work: Work,
        n_bytes: usize,
        /// Its place among those that wait; freed when it is done.
        room: tokio::sync::OwnedSemaphorePermit,
    },
    /// A reader met a file that cannot be used.
    Faulty(Fault),
}

/// Until the last sender is gone.
pub(super) fn run(shared: &Arc<Shared>, messages: &Receiver<Message>) {
    let mut wait = Duration::ZERO;
    loop {
        let mut jobs = Vec::new();
        let mut n_bytes = 0;
        let mut next = messages.recv_timeout(wait);
        if matches!(next, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        // A room that is freed here, before the work is done, would let in more than there is.
        let mut rooms = Vec::new();
        while let Ok(message) = next {
            match message {
                Message::Job {
                    work,
                    n_bytes: more,
                    room,
                } => {
                    jobs.push(work);
                    rooms.push(room);
                    n_bytes += more;
                }
                Message::Faulty(fault) => shared.close(&fault),
            }
            if jobs.len() >= JOBS_MAX || n_bytes >= JOBS_BYTES_MAX {
                break;
            }
            next = messages.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        }
        wait = if shared.is_open() || reopen(shared) {
            batch(shared, jobs)
        } else {
            // Dropped work is work whose caller hears that nothing is available.
            drop(jobs);
            OPEN_EVERY
        };
        drop(rooms);
    }
}

/// Runs what waits in one transaction: how long to wait for the next.
fn batch(shared: &Arc<Shared>, jobs: Vec<Work>) -> Duration {
    let mut finishes = Vec::with_capacity(jobs.len());
    let file = shared.file.read().unwrap_or_else(PoisonError::into_inner);
    let Some(database) = file.as_ref() else {
        return OPEN_EVERY;
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        write(database, jobs, &mut finishes, now_ms())
    }))
    .unwrap_or(Err(Fault::Panicked));
    drop(file);
    match result {
        Ok(done) => {
            shared.health.answered();
            shared.watchers.tell(&done.changes);
            for finish in finishes {
                finish(Ok(()));
            }
            until(done.next_end_ms)
        }
        Err(fault) => {
            if fault.ends_the_file() {
                shared.close(&fault);
            } else {
                shared.health.failed(&shared.words(&fault));
            }
            for finish in finishes {
                finish(Err(fault.answer()));
            }
            OPEN_EVERY
        }
    }
}

fn write(
    database: &Database,
    jobs: Vec<Work>,
    finishes: &mut Vec<Finish>,
    now_ms: u64,
) -> Result<Done, Fault> {
    let mut transaction = database.begin_write()?;
    // A guest chooses what is written, and a crash may come at any time: the page that says which
    // state counts is written after all others are on the disk, and a start after a crash does not
    // read the whole file.
    transaction.set_quick_repair(true);
    let mut batch = Batch::new(&transaction, now_ms)?;
    let n_max = if jobs.is_empty() {
        SWEEP_ALONE_MAX
    } else {
        SWEEP_MAX
    };
    for job in jobs {
        finishes.push(job(&mut batch)?);
    }
    batch.sweep(n_max)?;
    let done = batch.finish(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

fn until(next_end_ms: Option<u64>) -> Duration {
    next_end_ms.map_or(LOOK_EVERY, |at_ms| {
        Duration::from_millis(at_ms.saturating_sub(now_ms())).clamp(SWEEP_EVERY, LOOK_EVERY)
    })
}

fn reopen(shared: &Arc<Shared>) -> bool {
    match file::open(&shared.path, shared.cache_bytes) {
        Ok(database) => {
            *shared.file.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
            shared.health.answered();
            true
        }
        Err(error) => {
            shared.health.failed(&error.to_string());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use redb::{ReadableDatabase, ReadableTableMetadata};

    use super::super::format::ENDS;
    use super::*;

    /// A transaction at a time of the test's own, in which so many entries are set that end at another.
    fn set(database: &Database, now_ms: u64, keys: std::ops::Range<u32>, ends_at_ms: u64) {
        let work = move |batch: &mut Batch<'_>| -> Result<Finish, Fault> {
            for nth in keys {
                batch.set("a", &nth.to_string(), b"x", ends_at_ms)?;
            }
            Ok(Box::new(|_| {}))
        };
        write(database, vec![Box::new(work)], &mut Vec::new(), now_ms).unwrap();
    }

    fn n_ending(database: &Database) -> u64 {
        let transaction = database.begin_read().unwrap();
        transaction.open_table(ENDS).unwrap().len().unwrap()
    }

    /// Whoever writes entries that end sweeps more than he writes: the file does not grow without end.
    #[test]
    fn what_ends_is_swept_faster_than_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let database = file::open(&folder.path().join("kv"), 1 << 20).unwrap();
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
        let database = file::open(&folder.path().join("kv"), 1 << 20).unwrap();
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
