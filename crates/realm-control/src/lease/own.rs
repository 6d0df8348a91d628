//! What this node asks for, holds and gives back.

use std::collections::BTreeSet;

use realm_model::name::ComponentName;
use realm_model::observed::Millis;
use realm_model::record::limits::LEASES_MAX;
use realm_model::record::{KeyBytes, LeaseAsk, LeaseState, Version};

use super::seen::{Seen, place};
use super::{Input, LEASE_MS, LOCK_MS, Leases, Output, RENEW_MS, YIELD_MS};

/// This node's ask for a singleton.
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// The last one.
    nonce: Version,
    members: u64,
    /// Asks that may still make a lease, and when each was asked, ascending.
    pub(super) issued: Vec<(Version, Millis)>,
    /// Until when the singleton may run here.
    until: Millis,
    /// When it was given up.
    released_at: Option<Millis>,
    /// When it may be asked for again, after it was left to another node.
    again_at: Millis,
    waits_since: Option<Millis>,
}

impl Own {
    const fn new(nonce: Version) -> Self {
        Self {
            nonce,
            members: 0,
            issued: Vec::new(),
            until: Millis(0),
            released_at: None,
            again_at: Millis(0),
            waits_since: None,
        }
    }

    const fn state(&self, now: Millis) -> LeaseState {
        if self.released_at.is_some() {
            LeaseState::Released
        } else if self.until.0 > now.0 {
            LeaseState::Holds
        } else {
            LeaseState::Asks
        }
    }

    /// The same as others see it.
    pub(super) fn as_seen(&self, now: Millis) -> Option<Seen> {
        let (nonce, news_at) = *self.issued.last()?;
        Some(Seen {
            nonce,
            state: self.state(now),
            members: self.members,
            news_at,
            waits_since: self.waits_since,
        })
    }

    /// Whether a grant in answer to this ask binds nobody any longer.
    pub(super) fn gave_up(&self, nonce: Version) -> bool {
        self.released_at.is_some() && nonce <= self.nonce
    }

    fn give_up(&mut self, now: Millis) {
        self.issued.clear();
        self.until = Millis(0);
        self.waits_since = None;
        self.released_at.get_or_insert(now);
    }

    fn is_due(&self, after_ms: u64, now: Millis) -> bool {
        let last = self.issued.last();
        last.is_none_or(|(_, at)| at.plus(after_ms) <= now)
    }
}

impl Leases {
    /// Decides what to ask for, and asks where it is time.
    pub(super) fn ask(&mut self, input: &Input<'_>, now: Millis) {
        self.count(input, now);
        let names: BTreeSet<_> = input.wanted.iter().chain(self.own.keys()).collect();
        let names: Vec<_> = names.into_iter().cloned().collect();
        let asks: Vec<_> = names
            .into_iter()
            .filter(|component| self.settle(input, component, now))
            .collect();
        let is_due = |after_ms: u64, one: &ComponentName| {
            let own = self.own.get(one);
            own.is_none_or(|own| own.is_due(after_ms, now))
        };
        // A record more costs the same for one ask as for all: what is due soon is asked with it.
        if !asks.iter().any(|one| is_due(RENEW_MS, one)) {
            return;
        }
        let asks = asks.into_iter();
        let soon: Vec<_> = asks.filter(|one| is_due(RENEW_MS / 2, one)).collect();
        for component in soon {
            self.issue(input, component, now);
        }
    }

    /// Keeps, leaves or gives back a singleton; whether it is to be asked for.
    fn settle(&mut self, input: &Input<'_>, component: &ComponentName, now: Millis) -> bool {
        let member = input.electorate.nodes.contains(&input.own);
        let wanted = member && input.wanted.contains(component);
        let running = input.running.contains(component);
        let yields = self.is_behind(input, component, now);
        let full = self.own.len() >= LEASES_MAX;
        let Some(own) = self.own.get_mut(component) else {
            return wanted && !yields && !full;
        };
        if !member {
            own.until = Millis(0);
        }
        let holds = own.until > now;
        if member && holds && (wanted || running) {
            return true;
        }
        if wanted && !yields {
            return own.again_at <= now;
        }
        // What still stops is no other node's yet.
        if !running && own.released_at.is_none() {
            own.give_up(now);
            if wanted {
                own.again_at = now.plus(YIELD_MS);
            }
        }
        let told = |at: Millis| at.plus(LOCK_MS) <= now;
        if own.released_at.is_some_and(told) {
            self.own.remove(component);
        }
        false
    }

    /// Whether another node comes first.
    fn is_behind(&self, input: &Input<'_>, component: &ComponentName, now: Millis) -> bool {
        #[cfg(test)]
        if self.planted == Some(super::Planted::Stubborn) {
            return false;
        }
        let own = self.own.get(component).and_then(|own| own.as_seen(now));
        // Who does not ask yet would be the last to have come.
        let own = own.unwrap_or(Seen {
            nonce: self.nonce,
            state: LeaseState::Asks,
            members: input.electorate.changes,
            news_at: now,
            waits_since: Some(now),
        });
        let own = place(input, component, input.own, &own, now);
        let line = self.line(input, component, now);
        let first = line.iter().find(|(place, _)| place.3 != input.own);
        first.is_some_and(|(place, _)| own.is_none_or(|own| *place < own))
    }

    fn issue(&mut self, input: &Input<'_>, component: ComponentName, now: Millis) {
        self.nonce.counter += 1;
        let nonce = self.nonce;
        let own = self.own.entry(component).or_insert_with(|| Own::new(nonce));
        own.nonce = nonce;
        own.members = input.electorate.changes;
        own.released_at = None;
        own.issued.push((nonce, now));
        if own.until <= now {
            own.waits_since.get_or_insert(now);
        }
    }

    /// Counts the grants: a lease lasts from the newest ask that a majority granted, or later ones.
    pub(super) fn count(&mut self, input: &Input<'_>, now: Millis) {
        let electorate = input.electorate;
        let majority = self.majority(electorate);
        let granted = &self.granted;
        for (component, own) in &mut self.own {
            own.issued.retain(|(_, at)| at.plus(LEASE_MS) > now);
            let answered = |node: &KeyBytes| {
                let nonce = if *node == input.own {
                    let granted = granted.get(component)?;
                    (granted.holder == input.own).then_some(granted.nonce)?
                } else {
                    let mut grants = input.said.get(node)?.grants.iter();
                    let to_own = grants
                        .find(|one| one.component == *component && one.holder == input.own)?;
                    to_own.nonce
                };
                let asked = own.issued.iter().find(|(issued, _)| *issued == nonce);
                asked.map(|(_, at)| *at)
            };
            let mut asked: Vec<Millis> = electorate.nodes.iter().filter_map(answered).collect();
            asked.sort_unstable();
            let Some(since) = asked.iter().nth_back(majority - 1).copied() else {
                continue;
            };
            #[cfg(test)]
            let since = match self.planted {
                Some(super::Planted::FromTheAnswer) => now,
                _ => since,
            };
            own.until = own.until.max(since.plus(LEASE_MS));
            if own.until > now {
                own.waits_since = None;
            }
        }
    }

    fn majority(&self, electorate: &super::Electorate) -> usize {
        #[cfg(test)]
        if self.planted == Some(super::Planted::HalfIsEnough) {
            return electorate.nodes.len().div_ceil(2).max(1);
        }
        electorate.majority()
    }

    /// What is published and done.
    pub(super) fn output(&self, input: &Input<'_>, now: Millis) -> Output {
        let asks = self.own.iter().map(|(component, own)| LeaseAsk {
            component: component.clone(),
            nonce: own.nonce,
            state: own.state(now),
            members: own.members,
        });
        let holds = self.own.iter().filter(|(_, own)| own.until > now);
        let own = self.own.values().flat_map(|own| {
            let renewed = own.issued.last().map(|(_, at)| at.plus(RENEW_MS));
            let patience = own.as_seen(now).into_iter();
            let patience = patience.flat_map(|seen| seen.times().collect::<Vec<_>>());
            [own.until, own.again_at]
                .into_iter()
                .chain(renewed)
                .chain(patience)
        });
        let times = own
            .chain(self.seen.values().flat_map(Seen::times))
            .chain(self.granted.values().map(|granted| granted.locked_until))
            .chain([self.quiet_until(input.electorate)]);
        Output {
            asks: asks.collect(),
            grants: self.grants(),
            holds: holds.map(|(name, own)| (name.clone(), own.until)).collect(),
            wake_at: times.filter(|at| *at > now).min(),
        }
    }
}
