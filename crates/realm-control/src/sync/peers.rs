//! What is known of each peer: whether it is connected, what it may cost, and how it behaved.

use std::collections::BTreeMap;

use realm_model::entry::ChainId;
use realm_model::key::PublicKey;
use realm_model::sync::Request;

use super::budget::Bucket;
use super::{
    ASK_TIMEOUT_MS, EVIDENCE_BYTES_MAX, EVIDENCE_MAX, Evidence, FAR_ROUND_MS, HEDGE_MS,
    JITTER_PERCENT, ROUND_MS, Sync, Turn,
};

/// Bytes that a peer may be sent at once, and per second: a new node fetches a long chain at the
/// speed of a disk, a greedy one leaves the link to others.
const SERVED_BYTES: (i64, i64) = (32 << 20, 8 << 20);

/// Requests that a peer may make at once, and per second.
const REQUESTS: (i64, i64) = (200, 50);

/// Signatures checked for a peer at once: all records of a realm after a partition.
const CHECKS_MAX: i64 = 4_096;

/// Signatures checked for a peer per second: at some 50 µs each a fiftieth of a core.
const CHECKS_PER_S: i64 = 400;

/// Hints read of a peer at once, and per second: reading one costs some microseconds.
const HINTS: (i64, i64) = (4_096, 2_000);

/// The first silence after bad bytes; it doubles with each.
const MUTE_MS: u64 = 1_000;

/// The longest silence: a peer that was repaired is heard again within minutes.
const MUTE_MS_MAX: u64 = 300_000;

/// A peer that was bad that often, and seldom good in between, is told of: a disk or a wire may do it once.
const SHUNNED_AT: u32 = 3;

/// How long it is told of after it is listened to again: as long as a person needs to see it, and so that it does
/// not come and go with each silence.
const SHUNNED_MS: u64 = 60_000;

/// The first pause of a chain with a peer after an entry that is not taken; it doubles.
const REST_MS: u64 = 5_000;

/// The longest such pause.
const REST_MS_MAX: u64 = 60_000;

/// The longest time that a peer may ask to be left alone.
const BUSY_MS_MAX: u64 = 60_000;

/// The first pause before a comparison that failed is made again; it doubles. A peer that has just
/// approved this node knows it some moments later.
const AGAIN_MS: u64 = 100;

/// One peer.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) connected: bool,
    pub(super) penalty: u32,
    pub(super) muted_until_ms: u64,
    busy_until_ms: u64,
    /// When summaries were compared, or were to be compared, last.
    pub(super) compared_ms: u64,
    /// When a comparison that failed is made again.
    again_ms: Option<u64>,
    /// How often in a row it failed.
    failures: u32,
    /// Chain → (no question about it before, how often in a row).
    rests: BTreeMap<ChainId, (u64, u32)>,
    pub(super) served: Bucket,
    pub(super) requests: Bucket,
    pub(super) checks: Bucket,
    pub(super) hints: Bucket,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            connected: false,
            penalty: 0,
            muted_until_ms: 0,
            busy_until_ms: 0,
            compared_ms: 0,
            again_ms: None,
            failures: 0,
            rests: BTreeMap::new(),
            served: Bucket::full(SERVED_BYTES.0, SERVED_BYTES.1),
            requests: Bucket::full(REQUESTS.0, REQUESTS.1),
            checks: Bucket::full(CHECKS_MAX, CHECKS_PER_S),
            hints: Bucket::full(HINTS.0, HINTS.1),
        }
    }
}

impl Peer {
    pub(super) const fn is_muted(&self, now_ms: u64) -> bool {
        now_ms < self.muted_until_ms
    }

    pub(super) const fn is_shunned(&self, now_ms: u64) -> bool {
        self.penalty >= SHUNNED_AT && now_ms < self.muted_until_ms.saturating_add(SHUNNED_MS)
    }

    pub(super) const fn is_busy(&self, now_ms: u64) -> bool {
        now_ms < self.busy_until_ms
    }

    pub(super) fn put_off(&mut self, retry_ms: u32, now_ms: u64) {
        self.busy_until_ms = now_ms + u64::from(retry_ms).min(BUSY_MS_MAX);
    }

    pub(super) fn rests(&self, chain: ChainId, now_ms: u64) -> bool {
        self.rests
            .get(&chain)
            .is_some_and(|(until, _)| now_ms < *until)
    }

    pub(super) fn rest(&mut self, chain: ChainId, now_ms: u64) {
        let (until, times) = self.rests.entry(chain).or_default();
        *until = now_ms + doubled(REST_MS, *times, REST_MS_MAX);
        *times += 1;
    }

    pub(super) fn wake(&mut self, chain: ChainId) {
        self.rests.remove(&chain);
    }

    pub(super) fn wake_all(&mut self) {
        self.rests.clear();
    }
}

impl Sync {
    pub(super) fn peer_up(&mut self, peer: PublicKey, turn: &mut Turn<'_>) {
        if peer == self.own || !self.members.contains_key(&peer.into()) {
            return;
        }
        self.peers.entry(peer).or_default().connected = true;
        self.compare_with(peer, turn);
    }

    pub(super) fn peer_down(&mut self, peer: PublicKey) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.connected = false;
            peer.again_ms = None;
            peer.failures = 0;
        }
    }

    /// No summary came back; it is asked for again while the peer is connected.
    pub(super) fn comparison_failed(&mut self, peer: PublicKey, turn: &Turn<'_>) {
        if let Some(peer) = self.peers.get_mut(&peer).filter(|peer| peer.connected) {
            let pause_ms = doubled(AGAIN_MS, peer.failures, ROUND_MS);
            peer.again_ms = Some(turn.now_ms + pause_ms);
            peer.failures = peer.failures.saturating_add(1);
        }
    }

    pub(super) fn comparison_came(&mut self, peer: PublicKey) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.again_ms = None;
            peer.failures = 0;
        }
    }

    /// When a comparison that failed is due.
    pub(super) fn again_ms(&self) -> Option<u64> {
        self.peers.values().filter_map(|peer| peer.again_ms).min()
    }

    fn compare_again(&mut self, turn: &mut Turn<'_>) {
        let due = self.peers.iter_mut().filter_map(|(key, peer)| {
            let due = peer.again_ms.is_some_and(|at_ms| at_ms <= turn.now_ms);
            due.then(|| {
                peer.again_ms = None;
                *key
            })
        });
        for peer in due.collect::<Vec<_>>() {
            self.compare_with(peer, turn);
        }
    }

    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        let now_ms = turn.now_ms;
        self.ticked_ms = now_ms;
        let late = |at_ms: u64| now_ms >= at_ms + ASK_TIMEOUT_MS;
        let gone: Vec<u64> = self
            .asks
            .iter()
            .filter(|(_, asked)| late(asked.at_ms))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.failed(id, turn);
        }
        self.compare_again(turn);
        if now_ms >= self.next_round_ms {
            self.next_round_ms = now_ms + self.random.jitter(ROUND_MS, JITTER_PERCENT);
            if let Some(peer) = self.choose(true, now_ms) {
                self.compare_with(peer, turn);
            }
        }
        if now_ms >= self.next_far_ms {
            self.next_far_ms = now_ms + self.random.jitter(FAR_ROUND_MS, JITTER_PERCENT);
            if let Some(peer) = self.choose(false, now_ms) {
                self.compare_with(peer, turn);
            }
        }
        // Somebody who was asked for entries may have died: others are asked.
        let waiting = |at_ms: u64| now_ms >= at_ms + HEDGE_MS;
        for flow in self.flows.values_mut() {
            flow.hedge(waiting);
        }
        self.pump_all(turn);
    }

    pub(super) fn compare_with(&mut self, peer: PublicKey, turn: &mut Turn<'_>) {
        let summary = self.summary(turn.ledger);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.compared_ms = turn.now_ms;
        }
        self.ask(peer, Request::Summary(summary), false, turn);
    }

    /// Peers of which a person should hear: not listened to at this time, or a moment ago, since what they sent was
    /// bad again and again; with the code of the last of it, as far as that is kept.
    pub fn shunned(&self, now_ms: u64) -> impl Iterator<Item = (PublicKey, Option<&'static str>)> {
        let shunned = self
            .peers
            .iter()
            .filter(move |(_, peer)| peer.is_shunned(now_ms));
        shunned.map(|(key, _)| {
            let mut last = self.evidence.iter().rev().filter(|one| one.peer == *key);
            (*key, last.next().map(|one| one.code))
        })
    }

    /// Writes down what an honest peer does not send, and listens to it less.
    pub(super) fn blame(
        &mut self,
        peer: PublicKey,
        code: &'static str,
        bytes: &[u8],
        turn: &Turn<'_>,
    ) {
        self.count(code);
        if self.evidence.len() >= EVIDENCE_MAX {
            self.evidence.pop_front();
        }
        let kept = bytes.len().min(EVIDENCE_BYTES_MAX);
        self.evidence.push_back(Evidence {
            peer,
            code,
            at_ms: turn.now_ms,
            bytes: bytes[..kept].to_vec(),
        });
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.muted_until_ms = turn.now_ms + doubled(MUTE_MS, peer.penalty, MUTE_MS_MAX);
            peer.penalty = (peer.penalty + 1).min(u32::BITS - 1);
        }
    }

    /// Something of this peer was verified: a mistake of it is forgotten.
    pub(super) fn praise(&mut self, peer: PublicKey) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.penalty = peer.penalty.saturating_sub(1);
        }
    }

    /// The peer with which nothing was compared for the longest time: by chance alone some would
    /// wait for minutes. Of several a random one.
    fn choose(&mut self, connected: bool, now_ms: u64) -> Option<PublicKey> {
        let mut oldest_ms = u64::MAX;
        let mut candidates = Vec::new();
        for key in self.members.values().filter(|key| **key != self.own) {
            let peer = self.peers.get(key);
            if peer.is_some_and(|peer| peer.connected) != connected
                || peer.is_some_and(|peer| peer.is_muted(now_ms) || peer.is_busy(now_ms))
            {
                continue;
            }
            let compared_ms = peer.map_or(0, |peer| peer.compared_ms);
            if compared_ms < oldest_ms {
                oldest_ms = compared_ms;
                candidates.clear();
            }
            if compared_ms == oldest_ms {
                candidates.push(*key);
            }
        }
        let n = u64::try_from(candidates.len()).expect("a usize fits");
        let index = usize::try_from(self.random.below(n)).expect("below a length");
        candidates.get(index).copied()
    }
}

fn doubled(first_ms: u64, times: u32, max_ms: u64) -> u64 {
    let factor = 1u64.checked_shl(times).unwrap_or(u64::MAX);
    first_ms.saturating_mul(factor).min(max_ms)
}
