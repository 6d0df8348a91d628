//! Answers that are given again: a component that counts its runs, real agents, and nodes that ask others.

use realm_test_guests as guests;
use reqwest::Client;

use crate::realms::Realms;
use crate::support::{Agent, Realm, app_manifest, eventually, figure, get};

/// Requests at once.
const HERD: usize = 200;

async fn page(agent: &Agent) -> String {
    get(&agent.metrics_url).await.1
}

/// Runs of `app` that ended.
fn runs(page: &str) -> f64 {
    figure(
        page,
        "wasm_invocations_total{component=\"app\",outcome=\"ok\"}",
    )
}

fn cached(page: &str, result: &str) -> f64 {
    let series = format!("realm_cache_requests_total{{component=\"app\",result=\"{result}\"}}");
    figure(page, &series)
}

fn is(one: f64, other: f64) -> bool {
    (one - other).abs() < f64::EPSILON
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_cache_runs_no_component_and_a_herd_runs_it_once() {
    let realm = Realm::new();
    realm.guest(guests::CACHEABLE, "app.wasm");
    realm.write("realm.toml", &app_manifest("cache = true"));
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let first = get(&agent.url("/minute")).await;
    assert_eq!(first.0, 200, "{}", first.1);
    for _ in 0..20 {
        assert_eq!(get(&agent.url("/minute")).await, first);
    }
    let client = Client::new();
    let head = client.head(agent.url("/minute")).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "17");
    assert!(head.headers().contains_key("age"));
    let seen = eventually("the one run is counted", async || {
        let page = page(&agent).await;
        (runs(&page) >= 1.0).then_some(page)
    })
    .await;
    assert!(is(runs(&seen), 1.0), "{seen}");
    assert!(
        is(cached(&seen, "miss"), 1.0) && is(cached(&seen, "hit"), 21.0),
        "{seen}"
    );
    assert!(figure(&seen, "realm_cache_bytes{component=\"app\"}") > 0.0);

    // Many at once, for something that takes its time.
    let herd = (0..HERD).map(|_| {
        let (client, url) = (client.clone(), agent.url("/minute?ms=300"));
        tokio::spawn(async move { client.get(url).send().await.unwrap().text().await.unwrap() })
    });
    let herd: Vec<_> = herd.collect();
    let mut bodies = std::collections::BTreeSet::new();
    for answer in herd {
        bodies.insert(answer.await.unwrap());
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");

    // What is somebody's runs for each, and what changed is asked about.
    assert_ne!(
        get(&agent.url("/private")).await,
        get(&agent.url("/private")).await
    );
    assert_ne!(
        get(&agent.url("/other")).await,
        get(&agent.url("/other")).await
    );
    assert_eq!(
        get(&agent.url("/tagged")).await,
        get(&agent.url("/tagged")).await
    );
    let expected = 1.0 + 1.0 + 2.0 + 2.0 + 2.0;
    eventually("every run is counted", async || {
        is(runs(&page(&agent).await), expected).then_some(())
    })
    .await;

    // A change of the URI, and of the component.
    let before = get(&agent.url("/minute")).await;
    assert_eq!(before, first);
    client.post(agent.url("/minute")).send().await.unwrap();
    let changed = get(&agent.url("/minute")).await;
    assert_ne!(changed, before);
    let manifest = app_manifest("cache = true\nenv = { NEW = \"1\" }");
    realm.write("realm.toml", &manifest);
    realm.run(&["apply", "--yes"]).ok();
    eventually("the new version answers for itself", async || {
        (get(&agent.url("/minute")).await != changed).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gives_again_what_another_one_answered() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    realms.first().realm.guest(guests::CACHEABLE, "app.wasm");
    realms.apply(
        "[components.app]\nsource = \"file:app.wasm\"\ncache = true\n\n\
         [routing]\nbeta = [{ path = \"/...\", component = \"app\" }]\n",
    );
    realms.run_there(&[("app", "beta")]).await;
    eventually("alpha knows where it runs", async || {
        (realms.first().get("/other").await.0 == 200).then_some(())
    })
    .await;
    // Nothing is kept until both nodes mean the same version.
    let kept = eventually("what beta answered is given again", async || {
        let first = realms.first().get("/minute").await;
        (realms.first().get("/minute").await == first).then_some(first)
    })
    .await;
    let before = runs(&page(realms.nodes[1].agent()).await);
    for _ in 0..20 {
        assert_eq!(realms.first().get("/minute").await, kept);
    }
    let after = runs(&page(realms.nodes[1].agent()).await);
    // A run may be counted a moment after its answer.
    assert!(after - before < 3.0, "{before} and {after}");
    assert_ne!(
        realms.nodes[1].get("/minute").await,
        kept,
        "beta was not asked by a client yet"
    );
}
