//! Connections to a server of Redis: made when they are needed, made anew when they break.
//!
//! A few for all calls, each with many of them under way, so that one large value does not hold up
//! everything. Each runtime that serves guests has its own, so that the thread of a guest writes and reads
//! itself: handed over to another thread, a call to a server near by takes half as long again. A guest that
//! computes holds up the calls of guests behind it, who wait for that thread as well. Not here: commands, and what a server's errors mean to a guest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use realm_model::binding;
use realm_model::cloud::limits;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{self, Handle};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::server::{self, Access, ServerError};
use crate::watch::{Health, Watch};

/// Connections of one binding, for each runtime that asks.
const CONNECTIONS: usize = 4;
/// To reach a server, shake hands and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After a server could not be reached, calls fail at once for so long: not each waits anew.
const REST: Duration = Duration::from_millis(250);
/// Commands that wait in front of one connection.
const PIPELINE: usize = 1_024;

/// The way to a server.
pub(super) struct Link {
    dial: Arc<Dial>,
    /// Of the node, for what nobody's call waits for.
    pub(super) runtime: Handle,
    /// By who asks.
    slots: Lock<HashMap<runtime::Id, Arc<Slots>>>,
    failed: Lock<Option<Instant>>,
    pub(super) health: Health,
    /// Of its notifications, which say nothing of whether it answers, nor answers of them.
    pub(super) notifications: Health,
}

/// What it takes to make a connection.
struct Dial {
    server: binding::Server,
    login: RedisConnectionInfo,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

#[derive(Default)]
struct Slot {
    live: Lock<Option<Live>>,
    /// One makes a connection, and the others wait for it.
    making: Mutex<()>,
    /// Calls that are under way over it.
    calls: AtomicUsize,
}

/// A call's hold on the connection that it was given.
pub(super) struct Turn {
    nth: usize,
    slots: Arc<Slots>,
    runtime: Handle,
}

impl Turn {
    fn slot(&self) -> &Slot {
        &self.slots[self.nth]
    }

    /// Leaves a connection that broke, so that the next call makes another.
    pub(super) fn leave(&self, broken: &Live) {
        let mut live = self.slot().lock();
        if live
            .as_ref()
            .is_some_and(|one| one.made_at == broken.made_at)
        {
            *live = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.slot().calls.fetch_sub(1, Ordering::Relaxed);
    }
}

type Slots = [Slot; CONNECTIONS];

/// A connection, and which one of its slot it is.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    made_at: Instant,
    /// Ends the task of the connection with it.
    task: Arc<Task>,
}

struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Link {
    pub(super) fn new(
        server: &binding::Server,
        database: u16,
        access: &Access,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        let mut login = RedisConnectionInfo::default()
            .set_db(i64::from(database))
            .set_lib_name("realm", env!("CARGO_PKG_VERSION"));
        if let Some(password) = &access.password {
            login = login.set_password(password.as_str());
            if let Some(user) = access.user.as_ref().or(server.user.as_ref()) {
                login = login.set_username(user);
            }
        }
        let tls = server.tls.then(|| tls(server, access)).transpose()?;
        let dial = Dial {
            server: server.clone(),
            login,
            tls,
        };
        Ok(Self {
            dial: Arc::new(dial),
            runtime: Handle::current(),
            slots: Lock::default(),
            failed: Lock::new(None),
            health: Health::new(Arc::clone(&watch)),
            notifications: Health::new(watch),
        })
    }

    /// The connection with the fewest calls under way, and of those the first: it is the warmest, for whoever
    /// asks one thing after the other.
    pub(super) fn turn(&self) -> Turn {
        let runtime = Handle::current();
        let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = Arc::clone(all.entry(runtime.id()).or_default());
        drop(all);
        let calls = |nth: &usize| slots[*nth].calls.load(Ordering::Relaxed);
        let nth = (0..CONNECTIONS).min_by_key(calls).unwrap_or_default();
        slots[nth].calls.fetch_add(1, Ordering::Relaxed);
        Turn {
            nth,
            slots,
            runtime,
        }
    }

    /// A connection that stood when it was last used, or a new one.
    pub(super) async fn live(&self, turn: &Turn) -> Result<Live, RedisError> {
        let slot = turn.slot();
        if let Some(live) = slot.get() {
            return Ok(live);
        }
        let _making = slot.making.lock().await;
        if let Some(live) = slot.get() {
            return Ok(live);
        }
        if let Some(at) = *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < REST
        {
            return Err(RedisError::from((
                ErrorKind::Io,
                "was not reached just now",
            )));
        }
        let dial = self.dial.clone();
        let connecting = turn.runtime.spawn(async move { dial.connect().await });
        let result = connecting.await.unwrap_or_else(|_| Err(ended()));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
            result.is_err().then(Instant::now);
        match result {
            Ok(live) => {
                *slot.lock() = Some(live.clone());
                self.health.answered();
                Ok(live)
            }
            Err(error) => {
                self.down(&error);
                Err(error)
            }
        }
    }

    /// Tells the operator.
    pub(super) fn down(&self, error: &RedisError) {
        self.health
            .failed(&format!("{}: {error}", self.dial.server));
    }

    /// A connection of its own for what a server says by itself.
    pub(super) async fn listen(&self) -> Result<PubSub, RedisError> {
        let dial = self.dial.clone();
        let listening = self.runtime.spawn(async move {
            let all = async { PubSub::new(&dial.login, dial.open().await?).await };
            within(all).await
        });
        listening.await.unwrap_or_else(|_| Err(ended()))
    }

    pub(super) fn database(&self) -> i64 {
        self.dial.login.db()
    }
}

impl Dial {
    async fn connect(&self) -> Result<Live, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_millis(limits::CALL_TIMEOUT_MS)))
            .set_pipeline_buffer_size(PIPELINE);
        let all = async {
            let stream = self.open().await?;
            MultiplexedConnection::new_with_config(&self.login, stream, config).await
        };
        // The task has to run while the connection logs in; the client sees to that by itself.
        let (connection, task) = within(all).await?;
        Ok(Live {
            connection,
            made_at: Instant::now(),
            task: Arc::new(Task(tokio::spawn(task).abort_handle())),
        })
    }

    async fn open(&self) -> Result<Box<dyn Stream>, RedisError> {
        let at = (self.server.host.as_str(), self.server.port);
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
            None => Box::new(stream),
        })
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is there; not one that the server closed while nobody used it, over which a call that
    /// is not sent twice would fail.
    fn get(&self) -> Option<Live> {
        self.lock()
            .clone()
            .filter(|live| !live.task.0.is_finished())
    }
}

/// The agent ends.
fn ended() -> RedisError {
    RedisError::from((ErrorKind::Io, "nobody connects any more"))
}

async fn within<T>(all: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    tokio::time::timeout(CONNECT_TIMEOUT, all)
        .await
        .unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no answer in time"))))
}

fn tls(
    server: &binding::Server,
    access: &Access,
) -> Result<(TlsConnector, ServerName<'static>), ServerError> {
    let name = ServerName::try_from(server.host.clone())
        .map_err(|error| ServerError::Client(error.into()))?;
    let config = server::tls_config(access)?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
