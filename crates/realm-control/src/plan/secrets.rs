//! What a node does with a component whose secrets it cannot open: nothing starts, what runs goes on, and
//! the report says which secret it is.

use realm_model::action::Plan;
use realm_model::entry::NamespaceName;
use realm_model::sealing::{self, Label, Mark, ValueId};

use super::plan;
use crate::around::Around;
use crate::place::place;
use crate::sim::World;
use crate::testing::{Realm, component_name, node_name};

/// A secret with this value, sealed to one recipient.
fn sealed(value: u8, recipient: &str) -> String {
    let label = Label {
        namespace: NamespaceName::DEFAULT,
        name: "key".to_owned(),
        value: ValueId([value; ValueId::BYTES]),
        marks: vec![Mark::of(recipient)],
    };
    sealing::text(format!("age-encryption.org/v1\n{}--- mac\n", label.stanza()).as_bytes())
}

fn manifest(secret: &str) -> String {
    format!(
        "[components.app]\nsource = 'file:a'\nsecrets = ['key']\n[secrets]\nkey = '{secret}'\n\
         [routing]\n'*' = [{{ path = '/', component = 'app' }}]\n"
    )
}

/// Plans until nothing happens any more; the node opens what is sealed to `here`.
fn settle(realm: &Realm, world: &mut World) -> Plan {
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    world.learn(desired);
    let around = Around::unheard(place(desired, authority, &|_, _| false).into());
    let foreign = desired.secrets().filter(|(_, sealed)| {
        let label = sealed.label().expect("it has a label");
        !label.marks.contains(&Mark::of("here"))
    });
    world.observed.unopened = foreign.map(|(_, sealed)| sealed.digest()).collect();
    loop {
        let now = world.now;
        let node = node_name("here");
        let planned = plan(desired, authority, &node, &world.observed, &around, now);
        world.execute(&planned);
        if planned.actions.is_empty() && !world.advance() {
            return planned;
        }
    }
}

#[track_caller]
fn check(planned: &Plan, healthy: u32, serving: u32, waits_on: Option<&str>) {
    let name = component_name("app");
    let report = planned.reports.iter().find(|one| one.component == name);
    let report = report.expect("a report");
    let waiting: Vec<_> = report.waiting_on.iter().map(|one| &*one.message).collect();
    assert_eq!(
        (report.healthy, report.serving),
        (healthy, serving),
        "{waiting:?}"
    );
    let codes = report.waiting_on.iter().map(|one| one.code.as_str());
    assert!(
        codes.eq(waits_on.map(|_| "secret-sealed-away")),
        "{waiting:?}"
    );
    if let Some(waits_on) = waits_on {
        assert!(waiting[0].starts_with(waits_on), "{waiting:?}");
    }
}

#[test]
fn what_cannot_be_opened_here_does_not_start_here() {
    let mut realm = Realm::of_one_node();
    let mut world = World::new(1);
    realm.apply(&manifest(&sealed(1, "elsewhere")), &[("app", "1")]);
    let away = "waiting on secret `key`: it is not sealed to this node";
    check(&settle(&realm, &mut world), 0, 0, Some(away));
    realm.apply(&manifest(&sealed(1, "here")), &[("app", "1")]);
    check(&settle(&realm, &mut world), 1, 1, None);
    let before: Vec<_> = world.observed.replicas.keys().cloned().collect();

    // The same value sealed to others restarts nothing, also where it cannot be opened any more.
    realm.apply(&manifest(&sealed(1, "elsewhere")), &[("app", "1")]);
    check(&settle(&realm, &mut world), 1, 1, Some(away));
    assert!(world.observed.replicas.keys().eq(&before));
    // Another value does; where it cannot be opened, the old one goes on.
    realm.apply(&manifest(&sealed(2, "elsewhere")), &[("app", "1")]);
    check(&settle(&realm, &mut world), 0, 1, Some(away));
    assert!(world.observed.replicas.keys().eq(&before));
    realm.apply(&manifest(&sealed(2, "here")), &[("app", "1")]);
    check(&settle(&realm, &mut world), 1, 1, None);
    assert!(!world.observed.replicas.keys().eq(&before));
    assert!(world.violations.is_empty(), "{:?}", world.violations);
}
