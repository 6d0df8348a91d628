//! What a node does, told moment by moment, and compared with what it shall do.

use std::fmt::Write as _;

use realm_model::action::{Action, Plan};
use realm_model::entry::Body;
use realm_model::observed::{Artifact, ArtifactState, Millis, ReplicaId, ReplicaState, Revision};

use super::story::Story;
use super::wake_at;
use crate::sim::World;
use crate::testing::{
    Realm, approval, component_name, node_name, pin, plan_alone, restart, revocation,
};

const ORDERS: &str = r#"
[components.orders]
source = "file:orders.wasm"

[routing]
"here" = [{ path = "/orders/...", component = "orders", replicas = 2 }]
"#;

#[test]
fn a_first_version_starts() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    insta::assert_snapshot!(story.told(), @r#"
    1000 ms
      route /orders/... → 503
      fetch sha256:6b86b273ff34
      [orders 0 of 2: fetching orders (sha256:6b86b273ff34…)]
    1100 ms
      compile sha256:6b86b273ff34
      [orders 0 of 2: compiling orders (sha256:6b86b273ff34…)]
    1200 ms
      start orders/0 v1
      start orders/1 v1
      [orders 0 of 2: starting 2 of 2 replicas]
    1300 ms
      route /orders/... → orders/0 v1, orders/1 v1
      [orders 2 of 2: the route table changes to 2 replicas]
    "#);
}

#[test]
fn a_new_version_takes_over_one_replica_after_the_other() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.submit(Body::Push(story.realm.push_body("orders", "2")));
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      fetch sha256:d4735e3a265e
      [orders 0 of 2: fetching orders (sha256:d4735e3a265e…); version 1 keeps serving]
    1400 ms
      compile sha256:d4735e3a265e
      [orders 0 of 2: compiling orders (sha256:d4735e3a265e…); version 1 keeps serving]
    1500 ms
      start orders/0 v2
      [orders 0 of 2: starting 1 of 2 replicas; version 1 keeps serving]
      [orders 0 of 2: 1 replica not replaced yet: the next one is on node `here`]
    1600 ms
      route /orders/... → orders/1 v1, orders/0 v2
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 keeps serving]
      [orders 1 of 2: the route table changes to 2 replicas]
    1600 ms
      drain orders/0 v1 for at most 30000 ms
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 keeps serving]
      [orders 1 of 2: draining 1 old replica, at most 30 s]
    1600 ms
      stop orders/0 v1
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 keeps serving]
    3600 ms
      start orders/1 v2
      [orders 1 of 2: starting 1 of 2 replicas; version 1 keeps serving]
    3700 ms
      route /orders/... → orders/0 v2, orders/1 v2
      [orders 2 of 2: the route table changes to 2 replicas]
    3700 ms
      drain orders/1 v1 for at most 30000 ms
      [orders 2 of 2: draining 1 old replica, at most 30 s]
    3700 ms
      stop orders/1 v1
    "#);
}

#[test]
fn a_version_that_fails_leaves_the_one_before() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.world.faults.broken = [pin("2").digest].into();
    story.world.faults.for_good = true;
    story.submit(Body::Push(story.realm.push_body("orders", "2")));
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      fetch sha256:d4735e3a265e
      [orders 0 of 2: fetching orders (sha256:d4735e3a265e…); version 1 keeps serving]
    1400 ms
      compile sha256:d4735e3a265e
      [orders 0 of 2: compiling orders (sha256:d4735e3a265e…); version 1 keeps serving]
    1500 ms
      start orders/0 v2
      [orders 0 of 2: starting 1 of 2 replicas; version 1 keeps serving]
      [orders 0 of 2: 1 replica not replaced yet: the next one is on node `here`]
    1600 ms
      [orders 0 of 2: 1 of 2 replicas: missing-import: it imports `acme:shop/cart`; version 1 keeps serving]
      [orders 0 of 2: 1 replica not replaced yet: the next one is on node `here`]
    "#);
    // The owner goes back: nothing has to start.
    story.text.clear();
    story.submit(Body::Push(story.realm.push_body("orders", "1")));
    insta::assert_snapshot!(story.told(), @r#"
    1600 ms
      stop orders/0 v2
    "#);
}

#[test]
fn a_component_that_never_gets_up_is_tried_again_and_again() {
    let mut story = Story::begin();
    story.world.faults.broken = [pin("1").digest].into();
    story.apply(
        &ORDERS.replace("replicas = 2", "replicas = 1"),
        &[("orders", "1")],
    );
    story.tell(Millis(5_000));
    insta::assert_snapshot!(story.text, @r#"
    1000 ms
      route /orders/... → 503
      fetch sha256:6b86b273ff34
      [orders 0 of 1: fetching orders (sha256:6b86b273ff34…)]
    1100 ms
      compile sha256:6b86b273ff34
      [orders 0 of 1: compiling orders (sha256:6b86b273ff34…)]
    1200 ms
      start orders/0 v1
      [orders 0 of 1: starting]
    1300 ms
      [orders 0 of 1: failed once (start-failed): the dice say so; next try in 234 ms]
    1534 ms
      start orders/0 v1
      [orders 0 of 1: starting]
    1634 ms
      [orders 0 of 1: failed 2 times (start-failed): the dice say so; next try in 421 ms]
    2055 ms
      start orders/0 v1
      [orders 0 of 1: starting]
    2155 ms
      [orders 0 of 1: failed 3 times (start-failed): the dice say so; next try in 963 ms]
    3118 ms
      start orders/0 v1
      [orders 0 of 1: starting]
    3218 ms
      [orders 0 of 1: failed 4 times (start-failed): the dice say so; next try in 1.9 s]
    "#);
}

#[test]
fn fewer_replicas_leave_the_table_first() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.apply(
        &ORDERS.replace("replicas = 2", "replicas = 1"),
        &[("orders", "1")],
    );
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      route /orders/... → orders/0 v1
      [orders 1 of 1: the route table changes to 1 replica]
    1300 ms
      drain orders/1 v1 for at most 30000 ms
      [orders 1 of 1: draining 1 old replica, at most 30 s]
    31300 ms
      stop orders/1 v1
    "#);
}

#[test]
fn more_replicas_disturb_none() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.apply(
        &ORDERS.replace("replicas = 2", "replicas = 3"),
        &[("orders", "1")],
    );
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      start orders/2 v1
      [orders 2 of 3: starting 1 of 3 replicas]
    1400 ms
      route /orders/... → orders/0 v1, orders/1 v1, orders/2 v1
      [orders 3 of 3: the route table changes to 3 replicas]
    "#);
}

#[test]
fn a_removed_component_goes_away() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    let other = ORDERS.replace("orders", "auth");
    story.apply(&other, &[("auth", "1")]);
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      route /auth/... → 503
      start auth/0 v2
      start auth/1 v2
      [auth 0 of 2: starting 2 of 2 replicas]
      [orders 0 of 0: the route table changes to 0 replicas]
    1300 ms
      drain orders/0 v? for at most 30000 ms
      drain orders/1 v? for at most 30000 ms
      [auth 0 of 2: starting 2 of 2 replicas, 0 ms so far]
      [orders 0 of 0: draining 2 old replicas, at most 30 s]
    1400 ms
      route /auth/... → auth/0 v2, auth/1 v2
      [auth 2 of 2: the route table changes to 2 replicas]
      [orders 0 of 0: draining 2 old replicas, 4 requests in flight, at most 29 s]
    31300 ms
      stop orders/0 v?
      stop orders/1 v?
    "#);
}

#[test]
fn a_restart_replaces_every_replica() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.submit(restart("orders", &["here"]));
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      start orders/0 v1
      [orders 0 of 2: starting 1 of 2 replicas; version 1 from before the restart keeps serving]
      [orders 0 of 2: 1 replica not replaced yet: the next one is on node `here`]
    1400 ms
      route /orders/... → orders/1 v1, orders/0 v1
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 from before the restart keeps serving]
      [orders 1 of 2: the route table changes to 2 replicas]
    1400 ms
      drain orders/0 v1 for at most 30000 ms
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 from before the restart keeps serving]
      [orders 1 of 2: draining 1 old replica, at most 30 s]
    1500 ms
      stop orders/0 v1
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 from before the restart keeps serving]
    3400 ms
      start orders/1 v1
      [orders 1 of 2: starting 1 of 2 replicas; version 1 from before the restart keeps serving]
    3500 ms
      route /orders/... → orders/0 v1, orders/1 v1
      [orders 2 of 2: the route table changes to 2 replicas]
    3500 ms
      drain orders/1 v1 for at most 30000 ms
      [orders 2 of 2: draining 1 old replica, at most 30 s]
    3500 ms
      stop orders/1 v1
    "#);
}

#[test]
fn an_unhealthy_replica_leaves_the_table_and_comes_back() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.world.fail_one(0);
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      route /orders/... → orders/1 v1
      [orders 1 of 2: 1 of 2 replicas: failed once (unhealthy): the dice say so; next try in 234 ms]
      [orders 1 of 2: the route table changes to 1 replica]
    1300 ms
      [orders 1 of 2: 1 of 2 replicas: failed once (unhealthy): the dice say so; next try in 234 ms]
    1534 ms
      start orders/0 v1
      [orders 1 of 2: starting 1 of 2 replicas]
    1634 ms
      route /orders/... → orders/0 v1, orders/1 v1
      [orders 2 of 2: the route table changes to 2 replicas]
    "#);
}

/// One replica of the old version is left, two of three of the new one are up: those take requests,
/// each in its place.
#[test]
fn a_place_that_is_renewed_takes_requests_at_once() {
    let (mut story, [old, new]) = versions(3);
    story.world.observed.routes.backends = [(component_name("orders"), old.clone())].into();
    story.are(&old[..1], &healthy());
    story.are(&old[1..], &failed());
    story.are(&new[..2], &healthy());
    story.are(&new[2..], &failed());
    story.skip();
    assert_eq!(story.world.backends(&component_name("orders")), &new[..2]);

    story.are(&new[2..], &healthy());
    story.skip();
    assert_eq!(story.world.backends(&component_name("orders")), new);
}

/// Of two old versions the one that can serve is kept, although the other is older.
#[test]
fn a_version_that_can_serve_is_kept_before_one_that_might() {
    let (mut story, [oldest, old, new]) = versions(1);
    story.are(&oldest, &backoff());
    story.are(&old, &healthy());
    story.are(&new, &failed());
    story.skip();
    assert_eq!(story.world.backends(&component_name("orders")), old);
}

/// A replica of the old version waits to come back: its room is not given away.
#[test]
fn a_new_version_waits_for_room() {
    let (mut story, [oldest, old, _new]) = versions(2);
    let draining = ReplicaState::Draining {
        deadline: Millis(9_000),
        in_flight: 1,
    };
    story.are(&oldest, &draining);
    story.are(&old[..1], &healthy());
    story.are(&old[1..], &backoff());
    story.world.observed.routes.backends = [(component_name("orders"), old[..1].to_vec())].into();
    let (desired, authority) = (story.realm.ledger.desired(), story.realm.ledger.authority());
    let observed = &mut story.world.observed;
    let (digest, fuel) = (pin("3").digest, false);
    observed.artifacts = [(Artifact { digest, fuel }, ArtifactState::Ready)].into();
    let first = plan_alone(
        desired,
        authority,
        &node_name("here"),
        observed,
        story.world.now,
    );
    assert!(
        !first
            .actions
            .iter()
            .any(|action| matches!(action, Action::Start(_)))
    );
    let waiting: Vec<&str> = first.reports[0]
        .waiting_on
        .iter()
        .map(|w| w.message.as_str())
        .collect();
    assert_eq!(
        waiting,
        [
            "1 replica not replaced yet: a replica on node `here` is down, or in the middle of being replaced; version 2 keeps serving",
            "1 replica not started until the old ones have finished their requests",
            "draining 2 old replicas, 2 requests in flight, at most 8.0 s",
        ]
    );
}

/// The wanted slot is down, a surplus one of the same revision is up and in no table: the worst
/// moment to take it for one that may go.
#[test]
fn a_surplus_replica_stands_in() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.world.fail_one(0);
    story.world.observed.routes.backends.clear();
    story.apply(
        &ORDERS.replace("replicas = 2", "replicas = 1"),
        &[("orders", "1")],
    );
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      route /orders/... → orders/1 v1
      [orders 1 of 1: failed once (unhealthy): the dice say so; next try in 234 ms]
      [orders 1 of 1: the route table changes to 1 replica]
    1300 ms
      [orders 1 of 1: failed once (unhealthy): the dice say so; next try in 234 ms]
    1534 ms
      start orders/0 v1
      [orders 1 of 1: starting]
    1634 ms
      route /orders/... → orders/0 v1
      [orders 1 of 1: the route table changes to 1 replica]
    1634 ms
      drain orders/1 v1 for at most 30000 ms
      [orders 1 of 1: draining 1 old replica, at most 30 s]
    1734 ms
      stop orders/1 v1
    "#);
}

#[test]
fn a_killed_agent_comes_back_to_the_same_state() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    let before = story.world.observed.clone();
    story.world.crash();
    story.skip();
    assert_eq!(story.world.observed.routes, before.routes);
    assert!(
        story
            .world
            .observed
            .replicas
            .keys()
            .eq(before.replicas.keys())
    );
}

#[test]
fn a_changed_limit_is_another_revision_and_a_moved_source_is_none() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.apply(
        &ORDERS.replace("file:orders", "file:./elsewhere/orders"),
        &[("orders", "1")],
    );
    assert_eq!(story.told(), "");
    let fuelled = ORDERS.replace("[routing]", "fuel_per_sec = 5_000_000\n[routing]");
    story.apply(&fuelled, &[("orders", "1")]);
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      compile sha256:6b86b273ff34 with fuel
      [orders 0 of 2: compiling orders (sha256:6b86b273ff34…); version 1 keeps serving]
    1400 ms
      start orders/0 v3
      [orders 0 of 2: starting 1 of 2 replicas; version 1 keeps serving]
      [orders 0 of 2: 1 replica not replaced yet: the next one is on node `here`]
    1500 ms
      route /orders/... → orders/1 v1, orders/0 v3
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 keeps serving]
      [orders 1 of 2: the route table changes to 2 replicas]
    1500 ms
      drain orders/0 v1 for at most 30000 ms
      [orders 1 of 2: 1 replica not replaced yet: the next one is on node `here`; version 1 keeps serving]
      [orders 1 of 2: draining 1 old replica, at most 30 s]
    3500 ms
      start orders/1 v3
      [orders 1 of 2: starting 1 of 2 replicas; version 1 keeps serving]
      [orders 1 of 2: draining 1 old replica, 2 requests in flight, at most 28 s]
    3600 ms
      route /orders/... → orders/0 v3, orders/1 v3
      [orders 2 of 2: the route table changes to 2 replicas]
      [orders 2 of 2: draining 1 old replica, 2 requests in flight, at most 27 s]
    3600 ms
      drain orders/1 v1 for at most 30000 ms
      [orders 2 of 2: draining 2 old replicas, 2 requests in flight, at most 30 s]
    3700 ms
      stop orders/1 v1
      [orders 2 of 2: draining 1 old replica, 2 requests in flight, at most 27 s]
    31500 ms
      stop orders/0 v1
    "#);
}

#[test]
fn a_node_without_approval_runs_nothing() {
    let mut story = Story::begin();
    story.apply(ORDERS, &[("orders", "1")]);
    story.skip();
    story.submit(revocation("here"));
    insta::assert_snapshot!(story.told(), @r#"
    1300 ms
      route 
      [orders 0 of 0: node `here` is not approved: it runs nothing until its owner approves it]
      [orders 0 of 0: the route table changes to 0 replicas]
    1300 ms
      drain orders/0 v1 for at most 30000 ms
      drain orders/1 v1 for at most 30000 ms
      [orders 0 of 0: node `here` is not approved: it runs nothing until its owner approves it]
      [orders 0 of 0: draining 2 old replicas, at most 30 s]
    31300 ms
      stop orders/0 v1
      stop orders/1 v1
      [orders 0 of 0: node `here` is not approved: it runs nothing until its owner approves it]
    "#);
}

#[test]
fn the_nearest_selector_counts() {
    let mut story = Story::begin();
    story.submit(approval("here", &["metal"]));
    let text = r#"
[nodes.here]
tags = ["eu"]

[components.a]
source = "file:a"
[components.b]
source = "file:b"
[components.c]
source = "file:c"
[components.d]
source = "file:d"

[routing]
"*" = [
  { path = "/x/...", component = "a" },
  { path = "/b", component = "b", replicas = 2 },
]
"tag:metal" = [{ path = "/x/...", component = "b" }, { path = "/x/y", component = "c" }]
"tag:eu" = [{ path = "/eu", component = "c", replicas = 3 }]
"tag:arm" = [{ path = "/x/...", component = "d" }]
"there" = [{ path = "/d", component = "d" }]
"here" = [{ path = "/x/y", component = "d" }]
"#;
    story.apply(text, &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
    story.skip();
    let mut text = String::new();
    for route in &story.world.observed.routes.routes {
        writeln!(text, "{} → {}", route.path, route.component).expect("a String");
    }
    for (component, replicas) in &story.world.observed.routes.backends {
        writeln!(text, "{component}: {}", replicas.len()).expect("a String");
    }
    insta::assert_snapshot!(text, @r#"
    /x/y → d
    /eu → c
    /b → b
    /d → d
    /x/... → b
    b: 2
    c: 3
    d: 1
    "#);
}

#[test]
fn without_a_manifest_nothing_is_touched() {
    let realm = Realm::of_one_node();
    let mut world = World::new(0);
    world.observed.replicas.insert(
        ReplicaId {
            component: component_name("left-over"),
            revision: Revision(pin("").digest),
            slot: 0,
        },
        ReplicaState::Healthy { since: world.now },
    );
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let plan = plan_alone(
        desired,
        authority,
        &node_name("here"),
        &world.observed,
        world.now,
    );
    assert_eq!(plan, Plan::default());
    assert_eq!(wake_at(&world.observed, world.now), None);
}

/// A story in which versions 1 to `N` of `orders` were applied and nothing runs yet, with the
/// replicas that each of them wants.
fn versions<const N: usize>(replicas: u32) -> (Story, [Vec<ReplicaId>; N]) {
    let mut story = Story::begin();
    let text = ORDERS.replace("replicas = 2", &format!("replicas = {replicas}"));
    let ids = std::array::from_fn(|index| {
        story.apply(&text, &[("orders", &(index + 1).to_string())]);
        let component = component_name("orders");
        let revision = story
            .realm
            .ledger
            .desired()
            .revision_of(&component, &node_name("here"));
        let id = |slot| ReplicaId {
            component: component.clone(),
            revision: revision.expect("it is in the manifest"),
            slot,
        };
        (0..replicas).map(id).collect()
    });
    (story, ids)
}

fn healthy() -> ReplicaState {
    ReplicaState::Healthy { since: Millis(0) }
}

fn failed() -> ReplicaState {
    ReplicaState::Failed {
        code: String::new(),
        reason: String::new(),
    }
}

fn backoff() -> ReplicaState {
    ReplicaState::Backoff {
        until: Millis(8_000),
        attempts: 1,
        code: String::new(),
        reason: String::new(),
    }
}
