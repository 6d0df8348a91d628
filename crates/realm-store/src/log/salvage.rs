//! What still reads of a log that is damaged, and a log made anew from that. The damaged file is kept
//! beside it, whole. Not here: whether a shorter log may be used, and for what.

use std::io;
use std::path::{Path, PathBuf};

use super::record::{self, HEADER};
use super::{LOG_BYTES_MAX, Log, LogError, io_error, recovered};
use crate::files::{self, Files, PRIVATE_MODE};

/// Damaged files of one log that are kept: a disk that fails more often wants a person.
pub const ASIDE_MAX: u32 = 16;

/// What reads of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// The payloads of its records up to the first that does not read, oldest first.
    pub records: Vec<Vec<u8>>,
    /// The file as it is.
    pub bytes: Vec<u8>,
    /// Whether the records are all that is in it.
    pub is_whole: bool,
}

impl<F: Files> Log<F> {
    /// Reads a log up to its first damage, and changes nothing; `None`: there is no file. A log of a
    /// later format is an error: it is not damaged.
    pub fn salvage(files: &F, path: &Path) -> Result<Option<Salvaged>, LogError> {
        let file = match files.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", path, error)),
        };
        let bytes =
            files::read_all(&file, LOG_BYTES_MAX).map_err(|error| io_error("read", path, error))?;
        let records = match record::readable(&bytes) {
            Ok(scan) => recovered(&bytes, &scan),
            Err(fault @ record::Fault::UnknownFormat(_)) => return Err(fault.at(path)),
            Err(record::Fault::NotALog | record::Fault::Damaged { .. }) => super::Recovered {
                torn_tail_bytes: bytes.len() as u64,
                ..super::Recovered::default()
            },
        };
        Ok(Some(Salvaged {
            is_whole: records.torn_tail_bytes == 0 && bytes.len() >= HEADER,
            records: records.records,
            bytes,
        }))
    }

    /// Keeps the bytes of a damaged log beside it; returns where.
    pub fn set_aside(files: &F, path: &Path, bytes: &[u8]) -> Result<PathBuf, LogError> {
        for number in 1..=ASIDE_MAX {
            let aside = path.with_extension(format!("damaged-{number}"));
            if files.is_file(&aside) {
                continue;
            }
            files::replace(files, &aside, bytes, PRIVATE_MODE)
                .map_err(|(operation, error)| io_error(operation, &aside, error))?;
            return Ok(aside);
        }
        Err(LogError::TooMuchDamage {
            path: path.to_owned(),
        })
    }

    /// Puts a log with these records in place of what is there, durably.
    pub fn write(files: &F, path: &Path, records: &[Vec<u8>]) -> Result<(), LogError> {
        let mut bytes = record::header().to_vec();
        for payload in records {
            let record = record::encode(payload).ok_or_else(|| LogError::DoesNotFit {
                path: path.to_owned(),
                bytes: payload.len(),
            })?;
            bytes.extend(record);
        }
        files::replace(files, path, &bytes, PRIVATE_MODE)
            .map_err(|(operation, error)| io_error(operation, path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::faults::FaultyFiles;

    const PATH: &str = "/log/default.log";

    /// A disk with a log of three records.
    fn three() -> (FaultyFiles, Vec<u8>) {
        let files = FaultyFiles::new();
        files.create_dir(Path::new("/log")).unwrap();
        let records = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
        Log::write(&files, Path::new(PATH), &records).unwrap();
        let bytes = files.contents(Path::new(PATH)).unwrap();
        (files, bytes)
    }

    #[test]
    fn any_flipped_bit_costs_what_follows_it_and_nothing_before() {
        let (files, good) = three();
        let ends = [HEADER, HEADER + 11, HEADER + 22, good.len()];
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            files.put(Path::new(PATH), &bytes);
            let salvaged = Log::salvage(&files, Path::new(PATH));
            // A header whose checksum holds would be another format.
            let salvaged = salvaged.unwrap().expect("the file is there");
            let before = ends.iter().filter(|end| **end <= at).count();
            assert_eq!(
                salvaged.records.len(),
                before.saturating_sub(1),
                "byte {at}"
            );
            assert!(!salvaged.is_whole, "byte {at}");
            assert_eq!(salvaged.bytes, bytes);
        }
    }

    #[test]
    fn a_log_cut_at_any_byte_keeps_its_whole_records() {
        let (files, good) = three();
        for length in 0..=good.len() {
            files.put(Path::new(PATH), &good[..length]);
            let salvaged = Log::salvage(&files, Path::new(PATH)).unwrap().unwrap();
            let ends = [HEADER + 11, HEADER + 22, good.len()];
            let whole = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(salvaged.records.len(), whole, "{length} bytes");
            let clean = length == HEADER || ends.contains(&length);
            assert_eq!(salvaged.is_whole, clean, "{length} bytes");
        }
    }

    #[test]
    fn what_is_set_aside_is_never_overwritten() {
        let (files, _) = three();
        let path = Path::new(PATH);
        for number in 1..=ASIDE_MAX {
            let bytes = [u8::try_from(number).unwrap()];
            let aside = Log::set_aside(&files, path, &bytes).unwrap();
            assert_eq!(files.contents(&aside).unwrap(), bytes);
        }
        let more = Log::set_aside(&files, path, b"more");
        assert!(
            matches!(more, Err(LogError::TooMuchDamage { .. })),
            "{more:?}"
        );
        let first = path.with_extension("damaged-1");
        assert_eq!(files.contents(&first).unwrap(), [1]);
    }
}
