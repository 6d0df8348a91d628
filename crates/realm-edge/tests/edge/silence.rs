//! Nodes that give no sign of life while requests wait for them: two edges, and streams in memory that
//! stand still.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Response;
use http_body_util::BodyExt as _;
use realm_edge::{Backend, BoxFuture, Dial, Far, Handle, Io, Line, Table};
use realm_model::name::ComponentName;
use realm_model::route::{PathPattern, Route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use crate::support::{Rig, backend, get, named, request, sockets, soon, text, whole};

/// Longer than a question with all that comes before it.
const SILENT_MAX: Duration = Duration::from_millis(2_900);
/// No time to ask anything.
const AT_ONCE: Duration = Duration::from_millis(400);

/// How it is with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// All is well.
    Here,
    /// Nothing comes and nothing goes; nothing says why.
    Silent,
    /// Connections are broken, and none can be made.
    Gone,
    /// All is well with new streams; those from before say nothing.
    Anew,
    /// Those from before go on; new ones stand still.
    Busy,
}

impl Now {
    /// Whether bytes of a stream go on that was made then.
    fn carries(self, born: Self) -> bool {
        self == born || (self, born) == (Self::Busy, Self::Here)
    }
}

struct Node {
    edge: Handle,
    now: watch::Receiver<Now>,
    dialled: Arc<AtomicU32>,
}

impl Dial for Node {
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        self.dialled.fetch_add(1, Relaxed);
        let mut now = self.now.clone();
        Box::pin(async move {
            let speaks = now
                .wait_for(|now| ![Now::Silent, Now::Busy].contains(now))
                .await;
            let born = speaks.map_or(Now::Gone, |now| *now);
            if born == Now::Gone {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let ((near, out), (back, far)) = (tokio::io::duplex(4096), tokio::io::duplex(4096));
            self.edge.serve_node(far, sockets());
            let ((read, write), (read_back, write_back)) =
                (tokio::io::split(out), tokio::io::split(back));
            let mut gone = now.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = gone.wait_for(|now| *now == Now::Gone) => {}
                    () = carry(read, write_back, now.clone(), born) => {}
                    () = carry(read_back, write, now, born) => {}
                }
            });
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }
}

async fn carry(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut now: watch::Receiver<Now>,
    born: Now,
) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let _ = now.wait_for(|now| now.carries(born)).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// An edge with nothing of its own, and two other nodes: the near one, and one that is asked if that
/// fails.
struct Asking {
    rig: Rig,
    near: Arc<Line>,
    dialled: Arc<AtomicU32>,
    now: watch::Sender<Now>,
    /// How it is with the other one.
    _always: watch::Sender<Now>,
    _others: Vec<Rig>,
}

impl Asking {
    async fn of(near: Arc<dyn Backend>, far: Option<Arc<dyn Backend>>) -> Self {
        let (now, told) = watch::channel(Now::Here);
        let always = watch::Sender::new(Now::Here);
        let dialled = Arc::new(AtomicU32::new(0));
        let mut others = vec![Rig::new(near).await];
        let line = |rig: &Rig, name: &str, now, dialled: &Arc<AtomicU32>| {
            let edge = rig.handle.clone();
            let dialled = Arc::clone(dialled);
            let node = Node { edge, now, dialled };
            Line::new(name.parse().expect("a name"), Box::new(node))
        };
        let near = line(&others[0], "near", told, &dialled);
        let mut ways = vec![Far::new(Arc::clone(&near), app(), 0)];
        if let Some(far) = far {
            others.push(Rig::new(far).await);
            let far = line(&others[1], "far", always.subscribe(), &Arc::default());
            ways.push(Far::new(far, app(), 1));
        }
        let rig = Rig::with_config(Vec::new(), |_| {}).await;
        let route = Route {
            host: None,
            path: PathPattern::Prefix(String::new()),
            component: app(),
            weights: [].into(),
        };
        let table = Table::with_others(vec![route], [].into(), [(app(), ways)].into(), [].into());
        rig.handle.set_table(table);
        Self {
            rig,
            near,
            dialled,
            now,
            _always: always,
            _others: others,
        }
    }

    async fn ask(&self, method: &str, body: &str) -> (u16, String) {
        let request = request(method, "http://a.example/x", text(body.to_owned()));
        let (status, _, body) = whole(self.rig.send1(request).await).await;
        let body = String::from_utf8(body.to_vec()).expect("text");
        (status.as_u16(), body)
    }

    /// Asks, and wants this answer within a time.
    async fn check(&self, method: &str, expected: &str, within: Duration) {
        let began = Instant::now();
        let body = if method == "PUT" { "a body" } else { "" };
        let answer = self.ask(method, body).await;
        let took = began.elapsed();
        assert_eq!(answer, (200, expected.to_owned()), "{method}");
        assert!(took <= within, "{method} took {took:?}");
    }

    fn is_avoided(&self) -> bool {
        self.near.figures().is_avoided
    }
}

fn app() -> ComponentName {
    "app".parse().expect("a name")
}

#[tokio::test]
async fn a_silent_node_holds_up_no_request_that_another_may_have() {
    let asking = Asking::of(named("near"), Some(named("far"))).await;
    // Streams are kept from before, and not enough for all.
    asking.check("GET", "near", AT_ONCE).await;
    asking.now.send_replace(Now::Silent);
    let methods = ["GET", "HEAD", "PUT", "DELETE", "GET", "GET"];
    join_all(methods.map(|method| {
        let expected = if method == "HEAD" { "" } else { "far" };
        asking.check(method, expected, SILENT_MAX)
    }))
    .await;
    assert!(asking.is_avoided());
    let dialled = asking.dialled.load(Relaxed);
    // What comes then is not held up at all, whatever it is.
    let began = Instant::now();
    while began.elapsed() < 2 * AT_ONCE {
        asking.check("POST", "far", AT_ONCE).await;
    }
    let more = asking.dialled.load(Relaxed) - dialled;
    assert!(more <= 1, "asked {more} times again");
    // It is found again when it is back.
    asking.now.send_replace(Now::Here);
    soon(async {
        while asking.ask("GET", "").await.1 != "near" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(!asking.is_avoided());
}

#[tokio::test]
async fn new_requests_do_not_wait_for_the_verdict() {
    let asking = Asking::of(named("near"), Some(named("far"))).await;
    asking.check("GET", "near", AT_ONCE).await;
    asking.now.send_replace(Now::Silent);
    let first = asking.check("GET", "far", SILENT_MAX);
    let later = async {
        let began = Instant::now();
        while !asking.is_avoided() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = began.elapsed();
        assert!(took <= SILENT_MAX / 2, "avoided after {took:?}");
        asking.check("POST", "far", AT_ONCE).await;
    };
    tokio::join!(first, later);
}

#[tokio::test]
async fn what_a_silent_node_may_have_had_is_not_given_to_another() {
    let asking = Asking::of(named("near"), Some(named("far"))).await;
    asking.check("GET", "near", AT_ONCE).await;
    asking.now.send_replace(Now::Silent);
    // The one stream that is kept takes one; of the others nothing has left.
    let posts = [(); 4].map(|()| async {
        let answer = tokio::time::timeout(2 * SILENT_MAX, asking.ask("POST", "")).await;
        answer.ok()
    });
    let mut answers = join_all(posts).await;
    answers.sort();
    let far = Some((200, "far".to_owned()));
    assert_eq!(answers, [None, far.clone(), far.clone(), far]);
}

#[tokio::test]
async fn a_slow_component_is_no_silent_node() {
    let began = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&began);
    let slow = backend(move |_| {
        count.fetch_add(1, Relaxed);
        async {
            tokio::time::sleep(2 * SILENT_MAX).await;
            Ok(Response::new(text("late")))
        }
    });
    let asking = Asking::of(slow, Some(named("far"))).await;
    let asked = join_all(["GET", "POST"].map(|method| asking.ask(method, "")));
    let watched = async {
        loop {
            assert!(!asking.is_avoided(), "it answers whether it is there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answers = tokio::select! {
        answers = asked => answers,
        () = watched => unreachable!("it goes on for ever"),
    };
    assert_eq!(
        answers,
        [(200, "late".to_owned()), (200, "late".to_owned())]
    );
    assert_eq!(began.load(Relaxed), 2);
    // A stream for each, and a question a second for both.
    let dialled = asking.dialled.load(Relaxed);
    assert!((3..=9).contains(&dialled), "{dialled} streams");
}

/// What the other end takes of an upload it can only take while it lives, whatever else it answers.
#[tokio::test]
async fn a_node_that_takes_an_upload_is_no_silent_node() {
    const FRAMES: usize = 100;
    let reads = backend(|request| async {
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            drop(frame);
            tokio::time::sleep(2 * SILENT_MAX / FRAMES as u32).await;
        }
        Ok(Response::new(text("read")))
    });
    let asking = Asking::of(reads, Some(named("far"))).await;
    assert_eq!(asking.ask("PUT", "").await.1, "read");
    asking.now.send_replace(Now::Busy);
    let body = "x".repeat(FRAMES * 4096);
    let asked = asking.ask("PUT", &body);
    let watched = async {
        loop {
            assert!(!asking.is_avoided(), "it takes what it is sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let began = Instant::now();
    let answer = tokio::select! {
        answer = asked => answer,
        () = watched => unreachable!("it goes on for ever"),
    };
    assert_eq!(answer, (200, "read".to_owned()));
    assert!(began.elapsed() > SILENT_MAX, "{:?}", began.elapsed());
}

#[tokio::test]
async fn where_nobody_else_is_a_silent_node_is_waited_for() {
    let asking = Asking::of(named("near"), None).await;
    asking.check("GET", "near", AT_ONCE).await;
    asking.now.send_replace(Now::Silent);
    let asked = join_all(["GET", "POST"].map(|method| asking.ask(method, "")));
    let back = async {
        while !asking.is_avoided() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(SILENT_MAX / 2).await;
        asking.now.send_replace(Now::Here);
    };
    let (answers, ()) = tokio::join!(asked, back);
    assert_eq!(
        answers,
        [(200, "near".to_owned()), (200, "near".to_owned())]
    );
}

#[tokio::test]
async fn a_node_that_is_gone_is_not_dialled_for_each_request() {
    for (far, expected) in [(Some(named("far")), 200), (None, 502)] {
        let asking = Asking::of(named("near"), far).await;
        asking.check("GET", "near", AT_ONCE).await;
        let before = asking.dialled.load(Relaxed);
        asking.now.send_replace(Now::Gone);
        let began = Instant::now();
        for _ in 0..100 {
            assert_eq!(asking.ask("POST", "").await.0, expected);
        }
        let allowed = 2 + u32::try_from(began.elapsed().as_secs()).expect("a short time");
        let dialled = asking.dialled.load(Relaxed) - before;
        assert!(dialled <= allowed, "{dialled} times");
        asking.now.send_replace(Now::Here);
        asking.near.may_be_back();
        soon(async {
            while asking.ask("GET", "").await.1 != "near" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn streams_from_before_a_silence_are_not_used_again() {
    let asking = Asking::of(named("near"), Some(named("far"))).await;
    join_all([(); 4].map(|()| asking.check("GET", "near", AT_ONCE))).await;
    assert!(asking.dialled.load(Relaxed) > 1, "several are kept");
    asking.now.send_replace(Now::Silent);
    asking.check("GET", "far", SILENT_MAX).await;
    asking.now.send_replace(Now::Anew);
    asking.near.may_be_back();
    // The first one asks.
    asking.check("POST", "far", AT_ONCE).await;
    soon(async {
        while asking.is_avoided() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    asking.check("POST", "near", AT_ONCE).await;
}

#[tokio::test]
async fn connections_that_break_take_their_requests_elsewhere() {
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let never = backend(move |_| {
        let _ = began.send(());
        std::future::pending()
    });
    let asking = Asking::of(never, Some(named("far"))).await;
    let mut client = asking.rig.http1().await;
    let asked = tokio::spawn(client.send_request(crate::support::for_http1(get("http://a/"))));
    begun.recv().await.expect("it begins");
    asking.now.send_replace(Now::Gone);
    let (_, _, body) = whole(soon(asked).await.expect("no panic").expect("an answer")).await;
    assert_eq!(&body[..], b"far");
}
