//! Two histories of one chain: what proves them, what stands still meanwhile, and when it is over. Not
//! how the proof travels, and not where it is kept.

use realm_model::digest::Digest;
use realm_model::entry::{Body, ChainId, ForkProof, Head, NamespaceName, Opened};
use realm_model::key::PublicKey;
use realm_model::refusal::{Refusal, RefusalCode};

use super::steps::Steps;
use super::{Ledger, Rank};
use crate::authority::Verdict;

/// A chain that stands still, because there are two histories of it. What runs goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// The place that two entries have.
    pub seq: u64,
    /// The proof, by its digest.
    pub proof: Digest,
    sides: [Side; 2],
}

/// What became of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The chain stands still from here on: keep the proof, and tell others.
    Frozen,
    /// The chain stands still already, for this proof or one of an earlier place.
    Known,
    /// It is of no account: the owners ended that history.
    Settled,
}

/// One of two entries at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    head: Head,
    authority_seq: u64,
    rank: Rank,
    rotates: bool,
    signers: Vec<PublicKey>,
}

impl Frozen {
    /// The two entries.
    pub fn heads(&self) -> [Head; 2] {
        [self.sides[0].head, self.sides[1].head]
    }

    pub(super) fn refusal(&self, chain: ChainId) -> Refusal {
        let [a, b] = self.heads();
        Refusal::new(
            RefusalCode::Frozen,
            format!(
                "chain `{chain}` stands still: entry {} has two versions, {} and {}",
                self.seq, a.hash, b.hash
            ),
        )
    }
}

impl Ledger {
    /// Checks a proof, whoever sent it, and lets the chain stand still until the owners say which
    /// history holds. A `gap` means that entries are missing here to judge it.
    pub fn hold(&mut self, proof: &ForkProof) -> Result<Held, Refusal> {
        let chain = proof.chain();
        let Some(steps) = self.chains.get(&chain) else {
            return Err(Refusal::new(
                RefusalCode::UnknownName,
                format!("there is no namespace `{chain}` here"),
            ));
        };
        let [first, second] = proof.entries();
        let sides = [
            self.side(chain, steps, first)?,
            self.side(chain, steps, second)?,
        ];
        let seq = sides[0].head.seq;
        if self.is_settled(chain, &sides) {
            return Ok(Held::Settled);
        }
        if self.frozen.get(&chain).is_some_and(|old| old.seq <= seq) {
            return Ok(Held::Known);
        }
        let frozen = Frozen {
            seq,
            proof: proof.digest(),
            sides,
        };
        self.frozen.insert(chain, frozen);
        Ok(Held::Frozen)
    }

    /// The chains that stand still.
    pub fn frozen(&self) -> impl Iterator<Item = (ChainId, &Frozen)> {
        self.frozen.iter().map(|(chain, frozen)| (*chain, frozen))
    }

    /// Ends the standstill of what the owners settled.
    pub(super) fn thaw(&mut self) {
        let mut frozen = std::mem::take(&mut self.frozen);
        frozen.retain(|chain, frozen| !self.is_settled(*chain, &frozen.sides));
        self.frozen = frozen;
    }

    fn side(&self, chain: ChainId, steps: &Steps, bytes: &[u8]) -> Result<Side, Refusal> {
        let signed = Opened::open(bytes, self.realm(), chain)?.signed(&self.signers_ever(chain))?;
        self.check_authority_head(steps, &signed)?;
        let (head, authority_seq) = (signed.head(), signed.authority().seq);
        let mut side = Side {
            head,
            authority_seq,
            rank: Rank::Owners,
            rotates: false,
            signers: signed.signers().to_vec(),
        };
        match chain {
            ChainId::Namespace(name) => self.check_writer(name, &signed)?,
            ChainId::Authority => {
                // Who may sign depends on what came before: that has to be here.
                let parent_seq = head.seq.saturating_sub(1);
                let Some(hash) = steps.hash_at(parent_seq) else {
                    return Err(Refusal::new(
                        RefusalCode::Gap,
                        format!("entry {parent_seq} of the authority chain is missing here"),
                    ));
                };
                let parent = Head {
                    seq: parent_seq,
                    hash,
                };
                let entry = signed.verify(parent)?;
                side.rank = self.authorize(&entry, parent_seq)?;
                side.rotates = matches!(entry.payload().body, Body::Rotate(_));
            }
        }
        Ok(side)
    }

    fn is_settled(&self, chain: ChainId, sides: &[Side; 2]) -> bool {
        match chain {
            ChainId::Namespace(name) => sides.iter().any(|side| self.is_fenced(name, side)),
            ChainId::Authority => self.is_over(sides),
        }
    }

    fn is_fenced(&self, name: NamespaceName, side: &Side) -> bool {
        match self.authority.verdict(name, side.head, side.authority_seq) {
            Verdict::Pinned | Verdict::Unsettled | Verdict::Abandoned => true,
            Verdict::Free => false,
        }
    }

    /// Whether the authority chain went past the place of the two, by a change of owners, or one of
    /// the two outweighs the other.
    fn is_over(&self, sides: &[Side; 2]) -> bool {
        let [first, second] = sides;
        let seq = first.head.seq;
        let outweighs = |one: &Side, other: &Side| {
            let standing = self.hash_at(ChainId::Authority, seq);
            one.rank > other.rank && standing.is_none_or(|hash| hash == one.head.hash)
        };
        let still = |side: &Side| {
            let mut delegates = self.authority.delegates.values();
            delegates.any(|one| one.may_approve && side.signers.contains(&one.key))
        };
        let changed_here = self.authority.owners_changed_after(seq - 1);
        self.authority.owners_changed_after(seq)
            || self.rank_at(seq) >= Rank::Recovered
            || changed_here && first.rotates != second.rotates
            || outweighs(first, second)
            || outweighs(second, first)
            || sides
                .iter()
                .all(|side| side.rank == Rank::Delegate && !still(side))
    }
}
