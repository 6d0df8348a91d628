//! What a guest says of itself through `wasi:otel`, read and bounded: spans, points of metrics and
//! records of logs, and the trait of what takes them.
//!
//! Not here: how a guest hands them over (the host), where they go (`realm-backends`).

use serde_json::Value as Json;

use super::CloudError;
use super::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTE_DEPTH_MAX, ATTRIBUTE_ITEMS_MAX};
use crate::text::{from_base64, start_of};

/// Where telemetry goes. No call waits: what has no room is dropped, and counted.
pub trait Telemetry: Send + Sync {
    /// Takes a span. One that comes back has its place in the component's log.
    fn span(&self, from: Emitter, span: Span) -> Option<Span>;

    /// Takes a record. One that comes back has its place in the component's log.
    fn log(&self, from: Emitter, record: LogRecord) -> Option<LogRecord>;

    /// Takes points: all of them, or none and why.
    fn metrics(&self, from: Emitter, metrics: Metrics) -> Result<(), CloudError>;

    /// Whether spans and records go elsewhere than to the component's log.
    fn is_elsewhere(&self) -> bool;

    /// Counts what never got here: it was too large, or made no sense.
    fn refused(&self, signal: Signal);
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Points.
    Metrics,
    /// Records.
    Logs,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// As paths and labels have it: `traces`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Which instance of a component says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitter {
    /// The replica.
    pub slot: u32,
    /// The instance: no two of an agent's life are the same.
    pub instance: u64,
}

/// Names a trace. Never all zeros.
pub type TraceId = [u8; 16];
/// Names a span. Never all zeros.
pub type SpanId = [u8; 8];

/// What is passed along of a span, so that others join its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Whether it is wanted.
    pub sampled: bool,
    /// Whether it was made elsewhere.
    pub remote: bool,
    /// As the header `tracestate` has it.
    pub state: String,
}

impl SpanContext {
    /// Reads the header `traceparent`; `None`: it is not there, or not as the specification says.
    ///
    /// Source: W3C Trace Context, version 00, and how later ones are to be read.
    pub fn parse(traceparent: &str, state: &str) -> Option<Self> {
        let mut parts = traceparent.splitn(4, '-');
        let [version, trace, span, rest] =
            [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let [version] = from_hex::<1>(version)?;
        let (flags, more) = rest.split_at_checked(2)?;
        let [flags] = from_hex::<1>(flags)?;
        let known = match version {
            0 => more.is_empty(),
            u8::MAX => false,
            _ => more.is_empty() || more.starts_with('-'),
        };
        if !known {
            return None;
        }
        Some(Self {
            trace: id(trace)?,
            span: id(span)?,
            sampled: flags & 1 == 1,
            remote: true,
            state: state.to_owned(),
        })
    }
}

/// Bytes as lower-case hexadecimal digits; `None`: others, or not so many.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The id of a trace or a span; `None`: it is not one.
pub fn id<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_hex(text).filter(|bytes| *bytes != [0; N])
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15];
    let char_of = |digit: u8| char::from(b"0123456789abcdef"[usize::from(digit)]);
    bytes.iter().flat_map(digits).map(char_of).collect()
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Empty,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Double(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(Vec<(String, Value)>),
}

/// Attributes in the order in which they came.
pub type Attributes = Vec<(String, Value)>;

/// What stands before bytes in a text of JSON.
const BYTES: &str = "{base64}:";

impl Value {
    /// Reads a value as `wasi:otel` writes it: JSON, with bytes as a text `{base64}:…`. What is no JSON, or
    /// too large, is text, and cut.
    pub fn parse(text: &str) -> Self {
        if text.len() > ATTRIBUTE_BYTES_MAX {
            let text = text.strip_prefix('"').unwrap_or(text);
            return Self::Text(start_of(text, ATTRIBUTE_BYTES_MAX));
        }
        match serde_json::from_str(text) {
            Ok(json) => Self::of(json, ATTRIBUTE_DEPTH_MAX),
            Err(_) => Self::Text(text.to_owned()),
        }
    }

    fn of(json: Json, depth: usize) -> Self {
        let Some(below) = depth.checked_sub(1) else {
            return Self::Text("(too deep)".to_owned());
        };
        match json {
            Json::Null => Self::Empty,
            Json::Bool(bool) => Self::Bool(bool),
            Json::Number(number) => match number.as_i64() {
                Some(int) => Self::Int(int),
                // A number of JSON is one of these; beyond them it would have been no JSON.
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => match text.strip_prefix(BYTES).map(from_base64) {
                Some(Some(bytes)) => Self::Bytes(bytes),
                Some(None) | None => Self::Text(text),
            },
            Json::Array(items) => {
                let items = items.into_iter().take(ATTRIBUTE_ITEMS_MAX);
                Self::List(items.map(|item| Self::of(item, below)).collect())
            }
            Json::Object(pairs) => {
                let pairs = pairs.into_iter().take(ATTRIBUTE_ITEMS_MAX);
                Self::Map(
                    pairs
                        .map(|(key, item)| (key, Self::of(item, below)))
                        .collect(),
                )
            }
        }
    }

    /// As a person reads it: text as it is, the others as JSON, bytes as base64.
    pub fn plain(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Empty
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Double(_)
            | Self::Bytes(_)
            | Self::List(_)
            | Self::Map(_) => self.json().to_string(),
        }
    }

    fn json(&self) -> Json {
        match self {
            Self::Empty => Json::Null,
            Self::Bool(bool) => Json::Bool(*bool),
            Self::Int(int) => Json::from(*int),
            Self::Double(double) => Json::from(*double),
            Self::Text(text) => Json::String(text.clone()),
            Self::Bytes(bytes) => Json::String(crate::text::base64(bytes)),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Map(pairs) => {
                let pair = |(key, item): &(String, Self)| (key.clone(), item.json());
                Json::Object(pairs.iter().map(pair).collect())
            }
        }
    }
}

/// The part of a program that says something.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scope {
    /// Its name.
    pub name: String,
    /// Its version, or nothing.
    pub version: String,
    /// Where the meaning of its names is written down, or nothing.
    pub schema_url: String,
    /// More of it.
    pub attributes: Attributes,
}

/// What a guest says of where it runs; what the node says of it goes before.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resource {
    /// Its attributes.
    pub attributes: Attributes,
    /// Where their meaning is written down, or nothing.
    pub schema_url: String,
}

/// A span that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What it is called by others.
    pub context: SpanContext,
    /// The one that it is a part of.
    pub parent: Option<SpanId>,
    /// What it stands for.
    pub kind: SpanKind,
    /// Its name.
    pub name: String,
    /// When it began, in nanoseconds since 1970.
    pub start_unix_ns: u64,
    /// When it ended.
    pub end_unix_ns: u64,
    /// More of it.
    pub attributes: Attributes,
    /// What happened in it.
    pub events: Vec<SpanEvent>,
    /// Others that it has to do with.
    pub links: Vec<Link>,
    /// How it ended.
    pub status: Status,
    /// Who says so.
    pub scope: Scope,
    /// What is not there, since there was too much.
    pub dropped: Dropped,
}

/// How much of a span was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Attributes.
    pub attributes: u32,
    /// Events.
    pub events: u32,
    /// Links.
    pub links: u32,
}

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that is waited for.
    Client,
    /// The answering of one.
    Server,
    /// A message that is sent.
    Producer,
    /// The dealing with one.
    Consumer,
    /// Work within a program.
    Internal,
}

impl SpanKind {
    /// One word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::Internal => "internal",
        }
    }
}

/// How a span ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It does not say.
    Unset,
    /// Well, as its author says.
    Ok,
    /// With an error.
    Error(String),
}

/// Something that happened in a span.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanEvent {
    /// What.
    pub name: String,
    /// When.
    pub unix_ns: u64,
    /// More of it.
    pub attributes: Attributes,
}

/// Another span that one has to do with.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The other one.
    pub context: SpanContext,
    /// More of it.
    pub attributes: Attributes,
}

/// A record of a log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogRecord {
    /// When it happened.
    pub unix_ns: Option<u64>,
    /// When it was seen.
    pub observed_unix_ns: u64,
    /// The level in the guest's words, or nothing.
    pub severity_text: String,
    /// 1 to 24, 0: none.
    pub severity: u8,
    /// What it says.
    pub body: Value,
    /// More of it.
    pub attributes: Attributes,
    /// Attributes that are not there.
    pub dropped_attributes: u32,
    /// What kind of event it is, or nothing.
    pub event_name: String,
    /// Where the guest says that it runs.
    pub resource: Resource,
    /// Who says so.
    pub scope: Scope,
    /// The trace that it belongs to.
    pub trace: Option<TraceId>,
    /// The span.
    pub span: Option<SpanId>,
    /// Whether that is wanted.
    pub sampled: bool,
}

#[expect(
    clippy::derivable_impls,
    reason = "the first variant is no better than the others"
)]
impl Default for Value {
    fn default() -> Self {
        Self::Empty
    }
}

/// Points of instruments, as a guest exports them at a time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Where the guest says that it runs.
    pub resource: Resource,
    /// By who says so.
    pub scopes: Vec<(Scope, Vec<Metric>)>,
}

/// The points of an instrument.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// What it means, or nothing.
    pub description: String,
    /// In what it is measured, as UCUM has it, or nothing.
    pub unit: String,
    /// The points.
    pub data: MetricData,
}

/// Points by what they are.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricData {
    /// What was last measured.
    Gauge(Vec<Point<Number>>),
    /// What adds up.
    Sum {
        /// The points.
        points: Vec<Point<Number>>,
        /// Since when they count.
        temporality: Temporality,
        /// Whether it only grows.
        monotonic: bool,
    },
    /// How many values lie where.
    Histogram {
        /// The points.
        points: Vec<Point<Buckets>>,
        /// Since when they count.
        temporality: Temporality,
    },
    /// The same, with bounds that grow by a factor.
    Exponential {
        /// The points.
        points: Vec<Point<ExponentialBuckets>>,
        /// Since when they count.
        temporality: Temporality,
    },
}

/// Since when points count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// Since the beginning.
    Cumulative,
    /// Since the export before.
    Delta,
}

/// A point of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Point<T> {
    /// Which series.
    pub attributes: Attributes,
    /// Since when it counts; 0: unknown.
    pub start_unix_ns: u64,
    /// When it was measured.
    pub unix_ns: u64,
    /// What was measured.
    pub value: T,
    /// Single values, with the spans that they are of.
    pub exemplars: Vec<Exemplar>,
}

/// A number of either kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole one.
    Int(i64),
    /// Another one.
    Double(f64),
}

impl Number {
    /// The number, as near as possible.
    pub const fn as_f64(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Double(double) => double,
        }
    }
}

/// How many values lie between bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// How many there are in all.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Upper bounds, growing.
    pub bounds: Vec<f64>,
    /// One more than bounds, or none.
    pub counts: Vec<u64>,
    /// The least.
    pub min: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
}

/// How many values lie between powers.
#[derive(Debug, Clone, PartialEq)]
pub struct ExponentialBuckets {
    /// How many there are in all.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The factor is 2 to the power of 2 to the power of minus this.
    pub scale: i8,
    /// How many are as good as 0.
    pub zero_count: u64,
    /// Up to where that is.
    pub zero_threshold: f64,
    /// Of values above 0: the first power, and counts from there.
    pub positive: (i32, Vec<u64>),
    /// Of values below.
    pub negative: (i32, Vec<u64>),
    /// The least.
    pub min: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
}

/// A single value that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// Attributes that its series does not have.
    pub attributes: Attributes,
    /// When.
    pub unix_ns: u64,
    /// What.
    pub value: Number,
    /// In which trace and span.
    pub trace: Option<(TraceId, SpanId)>,
}

#[cfg(test)]
#[path = "telemetry_tests.rs"]
mod tests;
