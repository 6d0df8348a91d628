//! One job on one node: when its run starts, and what becomes of a run of an older version. Runs of
//! one job never overlap. Not here: what its end means (`restart`).

use realm_model::manifest::Mode;
use realm_model::observed::{ReplicaId, ReplicaState};

use super::Scene;
use super::artifacts::Step;
use super::rollout::{Rollout, is_due, is_live};
use super::times::times;
use super::wanted::Wanted;

/// Decides about a job. The run of an older version goes on until the new one could start; then it
/// has the time of a drain to end.
pub(super) fn decide(scene: &Scene<'_>, wanted: &Wanted<'_>) -> Rollout {
    let ready = matches!(scene.artifact, Step::Ready) && scene.lacks_lease.is_none();
    let own = ReplicaId {
        component: scene.component.clone(),
        revision: wanted.revision,
        slot: 0,
    };
    let mut rollout = Rollout::default();
    let (mut state, mut others) = (None, false);
    for (id, other) in &scene.replicas {
        let is_own = **id == own;
        if is_own {
            state = Some(*other);
        } else {
            others |= is_live(other);
        }
        if is_own || ready || !is_live(other) {
            rollout.wind_down(scene, id, other, is_own);
        }
    }
    let starts = match (wanted.mode(), &wanted.spec.schedule) {
        (Mode::Scheduled, Some(schedule)) => {
            let busy = others || state.is_some_and(is_live);
            let times = times(schedule, scene.handled, scene.unix_ms, busy, ready);
            rollout.handle = times.handle;
            rollout.next_due = times.next;
            times.run
        }
        (
            Mode::Scheduled
            | Mode::Once
            | Mode::Answers
            | Mode::Server
            | Mode::Upstream
            | Mode::Service
            | Mode::Worker,
            Some(_) | None,
        ) => state.is_none_or(|state| is_due(state, scene.now)),
    };
    if starts && ready {
        if others {
            rollout.held_back = 1;
        } else {
            rollout.starts.push(own);
        }
    }
    rollout
}

/// What a job says of itself where it waits for nothing else: its last end.
pub(super) fn last_end<'a>(scene: &Scene<'a>, wanted: &Wanted<'_>) -> Option<(bool, &'a str)> {
    scene.replicas.iter().find_map(|(id, state)| match state {
        ReplicaState::Done { ok, reason } if id.revision == wanted.revision => {
            Some((*ok, reason.as_str()))
        }
        ReplicaState::Done { .. }
        | ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Backoff { .. }
        | ReplicaState::Failed { .. } => None,
    })
}
