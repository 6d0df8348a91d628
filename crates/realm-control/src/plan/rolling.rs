//! Whose turn it is to be replaced, of the replicas of one component on this node: what this node
//! observes of its own places and what the others say of theirs, put through the gates.

use realm_model::manifest::{Budget, Mode, OnFail};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Millis, ReplicaState};
use realm_model::record::SeatSummary;

use super::Replicas;
use super::wanted::Wanted;
use crate::around::{Around, Edition};
use crate::desired::Desired;
use crate::gates::{Begun, Gate, SeatFact, gates};

/// What this node has of a component.
pub(super) struct Own<'a> {
    pub(super) component: &'a ComponentName,
    pub(super) node: &'a NodeName,
    pub(super) wanted: Option<&'a Wanted<'a>>,
    pub(super) replicas: &'a Replicas<'a>,
    pub(super) now: Millis,
}

/// The turns of the replicas of one component on this node.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// By slot. Of slots beyond it is always the turn.
    gates: Vec<Gate>,
    /// By slot: whether a new replica is one too many beside the old one.
    gives_up: Vec<bool>,
    /// When to look again: the next replica has been healthy for long enough by then.
    pub(super) look_at: Option<Millis>,
    /// What this node says of its places.
    pub(super) seats: Vec<SeatSummary>,
    /// What those that are not at their turn wait for.
    pub(super) waits_for: Option<String>,
    /// Whether the rollout failed.
    pub(super) failed: bool,
    /// Whether the version before it comes back.
    pub(super) undone: bool,
}

impl Turns {
    pub(super) fn of(&self, slot: u32) -> Gate {
        let slot = usize::try_from(slot).unwrap_or(usize::MAX);
        self.gates.get(slot).copied().unwrap_or(Gate::StartFirst)
    }

    /// Whether a new replica that starts in a slot beside an old one ends: the old one goes on, and it is
    /// not its turn to stop.
    pub(super) fn gives_up(&self, slot: u32) -> bool {
        let index = usize::try_from(slot).unwrap_or(usize::MAX);
        let is_too_many = self.gives_up.get(index).copied().unwrap_or_default();
        is_too_many && self.of(slot) == Gate::Shut
    }
}

/// Whose turn it is.
pub(super) fn turns(own: &Own<'_>, desired: &Desired, around: &Around) -> Turns {
    let mut turns = Turns::default();
    let (Some(wanted), Some((namespace, entry))) = (own.wanted, desired.edition(own.component))
    else {
        return turns;
    };
    let state = desired.namespaces.get(&namespace);
    let edition = Edition {
        namespace,
        places: state.map_or(0..=entry, |state| state.placed()..=state.head.seq),
        entry,
        aim: wanted.entry,
        failed: around.failures_of(own.component),
    };
    let Some(placed) = around.placement.of(own.component) else {
        return turns;
    };
    // Runs take no turns: they end by themselves.
    if !matches!(wanted.mode(), Mode::Answers | Mode::Server | Mode::Upstream) {
        return turns;
    }
    let upkeep = placed.upkeep;
    let homeless = around.placement.homeless(own.component);
    let mut facts = Vec::new();
    let mut holders = Vec::new();
    let mut mine = Vec::new();
    let mut others_wait = false;
    for (number, seat) in (0u32..).zip(around.placement.seats(own.component)) {
        holders.push(seat.map(|(holder, _)| holder));
        match seat {
            Some((holder, is_base)) if holder == own.node => {
                // Where it stands in for others comes last: its own places keep their replicas.
                mine.push((!is_base, facts.len(), number));
                facts.push(SeatFact::default());
            }
            Some((holder, _)) => {
                let fact = around.fact(own.component, &edition, holder, number);
                others_wait |= !fact.ready;
                facts.push(fact);
            }
            // Of a place that nobody can have nothing is awaited; the rows stay as they are. Where it might
            // be on any node, and those are gone, it is missing: on the other side of a cut as many may be
            // taken down.
            None => facts.push(SeatFact {
                heard: true,
                up: homeless == 0,
                ready: true,
            }),
        }
    }
    mine.sort_unstable();
    let mut ready_next: Option<Millis> = None;
    for (slot, (_, index, number)) in (0u32..).zip(&mine) {
        // What several lists want of one node is the same replicas: a place for which it stands in with one
        // that it has anyway has none of its own, and nothing is awaited of it.
        if slot >= wanted.replicas {
            turns.seats.push(SeatSummary {
                seat: *number,
                up: true,
                ready: edition.aim,
            });
            facts[*index] = SeatFact {
                heard: true,
                up: true,
                ready: true,
            };
            continue;
        }
        let place = own.place(wanted, slot);
        let ready_at = place.new_since.map(|since| since.plus(upkeep.min_ready_ms));
        let ready = ready_at.is_some_and(|at| at <= own.now);
        let waits = ready_at.filter(|at| *at > own.now);
        ready_next = ready_next.into_iter().chain(waits).min();
        others_wait |= place.new_since.is_none();
        turns.seats.push(SeatSummary {
            seat: *number,
            up: place.up,
            ready: if ready { edition.aim } else { 0 },
        });
        facts[*index] = SeatFact {
            heard: true,
            up: place.up,
            ready,
        };
    }
    turns.look_at = ready_next.filter(|_| others_wait);
    let count = u32::try_from(facts.len()).unwrap_or(u32::MAX);
    let mut budget = upkeep.budget(count);
    if wanted.stops_first() {
        budget = Budget {
            surge: 0,
            unavailable: budget.unavailable.max(1),
        };
    }
    let begun = |(slot, (_, index, _)): (u32, &(bool, usize, u32))| {
        let is_doubled = own.is_doubled(wanted, slot);
        is_doubled.then(|| Begun::of(&facts, budget, *index))
    };
    let begun: Vec<Option<Begun>> = (0u32..).zip(&mine).map(begun).collect();
    for ((begun, said), (_, index, _)) in begun.iter().zip(&mut turns.seats).zip(&mine) {
        // It counts as down until it is done.
        let is_open = *begun != Some(Begun::OutOfTurn);
        facts[*index].up &= is_open;
        said.up &= is_open;
    }
    let mut gates = gates(&facts, budget);
    turns.waits_for = match homeless {
        0 => waits_for(&facts, &holders),
        _ => Some("all nodes are gone that could have the other ones".to_owned()),
    };
    turns.failed = edition.failed.contains(&entry);
    turns.undone = turns.failed && upkeep.on_fail == OnFail::Revert;
    if edition.failed.contains(&edition.aim) {
        // What failed goes no further: what is down has nothing to lose by it.
        let going = gates.iter_mut().zip(&facts);
        for (gate, _) in going.filter(|(_, fact)| fact.up && !fact.ready) {
            *gate = Gate::Shut;
        }
    }
    turns.gates = mine.iter().map(|(_, index, _)| gates[*index]).collect();
    let too_many = |begun: &Option<Begun>| *begun == Some(Begun::OneTooMany);
    turns.gives_up = begun.iter().map(too_many).collect();
    turns
}

/// The first thing that keeps a rollout from going on, for a person.
fn waits_for(facts: &[SeatFact], holders: &[Option<&NodeName>]) -> Option<String> {
    let first = |which: &dyn Fn(&SeatFact) -> bool| {
        let index = facts.iter().position(which)?;
        holders.get(index).copied().flatten()
    };
    if let Some(node) = first(&|fact| !fact.heard) {
        return Some(format!(
            "node `{node}` has not heard of this version yet, or not of the same nodes and routes"
        ));
    }
    if let Some(node) = first(&|fact| !fact.up) {
        return Some(format!(
            "a replica on node `{node}` is down, or in the middle of being replaced"
        ));
    }
    let node = first(&|fact| !fact.ready)?;
    Some(format!("the next one is on node `{node}`"))
}

/// One place here.
struct Place {
    /// Whether a replica takes requests.
    up: bool,
    /// Since when a replica of the wanted version has been healthy.
    new_since: Option<Millis>,
}

impl Own<'_> {
    /// Whether the wanted version starts in a place beside an older one.
    fn is_doubled(&self, wanted: &Wanted<'_>, slot: u32) -> bool {
        let mut here = self.replicas.iter().filter(|(id, _)| id.slot == slot);
        here.any(|(id, state)| {
            id.revision == wanted.revision && matches!(state, ReplicaState::Starting { .. })
        }) && self.place(wanted, slot).up
    }

    fn place(&self, wanted: &Wanted<'_>, slot: u32) -> Place {
        let healthy = |is_new: bool| {
            self.replicas.iter().find_map(|(id, state)| match state {
                ReplicaState::Healthy { since }
                    if id.slot == slot && (id.revision == wanted.revision) == is_new =>
                {
                    Some(*since)
                }
                ReplicaState::Healthy { .. }
                | ReplicaState::Starting { .. }
                | ReplicaState::Draining { .. }
                | ReplicaState::Backoff { .. }
                | ReplicaState::Done { .. }
                | ReplicaState::Failed { .. } => None,
            })
        };
        let new_since = healthy(true);
        Place {
            up: new_since.is_some() || healthy(false).is_some(),
            new_since,
        }
    }
}
