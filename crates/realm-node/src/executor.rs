//! Does what the plan says: fetch, compile, start, route, drain, stop. It makes no choice.
//!
//! Each action changes [`Observed`] at once (so that the next plan knows it is under way) and may
//! start a task, whose end comes back as an event. Actions of an older generation are refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use realm_control::Desired;
use realm_control::backoff::delay_ms;
use realm_host::{Host, Meter, Replica};
use realm_model::action::{Action, Plan};
use realm_model::api::LogStream;
use realm_model::digest::Digest;
use realm_model::lock::Pin;
use realm_model::manifest::{ComponentSpec, Source};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{
    Artifact, ArtifactState, Millis, Observed, ReplicaId, ReplicaState, Revision, RouteTable,
};
use realm_store::blobs::Blobs;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::backend::LocalBackend;
use crate::compile::{CompileFailure, Compiler};
use crate::event::{Event, StartId, StepFailure};
use crate::replica;
use crate::rings::Rings;
use crate::traffic::Traffic;

/// A replica that was healthy for this long has overcome its failures: the next one begins with
/// the shortest wait again.
const STABLE_MS: u64 = 60_000;
/// How often a draining replica is looked at: a person does not see it, and it costs nothing.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// The hands of a node.
pub(crate) struct Executor {
    pub(crate) host: Host,
    pub(crate) edge: realm_edge::Handle,
    pub(crate) compiler: Compiler,
    pub(crate) blobs: Blobs,
    pub(crate) rings: Rings,
    pub(crate) traffic: Traffic,
    pub(crate) events: mpsc::Sender<Event>,
    /// What replicas of each revision run with; kept for as long as there are any.
    revisions: BTreeMap<(ComponentName, Revision), Arc<Running>>,
    replicas: BTreeMap<ReplicaId, Live>,
    starting: BTreeMap<ReplicaId, (StartId, AbortHandle)>,
    meters: BTreeMap<ComponentName, Arc<Meter>>,
    /// Failures in a row.
    failures: BTreeMap<ReplicaId, u32>,
    artifact_failures: BTreeMap<Artifact, u32>,
    restarts: BTreeMap<ComponentName, u64>,
    next_start: u64,
    generation: u64,
}

/// What the replicas of one revision share.
pub(crate) struct Running {
    pub(crate) spec: ComponentSpec,
    pub(crate) artifact: Artifact,
    pub(crate) loaded: tokio::sync::Mutex<Option<realm_host::Component>>,
}

struct Live {
    start: StartId,
    backend: Arc<LocalBackend>,
    health: Option<AbortHandle>,
}

/// What an action is carried out upon.
pub(crate) struct World<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) node: &'a NodeName,
    pub(crate) observed: &'a mut Observed,
    pub(crate) now: Millis,
}

impl Executor {
    pub(crate) fn new(
        host: Host,
        edge: realm_edge::Handle,
        compiler: Compiler,
        blobs: Blobs,
        rings: Rings,
        traffic: Traffic,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            host,
            edge,
            compiler,
            blobs,
            rings,
            traffic,
            events,
            revisions: BTreeMap::new(),
            replicas: BTreeMap::new(),
            starting: BTreeMap::new(),
            meters: BTreeMap::new(),
            failures: BTreeMap::new(),
            artifact_failures: BTreeMap::new(),
            restarts: BTreeMap::new(),
            next_start: 0,
            generation: 0,
        }
    }

    /// Carries out a plan; returns whether it did anything.
    pub(crate) fn execute(&mut self, plan: Plan, world: &mut World<'_>) -> bool {
        if plan.generation < self.generation {
            tracing::warn!(
                plan = plan.generation,
                newest = self.generation,
                "an old plan is refused"
            );
            return false;
        }
        self.generation = plan.generation;
        let any = !plan.actions.is_empty();
        for action in plan.actions {
            match action {
                Action::Fetch { pin, source } => self.fetch(pin, source, world),
                Action::Compile(artifact) => self.compile(artifact, world),
                Action::Start(replica) => self.start(replica, world),
                Action::Route(table) => self.route(table, world),
                Action::Drain { replica, grace_ms } => self.drain(replica, grace_ms, world),
                Action::Stop(replica) => self.stop(&replica, world),
            }
        }
        any
    }

    fn fetch(&mut self, pin: Pin, source: Source, world: &mut World<'_>) {
        let artifact = wanted_artifact(world.desired, pin.digest);
        world
            .observed
            .artifacts
            .insert(artifact, ArtifactState::Fetching { since: world.now });
        let (blobs, events) = (self.blobs.clone(), self.events.clone());
        tokio::spawn(async move {
            let result = fetch(&blobs, pin, &source).await;
            let _ = events.send(Event::Fetched { artifact, result }).await;
        });
    }

    fn compile(&mut self, artifact: Artifact, world: &mut World<'_>) {
        if self.compiler.has(artifact) {
            self.artifact_failures.remove(&artifact);
            world
                .observed
                .artifacts
                .insert(artifact, ArtifactState::Ready);
            return;
        }
        world
            .observed
            .artifacts
            .insert(artifact, ArtifactState::Compiling { since: world.now });
        let (compiler, events) = (self.compiler.clone(), self.events.clone());
        let source = self.blobs.path(&artifact.digest);
        tokio::spawn(async move {
            let result = compiler.compile(artifact, source).await;
            let _ = events.send(Event::Compiled { artifact, result }).await;
        });
    }

    fn start(&mut self, id: ReplicaId, world: &mut World<'_>) {
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
        world
            .observed
            .replicas
            .insert(id.clone(), ReplicaState::Starting { since: world.now });
        let task = replica::Start {
            host: self.host.clone(),
            compiled: self.compiler.path(running.artifact),
            ring: self.rings.ring(&id.component),
            meter: Arc::clone(self.meters.entry(id.component.clone()).or_default()),
            running,
            id: id.clone(),
        };
        let events = self.events.clone();
        let replica = id.clone();
        let handle = tokio::spawn(async move {
            let result = task.run().await;
            let _ = events
                .send(Event::Started {
                    replica,
                    start,
                    result,
                })
                .await;
        });
        self.starting.insert(id, (start, handle.abort_handle()));
    }

    fn route(&mut self, table: RouteTable, world: &mut World<'_>) {
        self.traffic
            .know(table.routes.iter().map(|route| &route.component));
        let backends = table.backends.iter().map(|(component, replicas)| {
            let live = replicas.iter().filter_map(|id| self.replicas.get(id));
            let backends =
                live.map(|live| Arc::clone(&live.backend) as Arc<dyn realm_edge::Backend>);
            (component.clone(), backends.collect())
        });
        self.edge.set_table(realm_edge::Table::new(
            table.routes.clone(),
            backends.collect(),
        ));
        world.observed.routes = table;
    }

    fn drain(&mut self, id: ReplicaId, grace_ms: u64, world: &mut World<'_>) {
        let Some(live) = self.replicas.get_mut(&id) else {
            world.observed.replicas.remove(&id);
            return;
        };
        if let Some(health) = live.health.take() {
            health.abort();
        }
        let backend = Arc::clone(&live.backend);
        let state = ReplicaState::Draining {
            deadline: world.now.plus(grace_ms),
            // Never 0 before it was looked at: a request may be on its way in from the old table.
            in_flight: backend.0.in_flight().max(1),
        };
        world.observed.replicas.insert(id.clone(), state);
        let events = self.events.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(DRAIN_INTERVAL).await;
                if backend.0.in_flight() == 0 {
                    break;
                }
            }
            let _ = events.send(Event::Idle(id)).await;
        });
    }

    fn stop(&mut self, id: &ReplicaId, world: &mut World<'_>) {
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

    fn forget_live(&mut self, id: &ReplicaId) {
        if let Some(health) = self.replicas.remove(id).and_then(|live| live.health) {
            health.abort();
        }
    }

    /// What a replica runs with: by the manifest in force if it is of the wanted revision, else as
    /// it was when its revision was wanted.
    fn running(&mut self, id: &ReplicaId, world: &World<'_>) -> Option<Arc<Running>> {
        let key = (id.component.clone(), id.revision);
        if let Some(running) = self.revisions.get(&key) {
            return Some(Arc::clone(running));
        }
        let desired = world.desired;
        if desired.revision_of(&id.component, world.node) != Some(id.revision) {
            return None;
        }
        let spec = desired
            .manifest
            .as_ref()?
            .components
            .get(&id.component)?
            .clone();
        let artifact = Artifact {
            digest: desired.pin(&id.component)?.digest,
            fuel: spec.limits.fuel_per_sec.is_some(),
        };
        let running = Arc::new(Running {
            spec,
            artifact,
            loaded: tokio::sync::Mutex::default(),
        });
        self.revisions.insert(key, Arc::clone(&running));
        Some(running)
    }

    /// A fetch ended.
    pub(crate) fn fetched(
        &mut self,
        artifact: Artifact,
        result: Result<(), StepFailure>,
        world: &mut World<'_>,
    ) {
        let state = match result {
            Ok(()) => ArtifactState::Fetched,
            Err(failure) => {
                tracing::warn!(digest = %artifact.digest, code = failure.code, reason = failure.reason, "fetch failed");
                self.artifact_failure(
                    artifact,
                    failure.code,
                    failure.reason,
                    failure.permanent,
                    world.now,
                )
            }
        };
        world.observed.artifacts.insert(artifact, state);
    }

    /// A compilation ended.
    pub(crate) fn compiled(
        &mut self,
        artifact: Artifact,
        result: Result<(), CompileFailure>,
        world: &mut World<'_>,
    ) {
        let state = match result {
            Ok(()) => {
                self.artifact_failures.remove(&artifact);
                ArtifactState::Ready
            }
            Err(failure) => {
                tracing::warn!(digest = %artifact.digest, code = failure.code, reason = failure.message, "compilation failed");
                self.artifact_failure(
                    artifact,
                    failure.code,
                    failure.message,
                    failure.permanent,
                    world.now,
                )
            }
        };
        world.observed.artifacts.insert(artifact, state);
    }

    fn artifact_failure(
        &mut self,
        artifact: Artifact,
        code: String,
        reason: String,
        permanent: bool,
        now: Millis,
    ) -> ArtifactState {
        let failures = self.artifact_failures.entry(artifact).or_default();
        *failures = failures.saturating_add(1);
        let seed = u64::from(artifact.digest.as_bytes()[0]);
        ArtifactState::Failed {
            code,
            reason,
            attempts: *failures,
            retry_at: (!permanent).then(|| now.plus(delay_ms(*failures, seed))),
        }
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
                let health = self.watch_health(&id, start, &replica);
                let backend = Arc::new(LocalBackend(replica));
                self.replicas.insert(
                    id.clone(),
                    Live {
                        start,
                        backend,
                        health,
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

    fn failed(&mut self, id: ReplicaId, failure: StepFailure, world: &mut World<'_>) {
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

    /// A compiled file that cannot be loaded is removed, so that the plan compiles again.
    fn recompile(&mut self, id: &ReplicaId, world: &mut World<'_>) {
        let Some(running) = self.revisions.get(&(id.component.clone(), id.revision)) else {
            return;
        };
        let path = self.compiler.path(running.artifact);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a damaged compiled file could not be removed");
        }
        world
            .observed
            .artifacts
            .insert(running.artifact, ArtifactState::Fetched);
    }

    fn watch_health(
        &self,
        id: &ReplicaId,
        start: StartId,
        replica: &Replica,
    ) -> Option<AbortHandle> {
        let running = self.revisions.get(&(id.component.clone(), id.revision))?;
        let check = running.spec.health.clone()?;
        let (replica, events, id) = (replica.clone(), self.events.clone(), id.clone());
        let task = tokio::spawn(async move {
            let reason = replica::until_unhealthy(&replica, &check).await;
            let _ = events
                .send(Event::Unhealthy {
                    replica: id,
                    start,
                    reason,
                })
                .await;
        });
        Some(task.abort_handle())
    }

    /// A draining replica has no request in flight.
    pub(crate) fn idle(&mut self, id: &ReplicaId, world: &mut World<'_>) {
        if let Some(ReplicaState::Draining { in_flight, .. }) = world.observed.replicas.get_mut(id)
        {
            *in_flight = 0;
        }
    }

    /// Bytes arrived: what failed for want of them is tried again at once.
    pub(crate) fn uploaded(&mut self, digest: &Digest, world: &mut World<'_>) {
        let failed = |artifact: &Artifact, state: &mut ArtifactState| {
            artifact.digest == *digest && matches!(state, ArtifactState::Failed { .. })
        };
        world
            .observed
            .artifacts
            .retain(|artifact, state| !failed(artifact, state));
        self.artifact_failures
            .retain(|artifact, _| artifact.digest != *digest);
    }

    /// Meters of every component that ever ran here.
    pub(crate) fn meters(&self) -> &BTreeMap<ComponentName, Arc<Meter>> {
        &self.meters
    }

    /// Times that replicas were started again after a failure.
    pub(crate) fn restarts(&self) -> &BTreeMap<ComponentName, u64> {
        &self.restarts
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Replicas in the edge's table go on serving; their watchers belong to this executor.
        for (_, task) in self.starting.values() {
            task.abort();
        }
        for live in self.replicas.values() {
            if let Some(health) = &live.health {
                health.abort();
            }
        }
    }
}

/// The artifact under which a fetch of `digest` is recorded: one that is wanted.
fn wanted_artifact(desired: &Desired, digest: Digest) -> Artifact {
    let manifest = desired.manifest.as_deref();
    let fuel = manifest.is_some_and(|manifest| {
        manifest.components.iter().any(|(name, spec)| {
            desired.pin(name).is_some_and(|pin| pin.digest == digest)
                && spec.limits.fuel_per_sec.is_some()
        })
    });
    Artifact { digest, fuel }
}

async fn fetch(blobs: &Blobs, pin: Pin, source: &Source) -> Result<(), StepFailure> {
    if let Source::File { .. } = source {
        // A path means something on the machine where it was applied, not here.
        return match blobs.verify(&pin.digest).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StepFailure {
                code: "not-uploaded".to_owned(),
                reason: format!("nobody uploaded {} to this node yet", pin.digest),
                permanent: true,
            }),
        };
    }
    let base = PathBuf::new();
    realm_store::fetch::fetch(blobs, pin, source, &base)
        .await
        .map_err(|error| StepFailure {
            code: error.code().to_owned(),
            reason: with_causes(&error),
            permanent: false,
        })
}

/// An error and what is below it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
