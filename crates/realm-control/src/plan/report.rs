//! Why a component is not as wanted, in sentences: "why isn't my app up". Decides nothing.

use realm_model::action::{ComponentReport, WaitingOn};
use realm_model::manifest::Mode;
use realm_model::name::NodeName;
use realm_model::observed::{ArtifactState, LastFailure, Lease, Millis, ReplicaId, ReplicaState};
use realm_model::record::{ROLLOUT_FAILED, SECRET_SEALED_AWAY};

use super::artifacts::{Step, short};
use super::rollout::Rollout;
use super::wanted::{Wanted, WantedHere};
use super::{DRAIN_GRACE_MS, Scene, job};
use crate::around::Around;
use crate::desired::Desired;
use crate::text::{count, duration, times};

/// The code of what waits for the lease of a singleton.
const WAITS_FOR_LEASE: &str = "waits-for-lease";

pub(super) fn report(
    scene: &Scene<'_>,
    rollout: &Rollout,
    here: &WantedHere<'_>,
    desired: &Desired,
    around: &Around,
    node: &NodeName,
) -> ComponentReport {
    let new = scene.wanted.map(|wanted| wanted.revision);
    let wanted = scene.wanted.map_or(0, |wanted| wanted.replicas);
    let healthy = |of_new: bool| {
        let states = scene.replicas.iter();
        states
            .filter(|(id, state)| {
                matches!(state, ReplicaState::Healthy { .. })
                    && (Some(id.revision) == new) == of_new
            })
            .count()
    };
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut waiting_on = Vec::new();
    let is_here = !scene.replicas.is_empty();
    if here.components.contains_key(scene.component)
        && let Some((code, why)) = here.withheld(scene.component, desired, is_here)
    {
        waiting_on.push(waiting(code, format!("node `{node}` {why}")));
    }
    if let Some(wanted) = scene.wanted {
        waiting_on.extend(on_bytes(scene, wanted));
        waiting_on.extend(on_secrets(scene));
        waiting_on.extend(on_lease(scene));
        waiting_on.extend(on_replicas(scene, rollout, wanted));
        waiting_on.extend(on_end(scene, rollout, wanted));
    }
    if scene.wanted.is_none() && scene.lingering.replicas > 0 && is_here {
        let message = "goes on until those that take over take requests".to_owned();
        waiting_on.push(waiting("handing-over", message));
    }
    if let (Some(first), Some(serving)) = (
        waiting_on.first_mut(),
        keeps_serving(scene, rollout, desired, node),
    ) {
        first.message = format!("{}; {serving}", first.message);
    }
    waiting_on.extend(on_routing(scene, rollout));
    waiting_on.extend(on_drains(scene, rollout));
    ComponentReport {
        component: scene.component.clone(),
        wanted,
        mode: scene.wanted.map(Wanted::mode),
        running: healthy(true) > 0,
        serving: number(scene.in_force.len()),
        seats: scene.turns.seats.clone(),
        failed: around
            .failures_of(scene.component)
            .iter()
            .copied()
            .collect(),
        // Stand-ins in surplus slots are no more than wanted.
        healthy: number(healthy(true) + as_good_as_healthy(scene)).min(wanted),
        old: number(healthy(false)),
        digest: scene
            .wanted
            .filter(|wanted| wanted.spec.upstream().is_none())
            .map(|wanted| wanted.pin.digest),
        waiting_on,
    }
}

/// What is as wanted although it does not run: it is done, or it waits for its time.
fn as_good_as_healthy(scene: &Scene<'_>) -> usize {
    let Some(wanted) = scene.wanted else {
        return 0;
    };
    let failed = scene.replicas.iter().any(|(id, state)| {
        id.revision == wanted.revision && matches!(state, ReplicaState::Failed { .. })
    });
    let scheduled = wanted.mode() == Mode::Scheduled && matches!(scene.artifact, Step::Ready);
    let done = scene
        .replicas
        .iter()
        .filter(|(id, state)| {
            id.revision == wanted.revision && matches!(state, ReplicaState::Done { ok: true, .. })
        })
        .count();
    if scheduled && !failed { 1 } else { done }
}

/// The last end of what is done, and the next time of a schedule: no wait that anybody could shorten,
/// but what a person asks.
fn on_end(scene: &Scene<'_>, rollout: &Rollout, wanted: &Wanted<'_>) -> Option<WaitingOn> {
    let last = job::last_end(scene, wanted);
    let (Some(schedule), Mode::Scheduled) = (&wanted.spec.schedule, wanted.mode()) else {
        return last.map(|(_, reason)| waiting("done", format!("done: {reason}")));
    };
    let next = match rollout.next_due {
        Some(due) => format!(
            "next run {} ({})",
            schedule.local(due),
            next_try(Millis(due), Millis(scene.unix_ms))
        ),
        None => "no more runs".to_owned(),
    };
    let message = match last {
        Some((true, reason)) => format!("{next}; the last one ended with {reason}"),
        Some((false, reason)) => format!("{next}; the last one failed: {reason}"),
        None => next,
    };
    Some(waiting("scheduled", message))
}

fn waiting(code: &str, message: String) -> WaitingOn {
    WaitingOn {
        code: code.to_owned(),
        message,
    }
}

fn on_bytes(scene: &Scene<'_>, wanted: &Wanted<'_>) -> Option<WaitingOn> {
    let name = scene.component;
    let bytes = short(&wanted.pin.digest);
    let now = scene.now;
    let stage = |stage: &str, since: &Option<Millis>| match since {
        Some(since) => format!(
            "{stage} {name} ({bytes}), {} so far",
            duration(now.since(*since))
        ),
        None => format!("{stage} {name} ({bytes}): waiting for its turn"),
    };
    match scene.artifact {
        Step::Ready | Step::Wait(None | Some(ArtifactState::Ready | ArtifactState::Fetched)) => {
            None
        }
        Step::Fetch => Some(waiting("fetching", format!("fetching {name} ({bytes})"))),
        Step::Compile => Some(waiting("compiling", format!("compiling {name} ({bytes})"))),
        Step::Wait(Some(ArtifactState::Fetching { since })) => {
            Some(waiting("fetching", stage("fetching", since)))
        }
        Step::Wait(Some(ArtifactState::Compiling { since })) => {
            Some(waiting("compiling", stage("compiling", since)))
        }
        Step::Wait(Some(ArtifactState::Failed {
            code,
            reason,
            attempts,
            retry_at,
        })) => Some(match retry_at {
            None => waiting("failed", format!("{code}: {reason}")),
            Some(retry_at) => waiting(
                "backoff",
                format!(
                    "{code}: {reason}; failed {}, next try {}",
                    times(*attempts),
                    next_try(*retry_at, now)
                ),
            ),
        }),
    }
}

/// What cannot be opened here.
fn on_secrets(scene: &Scene<'_>) -> Option<WaitingOn> {
    let secrets = match scene.unopened.as_slice() {
        [] => return None,
        [one] => format!("secret `{one}`: it is"),
        [one, others @ ..] => format!("secret `{one}` and {} more: they are", others.len()),
    };
    let message = format!(
        "waiting on {secrets} not sealed to this node; `realm secret reseal` seals anew, then apply"
    );
    Some(waiting(SECRET_SEALED_AWAY, message))
}

/// What may not run here, and why not.
fn on_lease(scene: &Scene<'_>) -> Option<WaitingOn> {
    let message = match scene.lacks_lease? {
        Some(Lease::Awaited {
            holder: Some(holder),
            ..
        }) => format!("a singleton: node `{holder}` holds the lease"),
        Some(Lease::Awaited {
            holder: None,
            granted,
            needed,
        }) => format!(
            "a singleton: {needed} nodes have to grant this one the lease, and {granted} of them {}",
            if *granted == 1 { "does" } else { "do" },
        ),
        Some(Lease::Held { .. }) | None => "a singleton: the lease is asked for".to_owned(),
    };
    Some(waiting(WAITS_FOR_LEASE, message))
}

/// At most one sentence per kind: failed, waiting to be started again, starting, held back.
fn on_replicas(scene: &Scene<'_>, rollout: &Rollout, wanted: &Wanted<'_>) -> Vec<WaitingOn> {
    let ours = || {
        let replicas = scene.replicas.iter();
        replicas.filter(|(id, _)| id.revision == wanted.revision && id.slot < wanted.replicas)
    };
    let of_all = |number: usize| match wanted.replicas {
        all if number == all as usize => String::new(),
        all => format!("{number} of {all} replicas: "),
    };
    let failed = || ours().filter(|(_, state)| matches!(state, ReplicaState::Failed { .. }));
    let in_backoff = || {
        ours().filter(|(id, state)| {
            matches!(state, ReplicaState::Backoff { .. }) && !rollout.starts.contains(id)
        })
    };
    let mut all = Vec::new();
    if let Some((_, ReplicaState::Failed { code, reason })) = failed().next() {
        let message = format!("{}{code}: {reason}", of_all(failed().count()));
        all.push(waiting("failed", message));
    }
    let soonest = in_backoff().filter_map(|(_, state)| backoff(state)).min();
    if let Some((until, attempts, code, reason)) = soonest {
        let message = format!(
            "{}failed {} ({code}): {reason}; next try {}",
            of_all(in_backoff().count()),
            times(attempts),
            next_try(until, scene.now)
        );
        all.push(waiting("backoff", message));
    }
    all.extend(on_starts(scene, rollout, wanted));
    if scene.turns.failed {
        let follows = match scene.turns.undone {
            true => "the version before it comes back",
            false => "it stands still until the next entry",
        };
        let message = format!("the rollout did not get healthy by its deadline: {follows}");
        all.insert(0, waiting(ROLLOUT_FAILED, message));
    } else if rollout.waits_turn > 0 {
        let number = count(rollout.waits_turn as usize, "replica");
        let why = scene.turns.waits_for.as_deref();
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        let message = format!("{number} not replaced yet{why}");
        all.push(waiting("rolling", message));
    }
    if rollout.held_back > 0 {
        let number = count(rollout.held_back as usize, "replica");
        let message = if wanted.mode().is_job() {
            "not started until the run of the old version has ended".to_owned()
        } else if wanted.stops_first() {
            let what = match wanted.singleton {
                true => "has stopped: of a singleton there is one",
                false => "has left its port",
            };
            format!("not started until the old one {what}")
        } else {
            format!("{number} not started until the old ones have finished their requests")
        };
        all.push(waiting("draining", message));
    }
    all
}

fn on_starts(scene: &Scene<'_>, rollout: &Rollout, wanted: &Wanted<'_>) -> Option<WaitingOn> {
    let ours = |id: &ReplicaId| id.revision == wanted.revision && id.slot < wanted.replicas;
    let begun: Vec<(Millis, Option<&LastFailure>)> = scene
        .replicas
        .iter()
        .filter_map(|(id, state)| match state {
            ReplicaState::Starting {
                since,
                last_failure,
            } if ours(id) => Some((*since, last_failure.as_ref())),
            ReplicaState::Starting { .. }
            | ReplicaState::Healthy { .. }
            | ReplicaState::Draining { .. }
            | ReplicaState::Backoff { .. }
            | ReplicaState::Done { .. }
            | ReplicaState::Failed { .. } => None,
        })
        .collect();
    let to_begin = rollout.starts.iter().filter(|id| ours(id)).count();
    let all = count(wanted.replicas as usize, "replica");
    let starting = match begun.len() + to_begin {
        0 => return None,
        _ if wanted.replicas == 1 => "starting".to_owned(),
        number => format!("starting {number} of {all}"),
    };
    let mut message = match begun.iter().map(|(since, _)| *since).min() {
        None => starting,
        Some(since) => format!("{starting}, {} so far", duration(scene.now.since(since))),
    };
    if let Some(failure) = begun.iter().find_map(|(_, failure)| *failure) {
        let LastFailure {
            attempts,
            code,
            reason,
        } = failure;
        message = format!("{message}; failed {} ({code}): {reason}", times(*attempts));
    }
    Some(waiting("starting", message))
}

fn backoff(state: &ReplicaState) -> Option<(Millis, u32, &str, &str)> {
    match state {
        ReplicaState::Backoff {
            until,
            attempts,
            code,
            reason,
        } => Some((*until, *attempts, code, reason)),
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Done { .. }
        | ReplicaState::Failed { .. } => None,
    }
}

fn next_try(at: Millis, now: Millis) -> String {
    match at.since(now) {
        0 => "now".to_owned(),
        ms => format!("in {}", duration(ms)),
    }
}

/// Who answers meanwhile, if an older revision does.
fn keeps_serving(
    scene: &Scene<'_>,
    rollout: &Rollout,
    desired: &Desired,
    node: &NodeName,
) -> Option<String> {
    let kept = rollout.kept?;
    let takes_requests = scene.wanted?.mode().takes_requests();
    let runs = |(id, state): &(&ReplicaId, &ReplicaState)| {
        id.revision == kept && matches!(state, ReplicaState::Healthy { .. })
    };
    let keeps = if takes_requests {
        rollout.backends.first()?.revision == kept
    } else {
        scene.replicas.iter().any(runs)
    };
    if !keeps {
        return None;
    }
    let new = desired.revision_of(scene.component, node);
    let version = |revision| desired.version_of(scene.component, node, revision);
    let who = match version(kept) {
        Some(old) if new.and_then(version) == Some(old) => {
            format!("version {old} from before the restart")
        }
        Some(old) => format!("version {old}"),
        None => "an older version".to_owned(),
    };
    let does = if takes_requests { "serving" } else { "running" };
    Some(format!("{who} keeps {does}"))
}

fn on_routing(scene: &Scene<'_>, rollout: &Rollout) -> Option<WaitingOn> {
    let new = &rollout.backends;
    if new.len() == scene.in_force.len() && new.iter().all(|id| scene.in_force.contains(id)) {
        return None;
    }
    let message = format!("the route table changes to {}", count(new.len(), "replica"));
    Some(waiting("routing", message))
}

/// Replicas that drain or begin to, without those that are stopped at once.
fn on_drains(scene: &Scene<'_>, rollout: &Rollout) -> Option<WaitingOn> {
    let draining = scene.replicas.iter().filter_map(|(id, state)| match state {
        ReplicaState::Draining {
            deadline,
            in_flight,
        } if !rollout.stops.contains(id) => Some((deadline.since(scene.now), *in_flight)),
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Backoff { .. }
        | ReplicaState::Done { .. }
        | ReplicaState::Failed { .. } => None,
    });
    let beginning = rollout.drains.iter().map(|_| (DRAIN_GRACE_MS, 0));
    let (number, longest, requests) = draining.chain(beginning).fold(
        (0, 0, 0u64),
        |(number, longest, requests), (left, in_flight)| {
            (
                number + 1,
                left.max(longest),
                requests + u64::from(in_flight),
            )
        },
    );
    if number == 0 {
        return None;
    }
    let in_flight = match requests {
        0 => String::new(),
        requests => {
            let requests = usize::try_from(requests).unwrap_or(usize::MAX);
            format!(", {} in flight", count(requests, "request"))
        }
    };
    let message = format!(
        "draining {}{in_flight}, at most {}",
        count(number, "old replica"),
        duration(longest)
    );
    Some(waiting("draining", message))
}
