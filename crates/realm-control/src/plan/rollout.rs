//! One component on one node: who takes requests, who starts, drains and stops.
//!
//! Slot by slot, when its turn comes, a replica of the wanted revision takes the place of an older one;
//! of several older ones in a slot the one that serves best goes on until then. Not here: messages,
//! and whose turn it is (`rolling`).

use std::collections::{BTreeMap, BTreeSet};

use realm_model::observed::{Millis, ReplicaId, ReplicaState, Revision};

use super::artifacts::Step;
use super::times::Handling;
use super::wanted::Wanted;
use super::{DRAIN_GRACE_MS, Replicas, Scene, job};
use crate::gates::Gate;

/// The decision about one component.
#[derive(Debug, Default)]
pub(super) struct Rollout {
    /// Who takes requests, in order.
    pub(super) backends: Vec<ReplicaId>,
    pub(super) starts: Vec<ReplicaId>,
    pub(super) drains: Vec<ReplicaId>,
    pub(super) stops: Vec<ReplicaId>,
    /// The older revision that serves until the wanted one does.
    pub(super) kept: Option<Revision>,
    /// Wanted replicas that start once others are gone.
    pub(super) held_back: u32,
    /// Wanted replicas whose turn it is not.
    pub(super) waits_turn: u32,
    /// When to look again, although nothing happens.
    pub(super) look_at: Option<Millis>,
    /// What is to be written down of a schedule.
    pub(super) handle: Option<Handling>,
    /// When a schedule falls due next, in milliseconds since 1970.
    pub(super) next_due: Option<u64>,
}

impl Rollout {
    pub(super) fn decide(scene: &Scene<'_>) -> Self {
        let rollout = match scene.wanted {
            Some(wanted) if wanted.mode().is_job() => job::decide(scene, wanted),
            Some(_) | None => Self::of_slots(scene),
        };
        match scene.lacks_lease {
            Some(_) => rollout.without_lease(scene),
            None if scene.is_singleton() => rollout.one_at_a_time(scene),
            None => rollout,
        }
    }

    /// The same where of all replicas, whatever their version and slot, one may run.
    fn one_at_a_time(mut self, scene: &Scene<'_>) -> Self {
        let any = scene.replicas.iter().any(|(_, state)| is_live(state));
        self.starts.truncate(usize::from(!any));
        self
    }

    /// The same where nothing of it may run here: what runs ends at once.
    fn without_lease(self, scene: &Scene<'_>) -> Self {
        let ends = |(id, state): &(&ReplicaId, &ReplicaState)| {
            let kept = match state {
                ReplicaState::Starting { .. }
                | ReplicaState::Healthy { .. }
                | ReplicaState::Draining { .. } => false,
                ReplicaState::Backoff { .. }
                | ReplicaState::Done { .. }
                | ReplicaState::Failed { .. } => scene.is_wanted(id),
            };
            !kept && !scene.in_force.contains(id)
        };
        Self {
            stops: scene
                .replicas
                .iter()
                .copied()
                .filter(ends)
                .map(|(id, _)| id.clone())
                .collect(),
            handle: self.handle,
            next_due: self.next_due,
            ..Self::default()
        }
    }

    fn of_slots(scene: &Scene<'_>) -> Self {
        let groups = Groups::of(scene);
        let takes_requests = scene
            .wanted
            .is_none_or(|wanted| wanted.mode().takes_requests());
        let share = scene.wanted.map_or(0, |wanted| wanted.replicas);
        let stays = |id: &ReplicaId| {
            groups.serving.contains(id)
                || groups.retained.contains(id)
                || (scene.is_wanted(id) && id.slot < share)
        };
        let mut rollout = Self {
            backends: if takes_requests {
                groups.serving.iter().copied().cloned().collect()
            } else {
                Vec::new()
            },
            kept: groups.kept(scene),
            ..Self::default()
        };
        for (id, state) in &scene.replicas {
            let is_starting = matches!(state, ReplicaState::Starting { .. });
            let ends = is_starting && scene.is_wanted(id) && scene.turns.gives_up(id.slot);
            rollout.wind_down(scene, id, state, stays(id) && !ends);
        }
        if let Some(wanted) = scene.wanted {
            rollout.start_new(scene, wanted, &groups);
        }
        rollout.restart_kept(scene, &groups);
        rollout
    }

    /// Drains and stops what does not stay, never while the table in force sends it requests.
    pub(super) fn wind_down(
        &mut self,
        scene: &Scene<'_>,
        id: &ReplicaId,
        state: &ReplicaState,
        stays: bool,
    ) {
        if scene.in_force.contains(id) {
            return;
        }
        let stops = match state {
            ReplicaState::Draining {
                deadline,
                in_flight,
            } => *in_flight == 0 || *deadline <= scene.now,
            ReplicaState::Healthy { .. } => {
                if !stays {
                    self.drains.push(id.clone());
                }
                false
            }
            // A wanted one is kept for its reason; an older one has nothing to say.
            ReplicaState::Failed { .. } | ReplicaState::Done { .. } => {
                !stays || !scene.is_wanted(id)
            }
            ReplicaState::Starting { .. } | ReplicaState::Backoff { .. } => !stays,
        };
        if stops {
            self.stops.push(id.clone());
        }
    }

    /// Older replicas that failed are started again for as long as they are needed; but not beside the
    /// wanted one in the same place, which may make them needless.
    fn restart_kept(&mut self, scene: &Scene<'_>, groups: &Groups<'_>) {
        for (id, state) in &scene.replicas {
            let is_in_place = |other: &ReplicaId| other.slot == id.slot && scene.is_wanted(other);
            let begins = self.starts.iter().any(is_in_place);
            let is_tried = begins
                || scene.replicas.iter().any(|(other, state)| {
                    is_in_place(other) && matches!(state, ReplicaState::Starting { .. })
                });
            if !is_tried && groups.retained.contains(id) && is_due(state, scene.now) {
                self.starts.push((*id).clone());
            }
        }
    }

    /// Starts what is missing of the wanted slots, as far as there is room: for as many new
    /// replicas as are wanted beside as many old ones as serve. Replicas that still drain, of a
    /// rollout before the last, take room until they are gone.
    fn start_new(&mut self, scene: &Scene<'_>, wanted: &Wanted<'_>, groups: &Groups<'_>) {
        if !matches!(scene.artifact, Step::Ready) {
            return;
        }
        let count = |which: &dyn Fn(&ReplicaId, &ReplicaState) -> bool| {
            let replicas = scene.replicas.iter();
            replicas.filter(|(id, state)| which(id, state)).count()
        };
        let kept = |id: &ReplicaId, _: &ReplicaState| groups.retained.contains(id);
        // A kept replica that waits to be started again has its room reserved.
        let taken = count(&|id, state| is_live(state) || kept(id, state));
        let all = wanted.replicas as usize;
        let mut room = (all + all.max(count(&kept))).saturating_sub(taken);
        let old =
            |id: &ReplicaId, state: &ReplicaState| id.revision != wanted.revision && is_live(state);
        if wanted.stops_first() && count(&old) > 0 {
            room = 0;
        }
        for slot in 0..wanted.replicas {
            let id = ReplicaId {
                component: scene.component.clone(),
                revision: wanted.revision,
                slot,
            };
            // They stand in the order of their ids.
            let place = scene
                .replicas
                .binary_search_by(|(other, _)| (*other).cmp(&id));
            let missing = place.map_or(true, |index| is_due(scene.replicas[index].1, scene.now));
            if !missing {
                continue;
            }
            if !may_start(scene, wanted, slot) {
                let starting = scene.replicas.iter().filter_map(|(id, state)| match state {
                    ReplicaState::Starting { since, .. } if id.slot == slot => {
                        Some(given_up_at(*since))
                    }
                    ReplicaState::Starting { .. }
                    | ReplicaState::Healthy { .. }
                    | ReplicaState::Draining { .. }
                    | ReplicaState::Backoff { .. }
                    | ReplicaState::Done { .. }
                    | ReplicaState::Failed { .. } => None,
                });
                self.look_at = self.look_at.into_iter().chain(starting).min();
                self.waits_turn += 1;
                continue;
            }
            if room == 0 {
                self.held_back += 1;
                continue;
            }
            room -= 1;
            self.starts.push(id);
        }
    }
}

/// Who takes requests, and who stays beside.
struct Groups<'a> {
    /// Older replicas that go on until the wanted ones in their places are healthy: one in each place.
    retained: BTreeSet<&'a ReplicaId>,
    serving: BTreeSet<&'a ReplicaId>,
}

impl<'a> Groups<'a> {
    fn of(scene: &Scene<'a>) -> Self {
        let share = scene.wanted.map_or(0, |wanted| wanted.replicas);
        let (own, surplus): (Vec<_>, Vec<_>) =
            healthy(&scene.replicas, |id| scene.is_wanted(id)).partition(|id| id.slot < share);
        // A surplus replica stands in for a wanted one that is not healthy: it runs the same revision.
        let missing = (share as usize).saturating_sub(own.len() + done(scene));
        let stand_ins = match scene.is_singleton() {
            true => 0,
            false => missing.min(surplus.len()),
        };
        let (stand_ins, surplus) = surplus.split_at(stand_ins);
        // What insists on something that two cannot have stops first, whatever its row says.
        let gives_way = scene.wanted.is_some_and(Wanted::stops_first);
        let is_complete = missing <= stand_ins.len();
        let renewed: BTreeSet<u32> = own.iter().map(|id| id.slot).collect();
        let is_ready = matches!(scene.artifact, Step::Ready);
        let stays = |id: &&ReplicaId| {
            if scene.is_singleton() && id.slot >= share {
                return false;
            }
            // The old one goes on for as long as the new one could not start anyway.
            let stops_first = is_ready
                && match scene.turns.of(id.slot) {
                    Gate::StopFirst => true,
                    Gate::StartFirst => gives_way,
                    Gate::Shut => false,
                };
            // More than there shall be go once all that shall be there is.
            id.slot >= share || !renewed.contains(&id.slot) && !stops_first
        };
        let old: Vec<&ReplicaId> = healthy(&scene.replicas, |id| !scene.is_wanted(id)).collect();
        // Of what shall be nowhere each place is kept until those that take over have all of theirs.
        let keeps = !is_complete || scene.lingering.awaits;
        let mut retained: BTreeSet<&ReplicaId> = match keeps {
            true => best_old(scene).filter(stays).collect(),
            false => BTreeSet::new(),
        };
        let is_healthy = |id: &&ReplicaId| old.binary_search(id).is_ok();
        let in_place = retained.iter().copied().filter(is_healthy);
        let in_place = in_place.map(|id| id.slot).filter(|slot| *slot < share);
        if in_place
            .chain(renewed.iter().copied())
            .collect::<BTreeSet<u32>>()
            .len()
            >= share as usize
            && !scene.lingering.awaits
        {
            // What serves nobody, and has no place that needs it, is not started again.
            retained.retain(|id| id.slot < share || is_healthy(id));
        }
        // Of those that would go so many stay as others have not taken over from yet.
        // Who stands in for a place here cannot be one of those: then its old one is.
        let is_free = |slot: u32| slot >= share || is_complete && !renewed.contains(&slot);
        let leaves = |id: &&&ReplicaId| is_free(id.slot) && !retained.contains(**id);
        let leaving = old.iter().filter(leaves);
        let lingering = surplus.iter().chain(leaving);
        let serving = own
            .iter()
            .chain(stand_ins)
            .chain(old.iter().filter(|id| retained.contains(*id)))
            .chain(lingering.take(scene.lingering.replicas as usize))
            .copied()
            .collect();
        Self { retained, serving }
    }

    /// The older revision that serves, or would, until the wanted one does.
    fn kept(&self, scene: &Scene<'_>) -> Option<Revision> {
        let mut old = self.serving.iter().filter(|id| !scene.is_wanted(id));
        let first = old.next().or_else(|| self.retained.iter().next());
        first.map(|id| id.revision)
    }
}

/// When a start of an older replica is waited for no longer.
const fn given_up_at(since: Millis) -> Millis {
    since.plus(DRAIN_GRACE_MS)
}

/// Whether the replica in a slot may be started: it is its turn, and what had to stop first has
/// stopped; or nothing is lost by it, since no older one runs there.
fn may_start(scene: &Scene<'_>, wanted: &Wanted<'_>, slot: u32) -> bool {
    let mut old = scene.replicas.iter().filter(|(id, _)| {
        id.revision != wanted.revision && id.slot == slot && scene.stands_in(id.revision)
    });
    let turn = scene.turns.of(slot);
    !old.any(|(_, state)| match state {
        // Of two that get up the second is one too many.
        ReplicaState::Starting { since, .. } => given_up_at(*since) > scene.now,
        ReplicaState::Healthy { .. } => turn != Gate::StartFirst,
        ReplicaState::Draining { .. }
        | ReplicaState::Backoff { .. }
        | ReplicaState::Done { .. }
        | ReplicaState::Failed { .. } => false,
    })
}

/// Replicas of the wanted revision that ran to their end, and shall not run again.
fn done(scene: &Scene<'_>) -> usize {
    let replicas = scene.replicas.iter();
    replicas
        .filter(|(id, state)| scene.is_wanted(id) && matches!(state, ReplicaState::Done { .. }))
        .count()
}

fn healthy<'a>(
    replicas: &Replicas<'a>,
    which: impl Fn(&ReplicaId) -> bool,
) -> impl Iterator<Item = &'a ReplicaId> {
    replicas
        .iter()
        .filter(move |(id, state)| matches!(state, ReplicaState::Healthy { .. }) && which(id))
        .map(|(id, _)| *id)
}

/// In each place the older replica that serves best: one in the table in force, then a healthy one, then
/// one that may get healthy. Of those with none the oldest: that is the one which was kept so far,
/// since each plan winds down all others.
fn best_old<'a>(scene: &Scene<'a>) -> impl Iterator<Item = &'a ReplicaId> + use<'a> {
    let mut best: BTreeMap<u32, (Rank, &ReplicaId)> = BTreeMap::new();
    let old = scene.replicas.iter().filter(|(id, state)| {
        !scene.is_wanted(id) && !is_ending(state) && scene.stands_in(id.revision)
    });
    for (id, state) in old {
        let is_healthy = matches!(state, ReplicaState::Healthy { .. });
        let age = scene.ages.get(&id.revision).copied().unwrap_or(usize::MAX);
        // The digest decides between two that are forgotten, so that two looks agree.
        let rank = (
            is_healthy && scene.in_force.contains(*id),
            is_healthy,
            age,
            id.revision,
        );
        let best = best.entry(id.slot).or_insert((rank, *id));
        if rank > best.0 {
            *best = (rank, *id);
        }
    }
    best.into_values().map(|(_, id)| id)
}

/// In the table in force, healthy, older.
type Rank = (bool, bool, usize, Revision);

/// Whether its wait after a failure is over.
pub(super) fn is_due(state: &ReplicaState, now: Millis) -> bool {
    match state {
        ReplicaState::Backoff { until, .. } => *until <= now,
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Done { .. }
        | ReplicaState::Failed { .. } => false,
    }
}

/// Whether it will not serve again.
fn is_ending(state: &ReplicaState) -> bool {
    match state {
        ReplicaState::Draining { .. } | ReplicaState::Done { .. } | ReplicaState::Failed { .. } => {
            true
        }
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Backoff { .. } => false,
    }
}

/// Whether it takes memory.
pub(super) fn is_live(state: &ReplicaState) -> bool {
    match state {
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. } => true,
        ReplicaState::Backoff { .. } | ReplicaState::Done { .. } | ReplicaState::Failed { .. } => {
            false
        }
    }
}
