//! A component whose clients begin again at once, beside one that is asked now and then, on one serving
//! thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use realm_edge::{Backend, CallError};

use crate::support::{Rig, backend, for_http1, get, named, soon, table, text, whole};

const GREEDY_CLIENTS: u32 = 30;
const REQUESTS: u32 = 40;
/// What an answer of the greedy one takes of the thread.
const ANSWER_TAKES: Duration = Duration::from_millis(1);

fn spin() {
    let until = Instant::now() + ANSWER_TAKES;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// How many answers of the greedy one there are for each of the other one.
async fn answers_between(greedy: impl Fn(&Arc<AtomicU32>) -> Arc<dyn Backend>) -> u32 {
    let answered = Arc::new(AtomicU32::new(0));
    let rig = Rig::with_config(Vec::new(), |config| config.workers = 1).await;
    rig.handle.set_table(table(
        &[("*/greedy", "greedy"), ("*/quiet", "quiet")],
        &[
            ("greedy", vec![greedy(&answered)]),
            ("quiet", vec![named("quiet")]),
        ],
    ));
    let rig = Arc::new(rig);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..GREEDY_CLIENTS {
        let rig = Arc::clone(&rig);
        clients.spawn(async move {
            let (mut first, mut second) = (rig.http1().await, rig.http2().await);
            loop {
                let request = get("http://h/greedy");
                let sent = match number % 2 {
                    0 => first.send_request(for_http1(request)).await,
                    _ => second.send_request(request).await,
                };
                let (status, ..) = whole(sent.expect("an answer")).await;
                assert_ne!(status, StatusCode::SERVICE_UNAVAILABLE);
            }
        });
    }
    let (mut first, mut second) = (rig.http1().await, rig.http2().await);
    // Until all of them wait.
    while answered.load(Relaxed) < 2 * GREEDY_CLIENTS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = answered.load(Relaxed);
    for number in 0..REQUESTS {
        let request = get("http://h/quiet");
        let sent = soon(async {
            match number % 2 {
                0 => first.send_request(for_http1(request)).await,
                _ => second.send_request(request).await,
            }
        });
        let (status, _, body) = whole(sent.await.expect("an answer")).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"quiet"[..]));
    }
    assert!(clients.try_join_next().is_none(), "all of them go on");
    (answered.load(Relaxed) - before) / REQUESTS
}

/// In the order in which they come there would be one of each greedy client.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quiet_component_waits_for_few_requests_of_a_greedy_one() {
    let between = answers_between(|answered| {
        let answered = Arc::clone(answered);
        backend(move |_| {
            spin();
            answered.fetch_add(1, Relaxed);
            async { Ok(Response::new(text("greedy"))) }
        })
    });
    let between = between.await;
    assert!(between < GREEDY_CLIENTS / 3, "{between}");
}

/// Also where what takes long is a part of the answer that comes later, and where it fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn and_so_where_it_fails_after_a_while() {
    let between = answers_between(|answered| {
        let answered = Arc::clone(answered);
        backend(move |_| {
            let answered = Arc::clone(&answered);
            async move {
                tokio::task::yield_now().await;
                spin();
                answered.fetch_add(1, Relaxed);
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Err(CallError::new(status, "trap", "the component trapped"))
            }
        })
    });
    let between = between.await;
    assert!(between < GREEDY_CLIENTS / 3, "{between}");
}

/// Nobody waits without an end for components that have their turn first, and others are answered all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_held_back_for_too_long_is_told_to_come_later() {
    let rig = Rig::with_config(Vec::new(), |config| {
        config.workers = 1;
        config.limits.turn_timeout = 5 * ANSWER_TAKES;
    });
    let rig = Arc::new(rig.await);
    let busy = || {
        backend(|_| {
            spin();
            async { Ok(Response::new(text("busy"))) }
        })
    };
    rig.handle.set_table(table(
        &[("*/one", "one"), ("*/two", "two")],
        &[("one", vec![busy()]), ("two", vec![busy()])],
    ));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..GREEDY_CLIENTS {
        let rig = Arc::clone(&rig);
        clients.spawn(async move {
            let mut client = rig.http1().await;
            let url = ["http://h/one", "http://h/two"][number as usize % 2];
            let (mut answered, mut refused) = (0, 0);
            let until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < until {
                let sent = soon(client.send_request(for_http1(get(url)))).await;
                let (status, headers, body) = whole(sent.expect("an answer")).await;
                if status == StatusCode::OK {
                    answered += 1;
                    continue;
                }
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body:?}");
                assert_eq!(headers["realm-error"], "no-turn");
                assert_eq!(headers["retry-after"], "1");
                refused += 1;
            }
            (answered, refused)
        });
    }
    let (mut answered, mut refused) = (0, 0);
    for (some, others) in clients.join_all().await {
        answered += some;
        refused += others;
    }
    // A second has room for 1,000.
    assert!(refused > 30 && answered > 300, "{refused} {answered}");
}

/// Streams of HTTP/2 that are held back end with their connection: else whoever comes and goes has any number.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_held_back_ends_with_its_connection() {
    const STREAMS: u32 = 200;
    let mut rig = Rig::with_config(Vec::new(), |config| {
        config.workers = 1;
        config.limits.turn_timeout = Duration::from_secs(600);
    })
    .await;
    let [answered, begun]: [Arc<AtomicU32>; 2] = Default::default();
    let busy = |count: &Arc<AtomicU32>| {
        let count = Arc::clone(count);
        backend(move |_| {
            spin();
            count.fetch_add(1, Relaxed);
            async { Ok(Response::new(text("busy"))) }
        })
    };
    rig.handle.set_table(table(
        &[("*/one", "one"), ("*/two", "two")],
        &[("one", vec![busy(&answered)]), ("two", vec![busy(&begun)])],
    ));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..GREEDY_CLIENTS {
        let mut client = rig.http1().await;
        clients.spawn(async move {
            loop {
                let sent = client.send_request(for_http1(get("http://h/one"))).await;
                whole(sent.expect("an answer")).await;
            }
        });
    }
    let client = rig.http2().await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let mut client = client.clone();
        streams.spawn(async move { client.send_request(get("http://h/two")).await.map(drop) });
    }
    drop(client);
    while begun.load(Relaxed) < 3 {
        tokio::time::sleep(ANSWER_TAKES).await;
    }
    streams.shutdown().await;
    // Those that ended before are few, and had an answer.
    let mut n_left = 0;
    let mut answered_before = None;
    while n_left < STREAMS / 2 {
        let seen = rig.seen().await;
        if seen.component.as_deref() == Some("two") && seen.code == Some("client-gone") {
            n_left += 1;
            answered_before.get_or_insert_with(|| answered.load(Relaxed));
        }
    }
    let between = answered.load(Relaxed) - answered_before.expect("they left");
    assert!(between < 10, "{between}");
    assert!(begun.load(Relaxed) < STREAMS / 2);
    clients.shutdown().await;
}
