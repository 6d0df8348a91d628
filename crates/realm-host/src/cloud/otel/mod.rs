//! `wasi:otel@0.2.0-rc.2`: spans, points and records that a guest hands over, to what its component binds.
//!
//! Nothing here waits. Without a binding records go to the component's log, as with `wasi:logging`; spans go
//! nowhere, and who exports metrics is told so. Not here: what is read of them (`read`), how they look in a
//! log (`shown`), and where they go.

mod ambient;
mod read;
mod shown;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use realm_model::cloud::CloudError;
use realm_model::cloud::telemetry::{Emitter, LogRecord, Signal, Span, Telemetry};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker};

use super::{Cloud, Speaker};
use crate::invocation::Shared;
use crate::logs::say;
use crate::state::State;

pub(crate) use ambient::{Ambient, Caller};

pub(super) mod generated {
    wasmtime::component::bindgen!({
        path: [
            "../../wit/deps/wasi-io-0.2.0",
            "../../wit/deps/wasi-clocks-0.2.0",
            "../../wit/deps/wasi-otel-0.2.0-rc.2",
        ],
        world: "wasi:otel/imports@0.2.0-rc.2",
    });
}

use generated::wasi::otel::{logs, metrics, tracing, types};

/// Instances that were made.
static INSTANCES: AtomicU64 = AtomicU64::new(0);

/// The number of an instance: no two are the same.
pub(crate) fn next_instance() -> u64 {
    INSTANCES.fetch_add(1, Ordering::Relaxed)
}

/// Where the telemetry of a component goes.
#[derive(Clone, Default)]
pub(super) struct Outlet {
    pub(super) to: Option<Arc<dyn Telemetry>>,
    /// Its log says that nothing is bound.
    told: Arc<AtomicBool>,
}

impl Outlet {
    /// Says once that what a guest tells goes nowhere.
    fn unbound(&self, speaker: &Speaker<'_>) {
        if !self.told.swap(true, Ordering::Relaxed) {
            say(
                &**speaker.sink,
                speaker.slot,
                "telemetry-unbound: spans and metrics go nowhere: bind a `wasi:otel` (docs/wasi-cloud.md)",
            );
        }
    }
}

/// What the interface works with.
pub(crate) struct View<'a> {
    pub(crate) cloud: &'a Cloud,
    pub(crate) speaker: Speaker<'a>,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) ambient: &'a mut Ambient,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    types::add_to_linker::<_, Has>(linker, State::otel)?;
    tracing::add_to_linker::<_, Has>(linker, State::otel)?;
    metrics::add_to_linker::<_, Has>(linker, State::otel)?;
    logs::add_to_linker::<_, Has>(linker, State::otel)
}

impl View<'_> {
    fn from(&self) -> Emitter {
        self.ambient.emitter()
    }

    /// Before a call that has no way to say that it was refused.
    fn outlet(&self, signal: Signal) -> Option<&Arc<dyn Telemetry>> {
        let to = self.cloud.telemetry().to.as_ref()?;
        if self.cloud.charge().is_err() {
            to.refused(signal);
            return None;
        }
        Some(to)
    }

    fn span(&self, span: Option<Span>) {
        let Some(to) = self.outlet(Signal::Traces) else {
            if self.cloud.telemetry().to.is_none() {
                self.cloud.telemetry().unbound(&self.speaker);
            }
            return;
        };
        match span {
            Some(span) if span.context.sampled => {
                if let Some(span) = to.span(self.from(), span) {
                    self.speaker.say(shown::span(&span));
                }
            }
            // As its author wants it.
            Some(_) => {}
            None => to.refused(Signal::Traces),
        }
    }

    fn record(&self, record: LogRecord) {
        let back = match self.outlet(Signal::Logs) {
            Some(to) => to.log(self.from(), record),
            None if self.cloud.telemetry().to.is_none() => Some(record),
            None => None,
        };
        if let Some(record) = back {
            let (level, context, message) = shown::record(&record);
            self.speaker.log(level, &context, &message);
        }
    }
}

impl types::Host for View<'_> {}

impl tracing::Host for View<'_> {
    fn on_start(&mut self, _: tracing::SpanContext) {}

    fn on_end(&mut self, span: tracing::SpanData) {
        self.span(read::span(span));
    }

    fn current_span_context(&mut self) -> tracing::SpanContext {
        let to = self.cloud.telemetry().to.as_ref();
        read::written(self.ambient.context(self.shared, to.is_some()))
    }
}

impl metrics::Host for View<'_> {
    fn export(&mut self, metrics: metrics::ResourceMetrics) -> Result<(), String> {
        let Some(to) = self.cloud.telemetry().to.as_ref() else {
            self.cloud.telemetry().unbound(&self.speaker);
            return Err("no `wasi:otel` is bound to this component".to_owned());
        };
        let exported = match self.cloud.charge() {
            Ok(()) => read::metrics(metrics),
            Err(error) => Err(error),
        };
        let taken: Result<(), CloudError> = match exported {
            Ok(metrics) => to.metrics(self.from(), metrics),
            Err(error) => {
                to.refused(Signal::Metrics);
                Err(error)
            }
        };
        taken.map_err(|error| error.to_string())
    }
}

impl logs::Host for View<'_> {
    fn on_emit(&mut self, record: logs::LogRecord) {
        self.record(read::record(record));
    }
}
