//! What a person reads before `apply`, and what never counts as a change.

use proptest::prelude::*;
use realm_model::lock::Lock;
use realm_model::manifest::{Manifest, parse};

use super::{ChangeKind, changes, render, summary};
use crate::testing::{key, lock};

const BEFORE: &str = r#"
[nodes.bm-01]
tags = ["metal"]

[components.auth]
source = "file:auth.wasm"
memory_max_mb = 64
env = { RUST_LOG = "info" }

[components.orders]
source = "file:orders.wasm"
allowed_outbound = ["postgres://db.internal:5432"]
health = "/healthz"

[routing]
"bm-01" = [
  { path = "/auth/...", component = "auth", replicas = 2 },
  { path = "/orders/...", component = "orders", replicas = 3 },
]

[secrets]
jwt_pub = "age-encrypted:AAAA"
"#;

const BUILDS: [(&str, &str); 2] = [("auth", "1"), ("orders", "1")];

#[test]
fn a_first_manifest_adds_everything() {
    check(None, &read(BEFORE, &BUILDS), |text| {
        insta::assert_snapshot!(text, @r#"
    + node bm-01
        tags = ["metal"]
    + component auth
        env.RUST_LOG = "info"
        memory_max_mb = 64
        pin = sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b (1 bytes)
        source = "file:auth.wasm"
    + component orders
        allowed_outbound = ["postgres://db.internal:5432"]
        health.failures = 3
        health.interval_ms = 10000
        health.path = "/healthz"
        health.timeout_ms = 2000
        pin = sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b (1 bytes)
        source = "file:orders.wasm"
    + route bm-01 /auth/...
        component = "auth"
        replicas = 2
    + route bm-01 /orders/...
        component = "orders"
        replicas = 3
    + secret jwt_pub
        ciphertext = sha256:9502e09307afeedead9e4ee52aa35b17cca3f9ff841d9e09e636d27e1f0983a5
    plan: 6 to add, 0 to change, 0 to remove
    "#)
    });
}

#[test]
fn each_changed_key_shows_both_values() {
    let owner = key("owner").public();
    let after = format!("[owner]\npubkey = \"{owner}\"\n{BEFORE}")
        .replace("memory_max_mb = 64", "memory_max_mb = 128\nfuel_per_sec = 5_000_000\nreuse = true\nclock = \"precise\"")
        .replace("RUST_LOG = \"info\"", "RUST_LOG = \"debug\\u001b[31m\", EXTRA = \"1\"")
        .replace("[\"postgres://db.internal:5432\"]", "[]\nargs = [\"-v\"]\ndirs = [\"/srv::/data::rw\"]\nrestart = \"never\"\nsecrets = [\"jwt_pub\"]\nvars = { A = \"b\" }\nserve = \"cgi\"\nworld = \"wasi:cli/command\"")
        .replace("health = \"/healthz\"", "health = \"export\"")
        .replace("tags = [\"metal\"]", "tags = [\"metal\", \"eu\"]\naddr_hint = \"/dns/a.example/udp/443/quic-v1\"")
        .replace("replicas = 2", "replicas = 4")
        .replace("AAAA", "BBBB")
        .replace("[routing]", "[components.chat]\nsource = \"file:chat\"\nlisten = 80\n[components.report]\nsource = \"file:report\"\nschedule = \"@daily\"\n\n[routing]");
    let builds = [
        ("auth", "2"),
        ("chat", "1"),
        ("orders", "1"),
        ("report", "1"),
    ];
    let after = read(&after, &builds);
    let before = read(BEFORE, &BUILDS);
    check(Some(&before), &after, |text| {
        insta::assert_snapshot!(text, @r#"
    + owner of the manifest
        pubkey = ed25519:EWFZJuFzfx1bdWH5wa67KL1joEvYhGF5m6cL9mjHp1V
    ~ node bm-01
        addr_hint = "/dns/a.example/udp/443/quic-v1"
        tags: ["metal"] → ["metal", "eu"]
    ~ component auth
        clock: "coarse" → "precise"
        env.EXTRA = "1"
        env.RUST_LOG: "info" → "debug\u{1b}[31m"
        fuel_per_sec = 5000000
        memory_max_mb: 64 → 128
        pin: sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b (1 bytes) → sha256:d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35 (1 bytes)
        reuse: false → true
    + component chat
        listen = 80
        pin = sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b (1 bytes)
        serve = "socket"
        source = "file:chat"
    ~ component orders
        allowed_outbound: ["postgres://db.internal:5432"] → []
        args: [] → ["-v"]
        dirs: [] → ["/srv::/data::rw"]
        health.export = true
        health.path: "/healthz" → (not set)
        restart: "always" → "never"
        secrets: [] → ["jwt_pub"]
        serve = "cgi"
        vars.A = "b"
        world = "wasi:cli/command"
    + component report
        pin = sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b (1 bytes)
        restart = "on-failure"
        schedule = "@daily UTC"
        serve = "job"
        source = "file:report"
        wall_timeout_ms = 3600000
    ~ route bm-01 /auth/...
        replicas: 2 → 4
    ~ secret jwt_pub
        ciphertext: sha256:9502e09307afeedead9e4ee52aa35b17cca3f9ff841d9e09e636d27e1f0983a5 → sha256:b7fe756ec5b2de80ccae8463661a7944fd7b03972a5d0825071066de7d8c4517
    plan: 3 to add, 5 to change, 0 to remove
    "#)
    });
}

#[test]
fn what_is_gone_takes_one_line() {
    let after = r#"
[components.auth]
source = "file:auth.wasm"
memory_max_mb = 64
env = { RUST_LOG = "info" }

[routing]
"bm-01" = [{ host = "a.example", path = "/auth/...", component = "auth", replicas = 2 }]
"#;
    let after = read(after, &[("auth", "1")]);
    let before = read(BEFORE, &BUILDS);
    check(Some(&before), &after, |text| {
        insta::assert_snapshot!(text, @r#"
    - node bm-01
    - component orders
    - route bm-01 /auth/...
    - route bm-01 /orders/...
    + route bm-01 a.example/auth/...
        component = "auth"
        replicas = 2
    - secret jwt_pub
    plan: 1 to add, 0 to change, 5 to remove
    "#)
    });
}

#[test]
fn a_default_that_is_written_out_is_no_change() {
    let after = BEFORE.replace(
        "source = \"file:auth.wasm\"",
        "# a comment\nsource = \"file:auth.wasm\"\nreuse = false\nclock = \"coarse\"\nmax_concurrency = 64\nargs = []",
    );
    let (manifest, mut pins) = read(&format!("version = 7\n{after}"), &BUILDS);
    pins.version = 7;
    check(Some(&read(BEFORE, &BUILDS)), &(manifest, pins), |text| {
        assert_eq!(text, "plan: nothing to change\n");
    });
}

proptest! {
    /// A diff with itself is empty; a diff and its reverse swap what is added and removed.
    #[test]
    fn a_diff_and_its_reverse_agree(one in variant(), two in variant()) {
        let (one, two) = (read(&one.0, &one.1), read(&two.0, &two.1));
        prop_assert_eq!(changes(Some((&one.0, &one.1)), (&one.0, &one.1)), vec![]);
        let there = changes(Some((&one.0, &one.1)), (&two.0, &two.1));
        let back = changes(Some((&two.0, &two.1)), (&one.0, &one.1));
        prop_assert_eq!(there.len(), back.len());
        prop_assert_eq!(there.is_empty(), one == two);
        for (there, back) in there.iter().zip(&back) {
            prop_assert_eq!((there.subject, &there.name), (back.subject, &back.name));
            let expected = match there.kind {
                ChangeKind::Added => ChangeKind::Removed,
                ChangeKind::Changed => ChangeKind::Changed,
                ChangeKind::Removed => ChangeKind::Added,
            };
            prop_assert_eq!(back.kind, expected);
        }
        let end = summary(&there) + "\n";
        prop_assert!(render(&there).ends_with(&end));
    }
}

/// A small manifest with its builds.
fn variant() -> impl Strategy<Value = (String, Vec<(&'static str, &'static str)>)> {
    let build = prop::sample::select(vec!["1", "2"]);
    let component = (any::<bool>(), 1..3u8, build);
    (component.clone(), component, 1..3u8).prop_map(|(a, b, replicas)| {
        let mut text = String::new();
        let mut pins = Vec::new();
        for (name, (present, mb, build)) in [("a", a), ("b", b)] {
            if present {
                text += &format!(
                    "[components.{name}]\nsource = \"file:{name}\"\nmemory_max_mb = {mb}\n[[routing.here]]\npath = \"/{name}\"\ncomponent = \"{name}\"\nreplicas = {replicas}\n"
                );
                pins.push((name, build));
            }
        }
        (text, pins)
    })
}

fn read(text: &str, builds: &[(&str, &str)]) -> (Manifest, Lock) {
    let (manifest, problems) = parse(text);
    (
        manifest.unwrap_or_else(|| panic!("{problems:?}")),
        lock(1, builds),
    )
}

fn check(before: Option<&(Manifest, Lock)>, after: &(Manifest, Lock), expect: impl Fn(&str)) {
    let before = before.map(|(manifest, lock)| (manifest, lock));
    expect(&render(&changes(before, (&after.0, &after.1))));
}
