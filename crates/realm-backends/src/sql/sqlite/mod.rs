//! SQLite: a file of the node for each database.
//!
//! Durable: WAL with `synchronous=FULL`, so a commit that was acknowledged survives a loss of power. Each
//! session is a connection on a thread of its own ([`worker`]); a guest reaches nothing but its file
//! ([`guard`]). Writers wait for each other; a transaction that read what another one then changed gets
//! [`SqlError::Conflict`] when it writes.

mod errors;
mod files;
mod functions;
mod guard;
mod values;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::{Answer, CloudError, Session, Sql, SqlError, SqlRows, SqlValue, limits};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::pool::Pool;
use super::words;
use files::Files;
use worker::{Ask, Worker};

/// Databases in the files of a folder.
pub struct Sqlite {
    shared: Arc<Shared>,
}

/// What sessions have in common.
struct Shared {
    files: Files,
    pool: Pool<Worker>,
}

impl Sqlite {
    /// The databases of a folder. It comes to be with the first session, and each file with the first of
    /// its own, for the owner alone.
    pub fn new(folder: &Path) -> Self {
        Self {
            shared: Arc::new(Shared {
                files: Files::new(folder),
                pool: Pool::new(),
            }),
        }
    }

    async fn session(&self, name: &str, bytes_max: u64) -> Result<Box<dyn Session>, CloudError> {
        let place = self.shared.pool.place().await?;
        let worker = match self.shared.pool.take(name) {
            Some(worker) => worker,
            None => {
                let path = self.shared.files.make(name).await?;
                Worker::start(&self.shared, name, path).await?
            }
        };
        let mut session = Open {
            _shared: Arc::clone(&self.shared),
            worker: Some(worker),
            place: Some(place),
            near: Near::default(),
        };
        let entered = session.ask(|reply| Ask::Enter(bytes_max, reply)).await;
        match entered {
            Ok(()) => Ok(Box::new(session)),
            Err(SqlError::Cloud(error)) => Err(error),
            Err(error) => Err(CloudError::Failed(error.to_string())),
        }
    }
}

impl Sql for Sqlite {
    fn open<'a>(&'a self, database: &'a str, bytes_max: u64) -> Answer<'a, Box<dyn Session>> {
        Box::pin(self.session(database, bytes_max))
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async { self.shared.files.bytes().await.map(Some) })
    }
}

/// A session: the near end of its worker.
struct Open {
    /// The pool that it goes back to.
    _shared: Arc<Shared>,
    /// `None` after a call to which no answer came.
    worker: Option<Worker>,
    place: Option<OwnedSemaphorePermit>,
    near: Near,
}

/// What is here already of the rows that are open.
#[derive(Default)]
struct Near {
    page: Option<SqlRows>,
    /// The worker has more.
    is_open: bool,
}

impl Open {
    /// Asks for something else than the next rows, which closes those that are open.
    async fn other<T>(
        &mut self,
        ask: impl FnOnce(oneshot::Sender<Result<T, SqlError>>) -> Ask,
    ) -> Result<T, SqlError> {
        self.near = Near::default();
        self.ask(ask).await
    }

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
            self.other(|reply| Ask::Execute(statement, parameters, reply))
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
            let begun = self
                .other(|reply| Ask::Query(statement, parameters, reply))
                .await?;
            self.near = Near {
                page: Some(begun.page),
                is_open: !begun.is_all,
            };
            Ok(begun.columns)
        })
    }

    fn fetch(&mut self) -> Answer<'_, SqlRows, SqlError> {
        Box::pin(async move {
            match self.near.page.take() {
                Some(page) => Ok(page),
                None if self.near.is_open => self.ask(Ask::Fetch).await,
                None => Ok(SqlRows::new()),
            }
        })
    }

    fn close(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(async move {
            if self.near.is_open {
                return self.other(Ask::Close).await;
            }
            self.near = Near::default();
            Ok(())
        })
    }

    fn begin(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.other(Ask::Begin))
    }

    fn commit(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.other(Ask::Commit))
    }

    fn roll_back(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.other(Ask::RollBack))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.leave(self.place.take());
        }
    }
}
