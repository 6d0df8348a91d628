//! What runs by itself, told moment by moment: services, jobs, schedules, servers with a port.

use realm_model::entry::Body;
use realm_model::observed::Millis;

use super::story::Story;
use crate::testing::restart;

fn component(keys: &str) -> String {
    format!("[components.orders]\nsource = \"file:orders.wasm\"\n{keys}\n")
}

#[test]
fn a_service_replaces_its_older_version_once_it_runs() {
    let mut story = Story::begin();
    story.apply(&component("serve = \"service\""), &[("orders", "1")]);
    story.skip();
    story.submit(Body::Push(story.realm.push_body("orders", "2")));
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      fetch sha256:d4735e3a265e
      [orders 0 of 1: fetching orders (sha256:d4735e3a265e…); version 1 keeps running]
    1400 ms
      compile sha256:d4735e3a265e
      [orders 0 of 1: compiling orders (sha256:d4735e3a265e…); version 1 keeps running]
    1500 ms
      start orders/0 v2
      [orders 0 of 1: starting; version 1 keeps running]
    1600 ms
      drain orders/0 v1 for at most 30000 ms
      [orders 1 of 1: draining 1 old replica, at most 30 s]
    1600 ms
      stop orders/0 v1
    "#);
}

#[test]
fn a_job_runs_once_for_each_version() {
    let mut story = Story::begin();
    let text = component("serve = \"job\"");
    story.apply(&text, &[("orders", "1")]);
    insta::assert_snapshot!(story.told(), @r#"
    1000 ms
      fetch sha256:6b86b273ff34
      [orders 0 of 1: fetching orders (sha256:6b86b273ff34…)]
    1100 ms
      compile sha256:6b86b273ff34
      [orders 0 of 1: compiling orders (sha256:6b86b273ff34…)]
    1200 ms
      start orders/0 v1
      [orders 0 of 1: starting]
    "#);
    // Neither the next plan nor a restart of the agent runs it again.
    story.text.clear();
    story.world.crash();
    assert!(!story.told().contains("start"), "{}", story.text);
    story.submit(Body::Push(story.realm.push_body("orders", "2")));
    story.skip();
    assert_eq!(story.world.runs.len(), 2);
}

#[test]
fn a_job_that_fails_has_so_many_attempts() {
    let mut story = Story::begin();
    story.world.faults.job = 100;
    story.apply(&component("serve = \"job\""), &[("orders", "1")]);
    let told = story.told().to_owned();
    assert_eq!(story.world.runs.len(), 10);
    let last = told.lines().last().unwrap_or_default();
    let expected = "  [orders 0 of 1: exited: exit code 1; no more attempts after 10]";
    assert_eq!(last, expected, "{told}");
}

#[test]
fn a_job_waits_for_the_run_of_its_older_version() {
    let mut story = Story::begin();
    let text = component("serve = \"job\"");
    story.apply(&text, &[("orders", "1")]);
    story.tell(Millis(1_300));
    story.text.clear();
    // It runs: 100 ms like everything.
    story.submit(restart("orders", &[]));
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      drain orders/0 v1 for at most 30000 ms
      [orders 0 of 1: not started until the run of the old version has ended]
      [orders 0 of 1: draining 1 old replica, at most 30 s]
    1400 ms
      stop orders/0 v1
      [orders 0 of 1: not started until the run of the old version has ended]
    1400 ms
      start orders/0 v1
      [orders 0 of 1: starting]
    "#);
}

#[test]
fn a_schedule_is_kept() {
    let mut story = Story::begin();
    let text = component("schedule = \"*/2 * * * *\"");
    story.apply(&text, &[("orders", "1")]);
    story.tell(Millis(4 * 60_000 + 1_000));
    insta::assert_snapshot!(story.text, @r#"
    1000 ms
      fetch sha256:6b86b273ff34
      handle orders until 1000 ms: 0 overlapped, 0 missed
      [orders 0 of 1: fetching orders (sha256:6b86b273ff34…)]
      [orders 0 of 1: next run 1970-01-01 00:02:00 UTC (in 1 min 59 s)]
    1100 ms
      compile sha256:6b86b273ff34
      [orders 0 of 1: compiling orders (sha256:6b86b273ff34…)]
      [orders 0 of 1: next run 1970-01-01 00:02:00 UTC (in 1 min 58 s)]
    120000 ms
      handle orders until 120000 ms: 0 overlapped, 0 missed
      start orders/0 v1
      [orders 1 of 1: starting]
      [orders 1 of 1: next run 1970-01-01 00:04:00 UTC (in 2 min 0 s)]
    240000 ms
      handle orders until 240000 ms: 0 overlapped, 0 missed
      start orders/0 v1
      [orders 1 of 1: starting]
      [orders 1 of 1: next run 1970-01-01 00:06:00 UTC (in 2 min 0 s); the last one ended with exit code 0]
    "#);
}

/// The agent is away from the third to the twelfth minute: of six times none is made up for.
#[test]
fn an_outage_is_not_followed_by_a_burst() {
    let mut story = Story::begin();
    let text = component("schedule = \"*/2 * * * *\"");
    story.apply(&text, &[("orders", "1")]);
    story.tell(Millis(3 * 60_000));
    assert_eq!(story.world.runs.len(), 1);
    story.text.clear();
    story.world.crash();
    story.world.now = Millis(13 * 60_000 + 30_000);
    story.tell(Millis(14 * 60_000 + 1_000));
    insta::assert_snapshot!(story.text, @r#"
    810000 ms
      fetch sha256:6b86b273ff34
      handle orders until 720000 ms: 0 overlapped, 5 missed
      [orders 0 of 1: fetching orders (sha256:6b86b273ff34…)]
      [orders 0 of 1: next run 1970-01-01 00:14:00 UTC (in 30 s)]
    810100 ms
      compile sha256:6b86b273ff34
      [orders 0 of 1: compiling orders (sha256:6b86b273ff34…)]
      [orders 0 of 1: next run 1970-01-01 00:14:00 UTC (in 29 s)]
    840000 ms
      handle orders until 840000 ms: 0 overlapped, 0 missed
      start orders/0 v1
      [orders 1 of 1: starting]
      [orders 1 of 1: next run 1970-01-01 00:16:00 UTC (in 2 min 0 s)]
    "#);
}

#[test]
fn a_server_with_a_port_of_its_own_gives_way_first() {
    let mut story = Story::begin();
    let route = "\n[routing]\n\"here\" = [{ path = \"/...\", component = \"orders\" }]";
    let text = component("listen = 7000") + route;
    story.apply(&text, &[("orders", "1")]);
    story.skip();
    story.submit(Body::Push(story.realm.push_body("orders", "2")));
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      fetch sha256:d4735e3a265e
      [orders 0 of 1: fetching orders (sha256:d4735e3a265e…); version 1 keeps serving]
    1400 ms
      compile sha256:d4735e3a265e
      [orders 0 of 1: compiling orders (sha256:d4735e3a265e…); version 1 keeps serving]
    1500 ms
      route /... → 503
      [orders 0 of 1: 1 replica not replaced yet: the next one is on node `here`]
      [orders 0 of 1: the route table changes to 0 replicas]
    1500 ms
      drain orders/0 v1 for at most 30000 ms
      [orders 0 of 1: 1 replica not replaced yet: the next one is on node `here`]
      [orders 0 of 1: draining 1 old replica, at most 30 s]
    31500 ms
      stop orders/0 v1
      [orders 0 of 1: not started until the old one has left its port]
    31500 ms
      start orders/0 v2
      [orders 0 of 1: starting]
    31600 ms
      route /... → orders/0 v2
      [orders 1 of 1: the route table changes to 1 replica]
    "#);
}
