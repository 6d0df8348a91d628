//! Connections that are kept, and hung up in the moment in which they are used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::hostile::request;
use crate::{Asked, UNAVAILABLE, engine, settings};

/// Answers the first `n_answered` requests of a connection, and hangs up once it has read the next one,
/// which is counted.
async fn hangs_up(n_answered: usize, hung_up: Arc<AtomicUsize>) -> Asked {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let hung_up = Arc::clone(&hung_up);
            tokio::spawn(async move {
                answer(stream, n_answered).await.unwrap();
                hung_up.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    engine(settings(port))
}

async fn answer(mut stream: TcpStream, n: usize) -> std::io::Result<()> {
    for _ in 0..n {
        request(&mut stream).await?;
        let body = r#"{"data":[{"embedding":[1.0]}]}"#;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).await?;
    }
    request(&mut stream).await.map(|_| ())
}

#[tokio::test]
async fn who_hangs_up_a_kept_connection_is_asked_once_more() {
    let hung_up = Arc::new(AtomicUsize::new(0));
    let asked = hangs_up(1, Arc::clone(&hung_up)).await;
    for n in 0..4 {
        let made = asked.embed(&["a"]).await.unwrap();
        assert_eq!(made.vectors, [[1.0]]);
        assert_eq!(hung_up.load(Ordering::SeqCst), n);
    }
    assert_eq!(asked.heard.all(), "");
}

#[tokio::test]
async fn who_always_hangs_up_is_asked_twice() {
    let hung_up = Arc::new(AtomicUsize::new(0));
    let asked = hangs_up(0, Arc::clone(&hung_up)).await;
    assert_eq!(asked.embed(&["a"]).await, Err(UNAVAILABLE));
    assert_eq!(hung_up.load(Ordering::SeqCst), 2);
    let heard = asked.heard.all();
    assert!(heard.contains("connection closed"), "{heard}");
}
