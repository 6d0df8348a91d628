//! The network comes back: after a panic of its own, and after a peer was killed.

use super::TestCommand;
use super::world::*;
use crate::handle::Command;
use crate::{DownReason, Event, Topic, Transport as _};

#[tokio::test]
async fn after_a_panic_the_network_is_back_with_members_addresses_and_ports() {
    let (mut a, mut b) = pair().await;
    a.net.send(Command::Test(TestCommand::Panic)).await.unwrap();
    let mut listening = Vec::new();
    let cause = a
        .wait("`Restarted`", |event| match event {
            Event::Restarted { cause } => Some(cause),
            _ => None,
        })
        .await;
    assert_eq!(cause, "planted");
    while listening.len() < a.addresses.len() {
        let address = a.wait("`Listening`", |event| match event {
            Event::Listening { address } => Some(address),
            _ => None,
        });
        listening.push(address.await);
    }
    listening.sort();
    a.addresses.sort();
    assert_eq!(listening, a.addresses);

    // The same handle works, and nobody told the new swarm who is a member.
    b.down(key(1)).await;
    a.hears(key(2)).await;
    b.hears(key(1)).await;
    a.net.publish(Topic::Records, b"again".to_vec()).unwrap();
    let hint = b.wait("hint", |event| {
        if let Event::Hint(hint) = event {
            Some(hint)
        } else {
            None
        }
    });
    assert_eq!(hint.await.bytes, b"again");
    assert_eq!(a.net.figures().restarts, 1);
}

#[tokio::test]
async fn a_panic_is_told_as_the_end_of_each_connection() {
    let (mut a, _b) = pair().await;
    a.net.send(Command::Test(TestCommand::Panic)).await.unwrap();
    assert_eq!(a.down(key(2)).await, DownReason::Restarted);
}

/// libp2p runs each connection in a task; when one panics, the swarm would wait for it for ever.
#[tokio::test]
async fn a_panic_in_a_connection_restarts_the_network_as_well() {
    let (mut a, mut b) = pair().await;
    let (reply, _) = tokio::sync::oneshot::channel();
    let raw = TestCommand::Raw {
        peer: key(2),
        name: super::PANIC,
        reply,
    };
    a.net.send(Command::Test(raw)).await.unwrap();
    assert_eq!(a.down(key(2)).await, DownReason::Restarted);
    b.down(key(1)).await;
    a.hears(key(2)).await;
    b.hears(key(1)).await;
}

#[tokio::test]
async fn a_stopped_network_says_good_bye_and_gives_its_ports_back() {
    let (a, mut b) = pair().await;
    let begun = std::time::Instant::now();
    a.net.stop().await;
    b.down(key(1)).await;
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(matches!(
        a.net.request(key(2), vec![1]).await,
        Err(crate::Error::Stopped)
    ));
    let ports: Vec<&str> = a.addresses.iter().map(String::as_str).collect();
    let again = Node::start(config(1, &ports)).await;
    assert_eq!(again.addresses.len(), 2);
}

#[tokio::test]
async fn a_node_that_joins_a_realm_speaks_its_protocols() {
    let a = Node::node(1).await;
    a.net.admit(members([1, 2])).await.unwrap();
    let mut b = Node::start(crate::Config {
        realm: None,
        ..config(2, &[QUIC, TCP])
    })
    .await;
    b.net.admit(members([1, 2])).await.unwrap();
    assert!(
        b.net
            .set_realm(Some("not a / realm".to_owned()))
            .await
            .is_err()
    );
    b.net.set_realm(Some("test".to_owned())).await.unwrap();
    b.knows(&a);
    b.up(key(1)).await;
    a.hears(key(2)).await;
    b.hears(key(1)).await;
}
