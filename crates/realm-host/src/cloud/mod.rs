//! What guests of the wasi-cloud interfaces reach: the stores that a component binds, by the names that
//! its guest opens, and what it may do with them.
//!
//! Each interface has a module of its own, with bindings for every published version over one
//! implementation. Not here: what stands behind a store (`realm_model::cloud` has the traits), and
//! where a binding leads.

pub(crate) mod messaging;
mod quota;
mod timers;

use std::collections::BTreeMap;
use std::sync::Arc;

use realm_model::binding::Interface;
use realm_model::cloud::limits::NAME_BYTES_MAX;
use realm_model::cloud::{Blobs, CloudError, KeyValue, Messaging, Sql};
use realm_model::grants::StoreGrant;
use wasmtime::Result;
use wasmtime::component::Linker;

pub(crate) use quota::Operations;

use crate::state::State;

/// What the names that a guest opens lead to. Empty: to nothing.
#[derive(Clone, Default)]
pub struct Stores {
    keyvalue: Names<dyn KeyValue>,
    blobs: Names<dyn Blobs>,
    messaging: Names<dyn Messaging>,
    sql: Names<dyn Sql>,
}

/// By identifier, [`StoreGrant::ANY`] among them.
type Names<T> = BTreeMap<String, Arc<T>>;

/// A backend, of the interface that it is for.
#[derive(Clone)]
pub enum Store {
    /// Of `wasi:keyvalue`.
    Keyvalue(Arc<dyn KeyValue>),
    /// Of `wasi:blobstore`.
    Blobs(Arc<dyn Blobs>),
    /// Of `wasi:messaging`.
    Messaging(Arc<dyn Messaging>),
    /// Of `wasi:sql`.
    Sql(Arc<dyn Sql>),
}

impl Store {
    /// The interface that it is for.
    pub const fn interface(&self) -> Interface {
        match self {
            Self::Keyvalue(_) => Interface::Keyvalue,
            Self::Blobs(_) => Interface::Blobstore,
            Self::Messaging(_) => Interface::Messaging,
            Self::Sql(_) => Interface::Sql,
        }
    }
}

impl Stores {
    /// Where the messages of an identifier come from, and what stands before its topics there.
    pub(crate) fn messages(&self, identifier: &str) -> Option<(Arc<dyn Messaging>, String)> {
        let opened = open(&self.messaging, identifier).ok()?;
        Some((opened.store, opened.part))
    }

    /// Lets a guest open `identifier`, or with [`StoreGrant::ANY`] every name that no other leads from.
    pub fn bind(&mut self, identifier: &str, store: Store) {
        let identifier = identifier.to_owned();
        match store {
            Store::Keyvalue(store) => drop(self.keyvalue.insert(identifier, store)),
            Store::Blobs(store) => drop(self.blobs.insert(identifier, store)),
            Store::Messaging(store) => drop(self.messaging.insert(identifier, store)),
            Store::Sql(store) => drop(self.sql.insert(identifier, store)),
        }
    }
}

/// A store that a guest opened.
pub(crate) struct Opened<T: ?Sized> {
    pub(crate) store: Arc<T>,
    /// The part of it that the name leads to: all of it, under an empty name, where the binding names the
    /// identifier; one of its own for each identifier where it names them all.
    pub(crate) part: String,
}

impl<T: ?Sized> Clone for Opened<T> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            part: self.part.clone(),
        }
    }
}

fn open<T: ?Sized>(names: &Names<T>, identifier: &str) -> Result<Opened<T>, CloudError> {
    let checked = !identifier.is_empty()
        && identifier.len() <= NAME_BYTES_MAX
        && !identifier.chars().any(char::is_control)
        && identifier != StoreGrant::ANY;
    if !checked {
        return Err(CloudError::NoSuchStore);
    }
    let named = names.get(identifier).map(|store| (store, String::new()));
    let (store, part) = named
        .or_else(|| Some((names.get(StoreGrant::ANY)?, identifier.to_owned())))
        .ok_or(CloudError::NoSuchStore)?;
    Ok(Opened {
        store: Arc::clone(store),
        part,
    })
}

/// The stores of one instance, and what it may still do with them.
pub(crate) struct Cloud {
    stores: Arc<Stores>,
    /// Shared by the instances of a replica; `None`: not counted.
    operations: Option<Arc<Operations>>,
    /// Bytes that it may keep in one embedded store.
    bytes_max: u64,
}

impl Cloud {
    pub(crate) fn new(
        stores: Arc<Stores>,
        operations: Option<Arc<Operations>>,
        bytes_max: u64,
    ) -> Self {
        Self {
            stores,
            operations,
            bytes_max,
        }
    }

    pub(crate) fn keyvalue(&self, identifier: &str) -> Result<Opened<dyn KeyValue>, CloudError> {
        open(&self.stores.keyvalue, identifier)
    }

    /// A container is named in its binding by its own name, also where `bind` lists it.
    pub(crate) fn blobs(&self, container: &str) -> Result<Opened<dyn Blobs>, CloudError> {
        let opened = open(&self.stores.blobs, container)?;
        Ok(Opened {
            part: container.to_owned(),
            ..opened
        })
    }

    pub(crate) fn messaging(&self, identifier: &str) -> Result<Opened<dyn Messaging>, CloudError> {
        open(&self.stores.messaging, identifier)
    }

    pub(crate) fn sql(&self, identifier: &str) -> Result<Opened<dyn Sql>, CloudError> {
        open(&self.stores.sql, identifier)
    }

    /// Before each operation on a store: counts it, or says that there were enough.
    pub(crate) fn charge(&self) -> Result<(), CloudError> {
        match &self.operations {
            Some(operations) => operations.take(),
            None => Ok(()),
        }
    }

    /// Before bytes are written: whether they fit beside those that are there (`None`: nobody counts them).
    /// Writers at the same moment may pass it together: the quota is exceeded by what they write, once.
    pub(crate) fn fits(&self, there: Option<u64>, more: u64) -> Result<(), CloudError> {
        match there {
            Some(there) if there.saturating_add(more) > self.bytes_max => {
                Err(CloudError::Quota(realm_model::cloud::Quota::Bytes))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Every interface of this folder.
pub(crate) fn link(linker: &mut Linker<State>, _concurrent: bool) -> Result<()> {
    messaging::link(linker)?;
    timers::link(linker)
}
