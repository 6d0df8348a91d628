//! SQLite: a file of the node for each database.
//!
//! Durable: WAL with `synchronous=FULL`, so a commit that was acknowledged survives a loss of power. Each
//! session is a connection on a thread of its own ([`worker`]); a guest reaches nothing but its file
//! ([`guard`]). Writers wait for each other; a transaction that read what another one then changed gets
//! [`SqlError::Conflict`] when it writes.

mod errors;
mod guard;
mod values;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::{Answer, CloudError, Session, Sql, SqlError, SqlRows, SqlValue, limits};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, oneshot};

use super::pool::Pool;
use super::words;
use worker::{Ask, Worker};

/// A database in a file.
pub struct Sqlite {
    shared: Arc<Shared>,
    made: OnceCell<()>,
}

/// What sessions have in common.
struct Shared {
    path: PathBuf,
    bytes_max: Option<u64>,
    pool: Pool<Worker>,
}

impl Sqlite {
    /// The database of a file, which comes to be with the first session, for the owner alone, in a folder
    /// that is there. It never has more than `bytes_max` bytes, its log beside it not counted.
    pub fn new(path: &Path, bytes_max: Option<u64>) -> Self {
        Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                bytes_max,
                pool: Pool::new(limits::SESSIONS_MAX),
            }),
            made: OnceCell::new(),
        }
    }

    async fn session(&self) -> Result<Box<dyn Session>, CloudError> {
        let place = self.shared.pool.place().await?;
        self.made.get_or_try_init(|| self.make()).await?;
        let worker = match self.shared.pool.take() {
            Some(worker) => worker,
            None => Worker::start(&self.shared).await?,
        };
        Ok(Box::new(Open {
            _shared: Arc::clone(&self.shared),
            worker: Some(worker),
            place: Some(place),
        }))
    }

    /// Makes the file, once: two connections that turn on the write-ahead log at the same time would be
    /// in each other's way.
    async fn make(&self) -> Result<(), CloudError> {
        let shared = Arc::clone(&self.shared);
        let made = tokio::task::spawn_blocking(move || guard::make(&shared.path)).await;
        made.map_err(|_| CloudError::Unavailable)?
    }
}

impl Sql for Sqlite {
    fn open(&self) -> Answer<'_, Box<dyn Session>> {
        Box::pin(self.session())
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        let path = self.shared.path.clone();
        Box::pin(async move {
            match tokio::fs::metadata(path).await {
                Ok(file) => Ok(Some(file.len())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(0)),
                Err(_) => Err(CloudError::Unavailable),
            }
        })
    }
}

/// A session: the near end of its worker.
struct Open {
    /// The pool that it goes back to.
    _shared: Arc<Shared>,
    /// `None` after a call to which no answer came.
    worker: Option<Worker>,
    place: Option<OwnedSemaphorePermit>,
}

impl Open {
    /// Asks the worker. Its statements end by themselves in time; one that does not, within a function of
    /// SQLite that cannot be interrupted, keeps the worker, and the place, until it does.
    async fn ask<T>(
        &mut self,
        ask: impl FnOnce(oneshot::Sender<Result<T, SqlError>>) -> Ask,
    ) -> Result<T, SqlError> {
        let worker = self.worker.take().ok_or(CloudError::Unavailable)?;
        let (reply, answer) = oneshot::channel();
        let mut busy = Busy {
            worker: Some(worker),
            place: &mut self.place,
        };
        busy.send(ask(reply))?;
        let wait = Duration::from_millis(limits::CALL_TIMEOUT_MS);
        let Ok(answer) = tokio::time::timeout(wait, answer).await else {
            return Err(CloudError::Timeout.into());
        };
        self.worker = busy.worker.take();
        drop(busy);
        answer.unwrap_or_else(|_| Err(CloudError::Unavailable.into()))
    }
}

/// A call under way: whoever gives it up interrupts it, and lets the worker keep the place until then.
struct Busy<'a> {
    worker: Option<Worker>,
    place: &'a mut Option<OwnedSemaphorePermit>,
}

impl Busy<'_> {
    fn send(&self, ask: Ask) -> Result<(), CloudError> {
        let sent = self.worker.as_ref().is_some_and(|worker| worker.send(ask));
        if sent {
            Ok(())
        } else {
            Err(CloudError::Unavailable)
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.interrupt();
            worker.end(self.place.take());
        }
    }
}

impl Session for Open {
    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, u64, SqlError> {
        Box::pin(async move {
            words::check(statement, parameters)?;
            let (statement, parameters) = (statement.to_owned(), parameters.to_vec());
            self.ask(|reply| Ask::Execute(statement, parameters, reply))
                .await
        })
    }

    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, Vec<String>, SqlError> {
        Box::pin(async move {
            words::check(statement, parameters)?;
            let (statement, parameters) = (statement.to_owned(), parameters.to_vec());
            self.ask(|reply| Ask::Query(statement, parameters, reply))
                .await
        })
    }

    fn fetch(&mut self) -> Answer<'_, SqlRows, SqlError> {
        Box::pin(self.ask(Ask::Fetch))
    }

    fn close(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.ask(Ask::Close))
    }

    fn begin(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.ask(Ask::Begin))
    }

    fn commit(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.ask(Ask::Commit))
    }

    fn roll_back(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.ask(Ask::RollBack))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.leave(self.place.take());
        }
    }
}
