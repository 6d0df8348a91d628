//! A singleton on one node, told moment by moment: it runs while the node holds the lease.

use realm_model::entry::Body;
use realm_model::observed::{Lease, Millis};

use super::story::Story;
use crate::testing::{component_name, node_name, plan_alone};

const APP: &str = r#"
[components.orders]
source = "file:orders.wasm"
singleton = true

[routing]
"*" = [{ path = "/orders/...", component = "orders" }]
"#;

fn lease(story: &mut Story, lease: Lease) {
    let leases = &mut story.world.observed.leases;
    leases.insert(component_name("orders"), lease);
}

fn held(story: &mut Story, until: u64) {
    let until = Millis(until);
    lease(story, Lease::Held { until });
}

#[test]
fn it_waits_for_the_lease_with_everything_ready() {
    let mut story = Story::begin();
    story.apply(APP, &[("orders", "1")]);
    lease(
        &mut story,
        Lease::Awaited {
            holder: Some(node_name("there")),
            granted: 1,
            needed: 2,
        },
    );
    insta::assert_snapshot!(story.told(), @r#"
    1000 ms
      route /orders/... → 503
      fetch sha256:6b86b273ff34
      [orders 0 of 1: fetching orders (sha256:6b86b273ff34…)]
      [orders 0 of 1: a singleton: node `there` holds the lease]
    1100 ms
      compile sha256:6b86b273ff34
      [orders 0 of 1: compiling orders (sha256:6b86b273ff34…)]
      [orders 0 of 1: a singleton: node `there` holds the lease]
    "#);
    lease(
        &mut story,
        Lease::Awaited {
            holder: None,
            granted: 1,
            needed: 2,
        },
    );
    assert_eq!(
        waits(&story),
        "waits-for-lease: a singleton: 2 nodes have to grant this one the lease, and 1 of them does"
    );
    story.text.clear();
    held(&mut story, 31_000);
    insta::assert_snapshot!(story.told(), @r#"
    1200 ms
      start orders/0 v1
      [orders 0 of 1: starting]
    1300 ms
      route /orders/... → orders/0 v1
      [orders 1 of 1: the route table changes to 1 replica]
    "#);
    assert_eq!(waits(&story), "");
}

fn waits(story: &Story) -> String {
    let (desired, authority) = (story.realm.ledger.desired(), story.realm.ledger.authority());
    let (observed, now) = (&story.world.observed, story.world.now);
    let plan = plan_alone(desired, authority, &node_name("here"), observed, now);
    let waits = plan
        .reports
        .into_iter()
        .flat_map(|report| report.waiting_on);
    let waits = waits.map(|one| format!("{}: {}", one.code, one.message));
    waits.collect::<Vec<_>>().join("\n")
}

#[test]
fn without_the_lease_it_stops_at_once() {
    let mut story = Story::begin();
    story.apply(APP, &[("orders", "1")]);
    held(&mut story, 31_000);
    story.skip();
    assert_eq!(story.world.live(&component_name("orders")), 1);
    story.world.observed.leases.clear();
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      route /orders/... → 503
      [orders 1 of 1: a singleton: the lease is asked for]
      [orders 1 of 1: the route table changes to 0 replicas]
    1300 ms
      stop orders/0 v1
      [orders 1 of 1: a singleton: the lease is asked for]
    "#);
    assert_eq!(story.world.live(&component_name("orders")), 0);
}

#[test]
fn the_old_version_stops_before_the_new_one_starts() {
    let mut story = Story::begin();
    story.apply(APP, &[("orders", "1")]);
    held(&mut story, 600_000);
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
      route /orders/... → 503
      [orders 0 of 1: 1 replica not replaced yet: the next one is on node `here`]
      [orders 0 of 1: the route table changes to 0 replicas]
    1500 ms
      drain orders/0 v1 for at most 30000 ms
      [orders 0 of 1: 1 replica not replaced yet: the next one is on node `here`]
      [orders 0 of 1: draining 1 old replica, at most 30 s]
    31500 ms
      stop orders/0 v1
      [orders 0 of 1: not started until the old one has stopped: of a singleton there is one]
    31500 ms
      start orders/0 v2
      [orders 0 of 1: starting]
    31600 ms
      route /orders/... → orders/0 v2
      [orders 1 of 1: the route table changes to 1 replica]
    "#);
}

#[test]
fn replicas_of_before_it_was_one_go_before_it_starts() {
    let mut story = Story::begin();
    let many = APP.replace("singleton = true", "").replace(
        "component = \"orders\"",
        "component = \"orders\", replicas = 3",
    );
    story.apply(&many, &[("orders", "1")]);
    story.skip();
    story.apply(APP, &[("orders", "1")]);
    held(&mut story, 600_000);
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      route /orders/... → orders/0 v1
      [orders 1 of 1: the route table changes to 1 replica]
    1300 ms
      drain orders/1 v1 for at most 30000 ms
      drain orders/2 v1 for at most 30000 ms
      [orders 1 of 1: draining 2 old replicas, at most 30 s]
    1300 ms
      stop orders/2 v1
      [orders 1 of 1: draining 1 old replica, 2 requests in flight, at most 30 s]
    1400 ms
      stop orders/1 v1
    "#);
}

#[test]
fn a_schedule_runs_only_where_the_lease_is() {
    let mut story = Story::begin();
    let text = "[components.orders]\nsource = \"file:orders.wasm\"\nsingleton = true\nschedule = \"*/2 * * * *\"";
    story.apply(text, &[("orders", "1")]);
    story.tell(Millis(300_000));
    assert!(story.world.runs.is_empty());
    held(&mut story, 2_000_000);
    story.tell(Millis(600_000));
    assert_eq!(story.world.runs.len(), 3, "{}", story.text);
}
