//! A node that nobody can reach is reached through a member that relays; and what such a member does for
//! others ends at its limits, whoever asks by libp2p's own protocol.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, ping, relay, tcp, yamux};
use tokio::task::JoinSet;

use super::world::*;
use crate::{Config, Event, How, Nat, Protocol, Rate, RelayLimits, Transport as _};

/// A node that others may use as a relay, with one to a hundred and fifty as members.
async fn relaying(change: impl FnOnce(&mut RelayLimits)) -> Node {
    let port = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    };
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let mut settings = Config {
        relay: true,
        nat: Nat::Open,
        announce: vec![address.clone()],
        ..config(1, &[&address])
    };
    change(&mut settings.limits.relay);
    let relay = Node::start(settings).await;
    relay.net.admit(members(1..=150)).await.unwrap();
    relay
}

/// A peer of libp2p's own make, which asks for what it likes: no code of a node is in it.
#[derive(NetworkBehaviour)]
struct Plain {
    circuits: relay::client::Behaviour,
    ping: ping::Behaviour,
}

/// It pings whom it is connected with that often, so that circuits have something to carry.
const PINGS: Duration = Duration::from_millis(2);

fn plain(number: u64) -> Swarm<Plain> {
    let keys = Keypair::ed25519_from_bytes(seed(number)).unwrap();
    let tcp = tcp::Config::default().nodelay(true);
    let builder = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp, noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap();
    let ping = ping::Behaviour::new(ping::Config::new().with_interval(PINGS));
    builder
        .with_behaviour(|_, circuits| Plain { circuits, ping })
        .unwrap()
        // What ends a circuit here is the relay.
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE * 2))
        .build()
}

fn id(number: u64) -> PeerId {
    crate::identity::peer_id(&key(number))
}

/// Where others reach `number` through the relay.
fn through(relay: &Node, number: u64) -> Multiaddr {
    place_at(relay).with(Part::P2p(id(number)))
}

fn place_at(relay: &Node) -> Multiaddr {
    let address: Multiaddr = relay.at(0).parse().unwrap();
    address.with(Part::P2pCircuit)
}

/// A place at a relay, for as long as this lives.
struct Place {
    told: String,
    // Ends with the place.
    _peer: JoinSet<()>,
}

/// A peer asks the relay for a place under which others reach it; or why it has none.
async fn reserve(number: u64, relay: &Node) -> Result<Place, String> {
    let mut peer = plain(number);
    peer.listen_on(place_at(relay)).unwrap();
    let answered = async {
        loop {
            match peer.select_next_some().await {
                SwarmEvent::Behaviour(PlainEvent::Circuits(
                    relay::client::Event::ReservationReqAccepted { limit, .. },
                )) => return Ok(format!("{limit:?}")),
                SwarmEvent::ListenerClosed { reason, .. } => return Err(format!("{reason:?}")),
                _ => {}
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("an answer")?;
    let mut going = JoinSet::new();
    going.spawn(async move {
        loop {
            let _ = peer.select_next_some().await;
        }
    });
    Ok(Place { told, _peer: going })
}

/// Calls `to` through the relay; or why not.
async fn call(peer: &mut Swarm<Plain>, relay: &Node, to: u64) -> Result<(), String> {
    peer.dial(through(relay, to)).unwrap();
    let answered = async {
        loop {
            match peer.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == id(to) => {
                    return Ok(());
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => {
                    return Err(format!("{error:?}"));
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("an answer")
}

/// Keeps a call to `to` busy until it ends; how many pings came back on it, and how long that took.
async fn until_over(peer: &mut Swarm<Plain>, to: u64) -> (u32, Duration) {
    let began = Instant::now();
    let mut pings = 0;
    let over = async {
        loop {
            match peer.select_next_some().await {
                SwarmEvent::Behaviour(PlainEvent::Ping(event)) if event.peer == id(to) => {
                    pings += u32::from(event.result.is_ok());
                }
                SwarmEvent::ConnectionClosed { peer_id, .. } if peer_id == id(to) => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, over)
        .await
        .expect("the relay ends it");
    (pings, began.elapsed())
}

fn is_full(refused: &Result<(), String>) -> bool {
    refused
        .as_ref()
        .is_err_and(|why| why.contains("ResourceLimitExceeded"))
}

#[tokio::test]
async fn a_node_behind_a_nat_is_reached_through_a_member() {
    let relay = relaying(|_| {}).await;
    let mut hidden = Node::start(Config {
        nat: Nat::Behind,
        ..config(2, &[])
    })
    .await;
    let mut other = Node::node(3).await;
    for node in [&hidden, &other] {
        node.net.admit(members([1, 2, 3])).await.unwrap();
    }
    hidden.knows(&relay);
    let circuit = hidden
        .wait("reservation", |event| match event {
            Event::Listening { address } if address.contains("p2p-circuit") => Some(address),
            _ => None,
        })
        .await;
    // Nobody tells `other` where the hidden node listens: only the circuit.
    other.net.addresses(key(2), vec![circuit]).unwrap();
    let how = other.up(key(2)).await;
    assert_eq!(how, How::Relay { via: Some(key(1)) });
    assert!(matches!(hidden.up(key(3)).await, How::Relay { .. }));

    let net = other.net.clone();
    let opening = tokio::spawn(async move { net.open(key(2), Protocol::Tunnel).await.map(|_| ()) });
    let incoming = hidden.wait("stream", |event| match event {
        Event::Stream { from, incoming, .. } if from == key(3) => Some(incoming),
        _ => None,
    });
    incoming.await.accept().await.unwrap();
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_relay_has_places_for_members_alone_and_for_as_many_as_its_limit_says() {
    let relay = relaying(|limits| {
        limits.reservations_max = 2;
        limits.circuit_time_max = Duration::from_secs(77);
        limits.circuit_bytes_max = 88_888;
    })
    .await;
    // Nobody's key: it may connect, to ask to join, and gets no place.
    let why = reserve(900, &relay).await.err().expect("a stranger");
    assert!(why.contains("Unsupported"), "{why}");
    let first = reserve(2, &relay).await.expect("a member");
    for said in ["77s", "88888"] {
        assert!(first.told.contains(said), "{}", first.told);
    }
    let _second = reserve(3, &relay).await.expect("a member");
    let full = reserve(4, &relay).await.map(|_| ());
    assert!(is_full(&full), "{full:?}");
    // Nor does anybody reach through it who is a stranger to it.
    let mut stranger = plain(901);
    let why = call(&mut stranger, &relay, 2).await.unwrap_err();
    assert!(why.contains("Unsupported"), "{why}");
    // Whose connection ends gives the place back; and a stranger was never counted.
    drop(first);
    let began = Instant::now();
    while let Err(why) = reserve(4, &relay).await {
        assert!(began.elapsed() < PATIENCE, "{why}");
    }
    // Whose membership ends loses it with the connection, and others reach nobody there.
    relay.net.admit(members([1, 4, 5])).await.unwrap();
    let began = Instant::now();
    loop {
        let why = call(&mut plain(5), &relay, 3).await.unwrap_err();
        if why.contains("NoReservation") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{why}");
    }
}

#[tokio::test]
async fn circuits_are_counted_for_each_member_and_all_together() {
    let relay = relaying(|limits| {
        limits.circuits_per_member_max = 2;
        limits.circuits_max = 3;
    })
    .await;
    let mut places = Vec::new();
    for number in 10..14 {
        places.push(reserve(number, &relay).await.expect("a member"));
    }
    let mut greedy = plain(2);
    for to in [10, 11] {
        call(&mut greedy, &relay, to).await.unwrap();
    }
    let third = call(&mut greedy, &relay, 12).await;
    assert!(is_full(&third), "{third:?}");
    // The others have theirs, until all are taken.
    let (mut modest, mut late) = (plain(3), plain(4));
    call(&mut modest, &relay, 12).await.unwrap();
    let fourth = call(&mut late, &relay, 13).await;
    assert!(is_full(&fourth), "{fourth:?}");
    // One that ends makes room.
    drop(modest);
    let began = Instant::now();
    while let Err(why) = call(&mut late, &relay, 13).await {
        assert!(began.elapsed() < PATIENCE, "{why}");
    }
}

#[tokio::test]
async fn a_circuit_ends_with_its_bytes() {
    let relay = relaying(|limits| limits.circuit_bytes_max = 32 * 1024).await;
    let _place = reserve(2, &relay).await.expect("a member");
    let mut caller = plain(3);
    call(&mut caller, &relay, 2).await.unwrap();
    // A ping is 64 bytes both ways, encrypted and in frames some 150; each side sends them.
    let (pings, _) = until_over(&mut caller, 2).await;
    assert!((1..400).contains(&pings), "{pings} pings");
    // It is made anew.
    call(&mut caller, &relay, 2).await.unwrap();
}

#[tokio::test]
async fn a_circuit_ends_with_its_time() {
    const TIME: Duration = Duration::from_secs(3);
    let relay = relaying(|limits| limits.circuit_time_max = TIME).await;
    let _place = reserve(2, &relay).await.expect("a member");
    let mut caller = plain(3);
    call(&mut caller, &relay, 2).await.unwrap();
    let (pings, lived) = until_over(&mut caller, 2).await;
    assert!(pings > 0 && lived < TIME * 5, "{pings} pings, {lived:?}");
    call(&mut caller, &relay, 2).await.unwrap();
}

/// Who asks all the time is put off, and so are many keys of one address.
#[tokio::test]
async fn what_is_asked_of_a_relay_is_taken_at_a_rate() {
    let slow = Rate {
        per_second: 1,
        burst: 1,
    };
    // More than what is saved up, and far less than a slow machine waits for.
    const TRIES: u64 = 12;
    let relay = relaying(|limits| limits.asked_per_member_rate = slow).await;
    let _place = reserve(10, &relay).await.expect("a member");
    let mut put_off = 0;
    for _ in 0..TRIES {
        let mut caller = plain(2);
        put_off += u32::from(is_full(&call(&mut caller, &relay, 10).await));
    }
    assert!(put_off > 0, "one member, as often as it likes");
    let relay = relaying(|limits| limits.asked_per_source_rate = slow).await;
    let mut put_off = 0;
    for number in 2..2 + TRIES {
        let place = reserve(number, &relay).await.map(|_| ());
        put_off += u32::from(is_full(&place));
    }
    assert!(put_off > 0, "one address, as often as it likes");
}

/// A hundred machines behind one router all get a place when they wake up.
#[tokio::test]
async fn a_rack_behind_one_address_has_places_at_once() {
    let relay = relaying(|_| {}).await;
    let mut places = Vec::new();
    for number in 2..102 {
        let place = reserve(number, &relay).await;
        places.push(place.unwrap_or_else(|why| panic!("the {number}th: {why}")));
    }
}
