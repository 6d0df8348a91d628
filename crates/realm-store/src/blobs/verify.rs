//! Hashing one blob on the disk, on a thread that may block. The file is not trusted: it may have
//! become anything, of any size.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use realm_model::digest::Digest;
use realm_model::lock::Pin;
use sha2::{Digest as _, Sha256};

use super::{BLOB_BYTES_MAX, BlobError, Found, Inner, READ_BYTES, io_error};
use crate::files::{Files, Handle};

/// Whoever waits for a hash; once it is dropped nobody does, and the thread ends.
pub(super) struct Waiting(Arc<AtomicBool>);

/// What the thread looks at.
pub(super) struct GivenUp(Arc<AtomicBool>);

/// Both ends.
pub(super) fn waiting() -> (Waiting, GivenUp) {
    let flag = Arc::new(AtomicBool::new(false));
    (Waiting(Arc::clone(&flag)), GivenUp(flag))
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Hashes what is kept under `digest`, to its end or to that of the largest blob.
pub(super) fn verify<F: Files>(
    inner: &Inner<F>,
    digest: Digest,
    pinned: Option<u64>,
    given_up: &GivenUp,
) -> Result<Pin, BlobError> {
    let path = inner.path(&digest);
    let damaged = |found| BlobError::Damaged {
        expected: digest,
        found,
    };
    let file = match inner.files.open_regular(&path) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(damaged(Found::NotAFile)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BlobError::Missing(digest));
        }
        Err(error) => return Err(io_error("open", &path, error)),
    };
    let bytes = file
        .size()
        .map_err(|error| io_error("look at", &path, error))?;
    if bytes > BLOB_BYTES_MAX {
        return Err(damaged(Found::TooLarge));
    }
    if let Some(pinned) = pinned
        && pinned != bytes
    {
        return Err(damaged(Found::Size { bytes, pinned }));
    }
    let hashed = hash(&file, given_up).map_err(|error| io_error("read", &path, error))?;
    match hashed {
        None => Err(damaged(Found::TooLarge)),
        Some(pin) if pin.digest != digest => Err(damaged(Found::Bytes(pin.digest))),
        Some(pin) => Ok(pin),
    }
}

/// `None` if more bytes come than any blob has: the file may grow while it is read.
fn hash<H: Handle>(file: &H, given_up: &GivenUp) -> io::Result<Option<Pin>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut size = 0;
    loop {
        if given_up.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it"));
        }
        match file.read_at(&mut buffer, size) {
            Ok(0) => {
                let digest = Digest::from_bytes(hasher.finalize().into());
                return Ok(Some(Pin { digest, size }));
            }
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if size > BLOB_BYTES_MAX {
            return Ok(None);
        }
    }
}
