//! How many handshakes are under way: for one more than may be, the one that began first ends.
//!
//! So those who begin one and go no further hold nobody up: an honest client is done within a few round
//! trips, and outlives those who came before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::connection::{Connection, Order};

/// The handshakes of one edge.
pub(crate) struct Handshakes {
    under_way: Mutex<UnderWay>,
    max: usize,
}

#[derive(Default)]
struct UnderWay {
    connections: BTreeMap<u64, Weak<Connection>>,
    next: u64,
}

/// One of them, while it lives.
pub(crate) struct Turn<'h> {
    handshakes: &'h Handshakes,
    number: u64,
}

impl Handshakes {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            under_way: Mutex::default(),
            max: max.max(1),
        }
    }

    /// Begins one.
    pub(crate) fn begin(&self, connection: &Arc<Connection>) -> Turn<'_> {
        self.with(|under_way| {
            let number = under_way.next;
            under_way.next += 1;
            while under_way.connections.len() >= self.max
                && let Some((_, first)) = under_way.connections.pop_first()
            {
                if let Some(first) = first.upgrade() {
                    first.give_order(Order::Cut);
                }
            }
            under_way
                .connections
                .insert(number, Arc::downgrade(connection));
            Turn {
                handshakes: self,
                number,
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut UnderWay) -> T) -> T {
        // Nothing that changes the map can panic in between.
        act(&mut self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.handshakes
            .with(|under_way| under_way.connections.remove(&self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn the_first_ends_for_one_too_many() {
        let handshakes = Handshakes::new(2);
        let address = "127.0.0.1:1".parse().expect("an address");
        let connections = [(); 4].map(|()| Arc::new(Connection::new(address, address, |_| false)));
        let mut turns: Vec<_> = connections[..3]
            .iter()
            .map(|connection| handshakes.begin(connection))
            .collect();
        let orders = || {
            let context = Context::from_waker(Waker::noop());
            let orders = connections.iter().map(|one| one.poll_order(&context));
            orders.collect::<Vec<_>>()
        };
        use Order::{Cut, Serve};
        assert_eq!(orders(), [Cut, Serve, Serve, Serve]);
        // The second is done: there is room.
        turns.remove(1);
        turns.push(handshakes.begin(&connections[3]));
        assert_eq!(orders(), [Cut, Serve, Serve, Serve]);
    }
}
