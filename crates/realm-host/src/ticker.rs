//! The thread that advances the epoch of the engines while guests run, and keeps their wall time.
//!
//! A thread of its own: a timer on a runtime that guests occupy would be late by as much as they
//! take. Without guests it sleeps, so that an idle agent wakes nobody. Not here: what a guest is
//! held to at a tick (`invocation`).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::deadline::Deadlines;
use crate::engine::{Kind, Runtime};

/// Ticks without a guest after which the ticker sleeps until the next one comes.
const IDLE_TICKS: u32 = 1_000;

/// The thread, and the engines that it ticks.
pub(crate) struct Ticker {
    shared: Arc<TickerShared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

struct TickerShared {
    runtimes: [OnceLock<Runtime>; Kind::COUNT],
    deadlines: Arc<Deadlines>,
    live: AtomicUsize,
    parked: AtomicBool,
    stop: AtomicBool,
}

/// Keeps the epoch ticking as long as it lives.
pub(crate) struct Ticking(Arc<TickerShared>);

impl Ticker {
    /// Starts without an engine.
    pub(crate) fn start(tick: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(TickerShared {
            runtimes: Default::default(),
            deadlines: Arc::default(),
            live: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let handle = std::thread::Builder::new()
            .name("realm-epoch".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(tick)
            })?;
        Ok(Self {
            shared,
            thread: handle.thread().clone(),
            handle: Some(handle),
        })
    }

    /// The engine of this kind, once it is made.
    pub(crate) fn runtime(&self, kind: Kind) -> &OnceLock<Runtime> {
        &self.shared.runtimes[kind.index()]
    }

    /// The wall time of guests. It passes only while there are guests: see [`Ticker::begin`].
    pub(crate) fn deadlines(&self) -> &Arc<Deadlines> {
        &self.shared.deadlines
    }

    /// Counts one guest; wakes the thread if it sleeps.
    pub(crate) fn begin(&self) -> Ticking {
        self.shared.live.fetch_add(1, SeqCst);
        if self.shared.parked.load(SeqCst) {
            self.thread.unpark();
        }
        Ticking(Arc::clone(&self.shared))
    }
}

impl TickerShared {
    fn run(&self, tick: Duration) {
        let mut idle = 0;
        while !self.stop.load(SeqCst) {
            if self.live.load(SeqCst) > 0 {
                idle = 0;
            } else {
                idle += 1;
            }
            if idle < IDLE_TICKS {
                for runtime in self.runtimes.iter().filter_map(OnceLock::get) {
                    runtime.engine.increment_epoch();
                }
                self.deadlines.ring(Instant::now());
                std::thread::sleep(tick);
                continue;
            }
            // The order matters: say that we sleep, then look again. `begin` counts first and
            // looks at `parked` second, so one of the two sees the other.
            self.parked.store(true, SeqCst);
            if self.live.load(SeqCst) == 0 && !self.stop.load(SeqCst) {
                std::thread::park();
            }
            self.parked.store(false, SeqCst);
            idle = 0;
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // The thread holds nothing that could panic; a panic there would not matter here.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(condition: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(std::time::Instant::now() < deadline, "never came true");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_ticker_sleeps_without_guests_and_wakes_for_one() {
        let ticker = Ticker::start(Duration::from_micros(1)).unwrap();
        let parked = || ticker.shared.parked.load(SeqCst);
        for _ in 0..3 {
            wait_for(parked);
            let ticking = ticker.begin();
            wait_for(|| !parked());
            drop(ticking);
        }
    }
}
