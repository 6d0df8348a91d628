//! What a node sees of itself: artifacts, replicas and the route table in force.
//!
//! Input of `plan`. Times are milliseconds of the node's monotonic clock ([`Millis`]); nothing
//! here is ordered by wall clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::front::Fronted;
use crate::name::{ComponentName, NodeName};
use crate::route::Route;

/// Milliseconds of one node's monotonic clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

/// What makes two replicas of a component interchangeable: a digest over its pin, its settings and
/// its restart count. Another revision is another rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub Digest);

/// One replica on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId {
    /// The component.
    pub component: ComponentName,
    /// Its revision.
    pub revision: Revision,
    /// 0-based.
    pub slot: u32,
}

/// How far the bytes of a component are on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ArtifactState {
    /// On their way.
    Fetching {
        /// Since when; `None`: it waits for its turn.
        since: Option<Millis>,
    },
    /// Here and verified.
    Fetched,
    /// Being compiled.
    Compiling {
        /// Since when; `None`: it waits for its turn.
        since: Option<Millis>,
    },
    /// Compiled and cached.
    Ready,
    /// Could not be fetched or compiled.
    Failed {
        /// Stable code, e.g. `fetch-failed`, `digest-mismatch`, `compile-failed`.
        code: String,
        /// What happened.
        reason: String,
        /// Failures in a row.
        attempts: u32,
        /// When it is tried again; `None`: not before the entry changes.
        retry_at: Option<Millis>,
    },
}

/// The life of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Loaded, being probed.
    Starting {
        /// Since when.
        since: Millis,
        /// Why the attempt before this one ended, if it failed.
        last_failure: Option<LastFailure>,
    },
    /// Passed its probe.
    Healthy {
        /// Since when.
        since: Millis,
    },
    /// Takes no new requests; ends when idle or at the deadline.
    Draining {
        /// When it is forgotten even if requests are in flight; those end by their own wall time.
        deadline: Millis,
        /// Requests in flight.
        in_flight: u32,
    },
    /// Failed; started again at `until`.
    Backoff {
        /// When it is started again.
        until: Millis,
        /// Failures in a row.
        attempts: u32,
        /// Stable code.
        code: String,
        /// What happened.
        reason: String,
    },
    /// It ran to its end and is not started again by itself: a job that is done, a service that may end.
    Done {
        /// Whether its end was a good one; a bad one waits for the next time of a schedule.
        ok: bool,
        /// What happened.
        reason: String,
    },
    /// Failed, and another attempt would fail in the same way (a missing import, a wrong world), or
    /// there are no more attempts.
    Failed {
        /// Stable code.
        code: String,
        /// What happened.
        reason: String,
    },
}

/// The failure before an attempt to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// Failures in a row.
    pub attempts: u32,
    /// Stable code.
    pub code: String,
    /// What happened.
    pub reason: String,
}

/// Everything that `plan` may know of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Compiled forms are per (digest, fuel on or off).
    pub artifacts: BTreeMap<Artifact, ArtifactState>,
    /// Replicas that exist, of every revision.
    pub replicas: BTreeMap<ReplicaId, ReplicaState>,
    /// The route table in force.
    pub routes: RouteTable,
    /// How far the schedule of each job is dealt with.
    pub schedules: BTreeMap<ComponentName, Handled>,
    /// How this node stands with the leases of the singletons that it wants; of others nothing is held.
    pub leases: BTreeMap<ComponentName, Lease>,
    /// Digests of the sealed secrets that this node cannot open, as far as it looked at them.
    pub unopened: BTreeSet<Digest>,
    /// Milliseconds since 1970 when the node's monotonic clock was 0, by the clock on the wall as
    /// it is set at this moment. Schedules alone look at it.
    pub unix_ms_at_zero: u64,
}

/// How this node stands with the lease of a singleton.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// It may run here until then.
    Held {
        /// At this moment it must have stopped.
        until: Millis,
    },
    /// It may not run here.
    Awaited {
        /// Who has it at this moment, by its own word.
        holder: Option<NodeName>,
        /// Nodes that grant it to this one.
        granted: u32,
        /// How many have to.
        needed: u32,
    },
}

/// Times of a schedule that need no more attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// The schedule, as it is displayed: another one begins anew.
    pub schedule: String,
    /// Times up to this one, in milliseconds since 1970, are dealt with.
    pub until_unix_ms: u64,
}

/// A component's bytes, compiled for one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Artifact {
    /// SHA-256 of the original bytes.
    pub digest: Digest,
    /// Whether the code counts fuel.
    pub fuel: bool,
}

/// Routes, and the replicas that stand behind each component.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteTable {
    /// In order of precedence.
    pub routes: Vec<Route>,
    /// Component → replicas that take requests; a component without an entry answers 503.
    pub backends: BTreeMap<ComponentName, Vec<ReplicaId>>,
    /// What holds for requests of components before anybody answers them; one without an entry takes all.
    pub fronts: BTreeMap<ComponentName, Fronted>,
}

impl Observed {
    /// Whether a singleton may run here at this moment.
    pub fn holds(&self, component: &ComponentName, now: Millis) -> bool {
        match self.leases.get(component) {
            Some(Lease::Held { until }) => *until > now,
            Some(Lease::Awaited { .. }) | None => false,
        }
    }
}

impl Millis {
    /// The time `ms` milliseconds later.
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex()[..8])
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.component, self.slot, self.revision)
    }
}
