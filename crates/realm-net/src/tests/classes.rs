//! What each class of peers may reach.

use super::world::*;
use crate::{Class, Error, Event, Protocol, Transport as _};

#[tokio::test]
async fn a_stranger_reaches_the_join_protocol_alone() {
    let mut a = Node::node(1).await;
    a.net.admit(members([1])).await.unwrap();
    let stranger = Node::caller(9).await;
    assert_eq!(stranger.net.dial(&a.at(0)).await.unwrap(), key(1));
    for protocol in [
        Protocol::Blob,
        Protocol::Api,
        Protocol::Via,
        Protocol::Tunnel,
    ] {
        let refused = stranger.net.open(key(1), protocol).await;
        assert!(
            matches!(refused, Err(Error::Unsupported)),
            "{protocol:?}: {refused:?}"
        );
    }
    let joining =
        tokio::spawn(async move { stranger.net.open(key(1), Protocol::Join).await.map(|_| ()) });
    let (class, incoming) = a
        .wait("stream", |event| match event {
            Event::Stream {
                from,
                class,
                protocol: Protocol::Join,
                incoming,
            } if from == key(9) => Some((class, incoming)),
            _ => None,
        })
        .await;
    assert_eq!(class, Class::Stranger);
    incoming.accept().await.unwrap();
    joining.await.unwrap().unwrap();
}
