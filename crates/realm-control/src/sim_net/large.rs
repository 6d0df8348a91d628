//! Worlds of a hundred and of a thousand nodes, and worlds with one thing in them.

use realm_model::entry::ChainId;

use super::{Step, Template, World, Worldly};
use crate::sync::Planted;

fn kind(n: usize, degree: usize) -> Worldly {
    Worldly {
        n,
        degree,
        delay_ms_max: 100,
        loss_percent: 0,
        twice_percent: 0,
        byzantine: 0,
        talkers: n.min(20),
        late: 0,
    }
}

/// Milliseconds until `done`, looked at every 100 ms.
fn until(world: &mut World, ms_max: u64, done: impl Fn(&World) -> bool) -> Option<u64> {
    let begun = world.now_ms;
    while !done(world) {
        if world.now_ms - begun >= ms_max {
            return None;
        }
        world.run(world.now_ms + 100);
    }
    Some(world.now_ms - begun)
}

fn all_alike(world: &World) -> bool {
    let view = |node: &super::SimNode| {
        let running = node.running.as_ref().expect("it runs");
        (running.ledger.heads(), running.sync.records().digest())
    };
    let mut views = world.honest().map(view);
    let first = views.next().expect("somebody");
    first.0 == world.realm.ledger.heads() && views.all(|view| view == first)
}

/// Ten minutes apart, entries on one side: how long until all are alike again.
fn after_ten_minutes_apart(kind: Worldly, planted: Option<Planted>) -> Option<u64> {
    let template = Template::make(kind.n);
    let mut world = World::new(kind, 17, &template, planted);
    let minutes = 600_000;
    let cut = Step::Cut {
        below: kind.n / 2,
        one_way: false,
        for_ms: minutes,
    };
    world.step_at(5_000, cut);
    for n in 0..10 {
        world.step_at(10_000 + n * 50_000, Step::Apply);
    }
    world.run(5_000 + minutes - 100);
    assert!(!all_alike(&world), "the partition did nothing");
    let applied = world.realm.ledger.head(ChainId::DEFAULT).seq;
    assert!(applied > 5, "nothing was applied");
    world.run(5_000 + minutes);
    until(&mut world, 10_000, all_alike)
}

/// Case 17 (state part), and the figure.
#[test]
fn case_17_a_hundred_nodes_converge_within_ten_seconds_of_a_partition() {
    let ms = after_ten_minutes_apart(kind(100, 16), None).expect("alike within ten seconds");
    println!("converged {ms} ms after the partition of 100 nodes");
}

/// A ring has only two links between its halves: who fetches must tell its neighbours.
#[test]
fn what_is_fetched_goes_from_neighbour_to_neighbour() {
    let ring = kind(80, 2);
    let planted = Some(Planted::NothingIsAnnounced);
    let ms = [None, planted].map(|planted| after_ten_minutes_apart(ring, planted));
    assert!(matches!(ms, [Some(_), None]), "{ms:?}");
}

#[test]
fn a_thousand_nodes_hear_of_an_entry() {
    let template = Template::make(1_000);
    let mut world = World::new(
        Worldly {
            talkers: 3,
            ..kind(1_000, 8)
        },
        1,
        &template,
        None,
    );
    world.run(3_000);
    world.step_at(3_000, Step::Apply);
    let heads = |world: &World| {
        let same = |node: &super::SimNode| {
            let running = node.running.as_ref().expect("it runs");
            running.ledger.heads() == world.realm.ledger.heads()
        };
        world.now_ms > 3_100 && world.honest().all(same)
    };
    let ms = until(&mut world, 5_000, heads).expect("everybody within five seconds");
    println!("1,000 nodes have it after {ms} ms");
}

/// Case 10: both halves learn of it within one contact, stand still, and go on when it is resolved.
#[test]
fn case_10_and_11_two_entries_at_one_place_freeze_the_chain_until_it_is_resolved() {
    let mut world = World::new(kind(7, 7), 10, Template::small(7), None);
    let cut = Step::Cut {
        below: 3,
        one_way: false,
        for_ms: 20_000,
    };
    world.step_at(4_000, cut);
    world.step_at(
        15_000,
        Step::Equivocate {
            one: 0,
            other: 6,
            authority: false,
        },
    );
    world.run(24_000);
    let frozen = |world: &World| {
        let stands = |node: &&super::SimNode| {
            node.running
                .as_ref()
                .expect("it runs")
                .ledger
                .frozen()
                .next()
                .is_some()
        };
        world.honest().filter(stands).count()
    };
    assert_eq!(frozen(&world), 0, "nobody can know yet");
    until(&mut world, 5_000, |world| frozen(world) == 7).expect("it stands still everywhere");
    let alike = |world: &World| {
        let heads = |node: &super::SimNode| node.running.as_ref().expect("it runs").ledger.heads();
        let mut all = world.honest().map(heads);
        let first = all.next();
        all.all(|heads| Some(heads) == first)
    };
    assert!(!alike(&world), "both sides keep what they had");
    world.step_at(world.now_ms + 1, Step::Resolve);
    world.run(world.now_ms + 2);
    let settled = |world: &World| frozen(world) == 0 && alike(world);
    until(&mut world, 10_000, settled).expect("it goes on everywhere");
}

/// Case 15 over the network: a second machine with the key of the first.
#[test]
fn case_15_a_cloned_key_raises_the_alarm_on_both_and_nothing_flaps() {
    let mut template = Template::make(5);
    template.keys[4] = template.keys[0].clone();
    let mut world = World::new(kind(5, 5), 15, &template, None);
    // The second one starts with what the first one had long before, and notices when it is up.
    world.nodes[4].disk.epoch = 3;
    world.run(40_000);
    let alarms: Vec<bool> = [0, 4]
        .map(|i: usize| {
            world.nodes[i]
                .running
                .as_ref()
                .expect("it runs")
                .sync
                .is_cloned()
        })
        .into();
    assert_eq!(alarms, [true, true]);
    let epoch = |world: &World| {
        let sync = &world.nodes[2].running.as_ref().expect("it runs").sync;
        sync.records()
            .get(world.nodes[0].key.public())
            .expect("a record")
            .version
            .epoch
    };
    let settled = epoch(&world);
    world.run(100_000);
    assert_eq!(epoch(&world), settled, "they chase each other");
}
