//! `wasi:keyvalue` in both drafts that components are built for, `spin:key-value`, what realm adds to
//! them, and `wasi:config` over the same stores: one implementation over whatever stands behind a bucket.
//!
//! Not here: who may open what, and the quotas themselves.

mod config;
mod cursors;
mod draft;
mod draft2;
mod locks;
mod more;
mod spin;
mod watcher;

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use realm_model::cloud::{
    Check, CloudError, Edit, KeyPage, KeyValue, Revision, Swapped, Versioned, limits,
};
use wasmtime::component::{Component, HasData, Linker, Resource, ResourceTable};
use wasmtime::{Engine, Result};

use super::{Cloud, Kept, Opened};
use crate::state::State;
pub(crate) use config::View as ConfigView;
use cursors::Cursors;
pub(crate) use locks::Seen;
pub(crate) use watcher::Watcher;

/// A bucket that a guest opened.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Bucket {
    opened: Opened<dyn KeyValue>,
    cursors: Mutex<Cursors>,
}

/// A key as a guest read it.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Cas {
    held: Held,
    key: String,
    seen: Versioned,
    /// The value and its revision.
    kept: Kept,
}

/// What the interfaces work with.
pub(crate) struct View<'a> {
    pub(crate) cloud: &'a Cloud,
    pub(crate) table: &'a mut ResourceTable,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>, concurrent: bool) -> Result<()> {
    draft::link(linker)?;
    draft2::link(linker)?;
    more::link(linker)?;
    locks::link(linker)?;
    config::link(linker)?;
    if concurrent {
        spin::link(linker)?;
    }
    Ok(())
}

/// The linker with the interfaces in the shape in which a component imports them.
pub(crate) fn as_imported<'a>(
    linker: &'a Linker<State>,
    engine: &Engine,
    component: &Component,
) -> Result<Cow<'a, Linker<State>>> {
    if !draft2::is_spins(engine, component) {
        return Ok(Cow::Borrowed(linker));
    }
    let mut own = linker.clone();
    draft2::link_spins(&mut own)?;
    Ok(Cow::Owned(own))
}

impl Bucket {
    fn new(opened: Opened<dyn KeyValue>) -> Self {
        Self {
            opened,
            cursors: Mutex::default(),
        }
    }
}

impl View<'_> {
    fn open(&mut self, identifier: &str) -> Result<Result<Resource<Bucket>, CloudError>> {
        let opened = match self.cloud.keyvalue(identifier) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(self.table.push(Bucket::new(opened))?))
    }

    /// What a call works with while others run.
    fn held(&self, bucket: &Resource<Bucket>) -> Result<Held> {
        let bucket = self.table.get(bucket)?;
        Ok(Held {
            opened: bucket.opened.clone(),
            cloud: self.cloud.clone(),
        })
    }

    fn close(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }

    /// The cursor of a backend for the number that a guest was given.
    fn cursor(
        &self,
        bucket: &Resource<Bucket>,
        number: Option<u64>,
    ) -> Result<Result<Option<String>, CloudError>> {
        let Some(number) = number else {
            return Ok(Ok(None));
        };
        let cursors = &self.table.get(bucket)?.cursors;
        let cursors = cursors.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(cursors.get(number).map(|cursor| Some(cursor.to_owned())))
    }

    /// The number that a guest is given for a cursor of a backend.
    fn number(&self, bucket: &Resource<Bucket>, cursor: Option<String>) -> Result<Option<u64>> {
        let Some(cursor) = cursor else {
            return Ok(None);
        };
        let cursors = &self.table.get(bucket)?.cursors;
        let mut cursors = cursors.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(cursors.put(cursor)))
    }

    /// Hands a guest what was read of a key.
    fn push(&mut self, cas: Result<Cas, CloudError>) -> Result<Result<Resource<Cas>, CloudError>> {
        match cas {
            Ok(cas) => Ok(Ok(self.table.push(cas)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl Cas {
    /// What a guest read of a key, within what one instance may have the host keep.
    fn new(held: Held, key: String, seen: Versioned) -> Result<Self, CloudError> {
        let kept = Kept::new(&held.cloud, bytes(&seen))?;
        Ok(Self {
            held,
            key,
            seen,
            kept,
        })
    }

    /// The same key, read anew.
    fn anew(mut self, seen: Versioned) -> Result<Self, CloudError> {
        self.kept.set(bytes(&seen))?;
        self.seen = seen;
        Ok(self)
    }
}

fn bytes(seen: &Versioned) -> usize {
    seen.value.as_ref().map_or(0, Vec::len) + seen.revision.0.len()
}

/// A bucket, and what may still be done with it.
#[derive(Clone)]
struct Held {
    opened: Opened<dyn KeyValue>,
    cloud: Cloud,
}

impl Held {
    fn store(&self) -> (&dyn KeyValue, &str) {
        (&*self.opened.store, &self.opened.part)
    }

    /// Counts an operation on each of so many keys.
    fn charge(&self, n_keys: usize) -> Result<(), CloudError> {
        (0..n_keys.max(1)).try_for_each(|_| self.cloud.charge())
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CloudError> {
        self.charge(1)?;
        let (store, part) = self.store();
        store.get(part, key).await
    }

    async fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), CloudError> {
        self.charge(1)?;
        self.has_room(key, value.len()).await?;
        let (store, part) = self.store();
        store.set(part, key, value, ttl).await
    }

    async fn delete(&self, key: &str) -> Result<(), CloudError> {
        self.charge(1)?;
        let (store, part) = self.store();
        store.delete(part, key).await
    }

    async fn exists(&self, key: &str) -> Result<bool, CloudError> {
        self.charge(1)?;
        let (store, part) = self.store();
        store.exists(part, key).await
    }

    async fn remaining(&self, key: &str) -> Result<Option<Option<Duration>>, CloudError> {
        self.charge(1)?;
        let (store, part) = self.store();
        store.ttl(part, key).await
    }

    async fn keys(&self, cursor: Option<&str>) -> Result<KeyPage, CloudError> {
        self.charge(1)?;
        let (store, part) = self.store();
        store.keys(part, cursor).await
    }

    /// Keys with their values, in their order.
    async fn get_many(&self, keys: Vec<String>) -> Result<Pairs, CloudError> {
        self.charge(keys.len())?;
        let (store, part) = self.store();
        let values = store.get_many(part, &keys).await?;
        let pairs = keys.into_iter().zip(values);
        Ok(pairs
            .map(|(key, value)| value.map(|value| (key, value)))
            .collect())
    }

    async fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<(), CloudError> {
        self.charge(pairs.len())?;
        let more = pairs
            .iter()
            .map(|(key, value)| self.size(key, value.len()))
            .sum();
        self.fits(more).await?;
        let (store, part) = self.store();
        store.set_many(part, pairs).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), CloudError> {
        self.charge(keys.len())?;
        let (store, part) = self.store();
        store.delete_many(part, keys).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, CloudError> {
        /// Digits of the longest number, and a sign.
        const NUMBER_BYTES: usize = 20;
        self.charge(1)?;
        self.has_room(key, NUMBER_BYTES).await?;
        let (store, part) = self.store();
        store.increment(part, key, delta).await
    }

    async fn read(&self, key: &str) -> Result<Versioned, CloudError> {
        self.charge(1)?;
        let (store, part) = self.store();
        store.read(part, key).await
    }

    async fn swap(
        &self,
        key: &str,
        revision: &Revision,
        value: &[u8],
    ) -> Result<Swapped, CloudError> {
        self.charge(1)?;
        self.has_room(key, value.len()).await?;
        let (store, part) = self.store();
        store.swap(part, key, revision, value).await
    }

    async fn commit(&self, checks: &[Check], edits: &[Edit]) -> Result<bool, CloudError> {
        self.charge(checks.len() + edits.len())?;
        let more = edits.iter().map(|edit| match edit {
            Edit::Set(key, value, _) => self.size(key, value.len()),
            Edit::Delete(_) => 0,
        });
        let more = more.sum();
        if more > 0 {
            self.fits(more).await?;
        }
        let (store, part) = self.store();
        store.commit(part, checks, edits).await
    }

    /// Whether a value fits beside what is there. One that replaces another that is not smaller always
    /// does: who has used up its quota can still change what it has.
    async fn has_room(&self, key: &str, value_bytes: usize) -> Result<(), CloudError> {
        let result = self.fits(self.size(key, value_bytes)).await;
        if result.is_err() {
            let (store, part) = self.store();
            let before = store.get(part, key).await?;
            if before.is_some_and(|before| before.len() >= value_bytes) {
                return Ok(());
            }
        }
        result
    }

    /// What an entry counts for.
    fn size(&self, key: &str, value_bytes: usize) -> u64 {
        (self.opened.part.len() + key.len() + value_bytes + limits::ENTRY_BYTES) as u64
    }

    async fn fits(&self, more: u64) -> Result<(), CloudError> {
        let there = self.opened.store.bytes().await?;
        self.cloud.fits(there, more)
    }
}

type Pairs = Vec<Option<(String, Vec<u8>)>>;

/// What both drafts have alike.
macro_rules! common {
    ($bindings:ident) => {
        fn said(error: CloudError) -> $bindings::store::Error {
            match error {
                CloudError::NoSuchStore => $bindings::store::Error::NoSuchStore,
                CloudError::AccessDenied => $bindings::store::Error::AccessDenied,
                CloudError::Quota(_)
                | CloudError::TooLarge { .. }
                | CloudError::Invalid(_)
                | CloudError::NotFound(_)
                | CloudError::Full(_)
                | CloudError::Unsupported(_)
                | CloudError::Timeout
                | CloudError::Unavailable
                | CloudError::Failed(_) => $bindings::store::Error::Other(error.to_string()),
            }
        }

        impl $bindings::store::Host for View<'_> {
            async fn open(
                &mut self,
                identifier: String,
            ) -> Result<Result<Resource<Bucket>, $bindings::store::Error>> {
                Ok(View::open(self, &identifier)?.map_err(said))
            }
        }

        impl $bindings::batch::Host for View<'_> {
            async fn get_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> Result<Result<Pairs, $bindings::store::Error>> {
                let held = self.held(&bucket)?;
                Ok(held.get_many(keys).await.map_err(said))
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Bucket>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> Result<Result<(), $bindings::store::Error>> {
                let held = self.held(&bucket)?;
                Ok(held.set_many(&pairs).await.map_err(said))
            }

            async fn delete_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> Result<Result<(), $bindings::store::Error>> {
                let held = self.held(&bucket)?;
                Ok(held.delete_many(&keys).await.map_err(said))
            }
        }

        impl $bindings::store::HostBucket for View<'_> {
            async fn get(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> Result<Result<Option<Vec<u8>>, $bindings::store::Error>> {
                let held = self.held(&bucket)?;
                Ok(held.get(&key).await.map_err(said))
            }

            async fn set(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> Result<Result<(), $bindings::store::Error>> {
                let held = self.held(&bucket)?;
                Ok(held.set(&key, &value, None).await.map_err(said))
            }

            async fn delete(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> Result<Result<(), $bindings::store::Error>> {
                let held = self.held(&bucket)?;
                Ok(held.delete(&key).await.map_err(said))
            }

            async fn exists(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> Result<Result<bool, $bindings::store::Error>> {
                let held = self.held(&bucket)?;
                Ok(held.exists(&key).await.map_err(said))
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Bucket>,
                cursor: Option<Cursor>,
            ) -> Result<Result<$bindings::store::KeyResponse, $bindings::store::Error>> {
                Ok(page(self, &bucket, cursor).await?.map_err(said))
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
                self.close(bucket)
            }
        }
    };
}
use common;
