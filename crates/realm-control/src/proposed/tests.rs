//! What is told of a manifest that is not in force, and that it is what follows when it is.

use realm_model::key::SecretKey;
use realm_model::manifest::parse;

use super::*;
use crate::place::place;
use crate::testing::{
    Realm, approval, component_name, delegation, key, lock, namespace, node_name,
};

const NOW: &str = "[components.app]\nsource = 'file:a'\n[components.goes]\nsource = 'file:a'\n\
                   [components.stays]\nsource = 'file:a'\n[routing]\n\
                   a = [{ path = '/goes', component = 'goes' }]\n\
                   '*' = [{ path = '/', component = 'app' }, { path = '/s', component = 'stays' }]";
const NEXT: &str = "[components.app]\nsource = 'file:a'\n[components.comes]\nsource = 'file:a'\n\
                    [components.stays]\nsource = 'file:a'\n[routing]\n\
                    'tag:gpu' = [{ path = '/comes', component = 'comes' }]\n\
                    '*' = [{ path = '/', component = 'app', replicas = 2 }, { path = '/s', component = 'stays' }]";

fn realm_of(nodes: &[&str]) -> Realm {
    let mut realm = Realm::found();
    for node in nodes {
        realm.submit(approval(node, &[])).expect("an approval");
    }
    realm
}

fn asked(realm: &Realm) -> Asked<'_> {
    Asked {
        desired: realm.ledger.desired(),
        authority: realm.ledger.authority(),
        gone: &|_, _| false,
        away: &|_| None,
        unix_s: 0,
    }
}

fn next(realm: &Realm, of: NamespaceName, text: &str, builds: &[(&str, &str)]) -> Desired {
    let desired = realm.ledger.desired();
    let version = desired.namespaces.get(&of).map_or(0, |state| state.version);
    let manifest = parse(text).0.expect("a manifest");
    let seq = realm.ledger.authority().head.seq;
    desired.with(of, manifest, lock(version + 1, builds), seq)
}

/// A line per component: versions, replicas, and per node what it has, would have, and why.
fn told(view: &PlacementView) -> String {
    let mut lines = Vec::new();
    for one in &view.components {
        let version = |version: Option<u64>| version.map_or("-".to_owned(), |one| one.to_string());
        let mut line = format!(
            "{} {}→{}{} {} of {} unplaced",
            one.component,
            version(one.version_in_force),
            version(one.version),
            if one.replaced { " replaced" } else { "" },
            one.unplaced,
            one.wanted,
        );
        for place in &one.nodes {
            let codes: Vec<&str> = place.reasons.iter().map(|one| one.code.as_str()).collect();
            let codes = codes.join(",");
            line += &format!(
                "; {} {}→{} {codes}",
                place.node, place.in_force, place.replicas
            );
        }
        for reason in &one.reasons {
            line += &format!("; {}", reason.code);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

fn check(view: &PlacementView, expected: &str) {
    let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    assert_eq!(told(view), expected.join("\n"));
}

#[test]
fn what_comes_goes_and_is_replaced_is_told_per_node() {
    let mut realm = realm_of(&["a", "b"]);
    realm.apply(NOW, &[("app", "1"), ("goes", "1"), ("stays", "1")]);
    let builds = [("app", "2"), ("comes", "1"), ("stays", "1")];
    let next = next(&realm, NamespaceName::DEFAULT, NEXT, &builds);
    let view = proposed(
        &asked(&realm),
        &next,
        NamespaceName::DEFAULT,
        &node_name("a"),
    );
    check(
        &view,
        "
        app 1→2 replaced 0 of 2 unplaced; a 0→1 placed; b 1→1 placed
        comes -→2 1 of 1 unplaced; a 0→0 tag-missing; b 0→0 tag-missing; node-absent
        goes 1→- 0 of 0 unplaced; a 1→0 ; b 0→0
        stays 1→1 0 of 1 unplaced; a 0→0 outranked; b 1→1 placed",
    );
    // What was told is what is there once it is signed.
    realm.apply(NEXT, &builds);
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let placement = place(desired, authority, &|_, _| false);
    for one in &view.components {
        for place in &one.nodes {
            let share = placement.share(&one.component, &place.node);
            assert_eq!(share, place.replicas, "{}", one.component);
        }
        let settings = desired.settings(&one.component);
        assert_eq!(settings.map(|(version, _)| version), one.version);
    }
}

#[test]
fn before_the_first_manifest_everything_comes() {
    let realm = realm_of(&["a"]);
    let text = "[components.app]\nsource = 'file:a'\nserve = 'service'";
    let next = next(&realm, NamespaceName::DEFAULT, text, &[("app", "1")]);
    let view = proposed(
        &asked(&realm),
        &next,
        NamespaceName::DEFAULT,
        &node_name("a"),
    );
    check(&view, "app -→1 0 of 1 unplaced; a 0→1 everywhere");
}

#[test]
fn a_delegate_is_told_of_its_own_and_of_whom_the_name_is() {
    let mut realm = realm_of(&["a"]);
    let team: SecretKey = key("team");
    let body = realm_model::entry::Body::Delegate(delegation("team", team.public()));
    realm.submit(body).expect("an owner's word");
    realm.apply(NOW, &[("app", "1"), ("goes", "1"), ("stays", "1")]);
    let text = "[components.app]\nsource = 'file:b'\n[components.own]\nsource = 'file:b'\n[routing]\n\
                '*' = [{ path = '/app', component = 'app' }, { path = '/own', component = 'own' }]";
    let next = next(
        &realm,
        namespace("team"),
        text,
        &[("app", "1"), ("own", "1")],
    );
    let view = proposed(&asked(&realm), &next, namespace("team"), &node_name("a"));
    check(
        &view,
        "
        app -→- 0 of 0 unplaced; name-taken
        own -→1 0 of 1 unplaced; a 0→1 placed",
    );
}

#[test]
fn of_too_many_only_those_that_have_something_are_told() {
    let nodes: Vec<String> = (0..101).map(|index| format!("n{index:03}")).collect();
    let realm = realm_of(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut text, mut routes, mut builds) = (String::new(), Vec::new(), Vec::new());
    let names: Vec<String> = (0..200).map(|index| format!("c{index:03}")).collect();
    for name in &names {
        text += &format!("[components.{name}]\nsource = 'file:a'\n");
        routes.push(format!("{{ path = '/{name}', component = '{name}' }}"));
        builds.push((name.as_str(), "1"));
    }
    text += &format!("[routing]\n'*' = [{}]", routes.join(", "));
    let next = next(&realm, NamespaceName::DEFAULT, &text, &builds);
    let view = proposed(
        &asked(&realm),
        &next,
        NamespaceName::DEFAULT,
        &node_name("n000"),
    );
    assert!(view.abridged);
    assert_eq!(view.components.len(), 200);
    assert!(
        view.components
            .iter()
            .all(|one| one.nodes.len() == 1 && one.nodes[0].replicas == 1)
    );
    let first = component_name("c000");
    assert_eq!(view.components[0].component, first);
}
