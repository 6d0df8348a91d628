//! SIGINT and SIGTERM at every moment of an agent's life.

use realm_test_guests::PARK;

use crate::support::{AGENT, Realm, Running, get, on_free_ports};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_wait_for_requests() {
    let realm = Realm::new();
    realm.app(PARK, "wall_timeout_ms = 600_000");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let url = agent.url("/?ms=600000");
    let parked = tokio::spawn(async move { reqwest::get(&url).await });
    agent.in_flight().await;
    // The grace is 30 s: ending sooner is the second signal's work.
    let started = std::time::Instant::now();
    agent.signal("INT");
    let ended = tokio::task::block_in_place(|| {
        agent.lines().after("stopping: ");
        agent.signal("INT");
        agent.lines().after("stopped at once");
        agent.ended()
    });
    assert!(ended.success(), "{ended}");
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    assert!(parked.await.unwrap().is_err(), "the request was cut");
}

#[test]
fn a_signal_right_after_the_start_is_a_clean_end() {
    for name in ["TERM", "INT"] {
        let realm = Realm::new();
        let agent = Running::start(realm.command(&AGENT));
        agent.stderr.after("answering on ");
        agent.signal(name);
        agent.stderr.after("stopped");
        let ended = agent.ended();
        assert!(ended.success(), "{name}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_up_waits_is_a_clean_end() {
    let realm = Realm::empty();
    realm.app(
        realm_test_guests::SLOW_START,
        "health = \"/\"\nenv = { BURN_MS = \"600000\" }\nepoch_timeout_ms = 600_000\nwall_timeout_ms = 600_000",
    );
    let up = Running::start(realm.command(&on_free_ports("up")));
    up.stderr.after("version 1 is signed and in force");
    let ended = up.interrupt();
    assert!(ended.success(), "{ended}");
    // What was applied stays in force.
    let agent = realm.agent();
    assert_eq!(realm.heads().await.version, 1);
    // A verb that waits is interrupted, and says so; the agent goes on.
    let wait = Running::start(realm.command(&["restart", "app"]));
    wait.stderr.after("restart of `app` is entry");
    wait.signal("INT");
    wait.stderr.after("error[interrupted]");
    assert_eq!(wait.ended().code(), Some(130));
    assert_eq!(get(&agent.url("/")).await.0, 503, "it still starts");
}
