//! Entries about versions of an app: who gets requests, and what a component goes back to.

use std::collections::BTreeMap;

use realm_model::refusal::RefusalCode;

use super::*;
use crate::testing::pin;

const BOTH: &str = r#"
[components."orders@blue"]
source = "file:blue.wasm"

[components."orders@green"]
source = "file:green.wasm"

[components.other]
source = "file:other.wasm"

[routing]
"*" = [
  { path = "/...", component = "orders", weights = { blue = 100, green = 0 } },
  { path = "/green", component = "orders@green" },
  { path = "/other", component = "other" },
]
"#;
const BUILDS: [(&str, &str); 3] = [("orders@blue", "1"), ("orders@green", "2"), ("other", "3")];

fn both() -> Realm {
    let mut realm = Realm::of_one_node();
    realm.apply(BOTH, &BUILDS);
    realm
}

/// The weights of the route for `/...`, or of the only one.
fn weights(realm: &Realm) -> BTreeMap<String, u32> {
    let manifest = realm.ledger.desired().manifest.clone().expect("a manifest");
    let mut routes = manifest.routing.values().flatten();
    let route = routes
        .find(|route| !route.weights.is_empty())
        .expect("it is divided");
    let weights = route.weights.iter();
    weights
        .map(|(name, weight)| (name.label().unwrap_or_default().to_owned(), *weight))
        .collect()
}

fn of(blue: u32, green: u32) -> BTreeMap<String, u32> {
    [("blue".to_owned(), blue), ("green".to_owned(), green)].into()
}

#[test]
fn what_was_decided_holds_until_the_manifest_says_something_new() {
    let mut realm = both();
    assert_eq!(weights(&realm), of(100, 0));
    realm.weigh(&[("orders@green", 100)]).expect("a division");
    assert_eq!(weights(&realm), of(0, 100));
    // The text that was signed stays as it was.
    assert_eq!(realm.ledger.desired().manifest_text.as_deref(), Some(BOTH));
    // Who applies a change of something else changes nothing here.
    realm.apply(&BOTH.replace("/other", "/another"), &BUILDS);
    assert_eq!(weights(&realm), of(0, 100));
    realm.apply(&BOTH.replace("blue = 100", "blue = 90"), &BUILDS);
    assert_eq!(weights(&realm), of(90, 0));
    realm.apply(BOTH, &BUILDS);
    assert_eq!(weights(&realm), of(100, 0));
    let before = realm.ledger.desired().clone();
    realm.replay();
    assert_eq!(realm.ledger.desired(), &before);
    let app = component_name("orders");
    let divisions = before.weights(&app).expect("it is divided").divisions();
    let seen: Vec<u64> = divisions.iter().map(|one| one.entry).collect();
    assert_eq!(seen, [1, 2, 4, 5]);
}

#[test]
fn a_division_names_versions_that_are_routed_and_leaves_nobody_without() {
    use RefusalCode::{InvalidManifest, UnknownName};
    for (weights, expected) in [
        (
            &[("orders@blue", 1), ("orders@blue", 2)][..],
            InvalidManifest,
        ),
        (&[("orders@blue", 0)], InvalidManifest),
        (&[], InvalidManifest),
        (&[("orders@green", 1_001)], InvalidManifest),
        (&[("orders@red", 1)], UnknownName),
        (&[("other", 1)], UnknownName),
    ] {
        let mut realm = both();
        let refused = realm.weigh(weights).expect_err("it is refused");
        assert_eq!(refused.code, expected, "{weights:?}");
        assert_eq!(super::versions::weights(&realm), of(100, 0));
    }
    let mut realm = Realm::of_one_node();
    let refused = realm
        .weigh(&[("orders@blue", 1)])
        .expect_err("nothing was applied");
    assert_eq!(refused.code, UnknownName);
}

const ORDERS: &str = "[components.orders]\nsource = \"file:orders.wasm\"\nenv = { A = \"1\" }\n[routing]\n\"*\" = [{ path = \"/\", component = \"orders\" }]\n";

/// The build and the environment of `orders`.
fn runs(realm: &Realm) -> (bool, String) {
    let desired = realm.ledger.desired();
    let name = component_name("orders");
    let manifest = desired.manifest.as_deref().expect("a manifest");
    let env = &manifest.components[&name].grants.env["A"];
    (desired.pin(&name) == Some(pin("1")), env.clone())
}

#[test]
fn a_component_goes_back_with_its_settings() {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    let first = realm
        .ledger
        .desired()
        .revision_of(&component_name("orders"), &node_name("here"));
    realm.apply(&ORDERS.replace("\"1\"", "\"2\""), &[("orders", "2")]);
    assert_eq!(runs(&realm), (false, "2".to_owned()));
    realm.roll_back("orders", 1, "1").expect("a rollback");
    assert_eq!(runs(&realm), (true, "1".to_owned()));
    assert_eq!(realm.ledger.desired().version, 3);
    // The same revision as then: what still runs of it is what is wanted.
    let now = realm
        .ledger
        .desired()
        .revision_of(&component_name("orders"), &node_name("here"));
    assert_eq!(now, first);
    // And forth again.
    realm.roll_back("orders", 2, "2").expect("a rollback");
    assert_eq!(runs(&realm), (false, "2".to_owned()));
    let before = realm.ledger.desired().clone();
    realm.replay();
    assert_eq!(realm.ledger.desired(), &before);
    realm.roll_back("orders", 3, "1").expect("a rollback");
    let state = &realm.ledger.desired().namespaces[&NamespaceName::DEFAULT];
    assert_eq!(state.rolled_back().count(), 1);
    // A push brings bytes for the settings that were signed.
    let push = realm.push_body("orders", "4");
    realm.submit(Body::Push(push)).expect("a push");
    assert_eq!(runs(&realm), (false, "2".to_owned()));
    let state = &realm.ledger.desired().namespaces[&NamespaceName::DEFAULT];
    assert_eq!(state.rolled_back().count(), 0);
    assert_eq!(
        state.pushed().collect::<Vec<_>>(),
        [&component_name("orders")]
    );
    // The next manifest says everything anew.
    realm.apply(&ORDERS.replace("\"1\"", "\"3\""), &[("orders", "2")]);
    let state = &realm.ledger.desired().namespaces[&NamespaceName::DEFAULT];
    assert_eq!(state.pushed().count(), 0);
    assert_eq!(runs(&realm), (false, "3".to_owned()));
}

/// What is former is so of one route, within one namespace, and only while it has no route of its own.
#[test]
fn who_answered_a_route_before_is_remembered_for_that_route() {
    let routes = |text: &str| {
        let components: String = ["orders", "orders@blue", "orders@green", "other@blue"]
            .map(|name| format!("[components.\"{name}\"]\nsource = \"file:a\"\n"))
            .concat();
        format!("{components}[routing]\n\"*\" = [{text}]\n")
    };
    let builds = [
        ("orders", "1"),
        ("orders@blue", "1"),
        ("orders@green", "1"),
        ("other@blue", "1"),
    ];
    let former = |realm: &Realm| -> Vec<String> {
        let manifest = realm.ledger.desired().manifest.clone().expect("a manifest");
        let routes = manifest.routing.values().flatten();
        let former = routes.flat_map(|route| {
            route
                .former
                .iter()
                .map(move |name| format!("{} {name}", route.path))
        });
        former.collect()
    };
    let mut realm = Realm::of_one_node();
    let mut check = |text: &str, expected: &[&str]| {
        realm.apply(&routes(text), &builds);
        assert_eq!(former(&realm), expected, "{text}");
    };
    check(
        "{ path = '/a', component = 'orders' }, { path = '/b', component = 'orders@green' }",
        &[],
    );
    check(
        "{ path = '/a', component = 'orders', weights = { blue = 1 } }, { path = '/b', component = 'orders@green' }",
        &["/a orders"],
    );
    check(
        "{ path = '/a', component = 'orders@green' }, { path = '/b', component = 'orders@green' }",
        &["/a orders", "/a orders@blue"],
    );
    // What has a route of its own, and another app, are none.
    check(
        "{ path = '/a', component = 'orders@green' }, { path = '/b', component = 'orders@blue' }",
        &["/a orders"],
    );
    check("{ path = '/a', component = 'other@blue' }", &[]);
}

#[test]
fn a_rollback_names_what_is_remembered_and_pins_it() {
    use RefusalCode::{InvalidLock, InvalidManifest, UnknownName};
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    realm.apply(&ORDERS.replace("\"1\"", "\"2\""), &[("orders", "2")]);
    for (component, to, build, expected) in [
        ("orders", 7, "1", UnknownName),
        ("other", 1, "1", UnknownName),
        ("orders", 1, "2", InvalidLock),
        ("orders", 1, "3", InvalidLock),
    ] {
        let refused = realm
            .roll_back(component, to, build)
            .expect_err("it is refused");
        assert_eq!(
            refused.code, expected,
            "{component} {to} {build}: {refused:?}"
        );
    }
    // What answered no requests then cannot take those of now.
    let service = "[components.orders]\nsource = \"file:orders.wasm\"\nserve = \"service\"\n";
    realm.apply(service, &[("orders", "3")]);
    realm.apply(ORDERS, &[("orders", "1")]);
    let refused = realm
        .roll_back("orders", 3, "3")
        .expect_err("it ran otherwise");
    assert_eq!(refused.code, InvalidManifest);
}
