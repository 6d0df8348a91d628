//! How often the agent was started, durably: what orders this node's records with those of its
//! earlier starts. A file that is gone is no harm: the others say which epoch they have seen.

use std::io;
use std::path::PathBuf;

use realm_store::folder::{read_small, write_atomic};

/// A number in decimal and a newline.
const FILE_BYTES_MAX: u64 = 32;

/// The counter of starts.
#[derive(Debug)]
pub(crate) struct Epochs {
    path: PathBuf,
    last: u64,
}

impl Epochs {
    /// Reads the counter; one that does not read is 0.
    pub(crate) fn open(path: PathBuf) -> Self {
        let read = read_small(&path, FILE_BYTES_MAX).ok();
        let text = read.and_then(|bytes| String::from_utf8(bytes).ok());
        let last = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { path, last }
    }

    /// The next epoch, at least `at_least`; durable when this returns.
    pub(crate) fn next(&mut self, at_least: u64) -> io::Result<u64> {
        let next = self.last.saturating_add(1).max(at_least);
        write_atomic(&self.path, format!("{next}\n").as_bytes())
            .map_err(|error| io::Error::other(crate::error::with_causes(&error)))?;
        self.last = next;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_never_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("epoch");
        let mut epochs = Epochs::open(path.clone());
        assert_eq!(epochs.next(0).unwrap(), 1);
        assert_eq!(epochs.next(0).unwrap(), 2);
        assert_eq!(epochs.next(40).unwrap(), 40);
        assert_eq!(Epochs::open(path.clone()).next(7).unwrap(), 41);
        std::fs::write(&path, "what").unwrap();
        assert_eq!(Epochs::open(path).next(42).unwrap(), 42);
        let lost = Epochs::open(folder.path().join("no/such/folder")).next(0);
        assert!(lost.is_err(), "an epoch that is not durable is none");
    }
}
