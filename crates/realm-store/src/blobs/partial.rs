//! Downloads that stopped half-way, kept to be resumed: `partial/DIGEST` below the blobs, the
//! bytes from the first one on.
//!
//! Nothing vouches for these bytes before they are whole and have their digest; only then do they
//! get their name among the blobs. They are not synced until then: a loss of power costs a
//! download, never a wrong blob. Their number and size are bounded. Not here: where bytes come from.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use realm_model::digest::Digest;
use realm_model::lock::Pin;
use sha2::{Digest as _, Sha256};

use tokio::sync::futures::Notified;
use tokio::task::spawn_blocking;

use super::{BLOB_BYTES_MAX, BlobError, Blobs, Inner, READ_BYTES, io_error, join};
use crate::files::{self, Files, Handle, PRIVATE_MODE};

/// The folder's name.
const FOLDER: &str = "partial";
/// Partial downloads that are kept: a node fetches a few components at a time, and those that it
/// wants no longer are removed by [`Blobs::keep_partials`].
pub const PARTIALS_MAX: usize = 16;
/// Bytes of all of them: four of the largest components.
pub const PARTIAL_BYTES_MAX: u64 = 4 * BLOB_BYTES_MAX;
/// What is given back of a download that filled the disk: the log and the marks need room to say
/// that it is not wanted any longer.
const GIVEN_BACK_BYTES: u64 = 4 * 1024 * 1024;

/// A download in progress; dropped, it stays to be resumed. One at a time has a digest.
pub(crate) struct Partial<F: Files> {
    inner: Arc<Inner<F>>,
    pin: Pin,
    file: F::Handle,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
}

impl<F: Files> Blobs<F> {
    /// Removes the partial downloads of everything but these digests, and of those that are
    /// being made: what nobody wants any longer. Returns how many.
    pub async fn keep_partials(&self, wanted: BTreeSet<Digest>) -> Result<usize, BlobError> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let all = inner.partials()?;
            let mut stale: Vec<_> = all.into_iter().map(|(digest, _)| digest).collect();
            stale.retain(|digest| !wanted.contains(digest));
            inner.remove_partials(&stale)
        };
        join(spawn_blocking(work).await)
    }

    /// Begins or resumes the download of a pin. `None`: another one of the same digest runs.
    pub(crate) async fn resume(&self, pin: Pin) -> Result<Option<Partial<F>>, BlobError> {
        let inner = Arc::clone(&self.inner);
        join(spawn_blocking(move || Partial::open(inner, pin)).await)
    }
}

impl<F: Files> Blobs<F> {
    /// The bytes that a download has which is under way, from whomever they come; nothing vouches for
    /// them.
    pub fn downloading(&self, digest: &Digest) -> Option<u64> {
        self.inner.downloads().get(digest).copied()
    }

    /// Ends when any download ends from here on.
    pub(crate) fn download_ended(&self) -> Notified<'_> {
        self.inner.download_ended.notified()
    }
}

impl<F: Files> Inner<F> {
    /// Makes the folder; removes in it what is no partial download, what is a blob by now, and
    /// what is too much.
    pub(super) fn open_partials(&self) -> Result<(), BlobError> {
        let folder = self.directory.join(FOLDER);
        self.files
            .create_dir(&folder)
            .map_err(|error| io_error("create the folder of", &folder, error))?;
        let names = self.files.names(&folder);
        let names = names.map_err(|error| io_error("list the folder of", &folder, error))?;
        for name in names {
            let digest = format!("sha256:{name}").parse::<Digest>();
            if digest.is_err() || digest.is_ok_and(|digest| self.files.is_file(&self.path(&digest)))
            {
                let path = folder.join(name);
                self.files
                    .remove(&path)
                    .map_err(|error| io_error("remove what is left of", &path, error))?;
            }
        }
        self.bound_partials(PARTIALS_MAX)
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(FOLDER).join(digest.hex())
    }

    /// Digest and size of each, the smallest first: the least is lost with it.
    fn partials(&self) -> Result<Vec<(Digest, u64)>, BlobError> {
        let folder = self.directory.join(FOLDER);
        let names = self.files.names(&folder);
        let names = names.map_err(|error| io_error("list the folder of", &folder, error))?;
        let mut partials = Vec::new();
        for name in names {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                continue;
            };
            let path = folder.join(name);
            let size = match self.files.open_regular(&path) {
                Ok(Some(file)) => file.size(),
                Ok(None) => Ok(0),
                // Another thread completed or removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err(error),
            };
            partials.push((
                digest,
                size.map_err(|error| io_error("look at", &path, error))?,
            ));
        }
        partials.sort_by_key(|(digest, size)| (*size, *digest));
        Ok(partials)
    }

    /// Removes the smallest until at most `partials_max` are there, with few enough bytes.
    fn bound_partials(&self, partials_max: usize) -> Result<(), BlobError> {
        let partials = self.partials()?;
        let mut number = partials.len();
        let mut bytes: u64 = partials.iter().map(|(_, size)| size).sum();
        let mut excess = Vec::new();
        for (digest, size) in partials {
            if number <= partials_max && bytes <= PARTIAL_BYTES_MAX {
                break;
            }
            number -= 1;
            bytes -= size;
            excess.push(digest);
        }
        self.remove_partials(&excess).map(drop)
    }

    fn remove_partials(&self, digests: &[Digest]) -> Result<usize, BlobError> {
        let downloads = self.downloads();
        let mut removed = 0;
        for digest in digests
            .iter()
            .filter(|digest| !downloads.contains_key(digest))
        {
            let path = self.partial_path(digest);
            match self.files.remove(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &path, error)),
            }
        }
        Ok(removed)
    }

    fn downloads(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, u64>> {
        // Single entries come and go under the lock: a panic cannot leave half of one.
        self.downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Files> Partial<F> {
    fn open(inner: Arc<Inner<F>>, pin: Pin) -> Result<Option<Self>, BlobError> {
        // One less: there is room for this one.
        inner.bound_partials(PARTIALS_MAX - 1)?;
        match inner.downloads().entry(pin.digest) {
            Entry::Occupied(_) => return Ok(None),
            Entry::Vacant(entry) => entry.insert(0),
        };
        let path = inner.partial_path(&pin.digest);
        let opened = match inner.files.open_regular(&path) {
            Ok(Some(_)) => inner.files.open(&path),
            // What is no file is none of ours.
            Ok(None) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                inner.files.create_new(&path, PRIVATE_MODE)
            }
            Err(error) => Err(error),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                inner.downloads().remove(&pin.digest);
                return Err(io_error("open", &path, error));
            }
        };
        let mut partial = Self {
            inner,
            pin,
            file,
            path,
            hasher: Sha256::new(),
            size: 0,
        };
        partial.read()?;
        Ok(Some(partial))
    }

    /// Hashes what is there already.
    fn read(&mut self) -> Result<(), BlobError> {
        let failed = |operation, path: &PathBuf, error| io_error(operation, path, error);
        let size = self.file.size();
        let size = size.map_err(|error| failed("look at", &self.path, error))?;
        if size > self.pin.size || size > BLOB_BYTES_MAX {
            return self.restart();
        }
        let mut buffer = vec![0; READ_BYTES];
        while self.size < size {
            match self.file.read_at(&mut buffer, self.size) {
                Ok(0) => break,
                Ok(read) => {
                    self.hasher.update(&buffer[..read]);
                    self.size += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &self.path, error)),
            }
        }
        self.tell();
        Ok(())
    }

    /// Bytes so far.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The digest of the bytes so far.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }

    /// Adds bytes; more than the pin has are refused.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let end = self.size.saturating_add(bytes.len() as u64);
        let bytes_max = self.pin.size.min(BLOB_BYTES_MAX);
        if end > bytes_max {
            return Err(BlobError::TooLarge { bytes_max });
        }
        if let Err(error) = self.file.write_all_at(bytes, self.size) {
            if files::is_disk_full(&error) {
                // If this fails as well, so does whatever needs the room.
                let _ = self
                    .file
                    .set_size(self.size.saturating_sub(GIVEN_BACK_BYTES));
            }
            return Err(io_error("write", &self.path, error));
        }
        self.hasher.update(bytes);
        self.size = end;
        self.tell();
        Ok(())
    }

    /// Lets others see how many there are.
    fn tell(&self) {
        if let Some(bytes) = self.inner.downloads().get_mut(&self.pin.digest) {
            *bytes = self.size;
        }
    }

    /// Forgets the bytes so far.
    pub(crate) fn restart(&mut self) -> Result<(), BlobError> {
        (self.hasher, self.size) = (Sha256::new(), 0);
        self.tell();
        self.file
            .set_size(0)
            .map_err(|error| io_error("cut", &self.path, error))
    }

    /// Makes the bytes a blob if they are the right ones; else says what they are.
    pub(crate) fn finish(&mut self) -> Result<(), BlobError> {
        let (expected, got) = (self.pin.digest, self.digest());
        if got != expected {
            return Err(BlobError::Mismatch { expected, got });
        }
        self.file
            .sync()
            .map_err(|error| io_error("sync", &self.path, error))?;
        let path = self.inner.path(&expected);
        let files = &self.inner.files;
        files
            .rename(&self.path, &path)
            .map_err(|error| io_error("rename", &self.path, error))?;
        files
            .sync_dir(&self.inner.directory)
            .map_err(|error| io_error("sync the folder of", &path, error))
    }

    /// Removes what is left of a download that leads nowhere.
    pub(crate) fn remove(&mut self) -> Result<(), BlobError> {
        match self.inner.files.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &self.path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl<F: Files> Drop for Partial<F> {
    fn drop(&mut self) {
        self.inner.downloads().remove(&self.pin.digest);
        self.inner.download_ended.notify_waiters();
    }
}
