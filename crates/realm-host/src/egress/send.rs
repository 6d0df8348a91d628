//! One outbound request: resolve, check, dial, TLS, HTTP/1.1. One connection per request.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::http::Target;
use super::resolve::Unresolved;
use super::{Policy, Verdict};

/// Where the guest sets no time: what it can wait for is bounded by its wall time anyway.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(60);

type Sent = (
    http::Response<WasiBody>,
    Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>,
);

/// Sends a request whose target the rules allow.
pub(super) async fn send(
    policy: &Policy,
    slot: u32,
    target: &Target,
    request: http::Request<WasiBody>,
    options: RequestOptions,
) -> Result<Sent, Error> {
    let connect_timeout = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let stream = timeout(connect_timeout, dial(policy, slot, target));
    let stream = stream.await.map_err(|_| Error::ConnectionTimeout)??;
    if !target.tls {
        return exchange(stream, request, options).await;
    }
    let stream = timeout(connect_timeout, encrypt(policy, target, stream));
    let stream = stream.await.map_err(|_| Error::ConnectionTimeout)??;
    exchange(stream, request, options).await
}

/// Resolves once, and dials only addresses that are open.
async fn dial(policy: &Policy, slot: u32, target: &Target) -> Result<TcpStream, Error> {
    let found = resolve(policy, target).await?;
    let is_open =
        |address: &IpAddr| policy.judge(*address, |rule| target.matches(rule)) == Verdict::Open;
    let (open, closed): (Vec<_>, Vec<_>) = found.into_iter().partition(is_open);
    if let ([], [first, ..]) = (&open[..], &closed[..]) {
        policy.deny_private(slot, (target.scheme(), &target.host, target.port), *first);
        return Err(Error::DestinationIpProhibited);
    }
    let mut last = Error::DestinationNotFound;
    for address in open {
        match TcpStream::connect(SocketAddr::new(address, target.port)).await {
            Ok(stream) => {
                // A request is written in few pieces; waiting to join them only costs time.
                stream.set_nodelay(true).map_err(Error::Connect)?;
                return Ok(stream);
            }
            Err(error) => last = Error::Connect(error),
        }
    }
    Err(last)
}

/// The addresses of a host; a literal is its own.
async fn resolve(policy: &Policy, target: &Target) -> Result<Vec<IpAddr>, Error> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    policy.resolve(&target.host).await.map_err(|why| match why {
        Unresolved::Timeout => Error::DnsTimeout,
        Unresolved::Unknown => Error::DnsError {
            rcode: None,
            info_code: None,
        },
    })
}

async fn encrypt(
    policy: &Policy,
    target: &Target,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let config = policy.network.tls().ok_or(Error::ConfigurationError)?;
    // The certificate must be for the name that the rules allowed, not for its address.
    let name =
        ServerName::try_from(target.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(name, stream).await.map_err(Error::Tls)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: http::Request<WasiBody>,
    options: RequestOptions,
) -> Result<Sent, Error> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with whoever holds it: first this function, then the future that is returned.
    let connection: AbortOnDropJoinHandle<_> = wasmtime_wasi::runtime::spawn(connection);
    // An origin server gets the path alone; scheme and authority are for proxies.
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let wait = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
    let response = timeout(wait, sender.send_request(request));
    let response = response.await.map_err(|_| Error::ConnectionReadTimeout)??;
    let pause_max = options
        .between_bytes_timeout
        .unwrap_or(BETWEEN_BYTES_TIMEOUT);
    let response = response.map(|body| Paced::new(body, pause_max).boxed_unsync());
    let io = Box::pin(async move { connection.await.map_err(Error::from) });
    Ok((response, io))
}

/// A response body that fails when the other side pauses for too long.
struct Paced {
    body: Incoming,
    pause_max: Duration,
    pause: Pin<Box<Sleep>>,
}

impl Paced {
    fn new(body: Incoming, pause_max: Duration) -> Self {
        Self {
            body,
            pause_max,
            pause: Box::pin(tokio::time::sleep(pause_max)),
        }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let next = Instant::now() + self.pause_max;
                self.pause.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => self
                .pause
                .as_mut()
                .poll(context)
                .map(|()| Some(Err(Error::ConnectionReadTimeout))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
