//! How many streams each peer may have open here, and how fast it may open them, ask, and hint.

use std::collections::HashMap;
use std::sync::Arc;

use realm_model::key::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Limits;
use crate::bucket::Bucket;
use crate::class::{Class, Protocol};

/// Peers whose buckets are remembered after they went. A peer that comes back at once finds the same
/// buckets; past this number the oldest knowledge is the least worth.
const REMEMBERED_MAX: usize = 2_048;

/// A stream that is open here; gives its place back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _own: OwnedSemaphorePermit,
    _join: Option<OwnedSemaphorePermit>,
}

struct Peer {
    class: Class,
    streams: Arc<Semaphore>,
    streams_max: usize,
    opens: Bucket,
    requests: Bucket,
    hints: Bucket,
    seen_ms: u64,
}

pub(crate) struct Slots {
    limits: Limits,
    peers: HashMap<PublicKey, Peer>,
    joins: Arc<Semaphore>,
}

impl Slots {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            peers: HashMap::new(),
            joins: Arc::new(Semaphore::new(limits.join_streams_max)),
            limits: limits.clone(),
        }
    }

    /// A place for a new stream, or none.
    pub(crate) fn stream(
        &mut self,
        peer: PublicKey,
        class: Class,
        protocol: Protocol,
        now_ms: u64,
    ) -> Option<Slot> {
        let joins =
            (class == Class::Stranger || protocol == Protocol::Join).then(|| self.joins.clone());
        let known = self.peer(peer, class, now_ms);
        if !known.opens.take(now_ms) {
            return None;
        }
        let own = known.streams.clone().try_acquire_owned().ok()?;
        let join = match joins {
            Some(joins) => Some(joins.try_acquire_owned().ok()?),
            None => None,
        };
        Some(Slot {
            _own: own,
            _join: join,
        })
    }

    pub(crate) fn may_ask(&mut self, peer: PublicKey, now_ms: u64) -> bool {
        self.peer(peer, Class::Member, now_ms).requests.take(now_ms)
    }

    pub(crate) fn may_hint(&mut self, peer: PublicKey, now_ms: u64) -> bool {
        self.peer(peer, Class::Member, now_ms).hints.take(now_ms)
    }

    fn peer(&mut self, key: PublicKey, class: Class, now_ms: u64) -> &mut Peer {
        if self.peers.len() >= REMEMBERED_MAX && !self.peers.contains_key(&key) {
            self.forget();
        }
        let limits = &self.limits;
        let fresh = || {
            let (streams_max, opens) = match class {
                Class::Member => (limits.streams_per_member_max, limits.member_streams_rate),
                Class::Client => (limits.streams_per_client_max, limits.other_streams_rate),
                Class::Stranger => (limits.streams_per_stranger_max, limits.other_streams_rate),
            };
            Peer {
                class,
                streams: Arc::new(Semaphore::new(streams_max)),
                streams_max,
                opens: Bucket::new(opens, now_ms),
                requests: Bucket::new(limits.requests_rate, now_ms),
                hints: Bucket::new(limits.hints_rate, now_ms),
                seen_ms: now_ms,
            }
        };
        let peer = self.peers.entry(key).or_insert_with(fresh);
        if peer.class != class {
            *peer = fresh();
        }
        peer.seen_ms = now_ms;
        peer
    }

    /// Drops the half that was not seen for the longest time and has no stream open.
    fn forget(&mut self) {
        let mut seen: Vec<u64> = self.peers.values().map(|peer| peer.seen_ms).collect();
        seen.sort_unstable();
        let middle = seen[seen.len() / 2];
        self.peers.retain(|_, peer| {
            peer.seen_ms > middle || peer.streams.available_permits() < peer.streams_max
        });
    }

    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.peers.len()
    }
}
