//! Whether a chain has come back to where it stood: for a node whose log lost entries that were in
//! force. Until then it must run nothing, since what it knows is older. Not here: fetching them.

use realm_model::entry::{ChainId, Head};

use super::{Ledger, Rank};

impl Ledger {
    /// Whether `chain` has come as far as `floor`, the entry that was in force here last: the entry is
    /// there, or the owners ended the history that it belongs to. `authority_seq` is how far the
    /// authority chain was known then; it must have come back first.
    pub fn reaches(&self, chain: ChainId, floor: Head, authority_seq: u64) -> bool {
        if floor == self.realm().origin() || self.hash_at(chain, floor.seq) == Some(floor.hash) {
            return true;
        }
        match chain {
            // The one thing that sets the authority chain back.
            ChainId::Authority => (1..=self.head(chain).seq.min(floor.seq))
                .any(|seq| self.rank_at(seq) >= Rank::Recovered),
            ChainId::Namespace(_) if !self.chains.contains_key(&chain) => true,
            ChainId::Namespace(name) => {
                let fences = self.authority.fences_of(name).iter();
                let mut holding = fences
                    .filter(|fence| self.hash_at(chain, fence.head.seq) == Some(fence.head.hash));
                holding.any(|fence| {
                    let beside = fence.base.seq < floor.seq && floor.seq <= fence.head.seq;
                    // Its signer cannot have known an entry that this node did not know.
                    let beyond = fence.head.seq < floor.seq && authority_seq < fence.at;
                    beside || beyond
                })
            }
        }
    }
}
