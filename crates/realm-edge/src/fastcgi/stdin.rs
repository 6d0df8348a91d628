//! The body of a request on its way from the records of a connection to who reads it: bounded, and as
//! long as was said. Not the records.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// What comes of a body.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Bytes),
    End,
}

/// Where a connection puts what comes of a body.
pub(super) type Sender = mpsc::Sender<Part>;

/// A body, of which no more is read than was said.
#[derive(Debug)]
pub(crate) struct Stdin {
    /// `None`: nothing comes.
    parts: Option<mpsc::Receiver<Part>>,
    /// Bytes that are still to come; `None`: until the end.
    left: Option<u64>,
    is_over: bool,
}

impl Stdin {
    /// A body of so many bytes, and where to put them: so many parts wait to be read. Times a read buffer
    /// this is what one request that reads nothing can make the edge hold; then its connection is read no
    /// further.
    pub(super) fn new(length: Option<u64>, parts_max: usize) -> (Sender, Self) {
        let (sender, parts) = mpsc::channel(parts_max.max(1));
        let stdin = Self {
            parts: Some(parts),
            left: length,
            is_over: length == Some(0),
        };
        (sender, stdin)
    }

    /// No body.
    pub(super) const fn none() -> Self {
        Self {
            parts: None,
            left: Some(0),
            is_over: true,
        }
    }

    fn take(&mut self, part: Option<Part>) -> Option<io::Result<Bytes>> {
        match part {
            Some(Part::Bytes(mut bytes)) => {
                if let Some(left) = &mut self.left {
                    // What comes behind the length that was said is nobody's (FastCGI 1.0, §6.2).
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    bytes.truncate(most);
                    *left -= u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    self.is_over = *left == 0;
                }
                Some(Ok(bytes))
            }
            Some(Part::End) => {
                self.is_over = true;
                let is_short = self.left.is_some_and(|left| left > 0);
                is_short.then(|| Err(io::ErrorKind::UnexpectedEof.into()))
            }
            // The connection ended before the body.
            None => {
                self.is_over = true;
                Some(Err(io::ErrorKind::ConnectionAborted.into()))
            }
        }
    }
}

impl Body for Stdin {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let is_over = self.is_over;
        let Some(parts) = self.parts.as_mut().filter(|_| !is_over) else {
            return Poll::Ready(None);
        };
        let polled = parts.poll_recv(context);
        polled.map(|part| {
            let taken = self.take(part);
            taken.map(|bytes| bytes.map(Frame::data))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
