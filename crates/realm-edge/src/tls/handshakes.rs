//! How many handshakes are under way: for one more than may be, one ends, of the address that has most of
//! them the one that began first.
//!
//! So those who begin one and go no further hold nobody up: an honest client is done within a few round
//! trips, outlives those who came before it, and one address alone pushes out nobody but itself.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::connection::{Connection, Order};

/// The handshakes of one edge.
pub(crate) struct Handshakes {
    under_way: Mutex<UnderWay>,
    max: usize,
}

#[derive(Default)]
struct UnderWay {
    connections: BTreeMap<u64, Begun>,
    /// How many each address has; those of this machine, and of proxies, are one.
    addresses: HashMap<Option<IpAddr>, usize>,
    next: u64,
}

struct Begun {
    connection: Weak<Connection>,
    address: Option<IpAddr>,
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
                && let Some(first) = under_way.first_of_the_most()
            {
                if let Some(first) = first.connection.upgrade() {
                    first.give_order(Order::Cut);
                }
            }
            let address = connection.counted_for();
            *under_way.addresses.entry(address).or_default() += 1;
            let begun = Begun {
                connection: Arc::downgrade(connection),
                address,
            };
            under_way.connections.insert(number, begun);
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
            .with(|under_way| under_way.remove(self.number));
    }
}

impl UnderWay {
    fn first_of_the_most(&mut self) -> Option<Begun> {
        let most = self.addresses.iter().max_by_key(|(_, count)| **count);
        let (address, _) = most?;
        let mut connections = self.connections.iter();
        let (number, _) = connections.find(|(_, begun)| begun.address == *address)?;
        self.remove(*number)
    }

    fn remove(&mut self, number: u64) -> Option<Begun> {
        let begun = self.connections.remove(&number)?;
        if let Some(count) = self.addresses.get_mut(&begun.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&begun.address);
            }
        }
        Some(begun)
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

    #[test]
    fn one_address_pushes_out_itself_alone() {
        let handshakes = Handshakes::new(3);
        let local = "127.0.0.1:1".parse().expect("an address");
        let begun = |peer: &str| {
            let peer = format!("{peer}:9").parse().expect("an address");
            Arc::new(Connection::new(peer, local, |_| false))
        };
        let honest = begun("192.0.2.1");
        let flood = [(); 8].map(|()| begun("198.51.100.7"));
        let _first = handshakes.begin(&honest);
        let turns: Vec<_> = flood.iter().map(|one| handshakes.begin(one)).collect();
        let context = Context::from_waker(Waker::noop());
        assert_eq!(honest.poll_order(&context), Order::Serve);
        let n_cut = flood
            .iter()
            .filter(|one| one.poll_order(&context) == Order::Cut);
        assert_eq!(n_cut.count(), 6);
        drop(turns);
        assert_eq!(handshakes.with(|under_way| under_way.addresses.len()), 1);
    }
}
