//! What a peer gets when it asks: never more than its budget, and nothing that costs more than a
//! read. A question also says what its sender has, and that is compared like an answer.

use realm_model::key::PublicKey;
use realm_model::sync::{
    Answer, ENTRIES_MAX, HASHES_MAX, MessageError, PAGE_BYTES_MAX, Request, Summary, WIRE_VERSION,
};

use super::{Output, ReadItems, ReadWhat, Sync, Turn, chains};
use crate::ledger::Ledger;

/// Requests whose bytes are being read, of all peers: beyond this the node is slower than its peers ask.
const READS_MAX: usize = 64;

/// What a question costs beside its answer's bytes.
const QUESTION_BYTES: usize = 512;

impl Sync {
    pub(super) fn summary(&self, ledger: &Ledger) -> Summary {
        Summary {
            heads: chains::heads(ledger),
            forks: chains::forks(ledger),
            buckets: self.records.buckets(),
            beacon: self.newest_mark(),
        }
    }

    pub(super) fn request(&mut self, from: PublicKey, id: u64, bytes: &[u8], turn: &mut Turn<'_>) {
        if from == self.own || !self.members.contains_key(&from.into()) {
            return reply(id, &Answer::Refused, turn);
        }
        let peer = self.peers.entry(from).or_default();
        let has_bytes = peer.served.has(turn.now_ms);
        if !peer.requests.has(turn.now_ms) || !has_bytes || peer.is_muted(turn.now_ms) {
            let retry_ms = peer
                .served
                .wait_ms()
                .max(peer.requests.wait_ms())
                .max(1_000);
            self.count("peer-over-budget");
            return reply(id, &Answer::Busy { retry_ms }, turn);
        }
        peer.requests.take(1);
        let request = match Request::from_bytes(bytes) {
            Ok(request) => request,
            Err(MessageError::Kind(_) | MessageError::Version(_)) => {
                self.count("request-unknown");
                let version = WIRE_VERSION;
                return reply(id, &Answer::Unknown { version }, turn);
            }
            Err(MessageError::Oversized(_) | MessageError::Malformed(_)) => {
                self.blame(from, "request-malformed", bytes, turn);
                return reply(id, &Answer::Refused, turn);
            }
        };
        self.answer_to(from, id, request, turn);
    }

    fn answer_to(&mut self, from: PublicKey, id: u64, request: Request, turn: &mut Turn<'_>) {
        match request {
            Request::Summary(theirs) => {
                let ours = self.summary(turn.ledger);
                self.reply_to(from, id, &Answer::Summary(ours), turn);
                self.compare(from, &theirs, turn);
            }
            Request::Hashes {
                chain,
                from: first,
                step,
                count,
            } => {
                let at = |n: u32| first.checked_add(step.checked_mul(u64::from(n))?);
                let hashes = (0..count.min(HASHES_MAX))
                    .map_while(|n| chains::hash_at(turn.ledger, chain, at(n)?));
                let answer = Answer::Hashes(hashes.collect());
                self.reply_to(from, id, &answer, turn);
            }
            Request::Entries {
                chain,
                from: first,
                bytes_max,
            } => {
                let what = ReadWhat::Entries {
                    chain,
                    from: first,
                    bytes_max: usize::try_from(bytes_max)
                        .unwrap_or(usize::MAX)
                        .min(PAGE_BYTES_MAX),
                    n_max: ENTRIES_MAX,
                };
                let there = first <= chains::head(turn.ledger, chain).seq;
                if there && chains::is_known(turn.ledger, chain) {
                    self.start_read(from, id, what, turn);
                } else {
                    self.reply_to(from, id, &Answer::Entries(Vec::new()), turn);
                }
            }
            Request::Records { buckets, known } => {
                let page = self.records.newer(buckets, &known);
                self.reply_to(from, id, &Answer::Records(page), turn);
            }
            Request::Beacon => {
                let beacon = Answer::Beacon(self.newest_beacon());
                self.reply_to(from, id, &beacon, turn);
            }
            Request::Fork { chain } => {
                if chains::fork(turn.ledger, chain).is_some() {
                    self.start_read(from, id, ReadWhat::Proof { chain }, turn);
                } else {
                    self.reply_to(from, id, &Answer::Fork(None), turn);
                }
            }
        }
    }

    pub(super) fn read(&mut self, id: u64, items: ReadItems, turn: &mut Turn<'_>) {
        let Some(from) = self.reads.remove(&id) else {
            return;
        };
        let answer = match items {
            ReadItems::Entries(mut entries) => {
                cut_to_page(&mut entries);
                Answer::Entries(entries)
            }
            ReadItems::Proof(proof) => Answer::Fork(proof),
        };
        self.reply_to(from, id, &answer, turn);
    }

    fn start_read(&mut self, from: PublicKey, id: u64, what: ReadWhat, turn: &mut Turn<'_>) {
        if self.reads.len() >= READS_MAX {
            self.count("reads-full");
            return reply(id, &Answer::Busy { retry_ms: 1_000 }, turn);
        }
        self.reads.insert(id, from);
        turn.out.push(Output::Read { id, what });
    }

    fn reply_to(&mut self, to: PublicKey, id: u64, answer: &Answer, turn: &mut Turn<'_>) {
        let bytes = answer.to_bytes();
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.served.take(bytes.len() + QUESTION_BYTES);
        }
        turn.out.push(Output::Reply { id, bytes });
    }
}

/// Who asked takes a page, or one entry of any size.
fn cut_to_page(entries: &mut Vec<Vec<u8>>) {
    let mut bytes = 0;
    let fits = |entry: &&Vec<u8>| {
        bytes += entry.len();
        bytes <= PAGE_BYTES_MAX
    };
    let n = entries.iter().take(ENTRIES_MAX).take_while(fits).count();
    entries.truncate(n.max(1));
}

fn reply(id: u64, answer: &Answer, turn: &mut Turn<'_>) {
    let bytes = answer.to_bytes();
    turn.out.push(Output::Reply { id, bytes });
}
