//! Many who want the same answer at once, clients that go away within it, and answers that take too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use realm_edge::Backend;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};

use crate::caching::{CACHE_BYTES, Cached, MINUTE, app, cached, counted, edition, rig_of, with};
use crate::support::{Rig, backend, channel, data, empty, for_http1, get, request, soon, whole};

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

/// What is changed while an answer comes is no word on the next one.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_come_after_a_change_wait_for_one_as_before() {
    let rig = rig_of(CACHE_BYTES).await;
    let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, gates) = (Arc::clone(&count), Arc::clone(&gate));
    let backend = backend(move |request| {
        let is_change = request.method() == "POST";
        let number = match is_change {
            true => 0,
            false => counted.fetch_add(1, Relaxed) + 1,
        };
        let gate = Arc::clone(&gates);
        async move {
            if !is_change {
                gate.acquire().await.expect("it is open some day").forget();
            }
            Ok(with(&[MINUTE], number.to_string()))
        }
    });
    cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
    let mut client = rig.http1().await;
    let late = tokio::spawn(client.send_request(for_http1(get("http://a.example/x"))));
    until(|| count.load(Relaxed) == 1).await;
    let change = rig
        .send1(request("POST", "http://a.example/x", empty()))
        .await;
    assert_eq!(whole(change).await.0, 200);
    gate.add_permits(1);
    let late = soon(late).await.expect("no panic").expect("an answer");
    assert_eq!(&whole(late).await.2[..], b"1");
    let arrived = || count.load(Relaxed) >= 2;
    let bodies = herd(&rig, 20, arrived, || gate.add_permits(100)).await;
    assert!(bodies.iter().all(|body| body == "2"), "{bodies:?}");
}

/// It brings no body: those who wait for it would all ask at once in the end.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_request_for_the_head_alone() {
    let rig = rig_of(CACHE_BYTES).await;
    let (backend, count, gate) = gated(&[MINUTE]);
    cached(&rig.handle, vec![backend], Vec::new(), edition("one"));
    let mut client = rig.http1().await;
    let head = for_http1(request("HEAD", "http://a.example/x", empty()));
    let head = tokio::spawn(client.send_request(head));
    until(|| count.load(Relaxed) == 1).await;
    let arrived = || count.load(Relaxed) == 2;
    let bodies = herd(&rig, 50, arrived, || gate.add_permits(100)).await;
    assert!(bodies.iter().all(|body| body == "2"), "{bodies:?}");
    assert_eq!(count.load(Relaxed), 2);
    assert!(soon(head).await.expect("no panic").is_ok());
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

/// What a backend sends of the body of one answer.
type Sending = mpsc::Sender<Result<http_body::Frame<bytes::Bytes>, realm_edge::BoxError>>;

/// An edge with a backend whose bodies a test sends piece by piece.
async fn streaming(
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> (Rig, mpsc::UnboundedReceiver<Sending>) {
    let rig = rig_of(CACHE_BYTES).await;
    let (bodies, begun) = mpsc::unbounded_channel();
    let streaming = backend(move |_| {
        let (sender, body) = channel();
        let _ = bodies.send(sender);
        let mut response = with(headers, "");
        *response.body_mut() = body;
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        async { Ok(response) }
    });
    cached(&rig.handle, vec![streaming], Vec::new(), edition("one"));
    (rig, begun)
}

/// Nobody leaves meanwhile.
async fn send_later(sender: Sending, text: &'static str) {
    let left = tokio::time::timeout(Duration::from_millis(300), sender.closed());
    assert!(left.await.is_err(), "nobody reads it");
    send(sender, text).await;
}

async fn send(sender: Sending, text: &'static str) {
    soon(sender.send(data(text))).await.expect("it is read");
}

async fn text_of(rig: &Rig, request: http::Request<realm_edge::Body>) -> (u16, String) {
    let (status, _, body) = whole(rig.send1(request).await).await;
    (
        status.as_u16(),
        String::from_utf8(body.to_vec()).expect("text"),
    )
}

/// As it does without a cache: else who leaves at once holds a place of the component to the answer's end.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_with_its_client_and_nothing_of_it_is_kept() {
    let (rig, mut begun) = streaming(200, &[MINUTE]).await;
    for _ in 0..2 {
        let mut client = rig.connect().await;
        client
            .write_all(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await
            .expect("sent");
        let sender = soon(begun.recv()).await.expect("it begins");
        sender.send(data("first ")).await.expect("it is read");
        drop(client);
        soon(sender.closed()).await;
    }
    let asks = text_of(&rig, get("http://a.example/x"));
    let answers = async { send(begun.recv().await.expect("it begins"), "all").await };
    let ((status, body), ()) = tokio::join!(asks, answers);
    assert_eq!((status, body.as_str()), (200, "all"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_it_already_waits_for_what_others_will_get() {
    let (rig, mut begun) = streaming(200, &[MINUTE, ("etag", "\"a\"")]).await;
    let mut ask = get("http://a.example/x");
    let tag = "\"a\"".parse().expect("a value");
    ask.headers_mut().insert("if-none-match", tag);
    let answers = async { send_later(begun.recv().await.expect("it begins"), "all").await };
    let ((status, body), ()) = tokio::join!(text_of(&rig, ask), answers);
    assert_eq!((status, body.as_str()), (304, ""));
    let (status, body) = text_of(&rig, get("http://a.example/x")).await;
    assert_eq!((status, body.as_str()), (200, "all"));
}

/// Its client gets no body, and does not read to the end of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_body_is_kept_however_late_its_end_comes() {
    let (rig, mut begun) = streaming(204, &[MINUTE]).await;
    let answers = async { send_later(begun.recv().await.expect("it begins"), "").await };
    let (answer, ()) = tokio::join!(text_of(&rig, get("http://a.example/x")), answers);
    assert_eq!(answer, (204, String::new()));
    let answer = text_of(&rig, get("http://a.example/x")).await;
    assert_eq!(answer, (204, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_renewed_for_nobody_yet_is_read_to_its_end() {
    let said = ("cache-control", "max-age=0, stale-while-revalidate=600");
    let said: &'static [(&str, &str)] = Box::leak(Box::new([said]));
    let (rig, mut begun) = streaming(200, said).await;
    let old = async { send(begun.recv().await.expect("it begins"), "old").await };
    let ((_, body), ()) = tokio::join!(text_of(&rig, get("http://a.example/x")), old);
    assert_eq!(body, "old");
    let (_, body) = text_of(&rig, get("http://a.example/x")).await;
    assert_eq!(body, "old");
    send(soon(begun.recv()).await.expect("it begins"), "new").await;
    soon(async {
        while text_of(&rig, get("http://a.example/x")).await.1 != "new" {
            tokio::task::yield_now().await;
        }
    })
    .await;
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
