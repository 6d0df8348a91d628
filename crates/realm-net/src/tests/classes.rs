//! What each class of peers may reach, and what happens when a key changes its class.

use std::time::{Duration, Instant};

use libp2p::StreamProtocol;
use tokio::sync::oneshot;

use super::TestCommand;
use super::world::*;
use crate::handle::Command;
use crate::{Admission, Class, DownReason, Error, Event, Protocol, Topic, Transport as _};

/// Every protocol that a member speaks, by its name on the wire.
const INNER: &[&str] = &[
    "/realm/test/sync/1",
    "/realm/test/blob/1",
    "/realm/test/api/1",
    "/realm/test/via/1",
    "/realm/test/tunnel/1",
    "/realm/test/lend/1",
    "/realm/test/hint/1",
    "/realm/test/kad/1",
    "/ipfs/id/1.0.0",
    "/ipfs/id/push/1.0.0",
    "/libp2p/autonat/1.0.0",
    "/libp2p/circuit/relay/0.2.0/hop",
    "/libp2p/circuit/relay/0.2.0/stop",
    "/libp2p/dcutr",
    "/ipfs/ping/1.0.0",
];

/// The names in `INNER` that `from` may open at `to`.
async fn opened(from: &Node, to: u64) -> Vec<&'static str> {
    let mut opened = Vec::new();
    for name in INNER {
        let (reply, answer) = oneshot::channel();
        let raw = TestCommand::Raw {
            peer: key(to),
            name: StreamProtocol::new(name),
            reply,
        };
        from.net.send(Command::Test(raw)).await.unwrap();
        match answer.await.unwrap() {
            Ok(_) => opened.push(*name),
            Err(error) => assert!(matches!(error, Error::Unsupported), "{name}: {error}"),
        }
    }
    opened
}

#[tokio::test]
async fn case_12_a_stranger_reaches_the_join_protocol_alone() {
    let mut a = Node::start(crate::Config {
        relay: true,
        ..config(1, &[QUIC, TCP])
    })
    .await;
    a.net.admit(members([1, 2])).await.unwrap();
    // A whole node, which takes the other for a member, so that it tries everything by itself.
    let mut stranger = Node::node(9).await;
    stranger.net.admit(members([1, 9])).await.unwrap();
    for index in 0..2 {
        stranger.net.disconnect(key(1)).unwrap();
        assert_eq!(stranger.net.dial(&a.at(index)).await.unwrap(), key(1));
        assert_eq!(opened(&stranger, 1).await, Vec::<&str>::new());
    }
    let refused = stranger.net.request(key(1), b"heads".to_vec()).await;
    assert!(matches!(refused, Err(Error::Unsupported)), "{refused:?}");
    stranger
        .net
        .publish(Topic::Heads, b"hear me".to_vec())
        .unwrap();
    a.net
        .publish(Topic::Heads, b"for members".to_vec())
        .unwrap();

    let net = stranger.net.clone();
    let joining = tokio::spawn(async move { net.open(key(1), Protocol::Join).await.map(|_| ()) });
    let class = loop {
        match a.events.recv().await.unwrap() {
            Event::Stream {
                from,
                class,
                address,
                protocol: Protocol::Join,
                incoming,
            } if from == key(9) => {
                // Known with the stream: a stranger asks at once.
                assert!(address.starts_with("/ip4/127.0.0.1/"), "{address}");
                incoming.accept().await.unwrap();
                break class;
            }
            Event::Listening { .. } | Event::Expired { .. } => {}
            other => panic!("a stranger caused {other:?}"),
        }
    };
    assert_eq!(class, Class::Stranger);
    joining.await.unwrap().unwrap();
    while let Ok(event) = stranger.events.try_recv() {
        assert!(
            !matches!(event, Event::Hint(_) | Event::Request { .. }),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn a_client_reaches_the_api_alone() {
    let mut a = Node::node(1).await;
    let clients = [key(5)].into();
    a.net
        .admit(Admission {
            clients,
            ..members([1])
        })
        .await
        .unwrap();
    let client = Node::caller(5).await;
    client.net.dial(&a.at(1)).await.unwrap();
    assert_eq!(
        opened(&client, 1).await,
        ["/realm/test/api/1", "/realm/test/via/1", "/ipfs/ping/1.0.0"]
    );
    a.up(key(5)).await;
}

#[tokio::test]
async fn a_member_reaches_everything() {
    let (_a, b) = pair().await;
    let all = opened(&b, 1).await;
    for name in INNER.iter().filter(|name| !name.contains("hop")) {
        // Hole punching is spoken over relayed connections alone.
        assert!(
            all.contains(name) || *name == "/libp2p/dcutr",
            "{name} is shut: {all:?}"
        );
    }
    assert!(
        !all.contains(&"/libp2p/circuit/relay/0.2.0/hop"),
        "it does not relay"
    );
}

#[tokio::test]
async fn case_14_a_revoked_member_is_cut_off_within_a_second() {
    let (a, mut b) = pair().await;
    let begun = Instant::now();
    a.net.admit(members([1])).await.unwrap();
    b.down(key(1)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    // It may knock, and reaches nothing.
    b.net.dial(&a.at(0)).await.unwrap();
    assert_eq!(opened(&b, 1).await, Vec::<&str>::new());
}

#[tokio::test]
async fn an_approved_stranger_is_a_member_at_once() {
    let (mut a, mut b) = (Node::node(1).await, Node::node(2).await);
    a.net.admit(members([1])).await.unwrap();
    b.net.dial(&a.at(0)).await.unwrap();
    // Nobody tells an address again: b dialled a, and that is enough.
    b.net.admit(members([1, 2])).await.unwrap();
    a.net.admit(members([1, 2])).await.unwrap();
    a.up(key(2)).await;
    b.up(key(1)).await;
    a.hears(key(2)).await;
    b.hears(key(1)).await;
}

#[tokio::test]
async fn a_change_of_class_is_told() {
    let (mut a, _b) = pair().await;
    let clients = [key(2)].into();
    a.net
        .admit(Admission {
            clients,
            ..members([1])
        })
        .await
        .unwrap();
    assert_eq!(a.down(key(2)).await, DownReason::ClassChanged);
}
