//! The one loop of a node: take an event, apply it, persist, plan, act.
//!
//! Everything that decides is pure (`realm_control`); everything that does is the executor's. What
//! is here is the order between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use realm_control::{Here, Ledger, plan, view, wake_at};
use realm_model::api::{Accepted, Heads};
use realm_model::entry::{ChainId, NamespaceName};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::observed::{Millis, Observed};
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::view::StatusView;
use tokio::sync::mpsc;

use crate::access::Role;
use crate::event::Event;
use crate::executor::{Executor, World};
use crate::journal::Journal;
use crate::metrics::NodeFigures;
use crate::pace::Pace;
use crate::unix_ms;

/// Plans in a row for one event. Each must act, and two or three reach a plan that waits for an
/// event; a plan that never settles is a bug, which must not take a core.
const ROUNDS_MAX: usize = 16;
/// Events that are taken in before the next plan: those that wait already. A plan looks at every
/// component, so that one plan for each of many events would cost their number squared.
pub(crate) const EVENTS_AT_ONCE_MAX: usize = 1_024;

/// The state of a node's loop.
pub(crate) struct Core {
    pub(crate) node: NodeName,
    pub(crate) node_key: PublicKey,
    pub(crate) urls: Vec<String>,
    pub(crate) ledger: Ledger,
    pub(crate) journal: Journal,
    pub(crate) executor: Executor,
    pub(crate) observed: Observed,
    pub(crate) refusals: BTreeMap<RefusalCode, u64>,
    pub(crate) started: Instant,
    /// The time of the last plan: what falls due after it is still to be planned.
    pub(crate) planned_at: Millis,
    /// When a schedule wants the next plan.
    pub(crate) look_at: Option<Millis>,
    /// What was taken from the queue and is not handled yet. It outlives a panic.
    pub(crate) inbox: VecDeque<Event>,
    /// Whether something happened since the last plan.
    pub(crate) stale: bool,
    pub(crate) pace: Pace,
    /// Plans that were made to be carried out.
    pub(crate) plans: u64,
}

impl Core {
    /// Runs until every sender of events is gone.
    pub(crate) async fn run(&mut self, events: &mut mpsc::Receiver<Event>) {
        // What was in force when the agent last ran goes on at once.
        self.stale = true;
        loop {
            while let Some(event) = self.inbox.pop_front() {
                self.handle(event);
            }
            let mut wait = self.wait();
            if wait.is_some_and(|wait| wait.is_zero()) {
                self.act();
                wait = self.wait();
            }
            let mut taken = Vec::new();
            let number = tokio::select! {
                number = events.recv_many(&mut taken, EVENTS_AT_ONCE_MAX) => number,
                () = sleep_or_never(wait) => {
                    // Due by now; where it is for the sake of pace, `stale` says so already.
                    self.stale = true;
                    continue;
                }
            };
            if number == 0 {
                return;
            }
            self.inbox.extend(taken);
        }
    }

    /// How long until the next plan; `None`: until something happens.
    fn wait(&self) -> Option<Duration> {
        if self.stale {
            return Some(self.pace.wait(Instant::now()));
        }
        // Counted from the plan, not from now: what fell due in between must not be missed.
        let wake = wake_at(&self.observed, self.planned_at)
            .into_iter()
            .chain(self.look_at)
            .min();
        let now = self.now();
        wake.map(|time| Duration::from_millis(time.since(now)))
    }

    /// Goes on after a panic, with the ledger as it is on the disk. What serves goes on serving;
    /// what was under way begins again.
    pub(crate) fn recover(&mut self, journal: Journal, ledger: Ledger) {
        self.journal = journal;
        self.ledger = ledger;
        self.with_world(|executor, world| executor.reconcile(world));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Submitted {
                chain,
                bytes,
                reply,
            } => {
                let answer = self.submit(chain, &bytes);
                // Who hung up finds the entry by asking for the heads.
                let _ = reply.send(answer);
            }
            Event::Refused(code) => self.count(code),
            Event::Uploaded(digest) => {
                self.with_world(|executor, world| executor.uploaded(&digest, world))
            }
            Event::Began { artifact, stage } => {
                self.with_world(|executor, world| executor.began(artifact, stage, world));
            }
            Event::Fetched { artifact, result } => {
                self.with_world(|executor, world| executor.fetched(artifact, result, world));
            }
            Event::Compiled { artifact, result } => {
                self.with_world(|executor, world| executor.compiled(artifact, result, world));
            }
            Event::Lost(compiled) => {
                self.with_world(|executor, world| executor.lost(&compiled, world));
            }
            Event::Started {
                replica,
                start,
                result,
            } => {
                self.with_world(|executor, world| executor.started(replica, start, result, world));
            }
            Event::Ended {
                replica,
                start,
                end,
            } => {
                self.with_world(|executor, world| executor.ended(replica, start, &end, world));
            }
            Event::Unhealthy {
                replica,
                start,
                reason,
            } => {
                self.with_world(|executor, world| {
                    executor.unhealthy(replica, start, reason, world)
                });
            }
            Event::Idle { replica, start } => {
                self.with_world(|executor, world| executor.idle(&replica, start, world));
            }
            #[cfg(test)]
            Event::Panic => panic!("a test wants to see this"),
            // Questions change nothing: no plan follows.
            Event::AskStatus(reply) => return drop(reply.send(self.settled().status())),
            Event::AskHeads(reply) => return drop(reply.send(self.heads())),
            Event::AskRole { key, reply } => {
                let _ = reply.send(self.role_of(&key));
                return;
            }
            Event::AskAlive(reply) => {
                let _ = reply.send(());
                return;
            }
            Event::AskFigures(reply) => return drop(reply.send(self.settled().figures())),
        }
        self.stale = true;
    }

    /// Plans first, if something happened: what is healthy in an answer is routed as well.
    fn settled(&mut self) -> &Self {
        if self.stale {
            self.act();
        }
        self
    }

    /// Check, persist, then take into force. Only then is it acknowledged.
    fn submit(&mut self, chain: ChainId, bytes: &[u8]) -> Result<Accepted, Refusal> {
        let admitted = self
            .ledger
            .check(chain, bytes, Some(unix_ms() / 1_000))
            .map_err(|error| self.refuse(error.refusal()))?;
        self.executor.settle();
        // Waits for the disk; other tasks of this thread move elsewhere meanwhile.
        let appended = tokio::task::block_in_place(|| self.journal.append(&admitted));
        if let Err(error) = appended {
            let reason = crate::error::with_causes(&error);
            return Err(self.refuse(Refusal::new(RefusalCode::NotDurable, reason)));
        }
        let entry = admitted.entry();
        let head = entry.head();
        tracing::info!(
            chain = chain.as_str(),
            seq = head.seq,
            kind = entry.payload().body.kind(),
            "entry accepted"
        );
        if self.ledger.apply(admitted).rebuild {
            self.rebuild()?;
        }
        self.with_world(|executor, world| executor.forget_what_left(world));
        let namespace = chain.namespace().unwrap_or(NamespaceName::DEFAULT);
        let state = self.ledger.desired().namespaces.get(&namespace);
        Ok(Accepted {
            chain,
            head,
            version: state.map_or(0, |state| state.version),
        })
    }

    /// The entry that was written down ends a history: what is in force follows from the logs.
    fn rebuild(&mut self) -> Result<(), Refusal> {
        let rebuilt = tokio::task::block_in_place(|| self.journal.rebuild());
        let ledger = rebuilt.map_err(|error| {
            let reason = crate::error::with_causes(&error);
            self.refuse(Refusal::new(RefusalCode::NotDurable, reason))
        })?;
        self.ledger = ledger;
        self.executor.rewound();
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) -> Refusal {
        tracing::warn!(
            code = refusal.code.as_str(),
            reason = refusal.message,
            "entry refused"
        );
        self.count(refusal.code);
        refusal
    }

    fn count(&mut self, code: RefusalCode) {
        *self.refusals.entry(code).or_default() += 1;
    }

    /// Plans and executes until there is nothing to do but wait.
    fn act(&mut self) {
        let began = Instant::now();
        self.stale = false;
        self.plan_and_execute();
        let now = Instant::now();
        self.pace.worked(now - began, now);
    }

    fn plan_and_execute(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.plans += 1;
            self.planned_at = self.now();
            self.observed.unix_ms_at_zero = unix_ms().saturating_sub(self.planned_at.0);
            let plan = self.plan();
            self.look_at = plan.look_at;
            if !self.with_world(|executor, world| executor.execute(plan, world)) {
                return;
            }
        }
        tracing::error!("the plan does not settle; waiting for the next event");
    }

    fn plan(&self) -> realm_model::action::Plan {
        let (desired, authority) = (self.ledger.desired(), self.ledger.authority());
        plan(desired, authority, &self.node, &self.observed, self.now())
    }

    fn with_world<T>(&mut self, act: impl FnOnce(&mut Executor, &mut World<'_>) -> T) -> T {
        let now = self.now();
        let mut world = World {
            desired: self.ledger.desired(),
            node: &self.node,
            observed: &mut self.observed,
            now,
        };
        act(&mut self.executor, &mut world)
    }

    fn now(&self) -> Millis {
        let elapsed = self.started.elapsed().as_millis();
        Millis(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    fn status(&self) -> StatusView {
        let here = Here {
            node: &self.node,
            agent_version: env!("CARGO_PKG_VERSION"),
            urls: &self.urls,
            restarts: self.executor.restarts(),
            refusals: &self.refusals,
        };
        view(
            self.ledger.desired(),
            self.ledger.authority(),
            &self.plan(),
            &here,
        )
    }

    fn heads(&self) -> Heads {
        heads(&self.ledger, &self.node, self.node_key)
    }

    /// What the authority chain says of a key.
    fn role_of(&self, key: &PublicKey) -> Option<Role> {
        let role = self.ledger.authority().role_of(key, unix_ms() / 1_000);
        role.map(|role| Role::from(&role))
    }

    fn figures(&self) -> NodeFigures {
        let status = self.status();
        let desired = self.ledger.desired();
        let manifest = desired.manifest.as_deref();
        let fueled = manifest.into_iter().flat_map(|manifest| {
            let fueled = manifest.components.iter();
            fueled.filter(|(_, spec)| spec.limits.fuel_per_sec.is_some())
        });
        let meters = self.executor.meters().iter();
        NodeFigures {
            version: desired.version,
            meters: meters
                .map(|(name, meter)| (name.clone(), meter.snapshot()))
                .collect(),
            restarts: self.executor.restarts().clone(),
            fueled: fueled.map(|(name, _)| name.clone()).collect(),
            states: status
                .components
                .into_iter()
                .map(|component| {
                    (
                        component.name,
                        component.state,
                        component.wanted,
                        component.healthy,
                    )
                })
                .collect(),
            replicas: self.executor.in_flight(),
            programs: self.executor.running_programs(),
            unrun: self.executor.unrun().clone(),
            refusals: self.refusals.clone(),
            plans: self.plans,
            code: self.executor.code(),
            compilations: self.executor.compilations(),
        }
    }
}

/// Where the realm stands, for a signer.
pub(crate) fn heads(ledger: &Ledger, node: &NodeName, node_key: PublicKey) -> Heads {
    let (desired, authority) = (ledger.desired(), ledger.authority());
    Heads {
        realm: authority.realm,
        owners: authority.owners.clone(),
        authority: authority.head,
        default: desired.head,
        version: desired.version,
        manifest: desired.manifest_text.as_deref().map(str::to_owned),
        lock: desired.lock_text.as_deref().map(str::to_owned),
        node: node.clone(),
        node_key,
        approved: authority
            .nodes
            .get(node)
            .is_some_and(|node| node.key == node_key),
    }
}

async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
