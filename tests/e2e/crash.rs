//! kill -9 at any moment: what was acknowledged is in force again, without a manual step.

use realm_model::api::Heads;
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::support::{AGENT, Load, Realm, eventually, get};

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_nothing_that_was_acknowledged() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    for round in 0..4 {
        let (guest, text) = if round % 2 == 0 {
            (VERSION_B, "version b\n")
        } else {
            (VERSION_A, "version a\n")
        };
        let load = Load::start(agent.url("/"), 4, |status, _| status == 200);
        load.more(20).await;
        realm.guest(guest, "app.wasm");
        // Acknowledged, not yet carried out: the kill comes while it compiles or starts.
        tokio::task::block_in_place(|| realm.run(&["apply", "--yes", "--no-wait"]).ok());
        let acknowledged = realm.heads().await;
        agent.kill_9();
        drop(load);
        agent = realm.agent();
        assert_eq!(realm.heads().await, acknowledged);
        // The version before it serves again meanwhile.
        eventually("the acknowledged version serves", async || {
            (get(&agent.url("/")).await == (200, text.to_owned())).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_during_submissions_keeps_exactly_what_was_acknowledged() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let mut acknowledged = realm.heads().await;
    for round in 0..6u64 {
        let client = realm.client();
        let owner = realm.owner();
        // Restarts as fast as they are taken, until the agent dies under them.
        let submitting = tokio::spawn(async move {
            let mut last: Option<Heads> = None;
            while let Ok(heads) = client.heads().await {
                last = Some(heads.clone());
                let payload = realm_model::entry::Payload {
                    seq: heads.default.seq + 1,
                    prev: heads.default.hash,
                    authority: heads.authority,
                    created_unix_s: 0,
                    body: realm_model::entry::Body::Restart(realm_model::entry::RestartBody {
                        component: "app".parse().unwrap(),
                        nodes: Vec::new(),
                    }),
                };
                let chain = realm_model::entry::ChainId::DEFAULT;
                let entry = payload.sign(heads.realm, chain, &owner);
                match client.submit(chain, entry).await {
                    Ok(accepted) => {
                        last = Some(Heads {
                            default: accepted.head,
                            ..heads
                        })
                    }
                    Err(_) => break,
                }
            }
            last
        });
        // Another number of entries each round: the kill falls elsewhere in the cycle.
        let target = acknowledged.default.seq + 3 + round * 5;
        eventually("entries are taken", async || {
            (realm.heads().await.default.seq >= target).then_some(())
        })
        .await;
        agent.kill_9();
        let last = submitting.await.unwrap().unwrap();
        agent = realm.agent();
        let now = realm.heads().await;
        // What was acknowledged is there; one entry may have been durable before its answer left.
        assert!(
            now.default == last.default || now.default.seq == last.default.seq + 1,
            "{:?} after {:?}",
            now.default,
            last.default
        );
        acknowledged = now;
    }
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_serves_beside_a_broken_new_one_serves_again_after_kill_9() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    realm.app(realm_test_guests::HEALTH_BAD, "health = \"export\"");
    realm
        .run(&["apply", "--yes", "--timeout", "2s"])
        .fails(1, "not-running");
    assert_eq!(get(&agent.url("/")).await.1, "version a\n");
    agent.kill_9();
    let agent = realm.agent();
    eventually("the old version serves again", async || {
        (get(&agent.url("/")).await == (200, "version a\n".to_owned())).then_some(())
    })
    .await;
    let status = realm.run(&["status"]).ok().stdout;
    assert!(status.contains("version 1 keeps serving"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_finishes_what_is_in_flight() {
    let realm = Realm::new();
    realm.app(realm_test_guests::PARK, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let url = agent.url("/?ms=1500");
    let slow = tokio::spawn(async move { get(&url).await });
    agent.in_flight().await;
    let ended = tokio::task::spawn_blocking(move || agent.terminate())
        .await
        .unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(slow.await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_one_folder_is_refused() {
    let realm = Realm::new();
    let _agent = realm.agent();
    let second = realm.run(&AGENT);
    second.fails(1, "already-running");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_middle_of_the_log_is_reported_and_left_alone() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    realm.run(&["restart", "app"]).ok();
    agent.kill_9();
    let path = realm.path(".realm/log/default.log");
    let good = std::fs::read(&path).unwrap();
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    realm.run(&AGENT).fails(1, "log-damaged");
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
    // A history that ends too early is damage as well: the mark knows better.
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    realm.run(&AGENT).fails(1, "log-damaged");
    std::fs::write(&path, &good).unwrap();
    let agent = realm.agent();
    let served = eventually("it serves again", async || {
        (get(&agent.url("/")).await.0 == 200).then_some(())
    });
    served.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_compiled_file_is_compiled_again() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    agent.kill_9();
    let compiled = walk(&realm.path(".realm/cache"), "cwasm");
    assert_eq!(compiled.len(), 1);
    // Bits of machine code: what would take the agent with it if it ran.
    let mut code = std::fs::read(&compiled[0]).unwrap();
    let length = code.len();
    for byte in code.iter_mut().skip(length / 4).step_by(97) {
        *byte ^= 0x55;
    }
    std::fs::write(&compiled[0], code).unwrap();
    let agent = realm.agent();
    let served = eventually("it serves again", async || {
        (get(&agent.url("/")).await.0 == 200).then_some(())
    });
    served.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_of_a_component_are_found_before_they_run() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    agent.kill_9();
    for path in walk(&realm.path(".realm/cache"), "cwasm") {
        std::fs::remove_file(path).unwrap();
    }
    let blobs = walk(&realm.path(".realm/blobs"), "");
    assert_eq!(blobs.len(), 1);
    let mut bytes = std::fs::read(&blobs[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blobs[0], bytes).unwrap();
    let agent = realm.agent();
    eventually("the damage is told", async || {
        let waiting = realm.component("app").await.waiting_on;
        waiting
            .iter()
            .any(|waiting| waiting.message.contains("upload"))
            .then_some(())
    })
    .await;
    assert_ne!(get(&agent.url("/")).await.0, 200);
    // Applying again brings sound bytes.
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

/// Files below a folder with this extension (`""`: none).
pub(crate) fn walk(folder: &std::path::Path, extension: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path, extension));
        } else if path.extension().map_or("", |text| text.to_str().unwrap()) == extension {
            found.push(path);
        }
    }
    found
}
