//! The few questions that sync has for the ledger, in one place.

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head};
use realm_model::record::{ChainFork, ChainHead, limits};

use crate::ledger::Ledger;
use crate::records::Members;

/// How a peer's last entry stands to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// The same entry.
    Same,
    /// They have more, as far as a number says.
    Ahead,
    /// They have less of the same.
    Behind,
    /// Another entry stands at that number here.
    Diverged,
}

pub(super) fn relation(ledger: &Ledger, chain: ChainId, theirs: Head) -> Relation {
    let ours = head(ledger, chain);
    if theirs == ours {
        Relation::Same
    } else if theirs.seq > ours.seq {
        Relation::Ahead
    } else if hash_at(ledger, chain, theirs.seq) == Some(theirs.hash) {
        Relation::Behind
    } else {
        Relation::Diverged
    }
}

pub(super) fn members(ledger: &Ledger) -> Members {
    let nodes = ledger.authority().nodes.values();
    nodes.map(|node| (node.key.into(), node.key)).collect()
}

pub(super) fn heads(ledger: &Ledger) -> Vec<ChainHead> {
    let heads = ledger.heads().into_iter();
    let heads = heads.map(|(chain, head)| head.of(chain));
    heads.take(limits::CHAINS_MAX).collect()
}

pub(super) fn head(ledger: &Ledger, chain: ChainId) -> Head {
    ledger.head(chain)
}

/// The last place at which a peer's entry may have to be judged against what is here: a chain may
/// stand still at a place of which this node has neither entry.
pub(super) fn contested_up_to(ledger: &Ledger, chain: ChainId) -> u64 {
    let mut frozen = ledger.frozen().filter(|(frozen, _)| *frozen == chain);
    let frozen = frozen.next().map_or(0, |(_, frozen)| frozen.seq);
    head(ledger, chain).seq.max(frozen)
}

pub(super) fn is_known(ledger: &Ledger, chain: ChainId) -> bool {
    ledger.heads().contains_key(&chain)
}

pub(super) fn hash_at(ledger: &Ledger, chain: ChainId, seq: u64) -> Option<Digest> {
    ledger.hash_at(chain, seq)
}

pub(super) fn forks(ledger: &Ledger) -> Vec<ChainFork> {
    let forks = ledger.frozen().map(|(chain, frozen)| ChainFork {
        chain,
        proof: frozen.proof,
    });
    forks.take(limits::CHAINS_MAX).collect()
}

pub(super) fn fork(ledger: &Ledger, chain: ChainId) -> Option<Digest> {
    let mut frozen = ledger.frozen().filter(|(frozen, _)| *frozen == chain);
    frozen.next().map(|(_, frozen)| frozen.proof)
}
