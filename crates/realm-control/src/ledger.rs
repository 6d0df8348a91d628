//! All chains of a realm, folded: what a new entry must satisfy, and what it changes.
//!
//! [`Ledger::check`] decides without effect; the node makes the entry durable; then
//! [`Ledger::apply`] takes effect and cannot fail. Whether an entry is admitted depends on its own
//! chain and on the authority chain *up to the head that its signer saw*; what came to the authority
//! chain since can only abandon it (a fence, a recovery), and does so in whatever order the two
//! arrive: so every interleaving of the chains ends in one state. Where entries are abandoned, the
//! logs are folded anew ([`Ledger::replay`]). Not here: files, who sent it.

mod check;
mod files;
mod floor;
mod fork;
mod nodes;
mod powers;
mod replay;
mod scope;
mod steps;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::entry::{
    Body, ChainId, Delegate, Fence, Head, NamespaceName, RealmId, RestartBody, SetNode,
    VerifiedEntry, WeighBody,
};
use realm_model::key::PublicKey;
use realm_model::lock::Lock;
use realm_model::manifest::Manifest;
use realm_model::name::NodeName;

use crate::authority::{ApprovedNode, Authority, BeaconRule, OwnerSet};
use crate::desired::Desired;
use crate::namespace::NamespaceState;
pub use check::{CheckError, Fork};
pub use files::check_files;
pub use fork::{Frozen, Held};
pub use replay::{Logs, ReplayError, Replayed};
use steps::Steps;

/// The folded state of a realm's chains.
#[derive(Debug, Clone)]
pub struct Ledger {
    authority: Authority,
    desired: Desired,
    chains: BTreeMap<ChainId, Steps>,
    /// Namespaces whose chain is below a fence, as they stand at its end: what is in force waits until
    /// the entry that the fence names is here.
    unsettled: BTreeMap<NamespaceName, NamespaceState>,
    frozen: BTreeMap<ChainId, Frozen>,
    /// How each authority entry was signed, by sequence number.
    ranks: Vec<Rank>,
    /// Authority entries that a recovery put an end to, as far as they were ever here.
    abandoned: BTreeSet<Digest>,
}

/// An entry that the ledger's state admits, with its effect worked out.
#[derive(Debug, Clone)]
pub struct Admitted {
    entry: VerifiedEntry,
    /// Of an authority entry.
    rank: Rank,
    effect: Effect,
    /// Whether what is in force waits for the entry that a fence names.
    waits: bool,
}

/// What follows from an entry that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "entries may have to be abandoned"]
pub struct Applied {
    /// Entries are abandoned: nothing was changed in memory, and the logs, which have the new entry,
    /// are to be folded anew with [`Ledger::replay`].
    pub rebuild: bool,
}

/// How much an authority entry weighs against another one at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// An approval by a delegate.
    Delegate,
    /// The owners' threshold.
    Owners,
    /// The owners, with the proof of a fork.
    Recovered,
    /// A recovery key.
    Recovery,
}

#[derive(Debug, Clone)]
enum Effect {
    Approve(NodeName, ApprovedNode),
    Revoke(PublicKey),
    SetNode(SetNode),
    Owners(OwnerSet),
    Delegate(Box<Delegate>),
    Undelegate(NamespaceName),
    SetBeacon(Option<BeaconRule>),
    Fence,
    Manifest {
        manifest: Arc<Manifest>,
        manifest_text: Arc<str>,
        lock: Lock,
        lock_text: Arc<str>,
    },
    Push {
        /// The one in force, with the component as it was signed.
        manifest: Arc<Manifest>,
        lock: Lock,
        lock_text: Arc<str>,
    },
    Restart(RestartBody),
    Weigh(WeighBody),
    Rollback {
        /// The one in force, with the component as it was.
        manifest: Arc<Manifest>,
        lock: Lock,
        lock_text: Arc<str>,
    },
    /// It takes the place of another entry: what follows shows when the logs are folded anew.
    Replace,
}

impl Admitted {
    /// The entry: what has to be durable before it is applied.
    pub const fn entry(&self) -> &VerifiedEntry {
        &self.entry
    }

    /// Whether it is in force once it is applied, so that its chain's high-water mark rises to it.
    pub const fn takes_force(&self) -> bool {
        !self.waits
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
        let origin = authority.realm.origin();
        Self {
            desired: Desired::nothing(origin),
            authority,
            chains: [
                (ChainId::Authority, Steps::from(origin)),
                (ChainId::DEFAULT, Steps::from(origin)),
            ]
            .into(),
            unsettled: BTreeMap::new(),
            frozen: BTreeMap::new(),
            ranks: vec![Rank::Owners],
            abandoned: BTreeSet::new(),
        }
    }

    /// Takes an admitted entry into the state. Call it after the entry is durable.
    ///
    /// # Panics
    /// If another entry of that chain was applied since `check`: its effect was worked out for a
    /// state that is gone, and going on would leave the memory unlike the log.
    pub fn apply(&mut self, admitted: Admitted) -> Applied {
        let Admitted {
            entry,
            rank,
            effect,
            waits,
        } = admitted;
        let (chain, head) = (entry.chain(), entry.head());
        let payload = entry.payload();
        if matches!(effect, Effect::Replace) || self.abandons(payload.body.fences()) {
            return Applied { rebuild: true };
        }
        let before = self.head(chain);
        assert!(
            head.seq == before.seq + 1 && payload.prev == before.hash,
            "an admitted entry follows the head it was checked against"
        );
        let steps = self.chains.get_mut(&chain).expect("a head has a chain");
        steps.push(head.hash, payload.authority.seq);
        match chain {
            ChainId::Authority => {
                self.ranks.push(rank);
                self.apply_authority(&entry, effect);
            }
            ChainId::Namespace(name) => self.apply_wanted(name, &entry, effect, waits),
        }
        self.thaw();
        Applied { rebuild: false }
    }

    fn apply_authority(&mut self, entry: &VerifiedEntry, effect: Effect) {
        let authority = &mut self.authority;
        authority.advance(entry.head());
        match effect {
            Effect::Approve(name, node) => authority.approve(&name, node),
            Effect::Revoke(key) => drop(authority.remove(&key)),
            Effect::SetNode(setting) => authority.set_node(&setting),
            Effect::Owners(set) => authority.set_owners(set),
            Effect::Delegate(delegate) => {
                authority.set_writer(delegate.namespace, Some(*delegate));
            }
            Effect::Undelegate(namespace) => authority.set_writer(namespace, None),
            Effect::SetBeacon(rule) => authority.beacon = rule,
            Effect::Fence
            | Effect::Manifest { .. }
            | Effect::Push { .. }
            | Effect::Restart(_)
            | Effect::Weigh(_)
            | Effect::Rollback { .. }
            | Effect::Replace => {}
        }
        authority.set_fences(entry.payload().body.fences());
        let origin = authority.realm.origin();
        for name in authority.namespaces() {
            let chain = ChainId::Namespace(name);
            self.chains.entry(chain).or_insert_with(|| {
                self.desired.set(name, NamespaceState::nothing(origin));
                Steps::from(origin)
            });
        }
    }

    fn apply_wanted(
        &mut self,
        name: NamespaceName,
        entry: &VerifiedEntry,
        effect: Effect,
        waits: bool,
    ) {
        let (head, seen) = (entry.head(), entry.payload().authority.seq);
        let mut state = match self.unsettled.remove(&name) {
            Some(state) => state,
            None if waits => self.state_of(name).clone(),
            None => self.desired.take(name),
        };
        match effect {
            Effect::Manifest {
                manifest,
                manifest_text,
                lock,
                lock_text,
            } => {
                state.set_manifest(manifest, manifest_text, seen, head.seq);
                state.set_lock(lock, lock_text, head);
                state.pins_came_with_the_manifest();
            }
            Effect::Push {
                manifest,
                lock,
                lock_text,
            } => state.set_manifest_and_lock(manifest, lock, lock_text, head),
            Effect::Restart(restart) => state.restart(&restart, head),
            Effect::Weigh(body) => state.weigh(&body, head),
            Effect::Rollback {
                manifest,
                lock,
                lock_text,
            } => state.set_manifest_and_lock(manifest, lock, lock_text, head),
            Effect::Approve(..)
            | Effect::Revoke(_)
            | Effect::SetNode(_)
            | Effect::Owners(_)
            | Effect::Delegate(_)
            | Effect::Undelegate(_)
            | Effect::SetBeacon(_)
            | Effect::Fence
            | Effect::Replace => {}
        }
        if waits {
            self.unsettled.insert(name, state);
        } else {
            self.desired.set(name, state);
        }
    }

    /// Whether entries that are here stand beside or beyond one of these fences.
    fn abandons(&self, fences: &[Fence]) -> bool {
        fences.iter().any(|fence| {
            let Some(steps) = self.chains.get(&ChainId::Namespace(fence.namespace)) else {
                return false;
            };
            let beside = |pin: Head| steps.hash_at(pin.seq).is_some_and(|hash| hash != pin.hash);
            beside(fence.base) || beside(fence.head) || steps.head().seq > fence.head.seq
        })
    }

    /// The realm.
    pub const fn realm(&self) -> RealmId {
        self.authority.realm
    }

    /// The chains that are known: the authority chain, then those of the namespaces.
    pub fn chains(&self) -> impl Iterator<Item = ChainId> {
        self.chains.keys().copied()
    }

    /// The last entry of `chain` here; of a chain that is not known, the place before its first.
    pub fn head(&self, chain: ChainId) -> Head {
        let steps = self.chains.get(&chain);
        steps.map_or_else(|| self.realm().origin(), Steps::head)
    }

    /// The last entry of each chain.
    pub fn heads(&self) -> BTreeMap<ChainId, Head> {
        let chains = self.chains.iter();
        chains
            .map(|(chain, steps)| (*chain, steps.head()))
            .collect()
    }

    /// The last entry of `chain` that is in force: what its high-water mark says. It is behind
    /// [`Ledger::head`] while the chain is below a fence.
    pub fn in_force(&self, chain: ChainId) -> Head {
        match chain {
            ChainId::Authority => self.head(chain),
            ChainId::Namespace(name) => {
                let state = self.desired.namespaces.get(&name);
                state.map_or_else(|| self.realm().origin(), |state| state.head)
            }
        }
    }

    /// The hash of the entry of `chain` at `seq`, if it is here.
    pub fn hash_at(&self, chain: ChainId, seq: u64) -> Option<Digest> {
        self.chains.get(&chain)?.hash_at(seq)
    }

    /// What shall run.
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Who may sign, and which nodes there are.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// How the authority entry at `seq` was signed.
    fn rank_at(&self, seq: u64) -> Rank {
        let index = usize::try_from(seq).ok();
        let rank = index.and_then(|index| self.ranks.get(index));
        rank.copied().unwrap_or(Rank::Owners)
    }

    /// What a namespace says at the end of its chain, which may be ahead of what is in force.
    fn state_of(&self, name: NamespaceName) -> &NamespaceState {
        self.unsettled
            .get(&name)
            .or_else(|| self.desired.namespaces.get(&name))
            .expect("a chain has a state")
    }
}

#[cfg(test)]
mod tests;
