//! Standard output and standard error on their way to a reader, through one buffer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use super::lock;

/// Bytes that a guest may be ahead of its reader: the largest write that runtimes make.
const PIPE_BYTES_MAX: usize = 64 * 1024;
/// Waits for room that are remembered; with more, all of them look again.
const WAITERS_MAX: usize = 64;

/// Looks at the first bytes of a stream, before the reader does.
pub(crate) type Filter = Box<dyn FnMut(&[u8]) -> Filtered + Send>;

/// Gets the reader's end.
pub(crate) type Opened = Box<dyn FnOnce(PipeReader) + Send>;

/// What a filter made of some bytes.
pub(crate) enum Filtered {
    /// It took them all, and wants more.
    Taken,
    /// It took so many and is done; the rest is for the reader, which it wants.
    Passed(usize, Opened),
    /// Nobody will read on.
    Broken,
}

/// How a pipe is used.
#[derive(Default)]
pub(crate) struct PipeOptions {
    /// Whether a flush waits until the reader is done with what was written before: so that the
    /// order among streams with the same reader stays.
    pub(crate) flush_waits: bool,
    pub(crate) terminal: bool,
}

/// Bytes on their way from a guest to a reader.
struct Pipe {
    state: Mutex<PipeState>,
    flush_waits: bool,
    terminal: bool,
}

struct PipeState {
    buffer: BytesMut,
    filter: Option<Filter>,
    flushing: bool,
    written_to_the_end: bool,
    reader: Reader,
    reading: Option<Waker>,
    writing: Vec<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Reads,
    /// It has all it wants; the guest may go on writing.
    Ignores,
    Gone,
}

/// A pipe's two ends.
pub(crate) fn pipe(options: &PipeOptions) -> (PipeWriter, PipeReader) {
    let pipe = Pipe::new(options, None);
    (PipeWriter(Arc::clone(&pipe)), PipeReader(pipe))
}

/// A pipe whose reader comes out of the filter.
pub(crate) fn filtered(filter: Filter) -> PipeWriter {
    PipeWriter(Pipe::new(&PipeOptions::default(), Some(filter)))
}

impl Pipe {
    fn new(options: &PipeOptions, filter: Option<Filter>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(PipeState {
                buffer: BytesMut::new(),
                filter,
                flushing: false,
                written_to_the_end: false,
                reader: Reader::Reads,
                reading: None,
                writing: Vec::new(),
            }),
            flush_waits: options.flush_waits,
            terminal: options.terminal,
        })
    }

    /// Bytes that may be written; `None`: nobody reads them.
    fn room(&self) -> Option<usize> {
        lock(&self.state).room()
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.room() != Some(0) {
            return Poll::Ready(());
        }
        state.wait(context.waker());
        Poll::Pending
    }

    /// At most what there is room for.
    fn push(self: &Arc<Self>, bytes: &[u8]) {
        let opened = lock(&self.state).push(bytes);
        if let Some(opened) = opened {
            opened(PipeReader(Arc::clone(self)));
        }
    }

    fn flush(&self) {
        let mut state = lock(&self.state);
        if self.flush_waits && state.reader == Reader::Reads {
            state.flushing = true;
            if let Some(reader) = state.reading.take() {
                reader.wake();
            }
        }
    }
}

impl PipeState {
    fn room(&self) -> Option<usize> {
        match self.reader {
            Reader::Gone => None,
            Reader::Ignores => Some(PIPE_BYTES_MAX),
            Reader::Reads if self.flushing => Some(0),
            Reader::Reads => Some(PIPE_BYTES_MAX.saturating_sub(self.buffer.len())),
        }
    }

    fn wait(&mut self, waker: &Waker) {
        if self.writing.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        if self.writing.len() >= WAITERS_MAX {
            self.wake_writers();
        }
        self.writing.push(waker.clone());
    }

    fn wake_writers(&mut self) {
        for writer in self.writing.drain(..) {
            writer.wake();
        }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Option<Opened> {
        let mut opened = None;
        if let Some(filter) = &mut self.filter {
            match filter(bytes) {
                Filtered::Taken => return None,
                Filtered::Passed(taken, to) => {
                    bytes = &bytes[taken..];
                    opened = Some(to);
                }
                Filtered::Broken => self.reader = Reader::Gone,
            }
            self.filter = None;
        }
        if self.reader == Reader::Reads && !bytes.is_empty() {
            self.buffer.extend_from_slice(bytes);
            if let Some(reader) = self.reading.take() {
                reader.wake();
            }
        }
        opened
    }
}

/// The guest's end: standard output or standard error. Its end is the end of the stream.
pub(crate) struct PipeWriter(Arc<Pipe>);

impl Drop for PipeWriter {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.written_to_the_end = true;
        if let Some(reader) = state.reading.take() {
            reader.wake();
        }
    }
}

impl IsTerminal for PipeWriter {
    fn is_terminal(&self) -> bool {
        self.0.terminal
    }
}

impl StdoutStream for PipeWriter {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Writer(Arc::clone(&self.0)))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Writer(Arc::clone(&self.0)))
    }
}

/// One of the guest's handles of a stream.
struct Writer(Arc<Pipe>);

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let room = self.0.room().ok_or(StreamError::Closed)?;
        if bytes.len() > room {
            // Many handles that each asked before any of them wrote: the host keeps one buffer.
            return Err(StreamError::trap("more was written than there is room for"));
        }
        self.0.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        self.0.room().ok_or(StreamError::Closed)?;
        self.0.flush();
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        self.0.room().ok_or(StreamError::Closed)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.0.poll_room(context)).await;
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.0.poll_room(context));
        let Some(room) = self.0.room() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let bytes = &bytes[..bytes.len().min(room)];
        self.0.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The next write waits, which keeps the order as well, and the end of the guest does.
        self.0.flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The host's end.
pub(crate) struct PipeReader(Arc<Pipe>);

impl PipeReader {
    /// The next bytes, whatever their number; `None`: there will be no more.
    ///
    /// Who asks is done with what it got before.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = lock(&self.0.state);
        if state.buffer.is_empty() {
            if state.flushing {
                state.flushing = false;
                state.wake_writers();
            }
            if state.written_to_the_end || state.reader != Reader::Reads {
                return Poll::Ready(None);
            }
            state.reading = Some(context.waker().clone());
            return Poll::Pending;
        }
        let bytes = state.buffer.split().freeze();
        if !state.flushing {
            state.wake_writers();
        }
        Poll::Ready(Some(bytes))
    }

    /// Wants no more, but lets the guest write on.
    pub(crate) fn ignore(&self) {
        self.stop(Reader::Ignores);
    }

    fn stop(&self, reader: Reader) {
        let mut state = lock(&self.0.state);
        if state.reader == Reader::Reads {
            state.reader = reader;
            state.buffer = BytesMut::new();
            state.flushing = false;
            state.wake_writers();
        }
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.stop(Reader::Gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    fn next(reader: &PipeReader) -> Option<Option<Bytes>> {
        std::future::poll_fn(|context| reader.poll_take(context)).now_or_never()
    }

    #[test]
    fn a_full_pipe_makes_the_writer_wait() {
        let (writer, reader) = pipe(&PipeOptions::default());
        let (mut one, mut other) = (writer.p2_stream(), writer.p2_stream());
        let full = Bytes::from(vec![7; PIPE_BYTES_MAX]);
        one.write(full.clone()).unwrap();
        assert_eq!(other.check_write().unwrap(), 0);
        assert!(other.ready().now_or_never().is_none());
        // Who writes all the same is no honest guest.
        assert!(matches!(other.write("x".into()), Err(StreamError::Trap(_))));
        assert_eq!(next(&reader), Some(Some(full)));
        assert!(other.ready().now_or_never().is_some());
        assert_eq!(next(&reader), None);
        drop(writer);
        assert_eq!(next(&reader), Some(None));
    }

    #[test]
    fn who_wants_no_more_stops_the_writer_or_lets_it_write() {
        let (writer, reader) = pipe(&PipeOptions::default());
        let mut stream = writer.p2_stream();
        reader.ignore();
        stream.write("nobody reads this".into()).unwrap();
        assert_eq!(stream.check_write().unwrap(), PIPE_BYTES_MAX);
        drop(reader);
        // The first word counts.
        assert!(stream.check_write().is_ok());
        let (writer, reader) = pipe(&PipeOptions::default());
        drop(reader);
        assert!(matches!(
            writer.p2_stream().check_write(),
            Err(StreamError::Closed)
        ));
    }

    #[test]
    fn a_flush_waits_where_it_is_to() {
        for flush_waits in [false, true] {
            let options = PipeOptions {
                flush_waits,
                ..PipeOptions::default()
            };
            let (writer, reader) = pipe(&options);
            let mut stream = writer.p2_stream();
            stream.write("first".into()).unwrap();
            stream.flush().unwrap();
            assert_eq!(stream.ready().now_or_never().is_none(), flush_waits);
            next(&reader).unwrap();
            // Taken, but not yet written by who took it.
            assert_eq!(stream.ready().now_or_never().is_none(), flush_waits);
            assert_eq!(next(&reader), None);
            assert!(stream.ready().now_or_never().is_some());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            writes in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40_000)), 0..12),
        ) {
            let (writer, reader) = pipe(&PipeOptions::default());
            let mut stream = writer.p2_stream();
            let (mut written, mut read) = (Vec::new(), Vec::new());
            for (takes, bytes) in writes {
                let room = stream.check_write().unwrap();
                let bytes = &bytes[..bytes.len().min(room)];
                stream.write(Bytes::copy_from_slice(bytes)).unwrap();
                written.extend_from_slice(bytes);
                if takes && let Some(bytes) = next(&reader) {
                    read.extend(bytes.unwrap());
                }
                prop_assert!(written.len() - read.len() <= PIPE_BYTES_MAX);
            }
            drop((stream, writer));
            while let Some(Some(bytes)) = next(&reader) {
                read.extend(bytes);
            }
            prop_assert_eq!(written, read);
        }
    }
}
