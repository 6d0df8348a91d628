//! Answers of a thread that has something else to do: given there and then as long as that takes a part
//! of its time, and by a serving thread where it takes more.
//!
//! What another node asks comes on the thread of the network's sockets. To hand it to a serving thread
//! and the answer back costs two more threads that wake up, one after the other: more than most guests
//! run. But a guest that computes, or many that come at once, would hold up all packets of all nodes.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use realm_model::name::ComponentName;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::{Backend, Body, CallError, is_in_vain};
use crate::refusal::NO_TURN;
use crate::turns::{self, End, Turn, in_turn};

/// Of its time the thread gives one part in so many.
const SHARE: u32 = 2;
/// As much may be saved up: a handful of usual answers.
const SAVED_MAX: Duration = Duration::from_micros(500);

/// What one thread may spend on answers.
#[derive(Default)]
pub(crate) struct Allowance(Mutex<Spent>);

#[derive(Default)]
struct Spent {
    /// Time that is not earned yet.
    owed: Duration,
    at: Option<Instant>,
}

impl Allowance {
    fn has_some(&self, now: Instant) -> bool {
        let mut spent = self.lock();
        let passed = spent.at.map(|at| now.saturating_duration_since(at));
        let earned = passed.map_or(Duration::MAX, |passed| passed / SHARE);
        spent.owed = spent.owed.saturating_sub(earned);
        spent.at = Some(now);
        spent.owed < SAVED_MAX
    }

    fn spend(&self, time: Duration) {
        let mut spent = self.lock();
        spent.owed = spent.owed.saturating_add(time);
    }

    /// Changed by whole values: a panic cannot leave it torn.
    fn lock(&self) -> std::sync::MutexGuard<'_, Spent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the requests of one stream are answered.
#[derive(Clone)]
pub(crate) struct Answers {
    /// The thread for all that takes longer.
    pub(crate) worker: Handle,
    /// Of the thread that is asked.
    pub(crate) allowance: Arc<Allowance>,
}

impl Answers {
    /// Has `backend` answer for a component: on this thread if it has time for that and the answer is there at once, else
    /// on the worker. What the call begins, tasks and timers, is the worker's from the start.
    pub(crate) async fn call(
        &self,
        component: &ComponentName,
        backend: &dyn Backend,
        request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        let mut call = backend.call(request);
        let began = Instant::now();
        let is_begun = self.allowance.has_some(began);
        if is_begun {
            let first = poll_fn(|context| {
                let _there = self.worker.enter();
                let poll = || call.as_mut().poll(context);
                Poll::Ready(turns::begin_for(component, poll))
            });
            let first = first.await;
            self.allowance.spend(began.elapsed());
            if let Poll::Ready(answer) = first {
                return answer;
            }
        }
        let component = component.clone();
        let call = async move {
            if turns::serve(&component).await == Turn::Late && !is_begun {
                turns::ended(End::Refused);
                return Err(no_turn());
            }
            let answered = call.await;
            let is_bad = answered
                .as_ref()
                .is_err_and(|error| is_in_vain(error.status));
            turns::ended(if is_bad { End::Badly } else { End::Well });
            answered
        };
        let call = self.elsewhere(in_turn(call, || false));
        call.await.unwrap_or_else(|| Err(stopped()))
    }

    /// Does on the worker what takes long; it ends with this future, as if it ran in it. `None`: the
    /// worker is stopped.
    pub(crate) async fn elsewhere<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        match AbortOnDropHandle::new(self.worker.spawn(task)).await {
            Ok(done) => Some(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }
}

/// Whoever asked may ask another node.
fn no_turn() -> CallError {
    CallError {
        retry_after_s: Some(1),
        retryable: true,
        ..CallError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            NO_TURN,
            "the node that was asked has more to do than it can, try again",
        )
    }
}

pub(crate) fn stopped() -> CallError {
    CallError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "stopped",
        "the node that was asked stops",
    )
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::backend::{BoxError, BoxFuture};
    use crate::request_body;

    const WORKER: &str = "a worker";

    struct Rig {
        asked: Runtime,
        worker: Runtime,
        allowance: Arc<Allowance>,
    }

    impl Rig {
        fn new() -> Self {
            let mut worker = Builder::new_multi_thread();
            let worker = worker.worker_threads(1).thread_name(WORKER).build();
            Self {
                asked: Builder::new_current_thread().build().unwrap(),
                worker: worker.unwrap(),
                allowance: Arc::default(),
            }
        }

        fn answers(&self) -> Answers {
            Answers {
                worker: self.worker.handle().clone(),
                allowance: Arc::clone(&self.allowance),
            }
        }

        /// What the answer says.
        fn ask<F>(
            &self,
            answer: impl Fn() -> F + Send + Sync + 'static,
        ) -> Result<String, CallError>
        where
            F: Future<Output = String> + Send + 'static,
        {
            let answers = self.answers();
            self.asked.block_on(async {
                let request = Request::new(request_body::empty());
                let answered = answers.call(&component(), &Says(answer), request).await?;
                let body = answered.into_body().collect().await;
                Ok(String::from_utf8_lossy(&body.unwrap().to_bytes()).into_owned())
            })
        }
    }

    struct Says<S>(S);

    impl<S, F> Backend for Says<S>
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = String> + Send + 'static,
    {
        fn call(&self, _: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
            let said = (self.0)();
            Box::pin(async {
                let body = http_body_util::Full::new(said.await.into());
                let body = body.map_err(|never| -> BoxError { match never {} });
                Ok(Response::new(body.boxed_unsync()))
            })
        }

        fn load(&self) -> u32 {
            0
        }
    }

    fn component() -> ComponentName {
        "asked".parse().unwrap()
    }

    /// The name of the thread that this runs on.
    async fn here() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_is_there_at_once_is_answered_there_as_long_as_that_takes_little() {
        let rig = Rig::new();
        let asked = std::thread::current().name().unwrap_or_default().to_owned();
        assert_eq!(rig.ask(here), Ok(asked.clone()));
        rig.allowance.spend(Duration::from_secs(3600));
        assert_eq!(rig.ask(here), Ok(WORKER.to_owned()));
        // What an answer takes is counted by itself.
        let rig = Rig::new();
        let slow = || async {
            std::thread::sleep(Duration::from_secs(1));
            here().await
        };
        assert_eq!(rig.ask(slow), Ok(asked));
        assert_eq!(rig.ask(here), Ok(WORKER.to_owned()));
    }

    #[test]
    fn what_waits_goes_on_at_a_worker_and_so_does_what_it_begins() {
        let rig = Rig::new();
        let waits = || async {
            let begun = tokio::spawn(here());
            tokio::task::yield_now().await;
            let begun = begun.await.unwrap();
            format!("{begun}, {}", here().await)
        };
        assert_eq!(rig.ask(waits), Ok(format!("{WORKER}, {WORKER}")));
    }

    #[test]
    fn a_call_that_is_given_up_ends_at_the_worker_too() {
        let rig = Rig::new();
        let (begun, mut begins) = mpsc::unbounded_channel();
        let hangs = move || {
            let begun = begun.clone();
            async move {
                let (held, gone) = oneshot::channel::<()>();
                begun.send(gone).unwrap();
                std::future::pending::<()>().await;
                drop(held);
                String::new()
            }
        };
        let (answers, hangs) = (rig.answers(), Says(hangs));
        let mut gone = None;
        rig.asked.block_on(async {
            let component = component();
            let call = answers.call(&component, &hangs, Request::new(request_body::empty()));
            tokio::select! {
                biased;
                _ = call => panic!("it hangs"),
                begun = begins.recv() => gone = begun,
            }
        });
        let gone = gone.expect("it began");
        assert!(rig.asked.block_on(gone).is_err());
    }

    #[test]
    fn a_panic_at_the_worker_is_one_of_the_call() {
        let rig = Rig::new();
        let panics = || async {
            tokio::task::yield_now().await;
            panic!("planted")
        };
        let ask = std::panic::AssertUnwindSafe(|| rig.ask(panics));
        let panic = std::panic::catch_unwind(ask).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"planted"));
    }

    /// A worker that has other things to do, on which whoever is held back is so for too long.
    fn busy() -> (Handle, tokio_util::sync::DropGuard) {
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let (sender, handle) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let worker = Builder::new_current_thread().enable_all().build().unwrap();
            worker.block_on(async {
                turns::divide(Duration::ZERO);
                for component in ["other".parse().unwrap(), component()] {
                    let uses = async {
                        turns::serve(&component).await;
                        std::thread::sleep(Duration::from_millis(5));
                    };
                    in_turn(uses, || false).await;
                }
                sender.send(Handle::current()).unwrap();
                stopped.cancelled().await;
            });
        });
        (handle.recv().unwrap(), stop.drop_guard())
    }

    #[test]
    fn who_waits_for_too_long_is_refused_unless_it_was_begun() {
        let waits = || async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            "answered".to_owned()
        };
        for is_begun in [false, true] {
            let (worker, _stop) = busy();
            let rig = Rig::new();
            assert!(rig.allowance.has_some(Instant::now()));
            if !is_begun {
                rig.allowance.spend(Duration::from_secs(3600));
            }
            let answers = Answers {
                worker,
                allowance: Arc::clone(&rig.allowance),
            };
            let request = Request::new(request_body::empty());
            let (component, says) = (component(), Says(waits));
            let answered = rig.asked.block_on(answers.call(&component, &says, request));
            let code = answered.err().map(|error| (error.code, error.retryable));
            assert_eq!(code, (!is_begun).then_some((NO_TURN, true)));
        }
    }

    #[test]
    fn answers_get_half_of_the_time() {
        let allowance = Allowance::default();
        let begun = Instant::now();
        let (step, answer) = (Duration::from_micros(10), Duration::from_micros(100));
        let mut given = Duration::ZERO;
        for steps in 0..100_000 {
            if allowance.has_some(begun + step * steps) {
                allowance.spend(answer);
                given += answer;
            }
        }
        let half = step * 100_000 / 2;
        assert!(given.abs_diff(half) < Duration::from_millis(2), "{given:?}");
    }
}
