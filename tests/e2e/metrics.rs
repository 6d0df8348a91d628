//! The metrics page, read by Prometheus' own tool.

use std::io::Write as _;
use std::process::{Command, Stdio};

use realm_test_guests::{HELLO, SPIN};

use crate::support::{Realm, eventually, get};

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
    let value = |beginning: &str| -> f64 {
        let line = page
            .lines()
            .find(|line| line.starts_with(beginning))
            .unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("fuel_used_total{component=\"hello\"}") > 0.0);
    assert!(value("epoch_preemptions_total{component=\"spin\"}") > 0.0);
    assert!(value("mem_peak_bytes{component=\"hello\"}") > 65_536.0);
    assert!(value("process_resident_memory_bytes") > 1_000_000.0);
    promtool(&page);
}

/// Debian's promtool must parse the page. Its style remarks are allowed for the names that the
/// specification gives (`_ms`), and for nothing else.
fn promtool(page: &str) {
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
