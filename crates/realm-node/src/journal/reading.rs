//! Reading from the logs what peers ask for, and keeping what proves a fork. Entries are not kept in
//! memory: a realm that lives for years has many.

use std::ops::RangeInclusive;

use realm_control::Ledger;
use realm_model::entry::{ChainId, ForkProof, Opened};
use realm_store::files::{Files, RealFiles};
use realm_store::folder::{FolderError, RealmFolder, read_small, write_atomic};

use super::{Journal, JournalError};

/// Two of the largest entries, and their frame.
const PROOF_BYTES_MAX: u64 = 2 * realm_model::entry::ENTRY_BYTES_MAX as u64 + 4 * 1024;

impl<F: Files> Journal<F> {
    /// Entries of `chain` as it stands by `ledger`, in order from the first number of the range on:
    /// at most `n_max`, and no further one once they have `bytes_max` bytes.
    pub(crate) fn entries(
        &self,
        ledger: &Ledger,
        chain: ChainId,
        range: RangeInclusive<u64>,
        (n_max, bytes_max): (usize, usize),
    ) -> Result<Vec<Vec<u8>>, JournalError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for seq in range {
            if entries.len() >= n_max || bytes >= bytes_max {
                break;
            }
            let Some(entry) = self.entry(ledger, chain, seq)? else {
                break;
            };
            bytes += entry.len();
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entry that stands at `seq` by the ledger: others may have stood there before.
    fn entry(
        &self,
        ledger: &Ledger,
        chain: ChainId,
        seq: u64,
    ) -> Result<Option<Vec<u8>>, JournalError> {
        let (Some(hash), Some(log), Some(index)) = (
            ledger.hash_at(chain, seq),
            self.logs.get(&chain),
            self.index.get(&chain),
        ) else {
            return Ok(None);
        };
        for record in index.of(seq) {
            let read = log.record(record);
            let read = read.map_err(|source| JournalError::Log { chain, source })?;
            let Some(bytes) = read else { continue };
            let opened = Opened::open(&bytes, ledger.realm(), chain);
            if opened.is_ok_and(|opened| opened.hash() == hash) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Keeps the proof that a chain has two histories, in place of an earlier one of that chain.
    pub(crate) fn keep_proof(&self, proof: &ForkProof) -> Result<(), JournalError> {
        let path = self.folder.fork(proof.chain());
        if let Some(folder) = path.parent() {
            RealFiles
                .create_dir(folder)
                .map_err(|source| FolderError::Io {
                    operation: "create",
                    path: folder.to_owned(),
                    source,
                })?;
        }
        Ok(write_atomic(&path, &proof.to_bytes())?)
    }

    /// The bytes of the proof that is kept for a chain.
    pub(crate) fn proof(&self, chain: ChainId) -> Result<Option<Vec<u8>>, JournalError> {
        proof(&self.folder, chain)
    }

    /// Lets chains stand still of which a proof is kept that nothing settled since.
    pub(crate) fn hold_proofs(&self, ledger: &mut Ledger) {
        let chains: Vec<ChainId> = ledger.chains().collect();
        for chain in chains {
            let kept = match proof(&self.folder, chain) {
                Ok(Some(bytes)) => ForkProof::from_bytes(ledger.realm(), &bytes),
                Ok(None) => continue,
                Err(error) => {
                    let reason = crate::error::with_causes(&error);
                    tracing::error!(%chain, reason, "the proof of a fork could not be read");
                    continue;
                }
            };
            let held = kept.map(|proof| ledger.hold(&proof));
            match held {
                Ok(Ok(_)) => {}
                Ok(Err(refusal)) => {
                    tracing::warn!(%chain, reason = refusal.message, "the kept proof of a fork is refused");
                }
                Err(error) => {
                    tracing::warn!(%chain, %error, "the kept proof of a fork does not read")
                }
            }
        }
    }
}

fn proof(folder: &RealmFolder, chain: ChainId) -> Result<Option<Vec<u8>>, JournalError> {
    match read_small(&folder.fork(chain), PROOF_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FolderError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
