//! Many who want the same answer at once, clients that go away within it, and answers that take too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use http::Response;
use realm_edge::Backend;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};

use crate::caching::{CACHE_BYTES, Cached, MINUTE, app, cached, counted, edition, rig_of, with};
use crate::support::{Rig, backend, channel, data, for_http1, get, soon, whole};

/// A backend that waits until it is told, and counts.
fn gated(
    headers: &'static [(&'static str, &'static str)],
) -> (Arc<dyn Backend>, Arc<AtomicU32>, Arc<Semaphore>) {
    let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, gates) = (Arc::clone(&count), Arc::clone(&gate));
    let backend = backend(move |_| {
        let number = counted.fetch_add(1, Relaxed) + 1;
        let gate = Arc::clone(&gates);
        async move {
            let _passed = gate.acquire().await.expect("it is open some day");
            Ok(with(headers, number.to_string()))
        }
    });
    (backend, count, gate)
}

/// Waits for a condition.
async fn until(is_so: impl Fn() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// So many of one request at once, over few connections; what each of them got.
async fn herd(
    rig: &Rig,
    count: usize,
    arrived: impl Fn() -> bool,
    open: impl FnOnce(),
) -> Vec<String> {
    let (mut answers, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..count.div_ceil(100) {
        let mut client = rig.http2().await;
        for _ in 0..100.min(count) {
            let ask = client.send_request(get("http://a.example/x"));
            answers.push(tokio::spawn(async move {
                let answer = ask.await.expect("an answer");
                let body = whole(answer).await.2;
                String::from_utf8(body.to_vec()).expect("text")
            }));
        }
        clients.push(client);
    }
    until(arrived).await;
    open();
    let mut bodies = Vec::new();
    for answer in answers {
        bodies.push(soon(answer).await.expect("no panic"));
    }
    // Their answers came over them.
    drop(clients);
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_equal_requests_ask_once() {
    let rig = rig_of(CACHE_BYTES).await;
    let (backend, count, gate) = gated(&[MINUTE]);
    cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
    let arrived = || count.load(Relaxed) == 1;
    let bodies = herd(&rig, 1_000, arrived, || gate.add_permits(10_000)).await;
    assert_eq!(bodies.len(), 1_000);
    assert!(bodies.iter().all(|body| body == "1"));
    assert_eq!(count.load(Relaxed), 1);
    let figures = rig.handle.cache_figures()[&app()];
    assert_eq!(figures.misses, 1);
    assert_eq!(figures.hits + figures.collapsed, 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_waited_for_what_is_not_theirs_go_on_side_by_side() {
    const HERD: usize = 100;
    let rig = rig_of(CACHE_BYTES).await;
    // The first one passes by itself; the others pass once all of them are there.
    let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, gates) = (Arc::clone(&count), Arc::clone(&gate));
    let together = Arc::new(tokio::sync::Barrier::new(HERD - 1));
    let private = backend(move |_| {
        let number = counted.fetch_add(1, Relaxed) + 1;
        let (gate, together) = (Arc::clone(&gates), Arc::clone(&together));
        async move {
            match number {
                1 => drop(gate.acquire().await.expect("it is open some day")),
                _ => {
                    together.wait().await;
                }
            }
            Ok(with(
                &[("cache-control", "private, max-age=60")],
                number.to_string(),
            ))
        }
    });
    cached(&rig.handle, vec![private], Vec::new(), edition("one"));
    let arrived = || count.load(Relaxed) == 1;
    let bodies = herd(&rig, HERD, arrived, || gate.add_permits(1)).await;
    let different: std::collections::BTreeSet<&String> = bodies.iter().collect();
    assert_eq!(different.len(), HERD, "each has its own");
    assert_eq!(count.load(Relaxed), u32::try_from(HERD).expect("few"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_goes_on_when_who_asked_goes_away() {
    let rig = rig_of(CACHE_BYTES).await;
    let (backend, count, gate) = gated(&[MINUTE]);
    cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
    let mut leader = rig.connect().await;
    leader
        .write_all(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await
        .expect("sent");
    until(|| count.load(Relaxed) == 1).await;
    let mut client = rig.http1().await;
    let follower = client.send_request(for_http1(get("http://a.example/x")));
    let follower = tokio::spawn(follower);
    drop(leader);
    until(|| count.load(Relaxed) == 2).await;
    gate.add_permits(10);
    let answer = soon(follower).await.expect("no panic").expect("an answer");
    assert_eq!(&whole(answer).await.2[..], b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_within_an_answer_leaves_all_of_it_or_nothing() {
    let rig = rig_of(CACHE_BYTES).await;
    let (bodies, mut begun) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let streaming = backend(move |_| {
        counted.fetch_add(1, Relaxed);
        let (sender, body) = channel();
        bodies.send(sender).expect("the test lives");
        let mut response = Response::new(body);
        let minute = MINUTE.1.parse().expect("a value");
        response.headers_mut().insert(MINUTE.0, minute);
        async { Ok(response) }
    });
    cached(&rig.handle, vec![streaming], Vec::new(), edition("one"));
    for is_whole in [false, true] {
        let mut client = rig.connect().await;
        client
            .write_all(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await
            .expect("sent");
        let sender = soon(begun.recv()).await.expect("it begins");
        sender.send(data("first ")).await.expect("it is read");
        drop(client);
        sender.send(data("second")).await.expect("it is read on");
        if !is_whole {
            sender
                .send(Err("it broke".into()))
                .await
                .expect("it is read");
        }
        drop(sender);
        until(|| rig.handle.connections() == 0).await;
    }
    assert_eq!(count.load(Relaxed), 2, "the broken one was not kept");
    soon(async {
        loop {
            let mut ask = get("http://a.example/x");
            let only = "only-if-cached".parse().expect("a value");
            ask.headers_mut().insert("cache-control", only);
            let (status, _, body) = whole(rig.send1(ask).await).await;
            if status == 200 {
                assert_eq!(&body[..], b"first second");
                return;
            }
        }
    })
    .await;
    assert_eq!(count.load(Relaxed), 2);
}

#[tokio::test]
async fn answers_that_are_too_large_pass_and_the_least_used_make_room() {
    let rig = rig_of(1024 * 1024).await;
    let (backend, count) = counted(|request, _| {
        let kib: usize = request
            .uri()
            .query()
            .expect("a query")
            .parse()
            .expect("a number");
        with(&[MINUTE], vec![b'x'; kib * 1024])
    });
    cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
    let cached = Cached { rig, count };
    for kib in [2_000, 9_000] {
        for _ in 0..2 {
            let body = cached
                .get(&format!("http://a.example/large?{kib}"), &[])
                .await;
            assert_eq!(body.len(), kib * 1024);
        }
    }
    assert_eq!(cached.count.load(Relaxed), 4);
    for number in 0..50 {
        cached
            .get(&format!("http://a.example/{number}?100"), &[])
            .await;
        assert!(cached.figures().stored_bytes <= 1024 * 1024);
    }
    let before = cached.count.load(Relaxed);
    cached.get("http://a.example/49?100", &[]).await;
    assert_eq!(cached.count.load(Relaxed), before, "the last one is there");
    cached.get("http://a.example/0?100", &[]).await;
    assert_eq!(
        cached.count.load(Relaxed),
        before + 1,
        "the first one is not"
    );
}

#[tokio::test]
async fn slow_readers_of_many_answers_take_no_more_than_the_cache_may() {
    const BYTES: usize = 4 * 1024 * 1024;
    let rig = rig_of(8 * 1024 * 1024).await;
    let (backend, _) = counted(|_, _| with(&[MINUTE], vec![b'x'; BYTES]));
    cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
    let mut slow = Vec::new();
    for number in 0..8 {
        let mut client = rig.connect().await;
        let head = format!("GET /{number} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("sent");
        client.readable().await.expect("it begins");
        slow.push(client);
        let stored = rig.handle.cache_figures()[&app()].stored_bytes;
        assert!(stored <= 8 * 1024 * 1024, "{stored} after {number}");
    }
    let answer = whole(rig.send1(get("http://a.example/new")).await).await;
    assert_eq!(answer.2.len(), BYTES, "others are served all the same");
    drop(slow);
    until(|| {
        let figures = rig.handle.cache_figures()[&app()];
        figures.stored_bytes <= 8 * 1024 * 1024
    })
    .await;
}

#[tokio::test]
async fn another_version_gives_its_own_answers() {
    let rig = rig_of(CACHE_BYTES).await;
    let make = |name: &'static str| counted(move |_, _| with(&[MINUTE], name)).0;
    let ask = async || {
        let body = whole(rig.send1(get("http://a.example/x")).await).await.2;
        String::from_utf8(body.to_vec()).expect("text")
    };
    cached(&rig.handle, vec![make("one")], Vec::new(), edition("one"));
    assert_eq!(ask().await, "one");
    // The same version, from another replica.
    cached(
        &rig.handle,
        vec![make("another")],
        Vec::new(),
        edition("one"),
    );
    assert_eq!(ask().await, "one");
    // While one replaces another nothing is kept.
    cached(&rig.handle, vec![make("mixed")], Vec::new(), None);
    assert_eq!(ask().await, "mixed");
    cached(&rig.handle, vec![make("two")], Vec::new(), edition("two"));
    assert_eq!(ask().await, "two");
    cached(&rig.handle, vec![make("back")], Vec::new(), edition("one"));
    assert_eq!(ask().await, "back");
}
