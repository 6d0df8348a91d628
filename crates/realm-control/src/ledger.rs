//! Both chains of a realm, folded: what a new entry must satisfy, and what it changes.
//!
//! [`Ledger::check`] decides without effect; the node makes the entry durable; then
//! [`Ledger::apply`] takes effect and cannot fail. Whether an entry is admitted depends on its own
//! chain and on the authority chain *up to the head that its signer saw*, never on what came to
//! the authority chain since: so every interleaving of the two chains ends in one state.
//! Not here: files, forks between nodes, who sent it.

mod files;
mod nodes;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::entry::{
    ApproveNode, Body, ChainId, ENTRY_BYTES_MAX, Head, Payload, RealmId, RestartBody, Trust,
    VerifiedEntry,
};
use realm_model::key::PublicKey;
use realm_model::lock::Lock;
use realm_model::manifest::Manifest;
use realm_model::refusal::{Refusal, RefusalCode};

use crate::authority::Authority;
use crate::desired::Desired;
pub use files::check_files;

/// The folded state of a realm's chains.
#[derive(Debug, Clone)]
pub struct Ledger {
    authority: Authority,
    desired: Desired,
    chains: BTreeMap<ChainId, Accepted>,
}

/// An entry that the ledger's state admits, with its effect worked out.
#[derive(Debug, Clone)]
pub struct Admitted {
    entry: VerifiedEntry,
    effect: Effect,
}

/// What was accepted on one chain.
#[derive(Debug, Clone, Default)]
struct Accepted {
    /// SHA-256 of each entry's bytes: tells a replay from an old entry that never was one.
    entries: BTreeSet<Digest>,
    /// The newest authority entry that a signer of this chain had seen.
    authority_seen: u64,
}

#[derive(Debug, Clone)]
enum Effect {
    Approve(ApproveNode),
    Revoke(PublicKey),
    Manifest {
        manifest: Arc<Manifest>,
        manifest_text: Arc<str>,
        lock: Lock,
        lock_text: Arc<str>,
    },
    Push {
        lock: Lock,
        lock_text: Arc<str>,
    },
    Restart(RestartBody),
}

impl Admitted {
    /// The entry: what has to be durable before it is applied.
    pub const fn entry(&self) -> &VerifiedEntry {
        &self.entry
    }
}

impl Ledger {
    /// The ledger of a realm of which only the first entry is known.
    ///
    /// # Panics
    /// If the entry does not come from [`VerifiedEntry::genesis`].
    pub fn found(genesis: VerifiedEntry) -> Self {
        let Body::Genesis(body) = &genesis.payload().body else {
            panic!("a ledger begins with a genesis");
        };
        let authority = Authority::found(body, genesis.head());
        let mut first = Accepted::default();
        first.entries.insert(Digest::of(genesis.bytes()));
        Self {
            desired: Desired::nothing(authority.realm.origin()),
            authority,
            chains: [
                (ChainId::Authority, first),
                (ChainId::Default, Accepted::default()),
            ]
            .into(),
        }
    }

    /// Checks the bytes of an entry for `chain`, without any effect: first what
    /// [`VerifiedEntry::verify`] lists, then that the signer knew this authority chain, then what
    /// the entry says.
    ///
    /// An authority head that this ledger has not reached is a `gap` (the entries before it are
    /// missing here), one with another hash is a `wrong-parent` (two histories), and one older
    /// than that of the chain's last entry is `stale`.
    pub fn check(&self, chain: ChainId, bytes: &[u8]) -> Result<Admitted, Refusal> {
        // The size first: hashing is work.
        if bytes.len() <= ENTRY_BYTES_MAX && self.has_accepted(chain, &Digest::of(bytes)) {
            return Err(Refusal::new(
                RefusalCode::Replayed,
                "exactly this entry was accepted already",
            ));
        }
        let trust = Trust {
            realm: self.realm(),
            chain,
            head: self.head(chain),
            keys: &self.authority.owners,
            threshold: self.authority.threshold,
        };
        let entry = VerifiedEntry::verify(bytes, &trust)?;
        self.check_authority_head(chain, entry.payload())?;
        let effect = match chain {
            ChainId::Authority => nodes::effect(&self.authority, entry.payload())?,
            ChainId::Default => wanted::effect(&self.desired, &self.authority, entry.payload())?,
        };
        Ok(Admitted { entry, effect })
    }

    /// Takes an admitted entry into the state. Call it after the entry is durable.
    ///
    /// # Panics
    /// If another entry of that chain was applied since `check`: its effect was worked out for a
    /// state that is gone, and going on would leave the memory unlike the log.
    pub fn apply(&mut self, admitted: Admitted) {
        let Admitted { entry, effect } = admitted;
        let (chain, head) = (entry.chain(), entry.head());
        let before = self.head(chain);
        assert!(
            head.seq == before.seq + 1 && entry.payload().prev == before.hash,
            "an admitted entry follows the head it was checked against"
        );
        let accepted = self.chains.entry(chain).or_default();
        accepted.entries.insert(Digest::of(entry.bytes()));
        accepted.authority_seen = entry.payload().authority.seq;
        match effect {
            Effect::Approve(approval) => self.authority.approve(&approval, head),
            Effect::Revoke(key) => self.authority.revoke(&key, head),
            Effect::Manifest {
                manifest,
                manifest_text,
                lock,
                lock_text,
            } => {
                self.desired.set_manifest(manifest, manifest_text);
                self.desired.set_lock(lock, lock_text, head);
            }
            Effect::Push { lock, lock_text } => self.desired.set_lock(lock, lock_text, head),
            Effect::Restart(restart) => self.desired.restart(&restart, head),
        }
    }

    /// The realm.
    pub const fn realm(&self) -> RealmId {
        self.authority.realm
    }

    /// The last entry of `chain`.
    pub const fn head(&self, chain: ChainId) -> Head {
        match chain {
            ChainId::Authority => self.authority.head,
            ChainId::Default => self.desired.head,
        }
    }

    /// The last entry of each chain.
    pub fn heads(&self) -> BTreeMap<ChainId, Head> {
        ChainId::ALL
            .into_iter()
            .map(|chain| (chain, self.head(chain)))
            .collect()
    }

    /// What shall run.
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Who may sign, and which nodes there are.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    fn has_accepted(&self, chain: ChainId, entry: &Digest) -> bool {
        let accepted = self.chains.get(&chain);
        accepted.is_some_and(|accepted| accepted.entries.contains(entry))
    }

    fn check_authority_head(&self, chain: ChainId, payload: &Payload) -> Result<(), Refusal> {
        let seen = payload.authority;
        let Some(hash) = self.authority.hash_at(seen.seq) else {
            return Err(Refusal::new(
                RefusalCode::Gap,
                format!(
                    "its signer saw entry {} of the authority chain, the last one here is {}",
                    seen.seq, self.authority.head.seq
                ),
            ));
        };
        if hash != seen.hash {
            return Err(Refusal::new(
                RefusalCode::WrongParent,
                format!(
                    "its signer saw another entry {} of the authority chain than the one here",
                    seen.seq
                ),
            ));
        }
        // A later entry may not stand on an older list of owners and nodes: that would let a
        // signer choose the list.
        let newest = self.chains.get(&chain).map_or(0, |a| a.authority_seen);
        if seen.seq < newest {
            return Err(Refusal::new(
                RefusalCode::Stale,
                format!(
                    "its signer saw entry {} of the authority chain, the entry before it {newest}",
                    seen.seq
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
