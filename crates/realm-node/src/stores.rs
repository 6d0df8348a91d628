//! What stands behind the bindings of components on this node: makes each store once, for all that bind
//! it, and says why one cannot be made.
//!
//! Who may open what is the host's; how a store works is `realm_backends`'. A server is asked only where
//! node.toml names it, whatever a manifest says.

mod blobs;
mod databases;
mod derived;
mod files;
mod inference;
mod keyvalue;
mod mail;
pub(crate) mod messages;
mod open;
mod streams;
mod telemetry;
mod troubles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use realm_backends::Watch;
use realm_backends::blobs::Announced;
use realm_backends::inference::{Metered, Room, Spending};
use realm_backends::messaging::Embedded;
use realm_control::lending::Shared;
use realm_control::ways::Way;
use realm_host::{Store, Stores};
use realm_model::binding::{Backend, Binding, Interface};
use realm_model::digest::Digest;
use realm_model::grants::{Grants, StoreGrant};
use realm_model::key::PublicKey;
use realm_model::name::{ComponentName, NodeName};
use realm_model::node_config::BackendPolicy;
use realm_model::observed::Artifact;
use realm_model::record::Alarm;
use realm_model::sealing::Sealed;
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::open::Held;
use crate::event::StepFailure;
use crate::sealing::SealingKey;
use crate::secrets::Values;
use troubles::Troubles;

/// Between a namespace and the name of a binding in the name of a folder: no name has it in it.
const BETWEEN: char = '~';

/// The stores of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<Inner>);

struct Inner {
    /// Where embedded stores lie, a folder for each binding.
    folder: PathBuf,
    policy: BackendPolicy,
    /// Opens the secrets of components.
    key: Arc<SealingKey>,
    /// What is open. A store that no component holds any more is closed.
    open: Mutex<BTreeMap<Key, Held>>,
    /// By binding of messages: which of its stores was asked for last. After a change of a binding the old one
    /// is there for a while beside the new one.
    last: Mutex<BTreeMap<String, Key>>,
    /// By binding: who shares the messages.
    groups: Arc<messages::Wanted>,
    telemetry: telemetry::Outlets,
    /// What components ask of models.
    spending: Spending,
    /// Where all that ask one at the same time have room.
    room: Room,
    /// By binding: the embedded queues that are open.
    queues: Queues,
    /// To whom their messages may be lent.
    known: watch::Sender<messages::Known>,
    /// What does not answer.
    troubles: Arc<Troubles>,
}

type Queues = Mutex<BTreeMap<String, Weak<Embedded>>>;

/// A store: the name of a binding, what it says, and the value of its password.
type Key = (String, Interface, String, Option<Digest>);

/// For whom a store is asked.
pub(crate) struct Who<'a> {
    pub(crate) component: &'a ComponentName,
    pub(crate) artifact: &'a Artifact,
}

/// What it takes to make a store.
struct Making<'a> {
    binding: &'a str,
    spec: &'a Binding,
    /// Of an embedded store: its folder, which may not be there yet.
    folder: PathBuf,
    policy: &'a BackendPolicy,
    /// What a server is asked with: the password, or `USER:PASSWORD`.
    password: Option<&'a Zeroizing<Vec<u8>>>,
    watch: Arc<dyn Watch>,
    queues: &'a Queues,
    room: &'a Room,
}

impl Shelf {
    pub(crate) fn new(
        folder: PathBuf,
        policy: BackendPolicy,
        key: Arc<SealingKey>,
        node: &NodeName,
    ) -> Self {
        Self(Arc::new(Inner {
            folder,
            policy,
            key,
            open: Mutex::default(),
            last: Mutex::default(),
            groups: Arc::default(),
            telemetry: telemetry::Outlets::new(node),
            spending: Spending::default(),
            room: Room::default(),
            queues: Mutex::default(),
            known: watch::Sender::default(),
            troubles: Arc::default(),
        }))
    }

    /// What the identifiers of a component lead to, and its secrets, which are opened here.
    pub(crate) fn of(
        &self,
        who: &Who<'_>,
        grants: &Grants,
        secrets: &BTreeMap<String, Sealed>,
    ) -> Result<Stores, StepFailure> {
        let values = Values::open(&self.0.key, secrets)?;
        let mut stores = Stores::default();
        for grant in &grants.stores {
            let password = password(&grant.spec, secrets, &values);
            let store = match grant.interface {
                Interface::Otel => self.telemetry(who, grant, password)?,
                Interface::Keyvalue
                | Interface::Blobstore
                | Interface::Messaging
                | Interface::Sql
                | Interface::Keys
                | Interface::Identity
                | Interface::Mail
                | Interface::Streams
                | Interface::Workflows => self.store(grant, password)?,
                Interface::Inference => self.metered(who, self.store(grant, password)?),
                Interface::Config => configuration(self.store(grant, password)?),
            };
            let store = self.announced(grant, store, secrets, &values)?;
            stores.bind(&grant.identifier, store);
        }
        stores.reveal(values.of_guest(grants));
        Ok(stores)
    }

    /// The same model, with what it reads and writes counted as a component's.
    fn metered(&self, who: &Who<'_>, store: Store) -> Store {
        let Store::Inference(model) = store else {
            return store;
        };
        let spent = self.0.spending.of(who.component.as_str());
        Store::Inference(Arc::new(Metered::new(model, spent)))
    }

    /// The same objects with their changes told, where the binding says so.
    fn announced(
        &self,
        grant: &StoreGrant,
        store: Store,
        secrets: &BTreeMap<String, Sealed>,
        values: &Values,
    ) -> Result<Store, StepFailure> {
        let (Some(events), Store::Blobs(blobs)) = (&grant.spec.events, &store) else {
            return Ok(store);
        };
        let queue = StoreGrant {
            interface: Interface::Messaging,
            identifier: String::new(),
            binding: events.binding.clone(),
            spec: (*events.spec).clone(),
        };
        let password = password(&queue.spec, secrets, values);
        let Store::Messaging(messages) = self.store(&queue, password)? else {
            return Ok(store);
        };
        let announced = Announced::new(Arc::clone(blobs), messages, &events.topic);
        Ok(Store::Blobs(Arc::new(announced)))
    }

    /// Takes which groups there are by the manifest, and tells the queues that are open.
    pub(crate) fn keep_groups(&self, groups: messages::Groups) {
        let changed = self.0.groups.change(groups);
        if changed.is_empty() {
            return;
        }
        for ((binding, interface, _, _), store) in &*held(&self.0.open) {
            if *interface == Interface::Messaging
                && changed.contains(binding)
                && let Some(store) = store.get()
            {
                self.0.groups.tell(binding, &store, false);
            }
        }
    }

    /// What guests measure and say of themselves, and what models take for them: a part of the metrics page.
    pub(crate) fn guests_page(&self) -> String {
        self.0.telemetry.page() + &self.0.spending.page()
    }

    /// Takes who is subscribed to embedded queues.
    pub(crate) fn keep_subscribed(&self, groups: BTreeMap<Shared, messages::Subscribed>) {
        self.0.known.send_if_modified(|known| {
            let is_new = known.groups != groups;
            known.groups = groups;
            is_new
        });
    }

    /// Takes which other nodes run each component, and which may run those that are subscribed.
    pub(crate) fn meets(
        &self,
        running: BTreeMap<ComponentName, Vec<Way>>,
        may: BTreeMap<ComponentName, BTreeSet<PublicKey>>,
    ) {
        self.0.known.send_if_modified(|known| {
            let is_new = known.running != running || known.may != may;
            (known.running, known.may) = (running, may);
            is_new
        });
    }

    /// What decides to whom messages are lent.
    pub(crate) fn known(&self) -> watch::Receiver<messages::Known> {
        self.0.known.subscribe()
    }

    /// The embedded queue of a binding, if it is open.
    pub(crate) fn queue(&self, binding: &str) -> Option<Arc<Embedded>> {
        held(&self.0.queues).get(binding)?.upgrade()
    }

    /// The same; it is opened if it was ever used here. Blocks.
    pub(crate) fn open_queue(
        &self,
        grant: &StoreGrant,
    ) -> Result<Option<Arc<Embedded>>, StepFailure> {
        if let Some(queue) = self.queue(&grant.binding) {
            return Ok(Some(queue));
        }
        if !self.folder(&grant.binding).join(messages::FILE).exists() {
            return Ok(None);
        }
        let _store = self.store(grant, None)?;
        Ok(self.queue(&grant.binding))
    }

    /// Where the embedded store of a binding lies.
    fn folder(&self, binding: &str) -> PathBuf {
        let name = binding.replace('/', &BETWEEN.to_string());
        self.0.folder.join(name)
    }

    /// What does not answer, for the operator.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.0.troubles.alarms()
    }

    fn store(
        &self,
        grant: &StoreGrant,
        password: Option<(Digest, &Zeroizing<Vec<u8>>)>,
    ) -> Result<Store, StepFailure> {
        let Inner {
            folder: _,
            policy,
            key: _,
            open,
            last,
            groups,
            telemetry: _,
            spending: _,
            room,
            queues,
            known: _,
            troubles,
        } = &*self.0;
        let StoreGrant { binding, spec, .. } = grant;
        self.check(grant)?;
        // Two components that bind one embedded store have one, whatever else their manifests say.
        let words = match spec.backend {
            Backend::Embedded if derived::is(spec.interface) => format!("{spec:?}"),
            Backend::Embedded => String::new(),
            Backend::Redis { .. }
            | Backend::Nats { .. }
            | Backend::S3 { .. }
            | Backend::Postgres { .. }
            | Backend::Otlp { .. }
            | Backend::Smtp { .. }
            | Backend::OpenAi { .. } => format!("{spec:?}"),
        };
        let value = password.map(|(digest, _)| digest);
        let key = (binding.clone(), spec.interface.kept_as(), words, value);
        let mut open = held(open);
        open.retain(|_, one| one.get().is_some());
        if spec.interface == Interface::Messaging {
            let mut last = held(last);
            last.retain(|_, key| open.contains_key(key));
            last.insert(binding.clone(), key.clone());
        }
        if let Some(store) = open.get(&key).and_then(Held::get) {
            streams::keep(spec, &store);
            return Ok(store);
        }
        let watch = troubles.of(binding);
        let store = make(&Making {
            binding,
            spec,
            folder: self.folder(binding),
            policy,
            password: password.map(|(_, value)| value),
            watch,
            queues,
            room,
        })?;
        open.insert(key, Held::of(&store));
        // A server may take its time, and whoever opens another store does not wait for that.
        drop(open);
        groups.tell(binding, &store, true);
        Ok(store)
    }

    /// Whether node.toml lets a server be asked.
    fn check(&self, grant: &StoreGrant) -> Result<(), StepFailure> {
        let Some(origin) = grant.spec.backend.origin() else {
            return Ok(());
        };
        if self.0.policy.allow.contains(&origin) {
            return Ok(());
        }
        Err(StepFailure {
            code: "backend-denied".to_owned(),
            reason: format!(
                "binding `{}` leads to `{origin}`, which `[backends] allow` in node.toml does not name",
                grant.binding
            ),
            permanent: true,
        })
    }
}

/// The password of a binding, and what tells it from others without showing it.
fn password<'a>(
    spec: &Binding,
    secrets: &BTreeMap<String, Sealed>,
    values: &'a Values,
) -> Option<(Digest, &'a Zeroizing<Vec<u8>>)> {
    let name = spec.secret.as_ref()?;
    let sealed = secrets.get(name)?;
    Some((sealed.value(), values.value(name)?))
}

/// As whom a server is asked: the user, where the secret names one, and the password.
type Login = (Option<String>, Option<Zeroizing<String>>);

impl Making<'_> {
    /// What all names of this binding on a server begin with: what the manifest says, or its own name and
    /// `mark`. Outside the owners' namespace that stands before it, with a letter that no manifest can put
    /// into either: a delegate has nothing of others on the same server.
    fn prefix(&self, mark: &str) -> String {
        let (namespace, name) = match self.binding.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, self.binding),
        };
        let own = match &self.spec.prefix {
            Some(prefix) => prefix.clone(),
            None => format!("{name}{mark}"),
        };
        match namespace {
            Some(namespace) => format!("{namespace}~{own}"),
            None => own,
        }
    }

    /// The value of the secret that the binding names, as it is written there; `None`: it names none.
    fn secret(&self) -> Result<Option<Zeroizing<String>>, StepFailure> {
        let Some(name) = &self.spec.secret else {
            return Ok(None);
        };
        let failed = |why: &str| StepFailure {
            code: "backend-secret".to_owned(),
            reason: format!("binding `{}`: the secret `{name}` {why}", self.binding),
            permanent: true,
        };
        let value = self.password.ok_or_else(|| failed("has no value here"))?;
        let text = std::str::from_utf8(value).map_err(|_| failed("is not text"))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    /// The same in its parts: `USER:PASSWORD`, or the password alone.
    fn login(&self) -> Result<Login, StepFailure> {
        let Some(secret) = self.secret()? else {
            return Ok((None, None));
        };
        Ok(match secret.split_once(':') {
            Some((user, password)) => (
                Some(user.to_owned()),
                Some(Zeroizing::new(password.to_owned())),
            ),
            None => (None, Some(secret)),
        })
    }
}

fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    match making.spec.interface {
        Interface::Keyvalue | Interface::Config => keyvalue::make(making),
        Interface::Blobstore => blobs::make(making),
        Interface::Messaging => messaging(making),
        Interface::Sql => databases::sql(making),
        Interface::Workflows => databases::workflows(making),
        // Each component has one of its own.
        Interface::Otel => Err(later(making)),
        Interface::Keys => derived::keys(making),
        Interface::Identity => derived::identity(making),
        Interface::Mail => mail::make(making),
        Interface::Streams => streams::make(making),
        Interface::Inference => inference::make(making),
    }
}

/// The same values, for who reads them as configuration.
fn configuration(store: Store) -> Store {
    match store {
        Store::Keyvalue(values) => Store::Config(values),
        other @ (Store::Config(_)
        | Store::Blobs(_)
        | Store::Messaging(_)
        | Store::Sql(_)
        | Store::Otel(_)
        | Store::Keys(_)
        | Store::Identity(_)
        | Store::Mail(_)
        | Store::Streams(_)
        | Store::Workflows(_)
        | Store::Inference(_)) => other,
    }
}

fn messaging(making: &Making<'_>) -> Result<Store, StepFailure> {
    messages::make(making).map(Store::Messaging)
}

fn later(making: &Making<'_>) -> StepFailure {
    let Making {
        binding,
        spec,
        folder: _,
        policy: _,
        password: _,
        watch: _,
        queues: _,
        room: _,
    } = making;
    StepFailure {
        code: "backend-unknown".to_owned(),
        reason: format!(
            "binding `{binding}`: this realm has no `{}` behind `{}` yet",
            spec.backend, spec.interface
        ),
        permanent: true,
    }
}

/// Maps whose entries are written at once: no panic can leave them torn.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use realm_backends::Unwatched;

    use super::*;

    /// What names on a server begin with, for a binding that says this prefix or none.
    fn prefix(binding: &str, prefix: Option<&str>, mark: &str) -> String {
        let spec = Binding {
            interface: Interface::Keyvalue,
            backend: Backend::Embedded,
            prefix: prefix.map(str::to_owned),
            secret: None,
            issuer: None,
            senders: Vec::new(),
            model: None,
            events: None,
            keep_hours: None,
            keep_mb: None,
        };
        let making = Making {
            binding,
            spec: &spec,
            folder: PathBuf::new(),
            policy: &BackendPolicy::default(),
            password: None,
            watch: Arc::new(Unwatched),
            queues: &Queues::default(),
            room: &Room::default(),
        };
        making.prefix(mark)
    }

    #[test]
    fn a_delegate_has_nothing_of_others_on_the_same_server() {
        assert_eq!(prefix("cache", None, ":"), "cache:");
        assert_eq!(prefix("team/cache", None, ":"), "team~cache:");
        // Nor by the prefix that its manifest says, which leads nowhere without its own name before it.
        assert_eq!(prefix("cache", Some("shop:"), ":"), "shop:");
        assert_eq!(prefix("team/cache", Some("shop:"), ":"), "team~shop:");
        assert_eq!(prefix("team/cache", Some(""), ""), "team~");
        // No two of these have a name in common, with any key after them.
        let all = [
            prefix("cache", None, ":"),
            prefix("team/cache", None, ":"),
            prefix("teams/cache", None, ":"),
            prefix("team/caches", None, ":"),
            prefix("tea/m-cache", None, ":"),
            prefix("cache", Some("team:"), ":"),
        ];
        for (nth, one) in all.iter().enumerate() {
            for other in &all[nth + 1..] {
                assert!(!one.starts_with(other.as_str()), "{one} {other}");
                assert!(!other.starts_with(one.as_str()), "{one} {other}");
            }
        }
    }
}
