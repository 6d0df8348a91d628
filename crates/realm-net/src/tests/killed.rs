//! Peers that are killed: noticed soon, and back soon with the same key. The peer is a process of its
//! own, so that nothing of it says good-bye.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::*;
use crate::{DownReason, Event, Protocol, Topic, Transport as _, Verdict};

const ROLE: &str = "REALM_NET_TEST_PEER";

/// The other process: member 2 of a realm of two, at the address that it is given.
#[tokio::test]
async fn peer_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (listen, other) = role.split_once(' ').unwrap();
    let mut peer = Node::start(config(2, &[listen])).await;
    println!("listening {}", peer.addresses[0]);
    peer.net.admit(members([1, 2])).await.unwrap();
    peer.net.addresses(key(1), vec![other.to_owned()]).unwrap();
    // Each hint is answered by another: so the other process sees that both directions work. Streams
    // are read, and nothing is said on them.
    while let Some(event) = peer.events.recv().await {
        match event {
            Event::Hint(hint) => {
                peer.net.verdict(hint.id(), Verdict::Accept);
                let _ = peer
                    .net
                    .publish(Topic::Records, [b"heard ", hint.bytes.as_slice()].concat());
            }
            Event::Stream { incoming, .. } => {
                tokio::spawn(async move {
                    let mut stream = incoming.accept().await.unwrap();
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
            }
            _ => {}
        }
    }
}

struct Peer {
    process: Child,
    address: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Peer {
    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(sent.success());
    }

    fn start(listen: &str, other: &Node) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::killed::peer_process", "--nocapture"])
            .env(ROLE, format!("{listen} {}", other.addresses[0]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            line.split_once("listening ")
                .map(|(_, text)| text.to_owned())
        });
        // What else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address: address.expect("it listens"),
        }
    }
}

async fn alone(listen: &str) -> Node {
    let a = Node::start(config(1, &[listen])).await;
    a.net.admit(members([1, 2])).await.unwrap();
    a
}

async fn check_noticed(listen: &str) {
    let mut a = alone(listen).await;
    let mut peer = Peer::start(listen, &a);
    a.net.addresses(key(2), vec![peer.address.clone()]).unwrap();
    a.up(key(2)).await;
    a.hears(key(2)).await;
    let begun = Instant::now();
    peer.process.kill().unwrap();
    a.down(key(2)).await;
    assert!(
        begun.elapsed() <= Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_killed_peer_is_noticed_over_quic() {
    check_noticed(QUIC).await;
}

#[tokio::test]
async fn a_killed_peer_is_noticed_over_tcp() {
    check_noticed(TCP).await;
}

/// A stopped process keeps its sockets: no reset, no farewell, as with a lost network.
#[tokio::test]
async fn a_peer_that_stands_still_is_noticed_and_back_when_it_goes_on() {
    for listen in [QUIC, TCP] {
        let mut a = alone(listen).await;
        let peer = Peer::start(listen, &a);
        a.net.addresses(key(2), vec![peer.address.clone()]).unwrap();
        a.up(key(2)).await;
        a.hears(key(2)).await;
        peer.signal("-STOP");
        let begun = Instant::now();
        assert_eq!(a.down(key(2)).await, DownReason::NoAnswer);
        assert!(
            begun.elapsed() <= Duration::from_secs(7),
            "{:?}",
            begun.elapsed()
        );
        peer.signal("-CONT");
        a.up(key(2)).await;
        a.hears(key(2)).await;
    }
}

/// So many streams want to send more than sockets and windows take.
const FULL: usize = 32;

/// Nobody waits for what a peer does not take: reads, writes and openings end with the connection.
#[tokio::test]
async fn streams_end_when_their_peer_is_missed() {
    for listen in [QUIC, TCP] {
        let mut a = alone(listen).await;
        let peer = Peer::start(listen, &a);
        a.net.addresses(key(2), vec![peer.address.clone()]).unwrap();
        a.up(key(2)).await;
        let open = || a.net.open(key(2), Protocol::Tunnel);
        let streams = join_all((0..FULL).map(|_| open())).await;
        peer.signal("-STOP");
        let begun = Instant::now();
        let used = streams.into_iter().map(|stream| async {
            let (mut reads, mut writes) = tokio::io::split(stream.unwrap());
            let writing = async {
                while writes.write_all(&[0; 64 * 1024]).await.is_ok() {}
                writes.shutdown().await
            };
            tokio::join!(reads.read_u8(), writing)
        });
        let all = async { tokio::join!(join_all(used), open()) };
        let (used, opened) = tokio::time::timeout(PATIENCE, all).await.expect("they end");
        let elapsed = begun.elapsed();
        assert!(used.iter().all(|(read, _)| read.is_err()));
        assert!(opened.is_err());
        assert_eq!(a.down(key(2)).await, DownReason::NoAnswer);
        assert!(
            elapsed <= Duration::from_secs(8),
            "{elapsed:?} over {listen}"
        );
        peer.signal("-CONT");
    }
}

async fn check_back(listen: &str, pause: Duration) {
    let mut a = alone(listen).await;
    let mut peer = Peer::start(listen, &a);
    a.net.addresses(key(2), vec![peer.address.clone()]).unwrap();
    a.up(key(2)).await;
    a.hears(key(2)).await;
    peer.process.kill().unwrap();
    peer.process.wait().unwrap();
    tokio::time::sleep(pause).await;
    let begun = Instant::now();
    let peer = Peer::start(&peer.address, &a);
    // The first sight of it may be the dead connection: hints must come back after it.
    a.down(key(2)).await;
    a.up(key(2)).await;
    a.hears(key(2)).await;
    // Hints flow both ways: it answers one of them.
    let net = a.net.clone();
    let calling = tokio::spawn(async move {
        for number in 0u32.. {
            let _ = net.publish(Topic::Heads, number.to_le_bytes().to_vec());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    a.wait("answering hint", |event| match event {
        Event::Hint(hint) if hint.bytes.starts_with(b"heard ") => Some(()),
        _ => None,
    })
    .await;
    calling.abort();
    let elapsed = begun.elapsed();
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    eprintln!("back after {elapsed:?} over {listen}, killed {pause:?} before");
    drop(peer);
}

#[tokio::test]
async fn case_19_a_peer_that_restarts_within_ten_seconds_is_back_within_twenty_over_quic() {
    check_back(QUIC, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn case_19_a_peer_that_restarts_at_once_is_back_within_twenty_over_quic() {
    check_back(QUIC, Duration::ZERO).await;
}

#[tokio::test]
async fn case_19_a_peer_that_restarts_is_back_over_tcp() {
    check_back(TCP, Duration::from_secs(1)).await;
}
