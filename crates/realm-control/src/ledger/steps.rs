//! What is remembered of each entry of a chain: enough to tell a replay, a fork and a place.

use std::collections::BTreeMap;

use realm_model::digest::Digest;
use realm_model::entry::Head;

/// The entries of one chain, the place before the first one (or the genesis) included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Steps {
    steps: Vec<Step>,
    /// The first bytes of a hash → where it is. A third of the room that a set of hashes would take.
    known: BTreeMap<u64, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    hash: Digest,
    /// The authority entry that its signer saw.
    authority_seq: u64,
}

impl Steps {
    pub(super) fn from(origin: Head) -> Self {
        let mut steps = Self {
            steps: Vec::new(),
            known: BTreeMap::new(),
        };
        steps.push(origin.hash, 0);
        steps
    }

    pub(super) fn push(&mut self, hash: Digest, authority_seq: u64) {
        let step = Step {
            hash,
            authority_seq,
        };
        self.known.insert(prefix(hash), self.steps.len() as u64);
        self.steps.push(step);
    }

    pub(super) fn head(&self) -> Head {
        let last = self.steps.last().expect("it begins with the origin");
        Head {
            seq: self.steps.len() as u64 - 1,
            hash: last.hash,
        }
    }

    pub(super) fn hash_at(&self, seq: u64) -> Option<Digest> {
        self.at(seq).map(|step| step.hash)
    }

    /// The authority entry that the signer of the entry at `seq` saw.
    pub(super) fn authority_at(&self, seq: u64) -> u64 {
        self.at(seq).map_or(0, |step| step.authority_seq)
    }

    pub(super) fn contains(&self, hash: Digest) -> bool {
        let seq = self.known.get(&prefix(hash)).copied();
        seq.and_then(|seq| self.hash_at(seq)) == Some(hash)
    }

    fn at(&self, seq: u64) -> Option<Step> {
        let index = usize::try_from(seq).ok()?;
        self.steps.get(index).copied()
    }
}

fn prefix(hash: Digest) -> u64 {
    let bytes = hash
        .as_bytes()
        .first_chunk()
        .expect("a digest has 32 bytes");
    u64::from_le_bytes(*bytes)
}
