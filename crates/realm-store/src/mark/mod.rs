//! High-water marks: per chain, the last entry that was durable here, in two files apart from the
//! log. They tell a log that lost its end from one that is merely short.
//!
//! A mark is set AFTER the log is durable, so it is never above it. Not here: what to do about a
//! log below its mark.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head};

use crate::files::{self, Files, Handle as _, PRIVATE_MODE, RealFiles};

/// The format version that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"realmmrk";
/// Magic 8, format u32, generation u64, seq u64, hash 32, CRC-32C of all that u32; little-endian.
const MARK_BYTES: usize = 64;
const COPIES: [&str; 2] = ["a", "b"];

/// The marks of every chain. One process at a time: the agent's lock sees to that.
#[derive(Debug)]
pub struct Marks<F: Files = RealFiles> {
    files: F,
    directory: PathBuf,
    marks: BTreeMap<ChainId, Mark>,
}

/// Why a mark cannot be read or set.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The system refused an operation.
    #[error("failed to {operation} the mark `{path}`")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// There was a mark, and no copy of it reads.
    #[error("no copy of the mark `{path}` reads")]
    Damaged {
        /// The mark, without the copies' endings.
        path: PathBuf,
    },
    /// A mark of a later version of realm.
    #[error("the mark `{path}` has format {format}; this version reads format {FORMAT}")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A mark only rises, and never changes its hash.
    #[error(
        "the mark of chain `{chain}` stands at entry {have} and cannot be set to another entry {given}"
    )]
    Backwards {
        /// The chain.
        chain: ChainId,
        /// Where it stands.
        have: u64,
        /// What was asked for.
        given: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    generation: u64,
    head: Option<Head>,
    /// Whether `head` is known to be durable, and both copies hold it. Of what was merely read, two
    /// copies of one generation tell so: the second is begun only when the first is durable.
    settled: bool,
    /// Whether this process made both copies durable: of what was read, the second copy may be gone
    /// with the power, and then the first must not be torn.
    synced: bool,
}

enum Copy {
    Missing,
    Damaged,
    Good { generation: u64, head: Head },
}

impl<F: Files> Marks<F> {
    /// Reads the marks in `directory`, which is made if it is missing. One damaged or missing copy
    /// is tolerated. The first [`Marks::set`] of each chain writes both copies again, even if the
    /// head is the same, unless both read alike: set it right after the log was opened.
    pub fn open(files: F, directory: PathBuf) -> Result<Self, MarkError> {
        files
            .create_dir(&directory)
            .map_err(|error| io_error("create the folder of", &directory, error))?;
        Self::read(files, directory)
    }

    /// [`Marks::open`] that makes nothing, for a look beside an agent that may be running.
    pub fn read(files: F, directory: PathBuf) -> Result<Self, MarkError> {
        let mut marks = BTreeMap::new();
        for chain in marked(&files, &directory)? {
            marks.insert(chain, read(&files, &directory, chain)?);
        }
        Ok(Self {
            files,
            directory,
            marks,
        })
    }

    /// The last entry that was durable here; none if there never was one.
    pub fn get(&self, chain: ChainId) -> Option<Head> {
        self.mark(chain).head
    }

    /// The number of records that the chain's log must have at least: for [`crate::log::Log::open`].
    pub fn floor(&self, chain: ChainId) -> Option<u64> {
        let head = self.get(chain)?;
        Some(match chain {
            // Its genesis is entry 0.
            ChainId::Authority => head.seq.saturating_add(1),
            // Its first entry is entry 1: entry 0 is the place before it.
            ChainId::Namespace(_) => head.seq,
        })
    }

    /// The chains that have a mark.
    pub fn chains(&self) -> impl Iterator<Item = ChainId> {
        let marks = self.marks.iter();
        marks
            .filter(|(_, mark)| mark.head.is_some())
            .map(|(chain, _)| *chain)
    }

    /// Raises the mark to `head`, which must be durable in the log; returns once both copies are
    /// durable. After an error the mark is the old one or the new.
    pub fn set(&mut self, chain: ChainId, head: Head) -> Result<(), MarkError> {
        if let Some(have) = self.mark(chain).head
            && have != head
            && have.seq >= head.seq
        {
            return Err(MarkError::Backwards {
                chain,
                have: have.seq,
                given: head.seq,
            });
        }
        self.reset(chain, head)
    }

    /// [`Marks::set`] for a chain of which the owners ended a history: the mark goes where the chain
    /// stands, be it back or to another entry.
    pub fn reset(&mut self, chain: ChainId, head: Head) -> Result<(), MarkError> {
        let mark = self.mark(chain);
        if mark.head == Some(head) && mark.settled {
            return Ok(());
        }
        let generation = mark.generation.saturating_add(1);
        let unsettled = Mark {
            generation,
            settled: false,
            synced: false,
            ..mark
        };
        self.marks.insert(chain, unsettled);
        let bytes = encode(generation, head);
        for copy in COPIES {
            let path = copy_path(&self.directory, chain, copy);
            let other = COPIES.iter().find(|other| **other != copy);
            let other = other.map(|other| copy_path(&self.directory, chain, other));
            // Else what is torn here would be the last one.
            let is_spare = mark.synced && other.is_some_and(|other| self.reads(&other));
            if !(is_spare && self.overwrite(&path, &bytes)?) {
                files::replace(&self.files, &path, &bytes, PRIVATE_MODE)
                    .map_err(|(operation, error)| io_error(operation, &path, error))?;
            }
        }
        let settled = Mark {
            generation,
            head: Some(head),
            settled: true,
            synced: true,
        };
        self.marks.insert(chain, settled);
        Ok(())
    }

    fn reads(&self, path: &Path) -> bool {
        matches!(read_copy(&self.files, path), Ok(Copy::Good { .. }))
    }

    /// Writes over one copy while the other is whole and durable: one sync where a new file takes
    /// two, with a commit of the file system's journal. `false`: there is no such copy any more.
    fn overwrite(&self, path: &Path, bytes: &[u8; MARK_BYTES]) -> Result<bool, MarkError> {
        let file = match self.files.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io_error("open", path, error)),
        };
        if file.size().map_err(|error| io_error("read", path, error))? != MARK_BYTES as u64 {
            return Ok(false);
        }
        file.write_all_at(bytes, 0)
            .map_err(|error| io_error("write", path, error))?;
        file.sync().map_err(|error| io_error("sync", path, error))?;
        Ok(true)
    }

    fn mark(&self, chain: ChainId) -> Mark {
        // No copy was there when the folder was read.
        self.marks.get(&chain).copied().unwrap_or(Mark {
            generation: 0,
            head: None,
            settled: false,
            synced: false,
        })
    }
}

impl MarkError {
    /// Whether there was no room: it passes by itself when room returns.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => files::is_disk_full(source),
            Self::Damaged { .. } | Self::UnknownFormat { .. } | Self::Backwards { .. } => false,
        }
    }
}

/// The chains of which there is a copy of a mark.
fn marked<F: Files>(files: &F, directory: &Path) -> Result<BTreeSet<ChainId>, MarkError> {
    let names = match files.names(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io_error("list the folder of", directory, error)),
    };
    let chain = |name: &String| {
        let (chain, copy) = name.rsplit_once('.')?;
        ChainId::of(chain).filter(|_| COPIES.contains(&copy))
    };
    Ok(names.iter().filter_map(chain).collect())
}

fn read<F: Files>(files: &F, directory: &Path, chain: ChainId) -> Result<Mark, MarkError> {
    let mut best: Option<(u64, Head)> = None;
    let mut damaged = false;
    let mut alike = 0;
    for copy in COPIES {
        match read_copy(files, &copy_path(directory, chain, copy))? {
            Copy::Missing => {}
            Copy::Damaged => damaged = true,
            Copy::Good { generation, head } => {
                let found = Some((generation, head));
                alike = if found == best { alike + 1 } else { 1 };
                best = best.max(found);
            }
        }
    }
    if best.is_none() && damaged {
        return Err(MarkError::Damaged {
            path: directory.join(chain.as_str()),
        });
    }
    Ok(Mark {
        generation: best.map_or(0, |(generation, _)| generation),
        head: best.map(|(_, head)| head),
        settled: alike == COPIES.len(),
        synced: false,
    })
}

fn read_copy<F: Files>(files: &F, path: &Path) -> Result<Copy, MarkError> {
    let file = match files.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copy::Missing),
        Err(error) => return Err(io_error("open", path, error)),
    };
    let Ok(bytes) = files::read_all(&file, MARK_BYTES as u64) else {
        // Too long, or the disk cannot read it: this is what the other copy is for.
        return Ok(Copy::Damaged);
    };
    match decode(&bytes) {
        Some(Ok((generation, head))) => Ok(Copy::Good { generation, head }),
        Some(Err(format)) => Err(MarkError::UnknownFormat {
            path: path.to_owned(),
            format,
        }),
        None => Ok(Copy::Damaged),
    }
}

fn encode(generation: u64, head: Head) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..20].copy_from_slice(&generation.to_le_bytes());
    bytes[20..28].copy_from_slice(&head.seq.to_le_bytes());
    bytes[28..60].copy_from_slice(head.hash.as_bytes());
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// None for bytes that are no mark; the format for a mark of another format.
fn decode(bytes: &[u8]) -> Option<Result<(u64, Head), u32>> {
    let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
    let checksum = u32::from_le_bytes(*bytes[60..].first_chunk()?);
    if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..60]) != checksum {
        return None;
    }
    let format = u32::from_le_bytes(*bytes[8..].first_chunk()?);
    if format != FORMAT {
        return Some(Err(format));
    }
    let generation = u64::from_le_bytes(*bytes[12..].first_chunk()?);
    let head = Head {
        seq: u64::from_le_bytes(*bytes[20..].first_chunk()?),
        hash: Digest::from_bytes(*bytes[28..].first_chunk()?),
    };
    Some(Ok((generation, head)))
}

fn copy_path(directory: &Path, chain: ChainId, copy: &str) -> PathBuf {
    directory.join(format!("{}.{copy}", chain.as_str()))
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> MarkError {
    MarkError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
