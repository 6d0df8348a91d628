//! Every word of a component's state, as `realm status --json` says it.

use realm_test_guests::{BAD_IMPORT, HEALTH_PATH, HELLO, PARK, SLOW_START};

use crate::support::{Realm, eventually, get};

/// Computes for a second and a half before each answer, so that a start can be seen.
fn slow(version: &str) -> String {
    format!(
        "health = \"/\"\nenv = {{ BURN_MS = \"1500\", VERSION = \"{version}\" }}\n\
         epoch_timeout_ms = 60_000"
    )
}

/// Waits until the state of `name` is this word.
async fn becomes(realm: &Realm, name: &str, state: &str) {
    eventually(state, async || {
        let status = tokio::task::block_in_place(|| realm.run(&["status", "--json"]).ok());
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        let mut components = status["components"].as_array().unwrap().iter();
        let component = components.find(|component| component["name"] == name)?;
        (component["state"] == state).then_some(())
    })
    .await;
}

fn apply(realm: &Realm) {
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes", "--no-wait"]).ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_healthy_updating_healthy() {
    let realm = Realm::new();
    let _agent = realm.agent();
    realm.app(SLOW_START, &slow("1"));
    apply(&realm);
    becomes(&realm, "app", "starting").await;
    becomes(&realm, "app", "healthy").await;
    realm.app(SLOW_START, &slow("2"));
    apply(&realm);
    becomes(&realm, "app", "updating").await;
    becomes(&realm, "app", "healthy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backoff_and_failed() {
    let realm = Realm::new();
    let _agent = realm.agent();
    realm.app(
        HEALTH_PATH,
        "health = \"/healthz\"\nenv = { HEALTH = \"bad\" }",
    );
    apply(&realm);
    becomes(&realm, "app", "backoff").await;
    realm.app(BAD_IMPORT, "");
    apply(&realm);
    becomes(&realm, "app", "failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_finishes_what_is_in_flight() {
    let realm = Realm::new();
    let agent = realm.agent();
    realm.app(PARK, "");
    realm.run(&["apply", "--yes"]).ok();
    let url = agent.url("/?ms=3000");
    let parked = tokio::spawn(async move { get(&url).await });
    agent.in_flight().await;
    // Another component takes the route: the old one goes when its request is done.
    realm.guest(HELLO, "other.wasm");
    let manifest = realm.read("realm.toml").replace("app", "other");
    realm.write("realm.toml", &manifest);
    apply(&realm);
    becomes(&realm, "app", "draining").await;
    becomes(&realm, "other", "healthy").await;
    assert_eq!(parked.await.unwrap(), (200, "hello\n".to_owned()));
    eventually("it is gone", async || {
        let status = realm.status().await;
        (status.components.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn degraded_and_idle() {
    let realm = Realm::new();
    let _agent = realm.agent();
    realm.app(SLOW_START, &slow("1"));
    realm.guest(HELLO, "spare.wasm");
    let with = |replicas: u32| {
        let text = crate::support::app_manifest(&slow("1"));
        let route = format!("component = \"app\", replicas = {replicas}");
        let text = text.replace("component = \"app\"", &route);
        realm.write(
            "realm.toml",
            &format!("{text}[components.spare]\nsource = \"file:./spare.wasm\"\n"),
        );
        apply(&realm);
    };
    with(1);
    becomes(&realm, "spare", "idle").await;
    becomes(&realm, "app", "healthy").await;
    with(2);
    becomes(&realm, "app", "degraded").await;
    becomes(&realm, "app", "healthy").await;
}
