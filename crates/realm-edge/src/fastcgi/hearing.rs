//! The end of a connection at which a web server is heard: what it says, and whether it is gone while nobody
//! reads that. Not what it says.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, Interest, ReadBuf, ReadHalf, Ready};
use tokio::net::{tcp, unix};

/// Where a web server is heard.
pub(crate) trait Hearing: AsyncRead + Send + Sync + Unpin {
    /// Whether the other end has closed the connection, though there may be bytes that were not read. Where
    /// more of them are on their way than the system takes, that is not seen before they are.
    fn is_gone(&self) -> bool;
}

/// Whether the system has told that nothing comes behind what there is to read.
fn is_over(ready: impl Future<Output = io::Result<Ready>>) -> bool {
    let ready = pin!(ready).poll(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

impl Hearing for tcp::OwnedReadHalf {
    fn is_gone(&self) -> bool {
        is_over(self.ready(Interest::READABLE))
    }
}

impl Hearing for unix::OwnedReadHalf {
    fn is_gone(&self) -> bool {
        is_over(self.ready(Interest::READABLE))
    }
}

/// A stream that is no socket: whether its other end is gone is not seen.
pub(crate) struct Through<S>(pub(crate) ReadHalf<S>);

impl<S: AsyncRead + Unpin> AsyncRead for Through<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + Send + Sync + Unpin> Hearing for Through<S> {
    fn is_gone(&self) -> bool {
        false
    }
}
