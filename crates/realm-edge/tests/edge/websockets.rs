//! WebSockets behind the edge: passed on to servers here and on other nodes, and nothing else that a
//! client asks to switch to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use realm_edge::fastcgi::{FastCgi, FastCgiAddress, Listen};
use realm_edge::{Backend, Far, Line, Table, Upstream, UpstreamLimits};
use realm_model::route::{PathPattern, Route};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::secure::{As, Secure};
use crate::support::{Rig, Streams, read_all, soon};

/// The example of RFC 6455.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WORD: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
pub(crate) const ASKED: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(crate) fn request(more: &str) -> String {
    format!("GET /chat HTTP/1.1\r\nHost: a.example\r\n{more}\r\n")
}

pub(crate) fn switched(more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {WORD}\r\n{more}\r\n"
    )
}

/// A server that answers each head as `answer` says, and then gives every byte back.
pub(crate) struct Server {
    address: SocketAddr,
    /// What came: heads, and how many bytes followed each.
    came: mpsc::UnboundedReceiver<(String, usize)>,
}

impl Server {
    pub(crate) async fn start(answer: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, came) = mpsc::unbounded_channel();
        let answer: String = answer.into();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), sender.clone()));
            }
        });
        Self { address, came }
    }

    pub(crate) fn upstream(&self, idle: Duration) -> Upstream {
        let limits = UpstreamLimits {
            concurrency_max: 100,
            wall_timeout: Duration::from_secs(5),
            request_bytes_max: 1024,
            response_bytes_max: None,
            websocket_idle: idle,
            takes_connections: false,
        };
        Upstream::new(self.address, limits)
    }

    pub(crate) async fn came(&mut self) -> (String, usize) {
        soon(self.came.recv()).await.expect("it lives")
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: String,
    came: mpsc::UnboundedSender<(String, usize)>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    let _ = stream.write_all(answer.as_bytes()).await;
    let (mut buffer, mut count) = (vec![0; 64 * 1024], 0);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        count += read;
        if stream.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = came.send((head, count));
}

pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) async fn rig(upstream: &Upstream) -> Rig {
    Rig::new(Arc::new(upstream.clone())).await
}

/// A frame of so many bytes, as the server has to see whole.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x82, 127];
    frame.extend((bytes as u64).to_be_bytes());
    frame.resize(frame.len() + bytes, 9);
    frame
}

/// Says hello, and hears what was answered, up to the end of the head.
pub(crate) async fn open(rig: &Rig) -> (TcpStream, String) {
    let mut stream = rig.connect().await;
    stream
        .write_all(request(ASKED).as_bytes())
        .await
        .expect("sent");
    let head = head_of(&mut stream).await;
    (stream, head)
}

/// The head of an answer; what follows it is not read.
pub(crate) async fn head_of(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

async fn echoes(stream: &mut TcpStream, bytes: usize) {
    let sent = frame(bytes);
    let (mut read, mut write) = stream.split();
    let mut heard = vec![0; sent.len()];
    let both = async { tokio::join!(write.write_all(&sent), read.read_exact(&mut heard)) };
    let (wrote, heard_all) = soon(both).await;
    wrote.expect("sent");
    heard_all.expect("heard");
    assert!(heard == sent);
}

/// The code of a last frame, and its words.
fn told(bytes: &[u8]) -> (u16, String) {
    assert_eq!(bytes[0], 0x88, "{bytes:?}");
    assert_eq!(usize::from(bytes[1]), bytes.len() - 2, "{bytes:?}");
    let words = String::from_utf8(bytes[4..].to_vec()).expect("text");
    (u16::from_be_bytes([bytes[2], bytes[3]]), words)
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    soon(stream.read_to_end(&mut all)).await.expect("an end");
    all
}

#[tokio::test]
async fn a_websocket_is_passed_on_with_what_the_server_has_to_know() {
    let mut server = Server::start(switched(
        "Sec-WebSocket-Protocol: chat\r\nKeep-Alive: 5\r\n",
    ))
    .await;
    let mut rig = rig(&server.upstream(LONG)).await;
    let (mut stream, head) = open(&rig).await;
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-protocol: chat\r\n",
        &format!("sec-websocket-accept: {}\r\n", WORD.to_ascii_lowercase()),
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(
        !head.contains("keep-alive") && !head.contains("content-length"),
        "{head}"
    );
    let seen = rig.seen().await;
    assert_eq!((seen.status, seen.component.as_deref()), (101, Some("app")));
    for bytes in [0, 1, 70_000, 1024 * 1024] {
        echoes(&mut stream, bytes).await;
    }
    stream.shutdown().await.expect("ended");
    assert_eq!(rest(&mut stream).await, b"");
    let (head, count) = server.came().await;
    let head = head.to_ascii_lowercase();
    for line in [
        "get /chat http/1.1\r\n",
        "host: a.example\r\n",
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-version: 13\r\n",
        &format!("sec-websocket-key: {}\r\n", KEY.to_ascii_lowercase()),
        "x-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert_eq!(count, 4 * 10 + 1 + 70_000 + 1024 * 1024);
    while rig.handle.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

/// What a client sends before it is answered belongs to the WebSocket, if there is one.
#[tokio::test]
async fn what_comes_early_waits_for_the_answer() {
    let mut server = Server::start(switched("")).await;
    let rig = rig(&server.upstream(LONG)).await;
    let mut stream = rig.connect().await;
    let early = [request(ASKED).as_bytes(), b"\x81\x02hi"].concat();
    stream.write_all(&early).await.expect("sent");
    head_of(&mut stream).await;
    let mut heard = [0; 4];
    soon(stream.read_exact(&mut heard)).await.expect("heard");
    assert_eq!(&heard, b"\x81\x02hi");
    drop(stream);
    assert_eq!(server.came().await.1, 4);
}

/// The classic: a server that refuses is taken for one that switched, and requests go past the edge.
#[tokio::test]
async fn what_is_not_switched_to_stays_a_request_and_the_next_one_is_read_here() {
    let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    let mut server = Server::start(refused).await;
    let rig = rig(&server.upstream(LONG)).await;
    let next = "CONNECT admin:1 HTTP/1.1\r\nHost: admin:1\r\nConnection: close\r\n\r\n";
    let answer = rig.raw(request(ASKED) + next).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("method-not-supported"), "{answer}");
    let (head, count) = server.came().await;
    assert!(!head.contains("admin") && count == 0, "{head}");
}

#[tokio::test]
async fn a_server_that_switches_to_something_else_is_refused() {
    for answer in [
        switched("").replace(WORD, "t3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        switched("").replace("Sec-WebSocket-Accept", "X-Accept"),
        switched("").replace("Upgrade: websocket", "Upgrade: h2c"),
        switched("").replace("Connection: Upgrade", "Connection: close"),
        switched("").replace(
            "101 Switching Protocols",
            "101 Switching Protocols\r\nUpgrade: h2c",
        ),
    ] {
        let mut server = Server::start(&answer).await;
        let rig = rig(&server.upstream(LONG)).await;
        let (stream, head) = open(&rig).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer}: {head}");
        assert!(head.contains("bad-response"), "{answer}: {head}");
        drop(stream);
        assert_eq!(server.came().await.1, 0);
    }
}

/// To the server such a request is an ordinary one.
#[tokio::test]
async fn nothing_else_is_switched_to() {
    let ordinary = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let mut server = Server::start(ordinary).await;
    let rig = rig(&server.upstream(LONG)).await;
    for more in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
            .to_owned(),
        ASKED.replace("websocket\r\n", "websocket, h2c\r\n"),
        ASKED.replace(
            "Upgrade: websocket\r\n",
            "Upgrade: websocket\r\nUpgrade: h2c\r\n",
        ),
        ASKED.replace("Version: 13", "Version: 8"),
        ASKED.replace(KEY, "short"),
        ASKED.replace("keep-alive, Upgrade", "keep-alive"),
        format!("{ASKED}Content-Length: 0\r\nTransfer-Encoding: identity\r\n"),
        format!("{ASKED}Transfer-Encoding: chunked\r\n\r\n0\r\n"),
    ] {
        let mut stream = rig.connect().await;
        stream
            .write_all(request(&more).as_bytes())
            .await
            .expect("sent");
        let head = head_of(&mut stream).await;
        drop(stream);
        // Whoever reads the end of a body in two ways is refused as ever.
        if head.starts_with("HTTP/1.1 400 ") {
            assert!(more.contains("identity"), "{more}: {head}");
            continue;
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{more}: {head}");
        let (head, _) = server.came().await;
        let head = head.to_ascii_lowercase();
        let said = ["\r\nupgrade:", "\r\nconnection: upgrade", "http2-settings"];
        assert!(
            !said.iter().any(|word| head.contains(word)),
            "{more}: {head}"
        );
    }
}

/// Of FastCGI nothing can be switched.
#[tokio::test]
async fn over_fastcgi_a_websocket_is_refused_in_words() {
    let server = Server::start(switched("")).await;
    let rig = Rig::with_config(vec![Arc::new(server.upstream(LONG))], |config| {
        config.fastcgi = FastCgi {
            listen: vec![Listen::Tcp("127.0.0.1:0".parse().expect("an address"))],
            allow: vec!["127.0.0.1".parse().expect("a block")],
            ..FastCgi::default()
        };
    })
    .await;
    let FastCgiAddress::Tcp(address) = rig.handle.fastcgi_addresses()[0].clone() else {
        panic!("it is a port");
    };
    let mut params = Vec::new();
    for (name, value) in [
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", "/chat"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REMOTE_ADDR", "192.0.2.1"),
        ("HTTP_HOST", "a.example"),
        ("HTTP_CONNECTION", "Upgrade"),
        ("HTTP_UPGRADE", "websocket"),
        ("HTTP_SEC_WEBSOCKET_VERSION", "13"),
        ("HTTP_SEC_WEBSOCKET_KEY", KEY),
    ] {
        for text in [name, value] {
            params.push(u8::try_from(text.len()).expect("short"));
        }
        params.extend_from_slice(name.as_bytes());
        params.extend_from_slice(value.as_bytes());
    }
    let record = |kind: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&[1, kind, 0, 1, length[0], length[1], 0, 0], body].concat()
    };
    let asked = [
        record(1, &[0, 1, 0, 0, 0, 0, 0, 0]),
        record(4, &params),
        record(4, &[]),
        record(5, &[]),
    ];
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(&asked.concat()).await.expect("sent");
    let answer = rest(&mut stream).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains("Status: 400") && answer.contains("no-websocket"),
        "{answer}"
    );
}

#[tokio::test]
async fn it_counts_as_a_request_of_the_server_and_has_a_place_until_its_end() {
    let server = Server::start(switched("")).await;
    let upstream = server.upstream(LONG);
    let rig = rig(&upstream).await;
    let mut open_ones = Vec::new();
    for _ in 0..100 {
        open_ones.push(open(&rig).await);
    }
    assert!(
        open_ones
            .iter()
            .all(|(_, head)| head.starts_with("HTTP/1.1 101 "))
    );
    assert_eq!(Backend::load(&upstream), 100);
    let (_, head) = open(&rig).await;
    assert!(
        head.contains("503") && head.contains("overloaded"),
        "{head}"
    );
    for (stream, _) in &mut open_ones {
        echoes(stream, 100).await;
    }
    drop(open_ones);
    let freed = async {
        while Backend::load(&upstream) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(freed).await;
}

#[tokio::test]
async fn who_reads_slowly_holds_up_the_sender_and_nobody_else() {
    let server = Server::start(switched("")).await;
    let rig = rig(&server.upstream(LONG)).await;
    let (slow, _) = open(&rig).await;
    let (mut read, mut write) = slow.into_split();
    // More than all buffers on the way hold.
    let all = 64 * 1024 * 1024;
    let sending = tokio::spawn(async move {
        write.write_all(&frame(all)).await.expect("sent");
        write
    });
    let (mut other, _) = open(&rig).await;
    echoes(&mut other, 100_000).await;
    assert!(!sending.is_finished(), "it waits for who reads");
    let (mut buffer, mut count) = (vec![0; 256 * 1024], 0);
    while count < all + 10 {
        count += soon(read.read(&mut buffer)).await.expect("read");
    }
    assert_eq!(count, all + 10);
    drop(soon(sending).await.expect("no panic"));
}

#[tokio::test]
async fn a_server_that_leaves_and_an_edge_that_stops_say_so() {
    let server = Server::start(switched("")).await;
    let rig = rig(&server.upstream(Duration::from_millis(100))).await;
    let (mut silent, _) = open(&rig).await;
    let (code, words) = told(&rest(&mut silent).await);
    assert_eq!((code, words.contains("idle")), (1001, true), "{words}");

    let upstream = server.upstream(LONG);
    let rig = self::rig(&upstream).await;
    let mut open_ones = Vec::new();
    for _ in 0..20 {
        open_ones.push(open(&rig).await.0);
    }
    upstream.leave();
    let ends = open_ones.into_iter().map(|mut stream| async move {
        let mut all = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut all));
        end.await.expect("within twenty seconds").expect("an end");
        let (code, words) = told(&all);
        assert_eq!((code, words.contains("replaced")), (1001, true), "{words}");
        std::time::Instant::now()
    });
    let times = futures_util::future::join_all(ends).await;
    let (first, last) = (times.iter().min(), times.iter().max());
    let apart = last
        .zip(first)
        .map(|(last, first)| last.duration_since(*first));
    assert!(
        apart > Some(Duration::from_secs(2)),
        "not all at once: {apart:?}"
    );

    let upstream = server.upstream(LONG);
    let rig = self::rig(&upstream).await;
    let (mut stream, _) = open(&rig).await;
    let stopping = tokio::spawn({
        let handle = rig.handle.clone();
        async move { handle.shutdown(Duration::from_secs(20)).await }
    });
    let (code, words) = told(&rest(&mut stream).await);
    assert_eq!((code, words.contains("stops")), (1001, true), "{words}");
    drop(stream);
    assert_eq!(
        soon(stopping).await.expect("no panic"),
        0,
        "nothing was cut"
    );
}

/// As browsers come: with TLS, and HTTP/1.1 chosen in its handshake.
#[tokio::test]
async fn over_tls_it_is_the_same() {
    let server = Server::start(switched("")).await;
    let secure = Secure::new(Arc::new(server.upstream(LONG))).await;
    let like = As {
        protocols: &["http/1.1"],
        ..As::default()
    };
    let connected = secure.connect("localhost", &like).await;
    let mut stream = connected.expect("connected");
    let asked = request(ASKED).replace("a.example", "localhost");
    stream.write_all(asked.as_bytes()).await.expect("sent");
    let head = head_of(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"\x81\x02hi").await.expect("sent");
    let mut heard = [0; 4];
    soon(stream.read_exact(&mut heard)).await.expect("heard");
    assert_eq!(&heard, b"\x81\x02hi");
    let handle = secure.rig.handle.clone();
    let stopping = tokio::spawn(async move { handle.shutdown(Duration::from_secs(20)).await });
    let mut all = Vec::new();
    let end = soon(stream.read_to_end(&mut all)).await;
    end.expect("an end that TLS told");
    assert_eq!(told(&all).0, 1001);
    drop(stream);
    soon(stopping).await.expect("no panic");
}

/// An edge whose component is at another one.
pub(crate) async fn elsewhere(there: &Rig) -> Rig {
    let app = || "app".parse().expect("a name");
    let line = Line::new(
        "other".parse().expect("a name"),
        Box::new(Streams(there.handle.clone())),
    );
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: app(),
        weights: [].into(),
    };
    let here = Rig::with_config(Vec::new(), |_| {}).await;
    let far = [(app(), vec![Far::new(line, app(), 0)])];
    let table = Table::with_others(vec![route], [].into(), far.into(), [].into());
    here.handle.set_table(table);
    here
}

#[tokio::test]
async fn on_another_node_it_is_the_same() {
    let mut server = Server::start(switched("")).await;
    let upstream = server.upstream(LONG);
    let there = rig(&upstream).await;
    let here = elsewhere(&there).await;
    let (mut stream, head) = open(&here).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(!head.to_ascii_lowercase().contains("realm-"), "{head}");
    for bytes in [0, 1, 70_000, 1024 * 1024] {
        echoes(&mut stream, bytes).await;
    }
    let mut many = Vec::new();
    for _ in 0..30 {
        many.push(open(&here).await.0);
    }
    for stream in &mut many {
        echoes(stream, 20_000).await;
    }
    assert_eq!(Backend::load(&upstream), 31);
    drop(many);
    for _ in 0..30 {
        let (head, count) = server.came().await;
        assert!(!head.to_ascii_lowercase().contains("realm-"), "{head}");
        assert_eq!(count, 20_010);
    }
    // Whoever ends it, the other end hears so.
    drop(stream);
    assert_eq!(server.came().await.1, 4 * 10 + 1 + 70_000 + 1024 * 1024);
    let (mut stream, _) = open(&here).await;
    upstream.leave();
    let mut all = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut all));
    end.await.expect("within twenty seconds").expect("an end");
    assert_eq!(told(&all).0, 1001);
}

#[tokio::test]
async fn on_another_node_a_refusal_is_an_answer_and_a_wrong_word_none() {
    let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    for (answer, status) in [
        (refused.to_owned(), "403"),
        (switched("").replace(WORD, KEY), "502"),
    ] {
        let server = Server::start(answer).await;
        let there = rig(&server.upstream(LONG)).await;
        let here = elsewhere(&there).await;
        let asked = ASKED.replace("keep-alive, Upgrade", "Upgrade, close");
        let mut stream = here.connect().await;
        stream
            .write_all(request(&asked).as_bytes())
            .await
            .expect("sent");
        let answer = read_all(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_node_that_stops_says_so_to_clients_of_others() {
    let server = Server::start(switched("")).await;
    let there = rig(&server.upstream(LONG)).await;
    let here = elsewhere(&there).await;
    let (mut stream, _) = open(&here).await;
    echoes(&mut stream, 10).await;
    let handle = there.handle.clone();
    let stopping = tokio::spawn(async move { handle.shutdown(Duration::from_secs(20)).await });
    let (code, words) = told(&rest(&mut stream).await);
    assert_eq!((code, words.contains("stops")), (1001, true), "{words}");
    drop(stream);
    soon(stopping).await.expect("no panic");
}
