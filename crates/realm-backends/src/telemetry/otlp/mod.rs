//! A collector of OpenTelemetry: what guests say is queued, and sent in batches by OTLP over HTTP.
//!
//! A guest never waits. Each component has a queue of its own for each signal, so that a flood of one
//! pushes out only what is its own; the oldest goes first. What one collector does not take in time is
//! lost, and counted.

mod encode;
mod queue;
mod sending;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::CloudError;
use realm_model::cloud::telemetry::{Emitter, LogRecord, Metrics, Signal, Span, Telemetry};
use reqwest::redirect::Policy;
use zeroize::Zeroizing;

use super::{Fate, Guest};
use crate::asking::{Alone, NotHeaders, headers};
use crate::server::{Access, ServerError, tls_config};
use crate::watch::{Health, Watch};
use queue::Queue;

/// Until a collector has to have answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Until it has to have taken a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who speaks, as the node says it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The node.
    pub node: String,
    /// The namespace of the component: that of the realm, where it has none.
    pub namespace: String,
    /// The app: the component without its label.
    pub service: String,
    /// The component.
    pub component: String,
    /// Its version.
    pub version: String,
}

/// Where a collector is, and as whom it is asked.
pub struct Collector {
    /// `http://HOST:PORT[/PATH]`, to which `/v1/traces` and its siblings are added.
    pub endpoint: String,
    /// Headers: `NAME=VALUE`, with commas between several, as `OTEL_EXPORTER_OTLP_HEADERS` has them; or the
    /// value of `authorization` alone.
    pub headers: Option<Zeroizing<String>>,
    /// Certificates of authorities beside those that the machine and browsers trust: a file in PEM.
    pub authorities: Option<PathBuf>,
}

/// Why a collector cannot be sent to as it is named; it was not asked.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// What it is to be believed by.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The secret is no list of headers.
    #[error(transparent)]
    Headers(#[from] NotHeaders),
    /// The client could not be made.
    #[error("the client could not be made")]
    Client(#[source] reqwest::Error),
}

/// Sends to one collector what components say that are bound to it. When it goes, what waits is sent once.
pub struct Exporter {
    queues: [Arc<Queue>; Signal::ALL.len()],
}

impl Exporter {
    /// Begins to send; needs a runtime of tokio.
    pub fn start(collector: &Collector, watch: Arc<dyn Watch>) -> Result<Arc<Self>, ExporterError> {
        let access = Access {
            authorities: collector.authorities.clone(),
            ..Access::default()
        };
        let headers = collector
            .headers
            .as_ref()
            .map(|text| headers(text, Alone::Value));
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(&access)?)
            .default_headers(headers.transpose()?.unwrap_or_default())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            // The collector is who the manifest names, and nobody else gets the headers.
            .redirect(Policy::none())
            .no_proxy()
            .build()
            .map_err(ExporterError::Client)?;
        let health = Arc::new(Health::new(watch));
        let queues = Signal::ALL.map(|signal| {
            let queue = Arc::new(Queue::new(signal));
            let url = format!("{}/v1/{}", collector.endpoint, signal.as_str());
            let lane = sending::Lane {
                queue: Arc::clone(&queue),
                client: client.clone(),
                url,
                health: Arc::clone(&health),
            };
            tokio::spawn(lane.run());
            queue
        });
        Ok(Arc::new(Self { queues }))
    }

    /// What a component that is bound to it says.
    pub fn of(self: &Arc<Self>, source: Source, guest: Arc<Guest>) -> Arc<dyn Telemetry> {
        Arc::new(Sender {
            exporter: Arc::clone(self),
            source,
            guest,
        })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.close();
        }
    }
}

/// What one component says.
struct Sender {
    exporter: Arc<Exporter>,
    source: Source,
    guest: Arc<Guest>,
}

impl Sender {
    fn queue(&self, signal: Signal) -> &Queue {
        &self.exporter.queues[signal as usize]
    }
}

impl Telemetry for Sender {
    fn span(&self, from: Emitter, span: Span) -> Option<Span> {
        let bytes = encode::span(&self.source, from, span);
        self.queue(Signal::Traces).push(&self.guest, bytes);
        None
    }

    fn log(&self, from: Emitter, record: LogRecord) -> Option<LogRecord> {
        let bytes = encode::log(&self.source, from, record);
        self.queue(Signal::Logs).push(&self.guest, bytes);
        None
    }

    fn metrics(&self, from: Emitter, metrics: Metrics) -> Result<(), CloudError> {
        let bytes = encode::metrics(&self.source, from, metrics);
        self.queue(Signal::Metrics).push(&self.guest, bytes);
        Ok(())
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn refused(&self, signal: Signal) {
        self.guest.count(signal, Fate::Refused, 1);
    }
}
