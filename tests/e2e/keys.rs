//! Power in a realm, as it is given and taken by the verbs: owner keys, recovery, delegates, readers, and
//! the end of a fork.

use std::thread;

use realm_model::api::Heads;
use realm_model::entry::{ChainId, NamespaceName};
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};
use serde_json::Value;

use crate::support::{AGENT, Agent, Realm, Said, app_manifest, eventually, get, mode};

/// The text of a file's path, for an argument.
fn file(realm: &Realm, name: &str) -> String {
    realm.path(name).display().to_string()
}

/// Makes a key in a file; its public key.
fn key(realm: &Realm, name: &str) -> String {
    let said = realm.run(&["delegate", "key", name]).ok();
    assert_eq!(mode(&realm.path(name)), 0o600);
    said.stdout.lines().next().unwrap().to_owned()
}

fn json(said: Said) -> Value {
    serde_json::from_str(&said.ok().stdout).unwrap()
}

/// Writes a manifest of this component alone.
fn manifest(realm: &Realm, name: &str, component: &str, guest: &str) {
    realm.guest(guest, &format!("{component}.wasm"));
    realm.write(
        name,
        &format!(
            "[components.{component}]\nsource = \"file:./{component}.wasm\"\n\n\
             [routing]\n\"*\" = [{{ path = \"/{component}/...\", component = \"{component}\" }}]\n"
        ),
    );
}

fn tip(heads: &Heads, namespace: &str) -> u64 {
    heads.namespaces[&namespace.parse::<NamespaceName>().unwrap()]
        .head
        .seq
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_gives_the_realm_to_a_new_key() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let old = realm.owner().public();
    realm
        .run(&["key", "rotate"])
        .fails(64, "confirmation-needed");
    assert_eq!(
        realm.owner().public(),
        old,
        "the key of record changes with the entry alone"
    );
    let shown = json(realm.run(&["--json", "key", "rotate", "--yes"]));
    let new = realm.owner().public();
    assert_ne!(new, old);
    assert_eq!(shown["key"], new.to_string());
    assert_eq!(realm.heads().await.owners, [new]);
    for name in [".realm/owner.key", ".realm/owner.key.old"] {
        assert_eq!(mode(&realm.path(name)), 0o600, "{name}");
    }
    assert!(!realm.path(".realm/owner.key.new").exists());
    // The old key signs nothing, the new one does, and what ran runs on.
    let with_old = &["--key", ".realm/owner.key.old", "restart", "app"];
    realm.run(with_old).fails(3, "wrong-owner");
    realm.run(&["restart", "app"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
    // A key that was made before, and a log that a person can read.
    let named = key(&realm, "next.key");
    realm
        .run(&["key", "rotate", "--new", "next.key", "--yes"])
        .ok();
    assert_eq!(realm.owner().public().to_string(), named);
    let log = realm.run(&["key", "log"]).ok().stdout;
    assert!(
        log.contains(&format!("gives the realm to {named}")),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_interrupted_goes_on() {
    let realm = Realm::new();
    let _agent = realm.agent();
    let (at, new) = (
        realm.path(".realm/owner.key"),
        realm.path(".realm/owner.key.new"),
    );
    // Before the entry: the prepared key is used.
    let prepared = key(&realm, ".realm/owner.key.new");
    key(&realm, "other.key");
    realm
        .run(&["key", "rotate", "--new", "other.key", "--yes"])
        .fails(1, "exists");
    realm.run(&["key", "rotate", "--yes"]).ok();
    assert_eq!(realm.owner().public().to_string(), prepared);
    // After the entry, before the files: no second entry.
    let seq = realm.heads().await.authority.seq;
    std::fs::rename(&at, &new).unwrap();
    std::fs::rename(realm.path(".realm/owner.key.old"), &at).unwrap();
    realm.run(&["key", "rotate", "--yes"]).ok();
    assert_eq!(realm.owner().public().to_string(), prepared);
    assert_eq!(realm.heads().await.authority.seq, seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_can_begin_with_a_recovery_key() {
    let realm = Realm::empty();
    realm
        .run(&["init", "--name", "node-1", "--recovery", "safe.key"])
        .ok();
    assert_eq!(mode(&realm.path("safe.key")), 0o600);
    let _agent = realm.agent();
    let first = realm.heads().await.recovery;
    assert_eq!(first.len(), 1);
    let second = key(&realm, "second.key");
    // The owner's key alone, which a thief may have, does not change who can take the realm back.
    let add = ["key", "recovery", "add", &second];
    realm.run(&add).fails(3, "wrong-owner");
    let with = |file: &'static str| ["--recovery-key", file];
    realm
        .run(&[&add[..], &with("second.key")].concat())
        .fails(3, "wrong-owner");
    realm.run(&[&add[..], &with("safe.key")].concat()).ok();
    let first_key = first[0].to_string();
    let remove = ["key", "recovery", "rm", &first_key, "--yes"];
    realm.run(&remove).fails(3, "wrong-owner");
    realm.run(&[&remove[..], &with("second.key")].concat()).ok();
    let rest: Vec<String> = realm
        .heads()
        .await
        .recovery
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(rest, std::slice::from_ref(&second));
    realm
        .run(&["key", "recovery", "rm", &first[0].to_string(), "--yes"])
        .fails(1, "unknown-name");
    // A key is one thing to the realm.
    realm
        .run(&["delegate", "add", "shop", &second, "--apps", "*", "--yes"])
        .fails(3, "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_key_takes_the_realm_back_from_a_thief() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let before = get(&agent.url("/")).await;
    realm
        .run(&["key", "recovery", "init", "--out", "safe.key"])
        .ok();
    assert_eq!(mode(&realm.path("safe.key")), 0o600);
    let heads = realm.heads().await;
    assert_eq!((heads.recovery.len(), heads.threshold), (1, 1));
    let listed = json(realm.run(&["--json", "key", "recovery", "ls"]));
    assert_eq!(listed["recovery"][0], heads.recovery[0].to_string());
    // The thief has a copy of the owner key: shuts the owner out, and runs something else.
    std::fs::copy(realm.path(".realm/owner.key"), realm.path("stolen.key")).unwrap();
    realm
        .run(&["--key", "stolen.key", "key", "rotate", "--yes"])
        .ok();
    realm.run(&["restart", "app"]).fails(3, "wrong-owner");
    realm.app(VERSION_B, "");
    realm.run(&["--key", "stolen.key", "apply", "--yes"]).ok();
    assert_ne!(get(&agent.url("/")).await, before);
    let first = (heads.authority.seq + 1).to_string();
    let owner = key(&realm, "fresh.key");
    let recover = |recovery: &str, from: &str| {
        let args = ["key", "recover", "--recovery-key", recovery, "--from", from];
        realm.run(&[&args[..], &["--owner", &owner, "--yes"]].concat())
    };
    recover("stolen.key", &first).fails(3, "wrong-owner");
    recover("safe.key", "99").fails(3, "gap");
    let said = recover("safe.key", &first).ok();
    assert!(
        said.stderr.contains("1 entries of namespace `default`"),
        "{}",
        said.stderr
    );
    let heads = realm.heads().await;
    assert_eq!((heads.version, heads.owners[0].to_string()), (1, owner));
    eventually("what the thief applied is gone", async || {
        (get(&agent.url("/")).await == before).then_some(())
    })
    .await;
    realm
        .run(&["--key", "stolen.key", "restart", "app"])
        .fails(3, "wrong-owner");
    realm.run(&["--key", "fresh.key", "restart", "app"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegate_has_a_namespace_of_its_own() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let team = key(&realm, "team.key");
    let add = [
        "delegate",
        "add",
        "shop",
        &team,
        "--apps",
        "shop-*",
        "--replicas-max",
        "2",
    ];
    realm
        .run(&["delegate", "add", "shop", "--apps", "a", "--yes"])
        .fails(64, "usage");
    let bad = [&add[..], &["--capabilities", "everything", "--yes"]].concat();
    realm.run(&bad).code_is(64);
    let add = [&add[..], &["--expires", "90d", "--yes"]].concat();
    realm.run(&add).ok();
    let listed = json(realm.run(&["--json", "delegate", "ls"]));
    let shop = &listed["delegates"][0];
    assert_eq!(
        (&shop["key"], &shop["role"]),
        (&team.as_str().into(), &"delegate".into())
    );
    assert!(shop["not_after_unix_s"].is_u64());

    let by_team = |args: &[&str]| {
        realm.run(&[&["--key", "team.key"], args, &["--namespace", "shop"]].concat())
    };
    manifest(&realm, "shop.toml", "shop-cart", VERSION_A);
    by_team(&["plan", "shop.toml"]).code_is(2);
    by_team(&["apply", "shop.toml", "--yes"]).ok();
    realm
        .run(&["verify", "shop.toml", "--namespace", "shop"])
        .ok();
    realm.run(&["verify", "shop.toml"]).fails(3, "wrong-chain");
    let url = agent.url("/shop-cart/");
    let first = get(&url).await;
    assert_eq!(first.0, 200);
    assert_eq!(realm.component("shop-cart").await.healthy, 1);
    realm.guest(VERSION_B, "new.wasm");
    by_team(&["push", "shop-cart", "new.wasm", "--manifest", "shop.toml"]).ok();
    assert_ne!(get(&url).await, first);
    by_team(&["restart", "shop-cart"]).ok();
    let heads = realm.heads().await;
    assert_eq!(
        (heads.version, tip(&heads, "shop")),
        (1, 3),
        "the owners' chain is as it was"
    );

    // Neither another name, nor another's namespace, nor the authority chain.
    manifest(&realm, "wide.toml", "bank", HELLO);
    by_team(&["apply", "wide.toml", "--yes"]).fails(3, "out-of-scope");
    realm
        .run(&["--key", "team.key", "restart", "app"])
        .fails(3, "wrong-owner");
    realm
        .run(&["--key", "team.key", "nodes", "cordon", "node-1"])
        .fails(3, "wrong-owner");
    realm
        .run(&["restart", "shop-cart", "--namespace", "shop"])
        .fails(3, "wrong-owner");
    realm
        .run(&["plan", "--namespace", "nobody"])
        .fails(1, "unknown-name");

    // The owner takes it back: what runs goes on, in other hands.
    realm.run(&["delegate", "rm", "shop", "--yes"]).ok();
    by_team(&["restart", "shop-cart"]).fails(3, "wrong-owner");
    assert_eq!(get(&url).await.0, 200);
    realm
        .run(&["restart", "shop-cart", "--namespace", "shop"])
        .ok();
    realm
        .run(&["delegate", "rm", "shop", "--yes"])
        .fails(1, "unknown-name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_and_changes_nothing() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    realm.write(
        ".realm/node.toml",
        "name = \"node-1\"\n[listen]\napi = \"127.0.0.1:0\"\n",
    );
    let agent = realm.agent();
    let address = agent.after("control API on ").trim().to_owned();
    realm.run(&["apply", "--yes"]).ok();
    let reader = key(&realm, "reader.key");
    let node = format!("{address}#{}", realm.heads().await.node_key);
    let by_reader =
        |args: &[&str]| realm.run(&[&["--node", &node, "--key", "reader.key"], args].concat());
    by_reader(&["status"]).code_is(3);
    let said = realm
        .run(&["delegate", "add", "eyes", "--key", &reader, "--yes"])
        .ok();
    assert!(said.stdout.contains("is a reader"), "{}", said.stdout);
    let status = by_reader(&["status"]).ok().stdout;
    assert!(status.contains("app"), "{status}");
    by_reader(&["logs", "app"]).ok();
    by_reader(&["key", "log"]).ok();
    by_reader(&["restart", "app"]).fails(3, "wrong-owner");
    by_reader(&["audit"]).fails(3, "forbidden");
    realm.run(&["delegate", "rm", "eyes", "--yes"]).ok();
    by_reader(&["status"]).code_is(3);
}

/// A second machine, let in by `approve`.
async fn joined(alpha: &Realm, approve: impl Fn()) -> (Realm, Agent) {
    let beta = Realm::empty();
    let ticket = alpha.run(&["invite"]).ok().stdout;
    beta.run(&["join", ticket.trim(), "--name", "beta"]).ok();
    let shown = json(beta.run(&["--json", "node", "show"]));
    assert_eq!(shown["approved_as"], Value::Null);
    let command = beta.command(&AGENT);
    let starting = thread::spawn(move || Agent::start(command));
    let asks = eventually("beta asks", async || {
        let pending = alpha.status().await.pending;
        pending
            .into_iter()
            .find(|pending| pending.name.as_str() == "beta")
    });
    assert_eq!(shown["key"], asks.await.key.to_string());
    approve();
    let agent = tokio::task::block_in_place(|| starting.join().unwrap());
    (beta, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegate_who_may_approve_lets_a_node_in() {
    let alpha = Realm::new();
    let _agent = alpha.agent();
    let (porter, other) = (key(&alpha, "porter.key"), key(&alpha, "other.key"));
    alpha
        .run(&["delegate", "add", "door", &porter, "--may-approve", "--yes"])
        .ok();
    alpha
        .run(&["delegate", "add", "shop", &other, "--apps", "*", "--yes"])
        .ok();
    let approve = |key: &str| {
        alpha.run(&[
            "--key",
            key,
            "nodes",
            "approve",
            "beta",
            "--expires",
            "30d",
            "--yes",
        ])
    };
    let (beta, _other) = joined(&alpha, || {
        approve("other.key").fails(3, "wrong-owner");
        approve("porter.key").ok();
    })
    .await;
    let shown = json(beta.run(&["--json", "node", "show"]));
    assert_eq!(shown["approved_as"], "beta");
    let shown_key: realm_model::key::PublicKey = shown["key"].as_str().unwrap().parse().unwrap();
    assert_eq!(shown["peer_id"], shown_key.peer_id());
    assert_eq!(shown["words"], serde_json::json!(shown_key.words()));
    alpha
        .run(&["--key", "porter.key", "nodes", "revoke", "beta", "--yes"])
        .fails(3, "wrong-owner");
}

/// Two nodes, each of which takes an entry that the other does not hear of until both are there again.
async fn forked(change: impl Fn(&Realm, &str, &str)) -> (Realm, Agent, Realm, Agent) {
    let alpha = Realm::new();
    alpha.app(HELLO, "");
    let first = alpha.agent();
    let (beta, second) = joined(&alpha, || {
        alpha.run(&["nodes", "approve", "beta", "--yes"]).ok();
    })
    .await;
    alpha.run(&["apply", "--yes"]).ok();
    eventually("beta has it", async || {
        (beta.heads().await.version == 1).then_some(())
    })
    .await;
    let owner = file(&alpha, ".realm/owner.key");
    second.terminate();
    change(&alpha, &owner, "alpha");
    first.signal("STOP");
    let second = beta.agent();
    change(&beta, &owner, "beta");
    first.signal("CONT");
    for realm in [&alpha, &beta] {
        eventually("the fork is seen", async || {
            (!realm.heads().await.forks.is_empty()).then_some(())
        })
        .await;
    }
    (alpha, first, beta, second)
}

/// The two entries of the one fork at this node: the one that is in force here first.
fn sides(realm: &Realm, chain: &str) -> [Value; 2] {
    let shown = json(realm.run(&["--json", "resolve"]));
    let fork = &shown["forks"][0];
    assert_eq!(fork["chain"], chain);
    let (one, other) = (fork["entries"][0].clone(), fork["entries"][1].clone());
    if one["here"] == true {
        [one, other]
    } else {
        [other, one]
    }
}

/// Waits until both have one history, and the same one.
async fn settled(alpha: &Realm, beta: &Realm) -> Heads {
    eventually("one history", async || {
        let (one, other) = (alpha.heads().await, beta.heads().await);
        let same = one.authority == other.authority && one.namespaces == other.namespaces;
        (same && one.forks.is_empty() && other.forks.is_empty()).then_some(one)
    })
    .await
}

/// Facts §5, cases 10 and 11.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_says_which_of_two_manifests_holds() {
    let (alpha, _first, beta, _second) = forked(|realm, owner, name| {
        realm.guest(HELLO, "app.wasm");
        realm.write(
            "realm.toml",
            &app_manifest(&format!("env = {{ WHO = \"{name}\" }}")),
        );
        realm
            .run(&["--key", owner, "apply", "--yes", "--no-wait"])
            .ok();
    })
    .await;
    alpha.run(&["restart", "app"]).fails(3, "frozen");
    let text = alpha.run(&["resolve", "default"]).ok().stdout;
    for part in [
        "entry 2 has two versions",
        "applies version 2",
        "(in force at node-1)",
        "WHO",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let [_, theirs] = sides(&alpha, "default");
    let keep = theirs["hash"].as_str().unwrap();
    alpha
        .run(&["resolve", "default", "--keep", "sha256:ffff"])
        .fails(64, "unknown-name");
    alpha
        .run(&["resolve", "default", "--keep", keep])
        .fails(64, "confirmation-needed");
    alpha
        .run(&["resolve", "default", "--keep", keep, "--yes"])
        .ok();
    let heads = settled(&alpha, &beta).await;
    assert_eq!(heads.default.hash.to_string(), keep);
    assert!(heads.manifest.unwrap().contains("beta"));
    alpha.run(&["resolve", "default"]).fails(1, "no-fork");
    alpha.run(&["restart", "app", "--no-wait"]).ok();
}

/// Facts §5, case 10, on the authority chain.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_the_authority_chain_is_recovered_and_the_kept_entry_signed_again() {
    let (alpha, _first, beta, _second) = forked(|realm, owner, name| {
        realm
            .run(&["--key", owner, "nodes", "tag", "beta", name])
            .ok();
    })
    .await;
    alpha.run(&["nodes", "cordon", "beta"]).fails(3, "frozen");
    let [ours, _] = sides(&beta, "authority");
    assert_eq!(ours["kind"], "approve-node");
    let keep = ours["hash"].as_str().unwrap();
    alpha
        .run(&["resolve", "authority", "--keep", keep, "--yes"])
        .ok();
    settled(&alpha, &beta).await;
    for realm in [&alpha, &beta] {
        let status = realm.status().await;
        let node = status
            .nodes
            .iter()
            .find(|node| node.name.as_str() == "beta")
            .unwrap();
        assert_eq!(node.vouched_tags, ["beta"]);
    }
    let client = beta.client();
    let chain = client.entries(ChainId::Authority, 0).await.unwrap();
    let kinds: Vec<&str> = chain
        .entries
        .iter()
        .rev()
        .map(|entry| entry.kind.as_str())
        .collect();
    assert_eq!(kinds[..2], ["approve-node", "recover"]);
    alpha.run(&["nodes", "cordon", "beta"]).ok();
}
