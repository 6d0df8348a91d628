//! Whether the bytes of a digest are here and sound, without hashing them for each who asks: few at
//! once, each digest once at a time, and remembered while the file stays the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use realm_model::digest::Digest;
use realm_store::blobs::{BlobError, Blobs};

use super::Holder;
use crate::places::Places;

/// Hashes at once: each reads up to 256 MiB, on a core of its own.
const HASHES_MAX: usize = 2;
/// Of one caller.
const HASHES_PER_CALLER_MAX: usize = 1;
/// How long somebody waits for one that runs: a caller gives up after 30 s.
const TURN_TIME_MAX: Duration = Duration::from_secs(5);
/// Answers that are remembered.
const KNOWN_MAX: usize = 4_096;
/// For how long: what rots on the disk leaves no trace in the file's times.
const KNOWN_FOR: Duration = Duration::from_secs(10 * 60);

/// What was found; cheap to clone.
#[derive(Clone)]
pub(super) struct Verified {
    turns: Places<Holder>,
    digests: Places<Digest>,
    known: Arc<Mutex<BTreeMap<Digest, Known>>>,
    turn_time_max: Duration,
}

struct Known {
    stamp: Stamp,
    at: Instant,
    is_sound: bool,
}

/// A file that has the same has the same bytes, but for a disk that rots.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: [(i64, i64); 2],
}

/// Others are served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl Verified {
    pub(super) fn new() -> Self {
        Self {
            turns: Places::new(HASHES_MAX, HASHES_PER_CALLER_MAX),
            digests: Places::new(HASHES_MAX, 1),
            known: Arc::default(),
            turn_time_max: TURN_TIME_MAX,
        }
    }

    /// Whether the blob is here and sound. Ends with its future, hashing included.
    pub(super) async fn is_sound(
        &self,
        blobs: &Blobs,
        holder: Holder,
        digest: &Digest,
    ) -> Result<Result<bool, BlobError>, Busy> {
        let path = blobs.path(digest);
        if let Some(known) = self.known(&path, digest) {
            return Ok(Ok(known));
        }
        let turn = self.turns.wait(holder, self.turn_time_max).await;
        let same = self.digests.wait(*digest, self.turn_time_max).await;
        let (Some(_turn), Some(_same)) = (turn, same) else {
            return Err(Busy);
        };
        // Whoever was before may have asked for the same.
        if let Some(known) = self.known(&path, digest) {
            return Ok(Ok(known));
        }
        // Taken before: a file that changes meanwhile is another one.
        let stamp = stamp_of(&path);
        let is_sound = match blobs.verify(digest).await {
            Ok(_) => true,
            Err(
                BlobError::Missing(_)
                | BlobError::Damaged { .. }
                | BlobError::Mismatch { .. }
                | BlobError::TooLarge { .. },
            ) => false,
            Err(error @ (BlobError::Io { .. } | BlobError::Receive(_))) => return Ok(Err(error)),
        };
        if let Some(stamp) = stamp {
            self.learn(*digest, stamp, is_sound);
        }
        Ok(Ok(is_sound))
    }

    fn known(&self, path: &Path, digest: &Digest) -> Option<bool> {
        let stamp = stamp_of(path)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(digest)
            .filter(|known| known.stamp == stamp && known.at.elapsed() < KNOWN_FOR)
            .map(|known| known.is_sound)
    }

    fn learn(&self, digest: Digest, stamp: Stamp, is_sound: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let at = Instant::now();
        known.insert(
            digest,
            Known {
                stamp,
                at,
                is_sound,
            },
        );
    }
}

/// `None`: nothing is there.
fn stamp_of(path: &Path) -> Option<Stamp> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some(Stamp {
        inode: found.ino(),
        bytes: found.size(),
        changed: [
            (found.mtime(), found.mtime_nsec()),
            (found.ctime(), found.ctime_nsec()),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(verified: &Verified, blobs: &Blobs, digest: &Digest, expected: bool) {
        let answer = verified.is_sound(blobs, Holder::Local, digest).await;
        assert_eq!(answer.unwrap().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_blob_is_hashed_once_until_its_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path().join("blobs")).unwrap();
        let verified = Verified::new();
        let digest = Digest::of(b"sound");
        check(&verified, &blobs, &digest, false).await;
        let put = |bytes: &'static [u8]| blobs.put_bytes(Some(digest), bytes.into());
        put(b"sound").await.unwrap();
        check(&verified, &blobs, &digest, true).await;
        // Nobody could hash a second one now: it is known.
        let _turn = verified.turns.take(Holder::Local, 0).unwrap();
        check(&verified, &blobs, &digest, true).await;
        drop(_turn);
        std::fs::write(blobs.path(&digest), b"Sound").unwrap();
        check(&verified, &blobs, &digest, false).await;
        put(b"sound").await.unwrap();
        check(&verified, &blobs, &digest, true).await;
    }

    #[tokio::test]
    async fn few_are_hashed_at_once_and_others_hear_that() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path().join("blobs")).unwrap();
        let pin = blobs.put_bytes(None, b"bytes".as_slice().into()).await;
        let digest = pin.unwrap().digest;
        let verified = Verified {
            turn_time_max: Duration::ZERO,
            ..Verified::new()
        };
        let busy = || verified.is_sound(&blobs, Holder::Local, &digest);
        let held = verified.turns.take(Holder::Local, 0).unwrap();
        assert_eq!(busy().await.unwrap_err(), Busy);
        drop(held);
        let held = verified.digests.take(digest, 0).unwrap();
        assert_eq!(busy().await.unwrap_err(), Busy);
        drop(held);
        assert!(busy().await.is_ok());
    }
}
