//! Serves the control API and the admin listener: connections bounded, heads in time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::access::Mouth;

/// Connections at once per listener: a person, some scripts and a scraper need a handful.
const CONNECTIONS_MAX: usize = 256;
/// From the first byte of a head to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an error of `accept`, such as no more file descriptors: it does not end by asking again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Something that takes connections.
pub(crate) trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// What a new connection is made into before it is served.
pub(crate) trait Way<S>: Clone + Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// `None`: it is closed without a word.
    fn open(&self, stream: S) -> impl Future<Output = Option<(Self::Stream, Mouth)>> + Send;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Way<S> for Mouth {
    type Stream = S;

    async fn open(&self, stream: S) -> Option<(S, Mouth)> {
        Some((stream, *self))
    }
}

/// Mutual TLS: what the certificate of the other end proves.
#[derive(Clone)]
pub(crate) struct MutualTls(pub(crate) Arc<ServerConfig>);

impl Way<TcpStream> for MutualTls {
    type Stream = TlsStream<TcpStream>;

    async fn open(&self, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Mouth)> {
        // Keystrokes of a command's caller do not wait for more; without it they are only later.
        let _ = stream.set_nodelay(true);
        self.accept(stream).await
    }
}

impl MutualTls {
    /// The handshake, on any stream; `None`: there was none.
    pub(crate) async fn accept<S>(&self, stream: S) -> Option<(TlsStream<S>, Mouth)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let accepting = TlsAcceptor::from(Arc::clone(&self.0)).accept(stream);
        let accepted = tokio::time::timeout(HEAD_TIMEOUT, accepting).await.ok()?;
        let stream = accepted
            .inspect_err(|error| tracing::debug!(%error, "no TLS with a caller"))
            .ok()?;
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        let key = crate::tls::key_of(certificate).ok()?;
        Some((stream, Mouth::Peer(key)))
    }
}

/// Serves until `stopping` says so. Connections are cut then, not drained: a log reader that
/// follows would never end by itself.
pub(crate) async fn serve<L: Listener>(
    listener: L,
    router: Router,
    way: impl Way<L::Stream>,
    mut stopping: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, mut stopping) = (router.clone(), stopping.clone());
        let way = way.clone();
        tokio::spawn(async move {
            let served = async {
                if let Some((stream, mouth)) = way.open(stream).await {
                    serve_stream(router, stream, mouth).await;
                }
            };
            tokio::select! {
                () = served => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            drop(permit);
        });
    }
}

/// Serves one connection, or one stream of it, to its end. `mouth` says what it proves: only
/// [`Mouth::Peer`] with a key that its transport has checked.
pub(crate) async fn serve_stream(
    router: Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mouth: Mouth,
) {
    let router = router.layer(Extension(mouth));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    // Errors are the client's: it went away, or spoke something else.
    drop(connection.await);
}
