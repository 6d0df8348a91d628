//! Who an answer on its way is read for, and who waits for whom.

use futures_util::FutureExt as _;
use http::header::CACHE_CONTROL;
use realm_model::digest::Digest;
use realm_model::name::ComponentName;

use super::*;
use crate::cache::Cache;
use crate::cache::flights::{Told, Turn};
use crate::cache::tests::{body, data};

fn edition() -> Revision {
    Revision(Digest::of(b"one"))
}

fn caching() -> Caching {
    let component: ComponentName = "app".parse().expect("a name");
    let cache = Cache::new(1024 * 1024);
    let mut caching = cache.of([(component.clone(), Some(edition()))].into());
    caching.remove(&component).expect("it has a cache")
}

fn key() -> Key {
    Key {
        uri: b"/x".as_slice().into(),
        base: b"base".as_slice().into(),
    }
}

fn head(length: Option<u64>) -> Head {
    saying("max-age=60", length)
}

fn saying(said: &'static str, length: Option<u64>) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(said));
    headers.insert(ETAG, HeaderValue::from_static("\"a\""));
    if let Some(length) = length {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    let came = Came::since(Instant::now());
    Head {
        key: key(),
        edition: edition(),
        varies: Varies::new(),
        status: StatusCode::OK,
        policy: Policy::of(false, StatusCode::OK, &headers, came).expect("it is kept"),
        headers,
    }
}

fn lead(caching: &Caching) -> Flight {
    match caching.cache.flights.join(b"x", Instant::now()) {
        Turn::Lead(flight) => flight,
        Turn::Follow(_) | Turn::Alone => panic!("nobody else asks"),
    }
}

fn follow(caching: &Caching) -> Told {
    match caching.cache.flights.join(b"x", Instant::now()) {
        Turn::Follow(told) => told,
        Turn::Lead(_) | Turn::Alone => panic!("somebody asks"),
    }
}

fn is_kept(caching: &Caching) -> bool {
    caching
        .cache
        .store
        .find(&key(), &HeaderMap::new())
        .is_some()
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_with_its_client_if_nobody_waits_for_it() {
    let caching = caching();
    let standing = caching.cache.store.standing(&key());
    let (sender, body) = body();
    let filled = caching.keep(head(None), body, standing, Some(lead(&caching)));
    let filled = filled.await;
    sender.send(data(10)).expect("it is read");
    let told = follow(&caching);
    drop(filled);
    // Somebody does.
    sleep(LOOKED_AFTER * 3).await;
    sender.send(data(10)).expect("it is read on");
    assert!(sender.closed().now_or_never().is_none());
    // Until that one gives up as well.
    drop(told);
    sender.closed().await;
    assert!(!is_kept(&caching));
    // The next one has it asked for anew, and hears nothing of that.
    drop(lead(&caching));
}

/// Of what has to be asked about each time those who waited would ask one after the other.
#[tokio::test]
async fn what_is_too_old_at_once_is_waited_for_by_nobody() {
    for (said, is_of_use) in [
        ("max-age=60", true),
        ("no-cache", false),
        ("max-age=0", false),
        ("max-age=0, stale-if-error=60", false),
        ("max-age=0, stale-while-revalidate=60", true),
    ] {
        let caching = caching();
        let standing = caching.cache.store.standing(&key());
        let flight = lead(&caching);
        let told = follow(&caching);
        let (sender, body) = body();
        drop(sender);
        let filled = caching.keep(saying(said, None), body, standing, Some(flight));
        filled.await.read_out().await;
        assert!(is_kept(&caching), "{said}");
        let landed = caching.cache.flights.wait(told, Instant::now()).await;
        let expected = if is_of_use {
            Landed::Kept
        } else {
            Landed::Alone
        };
        assert_eq!(landed, Some(expected), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_an_answer_whose_client_left() {
    let caching = caching();
    let standing = caching.cache.store.standing(&key());
    let (sender, body) = body();
    let filled = caching.keep(head(None), body, standing, Some(lead(&caching)));
    let filled = filled.await;
    let told = follow(&caching);
    drop(filled);
    sleep(LOOKED_AFTER * 3).await;
    sender.send(data(10)).expect("it is read on");
    drop(sender);
    let landed = caching.cache.flights.wait(told, Instant::now()).await;
    assert_eq!(landed, Some(Landed::Kept));
    assert!(is_kept(&caching));
}

/// A connection closes a body as soon as it has so many bytes as its head says.
#[tokio::test(start_paused = true)]
async fn who_has_had_all_has_not_left() {
    let caching = caching();
    let standing = caching.cache.store.standing(&key());
    let (sender, body) = body();
    let filled = caching.keep(head(Some(20)), body, standing, None);
    let mut filled = filled.await;
    for _ in 0..2 {
        sender.send(data(10)).expect("it is read");
        let frame = filled.frame().await.expect("more").expect("no failure");
        assert_eq!(frame.into_data().map(|data| data.len()).ok(), Some(10));
    }
    drop(filled);
    sleep(LOOKED_AFTER * 3).await;
    assert!(!sender.is_closed());
    drop(sender);
    while !is_kept(&caching) {
        tokio::task::yield_now().await;
    }
}

/// A request of somebody who speaks a language.
fn asking(headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    request
}

#[test]
fn nobody_waits_for_what_is_somebodys_nor_for_what_is_for_others_as_far_as_that_is_known() {
    let caching = caching();
    let turn = |headers: &[(&'static str, &'static str)]| caching.turn(&key(), &asking(headers));
    let (german, english) = (("accept-language", "de"), ("accept-language", "en"));
    {
        let _one = turn(&[german]);
        // Nothing is known yet.
        assert!(matches!(turn(&[english]), Turn::Follow(_)));
        let somebody = turn(&[("authorization", "Basic YTpi"), german]);
        assert!(matches!(somebody, Turn::Alone));
    }
    let standing = caching.cache.store.standing(&key());
    let varying = Head {
        varies: vec![(
            http::header::ACCEPT_LANGUAGE,
            vec![HeaderValue::from_static("de")],
        )],
        ..head(None)
    };
    assert!(caching.put(varying, Vec::new(), standing).is_some());
    let one = turn(&[german]);
    assert!(matches!(one, Turn::Lead(_)));
    assert!(matches!(turn(&[german]), Turn::Follow(_)));
    let other = turn(&[english]);
    assert!(matches!(other, Turn::Lead(_)));
    // Two lines are not one that says the same.
    assert!(matches!(turn(&[german, english]), Turn::Lead(_)));
}
