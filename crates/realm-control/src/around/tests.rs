//! What a node believes of the others, case by case: `a` looks at `b` and `c`, which have places as well,
//! and at `d`, which has none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::name::NodeName;
use realm_model::observed::{Artifact, ArtifactState, Millis, Observed, ReplicaId, ReplicaState};
use realm_model::record::{ComponentSummary, NodeBody, SeatSummary};

use super::{Around, Told};
use crate::place::place;
use crate::testing::{Realm, approval, component_name, node_name};

const DEADLINE_MS: u64 = 120_000;

/// The three builds `b0` to `b2`, signed one after the other, by how often something was signed.
struct Scene {
    realms: Vec<Realm>,
    around: Around,
    /// The others, by name: the entries that are ready in their places, and those that failed.
    said: BTreeMap<NodeName, (u64, BTreeSet<u64>)>,
    /// Those that are not reached.
    lost: BTreeSet<NodeName>,
    /// Those for whom others stand in.
    gone: BTreeSet<NodeName>,
    observed: Observed,
    now: Millis,
}

impl Scene {
    fn new(on_fail: &str) -> Self {
        let mut realm = Realm::found();
        for (name, tags) in [
            ("a", vec!["web"]),
            ("b", vec!["web"]),
            ("c", vec!["web"]),
            ("d", vec![]),
        ] {
            realm.submit(approval(name, &tags)).expect("an approval");
        }
        let text = format!(
            "[components.app]\nsource = 'file:a'\n[routing]\n'tag:web' = [{{ path = '/', component = 'app', \
             replicas = 3, on_fail = '{on_fail}', progress_deadline = '2m' }}]\n"
        );
        let realms = ["b0", "b1", "b2"].map(|build| {
            realm.apply(&text, &[("app", build)]);
            realm.clone()
        });
        Self {
            realms: realms.to_vec(),
            around: Around::default(),
            said: BTreeMap::new(),
            lost: BTreeSet::new(),
            gone: BTreeSet::new(),
            observed: Observed::default(),
            now: Millis(1_000),
        }
    }

    /// The entry that brought a build.
    fn entry(&self, build: usize) -> u64 {
        let edition = self.realms[build]
            .ledger
            .desired()
            .edition(&component_name("app"));
        edition.expect("it is wanted").1
    }

    /// What runs here of a build, also where it stands in for others.
    fn runs(&mut self, build: usize, state: ReplicaState) {
        let desired = self.realms[build].ledger.desired();
        let component = component_name("app");
        let revision = desired.revision_of(&component, &node_name("a"));
        let revision = revision.expect("it is wanted");
        for slot in 0..2 {
            let id = ReplicaId {
                component: component.clone(),
                revision,
                slot,
            };
            self.observed.replicas.insert(id, state.clone());
        }
    }

    /// Another node says that a build is ready in its places, and that others failed.
    fn says(&mut self, node: &str, ready: Option<usize>, failed: &[usize]) {
        let ready = ready.map_or(0, |build| self.entry(build));
        let failed = failed.iter().map(|build| self.entry(*build)).collect();
        self.said.insert(node_name(node), (ready, failed));
    }

    /// Looks around when so many builds were signed; the builds that failed by what `a` believes.
    fn failed(&mut self, signed: usize) -> Vec<usize> {
        let realm = &self.realms[signed - 1];
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        let app = component_name("app");
        let placement = place(desired, authority, &|name, _| self.gone.contains(name));
        let body = |(name, (ready, failed)): (&NodeName, &(u64, BTreeSet<u64>))| {
            let seats = (0u32..).zip(placement.seats(&app));
            let own = seats.filter(|(_, seat)| seat.is_some_and(|(holder, _)| holder == name));
            let mut body = NodeBody::of(name.clone());
            body.components = vec![ComponentSummary {
                name: app.to_string(),
                namespace: String::new(),
                wanted: 1,
                healthy: 1,
                state: String::new(),
                code: String::new(),
                reason: String::new(),
                digest: None,
                serving: Some(1),
                seats: Some(
                    own.map(|(seat, _)| SeatSummary {
                        seat,
                        up: true,
                        ready: *ready,
                    })
                    .collect(),
                ),
                failed: Some(failed.iter().copied().collect()),
            }];
            (name.clone(), body)
        };
        let bodies: Vec<(NodeName, NodeBody)> = self.said.iter().map(body).collect();
        let bodies = bodies.iter().map(|(name, body)| (name, body));
        let own = node_name("a");
        let around = Around::of(
            placement.clone().into(),
            0,
            bodies,
            &own,
            &self.lost,
            &self.observed,
        );
        self.around = around.after(&self.around);
        self.around
            .remember(desired, &own, &self.observed, self.now);
        let failed = self.around.failures_of(&app);
        (0..3)
            .filter(|build| failed.contains(&self.entry(*build)))
            .collect()
    }

    /// The build that is carried out.
    fn aim(&self, signed: usize) -> usize {
        let desired = self.realms[signed - 1].ledger.desired();
        let aim = self
            .around
            .aim(desired, &component_name("app"), &node_name("a"));
        let aim = aim.expect("it is wanted").entry;
        (0..3)
            .find(|build| self.entry(*build) == aim)
            .expect("one of them")
    }
}

const HEALTHY: ReplicaState = ReplicaState::Healthy { since: Millis(0) };

fn backoff() -> ReplicaState {
    ReplicaState::Backoff {
        until: Millis(0),
        attempts: 3,
        code: "start-failed".to_owned(),
        reason: "the dice say so".to_owned(),
    }
}

/// `claims`: who says that which builds failed, when all three are signed; then what `a` believes, and
/// carries out.
#[track_caller]
fn check(on_fail: &str, claims: &[(&str, &[usize])], believed: &[usize], aim: usize) {
    let mut scene = Scene::new(on_fail);
    scene.runs(0, HEALTHY);
    for (node, failed) in claims {
        scene.says(node, None, failed);
    }
    assert_eq!(scene.failed(3), believed, "{claims:?}");
    assert_eq!(scene.aim(3), aim, "{claims:?}");
    // Once believed it stays, whoever forgets it, and nothing is added by looking again.
    assert_eq!(scene.failed(3), believed, "{claims:?}, again");
    scene.said.clear();
    assert_eq!(scene.failed(3), believed, "{claims:?}, forgotten");
}

#[test]
fn the_word_of_others_counts_for_whatever_is_carried_out() {
    check("revert", &[], &[], 2);
    check("revert", &[("b", &[2])], &[2], 1);
    // Two broken builds in a row: both nodes go back to the same version.
    check("revert", &[("b", &[1, 2])], &[1, 2], 0);
    check("revert", &[("b", &[2]), ("c", &[1])], &[1, 2], 0);
    // Nothing is said of what is carried out.
    check("revert", &[("b", &[1])], &[], 2);
    // Of a node without a place it is no word.
    check("revert", &[("d", &[2])], &[], 2);
    check("revert", &[("b", &[2]), ("d", &[1])], &[2], 1);
    // Something has to be left to go back to.
    check("revert", &[("b", &[0, 1, 2])], &[1, 2], 0);
    // Where it stands still, what is not replaced yet goes on with what was before: nothing older.
    check("halt", &[("b", &[1, 2])], &[2], 1);
}

#[test]
fn nobodys_word_counts_against_what_was_healthy_everywhere() {
    let settled = || {
        let mut scene = Scene::new("revert");
        scene.now = Millis(60_000);
        scene.runs(0, HEALTHY);
        scene.says("b", Some(0), &[]);
        scene.says("c", Some(0), &[]);
        scene
    };
    // As long as it stands, and when its place is down.
    let mut scene = settled();
    assert_eq!(scene.failed(1), Vec::<usize>::new());
    scene.says("b", Some(0), &[0]);
    assert_eq!(scene.failed(1), Vec::<usize>::new());
    scene.says("b", None, &[0]);
    assert_eq!(scene.failed(1), Vec::<usize>::new());
    // When the ones after it are undone it comes back, and stays.
    scene.says("b", None, &[0, 1, 2]);
    assert_eq!(scene.failed(3), [1, 2]);
    let mut scene = settled();
    scene.says("b", Some(1), &[]);
    scene.says("c", Some(1), &[]);
    scene.runs(1, HEALTHY);
    assert_eq!(scene.failed(2), Vec::<usize>::new());
    scene.says("b", None, &[1, 2]);
    assert_eq!(scene.failed(3), [2]);
    assert_eq!(scene.aim(3), 1);
    // Not what was healthy only by the word of some.
    let believed = |spoil: fn(&mut Scene)| {
        let mut scene = settled();
        scene.says("b", Some(1), &[]);
        scene.says("c", Some(1), &[]);
        scene.runs(1, HEALTHY);
        spoil(&mut scene);
        assert_eq!(scene.failed(2), Vec::<usize>::new());
        scene.says("b", None, &[1, 2]);
        scene.failed(3)
    };
    assert_eq!(believed(|_| ()), [2]);
    assert_eq!(believed(|scene| scene.says("c", Some(0), &[])), [1, 2]);
    assert_eq!(
        believed(|scene| drop(scene.said.remove(&node_name("c")))),
        [1, 2]
    );
    let lose = |scene: &mut Scene| assert!(scene.lost.insert(node_name("c")));
    assert_eq!(believed(lose), [1, 2]);
    assert_eq!(believed(|scene| scene.runs(1, backoff())), [1, 2]);
    let stand_in = |scene: &mut Scene| assert!(scene.gone.insert(node_name("c")));
    assert_eq!(believed(stand_in), [1, 2]);
}

/// What `a` says itself of a version that it does not get healthy by the deadline, while the others have
/// another one: what was settled, or what others have in a rollout that stands still, is no rollout of
/// its own that failed.
#[test]
fn a_node_gives_up_only_what_is_rolled_out() {
    let fails = |on_fail: &str, settled: bool| {
        let mut scene = Scene::new(on_fail);
        scene.now = Millis(60_000);
        scene.runs(1, HEALTHY);
        scene.says("b", settled.then_some(1), &[]);
        scene.says("c", settled.then_some(1), &[]);
        assert_eq!(scene.failed(2), Vec::<usize>::new());
        scene.runs(1, backoff());
        scene.says("b", Some(2), &[2]);
        assert_eq!(scene.failed(3), [2]);
        assert_eq!(scene.aim(3), 1);
        assert_eq!(scene.failed(3), [2], "now it is tried");
        scene.now = scene.now.plus(DEADLINE_MS);
        scene.failed(3)
    };
    assert_eq!(fails("revert", false), [1, 2]);
    assert_eq!(fails("revert", true), [2]);
    assert_eq!(fails("halt", false), [2]);
    assert_eq!(fails("halt", true), [2]);
}

/// A node that lost its place, as one that is drained, when it had the bytes of a version goes no further with
/// them: that is no version which does not get healthy.
#[test]
fn who_has_no_place_tries_nothing() {
    let fails = |has_place: bool| {
        let mut scene = Scene::new("revert");
        let pin = scene.realms[1].ledger.desired().pin(&component_name("app"));
        let artifact = Artifact {
            digest: pin.expect("it is wanted").digest,
            fuel: false,
        };
        let artifacts = &mut scene.observed.artifacts;
        artifacts.insert(artifact, ArtifactState::Fetched);
        scene.runs(0, HEALTHY);
        scene.says("b", Some(0), &[]);
        if !has_place {
            scene.gone.insert(node_name("a"));
        }
        assert_eq!(scene.failed(2), Vec::<usize>::new());
        scene.now = scene.now.plus(DEADLINE_MS);
        scene.failed(2)
    };
    assert_eq!(fails(true), [1]);
    assert_eq!(fails(false), Vec::<usize>::new());
}

/// What served when a node was reached last may be gone with it: a record from then says nothing of now.
#[test]
fn who_is_back_has_nothing_up_until_it_says_so() {
    let scene = Scene::new("halt");
    let realm = &scene.realms[0];
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let (app, own, other) = (component_name("app"), node_name("a"), node_name("b"));
    let placement = Arc::new(place(desired, authority, &|_, _| false));
    let mut body = NodeBody::of(other.clone());
    body.components = vec![ComponentSummary {
        name: app.to_string(),
        namespace: String::new(),
        wanted: 1,
        healthy: 1,
        state: String::new(),
        code: String::new(),
        reason: String::new(),
        digest: None,
        serving: Some(1),
        seats: None,
        failed: None,
    }];
    let mut around = Around::default();
    // Whether it is reached, the start and the number of its record, and whether it serves then.
    let mut check = |is_reached: bool, told: Told, expected: bool| {
        let lost: BTreeSet<NodeName> = match is_reached {
            true => BTreeSet::new(),
            false => [other.clone()].into(),
        };
        let bodies = [(&other, &body)].into_iter();
        let observed = Observed::default();
        let new = Around::of(Arc::clone(&placement), 0, bodies, &own, &lost, &observed);
        around = new.told([(&other, told)].into_iter(), &lost).after(&around);
        around.remember(desired, &own, &observed, Millis(0));
        let serves = around.serving(&app, &other) > 0;
        assert_eq!(serves, expected, "{is_reached} {told:?}");
    };
    check(true, (1, 7), true);
    check(false, (1, 7), false);
    check(true, (1, 7), false);
    check(true, (1, 7), false);
    check(true, (1, 8), true);
    check(true, (1, 8), true);
    // What comes round another way while it is not reached is no news either; a new start is.
    check(false, (1, 9), false);
    check(true, (1, 9), false);
    check(true, (2, 1), true);
}
