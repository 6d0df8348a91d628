//! What guests of the wasi-cloud interfaces reach: the stores that a component binds, by the names that
//! its guest opens, and what it may do with them.
//!
//! Each interface has a module of its own, with bindings for every published version over one
//! implementation. Not here: what stands behind a store (`realm_model::cloud` has the traits), and
//! where a binding leads.

pub(crate) mod blobstore;
mod data;
mod identity;
mod inference;
mod kept;
mod keys;
mod keyvalue;
mod logging;
mod mail;
pub(crate) mod messaging;
pub(crate) mod otel;
mod quota;
mod secrets;
pub(crate) mod sql;
mod streams;
mod timers;
pub(crate) mod workflows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use realm_model::binding::{Interface, SECRETS};
use realm_model::cloud::limits::NAME_BYTES_MAX;
use realm_model::cloud::telemetry::Telemetry;
use realm_model::cloud::{
    Blobs, CloudError, Database, Identity, Inference, KeyValue, Keys, Mailer, Messaging, Secrets,
    Streams, Workflows,
};
use realm_model::grants::StoreGrant;
use realm_model::name::ComponentName;
use wasmtime::Result;
use wasmtime::component::Linker;

pub(crate) use kept::Kept;
use kept::Tally;
pub(crate) use keys::View as KeysView;
pub(crate) use keyvalue::{ConfigView, View as KeyvalueView, Watcher, as_imported};
pub(crate) use logging::Speaker;
pub(crate) use quota::Operations;
pub(crate) use secrets::Revealed;

use crate::state::State;

/// What the names that a guest opens lead to. Empty: to nothing.
#[derive(Clone, Default)]
pub struct Stores {
    keyvalue: Names<dyn KeyValue>,
    blobs: Names<dyn Blobs>,
    messaging: Names<dyn Messaging>,
    sql: Names<dyn Database>,
    keys: Names<dyn Keys>,
    identities: Names<dyn Identity>,
    mail: Names<dyn Mailer>,
    streams: Names<dyn Streams>,
    workflows: Names<dyn Workflows>,
    models: Names<dyn Inference>,
    /// It has no names to open: there is one.
    config: Option<Arc<dyn KeyValue>>,
    /// What instances saw of locks.
    seen: Arc<keyvalue::Seen>,
    /// Of the component that these are for: what it reads and writes at once.
    room: Arc<blobstore::Room>,
    /// The same: bytes that the host keeps for it.
    kept: Arc<AtomicUsize>,
    secrets: Arc<Secrets>,
    telemetry: otel::Outlet,
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
    Sql(Arc<dyn Database>),
    /// Of `wasi:otel`.
    Otel(Arc<dyn Telemetry>),
    /// Of `realm:cloud/keys`.
    Keys(Arc<dyn Keys>),
    /// Of `realm:cloud/identity`.
    Identity(Arc<dyn Identity>),
    /// Of `realm:cloud/mail`.
    Mail(Arc<dyn Mailer>),
    /// Of `realm:cloud/streams`.
    Streams(Arc<dyn Streams>),
    /// Of `realm:cloud/workflows`.
    Workflows(Arc<dyn Workflows>),
    /// Of `realm:cloud/inference`.
    Inference(Arc<dyn Inference>),
    /// Of `wasi:config`.
    Config(Arc<dyn KeyValue>),
}

impl Store {
    /// The interface that it is for.
    pub const fn interface(&self) -> Interface {
        match self {
            Self::Keyvalue(_) => Interface::Keyvalue,
            Self::Blobs(_) => Interface::Blobstore,
            Self::Messaging(_) => Interface::Messaging,
            Self::Sql(_) => Interface::Sql,
            Self::Otel(_) => Interface::Otel,
            Self::Keys(_) => Interface::Keys,
            Self::Identity(_) => Interface::Identity,
            Self::Mail(_) => Interface::Mail,
            Self::Streams(_) => Interface::Streams,
            Self::Workflows(_) => Interface::Workflows,
            Self::Inference(_) => Interface::Inference,
            Self::Config(_) => Interface::Config,
        }
    }
}

impl Stores {
    /// Where the messages of an identifier come from, and what stands before its topics there.
    pub(crate) fn messages(&self, identifier: &str) -> Option<(Arc<dyn Messaging>, String)> {
        let opened = open(&self.messaging, identifier).ok()?;
        Some((opened.store, opened.part))
    }

    /// Where the runs of an identifier come from.
    pub(crate) fn workflows(&self, identifier: &str) -> Option<Arc<dyn Workflows>> {
        open(&self.workflows, identifier)
            .ok()
            .map(|opened| opened.store)
    }

    /// The bucket of an identifier.
    pub(crate) fn bucket(&self, identifier: &str) -> Option<Opened<dyn KeyValue>> {
        open(&self.keyvalue, identifier).ok()
    }

    /// Lets a guest open `identifier`, or with [`StoreGrant::ANY`] every name that no other leads from.
    pub fn bind(&mut self, identifier: &str, store: Store) {
        let identifier = identifier.to_owned();
        match store {
            Store::Keyvalue(store) => drop(self.keyvalue.insert(identifier, store)),
            Store::Blobs(store) => drop(self.blobs.insert(identifier, store)),
            Store::Messaging(store) => drop(self.messaging.insert(identifier, store)),
            Store::Sql(store) => drop(self.sql.insert(identifier, store)),
            // It has no names to open: there is one.
            Store::Otel(store) => self.telemetry.to = Some(store),
            Store::Keys(store) => drop(self.keys.insert(identifier, store)),
            Store::Identity(store) => drop(self.identities.insert(identifier, store)),
            Store::Mail(store) => drop(self.mail.insert(identifier, store)),
            Store::Streams(store) => drop(self.streams.insert(identifier, store)),
            Store::Workflows(store) => drop(self.workflows.insert(identifier, store)),
            Store::Inference(store) => drop(self.models.insert(identifier, store)),
            Store::Config(store) => self.config = Some(store),
        }
    }

    /// The secrets that a guest reads, also as the bucket [`SECRETS`].
    pub fn reveal(&mut self, secrets: Secrets) {
        self.secrets = Arc::new(secrets);
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

/// Bytes of what one instance may have the host keep for it: twice the largest value, for a store that
/// tells states apart by the value itself.
const KEPT_BYTES_MAX: usize = 40 * 1024 * 1024;
/// Bytes of what all instances of a component may have the host keep for them on a node.
const KEPT_BY_ALL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The stores of one instance, and what it may still do with them.
#[derive(Clone)]
pub(crate) struct Cloud {
    /// Whose instance it is.
    component: ComponentName,
    stores: Arc<Stores>,
    /// Shared by the replicas of the component; `None`: not counted.
    operations: Option<Arc<Operations>>,
    /// Bytes that it may keep in one embedded store.
    bytes_max: u64,
    /// Behind a pointer: what is cloned with this is not a connection.
    connections: Arc<sql::Count>,
    /// Answers of models that are on their way to it.
    generations: Arc<inference::Count>,
    /// Bytes that the host keeps for it.
    kept: Arc<Tally>,
}

impl Cloud {
    pub(crate) fn new(
        component: ComponentName,
        stores: Arc<Stores>,
        operations: Option<Arc<Operations>>,
        bytes_max: u64,
    ) -> Self {
        let kept = Tally::new(Arc::clone(&stores.kept));
        Self {
            component,
            stores,
            operations,
            bytes_max,
            connections: Arc::default(),
            generations: Arc::default(),
            kept: Arc::new(kept),
        }
    }

    pub(crate) fn seen(&self) -> &keyvalue::Seen {
        &self.stores.seen
    }

    pub(crate) fn keyvalue(&self, identifier: &str) -> Result<Opened<dyn KeyValue>, CloudError> {
        if identifier == SECRETS {
            let store: Arc<dyn KeyValue> = Arc::clone(&self.stores.secrets) as _;
            return Ok(Opened {
                store,
                part: String::new(),
            });
        }
        open(&self.stores.keyvalue, identifier)
    }

    /// The store of the component's configuration, beside its `vars`.
    pub(crate) fn config(&self) -> Option<Opened<dyn KeyValue>> {
        let store = Arc::clone(self.stores.config.as_ref()?);
        Some(Opened {
            store,
            part: String::new(),
        })
    }

    /// A container is named in its binding by its own name, also where `bind` lists it.
    pub(crate) fn blobs(&self, container: &str) -> Result<Opened<dyn Blobs>, CloudError> {
        let opened = open(&self.stores.blobs, container)?;
        Ok(Opened {
            part: container.to_owned(),
            ..opened
        })
    }

    /// The secrets that the component lists.
    pub(crate) fn secrets(&self) -> &Arc<Secrets> {
        &self.stores.secrets
    }

    pub(crate) fn messaging(&self, identifier: &str) -> Result<Opened<dyn Messaging>, CloudError> {
        open(&self.stores.messaging, identifier)
    }

    /// Where telemetry goes.
    fn telemetry(&self) -> &otel::Outlet {
        &self.stores.telemetry
    }

    /// What takes telemetry, if anything does.
    pub(crate) fn telemetry_taker(&self) -> Option<Arc<dyn Telemetry>> {
        self.stores.telemetry.to.clone()
    }

    pub(crate) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(crate) fn connections(&self) -> &sql::Count {
        &self.connections
    }

    pub(crate) fn sql(&self, identifier: &str) -> Result<Opened<dyn Database>, CloudError> {
        open(&self.stores.sql, identifier)
    }

    pub(crate) fn keys(&self, identifier: &str) -> Result<Opened<dyn Keys>, CloudError> {
        open(&self.stores.keys, identifier)
    }

    pub(crate) fn identity(&self, identifier: &str) -> Result<Opened<dyn Identity>, CloudError> {
        open(&self.stores.identities, identifier)
    }

    pub(crate) fn mail(&self, identifier: &str) -> Result<Opened<dyn Mailer>, CloudError> {
        open(&self.stores.mail, identifier)
    }

    pub(crate) fn streams(&self, identifier: &str) -> Result<Opened<dyn Streams>, CloudError> {
        open(&self.stores.streams, identifier)
    }

    pub(crate) fn workflows(&self, identifier: &str) -> Result<Opened<dyn Workflows>, CloudError> {
        open(&self.stores.workflows, identifier)
    }

    pub(crate) fn model(&self, identifier: &str) -> Result<Opened<dyn Inference>, CloudError> {
        open(&self.stores.models, identifier)
    }

    /// The component, whatever the guest says of itself.
    pub(crate) const fn component(&self) -> &ComponentName {
        &self.component
    }

    pub(crate) fn room(&self) -> &blobstore::Room {
        &self.stores.room
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
        within_quota(there, more, self.bytes_max)
    }
}

/// Whether `more` bytes fit beside those that are there.
fn within_quota(there: Option<u64>, more: u64, bytes_max: u64) -> Result<(), CloudError> {
    match there {
        Some(there) if there.saturating_add(more) > bytes_max => {
            Err(CloudError::Quota(realm_model::cloud::Quota::Bytes))
        }
        Some(_) | None => Ok(()),
    }
}

/// Every interface of this folder.
pub(crate) fn link(linker: &mut Linker<State>, concurrent: bool) -> Result<()> {
    keyvalue::link(linker, concurrent)?;
    blobstore::link(linker)?;
    messaging::link(linker)?;
    sql::link(linker)?;
    data::link(linker)?;
    timers::link(linker)?;
    keys::link(linker)?;
    identity::link(linker)?;
    mail::link(linker)?;
    streams::link(linker)?;
    workflows::link(linker)?;
    inference::link(linker)?;
    secrets::link(linker)?;
    logging::link(linker)?;
    otel::link(linker)?;
    if concurrent {
        secrets::link_concurrent(linker)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use realm_model::cloud::CloudError;
    use realm_model::cloud::Secrets;

    use super::*;

    #[test]
    fn what_the_host_keeps_is_bounded_for_an_instance_and_for_all_of_a_component() {
        const MIB: usize = 1024 * 1024;
        let stores = Arc::new(Stores::default());
        let component: ComponentName = "guest".parse().unwrap();
        let instance = || Cloud::new(component.clone(), Arc::clone(&stores), None, 0);
        let first = instance();
        let large = Kept::new(&first, 30 * MIB).unwrap_or_else(|error| panic!("{error}"));
        assert!(Kept::new(&first, 11 * MIB).is_err());
        let mut held = Kept::new(&first, 5 * MIB).unwrap_or_else(|error| panic!("{error}"));
        assert!(held.more(6 * MIB).is_err());
        assert_eq!(held.more(5 * MIB), Ok(()));
        drop(held);
        let small = Kept::new(&first, 10 * MIB).unwrap_or_else(|error| panic!("{error}"));
        let others: Vec<Cloud> = (0..10).map(|_| instance()).collect();
        let kept = others.iter().map(|one| Kept::new(one, 30 * MIB));
        let kept: Vec<Kept> = kept.filter_map(Result::ok).collect();
        assert_eq!(kept.len(), 7, "256 MiB for all");
        drop((first, others, kept));
        assert!(Kept::new(&instance(), 40 * MIB).is_ok());
        assert_eq!(
            stores.kept.load(Ordering::Relaxed),
            40 * MIB,
            "what is still there"
        );
        drop((large, small));
        assert_eq!(stores.kept.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn the_bucket_of_secrets_is_there_without_a_binding_and_leads_nowhere_else() {
        let mut stores = Stores::default();
        let secrets =
            |value: &[u8]| Secrets::new([("key".to_owned(), value.to_vec().into())].into());
        // A store for every name: not for this one.
        let any = Store::Keyvalue(Arc::new(secrets(b"of the store")));
        stores.bind(StoreGrant::ANY, any);
        stores.reveal(secrets(b"listed"));
        let name: ComponentName = "guest".parse().unwrap();
        let cloud = Cloud::new(name.clone(), Arc::new(stores), None, 0);
        let read = async |identifier| {
            let opened = cloud.keyvalue(identifier)?;
            opened.store.get(&opened.part, "key").await
        };
        assert_eq!(read("secrets").await, Ok(Some(b"listed".to_vec())));
        assert_eq!(read("other").await, Ok(Some(b"of the store".to_vec())));
        let opened = cloud.keyvalue("secrets").map(|opened| opened.store);
        let store = opened.unwrap_or_else(|error| panic!("{error}"));
        let written = store.set("", "key", b"x", None).await;
        assert_eq!(written, Err(CloudError::AccessDenied));
        let nothing = Cloud::new(name, Arc::default(), None, 0);
        let opened = nothing.keyvalue("secrets").map(|opened| opened.store);
        let store = opened.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(store.get("", "key").await, Ok(None));
    }
}
