//! The span of what an instance serves: made when the guest first asks for it, told when that is over.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method};
use realm_model::cloud::limits::TRACE_STATE_BYTES_MAX;
use realm_model::cloud::telemetry::{
    Dropped, Emitter, Scope, Span, SpanContext, SpanKind, Status, Telemetry, Value,
};

use crate::invocation::Shared;

/// Who asked, as the request says it.
pub(crate) struct Caller {
    context: Option<SpanContext>,
    method: Method,
}

impl Caller {
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        Self {
            context: context(headers),
            method: method.clone(),
        }
    }
}

/// The span that the caller is in; `None`: it does not say, or says two.
fn context(headers: &HeaderMap) -> Option<SpanContext> {
    let mut all = headers.get_all("traceparent").iter();
    let (one, None) = (all.next()?, all.next()) else {
        return None;
    };
    let mut state = String::new();
    for part in headers.get_all("tracestate") {
        let part = part.to_str().unwrap_or_default();
        if !state.is_empty() {
            state.push(',');
        }
        state.push_str(part);
    }
    if state.len() > TRACE_STATE_BYTES_MAX {
        state.clear();
    }
    SpanContext::parse(one.to_str().ok()?, &state)
}

/// The span that an instance is a part of.
pub(crate) struct Ambient {
    emitter: Emitter,
    to: Option<Arc<dyn Telemetry>>,
    open: Option<Open>,
}

struct Open {
    context: SpanContext,
    caller: Option<SpanContext>,
    method: Option<Method>,
    start_unix_ns: u64,
    shared: Arc<Shared>,
}

impl Ambient {
    pub(crate) const fn new(emitter: Emitter, to: Option<Arc<dyn Telemetry>>) -> Self {
        Self {
            emitter,
            to,
            open: None,
        }
    }

    pub(crate) const fn emitter(&self) -> Emitter {
        self.emitter
    }

    /// The span of what is served. Without a caller's word it is wanted where somebody takes it.
    pub(crate) fn context(&mut self, shared: &Arc<Shared>, wanted: bool) -> SpanContext {
        let open = self.open.get_or_insert_with(|| {
            let caller = shared.caller();
            let theirs = caller.and_then(|caller| caller.context.clone());
            let context = SpanContext {
                trace: theirs.as_ref().map_or_else(random, |theirs| theirs.trace),
                span: random(),
                sampled: theirs.as_ref().map_or(wanted, |theirs| theirs.sampled),
                remote: false,
                state: theirs
                    .as_ref()
                    .map(|theirs| theirs.state.clone())
                    .unwrap_or_default(),
            };
            Open {
                context,
                caller: theirs,
                method: caller.map(|caller| caller.method.clone()),
                start_unix_ns: now_unix_ns().saturating_sub(nanos(shared.age())),
                shared: Arc::clone(shared),
            }
        });
        open.context.clone()
    }

    /// What was served is over.
    pub(crate) fn finish(&mut self) {
        let (Some(open), Some(to)) = (self.open.take(), &self.to) else {
            return;
        };
        // In a log it would say nothing that the log does not.
        if !open.context.sampled || !to.is_elsewhere() {
            return;
        }
        let method = open.method.as_ref().map(Method::as_str);
        let attributes = method.map(|method| {
            // A method may be any word: names of spans are few.
            let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
            let method = if known.contains(&method) {
                method
            } else {
                "_OTHER"
            };
            let value = Value::Text(method.to_owned());
            ("http.request.method".to_owned(), value)
        });
        let name = match &attributes {
            Some((_, Value::Text(method))) => method.clone(),
            Some(_) | None => "call".to_owned(),
        };
        let span = Span {
            context: open.context,
            parent: open.caller.map(|caller| caller.span),
            kind: if method.is_some() {
                SpanKind::Server
            } else {
                SpanKind::Consumer
            },
            name,
            start_unix_ns: open.start_unix_ns,
            end_unix_ns: now_unix_ns(),
            attributes: attributes.into_iter().collect(),
            events: Vec::new(),
            links: Vec::new(),
            status: match open.shared.failure() {
                Some(outcome) => Status::Error(outcome.code().to_owned()),
                None => Status::Unset,
            },
            scope: Scope {
                name: "realm".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Scope::default()
            },
            dropped: Dropped::default(),
        };
        let _ = to.span(self.emitter, span);
    }
}

impl Drop for Ambient {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Random bytes, not all zeros.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness the system is broken: a trace that says so by its id beats a panic.
    if getrandom::fill(&mut bytes).is_err() || bytes == [0; N] {
        bytes[N - 1] = 1;
    }
    bytes
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn now_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    nanos(since.unwrap_or_default())
}
