//! What comes from peers: hints, and answers to what was asked.

use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::record::{KeyBytes, RecordError};
use realm_model::refusal::Refusal;
use realm_model::sync::{
    Answer, HINT_BYTES_MAX, Hint, MessageError, PAGE_BYTES_MAX, Request, Summary,
};

use super::flow::{self, Waiting, Way, judge};
use super::{Judgement, Output, Sync, Turn, record_code};
use crate::ledger::Held;
use crate::reach::ALONE_MS;
use crate::records::Offered;

/// Records of one answer that are published one by one; of more than these the neighbours are told
/// to compare.
const REPUBLISHED_MAX: usize = 16;

/// How long a peer that refuses is left alone: it may not know yet that this node is approved.
const REFUSED_MS: u32 = 3_000;

impl Sync {
    pub(super) fn hint(&mut self, from: PublicKey, id: u64, bytes: &[u8], turn: &mut Turn<'_>) {
        if from == self.own || !self.members.contains_key(&from.into()) {
            return judge(id, Judgement::Drop, turn);
        }
        let peer = self.peers.entry(from).or_default();
        if !peer.hints.has(turn.now_ms) || peer.is_muted(turn.now_ms) {
            self.count("peer-over-budget");
            return judge(id, Judgement::Drop, turn);
        }
        peer.hints.take(1);
        let may_check = peer.checks.has(turn.now_ms);
        match Hint::from_bytes(bytes) {
            Ok(Hint::Heads {
                by: _,
                heads,
                forks,
                records,
            }) => {
                judge(id, Judgement::Drop, turn);
                let theirs = Summary {
                    heads,
                    forks,
                    ..Summary::default()
                };
                self.compare_heads(from, &theirs, turn);
                if records.is_some_and(|theirs| theirs != self.records.digest()) {
                    self.compare_with(from, turn);
                }
            }
            Ok(Hint::Record(record)) => {
                let offered = self.offer(from, &record, may_check, turn);
                let judgement = match offered {
                    Offered::Taken(_) | Offered::Cloned(_) => Judgement::Forward,
                    Offered::Refused(error) if is_blameworthy(&error) => Judgement::Blame,
                    Offered::Known
                    | Offered::Older
                    | Offered::Stranger
                    | Offered::Unchecked
                    | Offered::Foreign(_)
                    | Offered::Refused(_)
                    | Offered::Poison(_) => Judgement::Drop,
                };
                judge(id, judgement, turn);
            }
            Ok(Hint::Entry { at: _, bytes: _ }) if !may_check => {
                self.count("peer-over-budget");
                judge(id, Judgement::Drop, turn);
            }
            Ok(Hint::Entry { at, bytes }) => {
                let waiting = Waiting {
                    from,
                    seq: at.head.seq,
                    hash: Some(at.head.hash),
                    bytes,
                    way: Way::Hint(id),
                };
                self.entry_hint(at.chain, at.head, waiting, turn);
            }
            Ok(Hint::Beacon(beacon)) => {
                let judgement = self.beacon_hint(from, &beacon, may_check, turn);
                judge(id, judgement, turn);
            }
            Err(MessageError::Kind(_) | MessageError::Version(_)) => {
                self.count("hint-unknown");
                judge(id, Judgement::Drop, turn);
            }
            Err(MessageError::Oversized(_) | MessageError::Malformed(_)) => {
                self.blame(from, "hint-malformed", bytes, turn);
                judge(id, Judgement::Blame, turn);
            }
        }
    }

    pub(super) fn answer(&mut self, id: u64, bytes: &[u8], turn: &mut Turn<'_>) {
        // Late, or never asked.
        let Some(asked) = self.asks.remove(&id) else {
            return;
        };
        let peer = asked.to;
        let answer = match Answer::from_bytes(bytes) {
            Ok(answer) => answer,
            Err(MessageError::Kind(_) | MessageError::Version(_)) => {
                return self.count("answer-unknown");
            }
            Err(MessageError::Oversized(_) | MessageError::Malformed(_)) => {
                return self.blame(peer, "answer-malformed", bytes, turn);
            }
        };
        match (asked.request, answer) {
            (_, Answer::Busy { retry_ms }) => self.put_off(peer, retry_ms, turn),
            (_, Answer::Refused) => self.put_off(peer, REFUSED_MS, turn),
            // An older agent: everything that it knows goes on.
            (_, Answer::Unknown { version: _ }) => self.count("peer-needs-newer-agent"),
            (Request::Summary(_), Answer::Summary(theirs)) => {
                self.comparison_came(peer);
                self.compare(peer, &theirs, turn);
            }
            (
                Request::Hashes {
                    chain, from, step, ..
                },
                Answer::Hashes(hashes),
            ) => self.hashes(peer, (chain, from, step), &hashes, turn),
            (Request::Entries { chain, .. }, Answer::Entries(entries)) if asked.single => {
                self.contradiction(peer, chain, entries, turn);
            }
            (Request::Entries { chain, from, .. }, Answer::Entries(entries)) => {
                self.entries(peer, chain, from, entries, turn);
            }
            (Request::Records { .. }, Answer::Records(records)) => {
                self.records_came(peer, &records, turn);
            }
            (Request::Fork { chain }, Answer::Fork(proof)) => {
                if let Some(bytes) = proof {
                    let from = peer;
                    turn.out.push(Output::Proof { from, chain, bytes });
                }
            }
            (Request::Beacon, Answer::Beacon(beacon)) => {
                if let Some(bytes) = beacon {
                    self.beacon_came(peer, &bytes, turn);
                }
            }
            (
                Request::Summary(_)
                | Request::Hashes { .. }
                | Request::Entries { .. }
                | Request::Records { .. }
                | Request::Fork { .. }
                | Request::Beacon,
                Answer::Summary(_)
                | Answer::Hashes(_)
                | Answer::Entries(_)
                | Answer::Records(_)
                | Answer::Fork(_)
                | Answer::Beacon(_),
            ) => self.blame(peer, "answer-mismatched", bytes, turn),
        }
    }

    pub(super) fn failed(&mut self, id: u64, turn: &mut Turn<'_>) {
        let Some(asked) = self.asks.remove(&id) else {
            return;
        };
        self.count("ask-failed");
        if let Request::Entries { chain, .. } = asked.request {
            if let Some(flow) = self.flows.get_mut(&chain) {
                flow.give_up(asked.to);
            }
            self.pump(chain, turn);
        } else if let Request::Summary(_) = asked.request {
            self.comparison_failed(asked.to, turn);
        }
    }

    pub(super) fn proof_judged(
        &mut self,
        from: PublicKey,
        proof: Digest,
        held: Result<Held, Refusal>,
        turn: &mut Turn<'_>,
    ) {
        match held {
            Ok(Held::Frozen) => self.ledger_changed(),
            Ok(Held::Known | Held::Settled) => self.settle(Some(proof)),
            Err(refusal) if flow::is_blameworthy(refusal.code) => {
                self.settle(Some(proof));
                self.blame(from, "proof-false", &[], turn);
            }
            // Entries are missing here to judge it: it is asked for again.
            Err(refusal) => self.count(refusal.code.as_str()),
        }
    }

    fn put_off(&mut self, peer: PublicKey, retry_ms: u32, turn: &Turn<'_>) {
        self.count("peer-busy");
        for flow in self.flows.values_mut() {
            flow.give_up(peer);
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.put_off(retry_ms, turn.now_ms);
        }
    }

    fn records_came(&mut self, from: PublicKey, records: &[Vec<u8>], turn: &mut Turn<'_>) {
        let mut taken = Vec::new();
        for bytes in records {
            // Asked for: the budget is charged, and the first bad one mutes the peer.
            let offered = self.offer(from, bytes, true, turn);
            if matches!(offered, Offered::Taken(_) | Offered::Cloned(_)) {
                taken.push(bytes);
            }
            if self
                .peers
                .get(&from)
                .is_some_and(|p| p.is_muted(turn.now_ms))
            {
                return;
            }
        }
        #[cfg(test)]
        if self.planted == Some(super::Planted::NothingIsAnnounced) {
            return;
        }
        // Neighbours that heard of it already drop it; those that did not would wait for a round.
        if taken.len() <= REPUBLISHED_MAX {
            for bytes in &taken {
                let hint = Hint::Record(bytes.to_vec()).to_bytes();
                if hint.len() <= HINT_BYTES_MAX {
                    turn.out.push(Output::Publish(hint));
                }
            }
        } else {
            (self.announce, self.announce_records) = (true, true);
        }
        let bytes: usize = records.iter().map(Vec::len).sum();
        if bytes > PAGE_BYTES_MAX / 2 && !taken.is_empty() {
            // There may be more than a page.
            self.compare_with(from, turn);
        }
    }

    fn offer(
        &mut self,
        from: PublicKey,
        bytes: &[u8],
        may_check: bool,
        turn: &mut Turn<'_>,
    ) -> Offered {
        let offered = self.records.offer(bytes, &self.members, may_check);
        let checked = match &offered {
            Offered::Taken(_) | Offered::Cloned(_) => {
                self.records_changed(turn);
                self.praise(from);
                true
            }
            Offered::Foreign(version) => {
                self.foreign(version.epoch, turn);
                true
            }
            Offered::Poison(_) => {
                self.count(realm_model::record::RECORD_POISON);
                self.records_changed(turn);
                true
            }
            Offered::Refused(error) => {
                let code = record_code(error);
                if is_blameworthy(error) {
                    self.blame(from, code, bytes, turn);
                } else {
                    self.count(code);
                }
                true
            }
            Offered::Unchecked => {
                self.count("peer-over-budget");
                false
            }
            Offered::Known | Offered::Older | Offered::Stranger => false,
        };
        if checked && let Some(peer) = self.peers.get_mut(&from) {
            peer.checks.take(1);
        }
        offered
    }

    /// Puts the newest record of a node aside, whose readers panic; returns its bytes, which
    /// [`Sync::keep_away`] takes after a restart.
    pub fn quarantine(&mut self, node: KeyBytes, why: &str) -> Option<Arc<[u8]>> {
        let aside = self.records.quarantine(node, why)?;
        self.count(realm_model::record::RECORD_POISON);
        Some(aside)
    }

    /// Keeps away a record that was put aside before this start; returns whose it is.
    pub fn keep_away(&mut self, bytes: &[u8], why: &str) -> Result<KeyBytes, RecordError> {
        self.records.keep_away(bytes, why)
    }

    fn records_changed(&self, turn: &mut Turn<'_>) {
        if !turn.out.contains(&Output::Records) {
            turn.out.push(Output::Records);
        }
    }

    /// Somebody else signed with this node's key. Right after a start that may be this node
    /// itself, before its disk was set back; later it is another machine. Each start answers with
    /// a higher epoch once, so that two machines do not chase each other.
    fn foreign(&mut self, epoch: u64, turn: &mut Turn<'_>) {
        let at_least = epoch.saturating_add(1);
        let starting = self.rounds == 0 && turn.now_ms < self.started_ms + ALONE_MS;
        if starting {
            if at_least > self.epoch_asked {
                self.epoch_asked = at_least;
                turn.out.push(Output::Epoch { at_least });
            }
            return;
        }
        if !self.cloned {
            self.cloned = true;
            self.count(realm_model::record::CLONED_KEY);
            self.records_changed(turn);
        }
        if !self.jumped {
            self.jumped = true;
            turn.out.push(Output::Epoch { at_least });
        }
    }
}

/// Whether nobody who checked the bytes can have sent them on.
const fn is_blameworthy(error: &RecordError) -> bool {
    match error {
        RecordError::Oversized(_)
        | RecordError::Malformed(_)
        | RecordError::WrongRealm
        | RecordError::BadSignature => true,
        // A newer agent, or a node whose own record is bad: whoever passed it on is not at fault.
        RecordError::Format(_) | RecordError::Poison(_) => false,
    }
}
