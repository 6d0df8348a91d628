//! The bytes that answers may take in memory: those that are kept, those that come in, and those that are
//! not kept any more but that a slow client still reads. Not which of them goes: that is `store`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// What a piece costs beside its bytes.
const PIECE_BYTES: usize = 128;

/// All of a node.
pub(super) struct Budget {
    max: usize,
    /// Of one component.
    share: AtomicUsize,
    used: AtomicUsize,
}

/// What became of the requests of a component with a cache, and what it takes.
#[derive(Default)]
pub(crate) struct Counts {
    pub(super) hits: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) revalidated: AtomicU64,
    pub(super) collapsed: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) passed: AtomicU64,
    pub(super) bytes: AtomicUsize,
}

/// Where there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Among all.
    All,
    /// In what the component may have.
    Share,
}

/// Bytes that are taken until this is dropped.
pub(super) struct Taken {
    budget: Arc<Budget>,
    counts: Arc<Counts>,
    bytes: usize,
}

/// Bytes of an answer, which are taken for as long as anybody holds them.
struct Piece {
    bytes: Box<[u8]>,
    _taken: Taken,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Budget {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            max,
            share: AtomicUsize::new(max),
            used: AtomicUsize::new(0),
        }
    }

    /// What one component may have.
    pub(super) fn share(&self) -> usize {
        self.share.load(Relaxed)
    }

    /// Divides it: of several components none has more than three quarters, whatever its clients read.
    pub(super) fn divide(&self, components: usize) {
        let share = match components {
            0 | 1 => self.max,
            _ => self.max - self.max / 4,
        };
        self.share.store(share, Relaxed);
    }

    pub(super) fn take(
        self: &Arc<Self>,
        counts: &Arc<Counts>,
        bytes: usize,
    ) -> Result<Taken, Full> {
        let take = |from: &AtomicUsize, max: usize| {
            let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= max);
            from.fetch_update(Relaxed, Relaxed, more)
        };
        take(&counts.bytes, self.share()).map_err(|_| Full::Share)?;
        if take(&self.used, self.max).is_err() {
            counts.bytes.fetch_sub(bytes, Relaxed);
            return Err(Full::All);
        }
        Ok(Taken {
            budget: Arc::clone(self),
            counts: Arc::clone(counts),
            bytes,
        })
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

impl Taken {
    /// Whether they are those of this component.
    pub(super) fn is_of(&self, counts: &Arc<Counts>) -> bool {
        Arc::ptr_eq(&self.counts, counts)
    }

    /// What a piece of so many bytes takes.
    pub(super) const fn of_piece(bytes: usize) -> usize {
        bytes.saturating_add(PIECE_BYTES)
    }

    /// A copy of its own: what came may be a small part of a large buffer.
    pub(super) fn piece(self, bytes: &[u8]) -> Bytes {
        Bytes::from_owner(Piece {
            bytes: bytes.into(),
            _taken: self,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
        self.counts.bytes.fetch_sub(self.bytes, Relaxed);
    }
}
