//! Standard input: pieces from somewhere, read when the guest asks.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError};

use super::lock;

/// Bytes that are read ahead from a file or a terminal.
const READ_BYTES_MAX: usize = 16 * 1024;

/// Where standard input comes from.
pub(crate) type Source = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Standard input.
#[derive(Clone)]
pub(crate) struct Stdin {
    state: Arc<Mutex<StdinState>>,
    terminal: bool,
}

struct StdinState {
    source: Source,
    chunk: Bytes,
    ended: bool,
    error: Option<io::Error>,
}

impl Stdin {
    pub(crate) fn new(source: Source, terminal: bool) -> Self {
        Self {
            state: Arc::new(Mutex::new(StdinState {
                source,
                chunk: Bytes::new(),
                ended: false,
                error: None,
            })),
            terminal,
        }
    }

    pub(crate) fn reading(reader: Box<dyn AsyncRead + Send + Unpin>, terminal: bool) -> Self {
        Self::new(Box::pin(Reading(reader)), terminal)
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        while state.chunk.is_empty() && !state.ended {
            match ready!(state.source.as_mut().poll_next(context)) {
                Some(Ok(chunk)) => state.chunk = chunk,
                Some(Err(error)) => {
                    state.ended = true;
                    state.error = Some(error);
                }
                None => state.ended = true,
            }
        }
        Poll::Ready(())
    }

    /// `Ok(None)`: nothing is there yet.
    fn take(&self, bytes_max: usize) -> Result<Option<Bytes>, Option<io::Error>> {
        let mut state = lock(&self.state);
        if !state.chunk.is_empty() {
            let bytes = state.chunk.len().min(bytes_max);
            return Ok(Some(state.chunk.split_to(bytes)));
        }
        if state.ended {
            return Err(state.error.take());
        }
        Ok(None)
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        match self.take(size) {
            Ok(bytes) => Ok(bytes.unwrap_or_default()),
            Err(Some(error)) => Err(StreamError::LastOperationFailed(error.into())),
            Err(None) => Err(StreamError::Closed),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.poll_ready(context)).await;
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(context));
        match self.take(buffer.remaining()) {
            Ok(bytes) => buffer.put_slice(&bytes.unwrap_or_default()),
            Err(Some(error)) => return Poll::Ready(Err(error)),
            Err(None) => {}
        }
        Poll::Ready(Ok(()))
    }
}

/// A reader as pieces.
struct Reading(Box<dyn AsyncRead + Send + Unpin>);

impl Stream for Reading {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let mut space = vec![0; READ_BYTES_MAX];
        let mut buffer = ReadBuf::new(&mut space);
        match ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer)) {
            Ok(()) => {
                let read = buffer.filled().len();
                space.truncate(read);
                Poll::Ready((read > 0).then(|| Ok(space.into())))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn standard_input_is_one_stream_however_often_it_is_opened() {
        let pieces = [Ok("abc".into()), Ok(Bytes::new()), Ok("de".into())];
        let stdin = Stdin::new(Box::pin(futures_util::stream::iter(pieces)), false);
        let (mut one, mut other) = (stdin.p2_stream(), stdin.p2_stream());
        assert_eq!(one.read(2).unwrap(), "");
        let mut read = Vec::new();
        for turn in 0..4 {
            let stream = if turn % 2 == 0 { &mut one } else { &mut other };
            match stream.blocking_read(2).now_or_never().unwrap() {
                Ok(bytes) => read.push(bytes),
                Err(error) => assert!(matches!(error, StreamError::Closed)),
            }
        }
        assert_eq!(read, ["ab", "c", "de"]);
    }

    #[test]
    fn a_broken_input_says_so_once() {
        let pieces = [Err(io::Error::other("cut off"))];
        let stdin = Stdin::new(Box::pin(futures_util::stream::iter(pieces)), false);
        let mut stream = stdin.p2_stream();
        let mut read = || stream.blocking_read(1).now_or_never().unwrap().unwrap_err();
        assert!(matches!(read(), StreamError::LastOperationFailed(_)));
        assert!(matches!(read(), StreamError::Closed));
    }
}
