//! Both ways to ask for health, and what a bad answer leads to.

use realm_model::view::ComponentState;
use realm_test_guests::{BAD_IMPORT, HEALTH_FLAKY, HEALTH_OK, HEALTH_PATH, HELLO};

use crate::support::{Realm, eventually, get};

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_health_function_is_asked() {
    let realm = Realm::new();
    realm.app(HEALTH_OK, "health = \"export\"");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
    let inspected = realm.run(&["inspect", "app.wasm"]).ok().stdout;
    assert!(inspected.contains("health:  exported"), "{inspected}");
    // Asking for a function that is not there is a mistake that no restart mends.
    realm.app(HELLO, "health = \"export\"");
    let said = realm.run(&["apply", "--yes"]).fails(1, "not-running");
    assert!(said.stderr.contains("realm:app/health"), "{}", said.stderr);
    assert!(
        said.stderr.contains("hint: `realm inspect FILE`"),
        "{}",
        said.stderr
    );
    assert_eq!(get(&agent.url("/")).await.0, 200, "the old one serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_asked_and_a_bad_answer_means_backoff() {
    let realm = Realm::new();
    realm.app(HEALTH_PATH, "health = \"/healthz\"");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
    let other = Realm::new();
    other.app(
        HEALTH_PATH,
        "health = \"/healthz\"\nenv = { HEALTH = \"bad\" }",
    );
    let agent = other.agent();
    other
        .run(&["apply", "--yes", "--timeout", "3s"])
        .fails(1, "not-running");
    // Between two tries: a look may fall into one.
    let waiting = eventually("it waits for the next try", async || {
        let app = other.component("app").await;
        (app.state == ComponentState::Backoff).then_some(app)
    })
    .await;
    assert!(waiting.waiting_on[0].message.contains("503"), "{waiting:?}");
    assert_eq!(get(&agent.url("/")).await.0, 503, "nothing to serve it");
    // It is tried again and again, and each try is counted.
    eventually("restarts are counted", async || {
        (other.component("app").await.restarts >= 2).then_some(())
    })
    .await;
    // Mended by a new version, without another step.
    other.app(HEALTH_PATH, "health = \"/healthz\"");
    other.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_function_that_traps_or_spins_is_a_bad_answer() {
    for (health, reason) in [("trap", "trap"), ("spin", "ran for")] {
        let realm = Realm::new();
        realm.app(
            HEALTH_FLAKY,
            &format!(
                "health = \"export\"\nenv = {{ HEALTH = \"{health}\" }}\nepoch_timeout_ms = 200"
            ),
        );
        let _agent = realm.agent();
        let said = realm
            .run(&["apply", "--yes", "--timeout", "4s"])
            .fails(1, "not-running");
        assert!(
            said.stderr.contains(reason),
            "no `{reason}` in {}",
            said.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_turns_unhealthy_leaves_the_table_and_comes_back() {
    let realm = Realm::new();
    std::fs::create_dir(realm.path("state")).unwrap();
    let state = realm.path("state").canonicalize().unwrap();
    let config = realm.read(".realm/node.toml");
    realm.write(
        ".realm/node.toml",
        &format!("{config}\n[guests]\ndirs = [\"{}\"]\n", state.display()),
    );
    realm.app(
        HEALTH_PATH,
        &format!(
            "dirs = [\"{}::/state\"]\nhealth = {{ path = \"/healthz\", interval_ms = 100, failures = 2 }}",
            state.display()
        ),
    );
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
    realm.write("state/bad", "");
    eventually("it leaves the table", async || {
        (get(&agent.url("/")).await.0 == 503).then_some(())
    })
    .await;
    let status = realm.run(&["status"]).ok().stdout;
    assert!(status.contains("503"), "{status}");
    std::fs::remove_file(realm.path("state/bad")).unwrap();
    eventually("it comes back", async || {
        (get(&agent.url("/")).await.0 == 200).then_some(())
    })
    .await;
    assert!(realm.component("app").await.restarts > 0);
    // The operator of the node decides which directories may be granted at all.
    realm.write(".realm/node.toml", &config);
    drop(agent);
    let agent = realm.agent();
    let refused = eventually("the grant is refused", async || {
        let waiting = realm.component("app").await.waiting_on;
        waiting.into_iter().find(|waiting| waiting.code == "failed")
    });
    let refused = refused.await.message;
    assert!(refused.contains("guests.dirs"), "{refused}");
    assert_eq!(get(&agent.url("/")).await.0, 503);
}

/// When the time is over, what failed for good is not waited for: it is named apart, with what to do.
#[test]
fn what_failed_for_good_is_told_apart_from_what_is_late() {
    let realm = Realm::new();
    realm.guest(BAD_IMPORT, "bad.wasm");
    realm.guest(HEALTH_FLAKY, "late.wasm");
    let _agent = realm.agent();
    let late = "[components.late]\nsource = \"file:late.wasm\"\nhealth = \"export\"\n\
        env = { HEALTH = \"trap\" }\n";
    let bad = "[components.bad]\nsource = \"file:bad.wasm\"\n";
    let route = |name: &str| format!("{{ path = \"/{name}/...\", component = \"{name}\" }}");
    let apply = |components: &str, routes: &[String]| {
        let routes = routes.join(", ");
        realm.write(
            "realm.toml",
            &format!("{components}[routing]\n\"*\" = [{routes}]\n"),
        );
        let said = realm.run(&["apply", "--yes", "--timeout", "5s"]);
        said.fails(1, "not-running").stderr
    };
    let both = apply(&format!("{bad}{late}"), &[route("bad"), route("late")]);
    let hint = |said: &str| {
        let mut lines = said.lines();
        let hint = lines.find(|line| line.starts_with("hint: "));
        hint.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert!(
        both.contains("`bad` failed; `late` not ready in time"),
        "{both}"
    );
    assert!(
        both.contains("because: bad: ") && both.contains("because: late: "),
        "{both}"
    );
    let told = hint(&both);
    assert!(told.contains("of `bad`: `realm inspect FILE`"), "{told}");
    assert!(
        told.contains("the agents go on trying what has not failed"),
        "{told}"
    );
    // What is late alone is tried on.
    let alone = apply(late, &[route("late")]);
    assert!(alone.contains("`late` not ready in time"), "{alone}");
    let told = hint(&alone);
    assert!(told.contains("the agents go on trying: watch"), "{told}");
    // And what failed alone is not.
    let failed = apply(bad, &[route("bad")]);
    assert!(failed.contains("`bad` failed"), "{failed}");
    assert!(!hint(&failed).contains("go on trying"), "{failed}");
}
