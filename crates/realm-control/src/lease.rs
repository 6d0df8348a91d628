//! The leases of singletons: who may run what must run on one node only, decided by no leader.
//!
//! A node that wants a singleton asks for it in its record; each approved node grants it to one at a
//! time; whoever a majority granted it to holds it for [`LEASE_MS`] from its *question* on, and asks
//! again in time. Time is each node's own monotonic clock; a minority holds nothing. Not here: who
//! shall want a singleton (placement, an argument), and stopping what runs when a lease is over (the
//! executor).

mod own;
mod seen;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::{BTreeMap, BTreeSet};

use realm_model::name::ComponentName;
use realm_model::observed::Millis;
use realm_model::record::{KeyBytes, LeaseAsk, LeaseGrant, Version};

use crate::records::Records;
use own::Own;
use seen::Seen;
use witness::Granted;

/// How long a lease lasts, by its holder's clock, from its question on: short enough that a singleton
/// whose node died moves within a minute, three times what a renewal may take.
pub const LEASE_MS: u64 = 30_000;

/// A holder asks again so long after its last question: two questions may get lost.
pub const RENEW_MS: u64 = LEASE_MS / 3;

/// What two clocks may gain on each other within a lease: twice the 1 % that is allowed for.
const DRIFT_MS: u64 = LEASE_MS / 50;

/// What passes between a deadline and the moment when the last guest has stopped.
const MARGIN_MS: u64 = 1_000;

/// How long a witness grants to nobody else what it granted, by its own clock: nobody holds anything
/// by that grant any longer.
pub const LOCK_MS: u64 = LEASE_MS + DRIFT_MS + MARGIN_MS;

/// An ask that was not renewed for so long is of a node that is gone: two renewals and what a record
/// takes. Less than [`LOCK_MS`], so that a witness that started does not take old asks for new ones.
const LIVE_MS: u64 = 2 * RENEW_MS + 5_000;

/// Who asked for so long and got nothing comes after the others.
const PATIENCE_MS: u64 = 2 * LEASE_MS;

/// Who made way for another asks again no sooner.
const YIELD_MS: u64 = RENEW_MS / 2;

/// The approved nodes, of which a majority is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Electorate {
    /// Their keys.
    pub nodes: BTreeSet<KeyBytes>,
    /// How many keys came or went since the realm was founded.
    pub changes: u64,
}

impl Electorate {
    /// How many nodes are more than half of them.
    pub fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }
}

/// What a node says of leases in its record.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// What it asks for.
    pub asks: &'a [LeaseAsk],
    /// What it grants.
    pub grants: &'a [LeaseGrant],
}

/// What each node says of leases in its newest record.
pub fn said(records: &Records) -> BTreeMap<KeyBytes, Said<'_>> {
    let said = records.iter().map(|record| {
        let body = &record.body;
        let said = Said {
            asks: body.asks.as_deref().unwrap_or_default(),
            grants: body.grants.as_deref().unwrap_or_default(),
        };
        (record.node.into(), said)
    });
    said.collect()
}

/// What the leases of a node depend on.
pub struct Input<'a> {
    /// This node.
    pub own: KeyBytes,
    /// The approved nodes.
    pub electorate: &'a Electorate,
    /// Singletons that this node shall run, as it sees the realm.
    pub wanted: &'a BTreeSet<ComponentName>,
    /// Singletons of which anything is left here: one that starts, runs, drains or is being stopped.
    /// Their leases are kept, and given back when they are gone.
    pub running: &'a BTreeSet<ComponentName>,
    /// What the nodes say in their records.
    pub said: &'a BTreeMap<KeyBytes, Said<'a>>,
    /// The order in which a singleton should go to nodes that ask at once, by what the owners signed
    /// alone, the lowest first; `None`: it is no singleton, or not for this node. Where nodes differ
    /// in it a singleton may stay down, and never runs twice.
    pub rank: &'a dyn Fn(&ComponentName, KeyBytes) -> Option<u32>,
}

/// What is to be published and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// What this node's record asks for.
    pub asks: Vec<LeaseAsk>,
    /// What it grants.
    pub grants: Vec<LeaseGrant>,
    /// What may run here, and until when: at that moment it must have stopped.
    pub holds: BTreeMap<ComponentName, Millis>,
    /// When to look again, whatever happens.
    pub wake_at: Option<Millis>,
}

/// The leases of one start of the agent.
///
/// No two nodes hold one singleton at a time, as long as clocks differ by 1 % at most and count while
/// a machine sleeps; each key is used by one machine; and the owners approve or revoke the next node
/// when a majority has heard of the last one, in a partition [`LOCK_MS`] later. A holder that was
/// stopped finds its lease over when it looks at the clock, not before.
#[derive(Debug, Clone)]
pub struct Leases {
    started_at: Millis,
    /// The last ask of this start; its epoch and boot are those of the start.
    nonce: Version,
    /// Earlier counts of [`Electorate::changes`], and when each was over.
    terms: Vec<(u64, Millis)>,
    changes: Option<u64>,
    own: BTreeMap<ComponentName, Own>,
    seen: BTreeMap<(ComponentName, KeyBytes), Seen>,
    granted: BTreeMap<ComponentName, Granted>,
    #[cfg(test)]
    planted: Option<Planted>,
}

/// Mistakes that a test plants, to see that it is found.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    /// A witness that started grants at once.
    NoQuiet,
    /// A lease counts from the answer on.
    FromTheAnswer,
    /// A witness takes its clock for that of the holder.
    NoDrift,
    /// Half of the nodes are a majority.
    HalfIsEnough,
    /// A witness grants to whoever asks last.
    NoLock,
    /// Nobody cares how often the set of nodes changed.
    AnyMembers,
    /// Nobody waits when that set changed twice.
    NoTerms,
    /// Nobody makes way, and each grant is extended.
    Stubborn,
}

impl Leases {
    /// The leases of an agent that started at `started_at`, with the epoch and the boot number of its
    /// records: no other start has both.
    pub const fn new(started_at: Millis, epoch: u64, boot: u64) -> Self {
        Self {
            started_at,
            nonce: Version {
                epoch,
                boot,
                counter: 0,
            },
            terms: Vec::new(),
            changes: None,
            own: BTreeMap::new(),
            seen: BTreeMap::new(),
            granted: BTreeMap::new(),
            #[cfg(test)]
            planted: None,
        }
    }

    /// Whether there is nothing that time or a word of others could change, where no singleton is wanted.
    pub fn is_idle(&self) -> bool {
        self.own.is_empty() && self.granted.is_empty()
    }

    /// Looks at what the nodes say and at the clock. `now` is read before `input` is collected, and
    /// what comes out is published after: so no delay makes a lease longer.
    pub fn look(&mut self, input: &Input<'_>, now: Millis) -> Output {
        self.count_changes(input.electorate.changes, now);
        self.see(input, now);
        self.ask(input, now);
        self.grant(input, now);
        // This node's own grant may be the one that was missing.
        self.count(input, now);
        self.output(input, now)
    }

    /// Notes how often the set of approved nodes changed.
    fn count_changes(&mut self, changes: u64, now: Millis) {
        self.terms.retain(|(_, over)| over.plus(LOCK_MS) > now);
        if self.changes == Some(changes) {
            return;
        }
        if let Some(before) = self.changes.replace(changes) {
            self.terms.push((before, now));
        }
        // Leases of an older set stand until they are over, and are not made longer.
        for own in self.own.values_mut() {
            own.issued.clear();
        }
    }

    /// Until when nobody gets anything new from this node. It may have granted before it started and
    /// has forgotten it; and majorities of two sets of nodes have one in common if the sets differ by
    /// one node, otherwise the leases of the older set must be over first.
    fn quiet_until(&self, electorate: &Electorate) -> Millis {
        // Who never had another beside it forgot nothing.
        let alone = electorate.changes <= 1;
        #[cfg(test)]
        let alone = alone || self.planted == Some(Planted::NoQuiet);
        let start = if alone {
            Millis(0)
        } else {
            self.started_at.plus(LOCK_MS)
        };
        let far = |term: &&(u64, Millis)| term.0.abs_diff(electorate.changes) > 1;
        let terms = self.terms.iter().filter(far);
        #[cfg(test)]
        let terms = terms.filter(|_| self.planted != Some(Planted::NoTerms));
        let terms = terms.map(|(_, over)| over.plus(LOCK_MS));
        terms.fold(start, Millis::max)
    }
}
