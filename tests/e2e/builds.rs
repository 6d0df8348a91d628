//! Agents of two builds in one realm: this one, and that of a pinned earlier commit, which
//! `scripts/older.sh` builds. Case 34: they serve together; where this one says what the older one
//! cannot read, that one stops there and runs on; it takes the rest once it is replaced.

use std::path::{Path, PathBuf};

use realm_model::beacon::BeaconMark;
use realm_model::digest::Digest;
use realm_model::entry::{Body, ChainId, Head, SetBeacon};
use realm_model::key::SecretKey;
use realm_model::sync::{Answer, Hint, Request, Summary};
use realm_net::{Topic, Transport as _};
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::guest_net::Caller;
use crate::realms::{Node, Realms, next_entry, pinned, write_key};
use crate::support::{PROGRAM, Realm, eventually};

/// The agent of the earlier commit. It is never done without: a test that finds none fails.
fn older() -> PathBuf {
    let commit = include_str!("../older-build").trim();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = target.join("older").join(commit).join("realm");
    assert!(
        program.is_file(),
        "`{}` is missing: `CARGO_TARGET_DIR={} scripts/older.sh` builds it from commit {commit}; \
         `make test` does that by itself",
        program.display(),
        target.display()
    );
    program
}

async fn authority(node: &Node) -> Head {
    node.realm.heads().await.authority
}

async fn refused(node: &Node, code: &str) -> u64 {
    let refusals = node.status().await.refusals;
    refusals.get(code).copied().unwrap_or(0)
}

/// Lets the owner say something of a kind that only this build knows.
fn set_beacon(realms: &Realms, newer: usize) {
    let beacon = SecretKey::from_seed(&[77; 32]);
    write_key(&realms.nodes[newer].realm, "beacon.key", &beacon);
    let key = beacon.public().to_string();
    let args = ["delegate", "add", "watch", &key, "--beacon", "--yes"];
    realms.as_owner(newer, &args).ok();
}

/// Two nodes of these builds, of which the first founds the realm; they meet, serve, take a new
/// version, and start afresh.
async fn serve_together(first: &Path, second: &Path) -> Realms {
    let realms = Realms::of_builds(&[("alpha", first), ("beta", second)]).await;
    for (guest, name) in [(HELLO, "hello.wasm"), (VERSION_A, "app.wasm")] {
        realms.first().realm.guest(guest, name);
    }
    let components = [
        ("hello", "hello.wasm", "alpha"),
        ("app", "app.wasm", "beta"),
    ];
    realms.apply(&pinned(&components));
    realms
        .run_there(&[("hello", "alpha"), ("app", "beta")])
        .await;
    assert_eq!(realms.first().get("/hello/").await.0, 200);
    assert_eq!(realms.nodes[1].get("/app/").await.1, "version a\n");
    // From either side.
    realms.nodes[1].realm.guest(VERSION_B, "b.wasm");
    realms.as_owner(1, &["push", "app", "b.wasm"]).ok();
    assert_eq!(realms.nodes[1].get("/app/").await.1, "version b\n");
    realms.first().run(&["restart", "app"]).ok();
    realms.converge().await;
    realms.all_meet().await;
    realms
}

/// The older node stops at the entry that it does not know, says so, and runs on; the newer one goes
/// on; the older one is replaced over the same folder, and takes the rest.
async fn stop_and_catch_up(realms: &mut Realms, older: usize, newer: usize) {
    let path = ["/hello/", "/app/"];
    let stood = authority(&realms.nodes[older]).await;
    set_beacon(realms, newer);
    let old = &realms.nodes[older];
    eventually("the older one says what it lacks", async || {
        (refused(old, "needs-newer-agent").await > 0).then_some(())
    })
    .await;
    assert_eq!(authority(old).await, stood);
    assert_eq!(authority(&realms.nodes[newer]).await.seq, stood.seq + 1);
    let logged = old.agent().after("entry refused");
    assert!(logged.contains("needs-newer-agent"), "{logged}");
    assert!(
        logged.contains("entry kind 11 is not known to this version"),
        "{logged}"
    );
    let said = old.run(&["status"]).ok().stdout;
    assert!(said.contains("needs-newer-agent"), "{said}");
    // Others see that it stays behind.
    eventually("the newer one sees it", async || {
        let seen = realms.nodes[newer].sees(old.name).await;
        seen.said.is_some_and(|said| !said.in_step).then_some(())
    })
    .await;
    // The newer one goes on: with entries, and with what it says on the wire beside them.
    realms
        .as_owner(newer, &["restart", "app", "--no-wait"])
        .ok();
    realms.nodes[newer]
        .run(&["--key", "beacon.key", "beacon"])
        .ok();
    let ahead = realms.nodes[newer].head().await;
    eventually("the older one hears of what is beyond", async || {
        let (one, other) = (authority(old).await, old.head().await);
        (one == stood && other.seq < ahead.seq).then_some(())
    })
    .await;
    for (node, path) in realms.nodes.iter().zip(path) {
        assert_eq!(node.get(path).await.0, 200, "{} runs on", node.name);
    }
    // Still members of one realm, and nobody is muted for what he does not know.
    assert!(realms.nodes[newer].alarms().await.is_empty());
    realms.nodes[older].kill_9();
    realms.nodes[older].realm.by(Path::new(PROGRAM));
    realms.nodes[older].start();
    realms.converge().await;
    realms.all_meet().await;
    let replaced = &realms.nodes[older];
    assert_eq!(replaced.head().await, ahead);
    assert_eq!(refused(replaced, "needs-newer-agent").await, 0);
    eventually("it has the beacon", async || {
        let beacon = replaced.status().await.beacon;
        beacon
            .is_some_and(|beacon| beacon.counter == Some(1))
            .then_some(())
    })
    .await;
    for (node, path) in realms.nodes.iter().zip(path) {
        assert_eq!(node.get(path).await.0, 200, "{} serves", node.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_34_an_older_founder_and_a_newer_node_live_in_one_realm() {
    let mut realms = serve_together(&older(), Path::new(PROGRAM)).await;
    stop_and_catch_up(&mut realms, 0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_34_a_newer_founder_and_an_older_node_live_in_one_realm() {
    let mut realms = serve_together(Path::new(PROGRAM), &older()).await;
    stop_and_catch_up(&mut realms, 1, 0).await;
}

/// What this build says on the wire and the older one does not know gets an answer, and does no harm.
#[tokio::test(flavor = "multi_thread")]
async fn case_34_the_older_build_answers_unknown_and_listens_on() {
    let mut realms = Realms::of_builds(&[("alpha", &older())]).await;
    realms.add("wire");
    realms.invite(1);
    realms.approve(1, &[]);
    let wire = Caller::node(&realms.nodes[1].key(), &realms).await;
    wire.net.dial(&wire.address).await.unwrap();
    let alpha = realms.first().key().public();
    let said = async |request: Request| {
        let answer = eventually("an answer", async || {
            wire.net.request(alpha, request.to_bytes()).await.ok()
        });
        Answer::from_bytes(&answer.await).unwrap()
    };
    eventually("it is a member", async || {
        let peers = wire.net.peers();
        peers
            .iter()
            .any(|p| p.peer == alpha && p.hints)
            .then_some(())
    })
    .await;
    let unknown = Answer::Unknown { version: 1 };
    assert_eq!(said(Request::Beacon).await, unknown);
    // A field that it does not know is passed over.
    let summary = Summary {
        beacon: Some(BeaconMark {
            counter: 7,
            digest: Digest::of(b"a beacon"),
        }),
        ..Summary::default()
    };
    let Answer::Summary(there) = said(Request::Summary(summary)).await else {
        panic!("a summary is asked for");
    };
    assert!(there.beacon.is_none() && !there.heads.is_empty());
    for n in 0..20 {
        let hint = Hint::Beacon(vec![n; 100]).to_bytes();
        wire.net.publish(Topic::Heads, hint).unwrap();
    }
    // It goes on to answer, and holds nothing against its sender.
    assert_eq!(said(Request::Beacon).await, unknown);
    let heads = realms.first().realm.heads().await;
    let hashes = Request::Hashes {
        chain: ChainId::Authority,
        from: heads.authority.seq,
        step: 1,
        count: 1,
    };
    assert_eq!(
        said(hashes).await,
        Answer::Hashes(vec![heads.authority.hash])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_older_build_is_opened_by_this_one_and_not_back_once_it_says_more() {
    let mut realm = Realm::empty();
    realm.by(&older());
    realm.run(&["init", "--name", "node-1"]).ok();
    let agent = realm.agent();
    realm.app(VERSION_A, "");
    realm.run(&["apply", "--yes"]).ok();
    let before = realm.heads().await;
    assert!(agent.terminate().success());

    realm.by(Path::new(PROGRAM));
    let agent = realm.agent();
    // What the older one did not tell.
    let heads = realm.heads().await;
    assert_eq!(heads.nodes.len(), 1);
    let nodes = before.nodes.clone();
    assert_eq!(realm_model::api::Heads { nodes, ..heads }, before);
    eventually("it serves what was applied before", async || {
        let answer = crate::support::get(&agent.url("/")).await;
        (answer == (200, "version a\n".to_owned())).then_some(())
    })
    .await;
    // An entry that both know does no harm on the way back.
    realm.run(&["restart", "app"]).ok();
    assert!(agent.terminate().success());
    realm.by(&older());
    let agent = realm.agent();
    assert_eq!(realm.heads().await.default.seq, before.default.seq + 1);
    assert!(agent.terminate().success());

    realm.by(Path::new(PROGRAM));
    let agent = realm.agent();
    let key = SecretKey::from_seed(&[77; 32]).public().to_string();
    let args = ["delegate", "add", "watch", &key, "--beacon", "--yes"];
    realm.run(&args).ok();
    assert!(agent.terminate().success());
    realm.by(&older());
    let refused = realm.run(&["agent", "--p2p", "127.0.0.1:0"]);
    assert_ne!(refused.code, 0);
    assert!(
        refused
            .stderr
            .contains("entry kind 11 is not known to this version"),
        "{}",
        refused.stderr
    );
    // Nothing was lost by the attempt.
    realm.by(Path::new(PROGRAM));
    let _agent = realm.agent();
    assert_eq!(realm.heads().await.authority.seq, before.authority.seq + 1);
}

/// The entry that follows the authority chain, by the owner, of a kind that no build knows.
async fn of_the_future(node: &Node) -> (Head, Vec<u8>) {
    let owner = node.realm.owner();
    let body = Body::SetBeacon(SetBeacon {
        name: "watch".parse().unwrap(),
        every_s: 300,
        key: None,
    });
    let entry = next_entry(node, ChainId::Authority, &owner, body).await;
    let heads = node.realm.heads().await;
    let opened = realm_model::entry::Opened::open(&entry, heads.realm, ChainId::Authority).unwrap();
    let payload = opened.claims().unwrap().0.to_bytes();
    // Of the payload's six fields the kind is the fifth; the body ends the payload.
    let body = [0x82, 0x65, b'w', b'a', b't', b'c', b'h', 0x19, 0x01, 0x2c];
    let at = payload.len() - body.len() - 2;
    assert_eq!((payload[at], &payload[at + 2..]), (11, &body[..]));
    let mut changed = payload.clone();
    changed[at] = 23;
    let sign = |payload: &[u8]| {
        let mut message = Vec::new();
        let realm = heads.realm.digest();
        for part in [
            b"realm.entry.v1",
            &realm.as_bytes()[..],
            b"authority",
            payload,
        ] {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        owner.sign(&message).as_bytes().to_vec()
    };
    let entry = replaced(&entry, &sign(&payload), &sign(&changed));
    let head = Head {
        seq: heads.authority.seq + 1,
        hash: Digest::of(&changed),
    };
    (head, replaced(&entry, &payload, &changed))
}

fn replaced(bytes: &[u8], part: &[u8], with: &[u8]) -> Vec<u8> {
    let mut windows = bytes.windows(part.len());
    let at = windows
        .position(|window| window == part)
        .expect("it is in there");
    [&bytes[..at], with, &bytes[at + part.len()..]].concat()
}

/// This build says in its own status and to the others what the older one says in its log alone.
#[tokio::test(flavor = "multi_thread")]
async fn case_34_a_node_that_stops_at_an_entry_of_the_future_says_so_to_all_and_runs_on() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[("hello", HELLO, "alpha")]));
    realms.run_there(&[("hello", "alpha")]).await;
    realms.add("wire");
    realms.invite(2);
    realms.approve(2, &[]);
    realms.converge().await;
    let wire = Caller::node(&realms.nodes[2].key(), &realms).await;
    wire.net.dial(&wire.address).await.unwrap();
    let alpha = realms.first().key().public();
    eventually("it is a member", async || {
        let peers = wire.net.peers();
        peers
            .iter()
            .any(|p| p.peer == alpha && p.hints)
            .then_some(())
    })
    .await;
    let stood = authority(realms.first()).await;
    let (head, bytes) = of_the_future(realms.first()).await;
    let at = head.of(ChainId::Authority);
    let hint = Hint::Entry { at, bytes }.to_bytes();
    wire.net.publish(Topic::Heads, hint).unwrap();
    for node in realms.running() {
        eventually("all see that alpha needs a newer realm", async || {
            let alarms = node.status().await.alarms.into_iter();
            let mut of_alpha = alarms.filter(|alarm| alarm.node.as_str() == "alpha");
            of_alpha
                .any(|alarm| alarm.code == "upgrade-needed")
                .then_some(())
        })
        .await;
    }
    let said = realms.nodes[1].run(&["status"]).ok().stdout;
    assert!(
        said.contains("upgrade needed: chain `authority` stops at entry"),
        "{said}"
    );
    assert_eq!(authority(realms.first()).await, stood);
    assert_eq!(realms.first().get("/hello/").await.0, 200);
    // The owner's other chain goes on.
    realms.first().run(&["restart", "hello"]).ok();
    // An entry that it knows, at the same place, ends the alarm.
    realms.first().run(&["nodes", "cordon", "beta"]).ok();
    realms.converge().await;
    for node in realms.running() {
        eventually("nobody is behind", async || {
            node.alarms().await.is_empty().then_some(())
        })
        .await;
    }
}
