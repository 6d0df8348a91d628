//! Peers that want to do harm: many keys, garbage, floods, and readers that do not read.

use futures_util::AsyncWriteExt as _;
use libp2p::StreamProtocol;
use tokio::sync::oneshot;

use super::TestCommand;
use super::world::*;
use crate::config::Rate;
use crate::handle::Command;
use crate::{Error, Event, Protocol, Refusal, Topic, Transport as _};

/// The limits of joining hold for any number of keys; fewer of them than in the test below, since
/// each costs this machine a handshake on both sides.
#[tokio::test]
async fn case_13_join_requests_from_fresh_keys_are_capped() {
    let mut settings = config(1, &[QUIC]);
    settings.limits.strangers_max = 20;
    settings.limits.strangers_per_source_max = 12;
    settings.limits.handshakes_per_source_rate = Rate {
        per_second: 1_000,
        burst: 1_000,
    };
    let mut a = Node::start(settings).await;
    let mut b = Node::node(2).await;
    a.net.admit(members([1, 2])).await.unwrap();
    let mut knocking = Vec::new();
    for number in 100..160 {
        let stranger = Node::caller(number).await;
        let _ = stranger.net.dial(&a.at(0)).await;
        knocking.push(stranger);
    }
    let strangers = a
        .net
        .watch()
        .wait_for(|views| views.len() > 12)
        .await
        .unwrap()
        .len()
        - 1;
    assert_eq!(strangers, 12, "from one address");
    assert!(a.net.figures().connections_denied >= 40);
    // A member comes in all the same.
    b.net.admit(members([1, 2])).await.unwrap();
    b.knows(&a);
    b.up(key(1)).await;
    a.up(key(2)).await;
}

/// Ten thousand join streams by ever new keys: what is open at once stays within its limits, and a
/// refusal is told as one.
#[test]
fn case_13_ten_thousand_join_streams_are_capped() {
    use crate::Class;
    use crate::slots::Slots;
    let limits = crate::Limits::default();
    let mut slots = Slots::new(&limits);
    let mut open = Vec::new();
    for number in 0..10_000 {
        for _ in 0..3 {
            open.extend(slots.stream(key(number), Class::Stranger, Protocol::Join, number));
        }
    }
    assert_eq!(open.len(), limits.join_streams_max);
    assert!(slots.remembered() <= 2_048, "{}", slots.remembered());
    // Members have places of their own.
    assert!(
        slots
            .stream(key(1), Class::Member, Protocol::Tunnel, 10_000)
            .is_some()
    );
    open.clear();
    assert!(
        slots
            .stream(key(20_000), Class::Stranger, Protocol::Join, 10_000)
            .is_some()
    );
}

/// Silent connections of one address take its own places and no others.
#[tokio::test]
async fn who_connects_and_says_nothing_keeps_nobody_out() {
    let mut settings = config(1, &[TCP]);
    settings.limits.pending_incoming_max = 16;
    settings.limits.pending_per_source_max = 4;
    let mut a = Node::start(settings).await;
    let mut b = Node::start(config(2, &[TCP])).await;
    a.net.admit(members([1, 2])).await.unwrap();
    let port = a.at(0).split('/').nth(4).unwrap().parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..40 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        silent.push(socket.connect(to).await.unwrap());
    }
    b.net.admit(members([1, 2])).await.unwrap();
    b.knows(&a);
    b.up(key(1)).await;
    a.up(key(2)).await;
    // The swarm takes connections in turn, so it has seen all that came before the member.
    let figures = a.net.figures();
    assert!(figures.connections_denied >= 36, "{figures:?}");
    drop(silent);
}

#[tokio::test]
async fn a_stranger_that_holds_streams_hears_busy() {
    let mut a = Node::node(1).await;
    a.net.admit(members([1])).await.unwrap();
    let stranger = Node::caller(9).await;
    stranger.net.dial(&a.at(0)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let net = stranger.net.clone();
        let open = tokio::spawn(async move { net.open(key(1), Protocol::Join).await });
        let incoming = a.wait("stream", |event| match event {
            Event::Stream { incoming, .. } => Some(incoming),
            _ => None,
        });
        held.push((
            incoming.await.accept().await.unwrap(),
            open.await.unwrap().unwrap(),
        ));
    }
    let refused = stranger.net.open(key(1), Protocol::Join).await;
    assert!(
        matches!(refused, Err(Error::Refused(Refusal::Busy))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn garbage_on_each_protocol_harms_nobody() {
    let (mut a, b) = pair().await;
    let names = [
        "/realm/test/sync/1",
        "/realm/test/blob/1",
        "/realm/test/hint/1",
        "/realm/test/kad/1",
        "/ipfs/id/push/1.0.0",
        "/libp2p/autonat/1.0.0",
        "/libp2p/circuit/relay/0.2.0/stop",
        "/ipfs/ping/1.0.0",
    ];
    let frames: [Vec<u8>; 5] = [
        vec![0xff; 100_000],
        vec![0; 100_000],
        // A length of 2^63, and one of 64 KiB with nothing behind it.
        [vec![0xff; 8], vec![0x7f]].concat(),
        vec![0x80, 0x80, 0x04],
        // Gossip: PRUNE with the longest back-off that there is (CVE-2026-34219).
        vec![
            0x10, 0x1a, 0x0e, 0x22, 0x0c, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0x01, 0, 0,
        ],
    ];
    for name in names {
        for frame in &frames {
            let (reply, answer) = oneshot::channel();
            let raw = TestCommand::Raw {
                peer: key(1),
                name: StreamProtocol::new(name),
                reply,
            };
            b.net.send(Command::Test(raw)).await.unwrap();
            let mut stream = match answer.await.unwrap() {
                Ok(opened) => opened.io,
                // Gossip takes five streams of a connection, and is deaf to it after that.
                Err(Error::Unsupported) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            let _ = stream.write_all(frame).await;
            let _ = stream.close().await;
        }
    }
    // It lives, and talks to the same peer.
    assert_eq!(a.net.figures().restarts, 0);
    b.hears(key(1)).await;
    let net = b.net.clone();
    let asking = tokio::spawn(async move { net.request(key(1), b"still there?".to_vec()).await });
    a.wait("request", |event| match event {
        Event::Request { bytes, reply, .. } if bytes == b"still there?" => {
            reply.send(b"yes".to_vec());
            Some(())
        }
        _ => None,
    })
    .await;
    assert_eq!(asking.await.unwrap().unwrap(), b"yes");
}

#[tokio::test]
async fn a_flood_of_requests_meets_busy() {
    let mut settings = config(1, &[QUIC]);
    settings.limits.requests_rate = Rate {
        per_second: 1,
        burst: 20,
    };
    let (mut a, b) = (Node::start(settings).await, Node::node(2).await);
    a.net.admit(members([1, 2])).await.unwrap();
    b.net.admit(members([1, 2])).await.unwrap();
    a.knows(&b);
    b.hears(key(1)).await;
    tokio::spawn(async move {
        while let Some(event) = a.events.recv().await {
            if let Event::Request { reply, .. } = event {
                reply.send(Vec::new());
            }
        }
    });
    let begun = std::time::Instant::now();
    let mut served = 0;
    for _ in 0..100 {
        match b.net.request(key(1), vec![1]).await {
            Ok(_) => served += 1,
            Err(error) => assert!(matches!(error, Error::Refused(Refusal::Busy)), "{error}"),
        }
    }
    let allowed = 20 + begun.elapsed().as_secs() + 1;
    assert!(
        (20..=allowed).contains(&served),
        "{served} of 100, {allowed} allowed"
    );
}

#[tokio::test]
async fn case_22_a_flood_of_hints_stays_within_its_room_and_the_agent_is_not_drowned() {
    const HINT_BYTES: usize = 50_000;
    let (mut a, b) = pair().await;
    // Nobody reads a's events: the room for hints is 4 MiB, and half of the queue.
    let heard = || a.net.figures().hints_taken + a.net.figures().hints_dropped;
    for number in 0u32..150 {
        let mut bytes = vec![0; HINT_BYTES];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        b.net.publish(Topic::Records, bytes).unwrap();
        // The sender drops what a slow receiver does not take: here it is to come.
        while heard() <= u64::from(number) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    let figures = a.net.figures();
    assert!(figures.hints_dropped >= 50, "{figures:?}");
    assert!(
        figures.hints_taken * HINT_BYTES as u64 <= 4 * 1024 * 1024,
        "{figures:?}"
    );
    // What matters still comes through, and in order.
    let net = b.net.clone();
    let asking = tokio::spawn(async move { net.request(key(1), b"and now?".to_vec()).await });
    a.wait("request", |event| match event {
        Event::Request { reply, .. } => {
            reply.send(b"fine".to_vec());
            Some(())
        }
        _ => None,
    })
    .await;
    assert_eq!(asking.await.unwrap().unwrap(), b"fine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_answers_gets_no_more_of_them() {
    let (mut a, b) = pair().await;
    // Many large answers wanted at once: together they would be 90 MiB.
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let net = b.net.clone();
            tokio::spawn(async move { net.request(key(1), vec![1]).await })
        })
        .collect();
    let mut replies = Vec::new();
    while replies.len() < 10 {
        let reply = a.wait("request", |event| match event {
            Event::Request { reply, .. } => Some(reply),
            _ => None,
        });
        replies.push(reply.await);
    }
    for reply in replies {
        reply.send(vec![7; 9 * 1024 * 1024]);
    }
    let (mut served, mut busy) = (0, 0);
    for answer in asking {
        match answer.await.unwrap() {
            Ok(bytes) => {
                assert_eq!(bytes.len(), 9 * 1024 * 1024);
                served += 1;
            }
            Err(Error::Refused(Refusal::Busy)) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((served, busy), (3, 7), "32 MiB hold three");
}

#[tokio::test]
async fn too_large_is_told_before_it_is_sent() {
    let (a, _b) = pair().await;
    let max = 256 * 1024;
    let error = a.net.request(key(2), vec![0; max + 1]).await.unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { max: limit, .. } if limit == max),
        "{error}"
    );
    assert!(matches!(
        a.net.publish(Topic::Heads, vec![0; 60 * 1024 + 1]),
        Err(Error::TooLarge { .. })
    ));
}

#[tokio::test]
async fn the_largest_hint_arrives() {
    let (a, mut b) = pair().await;
    a.net.publish(Topic::Records, vec![3; 60 * 1024]).unwrap();
    let hint = b.wait("hint", |event| {
        if let Event::Hint(hint) = event {
            Some(hint)
        } else {
            None
        }
    });
    assert_eq!(hint.await.bytes.len(), 60 * 1024);
}

#[tokio::test]
async fn case_22_hints_of_one_neighbour_are_taken_at_a_rate() {
    let mut settings = config(1, &[QUIC]);
    settings.limits.hints_rate = Rate {
        per_second: 1,
        burst: 20,
    };
    let (a, b) = (Node::start(settings).await, Node::node(2).await);
    a.net.admit(members([1, 2])).await.unwrap();
    b.net.admit(members([1, 2])).await.unwrap();
    a.knows(&b);
    b.hears(key(1)).await;
    let begun = std::time::Instant::now();
    for number in 0u8..100 {
        b.net.publish(Topic::Heads, vec![number]).unwrap();
    }
    let mut figures = a.net.figures();
    while figures.hints_taken + figures.hints_dropped < 100 {
        assert!(begun.elapsed() < PATIENCE, "{figures:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        figures = a.net.figures();
    }
    let allowed = 20 + begun.elapsed().as_secs() + 1;
    assert!(
        figures.hints_taken >= 20 && figures.hints_taken <= allowed,
        "{figures:?}"
    );
}

/// A neighbour whose hints are wrong is not listened to any more, but for one now and then.
#[tokio::test]
async fn case_22_who_passes_on_wrong_hints_is_soon_not_heard() {
    let (mut a, b) = pair().await;
    let net = a.net.clone();
    tokio::spawn(async move {
        while let Some(event) = a.events.recv().await {
            if let Event::Hint(hint) = event {
                a.net.verdict(hint.id(), crate::Verdict::Reject);
            }
        }
    });
    for number in 0u8..100 {
        b.net.publish(Topic::Heads, vec![number]).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let figures = net.figures();
    assert!((3..=12).contains(&figures.hints_taken), "{figures:?}");
    assert_eq!(figures.hints_rejected, figures.hints_taken);
}
