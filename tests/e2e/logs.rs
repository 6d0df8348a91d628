//! Lines of guests: kept beyond their instances, bounded, printable, followed.

use realm_test_guests::CHATTY;

use crate::support::{Agent, Realm, Running, eventually, get};

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
    let follow = || Running::start(realm.command(&["logs", "-f", "app"]));
    let first = follow();
    for round in 0..3 {
        get(&agent.url("/lines?n=1")).await;
        let line = tokio::task::block_in_place(|| first.stdout.next()).unwrap();
        assert!(line.ends_with("line 0"), "round {round}: {line}");
    }
    // Ctrl-C is how a person ends it; a second one goes on with what is in the ring.
    assert_eq!(first.interrupt().code(), Some(0));
    let second = follow();
    for _ in 0..3 {
        assert!(second.stdout.next().is_some());
    }
    // It ends with the agent.
    assert!(tokio::task::block_in_place(|| agent.terminate()).success());
    assert_eq!(tokio::task::block_in_place(|| second.stdout.next()), None);
    second.ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_since_leaves_out_what_was_before() {
    let (realm, agent) = chatty();
    get(&agent.url("/lines?n=2")).await;
    let json = realm.run(&["logs", "app", "--json"]).ok().stdout;
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    // Lines of one moment belong together: the next ones must come in another.
    let after = last["unix_ms"].as_u64().unwrap() + 1;
    let since = timestamp(after);
    eventually("the clock goes on", async || {
        (unix_ms() > after).then_some(())
    })
    .await;
    let follow = Running::start(realm.command(&["logs", "-f", "app", "--since", &since, "--json"]));
    get(&agent.url("/lines?n=1&stream=stderr")).await;
    let line = tokio::task::block_in_place(|| follow.stdout.next()).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["seq"], &line["stream"]),
        (&2.into(), &"stderr".into())
    );
    let everything = Running::start(realm.command(&["logs", "-f", "app", "--since", "1h"]));
    for end in ["out line 0", "out line 1", "err line 0"] {
        let line = everything.stdout.next().unwrap();
        assert!(line.ends_with(end), "{line}");
    }
    realm
        .run(&["logs", "-f", "app", "--since", "yesterday"])
        .code_is(64);
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// RFC 3339, by the tool that everybody has.
fn timestamp(unix_ms: u64) -> String {
    let at = format!("@{}.{:03}", unix_ms / 1_000, unix_ms % 1_000);
    let date = std::process::Command::new("date")
        .args(["--utc", "--date", &at, "+%Y-%m-%dT%H:%M:%S.%3NZ"])
        .output()
        .unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}
