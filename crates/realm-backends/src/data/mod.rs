//! Documents, vectors, texts and workflows over a database with SQL, whichever it is.
//!
//! All of them are in tables of fixed names that begin with `realm_`, beside those that a guest makes by
//! itself; a guest's words are parameters of statements and never a part of their text. What a filter, an
//! order or a query of words means is decided in `realm_model::cloud`, and the tables hold keys that each
//! database compares alike: bytes. What the databases spell differently is in [`Dialect`], and nowhere
//! else.

mod dialect;
mod documents;
mod search;
mod steps;
mod vectors;
mod workflows;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use realm_model::cloud::documents::Place;
use realm_model::cloud::{Answer, CloudError, DataError, Session, Sql, SqlError, limits};

use crate::sql::{Postgres, Sqlite};
use dialect::{Dialect, Ground, Part};
use steps::Failure;
pub use workflows::Flows;

/// Databases whose tables are known to be there: more are asked again.
const KNOWN_MAX: usize = 1_000;

/// How long a call that met another one waits until it is done again, at first and at most.
const AGAIN: Duration = Duration::from_millis(5);
const AGAIN_MAX: Duration = Duration::from_millis(200);

type Known = HashMap<(String, Part), Arc<Ground>>;

/// A database with SQL, and what is made of it.
pub struct Database {
    sql: Arc<dyn Sql>,
    dialect: Dialect,
    /// Databases by name, and what has its tables there.
    known: Mutex<Known>,
}

impl Database {
    /// Over SQLite.
    pub fn sqlite(sql: Sqlite) -> Self {
        Self::over(Arc::new(sql), Dialect::Sqlite)
    }

    /// Over PostgreSQL.
    pub fn postgres(sql: Postgres) -> Self {
        Self::over(Arc::new(sql), Dialect::Postgres)
    }

    fn over(sql: Arc<dyn Sql>, dialect: Dialect) -> Self {
        Self {
            sql,
            dialect,
            known: Mutex::default(),
        }
    }

    /// Does something in a session whose database has the tables for it, and all of it again where it met
    /// another one, for as long as a call may last.
    async fn with<T>(&self, at: Place<'_>, part: Part, work: &dyn Work<T>) -> Result<T, DataError> {
        let whole = Duration::from_millis(limits::CALL_TIMEOUT_MS);
        let done = tokio::time::timeout(whole, async {
            let mut wait = AGAIN;
            let mut missed = false;
            loop {
                let mut session = self.sql.open(at.database, at.bytes_max).await?;
                let done = match self.ready(&mut *session, at, part).await {
                    Ok(ground) => work.run(&ground, &mut *session).await,
                    Err(failure) => Err(failure),
                };
                drop(session);
                match done {
                    Ok(value) => return Ok(value),
                    Err(Failure::Data(error)) => return Err(error),
                    Err(Failure::Sql(SqlError::Conflict | SqlError::Aborted)) => {
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(AGAIN_MAX);
                    }
                    // Somebody dropped the tables.
                    Err(Failure::Sql(SqlError::Database { code, .. }))
                        if code == "42P01" && !missed =>
                    {
                        self.forget(at, part);
                        missed = true;
                    }
                    Err(Failure::Sql(error)) => return Err(steps::said(error)),
                }
            }
        });
        done.await.unwrap_or(Err(CloudError::Timeout.into()))
    }

    /// Makes the tables, where it is not known that they are there.
    async fn ready(
        &self,
        session: &mut dyn Session,
        at: Place<'_>,
        part: Part,
    ) -> Result<Arc<Ground>, Failure> {
        let key = (at.database.to_owned(), part);
        let found = self.known().get(&key).cloned();
        if let Some(ground) = found {
            return Ok(ground);
        }
        let ground = Arc::new(Ground::make(self.dialect, session, part).await?);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, Arc::clone(&ground));
        Ok(ground)
    }

    fn forget(&self, at: Place<'_>, part: Part) {
        self.known().remove(&(at.database.to_owned(), part));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Entries come and go at once: no panic can leave one torn.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that is done in one session, and may have to be done again from its beginning.
trait Work<T>: Sync {
    fn run<'a>(
        &'a self,
        ground: &'a Ground,
        session: &'a mut dyn Session,
    ) -> Answer<'a, T, Failure>;
}

/// A [`Work`] of an async function of its own.
macro_rules! work {
    ($name:ident -> $done:ty) => {
        impl crate::data::Work<$done> for $name<'_> {
            fn run<'a>(
                &'a self,
                ground: &'a Ground,
                session: &'a mut dyn Session,
            ) -> realm_model::cloud::Answer<'a, $done, Failure> {
                Box::pin(self.work(ground, session))
            }
        }
    };
}
use work;

impl Sql for Database {
    fn open<'a>(&'a self, database: &'a str, bytes_max: u64) -> Answer<'a, Box<dyn Session>> {
        self.sql.open(database, bytes_max)
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        self.sql.bytes()
    }
}
