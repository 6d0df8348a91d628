//! What lies in the file of an embedded store: its tables, and the bytes of an entry.
//!
//! A key of a table is the bucket's length, the bucket, and the key, so that the keys of one bucket lie
//! together and no two buckets meet. Small values lie beside their head, large ones in a table of their
//! own, so that a listing does not read them. Not here: when something is written.

use realm_model::cloud::limits::ENTRY_BYTES;
use redb::{ReadableTable, TableDefinition};

use crate::disk::Fault;

/// Entries: revision, end of their time, checksum, and the value where it is small.
pub(super) const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
/// Values that are large.
pub(super) const LARGE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("large");
/// End of time and key of an entry, to how many bytes it has: what is swept next comes first.
pub(super) const ENDS: TableDefinition<&[u8], u64> = TableDefinition::new("ends");
/// The version of this format, the last revision, and the bytes of all entries.
pub(super) const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");

/// The only version there is.
pub(super) const VERSION: u64 = 1;
/// Its name in [`FACTS`].
pub(super) const FACT_VERSION: &str = "format";
/// The name of the count of bytes in [`FACTS`].
pub(super) const FACT_BYTES: &str = "bytes";
/// The name of the last revision in [`FACTS`].
pub(super) const FACT_REVISION: &str = "revision";

/// Values up to this lie beside their head. A page of a listing reads at most a thousand of them.
const BESIDE_BYTES_MAX: usize = 1024;
/// Revision, end, checksum, kind.
const HEAD_BYTES: usize = 8 + 8 + 4 + 1;
const BESIDE: u8 = 0;
const APART: u8 = 1;

/// The head of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: u64,
    /// Milliseconds since 1970, UTC; 0: it stays.
    pub(super) ends_at_ms: u64,
}

impl Head {
    /// Whether its time is over.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.ends_at_ms != 0 && self.ends_at_ms <= now_ms
    }
}

/// An entry with its value.
pub(super) struct Entry {
    pub(super) head: Head,
    pub(super) value: Vec<u8>,
}

/// Where a bucket's entries begin.
pub(super) fn prefix(bucket: &str) -> Vec<u8> {
    let n_bytes =
        u8::try_from(bucket.len()).expect("names of buckets are checked to have 255 bytes");
    let mut all = Vec::with_capacity(1 + bucket.len());
    all.push(n_bytes);
    all.extend_from_slice(bucket.as_bytes());
    all
}

/// Where an entry lies.
pub(super) fn place(bucket: &str, key: &str) -> Vec<u8> {
    let mut all = prefix(bucket);
    all.extend_from_slice(key.as_bytes());
    all
}

/// Bucket and key of a place.
pub(super) fn bucket_and_key(place: &[u8]) -> Option<(&str, &str)> {
    let (n_bytes, rest) = place.split_first()?;
    let (bucket, key) = rest.split_at_checked(usize::from(*n_bytes))?;
    Some((
        std::str::from_utf8(bucket).ok()?,
        std::str::from_utf8(key).ok()?,
    ))
}

/// Where the end of an entry lies.
pub(super) fn end(ends_at_ms: u64, place: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(8 + place.len());
    all.extend_from_slice(&ends_at_ms.to_be_bytes());
    all.extend_from_slice(place);
    all
}

/// When and where: the other way round.
pub(super) fn end_and_place(end: &[u8]) -> Option<(u64, &[u8])> {
    let (ends_at_ms, place) = end.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*ends_at_ms), place))
}

/// The bytes of an entry, and those that lie apart from it.
pub(super) fn write<'a>(place: &[u8], head: Head, value: &'a [u8]) -> (Vec<u8>, Option<&'a [u8]>) {
    let is_beside = value.len() <= BESIDE_BYTES_MAX;
    let mut all = Vec::with_capacity(HEAD_BYTES + if is_beside { value.len() } else { 0 });
    all.extend_from_slice(&head.revision.to_be_bytes());
    all.extend_from_slice(&head.ends_at_ms.to_be_bytes());
    all.extend_from_slice(&checksum(place, head, value).to_be_bytes());
    all.push(if is_beside { BESIDE } else { APART });
    if is_beside {
        all.extend_from_slice(value);
        return (all, None);
    }
    (all, Some(value))
}

/// The head of an entry's bytes.
pub(super) fn head(place: &[u8], bytes: &[u8]) -> Result<Head, Fault> {
    parts(bytes).map_or_else(|| Err(damaged(place)), |parts| Ok(parts.head))
}

/// What an entry counts for. The name of its bucket stands before each key.
pub(super) fn size(place: &[u8], value_bytes: usize) -> u64 {
    (place.len().saturating_sub(1) + value_bytes + ENTRY_BYTES) as u64
}

/// Bytes of the value that lie beside the head.
pub(super) fn beside_bytes(bytes: &[u8]) -> usize {
    parts(bytes).map_or(0, |parts| parts.beside.map_or(0, <[u8]>::len))
}

/// An entry, from both tables; `None`: it is not there, or its time is over.
pub(super) fn read(
    entries: &impl ReadableTable<&'static [u8], &'static [u8]>,
    large: &impl ReadableTable<&'static [u8], &'static [u8]>,
    place: &[u8],
    now_ms: u64,
) -> Result<Option<Entry>, Fault> {
    let Some(bytes) = entries.get(place)? else {
        return Ok(None);
    };
    let parts = parts(bytes.value()).ok_or_else(|| damaged(place))?;
    if parts.head.is_over(now_ms) {
        return Ok(None);
    }
    let value = match parts.beside {
        Some(value) => value.to_vec(),
        None => {
            let value = large.get(place)?.ok_or_else(|| damaged(place))?;
            value.value().to_vec()
        }
    };
    if checksum(place, parts.head, &value) != parts.checksum {
        return Err(damaged(place));
    }
    Ok(Some(Entry {
        head: parts.head,
        value,
    }))
}

struct Parts<'a> {
    head: Head,
    checksum: u32,
    beside: Option<&'a [u8]>,
}

fn parts(bytes: &[u8]) -> Option<Parts<'_>> {
    let (revision, rest) = bytes.split_first_chunk::<8>()?;
    let (ends_at_ms, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let (kind, value) = rest.split_first()?;
    let beside = match *kind {
        BESIDE => Some(value),
        APART if value.is_empty() => None,
        _ => return None,
    };
    Some(Parts {
        head: Head {
            revision: u64::from_be_bytes(*revision),
            ends_at_ms: u64::from_be_bytes(*ends_at_ms),
        },
        checksum: u32::from_be_bytes(*checksum),
        beside,
    })
}

/// The engine does not look at its own checksums when it reads: a bit that fell over in a value would
/// come out as if it had been written.
fn checksum(place: &[u8], head: Head, value: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(place);
    sum = crc32c::crc32c_append(sum, &head.revision.to_be_bytes());
    sum = crc32c::crc32c_append(sum, &head.ends_at_ms.to_be_bytes());
    crc32c::crc32c_append(sum, value)
}

fn damaged(place: &[u8]) -> Fault {
    in_bucket(bucket_and_key(place).map_or("", |(bucket, _)| bucket))
}

/// What is damaged, for the operator.
pub(super) fn in_bucket(bucket: &str) -> Fault {
    Fault::Damaged {
        place: format!("bucket `{bucket}`"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_time_of_an_entry_is_over_with_its_last_millisecond() {
        let over = |ends_at_ms, now_ms| {
            let head = Head {
                revision: 1,
                ends_at_ms,
            };
            head.is_over(now_ms)
        };
        assert!(!over(10, 9));
        assert!(over(10, 10));
        assert!(over(10, 11));
        assert!(!over(0, u64::MAX), "one without an end stays");
    }

    proptest! {
        #[test]
        fn bytes_from_outside_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = bucket_and_key(&bytes);
            let _ = end_and_place(&bytes);
            let _ = head(&bytes, &bytes);
        }

        #[test]
        fn what_is_written_is_read(
            bucket in "\\PC{1,20}", key in "\\PC{1,20}", revision: u64, ends_at_ms: u64,
            value in prop::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let place = place(&bucket, &key);
            prop_assert_eq!(bucket_and_key(&place), Some((bucket.as_str(), key.as_str())));
            let end = end(ends_at_ms, &place);
            prop_assert_eq!(end_and_place(&end), Some((ends_at_ms, &place[..])));
            let before = Head { revision, ends_at_ms };
            let (bytes, apart) = write(&place, before, &value);
            prop_assert_eq!(head(&place, &bytes).unwrap(), before);
            let parts = parts(&bytes).unwrap();
            prop_assert_eq!(parts.beside.or(apart).unwrap(), &value[..]);
            prop_assert_eq!(parts.checksum, checksum(&place, before, &value));
        }
    }
}
