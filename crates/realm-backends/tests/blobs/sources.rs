//! Sources of bytes that can be known again, that break, and that wait.

use std::sync::Arc;

use realm_model::cloud::{Answer, BlobSource, Blobs, CloudError};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

/// Bytes that tell by their seed and place what they are.
pub(crate) struct Pattern {
    seed: u64,
    at: u64,
    size: u64,
    piece: usize,
    /// After so many bytes the source is broken.
    breaks_at: Option<u64>,
    /// After so many bytes it tells, and waits.
    waits: Option<(u64, Arc<Notify>, Arc<Notify>)>,
}

impl Pattern {
    pub(crate) fn new(seed: u64, size: u64) -> Self {
        Self {
            seed,
            at: 0,
            size,
            // No power of two: pieces of sources and of backends do not meet.
            piece: 60_000,
            breaks_at: None,
            waits: None,
        }
    }

    pub(crate) fn breaks_at(mut self, at: u64) -> Self {
        self.breaks_at = Some(at);
        self
    }

    pub(crate) fn waits_at(mut self, at: u64, here: &Arc<Notify>, go: &Arc<Notify>) -> Self {
        self.waits = Some((at, Arc::clone(here), Arc::clone(go)));
        self
    }

    pub(crate) fn boxed(self) -> Box<dyn BlobSource> {
        Box::new(self)
    }
}

impl BlobSource for Pattern {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError> {
        Box::pin(async move {
            if self.breaks_at.is_some_and(|at| self.at >= at) {
                return Err(CloudError::Invalid("the source is broken".to_owned()));
            }
            if self.waits.as_ref().is_some_and(|waits| self.at >= waits.0)
                && let Some((_, here, go)) = self.waits.take()
            {
                here.notify_one();
                go.notified().await;
            }
            if self.at == self.size {
                return Ok(None);
            }
            let n = self
                .piece
                .min(usize::try_from(self.size - self.at).unwrap());
            let piece = bytes(self.seed, self.at, n);
            self.at += n as u64;
            Ok(Some(piece))
        })
    }
}

/// The bytes of a seed from a place on.
pub(crate) fn bytes(seed: u64, at: u64, n: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(n + 16);
    let mut word = at / 8;
    while all.len() < n + 8 {
        let mixed =
            (word ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        all.extend_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
        word += 1;
    }
    let skip = usize::try_from(at % 8).unwrap();
    all[skip..skip + n].to_vec()
}

pub(crate) async fn put(blobs: &dyn Blobs, container: &str, object: &str, seed: u64, size: u64) {
    let written = blobs.write(container, object, Pattern::new(seed, size).boxed());
    written
        .await
        .unwrap_or_else(|error| panic!("`{}`: {error}", object.escape_debug()));
}

pub(crate) async fn get(
    blobs: &dyn Blobs,
    container: &str,
    object: &str,
) -> Result<Vec<u8>, CloudError> {
    range(blobs, container, object, 0, u64::MAX).await
}

pub(crate) async fn range(
    blobs: &dyn Blobs,
    container: &str,
    object: &str,
    start: u64,
    end: u64,
) -> Result<Vec<u8>, CloudError> {
    let mut blob = blobs.read(container, object, start, end).await?;
    let mut all = Vec::new();
    while let Some(piece) = blob.bytes.next().await? {
        assert!(!piece.is_empty(), "an empty piece");
        all.extend_from_slice(&piece);
    }
    assert_eq!(all.len() as u64, blob.n_bytes, "as many as it said");
    Ok(all)
}

/// Reads all of an object and keeps a digest of it alone.
pub(crate) async fn digest(blobs: &dyn Blobs, container: &str, object: &str) -> (u64, [u8; 32]) {
    let mut blob = blobs.read(container, object, 0, u64::MAX).await.unwrap();
    let (mut n, mut digest) = (0, Sha256::new());
    while let Some(piece) = blob.bytes.next().await.unwrap() {
        n += piece.len() as u64;
        digest.update(&piece);
    }
    (n, digest.finalize().into())
}

pub(crate) async fn digest_of(seed: u64, size: u64) -> [u8; 32] {
    let mut source = Pattern::new(seed, size);
    let mut digest = Sha256::new();
    while let Some(piece) = source.next().await.unwrap() {
        digest.update(&piece);
    }
    digest.finalize().into()
}

/// All names, by pages of `n`.
pub(crate) async fn names(blobs: &dyn Blobs, container: &str, n: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let after = all.last().cloned();
        let page = blobs.list(container, after.as_deref(), n).await.unwrap();
        let is_last = page.len() < n;
        all.extend(page);
        if is_last {
            return all;
        }
    }
}
