//! What guests tell of themselves: into what is bound, into the log, and nowhere.

use std::sync::{Arc, Mutex};

use realm_backends::telemetry::{Embedded, Guest, Guests};
use realm_host::Store;
use realm_model::api::LogStream;
use realm_model::cloud::CloudError;
use realm_model::cloud::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, SPAN_PARTS_MAX};
use realm_model::cloud::telemetry::{
    Emitter, LogRecord, MetricData, Metrics, Signal, Span, SpanKind, Status, Telemetry, Value, hex,
};
use realm_test_guests as guests;

use crate::harness::{Loaded, get, guest};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Keeps what it is told.
#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<(Emitter, Span)>>,
    records: Mutex<Vec<LogRecord>>,
    metrics: Mutex<Vec<Metrics>>,
    refused: Mutex<Vec<Signal>>,
}

impl Telemetry for Kept {
    fn span(&self, from: Emitter, span: Span) -> Option<Span> {
        self.spans.lock().unwrap().push((from, span));
        None
    }

    fn log(&self, _: Emitter, record: LogRecord) -> Option<LogRecord> {
        self.records.lock().unwrap().push(record);
        None
    }

    fn metrics(&self, _: Emitter, metrics: Metrics) -> Result<(), CloudError> {
        self.metrics.lock().unwrap().push(metrics);
        Ok(())
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn refused(&self, signal: Signal) {
        self.refused.lock().unwrap().push(signal);
    }
}

impl Kept {
    fn spans(&self) -> Vec<Span> {
        let spans = self.spans.lock().unwrap();
        spans.iter().map(|(_, span)| span.clone()).collect()
    }

    /// Waits for the span of a request, which is told when its instance is gone.
    async fn spans_are(&self, n_spans: usize) -> Vec<Span> {
        for _ in 0..6_000 {
            let spans = self.spans();
            if spans.len() >= n_spans {
                assert_eq!(spans.len(), n_spans, "{spans:?}");
                return spans;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.spans());
    }
}

fn bound() -> (Loaded, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let store = Store::Otel(Arc::clone(&kept) as _);
    (guest(guests::OTEL).bind("any", store).load(), kept)
}

/// The answer to a request with these headers.
async fn asked(loaded: &Loaded, path: &str, headers: &[(&'static str, &str)]) -> String {
    let mut request = get(path);
    for (name, value) in headers {
        let value = value.parse().unwrap();
        request.headers_mut().append(*name, value);
    }
    let answer = loaded.send(request).await.unwrap();
    assert_eq!((answer.status, &answer.broken), (200, &None), "{answer:?}");
    answer.text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn otel() {
    let (loaded, kept) = bound();
    // A guest's span joins the trace of the caller, below the span of the request.
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "a=1,b=2")];
    let told = asked(&loaded, "/span", &headers).await;
    let spans = kept.spans_are(2).await;
    let [own, request] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(hex(&own.context.trace), TRACE);
    assert_eq!(hex(&request.context.trace), TRACE);
    assert_eq!(own.parent, Some(request.context.span));
    assert_eq!(request.parent.map(|id| hex(&id)).as_deref(), Some(CALLER));
    assert_eq!(
        (request.name.as_str(), request.kind),
        ("GET", SpanKind::Server)
    );
    assert!(request.end_unix_ns >= request.start_unix_ns && request.start_unix_ns > 0);
    let expected = format!("{TRACE} {} true false a=1,b=2", hex(&request.context.span));
    assert_eq!(told, expected);
    // It came whole.
    assert_eq!((own.name.as_str(), own.kind), ("work", SpanKind::Client));
    assert_eq!(own.start_unix_ns, 1_700_000_000_000_000_500);
    assert_eq!(own.end_unix_ns - own.start_unix_ns, 2_000_000_000);
    assert_eq!(own.status, Status::Error("it broke".to_owned()));
    assert_eq!(own.events[0].name, "cache miss");
    assert_eq!(hex(&own.links[0].context.span), CALLER);
    assert!(own.links[0].context.remote && !own.links[0].context.sampled);
    let list = Value::List(vec![Value::Int(1), Value::Bool(true)]);
    assert!(own.attributes.contains(&("list".to_owned(), list)));
    assert_eq!(
        (own.scope.name.as_str(), own.scope.version.as_str()),
        ("guest", "1.0")
    );

    asked(&loaded, "/log", &[]).await;
    let records = kept.records.lock().unwrap().clone();
    assert_eq!(
        (records[0].severity, records[0].severity_text.as_str()),
        (13, "WARN")
    );
    assert_eq!(records[0].body, Value::Text("low on\nstock".to_owned()));
    assert!(records[0].trace.is_some() && records[0].span.is_some());
    assert_eq!(asked(&loaded, "/metrics", &[]).await, "Ok(())");
    let metrics = kept.metrics.lock().unwrap().clone();
    let all = &metrics[0].scopes[0].1;
    let names: Vec<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
    let expected = [
        "load",
        "depth",
        "orders",
        "visits",
        "in.flight",
        "http.server.duration",
        "size",
    ];
    assert_eq!(names, expected);
    assert!(
        matches!(&all[6].data, MetricData::Exponential { points, .. } if points[0].value.scale == 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_begins_here_where_the_caller_names_none() {
    let (loaded, kept) = bound();
    let first = asked(&loaded, "/context", &[]).await;
    let second = asked(&loaded, "/context", &[("traceparent", "00-0-0-01")]).await;
    let twice = format!("00-{TRACE}-{CALLER}-01");
    let both = [
        ("traceparent", twice.as_str()),
        ("traceparent", twice.as_str()),
    ];
    let third = asked(&loaded, "/context", &both).await;
    for told in [&first, &second, &third] {
        assert!(
            !told.contains(TRACE) && told.contains(" true false"),
            "{told}"
        );
    }
    assert!(first[..32] != second[..32] && first[33..49] != second[33..49]);
    assert!(
        kept.spans_are(3)
            .await
            .iter()
            .all(|span| span.parent.is_none())
    );
    // Whom nobody wants to see is not told of.
    let unwanted = format!("00-{TRACE}-{CALLER}-00");
    let told = asked(&loaded, "/span", &[("traceparent", &unwanted)]).await;
    assert!(
        told.starts_with(TRACE) && told.contains(" false false"),
        "{told}"
    );
    asked(&loaded, "/context", &[]).await;
    kept.spans_are(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_a_kept_instance_has_its_span() {
    let kept = Arc::new(Kept::default());
    let store = Store::Otel(Arc::clone(&kept) as _);
    let loaded = guest(guests::OTEL).bind("any", store).reuse().load();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(asked(&loaded, "/context", &[]).await[..49].to_owned());
    }
    seen.dedup();
    assert_eq!(seen.len(), 3);
    // Told when the request is over, not when the instance goes.
    kept.spans_are(3).await;
    drop(loaded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_cut_and_counted() {
    let (loaded, kept) = bound();
    assert_eq!(asked(&loaded, "/hostile-span", &[]).await, "done");
    let spans = kept.spans_are(2).await;
    assert_eq!(*kept.refused.lock().unwrap(), [Signal::Traces; 5]);
    let large = &spans[0];
    assert!(large.name.starts_with("large"));
    assert_eq!(large.attributes.len(), ATTRIBUTES_MAX);
    assert_eq!(large.dropped.attributes, 1_004 - 128);
    assert!(large.events.len() <= SPAN_PARTS_MAX && large.events[0].name.len() <= 255);
    assert_eq!(large.dropped.events as usize, 1_000 - large.events.len());
    let text: usize = large
        .attributes
        .iter()
        .map(|(_, value)| value.plain().len())
        .sum();
    assert!(text <= ATTRIBUTE_BYTES_MAX + 1_000, "{text}");

    let told = asked(&loaded, "/points?n=100000", &[]).await;
    assert!(told.contains("more than 5000 points"), "{told}");
    assert_eq!(asked(&loaded, "/points?n=5000", &[]).await, "Ok(())");
    let told = asked(&loaded, "/hostile-metrics", &[]).await;
    let refused = ["large-name", "many-labels"];
    for line in told.lines() {
        let (what, taken) = line.split_once(": ").unwrap();
        assert_eq!(taken.starts_with("Err"), refused.contains(&what), "{line}");
    }
    // The quota of operations holds here as well.
    let kept = Arc::new(Kept::default());
    let loaded = guest(guests::OTEL)
        .bind("any", Store::Otel(Arc::clone(&kept) as _))
        .limits(|limits| limits.operations_per_sec = Some(1))
        .load();
    asked(&loaded, "/span?times=100", &[]).await;
    let n_refused = kept.refused.lock().unwrap().len();
    assert!(n_refused >= 90, "{n_refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_binding_logs_are_logged_and_the_rest_goes_nowhere() {
    let loaded = guest(guests::OTEL).load();
    asked(&loaded, "/log", &[]).await;
    let lines = loaded.log.lines(LogStream::Stderr);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "warn [guest]: stock low on");
    assert!(
        lines[1].starts_with("warn [guest]: stock left=2 trace="),
        "{lines:?}"
    );
    let told = asked(&loaded, "/metrics", &[]).await;
    assert_eq!(told, "Err(\"no `wasi:otel` is bound to this component\")");
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let told = asked(&loaded, "/span?times=5", &[("traceparent", &parent)]).await;
    assert!(told.starts_with(TRACE), "{told}");
    assert_eq!(loaded.log.lines(LogStream::Stderr).len(), 2);
    // It is said once that they go nowhere.
    let said = loaded.log.lines(LogStream::Agent);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("telemetry-unbound"), "{said:?}");
}

/// A guest whose telemetry is embedded, and where it is seen.
fn embedded() -> (Loaded, Guests, Arc<Guest>) {
    let guests = Guests::default();
    let mine = guests.of("shop");
    let store = Store::Otel(Arc::new(Embedded::new(Arc::clone(&mine))));
    (guest(guests::OTEL).bind("any", store).load(), guests, mine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_embedded_is_on_the_page_and_in_the_log() {
    let (loaded, guests, _mine) = embedded();
    // Three instances, each of which counts from its own beginning.
    for _ in 0..3 {
        assert_eq!(asked(&loaded, "/metrics", &[]).await, "Ok(())");
    }
    let page = guests.page();
    for line in [
        "# HELP app_load_percent What load is.",
        "# TYPE app_load_percent gauge",
        "app_load_percent{component=\"shop\"} 0.5",
        "app_depth{component=\"shop\"} -7",
        "# TYPE app_orders_total counter",
        "app_orders_total{component=\"shop\",kind=\"new\"} 6",
        "app_visits_total{component=\"shop\",kind=\"new\"} 9",
        "app_in_flight{component=\"shop\",kind=\"new\"} 1",
        "# TYPE app_http_server_duration_seconds histogram",
        "app_http_server_duration_seconds_bucket{component=\"shop\",le=\"0.1\"} 3",
        "app_http_server_duration_seconds_bucket{component=\"shop\",le=\"+Inf\"} 9",
        "app_http_server_duration_seconds_count{component=\"shop\"} 9",
        "# TYPE app_size_bytes summary",
        "app_size_bytes_sum{component=\"shop\"} 27",
        "telemetry_items_total{component=\"shop\",signal=\"metrics\",result=\"taken\"} 3",
    ] {
        assert!(
            page.lines().any(|one| one == line),
            "no `{line}` in\n{page}"
        );
    }
    asked(&loaded, "/span", &[]).await;
    let lines = loaded.log.lines(LogStream::Stderr);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let span = lines[0].strip_prefix("span ").unwrap();
    for part in [
        "\"name\":\"work\"",
        "\"took_us\":2000000",
        "\"error\":\"it broke\"",
        "\"name\":\"cache miss\"",
        "\"n\":\"7\"",
        "\"parent\":\"",
    ] {
        assert!(span.contains(part), "no {part} in {span}");
    }
    asked(&loaded, "/hostile-span", &[]).await;
    let lines = loaded.log.lines(LogStream::Stderr);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].contains("\"cut\":true") && lines[1].len() <= 8 * 1024,
        "{lines:?}"
    );
    assert!(!lines[1].contains(['\n', '\u{1b}']), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_metrics_leave_the_page_whole() {
    let (loaded, guests, _mine) = embedded();
    let told = asked(&loaded, "/hostile-metrics", &[]).await;
    let taken = ["nan-gauge", "large-value", "forged-labels", "forged-name"];
    for line in told.lines() {
        let (what, said) = line.split_once(": ").unwrap();
        assert_eq!(said == "Ok(())", taken.contains(&what), "{line}");
    }
    let told = asked(&loaded, "/points?n=5000", &[]).await;
    assert!(told.contains("too many series"), "{told}");
    let page = guests.page();
    assert!(page.lines().count() < 2_100 && page.len() < 1024 * 1024);
    let forged = "app_f{component=\"shop\",exported_component=\"other\",exported_le=\"1\"} 1";
    assert!(page.contains(forged), "{page}");
    let own = |line: &str| {
        let names = [
            "app_",
            "# HELP app_",
            "# TYPE app_",
            "telemetry_items",
            "# HELP tel",
            "# TYPE tel",
        ];
        names.iter().any(|name| line.starts_with(name))
    };
    assert!(page.lines().all(own));
}
