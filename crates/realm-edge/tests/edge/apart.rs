//! What tells requests apart for the cache: what a component may have made an answer of is given to nobody
//! who asked for something else.

use std::sync::atomic::Ordering::Relaxed;

use crate::caching::{CACHE_BYTES, Cached, MINUTE, cached, counted, edition, with};
use crate::support::{Rig, request, text};

#[tokio::test]
async fn requests_for_something_else_go_past_the_cache() {
    let cached = Cached::saying(&[MINUTE]).await;
    assert_eq!(cached.asks(&[]).await, 1);
    for header in [
        ("range", "bytes=0-1"),
        ("if-match", "\"a\""),
        ("if-unmodified-since", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-original-uri", "/admin"),
        ("x-original-method", "DELETE"),
        ("x-http-path-override", "/admin"),
    ] {
        assert_eq!(cached.asks(&[header]).await, 3, "{header:?}");
    }
    // A GET may have a body, and then it says something that no key has.
    for _ in 0..3 {
        let fat = request("GET", "http://a.example/x", text("body"));
        assert_ne!(cached.send(fat).await.2, "1");
    }
    // What they brought is not given to others.
    assert_eq!(cached.asks(&[]).await, 0);
    // Nobody is let past by asking for it.
    assert_eq!(
        cached
            .asks(&[("cache-control", "no-cache"), ("pragma", "no-cache")])
            .await,
        0
    );
}

#[tokio::test]
async fn what_a_component_may_have_made_an_answer_of_tells_answers_apart() {
    let cached = Cached::new(|request, _| {
        let uri = request.uri().to_string();
        with(&[MINUTE], uri)
    })
    .await;
    // An attacker's own spelling is the attacker's alone.
    for uri in [
        "http://a.example/x",
        "http://a.example:8080/x",
        "http://A.example/x",
        "http://a.example/x?",
        "http://a.example/x?a=1&b=2",
        "http://a.example/x?b=2&a=1",
        "http://a.example/%78",
        "http://a.example//x",
    ] {
        for _ in 0..2 {
            let seen = cached.get(uri, &[]).await;
            assert_eq!(seen, uri, "another one's answer");
        }
    }
    assert_eq!(cached.count.load(Relaxed), 8);
    // What a client says of its way is never heard, and so it is no key.
    let before = cached.count.load(Relaxed);
    let poison = [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "ftp"),
        ("forwarded", "host=evil.example"),
        ("x_forwarded_host", "evil.example"),
    ];
    assert_eq!(
        cached.get("http://b.example/x", &poison).await,
        "http://b.example/x"
    );
    assert_eq!(
        cached.get("http://b.example/x", &[]).await,
        "http://b.example/x"
    );
    assert_eq!(cached.count.load(Relaxed), before + 1);
}

#[tokio::test]
async fn headers_of_which_links_are_made_tell_answers_apart() {
    let cached = Cached::new(|request, _| {
        let evil = |value: &&http::HeaderValue| value.as_bytes() == b"evil.example";
        let hit = request.headers().values().find(evil).is_some();
        with(&[MINUTE], if hit { "evil" } else { "good" })
    })
    .await;
    for (number, name) in [
        "x-host",
        "x-original-host",
        "x-http-host-override",
        "x-forwarded",
        "x-script-name",
        "x-scheme",
        "x-url-scheme",
        "front-end-https",
    ]
    .into_iter()
    .enumerate()
    {
        let uri = format!("http://a.example/{number}");
        for _ in 0..2 {
            assert_eq!(cached.get(&uri, &[(name, "evil.example")]).await, "evil");
            assert_eq!(cached.get(&uri, &[]).await, "good", "{name}");
        }
    }
    // Each is kept for its own.
    assert_eq!(cached.count.load(Relaxed), 16);
}

#[tokio::test]
async fn a_scheme_that_a_trusted_proxy_tells_is_told_apart() {
    let rig = Rig::with_config(Vec::new(), |config| {
        config.cache_bytes_max = CACHE_BYTES;
        config.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    })
    .await;
    let (backend, count) = counted(|request, _| with(&[MINUTE], request.uri().to_string()));
    cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
    let cached = Cached { rig, count };
    let of = |scheme| {
        [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-proto", scheme),
        ]
    };
    assert_eq!(cached.get("http://a/x", &of("https")).await, "https://a/x");
    assert_eq!(cached.get("http://a/x", &of("http")).await, "http://a/x");
    let host = [
        ("x-forwarded-for", "203.0.113.1"),
        ("x-forwarded-host", "b"),
    ];
    assert_eq!(cached.get("http://a/x", &host).await, "http://b/x");
    assert_eq!(cached.get("http://a/x", &of("https")).await, "https://a/x");
    assert_eq!(cached.count.load(Relaxed), 3);
}

#[tokio::test]
async fn answers_that_vary_are_given_to_requests_that_are_alike() {
    let cached = Cached::new(|request, _| {
        let language = request.headers().get("accept-language");
        let language = language.map_or("none", |value| value.to_str().expect("text"));
        with(&[MINUTE, ("vary", "Accept-Language")], language.to_owned())
    })
    .await;
    let uri = "http://a.example/x";
    for _ in 0..2 {
        for language in ["de", "en", "fr"] {
            assert_eq!(
                cached.get(uri, &[("accept-language", language)]).await,
                language
            );
        }
        assert_eq!(cached.get(uri, &[]).await, "none");
    }
    assert_eq!(cached.count.load(Relaxed), 4);
    // Another header does not matter.
    assert_eq!(cached.get(uri, &[("x-other", "1")]).await, "none");
    assert_eq!(cached.count.load(Relaxed), 4);
}

/// A component that heard the condition would answer with nothing to keep.
#[tokio::test]
async fn what_a_client_has_is_no_word_to_the_component() {
    let cached = Cached::new(|request, _| {
        let headers = request.headers();
        let conditions = ["if-none-match", "if-modified-since"];
        let is_asked = conditions.iter().any(|name| headers.contains_key(*name));
        with(&[MINUTE], if is_asked { "condition" } else { "all" })
    })
    .await;
    let conditions = [
        ("if-none-match", "\"a\""),
        ("if-modified-since", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ];
    assert_eq!(cached.get("http://a.example/x", &conditions).await, "all");
    assert_eq!(cached.get("http://a.example/x", &[]).await, "all");
}

/// A component that is mended says so with a 304 as well.
#[tokio::test]
async fn what_a_304_says_of_its_dependence_holds_from_then_on() {
    for (vary, is_kept) in [("cookie", true), ("*", false)] {
        let cached = Cached::new(move |request, number| {
            let headers = request.headers();
            let said = "max-age=0, stale-while-revalidate=0, s-maxage=0";
            let mut lines = vec![("cache-control", said), ("etag", "\"a\"")];
            lines.push(("vary", "accept-language"));
            if headers.contains_key("if-none-match") {
                lines[0].1 = "max-age=60";
                lines[2].1 = vary;
                let mut response = with(&lines, "");
                *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                return response;
            }
            if headers.contains_key("cookie") {
                lines[0].1 = "private";
            }
            with(&lines, number.to_string())
        })
        .await;
        let uri = "http://a.example/x";
        let german = ("accept-language", "de");
        assert_eq!(cached.get(uri, &[german]).await, "1");
        assert_eq!(cached.get(uri, &[german]).await, "1", "it is renewed");
        let asked = cached.count.load(Relaxed);
        assert_eq!(asked, 2);
        let mine = cached.get(uri, &[german, ("cookie", "mine")]).await;
        assert_eq!(mine, "3", "{vary}: nothing of others is asked about for it");
        assert_eq!(cached.count.load(Relaxed), asked + 1, "{vary}");
        cached.get(uri, &[("accept-language", "en")]).await;
        assert_eq!(cached.count.load(Relaxed), asked + 2, "{vary}");
        cached.get(uri, &[german]).await;
        let more = if is_kept { 2 } else { 3 };
        assert_eq!(cached.count.load(Relaxed), asked + more, "{vary}");
    }
}
