//! An object on its way to a guest: a piece at a time, and the next one when the guest wants it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use realm_model::cloud::limits::VALUE_BYTES_MAX;
use realm_model::cloud::{Blob, BlobSource, CloudError};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError};

/// `incoming-value`.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Incoming {
    blob: Blob,
    room: OwnedSemaphorePermit,
}

impl Incoming {
    pub(super) const fn new(blob: Blob, room: OwnedSemaphorePermit) -> Self {
        Self { blob, room }
    }

    pub(super) const fn n_bytes(&self) -> u64 {
        self.blob.n_bytes
    }

    pub(super) async fn all(mut self) -> Result<Vec<u8>, CloudError> {
        let n_bytes = self.blob.n_bytes;
        let size = usize::try_from(n_bytes).unwrap_or(usize::MAX);
        if size > VALUE_BYTES_MAX {
            return Err(CloudError::TooLarge {
                what: "the value that is to be read at once",
                bytes: n_bytes,
                bytes_max: VALUE_BYTES_MAX as u64,
            });
        }
        let mut all = Vec::with_capacity(size);
        while let Some(piece) = self.blob.bytes.next().await? {
            if all.len() + piece.len() > size {
                return Err(CloudError::Failed("the object did not end".to_owned()));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    pub(super) fn stream(self) -> Reading {
        Reading {
            piece: Bytes::new(),
            source: Source::Idle(self.blob.bytes),
            _room: self.room,
        }
    }
}

/// The stream of an `incoming-value`.
pub(super) struct Reading {
    piece: Bytes,
    source: Source,
    _room: OwnedSemaphorePermit,
}

enum Source {
    Idle(Box<dyn BlobSource>),
    /// Kept here and not in `ready`: a guest may stop waiting, and the piece is not lost.
    Busy(Pin<Box<dyn Future<Output = Read> + Send>>),
    Failed(CloudError),
    Ended,
}

type Read = (Box<dyn BlobSource>, Result<Option<Vec<u8>>, CloudError>);

impl Reading {
    /// Whether the guest has something to see: bytes, an error, the end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.piece.is_empty() {
            return Poll::Ready(());
        }
        if let Source::Idle(_) = self.source
            && let Source::Idle(mut source) = std::mem::replace(&mut self.source, Source::Ended)
        {
            self.source = Source::Busy(Box::pin(async move {
                let read = source.next().await;
                (source, read)
            }));
        }
        let Source::Busy(reading) = &mut self.source else {
            return Poll::Ready(());
        };
        let Poll::Ready((source, read)) = reading.as_mut().poll(context) else {
            return Poll::Pending;
        };
        self.source = match read {
            Ok(Some(piece)) => {
                self.piece = piece.into();
                Source::Idle(source)
            }
            Ok(None) => Source::Ended,
            Err(error) => Source::Failed(error),
        };
        Poll::Ready(())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Reading {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        // A guest that reads without waiting gets on, too.
        let _ = self.poll(&mut Context::from_waker(Waker::noop()));
        if !self.piece.is_empty() {
            return Ok(self.piece.split_to(size.min(self.piece.len())));
        }
        match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Failed(error) => {
                let error = wasmtime::Error::msg(error.to_string());
                Err(StreamError::LastOperationFailed(error))
            }
            Source::Ended => Err(StreamError::Closed),
            busy @ (Source::Idle(_) | Source::Busy(_)) => {
                self.source = busy;
                Ok(Bytes::new())
            }
        }
    }
}
