//! Commands on other nodes: directly, and passed on by a node that is in between; off unless the
//! node says otherwise, written down there, and each request good once.

use std::time::{SystemTime, UNIX_EPOCH};

use realm_model::digest::Digest;
use realm_model::key::SecretKey;
use realm_model::request::{Asked, SignedRequest};
use realm_test_guests::PROGRAM;

use crate::realms::{Realms, write_key};
use crate::support::Running;

const ALLOWED: &str = "[exec]\nallow = [\"owner\"]\nrun = [\"owner\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn case_32_commands_run_on_the_node_that_is_meant_and_are_off_by_default() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    let exec =
        |realms: &Realms, command: &str| realms.first().run(&["exec", "beta", "--", command]);
    exec(&realms, "true").fails(3, "exec-off");
    realms.nodes[1].take().terminate();
    realms.nodes[1].node_toml(ALLOWED);
    realms.nodes[1].start();
    realms.all_meet().await;
    // It runs there: the folder that it sees is beta's.
    let seen = exec(
        &realms,
        "tr '\\0' '\\n' < /proc/$PPID/environ | grep ^PWD; echo err >&2; exit 7",
    )
    .code_is(7);
    assert!(seen.stderr.contains("err"), "{}", seen.stderr);
    let process = exec(&realms, "echo $PPID").ok().stdout;
    assert_eq!(process.trim(), realms.nodes[1].agent().id().to_string());
    // The same from a machine that knows a ticket alone: it names the way, not the node.
    realms.add("outside");
    let ticket = realms.ticket();
    let by_ticket = |node: &str| {
        let args = ["--node", &ticket, "exec", node, "--", "echo $PPID"];
        realms.as_owner(2, &args)
    };
    let process = by_ticket("beta").ok().stdout;
    assert_eq!(process.trim(), realms.nodes[1].agent().id().to_string());
    // A script calls again and again: connections of programs that ended are not in the way.
    for _ in 0..8 {
        realms.as_owner(2, &["--node", &ticket, "nodes", "ls"]).ok();
    }
    a_long_call_outlives_one_that_was_killed(&realms, &ticket);
    by_ticket("alpha").fails(3, "exec-off");
    by_ticket("nobody").fails(1, "unknown-name");
    // Alpha itself still runs nothing.
    realms
        .first()
        .run(&["exec", "alpha", "--", "true"])
        .fails(3, "exec-off");
    // Ctrl-C passes through both hops.
    let trap = "trap 'echo got it; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let running = Running::start(realms.first().command(&["exec", "beta", "--", trap]));
    running.stdout.after("ready");
    running.signal("INT");
    assert_eq!(running.stdout.after("got"), " it");
    assert_eq!(running.ended().code(), Some(3));
    let owner = realms.first().realm.owner().public().to_string();
    // Each is written down there, with who it was, what, and how it ended; nothing of it elsewhere.
    let audited = |at: usize, what: &str| {
        let page = realms.nodes[at].run(&["--json", "audit"]).ok().stdout;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let entries = page["entries"].as_array().unwrap().iter();
        let of_exec = entries.filter(|entry| {
            entry["call"] == "exec" && entry["what"].as_str().unwrap().contains(what)
        });
        of_exec.cloned().collect::<Vec<_>>()
    };
    for (what, outcome) in [("grep ^PWD", "7"), ("echo ready; while", "3")] {
        let entries = audited(1, what);
        let [entry] = &entries[..] else {
            panic!("{what}: {entries:?}");
        };
        assert_eq!(
            (&entry["caller"], &entry["role"]),
            (&owner.as_str().into(), &"owner".into())
        );
        assert_eq!(entry["outcome"], outcome, "{entry:#}");
        let (began, ended) = (
            entry["began_unix_ms"].as_u64(),
            entry["ended_unix_ms"].as_u64(),
        );
        assert!(began.is_some() && began <= ended, "{entry:#}");
        assert_eq!(audited(0, what), Vec::<serde_json::Value>::new());
    }
    // A component as well, with this machine's file.
    realms.first().realm.guest(PROGRAM, "program.wasm");
    let ran = realms
        .first()
        .run(&["--node", "beta", "run", "program.wasm", "--", "exit", "33"]);
    ran.code_is(33);
}

/// The caller has no agent, and knows alpha's address alone: alpha passes its commands on.
#[tokio::test(flavor = "multi_thread")]
async fn case_32_a_node_in_between_passes_a_command_on_and_cannot_use_it_again() {
    let mut realms = Realms::in_lab(None, &["alpha", "beta", "gamma"], ALLOWED).await;
    realms.nodes[2].take().terminate();
    let (alpha, gamma) = (realms.first().key().public().to_string(), &realms.nodes[2]);
    let mut book: serde_json::Value =
        serde_json::from_str(&gamma.realm.read(".realm/peers.json")).unwrap();
    book["nodes"]
        .as_object_mut()
        .unwrap()
        .retain(|node, _| *node == alpha);
    book["named"] = serde_json::json!([]);
    gamma.realm.write(".realm/peers.json", &book.to_string());
    let process = realms
        .as_owner(2, &["exec", "beta", "--", "echo $PPID"])
        .ok()
        .stdout;
    assert_eq!(process.trim(), realms.nodes[1].agent().id().to_string());
    write_key(&gamma.realm, "other.key", &SecretKey::from_seed(&[5; 32]));
    let other = gamma.run(&["--key", "other.key", "exec", "beta", "--", "touch ran"]);
    assert_ne!(other.code, 0, "{}", other.stderr);
    // What somebody saw on its way is good for beta, and was good once.
    let heads = realms.nodes[1].realm.heads().await;
    let command = "{\"command\":[\"true\"]}";
    let asked = Asked {
        realm: heads.realm,
        target: heads.node_key,
        method: "POST",
        path: "/v1/exec",
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let soon = u64::try_from(now).unwrap() + 60_000;
    let owner = realms.first().realm.owner();
    let digest = Digest::of(command.as_bytes());
    let signed = SignedRequest::sign(&asked, digest, [9; 16], soon, &owner).to_header();
    let send = |at: usize| {
        let socket = realms.nodes[at].realm.path(".realm/agent.sock");
        crate::remote::send(&socket, &signed, command).0
    };
    assert_eq!(send(0), "wrong-target");
    assert_eq!(send(1), "upgrade-required");
    assert_eq!(send(1), "replayed-request");
}

/// The node misses the caller that is gone only after seconds, and not the other one with the same key.
fn a_long_call_outlives_one_that_was_killed(realms: &Realms, ticket: &str) {
    let owner = realms.first().realm.path(".realm/owner.key");
    let owner = owner.to_str().unwrap();
    let call = |command: &str| {
        let args = [
            "--key", owner, "--node", ticket, "exec", "beta", "--", command,
        ];
        Running::start(realms.nodes[2].command(&args))
    };
    let killed = call("echo ready; sleep 100");
    killed.stdout.after("ready");
    killed.signal("KILL");
    killed.ended();
    let long = call("echo ready; sleep 9; echo still there");
    long.stdout.after("ready");
    assert_eq!(long.stdout.after("still"), " there");
    assert!(long.ended().success());
}
