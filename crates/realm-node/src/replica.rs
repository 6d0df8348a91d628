//! The life of one replica outside of the loop: load, first probe, health checks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use realm_host::{Component, Host, LoadError, Meter, Outcome, ProbeError, Replica, Settings};
use realm_model::manifest::HealthCheck;
use realm_model::observed::ReplicaId;

use crate::error::with_causes;
use crate::event::StepFailure;
use crate::executor::Running;
use crate::rings::Ring;

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
    pub(crate) id: ReplicaId,
}

impl Start {
    /// Loads the component if no other replica of the revision has, and probes a new replica; returns
    /// one that passed its probe.
    pub(crate) async fn run(self) -> Result<Replica, StepFailure> {
        let component = self.component().await?;
        let replica = component.replica(self.id.slot);
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

    async fn component(&self) -> Result<realm_host::Component, StepFailure> {
        let mut loaded = self.running.loaded.lock().await;
        if let Some(component) = &*loaded {
            return Ok(component.clone());
        }
        let settings = Settings {
            name: self.id.component.clone(),
            limits: self.running.spec.limits.clone(),
            grants: self.running.spec.grants.clone(),
            reuse: self.running.spec.reuse,
            probe: self
                .running
                .spec
                .health
                .as_ref()
                .map(|health| health.probe.clone()),
            log: Arc::clone(&self.ring) as Arc<dyn realm_host::LogSink>,
            meter: Arc::clone(&self.meter),
        };
        let (host, compiled) = (self.host.clone(), self.compiled.clone());
        // Mapping and linking is CPU and disk work: not on a thread that serves.
        let component = tokio::task::spawn_blocking(move || load(&host, settings, &compiled))
            .await
            .map_err(|error| StepFailure {
                code: "load-panicked".to_owned(),
                reason: error.to_string(),
                permanent: false,
            })??;
        *loaded = Some(component.clone());
        Ok(component)
    }
}

/// Asks for the health of a replica until it failed as often in a row as the check allows; returns
/// the last reason.
pub(crate) async fn until_unhealthy(replica: &Replica, check: &HealthCheck) -> String {
    let mut failures = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(check.interval_ms)).await;
        let timeout = Duration::from_millis(check.timeout_ms);
        let reason = match tokio::time::timeout(timeout, replica.probe()).await {
            Ok(Ok(())) => {
                failures = 0;
                continue;
            }
            // No room for the question is no answer: a busy replica is not a sick one.
            Ok(Err(ProbeError::Failed(error))) if error.code == Outcome::Overloaded.code() => {
                continue;
            }
            Ok(Err(error)) => with_causes(&error),
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

/// Checks and maps a compiled file; reads the disk.
fn load(host: &Host, settings: Settings, compiled: &Path) -> Result<Component, StepFailure> {
    match crate::compile::is_sound(compiled) {
        Ok(true) => host
            .load(settings, compiled)
            .map_err(|error| load_failure(&error)),
        Ok(false) | Err(_) => Err(StepFailure {
            code: "bad-artifact".to_owned(),
            reason: "the compiled file is not what was compiled".to_owned(),
            permanent: false,
        }),
    }
}

fn load_failure(error: &LoadError) -> StepFailure {
    let permanent = match error {
        LoadError::MissingImports { .. }
        | LoadError::Link(_)
        | LoadError::WrongWorld { .. }
        | LoadError::NoHealthExport
        | LoadError::DirDenied { .. } => true,
        LoadError::BadArtifact(_) | LoadError::Engine(_) | LoadError::Dir { .. } => false,
    };
    StepFailure {
        code: error.code().to_owned(),
        reason: with_causes(error),
        permanent,
    }
}
