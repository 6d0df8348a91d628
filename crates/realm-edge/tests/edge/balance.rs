//! Several replicas: who is asked, and when a second one is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use realm_edge::{Backend, Body, CallError};

use crate::support::{Rig, backend, channel, data, get, named, request, text, whole};

/// A replica that refuses everything; with or without having read the body.
fn refusing(retryable: bool, reads: bool, calls: &Arc<AtomicU32>) -> Arc<dyn Backend> {
    let calls = Arc::clone(calls);
    backend(move |request| {
        calls.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut body: Body = request.into_body();
            if reads {
                while body.frame().await.is_some() {}
            }
            Err(CallError {
                retryable,
                retry_after_s: Some(3),
                hint: Some("wait"),
                ..CallError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "no \"room\"")
            })
        }
    })
}

fn echo() -> Arc<dyn Backend> {
    backend(|request| async move {
        let head = format!("{} {} ", request.method(), request.uri());
        let sum = request.headers().get("x-sum").cloned();
        let body = request.into_body().collect().await.expect("a whole body");
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Response::new(text(format!("{head}{sum:?} {body}"))))
    })
}

/// Two replicas, one of which refuses: the answer of each of many requests, and whether one of
/// them was asked twice.
async fn check(
    make_bad: impl Fn(&Arc<AtomicU32>) -> Arc<dyn Backend>,
    body: fn() -> Body,
    is_retried: bool,
) {
    let calls = Arc::new(AtomicU32::new(0));
    let mut rig = Rig::with_config(vec![make_bad(&calls), echo()], |_| {}).await;
    let mut n_retried = 0;
    for _ in 0..40 {
        let mut post = request("POST", "http://h/p?q", body());
        post.headers_mut()
            .insert("x-sum", "7".parse().expect("a value"));
        let (status, headers, answer) = whole(rig.send2(post).await).await;
        let seen = rig.seen().await;
        n_retried += u32::from(seen.retried);
        if is_retried || status == StatusCode::OK {
            assert!(answer.starts_with(b"POST http://h/p?q Some(\"7\") abc"));
        } else {
            assert_eq!(headers["realm-error"], "overloaded");
            assert_eq!(headers["retry-after"], "3");
            assert_eq!(answer, "error[overloaded]: no \"room\"\nhint: wait\n");
            assert_eq!(seen.code, Some("overloaded"));
        }
    }
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls > 0, "both replicas are asked");
    assert_eq!(n_retried, if is_retried { calls } else { 0 });
}

fn whole_body() -> Body {
    text("abc")
}

fn streamed_body() -> Body {
    let (sender, body) = channel();
    tokio::spawn(async move { sender.send(data("abc")).await });
    body
}

#[tokio::test]
async fn an_untouched_request_goes_to_another_replica() {
    check(|calls| refusing(true, false, calls), whole_body, true).await;
    check(|calls| refusing(true, false, calls), streamed_body, true).await;
}

/// More than is kept of a body that was read.
fn large_body() -> Body {
    text("abc".repeat(50_000))
}

#[tokio::test]
async fn a_request_of_which_little_was_read_does_as_well() {
    check(|calls| refusing(true, true, calls), whole_body, true).await;
    check(|calls| refusing(true, true, calls), streamed_body, true).await;
}

#[tokio::test]
async fn a_request_of_which_much_was_read_does_not() {
    check(|calls| refusing(true, true, calls), large_body, false).await;
}

#[tokio::test]
async fn a_request_that_reached_the_guest_does_not() {
    check(|calls| refusing(false, false, calls), whole_body, false).await;
}

#[tokio::test]
async fn there_is_one_retry() {
    let calls = Arc::new(AtomicU32::new(0));
    let replicas = (0..3).map(|_| refusing(true, false, &calls)).collect();
    let mut rig = Rig::with_config(replicas, |_| {}).await;
    let answer = rig.send1(get("http://h/")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert!(rig.seen().await.retried);
    // A lone replica is asked once.
    let calls = Arc::new(AtomicU32::new(0));
    let rig = Rig::new(refusing(true, false, &calls)).await;
    rig.send1(get("http://h/")).await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_busy_replica_is_spared() {
    let busy = backend(|_| std::future::pending());
    let _calls: Vec<_> = (0..3)
        .map(|_| busy.call(request("GET", "http://h/", text(""))))
        .collect();
    let rig = Rig::with_config(vec![busy, named("free")], |_| {}).await;
    for _ in 0..40 {
        assert_eq!(whole(rig.send1(get("http://h/")).await).await.2, "free");
    }
}
