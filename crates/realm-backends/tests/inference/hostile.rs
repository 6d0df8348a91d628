//! A server that answers as a test says, however wrong that is, and tells what became of its connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// What it does once it was asked, one after the other.
#[derive(Clone)]
pub(crate) enum Does {
    /// Says this.
    Says(Vec<u8>),
    /// Says this again and again, with a pause, for as long as somebody listens.
    Repeats(Vec<u8>, Duration),
    /// Waits until the test lets it go on.
    Waits,
    /// Says nothing more, and stays.
    Stays,
}

/// The head of an answer as events, and these.
pub(crate) fn events(all: &[&str]) -> Vec<u8> {
    let mut said = HEAD.to_owned();
    for one in all {
        said += &format!("data: {one}\n\n");
    }
    said.into_bytes()
}

/// The beginning of an answer as events, whose end is that of the connection.
pub(crate) const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// A piece of an answer.
pub(crate) fn word(text: &str) -> String {
    let text = serde_json::to_string(text).unwrap();
    format!(r#"{{"choices":[{{"index":0,"delta":{{"content":{text}}}}}]}}"#)
}

/// The end of an answer.
pub(crate) const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

/// A whole answer.
pub(crate) fn answer(head: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub(crate) struct Hostile {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<String>>,
    n_open: AtomicUsize,
    n_bytes: AtomicUsize,
    goes_on: watch::Sender<bool>,
}

impl Hostile {
    pub(crate) async fn start(does: Vec<Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let known = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                known.n_open.fetch_add(1, Ordering::SeqCst);
                let (known, does) = (Arc::clone(&known), does.clone());
                tokio::spawn(async move {
                    // A connection that breaks is what is looked for.
                    let _ = known.serve(stream, does).await;
                    known.n_open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, shared }
    }

    /// What it was asked, as it came.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Connections that are open.
    pub(crate) fn n_open(&self) -> usize {
        self.shared.n_open.load(Ordering::SeqCst)
    }

    /// Bytes that somebody took from it.
    pub(crate) fn n_bytes(&self) -> usize {
        self.shared.n_bytes.load(Ordering::SeqCst)
    }

    /// Lets those go on that wait.
    pub(crate) fn go_on(&self) {
        self.shared.goes_on.send_replace(true);
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream, does: Vec<Does>) -> std::io::Result<()> {
        let asked = request(&mut stream).await?;
        self.asked.lock().unwrap().push(asked);
        let (mut reading, mut writing) = stream.split();
        let mut rest = [0; 64];
        let says = async {
            for one in does {
                match one {
                    Does::Says(bytes) => self.write(&mut writing, &bytes).await?,
                    Does::Repeats(bytes, pause) => loop {
                        self.write(&mut writing, &bytes).await?;
                        sleep(pause).await;
                    },
                    Does::Waits => {
                        let mut goes_on = self.goes_on.subscribe();
                        goes_on.wait_for(|goes_on| *goes_on).await.unwrap();
                    }
                    Does::Stays => std::future::pending().await,
                }
            }
            Ok(())
        };
        tokio::select! {
            said = says => said,
            // The other side goes away.
            _ = reading.read(&mut rest) => Ok(()),
        }
    }

    async fn write(
        &self,
        writing: &mut tokio::net::tcp::WriteHalf<'_>,
        bytes: &[u8],
    ) -> std::io::Result<()> {
        writing.write_all(bytes).await?;
        self.n_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
        Ok(())
    }
}

pub(crate) async fn request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok(text);
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(text);
        }
    }
}

/// Until something is so: a minute at most.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = timeout(Duration::from_secs(60), async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}
