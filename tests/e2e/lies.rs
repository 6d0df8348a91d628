//! What nodes say of themselves, and is not so: records at the edge of every number, lies about
//! others, one key on two machines. Nobody falls over, and nobody else's state changes.

use std::process::Command;

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head};
use realm_model::record::{
    Alarm, CLONED_KEY, ChainFork, ComponentSummary, KeyBytes, Load, NodeBody, NodeRecord, PeerLink,
    ReachedBy, Version,
};
use realm_model::sync::Hint;
use realm_model::view::ReachState;
use realm_net::{Topic, Transport as _};
use realm_test_guests::HELLO;

use crate::guest_net::Caller;
use crate::realms::{Realms, pinned};
use crate::support::{eventually, said};

/// Everything as large, as many and as false as a record can say it.
fn lies(realms: &Realms) -> NodeBody {
    let beta = KeyBytes::from(realms.nodes[1].key().public());
    let nowhere = Head {
        seq: u64::MAX,
        hash: Digest::of(b"nowhere"),
    };
    let mut body = NodeBody::of("mallory".parse().unwrap());
    body.wire = u32::MAX;
    body.machine.cpus = u32::MAX;
    body.machine.memory_mb = u64::MAX;
    body.tags = vec!["\u{1b}[2J".to_owned(), String::new()];
    body.addresses = vec!["/ip4/10.99.99.99/udp/1/quic-v1".to_owned(), "\0".to_owned()];
    body.heads = vec![nowhere.of(ChainId::Authority), nowhere.of(ChainId::DEFAULT)];
    body.forks = [ChainId::Authority, ChainId::DEFAULT]
        .map(|chain| ChainFork {
            chain,
            proof: Digest::of(b"no proof"),
        })
        .to_vec();
    let link = PeerLink {
        key: beta,
        how: ReachedBy::Relay,
        rtt_ms: u32::MAX,
        why: "because".to_owned(),
    };
    body.peers = vec![link.clone(), link];
    body.components = vec![ComponentSummary {
        serving: None,
        seats: None,
        failed: None,
        name: "hello".to_owned(),
        namespace: "default".to_owned(),
        wanted: u32::MAX,
        healthy: u32::MAX,
        state: "on fire".to_owned(),
        code: "\r\n".to_owned(),
        reason: "x".repeat(200),
        digest: None,
    }];
    body.load = Load {
        cpu_percent: u32::MAX,
        memory_mb: u64::MAX,
        instances: u32::MAX,
    };
    body.alarms = vec![Alarm {
        code: "made-up".to_owned(),
        about: "beta is dead".to_owned(),
    }];
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn case_30_a_record_at_the_edge_of_all_numbers_stops_nobody() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    realms.add("mallory");
    realms.invite(2);
    realms.approve(2, &[]);
    realms.converge().await;
    let key = realms.nodes[2].key();
    let mallory = Caller::node(&key, &realms).await;
    mallory.net.dial(&mallory.address).await.unwrap();
    let realm = realms.first().status().await.realm;
    let body = lies(&realms);
    let mut counter = 0;
    // Said again until it is heard: the first may find no subscriber.
    eventually("the record is taken", async || {
        let version = Version {
            epoch: u64::MAX,
            boot: u64::MAX,
            counter,
        };
        counter += 1;
        let record = NodeRecord::sign(realm, &key, version, body.clone());
        let _ = mallory
            .net
            .publish(Topic::Records, Hint::Record(record).to_bytes());
        let seen = realms.first().sees("mallory").await;
        seen.said
            .is_some_and(|said| said.cpus == u32::MAX)
            .then_some(())
    })
    .await;
    let last = Version {
        epoch: u64::MAX,
        boot: u64::MAX,
        counter: u64::MAX,
    };
    let record = NodeRecord::sign(realm, &key, last, body);
    mallory
        .net
        .publish(Topic::Records, Hint::Record(record).to_bytes())
        .unwrap();
    // Of beta its own word counts, and the forks want proof.
    for node in realms.running() {
        let text = node.run(&["status"]).ok().stdout;
        assert!(!text.contains('\u{1b}'), "{text:?}");
        node.run(&["nodes", "ls"]).ok();
    }
    assert_eq!(
        realms.first().sees("beta").await.reach.state,
        ReachState::Direct
    );
    assert!(!realms.first().alarms().await.contains(&"forked".to_owned()));
    let heads = realms.first().realm.heads().await;
    assert!(
        heads.authority.seq < 10 && heads.default.seq < 10,
        "{heads:?}"
    );
    // Nor does it come back as poison when an agent starts again.
    realms.nodes[0].kill_9();
    realms.nodes[0].start();
    realms.nodes[0].until_sees("beta", ReachState::Direct).await;
    realms.first().run(&["restart", "hello", "--no-wait"]).ok();
    realms.converge().await;
    assert_eq!(realms.nodes[1].get("/hello/").await.0, 200);
    realms
        .first()
        .run(&["nodes", "revoke", "mallory", "--yes"])
        .ok();
    realms.all_meet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_15_one_key_on_two_machines_is_told_and_neither_throws_the_other_out() {
    let mut realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.nodes[1].take().terminate();
    realms.add("clone");
    let mut copy = Command::new("cp");
    copy.arg("-a")
        .arg(realms.nodes[1].realm.path(".realm"))
        .arg(realms.nodes[3].realm.path(".realm"));
    said(copy).ok();
    realms.nodes[1].start();
    realms.nodes[3].start();
    for at in [0, 2] {
        let node = &realms.nodes[at];
        let what = format!("{} shows the cloned key", node.name);
        eventually(&what, async || {
            node.alarms()
                .await
                .contains(&CLONED_KEY.to_owned())
                .then_some(())
        })
        .await;
    }
    let told = realms.first().run(&["status"]).ok().stdout;
    assert!(told.contains("revoke"), "{told}");
    // The realm goes on, and the alarm ends with one of the two.
    realms.first().run(&["nodes", "cordon", "gamma"]).ok();
    realms.nodes[3].kill_9();
    realms.converge().await;
}
