//! Values by key, in buckets.

use std::time::Duration;

use super::{Answer, CloudError};

/// Stores of values by key. A bucket comes to be with its first key.
///
/// Keys are any text of 1 to [`super::limits::KEY_BYTES_MAX`] bytes, values any bytes up to
/// [`super::limits::VALUE_BYTES_MAX`]. What one call wrote, every later call sees.
pub trait KeyValue: Send + Sync {
    /// The value of a key.
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>>;

    /// Sets a value. With `ttl`, at least [`super::limits::TTL_MIN`], the key goes by itself after that
    /// time, to the second; without, a time that an earlier value had is taken away.
    fn set<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> Answer<'a, ()>;

    /// Deletes a key; one that is not there is deleted as well.
    fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()>;

    /// Whether a key is there.
    fn exists<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, bool>;

    /// The time that is left of a key: `None` if it is not there, `Some(None)` if it stays.
    fn ttl<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Option<Duration>>>;

    /// The next keys after a cursor, each key that is there all the time once. The order is the backend's
    /// own. At least one page, of at most [`super::limits::PAGE_KEYS`] keys; it may be empty and have a
    /// cursor.
    fn keys<'a>(&'a self, bucket: &'a str, cursor: Option<&'a str>) -> Answer<'a, KeyPage>;

    /// The values of several keys, in the order of the keys.
    fn get_many<'a>(
        &'a self,
        bucket: &'a str,
        keys: &'a [String],
    ) -> Answer<'a, Vec<Option<Vec<u8>>>>;

    /// Sets several values; not at once unless the backend can.
    fn set_many<'a>(&'a self, bucket: &'a str, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()>;

    /// Deletes several keys; not at once unless the backend can.
    fn delete_many<'a>(&'a self, bucket: &'a str, keys: &'a [String]) -> Answer<'a, ()>;

    /// Adds to a number that is kept as decimal text, at once; a key that is not there counts as 0. Its
    /// time to live stays. [`CloudError::Invalid`] where the value is no number of 64 bits with a sign, or
    /// the sum would be none.
    fn increment<'a>(&'a self, bucket: &'a str, key: &'a str, delta: i64) -> Answer<'a, i64>;

    /// A value, and what it takes to replace exactly it.
    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Versioned>;

    /// Sets a value if the key is as it was read. Of any number of callers with the same revision one
    /// succeeds. As with [`KeyValue::set`], a time that the earlier value had is taken away.
    fn swap<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        revision: &'a Revision,
        value: &'a [u8],
    ) -> Answer<'a, Swapped>;

    /// All edits at once if every check holds, else none: whether they were done.
    fn commit<'a>(
        &'a self,
        bucket: &'a str,
        checks: &'a [Check],
        edits: &'a [Edit],
    ) -> Answer<'a, bool>;

    /// What changes in a bucket, beginning with this call.
    fn watch<'a>(&'a self, bucket: &'a str) -> Answer<'a, Box<dyn Changes>>;

    /// Bytes of everything in all buckets: of keys, each with the name of its bucket, of values, and
    /// [`super::limits::ENTRY_BYTES`] for each; `None` where the backend cannot say.
    fn bytes(&self) -> Answer<'_, Option<u64>>;
}

/// Some keys, and where the next ones begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<String>,
    /// What the next call has to be given; `None`: these were the last.
    pub cursor: Option<String>,
}

/// A value as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value; `None`: no such key.
    pub value: Option<Vec<u8>>,
    /// Its revision.
    pub revision: Revision,
}

/// What tells one state of a key from every other: opaque bytes of the backend that made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(pub Vec<u8>);

/// The end of a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swapped {
    /// The value is set.
    Done,
    /// Somebody else was first: the key as it is.
    Changed(Versioned),
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The key.
    pub key: String,
    /// As it was read.
    pub revision: Revision,
}

/// A step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Sets a value, with a time to live if one is given.
    Set(String, Vec<u8>, Option<Duration>),
    /// Deletes a key.
    Delete(String),
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value; `None`: it was deleted, or its time was over.
    pub value: Option<Vec<u8>>,
}

/// Changes as they come.
pub trait Changes: Send {
    /// The next change. For one key in the order in which they happened, and the last one of each key
    /// always; earlier ones of the same key may be left out by a backend that says so.
    ///
    /// # Errors
    ///
    /// After one, watching is over, and changes may have been missed: who goes on has to read anew.
    fn next(&mut self) -> Answer<'_, Change>;
}

impl Revision {
    /// The longest that a backend may make: a value, and a byte before it.
    pub const BYTES_MAX: usize = super::limits::VALUE_BYTES_MAX + 64;
}

/// Checks a key before it goes anywhere.
pub fn check_key(key: &str) -> Result<(), CloudError> {
    if key.is_empty() {
        return Err(CloudError::Invalid("the key is empty".to_owned()));
    }
    super::within("the key", key.len(), super::limits::KEY_BYTES_MAX)
}

/// Checks a value before it goes anywhere.
pub fn check_value(value: &[u8]) -> Result<(), CloudError> {
    super::within("the value", value.len(), super::limits::VALUE_BYTES_MAX)
}

/// Checks a time to live before it goes anywhere.
pub fn check_ttl(ttl: Option<Duration>) -> Result<(), CloudError> {
    let Some(ttl) = ttl else {
        return Ok(());
    };
    if (super::limits::TTL_MIN..=super::limits::TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    Err(CloudError::Invalid(
        "a time to live is at least a second, and at most a hundred years".to_owned(),
    ))
}

/// A number that is kept as a value, after something was added to it. It is decimal text as Redis reads
/// it: no sign but `-`, no zeros before it, nothing around it.
pub fn increased(before: Option<&[u8]>, delta: i64) -> Result<i64, CloudError> {
    let number = before.map_or(Some(0), |bytes| {
        let text = std::str::from_utf8(bytes).ok()?;
        let number: i64 = text.parse().ok()?;
        (number.to_string() == text).then_some(number)
    });
    let number = number.ok_or_else(|| CloudError::Invalid("the value is no number".to_owned()))?;
    number
        .checked_add(delta)
        .ok_or_else(|| CloudError::Invalid("the number would be too large".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        let check = |before: Option<&str>, delta: i64, expect: Option<i64>| {
            let got = increased(before.map(str::as_bytes), delta);
            assert_eq!(got.ok(), expect, "{before:?} {delta}");
        };
        check(None, 5, Some(5));
        check(Some("0"), -5, Some(-5));
        check(Some("-7"), 7, Some(0));
        check(Some("9223372036854775807"), 0, Some(i64::MAX));
        check(Some("9223372036854775807"), 1, None);
        check(Some("-9223372036854775808"), -1, None);
        check(Some("9223372036854775808"), -1, None);
        for text in [
            "", " 1", "1 ", "+1", "01", "-0", "1.0", "1e3", "one", "\u{0661}",
        ] {
            check(Some(text), 1, None);
        }
        assert!(increased(Some(&[0xff]), 1).is_err());
    }

    #[test]
    fn times_to_live_have_bounds() {
        for (ms, is_taken) in [(0, false), (999, false), (1_000, true), (1_500, true)] {
            let got = check_ttl(Some(Duration::from_millis(ms)));
            assert_eq!(got.is_ok(), is_taken, "{ms}");
        }
        assert!(check_ttl(None).is_ok());
        assert!(check_ttl(Some(Duration::MAX)).is_err());
    }
}
