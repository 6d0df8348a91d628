//! Most nodes of a realm stand still at once, as under `SIGSTOP`, and go on: those that are left take them for
//! dead, and nothing swings.

use realm_model::observed::{Millis, ReplicaState};

use super::lists::Lists;
use super::seeds::each_seed;
use super::{Kind, Sim};
use crate::sync::Random;

/// What each node runs: the slot of each replica, and since when it is healthy.
type Running = Vec<Vec<(u32, Millis)>>;

impl Sim {
    fn running(&self) -> Running {
        let of = |node: &super::Node| {
            let replicas = node.world.observed.replicas.iter();
            let healthy = replicas.filter_map(|(id, state)| match state {
                ReplicaState::Healthy { since } => Some((id.slot, *since)),
                ReplicaState::Starting { .. }
                | ReplicaState::Draining { .. }
                | ReplicaState::Backoff { .. }
                | ReplicaState::Done { .. }
                | ReplicaState::Failed { .. } => None,
            });
            healthy.collect()
        };
        self.nodes.iter().map(of).collect()
    }

    fn begun(&self) -> usize {
        self.nodes.iter().map(|node| node.moves.begun()).sum()
    }
}

/// Several nodes with replicas that may be anywhere, of which most stand still; what is wrong.
fn run(seed: u64, prints: bool) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x57111);
    let mut below = |n: u64| random.below(n);
    let nodes = 3 + usize::try_from(below(6)).expect("small");
    let kind = Kind {
        nodes,
        delay_ms_max: [20, 500, 3_000][usize::try_from(below(3)).expect("small")],
        loss_percent: [0, 0, 10][usize::try_from(below(3)).expect("small")],
        surge: 1,
        unavailable: 0,
        replicas: 1 + u32::try_from(below(12)).expect("small"),
        start_fails: 0,
        reverts: false,
        lists: Lists::Together,
        calm: false,
        planted: None,
        singleton: false,
    };
    let mut sim = Sim::new(kind, seed);
    sim.prints = prints;
    sim.apply("b0");
    sim.run(120_000);
    sim.end("b0")?;
    let (running, begun) = (sim.running(), sim.begun());
    // More than half, but one at least goes on.
    let still =
        nodes / 2 + 1 + usize::try_from(below((nodes - nodes / 2 - 1) as u64)).expect("small");
    let first = usize::try_from(below(nodes as u64)).expect("small");
    let still: Vec<usize> = (0..still).map(|of| (first + of) % nodes).collect();
    // Half a minute moves nothing; of what is longer each minute counts for one node.
    let pause_ms = [30_000, 70_000, 150_000][usize::try_from(below(3)).expect("small")];
    for node in &still {
        sim.pause(*node);
    }
    let until = sim.now + pause_ms;
    sim.run(until);
    let counted = match pause_ms / 60_000 {
        0 => 0,
        minutes => usize::try_from(minutes).expect("small"),
    };
    // What one node has had at most, and in each view of those that are left.
    let mut had: Vec<usize> = still.iter().map(|of| running[*of].len()).collect();
    had.sort_unstable_by(|one, other| other.cmp(one));
    let left = nodes - still.len();
    let may_move = had.iter().take(counted.min(still.len())).sum::<usize>() * left;
    let moved = sim.begun() - begun;
    if moved > may_move {
        return Err(format!("{moved} replicas moved, at most {may_move} might"));
    }
    for node in &still {
        sim.resume(*node);
    }
    let until = sim.now + 300_000;
    sim.run(until);
    if let Some(violation) = sim.violations.first() {
        return Err(violation.clone());
    }
    // All is as it was: nothing that stood still was started anew, nothing that went on was stopped.
    sim.end("b0")?;
    if sim.running() != running {
        return Err(format!("{running:?} is {:?} by now", sim.running()));
    }
    match sim.begun() - begun == moved {
        true => Ok(()),
        false => Err("something moved that had come back".to_owned()),
    }
}

/// Case 29, of replicas that may be anywhere: a mass of nodes that are wrongly taken for dead.
#[test]
fn case_29_of_nodes_that_stand_still_few_places_move_and_all_come_back() {
    each_seed(0, 150, run);
}
