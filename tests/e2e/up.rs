//! `realm up`: one command, from nothing to an answer; again, and it goes on.

use realm_test_guests::{HELLO, VERSION_A};

use crate::support::{AGENT, Agent, Realm, Running, get, on_free_ports, said};

const UP: [&str; 7] = on_free_ports("up");

/// Starts `realm up` and waits for the table of URLs; returns the one of `app`.
fn up(realm: &Realm) -> (Running, String) {
    let running = Running::start(realm.command(&UP));
    let line = running.stdout.next().unwrap();
    let url = line
        .split_whitespace()
        .nth(1)
        .unwrap_or_else(|| panic!("no URL in {line:?}"))
        .to_owned();
    (running, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_serves_and_a_second_one_goes_on() {
    let realm = Realm::empty();
    realm.app(HELLO, "");
    let (running, url) = up(&realm);
    assert_eq!(get(&url).await, (200, "hello\n".to_owned()));
    realm.run(&["verify"]).ok();
    let before = realm.heads().await;
    assert_eq!(before.version, 1);
    assert!(running.interrupt().success());

    let (running, url) = up(&realm);
    assert_eq!(get(&url).await, (200, "hello\n".to_owned()));
    assert_eq!(
        realm.heads().await,
        before,
        "nothing changed, nothing was signed"
    );
    assert!(running.interrupt().success());

    realm.app(VERSION_A, "");
    let (running, url) = up(&realm);
    assert_eq!(get(&url).await.1, "version a\n");
    assert_eq!(realm.heads().await.version, 2);
    assert!(running.interrupt().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn up_applies_to_an_agent_that_runs_already() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    let up = realm.run(&UP).ok();
    assert!(up.stdout.contains(&agent.url), "{}", up.stdout);
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[test]
fn a_mistake_is_told_before_anything_is_made() {
    let realm = Realm::empty();
    realm.write("realm.toml", "[components.app]\n");
    realm.run(&UP).fails(1, "invalid-manifest");
    assert!(!realm.path(".realm").exists());
    let realm = Realm::empty();
    let said = realm.run(&UP).fails(1, "no-file");
    assert!(
        said.stderr.contains("A realm of your own"),
        "{}",
        said.stderr
    );
    assert!(!realm.path(".realm").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_a_clear_error() {
    let realm = Realm::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = realm
        .run(&[
            "agent",
            "--http",
            &address,
            "--admin",
            "127.0.0.1:0",
            "--p2p",
            "127.0.0.1:0",
        ])
        .fails(1, "cannot-listen");
    // Who runs a second agent needs both.
    for option in ["`--http 127.0.0.1:0`", "`--admin 127.0.0.1:0`"] {
        assert!(said.stderr.contains(option), "{}", said.stderr);
    }
    let other = realm
        .run(&[
            "agent",
            "--http",
            "127.0.0.1:0",
            "--admin",
            &address,
            "--p2p",
            "127.0.0.1:0",
        ])
        .fails(1, "cannot-listen");
    assert!(other.stderr.contains("--admin"), "{}", other.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_folder_with_a_very_long_path_works() {
    let realm = Realm::empty();
    let deep = "d".repeat(60);
    std::fs::create_dir_all(realm.path(&format!("{deep}/{deep}"))).unwrap();
    let folder = format!("{deep}/{deep}/realm");
    realm.run(&["init", "--realm", &folder]).ok();
    realm.app(HELLO, "");
    let agent = Agent::start(realm.command(&[&AGENT[..], &["--realm", &folder]].concat()));
    realm.run(&["apply", "--yes", "--realm", &folder]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[test]
fn without_a_realm_or_an_agent_the_next_step_is_told() {
    let realm = Realm::empty();
    for verb in [
        &["status"][..],
        &["apply", "--yes"],
        &["key", "show"],
        &["logs", "app"],
    ] {
        let told = said({
            let mut command = realm.command(verb);
            command.env("XDG_DATA_HOME", realm.path("none"));
            command
        });
        let told = told.fails(1, "no-realm");
        assert!(told.stderr.contains("realm init"), "{}", told.stderr);
        assert!(told.stderr.contains("realm up"), "{}", told.stderr);
    }
    let realm = Realm::new();
    let told = realm.run(&["status"]).fails(4, "no-agent");
    assert!(told.stderr.contains("realm up"), "{}", told.stderr);
}
