//! Thousands of small worlds and a few large ones, and mistakes that were planted on purpose.

use std::collections::BTreeMap;

use realm_model::entry::{ChainId, Head};
use realm_model::key::PublicKey;
use realm_model::record::KeyBytes;

use super::{Step, Template, World, Worldly};
use crate::sync::{Planted, Random};

/// After the last disturbance every node must have what every other has.
const CONVERGED_MS: u64 = 15_000;

/// Seeds of each of the four tests, which run beside each other.
const SEEDS: u64 = 2_500;

/// Makes a small world of a seed and lets it run; what is wrong in the end, if something is.
fn small(seed: u64, planted: Option<Planted>, prints: bool) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x5eed);
    let mut below = |n: u64| random.below(n);
    let n = 3 + usize::try_from(below(if seed.is_multiple_of(8) { 7 } else { 3 })).expect("small");
    let kind = Worldly {
        n,
        degree: if below(3) == 0 { 4 } else { n },
        delay_ms_max: [5, 50, 400][usize::try_from(below(3)).expect("small")],
        loss_percent: [0, 0, 5, 20][usize::try_from(below(4)).expect("small")],
        twice_percent: [0, 10][usize::try_from(below(2)).expect("small")],
        byzantine: usize::from(below(4) == 0 && n > 3),
        talkers: n.min(3),
        late: usize::try_from(below(2)).expect("small"),
    };
    let kind = Worldly {
        // With a liar between them two honest nodes must still have a way of their own.
        degree: if kind.byzantine > 0 { n } else { kind.degree },
        ..kind
    };
    let mut world = World::new(kind, seed, Template::small(n), planted);
    world.prints = prints;
    let mut last = 3_000;
    let mut equivocated = false;
    for _ in 0..1 + below(4) {
        let at_ms = 2_000 + below(6_000);
        let node = usize::try_from(below(n as u64)).expect("small");
        let step = match below(10) {
            0..4 => Step::Apply,
            4 => Step::Crash {
                node,
                down_ms: below(4_000),
            },
            5 => Step::Torn { node },
            6 => Step::Equivocate {
                one: node,
                other: (node + 1) % n,
                authority: below(2) == 0,
            },
            7 => Step::Beacon,
            _ => Step::Cut {
                below: 1 + node.min(n - 2),
                one_way: below(3) == 0,
                for_ms: 500 + below(9_000),
            },
        };
        let ends = match &step {
            Step::Crash { down_ms, .. } => at_ms + down_ms,
            Step::Cut { for_ms, .. } => at_ms + for_ms,
            Step::Torn { .. } => at_ms + 6_000,
            Step::Apply | Step::Equivocate { .. } | Step::Beacon | Step::Resolve | Step::Calm => {
                at_ms
            }
        };
        equivocated |= matches!(step, Step::Equivocate { .. });
        last = last.max(ends);
        world.step_at(at_ms, step);
    }
    // The last crash may be of the very last entry.
    last += 4_000;
    world.step_at(last, Step::Calm);
    world.run(last + CONVERGED_MS);
    let mut wrong = wrong(&world);
    if wrong.is_none() && equivocated && seed.is_multiple_of(2) {
        // Both chains may have forked.
        for _ in 0..2 {
            world.step_at(world.now_ms + 1, Step::Resolve);
            world.run(world.now_ms + CONVERGED_MS);
            if still_frozen(&world).is_none() {
                break;
            }
        }
        wrong = self::wrong(&world).or_else(|| still_frozen(&world));
    }
    wrong.map_or(Ok(()), |why| Err(format!("seed {seed}: {why}")))
}

fn still_frozen(world: &World) -> Option<String> {
    let mut honest = world.honest();
    let frozen = honest.any(|node| {
        let running = node.running.as_ref().expect("it runs");
        running.ledger.frozen().next().is_some()
    });
    frozen.then(|| "a chain stands still after it was resolved".to_owned())
}

/// What must not be.
fn wrong(world: &World) -> Option<String> {
    for node in &world.nodes {
        if let Some(fault) = node.faults.first() {
            return Some(format!("{}: {fault}", node.name));
        }
    }
    let liars: Vec<PublicKey> = world
        .nodes
        .iter()
        .filter(|node| node.byzantine)
        .map(|node| node.key.public())
        .collect();
    let mut views = Vec::new();
    for node in world.honest() {
        let running = node.running.as_ref().expect("it runs");
        for evidence in running.sync.evidence() {
            if !liars.contains(&evidence.peer) {
                return Some(format!(
                    "{} blames an honest node: {}",
                    node.name, evidence.code
                ));
            }
        }
        let frozen: Vec<ChainId> = running.ledger.frozen().map(|(chain, _)| chain).collect();
        let mut heads: BTreeMap<ChainId, Head> = running.ledger.heads();
        for chain in &frozen {
            // Of a chain with two histories each keeps what it had.
            heads.remove(chain);
        }
        let honest = |key: &KeyBytes| !liars.iter().any(|liar| KeyBytes::from(*liar) == *key);
        let records: Vec<_> = running
            .sync
            .records()
            .iter()
            .map(|record| (KeyBytes::from(record.node), record.version))
            .filter(|(key, _)| honest(key))
            .collect();
        let beacon = running.sync.beacon(0).and_then(|state| state.newest);
        views.push((node.name.clone(), heads, frozen, records, beacon));
    }
    let (first, rest) = views.split_first()?;
    for view in rest {
        for (what, same) in [
            ("heads", view.1 == first.1),
            ("forks", view.2 == first.2),
            ("records", view.3 == first.3),
            ("the beacon", view.4 == first.4),
        ] {
            if !same {
                return Some(format!(
                    "{} and {} differ in {what}:\n{first:?}\n{view:?}",
                    first.0, view.0
                ));
            }
        }
    }
    if views.len() < world.nodes.iter().filter(|node| !node.byzantine).count() {
        return Some("a node did not come back".to_owned());
    }
    None
}

/// The seed that a person wants to see.
#[expect(
    clippy::disallowed_methods,
    reason = "how a person names a seed to a test"
)]
fn asked_seed() -> Option<u64> {
    std::env::var("REALM_SIM_SEED").ok()?.parse().ok()
}

fn seeds(shard: u64) {
    if let Some(seed) = asked_seed() {
        if shard == 0 {
            small(seed, None, true).unwrap_or_else(|why| panic!("{why}"));
        }
        return;
    }
    for seed in shard * SEEDS..(shard + 1) * SEEDS {
        if let Err(why) = small(seed, None, false) {
            panic!("{why}\nREALM_SIM_SEED={seed} prints what happened");
        }
    }
}

#[test]
fn every_seed_converges_0() {
    seeds(0);
}

#[test]
fn every_seed_converges_1() {
    seeds(1);
}

#[test]
fn every_seed_converges_2() {
    seeds(2);
}

#[test]
fn every_seed_converges_3() {
    seeds(3);
}

/// One seed is one history, whatever ran before it.
#[test]
fn a_seed_is_replayed_by_its_number() {
    let run = |seed| {
        let kind = Worldly {
            n: 5,
            degree: 5,
            delay_ms_max: 50,
            loss_percent: 5,
            twice_percent: 5,
            byzantine: 1,
            talkers: 3,
            late: 1,
        };
        let mut world = World::new(kind, seed, Template::small(5), None);
        world.step_at(4_000, Step::Apply);
        world.run(20_000);
        (world.n_events, world.random.next())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn planted_mistakes_are_found() {
    let found = |planted| (0..400).any(|seed| small(seed, Some(planted), false).is_err());
    assert!(found(Planted::EarlyEntries));
    assert!(found(Planted::ProofsAreIgnored));
    assert!(found(Planted::RecordsAreIgnored));
    assert!(found(Planted::BeaconsAreIgnored));
}
