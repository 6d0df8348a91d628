//! A replica: one slot of a component on this node, with its own concurrency and its own fuel.
//!
//! A call goes: admission, fuel, a task of its own for the guest, the response head, the body.
//! The guest's task ends with the guest, at the wall time, or when the caller (the future of
//! [`Replica::call`], and then the response body) is dropped.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use wasmtime_wasi_http::WasiBody;

use crate::Body;
use crate::admission::Admitted;
use crate::body::{EndOnDrop, ResponseBody};
use crate::component::ReplicaInner;
use crate::guest::{self, Live};
use crate::invocation::{Call, Head, Shared, Wall, drive, settle};
use crate::kept;
use crate::outcome::{CallError, Outcome};
use crate::request;
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
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let limits = &self.0.component.settings.limits;
        let deadline = Instant::now() + Duration::from_millis(limits.wall_timeout_ms);
        if request::announces_too_much(&request, limits.max_request_bytes) {
            return Err(self.refuse(Outcome::RequestTooLarge));
        }
        let Some((admitted, live)) = self.0.enter().await else {
            return Err(self.refuse(Outcome::Overloaded));
        };
        let invocation = Invocation::begin(&self.0, Kind::Request, admitted);
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
        let receiver = shared.expect_head();
        if let Err(outcome) = request::absolute(&mut request) {
            shared.conclude(outcome);
            return Err(outcome);
        }
        let head = *request.method() == Method::HEAD;
        let task = begin(Box::pin(invocation.run(live, deadline, request))).await;
        let task = EndOnDrop::new(task, Arc::clone(&shared));
        let response = receive(receiver, &shared).await?;
        Ok(finish(response, head, task))
    }
}

/// Polls the guest once, here: most answer without waiting for anything, and need no task of their
/// own. `None`: it is done.
async fn begin(mut guest: Call) -> Option<AbortHandle> {
    let polled = poll_fn(|context| Poll::Ready(guest.as_mut().poll(context)));
    match polled.await {
        Poll::Ready(()) => None,
        Poll::Pending => Some(tokio::spawn(guest).abort_handle()),
    }
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

fn finish(response: http::Response<WasiBody>, head: bool, task: EndOnDrop) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let body = ResponseBody::new(&parts.headers, body, task);
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
        return Response::from_parts(parts, Body::default());
    }
    Response::from_parts(parts, Body::new(body))
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
    _ticking: Option<Ticking>,
    admitted: Admitted,
}

impl Invocation {
    pub(crate) fn begin(replica: &Arc<ReplicaInner>, kind: Kind, admitted: Admitted) -> Self {
        if kind != Kind::Probe {
            replica.in_flight.fetch_add(1, Relaxed);
        }
        // A run ticks while it is polled.
        let ticks = kind != Kind::Run;
        Self {
            _ticking: ticks.then(|| replica.component.host.0.ticker.begin()),
            admitted,
            shared: Shared::new(),
            replica: Arc::clone(replica),
            kind,
        }
    }

    async fn run(mut self, live: Option<Live>, deadline: Instant, request: Request<Body>) {
        let host = self.replica.component.host.clone();
        let shared = Arc::clone(&self.shared);
        let at_once = self.replica.habit.is_heavy();
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
        drive(shared, wall, &host, at_once, Box::pin(call)).await;
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
        // The task is dropped at the wall time: nobody else is left to say so.
        // Whoever ends a guest early sets an outcome first, but for the client.
        let outcome = self.shared.outcome().unwrap_or(Outcome::Cancelled);
        if matches!(outcome, Outcome::WallTimeout | Outcome::Cancelled) {
            self.replica.remark(outcome);
        }
        let meter = &self.replica.component.settings.meter;
        meter.ran(self.shared.running());
        self.replica.habit.ran(self.shared.running());
        meter.ended(outcome);
        self.replica.in_flight.fetch_sub(1, Relaxed);
    }
}
