//! A node that nobody can reach is reached through a member that relays.

use super::world::*;
use crate::{Config, Event, How, Nat, Protocol, Transport as _};

#[tokio::test]
async fn a_node_behind_a_nat_is_reached_through_a_member() {
    let port = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    };
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let relay = Node::start(Config {
        relay: true,
        nat: Nat::Open,
        announce: vec![address.clone()],
        ..config(1, &[&address])
    })
    .await;
    let mut hidden = Node::start(Config {
        nat: Nat::Behind,
        ..config(2, &[])
    })
    .await;
    let mut other = Node::node(3).await;
    for node in [&relay, &hidden, &other] {
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
