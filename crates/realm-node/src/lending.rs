//! Embedded queues across nodes: what waits here for a group that has no member here is lent to nodes that
//! run one, and members here take what other nodes lend.
//!
//! To whom is decided in `realm_control::lending`, how it goes in `realm_backends`. A queue that has
//! something in it stays open here also where no component has it any more. Not here: groups, and the
//! files of queues (`stores`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use realm_backends::messaging::{Embedded, LendError, decline, offered};
use realm_control::lending::{Members, Shared, borrowers};
use realm_model::cloud::Subscription;
use realm_model::key::PublicKey;
use realm_net::{Handle, Protocol, Stream, Transport as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::places::Places;
use crate::stores::Shelf;
use crate::stores::messages::Known;

/// How often it is looked who takes part here: replicas come and go without a word.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Until the next try, where a node does not take what is lent.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// A stream that held for so long was a good one.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// How long nothing is taken of a node that did what it may not; it doubles with each time.
const SHUNNED_MIN: Duration = Duration::from_secs(5);
const SHUNNED_MAX: Duration = Duration::from_secs(5 * 60);
/// Streams of all nodes that lend to this one: 24 nodes with a hundred groups each.
const LENT_MAX: usize = 2_400;
/// And of one; it keeps to half of that by itself, and may have made anew each of them.
const LENT_EACH_MAX: usize = 2 * realm_control::lending::GROUPS_EACH_MAX;

/// The messages of this node among the others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lending {
    shelf: Shelf,
    me: PublicKey,
    places: Arc<Places<PublicKey>>,
    shunned: Arc<Mutex<Shunned>>,
}

/// Nodes that lent as they may not, of which nothing is taken for a while.
#[derive(Default)]
struct Shunned(BTreeMap<PublicKey, Shun>);

struct Shun {
    until: Instant,
    pause: Duration,
}

impl Shunned {
    fn is_shunned(&self, node: &PublicKey, now: Instant) -> bool {
        self.0.get(node).is_some_and(|shun| now < shun.until)
    }

    /// It did what it may not. Who did well for as long as anybody is shunned begins anew.
    fn shun(&mut self, node: PublicKey, now: Instant) {
        self.0.retain(|_, shun| now < shun.until + SHUNNED_MAX);
        let shun = self.0.entry(node).or_insert(Shun {
            until: now,
            pause: SHUNNED_MIN,
        });
        // Streams that end together are one time.
        if now < shun.until {
            return;
        }
        shun.until = now + shun.pause;
        shun.pause = (shun.pause * 2).min(SHUNNED_MAX);
    }
}

/// What is lent to one node for one group.
struct Loan {
    subscription: Subscription,
    parting: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lending {
    pub(crate) fn new(shelf: Shelf, me: PublicKey) -> Self {
        Self {
            shelf,
            me,
            places: Arc::new(Places::new(LENT_MAX, LENT_EACH_MAX)),
            shunned: Arc::default(),
        }
    }

    /// Members here take what another node offers.
    pub(crate) async fn serve(&self, from: PublicKey, mut stream: Stream) {
        let Some(_place) = self.places.take(from, 0) else {
            return;
        };
        let Ok((binding, group)) = offered(&mut stream).await else {
            return;
        };
        // By the manifest that is in force here, whatever the other one has.
        let shared = Shared { binding, group };
        let is_known = self.shelf.known().borrow().groups.contains_key(&shared);
        let queue = is_known.then(|| self.shelf.queue(&shared.binding));
        let is_shunned = self.shunned(|nodes| nodes.is_shunned(&from, Instant::now()));
        let ended = match queue.flatten().filter(|_| !is_shunned) {
            Some(queue) => {
                let lender = *from.as_bytes();
                queue.borrow(stream, lender, &shared.group).await
            }
            None => decline(&mut stream).await,
        };
        if let Err(error) = ended {
            if let LendError::Wrong(why) = &error {
                self.shunned(|nodes| nodes.shun(from, Instant::now()));
                tracing::warn!(peer = %from, binding = shared.binding, why, "a node lends as it may not");
            }
            tracing::debug!(peer = %from, binding = shared.binding, %error, "nothing more is borrowed");
        }
    }

    fn shunned<T>(&self, act: impl FnOnce(&mut Shunned) -> T) -> T {
        act(&mut self.shunned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lends what waits here, until the node stops.
    pub(crate) async fn run(self, net: Handle, mut stopping: watch::Receiver<bool>) {
        let mut known = self.shelf.known();
        let mut open = BTreeMap::new();
        let mut failed = BTreeSet::new();
        let mut loans: BTreeMap<(Shared, PublicKey), Loan> = BTreeMap::new();
        loop {
            let now = known.borrow_and_update().clone();
            self.open(&now, &mut open, &mut failed).await;
            let wanted = self.wanted(&now, &open);
            loans.retain(|_, loan| !loan.task.is_finished());
            for (key, loan) in &loans {
                let wanted = wanted.get(key).map(|(_, subscription)| *subscription);
                if wanted != Some(&loan.subscription) {
                    loan.parting.send_replace(true);
                }
            }
            for ((shared, node), (queue, subscription)) in wanted {
                let key = (shared, node);
                if loans.contains_key(&key) {
                    continue;
                }
                let (parting, told) = watch::channel(false);
                let one = One {
                    net: net.clone(),
                    node,
                    binding: key.0.binding.clone(),
                    queue,
                    subscription: subscription.clone(),
                    parting: told,
                };
                let loan = Loan {
                    subscription: subscription.clone(),
                    parting,
                    task: tokio::spawn(one.run()),
                };
                loans.insert(key, loan);
            }
            let is_idle = now.groups.is_empty() && loans.is_empty();
            let look = async {
                match is_idle {
                    true => std::future::pending().await,
                    false => sleep(LOOK_INTERVAL).await,
                }
            };
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                _ = stopping.wait_for(|stop| *stop) => return,
                () = look => {}
            }
        }
    }

    /// Opens the queues that the manifest has and that were used here, and lets go of others.
    async fn open(
        &self,
        known: &Known,
        open: &mut BTreeMap<String, Arc<Embedded>>,
        failed: &mut BTreeSet<String>,
    ) {
        let bindings: BTreeSet<&String> = known.groups.keys().map(|one| &one.binding).collect();
        open.retain(|binding, _| bindings.contains(binding));
        for (shared, subscribed) in &known.groups {
            let binding = &shared.binding;
            if open.contains_key(binding) {
                continue;
            }
            let (shelf, grant) = (self.shelf.clone(), subscribed.grant.clone());
            let opening = tokio::task::spawn_blocking(move || shelf.open_queue(&grant));
            match opening.await {
                Ok(Ok(Some(queue))) => {
                    failed.remove(binding);
                    open.insert(binding.clone(), queue);
                }
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(failure)) => {
                    if failed.insert(binding.clone()) {
                        let reason = failure.reason;
                        tracing::warn!(binding, reason, "what waits is not lent");
                    }
                }
            }
        }
    }

    /// What is to be lent to whom.
    fn wanted<'k>(
        &self,
        known: &'k Known,
        open: &BTreeMap<String, Arc<Embedded>>,
    ) -> BTreeMap<(Shared, PublicKey), (Arc<Embedded>, &'k Subscription)> {
        let here = open.iter().flat_map(|(binding, queue)| {
            let groups = queue.groups_here().into_iter();
            groups.map(|group| Shared {
                binding: binding.clone(),
                group,
            })
        });
        let here = here.collect();
        let groups = known.groups.iter();
        let groups = groups.filter(|(shared, _)| open.contains_key(&shared.binding));
        let groups = groups.map(|(shared, subscribed)| {
            let may = subscribed.components.iter();
            let may = may.filter_map(|component| known.may.get(component));
            let members = Members {
                components: subscribed.components.clone(),
                may: may.flatten().copied().collect(),
            };
            (shared.clone(), members)
        });
        let lent = borrowers(&self.me, &groups.collect(), &known.running, &here);
        let pairs = lent.into_iter().flat_map(|(shared, nodes)| {
            let nodes = nodes.into_iter();
            nodes.map(move |node| (shared.clone(), node))
        });
        let wanted = pairs.filter_map(|(shared, node)| {
            let queue = Arc::clone(open.get(&shared.binding)?);
            let subscription = &known.groups.get(&shared)?.subscription;
            Some(((shared, node), (queue, subscription)))
        });
        wanted.collect()
    }
}

/// One group's messages on their way to one node.
struct One {
    net: Handle,
    node: PublicKey,
    binding: String,
    queue: Arc<Embedded>,
    subscription: Subscription,
    parting: watch::Receiver<bool>,
}

impl One {
    /// Until it is told to part, over stream after stream.
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        while !*self.parting.borrow() {
            let began = Instant::now();
            match self.lend().await {
                Ok(()) => return,
                Err(error) => {
                    let (node, binding) = (self.node, &self.binding);
                    tracing::debug!(peer = %node, binding, %error, "a node does not take messages");
                }
            }
            if began.elapsed() > GOOD_FOR {
                pause = PAUSE_MIN;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.parting.wait_for(|parting| *parting) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn lend(&self) -> Result<(), LendError> {
        let opened = self.net.open(self.node, Protocol::Lend).await;
        let stream =
            opened.map_err(|error| LendError::Broken(std::io::Error::other(error.to_string())))?;
        let Self {
            binding,
            queue,
            subscription,
            parting,
            ..
        } = self;
        queue
            .lend(stream, binding, subscription, parting.clone())
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_a_while_of_a_node_that_lent_as_it_may_not() {
        let node = |seed| realm_model::key::SecretKey::from_seed(&[seed; 32]).public();
        let (bad, good, began) = (node(1), node(2), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut nodes = Shunned::default();
        // Two of its streams.
        nodes.shun(bad, began);
        nodes.shun(bad, began);
        assert!(nodes.is_shunned(&bad, after(4)) && !nodes.is_shunned(&good, after(4)));
        assert!(!nodes.is_shunned(&bad, after(5)));
        nodes.shun(bad, after(5));
        assert!(nodes.is_shunned(&bad, after(14)) && !nodes.is_shunned(&bad, after(15)));
        for round in 0..20 {
            nodes.shun(bad, after(15 + 300 * round));
        }
        let last = 15 + 300 * 19;
        assert!(nodes.is_shunned(&bad, after(last + 299)));
        assert!(!nodes.is_shunned(&bad, after(last + 300)));
        // It did well since.
        nodes.shun(bad, after(last + 900));
        assert!(!nodes.is_shunned(&bad, after(last + 905)));
    }
}
