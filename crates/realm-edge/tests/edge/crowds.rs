//! More connections than there are places: who idles makes room, who works stays.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use realm_edge::EdgeLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::support::{
    Rig, backend, for_http1, get, named, read_all, read_until, soon, text, whole,
};

/// What clients do that hold a place and use it for nothing, and what they are answered.
const IDLERS: [(&str, &str); 6] = [
    ("", ""),
    ("G", ""),
    ("PRI", ""),
    ("GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", ""),
    ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n\r\na"),
    // The edge acknowledges the settings.
    (
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        "\0\0\0\x04\x01\0\0\0\0",
    ),
];

fn at_once(connections_max: usize) -> impl FnOnce(&mut EdgeLimits) {
    move |limits| {
        limits.connections_max = connections_max;
        limits.eviction_idle_min = Duration::ZERO;
        // No sweep closes what these tests wait for.
        limits.drain_linger = Duration::from_secs(3600);
    }
}

async fn ask(rig: &Rig) -> String {
    rig.raw("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
}

#[tokio::test]
async fn idle_connections_shut_nobody_out() {
    for (bytes, answer) in IDLERS {
        let rig = Rig::with_limits(named("a"), at_once(3)).await;
        let mut idlers: Vec<TcpStream> = Vec::new();
        for _ in 0..3 {
            let mut idler = rig.connect().await;
            idler.write_all(bytes.as_bytes()).await.expect("sent");
            read_bytes_with(&mut idler, answer.as_bytes()).await;
            idlers.push(idler);
        }
        for _ in 0..3 {
            let answer = ask(&rig).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{bytes:?}");
        }
        // The first one made room; the others were there for the next ones.
        let _ = soon(idlers[0].read_to_end(&mut Vec::new())).await;
    }
}

/// HTTP/2 clients are told that nothing of theirs was lost.
#[tokio::test]
async fn an_evicted_http2_client_is_told() {
    let rig = Rig::with_limits(named("a"), at_once(1)).await;
    let mut idler = rig.connect().await;
    let (bytes, answer) = IDLERS[5];
    idler.write_all(bytes.as_bytes()).await.expect("sent");
    read_bytes_with(&mut idler, answer.as_bytes()).await;
    assert!(ask(&rig).await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut rest = Vec::new();
    let _ = soon(idler.read_to_end(&mut rest)).await;
    // GOAWAY: eight bytes on stream 0.
    assert!(rest.starts_with(b"\0\0\x08\x07\0\0\0\0\0"), "{rest:?}");
}

#[tokio::test]
async fn who_works_stays() {
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut called) = mpsc::unbounded_channel();
    let opened = Arc::clone(&gate);
    let gated = backend(move |_| {
        let (gate, called) = (Arc::clone(&opened), sender.clone());
        async move {
            called.send(()).expect("the test lives");
            gate.acquire().await.expect("open").forget();
            Ok(Response::new(text("done")))
        }
    });
    let rig = Rig::with_limits(gated, at_once(2)).await;
    let mut first = rig.connect().await;
    let head = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    first.write_all(head.as_bytes()).await.expect("sent");
    soon(called.recv()).await.expect("called");
    let mut second = rig.http2().await;
    let answer = tokio::spawn(second.send_request(get("http://h/")));
    soon(called.recv()).await.expect("called");
    for _ in 0..3 {
        let answer = read_all(&mut rig.connect().await).await;
        assert!(answer.contains("\r\nrealm-error: too-many-connections\r\n"));
    }
    gate.add_permits(2);
    read_until(&mut first, "done").await;
    let answer = soon(answer).await.expect("no panic").expect("an answer");
    assert_eq!(whole(answer).await.2, "done");
}

/// What the process may open bounds the connections, whatever the limit says.
#[tokio::test]
async fn files_bound_the_connections() {
    for (files_max, expected) in [(None, 4), (Some(6), 3), (Some(1), 1)] {
        let rig = Rig::with_config(vec![named("a")], |config| {
            config.limits.files_max = files_max;
            config.limits.connections_max = 4;
        })
        .await;
        let mut clients = Vec::new();
        loop {
            let mut client = rig.http1().await;
            let sent = client.send_request(for_http1(get("http://h/")));
            match soon(sent).await {
                Ok(answer) if answer.status() == 200 => clients.push(client),
                Ok(_) | Err(_) => break,
            }
        }
        assert_eq!(clients.len(), expected, "{files_max:?}");
    }
}

async fn read_bytes_with(stream: &mut TcpStream, wanted: &[u8]) {
    let mut read = Vec::new();
    while !wanted.is_empty() && !read.windows(wanted.len()).any(|part| part == wanted) {
        let count = soon(stream.read_buf(&mut read)).await.expect("read");
        assert_ne!(count, 0, "the end came early");
    }
}
