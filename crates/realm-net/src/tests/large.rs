//! More nodes than a full mesh takes.

use super::world::*;
use crate::{Event, Topic, Transport as _, Verdict};

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
