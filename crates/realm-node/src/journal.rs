//! The durable half of the ledger: logs, marks, and the order between them.
//!
//! An entry is in force only after it is on the disk: append, fsync, mark, then the ledger.

use std::collections::BTreeMap;
use std::path::PathBuf;

use realm_control::Ledger;
use realm_model::entry::{ChainId, Head, VerifiedEntry};
use realm_model::refusal::Refusal;
use realm_store::files::{Files, RealFiles};
use realm_store::folder::RealmFolder;
use realm_store::log::{Log, LogError};
use realm_store::mark::{MarkError, Marks};

/// The logs of a realm folder, open for appending.
pub(crate) struct Journal<F: Files = RealFiles> {
    logs: BTreeMap<ChainId, Log<F>>,
    marks: Marks<F>,
}

/// The journal cannot be opened or extended.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A log is damaged or cannot be read or written.
    #[error("the log of chain `{}` failed", chain.as_str())]
    Log {
        /// The chain.
        chain: ChainId,
        /// Why.
        #[source]
        source: LogError,
    },
    /// A high-water mark is damaged or cannot be read or written.
    #[error("the high-water marks failed")]
    Mark(#[from] MarkError),
    /// Both files of a mark are gone: a log that lost entries would look like one that never had
    /// them.
    #[error(
        "the high-water mark of chain `{}` is missing from `{}`: nothing says how many entries its log had",
        chain.as_str(),
        marks.display()
    )]
    MissingMark {
        /// The chain.
        chain: ChainId,
        /// The folder of the marks.
        marks: PathBuf,
    },
    /// There is no first entry.
    #[error("`{}` holds no genesis", path.display())]
    NoGenesis {
        /// The log file.
        path: PathBuf,
    },
    /// An entry in the log does not hold: the log was written by a newer version, or changed.
    #[error("entry {index} in the log of chain `{}` is refused", chain.as_str())]
    Refused {
        /// The chain.
        chain: ChainId,
        /// Its place in the log, from 0.
        index: usize,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The log holds another entry than the one whose mark was set: one of them was exchanged.
    #[error("entry {seq} in the log of chain `{}` is another one than the high-water mark vouches for", chain.as_str())]
    OtherThanMark {
        /// The chain.
        chain: ChainId,
        /// The sequence number.
        seq: u64,
    },
}

impl Journal {
    /// Begins the log of a new realm with its genesis.
    pub(crate) fn begin(
        folder: &RealmFolder,
        genesis: &[u8],
    ) -> Result<(Self, Ledger), JournalError> {
        Self::begin_in(RealFiles, folder, genesis)
    }

    /// Opens the logs, checks every entry again, and folds them.
    pub(crate) fn open(folder: &RealmFolder) -> Result<(Self, Ledger), JournalError> {
        Self::open_in(RealFiles, folder)
    }

    /// Reads and folds the logs without changing them, beside an agent that may be running.
    pub(crate) fn read_only(folder: &RealmFolder) -> Result<Ledger, JournalError> {
        let marks = Marks::read(RealFiles, folder.marks())?;
        check_marks(&RealFiles, folder, &marks)?;
        let mut records = BTreeMap::new();
        for chain in ChainId::ALL {
            let read = Log::<RealFiles>::read(&RealFiles, &folder.log(chain), marks.floor(chain));
            let recovered = read.map_err(|source| JournalError::Log { chain, source })?;
            records.insert(chain, recovered.records);
        }
        replay(folder, &records, &marks)
    }
}

impl<F: Files> Journal<F> {
    fn begin_in(
        files: F,
        folder: &RealmFolder,
        genesis: &[u8],
    ) -> Result<(Self, Ledger), JournalError> {
        let genesis =
            VerifiedEntry::genesis(genesis, None).map_err(refused(ChainId::Authority, 0))?;
        let marks = Marks::open(files.clone(), folder.marks())?;
        let (mut journal, _) = Self::open_logs(&files, folder, marks)?;
        journal.append(&genesis)?;
        let ledger = Ledger::found(genesis);
        journal.set_marks(&ledger)?;
        Ok((journal, ledger))
    }

    fn open_in(files: F, folder: &RealmFolder) -> Result<(Self, Ledger), JournalError> {
        let marks = Marks::read(files.clone(), folder.marks())?;
        check_marks(&files, folder, &marks)?;
        let (mut journal, records) = Self::open_logs(&files, folder, marks)?;
        let ledger = replay(folder, &records, &journal.marks)?;
        // An entry may be durable whose mark never came; setting it also mends a damaged copy.
        journal.set_marks(&ledger)?;
        Ok((journal, ledger))
    }

    /// Each chain has its mark from the founding on, at the place before its first entry if need be:
    /// so a mark that is not there was lost.
    fn set_marks(&mut self, ledger: &Ledger) -> Result<(), JournalError> {
        for (chain, head) in ledger.heads() {
            self.marks.set(chain, head)?;
        }
        Ok(())
    }

    /// Makes an entry durable. When this returns `Ok`, it survives kill -9 and a power cut.
    pub(crate) fn append(&mut self, entry: &VerifiedEntry) -> Result<(), JournalError> {
        let chain = entry.chain();
        let log = self
            .logs
            .get_mut(&chain)
            .expect("a log is open for every chain");
        log.append(entry)
            .map_err(|source| JournalError::Log { chain, source })?;
        // The entry is durable: a mark that cannot be raised is repaired by the next one.
        if let Err(error) = self.marks.set(chain, entry.head()) {
            tracing::warn!(chain = chain.as_str(), %error, "the high-water mark could not be raised");
        }
        Ok(())
    }

    fn open_logs(
        files: &F,
        folder: &RealmFolder,
        marks: Marks<F>,
    ) -> Result<(Self, Records), JournalError> {
        let mut logs = BTreeMap::new();
        let mut records = BTreeMap::new();
        for chain in ChainId::ALL {
            let opened = Log::open(files.clone(), folder.log(chain), marks.floor(chain));
            let (log, recovered) = opened.map_err(|source| JournalError::Log { chain, source })?;
            if recovered.torn_tail_bytes > 0 {
                tracing::warn!(
                    chain = chain.as_str(),
                    bytes = recovered.torn_tail_bytes,
                    "cut an unfinished entry off the end of the log; it was never acknowledged"
                );
            }
            logs.insert(chain, log);
            records.insert(chain, recovered.records);
        }
        Ok((Self { logs, marks }, records))
    }
}

type Records = BTreeMap<ChainId, Vec<Vec<u8>>>;

/// Before any log is opened, which would make one that is missing.
fn check_marks<F: Files>(
    files: &F,
    folder: &RealmFolder,
    marks: &Marks<F>,
) -> Result<(), JournalError> {
    let missing = |chain: &ChainId| marks.get(*chain).is_none();
    let Some(chain) = ChainId::ALL.into_iter().find(missing) else {
        return Ok(());
    };
    let path = folder.log(ChainId::Authority);
    if ChainId::ALL.iter().all(missing) && !files.is_file(&path) {
        return Err(JournalError::NoGenesis { path });
    }
    Err(JournalError::MissingMark {
        chain,
        marks: folder.marks(),
    })
}

/// Checks every record as if it came from a stranger. The authority chain comes first: a namespace
/// entry names the authority head that its signer saw.
fn replay<F: Files>(
    folder: &RealmFolder,
    records: &Records,
    marks: &Marks<F>,
) -> Result<Ledger, JournalError> {
    let authority = records
        .get(&ChainId::Authority)
        .map_or(&[][..], Vec::as_slice);
    let Some((genesis, approvals)) = authority.split_first() else {
        return Err(JournalError::NoGenesis {
            path: folder.log(ChainId::Authority),
        });
    };
    let genesis = VerifiedEntry::genesis(genesis, None).map_err(refused(ChainId::Authority, 0))?;
    let mut ledger = Ledger::found(genesis);
    for (chain, head) in ledger.heads() {
        check_mark(marks, chain, head)?;
    }
    let namespace = records
        .get(&ChainId::Default)
        .map_or(&[][..], Vec::as_slice);
    let first = approvals
        .iter()
        .enumerate()
        .map(|(index, entry)| (ChainId::Authority, index + 1, entry));
    let second = namespace
        .iter()
        .enumerate()
        .map(|(index, entry)| (ChainId::Default, index, entry));
    for (chain, index, entry) in first.chain(second) {
        let admitted = ledger.check(chain, entry).map_err(refused(chain, index))?;
        check_mark(marks, chain, admitted.entry().head())?;
        ledger.apply(admitted);
    }
    Ok(ledger)
}

fn check_mark<F: Files>(marks: &Marks<F>, chain: ChainId, head: Head) -> Result<(), JournalError> {
    match marks.get(chain) {
        Some(mark) if mark.seq == head.seq && mark.hash != head.hash => {
            Err(JournalError::OtherThanMark {
                chain,
                seq: head.seq,
            })
        }
        Some(_) | None => Ok(()),
    }
}

fn refused(chain: ChainId, index: usize) -> impl FnOnce(Refusal) -> JournalError {
    move |source| JournalError::Refused {
        chain,
        index,
        source,
    }
}

#[cfg(test)]
mod tests;
