//! Several simulated nodes that place and replace the replicas of one component: entries and records
//! reach them late, in any order or not at all; nodes die, come back and are cut off from each other.
//!
//! What runs is the real thing: `place`, `losses`, `around`, `plan`. Checked at every step: how many replicas are
//! missing or doubled by anybody's decision; in the end: what is wanted runs where it shall, and
//! nothing goes on happening. Where nothing fails by itself, never fewer serve than the manifest allows,
//! whoever is drained. Not here: how entries and records travel (`sim_net`).

mod apart;
mod check;
mod leases;
mod lists;
mod moves;
mod node;
mod pauses;
mod planted;
mod seeds;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::action::Action;
use realm_model::entry::{Body, SetNode};
use realm_model::name::NodeName;
use realm_model::observed::Millis;
use realm_model::record::NodeBody;

use crate::around::Around;
use crate::losses::Losses;
use crate::place::place;
use crate::plan::plan;
use crate::sync::Random;
use crate::testing::{Realm, node_key, node_name};
use apart::Apart;
use lists::Lists;
use node::Node;
use planted::Planted;
use views::Start;

/// A node says what it says again after this long, whether it is news or not.
const TICK_MS: u64 = 3_000;
/// Who was not heard for this long is not reached.
const UNHEARD_MS: u64 = 8_000;
/// How long is waited for a node, by default.
const LOST_AFTER_MS: u64 = 30_000;
/// Plans in a row at one moment.
const ROUNDS_MAX: usize = 16;

/// What a run is like.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) nodes: usize,
    pub(crate) delay_ms_max: u64,
    pub(crate) loss_percent: u64,
    pub(crate) lists: Lists,
    /// Replicas in addition, and missing, that the manifest allows; of so many in each list.
    pub(crate) surge: u32,
    pub(crate) unavailable: u32,
    pub(crate) replicas: u32,
    /// Starts that fail, in percent.
    pub(crate) start_fails: u64,
    /// Whether a rollout that fails is undone, after two minutes.
    pub(crate) reverts: bool,
    /// Whether nothing fails by itself.
    pub(crate) calm: bool,
    pub(crate) planted: Option<Planted>,
    /// Whether it is a singleton, of which there is never more than one; then one replica is wanted.
    pub(crate) singleton: bool,
}

enum Event {
    Entry {
        to: usize,
        version: usize,
    },
    /// What the others have that one hears.
    Round {
        to: usize,
        version: usize,
    },
    Record {
        to: usize,
        from: usize,
        counter: u64,
        body: Arc<NodeBody>,
    },
    Wake {
        node: usize,
    },
    Tick {
        node: usize,
    },
}

/// All nodes, and what is on its way between them.
pub(crate) struct Sim {
    pub(crate) kind: Kind,
    pub(crate) now: u64,
    /// What was signed, one after the other.
    states: Vec<Arc<Realm>>,
    nodes: Vec<Node>,
    events: BTreeMap<(u64, u64), Event>,
    sent: u64,
    random: Random,
    /// Pairs that cannot talk, by (from, to).
    cut: BTreeSet<(usize, usize)>,
    /// When the last disturbance was over.
    disturbed_ms: u64,
    /// Places that somebody took down to replace what is there, by node and slot, and those where both
    /// run; whether all together may be no more than the manifest allows. What two sides of a cut decided
    /// counts on each side.
    taken_down: BTreeMap<(usize, u32), bool>,
    doubled: BTreeMap<(usize, u32), bool>,
    apart: Apart,
    /// Replicas of each node that serve in places which it does not have.
    stand_ins: Vec<usize>,
    /// Places of each node when it was looked at last.
    shares: Vec<u32>,
    /// Replicas that each node shall have by what was signed last.
    wanted: Vec<usize>,
    /// Whether all nodes were drained at once.
    pub(crate) was_empty: bool,
    /// Nodes of which so many serve as shall, from when they did.
    steady: Vec<bool>,
    pub(crate) last_start_ms: u64,
    pub(crate) violations: Vec<String>,
    /// Whether each step is told.
    pub(crate) prints: bool,
}

impl Sim {
    pub(crate) fn new(kind: Kind, seed: u64) -> Self {
        let mut realm = Realm::found();
        let names: Vec<String> = (0..kind.nodes).map(|n| format!("n{n}")).collect();
        for name in &names {
            let approval = crate::testing::approval(name, &[]);
            realm.submit(approval).expect("an approval");
        }
        let mut sim = Self {
            nodes: names
                .iter()
                .zip(0..)
                .map(|(name, n)| Node::new(node_name(name), seed ^ n, &kind))
                .collect(),
            kind,
            now: 1_000,
            states: vec![Arc::new(realm)],
            events: BTreeMap::new(),
            sent: 0,
            random: Random::new(seed),
            cut: BTreeSet::new(),
            disturbed_ms: 0,
            taken_down: BTreeMap::new(),
            doubled: BTreeMap::new(),
            apart: Apart::default(),
            stand_ins: vec![0; names.len()],
            shares: vec![0; names.len()],
            wanted: vec![0; names.len()],
            was_empty: false,
            steady: vec![false; names.len()],
            last_start_ms: 0,
            violations: Vec::new(),
            prints: false,
        };
        for node in 0..sim.nodes.len() {
            sim.later(100, Event::Tick { node });
        }
        sim
    }

    /// The owner signs another build of the component.
    pub(crate) fn apply(&mut self, build: &str) {
        self.tell(&format!("{build} is signed"));
        let text = self.kind.lists.text(&self.kind);
        self.sign(|realm| realm.apply(&text, &[("app", build)]));
    }

    /// The owner drains a node, cordons it, or neither.
    pub(crate) fn set(&mut self, node: usize, cordoned: bool, drained: bool) {
        self.tell(&format!(
            "n{node} is cordoned: {cordoned}, drained: {drained}"
        ));
        let body = Body::SetNode(SetNode {
            key: node_key(&format!("n{node}")),
            cordoned,
            drained,
        });
        if !drained && self.kind.lists != Lists::Together && !self.open(node) {
            // What is pinned to it comes back in the middle of the turns of others.
            self.disturbed_ms = self.now;
        }
        // What is so already is no entry.
        self.sign(|realm| drop(realm.submit(body)));
    }

    /// Something is signed; every node hears of it sooner or later.
    fn sign(&mut self, change: impl FnOnce(&mut Realm)) {
        let mut realm = Realm::clone(self.states.last().expect("the first one"));
        change(&mut realm);
        self.states.push(Arc::new(realm));
        let version = self.states.len() - 1;
        for to in 0..self.nodes.len() {
            let delay = 1 + self.random.below(self.kind.delay_ms_max);
            self.later(delay, Event::Entry { to, version });
        }
        self.want();
    }

    fn tell(&self, what: &str) {
        if self.prints {
            eprintln!("{} {what}", self.now);
        }
    }

    /// Builds of which no replica gets healthy.
    pub(crate) fn breaks(&mut self, build: &str) {
        for node in &mut self.nodes {
            node.world
                .faults
                .broken
                .insert(crate::testing::pin(build).digest);
        }
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.tell(&format!("n{node} dies"));
        let served = self.serving_slots(node).len();
        self.apart.loses(node, served, self.now);
        let dead = &mut self.nodes[node];
        dead.is_up = false;
        dead.world.crash();
        self.taken_down.retain(|(of, _), _| *of != node);
        self.doubled.retain(|(of, _), _| *of != node);
    }

    /// A node stands still, with all that it runs: nobody hears it, and it hears nobody.
    pub(crate) fn pause(&mut self, node: usize) {
        self.tell(&format!("n{node} stands still"));
        let served = self.serving_slots(node).len();
        self.apart.loses(node, served, self.now);
        self.nodes[node].is_up = false;
    }

    /// It goes on as if nothing had been.
    pub(crate) fn resume(&mut self, node: usize) {
        self.tell(&format!("n{node} goes on"));
        self.disturbed_ms = self.now;
        self.apart.comes_back(self.kind.nodes, node, self.now);
        self.nodes[node].is_up = true;
        self.wake(node);
    }

    /// How many states were signed, the empty one among them.
    pub(crate) fn signed(&self) -> usize {
        self.states.len()
    }

    /// The next time a node comes back it has an older state, or none.
    pub(crate) fn lose_entries(&mut self, to: usize, version: usize) {
        let node = &mut self.nodes[to];
        node.version = node.version.min(version);
        // One after the other comes again, each after a while.
        for version in 1..self.states.len() {
            let delay = 1 + self.random.below(2 * TICK_MS);
            self.later(delay, Event::Entry { to, version });
        }
    }

    /// It comes back, with what is signed and without a memory of the others.
    pub(crate) fn revive(&mut self, node: usize) {
        self.tell(&format!("n{node} comes back"));
        self.disturbed_ms = self.now;
        let back = &mut self.nodes[node];
        if back.is_up {
            return;
        }
        self.apart.comes_back(self.kind.nodes, node, self.now);
        back.is_up = true;
        back.losses = Losses::default();
        back.around = Around::default();
        back.placed_by = None;
        back.records.clear();
        back.heard = (0..self.kind.nodes).map(|of| (of, self.now)).collect();
        back.said = None;
        back.leases.start(self.now);
        back.world.pass_to(Millis(self.now));
        back.start = Start::new(back.version, self.now);
        self.forget_moves(node);
        self.wake(node);
    }

    /// Lets those below `below` and the others not hear each other, or only the ones the others.
    pub(crate) fn cut(&mut self, below: usize, one_way: bool) {
        self.tell(&format!("cut at n{below}, one way: {one_way}"));
        self.apart.cut(self.nodes.len(), below);
        for node in 0..self.nodes.len() {
            let served = self.serving_slots(node).len();
            self.apart.loses(node, served, self.now);
        }
        for one in 0..below {
            for other in below..self.nodes.len() {
                self.cut.insert((one, other));
                if !one_way {
                    self.cut.insert((other, one));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.tell("all hear each other");
        self.cut.clear();
        self.apart.heal(self.now);
        self.disturbed_ms = self.now;
    }

    /// A replica of a node fails.
    pub(crate) fn fail_one(&mut self, node: usize) {
        self.tell(&format!("a replica of n{node} fails"));
        if self.nodes[node].is_up {
            let served = self.serving_slots(node).len();
            self.nodes[node].world.fail_one(0);
            let left = self.serving_slots(node).len();
            self.apart.loses(node, served - left, self.now);
            self.wake(node);
        }
    }

    /// Whether anything that is not a decision takes replicas away, or did of late.
    fn is_disturbed(&self) -> bool {
        !self.cut.is_empty()
            || self.nodes.iter().any(|node| !node.is_up)
            || self.now < self.disturbed_ms + 90_000
    }

    /// Lets time pass until `until_ms`.
    pub(crate) fn run(&mut self, until_ms: u64) {
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= until_ms
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
            if !self.violations.is_empty() {
                return;
            }
        }
        self.now = until_ms;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Round { to, version } => {
                if self.nodes[to].is_up {
                    self.nodes[to].start.rounds += 1;
                    self.happen(Event::Entry { to, version });
                }
            }
            Event::Entry { to, version } => {
                if !self.nodes[to].is_up {
                    // Whoever has it says so again.
                    return self.later(TICK_MS, Event::Entry { to, version });
                }
                let node = &mut self.nodes[to];
                if node.version < version {
                    // Entries come in their order, however many at once.
                    for state in &self.states[node.version + 1..=version] {
                        node.world.learn(state.ledger.desired());
                    }
                    node.version = version;
                    self.act(to);
                }
            }
            Event::Record {
                to,
                from,
                counter,
                body,
            } => {
                if !self.nodes[to].is_up || self.cut.contains(&(from, to)) {
                    return;
                }
                let known = self.nodes[to].records.get(&from);
                if known.is_some_and(|(known, _)| *known >= counter) {
                    return;
                }
                let is_news = known.is_none_or(|(_, known)| *known != body);
                self.nodes[to].records.insert(from, (counter, body));
                if is_news {
                    self.act(to);
                }
            }
            Event::Wake { node } => {
                self.nodes[node].wakes.remove(&self.now);
                if self.nodes[node].is_up {
                    self.act(node);
                }
            }
            Event::Tick { node } => {
                self.later(TICK_MS, Event::Tick { node });
                if !self.nodes[node].is_up {
                    return;
                }
                // Connections do not lose their signs of life, however many records are lost.
                for to in 0..self.nodes.len() {
                    if self.nodes[to].is_up && !self.cut.contains(&(node, to)) {
                        self.nodes[to].heard.insert(node, self.now);
                    }
                }
                // What one has in force the others ask for, whoever they hear.
                let newest = (0..self.nodes.len())
                    .filter(|of| self.nodes[*of].is_up && !self.cut.contains(&(*of, node)))
                    .map(|of| self.nodes[of].version)
                    .max();
                let version = newest.unwrap_or_default();
                let meets_one = (0..self.nodes.len()).any(|of| {
                    of != node && self.nodes[of].is_up && !self.cut.contains(&(of, node))
                });
                self.later(
                    1,
                    match meets_one {
                        true => Event::Round { to: node, version },
                        false => Event::Entry { to: node, version },
                    },
                );
                self.act(node);
                // It says so anew, though it is no news.
                self.nodes[node].counter += 1;
                self.publish(node);
            }
        }
    }

    /// Plans and executes until there is nothing left to do at this moment.
    fn act(&mut self, index: usize) {
        let now = Millis(self.now);
        let before = self.serving_slots(index);
        let node = &mut self.nodes[index];
        node.world.pass_to(now);
        let realm = Arc::clone(&self.states[node.version]);
        let first = Arc::clone(&self.states[0]);
        let lost: BTreeSet<NodeName> = (0..self.kind.nodes)
            .filter(|other| *other != index)
            .filter(|other| {
                let heard = node.heard.get(other).copied().unwrap_or_default();
                heard + UNHEARD_MS < now.0
            })
            .map(|other| node_name(&format!("n{other}")))
            .collect();
        let (desired, mut authority) = (realm.ledger.desired(), realm.ledger.authority());
        let planted = self.kind.planted;
        if planted == Some(Planted::Deaf) {
            authority = first.ledger.authority();
        }
        let least_ms = node.around.placement.lost_after_ms_least();
        node.losses.look(
            &lost,
            authority.nodes.len(),
            least_ms.unwrap_or(u64::MAX),
            now,
        );
        // As an agent does: what is signed and who is gone decide.
        let is_gone = |name: &NodeName, wait_ms: u64| {
            *name != node.name && node.losses.is_gone(name, wait_ms, now)
        };
        let of = authority.nodes.keys();
        let gone: Vec<NodeName> = of
            .filter(|name| is_gone(name, LOST_AFTER_MS))
            .cloned()
            .collect();
        let placed_by = Some((node.version, gone));
        let placement = match node.placed_by == placed_by {
            true => Arc::clone(&node.around.placement),
            false => place(desired, authority, &is_gone).into(),
        };
        node.placed_by = placed_by;
        let names: Vec<NodeName> = authority.nodes.keys().cloned().collect();
        let taken = |body: &Arc<NodeBody>| match planted {
            Some(planted) => Arc::new(planted.hears(body, &realm)),
            None => Arc::clone(body),
        };
        let records = node.records.iter();
        let bodies: Vec<(&NodeName, Arc<NodeBody>)> = records
            .filter_map(|(of, (_, body))| Some((names.get(*of)?, taken(body))))
            .collect();
        let told = node.records.iter();
        let told = told.filter_map(|(of, (counter, _))| Some((names.get(*of)?, (0, *counter))));
        node.around = Around::of(
            placement,
            authority.head.seq,
            bodies.iter().map(|(name, body)| (*name, &**body)),
            &node.name,
            &lost,
            &node.world.observed,
        )
        .told(told, &lost)
        .after(&node.around);
        node.look_at_leases(&realm, now);
        let others = authority.nodes.len() - 1;
        let may_act = node.may_act(others, desired.generation(), now.0);
        self.check_view(index);
        let mut rounds = 0;
        let last = loop {
            let node = &mut self.nodes[index];
            let observed = &node.world.observed;
            node.around.remember(desired, &node.name, observed, now);
            let plan = plan(
                desired,
                authority,
                &node.name,
                &node.world.observed,
                &node.around,
                now,
            );
            rounds += 1;
            if plan.actions.is_empty() || !may_act || rounds > ROUNDS_MAX {
                break plan;
            }
            self.check_knows(index, &plan);
            self.check_starts(index, &plan);
            if plan
                .actions
                .iter()
                .any(|one| matches!(one, Action::Start(_)))
            {
                self.last_start_ms = now.0;
            }
            let node = &mut self.nodes[index];
            if self.prints {
                let gates = plan.reports.iter().flat_map(|one| &one.waiting_on);
                let gates: Vec<&str> = gates.map(|one| one.message.as_str()).collect();
                eprintln!("{} {} {:?} {gates:?}", now.0, node.name, plan.actions);
            }
            node.world.execute(&plan);
        };
        let node = &mut self.nodes[index];
        if rounds > ROUNDS_MAX {
            self.violations
                .push(format!("{} does not settle: {last:?}", node.name));
        }
        self.violations.append(&mut node.world.violations);
        // What has stopped is given back at once.
        let leases_at = node.look_at_leases(&realm, now);
        let body = node.body(&realm, &last);
        let is_news = node.said.as_ref() != Some(&body);
        if is_news {
            node.said = Some(body);
            node.counter += 1;
        }
        let next = self.nodes[index].world.next();
        let deadline = self.nodes[index].around.wake_at(now);
        let next = next.into_iter().chain(leases_at);
        if let Some(at) = next.chain(deadline).min() {
            let wait = at.0.saturating_sub(now.0).max(1);
            if self.nodes[index].wakes.insert(now.0 + wait) {
                self.later(wait, Event::Wake { node: index });
            }
        }
        if is_news {
            self.publish(index);
        }
        self.check(index, &before);
        self.check_singleton();
    }

    fn publish(&mut self, from: usize) {
        let node = &self.nodes[from];
        let Some(said) = &node.said else { return };
        let (counter, body) = (node.counter, Arc::new(said.clone()));
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            if self.random.below(100) < self.kind.loss_percent {
                continue;
            }
            let delay = 1 + self.random.below(self.kind.delay_ms_max);
            let body = Arc::clone(&body);
            self.later(
                delay,
                Event::Record {
                    to,
                    from,
                    counter,
                    body,
                },
            );
        }
    }

    fn wake(&mut self, node: usize) {
        self.later(1, Event::Wake { node });
    }

    fn later(&mut self, delay_ms: u64, event: Event) {
        self.sent += 1;
        self.events.insert((self.now + delay_ms, self.sent), event);
    }
}
