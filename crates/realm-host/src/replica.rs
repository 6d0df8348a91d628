//! A replica: one slot of a component on this node, with its own concurrency and its own fuel.
//!
//! A call goes: admission, fuel, a task of its own for the guest, the response head, the body.
//! The guest's task ends with the guest, at the wall time, or when the caller (the future of
//! [`Replica::call`], and then the response body) is dropped.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::response::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use crate::Body;
use crate::admission::Admitted;
use crate::body::{EndOnDrop, Read, ResponseBody};
use crate::component::ReplicaInner;
use crate::guest::{self, Live};
use crate::invocation::{Call, Head, Shared, Wall, drive, settle};
use crate::kept;
use crate::logs::Ear;
use crate::outcome::{CallError, Outcome};
use crate::request;
use crate::term::{self, Term};
use crate::ticker::Ticking;

/// A slot that admits calls. Cheap to clone.
#[derive(Clone)]
pub struct Replica(pub(crate) Arc<ReplicaInner>);

impl Replica {
    /// Answers one request with a fresh instance.
    ///
    /// Returns as soon as the response head is there; the body follows as it is read. Dropping
    /// the future, or the body before its end, ends the guest.
    ///
    /// # Errors
    /// Where no head came; the reason goes to the component's log, the error holds what a client
    /// may read.
    pub async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, CallError> {
        let limits = &self.0.component.settings.limits;
        let deadline = Instant::now() + Duration::from_millis(limits.wall_timeout_ms);
        if request::announces_too_much(&request, limits.max_request_bytes) {
            return Err(self.refuse(Outcome::RequestTooLarge));
        }
        if self.0.term.as_ref().is_some_and(Term::is_over) {
            return Err(self.refuse(Outcome::Stopped));
        }
        let Some((admitted, live)) = self.0.enter().await else {
            return Err(self.refuse(Outcome::Overloaded));
        };
        let invocation = Invocation::begin(&self.0, Kind::Request, admitted);
        if let Some(ear) = request.extensions_mut().remove::<Ear>() {
            invocation.shared.tell(ear);
        }
        let answer = self.dispatch(request, invocation, live, deadline).await;
        answer.map_err(CallError::from)
    }

    /// Whether it answers as a command does: one run per request.
    pub fn is_command(&self) -> bool {
        self.0.component.command
    }

    /// Counts a request for which nothing is run, and says why.
    pub(crate) fn refuse(&self, outcome: Outcome) -> CallError {
        self.0.component.settings.meter.ended(outcome);
        self.0.remark(outcome);
        outcome.into()
    }

    /// Invocations under way, probes not counted.
    pub fn in_flight(&self) -> u32 {
        self.0.in_flight.load(Relaxed)
    }

    pub(crate) async fn dispatch(
        &self,
        mut request: Request<Body>,
        invocation: Invocation,
        live: Option<Live>,
        deadline: Instant,
    ) -> Result<Response<Body>, Outcome> {
        let shared = Arc::clone(&invocation.shared);
        let bound = invocation.bound.clone();
        let mut receiver = shared.expect_head();
        if let Err(outcome) = request::absolute(&mut request) {
            shared.conclude(outcome);
            return Err(outcome);
        }
        let head = *request.method() == Method::HEAD;
        let mut guest: Call = Box::pin(invocation.run(live, deadline, request));
        // Here, before it gets a task of its own: most answer without waiting for anything.
        let mut done = is_done(&mut guest).await;
        let early = receiver.try_recv().ok();
        let mut early = early.transpose()?.map(Answer::from);
        if let Some(answer) = &mut early
            && !done
        {
            // One of WASI 0.3 writes when it is read. Head and body may leave as one packet.
            answer.read_once().await;
            done = is_done(&mut guest).await;
        }
        let task = (!done).then(|| {
            let term = self.0.term.clone();
            let is_to_end =
                move || term.as_ref().is_some_and(Term::is_over) || Instant::now() >= deadline;
            let in_turn = self.0.component.host.0.config.in_turn;
            tokio::spawn(in_turn(guest, Box::new(is_to_end))).abort_handle()
        });
        let task = EndOnDrop::new(task, Arc::clone(&shared));
        let answer = match early {
            Some(answer) => answer,
            None => receive(receiver, &shared).await?.into(),
        };
        finish(answer, head, task, bound)
    }
}

/// A response, and what was read of its body before anybody asked.
struct Answer {
    parts: Parts,
    body: WasiBody,
    first: Option<Read>,
}

impl From<http::Response<WasiBody>> for Answer {
    fn from(response: http::Response<WasiBody>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            parts,
            body,
            first: None,
        }
    }
}

impl Answer {
    async fn read_once(&mut self) {
        let body = &mut self.body;
        let read = poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context)));
        if let Poll::Ready(read) = read.await {
            self.first = Some(read);
        }
    }
}

/// Polls a guest once.
async fn is_done(guest: &mut Call) -> bool {
    poll_fn(|context| Poll::Ready(guest.as_mut().poll(context).is_ready())).await
}

/// Waits for the head. The task that held the other end says why there is none.
async fn receive(
    receiver: oneshot::Receiver<Head>,
    shared: &Shared,
) -> Result<http::Response<WasiBody>, Outcome> {
    match receiver.await {
        Ok(head) => head,
        Err(_) => Err(shared.failure().unwrap_or(Outcome::StartFailed)),
    }
}

fn finish(
    answer: Answer,
    head: bool,
    task: EndOnDrop,
    bound: Option<Arc<Bound>>,
) -> Result<Response<Body>, Outcome> {
    let Answer { parts, body, first } = answer;
    let body = ResponseBody::new(&parts.headers, body, first, task);
    let wordless = head
        || body.announces_nothing()
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if wordless {
        // Servers drop such a body unread, but the guest writes one, or at least ends it: it is
        // not to be cut off for that.
        tokio::spawn(body.drain());
        return Ok(Response::from_parts(parts, Body::default()));
    }
    let body = match bound {
        Some(bound) => body.within(bound)?,
        None => body,
    };
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// `max_response_bytes`, for one answer. The invocation is accounted for when the last of this goes:
/// the guest may have done long before what it wrote is read.
pub(crate) struct Bound {
    pub(crate) bytes_max: u64,
    replica: Arc<ReplicaInner>,
    shared: Arc<Shared>,
}

impl Bound {
    /// The answer has more bytes: says so, and what the outcome is.
    pub(crate) fn exceed(&self) -> Outcome {
        if self.shared.overrule() {
            self.replica.remark(Outcome::ResponseTooLarge);
        }
        self.shared.failure().unwrap_or(Outcome::ResponseTooLarge)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.replica.account(&self.shared);
    }
}

/// Why a guest is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For someone: counted among the requests.
    Request,
    /// By itself: counted like a request, and a long one perhaps.
    Run,
    /// To see whether it is healthy.
    Probe,
}

/// What lives as long as one guest: counted at its beginning, accounted for at its end, however
/// it ends (a task that is aborted only drops).
pub(crate) struct Invocation {
    pub(crate) replica: Arc<ReplicaInner>,
    pub(crate) shared: Arc<Shared>,
    kind: Kind,
    /// Where its answer has a size.
    bound: Option<Arc<Bound>>,
    _ticking: Option<Ticking>,
    _counted: Option<term::Guest>,
    admitted: Admitted,
}

impl Invocation {
    pub(crate) fn begin(replica: &Arc<ReplicaInner>, kind: Kind, admitted: Admitted) -> Self {
        if kind != Kind::Probe {
            replica.in_flight.fetch_add(1, Relaxed);
        }
        // A run ticks while it is polled.
        let ticks = kind != Kind::Run;
        let shared = Shared::new();
        let limits = &replica.component.settings.limits;
        let bytes_max = limits.max_response_bytes.filter(|_| kind == Kind::Request);
        let bound = bytes_max.map(|bytes_max| Bound {
            bytes_max,
            replica: Arc::clone(replica),
            shared: Arc::clone(&shared),
        });
        Self {
            bound: bound.map(Arc::new),
            _ticking: ticks.then(|| replica.component.host.0.ticker.begin()),
            _counted: replica.term.as_ref().map(Term::enter),
            admitted,
            shared,
            replica: Arc::clone(replica),
            kind,
        }
    }

    async fn run(mut self, live: Option<Live>, deadline: Instant, request: Request<Body>) {
        let host = self.replica.component.host.clone();
        let shared = Arc::clone(&self.shared);
        let at_once = self.replica.habit.is_heavy();
        let term = self.replica.term.clone();
        let call = async move {
            if let Some(bucket) = &self.replica.bucket {
                settle(bucket, &self.replica.component.settings.meter).await;
            }
            let live = guest::handle(&self, live, request).await;
            if let (Some(live), Some(place)) = (live, self.admitted.place.take()) {
                kept::keep(&self.replica, live, place);
            }
        };
        let wall = Wall::of_a_request(deadline, &host);
        drive(shared, wall, &host, at_once, Box::pin(call), term).await;
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A mistake of the host's own: the caller gets an error, the next request a new guest.
            self.shared.conclude(Outcome::StartFailed);
        }
        if self.kind == Kind::Probe {
            return;
        }
        let running = self.shared.running();
        self.replica.component.settings.meter.ran(running);
        let failure = self.shared.failure();
        let has_failed = failure.is_some_and(Outcome::is_guests_own);
        self.replica.habit.ran(running, has_failed);
        if self.bound.is_none() {
            self.replica.account(&self.shared);
        }
        self.replica.in_flight.fetch_sub(1, Relaxed);
    }
}

impl ReplicaInner {
    /// Counts how an invocation ended.
    fn account(&self, shared: &Shared) {
        // Whoever ends a guest early sets an outcome first, but for the client.
        let outcome = shared.outcome().unwrap_or(Outcome::Cancelled);
        // The task is dropped at the wall time, and where the request's body ends badly: nobody else is
        // left to say so.
        if matches!(
            outcome,
            Outcome::WallTimeout
                | Outcome::Cancelled
                | Outcome::RequestTooLarge
                | Outcome::RequestTimeout
        ) {
            self.remark(outcome);
        }
        self.component.settings.meter.ended(outcome);
    }
}
