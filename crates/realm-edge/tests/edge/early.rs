//! Answers that come before the request's end, and clients that go on sending.

use http::Response;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bodies::echo;
use crate::support::{Rig, backend, soon, text};

/// A client goes on sending after its answer came. A reset would fail its writes, and take the
/// answer away from clients that look for it only then.
async fn check_sending(rig: &Rig, start: &str, last: &str, expected: &str) {
    let more = "x".repeat(1000);
    let mut stream = rig.connect().await;
    stream.write_all(start.as_bytes()).await.expect("sent");
    stream.write_all(more.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(last) {
        let count = soon(stream.read_buf(&mut answer)).await.expect("read");
        assert_ne!(count, 0, "{start}");
    }
    for _ in 0..10 {
        stream
            .write_all(more.as_bytes())
            .await
            .expect("it is taken");
        tokio::task::yield_now().await;
    }
    soon(stream.read_to_end(&mut answer))
        .await
        .expect("no reset");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.contains(expected), "{start} {answer}");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let rig = Rig::with_limits(echo(), |limits| limits.request_bytes_max = 10).await;
    for (fields, code) in [
        (
            "Host: h\r\nContent-Length: 300000\r\n\r\n",
            "request-too-large",
        ),
        (
            "Host: h\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
            "request-too-large",
        ),
        ("Host: h h\r\nContent-Length: 300000\r\n\r\n", "bad-host"),
        ("Host h\r\nContent-Length: 300000\r\n\r\n", "bad-request"),
    ] {
        let start = format!("POST / HTTP/1.1\r\n{fields}");
        let expected = format!("\r\nrealm-error: {code}\r\n");
        check_sending(&rig, &start, "\nhint: ", &expected).await;
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    // One backend drops the body unread, the other reads until it fails and answers all the same.
    let deaf = backend(|_| async { Ok(Response::new(text("early"))) });
    let stubborn = backend(|request| async move {
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        Ok(Response::new(text("early")))
    });
    for (backend, length) in [(deaf, "Content-Length: 300000\r\n\r\n"), (stubborn, CHUNK)] {
        let rig = Rig::with_limits(backend, |limits| limits.request_bytes_max = 900_000).await;
        let start = format!("POST / HTTP/1.1\r\nHost: h\r\n{length}");
        check_sending(&rig, &start, "early", "HTTP/1.1 200 OK").await;
    }
}

/// A chunk whose size is no number.
const CHUNK: &str = "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n";
