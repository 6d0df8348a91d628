//! The durable half of the ledger: logs, marks, and the order between them.
//!
//! An entry is in force only after it is on the disk: append, fsync, then the ledger. Before anything is
//! done by it, the mark is raised.

mod index;
mod mend;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use realm_control::{Admitted, Ledger, Logs, ReplayError};
use realm_model::entry::{ChainId, Head, Opened, RealmId, VerifiedEntry};
use realm_model::refusal::{Refusal, RefusalCode};
use realm_store::files::{Files, RealFiles};
use realm_store::folder::{FolderError, RealmFolder};
use realm_store::log::{Log, LogError};
use realm_store::mark::{MarkError, Marks};

use index::Index;

/// The logs of a realm folder, open for appending.
pub(crate) struct Journal<F: Files = RealFiles> {
    files: F,
    folder: RealmFolder,
    logs: BTreeMap<ChainId, Log<F>>,
    /// Of every entry in each log, abandoned ones included.
    index: BTreeMap<ChainId, Index>,
    marks: Marks<F>,
    /// Where marks are to be raised to: by entries that are on the disk.
    unmarked: BTreeMap<ChainId, Head>,
    /// Chains that are not back where their marks stand, of logs that were damaged.
    behind: BTreeMap<ChainId, Head>,
    /// How far the authority chain was known when that was seen.
    authority_floor: u64,
}

/// The journal cannot be opened or extended.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A log is damaged or cannot be read or written.
    #[error("the log of chain `{chain}` failed")]
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
        "the high-water mark of chain `{chain}` is missing from `{}`: nothing says how many entries its log had",
        marks.display()
    )]
    MissingMark {
        /// The chain.
        chain: ChainId,
        /// The folder of the marks.
        marks: PathBuf,
    },
    /// The folder of the logs cannot be listed.
    #[error("the logs cannot be listed")]
    Folder(#[from] FolderError),
    /// There is no first entry.
    #[error("`{}` holds no genesis", path.display())]
    NoGenesis {
        /// The log file.
        path: PathBuf,
    },
    /// An entry in the log does not hold: the log was written by a newer version, or changed.
    #[error("entry {index} in the log of chain `{chain}` is refused")]
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
    #[error(
        "the log of chain `{chain}` does not hold the entry {seq} that the high-water mark vouches for"
    )]
    OtherThanMark {
        /// The chain.
        chain: ChainId,
        /// The sequence number.
        seq: u64,
    },
}

impl JournalError {
    /// Whether the system did not write or read, so that there is hope: what the files say is something else.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        let mut causes =
            std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.any(<dyn std::error::Error>::is::<std::io::Error>)
    }
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

    /// Writes the authority chain that a machine was given when it was approved. It goes on where an
    /// earlier attempt ended.
    pub(crate) fn adopt(folder: &RealmFolder, entries: &[Vec<u8>]) -> Result<Ledger, JournalError> {
        let Some((genesis, rest)) = entries.split_first() else {
            let path = folder.log(ChainId::Authority);
            return Err(JournalError::NoGenesis { path });
        };
        let (mut journal, mut ledger) = match Self::open(folder) {
            Err(JournalError::NoGenesis { .. }) => Self::begin(folder, genesis)?,
            opened => opened?,
        };
        for (index, entry) in (1..).zip(rest) {
            let admitted = match ledger.check(ChainId::Authority, entry, None) {
                Ok(admitted) => admitted,
                Err(error) if error.refusal().code == RefusalCode::Replayed => continue,
                Err(error) => {
                    return Err(JournalError::Refused {
                        chain: ChainId::Authority,
                        index,
                        source: error.refusal(),
                    });
                }
            };
            journal.append(&admitted)?;
            if ledger.apply(admitted).rebuild {
                ledger = journal.rebuild()?;
            }
        }
        Ok(ledger)
    }

    /// Reads and folds the logs without changing them, beside an agent that may be running.
    pub(crate) fn read_only(folder: &RealmFolder) -> Result<Ledger, JournalError> {
        let marks = Marks::read(RealFiles, folder.marks())?;
        let chains = check_marks(&RealFiles, folder, &marks)?;
        let records = read_logs(&RealFiles, folder, chains, |chain| marks.floor(chain))?;
        replay(folder, &records, &vouched(&records, &marks))
    }
}

impl<F: Files> Journal<F> {
    fn begin_in(
        files: F,
        folder: &RealmFolder,
        genesis: &[u8],
    ) -> Result<(Self, Ledger), JournalError> {
        let genesis =
            VerifiedEntry::genesis(genesis, None).map_err(|source| JournalError::Refused {
                chain: ChainId::Authority,
                index: 0,
                source,
            })?;
        let marks = Marks::open(files.clone(), folder.marks())?;
        let mut journal = Self {
            files,
            folder: folder.clone(),
            logs: BTreeMap::new(),
            index: BTreeMap::new(),
            marks,
            unmarked: BTreeMap::new(),
            behind: BTreeMap::new(),
            authority_floor: 0,
        };
        for chain in ALWAYS {
            journal.open_log(chain)?;
        }
        journal.write(&genesis)?;
        let ledger = Ledger::found(genesis);
        journal.set_marks(&ledger)?;
        Ok((journal, ledger))
    }

    fn open_in(files: F, folder: &RealmFolder) -> Result<(Self, Ledger), JournalError> {
        let marks = Marks::read(files.clone(), folder.marks())?;
        let chains = check_marks(&files, folder, &marks)?;
        let mut journal = Self {
            files,
            folder: folder.clone(),
            logs: BTreeMap::new(),
            index: BTreeMap::new(),
            marks,
            unmarked: BTreeMap::new(),
            behind: BTreeMap::new(),
            authority_floor: 0,
        };
        let mut records = Logs::new();
        for chain in chains {
            records.insert(chain, journal.open_log(chain)?);
        }
        let ledger = replay(folder, &records, &vouched(&records, &journal.marks))?;
        for (chain, records) in &records {
            journal.place(*chain, ledger.realm(), records);
        }
        // An entry may be durable whose mark never came; setting it also mends a damaged copy.
        journal.set_marks(&ledger)?;
        journal.keep_genesis();
        Ok((journal, ledger))
    }

    /// Puts each chain's mark where the ledger says that it is in force: back, if its history was
    /// ended. Each chain has one from its beginning on, at the place before its first entry if need
    /// be: so a mark that is not there was lost.
    fn set_marks(&mut self, ledger: &Ledger) -> Result<(), JournalError> {
        let whole = ledger
            .chains()
            .filter(|chain| !self.behind.contains_key(chain));
        for chain in whole.collect::<Vec<_>>() {
            self.marks.reset(chain, ledger.in_force(chain))?;
        }
        Ok(())
    }

    /// Makes an entry durable, and raises the mark.
    pub(crate) fn append(&mut self, admitted: &Admitted) -> Result<(), JournalError> {
        self.write_down(admitted)?;
        // It is durable either way.
        let _ = self.raise_marks();
        Ok(())
    }

    /// Makes an entry durable. When this returns `Ok`, it survives kill -9 and a power cut; before
    /// anything is done by it, [`Journal::raise_marks`].
    pub(crate) fn write_down(&mut self, admitted: &Admitted) -> Result<(), JournalError> {
        let entry = admitted.entry();
        let chain = entry.chain();
        if !self.logs.contains_key(&chain) {
            // The mark first: a log without one looks like a log that lost it.
            if self.marks.get(chain).is_none() {
                self.marks.set(chain, entry.realm().origin())?;
            }
            self.open_log(chain)?;
        }
        self.write(entry)?;
        if admitted.takes_force() && !self.behind.contains_key(&chain) {
            self.unmarked.insert(chain, entry.head());
        }
        Ok(())
    }

    /// Raises the marks of what was written down. One that the disk does not take is raised the next time: the
    /// entry is durable.
    pub(crate) fn raise_marks(&mut self) -> Result<(), JournalError> {
        while let Some((chain, head)) = self.unmarked.pop_first() {
            if let Err(error) = self.marks.set(chain, head) {
                tracing::warn!(chain = chain.as_str(), %error, "the high-water mark could not be raised");
                let error = JournalError::from(error);
                if error.is_of_the_disk() {
                    self.unmarked.insert(chain, head);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Writes a file of so many bytes, and removes it: whether the disk takes as much.
    pub(crate) fn try_disk(&self, bytes: usize) -> std::io::Result<()> {
        let path = self.folder.root().join("try");
        realm_store::files::put(&self.files, &path, &vec![0; bytes])?;
        self.files.remove(&path)
    }

    /// Folds the logs anew: entries are abandoned that were in force.
    pub(crate) fn rebuild(&mut self) -> Result<Ledger, JournalError> {
        let chains = self.logs.keys().copied().collect();
        let floor = |chain| self.floor(chain);
        let records = read_logs(&self.files, &self.folder, chains, floor)?;
        let ledger = replay(&self.folder, &records, &self.vouched())?;
        self.unmarked.clear();
        self.set_marks(&ledger)?;
        Ok(ledger)
    }

    fn place(&mut self, chain: ChainId, realm: RealmId, records: &[Vec<u8>]) {
        let index = self.index.entry(chain).or_default();
        for (number, record) in (0..).zip(records) {
            // They were folded: each reads.
            let claimed = Opened::open(record, realm, chain).and_then(|opened| opened.claimed());
            if let Ok((head, _, _)) = claimed {
                index.push(head.seq, number);
            }
        }
    }

    fn write(&mut self, entry: &VerifiedEntry) -> Result<(), JournalError> {
        let chain = entry.chain();
        let log = self.logs.get_mut(&chain).expect("its log was opened");
        log.append(entry)
            .map_err(|source| JournalError::Log { chain, source })?;
        let record = log.records() - 1;
        let index = self.index.entry(chain).or_default();
        index.push(entry.head().seq, record);
        Ok(())
    }

    fn open_log(&mut self, chain: ChainId) -> Result<Vec<Vec<u8>>, JournalError> {
        let path = self.folder.log(chain);
        let opened = Log::open(self.files.clone(), path, self.floor(chain));
        let (log, recovered) = opened.map_err(|source| JournalError::Log { chain, source })?;
        if recovered.torn_tail_bytes > 0 {
            tracing::warn!(
                chain = chain.as_str(),
                bytes = recovered.torn_tail_bytes,
                "cut an unfinished entry off the end of the log; it was never acknowledged"
            );
        }
        self.logs.insert(chain, log);
        Ok(recovered.records)
    }
}

/// The chains that a realm has from its founding on.
const ALWAYS: [ChainId; 2] = [ChainId::Authority, ChainId::DEFAULT];

fn read_logs<F: Files>(
    files: &F,
    folder: &RealmFolder,
    chains: BTreeSet<ChainId>,
    floor: impl Fn(ChainId) -> Option<u64>,
) -> Result<Logs, JournalError> {
    let read = |chain: ChainId| {
        // A namespace that nobody signed for yet has a mark, and its first entry makes the log.
        if floor(chain).unwrap_or(0) == 0 && !files.is_file(&folder.log(chain)) {
            return Ok((chain, Vec::new()));
        }
        let read = Log::<F>::read(files, &folder.log(chain), floor(chain));
        let recovered = read.map_err(|source| JournalError::Log { chain, source })?;
        Ok((chain, recovered.records))
    };
    chains.into_iter().map(read).collect()
}

/// Before any log is opened, which would make one that is missing: the chains that there are.
fn check_marks<F: Files>(
    files: &F,
    folder: &RealmFolder,
    marks: &Marks<F>,
) -> Result<BTreeSet<ChainId>, JournalError> {
    let mut chains: BTreeSet<ChainId> = folder.chains(files)?.into_iter().collect();
    chains.extend(ALWAYS);
    let missing = |chain: &&ChainId| marks.get(**chain).is_none();
    let Some(chain) = chains.iter().find(missing).copied() else {
        // A mark without a log is a log that is gone.
        chains.extend(marks.chains());
        return Ok(chains);
    };
    let path = folder.log(ChainId::Authority);
    if ALWAYS.iter().all(|chain| missing(&chain)) && !files.is_file(&path) {
        return Err(JournalError::NoGenesis { path });
    }
    Err(JournalError::MissingMark {
        chain,
        marks: folder.marks(),
    })
}

fn vouched<F: Files>(records: &Logs, marks: &Marks<F>) -> BTreeMap<ChainId, Head> {
    let chains = records.keys();
    let marks = chains.filter_map(|chain| Some((*chain, marks.get(*chain)?)));
    marks.collect()
}

/// Checks every record as if it came from a stranger.
fn replay(
    folder: &RealmFolder,
    records: &Logs,
    marks: &BTreeMap<ChainId, Head>,
) -> Result<Ledger, JournalError> {
    match Ledger::replay(records, marks) {
        Ok(replayed) => {
            if replayed.left_out > 0 {
                tracing::info!(
                    entries = replayed.left_out,
                    "left out entries of histories that the owners ended"
                );
            }
            Ok(replayed.ledger)
        }
        Err(ReplayError::NoGenesis) => Err(JournalError::NoGenesis {
            path: folder.log(ChainId::Authority),
        }),
        Err(ReplayError::Refused {
            chain,
            index,
            source,
        }) => Err(JournalError::Refused {
            chain,
            index,
            source,
        }),
        Err(ReplayError::OtherThanMark { chain, seq }) => {
            Err(JournalError::OtherThanMark { chain, seq })
        }
    }
}

#[cfg(test)]
mod tests;
