//! Applications that lie, fall silent, end too early, or have to do with clients that do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt;
use realm_edge::fastcgi::{Status, put_end, put_stderr, put_stdout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::applications::{Fake, URL, answer, hear};
use crate::support::{Rig, get, request, soon, text, whole};

#[tokio::test]
async fn lies_are_no_answer() {
    let part = |text: &str| {
        let mut out = BytesMut::new();
        put_stdout(&mut out, 1, text.as_bytes());
        out.to_vec()
    };
    let end = |status, app| {
        let mut out = BytesMut::new();
        put_end(&mut out, 1, status, app);
        out.to_vec()
    };
    let mut other = answer("Content-Type: text/plain\r\n\r\nothers'").to_vec();
    other[3] = 2;
    for (bytes, expected, code) in [
        (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), 502, "bad-response"),
        (other, 502, "bad-response"),
        (vec![1, 6, 0, 1, 0xff, 0xff, 0xff], 502, "no-response"),
        (part("Content-Type: text/plain\r\n"), 502, "no-response"),
        (
            [part("Content-Type: a\r\n"), end(Status::Complete, 0)].concat(),
            502,
            "bad-response",
        ),
        (part(&"X: y\r\n".repeat(20_000)), 502, "bad-response"),
        (part("<?php\n\n"), 502, "bad-response"),
        (end(Status::Complete, 0), 502, "bad-response"),
        (end(Status::Complete, 1), 502, "no-response"),
        (end(Status::UnknownRole, 0), 502, "bad-response"),
        (end(Status::Overloaded, 0), 503, "overloaded"),
        (part("Status: 100 Continue\r\n\r\n"), 502, "bad-response"),
    ] {
        let fake = Fake::saying(bytes.clone()).await;
        let mut rig = fake.rig(1).await;
        let (status, _, _) = whole(rig.send1(request("POST", URL, text("x"))).await).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(status.as_u16(), expected, "{shown}");
        assert_eq!(rig.seen().await.code, Some(code), "{shown}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_whole_does_not_look_so() {
    let head = "Content-Type: text/plain\r\n\r\nbegun";
    let mut cut = BytesMut::new();
    put_stdout(&mut cut, 1, head.as_bytes());
    let mut failed = cut.clone();
    put_end(&mut failed, 1, Status::Complete, 255);
    for bytes in [cut, failed] {
        let fake = Fake::saying(&bytes[..]).await;
        let rig = fake.rig(0).await;
        let read = rig.raw("GET /a.php HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let read = read.await;
        // The end of a body that is sent in parts is a part of none.
        assert!(!read.contains("\r\n0\r\n"), "{read}");
        let answered = realm_edge::Backend::call(&fake.application(0), get(URL)).await;
        let body = answered.expect("a head").into_body();
        assert!(soon(body.collect()).await.is_err(), "{bytes:?}");
    }
}

#[tokio::test]
async fn what_it_says_for_the_log_is_logged_line_by_line_and_safe() {
    let mut said = BytesMut::new();
    put_stderr(&mut said, 1, b"PHP message: PHP War");
    put_stdout(&mut said, 1, b"Content-Type: text/plain\r\n\r\nok");
    put_stderr(&mut said, 1, b"ning: \x1b[31mred\r\nsecond line");
    put_stderr(&mut said, 1, &b"flood\n".repeat(20_000));
    put_end(&mut said, 1, Status::Complete, 0);
    let fake = Fake::saying(&said[..]).await;
    let rig = fake.rig(0).await;
    let (status, _, body) = whole(rig.send1(get(URL)).await).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"ok"[..]));
    let lines = fake.log.0.lock().expect("no panic holds it").clone();
    assert_eq!(lines[0], "PHP message: PHP Warning: [31mred");
    assert_eq!(lines[1], "second lineflood");
    assert!(lines.len() < 12_000, "{}", lines.len());
    let last = lines.last().expect("a line");
    assert_eq!(last, "it says more of this request than is kept");
}

#[tokio::test]
async fn time_and_room_are_bounded() {
    let fake = Fake::start(|mut stream, _| async move {
        let _ = hear(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let limited = fake.limited(0, |limits| {
        limits.concurrency_max = 1;
        limits.wall_timeout = Duration::from_millis(700);
    });
    let mut rig = Rig::new(Arc::new(limited)).await;
    let (mut one, mut two) = (rig.http2().await, rig.http2().await);
    let first = tokio::spawn(one.send_request(get(URL)));
    while fake.connections.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let refused = soon(two.send_request(get(URL))).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(rig.seen().await.code, Some("overloaded"));
    let late = soon(first).await.expect("no panic").expect("an answer");
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(rig.seen().await.code, Some("wall-timeout"));
}

#[tokio::test]
async fn who_goes_away_ends_the_request_at_the_application() {
    let (ended_to, mut ended) = mpsc::unbounded_channel();
    let fake = Fake::start(move |mut stream, number| {
        let ended_to = ended_to.clone();
        async move {
            let _ = hear(&mut stream).await;
            if number > 0 {
                let mut begun = BytesMut::new();
                put_stdout(&mut begun, 1, b"Content-Type: text/plain\r\n\r\nbegun");
                let _ = stream.write_all(&begun).await;
            }
            let _ = stream.read(&mut [0; 16]).await;
            let _ = ended_to.send(number);
        }
    })
    .await;
    let rig = fake.rig(0).await;
    let mut client = rig.connect().await;
    let asked = b"GET /a.php HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(asked).await.expect("sent");
    while fake.connections.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    assert_eq!(soon(ended.recv()).await, Some(0), "before the head");
    let mut client = rig.connect().await;
    client.write_all(asked).await.expect("sent");
    crate::support::read_until(&mut client, "begun\r\n").await;
    drop(client);
    assert_eq!(soon(ended.recv()).await, Some(1), "within the body");
}

#[tokio::test]
async fn an_answer_flows_as_fast_as_it_is_read() {
    let written = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&written);
    let fake = Fake::start(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            let _ = hear(&mut stream).await;
            let mut out = BytesMut::new();
            put_stdout(&mut out, 1, b"Content-Type: text/plain\r\n\r\n");
            put_stdout(&mut out, 1, &[b'x'; 65_528]);
            for _ in 0..1_000 {
                if stream.write_all(&out).await.is_err() {
                    return;
                }
                count.fetch_add(1, Relaxed);
                out.clear();
                put_stdout(&mut out, 1, &[b'x'; 65_528]);
            }
            out.clear();
            put_end(&mut out, 1, Status::Complete, 0);
            let _ = stream.write_all(&out).await;
        }
    })
    .await;
    let application = fake.application(0);
    let answered = realm_edge::Backend::call(&application, get(URL)).await;
    let mut body = answered.expect("an answer").into_body();
    let mut before = u32::MAX;
    while before != written.load(Relaxed) {
        before = written.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // What the sockets of the system hold, and a few parts.
    assert!(before < 500, "{before}");
    let mut length = 0;
    while let Some(frame) = soon(body.frame()).await {
        length += frame.expect("a frame").into_data().expect("data").len();
    }
    assert_eq!(length, 1_000 * 65_528);
}
