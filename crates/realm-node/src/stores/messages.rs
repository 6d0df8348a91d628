//! Messages behind bindings: a queue of the node's own or NATS, and the groups that are kept there.
//!
//! A group is kept from the manifest on that has the subscription, so that what is sent waits for a
//! component that is not up yet; it goes with the manifest that has it no more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realm_backends::Access;
use realm_backends::messaging::{Death, Embedded, Nats, OnDeath, Room};
use realm_control::lending::Shared;
use realm_control::ways::Way;
use realm_host::{Meter, Store};
use realm_model::binding::{Backend, Interface, Server};
use realm_model::cloud::{CloudError, Group, Messaging, Subscription, rules};
use realm_model::grants::StoreGrant;
use realm_model::key::PublicKey;
use realm_model::manifest::ComponentSpec;
use realm_model::name::ComponentName;
use realm_model::trigger::SubscriptionSpec;

use super::{Making, held, later};
use crate::event::StepFailure;

/// The file of an embedded queue, in the folder of its binding.
pub(super) const FILE: &str = "messages.redb";
/// Between two tries to tell a queue which groups there are.
const AGAIN: Duration = Duration::from_secs(5);

/// How long a message that is lent is with another node without a word, at the least: that node's manifest may
/// be another one, and it says every 5 s that it works on it.
const LENT_WAIT_MIN: Duration = Duration::from_secs(15);

/// Groups by binding.
pub(crate) type Groups = BTreeMap<String, Vec<Group>>;

/// What decides to whom messages of embedded queues are lent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Groups of embedded queues.
    pub(crate) groups: BTreeMap<Shared, Subscribed>,
    /// Which other nodes run each component.
    pub(crate) running: BTreeMap<ComponentName, Vec<Way>>,
    /// Which nodes may come to run those that subscribe.
    pub(crate) may: BTreeMap<ComponentName, BTreeSet<PublicKey>>,
}

/// Who is subscribed to a group, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub(crate) components: BTreeSet<ComponentName>,
    /// As the first of them has it, but for the wait, which is the longest.
    pub(crate) subscription: Subscription,
    /// What leads to the queue.
    pub(crate) grant: StoreGrant,
}

pub(super) fn make(making: &Making<'_>) -> Result<Arc<dyn Messaging>, StepFailure> {
    match &making.spec.backend {
        Backend::Embedded => embedded(making),
        Backend::Nats { server, devices } => nats(making, server, *devices),
        Backend::Redis { .. }
        | Backend::S3 { .. }
        | Backend::Postgres { .. }
        | Backend::Otlp { .. }
        | Backend::Smtp { .. }
        | Backend::OpenAi { .. } => Err(later(making)),
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
    let queue = Arc::new(queue.map_err(|error| failure(making, &error))?);
    held(making.queues).insert(making.binding.to_owned(), Arc::downgrade(&queue));
    Ok(queue)
}

fn nats(
    making: &Making<'_>,
    server: &Server,
    devices: bool,
) -> Result<Arc<dyn Messaging>, StepFailure> {
    let (user, password) = making.login()?;
    let access = Access {
        user: user.or_else(|| server.user.clone()),
        password,
        authorities: making.policy.ca_file.clone().map(Into::into),
        prefix: making.prefix(""),
    };
    let (host, watch) = (server.to_string(), Arc::clone(&making.watch));
    let room = Room::default();
    let on_death = on_death(making);
    let nats = Nats::new(&host, server.tls, &access, room, watch, on_death, devices);
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
            let Some((store, part)) = spec.grants.messages(&subscription.from) else {
                continue;
            };
            let group = group(subscription, &part);
            let kept = groups.entry(store.binding.clone()).or_default();
            if !kept.contains(&group) {
                kept.push(group);
            }
        }
    }
    groups
}

/// The groups of each binding by the manifest in force, for the queues that are open.
#[derive(Default)]
pub(super) struct Wanted {
    groups: Mutex<Groups>,
    /// Who tells the queue of a binding does so alone: what is older never comes later.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Wanted {
    /// Takes other groups; says in which bindings they are other ones.
    pub(super) fn change(&self, groups: Groups) -> BTreeSet<String> {
        let before = std::mem::replace(&mut *held(&self.groups), groups);
        let now = held(&self.groups);
        let names = before.keys().chain(now.keys());
        let changed = names.filter(|name| before.get(*name) != now.get(*name));
        changed.cloned().collect()
    }

    fn of(&self, binding: &str) -> Option<Vec<Group>> {
        held(&self.groups).get(binding).cloned()
    }

    /// Tells a queue which groups there are at this moment.
    async fn told(&self, binding: &str, queue: &dyn Messaging) -> Result<(), CloudError> {
        let turn = {
            let mut turns = held(&self.turns);
            let turn = turns.entry(binding.to_owned()).or_default();
            Arc::clone(turn)
        };
        let _turn = turn.lock().await;
        let groups = self.of(binding).unwrap_or_default();
        queue.keep_groups(&groups).await
    }

    /// Tells the queue of a binding which groups there are, until it hears. `first`: waits for the first
    /// try, where anything is known of it.
    pub(super) fn tell(self: &Arc<Self>, binding: &str, store: &Store, first: bool) {
        let (Store::Messaging(queue), Ok(runtime)) = (store, tokio::runtime::Handle::try_current())
        else {
            return;
        };
        if first && self.of(binding).is_none() {
            return;
        }
        if first && runtime.block_on(self.told(binding, &**queue)).is_ok() {
            return;
        }
        let (queue, wanted, binding) =
            (Arc::downgrade(queue), Arc::clone(self), binding.to_owned());
        runtime.spawn(async move {
            while let Some(queue) = queue.upgrade() {
                if wanted.told(&binding, &*queue).await.is_ok() {
                    return;
                }
                drop(queue);
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}

impl super::Shelf {
    /// The messages of a binding, if this node has them: a component binds it, or something was sent here
    /// once. Blocks.
    pub(crate) fn messages(
        &self,
        binding: &str,
    ) -> Result<Option<Arc<dyn Messaging>>, StepFailure> {
        if let Some(Store::Messaging(queue)) = self.last(binding) {
            return Ok(Some(queue));
        }
        let grant = {
            let known = self.0.known.borrow();
            let mut groups = known.groups.iter();
            groups
                .find(|(shared, _)| shared.binding == binding)
                .map(|(_, subscribed)| subscribed.grant.clone())
        };
        let Some(grant) = grant else {
            return Ok(None);
        };
        let queue = self.open_queue(&grant)?;
        Ok(queue.map(|queue| queue as Arc<dyn Messaging>))
    }
}

impl super::Shelf {
    /// Of the stores of a binding of messages that are open the one that was asked for last.
    fn last(&self, binding: &str) -> Option<Store> {
        let open = held(&self.0.open);
        let last = held(&self.0.last).get(binding).cloned();
        let last = last.and_then(|key| open.get(&key)?.get());
        last.or_else(|| {
            open.iter().find_map(|((name, interface, ..), store)| {
                let is_it = name == binding && *interface == Interface::Messaging;
                is_it.then(|| store.get()).flatten()
            })
        })
    }
}

/// The groups of embedded queues, and which of these components are subscribed to each. `meter`: what
/// counts for a component the messages that are not lent, as it does not take them.
pub(crate) fn subscribed<'a>(
    specs: impl Iterator<Item = (&'a ComponentName, &'a ComponentSpec)>,
    mut meter: impl FnMut(&ComponentName) -> Arc<Meter>,
) -> BTreeMap<Shared, Subscribed> {
    let mut groups: BTreeMap<Shared, Subscribed> = BTreeMap::new();
    for (component, spec) in specs {
        for subscription in &spec.triggers.subscriptions {
            let Some((store, part)) = spec.grants.messages(&subscription.from) else {
                continue;
            };
            if store.spec.backend != Backend::Embedded {
                continue;
            }
            let shared = Shared {
                binding: store.binding.clone(),
                group: group(subscription, &part),
            };
            let dead_letter = subscription.dead_letter.as_ref();
            let known = groups
                .entry(shared)
                .or_insert_with_key(|shared| Subscribed {
                    components: BTreeSet::new(),
                    subscription: Subscription {
                        group: shared.group.clone(),
                        n_in_flight: subscription.concurrency,
                        ack_wait: LENT_WAIT_MIN,
                        n_deliveries: subscription.attempts,
                        dead_letter: dead_letter.map(|topic| within(topic, &part)),
                        wanted: wanted(subscription, || meter(component)),
                    },
                    grant: store.clone(),
                });
            known.components.insert(component.clone());
            // Each says as often that it works on a message as its own wait wants it.
            let ack_wait = Duration::from_millis(subscription.ack_wait_ms);
            known.subscription.ack_wait = known.subscription.ack_wait.max(ack_wait);
        }
    }
    groups
}

fn wanted(
    subscription: &SubscriptionSpec,
    meter: impl FnOnce() -> Arc<Meter>,
) -> Option<rules::Wanted> {
    if subscription.rules.is_empty() {
        return None;
    }
    let meter = meter();
    let on_left = Arc::new(move || meter.message_filtered());
    rules::Wanted::new(&subscription.rules, on_left)
}

fn group(subscription: &SubscriptionSpec, part: &str) -> Group {
    Group {
        topic: within(&subscription.topic, part),
        name: subscription.group.clone(),
    }
}

fn within(topic: &str, part: &str) -> String {
    match part.is_empty() {
        true => topic.to_owned(),
        false => format!("{part}.{topic}"),
    }
}

#[cfg(test)]
mod tests {
    use realm_model::node_config::BackendPolicy;

    use super::*;

    #[test]
    fn what_is_lent_is_waited_for_as_long_as_the_most_patient_of_its_group_does() {
        let manifest = |waits: [&str; 2]| {
            let component = |name: &str, wait: &str| {
                format!(
                    "[components.{name}]\nsource = 'file:a'\nbind = {{ default = 'orders' }}\n\
                     [components.{name}.subscribe.work]\ngroup = 'all'\nack_wait = '{wait}'\n"
                )
            };
            let binding = "[bindings.orders]\ninterface = 'wasi:messaging'\nbackend = 'embedded'\n";
            let components = component("one", waits[0]) + &component("two", waits[1]);
            let (manifest, problems) =
                realm_model::manifest::parse(&format!("{binding}{components}"));
            manifest.unwrap_or_else(|| panic!("{problems:?}"))
        };
        let waits = |waits| {
            let manifest = manifest(waits);
            let groups = subscribed(manifest.components.iter(), |_| Arc::default());
            let waits = groups
                .values()
                .map(|one| one.subscription.ack_wait.as_secs());
            waits.collect::<Vec<_>>()
        };
        assert_eq!(waits(["30s", "10m"]), [600]);
        assert_eq!(waits(["10m", "30s"]), [600]);
        // Another node may have another manifest, and says every 5 s that it works on one.
        assert_eq!(waits(["1s", "2s"]), [15]);
    }

    #[tokio::test]
    async fn of_two_servers_of_a_binding_the_one_is_looked_at_to_which_it_was_led_last() {
        let folder = tempfile::tempdir().unwrap();
        let key =
            crate::sealing::SealingKey::of_owner(&realm_model::key::SecretKey::from_seed(&[1; 32]));
        let servers = ["nats://127.0.0.1:1", "nats://127.0.0.1:2"];
        let policy = BackendPolicy {
            allow: servers.map(str::to_owned).to_vec(),
            ..BackendPolicy::default()
        };
        let node = "node".parse().unwrap();
        let shelf = super::super::Shelf::new(folder.path().into(), policy, Arc::new(key), &node);
        let open = |server: &str| {
            let text = format!(
                "[bindings.orders]\ninterface = 'wasi:messaging'\nbackend = '{server}'\n\
                 [components.one]\nsource = 'file:a'\nbind = {{ default = 'orders' }}\n"
            );
            let (manifest, problems) = realm_model::manifest::parse(&text);
            let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
            let mut specs = manifest.components.values();
            let grant = specs.next().and_then(|spec| spec.grants.stores.first());
            let opened = grant.map(|grant| shelf.store(grant, None));
            let Some(Ok(Store::Messaging(queue))) = opened else {
                panic!("no queue");
            };
            queue
        };
        let found = || shelf.messages("orders").ok().flatten();
        let is = |queue: &Arc<dyn Messaging>| found().is_some_and(|one| Arc::ptr_eq(&one, queue));
        let first = open(servers[0]);
        assert!(is(&first));
        let second = open(servers[1]);
        assert!(is(&second));
        let again = open(servers[0]);
        assert!(Arc::ptr_eq(&again, &first) && is(&first));
        // The last one is closed, and another is there still.
        drop((first, again));
        assert!(is(&second));
        drop(second);
        assert!(found().is_none());
    }
}
