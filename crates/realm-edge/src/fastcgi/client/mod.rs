//! A FastCGI application as a backend: php-fpm and the like, of which each connection answers one request
//! at a time. Connections are made anew unless some are kept; what nobody can have had, or what may be
//! repeated, is tried once more.
//!
//! Kept connections are few, or none: each holds a process of the application while nothing is asked, and
//! other requests wait for it. Not here: whether the application is healthy.

mod asking;
mod exchange;
pub mod fuzzing;
mod head;
mod remarks;
mod replies;
mod script;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use realm_model::upstream::Scripts;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::backend::{Backend, Body, BoxFuture, CallError};
use crate::request_body;
use crate::upstream::{
    Impatient, Place, Reach, RequestBody, Room, UpstreamCaps, UpstreamLimits, announced,
    not_listening, overloaded, request_too_large, wall_timeout, within,
};
use exchange::{Exchange, Failure, Wire};
pub use remarks::Remarks;

/// How long a connection is tried for: longer than an application takes to start again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an application that ends may still seem to take connections.
const ENDING: Duration = Duration::from_millis(100);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(25);
/// Once nobody was there for all that time, others are not patient for so long.
const DOWN: Duration = Duration::from_secs(1);
/// Longer than a quick answer takes, shorter than a person notices.
const HELD: Duration = Duration::from_millis(50);
/// How often the kept ones are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of the answer to a probe that are read.
const PROBE_BYTES_MAX: usize = 64 * 1024;

/// An application that speaks FastCGI. Cheap to clone.
#[derive(Clone)]
pub struct Application(Arc<Inner>);

struct Inner {
    reach: Reach,
    scripts: Scripts,
    limits: UpstreamLimits,
    caps: UpstreamCaps,
    room: Room,
    kept: Option<Arc<Kept>>,
    /// Until then nobody is expected there.
    down: Mutex<Option<Instant>>,
    remarks: Arc<dyn Remarks>,
}

/// Connections that wait for the next request.
struct Kept {
    max: usize,
    /// One is let go of after this: it holds a process of the application.
    age_max: Duration,
    idle: Mutex<Idle>,
    /// Requests on new connections that wait longer than is usual.
    impatient: AtomicU32,
}

#[derive(Default)]
struct Idle {
    /// The last one was used last.
    wires: Vec<(Wire, Instant)>,
    /// A task looks after them.
    swept: bool,
}

impl Application {
    /// The application at the end of `reach`.
    pub fn new(
        reach: Reach,
        scripts: Scripts,
        caps: UpstreamCaps,
        limits: UpstreamLimits,
        remarks: Arc<dyn Remarks>,
    ) -> Self {
        let kept = Kept {
            max: caps.kept_max.min(limits.concurrency_max) as usize,
            age_max: caps.kept_age_max,
            idle: Mutex::default(),
            impatient: AtomicU32::new(0),
        };
        Self(Arc::new(Inner {
            reach,
            scripts,
            room: Room::new(limits.concurrency_max),
            kept: (kept.max > 0).then(|| Arc::new(kept)),
            down: Mutex::new(None),
            limits,
            caps,
            remarks,
        }))
    }

    /// Whether it takes connections.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn reach(&self) -> io::Result<()> {
        let connecting = timeout(self.0.caps.connect_timeout, self.0.reach.connect());
        connecting
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
            .map(drop)
    }

    /// The status with which it answers GET `path`. Takes no place of a request; the caller bounds
    /// the time.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn probe(&self, path: &str) -> Result<StatusCode, CallError> {
        let uri = format!("http://localhost{path}");
        let request = Request::builder()
            .uri(uri)
            .header(HOST, "localhost")
            .header(http::header::USER_AGENT, "realm-probe")
            .body(());
        let request = request.map_err(|_| {
            let message = "the path of the probe is none";
            CallError::new(StatusCode::BAD_REQUEST, "bad-request", message)
        })?;
        let (parts, ()) = request.into_parts();
        let deadline = Instant::now() + self.0.limits.wall_timeout;
        let asked = Asked {
            parts,
            length: 0,
            place: None,
            deadline,
        };
        let response = self.ask(asked, request_body::empty()).await?;
        let (parts, mut body) = response.into_parts();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| call_error(&Failure::Broken))?;
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
            if read > PROBE_BYTES_MAX {
                break;
            }
        }
        Ok(parts.status)
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let (limits, caps) = (self.0.limits, self.0.caps);
        if announced(&request) > limits.request_bytes_max {
            return Err(request_too_large());
        }
        let deadline = Instant::now() + limits.wall_timeout;
        let place = self.0.room.admit().await.ok_or_else(overloaded)?;
        let (parts, body) = request.into_parts();
        let sized = sized(&parts, body, limits.request_bytes_max, caps);
        let sized = timeout_at(deadline, sized);
        let (length, body) = sized.await.map_err(|_| wall_timeout())??;
        let asked = Asked {
            parts,
            length,
            place: Some(Arc::new(place)),
            deadline,
        };
        let is_head = asked.parts.method == Method::HEAD;
        let answer = self.ask(asked, body).await?;
        within(answer, is_head, limits.response_bytes_max)
    }

    async fn ask(&self, asked: Asked, body: Body) -> Result<Response<Body>, CallError> {
        let inner = &*self.0;
        let Asked {
            parts,
            length,
            place,
            deadline,
        } = asked;
        let begin = asking::begin(&parts, length, &inner.scripts, inner.kept.is_some())?;
        let may_repeat = parts.method.is_idempotent() && length == 0;
        let mut body = RequestBody::new(body, inner.limits.request_bytes_max);
        let fault = body.fault();
        let (mut sent, mut repeated) = (false, false);
        loop {
            // On a kept connection a request may be lost: no place for one that cannot be repeated.
            let kept = inner.kept.as_ref().filter(|_| may_repeat && !sent);
            let kept = kept.and_then(|kept| kept.take());
            let was_kept = kept.is_some();
            let wire = match kept {
                Some(wire) => wire,
                None => match timeout_at(deadline, self.connect()).await {
                    Ok(Ok(wire)) => wire,
                    // What was sent may have been its end: no replica is to get it as well.
                    Ok(Err(_)) if sent => return Err(call_error(&Failure::Unanswered)),
                    Ok(Err(_)) => return Err(not_listening()),
                    Err(_) => return Err(wall_timeout()),
                },
            };
            let exchange = Exchange {
                wire,
                begin: begin.clone(),
                body,
                length,
                headless: parts.method == Method::HEAD,
                deadline,
                remarks: Arc::clone(&inner.remarks),
                caps: inner.caps,
                kept: inner.kept.clone(),
                place: place.clone(),
            };
            let answered = match &inner.kept {
                Some(kept) if !was_kept => kept.patiently(exchange.run()).await,
                Some(_) | None => exchange.run().await,
            };
            match answered {
                Ok(response) => return Ok(response),
                Err(Failure::Unanswered) if may_repeat && !repeated => {
                    // That a kept connection is stale is nothing unusual. A new one was perhaps taken by an
                    // application that is about to end: a moment later that is plain.
                    if !was_kept {
                        repeated = true;
                        sleep(ENDING).await;
                    }
                    sent = true;
                    body = RequestBody::new(request_body::empty(), 0);
                }
                Err(_) if fault.is_too_large() => return Err(request_too_large()),
                Err(failure) => return Err(call_error(&failure)),
            }
        }
    }

    /// A new connection. An application that starts again is waited for, unless it was gone just now.
    async fn connect(&self) -> io::Result<Wire> {
        let until = Instant::now() + PATIENCE;
        loop {
            let connecting = timeout(self.0.caps.connect_timeout, self.0.reach.connect()).await;
            let error = match connecting.map_err(|_| io::ErrorKind::TimedOut.into()) {
                Ok(Ok(io)) => {
                    *self.down() = None;
                    return Ok(Wire::new(io));
                }
                Ok(Err(error)) | Err(error) => error,
            };
            let now = Instant::now();
            let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
            let is_down = self.down().is_some_and(|down| down > now);
            if is_denied || is_down {
                return Err(error);
            }
            if now >= until {
                *self.down() = Some(now + DOWN);
                return Err(error);
            }
            sleep(PAUSE).await;
        }
    }

    fn down(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose length is known.
struct Asked {
    parts: Parts,
    length: u64,
    place: Option<Arc<Place>>,
    deadline: Instant,
}

impl Backend for Application {
    fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        let application = self.clone();
        Box::pin(async move { application.answer(request).await })
    }

    fn load(&self) -> u32 {
        self.0.room.in_flight()
    }
}

impl Kept {
    fn take(&self) -> Option<Wire> {
        let mut idle = self.lock();
        while let Some((mut wire, since)) = idle.wires.pop() {
            if since.elapsed() <= self.age_max && !wire.is_stale() {
                return Some(wire);
            }
        }
        None
    }

    /// Waits for an answer on a new connection: perhaps all processes of the application are held by
    /// connections that are kept here. After a moment those make room.
    async fn patiently<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        if let Ok(answered) = timeout(HELD, &mut answer).await {
            return answered;
        }
        let _impatient = Impatient::enter(&self.impatient);
        self.lock().wires.clear();
        answer.await
    }

    fn keep(self: &Arc<Self>, wire: Wire) {
        if self.impatient.load(Relaxed) > 0 {
            return;
        }
        let mut idle = self.lock();
        if idle.wires.len() >= self.max {
            idle.wires.remove(0);
        }
        idle.wires.push((wire, Instant::now()));
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::clone(self)));
        }
    }

    /// A list that is changed by whole items: a panic cannot leave it torn.
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of connections that nobody used for long, until there are none.
async fn sweep(kept: Arc<Kept>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let mut idle = kept.lock();
        idle.wires
            .retain(|(_, since)| since.elapsed() <= kept.age_max);
        if idle.wires.is_empty() {
            idle.swept = false;
            return;
        }
    }
}

/// The body with its length: as it was said, or counted.
async fn sized(
    parts: &Parts,
    body: Body,
    bytes_max: u64,
    caps: UpstreamCaps,
) -> Result<(u64, Body), CallError> {
    if body.is_end_stream() {
        return Ok((0, request_body::empty()));
    }
    let said = parts.headers.get(CONTENT_LENGTH);
    let said = said.and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(length) = said.or(body.size_hint().exact()) {
        return Ok((length, body));
    }
    let mut body = body;
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| call_error(&Failure::Upload))?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        let length = (collected.len() + bytes.len()) as u64;
        if length > bytes_max {
            return Err(request_too_large());
        }
        if length > caps.collected_bytes_max {
            return Err(length_required(caps.collected_bytes_max));
        }
        collected.extend_from_slice(&bytes);
    }
    let length = collected.len() as u64;
    let body = Full::new(collected.freeze()).map_err(|never| match never {});
    Ok((length, body.boxed_unsync()))
}

fn length_required(bytes_max: u64) -> CallError {
    CallError {
        hint: Some("send it with `Content-Length`"),
        ..CallError::new(
            StatusCode::LENGTH_REQUIRED,
            "length-required",
            format!(
                "the application must be told the length of a body first, and without one at most {bytes_max} bytes are collected"
            ),
        )
    }
}

/// What the client is told of a request without an answer.
fn call_error(failure: &Failure) -> CallError {
    let bad_gateway = |code| CallError::new(StatusCode::BAD_GATEWAY, code, failure.to_string());
    match failure {
        Failure::Overloaded => overloaded(),
        Failure::TooLate => wall_timeout(),
        Failure::Unanswered
        | Failure::Broken
        | Failure::Status(_)
        // The client's own fault is told in its place.
        | Failure::Upload
        | Failure::Gone => bad_gateway("no-response"),
        Failure::Nonsense(_) | Failure::Head(_) | Failure::UnknownRole => {
            bad_gateway("bad-response")
        }
    }
}

/// Why the body of an answer ends before its end.
fn answer_broke(failure: Failure) -> CallError {
    call_error(&failure)
}
