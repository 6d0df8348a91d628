//! The thread that writes: one transaction, and one wait for the disk, for all calls that came meanwhile.
//!
//! It also has the store tidy up, and opens the file anew after the disk refused something. Not here: what
//! a call does, and who may call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use realm_model::cloud::CloudError;
use redb::Database;

use super::{Fault, Format, Shared, now_ms};

/// Calls of one transaction.
const JOBS_MAX: usize = 1_024;
/// Bytes that the calls of one transaction bring, after which no more is taken.
const JOBS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// To tidy up is a transaction: not more often than this for its own sake.
const TIDY_EVERY: Duration = Duration::from_millis(200);
/// The clock of the wall may jump, so it is looked at from time to time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After the file could not be opened.
const OPEN_EVERY: Duration = Duration::from_secs(1);

/// Says to who called how it ended.
pub(super) type Finish = Box<dyn FnOnce(Result<(), CloudError>) + Send>;

/// What a call does in a transaction.
pub(super) type Work<F> =
    Box<dyn for<'t> FnOnce(&mut <F as Format>::Batch<'t>) -> Result<Finish, Fault> + Send>;

/// What the thread is told.
pub(super) enum Message<F: Format> {
    /// Something to write.
    Job {
        work: Work<F>,
        n_bytes: usize,
        /// Its place among those that wait; freed when it is done.
        room: tokio::sync::OwnedSemaphorePermit,
    },
    /// A reader met a file that cannot be used.
    Faulty(Fault),
}

/// Until the last sender is gone.
pub(super) fn run<F: Format>(shared: &Arc<Shared<F>>, messages: &Receiver<Message<F>>) {
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
fn batch<F: Format>(shared: &Arc<Shared<F>>, jobs: Vec<Work<F>>) -> Duration {
    let mut finishes = Vec::with_capacity(jobs.len());
    let file = shared.file.read().unwrap_or_else(PoisonError::into_inner);
    let Some(database) = file.as_ref() else {
        return OPEN_EVERY;
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        write(&shared.format, database, jobs, &mut finishes, now_ms())
    }))
    .unwrap_or(Err(Fault::Panicked));
    drop(file);
    match result {
        Ok(done) => {
            shared.health.answered();
            let next_ms = shared.format.done(done);
            for finish in finishes {
                finish(Ok(()));
            }
            until(next_ms)
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

/// One transaction, at a time.
fn write<F: Format>(
    format: &F,
    database: &Database,
    jobs: Vec<Work<F>>,
    finishes: &mut Vec<Finish>,
    now_ms: u64,
) -> Result<F::Done, Fault> {
    let mut transaction = database.begin_write()?;
    // A guest chooses what is written, and a crash may come at any time: the page that says which
    // state counts is written after all others are on the disk, and a start after a crash does not
    // read the whole file.
    transaction.set_quick_repair(true);
    let alone = jobs.is_empty();
    let mut batch = format.begin(&transaction, now_ms)?;
    for job in jobs {
        finishes.push(job(&mut batch)?);
    }
    let done = format.end(batch, &transaction, alone)?;
    transaction.commit()?;
    Ok(done)
}

fn until(next_ms: Option<u64>) -> Duration {
    next_ms.map_or(LOOK_EVERY, |at_ms| {
        Duration::from_millis(at_ms.saturating_sub(now_ms())).clamp(TIDY_EVERY, LOOK_EVERY)
    })
}

fn reopen<F: Format>(shared: &Arc<Shared<F>>) -> bool {
    match super::open::open::<F>(&shared.path) {
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

/// One transaction of a test, at a time of its own: when there is something to tidy up next.
#[cfg(test)]
pub(crate) fn write_one<F: Format>(
    format: &F,
    database: &Database,
    now_ms: u64,
    work: impl for<'t> FnOnce(&mut F::Batch<'t>) -> Result<(), Fault> + Send + 'static,
) -> Option<u64> {
    let work: Work<F> = Box::new(move |batch| {
        work(batch)?;
        let finish: Finish = Box::new(|_| {});
        Ok(finish)
    });
    match write(format, database, vec![work], &mut Vec::new(), now_ms) {
        Ok(done) => format.done(done),
        Err(fault) => panic!("{fault}"),
    }
}
