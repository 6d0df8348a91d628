//! How many requests each client has left: a bucket for each, in a table that does not grow with the
//! number of those who ask.
//!
//! Not what a client is: that is the address that a request comes from, as far as it can be believed.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use realm_model::front::PerClient;

/// Clients that are remembered: about 3 MB where all are in use.
const CLIENTS_MAX: usize = 65_536;
/// Parts of the table, so that cores do not wait for each other; who is in which is random.
const PARTS: usize = 64;
const NS_PER_SEC: u64 = 1_000_000_000;

/// The buckets of one component's clients. Those of full buckets are forgotten, and where there is no room
/// the fullest one goes: whoever floods the table with addresses drives out those addresses, and not
/// clients that have used up what they had.
pub(crate) struct Clients {
    begun: Instant,
    hasher: RandomState,
    parts: Box<[Mutex<Part>]>,
    part_max: usize,
}

/// Client → when its bucket is full, in nanoseconds since the table began.
type Part = HashMap<u128, u64>;

impl Clients {
    pub(crate) fn new() -> Self {
        Self::of(PARTS, CLIENTS_MAX / PARTS)
    }

    fn of(parts: usize, part_max: usize) -> Self {
        Self {
            begun: Instant::now(),
            hasher: RandomState::new(),
            parts: (0..parts).map(|_| Mutex::default()).collect(),
            part_max,
        }
    }

    /// Takes one request out of a client's bucket; how long it has to wait for the next one if there is
    /// none. Who is refused loses nothing by it.
    pub(crate) fn take(
        &self,
        client: IpAddr,
        limit: PerClient,
        now: Instant,
    ) -> Result<(), Duration> {
        let now = now.saturating_duration_since(self.begun);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let each = NS_PER_SEC / u64::from(limit.requests_per_sec.max(1));
        let all = each * u64::from(limit.burst.max(1));
        let client = key(client);
        let mut part = self.part(client);
        let known = part.get(&client).copied();
        // A bucket that was larger before the limit changed is not owed more than this one holds.
        let full_at = known.unwrap_or(now).clamp(now, now.saturating_add(all));
        let full_at = full_at.saturating_add(each);
        let wait = (full_at - now).saturating_sub(all);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        if known.is_none() && part.len() >= self.part_max {
            make_room(&mut part, now);
        }
        part.insert(client, full_at);
        Ok(())
    }

    fn part(&self, client: u128) -> MutexGuard<'_, Part> {
        let hash = self.hasher.hash_one(client);
        let index = usize::try_from(hash % self.parts.len() as u64).unwrap_or(0);
        // Each change is one of the map's own.
        self.parts[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(part: &mut Part, now: u64) {
    let before = part.len();
    part.retain(|_, full_at| *full_at > now);
    if part.len() < before {
        return;
    }
    let fullest = part.iter().min_by_key(|(_, full_at)| **full_at);
    if let Some(fullest) = fullest.map(|(client, _)| *client) {
        part.remove(&fullest);
    }
}

/// A client as a number: an IPv4 address, or a /64 of IPv6, which one household has.
fn key(client: IpAddr) -> u128 {
    const NETWORK: u128 = !(u64::MAX as u128);
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & NETWORK,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const TEN: PerClient = PerClient {
        requests_per_sec: 10,
        burst: 20,
    };

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn size(clients: &Clients) -> usize {
        let parts = clients.parts.iter();
        parts.map(|part| part.lock().unwrap().len()).sum()
    }

    #[test]
    fn a_client_has_a_burst_and_then_what_comes_each_second() {
        let clients = Clients::new();
        let at = |ms| clients.begun + Duration::from_millis(ms);
        let take = |ms| clients.take(v4(1), TEN, at(ms));
        for _ in 0..20 {
            assert_eq!(take(0), Ok(()));
        }
        assert_eq!(take(0), Err(Duration::from_millis(100)));
        assert_eq!(take(40), Err(Duration::from_millis(60)));
        assert_eq!(take(100), Ok(()));
        assert_eq!(take(100), Err(Duration::from_millis(100)));
        // Another one has its own.
        assert_eq!(clients.take(v4(2), TEN, at(100)), Ok(()));
        for _ in 0..20 {
            assert_eq!(take(60_000), Ok(()));
        }
        assert!(take(60_000).is_err());
    }

    #[test]
    fn a_client_of_ipv6_is_its_network() {
        let clients = Clients::new();
        let once = PerClient {
            requests_per_sec: 1,
            burst: 1,
        };
        let take = |address: &str| {
            let address = IpAddr::V6(address.parse::<Ipv6Addr>().unwrap());
            clients.take(address, once, clients.begun).is_ok()
        };
        assert!(take("2001:db8::1"));
        assert!(!take("2001:db8::ffff:1"));
        assert!(take("2001:db8:0:1::1"));
        assert!(take("::ffff:203.0.113.1"));
        assert!(take("::ffff:203.0.113.2"));
        let same = clients.take("203.0.113.1".parse().unwrap(), once, clients.begun);
        assert!(same.is_err());
    }

    #[test]
    fn a_smaller_limit_counts_at_once() {
        let clients = Clients::new();
        let of = |requests_per_sec| PerClient {
            requests_per_sec,
            burst: 10,
        };
        for _ in 0..10 {
            assert_eq!(clients.take(v4(1), of(1), clients.begun), Ok(()));
        }
        // Ten seconds are not waited for what ten in a second give.
        let wait = clients.take(v4(1), of(10), clients.begun);
        assert_eq!(wait, Err(Duration::from_millis(100)));
    }

    /// 1,000 clients used up what they had; twice as many other addresses as are remembered ask once each.
    #[test]
    fn a_flood_of_addresses_neither_grows_the_table_nor_frees_who_is_in_it() {
        let clients = Clients::new();
        let at = |ms| clients.begun + Duration::from_millis(ms);
        for client in 0..1_000 {
            while clients.take(v4(client), TEN, at(0)).is_ok() {}
        }
        for other in 0..131_072 {
            let ms = u64::from(other) / 2_000;
            assert_eq!(clients.take(v4(1_000_000 + other), TEN, at(ms)), Ok(()));
        }
        assert!(size(&clients) <= CLIENTS_MAX);
        let freed = (0..1_000).filter(|client| clients.take(v4(*client), TEN, at(99)).is_ok());
        assert_eq!(freed.count(), 0);
    }

    #[test]
    fn who_has_a_full_bucket_is_forgotten_first() {
        let clients = Clients::of(1, 4);
        let at = |ms| clients.begun + Duration::from_millis(ms);
        for client in 0..4 {
            assert_eq!(clients.take(v4(client), TEN, at(0)), Ok(()));
        }
        assert_eq!(clients.take(v4(9), TEN, at(200)), Ok(()));
        assert_eq!(size(&clients), 1);
    }

    proptest! {
        /// As long as there is room, no client gets more than its bucket gives, whatever the others do;
        /// and who is told to wait is let in then.
        #[test]
        fn nobody_gets_more_than_a_bucket_gives(
            asks in prop::collection::vec((0_u32..5, 0_u64..400), 1..200),
            requests_per_sec in 1_u32..50, burst in 1_u32..10,
        ) {
            let limit = PerClient { requests_per_sec, burst };
            let clients = Clients::of(1, 5);
            let mut now = 0;
            let mut let_in: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
            for (client, pause) in asks {
                now += pause;
                let at = |ns: u64| clients.begun + Duration::from_millis(now) + Duration::from_nanos(ns);
                match clients.take(v4(client), limit, at(0)) {
                    Ok(()) => let_in.entry(client).or_default().push(now),
                    Err(wait) => {
                        let wait = u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(clients.take(v4(client), limit, at(wait - 1)).is_err());
                    }
                }
            }
            for times in let_in.values() {
                for (index, since) in times.iter().enumerate() {
                    for (count, until) in (1_u64..).zip(&times[index..]) {
                        let given = u64::from(burst) * 1_000 + (until - since) * u64::from(requests_per_sec);
                        prop_assert!(count * 1_000 <= given + 1, "{count} from {since} to {until}");
                    }
                }
            }
        }
    }
}
