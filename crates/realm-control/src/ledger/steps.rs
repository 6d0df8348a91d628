//! What is remembered of each entry of a chain: enough to tell a replay, a fork and a place. A realm
//! that lives for years has many entries, so it is a hash for each, and little else.

use realm_model::digest::Digest;
use realm_model::entry::Head;

/// The entries of one chain, the place before the first one (or the genesis) included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Steps {
    hashes: Vec<Digest>,
    /// (From which entry on, the authority entry that the signers saw), where it changes.
    seen: Vec<(u64, u64)>,
}

impl Steps {
    pub(super) fn from(origin: Head) -> Self {
        Self {
            hashes: vec![origin.hash],
            seen: vec![(0, 0)],
        }
    }

    pub(super) fn push(&mut self, hash: Digest, authority_seq: u64) {
        let seq = self.hashes.len() as u64;
        if self.authority_at(seq) != authority_seq {
            self.seen.push((seq, authority_seq));
        }
        self.hashes.push(hash);
    }

    pub(super) fn head(&self) -> Head {
        let last = self.hashes.last().expect("it begins with the origin");
        Head {
            seq: self.hashes.len() as u64 - 1,
            hash: *last,
        }
    }

    pub(super) fn hash_at(&self, seq: u64) -> Option<Digest> {
        let index = usize::try_from(seq).ok()?;
        self.hashes.get(index).copied()
    }

    /// The authority entry that the signer of the entry at `seq` saw; of the last entry, if there are
    /// not so many.
    pub(super) fn authority_at(&self, seq: u64) -> u64 {
        let run = self.seen.partition_point(|(from, _)| *from <= seq);
        self.seen[run - 1].1
    }

    pub(super) fn contains(&self, entry: Head) -> bool {
        self.hash_at(entry.seq) == Some(entry.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: u64) -> Digest {
        Digest::of(&of.to_le_bytes())
    }

    #[test]
    fn each_entry_is_found_with_the_authority_entry_that_its_signer_saw() {
        let origin = Head {
            seq: 0,
            hash: digest(0),
        };
        let mut steps = Steps::from(origin);
        let seen = [0, 0, 3, 3, 3, 8, 9];
        for (seq, seen) in (1..).zip(seen) {
            steps.push(digest(seq), seen);
        }
        assert_eq!(steps.authority_at(0), 0);
        for (seq, seen) in (1..).zip(seen) {
            assert_eq!(steps.authority_at(seq), seen, "entry {seq}");
            let place = |seq| Head {
                seq,
                hash: digest(seq),
            };
            assert!(steps.contains(place(seq)));
            let elsewhere = Head {
                seq: seq - 1,
                ..place(seq)
            };
            assert!(!steps.contains(elsewhere), "entry {seq}");
        }
        assert_eq!(steps.head().seq, 7);
        assert_eq!(steps.seen.len(), 4);
    }
}
