//! A server as a backend: requests go to it over HTTP/1.1, on connections that are kept, within limits.
//! It listens on this machine, or is another node at the end of a stream (`far`).
//!
//! What is stale is tried once more where that is safe; what the client gives up ends at the server
//! as well. Not here: who the server is, and whether it is healthy. `Upgrade` is passed on for
//! WebSockets alone (`switch`): with another one a request is an ordinary one (RFC 9110 §7.8).

mod body;
mod caps;
mod pool;
mod reach;
mod room;
mod switch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Body, BoxFuture, CallError, Connected, Server};
use crate::request_body;
use crate::websocket::Handshake;
use body::ReplyBody;
pub(crate) use body::{RequestBody, within};
use pool::{Lease, Local, Pool, TAKEN, Taken};

pub use caps::UpstreamCaps;
use pool::CONNECT_TIMEOUT;
pub(crate) use pool::{BUFFER_BYTES_MAX, Impatient, Keep};
pub use pool::{Dial, Io};
pub use reach::Reach;
pub(crate) use room::{Place, Room};

/// A server that accepts connections one by one may be busy with one that is kept and silent. Longer
/// than a quick answer takes, shorter than a person notices.
const PATIENCE: Duration = Duration::from_millis(50);
/// Bytes of the answer to a probe that are read, so that its connection can be kept.
const PROBE_BYTES_MAX: usize = 64 * 1024;
/// Servers close silent connections after five seconds and up.
const KEEP: Keep = Keep {
    idle_max: 32,
    age_max: Duration::from_secs(4),
    life_max: Duration::MAX,
    may_be_single: true,
};

/// What a server's requests are held to.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamLimits {
    /// Requests at once; as many may wait for a moment.
    pub concurrency_max: u32,
    /// All the time of one request.
    pub wall_timeout: Duration,
    /// Bytes of one request body.
    pub request_bytes_max: u64,
    /// Bytes of the body of one answer; `None`: as long as it likes.
    pub response_bytes_max: Option<u64>,
    /// How long a WebSocket may be silent in both directions.
    pub websocket_idle: Duration,
    /// Whether others may have connections to it that are no requests.
    pub takes_connections: bool,
}

/// A server by its address. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    /// Of a server on this machine.
    address: Option<SocketAddr>,
    limits: UpstreamLimits,
    pool: Arc<Pool>,
    room: Room,
    /// Told once it takes no more.
    leaves: CancellationToken,
}

/// Why a server gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// As many requests as may be are under way.
    NoRoom,
    /// No connection was made, or the request did not leave.
    NotReached,
    /// The connection broke after the request, or a part of it, had left.
    Broken,
    /// What came back is not HTTP.
    NotHttp,
    /// It switches to another protocol than the one that was asked for.
    NotAsked,
    /// The request's own body failed.
    Upload,
    /// It has more bytes than the server takes.
    TooLarge,
    /// No answer came in time.
    TooLate,
}

/// Whether a request has left for a server, for those who want to know: an extension of its head.
#[derive(Debug, Clone, Default)]
pub(crate) struct Left(Arc<AtomicBool>);

impl Left {
    /// Something of it may have come there.
    pub(crate) fn has_left(&self) -> bool {
        self.0.load(Relaxed)
    }

    fn tell(request: &Request<RequestBody>) {
        if let Some(left) = request.extensions().get::<Self>() {
            left.0.store(true, Relaxed);
        }
    }
}

impl Upstream {
    /// A server at `address`; no connection is made yet.
    pub fn new(address: SocketAddr, limits: UpstreamLimits) -> Self {
        Self::make(
            Some(address),
            Box::new(Local(address)),
            (KEEP, TAKEN),
            limits,
        )
    }

    /// A service beside this process.
    pub fn at(reach: Reach, caps: UpstreamCaps, limits: UpstreamLimits) -> Self {
        let keep = Keep {
            idle_max: caps.kept_max as usize,
            age_max: caps.kept_age_max,
            ..KEEP
        };
        let taken = Taken {
            connect_timeout: caps.connect_timeout,
            head_bytes_max: caps.head_bytes_max,
            head_fields_max: caps.head_fields_max,
        };
        Self::make(None, Box::new(reach), (keep, taken), limits)
    }

    /// Whatever answers on such connections.
    pub(crate) fn over(dial: Box<dyn Dial>, keep: Keep, limits: UpstreamLimits) -> Self {
        Self::make(None, dial, (keep, TAKEN), limits)
    }

    fn make(
        address: Option<SocketAddr>,
        dial: Box<dyn Dial>,
        (keep, taken): (Keep, Taken),
        limits: UpstreamLimits,
    ) -> Self {
        Self(Arc::new(Inner {
            address,
            pool: Pool::new(dial, keep, taken),
            room: Room::new(limits.concurrency_max),
            limits,
            leaves: CancellationToken::new(),
        }))
    }

    /// Whether it takes connections. The one that this opens serves the first request: a server that
    /// takes one after the other is not kept busy by a question.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn reach(&self) -> std::io::Result<()> {
        let lease = self.0.pool.open().await?;
        lease.give_back();
        Ok(())
    }

    /// The same, and the connection ends: others connect with the server as well.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn touch(&self) -> std::io::Result<()> {
        self.0.pool.open().await.map(drop)
    }

    /// The status with which it answers GET `path`. Takes no place of a request; the caller bounds
    /// the time.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn probe(&self, path: &str) -> Result<StatusCode, CallError> {
        let request = Request::builder()
            .uri(path)
            .header(HOST, "localhost")
            .header(http::header::USER_AGENT, "realm-probe")
            .body(())
            .map_err(|_| refused("bad-request", "the path of the probe is none"))?;
        let body = RequestBody::new(request_body::empty(), 0);
        let (response, lease) = self
            .exchange(request, body)
            .await
            .map_err(CallError::from)?;
        let (parts, mut body) = response.into_parts();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| CallError::from(Failure::Broken))?;
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
            if read > PROBE_BYTES_MAX {
                return Ok(parts.status);
            }
        }
        lease.give_back();
        Ok(parts.status)
    }

    /// No request comes any more: what has no end of its own, a WebSocket, is ended within 20 s, each at
    /// a moment of its own.
    pub fn leave(&self) {
        self.0.leaves.cancel();
    }

    /// Requests that are not answered to their end.
    pub(crate) fn in_flight(&self) -> u32 {
        self.0.room.in_flight()
    }

    async fn admit(&self) -> Option<Place> {
        self.0.room.admit().await
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let limits = self.0.limits;
        if announced(&request) > limits.request_bytes_max {
            return Err(request_too_large());
        }
        let (mut parts, body) = request.into_parts();
        let deadline = Instant::now() + limits.wall_timeout;
        if let Some(handshake) = parts.extensions.remove::<Handshake>() {
            let switched = self.switch(head(parts)?, &handshake, deadline).await;
            return switched.map_err(CallError::from);
        }
        let is_head = parts.method == Method::HEAD;
        let sent = self.send(head(parts)?, body, Some(deadline)).await?;
        within(sent, is_head, limits.response_bytes_max)
    }

    /// Sends a request whose head is as the server expects it. Its head is waited for as long as the
    /// limits say, the body of its answer until `deadline`.
    pub(crate) async fn send(
        &self,
        head: Request<()>,
        body: Body,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Failure> {
        let limits = self.0.limits;
        let answer_by = Instant::now() + limits.wall_timeout;
        let place = self.admit().await.ok_or(Failure::NoRoom)?;
        let head = framed(head, &body);
        let body = RequestBody::new(body, limits.request_bytes_max);
        let fault = body.fault();
        let answered = timeout_at(answer_by, self.exchange(head, body)).await;
        let (response, lease) = match answered {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) if fault.is_too_large() => return Err(Failure::TooLarge),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Err(Failure::TooLate),
        };
        let (parts, body) = response.into_parts();
        let body = ReplyBody::new(body, lease, deadline, place);
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// Lets go of connections that nobody used for long.
    pub(crate) fn sweep(&self) {
        self.0.pool.sweep();
    }

    /// Lets go of all connections that nobody uses.
    pub(crate) fn forget(&self) {
        self.0.pool.forget();
    }

    /// One request on a kept connection or a new one. A kept one may be stale: then the request is
    /// sent again if it never left, or if repeating it changes nothing (RFC 9112 §9.3.1).
    async fn exchange(
        &self,
        head: Request<()>,
        body: RequestBody,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let spare = (head.method().is_idempotent() && body.is_end_stream()).then(|| head.clone());
        let mut request = head.map(|()| body);
        let mut sent_before = false;
        if let Some(mut lease) = self.0.pool.take() {
            Left::tell(&request);
            match lease.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(mut error) => match (error.take_message(), spare) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(head)) => {
                        sent_before = true;
                        request = head.map(|()| RequestBody::new(request_body::empty(), 0));
                    }
                    (None, None) => return Err(failed(error.error())),
                },
            }
        }
        // What was sent may have been the end of the server: no replica is to get it as well.
        let unsent = match sent_before {
            true => Failure::Broken,
            false => Failure::NotReached,
        };
        let mut lease = self.0.pool.open().await.map_err(|_| unsent)?;
        Left::tell(&request);
        let answered = lease.sender.try_send_request(request);
        let response = self.0.pool.patiently(PATIENCE, answered).await;
        let response = response.map_err(|mut error| match error.take_message() {
            Some(_) => unsent,
            None => failed(error.error()),
        })?;
        Ok((response, lease))
    }
}

impl Backend for Upstream {
    fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        let upstream = self.clone();
        Box::pin(async move { upstream.answer(request).await })
    }

    fn load(&self) -> u32 {
        self.in_flight()
    }

    fn connect(&self) -> Option<BoxFuture<'static, Result<Connected, CallError>>> {
        let address = self.0.address.filter(|_| self.0.limits.takes_connections);
        let (upstream, address) = (self.clone(), address?);
        Some(Box::pin(async move {
            let place = upstream.admit().await.ok_or(Failure::NoRoom)?;
            // A server that takes one connection after the other is not kept busy by one that is kept.
            upstream.forget();
            let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            let socket = connecting.map_err(|_| Failure::NotReached)?;
            let socket = socket.map_err(|_| Failure::NotReached)?;
            Ok(Connected(Server::Here(socket, place)))
        }))
    }
}

/// The head as a server of HTTP/1.1 expects it: a path, and one `Cookie`.
fn head(parts: http::request::Parts) -> Result<Request<()>, CallError> {
    let path = parts.uri.path_and_query().cloned();
    let mut request = Request::new(());
    *request.method_mut() = parts.method;
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = parts.headers;
    let headers = request.headers_mut();
    if !headers.contains_key(HOST) {
        let authority = parts
            .uri
            .authority()
            .map_or("localhost", |host| host.as_str());
        let host = HeaderValue::from_str(authority)
            .map_err(|_| refused("bad-request", "the request has no usable host"))?;
        headers.insert(HOST, host);
    }
    join_cookies(headers);
    Ok(request)
}

/// HTTP/2 may send cookies one by one; HTTP/1.1 has one line for them (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

pub(crate) fn announced(request: &Request<Body>) -> u64 {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.unwrap_or(0).max(request.body().size_hint().lower())
}

/// hyper sends no body with GET and the like unless the head says that there is one.
fn framed(mut head: Request<()>, body: &Body) -> Request<()> {
    let headers = head.headers_mut();
    if body.is_end_stream() || headers.contains_key(CONTENT_LENGTH) {
        return head;
    }
    match body.size_hint().exact() {
        Some(bytes) => headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes)),
        None => headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
    };
    head
}

fn failed(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::NotHttp
    } else if error.is_user() {
        Failure::Upload
    } else {
        Failure::Broken
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        let broken = |message| CallError::new(StatusCode::BAD_GATEWAY, "no-response", message);
        match failure {
            Failure::NoRoom => overloaded(),
            Failure::NotReached => not_listening(),
            Failure::Broken => broken("the component closed the connection without an answer"),
            Failure::NotHttp => CallError::new(
                StatusCode::BAD_GATEWAY,
                "bad-response",
                "the component's answer is not HTTP",
            ),
            Failure::NotAsked => CallError::new(
                StatusCode::BAD_GATEWAY,
                "bad-response",
                "the component switches to another protocol than WebSocket",
            ),
            // The client's own fault is told in its place.
            Failure::Upload => broken("the request's body broke off"),
            Failure::TooLarge => request_too_large(),
            Failure::TooLate => wall_timeout(),
        }
    }
}

fn refused(code: &'static str, message: &'static str) -> CallError {
    CallError::new(StatusCode::BAD_REQUEST, code, message)
}

pub(crate) fn request_too_large() -> CallError {
    CallError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "request-too-large",
        "the request body is larger than the component takes",
    )
}

pub(crate) fn response_too_large() -> CallError {
    CallError::new(
        StatusCode::BAD_GATEWAY,
        "response-too-large",
        "the component's answer is larger than it may be",
    )
}

pub(crate) fn wall_timeout() -> CallError {
    CallError::new(
        StatusCode::GATEWAY_TIMEOUT,
        "wall-timeout",
        "the component took longer than it may",
    )
}

pub(crate) fn overloaded() -> CallError {
    CallError {
        retry_after_s: Some(1),
        retryable: true,
        ..CallError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "the component has no room for this request, try again",
        )
    }
}

pub(crate) fn not_listening() -> CallError {
    CallError {
        retry_after_s: Some(1),
        retryable: true,
        ..CallError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-listening",
            "the component takes no connections",
        )
    }
}
