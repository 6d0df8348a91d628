//! Requests that are answered on another node: here two edges in one process, and streams in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use realm_edge::{Backend, BoxFuture, Dial, Far, Handle, Io, Line, LineFigures, Table};
use realm_model::name::ComponentName;
use realm_model::route::{PathPattern, Route};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;

use crate::support::{
    Rig, SOCKETS_NAME, backend, get, mirror, named, request, sockets, text, whole,
};

/// How streams to a node end up.
#[derive(Clone)]
enum To {
    /// At its edge.
    Edge(Handle),
    /// Nowhere.
    Nobody,
    /// At something that reads a whole head and breaks off.
    Broken,
    /// At something that answers with these bytes.
    Bytes(&'static [u8]),
}

struct Streams {
    to: To,
    opened: Arc<AtomicU32>,
}

impl Dial for Streams {
    fn home(&self) -> Option<&tokio::runtime::Handle> {
        Some(sockets())
    }

    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        self.opened.fetch_add(1, Relaxed);
        let (near, mut far) = tokio::io::duplex(16 * 1024);
        match self.to.clone() {
            To::Edge(handle) => handle.serve_node(far, sockets()),
            To::Nobody => {
                return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
            }
            To::Broken => {
                tokio::spawn(async move { drop(far.read(&mut [0; 4096]).await) });
            }
            To::Bytes(bytes) => {
                tokio::spawn(async move {
                    let _ = far.read(&mut [0; 4096]).await;
                    let _ = far.write_all(bytes).await;
                });
            }
        }
        Box::pin(async { Ok(Box::new(near) as Box<dyn Io>) })
    }
}

/// An edge that has nothing of `app` itself, and others with their distance.
struct Asking {
    rig: Rig,
    lines: Vec<Arc<Line>>,
    opened: Vec<Arc<AtomicU32>>,
}

impl Asking {
    async fn of(others: &[(To, u8)]) -> Self {
        let rig = Rig::with_config(Vec::new(), |_| {}).await;
        let (mut lines, mut opened, mut far) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (to, ring)) in others.iter().enumerate() {
            let count = Arc::new(AtomicU32::new(0));
            let streams = Streams {
                to: to.clone(),
                opened: Arc::clone(&count),
            };
            let name = format!("node-{index}").parse().expect("a name");
            let line = Line::new(name, Box::new(streams));
            far.push(Far::new(Arc::clone(&line), app(), *ring));
            lines.push(line);
            opened.push(count);
        }
        rig.handle.set_table(routed(Vec::new(), far));
        Self { rig, lines, opened }
    }

    /// Status, `realm-error` and body of the answer to a request.
    async fn ask(&self, method: &str) -> (u16, String, String) {
        let body = text(if method == "POST" { "body" } else { "" });
        let answer = self
            .rig
            .send1(request(method, "http://a.example/x", body))
            .await;
        let (status, headers, body) = whole(answer).await;
        let code = headers
            .get("realm-error")
            .map(|code| code.to_str().expect("text"));
        let body = String::from_utf8(body.to_vec()).expect("text");
        (status.as_u16(), code.unwrap_or_default().to_owned(), body)
    }

    fn figures(&self, node: usize) -> LineFigures {
        self.lines[node].figures()
    }
}

fn app() -> ComponentName {
    "app".parse().expect("a name")
}

fn routed(here: Vec<Arc<dyn Backend>>, others: Vec<Far>) -> Table {
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: app(),
        weights: [].into(),
    };
    let (here, others) = ([(app(), here)], [(app(), others)]);
    Table::with_others(vec![route], here.into(), others.into(), [].into())
}

async fn node(backend: Arc<dyn Backend>) -> (Rig, To) {
    let rig = Rig::new(backend).await;
    let to = To::Edge(rig.handle.clone());
    (rig, to)
}

fn good(body: &str) -> (u16, String, String) {
    (200, String::new(), body.to_owned())
}

#[tokio::test]
async fn what_is_not_here_is_asked_elsewhere_on_streams_that_are_kept() {
    let (_there, to) = node(mirror()).await;
    let asking = Asking::of(&[(to, 0)]).await;
    for _ in 0..20 {
        let (status, _, body) = asking.ask("GET").await;
        assert_eq!(status, 200);
        assert!(body.starts_with("GET http://a.example/x\n"), "{body}");
        assert!(!body.contains("realm-"), "{body}");
    }
    // A stream is free again a moment after its answer was read, on the thread of its bytes: who asks
    // in that moment opens another one.
    let opened = asking.opened[0].load(Relaxed);
    assert!((1..=4).contains(&opened), "{opened} streams");
    assert_eq!(asking.figures(0).answered, 20);
}

/// Streams that tell the name of each thread that writes.
struct Watched {
    streams: Streams,
    writers: mpsc::UnboundedSender<String>,
}

struct Watching(Box<dyn Io>, mpsc::UnboundedSender<String>);

impl Dial for Watched {
    fn home(&self) -> Option<&tokio::runtime::Handle> {
        self.streams.home()
    }

    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async {
            let stream = self.streams.dial().await?;
            Ok(Box::new(Watching(stream, self.writers.clone())) as Box<dyn Io>)
        })
    }
}

impl AsyncRead for Watching {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watching {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = self.1.send(thread);
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[tokio::test]
async fn a_request_is_written_and_answered_on_the_thread_of_the_sockets() {
    let (answers, mut answered) = mpsc::unbounded_channel();
    let here = backend(move |_| {
        let answers = answers.clone();
        async move {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = answers.send(thread);
            Ok(Response::new(text("there")))
        }
    });
    let (_there, to) = node(here).await;
    let asking = Asking::of(&[]).await;
    let (writers, mut written) = mpsc::unbounded_channel();
    let streams = Streams {
        to,
        opened: Arc::default(),
    };
    let watched = Watched { streams, writers };
    let line = Line::new("there".parse().expect("a name"), Box::new(watched));
    let far = vec![Far::new(line, app(), 0)];
    asking.rig.handle.set_table(routed(Vec::new(), far));
    assert_eq!(asking.ask("GET").await, good("there"));
    assert_eq!(written.recv().await.as_deref(), Some(SOCKETS_NAME));
    assert_eq!(answered.recv().await.as_deref(), Some(SOCKETS_NAME));
}

#[tokio::test]
async fn what_is_here_is_not_asked_elsewhere_unless_it_has_no_room() {
    let (_there, to) = node(named("there")).await;
    let asking = Asking::of(&[(to, 0)]).await;
    let far = Far::new(Arc::clone(&asking.lines[0]), app(), 0);
    asking
        .rig
        .handle
        .set_table(routed(vec![named("here")], vec![far.clone()]));
    assert_eq!(asking.ask("GET").await, good("here"));
    assert_eq!(asking.opened[0].load(Relaxed), 0);
    let full = backend(|_| async {
        Err(realm_edge::CallError {
            retryable: true,
            ..realm_edge::CallError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "full")
        })
    });
    asking.rig.handle.set_table(routed(vec![full], vec![far]));
    assert_eq!(asking.ask("GET").await, good("there"));
    assert_eq!(asking.ask("POST").await, good("there"));
}

#[tokio::test]
async fn the_nearest_node_is_asked() {
    let (_near, near) = node(named("near")).await;
    let (_far, far) = node(named("far")).await;
    let asking = Asking::of(&[(far, 2), (near, 1)]).await;
    for _ in 0..20 {
        assert_eq!(asking.ask("GET").await, good("near"));
    }
    assert_eq!(asking.opened[0].load(Relaxed), 0);
}

#[tokio::test]
async fn a_node_that_is_not_reached_costs_no_request_and_is_soon_avoided() {
    let (_there, to) = node(named("there")).await;
    let asking = Asking::of(&[(To::Nobody, 0), (to, 1)]).await;
    for _ in 0..50 {
        assert_eq!(asking.ask("POST").await, good("there"));
    }
    let away = asking.figures(0);
    assert!(away.is_avoided);
    assert_eq!(away.failed, 3);
    assert_eq!(asking.opened[0].load(Relaxed), 3);
    assert!(!asking.figures(1).is_avoided);
}

#[tokio::test]
async fn case_33_what_broke_off_is_asked_again_elsewhere_where_that_changes_nothing() {
    for (method, expected) in [
        ("GET", good("there")),
        ("DELETE", good("there")),
        ("POST", (502, "node-unreached".to_owned(), String::new())),
    ] {
        let (_there, to) = node(named("there")).await;
        let asking = Asking::of(&[(To::Broken, 0), (to, 1)]).await;
        let (status, code, body) = asking.ask(method).await;
        let body = if code.is_empty() { body } else { String::new() };
        assert_eq!((status, code, body), expected, "{method}");
    }
}

#[tokio::test]
async fn what_nobody_took_goes_on_past_two_nodes_that_are_of_no_use() {
    let (empty, old) = node(mirror()).await;
    empty.handle.set_table(routed(Vec::new(), Vec::new()));
    for useless in [[To::Nobody, To::Nobody], [To::Nobody, old]] {
        let [first, second] = useless;
        let (_there, to) = node(named("there")).await;
        let asking = Asking::of(&[(first, 0), (second, 1), (to.clone(), 2)]).await;
        assert_eq!(asking.ask("GET").await, good("there"));
        assert_eq!(asking.ask("POST").await, good("there"));
        // Each was asked, and in this order.
        let opened = asking.opened.iter().map(|count| count.load(Relaxed) > 0);
        assert_eq!(opened.collect::<Vec<_>>(), [true; 3]);
    }
    // Not past three.
    let (_there, to) = node(named("there")).await;
    let nobody = |ring| (To::Nobody, ring);
    let asking = Asking::of(&[nobody(0), nobody(1), nobody(2), (to, 3)]).await;
    let (status, code, _) = asking.ask("GET").await;
    assert_eq!((status, code.as_str()), (502, "node-unreached"));
    assert_eq!(asking.opened[3].load(Relaxed), 0);
}

#[tokio::test]
async fn what_may_have_been_taken_is_asked_for_once_more_and_no_oftener() {
    let (_there, to) = node(named("there")).await;
    let others = [(To::Broken, 0), (To::Broken, 1), (to, 2)];
    let asking = Asking::of(&others).await;
    let (status, code, _) = asking.ask("GET").await;
    assert_eq!((status, code.as_str()), (502, "node-unreached"));
    assert_eq!(asking.opened[2].load(Relaxed), 0);
}

#[tokio::test]
async fn of_two_nodes_as_near_the_one_with_less_to_do_is_asked() {
    let stuck = backend(|_| std::future::pending());
    let (_busy, busy) = node(stuck).await;
    let (_free, free) = node(named("free")).await;
    let asking = Asking::of(&[(busy, 0), (free, 0)]).await;
    // Three that wait on the first node alone.
    let far = || vec![Far::new(Arc::clone(&asking.lines[0]), app(), 0)];
    asking.rig.handle.set_table(routed(Vec::new(), far()));
    let waiting = (0..3).map(|_| asking.rig.send1(get("http://a.example/")));
    let waiting = futures_util::future::join_all(waiting);
    let asked = async {
        let busy = far().remove(0);
        while realm_edge::Backend::load(&busy) < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let free = Far::new(Arc::clone(&asking.lines[1]), app(), 0);
        let both = routed(Vec::new(), vec![busy, free]);
        asking.rig.handle.set_table(both);
        for _ in 0..20 {
            assert_eq!(asking.ask("GET").await, good("free"));
        }
    };
    tokio::select! {
        _ = waiting => panic!("nobody answers these"),
        () = asked => {}
    }
}

#[tokio::test]
async fn a_body_is_given_again_to_the_next_node() {
    for bytes in [10, 60_000] {
        let (empty, old) = node(mirror()).await;
        empty.handle.set_table(routed(Vec::new(), Vec::new()));
        let count = backend(|request| async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await;
            let bytes = body.expect("a whole body").to_bytes().len();
            Ok(Response::new(text(bytes.to_string())))
        });
        let (_there, to) = node(count).await;
        let asking = Asking::of(&[(old, 0), (to, 1)]).await;
        let body = text("x".repeat(bytes));
        let answer = asking
            .rig
            .send1(request("POST", "http://a.example/", body))
            .await;
        let (status, _, body) = whole(answer).await;
        assert_eq!(status.as_u16(), 200, "{bytes} bytes");
        assert_eq!(body, bytes.to_string().as_bytes());
    }
}

#[tokio::test]
async fn a_client_that_breaks_its_own_request_is_no_fault_of_the_node() {
    let (_there, to) = node(mirror()).await;
    let asking = Asking::of(&[(to, 0)]).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n";
    for _ in 0..5 {
        let answer = asking.rig.raw(head).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(asking.figures(0).failed, 0);
    assert!(!asking.figures(0).is_avoided);
}

#[tokio::test]
async fn a_get_with_a_body_keeps_it() {
    let echo = backend(|request| async move { Ok(Response::new(request.into_body())) });
    let (_there, to) = node(echo).await;
    let asking = Asking::of(&[(to, 0)]).await;
    let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                4\r\nbody\r\n0\r\n\r\n";
    let answer = asking.rig.raw(head).await;
    assert!(answer.contains("\r\n4\r\nbody\r\n"), "{answer}");
}

#[tokio::test]
async fn a_node_that_says_it_has_what_it_has_not_is_avoided() {
    let (liar, to) = node(mirror()).await;
    liar.handle.set_table(routed(Vec::new(), Vec::new()));
    let (_there, honest) = node(named("there")).await;
    let asking = Asking::of(&[(to, 0), (honest, 1)]).await;
    for _ in 0..20 {
        assert_eq!(asking.ask("POST").await, good("there"));
    }
    assert!(asking.figures(0).is_avoided);
    assert_eq!(asking.figures(0).failed, 3);
}

#[tokio::test]
async fn case_33_two_nodes_with_old_views_do_not_send_a_request_round() {
    let (there, to) = node(named("there")).await;
    let asking = Asking::of(&[(to, 0)]).await;
    let back = Streams {
        to: To::Edge(asking.rig.handle.clone()),
        opened: Arc::default(),
    };
    let line = Line::new("asking".parse().expect("a name"), Box::new(back));
    there
        .handle
        .set_table(routed(Vec::new(), vec![Far::new(line, app(), 0)]));
    let (status, code, _) = asking.ask("GET").await;
    assert_eq!((status, code.as_str()), (503, "not-here"));
    assert_eq!(asking.figures(0).failed, 1);
}

#[tokio::test]
async fn a_guest_elsewhere_cannot_speak_for_its_node() {
    let liar = backend(|_| async {
        let answer = Response::builder()
            .header("realm-refused", "no")
            .header("realm-again", "1");
        Ok(answer
            .header("realm-error", "overloaded")
            .body(text("a lie"))
            .expect("an answer"))
    });
    let (_there, to) = node(liar).await;
    let asking = Asking::of(&[(to, 0)]).await;
    assert_eq!(asking.ask("GET").await, good("a lie"));
}

#[tokio::test]
async fn a_node_cannot_make_up_codes_or_answers_that_are_none() {
    for (bytes, expected) in [
        (
            &b"HTTP/1.1 503 x\r\nrealm-refused: so\r\nrealm-error: my-own\r\ncontent-length: 0\r\n\r\n"[..],
            (503, "failed-elsewhere"),
        ),
        (b"HTTP/1.1 101 x\r\n\r\n", (502, "bad-response")),
        (b"no HTTP", (502, "bad-response")),
        (b"", (502, "node-unreached")),
    ] {
        let asking = Asking::of(&[(To::Bytes(bytes), 0)]).await;
        let (status, code, _) = asking.ask("POST").await;
        assert_eq!((status, code.as_str()), expected, "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn requests_of_nodes_that_do_not_say_what_they_want_are_refused() {
    let (there, _) = node(named("there")).await;
    for (head, expected) in [
        (
            "GET http://a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\nrealm-to: app\r\nrealm-prefix: 0\r\n\r\n",
            "200",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\nrealm-prefix: 0\r\n\r\n",
            "400",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\nrealm-to: app\r\n\r\n",
            "400",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\nrealm-to: ../app\r\nrealm-prefix: 0\r\n\r\n",
            "400",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\nrealm-to: app\r\nrealm-prefix: 99\r\n\r\n",
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nrealm-to: app\r\nrealm-prefix: 0\r\n\r\n",
            "400",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\nrealm-to: other\r\nrealm-prefix: 0\r\n\r\n",
            "503",
        ),
    ] {
        let (mut near, far) = tokio::io::duplex(4096);
        there.handle.serve_node(far, sockets());
        near.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.expect("an answer");
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{head}: {answer}");
    }
}

#[tokio::test]
async fn an_edge_that_ends_answers_what_other_nodes_brought_and_takes_no_more() {
    let (began, mut begun) = mpsc::unbounded_channel();
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = backend(move |_| {
        let (began, mut released) = (began.clone(), released.clone());
        async move {
            let _ = began.send(());
            let _ = released.wait_for(|released| *released).await;
            Ok(Response::new(text("late")))
        }
    });
    let (there, to) = node(slow).await;
    let asking = Asking::of(&[(to, 0)]).await;
    let mut client = asking.rig.http1().await;
    let asked = tokio::spawn(client.send_request(crate::support::for_http1(get("http://a/"))));
    begun.recv().await.expect("it begins");
    let handle = there.handle.clone();
    let ending =
        tokio::spawn(async move { handle.shutdown(std::time::Duration::from_secs(20)).await });
    // A stream that comes now is let go.
    loop {
        let (mut near, far) = tokio::io::duplex(64);
        there.handle.serve_node(far, sockets());
        if near.read(&mut [0; 8]).await.is_ok_and(|count| count == 0) {
            break;
        }
    }
    release.send_replace(true);
    let (status, _, body) = whole(asked.await.expect("no panic").expect("an answer")).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"late"[..]));
    assert_eq!(ending.await.expect("no panic"), 0);
}
