//! Which compiled files are in memory: one mapping per file however many components share it,
//! dropped when nobody has asked for a while, and mapped again for the first request that does.
//!
//! What runs is never touched: whoever runs holds the code by itself. One thread looks at all of
//! it a few times a minute, and sleeps while nothing is loaded; an idle component costs neither a
//! thread nor a timer. Not here: what mapping is (`loaded`), and compiling, which never happens for
//! a request.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::component::{LoadError, Wanted};
use crate::engine::Host;
use crate::loaded::{Identity, Loaded};

/// Looks at the shelf in the time after which what is idle goes: it goes at most a quarter late.
const SWEEPS_PER_IDLE_TIME: u32 = 4;
/// Where the shelf is full, this part of it goes at once: looking for the oldest costs a look at all.
const EVICTED_PART: usize = 8;
/// A file that could not be loaded is looked for again after this: a burst of requests must not
/// become a burst of work for the disk.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The allocator keeps freed memory for a second, should it be wanted again; it is asked for it
/// once that is over.
const PURGE_DELAY: Duration = Duration::from_millis(1_500);

/// Who keeps the compiled files. Asked and told on threads that may block.
pub trait Keeper: Debug + Send + Sync {
    /// Whether a file is what was compiled; asked before each mapping.
    ///
    /// # Errors
    /// The file cannot be read.
    fn is_sound(&self, compiled: &Path) -> std::io::Result<bool>;

    /// A file that was unloaded cannot be loaded again. Said again as long as requests ask for it,
    /// a few times per second at most.
    fn lost(&self, compiled: &Path);
}

/// A keeper for files that nobody but this process knows.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Keeper for Nobody {
    fn is_sound(&self, _compiled: &Path) -> std::io::Result<bool> {
        Ok(true)
    }

    fn lost(&self, _compiled: &Path) {}
}

/// Compiled files in memory, and how they came and went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CodeFigures {
    /// In memory at this moment.
    pub loaded: usize,
    /// Times that one was mapped.
    pub loads: u64,
    /// Times that one was dropped because nobody asked for it.
    pub unloads: u64,
}

/// All compiled files of a host.
pub(crate) struct Shelf(Arc<ShelfShared>);

struct ShelfShared {
    codes: Mutex<BTreeMap<Key, Weak<Code>>>,
    keeper: Arc<dyn Keeper>,
    sweep_interval: Duration,
    loaded_max: usize,
    /// Sweeps so far: the only clock that a request looks at.
    sweeps: AtomicU64,
    loaded: AtomicUsize,
    loads: AtomicU64,
    unloads: AtomicU64,
    /// The thread that sweeps, once something was loaded.
    sweeper: Mutex<Option<Thread>>,
    stop: AtomicBool,
}

/// The same file may be linked for requests and as a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    compiled: PathBuf,
    fuel: bool,
    wanted: Wanted,
}

/// The code of one compiled file, whether it is in memory or not; shared by its components.
pub(crate) struct Code {
    key: Key,
    shelf: Arc<ShelfShared>,
    loaded: ArcSwapOption<Loaded>,
    /// The sweep before which it was last asked for.
    used: AtomicU64,
    /// Held while it is mapped or unloaded.
    change: Mutex<Change>,
    /// Requests that come first wait here for one of them to load it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Change {
    /// What was unloaded while somebody took it: to be used again as long as it is there.
    last: Weak<Loaded>,
    /// The load in the order of all loads.
    order: u64,
    failed: Option<(Instant, String)>,
}

/// What a file is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A replica is to start: the file counts as it is.
    Start,
    /// A request or a run: what is in memory is as good as the file.
    Use,
}

impl Shelf {
    pub(crate) fn new(keeper: Arc<dyn Keeper>, unload_after: Duration, loaded_max: usize) -> Self {
        Self(Arc::new(ShelfShared {
            codes: Mutex::default(),
            keeper,
            sweep_interval: unload_after / SWEEPS_PER_IDLE_TIME,
            loaded_max,
            sweeps: AtomicU64::new(0),
            loaded: AtomicUsize::new(0),
            loads: AtomicU64::new(0),
            unloads: AtomicU64::new(0),
            sweeper: Mutex::default(),
            stop: AtomicBool::new(false),
        }))
    }

    /// The code of a file, in memory or not.
    pub(crate) fn code(&self, compiled: &Path, fuel: bool, wanted: Wanted) -> Arc<Code> {
        let key = Key {
            compiled: compiled.to_owned(),
            fuel,
            wanted,
        };
        let mut codes = lock(&self.0.codes);
        if let Some(code) = codes.get(&key).and_then(Weak::upgrade) {
            return code;
        }
        let code = Arc::new(Code {
            key: key.clone(),
            shelf: Arc::clone(&self.0),
            loaded: ArcSwapOption::empty(),
            used: AtomicU64::new(0),
            change: Mutex::default(),
            turn: Arc::default(),
        });
        codes.insert(key, Arc::downgrade(&code));
        code
    }

    pub(crate) fn figures(&self) -> CodeFigures {
        CodeFigures {
            loaded: self.0.loaded.load(Relaxed),
            loads: self.0.loads.load(Relaxed),
            unloads: self.0.unloads.load(Relaxed),
        }
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
        if let Some(thread) = &*lock(&self.0.sweeper) {
            thread.unpark();
        }
    }
}

impl Code {
    /// What is in memory.
    fn in_memory(&self) -> Option<Arc<Loaded>> {
        let sweeps = self.shelf.sweeps.load(Relaxed);
        // Written once per sweep, not once per request: all threads read it.
        if self.used.load(Relaxed) != sweeps {
            self.used.store(sweeps, Relaxed);
        }
        self.loaded.load_full()
    }

    /// The code, mapped first if it is not in memory: once, however many ask at the same time.
    pub(crate) async fn get(self: &Arc<Self>, host: &Host) -> Result<Arc<Loaded>, LoadError> {
        if let Some(loaded) = self.in_memory() {
            return Ok(loaded);
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(loaded) = self.in_memory() {
            return Ok(loaded);
        }
        let (code, host) = (Arc::clone(self), host.clone());
        let loading = tokio::task::spawn_blocking(move || {
            // It goes with the work, not with who asked for it: a client that leaves makes nobody
            // begin anew.
            let _turn = turn;
            code.load(&host, Occasion::Use)
        });
        loading.await.unwrap_or_else(|error| {
            Err(LoadError::BadArtifact(wasmtime::format_err!(
                "loading it failed: {error}"
            )))
        })
    }

    /// The same on this thread, which reads the disk.
    pub(crate) fn load(
        self: &Arc<Self>,
        host: &Host,
        occasion: Occasion,
    ) -> Result<Arc<Loaded>, LoadError> {
        let mut change = lock(&self.change);
        let there = self.in_memory().or_else(|| change.last.upgrade());
        let identity = match (there, occasion) {
            (Some(loaded), Occasion::Use) => return Ok(self.keep(&mut change, loaded)),
            (there, Occasion::Start) => {
                let identity = self.identity()?;
                match there {
                    Some(loaded) if loaded.identity == identity => {
                        return Ok(self.keep(&mut change, loaded));
                    }
                    Some(_) | None => identity,
                }
            }
            (None, Occasion::Use) => {
                change.refuse_early()?;
                match self.identity() {
                    Ok(identity) => identity,
                    Err(error) => return Err(self.lost(&mut change, error)),
                }
            }
        };
        let mapped = self.map(host, identity);
        match mapped {
            Ok(loaded) => {
                change.failed = None;
                self.shelf.loads.fetch_add(1, Relaxed);
                let loaded = self.keep(&mut change, Arc::new(loaded));
                drop(change);
                self.shelf.make_room(self);
                Ok(loaded)
            }
            Err(error) if occasion == Occasion::Use => Err(self.lost(&mut change, error)),
            Err(error) => Err(error),
        }
    }

    fn identity(&self) -> Result<Identity, LoadError> {
        Identity::of(&self.key.compiled).map_err(LoadError::of_file)
    }

    fn map(&self, host: &Host, identity: Identity) -> Result<Loaded, LoadError> {
        let Key {
            compiled,
            fuel,
            wanted,
        } = &self.key;
        match self.shelf.keeper.is_sound(compiled) {
            Ok(true) => Loaded::map(host, compiled, *fuel, *wanted, identity),
            Ok(false) => Err(LoadError::BadArtifact(wasmtime::format_err!(
                "the compiled file is not what was compiled"
            ))),
            Err(error) => Err(LoadError::of_file(error)),
        }
    }

    /// Puts it on the shelf, unless it is there.
    fn keep(&self, change: &mut Change, loaded: Arc<Loaded>) -> Arc<Loaded> {
        let before = self.loaded.swap(Some(Arc::clone(&loaded)));
        change.last = Arc::downgrade(&loaded);
        if before.is_none() {
            change.order = self.shelf.loads.load(Relaxed);
            self.shelf.loaded.fetch_add(1, SeqCst);
            self.shelf.wake_sweeper();
        }
        loaded
    }

    /// What was loaded before cannot be loaded again.
    fn lost(&self, change: &mut Change, error: LoadError) -> LoadError {
        if let LoadError::BadArtifact(cause) = &error {
            change.failed = Some((Instant::now(), format!("{cause:#}")));
            self.shelf.keeper.lost(&self.key.compiled);
        }
        error
    }

    /// Drops what is in memory, unless somebody runs it; returns whether it did.
    fn unload(&self) -> bool {
        let _change = lock(&self.change);
        let Some(loaded) = self.loaded.load_full() else {
            return false;
        };
        // One is the shelf's, one is here; who runs has another. Who takes it in this very moment
        // keeps what it took, and the next one finds it by `last`.
        if Arc::strong_count(&loaded) > 2 {
            return false;
        }
        self.loaded.store(None);
        self.shelf.loaded.fetch_sub(1, SeqCst);
        self.shelf.unloads.fetch_add(1, Relaxed);
        true
    }
}

impl Change {
    /// A file that is known to be lost is not looked for at once again.
    fn refuse_early(&self) -> Result<(), LoadError> {
        match &self.failed {
            Some((at, why)) if at.elapsed() < RETRY_AFTER => {
                Err(LoadError::BadArtifact(wasmtime::format_err!("{why}")))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if self.loaded.swap(None).is_some() {
            self.shelf.loaded.fetch_sub(1, SeqCst);
        }
        let mut codes = lock(&self.shelf.codes);
        // Another may have taken its place by now.
        if codes
            .get(&self.key)
            .is_some_and(|code| code.strong_count() == 0)
        {
            codes.remove(&self.key);
        }
    }
}

impl ShelfShared {
    /// Must not be called with the list locked: the last of a code may go here.
    fn codes(&self) -> Vec<Arc<Code>> {
        lock(&self.codes)
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Starts the thread with the first load, or wakes it.
    fn wake_sweeper(self: &Arc<Self>) {
        let mut sweeper = lock(&self.sweeper);
        if let Some(thread) = &*sweeper {
            thread.unpark();
            return;
        }
        let shared = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("realm-unload".to_owned())
            .spawn(move || shared.run());
        match started {
            Ok(handle) => *sweeper = Some(handle.thread().clone()),
            // The next load tries again; until then everything stays in memory.
            Err(error) => tracing::warn!(%error, "idle components stay in memory"),
        }
    }

    fn run(&self) {
        let mut freed: Option<Instant> = None;
        while !self.stop.load(SeqCst) {
            if freed.is_some_and(|at| at.elapsed() >= PURGE_DELAY) {
                give_back();
                freed = None;
            }
            // A load counts first and wakes second, so none is slept over.
            if self.loaded.load(SeqCst) == 0 {
                match freed {
                    Some(_) => std::thread::park_timeout(PURGE_DELAY),
                    None => std::thread::park(),
                }
                continue;
            }
            let began = Instant::now();
            while began.elapsed() < self.sweep_interval && !self.stop.load(SeqCst) {
                std::thread::park_timeout(self.sweep_interval.saturating_sub(began.elapsed()));
            }
            if self.sweep() {
                freed = Some(Instant::now());
            }
        }
    }

    /// Whether anything was unloaded.
    fn sweep(&self) -> bool {
        let mut any = false;
        let sweeps = self.sweeps.fetch_add(1, Relaxed) + 1;
        for code in self.codes() {
            let idle = sweeps.saturating_sub(code.used.load(Relaxed));
            if idle > u64::from(SWEEPS_PER_IDLE_TIME) {
                any |= code.unload();
            }
        }
        any
    }

    /// Unloads what was asked for longest ago where more than `loaded_max` are in memory.
    fn make_room(&self, newest: &Code) {
        if self.loaded.load(SeqCst) <= self.loaded_max {
            return;
        }
        let mut codes = self.codes();
        codes.retain(|code| code.loaded.load().is_some() && !std::ptr::eq(&**code, newest));
        codes.sort_by_cached_key(|code| (code.used.load(Relaxed), lock(&code.change).order));
        let kept = self.loaded_max - self.loaded_max / EVICTED_PART;
        for code in &codes {
            if self.loaded.load(SeqCst) <= kept {
                break;
            }
            code.unload();
        }
    }
}

/// Lets the allocator return freed memory to the system: mimalloc looks what is due when a thread
/// ends, and else only when pages change hands, which a node without requests may never see.
fn give_back() {
    let thread = std::thread::Builder::new().name("realm-unload".to_owned());
    if let Ok(thread) = thread.spawn(|| drop(std::hint::black_box(Box::new([0_u8; 64])))) {
        // It has nothing that could panic.
        let _ = thread.join();
    }
}

/// Values that are whole between any two statements: a panic leaves none half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
