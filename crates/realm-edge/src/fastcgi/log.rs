//! What a guest writes to its standard error, on its way to the log of the web server that asked. Not the
//! component's own log, which has all of it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use realm_model::text::printable;

/// Takes lines for the web server that asks: an extension of a request that came over FastCGI. What a
/// guest says on another node stays in the log there.
#[derive(Clone)]
pub struct GuestLog(Arc<Mutex<Lines>>);

struct Lines {
    /// What was not written yet.
    waiting: BytesMut,
    /// Bytes that are still taken.
    left: usize,
}

/// What is written where no more is taken.
const CUT: &[u8] = b"(more of it: realm logs)\n";

impl GuestLog {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            waiting: BytesMut::new(),
            left: bytes_max,
        })))
    }

    /// Takes a line without its newline. Web servers write what they get into their logs as it is: no
    /// byte of it moves a cursor there, or begins another line.
    pub fn line(&self, text: &str) {
        let text = printable(text);
        self.with(|lines| {
            if lines.left == 0 {
                return;
            }
            let Some(left) = lines.left.checked_sub(text.len() + 1) else {
                lines.left = 0;
                lines.waiting.extend_from_slice(CUT);
                return;
            };
            lines.left = left;
            lines.waiting.extend_from_slice(text.as_bytes());
            lines.waiting.extend_from_slice(b"\n");
        });
    }

    /// What came since the last time.
    pub(super) fn take(&self) -> BytesMut {
        self.with(|lines| lines.waiting.split())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Lines) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_made_harmless_and_are_no_more_than_is_taken() {
        let log = GuestLog::new(16);
        log.line("a\u{1b}[31mb");
        let first = log.take();
        assert!(
            first
                .iter()
                .all(|byte| *byte == b'\n' || !byte.is_ascii_control())
        );
        assert!(first.ends_with(b"b\n"), "{first:?}");
        log.line("0123456789");
        log.line("0");
        assert_eq!(log.take(), CUT);
        assert!(log.take().is_empty());
        let silent = GuestLog::new(0);
        silent.line("x");
        assert!(silent.take().is_empty());
    }
}
