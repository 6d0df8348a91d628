//! Who belongs to the realm, and who does not any longer: strangers, crowds of them, nodes that are
//! revoked, whose approval ended, or that are to run nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use realm_model::entry::{ApproveUntil, Body};
use realm_model::join::{Answer, Ask, JoinCode, Request};
use realm_model::key::SecretKey;
use realm_model::view::ReachState;
use realm_net::{Error, Protocol, Topic, Transport as _};
use realm_test_guests::HELLO;

use crate::guest_net::{Caller, ask};
use crate::knocking::{Knocked, knock};
use crate::realms::{Realms, decree, pinned};
use crate::support::{eventually, figure, get};

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

/// Each with a key and a connection of its own.
const CROWD: u32 = 10_000;
/// Addresses that they come from, 127.0.1.1 and on.
const SOURCES: u32 = 2;
/// Handshakes with one address: as many at once, and then in a second.
const HANDSHAKES: (u32, u32) = (500, 50);
/// As many at once as keep this process busy.
const LANES: u32 = 64;
/// Requests to join that a node keeps, and that are listed from others' records.
const LISTED_MAX: usize = 64;
/// How often the owner looks during the rush.
const LOOKS: u32 = 20;

/// What became of the strangers of a crowd.
#[derive(Default)]
struct Fates {
    shut_out: AtomicU32,
    unheard: AtomicU32,
    listed: AtomicU32,
    refused: AtomicU32,
    /// The test has seen what it wanted to see during the rush.
    seen: AtomicBool,
}

impl Fates {
    fn all(&self) -> u32 {
        let all = [&self.shut_out, &self.unheard, &self.listed, &self.refused];
        all.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// Strangers that come one after the other in each lane, until all were there, and until it is said
/// that nobody looks any more.
async fn crowd(node: SocketAddr, fates: Arc<Fates>) {
    let lanes = (0..LANES).map(|lane| {
        let fates = Arc::clone(&fates);
        tokio::spawn(async move {
            let numbers = (lane..).step_by(LANES as usize);
            for number in numbers.take_while(|n| *n < CROWD || !fates.seen.load(Relaxed)) {
                let mut seed = [77; 32];
                seed[..4].copy_from_slice(&number.to_be_bytes());
                let source = u8::try_from(number % SOURCES + 1).unwrap();
                let request = an_ask(&format!("crowd-{number}"));
                let key = SecretKey::from_seed(&seed);
                let fate = match knock([127, 0, 1, source].into(), node, &key, &request).await {
                    Knocked::ShutOut => &fates.shut_out,
                    Knocked::Unheard => &fates.unheard,
                    Knocked::Heard(Answer::Pending(_)) => &fates.listed,
                    Knocked::Heard(Answer::Refused(_)) => &fates.refused,
                    Knocked::Heard(answer) => panic!("a stranger hears {answer:?}"),
                };
                fate.fetch_add(1, Relaxed);
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_13_ten_thousand_strangers_leave_the_owners_list_usable() {
    let mut realms = Realms::meet(&["alpha"]).await;
    for name in ["known", "unknown"] {
        realms.add(name);
    }
    realms.invite(1);
    realms.invite(2);
    let address = realms.first().address_with("/tcp/").await;
    let mut parts = address.split('/').skip_while(|part| *part != "tcp");
    let port: u16 = parts.nth(1).unwrap().parse().unwrap();
    let fates = Arc::new(Fates::default());
    let began = Instant::now();
    let crowd = tokio::spawn(crowd(
        SocketAddr::from(([127, 0, 0, 1], port)),
        Arc::clone(&fates),
    ));
    eventually("the crowd has come", async || {
        (fates.all() >= CROWD / 10).then_some(())
    })
    .await;
    // Whoever is expected can be approved meanwhile, and is let in past the crowd.
    realms.approve(1, &[]);
    realms.nodes[1].start();
    realms.all_meet().await;
    // The agent answers its owner, and its list has an end.
    let mut slowest = Duration::ZERO;
    for _ in 0..LOOKS {
        let asked = Instant::now();
        let listed = realms.first().status().await.pending.len();
        slowest = slowest.max(asked.elapsed());
        assert!(listed <= LISTED_MAX, "{listed} are listed");
    }
    assert!(!crowd.is_finished(), "nobody was there any more");
    fates.seen.store(true, Relaxed);
    crowd.await.unwrap();
    assert!(
        slowest < Duration::from_secs(2),
        "a status took {slowest:?}"
    );
    let all = fates.all();
    assert!(all >= CROWD, "{all} came");
    let (shut_out, listed) = (fates.shut_out.load(Relaxed), fates.listed.load(Relaxed));
    assert!(listed > 0 && listed <= all / 20, "{listed} were listed");
    let seconds = u32::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let handshakes_max = SOURCES * (HANDSHAKES.0 + HANDSHAKES.1 * seconds);
    let handshakes = all - shut_out;
    assert!(
        handshakes <= handshakes_max,
        "{handshakes} handshakes in {seconds} s"
    );
    let page = get(&realms.first().agent().metrics_url).await.1;
    let denied = figure(
        &page,
        "realm_p2p_events_total{event=\"connections_denied\"}",
    );
    assert!(denied > 1_000.0, "{denied} were denied");
    // Whoever was not expected is listed once the crowd has gone, and approved by its words.
    let unknown = realms.nodes[2].begin();
    unknown.stderr.after("asked to join");
    let words = realms.nodes[2].key().public().words().join(" ");
    let text = realms.first().run(&["nodes", "ls"]).ok().stdout;
    assert!(text.lines().count() <= LISTED_MAX + 8, "{text}");
    assert!(text.contains(&words), "{text}");
    realms
        .first()
        .run(&["nodes", "approve", &words, "--yes"])
        .ok();
    realms.nodes[2].runs(unknown);
    realms.all_meet().await;
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
            let page = get(&node.agent().metrics_url).await.1;
            let links = figure(&page, "realm_p2p_links");
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
    realms
        .first()
        .run(&["nodes", "drain", "--yes", "beta"])
        .ok();
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
