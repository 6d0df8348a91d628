//! Messages behind bindings: a queue of the node's own or NATS, and the groups that are kept there.
//!
//! A group is kept from the manifest on that has the subscription, so that what is sent waits for a
//! component that is not up yet; it goes with the manifest that has it no more.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use realm_backends::Access;
use realm_backends::messaging::{Death, Embedded, Nats, OnDeath, Room};
use realm_host::Store;
use realm_model::binding::{Backend, Interface, Server};
use realm_model::cloud::{Group, Messaging};
use realm_model::grants::StoreGrant;
use realm_model::manifest::ComponentSpec;

use super::{Making, later};
use crate::event::StepFailure;

/// The file of an embedded queue, in the folder of its binding.
const FILE: &str = "messages.redb";
/// Between two tries to tell a queue which groups there are.
const AGAIN: Duration = Duration::from_secs(5);

/// Groups by binding.
pub(crate) type Groups = BTreeMap<String, Vec<Group>>;

pub(super) fn make(making: &Making<'_>) -> Result<Arc<dyn Messaging>, StepFailure> {
    match &making.spec.backend {
        Backend::Embedded => embedded(making),
        Backend::Nats { server } => nats(making, server),
        Backend::Redis { .. }
        | Backend::S3 { .. }
        | Backend::Postgres { .. }
        | Backend::Smtp { .. } => Err(later(making)),
    }
}

fn embedded(making: &Making<'_>) -> Result<Arc<dyn Messaging>, StepFailure> {
    let folder = &making.folder;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    let made = made.map_err(|error| failure(making, &error.to_string()));
    made?;
    let watch = Arc::clone(&making.watch);
    let queue = Embedded::open(folder.join(FILE), Room::default(), watch, on_death(making));
    queue
        .map(|queue| Arc::new(queue) as Arc<dyn Messaging>)
        .map_err(|error| failure(making, &error))
}

fn nats(making: &Making<'_>, server: &Server) -> Result<Arc<dyn Messaging>, StepFailure> {
    let prefix = making.spec.prefix.clone();
    let (user, password) = making.login()?;
    let access = Access {
        user: user.or_else(|| server.user.clone()),
        password,
        authorities: making.policy.ca_file.clone().map(Into::into),
        prefix: prefix.unwrap_or_else(|| making.binding.replace('/', ".")),
    };
    let (host, watch) = (server.to_string(), Arc::clone(&making.watch));
    let room = Room::default();
    let nats = Nats::new(&host, server.tls, &access, room, watch, on_death(making));
    nats.map(|nats| Arc::new(nats) as Arc<dyn Messaging>)
        .map_err(|error| failure(making, &crate::error::with_causes(&error)))
}

fn failure(making: &Making<'_>, why: &str) -> StepFailure {
    StepFailure {
        code: "backend-failed".to_owned(),
        reason: format!("binding `{}`: {why}", making.binding),
        permanent: false,
    }
}

fn on_death(making: &Making<'_>) -> OnDeath {
    let binding = making.binding.to_owned();
    Arc::new(move |death: &Death| {
        let Death {
            topic,
            group,
            n_deliveries,
            why,
        } = death;
        let why = realm_model::text::one_line(why, 200);
        tracing::warn!(%binding, topic, group, deliveries = n_deliveries, why, "a message is dead");
    })
}

/// The groups that the subscriptions of these components make, by binding.
pub(crate) fn groups<'a>(specs: impl Iterator<Item = &'a ComponentSpec>) -> Groups {
    let mut groups = Groups::new();
    for spec in specs {
        let stores = spec.grants.stores.iter();
        for store in stores.filter(|store| store.interface == Interface::Messaging) {
            // A binding that nobody subscribes to has no groups: that is known as well.
            groups.entry(store.binding.clone()).or_default();
        }
        for subscription in &spec.triggers.subscriptions {
            let of = |identifier: &str| {
                spec.grants.stores.iter().find(|store| {
                    store.interface == Interface::Messaging && store.identifier == identifier
                })
            };
            let (from, topic) = (&subscription.from, &subscription.topic);
            let (store, topic) = match (of(from), of(StoreGrant::ANY)) {
                (Some(store), _) => (store, topic.clone()),
                (None, Some(store)) => (store, format!("{from}.{topic}")),
                (None, None) => continue,
            };
            let group = Group {
                topic,
                name: subscription.group.clone(),
            };
            let kept = groups.entry(store.binding.clone()).or_default();
            if !kept.contains(&group) {
                kept.push(group);
            }
        }
    }
    groups
}

/// Tells a queue which groups there are, until it hears. `first`: waits for the first try.
pub(super) fn tell(store: &Store, groups: Vec<Group>, first: bool) {
    let (Store::Messaging(queue), Ok(runtime)) = (store, tokio::runtime::Handle::try_current())
    else {
        return;
    };
    let queue = Arc::clone(queue);
    if first && runtime.block_on(queue.keep_groups(&groups)).is_ok() {
        return;
    }
    let queue = Arc::downgrade(&queue);
    runtime.spawn(async move {
        while let Some(queue) = queue.upgrade() {
            if queue.keep_groups(&groups).await.is_ok() {
                return;
            }
            drop(queue);
            tokio::time::sleep(AGAIN).await;
        }
    });
}
