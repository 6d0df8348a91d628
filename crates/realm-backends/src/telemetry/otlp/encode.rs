//! From what a guest said to messages of OTLP, each complete in itself: what the node says of the component
//! stands before what the guest says, and cannot be forged.

use prost::Message as _;
use realm_model::cloud::telemetry::{
    Attributes, Emitter, Exemplar, ExponentialBuckets, Link, LogRecord, Metric, MetricData,
    Metrics, Number, Point, Resource, Scope, Span, SpanContext, SpanEvent, SpanKind, Status,
    Temporality, Value,
};

use super::Source;
use super::wire::{self, Any};

/// What names that only the node gives begin with: who and where.
const RESERVED: [&str; 5] = ["service.", "realm.", "host.", "process.", "os."];

pub(super) fn span(source: &Source, from: Emitter, span: Span) -> Vec<u8> {
    let Span {
        context,
        parent,
        kind,
        name,
        start_unix_ns,
        end_unix_ns,
        attributes,
        events,
        links,
        status,
        scope: by,
        dropped,
    } = span;
    let (schema_url, scope) = scope(by);
    let item = wire::Span {
        flags: flags(&context),
        trace_id: context.trace.to_vec(),
        span_id: context.span.to_vec(),
        trace_state: context.state,
        parent_span_id: parent.map(|id| id.to_vec()).unwrap_or_default(),
        name,
        kind: match kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
            SpanKind::Producer => 4,
            SpanKind::Consumer => 5,
        },
        start_unix_ns,
        end_unix_ns,
        attributes: pairs(attributes),
        dropped_attributes: dropped.attributes,
        events: events.into_iter().map(event).collect(),
        dropped_events: dropped.events,
        links: links.into_iter().map(link).collect(),
        dropped_links: dropped.links,
        status: Some(match status {
            Status::Unset => wire::Status::default(),
            Status::Ok => wire::Status {
                code: 1,
                message: String::new(),
            },
            Status::Error(message) => wire::Status { code: 2, message },
        }),
    };
    wire::ResourceSpans {
        resource: Some(resource(source, from, Attributes::new())),
        scopes: vec![wire::ScopeSpans {
            scope: Some(scope),
            items: vec![item],
            schema_url,
        }],
        schema_url: String::new(),
    }
    .encode_to_vec()
}

/// The flags of W3C, and whether it is known to be from elsewhere.
fn flags(context: &SpanContext) -> u32 {
    const HAS_REMOTE: u32 = 0x100;
    const IS_REMOTE: u32 = 0x200;
    let remote = if context.remote { IS_REMOTE } else { 0 };
    u32::from(context.sampled) | HAS_REMOTE | remote
}

fn event(event: SpanEvent) -> wire::Event {
    wire::Event {
        unix_ns: event.unix_ns,
        name: event.name,
        attributes: pairs(event.attributes),
    }
}

fn link(link: Link) -> wire::Link {
    wire::Link {
        flags: flags(&link.context),
        trace_id: link.context.trace.to_vec(),
        span_id: link.context.span.to_vec(),
        trace_state: link.context.state,
        attributes: pairs(link.attributes),
    }
}

pub(super) fn log(source: &Source, from: Emitter, record: LogRecord) -> Vec<u8> {
    let LogRecord {
        unix_ns,
        observed_unix_ns,
        severity_text,
        severity,
        body,
        attributes,
        dropped_attributes,
        event_name,
        resource: of_guest,
        scope: by,
        trace,
        span,
        sampled,
    } = record;
    let (schema_url, scope) = scope(by);
    let item = wire::LogRecord {
        unix_ns: unix_ns.unwrap_or_default(),
        severity: i32::from(severity),
        severity_text,
        body: Some(any(body)),
        attributes: pairs(attributes),
        dropped_attributes,
        flags: u32::from(sampled),
        trace_id: trace.map(|id| id.to_vec()).unwrap_or_default(),
        span_id: span.map(|id| id.to_vec()).unwrap_or_default(),
        observed_unix_ns,
        event_name,
    };
    let Resource {
        attributes,
        schema_url: of_resource,
    } = of_guest;
    wire::ResourceLogs {
        resource: Some(resource(source, from, attributes)),
        scopes: vec![wire::ScopeLogs {
            scope: Some(scope),
            items: vec![item],
            schema_url,
        }],
        schema_url: of_resource,
    }
    .encode_to_vec()
}

pub(super) fn metrics(source: &Source, from: Emitter, metrics: Metrics) -> Vec<u8> {
    let Resource {
        attributes,
        schema_url,
    } = metrics.resource;
    let scopes = metrics.scopes.into_iter().map(|(by, items)| {
        let (schema_url, scope) = scope(by);
        wire::ScopeMetrics {
            scope: Some(scope),
            items: items.into_iter().map(metric).collect(),
            schema_url,
        }
    });
    wire::ResourceMetrics {
        resource: Some(resource(source, from, attributes)),
        scopes: scopes.collect(),
        schema_url,
    }
    .encode_to_vec()
}

fn metric(metric: Metric) -> wire::Metric {
    let data = match metric.data {
        MetricData::Gauge(points) => wire::Data::Gauge(wire::Gauge {
            points: points.into_iter().map(number_point).collect(),
        }),
        MetricData::Sum {
            points,
            temporality: since,
            monotonic,
        } => wire::Data::Sum(wire::Sum {
            points: points.into_iter().map(number_point).collect(),
            temporality: temporality(since),
            monotonic,
        }),
        MetricData::Histogram {
            points,
            temporality: since,
        } => {
            let point =
                |point: Point<realm_model::cloud::telemetry::Buckets>| wire::HistogramPoint {
                    start_unix_ns: point.start_unix_ns,
                    unix_ns: point.unix_ns,
                    count: point.value.count,
                    sum: Some(point.value.sum),
                    counts: point.value.counts,
                    bounds: point.value.bounds,
                    exemplars: point.exemplars.into_iter().map(exemplar).collect(),
                    attributes: pairs(point.attributes),
                    min: point.value.min,
                    max: point.value.max,
                };
            wire::Data::Histogram(wire::Histogram {
                points: points.into_iter().map(point).collect(),
                temporality: temporality(since),
            })
        }
        MetricData::Exponential {
            points,
            temporality: since,
        } => wire::Data::Exponential(wire::Exponential {
            points: points.into_iter().map(exponential_point).collect(),
            temporality: temporality(since),
        }),
    };
    wire::Metric {
        name: metric.name,
        description: metric.description,
        unit: metric.unit,
        data: Some(data),
    }
}

const fn temporality(since: Temporality) -> i32 {
    match since {
        Temporality::Delta => 1,
        Temporality::Cumulative => 2,
    }
}

fn number_point(point: Point<Number>) -> wire::NumberPoint {
    wire::NumberPoint {
        start_unix_ns: point.start_unix_ns,
        unix_ns: point.unix_ns,
        value: Some(match point.value {
            Number::Int(int) => wire::PointNumber::Int(int),
            Number::Double(double) => wire::PointNumber::Double(double),
        }),
        exemplars: point.exemplars.into_iter().map(exemplar).collect(),
        attributes: pairs(point.attributes),
    }
}

fn exponential_point(point: Point<ExponentialBuckets>) -> wire::ExponentialPoint {
    let counts =
        |(offset, counts): (i32, Vec<u64>)| Some(wire::ExponentialCounts { offset, counts });
    let value = point.value;
    wire::ExponentialPoint {
        attributes: pairs(point.attributes),
        start_unix_ns: point.start_unix_ns,
        unix_ns: point.unix_ns,
        count: value.count,
        sum: Some(value.sum),
        scale: i32::from(value.scale),
        zero_count: value.zero_count,
        positive: counts(value.positive),
        negative: counts(value.negative),
        exemplars: point.exemplars.into_iter().map(exemplar).collect(),
        min: value.min,
        max: value.max,
        zero_threshold: value.zero_threshold,
    }
}

fn exemplar(exemplar: Exemplar) -> wire::Exemplar {
    let (trace, span) = exemplar.trace.unzip();
    wire::Exemplar {
        unix_ns: exemplar.unix_ns,
        value: Some(match exemplar.value {
            Number::Int(int) => wire::ExemplarNumber::Int(int),
            Number::Double(double) => wire::ExemplarNumber::Double(double),
        }),
        span_id: span.map(|id| id.to_vec()).unwrap_or_default(),
        trace_id: trace.map(|id| id.to_vec()).unwrap_or_default(),
        attributes: pairs(exemplar.attributes),
    }
}

/// Who speaks: the node's words first, and of the guest's what does not say the same.
fn resource(source: &Source, from: Emitter, of_guest: Attributes) -> wire::Resource {
    let Source {
        node,
        namespace,
        service,
        component,
        version,
    } = source;
    let text = |key: &str, value: &str| (key.to_owned(), Value::Text(value.to_owned()));
    let mut attributes = vec![
        text("service.name", service),
        text("service.namespace", namespace),
        text("service.version", version),
        text(
            "service.instance.id",
            &format!("{node}/{component}/{}", from.slot),
        ),
        text("host.name", node),
        text("realm.node", node),
        text("realm.component", component),
    ];
    let theirs = of_guest.into_iter();
    attributes.extend(theirs.filter(|(key, _)| {
        let key = key.to_ascii_lowercase();
        !RESERVED.iter().any(|start| key.starts_with(start))
    }));
    wire::Resource {
        attributes: pairs(attributes),
    }
}

fn scope(scope: Scope) -> (String, wire::Scope) {
    let Scope {
        name,
        version,
        schema_url,
        attributes,
    } = scope;
    let attributes = pairs(attributes);
    let scope = wire::Scope {
        name,
        version,
        attributes,
    };
    (schema_url, scope)
}

fn pairs(attributes: Attributes) -> Vec<wire::KeyValue> {
    let pair = |(key, value)| wire::KeyValue {
        key,
        value: Some(any(value)),
    };
    attributes.into_iter().map(pair).collect()
}

fn any(value: Value) -> wire::AnyValue {
    let value = match value {
        Value::Empty => None,
        Value::Bool(bool) => Some(Any::Bool(bool)),
        Value::Int(int) => Some(Any::Int(int)),
        Value::Double(double) => Some(Any::Double(double)),
        Value::Text(text) => Some(Any::Text(text)),
        Value::Bytes(bytes) => Some(Any::Bytes(bytes)),
        Value::List(items) => Some(Any::List(wire::AnyValues {
            values: items.into_iter().map(any).collect(),
        })),
        Value::Map(items) => Some(Any::Map(wire::KeyValues {
            values: pairs(items),
        })),
    };
    wire::AnyValue { value }
}
