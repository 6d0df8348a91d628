//! What a node does next: specific enough that the executor makes no choice.

use serde::Serialize;

use crate::digest::Digest;
use crate::lock::Pin;
use crate::manifest::Source;
use crate::name::ComponentName;
use crate::observed::{Artifact, ReplicaId, RouteTable};

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
    /// Forget a replica that is drained, failed or waiting.
    Stop(ReplicaId),
}

/// What `plan` decided, and what each component waits on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "an unread report is not actionable"]
pub struct Plan {
    /// Sequence number of the namespace head it was made from; the executor refuses an older one.
    pub generation: u64,
    /// In an order that keeps every component served.
    pub actions: Vec<Action>,
    /// One report per component with a route on this node, or that still runs here.
    pub reports: Vec<ComponentReport>,
}

/// Where one component stands on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentReport {
    /// The component.
    pub component: ComponentName,
    /// Replicas that the manifest wants here.
    pub wanted: u32,
    /// Replicas of the wanted revision that are healthy.
    pub healthy: u32,
    /// Replicas of other revisions that still serve.
    pub old: u32,
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
