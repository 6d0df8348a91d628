//! Hundreds of small realms in which everything goes wrong at once; as many more as a person asks for.

use realm_model::observed::ReplicaState;

use super::{Kind, Sim};
use crate::place::place;
use crate::sync::Random;
use crate::testing::component_name;

impl Sim {
    /// What is wrong in the end: `healthy` of the wanted build shall run, where they shall, and no others.
    pub(crate) fn end(&self, build: &str) -> Result<(), String> {
        let app = component_name("app");
        let realm = self.states.last().expect("the first one");
        let placement = place(realm.ledger.desired(), realm.ledger.authority(), &|_, _| {
            false
        });
        for node in &self.nodes {
            let wanted = placement.share(&app, &node.name) as usize;
            let replicas = &node.world.observed.replicas;
            let healthy = replicas
                .values()
                .filter(|state| matches!(state, ReplicaState::Healthy { .. }));
            let (all, healthy) = (replicas.len(), healthy.count());
            let serving = node.world.backends(&app).len();
            let right = node.world.backends(&app).iter().all(|id| {
                node.world
                    .revisions
                    .get(&id.revision)
                    .is_some_and(|(artifact, _)| {
                        artifact.digest == crate::testing::pin(build).digest
                    })
            });
            if (all, healthy, serving) != (wanted, wanted, wanted) || !right {
                return Err(format!(
                    "{} has {all} replicas, {healthy} healthy, {serving} serving, {wanted} wanted, of the right build: {right}; {:?}",
                    node.name, replicas
                ));
            }
        }
        Ok(())
    }

    /// Replicas that take requests on nodes that are up.
    pub(crate) fn serving(&self) -> usize {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].is_up)
            .map(|index| self.serving_slots(index).len())
            .sum()
    }
}

/// Seeds of each of the tests, which run beside each other.
const SEEDS: u64 = 150;

/// After the last disturbance everything is as wanted.
const SETTLED_MS: u64 = 420_000;

/// Makes a realm of a seed and lets it run; what is wrong, if something is.
fn run(seed: u64, prints: bool) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x5eed);
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
        singleton: false,
    };
    // Dice that fail for two minutes are not a broken build.
    let reverts = kind.start_fails == 0 && below(2) == 0;
    let kind = Kind { reverts, ..kind };
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
    let mut killed = false;
    // Versions that follow each other sooner than they are carried out.
    for version in 1..=1 + below(4) {
        build = format!("b{version}");
        broken = below(6) == 0;
        if broken {
            sim.breaks(&build);
        } else {
            good.clone_from(&build);
        }
        sim.apply(&build);
        let node = usize::try_from(below(nodes as u64)).expect("small");
        match below(6) {
            0 => {
                let until = sim.now + below(15_000);
                sim.run(until);
                sim.kill(node);
                killed = true;
                let until = sim.now + below(120_000);
                sim.run(until);
                sim.revive(node);
            }
            1 if nodes > 1 => {
                let one_way = below(3) == 0;
                let until = sim.now + below(15_000);
                sim.run(until);
                sim.cut(1 + node.min(nodes - 2), one_way);
                let until = sim.now + below(180_000);
                sim.run(until);
                sim.heal();
            }
            2 => sim.fail_one(node),
            _ => {}
        }
        let until = sim.now + below(60_000);
        sim.run(until);
    }
    if broken {
        build = "last".to_owned();
        // What was missing for the broken one is not missing for long.
        let until = sim.now + SETTLED_MS;
        sim.run(until);
        let least = (sim.kind.replicas - sim.kind.unavailable) as usize;
        if sim.kind.reverts && sim.violations.is_empty() {
            sim.end(&good).map_err(|why| format!("not back: {why}"))?;
        }
        // A node that starts again with a broken build has nothing that it could go on with.
        if sim.serving() < least && !killed {
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

#[expect(
    clippy::disallowed_methods,
    reason = "how a person names seeds to a test"
)]
fn seeds(shard: u64) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    if let Some(seed) = number("REALM_SIM_SEED") {
        return run(seed, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    let seeds = number("REALM_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in shard * seeds..(shard + 1) * seeds {
        run(seed, false).unwrap_or_else(|why| panic!("REALM_SIM_SEED={seed}: {why}"));
    }
}

/// Cases 17, 29 and 31: partitions, nodes that are away, and versions that overtake each other: no
/// more is missing or doubled than the manifest allows, and all comes to what is wanted.
#[test]
fn cases_17_29_and_31_keep_the_budget() {
    seeds(0);
}

#[test]
fn cases_17_29_and_31_keep_the_budget_again() {
    seeds(1);
}
