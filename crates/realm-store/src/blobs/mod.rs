//! Bytes by their SHA-256: whoever served them, what is here under a digest has that digest.
//!
//! Bytes go to a temporary file beside the others, are hashed on the way, synced, and only then
//! get their name: no partial blob is ever visible. `partial` keeps what a download left half-way. Not a cache: nothing is removed by itself, and
//! where bytes come from is `fetch`'s affair.

mod partial;
mod verify;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use realm_model::digest::Digest;
use realm_model::lock::Pin;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;

use crate::files::{self, Files, RealFiles};
pub(crate) use partial::Partial;
pub use partial::{PARTIAL_BYTES_MAX, PARTIALS_MAX};
use write::Writer;

/// The largest blob: a component with a language runtime inside has 10 to 60 MiB. What has more
/// bytes on the disk is no blob of ours, and is not read to its end.
pub const BLOB_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Pieces of a stream that wait for the disk: the sender is slowed down beyond that.
const PIECES_MAX: usize = 4;
/// Bytes per read of a file.
const READ_BYTES: usize = 256 * 1024;

/// What went wrong in a stream of bytes, in its owner's words.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A folder of blobs; clones share it. The agent alone writes there.
#[derive(Debug)]
pub struct Blobs<F: Files = RealFiles> {
    inner: Arc<Inner<F>>,
}

#[derive(Debug)]
struct Inner<F> {
    files: F,
    directory: PathBuf,
    next_temporary: AtomicU64,
    /// Digests whose partial download has a writer, and the bytes that it has.
    downloads: Mutex<BTreeMap<Digest, u64>>,
    download_ended: Notify,
}

/// Why bytes are not kept or not usable.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The system refused an operation.
    #[error("failed to {operation} the blob `{path}`")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The sender of the bytes failed.
    #[error("failed to receive the bytes of a blob")]
    Receive(#[source] BoxError),
    /// More bytes than the cap came.
    #[error("more than {bytes_max} bytes came")]
    TooLarge {
        /// The cap.
        bytes_max: u64,
    },
    /// Other bytes came than were asked for.
    #[error("expected `{expected}`, got `{got}`")]
    Mismatch {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// No blob has this digest here.
    #[error("no blob `{0}` is here")]
    Missing(Digest),
    /// A blob on the disk changed: what is there is of no use.
    #[error("the blob `{expected}` is damaged: {found}")]
    Damaged {
        /// The digest it is kept under.
        expected: Digest,
        /// What is there.
        found: Found,
    },
}

/// What is on the disk in place of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Other bytes, with this digest.
    Bytes(Digest),
    /// A file of another size than the pin says; it was not hashed.
    Size {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes of the blob.
        pinned: u64,
    },
    /// A file that is larger than any blob, or grew beyond that; it was not hashed to its end.
    TooLarge,
    /// A link, a device, a pipe or a folder.
    NotAFile,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(digest) => write!(f, "its bytes have `{digest}`"),
            Self::Size { bytes, pinned } => write!(f, "it has {bytes} bytes, expected {pinned}"),
            Self::TooLarge => write!(f, "it has more than {BLOB_BYTES_MAX} bytes"),
            Self::NotAFile => f.write_str("it is not a regular file"),
        }
    }
}

impl BlobError {
    /// Whether there was no room: it passes by itself when room returns.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => files::is_disk_full(source),
            Self::Receive(_)
            | Self::TooLarge { .. }
            | Self::Mismatch { .. }
            | Self::Missing(_)
            | Self::Damaged { .. } => false,
        }
    }
}

impl Blobs {
    /// Opens a folder of blobs, which is made if it is missing, and removes what puts that never
    /// completed have left.
    pub fn open(directory: PathBuf) -> Result<Self, BlobError> {
        Self::open_in(RealFiles, directory)
    }
}

impl<F: Files> Blobs<F> {
    /// [`Blobs::open`] on any kind of files.
    pub fn open_in(files: F, directory: PathBuf) -> Result<Self, BlobError> {
        files
            .create_dir(&directory)
            .map_err(|error| io_error("create the folder of", &directory, error))?;
        let names = files
            .names(&directory)
            .map_err(|error| io_error("list the folder of", &directory, error))?;
        for name in names.iter().filter(|name| write::is_temporary(name)) {
            let path = directory.join(name);
            files
                .remove(&path)
                .map_err(|error| io_error("remove what is left of", &path, error))?;
        }
        // A blob that is visible may have a name that is not durable yet, after kill -9.
        files
            .sync_dir(&directory)
            .map_err(|error| io_error("sync the folder of", &directory, error))?;
        let inner = Inner {
            files,
            directory,
            next_temporary: AtomicU64::new(0),
            downloads: Mutex::default(),
            download_ended: Notify::new(),
        };
        inner.open_partials()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether a blob has this digest. Says nothing about its bytes on the disk: see
    /// [`Blobs::verify`].
    pub fn has(&self, digest: &Digest) -> bool {
        self.inner.files.is_file(&self.path(digest))
    }

    /// Where the blob of this digest is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.path(digest)
    }

    /// Keeps what a stream yields, at most `bytes_max` and [`BLOB_BYTES_MAX`] bytes, and returns its pin once it is
    /// durable. With `expected`, other bytes are an error and are not kept.
    ///
    /// A blob that is there already is replaced by the same bytes: that mends a damaged one.
    /// Dropping the future keeps nothing.
    pub async fn put<S, E>(
        &self,
        expected: Option<Digest>,
        stream: S,
        bytes_max: u64,
    ) -> Result<Pin, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<BoxError>,
    {
        let (pieces, mut received) = mpsc::channel::<Piece>(PIECES_MAX);
        let inner = Arc::clone(&self.inner);
        let writing = spawn_blocking(move || {
            let mut writer = Writer::create(&inner, expected, bytes_max)?;
            loop {
                match received.blocking_recv() {
                    Some(Piece::Bytes(bytes)) => writer.write(&bytes)?,
                    Some(Piece::End) => return writer.finish(),
                    // The future was dropped: whatever came is not the whole.
                    None => return Err(BlobError::Receive("it was given up".into())),
                }
            }
        });
        let mut stream = std::pin::pin!(stream);
        let failure = loop {
            let piece = match stream.next().await {
                Some(Ok(bytes)) => Piece::Bytes(bytes),
                Some(Err(error)) => break Some(error.into()),
                None => Piece::End,
            };
            let last = matches!(piece, Piece::End);
            // A writer that hung up has its reason, which is the answer.
            if pieces.send(piece).await.is_err() || last {
                break None;
            }
        };
        drop(pieces);
        let written = join(writing.await);
        match failure {
            Some(error) => Err(BlobError::Receive(error)),
            None => written,
        }
    }

    /// [`Blobs::put`] of bytes in memory.
    pub async fn put_bytes(
        &self,
        expected: Option<Digest>,
        bytes: Bytes,
    ) -> Result<Pin, BlobError> {
        let bytes_max = bytes.len() as u64;
        let inner = Arc::clone(&self.inner);
        join(
            spawn_blocking(move || {
                let mut writer = Writer::create(&inner, expected, bytes_max)?;
                writer.write(&bytes)?;
                writer.finish()
            })
            .await,
        )
    }

    /// [`Blobs::put`] of what a reader yields, on a thread that may block.
    pub async fn put_reader(
        &self,
        expected: Option<Digest>,
        mut reader: impl Read + Send + 'static,
        bytes_max: u64,
    ) -> Result<Pin, BlobError> {
        let inner = Arc::clone(&self.inner);
        join(
            spawn_blocking(move || {
                let mut writer = Writer::create(&inner, expected, bytes_max)?;
                let mut buffer = vec![0; READ_BYTES];
                loop {
                    match reader.read(&mut buffer) {
                        Ok(0) => return writer.finish(),
                        Ok(read) => writer.write(&buffer[..read])?,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(BlobError::Receive(error.into())),
                    }
                }
            })
            .await,
        )
    }

    /// Hashes a blob on the disk: a bit that flipped there is found before the bytes are used.
    ///
    /// The work has an end whatever is there. [`BlobError::Missing`]: nothing is;
    /// [`BlobError::Damaged`]: something else is, and [`Blobs::put`] mends it; [`BlobError::Io`]:
    /// that cannot be told. Dropping the future ends the work.
    pub async fn verify(&self, digest: &Digest) -> Result<Pin, BlobError> {
        let (inner, digest) = (Arc::clone(&self.inner), *digest);
        let (_waiting, given_up) = verify::waiting();
        join(spawn_blocking(move || verify::verify(&inner, digest, None, &given_up)).await)
    }

    /// [`Blobs::verify`] of a blob whose size is known: a file of another size is not read at all.
    pub async fn verify_pin(&self, pin: Pin) -> Result<(), BlobError> {
        let inner = Arc::clone(&self.inner);
        let (_waiting, given_up) = verify::waiting();
        let work = move || verify::verify(&inner, pin.digest, Some(pin.size), &given_up);
        join(spawn_blocking(work).await).map(drop)
    }

    /// Removes a blob; returns whether it was there.
    pub async fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let (inner, path) = (Arc::clone(&self.inner), self.path(digest));
        join(
            spawn_blocking(move || {
                match inner.files.remove(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(io_error("remove", &path, error)),
                }
                inner
                    .files
                    .sync_dir(&inner.directory)
                    .map_err(|error| io_error("sync the folder of", &path, error))?;
                Ok(true)
            })
            .await,
        )
    }

    /// The digests of all blobs, sorted.
    pub async fn list(&self) -> Result<Vec<Digest>, BlobError> {
        let inner = Arc::clone(&self.inner);
        let names = spawn_blocking(move || {
            inner
                .files
                .names(&inner.directory)
                .map_err(|error| io_error("list the folder of", &inner.directory, error))
        });
        let names = join(names.await)?;
        Ok(names
            .iter()
            .filter_map(|name| format!("sha256:{name}").parse().ok())
            .collect())
    }
}

impl<F: Files> Inner<F> {
    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }
}

impl<F: Files> Clone for Blobs<F> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

enum Piece {
    Bytes(Bytes),
    /// The stream ended by itself: without this the bytes so far are not the whole.
    End,
}

pub(crate) fn join<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => unreachable!("a blocking task that nobody aborts runs to its end"),
    }
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> BlobError {
    BlobError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
