//! From a source to its bytes: `file:` relative to a folder, `http:` and `https:` with a digest,
//! registries, S3 and IPFS as the settings of this machine say ([`Origins`]).
//!
//! Every source is untrusted: whatever it serves is capped before and while it is read, and counts
//! only if it has the digest that was signed. Peers come first where there are any, and what broke
//! off is resumed ([`fetch_shared`]). Not here: who the peers are.

mod download;
mod error;
mod http;
mod ipfs;
mod login;
mod origins;
mod registry;
mod s3;
mod unixfs;

#[cfg(test)]
mod download_tests;
#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod ipfs_tests;
#[cfg(test)]
mod origin_tests;
#[cfg(test)]
mod real_tests;

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use realm_model::digest::Digest;
use realm_model::lock::Pin;
use realm_model::manifest::Source;
use realm_model::node_config::IPFS_GATEWAYS_MAX;
use realm_model::upstream::Upstream;
use rustix::fs::OFlags;
use tokio::task::spawn_blocking;

use crate::blobs::{BlobError, Blobs};
use crate::files::Files;
pub use download::{ByteStream, Fetched, PeerSource, SOURCES_MAX};
use download::{Remote, download};
pub use error::FetchError;
pub use http::{
    CONNECT_TIMEOUT, IDLE_TIMEOUT, REDIRECTS_MAX, RedirectError, TOTAL_TIMEOUT, Timeouts,
};
pub use ipfs::BLOCKS_MAX;
pub use login::AUTH_FILE_BYTES_MAX;
pub use origins::{Origins, S3Settings};
pub use registry::{ANSWER_BYTES_MAX, MANIFEST_BYTES_MAX};
pub use unixfs::{BLOCK_BYTES_MAX, DEPTH_MAX, PARTS_MAX};

/// Bytes as they come from a source.
type Body<'a> = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, FetchError>> + Send + 'a>>;

/// Brings the bytes of `pin` into `blobs`, unless they are there and sound already. `file:` sources
/// are relative to `base`.
pub async fn fetch<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    source: &Source,
    base: &Path,
) -> Result<(), FetchError> {
    let origins = Origins::default();
    fetch_within(blobs, pin, source, base, &origins, Timeouts::default()).await
}

/// [`fetch`] with other origins and timeouts.
pub async fn fetch_within<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    source: &Source,
    base: &Path,
    origins: &Origins,
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
        Source::Upstream(upstream) => Err(no_bytes(upstream)),
        Source::Later { kind, location, .. } => Err(unsupported(kind, location)),
        Source::Http { .. } | Source::Registry(_) | Source::S3(_) | Source::Ipfs(_) => {
            let remotes = remotes(source, pin, origins)?;
            download(blobs, pin, remotes, timeouts).await.map(drop)
        }
    }
}

/// Brings the bytes of `pin` into `blobs` on a node among others: from the peers in this order,
/// then from where the source says. `file:` names a file of the machine where it was
/// applied, so its bytes come from peers alone, and so do those of `p2p:`.
///
/// A download that broke off is resumed by the next source, or by the next call.
pub async fn fetch_shared<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    source: &Source,
    peers: &[&dyn PeerSource],
    origins: &Origins,
    timeouts: Timeouts,
) -> Result<Fetched, FetchError> {
    if blobs.verify_pin(pin).await.is_ok() {
        return Ok(Fetched::default());
    }
    let last = remotes(source, pin, origins)?;
    let peers = peers.iter().take(SOURCES_MAX.saturating_sub(last.len()));
    let mut remotes: Vec<_> = peers.map(|peer| Remote::Peer(*peer)).collect();
    remotes.extend(last);
    download(blobs, pin, remotes, timeouts).await
}

/// [`fetch_shared`] from these peers alone, whatever the source is.
pub async fn fetch_from_peers<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    peers: &[&dyn PeerSource],
    timeouts: Timeouts,
) -> Result<Fetched, FetchError> {
    if blobs.verify_pin(pin).await.is_ok() {
        return Ok(Fetched::default());
    }
    let remotes = peers.iter().map(|peer| Remote::Peer(*peer)).collect();
    download(blobs, pin, remotes, timeouts).await
}

/// Who has the bytes of `source`, beside peers.
fn remotes<'a>(
    source: &'a Source,
    pin: Pin,
    origins: &'a Origins,
) -> Result<Vec<Remote<'a>>, FetchError> {
    match source {
        Source::File { .. } => Ok(Vec::new()),
        Source::Http { url, digest } => {
            check_pin(&http::shown(url), Some(*digest), pin)?;
            Ok(vec![Remote::Http(url)])
        }
        Source::Registry(source) => {
            check_pin(&source.to_string(), source.digest, pin)?;
            Ok(vec![Remote::Registry(source, origins)])
        }
        Source::S3(source) => {
            check_pin(&source.to_string(), source.digest, pin)?;
            Ok(vec![Remote::S3(source, origins)])
        }
        Source::Ipfs(source) => {
            check_pin(&source.to_string(), source.digest, pin)?;
            let gateways = origins.ipfs_gateways.iter().take(IPFS_GATEWAYS_MAX);
            Ok(gateways
                .map(|gateway| Remote::Ipfs(source, gateway))
                .collect())
        }
        Source::Later {
            kind,
            location,
            digest,
        } if kind == "p2p" => {
            check_pin(location, *digest, pin)?;
            Ok(Vec::new())
        }
        Source::Upstream(upstream) => Err(no_bytes(upstream)),
        Source::Later { kind, location, .. } => Err(unsupported(kind, location)),
    }
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
    origins: &Origins,
    bytes_max: u64,
) -> Result<(Pin, Bytes), FetchError> {
    resolve_within(source, base, origins, bytes_max, Timeouts::default()).await
}

/// [`resolve`] with other timeouts.
pub async fn resolve_within(
    source: &Source,
    base: &Path,
    origins: &Origins,
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
            let (_, body) = http::get_from(url, 0, bytes_max, timeouts).await?;
            let from = http::shown(url);
            (from.clone(), collect(from, body, bytes_max).await?)
        }
        Source::Registry(source) => {
            let resolved = registry::resolve(source, origins, bytes_max, timeouts);
            (
                source.to_string(),
                within(source, timeouts, resolved).await?,
            )
        }
        Source::S3(source) => {
            let (_, body) = s3::open(source, origins, 0, bytes_max, timeouts).await?;
            let from = source.to_string();
            (from.clone(), collect(from, body, bytes_max).await?)
        }
        Source::Ipfs(source) => {
            let resolved = ipfs::resolve(source, origins, bytes_max, timeouts);
            (
                source.to_string(),
                within(source, timeouts, resolved).await?,
            )
        }
        Source::Upstream(upstream) => return Err(no_bytes(upstream)),
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

/// The total time for what takes more than one request: each of them has a clock of its own.
async fn within<T>(
    from: &impl std::fmt::Display,
    timeouts: Timeouts,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    let silent = |_| FetchError::Silent {
        from: from.to_string(),
    };
    tokio::time::timeout(timeouts.total, work)
        .await
        .map_err(silent)?
}

async fn collect(from: String, mut body: Body<'_>, bytes_max: u64) -> Result<Bytes, FetchError> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if (bytes.len() + piece.len()) as u64 > bytes_max {
            return Err(FetchError::TooLarge { from, bytes_max });
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

/// Nobody asks for these: there are none.
fn no_bytes(upstream: &Upstream) -> FetchError {
    unsupported("upstream", &upstream.to_string())
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
