//! Who is let in, and who goes for it.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn registry(
    connections_max: usize,
    per_address_max: usize,
    web_servers_max: usize,
) -> Arc<Registry> {
    let limits = EdgeLimits {
        connections_max,
        connections_per_address_max: Some(per_address_max),
        eviction_idle_min: Duration::ZERO,
        ..EdgeLimits::default()
    };
    Arc::new(Registry::new(&limits, web_servers_max))
}

/// Opens connections of addresses, in order; `Err` where one is refused.
struct Rig {
    registry: Arc<Registry>,
}

impl Rig {
    fn new(connections_max: usize, per_address_max: usize) -> Self {
        Self {
            registry: registry(connections_max, per_address_max, usize::MAX),
        }
    }

    fn open(&self, address: &str) -> Result<(Arc<Connection>, Place), Full> {
        let peer = std::net::SocketAddr::new(address.parse().expect("an address"), 99);
        let proxy: IpAddr = "198.51.100.1".parse().expect("an address");
        let connection = Arc::new(Connection::new(peer, peer, |address| address == proxy));
        let place = self.registry.enter(&connection)?;
        Ok((connection, place))
    }

    /// A connection with a request in flight.
    fn busy(&self, address: &str) -> Result<(Arc<Connection>, Place), Full> {
        let opened = self.open(address)?;
        opened.0.begin_request();
        Ok(opened)
    }
}

fn order(connection: &Connection) -> Order {
    connection.poll_order(&std::task::Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn the_one_that_idles_longest_makes_room() {
    let rig = Rig::new(3, 3);
    let first = rig.busy("192.0.2.1").expect("room");
    let second = rig.open("192.0.2.2").expect("room");
    let third = rig.open("192.0.2.3").expect("room");
    // It is idle from now on, for a shorter time than the others.
    second.0.begin_request();
    second.0.end_request();
    let fourth = rig.open("192.0.2.4").expect("the third goes");
    assert_eq!(order(&first.0), Order::Serve);
    assert_eq!(order(&second.0), Order::Serve);
    assert_eq!(order(&third.0), Order::Evict);
    assert_eq!(order(&fourth.0), Order::Serve);
    // It holds its file until it is closed, and has no place any more.
    assert_eq!(rig.registry.count(), 4);
    drop(third);
    assert_eq!(rig.registry.count(), 3);
    second.0.begin_request();
    fourth.0.begin_request();
    assert_eq!(rig.open("192.0.2.5").err(), Some(Full::Edge));
    drop(fourth);
    rig.open("192.0.2.5").expect("a place became free");
}

#[test]
fn a_client_that_just_came_may_speak_first() {
    let limits = EdgeLimits {
        connections_max: 1,
        eviction_idle_min: Duration::from_secs(3600),
        ..EdgeLimits::default()
    };
    let registry = Arc::new(Registry::new(&limits, 1));
    let rig = Rig { registry };
    let first = rig.open("192.0.2.1").expect("room");
    assert_eq!(rig.open("192.0.2.2").err(), Some(Full::Edge));
    assert_eq!(order(&first.0), Order::Serve);
}

/// Web servers have a limit of their own: they take no place of clients beyond it, and lose their own.
#[test]
fn web_servers_have_so_many_and_no_more() {
    let rig = Rig {
        registry: registry(10, 10, 2),
    };
    let open = || {
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let connection = Arc::new(Connection::new(peer, peer, |_| true).of_web_server());
        let place = rig.registry.enter(&connection)?;
        Ok::<_, Full>((connection, place))
    };
    let client = rig.open("127.0.0.1").expect("room");
    let (first, second) = (open().expect("room"), open().expect("room"));
    second.0.begin_request();
    let third = open().expect("the first goes");
    assert_eq!(order(&client.0), Order::Serve);
    assert_eq!(order(&first.0), Order::Evict);
    third.0.begin_request();
    assert_eq!(open().err(), Some(Full::WebServers));
    assert!(rig.open("127.0.0.1").is_ok());
    drop(third);
    assert!(open().is_ok());
}

/// Opens busy connections of the addresses; only the last one may be refused, as expected.
fn check_addresses(addresses: &[&str], expected: Option<Full>) {
    let rig = Rig::new(100, 2);
    let mut opened = Vec::new();
    let (last, others) = addresses.split_last().expect("an address");
    for address in others {
        opened.push(rig.busy(address).expect("room"));
    }
    assert_eq!(rig.open(last).err(), expected, "{addresses:?}");
    drop(opened);
    assert!(rig.open(last).is_ok(), "all of {addresses:?} went");
    assert!(rig.registry.with_open(|open| open.groups.is_empty()));
}

#[test]
fn an_address_has_a_share() {
    let full = Some(Full::Address);
    check_addresses(&["192.0.2.1", "192.0.2.1", "192.0.2.1"], full);
    check_addresses(&["192.0.2.1", "192.0.2.1", "192.0.2.2"], None);
    check_addresses(&["::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"], full);
    // All of a /64 is one client.
    check_addresses(
        &["2001:db8::1", "2001:db8::2", "2001:db8::ffff:0:0:3"],
        full,
    );
    check_addresses(&["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"], None);
    // Proxies speak for many; loopback is this machine.
    check_addresses(&["127.0.0.1", "127.0.0.1", "127.0.0.1"], None);
    check_addresses(&["::1", "::1", "::1"], None);
    check_addresses(&["198.51.100.1", "198.51.100.1", "198.51.100.1"], None);
}

#[test]
fn an_address_that_has_too_many_loses_its_own() {
    let rig = Rig::new(100, 2);
    let other = rig.open("192.0.2.2").expect("room");
    let first = rig.open("192.0.2.1").expect("room");
    let second = rig.open("192.0.2.1").expect("room");
    let third = rig.open("192.0.2.1").expect("the first goes");
    assert_eq!(order(&other.0), Order::Serve);
    assert_eq!(order(&first.0), Order::Evict);
    assert_eq!(order(&second.0), Order::Serve);
    assert_eq!(order(&third.0), Order::Serve);
}

#[test]
fn a_lack_of_files_closes_idle_ones() {
    let rig = Rig::new(10_000, 10_000);
    let opened: Vec<_> = (0..100)
        .map(|_| rig.open("192.0.2.1").expect("room"))
        .collect();
    rig.registry.make_room();
    let n_evicted = |from: usize, to: usize| {
        opened[from..to]
            .iter()
            .filter(|(connection, _)| order(connection) == Order::Evict)
            .count()
    };
    assert_eq!(n_evicted(0, 100), EVICTED_MAX);
    assert_eq!(n_evicted(0, EVICTED_MAX), EVICTED_MAX, "the oldest ones");
    // No more than these are on their way out at a time,
    rig.registry.make_room();
    assert_eq!(n_evicted(0, 100), EVICTED_MAX);
    // but those that got a request before they could go are not on their way.
    for (connection, _) in &opened[..5] {
        connection.begin_request();
    }
    // The last look found none; the next one waits a moment.
    rig.registry.with_open(|open| open.next_look = None);
    rig.registry.make_room();
    assert_eq!(n_evicted(0, 100), EVICTED_MAX + 5);
    assert_eq!(rig.registry.with_open(|open| open.count_kept()), 36);
}

proptest! {
    /// Whatever comes and goes: the limits hold and the counts fit.
    #[test]
    fn the_limits_hold(steps in proptest::collection::vec((0..4_u8, 0..6_u8, any::<prop::sample::Index>()), 0..200)) {
        let rig = Rig::new(8, 3);
        let mut opened: Vec<(Arc<Connection>, Place)> = Vec::new();
        for (step, address, index) in steps {
            match (step, opened.is_empty()) {
                (0 | 1, _) | (_, true) => opened.extend(rig.open(&format!("192.0.2.{address}"))),
                (2, false) => drop(opened.swap_remove(index.index(opened.len()))),
                (_, false) => {
                    let connection = &opened[index.index(opened.len())].0;
                    if order(connection) == Order::Serve {
                        connection.begin_request();
                    }
                }
            }
            rig.registry.with_open(|open| {
                let n_evicted = open.connections.values().filter(|entry| entry.is_evicted).count();
                assert_eq!(open.n_evicted, n_evicted);
                assert_eq!(open.connections.len(), opened.len());
                assert!(open.count_kept() <= 8 && open.n_evicted <= EVICTED_MAX);
                let n_shared: usize = open.groups.values().map(|share| share.n_connections).sum();
                assert_eq!(n_shared, open.count_kept());
                assert!(open.groups.values().all(|share| (1..=3).contains(&share.n_connections)));
            });
        }
    }
}
