//! Writing one blob, on a thread that may block. A writer that is dropped before
//! [`Writer::finish`] leaves nothing behind.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use realm_model::digest::Digest;
use realm_model::lock::Pin;
use sha2::{Digest as _, Sha256};

use super::{BLOB_BYTES_MAX, BlobError, Inner, io_error};
use crate::files::{Files, Handle, PRIVATE_MODE};

const TEMPORARY: &str = ".part";

/// Whether a file is what a put has left that never completed.
pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

pub(super) struct Writer<'a, F: Files> {
    inner: &'a Inner<F>,
    expected: Option<Digest>,
    bytes_max: u64,
    file: F::Handle,
    temporary: PathBuf,
    written: u64,
    hasher: Sha256,
    done: bool,
}

impl<'a, F: Files> Writer<'a, F> {
    pub(super) fn create(
        inner: &'a Inner<F>,
        expected: Option<Digest>,
        bytes_max: u64,
    ) -> Result<Self, BlobError> {
        let number = inner.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = inner.directory.join(format!("{number}{TEMPORARY}"));
        let file = inner
            .files
            .create_new(&temporary, PRIVATE_MODE)
            .map_err(|error| io_error("create", &temporary, error))?;
        Ok(Self {
            inner,
            expected,
            // Nobody could verify a larger one.
            bytes_max: bytes_max.min(BLOB_BYTES_MAX),
            file,
            temporary,
            written: 0,
            hasher: Sha256::new(),
            done: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let end = self.written.saturating_add(bytes.len() as u64);
        if end > self.bytes_max {
            return Err(BlobError::TooLarge {
                bytes_max: self.bytes_max,
            });
        }
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|error| io_error("write", &self.temporary, error))?;
        self.hasher.update(bytes);
        self.written = end;
        Ok(())
    }

    /// Makes the bytes durable, then gives them their name, then makes the name durable.
    pub(super) fn finish(mut self) -> Result<Pin, BlobError> {
        let got = Digest::from_bytes(self.hasher.finalize_reset().into());
        if let Some(expected) = self.expected
            && expected != got
        {
            return Err(BlobError::Mismatch { expected, got });
        }
        self.file
            .sync()
            .map_err(|error| io_error("sync", &self.temporary, error))?;
        let path = self.inner.path(&got);
        self.inner
            .files
            .rename(&self.temporary, &path)
            .map_err(|error| io_error("rename", &self.temporary, error))?;
        self.done = true;
        self.inner
            .files
            .sync_dir(&self.inner.directory)
            .map_err(|error| io_error("sync the folder of", &path, error))?;
        Ok(Pin {
            digest: got,
            size: self.written,
        })
    }
}

impl<F: Files> Drop for Writer<'_, F> {
    fn drop(&mut self) {
        if !self.done {
            // If this fails as well, the next open removes it.
            let _ = self.inner.files.remove(&self.temporary);
        }
    }
}
