//! One outbound request: a connection that waits, or else resolve, check, dial, TLS; then HTTP/1.1
//! or, where the other side of TLS prefers it, HTTP/2.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::uri::{PathAndQuery, Uri};
use http::{Method, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::again::Again;
use super::http::{Request, Target};
use super::pool::{Connection, Lease, Link, Reserved, STREAMS_MAX};
use super::resolve::Unresolved;
use super::response::Answer;
use super::{Policy, Verdict};
use crate::cgi::FIELDS_MAX;

/// Where the guest sets no time: what it can wait for is bounded by its wall time anyway.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of one answer that HTTP/2 takes ahead of the guest; and of all answers on a connection,
/// so that none that is not read stops the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;
/// Bytes of the headers of an answer: twice what the edge takes of a request.
const HEADERS_BYTES_MAX: u32 = 64 * 1024;
/// How often a connection of HTTP/2 with requests on it is asked whether it lives, and how long it
/// may think: one that went silent is closed before the next guest waits for it.
const PING_INTERVAL: Duration = Duration::from_secs(10);

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
    place: Request,
) -> Result<Sent, Error> {
    // A tunnel through a proxy is no request to the target.
    if request.method() == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    if request.headers().len() > FIELDS_MAX {
        return Err(Error::HttpRequestHeaderSectionSize(None));
    }
    let wait = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
    let mut request = request;
    let (lease, response) = loop {
        let mut lease = match policy.pool.take(target).await {
            Some(lease) => lease,
            None => connect(policy, slot, target, &options).await?,
        };
        let (sent, again) = match lease.is_used {
            true => Again::keep(request),
            false => (request, None),
        };
        let Ok(sent) = timeout(wait, lease.send(shaped(sent, lease.is_http2()))).await else {
            lease.give_up();
            return Err(Error::ConnectionReadTimeout);
        };
        // A connection that had waited may be gone; each that fails is one less.
        match (sent, again) {
            (Ok(response), _) => break (lease, response),
            (Err(mut error), again) => {
                let unsent = error.take_message().filter(|_| lease.is_used);
                request = match (unsent, again.and_then(Again::request)) {
                    (_, Some(again)) => again,
                    (Some(unsent), None) => unshaped(unsent, target)?,
                    (None, None) => return Err(error.into_error().into()),
                };
            }
        }
    };
    // HTTP/2 bounds their bytes alone.
    if response.headers().len() > FIELDS_MAX {
        lease.give_up();
        return Err(Error::HttpResponseHeaderSectionSize(None));
    }
    let pause_max = options
        .between_bytes_timeout
        .unwrap_or(BETWEEN_BYTES_TIMEOUT);
    let response = response.map(|body| Answer::new(body, pause_max, lease, place).boxed_unsync());
    // The connection has a task of its own.
    Ok((response, Box::pin(std::future::ready(Ok(())))))
}

/// As a version of HTTP wants it: HTTP/1.1 the path alone (scheme and authority are for proxies),
/// HTTP/2 the whole, which says the host by itself.
fn shaped(mut request: http::Request<WasiBody>, is_http2: bool) -> http::Request<WasiBody> {
    if is_http2 {
        request.headers_mut().remove(header::HOST);
        *request.version_mut() = http::Version::HTTP_2;
    } else {
        *request.uri_mut() = Uri::from(path(request.uri()));
    }
    request
}

/// What a request asks for; an empty path, which is written as none, is `/`.
fn path(uri: &Uri) -> PathAndQuery {
    let path = uri.path_and_query().filter(|path| path.as_str() != "/");
    path.cloned().unwrap_or(PathAndQuery::from_static("/"))
}

/// What `shaped` was given.
fn unshaped(
    mut request: http::Request<WasiBody>,
    target: &Target,
) -> Result<http::Request<WasiBody>, Error> {
    let authority = target.authority();
    if !request.headers().contains_key(header::HOST) {
        let host = authority
            .parse()
            .map_err(|_| Error::HttpRequestUriInvalid)?;
        request.headers_mut().insert(header::HOST, host);
    }
    let uri = Uri::builder()
        .scheme(target.scheme())
        .authority(authority)
        .path_and_query(path(request.uri()));
    *request.uri_mut() = uri.build().map_err(|_| Error::HttpRequestUriInvalid)?;
    *request.version_mut() = http::Version::HTTP_11;
    Ok(request)
}

/// A new connection.
async fn connect(
    policy: &Policy,
    slot: u32,
    target: &Target,
    options: &RequestOptions,
) -> Result<Lease, Error> {
    let reserved = policy.pool.reserve(target)?;
    let connecting = async {
        let stream = dial(policy, slot, target).await?;
        if !target.tls {
            return speak_http1(stream, reserved).await;
        }
        let stream = encrypt(policy, target, stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            speak_http2(stream, reserved).await
        } else {
            speak_http1(stream, reserved).await
        }
    };
    let wait = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let connection = timeout(wait, connecting).await;
    let connection = connection.map_err(|_| Error::ConnectionTimeout)??;
    Ok(policy.pool.first(target, connection))
}

async fn speak_http1(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    reserved: Reserved,
) -> Result<Connection, Error> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(FIELDS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    Ok(Connection::one(sender, Link::new(reserved, connection)))
}

async fn speak_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    reserved: Reserved,
) -> Result<Connection, Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .handshake(TokioIo::new(stream))
        .await?;
    let streams_max = Arc::new(AtomicUsize::new(STREAMS_MAX));
    let told = Arc::clone(&streams_max);
    let mut connection = Box::pin(connection);
    let connection = poll_fn(move |context| {
        let polled = connection.as_mut().poll(context);
        told.store(connection.current_max_send_streams(), Relaxed);
        polled
    });
    let link = Link::new(reserved, connection);
    Ok(Connection::many(sender, streams_max, link))
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
        // In the words of wasmtime's own client.
        Unresolved::Unknown => Error::DnsError {
            rcode: Some("address not available".to_owned()),
            info_code: None,
        },
    })
}

async fn encrypt(
    policy: &Policy,
    target: &Target,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let config = policy.tls.get_or_init(|| policy.network.tls());
    let config = config.as_ref().ok_or(Error::ConfigurationError)?;
    // The certificate must be for the name that the rules allowed, not for its address.
    let name =
        ServerName::try_from(target.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(name, stream).await.map_err(Error::Tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that sets the path `""` gets a target that is empty, and not none.
    #[test]
    fn an_empty_path_is_the_root() {
        for (given, expected) in [("", "/"), ("/", "/"), ("?a=1", "/?a=1"), ("/b?c", "/b?c")] {
            // As wasmtime-wasi-http reads what a guest sets.
            let given = Uri::builder().path_and_query(given).build();
            let given = given.unwrap().path_and_query().cloned().unwrap();
            let uri = Uri::builder().scheme("http").authority("a");
            let uri = uri.path_and_query(given).build().unwrap();
            assert_eq!(Uri::from(path(&uri)).to_string(), expected);
        }
        let none = Uri::builder().authority("a").build().unwrap();
        assert_eq!(path(&none), "/");
    }
}
