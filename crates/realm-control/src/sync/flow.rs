//! The entries of one chain on their way to the ledger: one after the other, none before its time.

use std::collections::{BTreeMap, VecDeque};

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head};
use realm_model::key::PublicKey;
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::sync::{PAGE_BYTES_MAX, Request};

use super::compare::Search;
use super::{EVIDENCE_BYTES_MAX, Judgement, Output, SETTLED_MAX, Sync, Turn, Verdict, chains};

/// Entries that came before those that they follow, for each chain: what a burst reorders.
pub(super) const EARLY_MAX: u64 = 16;

/// Peers that are remembered to have more of one chain.
const OFFERS_MAX: usize = 16;

/// Chains that are fetched at once: a bound on what their answers hold in memory.
const FETCHES_MAX: usize = 4;

/// What is under way of one chain.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Fetched, in order.
    queue: VecDeque<Waiting>,
    /// Came by gossip before its predecessors, by sequence number.
    early: BTreeMap<u64, Waiting>,
    submitted: Option<Submitted>,
    /// Who was asked for entries, and when.
    fetch: Option<(PublicKey, u64)>,
    /// Who has more, as far as it says.
    target: Option<(PublicKey, Head)>,
    /// Who else has more: asked if the first one does not answer.
    offers: BTreeMap<PublicKey, Head>,
    pub(super) search: Option<Search>,
    /// With whom to compare once this chain is caught up.
    pub(super) recompare: Option<PublicKey>,
}

/// An entry that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) from: PublicKey,
    pub(super) seq: u64,
    /// The hash of its payload by its sender's word.
    pub(super) hash: Option<Digest>,
    pub(super) bytes: Vec<u8>,
    pub(super) way: Way,
}

/// How an entry came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As a hint with this number, which waits for a judgement.
    Hint(u64),
    /// As a hint that was judged.
    Early,
    /// Because it was asked for.
    Fetched,
    /// Because another one stands at its place here.
    Contradiction,
}

#[derive(Debug, Clone)]
struct Submitted {
    from: PublicKey,
    seq: u64,
    hash: Option<Digest>,
    way: Way,
    /// What stood at its place.
    replaces: Option<Digest>,
    /// The start of it.
    bytes: Vec<u8>,
}

impl Flow {
    pub(super) fn is_busy(&self) -> bool {
        self.submitted.is_some() || !self.queue.is_empty()
    }

    /// Drops everything that was got for the ledger as it was.
    pub(super) fn forget(&mut self) {
        self.queue.clear();
        self.early.clear();
        self.target = None;
        self.offers.clear();
        self.search = None;
    }

    /// Who was asked takes too long: somebody else is the target, if there is somebody.
    pub(super) fn hedge(&mut self, is_late: impl Fn(u64) -> bool) {
        if self.fetch.is_some_and(|(_, at_ms)| is_late(at_ms))
            && let Some(other) = self.offers.pop_first()
        {
            self.fetch = None;
            self.target = Some(other);
        }
    }

    /// The peer will not answer: somebody else may be asked at once.
    pub(super) fn give_up(&mut self, peer: PublicKey) {
        if self.fetch.is_some_and(|(asked, _)| asked == peer) {
            self.fetch = None;
        }
        if self.target.is_some_and(|(asked, _)| asked == peer) {
            self.target = self.offers.pop_first();
        }
    }

    fn has(&self, seq: u64, hash: Digest) -> bool {
        let same = |s: u64, h: Option<Digest>| s == seq && h.is_none_or(|h| h == hash);
        let submitted = self.submitted.as_ref();
        submitted.is_some_and(|s| same(s.seq, s.hash))
            || self
                .queue
                .iter()
                .any(|waiting| same(waiting.seq, waiting.hash))
    }
}

impl Sync {
    /// Asks the peer for what follows the chain's head here, unless somebody was just asked.
    pub(super) fn fetch(
        &mut self,
        peer: PublicKey,
        chain: ChainId,
        target: Head,
        turn: &mut Turn<'_>,
    ) {
        let now_ms = turn.now_ms;
        let under_way = self.flows.values().filter(|flow| flow.fetch.is_some());
        let full = under_way.count() >= FETCHES_MAX;
        let rests = self
            .peers
            .get(&peer)
            .is_some_and(|p| p.rests(chain, now_ms));
        let flow = self.flows.entry(chain).or_default();
        let asked = flow
            .fetch
            .filter(|(_, at_ms)| now_ms < at_ms + super::HEDGE_MS);
        if rests {
            return;
        }
        if asked.is_some() || flow.is_busy() || (full && flow.fetch.is_none()) {
            let other = asked.is_none_or(|(asked, _)| asked != peer);
            if other && flow.offers.len() < OFFERS_MAX {
                flow.offers.insert(peer, target);
            }
            return;
        }
        let request = Request::Entries {
            chain,
            from: chains::head(turn.ledger, chain).seq.saturating_add(1),
            bytes_max: u32::try_from(PAGE_BYTES_MAX).expect("it is small"),
        };
        if self.ask(peer, request, false, turn) {
            let flow = self.flows.entry(chain).or_default();
            flow.fetch = Some((peer, now_ms));
            flow.target = Some((peer, target));
        }
    }

    /// Takes entries that a peer sent, the first of which should have the sequence number `from`.
    pub(super) fn entries(
        &mut self,
        peer: PublicKey,
        chain: ChainId,
        from: u64,
        entries: Vec<Vec<u8>>,
        turn: &mut Turn<'_>,
    ) {
        let bytes: usize = entries.iter().map(Vec::len).sum();
        if entries.len() > 1 && bytes > PAGE_BYTES_MAX {
            return self.blame(peer, "answer-oversized", &[], turn);
        }
        let flow = self.flows.entry(chain).or_default();
        if flow.fetch.is_some_and(|(asked, _)| asked == peer) {
            flow.fetch = None;
        }
        if entries.is_empty() {
            // It said that it had more.
            flow.target = flow.offers.pop_first();
            if let Some(peer) = self.peers.get_mut(&peer) {
                peer.rest(chain, turn.now_ms);
            }
            return self.pump(chain, turn);
        }
        // Two answers to one question: the first one is on its way.
        if flow.queue.is_empty() {
            let waiting = |(n, bytes)| Waiting {
                from: peer,
                seq: from.saturating_add(n),
                hash: None,
                bytes,
                way: Way::Fetched,
            };
            flow.queue = (0..).zip(entries).map(waiting).collect();
        }
        self.pump(chain, turn);
    }

    /// Takes the one entry that contradicts the one here.
    pub(super) fn contradiction(
        &mut self,
        peer: PublicKey,
        chain: ChainId,
        mut entries: Vec<Vec<u8>>,
        turn: &mut Turn<'_>,
    ) {
        let flow = self.flows.entry(chain).or_default();
        let found = flow.search.take().and_then(|search| search.found);
        if entries.is_empty() {
            return;
        }
        if let Some(found) = found {
            flow.queue.push_front(Waiting {
                from: peer,
                seq: found.seq,
                hash: Some(found.hash),
                bytes: entries.swap_remove(0),
                way: Way::Contradiction,
            });
        }
        self.pump(chain, turn);
    }

    /// Takes an entry that came by gossip.
    pub(super) fn entry_hint(
        &mut self,
        chain: ChainId,
        head: Head,
        mut waiting: Waiting,
        turn: &mut Turn<'_>,
    ) {
        let Way::Hint(id) = waiting.way else {
            return;
        };
        let peer = waiting.from;
        if !chains::is_known(turn.ledger, chain) {
            // The authority chain here may be older than theirs.
            self.compare_with(peer, turn);
            return judge(id, Judgement::Drop, turn);
        }
        let ours = chains::head(turn.ledger, chain);
        let here = chains::hash_at(turn.ledger, chain, head.seq);
        let flow = self.flows.entry(chain).or_default();
        if here == Some(head.hash)
            || flow.has(head.seq, head.hash)
            || self.settled.contains(&head.hash)
        {
            return judge(id, Judgement::Drop, turn);
        }
        let next = ours.seq.saturating_add(1);
        #[cfg(test)]
        let next = match self.planted {
            Some(super::Planted::EarlyEntries) => head.seq.max(next),
            Some(_) | None => next,
        };
        let free = !flow.is_busy();
        if free && head.seq <= next {
            if head.seq < next {
                waiting.way = Way::Contradiction;
                judge(id, Judgement::Drop, turn);
            }
            flow.queue.push_back(waiting);
            return self.pump(chain, turn);
        }
        if head.seq >= next && head.seq - next <= EARLY_MAX {
            waiting.way = Way::Early;
            let n = u64::try_from(flow.early.len()).expect("a usize fits");
            if n < EARLY_MAX {
                flow.early.entry(head.seq).or_insert(waiting);
            }
        }
        judge(id, Judgement::Drop, turn);
        if head.seq > next && free {
            self.fetch(peer, chain, head, turn);
        }
    }

    pub(super) fn pump_all(&mut self, turn: &mut Turn<'_>) {
        let chains: Vec<ChainId> = self.flows.keys().copied().collect();
        for chain in chains {
            self.pump(chain, turn);
        }
    }

    /// Submits the next entry of the chain if one is here, and fetches more if there is more.
    pub(super) fn pump(&mut self, chain: ChainId, turn: &mut Turn<'_>) {
        let next = chains::head(turn.ledger, chain).seq.saturating_add(1);
        #[cfg(test)]
        let early_is_fine = self.planted == Some(super::Planted::EarlyEntries);
        #[cfg(not(test))]
        let early_is_fine = false;
        let Some(flow) = self.flows.get_mut(&chain) else {
            return;
        };
        if flow.submitted.is_some() {
            return;
        }
        while let Some(front) = flow.queue.front() {
            let contradicts = front.way == Way::Contradiction;
            if contradicts || front.seq == next || (early_is_fine && front.seq > next) {
                break;
            }
            // It came in another way meanwhile, or the chain here became shorter.
            let front = flow.queue.pop_front();
            if let Some(Way::Hint(id)) = front.map(|front| front.way) {
                judge(id, Judgement::Drop, turn);
            }
        }
        flow.early = flow.early.split_off(&next);
        let waiting = flow.queue.pop_front().or_else(|| flow.early.remove(&next));
        if let Some(waiting) = waiting {
            return self.submit(chain, waiting, turn);
        }
        match flow.target {
            Some((peer, head)) if head.seq >= next && flow.fetch.is_none() => {
                self.fetch(peer, chain, head, turn);
            }
            Some((_, head)) if head.seq < next => {
                flow.target = None;
                flow.offers.retain(|_, head| head.seq >= next);
            }
            Some(_) | None => {}
        }
        let flow = self.flows.entry(chain).or_default();
        if flow.target.is_none()
            && !flow.is_busy()
            && let Some(peer) = flow.recompare.take()
        {
            self.compare_with(peer, turn);
        }
    }

    fn submit(&mut self, chain: ChainId, waiting: Waiting, turn: &mut Turn<'_>) {
        let kept = waiting.bytes.len().min(EVIDENCE_BYTES_MAX);
        let flow = self.flows.entry(chain).or_default();
        flow.submitted = Some(Submitted {
            from: waiting.from,
            seq: waiting.seq,
            hash: waiting.hash,
            way: waiting.way,
            replaces: chains::hash_at(turn.ledger, chain, waiting.seq),
            bytes: waiting.bytes[..kept].to_vec(),
        });
        if let Some(peer) = self.peers.get_mut(&waiting.from) {
            peer.checks.take(1);
        }
        let hint = match waiting.way {
            Way::Hint(id) => Some(id),
            Way::Early | Way::Fetched | Way::Contradiction => None,
        };
        turn.out.push(Output::Submit {
            from: waiting.from,
            chain,
            hint,
            bytes: waiting.bytes,
        });
    }

    pub(super) fn verdict(&mut self, chain: ChainId, verdict: Verdict, turn: &mut Turn<'_>) {
        let flow = self.flows.entry(chain).or_default();
        let Some(submitted) = flow.submitted.take() else {
            return;
        };
        let judgement = match verdict {
            Verdict::Applied => {
                self.praise(submitted.from);
                self.applied(chain, &submitted);
                Judgement::Forward
            }
            Verdict::Forked => {
                flow.forget();
                self.announce = true;
                self.settle(submitted.hash);
                self.count(RefusalCode::Forked.as_str());
                Judgement::Drop
            }
            Verdict::Refused(refusal) => self.refused(chain, &submitted, &refusal, turn),
        };
        if let Way::Hint(id) = submitted.way {
            judge(id, judgement, turn);
        }
        // An entry of one chain may be what one of another chain waited for.
        self.pump_all(turn);
    }

    fn applied(&mut self, chain: ChainId, submitted: &Submitted) {
        // What came as a hint is passed on as one; nobody else hears of what was fetched.
        self.announce |= !matches!(submitted.way, Way::Hint(_));
        let authority = chain == ChainId::Authority;
        if authority {
            self.settled.clear();
            self.flows.entry(chain).or_default().recompare = Some(submitted.from);
        }
        // It gave way for good: it is not fetched back from those who have it still.
        self.settle(submitted.replaces);
        for (key, peer) in &mut self.peers {
            match (authority, *key == submitted.from) {
                (true, _) => peer.wake_all(),
                (false, true) => peer.wake(chain),
                (false, false) => {}
            }
        }
    }

    fn refused(
        &mut self,
        chain: ChainId,
        submitted: &Submitted,
        refusal: &Refusal,
        turn: &mut Turn<'_>,
    ) -> Judgement {
        let from = submitted.from;
        let code = refusal.code;
        if matches!(code, RefusalCode::Replayed | RefusalCode::Stale)
            && submitted.way != Way::Contradiction
        {
            self.count(code.as_str());
            return Judgement::Drop;
        }
        if let Some(flow) = self.flows.get_mut(&chain) {
            flow.queue.retain(|waiting| waiting.from != from);
            flow.give_up(from);
        }
        if is_blameworthy(code) {
            self.blame(from, code.as_str(), &submitted.bytes, turn);
            return Judgement::Blame;
        }
        self.count(code.as_str());
        match submitted.way {
            Way::Contradiction => self.settle(submitted.hash),
            // Both may mean that the histories part further down.
            Way::Hint(_) | Way::Early | Way::Fetched
                if matches!(code, RefusalCode::WrongParent | RefusalCode::Frozen) =>
            {
                self.search(from, chain, submitted.seq.saturating_sub(1), turn);
            }
            Way::Hint(_) | Way::Early | Way::Fetched => {}
        }
        if code == RefusalCode::Gap {
            // Its signer saw entries of the authority chain that are missing here.
            self.compare_with(from, turn);
        } else if let Some(peer) = self.peers.get_mut(&from) {
            peer.rest(chain, turn.now_ms);
        }
        Judgement::Drop
    }

    pub(super) fn settle(&mut self, hash: Option<Digest>) {
        if self.settled.len() >= SETTLED_MAX {
            self.settled.clear();
        }
        self.settled.extend(hash);
    }
}

/// Whether nobody who checked the bytes can have sent them on. A signer that is not known here may
/// be known to a peer with a newer authority chain.
pub(super) const fn is_blameworthy(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::Unsigned
            | RefusalCode::BadSignature
            | RefusalCode::WrongRealm
            | RefusalCode::WrongChain
            | RefusalCode::Malformed
            | RefusalCode::Oversized
    )
}

pub(super) fn judge(id: u64, judgement: Judgement, turn: &mut Turn<'_>) {
    turn.out.push(Output::Judge { id, judgement });
}
