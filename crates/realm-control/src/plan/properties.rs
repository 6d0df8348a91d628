//! What holds of every plan, whatever fails and whatever its owner signs meanwhile: simulated
//! nodes with random manifests, delays, failures and crashes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use realm_model::action::{Action, Plan};
use realm_model::entry::Body;
use realm_model::manifest::{COMPONENTS_MAX, Mode};
use realm_model::name::ComponentName;
use realm_model::observed::{Observed, ReplicaState};

use crate::sim::World;
use crate::testing::plan_alone;
use crate::testing::{Realm, component_name, manifest_body, node_name, pin, restart};

/// Rounds without a pause in which one state of things has to come to rest: the table switches,
/// what it freed drains, and what drained in no time stops.
const ROUNDS_MAX: usize = 6;

/// A realm of one node, its simulated node, and what is checked after each plan.
struct Drive {
    realm: Realm,
    world: World,
    /// The most replicas of each component that were ever wanted.
    wanted_max: BTreeMap<ComponentName, usize>,
}

/// Something that happens to a realm.
#[derive(Debug, Clone)]
enum Happening {
    /// A manifest: replicas of `a`, of `b` (0: it is not there), fuel, MiB, and their builds.
    Apply(u8, u8, bool, u8, [&'static str; 2]),
    /// A manifest with those of [`RUNS`] that the bits say, and their build.
    Runs(u8, &'static str),
    Push(&'static str, &'static str),
    Restart(&'static str),
    Crash,
    /// A healthy replica fails.
    Fail(usize),
    /// So many things happen on the node.
    Pass(usize),
    /// So many minutes pass, in which nobody looks.
    Sleep(u64),
}

/// What runs by itself, or has a port that only one can have.
const RUNS: [(&str, &str); 4] = [
    ("port", "listen = 7000"),
    ("service", "serve = \"service\""),
    ("once", "serve = \"job\""),
    ("nightly", "schedule = \"*/10 * * * *\""),
];

impl Drive {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        world.delay_ms_max = 3_000;
        Self {
            realm: Realm::of_one_node(),
            world,
            wanted_max: BTreeMap::new(),
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Apply(a, b, fuel, mb, builds) => {
                self.submit(manifest(*a, *b, *fuel, *mb, *builds, self.version() + 1));
            }
            Happening::Runs(which, build) => {
                self.submit(runs(*which, build, self.version() + 1));
            }
            Happening::Sleep(minutes) => self.world.now = self.world.now.plus(minutes * 60_000),
            Happening::Push(component, build) => {
                let push = self.realm.push_body(component, build);
                self.submit(Body::Push(push));
            }
            Happening::Restart(component) => self.submit(restart(component, &[])),
            Happening::Crash => self.world.crash(),
            Happening::Fail(which) => self.world.fail_one(*which),
            Happening::Pass(times) => {
                for _ in 0..*times {
                    self.step();
                    self.world.advance();
                }
            }
        }
    }

    fn version(&self) -> u64 {
        self.realm.ledger.desired().version
    }

    /// Submits what may be refused: an unknown component, a push that changes nothing.
    fn submit(&mut self, body: Body) {
        let _ = self.realm.submit(body);
        let desired = self.realm.ledger.desired();
        self.world.learn(desired);
        let Some(manifest) = &desired.manifest else {
            return;
        };
        for component in manifest.components.keys() {
            let wanted = self.wanted(component);
            let max = self.wanted_max.entry(component.clone()).or_default();
            // What runs by itself is wanted once, without a route.
            *max = wanted.max(*max).max(1);
        }
    }

    fn wanted(&self, component: &ComponentName) -> usize {
        let manifest = self.realm.ledger.desired().manifest.as_ref();
        let routes = manifest.iter().flat_map(|m| m.routing.values().flatten());
        let replicas = routes
            .filter(|r| r.component == *component)
            .map(|r| r.upkeep.replicas as usize);
        replicas.max().unwrap_or_default()
    }

    fn plan(&self) -> Plan {
        let (desired, authority) = (self.realm.ledger.desired(), self.realm.ledger.authority());
        let node = node_name("here");
        plan_alone(
            desired,
            authority,
            &node,
            &self.world.observed,
            self.world.now,
        )
    }

    /// Plans and executes once and checks what must hold after it; `false` if there was nothing to do.
    fn round(&mut self) -> bool {
        let plan = self.plan();
        let before: BTreeMap<ComponentName, usize> = self
            .wanted_max
            .keys()
            .map(|c| (c.clone(), self.serving(c)))
            .collect();
        self.world.execute(&plan);
        assert_eq!(self.world.violations, Vec::<String>::new());
        for (component, wanted_max) in &self.wanted_max {
            let live = self.world.live(component);
            if RUNS.iter().any(|(name, _)| component.as_str() == *name) {
                // A service has its successor beside it, the others stand alone.
                let most = if component.as_str() == "service" {
                    2
                } else {
                    1
                };
                assert!(live <= most, "{live} of `{component}`");
                continue;
            }
            let wanted = self.wanted(component);
            let healthy = self.world.healthy().any(|id| id.component == *component);
            let serving = self.serving(component);
            assert_eq!(serving, self.world.backends(component).len());
            assert!(
                serving > 0 || wanted == 0 || !healthy,
                "`{component}` has healthy replicas and answers 503"
            );
            assert!(
                serving >= before[component].min(wanted),
                "`{component}` went from {} backends to {serving}, {wanted} are wanted",
                before[component]
            );
            assert!(
                live <= 2 * wanted_max,
                "{live} of `{component}`, {wanted_max} wanted"
            );
        }
        !plan.actions.is_empty()
    }

    /// Backends in force that are healthy.
    fn serving(&self, component: &ComponentName) -> usize {
        let backends = self.world.backends(component).iter();
        backends
            .filter(|id| self.world.healthy().any(|healthy| healthy == *id))
            .count()
    }

    /// Plans until there is nothing to do at this moment.
    fn step(&mut self) {
        let at_rest = (0..ROUNDS_MAX).any(|_| !self.round());
        assert!(
            at_rest,
            "{ROUNDS_MAX} rounds without rest: {:?}",
            self.plan()
        );
    }

    /// Lets everything come to an end.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            self.step();
            // Schedules never come to an end; rollouts do.
            let plan = self.plan();
            let mut codes = plan.reports.iter().flat_map(|one| &one.waiting_on);
            if !codes.any(|one| one.code == "rolling") {
                self.world.look_at = None;
            }
            if !self.world.advance() {
                return;
            }
        }
        panic!("no end in sight: {:?}", self.plan());
    }

    /// What is wanted runs, and nothing else.
    fn assert_as_wanted(&self) {
        let plan = self.plan();
        assert_eq!(plan.actions, Vec::new());
        let mut replicas = 0;
        for report in &plan.reports {
            let mode = report.mode.expect("it is wanted");
            let codes: Vec<&str> = report.waiting_on.iter().map(|w| w.code.as_str()).collect();
            // A job whose attempts were used up meanwhile waits for its owner.
            if mode == Mode::Once && codes == ["failed"] {
                replicas += 1;
                continue;
            }
            let idle = match mode {
                Mode::Once => vec!["done"],
                Mode::Scheduled => vec!["scheduled"],
                Mode::Answers | Mode::Server | Mode::Upstream | Mode::Service | Mode::Worker => {
                    Vec::new()
                }
            };
            assert_eq!(codes, idle, "{report:?}");
            assert_eq!((report.healthy, report.old), (report.wanted, 0));
            if mode.takes_requests() {
                assert_eq!(self.serving(&report.component), report.wanted as usize);
            }
            // What is on a schedule may never have run.
            if mode != Mode::Scheduled {
                replicas += report.wanted as usize;
            }
        }
        let nightly = component_name("nightly");
        let present = self.world.observed.replicas.keys();
        let present = present.filter(|id| id.component != nightly);
        assert_eq!(present.count(), replicas);
    }
}

fn manifest(a: u8, b: u8, fuel: bool, mb: u8, builds: [&str; 2], version: u64) -> Body {
    let fuel = if fuel { "fuel_per_sec = 5_000_000" } else { "" };
    let mut text = String::new();
    let mut routes = String::new();
    let mut pins = Vec::new();
    for ((component, replicas), build) in [("a", a), ("b", b)].into_iter().zip(builds) {
        if replicas > 0 {
            text += &format!(
                "[components.{component}]\nsource = \"file:{component}\"\nmemory_max_mb = {mb}\n{fuel}\n"
            );
            routes += &format!(
                "{{ path = \"/{component}\", component = \"{component}\", replicas = {replicas} }},"
            );
            pins.push((component, build));
        }
    }
    text += &format!("[routing]\n\"here\" = [{routes}]\n");
    manifest_body(&text, version, &pins)
}

/// A manifest with `a`, which answers requests or becomes a service, and what runs by itself.
fn runs(which: u8, build: &'static str, version: u64) -> Body {
    let mut text = "[components.a]\nsource = \"file:a\"\n".to_owned();
    let mut routes = String::new();
    if which & 16 == 0 {
        routes += "{ path = \"/a\", component = \"a\" },";
    } else {
        text += "serve = \"service\"\n";
    }
    let mut pins = vec![("a", "1")];
    for (bit, (name, key)) in RUNS.into_iter().enumerate() {
        if which & (1 << bit) != 0 {
            text += &format!("[components.{name}]\nsource = \"file:{name}\"\n{key}\n");
            pins.push((name, build));
        }
    }
    if which & 1 != 0 {
        routes += "{ path = \"/port\", component = \"port\" },";
    }
    text += &format!("[routing]\n\"here\" = [{routes}]\n");
    manifest_body(&text, version, &pins)
}

fn happening() -> impl Strategy<Value = Happening> {
    let build = || prop::sample::select(vec!["1", "2", "3", "shared"]);
    let component = || prop::sample::select(vec!["a", "b", "port", "service", "once", "nightly"]);
    let apply = (0..5u8, 0..3u8, any::<bool>(), 1..3u8, [build(), build()])
        .prop_map(|(a, b, fuel, mb, builds)| Happening::Apply(a, b, fuel, mb, builds));
    prop_oneof![
        3 => apply,
        3 => (0..32u8, build()).prop_map(|(which, build)| Happening::Runs(which, build)),
        1 => (1..30u64).prop_map(Happening::Sleep),
        2 => (component(), build()).prop_map(|(c, b)| Happening::Push(c, b)),
        1 => component().prop_map(Happening::Restart),
        1 => Just(Happening::Crash),
        2 => (0..10usize).prop_map(Happening::Fail),
        8 => (1..12usize).prop_map(Happening::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Properties 1 and 2: whatever happens, no plan does harm (see `Drive::round`), and once the
    /// failures end, what is wanted runs and the plan is empty.
    #[test]
    fn every_way_leads_to_what_is_wanted(
        seed in any::<u64>(),
        happenings in prop::collection::vec(happening(), 1..24),
        (fetch, compile, start) in (0..40u64, 0..40u64, 0..60u64),
    ) {
        let mut drive = Drive::new(seed);
        drive.world.faults.fetch = fetch;
        drive.world.faults.compile = compile;
        drive.world.faults.start = start;
        drive.world.faults.job = start;
        for happening in &happenings {
            drive.happen(happening);
        }
        drive.world.faults.fetch = 0;
        drive.world.faults.compile = 0;
        drive.world.faults.start = 0;
        drive.world.faults.job = 0;
        drive.settle();
        drive.assert_as_wanted();
    }

    /// Property 4: builds that never get healthy leave what served before, for ever.
    #[test]
    fn a_broken_build_takes_nothing_down(
        seed in any::<u64>(),
        (replicas, again, down) in (1..5u8, 1..5u8, 0..3usize),
        mb in 1..100u8,
        for_good in any::<bool>(),
        pushes in prop::collection::vec(prop::sample::select(vec!["bad", "worse"]), 1..4),
    ) {
        let mut drive = Drive::new(seed);
        drive.world.faults.broken = ["bad", "worse"].map(|build| pin(build).digest).into();
        drive.world.faults.for_good = for_good;
        drive.happen(&Happening::Apply(replicas, 0, false, mb, ["1", ""]));
        drive.settle();
        let good = drive.world.backends(&component_name("a")).to_vec();
        prop_assert_eq!(good.len(), usize::from(replicas));

        // Scaled and broken at once, then broken further.
        drive.happen(&Happening::Apply(again, 0, false, mb, ["bad", ""]));
        for build in pushes {
            drive.happen(&Happening::Pass(40));
            prop_assert_eq!(drive.world.backends(&component_name("a")), &good);
            // What serves is cared for as before: a replica of it that fails comes back, even if
            // the next version comes while it is down.
            drive.happen(&Happening::Fail(0));
            drive.happen(&Happening::Pass(down));
            drive.happen(&Happening::Push("a", build));
        }
        drive.happen(&Happening::Pass(200));
        prop_assert_eq!(drive.world.backends(&component_name("a")), &good);
        // While an attempt is under way, its predecessor's failure is not told.
        while drive.plan().reports[0].waiting_on[0].code == "starting" {
            drive.happen(&Happening::Pass(1));
        }
        let plan = drive.plan();
        let message = &plan.reports[0].waiting_on[0].message;
        let reason = if for_good { "it imports `acme:shop/cart`" } else { "the dice say so" };
        prop_assert!(message.contains(reason), "{}", message);
        prop_assert!(message.ends_with("; version 1 keeps serving"), "{}", message);

        // And the cure gets in.
        drive.happen(&Happening::Push("a", "2"));
        drive.settle();
        drive.assert_as_wanted();
    }

    /// Property 3: the same facts in another order give the same plan, and asking changes nothing.
    #[test]
    fn the_order_of_facts_does_not_matter(
        seed in any::<u64>(),
        happenings in prop::collection::vec(happening(), 1..12),
        shuffle in any::<u64>(),
    ) {
        let mut drive = Drive::new(seed);
        drive.world.faults.start = 30;
        for happening in &happenings {
            drive.happen(happening);
        }
        let plan = drive.plan();
        let mut replicas: Vec<_> = drive.world.observed.replicas.clone().into_iter().collect();
        let mut artifacts: Vec<_> = drive.world.observed.artifacts.clone().into_iter().collect();
        let turn = |length: usize| usize::try_from(shuffle).unwrap_or_default() % length.max(1);
        let (r, a) = (turn(replicas.len()), turn(artifacts.len()));
        replicas.rotate_left(r);
        replicas.reverse();
        artifacts.rotate_left(a);
        let mut observed = Observed { routes: drive.world.observed.routes.clone(), ..Observed::default() };
        observed.replicas.extend(replicas);
        observed.artifacts.extend(artifacts);
        observed.schedules = std::mem::take(&mut drive.world.observed.schedules);
        drive.world.observed = observed;
        prop_assert_eq!(plan, drive.plan());
    }

    /// Total: observations that no executor makes have an answer too.
    #[test]
    fn odd_observations_have_an_answer(
        seed in any::<u64>(),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), 0..6u8), 0..12),
    ) {
        let mut drive = Drive::new(seed);
        drive.happen(&Happening::Apply(3, 1, true, 1, ["1", "shared"]));
        drive.happen(&Happening::Pass(40));
        drive.happen(&Happening::Apply(2, 2, false, 1, ["2", "shared"]));
        let ids: Vec<_> = drive.world.observed.replicas.keys().cloned().collect();
        for (index, kind) in swaps {
            let Some(id) = ids.get(index.index(ids.len().max(1))) else { continue };
            let now = drive.world.now;
            let text = String::new;
            let state = match kind {
                0 => ReplicaState::Starting { since: now.plus(99), last_failure: None },
                1 => ReplicaState::Draining { deadline: now, in_flight: u32::MAX },
                2 => ReplicaState::Backoff { until: now, attempts: u32::MAX, code: text(), reason: text() },
                3 => ReplicaState::Failed { code: text(), reason: text() },
                4 => ReplicaState::Done { ok: false, reason: text() },
                _ => ReplicaState::Healthy { since: now.plus(99) },
            };
            drive.world.observed.replicas.insert(id.clone(), state);
        }
        let plan = drive.plan();
        let ends = plan.actions.iter().filter_map(|action| match action {
            Action::Drain { replica, .. } | Action::Stop(replica) => Some(replica),
            Action::Fetch { .. }
            | Action::Compile(_)
            | Action::Start(_)
            | Action::Route(_)
            | Action::Handle { .. } => None,
        });
        for replica in ends {
            let routed = drive.world.observed.routes.backends.values().flatten();
            prop_assert!(routed.into_iter().all(|other| other != replica));
        }
        drive.settle();
        // What failed for good or is done waits for the owner; all else is as wanted.
        let rests = |(_, state): (_, &ReplicaState)| {
            matches!(state, ReplicaState::Failed { .. } | ReplicaState::Done { .. })
        };
        if !drive.world.observed.replicas.iter().any(rests) {
            drive.assert_as_wanted();
        }
    }
}

/// The largest manifest that there can be is planned in a time that a tick can afford: the work
/// grows with the number of components, not with its square.
#[test]
fn a_plan_of_the_largest_manifest_ends() {
    let mut drive = Drive::new(1);
    // 192 KiB hold this many of the shortest components and routes.
    let number = COMPONENTS_MAX.min(900);
    let mut text = String::new();
    let mut routes = String::new();
    let names: Vec<String> = (0..number).map(|n| format!("c{n}")).collect();
    for name in &names {
        text += &format!("[components.{name}]\nsource = \"file:{name}\"\n");
        routes += &format!("{{ path = \"/{name}\", component = \"{name}\", replicas = 20 }},\n");
    }
    text += &format!("[routing]\n\"here\" = [{routes}]\n");
    let pins: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    drive.realm.apply(&text, &pins);
    let plan = drive.plan();
    // One fetch for the bytes that all of them share.
    let fetches = plan
        .actions
        .iter()
        .filter(|action| matches!(action, Action::Fetch { .. }));
    assert_eq!(fetches.count(), 1);
    assert_eq!(plan.reports.len(), number);
}
