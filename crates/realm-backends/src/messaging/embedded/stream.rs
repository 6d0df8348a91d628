//! The two halves of a stream between two nodes, in pieces with their length before them (4 bytes, big end
//! first), and what may go wrong with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use realm_model::cloud::CloudError;
use realm_model::lending_message::BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a piece may take to leave: it fits into a few windows, and the other end reads at once.
pub(super) const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long the other end may take to say whether it has a member of the group.
pub(super) const OPEN_TIME_MAX: Duration = Duration::from_secs(10);

/// Why messages are lent no more over a stream.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// The other node has no member of the group.
    #[error("the group has no member there")]
    NotHere,
    /// This node's queue cannot be used, or knows no such group any more.
    #[error("the queue here: {0}")]
    Queue(CloudError),
    /// The stream broke, or ended.
    #[error("the stream broke")]
    Broken(#[source] io::Error),
    /// The other end does what it may not.
    #[error("the other node {0}")]
    Wrong(&'static str),
}

impl From<io::Error> for LendError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// What comes in. A future of [`Reader::next`] that is dropped loses nothing.
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
    /// Bytes that came.
    n_read: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        Self::counting(io, Arc::default())
    }

    /// One that others look at: how many bytes came.
    pub(super) fn counting(io: R, n_read: Arc<AtomicU64>) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            n_read,
        }
    }

    /// The next piece.
    pub(super) async fn next(&mut self) -> Result<BytesMut, LendError> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let n = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
                if n > BYTES_MAX {
                    return Err(LendError::Wrong("says more at once than it may"));
                }
                if self.buffer.len() >= 4 + n {
                    self.buffer.advance(4);
                    return Ok(self.buffer.split_to(n));
                }
            }
            let n = self.io.read_buf(&mut self.buffer).await?;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.n_read.fetch_add(n as u64, Ordering::Relaxed);
        }
    }
}

/// Writes one piece.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    io: &mut W,
    bytes: &[u8],
) -> Result<(), LendError> {
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let writing = async {
        io.write_all(&size.to_be_bytes()).await?;
        io.write_all(bytes).await?;
        io.flush().await
    };
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    Ok(timeout(WRITE_TIME_MAX, writing).await.map_err(late)??)
}
