//! What the agent itself says on stderr: as text or JSON, filtered by REALM_LOG.

use realm_test_guests::HELLO;

use crate::support::{AGENT, Agent, Realm, Running};

fn agent(realm: &Realm, filter: &str, more: &[&str]) -> Agent {
    let mut command = realm.command(&[&AGENT[..], more].concat());
    command.env("REALM_LOG", filter);
    Agent::start(command)
}

/// Applies the app, ends the agent, and returns what it said since it listened.
fn said(realm: &Realm, agent: Agent) -> Vec<String> {
    realm.app(HELLO, "");
    realm.run(&["apply", "--yes"]).ok();
    agent.signal("TERM");
    std::iter::from_fn(|| agent.lines().next()).collect()
}

#[test]
fn json_lines_are_json_and_carry_their_fields() {
    let realm = Realm::new();
    let lines = said(&realm, agent(&realm, "info", &["--log-json"]));
    let events: Vec<serde_json::Value> = lines
        .iter()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let accepted = events
        .iter()
        .find(|event| event["fields"]["message"] == "entry accepted")
        .unwrap_or_else(|| panic!("no such event in {lines:?}"));
    assert_eq!(accepted["level"], "INFO");
    assert_eq!(accepted["fields"]["chain"], "default");
    assert_eq!(accepted["fields"]["seq"], 1);
    assert_eq!(accepted["fields"]["kind"], "manifest");
    assert!(accepted["timestamp"].is_string());
    // What is for a person stays text.
    assert!(lines.iter().any(|line| line == "stopped"), "{lines:?}");
}

#[test]
fn the_filter_decides_what_is_said() {
    let realm = Realm::new();
    let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
    let quiet = said(&realm, agent(&realm, "error", &[]));
    assert!(!has(&quiet, "entry accepted"), "{quiet:?}");
    let realm = Realm::new();
    let told = said(&realm, agent(&realm, "realm_node=info", &[]));
    assert!(has(&told, "entry accepted"), "{told:?}");
    assert!(!has(&told, "\u{1b}"), "no colours without a terminal");
}

#[test]
fn a_filter_that_is_none_is_told_and_the_default_holds() {
    let realm = Realm::new();
    let mut command = realm.command(&AGENT);
    command.env("REALM_LOG", "realm_node=loud");
    let agent = Running::start(command);
    agent
        .stderr
        .after("`realm_node=loud` in REALM_LOG is no filter");
    agent.stderr.after("answering on ");
    assert!(agent.interrupt().success());
}
