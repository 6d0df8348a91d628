//! The executor's half about replicas: start, drain, stop, and what their news mean.

use std::sync::Arc;
use std::time::Duration;

use realm_control::backoff::delay_ms;
use realm_host::Replica;
use realm_model::api::LogStream;
use realm_model::observed::{Artifact, ArtifactState, LastFailure, ReplicaId, ReplicaState};
use tokio::task::AbortHandle;

use super::{Executor, Live, Running, World};
use crate::backend::LocalBackend;
use crate::event::{Event, StartId, StepFailure};
use crate::replica;

/// A replica that was healthy for this long has overcome its failures: the next one begins with
/// the shortest wait again.
const STABLE_MS: u64 = 60_000;
/// How often a draining replica is looked at: a person does not see it, and it costs nothing.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

impl Executor {
    pub(super) fn start(&mut self, id: ReplicaId, world: &mut World<'_>) {
        let Some(running) = self.running(&id, world) else {
            let state = ReplicaState::Failed {
                code: "forgotten".to_owned(),
                reason: "its settings are gone since the agent restarted".to_owned(),
            };
            world.observed.replicas.insert(id, state);
            return;
        };
        if self.failures.contains_key(&id) {
            *self.restarts.entry(id.component.clone()).or_default() += 1;
        }
        let start = StartId(self.next_start);
        self.next_start += 1;
        let before = world.observed.replicas.remove(&id);
        let state = ReplicaState::Starting {
            since: world.now,
            last_failure: before.and_then(last_failure),
        };
        world.observed.replicas.insert(id.clone(), state);
        let (turns, task) = (
            Arc::clone(&self.starts),
            replica::Start {
                host: self.host.clone(),
                compiled: self.compiler.path(running.artifact),
                ring: self.rings.ring(&id.component),
                meter: Arc::clone(self.meters.entry(id.component.clone()).or_default()),
                running,
                id: id.clone(),
            },
        );
        let work = async move {
            let _turn = turns.acquire().await;
            task.run().await
        };
        let replica = id.clone();
        let handle = self.report(work, move |ended| Event::Started {
            replica,
            start,
            result: ended.flatten(),
        });
        self.starting.insert(id, (start, handle));
    }

    pub(super) fn drain(&mut self, id: ReplicaId, grace_ms: u64, world: &mut World<'_>) {
        let Some(live) = self.replicas.get_mut(&id) else {
            world.observed.replicas.remove(&id);
            return;
        };
        if let Some(health) = live.watch.take() {
            health.abort();
        }
        let start = live.start;
        let backend = Arc::clone(&live.backend);
        let state = ReplicaState::Draining {
            deadline: world.now.plus(grace_ms),
            // A request that is on its way in from the old table holds the backend by itself.
            in_flight: backend.0.in_flight(),
        };
        world.observed.replicas.insert(id.clone(), state);
        let work = async move {
            while backend.0.in_flight() > 0 {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        let replica = id.clone();
        let watch = self.report(work, move |_| Event::Idle { replica, start });
        if let Some(live) = self.replicas.get_mut(&id) {
            live.watch = Some(watch);
        }
    }

    pub(super) fn stop(&mut self, id: &ReplicaId, world: &mut World<'_>) {
        world.observed.replicas.remove(id);
        self.failures.remove(id);
        if let Some((_, task)) = self.starting.remove(id) {
            task.abort();
        }
        self.forget_live(id);
        let key = (id.component.clone(), id.revision);
        let still = world
            .observed
            .replicas
            .keys()
            .any(|other| other.component == id.component && other.revision == id.revision);
        if !still {
            self.revisions.remove(&key);
        }
    }

    pub(super) fn forget_live(&mut self, id: &ReplicaId) {
        if let Some(watch) = self.replicas.remove(id).and_then(|live| live.watch) {
            watch.abort();
        }
    }

    /// What a replica runs with: by the manifest in force if it is of the wanted revision, else as
    /// it was when its revision was wanted.
    pub(super) fn running(&mut self, id: &ReplicaId, world: &World<'_>) -> Option<Arc<Running>> {
        let key = (id.component.clone(), id.revision);
        if let Some(running) = self.revisions.get(&key) {
            return Some(Arc::clone(running));
        }
        let (spec, pin) = world
            .desired
            .settings_of(&id.component, world.node, id.revision)?;
        let artifact = Artifact {
            digest: pin.digest,
            fuel: spec.limits.fuel_per_sec.is_some(),
        };
        let running = Arc::new(Running {
            spec: spec.clone(),
            artifact,
            loaded: tokio::sync::Mutex::default(),
        });
        self.revisions.insert(key, Arc::clone(&running));
        Some(running)
    }

    /// A replica answered its first probe, or did not.
    pub(crate) fn started(
        &mut self,
        id: ReplicaId,
        start: StartId,
        result: Result<Replica, StepFailure>,
        world: &mut World<'_>,
    ) {
        if self
            .starting
            .get(&id)
            .is_none_or(|(current, _)| *current != start)
        {
            return;
        }
        self.starting.remove(&id);
        match result {
            Ok(replica) => {
                self.recovered(&id);
                let watch = self.watch_health(&id, start, &replica);
                let backend = Arc::new(LocalBackend(replica));
                self.replicas.insert(
                    id.clone(),
                    Live {
                        start,
                        backend,
                        watch,
                    },
                );
                world
                    .observed
                    .replicas
                    .insert(id, ReplicaState::Healthy { since: world.now });
            }
            Err(failure) => self.failed(id, failure, world),
        }
    }

    /// A replica failed its health checks.
    pub(crate) fn unhealthy(
        &mut self,
        id: ReplicaId,
        start: StartId,
        reason: String,
        world: &mut World<'_>,
    ) {
        if self
            .replicas
            .get(&id)
            .is_none_or(|live| live.start != start)
        {
            return;
        }
        if let Some(ReplicaState::Healthy { since }) = world.observed.replicas.get(&id)
            && world.now.since(*since) >= STABLE_MS
        {
            self.failures.remove(&id);
        }
        let failure = StepFailure {
            code: "unhealthy".to_owned(),
            reason,
            permanent: false,
        };
        self.failed(id, failure, world);
    }

    pub(super) fn failed(&mut self, id: ReplicaId, failure: StepFailure, world: &mut World<'_>) {
        tracing::warn!(replica = %id, code = failure.code, reason = failure.reason, "replica failed");
        self.rings.ring(&id.component).push(
            id.slot,
            LogStream::Agent,
            format!("{}: {}", failure.code, failure.reason),
        );
        // Requests in flight keep the backend; only new ones stop coming once the table changes.
        self.forget_live(&id);
        if failure.code == "bad-artifact" {
            self.recompile(&id, world);
        }
        let failures = self.failures.entry(id.clone()).or_default();
        *failures = failures.saturating_add(1);
        let state = if failure.permanent {
            ReplicaState::Failed {
                code: failure.code,
                reason: failure.reason,
            }
        } else {
            ReplicaState::Backoff {
                until: world.now.plus(delay_ms(*failures, u64::from(id.slot))),
                attempts: *failures,
                code: failure.code,
                reason: failure.reason,
            }
        };
        world.observed.replicas.insert(id, state);
    }

    /// A replica that started has loaded its compiled file.
    fn recovered(&mut self, id: &ReplicaId) {
        let key = (id.component.clone(), id.revision);
        if let Some(running) = self.revisions.get(&key) {
            self.recompiled.remove(&running.artifact);
        }
    }

    /// A compiled file that cannot be loaded is removed, so that the plan compiles again.
    pub(super) fn recompile(&mut self, id: &ReplicaId, world: &mut World<'_>) {
        let Some(running) = self.revisions.get(&(id.component.clone(), id.revision)) else {
            return;
        };
        // Once: a file that cannot be loaded although it is new has another cause, which is told.
        if !self.recompiled.insert(running.artifact) {
            return;
        }
        let path = self.compiler.path(running.artifact);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a damaged compiled file could not be removed");
        }
        world
            .observed
            .artifacts
            .insert(running.artifact, ArtifactState::Fetched);
    }

    pub(super) fn watch_health(
        &self,
        id: &ReplicaId,
        start: StartId,
        replica: &Replica,
    ) -> Option<AbortHandle> {
        let running = self.revisions.get(&(id.component.clone(), id.revision))?;
        let check = running.spec.health.clone()?;
        let (watched, replica) = (replica.clone(), id.clone());
        let work = async move { replica::until_unhealthy(&watched, &check).await };
        Some(self.report(work, move |ended| Event::Unhealthy {
            replica,
            start,
            reason: ended.unwrap_or_else(|panicked| panicked.reason),
        }))
    }

    /// A draining replica has no request in flight.
    pub(crate) fn idle(&mut self, id: &ReplicaId, start: StartId, world: &mut World<'_>) {
        if self.replicas.get(id).is_none_or(|live| live.start != start) {
            return;
        }
        if let Some(ReplicaState::Draining { in_flight, .. }) = world.observed.replicas.get_mut(id)
        {
            *in_flight = 0;
        }
    }
}

/// What a replica that starts again failed with.
fn last_failure(state: ReplicaState) -> Option<LastFailure> {
    match state {
        ReplicaState::Backoff {
            attempts,
            code,
            reason,
            ..
        } => Some(LastFailure {
            attempts,
            code,
            reason,
        }),
        ReplicaState::Starting { last_failure, .. } => last_failure,
        ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Failed { .. } => None,
    }
}
