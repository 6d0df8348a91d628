//! Instances that answered a request and wait for the next one, where a component says `reuse`.
//!
//! One at a time: an instance never serves two requests at once, so that a trap, a limit or a
//! client that goes away costs nobody else's request. An instance is kept only after an answer in
//! good order, for so many requests and so long. It goes on counting as one of the host's, and is
//! given up where another component needs room.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::component::ReplicaInner;
use crate::guest::Live;
use crate::room::{Place, Tenant};

/// Requests that an instance serves: the costs of making one are spread thin, and what a guest
/// gathers in its memory by mistake goes soon. Which of these numbers is drawn for each instance,
/// so that those that began together do not all end together.
const USES_MIN: u32 = 128;
const USES_MAX: u32 = 255;
/// An instance that nobody asked for so long takes memory for nothing.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// The waiting instances of one replica.
#[derive(Default)]
pub(crate) struct Keep(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    /// In the order in which they began to wait.
    instances: Vec<Kept>,
    /// Whether a task ends those that wait for long.
    swept: bool,
}

/// An instance that waits, with its place among those of the host.
pub(crate) struct Kept {
    pub(crate) live: Live,
    pub(crate) place: Place,
    since: Instant,
}

/// The replicas that keep instances.
#[derive(Default)]
pub(crate) struct Keepers(Mutex<Vec<Weak<ReplicaInner>>>);

/// How many requests a new instance serves.
pub(crate) fn uses() -> u32 {
    // Keyed at random, and differently each time.
    let random = RandomState::new().build_hasher().finish();
    let range = u64::from(USES_MAX - USES_MIN + 1);
    USES_MIN + u32::try_from(random % range).expect("the range is that of a `u32`")
}

impl Keep {
    /// The instance that answered last: its memory is the warmest.
    pub(crate) fn take(&self) -> Option<Kept> {
        self.lock().instances.pop()
    }

    /// The one that waits for longest, if its place is of use to `tenant`.
    fn give_up(&self, tenant: &Tenant) -> Option<Kept> {
        let mut idle = self.lock();
        let helps = idle.instances.first()?.place.helps(tenant);
        helps.then(|| idle.instances.remove(0))
    }

    /// Ends those that wait since `limit` or longer; whether any is left to sweep.
    fn sweep(&self, limit: Instant) -> bool {
        let mut idle = self.lock();
        let is_old = |kept: &Kept| kept.since <= limit;
        let count = idle.instances.partition_point(is_old);
        let old: Vec<_> = idle.instances.drain(..count).collect();
        idle.swept = !idle.instances.is_empty();
        let left = idle.swept;
        // Memory is given back without the lock.
        drop(idle);
        drop(old);
        left
    }

    /// Whole between two operations.
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an instance for the next request.
pub(crate) fn keep(replica: &Arc<ReplicaInner>, live: Live, place: Place) {
    if place.is_wanted() {
        return;
    }
    let kept = Kept {
        live,
        place,
        since: Instant::now(),
    };
    let swept = {
        let mut idle = replica.keep.lock();
        idle.instances.push(kept);
        std::mem::replace(&mut idle.swept, true)
    };
    if !swept {
        replica.component.host.0.keepers.enter(replica);
        let mut sweeper = Sweeper {
            replica: Arc::downgrade(replica),
            done: false,
        };
        tokio::spawn(async move { sweeper.run().await });
    }
}

/// Ends what waits for long, as long as anything waits.
struct Sweeper {
    replica: Weak<ReplicaInner>,
    done: bool,
}

impl Sweeper {
    async fn run(&mut self) {
        while !self.done {
            tokio::time::sleep(IDLE_MAX).await;
            let Some(replica) = self.replica.upgrade() else {
                return;
            };
            let limit = Instant::now().checked_sub(IDLE_MAX);
            self.done = limit.is_some_and(|limit| !replica.keep.sweep(limit));
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let Some(replica) = self.replica.upgrade() else {
            return;
        };
        replica.component.host.0.keepers.leave(&replica);
        if !self.done {
            // Its runtime ended before it: the next instance that is kept brings another one.
            replica.keep.lock().swept = false;
        }
    }
}

impl Keepers {
    /// Ends one waiting instance of any component, for one of `tenant` to begin; whether there was
    /// one whose place is of use.
    pub(crate) fn reclaim(&self, tenant: &Tenant) -> bool {
        // The first that has one: to look for the one that waits for longest is not worth a look
        // at all of them. What is upgraded may be the last of its replica: it goes without a lock.
        let mut looked_at = Vec::new();
        let given_up = {
            let keepers = self.lock();
            keepers.iter().find_map(|keeper| {
                let replica = keeper.upgrade()?;
                let given_up = replica.keep.give_up(tenant);
                looked_at.push(replica);
                given_up
            })
        };
        given_up.is_some()
    }

    fn enter(&self, replica: &Arc<ReplicaInner>) {
        self.lock().push(Arc::downgrade(replica));
    }

    fn leave(&self, replica: &Arc<ReplicaInner>) {
        let mut keepers = self.lock();
        if let Some(at) = keepers
            .iter()
            .position(|keeper| std::ptr::eq(keeper.as_ptr(), Arc::as_ptr(replica)))
        {
            keepers.swap_remove(at);
        }
        keepers.retain(|keeper| keeper.strong_count() > 0);
    }

    /// Whole between two operations.
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<ReplicaInner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
