//! The guest's side of an invocation: an instance, the call of its handler, and what its end
//! means.
//!
//! Everything here runs inside the guest's task, under the wall time of `invocation::drive`.

use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use http::Request;
use realm_model::text::one_line;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut as _, PoolConcurrencyLimitError, Result, Store, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{FieldMap, WasiHttpView as _};

use crate::Body;
use crate::cgi::FIELDS_MAX;
use crate::cloud::otel::Caller;
use crate::command;
use crate::component::LoadError;
use crate::component::ReplicaInner;
use crate::invocation::{Shared, charge};
use crate::kept;
use crate::loaded::{Handler, HttpHandler, Loaded};
use crate::logs::{Ear, say};
use crate::outcome::Outcome;
use crate::remarks::limit_words;
use crate::replica::Invocation;
use crate::request::RequestBody;
use crate::state::{self, State};
use crate::stdio::Process;

/// Characters of what a health function says: a sentence or two for `realm status`, not a report.
const HEALTH_CHARS_MAX: usize = 1_024;

/// A store that pays for its fuel when it goes, however it goes.
pub(crate) struct Metered(Store<State>);

impl Deref for Metered {
    type Target = Store<State>;

    fn deref(&self) -> &Store<State> {
        &self.0
    }
}

impl DerefMut for Metered {
    fn deref_mut(&mut self) -> &mut Store<State> {
        &mut self.0
    }
}

impl Metered {
    /// Pays for the fuel that was used since the last time.
    fn pay(&mut self) {
        if self.0.data().rein.bucket.is_some() {
            charge(self.0.as_context_mut(), Instant::now());
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.pay();
    }
}

/// A fresh store for this invocation; `process`: of a program.
pub(crate) fn store(invocation: &Invocation, process: Option<Process>) -> Result<Metered> {
    let shared = Arc::clone(&invocation.shared);
    state::store(&invocation.replica, shared, process).map(Metered)
}

/// The code that this invocation runs, and keeps in memory for as long as it holds this.
pub(crate) async fn loaded(invocation: &Invocation) -> Result<Arc<Loaded>> {
    let loaded = invocation.replica.component.loaded().await;
    loaded.map_err(<wasmtime::Error as From<LoadError>>::from)
}

/// An instance that can be called, in its store.
pub(crate) struct Live {
    store: Metered,
    http: Http,
    uses_left: u32,
    /// While it waits, its code is not idle.
    _loaded: Arc<Loaded>,
}

enum Http {
    Proxy(Proxy),
    Service(Service),
}

impl Live {
    async fn begin(
        invocation: &Invocation,
        loaded: &Arc<Loaded>,
        handler: &HttpHandler,
    ) -> Result<Self> {
        let mut store = store(invocation, None)?;
        let began = Instant::now();
        let http = match handler {
            HttpHandler::Proxy(proxy) => Http::Proxy(proxy.instantiate_async(&mut *store).await?),
            HttpHandler::Service(service) => {
                Http::Service(service.instantiate_async(&mut *store).await?)
            }
        };
        started(invocation, began);
        Ok(Self {
            store,
            http,
            uses_left: if invocation.replica.component.settings.reuse {
                kept::uses()
            } else {
                1
            },
            _loaded: Arc::clone(loaded),
        })
    }

    /// Another invocation begins in an instance that waited.
    fn go_on(mut self, invocation: &Invocation) -> Self {
        invocation.shared.start();
        let shared = Arc::clone(&invocation.shared);
        self.store.data_mut().renew(shared);
        // From now: the epochs that passed meanwhile are not this invocation's.
        self.store.set_epoch_deadline(1);
        self
    }

    async fn call(&mut self, invocation: &Invocation, request: Request<RequestBody>) -> Result<()> {
        self.uses_left = self.uses_left.saturating_sub(1);
        match &self.http {
            Http::Proxy(proxy) => call_proxy(invocation, proxy, &mut self.store, request).await,
            Http::Service(service) => {
                call_service(invocation, service, &mut self.store, request).await
            }
        }
    }

    /// The same for the next invocation, if it is good for another one.
    fn rest(mut self, shared: &Shared) -> Option<Self> {
        self.store.data_mut().end_span();
        if self.uses_left == 0 || !shared.ended_well() || !self.store.data_mut().is_clean() {
            return None;
        }
        self.store.pay();
        Some(self)
    }
}

/// Answers one request, in `live` or a fresh instance; what is left of it for the next one.
pub(crate) async fn handle(
    invocation: &Invocation,
    live: Option<Live>,
    request: Request<Body>,
) -> Option<Live> {
    let shared = &invocation.shared;
    let component = &invocation.replica.component;
    let bytes_max = component.settings.limits.max_request_bytes;
    shared.called_by(Caller::of(request.method(), request.headers()));
    let request = request.map(|body| RequestBody::new(body, bytes_max, Arc::clone(shared)));
    let loaded = match loaded(invocation).await {
        Ok(loaded) => loaded,
        Err(error) => {
            conclude(invocation, Err(error));
            return None;
        }
    };
    let handler = match &loaded.handler {
        Handler::Http(handler) => handler,
        Handler::Command(command) => {
            command::answer(invocation, command, request).await;
            return None;
        }
        Handler::None => {
            conclude(
                invocation,
                Err(wasmtime::format_err!("it takes no requests")),
            );
            return None;
        }
    };
    let begun = match live {
        Some(live) => Ok(live.go_on(invocation)),
        None => Live::begin(invocation, &loaded, handler).await,
    };
    let mut live = match begun {
        Ok(live) => live,
        Err(error) => {
            conclude(invocation, Err(error));
            return None;
        }
    };
    let result = live.call(invocation, request).await;
    let returned = result.is_ok();
    // Before the store goes: its end closes the body, and a reader must know which end it is.
    conclude(invocation, result);
    if returned { live.rest(shared) } else { None }
}

/// WASI 0.2: the head arrives through the out-parameter while the call runs on.
async fn call_proxy(
    invocation: &Invocation,
    proxy: &Proxy,
    store: &mut Store<State>,
    request: Request<RequestBody>,
) -> Result<()> {
    let scheme = match request.uri().scheme_str() {
        Some("https") => Scheme::Https,
        Some(_) | None => Scheme::Http,
    };
    let request = store
        .data_mut()
        .http()
        .new_incoming_request(scheme, request)?;
    let shared = Arc::clone(&invocation.shared);
    let replica = Arc::clone(&invocation.replica);
    let log = refusal(invocation);
    let head = store
        .data_mut()
        .http()
        .new_response_outparam_from_callback(move |head| match head {
            Ok(response) => answer(&shared, &replica, response),
            Err(code) => log(&code),
        })?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut *store, request, head)
        .await
}

/// WASI 0.3: the head is what the call returns; the guest's tasks run on until they are done.
async fn call_service(
    invocation: &Invocation,
    service: &Service,
    store: &mut Store<State>,
    request: Request<RequestBody>,
) -> Result<()> {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.into_parts();
    let (request, received) = p3::Request::new(
        parts.method,
        uri.scheme,
        uri.authority,
        uri.path_and_query,
        FieldMap::new_immutable(store.data_mut().http().hooks, parts.headers),
        None,
        body,
    );
    let shared = Arc::clone(&invocation.shared);
    let replica = Arc::clone(&invocation.replica);
    let log = refusal(invocation);
    let call = async move |accessor: &Accessor<State>| -> Result<()> {
        match service.handle(accessor, request).await? {
            Ok(response) => {
                let response = accessor.with(|store| response.into_http(store, received))?;
                answer(&shared, &replica, response);
            }
            Err(code) => {
                log(&code);
                return Ok(());
            }
        }
        poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
        // What the guest passed on (the request's body or its trailers, say) moves only while the
        // store runs, even where the guest is done.
        shared.body_ended().await;
        Ok(())
    };
    store.run_concurrent(call).await?
}

/// What a probe wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does it start?
    Start,
    /// What does its health function say?
    Health,
}

/// Asks a fresh instance. `None`: it came to no answer, and the outcome says why.
pub(crate) async fn ask(
    invocation: &Invocation,
    question: Question,
) -> Option<std::result::Result<(), String>> {
    match question_answered(invocation, question).await {
        Ok(answer) => {
            invocation.shared.conclude(Outcome::Ok);
            Some(answer)
        }
        Err(error) => {
            conclude(invocation, Err(error));
            None
        }
    }
}

async fn question_answered(
    invocation: &Invocation,
    question: Question,
) -> Result<std::result::Result<(), String>> {
    let loaded = loaded(invocation).await?;
    let mut store = store(invocation, None)?;
    let store = &mut *store;
    let began = Instant::now();
    let instance = loaded.instance.instantiate_async(&mut *store).await?;
    started(invocation, began);
    match (question, &loaded.health) {
        (Question::Health, Some(export)) => {
            let check = instance
                .get_typed_func::<(), (std::result::Result<(), String>,)>(&mut *store, export)?;
            let (answer,) = check.call_async(&mut *store, ()).await?;
            Ok(answer.map_err(|words| one_line(&words, HEALTH_CHARS_MAX)))
        }
        // Load made sure that there is an export where the probe is for it.
        (Question::Health, None) | (Question::Start, _) => Ok(Ok(())),
    }
}

/// An instance was made, in the time since `began`.
pub(crate) fn started(invocation: &Invocation, began: Instant) {
    invocation.shared.start();
    invocation
        .replica
        .component
        .settings
        .meter
        .instantiated(began.elapsed());
}

/// Passes the head on, if it is one that can be sent.
fn answer(
    shared: &Shared,
    replica: &ReplicaInner,
    response: http::Response<wasmtime_wasi_http::WasiBody>,
) {
    let (status, fields) = (response.status(), response.headers().len());
    let outcome = Outcome::BadResponse;
    if status.is_informational() {
        // 100 is the edge's to send, and 101 needs a connection that a guest does not have.
        replica.say(format_args!("{}: the status is {status}", outcome.code()));
    } else if fields > FIELDS_MAX {
        let code = outcome.code();
        replica.say(format_args!(
            "{code}: the answer has {fields} header fields, of at most {FIELDS_MAX}"
        ));
    } else {
        return shared.answer(response);
    }
    shared.conclude(outcome);
}

/// What to do with an error code in place of a response.
fn refusal(invocation: &Invocation) -> impl FnOnce(&dyn Debug) + Send + Sync + use<> {
    let shared = Arc::clone(&invocation.shared);
    let replica = Arc::clone(&invocation.replica);
    move |code| {
        let outcome = Outcome::GuestError;
        replica.say(format_args!(
            "{}: the guest answered with {code:?}",
            outcome.code()
        ));
        shared.conclude(outcome);
    }
}

/// Sets the outcome, and writes down why.
pub(crate) fn conclude(invocation: &Invocation, result: Result<()>) {
    let shared = &invocation.shared;
    let outcome = match &result {
        Ok(()) if shared.answered() => Outcome::Ok,
        Ok(()) => Outcome::NoResponse,
        Err(error) => classify(shared, error),
    };
    // An outcome that was set before (a limit, a refused body) is why the guest came to its end.
    let earlier = shared.outcome();
    let outcome = earlier.unwrap_or(outcome);
    let is_told = matches!(
        outcome,
        Outcome::GuestError
            | Outcome::BadResponse
            | Outcome::ResponseTooLarge
            | Outcome::RequestTooLarge
            | Outcome::RequestTimeout
    );
    if outcome != Outcome::Ok && !is_told {
        let limits = &invocation.replica.component.settings.limits;
        let error = match (earlier, &result) {
            (None, Err(error)) => Some(error),
            (Some(_), _) | (None, Ok(())) => None,
        };
        let reason = Reason {
            code: outcome.code(),
            words: limit_words(outcome, Some(shared), limits),
            error,
        };
        invocation.replica.say(&reason);
        if let Some(Ear(ear)) = shared.ear() {
            say(&**ear, invocation.replica.slot, &reason);
        }
    }
    shared.conclude(outcome);
}

/// What an error of a call means.
pub(crate) fn classify(shared: &Shared, error: &wasmtime::Error) -> Outcome {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        // Runtimes that end with `exit` after their answer did what was asked of them.
        return if shared.answered() && *code == 0 {
            Outcome::Ok
        } else {
            Outcome::Exit
        };
    }
    if shared.growth_denied().is_some() {
        Outcome::MemoryLimit
    } else if error.is::<PoolConcurrencyLimitError>() {
        Outcome::Overloaded
    } else if error.is::<Trap>() || shared.started() {
        Outcome::Trap
    } else {
        Outcome::StartFailed
    }
}

/// A code, the limit and the error that it stands for.
struct Reason<'a> {
    code: &'static str,
    words: Option<String>,
    error: Option<&'a wasmtime::Error>,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code)?;
        if let Some(words) = &self.words {
            write!(formatter, ": {words}")?;
        }
        let Some(error) = self.error else {
            return Ok(());
        };
        match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(exit_code)) => write!(formatter, ": exit code {exit_code}"),
            // Not `{:?}`: that brings a backtrace of the host where RUST_BACKTRACE is set.
            None => write!(formatter, ": {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prepare: impl FnOnce(&Shared), error: wasmtime::Error, expected: Outcome) {
        let shared = Shared::new();
        prepare(&shared);
        assert_eq!(classify(&shared, &error), expected);
    }

    fn answered(shared: &Shared) {
        let _receiver = shared.expect_head();
        shared.answer(http::Response::default());
    }

    #[test]
    fn an_end_is_told_by_what_went_before() {
        check(|_| {}, I32Exit(0).into(), Outcome::Exit);
        check(answered, I32Exit(0).into(), Outcome::Ok);
        check(answered, I32Exit(1).into(), Outcome::Exit);
        check(|_| {}, Trap::UnreachableCodeReached.into(), Outcome::Trap);
        check(
            |shared| shared.deny_growth(1),
            Trap::UnreachableCodeReached.into(),
            Outcome::MemoryLimit,
        );
        check(
            Shared::start,
            wasmtime::format_err!("table is full"),
            Outcome::Trap,
        );
        check(
            |_| {},
            wasmtime::format_err!("no such thing"),
            Outcome::StartFailed,
        );
    }
}
