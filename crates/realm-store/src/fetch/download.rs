//! A pin from a list of sources, peers first, resumed where a source breaks off.
//!
//! A source is blamed for wrong bytes only by proof. If all bytes came from it, their digest is
//! the proof. If it went on with what others began, nobody is blamed: the whole is asked of that
//! one source again, and once its bytes are right, the digests of the abandoned beginnings show
//! who was wrong. Not here: which peers there are, and in which order to ask them.

use std::future::Future;
use std::pin::Pin as Pinned;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use realm_model::digest::Digest;
use realm_model::lock::Pin;
use realm_model::manifest::{IpfsSource, ObjectSource, RegistrySource};
use realm_model::text::one_line;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::{Body, FetchError, Origins, Timeouts, from_blob_error, http, ipfs, registry, s3};
use crate::blobs::{BlobError, Blobs, BoxError, Partial, join};
use crate::files::Files;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 256 * 1024;
/// Sources that are asked for one pin in one go: the next attempt asks others.
pub const SOURCES_MAX: usize = 16;
/// Characters of a peer's name in a message.
const NAME_CHARS_MAX: usize = 128;

/// Bytes as they come from a peer.
pub type ByteStream = Pinned<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// Somebody who may have a blob. What it serves is believed for its digest alone.
pub trait PeerSource: Send + Sync {
    /// What it is called in messages: the node's name, or its key.
    fn name(&self) -> &str;

    /// Opens the bytes of a blob from `offset` on; the stream ends at the end of the blob.
    fn open<'a>(
        &'a self,
        digest: &'a Digest,
        offset: u64,
    ) -> Pinned<Box<dyn Future<Output = Result<ByteStream, BoxError>> + Send + 'a>>;
}

/// How a pin came to be here.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Who gave the last bytes; `None`: the blob was here, or all of its bytes were.
    pub from: Option<String>,
    /// What the sources did that were asked before, and who served other bytes.
    pub faults: Vec<FetchError>,
}

/// One source.
pub(super) enum Remote<'a> {
    Peer(&'a dyn PeerSource),
    Http(&'a str),
    Registry(&'a RegistrySource, &'a Origins),
    S3(&'a ObjectSource, &'a Origins),
    /// A file, and the gateway that is asked for its blocks.
    Ipfs(&'a IpfsSource, &'a str),
}

/// Bytes of one source within a download: up to `end`, where the beginning had this digest.
struct Hand {
    /// `None`: they were here before.
    from: Option<String>,
    end: u64,
    digest: Digest,
    /// Right bytes have another digest at this end.
    proven_wrong: bool,
}

enum Failure {
    /// The source did it: the next one may do better.
    Source(FetchError),
    /// This machine did it: no source can do better.
    Here(FetchError),
    /// The bytes are whole and wrong, and several gave them.
    Mixed,
}

struct Download<F: Files> {
    /// `None` only while a thread that may block has it.
    partial: Option<Partial<F>>,
    pin: Pin,
    size: u64,
    timeouts: Timeouts,
    hands: Vec<Hand>,
    /// The hands of a beginning that was given up.
    suspects: Vec<Hand>,
    faults: Vec<FetchError>,
}

/// Fetches from the first source that has the right bytes. At most [`SOURCES_MAX`] are asked.
pub(super) async fn download<F: Files>(
    blobs: &Blobs<F>,
    pin: Pin,
    remotes: Vec<Remote<'_>>,
    timeouts: Timeouts,
) -> Result<Fetched, FetchError> {
    let partial = loop {
        let ended = blobs.download_ended();
        if let Some(partial) = blobs.resume(pin).await.map_err(here)? {
            break partial;
        }
        // Somebody else fetches the same: what comes out of it is good for both.
        ended.await;
        if blobs.verify_pin(pin).await.is_ok() {
            return Ok(Fetched::default());
        }
    };
    let mut download = Download {
        size: partial.size(),
        partial: Some(partial),
        pin,
        timeouts,
        hands: Vec::new(),
        suspects: Vec::new(),
        faults: Vec::new(),
    };
    if blobs.verify_pin(pin).await.is_ok() {
        // Another fetch completed between the caller's look and this download.
        let _ = download.on_disk(Partial::remove).await;
        return Ok(Fetched::default());
    }
    download.remember(None).await;
    if download.size == pin.size && pin.size > 0 {
        // It was stopped right before it got its name.
        match download.finish().await {
            Ok(()) => return Ok(Fetched::default()),
            Err(BlobError::Mismatch { .. }) => download.restart().await.map_err(here)?,
            Err(error) => return Err(here(error)),
        }
    }
    for remote in remotes.iter().take(SOURCES_MAX) {
        match download.ask(remote).await {
            Ok(()) => {
                return Ok(Fetched {
                    from: Some(remote.name()),
                    faults: download.faults,
                });
            }
            Err(Failure::Source(error)) => download.faults.push(error),
            Err(Failure::Here(error)) => return Err(error),
            Err(Failure::Mixed) => unreachable!("from the first byte on there is one hand"),
        }
    }
    if download.size == 0 {
        // Nothing to resume. What cannot be removed is emptied, and bounded like all the others.
        let _ = download.on_disk(Partial::remove).await;
    }
    Err(all(pin, download.faults))
}

impl<F: Files> Download<F> {
    /// Goes on with a source, and asks it for the whole if that does not give the right bytes.
    async fn ask(&mut self, remote: &Remote<'_>) -> Result<(), Failure> {
        match self.pull(remote).await {
            Err(Failure::Mixed) => {
                self.suspects = std::mem::take(&mut self.hands);
                self.restart().await.map_err(|error| remote.keep(error))?;
            }
            pulled => return pulled,
        }
        self.pull(remote).await?;
        // The bytes are right, so the first beginning that differs was wrong, by proof.
        let wrong = self.suspects.iter().find(|hand| hand.proven_wrong);
        if let Some(Hand {
            from: Some(from),
            end,
            ..
        }) = wrong
        {
            let (from, end) = (from.clone(), *end);
            self.faults.push(FetchError::WrongPart { from, end });
        }
        Ok(())
    }

    /// Takes what a source has from where the download is.
    async fn pull(&mut self, remote: &Remote<'_>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeouts.total;
        let opening = remote.open(self.pin, self.size, self.timeouts);
        let opened = remote.within(self.timeouts, deadline, opening).await;
        let (begin, mut body) = opened.map_err(Failure::Source)?;
        if begin != self.size {
            self.restart().await.map_err(|error| remote.keep(error))?;
        }
        let mut buffer = BytesMut::new();
        let end = loop {
            let next = async { body.next().await.transpose() };
            let piece = match remote.within(self.timeouts, deadline, next).await {
                Ok(Some(piece)) => piece,
                Ok(None) => break None,
                Err(error) => break Some(error),
            };
            buffer.extend_from_slice(&piece);
            if buffer.len() >= WRITE_BYTES {
                self.write(remote, buffer.split().freeze()).await?;
            }
        };
        self.write(remote, buffer.freeze()).await?;
        self.remember(Some(remote.name())).await;
        match end {
            Some(error) => Err(Failure::Source(error)),
            None => self.complete(remote).await,
        }
    }

    /// At the end of a stream that ended by itself.
    async fn complete(&mut self, remote: &Remote<'_>) -> Result<(), Failure> {
        if self.size < self.pin.size
            && let Remote::Peer(_) = remote
        {
            // A peer that goes down ends its streams as well: what came may be right.
            return Err(Failure::Source(FetchError::Short {
                from: remote.name(),
                bytes: self.size,
                pinned: self.pin.size,
            }));
        }
        match self.finish().await {
            Ok(()) => Ok(()),
            Err(BlobError::Mismatch { .. }) if self.hands.len() > 1 => Err(Failure::Mixed),
            Err(error) => {
                if let BlobError::Mismatch { .. } = error {
                    self.restart().await.map_err(|error| remote.keep(error))?;
                }
                Err(remote.keep(error))
            }
        }
    }

    async fn write(&mut self, remote: &Remote<'_>, bytes: Bytes) -> Result<(), Failure> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // Stops where a beginning that was given up ended, to compare the two.
            let within = |hand: &&Hand| hand.end > self.size;
            let stop = self
                .suspects
                .iter()
                .find(within)
                .map(|hand| hand.end - self.size);
            let stop = stop.and_then(|stop| usize::try_from(stop).ok());
            let part = rest.split_to(stop.unwrap_or(usize::MAX).min(rest.len()));
            let written = self.on_disk(move |partial| partial.append(&part)).await;
            if let Err(error) = written {
                if let BlobError::TooLarge { .. } = error {
                    // It has more than the pin: whatever it gave is of no use.
                    self.restart().await.map_err(|error| remote.keep(error))?;
                }
                return Err(remote.keep(error));
            }
            if self.suspects.iter().any(|hand| hand.end == self.size) {
                let digest = self.on_disk(|partial| partial.digest()).await;
                for hand in self
                    .suspects
                    .iter_mut()
                    .filter(|hand| hand.end == self.size)
                {
                    hand.proven_wrong = hand.digest != digest;
                }
            }
        }
        Ok(())
    }

    /// Keeps who gave the bytes up to here, if they gave any.
    async fn remember(&mut self, from: Option<String>) {
        if self.hands.last().map_or(0, |hand| hand.end) < self.size {
            let digest = self.on_disk(|partial| partial.digest()).await;
            self.hands.push(Hand {
                from,
                end: self.size,
                digest,
                proven_wrong: false,
            });
        }
    }

    async fn restart(&mut self) -> Result<(), BlobError> {
        self.hands.clear();
        self.on_disk(Partial::restart).await
    }

    async fn finish(&mut self) -> Result<(), BlobError> {
        self.on_disk(Partial::finish).await
    }

    async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Partial<F>) -> T + Send + 'static,
    ) -> T {
        let mut partial = self
            .partial
            .take()
            .expect("this function alone takes it, and puts it back");
        let work = move || {
            let done = work(&mut partial);
            (partial, done)
        };
        let (partial, done) = join(spawn_blocking(work).await);
        self.size = partial.size();
        self.partial = Some(partial);
        done
    }
}

impl<'a> Remote<'a> {
    fn name(&self) -> String {
        match self {
            Self::Peer(peer) => one_line(peer.name(), NAME_CHARS_MAX),
            Self::Http(url) => http::shown(url),
            Self::Registry(source, _) => source.to_string(),
            Self::S3(source, _) => source.to_string(),
            Self::Ipfs(source, gateway) => ipfs::name(source, gateway),
        }
    }

    /// Where the bytes begin (at `offset`, or at 0 if the source does not resume), and the bytes.
    async fn open(
        &self,
        pin: Pin,
        offset: u64,
        timeouts: Timeouts,
    ) -> Result<(u64, Body<'a>), FetchError> {
        match self {
            Self::Peer(peer) => {
                let from = self.name();
                let failed = move |source| FetchError::Peer {
                    from: from.clone(),
                    source,
                };
                let stream = peer.open(&pin.digest, offset).await;
                let stream = stream.map_err(failed.clone())?;
                let body = stream.map(move |piece| piece.map_err(failed.clone()));
                Ok((offset, body.boxed()))
            }
            Self::Http(url) => http::get_from(url, offset, pin.size, timeouts).await,
            Self::Registry(source, origins) => {
                registry::open(source, origins, pin, offset, timeouts).await
            }
            Self::S3(source, origins) => {
                s3::open(source, origins, offset, pin.size, timeouts).await
            }
            Self::Ipfs(source, gateway) => {
                let body = ipfs::open(source, gateway, offset, pin.size, timeouts).await?;
                Ok((offset, body))
            }
        }
    }

    /// Waits for a peer as long as for a server. The client of a server keeps its times by itself,
    /// for one request: what takes several has the total time for all of them.
    async fn within<T>(
        &self,
        timeouts: Timeouts,
        deadline: Instant,
        work: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        match self {
            Self::Http(_) => work.await,
            Self::Registry(..) | Self::S3(..) | Self::Ipfs(..) => timeout_at(deadline, work)
                .await
                .unwrap_or_else(|_| Err(FetchError::Silent { from: self.name() })),
            Self::Peer(_) => timeout_at(deadline.min(Instant::now() + timeouts.idle), work)
                .await
                .unwrap_or_else(|_| Err(FetchError::Silent { from: self.name() })),
        }
    }

    fn keep(&self, error: BlobError) -> Failure {
        let here = matches!(error, BlobError::Io { .. });
        let error = from_blob_error(error, self.name());
        if here {
            Failure::Here(error)
        } else {
            Failure::Source(error)
        }
    }
}

fn here(source: BlobError) -> FetchError {
    FetchError::Keep {
        from: "this node".to_owned(),
        source,
    }
}

fn all(pin: Pin, mut faults: Vec<FetchError>) -> FetchError {
    match (faults.pop(), faults.is_empty()) {
        (None, _) => FetchError::NoSource { digest: pin.digest },
        (Some(only), true) => only,
        (Some(last), false) => {
            faults.push(last);
            FetchError::All { faults }
        }
    }
}
