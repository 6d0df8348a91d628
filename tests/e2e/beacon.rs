//! The beacon, with real agents: set by the owner, signed by a key of its own, kept by every node, and
//! missed where it does not come or what it names is held back.

use std::time::Duration;

use realm_model::key::SecretKey;
use realm_model::sync::Hint;
use realm_model::view::BeaconView;
use realm_net::{Event, Topic, Transport as _};
use realm_test_guests::HELLO;

use crate::guest_net::Caller;
use crate::realms::{Node, Realms, pinned, write_key};
use crate::support::{Running, eventually};

/// Whoever signs beacons is at the first node; `every` is what the owner promises.
async fn watched(names: &[&'static str], every: &str) -> Realms {
    let realms = Realms::meet(names).await;
    let first = realms.first();
    let beacon = SecretKey::from_seed(&[77; 32]);
    write_key(&first.realm, "beacon.key", &beacon);
    let key = beacon.public().to_string();
    let set = ["delegate", "add", "watch", &key, "--beacon", "--yes"];
    first.run(&[&set[..], &["--every", every]].concat()).ok();
    realms.apply(&pinned(&[("hello", HELLO, names[1])]));
    realms.run_there(&[("hello", names[1])]).await;
    realms.converge().await;
    realms
}

fn sign(node: &Node) -> u64 {
    let args = ["--json", "--key", "beacon.key", "beacon"];
    let said: serde_json::Value = serde_json::from_str(&node.run(&args).ok().stdout).unwrap();
    said["counter"].as_u64().unwrap()
}

async fn beacon(node: &Node) -> BeaconView {
    node.status().await.beacon.expect("the owner set one")
}

async fn until_alarm(node: &Node, code: &str, there: bool) {
    let what = format!("alarm `{code}` at {}: {there}", node.name);
    eventually(&what, async || {
        let alarms = node.status().await.alarms.into_iter();
        let mut own = alarms.filter(|alarm| alarm.node.as_str() == node.name);
        (own.any(|alarm| alarm.code == code) == there).then_some(())
    })
    .await;
}

/// Bytes of the logs of a node.
fn logged(node: &Node) -> u64 {
    let logs = std::fs::read_dir(node.realm.path(".realm/log")).unwrap();
    logs.map(|log| log.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_26_nodes_miss_a_beacon_that_is_not_signed_any_longer_and_serve_on() {
    let realms = watched(&["alpha", "beta"], "2s").await;
    let before: Vec<u64> = realms.running().map(logged).collect();
    let args = ["--key", "beacon.key", "beacon", "--every", "1s"];
    let signer = Running::start(realms.first().command(&args));
    for node in realms.running() {
        eventually("three beacons came", async || {
            let newest = beacon(node).await;
            (newest.met && newest.counter >= Some(3)).then_some(())
        })
        .await;
        until_alarm(node, "stale", false).await;
    }
    assert_eq!(signer.interrupt().code(), Some(0));
    for node in realms.running() {
        until_alarm(node, "stale", true).await;
    }
    let after: Vec<u64> = realms.running().map(logged).collect();
    assert_eq!(after, before, "a log grew by beacons");
    let beta = &realms.nodes[1];
    assert_eq!(beta.get("/hello/").await.0, 200);
    beta.agent().after("the beacon is overdue");
    let text = beta.run(&["status"]).ok().stdout;
    assert!(text.contains("alarm stale:") && text.contains("hint: see that `realm beacon` runs"));
    sign(realms.first());
    for node in realms.running() {
        until_alarm(node, "stale", false).await;
    }
    // Without a promise nothing is missed.
    realms
        .first()
        .run(&["delegate", "rm", "watch", "--yes"])
        .ok();
    realms.converge().await;
    assert_eq!(beta.status().await.beacon, None);
    let args = ["--key", "beacon.key", "beacon"];
    realms.first().run(&args).fails(3, "no-beacon");
}

/// A member that passes beacons on, and holds back what they name.
#[tokio::test(flavor = "multi_thread")]
async fn case_26_a_node_from_which_the_newest_entry_is_withheld_is_stale_until_an_honest_one_comes()
{
    let mut realms = watched(&["alpha", "beta"], "1s").await;
    realms.add("mallory");
    realms.invite(2);
    realms.approve(2, &[]);
    realms.converge().await;
    let key = realms.nodes[2].key();
    let mut mallory = Caller::node(&key, &realms).await;
    let there = sign(realms.first());
    eventually("beta has the beacon", async || {
        (beacon(&realms.nodes[1]).await.counter == Some(there)).then_some(())
    })
    .await;
    // What beta does not hear of, and a beacon that names it.
    realms.nodes[1].kill_9();
    realms.first().run(&["restart", "hello", "--no-wait"]).ok();
    let newest = sign(realms.first());
    let bytes = std::fs::read(realms.first().realm.path(".realm/beacon")).unwrap();
    // Not killed: after that it would be elsewhere, and nobody could say where.
    realms.first().agent().signal("STOP");
    realms.nodes[1].start();
    let beta = &realms.nodes[1];
    // It meets others a moment after it answers.
    let kept = eventually("it is about to meet others", async || {
        let beacon = beta.status().await.beacon;
        beacon.filter(|beacon| beacon.counter.is_some())
    })
    .await;
    assert_eq!(kept.counter, Some(there), "it is kept over a restart");
    mallory.net.dial(&beta.quic_address().await).await.unwrap();
    let (to, hint) = (beta.key().public(), Hint::Beacon(bytes).to_bytes());
    let withholding = tokio::spawn(async move {
        loop {
            let heard = mallory.net.peers().iter().any(|p| p.peer == to && p.hints);
            if heard {
                // Twice is once: its network knows what it published.
                let _ = mallory.net.publish(Topic::Heads, hint.clone());
            }
            // Whatever is asked stays without an answer.
            let event = tokio::time::timeout(Duration::from_millis(100), mallory.events.recv());
            if let Ok(Some(Event::Request { reply, .. })) = event.await {
                drop(reply);
            }
        }
    });
    eventually("beta hears of the beacon", async || {
        (beacon(beta).await.counter == Some(newest)).then_some(())
    })
    .await;
    assert!(!beacon(beta).await.met, "what it names is not there");
    until_alarm(beta, "stale", true).await;
    // It goes on with what it has.
    assert_eq!(beta.get("/hello/").await.0, 200);
    realms.first().agent().signal("CONT");
    realms.converge().await;
    until_alarm(beta, "stale", false).await;
    assert!(beacon(beta).await.met);
    withholding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_beacon_signs_beacons_from_elsewhere_and_nothing_else() {
    let realms = watched(&["alpha", "beta"], "5m").await;
    let (first, ticket) = (realms.first(), realms.ticket());
    let there = |args: &[&str]| {
        let way = ["--key", "beacon.key", "--node", &ticket];
        first.run(&[&way, args].concat())
    };
    there(&["beacon"]).ok();
    for node in realms.running() {
        eventually("it came", async || {
            (beacon(node).await.counter == Some(1)).then_some(())
        })
        .await;
    }
    there(&["--json", "status"]).ok();
    there(&["logs", "hello"]).fails(3, "forbidden");
    there(&["restart", "hello"]).fails(3, "wrong-owner");
    first.run(&["beacon"]).fails(3, "wrong-owner");
    let other = SecretKey::from_seed(&[78; 32]).public().to_string();
    let taken = ["delegate", "add", "watch", &other, "--apps", "a", "--yes"];
    first.run(&taken).fails(3, "name-taken");
    let listed = first.run(&["delegate", "ls"]).ok().stdout;
    assert!(
        listed.contains("beacon") && listed.contains("every 300 s"),
        "{listed}"
    );
}
