//! `POST /v1/exec` and what it shares with `POST /v1/run`: policy, room, audit, the upgrade.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use realm_model::frame::{ExecRequest, RunRequest};
use realm_model::key::PublicKey;
use realm_model::node_config::{ExecCaller, ExecPolicy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::guest::{self, Guests};
use super::session::{Ended, Ends, serve};
use super::{PROTOCOL, process};
use crate::access::{Call, Caller, Role};
use crate::api::{Api, Failed, failed, read_capped};
use crate::audit::Running;

/// The body of a call: a command with its arguments. The gate has cut it already.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How often it is asked whether the caller of a running command may still run it, and the reader of a
/// log may still read it.
const ROLE_INTERVAL: Duration = Duration::from_secs(5);

/// What callers run here; cheap to clone.
#[derive(Clone)]
pub(crate) struct Sessions {
    policy: Arc<ExecPolicy>,
    guests: Guests,
    turns: Arc<Semaphore>,
    /// (call, how it ended) → how often.
    ended: Arc<Mutex<BTreeMap<(&'static str, &'static str), u64>>>,
}

/// What the policy says of a call.
struct Calling<'a> {
    allowed: &'a [ExecCaller],
    key_name: &'static str,
    off: &'static str,
    forbidden: &'static str,
}

/// A session that may begin.
pub(super) struct Begun {
    pub(super) key: PublicKey,
    call: Call,
    turn: OwnedSemaphorePermit,
    upgrade: hyper::upgrade::OnUpgrade,
    running: Running,
    pub(super) api: Api,
}

impl Sessions {
    pub(crate) fn new(policy: ExecPolicy, guests: Guests) -> Self {
        let turns = usize::try_from(policy.max_at_once).unwrap_or(usize::MAX);
        Self {
            policy: Arc::new(policy),
            guests,
            turns: Arc::new(Semaphore::new(turns.min(Semaphore::MAX_PERMITS))),
            ended: Arc::default(),
        }
    }

    pub(super) fn policy(&self) -> &ExecPolicy {
        &self.policy
    }

    /// How sessions ended.
    pub(crate) fn ended(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let ended = self.ended.lock();
        ended.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, call: Call, ended: &Ended) {
        let outcome = match ended {
            Ended::Exit(0) => "ok",
            Ended::Exit(_) => "exit",
            Ended::Error(_) => "error",
        };
        let mut counts = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((call.word(), outcome)).or_default() += 1;
    }

    fn calling(&self, call: Call) -> Calling<'_> {
        if call == Call::Run {
            return Calling {
                allowed: &self.policy.run,
                key_name: "exec.run",
                off: "run-off",
                forbidden: "components of callers are off on this node",
            };
        }
        Calling {
            allowed: &self.policy.allow,
            key_name: "exec.allow",
            off: "exec-off",
            forbidden: "commands are off on this node",
        }
    }

    /// Whether the node's operator lets this caller do this.
    fn permit(&self, call: Call, caller: Caller) -> Result<PublicKey, Failed> {
        let Calling {
            allowed,
            key_name,
            off,
            forbidden,
        } = self.calling(call);
        let deny = |code: &str, message: &str, who: &str| {
            let hint =
                format!("its operator allows them with `{key_name} = [\"{who}\"]` in node.toml");
            failed(StatusCode::FORBIDDEN, code, message, Some(&hint))
        };
        let (key, kind, who) = match caller {
            Caller::Key {
                key,
                role: Role::Owner,
            } => (key, ExecCaller::Owner, "owner"),
            Caller::Key {
                key,
                role: Role::Delegate { .. },
            } => (key, ExecCaller::Delegates, "delegates"),
            Caller::Local
            | Caller::Key {
                role: Role::Node | Role::Reader | Role::Recovery | Role::Beacon,
                ..
            } => {
                return Err(deny(
                    "forbidden",
                    "only owners and delegates run things",
                    "owner",
                ));
            }
        };
        if allowed.is_empty() {
            return Err(deny(off, forbidden, who));
        }
        if !allowed.contains(&kind) {
            let message = format!("this node runs nothing for a key of this role ({who})");
            return Err(deny("forbidden", &message, who));
        }
        Ok(key)
    }
}

/// `POST /v1/exec`.
pub(crate) async fn exec(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failed> {
    let sessions = api.sessions.clone();
    let (begun, body) = begin(api, Call::Exec, caller, request, |asked: &ExecRequest| {
        asked.command.clone()
    })
    .await?;
    let key = begun.key.to_string();
    Ok(begun
        .carry(async move |ends| process::run(sessions.policy(), &body.command, &key, ends).await))
}

/// `POST /v1/run`.
pub(crate) async fn run(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failed> {
    let sessions = api.sessions.clone();
    let (begun, body) = begin(api, Call::Run, caller, request, |asked: &RunRequest| {
        let mut words = vec![asked.name.to_string(), asked.digest.to_string()];
        words.extend_from_slice(&asked.args);
        words
    })
    .await?;
    Ok(begun
        .carry(async move |ends| guest::run(&sessions.guests, sessions.policy(), body, ends).await))
}

/// Everything up to the moment when the connection becomes the session's.
pub(super) async fn begin<T: serde::de::DeserializeOwned>(
    api: Api,
    call: Call,
    caller: Caller,
    mut request: Request,
    command: impl FnOnce(&T) -> Vec<String>,
) -> Result<(Begun, T), Failed> {
    let key = api.sessions.permit(call, caller)?;
    if !wants_upgrade(request.headers()) {
        let hint = "`realm exec` and `realm run` speak it; docs/api.md describes it";
        let message = format!("this call answers by `Upgrade: {PROTOCOL}` alone");
        return Err(failed(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade-required",
            &message,
            Some(hint),
        ));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let bytes = read_capped(request.into_body(), BODY_BYTES_MAX).await?;
    let asked: T = serde_json::from_slice(&bytes).map_err(|error| {
        failed(
            StatusCode::BAD_REQUEST,
            "bad-request",
            &error.to_string(),
            None,
        )
    })?;
    let turn = Arc::clone(&api.sessions.turns)
        .try_acquire_owned()
        .map_err(|_| {
            let max = api.sessions.policy.max_at_once;
            let message = format!("{max} commands of callers run here already");
            let hint = "`exec.max_at_once` in the node's node.toml is the limit";
            failed(
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-commands",
                &message,
                Some(hint),
            )
        })?;
    let running = api.audit.begin(caller, call, &command(&asked));
    let begun = Begun {
        key,
        call,
        turn,
        upgrade,
        running,
        api,
    };
    Ok((begun, asked))
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

impl Begun {
    /// Answers, and carries the session in a task of its own until `work` has ended.
    pub(super) fn carry<W>(self, work: impl FnOnce(Ends) -> W + Send + 'static) -> Response
    where
        W: Future<Output = Ended> + Send,
    {
        let Self {
            key,
            call,
            turn,
            upgrade,
            running,
            api,
        } = self;
        tokio::spawn(async move {
            // Dropped without an end, the audit says `cut-off`.
            let Ok(upgraded) = upgrade.await else { return };
            let revoked = revoked(&api, call, key);
            let ended = serve(TokioIo::new(upgraded), revoked, work).await;
            api.sessions.count(call, &ended);
            running.end(&ended.word());
            drop(turn);
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        response
    }
}

/// Ends when the key may not make this call any longer.
pub(crate) async fn revoked(api: &Api, call: Call, key: PublicKey) {
    loop {
        tokio::time::sleep(ROLE_INTERVAL).await;
        // An agent that is stopping ends everything anyway.
        if let Ok(role) = api.role_of(key).await
            && !role.is_some_and(|role| call.allows(role))
        {
            return;
        }
    }
}
