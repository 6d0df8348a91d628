//! Does what the plan says: fetch, compile, start, route, drain, stop. It makes no choice.
//!
//! Each action changes [`Observed`] at once (so that the next plan knows it is under way) and may
//! start a task, whose end comes back as an event. Actions of an older generation are refused.

mod artifacts;
mod replicas;

use std::collections::BTreeMap;
use std::sync::Arc;

use realm_control::Desired;
use realm_host::{Host, Meter};
use realm_model::action::{Action, Plan};
use realm_model::manifest::ComponentSpec;
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Artifact, Millis, Observed, ReplicaId, Revision, RouteTable};
use realm_store::blobs::Blobs;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::backend::LocalBackend;
use crate::compile::Compiler;
use crate::event::{Event, StartId};
use crate::rings::Rings;
use crate::traffic::Traffic;

/// Fetches and verifications at once: enough to hide a slow origin, few enough for a small disk.
const FETCHES_MAX: usize = 4;

/// Characters of a reason that are kept: some sentences, or the first lines of a parser's complaint.
const REASON_CHARS_MAX: usize = 1_000;

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
    pub(crate) host: Host,
    pub(crate) edge: realm_edge::Handle,
    pub(crate) compiler: Compiler,
    pub(crate) blobs: Blobs,
    pub(crate) rings: Rings,
    pub(crate) traffic: Traffic,
    pub(crate) events: mpsc::Sender<Event>,
    fetches: Arc<Semaphore>,
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
    fence: Fence,
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
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            revisions: BTreeMap::new(),
            replicas: BTreeMap::new(),
            starting: BTreeMap::new(),
            meters: BTreeMap::new(),
            failures: BTreeMap::new(),
            artifact_failures: BTreeMap::new(),
            restarts: BTreeMap::new(),
            next_start: 0,
            fence: Fence::default(),
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

/// An error and what is below it, in one line of bounded length: it becomes a table cell.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    one_line(&text)
}

/// Text without line breaks and control characters, cut at [`REASON_CHARS_MAX`].
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(one_line("a\n\tb\u{1b}[31m  c"), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(10_000)).len(), REASON_CHARS_MAX);
    }

    #[test]
    fn an_older_generation_is_refused() {
        let mut fence = Fence::default();
        assert!(fence.admits(3) && fence.admits(3) && fence.admits(4));
        assert!(!fence.admits(3));
        assert!(fence.admits(4));
    }
}
