//! Bytes by their digest, between members: `/realm/<id>/blob/1`.
//!
//! The asker writes the digest (32 bytes) and where to begin (8 bytes, little-endian). The answer is
//! one byte (0: they follow), the whole size (8 bytes, little-endian), and the bytes from there on.
//! Nobody is believed: the store hashes what comes.

use std::io;
use std::time::Duration;

use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_net::Stream;
use realm_store::blobs::Blobs;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::haste::Haste;
use crate::places::Places;

/// Transfers that are served at once: each holds a file and a buffer.
const SERVED_MAX: usize = 32;
/// To one peer: a node downloads few at once.
const SERVED_PER_PEER_MAX: usize = 4;
/// A peer that reads more slowly than that is cut off, and goes on from there when it asks again.
const READ_BYTES_PER_S: u64 = 64 * 1024;
/// The longest pause of a peer that reads.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes per write.
const PIECE_BYTES: usize = 64 * 1024;

const FOLLOWS: u8 = 0;
const NOT_HERE: u8 = 1;
const BUSY: u8 = 2;
const BEYOND: u8 = 3;

/// What a peer said in place of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Declined {
    #[error("it does not have the bytes")]
    NotHere,
    #[error("it serves others")]
    Busy,
    #[error("it has fewer bytes")]
    Beyond,
    #[error("it answered {0}")]
    Other(u8),
}

/// Serves what this node holds.
#[derive(Clone)]
pub(crate) struct BlobServer {
    blobs: Blobs,
    served: Places<PublicKey>,
}

impl BlobServer {
    pub(crate) fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            served: Places::new(SERVED_MAX, SERVED_PER_PEER_MAX),
        }
    }

    /// Answers one stream.
    pub(crate) async fn serve(&self, from: PublicKey, mut stream: Stream) -> io::Result<()> {
        let mut question = [0; 40];
        within(stream.read_exact(&mut question)).await?;
        let (digest, offset) = question.split_at(32);
        let digest = Digest::from_bytes(digest.try_into().expect("32 bytes"));
        let offset = u64::from_le_bytes(offset.try_into().expect("8 bytes"));
        let Some(_place) = self.served.take(from, 0) else {
            return end(&mut stream, BUSY).await;
        };
        if !self.blobs.has(&digest) {
            return end(&mut stream, NOT_HERE).await;
        }
        let mut file = tokio::fs::File::open(self.blobs.path(&digest)).await?;
        let size = file.metadata().await?.len();
        if offset > size {
            return end(&mut stream, BEYOND).await;
        }
        file.seek(io::SeekFrom::Start(offset)).await?;
        let mut head = [FOLLOWS; 9];
        head[1..].copy_from_slice(&size.to_le_bytes());
        within(stream.write_all(&head)).await?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut haste = Haste::new(IDLE_TIMEOUT, READ_BYTES_PER_S);
        loop {
            let read = file.read(&mut piece).await?;
            if read == 0 {
                return within(stream.shutdown()).await;
            }
            let written = haste.within(stream.write_all(&piece[..read])).await;
            written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
            haste.moved(read);
        }
    }
}

/// Asks a peer for bytes from `offset` on; returns the whole size, and the stream at the first byte.
pub(crate) async fn open(
    mut stream: Stream,
    digest: &Digest,
    offset: u64,
) -> io::Result<(u64, Stream)> {
    let mut question = [0; 40];
    question[..32].copy_from_slice(digest.as_bytes());
    question[32..].copy_from_slice(&offset.to_le_bytes());
    within(stream.write_all(&question)).await?;
    within(stream.flush()).await?;
    let mut answer = [0];
    within(stream.read_exact(&mut answer)).await?;
    let declined = match answer[0] {
        FOLLOWS => {
            let mut size = [0; 8];
            within(stream.read_exact(&mut size)).await?;
            return Ok((u64::from_le_bytes(size), stream));
        }
        NOT_HERE => Declined::NotHere,
        BUSY => Declined::Busy,
        BEYOND => Declined::Beyond,
        other => Declined::Other(other),
    };
    Err(io::Error::other(declined))
}

async fn end(stream: &mut Stream, answer: u8) -> io::Result<()> {
    within(stream.write_all(&[answer])).await?;
    within(stream.shutdown()).await
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(IDLE_TIMEOUT, step).await {
        Ok(ended) => ended,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
