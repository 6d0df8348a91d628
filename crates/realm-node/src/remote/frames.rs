//! Frames over a connection, and byte streams over frames: bounded, with back-pressure both ways.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use realm_model::frame::{Channel, Frame, FrameError, FrameReader, WINDOW_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

/// Bytes that are read at once, from a connection or from what is sent.
const READ_BYTES: usize = 16 * 1024;
/// Frames that wait to be written: a few, so that an end is not behind many.
pub(super) const OUTBOX_FRAMES: usize = 8;
/// What a reader may open its window to: more is no honest one.
const WINDOW_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a talk ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TalkError {
    /// The connection broke, or its other end left.
    #[error("the connection ended")]
    Connection(#[source] io::Error),
    /// What came cannot be written here.
    #[error("the output cannot be written")]
    Output(#[source] io::Error),
    /// The other end sent what is no frame.
    #[error("the other end does not keep to the protocol")]
    Frame(#[from] FrameError),
    /// The other end sent a frame that is not its to send, or more than it may.
    #[error("the other end does not keep to the protocol: {0}")]
    Protocol(&'static str),
}

/// A task that ends with whoever holds this.
pub(super) struct Task(JoinHandle<()>);

impl Task {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Waits for its end.
    pub(super) async fn ended(mut self) {
        // A panic is an end as well.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The frames of a connection, one after the other.
pub(super) struct Incoming<R> {
    io: R,
    frames: FrameReader,
    buffer: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(io: R) -> Self {
        Self {
            io,
            frames: FrameReader::default(),
            buffer: vec![0; READ_BYTES].into(),
        }
    }

    /// The next frame. Dropped while it waits, it has lost nothing.
    pub(super) async fn next(&mut self) -> Result<Frame, TalkError> {
        loop {
            if let Some(frame) = self.frames.next()? {
                return Ok(frame);
            }
            let read = self.io.read(&mut self.buffer).await;
            match read.map_err(TalkError::Connection)? {
                0 => return Err(TalkError::Connection(io::ErrorKind::UnexpectedEof.into())),
                number => self.frames.push(&self.buffer[..number]),
            }
        }
    }
}

/// Writes frames until all their senders are gone, then closes.
pub(super) async fn write(mut io: impl AsyncWrite + Unpin, mut outbox: mpsc::Receiver<Frame>) {
    while let Some(frame) = outbox.recv().await {
        // What was written may sit in a buffer of the layer below.
        let written = async {
            io.write_all(&frame.encode()).await?;
            io.flush().await
        };
        if written.await.is_err() {
            // The reading side says why; senders see that nobody takes their frames.
            return;
        }
    }
    // The other end may be gone already.
    let _ = io.shutdown().await;
}

/// What the reader of a byte stream still takes.
#[derive(Clone)]
pub(super) struct Window(Arc<Semaphore>);

impl Window {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WINDOW_BYTES as usize)))
    }

    /// The reader takes so much more.
    pub(super) fn widen(&self, more: u32) -> Result<(), TalkError> {
        if self.0.available_permits() + more as usize > WINDOW_BYTES_MAX {
            return Err(TalkError::Protocol("a window is too wide"));
        }
        self.0.add_permits(more as usize);
        Ok(())
    }

    /// The reader is gone: nobody waits for it any longer.
    pub(super) fn close(&self) {
        self.0.close();
    }
}

/// Sends what comes from `source`, as far as the window is open, to its end.
pub(super) async fn send(
    mut source: impl AsyncRead + Unpin,
    channel: Channel,
    window: Window,
    outbox: mpsc::Sender<Frame>,
) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let number = match source.read(&mut buffer).await {
            // A broken source has ended as well.
            Ok(0) | Err(_) => return,
            Ok(number) => number,
        };
        let permits = u32::try_from(number).expect("a read fits its buffer");
        match window.0.acquire_many(permits).await {
            Ok(turn) => turn.forget(),
            Err(_) => return,
        }
        let frame = Frame::Data(channel, buffer[..number].to_vec());
        if outbox.send(frame).await.is_err() {
            return;
        }
    }
}

/// The receiving end of a byte stream: takes data at once, and opens the window as it is used up.
pub(super) struct Feed {
    data: Option<mpsc::UnboundedSender<Vec<u8>>>,
    // What may still come.
    room: Arc<AtomicU32>,
}

impl Feed {
    /// A feed, and the work that carries what it takes to `sink`; an error says that `sink` takes no
    /// more.
    pub(super) fn new(
        sink: impl AsyncWrite + Unpin + Send,
        channel: Channel,
        outbox: mpsc::Sender<Frame>,
    ) -> (Self, impl Future<Output = Result<(), TalkError>> + Send) {
        // Bounded by the room.
        let (data, waiting) = mpsc::unbounded_channel();
        let room = Arc::new(AtomicU32::new(WINDOW_BYTES));
        let work = carry(waiting, sink, channel, outbox, Arc::clone(&room));
        let feed = Self {
            data: Some(data),
            room,
        };
        (feed, work)
    }

    /// Takes data.
    pub(super) fn take(&self, bytes: Vec<u8>) -> Result<(), TalkError> {
        let length = u32::try_from(bytes.len()).expect("a frame is short");
        let fits = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
                room.checked_sub(length)
            });
        if fits.is_err() {
            return Err(TalkError::Protocol("a window was not kept"));
        }
        if let Some(data) = &self.data {
            // Nobody reads any more: the bytes are nobody's.
            let _ = data.send(bytes);
        }
        Ok(())
    }

    /// The end of the stream.
    pub(super) fn end(&mut self) {
        self.data = None;
    }
}

async fn carry(
    mut waiting: mpsc::UnboundedReceiver<Vec<u8>>,
    mut sink: impl AsyncWrite + Unpin,
    channel: Channel,
    outbox: mpsc::Sender<Frame>,
    room: Arc<AtomicU32>,
) -> Result<(), TalkError> {
    while let Some(bytes) = waiting.recv().await {
        let written = async {
            sink.write_all(&bytes).await?;
            sink.flush().await
        };
        written.await.map_err(TalkError::Output)?;
        let more = u32::try_from(bytes.len()).expect("a frame is short");
        room.fetch_add(more, Ordering::Relaxed);
        if outbox.send(Frame::Window(channel, more)).await.is_err() {
            break;
        }
    }
    // Its reader sees the end. It may have gone before.
    let _ = sink.shutdown().await;
    Ok(())
}
