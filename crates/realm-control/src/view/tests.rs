//! The state in one word and what it waits on, for every kind of component.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use realm_model::action::{ComponentReport, WaitingOn};
use realm_model::manifest::Mode;
use realm_model::observed::{Millis, Observed};
use realm_model::record::{NodeBody, NodeRecord, PendingJoin, Version};
use realm_model::refusal::RefusalCode;
use realm_model::view::{ComponentState, StatusView};

use super::across::{Across, across};
use super::{Here, state, view};
use crate::place::Placement;
use crate::records::Records;
use crate::testing::plan_alone;
use crate::testing::{Realm, approval, component_name, key, node_key, node_name};

const MANIFEST: &str = r#"
[nodes.there]
tags = ["arm"]

[components.api]
source = "file:api"
[components.batch]
source = "file:batch"
[components.far]
source = "file:far"
[components.odd]
source = "file:odd"

[routing]
"here" = [
  { path = "/api/...", component = "api", replicas = 2 },
  { host = "shop.example.com", path = "/...", component = "api" },
]
"there" = [{ path = "/far", component = "far" }, { path = "/api", component = "api" }]
"tag:gpu" = [{ path = "/odd", component = "odd" }]
"#;

#[test]
fn the_status_says_what_each_component_waits_on() {
    let mut realm = Realm::of_one_node();
    realm.apply(
        MANIFEST,
        &[("api", "1"), ("batch", "1"), ("far", "1"), ("odd", "1")],
    );
    insta::assert_snapshot!(told(&status(&realm)), @r#"
    api Starting 0/2 [/api/... shop.example.com/...] 7 restarts
      fetching: fetching api (sha256:6b86b273ff34…)
      node-absent: waiting for node `there`
    batch Idle 0/0 [] 0 restarts
    far Idle 0/0 [] 0 restarts
      node-absent: waiting for node `there`
    odd Idle 0/0 [] 0 restarts
      node-absent: waiting for a node with the tag `gpu`
    node here approved [] here
    node there absent ["arm"]
    "#);
    realm
        .submit(approval("there", &["gpu"]))
        .expect("an approval");
    insta::assert_snapshot!(told(&status(&realm)), @r#"
    api Starting 0/2 [/api/... shop.example.com/...] 7 restarts
      fetching: fetching api (sha256:6b86b273ff34…)
    batch Idle 0/0 [] 0 restarts
    far Idle 0/0 [] 0 restarts
    odd Idle 0/0 [] 0 restarts
    node here approved [] here
    node there approved ["gpu", "arm"]
    "#);
}

#[test]
fn a_realm_without_a_manifest_has_a_status() {
    let view = status(&Realm::of_one_node());
    assert_eq!((view.version, view.components.len()), (0, 0));
    assert_eq!(view.authority_head.seq, 1);
    assert_eq!(view.refusals, [("stale".to_owned(), 3)].into());
    assert_eq!(view.urls, ["http://127.0.0.1:8080"]);
}

#[test]
fn the_state_is_one_word() {
    use ComponentState::{
        Backoff, Degraded, Done, Draining, Failed, Healthy, Running, Scheduled, Starting, Updating,
    };
    let answers = Some(Mode::Answers);
    for (mode, wanted, healthy, old, code, expected) in [
        (answers, 2, 2, 0, "", Healthy),
        // Old replicas that drain do not serve.
        (answers, 2, 2, 0, "draining", Healthy),
        (answers, 2, 2, 2, "routing", Updating),
        (answers, 2, 0, 2, "compiling", Updating),
        (answers, 2, 1, 1, "failed", Updating),
        (answers, 2, 1, 0, "backoff", Degraded),
        (answers, 2, 0, 0, "fetching", Starting),
        (answers, 2, 0, 0, "backoff", Backoff),
        (answers, 2, 0, 0, "failed", Failed),
        (None, 0, 0, 0, "not-approved", Failed),
        (None, 0, 0, 1, "draining", Draining),
        (Some(Mode::Server), 1, 1, 0, "", Healthy),
        (Some(Mode::Service), 1, 1, 0, "", Healthy),
        (Some(Mode::Service), 1, 1, 0, "done", Done),
        (Some(Mode::Once), 1, 1, 0, "", Running),
        (Some(Mode::Once), 1, 1, 0, "done", Done),
        (Some(Mode::Once), 1, 0, 0, "failed", Failed),
        (Some(Mode::Once), 1, 0, 0, "backoff", Backoff),
        (Some(Mode::Scheduled), 1, 1, 0, "scheduled", Scheduled),
        (Some(Mode::Scheduled), 1, 1, 0, "", Running),
        (Some(Mode::Scheduled), 1, 0, 0, "compiling", Starting),
    ] {
        let report = ComponentReport {
            component: component_name("a"),
            wanted,
            mode,
            running: code.is_empty(),
            healthy,
            old,
            serving: 0,
            seats: Vec::new(),
            failed: Vec::new(),
            digest: None,
            waiting_on: vec![WaitingOn {
                code: code.to_owned(),
                message: String::new(),
            }],
        };
        assert_eq!(state(Some(&report)), expected, "{report:?}");
    }
    assert_eq!(state(None), ComponentState::Idle);
}

fn status(realm: &Realm) -> StatusView {
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let node = node_name("here");
    let plan = plan_alone(desired, authority, &node, &Observed::default(), Millis(0));
    let here = Here {
        node: &node,
        agent_version: "0.1.0",
        urls: &["http://127.0.0.1:8080".to_owned()],
        restarts: &[(component_name("api"), 7)].into(),
        refusals: &BTreeMap::from([(RefusalCode::Stale, 3)]),
    };
    view(desired, authority, &plan, &here)
}

fn told(view: &StatusView) -> String {
    let mut text = String::new();
    for component in &view.components {
        let (name, state) = (&component.name, &component.state);
        let routes = component.routes.join(" ");
        let (healthy, wanted) = (component.healthy, component.wanted);
        let restarts = component.restarts;
        writeln!(
            text,
            "{name} {state:?} {healthy}/{wanted} [{routes}] {restarts} restarts"
        )
        .expect("a String");
        for waiting in &component.waiting_on {
            writeln!(text, "  {}: {}", waiting.code, waiting.message).expect("a String");
        }
    }
    for node in &view.nodes {
        let approved = if node.key.is_some() {
            "approved"
        } else {
            "absent"
        };
        let here = if node.here { " here" } else { "" };
        writeln!(text, "node {} {approved} {:?}{here}", node.name, node.tags).expect("a String");
    }
    text
}

/// Who asks another node to join is approved here with the tags that it proposes there.
#[test]
fn a_request_that_another_node_reports_keeps_its_tags() {
    let mut realm = Realm::of_one_node();
    realm.submit(approval("there", &[])).expect("a node");
    let (there, asks) = (key("there"), key("asks").public());
    let authority = realm.ledger.authority();
    let mut records = Records::new(authority.realm, node_key("here"));
    let mut body = NodeBody::of(node_name("there"));
    body.pending.push(PendingJoin {
        key: asks.into(),
        name: node_name("asks"),
        address: "192.0.2.1".to_owned(),
        proof: None,
        tags: Some(vec![node_name("edge"), node_name("gpu")]),
    });
    let version = Version {
        epoch: 1,
        boot: 1,
        counter: 1,
    };
    let bytes = NodeRecord::sign(authority.realm, &there, version, body);
    let members = [(there.public().into(), there.public())].into();
    records.offer(&bytes, &members, true);
    let mut status = status(&realm);
    let others = Across {
        own: node_key("here"),
        heads: &realm.ledger.heads(),
        records: &records,
        reached: &BTreeMap::new(),
        connections: &BTreeMap::new(),
        pending: &[],
        placement: &Placement::default(),
    };
    across(&mut status, authority, &others);
    let [pending] = &status.pending[..] else {
        panic!("{:?}", status.pending);
    };
    assert_eq!(pending.key, asks);
    assert_eq!(pending.tags, ["edge", "gpu"]);
}
