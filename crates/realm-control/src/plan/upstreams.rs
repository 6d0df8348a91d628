//! What a node does with a component that has no bytes: nothing is fetched and nothing compiled.

use realm_model::action::{Action, Plan};

use super::plan;
use crate::around::Around;
use crate::place::place;
use crate::sim::World;
use crate::testing::{Realm, component_name, node_name};

const LEGACY: &str = r#"
[components."app@php"]
upstream = "fastcgi:unix:/run/php.sock"
root = "/srv/www"

[components."app@wasm"]
source = "file:app.wasm"

[routing]
"here" = [{ path = "/...", component = "app", weights = { php = 90, wasm = 10 } }]
"#;

/// The words whose digest is its pin.
const WORDS: &str = "realm upstream 1\nfastcgi:unix:/run/php.sock";

#[test]
fn an_upstream_needs_no_bytes() {
    let mut realm = Realm::of_one_node();
    realm.apply(LEGACY, &[("app@php", WORDS), ("app@wasm", "1")]);
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let mut world = World::new(1);
    world.learn(desired);
    let around = Around::unheard(place(desired, authority, &|_, _| false).into());
    let mut fetched = 0;
    let last: Plan = loop {
        let (observed, now) = (&world.observed, world.now);
        let planned = plan(
            desired,
            authority,
            &node_name("here"),
            observed,
            &around,
            now,
        );
        let actions = planned.actions.iter();
        fetched += actions
            .filter(|action| matches!(action, Action::Fetch { .. } | Action::Compile(_)))
            .count();
        world.execute(&planned);
        if planned.actions.is_empty() && !world.advance() {
            break planned;
        }
    };
    assert_eq!(fetched, 2, "the bytes of the other version alone");
    for (name, has_bytes) in [("app@php", false), ("app@wasm", true)] {
        let name = component_name(name);
        let report = last.reports.iter().find(|one| one.component == name);
        let report = report.expect("a report");
        assert_eq!((report.healthy, report.wanted), (1, 1), "{name}");
        assert_eq!(report.waiting_on, [], "{name}");
        assert_eq!(report.digest.is_some(), has_bytes, "{name}");
        assert_eq!(desired.digest(&name).is_some(), has_bytes, "{name}");
        assert_eq!(world.observed.routes.backends[&name].len(), 1, "{name}");
    }
    assert!(world.violations.is_empty(), "{:?}", world.violations);
}
