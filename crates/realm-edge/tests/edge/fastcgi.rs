//! Web servers that speak FastCGI, over streams in memory and record by record.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use realm_edge::fastcgi::Limits;
use realm_edge::{Outcome, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use crate::support::{Rig, backend, channel, data, mirror, named, request, soon, text, whole};

pub(crate) const BEGIN: u8 = 1;
pub(crate) const ABORT: u8 = 2;
pub(crate) const END: u8 = 3;
pub(crate) const PARAMS: u8 = 4;
pub(crate) const STDIN: u8 = 5;
/// No kind of record: so the edge ends an answer that broke off.
pub(crate) const BROKEN: u8 = 0;
pub(crate) const STDOUT: u8 = 6;
const GET_VALUES: u8 = 9;
const VALUES: u8 = 10;

pub(crate) const RESPONDER: u8 = 1;
pub(crate) const AUTHORIZER: u8 = 2;
pub(crate) const KEEP: u8 = 1;

/// A web server's end of a connection.
pub(crate) struct Server<S = DuplexStream>(pub(crate) S);

/// What came of a request: its answer, and whether it was ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) answer: String,
    pub(crate) has_ended: bool,
    /// Whether what is no record stands in place of an end.
    pub(crate) is_broken: bool,
}

impl Server {
    pub(crate) fn of(rig: &Rig) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        rig.handle.serve_fastcgi(far, Limits::default(), here);
        Self(near)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    pub(crate) async fn record(&mut self, kind: u8, id: u16, content: &[u8]) {
        let [id_high, id_low] = id.to_be_bytes();
        let length = u16::try_from(content.len()).expect("short");
        let [high, low] = length.to_be_bytes();
        let head = [1, kind, id_high, id_low, high, low, 0, 0];
        let record = [&head[..], content].concat();
        soon(self.0.write_all(&record)).await.expect("it is taken");
    }

    pub(crate) async fn begin(&mut self, id: u16, role: u8, flags: u8, more: &[(&str, &str)]) {
        self.record(BEGIN, id, &[0, role, flags, 0, 0, 0, 0, 0])
            .await;
        let plain = [
            ("REQUEST_METHOD", "POST"),
            ("REQUEST_URI", "/x?y"),
            ("HTTP_HOST", "a.example"),
            ("REMOTE_ADDR", "203.0.113.7"),
        ];
        let mut params = Vec::new();
        for (name, value) in plain.iter().chain(more) {
            let lengths = [name, value].map(|text| u8::try_from(text.len()).expect("short"));
            params.extend(lengths);
            params.extend(name.bytes().chain(value.bytes()));
        }
        self.record(PARAMS, id, &params).await;
        self.record(PARAMS, id, &[]).await;
    }

    pub(crate) async fn body(&mut self, id: u16, bytes: &[u8]) {
        for part in bytes.chunks(60_000) {
            self.record(STDIN, id, part).await;
        }
        self.record(STDIN, id, &[]).await;
    }

    /// The next record: its kind, its request, its content. `None`: the connection ended.
    pub(crate) async fn next(&mut self) -> Option<(u8, u16, Vec<u8>)> {
        let mut head = [0; 8];
        soon(self.0.read_exact(&mut head)).await.ok()?;
        if head == [0; 8] {
            return Some((BROKEN, 0, Vec::new()));
        }
        let [1, kind, id_high, id_low, high, low, padding, _] = head else {
            panic!("{head:?}");
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let mut content = vec![0; length + usize::from(padding)];
        soon(self.0.read_exact(&mut content)).await.ok()?;
        content.truncate(length);
        Some((kind, u16::from_be_bytes([id_high, id_low]), content))
    }

    /// All of one request, where no other one is under way.
    pub(crate) async fn came(&mut self, id: u16) -> Came {
        let mut came = Came::default();
        let mut answer = Vec::new();
        while let Some((kind, of, content)) = self.next().await {
            if kind == BROKEN {
                came.is_broken = true;
                continue;
            }
            assert_eq!(of, id);
            match kind {
                STDOUT => answer.extend(content),
                END => {
                    came.has_ended = true;
                    break;
                }
                kind => panic!("{kind} {content:?}"),
            }
        }
        came.answer = String::from_utf8(answer).expect("text");
        came
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        self.next().await.is_none()
    }
}

#[tokio::test]
async fn a_request_is_answered_and_the_connection_is_kept_if_it_is_to_be() {
    let mut rig = Rig::new(named("hello")).await;
    let mut server = Server::of(&rig);
    for flags in [KEEP, KEEP, 0] {
        server.begin(1, RESPONDER, flags, &[]).await;
        server.body(1, b"").await;
        let came = server.came(1).await;
        assert!(came.has_ended);
        let (head, body) = came.answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(head, "Status: 200 OK\r\ncontent-length: 5");
        assert_eq!(body, "hello");
        let seen = rig.seen().await;
        assert_eq!((seen.protocol, seen.status), (Protocol::FastCgi, 200));
        assert_eq!(seen.outcome, Outcome::Complete);
    }
    assert!(server.is_closed().await);
}

#[tokio::test]
async fn a_body_comes_whole_in_both_directions() {
    let echo = backend(|request| async move { Ok(Response::new(request.into_body())) });
    let rig = Rig::new(echo).await;
    let sent: String = ('a'..='z').cycle().take(1 << 20).collect();
    for length in [Some(sent.len()), None] {
        let length = length.map(|length| length.to_string()).unwrap_or_default();
        let mut server = Server::of(&rig);
        server
            .begin(9, RESPONDER, 0, &[("CONTENT_LENGTH", &length)])
            .await;
        let (mut read, mut write) = tokio::io::split(server.0);
        let bytes = sent.clone().into_bytes();
        let writing = tokio::spawn(async move {
            for part in bytes.chunks(50_000).chain([&[][..]]) {
                let [high, low] = u16::try_from(part.len()).expect("short").to_be_bytes();
                let head = [1, STDIN, 0, 9, high, low, 0, 0];
                write
                    .write_all(&[&head[..], part].concat())
                    .await
                    .expect("it is taken");
            }
            write
        });
        let mut came = Vec::new();
        soon(read.read_to_end(&mut came)).await.expect("an answer");
        let _ = writing.await;
        let mut answer = Vec::new();
        while let Some((head, rest)) = came.split_first_chunk::<8>() {
            let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
            if head[1] == STDOUT {
                answer.extend_from_slice(&rest[..length]);
            }
            came = rest[length + usize::from(head[6])..].to_vec();
        }
        let answer = String::from_utf8(answer).expect("text");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(body == sent, "{} bytes", body.len());
    }
}

#[tokio::test]
async fn of_several_requests_the_one_that_is_ready_is_answered() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let slow = backend(move |request| {
        let mut wait = wait.clone();
        async move {
            if request.uri().path() == "/slow" {
                let _ = wait.wait_for(|go| *go).await;
            }
            Ok(Response::new(text(request.uri().path().to_owned())))
        }
    });
    let rig = Rig::new(slow).await;
    let mut server = Server::of(&rig);
    for (id, path) in [(7, "/slow"), (300, "/fast")] {
        server
            .begin(id, RESPONDER, KEEP, &[("REQUEST_URI", path)])
            .await;
        server.body(id, b"").await;
    }
    assert!(server.came(300).await.answer.ends_with("/fast"));
    go.send_replace(true);
    assert!(server.came(7).await.answer.ends_with("/slow"));
}

#[tokio::test]
async fn what_the_web_server_vouches_for_is_believed_and_nobody_elses_word() {
    let tells = backend(|request| async move {
        let names = [
            "x-realm-remote-user",
            "x-forwarded-for",
            "x-forwarded-proto",
            "proxy",
        ];
        let said = names.map(|name| {
            let value = request.headers().get(name);
            value
                .map_or("-", |value| value.to_str().expect("text"))
                .to_owned()
        });
        Ok(Response::new(text(said.join(" "))))
    });
    let rig = Rig::new(tells).await;
    let mut server = Server::of(&rig);
    let vouched = [
        ("HTTP_X_REALM_REMOTE_USER", "root"),
        ("HTTP_X_FORWARDED_FOR", "10.0.0.1"),
        ("HTTP_PROXY", "evil"),
        ("REMOTE_USER", "ann"),
        ("HTTPS", "on"),
    ];
    server.begin(1, RESPONDER, 0, &vouched).await;
    server.body(1, b"").await;
    let came = server.came(1).await;
    assert!(
        came.answer.ends_with("\r\n\r\nann 203.0.113.7 https -"),
        "{came:?}"
    );
    let mut asked = request("GET", "http://a.example/", text(""));
    let forged = http::HeaderValue::from_static("root");
    asked.headers_mut().insert("x-realm-remote-user", forged);
    let (_, _, body) = whole(rig.send1(asked).await).await;
    assert!(body.starts_with(b"- "), "{body:?}");
}

/// HAProxy reads nothing more of its client once it was told of an end.
#[tokio::test]
async fn the_end_of_a_request_waits_for_its_body_where_that_is_asked_for() {
    let rig = Rig::new(named("early")).await;
    let mut server = Server::of(&rig);
    let bad = ("HTTP_HOST", "a b");
    let waits = ("REALM_END", "body");
    // Its body ends; it is aborted; nothing more comes of it.
    let all = [Some(STDIN), Some(ABORT), None];
    for (more, rests) in [(&[waits][..], &all[..]), (&[waits, bad], &all[..2])] {
        for rest in rests {
            server.begin(7, RESPONDER, KEEP, more).await;
            server.record(STDIN, 7, b"some").await;
            let mut answer = Vec::new();
            loop {
                let (kind, id, content) = server.next().await.expect("an answer");
                assert_eq!((kind, id), (STDOUT, 7));
                if content.is_empty() {
                    break;
                }
                answer.extend(content);
            }
            assert!(answer.starts_with(b"Status: "), "{answer:?}");
            if let Some(kind) = *rest {
                server.record(STDIN, 7, b"more of it").await;
                server.record(GET_VALUES, 0, b"").await;
                let (between, ..) = server.next().await.expect("it is there");
                assert_eq!(between, VALUES, "before its end");
                server.record(kind, 7, b"").await;
            }
            let (kind, id, _) = server.next().await.expect("an end");
            assert_eq!((kind, id), (END, 7));
            // Left over where nothing more was awaited.
            server.record(STDIN, 7, b"late").await;
        }
    }
    // nginx may send no more before it hears of the end; who closes the connection behind it need not wait.
    for (flags, more) in [(KEEP, &[][..]), (0, &[waits])] {
        server.begin(7, RESPONDER, flags, more).await;
        server.record(STDIN, 7, b"some").await;
        assert!(server.came(7).await.has_ended);
    }
    assert!(server.is_closed().await);
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_the_next_one_is_one() {
    let rig = Rig::new(mirror()).await;
    let mut server = Server::of(&rig);
    let long = "x".repeat(200);
    let bad: [(&[(&str, &str)], &str); 4] = [
        (&[("CONTENT_LENGTH", "many")], "Status: 400 "),
        (&[("REQUEST_URI", "*x")], "Status: 400 "),
        (&[("REMOTE_ADDR", "nobody")], "Status: 500 "),
        (&[("HTTP_HOST", "a b")], "Status: 400 "),
    ];
    for (params, expected) in bad {
        server.begin(1, RESPONDER, KEEP, params).await;
        server.body(1, b"left over").await;
        let came = server.came(1).await;
        assert!(came.answer.starts_with(expected), "{params:?} {came:?}");
    }
    server
        .record(BEGIN, 1, &[0, RESPONDER, KEEP, 0, 0, 0, 0, 0])
        .await;
    let pair = [&[1, 200, b'A'][..], long.as_bytes()].concat();
    for _ in 0..3 {
        server.record(PARAMS, 1, &[0xff; 8]).await;
    }
    server.record(PARAMS, 1, &pair).await;
    server.record(PARAMS, 1, &[]).await;
    assert!(server.came(1).await.answer.starts_with("Status: 431 "));
}

/// A client in good faith sends all that it said.
#[tokio::test]
async fn a_body_that_is_shorter_than_it_says_is_no_whole_one() {
    let reads = backend(|request| async move {
        let failed = request.into_body().collect().await.is_err();
        Ok(Response::new(text(if failed { "cut" } else { "whole" })))
    });
    let rig = Rig::new(reads).await;
    for (length, expected) in [("5", "whole"), ("4", "whole"), ("6", "cut")] {
        let mut server = Server::of(&rig);
        server
            .begin(2, RESPONDER, 0, &[("CONTENT_LENGTH", length)])
            .await;
        server.body(2, b"short").await;
        let came = server.came(2).await;
        assert_eq!(
            came.answer.ends_with("whole"),
            expected == "whole",
            "{length} {came:?}"
        );
    }
}

#[tokio::test]
async fn who_goes_away_ends_the_guest_and_nobody_else() {
    struct Gone(mpsc::UnboundedSender<()>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (gone, mut left) = mpsc::unbounded_channel();
    let (began, mut begun) = mpsc::unbounded_channel();
    let stays = backend(move |request| {
        let gone = (request.uri().path() == "/stays").then(|| Gone(gone.clone()));
        let _ = began.send(());
        async move {
            if gone.is_some() {
                std::future::pending::<()>().await;
            }
            Ok(Response::new(text("here")))
        }
    });
    let rig = Rig::new(stays).await;
    let mut server = Server::of(&rig);
    server
        .begin(1, RESPONDER, KEEP, &[("REQUEST_URI", "/stays")])
        .await;
    soon(begun.recv()).await.expect("it begins");
    server.record(ABORT, 1, &[]).await;
    let came = server.came(1).await;
    assert_eq!(
        came,
        Came {
            answer: String::new(),
            has_ended: true,
            is_broken: false,
        }
    );
    soon(left.recv()).await.expect("the guest is ended");
    server.begin(1, RESPONDER, KEEP, &[]).await;
    server.body(1, b"").await;
    assert!(server.came(1).await.answer.ends_with("here"));
    soon(begun.recv()).await.expect("it began");
    // The same where the connection ends.
    server
        .begin(1, RESPONDER, KEEP, &[("REQUEST_URI", "/stays")])
        .await;
    soon(begun.recv()).await.expect("it begins");
    drop(server);
    soon(left.recv()).await.expect("the guest is ended");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_a_whole_one() {
    let breaks = backend(|_| async {
        let (frames, body) = channel();
        tokio::spawn(async move {
            let _ = frames.send(data("begun")).await;
            let _ = frames.send(Err("the guest trapped".into())).await;
        });
        Ok(Response::new(body))
    });
    let mut rig = Rig::new(breaks).await;
    let mut server = Server::of(&rig);
    server.begin(1, RESPONDER, KEEP, &[]).await;
    server.body(1, b"").await;
    let came = server.came(1).await;
    assert!(
        !came.has_ended && came.is_broken && came.answer.ends_with("begun"),
        "{came:?}"
    );
    assert_eq!(rig.seen().await.outcome, Outcome::BodyFailed);
}

/// FastCGI has no word for it but the end of the connection, which is that of the others as well.
#[tokio::test]
async fn an_answer_that_breaks_off_waits_for_others_of_its_connection() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let answers = backend(move |request| {
        let mut wait = wait.clone();
        async move {
            if request.uri().path() == "/slow" {
                let _ = wait.wait_for(|go| *go).await;
            }
            if request.uri().path() != "/breaks" {
                return Ok(Response::new(text("whole".to_owned())));
            }
            let (frames, body) = channel();
            tokio::spawn(async move {
                let _ = frames.send(data("begun")).await;
                let _ = frames.send(Err("the guest trapped".into())).await;
            });
            Ok(Response::new(body))
        }
    });
    let mut rig = Rig::new(answers).await;
    let mut server = Server::of(&rig);
    for (id, path) in [(1, "/slow"), (2, "/breaks")] {
        let path = ("REQUEST_URI", path);
        server.begin(id, RESPONDER, KEEP, &[path]).await;
        server.body(id, b"").await;
    }
    assert_eq!(rig.seen().await.outcome, Outcome::BodyFailed);
    // Those that come now are answered as well.
    server
        .begin(3, RESPONDER, KEEP, &[("REQUEST_URI", "/fast")])
        .await;
    server.body(3, b"").await;
    let mut ended = Vec::new();
    while let Some((kind, id, _)) = server.next().await {
        assert!([STDOUT, END, BROKEN].contains(&kind), "{kind}");
        if kind != STDOUT {
            ended.push((kind, id));
        }
        if kind == END && id == 3 {
            go.send_replace(true);
        }
    }
    assert_eq!(ended, [(END, 3), (END, 1), (BROKEN, 0)]);
}

#[tokio::test]
async fn an_authorizer_has_no_body_and_says_who_may_pass() {
    let guards = backend(|request| async move {
        let has_key = request.headers().contains_key("x-key");
        let body = request
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert!(body.is_empty());
        let mut response = Response::new(text(""));
        match has_key {
            true => {
                let who = http::HeaderValue::from_static("ann");
                response.headers_mut().insert("variable-who-it_is", who);
            }
            false => *response.status_mut() = StatusCode::FORBIDDEN,
        }
        Ok(response)
    });
    let rig = Rig::new(guards).await;
    let mut server = Server::of(&rig);
    let length = ("CONTENT_LENGTH", "100");
    server
        .begin(1, AUTHORIZER, KEEP, &[length, ("HTTP_X_KEY", "1")])
        .await;
    let came = server.came(1).await;
    assert!(
        came.answer.contains("\r\nVariable-WHO_IT_IS: ann\r\n"),
        "{came:?}"
    );
    server.begin(1, AUTHORIZER, KEEP, &[length]).await;
    assert!(server.came(1).await.answer.starts_with("Status: 403 "));
}

/// One request holds what fits in its share of memory; what comes behind it waits in the sockets.
#[tokio::test]
async fn who_reads_nothing_makes_the_edge_hold_little() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let lazy = backend(move |request| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|go| *go).await;
            let body = request.into_body().collect().await.expect("a body");
            Ok(Response::new(text(body.to_bytes().len().to_string())))
        }
    });
    let rig = Rig::new(lazy).await;
    let mut server = Server::of(&rig);
    server.begin(1, RESPONDER, KEEP, &[]).await;
    let part = Bytes::from(vec![7; 60_000]);
    let mut sent = 0;
    let head = [1, STDIN, 0, 1, 0xea, 0x60, 0, 0];
    let record = [&head[..], &part].concat();
    let flooded = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            server.0.write_all(&record).await.expect("it is taken");
            sent += part.len();
        }
    });
    assert!(flooded.await.is_err());
    assert!(sent < 1 << 20, "{sent} bytes were taken");
    go.send_replace(true);
    // The record that was cut short by giving up above is of no use any more: the connection is.
    drop(server);
}

#[tokio::test]
async fn a_drained_edge_answers_what_is_under_way() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let (began, mut begun) = mpsc::unbounded_channel();
    let slow = backend(move |_| {
        let mut wait = wait.clone();
        let _ = began.send(());
        async move {
            let _ = wait.wait_for(|go| *go).await;
            Ok(Response::new(text("late")))
        }
    });
    let rig = Rig::new(slow).await;
    let (mut server, mut idle) = (Server::of(&rig), Server::of(&rig));
    server.begin(1, RESPONDER, KEEP, &[]).await;
    server.body(1, b"").await;
    soon(begun.recv()).await.expect("it begins");
    let handle = rig.handle.clone();
    let ending = tokio::spawn(async move { handle.shutdown(Duration::from_secs(20)).await });
    assert!(idle.is_closed().await);
    go.send_replace(true);
    assert!(server.came(1).await.answer.ends_with("late"));
    assert!(server.is_closed().await);
    soon(ending).await.expect("no panic");
}
