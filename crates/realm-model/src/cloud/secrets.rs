//! The secrets of one component in the clear: as `wasmcloud:secrets` reveals them, and as a bucket of
//! `wasi:keyvalue` that nobody writes. Not here: how they are opened.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::limits::{BATCH_MAX, PAGE_KEYS};
use super::{
    Answer, Changes, Check, CloudError, Edit, KeyPage, KeyValue, Revision, Swapped, Versioned,
    check_key,
};

/// Values by name: those that the component lists, and no other; wiped from memory when dropped. Nothing
/// prints them.
///
/// A name that the component does not list is not there, whether the realm has such a secret or not.
#[derive(Default)]
pub struct Secrets(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl Secrets {
    /// These secrets.
    pub fn new(values: BTreeMap<String, Zeroizing<Vec<u8>>>) -> Self {
        Self(values)
    }

    /// The value of a secret.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|value| value.as_slice())
    }

    /// The name of the one secret that there is; `None`: there is none, or several.
    pub fn only(&self) -> Option<&str> {
        let mut names = self.0.keys();
        match (names.next(), names.next()) {
            (Some(name), None) => Some(name),
            (None | Some(_), _) => None,
        }
    }

    fn copy(&self, name: &str) -> Result<Option<Vec<u8>>, CloudError> {
        check_key(name)?;
        Ok(self.value(name).map(<[u8]>::to_vec))
    }

    fn page(&self, cursor: Option<&str>) -> KeyPage {
        let after = |name: &&String| cursor.is_none_or(|cursor| name.as_str() > cursor);
        let mut names = self.0.keys().filter(after).cloned();
        let keys: Vec<String> = names.by_ref().take(PAGE_KEYS).collect();
        let more = names.next().and_then(|_| keys.last().cloned());
        KeyPage { keys, cursor: more }
    }

    fn many(&self, names: &[String]) -> Result<Vec<Option<Vec<u8>>>, CloudError> {
        super::within("the batch", names.len(), BATCH_MAX)?;
        names.iter().map(|name| self.copy(name)).collect()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

fn now<'a, T: Send + 'a>(answer: Result<T, CloudError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer))
}

fn denied<'a, T: Send + 'a>() -> Answer<'a, T> {
    now(Err(CloudError::AccessDenied))
}

impl KeyValue for Secrets {
    fn get<'a>(&'a self, _: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        now(self.copy(key))
    }

    fn set<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a [u8],
        _: Option<Duration>,
    ) -> Answer<'a, ()> {
        denied()
    }

    fn delete<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, ()> {
        denied()
    }

    fn exists<'a>(&'a self, _: &'a str, key: &'a str) -> Answer<'a, bool> {
        now(check_key(key).map(|()| self.value(key).is_some()))
    }

    fn ttl<'a>(&'a self, _: &'a str, key: &'a str) -> Answer<'a, Option<Option<Duration>>> {
        now(check_key(key).map(|()| self.value(key).map(|_| None)))
    }

    fn keys<'a>(&'a self, _: &'a str, cursor: Option<&'a str>) -> Answer<'a, KeyPage> {
        now(Ok(self.page(cursor)))
    }

    fn get_many<'a>(&'a self, _: &'a str, keys: &'a [String]) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        now(self.many(keys))
    }

    fn set_many<'a>(&'a self, _: &'a str, _: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        denied()
    }

    fn delete_many<'a>(&'a self, _: &'a str, _: &'a [String]) -> Answer<'a, ()> {
        denied()
    }

    fn increment<'a>(&'a self, _: &'a str, _: &'a str, _: i64) -> Answer<'a, i64> {
        denied()
    }

    fn read<'a>(&'a self, _: &'a str, key: &'a str) -> Answer<'a, Versioned> {
        // A revision that stays: another value comes with another instance.
        let versioned = |value| Versioned {
            value,
            revision: Revision(Vec::new()),
        };
        now(self.copy(key).map(versioned))
    }

    fn swap<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a Revision,
        _: &'a [u8],
    ) -> Answer<'a, Swapped> {
        denied()
    }

    fn commit<'a>(&'a self, _: &'a str, _: &'a [Check], _: &'a [Edit]) -> Answer<'a, bool> {
        denied()
    }

    fn watch<'a>(&'a self, _: &'a str) -> Answer<'a, Box<dyn Changes>> {
        now(Err(CloudError::Unsupported("watch secrets")))
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        now(Ok(None))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn secrets(names: usize) -> Secrets {
        let names = (0..names).map(|number| format!("key-{number:04}"));
        let values = names.map(|name| {
            let value = format!("value of {name}").into_bytes();
            (name, Zeroizing::new(value))
        });
        Secrets::new(values.collect())
    }

    fn done<T>(mut answer: Answer<'_, T>) -> Result<T, CloudError> {
        let mut context = Context::from_waker(Waker::noop());
        match answer.as_mut().poll(&mut context) {
            Poll::Ready(answer) => answer,
            Poll::Pending => panic!("it does not wait for anybody"),
        }
    }

    #[test]
    fn what_is_listed_is_read_and_nothing_is_written() {
        let secrets = secrets(2);
        let one = "key-0001".to_owned();
        let value = Some(b"value of key-0001".to_vec());
        assert_eq!(done(secrets.get("", &one)), Ok(value.clone()));
        assert_eq!(done(secrets.get("", "other")), Ok(None));
        assert_eq!(done(secrets.exists("", &one)), Ok(true));
        assert_eq!(done(secrets.exists("", "other")), Ok(false));
        assert_eq!(done(secrets.ttl("", &one)), Ok(Some(None)));
        assert_eq!(done(secrets.ttl("", "other")), Ok(None));
        let both = [one.clone(), "other".to_owned()];
        assert_eq!(
            done(secrets.get_many("", &both)),
            Ok(vec![value.clone(), None])
        );
        assert_eq!(
            done(secrets.read("", &one)).map(|read| read.value),
            Ok(value.clone())
        );
        let read = Revision(Vec::new());
        let denied = Err(CloudError::AccessDenied);
        assert_eq!(done(secrets.set("", &one, b"x", None)), denied);
        assert_eq!(
            done(secrets.set_many("", &[(one.clone(), Vec::new())])),
            denied
        );
        assert_eq!(done(secrets.delete("", &one)), denied);
        assert_eq!(done(secrets.delete_many("", &both)), denied);
        assert!(done(secrets.increment("", &one, 1)).is_err());
        assert!(done(secrets.swap("", &one, &read, b"x")).is_err());
        assert!(done(secrets.commit("", &[], &[Edit::Delete(one.clone())])).is_err());
        assert!(done(secrets.watch("")).is_err());
        assert_eq!(done(secrets.get("", &one)), Ok(value));
        assert!(!format!("{secrets:?}").contains("value"));
    }

    #[test]
    fn every_name_is_listed_once() {
        for number in [0, 1, PAGE_KEYS, PAGE_KEYS + 1, 2 * PAGE_KEYS + 3] {
            let secrets = secrets(number);
            let (mut names, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let page = done(secrets.keys("", cursor.as_deref())).expect("a page");
                names.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            assert!(names.iter().eq(secrets.0.keys()), "{number}");
        }
    }
}
