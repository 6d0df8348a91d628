//! What a node does that is cordoned, drained, or whose approval is over.

use realm_model::action::{Action, Plan};
use realm_model::entry::{ApproveUntil, Body, SetNode};
use realm_model::observed::ReplicaState;

use super::plan;
use crate::around::Around;
use crate::authority::CLOCK_TOLERANCE_S;
use crate::place::place;
use crate::sim::World;
use crate::testing::{Realm, approval, component_name, node_key, node_name};

const ORDERS: &str = r#"
[components.orders]
source = "file:orders.wasm"

[routing]
"here" = [{ path = "/orders/...", component = "orders" }]
"#;

const BOTH: &str = r#"
[components.orders]
source = "file:orders.wasm"

[components.cart]
source = "file:cart.wasm"

[routing]
"here" = [{ path = "/orders/...", component = "orders" }, { path = "/cart/...", component = "cart" }]
"#;

fn set(cordoned: bool, drained: bool) -> Body {
    Body::SetNode(SetNode {
        key: node_key("here"),
        cordoned,
        drained,
    })
}

/// Lets the node act until nothing is left to do; returns the last plan that it made.
fn settle(realm: &Realm, world: &mut World) -> Plan {
    settle_without(realm, world, &[])
}

/// The same while other nodes are gone.
fn settle_without(realm: &Realm, world: &mut World, gone: &[&str]) -> Plan {
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    world.learn(desired);
    let placement = place(desired, authority, &|name, _| gone.contains(&name.as_str()));
    let around = Around::unheard(placement.into());
    let here = node_name("here");
    for _ in 0..100 {
        let planned = plan(
            desired,
            authority,
            &here,
            &world.observed,
            &around,
            world.now,
        );
        world.execute(&planned);
        if planned.actions.is_empty() && !world.advance() {
            return planned;
        }
    }
    panic!("the plan does not settle");
}

fn waits(plan: &Plan, component: &str) -> Vec<String> {
    let name = component_name(component);
    let reports = plan.reports.iter().filter(|one| one.component == name);
    let waiting = reports.flat_map(|report| &report.waiting_on);
    waiting.map(|one| one.code.clone()).collect()
}

fn healthy(world: &World, component: &str) -> usize {
    let name = component_name(component);
    world.healthy().filter(|id| id.component == name).count()
}

/// A node that runs orders.
fn running() -> (Realm, World) {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    let mut world = World::new(1);
    let _ = settle(&realm, &mut world);
    assert_eq!(healthy(&world, "orders"), 1);
    (realm, world)
}

#[test]
fn a_cordoned_node_takes_nothing_new_and_keeps_what_it_has() {
    let (mut realm, mut world) = running();
    realm.submit(set(true, false)).expect("cordoned");
    realm.apply(BOTH, &[("orders", "2"), ("cart", "1")]);
    let last = settle(&realm, &mut world);
    assert_eq!(healthy(&world, "orders"), 1, "an update goes on");
    assert_eq!(waits(&last, "orders"), Vec::<String>::new());
    assert_eq!(healthy(&world, "cart"), 0);
    assert_eq!(waits(&last, "cart"), ["cordoned"]);
    // A restart of the agent brings back what was there before the cordon.
    let mut again = World::new(2);
    let _ = settle(&realm, &mut again);
    assert_eq!((healthy(&again, "orders"), healthy(&again, "cart")), (1, 0));
    realm.submit(set(false, false)).expect("uncordoned");
    let _ = settle(&realm, &mut world);
    assert_eq!(healthy(&world, "cart"), 1);
    assert!(world.violations.is_empty(), "{:?}", world.violations);
}

#[test]
fn a_drained_node_runs_nothing_and_still_answers_for_its_routes() {
    let (mut realm, mut world) = running();
    realm.submit(set(false, true)).expect("drained");
    let last = settle(&realm, &mut world);
    assert!(world.observed.replicas.is_empty());
    assert_eq!(waits(&last, "orders"), ["drained"]);
    assert_eq!(world.observed.routes.routes.len(), 1);
    assert!(world.violations.is_empty(), "{:?}", world.violations);
    realm.submit(set(false, false)).expect("back");
    let _ = settle(&realm, &mut world);
    assert_eq!(healthy(&world, "orders"), 1);
}

/// `there` says nothing: as many go on as shall be there, and none of what is pinned.
#[test]
fn what_moves_from_a_drained_node_goes_on_there_until_others_have_it() {
    let check = |routing: &str, before: usize, after: usize| {
        let mut realm = Realm::of_one_node();
        realm.submit(approval("there", &[])).expect("approved");
        let text = format!("[components.orders]\nsource = 'file:a'\n[routing]\n{routing}");
        realm.apply(&text, &[("orders", "1")]);
        let mut world = World::new(1);
        let _ = settle(&realm, &mut world);
        assert_eq!(healthy(&world, "orders"), before, "{routing}");
        realm.submit(set(true, true)).expect("drained");
        let last = settle(&realm, &mut world);
        assert_eq!(healthy(&world, "orders"), after, "{routing}");
        let routed = world.backends(&component_name("orders")).len();
        assert_eq!(routed, after, "{routing}");
        assert!(world.violations.is_empty(), "{:?}", world.violations);
        // Nor is somebody there to take over where all others are gone.
        let _ = settle_without(&realm, &mut world, &["there"]);
        assert_eq!(healthy(&world, "orders"), after, "{routing}, alone");
        waits(&last, "orders")
    };
    let pinned = "here = [{ path = '/', component = 'orders', replicas = 3 }]\n";
    let each = "'*' = [{ path = '/', component = 'orders', replicas = 3, per_node = true }]\n";
    let all = "'*' = [{ path = '/x', component = 'orders', replicas = 2 }]\n";
    assert_eq!(check(pinned, 3, 0), ["drained"]);
    assert_eq!(check(each, 3, 0), ["drained"]);
    let _ = check(all, 1, 1);
    assert_eq!(
        check(&format!("{pinned}{all}"), 3, 2),
        ["drained", "handing-over"]
    );
}

/// Case 16: the end of an approval is judged with ten minutes to spare, and stops nothing.
#[test]
fn case_16_an_approval_that_is_over_stops_nothing_and_starts_nothing() {
    let end = 1_000_000;
    let (mut realm, mut world) = running();
    let until = Body::ApproveUntil(ApproveUntil {
        key: node_key("here"),
        name: node_name("here"),
        tags: Vec::new(),
        not_after_unix_s: end,
    });
    realm.submit(until).expect("approved for a time");
    realm.apply(BOTH, &[("orders", "1"), ("cart", "1")]);
    world.observed.unix_ms_at_zero = (end + CLOCK_TOLERANCE_S + 1) * 1_000;
    let last = settle(&realm, &mut world);
    assert_eq!(healthy(&world, "orders"), 1, "what runs goes on");
    assert_eq!(waits(&last, "cart"), ["approval-expired"]);
    let mut early = World::new(3);
    early.observed.unix_ms_at_zero = end * 1_000;
    let _ = settle(&realm, &mut early);
    assert_eq!(healthy(&early, "cart"), 1, "clocks differ");
    let states = world.observed.replicas.values();
    let backoff = states.filter(|state| matches!(state, ReplicaState::Backoff { .. }));
    assert_eq!(backoff.count(), 0);
    let routes = |action: &Action| matches!(action, Action::Route(_));
    assert!(!last.actions.iter().any(routes));
}
