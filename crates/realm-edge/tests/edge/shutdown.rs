//! Shutting down: what is in flight ends, what outlives its grace is cut, and nobody is let in.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use realm_edge::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

use crate::support::{Rig, backend, for_http1, get, named, read_until, soon, text, whole};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

/// A backend that answers when it gets a permit, and tells when it was called.
fn gated(gate: &Arc<Semaphore>, called: mpsc::UnboundedSender<()>) -> Arc<dyn realm_edge::Backend> {
    let gate = Arc::clone(gate);
    backend(move |_| {
        let (gate, called) = (Arc::clone(&gate), called.clone());
        async move {
            called.send(()).expect("the test lives");
            gate.acquire().await.expect("open").forget();
            Ok(Response::new(text("done")))
        }
    })
}

#[tokio::test]
async fn shutdown_waits_for_requests_in_flight() {
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut called) = mpsc::unbounded_channel();
    let rig = Rig::new(gated(&gate, sender)).await;
    let (mut first, mut second, mut idle) =
        (rig.http1().await, rig.http2().await, rig.connect().await);
    // An idle one of each kind is open as well.
    idle.write_all(b"").await.expect("sent");
    let _idle_http2 = rig.http2().await;
    let first_answer = tokio::spawn(first.send_request(for_http1(get("http://h/"))));
    let second_answer = tokio::spawn(second.send_request(get("http://h/")));
    for _ in 0..2 {
        soon(called.recv()).await.expect("called");
    }
    let handle = rig.handle.clone();
    let stopping = tokio::spawn(async move { handle.shutdown(LONG).await });
    // The idle one is closed at once; then nobody is let in.
    assert_eq!(
        soon(idle.read_to_end(&mut Vec::new()))
            .await
            .expect("closed"),
        0
    );
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
    assert!(!stopping.is_finished());
    gate.add_permits(2);
    for answer in [first_answer, second_answer] {
        let answer = soon(answer).await.expect("no panic").expect("an answer");
        assert_eq!(whole(answer).await.2, "done");
    }
    assert_eq!(soon(stopping).await.expect("no panic"), 0);
    assert_eq!(rig.handle.connections(), 0);
    // The HTTP/2 client was told to go away, and takes no new request.
    assert!(soon(second.send_request(get("http://h/"))).await.is_err());
}

#[tokio::test]
async fn shutdown_cuts_what_outlives_its_grace() {
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut called) = mpsc::unbounded_channel();
    let mut rig = Rig::new(gated(&gate, sender)).await;
    let (mut first, mut second) = (rig.http1().await, rig.http2().await);
    let first_answer = tokio::spawn(first.send_request(for_http1(get("http://h/"))));
    let second_answer = tokio::spawn(second.send_request(get("http://h/")));
    for _ in 0..2 {
        soon(called.recv()).await.expect("called");
    }
    assert_eq!(soon(rig.handle.shutdown(SHORT)).await, 2);
    for answer in [first_answer, second_answer] {
        assert!(soon(answer).await.expect("no panic").is_err());
        assert_eq!(rig.seen().await.outcome, Outcome::ClientGone);
    }
    assert!(rig.has_seen_all());
    // A second call finds nothing to do.
    assert_eq!(soon(rig.handle.shutdown(LONG)).await, 0);
}

/// The last run's connections linger in the kernel; they must not keep the address.
#[tokio::test]
async fn a_restart_takes_its_address_back() {
    let rig = Rig::new(named("first")).await;
    let mut stream = rig.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .expect("sent");
    read_until(&mut stream, "first").await;
    // The edge closes first, so the kernel keeps its side for a minute.
    assert_eq!(soon(rig.handle.shutdown(LONG)).await, 0);
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.expect("closed");
    drop(stream);
    let again = Rig::with_config(vec![named("second")], |config| {
        config.listen = vec![rig.address];
    })
    .await;
    assert_eq!(whole(again.send1(get("http://h/")).await).await.2, "second");
}

/// A kept HTTP/1.1 connection is told that it ends with the response in flight.
#[tokio::test]
async fn a_draining_connection_says_close() {
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut called) = mpsc::unbounded_channel();
    let rig = Rig::new(gated(&gate, sender)).await;
    let mut stream = rig.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .expect("sent");
    soon(called.recv()).await.expect("called");
    let handle = rig.handle.clone();
    let stopping = tokio::spawn(async move { handle.shutdown(LONG).await });
    while tokio::net::TcpStream::connect(rig.address).await.is_ok() {}
    gate.add_permits(1);
    let answer = read_until(&mut stream, "done").await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(soon(stopping).await.expect("no panic"), 0);
}
