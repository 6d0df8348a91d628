//! What lies in the file of streams: its tables, and the bytes of a record.

use realm_model::cloud::limits::RECORD_OVERHEAD_BYTES;
use realm_model::cloud::streams::{Place, Record};
use redb::TableDefinition;

use crate::disk::Fault;

/// The version of this format, the bytes of all records, and the last number of a stream.
pub(super) const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
/// Part, a line break, and name → number of the stream, first, last, swept, bytes, time of the last.
pub(super) const STREAMS: TableDefinition<'_, &str, Row> = TableDefinition::new("streams");
/// Number of the stream, number of the record → checksum, time, record.
pub(super) const RECORDS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("records");
/// Number of the stream, consumer → how far it has come.
pub(super) const POSITIONS: TableDefinition<'_, (u32, &str), u64> =
    TableDefinition::new("positions");

/// The only version there is.
pub(super) const VERSION: u64 = 1;
pub(super) const FACT_VERSION: &str = "format";
pub(super) const FACT_BYTES: &str = "bytes";
pub(super) const FACT_STREAM: &str = "stream";

pub(super) type Row = (u32, u64, u64, u64, u64, u64);

/// A stream, as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) number: u32,
    /// The first record that may be read.
    pub(super) first: u64,
    /// The last that ever was; 0: none.
    pub(super) last: u64,
    /// The first record that is there: those up to `first` are swept in passing.
    pub(super) swept: u64,
    /// What all that are there count for.
    pub(super) bytes: u64,
    /// Milliseconds since 1970 of the last.
    pub(super) time_ms: u64,
}

impl Stream {
    pub(super) const fn new(number: u32) -> Self {
        Self {
            number,
            first: 1,
            last: 0,
            swept: 1,
            bytes: 0,
            time_ms: 0,
        }
    }

    pub(super) const fn of((number, first, last, swept, bytes, time_ms): Row) -> Self {
        Self {
            number,
            first,
            last,
            swept,
            bytes,
            time_ms,
        }
    }

    pub(super) const fn row(self) -> Row {
        let Self {
            number,
            first,
            last,
            swept,
            bytes,
            time_ms,
        } = self;
        (number, first, last, swept, bytes, time_ms)
    }
}

/// Where a stream is. No part and no name has a line break.
pub(super) fn key(at: Place<'_>) -> String {
    format!("{}\n{}", at.part, at.name)
}

/// The bytes of a record.
pub(super) fn bytes(place: (u32, u64), time_ms: u64, record: &Record) -> Vec<u8> {
    let record = record.to_bytes();
    let mut all = Vec::with_capacity(12 + record.len());
    all.extend(checksum(place, time_ms, &record).to_be_bytes());
    all.extend(time_ms.to_be_bytes());
    all.extend(record);
    all
}

/// What a record counts for, by its bytes.
pub(super) fn size(bytes: &[u8]) -> u64 {
    (bytes.len() as u64).saturating_add(RECORD_OVERHEAD_BYTES)
}

/// When a record was appended, and what it is.
pub(super) fn record(
    at: Place<'_>,
    place: (u32, u64),
    bytes: &[u8],
) -> Result<(u64, Record), Fault> {
    parts(place, bytes).ok_or_else(|| damaged(at))
}

/// A record of this stream is none.
pub(super) fn damaged(at: Place<'_>) -> Fault {
    Fault::Damaged {
        place: format!("stream `{}`", at.name),
    }
}

/// When it was appended, of bytes that may be damaged.
pub(super) fn time(bytes: &[u8]) -> Option<u64> {
    let (_, rest) = bytes.split_first_chunk::<4>()?;
    let (time_ms, _) = rest.split_first_chunk::<8>()?;
    Some(u64::from_be_bytes(*time_ms))
}

fn parts(place: (u32, u64), bytes: &[u8]) -> Option<(u64, Record)> {
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    let (time_ms, rest) = rest.split_first_chunk::<8>()?;
    let time_ms = u64::from_be_bytes(*time_ms);
    if u32::from_be_bytes(*sum) != checksum(place, time_ms, rest) {
        return None;
    }
    Some((time_ms, Record::from_bytes(rest)?))
}

/// The engine does not look at its own checksums when it reads.
fn checksum((number, seq): (u32, u64), time_ms: u64, record: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(&number.to_be_bytes());
    sum = crc32c::crc32c_append(sum, &seq.to_be_bytes());
    sum = crc32c::crc32c_append(sum, &time_ms.to_be_bytes());
    crc32c::crc32c_append(sum, record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_was_written_or_damaged() {
        let at = Place {
            part: "",
            name: "orders",
        };
        let written = Record {
            key: Some("a".to_owned()),
            data: vec![1, 2, 3],
            metadata: Vec::new(),
        };
        let all = bytes((7, 9), 11, &written);
        assert_eq!(record(at, (7, 9), &all).unwrap(), (11, written));
        assert_eq!(time(&all), Some(11));
        assert!(record(at, (7, 10), &all).is_err());
        for nth in 0..all.len() {
            let mut other = all.clone();
            other[nth] ^= 1;
            assert!(record(at, (7, 9), &other).is_err(), "{nth}");
            assert!(record(at, (7, 9), &all[..nth]).is_err(), "{nth}");
        }
    }
}
