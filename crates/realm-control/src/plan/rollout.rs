//! One component on one node: who takes requests, who starts, drains and stops.
//!
//! Groups: `new` are replicas of the wanted revision; of all older revisions the one that serves
//! best is kept (`kept`) until the new one is complete, the others go. Not here: messages.

use std::collections::BTreeSet;

use realm_model::observed::{Millis, ReplicaId, ReplicaState, Revision};

use super::artifacts::Step;
use super::times::Handling;
use super::wanted::Wanted;
use super::{Replicas, Scene, job};

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
    /// What is to be written down of a schedule.
    pub(super) handle: Option<Handling>,
    /// When a schedule falls due next, in milliseconds since 1970.
    pub(super) next_due: Option<u64>,
}

impl Rollout {
    pub(super) fn decide(scene: &Scene<'_>) -> Self {
        if let Some(wanted) = scene.wanted
            && wanted.mode().is_job()
        {
            return job::decide(scene, wanted);
        }
        let replicas_wanted = scene.wanted.map_or(0, |wanted| wanted.replicas);
        let new = scene.wanted.map(|wanted| wanted.revision);
        // The lowest slots first. A surplus replica stands in for a wanted one that is not
        // healthy: it runs the same revision.
        let healthy_new: BTreeSet<&ReplicaId> =
            healthy(&scene.replicas, |id| Some(id.revision) == new)
                .take(replicas_wanted as usize)
                .collect();
        let complete = healthy_new.len() + done(scene, new) >= replicas_wanted as usize;
        // What stops first keeps the old one for as long as the new one could not start anyway.
        let gives_way =
            scene.wanted.is_some_and(Wanted::stops_first) && matches!(scene.artifact, Step::Ready);
        let kept = if complete || gives_way {
            None
        } else {
            best_old(scene, new)
        };
        let healthy_kept: BTreeSet<&ReplicaId> =
            healthy(&scene.replicas, |id| Some(id.revision) == kept).collect();
        // The old revision keeps the table that it has. If it has none, whoever has more healthy
        // replicas takes it: capacity never shrinks by a choice made here.
        let keeps = healthy_kept.iter().any(|id| scene.in_force.contains(*id));
        let backends = if keeps || healthy_kept.len() >= healthy_new.len() && !complete {
            &healthy_kept
        } else {
            &healthy_new
        };
        let takes_requests = scene
            .wanted
            .is_none_or(|wanted| wanted.mode().takes_requests());
        let stays = |id: &ReplicaId| {
            Some(id.revision) == kept
                || (Some(id.revision) == new && id.slot < replicas_wanted)
                || healthy_new.contains(id)
        };
        let mut rollout = Self {
            backends: if takes_requests {
                backends.iter().copied().cloned().collect()
            } else {
                Vec::new()
            },
            kept,
            ..Self::default()
        };
        for (id, state) in &scene.replicas {
            rollout.wind_down(scene, id, state, stays(id));
        }
        rollout.restart_kept(scene);
        if let Some(wanted) = scene.wanted {
            rollout.start_new(scene, wanted);
        }
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
                !stays || Some(id.revision) == self.kept
            }
            ReplicaState::Starting { .. } | ReplicaState::Backoff { .. } => !stays,
        };
        if stops {
            self.stops.push(id.clone());
        }
    }

    /// The older revision has its failed replicas started again for as long as it is needed.
    fn restart_kept(&mut self, scene: &Scene<'_>) {
        for (id, state) in &scene.replicas {
            if Some(id.revision) == self.kept && is_due(state, scene.now) {
                self.starts.push((*id).clone());
            }
        }
    }

    /// Starts what is missing of the wanted slots, as far as there is room: for as many new
    /// replicas as are wanted beside as many old ones as serve. Replicas that still drain, of a
    /// rollout before the last, take room until they are gone.
    fn start_new(&mut self, scene: &Scene<'_>, wanted: &Wanted<'_>) {
        if !matches!(scene.artifact, Step::Ready) {
            return;
        }
        let count = |which: &dyn Fn(&ReplicaId, &ReplicaState) -> bool| {
            let replicas = scene.replicas.iter();
            replicas.filter(|(id, state)| which(id, state)).count()
        };
        let kept = |id: &ReplicaId, state: &ReplicaState| {
            Some(id.revision) == self.kept && !is_ending(state)
        };
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
            if room == 0 {
                self.held_back += 1;
                continue;
            }
            room -= 1;
            self.starts.push(id);
        }
    }
}

/// Replicas of the wanted revision that ran to their end, and shall not run again.
fn done(scene: &Scene<'_>, new: Option<Revision>) -> usize {
    let replicas = scene.replicas.iter();
    replicas
        .filter(|(id, state)| {
            Some(id.revision) == new && matches!(state, ReplicaState::Done { .. })
        })
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

/// The older revision that serves best: most healthy replicas in the table in force, then most
/// healthy ones. Of those with none the oldest: that is the one which was kept so far, since each
/// plan winds down all but the wanted revision and one older one.
fn best_old(scene: &Scene<'_>, new: Option<Revision>) -> Option<Revision> {
    let old: BTreeSet<Revision> = scene
        .replicas
        .iter()
        .filter(|(id, state)| Some(id.revision) != new && !is_ending(state))
        .filter(|(id, _)| scene.stands_in(id.revision))
        .map(|(id, _)| id.revision)
        .collect();
    old.into_iter().max_by_key(|revision| {
        let healthy = healthy(&scene.replicas, |id| id.revision == *revision);
        let (serving, idle): (Vec<_>, Vec<_>) = healthy.partition(|id| scene.in_force.contains(id));
        let age = scene.ages.get(revision).copied().unwrap_or(usize::MAX);
        // The digest decides between two that are forgotten, so that two looks agree.
        (serving.len(), idle.len(), age, *revision)
    })
}

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
