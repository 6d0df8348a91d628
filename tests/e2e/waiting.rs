//! A machine that waits for an owner: who calls on it offers it a realm, and it goes only where the
//! owner that it was told of signed.

use crate::realms::{Node, Realms};
use crate::support::{AGENT, Running, eventually};

/// Starts an agent that waits for this owner; it says where it is met.
fn waits_for(node: &Node, owner: &str) -> (Running, String) {
    let for_owner = ["--wait-for-owner", "--name", node.name, "--owner", owner];
    let running = Running::start(node.command(&[&AGENT[..], &for_owner].concat()));
    let address = running.stderr.after("nodes meet it on ");
    (running, address.trim().to_owned())
}

/// Calls on the machine, and approves it by its words once it asks.
async fn takes(realms: &Realms, address: &str, words: &str) {
    let first = realms.first();
    let offered = first.run(&["peer", "add", address]).ok().stdout;
    assert!(offered.contains("it asks to join"), "{offered}");
    assert!(offered.contains(words), "{offered}");
    eventually("it asks", async || {
        let listed = first.run(&["nodes", "ls"]).ok().stdout;
        listed.contains(words).then_some(())
    })
    .await;
    first.run(&["nodes", "approve", words, "--yes"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_waits_for_an_owner_goes_to_no_other_who_approves_it() {
    let mut realms = Realms::meet(&["alpha"]).await;
    let others = Realms::meet(&["mallory"]).await;
    realms.add("beta");
    let owner = realms.first().realm.owner().public().to_string();
    let (beta, address) = waits_for(&realms.nodes[1], &owner);
    let words = realms.nodes[1].key().public().words().join(" ");
    takes(&others, &address, &words).await;
    beta.stderr
        .after("the realm's owners are not the one that this machine waits for");
    // It waits on, and is taken by the right one.
    takes(&realms, &address, &words).await;
    realms.nodes[1].runs(beta);
    realms.all_meet().await;
    let status = realms.nodes[1].status().await;
    assert_eq!(status.owners, [realms.first().realm.owner().public()]);
}
