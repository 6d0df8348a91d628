//! Connections of web servers on which nothing moves, too little, or too many.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::Response;
use http_body_util::BodyExt as _;
use realm_edge::fastcgi::{FastCgi, FastCgiAddress, Listen};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::fastcgi::{BEGIN, KEEP, PARAMS, RESPONDER, Server};
use crate::support::{Rig, backend, named, soon, text};

const SHORT: Duration = Duration::from_millis(200);

/// How long until the connection ends.
async fn ends_after(server: &mut Server) -> Duration {
    let began = Instant::now();
    assert!(server.is_closed().await);
    began.elapsed()
}

#[tokio::test]
async fn parameters_that_do_not_come_are_not_waited_for() {
    let rig = Rig::with_limits(named("a"), |limits| limits.header_read_timeout = SHORT).await;
    let begin = [0, RESPONDER, KEEP, 0, 0, 0, 0, 0];
    let mut server = Server::of(&rig);
    server.record(BEGIN, 1, &begin).await;
    server.record(PARAMS, 1, b"\x0e\x03REQUEST_METHOD").await;
    assert!(ends_after(&mut server).await >= SHORT);
    // Nor is half of a record.
    let mut server = Server::of(&rig);
    soon(server.0.write_all(&[1, BEGIN, 0]))
        .await
        .expect("it is taken");
    assert!(ends_after(&mut server).await >= SHORT);
    assert_eq!(rig.handle.connections(), 0);
}

#[tokio::test]
async fn who_asks_about_the_application_is_idle_then_and_not_slow() {
    const GET_VALUES: u8 = 9;
    let rig = Rig::with_limits(named("a"), |limits| {
        limits.header_read_timeout = SHORT;
        limits.idle_timeout = SHORT * 5;
    })
    .await;
    let mut server = Server::of(&rig);
    server
        .record(GET_VALUES, 0, b"\x0e\x00FCGI_MAX_CONNS")
        .await;
    let (kind, id, content) = server.next().await.expect("an answer");
    assert_eq!((kind, id), (10, 0));
    assert_eq!(content, b"\x0e\x05FCGI_MAX_CONNS10000");
    let began = Instant::now();
    tokio::time::sleep(SHORT * 3).await;
    server.begin(1, RESPONDER, KEEP, &[]).await;
    server.body(1, b"").await;
    assert!(server.came(1).await.answer.ends_with('a'));
    // An idle one goes after its time, counted from the last answer.
    assert!(server.is_closed().await);
    assert!(began.elapsed() >= SHORT * 8, "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_takes_nothing_is_cut() {
    let large = backend(|_| async { Ok(Response::new(text("x".repeat(1 << 20)))) });
    let rig = Rig::with_limits(large, |limits| limits.write_stall_timeout = SHORT).await;
    let mut server = Server::of(&rig);
    server.begin(1, RESPONDER, KEEP, &[]).await;
    server.body(1, b"").await;
    let began = Instant::now();
    while rig.handle.connections() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "it is not cut");
        tokio::time::sleep(SHORT / 10).await;
    }
    assert!(began.elapsed() >= SHORT);
    let mut came = Vec::new();
    soon(server.0.read_to_end(&mut came))
        .await
        .expect("some of it");
    assert!(came.len() < 1 << 20);
}

#[tokio::test]
async fn an_idle_connection_makes_room_and_a_busy_one_does_not() {
    let reads = backend(|request| async {
        let body = request.into_body().collect().await.expect("a body");
        Ok(Response::new(text(format!(
            "{} bytes",
            body.to_bytes().len()
        ))))
    });
    let rig = Rig::with_limits(reads, |limits| {
        limits.connections_max = 1;
        limits.eviction_idle_min = Duration::ZERO;
    })
    .await;
    let mut idle = Server::of(&rig);
    idle.begin(1, RESPONDER, KEEP, &[]).await;
    idle.body(1, b"").await;
    assert!(idle.came(1).await.has_ended);
    tokio::time::sleep(SHORT).await;
    let mut busy = Server::of(&rig);
    // At once: who lingers goes after five seconds.
    assert!(ends_after(&mut idle).await < Duration::from_secs(2));
    busy.begin(1, RESPONDER, KEEP, &[("CONTENT_LENGTH", "5")])
        .await;
    tokio::time::sleep(SHORT).await;
    let mut refused = Server::of(&rig);
    assert!(refused.is_closed().await);
    busy.body(1, b"12345").await;
    assert!(busy.came(1).await.answer.ends_with("5 bytes"));
}

#[tokio::test]
async fn a_port_is_for_those_that_are_allowed() {
    let listen = |allow: &[&str]| FastCgi {
        listen: vec![Listen::Tcp("127.0.0.1:0".parse().expect("an address"))],
        allow: allow
            .iter()
            .map(|block| block.parse().expect("a block"))
            .collect(),
        ..FastCgi::default()
    };
    for (allow, expected) in [
        (&["127.0.0.0/8"][..], true),
        (&["10.0.0.0/8"], false),
        (&[], false),
    ] {
        let rig = Rig::with_config(vec![named("a")], |config| config.fastcgi = listen(allow)).await;
        let FastCgiAddress::Tcp(address) = rig.handle.fastcgi_addresses()[0].clone() else {
            panic!("it is a port");
        };
        assert_eq!(
            asked(address).await.contains("Status: 200"),
            expected,
            "{allow:?}"
        );
    }
}

/// The answer arrives, though what is refused is still on its way.
#[tokio::test]
async fn what_is_refused_early_is_heard() {
    let rig = Rig::with_config(vec![named("a")], |config| {
        config.limits.request_bytes_max = 10;
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
    let body = [&[1, 5, 0, 1, 0xea, 0x60, 0, 0][..], &[7; 60_000]].concat();
    let (came, is_taken) = sent(address, b"\x0e\x0840000000", &body.repeat(400)).await;
    assert!(came.contains("Status: 413 "), "{came}");
    // Who cannot send what it has to send may not look for an answer.
    assert!(is_taken);
}

/// All of a burst is accepted by the one thread that is free, and yet the other one gets its share.
#[tokio::test]
async fn a_burst_is_divided_between_the_threads_that_serve() {
    const BURST: usize = 64;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fastcgi.sock");
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (blocked, mut is_blocked) = tokio::sync::mpsc::unbounded_channel();
    let wait = Mutex::new(Some(wait));
    let says_where = backend(move |_| {
        let wait = wait.lock().expect("whole").take();
        if let Some(wait) = wait {
            blocked.send(()).expect("somebody waits");
            let _ = wait.recv();
        }
        let thread = std::thread::current().name().map(str::to_owned);
        async move { Ok(Response::new(text(thread.expect("a name")))) }
    });
    let rig = Rig::with_config(vec![says_where], |config| {
        config.workers = 2;
        config.fastcgi.listen = vec![Listen::Unix {
            path: path.clone(),
            mode: 0o600,
            group: None,
        }];
    })
    .await;
    let connect = async || Server(UnixStream::connect(&path).await.expect("it listens"));
    let mut first = connect().await;
    first.begin(1, RESPONDER, 0, &[]).await;
    first.body(1, b"").await;
    soon(is_blocked.recv()).await.expect("one thread is taken");
    let mut burst = Vec::new();
    for _ in 0..BURST {
        burst.push(connect().await);
    }
    soon(async {
        while rig.handle.connections() <= BURST {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(go);
    let mut threads = BTreeMap::<String, usize>::new();
    for server in &mut burst {
        server.begin(1, RESPONDER, KEEP, &[]).await;
        server.body(1, b"").await;
        let came = server.came(1).await.answer;
        let (_, thread) = came.split_once("\r\n\r\n").expect("a head");
        *threads.entry(thread.to_owned()).or_default() += 1;
    }
    let least = threads.values().min().expect("there are some");
    assert!(threads.len() == 2 && *least >= 28, "{threads:?}");
}

/// What comes of a request over TCP, as text.
async fn asked(address: SocketAddr) -> String {
    sent(address, b"\x0e\x00", b"").await.0
}

/// The same of one with a length and a body, and whether all of it was taken.
async fn sent(address: SocketAddr, length: &[u8], body: &[u8]) -> (String, bool) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let [name, value, said @ ..] = length else {
        panic!("it begins with two lengths");
    };
    let said = &said[..usize::from(*value)];
    let params = [
        &b"\x0e\x04REQUEST_METHODPOST\x0b\x01REQUEST_URI/\x09\x01HTTP_HOSTa"[..],
        &[*name, *value],
        b"CONTENT_LENGTH",
        said,
    ]
    .concat();
    let length = u8::try_from(params.len()).expect("short");
    let records: [&[u8]; 6] = [
        &[1, BEGIN, 0, 1, 0, 8, 0, 0, 0, RESPONDER, 0, 0, 0, 0, 0, 0],
        &[1, PARAMS, 0, 1, 0, length, 0, 0],
        &params,
        &[1, PARAMS, 0, 1, 0, 0, 0, 0],
        body,
        &[1, 5, 0, 1, 0, 0, 0, 0],
    ];
    let is_taken = stream.write_all(&records.concat()).await.is_ok();
    let mut came = Vec::new();
    let _ = soon(stream.read_to_end(&mut came)).await;
    (String::from_utf8_lossy(&came).into_owned(), is_taken)
}
