//! What a folder takes: counted along the way, of what everybody sees and of what nobody sees yet.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use realm_model::cloud::limits::{CONTAINER_OVERHEAD_BYTES, OBJECT_OVERHEAD_BYTES};

use super::{create_file, found};

/// What all that is visible takes, once somebody asked. Who changes something holds this for reading
/// until it is counted: who counts anew waits for them, and they for it.
#[derive(Default)]
pub(super) struct Usage(pub(super) Option<AtomicU64>);

impl Usage {
    pub(super) fn changed(&self, added: u64, taken: u64) {
        if let Some(n_bytes) = &self.0 {
            n_bytes.fetch_add(added, Ordering::Relaxed);
            n_bytes.fetch_sub(taken, Ordering::Relaxed);
        }
    }
}

#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    pub(super) n_bytes: u64,
    pub(super) n_objects: u64,
}

impl Counted {
    pub(super) const fn used(self) -> u64 {
        self.n_bytes + self.n_objects * OBJECT_OVERHEAD_BYTES + CONTAINER_OVERHEAD_BYTES
    }
}

/// What a change adds, or takes: an object's size, if there is an object.
pub(super) type Size = Option<u64>;

pub(super) fn count(objects: &Path) -> io::Result<Counted> {
    let mut counted = Counted::default();
    for entry in fs::read_dir(objects)? {
        // `DirEntry` does not follow links.
        if let Some(metadata) = found(entry?.metadata())?
            && metadata.is_file()
        {
            counted.n_bytes += metadata.len();
            counted.n_objects += 1;
        }
    }
    Ok(counted)
}

/// A file that nobody sees, which goes unless it is committed.
pub(super) struct Temporary {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Of the object, as far as its source gave it.
    pub(super) n_bytes: u64,
    n_written: u64,
    written: Arc<AtomicU64>,
    pub(super) is_done: bool,
}

impl Temporary {
    pub(super) fn create(path: PathBuf, written: &Arc<AtomicU64>) -> io::Result<Self> {
        Ok(Self {
            file: create_file(&path)?,
            path,
            n_bytes: 0,
            n_written: 0,
            written: Arc::clone(written),
            is_done: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.n_written += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Counted before: the system may do all of it at once.
    pub(super) fn copy(&mut self, from: &mut File, size: u64) -> io::Result<u64> {
        self.written.fetch_add(size, Ordering::Relaxed);
        self.n_written += size;
        io::copy(&mut from.take(size), &mut self.file)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.written.fetch_sub(self.n_written, Ordering::Relaxed);
        if !self.is_done {
            let _ = fs::remove_file(&self.path);
        }
    }
}
