//! Whether an entry is admitted: its place, who signed it, and what the fences say. What it says is
//! the other modules' question.

use realm_model::entry::{Body, ChainId, Head, NamespaceName, Opened, Signed, VerifiedEntry};
use realm_model::key::PublicKey;
use realm_model::refusal::{Refusal, RefusalCode};

use super::steps::Steps;
use super::{Admitted, Effect, Ledger, Rank, nodes, scope, wanted};
use crate::authority::{OwnerSet, Verdict};

/// Why an entry is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It does not hold, or not here and not yet.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is as good as the entry that has its place: the chain has two histories.
    #[error("{0}")]
    Forked(Box<Fork>),
}

/// Two entries at one place. With the bytes of the one here it makes a
/// [`ForkProof`](realm_model::entry::ForkProof).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {} of chain `{chain}` has two versions", ours.seq)]
pub struct Fork {
    /// The chain.
    pub chain: ChainId,
    /// The entry here.
    pub ours: Head,
    /// The bytes of the other one.
    pub theirs: Vec<u8>,
}

impl CheckError {
    /// The refusal: its code is counted, its words are shown.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal.clone(),
            Self::Forked(fork) => Refusal::new(RefusalCode::Forked, fork.to_string()),
        }
    }
}

/// How an entry stands to the chain here.
enum Place {
    /// It follows the last entry.
    Next,
    /// It follows an earlier one, where another stands.
    Contested,
}

impl Ledger {
    /// Checks the bytes of an entry for `chain`, without any effect: size, form, realm and chain, that
    /// it is not here already, signatures, place, that its signer knew this authority chain and was
    /// allowed to sign there, then what it says.
    ///
    /// `now_unix_s` is for entries that somebody submits here and now: then a signer whose time is over
    /// by this node's clock is refused, and one who comes second with an entry for the same place is
    /// `stale`. What comes from other nodes is not judged by a clock, and may show a fork.
    ///
    /// An authority head that this ledger has not reached is a `gap` (the entries before it are
    /// missing here), one with another hash is a `wrong-parent` (two histories), and one older
    /// than that of the entry before is `stale`.
    pub fn check(
        &self,
        chain: ChainId,
        bytes: &[u8],
        now_unix_s: Option<u64>,
    ) -> Result<Admitted, CheckError> {
        let opened = Opened::open(bytes, self.realm(), chain)?;
        let Some(steps) = self.chains.get(&chain) else {
            return Err(refused(
                RefusalCode::UnknownName,
                format!("there is no namespace `{chain}` here"),
            ));
        };
        // Before any signature: a replay must cost little. Its hash vouches for the place that it claims.
        if opened
            .claimed()
            .is_ok_and(|(entry, _, _)| steps.contains(entry))
        {
            return Err(refused(
                RefusalCode::Replayed,
                "exactly this entry was accepted already".to_owned(),
            ));
        }
        let signed = opened.signed(&self.signers_ever(chain))?;
        let place = signed.head();
        let checked = match chain {
            ChainId::Authority => self.check_authority(steps, signed, now_unix_s),
            ChainId::Namespace(name) => self.check_wanted(name, steps, signed, now_unix_s),
        };
        match checked {
            // Somebody else was first at this node: whoever signs again, on top of that, makes no fork.
            Err(CheckError::Forked(_)) if now_unix_s.is_some() => Err(stale(place, steps).into()),
            checked => checked,
        }
    }

    /// Every key that could ever sign `chain`: those whose signature may be looked at.
    pub(super) fn signers_ever(&self, chain: ChainId) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = self.authority.owners_ever().collect();
        let delegates = self.authority.delegates_ever(chain.namespace());
        keys.extend(delegates.map(|delegate| delegate.key));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn check_authority(
        &self,
        steps: &Steps,
        signed: Signed<'_>,
        now_unix_s: Option<u64>,
    ) -> Result<Admitted, CheckError> {
        let chain = ChainId::Authority;
        let (place, recovers) = (signed.head(), signed.is_recover());
        if let Some(frozen) = self.frozen.get(&chain)
            && place.seq >= frozen.seq
            && !recovers
        {
            return Err(frozen.refusal(chain).into());
        }
        let contested = match find(steps, &signed)? {
            Place::Next => false,
            Place::Contested => true,
        };
        let theirs = if contested {
            signed.bytes().to_vec()
        } else {
            Vec::new()
        };
        self.check_authority_head(steps, &signed)?;
        let parent = parent(steps, place);
        let entry = signed.verify(parent)?;
        let rank = self.authorize(&entry, parent.seq)?;
        if rank == Rank::Delegate {
            let delegate = self.approver(&entry, parent.seq);
            scope::check_time(delegate, entry.payload().created_unix_s, now_unix_s)?;
        }
        if contested {
            self.contest(&entry, rank, theirs)?;
        }
        let effect = nodes::effect(self, &entry, rank, parent.seq)?;
        let effect = if contested { Effect::Replace } else { effect };
        Ok(Admitted {
            entry,
            rank,
            effect,
            waits: contested,
        })
    }

    /// Whether an entry of the authority chain takes the place of the one that stands there.
    fn contest(
        &self,
        entry: &VerifiedEntry,
        rank: Rank,
        theirs: Vec<u8>,
    ) -> Result<(), CheckError> {
        let place = entry.head();
        let chain = ChainId::Authority;
        let hash = self
            .hash_at(chain, place.seq)
            .expect("another one is there");
        let ours = Head {
            seq: place.seq,
            hash,
        };
        let standing = self.rank_at(place.seq);
        let recovers = rank >= Rank::Recovered;
        // Two recoveries of one weight: the one that every node finds, whichever it saw first.
        let stronger = rank > standing || rank == standing && place.hash < hash;
        if recovers && stronger && self.may_rewind(entry, rank) {
            return Ok(());
        }
        if recovers || standing >= Rank::Recovered || self.is_past(place.seq, rank, entry) {
            return Err(refused(
                RefusalCode::Abandoned,
                format!(
                    "entry {} of the authority chain has a place that another one took for good",
                    place.seq
                ),
            ));
        }
        let fork = Fork {
            chain,
            ours,
            theirs,
        };
        Err(CheckError::Forked(Box::new(fork)))
    }

    /// Whether a recovery may put an end to everything from its place on: who lost the power to sign
    /// since cannot come back by it.
    fn may_rewind(&self, entry: &VerifiedEntry, rank: Rank) -> bool {
        match rank {
            Rank::Recovery => {
                let current = &self.authority.recovery;
                current.is_empty() || entry.signers().iter().any(|key| current.contains(key))
            }
            Rank::Recovered | Rank::Owners | Rank::Delegate => {
                !self.authority.owners_changed_after(entry.head().seq - 1)
            }
        }
    }

    /// Whether two entries at `seq` are of no account any longer: the owners changed there or
    /// since, or the delegate who signed the other one is none any longer.
    fn is_past(&self, seq: u64, rank: Rank, entry: &VerifiedEntry) -> bool {
        let changed = self.authority.owners_changed_after(seq - 1);
        let rotates = matches!(entry.payload().body, Body::Rotate(_));
        let here = self.authority.owners_at(seq) != self.authority.owners_at(seq - 1);
        if changed && !(here && rotates && !self.authority.owners_changed_after(seq)) {
            return true;
        }
        let still = |key: &PublicKey| {
            let mut delegates = self.authority.delegates.values();
            delegates.any(|delegate| delegate.may_approve && delegate.key == *key)
        };
        rank == Rank::Delegate && (self.rank_at(seq) > rank || !entry.signers().iter().any(still))
    }

    fn check_wanted(
        &self,
        name: NamespaceName,
        steps: &Steps,
        signed: Signed<'_>,
        now_unix_s: Option<u64>,
    ) -> Result<Admitted, CheckError> {
        let chain = ChainId::Namespace(name);
        let (place, seen) = (signed.head(), signed.authority());
        self.check_writer(name, &signed)?;
        let verdict = self.authority.verdict(name, place, seen.seq);
        if verdict == Verdict::Abandoned {
            return Err(abandoned(place, chain).into());
        }
        if let Some(frozen) = self.frozen.get(&chain)
            && place.seq >= frozen.seq
        {
            return Err(frozen.refusal(chain).into());
        }
        let found = find(steps, &signed)?;
        self.check_authority_head(steps, &signed)?;
        if let Place::Contested = found {
            self.contest_wanted(name, &signed, verdict)?;
        }
        let entry = signed.verify(parent(steps, place))?;
        if let Place::Contested = found {
            return Ok(Admitted {
                entry,
                rank: Rank::Owners,
                effect: Effect::Replace,
                waits: true,
            });
        }
        let delegate = self.authority.delegate_at(name, seen.seq);
        scope::check_time(delegate, entry.payload().created_unix_s, now_unix_s)?;
        let state = self.state_of(name);
        let effect = wanted::effect(name, state, &self.authority, entry.payload())?;
        if let Some(delegate) = delegate {
            let scope = scope::Scope {
                delegate,
                authority: &self.authority,
                seen: seen.seq,
            };
            scope.check(&effect, state.manifest.as_deref())?;
        }
        Ok(Admitted {
            entry,
            rank: Rank::Owners,
            effect,
            waits: verdict == Verdict::Unsettled,
        })
    }

    /// Below a fence, what leads to the entry that it names is not known yet: the later one stays.
    /// Anywhere else two entries at one place are a fork.
    fn contest_wanted(
        &self,
        name: NamespaceName,
        signed: &Signed<'_>,
        verdict: Verdict,
    ) -> Result<(), CheckError> {
        let chain = ChainId::Namespace(name);
        let place = signed.head();
        let hash_at = |seq| self.hash_at(chain, seq);
        let settled = self
            .authority
            .pin_below(name, self.head(chain).seq, hash_at)
            .is_some_and(|pin| place.seq <= pin.seq);
        match (verdict, settled) {
            (Verdict::Pinned | Verdict::Unsettled, false) => Ok(()),
            (_, true) => Err(abandoned(place, chain).into()),
            (Verdict::Free | Verdict::Abandoned, false) => {
                let hash = hash_at(place.seq).expect("another one is there");
                let fork = Fork {
                    chain,
                    ours: Head {
                        seq: place.seq,
                        hash,
                    },
                    theirs: signed.bytes().to_vec(),
                };
                Err(CheckError::Forked(Box::new(fork)))
            }
        }
    }

    /// Who may sign for the namespace, at the authority head that the signer saw.
    pub(super) fn check_writer(
        &self,
        name: NamespaceName,
        signed: &Signed<'_>,
    ) -> Result<(), Refusal> {
        // A head that is not here is refused later, with the word for it.
        let seen = signed.authority().seq.min(self.authority.head.seq);
        if !self.authority.has_namespace_at(name, seen) {
            return Err(Refusal::new(
                RefusalCode::OutOfScope,
                format!("there was no namespace `{name}` at authority entry {seen}"),
            ));
        }
        let Some(delegate) = self.authority.delegate_at(name, seen) else {
            let OwnerSet {
                owners, threshold, ..
            } = self.authority.owners_at(seen);
            return signed
                .require(owners, *threshold)
                .map_err(|refusal| self.was_delegate(name, signed).unwrap_or(refusal));
        };
        signed.require(&[delegate.key], 1).map_err(|refusal| {
            if self.was_delegate(name, signed).is_some() {
                return Refusal::new(
                    RefusalCode::OutOfScope,
                    format!("namespace `{name}` has another delegate at authority entry {seen}"),
                );
            }
            if refusal.code == RefusalCode::WrongOwner {
                return Refusal::new(
                    RefusalCode::WrongOwner,
                    format!(
                        "{} signs for namespace `{name}`, and nobody else",
                        delegate.key
                    ),
                );
            }
            refusal
        })
    }

    /// The refusal of somebody who signed for the namespace at another time.
    fn was_delegate(&self, name: NamespaceName, signed: &Signed<'_>) -> Option<Refusal> {
        let mut delegates = self.authority.delegates_ever(Some(name));
        let delegate = delegates.find(|delegate| signed.signers().contains(&delegate.key))?;
        Some(Refusal::new(
            RefusalCode::OutOfScope,
            format!(
                "{} does not sign for namespace `{name}` at authority entry {}",
                delegate.key,
                signed.authority().seq
            ),
        ))
    }

    /// The signer saw this authority chain, and no older one than the signer before.
    pub(super) fn check_authority_head(
        &self,
        steps: &Steps,
        signed: &Signed<'_>,
    ) -> Result<(), Refusal> {
        let seen = signed.authority();
        if self.abandoned.contains(&seen.hash) {
            return Err(Refusal::new(
                RefusalCode::Abandoned,
                format!(
                    "its signer saw entry {} of an authority chain that a recovery ended",
                    seen.seq
                ),
            ));
        }
        let Some(hash) = self.hash_at(ChainId::Authority, seen.seq) else {
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
        let newest = steps.authority_at(signed.head().seq.saturating_sub(1));
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

/// Where an entry belongs by its number and its parent.
fn find(steps: &Steps, signed: &Signed<'_>) -> Result<Place, Refusal> {
    let (place, tip) = (signed.head(), steps.head());
    let follows = |seq: u64| steps.hash_at(seq) == Some(signed.prev());
    if place.seq == 0 || place.seq <= tip.seq && !follows(place.seq - 1) {
        return Err(stale(place, steps));
    }
    // `tip.seq + 1` cannot wrap: a tip at u64::MAX would have needed 2^64 accepted entries.
    if place.seq > tip.seq.saturating_add(1) {
        return Err(Refusal::new(
            RefusalCode::Gap,
            format!(
                "entry {} does not follow {}, the last one here",
                place.seq, tip.seq
            ),
        ));
    }
    if place.seq <= tip.seq {
        return Ok(Place::Contested);
    }
    if !follows(tip.seq) {
        return Err(Refusal::new(
            RefusalCode::WrongParent,
            format!(
                "entry {} follows another entry {} than the one here",
                place.seq, tip.seq
            ),
        ));
    }
    Ok(Place::Next)
}

fn stale(place: Head, steps: &Steps) -> Refusal {
    Refusal::new(
        RefusalCode::Stale,
        format!(
            "entry {} is not above {}, the last one here",
            place.seq,
            steps.head().seq
        ),
    )
}

fn parent(steps: &Steps, place: Head) -> Head {
    let seq = place.seq - 1;
    Head {
        seq,
        hash: steps.hash_at(seq).expect("its place was found"),
    }
}

fn refused(code: RefusalCode, message: String) -> CheckError {
    Refusal::new(code, message).into()
}

fn abandoned(place: Head, chain: ChainId) -> Refusal {
    Refusal::new(
        RefusalCode::Abandoned,
        format!(
            "entry {} of chain `{chain}` belongs to a history that the owners ended",
            place.seq
        ),
    )
}
