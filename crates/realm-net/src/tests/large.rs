//! More nodes than a full mesh takes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::*;
use crate::mesh::mesh;
use crate::{DownReason, Event, Protocol, Topic, Transport as _, Verdict};

/// 30 nodes, of which each knows all addresses: each keeps some connections, and hears all hints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_large_realm_all_hear_though_none_is_connected_to_all() {
    const NODES: u64 = 30;
    let mut nodes = Vec::new();
    for number in 1..=NODES {
        let mut settings = config(number, &[QUIC]);
        settings.limits.neighbours = 8;
        nodes.push(Node::start(settings).await);
    }
    for node in &nodes {
        node.net.admit(members(1..=NODES)).await.unwrap();
        for other in nodes.iter().filter(|other| other.net.me() != node.net.me()) {
            node.knows(other);
        }
    }
    for node in &nodes {
        node.sees("eight neighbours", |views| {
            views
                .iter()
                .filter(|view| view.how.is_some() && view.hints)
                .count()
                >= 8
        })
        .await;
    }
    let most = nodes.iter().map(|node| {
        node.net
            .peers()
            .iter()
            .filter(|view| view.how.is_some())
            .count()
    });
    let most = most.max().unwrap();
    assert!(most < 24, "{most} connections");

    nodes[0].net.publish(Topic::Heads, b"all".to_vec()).unwrap();
    let hearing: Vec<_> = nodes
        .drain(1..)
        .map(|mut node| {
            tokio::spawn(async move {
                let net = node.net.clone();
                node.wait("hint", |event| match event {
                    Event::Hint(hint) => {
                        net.verdict(hint.id(), Verdict::Accept);
                        Some(())
                    }
                    _ => None,
                })
                .await;
                node
            })
        })
        .collect();
    for node in hearing {
        node.await.unwrap();
    }
}

/// Whom a node asked once, outside of its mesh, it leaves soon after the answer, however late that comes;
/// where a stream was opened the next one goes without a handshake.
#[tokio::test]
async fn a_connection_made_for_a_question_ends_soon_after_the_answer() {
    const NODES: u64 = 12;
    const LATE: Duration = Duration::from_secs(16);
    let settings = |number| {
        let mut settings = config(number, &[QUIC]);
        (settings.limits.full_mesh_max, settings.limits.neighbours) = (1, 2);
        settings
    };
    let mut asking = Node::start(settings(1)).await;
    let everybody = members(1..=NODES);
    let order = mesh(&key(1), &everybody.members, &settings(1).limits).order;
    asking.net.admit(everybody.clone()).await.unwrap();
    let number = |place: usize| (1..=NODES).find(|number| key(*number) == order[place]);
    let mut others = Vec::new();
    for place in [0, 1, 8, 9, 10] {
        let other = Node::start(settings(number(place).unwrap())).await;
        other.net.admit(everybody.clone()).await.unwrap();
        asking.knows(&other);
        if place < 2 {
            asking.up(order[place]).await;
        }
        others.push(other);
    }
    let [_core, _rest, soon, late, stream] = others.try_into().ok().unwrap();
    let (soon_key, late_key, stream_key) = (soon.net.me(), late.net.me(), stream.net.me());
    for (other, after) in [(soon, Duration::ZERO), (late, LATE), (stream, LATE)] {
        tokio::spawn(async move {
            let mut node = other;
            while let Some(event) = node.events.recv().await {
                match event {
                    Event::Request { reply, .. } => {
                        tokio::time::sleep(after).await;
                        reply.send(b"here".to_vec());
                    }
                    Event::Stream { incoming, .. } => drop(incoming.accept().await),
                    _ => {}
                }
            }
        });
    }
    drop(asking.net.open(stream_key, Protocol::Api).await.unwrap());
    let net = asking.net.clone();
    let waiting = tokio::spawn(async move { net.request(late_key, b"slowly".to_vec()).await });
    let answer = asking.net.request(soon_key, b"who are you?".to_vec()).await;
    assert_eq!(answer.unwrap(), b"here");
    assert_eq!(asking.down(soon_key).await, DownReason::Closed);
    assert_eq!(waiting.await.unwrap().unwrap(), b"here");
    assert_eq!(asking.down(late_key).await, DownReason::Closed);
    let left = [order[0], order[1], stream_key];
    asking
        .sees("the mesh and the one with a stream", |views| {
            let up = views.iter().filter(|view| view.how.is_some());
            let up: BTreeSet<_> = up.map(|view| view.peer).collect();
            up == left.into()
        })
        .await;
}

/// A node that knows one other finds the rest by look-ups.
#[tokio::test]
async fn addresses_are_looked_up() {
    let (a, b, mut c) = (
        Node::node(1).await,
        Node::node(2).await,
        Node::node(3).await,
    );
    for node in [&a, &b, &c] {
        node.net.admit(members([1, 2, 3])).await.unwrap();
    }
    a.knows(&b);
    a.hears(key(2)).await;
    // c knows b alone, and a does not know c.
    c.knows(&b);
    c.up(key(1)).await;
}
