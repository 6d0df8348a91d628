//! A simulated node for the tests of `plan`: it executes plans, lets everything take time and
//! fail by a seed, and notes whatever a plan must never ask for. Not an executor: nothing runs.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::action::{Action, Plan};
use realm_model::digest::Digest;
use realm_model::manifest::{ComponentSpec, Mode};
use realm_model::name::ComponentName;
use realm_model::observed::{
    Artifact, ArtifactState, Handled, Millis, Observed, ReplicaId, ReplicaState, Revision,
    RouteTable,
};

use crate::backoff;
use crate::desired::Desired;
use crate::restart::{self, End};
use crate::testing::node_name;

/// How likely each thing fails, in percent; and what always fails.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pub(crate) fetch: u64,
    pub(crate) compile: u64,
    pub(crate) start: u64,
    /// Runs of jobs that end with a failure.
    pub(crate) job: u64,
    /// Builds of which no replica ever gets healthy.
    pub(crate) broken: BTreeSet<Digest>,
    /// Whether a broken build fails for good, or again and again.
    pub(crate) for_good: bool,
}

#[derive(Debug, Clone)]
enum Task {
    Fetched(Digest),
    Compiled(Artifact),
    Started(ReplicaId),
    Idle(ReplicaId),
    Ended(ReplicaId),
}

/// One node.
pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) observed: Observed,
    pub(crate) faults: Faults,
    /// What the executor knows of each revision: its artifact, and how it runs.
    pub(crate) revisions: BTreeMap<Revision, (Artifact, ComponentSpec)>,
    /// When the last plan wants the next look.
    pub(crate) look_at: Option<Millis>,
    /// Runs of jobs that were started, in order.
    pub(crate) runs: Vec<(Millis, ReplicaId)>,
    /// What a plan asked for and must never ask for.
    pub(crate) violations: Vec<String>,
    /// Milliseconds that each task takes at most; 0: each takes 100.
    pub(crate) delay_ms_max: u64,
    tasks: BTreeMap<(Millis, u64), Task>,
    attempts: BTreeMap<ReplicaId, u32>,
    dice: u64,
    task_count: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Millis(1_000),
            observed: Observed::default(),
            faults: Faults::default(),
            revisions: BTreeMap::new(),
            look_at: None,
            runs: Vec::new(),
            violations: Vec::new(),
            delay_ms_max: 0,
            tasks: BTreeMap::new(),
            attempts: BTreeMap::new(),
            dice: seed,
            task_count: 0,
        }
    }

    /// Learns what is wanted, as the executor does from the signed entries.
    pub(crate) fn learn(&mut self, desired: &Desired) {
        let Some(manifest) = &desired.manifest else {
            return;
        };
        for (component, spec) in &manifest.components {
            let artifact = Artifact {
                digest: desired.lock.components[component].digest,
                fuel: spec.limits.fuel_per_sec.is_some(),
            };
            let revision = desired.revision_of(component, &node_name("here"));
            let revision = revision.expect("it is there");
            self.revisions.insert(revision, (artifact, spec.clone()));
        }
    }

    /// The agent is killed and starts again: it remembers nothing of what ran, but the ends of jobs
    /// and how far schedules are dealt with.
    pub(crate) fn crash(&mut self) {
        let before = std::mem::take(&mut self.observed);
        self.observed.schedules = before.schedules;
        let ended = before.replicas.into_iter().filter(|(id, state)| {
            self.mode(id) == Some(Mode::Once)
                && matches!(
                    state,
                    ReplicaState::Done { .. } | ReplicaState::Failed { .. }
                )
        });
        self.observed.replicas = ended.collect();
        self.tasks.clear();
        self.attempts.clear();
    }

    fn mode(&self, id: &ReplicaId) -> Option<Mode> {
        let (_, spec) = self.revisions.get(&id.revision)?;
        Some(spec.mode())
    }

    pub(crate) fn execute(&mut self, plan: &Plan) {
        self.look_at = plan.look_at;
        let mut handled = BTreeSet::new();
        for action in &plan.actions {
            if let Action::Start(id) = action
                && self.mode(id) == Some(Mode::Scheduled)
            {
                let written = handled.contains(&id.component);
                self.expect(
                    written,
                    &format!("starts {id} before its time is written down"),
                );
            }
            match action {
                Action::Fetch { pin, .. } => self.fetch(pin.digest),
                Action::Compile(artifact) => self.compile(*artifact),
                Action::Start(replica) => self.start(replica),
                Action::Route(table) => self.route(table),
                Action::Drain { replica, grace_ms } => self.drain(replica, *grace_ms),
                Action::Stop(replica) => self.stop(replica),
                Action::Handle {
                    component,
                    handled: until,
                    ..
                } => {
                    handled.insert(component.clone());
                    self.handle(component, until);
                }
            }
        }
    }

    /// Lets time pass until the next thing happens; `false` if nothing is under way.
    pub(crate) fn advance(&mut self) -> bool {
        let Some(next) = self.next() else {
            return false;
        };
        self.pass_to(next);
        true
    }

    /// When the next thing happens by itself.
    pub(crate) fn next(&self) -> Option<Millis> {
        let task = self.tasks.keys().next().map(|(time, _)| *time);
        let wake = crate::plan::wake_at(&self.observed, self.now);
        let look = self.look_at.filter(|time| *time > self.now);
        task.into_iter().chain(wake).chain(look).min()
    }

    /// Lets time pass until `now`, which is not behind anything that happens by itself.
    pub(crate) fn pass_to(&mut self, now: Millis) {
        self.now = now.max(self.now);
        while let Some(entry) = self.tasks.first_entry()
            && entry.key().0 <= self.now
        {
            let task = entry.remove();
            self.finish(&task);
        }
        self.end_without_lease();
    }

    /// A healthy replica fails its probe; `which` chooses one.
    pub(crate) fn fail_one(&mut self, which: usize) {
        let healthy: Vec<ReplicaId> = self.healthy().cloned().collect();
        if let Some(replica) = healthy.get(which % healthy.len().max(1)) {
            self.fail(replica, "unhealthy");
        }
    }

    pub(crate) fn healthy(&self) -> impl Iterator<Item = &ReplicaId> {
        let replicas = self.observed.replicas.iter();
        replicas
            .filter(|(_, state)| matches!(state, ReplicaState::Healthy { .. }))
            .map(|(id, _)| id)
    }

    pub(crate) fn live(&self, component: &ComponentName) -> usize {
        let replicas = self.observed.replicas.iter();
        replicas
            .filter(|(id, state)| id.component == *component && is_live(state))
            .count()
    }

    pub(crate) fn backends(&self, component: &ComponentName) -> &[ReplicaId] {
        let backends = self.observed.routes.backends.get(component);
        backends.map_or(&[], Vec::as_slice)
    }

    fn fetch(&mut self, digest: Digest) {
        // One of the two keys, by dice: `plan` has to cope with either.
        let fuel = self.roll(2) == 0;
        let since = self.now;
        let keys = [fuel, !fuel].map(|fuel| Artifact { digest, fuel });
        let key = keys
            .iter()
            .find(|key| self.observed.artifacts.contains_key(key))
            .unwrap_or(&keys[0]);
        let state = ArtifactState::Fetching { since: Some(since) };
        self.observed.artifacts.insert(*key, state);
        self.later(Task::Fetched(digest));
    }

    fn compile(&mut self, artifact: Artifact) {
        let since = self.now;
        let state = ArtifactState::Compiling { since: Some(since) };
        self.observed.artifacts.insert(artifact, state);
        self.later(Task::Compiled(artifact));
    }

    fn start(&mut self, id: &ReplicaId) {
        let mode = self.mode(id);
        let due = match self.observed.replicas.get(id) {
            None => true,
            Some(ReplicaState::Backoff { until, .. }) => *until <= self.now,
            Some(ReplicaState::Done { .. } | ReplicaState::Failed { .. }) => {
                mode == Some(Mode::Scheduled)
            }
            Some(_) => false,
        };
        self.expect(due, &format!("starts {id}, which is there"));
        let singleton = self.is_singleton(id);
        self.expect(
            !singleton || self.observed.holds(&id.component, self.now),
            &format!("starts {id} without a lease"),
        );
        let alone = mode.is_some_and(Mode::is_job) || self.has_port(id) || singleton;
        self.expect(
            !alone || self.live(&id.component) == 0,
            &format!("starts {id} beside another one"),
        );
        if mode.is_some_and(Mode::is_job) {
            self.runs.push((self.now, id.clone()));
        }
        let ready = self
            .revisions
            .get(&id.revision)
            .is_some_and(|(artifact, spec)| {
                spec.upstream().is_some()
                    || matches!(
                        self.observed.artifacts.get(artifact),
                        Some(ArtifactState::Ready)
                    )
            });
        self.expect(ready, &format!("starts {id}, which is not compiled"));
        let state = ReplicaState::Starting {
            since: self.now,
            last_failure: None,
        };
        self.observed.replicas.insert(id.clone(), state);
        self.later(Task::Started(id.clone()));
    }

    fn is_singleton(&self, id: &ReplicaId) -> bool {
        let revision = self.revisions.get(&id.revision);
        revision.is_some_and(|(_, spec)| spec.singleton)
    }

    /// What the executor does when leases are over or gone: whatever is in flight, it ends.
    pub(crate) fn end_without_lease(&mut self) {
        let observed = &self.observed;
        let over = |(id, state): &(&ReplicaId, &ReplicaState)| {
            is_live(state) && self.is_singleton(id) && !observed.holds(&id.component, self.now)
        };
        let over = observed.replicas.iter().filter(over);
        let over: Vec<ReplicaId> = over.map(|(id, _)| id.clone()).collect();
        for id in over {
            self.observed.replicas.remove(&id);
            self.attempts.remove(&id);
        }
    }

    fn has_port(&self, id: &ReplicaId) -> bool {
        let revision = self.revisions.get(&id.revision);
        revision.is_some_and(|(_, spec)| spec.listen.is_some())
    }

    fn handle(&mut self, component: &ComponentName, handled: &Handled) {
        let before = self
            .observed
            .schedules
            .insert(component.clone(), handled.clone());
        let forward = before.is_none_or(|before| {
            before.schedule != handled.schedule || before.until_unix_ms < handled.until_unix_ms
        });
        self.expect(forward, &format!("deals with a time of {component} twice"));
    }

    fn route(&mut self, table: &RouteTable) {
        for id in table.backends.values().flatten() {
            let answers = self.mode(id).is_none_or(Mode::takes_requests);
            self.expect(answers, &format!("routes to {id}, which takes no requests"));
            let healthy = self.healthy().any(|healthy| healthy == id);
            self.expect(healthy, &format!("routes to {id}, which is not healthy"));
        }
        self.observed.routes = table.clone();
    }

    fn drain(&mut self, id: &ReplicaId, grace_ms: u64) {
        let healthy = self.healthy().any(|healthy| healthy == id);
        self.expect(healthy, &format!("drains {id}, which does not serve"));
        self.expect_unrouted(id, "drains");
        let is_job = self.mode(id).is_some_and(Mode::is_job);
        let in_flight = if is_job {
            1
        } else {
            u32::try_from(self.roll(3)).unwrap_or_default()
        };
        let state = ReplicaState::Draining {
            deadline: self.now.plus(grace_ms),
            in_flight,
        };
        self.observed.replicas.insert(id.clone(), state);
        // Some requests outlast the grace; a run has its own end.
        if !is_job && self.roll(4) > 0 {
            self.later(Task::Idle(id.clone()));
        }
    }

    fn stop(&mut self, id: &ReplicaId) {
        let may = match self.observed.replicas.get(id) {
            None => false,
            // Without a lease there is no time for a drain.
            Some(ReplicaState::Healthy { .. }) => {
                self.is_singleton(id) && !self.observed.holds(&id.component, self.now)
            }
            Some(ReplicaState::Draining {
                deadline,
                in_flight,
            }) => *in_flight == 0 || *deadline <= self.now,
            Some(
                ReplicaState::Starting { .. }
                | ReplicaState::Backoff { .. }
                | ReplicaState::Done { .. }
                | ReplicaState::Failed { .. },
            ) => true,
        };
        self.expect(may, &format!("stops {id}, which was not drained"));
        self.expect_unrouted(id, "stops");
        self.observed.replicas.remove(id);
        self.attempts.remove(id);
    }

    fn expect_unrouted(&mut self, id: &ReplicaId, verb: &str) {
        let routed = self
            .observed
            .routes
            .backends
            .values()
            .flatten()
            .any(|other| other == id);
        self.expect(!routed, &format!("{verb} {id}, which takes requests"));
    }

    fn expect(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            let now = self.now.0;
            self.violations
                .push(format!("at {now} ms the plan {otherwise}"));
        }
    }

    fn finish(&mut self, task: &Task) {
        match task {
            Task::Fetched(digest) => {
                let digest = *digest;
                let failed = self.roll(100) < self.faults.fetch;
                for key in [false, true].map(|fuel| Artifact { digest, fuel }) {
                    if let Some(ArtifactState::Fetching { .. }) = self.observed.artifacts.get(&key)
                    {
                        let state = self.outcome(failed, "fetch-failed", ArtifactState::Fetched);
                        self.observed.artifacts.insert(key, state);
                    }
                }
            }
            Task::Compiled(artifact) => {
                let failed = self.roll(100) < self.faults.compile;
                let state = self.outcome(failed, "compile-failed", ArtifactState::Ready);
                self.observed.artifacts.insert(*artifact, state);
            }
            Task::Started(id) => self.started(id),
            Task::Ended(id) => self.ended(id),
            Task::Idle(id) => {
                if let Some(ReplicaState::Draining { in_flight, .. }) =
                    self.observed.replicas.get_mut(id)
                {
                    *in_flight = 0;
                }
            }
        }
    }

    fn outcome(&self, failed: bool, code: &str, otherwise: ArtifactState) -> ArtifactState {
        if !failed {
            return otherwise;
        }
        ArtifactState::Failed {
            code: code.to_owned(),
            reason: "the dice say so".to_owned(),
            attempts: 1,
            retry_at: Some(self.now.plus(backoff::FIRST_MS)),
        }
    }

    fn started(&mut self, id: &ReplicaId) {
        let Some(ReplicaState::Starting { .. }) = self.observed.replicas.get(id) else {
            return;
        };
        let digest = self
            .revisions
            .get(&id.revision)
            .map(|(artifact, _)| artifact.digest);
        let broken = digest.is_some_and(|digest| self.faults.broken.contains(&digest));
        if broken && self.faults.for_good {
            let state = ReplicaState::Failed {
                code: "missing-import".to_owned(),
                reason: "it imports `acme:shop/cart`".to_owned(),
            };
            self.observed.replicas.insert(id.clone(), state);
        } else if broken || self.roll(100) < self.faults.start {
            self.fail(id, "start-failed");
        } else {
            let state = ReplicaState::Healthy { since: self.now };
            self.observed.replicas.insert(id.clone(), state);
            if self.mode(id).is_some_and(Mode::is_job) {
                self.later(Task::Ended(id.clone()));
            } else {
                self.attempts.remove(id);
            }
        }
    }

    /// A run comes to its end, unless it was stopped.
    fn ended(&mut self, id: &ReplicaId) {
        match self.observed.replicas.get_mut(id) {
            Some(ReplicaState::Healthy { .. }) => {}
            Some(ReplicaState::Draining { in_flight, .. }) => {
                *in_flight = 0;
                return;
            }
            Some(_) | None => return,
        }
        let code = u8::from(self.roll(100) < self.faults.job);
        self.end(id, &End::Exit(code));
    }

    fn end(&mut self, id: &ReplicaId, end: &End) {
        let attempts = self.attempts.entry(id.clone()).or_default();
        *attempts += 1;
        let (_, spec) = &self.revisions[&id.revision];
        let state = restart::after(spec, end, *attempts, self.now, 0);
        if end.is_good() {
            self.attempts.remove(id);
        }
        self.observed.replicas.insert(id.clone(), state);
    }

    fn fail(&mut self, id: &ReplicaId, code: &str) {
        let end = End::Failure {
            code: code.to_owned(),
            reason: "the dice say so".to_owned(),
            permanent: false,
        };
        self.end(id, &end);
    }

    fn later(&mut self, task: Task) {
        let delay = match self.delay_ms_max {
            0 => 100,
            max => 1 + self.roll(max),
        };
        self.task_count += 1;
        let key = (self.now.plus(delay), self.task_count);
        self.tasks.insert(key, task);
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }
}

/// Whether it runs, or may.
const fn is_live(state: &ReplicaState) -> bool {
    match state {
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. } => true,
        ReplicaState::Backoff { .. } | ReplicaState::Done { .. } | ReplicaState::Failed { .. } => {
            false
        }
    }
}
