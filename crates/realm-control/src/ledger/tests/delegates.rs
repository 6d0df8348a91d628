//! Delegates: who signs for a namespace, within which scope, and for how long. Case 8.

use realm_model::entry::{ApproveUntil, Body, ChainId, Delegate, SetNode, Undelegate};
use realm_model::key::SecretKey;
use realm_model::refusal::{Refusal, RefusalCode};

use super::ORDERS;
use crate::authority::{CLOCK_TOLERANCE_S, Role};
use crate::testing::{
    Realm, approval, component_name, delegation, key, manifest_body, namespace, node_key,
    node_name, restart,
};

fn code<T>(taken: Result<T, Refusal>) -> Option<RefusalCode> {
    taken.err().map(|refusal| refusal.code)
}

/// A realm with the node `here` of tag `metal`, and a delegate of `team-a`.
fn delegated(change: impl FnOnce(&mut Delegate)) -> (Realm, SecretKey) {
    let mut realm = Realm::found();
    realm.submit(approval("here", &["metal"])).expect("a node");
    realm.submit(approval("there", &[])).expect("a node");
    let team = key("team");
    let mut body = delegation("team-a", team.public());
    change(&mut body);
    realm.submit(Body::Delegate(body)).expect("a delegate");
    (realm, team)
}

fn check(change: impl FnOnce(&mut Delegate), manifest: &str, expected: Option<&str>) {
    let (mut realm, team) = delegated(change);
    let taken = realm.apply_in(namespace("team-a"), &team, manifest, &[("orders", "1")]);
    match (taken, expected) {
        (Ok(_), None) => {}
        (Err(refusal), Some(part)) => {
            assert_eq!(refusal.code, RefusalCode::OutOfScope, "{refusal}");
            assert!(refusal.message.contains(part), "`{part}` in `{refusal}`");
        }
        (taken, expected) => panic!("{taken:?} instead of {expected:?} for {manifest}"),
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// Case 8, outside of the scope: each dimension, once within and once beyond.
#[test]
fn case_8_a_delegate_keeps_to_its_scope() {
    check(|_| {}, ORDERS, None);
    check(|d| d.apps = words(&["ord*"]), ORDERS, None);
    check(
        |d| d.apps = words(&["shop-*"]),
        ORDERS,
        Some("is none of its components"),
    );
    check(
        |d| d.apps = Vec::new(),
        ORDERS,
        Some("is none of its components"),
    );
    check(
        |_| {},
        &format!("{ORDERS}\n[nodes.here]\ntags = [\"a\"]\n"),
        Some("`[nodes]`"),
    );
    // Nodes.
    let routed = |selector: &str| ORDERS.replace("\"here\"", &format!("\"{selector}\""));
    for (selector, expected) in [
        ("here", None),
        ("there", Some("routes on node `there`")),
        ("elsewhere", Some("routes on node `elsewhere`")),
        ("tag:metal", None),
        ("tag:cloud", Some("the tag `cloud`")),
        ("*", Some("every node")),
    ] {
        check(|d| d.tags = words(&["metal"]), &routed(selector), expected);
        check(|_| {}, &routed(selector), None);
    }
    // Replicas and hosts.
    let three = ORDERS.replace(
        "component = \"orders\"",
        "component = \"orders\", replicas = 3",
    );
    check(|d| d.replicas_max = Some(3), &three, None);
    check(|d| d.replicas_max = Some(2), &three, Some("at most 2"));
    let hosted = ORDERS.replace("path =", "host = \"a.example.com\", path =");
    check(|d| d.hosts = words(&["*.example.com"]), &hosted, None);
    check(
        |d| d.hosts = words(&["*.example.org"]),
        &hosted,
        Some("host `a.example.com`"),
    );
    check(
        |d| d.hosts = words(&["*.example.com"]),
        ORDERS,
        Some("any host"),
    );
}

/// Case 8, outside of the scope: what a component is granted.
#[test]
fn case_8_a_delegate_grants_what_it_was_given() {
    for (line, capability) in [
        (
            "allowed_outbound = [\"https://a.example\"]",
            "outbound-http",
        ),
        ("env = { A = \"1\" }", "env"),
    ] {
        let manifest = ORDERS.replace("[routing]", &format!("{line}\n[routing]"));
        let (parsed, problems) = realm_model::manifest::parse(&manifest);
        let parsed = parsed.unwrap_or_else(|| panic!("{problems:?}"));
        let spec = &parsed.components[&component_name("orders")];
        let wants = realm_model::grants::Capability::of(spec);
        assert!(
            wants.iter().any(|one| one.as_str() == capability),
            "{wants:?}"
        );
        check(|_| {}, &manifest, Some("wants `"));
        let all: Vec<String> = wants.iter().map(ToString::to_string).collect();
        check(|d| d.capabilities = all, &manifest, None);
    }
    let job = "[components.orders]\nsource = \"file:orders.wasm\"\nserve = \"job\"\n";
    check(|_| {}, job, Some("wants `run-alone`"));
    check(|d| d.capabilities = words(&["run-alone"]), job, None);
    check(
        |d| {
            d.capabilities = words(&["run-alone"]);
            d.tags = words(&["metal"]);
        },
        job,
        Some("by itself on every node"),
    );
    let mut body = delegation("team-b", key("b").public());
    body.capabilities = words(&["teleport"]);
    let (mut realm, _) = delegated(|_| {});
    assert_eq!(
        code(realm.submit(Body::Delegate(body))),
        Some(RefusalCode::NeedsNewerAgent)
    );
}

/// Case 8, expired: by the date in the entry everywhere, by the clock where it is submitted.
#[test]
fn case_8_a_delegation_ends_in_time() {
    let end = 1_000_000;
    let (realm, team) = delegated(|d| d.not_after_unix_s = Some(end));
    let chain = ChainId::Namespace(namespace("team-a"));
    let check = |created: u64, now: Option<u64>, expected| {
        let body = manifest_body(ORDERS, 1, &[("orders", "1")]);
        let mut payload = realm.payload_in(chain, body);
        payload.created_unix_s = created;
        let bytes = realm.signed(chain, &payload, &[&team]);
        let checked = realm.ledger.check(chain, &bytes, now);
        let seen = checked.map(drop).map_err(|error| error.refusal());
        if let Err(refusal) = &seen {
            assert!(refusal.message.contains("clock"), "{refusal}");
        }
        assert_eq!(code(seen), expected);
    };
    let expired = Some(RefusalCode::Expired);
    check(end, None, None);
    check(end + 1, None, expired);
    check(end, Some(end + CLOCK_TOLERANCE_S), None);
    check(end, Some(end + CLOCK_TOLERANCE_S + 1), expired);
    // A clock that was lost ends nothing.
    check(0, Some(0), None);
    let authority = realm.ledger.authority();
    assert!(authority.role_of(&team.public(), end).is_some());
    assert_eq!(
        authority.role_of(&team.public(), end + CLOCK_TOLERANCE_S + 1),
        None
    );
}

/// Case 8, revoked at the authority head that it saw; and nobody else signs for its namespace.
#[test]
fn case_8_a_namespace_has_one_writer_at_a_time() {
    let (mut realm, team) = delegated(|_| {});
    let (owner, name) = (realm.owner.clone(), namespace("team-a"));
    let chain = ChainId::Namespace(name);
    let wrong = Some(RefusalCode::WrongOwner);
    assert_eq!(
        code(realm.apply_in(name, &owner, ORDERS, &[("orders", "1")])),
        wrong
    );
    assert_eq!(
        code(realm.submit_by(&[&team], ChainId::DEFAULT, restart("orders", &[]))),
        wrong
    );
    realm
        .apply_in(name, &team, ORDERS, &[("orders", "1")])
        .expect("its own");
    let end = |fences| {
        Body::Undelegate(Undelegate {
            namespace: name,
            fences,
        })
    };
    assert_eq!(
        code(realm.submit(end(Vec::new()))),
        Some(RefusalCode::Malformed)
    );
    let fences = vec![realm.fence(name)];
    realm.submit(end(fences)).expect("taken back");
    let revoked = realm.submit_by(&[&team], chain, restart("orders", &[]));
    assert_eq!(code(revoked), Some(RefusalCode::OutOfScope));
    // What runs goes on; the owners sign.
    assert!(
        realm
            .ledger
            .desired()
            .pin(&component_name("orders"))
            .is_some()
    );
    realm
        .submit_by(&[&owner], chain, restart("orders", &[]))
        .expect("the owners");
    super::forks::check_replay(&realm);
}

#[test]
fn of_two_namespaces_the_earlier_one_has_the_name_and_the_route() {
    let (mut realm, team) = delegated(|_| {});
    let name = namespace("team-a");
    let two = "[components.orders]\nsource = \"file:orders.wasm\"\n[components.cart]\nsource = \"file:cart.wasm\"\n\
        [routing]\n\"here\" = [{ path = \"/cart/...\", component = \"cart\" }, { path = \"/orders/...\", component = \"cart\" }]\n";
    realm
        .apply_in(name, &team, two, &[("orders", "theirs"), ("cart", "1")])
        .expect("theirs");
    let all = ORDERS.replace("\"here\"", "\"*\"");
    realm.apply(&all, &[("orders", "ours")]);
    let desired = realm.ledger.desired();
    let orders = component_name("orders");
    assert_eq!(
        desired.namespace_of(&orders),
        Some(realm_model::entry::NamespaceName::DEFAULT)
    );
    assert_eq!(desired.displaced(&orders).collect::<Vec<_>>(), [name]);
    assert_eq!(desired.pin(&orders), Some(crate::testing::pin("ours")));
    assert_eq!(desired.namespace_of(&component_name("cart")), Some(name));
    assert_eq!(desired.manifest.as_ref().expect("both").components.len(), 2);
    let observed = realm_model::observed::Observed::default();
    let plan = crate::testing::plan_alone(
        desired,
        realm.ledger.authority(),
        &node_name("here"),
        &observed,
        realm_model::observed::Millis(0),
    );
    let table = plan.actions.iter().find_map(|action| {
        if let realm_model::action::Action::Route(table) = action {
            Some(table)
        } else {
            None
        }
    });
    let routes = &table.expect("a table").routes;
    let of = |path: &str| {
        routes
            .iter()
            .find(|route| route.path.matches(path))
            .map(|r| r.component.clone())
    };
    // A route of the owners for all nodes stands above one of a delegate for this node.
    assert_eq!(of("/orders/1"), Some(orders));
    assert_eq!(of("/cart/1"), Some(component_name("cart")));
    assert_eq!(routes.len(), 2);
}

#[test]
fn a_delegate_may_approve_if_it_was_given_that() {
    let (mut realm, team) = delegated(|d| d.may_approve = true);
    let authority = ChainId::Authority;
    let body = Body::ApproveUntil(ApproveUntil {
        key: node_key("new"),
        name: node_name("new"),
        tags: words(&["metal"]),
        not_after_unix_s: 500,
    });
    realm
        .submit_by(&[&team], authority, body)
        .expect("an approval");
    let seen = realm.ledger.authority();
    let role = |now| seen.role_of(&node_key("new"), now);
    assert_eq!(
        role(500 + CLOCK_TOLERANCE_S),
        Some(Role::Node(node_name("new")))
    );
    assert_eq!(role(501 + CLOCK_TOLERANCE_S), None);
    let wrong = Some(RefusalCode::WrongOwner);
    for body in [
        crate::testing::revocation("here"),
        Body::SetNode(SetNode {
            key: node_key("here"),
            cordoned: true,
            drained: false,
        }),
        Body::Delegate(delegation("team-b", key("b").public())),
    ] {
        assert_eq!(code(realm.submit_by(&[&team], authority, body)), wrong);
    }
    let (mut realm, team) = delegated(|_| {});
    assert_eq!(
        code(realm.submit_by(&[&team], authority, approval("x", &[]))),
        wrong
    );
}

#[test]
fn a_key_is_what_the_authority_chain_says() {
    let (mut realm, team) = delegated(|d| d.may_exec = true);
    let mut reader = delegation("looks", key("reader").public());
    reader.apps = Vec::new();
    realm.submit(Body::Delegate(reader)).expect("a reader");
    let authority = realm.ledger.authority();
    let role = |of: &SecretKey| authority.role_of(&of.public(), 0);
    assert_eq!(role(&realm.owner), Some(Role::Owner));
    assert_eq!(role(&key("reader")), Some(Role::Reader));
    assert_eq!(role(&key("stranger")), None);
    let expected = Role::Delegate {
        namespace: namespace("team-a"),
        may_exec: true,
        may_approve: false,
    };
    assert_eq!(role(&team), Some(expected));
}

#[test]
fn the_beacon_has_a_key_a_name_and_a_time_of_its_own() {
    use realm_model::entry::SetBeacon;
    let mut realm = Realm::of_one_node();
    let rule = |name: &str, every_s, of: &SecretKey| {
        Body::SetBeacon(SetBeacon {
            name: namespace(name),
            every_s,
            key: Some(of.public()),
        })
    };
    let team = Body::Delegate(delegation("team-a", key("team").public()));
    realm.submit(team).expect("a delegate");
    let (owner, beacon) = (realm.owner.clone(), key("beacon"));
    for (body, expected) in [
        (rule("watch", 0, &beacon), Some(RefusalCode::Malformed)),
        (
            rule("watch", 604_801, &beacon),
            Some(RefusalCode::Malformed),
        ),
        (rule("watch", 5, &owner), Some(RefusalCode::Malformed)),
        (rule("watch", 5, &key("here")), Some(RefusalCode::Malformed)),
        (rule("watch", 5, &key("team")), Some(RefusalCode::Malformed)),
        (rule("team-a", 5, &beacon), Some(RefusalCode::NameTaken)),
        (rule("watch", 5, &beacon), None),
        (rule("watch", 604_800, &beacon), None),
        (
            Body::Delegate(delegation("watch", key("other").public())),
            Some(RefusalCode::NameTaken),
        ),
        (
            Body::Delegate(delegation("other", beacon.public())),
            Some(RefusalCode::Malformed),
        ),
    ] {
        let taken = realm.submit(body).err().map(|refusal| refusal.code);
        assert_eq!(taken, expected);
    }
    let authority = realm.ledger.authority();
    assert_eq!(authority.role_of(&beacon.public(), 0), Some(Role::Beacon));
    assert!(authority.callers(0).any(|key| key == beacon.public()));
    // It signs beacons, and no entry of any chain.
    for body in [approval("x", &[]), restart("orders", &[])] {
        let chain = body.chain(realm_model::entry::NamespaceName::DEFAULT);
        let taken = realm.submit_by(&[&beacon], chain, body);
        assert_eq!(taken.err().map(|r| r.code), Some(RefusalCode::WrongOwner));
    }
    let none = Body::SetBeacon(SetBeacon {
        name: namespace("watch"),
        every_s: 5,
        key: None,
    });
    realm.submit(none).expect("it is taken away");
    assert_eq!(realm.ledger.authority().role_of(&beacon.public(), 0), None);
}
