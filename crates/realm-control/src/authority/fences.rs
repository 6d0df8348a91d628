//! Where namespaces stood: what a fence says about an entry. Not what a node does about an entry that
//! it has already.

use realm_model::digest::Digest;
use realm_model::entry::{Fence, Head, NamespaceName};

use super::Authority;

/// A fence with its place in the authority chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedFence {
    /// The authority entry that has it.
    pub at: u64,
    /// The last entry that is common to all histories.
    pub base: Head,
    /// The last entry that holds, of those whose signers had not seen the authority entry.
    pub head: Head,
}

/// What the fences of a namespace say about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A fence names this very entry: it holds, with all before it.
    Pinned,
    /// It is before an entry that a fence names: whether it leads there shows when that one is here.
    Unsettled,
    /// No fence has a word against it.
    Free,
    /// It stands beside or beyond a fence.
    Abandoned,
}

impl Authority {
    /// What the fences say about an entry of `namespace` whose signer saw `authority_seq`.
    pub(crate) fn verdict(
        &self,
        namespace: NamespaceName,
        place: Head,
        authority_seq: u64,
    ) -> Verdict {
        let fences = self.fences_of(namespace);
        let mut pins = fences.iter().flat_map(|fence| [fence.base, fence.head]);
        if let Some(pin) = pins.find(|pin| pin.seq == place.seq) {
            return if pin.hash == place.hash {
                Verdict::Pinned
            } else {
                Verdict::Abandoned
            };
        }
        let beyond = |fence: &PlacedFence| place.seq > fence.head.seq && authority_seq < fence.at;
        if fences.iter().any(beyond) {
            return Verdict::Abandoned;
        }
        match fences.last() {
            Some(last) if place.seq < last.head.seq => Verdict::Unsettled,
            Some(_) | None => Verdict::Free,
        }
    }

    /// The highest entry up to `seq` that a fence names, if the chain has it there.
    pub(crate) fn pin_below(
        &self,
        namespace: NamespaceName,
        seq: u64,
        hash_at: impl Fn(u64) -> Option<Digest>,
    ) -> Option<Head> {
        let fences = self.fences_of(namespace).iter();
        fences
            .flat_map(|fence| [fence.base, fence.head])
            .filter(|pin| pin.seq <= seq && hash_at(pin.seq) == Some(pin.hash))
            .max()
    }

    /// The fences of a namespace, the oldest first; their heads never go back.
    pub fn fences_of(&self, namespace: NamespaceName) -> &[PlacedFence] {
        self.fences.get(&namespace).map_or(&[], Vec::as_slice)
    }

    /// The newest fence of a namespace that stood when `seq` was the last entry.
    pub(crate) fn fence_at(&self, namespace: NamespaceName, seq: u64) -> Option<&PlacedFence> {
        let mut fences = self.fences_of(namespace).iter().rev();
        fences.find(|fence| fence.at <= seq)
    }

    pub(crate) fn set_fences(&mut self, fences: &[Fence]) {
        for fence in fences {
            let placed = PlacedFence {
                at: self.head.seq,
                base: fence.base,
                head: fence.head,
            };
            self.fences.entry(fence.namespace).or_default().push(placed);
        }
    }
}
