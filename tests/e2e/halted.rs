//! A build that never gets healthy, on three nodes under load: it stops at the first place, on all nodes
//! alike; all say why; and what was before is had back. Case 31.

use std::time::Instant;

use realm_test_guests as guests;

use crate::realms::Realms;
use crate::support::{Load, eventually};
use crate::torn::{Look, Watch, most};

/// Every node has a replica, of which one may be missing.
async fn three_nodes(on_fail: &str) -> Realms {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    realms.apply(&format!(
        "[components.app]\nsource = \"file:app.wasm\"\nhealth = \"/\"\n\n[routing]\n\
         \"*\" = [{{ path = \"/app/...\", component = \"app\", replicas = 3, max_surge = 0, max_unavailable = 1, \
         min_ready = \"1s\", progress_deadline = \"3s\", on_fail = \"{on_fail}\" }}]\n"
    ));
    all_answer(&realms, "a").await;
    realms
}

/// Waits until each node has one replica that takes requests, and answers with this version.
async fn all_answer(realms: &Realms, version: &str) {
    eventually("one replica each, of one version", async || {
        for node in &realms.nodes {
            let app = node.realm.component("app").await;
            let answer = node.get("/app/").await;
            if app.healthy + app.old != 1 || answer != (200, format!("version {version}\n")) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Waits until every node says that the rollout failed, or none does.
async fn all_alarmed(realms: &Realms, expected: bool) {
    eventually("all say the same of the rollout", async || {
        for node in &realms.nodes {
            let alarms = node.alarms().await;
            if alarms.contains(&"rollout-failed".to_owned()) != expected {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn a_bad_version_stops(on_fail: &str, follows: &str, verb: &str) {
    let realms = three_nodes(on_fail).await;
    let load = Load::start(realms.nodes[1].agent().url("/app/"), 4, |status, body| {
        status == 200 && body.starts_with("version ")
    });
    load.more(100).await;
    let watch = Watch::over(&realms);
    let began = Instant::now();
    realms.first().realm.guest(guests::TRAP_START, "bad.wasm");
    realms
        .as_owner(0, &["push", "app", "bad.wasm", "--no-wait"])
        .ok();
    all_alarmed(&realms, true).await;
    all_answer(&realms, "a").await;
    load.more(200).await;
    let ended = Instant::now();
    let looks = watch.end().await;
    let looks: Vec<&[Look]> = looks.iter().map(Vec::as_slice).collect();
    assert!(most(&looks, (began, ended), |look| !look.serves) <= 1);
    assert!(most(&looks, (began, ended), |look| look.is_doubled) == 0);
    let tried = looks
        .iter()
        .filter(|looks| looks.iter().any(|look| look.begins));
    assert_eq!(tried.count(), 1, "it was tried in one place");

    // Whoever is asked knows it, and why.
    for at in 0..3 {
        let status = realms.nodes[at].run(&["status"]).stdout;
        assert!(status.contains("rollout-failed"), "{status}");
        let explained = realms.nodes[at].run(&["explain", "app"]).ok().stdout;
        let why = ["rollout-failed", "did not get healthy", follows];
        assert!(why.iter().all(|one| explained.contains(one)), "{explained}");
    }
    realms.as_owner(0, &[verb, "app"]).ok();
    all_alarmed(&realms, false).await;
    all_answer(&realms, "a").await;
    for node in &realms.nodes {
        let explained = node.run(&["explain", "app"]).ok().stdout;
        assert!(!explained.contains("rollout-failed"), "{explained}");
    }
    // What mends it goes from place to place.
    realms.first().realm.guest(guests::VERSION_B, "new.wasm");
    realms.as_owner(0, &["push", "app", "new.wasm"]).ok();
    all_answer(&realms, "b").await;
    load.more(100).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_bad_version_halts_on_all_nodes_and_is_aborted() {
    a_bad_version_stops("halt", "it stands still until the next entry", "abort").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_bad_version_is_undone_on_all_nodes_and_rolled_back() {
    a_bad_version_stops("revert", "the version before it comes back", "rollback").await;
}
