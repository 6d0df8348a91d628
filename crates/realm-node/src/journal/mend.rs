//! A log that lost entries or cannot be read to its end: what reads of it is kept, the file is set
//! aside, and the rest comes from other nodes. The marks stay where they are: until the chain is back
//! there, its mark is a floor below which nothing may run. Not here: asking the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use realm_control::{Ledger, Logs};
use realm_model::entry::{ChainId, Head, VerifiedEntry};
use realm_store::files::{self, Files, RealFiles};
use realm_store::folder::RealmFolder;
use realm_store::log::{Log, Salvaged};
use realm_store::mark::Marks;

use super::{ALWAYS, Journal, JournalError, check_marks, replay};

/// The logs of a folder, as far as they read.
struct Mended {
    logs: Logs,
    /// The files as they were found; those that are gone are not there.
    found: BTreeMap<ChainId, Salvaged>,
    /// Chains that lost something.
    cut: BTreeSet<ChainId>,
    ledger: Ledger,
}

impl Journal {
    /// Opens the logs as [`Journal::open`] does, and those that are damaged as far as they read, if
    /// there are others who have the rest: `others` is asked with what is left.
    pub(crate) fn open_or_mend(
        folder: &RealmFolder,
        others: impl FnOnce(&Ledger) -> bool,
    ) -> Result<(Self, Ledger), JournalError> {
        Self::open_or_mend_in(RealFiles, folder, others)
    }
}

impl<F: Files> Journal<F> {
    pub(super) fn open_or_mend_in(
        files: F,
        folder: &RealmFolder,
        others: impl FnOnce(&Ledger) -> bool,
    ) -> Result<(Self, Ledger), JournalError> {
        let damage = match Self::open_in(files.clone(), folder) {
            Err(JournalError::Log { chain, source }) if source.is_damage() => {
                JournalError::Log { chain, source }
            }
            opened => return opened,
        };
        let marks = Marks::read(files.clone(), folder.marks())?;
        let Some(mended) = Mended::read(&files, folder, &marks)? else {
            return Err(damage);
        };
        if !others(&mended.ledger) {
            return Err(damage);
        }
        tracing::error!(
            reason = crate::error::with_causes(&damage),
            "the log is damaged: what is missing is fetched from other nodes, and nothing runs until it is here"
        );
        mended.write(&files, folder)?;
        Self::open_behind(files, folder, marks, mended)
    }

    fn open_behind(
        files: F,
        folder: &RealmFolder,
        marks: Marks<F>,
        mended: Mended,
    ) -> Result<(Self, Ledger), JournalError> {
        let behind = mended.cut.into_iter();
        let mut journal = Self {
            files,
            folder: folder.clone(),
            logs: BTreeMap::new(),
            index: BTreeMap::new(),
            unmarked: BTreeMap::new(),
            behind: behind
                .filter_map(|chain| Some((chain, marks.get(chain)?)))
                .collect(),
            authority_floor: marks.get(ChainId::Authority).map_or(0, |head| head.seq),
            marks,
        };
        let mut ledger = mended.ledger;
        for (chain, records) in &mended.logs {
            if records.is_empty() && !ALWAYS.contains(chain) {
                continue;
            }
            journal.open_log(*chain)?;
            journal.place(*chain, ledger.realm(), records);
        }
        journal.set_marks(&ledger)?;
        if journal.catch_up(&ledger)? {
            ledger = journal.rebuild()?;
        }
        Ok((journal, ledger))
    }

    /// Chains that are not back where they stood, with the entry that was in force.
    pub(crate) const fn behind(&self) -> &BTreeMap<ChainId, Head> {
        &self.behind
    }

    /// Looks whether chains are back where they stood; returns whether the last one is.
    pub(crate) fn catch_up(&mut self, ledger: &Ledger) -> Result<bool, JournalError> {
        if self.behind.is_empty() {
            return Ok(false);
        }
        let known = self.authority_floor;
        let mut back = Vec::new();
        for (chain, floor) in &self.behind {
            if !ledger.reaches(*chain, *floor, known) {
                // What a namespace may say shows once the authority chain is back, which is the first.
                if *chain == ChainId::Authority {
                    break;
                }
                continue;
            }
            back.push(*chain);
        }
        for chain in back {
            self.behind.remove(&chain);
            tracing::info!(%chain, "the chain is back where it stood before its log was damaged");
        }
        self.set_marks(ledger)?;
        Ok(self.behind.is_empty())
    }

    /// The marks that vouch for what is in the logs.
    pub(super) fn vouched(&self) -> BTreeMap<ChainId, Head> {
        let chains = self.marks.chains();
        let whole = chains.filter(|chain| !self.behind.contains_key(chain));
        whole
            .filter_map(|chain| Some((chain, self.marks.get(chain)?)))
            .collect()
    }

    /// The records that each log must have at least.
    pub(super) fn floor(&self, chain: ChainId) -> Option<u64> {
        match self.behind.contains_key(&chain) {
            true => None,
            false => self.marks.floor(chain),
        }
    }

    /// Keeps the genesis once more: it is the realm's id, without which nobody can be asked for the
    /// rest. A full disk keeps nobody from starting.
    pub(super) fn keep_genesis(&self) {
        let path = self.folder.genesis();
        if self.files.is_file(&path) {
            return;
        }
        let log = self.logs.get(&ChainId::Authority);
        let genesis = log.and_then(|log| log.record(0).ok().flatten());
        let kept = genesis.map(|genesis| files::put(&self.files, &path, &genesis));
        if let Some(Err(error)) = kept {
            tracing::warn!(%error, "the copy of the genesis could not be written");
        }
    }
}

impl Mended {
    /// Reads all logs as far as they go; `None`: not even the genesis is left.
    fn read<F: Files>(
        files: &F,
        folder: &RealmFolder,
        marks: &Marks<F>,
    ) -> Result<Option<Self>, JournalError> {
        let mut found = BTreeMap::new();
        let mut logs = Logs::new();
        let mut cut = BTreeSet::new();
        for chain in check_marks(files, folder, marks)? {
            let salvaged = Log::<F>::salvage(files, &folder.log(chain))
                .map_err(|source| JournalError::Log { chain, source })?;
            let mut records = salvaged
                .as_ref()
                .map_or_else(Vec::new, |log| log.records.clone());
            let is_whole = salvaged.as_ref().is_none_or(|log| log.is_whole);
            if !is_whole || (records.len() as u64) < marks.floor(chain).unwrap_or(0) {
                cut.insert(chain);
            }
            found.extend(salvaged.map(|log| (chain, log)));
            if records.is_empty() && chain == ChainId::Authority {
                let Some(genesis) = kept_genesis(files, folder) else {
                    return Ok(None);
                };
                records.push(genesis);
            }
            logs.insert(chain, records);
        }
        let ledger = loop {
            let vouched = logs.keys().filter(|chain| !cut.contains(chain));
            let vouched = vouched.filter_map(|chain| Some((*chain, marks.get(*chain)?)));
            match replay(folder, &logs, &vouched.collect()) {
                Ok(ledger) => break ledger,
                // It was signed on top of authority entries that are missing.
                Err(JournalError::Refused { chain, index, .. })
                    if chain != ChainId::Authority && cut.contains(&ChainId::Authority) =>
                {
                    logs.entry(chain).or_default().truncate(index);
                    cut.insert(chain);
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Some(Self {
            logs,
            found,
            cut,
            ledger,
        }))
    }

    /// Sets aside what is damaged, and puts what reads of it in its place.
    fn write<F: Files>(&self, files: &F, folder: &RealmFolder) -> Result<(), JournalError> {
        for chain in &self.cut {
            let path = folder.log(*chain);
            let failed = |source| JournalError::Log {
                chain: *chain,
                source,
            };
            let records = self.logs.get(chain).map_or(&[][..], Vec::as_slice);
            if let Some(log) = self.found.get(chain) {
                if log.is_whole && log.records == records {
                    continue;
                }
                let aside = Log::<F>::set_aside(files, &path, &log.bytes).map_err(failed)?;
                tracing::warn!(%chain, aside = %aside.display(), "the damaged log is kept");
            }
            Log::<F>::write(files, &path, records).map_err(failed)?;
        }
        Ok(())
    }
}

fn kept_genesis<F: Files>(files: &F, folder: &RealmFolder) -> Option<Vec<u8>> {
    let bytes = files::get(files, &folder.genesis(), GENESIS_BYTES_MAX);
    let genesis = match bytes {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(%error, "the copy of the genesis could not be read");
            return None;
        }
    };
    VerifiedEntry::genesis(&genesis, None).ok().map(|_| genesis)
}

/// Sixteen owners, and room.
const GENESIS_BYTES_MAX: u64 = 64 * 1024;
