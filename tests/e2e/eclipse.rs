//! A node that hears of the realm by one neighbour alone, which means harm; and one that hears of nobody
//! after its start. Neither believes what nobody signed, nor starts or stops anything on half a view.

use std::time::{Duration, Instant};

use realm_control::reach::ALONE_MS;
use realm_model::entry::{Body, ChainId, RevokeNode};
use realm_model::key::SecretKey;
use realm_model::record::{NodeBody, NodeRecord, Version};
use realm_model::sync::Hint;
use realm_model::view::ReachState;
use realm_net::{Event, Topic, Transport as _};
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::guest_net::Caller;
use crate::realms::{Node, Realms, next_entry, pinned};
use crate::support::{Load, eventually};

async fn until_isolated(node: &Node, isolated: bool) {
    let what = format!("{} is isolated: {isolated}", node.name);
    eventually(&what, async || {
        let alarms = node.status().await.alarms.into_iter();
        let mut own = alarms.filter(|alarm| alarm.node.as_str() == node.name);
        (own.any(|alarm| alarm.code == "isolated") == isolated).then_some(())
    })
    .await;
}

/// What only its own key vouches for: that alpha is revoked, and what alpha says of itself.
async fn forgeries(realms: &Realms, mallory: &SecretKey) -> Vec<(Topic, Vec<u8>)> {
    let (alpha, beta) = (&realms.nodes[0], &realms.nodes[1]);
    let chain = ChainId::Authority;
    let body = Body::RevokeNode(RevokeNode {
        key: alpha.key().public(),
    });
    let bytes = next_entry(beta, chain, mallory, body).await;
    let heads = beta.realm.heads().await;
    let at = realm_model::entry::Head {
        seq: heads.authority.seq + 1,
        hash: realm_model::digest::Digest::of(&bytes),
    };
    let entry = Hint::Entry {
        at: at.of(chain),
        bytes,
    };
    let version = Version {
        epoch: u64::MAX,
        boot: 1,
        counter: 1,
    };
    let mut body = NodeBody::of("alpha".parse().unwrap());
    body.agent = "forged".to_owned();
    let mut record = NodeRecord::sign(heads.realm, mallory, version, body);
    // In alpha's name, with the signature of another.
    let own = *mallory.public().as_bytes();
    let at = record.windows(32).position(|bytes| bytes == own).unwrap();
    record[at..at + 32].copy_from_slice(alpha.key().public().as_bytes());
    vec![
        (Topic::Heads, entry.to_bytes()),
        (Topic::Records, Hint::Record(record).to_bytes()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn case_25_a_node_with_malicious_neighbours_alone_believes_nothing_and_one_honest_link_heals_it()
 {
    let mut realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    realms.add("mallory");
    realms.invite(3);
    realms.approve(3, &[]);
    realms.converge().await;
    let key = realms.nodes[3].key();
    let mut mallory = Caller::node(&key, &realms).await;
    let before = realms.nodes[1].realm.heads().await;
    // Beta starts anew, and nobody is there but mallory; what it does not hear of happened meanwhile.
    realms.nodes[1].kill_9();
    realms.nodes[2].kill_9();
    realms.first().run(&["restart", "hello", "--no-wait"]).ok();
    let newest = realms.first().head().await;
    // Not killed: after that it would be elsewhere, and nobody could say where.
    realms.first().agent().signal("STOP");
    realms.nodes[1].start();
    let beta = &realms.nodes[1];
    mallory.net.dial(&beta.quic_address().await).await.unwrap();
    let to = beta.key().public();
    eventually("mallory is its neighbour", async || {
        let peers = mallory.net.peers();
        peers
            .iter()
            .any(|one| one.peer == to && one.hints)
            .then_some(())
    })
    .await;
    let forged = forgeries(&realms, &key).await;
    let lying = tokio::spawn(async move {
        let mut asked = 0;
        loop {
            for (topic, bytes) in &forged {
                // Twice is once: its network knows what it published.
                let _ = mallory.net.publish(*topic, bytes.clone());
            }
            let event = tokio::time::timeout(Duration::from_millis(100), mallory.events.recv());
            if let Ok(Some(Event::Request { reply, .. })) = event.await {
                asked += 1;
                // Every other question stays without an answer, the rest gets nonsense.
                if asked % 2 == 0 {
                    reply.send(vec![0xfe; 1_000]);
                }
            }
        }
    });
    until_isolated(beta, true).await;
    eventually("it was lied to", async || {
        let page = crate::support::get(&beta.agent().metrics_url).await.1;
        let refused = page.lines().filter(|line| !line.starts_with('#'));
        // Not a question without an answer: what was said, and did not read.
        let lies =
            refused.filter(|line| line.starts_with("realm_sync_refusals_total{code=\"answer-"));
        (lies.count() > 0).then_some(())
    })
    .await;
    // Nothing of it is true there, and it goes on with what it has.
    let heads = beta.realm.heads().await;
    assert_eq!(
        (heads.authority, heads.default),
        (before.authority, before.default)
    );
    let alpha = beta.sees("alpha").await;
    assert!(alpha.key.is_some(), "it is no member any more");
    assert!(alpha.said.is_none_or(|said| said.agent_version != "forged"));
    assert!(!beta.alarms().await.contains(&"forked".to_owned()));
    assert_eq!(beta.get("/hello/").await.0, 200);
    realms.first().agent().signal("CONT");
    realms.converge().await;
    assert_eq!(beta.head().await, newest);
    beta.until_sees("alpha", ReachState::Direct).await;
    until_isolated(beta, false).await;
    lying.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_35_what_is_new_after_a_start_waits_until_others_were_heard_or_were_not_there_for_ten_seconds()
 {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[("app", VERSION_A, "beta")]));
    realms.run_there(&[("app", "beta")]).await;
    realms.converge().await;
    realms.nodes[0].kill_9();
    realms.nodes[1].kill_9();
    let began = Instant::now();
    realms.nodes[1].start();
    let beta = &realms.nodes[1];
    // What ran goes on at once, before anybody was heard.
    eventually("what ran is served", async || {
        (beta.get("/app/").await.1 == "version a\n").then_some(())
    })
    .await;
    let load = Load::start(beta.agent().url("/app/"), 1, |status, body| {
        status == 200 && body.starts_with("version ")
    });
    let alone = began.elapsed();
    beta.realm.guest(VERSION_B, "b.wasm");
    realms
        .as_owner(1, &["push", "app", "b.wasm", "--no-wait"])
        .ok();
    eventually("what is new is served", async || {
        (beta.get("/app/").await.1 == "version b\n").then_some(())
    })
    .await;
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_millis(ALONE_MS),
        "it acted after {waited:?}, and could have heard of something else"
    );
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
    assert!(alone < waited);
}
