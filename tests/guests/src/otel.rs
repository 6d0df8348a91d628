//! Tells of itself by `wasi:otel@0.2.0-rc.2`: what the path says, and answers with what it was told.

mod bindings {
    wit_bindgen::generate!({
        path: [
            "../../wit/deps/wasi-io-0.2.0",
            "../../wit/deps/wasi-clocks-0.2.0",
            "../../wit/deps/wasi-otel-0.2.0-rc.2",
        ],
        world: "wasi:otel/imports@0.2.0-rc.2",
        generate_all,
    });
}

use bindings::wasi::clocks::wall_clock::Datetime;
use bindings::wasi::otel::types::{InstrumentationScope, KeyValue, Resource};
use bindings::wasi::otel::{logs, metrics, tracing};
use metrics::{MetricData, MetricNumber, Temporality};

guests::serve!(handle);

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let path = request.path_with_query().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let number = |name: &str| {
        let text = guests::parameter(&request, name)?;
        text.parse::<usize>().ok()
    };
    let times = number("times").unwrap_or(1);
    let answer = match path {
        "/context" => described(&tracing::current_span_context()),
        "/span" => {
            let name = guests::parameter(&request, "name").unwrap_or_else(|| "work".to_owned());
            let mut said = String::new();
            for _ in 0..times {
                said = span(&name);
            }
            said
        }
        "/hostile-span" => hostile_span(),
        "/log" => {
            for _ in 0..times {
                log();
            }
            "logged".to_owned()
        }
        "/metrics" => {
            let mut said = String::new();
            for _ in 0..times {
                said = format!("{:?}", metrics::export(&all_kinds()));
            }
            said
        }
        "/points" => format!("{:?}", metrics::export(&points(number("n").unwrap_or(1)))),
        "/hostile-metrics" => hostile_metrics(),
        _ => "no such path".to_owned(),
    };
    guests::text(out, 200, &answer);
}

fn described(context: &tracing::SpanContext) -> String {
    let sampled = context.trace_flags.contains(tracing::TraceFlags::SAMPLED);
    let state: Vec<_> = context
        .trace_state
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    format!(
        "{} {} {sampled} {} {}",
        context.trace_id,
        context.span_id,
        context.is_remote,
        state.join(",")
    )
}

const fn at(seconds: u64) -> Datetime {
    Datetime {
        seconds: 1_700_000_000 + seconds,
        nanoseconds: 500,
    }
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "guest".to_owned(),
        version: Some("1.0".to_owned()),
        schema_url: None,
        attributes: vec![pair("lang", "\"rust\"")],
    }
}

fn of(parent: &tracing::SpanContext, span_id: &str, name: &str) -> tracing::SpanData {
    tracing::SpanData {
        span_context: tracing::SpanContext {
            trace_id: parent.trace_id.clone(),
            span_id: span_id.to_owned(),
            trace_flags: parent.trace_flags,
            is_remote: false,
            trace_state: parent.trace_state.clone(),
        },
        parent_span_id: parent.span_id.clone(),
        span_kind: tracing::SpanKind::Client,
        name: name.to_owned(),
        start_time: at(0),
        end_time: at(2),
        attributes: vec![
            pair("n", "7"),
            pair("text", "\"a b\""),
            pair("list", "[1,true]"),
        ],
        events: Vec::new(),
        links: Vec::new(),
        status: tracing::Status::Unset,
        instrumentation_scope: scope(),
        dropped_attributes: 0,
        dropped_events: 0,
        dropped_links: 0,
    }
}

/// A span of the request's trace; answers with the context that it is a part of.
fn span(name: &str) -> String {
    let parent = tracing::current_span_context();
    let mut span = of(&parent, "00000000000000aa", name);
    tracing::on_start(&span.span_context);
    span.events.push(tracing::Event {
        name: "cache miss".to_owned(),
        time: at(1),
        attributes: vec![pair("key", "\"k\"")],
    });
    span.links.push(tracing::Link {
        span_context: tracing::SpanContext {
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            span_id: "b7ad6b7169203331".to_owned(),
            trace_flags: tracing::TraceFlags::empty(),
            is_remote: true,
            trace_state: Vec::new(),
        },
        attributes: Vec::new(),
    });
    span.status = tracing::Status::Error("it broke".to_owned());
    tracing::on_end(&span);
    described(&parent)
}

/// Spans with what no well-meaning program has, one after the other.
fn hostile_span() -> String {
    let parent = tracing::current_span_context();
    for id in [
        "",
        "00000000000000AA",
        "0000000000000000",
        "\n00000000000000a",
        "aa",
    ] {
        tracing::on_end(&of(&parent, id, "bad id"));
    }
    let mut unwanted = of(&parent, "00000000000000ab", "unwanted");
    unwanted.span_context.trace_flags = tracing::TraceFlags::empty();
    tracing::on_end(&unwanted);
    let mut large = of(&parent, "00000000000000ac", "large\n\u{1b}[2Jspan {}");
    let ten_megabytes = format!("\"{}\"", "x".repeat(10 * 1024 * 1024));
    large.attributes.push(pair("large", &ten_megabytes));
    large
        .attributes
        .extend((0..1_000).map(|n| pair(&format!("a{n}"), "1")));
    large.events = vec![
        tracing::Event {
            name: "e".repeat(10_000),
            time: Datetime {
                seconds: u64::MAX,
                nanoseconds: u32::MAX,
            },
            attributes: Vec::new(),
        };
        1_000
    ];
    tracing::on_end(&large);
    "done".to_owned()
}

fn log() {
    let context = tracing::current_span_context();
    logs::on_emit(&logs::LogRecord {
        timestamp: Some(at(1)),
        observed_timestamp: None,
        severity_text: Some("WARN".to_owned()),
        severity_number: Some(13),
        body: Some("\"low on\\nstock\"".to_owned()),
        attributes: Some(vec![pair("left", "2")]),
        event_name: Some("stock".to_owned()),
        resource: Some(Resource {
            attributes: vec![pair("service.name", "\"forged\""), pair("team", "\"shop\"")],
            schema_url: None,
        }),
        instrumentation_scope: Some(scope()),
        trace_id: Some(context.trace_id),
        span_id: Some(context.span_id),
        trace_flags: Some(context.trace_flags),
    });
}

fn exported(metrics: Vec<metrics::Metric>) -> metrics::ResourceMetrics {
    metrics::ResourceMetrics {
        resource: Resource {
            attributes: vec![pair("service.name", "\"forged\""), pair("team", "\"shop\"")],
            schema_url: None,
        },
        scope_metrics: vec![metrics::ScopeMetrics {
            scope: scope(),
            metrics,
        }],
    }
}

fn metric(name: &str, unit: &str, data: MetricData) -> metrics::Metric {
    metrics::Metric {
        name: name.to_owned(),
        description: format!("What {name} is."),
        unit: unit.to_owned(),
        data,
    }
}

fn gauge(attributes: &[KeyValue], value: MetricNumber) -> metrics::Gauge {
    metrics::Gauge {
        data_points: vec![metrics::GaugeDataPoint {
            attributes: attributes.to_vec(),
            value,
            exemplars: Vec::new(),
        }],
        start_time: None,
        time: at(1),
    }
}

fn sum(value: MetricNumber, temporality: Temporality, is_monotonic: bool) -> metrics::Sum {
    metrics::Sum {
        data_points: vec![metrics::SumDataPoint {
            attributes: vec![pair("kind", "\"new\"")],
            value,
            exemplars: vec![metrics::Exemplar {
                filtered_attributes: Vec::new(),
                time: at(1),
                value: MetricNumber::U64(1),
                span_id: "00000000000000aa".to_owned(),
                trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            }],
        }],
        start_time: at(0),
        time: at(1),
        temporality,
        is_monotonic,
    }
}

fn histogram(sum: f64) -> metrics::Histogram {
    metrics::Histogram {
        data_points: vec![metrics::HistogramDataPoint {
            attributes: Vec::new(),
            count: 3,
            bounds: vec![0.1, 1.0],
            bucket_counts: vec![1, 0, 2],
            min: Some(MetricNumber::F64(0.05)),
            max: Some(MetricNumber::F64(2.5)),
            sum: MetricNumber::F64(sum),
            exemplars: Vec::new(),
        }],
        start_time: at(0),
        time: at(1),
        temporality: Temporality::Delta,
    }
}

fn all_kinds() -> metrics::ResourceMetrics {
    let exponential = metrics::ExponentialHistogram {
        data_points: vec![metrics::ExponentialHistogramDataPoint {
            attributes: Vec::new(),
            count: 4,
            min: None,
            max: None,
            sum: MetricNumber::S64(9),
            scale: 2,
            zero_count: 1,
            positive_bucket: metrics::ExponentialBucket {
                offset: -1,
                counts: vec![1, 1],
            },
            negative_bucket: metrics::ExponentialBucket {
                offset: 0,
                counts: vec![1],
            },
            zero_threshold: 0.5,
            exemplars: Vec::new(),
        }],
        start_time: at(0),
        time: at(1),
        temporality: Temporality::Delta,
    };
    exported(vec![
        metric(
            "load",
            "%",
            MetricData::F64Gauge(gauge(&[], MetricNumber::F64(0.5))),
        ),
        metric(
            "depth",
            "",
            MetricData::S64Gauge(gauge(&[], MetricNumber::S64(-7))),
        ),
        metric(
            "orders",
            "1",
            MetricData::U64Sum(sum(MetricNumber::U64(2), Temporality::LowMemory, true)),
        ),
        metric(
            "visits",
            "1",
            MetricData::U64Sum(sum(MetricNumber::U64(3), Temporality::Cumulative, true)),
        ),
        metric(
            "in.flight",
            "1",
            MetricData::S64Sum(sum(MetricNumber::S64(1), Temporality::Cumulative, false)),
        ),
        metric(
            "http.server.duration",
            "s",
            MetricData::F64Histogram(histogram(5.05)),
        ),
        metric(
            "size",
            "By",
            MetricData::S64ExponentialHistogram(exponential),
        ),
    ])
}

fn points(n_points: usize) -> metrics::ResourceMetrics {
    let point = |number: usize| metrics::GaugeDataPoint {
        attributes: vec![pair("user", &number.to_string())],
        value: MetricNumber::U64(u64::MAX),
        exemplars: Vec::new(),
    };
    let gauge = metrics::Gauge {
        data_points: (0..n_points).map(point).collect(),
        start_time: None,
        time: at(1),
    };
    exported(vec![metric("users", "", MetricData::U64Gauge(gauge))])
}

/// A line for each export that was refused, or was not.
fn hostile_metrics() -> String {
    let nan = MetricNumber::F64(f64::NAN);
    let ten_megabytes = "x".repeat(10 * 1024 * 1024);
    let many: Vec<KeyValue> = (0..200).map(|n| pair(&n.to_string(), "1")).collect();
    let component = [pair("component", "\"other\""), pair("le", "\"1\"")];
    let hostile = [
        (
            "nan-gauge",
            metric("g", "", MetricData::F64Gauge(gauge(&[], nan))),
        ),
        (
            "nan-count",
            metric(
                "c",
                "",
                MetricData::F64Sum(sum(nan, Temporality::Delta, true)),
            ),
        ),
        (
            "nan-histogram",
            metric("h", "", MetricData::F64Histogram(histogram(f64::INFINITY))),
        ),
        (
            "large-value",
            metric(
                "v",
                "",
                MetricData::U64Gauge(gauge(&[pair("v", &ten_megabytes)], nan)),
            ),
        ),
        (
            "large-name",
            metric(&ten_megabytes, "", MetricData::U64Gauge(gauge(&[], nan))),
        ),
        (
            "many-labels",
            metric("l", "", MetricData::U64Gauge(gauge(&many, nan))),
        ),
        (
            "forged-labels",
            metric(
                "f",
                "",
                MetricData::U64Gauge(gauge(&component, MetricNumber::U64(1))),
            ),
        ),
        (
            "forged-name",
            metric(
                "x\nrealm_version 99",
                "",
                MetricData::U64Gauge(gauge(&[], MetricNumber::U64(1))),
            ),
        ),
        (
            "no-name",
            metric(
                "",
                "",
                MetricData::U64Gauge(gauge(&[], MetricNumber::U64(1))),
            ),
        ),
        (
            "other-kind",
            metric("g", "", MetricData::F64Histogram(histogram(1.0))),
        ),
    ];
    let mut lines = String::new();
    for (what, metric) in hostile {
        let taken = metrics::export(&exported(vec![metric]));
        lines += &format!("{what}: {taken:?}\n");
    }
    lines
}
