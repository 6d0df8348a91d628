//! The control API: HTTP with JSON, by several mouths. Described in docs/openapi.yaml.
//!
//! Who calls and may what is decided before (`access`); what may *change* is decided by the
//! signatures of entries alone.

mod chains;
mod dead;
mod verified;
mod why;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use realm_model::api::{AddPeer, ApiError, LogLine, Uploaded};
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::name::{ComponentName, NameError};
use realm_model::refusal::{Refusal, RefusalCode};
use realm_store::blobs::{BLOB_BYTES_MAX, BlobError, BoxError};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use verified::Verified;
pub(crate) use why::PLACEMENT_BYTES_MAX;

use crate::access::{Call, Caller, Gate, authorize};
use crate::audit::Audit;
use crate::error::with_causes;
use crate::event::Event;
use crate::haste::Haste;
use crate::page::MetricsPage;
use crate::places::Places;
use crate::remote::{Sessions, exec, revoked, run};
use crate::rings::{Ring, Rings};

/// Log readers at once: each holds a connection and a batch of lines.
const LOG_READERS_MAX: usize = 64;

/// The body that names one address.
const PEER_BYTES_MAX: usize = 4 * 1024;
/// Uploads at once: each holds a thread that may block, and a temporary file.
const UPLOADS_MAX: usize = 8;
/// Of one key, so that no delegate takes them all.
const UPLOADS_PER_KEY_MAX: usize = 2;
/// That stay free for the local socket: its user is the owner, as a rule.
const UPLOADS_SPARED: usize = 1;
/// The longest pause within a body.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Who sends a body more slowly than a line of 64 kbit/s is cut off: it holds a place.
const BODY_BYTES_PER_S: u64 = 8 * 1024;
/// When somebody who found everything busy may ask again.
const RETRY_AFTER_S: &str = "5";
/// Metrics pages at once: each costs a plan in the loop.
const SCRAPES_MAX: usize = 2;
/// A loop that does not answer for this long is stuck.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Whose place it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Local,
    Key(PublicKey),
}

impl From<Caller> for Holder {
    fn from(caller: Caller) -> Self {
        match caller {
            Caller::Local => Self::Local,
            Caller::Key { key, .. } => Self::Key(key),
        }
    }
}

/// What the handlers share; cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) blobs: realm_store::blobs::Blobs,
    pub(crate) rings: Rings,
    pub(crate) page: MetricsPage,
    pub(crate) gate: Arc<Gate>,
    pub(crate) audit: Audit,
    pub(crate) sessions: Sessions,
    log_readers: Arc<Semaphore>,
    uploads: Places<Holder>,
    placements: Places<Holder>,
    verified: Verified,
    scrapes: Arc<Semaphore>,
}

/// An error on its way out.
pub(crate) struct Failed(StatusCode, ApiError);

impl Api {
    pub(crate) fn new(
        events: mpsc::Sender<Event>,
        blobs: realm_store::blobs::Blobs,
        rings: Rings,
        page: MetricsPage,
        gate: Arc<Gate>,
        sessions: Sessions,
        audit: Audit,
    ) -> Self {
        Self {
            events,
            blobs,
            rings,
            page,
            gate,
            audit,
            sessions,
            log_readers: Arc::new(Semaphore::new(LOG_READERS_MAX)),
            uploads: Places::new(UPLOADS_MAX, UPLOADS_PER_KEY_MAX),
            placements: Places::new(why::PLACEMENTS_MAX, why::PLACEMENTS_PER_KEY_MAX),
            verified: Verified::new(),
            scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)),
        }
    }

    /// The routes of every mouth: the calls of the table, each behind the gate.
    pub(crate) fn router(self) -> Router {
        let mut router = Router::new();
        for call in Call::ALL {
            let (method, path) = call.route();
            // A method of the table is one that axum routes.
            let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::GET);
            let gate = axum::middleware::from_fn_with_state((self.clone(), call), authorize);
            router = router.route(path, handler(call, filter).layer(gate));
        }
        router
            .fallback(nothing)
            .method_not_allowed_fallback(wrong_method)
            .with_state(self)
    }

    /// The routes of the admin listener: figures, no control.
    pub(crate) fn admin_router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .fallback(nothing)
            .with_state(self)
    }

    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Event,
    ) -> Result<T, Failed> {
        let (reply, answer) = oneshot::channel();
        let gone = || {
            failed(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the agent is stopping",
                None,
            )
        };
        self.events
            .send(question(reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

fn handler(call: Call, filter: MethodFilter) -> MethodRouter<Api> {
    match call {
        Call::Status => on(filter, status),
        Call::Explain => on(filter, why::explain),
        Call::Placement => on(filter, why::placement),
        Call::Heads => on(filter, chains::heads),
        Call::Entries => on(filter, chains::entries),
        Call::Fork => on(filter, chains::fork),
        Call::Submit => on(filter, chains::submit),
        Call::HasBlob => on(filter, has),
        Call::PutBlob => on(filter, upload),
        Call::Logs => on(filter, logs),
        Call::Exec => on(filter, exec),
        Call::Run => on(filter, run),
        Call::Audit => on(filter, audit),
        Call::Metrics => on(filter, metrics),
        Call::Invitation => on(filter, invitation),
        Call::AddPeer => on(filter, add_peer),
        Call::Beacon => on(filter, chains::beacon),
        Call::DeadLetters => on(filter, dead::letters),
        Call::SettleDead => on(filter, dead::settle),
    }
}

async fn audit(State(api): State<Api>) -> Response {
    Json(api.audit.page()).into_response()
}

/// Whether the loop answers: the process alone proves nothing.
async fn healthz(State(api): State<Api>) -> Result<&'static str, Failed> {
    let stuck = || {
        let message = "the node's loop does not answer";
        failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "stuck",
            message,
            Some("look at the agent's log"),
        )
    };
    let asked = tokio::time::timeout(HEALTH_TIMEOUT, api.ask(Event::AskAlive)).await;
    asked.map_err(|_| stuck())??;
    Ok("ok\n")
}

async fn status(State(api): State<Api>) -> Result<Response, Failed> {
    Ok(Json(api.ask(Event::AskStatus).await?).into_response())
}

fn bad_query(error: QueryRejection) -> Failed {
    let message = error.body_text();
    failed(StatusCode::BAD_REQUEST, "bad-query", &message, None)
}

fn bad_name(error: NameError) -> Failed {
    let message = with_causes(&error);
    failed(StatusCode::BAD_REQUEST, "bad-name", &message, None)
}

async fn invitation(State(api): State<Api>) -> Result<Response, Failed> {
    Ok(Json(api.ask(Event::AskInvitation).await?).into_response())
}

async fn add_peer(State(api): State<Api>, body: Body) -> Result<Response, Failed> {
    let malformed = |why: &str| failed(StatusCode::BAD_REQUEST, "malformed", why, None);
    let bytes = read_capped(body, PEER_BYTES_MAX).await?;
    let peer: AddPeer =
        serde_json::from_slice(&bytes).map_err(|error| malformed(&error.to_string()))?;
    let written = realm_model::address::read(&peer.address).map_err(|error| {
        let hint = error.hint();
        failed(
            StatusCode::BAD_REQUEST,
            error.code(),
            &error.to_string(),
            Some(&hint),
        )
    })?;
    let address = written.address.to_string();
    match api.ask(|reply| Event::Call { address, reply }).await? {
        Ok(added) => Ok(Json(added).into_response()),
        Err(refusal) => Err(refusal.into()),
    }
}

async fn has(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
) -> Result<StatusCode, Failed> {
    let digest = parse_digest(&digest)?;
    let is_sound = api.verified.is_sound(&api.blobs, caller.into(), &digest);
    // Bytes that rotted on the disk are as good as none: the uploader sends them again.
    match is_sound.await {
        Ok(Ok(true)) => Ok(StatusCode::OK),
        Ok(Ok(false)) => Ok(StatusCode::NOT_FOUND),
        Ok(Err(error)) => Err(failed(
            StatusCode::INTERNAL_SERVER_ERROR,
            "store-failed",
            &with_causes(&error),
            Some("look at the disk that holds `blobs/` of the realm folder"),
        )),
        Err(verified::Busy) => Err(busy("the node looks at other bytes")),
    }
}

/// Somebody else has the place.
fn busy(message: &str) -> Failed {
    let hint = "ask again in some seconds";
    failed(StatusCode::SERVICE_UNAVAILABLE, "busy", message, Some(hint))
}

async fn upload(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<Response, Failed> {
    let digest = parse_digest(&digest)?;
    let spared = match caller {
        Caller::Local => 0,
        Caller::Key { .. } => UPLOADS_SPARED,
    };
    let Some(_place) = api.uploads.take(caller.into(), spared) else {
        return Err(busy("the node takes other uploads"));
    };
    let haste = Haste::new(BODY_IDLE_TIMEOUT, BODY_BYTES_PER_S);
    let state = (body.into_data_stream(), haste);
    let pieces = stream::unfold(state, async |(mut body, mut haste)| {
        let Some(piece) = haste.within(body.next()).await else {
            return Some((Err("the sender is too slow".into()), (body, haste)));
        };
        let piece = piece?.map_err(BoxError::from);
        haste.moved(piece.as_ref().map_or(0, Bytes::len));
        Some((piece, (body, haste)))
    });
    match api.blobs.put(Some(digest), pieces, BLOB_BYTES_MAX).await {
        Ok(pin) => {
            // The loop may be gone; then nobody waits for the bytes.
            let _ = api.events.send(Event::Uploaded(pin.digest)).await;
            Ok(Json(Uploaded {
                digest: pin.digest,
                size: pin.size,
            })
            .into_response())
        }
        Err(error) => {
            let refusal = upload_refusal(&error);
            let _ = api.events.send(Event::Refused(refusal.code)).await;
            Err(refusal.into())
        }
    }
}

fn upload_refusal(error: &BlobError) -> Refusal {
    let code = match error {
        BlobError::Mismatch { .. } => RefusalCode::DigestMismatch,
        BlobError::TooLarge { .. } => RefusalCode::Oversized,
        BlobError::Receive(_) => RefusalCode::Malformed,
        BlobError::Io { .. } | BlobError::Missing(_) | BlobError::Damaged { .. } => {
            RefusalCode::NotDurable
        }
    };
    Refusal::new(code, with_causes(error))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogQuery {
    since: u64,
    follow: bool,
}

async fn logs(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(component): Path<String>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Failed> {
    let Query(query) = query.map_err(bad_query)?;
    let component: ComponentName = component.parse().map_err(bad_name)?;
    let ring = match api.rings.existing(&component) {
        Some(ring) => ring,
        None => {
            let status = api.ask(Event::AskStatus).await?;
            if !status
                .components
                .iter()
                .any(|known| known.name == component)
            {
                let message = format!("there is no component `{component}`");
                let hint = "`realm status` lists the components";
                return Err(failed(
                    StatusCode::NOT_FOUND,
                    "unknown-name",
                    &message,
                    Some(hint),
                ));
            }
            api.rings.ring(&component)
        }
    };
    let permit = Arc::clone(&api.log_readers)
        .try_acquire_owned()
        .map_err(|_| {
            let hint = "end one of the other `realm logs -f`";
            let message = format!("{LOG_READERS_MAX} log readers are here already");
            failed(
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-readers",
                &message,
                Some(hint),
            )
        })?;
    let gone = async move {
        match caller {
            Caller::Local => std::future::pending().await,
            Caller::Key { key, .. } => revoked(&api, Call::Logs, key).await,
        }
    };
    let lines = log_stream(ring, query, gone).map(move |bytes| {
        // Held until the stream ends.
        let _ = &permit;
        bytes
    });
    let headers = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/jsonl"),
    )];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Lines as JSON, a batch per chunk: a reader that is slow is asked for nothing, and learns from a
/// gap marker what it missed. It ends once the reader is `gone`: who may no longer read.
fn log_stream(
    ring: Arc<Ring>,
    query: LogQuery,
    gone: impl Future<Output = ()> + Send,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let cursor = if query.since == 0 {
        0
    } else {
        ring.cursor_since(query.since)
    };
    stream::unfold(
        (ring, cursor, query.follow),
        |(ring, cursor, follow)| async move {
            loop {
                let (lines, after) = ring.read(cursor);
                if !lines.is_empty() {
                    return Some((Ok(encode(&lines)), (ring, after, follow)));
                }
                if !follow {
                    return None;
                }
                ring.wait(cursor).await;
            }
        },
    )
    .take_until(gone)
}

fn encode(lines: &[LogLine]) -> Bytes {
    let mut text = Vec::new();
    for line in lines {
        if serde_json::to_writer(&mut text, line).is_ok() {
            text.push(b'\n');
        }
    }
    Bytes::from(text)
}

async fn metrics(State(api): State<Api>) -> Result<Response, Failed> {
    let _turn = api.scrapes.acquire().await;
    let figures = api.ask(Event::AskFigures).await?;
    let page = api.page.clone();
    // Reading the machine's state is a handful of system calls.
    let text = tokio::task::spawn_blocking(move || page.text(&figures))
        .await
        .map_err(|error| {
            failed(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                &error.to_string(),
                None,
            )
        })?;
    let headers = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static(crate::metrics::CONTENT_TYPE),
    )];
    Ok((headers, text).into_response())
}

async fn wrong_method() -> Failed {
    failed(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong-method",
        "this path does not take this method",
        None,
    )
}

async fn nothing() -> Failed {
    failed(
        StatusCode::NOT_FOUND,
        "no-such-call",
        "there is nothing at this path",
        Some("docs/api.md lists the calls"),
    )
}

/// Reads a body up to `bytes_max`; what is longer is cut there.
pub(crate) async fn read_capped(mut body: Body, bytes_max: usize) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    let mut haste = Haste::new(BODY_IDLE_TIMEOUT, BODY_BYTES_PER_S);
    let too_slow = || {
        let message = "the body came too slowly";
        failed(StatusCode::BAD_REQUEST, "malformed", message, None)
    };
    while let Some(frame) = haste.within(body.frame()).await.ok_or_else(too_slow)? {
        let frame = frame.map_err(|error| {
            failed(
                StatusCode::BAD_REQUEST,
                "malformed",
                &error.to_string(),
                None,
            )
        })?;
        if let Ok(data) = frame.into_data() {
            haste.moved(data.len());
            let room = bytes_max - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if bytes.len() == bytes_max {
                break;
            }
        }
    }
    Ok(bytes)
}

fn parse_digest(text: &str) -> Result<Digest, Failed> {
    text.parse()
        .map_err(|error: realm_model::digest::DigestError| {
            failed(
                StatusCode::BAD_REQUEST,
                "bad-digest",
                &error.to_string(),
                None,
            )
        })
}

pub(crate) fn failed(status: StatusCode, code: &str, message: &str, hint: Option<&str>) -> Failed {
    Failed(
        status,
        ApiError {
            code: code.to_owned(),
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        },
    )
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.code {
            RefusalCode::Oversized => StatusCode::PAYLOAD_TOO_LARGE,
            RefusalCode::NotDurable => StatusCode::INSUFFICIENT_STORAGE,
            RefusalCode::Malformed => StatusCode::BAD_REQUEST,
            RefusalCode::Unsigned
            | RefusalCode::BadSignature
            | RefusalCode::WrongOwner
            | RefusalCode::WrongRealm
            | RefusalCode::WrongChain
            | RefusalCode::OutOfScope
            | RefusalCode::Expired => StatusCode::FORBIDDEN,
            RefusalCode::Stale
            | RefusalCode::Replayed
            | RefusalCode::Gap
            | RefusalCode::WrongParent
            | RefusalCode::Forked
            | RefusalCode::Frozen
            | RefusalCode::Abandoned => StatusCode::CONFLICT,
            RefusalCode::NeedsNewerAgent
            | RefusalCode::InvalidManifest
            | RefusalCode::InvalidLock
            | RefusalCode::DigestMismatch
            | RefusalCode::NameTaken
            | RefusalCode::UnknownName => StatusCode::UNPROCESSABLE_ENTITY,
        };
        failed(
            status,
            refusal.code.as_str(),
            &refusal.message,
            Some(refusal.code.hint()),
        )
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let is_busy = self.1.code == "busy";
        let mut response = (self.0, Json(self.1)).into_response();
        if is_busy {
            let after = HeaderValue::from_static(RETRY_AFTER_S);
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}

#[cfg(test)]
mod tests;
