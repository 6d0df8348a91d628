//! Starting, swapping tables under load, connections that idle or stall, and shutting down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::Response;
use realm_edge::{Config, EdgeError, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Rig, backend, channel, data, for_http1, get, named, read_all, soon, table, text, whole,
};

/// Four clients over each protocol ask as fast as they can while the table is swapped as fast as
/// it can be: every answer comes from a backend of some table, and none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_swap_drops_no_request() {
    const REQUESTS: u32 = 1000;
    const CLIENTS: u32 = 4;
    let rig = Arc::new(Rig::new(named("v0")).await);
    let is_over = Arc::new(AtomicBool::new(false));
    let swapping = tokio::spawn({
        let (rig, is_over) = (Arc::clone(&rig), Arc::clone(&is_over));
        async move {
            let mut n_swaps = 0;
            while !is_over.load(Ordering::Relaxed) {
                for name in ["v1", "v2"] {
                    let replicas = vec![named(name), named(name)];
                    rig.handle
                        .set_table(table(&[("*/...", "app")], &[("app", replicas)]));
                    n_swaps += 1;
                    tokio::task::yield_now().await;
                }
            }
            n_swaps
        }
    });
    let mut clients = Vec::new();
    for number in 0..CLIENTS * 2 {
        let rig = Arc::clone(&rig);
        clients.push(tokio::spawn(async move {
            let (mut first, mut second) = (rig.http1().await, rig.http2().await);
            let mut versions = std::collections::BTreeSet::new();
            for _ in 0..REQUESTS {
                let sent = if number % 2 == 0 {
                    first.send_request(for_http1(get("http://h/"))).await
                } else {
                    second.send_request(get("http://h/")).await
                };
                let (status, _, body) = whole(sent.expect("an answer")).await;
                assert_eq!(status, 200);
                versions.insert(body);
            }
            versions.len()
        }));
    }
    let mut n_versions = 0;
    for client in clients {
        n_versions = n_versions.max(client.await.expect("no failure"));
    }
    is_over.store(true, Ordering::Relaxed);
    let n_swaps = soon(swapping).await.expect("no panic");
    assert!(
        n_versions >= 2 && n_swaps > 10,
        "{n_versions} versions, {n_swaps} swaps"
    );
}

/// Who connects before the edge opens is answered then, by the table of that moment; an edge that
/// never opens ends all the same.
#[tokio::test]
async fn who_comes_early_waits_for_the_opening() {
    for opens in [true, false] {
        let rig = Rig::closed(vec![named("early")], |_| {}).await;
        let mut stream = rig.connect().await;
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        // The sockets are looked at between two turns: an open edge would have it by then.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.handle.connections(), 0);
        if opens {
            rig.handle
                .set_table(table(&[("*/...", "app")], &[("app", vec![named("open")])]));
            rig.handle.open();
            let answer = read_all(&mut stream).await;
            assert!(answer.ends_with("open"), "{answer}");
        }
        let stopping = rig.handle.shutdown(Duration::ZERO);
        assert_eq!(soon(stopping).await, 0);
    }
}

/// A request keeps its backend through swaps, to the last byte.
#[tokio::test]
async fn a_long_response_outlives_its_route() {
    let (sender, body) = channel();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let rig = Rig::new(backend(move |_| {
        let body = body.lock().expect("no panic").take().expect("called once");
        async move { Ok(Response::new(body)) }
    }))
    .await;
    let response = rig.send1(get("http://h/")).await;
    rig.handle.set_table(table(&[], &[]));
    assert_eq!(rig.send1(get("http://h/")).await.status(), 404);
    sender.send(data("still here")).await.expect("it is read");
    drop(sender);
    assert_eq!(whole(response).await.2, "still here");
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let rig = Rig::new(named("a")).await;
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().expect("an address"), rig.address],
        ..Config::default()
    };
    struct Nobody;
    impl realm_edge::Observer for Nobody {
        fn answered(&self, _: &realm_edge::Answered<'_>) {}
    }
    let error = realm_edge::spawn(config, Arc::new(Nobody))
        .await
        .err()
        .expect("an error");
    let EdgeError::Listen { address, .. } = &error else {
        panic!("another error: {error}");
    };
    assert_eq!(*address, rig.address);
    assert_eq!(
        error.to_string(),
        format!("cannot listen on `{}`", rig.address)
    );
}

#[tokio::test]
async fn every_address_is_served() {
    let rig = Rig::with_config(vec![named("a")], |config| {
        config
            .listen
            .push("127.0.0.2:0".parse().expect("an address"));
    })
    .await;
    let addresses = rig.handle.addresses().to_vec();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_ne!(address.port(), 0);
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connected");
        stream
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .await
            .expect("sent");
        assert!(
            read_all(&mut stream)
                .await
                .starts_with("HTTP/1.0 200 OK\r\n")
        );
    }
}

#[tokio::test]
async fn one_too_many_is_turned_away() {
    let rig = Rig::with_limits(named("a"), |limits| limits.connections_max = 2).await;
    let (mut first, mut second) = (rig.http1().await, rig.http1().await);
    for client in [&mut first, &mut second] {
        soon(client.send_request(for_http1(get("http://h/"))))
            .await
            .expect("an answer");
    }
    let mut third = rig.connect().await;
    let answer = read_all(&mut third).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\r\nrealm-error: too-many-connections\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    drop(first);
    // A place becomes free; nobody tells when, so ask until it is.
    let mut status = 503;
    while status == 503 {
        let mut stream = rig.connect().await;
        stream
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        if answer.starts_with(b"HTTP/1.0 200") {
            status = 200;
        }
    }
}

#[tokio::test]
async fn the_observer_is_told_once_per_request() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let mut rig = Rig::new(backend(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(Response::new(text("four"))) }
    }))
    .await;
    rig.both(|| get("http://h/")).await;
    for protocol in [realm_edge::Protocol::Http11, realm_edge::Protocol::Http2] {
        let seen = rig.seen().await;
        assert_eq!(seen.protocol, protocol);
        assert_eq!(seen.component.as_deref(), Some("app"));
        assert_eq!(seen.method, realm_edge::MethodClass::Get);
        assert_eq!((seen.status, seen.code), (200, None));
        assert_eq!((seen.bytes_in, seen.bytes_out), (0, 4));
        assert_eq!((seen.outcome, seen.retried), (Outcome::Complete, false));
    }
    assert!(rig.has_seen_all());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}
