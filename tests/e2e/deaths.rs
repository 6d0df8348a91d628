//! Nodes that die, stop, come back or are set back: how soon the others notice, how soon a node is
//! in place again, and that nobody else is disturbed.

use std::time::{Duration, Instant};

use realm_model::view::ReachState;
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::lab::Lab;
use crate::realms::{Realms, pinned};
use crate::support::eventually;

/// Silence is noticed after 6 s, and is told once by each who notices.
const NOTICED_MAX: Duration = Duration::from_secs(10);
/// A node that starts again with its key, from its first instruction to all of its connections.
const MESHED_MAX: Duration = Duration::from_secs(20);

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

fn manifest() -> String {
    pinned(&[
        ("hello", HELLO, "alpha"),
        ("app", VERSION_A, "beta"),
        ("third", HELLO, "gamma"),
    ])
}

const PLACES: [(&str, &str); 3] = [("hello", "alpha"), ("app", "beta"), ("third", "gamma")];

/// In a lab: the address stays the same, and nothing tells the others that a process is gone.
async fn three() -> Realms {
    let lab = Lab::new(&["left", "left", "right"]);
    let realms = Realms::in_lab(Some(lab), &NAMES, "").await;
    realms.apply(&manifest());
    realms.run_there(&PLACES).await;
    realms
}

#[tokio::test(flavor = "multi_thread")]
async fn case_19_a_node_that_is_killed_is_missed_and_back_in_place_within_seconds() {
    let mut realms = three().await;
    for pause in [true, false] {
        realms.nodes[1].kill_9();
        if pause {
            let began = Instant::now();
            for at in [0, 2] {
                realms.nodes[at].until_sees("beta", ReachState::Lost).await;
            }
            let noticed = began.elapsed();
            assert!(noticed <= NOTICED_MAX, "noticed after {noticed:?}");
            assert_eq!(realms.nodes[2].get("/third/").await.0, 200);
        }
        // Without a pause the others still take the dead connection for a living one.
        let began = Instant::now();
        realms.nodes[1].start();
        realms.all_meet().await;
        let meshed = began.elapsed();
        assert!(
            meshed <= MESHED_MAX,
            "meshed after {meshed:?}, pause: {pause}"
        );
        realms.run_there(&PLACES).await;
        assert_eq!(realms.nodes[1].get("/app/").await.1, "version a\n");
        // News flows from it and to it.
        for at in [1, 0] {
            let entry = ["restart", "hello", "--no-wait"];
            realms.as_owner(at, &entry).ok();
            let took = realms.converge().await;
            assert!(took <= NOTICED_MAX, "converged after {took:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_29_an_agent_that_stood_still_is_missed_and_catches_up() {
    let realms = three().await;
    let beta = realms.nodes[1].agent();
    beta.signal("STOP");
    let began = Instant::now();
    realms.nodes[0].until_sees("beta", ReachState::Lost).await;
    assert!(began.elapsed() <= NOTICED_MAX, "{:?}", began.elapsed());
    realms.first().realm.guest(VERSION_B, "b.wasm");
    realms
        .first()
        .run(&["push", "app", "b.wasm", "--no-wait"])
        .ok();
    // What the others run is not moved, stopped or started meanwhile.
    assert_eq!(realms.first().healthy().await, ["hello"]);
    assert_eq!(realms.nodes[2].healthy().await, ["third"]);
    beta.signal("CONT");
    let began = Instant::now();
    realms.all_meet().await;
    assert!(began.elapsed() <= MESHED_MAX, "{:?}", began.elapsed());
    eventually("beta serves what was pushed meanwhile", async || {
        (realms.nodes[1].get("/app/").await.1 == "version b\n").then_some(())
    })
    .await;
    realms.run_there(&PLACES).await;
    assert!(realms.first().alarms().await.is_empty());
}
