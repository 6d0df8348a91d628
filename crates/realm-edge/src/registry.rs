//! All open connections: whether one more is let in and which idle one goes for it, and the sweep
//! that finds those on which nothing moves.
//!
//! One timer for all of them instead of one each: a request costs no timer at all, and an edge
//! without connections sleeps. Not what the limits are; that is `config`'s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::EdgeLimits;
use crate::connection::{Connection, Group, Order};

/// The sweep looks at least this often; limits are kept to within it.
const SWEEP_EVERY_MAX: Duration = Duration::from_secs(1);
/// And not more often than this, however small the limits are.
const SWEEP_EVERY_MIN: Duration = Duration::from_millis(10);
/// Looks within the smallest limit.
const SWEEPS_PER_LIMIT: u32 = 4;

/// Evicted connections that may still hold a file beyond `connections_max`; well below what the
/// process keeps for other files.
const EVICTED_MAX: usize = 64;
/// A look for idle connections reads all of them; evicting this part of the limit at once (less
/// than 1 %) spares a flood of newcomers a look each.
const EVICTED_AT_ONCE_PART: usize = 128;
/// After a look that found nothing idle. A flood would otherwise look for each newcomer.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The open connections.
pub(crate) struct Registry {
    open: Mutex<Open>,
    arrived: Notify,
    left: Notify,
    connections_max: usize,
    per_address_max: usize,
    web_servers_max: usize,
    eviction_idle_min: Duration,
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// There are too many, and none is idle.
    Edge,
    /// Its own address has too many, and none is idle.
    Address,
    /// Web servers have too many, and none is idle.
    WebServers,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Entry>,
    groups: HashMap<Group, Share>,
    next_id: u64,
    n_evicted: usize,
    next_look: Option<Instant>,
}

struct Entry {
    connection: Arc<Connection>,
    group: Option<Group>,
    is_evicted: bool,
}

/// What one group has.
#[derive(Default)]
struct Share {
    n_connections: usize,
    next_look: Option<Instant>,
}

/// A place in the registry, given back when dropped.
pub(crate) struct Place {
    registry: Arc<Registry>,
    id: u64,
}

impl Place {
    /// A place for who is found to be connected, beside this one.
    pub(crate) fn for_another(&self, connection: &Arc<Connection>) -> Result<Self, Full> {
        self.registry.enter(connection)
    }
}

impl Registry {
    /// Of `web_servers_max` connections of web servers.
    pub(crate) fn new(limits: &EdgeLimits, web_servers_max: usize) -> Self {
        Self {
            open: Mutex::default(),
            arrived: Notify::new(),
            left: Notify::new(),
            connections_max: limits.connections_max,
            per_address_max: limits.per_address(),
            // None at all would shut out everybody.
            web_servers_max: web_servers_max.max(1),
            eviction_idle_min: limits.eviction_idle_min,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.with_open(|open| open.connections.len())
    }

    /// Enters a connection. Where there are too many, idle ones go; the group that has too many loses
    /// its own.
    pub(crate) fn enter(self: &Arc<Self>, connection: &Arc<Connection>) -> Result<Place, Full> {
        let group = connection.group();
        let id = self.with_open(|open| {
            if let Some(group) = group {
                let (most, full) = match group {
                    Group::Address(_) => (self.per_address_max, Full::Address),
                    Group::WebServers => (self.web_servers_max, Full::WebServers),
                };
                if open.count_of(group) >= most {
                    self.evict(open, Some(group), most);
                    if open.count_of(group) >= most {
                        return Err(full);
                    }
                }
            }
            if open.count_kept() >= self.connections_max {
                self.evict(open, None, self.connections_max);
                if open.count_kept() >= self.connections_max {
                    return Err(Full::Edge);
                }
            }
            Ok(open.insert(Arc::clone(connection), group))
        })?;
        self.arrived.notify_one();
        Ok(Place {
            registry: Arc::clone(self),
            id,
        })
    }

    /// Closes connections that are idle for longest, because the process has no file left.
    pub(crate) fn make_room(&self) {
        self.with_open(|open| self.evict(open, None, self.connections_max));
    }

    /// Closes the part of `limit` connections, of one group or of all, that is idle for longest.
    fn evict(&self, open: &mut Open, group: Option<Group>, limit: usize) {
        let now = Instant::now();
        if open.next_look(group).is_some_and(|at| now < at) {
            return;
        }
        if open.n_evicted >= EVICTED_MAX {
            open.keep_busy();
        }
        let count = (limit / EVICTED_AT_ONCE_PART)
            .max(1)
            .min(EVICTED_MAX.saturating_sub(open.n_evicted));
        let victims = now
            .checked_sub(self.eviction_idle_min)
            .map(|before| open.idle_longest(group, before, count))
            .unwrap_or_default();
        *open.next_look(group) = victims.is_empty().then(|| now + LOOK_PAUSE);
        for id in victims {
            open.mark_evicted(id);
        }
    }

    /// Tells all connections.
    pub(crate) fn give_order(&self, order: Order) {
        self.with_open(|open| {
            for entry in open.connections.values() {
                entry.connection.give_order(order);
            }
        });
    }

    /// Waits until no connection is open.
    pub(crate) async fn wait_empty(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // Registered before the count: a connection that leaves in between is not missed.
            left.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Applies the limits to all connections, for as long as the task lives.
    pub(crate) async fn sweep(&self, limits: &EdgeLimits) {
        let every = sweep_every(limits);
        loop {
            while self.count() == 0 {
                self.arrived.notified().await;
            }
            tokio::time::sleep(every).await;
            self.with_open(|open| {
                for Entry { connection, .. } in open.connections.values() {
                    connection.give_order(connection.verdict(limits));
                }
            });
        }
    }

    fn with_open<T>(&self, act: impl FnOnce(&mut Open) -> T) -> T {
        // Nothing that changes a count can panic in between.
        act(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Open {
    /// Connections that were not told to make room.
    fn count_kept(&self) -> usize {
        self.connections.len() - self.n_evicted
    }

    fn count_of(&self, group: Group) -> usize {
        let share = self.groups.get(&group);
        share.map_or(0, |share| share.n_connections)
    }

    fn insert(&mut self, connection: Arc<Connection>, group: Option<Group>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if let Some(group) = group {
            self.groups.entry(group).or_default().n_connections += 1;
        }
        let entry = Entry {
            connection,
            group,
            is_evicted: false,
        };
        self.connections.insert(id, entry);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.connections.remove(&id) else {
            return;
        };
        if entry.is_evicted {
            self.n_evicted -= 1;
        } else {
            self.leave_share(entry.group);
        }
    }

    fn mark_evicted(&mut self, id: u64) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        entry.is_evicted = true;
        entry.connection.give_order(Order::Evict);
        let group = entry.group;
        self.n_evicted += 1;
        self.leave_share(group);
    }

    /// An eviction that a request came in before ends with that request, which may take long: it
    /// counts as a connection again, so that it does not hold up other evictions.
    fn keep_busy(&mut self) {
        for entry in self.connections.values_mut() {
            if entry.is_evicted && entry.connection.idle_since().is_none() {
                entry.is_evicted = false;
                self.n_evicted -= 1;
                if let Some(group) = entry.group {
                    self.groups.entry(group).or_default().n_connections += 1;
                }
            }
        }
    }

    fn leave_share(&mut self, group: Option<Group>) {
        let Some(group) = group else { return };
        let Some(share) = self.groups.get_mut(&group) else {
            return;
        };
        share.n_connections -= 1;
        if share.n_connections == 0 {
            self.groups.remove(&group);
        }
    }

    /// When to look for idle connections again, of a group or of all.
    fn next_look(&mut self, group: Option<Group>) -> &mut Option<Instant> {
        match group {
            None => &mut self.next_look,
            Some(group) => &mut self.groups.entry(group).or_default().next_look,
        }
    }

    /// Up to `count` connections that are idle since `before` or earlier, the earliest ones.
    fn idle_longest(&self, group: Option<Group>, before: Instant, count: usize) -> Vec<u64> {
        let mut idle: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, entry)| !entry.is_evicted && (group.is_none() || entry.group == group))
            .filter_map(|(&id, entry)| Some((entry.connection.idle_since()?, id)))
            .filter(|(since, _)| *since <= before)
            .collect();
        if idle.len() > count {
            idle.select_nth_unstable(count);
            idle.truncate(count);
        }
        idle.into_iter().map(|(_, id)| id).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let is_empty = self.registry.with_open(|open| {
            open.remove(self.id);
            open.connections.is_empty()
        });
        if is_empty {
            self.registry.left.notify_waiters();
        }
    }
}

fn sweep_every(limits: &EdgeLimits) -> Duration {
    [
        limits.header_read_timeout,
        limits.idle_timeout,
        limits.write_stall_timeout,
        limits.drain_linger,
    ]
    .into_iter()
    .map(|limit| limit / SWEEPS_PER_LIMIT)
    .fold(SWEEP_EVERY_MAX, Duration::min)
    .max(SWEEP_EVERY_MIN)
}

#[cfg(test)]
mod tests;
