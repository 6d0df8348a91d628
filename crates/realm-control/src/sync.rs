//! How a node's chains and records become those of the others: what to ask, answer, publish and
//! submit, as a state machine without I/O.
//!
//! The node feeds [`Input`]s and carries out [`Output`]s in order. Gossip is a hint; what makes
//! the state converge is that a node compares summaries with one peer when they meet and every
//! few seconds, and fetches what it lacks, the authority chain first. Nothing here is believed:
//! entries go to the ledger one after the other ([`Output::Submit`]), records are verified in
//! [`Records`]. Every peer has budgets. Not here: connections, files, what an entry means.

mod beacon;
mod budget;
mod chains;
mod compare;
mod flow;
mod peers;
mod serve;
mod take;

#[cfg(test)]
mod beacon_tests;
#[cfg(test)]
mod junk_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head, RealmId};
use realm_model::key::PublicKey;
use realm_model::record::{KeyBytes, RecordError};
use realm_model::refusal::Refusal;
use realm_model::sync::{Hint, Request};

use crate::ledger::{Held, Ledger};
use crate::records::{Members, Records};
pub use beacon::BeaconState;
pub(crate) use budget::Random;
use flow::Flow;
use peers::Peer;

/// Between two rounds with a random peer, ± [`JITTER_PERCENT`].
pub const ROUND_MS: u64 = 5_000;

/// Between two questions to a member that is not connected: a long partition heals only if those
/// beyond it are tried.
pub const FAR_ROUND_MS: u64 = 30_000;

/// So that nodes that started together do not ask together.
pub const JITTER_PERCENT: u64 = 20;

/// After this an answer is not expected any longer: the largest one over a slow link.
pub const ASK_TIMEOUT_MS: u64 = 30_000;

/// After this somebody else is asked for the same entries.
pub const HEDGE_MS: u64 = 2_000;

/// Questions that wait for an answer, for each peer.
pub const ASKS_PER_PEER_MAX: usize = 8;

/// What peers did that honest ones do not, kept for people.
pub const EVIDENCE_MAX: usize = 16;

/// Bytes kept of each piece of evidence: an entry of usual size.
pub const EVIDENCE_BYTES_MAX: usize = 64 * 1024;

/// Entries that were found not to count: they are not fetched again from everybody who has them.
const SETTLED_MAX: usize = 1_024;

/// Something that happened to the node.
#[derive(Debug, Clone)]
pub enum Input {
    /// A connection with a member stands.
    PeerUp(PublicKey),
    /// No connection with it stands any longer.
    PeerDown(PublicKey),
    /// Somebody's hint arrived through `from`; [`Output::Judge`] answers with the same `id`.
    Hint {
        /// The neighbour that passed it on.
        from: PublicKey,
        /// The caller's number.
        id: u64,
        /// As received.
        bytes: Vec<u8>,
    },
    /// A member asks; [`Output::Reply`] or [`Output::Read`] answers with the same `id`.
    Request {
        /// Who asks.
        from: PublicKey,
        /// The caller's number.
        id: u64,
        /// As received.
        bytes: Vec<u8>,
    },
    /// What the caller read for an [`Output::Read`].
    Read {
        /// The number of that output.
        id: u64,
        /// What it wanted.
        items: ReadItems,
    },
    /// The answer to an [`Output::Ask`].
    Answer {
        /// The number of that output.
        id: u64,
        /// As received.
        bytes: Vec<u8>,
    },
    /// There will be no answer to an [`Output::Ask`].
    Failed {
        /// The number of that output.
        id: u64,
    },
    /// What became of an [`Output::Submit`] of this chain.
    Verdict {
        /// The chain.
        chain: ChainId,
        /// The ledger's word.
        verdict: Verdict,
    },
    /// An entry that was submitted at this node is in force.
    Accepted {
        /// Its chain.
        chain: ChainId,
        /// Its exact bytes.
        bytes: Vec<u8>,
    },
    /// The ledger changed in another way: it was rebuilt, or holds a proof or none.
    LedgerChanged,
    /// What became of an [`Output::Proof`].
    ProofJudged {
        /// Who sent it.
        from: PublicKey,
        /// SHA-256 of its bytes.
        proof: Digest,
        /// What [`Ledger::hold`] said; `malformed` if the bytes are no proof at all.
        held: Result<Held, Refusal>,
    },
    /// This node signed a new record of itself.
    OwnRecord(Vec<u8>),
    /// The same where only figures moved, of load and of connections: nothing here depends on it.
    OwnFigures(Vec<u8>),
    /// Somebody hands in a beacon at this node, and [`Sync::judge_beacon`] had nothing against it.
    Beacon(Vec<u8>),
    /// Time passed; at the latest at [`Sync::wake_at_ms`].
    Tick,
}

/// What an [`Output::Read`] wanted.
#[derive(Debug, Clone)]
pub enum ReadItems {
    /// Entries in order from the first one asked for; none: the log ends before it.
    Entries(Vec<Vec<u8>>),
    /// The bytes of the proof that is held, if one is.
    Proof(Option<Vec<u8>>),
}

/// What the ledger said of an entry.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is durable and in force.
    Applied,
    /// It is refused.
    Refused(Refusal),
    /// It proves a fork; the caller holds the proof already.
    Forked,
}

/// Something that the node has to do; in the order in which they are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Publish a hint.
    Publish(Vec<u8>),
    /// What to do with a hint that arrived.
    Judge {
        /// The number of that input.
        id: u64,
        /// Whether it is passed on.
        judgement: Judgement,
    },
    /// Send a request to a member; [`Input::Answer`] or [`Input::Failed`] follows.
    Ask {
        /// To whom; not always connected.
        to: PublicKey,
        /// Its number.
        id: u64,
        /// What to send.
        bytes: Vec<u8>,
    },
    /// Answer a request.
    Reply {
        /// The number of that request.
        id: u64,
        /// What to send.
        bytes: Vec<u8>,
    },
    /// Read something from the disk for a request; [`Input::Read`] follows with this number.
    Read {
        /// The number of that request.
        id: u64,
        /// What to read.
        what: ReadWhat,
    },
    /// Check this entry, make it durable and apply it; [`Input::Verdict`] follows. At most one of
    /// each chain waits for its verdict.
    Submit {
        /// Who sent it.
        from: PublicKey,
        /// Its chain, by the word of who sent it.
        chain: ChainId,
        /// The hint that it came as: once the entry is checked, it may be passed on without waiting
        /// for the disk.
        hint: Option<u64>,
        /// Its exact bytes.
        bytes: Vec<u8>,
    },
    /// Read this proof, let the ledger hold it ([`Ledger::hold`]) and keep it;
    /// [`Input::ProofJudged`] follows.
    Proof {
        /// Who sent it.
        from: PublicKey,
        /// Of which chain, by its word.
        chain: ChainId,
        /// As received.
        bytes: Vec<u8>,
    },
    /// Records changed: what is shown of other nodes, and who has which bytes.
    Records,
    /// Keep this beacon for [`Sync::restore_beacon`], in place of the one before.
    Beacon(Vec<u8>),
    /// Another record with this node's key would count before its own. Make an epoch of at least
    /// this one durable, draw a new boot number, and sign a record with them, with the alarm
    /// [`realm_model::record::CLONED_KEY`] while [`Sync::is_cloned`] holds.
    Epoch {
        /// The least epoch.
        at_least: u64,
    },
}

/// What an [`Output::Read`] wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadWhat {
    /// Entries that count of `chain`, from sequence number `from` on: at most `n_max`, and
    /// together at most `bytes_max` bytes; the first one however large it is. A log also holds
    /// entries that were abandoned: [`Ledger::hash_at`] tells which one counts.
    Entries {
        /// The chain.
        chain: ChainId,
        /// The first sequence number.
        from: u64,
        /// Bytes.
        bytes_max: usize,
        /// Entries.
        n_max: usize,
    },
    /// The proof that is held for `chain`.
    Proof {
        /// The chain.
        chain: ChainId,
    },
}

/// What to do with a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is verified and new: pass it on.
    Forward,
    /// It is known, or cannot be verified yet, or there is no budget: drop it without blame.
    Drop,
    /// Nobody honest passes this on.
    Blame,
}

/// Something that an honest peer does not send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Who sent it.
    pub peer: PublicKey,
    /// What is wrong with it, as a stable code.
    pub code: &'static str,
    /// When, by the node's clock.
    pub at_ms: u64,
    /// The start of it.
    pub bytes: Vec<u8>,
}

/// The state of a node's conversation with the others.
#[derive(Debug)]
pub struct Sync {
    own: PublicKey,
    random: Random,
    records: Records,
    members: Members,
    members_at: Option<Head>,
    peers: BTreeMap<PublicKey, Peer>,
    flows: BTreeMap<ChainId, Flow>,
    asks: BTreeMap<u64, Asked>,
    reads: BTreeMap<u64, PublicKey>,
    next_id: u64,
    started_ms: u64,
    next_round_ms: u64,
    next_far_ms: u64,
    ticked_ms: u64,
    rounds: u64,
    announce: bool,
    announce_records: bool,
    jumped: bool,
    cloned: bool,
    epoch_asked: u64,
    settled: BTreeSet<Digest>,
    watch: beacon::Watch,
    evidence: VecDeque<Evidence>,
    counts: BTreeMap<&'static str, u64>,
    #[cfg(test)]
    pub(crate) planted: Option<Planted>,
}

/// Mistakes that a test plants, to see that it is found.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// What came by anti-entropy is announced to nobody.
    NothingIsAnnounced,
    /// An entry is submitted before those that it follows.
    EarlyEntries,
    /// Nobody asks for the proof of a fork.
    ProofsAreIgnored,
    /// Records that a peer has and this node lacks are not asked for.
    RecordsAreIgnored,
    /// Nor is a newer beacon.
    BeaconsAreIgnored,
}

/// A question that waits for its answer.
#[derive(Debug, Clone)]
struct Asked {
    to: PublicKey,
    at_ms: u64,
    request: Request,
    /// Of entries: one entry is wanted to compare it, not those that follow.
    single: bool,
}

/// What each step works with.
struct Turn<'a> {
    ledger: &'a Ledger,
    now_ms: u64,
    out: Vec<Output>,
}

impl Sync {
    /// A node that knows nobody yet. `seed` is random: two nodes with one seed ask in step.
    pub fn new(realm: RealmId, own: PublicKey, seed: u64, now_ms: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            own,
            records: Records::new(realm, own),
            members: Members::new(),
            members_at: None,
            peers: BTreeMap::new(),
            flows: BTreeMap::new(),
            asks: BTreeMap::new(),
            reads: BTreeMap::new(),
            // Answers to questions of an earlier start are told from those to this one's.
            next_id: random.next() >> 16,
            started_ms: now_ms,
            next_round_ms: now_ms + random.jitter(ROUND_MS, JITTER_PERCENT),
            next_far_ms: now_ms + random.jitter(FAR_ROUND_MS, JITTER_PERCENT),
            ticked_ms: now_ms,
            random,
            rounds: 0,
            announce: false,
            announce_records: false,
            jumped: false,
            cloned: false,
            epoch_asked: 0,
            settled: BTreeSet::new(),
            watch: beacon::Watch::default(),
            evidence: VecDeque::new(),
            counts: BTreeMap::new(),
            #[cfg(test)]
            planted: None,
        }
    }

    /// Takes what happened and says what to do. `ledger` is the ledger as it stands after what
    /// happened, `now_ms` a clock that only goes forward. Total: any input has an answer.
    pub fn on(&mut self, input: Input, ledger: &Ledger, now_ms: u64) -> Vec<Output> {
        let mut turn = Turn {
            ledger,
            now_ms,
            out: Vec::new(),
        };
        self.refresh_members(&mut turn);
        self.refresh_beacon(&mut turn);
        match input {
            Input::PeerUp(peer) => self.peer_up(peer, &mut turn),
            Input::PeerDown(peer) => self.peer_down(peer),
            Input::Hint { from, id, bytes } => self.hint(from, id, &bytes, &mut turn),
            Input::Request { from, id, bytes } => self.request(from, id, &bytes, &mut turn),
            Input::Read { id, items } => self.read(id, items, &mut turn),
            Input::Answer { id, bytes } => self.answer(id, &bytes, &mut turn),
            Input::Failed { id } => self.failed(id, &mut turn),
            Input::Verdict { chain, verdict } => self.verdict(chain, verdict, &mut turn),
            Input::Accepted { chain, bytes } => self.accepted(chain, bytes, &mut turn),
            Input::LedgerChanged => self.ledger_changed(),
            Input::ProofJudged { from, proof, held } => {
                self.proof_judged(from, proof, held, &mut turn);
            }
            Input::OwnRecord(bytes) => {
                self.own_record(&bytes, &mut turn);
                turn.out.push(Output::Records);
            }
            Input::OwnFigures(bytes) => self.own_record(&bytes, &mut turn),
            Input::Beacon(bytes) => self.beacon_came(self.own, &bytes, &mut turn),
            Input::Tick => self.tick(&mut turn),
        }
        self.announce_if_due(&mut turn);
        turn.out
    }

    /// When the next [`Input::Tick`] is due at the latest.
    pub fn wake_at_ms(&self) -> u64 {
        // First somebody else may have to be asked, then nobody is waited for any longer.
        let due = |asked: &Asked| match asked.at_ms + HEDGE_MS {
            hedge if hedge > self.ticked_ms => hedge,
            _ => asked.at_ms + ASK_TIMEOUT_MS,
        };
        let round = self.next_round_ms.min(self.next_far_ms);
        let round = round.min(self.again_ms().unwrap_or(u64::MAX));
        self.asks.values().map(due).fold(round, u64::min)
    }

    /// The newest record of each node.
    pub const fn records(&self) -> &Records {
        &self.records
    }

    /// Approved nodes by the bytes of their keys.
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// Comparisons with a peer after which nothing was missing here.
    pub const fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Whether another machine was seen to sign with this node's key since the start.
    pub const fn is_cloned(&self) -> bool {
        self.cloned
    }

    /// Whether the node may start and stop things: [`crate::reach::may_act`].
    pub fn may_act(&self, now_ms: u64, has_state: bool) -> bool {
        let others = self.members.values().filter(|key| **key != self.own);
        let up_ms = now_ms.saturating_sub(self.started_ms);
        crate::reach::may_act(others.count(), self.rounds, up_ms, has_state)
    }

    /// What peers did that honest ones do not, the newest last.
    pub fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.evidence.iter()
    }

    /// How often what was refused, dropped or put off, by stable code.
    pub const fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// Peers that are not listened to for a while, with the time at which that ends.
    pub fn muted(&self) -> impl Iterator<Item = (PublicKey, u64)> {
        let muted = self.peers.iter().filter(|(_, peer)| peer.penalty > 0);
        muted.map(|(key, peer)| (*key, peer.muted_until_ms))
    }

    fn refresh_members(&mut self, turn: &mut Turn<'_>) {
        let authority = turn.ledger.authority();
        if self.members_at == Some(authority.head) {
            return;
        }
        self.members_at = Some(authority.head);
        self.members = chains::members(turn.ledger);
        let count = |records: &Records| (records.iter().count(), records.quarantined().len());
        let before = count(&self.records);
        self.records.purge(&self.members);
        if count(&self.records) != before {
            turn.out.push(Output::Records);
        }
        let members = &self.members;
        let is_member = |key: &PublicKey| members.contains_key(&KeyBytes::from(*key));
        self.peers.retain(|key, _| is_member(key));
        self.asks.retain(|_, asked| is_member(&asked.to));
    }

    fn own_record(&mut self, bytes: &[u8], turn: &mut Turn<'_>) {
        if let Err(error) = self.records.set_own(bytes, self.own) {
            // Its own node cannot have made it otherwise than by a mistake of this program.
            self.count(record_code(&error));
            return;
        }
        let hint = Hint::Record(bytes.to_vec()).to_bytes();
        if hint.len() <= realm_model::sync::HINT_BYTES_MAX {
            turn.out.push(Output::Publish(hint));
        } else {
            (self.announce, self.announce_records) = (true, true);
        }
    }

    fn accepted(&mut self, chain: ChainId, bytes: Vec<u8>, turn: &mut Turn<'_>) {
        let at = chains::head(turn.ledger, chain).of(chain);
        let hint = Hint::Entry { at, bytes }.to_bytes();
        if hint.len() <= realm_model::sync::HINT_BYTES_MAX {
            turn.out.push(Output::Publish(hint));
        } else {
            self.announce = true;
        }
        // Something else may have waited for exactly this.
        self.pump_all(turn);
    }

    fn ledger_changed(&mut self) {
        for flow in self.flows.values_mut() {
            flow.forget();
        }
        // Others shall hear of the fork, or of the head that counts.
        self.announce = true;
    }

    fn announce_if_due(&mut self, turn: &mut Turn<'_>) {
        #[cfg(test)]
        if self.planted == Some(Planted::NothingIsAnnounced) {
            return;
        }
        // Once per batch, not once per entry.
        if !self.announce || self.flows.values().any(Flow::is_busy) {
            return;
        }
        self.announce = false;
        let hint = Hint::Heads {
            by: self.own.into(),
            heads: chains::heads(turn.ledger),
            forks: chains::forks(turn.ledger),
            records: std::mem::take(&mut self.announce_records).then(|| self.records.digest()),
        };
        turn.out.push(Output::Publish(hint.to_bytes()));
    }

    fn ask(&mut self, to: PublicKey, request: Request, single: bool, turn: &mut Turn<'_>) -> bool {
        if to == self.own || !self.members.contains_key(&to.into()) {
            return false;
        }
        let waiting = self.asks.values().filter(|asked| asked.to == to);
        let (mut n, mut same) = (0, false);
        for asked in waiting {
            n += 1;
            same |= asked.request == request && turn.now_ms < asked.at_ms + HEDGE_MS;
        }
        let peer = self.peers.entry(to).or_default();
        if same || n >= ASKS_PER_PEER_MAX || peer.is_muted(turn.now_ms) || peer.is_busy(turn.now_ms)
        {
            return false;
        }
        self.next_id += 1;
        let id = self.next_id;
        let bytes = request.to_bytes();
        let at_ms = turn.now_ms;
        let asked = Asked {
            to,
            at_ms,
            request,
            single,
        };
        self.asks.insert(id, asked);
        turn.out.push(Output::Ask { to, id, bytes });
        true
    }

    fn count(&mut self, code: &'static str) {
        *self.counts.entry(code).or_default() += 1;
    }
}

/// The stable code of a record's error.
pub(crate) const fn record_code(error: &RecordError) -> &'static str {
    match error {
        RecordError::Oversized(_) => "record-oversized",
        RecordError::Format(_) => "record-needs-newer-agent",
        RecordError::Malformed(_) => "record-malformed",
        RecordError::WrongRealm => "record-wrong-realm",
        RecordError::BadSignature => "record-bad-signature",
        RecordError::Poison(_) => realm_model::record::RECORD_POISON,
    }
}
