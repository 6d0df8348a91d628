//! What is taken of services beside realm, as node.toml has it: how long they may take to take a connection,
//! how long one is kept, how many, and how much they may say. Of FastCGI and of HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use realm_edge::fastcgi::{Status, put_end, put_stderr, put_stdout};
use realm_edge::{Backend, Reach, Upstream, UpstreamCaps, UpstreamLimits};
use realm_model::upstream::Address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Barrier, Notify};

use crate::applications::{Fake, URL, answer, hear, reach};
use crate::support::{Rig, channel, data, get, request, soon, text, whole};

fn caps(set: impl FnOnce(&mut UpstreamCaps)) -> UpstreamCaps {
    let mut caps = UpstreamCaps::keeping(0);
    set(&mut caps);
    caps
}

const LIMITS: UpstreamLimits = UpstreamLimits {
    concurrency_max: 64,
    wall_timeout: Duration::from_secs(20),
    request_bytes_max: 1024,
    response_bytes_max: None,
    websocket_idle: Duration::from_secs(60),
    takes_connections: false,
};

/// An HTTP server of which each connection is handed to `serve`.
async fn origin<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

fn upstream(address: SocketAddr, caps: UpstreamCaps) -> Upstream {
    Upstream::at(reach(address, &address.to_string()), caps, LIMITS)
}

/// Reads one head of HTTP.
async fn read_head(stream: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

/// The status and the code of an answer to GET.
async fn status(backend: Arc<dyn Backend>) -> (u16, Option<&'static str>) {
    let mut rig = Rig::new(backend).await;
    let (status, _, _) = whole(rig.send1(get(URL)).await).await;
    (status.as_u16(), rig.seen().await.code)
}

#[tokio::test]
async fn a_head_has_so_many_bytes_and_fields() {
    let bad = (502, Some("bad-response"));
    // Lines of 400 bytes, and an empty one.
    let line = |number: usize| format!("x-{number:02}: {}\r\n", "y".repeat(392));
    let lines = |count: usize| (0..count).map(line).collect::<String>();
    for (fields, bytes_max, fields_max, expected) in [
        (90, 40_000, 90, (200, None)),
        // Of HTTP whole buffers are read: a little more passes.
        (90, 20_000, 90, bad),
        (90, 40_000, 89, bad),
    ] {
        let caps = caps(|caps| {
            caps.head_bytes_max = bytes_max;
            caps.head_fields_max = fields_max;
        });
        let head = lines(fields);
        let fake = Fake::saying(&answer(&format!("{head}\r\nbody"))[..]).await;
        let application = fake.capped(caps, |_| {});
        assert_eq!(
            status(Arc::new(application)).await,
            expected,
            "FastCGI {caps:?}"
        );
        let said = format!("HTTP/1.1 200 OK\r\n{head}content-length: 4\r\n\r\nbody");
        let address = origin(move |mut stream| {
            let said = said.clone();
            async move {
                if read_head(&mut stream).await {
                    let _ = stream.write_all(said.as_bytes()).await;
                    let _ = stream.read_u8().await;
                }
            }
        })
        .await;
        // One of them is the length.
        let caps = UpstreamCaps {
            head_fields_max: fields_max + 1,
            ..caps
        };
        let seen = status(Arc::new(upstream(address, caps))).await;
        assert_eq!(seen, expected, "HTTP {caps:?}");
    }
}

#[tokio::test]
async fn so_much_of_a_body_is_collected_and_logged() {
    let fake = Fake::start(|mut stream, _| async move {
        let heard = hear(&mut stream).await.map(|(_, bytes)| bytes);
        let mut out = BytesMut::new();
        put_stderr(&mut out, 1, b"0123456789abc\nmore\n");
        let body = format!("Content-Type: text/plain\r\n\r\n{heard:?}");
        put_stdout(&mut out, 1, body.as_bytes());
        put_end(&mut out, 1, Status::Complete, 0);
        let _ = stream.write_all(&out).await;
    })
    .await;
    let caps = caps(|caps| {
        caps.collected_bytes_max = 100;
        caps.log_bytes_max = 10;
    });
    let rig = Rig::new(Arc::new(fake.capped(caps, |_| {}))).await;
    for (bytes, expected) in [(101, StatusCode::LENGTH_REQUIRED), (100, StatusCode::OK)] {
        let (sent, body) = channel();
        let posting = tokio::spawn(async move { sent.send(data("x".repeat(bytes))).await });
        let (status, _, told) = whole(rig.send2(request("POST", URL, body)).await).await;
        assert_eq!(status, expected, "{told:?}");
        let told = String::from_utf8_lossy(&told);
        let expected = match bytes {
            100 => "Some(100)",
            _ => "at most 100 bytes are collected",
        };
        assert!(told.contains(expected), "{told}");
        let _ = posting.await;
    }
    let lines = fake.log.0.lock().expect("no panic holds it").clone();
    assert_eq!(
        lines,
        ["0123456789", "it says more of this request than is kept"]
    );
}

/// Somebody who listens and lets nobody in: its queue is full, and the system answers no more knocks.
fn full() -> (socket2::Socket, SocketAddr, Vec<std::net::TcpStream>) {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a port");
    socket.listen(0).expect("it listens");
    let address = socket.local_addr().expect("an address");
    let address = address.as_socket().expect("an address");
    let moment = Duration::from_millis(300);
    let knock = || std::net::TcpStream::connect_timeout(&address, moment).ok();
    let inside: Vec<_> = std::iter::from_fn(knock).take(64).collect();
    assert!(inside.len() < 64, "the queue has an end");
    (socket, address, inside)
}

#[tokio::test]
async fn who_lets_nobody_in_is_not_waited_for() {
    let (_listens, address, _inside) = full();
    let caps = caps(|caps| caps.connect_timeout = Duration::from_millis(200));
    let fake = Fake {
        address,
        connections: Arc::default(),
        log: Arc::default(),
    };
    let backends: [Arc<dyn Backend>; 2] = [
        Arc::new(upstream(address, caps)),
        // Patient for two seconds: it may be about to start again.
        Arc::new(fake.capped(caps, |_| {})),
    ];
    for backend in backends {
        let began = Instant::now();
        assert_eq!(status(backend).await, (503, Some("not-listening")));
        // Without the cap it is five seconds for each try.
        assert!(
            began.elapsed() < Duration::from_millis(4_900),
            "{:?}",
            began.elapsed()
        );
    }
    let began = Instant::now();
    assert!(fake.capped(caps, |_| {}).reach().await.is_err());
    assert!(upstream(address, caps).touch().await.is_err());
    assert!(
        began.elapsed() < Duration::from_millis(4_900),
        "{:?}",
        began.elapsed()
    );
}

/// It said when its body begins, and never how it ends.
#[tokio::test]
async fn silence_within_an_answer_ends_at_the_wall_time() {
    let (let_go, is_let_go) = tokio::sync::oneshot::channel::<()>();
    let let_go = std::sync::Mutex::new(Some(let_go));
    let fake = Fake::start(move |mut stream, _| {
        let let_go = let_go.lock().expect("whole").take();
        async move {
            let _ = hear(&mut stream).await;
            let mut out = BytesMut::new();
            put_stdout(&mut out, 1, b"Content-Type: text/plain\r\n\r\nbegun");
            let _ = stream.write_all(&out).await;
            let _ = stream.read_u8().await;
            drop(let_go);
        }
    })
    .await;
    let wall = Duration::from_millis(300);
    let limited = fake.limited(0, |limits| limits.wall_timeout = wall);
    let mut rig = Rig::new(Arc::new(limited)).await;
    let began = Instant::now();
    let late = rig.send1(get(URL)).await;
    assert_eq!(late.status(), StatusCode::OK);
    assert!(soon(late.into_body().collect()).await.is_err());
    assert!(began.elapsed() >= wall, "{:?}", began.elapsed());
    assert_eq!(rig.seen().await.code, Some("body-failed"));
    // And it hears of that.
    let _ = soon(is_let_go).await;
}

/// Requests at a service, and connections to it that are open.
#[derive(Default)]
struct Seen {
    made: AtomicU32,
    open: AtomicU32,
}

/// Counts one connection while it lives.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.made.fetch_add(1, Relaxed);
        seen.open.fetch_add(1, Relaxed);
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// All of a burst are asked at once, each on a connection of its own; so many of these stay, and no more.
async fn keeps_two(backend: Arc<dyn Backend>, seen: &Seen) {
    const BURST: usize = 8;
    let rig = Rig::new(backend).await;
    let mut clients = Vec::new();
    for _ in 0..BURST {
        clients.push(rig.http2().await);
    }
    // Whoever waits for longer than usual has no connection kept: so it may take some bursts.
    soon(async {
        loop {
            let asked = clients
                .iter_mut()
                .map(|client| client.send_request(get(URL)));
            let asked: Vec<_> = asked.collect();
            for asked in asked {
                let answered = asked.await.expect("an answer");
                assert_eq!(whole(answered).await.0, StatusCode::OK);
            }
            // Those that are not kept are closed.
            while seen.open.load(Relaxed) > 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if seen.open.load(Relaxed) == 2 {
                return;
            }
        }
    })
    .await;
    assert!(seen.made.load(Relaxed) >= BURST as u32);
}

#[tokio::test]
async fn of_many_connections_at_once_so_many_are_kept() {
    let long = |caps: &mut UpstreamCaps| {
        caps.kept_max = 2;
        caps.kept_age_max = Duration::from_secs(600);
    };
    let (seen, all) = (Arc::<Seen>::default(), Arc::new(Barrier::new(8)));
    let counted = Arc::clone(&seen);
    let fake = Fake::start(move |mut stream, _| {
        let (open, all) = (Open::new(&counted), Arc::clone(&all));
        async move {
            while hear(&mut stream).await.is_some() {
                all.wait().await;
                let said = answer("Content-Type: text/plain\r\n\r\nok");
                if stream.write_all(&said).await.is_err() {
                    break;
                }
            }
            drop(open);
        }
    })
    .await;
    let application = fake.capped(caps(long), |_| {});
    keeps_two(Arc::new(application), &seen).await;

    let (seen, all) = (Arc::<Seen>::default(), Arc::new(Barrier::new(8)));
    let counted = Arc::clone(&seen);
    let address = origin(move |mut stream| {
        let (open, all) = (Open::new(&counted), Arc::clone(&all));
        async move {
            while read_head(&mut stream).await {
                all.wait().await;
                let said = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if stream.write_all(said).await.is_err() {
                    break;
                }
            }
            drop(open);
        }
    })
    .await;
    keeps_two(Arc::new(upstream(address, caps(long))), &seen).await;
}

#[tokio::test]
async fn a_kept_connection_is_used_for_so_long() {
    let age = Duration::from_millis(400);
    for (age_max, expected) in [(age, 2), (Duration::from_secs(600), 1)] {
        let caps = caps(|caps| {
            caps.kept_max = 1;
            caps.kept_age_max = age_max;
        });
        let (seen, gone) = (Arc::<Seen>::default(), Arc::new(Notify::new()));
        let (counted, tells) = (Arc::clone(&seen), Arc::clone(&gone));
        let fake = Fake::start(move |mut stream, _| {
            let (open, tells) = (Open::new(&counted), Arc::clone(&tells));
            async move {
                while hear(&mut stream).await.is_some() {
                    let said = answer("Content-Type: text/plain\r\n\r\nok");
                    let _ = stream.write_all(&said).await;
                }
                drop(open);
                tells.notify_one();
            }
        })
        .await;
        let rig = Rig::new(Arc::new(fake.capped(caps, |_| {}))).await;
        assert_eq!(whole(rig.send1(get(URL)).await).await.0, StatusCode::OK);
        // Nobody asks, and yet it is let go of: it holds a process of the application.
        match age_max == age {
            true => soon(gone.notified()).await,
            // Longer than where nothing is set, and a look of who lets go of them.
            false => tokio::time::sleep(Duration::from_millis(5_500)).await,
        }
        assert_eq!(whole(rig.send1(get(URL)).await).await.0, StatusCode::OK);
        assert_eq!(seen.made.load(Relaxed), expected, "FastCGI {age_max:?}");

        let seen = Arc::<Seen>::default();
        let counted = Arc::clone(&seen);
        let address = origin(move |mut stream| {
            let open = Open::new(&counted);
            async move {
                while read_head(&mut stream).await {
                    let said = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    let _ = stream.write_all(said).await;
                }
                drop(open);
            }
        })
        .await;
        let rig = Rig::new(Arc::new(upstream(address, caps))).await;
        assert_eq!(whole(rig.send1(get(URL)).await).await.0, StatusCode::OK);
        tokio::time::sleep(age * 2).await;
        assert_eq!(whole(rig.send1(get(URL)).await).await.0, StatusCode::OK);
        assert_eq!(seen.made.load(Relaxed), expected, "HTTP {age_max:?}");
    }
}

/// `http:unix:`: the same HTTP over a socket of this machine.
#[tokio::test]
async fn an_origin_is_asked_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("it listens");
    let made = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&made);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            let answer = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let host = parts.headers["host"].to_str().expect("text").to_owned();
                let told = format!("{} {} {host} {}", parts.method, parts.uri, body.len());
                Ok::<_, hyper::Error>(http::Response::new(text(told)))
            });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let allowed = format!("unix:{}", path.display()).parse().expect("a rule");
    let address = Address::Unix(path.to_str().expect("text").to_owned());
    let reach = Reach::new(address, Arc::new([allowed]));
    let upstream = Upstream::at(reach, UpstreamCaps::keeping(4), LIMITS);
    assert_eq!(soon(upstream.probe("/healthz")).await, Ok(StatusCode::OK));
    let rig = Rig::new(Arc::new(upstream)).await;
    for _ in 0..3 {
        let (_, _, seen) = whole(rig.send1(get(URL)).await).await;
        assert_eq!(seen, "GET /a.php/b?c=d shop.example.com 0");
    }
    let post = request("POST", URL, text("x".repeat(1_000)));
    let (_, _, seen) = whole(rig.send2(post).await).await;
    assert_eq!(seen, "POST /a.php/b?c=d shop.example.com 1000");
    assert_eq!(made.load(Relaxed), 1, "it is kept");
    std::fs::remove_file(&path).expect("it was there");
}
