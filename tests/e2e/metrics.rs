//! The metrics page, read by Prometheus' own tool.

use std::io::Write as _;
use std::process::{Command, Stdio};

use realm_test_guests::{HELLO, SPIN};

use crate::support::{PATIENCE, Realm, eventually, figure, get, raw};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_every_figure_and_promtool_reads_it() {
    let realm = Realm::new();
    realm.guest(HELLO, "hello.wasm");
    realm.guest(SPIN, "spin.wasm");
    realm.write(
        "realm.toml",
        r#"
[components.hello]
source = "file:./hello.wasm"
fuel_per_sec = 1_000_000_000
[components.spin]
source = "file:./spin.wasm"
epoch_timeout_ms = 50
[routing]
"*" = [
  { path = "/...", component = "hello", replicas = 2 },
  { path = "/spin", component = "spin" },
]
"#,
    );
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    for _ in 0..5 {
        assert_eq!(get(&agent.url("/")).await.0, 200);
    }
    assert_eq!(get(&agent.url("/spin")).await.0, 504);
    std::fs::write(realm.path("junk"), "junk").unwrap();
    realm.run(&["submit", "junk"]).fails(3, "malformed");

    // An invocation is counted when it has ended, which may be a moment after its answer.
    let page = eventually("every invocation is counted", async || {
        let page = get(&agent.metrics_url).await.1;
        let ended = "wasm_invocations_total{component=\"spin\",outcome=\"epoch-timeout\"} 1";
        page.contains(ended).then_some(page)
    })
    .await;
    for wanted in [
        "wasm_exec_time_ms_bucket{component=\"hello\",le=\"+Inf\"} ",
        "wasm_exec_time_ms_count{component=\"hello\"} ",
        "wasm_instantiation_time_ms_count{component=\"hello\"} ",
        "wasm_restarts_total{component=\"hello\"} 0",
        "fuel_used_total{component=\"hello\"} ",
        "epoch_preemptions_total{component=\"spin\"} ",
        "mem_current_bytes{component=\"hello\"} ",
        "mem_peak_bytes{component=\"hello\"} ",
        "realm_http_requests_total{component=\"hello\",status=\"200\"} 5",
        "realm_http_requests_total{component=\"spin\",status=\"504\"} 1",
        "wasm_invocations_total{component=\"spin\",outcome=\"epoch-timeout\"} 1",
        "realm_node_cpu_percent ",
        "realm_node_memory_used_bytes ",
        "realm_node_disk_available_bytes ",
        "realm_components{state=\"healthy\"} 2",
        "realm_replicas_healthy{component=\"hello\"} 2",
        "realm_p2p_links 0",
        "realm_refusals_total{code=\"malformed\"} 1",
        "realm_version 1",
    ] {
        assert!(page.contains(wanted), "no `{wanted}` in\n{page}");
    }
    // Without fuel_per_sec nothing is counted, and a 0 would be a lie.
    assert!(
        !page.contains("fuel_used_total{component=\"spin\"}"),
        "{page}"
    );
    let value = |series: &str| figure(&page, series);
    assert!(value("fuel_used_total{component=\"hello\"}") > 0.0);
    assert!(value("epoch_preemptions_total{component=\"spin\"}") > 0.0);
    assert!(value("mem_peak_bytes{component=\"hello\"}") > 65_536.0);
    assert!(value("process_resident_memory_bytes") > 1_000_000.0);
    let machine = |what: &str| value(&format!("realm_node_{what}"));
    assert!((0.0..=100.0).contains(&machine("cpu_percent")));
    assert!(machine("memory_used_bytes") > 0.0);
    assert!(machine("memory_used_bytes") <= machine("memory_bytes"));
    assert!(machine("disk_available_bytes") > 0.0);
    assert!(machine("disk_available_bytes") <= machine("disk_bytes"));
    promtool(&page);
}

/// Debian's promtool must parse the page. Its style remarks are allowed for the names that the
/// specification gives (`_ms`), and for nothing else.
pub(crate) fn promtool(page: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there: scripts/setup-test.sh installs the package `prometheus`");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "promtool cannot read the page:\n{said}"
    );
    let remarks: Vec<_> = said
        .lines()
        .filter(|line| {
            !line.starts_with("wasm_exec_time_ms")
                && !line.starts_with("wasm_instantiation_time_ms")
        })
        .collect();
    assert!(remarks.is_empty(), "{remarks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_shows_figures_and_controls_nothing() {
    let realm = Realm::new();
    let agent = realm.agent();
    let base = agent.metrics_url.trim_end_matches("/metrics").to_owned();
    assert_eq!(
        get(&format!("{base}/healthz")).await,
        (200, "ok\n".to_owned())
    );
    for path in ["/v1/status", "/v1/heads", "/v1/logs/app", "/"] {
        assert_eq!(get(&format!("{base}{path}")).await.0, 404, "{path}");
    }
    assert!(base.starts_with("http://127.0.0.1:"), "{base}");
}

/// The series of a page, without their values.
fn series(page: &str) -> Vec<String> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let mut series: Vec<String> = lines
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect();
    series.sort();
    series
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_invent_makes_no_new_series() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let manifest = realm.read("realm.toml").replace("/...", "/app/...");
    realm.write("realm.toml", &manifest);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let client = reqwest::Client::new();
    let status = async |path: String, host: String, method: &str| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = client
            .request(method, agent.url(&path))
            .header("host", host);
        request.send().await.unwrap().status().as_u16()
    };
    let invent = async |n: usize| {
        let (path, host, method) = (format!("p{n}"), format!("h{n}.example"), format!("M{n}"));
        for (path, host, method, expected) in [
            (format!("/app/{path}"), "a".to_owned(), "GET", 200),
            (format!("/{path}"), "a".to_owned(), "GET", 404),
            ("/app".to_owned(), host, "GET", 200),
            ("/app".to_owned(), "a".to_owned(), method.as_str(), 200),
            ("/app".to_owned(), format!("a b{n}"), "GET", 400),
        ] {
            assert_eq!(status(path, host, method).await, expected);
        }
        // Statuses that no answer has, told by a client.
        raw(
            &agent.url,
            format!("GET /app HTTP/1.1\r\nHost: a\r\nrealm-error: e{n}\r\nstatus: {n}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
    };
    invent(0).await;
    let before = series(&get(&agent.metrics_url).await.1);
    assert!(before.len() > 50, "{before:?}");
    for n in 1..=500 {
        invent(n).await;
    }
    let page = get(&agent.metrics_url).await.1;
    assert_eq!(series(&page), before);
    assert!(!page.contains("p500") && !page.contains("M500"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_other_bytes_is_refused_and_counted() {
    use std::io::{Read as _, Write as _};
    let realm = Realm::new();
    let agent = realm.agent();
    let counted = async || {
        let page = get(&agent.metrics_url).await.1;
        figure(&page, "realm_refusals_total{code=\"digest-mismatch\"}")
    };
    assert_eq!(counted().await, 0.0);
    let digest = realm_model::digest::Digest::of(b"what was signed");
    // As any program may: bytes on the socket, no client of realm's.
    let mut socket =
        std::os::unix::net::UnixStream::connect(realm.path(".realm/agent.sock")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: realm\r\nContent-Length: 14\r\nConnection: close\r\n\r\nsomething else"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tokio::task::block_in_place(|| socket.read_to_string(&mut answer)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    let body: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["code"], "digest-mismatch");
    assert!(body["hint"].is_string());
    assert!(!realm.client().has(&digest).await.unwrap());
    assert_eq!(counted().await, 1.0);
    assert_eq!(realm.status().await.refusals["digest-mismatch"], 1);
}
