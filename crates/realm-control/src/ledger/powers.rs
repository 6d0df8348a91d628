//! Who may say what on the authority chain, and how much it weighs. Not what it says: that is
//! `nodes`.

use realm_model::digest::Digest;
use realm_model::entry::{
    Body, ChainId, Delegate, Head, Opened, Recover, Rotate, VerifiedEntry, check_owners,
};
use realm_model::key::PublicKey;
use realm_model::refusal::{Refusal, RefusalCode};

use super::{Ledger, Rank};

impl Ledger {
    /// Checks that an entry after `parent_seq` was signed by those who may say what it says.
    pub(super) fn authorize(
        &self,
        entry: &VerifiedEntry,
        parent_seq: u64,
    ) -> Result<Rank, Refusal> {
        let set = self.authority.owners_at(parent_seq);
        let by_recovery = entry
            .signers()
            .iter()
            .any(|signer| set.recovery.contains(signer));
        let by_owners = entry.require(&set.owners, set.threshold);
        match &entry.payload().body {
            Body::Recover(recover) => {
                check_owners(&recover.owners, recover.threshold)?;
                if by_recovery {
                    return Ok(Rank::Recovery);
                }
                by_owners?;
                self.check_fork(entry, recover)?;
                Ok(Rank::Recovered)
            }
            Body::Resolve(_) if by_recovery => Ok(Rank::Owners),
            Body::Rotate(Rotate {
                owners,
                threshold,
                recovery,
                ..
            }) => {
                by_owners?;
                // A thief of the owners' keys would put a key of its own in the place of the one
                // that is there against it.
                if !set.recovery.is_empty() && !by_recovery && !same(&set.recovery, recovery) {
                    return Err(Refusal::new(
                        RefusalCode::WrongOwner,
                        "the recovery keys change only if one of them signs as well",
                    ));
                }
                check_owners(owners, *threshold)?;
                // Who cannot sign must not become an owner: a slip would lock everybody out.
                entry.require(owners, *threshold)?;
                Ok(Rank::Owners)
            }
            Body::ApproveNode(_) | Body::ApproveUntil(_) if by_owners.is_err() => {
                match self.approver(entry, parent_seq) {
                    Some(_) => Ok(Rank::Delegate),
                    None => by_owners.map(|()| Rank::Owners),
                }
            }
            Body::ApproveNode(_)
            | Body::ApproveUntil(_)
            | Body::Genesis(_)
            | Body::RevokeNode(_)
            | Body::SetNode(_)
            | Body::Delegate(_)
            | Body::Undelegate(_)
            | Body::Resolve(_)
            | Body::SetBeacon(_)
            | Body::Manifest(_)
            | Body::Push(_)
            | Body::Restart(_)
            | Body::Weigh(_)
            | Body::Rollback(_) => by_owners.map(|()| Rank::Owners),
        }
    }

    /// The delegate who may approve nodes and signed the entry.
    pub(super) fn approver(&self, entry: &VerifiedEntry, parent_seq: u64) -> Option<&Delegate> {
        let namespaces = self.authority.namespaces();
        let mut delegates =
            namespaces.filter_map(|name| self.authority.delegate_at(name, parent_seq));
        delegates.find(|delegate| delegate.may_approve && entry.signers().contains(&delegate.key))
    }

    /// The owners recover only from a fork at that very place, and have to show it.
    fn check_fork(&self, entry: &VerifiedEntry, recover: &Recover) -> Result<(), Refusal> {
        let place = entry.head();
        let Some(fork) = &recover.fork else {
            return Err(Refusal::new(
                RefusalCode::WrongOwner,
                "without a recovery key, the owners recover from a fork alone, and have to show its two entries",
            ));
        };
        let first = self.side_of_fork(entry, &fork.first)?;
        let second = self.side_of_fork(entry, &fork.second)?;
        if first == second {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                format!("the fork at entry {} is the same entry twice", place.seq),
            ));
        }
        Ok(())
    }

    /// One entry of a fork that a recovery shows: at the place of the recovery, by who might sign there.
    fn side_of_fork(&self, entry: &VerifiedEntry, bytes: &[u8]) -> Result<Digest, Refusal> {
        let chain = ChainId::Authority;
        let signed = Opened::open(bytes, self.realm(), chain)?.signed(&self.signers_ever(chain))?;
        let parent = Head {
            seq: entry.head().seq - 1,
            hash: entry.payload().prev,
        };
        let side = signed.verify(parent)?;
        // One recovery does not undo another.
        if matches!(side.payload().body, Body::Recover(_)) {
            return Err(Refusal::new(
                RefusalCode::Abandoned,
                "a recovery is no side of a fork",
            ));
        }
        self.authorize(&side, parent.seq)?;
        Ok(side.head().hash)
    }
}

/// Whether two lists have the same keys.
fn same(one: &[PublicKey], other: &[PublicKey]) -> bool {
    one.len() == other.len() && one.iter().all(|key| other.contains(key))
}
