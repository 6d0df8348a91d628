//! CGI: a command answers requests, one run each, under the same limits as an HTTP handler.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use realm_host::cgi::ScriptName;
use realm_host::{Body, BoxError};
use realm_model::api::LogStream;
use realm_model::manifest::Probe;
use realm_test_guests as guests;
use tokio::sync::mpsc;

use crate::harness::{Guest, eventually, get, guest, post};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cgi_hello() {
    let hello = guest(guests::CGI_HELLO)
        .probe(Probe::Http("/".to_owned()))
        .load();
    let answer = hello.get("/").await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello\n"));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    hello.ended("ok").await;
    assert_eq!(hello.meter().wasm_exec_ms.count, 1);
    assert_eq!(hello.meter().mem_current_bytes, 0);
    hello.replica.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_nobody_sees_does_not_end_the_run() {
    let hello = guest(guests::CGI_HELLO).load();
    let mut request = get("/");
    *request.method_mut() = Method::HEAD;
    let answer = hello.send(request).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, ""));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    hello.ended("ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cgi_echo() {
    let echo = guest(guests::CGI_ECHO).load();
    let large: Vec<u8> = (0..3_000_000_u32).map(|index| (index / 7) as u8).collect();
    let answer = echo.send(post("/", large.clone())).await.unwrap();
    assert_eq!(answer.broken, None);
    assert!(answer.body == large, "{} bytes", answer.body.len());
    echo.ended("ok").await;
    assert!(echo.meter().mem_peak_bytes < 3_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_streams_through_a_run_both_ways() {
    let echo = guest(guests::CGI_ECHO).load();
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((Ok::<_, BoxError>(receiver.recv().await?), receiver))
    });
    let request = get("/").map(|_| Body::new(StreamBody::new(frames.boxed())));
    let response = echo.replica.call(request).await.unwrap();
    let mut body = response.into_body();
    for piece in ["one", "two", "three"] {
        // The next piece is sent when the last one came back: nothing waits for the end.
        sender.send(Frame::data(piece.into())).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(sender);
    assert!(body.frame().await.is_none());
    echo.ended("ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_makes_a_run_wait() {
    let echo = guest(guests::CGI_ECHO).load();
    let zeros = Bytes::from(vec![0; 64 * 1024]);
    let frames =
        futures_util::stream::repeat_with(move || Ok::<_, BoxError>(Frame::data(zeros.clone())));
    // Without end: who does not stop reading it would never be done.
    let frames = frames.take(16 * 400);
    let request = get("/").map(|_| Body::new(StreamBody::new(frames.boxed())));
    let mut body = echo.replica.call(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(echo.replica.in_flight(), 1);
    drop(body);
    echo.ended("cancelled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_large_ends_the_run() {
    let limited = || guest(guests::CGI_ECHO).limits(|limits| limits.max_request_bytes = 1_000);
    let announced = limited().load();
    let error = announced.send(post("/", vec![0; 1_001])).await.unwrap_err();
    assert_eq!((error.code, error.status), ("request-too-large", 413));
    let exact = limited().load();
    assert_eq!(
        exact.send(post("/", vec![1; 1_000])).await.unwrap().body,
        vec![1; 1_000]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cgi_env() {
    let env = guest(guests::CGI_ENV)
        .grants(|grants| {
            grants.env.insert("COLOR".into(), "red".into());
            // The request's word, not the manifest's.
            grants.env.insert("REQUEST_METHOD".into(), "BREW".into());
            grants.args.push("-v".into());
        })
        .load();
    let mut request = Request::builder()
        .method(Method::PUT)
        .uri("https://shop.example.com:8443/app/a%20b?c=d%20e")
        .header("x-one", "1")
        .header("proxy", "http://evil.example/")
        .header("authorization", "Bearer t")
        .header("x_one", "2")
        .header("x-forwarded-for", "6.6.6.6, 203.0.113.7")
        .body(Body::default())
        .unwrap();
    request
        .extensions_mut()
        .insert(ScriptName("/app".to_owned()));
    let seen = env.send(request).await.unwrap();
    for part in [
        r#""COLOR":"red""#,
        r#""REQUEST_METHOD":"PUT""#,
        r#""SCRIPT_NAME":"/app""#,
        r#""PATH_INFO":"/a b""#,
        r#""QUERY_STRING":"c=d%20e""#,
        r#""REMOTE_ADDR":"203.0.113.7""#,
        r#""SERVER_PORT":"8443""#,
        r#""HTTP_X_ONE":"1""#,
        r#""GATEWAY_INTERFACE":"CGI/1.1""#,
        r#""args":["guest","-v"]"#,
    ] {
        assert!(seen.text().contains(part), "{part}: {}", seen.text());
    }
    for part in ["HTTP_PROXY", "evil", "AUTHORIZATION", "BREW"] {
        assert!(!seen.text().contains(part), "{part}: {}", seen.text());
    }
    // A query is no argument.
    let seen = env.get("/?-s").await.unwrap();
    assert!(seen.text().contains(r#""args":["guest","-v"]"#));
    let error = env.get("/%00").await.unwrap_err();
    assert_eq!((error.code, error.status), ("bad-request", 400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cgi_status() {
    for (query, status, headers, body) in [
        (
            "missing",
            404,
            &[("content-type", "text/plain")][..],
            "not here\n",
        ),
        ("local", 302, &[("location", "/elsewhere?x=1")], ""),
        (
            "absolute",
            302,
            &[("location", "https://shop.example.com/")],
            "",
        ),
        (
            "moved",
            301,
            &[
                ("content-type", "text/plain"),
                ("location", "/"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
            ],
            "moved\n",
        ),
        ("empty", 204, &[], ""),
        ("framed", 200, &[("content-type", "text/plain")], "whole\n"),
        (
            "longer",
            200,
            &[("content-length", "3"), ("content-type", "text/plain")],
            "abc",
        ),
    ] {
        let guest = guest(guests::CGI_STATUS).load();
        let answer = guest.get(&format!("/?{query}")).await.unwrap();
        let mut found: Vec<_> = answer
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        found.sort_unstable();
        assert_eq!((answer.status, &*found), (status, headers), "{query}");
        assert_eq!((answer.text(), &answer.broken), (body, &None), "{query}");
        guest.ended("ok").await;
    }
    let guest = guest(guests::CGI_STATUS).load();
    let answer = guest.get("/?shorter").await.unwrap();
    assert_eq!(answer.text(), "abc");
    assert!(answer.broken.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cgi_bad() {
    for (query, code, status, words) in [
        ("nothing", "no-response", 500, ""),
        ("half", "no-response", 500, "empty line"),
        ("text", "bad-response", 502, "`hello, without a head`"),
        ("http", "bad-response", 502, "Status: 200 OK"),
        ("long", "bad-response", 502, "longer than"),
        ("upgrade", "bad-response", 502, "101"),
    ] {
        let guest = guest(guests::CGI_BAD).load();
        let refusal = guest.refusal(&format!("/?{query}")).await;
        assert_eq!(refusal, (code, status), "{query}");
        guest.ended(code).await;
        let said = guest.log.agent();
        assert!(
            said.contains(code) && said.contains(words),
            "{query}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cgi_exit() {
    for query in ["before", "within"] {
        let guest = guest(guests::CGI_EXIT).load();
        assert_eq!(guest.refusal(&format!("/?{query}")).await, ("exit", 500));
        guest.ended("exit").await;
        assert_eq!(guest.log.lines(LogStream::Stderr), ["about to fail"]);
        assert_eq!(guest.log.agent(), "exit: exit code 1");
    }
    // What was sent cannot be taken back, but it is not passed off as whole.
    let guest = guest(guests::CGI_EXIT).load();
    let answer = guest.get("/?after").await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "half"));
    assert!(answer.broken.is_some());
    guest.ended("exit").await;
}

fn doing(what: &str) -> Guest {
    let what = what.to_owned();
    guest(guests::PROGRAM).grants(|grants| grants.args.push(what))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_for_runs_as_for_handlers() {
    for (what, code, status) in [
        ("spin", "epoch-timeout", 504),
        ("park", "wall-timeout", 504),
        ("bomb", "memory-limit", 500),
        ("trap", "trap", 500),
    ] {
        let guest = doing(what)
            .limits(|limits| {
                limits.epoch_timeout_ms = 100;
                limits.wall_timeout_ms = if what == "park" { 100 } else { 20_000 };
                limits.memory_max_mb = 16;
            })
            .load();
        assert_eq!(guest.refusal("/").await, (code, status), "{what}");
        guest.ended(code).await;
        assert_eq!(guest.meter().mem_current_bytes, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_ends_the_run() {
    let guest = doing("park").load();
    let call = guest.replica.call(get("/"));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), call)
            .await
            .is_err()
    );
    eventually(|| guest.replica.in_flight() == 0).await;
    guest.ended("cancelled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fuel_is_counted_for_runs() {
    let hello = guest(guests::CGI_HELLO)
        .limits(|limits| limits.fuel_per_sec = Some(u64::MAX / 4))
        .load();
    assert_eq!(hello.body("/").await, "hello\n");
    hello.ended("ok").await;
    assert!(hello.meter().fuel_used > 1_000, "{:?}", hello.meter());
}
