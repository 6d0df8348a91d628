//! Case 16: machines whose clocks are a day off, jump, or begin in 1970 with a dead battery. Nothing is
//! ordered by a clock, nobody is lost for one, and what a clock does end says that it was the clock.
//! Real agents, to each of which `faketime` tells the time.

use std::time::{Duration, Instant};

use realm_model::view::{AlarmView, ReachState};
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::realms::{Node, Realms, pinned};
use crate::support::eventually;

/// Longer than a silent node is still taken for a living one.
const MISSED: Duration = Duration::from_secs(9);

/// Agents whose clocks say this; the first one's is right.
async fn clocks(others: &[(&'static str, &str)]) -> Realms {
    let mut realms = Realms::meet(&["alpha"]).await;
    for (at, (name, time)) in (1..).zip(others) {
        realms.add(name);
        realms.nodes[at].on_own_clock(time);
        realms.invite(at);
        realms.approve(at, &[]);
        realms.nodes[at].start();
    }
    realms
}

/// Applies on a node's machine, as whoever sits there.
fn apply_at(realms: &Realms, at: usize, manifest: &str) {
    realms.nodes[at].realm.write("realm.toml", manifest);
    realms.as_owner(at, &["apply", "--yes"]).ok();
}

/// Nobody takes anybody for lost for a while, and what runs is served everywhere.
async fn nobody_is_missed(realms: &Realms) {
    let until = Instant::now() + MISSED;
    while Instant::now() < until {
        for node in realms.running() {
            for other in node.status().await.nodes {
                let reached = [ReachState::Here, ReachState::Direct];
                let state = other.reach.state;
                assert!(reached.contains(&state), "{} at {}", other.name, node.name);
            }
            assert_eq!(node.get("/hello/").await.0, 200, "{}", node.name);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_16_clocks_a_day_off_that_jump_order_nothing_and_lose_nobody() {
    let realms = clocks(&[("beta", "+1d"), ("gamma", "-1d")]).await;
    realms.all_meet().await;
    // Each next one is signed on a machine whose clock is behind that of the one before.
    let mut before = realms.first().head().await;
    for (at, guest) in [(1, VERSION_A), (0, VERSION_B), (2, VERSION_A)] {
        apply_at(
            &realms,
            at,
            &pinned(&[("hello", HELLO, "beta"), ("app", guest, "gamma")]),
        );
        realms.converge().await;
        let now = realms.first().head().await;
        assert_eq!(now.seq, before.seq + 1);
        before = now;
    }
    realms
        .run_there(&[("hello", "beta"), ("app", "gamma")])
        .await;
    for jump in ["-1d", "@1970-01-02 00:00:00", "+2d"] {
        realms.nodes[1].set_clock(jump);
        nobody_is_missed(&realms).await;
        realms.as_owner(1, &["restart", "hello"]).ok();
        realms.converge().await;
    }
    let alarms = realms.first().alarms().await;
    assert!(alarms.is_empty(), "{alarms:?}");
}

/// Certificates of QUIC begin in 1975: who is before it is reached over TCP, and works.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_a_node_that_starts_in_1970_is_reached_over_tcp() {
    let mut realms = clocks(&[("beta", "@1970-01-01 00:00:30")]).await;
    realms.all_meet().await;
    for (node, other) in [(0, "beta"), (1, "alpha")] {
        let how = realms.nodes[node].sees(other).await.reach.how;
        assert_eq!(how.as_deref(), Some("tcp"), "{other}");
    }
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    apply_at(
        &realms,
        1,
        &pinned(&[("hello", HELLO, "beta"), ("app", VERSION_A, "alpha")]),
    );
    realms
        .run_there(&[("hello", "beta"), ("app", "alpha")])
        .await;
    realms.converge().await;
    // Once it has the time, it comes back over QUIC.
    realms.nodes[1].set_clock("+0");
    realms.nodes[1].kill_9();
    realms.nodes[1].start();
    realms.all_meet().await;
    eventually("it is reached over QUIC", async || {
        let how = realms.first().sees("beta").await.reach.how;
        (how.as_deref() == Some("quic")).then_some(())
    })
    .await;
}

/// What a node says of the end of its own approval.
async fn expired(node: &Node) -> Vec<AlarmView> {
    let mut alarms = node.status().await.alarms;
    alarms.retain(|alarm| alarm.code == "approval-expired");
    alarms
}

/// What ends by a clock has ten minutes to spare, says that it was the clock, and stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_an_approval_that_ends_by_a_wrong_clock_says_so_and_mends_with_it() {
    let mut realms = clocks(&[("beta", "+0")]).await;
    realms.all_meet().await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    let key = realms.nodes[1].key().public().to_string();
    let expires = ["nodes", "approve", &key, "--name", "beta", "--yes"];
    let expires = [&expires[..], &["--expires", "2h"]].concat();
    realms.first().run(&expires).ok();
    realms.converge().await;
    // Nine minutes past the end are within the tolerance.
    realms.nodes[1].set_clock("+129m");
    realms.nodes[1].kill_9();
    realms.nodes[1].start();
    realms.all_meet().await;
    apply_at(
        &realms,
        0,
        &pinned(&[("hello", HELLO, "beta"), ("app", VERSION_A, "beta")]),
    );
    realms
        .run_there(&[("hello", "beta"), ("app", "beta")])
        .await;
    let beta = &realms.nodes[1];
    assert_eq!(expired(beta).await, []);
    // A day past it is over, there: the other nodes know better, and what runs goes on.
    realms.nodes[1].set_clock("+1d");
    let over = eventually("it takes its approval for over", async || {
        expired(beta).await.into_iter().next()
    })
    .await;
    assert!(
        over.message.contains("by the clock of this machine"),
        "{over:?}"
    );
    assert!(over.hint.contains("clock"), "{over:?}");
    assert_eq!(realms.nodes[1].get("/hello/").await.0, 200);
    assert_eq!(
        realms.first().sees("beta").await.reach.state,
        ReachState::Direct
    );
    realms.nodes[1].set_clock("+0");
    eventually("the clock is right again", async || {
        expired(beta).await.is_empty().then_some(())
    })
    .await;
    realms.all_meet().await;
    assert_eq!(realms.nodes[1].healthy().await, ["app", "hello"]);
}
