//! WebSockets at the hands of who means harm to others: what is said over them, and what they take on the
//! way to another node.

use std::sync::Arc;

use realm_edge::{Upstream, UpstreamLimits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ports::{Pair, serve};
use crate::support::soon;
use crate::websockets::{LONG, Server, elsewhere, open, rig, switched};

#[tokio::test]
async fn what_is_said_over_a_websocket_is_never_taken_for_an_answer_of_http() {
    let server = Server::start(switched("")).await;
    let rig = rig(&server.upstream(LONG)).await;
    let (mut stream, _) = open(&rig).await;
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"HTTP/1.0 414 ",
        b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n",
        b"what follows",
    ] {
        stream.write_all(words).await.expect("sent");
        let mut heard = vec![0; words.len()];
        soon(stream.read_exact(&mut heard)).await.expect("heard");
        assert_eq!(
            heard.escape_ascii().to_string(),
            words.escape_ascii().to_string()
        );
    }
}

const ENDLESS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegins";

/// Handshakes that are answered as requests are, with a body that goes on: so many of one client.
#[tokio::test]
async fn a_handshake_with_another_node_has_a_place_to_the_end_of_its_answer() {
    let server = Server::start(ENDLESS).await;
    let there = rig(&server.upstream(LONG)).await;
    let here = elsewhere(&there).await;
    let mut open_ones = Vec::new();
    let refused = loop {
        let (stream, head) = open(&here).await;
        if !head.starts_with("HTTP/1.1 200 ") {
            break head;
        }
        open_ones.push(stream);
        assert!(open_ones.len() <= 64, "nobody counts them");
    };
    assert!(refused.contains("overloaded"), "{refused}");
    // Of 48: others find some left.
    assert_eq!(open_ones.len(), 36);
    drop(open_ones);
    soon(async { while !open(&here).await.1.starts_with("HTTP/1.1 200 ") {} }).await;
}

#[tokio::test]
async fn websockets_to_a_node_take_no_place_from_ports_of_its_servers() {
    let server = serve(|mut stream| async move {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        // A GET, or a client of the port.
        let answer = if byte == b'G' { ENDLESS } else { "hello" };
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let limits = UpstreamLimits {
        concurrency_max: 1_000,
        wall_timeout: LONG,
        request_bytes_max: 1,
        response_bytes_max: None,
        websocket_idle: LONG,
        takes_connections: true,
    };
    let pair = Pair::of(Arc::new(Upstream::new(server.await, limits))).await;
    let mut open_ones = Vec::new();
    loop {
        let (stream, head) = open(&pair.near).await;
        if !head.starts_with("HTTP/1.1 200 ") {
            assert!(head.contains("overloaded"), "{head}");
            break;
        }
        open_ones.push(stream);
        assert!(open_ones.len() <= 64, "nobody counts them");
    }
    let mut stream = pair.connect().await;
    stream.write_all(b"x").await.expect("sent");
    let mut heard = [0; 5];
    soon(stream.read_exact(&mut heard)).await.expect("heard");
    assert_eq!(&heard, b"hello");
}
