//! What a client gets: heads without bodies, headers that stay behind, and bodies that break,
//! which no client may take for whole.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use realm_edge::{Backend, Body, BoxError, Outcome};
use tokio::io::AsyncReadExt;

use crate::support::{
    Rig, backend, channel, data, empty, get, request, soon, text, trailers, whole,
};

/// A backend with one fixed response.
fn fixed(
    make: impl Fn() -> http::response::Builder + Send + Sync + 'static,
    body: impl Fn() -> Body + Send + Sync + 'static,
) -> Arc<dyn Backend> {
    let make = move || make().body(body()).expect("a response");
    backend(move |_| {
        let response = make();
        async move { Ok(response) }
    })
}

/// A body of one frame, and then what is given.
fn then(last: Option<&'static str>) -> Body {
    let (sender, body) = channel();
    tokio::spawn(async move {
        let _ = sender.send(data("abc")).await;
        if let Some(error) = last {
            let _ = sender.send(Err(error.into())).await;
        }
    });
    body
}

#[tokio::test]
async fn head_has_a_head_alone() {
    let rig = Rig::new(backend(|request| async move {
        assert_eq!(request.method(), "HEAD");
        Ok(Response::new(text("four")))
    }))
    .await;
    let (status, headers, body) = rig.both(|| request("HEAD", "http://h/", empty())).await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    assert_eq!(headers["content-length"], "4");

    let rig = Rig::new(fixed(
        || Response::builder().header("content-length", "1000"),
        || then(None),
    ))
    .await;
    let (_, headers, _) = rig.both(|| request("HEAD", "http://h/", empty())).await;
    assert_eq!(headers["content-length"], "1000");
    // The connection is sound after it.
    let two =
        "HEAD / HTTP/1.1\r\nHost: h\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let answer = rig.raw(two).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answer}");
    assert!(!answer.contains("abc"), "{answer}");
}

#[tokio::test]
async fn no_content_has_none() {
    for status in [204, 304] {
        let rig = Rig::new(fixed(
            move || {
                Response::builder()
                    .status(status)
                    .header("content-length", "3")
            },
            || then(None),
        ))
        .await;
        let (found, _, body) = rig.both(|| get("http://h/")).await;
        assert_eq!((found.as_u16(), body.len()), (status, 0));
    }
}

#[tokio::test]
async fn what_belongs_to_the_backends_connection_stays_there() {
    let rig = Rig::new(fixed(
        || {
            Response::builder()
                .header("connection", "keep-alive, x-mine")
                .header("keep-alive", "5")
                .header("x-mine", "1")
                .header("upgrade", "h2c")
                .header("transfer-encoding", "gzip")
                .header("proxy-authenticate", "x")
                .header("realm-error", "forged")
                .header("server", "guest")
                .header("set-cookie", "a=1")
                .header("set-cookie", "b=2")
        },
        || text("x"),
    ))
    .await;
    let (_, headers, _) = rig.both(|| get("http://h/")).await;
    let mut names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date", "server", "set-cookie"]);
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
}

/// Each of these answers is broken after its head. Both protocols must say so.
#[tokio::test]
async fn a_broken_body_is_no_clean_end() {
    let declared =
        |length: &'static str| move || Response::builder().header("content-length", length);
    let cases: [(&str, Arc<dyn Backend>); 6] = [
        ("error", fixed(Response::builder, || then(Some("trap")))),
        (
            "error within a length",
            fixed(declared("9"), || then(Some("trap"))),
        ),
        ("short", fixed(declared("9"), || then(None))),
        ("long", fixed(declared("2"), || then(None))),
        (
            "panic",
            backend(|_| async { Ok(Response::new(panicking())) }),
        ),
        (
            "error at once",
            fixed(Response::builder, || {
                let (sender, body) = channel();
                tokio::spawn(async move { sender.send(Err("trap".into())).await });
                body
            }),
        ),
    ];
    for (name, backend) in cases {
        let mut rig = Rig::new(backend).await;
        let first = rig
            .http1()
            .await
            .send_request(crate::support::for_http1(get("http://h/")));
        let first = match soon(first).await {
            Ok(response) => soon(response.into_body().collect()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(first.is_err(), "{name}: HTTP/1.1 took it for whole");
        let seen = rig.seen().await;
        assert_eq!(seen.outcome, Outcome::BodyFailed, "{name}");
        assert_eq!(
            (seen.status, seen.code),
            (200, Some("body-failed")),
            "{name}"
        );

        let mut client = rig.http2().await;
        let second = match soon(client.send_request(get("http://h/"))).await {
            Ok(response) => soon(response.into_body().collect()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(second.is_err(), "{name}: HTTP/2 took it for whole");
        assert_eq!(rig.seen().await.outcome, Outcome::BodyFailed, "{name}");
        // One stream failed, not its connection.
        let _ = soon(client.send_request(get("http://h/well"))).await;
        soon(client.ready()).await.expect("the connection lives");

        // HTTP/1.0 without a length ends with the connection: only a reset tells.
        let mut stream = rig.connect().await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        let read = soon(stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        let is_short = answer.contains("content-length: ") || answer.is_empty();
        assert!(
            read.is_err() || is_short,
            "{name}: HTTP/1.0 took it for whole: {answer}"
        );
    }
}

/// Frames that are there at once, and no more than these.
fn at_once(
    frames: impl Fn() -> Vec<Result<Frame<Bytes>, BoxError>> + Send + Sync + 'static,
) -> Arc<dyn Backend> {
    fixed(Response::builder, move || {
        StreamBody::new(stream::iter(frames())).boxed_unsync()
    })
}

/// A short body that is there at once has a length, whatever the backend said of it; any other comes as it comes.
#[tokio::test]
async fn a_body_that_is_there_at_once_has_its_length() {
    let pieces = |pieces: &'static [&'static str]| {
        at_once(move || pieces.iter().copied().map(data).collect())
    };
    let many = || (0..40).map(|_| data("x".repeat(1000))).collect();
    let cases: [(Arc<dyn Backend>, Option<&str>, usize); 7] = [
        (pieces(&["abcd"]), Some("4"), 4),
        (pieces(&["a", "", "bc", "d"]), Some("4"), 4),
        (pieces(&[]), Some("0"), 0),
        (pieces(&["", ""]), Some("0"), 0),
        (at_once(many), None, 40_000),
        // More pieces than are looked at.
        (pieces(&["x"; 100]), None, 100),
        (fixed(Response::builder, || then(None)), None, 3),
    ];
    for (backend, wanted, bytes) in cases {
        let mut rig = Rig::new(backend).await;
        let (status, headers, body) = whole(rig.send1(get("http://h/")).await).await;
        assert_eq!((status.as_u16(), body.len()), (200, bytes));
        let said = |name| headers.get(name).map(|value| value.to_str().expect("text"));
        assert_eq!(said("content-length"), wanted, "of {bytes}");
        let chunked = wanted.is_none().then_some("chunked");
        assert_eq!(said("transfer-encoding"), chunked, "of {bytes}");
        let seen = rig.seen().await;
        assert_eq!(seen.outcome, Outcome::Complete, "of {bytes}");
        assert_eq!(seen.bytes_out, u64::try_from(bytes).expect("small"));
    }
    // Nothing that follows data is lost: trailers, or that it broke off.
    let rig = Rig::new(at_once(|| vec![data("abc"), trailers("x-sum", "6")])).await;
    let mut client = rig.http2().await;
    let answer = soon(client.send_request(get("http://h/")))
        .await
        .expect("an answer");
    assert!(!answer.headers().contains_key("content-length"));
    let collected = soon(answer.into_body().collect()).await.expect("whole");
    assert_eq!(collected.trailers().expect("trailers")["x-sum"], "6");
    assert_eq!(collected.to_bytes(), "abc");
    let mut rig = Rig::new(at_once(|| vec![data("abc"), Err("trap".into())])).await;
    let answer = rig.raw("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let is_whole = answer.contains("content-length") || answer.ends_with("0\r\n\r\n");
    assert!(!is_whole, "{answer}");
    assert_eq!(rig.seen().await.outcome, Outcome::BodyFailed);
}

#[tokio::test]
async fn a_response_that_cannot_be_sent_is_refused() {
    let cases: [Arc<dyn Backend>; 5] = [
        fixed(|| Response::builder().status(101), empty),
        fixed(|| Response::builder().status(100), empty),
        fixed(
            || Response::builder().header("content-length", "7"),
            || text("abc"),
        ),
        fixed(
            || Response::builder().header("content-length", "x"),
            || text("abc"),
        ),
        fixed(
            || {
                Response::builder()
                    .header("content-length", "3")
                    .header("content-length", "4")
            },
            || then(None),
        ),
    ];
    for backend in cases {
        let rig = Rig::new(backend).await;
        let (status, headers, _) = rig.both(|| get("http://h/")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert_eq!(headers["realm-error"], "bad-response");
    }
    let folded = Rig::new(fixed(
        || {
            Response::builder()
                .header("content-length", "3")
                .header("content-length", "3")
        },
        || then(None),
    ))
    .await;
    assert_eq!(whole(folded.send1(get("http://h/")).await).await.2, "abc");
}

#[tokio::test]
async fn a_panic_is_one_requests_own() {
    let mut rig = Rig::new(backend(|request| async move {
        assert_ne!(request.uri().path(), "/panic", "on purpose");
        Ok(Response::new(text("well")))
    }))
    .await;
    let mut client = rig.http2().await;
    let (status, headers, body) = rig.both(|| get("http://h/panic")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(headers["realm-error"], "internal");
    assert!(!String::from_utf8_lossy(&body).contains("on purpose"));
    assert_eq!(rig.seen().await.code, Some("internal"));
    assert_eq!(rig.both(|| get("http://h/")).await.2, "well");
    // Other streams of the same connection go on.
    let bad = client.send_request(get("http://h/panic"));
    let good = client.send_request(get("http://h/"));
    let (bad, good) = soon(async { tokio::join!(bad, good) }).await;
    assert_eq!(bad.expect("an answer").status(), 500);
    assert_eq!(whole(good.expect("an answer")).await.2, "well");
}

fn panicking() -> Body {
    let stream = futures_util::stream::poll_fn(|_| -> std::task::Poll<Option<_>> {
        let is_on_purpose = true;
        assert!(!is_on_purpose, "on purpose");
        std::task::Poll::Ready(Some(data("never")))
    });
    http_body_util::StreamBody::new(stream).boxed_unsync()
}
