//! Stands between a client and a server of NATS, and holds back what is sent to some subjects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Relay {
    pub(crate) port: u16,
    n_held: Arc<AtomicUsize>,
}

impl Relay {
    /// Before the server on a port; what goes to subjects that begin so does not come there.
    pub(crate) async fn start(server: u16, held_back: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let n_held = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&n_held);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, mut to_client) = client.into_split();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (mut from_server, to_server) = server.into_split();
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let _ = pass_on(from_client, to_server, held_back, &counted).await;
                });
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
            }
        });
        Self { port, n_held }
    }

    /// How many messages it held back.
    pub(crate) fn n_held(&self) -> usize {
        self.n_held.load(Ordering::Relaxed)
    }
}

async fn pass_on(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    held_back: &str,
    n_held: &AtomicUsize,
) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let mut bytes = Vec::new();
        if from.read_until(b'\n', &mut bytes).await? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&bytes).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        // `PUB subject [reply] bytes`, and with headers `HPUB subject [reply] of-headers bytes`.
        if let ["PUB" | "HPUB", subject, .., n_bytes] = words[..] {
            let mut body = vec![0; n_bytes.parse::<usize>().unwrap() + 2];
            from.read_exact(&mut body).await?;
            if subject.starts_with(held_back) {
                n_held.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            bytes.extend(body);
        }
        to.write_all(&bytes).await?;
    }
}
