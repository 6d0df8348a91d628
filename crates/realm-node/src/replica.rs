//! The life of one replica outside of the loop: load, first probe, health checks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use realm_edge::Upstream;
use realm_host::{
    Component, Host, LoadError, Meter, Outcome, ProbeError, Program, Replica, Settings, Term,
    Working,
};
use realm_model::limits::Limits;
use realm_model::manifest::{HealthCheck, Mode};
use realm_model::observed::ReplicaId;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::with_causes;
use crate::event::StepFailure;
use crate::executor::{self, Running, Tenure};
use crate::rings::Ring;
use crate::run::{self, Begun, Ports};
use crate::stores::{Shelf, Who};
use crate::upstream::{self, Beside, Service};

/// A first probe may take this long even if the health check's own timeout is shorter: the first
/// instance of a component touches its pages for the first time.
const FIRST_PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that one attempt to start a replica needs.
pub(crate) struct Start {
    pub(crate) host: Host,
    pub(crate) compiled: PathBuf,
    pub(crate) ring: Arc<Ring>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) running: Arc<Running>,
    pub(crate) ports: Ports,
    /// What the machine's operator allows of services beside realm.
    pub(crate) beside: Beside,
    pub(crate) shelf: Shelf,
    pub(crate) id: ReplicaId,
    /// Of a singleton: until when it may run.
    pub(crate) tenure: Option<Tenure>,
    /// What has to be gone first.
    pub(crate) before: Vec<Term>,
}

/// What has started.
pub(crate) enum Started {
    /// A slot that answers requests, or is called by events, or both.
    Answers(Replica, Option<Working>),
    /// A program that runs by itself.
    Runs(Begun),
    /// A service beside realm.
    Passes(Service),
}

impl Start {
    /// Loads the component if no other replica of the revision has, and starts a replica of it. The
    /// turn is given back when the work of loading and of the first instance is done.
    pub(crate) async fn run(
        self,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Started, StepFailure> {
        executor::gone(&self.before).await;
        match self.running.spec.mode() {
            Mode::Answers | Mode::Worker => {
                let replica = self.replica().await?;
                drop(turn);
                let working = replica.work(&self.running.spec.triggers).await;
                let working = working.map_err(|error| load_failure(&error))?;
                Ok(Started::Answers(replica, working))
            }
            Mode::Upstream => {
                let (spec, beside) = (&self.running.spec, self.beside.clone());
                let ring = Arc::clone(&self.ring);
                let service = upstream::start(spec, beside, ring, self.id.slot).await?;
                Ok(Started::Passes(service))
            }
            Mode::Server | Mode::Service | Mode::Once | Mode::Scheduled => {
                let program = self.program().await?;
                drop(turn);
                let spec = &self.running.spec;
                let begun = run::start(&program, spec, &self.id, self.term(), &self.ports).await?;
                Ok(Started::Runs(begun))
            }
        }
    }

    /// A new replica that passed its probe.
    async fn replica(&self) -> Result<Replica, StepFailure> {
        let component = self.component().await?;
        let replica = component.replica_until(self.id.slot, self.term());
        let probe = tokio::time::timeout(FIRST_PROBE_TIMEOUT, replica.probe()).await;
        match probe {
            Ok(Ok(())) => Ok(replica),
            Ok(Err(error)) => Err(StepFailure {
                code: "probe-failed".to_owned(),
                reason: with_causes(&error),
                permanent: false,
            }),
            Err(_) => Err(StepFailure {
                code: "probe-failed".to_owned(),
                reason: format!(
                    "no answer to the first probe within {} s",
                    FIRST_PROBE_TIMEOUT.as_secs()
                ),
                permanent: false,
            }),
        }
    }

    fn term(&self) -> Option<Term> {
        self.tenure.as_ref().map(Tenure::term)
    }

    async fn component(&self) -> Result<Component, StepFailure> {
        let mut loaded = self.running.loaded.lock().await;
        if let Some(component) = &*loaded {
            return Ok(component.clone());
        }
        let settings = self.settings(self.running.spec.limits.clone()).await?;
        let with = match self.running.spec.mode() {
            Mode::Worker => Host::load_worker,
            Mode::Answers
            | Mode::Server
            | Mode::Upstream
            | Mode::Service
            | Mode::Once
            | Mode::Scheduled => Host::load,
        };
        let component = self.load(settings, with).await?;
        *loaded = Some(component.clone());
        Ok(component)
    }

    async fn program(&self) -> Result<Program, StepFailure> {
        let mut loaded = self.running.program.lock().await;
        if let Some(program) = &*loaded {
            return Ok(program.clone());
        }
        let settings = self.settings(run::limits(&self.running.spec)).await?;
        let program = self.load(settings, Host::load_program).await?;
        *loaded = Some(program.clone());
        Ok(program)
    }

    async fn settings(&self, limits: Limits) -> Result<Settings, StepFailure> {
        let spec = &self.running.spec;
        // Opening one may read the disk.
        let (shelf, running) = (self.shelf.clone(), Arc::clone(&self.running));
        let component = self.id.component.clone();
        let stores = blocking(move || {
            let who = Who {
                component: &component,
                artifact: &running.artifact,
            };
            shelf.of(&who, &running.spec.grants, &running.secrets)
        })
        .await?;
        Ok(Settings {
            name: self.id.component.clone(),
            limits,
            grants: spec.grants.clone(),
            stores,
            reuse: spec.reuse,
            probe: spec.health.as_ref().map(|health| health.probe.clone()),
            log: Arc::clone(&self.ring) as Arc<dyn realm_host::LogSink>,
            meter: Arc::clone(&self.meter),
        })
    }

    /// Mapping and linking is CPU and disk work: not on a thread that serves.
    async fn load<T: Send + 'static>(
        &self,
        settings: Settings,
        with: fn(&Host, Settings, &Path) -> Result<T, LoadError>,
    ) -> Result<T, StepFailure> {
        let (host, compiled) = (self.host.clone(), self.compiled.clone());
        let load = move || with(&host, settings, &compiled).map_err(|error| load_failure(&error));
        blocking(load).await
    }
}

/// Not on a thread that serves.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepFailure> + Send + 'static,
) -> Result<T, StepFailure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StepFailure {
            code: "load-panicked".to_owned(),
            reason: error.to_string(),
            permanent: false,
        })?
}

/// What a health check was told.
pub(crate) enum Health {
    Well,
    /// No room for the question is no answer: a busy replica is not a sick one.
    Busy,
    Ill(String),
}

/// Asks a slot that answers requests.
pub(crate) async fn ask_replica(replica: Replica) -> Health {
    match replica.probe().await {
        Ok(()) => Health::Well,
        Err(ProbeError::Failed(error)) if error.code == Outcome::Overloaded.code() => Health::Busy,
        Err(error) => Health::Ill(with_causes(&error)),
    }
}

/// Asks a server.
pub(crate) async fn ask_server(upstream: Upstream, path: String) -> Health {
    match run::healthy(&upstream, &path).await {
        Ok(()) => Health::Well,
        Err(reason) => Health::Ill(reason),
    }
}

/// Asks for health until it failed as often in a row as the check allows; returns the last reason.
pub(crate) async fn until_unhealthy<F: Future<Output = Health>>(
    ask: impl Fn() -> F,
    check: &HealthCheck,
) -> String {
    let mut failures = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(check.interval_ms)).await;
        let timeout = Duration::from_millis(check.timeout_ms);
        let reason = match tokio::time::timeout(timeout, ask()).await {
            Ok(Health::Well) => {
                failures = 0;
                continue;
            }
            Ok(Health::Busy) => continue,
            Ok(Health::Ill(reason)) => reason,
            Err(_) => format!(
                "no answer to the health check within {} ms",
                check.timeout_ms
            ),
        };
        failures += 1;
        if failures >= check.failures {
            return format!("{failures} health checks failed: {reason}");
        }
    }
}

fn load_failure(error: &LoadError) -> StepFailure {
    let permanent = match error {
        LoadError::TooLarge(_)
        | LoadError::MissingImports { .. }
        | LoadError::Link(_)
        | LoadError::WrongWorld { .. }
        | LoadError::NoHealthExport
        | LoadError::NoHandler { .. }
        | LoadError::DirDenied { .. } => true,
        LoadError::BadArtifact(_)
        | LoadError::Unreadable(_)
        | LoadError::Engine(_)
        | LoadError::Dir { .. } => false,
    };
    StepFailure {
        code: error.code().to_owned(),
        reason: with_causes(error),
        permanent,
    }
}
