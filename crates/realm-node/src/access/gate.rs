//! The gate before each call: finds out who asks, whether they may, and that they asked only once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use realm_model::beacon::BEACON_BYTES_MAX;
use realm_model::digest::Digest;
use realm_model::entry::{ENTRY_BYTES_MAX, RealmId};
use realm_model::key::PublicKey;
use realm_model::request::{
    AUTH_HEADER, Asked, DEADLINE_MS_MAX, RequestError, SignedRequest, TIME_HEADER,
};

use super::nonces::{Nonces, Repeated};
use super::{Call, Caller, Mouth, Role};
use crate::api::{Api, PLACEMENT_BYTES_MAX, failed, read_capped};
use crate::event::Event;
use crate::unix_ms;

/// The body of a call that takes a small document: a command with its arguments.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// One line of the log per code in this time, however many calls are refused: anybody can ask.
const SAY_INTERVAL: Duration = Duration::from_secs(1);

/// What the gate knows and remembers.
pub(crate) struct Gate {
    realm: RealmId,
    node: PublicKey,
    /// Requests that were answered before this are not remembered.
    born_unix_ms: u64,
    nonces: Mutex<Nonces>,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// By code: when it was said last, and how many were not since.
    said: Mutex<BTreeMap<&'static str, (Instant, u64)>>,
}

/// Why a call is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("this call asks for a signed request")]
    Unsigned,
    #[error("{0} has no role in this realm")]
    Stranger(PublicKey),
    #[error("the request was not understood: {0}")]
    Request(#[from] RequestError),
    #[error("the body is not the one that was signed")]
    Body,
    #[error("the body is longer than this call takes")]
    Oversized,
    #[error("this request was answered already")]
    Replayed,
    #[error("{0} asks too often")]
    Busy(PublicKey),
    #[error("a {} key may not do this", .0.word())]
    Forbidden(Role),
    #[error("the agent is stopping")]
    Stopping,
}

impl Denied {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Unsigned
            | Self::Stranger(_)
            | Self::Body
            | Self::Request(RequestError::Malformed(_) | RequestError::BadSignature(_)) => {
                "unauthorized"
            }
            Self::Request(RequestError::WrongTarget(_)) => "wrong-target",
            Self::Request(RequestError::Clock(_)) => "clock",
            Self::Oversized => "oversized",
            Self::Replayed => "replayed-request",
            Self::Busy(_) => "too-many-requests",
            Self::Forbidden(_) => "forbidden",
            Self::Stopping => "stopping",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Unsigned
            | Self::Stranger(_)
            | Self::Body
            | Self::Request(
                RequestError::Malformed(_) | RequestError::BadSignature(_) | RequestError::Clock(_),
            ) => StatusCode::UNAUTHORIZED,
            Self::Request(RequestError::WrongTarget(_)) => StatusCode::MISDIRECTED_REQUEST,
            Self::Oversized => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Replayed => StatusCode::CONFLICT,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unsigned => Some("`--key FILE` names the key to sign with"),
            Self::Stranger(_) => {
                Some("use the owner's key, or have the owner delegate to this one")
            }
            Self::Request(RequestError::WrongTarget(_)) => {
                Some("the address leads to another node than it did; look at its key")
            }
            Self::Request(RequestError::Clock(_)) => {
                Some("compare the clocks of both machines: they may differ by 10 minutes at most")
            }
            Self::Replayed => Some("sign the request anew"),
            Self::Forbidden(_) => Some("docs/security.md lists what each role may do"),
            Self::Request(RequestError::Malformed(_) | RequestError::BadSignature(_))
            | Self::Body => Some("was it changed on its way? both ends should be of one version"),
            Self::Oversized | Self::Busy(_) | Self::Stopping => None,
        }
    }

    fn into_response(self) -> Response {
        let (code, clock) = (self.code(), self.code() == "clock");
        let is_stranger = matches!(self, Self::Stranger(_));
        let error = failed(self.status(), code, &self.to_string(), self.hint());
        let mut response = error.into_response();
        if clock && let Ok(time) = HeaderValue::from_str(&unix_ms().to_string()) {
            response.headers_mut().insert(TIME_HEADER, time);
        }
        // Whoever has no role has no use for the connection, and would keep it from others.
        if is_stranger {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// A key that asks, or nobody in particular.
enum Claim {
    Local,
    Key(PublicKey),
}

impl Gate {
    pub(crate) fn new(realm: RealmId, node: PublicKey) -> Self {
        Self {
            realm,
            node,
            born_unix_ms: unix_ms(),
            nonces: Mutex::default(),
            refusals: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Whether a refusal is worth a line: how many more there were since the last one.
    fn may_say(&self, code: &'static str, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, more)) = said.get_mut(code) else {
            said.insert(code, (now, 0));
            return Some(0);
        };
        if now.saturating_duration_since(*at) < SAY_INTERVAL {
            *more += 1;
            return None;
        }
        *at = now;
        Some(std::mem::take(more))
    }

    /// Calls that were denied, by code.
    pub(crate) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let refusals = self.refusals.lock();
        refusals.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, code: &'static str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry(code).or_default() += 1;
    }

    /// Who asks: by the signature if there is one, else by what the connection proves.
    fn claim(
        &self,
        call: Call,
        mouth: Mouth,
        signed: Option<&SignedRequest>,
        (method, path): (&str, &str),
        now_unix_ms: u64,
    ) -> Result<Claim, Denied> {
        let Some(signed) = signed else {
            return match mouth {
                _ if call.wants_signature() => Err(Denied::Unsigned),
                Mouth::Socket => Ok(Claim::Local),
                Mouth::Peer(key) => Ok(Claim::Key(key)),
                Mouth::Relayed => Err(Denied::Unsigned),
            };
        };
        let asked = Asked {
            realm: self.realm,
            target: self.node,
            method,
            path,
        };
        signed.check(&asked, now_unix_ms)?;
        // A deadline that the agent before this one could have taken: it may have answered already.
        let born = self.born_unix_ms.saturating_add(DEADLINE_MS_MAX);
        let restarted = (self.born_unix_ms..born).contains(&now_unix_ms);
        if restarted && signed.deadline_unix_ms < born {
            let late = i64::try_from(signed.deadline_unix_ms.abs_diff(born)).unwrap_or(i64::MAX);
            return Err(RequestError::Clock(-late).into());
        }
        Ok(Claim::Key(signed.key))
    }

    /// Whether this call is answered. Only then is its nonce remembered: strangers take no room.
    fn admit(
        &self,
        call: Call,
        (key, role): (PublicKey, Option<Role>),
        signed: Option<&SignedRequest>,
        now_unix_ms: u64,
    ) -> Result<Caller, Denied> {
        let role = role.ok_or(Denied::Stranger(key))?;
        if !call.allows(role) {
            return Err(Denied::Forbidden(role));
        }
        if let Some(signed) = signed {
            let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
            nonces.take(signed, now_unix_ms).map_err(|why| match why {
                Repeated::Known => Denied::Replayed,
                Repeated::Full => Denied::Busy(key),
            })?;
        }
        Ok(Caller::Key { key, role })
    }
}

/// The middleware of a call.
pub(crate) async fn authorize(
    State((api, call)): State<(Api, Call)>,
    request: Request,
    next: Next,
) -> Response {
    match pass(&api, call, request).await {
        Ok((caller, mut request)) => {
            let path = request.uri().path().to_owned();
            request.extensions_mut().insert(caller);
            let response = next.run(request).await;
            // Commands leave their own, and what is no entry at all is counted as a refusal.
            let is_nothing = call == Call::Submit
                && matches!(
                    response.status(),
                    StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND
                );
            if is_nothing {
                api.gate.count("malformed");
            } else if call.changes() && !call.wants_signature() {
                api.audit.call(caller, call, &path, response.status());
            }
            response
        }
        Err(denied) => {
            api.gate.count(denied.code());
            let (code, word) = (denied.code(), call.word());
            if let Some(more) = api.gate.may_say(code, Instant::now()) {
                tracing::warn!(code, reason = %denied, call = word, more, "call refused");
            }
            denied.into_response()
        }
    }
}

async fn pass(api: &Api, call: Call, request: Request) -> Result<(Caller, Request), Denied> {
    // Whoever serves a connection says what it proves; one that says nothing proves nothing.
    let mouth = request.extensions().get::<Mouth>().copied();
    let mouth = mouth.unwrap_or(Mouth::Relayed);
    let signed = match request.headers().get(AUTH_HEADER) {
        None => None,
        Some(value) => {
            let text = value
                .to_str()
                .map_err(|_| RequestError::Malformed("it is not text"))?;
            Some(SignedRequest::from_header(text)?)
        }
    };
    let line = (request.method().as_str(), path_of(&request));
    let now = unix_ms();
    let claim = api.gate.claim(call, mouth, signed.as_ref(), line, now)?;
    let caller = match claim {
        Claim::Local => Caller::Local,
        Claim::Key(key) => {
            let role = api.role_of(key).await?;
            api.gate.admit(call, (key, role), signed.as_ref(), now)?
        }
    };
    let request = match signed {
        Some(signed) => with_body(call, request, signed.body).await?,
        None => request,
    };
    Ok((caller, request))
}

fn path_of(request: &Request) -> &str {
    let uri = request.uri();
    uri.path_and_query()
        .map_or(uri.path(), |path| path.as_str())
}

/// Sees to it that the body is the one that was signed.
async fn with_body(call: Call, request: Request, digest: Digest) -> Result<Request, Denied> {
    let bytes_max = match call {
        // The bytes are streamed, and kept only if they have the digest in the path.
        Call::PutBlob => {
            let named = request.uri().path().rsplit('/').next().unwrap_or_default();
            return match named.parse::<Digest>() {
                Ok(named) if named == digest => Ok(request),
                Ok(_) | Err(_) => Err(Denied::Body),
            };
        }
        Call::Submit => ENTRY_BYTES_MAX,
        Call::Placement => PLACEMENT_BYTES_MAX,
        Call::Beacon => BEACON_BYTES_MAX,
        Call::Exec | Call::Run | Call::AddPeer | Call::SettleDead => BODY_BYTES_MAX,
        Call::Status
        | Call::Explain
        | Call::Heads
        | Call::Entries
        | Call::Fork
        | Call::HasBlob
        | Call::Logs
        | Call::Audit
        | Call::Metrics
        | Call::Invitation
        | Call::DeadLetters => 0,
    };
    let (parts, body) = request.into_parts();
    let bytes = read_capped(body, bytes_max + 1)
        .await
        .map_err(|_| Denied::Body)?;
    if bytes.len() > bytes_max {
        return Err(Denied::Oversized);
    }
    if Digest::of(&bytes) != digest {
        return Err(Denied::Body);
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

impl Api {
    /// What the authority chain says of a key at this moment.
    pub(crate) async fn role_of(&self, key: PublicKey) -> Result<Option<Role>, Denied> {
        let asked = self.ask(|reply| Event::AskRole { key, reply }).await;
        asked.map_err(|_| Denied::Stopping)
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
