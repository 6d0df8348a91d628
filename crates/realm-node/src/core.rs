//! The one loop of a node: take an event, apply it, persist, plan, act.
//!
//! Everything that decides is pure (`realm_control`); everything that does is the executor's. What
//! is here is the order between them.

mod around;
mod beacon;
mod belonging;
mod damaged;
mod disk;
mod doors;
mod leases;
mod networked;
mod saying;
mod shut;
mod sifting;
mod standing;
mod strangers;
mod why;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_control::sync::{Input, Judgement};
use realm_control::{CheckError, Here, Ledger, plan, view, wake_at};
use realm_model::action::Plan;
use realm_model::api::Accepted;
use realm_model::entry::{ChainId, NamespaceName};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::observed::{ArtifactState, Millis, Observed, ReplicaState};
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::sealing::Sealing;
use realm_model::view::StatusView;
use tokio::sync::{mpsc, oneshot};

use crate::access::Role;
use crate::certificates::Certificates;
use crate::clock::Clock;
use crate::event::Event;
use crate::executor::{Executor, World};
use crate::journal::Journal;
use crate::machine::Machine;
use crate::metrics::NodeFigures;
use crate::network::{Network, OfComponents};
use crate::pace::Pace;
use crate::secrets::Looked;
use crate::stores::Shelf;
use crate::unix_ms;
pub(crate) use around::Surroundings;
pub(crate) use doors::{Doors, exact_hosts};
pub(crate) use leases::Holding;
pub(crate) use standing::heads;
pub(crate) use why::{Prospect, Unknown};

/// Plans in a row for one event. Each must act, and two or three reach a plan that waits for an
/// event; a plan that never settles is a bug, which must not take a core.
const ROUNDS_MAX: usize = 16;
/// Events that are taken in before the next plan: those that wait already. A plan looks at every
/// component, so that one plan for each of many events would cost their number squared.
pub(crate) const EVENTS_AT_ONCE_MAX: usize = 1_024;

/// How an entry came.
#[derive(Debug, Clone, Copy)]
enum Came {
    /// Somebody hands it over here: the clock counts.
    Here,
    /// From a peer; if as a hint, others wait for this node to pass it on. They may have it once it
    /// is checked: its signers vouch for it, and what this node says of its own state comes later.
    /// Each step of the way would add the time of a disk otherwise.
    From { hint: Option<u64> },
}

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
    pub(crate) clock: Clock,
    /// The time of the last plan: what falls due after it is still to be planned.
    pub(crate) planned_at: Millis,
    /// When a schedule wants the next plan.
    pub(crate) look_at: Option<Millis>,
    /// What was taken from the queue and is not handled yet. It outlives a panic.
    pub(crate) inbox: VecDeque<Event>,
    /// Whether something happened since the last plan.
    pub(crate) stale: bool,
    /// Whether the last plan was not made, since the others were not heard yet.
    pub(crate) held_back: bool,
    pub(crate) pace: Pace,
    /// Plans that were made to be carried out.
    pub(crate) plans: u64,
    /// What the disk did not take, until it takes something again.
    pub(crate) disk: Option<disk::Trouble>,
    /// How this node stood in the realm when it was looked last.
    pub(crate) stood: belonging::Standing,
    /// The part in the network; `None`: the node is alone, or not there yet.
    pub(crate) network: Option<Network>,
    /// Whether the node is to have a part in the network.
    pub(crate) networking: bool,
    /// Told once what was in force at the start is in force again, as far as it comes at once.
    pub(crate) restored: Option<oneshot::Sender<()>>,
    /// What is told of the machine.
    pub(crate) machine: Arc<Machine>,
    /// Tags that the operator proposes.
    pub(crate) tags: Vec<String>,
    /// Ports of servers that are listened on here for whoever runs them.
    pub(crate) doors: Doors,
    /// Certificates of HTTPS, if the node has any.
    pub(crate) certificates: Option<Certificates>,
    pub(crate) shelf: Shelf,
    /// Which secrets open here.
    pub(crate) looked: Looked,
    /// To which key secrets for this node are sealed.
    pub(crate) sealing: Sealing,
    /// What is left of a turn of the sync.
    pub(crate) fed: VecDeque<Input>,
    /// Where everything shall be, and what the others say.
    pub(crate) surroundings: Surroundings,
    /// The leases of singletons.
    pub(crate) holding: Holding,
    /// Which desired state the node began with: another one waits until the others were heard.
    pub(crate) began_with: u64,
    /// What is said of the components by the last plan, if anything was said since.
    pub(crate) told: Option<OfComponents>,
    /// When something that the last plan saw waits no longer.
    pub(crate) wake_at: Option<Millis>,
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
            if self.wait().is_some_and(|wait| wait.is_zero()) {
                self.act();
            }
            self.passed();
            let planning = self.wait();
            let networking = self.network_wait();
            let now = self.now();
            let leases = self.leases_wake_at();
            let leases = leases.map(|at| Duration::from_millis(at.since(now)));
            let wait = planning.into_iter().chain(networking).chain(leases).min();
            let mut taken = Vec::new();
            let number = tokio::select! {
                number = events.recv_many(&mut taken, EVENTS_AT_ONCE_MAX) => number,
                () = sleep_or_never(wait) => {
                    // Due by now; where it is for the sake of pace, `stale` says so already.
                    self.stale |= planning == wait;
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
        let wake = self
            .wake_at
            .into_iter()
            .chain(self.look_at)
            .chain(self.surroundings.look_at)
            .chain(self.doors.look_at())
            .chain(self.try_disk_at())
            .min();
        let now = self.now();
        wake.map(|time| Duration::from_millis(time.since(now)))
    }

    /// Goes on after a panic, with the ledger as it is on the disk. What serves goes on serving;
    /// what was under way begins again.
    pub(crate) fn recover(&mut self, journal: Journal, ledger: Ledger) {
        self.journal = journal;
        self.ledger = ledger;
        self.journal.hold_proofs(&mut self.ledger);
        self.sift();
        self.with_world(|executor, world| executor.reconcile(world));
        self.feed(Input::LedgerChanged);
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
            Event::Beacon { bytes, reply } => {
                let answer = self.take_beacon(bytes);
                return drop(reply.send(answer));
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
            Event::Met(network) => self.met(*network),
            // What the network brings asks for a plan by itself, if it changes what is wanted.
            Event::Network(event) => return self.networked(event),
            Event::Looked => return self.looked(),
            Event::Answered { id, answer } => return self.answered(id, answer),
            Event::Shut { by } => return self.shut_out(by),
            Event::Told { by, page } => return self.told(by, &page),
            Event::Knocked(knock) => return self.knocked(knock),
            Event::Call { address, reply } => return self.call(address, reply),
            // Questions change nothing: no plan follows.
            Event::AskShelf(reply) => return drop(reply.send(self.shelf.clone())),
            Event::AskInvitation(reply) => return drop(reply.send(self.invitation())),
            Event::AskStatus(reply) => return drop(reply.send(self.settled().status())),
            Event::AskWhy { component, reply } => {
                return drop(reply.send(self.settled().explained(&component)));
            }
            Event::AskProspect(reply) => {
                return drop(reply.send(Box::new(self.settled().prospect())));
            }
            Event::AskHeads {
                namespace,
                of,
                reply,
            } => {
                return drop(reply.send(self.heads(namespace, of.as_ref())));
            }
            Event::AskEntries { chain, from, reply } => {
                return drop(reply.send(self.listed(chain, from)));
            }
            Event::AskFork { chain, reply } => return drop(reply.send(self.fork_of(chain))),
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

    /// What somebody hands over here; an answer of `Ok` says that it is durable and in force.
    fn submit(&mut self, chain: ChainId, bytes: &[u8]) -> Result<Accepted, Refusal> {
        self.refuse_behind()
            .map_err(|refusal| self.refuse(refusal))?;
        let taken = self.take(chain, bytes, Came::Here);
        let accepted = taken.map_err(|error| {
            if let CheckError::Forked(fork) = &error {
                self.forked(fork);
            }
            self.refuse(error.refusal())
        })?;
        self.tell_accepted(&accepted, bytes);
        Ok(accepted)
    }

    /// Check, persist, then take into force. Only then is it acknowledged.
    fn take(&mut self, chain: ChainId, bytes: &[u8], came: Came) -> Result<Accepted, CheckError> {
        let now_unix_s = match came {
            Came::Here => Some(unix_ms() / 1_000),
            Came::From { .. } => None,
        };
        let admitted = self.ledger.check(chain, bytes, now_unix_s)?;
        if let (Came::From { hint: Some(id) }, Some(network)) = (came, &mut self.network) {
            network.judge(id, Judgement::Forward);
        }
        self.disk_takes()?;
        self.executor.settle();
        // Waits for the disk; other tasks of this thread move elsewhere meanwhile.
        let appended = tokio::task::block_in_place(|| self.journal.write_down(&admitted));
        if let Err(error) = appended {
            let reason = crate::error::with_causes(&error);
            if error.is_of_the_disk() {
                self.disk_failed(&reason, bytes.len());
            }
            return Err(Refusal::new(RefusalCode::NotDurable, reason).into());
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
        self.goes_on(chain);
        self.look_back();
        self.with_world(|executor, world| executor.forget_what_left(world));
        self.stale = true;
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
            Refusal::new(RefusalCode::NotDurable, reason)
        })?;
        self.ledger = ledger;
        self.journal.hold_proofs(&mut self.ledger);
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
        self.try_disk_if_due();
        self.raise_marks();
        self.look_around_if_due();
        self.look_at_leases();
        self.stale = false;
        self.held_back = !self.may_act();
        if !self.held_back {
            self.plan_and_execute();
            self.keep_doors();
            self.tell_hosts();
        }
        // What is observed changes with a plan or asks for one: looked through once, not at each turn
        // of the loop. Counted from the plan, not from now: what fell due in between must not be missed.
        self.wake_at = wake_at(&self.observed, self.planned_at);
        self.told = None;
        // What has stopped is given back at once.
        self.holding.due = true;
        if !is_starting(&self.observed)
            && let Some(restored) = self.restored.take()
        {
            // Who waits for it may have lost its patience.
            let _ = restored.send(());
        }
        let changed_at = self.now();
        if let Some(network) = &mut self.network {
            network.changed(changed_at);
        }
        let now = Instant::now();
        self.pace.worked(now - began, now);
    }

    fn plan_and_execute(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.plans += 1;
            self.remember();
            self.planned_at = self.now();
            let desired = self.ledger.desired();
            let unopened = &mut self.observed.unopened;
            tokio::task::block_in_place(|| self.looked.look(desired, unopened));
            self.observed.unix_ms_at_zero = unix_ms().saturating_sub(self.planned_at.0);
            let plan = self.plan();
            self.look_at = plan.look_at;
            if !self.with_world(|executor, world| executor.execute(plan, world)) {
                return;
            }
        }
        tracing::error!("the plan does not settle; waiting for the next event");
    }

    fn plan(&self) -> Plan {
        let (desired, authority) = (self.ledger.desired(), self.ledger.authority());
        let around = &self.surroundings.around;
        let now = self.now();
        plan(desired, authority, &self.node, &self.observed, around, now)
    }

    fn with_world<T>(&mut self, act: impl FnOnce(&mut Executor, &mut World<'_>) -> T) -> T {
        let now = self.now();
        let mut world = World {
            desired: self.ledger.desired(),
            authority: self.ledger.authority(),
            placement: &self.surroundings.around.placement,
            node: &self.node,
            observed: &mut self.observed,
            now,
        };
        act(&mut self.executor, &mut world)
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn status(&self) -> StatusView {
        let mut status = self.own_status();
        self.add_others(&mut status);
        let own = status.nodes.iter_mut().find(|node| node.here);
        if let Some(own) = own {
            own.sealing = Some(self.sealing.clone());
        }
        status
    }

    /// What this node says of itself alone.
    fn own_status(&self) -> StatusView {
        self.status_of(&self.plan())
    }

    fn status_of(&self, plan: &Plan) -> StatusView {
        let here = Here {
            node: &self.node,
            agent_version: env!("CARGO_PKG_VERSION"),
            urls: &self.urls,
            restarts: self.executor.restarts(),
            refusals: &self.refusals,
        };
        let (desired, authority) = (self.ledger.desired(), self.ledger.authority());
        view(desired, authority, plan, &here)
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
            links: self
                .network
                .as_ref()
                .map_or(0, |network| network.links().len()),
            network: self
                .network
                .as_ref()
                .map(|network| network.net.figures())
                .unwrap_or_default(),
            sync: self
                .network
                .as_ref()
                .map(|network| network.sync.counts().clone())
                .unwrap_or_default(),
            lines: self
                .network
                .as_ref()
                .map(|network| network.tunnels.figures())
                .unwrap_or_default(),
            code: self.executor.code(),
            compilations: self.executor.compilations(),
        }
    }
}

/// Whether anything that is wanted is still on its way.
fn is_starting(observed: &Observed) -> bool {
    let artifact = |state: &ArtifactState| match state {
        ArtifactState::Fetching { .. }
        | ArtifactState::Fetched
        | ArtifactState::Compiling { .. } => true,
        ArtifactState::Ready | ArtifactState::Failed { .. } => false,
    };
    let replica = |state: &ReplicaState| match state {
        ReplicaState::Starting { .. } => true,
        ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Backoff { .. }
        | ReplicaState::Done { .. }
        | ReplicaState::Failed { .. } => false,
    };
    observed.artifacts.values().any(artifact) || observed.replicas.values().any(replica)
}

async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
