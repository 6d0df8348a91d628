//! What lies between the client and a server of mail: how much is read of it, and whether all of a message
//! went out.

use std::fmt;
use std::io::{self, Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use lettre::transport::smtp::extension::ClientId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that are read of a server for one message: far more than it has to say.
const ANSWERS_BYTES_MAX: usize = 256 * 1024;
/// The same before TLS.
const GREETING_BYTES_MAX: usize = 16 * 1024;
/// What ends a message, and stands nowhere in one.
const END: &[u8; 5] = b"\r\n.\r\n";

/// How far a message came. Cheap to clone: who waits for it may give up.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

const BEGAN: u8 = 1;
const WHOLE: u8 = 2;
const ANSWERED: u8 = 3;

impl Progress {
    /// What is written from here on is the message.
    pub(super) fn begins(&self) {
        self.0.store(BEGAN, Ordering::Relaxed);
    }

    /// The server said what it did with it.
    pub(super) fn is_answered(&self) {
        self.0.store(ANSWERED, Ordering::Relaxed);
    }

    fn ends(&self) {
        // Of something else it may be the end as well.
        _ = self
            .0
            .compare_exchange(BEGAN, WHOLE, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// All of it went out, and nothing came back: the server may have taken it.
    pub(super) fn is_whole(&self) -> bool {
        self.0.load(Ordering::Relaxed) == WHOLE
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// A connection as the client has it.
pub(super) struct Wire {
    io: Box<dyn Io>,
    /// What the client reads before anything that comes.
    first: &'static [u8],
    /// Bytes that may still be read.
    left: usize,
    /// The last bytes that were written.
    last: [u8; 5],
    peer: SocketAddr,
    progress: Progress,
}

impl Wire {
    pub(super) fn new(
        io: impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
        first: &'static [u8],
        peer: SocketAddr,
        progress: &Progress,
    ) -> Self {
        Self {
            io: Box::new(io),
            first,
            left: ANSWERS_BYTES_MAX,
            last: [0; 5],
            peer,
            progress: progress.clone(),
        }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let tail = &bytes[bytes.len().saturating_sub(END.len())..];
        self.last.rotate_left(tail.len());
        let from = self.last.len() - tail.len();
        self.last[from..].copy_from_slice(tail);
        if self.last == *END {
            self.progress.ends();
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.peer)
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let (now, later) = this
                .first
                .split_at(this.first.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.first = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(context, buffer);
        let n = buffer.filled().len() - before;
        let Some(left) = this.left.checked_sub(n) else {
            let words = "it says more than a server of mail has to say";
            return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, words)));
        };
        this.left = left;
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(context, bytes);
        if let Poll::Ready(Ok(n)) = polled {
            this.wrote(&bytes[..n]);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

/// What is said before TLS: the greeting, and that TLS is wanted. Nothing that the server says here counts
/// for anything afterwards, and it may not have said more than that when TLS begins.
pub(super) async fn start_tls(stream: &mut TcpStream, hello: &ClientId) -> Result<(), String> {
    let mut read = Vec::new();
    answer(stream, &mut read, "220").await?;
    say(stream, &format!("EHLO {hello}\r\n")).await?;
    let offers = answer(stream, &mut read, "250").await?;
    let offered = offers.lines().skip(1).any(|line| {
        line.get(4..)
            .is_some_and(|word| word.trim_end().eq_ignore_ascii_case("STARTTLS"))
    });
    if !offered {
        return Err("it offers no STARTTLS, without which nothing is sent".to_owned());
    }
    say(stream, "STARTTLS\r\n").await?;
    answer(stream, &mut read, "220").await?;
    if !read.is_empty() {
        return Err("it says more before TLS than it was asked".to_owned());
    }
    Ok(())
}

async fn say(stream: &mut TcpStream, line: &str) -> Result<(), String> {
    let written = stream.write_all(line.as_bytes()).await;
    written.map_err(|error| error.to_string())
}

/// One answer with the code that it has to have; what came behind it stays in `read`.
async fn answer(stream: &mut TcpStream, read: &mut Vec<u8>, code: &str) -> Result<String, String> {
    let mut looked = 0;
    loop {
        while let Some(end) = read[looked..].iter().position(|byte| *byte == b'\n') {
            let line = &read[looked..looked + end];
            let is_last = line.get(3) != Some(&b'-');
            looked += end + 1;
            if is_last {
                let answer: Vec<u8> = read.drain(..looked).collect();
                let answer = String::from_utf8_lossy(&answer).into_owned();
                if answer.starts_with(code) {
                    return Ok(answer);
                }
                let said: String = answer.chars().take(3).collect();
                return Err(format!("it answered {}, not {code}", said.escape_debug()));
            }
        }
        if read.len() > GREETING_BYTES_MAX {
            return Err("it says more than a server of mail has to say".to_owned());
        }
        let mut buffer = [0; 1024];
        let n = stream.read(&mut buffer).await;
        match n.map_err(|error| error.to_string())? {
            0 => return Err("it ended the connection".to_owned()),
            n => read.extend_from_slice(&buffer[..n]),
        }
    }
}
