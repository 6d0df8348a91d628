//! What serves until its successor takes requests, on several nodes that die meanwhile and come back. What has
//! left the manifest goes on where it is and nowhere else, until then or until it is signed again; what is a
//! version before of what is wanted is begun elsewhere as soon as the new one has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::entry::{Body, ChainId};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{ReplicaState, RouteTable};
use realm_model::record::{ComponentSummary, NodeBody};

use super::plan;
use crate::around::Around;
use crate::place::place;
use crate::sim::World;
use crate::testing::{Realm, approval, component_name, node_name, pin};

const NODES: [&str; 4] = ["n0", "n1", "n2", "n3"];

/// How long a version is tried.
const DEADLINE_S: u64 = 60;
/// A node is lost for the others after six; then what it had is fetched, compiled and started.
const SOON_S: u64 = 30;

/// One version of the app beside which there is no other.
fn version(label: &str, replicas: usize) -> String {
    format!(
        "[components.\"app@{label}\"]\nsource = 'file:{label}'\n[routing]\n\
         '*' = [{{ path = '/', component = 'app', weights = {{ {label} = 1 }}, replicas = {replicas} }}]\n"
    )
}

/// The app without versions.
fn plain(replicas: usize) -> String {
    format!(
        "[components.app]\nsource = 'file:app'\n[routing]\n'*' = [{{ path = '/', component = 'app', \
         replicas = {replicas}, progress_deadline = '{DEADLINE_S}s' }}]\n"
    )
}

struct Node {
    world: World,
    around: Around,
    is_up: bool,
    /// Whether the others count it as lost: they stand in for it.
    is_gone: bool,
}

/// Nodes that run something whose successor is signed and does not start.
struct Scene {
    /// What runs.
    former: ComponentName,
    realm: Realm,
    nodes: BTreeMap<NodeName, Node>,
    said: BTreeMap<NodeName, NodeBody>,
    /// Which words get through.
    dice: u64,
    /// Replicas of it that there may be at most.
    live_max: usize,
}

impl Scene {
    /// `app@blue` serves, and `app@green` is in its place.
    fn of_versions(replicas: usize, seed: u64) -> Self {
        let mut scene = Self::of("app@blue", &version("blue", replicas), replicas, seed);
        let green = version("green", replicas);
        scene.realm.apply(&green, &[("app@green", "broken")]);
        scene.run(SOON_S);
        assert_eq!(scene.serving(), replicas);
        scene
    }

    /// A good build of `app` serves, and another one is wanted.
    fn of_builds(replicas: usize, seed: u64) -> Self {
        let mut scene = Self::of("app", &plain(replicas), replicas, seed);
        scene.realm.apply(&plain(replicas), &[("app", "broken")]);
        // Beside the old ones, and of a stand-in one more.
        scene.live_max = 2 * replicas + 1;
        scene.run(5);
        assert_eq!(scene.serving(), replicas);
        scene
    }

    fn of(former: &str, text: &str, replicas: usize, seed: u64) -> Self {
        let mut realm = Realm::found();
        for name in NODES {
            realm.submit(approval(name, &[])).expect("an approval");
        }
        realm.apply(text, &[(former, "good")]);
        let node = |name| {
            let mut world = World::new(seed);
            world.faults.broken.insert(pin("broken").digest);
            let node = Node {
                world,
                around: Around::default(),
                is_up: true,
                is_gone: false,
            };
            (node_name(name), node)
        };
        let mut scene = Self {
            former: component_name(former),
            realm,
            nodes: NODES.map(node).into(),
            said: BTreeMap::new(),
            dice: seed,
            live_max: replicas,
        };
        scene.run(60);
        assert_eq!(scene.serving(), replicas);
        scene
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self
            .dice
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        (self.dice >> 33) % sides
    }

    /// Lets so many seconds pass.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 5 {
            for name in NODES.map(node_name) {
                self.acts(&name);
            }
        }
    }

    fn acts(&mut self, name: &NodeName) {
        if !self.nodes[name].is_up {
            return;
        }
        let gone = |of: &dyn Fn(&Node) -> bool| -> BTreeSet<NodeName> {
            let nodes = self.nodes.iter().filter(|(_, node)| of(node));
            nodes.map(|(name, _)| name.clone()).collect()
        };
        let (lost, is_gone) = (gone(&|node| !node.is_up), gone(&|node| node.is_gone));
        let heard = self.roll(3) > 0;
        let (desired, authority) = (self.realm.ledger.desired(), self.realm.ledger.authority());
        let placement = place(desired, authority, &|node, _| {
            node != name && is_gone.contains(node)
        });
        let node = self.nodes.get_mut(name).expect("it is there");
        let world = &mut node.world;
        world.pass_to(world.now.plus(200));
        world.learn(desired);
        let mut around = Around::of(
            Arc::new(placement),
            authority.head.seq,
            self.said.iter(),
            name,
            &lost,
            &world.observed,
        )
        .after(&node.around);
        around.remember(desired, name, &world.observed, world.now);
        let planned = plan(
            desired,
            authority,
            name,
            &world.observed,
            &around,
            world.now,
        );
        node.around = around;
        world.execute(&planned);
        assert_eq!(world.violations, Vec::<String>::new());
        let mut body = NodeBody::of(name.clone());
        body.heads = [ChainId::Authority, ChainId::DEFAULT]
            .map(|chain| self.realm.ledger.head(chain).of(chain))
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
            failed: Some(report.failed.clone()),
        });
        body.components = summary.collect();
        if heard {
            self.said.insert(name.clone(), body);
        }
        let live = self.live();
        assert!(self.live_max >= live, "{live} of {}", self.former);
    }

    fn living(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.is_up)
    }

    /// Replicas of what was before that take requests.
    fn serving(&self) -> usize {
        self.serving_of(&self.former)
    }

    fn serving_of(&self, component: &ComponentName) -> usize {
        let nodes = self.living();
        nodes.map(|node| node.world.backends(component).len()).sum()
    }

    fn live(&self) -> usize {
        let nodes = self.living();
        nodes.map(|node| node.world.live(&self.former)).sum()
    }

    /// Replicas that take requests with the version that is wanted.
    fn renewed(&self) -> usize {
        let wanted = |name| self.realm.ledger.desired().revision_of(&self.former, name);
        let nodes = self.nodes.iter().filter(|(_, node)| node.is_up);
        let renewed = nodes.flat_map(|(name, node)| {
            let serving = node.world.backends(&self.former).iter();
            serving.filter(move |id| Some(id.revision) == wanted(name))
        });
        renewed.count()
    }

    /// A node that runs what was before, and how many replicas.
    fn holder(&self) -> (NodeName, usize) {
        let nodes = self.nodes.iter().filter(|(_, node)| node.is_up);
        let mut having = nodes.filter_map(|(name, node)| {
            let count = node.world.backends(&self.former).len();
            (count > 0).then(|| (name.clone(), count))
        });
        having.next().expect("somebody runs it")
    }

    fn dies(&mut self, name: &NodeName) {
        self.nodes.get_mut(name).expect("it is there").is_up = false;
        self.run(6);
        self.nodes.get_mut(name).expect("it is there").is_gone = true;
    }

    /// Its agent starts again with what it had; a while later it counts as there.
    fn is_back(&mut self, name: &NodeName) {
        let now = self.living().map(|node| node.world.now).max();
        let node = self.nodes.get_mut(name).expect("it is there");
        node.is_up = true;
        node.around = Around::default();
        let world = &mut node.world;
        world.now = now.expect("one lives");
        world.observed.routes = RouteTable::default();
        for state in world.observed.replicas.values_mut() {
            *state = ReplicaState::Backoff {
                until: world.now,
                attempts: 1,
                code: "agent-restarted".to_owned(),
                reason: "the agent was restarted".to_owned(),
            };
        }
        self.run(10);
        self.nodes.get_mut(name).expect("it is there").is_gone = false;
    }

    /// Green is mended: it takes over, and nothing of blue is left.
    fn green_takes_over(&mut self, replicas: usize) {
        let push = self.realm.push_body("app@green", "2");
        self.realm.submit(Body::Push(push)).expect("a push");
        self.run(120);
        assert_eq!(self.serving_of(&component_name("app@green")), replicas);
        assert_eq!(self.live(), 0, "of blue");
    }
}

/// Runs of one to four replicas, with several dice.
fn each(mut run: impl FnMut(usize, u64)) {
    for replicas in 1..=4 {
        for seed in 0..4 {
            run(replicas, seed);
        }
    }
}

/// For as long as the successor does not get healthy: nobody begins it anew, and what is left of it goes on.
#[test]
fn case_31_a_version_that_waits_for_its_successor_is_not_begun_elsewhere_where_a_node_dies() {
    each(|replicas, seed| {
        let mut scene = Scene::of_versions(replicas, seed);
        let (dead, lost) = scene.holder();
        scene.live_max = replicas - lost;
        scene.dies(&dead);
        // Ten minutes and more: no deadline ends it.
        for _ in 0..12 {
            scene.run(60);
            assert_eq!(
                scene.serving(),
                replicas - lost,
                "{replicas} of seed {seed}"
            );
        }
        // Who is back has what it had.
        scene.live_max = replicas;
        scene.is_back(&dead);
        scene.run(SOON_S);
        assert_eq!(scene.serving(), replicas, "{replicas} of seed {seed}");
        scene.green_takes_over(replicas);
    });
}

/// What the owner can do meanwhile: a successor that gets healthy, or the version itself.
#[test]
fn a_version_is_whole_again_as_soon_as_it_is_signed_or_its_successor_is_mended() {
    each(|replicas, seed| {
        let mut scene = Scene::of_versions(replicas, seed);
        let (dead, _) = scene.holder();
        scene.dies(&dead);
        // Those that leave their places go on until others have taken over.
        scene.live_max = 2 * replicas;
        let blue = version("blue", replicas);
        scene.realm.apply(&blue, &[("app@blue", "good")]);
        scene.run(SOON_S);
        assert_eq!(scene.serving(), replicas, "{replicas} of seed {seed}");

        let mut scene = Scene::of_versions(replicas, seed);
        let (dead, _) = scene.holder();
        scene.dies(&dead);
        scene.green_takes_over(replicas);
    });
}

/// A build that is followed by another one of the same component: the new one is tried in its place, and when
/// that has failed the old one comes back, on another node.
#[test]
fn case_31_a_build_that_waits_for_the_next_one_is_back_when_that_has_failed() {
    each(|replicas, seed| {
        let mut scene = Scene::of_builds(replicas, seed);
        let (dead, lost) = scene.holder();
        scene.dies(&dead);
        assert_eq!(
            scene.serving(),
            replicas - lost,
            "{replicas} of seed {seed}"
        );
        scene.run(DEADLINE_S + SOON_S);
        assert_eq!(scene.serving(), replicas, "{replicas} of seed {seed}");
    });
}

/// A build that gets healthy on one node alone: where that is tried first it keeps it, and all others go on with
/// the build before.
#[test]
fn a_rollout_that_stands_still_takes_back_nothing_that_is_healthy() {
    let mut kept = 0;
    for (replicas, only) in (2..=4).flat_map(|replicas| NODES.map(|only| (replicas, only))) {
        let mut scene = Scene::of("app", &plain(replicas), replicas, 1);
        let node = scene.nodes.get_mut(&node_name(only));
        node.expect("it is there").world.faults.broken.clear();
        scene.realm.apply(&plain(replicas), &[("app", "broken")]);
        scene.live_max = replicas + 1;
        scene.run(2 * DEADLINE_S + SOON_S);
        let renewed = scene.renewed();
        for _ in 0..5 {
            scene.run(60);
            assert_eq!(scene.serving(), replicas, "{replicas} with {only}");
            assert_eq!(scene.renewed(), renewed, "{replicas} with {only}");
        }
        assert!(renewed <= 1, "{replicas} with {only}");
        kept += renewed;
    }
    assert!(kept > 0, "one of them is the first");
}
