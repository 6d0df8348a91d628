//! Who belongs to the realm, and who does not any longer: strangers, crowds of them, nodes that are
//! revoked, whose approval ended, or that are to run nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use realm_model::entry::{ApproveUntil, Body};
use realm_model::join::{Answer, Ask, JoinCode, Request};
use realm_model::key::SecretKey;
use realm_model::view::ReachState;
use realm_net::{Error, Protocol, Topic, Transport as _};
use realm_test_guests::HELLO;

use crate::guest_net::{Caller, ask};
use crate::realms::{Realms, decree, pinned};
use crate::support::eventually;

/// From the entry to the last connection.
const CUT_OFF_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn case_12_an_unapproved_node_reaches_the_join_protocol_and_nothing_else() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    let before = realms.first().status().await;
    let alpha = realms.first().key().public();
    let mut stranger = Caller::node(&SecretKey::from_seed(&[21; 32]), &realms).await;
    stranger.net.dial(&stranger.address).await.unwrap();
    for protocol in [
        Protocol::Api,
        Protocol::Via,
        Protocol::Blob,
        Protocol::Tunnel,
    ] {
        let opened = stranger.net.open(alpha, protocol).await;
        assert!(opened.is_err(), "{protocol:?}");
    }
    for body in [&b"heads"[..], &[1, 0]] {
        let asked = stranger.net.request(alpha, body.to_vec()).await;
        assert!(matches!(asked, Err(Error::Unsupported)), "{asked:?}");
    }
    stranger
        .net
        .publish(Topic::Heads, b"hear me".to_vec())
        .unwrap();
    stranger
        .net
        .publish(Topic::Records, b"hear me".to_vec())
        .unwrap();
    // An entry means that the realm says something to its members.
    realms.first().run(&["nodes", "cordon", "beta"]).ok();
    realms.converge().await;
    let answer = ask(&stranger, alpha, &an_ask("stranger")).await;
    assert!(matches!(answer, Answer::Pending(_)), "{answer:?}");
    while let Ok(event) = stranger.events.try_recv() {
        let heard = matches!(
            event,
            realm_net::Event::Hint(_) | realm_net::Event::Request { .. }
        );
        assert!(!heard, "a stranger heard {event:?}");
    }
    let after = realms.first().status().await;
    assert_eq!(after.refusals, before.refusals);
    assert_eq!(after.nodes.len(), 2);
    // A record is signed some moments after what it tells of: beta was not met at first.
    eventually("nothing is the matter", async || {
        let alarms = realms.first().status().await.alarms;
        alarms.is_empty().then_some(())
    })
    .await;
}

fn an_ask(name: &str) -> Request {
    Request::Ask(Ask {
        realm: None,
        name: name.parse().unwrap(),
        tags: Vec::new(),
        addresses: Vec::new(),
        agent: "test".to_owned(),
        proof: None,
        from: 0,
    })
}

/// Each with a key, a connection and a handshake of its own.
const CROWD: u8 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn case_13_a_crowd_of_strangers_leaves_the_owners_list_usable() {
    let mut realms = Realms::meet(&["alpha"]).await;
    realms.add("honest");
    realms.invite(1);
    let alpha = realms.first().key().public();
    let (address, realm) = (realms.first().quic_address().await, realms.realm_id());
    let began = Instant::now();
    let crowd: Vec<_> = (0..8_u8)
        .map(|lane| {
            let (address, realm) = (address.clone(), realm.clone());
            tokio::spawn(async move {
                let mut refused = 0_u32;
                for number in (lane..CROWD).step_by(8) {
                    let mut seed = [77; 32];
                    seed[0] = number;
                    let caller = Caller::at(&SecretKey::from_seed(&seed), &realm, &address);
                    let listed = match caller.net.dial(&address).await {
                        Ok(_) => matches!(
                            ask(&caller, alpha, &an_ask(&format!("crowd-{number}"))).await,
                            Answer::Pending(_)
                        ),
                        Err(_) => false,
                    };
                    refused += u32::from(!listed);
                    caller.net.stop().await;
                }
                refused
            })
        })
        .collect();
    // Meanwhile the agent answers its owner.
    let mut slowest = Duration::ZERO;
    let mut refused = 0;
    for lane in crowd {
        let asked = Instant::now();
        realms.first().status().await;
        slowest = slowest.max(asked.elapsed());
        refused += lane.await.unwrap();
    }
    assert!(
        refused > 0,
        "{CROWD} strangers in {:?}, and none was put off",
        began.elapsed()
    );
    assert!(
        slowest < Duration::from_secs(2),
        "a status took {slowest:?}"
    );
    let listed = realms.first().status().await.pending;
    assert!(listed.len() <= 64, "{} are listed", listed.len());
    // Whoever is expected can be approved, listed or not, and is let in at once.
    realms.approve(1, &[]);
    realms.nodes[1].start();
    realms.all_meet().await;
    let text = realms.first().run(&["nodes", "ls"]).ok().stdout;
    assert!(text.lines().count() <= 64 + 8, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_14_a_revoked_node_is_cut_off_by_all_and_cannot_come_back() {
    let mut realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.apply(&pinned(&[("hello", HELLO, "gamma")]));
    realms.run_there(&[("hello", "gamma")]).await;
    // Not on the node that has the entry first.
    realms
        .first()
        .run(&["nodes", "revoke", "gamma", "--yes"])
        .ok();
    let began = Instant::now();
    for at in [0, 1] {
        let node = &realms.nodes[at];
        let what = format!("{} cuts gamma off", node.name);
        let gamma = realms.nodes[2].key().public();
        eventually(&what, async || {
            let page = crate::support::get(&node.agent().metrics_url).await.1;
            let links = crate::support::figure(&page, "realm_p2p_links");
            let known = node
                .status()
                .await
                .nodes
                .iter()
                .any(|one| one.key == Some(gamma));
            (links == 1.0 && !known).then_some(())
        })
        .await;
    }
    assert!(began.elapsed() <= CUT_OFF_MAX, "{:?}", began.elapsed());
    // Its agent hears why, and says so.
    let gamma = realms.nodes[2].take();
    gamma.after("revoked");
    gamma.kill_9();
    // With the same key it is a stranger, and not even that.
    let key = realms.nodes[2].key();
    let caller = Caller::node(&key, &realms).await;
    caller.net.dial(&caller.address).await.unwrap();
    let alpha = realms.first().key().public();
    let Answer::Refused(refused) = ask(&caller, alpha, &an_ask("gamma")).await else {
        panic!("a revoked key is listed");
    };
    assert_eq!(refused.code, JoinCode::Revoked);
    assert!(caller.net.open(alpha, Protocol::Api).await.is_err());
    assert!(realms.first().status().await.pending.is_empty());
    realms.nodes[2].start();
    assert_eq!(realms.nodes[2].alarms().await, ["revoked"]);
    assert!(realms.nodes[2].healthy().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn case_14_a_node_that_was_revoked_while_it_was_off_learns_it_at_first_contact() {
    let mut realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.apply(&pinned(&[("hello", HELLO, "gamma")]));
    realms.run_there(&[("hello", "gamma")]).await;
    realms.nodes[2].kill_9();
    // More than the one entry: what follows does not concern it, and what precedes is needed.
    realms.first().run(&["nodes", "cordon", "beta"]).ok();
    realms
        .first()
        .run(&["nodes", "revoke", "gamma", "--yes"])
        .ok();
    let revoked = realms.first().realm.heads().await.authority;
    realms.first().run(&["nodes", "uncordon", "beta"]).ok();
    realms.nodes[2].start();
    let began = Instant::now();
    let gamma = &realms.nodes[2];
    eventually("gamma says that it was revoked, and stops", async || {
        let alarms = gamma.alarms().await;
        let stopped = gamma.healthy().await.is_empty();
        (alarms.contains(&"revoked".to_owned()) && stopped).then_some(())
    })
    .await;
    assert!(began.elapsed() <= CUT_OFF_MAX, "{:?}", began.elapsed());
    assert_eq!(gamma.get("/hello/").await.0, 404);
    assert_eq!(gamma.realm.heads().await.authority, revoked);
    realms.nodes[2].take().after("revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn cordon_keeps_what_runs_drain_takes_it_away_and_uncordon_brings_it_back() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    let beta = &realms.nodes[1];
    let both = pinned(&[("hello", HELLO, "beta"), ("more", HELLO, "beta")]);
    realms.first().run(&["nodes", "cordon", "beta"]).ok();
    realms.converge().await;
    realms.first().realm.write("realm.toml", &both);
    realms.first().run(&["apply", "--yes", "--no-wait"]).ok();
    realms.converge().await;
    eventually("the new component is kept away, and says why", async || {
        let status = beta.status().await;
        let more = status
            .components
            .iter()
            .find(|one| one.name.as_str() == "more")?;
        more.waiting_on
            .iter()
            .any(|waits| waits.code.contains("cordon"))
            .then_some(())
    })
    .await;
    assert_eq!(beta.healthy().await, ["hello"]);
    realms.first().run(&["nodes", "drain", "beta"]).ok();
    eventually("nothing runs there", async || {
        beta.healthy().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(beta.get("/hello/").await.0, 503);
    let listed = realms.first().run(&["nodes", "ls"]).ok().stdout;
    assert!(listed.contains("drained"), "{listed}");
    realms.first().run(&["nodes", "uncordon", "beta"]).ok();
    realms
        .run_there(&[("hello", "beta"), ("more", "beta")])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_has_ended_makes_no_member() {
    let mut realms = Realms::meet(&["alpha"]).await;
    realms.add("late");
    realms.invite(1);
    let key = realms.nodes[1].key().public();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let approval = |not_after_unix_s| {
        Body::ApproveUntil(ApproveUntil {
            key,
            name: "late".parse().unwrap(),
            tags: Vec::new(),
            not_after_unix_s,
        })
    };
    // Longer ago than clocks may differ.
    decree(realms.first(), approval(now - 3_600)).await;
    let late = realms.nodes[1].begin();
    realms.nodes[1].runs(late);
    assert_eq!(realms.nodes[1].alarms().await, ["approval-expired"]);
    assert_eq!(
        realms.first().sees("late").await.reach.state,
        ReachState::Unknown
    );
    let late = Caller::node(&realms.nodes[1].key(), &realms).await;
    late.net.dial(&late.address).await.unwrap();
    let alpha = realms.first().key().public();
    assert!(late.net.open(alpha, Protocol::Api).await.is_err());
    late.net.stop().await;
    // The owner renews it, and nobody has to start anything anew.
    decree(realms.first(), approval(now + 3_600)).await;
    realms.all_meet().await;
}
