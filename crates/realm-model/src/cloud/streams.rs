//! Streams of records: appended at the end, read from anywhere, as often as somebody likes.

use std::time::Duration;

use super::rest::{Rest, length, put};
use super::{Answer, CloudError, limits, within};

/// Streams by name.
///
/// A stream comes to be with the first record in it. Numbers of records begin at 1, and each is greater
/// than those before.
pub trait Streams: Send + Sync {
    /// Appends records, which were checked: their numbers. With `expected`: only if that is the last number.
    fn append<'a>(
        &'a self,
        at: Place<'a>,
        records: Vec<Record>,
        expected: Option<u64>,
    ) -> Answer<'a, Vec<u64>, StreamError>;

    /// Records after a number, up to so many, and up to [`limits::RECORDS_BYTES_MAX`]; where there is none
    /// after waiting for one.
    fn read<'a>(
        &'a self,
        at: Place<'a>,
        after: u64,
        n_max: usize,
        wait: Duration,
    ) -> Answer<'a, Vec<StoredRecord>, StreamError>;

    /// Where it begins and ends.
    fn bounds<'a>(&'a self, at: Place<'a>) -> Answer<'a, Bounds, StreamError>;

    /// The first record at or after milliseconds since 1970; one more than the last where there is none.
    fn find<'a>(&'a self, at: Place<'a>, time_ms: u64) -> Answer<'a, u64, StreamError>;

    /// Takes what is before a number away.
    fn trim<'a>(&'a self, at: Place<'a>, before: u64) -> Answer<'a, (), StreamError>;

    /// How far a consumer has come.
    fn position<'a>(
        &'a self,
        at: Place<'a>,
        consumer: &'a str,
    ) -> Answer<'a, Option<u64>, StreamError>;

    /// Says how far a consumer has come, if it had come as far as expected.
    fn commit<'a>(
        &'a self,
        at: Place<'a>,
        consumer: &'a str,
        seq: u64,
        expected: Option<u64>,
    ) -> Answer<'a, (), StreamError>;

    /// What a binding says of it from here on.
    fn keep(&self, keep: Keep);

    /// Bytes of all streams; `None`: nobody counts them here.
    fn bytes(&self) -> Answer<'_, Option<u64>>;
}

/// A stream: its name, and the part of a binding that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Empty, or the identifier where a binding has them all.
    pub part: &'a str,
    /// Its name, checked by [`check_stream`].
    pub name: &'a str,
}

/// How much of each stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// No older than this; `None`: whatever its age.
    pub age: Option<Duration>,
    /// The newest of so many bytes; `None`: however many.
    pub bytes: Option<u64>,
}

/// What is appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// What it is about.
    pub key: Option<String>,
    /// Its bytes.
    pub data: Vec<u8>,
    /// Pairs beside it.
    pub metadata: Vec<(String, String)>,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its number.
    pub seq: u64,
    /// Milliseconds since 1970; not less than those of the record before.
    pub time_ms: u64,
    /// What was appended.
    pub record: Record,
}

/// Where a stream begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first number that is there; one more than the last where there is none.
    pub first: u64,
    /// The last number that ever was; 0: none.
    pub last: u64,
}

/// Why a call over a stream did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// What is there is not what was expected: it is this.
    #[error("what is there is not what was expected")]
    Conflict(u64),
    /// Everything else.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

impl Record {
    /// What it counts for.
    pub fn size(&self) -> usize {
        let pairs = self.metadata.iter();
        let pairs: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
        self.key.as_ref().map_or(0, String::len) + self.data.len() + pairs
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size() + 64);
        bytes.push(u8::from(self.key.is_some()));
        put(
            &mut bytes,
            self.key.as_deref().unwrap_or_default().as_bytes(),
        );
        bytes.extend(length(self.metadata.len()));
        for (key, value) in &self.metadata {
            put(&mut bytes, key.as_bytes());
            put(&mut bytes, value.as_bytes());
        }
        put(&mut bytes, &self.data);
        bytes
    }

    /// The record; `None`: these bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let has_key = rest.flag()?;
        let key = rest.text()?;
        let n_pairs = rest.length()?;
        let mut metadata = Vec::new();
        for _ in 0..n_pairs {
            metadata.push((rest.text()?, rest.text()?));
        }
        let data = rest.bytes()?.to_vec();
        rest.0.is_empty().then_some(Self {
            key: has_key.then_some(key),
            data,
            metadata,
        })
    }
}

fn invalid<T>(why: String) -> Result<T, CloudError> {
    Err(CloudError::Invalid(why))
}

/// Checks the name of a stream or of a consumer.
pub fn check_stream(name: &str) -> Result<(), CloudError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=limits::STREAM_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    let max = limits::STREAM_NAME_BYTES_MAX;
    invalid(format!(
        "a stream or consumer has 1 to {max} of ASCII's letters, digits, `-`, `_` and `.` as its name"
    ))
}

/// Checks what is to be appended: its bytes.
pub fn check_records(records: &[Record]) -> Result<usize, CloudError> {
    if records.is_empty() || records.len() > limits::RECORDS_MAX {
        let max = limits::RECORDS_MAX;
        return invalid(format!("1 to {max} records are appended at once"));
    }
    let mut n_bytes = 0;
    for record in records {
        let pairs = record.metadata.iter();
        let of_pairs: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
        let key = record.key.as_ref().map_or(0, String::len);
        within("the record", record.size(), limits::RECORD_BYTES_MAX)?;
        within("the key", key, limits::NAME_BYTES_MAX)?;
        within("the metadata", of_pairs, limits::METADATA_BYTES_MAX)?;
        if record.metadata.len() > limits::METADATA_PAIRS_MAX {
            let max = limits::METADATA_PAIRS_MAX;
            return invalid(format!("the metadata has more than {max} pairs"));
        }
        let pairs = record.metadata.iter();
        let texts = pairs.flat_map(|(key, value)| [key, value]);
        if texts
            .chain(&record.key)
            .any(|text| text.contains(char::is_control))
        {
            return invalid("the key or the metadata has a control character".to_owned());
        }
        n_bytes += record.size();
    }
    within("the batch", n_bytes, limits::RECORDS_BYTES_MAX)?;
    Ok(n_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_records_are_checked() {
        for name in ["a", "orders.eu-1_x", "..", &"x".repeat(64)] {
            check_stream(name).unwrap();
        }
        for name in ["", "a b", "ä", "a/b", "*", "a\n", &"x".repeat(65)] {
            check_stream(name).unwrap_err();
        }
        let of = |bytes: usize| Record {
            data: vec![0; bytes],
            ..Record::default()
        };
        let max = limits::RECORD_BYTES_MAX;
        assert_eq!(check_records(&[of(max), of(1)]), Ok(max + 1));
        let many = vec![of(1); limits::RECORDS_MAX + 1];
        let key = Record {
            key: Some("a\n".to_owned()),
            ..of(1)
        };
        let long = Record {
            key: Some("x".repeat(256)),
            ..of(1)
        };
        for wrong in [
            vec![],
            many,
            vec![of(max + 1)],
            vec![of(max); 5],
            vec![key],
            vec![long],
        ] {
            check_records(&wrong).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            key: Option<String>, data: Vec<u8>, metadata: Vec<(String, String)>, cut: prop::sample::Index,
        ) {
            let record = Record { key, data, metadata };
            let bytes = record.to_bytes();
            prop_assert_eq!(Record::from_bytes(&bytes), Some(record));
            prop_assert_eq!(Record::from_bytes(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Record::from_bytes(&bytes);
        }
    }
}
