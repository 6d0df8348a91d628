//! Lines of guests: kept beyond their instances, bounded, printable, followed.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use realm_test_guests::CHATTY;

use crate::support::{Agent, Realm, get};

fn chatty() -> (Realm, Agent) {
    let realm = Realm::new();
    realm.app(CHATTY, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    (realm, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_outlive_the_instances_that_wrote_them() {
    let (realm, agent) = chatty();
    get(&agent.url("/lines?n=3")).await;
    get(&agent.url("/lines?n=2&stream=stderr")).await;
    get(&agent.url("/partial")).await;
    let text = realm.run(&["logs", "app"]).ok().stdout;
    let ends: Vec<_> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(
        ends,
        [
            "app/0 out line 0",
            "app/0 out line 1",
            "app/0 out line 2",
            "app/0 err line 0",
            "app/0 err line 1",
            "app/0 out no line break",
        ]
    );
    let json = realm.run(&["logs", "app", "--json"]).ok().stdout;
    let lines: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[3]["stream"], "stderr");
    assert_eq!(lines[3]["seq"], 3);
    assert_eq!(
        realm
            .run(&["logs", "app", "--since", "1h"])
            .ok()
            .stdout
            .lines()
            .count(),
        6
    );
    assert_eq!(
        realm
            .run(&["logs", "app", "--since", "2100-01-01T00:00:00Z"])
            .ok()
            .stdout,
        ""
    );
    realm.run(&["logs", "ghost"]).fails(3, "unknown-name");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_lines_are_printable_and_cut() {
    let (realm, agent) = chatty();
    get(&agent.url("/control")).await;
    get(&agent.url("/long?bytes=1000000")).await;
    let text = realm.run(&["logs", "app"]).ok().stdout;
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{7}'),
        "{:?}",
        &text[..200]
    );
    assert!(text.lines().all(|line| line.len() < 16 * 1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_lines_are_told() {
    let (realm, agent) = chatty();
    for _ in 0..12 {
        get(&agent.url("/lines?n=1000")).await;
    }
    let text = realm.run(&["logs", "app"]).ok().stdout;
    let first = text.lines().next().unwrap();
    assert!(first.contains("2000 lines were dropped here"), "{first}");
    assert_eq!(text.lines().count(), 10_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_shows_lines_as_they_come() {
    let (realm, agent) = chatty();
    let mut follow = realm
        .command(&["logs", "-f", "app"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    for round in 0..3 {
        get(&agent.url("/lines?n=1")).await;
        let line = tokio::task::block_in_place(|| lines.next())
            .unwrap()
            .unwrap();
        assert!(line.ends_with("line 0"), "round {round}: {line}");
    }
    // It ends with the agent.
    assert!(tokio::task::block_in_place(|| agent.terminate()).success());
    assert!(tokio::task::block_in_place(|| lines.next()).is_none());
    follow.wait().unwrap();
}
