//! Members reach each other: hints, requests, streams; over QUIC, and over TCP where QUIC is blocked.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::*;
use crate::{Error, Event, How, Protocol, Refusal, Topic, Transport as _, Verdict};

#[tokio::test]
async fn two_members_meet_over_quic_and_talk() {
    let (a, mut b) = pair().await;
    let views = a.net.peers();
    let view = views.iter().find(|view| view.peer == key(2)).unwrap();
    assert_eq!(view.how, Some(How::Quic));

    a.net.publish(Topic::Heads, b"head".to_vec()).unwrap();
    let hint = b
        .wait("hint", |event| {
            if let Event::Hint(hint) = event {
                Some(hint)
            } else {
                None
            }
        })
        .await;
    assert_eq!((hint.via, hint.topic), (key(1), Topic::Heads));
    assert_eq!(hint.bytes, b"head");
    b.net.verdict(hint.id(), Verdict::Accept);

    let answering = tokio::spawn(async move {
        b.wait("request", |event| match event {
            Event::Request { from, bytes, reply } if from == key(1) => {
                reply.send([b"to ".as_slice(), &bytes].concat());
                Some(())
            }
            _ => None,
        })
        .await;
        b
    });
    assert_eq!(
        a.net.request(key(2), b"you".to_vec()).await.unwrap(),
        b"to you"
    );
    let mut b = answering.await.unwrap();

    let echo = tokio::spawn(async move {
        let incoming = b
            .wait("stream", |event| match event {
                Event::Stream {
                    protocol: Protocol::Tunnel,
                    incoming,
                    ..
                } => Some(incoming),
                _ => None,
            })
            .await;
        let mut stream = incoming.accept().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream
            .write_all(text.to_uppercase().as_bytes())
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        b
    });
    let mut stream = a.net.open(key(2), Protocol::Tunnel).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "HELLO");

    let mut b = echo.await.unwrap();
    let refusing = tokio::spawn(async move {
        b.wait("stream", |event| match event {
            Event::Stream { incoming, .. } => {
                incoming.refuse(Refusal::Declined);
                Some(())
            }
            _ => None,
        })
        .await;
        b
    });
    let refused = a.net.open(key(2), Protocol::Blob).await;
    assert!(
        matches!(refused, Err(Error::Refused(Refusal::Declined))),
        "{refused:?}"
    );
    drop(refusing.await);
}

#[tokio::test]
async fn bytes_of_a_stream_come_and_go_while_the_agent_is_busy() {
    let (a, mut b) = (Node::node(1).await, Node::node(2).await);
    for node in [&a, &b] {
        node.net.admit(members([1, 2])).await.unwrap();
    }
    a.knows(&b);
    let taking = tokio::spawn(async move {
        let incoming = b
            .wait("stream", |event| match event {
                Event::Stream { incoming, .. } => Some(incoming),
                _ => None,
            })
            .await;
        (incoming.accept().await.unwrap(), b)
    });
    let mut near = a.net.open(key(2), Protocol::Tunnel).await.unwrap();
    let (mut far, b) = taking.await.unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    b.net.sockets().spawn(async move {
        let byte = far.read_u8().await?;
        far.write_u8(byte + 1).await?;
        far.shutdown().await
    });
    a.net.sockets().spawn(async move {
        near.write_u8(1).await.unwrap();
        done.send(near.read_u8().await.unwrap()).unwrap();
    });
    // The only thread of the runtime that both were started on does nothing else meanwhile.
    assert_eq!(is_done.recv_timeout(PATIENCE), Ok(2));
}
