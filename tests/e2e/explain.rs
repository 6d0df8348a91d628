//! `realm explain` and the placement in `realm plan`: what is said of nodes that are drained, lost or not
//! meant, and of a build that does not start; from every node alike.

use realm_model::api::AskPlacement;
use realm_model::entry::NamespaceName;
use realm_model::why::{ExplainView, Verdict};
use realm_node::ClientError;
use realm_test_guests as guests;
use serde_json::Value;

use crate::realms::Realms;
use crate::support::{Realm, eventually};

fn manifest(list: &str, keys: &str) -> String {
    format!(
        "[components.app]\nsource = \"file:app.wasm\"\nhealth = \"/\"\n\n[routing]\n\
         \"{list}\" = [{{ path = \"/app/...\", component = \"app\", {keys} }}]\n"
    )
}

/// What a node says of `app`.
async fn explained(realms: &Realms, at: usize) -> ExplainView {
    let app = "app".parse().unwrap();
    let client = realms.nodes[at].realm.client();
    client.explain(&app).await.unwrap()
}

/// Waits until a node's verdict is this one.
async fn until(realms: &Realms, at: usize, verdict: Verdict) -> ExplainView {
    eventually(&format!("the verdict {verdict:?}"), async || {
        let view = explained(realms, at).await;
        (view.verdict.code == verdict).then_some(view)
    })
    .await
}

/// `node: replicas code,code` of each node.
fn places(view: &ExplainView) -> Vec<String> {
    let places = view.nodes.iter().map(|one| {
        let codes: Vec<&str> = one.reasons.iter().map(|one| one.code.as_str()).collect();
        format!("{}: {} {}", one.node, one.replicas, codes.join(","))
    });
    places.collect()
}

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    let found = text
        .lines()
        .find(|line| line.trim_start().starts_with(start));
    found.unwrap_or_else(|| panic!("no line `{start}` in:\n{text}"))
}

/// A line of a table without the width of its columns.
fn cells(text: &str, start: &str) -> String {
    let words: Vec<&str> = line(text, start).split_whitespace().collect();
    words.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_says_where_a_component_runs_and_why_not_elsewhere() {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    let first = realms.first();
    first.realm.guest(guests::VERSION_A, "app.wasm");
    for node in ["alpha", "beta"] {
        realms.as_owner(0, &["nodes", "tag", node, "web"]).ok();
    }
    realms.as_owner(0, &["nodes", "drain", "beta"]).ok();

    // What would be is told before it is.
    let text = manifest("tag:web", "replicas = 2");
    first.realm.write("realm.toml", &text);
    let before = first.realm.heads().await.default;
    let plan = first.run(&["plan"]).code_is(2).stdout;
    assert!(plan.contains("+ component app"), "{plan}");
    assert_eq!(cells(&plan, "alpha"), "alpha app 0 → 2 1");
    assert_eq!(
        line(&plan, "app:"),
        "  app: beta (drained); gamma (tag-missing)"
    );
    let full = first.run(&["plan", "--why"]).code_is(2).stdout;
    assert_eq!(
        line(&full, "app: gamma"),
        "  app: gamma has not the tag `web`"
    );
    let json: Value = serde_json::from_str(&first.run(&["plan", "--json"]).stdout).unwrap();
    let app = &json["placement"]["components"][0];
    assert_eq!((&app["wanted"], &app["version"]), (&2.into(), &1.into()));
    assert_eq!(app["nodes"][1]["reasons"][0]["code"], "drained");
    assert_eq!(
        first.realm.heads().await.default,
        before,
        "nothing is signed"
    );

    realms.apply(&text);
    for at in 0..3 {
        let view = until(&realms, at, Verdict::AsWanted).await;
        let expected = ["alpha: 2 placed", "beta: 0 drained", "gamma: 0 tag-missing"];
        assert_eq!(places(&view), expected, "by {}", view.node);
        assert_eq!((view.wanted, view.running, view.current), (2, 2, 2));
        assert!(view.reasons.is_empty(), "{:?}", view.reasons);
    }
    eventually("both have proven themselves", async || {
        let view = explained(&realms, 2).await;
        (view.nodes[0].versions == [1] && view.nodes[0].unproven == 0).then_some(())
    })
    .await;
    let said = realms.as_owner(2, &["explain", "app"]).ok().stdout;
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("app: 2 of 2 run"));
    let about = lines.next().unwrap();
    assert!(
        about.starts_with("version 1 (") && about.ends_with("routes: tag:web /app/..."),
        "{about}"
    );
    let alpha = "alpha 2 2 healthy 1 ranks highest for 2 replicas of `tag:web`";
    assert_eq!(cells(&said, "alpha"), alpha);
    assert_eq!(
        cells(&said, "beta"),
        "beta - - - - is drained: it runs nothing"
    );
    assert_eq!(cells(&said, "gamma"), "gamma - - - - has not the tag `web`");

    // Nothing would change, and it is still told where everything is.
    let plan = first.run(&["plan"]).code_is(0).stdout;
    assert!(
        plan.starts_with("plan: nothing to change, version 1 is in force"),
        "{plan}"
    );
    assert_eq!(cells(&plan, "alpha"), "alpha app 2 1");

    let unknown = first.run(&["explain", "ap"]).fails(3, "unknown-name");
    assert!(
        unknown.stderr.contains("did you mean `app`?"),
        "{}",
        unknown.stderr
    );

    // The last node that may have it goes: nobody has it, and it is said what to do.
    realms.as_owner(0, &["nodes", "drain", "alpha"]).ok();
    let view = until(&realms, 2, Verdict::Nowhere).await;
    let codes: Vec<&str> = view
        .reasons
        .iter()
        .map(|one| one.reason.code.as_str())
        .collect();
    assert!(codes.starts_with(&["drained"]), "{codes:?}");
    let said = realms.as_owner(2, &["explain", "app"]).ok().stdout;
    assert!(said.starts_with("app: no node shall run it; "), "{said}");
    assert!(
        said.contains("hint: `realm nodes uncordon alpha` ends that"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordon_a_missing_tag_and_a_limit_of_a_node_are_told_apart() {
    let mut realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display();
    // Of the three machines one allows the directory.
    let alpha = &mut realms.nodes[0];
    alpha.node_toml(&format!("[guests]\ndirs = [\"{data}\"]\n"));
    drop(alpha.take());
    alpha.start();
    realms.all_meet().await;
    let first = realms.first();
    first.realm.guest(guests::VERSION_A, "app.wasm");
    for node in ["alpha", "beta"] {
        realms
            .as_owner(0, &["nodes", "tag", node, "arch-arm64"])
            .ok();
    }
    realms.as_owner(0, &["nodes", "cordon", "beta"]).ok();
    let text = manifest("tag:arch-arm64", "per_node = true")
        .replace("health =", &format!("dirs = [\"{data}::/data\"]\nhealth ="));
    first.realm.write("realm.toml", &text);

    // Before it is signed.
    let plan = first.run(&["plan"]).code_is(2).stdout;
    assert_eq!(cells(&plan, "alpha"), "alpha app 0 → 1 1");
    assert_eq!(cells(&plan, "beta"), "beta app 0 → 1 (cordoned) 1");
    assert_eq!(line(&plan, "app:"), "  app: gamma (tag-missing)");
    let full = first.run(&["plan", "--why"]).code_is(2).stdout;
    assert_eq!(
        line(&full, "app: beta"),
        "  app: beta is cordoned: nothing new begins there"
    );
    assert_eq!(
        line(&full, "app: gamma"),
        "  app: gamma has not the tag `arch-arm64`"
    );

    // When it is, and every node says the same.
    realms.apply(&text);
    for at in 0..3 {
        let expected = [
            "alpha: 1 pinned",
            "beta: 1 pinned,cordoned",
            "gamma: 0 tag-missing",
        ];
        // A node that has much to do is not reached for a moment.
        eventually(&format!("{expected:?} by {at}"), async || {
            let view = explained(&realms, at).await;
            let is_so = view.verdict.code == Verdict::AsWanted && places(&view) == expected;
            is_so.then_some(())
        })
        .await;
        let said = realms.as_owner(at, &["explain", "app"]).ok().stdout;
        assert!(said.starts_with("app: 1 of 1 run\n"), "{said}");
        let beta = "beta - - - - is cordoned: nothing new begins there";
        assert_eq!(cells(&said, "beta"), beta);
        assert_eq!(
            cells(&said, "gamma"),
            "gamma - - - - has not the tag `arch-arm64`"
        );
        assert!(said.contains("hint: `realm nodes uncordon beta`"), "{said}");
    }

    // A node that may have it by what is signed, and not by what its own operator allows.
    realms
        .as_owner(0, &["nodes", "tag", "gamma", "arch-arm64"])
        .ok();
    for at in 0..3 {
        let what = format!("{} says what gamma denies", realms.nodes[at].name);
        let view = eventually(&what, async || {
            let view = explained(&realms, at).await;
            let mut waits = view.nodes[2].waiting_on.iter();
            waits
                .any(|one| one.message.contains("dir-denied"))
                .then_some(view)
        })
        .await;
        let expected = [
            "alpha: 1 pinned",
            "beta: 1 pinned,cordoned",
            "gamma: 1 pinned",
        ];
        assert_eq!(places(&view), expected, "by {}", view.node);
        let said = realms.as_owner(at, &["explain", "app"]).ok().stdout;
        // Beta's is none of the two.
        let first = said.lines().next().unwrap();
        assert!(first.starts_with("app: 1 of 2 run; gamma: "), "{said}");
        assert!(first.contains("dir-denied"), "{said}");
        assert!(
            said.contains("hint: allow the directory in node.toml of that node"),
            "{said}"
        );
    }
    let plan = realms.first().run(&["plan"]).code_is(0).stdout;
    assert_eq!(cells(&plan, "beta"), "beta app 1 (cordoned) 1");
    assert_eq!(cells(&plan, "gamma"), "gamma app 1 1");
    // It is answered there all the same, by the node that runs it.
    let (status, body) = realms.nodes[2].get("/app/").await;
    assert_eq!((status, body.as_str()), (200, "version a\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_lost_and_a_build_that_does_not_start_are_named() {
    let mut realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    realms.apply(&manifest("*", "replicas = 2, lost_after = \"2s\""));
    let view = until(&realms, 0, Verdict::AsWanted).await;
    let has = |view: &ExplainView, at: usize| view.nodes[at].replicas > 0;
    // The first node has the owner's key, and is asked.
    let dies = (1..3).find(|at| has(&view, *at)).unwrap();
    let spare = (0..3).find(|at| !has(&view, *at)).unwrap();
    assert_eq!(view.nodes[spare].reasons[0].code, "outranked");
    let dead = realms.nodes[dies].name;
    realms.nodes[dies].kill_9();
    let view = eventually("another one stands in", async || {
        let view = explained(&realms, 0).await;
        let stands_in = view.nodes[spare].reasons[0].code == "stands-in";
        (stands_in && view.verdict.code == Verdict::AsWanted).then_some(view)
    })
    .await;
    assert_eq!(view.nodes[dies].reasons[0].code, "lost");
    let said = realms.first().run(&["explain", "app"]).ok().stdout;
    let lost = line(&said, "lost");
    let names = format!("lost {dead}: has not been reached for ");
    assert!(lost.trim_start().starts_with(&names), "{said}");
    let stands_in = format!("stands in for `{dead}` with 1 replica");
    assert!(said.contains(&stands_in), "{said}");

    realms.first().realm.guest(guests::TRAP_START, "bad.wasm");
    let push = ["push", "app", "bad.wasm", "--no-wait"];
    realms.first().run(&push).ok();
    let view = eventually("the new version is tried", async || {
        let view = explained(&realms, 0).await;
        let failing = |code: &str| ["backoff", "failed"].contains(&code);
        let failing = view.reasons.iter().any(|one| failing(&one.reason.code));
        (failing && view.version == Some(2)).then_some(view)
    })
    .await;
    assert_eq!(view.verdict.code, Verdict::Updating, "{:?}", view.verdict);
    assert!(
        view.verdict
            .message
            .starts_with("2 of 2 run, 0 with version 2; ")
    );
    let first = &view.reasons[0];
    assert!(
        first.node.is_some() && first.reason.hint.is_some(),
        "{first:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_plan_places_by_the_log_and_what_is_no_manifest_is_refused() {
    let realm = Realm::new();
    realm.app(guests::HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let client = realm.client();
    let heads = realm.heads().await;
    let (manifest, lock) = (heads.manifest.unwrap(), heads.lock.unwrap());
    let refused = async |manifest: &str, lock: &str| {
        let asked = AskPlacement {
            namespace: NamespaceName::DEFAULT,
            manifest: manifest.to_owned(),
            lock: lock.to_owned(),
        };
        match client.placement(&asked).await {
            Err(ClientError::Refused(error)) => error.code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused("nonsense", &lock).await, "invalid-manifest");
    assert_eq!(refused(&manifest, "nonsense").await, "invalid-lock");
    let large = "#".repeat(12 * 1024 * 1024);
    assert_eq!(refused(&large, &lock).await, "oversized");
    drop(agent);
    let plan = realm.run(&["plan"]).code_is(0).stdout;
    assert_eq!(cells(&plan, "node-1"), "node-1 app 1 1");
}

/// What no node may run is in force, and nothing of it fails: it is not as wanted all the same.
#[test]
fn apply_and_status_say_what_no_node_runs() {
    let realm = Realm::new();
    realm.guest(guests::HELLO, "app.wasm");
    let written = manifest("*", "replicas = 1");
    let other = written
        .replace("[components.app]", "[components.other]")
        .replace("\"*\" =", "\"tag:edge\" =")
        .replace("/app/...", "/other")
        .replace("component = \"app\"", "component = \"other\"");
    let (components, routes) = written.split_once("[routing]\n").unwrap();
    let (others, other_routes) = other.split_once("[routing]\n").unwrap();
    let both = format!("{components}{others}[routing]\n{routes}{other_routes}");
    realm.write("realm.toml", &both);
    let agent = realm.agent();
    let applied = realm.run(&["apply", "--yes"]).ok();
    line(&applied.stderr, "1 of 2 components are as wanted");
    let nowhere =
        "warning: `other`: 0 of 1 run; waits for a node with the tag `edge`: `realm explain other`";
    line(&applied.stderr, nowhere);

    realm.run(&["nodes", "drain", "node-1"]).ok();
    realm.write("realm.toml", &written.replace("/app/...", "/apps/..."));
    let applied = realm.run(&["apply", "--yes"]);
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    let said = applied.stderr;
    assert!(!said.contains("as wanted"), "{said}");
    line(&said, "it is in force, and nothing failed");
    line(
        &said,
        "warning: `app`: no node shall run it; node-1: is drained: it runs nothing: `realm explain app`",
    );
    let status = realm.run(&["status"]).ok().stdout;
    assert!(
        line(&status, "app").ends_with("node `node-1` is drained: it runs nothing"),
        "{status}"
    );
    drop(agent);
}
