//! Hundreds of small realms in which everything goes wrong at once; as many more as a person asks for.

use super::lists::{DEADLINE_MS, Lists};
use super::planted::Planted;
use super::{Kind, Sim};
use crate::sync::Random;

/// Seeds of each of the tests, which run beside each other.
const SEEDS: u64 = 150;

/// After the last disturbance everything is as wanted.
const SETTLED_MS: u64 = 420_000;

/// Broken builds in a row are undone one after the other, and each is tried until its deadline: nobody can
/// know before that the one before it is broken as well. Four of them take longer than anything else.
const fn undone_ms(broken: u64) -> u64 {
    let tried = broken * DEADLINE_MS + 180_000;
    if tried > SETTLED_MS {
        tried
    } else {
        SETTLED_MS
    }
}

/// What goes wrong in a realm besides what its seed says.
#[derive(Debug, Clone, Copy, Default)]
struct World {
    /// Nothing fails by itself: versions follow each other, and nodes are drained.
    calm: bool,
    planted: Option<Planted>,
    prints: bool,
}

/// The owner drains nodes, cordons them, and has them back.
struct Owner {
    random: Random,
    nodes: u64,
    often: bool,
}

impl Owner {
    fn new(seed: u64, nodes: usize, calm: bool) -> Self {
        Self {
            random: Random::new(seed ^ 0xd7a1),
            nodes: nodes as u64,
            often: calm,
        }
    }

    fn lists(&mut self) -> Lists {
        match self.random.below(6) {
            0 => Lists::PerNode,
            1 => Lists::Pinned,
            2 => Lists::Both,
            _ => Lists::Together,
        }
    }

    /// Sets one node, or some, one soon after the other; whether it did.
    fn sets(&mut self, sim: &mut Sim) -> bool {
        let times = match (self.random.below(4), self.often) {
            (0, _) => 1,
            (1, true) => 3,
            (2, true) => 8,
            _ => 0,
        };
        for _ in 0..times {
            let node = usize::try_from(self.random.below(self.nodes)).expect("small");
            let (cordoned, drained) = [(false, false), (true, false), (true, true), (false, true)]
                [usize::try_from(self.random.below(4)).expect("small")];
            sim.set(node, cordoned, drained);
            // Soon in the middle of everything; where nothing fails, when all have heard of the last.
            let (least, more) = if self.often {
                (3_000, 30_000)
            } else {
                (0, 3_000)
            };
            let until = sim.now + least + self.random.below(more);
            sim.run(until);
        }
        times > 0
    }
}

/// Makes a realm of a seed and lets it run; what is wrong, if something is.
fn run(seed: u64, world: World) -> Result<(), String> {
    let World {
        calm,
        planted,
        prints,
    } = world;
    let mut random = Random::new(seed ^ 0x5eed);
    // Dice of its own: what a seed is must not change.
    let mut lost = Random::new(seed ^ 0x1057);
    let mut below = |n: u64| random.below(n);
    let nodes = 1 + usize::try_from(below(6)).expect("small");
    let replicas = 1 + u32::try_from(below(8)).expect("small");
    let (surge, unavailable) =
        [(1, 0), (0, 1), (1, 1), (2, 1), (0, 2), (3, 0)][usize::try_from(below(6)).expect("small")];
    let kind = Kind {
        nodes,
        delay_ms_max: [20, 500, 5_000][usize::try_from(below(3)).expect("small")],
        loss_percent: [0, 0, 10, 30][usize::try_from(below(4)).expect("small")],
        surge: surge.min(replicas),
        unavailable: unavailable.min(replicas),
        replicas,
        start_fails: [0, 0, 20][usize::try_from(below(3)).expect("small")],
        reverts: false,
        lists: Lists::Together,
        calm,
        planted,
        singleton: false,
    };
    // Dice that fail for two minutes are not a broken build.
    let reverts = kind.start_fails == 0 && below(2) == 0;
    let mut kind = Kind { reverts, ..kind };
    let mut owner = Owner::new(seed, nodes, calm);
    kind.lists = owner.lists();
    if calm {
        kind.start_fails = 0;
        // Who goes on until others have taken over goes by what it heard of them last: where that is
        // not so any more, one may be missing for a moment.
        kind.delay_ms_max = kind.delay_ms_max.min(500);
        kind.loss_percent = 0;
    }
    if prints {
        eprintln!("{kind:?}");
    }
    let mut sim = Sim::new(kind, seed);
    sim.prints = prints;
    sim.apply("b0");
    sim.run(60_000);
    let mut build = "b0".to_owned();
    let mut good = build.clone();
    let mut broken = false;
    let mut broken_in_a_row = 0;
    let mut killed = false;
    // Versions that follow each other sooner than they are carried out.
    for version in 1..=1 + below(4) {
        build = format!("b{version}");
        broken = below(6) == 0 && !calm;
        if broken {
            sim.breaks(&build);
            broken_in_a_row += 1;
        } else {
            broken_in_a_row = 0;
            good.clone_from(&build);
        }
        sim.apply(&build);
        // What is pinned to a drained node stops, and begins with what is wanted when it is back.
        let pins = sim.kind.lists != Lists::Together;
        killed |= owner.sets(&mut sim) && pins;
        let node = usize::try_from(below(nodes as u64)).expect("small");
        match below(6) {
            _ if calm => {}
            0 => {
                let until = sim.now + below(15_000);
                sim.run(until);
                sim.kill(node);
                killed = true;
                let until = sim.now + below(120_000);
                sim.run(until);
                // Of what it had written down some is lost, or all.
                let states = sim.signed() as u64;
                if lost.below(3) == 0 {
                    let version = usize::try_from(lost.below(states)).expect("small");
                    sim.lose_entries(node, version);
                }
                sim.revive(node);
            }
            1 if nodes > 1 => {
                let one_way = below(3) == 0;
                let until = sim.now + below(15_000);
                sim.run(until);
                sim.cut(1 + node.min(nodes - 2), one_way);
                // Each side goes on without what is pinned to the other one.
                killed |= pins;
                let until = sim.now + below(180_000);
                sim.run(until);
                sim.heal();
            }
            2 => {
                sim.fail_one(node);
                // What goes on there only until others have it is not started again.
                killed |= !sim.open(node);
            }
            _ => {}
        }
        let until = sim.now + below(60_000);
        sim.run(until);
    }
    if broken {
        build = "last".to_owned();
        // What was missing for the broken one is not missing for long.
        let until = sim.now + undone_ms(broken_in_a_row);
        sim.run(until);
        let least = sim.least();
        if sim.kind.reverts && sim.violations.is_empty() {
            sim.end(&good).map_err(|why| format!("not back: {why}"))?;
        }
        // A node that starts again with a broken build has nothing that it could go on with.
        if sim.serving() < least && !killed && !sim.was_empty {
            return Err(format!(
                "{} of {least} serve beside a broken build",
                sim.serving()
            ));
        }
        sim.apply(&build);
    }
    let until = sim.now + SETTLED_MS;
    sim.run(until);
    if let Some(violation) = sim.violations.first() {
        return Err(violation.clone());
    }
    sim.end(&build)?;
    // At rest: nothing starts any more.
    let quiet = sim.now - sim.last_start_ms;
    match quiet < 60_000 {
        true => Err(format!("something was started {quiet} ms ago")),
        false => Ok(()),
    }
}

/// Runs the seeds that a person names, or as many as there are without: of each of several tests of one
/// kind its own. What is wrong is told of each.
#[expect(
    clippy::disallowed_methods,
    reason = "how a person names seeds to a test"
)]
pub(super) fn each_seed(shard: u64, seeds: u64, run: impl Fn(u64, bool) -> Result<(), String>) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    if let Some(seed) = number("REALM_SIM_SEED") {
        return run(seed, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    let seeds = number("REALM_SIM_SEEDS").unwrap_or(seeds);
    let first = number("REALM_SIM_FIRST").unwrap_or_default() + shard * seeds;
    let wrong = (first..first + seeds).filter_map(|seed| Some((seed, run(seed, false).err()?)));
    let wrong: Vec<String> = wrong
        .map(|(seed, why)| format!("REALM_SIM_SEED={seed}: {why}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn seeds(shard: u64, world: World) {
    each_seed(shard, SEEDS, |seed, prints| {
        run(seed, World { prints, ..world })
    });
}

/// Cases 17, 29 and 31: partitions, nodes that are away, and versions that overtake each other: no
/// more is missing or doubled than the manifest allows, and all comes to what is wanted.
#[test]
fn cases_17_29_and_31_keep_the_budget() {
    seeds(0, World::default());
}

#[test]
fn cases_17_29_and_31_keep_the_budget_again() {
    seeds(1, World::default());
}

const CALM: World = World {
    calm: true,
    planted: None,
    prints: false,
};

/// Where nothing fails, never fewer serve than the manifest allows, whoever is drained meanwhile.
#[test]
fn drained_nodes_leave_no_gap() {
    seeds(0, CALM);
}

/// Seeds beyond those that are always run, of which each showed a mistake once.
#[test]
fn what_was_found_once_stays_mended() {
    // A node is drained, and the turns are others, while a replica is being replaced.
    for seed in [713, 2_269, 5_705, 12_467, 13_486, 20_462] {
        run(seed, CALM).unwrap_or_else(|why| panic!("calm, seed {seed}: {why}"));
    }
    // What stands in for a replica gets a place of its own.
    run(64_575, CALM).unwrap_or_else(|why| panic!("calm, seed 64575: {why}"));
    // A node is away of which some replicas are pinned and others placed; one is back, and is believed what it
    // said before.
    for seed in [179, 547, 757, 822, 980, 627, 2_967, 3_793] {
        run(seed, World::default()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    // Four broken builds in a row; two sides of a cut that both take down what they may; a node that was drained
    // when it had the bytes of a version.
    for seed in [21_887, 39_006, 39_873, 98_658] {
        run(seed, World::default()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

/// What a world looks at finds nodes that go by another rule.
#[test]
fn planted_mistakes_are_found() {
    let check = |planted, expected: &str| {
        let world = World {
            planted: Some(planted),
            ..CALM
        };
        let wrong = |seed| run(seed, world).err().filter(|why| why.contains(expected));
        let found = (0..300).find_map(|seed| Some((seed, wrong(seed)?)));
        println!("{planted:?}: {found:?}");
        assert!(found.is_some(), "{planted:?}");
    };
    check(Planted::Credulous, " serve");
    check(Planted::Hasty, " are missing");
    check(Planted::Hasty, " serve");
    check(Planted::Deaf, " wanted, of the right build");
}
