//! How members are reached: the best way that works, and one way where two were made.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::TestCommand;
use super::world::*;
use crate::handle::Command;
use crate::{How, Transport as _};

/// A port on which nothing listens: packets to it are answered by nobody, or by the kernel.
fn dead_udp() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, format!("/ip4/127.0.0.1/udp/{port}/quic-v1"))
}

#[tokio::test]
async fn where_udp_is_swallowed_tcp_is_taken_and_the_reason_told() {
    let (a, mut b) = (Node::node(1).await, Node::start(config(2, &[TCP])).await);
    a.net.admit(members([1, 2])).await.unwrap();
    b.net.admit(members([1, 2])).await.unwrap();
    // A firewall that swallows: the socket is there, and nobody reads it.
    let (_socket, swallowed) = dead_udp();
    let begun = Instant::now();
    a.net
        .addresses(key(2), vec![swallowed, b.addresses[0].clone()])
        .unwrap();
    assert_eq!(b.up(key(1)).await, How::Tcp);
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    a.sees("TCP, and why", |views| {
        views.iter().any(|view| {
            let why = view.why.as_deref().unwrap_or_default();
            view.how == Some(How::Tcp) && why.starts_with("quic: ")
        })
    })
    .await;
}

#[tokio::test]
async fn where_both_work_quic_is_taken() {
    let (mut a, b) = (Node::node(1).await, Node::node(2).await);
    a.net.admit(members([1, 2])).await.unwrap();
    b.net.admit(members([1, 2])).await.unwrap();
    let mut addresses = b.addresses.clone();
    addresses.sort_by_key(|address| address.contains("quic"));
    a.net.addresses(key(2), addresses).unwrap();
    assert_eq!(a.up(key(2)).await, How::Quic);
}

#[tokio::test]
async fn who_is_not_there_is_dialled_until_it_is() {
    let a = Node::node(1).await;
    a.net.admit(members([1, 2])).await.unwrap();
    let (socket, address) = dead_udp();
    drop(socket);
    a.net.addresses(key(2), vec![address.clone()]).unwrap();
    a.sees("why it is not reached", |views| {
        views
            .iter()
            .any(|view| view.how.is_none() && view.why.is_some())
    })
    .await;
    let mut b = Node::start(config(2, &[&address])).await;
    b.net.admit(members([1, 2])).await.unwrap();
    b.up(key(1)).await;
}

#[tokio::test]
async fn of_two_connections_one_is_left() {
    let (a, b) = pair().await;
    let again = |address: &str, peer| TestCommand::Again {
        peer: key(peer),
        address: address.to_owned(),
    };
    a.net
        .send(Command::Test(again(&b.addresses[1], 2)))
        .await
        .unwrap();
    b.net
        .send(Command::Test(again(&a.addresses[0], 1)))
        .await
        .unwrap();
    let count = |views: &[crate::PeerView]| views.first().map_or(0, |view| view.connections);
    a.sees("three connections", |views| count(views) == 3).await;
    a.sees("one connection", |views| count(views) == 1).await;
    b.sees("one connection", |views| count(views) == 1).await;
    // The best one, and hints still flow both ways.
    assert_eq!(a.net.peers()[0].how, Some(How::Quic));
    assert!(a.net.peers()[0].hints && b.net.peers()[0].hints);
}

#[tokio::test]
async fn the_round_trip_is_told() {
    let (a, _b) = pair().await;
    a.sees("a round trip", |views| {
        views
            .iter()
            .any(|view| view.rtt_us.is_some_and(|rtt| rtt > 0))
    })
    .await;
}

#[tokio::test]
async fn a_dial_names_what_went_wrong() {
    let (a, b) = (Node::caller(1).await, Node::node(2).await);
    let wrong = format!(
        "{}/p2p/{}",
        b.addresses[1],
        crate::identity::peer_id(&key(3))
    );
    for (address, expected) in [
        ("nonsense", "not an address"),
        ("/ip4/127.0.0.1/tcp/1", "refused"),
        (wrong.as_str(), "another key"),
    ] {
        let error = a.net.dial(address).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{address}: {error}");
    }
    assert_eq!(a.net.dial(&b.addresses[1]).await.unwrap(), key(2));
}
