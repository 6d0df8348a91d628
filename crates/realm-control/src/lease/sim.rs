//! A few nodes that lease one singleton, in simulated time, from one seed: delays, loss, partitions
//! of both ways and of one, crashes that forget, nodes that are stopped for a minute, clocks that run
//! at different rates, views that differ, members that come and go. Whatever happens, no two nodes
//! hold it at one moment; when all is calm for long enough, one does.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use realm_model::name::ComponentName;
use realm_model::observed::Millis;
use realm_model::record::{KeyBytes, LeaseAsk, LeaseGrant};

use super::{Electorate, Input, LOCK_MS, Leases, Output, Planted, RENEW_MS, Said};
use crate::sync::Random;
use crate::testing::component_name;

/// Between two exchanges of a node with another one of what both have.
const EXCHANGE_MS: u64 = 5_000;

/// Disturbances come in this time.
pub(super) const STORM_MS: u64 = 180_000;

/// Then they end.
pub(super) const CALM_AT_MS: u64 = STORM_MS + 10_000;

/// After that somebody must hold it within this time: what is locked is over, and the next
/// asks have come.
pub(super) const CALM_MS: u64 = 2 * LOCK_MS + 3 * RENEW_MS;

/// What a node says, and its place among what it says.
pub(super) struct Record {
    version: (u64, u64),
    members: usize,
    asks: Vec<LeaseAsk>,
    grants: Vec<LeaseGrant>,
}

/// What one start of an agent has in its memory.
pub(super) struct Running {
    leases: Leases,
    counter: u64,
    records: BTreeMap<usize, Rc<Record>>,
    output: Output,
    /// Local time until when the replica here may serve.
    serves: Option<Millis>,
    /// When the replica here has stopped, in local time.
    drains_until: Option<Millis>,
}

pub(super) struct Node {
    pub(super) key: KeyBytes,
    /// Local time at 0, and thousandths of a percent that the clock is fast.
    pub(super) clock: (u64, i64),
    pub(super) epoch: u64,
    /// How many changes of the members it knows; on its disk.
    pub(super) members: usize,
    pub(super) running: Option<Running>,
    /// Until when it is stopped.
    pub(super) stopped_until: u64,
    /// Whether its view wants the singleton here.
    pub(super) wants: bool,
    /// What its view adds to the ranks of others.
    pub(super) rank_seed: u64,
    /// When it looks again, and when the next event for that is.
    pub(super) wake_at: u64,
    pub(super) queued_at: u64,
}

#[derive(Clone)]
pub(super) enum Event {
    Wake(usize),
    Exchange(usize),
    Arrive(usize, usize, Rc<Record>),
    Members(usize, usize),
    Change,
    Crash(usize, u64),
    Start(usize),
    Stop(usize, u64),
    Cut(Vec<(usize, usize)>),
    View(usize),
    Look(usize),
    Calm,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) nodes: Vec<Node>,
    /// The sets of members, oldest first, and when a majority had heard of the last one.
    pub(super) history: Vec<BTreeSet<usize>>,
    pub(super) heard_at: Option<u64>,
    pub(super) quick_changes: bool,
    /// Whether who says something tells of the members that it knows.
    pub(super) entries_with_records: bool,
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) loss_percent: u64,
    pub(super) delay_ms_max: u64,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    pub(super) count: u64,
    pub(super) component: ComponentName,
    pub(super) planted: Option<Planted>,
    pub(super) prints: bool,
    pub(super) wrong: Option<String>,
    /// When somebody began to hold it, for the times of a move.
    pub(super) held_at: Vec<(u64, usize)>,
}

impl World {
    pub(super) fn new(seed: u64, n: usize, planted: Option<Planted>) -> Self {
        let mut random = Random::new(seed);
        let nodes = (0..n).map(|index| Node {
            key: KeyBytes::new([u8::try_from(index).expect("few") + 1; 32]),
            clock: (random.below(1_000_000), random.below(1_001) as i64 - 500),
            epoch: 0,
            members: 0,
            running: None,
            stopped_until: 0,
            wants: false,
            rank_seed: 0,
            wake_at: u64::MAX,
            queued_at: u64::MAX,
        });
        let nodes = nodes.collect();
        let mut world = Self {
            now: 0,
            random,
            nodes,
            history: vec![(0..n).collect()],
            heard_at: Some(0),
            quick_changes: false,
            entries_with_records: true,
            cut: BTreeSet::new(),
            loss_percent: 0,
            delay_ms_max: 500,
            events: BTreeMap::new(),
            count: 0,
            component: component_name("till"),
            planted,
            prints: false,
            wrong: None,
            held_at: Vec::new(),
        };
        for node in 0..n {
            let at = world.random.below(2_000);
            world.at(at, Event::Start(node));
        }
        world
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.insert((at.max(self.now), self.count), event);
    }

    pub(super) fn run(&mut self, until: u64) {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > until || self.wrong.is_some() {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = self.now.max(until);
    }

    /// The view of a node wants it there from this moment on.
    pub(super) fn want(&mut self, node: usize) {
        self.nodes[node].wants = true;
        self.at(self.now, Event::Look(node));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(node) | Event::Exchange(node) | Event::Arrive(node, _, _)
                if self.nodes[node].stopped_until > self.now =>
            {
                // It happens when it goes on, after what the timer of its replica does.
                self.at(self.nodes[node].stopped_until + 1, event);
            }
            Event::Wake(node) => {
                self.nodes[node].queued_at = u64::MAX;
                if self.nodes[node].wake_at <= self.now {
                    self.nodes[node].wake_at = u64::MAX;
                    self.look(node);
                }
                self.wake(node, u64::MAX);
            }
            Event::Exchange(node) => self.exchange(node),
            Event::Arrive(node, from, record) => self.take(node, from, record),
            Event::Members(node, members) => self.hear(node, members),
            Event::Change => self.change(),
            Event::Crash(node, down_ms) => {
                self.note(|| format!("{node} crashes for {down_ms}"));
                self.nodes[node].running = None;
                self.nodes[node].stopped_until = 0;
                self.at(self.now + down_ms, Event::Start(node));
            }
            Event::Start(node) => self.start(node),
            Event::Stop(node, for_ms) => {
                self.note(|| format!("{node} is stopped for {for_ms}"));
                let until = self.now + for_ms;
                self.nodes[node].stopped_until = until;
                // The first thing after it: deadlines.
                self.nodes[node].wake_at = until;
                self.nodes[node].queued_at = until;
                self.at(until, Event::Wake(node));
            }
            Event::Cut(pairs) => {
                self.note(|| format!("cut: {pairs:?}"));
                self.cut = pairs.into_iter().collect();
            }
            Event::View(node) => {
                self.nodes[node].wants = self.random.below(2) == 0;
                self.nodes[node].rank_seed = self.random.below(3);
                let wants = self.nodes[node].wants;
                self.note(|| format!("{node} wants it: {wants}"));
                self.look(node);
            }
            Event::Look(node) => self.look(node),
            Event::Calm => self.calm(),
        }
    }

    /// Sees to it that a node looks at a time, or earlier if it wants to.
    fn wake(&mut self, index: usize, at: u64) {
        let node = &mut self.nodes[index];
        node.wake_at = node.wake_at.min(at);
        if node.wake_at < node.queued_at {
            node.queued_at = node.wake_at;
            self.at(self.nodes[index].wake_at, Event::Wake(index));
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>8} {}", self.now, what());
        }
    }

    fn local(&self, node: usize) -> Millis {
        let (origin, fast) = self.nodes[node].clock;
        let gained = self.now as i64 * fast / 100_000;
        Millis(origin + self.now.saturating_add_signed(gained))
    }

    /// The first moment at which the clock of a node shows this.
    fn global(&self, node: usize, at: Millis) -> u64 {
        let (origin, fast) = self.nodes[node].clock;
        let passed = at.0.saturating_sub(origin);
        let estimate = passed * 100_000 / (100_000 + fast) as u64;
        (estimate + 2).max(self.now)
    }

    fn start(&mut self, index: usize) {
        let now = self.local(index);
        let boot = self.random.next();
        let node = &mut self.nodes[index];
        if node.running.is_some() {
            return;
        }
        node.epoch += 1;
        let mut leases = Leases::new(now, node.epoch, boot);
        leases.planted = self.planted;
        node.running = Some(Running {
            leases,
            counter: 0,
            records: BTreeMap::new(),
            output: Output::default(),
            serves: None,
            drains_until: None,
        });
        self.note(|| format!("{index} starts"));
        let at = self.now + self.random.below(EXCHANGE_MS);
        self.at(at, Event::Exchange(index));
        self.look(index);
    }

    /// The deadline of the replica first, then the leases, then what comes of them.
    fn look(&mut self, index: usize) {
        let now = self.local(index);
        if self.nodes[index].stopped_until > self.now {
            return;
        }
        let drain_ms = self.random.below(4_000);
        let Self {
            nodes,
            history,
            component,
            ..
        } = self;
        let keys: Vec<KeyBytes> = nodes.iter().map(|node| node.key).collect();
        let node = &mut nodes[index];
        let Some(running) = &mut node.running else {
            return;
        };
        if running.serves.is_some_and(|until| until <= now) {
            running.serves = None;
            running.drains_until = None;
        }
        if running.drains_until.is_some_and(|until| until <= now) {
            running.serves = None;
            running.drains_until = None;
        }
        let members = &history[node.members];
        let electorate = Electorate {
            nodes: members.iter().map(|member| keys[*member]).collect(),
            changes: node.members as u64 + 100,
        };
        let one = BTreeSet::from([component.clone()]);
        let none = BTreeSet::new();
        let said = running.records.iter().map(|(from, record)| {
            let said = Said {
                asks: &record.asks,
                grants: &record.grants,
            };
            (keys[*from], said)
        });
        let said = said.collect();
        let rank_seed = node.rank_seed;
        let input = Input {
            own: node.key,
            electorate: &electorate,
            wanted: if node.wants { &one } else { &none },
            running: if running.serves.is_some() {
                &one
            } else {
                &none
            },
            said: &said,
            rank: &|_, key| Some(u32::from(key.as_bytes()[0]) * 7 % (10 + rank_seed as u32)),
        };
        let output = running.leases.look(&input, now);
        let holds = output.holds.get(component).copied();
        let news = output.asks != running.output.asks || output.grants != running.output.grants;
        let held = !running.output.holds.is_empty();
        running.serves = match (holds, running.serves) {
            (Some(until), Some(_)) => Some(until),
            (Some(until), None) if node.wants => Some(until),
            (Some(_) | None, _) => None,
        };
        if node.wants {
            running.drains_until = None;
        } else if running.serves.is_some() {
            let drained = now.plus(drain_ms);
            running.drains_until.get_or_insert(drained);
        }
        let times = [output.wake_at, running.serves, running.drains_until];
        let wake_at = times.into_iter().flatten().min();
        running.output = output;
        let wake_at = wake_at.map_or(u64::MAX, |at| self.global(index, at));
        self.nodes[index].wake_at = wake_at;
        self.wake(index, u64::MAX);
        if !held && holds.is_some() {
            self.note(|| format!("{index} holds it until {holds:?}, it is {now:?}"));
            self.held_at.push((self.now, index));
        }
        self.check();
        if news {
            self.publish(index);
        }
    }

    /// Who holds it at this moment, apart from who is stopped.
    pub(super) fn holders(&self) -> Vec<usize> {
        let holds = |node: &usize| {
            let at = &self.nodes[*node];
            let running = at.running.as_ref();
            let until = running.and_then(|running| running.output.holds.get(&self.component));
            at.stopped_until <= self.now && until.is_some_and(|until| *until > self.local(*node))
        };
        (0..self.nodes.len()).filter(holds).collect()
    }

    fn check(&mut self) {
        let holders = self.holders();
        if holders.len() > 1 {
            self.wrong = Some(format!("at {} ms {holders:?} hold it", self.now));
        }
        let idle = |node: &Node| {
            let running = node.running.as_ref();
            running.is_some_and(|one| one.serves.is_some() && one.output.holds.is_empty())
        };
        if self.nodes.iter().any(idle) {
            self.wrong = Some(format!("at {} ms it serves without a lease", self.now));
        }
    }

    fn publish(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let running = node.running.as_mut().expect("it looked");
        running.counter += 1;
        let record = Rc::new(Record {
            version: (node.epoch, running.counter),
            members: node.members,
            asks: running.output.asks.clone(),
            grants: running.output.grants.clone(),
        });
        running.records.insert(index, Rc::clone(&record));
        self.note(|| {
            let (asks, grants) = (&record.asks, &record.grants);
            let asks: Vec<_> = asks.iter().map(|a| (a.nonce.counter, a.state)).collect();
            let grants = grants.iter();
            let grants: Vec<_> = grants
                .map(|g| (g.holder.as_bytes()[0] - 1, g.nonce.counter))
                .collect();
            format!("{index} says {asks:?} {grants:?}")
        });
        for to in 0..self.nodes.len() {
            self.send(index, to, index, Rc::clone(&record));
        }
    }

    fn send(&mut self, by: usize, to: usize, from: usize, record: Rc<Record>) {
        let lost = self.random.below(100) < self.loss_percent;
        if by == to || from == to || lost || self.cut.contains(&(by, to)) {
            return;
        }
        let late = match self.random.below(20) {
            0 => 10 * self.delay_ms_max,
            _ => self.delay_ms_max,
        };
        let at = self.now + 1 + self.random.below(late);
        self.at(at, Event::Arrive(to, from, record));
    }

    fn exchange(&mut self, index: usize) {
        let n = self.nodes.len() as u64;
        let Some(running) = &self.nodes[index].running else {
            return;
        };
        let to = self.random.below(n) as usize;
        let known = self.nodes[to].running.as_ref();
        let news = |from: usize, record: &Record| {
            let held = known.and_then(|known| known.records.get(&from));
            held.is_none_or(|held| held.version < record.version)
        };
        let records = running.records.iter();
        let records = records.filter(|(from, record)| news(**from, record));
        let records: Vec<_> = records.map(|(from, r)| (*from, Rc::clone(r))).collect();
        for (from, record) in records {
            self.send(index, to, from, record);
        }
        let at = self.now + self.random.jitter(EXCHANGE_MS, 20);
        self.at(at, Event::Exchange(index));
    }

    fn take(&mut self, index: usize, from: usize, record: Rc<Record>) {
        let node = &mut self.nodes[index];
        let Some(running) = &mut node.running else {
            return;
        };
        let held = running.records.get(&from);
        if held.is_some_and(|held| held.version >= record.version) {
            return;
        }
        let members = record.members;
        running.records.insert(from, record);
        // Entries come before what follows from them.
        if self.entries_with_records && members > node.members {
            self.hear(index, members);
        }
        // What comes in a crowd is looked at once.
        let at = self.now + self.random.below(300);
        self.wake(index, at);
    }

    fn hear(&mut self, index: usize, members: usize) {
        let node = &mut self.nodes[index];
        // What is stopped or down hears nothing.
        if node.members >= members || node.running.is_none() || node.stopped_until > self.now {
            return;
        }
        node.members = members;
        self.note(|| {
            format!(
                "{index} knows members {members}: {:?}",
                self.history[members]
            )
        });
        let last = self.history.len() - 1;
        if self.heard_at.is_none() && last > 0 {
            let before = &self.history[last - 1];
            let heard = before
                .iter()
                .filter(|one| self.nodes[**one].members == last);
            if heard.count() > before.len() / 2 {
                self.heard_at = Some(self.now);
            }
        }
        self.look(index);
    }

    /// The owners approve or revoke a node when a majority has heard of the last one; a lease later
    /// where there are partitions.
    fn change(&mut self) {
        let wait_ms = if self.quick_changes { 0 } else { LOCK_MS };
        let heard = self.heard_at.is_some_and(|at| at + wait_ms <= self.now);
        if self.now >= CALM_AT_MS || !heard {
            return;
        }
        let mut set = self.history.last().expect("the first").clone();
        let node = self.random.below(self.nodes.len() as u64) as usize;
        if !set.remove(&node) {
            set.insert(node);
        } else if set.is_empty() {
            return;
        }
        self.history.push(set);
        self.heard_at = None;
        let members = self.history.len() - 1;
        for node in 0..self.nodes.len() {
            if self.quick_changes || self.random.below(3) == 0 {
                let at = self.now + self.random.below(300);
                self.at(at, Event::Members(node, members));
            }
        }
    }

    /// Every disturbance ends, and all see the realm alike.
    fn calm(&mut self) {
        self.note(|| "calm".to_owned());
        self.cut.clear();
        self.loss_percent = 0;
        let members = self.history.len() - 1;
        let set = &self.history[members];
        let first = *set.first().expect("not empty");
        // Every other time two want it for ever.
        let second = set.iter().nth(self.random.below(4) as usize);
        let second = second.copied().filter(|_| self.random.below(2) == 0);
        for node in 0..self.nodes.len() {
            self.nodes[node].stopped_until = self.nodes[node].stopped_until.min(self.now);
            self.nodes[node].wants = node == first || Some(node) == second;
            self.nodes[node].rank_seed = 0;
            self.start(node);
            self.hear(node, members);
            self.look(node);
        }
    }
}
