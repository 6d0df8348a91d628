//! Telemetry that is sent to a collector: what arrives, read with the messages of OTLP's own makers, and
//! what becomes of it where the collector is slow, away, or finds fault.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../../tests/peers/collector.rs"]
mod collector;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
use prost::Message as _;
use realm_backends::Watch;
use realm_backends::telemetry::{Collector as Settings, Exporter, Guests, Source};
use realm_model::cloud::telemetry::*;

use collector::{Collector, Does};

/// What the operator hears.
#[derive(Default)]
struct Heard(Mutex<(Option<String>, u32)>);

impl Watch for Heard {
    fn down(&self, why: &str) {
        let mut heard = self.0.lock().unwrap();
        heard.0 = Some(why.to_owned());
        heard.1 += 1;
    }

    fn up(&self) {
        self.0.lock().unwrap().0 = None;
    }
}

struct Bench {
    guests: Guests,
    exporter: Arc<Exporter>,
    heard: Arc<Heard>,
}

fn bench(address: impl std::fmt::Display, headers: Option<&str>) -> Bench {
    let heard = Arc::new(Heard::default());
    let settings = Settings {
        endpoint: format!("http://{address}/otlp"),
        headers: headers.map(|text| text.to_owned().into()),
        authorities: None,
    };
    Bench {
        guests: Guests::default(),
        exporter: Exporter::start(&settings, Arc::clone(&heard) as _).unwrap(),
        heard,
    }
}

impl Bench {
    fn of(&self, component: &str) -> Arc<dyn Telemetry> {
        let source = Source {
            node: "n1".to_owned(),
            namespace: "acme".to_owned(),
            service: component.to_owned(),
            component: component.to_owned(),
            version: "3".to_owned(),
        };
        self.exporter.of(source, self.guests.of(component))
    }

    fn counted(&self, component: &str, signal: Signal, result: &str) -> u64 {
        let signal = signal.as_str();
        let start = format!(
            "telemetry_items_total{{component=\"{component}\",signal=\"{signal}\",result=\"{result}\"}} "
        );
        let page = self.guests.page();
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

/// Waits for something that is about to be.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const FROM: Emitter = Emitter {
    slot: 2,
    instance: 7,
};

fn context(span: u8) -> SpanContext {
    SpanContext {
        trace: [1; 16],
        span: [span; 8],
        sampled: true,
        remote: false,
        state: "a=b".to_owned(),
    }
}

fn span(name: &str) -> Span {
    Span {
        context: context(2),
        parent: Some([3; 8]),
        kind: SpanKind::Client,
        name: name.to_owned(),
        start_unix_ns: 1_000,
        end_unix_ns: 3_000,
        attributes: vec![(
            "list".to_owned(),
            Value::parse("[1,true,{\"a\":\"{base64}:AAE=\"}]"),
        )],
        events: vec![SpanEvent {
            name: "event".to_owned(),
            unix_ns: 2_000,
            attributes: vec![("nan".to_owned(), Value::Double(f64::NAN))],
        }],
        links: vec![Link {
            context: SpanContext {
                remote: true,
                ..context(4)
            },
            attributes: vec![("why".to_owned(), Value::Empty)],
        }],
        status: Status::Error("it broke".to_owned()),
        scope: Scope {
            name: "lib".to_owned(),
            version: "1.2".to_owned(),
            schema_url: "https://example.org/s".to_owned(),
            attributes: vec![("a".to_owned(), Value::Int(1))],
        },
        dropped: Dropped {
            attributes: 1,
            events: 2,
            links: 3,
        },
    }
}

fn texts(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> Vec<(String, String)> {
    let text = |pair: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        let value = pair.value.as_ref().unwrap().value.as_ref();
        let text = match value {
            Some(Any::StringValue(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        (pair.key.clone(), text)
    };
    attributes.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_arrives_whole() {
    let collector = Collector::start();
    let bench = bench(collector.address(), Some("Bearer hunter2"));
    let shop = bench.of("shop");
    assert!(shop.span(FROM, span("GET")).is_none());
    let got = tokio::task::block_in_place(|| {
        collector.until("/otlp/v1/traces", |got| got.first().cloned())
    });
    assert!(
        got.headers
            .contains(&"authorization: Bearer hunter2".to_owned())
    );
    let request: ExportTraceServiceRequest = got.read();
    let [resource] = request.resource_spans.as_slice() else {
        panic!("{request:?}");
    };
    let pairs = texts(&resource.resource.as_ref().unwrap().attributes);
    for (key, value) in [
        ("service.name", "shop"),
        ("service.namespace", "acme"),
        ("service.version", "3"),
        ("service.instance.id", "n1/shop/2"),
        ("host.name", "n1"),
        ("realm.node", "n1"),
        ("realm.component", "shop"),
    ] {
        assert!(
            pairs.contains(&(key.to_owned(), value.to_owned())),
            "{key}: {pairs:?}"
        );
    }
    let scoped = &resource.scope_spans[0];
    let scope = scoped.scope.as_ref().unwrap();
    assert_eq!(
        (scope.name.as_str(), scope.version.as_str()),
        ("lib", "1.2")
    );
    assert_eq!(scoped.schema_url, "https://example.org/s");
    let span = &scoped.spans[0];
    assert_eq!(span.trace_id, [1; 16]);
    assert_eq!(
        (span.span_id.as_slice(), span.parent_span_id.as_slice()),
        (&[2; 8][..], &[3; 8][..])
    );
    assert_eq!(
        (span.name.as_str(), span.trace_state.as_str()),
        ("GET", "a=b")
    );
    assert_eq!(span.kind().as_str_name(), "SPAN_KIND_CLIENT");
    assert_eq!(
        (span.start_time_unix_nano, span.end_time_unix_nano),
        (1_000, 3_000)
    );
    assert_eq!(span.flags, 0x101);
    let dropped = (
        span.dropped_attributes_count,
        span.dropped_events_count,
        span.dropped_links_count,
    );
    assert_eq!(dropped, (1, 2, 3));
    let status = span.status.as_ref().unwrap();
    assert_eq!(status.message, "it broke");
    assert_eq!(status.code().as_str_name(), "STATUS_CODE_ERROR");
    assert_eq!(
        (span.events[0].name.as_str(), span.events[0].time_unix_nano),
        ("event", 2_000)
    );
    let nan = span.events[0].attributes[0]
        .value
        .as_ref()
        .unwrap()
        .value
        .clone();
    assert!(matches!(nan, Some(Any::DoubleValue(number)) if number.is_nan()));
    assert_eq!(span.links[0].span_id, [4; 8]);
    assert_eq!(span.links[0].flags, 0x301);
    let list = format!("{:?}", span.attributes[0].value);
    assert!(
        list.contains("BytesValue([0, 1])") && list.contains("BoolValue(true)"),
        "{list}"
    );
    until("it is counted", || {
        bench.counted("shop", Signal::Traces, "taken") == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_metrics_arrive_and_nobody_forges_who_speaks() {
    let collector = Collector::start();
    let bench = bench(collector.address(), None);
    let shop = bench.of("shop");
    let forged = Resource {
        attributes: [
            "service.name",
            "Service.Name",
            "realm.component",
            "host.name",
            "os.type",
        ]
        .map(|key| (key.to_owned(), Value::Text("forged".to_owned())))
        .into_iter()
        .chain([(
            "deployment.environment".to_owned(),
            Value::Text("test".to_owned()),
        )])
        .collect(),
        schema_url: String::new(),
    };
    let record = LogRecord {
        unix_ns: Some(5),
        observed_unix_ns: 6,
        severity_text: "WARN".to_owned(),
        severity: 13,
        body: Value::Text("low on stock".to_owned()),
        attributes: vec![("n".to_owned(), Value::Int(-1))],
        event_name: "stock".to_owned(),
        resource: forged.clone(),
        trace: Some([1; 16]),
        span: Some([2; 8]),
        sampled: true,
        ..LogRecord::default()
    };
    assert!(shop.log(FROM, record).is_none());
    let got = tokio::task::block_in_place(|| {
        collector.until("/otlp/v1/logs", |got| got.first().cloned())
    });
    let request: ExportLogsServiceRequest = got.read();
    let resource = &request.resource_logs[0];
    let pairs = texts(&resource.resource.as_ref().unwrap().attributes);
    assert!(
        !pairs.iter().any(|(_, value)| value == "forged"),
        "{pairs:?}"
    );
    assert!(pairs.contains(&("deployment.environment".to_owned(), "test".to_owned())));
    let record = &resource.scope_logs[0].log_records[0];
    assert_eq!(
        (record.time_unix_nano, record.observed_time_unix_nano),
        (5, 6)
    );
    assert_eq!(
        (record.severity_number, record.severity_text.as_str()),
        (13, "WARN")
    );
    assert_eq!(
        (record.trace_id.as_slice(), record.span_id.as_slice()),
        (&[1; 16][..], &[2; 8][..])
    );
    assert_eq!((record.event_name.as_str(), record.flags), ("stock", 1));
    let body = record.body.as_ref().unwrap().value.clone();
    assert_eq!(body, Some(Any::StringValue("low on stock".to_owned())));

    fn point<T>(value: T) -> Point<T> {
        Point {
            attributes: vec![("k".to_owned(), Value::Bool(true))],
            start_unix_ns: 10,
            unix_ns: 20,
            value,
            exemplars: vec![Exemplar {
                attributes: Vec::new(),
                unix_ns: 15,
                value: Number::Double(0.5),
                trace: Some(([1; 16], [2; 8])),
            }],
        }
    }
    let buckets = Buckets {
        count: 3,
        sum: 4.5,
        bounds: vec![1.0],
        counts: vec![1, 2],
        min: Some(0.5),
        max: None,
    };
    let exponential = ExponentialBuckets {
        count: 4,
        sum: 9.0,
        scale: -3,
        zero_count: 1,
        zero_threshold: 0.25,
        positive: (-2, vec![1, 1]),
        negative: (7, vec![1]),
        min: None,
        max: Some(8.0),
    };
    let data = [
        MetricData::Gauge(vec![point(Number::Int(i64::MIN))]),
        MetricData::Sum {
            points: vec![point(Number::Double(f64::INFINITY))],
            temporality: Temporality::Delta,
            monotonic: true,
        },
        MetricData::Histogram {
            points: vec![point(buckets)],
            temporality: Temporality::Cumulative,
        },
        MetricData::Exponential {
            points: vec![point(exponential)],
            temporality: Temporality::Delta,
        },
    ];
    let metrics = data.map(|data| Metric {
        name: "m".to_owned(),
        description: "d".to_owned(),
        unit: "s".to_owned(),
        data,
    });
    let metrics = Metrics {
        resource: forged,
        scopes: vec![(Scope::default(), metrics.to_vec())],
    };
    assert_eq!(shop.metrics(FROM, metrics), Ok(()));
    let got = tokio::task::block_in_place(|| {
        collector.until("/otlp/v1/metrics", |got| got.first().cloned())
    });
    let request: ExportMetricsServiceRequest = got.read();
    let resource = &request.resource_metrics[0];
    let pairs = texts(&resource.resource.as_ref().unwrap().attributes);
    assert!(
        !pairs.iter().any(|(_, value)| value == "forged"),
        "{pairs:?}"
    );
    let metrics = &resource.scope_metrics[0].metrics;
    assert!(
        metrics
            .iter()
            .all(|one| (one.name.as_str(), one.unit.as_str()) == ("m", "s"))
    );
    let [gauge, sum, histogram, exponential] = metrics.as_slice() else {
        panic!("{metrics:?}");
    };
    let Some(Data::Gauge(gauge)) = &gauge.data else {
        panic!("{gauge:?}");
    };
    let point = &gauge.data_points[0];
    assert_eq!(point.value, Some(number_data_point::Value::AsInt(i64::MIN)));
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (10, 20));
    assert_eq!(point.exemplars[0].trace_id, [1; 16]);
    let Some(Data::Sum(sum)) = &sum.data else {
        panic!("{sum:?}");
    };
    assert!(sum.is_monotonic && sum.aggregation_temporality == 1);
    assert_eq!(
        sum.data_points[0].value,
        Some(number_data_point::Value::AsDouble(f64::INFINITY))
    );
    let Some(Data::Histogram(histogram)) = &histogram.data else {
        panic!("{histogram:?}");
    };
    let point = &histogram.data_points[0];
    assert_eq!(
        (point.count, point.sum, point.min, point.max),
        (3, Some(4.5), Some(0.5), None)
    );
    assert_eq!(
        (&point.bucket_counts, &point.explicit_bounds),
        (&vec![1, 2], &vec![1.0])
    );
    assert_eq!(histogram.aggregation_temporality, 2);
    let Some(Data::ExponentialHistogram(exponential)) = &exponential.data else {
        panic!("{exponential:?}");
    };
    let point = &exponential.data_points[0];
    assert_eq!(
        (point.scale, point.zero_count, point.zero_threshold),
        (-3, 1, 0.25)
    );
    let positive = point.positive.as_ref().unwrap();
    assert_eq!(
        (positive.offset, &positive.bucket_counts),
        (-2, &vec![1, 1])
    );
    assert_eq!(point.negative.as_ref().unwrap().offset, 7);
    assert_eq!((point.min, point.max), (None, Some(8.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_an_alarm_and_gets_what_waits_when_it_is_back() {
    let address = Collector::start().address().to_string();
    // That one is still there: another port, where nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = free.local_addr().unwrap().to_string();
    drop(free);
    assert_ne!(address, away);
    let bench = bench(&away, Some("api-key=hunter2"));
    let shop = bench.of("shop");
    assert!(shop.span(FROM, span("first")).is_none());
    until("it is told", || bench.heard.0.lock().unwrap().1 >= 2).await;
    let why = bench.heard.0.lock().unwrap().0.clone().unwrap();
    assert!(why.contains("refused") && !why.contains("hunter2"), "{why}");
    assert!(shop.span(FROM, span("second")).is_none());
    let collector = Collector::at(&away);
    let names = tokio::task::block_in_place(|| {
        collector.until("/otlp/v1/traces", |got| {
            let spans = got.iter().flat_map(|got| {
                let request: ExportTraceServiceRequest = got.read();
                request.resource_spans
            });
            let names = spans.map(|one| one.scope_spans[0].spans[0].name.clone());
            let names: Vec<String> = names.collect();
            (names.len() == 2).then_some(names)
        })
    });
    assert_eq!(names, ["first", "second"]);
    until("it is well", || bench.heard.0.lock().unwrap().0.is_none()).await;
    assert_eq!(bench.counted("shop", Signal::Traces, "dropped"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_collector_makes_nobody_wait_and_the_oldest_go() {
    let collector = Collector::start();
    collector.does(Does::Waits);
    let bench = bench(collector.address(), None);
    let (loud, quiet) = (bench.of("loud"), bench.of("quiet"));
    assert!(quiet.span(FROM, span("quiet")).is_none());
    let began = Instant::now();
    for number in 0..10_000 {
        assert!(loud.span(FROM, span(&number.to_string())).is_none());
    }
    // The collector keeps each request for as long as it likes: nobody waited for that.
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    let dropped = bench.counted("loud", Signal::Traces, "dropped");
    assert!(dropped >= 10_000 - 4_096 - 2 * 512, "{dropped}");
    collector.does(Does::Takes);
    until("all that was kept is there", || {
        let taken = bench.counted("loud", Signal::Traces, "taken");
        let dropped = bench.counted("loud", Signal::Traces, "dropped");
        taken + dropped == 10_000
    })
    .await;
    assert_eq!(bench.counted("quiet", Signal::Traces, "taken"), 1);
    let last = tokio::task::block_in_place(|| {
        collector.until("/otlp/v1/traces", |got| {
            let request: ExportTraceServiceRequest = got.last()?.read();
            let last = request.resource_spans.last()?;
            Some(last.scope_spans[0].spans[0].name.clone())
        })
    });
    assert_eq!(last, "9999");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_collector_says_is_heard() {
    let collector = Collector::start();
    let bench = bench(collector.address(), None);
    let shop = bench.of("shop");
    // Later: it comes again, after as long as it asked for.
    collector.does(Does::Answers(503, "retry-after: 1\r\n", Vec::new()));
    assert!(shop.span(FROM, span("later")).is_none());
    tokio::task::block_in_place(|| {
        collector.until("/otlp/v1/traces", |got| (got.len() >= 2).then_some(()))
    });
    assert!(
        bench
            .heard
            .0
            .lock()
            .unwrap()
            .0
            .clone()
            .unwrap()
            .contains("503")
    );
    collector.does(Does::Takes);
    until("it is taken", || {
        bench.counted("shop", Signal::Traces, "taken") == 1
    })
    .await;
    // Never: bytes that it finds fault with do not come again, and it is well.
    collector.does(Does::Answers(400, "", Vec::new()));
    assert!(shop.span(FROM, span("wrong")).is_none());
    until("it is refused", || {
        bench.counted("shop", Signal::Traces, "refused") == 1
    })
    .await;
    assert_eq!(bench.heard.0.lock().unwrap().0, None);
    // In part.
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: "no".to_owned(),
        }),
    };
    collector.does(Does::Answers(200, "", partial.encode_to_vec()));
    assert!(shop.span(FROM, span("part")).is_none());
    until("it is refused", || {
        bench.counted("shop", Signal::Traces, "refused") == 2
    })
    .await;
    // Whom it does not let in: once, and the operator hears of it.
    collector.does(Does::Answers(401, "", Vec::new()));
    assert!(shop.span(FROM, span("denied")).is_none());
    until("it is refused", || {
        bench.counted("shop", Signal::Traces, "refused") == 3
    })
    .await;
    assert!(
        bench
            .heard
            .0
            .lock()
            .unwrap()
            .0
            .clone()
            .unwrap()
            .contains("401")
    );
    // Nobody is led elsewhere, with the headers.
    let elsewhere = Collector::start();
    let to = format!(
        "location: http://{}/otlp/v1/traces\r\n",
        elsewhere.address()
    );
    collector.does(Does::Answers(307, to.leak(), Vec::new()));
    assert!(shop.span(FROM, span("led")).is_none());
    until("it is refused", || {
        bench.counted("shop", Signal::Traces, "refused") == 4
    })
    .await;
    assert!(elsewhere.got().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_sent_when_nobody_is_bound_any_more() {
    let collector = Collector::start();
    let bench = bench(collector.address(), None);
    let shop = bench.of("shop");
    assert!(shop.span(FROM, span("last")).is_none());
    let heard = Arc::clone(&bench.heard);
    drop((shop, bench));
    tokio::task::block_in_place(|| {
        collector.until("/otlp/v1/traces", |got| (got.len() == 1).then_some(()))
    });
    until("nobody sends", || Arc::strong_count(&heard) == 1).await;
}
