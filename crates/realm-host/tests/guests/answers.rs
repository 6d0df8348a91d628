//! Guests that answer: what arrives at the client is what they said, and the other way round.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use realm_host::{Body, BoxError};
use realm_model::api::LogStream;
use realm_test_guests as guests;
use tokio::sync::mpsc;

use crate::harness::{Loaded, eventually, get, guest, post};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn hello() {
    let hello = guest(guests::HELLO).load();
    let answer = hello.get("/").await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello\n"));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    hello.ended("ok").await;
    let meter = hello.meter();
    assert_eq!(meter.wasm_exec_ms.count, 1);
    assert_eq!(meter.instantiation_ms.count, 1);
    assert!(meter.mem_peak_bytes >= 64 * 1024, "{meter:?}");
    assert_eq!(meter.mem_current_bytes, 0);
    assert_eq!(meter.fuel_used, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_hello() {
    let hello = guest(guests::P3_HELLO).load();
    assert_eq!(hello.body("/").await, "hello\n");
    hello.ended("ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn version_a() {
    check_version(guests::VERSION_A, "version a\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn version_b() {
    check_version(guests::VERSION_B, "version b\n").await;
}

async fn check_version(path: &'static str, expected: &str) {
    assert_eq!(
        guest(path).load().body("/").await.trim_end(),
        expected.trim_end()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn counter() {
    let counter = guest(guests::COUNTER).load();
    for _ in 0..3 {
        assert_eq!(counter.body("/").await.trim_end(), "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn compute() {
    let plain = guest(guests::COMPUTE).load();
    let fueled = guest(guests::COMPUTE)
        .limits(|limits| limits.fuel_per_sec = Some(u64::MAX / 4))
        .load();
    // Both engines come to the same number, and only one of them counts.
    assert_eq!(
        plain.body("/?n=100000").await,
        fueled.body("/?n=100000").await
    );
    fueled.ended("ok").await;
    assert!(fueled.meter().fuel_used > 100_000, "{:?}", fueled.meter());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn slow_start() {
    let guest = guest(guests::SLOW_START)
        .grants(|grants| drop(grants.env.insert("BURN_MS".into(), "20".into())))
        .load();
    assert_eq!(guest.body("/").await, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn big_body() {
    let guest = guest(guests::BIG_BODY).load();
    for target in ["/?bytes=3000001", "/?bytes=3000001&length=1"] {
        let answer = guest.get(target).await.unwrap();
        assert_eq!((answer.body.len(), &answer.broken), (3_000_001, &None));
        let expected = (0..3_000_001_usize).map(|index| (index % 251) as u8);
        assert!(answer.body.iter().copied().eq(expected), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_makes_the_guest_wait() {
    let guest = guest(guests::BIG_BODY).load();
    // A gigabyte, of which the host holds a few pieces at most.
    let response = guest.replica.call(get("/?bytes=1000000000")).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(guest.replica.in_flight(), 1);
    assert!(guest.meter().mem_current_bytes < 8 * 1024 * 1024);
    drop(body);
    guest.ended("cancelled").await;
}

/// Who does not read the answer is not read either, whatever the world of the guest in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_between_two_that_wait_stays_small() {
    const PIECE_BYTES: usize = 64 * 1024;
    // Less than a request may have, and far more than lies between.
    const PIECES: usize = 400;
    const PIECES_BETWEEN_MAX: usize = 24;
    for path in [guests::ECHO, guests::P3_ECHO, guests::CGI_ECHO] {
        let echo = guest(path).load();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let zeros = Bytes::from(vec![0; PIECE_BYTES]);
        let frames = futures_util::stream::repeat_with(move || {
            count.fetch_add(1, Relaxed);
            Ok::<_, BoxError>(Frame::data(zeros.clone()))
        });
        let frames = frames.take(PIECES).boxed();
        let request = get("/").map(|_| Body::new(StreamBody::new(frames)));
        let mut body = echo.replica.call(request).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = taken.load(Relaxed);
        assert!((1..PIECES_BETWEEN_MAX).contains(&before), "{path} {before}");
        assert_eq!(echo.replica.in_flight(), 1);
        let mut n_bytes = 0;
        while let Some(frame) = body.frame().await {
            n_bytes += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        // The rest comes once it is read.
        assert_eq!(taken.load(Relaxed), PIECES, "{path}");
        assert!(n_bytes >= (PIECES - 1) * PIECE_BYTES, "{path} {n_bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn never_reads() {
    let guest = guest(guests::NEVER_READS).load();
    let answer = guest.send(post("/", vec![0; 1_000_000])).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "not read\n"));
}

/// A request body that is written piece by piece while the answer is read.
fn piecewise(target: &str) -> (mpsc::Sender<Frame<Bytes>>, Request<Body>) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((Ok::<_, BoxError>(receiver.recv().await?), receiver))
    });
    let body = Body::new(StreamBody::new(frames.boxed()));
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://shop.example.com{target}"))
        .header("content-type", "text/x")
        .header("trailer", "x-sum");
    (sender, request.body(body).unwrap())
}

async fn check_streams_both_ways(guest: &Loaded) {
    let (sender, request) = piecewise("/");
    let response = guest.replica.call(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/x");
    let mut body = response.into_body();
    for piece in ["one", "two", "three"] {
        // The next piece is sent when the last one came back: nothing waits for the end.
        sender.send(Frame::data(piece.into())).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    let trailers =
        HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("11"))]);
    sender
        .send(Frame::trailers(trailers.clone()))
        .await
        .unwrap();
    drop(sender);
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap(), trailers);
    assert!(body.frame().await.is_none());
    guest.ended("ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn echo() {
    check_streams_both_ways(&guest(guests::ECHO).load()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_echo() {
    check_streams_both_ways(&guest(guests::P3_ECHO).load()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways() {
    let large: Vec<u8> = (0..5_000_000_u32).map(|index| (index / 7) as u8).collect();
    for path in [guests::ECHO, guests::P3_ECHO] {
        let answer = guest(path)
            .load()
            .send(post("/", large.clone()))
            .await
            .unwrap();
        assert!(answer.body == large, "{path}: {} bytes", answer.body.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn early_answer() {
    let guest = guest(guests::EARLY_ANSWER).load();
    let (sender, request) = piecewise("/");
    let mut body = guest.replica.call(request).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "early\n");
    sender.send(Frame::data("12345".into())).await.unwrap();
    drop(sender);
    let last = body.frame().await.unwrap().unwrap();
    assert_eq!(last.into_data().unwrap(), "read 5 bytes\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn events() {
    // The second one never comes.
    let guest = guest(guests::EVENTS)
        .limits(|limits| limits.wall_timeout_ms = 600_000)
        .load();
    let request = Request::builder().uri("http://a.example/?n=2&ms=600000");
    let request = request.body(Body::default()).unwrap();
    let mut body = guest.replica.call(request).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "data: 0\n\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn echo_request() {
    let guest = guest(guests::ECHO_REQUEST).load();
    // The edge gives an absolute URI, or a `Host` header.
    let absolute = Request::builder()
        .method(Method::PUT)
        .uri("https://shop.example.com:8443/a/b?c=d%20e")
        .header("x-one", "1")
        .body(Body::default())
        .unwrap();
    let seen = guest.send(absolute).await.unwrap();
    for part in [
        r#""method":"PUT""#,
        r#""scheme":"https""#,
        r#""authority":"shop.example.com:8443""#,
        r#""target":"/a/b?c=d%20e""#,
        r#"["x-one","1"]"#,
    ] {
        assert!(seen.text().contains(part), "{part}: {}", seen.text());
    }
    let relative = Request::builder()
        .uri("/x")
        .header("host", "other.example.com")
        .body(Body::default())
        .unwrap();
    let seen = guest.send(relative).await.unwrap();
    for part in [
        r#""scheme":"http""#,
        r#""authority":"other.example.com""#,
        r#""target":"/x""#,
    ] {
        assert!(seen.text().contains(part), "{part}: {}", seen.text());
    }
    let nonsense = Request::builder()
        .uri("/")
        .header("host", "a b")
        .body(Body::default());
    let error = guest.send(nonsense.unwrap()).await.unwrap_err();
    assert_eq!((error.code, error.status), ("bad-request", 400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_a_body_is_not_a_caller_that_went_away() {
    // A server drops these bodies unread.
    let mut head = get("/?bytes=300000&length=1");
    *head.method_mut() = Method::HEAD;
    for request in [head, get("/?bytes=0&length=1")] {
        let guest = guest(guests::BIG_BODY).load();
        let response = guest.replica.call(request).await.unwrap();
        assert!(response.headers().contains_key("content-length"));
        drop(response);
        guest.ended("ok").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end_that_nobody_sees_is_cut_off() {
    let mut head = get("/?bytes=1000000000000");
    *head.method_mut() = Method::HEAD;
    let guest = guest(guests::BIG_BODY).load();
    drop(guest.replica.call(head).await.unwrap());
    guest.ended("cancelled").await;
    eventually(|| guest.replica.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn chatty() {
    let guest = guest(guests::CHATTY).load();
    guest.body("/lines?n=3").await;
    eventually(|| guest.log.lines(LogStream::Stdout).len() == 3).await;
    assert_eq!(
        guest.log.lines(LogStream::Stdout),
        ["line 0", "line 1", "line 2"]
    );
    guest.body("/partial?stream=stderr").await;
    eventually(|| guest.log.lines(LogStream::Stderr) == ["no line break"]).await;
    guest.body("/control?stream=stderr").await;
    eventually(|| guest.log.lines(LogStream::Stderr).len() == 2).await;
    assert_eq!(
        guest.log.lines(LogStream::Stderr)[1],
        "\\u{1b}[31mred\\u{1b}[0m \\u{7}bell \\u{d}over \u{fffd}\u{fffd} end"
    );
    guest.body("/long?bytes=20000").await;
    eventually(|| guest.log.lines(LogStream::Stdout).len() == 6).await;
    let lengths: Vec<_> = guest.log.lines(LogStream::Stdout)[3..]
        .iter()
        .map(String::len)
        .collect();
    assert_eq!(lengths, [8192, 8192, 3616]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cacheable() {
    let guest = guest(guests::CACHEABLE).load();
    let said = async |path: &str| {
        let answer = guest.get(path).await.unwrap();
        let said = answer.headers.get("cache-control").cloned();
        (
            answer.status,
            said.map(|said| said.to_str().unwrap().to_owned()),
        )
    };
    let minute = Some("max-age=60".to_owned());
    assert_eq!(said("/minute?ms=1").await, (200, minute));
    let private = Some("private, max-age=60".to_owned());
    assert_eq!(said("/private").await, (200, private));
    assert_eq!(said("/other").await, (200, None));
    assert_ne!(guest.body("/minute").await, guest.body("/minute").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn front() {
    let guest = guest(guests::FRONT).load();
    let text = guest.get("/text").await.unwrap();
    assert_eq!((text.status, text.text()), (200, "a text\n"));
    assert_eq!(text.headers["content-length"], "7");
    let counted = guest.send(post("/length", "ab")).await.unwrap();
    assert_eq!(counted.text(), format!("2 {}\n", 97 * 31 + 98));
    let echoed = guest.send(post("/echo", "body")).await.unwrap();
    assert_eq!(echoed.text(), "body");
    let unchanged = guest.get("/status?code=304").await.unwrap();
    assert_eq!((unchanged.status, unchanged.text()), (304, ""));
    let found = guest.get("/redirect?to=/x").await.unwrap();
    assert_eq!(
        (found.status, &found.headers["location"]),
        (302, &HeaderValue::from_static("/x"))
    );
    assert_eq!(guest.body("/stream?ms=1").await, "first\nlast\n");
    assert!(
        guest
            .body("/request")
            .await
            .contains(r#""target":"/request""#)
    );
    let stranger = guest.get("/private/x").await.unwrap();
    assert_eq!((stranger.status, stranger.text()), (403, "not you\n"));
    assert_eq!(guest.refusal("/trap").await, ("trap", 500));
}
