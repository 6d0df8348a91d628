//! PostgreSQL: sessions of a server that the operator runs.
//!
//! Each session is a connection ([`connect`]), from a pool and back to it when it is as new. Rows come as
//! they are asked for: what nobody has fetched waits on the server. What takes too long is cancelled.

mod connect;
mod dates;
mod errors;
mod framing;
mod session;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use realm_model::cloud::{Answer, CloudError, Session, Sql};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::pool::{IDLE, Pool};
use crate::Watch;
use crate::watch::Health;
use connect::{Door, Link};

/// Where a server is, and as whom it is asked.
#[derive(Clone)]
pub struct Settings {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name of the database.
    pub database: String,
    /// The user, where it is not in the secret.
    pub user: Option<String>,
    /// The password of that user, or `USER:PASSWORD` where no user is named.
    pub secret: Option<String>,
    /// Whether it is asked over TLS, with its certificate and its name checked.
    pub tls: bool,
    /// Certificates in PEM that are trusted beside those of the machine.
    pub ca_file: Option<PathBuf>,
}

/// Settings that lead nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Neither the URL nor the secret names one.
    #[error(
        "no user: name it in the URL (`postgres://USER@HOST/DATABASE`) or in the secret (`USER:PASSWORD`)"
    )]
    NoUser,
}

/// A database of a server.
pub struct Postgres {
    shared: Arc<Shared>,
    prefix: String,
}

/// Bytes of a name in PostgreSQL.
const SCHEMA_BYTES_MAX: usize = 63;

/// How often it is tried to end what goes on, and how long after each other.
const END_TRIES: u32 = 12;
const END_PAUSE: Duration = Duration::from_secs(5);

/// What sessions have in common.
struct Shared {
    door: Arc<Door>,
    /// Where connections live: the runtime of whoever made the database, since those of guests come and
    /// go, and compute.
    runtime: Handle,
    pool: Pool<Link>,
    numbers: AtomicU64,
    health: Health,
}

impl Postgres {
    /// Has to be called in the runtime that its connections shall live in. Nothing is asked yet; `watch` hears when it cannot be. Databases that guests name are schemas whose
    /// names begin with `prefix`; without a name it is the whole database.
    pub fn new(
        settings: Settings,
        prefix: &str,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, SettingsError> {
        Ok(Self {
            prefix: prefix.to_owned(),
            shared: Arc::new(Shared {
                door: Arc::new(Door::new(settings)?),
                runtime: Handle::current(),
                pool: Pool::new(),
                numbers: AtomicU64::new(0),
                health: Health::new(watch),
            }),
        })
    }

    async fn session(&self, database: &str) -> Result<Box<dyn Session>, CloudError> {
        let place = self.shared.pool.place().await?;
        let link = self.shared.link().await?;
        let shared = Arc::clone(&self.shared);
        let mut session = session::Open::new(shared, link, place);
        if !database.is_empty() {
            session.enter(&self.schema(database)).await?;
        }
        Ok(Box::new(session))
    }

    /// The schema that a name leads to. PostgreSQL cuts longer ones off, where they would meet.
    fn schema(&self, database: &str) -> String {
        let name = format!("{}/{database}", self.prefix);
        if name.len() <= SCHEMA_BYTES_MAX {
            return name;
        }
        let digest = Sha256::digest(&name);
        digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    async fn size(&self) -> Result<Option<u64>, CloudError> {
        let link = self.shared.link().await?;
        let size = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())";
        let row = tokio::time::timeout(super::PATIENCE, link.client.query_one(size, &[])).await;
        let row = row.map_err(|_| CloudError::Timeout)?;
        let row = row.map_err(|_| CloudError::Unavailable)?;
        self.shared.give_back(link);
        let bytes: Result<i64, _> = row.try_get(0);
        Ok(bytes.ok().and_then(|bytes| u64::try_from(bytes).ok()))
    }
}

impl Shared {
    /// A connection that is as new.
    async fn link(&self) -> Result<Link, CloudError> {
        while let Some(link) = self.pool.take("") {
            if link.is_alive().await {
                return Ok(link);
            }
        }
        let door = Arc::clone(&self.door);
        let opened = self.runtime.spawn(async move { door.open().await });
        match opened.await.map_err(|_| CloudError::Unavailable)? {
            Ok(link) => {
                self.health.answered();
                Ok(link)
            }
            Err(why) => {
                self.health.failed(&why.to_string());
                Err(CloudError::Unavailable)
            }
        }
    }

    /// Ends a connection on which the server goes on with what nobody waits for. Closing it would end
    /// nothing; its place is free when it has ended.
    async fn end(self: &Arc<Self>, link: Link, place: Option<OwnedSemaphorePermit>) {
        let process = link.process;
        drop(link);
        let Some(process) = process else {
            return;
        };
        for _ in 0..END_TRIES {
            if let Ok(link) = self.link().await {
                let told = tokio::time::timeout(super::PATIENCE, link.terminate(process)).await;
                if matches!(told, Ok(Ok(()))) {
                    self.give_back(link);
                    break;
                }
            }
            tokio::time::sleep(END_PAUSE).await;
        }
        drop(place);
    }

    /// Keeps a connection for the next session, for a while.
    fn give_back(self: &Arc<Self>, mut link: Link) {
        link.idle_since = Some(Instant::now());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.pool.put(number, "", link);
        let pool = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(IDLE).await;
            if let Some(shared) = pool.upgrade() {
                drop(shared.pool.retire(number));
            }
        });
    }
}

impl Sql for Postgres {
    fn open<'a>(&'a self, database: &'a str, _bytes_max: u64) -> Answer<'a, Box<dyn Session>> {
        Box::pin(self.session(database))
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(self.size())
    }
}
