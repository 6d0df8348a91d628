//! Realms that fall apart and come together: what one side decides reaches the other once it is
//! reached again; two histories of one chain are proven on every node, and freeze it.

use std::time::{Duration, Instant};

use realm_model::entry::{Body, ChainId, RestartBody};
use realm_model::view::ReachState;
use realm_node::ClientError;
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::lab::Lab;
use crate::realms::{Node, Realms, next_entry, pinned};
use crate::support::eventually;

/// From the mended cable to one state.
const HEALED_MAX: Duration = Duration::from_secs(10);

/// How long a node that hears nobody waits before it acts alone.
const ALONE: Duration = Duration::from_secs(10);

/// Alpha and beta on the left, gamma on the right; each runs something.
async fn two_sides() -> Realms {
    let lab = Lab::new(&["left", "left", "right"]);
    let realms = Realms::in_lab(Some(lab), &["alpha", "beta", "gamma"], "").await;
    realms.apply(&pinned(&[
        ("app", VERSION_A, "gamma"),
        ("hello", HELLO, "beta"),
    ]));
    realms
        .run_there(&[("app", "gamma"), ("hello", "beta")])
        .await;
    realms
}

async fn cut(realms: &Realms) {
    realms.lab.as_ref().unwrap().cut();
    realms.first().until_sees("gamma", ReachState::Lost).await;
    realms.nodes[2].until_sees("alpha", ReachState::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_17_what_one_side_decides_reaches_the_other_within_seconds_of_healing() {
    let realms = two_sides().await;
    cut(&realms).await;
    eventually("gamma says that it is cut off", async || {
        let alarms = realms.nodes[2].alarms().await;
        alarms.contains(&"isolated".to_owned()).then_some(())
    })
    .await;
    let first = realms.first();
    first.realm.guest(VERSION_B, "b.wasm");
    first.run(&["push", "app", "b.wasm", "--no-wait"]).ok();
    // The side that is cut off goes on with what it has.
    assert_eq!(realms.nodes[2].get("/app/").await.1, "version a\n");
    realms.lab.as_ref().unwrap().mend();
    let began = Instant::now();
    let converged = realms.converge().await;
    assert!(converged <= HEALED_MAX, "one state after {converged:?}");
    eventually("the new version is served", async || {
        (realms.nodes[2].get("/app/").await.1 == "version b\n").then_some(())
    })
    .await;
    realms.all_meet().await;
    assert!(
        began.elapsed() <= HEALED_MAX * 2,
        "whole after {:?}",
        began.elapsed()
    );
    eventually("gamma has no alarm any more", async || {
        let alarms = realms.nodes[2].alarms().await;
        alarms.is_empty().then_some(())
    })
    .await;
}

/// Facts §5, case 35: a node that starts while it is cut off, and is told one thing, has half of a view. What ran
/// goes on at once; what is new is carried out when it has been alone for long enough, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn case_35_on_half_of_a_view_nothing_is_started_or_stopped() {
    let mut realms = two_sides().await;
    realms.nodes[2].kill_9();
    realms.lab.as_ref().unwrap().cut();
    let began = Instant::now();
    realms.nodes[2].start();
    let gamma = &realms.nodes[2];
    gamma.realm.guest(VERSION_B, "b.wasm");
    gamma.realm.write(
        "realm.toml",
        "[components.more]\nsource = \"file:b.wasm\"\n\n[routing]\n\
         gamma = [{ path = \"/more/...\", component = \"more\" }]\n",
    );
    realms.as_owner(2, &["apply", "--yes", "--no-wait"]).ok();
    eventually("what is new is there, and what was is gone", async || {
        let (app, more) = (gamma.get("/app/").await.0, gamma.get("/more/").await.0);
        if began.elapsed() < ALONE {
            assert_eq!(app, 200, "it was stopped");
            assert_ne!(more, 200, "it was started");
            return None;
        }
        (app != 200 && more == 200).then_some(())
    })
    .await;
}

/// Facts §5, case 17: what alpha sends to gamma is lost, then all that the left sends to the right.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_a_way_that_carries_one_way_alone_is_none_and_another_is_taken() {
    let realms = two_sides().await;
    let (lab, first, gamma) = (
        realms.lab.as_ref().unwrap(),
        realms.first(),
        &realms.nodes[2],
    );
    lab.lose(0, 2);
    first.until_sees("gamma", ReachState::Indirect).await;
    gamma.until_sees("alpha", ReachState::Indirect).await;
    assert_eq!(first.sees("beta").await.reach.state, ReachState::Direct);
    // Through beta, both ways.
    for at in [0, 2] {
        let before = first.head().await;
        realms.as_owner(at, &["restart", "app", "--no-wait"]).ok();
        let took = realms.converge().await;
        assert!(took <= HEALED_MAX, "one state after {took:?}");
        assert_eq!(first.head().await.seq, before.seq + 1);
    }
    assert!(first.alarms().await.is_empty());

    lab.lose_to_the_right();
    first.until_sees("gamma", ReachState::Lost).await;
    gamma.until_sees("alpha", ReachState::Lost).await;
    gamma.until_sees("beta", ReachState::Lost).await;
    // Nothing of what either side decides gets through, not even what could be sent.
    first.run(&["restart", "hello", "--no-wait"]).ok();
    assert_eq!(gamma.get("/app/").await.1, "version a\n");
    assert!(gamma.head().await.seq < first.head().await.seq);

    let lost = lab.lose_nothing();
    assert_eq!(lost.matches("packets 0 ").count(), 0, "{lost}");
    let began = Instant::now();
    let converged = realms.converge().await;
    assert!(converged <= HEALED_MAX, "one state after {converged:?}");
    realms.all_meet().await;
    let whole = began.elapsed();
    assert!(whole <= HEALED_MAX * 2, "whole after {whole:?}");
    eventually("nobody has an alarm", async || {
        for node in realms.running() {
            if !node.alarms().await.is_empty() {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn restart_of(realms: &Realms, node: &Node, component: &str) -> Vec<u8> {
    let body = Body::Restart(RestartBody {
        component: component.parse().unwrap(),
        nodes: Vec::new(),
    });
    next_entry(node, ChainId::DEFAULT, &realms.first().realm.owner(), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_10_an_owner_who_signs_two_histories_freezes_the_chain_on_every_node() {
    let realms = two_sides().await;
    cut(&realms).await;
    let submit = async |node: &Node, entry: Vec<u8>| {
        node.realm.client().submit(ChainId::DEFAULT, entry).await
    };
    let left = restart_of(&realms, realms.first(), "hello").await;
    let right = restart_of(&realms, &realms.nodes[2], "app").await;
    submit(realms.first(), left).await.unwrap();
    submit(&realms.nodes[2], right).await.unwrap();
    realms.lab.as_ref().unwrap().mend();
    let began = Instant::now();
    for node in realms.running() {
        let what = format!("{} shows the fork", node.name);
        eventually(&what, async || {
            node.alarms()
                .await
                .contains(&"forked".to_owned())
                .then_some(())
        })
        .await;
    }
    // Contact, and a round of anti-entropy.
    assert!(began.elapsed() <= HEALED_MAX * 2, "{:?}", began.elapsed());
    for node in realms.running() {
        let next = restart_of(&realms, node, "app").await;
        let error = submit(node, next).await.unwrap_err();
        let ClientError::Refused(refused) = &error else {
            panic!("{}: {error}", node.name);
        };
        assert_eq!(refused.code, "frozen", "{}", node.name);
    }
    assert_eq!(
        realms.nodes[2].get("/app/").await,
        (200, "version a\n".to_owned())
    );
    assert_eq!(realms.nodes[1].get("/hello/").await.0, 200);
    // The other chain goes on.
    realms.first().run(&["nodes", "cordon", "beta"]).ok();
    eventually("the other side hears of it", async || {
        realms.nodes[2].sees("beta").await.cordoned.then_some(())
    })
    .await;
}
