//! What an authority chain that a stranger sent must prove before a machine becomes its node: the
//! realm, the ticket's floor, the approval, and the signature of the owner that the machine waits
//! for. Pure; not here: how the bytes come.

use std::collections::BTreeMap;

use realm_control::Ledger;
use realm_model::entry::{Body, ChainId, Head, Opened, RealmId, VerifiedEntry};
use realm_model::key::PublicKey;
use realm_model::refusal::Refusal;

use super::exchange::ExchangeError;

/// Bytes of an authority chain that are taken from a stranger: hundreds of thousands of approvals.
pub(super) const CHAIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A chain that a member sent does not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChainError {
    #[error("an entry of the authority chain is refused")]
    Refused(#[from] Refusal),
    #[error("the authority chain does not hold")]
    Replay(#[from] realm_control::ReplayError),
    #[error("the authority chain is empty")]
    Empty,
    #[error(
        "the authority chain does not contain entry {0} of the ticket: it was set back, or is another one"
    )]
    BelowFloor(u64),
    #[error("the realm's owners are not the one that this machine waits for")]
    OtherOwner,
    #[error(
        "the owner that this machine waits for signed neither the realm's first entry nor the approval"
    )]
    NotSignedByOwner,
    #[error("the chain does not approve this machine's key")]
    NotApproved,
    #[error("the authority chain is larger than {CHAIN_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the authority chain did not come in time")]
    TooSlow,
    #[error("the check of the authority chain broke off")]
    Broken,
    #[error("a member did not answer")]
    Exchange(#[from] ExchangeError),
    #[error("a member answered something else: {0}")]
    Odd(String),
}

/// What a chain is held against.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// The realm that was asked.
    pub(super) realm: RealmId,
    /// The entry that the ticket vouches for.
    pub(super) floor: Option<Head>,
    /// The owner whose realm alone is joined.
    pub(super) owner: Option<PublicKey>,
    /// This machine's key.
    pub(super) node: PublicKey,
}

impl Expected {
    /// Folds a chain, and checks that this machine may become a node by it.
    pub(super) fn check(&self, entries: &[Vec<u8>]) -> Result<Ledger, ChainError> {
        let genesis = entries.first().ok_or(ChainError::Empty)?;
        let genesis = VerifiedEntry::genesis(genesis, Some(self.realm))?;
        let records = [(ChainId::Authority, entries.to_vec())].into();
        let ledger = Ledger::replay(&records, &BTreeMap::new())?.ledger;
        let authority = ledger.authority();
        if let Some(floor) = self.floor
            && ledger.hash_at(ChainId::Authority, floor.seq) != Some(floor.hash)
        {
            return Err(ChainError::BelowFloor(floor.seq));
        }
        if authority.name_of(&self.node).is_none() {
            return Err(ChainError::NotApproved);
        }
        if let Some(owner) = self.owner {
            if !authority.owners.contains(&owner) {
                return Err(ChainError::OtherOwner);
            }
            if !founded_by(&genesis, owner) && !self.approved_by(owner, entries) {
                return Err(ChainError::NotSignedByOwner);
            }
        }
        Ok(ledger)
    }

    /// Whether this owner itself signed, in this realm, that this machine is a node.
    fn approved_by(&self, owner: PublicKey, entries: &[Vec<u8>]) -> bool {
        entries.iter().any(|bytes| {
            let Ok(opened) = Opened::open(bytes, self.realm, ChainId::Authority) else {
                return false;
            };
            let approves = opened.claims().is_ok_and(|(payload, _)| {
                approved_key(&payload.body).is_some_and(|key| key == self.node)
            });
            approves && opened.signed(&[owner]).is_ok()
        })
    }
}

/// Whether this owner signed the realm's first entry. That the entry names it says nothing: whoever
/// knows a public key may name it as an owner beside its own.
pub(super) fn founded_by(genesis: &VerifiedEntry, owner: PublicKey) -> bool {
    genesis.signers().contains(&owner)
}

fn approved_key(body: &Body) -> Option<PublicKey> {
    match body {
        Body::ApproveNode(approval) => Some(approval.key),
        Body::ApproveUntil(approval) => Some(approval.key),
        Body::Genesis(_)
        | Body::RevokeNode(_)
        | Body::SetNode(_)
        | Body::Rotate(_)
        | Body::Delegate(_)
        | Body::Undelegate(_)
        | Body::Resolve(_)
        | Body::Recover(_)
        | Body::SetBeacon(_)
        | Body::Manifest(_)
        | Body::Push(_)
        | Body::Restart(_)
        | Body::Weigh(_)
        | Body::Rollback(_) => None,
    }
}

#[cfg(test)]
mod tests;
