//! What a component used: counters and histograms, lock-free, one set per component.
//!
//! Not a metrics format: whoever exports them reads a [`MeterSnapshot`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::outcome::Outcome;

/// Upper bounds of the histogram buckets, in milliseconds: from a hello (0.02) to the longest
/// default wall time (30 s).
const BOUNDS_MS: [f64; 17] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0,
    10_000.0, 30_000.0,
];

/// Counters of one component, shared by its replicas.
#[derive(Debug, Default)]
pub struct Meter {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    exec: Histogram,
    instantiation: Histogram,
    fuel_used: AtomicU64,
    throttled_ns: AtomicU64,
    epoch_preemptions: AtomicU64,
    outbound_denied: AtomicU64,
    memory_current: AtomicU64,
    memory_peak: AtomicU64,
    messages_done: AtomicU64,
    messages_retried: AtomicU64,
    messages_dead: AtomicU64,
    messages_filtered: AtomicU64,
}

/// The values of a [`Meter`] at one moment (each is read on its own).
#[derive(Debug, Clone, PartialEq)]
pub struct MeterSnapshot {
    /// Invocations by [`Outcome::code`], zeros included.
    pub outcomes: Vec<(&'static str, u64)>,
    /// Running time of ended invocations.
    pub wasm_exec_ms: HistogramSnapshot,
    /// Time to make an instance.
    pub instantiation_ms: HistogramSnapshot,
    /// Fuel units used; 0 without `fuel_per_sec`.
    pub fuel_used: u64,
    /// Milliseconds that guests were suspended for fuel.
    pub throttled_ms: u64,
    /// Times that a running guest was made to yield.
    pub epoch_preemptions: u64,
    /// Outbound requests, connections, datagrams, look-ups and sockets that no grant allowed.
    pub outbound_denied: u64,
    /// Bytes of linear memory and tables of live instances.
    pub mem_current_bytes: u64,
    /// The highest value of `mem_current_bytes`.
    pub mem_peak_bytes: u64,
    /// Messages that were taken, by what became of them: `done`, `retried`, `dead`,
    /// and `filtered` where the component did not want them.
    pub messages: [(&'static str, u64); 4],
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSnapshot {
    /// (upper bound in ms, observations at or below it): cumulative; `+Inf` is `count`.
    pub buckets: Vec<(f64, u64)>,
    /// Observations.
    pub count: u64,
    /// Sum of observations in ms.
    pub sum_ms: f64,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Observations per bucket (not cumulative); the last is above every bound.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn observe(&self, value: Duration) {
        let ms = value.as_secs_f64() * 1_000.0;
        let index = BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.buckets[index].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(nanos(value), Relaxed);
    }

    fn snapshot(&self) -> HistogramSnapshot {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_MS.len());
        for (index, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            if let Some(bound) = BOUNDS_MS.get(index) {
                buckets.push((*bound, count));
            }
        }
        HistogramSnapshot {
            buckets,
            count,
            sum_ms: Duration::from_nanos(self.sum_ns.load(Relaxed)).as_secs_f64() * 1_000.0,
        }
    }
}

impl Meter {
    /// A meter at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads every value.
    pub fn snapshot(&self) -> MeterSnapshot {
        MeterSnapshot {
            outcomes: Outcome::ALL
                .iter()
                .map(|outcome| {
                    (
                        outcome.code(),
                        self.outcomes[*outcome as usize].load(Relaxed),
                    )
                })
                .collect(),
            wasm_exec_ms: self.exec.snapshot(),
            instantiation_ms: self.instantiation.snapshot(),
            fuel_used: self.fuel_used.load(Relaxed),
            throttled_ms: self.throttled_ns.load(Relaxed) / 1_000_000,
            epoch_preemptions: self.epoch_preemptions.load(Relaxed),
            outbound_denied: self.outbound_denied.load(Relaxed),
            mem_current_bytes: self.memory_current.load(Relaxed),
            mem_peak_bytes: self.memory_peak.load(Relaxed),
            messages: [
                ("done", self.messages_done.load(Relaxed)),
                ("retried", self.messages_retried.load(Relaxed)),
                ("dead", self.messages_dead.load(Relaxed)),
                ("filtered", self.messages_filtered.load(Relaxed)),
            ],
        }
    }

    pub(crate) fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn ran(&self, running: Duration) {
        self.exec.observe(running);
    }

    pub(crate) fn instantiated(&self, took: Duration) {
        self.instantiation.observe(took);
    }

    pub(crate) fn burned(&self, fuel: u64) {
        self.fuel_used.fetch_add(fuel, Relaxed);
    }

    pub(crate) fn throttled(&self, time: Duration) {
        self.throttled_ns.fetch_add(nanos(time), Relaxed);
    }

    pub(crate) fn preempted(&self) {
        self.epoch_preemptions.fetch_add(1, Relaxed);
    }

    pub(crate) fn message_done(&self) {
        self.messages_done.fetch_add(1, Relaxed);
    }

    pub(crate) fn message_retried(&self) {
        self.messages_retried.fetch_add(1, Relaxed);
    }

    pub(crate) fn message_dead(&self) {
        self.messages_dead.fetch_add(1, Relaxed);
    }

    /// A message came that the component does not want.
    pub fn message_filtered(&self) {
        self.messages_filtered.fetch_add(1, Relaxed);
    }

    pub(crate) fn outbound_denied(&self) {
        self.outbound_denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn memory_grew(&self, bytes: u64) {
        let current = self.memory_current.fetch_add(bytes, Relaxed) + bytes;
        self.memory_peak.fetch_max(current, Relaxed);
    }

    pub(crate) fn memory_freed(&self, bytes: u64) {
        self.memory_current.fetch_sub(bytes, Relaxed);
    }
}

/// Nanoseconds; 584 years is far above any limit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_closed_above() {
        let meter = Meter::new();
        for ms in [0, 1, 5, 60_000] {
            meter.ran(Duration::from_millis(ms));
        }
        let seen = meter.snapshot().wasm_exec_ms;
        let at = |bound: f64| seen.buckets.iter().find(|(b, _)| *b == bound).unwrap().1;
        assert_eq!((at(0.05), at(1.0), at(5.0), at(30_000.0)), (1, 2, 3, 3));
        assert_eq!(seen.count, 4);
        assert_eq!(seen.sum_ms, 60_006.0);
    }

    #[test]
    fn the_peak_outlives_what_was_freed() {
        let meter = Meter::new();
        meter.memory_grew(10);
        meter.memory_grew(20);
        meter.memory_freed(25);
        meter.memory_grew(1);
        let seen = meter.snapshot();
        assert_eq!((seen.mem_current_bytes, seen.mem_peak_bytes), (6, 30));
    }
}
