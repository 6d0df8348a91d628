//! Machines become one realm, and are worked with from anywhere: joining, what is applied on one
//! node and runs on others, verbs without an agent beside them, keys that may only look.

use realm_model::entry::Body;
use realm_model::key::SecretKey;
use realm_model::view::ReachState;
use realm_test_guests::{BAD_IMPORT, CHATTY, COUNTER, HELLO, VERSION_A, VERSION_B};

use crate::realms::{Realms, decree, delegation, pinned, write_key};
use crate::support::{Realm, app_manifest, eventually, said};

const THREE: [(&str, &str, &str); 3] = [
    ("hello", HELLO, "alpha"),
    ("chatty", CHATTY, "beta"),
    ("app", VERSION_A, "gamma"),
];

fn places() -> Vec<(&'static str, &'static str)> {
    THREE.iter().map(|(name, _, node)| (*name, *node)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_asks_to_join_and_is_approved_by_its_words() {
    let mut realms = Realms::meet(&["alpha"]).await;
    realms.add("beta");
    realms.invite(1);
    let shown = realms.nodes[1].run(&["key", "show"]).ok().stdout;
    let beta = realms.nodes[1].begin();
    let words = beta.stderr.after("words ").trim().to_owned();
    assert!(shown.contains(&words), "{shown}");
    assert_eq!(words, realms.nodes[1].key().public().words().join(" "));
    beta.stderr.after("asked to join");
    let listed = realms.first().run(&["nodes", "ls"]).ok().stdout;
    assert!(
        listed.contains(&words) && listed.contains("beta"),
        "{listed}"
    );
    assert!(listed.contains("127.0.0.1"), "where it asks from: {listed}");
    // Without a word of the owner it is no node.
    assert!(
        !realms
            .first()
            .status()
            .await
            .nodes
            .iter()
            .any(|node| node.name.as_str() == "beta")
    );
    realms
        .first()
        .run(&["nodes", "approve", "one two three four five six", "--yes"])
        .fails(1, "unknown-name");
    realms
        .first()
        .run(&["nodes", "approve", &words, "--yes"])
        .ok();
    realms.nodes[1].runs(beta);
    realms.all_meet().await;
    let status = realms.first().status().await;
    assert!(status.pending.is_empty(), "{:?}", status.pending);
    eventually("how it is reached, and how far it is", async || {
        let reach = realms.first().sees("beta").await.reach;
        (reach.how.is_some() && reach.rtt_us.is_some()).then_some(())
    })
    .await;
}

/// What a machine says of itself is vouched for by who saw it; what an approval says stays, when
/// only its end is changed.
#[tokio::test(flavor = "multi_thread")]
async fn proposed_tags_count_when_they_are_named_and_an_approval_is_renewed_by_name() {
    let mut realms = Realms::meet(&["alpha"]).await;
    realms.add("beta");
    let ticket = realms.ticket();
    let tags = ["join", &ticket, "--name", "beta", "--tags", "gpu"];
    realms.nodes[1].run(&tags).ok();
    let shown = realms.nodes[1].run(&["node", "show"]).ok().stdout;
    let realm = realms.first().status().await.realm.to_string();
    assert!(shown.contains(&realm), "{shown}");
    let words = realms.nodes[1].key().public().words().join(" ");
    let failed = realms.nodes[1]
        .run(&["status"])
        .fails(4, "waits-for-approval");
    assert!(failed.stderr.contains("no agent asks"), "{}", failed.stderr);
    let beta = realms.nodes[1].begin();
    beta.stderr.after("asked to join");
    let failed = realms.nodes[1]
        .run(&["status"])
        .fails(4, "waits-for-approval");
    let said = failed.stderr;
    assert!(
        said.contains(&words) && said.contains("the agent waits"),
        "{said}"
    );
    let hint = format!("hint: where the owner's key is: `realm nodes approve \"{words}\"`");
    assert!(said.contains(&hint), "{said}");
    let approve = |args: &[&str]| {
        let approve = ["nodes", "approve"];
        let said = realms.first().run(&[&approve, args, &["--yes"]].concat());
        said.ok().stderr
    };
    let said = approve(&["beta"]);
    assert!(said.contains("tags:  (none)"), "{said}");
    let vouched = async || realms.first().sees("beta").await.vouched_tags;
    assert!(vouched().await.is_empty());
    realms.first().run(&["nodes", "tag", "beta", "metal"]).ok();
    approve(&["beta", "--expires", "30d"]);
    assert_eq!(vouched().await, ["metal"]);
    let ends = realms.first().sees("beta").await.not_after_unix_s;
    assert!(ends.is_some());
    let listed = realms.first().run(&["nodes", "ls"]).ok().stdout;
    assert!(listed.contains("ENDS"), "{listed}");
    let key = realms.nodes[1].key().public().to_string();
    approve(&[&key, "--tags", "cloud"]);
    assert_eq!(vouched().await, ["cloud"]);
    let node = realms.first().sees("beta").await;
    assert_eq!((node.name.as_str(), node.not_after_unix_s), ("beta", None));
    realms.nodes[1].runs(beta);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_on_one_node_runs_on_all_and_bytes_come_from_peers() {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.apply(&pinned(&THREE));
    realms.run_there(&places()).await;
    assert_eq!(
        realms.nodes[0].get("/hello/").await,
        (200, "hello\n".to_owned())
    );
    assert_eq!(
        realms.nodes[2].get("/app/").await,
        (200, "version a\n".to_owned())
    );
    // One node alone has the file; each says of all what runs there.
    for node in realms.running() {
        let what = format!("{} knows what runs elsewhere", node.name);
        eventually(&what, async || {
            let status = node.status().await;
            let healthy = places().into_iter().all(|(name, at)| {
                let component = status
                    .components
                    .iter()
                    .find(|one| one.name.as_str() == name);
                let there = component.and_then(|one| one.nodes.get(&at.parse().unwrap()));
                there.is_some_and(|there| there.healthy == 1 && there.why.is_none())
            });
            (healthy && status.alarms.is_empty()).then_some(())
        })
        .await;
    }
    // What is pushed to the first reaches the node that runs it.
    let first = realms.first();
    first.realm.guest(VERSION_B, "b.wasm");
    first.run(&["push", "app", "b.wasm"]).ok();
    eventually("the new version is served", async || {
        (realms.nodes[2].get("/app/").await.1 == "version b\n").then_some(())
    })
    .await;
    realms.converge().await;
}

/// Whoever applies is told how it went everywhere, and not just where it was handed over.
#[tokio::test(flavor = "multi_thread")]
async fn apply_waits_for_every_node_that_is_reached() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    let applied = |realms: &Realms, at: &str| {
        let first = realms.first();
        first
            .realm
            .write("realm.toml", &pinned(&[("app", at, "beta")]));
        first.run(&["apply", "--yes", "--timeout", "10s"])
    };
    for (version, body) in [(VERSION_A, "version a\n"), (VERSION_B, "version b\n")] {
        applied(&realms, version).ok();
        assert_eq!(
            realms.nodes[1].get("/app/").await,
            (200, body.to_owned()),
            "it is served when `apply` has ended"
        );
    }
    let failed = applied(&realms, BAD_IMPORT).fails(1, "not-running");
    assert!(failed.stderr.contains("app on beta"), "{}", failed.stderr);
    realms.nodes[1].kill_9();
    eventually("beta is missed", async || {
        let reach = realms.first().sees("beta").await.reach;
        (reach.state == ReachState::Lost).then_some(())
    })
    .await;
    let alone = applied(&realms, VERSION_A).ok();
    for said in [
        "`app` is as wanted on every node that is reached",
        "warning: beta is not reached: it takes this up when it is back",
    ] {
        assert!(alone.stderr.contains(said), "{}", alone.stderr);
    }
}

/// A node that was approved a moment ago is waited for; one that never comes is told of, and counts.
#[tokio::test(flavor = "multi_thread")]
async fn apply_waits_a_moment_for_a_node_that_was_never_heard_of() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.add("gamma");
    realms.invite(2);
    realms.approve(2, &[]);
    let manifest = app_manifest("").replace("\"app\" }", "\"app\", per_node = true }");
    let first = realms.first();
    first.realm.guest(VERSION_A, "app.wasm");
    first.realm.write("realm.toml", &manifest);
    let applied = first.run(&["apply", "--yes"]).ok();
    for said in [
        "degraded 2/3",
        "`app` is as wanted on every node that is reached",
        "warning: gamma was not heard of yet: it takes this up when its agent runs and is reached",
    ] {
        assert!(applied.stderr.contains(said), "{}", applied.stderr);
    }
    let status = first.run(&["status"]).ok().stdout;
    let row = status
        .lines()
        .find(|line| line.starts_with("app "))
        .unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        words[1..4],
        ["degraded", "2/3", "alpha,beta,gamma"],
        "{row}"
    );
    assert!(
        row.ends_with("gamma: the node was not heard of yet"),
        "{row}"
    );
    // It comes while `apply` waits.
    first.realm.guest(VERSION_B, "app.wasm");
    let apply = first.command(&["apply", "--yes"]);
    let applying = std::thread::spawn(move || said(apply));
    realms.nodes[2].start();
    let applied = applying.join().unwrap().ok();
    assert!(
        applied.stderr.ends_with("`app` is as wanted\n"),
        "{}",
        applied.stderr
    );
    assert_eq!(
        realms.nodes[2].get("/").await,
        (200, "version b\n".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_carried_out_where_it_is_meant() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    let source = format!("source = \"file:{COUNTER}\"\nreuse = true\n");
    let manifest = app_manifest("").replace("\"app\" }", "\"app\", per_node = true }");
    realms.apply(&manifest.replace("source = \"file:./app.wasm\"\n", &source));
    realms.run_there(&[("app", "alpha"), ("app", "beta")]).await;
    let count = async |at: usize| {
        let (status, body) = realms.nodes[at].get("/").await;
        assert_eq!(status, 200, "{body}");
        body.trim().parse::<u32>().unwrap()
    };
    for expected in 1..=3 {
        assert_eq!((count(0).await, count(1).await), (expected, expected));
    }
    realms
        .first()
        .run(&["restart", "app", "--nodes", "beta", "--no-wait"])
        .ok();
    let (mut last, mut on_alpha) = (3, 3);
    eventually("an instance that has served nobody", async || {
        let before = std::mem::replace(&mut last, count(1).await);
        // One that nobody asks would be given back.
        on_alpha += 1;
        assert_eq!(count(0).await, on_alpha, "nothing is restarted on alpha");
        (last <= before).then_some(())
    })
    .await;
    assert_eq!(last, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_what_runs_elsewhere_say_where() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[("app", VERSION_A, "beta")]));
    realms.run_there(&[("app", "beta")]).await;
    eventually("alpha names the node", async || {
        let said = realms.first().run(&["logs", "app"]).ok();
        let named = said.stderr.contains("`realm --node beta logs app`");
        (named && said.stdout.is_empty()).then_some(())
    })
    .await;
    let there = realms.nodes[1].run(&["logs", "app"]).ok();
    assert!(
        !there.stderr.contains("runs on other nodes"),
        "{}",
        there.stderr
    );
}

/// The verbs, from a folder without a realm, over a ticket and a key file alone.
#[tokio::test(flavor = "multi_thread")]
async fn verbs_need_no_agent_beside_them_and_a_reader_looks_and_changes_nothing() {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.apply(&pinned(&THREE));
    realms.run_there(&places()).await;
    let away = Realm::empty();
    write_key(&away, "owner.key", &realms.first().realm.owner());
    away.guest(VERSION_B, "b.wasm");
    let ticket = realms.ticket();
    let with = |key: &str, args: &[&str]| {
        said(away.command(&[&["--node", &ticket, "--key", key], args].concat()))
    };
    let status = with("owner.key", &["--json", "status"]).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(realms.nodes[1].get("/chatty/lines?n=2").await.0, 200);
    with("owner.key", &["push", "app", "b.wasm"]).ok();
    eventually("the new version is served", async || {
        (realms.nodes[2].get("/app/").await.1 == "version b\n").then_some(())
    })
    .await;
    with("owner.key", &["restart", "hello"]).ok();
    with("owner.key", &["nodes", "ls"]).ok();
    // A node by its name: from the folder of one, to another, with that one's agent down or up.
    let logs = realms
        .first()
        .run(&["--node", "beta", "logs", "chatty"])
        .ok()
        .stdout;
    assert!(logs.contains("line 1"), "{logs}");

    let looker = SecretKey::from_seed(&[13; 32]);
    write_key(&away, "reader.key", &looker);
    with("reader.key", &["status"]).fails(4, "no-agent");
    decree(
        realms.first(),
        Body::Delegate(delegation("lookers", looker.public())),
    )
    .await;
    with("reader.key", &["status"]).ok();
    with("reader.key", &["logs", "hello"]).ok();
    let before = realms.first().head().await;
    for (args, code) in [
        (&["push", "app", "b.wasm"][..], 3),
        (&["restart", "hello"], 3),
        (&["nodes", "drain", "beta"], 3),
        (&["exec", &ticket, "--", "true"], 3),
        (&["invite"], 3),
    ] {
        let said = with("reader.key", args);
        assert_eq!(said.code, code, "{args:?}: {}", said.stderr);
    }
    assert_eq!(realms.first().head().await, before);
    assert_eq!(
        realms.first().sees("beta").await.reach.state,
        ReachState::Direct
    );
}

/// A node, or a tag, that `realm.toml` does not list is worth a word while the realm has none either.
#[tokio::test(flavor = "multi_thread")]
async fn apply_warns_of_an_unlisted_node_until_it_is_approved() {
    let mut realms = Realms::meet(&["alpha"]).await;
    realms.first().realm.guest(HELLO, "hello.wasm");
    let manifest = "[components.hello]\nsource = \"file:hello.wasm\"\n\n[routing]\n\
        \"beta\" = [{ path = \"/...\", component = \"hello\" }]\n\
        'tag:metal' = [{ path = \"/metal/...\", component = \"hello\" }]\n";
    realms.first().realm.write("realm.toml", manifest);
    let warned = |realms: &Realms, args: &[&str]| {
        let said = realms.first().run(args);
        let has = |code: &str| said.stderr.contains(&format!("warning[{code}]"));
        (has("unlisted-node"), has("unlisted-tag"))
    };
    let apply = ["apply", "--yes", "--no-wait"];
    assert_eq!(warned(&realms, &["plan"]), (true, true));
    assert_eq!(warned(&realms, &apply), (true, true));
    // Approval without the tag is half of it.
    realms.add("beta");
    realms.invite(1);
    realms.approve(1, &[]);
    assert_eq!(warned(&realms, &["plan"]), (false, true));
    realms.first().run(&["nodes", "tag", "beta", "metal"]).ok();
    assert_eq!(warned(&realms, &["plan"]), (false, false));
    assert_eq!(warned(&realms, &apply), (false, false));
    realms
        .first()
        .run(&["nodes", "revoke", "beta", "--yes"])
        .ok();
    assert_eq!(warned(&realms, &["plan"]), (true, true));
}
