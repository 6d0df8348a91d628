//! All open connections, and the sweep that finds those on which nothing moves.
//!
//! One timer for all of them instead of one each: a request costs no timer at all, and an edge
//! without connections sleeps. Not what the limits are; that is `config`'s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::EdgeLimits;
use crate::connection::{Connection, Order};

/// The sweep looks at least this often; limits are kept to within it.
const SWEEP_EVERY_MAX: Duration = Duration::from_secs(1);
/// And not more often than this, however small the limits are.
const SWEEP_EVERY_MIN: Duration = Duration::from_millis(10);
/// Looks within the smallest limit.
const SWEEPS_PER_LIMIT: u32 = 4;

/// The open connections.
#[derive(Default)]
pub(crate) struct Registry {
    open: Mutex<Open>,
    arrived: Notify,
    left: Notify,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Arc<Connection>>,
    next_id: u64,
}

/// A place in the registry, given back when dropped.
pub(crate) struct Place {
    registry: Arc<Registry>,
    id: u64,
}

impl Registry {
    pub(crate) fn count(&self) -> usize {
        self.with_open(|open| open.connections.len())
    }

    /// Enters a connection, unless there are `connections_max`.
    pub(crate) fn enter(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        connections_max: usize,
    ) -> Option<Place> {
        let id = self.with_open(|open| {
            if open.connections.len() >= connections_max {
                return None;
            }
            let id = open.next_id;
            open.next_id += 1;
            open.connections.insert(id, Arc::clone(connection));
            Some(id)
        })?;
        self.arrived.notify_one();
        Some(Place {
            registry: Arc::clone(self),
            id,
        })
    }

    /// Tells all connections.
    pub(crate) fn give_order(&self, order: Order) {
        self.with_open(|open| {
            for connection in open.connections.values() {
                connection.give_order(order);
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
                for connection in open.connections.values() {
                    connection.give_order(connection.verdict(limits));
                }
            });
        }
    }

    fn with_open<T>(&self, act: impl FnOnce(&mut Open) -> T) -> T {
        // A panic cannot leave the map half changed: each change is one call on it.
        act(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let is_empty = self.registry.with_open(|open| {
            open.connections.remove(&self.id);
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
