//! The question whether a replica is healthy, asked the way its settings say.
//!
//! Not the answer's consequence: how often it is asked and how many bad answers count is the
//! node's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt as _;
use realm_model::manifest::Probe;
use tokio::sync::oneshot;

use crate::Body;
use crate::admission::Admitted;
use crate::body::EndOnDrop;
use crate::guest::{self, Question};
use crate::invocation::{Shared, Wall, drive, said};
use crate::outcome::{CallError, Outcome};
use crate::remarks::limit_words;
use crate::replica::{Invocation, Kind, Replica};

/// Why a replica is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// No answer.
    #[error("the probe failed ({}): {}", .0.code, .0.message)]
    Failed(CallError),
    /// An answer with another status than 200 to 399.
    #[error("the probe was answered with status {0}")]
    Status(u16),
    /// The health function's own words.
    #[error("the component says: {0}")]
    Unhealthy(String),
}

impl ProbeError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Failed(error) => error.code,
            Self::Status(_) => "probe-status",
            Self::Unhealthy(_) => "unhealthy",
        }
    }
}

impl From<Outcome> for ProbeError {
    fn from(outcome: Outcome) -> Self {
        Self::Failed(outcome.into())
    }
}

impl Replica {
    /// Asks once. Takes no place of a request, and counts as none.
    ///
    /// Bounded by `wall_timeout_ms`; drop the future to wait for less.
    ///
    /// # Errors
    /// Why the replica is not healthy; details of a trap are in the component's log.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let settings = &self.0.component.settings;
        let wall = Duration::from_millis(settings.limits.wall_timeout_ms);
        let deadline = Instant::now() + wall;
        let admitted = self.0.admission.enter_probe().await;
        let admitted = admitted.ok_or(Outcome::Overloaded)?;
        match &settings.probe {
            Some(Probe::Http(path)) => self.get(path, admitted, deadline).await,
            Some(Probe::Export) => self.ask(Question::Health, admitted, deadline).await,
            None => self.ask(Question::Start, admitted, deadline).await,
        }
    }

    /// Told to the operator, so with the figures that a client does not get.
    fn failed(&self, outcome: Outcome, shared: &Shared) -> ProbeError {
        let mut error = CallError::from(outcome);
        let limits = &self.0.component.settings.limits;
        if let Some(words) = limit_words(outcome, Some(shared), limits) {
            error.message = words;
        }
        ProbeError::Failed(error)
    }

    async fn get(
        &self,
        path: &str,
        admitted: Admitted,
        deadline: Instant,
    ) -> Result<(), ProbeError> {
        let request = Request::builder()
            .uri(path)
            .header(http::header::HOST, "localhost")
            .header(http::header::USER_AGENT, "realm-probe")
            .body(Body::default())
            .map_err(|_| Outcome::BadRequest)?;
        let invocation = Invocation::begin(&self.0, Kind::Probe, admitted);
        let shared = Arc::clone(&invocation.shared);
        let response = self.dispatch(request, invocation, None, deadline).await;
        let response = response.map_err(|outcome| self.failed(outcome, &shared))?;
        let (parts, mut body) = response.into_parts();
        // The body is part of the answer: a guest that traps half-way is not healthy.
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| Outcome::Trap)?;
        }
        match parts.status.as_u16() {
            200..=399 => Ok(()),
            status => Err(ProbeError::Status(status)),
        }
    }

    async fn ask(
        &self,
        question: Question,
        admitted: Admitted,
        deadline: Instant,
    ) -> Result<(), ProbeError> {
        let invocation = Invocation::begin(&self.0, Kind::Probe, admitted);
        let shared = Arc::clone(&invocation.shared);
        let (sender, receiver) = oneshot::channel();
        // A task of its own, as every guest: it must not run on the caller's.
        let task = tokio::spawn({
            let host = self.0.component.host.clone();
            let shared = Arc::clone(&shared);
            let term = self.0.term.clone();
            async move {
                let call = async move {
                    if let Some(answer) = guest::ask(&invocation, question).await {
                        // The one who asked may have gone: then the answer is for nobody.
                        let _ = sender.send(answer);
                    }
                };
                let wall = Wall::of_a_request(deadline, &host);
                drive(shared, wall, &host, false, Box::pin(call), term).await;
            }
        });
        let _end = EndOnDrop::new(Some(task.abort_handle()), Arc::clone(&shared));
        match said(receiver, task, &shared).await {
            Some(Ok(())) => Ok(()),
            Some(Err(words)) => Err(ProbeError::Unhealthy(words)),
            None => {
                let outcome = shared.failure().unwrap_or(Outcome::StartFailed);
                Err(self.failed(outcome, &shared))
            }
        }
    }
}
