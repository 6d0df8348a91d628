//! How long a singleton may run here: until its lease is over, to the moment. What runs ends by then
//! whatever the loop does, and no answer is given after it. Not who holds the lease (`core/leases`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use realm_edge::{Backend, BoxError, BoxFuture, CallError, Switched};
use realm_host::{Outcome, Term};
use realm_model::name::ComponentName;
use realm_model::observed::{Lease, Millis, ReplicaId};

use super::{Executor, World};
use crate::clock::Clock;

/// How often the clock is looked at: timers do not know that the machine slept. A fraction of the time
/// that a witness allows for what is slow here.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is looked whether what was ended is gone.
const GONE_INTERVAL: Duration = Duration::from_millis(10);

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The time of one replica of a singleton. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tenure(Arc<Inner>);

struct Inner {
    until_ms: AtomicU64,
    clock: Clock,
    term: Term,
}

impl Tenure {
    /// A time that ends at `until`, unless it is made longer before.
    pub(super) fn new(clock: Clock, until: Millis) -> Self {
        let tenure = Self(Arc::new(Inner {
            until_ms: AtomicU64::new(until.0),
            clock,
            term: Term::default(),
        }));
        let watched = tenure.clone();
        tokio::spawn(async move { watched.over().await });
        tenure
    }

    /// What ends all guests.
    pub(crate) fn term(&self) -> Term {
        self.0.term.clone()
    }

    /// What is over stays over.
    fn set(&self, until: Millis) {
        self.0.until_ms.store(until.0, SeqCst);
    }

    /// Ends it before its time.
    pub(super) fn end(&self) {
        self.0.term.end();
    }

    /// Whether it is over: by the clock, whoever else has looked at it.
    pub(super) fn is_over(&self) -> bool {
        if self.0.term.is_over() {
            return true;
        }
        let over = self.0.clock.now().0 >= self.0.until_ms.load(SeqCst);
        if over {
            self.end();
        }
        over
    }

    /// Waits for its end.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            let left = self.0.until_ms.load(SeqCst);
            let left = Duration::from_millis(left.saturating_sub(self.0.clock.now().0));
            tokio::select! {
                () = self.0.term.over() => {}
                () = tokio::time::sleep(left.min(LOOK)) => {}
            }
        }
    }
}

/// Waits until nothing is left of what was ended.
pub(crate) async fn gone(terms: &[Term]) {
    for term in terms {
        while !term.is_gone() {
            tokio::time::sleep(GONE_INTERVAL).await;
        }
    }
}

/// A replica that answers for as long as it may.
pub(super) struct Leased {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) tenure: Tenure,
}

impl Backend for Leased {
    fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        let tenure = self.tenure.clone();
        if tenure.is_over() {
            // Nobody had it yet.
            let refused = CallError {
                retryable: true,
                ..stopped()
            };
            return Box::pin(std::future::ready(Err(refused)));
        }
        let call = self.backend.call(request);
        Box::pin(async move {
            let answer = tokio::select! {
                biased;
                () = tenure.over() => return Err(stopped()),
                answer = call => answer?,
            };
            // It may have come while the machine slept.
            if tenure.is_over() {
                return Err(stopped());
            }
            if let Some(switched) = answer.extensions().get::<Switched>() {
                let tenure = tenure.clone();
                switched.until(async move { tenure.over().await });
            }
            Ok(answer.map(|body| Body::new(LeasedBody { body, tenure })))
        })
    }

    fn load(&self) -> u32 {
        self.backend.load()
    }
}

fn stopped() -> CallError {
    let error = realm_host::CallError::from(Outcome::Stopped);
    CallError {
        retry_after_s: error.retry_after_s,
        ..CallError::new(StatusCode::SERVICE_UNAVAILABLE, error.code, error.message)
    }
}

/// A body that breaks off where its replica may not go on. The guest that writes it is ended by its
/// term, which wakes the reader.
struct LeasedBody {
    body: Body,
    tenure: Tenure,
}

impl http_body::Body for LeasedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::pin::Pin::new(&mut self.body).poll_frame(context);
        let ends = matches!(frame, std::task::Poll::Ready(Some(Ok(_)) | None));
        // The end of a body is the last thing that it says.
        if ends && self.tenure.is_over() {
            return std::task::Poll::Ready(Some(Err(Box::new(stopped()))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Executor {
    /// The time of a replica that starts; `None`: it is of no singleton.
    pub(super) fn tenure(&self, component: &ComponentName, world: &World<'_>) -> Option<Tenure> {
        if !world.desired.is_singleton(component) {
            return None;
        }
        let until = match world.observed.leases.get(component) {
            Some(Lease::Held { until }) => *until,
            Some(Lease::Awaited { .. }) | None => Millis(0),
        };
        Some(Tenure::new(self.clock, until))
    }

    /// What was ended of a component and is not gone.
    pub(super) fn leaving(&mut self, component: &ComponentName) -> Vec<Term> {
        self.leaving.retain(|(_, term)| !term.is_gone());
        let of_component = self.leaving.iter().filter(|(name, _)| name == component);
        of_component.map(|(_, term)| term.clone()).collect()
    }

    /// Components of which something was ended that is not gone.
    pub(crate) fn all_leaving(&self) -> impl Iterator<Item = &ComponentName> {
        let leaving = self.leaving.iter().filter(|(_, term)| !term.is_gone());
        leaving.map(|(name, _)| name)
    }

    /// Makes the times longer of what may go on, and ends what may not. Returns whether anything ended.
    pub(crate) fn keep_to_leases(&mut self, world: &mut World<'_>) -> bool {
        let starting = self.starting.iter();
        let starting = starting.map(|(id, starting)| (id, &starting.tenure));
        let live = self.replicas.iter().map(|(id, live)| (id, &live.tenure));
        let over = starting.chain(live).filter(|(id, tenure)| {
            let is_wanted = world.desired.pin(&id.component).is_some();
            let is_singleton = world.desired.is_singleton(&id.component);
            let Some(tenure) = tenure else {
                // It was none when this began.
                return is_singleton;
            };
            match world.observed.leases.get(&id.component) {
                // Nobody asks for a lease any more.
                _ if is_wanted && !is_singleton => tenure.set(Millis(u64::MAX)),
                Some(Lease::Held { until }) => tenure.set(*until),
                Some(Lease::Awaited { .. }) | None if is_singleton => return true,
                // It left the manifest: it goes on to the end of its last lease at most.
                Some(Lease::Awaited { .. }) | None => {}
            }
            tenure.is_over()
        });
        let over: Vec<ReplicaId> = over.map(|(id, _)| id.clone()).collect();
        for id in &over {
            tracing::warn!(replica = %id, "stopped: this node does not hold its lease");
            self.stop(id, world);
        }
        if !over.is_empty() {
            self.set_table(&world.observed.routes);
        }
        !over.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    /// Answers at once, with a body of two frames, the second of which is never ready.
    struct Streams;

    impl Backend for Streams {
        fn call(&self, _: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
            let frames = futures_util::stream::iter([Ok(Frame::data(Bytes::from("one")))]);
            let frames = futures_util::StreamExt::chain(frames, futures_util::stream::pending());
            let body = Body::new(http_body_util::StreamBody::new(frames));
            Box::pin(std::future::ready(Ok(Response::new(body))))
        }

        fn load(&self) -> u32 {
            0
        }
    }

    fn leased(tenure: &Tenure) -> Leased {
        Leased {
            backend: Arc::new(Streams),
            tenure: tenure.clone(),
        }
    }

    #[tokio::test]
    async fn no_answer_comes_after_the_deadline_whoever_looks() {
        let clock = Clock::start();
        let tenure = Tenure::new(clock, clock.now().plus(60_000));
        let backend = leased(&tenure);
        let mut body = backend.call(Request::default()).await.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "one");
        let late = backend.call(Request::default()).await.unwrap();
        // The deadline passed, and no timer has rung.
        tenure.set(clock.now());
        let error = backend.call(Request::default()).await.unwrap_err();
        assert_eq!((error.code, error.retryable), ("stopped", true));
        let error = late.into_body().frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("may not run"), "{error}");
        // And it stays over.
        tenure.set(clock.now().plus(60_000));
        assert!(tenure.is_over() && tenure.term().is_gone());
    }

    #[tokio::test]
    async fn a_deadline_ends_what_runs_unless_it_is_put_off() {
        let clock = Clock::start();
        let (short, long) = (
            Tenure::new(clock, clock.now().plus(50)),
            Tenure::new(clock, clock.now().plus(50)),
        );
        long.set(clock.now().plus(60_000));
        short.term().over().await;
        tokio::time::timeout(LOOK * 2, long.term().over())
            .await
            .unwrap_err();
        long.end();
        long.over().await;
    }
}
