//! Rates of clients and rules of a component, with real agents: over HTTP, FastCGI, and behind another node.

use std::time::Instant;

use realm_test_guests as guests;
use reqwest::Client;

use crate::fastcgi::{ask, reached};
use crate::realms::Realms;
use crate::support::{eventually, figure, get};

/// Requests that a client may send at once.
const BURST: u32 = 20;
/// Requests of which none is refused where a bucket is full.
const FEW: u32 = 10;

const LIMITED: &str = "per_client = { requests_per_sec = 1, burst = 20 }";
const RULES: &str = r#"
rules = [
  { action = "allow", paths = ["/app/admin"], headers = { x-key = "open" } },
  { action = "deny", paths = ["/app/admin"] },
]"#;

/// What came of requests, until one was refused for their rate: how many passed, and whether those were no
/// more than the bucket gave in the time that it took.
async fn until_refused(ask: impl AsyncFn() -> u16) -> (u32, bool) {
    let begun = Instant::now();
    let mut passed = 0;
    loop {
        match ask().await {
            200 => passed += 1,
            429 => break,
            other => panic!("{other} after {passed}"),
        }
        assert!(passed < BURST * 50, "nothing is refused");
    }
    let given = u64::from(BURST) + begun.elapsed().as_secs() + 1;
    (passed, u64::from(passed) <= given)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_its_rate_and_rules_are_kept_over_http_and_behind_a_web_server() {
    let (realm, agent) = reached(guests::HELLO, &format!("{LIMITED}{RULES}"), "");
    let refused = get(&agent.url("/app/%61dmin")).await;
    assert_eq!(refused.0, 403, "{}", refused.1);
    let client = Client::new();
    let open = client.get(agent.url("/app/admin")).header("x-key", "Open");
    assert_eq!(open.send().await.unwrap().status(), 200);

    let (passed, is_fair) = until_refused(async || get(&agent.url("/app/")).await.0).await;
    assert!(passed >= BURST - 1 && is_fair, "{passed}");

    // Those whom a web server names have buckets of their own.
    let socket = realm.path("fastcgi.sock");
    let status = |params: &[(&str, &str)]| {
        let answer = ask(&socket, params).stdout;
        let status = answer.strip_prefix("Status: ").unwrap();
        status[..3].parse::<u16>().unwrap()
    };
    assert_eq!(status(&[("REQUEST_URI", "/app//admin")]), 403);
    let of = |client: &'static str| {
        let status = &status;
        async move || status(&[("REMOTE_ADDR", client)])
    };
    let (passed, is_fair) = until_refused(of("203.0.113.1")).await;
    assert!(passed >= BURST && is_fair, "{passed}");
    for _ in 0..FEW {
        assert_eq!(status(&[("REMOTE_ADDR", "203.0.113.2")]), 200);
    }

    let page = get(&agent.metrics_url).await.1;
    let of = |reason: &str| {
        let series = format!("realm_http_refused_total{{component=\"app\",reason=\"{reason}\"}}");
        figure(&page, &series)
    };
    assert!((of("rate") - 2.0).abs() < f64::EPSILON, "{page}");
    assert!((of("rule") - 2.0).abs() < f64::EPSILON, "{page}");
    agent.lines().after("a rule refuses requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_node_that_asks_another_one_is_counted_there_alone() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    realms.apply(&format!(
        "[components.app]\nsource = \"file:app.wasm\"\n{LIMITED}\n\
         [routing]\nbeta = [{{ path = \"/app/...\", component = \"app\" }}]\n"
    ));
    realms.run_there(&[("app", "beta")]).await;
    eventually("alpha knows where it runs", async || {
        (realms.first().get("/app/").await.0 == 200).then_some(())
    })
    .await;
    let (_, is_fair) = until_refused(async || realms.first().get("/app/").await.0).await;
    assert!(is_fair);
    // Whoever counted what alpha brought would have nothing left for the same client.
    for _ in 0..FEW {
        let answer = realms.nodes[1].get("/app/").await;
        assert_eq!(answer.0, 200, "{}", answer.1);
    }
}
