//! Connections to one server that are kept for the next request. Not what is sent on them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::body::RequestBody;
use crate::backend::BoxFuture;
use crate::config::ANSWER_FIELDS_MAX;

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// How connections to one server are made.
pub trait Dial: Send + Sync + 'static {
    /// Makes one.
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>>;

    /// The runtime that the bytes of all of them come and go on: they are read and written there too.
    /// `None`: on that of whoever dials.
    fn home(&self) -> Option<&Handle> {
        None
    }
}

/// What is kept of connections that nobody uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// As many: what a usual load reuses.
    pub(crate) idle_max: usize,
    /// A kept one is not trusted after this.
    pub(crate) age_max: Duration,
    /// None lives longer than that: of two ways to a server the better one is taken in the end.
    pub(crate) life_max: Duration,
    /// Whether the server may take one connection after the other, so that a kept one blocks it.
    pub(crate) may_be_single: bool,
}

/// A server that listens on this machine.
pub(super) struct Local(pub(super) SocketAddr);

impl Dial for Local {
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async {
            let stream = TcpStream::connect(self.0).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// hyper reads heads of no fewer bytes.
const HEAD_BYTES_MIN: usize = 8 * 1024;
/// After its answer a server may still read the rest of the request; nobody waits for it longer.
const REST_TIMEOUT: Duration = Duration::from_secs(1);
/// Who is there answers at once, or is full.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer's head, and of what is buffered behind it.
pub(crate) const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What is taken of a server that answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) connect_timeout: Duration,
    /// Bytes of the head of an answer, and of what is buffered behind it.
    pub(super) head_bytes_max: usize,
    pub(super) head_fields_max: usize,
}

/// Of components, and of other nodes.
pub(super) const TAKEN: Taken = Taken {
    connect_timeout: CONNECT_TIMEOUT,
    head_bytes_max: BUFFER_BYTES_MAX,
    head_fields_max: ANSWER_FIELDS_MAX,
};

/// The connections to one server.
pub(super) struct Pool {
    dial: Box<dyn Dial>,
    keep: Keep,
    taken: Taken,
    /// The last one is the one that was used last.
    idle: Mutex<Vec<Idle>>,
    /// Requests on new connections that wait longer than is usual: perhaps the server is busy with
    /// a connection that is kept here.
    impatient: AtomicU32,
}

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
    born: Instant,
}

/// A connection in use. Without [`Lease::give_back`] its end is the end of the connection.
pub(super) struct Lease {
    pub(super) sender: SendRequest<RequestBody>,
    born: Instant,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(dial: Box<dyn Dial>, keep: Keep, taken: Taken) -> Arc<Self> {
        Arc::new(Self {
            dial,
            keep,
            taken,
            idle: Mutex::default(),
            impatient: AtomicU32::new(0),
        })
    }

    /// A kept connection.
    pub(super) fn take(self: &Arc<Self>) -> Option<Lease> {
        let mut idle = self.lock();
        while let Some(Idle {
            sender,
            since,
            born,
        }) = idle.pop()
        {
            if since.elapsed() > self.keep.age_max {
                // The others wait for even longer.
                idle.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(self.lease(sender, born));
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn open(self: &Arc<Self>) -> io::Result<Lease> {
        let connecting = timeout(self.taken.connect_timeout, self.dial.dial());
        let stream = connecting.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let (sender, connection) = Builder::new()
            .max_headers(self.taken.head_fields_max)
            // Fewer bytes the reader takes for a mistake of ours.
            .max_buf_size(self.taken.head_bytes_max.max(HEAD_BYTES_MIN))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // It ends with its sender, and says there what went wrong.
        let served = async move { drop(connection.with_upgrades().await) };
        match self.dial.home() {
            Some(home) => home.spawn(served),
            None => tokio::spawn(served),
        };
        Ok(self.lease(sender, Instant::now()))
    }

    /// Waits for an answer on a new connection; after `patience` the kept ones make room.
    pub(super) async fn patiently<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = T>,
    ) -> T {
        if !self.keep.may_be_single {
            return answer.await;
        }
        let mut answer = std::pin::pin!(answer);
        if let Ok(answered) = timeout(patience, &mut answer).await {
            return answered;
        }
        let _impatient = Impatient::enter(&self.impatient);
        self.lock().clear();
        answer.await
    }

    /// Lets go of those that nobody used for long.
    pub(super) fn sweep(&self) {
        self.lock()
            .retain(|idle| idle.since.elapsed() <= self.keep.age_max);
    }

    /// Lets go of all.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lease(self: &Arc<Self>, sender: SendRequest<RequestBody>, born: Instant) -> Lease {
        Lease {
            sender,
            born,
            pool: Arc::clone(self),
        }
    }

    fn keep(&self, sender: SendRequest<RequestBody>, born: Instant) {
        let none = self.keep.idle_max == 0;
        if none || self.impatient.load(Relaxed) > 0 || born.elapsed() > self.keep.life_max {
            return;
        }
        let mut idle = self.lock();
        if idle.len() >= self.keep.idle_max {
            idle.remove(0);
        }
        idle.push(Idle {
            sender,
            since: Instant::now(),
            born,
        });
    }

    /// A list that is changed by whole items: a panic cannot leave it torn.
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The answer was read whole: the connection may serve another request, once the server has
    /// read the rest of this one.
    pub(super) fn give_back(self) {
        let Self {
            mut sender,
            born,
            pool,
        } = self;
        if sender.is_ready() {
            return pool.keep(sender, born);
        }
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(REST_TIMEOUT, sender.ready()).await {
                pool.keep(sender, born);
            }
        });
    }
}

/// A request that waits longer than is usual.
pub(crate) struct Impatient<'a>(&'a AtomicU32);

impl<'a> Impatient<'a> {
    pub(crate) fn enter(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Impatient<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
