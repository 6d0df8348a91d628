//! Bytes for this node: from whoever has them, or from their origin when it is this node's turn to ask
//! it (`realm_control::fetching` says when that is).
//!
//! Peers are asked how it stands with the bytes before they are asked for them: one that is stopped
//! or slow costs the wait for one answer, and others are asked meanwhile. What only peers can have
//! (`file:`, `p2p:`) is asked of all of them at once, without a wait.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use realm_control::fetching::{Patience, Said, pause_ms};
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::lock::Pin;
use realm_model::manifest::Source as Written;
use realm_store::blobs::{BlobError, Blobs};
use realm_store::fetch::{
    FetchError, Fetched, Origins, PeerSource, Timeouts, fetch_from_peers, fetch_shared,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::with_causes;
use crate::event::StepFailure;
use crate::network::{Offer, Peers, Source, random};

/// The code of bytes that only an upload can bring.
pub(super) const NOT_UPLOADED: &str = "not-uploaded";

/// For so long the answers of peers are awaited before the origin is asked: one may have the bytes.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// And for so long those of peers who said that they have them: the connection may have to be made.
const HOLDER_WAIT: Duration = Duration::from_secs(3);
/// A peer that has the bytes on its disk and gives none for so long stands still: another one goes on.
const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is to be fetched, and with what.
pub(super) struct Errand {
    pub(super) blobs: Blobs,
    pub(super) pin: Pin,
    pub(super) source: Written,
    pub(super) peers: Peers,
    pub(super) origins: Arc<Origins>,
    /// Those that shall ask the origin before this node.
    pub(super) ahead: Vec<PublicKey>,
    /// Transfers and verifications at once.
    pub(super) turns: Arc<Semaphore>,
    /// Waits at once.
    pub(super) waits: Arc<Semaphore>,
}

impl Errand {
    /// Brings the bytes here; `began` is called when there is room for it.
    pub(super) async fn run(&self, began: impl AsyncFnOnce()) -> Result<(), StepFailure> {
        let fetched = match &self.source {
            // Of an upstream nothing is ever fetched: nobody has it.
            Written::File { .. } | Written::Later { .. } | Written::Upstream(_) => {
                let _turn = self.turns.acquire().await;
                began().await;
                self.peers_alone().await?
            }
            Written::Http { .. } | Written::Registry(_) | Written::S3(_) | Written::Ipfs(_) => {
                let _wait = self.waits.acquire().await;
                let turn = self.turns.acquire().await;
                began().await;
                let is_here = self.blobs.verify_pin(self.pin).await.is_ok();
                drop(turn);
                match is_here {
                    true => Ok(Fetched::default()),
                    false => Asking::of(self).fetch().await,
                }
            }
        };
        let digest = self.pin.digest;
        let fetched = fetched.map_err(|error| StepFailure {
            code: error.code().to_owned(),
            reason: with_causes(&error),
            permanent: false,
        })?;
        for fault in &fetched.faults {
            warn(&digest, fault);
        }
        if let Some(from) = &fetched.from {
            tracing::info!(%digest, from, "fetched");
        }
        Ok(())
    }

    /// From all peers, one after the other; the source leads nowhere from here.
    async fn peers_alone(&self) -> Result<Result<Fetched, FetchError>, StepFailure> {
        let peers = self.peers.sources(&self.pin.digest);
        if let Written::File { .. } = self.source
            && peers.is_empty()
        {
            // A path means something on the machine where it was applied, not here.
            return match self.blobs.verify_pin(self.pin).await {
                Ok(()) => Ok(Ok(Fetched::default())),
                Err(error) => Err(self.is_missing(&error).await),
            };
        }
        Ok(self.origin(&peers).await)
    }

    async fn is_missing(&self, error: &BlobError) -> StepFailure {
        let (why, digest) = match error {
            BlobError::Missing(_) => ("nobody uploaded", self.pin.digest),
            BlobError::Damaged { .. } => {
                // Damaged bytes are as good as none, and must not look as if they were there.
                let _ = self.blobs.remove(&self.pin.digest).await;
                let why = "the disk damaged the bytes, upload again";
                (why, self.pin.digest)
            }
            BlobError::Io { .. }
            | BlobError::Receive(_)
            | BlobError::TooLarge { .. }
            | BlobError::Mismatch { .. } => {
                return StepFailure {
                    code: "store-failed".to_owned(),
                    reason: with_causes(error),
                    permanent: false,
                };
            }
        };
        StepFailure {
            code: NOT_UPLOADED.to_owned(),
            reason: format!("{why}: {digest} is not on this node"),
            permanent: true,
        }
    }

    /// From these peers, then from where the source says.
    async fn origin(&self, peers: &[Source]) -> Result<Fetched, FetchError> {
        let peers: Vec<&dyn PeerSource> = peers.iter().map(|one| one as &dyn PeerSource).collect();
        let (blobs, timeouts) = (&self.blobs, Timeouts::default());
        fetch_shared(
            blobs,
            self.pin,
            &self.source,
            &peers,
            &self.origins,
            timeouts,
        )
        .await
    }
}

/// A peer that was asked, and what it said.
type Answer = (Source, Option<Offer>);
type Question = Pinned<Box<dyn Future<Output = Answer> + Send>>;

/// One wait for bytes that others may have, and its end.
struct Asking<'a> {
    errand: &'a Errand,
    began: Instant,
    patience: Patience,
    random: u64,
    questions: FuturesUnordered<Question>,
    /// Who did not answer yet, since when, and whether it said before that it has the bytes.
    asked: BTreeMap<PublicKey, (Instant, bool)>,
    /// Who had its turn and did not give the bytes.
    failed: BTreeSet<PublicKey>,
    next_round: Instant,
}

/// What a wait comes to.
enum Next {
    /// They came another way.
    Here,
    From(Source),
    Origin,
}

impl<'a> Asking<'a> {
    fn of(errand: &'a Errand) -> Self {
        let (began, random) = (Instant::now(), random());
        Self {
            errand,
            began,
            patience: Patience::new(errand.pin.size, random),
            random,
            questions: FuturesUnordered::new(),
            asked: BTreeMap::new(),
            failed: BTreeSet::new(),
            next_round: began,
        }
    }

    async fn fetch(mut self) -> Result<Fetched, FetchError> {
        let Errand {
            blobs, pin, turns, ..
        } = self.errand;
        // Damaged bytes have their name, and are not what is waited for.
        let was_here = blobs.has(&pin.digest);
        loop {
            match self.next(was_here).await {
                Next::Here => {
                    let _turn = turns.acquire().await;
                    if blobs.verify_pin(*pin).await.is_ok() {
                        return Ok(Fetched::default());
                    }
                    return self.errand.origin(&[]).await;
                }
                Next::From(peer) => {
                    let _turn = turns.acquire().await;
                    let timeouts = Timeouts {
                        idle: PEER_IDLE_TIMEOUT,
                        ..Timeouts::default()
                    };
                    match fetch_from_peers(blobs, *pin, &[&peer], timeouts).await {
                        Ok(fetched) => return Ok(fetched),
                        Err(error) => warn(&pin.digest, &error),
                    }
                    self.failed.insert(peer.key());
                }
                Next::Origin => {
                    if let Ok(_turn) = turns.try_acquire() {
                        return self.errand.origin(&[]).await;
                    }
                    let _turn = turns.acquire().await;
                    // That may have taken long.
                    let holders = self.holders().await;
                    return self.errand.origin(&holders).await;
                }
            }
        }
    }

    /// Asks peers until one has the bytes, or until it is this node's turn to ask the origin.
    async fn next(&mut self, was_here: bool) -> Next {
        let Errand {
            blobs, pin, peers, ..
        } = self.errand;
        loop {
            if !was_here && blobs.has(&pin.digest) {
                return Next::Here;
            }
            let now = Instant::now();
            let ahead = peers.reached(&self.errand.ahead);
            let turn = self.began + Duration::from_millis(self.patience.origin_at_ms(ahead));
            // At least once, and not in place of the answers that are waited for.
            let is_first = self.next_round == self.began;
            if self.next_round <= now && (now < turn || is_first) {
                self.ask(now);
            }
            let wake = match now < turn {
                true => self.next_round.min(turn),
                false => match self.settled_at() {
                    Some(at) if at > now => at,
                    Some(_) | None => return Next::Origin,
                },
            };
            tokio::select! {
                Some((peer, offer)) = self.questions.next(), if !self.questions.is_empty() => {
                    if self.answered(&peer, offer) {
                        return Next::From(peer);
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Takes an answer; returns whether the peer has the bytes for this node.
    fn answered(&mut self, peer: &Source, offer: Option<Offer>) -> bool {
        let key = peer.key();
        self.asked.remove(&key);
        if self.failed.contains(&key) {
            return false;
        }
        let said = match offer {
            Some(Offer::Has) => return true,
            Some(Offer::Busy) => Said::Busy,
            Some(Offer::Fetches(bytes)) => Said::Fetches { bytes },
            Some(Offer::NotHere) | None => return false,
        };
        let now_ms = milliseconds(self.began.elapsed());
        self.patience.heard(key, said, now_ms);
        false
    }

    /// Until when the answers are waited for that did not come yet.
    fn settled_at(&self) -> Option<Instant> {
        let each = self.asked.values().map(|(since, is_holder)| {
            *since
                + match is_holder {
                    true => HOLDER_WAIT,
                    false => ANSWER_WAIT,
                }
        });
        each.max()
    }

    /// Asks some peers that owe no answer.
    fn ask(&mut self, now: Instant) {
        let Errand { peers, pin, .. } = self.errand;
        let digest = pin.digest;
        // Others each time.
        self.random = self.random.wrapping_add(1);
        for (peer, is_holder) in peers.to_ask(&digest, &self.errand.ahead, self.random) {
            let key = peer.key();
            if self.asked.contains_key(&key) || self.failed.contains(&key) {
                continue;
            }
            self.asked.insert(key, (now, is_holder));
            self.questions.push(Box::pin(async move {
                let offer = peer.ask(&digest).await;
                (peer, offer)
            }));
        }
        let since_ms = milliseconds(now - self.began);
        let pause = pause_ms(peers.others(), since_ms, random());
        self.next_round = now + Duration::from_millis(pause);
    }

    /// Peers that have the bytes at this moment.
    async fn holders(&mut self) -> Vec<Source> {
        let Errand { peers, pin, .. } = self.errand;
        let mut asked = peers.to_ask(&pin.digest, &self.errand.ahead, self.random);
        asked.retain(|(peer, _)| !self.failed.contains(&peer.key()));
        let answers = join_all(asked.into_iter().map(async |(peer, _)| {
            let offer = timeout(ANSWER_WAIT, peer.ask(&pin.digest)).await;
            (peer, offer.ok().flatten())
        }));
        let answers = answers.await.into_iter();
        let has = answers.filter(|(_, offer)| *offer == Some(Offer::Has));
        has.map(|(peer, _)| peer).collect()
    }
}

fn warn(digest: &Digest, fault: &FetchError) {
    let reason = with_causes(fault);
    tracing::warn!(%digest, reason, "a source did not give the bytes");
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
