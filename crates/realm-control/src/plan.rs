//! What one node does next: (desired, authority, observed, what is around, time) → actions and reports.
//!
//! Deterministic and total. Place by place, when its turn comes: fetch → compile → start →
//! once it is healthy the route table takes it in the old one's stead → the old one drains → stop. Each step
//! rests on what is *observed*, never on what was planned before, so that a lost action, a crash
//! or a newer manifest at any point leads on from where things are. Not here: executing, and how
//! long a failed replica waits (`backoff`).

mod artifacts;
mod fronts;
mod job;
mod report;
mod rolling;
mod rollout;
mod times;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};

use realm_model::action::{Action, Plan};
use realm_model::digest::Digest;
use realm_model::manifest::Mode;
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{
    Artifact, ArtifactState, Handled, Lease, Millis, Observed, ReplicaId, ReplicaState, Revision,
    RouteTable,
};

use crate::around::{Around, Lingering};
use crate::authority::Authority;
use crate::desired::Desired;
use artifacts::Step;
use rolling::Turns;
use rollout::Rollout;
use times::Handling;
use wanted::{Wanted, WantedHere};

pub(crate) use wanted::{Standing, selects};

/// Milliseconds that a draining replica gets for its requests in flight: as long as the default
/// `wall_timeout_ms`, so that no request which is within its limits is cut off.
pub const DRAIN_GRACE_MS: u64 = realm_model::limits::WALL_TIMEOUT_MS;

/// The longest time between two looks at a schedule: half of what is made up for, so that a clock
/// that is set costs no run.
const LOOK_MS_MAX: u64 = times::MAKE_UP_MS / 2;

/// The replicas of one component, in order of revision and slot.
type Replicas<'a> = Vec<(&'a ReplicaId, &'a ReplicaState)>;

/// Everything about one component that the rules and the report look at.
struct Scene<'a> {
    component: &'a ComponentName,
    /// `None`: nothing of it is wanted here, what runs goes away.
    wanted: Option<&'a Wanted<'a>>,
    replicas: Replicas<'a>,
    in_force: BTreeSet<&'a ReplicaId>,
    /// Older revisions that run here, by when they were wanted last.
    ages: BTreeMap<Revision, usize>,
    /// How those older revisions run, as far as it is remembered.
    modes: BTreeMap<Revision, Mode>,
    artifact: Step<'a>,
    /// Secrets of the wanted one that this node cannot open.
    unopened: Vec<&'a str>,
    /// What goes on here until others have taken over from it.
    lingering: Lingering,
    /// The turns of the replicas, by slot.
    turns: Turns,
    handled: Option<&'a Handled>,
    /// How this node stands with the lease, where one is needed that it does not hold: nothing of it may
    /// run here.
    lacks_lease: Option<Option<&'a Lease>>,
    now: Millis,
    /// The clock on the wall: for schedules.
    unix_ms: u64,
}

impl Scene<'_> {
    fn is_singleton(&self) -> bool {
        self.wanted.is_some_and(|wanted| wanted.singleton)
    }

    /// Whether a replica is of the wanted revision.
    fn is_wanted(&self, id: &ReplicaId) -> bool {
        self.wanted
            .is_some_and(|wanted| wanted.revision == id.revision)
    }

    /// Whether a replica of this revision can do meanwhile what the wanted one shall do.
    fn stands_in(&self, revision: Revision) -> bool {
        let wanted = self.wanted.map(Wanted::mode);
        match (wanted, self.modes.get(&revision)) {
            (Some(wanted), Some(mode)) => {
                !mode.is_job() && mode.takes_requests() == wanted.takes_requests()
            }
            // Nobody remembers how it ran: what takes requests at this moment can take them.
            (Some(wanted), None) => {
                let routed = self.in_force.iter().any(|id| id.revision == revision);
                routed && wanted.takes_requests()
            }
            (None, _) => true,
        }
    }
}

/// Decides what `node` does next, and says what each component waits on.
///
/// An empty plan means that all is as wanted, or that the node waits: the reports tell which, and
/// [`wake_at`] until when. Without a manifest there is nothing to decide, not even to stop.
///
/// What the executor has to keep to:
/// - a fetch is recorded under any [`Artifact`](realm_model::observed::Artifact) of its digest;
///   after a failure the way begins with `Fetch` again, which re-verifies bytes that are here;
/// - `Start` may name a replica of an *older* revision that is in `Backoff`: it is what serves
///   until the wanted one does. An executor that no longer has its settings answers with `Failed`;
/// - `Drain` and `Stop` only ever name replicas outside of the route table in force; a run that is
///   stopped ends, and one that drains may end by itself before;
/// - what it starts of a singleton ends with the lease, whatever a plan says or does not say; two
///   of a singleton never overlap, also not while the first one ends;
/// - `Handle` is durable before the `Start` behind it is carried out.
pub fn plan(
    desired: &Desired,
    authority: &Authority,
    node: &NodeName,
    observed: &Observed,
    around: &Around,
    now: Millis,
) -> Plan {
    let mut plan = Plan {
        generation: desired.generation(),
        ..Plan::default()
    };
    let unix_ms = observed.unix_ms_at_zero.saturating_add(now.0);
    let Some(here) = WantedHere::of(desired, authority, node, around, unix_ms / 1_000) else {
        return plan;
    };
    let mut table = RouteTable {
        routes: here.routes(),
        ..RouteTable::default()
    };
    let mut steps = Steps::default();
    for (component, replicas) in concerned(&here, observed) {
        let wanted = here.to_run(component, desired, !replicas.is_empty());
        let old = |id: &ReplicaId| wanted.is_none_or(|wanted| wanted.revision != id.revision);
        let ids = replicas.iter().map(|(id, _)| *id);
        let revisions: BTreeSet<Revision> =
            ids.filter(|id| old(id)).map(|id| id.revision).collect();
        let age = |revision| (revision, desired.age_of(component, node, revision));
        let singleton = desired.is_singleton(component);
        // Of a singleton there is none elsewhere while it goes on here: nobody waits for that.
        let lingering = match here.may_linger() && !singleton {
            true => around.lingering(component, node, now),
            false => Lingering::default(),
        };
        let own = rolling::Own {
            component,
            node,
            wanted,
            replicas: &replicas,
            now,
        };
        let scene = Scene {
            component,
            lingering,
            turns: rolling::turns(&own, desired, around),
            wanted,
            modes: revisions
                .iter()
                .filter_map(|revision| {
                    let (spec, _) = desired.settings_of(component, node, *revision)?;
                    Some((*revision, spec.mode()))
                })
                .collect(),
            ages: revisions.into_iter().map(age).collect(),
            replicas,
            in_force: in_force(observed, component),
            artifact: wanted.map_or(Step::Wait(None), |wanted| {
                artifacts::step(wanted, observed, now)
            }),
            unopened: wanted
                .iter()
                .flat_map(|wanted| wanted.unopened(observed))
                .collect(),
            handled: observed.schedules.get(component),
            lacks_lease: (singleton && !observed.holds(component, now))
                .then(|| observed.leases.get(component)),
            now,
            unix_ms,
        };
        let rollout = Rollout::decide(&scene);
        let report = report::report(&scene, &rollout, &here, desired, around, node);
        plan.reports.push(report);
        steps.take(&scene, &rollout);
        plan.look_at = plan
            .look_at
            .into_iter()
            .chain(look_at(&scene, &rollout))
            .min();
        if !rollout.backends.is_empty() {
            table.backends.insert(component.clone(), rollout.backends);
        }
    }
    table.fronts = fronts::fronts(desired, node, &table);
    for kept in here.kept() {
        if matches!(artifacts::step(kept, observed, now), Step::Fetch) {
            steps.fetch(kept);
        }
    }
    // The table first: what turned unhealthy leaves it at once. The rest stands in no order to
    // it, because it rests on the table that is in force already.
    if table != observed.routes {
        plan.actions.push(Action::Route(table));
    }
    plan.actions.extend(steps.in_order());
    plan
}

/// The singletons that `node` shall run, for which it asks for leases.
pub fn singletons(
    desired: &Desired,
    authority: &Authority,
    node: &NodeName,
    observed: &Observed,
    around: &Around,
    now: Millis,
) -> BTreeSet<ComponentName> {
    let unix_s = observed.unix_ms_at_zero.saturating_add(now.0) / 1_000;
    let Some(here) = WantedHere::of(desired, authority, node, around, unix_s) else {
        return BTreeSet::new();
    };
    let wanted = here.components.iter().filter(|(component, wanted)| {
        let is_here = observed
            .replicas
            .keys()
            .any(|id| id.component == **component);
        // Who could not start it leaves the lease to others.
        let is_ready = || {
            observed.holds(component, now)
                || matches!(artifacts::step(wanted, observed, now), Step::Ready)
        };
        wanted.singleton
            && here.to_run(component, desired, is_here).is_some()
            && (is_here || is_ready())
    });
    wanted.map(|(component, _)| component.clone()).collect()
}

/// The next time at which `plan` may answer otherwise although nothing was observed in between:
/// the end of a wait or of a drain. `None`: not before something happens.
pub fn wake_at(observed: &Observed, now: Millis) -> Option<Millis> {
    let replicas = observed.replicas.values().filter_map(|state| match state {
        ReplicaState::Draining { deadline, .. } => Some(*deadline),
        ReplicaState::Backoff { until, .. } => Some(*until),
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Done { .. }
        | ReplicaState::Failed { .. } => None,
    });
    let artifacts = observed.artifacts.values().filter_map(|state| match state {
        ArtifactState::Failed { retry_at, .. } => *retry_at,
        ArtifactState::Fetching { .. }
        | ArtifactState::Fetched
        | ArtifactState::Compiling { .. }
        | ArtifactState::Ready => None,
    });
    replicas.chain(artifacts).filter(|time| *time > now).min()
}

/// When to look again: at the turns of a rollout, and at a schedule. That not only when it falls due: the clock on the wall may be
/// set, or may have stood still in the machine's sleep, and the monotonic clock does not know.
fn look_at(scene: &Scene<'_>, rollout: &Rollout) -> Option<Millis> {
    let due = rollout.next_due.map(|due| {
        let wait = due.saturating_sub(scene.unix_ms).clamp(1, LOOK_MS_MAX);
        scene.now.plus(wait)
    });
    due.into_iter()
        .chain(scene.turns.look_at)
        .chain(rollout.look_at)
        .chain(scene.lingering.until)
        .filter(|at| *at > scene.now)
        .min()
}

/// Components that are wanted, run or have backends here, with their replicas.
fn concerned<'a>(
    here: &'a WantedHere<'a>,
    observed: &'a Observed,
) -> BTreeMap<&'a ComponentName, Replicas<'a>> {
    let mut concerned: BTreeMap<&ComponentName, Replicas<'_>> = here
        .components
        .keys()
        .chain(observed.routes.backends.keys())
        .map(|component| (component, Vec::new()))
        .collect();
    for (replica, state) in &observed.replicas {
        let replicas = concerned.entry(&replica.component).or_default();
        replicas.push((replica, state));
    }
    concerned
}

fn in_force<'a>(observed: &'a Observed, component: &ComponentName) -> BTreeSet<&'a ReplicaId> {
    let backends = observed.routes.backends.get(component);
    backends.into_iter().flatten().collect()
}

/// The actions of all components but the route table, sorted into stages.
#[derive(Default)]
struct Steps {
    fetched: BTreeSet<Digest>,
    compiled: BTreeSet<Artifact>,
    fetches: Vec<Action>,
    compiles: Vec<Action>,
    handles: Vec<Action>,
    starts: Vec<Action>,
    drains: Vec<Action>,
    stops: Vec<Action>,
}

impl Steps {
    fn take(&mut self, scene: &Scene<'_>, rollout: &Rollout) {
        if let Some(wanted) = scene.wanted {
            match scene.artifact {
                Step::Fetch => self.fetch(wanted),
                Step::Compile => {
                    if self.compiled.insert(wanted.artifact) {
                        self.compiles.push(Action::Compile(wanted.artifact));
                    }
                }
                Step::Ready | Step::Wait(_) => {}
            }
        }
        let Rollout {
            starts,
            drains,
            stops,
            backends: _,
            kept: _,
            held_back: _,
            waits_turn: _,
            look_at: _,
            handle,
            next_due: _,
        } = rollout;
        self.handles.extend(handle.iter().map(|handling| {
            let Handling {
                handled,
                overlapped,
                missed,
            } = handling.clone();
            Action::Handle {
                component: scene.component.clone(),
                handled,
                overlapped,
                missed,
            }
        }));
        self.starts
            .extend(starts.iter().cloned().map(Action::Start));
        self.stops.extend(stops.iter().cloned().map(Action::Stop));
        let drain = |replica| Action::Drain {
            replica,
            grace_ms: DRAIN_GRACE_MS,
        };
        self.drains.extend(drains.iter().cloned().map(drain));
    }

    /// Components of the same bytes share one fetch.
    fn fetch(&mut self, wanted: &Wanted<'_>) {
        if self.fetched.insert(wanted.pin.digest) {
            self.fetches.push(Action::Fetch {
                pin: wanted.pin,
                source: wanted.spec.source.clone(),
            });
        }
    }

    fn in_order(self) -> impl Iterator<Item = Action> {
        // What frees memory before what takes it.
        let Self {
            fetched: _,
            compiled: _,
            fetches,
            compiles,
            handles,
            starts,
            drains,
            stops,
        } = self;
        // A time is dealt with before it is run: what is lost in between is lost, never doubled.
        [stops, drains, fetches, compiles, handles, starts]
            .into_iter()
            .flatten()
    }
}

#[cfg(test)]
mod formers;
#[cfg(test)]
mod moved;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod singletons;
#[cfg(test)]
mod standing;
#[cfg(test)]
mod story;
#[cfg(test)]
mod surplus;
#[cfg(test)]
mod upstreams;
#[cfg(test)]
mod versions;
