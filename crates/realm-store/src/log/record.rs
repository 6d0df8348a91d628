//! The bytes of a log: header, records, and what the end of a file tells. Pure functions over a
//! slice; no file is touched here.
//!
//! Header: magic (8 bytes), format u32, CRC-32C of both u32. Record: payload length u32, CRC-32C of
//! length and payload u32, payload. All integers are little-endian.

use std::ops::Range;
use std::path::Path;

use realm_model::entry::ENTRY_BYTES_MAX;

use super::{FORMAT, LogError};

/// Bytes before the first record.
pub(super) const HEADER: usize = 16;
const MAGIC: [u8; 8] = *b"realmlog";

/// Bytes of a record before its payload.
const PREFIX: usize = 8;
const RECORD_BYTES_MAX: usize = PREFIX + ENTRY_BYTES_MAX;

/// Bytes that are hashed to see whether a record begins in a torn tail. A length has a zero byte, and
/// the texts of a manifest and a lock have none, so honest tails need next to nothing; in a tail made
/// of lengths every byte would cost a hash of the rest.
const HASHED_BYTES_MAX: usize = 64 * ENTRY_BYTES_MAX;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Everything that reads in a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) records: Vec<Span>,
    /// Where the last record ends; bytes after it are a torn tail.
    pub(super) end: usize,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Why bytes are not a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    NotALog,
    UnknownFormat(u32),
    Damaged { record: u64, offset: u64 },
}

impl Span {
    pub(super) const fn payload(self) -> Range<usize> {
        self.start + PREFIX..self.end
    }
}

impl Fault {
    pub(super) fn at(self, path: &Path) -> LogError {
        let path = path.to_owned();
        match self {
            Self::NotALog => LogError::NotALog { path },
            Self::UnknownFormat(format) => LogError::UnknownFormat { path, format },
            Self::Damaged { record, offset } => LogError::Damaged {
                path,
                record,
                offset,
            },
        }
    }
}

/// The header of a new log.
pub(super) fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The bytes of a record; none for a payload that is empty or too long.
pub(super) fn encode(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.is_empty() || payload.len() > ENTRY_BYTES_MAX {
        return None;
    }
    let length = u32::try_from(payload.len()).ok()?.to_le_bytes();
    let mut record = Vec::with_capacity(PREFIX + payload.len());
    record.extend_from_slice(&length);
    record.extend_from_slice(&checksum(length, payload).to_le_bytes());
    record.extend_from_slice(payload);
    Some(record)
}

/// The payload of the bytes of one record, if they are one.
pub(super) fn payload_of(mut record: Vec<u8>) -> Option<Vec<u8>> {
    let end = valid_end(&record, 0)?;
    (end == record.len()).then(|| record.split_off(PREFIX))
}

/// Reads a log.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan, Fault> {
    let scan = readable(bytes)?;
    if scan.end < bytes.len() && !is_torn_write(bytes, scan.end) {
        return Err(Fault::Damaged {
            record: scan.records.len() as u64,
            offset: scan.end as u64,
        });
    }
    Ok(scan)
}

/// Reads a log up to the first record that does not read.
pub(super) fn readable(bytes: &[u8]) -> Result<Scan, Fault> {
    // A log gets its name only once its header is durable: a short header is damage as well.
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        return Err(Fault::NotALog);
    };
    if head[..8] != MAGIC || crc32c::crc32c(&head[..12]) != integer(&head[12..]) {
        return Err(Fault::NotALog);
    }
    let format = integer(&head[8..]);
    if format != FORMAT {
        return Err(Fault::UnknownFormat(format));
    }
    let mut records = Vec::new();
    let mut end = HEADER;
    while end < bytes.len() {
        let Some(next) = valid_end(bytes, end) else {
            break;
        };
        records.push(Span {
            start: end,
            end: next,
        });
        end = next;
    }
    Ok(Scan { records, end })
}

/// Where the record at `start` ends, if a valid one begins there.
fn valid_end(bytes: &[u8], start: usize) -> Option<usize> {
    let prefix: &[u8; PREFIX] = bytes.get(start..)?.first_chunk()?;
    let length = integer(prefix) as usize;
    if length == 0 || length > ENTRY_BYTES_MAX {
        return None;
    }
    let end = start + PREFIX + length;
    let payload = bytes.get(start + PREFIX..end)?;
    let length = *prefix.first_chunk().expect("a prefix has 8 bytes");
    (checksum(length, payload) == integer(&prefix[4..])).then_some(end)
}

/// Whether the bytes from `start`, where no valid record begins, can be what is left of ONE append
/// that did not complete. If not, something that was durable has changed.
///
/// An append is one write at the end, and is synced before the next. Cut short by a crash it leaves
/// a shorter file, or a file of full length in which sectors that were not written are zero.
fn is_torn_write(bytes: &[u8], start: usize) -> bool {
    let tail = &bytes[start..];
    if tail.len() > RECORD_BYTES_MAX {
        return false;
    }
    // A record that was written after this one proves that this one was durable.
    if begins_within(bytes, start + 1) {
        return false;
    }
    if tail.len() < PREFIX {
        return true;
    }
    let length = integer(tail) as usize;
    let claimed = PREFIX + length;
    if length == 0 || length > ENTRY_BYTES_MAX || claimed < tail.len() {
        // Such a length was never written: the sector it lies in is missing, or a bit changed.
        return has_hole(bytes, start, start..start + 4);
    }
    claimed > tail.len() || has_hole(bytes, start, start..bytes.len())
}

/// Whether a valid record may begin at `from` or later: yes as well where too much would have to be
/// hashed to know, since who is in doubt must not cut.
fn begins_within(bytes: &[u8], from: usize) -> bool {
    let mut hashed = 0;
    (from..bytes.len()).any(|at| {
        let prefix = bytes[at..].first_chunk::<4>();
        let length = prefix.map_or(0, |prefix| integer(prefix) as usize);
        if length <= ENTRY_BYTES_MAX && at + PREFIX + length <= bytes.len() {
            hashed += length;
        }
        hashed > HASHED_BYTES_MAX || valid_end(bytes, at).is_some()
    })
}

/// Whether a sector with bytes in `range` was never written: it is all zero from `start` on, or
/// zeros reach from within it to the end of the file.
fn has_hole(bytes: &[u8], start: usize, range: Range<usize>) -> bool {
    let zeros_from = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    if zeros_from < range.end {
        return true;
    }
    let first = range.start / SECTOR;
    let last = (range.end - 1) / SECTOR;
    (first..=last).any(|sector| {
        let from = (sector * SECTOR).max(start);
        let to = ((sector + 1) * SECTOR).min(bytes.len());
        bytes[from..to].iter().all(|byte| *byte == 0)
    })
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}

fn integer(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(
        *bytes
            .first_chunk()
            .expect("callers pass four bytes or more"),
    )
}
