//! Thousands of small worlds, mistakes that were planted on purpose, and a few worlds in which each step
//! is named.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::digest::Digest;
use realm_model::entry::{Body, RealmId};
use realm_model::observed::Millis;
use realm_model::record::{
    KeyBytes, LeaseAsk, LeaseGrant, LeaseState, NodeBody, NodeRecord, Version,
};

use super::sim::{CALM_AT_MS, CALM_MS, Event, STORM_MS, World};
use super::{Electorate, Input, LEASE_MS, LOCK_MS, Leases, Planted, said};
use crate::records::{Members, Records};
use crate::sync::Random;
use crate::testing::{
    Realm, approval, beacon_rule, component_name, key, node_key, node_name, revocation,
};

/// What a world of a seed goes through.
fn storm(seed: u64, planted: Option<Planted>, prints: bool) -> World {
    let mut random = Random::new(seed ^ 0x1ea5e);
    let n = 1 + random.below(9) as usize;
    let mut world = World::new(seed, n, planted);
    world.prints = prints;
    world.delay_ms_max = [20, 200, 1_000, 4_000][random.below(4) as usize];
    world.loss_percent = [0, 0, 10, 40][random.below(4) as usize];
    // Changes within seconds of each other are promised for a realm without a partition.
    world.quick_changes = random.below(4) == 0;
    let first = random.below(n as u64) as usize;
    world.nodes[first].wants = true;
    if world.quick_changes {
        world.loss_percent = 0;
        world.delay_ms_max = world.delay_ms_max.min(200);
    }
    for _ in 0..1 + random.below(16) {
        let at = 5_000 + random.below(STORM_MS);
        let node = random.below(n as u64) as usize;
        match random.below(10) {
            0 | 1 => world.at(at, Event::Crash(node, random.below(20_000))),
            2 | 3 => world.at(at, Event::Stop(node, random.below(60_000))),
            4 | 5 => world.at(at, Event::View(node)),
            6 if world.quick_changes => {
                for _ in 0..4 {
                    let at = at + random.below(20_000);
                    world.at(at, Event::Change);
                }
            }
            6 | 7 => world.at(at, Event::Change),
            _ if world.quick_changes => {}
            _ => {
                let side: Vec<bool> = (0..n).map(|_| random.below(2) == 0).collect();
                let one_way = random.below(3) == 0;
                let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
                let apart =
                    |(a, b): &(usize, usize)| side[*a] != side[*b] && (side[*a] || !one_way);
                world.at(at, Event::Cut(pairs.filter(apart).collect()));
                let ends = at + random.below(90_000);
                world.at(ends, Event::Cut(Vec::new()));
            }
        }
    }
    world.at(CALM_AT_MS, Event::Calm);
    world
}

/// What must not be.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    /// At one moment.
    Two(String),
    /// When all had been calm for long.
    NotOne(String),
}

/// Runs the world of a seed.
fn run(seed: u64, planted: Option<Planted>, prints: bool) -> Result<(), Wrong> {
    let mut world = storm(seed, planted, prints);
    world.run(CALM_AT_MS + CALM_MS);
    if let Some(wrong) = world.wrong {
        return Err(Wrong::Two(wrong));
    }
    let holders = world.holders();
    match holders.as_slice() {
        [one] if world.nodes[*one].wants => Ok(()),
        _ => Err(Wrong::NotOne(format!("{holders:?} hold it"))),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how a person names a seed to a test"
)]
fn asked(what: &str) -> Option<u64> {
    std::env::var(what).ok()?.parse().ok()
}

/// Seeds of each of the four tests, which run beside each other; `REALM_SIM_SEEDS` names another number,
/// `REALM_SIM_SEED=n` runs one and prints what happened.
const SEEDS: u64 = 2_500;

fn seeds(shard: u64) {
    if let Some(seed) = asked("REALM_SIM_SEED") {
        if shard == 0 {
            run(seed, None, true).unwrap_or_else(|wrong| panic!("{wrong:?}"));
        }
        return;
    }
    let seeds = asked("REALM_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in shard * seeds..(shard + 1) * seeds {
        if let Err(wrong) = run(seed, None, false) {
            panic!("{wrong:?}\nREALM_SIM_SEED={seed} prints what happened");
        }
    }
}

#[test]
fn never_two_of_a_singleton_and_one_in_the_end_0() {
    seeds(0);
}

#[test]
fn never_two_of_a_singleton_and_one_in_the_end_1() {
    seeds(1);
}

#[test]
fn never_two_of_a_singleton_and_one_in_the_end_2() {
    seeds(2);
}

#[test]
fn never_two_of_a_singleton_and_one_in_the_end_3() {
    seeds(3);
}

/// Each rule is needed: without it some world has two. Those that only a rare world needs have a world
/// of their own below.
#[test]
fn planted_mistakes_are_found() {
    let check = |planted| {
        let two = |seed| matches!(run(seed, Some(planted), false), Err(Wrong::Two(_)));
        let found = (0..1_000).find(|seed| two(*seed));
        println!("{planted:?}: {found:?}");
        assert!(found.is_some(), "{planted:?}");
    };
    check(Planted::FromTheAnswer);
    check(Planted::HalfIsEnough);
    check(Planted::NoLock);
}

/// 0 holds, by a clock that is slow, and is cut off from two witnesses whose clocks are fast.
#[test]
fn a_lease_that_is_over_by_one_clock_alone_is_not_given_away() {
    let check = |planted, two: bool| {
        let mut world = World::new(7, 3, planted);
        for (node, fast) in [(0, -500), (1, 500), (2, 500)] {
            world.nodes[node].clock.1 = fast;
        }
        world.delay_ms_max = 5;
        world.run(60_000);
        world.want(0);
        world.run(world.now + 25_000);
        assert_eq!(world.holders(), [0]);
        world.cut = pairs(&[0], &[1, 2]);
        world.want(1);
        world.run(world.now + LOCK_MS + 5_000);
        assert_eq!(world.wrong.is_some(), two, "{planted:?}: {:?}", world.wrong);
        assert!(two || world.holders() == [1]);
    };
    check(None, false);
    check(Some(Planted::NoDrift), true);
}

/// 0 holds by a grant of 1, which is killed, starts again and is asked by 2. Case 18 of the attacks.
#[test]
fn a_witness_that_was_killed_grants_nothing_for_a_lease() {
    let check = |planted, two: bool| {
        let mut world = calm_world(3, 3, planted);
        world.cut = pairs(&[0, 1], &[2]);
        world.want(0);
        world.run(world.now + 15_000);
        assert_eq!(world.holders(), [0]);
        world.cut = pairs(&[0], &[1, 2]);
        world.at(world.now, Event::Crash(1, 1_000));
        world.want(2);
        world.run(world.now + 2 * LOCK_MS);
        assert_eq!(world.wrong.is_some(), two, "{planted:?}: {:?}", world.wrong);
        assert!(two || world.holders() == [2]);
    };
    check(None, false);
    check(Some(Planted::NoQuiet), true);
}

/// A partition in halves: nobody holds it. The smaller part never does. Case 17 of the attacks.
#[test]
fn a_minority_holds_nothing_however_long_it_lasts() {
    let check = |n: usize, small: &[usize], rest: &[usize], after: &[usize]| {
        let mut world = calm_world(n, n, None);
        world.want(0);
        world.run(world.now + 10_000);
        assert_eq!(world.holders(), [0]);
        world.cut = pairs(small, rest);
        world.want(n - 1);
        world.run(world.now + 7_200_000);
        assert_eq!(world.holders(), after);
        assert_eq!(world.wrong, None);
        world.cut.clear();
        world.run(world.now + 10_000);
        assert_eq!(world.holders().len(), 1);
    };
    check(3, &[0], &[1, 2], &[2]);
    check(4, &[0, 1], &[2, 3], &[]);
    check(5, &[0, 1], &[2, 3, 4], &[4]);
    check(5, &[0, 1, 2], &[3, 4], &[0]);
}

/// The nodes before `n` are members at first, none wants it, and all have run for long.
fn calm_world(n: usize, members: usize, planted: Option<Planted>) -> World {
    let mut world = World::new(7, n, planted);
    world.history = vec![(0..members).collect()];
    world.delay_ms_max = 50;
    world.run(60_000);
    world
}

fn add_members(world: &mut World, add: &[usize], heard: &[usize]) {
    let mut set = world.history.last().expect("the first").clone();
    set.extend(add);
    world.history.push(set);
    for node in heard {
        let members = world.history.len() - 1;
        world.at(world.now, Event::Members(*node, members));
    }
}

/// 0 and 1 hold by the old set of three on their side of a partition, when the realm has grown; node 1
/// has heard of it, so that a majority of the three has. It must not go on renewing for 0.
#[test]
fn an_old_majority_ends_when_a_part_of_it_knows_of_a_newer_set() {
    let check = |planted, two: bool| {
        let mut world = calm_world(5, 3, planted);
        world.want(0);
        world.run(world.now + 10_000);
        assert_eq!(world.holders(), [0]);
        world.cut = pairs(&[0, 1], &[2, 3, 4]);
        // Even what 1 says does not tell 0 of the entries: they come late.
        world.entries_with_records = false;
        add_members(&mut world, &[3], &[1, 2, 3, 4]);
        world.run(world.now + LOCK_MS + 1_000);
        add_members(&mut world, &[4], &[2, 3, 4]);
        world.want(2);
        world.run(world.now + 3 * LOCK_MS);
        assert_eq!(world.wrong.is_some(), two, "{planted:?}: {:?}", world.wrong);
        assert!(two || world.holders() == [2]);
    };
    check(None, false);
    check(Some(Planted::AnyMembers), true);
}

/// 0 holds by a set of three and is stopped for a moment; the realm grows by two at once, and the new
/// majority has never heard of 0.
#[test]
fn after_two_changes_old_leases_run_out_first() {
    let check = |planted, two: bool| {
        let mut world = calm_world(5, 3, planted);
        world.cut = pairs(&[0, 1], &[2, 3, 4]);
        world.want(0);
        world.run(world.now + 10_000);
        assert_eq!(world.holders(), [0]);
        world.at(world.now, Event::Stop(0, 8_000));
        world.run(world.now + 100);
        add_members(&mut world, &[3], &[]);
        add_members(&mut world, &[4], &[1, 2, 3, 4]);
        world.want(2);
        world.run(world.now + 10_000);
        assert_eq!(world.wrong.is_some(), two, "{planted:?}: {:?}", world.wrong);
        // It is its turn later.
        world.run(world.now + 2 * LOCK_MS);
        assert!(two || world.holders() == [2]);
    };
    check(None, false);
    check(Some(Planted::NoTerms), true);
}

/// Two of four want it for ever and begin when each hears its neighbour alone: two grants each.
#[test]
fn a_split_vote_ends() {
    let check = |planted, one: bool| {
        let mut world = calm_world(4, 4, planted);
        world.cut = pairs(&[0, 1], &[2, 3]);
        world.want(0);
        world.want(2);
        world.run(world.now + 5_000);
        assert!(world.holders().is_empty());
        world.cut.clear();
        world.run(world.now + 15_000);
        assert_eq!(world.holders().len() == 1, one, "{planted:?}");
        world.run(world.now + 10 * LOCK_MS);
        assert_eq!(world.holders().len() == 1, one, "{planted:?}");
    };
    check(None, true);
    check(Some(Planted::Stubborn), false);
}

/// How long a singleton is down when its node dies, and the next one wants it after `lost_ms`; and when
/// it is moved by will.
#[test]
fn a_move_takes_a_lease_at_most_and_by_will_a_moment() {
    let mut moves = Vec::new();
    for after_ms in (0..10_000).step_by(500) {
        let mut world = calm_world(5, 5, None);
        world.want(0);
        world.run(world.now + 20_000 + after_ms);
        assert_eq!(world.holders(), [0]);
        let died = world.now;
        world.at(died, Event::Crash(0, 1_000_000));
        world.run(died + 30_000);
        world.nodes[0].wants = false;
        world.want(1);
        world.run(died + 60_000);
        assert_eq!(world.holders(), [1]);
        moves.push(world.held_at.last().expect("it moved").0 - died);
        let asked = world.now;
        world.nodes[1].wants = false;
        world.want(2);
        world.at(asked, Event::Look(1));
        world.run(asked + 10_000);
        assert_eq!(world.holders(), [2]);
    }
    moves.sort_unstable();
    let (least, most) = (moves[0], moves[moves.len() - 1]);
    println!("a move after a death takes {least} to {most} ms");
    assert!(least >= 30_000 && most <= LOCK_MS + 2_000, "{least} {most}");
}

/// Who never had another beside it need not wait; who had one may have granted it something.
#[test]
fn a_node_that_was_always_alone_holds_at_once() {
    let check = |changes: u64, expected_ms: u64| {
        let own = KeyBytes::new([1; 32]);
        let till = BTreeSet::from([component_name("till")]);
        let electorate = Electorate {
            nodes: BTreeSet::from([own]),
            changes,
        };
        let input = Input {
            own,
            electorate: &electorate,
            wanted: &till,
            running: &BTreeSet::new(),
            said: &BTreeMap::new(),
            rank: &|_, _| Some(0),
        };
        let started = Millis(5_000);
        let mut leases = Leases::new(started, 1, 1);
        let mut now = started;
        loop {
            let output = leases.look(&input, now);
            if let Some(until) = output.holds.get(&component_name("till")) {
                assert!(*until <= now.plus(LEASE_MS));
                break;
            }
            now = output.wake_at.expect("it waits for something");
        }
        assert_eq!(now.since(started), expected_ms);
    };
    check(1, 0);
    check(3, LOCK_MS);
}

#[test]
fn who_comes_and_goes_counts_and_nothing_else() {
    let mut realm = Realm::found();
    let mut check = |body: Body, nodes: &[&str], changes: u64| {
        realm.submit(body).expect("an entry");
        let electorate = realm.ledger.authority().electorate();
        let keys = nodes.iter().map(|node| node_key(node).into());
        assert_eq!(electorate.nodes, keys.collect::<BTreeSet<KeyBytes>>());
        assert_eq!(electorate.changes, changes);
        realm.replay();
        assert_eq!(realm.ledger.authority().electorate(), electorate);
    };
    check(approval("a", &[]), &["a"], 1);
    check(approval("b", &[]), &["a", "b"], 2);
    check(approval("a", &["edge"]), &["a", "b"], 2);
    check(beacon_rule(60), &["a", "b"], 2);
    check(revocation("b"), &["a"], 3);
    check(approval("b", &[]), &["a", "b"], 4);
}

/// What is asked and granted comes out of records as it was put in; who says nothing is there as well.
#[test]
fn what_records_say_is_read() {
    let realm = RealmId::new(Digest::of(b"a realm"));
    let (one, other) = (key("one"), key("other"));
    let keys = [one.public(), other.public()];
    let members: Members = keys.iter().map(|key| ((*key).into(), *key)).collect();
    let mut records = Records::new(realm, key("own").public());
    let nonce = Version {
        epoch: 2,
        boot: 3,
        counter: 4,
    };
    let component = component_name("till");
    let ask = LeaseAsk {
        component: component.clone(),
        nonce,
        state: LeaseState::Holds,
        members: 2,
    };
    let grant = LeaseGrant {
        component,
        holder: one.public().into(),
        nonce,
    };
    let mut body = NodeBody::of(node_name("one"));
    body.asks = Some(vec![ask.clone()]);
    body.grants = Some(vec![grant.clone()]);
    records.offer(&NodeRecord::sign(realm, &one, nonce, body), &members, true);
    let body = NodeBody::of(node_name("other"));
    records.offer(
        &NodeRecord::sign(realm, &other, nonce, body),
        &members,
        true,
    );
    let said = said(&records);
    assert_eq!(said[&one.public().into()].asks, [ask]);
    assert_eq!(said[&one.public().into()].grants, [grant]);
    assert!(said[&other.public().into()].asks.is_empty());
}

fn pairs(one: &[usize], other: &[usize]) -> BTreeSet<(usize, usize)> {
    let across = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
    across.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}
