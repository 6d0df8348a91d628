//! A session at the command line, from nothing to a refusal, as a person reads it.

use realm_model::digest::Digest;
use realm_test_guests::{CHATTY, VERSION_B};

use crate::support::{Agent, Realm, get};

/// A session: what was typed, and what came back.
struct Session<'a> {
    realm: &'a Realm,
    /// What differs from run to run, and what stands for it.
    names: Vec<(String, &'static str)>,
    transcript: String,
}

impl<'a> Session<'a> {
    fn new(realm: &'a Realm) -> Self {
        Self {
            realm,
            names: Vec::new(),
            transcript: String::new(),
        }
    }

    /// From now on `value` is written as `name`. Longer values come first.
    fn name(&mut self, value: impl Into<String>, name: &'static str) {
        self.names.push((value.into(), name));
    }

    /// Runs a verb, and writes down both outputs and an exit code other than 0.
    fn run(&mut self, args: &[&str]) {
        let said = self.realm.run(args);
        self.transcript += &format!("$ realm {}\n{}{}", args.join(" "), said.stdout, said.stderr);
        if said.code != 0 {
            self.transcript += &format!("(exit code {})\n", said.code);
        }
        self.transcript.push('\n');
    }

    fn text(&self) -> String {
        let mut text = self.transcript.clone();
        for (value, name) in &self.names {
            text = text.replace(value, name);
        }
        let lines = text.lines().filter(|line| !is_progress(line));
        let lines: Vec<String> = lines.map(without_times_and_sizes).collect();
        lines.join("\n")
    }
}

/// `   0.3s  app  starting 0/1 …`: how many there are depends on the machine.
fn is_progress(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    line.starts_with("  ")
        && first
            .strip_suffix('s')
            .is_some_and(|number| number.parse::<f64>().is_ok())
}

/// `2026-01-31T12:00:00.123Z` → `TIME`, `53 KiB` → `N KiB`, `(53 bytes)` → `(N bytes)`.
fn without_times_and_sizes(line: &str) -> String {
    let is_time =
        |word: &str| word.len() == 24 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let words: Vec<&str> = line.split(' ').collect();
    let next = words.iter().skip(1).chain([&""]);
    let words = words.iter().zip(next).map(|(word, next)| match *next {
        _ if is_time(word) => "TIME",
        "KiB," => "N",
        "bytes)" => "(N",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_a_refusal() {
    let realm = Realm::empty();
    let mut session = Session::new(&realm);
    session.run(&["init", "--name", "node-1"]);
    session.run(&["key", "show"]);
    let agent: Agent = realm.agent();
    let heads = realm.heads().await;
    let owner = heads.owners[0];
    session.name(owner.words().join(" "), "SIX WORDS OF THE OWNER");
    session.name(owner.to_string(), "ed25519:OWNER");
    session.name(heads.realm.to_string(), "realm:ID");
    session.name(agent.url.clone(), "http://NODE");
    for (guest, long, short) in [
        (CHATTY, "sha256:CHATTY", "CHATTY"),
        (VERSION_B, "sha256:VERSION-B", "VERSION-B"),
    ] {
        let digest = Digest::of(&std::fs::read(guest).unwrap());
        session.name(digest.to_string(), long);
        session.name(digest.short(), short);
    }
    realm.app(CHATTY, "");
    session.run(&["plan"]);
    session.run(&["apply", "--yes"]);
    assert_eq!(get(&agent.url("/lines?n=2&stream=stderr")).await.0, 200);
    session.run(&["status"]);
    realm.guest(VERSION_B, "new.wasm");
    session.run(&["push", "app", "new.wasm"]);
    assert_eq!(get(&agent.url("/")).await.1, "version b\n");
    session.run(&["logs", "app"]);
    session.run(&["verify"]);
    session.run(&["apply", "--sign-only", "entry"]);
    session.run(&["submit", "entry"]);
    session.run(&["submit", "entry"]);
    realm.write("realm.lock", "version = 9\n");
    session.run(&["verify"]);
    session.run(&["status"]);
    insta::assert_snapshot!(session.text(), @r#"
    $ realm init --name node-1
    made realm:ID in .realm
    owner ed25519:OWNER
    words SIX WORDS OF THE OWNER
    node  node-1
    keep a copy of the owner key offline; next: `realm up realm.toml`

    $ realm key show
    ed25519:OWNER
    SIX WORDS OF THE OWNER

    $ realm plan
    + component app
        pin = sha256:CHATTY (N bytes)
        source = "file:./app.wasm"
    + route * /...
        component = "app"
        replicas = 1
    plan: 2 to add, 0 to change, 0 to remove

    NODE    COMPONENT  REPLICAS  VERSION
    node-1  app        0 → 1     1
    (exit code 2)

    $ realm apply --yes
    + component app
        pin = sha256:CHATTY (N bytes)
        source = "file:./app.wasm"
    + route * /...
        component = "app"
        replicas = 1
    plan: 2 to add, 0 to change, 0 to remove
    uploaded app: N KiB, sha256:CHATTY
    version 1 is in force, as entry 1
    `app` is as wanted

    $ realm status
    realm:ID  version 1  node node-1 (realm 0.1.0)  http://NODE
    owner ed25519:OWNER (SIX WORDS OF THE OWNER)

    COMPONENT  STATE    READY  DIGEST        ROUTES  WHY
    app        healthy  1/1    CHATTY  /...

    $ realm push app new.wasm
    uploaded app: N KiB, sha256:VERSION-B
    `app` is sha256:VERSION-B from version 2 on
    `app` is as wanted

    $ realm logs app
    TIME app/0 err line 0
    TIME app/0 err line 1

    $ realm verify
    good signature on realm.toml: version 2, entry 2 of realm:ID
    by ed25519:OWNER (SIX WORDS OF THE OWNER)
    signed TIME by the signer's clock

    $ realm apply --sign-only entry
    ~ component app
        pin: sha256:VERSION-B (N bytes) → sha256:CHATTY (N bytes)
    plan: 0 to add, 1 to change, 0 to remove
    warning: `app` goes back to the bytes of its `source`: others were put there by `realm push` or `realm rollback`; to keep them, have `source` lead to them
    signed, not submitted: `realm submit entry`

    $ realm submit entry
    accepted as entry 3 of `default`; version 3 is in force

    $ realm submit entry
    error[replayed]: exactly this entry was accepted already
    hint: nothing to do: it is in force already
    (exit code 3)

    $ realm verify
    error[invalid-lock]: realm.lock has no pin of `app`
    hint: run `realm apply realm.toml` to resolve the sources again
    (exit code 3)

    $ realm status
    realm:ID  version 3  node node-1 (realm 0.1.0)  http://NODE
    owner ed25519:OWNER (SIX WORDS OF THE OWNER)

    COMPONENT  STATE    READY  DIGEST        ROUTES  WHY
    app        healthy  1/1    CHATTY  /...

    refused since the agent started: replayed 1
    "#);
}
