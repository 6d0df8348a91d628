//! What a node does next: specific enough that the executor makes no choice.

use serde::Serialize;

use crate::digest::Digest;
use crate::lock::Pin;
use crate::manifest::{Mode, Source};
use crate::name::ComponentName;
use crate::observed::{Artifact, Handled, Millis, ReplicaId, RouteTable};
use crate::record::SeatSummary;

/// One step. Every action is idempotent: doing it twice is doing it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Bring the bytes here and verify them.
    Fetch {
        /// Digest and size.
        pin: Pin,
        /// Where the manifest says they come from.
        source: Source,
    },
    /// Compile verified bytes into the cache.
    Compile(Artifact),
    /// Load, instantiate once and probe a replica.
    Start(ReplicaId),
    /// Put the table in force.
    Route(RouteTable),
    /// Stop sending new requests; end when idle or after `grace_ms`.
    Drain {
        /// The replica.
        replica: ReplicaId,
        /// Milliseconds for requests in flight.
        grace_ms: u64,
    },
    /// Forget a replica that is drained, failed, done or waiting; what runs on by itself ends.
    Stop(ReplicaId),
    /// Write down that the schedule of a job is dealt with so far. It stands before the `Start` of
    /// the same job, so that no time is run twice.
    Handle {
        /// The job.
        component: ComponentName,
        /// How far.
        handled: Handled,
        /// Times that were not run, because a run was under way.
        overlapped: u64,
        /// Times that were not run, because they are too long ago.
        missed: u64,
    },
}

/// What `plan` decided, and what each component waits on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "an unread report is not actionable"]
pub struct Plan {
    /// Sequence number of the namespace head it was made from; the executor refuses an older one.
    pub generation: u64,
    /// In an order that keeps every component served.
    pub actions: Vec<Action>,
    /// One report per component that is wanted on this node, or that still runs here.
    pub reports: Vec<ComponentReport>,
    /// When a schedule wants the next look, although nothing happens until then.
    pub look_at: Option<Millis>,
}

/// Where one component stands on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentReport {
    /// The component.
    pub component: ComponentName,
    /// Replicas that the manifest wants here.
    pub wanted: u32,
    /// What it is to the node; `None`: nothing of it is wanted here.
    #[serde(skip)]
    pub mode: Option<Mode>,
    /// Whether a job runs at this moment.
    pub running: bool,
    /// Replicas of the wanted revision that are healthy; of a job: that run, wait for their time, or
    /// ran to a good end.
    pub healthy: u32,
    /// Replicas of other revisions that still serve.
    pub old: u32,
    /// Replicas that take requests, of whatever revision.
    #[serde(skip)]
    pub serving: u32,
    /// Its places here, in a rollout over the nodes.
    #[serde(skip)]
    pub seats: Vec<SeatSummary>,
    /// The entries whose rollouts failed.
    #[serde(skip)]
    pub failed: Vec<u64>,
    /// The pin in force.
    pub digest: Option<Digest>,
    /// Everything it waits on, the most important first. Empty: all is as wanted.
    pub waiting_on: Vec<WaitingOn>,
}

/// Why a component is not as wanted: a stable code and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct WaitingOn {
    /// Stable code, e.g. `fetching`, `compiling`, `starting`, `backoff`, `failed`, `draining`, `unsupported`.
    pub code: String,
    /// What a person reads.
    pub message: String,
}
