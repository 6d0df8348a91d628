//! Answers that are too old: who is asked about them, with what words, and what becomes of what is heard.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use realm_edge::Body;

use crate::caching::{CACHE_BYTES, MINUTE};
use crate::caching::{Cached, asking, cached, edition, rig_of, with};
use crate::support::{backend, empty, get, request, soon, whole};

const URI: &str = "http://a.example/x";
const TAG: (&str, &str) = ("etag", "\"a\"");

fn is_asked_about(request: &Request<Body>) -> bool {
    request.headers().contains_key("if-none-match")
}

fn unchanged(headers: &[(&str, &str)]) -> Response<Body> {
    let mut response = with(headers, "");
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// What is kept stands in for failures, not for what is not there any more.
#[tokio::test]
async fn what_is_gone_is_gone_whatever_was_kept_of_it() {
    for (status, stands_in) in [(404, false), (410, false), (500, true), (504, true)] {
        let cached = Cached::new(move |_, number| {
            let said = ("cache-control", "max-age=0, stale-if-error=60");
            let mut response = with(&[said], number.to_string());
            if number > 1 {
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            }
            response
        })
        .await;
        assert_eq!(cached.get(URI, &[]).await, "1");
        let (now, _, body) = cached.send(get(URI)).await;
        let expected = if stands_in { (200, "1") } else { (status, "2") };
        assert_eq!((now, body.as_str()), expected);
    }
}

#[tokio::test]
async fn a_304_to_somebody_is_for_others_only_if_it_says_so() {
    for (said, asked) in [("max-age=60", 3), ("public, max-age=60", 2)] {
        let cached = Cached::new(move |request, number| match is_asked_about(request) {
            true => unchanged(&[("cache-control", said), TAG]),
            false => with(
                &[("cache-control", "public, max-age=0"), TAG],
                number.to_string(),
            ),
        })
        .await;
        let somebody = [("authorization", "Basic YTpi")];
        assert_eq!(cached.get(URI, &somebody).await, "1");
        assert_eq!(cached.get(URI, &somebody).await, "1");
        cached.get(URI, &[]).await;
        assert_eq!(cached.count.load(Relaxed), asked, "{said}");
    }
}

#[tokio::test]
async fn who_has_what_was_renewed_is_told_so() {
    let cached = Cached::new(|request, number| match is_asked_about(request) {
        true => unchanged(&[("cache-control", "no-cache"), TAG]),
        false => with(&[("cache-control", "no-cache"), TAG], number.to_string()),
    })
    .await;
    assert_eq!(cached.get(URI, &[]).await, "1");
    let (status, _, body) = cached
        .send(asking(URI, &[("if-none-match", "\"a\"")]))
        .await;
    assert_eq!((status, body.as_str()), (304, ""));
    let (status, _, body) = cached
        .send(asking(URI, &[("if-none-match", "\"b\"")]))
        .await;
    assert_eq!((status, body.as_str()), (200, "1"));
}

/// A 304 about an answer that is not the one that is kept.
#[tokio::test]
async fn what_is_not_it_any_more_is_not_asked_about_again() {
    let cached = Cached::new(|request, number| match (is_asked_about(request), number) {
        (true, _) => unchanged(&[("cache-control", "no-cache"), ("etag", "\"b\"")]),
        (false, 1) => with(&[("cache-control", "no-cache"), TAG], "1"),
        (false, _) => with(&[("cache-control", "private")], number.to_string()),
    })
    .await;
    assert_eq!(cached.get(URI, &[]).await, "1");
    assert_eq!(cached.get(URI, &[]).await, "3");
    assert_eq!(cached.get(URI, &[]).await, "4");
}

#[tokio::test]
async fn a_request_for_the_head_has_all_of_it_renewed() {
    let methods = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&methods);
    let cached = Cached::new(move |request, number| {
        seen.lock()
            .expect("no panic holds it")
            .push(request.method().to_string());
        let said = match number {
            1 => "max-age=0, stale-while-revalidate=60",
            _ => "max-age=60",
        };
        with(&[("cache-control", said)], number.min(2).to_string())
    })
    .await;
    assert_eq!(cached.get(URI, &[]).await, "1");
    let (status, ..) = cached.send(request("HEAD", URI, empty())).await;
    assert_eq!(status, 200);
    soon(async {
        while cached.get(URI, &[]).await != "2" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let methods = methods.lock().expect("no panic holds it").clone();
    assert!(methods.iter().all(|method| method == "GET"), "{methods:?}");
}

/// Renewals have no client that waits: there are so many at once, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn not_all_that_is_too_old_is_renewed_at_once() {
    const PAGES: u32 = 80;
    let rig = rig_of(CACHE_BYTES).await;
    let (count, gate) = (
        Arc::new(std::sync::atomic::AtomicU32::new(0)),
        Arc::new(tokio::sync::Semaphore::new(PAGES as usize)),
    );
    let (counted, gates) = (Arc::clone(&count), Arc::clone(&gate));
    let slow = backend(move |_| {
        counted.fetch_add(1, Relaxed);
        let gate = Arc::clone(&gates);
        async move {
            gate.acquire().await.expect("it is open").forget();
            let said = ("cache-control", "max-age=0, stale-while-revalidate=600");
            Ok(with(&[said], "page"))
        }
    });
    cached(&rig.handle, vec![slow], Vec::new(), edition("one"));
    let mut client = rig.http2().await;
    for _ in 0..3 {
        for page in 0..PAGES {
            let sent = client.send_request(get(&format!("http://a.example/{page}")));
            let answer = soon(sent).await.expect("an answer");
            assert_eq!(whole(answer).await.0, 200);
        }
    }
    soon(async {
        while count.load(Relaxed) < PAGES + 64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(count.load(Relaxed), PAGES + 64);
}

/// Whoever keeps it in turn counts from there.
#[tokio::test]
async fn an_answer_says_when_it_was_made_and_who_else_kept_it() {
    let cached = Cached::saying(&[MINUTE, ("cache-status", "inner; hit")]).await;
    let (_, headers, _) = cached.send(get(URI)).await;
    let told = "inner; hit, realm; fwd=uri-miss; stored";
    assert_eq!(headers["cache-status"], told);
    let date = async || {
        let (_, headers, _) = cached.send(get(URI)).await;
        let told = headers["cache-status"].to_str().expect("text").to_owned();
        assert!(told.starts_with("inner; hit, realm; hit; ttl="), "{told}");
        headers["date"].clone()
    };
    let made = date().await;
    // A second later by the clock of the machine.
    let now = || httpdate::fmt_http_date(std::time::SystemTime::now());
    let then = now();
    soon(async {
        while now() == then || now().as_bytes() == made.as_bytes() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(date().await, made);
}
