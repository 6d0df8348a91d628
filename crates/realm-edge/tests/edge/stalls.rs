//! Connections on which nothing moves are closed, and others that look alike are not.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use realm_edge::{EdgeLimits, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Rig, backend, channel, data, for_http1, get, named, soon, whole};

const SHORT: Duration = Duration::from_millis(50);

/// Makes one limit short.
type Shorten = fn(&mut EdgeLimits);

/// What a client sends, the limit that is short, and whether the connection then ends.
#[tokio::test]
async fn connections_that_do_not_move_are_closed() {
    let idle = |limits: &mut EdgeLimits| {
        limits.idle_timeout = SHORT;
        limits.drain_linger = SHORT;
    };
    let head = |limits: &mut EdgeLimits| limits.header_read_timeout = SHORT;
    let cases: [(&str, Shorten); 7] = [
        ("", idle),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", idle),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", idle),
        ("G", head),
        ("PRI", head),
        ("GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", head),
        // What came with the request before it counts as idle until more comes.
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HT", idle),
    ];
    for (bytes, set) in cases {
        let rig = Rig::with_limits(named("a"), set).await;
        let mut stream = rig.connect().await;
        stream.write_all(bytes.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let is_answered = answer.starts_with(b"HTTP/1.1 200 OK\r\n");
        assert_eq!(
            is_answered,
            bytes.contains("\r\n\r\n") && bytes.starts_with('G'),
            "{bytes}"
        );
    }
}

/// A slow head that keeps sending is closed all the same.
#[tokio::test]
async fn a_trickled_head_is_closed() {
    let rig = Rig::with_limits(named("a"), |limits| limits.header_read_timeout = SHORT).await;
    let mut stream = rig.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n")
        .await
        .expect("sent");
    let (mut reader, mut writer) = stream.split();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let writing = async {
        while writer.write_all(b"X-A: b\r\n").await.is_ok() {
            pace.tick().await;
        }
    };
    let mut answer = Vec::new();
    let reading = reader.read_to_end(&mut answer);
    soon(async {
        tokio::select! {
            _ = reading => {}
            () = writing => {}
        }
    })
    .await;
}

/// A kept connection may be quiet for longer than a head may take.
#[tokio::test]
async fn a_quiet_connection_is_no_slow_head() {
    let rig = Rig::with_limits(named("a"), |limits| limits.header_read_timeout = SHORT).await;
    let mut client = rig.http1().await;
    let mut quiet = tokio::time::interval(SHORT * 4);
    for _ in 0..3 {
        quiet.tick().await;
        let sent = client.send_request(for_http1(get("http://h/")));
        assert_eq!(whole(soon(sent).await.expect("an answer")).await.2, "a");
    }
}

/// Work that takes longer than every timeout of an idle connection is not idle.
#[tokio::test]
async fn a_busy_connection_is_left_alone() {
    let (sender, body) = channel();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let rig = Rig::with_limits(
        backend(move |_| {
            let body = body.lock().expect("no panic").take().expect("called once");
            async move { Ok(Response::new(body)) }
        }),
        |limits| {
            limits.idle_timeout = Duration::from_millis(10);
            limits.header_read_timeout = Duration::from_millis(10);
            limits.drain_linger = Duration::from_millis(10);
        },
    )
    .await;
    let response = rig.send1(get("http://h/")).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..20 {
        ticks.tick().await;
        sender.send(data("x")).await.expect("it is read");
    }
    drop(sender);
    assert_eq!(whole(response).await.2.len(), 20);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let mut rig = Rig::with_limits(
        backend(|_| async {
            let stream = futures_util::stream::repeat_with(|| data(vec![b'x'; 65536]));
            Ok(Response::new(
                http_body_util::StreamBody::new(stream).boxed_unsync(),
            ))
        }),
        |limits| limits.write_stall_timeout = SHORT,
    )
    .await;
    let mut stream = rig.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .expect("sent");
    let seen = rig.seen().await;
    assert_eq!((seen.status, seen.outcome), (200, Outcome::ClientGone));
    drop(stream);
}

/// A client that takes bytes of the connection, but leaves a stream no window.
#[tokio::test]
async fn an_http2_stream_without_room_is_reset() {
    let endless = backend(|_| async {
        let stream = futures_util::stream::repeat_with(|| data("x"));
        Ok(Response::new(
            http_body_util::StreamBody::new(stream).boxed_unsync(),
        ))
    });
    let mut rig = Rig::with_limits(endless, |limits| limits.write_stall_timeout = SHORT).await;
    let mut stream = rig.connect().await;
    // Settings: an initial window of nothing; then a request, as `floods` writes it.
    let mut bytes =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0".to_vec();
    bytes.extend(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01h");
    stream.write_all(&bytes).await.expect("sent");
    let reset = b"\0\0\x04\x03\0\0\0\0\x01";
    let mut answer = Vec::new();
    while !answer.windows(reset.len()).any(|part| part == reset) {
        let count = soon(stream.read_buf(&mut answer)).await.expect("read");
        assert_ne!(count, 0, "the connection stays");
    }
    let seen = rig.seen().await;
    assert_eq!((seen.status, seen.outcome), (200, Outcome::ClientGone));
    assert_eq!(rig.handle.connections(), 1);
}
