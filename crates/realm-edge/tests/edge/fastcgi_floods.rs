//! Web servers that begin requests without end, or end them as soon as they have begun: what that costs has
//! a bound, others are answered meanwhile, and the connection ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Response;
use realm_edge::Backend;
use realm_edge::fastcgi::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fastcgi::{ABORT, BEGIN, END, KEEP, PARAMS, RESPONDER, STDIN, STDOUT, Server};
use crate::pressure::{STREAM_BYTES, server};
use crate::support::{Rig, backend, named, soon, text};

const GET_VALUES: u8 = 9;
const UNKNOWN: u8 = 77;

fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let [id_high, id_low] = id.to_be_bytes();
    let [high, low] = u16::try_from(content.len()).expect("short").to_be_bytes();
    let head = [1, kind, id_high, id_low, high, low, 0, 0];
    [&head[..], content].concat()
}

fn begin(id: u16, role: u8) -> Vec<u8> {
    record(BEGIN, id, &[0, role, KEEP, 0, 0, 0, 0, 0])
}

/// A whole request that is aborted behind its end.
fn aborted(id: u16) -> Vec<u8> {
    let params = b"\x0e\x03REQUEST_METHODGET\x0b\x05REQUEST_URI/held\x09\x01HTTP_HOSTa";
    [
        begin(id, RESPONDER),
        record(PARAMS, id, params),
        record(PARAMS, id, b""),
        record(STDIN, id, b""),
        record(ABORT, id, b""),
    ]
    .concat()
}

/// Asks without a pause until it is told to stop: how often, and each time it was answered.
async fn ask_on(mut server: Server, until: impl Future<Output = ()>) -> usize {
    let mut until = std::pin::pin!(until);
    let mut count = 0;
    loop {
        server.begin(1, RESPONDER, KEEP, &[]).await;
        server.body(1, b"").await;
        let came = server.came(1).await;
        assert!(came.has_ended && came.answer.ends_with("here"), "{came:?}");
        count += 1;
        tokio::select! {
            biased;
            () = &mut until => return count,
            () = tokio::task::yield_now() => {}
        }
    }
}

/// What nobody reads is not made without end: requests that have no room, roles that nobody has, questions.
#[tokio::test]
async fn a_flood_whose_replies_nobody_reads_is_held_and_ends() {
    const STALL: Duration = Duration::from_millis(200);
    let floods: [fn(u16) -> Vec<u8>; 4] = [
        |id| begin(id, RESPONDER),
        |id| begin(id, 3),
        |_| record(GET_VALUES, 0, b"\x0e\x00FCGI_MAX_CONNS"),
        |_| record(UNKNOWN, 0, b""),
    ];
    for flood in floods {
        let set = |limits: &mut realm_edge::EdgeLimits| limits.write_stall_timeout = STALL;
        let rig = Rig::with_limits(named("here"), set).await;
        let (flooding, other) = (Server::of(&rig), Server::of(&rig));
        // Nobody reads the other half.
        let (unread, mut write) = tokio::io::split(flooding.0);
        let (ended, has_ended) = tokio::sync::oneshot::channel::<()>();
        let flooded = tokio::spawn(async move {
            let mut sent = 0;
            for id in (1..=u16::MAX).cycle() {
                let record = flood(id);
                match write.write_all(&record).await {
                    Ok(()) => sent += record.len(),
                    Err(_) => break,
                }
                // Far beyond what may be taken: it would go on for ever.
                if sent > 16 * 1024 * 1024 {
                    break;
                }
            }
            drop(ended);
            sent
        });
        let answered = soon(ask_on(other, async { drop(has_ended.await) })).await;
        let sent = soon(flooded).await.expect("no panic");
        // What both directions of the stream hold, what is read at once, and replies that wait to be
        // written.
        let most = 3 * STREAM_BYTES;
        assert!(sent < most, "{sent} bytes were taken, expected {most}");
        assert!(answered > 0);
        drop(unread);
        soon(async {
            while rig.handle.connections() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// How many are called, and at once.
#[derive(Default)]
struct Calls {
    all: AtomicUsize,
    at_once: AtomicUsize,
    at_once_most: AtomicUsize,
}

struct Call(Arc<Calls>);

impl Call {
    fn begin(calls: &Arc<Calls>) -> Self {
        calls.all.fetch_add(1, Relaxed);
        let at_once = calls.at_once.fetch_add(1, Relaxed) + 1;
        calls.at_once_most.fetch_max(at_once, Relaxed);
        Self(Arc::clone(calls))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Relaxed);
    }
}

/// Below `/held` it answers nobody.
fn holds(calls: &Arc<Calls>) -> Arc<dyn Backend> {
    let calls = Arc::clone(calls);
    backend(move |request| {
        let call = (request.uri().path() == "/held").then(|| Call::begin(&calls));
        async move {
            if call.is_some() {
                std::future::pending::<()>().await;
            }
            Ok(Response::new(text("here")))
        }
    })
}

/// As with rapid resets of HTTP/2: it costs who does it nothing to have a guest begun.
#[tokio::test]
async fn requests_that_are_aborted_as_they_begin_end_the_connection_and_disturb_nobody() {
    const ABORTS: usize = 50;
    let calls = Arc::default();
    let rig = Rig::new(holds(&calls)).await;
    let limits = Limits {
        requests_max: 8,
        aborts_per_second_max: u32::try_from(ABORTS).expect("few"),
        ..Limits::default()
    };
    let (read, mut write) = tokio::io::split(server(&rig, limits).0);
    let began = Instant::now();
    let (ended, has_ended) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        let mut read = read;
        let mut came = Vec::new();
        let _ = read.read_to_end(&mut came).await;
        drop(ended);
        came.len()
    });
    let flooding = tokio::spawn(async move {
        let mut sent = 0;
        for id in (1..=u16::MAX).cycle().take(1_000_000) {
            if write.write_all(&aborted(id)).await.is_err() {
                break;
            }
            sent += 1;
        }
        sent
    });
    let answered = soon(ask_on(Server::of(&rig), async { drop(has_ended.await) })).await;
    let sent: usize = soon(flooding).await.expect("no panic");
    let replies = soon(reading).await.expect("no panic");
    let allowed = ABORTS * (1 + began.elapsed().as_secs() as usize + 1);
    let all = calls.all.load(Relaxed);
    assert!((ABORTS / 2..=allowed).contains(&all), "{all} of {allowed}");
    assert!(calls.at_once_most.load(Relaxed) <= 8);
    // None of them goes on once the connection is gone.
    soon(async {
        while calls.at_once.load(Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(answered > 0);
    // An end for each, an empty stream with some: not more for what was never taken.
    assert!(replies <= sent * 32, "{replies} bytes for {sent} requests");
    assert!(sent < 100_000, "{sent}: it went on for ever");
}

/// Whoever aborts now and then, as clients go away, is served on.
#[tokio::test]
async fn aborts_that_are_few_enough_end_nothing() {
    let calls = Arc::default();
    let rig = Rig::new(holds(&calls)).await;
    let mut server = Server::of(&rig);
    for _ in 0..Limits::default().aborts_per_second_max {
        soon(server.0.write_all(&aborted(3))).await.expect("taken");
        let came = server.came(3).await;
        assert!(came.has_ended && came.answer.is_empty(), "{came:?}");
    }
    server.begin(3, RESPONDER, KEEP, &[]).await;
    server.body(3, b"").await;
    assert!(server.came(3).await.answer.ends_with("here"));
}

/// The request is over, and its place is free: else a few of them would take all of a connection.
#[tokio::test]
async fn what_is_aborted_before_its_parameters_came_is_over() {
    let rig = Rig::new(named("here")).await;
    let mut server = Server::of(&rig);
    for _ in 0..2 * Limits::default().requests_max {
        let request = [begin(9, RESPONDER), record(ABORT, 9, b"")].concat();
        soon(server.0.write_all(&request)).await.expect("taken");
        let mut kinds = Vec::new();
        while kinds.last() != Some(&END) {
            let (kind, id, content) = server.next().await.expect("an end");
            assert_eq!(id, 9);
            // Carried out, as far as anybody wanted that.
            assert!(kind == STDOUT || content == [0; 8], "{content:?}");
            kinds.push(kind);
        }
    }
    server.begin(9, RESPONDER, KEEP, &[]).await;
    server.body(9, b"").await;
    assert!(server.came(9).await.answer.ends_with("here"));
}
