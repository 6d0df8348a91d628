//! The bytes between here and a server, of which no message is larger than a row may be.
//!
//! The client collects a message before anybody looks at it, and a message may say that it has 2 GB: a
//! guest that asks for such a row would take the memory of the node.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use realm_model::cloud::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Bytes of a message: a row, and what is around its values.
const MESSAGE_BYTES_MAX: u32 = limits::ROW_BYTES_MAX as u32 + 64 * 1024;

/// A message begins with its kind, and its length with these four bytes.
const HEAD_BYTES: usize = 5;

/// A connection of bytes.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One that ends at the first message that is too large.
pub(super) struct Framed {
    wire: Wire,
    frames: Frames,
    too_large: Arc<AtomicBool>,
}

impl Framed {
    /// `too_large` is set when that was why it ended.
    pub(super) fn new(wire: Wire, too_large: Arc<AtomicBool>) -> Self {
        Self {
            wire,
            frames: Frames::default(),
            too_large,
        }
    }
}

/// Where in the messages a stream is.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    n_head: usize,
    /// Bytes that are left of a message.
    n_left: u32,
}

impl Frames {
    /// Follows some bytes: `false` if a message is too large, or no message.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.n_left > 0 {
                let n = bytes.len().min(self.n_left as usize);
                self.n_left -= u32::try_from(n).unwrap_or(self.n_left);
                bytes = &bytes[n..];
                continue;
            }
            self.head[self.n_head] = bytes[0];
            self.n_head += 1;
            bytes = &bytes[1..];
            if self.n_head == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                let length = u32::from_be_bytes(length);
                if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
                    return false;
                }
                self.n_left = length - 4;
                self.n_head = 0;
            }
        }
        true
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.wire).poll_read(cx, buffer))?;
        if self.frames.follow(&buffer.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        self.too_large.store(true, Ordering::Relaxed);
        let why = "the server sent a message that is too large";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)))
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, length: u32, n_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![0xFF; n_bytes]);
        bytes
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let bytes = [
            message(b'D', 4, 0),
            message(b'D', 10, 6),
            message(b'Z', 5, 1),
            message(b'D', 1_000, 996),
        ]
        .concat();
        for n in 1..bytes.len() {
            let mut frames = Frames::default();
            assert!(bytes.chunks(n).all(|piece| frames.follow(piece)), "{n}");
            assert_eq!((frames.n_left, frames.n_head), (0, 0), "{n}");
        }
    }

    #[test]
    fn what_is_too_large_is_known_by_its_head() {
        for length in [0, 3, MESSAGE_BYTES_MAX + 1, u32::MAX] {
            let bytes = [message(b'D', 4, 0), message(b'D', length, 0)].concat();
            assert!(!Frames::default().follow(&bytes), "{length}");
        }
        assert!(Frames::default().follow(&message(b'D', MESSAGE_BYTES_MAX, 10)));
    }
}
