//! A new version replaces the old one under load, and a bad one does not.

use realm_test_guests::{
    BAD_IMPORT, CGI_HELLO, HEALTH_BAD, HELLO, LIBRARY, TRAP, VERSION_A, VERSION_B, WATCHER_DRAFT,
    WATCHER_DRAFT2, WORKER, WORKFLOWS,
};

use crate::support::{Load, Realm, get};

/// Both versions answer 200 with their name.
fn a_or_b(status: u16, body: &str) -> bool {
    status == 200 && (body == "version a\n" || body == "version b\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_a_new_version_under_load_loses_no_request() {
    let realm = Realm::new();
    realm.app(VERSION_A, "max_concurrency = 64");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let load = Load::start(agent.url("/"), 8, a_or_b);
    load.more(200).await;
    for round in 0..3 {
        let guest = if round % 2 == 0 { VERSION_B } else { VERSION_A };
        // The bytes and the settings change at once.
        realm.app(guest, &format!("max_concurrency = {}", 65 + round));
        tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
        let wanted = if round % 2 == 0 {
            "version b\n"
        } else {
            "version a\n"
        };
        assert_eq!(get(&agent.url("/")).await, (200, wanted.to_owned()));
        load.more(200).await;
    }
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "{good} good; {first_bad:?}");
    assert_eq!(realm.component("app").await.old, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_under_load_without_a_lost_request() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let replicas = |n: u32| {
        let text = crate::support::app_manifest("");
        realm.write(
            "realm.toml",
            &text.replace(
                "component = \"app\"",
                &format!("component = \"app\", replicas = {n}"),
            ),
        );
        realm.run(&["apply", "--yes"]).ok();
    };
    let agent = realm.agent();
    replicas(1);
    let load = Load::start(agent.url("/"), 8, a_or_b);
    for n in [4, 2, 1] {
        tokio::task::block_in_place(|| replicas(n));
        assert_eq!(realm.component("app").await.healthy, n);
        load.more(100).await;
    }
    let (_, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "{first_bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn push_and_restart_under_load_lose_no_request() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let load = Load::start(agent.url("/"), 8, a_or_b);
    load.more(50).await;
    realm.guest(VERSION_B, "new.wasm");
    let lock = realm.read("realm.lock");
    tokio::task::block_in_place(|| realm.run(&["push", "app", "new.wasm"]).ok());
    assert_eq!(get(&agent.url("/")).await.1, "version b\n");
    // The pin moved, here and in the signature, and the manifest did not.
    assert_ne!(realm.read("realm.lock"), lock);
    realm.run(&["verify"]).ok();
    // The source on disk is still the old one: a plan says what apply would do.
    let plan = realm.run(&["plan"]);
    assert_eq!(plan.code, 2, "{}", plan.stdout);
    assert!(plan.stdout.contains("~ component app"), "{}", plan.stdout);
    let again = tokio::task::block_in_place(|| realm.run(&["push", "app", "new.wasm"]).ok());
    assert!(
        again.stderr.contains("nothing to change"),
        "{}",
        again.stderr
    );
    let before = realm.heads().await.default.seq;
    tokio::task::block_in_place(|| realm.run(&["restart", "app", "--nodes", "node-1"]).ok());
    assert_eq!(realm.heads().await.default.seq, before + 1);
    load.more(50).await;
    let (_, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "{first_bad:?}");
    realm
        .run(&["restart", "app", "--nodes", "nowhere"])
        .fails(3, "unknown-name");
    realm
        .run(&["push", "ghost", "new.wasm"])
        .fails(1, "unknown-name");
}

/// A version that cannot run is reported with its reason, and the old one goes on serving.
async fn keeps_the_old(guest: &str, more: &str, code: &str, reason: &str) {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let load = Load::start(agent.url("/"), 2, a_or_b);
    realm.app(guest, more);
    let said = tokio::task::block_in_place(|| realm.run(&["apply", "--yes", "--timeout", "8s"]));
    let said = said.fails(1, code);
    assert!(
        said.stderr.contains(reason),
        "no `{reason}` in:\n{}",
        said.stderr
    );
    load.more(50).await;
    let status = realm.run(&["status"]).ok().stdout;
    assert!(status.contains(reason), "no `{reason}` in:\n{status}");
    let (_, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "{first_bad:?}");
    // The way back: what served all the time.
    realm.app(VERSION_A, "");
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(realm.component("app").await.healthy, 1);
    assert_eq!(get(&agent.url("/")).await.1, "version a\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_a_missing_import_leaves_the_old_one_serving() {
    keeps_the_old(BAD_IMPORT, "", "not-running", "import").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_serves_nothing_leaves_the_old_one_serving() {
    keeps_the_old(LIBRARY, "", "not-running", "exports no").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_version_leaves_the_old_one_serving() {
    keeps_the_old(
        HEALTH_BAD,
        "health = \"export\"",
        "not-running",
        "database is down",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_traps_in_its_probe_leaves_the_old_one_serving() {
    keeps_the_old(TRAP, "health = \"/\"", "not-running", "(trap)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_do_not_compile_leave_the_old_one_serving() {
    let realm = Realm::new();
    // A component of one module, and in it a function that owes an `i32`.
    let module = b"\0asm\x01\0\0\0\x01\x05\x01\x60\0\x01\x7f\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b";
    let component = [b"\0asm\x0d\0\x01\0\x01\x19", &module[..]].concat();
    std::fs::write(realm.path("broken.wasm"), component).unwrap();
    let broken = realm.path("broken.wasm");
    keeps_the_old(
        broken.to_str().unwrap(),
        "",
        "not-running",
        "compile-failed",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_world_are_not_even_signed() {
    let realm = Realm::new();
    realm.guest(CGI_HELLO, "command.wasm");
    realm.app(HELLO, "serve = \"http\"");
    let _agent = realm.agent();
    let refused = |args: &[&str], hint: &str| {
        let said = realm.run(args).fails(1, "wrong-world");
        assert!(said.stderr.contains(hint), "{}", said.stderr);
    };
    let apply = ["apply", "--yes", "--no-wait"];
    for key in [
        "serve = \"cgi\"",
        "serve = \"socket\"",
        "world = \"wasi:cli/command\"",
    ] {
        realm.app(HELLO, key);
        refused(&apply, "write `serve = \"http\"`");
    }
    for key in ["serve = \"http\"", "world = \"wasi:http/proxy\""] {
        realm.app(CGI_HELLO, key);
        refused(&apply, "write `serve = \"cgi\"`");
    }
    assert_eq!(realm.heads().await.version, 0);
    realm.app(HELLO, "serve = \"http\"");
    realm.run(&apply).ok();
    refused(&["push", "app", "command.wasm"], "write `serve = \"cgi\"`");
    assert_eq!(realm.heads().await.version, 1);
    // Where nothing is written, the bytes decide.
    realm.app(HELLO, "");
    realm.run(&apply).ok();
    realm
        .run(&["push", "app", "command.wasm", "--no-wait"])
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_the_handler_that_the_manifest_has_called_are_not_even_signed() {
    let realm = Realm::new();
    let _agent = realm.agent();
    let manifest = |interface: &str, key: &str| {
        let binding =
            format!("[bindings.data]\ninterface = \"{interface}\"\nbackend = \"embedded\"\n");
        let bind = "bind = { default = \"data\" }\n";
        format!("{binding}[components.app]\nsource = \"file:./app.wasm\"\n{bind}{key}\n")
    };
    let watch = manifest("wasi:keyvalue", "watch = [\"default\"]");
    let subscribe = manifest("wasi:messaging", "subscribe = { jobs = {} }");
    let workflows = manifest("realm:cloud/workflows", "workflows = { order = {} }");
    // Each of the other handlers is not the one that is wanted.
    for (manifest, guests, key) in [
        (&watch, [HELLO, WORKER, WORKFLOWS], "`watch`"),
        (
            &subscribe,
            [HELLO, WATCHER_DRAFT2, WORKFLOWS],
            "`subscribe`",
        ),
        (&workflows, [HELLO, WATCHER_DRAFT2, WORKER], "`workflows`"),
    ] {
        realm.write("realm.toml", manifest);
        for guest in guests {
            realm.guest(guest, "app.wasm");
            let said = realm.run(&["apply", "--yes"]).fails(1, "no-handler");
            assert!(said.stderr.contains(key), "{guest}: {}", said.stderr);
        }
    }
    assert_eq!(realm.heads().await.version, 0);
    // What has it runs, and is not replaced by what has it not.
    realm.write("realm.toml", &watch);
    realm.guest(WATCHER_DRAFT, "app.wasm");
    realm.run(&["apply", "--yes"]).ok();
    realm.guest(HELLO, "new.wasm");
    realm
        .run(&["push", "app", "new.wasm"])
        .fails(1, "no-handler");
    assert_eq!(realm.heads().await.version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_says_which_push_it_takes_back() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    realm.guest(VERSION_B, "new.wasm");
    let agent = realm.agent();
    let note = "`app` goes back to the bytes of its `source`";
    let said = realm.run(&["apply", "--yes"]).ok();
    assert!(!said.stderr.contains(note), "{}", said.stderr);
    realm.run(&["push", "app", "new.wasm"]).ok();
    // Also after the agent read its log anew.
    agent.kill_9();
    let planned = realm.run(&["plan"]).code_is(2);
    assert!(planned.stderr.contains(note), "{}", planned.stderr);
    let agent = realm.agent();
    let planned = realm.run(&["plan", "--json"]).code_is(2);
    let planned: serde_json::Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(planned["taken_back"], serde_json::json!(["app"]));
    let said = realm.run(&["apply", "--yes"]).ok();
    assert!(said.stderr.contains(note), "{}", said.stderr);
    assert_eq!(get(&agent.url("/")).await.1, "version a\n");
    // Taken back, it is no push any more; and where the source has what was pushed, nothing is.
    realm.app(VERSION_A, "env = { A = \"1\" }");
    let said = realm.run(&["apply", "--yes"]).ok();
    assert!(!said.stderr.contains(note), "{}", said.stderr);
    realm.run(&["push", "app", "new.wasm"]).ok();
    realm.app(VERSION_B, "env = { A = \"2\" }");
    let said = realm.run(&["apply", "--yes"]).ok();
    assert!(!said.stderr.contains(note), "{}", said.stderr);
    assert_eq!(get(&agent.url("/")).await.1, "version b\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gives_no_answer_is_not_taken_for_missing_bytes() {
    let realm = Realm::new();
    let _agent = realm.agent();
    let digest = realm_model::digest::Digest::of(b"bytes");
    assert!(!realm.client().has(&digest).await.unwrap());
    std::fs::rename(realm.path(".realm/blobs"), realm.path("elsewhere")).unwrap();
    realm.write(".realm/blobs", "no folder");
    match realm.client().has(&digest).await {
        Err(realm_node::ClientError::Refused(error)) => assert_eq!(error.code, "store-failed"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_wasm_are_not_even_signed() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    realm.write("junk.wasm", "\0asm, but not really");
    realm
        .run(&["push", "app", "junk.wasm"])
        .fails(1, "not-wasm");
    std::fs::copy(realm.path("junk.wasm"), realm.path("app.wasm")).unwrap();
    realm.run(&["apply", "--yes"]).fails(1, "not-wasm");
    assert_eq!(realm.heads().await.version, 1);
    assert_eq!(get(&agent.url("/")).await.1, "version a\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn push_brings_bytes_that_were_signed_elsewhere() {
    let realm = Realm::new();
    realm.app(VERSION_A, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    realm.guest(VERSION_B, "app.wasm");
    realm.run(&["apply", "--sign-only", "entry"]).ok();
    realm.run(&["submit", "entry"]).ok();
    assert_eq!(get(&agent.url("/")).await.1, "version a\n");
    let pushed = realm.run(&["push", "app", "app.wasm"]).ok();
    assert!(pushed.stderr.contains("uploaded app"), "{}", pushed.stderr);
    assert_eq!(get(&agent.url("/")).await.1, "version b\n");
    assert_eq!(realm.heads().await.version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_component_and_route_go_away() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
    realm.write("realm.toml", "");
    realm.run(&["apply", "--yes"]).ok();
    let (status, body) = get(&agent.url("/")).await;
    assert_eq!(status, 404);
    assert!(body.contains("no-route"), "{body}");
    let gone = crate::support::eventually("the component goes away", async || {
        realm.status().await.components.is_empty().then_some(())
    });
    gone.await;
}
