//! Embedded queues across nodes, with processes: what is sent on one node is worked on where a replica is,
//! and nothing that was sent is lost, whoever is killed.

use std::collections::BTreeSet;

use realm_model::lending_message::{BYTES_MAX, ToBorrower, ToLender};
use realm_net::{Protocol, Transport as _};
use realm_test_guests::MESSAGES;

use crate::guest_net::Caller;
use crate::realms::Realms;
use crate::support::{eventually, get};

/// `web` sends and asks on alpha; `packer` takes and answers on these nodes. What `packer` did is in a folder
/// that all of them write into.
fn manifest(realms: &Realms, packers: &[&str]) -> String {
    let state = realms.first().realm.path("state");
    let mut routes = BTreeSet::from(["alpha"]);
    routes.extend(packers);
    let routes = routes.into_iter().map(|node| {
        let web = "{ path = \"/web/...\", component = \"web\" }, ";
        let packer = "{ path = \"/packer/...\", component = \"packer\" }";
        let web = if node == "alpha" { web } else { "" };
        let packer = if packers.contains(&node) { packer } else { "" };
        format!("{node} = [{web}{packer}]\n")
    });
    format!(
        r#"
[bindings.orders]
interface = "wasi:messaging"
backend = "embedded"

[components.web]
source = "file:web.wasm"
bind = {{ default = "orders" }}

[components.packer]
source = "file:web.wasm"
bind = {{ default = "orders" }}
dirs = ["{state}::/state::rw"]

[components.packer.subscribe]
echo = {{}}
twice = {{}}
silent = {{}}

[components.packer.subscribe.work]
concurrency = 4
attempts = 100
ack_wait = "2s"
backoff = "100ms"

[routing]
{routes}"#,
        state = state.display(),
        routes = routes.collect::<String>(),
    )
}

/// Nodes that have met, and the folder of what is done.
async fn meet(names: &[&'static str], packers: &[&str]) -> Realms {
    let folder = tempfile::tempdir().unwrap().keep();
    let allowed = format!("[guests]\ndirs = [\"{}\"]\n", folder.display());
    let realms = Realms::in_lab(None, names, &allowed).await;
    let state = realms.first().realm.path("state");
    std::os::unix::fs::symlink(&folder, &state).unwrap();
    realms.first().realm.guest(MESSAGES, "web.wasm");
    apply(&realms, packers);
    realms
}

fn apply(realms: &Realms, packers: &[&str]) {
    let state = realms.first().realm.path("state");
    let folder = std::fs::read_link(&state).unwrap();
    let text = manifest(realms, packers);
    let text = text.replace(&*state.to_string_lossy(), &folder.to_string_lossy());
    realms.apply(&text);
}

fn done(realms: &Realms) -> BTreeSet<String> {
    let files = std::fs::read_dir(realms.first().realm.path("state")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Sends so many from alpha; what this returns was taken.
async fn send(realms: &Realms, round: &str, n: usize) -> BTreeSet<String> {
    let url = realms.first().agent().url("/web/");
    let first = format!("{url}?send={round}-first");
    eventually("alpha takes messages", async || {
        (get(&first).await.0 == 200).then_some(())
    })
    .await;
    let sending = (0..8).map(|part| {
        let (url, round) = (url.clone(), round.to_owned());
        tokio::spawn(async move {
            let client = reqwest::Client::new();
            let mut sent = Vec::new();
            for number in (part..n).step_by(8) {
                let name = format!("{round}-{number}");
                let answer = client.get(format!("{url}?send={name}")).send().await;
                assert_eq!(answer.unwrap().status(), 200);
                sent.push(name);
            }
            sent
        })
    });
    let mut sent = BTreeSet::from([format!("{round}-first")]);
    for part in sending.collect::<Vec<_>>() {
        sent.extend(part.await.unwrap());
    }
    sent
}

async fn all_done(realms: &Realms, sent: &BTreeSet<String>) {
    eventually("everything that was sent is done", async || {
        sent.is_subset(&done(realms)).then_some(())
    })
    .await;
}

/// Removes the folder of what is done, once all agents ended.
fn clean(realms: Realms) {
    let folder = std::fs::read_link(realms.first().realm.path("state")).unwrap();
    drop(realms);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_and_asked_on_one_node_is_done_on_another() {
    let realms = meet(&["alpha", "beta"], &["beta"]).await;
    let sent = send(&realms, "one", 50).await;
    all_done(&realms, &sent).await;
    let logs = realms.as_owner(1, &["logs", "packer"]).ok().stdout;
    assert!(logs.contains("took work"), "{logs}");
    // The guest that holds each backend to its word, with its handler on another node.
    let lines = eventually("a member elsewhere is asked", async || {
        let (status, lines) = realms.first().get("/web/").await;
        (status == 200 && !lines.contains("FAIL request")).then_some(lines)
    })
    .await;
    assert!(lines.lines().count() >= 13, "{lines}");
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    // Somebody is here now, and nobody there any more.
    apply(&realms, &["alpha"]);
    let sent = send(&realms, "two", 50).await;
    all_done(&realms, &sent).await;
    clean(realms);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_survives_the_sender_and_goes_where_a_replica_comes() {
    let mut realms = meet(&["alpha", "beta", "gamma"], &["beta"]).await;
    let before = send(&realms, "before", 5).await;
    all_done(&realms, &before).await;
    realms.nodes[1].kill_9();
    let mut sent = send(&realms, "alone", 100).await;
    realms.nodes[0].kill_9();
    realms.nodes[0].start();
    sent.extend(send(&realms, "later", 10).await);
    // Beta stays away: another node gets it.
    apply(&realms, &["gamma"]);
    all_done(&realms, &sent).await;
    clean(realms);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_survive_the_death_of_a_node_that_works_on_them() {
    let mut realms = meet(&["alpha", "beta", "gamma"], &["beta", "gamma"]).await;
    let first = send(&realms, "first", 1).await;
    all_done(&realms, &first).await;
    let url = realms.first().agent().url("/web/");
    let sending = tokio::spawn(async move {
        let client = reqwest::Client::new();
        let mut sent = BTreeSet::new();
        for number in 0..1_000 {
            let name = format!("n-{number}");
            let answer = client.get(format!("{url}?send={name}")).send().await;
            assert_eq!(answer.unwrap().status(), 200);
            sent.insert(name);
        }
        sent
    });
    for n in [150, 400] {
        eventually("some are done", async || {
            (done(&realms).len() > n).then_some(())
        })
        .await;
        realms.nodes[1].kill_9();
        realms.nodes[1].start();
    }
    eventually("more are done", async || {
        (done(&realms).len() > 600).then_some(())
    })
    .await;
    realms.nodes[2].kill_9();
    let sent = sending.await.unwrap();
    assert_eq!(sent.len(), 1_000);
    all_done(&realms, &sent).await;
    clean(realms);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_lends_only_for_groups_of_the_manifest_that_have_a_member_there() {
    let mut realms = meet(&["alpha", "beta"], &["alpha"]).await;
    eventually("packer runs", async || {
        let healthy = realms.first().healthy().await;
        healthy.contains(&"packer".to_owned()).then_some(())
    })
    .await;
    realms.nodes[1].kill_9();
    let key = realms.nodes[1].key();
    let caller = Caller::node(&key, &realms).await;
    caller.net.dial(&caller.address).await.unwrap();
    let alpha = realms.first().key().public();
    let offer = async |binding: &str, topic: &str, group: &str| {
        let mut stream = caller.net.open(alpha, Protocol::Lend).await.unwrap();
        let said = ToBorrower::Offer {
            binding: binding.to_owned(),
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        stream.write_message(&said.to_bytes()).await.unwrap();
        let answer = stream.read_message(BYTES_MAX).await.unwrap().unwrap();
        ToLender::from_bytes(&answer).unwrap()
    };
    eventually("what is there is taken", async || {
        (offer("orders", "work", "packer").await == ToLender::Ready).then_some(())
    })
    .await;
    for (binding, topic, group) in [
        ("others", "work", "packer"),
        ("orders", "dead", "packer"),
        ("orders", "work", "others"),
        ("", "", ""),
    ] {
        let answer = offer(binding, topic, group).await;
        assert!(
            answer == ToLender::NotHere,
            "{binding} {topic} {group}: {answer:?}"
        );
    }
    clean(realms);
}
