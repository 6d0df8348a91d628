//! What a component may use at most. The defaults hold when the manifest says nothing: limits are always on.

use serde::{Deserialize, Serialize};

/// Default of `memory_max_mb`: holds a Rust, Go, JavaScript or Python guest with room to work.
pub const MEMORY_MAX_MB: u64 = 128;
/// Default of `epoch_timeout_ms`: far above an ordinary request, below a person's patience.
pub const EPOCH_TIMEOUT_MS: u64 = 1_000;
/// Default of `wall_timeout_ms`: what most HTTP clients and proxies wait.
pub const WALL_TIMEOUT_MS: u64 = 30_000;
/// Default of `wall_timeout_ms` for a job: nobody waits on a connection for it, and one that hangs
/// is still seen the same day.
pub const JOB_WALL_TIMEOUT_MS: u64 = 3_600_000;
/// Default of `max_concurrency` per replica: times `memory_max_mb` it bounds a replica's memory.
pub const MAX_CONCURRENCY: u32 = 64;
/// Default of `max_request_bytes`: a photo or a document, not a film.
pub const MAX_REQUEST_BYTES: u64 = 32 * 1024 * 1024;

/// Default of `websocket_idle_ms`: long for clients that say nothing by themselves, and as long as a
/// connection with a server's port may be silent.
pub const WEBSOCKET_IDLE_MS: u64 = 3_600_000;
/// Default of `storage_max_mb`: an app's data, and no neighbour's disk.
pub const STORAGE_MAX_MB: u64 = 1_024;

/// Default of `cache_max_mb` in node.toml: room for the assets of a few apps.
pub const CACHE_MAX_MB: u64 = 64;

/// Limits of one component; see docs/manifest.md for the meaning of each.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// MiB of linear memory and tables, summed over one instance.
    pub memory_max_mb: u64,
    /// Fuel units per second and replica (a token bucket that suspends); `None`: not metered.
    pub fuel_per_sec: Option<u64>,
    /// Milliseconds that one invocation may *run* (waiting does not count).
    pub epoch_timeout_ms: u64,
    /// Milliseconds that one invocation may take, waiting included.
    pub wall_timeout_ms: u64,
    /// Invocations at once per replica.
    pub max_concurrency: u32,
    /// Bytes of one request body.
    pub max_request_bytes: u64,
    /// Bytes of the body of one answer; `None`: as long as it likes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_response_bytes: Option<u64>,
    /// Milliseconds that a WebSocket may be silent in both directions.
    #[serde(skip_serializing_if = "is_default_idle", default = "default_idle")]
    pub websocket_idle_ms: u64,
    /// MiB of what it keeps in each embedded store.
    #[serde(
        skip_serializing_if = "is_default_storage",
        default = "default_storage"
    )]
    pub storage_max_mb: u64,
    /// Operations on its stores per second, of its replicas on a node together; `None`: not counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operations_per_sec: Option<u32>,
}

// What agents before these keys called a revision stays one.
const fn is_default_storage(mb: &u64) -> bool {
    *mb == STORAGE_MAX_MB
}

const fn default_storage() -> u64 {
    STORAGE_MAX_MB
}

const fn is_default_idle(ms: &u64) -> bool {
    *ms == WEBSOCKET_IDLE_MS
}

const fn default_idle() -> u64 {
    WEBSOCKET_IDLE_MS
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_max_mb: MEMORY_MAX_MB,
            fuel_per_sec: None,
            epoch_timeout_ms: EPOCH_TIMEOUT_MS,
            wall_timeout_ms: WALL_TIMEOUT_MS,
            max_concurrency: MAX_CONCURRENCY,
            max_request_bytes: MAX_REQUEST_BYTES,
            max_response_bytes: None,
            websocket_idle_ms: WEBSOCKET_IDLE_MS,
            storage_max_mb: STORAGE_MAX_MB,
            operations_per_sec: None,
        }
    }
}
