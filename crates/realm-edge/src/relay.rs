//! Bytes of a connection on their way to a server, here or on another node, and back.
//!
//! Between nodes they go in frames, and the receiver grants what may be sent: a client that reads
//! slowly fills a window of its own and not the one that all streams of two nodes share. An end of one
//! side is passed on, and the other goes on; what breaks is broken for both. Who is connected with
//! whom is not decided here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::pulse::now_ms;
use crate::upstream::Io;

/// A connection without a byte in either direction ends after that: databases keep theirs for long.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Bytes of one frame.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Bytes that may be on their way in one direction before the other end has given them on: what one
/// connection costs in memory. At 50 ms of round trip 5 MB/s.
const WINDOW_BYTES: usize = 256 * 1024;
/// What was given on is granted anew in such parts.
const GRANT_BYTES: usize = WINDOW_BYTES / 4;
/// How long the other node may take to hear that all is said.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);

const DATA: u8 = 0;
const GRANT: u8 = 1;
const END: u8 = 2;

/// What is on its way in both directions.
struct Flow {
    /// Bytes that came from the other node and are not yet given on.
    waiting: AtomicUsize,
    /// Bytes that were sent to it, and not yet granted anew.
    sent: AtomicUsize,
    /// Bytes that may be sent.
    window: Semaphore,
}

impl Flow {
    fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            window: Semaphore::new(WINDOW_BYTES),
        }
    }
}

/// Carries bytes between two sockets of this machine until both sides have ended.
pub(crate) async fn here(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let seen = Arc::new(AtomicU64::new(now_ms()));
    let mut client = Watched::new(client, &seen);
    let mut server = Watched::new(server, &seen);
    let carried = tokio::select! {
        carried = tokio::io::copy_bidirectional(&mut client, &mut server) => carried.map(drop),
        idle = idle(&seen) => Err(idle),
    };
    if carried.is_ok() {
        client.ended();
        server.ended();
    }
    carried
}

/// Carries bytes between a socket and a stream to another node until both sides have ended.
pub(crate) async fn across(socket: TcpStream, stream: impl Io) -> io::Result<()> {
    let seen = Arc::new(AtomicU64::new(now_ms()));
    let mut socket = Watched::new(socket, &seen);
    let carried = tokio::select! {
        carried = carry(&mut socket, stream) => carried,
        idle = idle(&seen) => Err(idle),
    };
    if carried.is_ok() {
        socket.ended();
    }
    carried
}

async fn idle(seen: &AtomicU64) -> io::Error {
    loop {
        let idle = Duration::from_millis(now_ms().saturating_sub(seen.load(Relaxed)));
        match IDLE_MAX.checked_sub(idle) {
            Some(left) if !left.is_zero() => sleep(left).await,
            Some(_) | None => return io::ErrorKind::TimedOut.into(),
        }
    }
}

/// Carries bytes between whatever is here and a stream to another node, until both sides have ended.
/// Who is silent is not its business.
pub(crate) async fn framed(io: impl Io, stream: impl Io) -> io::Result<()> {
    carry(io, stream).await
}

async fn carry(socket: impl AsyncRead + AsyncWrite + Unpin, stream: impl Io) -> io::Result<()> {
    let (read, write) = tokio::io::split(stream);
    let (from_socket, to_socket) = tokio::io::split(socket);
    let flow = Flow::new();
    // Bounded by the window.
    let (arrived, arriving) = mpsc::unbounded_channel();
    let (given, giving) = mpsc::unbounded_channel();
    let mut frames = Frames { write };
    let mut is_closed = false;
    let mut receiving = std::pin::pin!(receive(read, arrived, &flow));
    {
        let mut both = std::pin::pin!(async {
            tokio::try_join!(
                send(from_socket, &mut frames, &flow, giving),
                give(to_socket, arriving, given, &flow)
            )
        });
        tokio::select! {
            ended = both.as_mut() => ended.map(drop)?,
            received = receiving.as_mut() => {
                received?;
                is_closed = true;
                both.await?;
            }
        }
    }
    // The last bytes are on their way: what is let go before it has ended is lost.
    let farewell = async {
        let _ = frames.write.shutdown().await;
        if !is_closed {
            let _ = receiving.await;
        }
    };
    let _ = timeout(FAREWELL_TIME_MAX, farewell).await;
    Ok(())
}

/// From the socket to the other node, as far as it grants, and what is granted to it.
async fn send<W: AsyncWrite + Unpin>(
    mut socket: impl AsyncRead + Unpin,
    frames: &mut Frames<W>,
    flow: &Flow,
    mut giving: mpsc::UnboundedReceiver<usize>,
) -> io::Result<()> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let (mut is_open, mut gives, mut owed) = (true, true, 0);
    while is_open || gives {
        tokio::select! {
            read = granted(&mut socket, &mut buffer, flow), if is_open => match read? {
                0 => {
                    is_open = false;
                    frames.write(END, 0, &[]).await?;
                }
                count => frames.write(DATA, count, &buffer[..count]).await?,
            },
            given = giving.recv(), if gives => match given {
                None => gives = false,
                Some(count) => {
                    owed += count;
                    if owed >= GRANT_BYTES {
                        // A side that has said all needs no grant, and may be gone.
                        let _ = frames.write(GRANT, owed, &[]).await;
                        owed = 0;
                    }
                }
            },
        }
    }
    Ok(())
}

/// Reads as much as may be sent. What is given up before it has read has read nothing.
async fn granted(
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    flow: &Flow,
) -> io::Result<usize> {
    let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let first = flow.window.acquire().await.map_err(closed)?;
    let most = buffer.len().min(1 + flow.window.available_permits());
    let count = socket.read(&mut buffer[..most]).await?;
    if count > 0 {
        first.forget();
        flow.window.forget_permits(count - 1);
        flow.sent.fetch_add(count, Relaxed);
    }
    Ok(count)
}

/// From the other node to the socket; says how much was given on.
async fn give(
    mut socket: impl AsyncWrite + Unpin,
    mut arriving: mpsc::UnboundedReceiver<Vec<u8>>,
    given: mpsc::UnboundedSender<usize>,
    flow: &Flow,
) -> io::Result<()> {
    while let Some(bytes) = arriving.recv().await {
        socket.write_all(&bytes).await?;
        flow.waiting.fetch_sub(bytes.len(), Relaxed);
        let _ = given.send(bytes.len());
    }
    // Its other direction may be open for long, or broken by now.
    socket.shutdown().await
}

/// Reads frames until the stream ends. That is a fault unless the other node has said all before.
async fn receive(
    mut read: impl AsyncRead + Unpin,
    arrived: mpsc::UnboundedSender<Vec<u8>>,
    flow: &Flow,
) -> io::Result<()> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut arrived = Some(arrived);
    let mut head = [0; 5];
    loop {
        match read.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if arrived.is_none() && error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let [kind, size @ ..] = head;
        let size = usize::try_from(u32::from_be_bytes(size)).map_err(|_| bad())?;
        match kind {
            DATA if (1..=FRAME_BYTES_MAX).contains(&size) => {
                let mut bytes = vec![0; size];
                read.read_exact(&mut bytes).await?;
                // More than was granted.
                if flow.waiting.fetch_add(size, Relaxed) + size > WINDOW_BYTES {
                    return Err(bad());
                }
                let arrived = arrived.as_ref().ok_or_else(bad)?;
                arrived.send(bytes).map_err(|_| bad())?;
            }
            GRANT if size <= flow.sent.load(Relaxed) => {
                flow.sent.fetch_sub(size, Relaxed);
                flow.window.add_permits(size);
            }
            END if size == 0 && arrived.take().is_some() => {}
            _ => return Err(bad()),
        }
    }
}

/// The writing half of a stream.
struct Frames<W> {
    write: W,
}

impl<W: AsyncWrite + Unpin> Frames<W> {
    async fn write(&mut self, kind: u8, size: usize, bytes: &[u8]) -> io::Result<()> {
        let size = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
        let mut frame = Vec::with_capacity(5 + bytes.len());
        frame.push(kind);
        frame.extend_from_slice(&size);
        frame.extend_from_slice(bytes);
        self.write.write_all(&frame).await?;
        self.write.flush().await
    }
}

/// A socket of which it is noted when bytes last came or went.
struct Watched {
    io: TcpStream,
    seen: Arc<AtomicU64>,
}

impl Watched {
    fn new(io: TcpStream, seen: &Arc<AtomicU64>) -> Self {
        // What is small is sent at once: questions and answers alternate on such connections.
        let _ = io.set_nodelay(true);
        let _ = SockRef::from(&io).set_keepalive(true);
        // Whatever cuts it short, the other side does not take that for its end.
        let _ = SockRef::from(&io).set_linger(Some(Duration::ZERO));
        Self {
            io,
            seen: Arc::clone(seen),
        }
    }

    /// Both sides have ended: dropped after that, it says nothing else.
    fn ended(&self) {
        let _ = SockRef::from(&self.io).set_linger(None);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if polled.is_ready() {
            self.seen.store(now_ms(), Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        if polled.is_ready() {
            self.seen.store(now_ms(), Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What becomes of a connection whose other node sends these bytes.
    async fn check(sent: &[u8]) -> io::ErrorKind {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (socket, client) = (listener.accept(), client);
        let (socket, client) = tokio::join!(socket, client);
        let (mut far, near) = tokio::io::duplex(1 << 20);
        far.write_all(sent).await.unwrap();
        // The client reads nothing, and the other node waits for what becomes of it.
        let carried = timeout(FAREWELL_TIME_MAX, across(socket.unwrap().0, near)).await;
        drop((client, far));
        carried.expect("it ends").unwrap_err().kind()
    }

    fn frame(kind: u8, size: usize, bytes: usize) -> Vec<u8> {
        let mut frame = vec![kind];
        frame.extend_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
        frame.resize(frame.len() + bytes, 7);
        frame
    }

    #[tokio::test]
    async fn a_node_that_breaks_the_rules_breaks_the_connection() {
        let data = frame(DATA, FRAME_BYTES_MAX, FRAME_BYTES_MAX);
        for sent in [
            frame(9, 0, 0),
            frame(DATA, 0, 0),
            frame(DATA, FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX + 1),
            // Nothing was sent that could be granted anew.
            frame(GRANT, 1, 0),
            frame(END, 1, 0),
            [frame(END, 0, 0), frame(END, 0, 0)].concat(),
            [frame(END, 0, 0), data].concat(),
        ] {
            let kind = check(&sent).await;
            assert_eq!(kind, io::ErrorKind::InvalidData, "{:?}", &sent[..5]);
        }
    }

    #[tokio::test]
    async fn nobody_sends_more_than_is_granted() {
        // Nothing is given on, so nothing is granted anew.
        let (arrived, _arriving) = mpsc::unbounded_channel();
        let flow = Flow::new();
        let data = frame(DATA, FRAME_BYTES_MAX, FRAME_BYTES_MAX);
        let sent = data.repeat(WINDOW_BYTES / FRAME_BYTES_MAX);
        let more = [sent.clone(), frame(DATA, 1, 1)].concat();
        let received = receive(&more[..], arrived.clone(), &flow).await;
        assert_eq!(received.unwrap_err().kind(), io::ErrorKind::InvalidData);
        flow.waiting.store(0, Relaxed);
        let all = [sent, frame(END, 0, 0)].concat();
        receive(&all[..], arrived, &flow).await.unwrap();
    }
}
