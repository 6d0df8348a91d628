//! What an application says for the log, line by line, made safe to show.

use std::sync::Arc;

use realm_model::text::one_line;

/// Characters of a line that are shown.
const LINE_CHARS_MAX: usize = 4 * 1024;
/// Bytes of a line that are waited for.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Where lines of an application go.
pub trait Remarks: Send + Sync + 'static {
    /// One line, printable.
    fn line(&self, text: String);
}

/// What one request says.
pub(super) struct Listener {
    to: Arc<dyn Remarks>,
    partial: Vec<u8>,
    left: usize,
}

impl Listener {
    /// Of at most so many bytes.
    pub(super) fn new(to: Arc<dyn Remarks>, bytes_max: usize) -> Self {
        Self {
            to,
            partial: Vec::new(),
            left: bytes_max,
        }
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if self.left == 0 {
            return;
        }
        let taken = &bytes[..bytes.len().min(self.left)];
        self.left -= taken.len();
        for byte in taken {
            if *byte == b'\n' || self.partial.len() >= LINE_BYTES_MAX {
                self.flush();
            }
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
        }
        if self.left == 0 {
            self.flush();
            self.to
                .line("it says more of this request than is kept".to_owned());
        }
    }

    fn flush(&mut self) {
        let line = one_line(&String::from_utf8_lossy(&self.partial), LINE_CHARS_MAX);
        self.partial.clear();
        if !line.is_empty() {
            self.to.line(line);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.flush();
    }
}
