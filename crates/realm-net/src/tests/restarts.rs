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
