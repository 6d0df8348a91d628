//! The engines that run guests, and the host around them.
//!
//! Four engines, each made when it is first needed: code that counts fuel is another code, and
//! who sets no `fuel_per_sec` pays nothing for it; and a store for WASI 0.3, where several calls
//! run at once in one instance, keeps books that WASI 0.2 never needs. Not here: compiling
//! (another process does that, with the same settings) and what a guest may reach.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use realm_model::node_config::INSTANCES_MAX;
use wasmtime::component::{self, InstancePre, Linker};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::cloud;
use crate::compile;
use crate::component::{Component, LoadError, Settings, Wanted};
use crate::config::{Config, PagemapScan};
use crate::egress::Network;
use crate::heavy::Heavy;
use crate::kept::Keepers;
use crate::room::{PROBES_MAX, Room};
use crate::shelf::{CodeFigures, Shelf};
use crate::state::{self, State};
use crate::system;
use crate::ticker::Ticker;

/// Core instances per slot: Go components use five.
const CORE_INSTANCES_PER_SLOT: u32 = 5;
/// Tables per slot: a component and its adapter have one each.
const TABLES_PER_SLOT: u32 = 2;
/// Elements of one table: JavaScript and Python engines need tens of thousands.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Memories, tables and core instances of one component: composed components have several.
pub(crate) const MEMORIES_PER_COMPONENT_MAX: u32 = 32;
pub(crate) const TABLES_PER_COMPONENT_MAX: u32 = 64;
pub(crate) const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 200;
/// Bytes of an instance's own bookkeeping.
const INSTANCE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Bytes of a memory that stay mapped between two guests, and are reset by writing rather than by
/// the kernel: holds a small guest whole.
const MEMORY_KEEP_RESIDENT: usize = 2 * 1024 * 1024;
const TABLE_KEEP_RESIDENT: usize = 512 * 1024;

/// Why no host could be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// An engine could not be made.
    #[error("the WebAssembly engine could not be started")]
    Engine(#[source] wasmtime::Error),
    /// A thread of the host's own could not be started.
    #[error("a thread of the host could not be started")]
    Thread(#[source] std::io::Error),
    /// `private_ranges` holds something else than a CIDR block.
    #[error("`{0}` in `guests.private_ranges` is not a CIDR block")]
    Range(String),
    /// `tls_roots` holds a file that cannot be read, or that has no certificates.
    #[error("the certificates in `{}` (`guests.tls_roots`) cannot be used", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What was found and chosen at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Whether the instances of every engine come from a pool; without one each is mapped anew,
    /// which is slower.
    pub pooling: bool,
    /// Whether memories are reset by `PAGEMAP_SCAN`; else why not.
    pub pagemap_scan: Result<(), String>,
    /// Instances that may live at once; a few more are for probes alone.
    pub instances_max: u32,
}

/// Runs components. Cheap to clone.
#[derive(Clone)]
pub struct Host(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) network: Arc<Network>,
    pub(crate) room: Arc<Room>,
    pub(crate) heavy: Heavy,
    pub(crate) keepers: Keepers,
    pub(crate) ticker: Ticker,
    pub(crate) shelf: Shelf,
    /// Held while an engine is made.
    facts: Mutex<HostFacts>,
}

/// What an engine is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Code that counts fuel.
    pub(crate) fuel: bool,
    /// Components that use WASI 0.3, or what it is made of: async functions, streams, futures.
    pub(crate) concurrent: bool,
}

impl Kind {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;

    /// Below [`Kind::COUNT`].
    pub(crate) const fn index(self) -> usize {
        self.fuel as usize * 2 + self.concurrent as usize
    }
}

/// An engine with every interface that guests may import.
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    kind: Kind,
    wasi: Linker<State>,
    /// Made for the first component that wants more than WASI: its code is most of the host's, and who needs
    /// none of it neither waits for it at the start nor has it in memory.
    whole: OnceLock<Linker<State>>,
}

impl Host {
    /// A host with an epoch thread, and the engine for WASI 0.2 without a fuel limit.
    pub fn new(config: Config) -> Result<Self, HostError> {
        let host = Self::cold(config)?;
        host.warm()?;
        Ok(host)
    }

    /// The same without an engine: who needs one first makes it.
    pub fn cold(config: Config) -> Result<Self, HostError> {
        let network = Arc::new(Network::new(&config)?);
        let pagemap_scan = match config.pagemap_scan {
            PagemapScan::Off => Err("turned off".to_owned()),
            PagemapScan::Auto => system::pagemap_scan_is_safe(),
        };
        let instances_max = config.policy.instances_max.clamp(1, INSTANCES_MAX);
        let facts = HostFacts {
            pooling: true,
            pagemap_scan,
            instances_max,
        };
        let ticker = Ticker::start(config.epoch_tick).map_err(HostError::Thread)?;
        Ok(Self(Arc::new(Inner {
            network,
            room: Room::new(instances_max),
            heavy: Heavy::default(),
            keepers: Keepers::default(),
            ticker,
            shelf: Shelf::new(
                Arc::clone(&config.keeper),
                config.unload_after,
                config.loaded_max,
            ),
            facts: Mutex::new(facts),
            config,
        })))
    }

    /// Makes the engine for WASI 0.2 without a fuel limit, if there is none. Who loads a component
    /// meanwhile waits for it.
    ///
    /// Blocking: reserving the pool's address space takes some milliseconds.
    pub fn warm(&self) -> Result<(), HostError> {
        let plain = Kind {
            fuel: false,
            concurrent: false,
        };
        self.0.runtime(plain).map(drop).map_err(HostError::Engine)
    }

    /// Maps a file that [`crate::compile`] made on this machine, and links it; where another
    /// component has done so, shares it. It may be unloaded while nobody asks for it, and is then
    /// mapped again for the first request: the file has to stay where it is.
    ///
    /// Blocking, but short: about 0.2 ms for a small component.
    pub fn load(
        &self,
        settings: Settings,
        compiled: &std::path::Path,
    ) -> Result<Component, LoadError> {
        Component::load(self, settings, compiled, Wanted::Answers)
    }

    /// The same for a component that only events call: its replicas answer no requests.
    ///
    /// # Errors
    /// As [`Host::load`]; `wrong-world` where it exports no handler of events.
    pub fn load_worker(
        &self,
        settings: Settings,
        compiled: &std::path::Path,
    ) -> Result<Component, LoadError> {
        Component::load(self, settings, compiled, Wanted::Worker)
    }

    /// What is in memory of the compiled files.
    pub fn code(&self) -> CodeFigures {
        self.0.shelf.figures()
    }

    /// What was found and chosen at start. Waits for an engine that is being made.
    pub fn facts(&self) -> HostFacts {
        self.0.facts().clone()
    }
}

impl Inner {
    pub(crate) fn runtime(&self, kind: Kind) -> Result<&Runtime, wasmtime::Error> {
        let slot = self.ticker.runtime(kind);
        if slot.get().is_none() {
            // One at a time: who comes second waits for what the first one makes.
            let mut facts = self.facts();
            if slot.get().is_none() {
                let _ = slot.set(Runtime::new(kind, &mut facts)?);
            }
        }
        Ok(slot.get().expect("it was set, here or before"))
    }

    /// Whole between two statements: a panic leaves nothing half-written.
    fn facts(&self) -> MutexGuard<'_, HostFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime {
    /// Makes an engine with a pool, or without one where the address space is too small for it.
    pub(crate) fn new(kind: Kind, facts: &mut HostFacts) -> Result<Self, wasmtime::Error> {
        let mut config = code_settings(kind);
        if facts.pooling {
            config.allocation_strategy(pool(kind, facts));
        }
        let engine = match Engine::new(&config) {
            Err(error) if facts.pooling => {
                tracing::warn!(%error, "no instance pool: requests will be slower");
                facts.pooling = false;
                config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
                Engine::new(&config)
            }
            made => made,
        }?;
        compile::remember(kind, &engine);
        let wasi = state::linker_of_wasi(&engine, kind)?;
        Ok(Self {
            engine,
            kind,
            wasi,
            whole: OnceLock::new(),
        })
    }

    /// Finds everything that a component imports.
    pub(crate) fn link(
        &self,
        component: &component::Component,
    ) -> Result<InstancePre<State>, wasmtime::Error> {
        match self.wasi.instantiate_pre(component) {
            Ok(instance) => Ok(instance),
            Err(_) => {
                let whole = cloud::as_imported(self.whole()?, &self.engine, component)?;
                whole.instantiate_pre(component)
            }
        }
    }

    fn whole(&self) -> Result<&Linker<State>, wasmtime::Error> {
        if let Some(linker) = self.whole.get() {
            return Ok(linker);
        }
        // Two at once make two, and one of them goes.
        let linker = state::linker(&self.engine, self.kind)?;
        Ok(self.whole.get_or_init(|| linker))
    }
}

/// The settings that decide what compiled code looks like: the same where code is made and run.
///
/// Compilation uses one thread: wasmtime is built without `parallel-compilation`, since a deploy
/// must not take every core from the requests.
pub(crate) fn code_settings(kind: Kind) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(kind.fuel)
        .wasm_component_model_async(kind.concurrent)
        .concurrency_support(kind.concurrent)
        .memory_init_cow(true)
        // Registering unwind tables is quadratic in the number of loaded components on musl.
        .native_unwind_info(false);
    config
}

/// Each stack costs a system call when the pool is made.
const fn stacks_per_slot(kind: Kind) -> u32 {
    if kind.concurrent { 2 } else { 1 }
}

fn pool(kind: Kind, facts: &HostFacts) -> InstanceAllocationStrategy {
    let slots = facts.instances_max + PROBES_MAX;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots * CORE_INSTANCES_PER_SLOT)
        .total_memories(slots)
        .total_tables(slots * TABLES_PER_SLOT)
        // A call runs on a stack of its own. Where several calls share an instance, a few have more.
        .total_stacks(slots * stacks_per_slot(kind))
        .total_gc_heaps(slots)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memories_per_component(MEMORIES_PER_COMPONENT_MAX)
        .max_memories_per_module(MEMORIES_PER_COMPONENT_MAX)
        .max_tables_per_component(TABLES_PER_COMPONENT_MAX)
        .max_tables_per_module(TABLES_PER_COMPONENT_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT);
    if facts.pagemap_scan.is_ok() {
        pool.pagemap_scan(Enabled::Auto);
    }
    InstanceAllocationStrategy::Pooling(pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::importing;

    fn made(host: &Host) -> usize {
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        let is_made = |(fuel, concurrent)| {
            let runtime = host.0.ticker.runtime(Kind { fuel, concurrent });
            runtime.get().is_some()
        };
        kinds.into_iter().filter(|kind| is_made(*kind)).count()
    }

    #[test]
    fn engines_are_made_once_each_when_they_are_needed() {
        let host = Host::cold(Config::default()).unwrap();
        assert_eq!(made(&host), 0);
        let kinds = [(false, false), (false, true), (true, false), (true, true)]
            .map(|(fuel, concurrent)| Kind { fuel, concurrent });
        assert_eq!(kinds.map(Kind::index), [0, 1, 2, 3]);
        for (n_made, kind) in kinds.into_iter().enumerate() {
            assert_eq!(made(&host), n_made);
            let engine = || host.0.runtime(kind).unwrap().engine.clone();
            let (first, second) = std::thread::scope(|scope| {
                let other = scope.spawn(engine);
                (engine(), other.join().unwrap())
            });
            assert!(wasmtime::Engine::same(&first, &second));
        }
        assert!(host.facts().pooling);
    }

    #[test]
    fn who_imports_wasi_alone_does_not_have_everything_else_made() {
        let host = Host::new(Config::default()).unwrap();
        let kind = Kind {
            fuel: false,
            concurrent: false,
        };
        let runtime = host.0.runtime(kind).unwrap();
        let links = |interface: &str| {
            let bytes = importing(interface, "get-random-u64");
            let component = component::Component::new(&runtime.engine, bytes).unwrap();
            runtime.link(&component).is_ok()
        };
        assert!(links("wasi:random/random@0.2.0"));
        assert!(runtime.whole.get().is_none());
        // Of another type than this function's, but it was looked for.
        assert!(!links("realm:cloud/keys@0.1.0"));
        assert!(runtime.whole.get().is_some());
        assert!(links("wasi:random/random@0.2.0"));
    }

    #[test]
    fn a_host_is_warm_or_begins_cold() {
        assert_eq!(made(&Host::new(Config::default()).unwrap()), 1);
        let host = Host::cold(Config::default()).unwrap();
        host.warm().unwrap();
        host.warm().unwrap();
        assert_eq!(made(&host), 1);
    }
}
