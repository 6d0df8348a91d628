//! A stream to a peer, and one that a peer wants to open here.
//!
//! The side that opens reads one byte first: 0 when the other side takes the stream, else why not.
//! So a refusal is told, and not mistaken for a broken connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::slots::Slot;
use crate::wire::{InUse, Tied};
use futures_util::AsyncWriteExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use crate::{Error, Refusal};

/// How long opening a stream may take, with its refusal or acceptance.
pub(crate) const OPEN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long one byte may take to leave: it fits into any window, so only a dead peer needs longer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

const ACCEPTED: u8 = 0;

/// A stream of bytes to one peer, both ways. Dropping it resets what is not yet sent; end the own
/// side with `shutdown`. It breaks as soon as its connection is given up.
pub struct Stream {
    io: Compat<libp2p::Stream>,
    tied: Tied,
    _slot: Option<Slot>,
}

/// A stream that a peer wants to open. Dropped, it is declined.
pub struct Incoming {
    parts: Option<(libp2p::Stream, InUse, Slot)>,
}

/// A stream whose other end has not said yet whether it takes it.
pub(crate) struct Opened {
    pub(crate) io: libp2p::Stream,
    pub(crate) in_use: InUse,
}

impl Opened {
    pub(crate) async fn accepted(self) -> Result<Stream, Error> {
        let mut stream = Stream {
            io: self.io.compat(),
            tied: Tied::to(self.in_use),
            _slot: None,
        };
        match tokio::time::timeout(OPEN_TIME_MAX, stream.read_u8()).await {
            Err(_) => Err(Error::Timeout),
            Ok(Err(error)) => Err(Error::Broken(error.to_string())),
            Ok(Ok(ACCEPTED)) => Ok(stream),
            Ok(Ok(code)) => Err(Error::Refused(Refusal::of(code))),
        }
    }
}

impl Incoming {
    pub(crate) fn new(io: libp2p::Stream, in_use: InUse, slot: Slot) -> Self {
        Self {
            parts: Some((io, in_use, slot)),
        }
    }

    /// Takes the stream, and says so to the peer.
    pub async fn accept(mut self) -> Result<Stream, Error> {
        let (mut io, in_use, slot) = self.parts.take().expect("taken only here and when dropped");
        answer(&mut io, ACCEPTED).await?;
        Ok(Stream {
            io: io.compat(),
            tied: Tied::to(in_use),
            _slot: Some(slot),
        })
    }

    /// Says why not.
    pub fn refuse(mut self, refusal: Refusal) {
        self.end(refusal);
    }

    fn end(&mut self, refusal: Refusal) {
        if let Some((io, _, slot)) = self.parts.take() {
            refuse(io, refusal, Some(slot));
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.end(Refusal::Declined);
    }
}

/// Tells a refusal in the background. The slot is kept meanwhile, so that refusals are bounded too.
pub(crate) fn refuse(mut io: libp2p::Stream, refusal: Refusal, slot: Option<Slot>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            if answer(&mut io, refusal.code()).await.is_ok() {
                let _ = tokio::time::timeout(ANSWER_TIME_MAX, io.close()).await;
            }
            drop(slot);
        });
    }
}

async fn answer(io: &mut libp2p::Stream, code: u8) -> Result<(), Error> {
    let write = async {
        io.write_all(&[code]).await?;
        io.flush().await
    };
    match tokio::time::timeout(ANSWER_TIME_MAX, write).await {
        Err(_) => Err(Error::Timeout),
        Ok(Err(error)) => Err(Error::Broken(error.to_string())),
        Ok(Ok(())) => Ok(()),
    }
}

impl Stream {
    /// Writes one message: its length in four bytes (big end first), then the bytes.
    pub async fn write_message(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let size = u32::try_from(bytes.len()).map_err(|_| Error::TooLarge {
            size: bytes.len(),
            max: u32::MAX as usize,
        })?;
        let write = async {
            self.io.write_all(&size.to_be_bytes()).await?;
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        write
            .await
            .map_err(|error: io::Error| Error::Broken(error.to_string()))
    }

    /// Reads one message of at most `max` bytes; memory is taken as bytes come. None at the end.
    pub async fn read_message(&mut self, max: usize) -> Result<Option<Vec<u8>>, Error> {
        let broken = |error: io::Error| Error::Broken(error.to_string());
        let mut head = [0; 4];
        let first = self.io.read(&mut head[..1]).await.map_err(broken)?;
        if first == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut head[1..]).await.map_err(broken)?;
        let size = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        if size > max {
            return Err(Error::TooLarge { size, max });
        }
        let mut bytes = Vec::new();
        let wanted = (&mut self.io)
            .take(size as u64)
            .read_to_end(&mut bytes)
            .await
            .map_err(broken)?;
        if wanted < size {
            return Err(Error::Broken(
                "the stream ended within a message".to_owned(),
            ));
        }
        Ok(Some(bytes))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.tied.read(cx, polled)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.tied.write(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.tied.write(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.tied.write(cx, polled)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Incoming")
    }
}
