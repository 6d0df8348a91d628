//! Does what the plan says: fetch, compile, start, route, drain, stop. It makes no choice.
//!
//! Each action changes [`Observed`] at once (so that the next plan knows it is under way) and may
//! start a task, whose end comes back as an event. Actions of an older generation are refused.

mod artifacts;
mod fetching;
mod replicas;
mod tenure;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_control::place::Placement;
use realm_control::{Authority, Desired};
use realm_host::{CodeFigures, Host, Meter};
use realm_model::action::{Action, Plan};
use realm_model::digest::Digest;
use realm_model::manifest::ComponentSpec;
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{
    Artifact, ArtifactState, Millis, Observed, ReplicaId, ReplicaState, Revision, RouteTable,
};
use realm_model::route::Route;
use realm_model::sealing::Sealed;
use realm_store::blobs::Blobs;
use realm_store::fetch::Origins;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::compile::Compiler;
use crate::event::{Event, StartId, StepFailure};
use crate::jobs::Jobs;
use crate::network::Peers;
use crate::rings::Rings;
use crate::run::{Ports, RunGuard};
use crate::serving::Serving;
use crate::stores::{Shelf, messages};
use crate::traffic::Traffic;
use crate::upstream::Beside;

use artifacts::Losses;
pub(crate) use tenure::{Tenure, gone};
pub(crate) use work::Unrun;
use work::Work;

/// Fetches and verifications at once: enough to hide a slow origin, few enough for a small disk.
const FETCHES_MAX: usize = 4;

/// Artifacts at once for which this node waits that others have them. More than fetches: those for
/// which it is the first to ask the origin must come to their turn while others wait for it. All nodes
/// come to their artifacts in the same order.
const WAITS_MAX: usize = 64;

/// Replicas that start at once: each probe is an instance, and a realm of thousands must not ask for
/// all of them in one moment.
const STARTS_MAX: usize = 16;

/// Refuses plans that were made before one that was carried out.
#[derive(Default)]
struct Fence {
    newest: u64,
}

impl Fence {
    fn admits(&mut self, generation: u64) -> bool {
        let admitted = generation >= self.newest;
        self.newest = self.newest.max(generation);
        admitted
    }
}

/// The hands of a node.
pub(crate) struct Executor {
    host: Host,
    edge: realm_edge::Handle,
    compiler: Compiler,
    blobs: Blobs,
    rings: Rings,
    traffic: Traffic,
    events: mpsc::Sender<Event>,
    fetches: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    starts: Arc<Semaphore>,
    serving: Serving,
    jobs: Jobs,
    peers: Peers,
    origins: Arc<Origins>,
    ports: Ports,
    /// Services that the machine's operator allows.
    beside: Beside,
    shelf: Shelf,
    /// Times of schedules that were not run.
    unrun: BTreeMap<ComponentName, Unrun>,
    /// What replicas of each revision run with; kept for as long as there are any.
    revisions: BTreeMap<(ComponentName, Revision), Arc<Running>>,
    replicas: BTreeMap<ReplicaId, Live>,
    starting: BTreeMap<ReplicaId, Starting>,
    /// What was ended of singletons, and may have a moment left.
    leaving: Vec<(ComponentName, realm_host::Term)>,
    clock: Clock,
    meters: BTreeMap<ComponentName, Arc<Meter>>,
    /// Failures in a row.
    failures: BTreeMap<ReplicaId, u32>,
    artifact_failures: BTreeMap<Artifact, u32>,
    /// Compiled files that could not be loaded and were compiled again, once.
    recompiled: BTreeSet<Artifact>,
    /// Compiled files that were lost of late.
    losses: BTreeMap<Artifact, Losses>,
    /// Since the start.
    compilations: u64,
    restarts: BTreeMap<ComponentName, u64>,
    next_start: u64,
    fence: Fence,
    /// The generation whose groups of subscribers are known.
    groups_at: Option<u64>,
    /// Who else answers for a component.
    others: BTreeMap<ComponentName, Vec<realm_edge::Far>>,
}

/// What the replicas of one revision share.
pub(crate) struct Running {
    pub(crate) spec: ComponentSpec,
    /// What it may open, sealed.
    pub(crate) secrets: BTreeMap<String, Sealed>,
    pub(crate) artifact: Artifact,
    pub(crate) loaded: tokio::sync::Mutex<Option<realm_host::Component>>,
    pub(crate) program: tokio::sync::Mutex<Option<realm_host::Program>>,
}

/// A start that is under way.
struct Starting {
    start: StartId,
    task: AbortHandle,
    /// Of a singleton.
    tenure: Option<Tenure>,
}

struct Live {
    start: StartId,
    work: Work,
    /// Of a singleton.
    tenure: Option<Tenure>,
    /// The task that watches it: its health, or whether it is idle.
    watch: Option<AbortHandle>,
    /// Of what runs by itself: it ends with this.
    _run: Option<RunGuard>,
}

impl Live {
    /// Where requests go.
    fn backend(&self) -> Option<Arc<dyn realm_edge::Backend>> {
        let backend = self.work.backend()?;
        Some(match &self.tenure {
            None => backend,
            Some(tenure) => Arc::new(tenure::Leased {
                backend,
                tenure: tenure.clone(),
            }),
        })
    }
}

/// What an executor works with.
pub(crate) struct Means {
    pub(crate) host: Host,
    pub(crate) edge: realm_edge::Handle,
    pub(crate) compiler: Compiler,
    pub(crate) blobs: Blobs,
    pub(crate) rings: Rings,
    pub(crate) traffic: Traffic,
    pub(crate) serving: Serving,
    pub(crate) jobs: Jobs,
    pub(crate) peers: Peers,
    pub(crate) origins: Origins,
    pub(crate) beside: Beside,
    pub(crate) shelf: Shelf,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) clock: Clock,
}

/// What an action is carried out upon.
pub(crate) struct World<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) authority: &'a Authority,
    pub(crate) placement: &'a Placement,
    pub(crate) node: &'a NodeName,
    pub(crate) observed: &'a mut Observed,
    pub(crate) now: Millis,
}

impl Executor {
    /// Whether the bytes of a digest are here.
    pub(crate) fn has(&self, digest: &realm_model::digest::Digest) -> bool {
        self.blobs.has(digest)
    }

    pub(crate) fn new(means: Means) -> Self {
        let Means {
            host,
            edge,
            compiler,
            blobs,
            rings,
            traffic,
            serving,
            jobs,
            peers,
            origins,
            beside,
            shelf,
            events,
            clock,
        } = means;
        Self {
            host,
            edge,
            compiler,
            blobs,
            rings,
            traffic,
            events,
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            waits: Arc::new(Semaphore::new(WAITS_MAX)),
            starts: Arc::new(Semaphore::new(STARTS_MAX)),
            serving,
            jobs,
            peers,
            origins: Arc::new(origins),
            ports: Ports::default(),
            beside,
            shelf,
            unrun: BTreeMap::new(),
            revisions: BTreeMap::new(),
            replicas: BTreeMap::new(),
            starting: BTreeMap::new(),
            leaving: Vec::new(),
            clock,
            meters: BTreeMap::new(),
            failures: BTreeMap::new(),
            artifact_failures: BTreeMap::new(),
            recompiled: BTreeSet::new(),
            losses: BTreeMap::new(),
            compilations: 0,
            restarts: BTreeMap::new(),
            next_start: 0,
            fence: Fence::default(),
            groups_at: None,
            others: BTreeMap::new(),
        }
    }

    /// Carries out a plan; returns whether it did anything.
    pub(crate) fn execute(&mut self, plan: Plan, world: &mut World<'_>) -> bool {
        if !self.fence.admits(plan.generation) {
            tracing::warn!(
                plan = plan.generation,
                newest = self.fence.newest,
                "an old plan is refused"
            );
            return false;
        }
        if self.groups_at != Some(plan.generation) {
            self.groups_at = Some(plan.generation);
            self.keep_groups(world);
        }
        let any = !plan.actions.is_empty();
        for action in plan.actions {
            match action {
                Action::Fetch { pin, source } => self.fetch(pin, source, world),
                Action::Compile(artifact) => self.compile(artifact, world),
                Action::Start(replica) => self.start(replica, world),
                Action::Route(table) => self.route(table, world),
                Action::Drain { replica, grace_ms } => self.drain(replica, grace_ms, world),
                Action::Stop(replica) => self.stop(&replica, world),
                Action::Handle {
                    component,
                    handled,
                    overlapped,
                    missed,
                } => self.handle(component, handled, Unrun { overlapped, missed }, world),
            }
        }
        any
    }

    /// The groups of what is wanted, and of older versions that still run.
    pub(super) fn keep_groups(&mut self, world: &World<'_>) {
        // Nothing is forgotten on an empty view.
        let Some(manifest) = world.desired.manifest.as_deref() else {
            return;
        };
        let wanted = manifest.components.values();
        let running = self.revisions.values().map(|running| &running.spec);
        self.shelf
            .keep_groups(messages::groups(wanted.chain(running)));
        let wanted = manifest.components.iter();
        let running = self.revisions.iter();
        let running = running.map(|((component, _), running)| (component, &running.spec));
        let all = wanted.chain(running);
        let meters = &mut self.meters;
        let meter = |name: &ComponentName| Arc::clone(meters.entry(name.clone()).or_default());
        self.shelf.keep_subscribed(messages::subscribed(all, meter));
    }

    fn route(&mut self, table: RouteTable, world: &mut World<'_>) {
        self.traffic
            .know(table.routes.iter().flat_map(Route::answering));
        self.set_table(&table);
        self.serving.keep(&table);
        world.observed.routes = table;
    }

    fn set_table(&self, table: &RouteTable) {
        let backends = table.backends.iter().map(|(component, replicas)| {
            let live = replicas.iter().filter_map(|id| self.replicas.get(id));
            let backends = live.filter_map(Live::backend);
            (component.clone(), backends.collect())
        });
        self.edge.set_table(realm_edge::Table::with_others(
            table.routes.clone(),
            backends.collect(),
            self.others.clone(),
            self.edge.gates(table.fronts.clone()),
        ));
    }

    /// Takes who else answers for each component.
    pub(crate) fn meets(
        &mut self,
        others: BTreeMap<ComponentName, Vec<realm_edge::Far>>,
        world: &World<'_>,
    ) {
        self.others = others;
        self.set_table(&world.observed.routes);
    }

    /// Takes plans again that were made from fewer entries: the owners ended a history.
    pub(crate) fn rewound(&mut self) {
        self.fence = Fence::default();
    }

    /// Waits until the disk knows who serves: from the next entry on nothing else tells.
    pub(crate) fn settle(&self) {
        self.serving.settle();
    }

    /// Runs `work` as a task and reports its end as an event; a panic is an end as well.
    fn report<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        event: impl FnOnce(Result<T, StepFailure>) -> Event + Send + 'static,
    ) -> AbortHandle {
        let events = self.events.clone();
        let work = tokio::spawn(work);
        let handle = work.abort_handle();
        tokio::spawn(async move {
            let ended = match work.await {
                Ok(value) => Ok(value),
                Err(error) if error.is_panic() => Err(StepFailure::panicked()),
                // Aborted: whoever did that does not wait for news.
                Err(_) => return,
            };
            // The loop may be gone; then nobody waits.
            let _ = events.send(event(ended)).await;
        });
        handle
    }

    /// After a panic of the loop: keeps what serves, and forgets what was under way.
    pub(crate) fn reconcile(&mut self, world: &mut World<'_>) {
        for (id, starting) in std::mem::take(&mut self.starting) {
            self.forget_starting(&id, starting);
        }
        let observed = &mut *world.observed;
        observed.artifacts.retain(|_, state| match state {
            ArtifactState::Fetching { .. } | ArtifactState::Compiling { .. } => false,
            ArtifactState::Fetched | ArtifactState::Ready | ArtifactState::Failed { .. } => true,
        });
        let live = &self.replicas;
        observed.replicas.retain(|id, state| match state {
            ReplicaState::Starting { .. } => false,
            ReplicaState::Healthy { .. } | ReplicaState::Draining { .. } => live.contains_key(id),
            ReplicaState::Backoff { .. }
            | ReplicaState::Done { .. }
            | ReplicaState::Failed { .. } => true,
        });
        let known = &observed.replicas;
        let unknown = self.replicas.keys().filter(|id| !known.contains_key(id));
        for id in unknown.cloned().collect::<Vec<_>>() {
            self.forget_live(&id);
        }
    }

    /// Forgets what belongs to components that left the manifest and run no longer, so that
    /// nothing grows with every name and digest that ever was.
    pub(crate) fn forget_what_left(&mut self, world: &mut World<'_>) {
        let (desired, observed) = (world.desired, &mut *world.observed);
        let running: BTreeSet<ComponentName> = observed
            .replicas
            .keys()
            .map(|id| id.component.clone())
            .collect();
        let known = |name: &ComponentName| desired.pin(name).is_some() || running.contains(name);
        self.meters.retain(|name, _| known(name));
        self.restarts.retain(|name, _| known(name));
        self.unrun.retain(|name, _| known(name));
        self.jobs.retain(known);
        observed.schedules.retain(|name, _| known(name));
        self.rings.retain(known);
        self.traffic.retain(known);
        self.failures
            .retain(|id, _| observed.replicas.contains_key(id));
        let pinned: BTreeSet<Digest> = desired
            .lock
            .components
            .values()
            .map(|pin| pin.digest)
            .collect();
        let used = |artifact: &Artifact| pinned.contains(&artifact.digest);
        observed.artifacts.retain(|artifact, _| used(artifact));
        self.artifact_failures.retain(|artifact, _| used(artifact));
        self.losses.retain(|artifact, _| used(artifact));
        self.recompiled.retain(used);
    }

    /// Meters of every component that ever ran here.
    pub(crate) fn meters(&self) -> &BTreeMap<ComponentName, Arc<Meter>> {
        &self.meters
    }

    /// Requests in flight by component and slot; of two revisions in one slot the sum.
    pub(crate) fn in_flight(&self) -> Vec<(ComponentName, u32, u32)> {
        let mut sums: BTreeMap<(&ComponentName, u32), u32> = BTreeMap::new();
        for (id, live) in &self.replicas {
            if let Some(backend) = live.work.backend() {
                *sums.entry((&id.component, id.slot)).or_default() += backend.load();
            }
        }
        let sums = sums.into_iter();
        sums.map(|((component, slot), sum)| (component.clone(), slot, sum))
            .collect()
    }

    /// The same of all together.
    pub(crate) fn load(&self) -> u32 {
        let backends = self
            .replicas
            .values()
            .filter_map(|live| live.work.backend());
        backends.map(|backend| backend.load()).sum()
    }

    /// Programs that run by themselves at this moment, by component.
    pub(crate) fn running_programs(&self) -> BTreeMap<ComponentName, u32> {
        let mut running = BTreeMap::new();
        let runs = self.replicas.iter();
        for (id, _) in runs.filter(|(_, live)| live.work.runs()) {
            *running.entry(id.component.clone()).or_default() += 1;
        }
        running
    }

    /// Times of schedules that were not run.
    pub(crate) fn unrun(&self) -> &BTreeMap<ComponentName, Unrun> {
        &self.unrun
    }

    /// What is in memory of the compiled files.
    pub(crate) fn code(&self) -> CodeFigures {
        self.host.code()
    }

    /// Compilations that were begun.
    pub(crate) fn compilations(&self) -> u64 {
        self.compilations
    }

    /// Times that replicas were started again after a failure.
    pub(crate) fn restarts(&self) -> &BTreeMap<ComponentName, u64> {
        &self.restarts
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Replicas in the edge's table go on serving; their watchers belong to this executor.
        for starting in self.starting.values() {
            starting.task.abort();
        }
        for live in self.replicas.values() {
            if let Some(watch) = &live.watch {
                watch.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_generation_is_refused() {
        let mut fence = Fence::default();
        assert!(fence.admits(3) && fence.admits(3) && fence.admits(4));
        assert!(!fence.admits(3));
        assert!(fence.admits(4));
    }
}
