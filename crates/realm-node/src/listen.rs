//! Serves the control API and the admin listener: connections bounded, heads in time.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
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
use crate::places::Places;

/// Connections at once per listener: a person, some scripts and a scraper need a handful.
const CONNECTIONS_MAX: usize = 256;
/// Of one address (IPv4) or one /64 (IPv6): any key may connect, and must not take them all.
const CONNECTIONS_PER_SOURCE_MAX: usize = 32;
/// Of one key, from wherever.
const CONNECTIONS_PER_KEY_MAX: usize = 32;
/// From the first byte of a head to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an error of `accept`, such as no more file descriptors: it does not end by asking again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Something that takes connections.
pub(crate) trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// With where it comes from; `None`: from this machine's own users.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<IpAddr>)> {
        Ok((Self::accept(self).await?.0, None))
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<IpAddr>)> {
        let (stream, address) = Self::accept(self).await?;
        Ok((stream, Some(source_of(address.ip()))))
    }
}

/// One customer has all the addresses of a /64.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
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
    let sources = Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_SOURCE_MAX);
    let keys = Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_KEY_MAX);
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let (stream, source) = match stream {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Closed without a word: whoever has that many knows why.
        let Some(place) = source.map_or(Some(None), |source| sources.take(source, 0).map(Some))
        else {
            continue;
        };
        let (router, mut stopping) = (router.clone(), stopping.clone());
        let (way, keys) = (way.clone(), keys.clone());
        tokio::spawn(async move {
            let served = async {
                let Some((stream, mouth)) = way.open(stream).await else {
                    return;
                };
                let _place = match mouth {
                    Mouth::Peer(key) => match keys.take(key, 0) {
                        Some(place) => Some(place),
                        None => return,
                    },
                    Mouth::Socket | Mouth::Relayed => None,
                };
                serve_stream(router, stream, mouth).await;
            };
            tokio::select! {
                () = served => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            drop((permit, place));
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn one_address_does_not_take_the_places_of_others() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_stop, stopping) = watch::channel(false);
        let router = Router::new().fallback(async || "here");
        let serving = tokio::spawn(serve(listener, router, Mouth::Relayed, stopping));
        // Whether a connection from this address to another of this machine is served.
        let ask = async |from: &str| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
            let to = format!("127.0.0.1:{port}").parse().unwrap();
            let mut stream = socket.connect(to).await.unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let served = stream.read(&mut [0; 16]).await.is_ok_and(|read| read > 0);
            served.then_some(stream)
        };
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_PER_SOURCE_MAX {
            held.push(ask("127.0.0.2").await.unwrap());
        }
        assert!(ask("127.0.0.2").await.is_none());
        assert!(ask("127.0.0.3").await.is_some());
        serving.abort();
    }

    #[test]
    fn sources_are_what_one_customer_has() {
        let check = |ip: &str, expected: &str| {
            assert_eq!(
                source_of(ip.parse().unwrap()),
                expected.parse::<IpAddr>().unwrap()
            );
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
    }
}
