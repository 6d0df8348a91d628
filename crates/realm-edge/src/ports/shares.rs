//! How many connections each client has at once. Not how many there are in all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::connection::client_of;

/// The connections of each client.
pub(super) struct Shares {
    /// Client → its connections; none has 0.
    counts: Mutex<HashMap<IpAddr, usize>>,
    most: usize,
}

/// One connection of a client, until it is dropped.
pub(super) struct Share {
    shares: Arc<Shares>,
    client: Option<IpAddr>,
}

impl Shares {
    /// Each client may have `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            counts: Mutex::default(),
            most,
        }
    }

    /// `None`: it has as many as it may have. Who is on this machine is not counted.
    pub(super) fn take(self: Arc<Self>, peer: IpAddr) -> Option<Share> {
        let client = client_of(peer);
        if let Some(client) = client {
            let mut counts = self.counts();
            let count = counts.get(&client).copied().unwrap_or_default();
            if count >= self.most {
                return None;
            }
            counts.insert(client, count + 1);
        }
        Some(Share {
            shares: self,
            client,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Changed by whole entries: a panic cannot leave it torn.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut count) = self.shares.counts().entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_no_more() {
        let shares = Arc::new(Shares::new(2));
        let take = |peer: &str| Arc::clone(&shares).take(peer.parse().unwrap());
        let first = take("203.0.113.1").expect("one");
        let _second = take("203.0.113.1").expect("two");
        assert!(take("203.0.113.1").is_none());
        let _other = take("203.0.113.2").expect("another client");
        drop(first);
        let _third = take("203.0.113.1").expect("two again");
        assert!(take("203.0.113.1").is_none());

        // Mapped, it is the same client; a network of IPv6 is one.
        assert!(take("::ffff:203.0.113.1").is_none());
        let _six = (take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap());
        assert!(take("2001:db8::ffff").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
        let here: Vec<_> = (0..9).map(|_| take("127.0.0.1").expect("here")).collect();
        drop(here);
        assert!(take("::1").is_some());
        assert_eq!(shares.counts().len(), 3);
    }
}
