//! Case 26 among many nodes: beacons reach all, and whoever is kept from them notices.

use super::{SimNode, Step, Template, World, Worldly};
use crate::reach::{BEACONS_MISSED, signals};

const EVERY_MS: u64 = Template::BEACON_EVERY_S as u64 * 1_000;

/// The numbers of the nodes that are stale.
fn stale(world: &World) -> Vec<usize> {
    let is_stale = |node: &SimNode| {
        let running = node.running.as_ref().expect("it runs");
        let state = running.sync.beacon(world.now_ms + node.skew_ms);
        let state = state.expect("the owner wants one");
        let every_ms = u64::from(state.rule.every_s) * 1_000;
        signals(&[].into(), state.age_ms, Some(every_ms)).stale
    };
    let nodes = world.nodes.iter().enumerate();
    let stale = nodes.filter(|(_, node)| is_stale(node));
    stale.map(|(i, _)| i).collect()
}

fn check(world: &World, expected: &[usize], seed: u64, why: &str) {
    assert_eq!(stale(world), expected, "seed {seed}: {why}");
}

/// Nine nodes of a ring with few links; a beacon every five seconds until `until_ms`.
fn world(seed: u64, until_ms: u64) -> World {
    let kind = Worldly {
        n: 9,
        degree: 4,
        delay_ms_max: 50,
        loss_percent: 5,
        twice_percent: 5,
        byzantine: 0,
        talkers: 3,
        late: 0,
    };
    let mut world = World::new(kind, seed, Template::small(9), None);
    for at_ms in (3_000..until_ms).step_by(Template::BEACON_EVERY_S as usize * 1_000) {
        world.step_at(at_ms, Step::Apply);
        world.step_at(at_ms + 1_000, Step::Beacon);
    }
    world
}

#[test]
fn case_26_nodes_that_are_kept_from_the_news_are_stale_until_they_hear_it() {
    for seed in 0..20 {
        let mut world = world(seed, 200_000);
        world.run(60_000);
        check(&world, &[], seed, "all hear of each beacon");
        let cut = Step::Cut {
            below: 7,
            one_way: false,
            for_ms: 60_000,
        };
        world.step_at(60_001, cut);
        world.run(60_000 + BEACONS_MISSED * EVERY_MS - 2 * EVERY_MS);
        check(&world, &[], seed, "late is not missed");
        world.run(119_000);
        // The side on which the owner applied first is the one on which beacons are signed.
        let cut_off = stale(&world);
        assert!(
            cut_off == [7, 8] || cut_off == (0..7).collect::<Vec<_>>(),
            "seed {seed}: {cut_off:?}"
        );
        world.run(150_000);
        check(&world, &[], seed, "healed");
        world.run(200_000 + 2 * BEACONS_MISSED * EVERY_MS);
        let all: Vec<usize> = (0..9).collect();
        check(&world, &all, seed, "the signer is gone");
    }
}

/// What was kept is the newest after a restart as well: an older one counts for nothing.
#[test]
fn case_26_a_restart_does_not_make_an_old_beacon_new() {
    let mut world = world(1, 30_000);
    world.run(35_000);
    let newest = |world: &World| {
        let running = world.nodes[8].running.as_ref().expect("it runs");
        running.sync.beacon(0).and_then(|state| state.newest)
    };
    let before = newest(&world);
    assert_eq!(before.map(|(counter, _)| counter), Some(6));
    // With nobody around who could tell it again.
    let cut = Step::Cut {
        below: 8,
        one_way: false,
        for_ms: 60_000,
    };
    world.step_at(35_001, cut);
    let (node, down_ms) = (8, 100);
    world.step_at(35_002, Step::Crash { node, down_ms });
    world.run(40_000);
    assert_eq!(newest(&world), before);
    let old = world.realm.beacon(2);
    let running = world.nodes[8].running.as_ref().expect("it runs");
    assert!(running.sync.judge_beacon(&old, &running.ledger).is_err());
}
