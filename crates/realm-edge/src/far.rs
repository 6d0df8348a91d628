//! A component on another node as a backend: the request goes there over an encrypted stream that is
//! kept for the next one, and a node that does not answer is left alone for a while.
//!
//! The other end is `tunnel`. Not who has what, nor how far it is: that is told with the table. Over
//! HTTP/1.1, so that trailers are not passed on unless the head of a message names them.

mod places;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use realm_model::name::{ComponentName, NodeName};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backend::{
    Backend, Body, BoxError, BoxFuture, CallError, Connected, Elsewhere, RoutePrefix, Server,
};
use crate::config::ANSWER_FIELDS_MAX;
use crate::headers::{REALM_AGAIN, REALM_ERROR, REALM_PREFIX, REALM_REFUSED, REALM_TO};
use crate::pulse::{Listening, Pulse, now_ms};
use crate::refusal::NO_TURN;
use crate::relay;
use crate::request_body::{self, KEPT_BYTES_MAX};
use crate::upstream::{BUFFER_BYTES_MAX, Dial, Failure, Io, Keep, Left, Upstream, UpstreamLimits};
use crate::websocket::{self, Handshake, Switched, Terms};
pub(crate) use places::Place;
use places::Places;

/// Requests under way to one node: each takes a stream of the connection, which has 384 for both ways
/// and all that nodes say to each other.
const CONCURRENCY_MAX: u32 = 96;
/// Connections with ports of servers on one node, beside its requests.
const CONNECTIONS_MAX: usize = 32;
/// WebSockets to one node, and handshakes on their way: whatever clients do with them, ports have places of
/// their own. Together with requests, from both sides, they leave streams for what nodes say to each other.
const WEBSOCKETS_MAX: usize = 48;
/// Bytes between a client's WebSocket and the frames of its stream.
const PIPE_BYTES: usize = 16 * 1024;
/// Until the other node has connected with the server there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the head of an answer. What a component itself allows is kept where it runs; this ends what
/// got lost on the way.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// A stream that nobody uses costs its tables alone; a new one costs the time of a good tenth of a
/// millisecond.
const KEEP: Keep = Keep {
    idle_max: 32,
    age_max: Duration::from_secs(30),
    life_max: Duration::from_secs(120),
    may_be_single: false,
};
/// An answer of so many bytes, or fewer, is waited for to its end before any of it is passed on.
const SHORT_BYTES_MAX: u64 = 64 * 1024;
/// Failures in a row until a node is left alone.
const FAILURES_MAX: u32 = 3;
/// For how long; doubled with each failure after that.
const PAUSE: Duration = Duration::from_secs(2);
/// And no longer: a node that is back is to be found.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The way to one node, shared by all components there.
pub struct Line {
    node: NodeName,
    upstream: Upstream,
    pulse: Arc<Pulse>,
    connections: Arc<Places>,
    websockets: Arc<Places>,
    /// Failures in a row.
    failures: AtomicU32,
    /// Until then it is asked only if nobody else is left.
    avoided_until_ms: AtomicU64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// What became of the requests that were sent to a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineFigures {
    /// A guest answered.
    pub answered: u64,
    /// The node said why it has no answer.
    pub refused: u64,
    /// The node was not reached, or broke off.
    pub failed: u64,
    /// Whether it is left alone.
    pub is_avoided: bool,
}

impl Line {
    /// The way to `node`, on streams that `dial` opens.
    pub fn new(node: NodeName, dial: Box<dyn Dial>) -> Arc<Self> {
        let limits = UpstreamLimits {
            concurrency_max: CONCURRENCY_MAX,
            wall_timeout: HEAD_TIMEOUT,
            // The edge counts what the client sends, and the component's own limit holds there.
            request_bytes_max: u64::MAX,
            // Those hold there as well.
            response_bytes_max: None,
            websocket_idle: Duration::MAX,
            takes_connections: false,
        };
        let pulse = Pulse::new(node.clone(), dial);
        Arc::new(Self {
            node,
            upstream: Upstream::over(Box::new(Listening(Arc::clone(&pulse))), KEEP, limits),
            pulse,
            connections: Places::new(CONNECTIONS_MAX),
            websockets: Places::new(WEBSOCKETS_MAX),
            failures: AtomicU32::new(0),
            avoided_until_ms: AtomicU64::new(0),
            counts: Counts::default(),
        })
    }

    /// The node's name.
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// For the metrics.
    pub fn figures(&self) -> LineFigures {
        LineFigures {
            answered: self.counts.answered.load(Relaxed),
            refused: self.counts.refused.load(Relaxed),
            failed: self.counts.failed.load(Relaxed),
            is_avoided: self.is_avoided(),
        }
    }

    /// Lets go of streams that nobody used for long: a connection with streams is not closed.
    pub fn sweep(&self) {
        self.upstream.sweep();
    }

    /// Something says that the node is back: if it was silent, it is asked with the next request.
    pub fn may_be_back(&self) {
        self.pulse.may_be_back();
    }

    fn is_avoided(&self) -> bool {
        self.avoided_until_ms.load(Relaxed) > now_ms() || self.pulse.is_in_doubt()
    }

    fn succeeded(&self) {
        // Most of the time nothing is to be written.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.avoided_until_ms.store(0, Relaxed);
        }
    }

    fn failed(&self) {
        self.counts.failed.fetch_add(1, Relaxed);
        // What was under way when it broke is one failure and not many.
        if self.is_avoided() {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let Some(more) = failures.checked_sub(FAILURES_MAX) else {
            return;
        };
        let pause = PAUSE.saturating_mul(1 << more.min(16)).min(PAUSE_MAX);
        let until_ms = now_ms() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.avoided_until_ms.fetch_max(until_ms, Relaxed);
        tracing::warn!(node = %self.node, ?pause, "the node does not answer requests and is avoided");
    }
}

/// A component on another node.
#[derive(Clone)]
pub struct Far {
    line: Arc<Line>,
    component: ComponentName,
    /// How far it is: of two, the lower one is asked.
    ring: u8,
}

impl Far {
    /// `component` at the end of `line`; `ring` is a class of distance, the nearest is 0.
    pub const fn new(line: Arc<Line>, component: ComponentName, ring: u8) -> Self {
        Self {
            line,
            component,
            ring,
        }
    }

    /// Whose turn it is: who answers before who does not, the near before the far.
    pub(crate) fn rank(&self) -> (bool, u8) {
        self.line.pulse.look_again();
        (self.line.is_avoided(), self.ring)
    }

    async fn ask(self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let (mut parts, body) = request.into_parts();
        if let Some(handshake) = parts.extensions.remove::<Handshake>() {
            return self.switch(parts, &handshake).await;
        }
        let may_repeat = parts.method.is_idempotent();
        let comes_back = body.size_hint().upper();
        let comes_back = comes_back.is_some_and(|bytes| bytes <= KEPT_BYTES_MAX as u64);
        let left = parts.extensions.get::<Elsewhere>().map(|_| Left::default());
        let mut head = self.head(parts)?;
        if let Some(left) = &left {
            head.extensions_mut().insert(left.clone());
        }
        if self.line.pulse.took_stale() {
            self.line.upstream.forget();
        }
        // Given up only where another node is asked then, and may have it as well.
        let given_up = async {
            self.line.pulse.silence().await;
            let is_free = |left: &Left| !left.has_left() || may_repeat && comes_back;
            if !left.as_ref().is_some_and(is_free) {
                std::future::pending::<()>().await;
            }
        };
        let response = tokio::select! {
            biased;
            answered = self.answered(head, body, may_repeat) => answered?,
            () = given_up => {
                self.line.counts.failed.fetch_add(1, Relaxed);
                let perhaps_taken = left.as_ref().is_none_or(Left::has_left);
                return Err(CallError { perhaps_taken, ..unreached(true) });
            }
        };
        let Some(refusal) = refusal(response.status(), response.headers()) else {
            self.line.succeeded();
            self.line.counts.answered.fetch_add(1, Relaxed);
            return Ok(response);
        };
        // A node that says of itself that it has what it has not, or fails, is of no use.
        if ["not-here", "internal", "bad-response", UNKNOWN].contains(&refusal.code) {
            self.line.failed();
        } else {
            self.line.succeeded();
            self.line.counts.refused.fetch_add(1, Relaxed);
        }
        Err(refusal)
    }

    /// What comes back, of a short answer all of it.
    async fn answered(
        &self,
        head: Request<()>,
        body: Body,
        may_repeat: bool,
    ) -> Result<Response<Body>, CallError> {
        // How long the body may take is for the component's limits, and for the client.
        let sent = self.line.upstream.send(head, body, None).await;
        let response = sent.map_err(|failure| self.unanswered(failure, may_repeat))?;
        match may_repeat {
            true => self.whole(response).await,
            false => Ok(response),
        }
    }

    /// Waits for the body of a short answer, so that one of which only the head came is none: the request
    /// may go to another node.
    async fn whole(&self, response: Response<Body>) -> Result<Response<Body>, CallError> {
        let is_short = |bytes| (1..=SHORT_BYTES_MAX).contains(&bytes);
        if !response.body().size_hint().exact().is_some_and(is_short) {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        match body.collect().await {
            Ok(body) => {
                let body = body.map_err(|never| match never {}).boxed_unsync();
                Ok(Response::from_parts(parts, body))
            }
            Err(_) => Err(self.unanswered(Failure::Broken, true)),
        }
    }

    /// The head as the other end expects it: the whole URI, and what the request is for.
    fn head(&self, parts: http::request::Parts) -> Result<Request<()>, CallError> {
        let authority = parts.uri.authority().map(|authority| authority.as_str());
        let host = authority.and_then(|host| HeaderValue::from_str(host).ok());
        let to = HeaderValue::from_str(self.component.as_str()).ok();
        let (Some(host), Some(to)) = (host, to) else {
            return Err(CallError::new(
                StatusCode::BAD_REQUEST,
                "bad-request",
                "the request has no usable host",
            ));
        };
        let prefix = parts.extensions.get::<RoutePrefix>();
        let prefix = prefix.map_or(0, |RoutePrefix(bytes)| *bytes);
        let mut head = Request::new(());
        *head.method_mut() = parts.method;
        *head.uri_mut() = parts.uri;
        *head.version_mut() = Version::HTTP_11;
        *head.headers_mut() = parts.headers;
        let headers = head.headers_mut();
        if !headers.contains_key(HOST) {
            headers.insert(HOST, host);
        }
        headers.insert(REALM_TO, to);
        headers.insert(REALM_PREFIX, HeaderValue::from(prefix));
        Ok(head)
    }

    /// A connection to the server on the other node, in the frames of `relay`.
    async fn reach(self) -> Result<Connected, CallError> {
        let place = self.line.connections.take(&self.component);
        let place = place.ok_or(Failure::NoRoom)?;
        let opened = tokio::select! {
            biased;
            opened = timeout(CONNECT_TIMEOUT, self.open()) => opened.unwrap_or_else(|_| Err(unreached(true))),
            () = self.falls_silent() => Err(unreached(true)),
        };
        match opened {
            Ok(stream) => Ok(Connected(Server::There(stream, place))),
            Err(error) => {
                if error.code == UNREACHED {
                    self.line.failed();
                }
                Err(error)
            }
        }
    }

    /// Asks for a WebSocket, on a stream of its own. A node that does not know how answers as if the
    /// request were an ordinary one.
    async fn switch(
        self,
        parts: http::request::Parts,
        handshake: &Handshake,
    ) -> Result<Response<Body>, CallError> {
        let place = self.line.websockets.take(&self.component);
        let place = place.ok_or(Failure::NoRoom)?;
        let mut head = self.head(parts)?;
        handshake.write(head.headers_mut());
        let head = head.map(|()| request_body::empty());
        let asked = tokio::select! {
            biased;
            asked = timeout(HEAD_TIMEOUT, self.alone(head)) => {
                asked.unwrap_or_else(|_| Err(Failure::TooLate.into()))
            }
            () = self.falls_silent() => Err(unreached(true)),
        };
        let mut response = match asked {
            Ok(response) => response,
            Err(error) => {
                if error.code == UNREACHED {
                    self.line.failed();
                }
                return Err(error);
            }
        };
        if let Some(refusal) = refusal(response.status(), response.headers()) {
            self.line.counts.refused.fetch_add(1, Relaxed);
            return Err(refusal);
        }
        self.line.succeeded();
        self.line.counts.answered.fetch_add(1, Relaxed);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let held = |error: hyper::Error| -> BoxError { error.into() };
            // As long as the body comes, it takes its place.
            let counted = move |frame| {
                let _held = &place;
                frame
            };
            return Ok(response.map(|body| body.map_err(held).map_frame(counted).boxed_unsync()));
        }
        if !handshake.is_answered_by(response.headers()) {
            return Err(Failure::NotAsked.into());
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        let upgraded = upgraded.map_err(|_| unreached(false))?;
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let node = self.line.node.clone();
        tokio::spawn(async move {
            if let Err(error) = relay::framed(far, TokioIo::new(upgraded)).await {
                tracing::debug!(%node, %error, "a websocket to another node broke");
            }
        });
        let terms = Terms {
            leaves: CancellationToken::new(),
            idle_max: None,
            place: Box::new(place),
        };
        let io: Box<dyn Io> = Box::new(near);
        let head = response.into_parts().0;
        Ok(Switched::new(websocket::Server { io, terms }).answer(head))
    }

    /// Waits until the node gives no sign of life. Who is chosen although it is silent is the only one: it
    /// is given all the time there is.
    async fn falls_silent(&self) {
        if self.line.pulse.is_silent() {
            std::future::pending::<()>().await;
        }
        self.line.pulse.silence().await;
    }

    /// Sends a request on a stream that is for nothing else.
    async fn alone(&self, request: Request<Body>) -> Result<Response<Incoming>, CallError> {
        let broken = |_| unreached(true);
        let dial = Listening(Arc::clone(&self.line.pulse));
        let stream = dial.dial().await.map_err(|_| unreached(true))?;
        let (mut sender, connection) = Builder::new()
            .max_headers(ANSWER_FIELDS_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        sender.send_request(request).await.map_err(broken)
    }

    /// Asks for bytes in place of requests. A node that does not know how says that the request is bad.
    async fn open(&self) -> Result<Box<dyn Io>, CallError> {
        let broken = |_| unreached(true);
        let request = Request::connect(format!("{}:1", self.component))
            .header(REALM_TO, self.component.as_str())
            .body(request_body::empty())
            .map_err(|_| CallError::from(Failure::NotReached))?;
        let response = self.alone(request).await?;
        if let Some(mut refusal) = refusal(response.status(), response.headers()) {
            // No byte of the client has left.
            refusal.retryable = true;
            return Err(refusal);
        }
        if response.status() != StatusCode::OK {
            return Err(unreached(true));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    fn unanswered(&self, failure: Failure, may_repeat: bool) -> CallError {
        match failure {
            // Nothing that the node did.
            Failure::NoRoom | Failure::Upload | Failure::TooLarge => failure.into(),
            Failure::NotHttp | Failure::NotAsked | Failure::TooLate => {
                self.line.failed();
                failure.into()
            }
            Failure::NotReached | Failure::Broken => {
                self.line.failed();
                let perhaps_taken = failure != Failure::NotReached;
                CallError {
                    perhaps_taken,
                    ..unreached(!perhaps_taken || may_repeat)
                }
            }
        }
    }
}

fn unreached(retryable: bool) -> CallError {
    CallError {
        retryable,
        retry_after_s: Some(1),
        ..CallError::new(
            StatusCode::BAD_GATEWAY,
            UNREACHED,
            "the node that was asked for an answer is not reached, or broke off",
        )
    }
}

const UNREACHED: &str = "node-unreached";

/// What the other end says in a guest's place.
fn refusal(status: StatusCode, headers: &HeaderMap) -> Option<CallError> {
    let message = headers.get(REALM_REFUSED)?;
    let status = match status.is_client_error() || status.is_server_error() {
        true => status,
        false => StatusCode::BAD_GATEWAY,
    };
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let code = headers.get(REALM_ERROR).and_then(text).unwrap_or_default();
    let retry_after_s = headers.get(RETRY_AFTER).and_then(text);
    Some(CallError {
        retryable: headers.contains_key(REALM_AGAIN),
        retry_after_s: retry_after_s.and_then(|seconds| seconds.parse().ok()),
        ..CallError::new(status, known_code(&code), text(message).unwrap_or_default())
    })
}

/// Codes that a node may give for another: each is a label of metrics, so that no node can make up
/// more.
const CODES: [&str; 20] = [
    "bad-request",
    "bad-response",
    "cancelled",
    "epoch-timeout",
    "exit",
    "guest-error",
    "memory-limit",
    "no-response",
    "not-here",
    "not-listening",
    NO_TURN,
    "overloaded",
    "request-timeout",
    "request-too-large",
    "response-too-large",
    "start-failed",
    "stopped",
    "trap",
    "wall-timeout",
    "internal",
];

fn known_code(code: &str) -> &'static str {
    let known = CODES.iter().find(|known| **known == code);
    known.copied().unwrap_or(UNKNOWN)
}

/// A code that this version does not know.
const UNKNOWN: &str = "failed-elsewhere";

impl Backend for Far {
    fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        Box::pin(self.clone().ask(request))
    }

    fn load(&self) -> u32 {
        self.line.upstream.in_flight()
    }

    fn connect(&self) -> Option<BoxFuture<'static, Result<Connected, CallError>>> {
        Some(Box::pin(self.clone().reach()))
    }

    fn node(&self) -> Option<&NodeName> {
        Some(&self.line.node)
    }
}
