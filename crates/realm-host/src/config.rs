//! What the node's operator decides about running guests.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use realm_model::node_config::GuestPolicy;

use crate::egress::Resolver;
use crate::shelf::{Keeper, Nobody};

/// Default of [`Config::epoch_tick`]. A guest holds a worker thread for one tick at most, and an
/// exhausted fuel bucket is noticed within one tick; 1 ms keeps both short and costs a thread that
/// wakes 1,000 times per second, only while guests run.
const EPOCH_TICK: Duration = Duration::from_millis(1);

/// Default of [`Config::unload_after`]: what is asked once a minute stays. Coming back costs a
/// small component 0.3 ms, and a large one some milliseconds for each 10 MB.
const UNLOAD_AFTER: Duration = Duration::from_secs(60);

/// Default of [`Config::loaded_max`]: of small components about 300 MB, and with four mappings and
/// a descriptor each far below what Linux gives a process.
const LOADED_MAX: usize = 1_024;

/// Settings of a [`crate::Host`].
#[derive(Debug, Clone)]
pub struct Config {
    /// What `node.toml` allows guests at most: directories, private ranges, live instances.
    pub policy: GuestPolicy,
    /// Directories that no guest sees, whatever `policy` allows: where keys and compiled code are.
    pub forbidden_dirs: Vec<PathBuf>,
    /// How far the network goes for a guest whose rules allow it.
    pub reach: Reach,
    /// How names become addresses.
    pub resolver: Resolver,
    /// How often running guests are interrupted to yield and to be charged.
    pub epoch_tick: Duration,
    /// Whether memories are reset by scanning for the pages that a guest touched.
    pub pagemap_scan: PagemapScan,
    /// A compiled file that nobody asked for in this time leaves the memory.
    pub unload_after: Duration,
    /// Compiled files in memory beside those that run; those asked for longest ago leave it.
    pub loaded_max: usize,
    /// Who keeps the compiled files.
    pub keeper: Arc<dyn Keeper>,
    /// Makes a task of a guest that goes on beside its caller: where callers are served in turn, so are
    /// their guests. What is to end does not wait for its turn.
    pub in_turn: fn(GuestTask, IsToEnd) -> GuestTask,
}

/// Whether a guest is to end: its time is over.
pub type IsToEnd = Box<dyn Fn() -> bool + Send>;

/// A guest that goes on beside its caller.
pub type GuestTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Which addresses guests reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Those that a rule of the component allows, if they are public or in `private_ranges`.
    #[default]
    Public,
    /// As well those that a rule names by themselves, or by the very name that resolves to them:
    /// where the operator has written the rules.
    Named,
    /// All, without a rule. A guest may also bind and listen.
    Everything,
}

/// Use of the kernel's `PAGEMAP_SCAN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PagemapScan {
    /// Never.
    Off,
    /// Where the kernel has it and swap is off. With swap, a page that was swapped out would not
    /// be reset, and the next guest could read it (wasmtime issue 14357).
    #[default]
    Auto,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: GuestPolicy::default(),
            forbidden_dirs: Vec::new(),
            reach: Reach::default(),
            resolver: Resolver::default(),
            epoch_tick: EPOCH_TICK,
            pagemap_scan: PagemapScan::default(),
            unload_after: UNLOAD_AFTER,
            loaded_max: LOADED_MAX,
            keeper: Arc::new(Nobody),
            in_turn: |task, _| task,
        }
    }
}
