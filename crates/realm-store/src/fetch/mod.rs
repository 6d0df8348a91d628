//! From a source to its bytes: `file:` relative to a folder, `http:` and `https:` with a digest.
//!
//! Every source is untrusted: whatever it serves is capped before and while it is read, and counts
//! only if it has the digest that was signed. Peers come first where there are any, and what broke
//! off is resumed ([`fetch_shared`]). Not here: who the peers are.

mod download;
mod http;

#[cfg(test)]
mod download_tests;
#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod http_tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use realm_model::digest::Digest;
use realm_model::lock::Pin;
use realm_model::manifest::Source;
use rustix::fs::OFlags;
use tokio::task::spawn_blocking;

use crate::blobs::{BlobError, Blobs};
use crate::files::Files;
pub use download::{ByteStream, Fetched, PeerSource, SOURCES_MAX};
use download::{Remote, download};
pub use http::{
    CONNECT_TIMEOUT, IDLE_TIMEOUT, REDIRECTS_MAX, RedirectError, TOTAL_TIMEOUT, Timeouts,
};

/// Why a source did not give the bytes.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A scheme of a later version.
    #[error("`{kind}:` sources are not fetched by this version: `{location}`")]
    Unsupported {
        /// The scheme.
        kind: String,
        /// The source as written.
        location: String,
    },
    /// A file could not be opened or read.
    #[error("failed to read `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A folder, device, pipe or socket.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The TLS library or the certificates of this machine cannot be used.
    #[error("failed to set up https")]
    Setup(#[source] crate::blobs::BoxError),
    /// The server could not be reached, took too long, or broke off.
    #[error("failed to get `{url}`")]
    Http {
        /// The URL, without credentials and query.
        url: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// The server answered something else than 200.
    #[error("`{url}` answered {status}")]
    Status {
        /// The URL, without credentials and query.
        url: String,
        /// The status code.
        status: u16,
    },
    /// The source has more bytes than are taken.
    #[error("`{from}` has more than {bytes_max} bytes")]
    TooLarge {
        /// The source.
        from: String,
        /// The cap.
        bytes_max: u64,
    },
    /// The source has other bytes than were signed.
    #[error("`{from}` has other bytes: expected `{expected}`, got `{got}`")]
    Mismatch {
        /// The source.
        from: String,
        /// The digest that was signed, or that the source names.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// The source names another digest than the pin.
    #[error("`{from}` names `{named}`, but the pin is `{pinned}`")]
    OtherPin {
        /// The source.
        from: String,
        /// The digest in the source.
        named: Digest,
        /// The digest in the pin.
        pinned: Digest,
    },
    /// A peer refused, could not be reached, or broke off.
    #[error("failed to get the bytes from `{from}`")]
    Peer {
        /// The peer.
        from: String,
        /// What happened.
        #[source]
        source: crate::blobs::BoxError,
    },
    /// A peer sent nothing for too long, or took too long in all.
    #[error("`{from}` took too long")]
    Silent {
        /// The peer.
        from: String,
    },
    /// A peer ended before all bytes were there; they may be right as far as they go.
    #[error("`{from}` ended after {bytes} of {pinned} bytes")]
    Short {
        /// The peer.
        from: String,
        /// Bytes that are here.
        bytes: u64,
        /// Bytes of the pin.
        pinned: u64,
    },
    /// Another source gave the right bytes: this one's differ from them.
    #[error("`{from}` gave other bytes, which ended at byte {end}")]
    WrongPart {
        /// The source.
        from: String,
        /// Where what it gave ended.
        end: u64,
    },
    /// Nobody was there to be asked.
    #[error("no node that is reached has `{digest}`")]
    NoSource {
        /// The digest.
        digest: Digest,
    },
    /// Several sources were asked; what each did, in this order.
    #[error("no source gave the bytes: {}", each(faults))]
    All {
        /// At least two.
        faults: Vec<FetchError>,
    },
    /// The bytes came, and could not be kept.
    #[error("failed to keep what `{from}` gave")]
    Keep {
        /// The source.
        from: String,
        /// Why not.
        #[source]
        source: BlobError,
    },
}

impl FetchError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "source-unsupported",
            Self::File { .. } | Self::NotAFile { .. } => "source-unreadable",
            Self::Setup(_) => "tls-setup",
            Self::Http { .. }
            | Self::Status { .. }
            | Self::Peer { .. }
            | Self::Silent { .. }
            | Self::Short { .. } => "fetch-failed",
            Self::TooLarge { .. } => "oversized",
            Self::Mismatch { .. } | Self::OtherPin { .. } | Self::WrongPart { .. } => {
                "digest-mismatch"
            }
            Self::NoSource { .. } => "no-source",
            Self::All { faults } => code_of_all(faults),
            Self::Keep { .. } => "store-failed",
        }
    }
}

/// Brings the bytes of `pin` into `blobs`, unless they are there and sound already. `file:` sources
/// are relative to `base`.
pub async fn fetch<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    source: &Source,
    base: &Path,
) -> Result<(), FetchError> {
    fetch_within(blobs, pin, source, base, Timeouts::default()).await
}

/// [`fetch`] with other timeouts.
pub async fn fetch_within<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    source: &Source,
    base: &Path,
    timeouts: Timeouts,
) -> Result<(), FetchError> {
    if blobs.verify(&pin.digest).await.is_ok() {
        return Ok(());
    }
    match source {
        Source::File { path } => {
            let (from, file) = open_file(base, path, pin.size).await?;
            let kept = blobs.put_reader(Some(pin.digest), file, pin.size).await;
            kept.map(drop).map_err(|error| from_blob_error(error, from))
        }
        Source::Http { url, digest } => {
            check_pin(&http::shown(url), Some(*digest), pin)?;
            let remotes = vec![Remote::Http(url)];
            download(blobs, pin, remotes, timeouts).await.map(drop)
        }
        Source::Later { kind, location, .. } => Err(unsupported(kind, location)),
    }
}

/// Brings the bytes of `pin` into `blobs` on a node among others: from the peers in this order,
/// then from the source if that is a URL. `file:` names a file of the machine where it was
/// applied, so its bytes come from peers alone, and so do those of `p2p:`.
///
/// A download that broke off is resumed by the next source, or by the next call.
pub async fn fetch_shared<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    source: &Source,
    peers: &[&dyn PeerSource],
    timeouts: Timeouts,
) -> Result<Fetched, FetchError> {
    if blobs.verify_pin(pin).await.is_ok() {
        return Ok(Fetched::default());
    }
    let peers = peers.iter().take(SOURCES_MAX - 1);
    let mut remotes: Vec<_> = peers.map(|peer| Remote::Peer(*peer)).collect();
    match source {
        Source::File { .. } => {}
        Source::Http { url, digest } => {
            check_pin(&http::shown(url), Some(*digest), pin)?;
            remotes.push(Remote::Http(url));
        }
        Source::Later {
            kind,
            location,
            digest,
        } if kind == "p2p" => check_pin(location, *digest, pin)?,
        Source::Later { kind, location, .. } => return Err(unsupported(kind, location)),
    }
    download(blobs, pin, remotes, timeouts).await
}

fn check_pin(from: &str, named: Option<Digest>, pin: Pin) -> Result<(), FetchError> {
    match named {
        Some(named) if named != pin.digest => Err(FetchError::OtherPin {
            from: from.to_owned(),
            named,
            pinned: pin.digest,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Says what a source holds, with its bytes: for `apply`, which signs the pin. At most `bytes_max`
/// bytes are taken; a digest that the source names must hold.
pub async fn resolve(
    source: &Source,
    base: &Path,
    bytes_max: u64,
) -> Result<(Pin, Bytes), FetchError> {
    resolve_within(source, base, bytes_max, Timeouts::default()).await
}

/// [`resolve`] with other timeouts.
pub async fn resolve_within(
    source: &Source,
    base: &Path,
    bytes_max: u64,
    timeouts: Timeouts,
) -> Result<(Pin, Bytes), FetchError> {
    let (from, bytes) = match source {
        Source::File { path } => {
            let (from, file) = open_file(base, path, bytes_max).await?;
            let bytes = read_file(from.clone(), file, bytes_max).await?;
            (from, bytes)
        }
        Source::Http { url, .. } => {
            let body = http::get(url, bytes_max, timeouts).await?;
            (http::shown(url), collect(url, body, bytes_max).await?)
        }
        Source::Later { kind, location, .. } => return Err(unsupported(kind, location)),
    };
    let got = Digest::of(&bytes);
    if let Some(expected) = source.pinned()
        && expected != got
    {
        return Err(FetchError::Mismatch {
            from,
            expected,
            got,
        });
    }
    let pin = Pin {
        digest: got,
        size: bytes.len() as u64,
    };
    Ok((pin, bytes))
}

/// Opens a regular file of at most `bytes_max` bytes; returns the name for messages as well.
async fn open_file(base: &Path, path: &str, bytes_max: u64) -> Result<(String, File), FetchError> {
    let path = base.join(path);
    joined(spawn_blocking(move || open_regular(&path, bytes_max)).await)
}

fn open_regular(path: &Path, bytes_max: u64) -> Result<(String, File), FetchError> {
    let failed = |source| FetchError::File {
        path: path.to_owned(),
        source,
    };
    let not_a_file = || FetchError::NotAFile {
        path: path.to_owned(),
    };
    // Before it is opened, because opening a device may do something; after it, because the name
    // may have changed hands in between. Non-blocking, because opening a pipe waits for a writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(not_a_file());
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(not_a_file());
    }
    let from = path.display().to_string();
    if metadata.len() > bytes_max {
        return Err(FetchError::TooLarge { from, bytes_max });
    }
    Ok((from, file))
}

async fn read_file(from: String, file: File, bytes_max: u64) -> Result<Bytes, FetchError> {
    let read = move || {
        let mut bytes = Vec::new();
        // One byte beyond: the file may grow while it is read.
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| FetchError::File {
                path: PathBuf::from(&from),
                source,
            })?;
        if bytes.len() as u64 > bytes_max {
            return Err(FetchError::TooLarge { from, bytes_max });
        }
        Ok(Bytes::from(bytes))
    };
    joined(spawn_blocking(read).await)
}

async fn collect(url: &str, body: http::Body, bytes_max: u64) -> Result<Bytes, FetchError> {
    let mut body = std::pin::pin!(body);
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|source| http::failed(url, source))?;
        if (bytes.len() + piece.len()) as u64 > bytes_max {
            return Err(FetchError::TooLarge {
                from: http::shown(url),
                bytes_max,
            });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

fn from_blob_error(error: BlobError, from: String) -> FetchError {
    match error {
        BlobError::Mismatch { expected, got } => FetchError::Mismatch {
            from,
            expected,
            got,
        },
        BlobError::TooLarge { bytes_max } => FetchError::TooLarge { from, bytes_max },
        BlobError::Receive(error) => match error.downcast::<reqwest::Error>() {
            Ok(source) => http::failed(&from, *source),
            Err(error) => FetchError::Keep {
                from,
                source: BlobError::Receive(error),
            },
        },
        error @ (BlobError::Io { .. } | BlobError::Missing(_) | BlobError::Damaged { .. }) => {
            FetchError::Keep {
                from,
                source: error,
            }
        }
    }
}

/// The gravest: wrong bytes are worth more attention than a source that is not there.
fn code_of_all(faults: &[FetchError]) -> &'static str {
    let wrong = |fault: &&FetchError| fault.code() == "digest-mismatch";
    let gravest = faults.iter().find(wrong).or(faults.last());
    gravest.map_or("no-source", FetchError::code)
}

/// Each fault with its causes, since an error has but one source.
fn each(faults: &[FetchError]) -> String {
    let texts = faults.iter().map(|fault| {
        let mut text = fault.to_string();
        let mut cause = std::error::Error::source(fault);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn unsupported(kind: &str, location: &str) -> FetchError {
    FetchError::Unsupported {
        kind: kind.to_owned(),
        location: location.to_owned(),
    }
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => unreachable!("a blocking task that nobody aborts runs to its end"),
    }
}
