//! Programs that listen: the one port that they are given, and nothing beside it.

use std::net::SocketAddr;
use std::time::Duration;

use realm_host::{Program, Run, RunError};
use realm_model::api::LogStream;
use realm_test_guests as guests;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Started, eventually, guest};

/// A port that nobody else is given as long as the socket lives.
fn reserved() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A server that runs until this is dropped.
struct Running {
    address: SocketAddr,
    task: JoinHandle<Result<u8, RunError>>,
    _reserved: TcpSocket,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn run(program: &Program, listen: bool, env: &[(&str, String)]) -> Running {
    let (reserved, port) = reserved();
    let mut run = Run {
        env: [("PORT".to_owned(), port.to_string())].into(),
        listen: listen.then_some(port),
        ..Run::default()
    };
    for (name, value) in env {
        let value = value.replace("PORT", &port.to_string());
        run.env.push(((*name).to_owned(), value));
    }
    let program = program.clone();
    Running {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        task: tokio::spawn(async move { program.run(run).await }),
        _reserved: reserved,
    }
}

fn server(path: &'static str) -> Started {
    let no_end = |limits: &mut realm_model::limits::Limits| {
        limits.epoch_timeout_ms = u64::MAX;
        limits.wall_timeout_ms = u64::MAX;
    };
    guest(path).limits(no_end).program().unwrap()
}

/// Connects as soon as it listens.
async fn connect(running: &Running) -> TcpStream {
    loop {
        match TcpStream::connect(running.address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
        assert!(!running.task.is_finished(), "it ended before it listened");
    }
}

async fn get(running: &Running, target: &str) -> String {
    let mut stream = connect(running).await;
    let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn bytes() {
    let server = server(guests::BYTES);
    let running = run(&server.program, true, &[]);
    for _ in 0..3 {
        let mut stream = connect(&running).await;
        stream.write_all(&[1, 2]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"\x01\x022 33\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn listen() {
    let server = server(guests::LISTEN);
    let running = run(&server.program, true, &[("VERSION", "7".to_owned())]);
    for _ in 0..10 {
        let answer = get(&running, "/").await;
        assert!(answer.ends_with("\r\n\r\nversion 7\n"), "{answer}");
    }
    // Somebody listens, so that a connection would be made if it were allowed.
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let doors = format!("/doors?{}", other.local_addr().unwrap());
    let told = get(&running, &doors).await;
    for door in ["connect", "listen", "udp"] {
        let shut = format!("\"{door}\":\"PermissionDenied\"");
        assert!(told.contains(&shut), "{door}: {told}");
    }
    assert!(!told.contains("open"), "{told}");
    drop(running);
    eventually(|| server.meter.snapshot().mem_current_bytes == 0).await;
    let outcomes = server.meter.snapshot().outcomes;
    assert!(outcomes.contains(&("cancelled", 1)), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn websocket() {
    let server = server(guests::WEBSOCKET);
    let running = run(&server.program, true, &[("VERSION", "7".to_owned())]);
    assert!(get(&running, "/").await.ends_with("\r\n\r\n7"));
    let mut clients = [connect(&running).await, connect(&running).await];
    for client in &mut clients {
        let asked = "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write_all(asked.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(client.read_buf(&mut head).await.unwrap(), 0);
        }
        let head = String::from_utf8(head).unwrap();
        // The example of RFC 6455.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    }
    for client in &mut clients {
        // Masked with zeros.
        client.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\x81\x02hi");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_address_is_granted() {
    for (listen, address, told) in [
        (true, "0.0.0.0:PORT", true),
        (true, "127.0.0.1:0", true),
        (true, "127.0.0.2:PORT", true),
        (true, "[::1]:PORT", true),
        // Without the grant not even its own.
        (false, "127.0.0.1:PORT", false),
    ] {
        let server = server(guests::LISTEN);
        let mut running = run(&server.program, listen, &[("ADDRESS", address.to_owned())]);
        let code = tokio::time::timeout(Duration::from_secs(20), &mut running.task);
        assert_eq!(code.await.unwrap().unwrap(), Ok(2), "{address}");
        let said = server.log.lines(LogStream::Stderr).concat();
        assert!(said.contains("denied"), "{address}: {said}");
        let hint = server.log.agent();
        assert_eq!(hint.contains("bind-denied"), told, "{address}: {hint}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_says_how() {
    let server = server(guests::LISTEN);
    let running = run(&server.program, true, &[("CRASH_AFTER", "2".to_owned())]);
    get(&running, "/").await;
    get(&running, "/").await;
    let mut running = running;
    assert_eq!((&mut running.task).await.unwrap(), Ok(3));
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_listen() {
    let server = server(guests::P3_LISTEN);
    let running = run(&server.program, true, &[]);
    // Two clients at once, each with several requests on one connection.
    let mut clients = [connect(&running).await, connect(&running).await];
    for _ in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
                .await
                .unwrap();
            let mut answer = vec![0; "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhello 1\n".len()];
            client.read_exact(&mut answer).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.ends_with(&format!("hello {}\n", number + 1)),
                "{answer}"
            );
        }
    }
    let running = run(&server.program, false, &[]);
    let mut running = running;
    assert_eq!((&mut running.task).await.unwrap(), Ok(1));
}
