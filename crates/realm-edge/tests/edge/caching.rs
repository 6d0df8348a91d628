//! Answers that are used again: what a client gets, and how often a backend is asked for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use realm_edge::{Backend, Body, CacheFigures, CallError, Far, Handle, Line, Table};
use realm_model::digest::Digest;
use realm_model::front::{Front, Fronted};
use realm_model::name::ComponentName;
use realm_model::observed::Revision;
use realm_model::route::{PathPattern, Route};

use crate::support::{Rig, Streams, backend, empty, get, request, soon, text, whole};

pub(crate) const CACHE_BYTES: usize = 64 * 1024 * 1024;

pub(crate) fn app() -> ComponentName {
    "app".parse().expect("a name")
}

pub(crate) fn edition(of: &str) -> Option<Revision> {
    Some(Revision(Digest::of(of.as_bytes())))
}

/// `app` behind all paths, with a cache.
pub(crate) fn cached(
    handle: &Handle,
    here: Vec<Arc<dyn Backend>>,
    others: Vec<Far>,
    revision: Option<Revision>,
) {
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: app(),
        weights: BTreeMap::new(),
    };
    let front = Front {
        cache: true,
        ..Front::default()
    };
    let gates = handle.gates([(app(), Fronted { front, revision })].into());
    let (here, others) = ([(app(), here)].into(), [(app(), others)].into());
    handle.set_table(Table::with_others(vec![route], here, others, gates));
}

pub(crate) async fn rig_of(cache_bytes_max: usize) -> Rig {
    Rig::with_config(Vec::new(), |config| {
        config.cache_bytes_max = cache_bytes_max
    })
    .await
}

/// A backend whose answers say the how-manieth they are, with what a closure makes of the request.
pub(crate) fn counted(
    answer: impl Fn(&Request<Body>, u32) -> Response<Body> + Send + Sync + 'static,
) -> (Arc<dyn Backend>, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let backend = backend(move |request| {
        let number = counted.fetch_add(1, Relaxed) + 1;
        let answer = answer(&request, number);
        async { Ok(answer) }
    });
    (backend, count)
}

pub(crate) fn with(headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(text(body));
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        response
            .headers_mut()
            .append(name, value.parse().expect("a value"));
    }
    response
}

/// An edge with one backend behind a cache.
pub(crate) struct Cached {
    pub(crate) rig: Rig,
    pub(crate) count: Arc<AtomicU32>,
}

impl Cached {
    pub(crate) async fn new(
        answer: impl Fn(&Request<Body>, u32) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let rig = rig_of(CACHE_BYTES).await;
        let (backend, count) = counted(answer);
        cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
        Self { rig, count }
    }

    /// One whose answers have these headers.
    pub(crate) async fn saying(headers: &'static [(&'static str, &'static str)]) -> Self {
        Self::new(|_, number| with(headers, number.to_string())).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (u16, HeaderMap, String) {
        let (status, headers, body) = whole(self.rig.send1(request).await).await;
        let body = String::from_utf8(body.to_vec()).expect("text");
        (status.as_u16(), headers, body)
    }

    /// The body of an answer to a GET with these headers.
    pub(crate) async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> String {
        self.send(asking(uri, headers)).await.2
    }

    /// How often the backend is asked for three of the same.
    pub(crate) async fn asks(&self, headers: &[(&str, &str)]) -> u32 {
        let before = self.count.load(Relaxed);
        for _ in 0..3 {
            self.get("http://a.example/x", headers).await;
        }
        self.count.load(Relaxed) - before
    }

    pub(crate) fn figures(&self) -> CacheFigures {
        self.rig.handle.cache_figures()[&app()]
    }
}

pub(crate) fn asking(uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = get(uri);
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        request
            .headers_mut()
            .append(name, value.parse().expect("a value"));
    }
    request
}

pub(crate) const MINUTE: (&str, &str) = ("cache-control", "max-age=60");

#[tokio::test]
async fn an_answer_that_says_how_long_it_is_good_is_given_again() {
    let mut cached = Cached::saying(&[MINUTE, ("x-mine", "1"), ("link", "a"), ("link", "b")]).await;
    let uri = "http://a.example/x?y=1";
    let (status, headers, body) = cached.send(get(uri)).await;
    assert_eq!((status, body.as_str()), (200, "1"));
    assert_eq!(headers["cache-status"], "realm; fwd=uri-miss; stored");
    let (status, headers, body) = cached.send(get(uri)).await;
    assert_eq!((status, body.as_str()), (200, "1"));
    let told = headers["cache-status"].to_str().expect("text");
    assert!(told.starts_with("realm; hit; ttl="), "{told}");
    assert!(headers.contains_key("age") && headers.contains_key("date"));
    assert_eq!(headers["x-mine"], "1");
    assert_eq!(headers.get_all("link").iter().count(), 2);
    assert_eq!(headers["content-length"], "1");
    // HTTP/2 and HEAD get the same.
    let (status, _, body) = whole(cached.rig.send2(get(uri)).await).await;
    assert_eq!((status.as_u16(), &body[..]), (200, &b"1"[..]));
    let (status, headers, body) = cached.send(request("HEAD", uri, empty())).await;
    assert_eq!(
        (status, body.as_str(), &headers["content-length"]),
        (200, "", &"1".parse().unwrap())
    );
    assert_eq!(cached.count.load(Relaxed), 1);
    let figures = cached.figures();
    assert_eq!((figures.misses, figures.hits), (1, 3));
    assert!(figures.stored_bytes > 0);
    // Each answer is told, with its bytes.
    for bytes in [1, 1, 1, 0] {
        let seen = cached.rig.seen().await;
        assert_eq!((seen.status, seen.bytes_out), (200, bytes));
    }
}

#[tokio::test]
async fn what_does_not_say_so_is_asked_for_each_time() {
    let cases: [&'static [(&str, &str)]; 9] = [
        &[],
        &[
            ("etag", "\"a\""),
            ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ],
        &[("cache-control", "max-age=60, PRIVATE")],
        &[
            ("cache-control", "max-age=60"),
            ("cache-control", "no-store"),
        ],
        &[MINUTE, ("set-cookie", "a=b")],
        &[
            ("cache-control", "public, max-age=60"),
            ("set-cookie", "a=b"),
        ],
        &[MINUTE, ("vary", "*")],
        &[MINUTE, ("vary", "accept"), ("vary", "*")],
        &[MINUTE, ("content-range", "bytes 0-0/1")],
    ];
    for headers in cases {
        let cached = Cached::saying(headers).await;
        assert_eq!(cached.asks(&[]).await, 3, "{headers:?}");
        assert_eq!(cached.figures().stored_bytes, 0, "{headers:?}");
    }
}

#[tokio::test]
async fn what_was_given_to_somebody_is_given_to_others_only_if_it_says_so() {
    let key = [("authorization", "Basic YTpi")];
    let cached = Cached::saying(&[MINUTE]).await;
    assert_eq!(cached.asks(&key).await, 3);
    assert_eq!(cached.asks(&[]).await, 1);
    let cached = Cached::saying(&[("cache-control", "public, max-age=60")]).await;
    assert_eq!(cached.asks(&key).await, 1);
    assert_eq!(cached.asks(&[]).await, 0);
}

#[tokio::test]
async fn who_has_an_answer_already_is_told_so_without_asking() {
    let modified = "Mon, 01 Jan 2024 00:00:00 GMT";
    let cached = Cached::saying(&[
        MINUTE,
        ("etag", "\"a\""),
        ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("content-type", "text/plain"),
        ("access-control-allow-origin", "*"),
    ])
    .await;
    let uri = "http://a.example/x";
    // Also the first one, for whom all of it is asked (`apart.rs`): the next one may have nothing.
    for condition in [
        ("if-none-match", "\"b\", W/\"a\""),
        ("if-modified-since", modified),
    ] {
        let (status, headers, body) = cached.send(asking(uri, &[condition])).await;
        assert_eq!((status, body.as_str()), (304, ""), "{condition:?}");
        assert_eq!(headers["etag"], "\"a\"");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(!headers.contains_key("content-type"));
    }
    assert_eq!(cached.get(uri, &[]).await, "1");
    assert_eq!(cached.get(uri, &[("if-none-match", "\"b\"")]).await, "1");
    assert_eq!(cached.count.load(Relaxed), 1);
}

#[tokio::test]
async fn a_stale_answer_is_asked_about_and_used_again_if_nothing_changed() {
    let cached = Cached::new(|request, number| {
        let condition = request.headers().get("if-none-match");
        let always = ("cache-control", "no-cache");
        match condition.map(http::HeaderValue::as_bytes) {
            Some(b"\"a\"") if number < 4 => {
                let mut response = with(
                    &[always, ("etag", "\"a\""), ("x-number", &number.to_string())],
                    "",
                );
                *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                response
            }
            _ => with(
                &[always, ("etag", if number < 4 { "\"a\"" } else { "\"b\"" })],
                number.to_string(),
            ),
        }
    })
    .await;
    let uri = "http://a.example/x";
    assert_eq!(cached.get(uri, &[]).await, "1");
    for number in ["2", "3"] {
        let (status, headers, body) = cached.send(get(uri)).await;
        assert_eq!((status, body.as_str()), (200, "1"));
        assert_eq!(headers["x-number"], number);
        assert_eq!(
            headers["cache-status"],
            "realm; fwd=stale; fwd-status=304; stored"
        );
    }
    // Changed.
    let (_, headers, body) = cached.send(get(uri)).await;
    assert_eq!(
        (body.as_str(), &headers["etag"]),
        ("4", &"\"b\"".parse().unwrap())
    );
    assert_eq!(cached.figures().revalidated, 2);
}

#[tokio::test]
async fn what_says_that_it_is_too_large_is_not_even_begun() {
    const BYTES: usize = 8 * 1024 * 1024 + 1;
    let cached = Cached::new(|_, _| {
        let length = BYTES.to_string();
        with(&[MINUTE, ("content-length", &length)], vec![b'x'; BYTES])
    })
    .await;
    let (_, headers, body) = cached.send(get("http://a.example/x")).await;
    assert_eq!(headers["cache-status"], "realm; fwd=uri-miss");
    assert_eq!(body.len(), BYTES);
    assert_eq!(cached.figures().stored_bytes, 0);
}

#[tokio::test]
async fn an_answer_may_be_given_once_more_while_the_next_one_is_made() {
    let cached = Cached::saying(&[("cache-control", "max-age=0, stale-while-revalidate=60")]).await;
    let uri = "http://a.example/x";
    assert_eq!(cached.get(uri, &[]).await, "1");
    let (_, headers, body) = cached.send(get(uri)).await;
    assert_eq!(body, "1");
    let told = headers["cache-status"].to_str().expect("text");
    assert!(
        told.starts_with("realm; hit; ttl=-") || told == "realm; hit; ttl=0",
        "{told}"
    );
    soon(async {
        while cached.get(uri, &[]).await == "1" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(cached.figures().stale >= 1);
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_a_failure_if_it_may() {
    for (said, stands_in) in [
        ("max-age=0, stale-if-error=60", true),
        ("max-age=0, stale-if-error=60, must-revalidate", false),
        ("max-age=0", false),
    ] {
        for fails in ["answer", "call", "nobody"] {
            let rig = rig_of(CACHE_BYTES).await;
            let count = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&count);
            let failing = backend(move |_| {
                let number = counted.fetch_add(1, Relaxed) + 1;
                async move {
                    match (number, fails) {
                        (1, _) => Ok(with(&[("cache-control", said), ("etag", "\"a\"")], "good")),
                        (_, "answer") => {
                            let mut response = with(&[], "bad");
                            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                            Ok(response)
                        }
                        _ => Err(CallError::new(
                            http::StatusCode::GATEWAY_TIMEOUT,
                            "wall-timeout",
                            "late",
                        )),
                    }
                }
            });
            cached(&rig.handle, vec![failing], Vec::new(), edition("one"));
            let here = Cached { rig, count };
            let uri = "http://a.example/x";
            assert_eq!(here.get(uri, &[]).await, "good");
            if fails == "nobody" {
                cached(&here.rig.handle, Vec::new(), Vec::new(), edition("one"));
            }
            let (status, _, body) = here.send(get(uri)).await;
            assert_eq!(
                (status == 200 && body == "good"),
                stands_in,
                "{said} {fails}"
            );
        }
    }
}

#[tokio::test]
async fn what_changes_something_has_it_asked_for_again() {
    let cached = Cached::new(|request, number| {
        let mut response = with(&[MINUTE], number.to_string());
        if request.method() == "POST" && request.uri().query() == Some("fails") {
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
        }
        response
    })
    .await;
    let uri = "http://a.example/x";
    assert_eq!(cached.get(uri, &[]).await, "1");
    cached
        .send(request("POST", "http://a.example/y", empty()))
        .await;
    assert_eq!(cached.get(uri, &[]).await, "1");
    // However the host is written, and with or without a port.
    for (number, method) in ["POST", "PUT", "DELETE", "PATCH", "BREW"]
        .iter()
        .enumerate()
    {
        let before = cached.get(uri, &[]).await;
        let host = [
            "a.example",
            "A.EXAMPLE",
            "a.example:81",
            "a.example.",
            "a.example",
        ][number];
        let change = request(method, &format!("http://{host}/x"), text("change"));
        let (_, headers, _) = cached.send(change).await;
        assert_eq!(headers["cache-status"], "realm; fwd=method");
        assert_ne!(cached.get(uri, &[]).await, before, "{method}");
    }
    let uri = "http://a.example/x?fails";
    let before = cached.get(uri, &[]).await;
    cached.send(request("POST", uri, empty())).await;
    assert_eq!(cached.get(uri, &[]).await, before, "nothing changed");
    for method in ["OPTIONS", "TRACE"] {
        let uri = "http://a.example/x";
        let before = cached.get(uri, &[]).await;
        cached.send(request(method, uri, empty())).await;
        assert_eq!(
            cached.get(uri, &[]).await,
            before,
            "{method} changes nothing"
        );
    }
}

/// Forms are answered with a redirection.
#[tokio::test]
async fn a_change_that_is_answered_with_a_redirection_is_one() {
    let cached = Cached::new(|request, number| {
        let mut response = with(&[MINUTE], number.to_string());
        if request.method() == "POST" {
            *response.status_mut() = http::StatusCode::SEE_OTHER;
        }
        response
    })
    .await;
    let uri = "http://a.example/x";
    assert_eq!(cached.get(uri, &[]).await, "1");
    cached.send(request("POST", uri, empty())).await;
    assert_eq!(cached.get(uri, &[]).await, "3");
}

#[tokio::test]
async fn a_client_that_wants_only_what_is_there_gets_that_or_nothing() {
    let cached = Cached::saying(&[MINUTE]).await;
    let only = [("cache-control", "Only-If-Cached")];
    let (status, headers, _) = cached.send(asking("http://a.example/x", &only)).await;
    assert_eq!(
        (status, &headers["realm-error"]),
        (504, &"not-in-cache".parse().unwrap())
    );
    assert_eq!(cached.count.load(Relaxed), 0);
    cached.get("http://a.example/x", &[]).await;
    assert_eq!(cached.get("http://a.example/x", &only).await, "1");
}

#[tokio::test]
async fn a_node_keeps_what_another_one_answered_if_both_mean_the_same_version() {
    for (there, asked) in [(edition("one"), 1), (edition("older"), 3), (None, 3)] {
        let (far, near) = (rig_of(CACHE_BYTES).await, rig_of(CACHE_BYTES).await);
        // It says so itself as well, and is not heard.
        let forged = Digest::of(b"one").hex();
        let (backend, count) = counted(move |_, number| {
            with(&[MINUTE, ("realm-edition", &forged)], number.to_string())
        });
        cached(&far.handle, vec![backend], Vec::new(), there);
        let name = "node-0".parse().expect("a name");
        let line = Line::new(name, Box::new(Streams(far.handle.clone())));
        let ways = vec![Far::new(line, app(), 0)];
        cached(&near.handle, Vec::new(), ways, edition("one"));
        for _ in 0..3 {
            let (status, headers, _) = whole(near.send1(get("http://a/x")).await).await;
            assert_eq!(status, 200);
            assert!(!headers.contains_key("realm-edition"), "{headers:?}");
        }
        assert_eq!(count.load(Relaxed), asked, "{there:?}");
        // What it brings to others is not its own to keep.
        assert_eq!(far.handle.cache_figures()[&app()].stored_bytes, 0);
    }
}
