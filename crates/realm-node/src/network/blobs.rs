//! Bytes by their digest, between members: `/realm/<id>/blob/1`.
//!
//! The asker writes the digest (32 bytes) and where to begin (8 bytes, little-endian). The answer is
//! one byte (0: they follow), the whole size (8 bytes, little-endian), and the bytes from there on.
//! Nobody is believed: the store hashes what comes.
//!
//! Whoever can wait asks before that where it stands, with an offset that no blob has: [`ask`]. A node
//! of a version before that question answers it as well, as it has fewer bytes, or none.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_net::Stream;
use realm_store::blobs::Blobs;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::haste::Haste;
use crate::places::Places;

/// Transfers that are served at once: each holds a file and a buffer.
const SERVED_MAX: usize = 32;
/// To one peer: a node downloads few at once.
const SERVED_PER_PEER_MAX: usize = 4;
/// A peer that reads more slowly than that is cut off, and goes on from there when it asks again.
const READ_BYTES_PER_S: u64 = 64 * 1024;
/// Transfers of one blob at once, for those who can wait: they have it sooner from each other than if
/// all shared this node's uplink. Who cannot wait is served beyond that.
const SPREAD_MAX: usize = 3;
/// For so long a place is kept for whoever was told that there is one.
const PROMISED_FOR: Duration = Duration::from_secs(1);
/// Places that are kept for all blobs together.
const PROMISES_MAX: usize = 128;
/// The longest pause of a peer that reads.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes per write.
const PIECE_BYTES: usize = 64 * 1024;

const FOLLOWS: u8 = 0;
const NOT_HERE: u8 = 1;
const BUSY: u8 = 2;
const BEYOND: u8 = 3;
/// They are on their way to it: so many have come (8 bytes, little-endian).
const FETCHES: u8 = 4;

/// Where bytes begin for who asks how it stands with them.
const WHERE_IT_STANDS: u64 = u64::MAX;

/// What a peer said in place of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Declined {
    #[error("it does not have the bytes")]
    NotHere,
    #[error("it serves others")]
    Busy,
    #[error("it has fewer bytes")]
    Beyond,
    #[error("it answered {0}")]
    Other(u8),
}

/// How it stands with bytes at a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It has them, and keeps a place for a moment.
    Has,
    /// It has them, and gives them to others.
    Busy,
    /// It fetches them itself, and has so many.
    Fetches(u64),
    NotHere,
}

/// Serves what this node holds.
#[derive(Clone)]
pub(crate) struct BlobServer {
    blobs: Blobs,
    served: Places<PublicKey>,
    spread: Arc<Mutex<Spread>>,
}

/// Who is given which blob, and to whom a place was promised.
#[derive(Default)]
struct Spread {
    running: BTreeMap<Digest, usize>,
    promised: BTreeMap<(Digest, PublicKey), Instant>,
}

/// One transfer, until it is dropped.
struct Running {
    digest: Digest,
    spread: Arc<Mutex<Spread>>,
}

impl Spread {
    /// Promises a place to a peer, if there is one.
    fn promise(&mut self, digest: Digest, to: PublicKey, now: Instant) -> bool {
        self.promised.retain(|_, until| *until > now);
        let others = self.promised.keys();
        let others = others.filter(|(of, peer)| *of == digest && *peer != to);
        let running = self.running.get(&digest).copied().unwrap_or(0);
        if running + others.count() >= SPREAD_MAX || self.promised.len() >= PROMISES_MAX {
            return false;
        }
        self.promised.insert((digest, to), now + PROMISED_FOR);
        true
    }

    fn begin(shared: &Arc<Mutex<Self>>, digest: Digest, to: PublicKey) -> Running {
        let mut spread = lock(shared);
        spread.promised.remove(&(digest, to));
        *spread.running.entry(digest).or_default() += 1;
        drop(spread);
        Running {
            digest,
            spread: Arc::clone(shared),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut spread = lock(&self.spread);
        match spread.running.get_mut(&self.digest) {
            Some(running) if *running > 1 => *running -= 1,
            Some(_) | None => drop(spread.running.remove(&self.digest)),
        }
    }
}

fn lock(spread: &Mutex<Spread>) -> MutexGuard<'_, Spread> {
    // Single entries come and go under the lock: a panic cannot leave half of one.
    spread.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlobServer {
    pub(crate) fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            served: Places::new(SERVED_MAX, SERVED_PER_PEER_MAX),
            spread: Arc::default(),
        }
    }

    /// Answers one stream.
    pub(crate) async fn serve(&self, from: PublicKey, mut stream: Stream) -> io::Result<()> {
        let mut question = [0; 40];
        within(stream.read_exact(&mut question)).await?;
        let (digest, offset) = question.split_at(32);
        let digest = Digest::from_bytes(digest.try_into().expect("32 bytes"));
        let offset = u64::from_le_bytes(offset.try_into().expect("8 bytes"));
        if offset == WHERE_IT_STANDS {
            return self.tell(from, &digest, &mut stream).await;
        }
        let Some(_place) = self.served.take(from, 0) else {
            return end(&mut stream, BUSY).await;
        };
        if !self.blobs.has(&digest) {
            return end(&mut stream, NOT_HERE).await;
        }
        let _running = Spread::begin(&self.spread, digest, from);
        let mut file = tokio::fs::File::open(self.blobs.path(&digest)).await?;
        let size = file.metadata().await?.len();
        if offset > size {
            return end(&mut stream, BEYOND).await;
        }
        file.seek(io::SeekFrom::Start(offset)).await?;
        let mut head = [FOLLOWS; 9];
        head[1..].copy_from_slice(&size.to_le_bytes());
        within(stream.write_all(&head)).await?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut haste = Haste::new(IDLE_TIMEOUT, READ_BYTES_PER_S);
        loop {
            let read = file.read(&mut piece).await?;
            if read == 0 {
                return within(stream.shutdown()).await;
            }
            let written = haste.within(stream.write_all(&piece[..read])).await;
            written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
            haste.moved(read);
        }
    }

    /// Says how it stands with bytes here.
    async fn tell(&self, from: PublicKey, digest: &Digest, stream: &mut Stream) -> io::Result<()> {
        if self.blobs.has(digest) {
            let promised = lock(&self.spread).promise(*digest, from, Instant::now());
            return end(stream, if promised { BEYOND } else { BUSY }).await;
        }
        let Some(bytes) = self.blobs.downloading(digest) else {
            return end(stream, NOT_HERE).await;
        };
        let mut answer = [FETCHES; 9];
        answer[1..].copy_from_slice(&bytes.to_le_bytes());
        within(stream.write_all(&answer)).await?;
        within(stream.shutdown()).await
    }
}

/// Asks a peer how it stands with bytes there.
pub(crate) async fn ask(mut stream: Stream, digest: &Digest) -> io::Result<Offer> {
    Ok(
        match question(&mut stream, digest, WHERE_IT_STANDS).await? {
            BEYOND => Offer::Has,
            BUSY => Offer::Busy,
            FETCHES => Offer::Fetches(number(&mut stream).await?),
            NOT_HERE => Offer::NotHere,
            other => return Err(io::Error::other(Declined::Other(other))),
        },
    )
}

/// Asks a peer for bytes from `offset` on; returns the whole size, and the stream at the first byte.
pub(crate) async fn open(
    mut stream: Stream,
    digest: &Digest,
    offset: u64,
) -> io::Result<(u64, Stream)> {
    let declined = match question(&mut stream, digest, offset).await? {
        FOLLOWS => return Ok((number(&mut stream).await?, stream)),
        NOT_HERE => Declined::NotHere,
        BUSY => Declined::Busy,
        BEYOND => Declined::Beyond,
        other => Declined::Other(other),
    };
    Err(io::Error::other(declined))
}

/// Writes a question; returns the first byte of the answer.
async fn question(stream: &mut Stream, digest: &Digest, offset: u64) -> io::Result<u8> {
    let mut question = [0; 40];
    question[..32].copy_from_slice(digest.as_bytes());
    question[32..].copy_from_slice(&offset.to_le_bytes());
    within(stream.write_all(&question)).await?;
    within(stream.flush()).await?;
    let mut answer = [0];
    within(stream.read_exact(&mut answer)).await?;
    Ok(answer[0])
}

async fn number(stream: &mut Stream) -> io::Result<u64> {
    let mut number = [0; 8];
    within(stream.read_exact(&mut number)).await?;
    Ok(u64::from_le_bytes(number))
}

async fn end(stream: &mut Stream, answer: u8) -> io::Result<()> {
    within(stream.write_all(&[answer])).await?;
    within(stream.shutdown()).await
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(IDLE_TIMEOUT, step).await {
        Ok(ended) => ended,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use realm_model::key::SecretKey;

    use super::*;

    fn peer(number: u8) -> PublicKey {
        SecretKey::from_seed(&[number; 32]).public()
    }

    #[test]
    fn so_many_are_served_at_once_and_a_promise_ends() {
        let (shared, now) = (Arc::new(Mutex::new(Spread::default())), Instant::now());
        let build = Digest::of(b"build");
        let promise = |number, now| lock(&shared).promise(build, peer(number), now);
        let first = Spread::begin(&shared, build, peer(1));
        assert!(promise(2, now) && promise(3, now));
        assert!(!promise(4, now), "all places are taken");
        assert!(promise(3, now), "it has one already");
        assert!(lock(&shared).promise(Digest::of(b"other"), peer(4), now));
        // Whoever begins has its place no longer twice.
        let second = Spread::begin(&shared, build, peer(2));
        assert!(!promise(4, now));
        drop(second);
        assert!(promise(4, now));
        drop(first);
        let later = now + PROMISED_FOR + Duration::from_millis(1);
        assert!(promise(5, later) && promise(6, later) && promise(7, later));
        assert!(!promise(8, later));
        assert_eq!(lock(&shared).running.len(), 0, "what ended takes no memory");
    }
}
