//! The proof that a chain has two histories: two entries with one sequence number and one parent, both
//! well signed. It needs nobody's word. Whether the signers were allowed to sign is control's question.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::wire::{decode, encode};
use super::{ChainId, ENTRY_BYTES_MAX, Head, Opened, RealmId};
use crate::digest::Digest;
use crate::refusal::Refusal;

/// The format version that is written, and the only one that is read.
const FORMAT: u8 = 1;

/// Room for two of the largest entries.
const PROOF_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX + 1024;

/// Two entries at one place of a chain, in the order of their hashes, so that every node makes the same
/// proof of the same two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkProof {
    chain: ChainId,
    first: Vec<u8>,
    second: Vec<u8>,
}

/// Bytes are no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForkProofError {
    /// The bytes do not read.
    #[error("this is no proof of a fork: {0}")]
    Malformed(String),
    /// One of the two is no entry of this realm and chain.
    #[error("one of the two entries is refused")]
    Entry(#[from] Refusal),
    /// The two do not contradict each other.
    #[error("the two entries do not have one place and one parent")]
    NoFork,
}

#[derive(Encode, Decode)]
struct Wire {
    #[n(0)]
    format: u8,
    #[n(1)]
    chain: ChainId,
    #[n(2)]
    first: ByteVec,
    #[n(3)]
    second: ByteVec,
}

impl ForkProof {
    /// Puts two entries of one place together.
    pub fn new(
        realm: RealmId,
        chain: ChainId,
        one: &[u8],
        other: &[u8],
    ) -> Result<Self, ForkProofError> {
        let place = |bytes| -> Result<(Head, Digest), ForkProofError> {
            let (head, prev, _) = Opened::open(bytes, realm, chain)?.claimed()?;
            Ok((head, prev))
        };
        let ((a, parent), (b, other_parent)) = (place(one)?, place(other)?);
        if a.seq != b.seq || a.hash == b.hash || parent != other_parent || a.seq == 0 {
            return Err(ForkProofError::NoFork);
        }
        let (first, second) = if a.hash < b.hash {
            (one, other)
        } else {
            (other, one)
        };
        Ok(Self {
            chain,
            first: first.to_vec(),
            second: second.to_vec(),
        })
    }

    /// Reads a proof that somebody sent or kept. Who signed the two is not looked at.
    pub fn from_bytes(realm: RealmId, bytes: &[u8]) -> Result<Self, ForkProofError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(ForkProofError::Malformed("it is too large".to_owned()));
        }
        let wire: Wire = decode(bytes, "proof of a fork")
            .map_err(|refusal| ForkProofError::Malformed(refusal.message))?;
        if wire.format != FORMAT {
            return Err(ForkProofError::Malformed(format!(
                "its format {} is not known to this version",
                wire.format
            )));
        }
        let proof = Self::new(realm, wire.chain, &wire.first, &wire.second)?;
        // One proof has one form.
        if proof.first != *wire.first {
            return Err(ForkProofError::Malformed(
                "the two stand in the wrong order".to_owned(),
            ));
        }
        Ok(proof)
    }

    /// What is kept and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&Wire {
            format: FORMAT,
            chain: self.chain,
            first: self.first.clone().into(),
            second: self.second.clone().into(),
        })
    }

    /// SHA-256 of the bytes: nodes tell each other what they hold by it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// The chain that has two histories.
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// The two entries, the one with the lower hash first.
    pub fn entries(&self) -> [&[u8]; 2] {
        [&self.first, &self.second]
    }
}
