//! The executor's half about replicas: start, drain, stop, and what their news mean.

use std::sync::Arc;
use std::time::Duration;

use realm_control::restart::{self, End};
use realm_model::api::LogStream;
use realm_model::manifest::{Mode, Probe};
use realm_model::observed::{Artifact, ArtifactState, LastFailure, ReplicaId, ReplicaState};
use tokio::task::AbortHandle;

use super::work::Work;
use super::{Executor, Live, Running, Starting, Tenure, World};
use crate::backend::LocalBackend;
use crate::event::{Event, StartId, StepFailure};
use crate::replica::{self, Started};
use crate::run::{self, Begun, RunGuard, Worker};
use crate::upstream;

/// A replica that was healthy for this long has overcome its failures: the next one begins with
/// the shortest wait again.
const STABLE_MS: u64 = 60_000;
/// How often a draining replica is looked at: a person does not see it, and it costs nothing.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

impl Executor {
    pub(super) fn start(&mut self, id: ReplicaId, world: &mut World<'_>) {
        let Some(running) = self.running(&id, world) else {
            let state = ReplicaState::Failed {
                code: "forgotten".to_owned(),
                reason: "its settings are gone since the agent restarted".to_owned(),
            };
            world.observed.replicas.insert(id, state);
            return;
        };
        if self.failures.contains_key(&id) {
            *self.restarts.entry(id.component.clone()).or_default() += 1;
        }
        let start = StartId(self.next_start);
        self.next_start += 1;
        let before = world.observed.replicas.remove(&id);
        let state = ReplicaState::Starting {
            since: world.now,
            last_failure: before.and_then(last_failure),
        };
        world.observed.replicas.insert(id.clone(), state);
        let tenure = self.tenure(&id.component, world);
        let (turns, task) = (
            Arc::clone(&self.starts),
            replica::Start {
                host: self.host.clone(),
                compiled: self.compiler.path(running.artifact),
                ring: self.rings.ring(&id.component),
                meter: Arc::clone(self.meters.entry(id.component.clone()).or_default()),
                running,
                ports: self.ports.clone(),
                beside: self.beside.clone(),
                shelf: self.shelf.clone(),
                id: id.clone(),
                tenure: tenure.clone(),
                before: match tenure {
                    Some(_) => self.leaving(&id.component),
                    None => Vec::new(),
                },
            },
        );
        let work = async move {
            let turn = turns.acquire_owned().await.ok();
            // Boxed, so that the thousands that wait for their turn are small.
            Box::pin(task.run(turn)).await
        };
        let replica = id.clone();
        let task = self.report(work, move |ended| Event::Started {
            replica,
            start,
            result: ended.flatten(),
        });
        let starting = Starting {
            start,
            task,
            tenure,
        };
        self.starting.insert(id, starting);
    }

    pub(super) fn drain(&mut self, id: ReplicaId, grace_ms: u64, world: &mut World<'_>) {
        let Some(live) = self.replicas.get_mut(&id) else {
            world.observed.replicas.remove(&id);
            return;
        };
        if let Some(health) = live.watch.take() {
            health.abort();
        }
        let start = live.start;
        let work = live.work.clone();
        work.take_no_more();
        let state = ReplicaState::Draining {
            deadline: world.now.plus(grace_ms),
            // A request that is on its way in from the old table holds the backend by itself.
            in_flight: work.in_flight(),
        };
        world.observed.replicas.insert(id.clone(), state);
        let work = async move {
            while work.in_flight() > 0 {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        let replica = id.clone();
        let watch = self.report(work, move |_| Event::Idle { replica, start });
        if let Some(live) = self.replicas.get_mut(&id) {
            live.watch = Some(watch);
        }
    }

    pub(super) fn stop(&mut self, id: &ReplicaId, world: &mut World<'_>) {
        world.observed.replicas.remove(id);
        self.failures.remove(id);
        if let Some(starting) = self.starting.remove(id) {
            self.forget_starting(id, starting);
        }
        self.forget_live(id);
        let key = (id.component.clone(), id.revision);
        // They stand in order: those of the same revision lie from slot 0 on.
        let first = ReplicaId {
            slot: 0,
            ..id.clone()
        };
        let mut others = world.observed.replicas.range(first..);
        let still = others.next().is_some_and(|(other, _)| {
            other.component == id.component && other.revision == id.revision
        });
        if !still && self.revisions.remove(&key).is_some() {
            // A group that this revision alone had goes with it.
            self.keep_groups(world);
        }
    }

    pub(super) fn forget_starting(&mut self, id: &ReplicaId, starting: Starting) {
        starting.task.abort();
        self.let_go(id, starting.tenure);
    }

    pub(super) fn forget_live(&mut self, id: &ReplicaId) {
        let Some(live) = self.replicas.remove(id) else {
            return;
        };
        if let Some(watch) = live.watch {
            watch.abort();
        }
        self.let_go(id, live.tenure);
    }

    /// Of a singleton nothing goes on beside the next one, also no request.
    fn let_go(&mut self, id: &ReplicaId, tenure: Option<Tenure>) {
        if let Some(tenure) = tenure {
            tenure.end();
            self.leaving.retain(|(_, term)| !term.is_gone());
            self.leaving.push((id.component.clone(), tenure.term()));
        }
    }

    /// What a replica runs with: by the manifest in force if it is of the wanted revision, else as
    /// it was when its revision was wanted.
    pub(super) fn running(&mut self, id: &ReplicaId, world: &World<'_>) -> Option<Arc<Running>> {
        let key = (id.component.clone(), id.revision);
        if let Some(running) = self.revisions.get(&key) {
            return Some(Arc::clone(running));
        }
        let (spec, pin) = world
            .desired
            .settings_of(&id.component, world.node, id.revision)?;
        let secrets = world
            .desired
            .secrets_of(&id.component, world.node, id.revision);
        let artifact = Artifact {
            digest: pin.digest,
            fuel: spec.limits.fuel_per_sec.is_some(),
        };
        let running = Arc::new(Running {
            spec: spec.clone(),
            secrets: secrets.cloned().unwrap_or_default(),
            artifact,
            loaded: tokio::sync::Mutex::default(),
            program: tokio::sync::Mutex::default(),
        });
        self.revisions.insert(key, Arc::clone(&running));
        Some(running)
    }

    /// A replica answered its first probe, or did not; or a program has begun to run, or ended.
    pub(crate) fn started(
        &mut self,
        id: ReplicaId,
        start: StartId,
        result: Result<Started, StepFailure>,
        world: &mut World<'_>,
    ) {
        let is_current = |starting: &Starting| starting.start == start;
        if !self.starting.get(&id).is_some_and(is_current) {
            return;
        }
        let tenure = self.starting.get(&id).and_then(|one| one.tenure.clone());
        if tenure.as_ref().is_some_and(Tenure::is_over) {
            return self.stop(&id, world);
        }
        self.starting.remove(&id);
        let (work, run) = match result {
            Ok(Started::Answers(replica, working)) => {
                let backend = Arc::new(LocalBackend(replica));
                (Work::Answers(backend, working.map(Arc::new)), None)
            }
            Ok(Started::Passes(service)) => (Work::Passes(service), None),
            Ok(Started::Runs(Begun::Running(worker))) => self.runs(&id, start, worker),
            Ok(Started::Runs(Begun::Ended(end))) => {
                self.let_go(&id, tenure);
                return self.over(id, &end, world);
            }
            Err(failure) => {
                self.let_go(&id, tenure);
                return self.failed(id, failure, world);
            }
        };
        self.recovered(&id);
        let live = Live {
            start,
            watch: self.watch_health(&id, start, &work),
            work,
            tenure,
            _run: run,
        };
        self.replicas.insert(id.clone(), live);
        let state = ReplicaState::Healthy { since: world.now };
        world.observed.replicas.insert(id, state);
    }

    /// A program has begun to run: its end will be an event.
    fn runs(&self, id: &ReplicaId, start: StartId, worker: Worker) -> (Work, Option<RunGuard>) {
        let Worker {
            guard,
            ended,
            upstream,
        } = worker;
        let replica = id.clone();
        let news = async move { ended.await.unwrap_or_else(|_| run::panicked()) };
        self.report(news, move |end| Event::Ended {
            replica,
            start,
            end: end.unwrap_or_else(|_| run::panicked()),
        });
        let key = (id.component.clone(), id.revision);
        let is_job = self
            .revisions
            .get(&key)
            .is_some_and(|running| running.spec.mode().is_job());
        let work = match upstream {
            Some(upstream) => Work::Serves(Arc::new(upstream)),
            None if is_job => Work::Job(guard.handle()),
            None => Work::Runs,
        };
        (work, Some(guard))
    }

    /// A replica failed its health checks.
    pub(crate) fn unhealthy(
        &mut self,
        id: ReplicaId,
        start: StartId,
        reason: String,
        world: &mut World<'_>,
    ) {
        if self
            .replicas
            .get(&id)
            .is_none_or(|live| live.start != start)
        {
            return;
        }
        self.overcome(&id, world);
        let failure = StepFailure {
            code: "unhealthy".to_owned(),
            reason,
            permanent: false,
        };
        self.failed(id, failure, world);
    }

    /// A program that ran by itself came to its end.
    pub(crate) fn ended(
        &mut self,
        id: ReplicaId,
        start: StartId,
        end: &End,
        world: &mut World<'_>,
    ) {
        if self
            .replicas
            .get(&id)
            .is_none_or(|live| live.start != start)
        {
            return;
        }
        if let Some(ReplicaState::Draining { in_flight, .. }) = world.observed.replicas.get_mut(&id)
        {
            *in_flight = 0;
            return;
        }
        let live = self.replicas.get(&id);
        let tenure = live.and_then(|live| live.tenure.as_ref());
        if tenure.is_some_and(Tenure::is_over) {
            // It did not end by itself: that is no failure, and no end of a job.
            return self.stop(&id, world);
        }
        self.overcome(&id, world);
        self.over(id, end, world);
    }

    /// Forgets the failures of what was healthy for long.
    fn overcome(&mut self, id: &ReplicaId, world: &World<'_>) {
        if let Some(ReplicaState::Healthy { since }) = world.observed.replicas.get(id)
            && world.now.since(*since) >= STABLE_MS
            // Attempts of a job are counted, however long each of them takes.
            && self.replicas.get(id).is_some_and(|live| !matches!(live.work, Work::Job(_)))
        {
            self.failures.remove(id);
        }
    }

    pub(super) fn failed(&mut self, id: ReplicaId, failure: StepFailure, world: &mut World<'_>) {
        if failure.code == "bad-artifact" {
            self.recompile(&id, world);
        }
        let end = End::Failure {
            code: failure.code,
            reason: failure.reason,
            permanent: failure.permanent,
        };
        self.over(id, &end, world);
    }

    /// An attempt or a run is over; what follows is decided by the rules.
    fn over(&mut self, id: ReplicaId, end: &End, world: &mut World<'_>) {
        self.tell(&id, end);
        // Requests in flight keep the backend; only new ones stop coming once the table changes.
        self.forget_live(&id);
        let attempts = self.failures.entry(id.clone()).or_default();
        *attempts = attempts.saturating_add(1);
        let key = (id.component.clone(), id.revision);
        let Some(running) = self.revisions.get(&key) else {
            world.observed.replicas.remove(&id);
            return;
        };
        let seed = u64::from(id.slot);
        let state = restart::after(&running.spec, end, *attempts, world.now, seed);
        match &state {
            ReplicaState::Done { .. } | ReplicaState::Failed { .. } => {
                self.failures.remove(&id);
                // Written down first: what is observed may be acted upon. What could not even begin
                // is tried again by the next agent.
                let never_ran = matches!(
                    end,
                    End::Failure {
                        permanent: true,
                        ..
                    }
                );
                if running.spec.mode() == Mode::Once && !never_ran {
                    self.jobs.ended(&id, &state);
                }
            }
            ReplicaState::Starting { .. }
            | ReplicaState::Healthy { .. }
            | ReplicaState::Draining { .. }
            | ReplicaState::Backoff { .. } => {}
        }
        world.observed.replicas.insert(id, state);
    }

    fn tell(&self, id: &ReplicaId, end: &End) {
        let (code, reason) = match end {
            End::Exit(code) => (restart::EXITED, format!("exit code {code}")),
            End::Failure { code, reason, .. } => (code.as_str(), reason.clone()),
        };
        if end.is_good() {
            tracing::info!(replica = %id, code, reason, "program ended");
        } else {
            tracing::warn!(replica = %id, code, reason, "replica failed");
        }
        self.rings
            .ring(&id.component)
            .push(id.slot, LogStream::Agent, format!("{code}: {reason}"));
    }

    /// A replica that started has loaded its compiled file.
    fn recovered(&mut self, id: &ReplicaId) {
        let key = (id.component.clone(), id.revision);
        if let Some(running) = self.revisions.get(&key) {
            self.recompiled.remove(&running.artifact);
        }
    }

    /// A compiled file that cannot be loaded is removed, so that the plan compiles again.
    pub(super) fn recompile(&mut self, id: &ReplicaId, world: &mut World<'_>) {
        let Some(running) = self.revisions.get(&(id.component.clone(), id.revision)) else {
            return;
        };
        // Once: a file that cannot be loaded although it is new has another cause, which is told.
        if !self.recompiled.insert(running.artifact) {
            return;
        }
        let artifact = running.artifact;
        self.discard(artifact);
        world
            .observed
            .artifacts
            .insert(artifact, ArtifactState::Fetched);
    }

    pub(super) fn watch_health(
        &self,
        id: &ReplicaId,
        start: StartId,
        work: &Work,
    ) -> Option<AbortHandle> {
        let running = self.revisions.get(&(id.component.clone(), id.revision))?;
        let check = match work {
            Work::Passes(_) => upstream::health_check(&running.spec),
            Work::Answers(..) | Work::Serves(_) | Work::Runs | Work::Job(_) => {
                running.spec.health.clone()?
            }
        };
        let (watched, replica) = (work.clone(), id.clone());
        let work = async move {
            match (&watched, &check.probe) {
                (Work::Answers(backend, _), _) => {
                    let ask = || replica::ask_replica(backend.0.clone());
                    replica::until_unhealthy(ask, &check).await
                }
                (Work::Serves(upstream), Probe::Http(path)) => {
                    let ask = || replica::ask_server((**upstream).clone(), path.clone());
                    replica::until_unhealthy(ask, &check).await
                }
                (Work::Passes(service), _) => {
                    replica::until_unhealthy(|| service.clone().ask(&check), &check).await
                }
                // Healthy while it runs; its end is told.
                (Work::Serves(_) | Work::Runs | Work::Job(_), _) => std::future::pending().await,
            }
        };
        Some(self.report(work, move |ended| Event::Unhealthy {
            replica,
            start,
            reason: ended.unwrap_or_else(|panicked| panicked.reason),
        }))
    }

    /// A draining replica has no request in flight.
    pub(crate) fn idle(&mut self, id: &ReplicaId, start: StartId, world: &mut World<'_>) {
        if self.replicas.get(id).is_none_or(|live| live.start != start) {
            return;
        }
        if let Some(ReplicaState::Draining { in_flight, .. }) = world.observed.replicas.get_mut(id)
        {
            *in_flight = 0;
        }
    }
}

/// What a replica that starts again failed with.
fn last_failure(state: ReplicaState) -> Option<LastFailure> {
    match state {
        ReplicaState::Backoff {
            attempts,
            code,
            reason,
            ..
        } => Some(LastFailure {
            attempts,
            code,
            reason,
        }),
        ReplicaState::Starting { last_failure, .. } => last_failure,
        ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Done { .. }
        | ReplicaState::Failed { .. } => None,
    }
}
