//! Nodes that nobody can call upon: behind routers that hide them, reached through a node in the
//! middle or by both calling at once; and neighbours who find each other without any address.

use std::time::{Duration, Instant};

use realm_model::view::ReachView;
use realm_test_guests::CHATTY;

use crate::lab::Lab;
use crate::realms::{Node, Realms, pinned};
use crate::support::eventually;

/// A dead node is noticed within 7 s.
const MISSED_MAX: Duration = Duration::from_secs(10);

const NAMES: [&str; 3] = ["middle", "left", "right"];

/// One node that all can reach, and two behind routers that choose ports like this.
async fn behind_routers(ports: &str) -> Realms {
    let lab = Lab::internet(&["open", ports, ports]);
    let realms = Realms::apart(Some(lab), &NAMES, "").await;
    realms.apply(&pinned(&[("chatty", CHATTY, "right")]));
    realms.run_there(&[("chatty", "right")]).await;
    realms
}

/// Waits until a node reaches another like this.
async fn reaches(node: &Node, other: &str, how: &str) -> ReachView {
    let what = format!("{} reaches {other} by {how}", node.name);
    eventually(&what, async || {
        // It may not even have heard of it.
        let nodes = node.status().await.nodes.into_iter();
        let seen = nodes.filter(|node| node.name.as_str() == other);
        let mut reached = seen.map(|node| node.reach);
        reached.find(|reach| reach.how.as_deref() == Some(how))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_routers_that_mix_ports_reach_each_other_through_a_relay() {
    let realms = behind_routers("fully-random").await;
    let [_, left, right] = &realms.nodes[..] else {
        panic!("three nodes");
    };
    for node in [left, right] {
        node.agent().after("this node is behind a NAT");
    }
    for (node, other) in [(left, "right"), (right, "left")] {
        reaches(node, other, "relay").await;
    }
    eventually(
        "it says how it is reached, and why not directly",
        async || {
            let told = left.run(&["status"]).ok().stdout;
            told.contains("relay (quic: ").then_some(())
        },
    )
    .await;
    // A stream through the relay: a verb of one, carried out on the other.
    right.get("/chatty/lines?n=2").await;
    eventually("the lines come through the relay", async || {
        let logs = realms.as_owner(1, &["--node", "right", "logs", "chatty"]);
        logs.stdout.contains("line 1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_14_where_the_relay_is_revoked_another_node_relays() {
    let hidden = "fully-random";
    let lab = Lab::internet(&["open", hidden, hidden, "open"]);
    let names = ["middle", "left", "right", "other"];
    let mut realms = Realms::apart(Some(lab), &names, "").await;
    realms.apply(&pinned(&[("chatty", CHATTY, "right")]));
    realms.run_there(&[("chatty", "right")]).await;
    for (at, other) in [(1, "right"), (2, "left")] {
        reaches(&realms.nodes[at], other, "relay").await;
    }
    // The one that both joined through, and that relays for them.
    realms
        .as_owner(3, &["nodes", "revoke", "middle", "--yes"])
        .ok();
    realms.nodes[0].agent().after("revoked");
    realms.nodes[0].kill_9();
    let killed = Instant::now();
    for (at, other) in [(1, "right"), (2, "left")] {
        let node = &realms.nodes[at];
        let what = format!("{} reaches {other} through another node", node.name);
        eventually(&what, async || {
            // What went through the dead one would have been missed by now.
            let missed = killed.elapsed() > MISSED_MAX;
            let relayed = node.sees(other).await.reach.how.as_deref() == Some("relay");
            (missed && relayed).then_some(())
        })
        .await;
        let nodes = node.status().await.nodes;
        assert!(nodes.iter().all(|node| node.name.as_str() != "middle"));
    }
    realms.nodes[2].get("/chatty/lines?n=2").await;
    eventually("the lines come through the other relay", async || {
        let logs = realms.as_owner(1, &["--node", "right", "logs", "chatty"]);
        logs.stdout.contains("line 1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_routers_that_keep_ports_punch_a_hole() {
    let realms = behind_routers(" ").await;
    let [_, left, right] = &realms.nodes[..] else {
        panic!("three nodes");
    };
    for (node, other, from) in [(left, "right", "45.0.0.3"), (right, "left", "45.0.0.2")] {
        let reach = reaches(node, other, "quic").await;
        let address = reach.address.unwrap_or_default();
        assert!(address.contains(from), "{address}");
    }
    realms.all_meet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_without_an_address_find_each_other_by_multicast() {
    let lab = Lab::new(&["left", "left", "right"]);
    let mut realms = Realms::in_lab(Some(lab), &NAMES, "").await;
    for node in &mut realms.nodes {
        node.kill_9();
        std::fs::remove_file(node.realm.path(".realm/peers.json")).unwrap();
    }
    for node in &mut realms.nodes {
        node.start();
    }
    realms.all_meet().await;
}
