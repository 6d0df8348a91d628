//! What guests tell of themselves: on the metrics page, in the log, and at a collector that the operator
//! names, read with the messages of OTLP's own makers.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use realm_test_guests::OTEL;
use reqwest::Client;

use crate::collector::{Collector, Does, Got};
use crate::metrics::promtool;
use crate::support::{Agent, Realm, eventually, get};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// One component `shop` whose telemetry goes to `backend`.
fn realm(backend: &str, more: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(OTEL, "shop.wasm");
    realm.write("realm.toml", &manifest(backend, more));
    realm
}

fn manifest(backend: &str, more: &str) -> String {
    format!(
        "[bindings.telemetry]\ninterface = \"wasi:otel\"\nbackend = \"{backend}\"\n{more}\n\
         [components.shop]\nsource = \"file:./shop.wasm\"\nbind = {{ otel = \"telemetry\" }}\n\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"shop\" }}]\n"
    )
}

fn allow(realm: &Realm, collector: &str) {
    let before = realm.read(".realm/node.toml");
    let allow = format!("[backends]\nallow = [\"otlp+http://{collector}\"]\n");
    realm.write(".realm/node.toml", &format!("{before}\n{allow}"));
}

async fn good(agent: &Agent, path: &str) -> String {
    let (status, body) = get(&agent.url(path)).await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_embedded_is_on_the_metrics_page_and_in_the_log() {
    let realm = realm("embedded", "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    for _ in 0..3 {
        assert_eq!(good(&agent, "/metrics").await, "Ok(())");
    }
    good(&agent, "/span").await;
    good(&agent, "/log").await;
    let page = get(&agent.metrics_url).await.1;
    for line in [
        "app_orders_total{component=\"shop\",kind=\"new\"} 6",
        "app_http_server_duration_seconds_count{component=\"shop\"} 9",
        "telemetry_items_total{component=\"shop\",signal=\"traces\",result=\"taken\"} 1",
        "realm_version 1",
    ] {
        assert!(
            page.lines().any(|one| one == line),
            "no `{line}` in\n{page}"
        );
    }
    promtool(&page);
    let logs = realm.run(&["logs", "shop"]).ok().stdout;
    assert!(
        logs.contains("span {") && logs.contains("\"error\":\"it broke\""),
        "{logs}"
    );
    assert!(logs.contains("warn [guest]: stock low on"), "{logs}");
    // Names and numbers of a stranger: the page is still one, and no line is forged.
    good(&agent, "/hostile-metrics").await;
    good(&agent, "/points?n=5000").await;
    let page = get(&agent.metrics_url).await.1;
    let versions = page
        .lines()
        .filter(|line| line.starts_with("realm_version "));
    assert_eq!(versions.collect::<Vec<_>>(), ["realm_version 1"]);
    let lines = page
        .lines()
        .filter(|line| line.starts_with("app_users{"))
        .count();
    assert!((1_000..=2_000).contains(&lines), "{lines}");
    promtool(&page);
}

fn text(resource: &Option<Resource>, key: &str) -> Vec<String> {
    let attributes = &resource.as_ref().unwrap().attributes;
    let of_key = attributes.iter().filter(|pair| pair.key == key);
    let text = |value: &Any| match value {
        Any::StringValue(text) => text.clone(),
        other @ (Any::BoolValue(_)
        | Any::IntValue(_)
        | Any::DoubleValue(_)
        | Any::ArrayValue(_)
        | Any::KvlistValue(_)
        | Any::BytesValue(_)
        | Any::StringValueStrindex(_)) => format!("{other:?}"),
    };
    of_key
        .map(|pair| text(pair.value.as_ref().unwrap().value.as_ref().unwrap()))
        .collect()
}

/// Who speaks is what the node says, once.
fn is_the_shop(resource: &Option<Resource>) {
    assert_eq!(text(resource, "service.name"), ["shop"]);
    assert_eq!(text(resource, "service.namespace"), ["default"]);
    assert_eq!(text(resource, "realm.component"), ["shop"]);
    let node = text(resource, "realm.node");
    assert_eq!(text(resource, "host.name"), node);
    assert_eq!(
        text(resource, "service.instance.id"),
        [format!("{}/shop/0", node[0])]
    );
    assert_eq!(text(resource, "service.version").len(), 1);
}

fn spans(got: &[Got]) -> Vec<Span> {
    let requests = got.iter().map(Got::read::<ExportTraceServiceRequest>);
    let resources = requests.flat_map(|request| request.resource_spans);
    let scopes = resources.flat_map(|resource| {
        is_the_shop(&resource.resource);
        resource.scope_spans
    });
    scopes.flat_map(|scope| scope.spans).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_spans_metrics_and_logs_of_one_trace() {
    let collector = Collector::start();
    let address = collector.address().to_string();
    let realm = realm(&format!("otlp+http://{address}"), "secret = \"headers\"");
    allow(&realm, &address);
    let agent = realm.agent();
    let set = realm.command(&["secret", "set", "headers"]);
    crate::secrets::with_input(set, b"api-key=hunter2").ok();
    realm.run(&["apply", "--yes"]).ok();
    let asked = Client::new()
        .get(agent.url("/span"))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    assert_eq!(asked.send().await.unwrap().status(), 200);
    good(&agent, "/log").await;
    assert_eq!(good(&agent, "/metrics").await, "Ok(())");
    let (of_caller, got) = tokio::task::block_in_place(|| {
        collector.until("/v1/traces", |got| {
            let all = spans(got);
            let of_caller = all.into_iter().filter(|span| hex(&span.trace_id) == TRACE);
            let of_caller: Vec<Span> = of_caller.collect();
            (of_caller.len() == 2).then(|| (of_caller, got[0].clone()))
        })
    });
    assert!(
        got.headers.contains(&"api-key: hunter2".to_owned()),
        "{:?}",
        got.headers
    );
    let named = |name: &str| of_caller.iter().find(|span| span.name == name).unwrap();
    let (request, work) = (named("GET"), named("work"));
    assert_eq!(hex(&request.parent_span_id), CALLER);
    assert_eq!(work.parent_span_id, request.span_id);
    assert_eq!(
        (work.events[0].name.as_str(), work.links.len()),
        ("cache miss", 1)
    );
    let record = tokio::task::block_in_place(|| {
        collector.until("/v1/logs", |got| {
            let request: ExportLogsServiceRequest = got.first()?.read();
            let resource = &request.resource_logs[0];
            is_the_shop(&resource.resource);
            assert_eq!(text(&resource.resource, "team"), ["shop"]);
            Some(resource.scope_logs[0].log_records[0].clone())
        })
    });
    assert_eq!(
        (record.severity_number, record.event_name.as_str()),
        (13, "stock")
    );
    assert_eq!(record.trace_id.len(), 16);
    let metrics = tokio::task::block_in_place(|| {
        collector.until("/v1/metrics", |got| {
            let request: ExportMetricsServiceRequest = got.first()?.read();
            let resource = &request.resource_metrics[0];
            is_the_shop(&resource.resource);
            Some(resource.scope_metrics[0].metrics.clone())
        })
    });
    assert_eq!(metrics.len(), 7);
    // None of it is on the page or in the log, and the headers are nowhere.
    let page = get(&agent.metrics_url).await.1;
    assert!(!page.contains("app_"), "{page}");
    let logs = realm.run(&["logs", "shop"]).ok().stdout;
    assert!(
        !logs.contains("span {") && !logs.contains("stock"),
        "{logs}"
    );
    assert!(!realm.run(&["status"]).ok().stdout.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_an_alarm_and_no_request_waits() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let realm = realm(&format!("otlp+http://{address}"), "");
    allow(&realm, &address);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    good(&agent, "/span?times=10000").await;
    eventually("an alarm names the binding", async || {
        let text = realm.run(&["status"]).ok().stdout;
        (text.contains("backend-down") && text.contains("telemetry")).then_some(())
    })
    .await;
    let dropped = "telemetry_items_total{component=\"shop\",signal=\"traces\",result=\"dropped\"} ";
    let page = get(&agent.metrics_url).await.1;
    let line = page.lines().find_map(|line| line.strip_prefix(dropped));
    assert!(line.unwrap().parse::<u64>().unwrap() > 4_000, "{line:?}");
    // It is back, and slow; then it has no time, then it has.
    let collector = Collector::at(&address);
    collector.does(Does::Waits);
    let asked = |got: &[Got]| (!got.is_empty()).then_some(());
    tokio::task::block_in_place(|| collector.until("/v1/traces", asked));
    good(&agent, "/context").await;
    collector.does(Does::Answers(503, "retry-after: 1\r\n", Vec::new()));
    let again = |got: &[Got]| (got.len() >= 2).then_some(());
    tokio::task::block_in_place(|| collector.until("/v1/traces", again));
    let before = collector.got();
    let n_before = before.iter().filter(|one| one.path == "/v1/traces").count();
    collector.does(Does::Takes);
    let n_spans = tokio::task::block_in_place(|| {
        collector.until("/v1/traces", |got| {
            // Those before came to nothing, and come again.
            let n_spans = spans(&got[n_before..]).len();
            (n_spans >= 4_096).then_some(n_spans)
        })
    });
    assert!(n_spans <= 4_096 + 512 + 10, "{n_spans}");
    eventually("the alarm is over", async || {
        let text = realm.run(&["status"]).ok().stdout;
        (!text.contains("backend-down")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_node_toml_does_not_name_gets_nothing() {
    let collector = Collector::start();
    let realm = realm(&format!("otlp+http://{}", collector.address()), "");
    let _agent = realm.agent();
    let said = realm.run(&["apply", "--yes", "--timeout", "2s"]);
    said.fails(1, "not-running");
    eventually("the status says why", async || {
        let text = realm.run(&["status"]).ok().stdout;
        text.contains("backend-denied").then_some(())
    })
    .await;
    assert!(collector.got().is_empty());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
