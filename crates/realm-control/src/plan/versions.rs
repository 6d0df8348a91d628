//! Two versions of one app: neither goes before another one answers, and promoting moves requests alone.

use std::collections::BTreeMap;

use realm_model::action::Action;
use realm_model::entry::Body;
use realm_model::observed::{ReplicaState, RouteTable};

use super::plan;
use crate::around::Around;
use crate::place::place;
use crate::sim::World;
use crate::testing::{Realm, component_name, node_name, pin};

const BOTH: &str = r#"
[components."orders@blue"]
source = "file:blue.wasm"

[components."orders@green"]
source = "file:green.wasm"

[routing]
"*" = [{ path = "/...", component = "orders", weights = { blue = 100, green = 0 }, replicas = 2, progress_deadline = "20s" }]
"#;

const GREEN: &str = r#"
[components."orders@green"]
source = "file:green.wasm"

[routing]
"*" = [{ path = "/...", component = "orders", weights = { green = 100 }, replicas = 2, progress_deadline = "20s" }]
"#;

struct Node {
    realm: Realm,
    world: World,
    around: Around,
}

impl Node {
    fn new() -> Self {
        Self {
            realm: Realm::of_one_node(),
            world: World::new(0),
            around: Around::default(),
        }
    }

    /// Acts for so many milliseconds; `holds` is asked after each step.
    fn run(&mut self, for_ms: u64, holds: &dyn Fn(&World)) {
        let until = self.world.now.plus(for_ms);
        let own = node_name("here");
        while self.world.now < until {
            loop {
                let (desired, authority) =
                    (self.realm.ledger.desired(), self.realm.ledger.authority());
                self.world.learn(desired);
                let (observed, now) = (&self.world.observed, self.world.now);
                let placement = place(desired, authority, &|_, _| false);
                let mut around = Around::unheard(placement.into()).after(&self.around);
                around.remember(desired, &own, observed, now);
                self.around = around;
                let planned = plan(desired, authority, &own, observed, &self.around, now);
                self.world.look_at = planned.look_at;
                self.world.execute(&planned);
                assert_eq!(self.world.violations, Vec::<String>::new());
                holds(&self.world);
                let is_over = |action: &Action| matches!(action, Action::Start(_));
                if planned.actions.is_empty() || planned.actions.iter().all(is_over) {
                    break;
                }
            }
            if !self.world.advance() {
                break;
            }
        }
    }

    /// Replicas that take requests, by version, and the weights of the route.
    fn serving(&self) -> (BTreeMap<String, usize>, BTreeMap<String, u32>) {
        let RouteTable {
            routes, backends, ..
        } = &self.world.observed.routes;
        let backends = backends
            .iter()
            .map(|(name, ids)| (name.to_string(), ids.len()));
        let weights = routes.iter().flat_map(|route| &route.weights);
        let weights = weights.map(|(name, weight)| (name.to_string(), *weight));
        (backends.collect(), weights.collect())
    }
}

#[track_caller]
fn check(node: &Node, serving: &[(&str, usize)], weights: &[(&str, u32)]) {
    let named = |(name, number): &(&str, usize)| (format!("orders@{name}"), *number);
    let weighed = |(name, number): &(&str, u32)| (format!("orders@{name}"), *number);
    let (seen_serving, seen_weights) = node.serving();
    assert_eq!(seen_serving, serving.iter().map(named).collect());
    assert_eq!(seen_weights, weights.iter().map(weighed).collect());
}

#[test]
fn promoting_moves_requests_and_no_replica() {
    let mut node = Node::new();
    node.realm
        .apply(BOTH, &[("orders@blue", "1"), ("orders@green", "2")]);
    node.run(60_000, &|_| ());
    check(
        &node,
        &[("blue", 2), ("green", 2)],
        &[("blue", 100), ("green", 0)],
    );
    let before = node.world.observed.replicas.clone();
    node.realm
        .weigh(&[("orders@blue", 25), ("orders@green", 75)])
        .expect("a division");
    node.run(60_000, &|_| ());
    check(
        &node,
        &[("blue", 2), ("green", 2)],
        &[("blue", 25), ("green", 75)],
    );
    assert_eq!(node.world.observed.replicas, before);
}

#[test]
fn a_version_goes_when_its_successor_takes_requests_everywhere() {
    let mut node = Node::new();
    node.realm
        .apply(BOTH, &[("orders@blue", "1"), ("orders@green", "2")]);
    node.run(60_000, &|_| ());
    node.realm.apply(GREEN, &[("orders@green", "2")]);
    node.run(60_000, &|_| ());
    check(&node, &[("green", 2)], &[("green", 100), ("blue", 0)]);
    let blue = component_name("orders@blue");
    let left = node.world.observed.replicas.keys();
    assert_eq!(left.filter(|id| id.component == blue).count(), 0);
}

/// From one component to versions of it and back, without a moment in which nobody answers.
#[test]
fn an_app_gets_versions_and_loses_them_again() {
    let plain = "[components.orders]\nsource = \"file:blue.wasm\"\n[routing]\n\"*\" = [{ path = \"/...\", component = \"orders\", replicas = 2 }]\n";
    let holds = |world: &World| {
        let serving = world.observed.routes.backends.values().flatten();
        assert!(serving.count() >= 2, "{:#?}", world.observed.routes);
        let led_to = world
            .observed
            .routes
            .routes
            .iter()
            .flat_map(|route| route.answering());
        let led_to: Vec<_> = led_to.collect();
        let backends = world.observed.routes.backends.iter();
        let answers = |name| led_to.contains(&name);
        assert!(
            backends.filter(|(name, _)| answers(name)).count() > 0,
            "{:#?}",
            world.observed.routes
        );
    };
    let mut node = Node::new();
    node.realm.apply(plain, &[("orders", "0")]);
    node.run(60_000, &|_| ());
    node.realm
        .apply(BOTH, &[("orders@blue", "1"), ("orders@green", "2")]);
    node.run(60_000, &holds);
    let weights = [("blue", 100), ("green", 0)];
    let (serving, seen) = node.serving();
    assert_eq!(serving.len(), 2, "{serving:?}");
    for (label, weight) in weights {
        assert_eq!(seen[&format!("orders@{label}")], weight);
    }
    node.realm.apply(plain, &[("orders", "3")]);
    node.run(60_000, &holds);
    let (serving, _) = node.serving();
    assert_eq!(serving, [("orders".to_owned(), 2)].into());
}

/// A node that runs blue, which has just left the manifest for a green that does not start.
fn before_broken_green() -> Node {
    let mut node = Node::new();
    let blue = BOTH.replace(
        "[components.\"orders@green\"]\nsource = \"file:green.wasm\"\n",
        "",
    );
    node.realm.apply(
        &blue.replace("blue = 100, green = 0", "blue = 100"),
        &[("orders@blue", "1")],
    );
    node.run(60_000, &|_| ());
    check(&node, &[("blue", 2)], &[("blue", 100)]);
    node.world.faults.broken.insert(pin("broken").digest);
    node.realm.apply(GREEN, &[("orders@green", "broken")]);
    node
}

#[test]
fn a_version_goes_on_while_its_successor_is_broken() {
    let mut node = before_broken_green();
    // Blue and green are never both gone.
    let holds = |world: &World| {
        let serving = world.observed.routes.backends.values().flatten();
        assert!(serving.count() >= 2, "{:#?}", world.observed.routes);
    };
    node.run(300_000, &holds);
    check(&node, &[("blue", 2)], &[("green", 100), ("blue", 0)]);
    let push = node.realm.push_body("orders@green", "2");
    node.realm.submit(Body::Push(push)).expect("a push");
    node.run(120_000, &holds);
    check(&node, &[("green", 2)], &[("green", 100), ("blue", 0)]);
}

/// What was before is not only left alone but kept up: it is all that answers.
#[test]
fn a_version_is_started_again_while_its_successor_is_broken() {
    let mut node = before_broken_green();
    node.run(60_000, &|_| ());
    node.world.fail_one(0);
    node.world.fail_one(0);
    node.run(60_000, &|_| ());
    let blue = |node: &Node| node.world.backends(&component_name("orders@blue")).len();
    assert_eq!(blue(&node), 2, "{:#?}", node.world.observed);
    for state in node.world.observed.replicas.values_mut() {
        *state = ReplicaState::Backoff {
            until: node.world.now,
            attempts: 1,
            code: "agent-restarted".to_owned(),
            reason: "the agent was restarted".to_owned(),
        };
    }
    node.world.observed.routes = RouteTable::default();
    node.around = Around::default();
    node.run(60_000, &|_| ());
    assert_eq!(blue(&node), 2, "{:#?}", node.world.observed);
    // Once green is up nothing of blue is started any more.
    let push = node.realm.push_body("orders@green", "2");
    node.realm.submit(Body::Push(push)).expect("a push");
    node.run(120_000, &|_| ());
    check(&node, &[("green", 2)], &[("green", 100), ("blue", 0)]);
    let left = node.world.observed.replicas.keys();
    let of_blue = left.filter(|id| id.component == component_name("orders@blue"));
    assert_eq!(of_blue.count(), 0);
}
