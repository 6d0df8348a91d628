//! FastCGI applications behind the edge: what they hear, what comes back, and what is told when they
//! fail, lie or fall silent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use realm_edge::fastcgi::{
    Application, Decoder, Event, Limits, Remarks, Status, put_end, put_stdout,
};
use realm_edge::{Reach, Upstream, UpstreamCaps, UpstreamLimits};
use realm_model::upstream::{Address, Allowed, Host, Scripts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Rig, channel, data, for_http1, get, request, soon, text, whole};

pub(crate) const URL: &str = "http://shop.example.com/a.php/b?c=d";

/// An application of which each connection is handed to `serve`, with its number.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicU32>,
    pub(crate) log: Arc<Log>,
}

#[derive(Default)]
pub(crate) struct Log(pub(crate) Mutex<Vec<String>>);

impl Remarks for Log {
    fn line(&self, text: String) {
        self.0.lock().expect("no panic holds it").push(text);
    }
}

impl Fake {
    pub(crate) async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, u32) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, count.fetch_add(1, Relaxed)));
            }
        });
        Self {
            address,
            connections,
            log: Arc::default(),
        }
    }

    /// Each request of a connection gets these bytes.
    pub(crate) async fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::start(move |mut stream, _| {
            let bytes = Arc::clone(&bytes);
            async move {
                if hear(&mut stream).await.is_some() {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                    // It reads on: an early close would be a reset.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        })
        .await
    }

    pub(crate) fn application(&self, keep: u32) -> Application {
        self.limited(keep, |_| {})
    }

    pub(crate) fn limited(&self, keep: u32, set: impl FnOnce(&mut UpstreamLimits)) -> Application {
        self.capped(UpstreamCaps::keeping(keep), set)
    }

    pub(crate) fn capped(
        &self,
        caps: UpstreamCaps,
        set: impl FnOnce(&mut UpstreamLimits),
    ) -> Application {
        let mut limits = UpstreamLimits {
            concurrency_max: 64,
            wall_timeout: Duration::from_secs(20),
            request_bytes_max: 16 * 1024 * 1024,
            response_bytes_max: None,
            websocket_idle: Duration::from_secs(60),
            takes_connections: false,
        };
        set(&mut limits);
        let reach = reach(self.address, &self.address.to_string());
        Application::new(reach, scripts(), caps, limits, Arc::clone(&self.log) as _)
    }

    pub(crate) async fn rig(&self, keep: u32) -> Rig {
        Rig::new(Arc::new(self.application(keep))).await
    }
}

pub(crate) fn reach(address: SocketAddr, allowed: &str) -> Reach {
    let rule: Allowed = allowed.parse().expect("a rule");
    let address = Address::Tcp(Host::Ip(address.ip()), address.port());
    Reach::new(address, Arc::new([rule]))
}

fn scripts() -> Scripts {
    Scripts {
        root: "/srv/www".to_owned(),
        split: ".php".to_owned(),
        index: "index.php".to_owned(),
    }
}

/// One request: its parameters as lines, and the length of its body.
pub(crate) async fn hear(stream: &mut TcpStream) -> Option<(Vec<String>, usize)> {
    let mut decoder = Decoder::new(Limits::default());
    let mut input = BytesMut::new();
    let (mut lines, mut body) = (Vec::new(), 0);
    loop {
        match decoder.next(&mut input).expect("FastCGI") {
            Some(Event::Request { params, .. }) => {
                let line = |(name, value): (&[u8], &[u8])| {
                    let (name, value) = (
                        String::from_utf8_lossy(name),
                        String::from_utf8_lossy(value),
                    );
                    format!("{name}={value}")
                };
                lines = params.iter().map(line).collect();
            }
            Some(Event::Stdin { bytes, .. }) => body += bytes.len(),
            Some(Event::StdinEnd { .. }) => return Some((lines, body)),
            Some(other) => panic!("{other:?}"),
            None => {
                if stream.read_buf(&mut input).await.ok()? == 0 {
                    return None;
                }
            }
        }
    }
}

pub(crate) fn answer(text: &str) -> BytesMut {
    let mut out = BytesMut::new();
    put_stdout(&mut out, 1, text.as_bytes());
    put_end(&mut out, 1, Status::Complete, 0);
    out
}

/// Tells what it heard, request after request.
async fn mirror(mut stream: TcpStream, number: u32) {
    while let Some((lines, body)) = hear(&mut stream).await {
        let told = format!(
            "Status: 201 Made\r\nContent-Type: text/plain\r\n\r\n{}\n{body} bytes\nconnection {number}\n",
            lines.join("\n")
        );
        if stream.write_all(&answer(&told)).await.is_err() {
            return;
        }
    }
}

fn has(body: &Bytes, line: &str) -> bool {
    let body = String::from_utf8_lossy(body);
    body.lines().any(|other| other == line)
}

#[tokio::test]
async fn a_request_goes_to_the_application_and_its_answer_back() {
    let fake = Fake::start(mirror).await;
    let rig = fake.rig(0).await;
    let (status, headers, first) = whole(rig.send1(get(URL)).await).await;
    assert_eq!(status.as_u16(), 201);
    assert_eq!(headers["content-type"], "text/plain");
    let (_, _, second) = whole(rig.send2(get(URL)).await).await;
    assert!(has(&first, "SERVER_PROTOCOL=HTTP/1.1"), "{first:?}");
    assert!(has(&second, "SERVER_PROTOCOL=HTTP/2.0"), "{second:?}");
    for line in [
        "REQUEST_METHOD=GET",
        "SCRIPT_FILENAME=/srv/www/a.php",
        "PATH_INFO=/b",
        "QUERY_STRING=c=d",
        "REMOTE_ADDR=127.0.0.1",
        "HTTP_HOST=shop.example.com",
        "CONTENT_LENGTH=0",
        "0 bytes",
    ] {
        assert!(
            has(&first, line) && has(&second, line),
            "{line}: {first:?} {second:?}"
        );
    }
    assert_eq!(
        fake.connections.load(Relaxed),
        2,
        "each request has its own"
    );
    let (status, _, _) = whole(rig.send1(get("http://a/x%00.php")).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn bodies_of_any_length_go_through() {
    let fake = Fake::start(mirror).await;
    let rig = fake.rig(0).await;
    for length in [0, 1, 65_535, 65_536, 10 << 20] {
        let body = || text("x".repeat(length));
        for response in [
            rig.send1(request("POST", URL, body())).await,
            rig.send2(request("POST", URL, body())).await,
        ] {
            let (_, _, seen) = whole(response).await;
            assert!(has(&seen, &format!("{length} bytes")), "{length}");
            assert!(has(&seen, &format!("CONTENT_LENGTH={length}")), "{length}");
        }
    }
}

/// The application must be told a length first.
#[tokio::test]
async fn a_body_without_a_length_is_collected_up_to_a_cap() {
    let fake = Fake::start(mirror).await;
    let rig = fake.rig(0).await;
    for (pieces, expected) in [(0, 201), (3, 201), (16, 201), (17, 411)] {
        let (sent, body) = channel();
        let posting = tokio::spawn(async move {
            for _ in 0..pieces {
                // The rest of what is refused is not taken.
                let _ = sent.send(data(vec![b'x'; 64 * 1024])).await;
            }
        });
        let (status, _, seen) = whole(rig.send2(request("POST", URL, body)).await).await;
        posting.await.expect("no panic");
        assert_eq!(status.as_u16(), expected, "{pieces}: {seen:?}");
        let line = format!("CONTENT_LENGTH={}", pieces * 64 * 1024);
        assert!(expected == 411 || has(&seen, &line), "{seen:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_larger_than_may_be_is_refused() {
    let fake = Fake::start(mirror).await;
    let limited = fake.limited(0, |limits| limits.request_bytes_max = 10);
    let rig = Rig::new(Arc::new(limited)).await;
    let (status, _, _) = rig
        .both(|| request("POST", URL, text("x".repeat(11))))
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (sent, body) = channel();
    let posting = tokio::spawn(async move { sent.send(data("x".repeat(11))).await });
    let (status, _, _) = whole(rig.send2(request("POST", URL, body)).await).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let _ = posting.await;
    assert_eq!(fake.connections.load(Relaxed), 0);
}

#[tokio::test]
async fn an_answer_that_is_larger_than_may_be_is_refused_or_broken_off() {
    let answer = |head: &str, bytes: usize| {
        let mut said = BytesMut::new();
        let body = format!("{head}\r\n{}", "x".repeat(bytes));
        put_stdout(&mut said, 1, body.as_bytes());
        put_end(&mut said, 1, Status::Complete, 0);
        said.to_vec()
    };
    for (said, expected) in [
        (answer("Content-Length: 10\r\n", 10), Ok(200)),
        (answer("Content-Length: 11\r\n", 11), Ok(502)),
        (answer("Content-Type: a/b\r\n", 10), Ok(200)),
        (answer("Content-Type: a/b\r\n", 11), Err(())),
    ] {
        let fake = Fake::saying(said).await;
        let limited = fake.limited(0, |limits| limits.response_bytes_max = Some(10));
        let rig = Rig::new(Arc::new(limited)).await;
        let seen = async {
            let response = rig.http1().await.send_request(for_http1(get(URL))).await?;
            let status = response.status().as_u16();
            if status == 502 {
                assert_eq!(response.headers()["realm-error"], "response-too-large");
            }
            response.into_body().collect().await.map(|_| status)
        };
        // Where all of it comes at once, not even the head has left.
        let seen: hyper::Result<u16> = soon(seen).await;
        assert_eq!(seen.map_err(|_| ()), expected);
    }
}

#[tokio::test]
async fn connections_are_kept_where_that_is_wanted_and_no_more_of_them() {
    let fake = Fake::start(mirror).await;
    let rig = fake.rig(1).await;
    for _ in 0..10 {
        let (_, _, body) = whole(rig.send1(get(URL)).await).await;
        assert!(has(&body, "connection 0"), "{body:?}");
    }
    // What cannot be repeated has one of its own: on a kept one it may be lost.
    let (_, _, body) = whole(rig.send1(request("POST", URL, text("x"))).await).await;
    assert!(has(&body, "connection 1"), "{body:?}");
}

/// Of php-fpm with one process, a kept connection is all of it.
#[tokio::test]
async fn a_kept_connection_holds_nobody_up_for_long() {
    let alone = Arc::new(tokio::sync::Mutex::new(()));
    let fake = Fake::start(move |stream, number| {
        let alone = Arc::clone(&alone);
        async move {
            let _process = alone.lock().await;
            mirror(stream, number).await;
        }
    })
    .await;
    let rig = fake.rig(1).await;
    let begun = std::time::Instant::now();
    for round in 0..5 {
        for asked in [get(URL), request("POST", URL, text("x"))] {
            let (status, _, _) = whole(rig.send1(asked).await).await;
            assert_eq!(status.as_u16(), 201, "{round}");
        }
    }
    // Each would wait for four seconds.
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

/// php-fpm resets a connection when its process has done its number of requests.
#[tokio::test]
async fn a_kept_connection_that_breaks_costs_no_request() {
    let fake = Fake::start(|mut stream, _| async move {
        for _ in 0..3 {
            if hear(&mut stream).await.is_none() {
                return;
            }
            let said = answer("Content-Type: text/plain\r\n\r\nok");
            let _ = stream.write_all(&said).await;
        }
        // The next one is read, and answered with a reset.
        let _ = stream.read(&mut [0; 16]).await;
        stream.set_zero_linger().expect("a socket");
    })
    .await;
    let rig = fake.rig(2).await;
    for _ in 0..40 {
        let (status, _, body) = whole(rig.send1(get(URL)).await).await;
        assert_eq!((status, &*body), (StatusCode::OK, &b"ok"[..]));
    }
    assert!(fake.connections.load(Relaxed) >= 10);
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_once_more_and_nothing_else() {
    let fake = Fake::start(|mut stream, _| async move {
        let _ = hear(&mut stream).await;
    })
    .await;
    let mut rig = fake.rig(0).await;
    for (asked, connections) in [
        (get(URL), 2),
        (request("POST", URL, text("")), 1),
        (request("PUT", URL, text("x")), 1),
    ] {
        fake.connections.store(0, Relaxed);
        let (status, _, _) = whole(rig.send1(asked).await).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert_eq!(rig.seen().await.code, Some("no-response"));
        assert_eq!(fake.connections.load(Relaxed), connections);
    }
}

/// A process manager that starts again has no socket for a moment.
#[tokio::test]
async fn an_application_that_starts_again_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let fake = Fake {
        address,
        connections: Arc::default(),
        log: Arc::default(),
    };
    let application = fake.application(0);
    let rig = Rig::new(Arc::new(application.clone())).await;
    let asking =
        tokio::spawn(async move { whole(rig.send1(request("POST", URL, text("x"))).await).await });
    while !asking.is_finished() && application.reach().await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(listener) = TcpListener::bind(address).await else {
            continue;
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(mirror(stream, 0));
            }
        });
    }
    assert_eq!(asking.await.expect("no panic").0.as_u16(), 201);
}

#[tokio::test(start_paused = true)]
async fn who_is_down_is_told_so_and_soon_from_then_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let fake = Fake {
        address: listener.local_addr().expect("an address"),
        connections: Arc::default(),
        log: Arc::default(),
    };
    drop(listener);
    let application = fake.application(0);
    for patient in [true, false] {
        let begun = tokio::time::Instant::now();
        let asked = realm_edge::Backend::call(&application, get(URL)).await;
        let error = asked.expect_err("nobody is there");
        assert_eq!((error.status.as_u16(), error.code), (503, "not-listening"));
        assert!(error.retryable, "another replica may have it");
        assert_eq!(begun.elapsed() > Duration::from_secs(1), patient);
    }
}

#[tokio::test]
async fn an_answer_without_a_body_keeps_its_connection() {
    let fake = Fake::start(|mut stream, _| async move {
        while let Some((lines, _)) = hear(&mut stream).await {
            let status = match lines.iter().any(|line| line == "SCRIPT_NAME=/304.php") {
                true => "304 Not Modified",
                false => "200 OK",
            };
            let said = format!(
                "Status: {status}\r\nETag: \"a\"\r\n\r\n{}",
                "x".repeat(100_000)
            );
            let _ = stream.write_all(&answer(&said)).await;
        }
    })
    .await;
    let rig = fake.rig(1).await;
    for _ in 0..3 {
        let (status, headers, body) = whole(rig.send1(request("HEAD", URL, text(""))).await).await;
        assert_eq!((status.as_u16(), body.len()), (200, 0));
        assert_eq!(headers["etag"], "\"a\"");
        let (status, _, body) = whole(rig.send1(get("http://a/304.php")).await).await;
        assert_eq!((status.as_u16(), body.len()), (304, 0));
    }
    let (_, _, body) = whole(rig.send1(get(URL)).await).await;
    assert_eq!(body.len(), 100_000);
    let connections = fake.connections.load(Relaxed);
    assert!(connections <= 2, "{connections}");
}

/// A client that does not read holds up the application, and no memory.
#[tokio::test]
async fn nobody_is_reached_whom_the_operator_does_not_allow() {
    let fake = Fake::start(mirror).await;
    let limits = UpstreamLimits {
        concurrency_max: 1,
        wall_timeout: Duration::from_secs(20),
        request_bytes_max: 1024,
        response_bytes_max: None,
        websocket_idle: Duration::from_secs(60),
        takes_connections: false,
    };
    let port = fake.address.port();
    let named = |name: &str| Address::Tcp(Host::Name(name.to_owned()), port);
    let rules = |text: &str| -> Arc<[Allowed]> { Arc::new([text.parse().expect("a rule")]) };
    for (address, allowed, is_allowed) in [
        (named("localhost"), "127.0.0.0/8", true),
        (named("localhost"), "10.0.0.0/8", false),
        (
            Address::Tcp(Host::Ip([127, 0, 0, 1].into()), port),
            "127.0.0.2",
            false,
        ),
    ] {
        let reach = Reach::new(address, rules(&format!("{allowed}:{port}")));
        let error = reach.check().await.err().map(|error| error.kind());
        let expected = (!is_allowed).then_some(std::io::ErrorKind::PermissionDenied);
        assert_eq!(error, expected, "{reach:?}");
        let caps = UpstreamCaps::keeping(0);
        let log = fake.log.clone();
        let application = Application::new(reach.clone(), scripts(), caps, limits, log);
        assert_eq!(application.reach().await.is_ok(), is_allowed);
        assert_eq!(
            Upstream::at(reach, caps, limits).touch().await.is_ok(),
            is_allowed
        );
    }
    let unix =
        |allowed: &str| Reach::new(Address::Unix("/run/nobody.sock".to_owned()), rules(allowed));
    let denied = unix("unix:/run/other.sock").connect().await.err();
    let kind = denied.map(|error| error.kind());
    assert_eq!(kind, Some(std::io::ErrorKind::PermissionDenied));
    let absent = unix("unix:/run/nobody.sock").connect().await.err();
    assert_eq!(
        absent.map(|error| error.kind()),
        Some(std::io::ErrorKind::NotFound)
    );
}

#[tokio::test]
async fn a_probe_is_a_request() {
    let fake = Fake::start(mirror).await;
    let application = fake.application(0);
    assert_eq!(
        application
            .probe("/ping")
            .await
            .map(|status| status.as_u16()),
        Ok(201)
    );
    let silent = Fake::saying(Vec::new()).await;
    let error = silent
        .application(0)
        .probe("/ping")
        .await
        .expect_err("no answer");
    assert_eq!(error.code, "no-response");
}
