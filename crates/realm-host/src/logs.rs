//! From a guest's stdout and stderr to lines that a terminal can show.
//!
//! Splits at newlines, cuts lines at [`LINE_BYTES_MAX`], and makes everything printable, so that
//! no guest can move a cursor, hide text or forge another line in `realm logs`. Not the ring that
//! keeps the lines.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use realm_model::api::LogStream;
use realm_model::text::{printable, start_of};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

/// A line longer than this is cut into several: a guest that never writes a newline holds no more
/// of the host's memory than this per stream.
pub(crate) const LINE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of realm's own words about one event: a trap's reason with its backtrace.
const WORDS_BYTES_MAX: usize = 2 * 1024;

/// Bytes that one write may carry.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// Where the lines of a component go.
///
/// Called from guests' tasks: it must not block.
pub trait LogSink: Send + Sync {
    /// One line without its newline, printable, at most 8 KiB before escaping.
    fn line(&self, slot: u32, stream: LogStream, text: String);
}

/// Who hears beside the log what a guest writes in one invocation: an extension of its request.
#[derive(Clone)]
pub struct Ear(pub Arc<dyn LogSink>);

/// A log, and who hears of it as well in the invocation that is under way.
pub(crate) struct Both {
    log: Arc<dyn LogSink>,
    ear: Mutex<Option<Ear>>,
}

impl Both {
    pub(crate) fn new(log: &Arc<dyn LogSink>, ear: Option<&Ear>) -> Arc<Self> {
        Arc::new(Self {
            log: Arc::clone(log),
            ear: Mutex::new(ear.cloned()),
        })
    }

    /// Another invocation is under way.
    pub(crate) fn renew(&self, ear: Option<&Ear>) {
        *self.ear.lock().unwrap_or_else(PoisonError::into_inner) = ear.cloned();
    }
}

impl LogSink for Both {
    fn line(&self, slot: u32, stream: LogStream, text: String) {
        let ear = self.ear.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ear(ear)) = &*ear {
            ear.line(slot, stream, text.clone());
        }
        drop(ear);
        self.log.line(slot, stream, text);
    }
}

/// Splits bytes into lines.
struct Lines {
    sink: Arc<dyn LogSink>,
    slot: u32,
    stream: LogStream,
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8]) {
        while let Some(newline) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..newline]);
            self.emit();
            bytes = &bytes[newline + 1..];
        }
        self.extend(bytes);
    }

    fn extend(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > LINE_BYTES_MAX {
            let (head, tail) = bytes.split_at(LINE_BYTES_MAX - self.partial.len());
            self.partial.extend_from_slice(head);
            self.emit();
            bytes = tail;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn emit(&mut self) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        let line = String::from_utf8_lossy(line);
        let line = printable(&line).into_owned();
        self.sink.line(self.slot, self.stream, line);
        self.partial.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.emit();
        }
    }
}

/// realm's own words about a guest, in the component's log: cut, printable, a line per line.
///
/// What a guest has a say in (an error's text, the host it asked for) has no other way out.
pub(crate) fn say(sink: &dyn LogSink, slot: u32, words: impl Display) {
    for line in start_of(words, WORDS_BYTES_MAX).lines() {
        sink.line(slot, LogStream::Agent, printable(line).into_owned());
    }
}

/// A guest's stdout or stderr. The buffer is made when the guest first writes.
pub(crate) struct Output {
    sink: Arc<dyn LogSink>,
    slot: u32,
    stream: LogStream,
    lines: OnceLock<Arc<Mutex<Lines>>>,
}

impl Output {
    pub(crate) fn new(sink: Arc<dyn LogSink>, slot: u32, stream: LogStream) -> Self {
        Self {
            sink,
            slot,
            stream,
            lines: OnceLock::new(),
        }
    }

    fn writer(&self) -> Writer {
        let lines = self.lines.get_or_init(|| {
            Arc::new(Mutex::new(Lines {
                sink: Arc::clone(&self.sink),
                slot: self.slot,
                stream: self.stream,
                partial: Vec::new(),
            }))
        });
        Writer(Arc::clone(lines))
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.writer())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.writer())
    }
}

struct Writer(Arc<Mutex<Lines>>);

impl Writer {
    fn push(&self, bytes: &[u8]) {
        // A sink that panicked once must not take the next line down with it.
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
    }
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Kept(Mutex<Vec<String>>);

    impl LogSink for Kept {
        fn line(&self, _: u32, _: LogStream, text: String) {
            self.0.lock().unwrap().push(text);
        }
    }

    #[track_caller]
    fn check(writes: &[&[u8]], expected: &[&str]) {
        let sink = Arc::new(Kept(Mutex::default()));
        let output = Output::new(sink.clone(), 0, LogStream::Stdout);
        for bytes in writes {
            output.writer().push(bytes);
        }
        drop(output);
        assert_eq!(*sink.0.lock().unwrap(), expected);
    }

    #[test]
    fn writes_become_lines() {
        check(&[b"a\nb", b"c\r\n", b"\n"], &["a", "bc", ""]);
        check(&[b"no newline"], &["no newline"]);
        check(&[], &[]);
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; LINE_BYTES_MAX * 2 + 1];
        let full = "x".repeat(LINE_BYTES_MAX);
        check(&[&long], &[&full, &full, "x"]);
        check(&[&long[..LINE_BYTES_MAX], b"\n"], &[&full]);
    }

    #[test]
    fn nothing_unprintable_gets_through() {
        check(&[b"\x1b[2Jx\ty\0\n"], &["\\u{1b}[2Jx\ty\\u{0}"]);
        check(
            &["\u{202e}evil\u{2028}\n".as_bytes()],
            &["\\u{202e}evil\\u{2028}"],
        );
        check(&[b"\xff\xfe\n"], &["\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn own_words_are_short_printable_lines() {
        let sink = Kept(Mutex::default());
        say(&sink, 0, format_args!("trap: {}\nat \u{1b}[2J", 1));
        say(&sink, 0, "ä".repeat(1_000_000));
        say(&sink, 0, "");
        let lines = sink.0.lock().unwrap();
        assert_eq!(lines[..2], ["trap: 1", "at \\u{1b}[2J"]);
        assert_eq!((lines.len(), lines[2].len()), (3, WORDS_BYTES_MAX));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_bounded_printable_lines(writes: Vec<Vec<u8>>) {
            let sink = Arc::new(Kept(Mutex::default()));
            let output = Output::new(sink.clone(), 0, LogStream::Stderr);
            for bytes in &writes {
                output.writer().push(bytes);
            }
            drop(output);
            for line in sink.0.lock().unwrap().iter() {
                assert!(!line.contains(realm_model::text::is_unprintable));
                // A byte becomes at most a replacement character or `\u{7f}`.
                assert!(line.len() <= LINE_BYTES_MAX * 6);
            }
        }
    }
}
