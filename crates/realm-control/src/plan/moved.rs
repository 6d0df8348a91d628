//! A rollout in the middle of which a node is drained, or left out of the routing, so that the places of the
//! others, and with them the turns, are others: never more are doubled than may be, and it goes on to its end.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::action::{Action, Plan};
use realm_model::entry::{Body, ChainId, SetNode};
use realm_model::name::NodeName;
use realm_model::observed::{
    Artifact, ArtifactState, Millis, Observed, ReplicaId, ReplicaState, Revision,
};
use realm_model::record::{ComponentSummary, NodeBody};

use super::plan;
use crate::around::Around;
use crate::place::place;
use crate::testing::{Realm, approval, component_name, node_key, node_name, pin};

const NODES: [&str; 5] = ["n0", "n1", "n2", "n3", "n4"];

const NOW: Millis = Millis(100_000);

/// Who has heard that a node shall have no replicas while one of another node is being replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    All,
    AllOthers,
    TheOne,
}

/// How that is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Drain,
    Routing,
}

/// The manifest for nodes with a tag, or for all.
fn manifest(selector: &str, [replicas, surge, unavailable]: [usize; 3]) -> String {
    format!(
        "[components.app]\nsource = 'file:a'\n[routing]\n'{selector}' = [{{ path = '/', component = 'app', \
         replicas = {replicas}, max_surge = {surge}, max_unavailable = {unavailable} }}]\n"
    )
}

/// Nodes that replace the replicas of one component.
struct Scene {
    /// What each node has in force, and what runs there.
    nodes: BTreeMap<NodeName, (Realm, Observed)>,
    said: BTreeMap<NodeName, NodeBody>,
}

impl Scene {
    /// The old version serves everywhere, and the new one is signed.
    fn new(budget: [usize; 3]) -> Self {
        let mut realm = Realm::found();
        for name in NODES {
            let others = NODES.into_iter().filter(|other| *other != name);
            let tags: Vec<String> = others.map(|other| format!("not-{other}")).collect();
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            realm.submit(approval(name, &tags)).expect("an approval");
        }
        let text = manifest("*", budget);
        realm.apply(&text, &[("app", "old")]);
        let old = revision(&realm);
        realm.apply(&text, &[("app", "new")]);
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        let placement = place(desired, authority, &|_, _| false);
        let nodes = NODES.map(|name| {
            let name = node_name(name);
            let mut observed = Observed::default();
            let artifact = Artifact {
                digest: pin("new").digest,
                fuel: false,
            };
            observed.artifacts.insert(artifact, ArtifactState::Ready);
            for slot in 0..placement.share(&component_name("app"), &name) {
                observed.replicas.insert(replica(old, slot), healthy());
            }
            (name, (realm.clone(), observed))
        });
        let mut scene = Self {
            nodes: nodes.into(),
            said: BTreeMap::new(),
        };
        // What one says rests on what the others said.
        for _ in 0..2 {
            for name in NODES {
                let _ = scene.looks(&node_name(name));
            }
        }
        scene
    }

    /// A node plans, and the others hear how it stands.
    fn looks(&mut self, name: &NodeName) -> Plan {
        let (realm, observed) = &self.nodes[name];
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        let placement = place(desired, authority, &|_, _| false);
        let around = Around::of(
            placement.into(),
            authority.head.seq,
            self.said.iter(),
            name,
            &BTreeSet::new(),
            observed,
        );
        let planned = plan(desired, authority, name, observed, &around, NOW);
        let mut body = NodeBody::of(name.clone());
        body.heads = [ChainId::Authority, ChainId::DEFAULT]
            .map(|chain| realm.ledger.head(chain).of(chain))
            .into();
        let summary = planned.reports.iter().map(|report| ComponentSummary {
            name: report.component.to_string(),
            namespace: String::new(),
            wanted: report.wanted,
            healthy: report.healthy,
            state: String::new(),
            code: String::new(),
            reason: String::new(),
            digest: report.digest,
            serving: Some(report.serving),
            seats: Some(report.seats.clone()),
            failed: None,
        });
        body.components = summary.collect();
        self.said.insert(name.clone(), body);
        planned
    }

    /// Lets all act until nobody has anything to do, or `until` starts a replica beside an old one: which
    /// is under way then, and returned. Everything else is healthy, or gone, at once. Adds to `most` how
    /// many were doubled at the same time.
    fn goes_on(&mut self, until: Option<&NodeName>, most: &mut usize) -> Option<u32> {
        let mut quiet = 0;
        while quiet < 2 {
            quiet += 1;
            for name in NODES.map(node_name) {
                let actions = self.looks(&name).actions;
                let (_, observed) = self.nodes.get_mut(&name).expect("it is there");
                let mut begun = Vec::new();
                for action in actions {
                    match action {
                        Action::Start(id) => begun.push(id),
                        Action::Drain { replica: id, .. } | Action::Stop(id) => {
                            observed.replicas.remove(&id);
                        }
                        // Nobody asks for anything here.
                        Action::Route(_)
                        | Action::Fetch { .. }
                        | Action::Compile(_)
                        | Action::Handle { .. } => continue,
                    }
                    quiet = 0;
                }
                for id in &begun {
                    observed.replicas.insert(id.clone(), starting());
                }
                *most = self.doubled().max(*most);
                let (_, observed) = self.nodes.get_mut(&name).expect("it is there");
                for id in begun {
                    let is_old = |other: &ReplicaId| other.slot == id.slot && *other != id;
                    let is_doubled = observed.replicas.keys().any(is_old);
                    if is_doubled && until == Some(&name) {
                        return Some(id.slot);
                    }
                    observed.replicas.retain(|other, _| !is_old(other));
                    observed.replicas.insert(id, healthy());
                }
            }
        }
        None
    }

    /// What a node began in a slot is healthy in the old one's stead, if it was not given up.
    fn is_done(&mut self, name: &NodeName, slot: u32) {
        let (realm, observed) = self.nodes.get_mut(name).expect("it is there");
        let new = replica(revision(realm), slot);
        if observed.replicas.contains_key(&new) {
            observed.replicas.retain(|id, _| id.slot != slot);
            observed.replicas.insert(new, healthy());
        }
    }

    /// Places in which both versions run.
    fn doubled(&self) -> usize {
        let here = self.nodes.values().map(|(_, observed)| {
            let slots: BTreeSet<u32> = observed.replicas.keys().map(|id| id.slot).collect();
            observed.replicas.len() - slots.len()
        });
        here.sum()
    }

    /// A node hears that `left` shall have no replicas.
    fn hears(&mut self, name: &NodeName, left: &str, change: Change, budget: [usize; 3]) {
        let (realm, _) = self.nodes.get_mut(name).expect("it is there");
        match change {
            Change::Drain => {
                let body = Body::SetNode(SetNode {
                    key: node_key(left),
                    cordoned: true,
                    drained: true,
                });
                realm.submit(body).expect("it was not drained");
            }
            Change::Routing => {
                let text = manifest(&format!("tag:not-{left}"), budget);
                realm.apply(&text, &[("app", "new")]);
            }
        }
    }
}

fn revision(realm: &Realm) -> Revision {
    revision_on(realm, "n0")
}

fn revision_on(realm: &Realm, node: &str) -> Revision {
    let desired = realm.ledger.desired();
    let revision = desired.revision_of(&component_name("app"), &node_name(node));
    revision.expect("it is wanted")
}

fn replica(revision: Revision, slot: u32) -> ReplicaId {
    ReplicaId {
        component: component_name("app"),
        revision,
        slot,
    }
}

const fn healthy() -> ReplicaState {
    ReplicaState::Healthy { since: Millis(0) }
}

const fn starting() -> ReplicaState {
    ReplicaState::Starting {
        since: NOW,
        last_failure: None,
    }
}

/// `one` is replacing a replica when `left` loses its own. Whether it ever does so beside the old one.
fn check(budget: [usize; 3], one: &str, left: &str, heard: Heard, change: Change) -> bool {
    let what = format!("{budget:?}, {one} is at it, {left} leaves, {heard:?}, {change:?}");
    let mut scene = Scene::new(budget);
    let one = node_name(one);
    let mut most = 0;
    let Some(slot) = scene.goes_on(Some(&one), &mut most) else {
        return false;
    };
    let (first, then): (Vec<NodeName>, Vec<NodeName>) =
        NODES
            .map(node_name)
            .into_iter()
            .partition(|name| match heard {
                Heard::All => true,
                Heard::AllOthers => *name != one,
                Heard::TheOne => *name == one,
            });
    for name in &first {
        scene.hears(name, left, change, budget);
    }
    // By the places that there are now it may be another one's turn.
    let _ = scene.goes_on(None, &mut most);
    assert!(most <= budget[1], "{what}: {most} are doubled");
    for name in &then {
        scene.hears(name, left, change, budget);
    }
    let _ = scene.goes_on(None, &mut most);
    assert!(most <= budget[1], "{what}: {most} are doubled, at last");
    scene.is_done(&one, slot);
    let _ = scene.goes_on(None, &mut most);
    assert!(most <= budget[1], "{what}: {most} are doubled, after that");
    for (name, (realm, observed)) in &scene.nodes {
        let new = revision(realm);
        let is_done = observed.replicas.keys().all(|id| id.revision == new);
        let is_right = is_done || name.as_str() == left;
        assert!(is_right, "{what}: {name} has {:?}", observed.replicas);
    }
    true
}

/// All pairs of nodes, with so many replicas, and so many of them doubled and missing at once.
fn check_all(heard: Heard, change: Change) {
    for budget in [[8, 1, 0], [8, 2, 0], [8, 1, 2], [10, 1, 1], [10, 2, 1]] {
        let pairs = NODES.iter().flat_map(|one| {
            let others = NODES.iter().filter(move |left| *left != one);
            others.map(move |left| (*one, *left))
        });
        let begun = pairs.filter(|(one, left)| check(budget, one, left, heard, change));
        assert!(begun.count() > 0, "{budget:?}");
    }
}

#[test]
fn what_is_being_replaced_keeps_its_turn_when_the_places_change() {
    check_all(Heard::All, Change::Drain);
    check_all(Heard::All, Change::Routing);
}

#[test]
fn nobody_goes_by_other_nodes_than_the_others_do() {
    check_all(Heard::AllOthers, Change::Drain);
    check_all(Heard::TheOne, Change::Drain);
}

#[test]
fn nobody_goes_by_another_routing_than_the_others_do() {
    check_all(Heard::AllOthers, Change::Routing);
    check_all(Heard::TheOne, Change::Routing);
}

/// A node that takes no other places is all that is left, or thinks so: what was on the others is missing.
#[test]
fn who_is_left_alone_takes_nothing_down_beside_what_is_missing() {
    let drained = |gone: bool| {
        let mut realm = Realm::found();
        for name in ["here", "there"] {
            realm.submit(approval(name, &[])).expect("an approval");
        }
        let text = manifest("*", [4, 0, 2]);
        realm.apply(&text, &[("app", "old")]);
        let old = revision_on(&realm, "here");
        realm.apply(&text, &[("app", "new")]);
        let cordon = Body::SetNode(SetNode {
            key: node_key("here"),
            cordoned: true,
            drained: false,
        });
        realm.submit(cordon).expect("it was not cordoned");
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        let placement = place(desired, authority, &|name, _| {
            gone && name.as_str() == "there"
        });
        let mut observed = Observed::default();
        let artifact = Artifact {
            digest: pin("new").digest,
            fuel: false,
        };
        observed.artifacts.insert(artifact, ArtifactState::Ready);
        let here = node_name("here");
        for slot in 0..placement.share(&component_name("app"), &here) {
            observed.replicas.insert(replica(old, slot), healthy());
        }
        let around = Around::unheard(placement.into());
        let planned = plan(desired, authority, &here, &observed, &around, NOW);
        let drains = planned
            .actions
            .iter()
            .filter(|action| matches!(action, Action::Drain { .. }));
        let waits = planned.reports.iter().flat_map(|report| &report.waiting_on);
        let waits: Vec<String> = waits.map(|one| one.message.clone()).collect();
        (drains.count(), waits.concat())
    };
    let (count, waits) = drained(true);
    assert_eq!(count, 0, "{waits}");
    assert!(waits.contains("all nodes are gone"), "{waits}");
    // While the other one is there it has to be asked.
    let (count, waits) = drained(false);
    assert_eq!(count, 0, "{waits}");
    assert!(waits.contains("`there` has not heard"), "{waits}");
}

/// A node stands in for another one with replicas that it has anyway, since another list wants more of it: nobody
/// waits for one that is nowhere.
#[test]
fn who_stands_in_with_what_it_has_anyway_goes_on() {
    let mut realm = Realm::found();
    for name in ["here", "there"] {
        realm.submit(approval(name, &[])).expect("an approval");
    }
    let list = |selector: &str, path: &str, replicas: u32| {
        format!(
            "{selector} = [{{ path = '{path}', component = 'app', replicas = {replicas}, max_surge = 1, \
             max_unavailable = 0 }}]\n"
        )
    };
    let lists = list("here", "/", 3) + &list("'*'", "/x", 2);
    let text = format!("[components.app]\nsource = 'file:a'\n[routing]\n{lists}");
    realm.apply(&text, &[("app", "old")]);
    let old = revision_on(&realm, "here");
    realm.apply(&text, &[("app", "new")]);
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let here = node_name("here");
    let placement = place(desired, authority, &|name, _| *name != here);
    assert_eq!(placement.share(&component_name("app"), &here), 3);
    let mut observed = Observed::default();
    let artifact = Artifact {
        digest: pin("new").digest,
        fuel: false,
    };
    observed.artifacts.insert(artifact, ArtifactState::Ready);
    for slot in 0..3 {
        observed.replicas.insert(replica(old, slot), healthy());
    }
    let around = Around::unheard(placement.into());
    let planned = plan(desired, authority, &here, &observed, &around, NOW);
    let starts = planned.actions.iter();
    let starts = starts.filter(|action| matches!(action, Action::Start(_)));
    assert_eq!(starts.count(), 1, "{:?}", planned.reports);
}
