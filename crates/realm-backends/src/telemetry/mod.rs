//! Telemetry of guests: what they measure, on the metrics page of the agent, or sent to a collector.
//!
//! Not here: how guests hand it over, and the component's log, where spans and records go that nobody
//! else takes.

mod names;
mod otlp;
mod page;
mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use realm_model::cloud::CloudError;
use realm_model::cloud::telemetry::{Emitter, LogRecord, Metrics, Signal, Span, Telemetry};

pub use otlp::{Collector, Exporter, ExporterError, Source};
use series::Series;

/// What the guests of this node said of themselves. Cheap to clone.
#[derive(Clone, Default)]
pub struct Guests(Arc<Mutex<BTreeMap<String, Weak<Guest>>>>);

/// What the guests of one component said: there for as long as the component is.
pub struct Guest {
    component: String,
    counts: Counts,
    series: Mutex<Series>,
}

/// What became of spans, exports and records, by signal and [`Fate`].
#[derive(Default)]
struct Counts([[AtomicU64; Fate::ALL.len()]; Signal::ALL.len()]);

/// What becomes of something that a guest said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is where it belongs.
    Taken,
    /// There was no room, or nobody who took it in time.
    Dropped,
    /// It was too large, made no sense, or the collector did not want it.
    Refused,
}

impl Fate {
    pub(crate) const ALL: [Self; 3] = [Self::Taken, Self::Dropped, Self::Refused];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        }
    }
}

impl Guests {
    /// Those of a component.
    pub fn of(&self, component: &str) -> Arc<Guest> {
        let mut guests = held(&self.0);
        if let Some(guest) = guests.get(component).and_then(Weak::upgrade) {
            return guest;
        }
        let guest = Arc::new(Guest {
            component: component.to_owned(),
            counts: Counts::default(),
            series: Mutex::default(),
        });
        guests.insert(component.to_owned(), Arc::downgrade(&guest));
        guest
    }

    /// A part of the metrics page, in Prometheus' text format: what guests measure, and what became of all
    /// that they said.
    pub fn page(&self) -> String {
        let guests: Vec<Arc<Guest>> = {
            let mut guests = held(&self.0);
            guests.retain(|_, guest| guest.strong_count() > 0);
            guests.values().filter_map(Weak::upgrade).collect()
        };
        page::page(&guests)
    }
}

impl Guest {
    pub(crate) fn count(&self, signal: Signal, fate: Fate, n_items: u64) {
        self.counts.0[signal as usize][fate as usize].fetch_add(n_items, Ordering::Relaxed);
    }

    fn counted(&self, signal: Signal, fate: Fate) -> u64 {
        self.counts.0[signal as usize][fate as usize].load(Ordering::Relaxed)
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        held(&self.series)
    }
}

/// What is measured is on the metrics page; spans and records go back, to the component's log.
pub struct Embedded(Arc<Guest>);

impl Embedded {
    /// For a component.
    pub const fn new(guest: Arc<Guest>) -> Self {
        Self(guest)
    }
}

impl Telemetry for Embedded {
    fn span(&self, _: Emitter, span: Span) -> Option<Span> {
        self.0.count(Signal::Traces, Fate::Taken, 1);
        Some(span)
    }

    fn log(&self, _: Emitter, record: LogRecord) -> Option<LogRecord> {
        self.0.count(Signal::Logs, Fate::Taken, 1);
        Some(record)
    }

    fn metrics(&self, from: Emitter, metrics: Metrics) -> Result<(), CloudError> {
        let taken = self.0.series().take(from, &metrics);
        let fate = if taken.is_ok() {
            Fate::Taken
        } else {
            Fate::Refused
        };
        self.0.count(Signal::Metrics, fate, 1);
        taken.map_err(CloudError::Invalid)
    }

    fn is_elsewhere(&self) -> bool {
        false
    }

    fn refused(&self, signal: Signal) {
        self.0.count(signal, Fate::Refused, 1);
    }
}

/// Values that are changed at once: no panic can leave them torn.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
