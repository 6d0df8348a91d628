//! The network, the time, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use realm_model::entry::ChainId;
use realm_model::key::PublicKey;

use super::{SimNode, Template};
use crate::sync::{Input, Judgement, Output, Planted, Random, Verdict};
use crate::testing::Realm;

/// What kind of world.
#[derive(Clone, Copy)]
pub(crate) struct Worldly {
    pub(crate) n: usize,
    /// Neighbours of each; `n` or more: all are connected.
    pub(crate) degree: usize,
    pub(crate) delay_ms_max: u64,
    pub(crate) loss_percent: u64,
    pub(crate) twice_percent: u64,
    pub(crate) byzantine: usize,
    /// Nodes that sign records.
    pub(crate) talkers: usize,
    /// How many just joined, and have nothing but the authority chain as it was then.
    pub(crate) late: usize,
}

/// Something that happens to the world.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The owner signs a restart, and submits it at a node that is up to date.
    Apply,
    /// A node dies and comes back.
    Crash { node: usize, down_ms: u64 },
    /// A node dies while it writes its next entry.
    Torn { node: usize },
    /// Nodes below `below` and the others do not reach each other; one way: the others are not heard.
    Cut {
        below: usize,
        one_way: bool,
        for_ms: u64,
    },
    /// The owner signs two entries for one place, one for each of two nodes.
    Equivocate {
        one: usize,
        other: usize,
        authority: bool,
    },
    /// The beacon's key signs what the owner has, at some node.
    Beacon,
    /// The owners end a fork.
    Resolve,
    /// Links lose nothing any longer.
    Calm,
}

pub(super) enum Event {
    Hint {
        to: usize,
        from: usize,
        number: u64,
        bytes: Arc<[u8]>,
    },
    Request {
        to: usize,
        from: usize,
        ask: u64,
        bytes: Vec<u8>,
    },
    Answer {
        to: usize,
        from: usize,
        ask: u64,
        bytes: Vec<u8>,
    },
    Failed {
        to: usize,
        ask: u64,
    },
    Wake(usize),
    Down(usize, usize),
    Up(usize, usize),
    Start(usize),
    Heal,
    Step(Step),
}

pub(crate) struct World {
    pub(crate) kind: Worldly,
    pub(crate) random: Random,
    pub(crate) now_ms: u64,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) realm: Realm,
    index: BTreeMap<PublicKey, usize>,
    pub(super) neighbours: Vec<Vec<usize>>,
    queue: BTreeMap<(u64, u64), Event>,
    number: u64,
    pub(super) requests: BTreeMap<u64, (usize, u64)>,
    pub(super) cut: Option<(usize, bool)>,
    /// What those who lie have heard.
    pub(super) pool: VecDeque<Arc<[u8]>>,
    /// Beacons that were signed.
    pub(super) beacons: u64,
    pub(crate) n_events: u64,
    pub(crate) prints: bool,
}

impl World {
    pub(crate) fn new(
        kind: Worldly,
        seed: u64,
        template: &Template,
        planted: Option<Planted>,
    ) -> Self {
        let mut random = Random::new(seed);
        let realm = template.realm.clone();
        // Joining brings the authority chain as it was then: all nodes but the last one.
        let all = Arc::new(realm.records());
        let joined = all[&ChainId::Authority][..kind.n].to_vec();
        let early = Arc::new([(ChainId::Authority, joined)].into());
        let node = |i: usize, random: &mut Random| SimNode {
            key: template.keys[i].clone(),
            name: format!("node-{i}").parse().expect("a name"),
            disk: super::node::Disk {
                begun: Arc::clone(if i < kind.late { &early } else { &all }),
                ..Default::default()
            },
            folded: (i >= kind.late).then(|| realm.ledger.clone()),
            running: None,
            // Up to two days, in steps that no message takes.
            skew_ms: random.below(2 * 86_400_000),
            links: BTreeSet::new(),
            seen: BTreeSet::new(),
            talks: i < kind.talkers,
            byzantine: i >= kind.n - kind.byzantine,
            torn: false,
            planted,
            faults: Vec::new(),
        };
        let nodes: Vec<SimNode> = (0..kind.n).map(|i| node(i, &mut random)).collect();
        let neighbours = neighbours(kind, &mut random);
        let mut world = Self {
            kind,
            random,
            now_ms: 1_000,
            index: nodes
                .iter()
                .enumerate()
                .map(|(i, n)| (n.key.public(), i))
                .collect(),
            nodes,
            realm,
            neighbours,
            queue: BTreeMap::new(),
            number: 0,
            requests: BTreeMap::new(),
            cut: None,
            pool: VecDeque::new(),
            beacons: 0,
            n_events: 0,
            prints: false,
        };
        for i in 0..kind.n {
            let at_ms = world.now_ms + world.random.below(500);
            world.at(at_ms, Event::Start(i));
        }
        world
    }

    /// Lets something happen later.
    pub(crate) fn step_at(&mut self, at_ms: u64, step: Step) {
        self.at(at_ms, Event::Step(step));
    }

    /// Runs until `until_ms`.
    pub(crate) fn run(&mut self, until_ms: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until_ms {
                break;
            }
            let ((at_ms, _), event) = entry.remove_entry();
            self.now_ms = at_ms;
            self.n_events += 1;
            self.happen(event);
        }
        self.now_ms = until_ms;
    }

    /// Nodes that run and obey the rules.
    pub(crate) fn honest(&self) -> impl Iterator<Item = &SimNode> {
        self.nodes
            .iter()
            .filter(|node| !node.byzantine && node.running.is_some())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Hint {
                to,
                from,
                number,
                bytes,
            } => self.hint(to, from, number, bytes),
            Event::Request {
                to,
                from,
                ask,
                bytes,
            } => {
                self.print(|| format!("{from} asks {to}: {}", shown(&bytes)));
                if self.nodes[to].byzantine {
                    return self.lie_to(to, from, ask);
                }
                self.number += 1;
                let id = self.number;
                self.requests.insert(id, (from, ask));
                let from = self.key(from);
                self.feed(to, Input::Request { from, id, bytes });
            }
            Event::Answer {
                to,
                from,
                ask,
                bytes,
            } => {
                self.print(|| format!("{from} answers {to}: {}", shown(&bytes)));
                self.feed(to, Input::Answer { id: ask, bytes });
            }
            Event::Failed { to, ask } => self.feed(to, Input::Failed { id: ask }),
            Event::Wake(node) => self.wake(node),
            Event::Down(a, b) => {
                let gone = self.blocked(a, b) || self.blocked(b, a) || !self.runs(b);
                if gone && self.nodes[a].links.remove(&b) {
                    self.print(|| format!("{a} lost {b}"));
                    let peer = self.key(b);
                    self.record_due(a);
                    self.feed(a, Input::PeerDown(peer));
                }
            }
            Event::Up(a, b) => self.up(a, b),
            Event::Start(node) => self.start(node),
            Event::Heal => {
                self.print(|| "the partition heals".to_owned());
                self.cut = None;
                self.connect_all();
            }
            Event::Step(step) => self.step(step),
        }
    }

    fn start(&mut self, i: usize) {
        let boot = self.random.next();
        let now_ms = self.now_ms;
        if self.nodes[i].byzantine {
            let at_ms = now_ms + 300;
            return self.at(at_ms, Event::Wake(i));
        }
        self.nodes[i].start(now_ms, boot);
        self.print(|| format!("{i} starts"));
        self.at(now_ms + 100, Event::Wake(i));
        for b in self.neighbours[i].clone() {
            // Its neighbours may not have noticed yet that it was gone.
            self.nodes[b].links.remove(&i);
            let at_ms = self.now_ms + self.random.below(1_000);
            self.at(at_ms, Event::Up(i, b));
        }
    }

    fn up(&mut self, a: usize, b: usize) {
        let runs = self.runs(a) && self.runs(b);
        if !runs || self.blocked(a, b) || self.blocked(b, a) {
            return;
        }
        for (a, b) in [(a, b), (b, a)] {
            if self.nodes[a].links.insert(b) {
                let peer = self.key(b);
                self.record_due(a);
                self.feed(a, Input::PeerUp(peer));
            }
        }
    }

    fn wake(&mut self, i: usize) {
        if self.nodes[i].byzantine {
            self.lie(i);
            let at_ms = self.now_ms + 500;
            return self.at(at_ms, Event::Wake(i));
        }
        let now_ms = self.now_ms + self.nodes[i].skew_ms;
        let Some(running) = &self.nodes[i].running else {
            return;
        };
        let record = running.record_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        if record {
            let links = self.nodes[i].links.clone();
            let peers = links
                .iter()
                .map(|b| SimNode::peer_link(&self.nodes[*b].key));
            let peers = peers.collect();
            let bytes = self.nodes[i].own_record(peers);
            self.feed(i, Input::OwnRecord(bytes));
        }
        self.feed(i, Input::Tick);
        if let Some(running) = &self.nodes[i].running {
            let due = running.sync.wake_at_ms();
            let due = running.record_at_ms.map_or(due, |at_ms| at_ms.min(due));
            let in_ms = due.saturating_sub(now_ms).clamp(50, 1_000);
            let at_ms = self.now_ms + in_ms;
            self.at(at_ms, Event::Wake(i));
        }
    }

    /// Gives an input to a node and carries out what follows from it.
    pub(super) fn feed(&mut self, i: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now_ms = self.now_ms + self.nodes[i].skew_ms;
            let Some(running) = &mut self.nodes[i].running else {
                return;
            };
            let outputs = running.sync.on(input, &running.ledger, now_ms);
            for output in outputs {
                self.carry_out(i, output, &mut inputs);
                if self.nodes[i].running.is_none() {
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, i: usize, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Publish(bytes) => {
                self.print(|| format!("{i} publishes {}", shown(&bytes)));
                self.number += 1;
                let number = self.number;
                self.gossip(i, number, &bytes.into(), None);
            }
            Output::Judge { id, judgement } => {
                let running = self.nodes[i].running.as_mut().expect("it runs");
                if let Some((from, number, bytes)) = running.hints.remove(&id)
                    && judgement == Judgement::Forward
                {
                    self.gossip(i, number, &bytes, Some(from));
                }
            }
            Output::Ask { to, id, bytes } => match self.index.get(&to).copied() {
                Some(to) => self.request(i, to, id, bytes),
                None => inputs.push_back(Input::Failed { id }),
            },
            Output::Reply { id, bytes } => {
                if let Some((to, ask)) = self.requests.remove(&id) {
                    self.reply(i, to, ask, bytes);
                }
            }
            Output::Read { id, what } => {
                let items = self.nodes[i].read(what);
                inputs.push_back(Input::Read { id, items });
            }
            Output::Submit {
                from: _,
                chain,
                hint: _,
                bytes,
            } => match self.nodes[i].submit(chain, &bytes) {
                Some(verdict) => {
                    self.print(|| format!("{i}: {chain} {verdict:?}"));
                    if !matches!(verdict, Verdict::Refused(_)) {
                        self.record_due(i);
                    }
                    inputs.push_back(Input::Verdict { chain, verdict });
                }
                None => {
                    self.print(|| format!("{i} dies while it writes"));
                    self.kill(i, 2_000);
                }
            },
            Output::Proof {
                from,
                chain: _,
                bytes,
            } => {
                let (proof, held) = self.nodes[i].prove(&bytes);
                self.print(|| format!("{i}: proof {held:?}"));
                inputs.push_back(Input::ProofJudged { from, proof, held });
            }
            Output::Records => {}
            Output::Beacon(bytes) => self.nodes[i].disk.beacon = Some(bytes),
            Output::Epoch { at_least } => {
                let boot = self.random.next();
                let node = &mut self.nodes[i];
                node.disk.epoch = at_least.max(node.disk.epoch + 1);
                let running = node.running.as_mut().expect("it runs");
                running.version.epoch = node.disk.epoch;
                running.version.boot = boot;
                self.record_due(i);
            }
        }
    }

    fn hint(&mut self, to: usize, from: usize, number: u64, bytes: Arc<[u8]>) {
        if self.nodes[to].byzantine {
            if self.pool.len() > 40 {
                self.pool.pop_front();
            }
            return self.pool.push_back(bytes);
        }
        if !self.nodes[to].seen.insert(number) {
            return;
        }
        self.number += 1;
        let id = self.number;
        let Some(running) = &mut self.nodes[to].running else {
            return;
        };
        running.hints.insert(id, (from, number, Arc::clone(&bytes)));
        let from = self.key(from);
        let bytes = bytes.to_vec();
        self.feed(to, Input::Hint { from, id, bytes });
    }

    pub(super) fn connect_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in self.neighbours[a].clone() {
                if a < b && !self.nodes[a].links.contains(&b) {
                    let at_ms = self.now_ms + self.random.below(3_000);
                    self.at(at_ms, Event::Up(a, b));
                }
            }
        }
    }

    pub(super) fn record_due(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let at_ms = self.now_ms + node.skew_ms + 400;
        if let Some(running) = node.running.as_mut().filter(|_| node.talks) {
            running.record_at_ms.get_or_insert(at_ms);
        }
    }

    pub(super) fn runs(&self, i: usize) -> bool {
        self.nodes[i].byzantine || self.nodes[i].running.is_some()
    }

    pub(super) fn key(&self, i: usize) -> PublicKey {
        self.nodes[i].key.public()
    }

    pub(super) fn pick(&mut self, from: &[usize]) -> Option<usize> {
        let n = self.random.below(from.len() as u64);
        from.get(usize::try_from(n).expect("small")).copied()
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn at(&mut self, at_ms: u64, event: Event) {
        self.number += 1;
        self.queue.insert((at_ms, self.number), event);
    }

    pub(super) fn print(&self, line: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>8} {}", self.now_ms, line());
        }
    }
}

fn neighbours(kind: Worldly, random: &mut Random) -> Vec<Vec<usize>> {
    let n = kind.n;
    let mut sets = vec![BTreeSet::new(); n];
    for a in 0..n {
        // A ring, so that the realm is connected, and random ones.
        let mut chosen = vec![(a + 1) % n];
        if kind.degree >= n {
            chosen.extend(0..n);
        } else {
            let more = kind.degree / 2;
            chosen
                .extend((1..more).map(|_| usize::try_from(random.below(n as u64)).expect("small")));
        }
        for b in chosen {
            if a != b {
                sets[a].insert(b);
                sets[b].insert(a);
            }
        }
    }
    sets.into_iter()
        .map(|set| set.into_iter().collect())
        .collect()
}

fn shown(bytes: &[u8]) -> String {
    format!("kind {:?}, {} bytes", bytes.get(1), bytes.len())
}
