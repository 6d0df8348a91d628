//! What a peer's summary calls for: the authority chain first, since it says who may write the
//! others; then the other chains, proofs of forks, records. And where two histories part: a search
//! by hashes, whose end is one entry for the ledger to judge.

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head};
use realm_model::key::PublicKey;
use realm_model::sync::{HASHES_MAX, Request, Summary};

use super::chains::{self, Relation, relation};
use super::{HEDGE_MS, Sync, Turn};
use crate::records::Records;

/// Questions of one search: each narrows it by a factor of [`HASHES_MAX`], so that three of them
/// search a chain of a thousand million entries.
const SEARCH_STEPS_MAX: u32 = 8;

/// Where two histories part: after `low`, which both have, and at `high` at the latest.
#[derive(Debug, Clone)]
pub(super) struct Search {
    peer: PublicKey,
    low: u64,
    high: u64,
    steps: u32,
    at_ms: u64,
    /// Their hash at the place that was found.
    pub(super) found: Option<Head>,
}

impl Sync {
    pub(super) fn compare(&mut self, peer: PublicKey, theirs: &Summary, turn: &mut Turn<'_>) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.compared_ms = turn.now_ms;
        }
        let missing = self.compare_heads(peer, theirs, turn);
        let authority = missing.contains(&ChainId::Authority);
        // Which key signs it is the authority chain's word.
        if !authority {
            self.want_beacon(peer, theirs.beacon, turn);
        }
        let ours = self.records.buckets();
        let buckets = Records::differing(&ours, &theirs.buckets);
        #[cfg(test)]
        let buckets = match self.planted {
            Some(super::Planted::RecordsAreIgnored) => 0,
            Some(_) | None => buckets,
        };
        // Records of nodes that are not known here yet would come in vain.
        if buckets != 0 && !authority {
            let known = self.records.known(buckets);
            self.ask(peer, Request::Records { buckets, known }, false, turn);
        }
        if missing.is_empty() {
            self.rounds += 1;
        }
    }

    /// Fetches what the peer has and this node lacks; the chains of which there is something.
    pub(super) fn compare_heads(
        &mut self,
        peer: PublicKey,
        theirs: &Summary,
        turn: &mut Turn<'_>,
    ) -> Vec<ChainId> {
        for fork in &theirs.forks {
            self.want_proof(peer, fork.chain, fork.proof, turn);
        }
        let mut missing = Vec::new();
        let mut heads = theirs.heads.clone();
        heads.sort_unstable_by_key(|head| head.chain);
        for there in heads {
            let (chain, head) = (there.chain, there.head);
            if !chains::is_known(turn.ledger, chain) {
                continue;
            }
            match relation(turn.ledger, chain, head) {
                Relation::Same | Relation::Behind => {}
                Relation::Ahead | Relation::Diverged if self.stands_still(chain, turn) => {}
                Relation::Diverged => self.search(peer, chain, head.seq, turn),
                // What they have may be the recovery of a chain that stands still here.
                Relation::Ahead if chains::fork(turn.ledger, chain).is_some() => {
                    self.search(peer, chain, head.seq, turn);
                }
                Relation::Ahead => {
                    missing.push(chain);
                    self.fetch(peer, chain, head, turn);
                    if chain == ChainId::Authority {
                        // Only with it can this node tell who may write the other chains. The
                        // summaries are compared again when it is here.
                        return missing;
                    }
                }
            }
        }
        missing
    }

    /// Looks for the first entry in which the peer's chain differs, up to `seq_max`.
    pub(super) fn search(
        &mut self,
        peer: PublicKey,
        chain: ChainId,
        seq_max: u64,
        turn: &mut Turn<'_>,
    ) {
        let high = seq_max.min(chains::contested_up_to(turn.ledger, chain));
        let now_ms = turn.now_ms;
        let rests = self
            .peers
            .get(&peer)
            .is_some_and(|p| p.rests(chain, now_ms));
        let flow = self.flows.entry(chain).or_default();
        let searching = flow.search.as_ref();
        if searching.is_some_and(|search| now_ms < search.at_ms + HEDGE_MS) || rests || high == 0 {
            return;
        }
        flow.search = Some(Search {
            peer,
            low: 0,
            high,
            steps: 0,
            at_ms: now_ms,
            found: None,
        });
        self.search_on(chain, turn);
    }

    /// Takes hashes of the peer's chain, every `step`th from `from` on.
    pub(super) fn hashes(
        &mut self,
        peer: PublicKey,
        request: (ChainId, u64, u64),
        hashes: &[Digest],
        turn: &mut Turn<'_>,
    ) {
        let (chain, from, step) = request;
        let Some(flow) = self.flows.get_mut(&chain) else {
            return;
        };
        let Some(search) = flow.search.as_mut().filter(|search| search.peer == peer) else {
            return;
        };
        let place = |n: usize| {
            let n = u64::try_from(n).expect("a usize fits");
            step.saturating_mul(n).saturating_add(from)
        };
        let mut found = None;
        for (n, hash) in hashes.iter().enumerate() {
            let seq = place(n);
            // The chain here may have become shorter since.
            if seq > chains::contested_up_to(turn.ledger, chain) {
                break;
            }
            if chains::hash_at(turn.ledger, chain, seq) != Some(*hash) {
                found = Some(Head { seq, hash: *hash });
                break;
            }
            search.low = search.low.max(seq);
        }
        let Some(found) = found.filter(|found| found.seq > search.low) else {
            // The same as far as both go.
            flow.search = None;
            return;
        };
        search.high = found.seq;
        if search.high - search.low > 1 {
            return self.search_on(chain, turn);
        }
        search.found = Some(found);
        if self.settled.contains(&found.hash) {
            flow.search = None;
            return;
        }
        let request = Request::Entries {
            chain,
            from: found.seq,
            bytes_max: 1,
        };
        self.ask(peer, request, true, turn);
    }

    fn search_on(&mut self, chain: ChainId, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(&chain) else {
            return;
        };
        let Some(search) = flow.search.as_mut() else {
            return;
        };
        search.steps += 1;
        search.at_ms = turn.now_ms;
        if search.steps > SEARCH_STEPS_MAX {
            flow.search = None;
            return;
        }
        let span = search.high - search.low;
        let step = span.div_ceil(u64::from(HASHES_MAX));
        let count = u32::try_from(span.div_ceil(step)).unwrap_or(HASHES_MAX);
        // The last one asked for is `high`, the first one is above `low`.
        let from = search.high - step * (u64::from(count) - 1);
        let peer = search.peer;
        let request = Request::Hashes {
            chain,
            from,
            step,
            count,
        };
        self.ask(peer, request, false, turn);
    }

    fn want_proof(&mut self, peer: PublicKey, chain: ChainId, proof: Digest, turn: &mut Turn<'_>) {
        #[cfg(test)]
        if self.planted == Some(super::Planted::ProofsAreIgnored) {
            return;
        }
        let known = chains::is_known(turn.ledger, chain);
        let settled = self.settled.contains(&proof);
        // Another one than ours may be of an earlier place.
        if known && !settled && chains::fork(turn.ledger, chain) != Some(proof) {
            self.ask(peer, Request::Fork { chain }, false, turn);
        }
    }

    /// A namespace with two histories takes nothing until the authority chain ends that; the
    /// authority chain itself may be recovered by what follows.
    fn stands_still(&self, chain: ChainId, turn: &Turn<'_>) -> bool {
        chain != ChainId::Authority && chains::fork(turn.ledger, chain).is_some()
    }
}
