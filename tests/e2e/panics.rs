//! The network of an agent panics, again and again: what is served goes on being served, the owner is
//! answered at the node, and once it stops the node is one of the realm again, in the same process.

use realm_model::view::ReachState;
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::realms::{Node, Realms, pinned};
use crate::support::{Load, Running, eventually, figure, get};

async fn restarts(node: &Node) -> f64 {
    let page = get(&node.agent().metrics_url).await.1;
    figure(&page, "realm_p2p_events_total{event=\"restarts\"}")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_while_the_network_dies_and_is_started_anew() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[
        ("hello", HELLO, "alpha"),
        ("app", VERSION_A, "beta"),
    ]));
    let places = [("hello", "alpha"), ("app", "beta")];
    realms.run_there(&places).await;
    // Only builds with debug assertions know the variable: `realm_net::planted`.
    realms.nodes[1].take().terminate();
    let file = realms.nodes[1].realm.path("panic");
    let mut command = realms.nodes[1].agent_command();
    command.env("REALM_PLANT_NETWORK_PANIC", &file);
    realms.nodes[1].runs(Running::start(command));
    realms.all_meet().await;
    realms.run_there(&places).await;
    let beta = &realms.nodes[1];
    assert_eq!(restarts(beta).await, 0.0);
    let load = Load::start(beta.agent().url("/app/"), 2, |status, body| {
        status == 200 && body.starts_with("version ")
    });
    load.more(50).await;

    std::fs::write(&file, "").unwrap();
    beta.agent().after("the network panicked");
    eventually("it dies again and again", async || {
        (restarts(beta).await >= 3.0).then_some(())
    })
    .await;
    realms.first().until_sees("beta", ReachState::Lost).await;
    load.more(50).await;
    // Decided at the node itself, and carried out there.
    beta.realm.guest(VERSION_B, "b.wasm");
    realms.as_owner(1, &["push", "app", "b.wasm"]).ok();
    eventually("what was pushed is served", async || {
        (beta.get("/app/").await.1 == "version b\n").then_some(())
    })
    .await;
    let head = beta.head().await;
    assert!(realms.first().head().await.seq < head.seq);

    std::fs::remove_file(&file).unwrap();
    realms.all_meet().await;
    realms.converge().await;
    assert_eq!(realms.first().head().await, head);
    load.more(50).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
    realms.run_there(&places).await;
}
