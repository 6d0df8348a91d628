//! Servers behind the edge: what is passed on, what is kept, what is told when they fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use realm_edge::{Upstream, UpstreamLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{Rig, channel, data, get, request, soon, text, whole};

const URL: &str = "http://shop.example.com/a%20b?c=d";

/// A server of which each connection is handed to `serve`, and how many came.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
}

impl Server {
    /// One connection beside the other, or one after the other.
    async fn start<F, Fut>(at_once: bool, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let served = serve(stream);
                if at_once {
                    tokio::spawn(served);
                } else {
                    served.await;
                }
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Each request is answered with its head and its body, on connections that are kept.
    async fn mirror() -> Self {
        Self::start(true, mirror).await
    }

    fn upstream(&self) -> Upstream {
        self.limited(|_| {})
    }

    fn limited(&self, set: impl FnOnce(&mut UpstreamLimits)) -> Upstream {
        let mut limits = UpstreamLimits {
            concurrency_max: 64,
            wall_timeout: Duration::from_secs(20),
            request_bytes_max: 1024 * 1024,
            response_bytes_max: None,
            websocket_idle: Duration::from_secs(60),
            takes_connections: false,
        };
        set(&mut limits);
        Upstream::new(self.address, limits)
    }
}

async fn mirror(stream: TcpStream) {
    let answer = |request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let mut lines = vec![format!(
            "{} {} {:?}",
            parts.method, parts.uri, parts.version
        )];
        for (name, value) in &parts.headers {
            lines.push(format!("{name}: {}", value.to_str().unwrap_or("?")));
        }
        let body = body.collect().await?.to_bytes();
        lines.push(format!("{} bytes", body.len()));
        Ok::<_, hyper::Error>(Response::new(text(lines.join("\n"))))
    };
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // The client may go at any time.
    let _ = served.await;
}

/// Reads one head, and what follows it to `body` bytes.
async fn read_request(stream: &mut TcpStream, body: usize) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some(end) = text.find("\r\n\r\n")
            && read.len() >= end + 4 + body
        {
            return Some(text.into_owned());
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

async fn rig(upstream: Upstream) -> Rig {
    Rig::new(Arc::new(upstream)).await
}

#[tokio::test]
async fn a_request_goes_through_and_its_connection_is_kept() {
    let server = Server::mirror().await;
    let rig = rig(server.upstream()).await;
    for round in 0..10 {
        let (sent, body) = channel();
        let posted = request("POST", URL, body);
        let answer = tokio::spawn(async move {
            for piece in ["one", "two"] {
                sent.send(data(piece)).await.expect("taken");
            }
        });
        let response = if round % 2 == 0 {
            rig.send1(posted).await
        } else {
            rig.send2(posted).await
        };
        let (status, _, body) = whole(response).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        answer.await.expect("sent");
        assert_eq!(status, StatusCode::OK);
        for line in [
            "POST /a%20b?c=d HTTP/1.1",
            "host: shop.example.com",
            "x-forwarded-for: 127.0.0.1",
            "6 bytes",
        ] {
            assert!(body.lines().any(|other| other == line), "{line}: {body}");
        }
    }
    assert_eq!(server.connections.load(Relaxed), 1);
}

#[tokio::test]
async fn cookies_of_http2_are_one_line() {
    let server = Server::mirror().await;
    let rig = rig(server.upstream()).await;
    let mut asked = get(URL);
    for cookie in ["a=1", "b=2"] {
        asked
            .headers_mut()
            .append("cookie", cookie.parse().expect("a value"));
    }
    let (_, _, body) = whole(rig.send2(asked).await).await;
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("\ncookie: a=1; b=2\n"), "{body}");
}

/// It closes each connection behind its answer, and does not say so before.
#[tokio::test]
async fn a_stale_connection_costs_no_request() {
    let server = Server::start(true, |mut stream| async move {
        if read_request(&mut stream, 0).await.is_some() {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    let rig = rig(server.upstream()).await;
    for _ in 0..100 {
        let (status, _, body) = whole(rig.send1(get(URL)).await).await;
        assert_eq!((status, &*body), (StatusCode::OK, &b"ok"[..]));
    }
    assert_eq!(server.connections.load(Relaxed), 100);
}

/// It reads a second request on a connection, and closes: what may be sent twice is.
#[tokio::test]
async fn a_request_is_repeated_where_that_changes_nothing() {
    let server = Server::start(true, |mut stream| async move {
        read_request(&mut stream, 0).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let _ = stream.write_all(answer).await;
        read_request(&mut stream, 0).await;
    })
    .await;
    let rig = rig(server.upstream()).await;
    for (method, status) in [("GET", 200), ("PUT", 200), ("POST", 502)] {
        let first = whole(rig.send1(get(URL)).await).await;
        assert_eq!(first.0, StatusCode::OK);
        let asked = request(method, URL, crate::support::empty());
        let (seen, _, _) = whole(rig.send1(asked).await).await;
        assert_eq!(seen.as_u16(), status, "{method}");
    }
}

/// It takes the next connection when the one before has ended, and keeps connections.
#[tokio::test]
async fn a_server_of_one_connection_answers_several_clients() {
    let server = Server::start(false, mirror).await;
    let upstream = server.upstream();
    soon(upstream.reach()).await.expect("it listens");
    let rig = Arc::new(rig(upstream).await);
    for _ in 0..3 {
        let asked: Vec<_> = (0..4)
            .map(|_| {
                let rig = Arc::clone(&rig);
                tokio::spawn(async move { whole(rig.send1(get(URL)).await).await.0 })
            })
            .collect();
        for answer in asked {
            assert_eq!(answer.await.expect("no panic"), StatusCode::OK);
        }
    }
}

/// What a server does, and the answer that a client gets.
async fn check(reply: &'static [u8], status: u16, code: &str) {
    let server = Server::start(true, move |mut stream| async move {
        if read_request(&mut stream, 0).await.is_some() {
            let _ = stream.write_all(reply).await;
        }
    })
    .await;
    let mut rig = rig(server.upstream()).await;
    let (seen, headers, _) = whole(rig.send1(get(URL)).await).await;
    assert_eq!(seen.as_u16(), status);
    assert_eq!(headers["realm-error"], code);
    assert_eq!(rig.seen().await.code, Some(code.to_owned().leak() as &str));
}

#[tokio::test]
async fn what_is_no_answer_has_a_code() {
    check(b"", 502, "no-response").await;
    check(b"HTTP/1.1 200 OK\r\nContent-", 502, "no-response").await;
    check(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 502, "bad-response").await;
    check(
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        502,
        "bad-response",
    )
    .await;
    let head = format!("HTTP/1.1 200 OK\r\na: {}\r\n", "x".repeat(70_000));
    check(head.leak().as_bytes(), 502, "bad-response").await;
    let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(273));
    check(head.leak().as_bytes(), 502, "bad-response").await;
    let upgrade =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    check(upgrade, 502, "bad-response").await;
}

#[tokio::test]
async fn who_does_not_listen_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let limits = UpstreamLimits {
        concurrency_max: 1,
        wall_timeout: Duration::from_secs(20),
        request_bytes_max: 1,
        response_bytes_max: None,
        websocket_idle: Duration::from_secs(60),
        takes_connections: false,
    };
    let upstream = Upstream::new(address, limits);
    assert!(soon(upstream.reach()).await.is_err());
    let dead = upstream.clone();
    let server = Server::mirror().await;
    // Another replica gets the request: it never left.
    let rig = Rig::with_config(vec![Arc::new(dead), Arc::new(server.upstream())], |_| {}).await;
    for _ in 0..10 {
        assert_eq!(whole(rig.send1(get(URL)).await).await.0, StatusCode::OK);
    }
    let rig = self::rig(upstream).await;
    let (status, headers, _) = whole(rig.send1(get(URL)).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["realm-error"], "not-listening");
    assert_eq!(headers["retry-after"], "1");
}

/// It ends with the second request, which comes on a kept connection.
#[tokio::test]
async fn what_ends_a_server_is_not_sent_to_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        drop(listener);
        read_request(&mut stream, 0).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.expect("written");
        read_request(&mut stream, 0).await;
    });
    let mortal = Server {
        address,
        connections: Arc::default(),
    };
    let mut rig = rig(mortal.upstream()).await;
    assert_eq!(whole(rig.send1(get(URL)).await).await.0, StatusCode::OK);
    rig.seen().await;
    let (status, headers, _) = whole(rig.send1(get(URL)).await).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert_eq!(headers["realm-error"], "no-response");
}

#[tokio::test]
async fn silence_ends_at_the_wall_time() {
    let server = Server::start(true, |mut stream| async move {
        if let Some(head) = read_request(&mut stream, 0).await
            && head.starts_with("GET /late")
        {
            let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun";
            let _ = stream.write_all(begun).await;
        }
        // It holds the connection until the other side lets go.
        let _ = stream.read_u8().await;
    })
    .await;
    let wall = Duration::from_millis(200);
    let mut rig = rig(server.limited(|limits| limits.wall_timeout = wall)).await;
    let (status, headers, _) = whole(rig.send1(get(URL)).await).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(headers["realm-error"], "wall-timeout");
    rig.seen().await;
    let late = rig.send1(get("http://h/late")).await;
    assert_eq!(late.status(), StatusCode::OK);
    assert!(soon(late.into_body().collect()).await.is_err());
    assert_eq!(rig.seen().await.code, Some("body-failed"));
}

/// It writes without a pause: the wall time ends that as well.
#[tokio::test]
async fn a_flood_ends_at_the_wall_time() {
    let server = Server::start(true, |mut stream| async move {
        read_request(&mut stream, 0).await;
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(head).await;
        while stream.write_all(&[7; 64 * 1024]).await.is_ok() {}
    })
    .await;
    let wall = Duration::from_millis(300);
    let rig = rig(server.limited(|limits| limits.wall_timeout = wall)).await;
    let flood = rig.send1(get(URL)).await;
    assert!(soon(flood.into_body().collect()).await.is_err());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_for_the_client() {
    let server = Server::start(true, |mut stream| async move {
        read_request(&mut stream, 0).await;
        let half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        let _ = stream.write_all(half).await;
    })
    .await;
    let mut rig = rig(server.upstream()).await;
    let answer = rig.send1(get(URL)).await;
    assert!(soon(answer.into_body().collect()).await.is_err());
    assert_eq!(rig.seen().await.code, Some("body-failed"));
}

#[tokio::test]
async fn a_client_that_goes_ends_the_request_at_the_server() {
    let (told, mut ended) = mpsc::unbounded_channel();
    let server = Server::start(true, move |mut stream| {
        let told = told.clone();
        async move {
            let head = read_request(&mut stream, 0).await.unwrap_or_default();
            if head.starts_with("GET /begun") {
                let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun";
                let _ = stream.write_all(begun).await;
            }
            let _ = told.send("asked");
            let gone = stream.read_u8().await.is_err();
            let _ = told.send(if gone { "gone" } else { "more" });
        }
    })
    .await;
    let upstream = server.upstream();
    let rig = rig(upstream.clone()).await;
    for path in ["/waits", "/begun"] {
        let mut client = rig.connect().await;
        let asked = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        client.write_all(asked.as_bytes()).await.expect("sent");
        assert_eq!(soon(ended.recv()).await, Some("asked"));
        drop(client);
        assert_eq!(soon(ended.recv()).await, Some("gone"), "{path}");
    }
    assert_eq!(realm_edge::Backend::load(&upstream), 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let server = Server::mirror().await;
    let rig = rig(server.limited(|limits| limits.request_bytes_max = 10)).await;
    for body in [text("x".repeat(11)), {
        let (sent, body) = channel();
        tokio::spawn(async move {
            for _ in 0..4 {
                if sent.send(data("xxx")).await.is_err() {
                    return;
                }
            }
        });
        body
    }] {
        let posted = Request::builder().method(Method::POST).uri(URL).body(body);
        let (status, headers, _) = whole(rig.send1(posted.expect("a request")).await).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(headers["realm-error"], "request-too-large");
    }
    let posted = request("POST", URL, text("x".repeat(10)));
    assert_eq!(whole(rig.send1(posted).await).await.0, StatusCode::OK);
}

/// Whether its length is told or not: of an answer that may have ten bytes, eleven.
#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_or_broken_off() {
    const TOLD: &str = "HTTP/1.1 200 OK\r\nContent-Length: ";
    let chunks = |pieces: &[&str]| {
        let mut said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for piece in pieces.iter().chain(&[""]) {
            said += &format!("{:x}\r\n{piece}\r\n", piece.len());
        }
        said
    };
    for (said, expected) in [
        (format!("{TOLD}10\r\n\r\n{}", "x".repeat(10)), Ok(200)),
        (format!("{TOLD}11\r\n\r\n{}", "x".repeat(11)), Ok(502)),
        (chunks(&["xxxxx", "xxxxx"]), Ok(200)),
        (chunks(&["xxxxx", "xxxxxx"]), Err(())),
    ] {
        let answer = said.clone();
        let server = Server::start(true, move |mut stream| {
            let answer = answer.clone();
            async move {
                while read_request(&mut stream, 0).await.is_some() {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        })
        .await;
        let upstream = server.limited(|limits| limits.response_bytes_max = Some(10));
        let rig = rig(upstream.clone()).await;
        let response = rig.send1(get(URL)).await;
        let status = response.status().as_u16();
        if status == 502 {
            assert_eq!(response.headers()["realm-error"], "response-too-large");
        }
        let read = soon(response.into_body().collect()).await;
        let seen = read.map(|_| status).map_err(|_| ());
        assert_eq!(seen, expected, "{said}");
        // HEAD has no body, whatever its length says.
        let head = request("HEAD", URL, text(""));
        if said.starts_with(TOLD) {
            let asked = soon(rig.send1(head)).await;
            assert_eq!(asked.status(), StatusCode::OK, "{said}");
        }
        soon(async {
            while realm_edge::Backend::load(&upstream) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_too_much_at_once_is_refused() {
    let (told, mut asked) = mpsc::unbounded_channel();
    let server = Server::start(true, move |mut stream| {
        let told = told.clone();
        async move {
            read_request(&mut stream, 0).await;
            let _ = told.send(());
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let upstream = server.limited(|limits| limits.concurrency_max = 2);
    let rig = rig(upstream.clone()).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = rig.connect().await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .expect("sent");
        clients.push(client);
        soon(asked.recv()).await;
    }
    assert_eq!(realm_edge::Backend::load(&upstream), 2);
    let (status, headers, _) = whole(rig.send1(get(URL)).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["realm-error"], "overloaded");
    // A probe has its own way in: a busy server is not a sick one.
    let probe = upstream.probe("/healthz");
    let asked = async { soon(asked.recv()).await };
    tokio::select! {
        answered = probe => panic!("{answered:?}"),
        _ = asked => {}
    }
}

#[tokio::test]
async fn a_probe_asks_for_a_path() {
    let server = Server::mirror().await;
    let upstream = server.upstream();
    assert_eq!(soon(upstream.probe("/healthz")).await, Ok(StatusCode::OK));
    assert_eq!(soon(upstream.probe("/healthz")).await, Ok(StatusCode::OK));
    assert_eq!(server.connections.load(Relaxed), 1);
}
