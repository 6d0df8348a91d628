//! Streams, with processes: a component that appends and another one that replays, in a file of the agent that
//! is killed, and on a real NATS.

use realm_test_guests::STREAMS;

use crate::keyvalue::servers;
use crate::support::{Agent, Realm, eventually, get};

/// `writer` appends, `reader` reads; both bind one store.
fn manifest(backend: &str) -> String {
    format!(
        r#"
[bindings.events]
interface = "realm:cloud/streams"
backend = "{backend}"
keep_hours = 1_000
keep_mb = 500

[components.writer]
source = "file:./app.wasm"
bind = {{ default = "events" }}
wall_timeout_ms = 60_000
epoch_timeout_ms = 30_000

[components.reader]
source = "file:./app.wasm"
bind = {{ default = "events" }}

[routing]
"*" = [
    {{ path = "/writer/...", component = "writer" }},
    {{ path = "/reader/...", component = "reader" }},
]
"#
    )
}

fn realm(backend: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(STREAMS, "app.wasm");
    realm.write("realm.toml", &manifest(backend));
    realm
}

/// Appends until nobody answers: what was acknowledged.
async fn append(url: String, task: String) -> Vec<(usize, String)> {
    let mut appended = Vec::new();
    for number in 0..100_000 {
        let words = format!("{task}-{number}");
        let target = format!("{url}/writer/append?name=orders&words={words}");
        let Ok(answer) = reqwest::get(&target).await else {
            break;
        };
        let is_ok = answer.status() == 200;
        match answer.text().await {
            Ok(seq) if is_ok => appended.push((seq.parse().unwrap(), words)),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    appended
}

async fn replay(agent: &Agent) -> Vec<String> {
    let (status, lines) = get(&agent.url("/reader/replay?name=orders")).await;
    assert_eq!(status, 200, "{lines}");
    lines.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_component_appended_another_replays_also_after_kill_9() {
    let realm = realm("embedded");
    let mut agent = realm.agent();
    let said = realm.run(&["apply", "--yes"]).ok();
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    let (mut appended, mut followed) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let writing: Vec<_> = (0..4)
            .map(|task| tokio::spawn(append(agent.url(""), format!("{round}-{task}"))))
            .collect();
        let before = replay(&agent).await.len();
        eventually("some are appended", async || {
            (replay(&agent).await.len() >= before + 40).then_some(())
        })
        .await;
        agent.kill_9();
        for writing in writing {
            appended.extend(writing.await.unwrap());
        }
        agent = realm.agent();
        let url = agent.url("/reader/follow?name=orders&consumer=bills");
        let all = eventually("it serves again", async || {
            let all = get(&agent.url("/reader/replay?name=orders")).await;
            (all.0 == 200).then_some(all.1)
        })
        .await;
        let all: Vec<&str> = all.lines().collect();
        for (seq, words) in &appended {
            assert_eq!(all.get(seq - 1), Some(&&*format!("{seq} {words}")));
        }
        // A consumer goes on where it was, and misses nothing.
        while followed.len() < all.len() {
            let (status, lines) = get(&url).await;
            assert!(status == 200 && !lines.is_empty(), "{lines}");
            followed.extend(lines.lines().map(str::to_owned));
        }
        assert_eq!(followed, all);
    }
    assert!(appended.len() >= 120, "{}", appended.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_not_see_where_its_streams_are() {
    let nats = servers::nats("", None);
    let origin = format!("nats://127.0.0.1:{}", nats.port);
    for backend in ["embedded", &origin] {
        let realm = realm(backend);
        let config = realm.read(".realm/node.toml");
        let allow = format!("{config}\n[backends]\nallow = [\"{origin}\"]\n");
        realm.write(".realm/node.toml", &allow);
        let agent = realm.agent();
        realm.run(&["apply", "--yes"]).ok();
        let lines = eventually("the guest answers", async || {
            let (status, lines) = get(&agent.url("/writer/?run=-0")).await;
            (status == 200).then_some(lines)
        })
        .await;
        assert!(lines.lines().count() >= 11, "{lines}");
        let is_ok = lines.lines().all(|line| line.starts_with("ok "));
        assert!(is_ok, "{backend}: {lines}");
        for n in 1..=3 {
            let appended = get(&agent.url(&format!("/writer/append?name=orders&words=w{n}"))).await;
            assert_eq!(appended, (200, n.to_string()));
        }
        assert_eq!(replay(&agent).await, ["1 w1", "2 w2", "3 w3"]);
        let (status, words) = get(&agent.url("/reader/append?store=other&name=a&words=x")).await;
        assert_eq!(
            (status, words.contains("NoSuchStore")),
            (500, true),
            "{words}"
        );
        agent.terminate();
    }
}
