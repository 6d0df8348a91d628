//! Clients that do not read, backends that do not, and clients that go away.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use realm_edge::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::support::{Rig, backend, channel, data, get, request, soon, text, whole};

/// A backend that never reads, and one that reads when told: the client's side must stall, and go
/// on. Megabytes, so that no socket buffer takes them all.
#[tokio::test]
async fn an_unread_request_body_stalls_its_client() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 512;
    let (go, gate) = oneshot::channel::<()>();
    let gate = Arc::new(tokio::sync::Mutex::new(Some(gate)));
    let rig = Rig::new(backend(move |request| {
        let gate = Arc::clone(&gate);
        async move {
            if let Some(gate) = gate.lock().await.take() {
                gate.await.expect("told to go");
            }
            let body = request.into_body().collect().await.expect("a whole body");
            Ok(Response::new(text(body.to_bytes().len().to_string())))
        }
    }))
    .await;
    let (sender, body) = channel();
    let (progress, mut sent) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for count in 0..CHUNKS {
            let _ = sender.send(data(vec![b'x'; CHUNK])).await;
            let _ = progress.send(count);
        }
    });
    let mut client = rig.http2().await;
    let answer = tokio::spawn(client.send_request(request("POST", "http://h/", body)));
    // It stalls: the window is 256 KiB, and nothing more passes while nobody reads.
    let mut count = 0;
    while let Ok(Some(next)) = tokio::time::timeout(Duration::from_millis(200), sent.recv()).await {
        count = next;
    }
    assert!(
        count * CHUNK < 2 * 1024 * 1024,
        "{count} chunks were taken unread"
    );
    go.send(()).expect("it waits");
    let answer = soon(answer).await.expect("no panic").expect("an answer");
    assert_eq!(whole(answer).await.2, (CHUNK * CHUNKS).to_string());
}

#[tokio::test]
async fn an_unread_response_stalls_its_backend() {
    const CHUNK: usize = 64 * 1024;
    for version in [1, 2] {
        let (progress, mut sent) = mpsc::unbounded_channel();
        let rig = Rig::new(backend(move |_| {
            let progress = progress.clone();
            async move {
                let (sender, body) = channel();
                tokio::spawn(async move {
                    while sender.send(data(vec![b'x'; CHUNK])).await.is_ok() {
                        let _ = progress.send(());
                    }
                });
                Ok(Response::new(body))
            }
        }))
        .await;
        let response = match version {
            1 => rig.send1(get("http://h/")).await,
            _ => rig.send2(get("http://h/")).await,
        };
        let mut count = 0;
        while let Ok(Some(())) = tokio::time::timeout(Duration::from_millis(200), sent.recv()).await
        {
            count += 1;
            assert!(
                count * CHUNK < 64 * 1024 * 1024,
                "HTTP/{version} never stalls"
            );
        }
        // The client reads on, and so the backend writes on.
        let mut body = response.into_body();
        for _ in 0..count * 4 {
            soon(body.frame()).await.expect("a frame").expect("sound");
        }
        soon(sent.recv()).await.expect("more is written");
    }
}

/// A client that goes away while the backend works, while it sends, and while it reads.
#[tokio::test]
async fn a_client_that_goes_away_ends_the_call() {
    struct Guard(Option<mpsc::UnboundedSender<&'static str>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.take().expect("once").send("dropped");
        }
    }
    let (sender, mut told) = mpsc::unbounded_channel();
    let mut rig = Rig::new(backend(move |request| {
        let (guard, sender) = (Guard(Some(sender.clone())), sender.clone());
        async move {
            let path = request.uri().path().to_owned();
            let mut body = request.into_body();
            sender.send("called").expect("the test lives");
            match path.as_str() {
                "/work" => std::future::pending().await,
                "/upload" => {
                    while let Some(Ok(_)) = body.frame().await {}
                    sender.send("upload ended").expect("the test lives");
                    std::future::pending().await
                }
                _ => {
                    let stream = futures_util::stream::unfold(guard, |guard| async move {
                        let frame = data(vec![b'x'; 65536]);
                        Some((frame, guard))
                    });
                    Ok(Response::new(
                        http_body_util::StreamBody::new(stream).boxed_unsync(),
                    ))
                }
            }
        }
    }))
    .await;
    let heads = [
        (
            "GET /work HTTP/1.1\r\nHost: h\r\n\r\n",
            499,
            &["dropped"][..],
        ),
        (
            "POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc",
            499,
            &["upload ended", "dropped"],
        ),
        ("GET /read HTTP/1.1\r\nHost: h\r\n\r\n", 200, &["dropped"]),
    ];
    for (head, status, expected) in heads {
        let mut stream = rig.connect().await;
        stream.write_all(head.as_bytes()).await.expect("sent");
        assert_eq!(soon(told.recv()).await, Some("called"), "{head}");
        if status == 200 {
            soon(stream.read_u8()).await.expect("a response");
        }
        drop(stream);
        for word in expected {
            assert_eq!(soon(told.recv()).await, Some(*word), "{head}");
        }
        let seen = rig.seen().await;
        assert_eq!(seen.status, status, "{head}");
        assert_eq!(seen.outcome, Outcome::ClientGone, "{head}");
    }
    // HTTP/2: the stream is reset, the connection lives.
    let mut client = rig.http2().await;
    for path in ["/work", "/read"] {
        let answer = tokio::spawn(client.send_request(get(&format!("http://h{path}"))));
        assert_eq!(soon(told.recv()).await, Some("called"), "HTTP/2 {path}");
        if path == "/read" {
            drop(soon(answer).await.expect("no panic").expect("an answer"));
        } else {
            answer.abort();
        }
        assert_eq!(soon(told.recv()).await, Some("dropped"), "HTTP/2 {path}");
        assert_eq!(rig.seen().await.outcome, Outcome::ClientGone, "{path}");
    }
}
