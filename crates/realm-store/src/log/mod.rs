//! The append log of one chain: a file of signed entries, each durable before it is acknowledged.
//!
//! Layout: a header (magic, format version, checksum), then records (see `record`). One append is
//! synced before the next begins, so a crash can leave at most one incomplete record, at the end:
//! that one is cut and reported. Anything else that does not read is damage and an error, never a
//! shorter history. Not here: whether entries follow each other (`VerifiedEntry`, control).

mod record;
mod salvage;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod reader_tests;

use std::io;
use std::path::{Path, PathBuf};

use realm_model::entry::VerifiedEntry;

use crate::files::{self, Files, Handle, PRIVATE_MODE, RealFiles};
use record::{HEADER, Scan};

pub use salvage::{ASIDE_MAX, Salvaged};

/// The format version that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// A log larger than this is refused: it is read whole at start. Room for hundreds of thousands of
/// ordinary entries, until checkpoints shorten it.
pub const LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The open log of one chain. One process at a time: the agent's lock sees to that.
#[derive(Debug)]
pub struct Log<F: Files = RealFiles> {
    file: F::Handle,
    path: PathBuf,
    /// Where each acknowledged record begins; it ends where the next one does.
    starts: Vec<u64>,
    /// Where the last acknowledged record ends.
    size: u64,
    /// Whether bytes may follow `size`, of an append that failed.
    unsettled: bool,
}

/// What was in a log when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The payloads of all records, oldest first; all are durable.
    pub records: Vec<Vec<u8>>,
    /// Bytes of an append that never completed, which were cut off; 0 after a clean end.
    pub torn_tail_bytes: u64,
}

/// Why a log cannot be opened or appended to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system refused an operation.
    #[error("failed to {operation} the log `{path}`")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The log.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file does not begin like a log.
    #[error("`{path}` is not a log, or its beginning is damaged")]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// A log of a later version of realm.
    #[error("the log `{path}` has format {format}; this version reads format {FORMAT}")]
    UnknownFormat {
        /// The log.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Bytes that were durable changed. The file is left as it is.
    #[error("the log `{path}` is damaged: record {record} at byte {offset} does not read")]
    Damaged {
        /// The log.
        path: PathBuf,
        /// The first record that does not read, counted from 0.
        record: u64,
        /// Where it begins.
        offset: u64,
    },
    /// Records are missing at the end that were durable once. The file is left as it is.
    #[error("the log `{path}` has {records} records; its high-water mark says {mark}")]
    ShorterThanMark {
        /// The log.
        path: PathBuf,
        /// Records that are there.
        records: u64,
        /// Records that were there.
        mark: u64,
    },
    /// It was damaged again and again.
    #[error("the log `{path}` was damaged {ASIDE_MAX} times: look at the disk")]
    TooMuchDamage {
        /// The log.
        path: PathBuf,
    },
    /// The record cannot be kept.
    #[error("a record of {bytes} bytes does not fit the log `{path}`")]
    DoesNotFit {
        /// The log.
        path: PathBuf,
        /// The record's payload.
        bytes: usize,
    },
}

impl LogError {
    /// Whether bytes are lost or changed that were durable.
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::NotALog { .. } | Self::Damaged { .. } | Self::ShorterThanMark { .. } => true,
            Self::Io { .. }
            | Self::UnknownFormat { .. }
            | Self::TooMuchDamage { .. }
            | Self::DoesNotFit { .. } => false,
        }
    }

    /// Whether there was no room: it passes by itself when room returns.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => files::is_disk_full(source),
            Self::NotALog { .. }
            | Self::UnknownFormat { .. }
            | Self::Damaged { .. }
            | Self::ShorterThanMark { .. }
            | Self::TooMuchDamage { .. }
            | Self::DoesNotFit { .. } => false,
        }
    }
}

impl<F: Files> Log<F> {
    /// Opens the log, or makes an empty one, and returns what is in it.
    ///
    /// `floor` is the number of records that the high-water mark vouches for
    /// ([`crate::mark::Marks::floor`]); a shorter log is an error and is left untouched. Everything
    /// returned is durable: a record that an earlier process wrote and did not live to sync is
    /// synced first. Nothing is written where the mark vouches for all that is there.
    pub fn open(
        files: F,
        path: PathBuf,
        floor: Option<u64>,
    ) -> Result<(Self, Recovered), LogError> {
        let floor = floor.unwrap_or(0);
        let file = match files.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::create(&files, path, floor);
            }
            Err(error) => return Err(io_error("open", &path, error)),
        };
        let bytes = files::read_all(&file, LOG_BYTES_MAX)
            .map_err(|error| io_error("read", &path, error))?;
        let scan = record::scan(&bytes).map_err(|fault| fault.at(&path))?;
        let records = scan.records.len() as u64;
        if records < floor {
            return Err(LogError::ShorterThanMark {
                path,
                records,
                mark: floor,
            });
        }
        let torn_tail_bytes = (bytes.len() - scan.end) as u64;
        if records == 0 {
            // Its name may never have become durable: an empty log is made again instead.
            let (log, _) = Self::create(&files, path, floor)?;
            let recovered = Recovered {
                torn_tail_bytes,
                ..Recovered::default()
            };
            return Ok((log, recovered));
        }
        // A mark is set after the sync of what it vouches for.
        if records > floor || torn_tail_bytes > 0 {
            make_durable(&file, &path, &bytes, &scan)?;
        }
        let recovered = Recovered {
            records: scan
                .records
                .iter()
                .map(|span| bytes[span.payload()].to_vec())
                .collect(),
            torn_tail_bytes,
        };
        let log = Self {
            file,
            path,
            starts: scan.records.iter().map(|span| span.start as u64).collect(),
            size: scan.end as u64,
            unsettled: false,
        };
        Ok((log, recovered))
    }

    /// Returns what is in the log and changes nothing, for a look beside an agent that may be
    /// appending. What the agent has not finished counts as a torn tail.
    pub fn read(files: &F, path: &Path, floor: Option<u64>) -> Result<Recovered, LogError> {
        let floor = floor.unwrap_or(0);
        let file = files
            .open(path)
            .map_err(|error| io_error("open", path, error))?;
        let bytes =
            files::read_all(&file, LOG_BYTES_MAX).map_err(|error| io_error("read", path, error))?;
        let scan = record::scan(&bytes).map_err(|fault| fault.at(path))?;
        let records = scan.records.len() as u64;
        if records < floor {
            return Err(LogError::ShorterThanMark {
                path: path.to_owned(),
                records,
                mark: floor,
            });
        }
        Ok(recovered(&bytes, &scan))
    }

    /// Appends an entry; returns once it is durable.
    ///
    /// After an error the entry is not in the log, and the log goes on by itself when the cause is
    /// gone (room on the disk). Only if the machine stops before the next append may an entry
    /// whose append failed come back: its signature is as good as before.
    pub fn append(&mut self, entry: &VerifiedEntry) -> Result<(), LogError> {
        self.append_payload(entry.bytes())
    }

    /// The number of records.
    pub const fn records(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Reads one record again, counted from 0, and checks it; `None`: there are not so many.
    pub fn record(&self, number: u64) -> Result<Option<Vec<u8>>, LogError> {
        let start = usize::try_from(number)
            .ok()
            .and_then(|at| self.starts.get(at..));
        let Some((offset, after)) = start.and_then(<[u64]>::split_first) else {
            return Ok(None);
        };
        let (offset, end) = (*offset, after.first().copied().unwrap_or(self.size));
        // Each was read or written whole, so it fits into memory.
        let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or(0)];
        files::read_exact_at(&self.file, &mut bytes, offset)
            .map_err(|error| io_error("read", &self.path, error))?;
        match record::payload_of(bytes) {
            Some(payload) => Ok(Some(payload)),
            None => Err(LogError::Damaged {
                path: self.path.clone(),
                record: number,
                offset,
            }),
        }
    }

    fn create(files: &F, path: PathBuf, floor: u64) -> Result<(Self, Recovered), LogError> {
        if floor > 0 {
            return Err(LogError::ShorterThanMark {
                path,
                records: 0,
                mark: floor,
            });
        }
        let header = record::header();
        files::replace(files, &path, &header, PRIVATE_MODE)
            .map_err(|(operation, error)| io_error(operation, &path, error))?;
        let file = files
            .open(&path)
            .map_err(|error| io_error("open", &path, error))?;
        let log = Self {
            file,
            path,
            starts: Vec::new(),
            size: HEADER as u64,
            unsettled: false,
        };
        Ok((log, Recovered::default()))
    }

    pub(crate) fn append_payload(&mut self, payload: &[u8]) -> Result<(), LogError> {
        let Some(record) = record::encode(payload) else {
            return Err(self.does_not_fit(payload));
        };
        let end = self.size + record.len() as u64;
        if end > LOG_BYTES_MAX {
            return Err(self.does_not_fit(payload));
        }
        self.settle()?;
        // From here on until the sync succeeds, nothing is known about what follows `size`.
        self.unsettled = true;
        let written = self
            .file
            .write_all_at(&record, self.size)
            .map_err(|error| io_error("write", &self.path, error))
            .and_then(|()| {
                self.file
                    .sync()
                    .map_err(|error| io_error("sync", &self.path, error))
            });
        if let Err(error) = written {
            // The first error is the one that says why; `unsettled` remembers a second.
            let _ = self.settle();
            return Err(error);
        }
        self.unsettled = false;
        self.starts.push(self.size);
        self.size = end;
        Ok(())
    }

    /// Cuts off what a failed append may have left.
    ///
    /// A failed sync is never repeated: the system may have dropped the bytes and forgotten the
    /// failure. They are cut instead, and what comes next is written afresh.
    fn settle(&mut self) -> Result<(), LogError> {
        if !self.unsettled {
            return Ok(());
        }
        self.file
            .set_size(self.size)
            .and_then(|()| self.file.sync())
            .map_err(|error| io_error("cut back", &self.path, error))?;
        self.unsettled = false;
        Ok(())
    }

    fn does_not_fit(&self, payload: &[u8]) -> LogError {
        LogError::DoesNotFit {
            path: self.path.clone(),
            bytes: payload.len(),
        }
    }
}

fn recovered(bytes: &[u8], scan: &Scan) -> Recovered {
    let records = scan.records.iter();
    Recovered {
        records: records.map(|span| bytes[span.payload()].to_vec()).collect(),
        torn_tail_bytes: (bytes.len() - scan.end) as u64,
    }
}

/// Makes what was read durable before anybody acts on it: after kill -9 the last record may be in
/// the page cache only, or its sync may have failed and been forgotten. Writing the same bytes
/// again gives the sync something to answer for. (The name is durable since before the first
/// record.)
fn make_durable<H: Handle>(
    file: &H,
    path: &Path,
    bytes: &[u8],
    scan: &Scan,
) -> Result<(), LogError> {
    if scan.end < bytes.len() {
        file.set_size(scan.end as u64)
            .map_err(|error| io_error("cut back", path, error))?;
    }
    if let Some(last) = scan.records.last() {
        file.write_all_at(&bytes[last.start..last.end], last.start as u64)
            .map_err(|error| io_error("write", path, error))?;
    }
    file.sync().map_err(|error| io_error("sync", path, error))
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> LogError {
    LogError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
