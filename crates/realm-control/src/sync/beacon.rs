//! The newest beacon: taken, kept, passed on, and missed.
//!
//! What counts is that a newer one came *and* that every entry it names is here: whoever lets the
//! beacons through and holds the news back is noticed as well. Time is this node's own, from the
//! moment at which that was last so. Not here: what a person is told (`reach::signals`).

use realm_model::beacon::{Beacon, BeaconMark, OpenedBeacon};
use realm_model::key::PublicKey;
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::sync::{Hint, Request};

use super::{Judgement, Output, Sync, Turn};
use crate::authority::BeaconRule;
use crate::ledger::Ledger;

/// What is known of the beacon.
#[derive(Debug, Default)]
pub(super) struct Watch {
    rule: Option<BeaconRule>,
    newest: Option<Kept>,
    /// Whether every entry that the newest one names is here.
    met: bool,
    /// When a newer one last came, and was met.
    fresh_ms: u64,
    /// What was kept before the start, until it is looked at.
    restored: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Kept {
    beacon: Beacon,
    bytes: Vec<u8>,
}

/// How the beacon stands at this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeaconState {
    /// What the owner promised.
    pub rule: BeaconRule,
    /// The newest one: counter, and when it was signed by its signer's clock.
    pub newest: Option<(u64, u64)>,
    /// Whether every entry that it names is here.
    pub met: bool,
    /// Since a newer one last came, and was met; since the start, if none did.
    pub age_ms: u64,
}

/// What became of a beacon.
enum Offered {
    Taken,
    /// It is here, or an older one; or nobody is asked for any here.
    Known,
    /// Its signature was not to be checked.
    Unchecked,
    Refused(Refusal),
}

impl Sync {
    /// How the beacon stands; `None`: the owners want none.
    pub fn beacon(&self, now_ms: u64) -> Option<BeaconState> {
        let newest = self.watch.newest.as_ref();
        Some(BeaconState {
            rule: self.watch.rule?,
            newest: newest.map(|kept| (kept.beacon.mark.counter, kept.beacon.created_unix_s)),
            met: newest.is_none() || self.watch.met,
            age_ms: now_ms.saturating_sub(self.watch.fresh_ms),
        })
    }

    /// The beacon that was kept before the start.
    pub fn restore_beacon(&mut self, bytes: Vec<u8>) {
        self.watch.restored = Some(bytes);
    }

    /// Whether a beacon that somebody hands in here is the newest one.
    pub fn judge_beacon(&self, bytes: &[u8], ledger: &Ledger) -> Result<BeaconMark, Refusal> {
        let Some(rule) = ledger.authority().beacon else {
            let why = "the owners want no beacon";
            return Err(Refusal::new(RefusalCode::UnknownName, why));
        };
        let beacon = Beacon::open(bytes, ledger.realm())?.verify(rule.key)?;
        match self.newest_mark() {
            Some(newest) if beacon.mark == newest => Err(Refusal::new(
                RefusalCode::Replayed,
                "exactly this beacon is here already",
            )),
            Some(newest) if beacon.mark < newest => Err(Refusal::new(
                RefusalCode::Stale,
                format!(
                    "beacon {} is not above {}",
                    beacon.mark.counter, newest.counter
                ),
            )),
            Some(_) | None => Ok(beacon.mark),
        }
    }

    pub(super) fn newest_mark(&self) -> Option<BeaconMark> {
        self.watch.newest.as_ref().map(|kept| kept.beacon.mark)
    }

    pub(super) fn newest_beacon(&self) -> Option<Vec<u8>> {
        self.watch.newest.as_ref().map(|kept| kept.bytes.clone())
    }

    /// Follows the ledger: who signs beacons, and whether what the newest one names has come.
    pub(super) fn refresh_beacon(&mut self, turn: &mut Turn<'_>) {
        let rule = turn.ledger.authority().beacon;
        let watch = &mut self.watch;
        if rule != watch.rule {
            // The time that was promised begins anew.
            watch.fresh_ms = turn.now_ms;
            let key = |rule: Option<BeaconRule>| rule.map(|rule| rule.key);
            if key(rule) != key(watch.rule) {
                watch.newest = None;
            }
            watch.rule = rule;
        }
        if let Some(rule) = rule
            && let Some(bytes) = watch.restored.take()
            && let Ok(opened) = Beacon::open(&bytes, turn.ledger.realm())
            && let Ok(beacon) = opened.verify(rule.key)
        {
            watch.met = is_met(&beacon, turn.ledger);
            watch.newest = Some(Kept { beacon, bytes });
        }
        if let Some(kept) = watch.newest.as_ref().filter(|_| !watch.met)
            && is_met(&kept.beacon, turn.ledger)
        {
            (watch.met, watch.fresh_ms) = (true, turn.now_ms);
        }
    }

    /// Asks for a beacon that is newer than the one here.
    pub(super) fn want_beacon(
        &mut self,
        peer: PublicKey,
        theirs: Option<BeaconMark>,
        turn: &mut Turn<'_>,
    ) {
        #[cfg(test)]
        if self.planted == Some(super::Planted::BeaconsAreIgnored) {
            return;
        }
        if self.watch.rule.is_some() && theirs > self.newest_mark() {
            self.ask(peer, Request::Beacon, false, turn);
        }
    }

    /// A beacon that was published.
    pub(super) fn beacon_hint(
        &mut self,
        from: PublicKey,
        bytes: &[u8],
        may_check: bool,
        turn: &mut Turn<'_>,
    ) -> Judgement {
        match self.offer_beacon(from, bytes, may_check, turn) {
            Offered::Taken => Judgement::Forward,
            Offered::Refused(refusal) if is_blameworthy(refusal.code) => Judgement::Blame,
            Offered::Known | Offered::Unchecked | Offered::Refused(_) => Judgement::Drop,
        }
    }

    /// A beacon that was asked for, or handed in: the others hear of it.
    pub(super) fn beacon_came(&mut self, from: PublicKey, bytes: &[u8], turn: &mut Turn<'_>) {
        if matches!(self.offer_beacon(from, bytes, true, turn), Offered::Taken) {
            let hint = Hint::Beacon(bytes.to_vec()).to_bytes();
            turn.out.push(Output::Publish(hint));
        }
    }

    fn offer_beacon(
        &mut self,
        from: PublicKey,
        bytes: &[u8],
        may_check: bool,
        turn: &mut Turn<'_>,
    ) -> Offered {
        let offered = match Beacon::open(bytes, turn.ledger.realm()) {
            Ok(opened) => self.weigh_beacon(from, opened, bytes, may_check, turn),
            Err(refusal) => Offered::Refused(refusal),
        };
        match &offered {
            Offered::Refused(refusal) if is_blameworthy(refusal.code) => {
                self.blame(from, "beacon-false", bytes, turn);
            }
            // Of a key that was named before, or will be: the ledgers of two nodes may differ.
            Offered::Refused(refusal) => self.count(refusal.code.as_str()),
            Offered::Unchecked => self.count("peer-over-budget"),
            Offered::Taken | Offered::Known => {}
        }
        offered
    }

    fn weigh_beacon(
        &mut self,
        from: PublicKey,
        opened: OpenedBeacon,
        bytes: &[u8],
        may_check: bool,
        turn: &mut Turn<'_>,
    ) -> Offered {
        let Some(rule) = self.watch.rule else {
            return Offered::Known;
        };
        // Before the signature: what went round before must cost nothing.
        if Some(opened.mark()) <= self.newest_mark() {
            return Offered::Known;
        }
        if !may_check {
            return Offered::Unchecked;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.checks.take(1);
        }
        let beacon = match opened.verify(rule.key) {
            Ok(beacon) => beacon,
            Err(refusal) => return Offered::Refused(refusal),
        };
        self.watch.met = is_met(&beacon, turn.ledger);
        if self.watch.met {
            self.watch.fresh_ms = turn.now_ms;
        }
        let bytes = bytes.to_vec();
        turn.out.push(Output::Beacon(bytes.clone()));
        self.watch.newest = Some(Kept { beacon, bytes });
        Offered::Taken
    }
}

/// Whether every entry that a beacon names is here. A chain that stands still is no question of time.
fn is_met(beacon: &Beacon, ledger: &Ledger) -> bool {
    beacon.heads.iter().all(|there| {
        let here = ledger.hash_at(there.chain, there.head.seq);
        here == Some(there.head.hash) || ledger.frozen().any(|(chain, _)| chain == there.chain)
    })
}

/// Whether nobody who checked the bytes can have sent them on.
const fn is_blameworthy(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::BadSignature
            | RefusalCode::Malformed
            | RefusalCode::Oversized
            | RefusalCode::WrongRealm
    )
}
