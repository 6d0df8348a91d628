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
use std::time::Instant;

use realm_model::cloud::{Answer, CloudError, Session, Sql, limits};

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
}

/// What sessions have in common.
struct Shared {
    door: Door,
    pool: Pool<Link>,
    numbers: AtomicU64,
    health: Health,
}

impl Postgres {
    /// Nothing is asked yet; `watch` hears when it cannot be.
    pub fn new(settings: Settings, watch: Arc<dyn Watch>) -> Result<Self, SettingsError> {
        Ok(Self {
            shared: Arc::new(Shared {
                door: Door::new(settings)?,
                pool: Pool::new(limits::SESSIONS_MAX),
                numbers: AtomicU64::new(0),
                health: Health::new(watch),
            }),
        })
    }

    async fn session(&self) -> Result<Box<dyn Session>, CloudError> {
        let place = self.shared.pool.place().await?;
        let link = self.shared.link().await?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(session::Open::new(shared, link, place)))
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
        while let Some(link) = self.pool.take() {
            if link.is_alive().await {
                return Ok(link);
            }
        }
        match self.door.open().await {
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

    /// Keeps a connection for the next session, for a while.
    fn give_back(self: &Arc<Self>, mut link: Link) {
        link.idle_since = Some(Instant::now());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        if self.pool.put(number, link) {
            let pool = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(IDLE).await;
                if let Some(shared) = pool.upgrade() {
                    drop(shared.pool.retire(number));
                }
            });
        }
    }
}

impl Sql for Postgres {
    fn open(&self) -> Answer<'_, Box<dyn Session>> {
        Box::pin(self.session())
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(self.size())
    }
}
