//! The socket as hyper sees it: notes what moves, and puts a coded refusal in the place of the
//! bare one that hyper sends where it cannot parse a head.
//!
//! Not a buffer: bytes pass through.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{Connection, Ending};
use crate::refusal;
use crate::wire::Stream;

/// The first bytes of an HTTP/2 connection (RFC 9113 §3.4); no HTTP/1 method begins so.
const HTTP2_PREFACE_START: [u8; 4] = *b"PRI ";

/// A client's socket.
pub(crate) struct Socket {
    /// `None` only while dropping.
    stream: Option<Stream>,
    connection: Arc<Connection>,
    /// What was read to tell the protocols apart, and how much of it hyper has seen.
    start: [u8; HTTP2_PREFACE_START.len()],
    start_read: usize,
    start_given: usize,
    /// A refusal of ours that replaces hyper's, and how much of it is written.
    refusal: Option<(&'static [u8], usize)>,
}

impl Socket {
    pub(crate) fn new(stream: Stream, connection: Arc<Connection>) -> Self {
        Self {
            stream: Some(stream),
            connection,
            start: [0; HTTP2_PREFACE_START.len()],
            start_read: 0,
            start_given: 0,
            refusal: None,
        }
    }

    /// Reads until it is clear whether the client speaks HTTP/2.
    pub(crate) fn poll_is_http2(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let read = &self.start[..self.start_read];
            if !HTTP2_PREFACE_START.starts_with(read) {
                return Poll::Ready(Ok(false));
            }
            if self.start_read == self.start.len() {
                self.connection.mark_http2();
                return Poll::Ready(Ok(true));
            }
            let mut start = self.start;
            let mut buffer = ReadBuf::new(&mut start[self.start_read..]);
            ready!(self.stream().poll_read(context, &mut buffer))?;
            let count = buffer.filled().len();
            self.start = start;
            if count == 0 {
                return Poll::Ready(Ok(false));
            }
            self.start_read += count;
            self.connection.saw_read();
        }
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("it is taken by drop alone"))
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        self.connection.saw_write(result.is_pending());
    }

    /// Whether `bytes` are an answer that hyper made up. They are swallowed whole when ours is
    /// written.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        if !self.connection.is_hypers_output() {
            return false;
        }
        let Some(refusal) = refusal::for_hypers_answer(bytes) else {
            return false;
        };
        self.connection.end_with(Ending::Linger);
        self.refusal = Some((refusal, 0));
        true
    }

    fn poll_refusal(
        &mut self,
        context: &mut Context<'_>,
        swallowed: usize,
    ) -> Poll<io::Result<usize>> {
        while let Some((bytes, written)) = self.refusal
            && written < bytes.len()
        {
            let result = self.stream().poll_write(context, &bytes[written..]);
            self.wrote(&result);
            let count = ready!(result)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal = Some((bytes, written + count));
        }
        Poll::Ready(Ok(swallowed))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.start_given < self.start_read {
            let rest = &self.start[self.start_given..self.start_read];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            self.start_given += count;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(self.stream().poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.connection.saw_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return self.poll_refusal(context, bytes.len());
        }
        let result = self.stream().poll_write(context, bytes);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.first().map_or(&[][..], |slice| slice);
        if self.replaces(first) {
            let swallowed = slices.iter().map(|slice| slice.len()).sum();
            return self.poll_refusal(context, swallowed);
        }
        let result = self.stream().poll_write_vectored(context, slices);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.saw_flush();
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.connection.return_socket(stream);
        }
    }
}
