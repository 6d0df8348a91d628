//! Requests that other nodes bring for components here: the other end of `far`.
//!
//! What such a request is for was decided by the node where it came in; here it is answered by a
//! replica of this node or not at all, so it can go no further and in no circle. That the other node is
//! a member is known before.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use realm_model::name::ComponentName;
use tokio_util::sync::CancellationToken;

use crate::answer::{Edge, fit};
use crate::aside::{self, Answers};
use crate::backend::{Backend, Body, CallError, Connected, RoutePrefix, Server};
use crate::config::{HEADER_COUNT_MAX, HEADERS_MORE};
use crate::headers::{
    REALM_AGAIN, REALM_EDITION, REALM_ERROR, REALM_PREFIX, REALM_REFUSED, REALM_TO,
    is_framing_clear, strip_request, strip_request_trailers,
};
use crate::observe::MethodClass;
use crate::refusal::Refusal;
use crate::relay;
use crate::request_body;
use crate::upstream::Io;
use crate::websocket::{self, Gone, Handshake, Switched};

/// Bytes of a message that are passed on.
const MESSAGE_BYTES_MAX: usize = 512;
/// Bytes of a head: those that the edge of the other node took, and what it wrote into them.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Bytes between a WebSocket and the frames of its stream.
const PIPE_BYTES: usize = 16 * 1024;

/// Answers the requests that come on one stream until it ends, or, once `stop` is told, until the one
/// that is under way is answered.
pub(crate) async fn serve(
    edge: Arc<Edge>,
    answers: Answers,
    io: Box<dyn Io>,
    stop: CancellationToken,
) {
    let under_way = Arc::new(AtomicU32::new(0));
    let connected = Arc::<Mutex<Option<Waiting>>>::default();
    let stops = stop.clone();
    let service = service_fn(|request| {
        let under_way = UnderWay::begin(&under_way);
        let answer = answer(
            Arc::clone(&edge),
            answers.clone(),
            Arc::clone(&connected),
            request,
        );
        async move {
            let answer = answer.await;
            let held = |body| Passed::of(body, Some(under_way)).boxed_unsync();
            answer.map(|response| response.map(held))
        }
    });
    let mut http = http1::Builder::new();
    http.max_headers(HEADER_COUNT_MAX + HEADERS_MORE)
        .max_buf_size(BUFFER_BYTES_MAX)
        .header_read_timeout(None);
    let mut serving = std::pin::pin!(
        http.serve_connection(TokioIo::new(io), service)
            .with_upgrades()
    );
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            // Half a head is no request: whoever sends it asks another node.
            if under_way.load(Relaxed) == 0 {
                return;
            }
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        ended = serving.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a stream of another node's requests ended");
    }
    // From there on the stream carries a client's bytes.
    let waiting = connected
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some((upgrade, waits)) = waiting
        && let Ok(upgraded) = upgrade.await
    {
        answers
            .elsewhere(carry(waits, TokioIo::new(upgraded), stops))
            .await;
    }
}

/// Who waits for bytes, and how the stream becomes one of bytes.
type Waiting = (OnUpgrade, Waits);

enum Waits {
    /// A server that a client is connected with.
    Server(Server),
    /// A server that a client speaks WebSocket with.
    Switched(Switched),
}

/// Carries bytes between a server here and another node's client.
async fn carry(waits: Waits, stream: impl Io, stops: CancellationToken) {
    let carried = match waits {
        Waits::Server(Server::Here(socket, _place)) => relay::across(socket, stream).await,
        // It would go in a circle.
        Waits::Server(Server::There(..)) => return,
        Waits::Switched(switched) => {
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let stops = async {
                stops.cancelled().await;
                Gone::Stops
            };
            let carrying = websocket::carry(near, switched, stops, None);
            tokio::join!(carrying, relay::framed(far, stream)).1
        }
    };
    if let Err(error) = carried {
        tracing::debug!(%error, "a connection of another node's client broke");
    }
}

/// A request until the end of its answer.
struct UnderWay(Arc<AtomicU32>);

impl UnderWay {
    fn begin(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

async fn answer(
    edge: Arc<Edge>,
    answers: Answers,
    connected: Arc<Mutex<Option<Waiting>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let method = MethodClass::from(request.method());
    // Before a replica is chosen: a newer one may answer as if it were older, and not the other way round.
    let edition = edition(&edge, request.headers());
    let answer = AssertUnwindSafe(async {
        match *request.method() {
            Method::CONNECT => connect(&edge, &answers, &connected, request).await,
            _ => dispatch(&edge, &answers, &connected, request).await,
        }
    });
    let answer = answer.catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a request of another node panicked");
        Err(CallError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the other node failed",
        ))
    });
    let answer = answer.and_then(|response| match response.extensions().get::<Switches>() {
        Some(Switches) => Ok((response.map(Some), None)),
        None => fit(method, response).map_err(bad_response),
    });
    Ok(match answer {
        Ok((mut response, _)) => {
            response
                .headers_mut()
                .extend(edition.map(|edition| (REALM_EDITION, edition)));
            response.map(|body| body.unwrap_or_else(request_body::empty))
        }
        Err(error) => refuse(&error),
    })
}

/// What answers for a component whose answers the other node may keep.
fn edition(edge: &Edge, headers: &HeaderMap) -> Option<HeaderValue> {
    let component: ComponentName = headers.get(REALM_TO)?.to_str().ok()?.parse().ok()?;
    let table = edge.table.load();
    let gate = table.group(&component)?.gate.as_ref()?;
    let edition = gate.caching()?.edition()?;
    HeaderValue::try_from(edition.0.hex()).ok()
}

/// A client of the other node wants bytes to go to and fro, not requests.
async fn connect(
    edge: &Edge,
    answers: &Answers,
    connected: &Mutex<Option<Waiting>>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, CallError> {
    let component = request.headers().get(REALM_TO);
    let component = component.and_then(|name| name.to_str().ok()?.parse().ok());
    let replica = here(edge, &component.ok_or_else(malformed)?).ok_or_else(not_here)?;
    let connecting = replica.connect().ok_or_else(malformed)?;
    let connecting = answers.elsewhere(connecting).await;
    let Connected(server) = connecting.unwrap_or_else(|| Err(aside::stopped()))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let mut connected = connected.lock().unwrap_or_else(PoisonError::into_inner);
    *connected = Some((upgrade, Waits::Server(server)));
    Ok(Response::new(request_body::empty()))
}

/// Of an answer: a WebSocket follows it.
#[derive(Clone, Copy)]
struct Switches;

async fn dispatch(
    edge: &Edge,
    answers: &Answers,
    connected: &Mutex<Option<Waiting>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, CallError> {
    let (mut parts, body) = request.into_parts();
    let word = |headers: &mut HeaderMap, name: HeaderName| {
        let value = headers.remove(name)?;
        Some(value.to_str().ok()?.to_owned())
    };
    let component = word(&mut parts.headers, REALM_TO).and_then(|name| name.parse().ok());
    let prefix = word(&mut parts.headers, REALM_PREFIX).and_then(|bytes| bytes.parse().ok());
    let path_bytes = parts.uri.path().len();
    let (Some(component), Some(prefix)) = (component, prefix) else {
        return Err(malformed());
    };
    // The other node's edge saw to all of this, if it is an honest one.
    let is_sound = prefix <= path_bytes
        && parts.uri.authority().is_some()
        && parts.method != Method::CONNECT
        && is_framing_clear(parts.version, &parts.headers);
    if !is_sound {
        return Err(malformed());
    }
    let handshake = Handshake::of(&parts, !body.is_end_stream());
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    strip_request(&mut parts.headers);
    let replica = here(edge, &component).ok_or_else(not_here)?;
    if body.size_hint().lower() > edge.limits.request_bytes_max {
        return Err(too_large());
    }
    let bytes_max = usize::try_from(edge.limits.request_bytes_max).unwrap_or(usize::MAX);
    let body = match body.is_end_stream() {
        true => request_body::empty(),
        false => Limited::new(Passed::of(body, None), bytes_max).boxed_unsync(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers;
    if prefix > 0 {
        request.extensions_mut().insert(RoutePrefix(prefix));
    }
    if let (Some(handshake), Some(_)) = (handshake, &upgrade) {
        request.extensions_mut().insert(handshake);
    }
    let mut response = answers.call(&component, &*replica, request).await?;
    if let (Some(upgrade), Some(switched)) = (upgrade, Switched::of(&mut response)) {
        websocket::switching(response.headers_mut());
        response.extensions_mut().insert(Switches);
        let mut connected = connected.lock().unwrap_or_else(PoisonError::into_inner);
        *connected = Some((upgrade, Waits::Switched(switched)));
    }
    Ok(response)
}

/// A body on its way through, with the length that it has.
struct Passed<B> {
    body: B,
    /// Of an answer; of a request there is none, and its trailers are looked at.
    under_way: Option<UnderWay>,
}

impl<B> Passed<B> {
    const fn of(body: B, under_way: Option<UnderWay>) -> Self {
        Self { body, under_way }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Passed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        if self.under_way.is_none()
            && let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            strip_request_trailers(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn here(edge: &Edge, component: &ComponentName) -> Option<Arc<dyn Backend>> {
    edge.table.load().here(component).map(Arc::clone)
}

fn refuse(error: &CallError) -> Response<Body> {
    let mut response = Response::new(request_body::empty());
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    headers.insert(REALM_ERROR, HeaderValue::from_static(error.code));
    let shown = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let message: String = error
        .message
        .chars()
        .filter(shown)
        .take(MESSAGE_BYTES_MAX)
        .collect();
    let message = HeaderValue::from_str(&message);
    headers.insert(
        REALM_REFUSED,
        message.unwrap_or(HeaderValue::from_static("")),
    );
    if error.retryable {
        headers.insert(REALM_AGAIN, HeaderValue::from_static("1"));
    }
    if let Some(seconds) = error.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn bad_response(refusal: Refusal) -> CallError {
    CallError::new(refusal.status, refusal.code, refusal.message)
}

fn malformed() -> CallError {
    CallError::new(
        StatusCode::BAD_REQUEST,
        "bad-request",
        "the request of the other node does not say what it is for",
    )
}

/// The other node's view was older than this one's table.
fn not_here() -> CallError {
    CallError {
        retryable: true,
        retry_after_s: Some(1),
        ..CallError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-here",
            "the component has no healthy replica on the node that was asked",
        )
    }
}

fn too_large() -> CallError {
    CallError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "request-too-large",
        "the request body is larger than the server takes",
    )
}
