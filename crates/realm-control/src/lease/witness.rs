//! What this node grants: each singleton to one node at a time, and to another one only when nobody
//! can hold it by the last grant.

use std::collections::BTreeSet;

use realm_model::name::ComponentName;
use realm_model::observed::Millis;
use realm_model::record::limits::LEASES_MAX;
use realm_model::record::{KeyBytes, LeaseAsk, LeaseGrant, LeaseState, Version};

use super::seen::Seen;
use super::{Input, LOCK_MS, Leases};

/// A grant that may still make a lease.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) holder: KeyBytes,
    pub(super) nonce: Version,
    /// Until when nobody else gets it.
    pub(super) locked_until: Millis,
}

impl Granted {
    /// Whether an ask is of the same agent, or of one that was started after it ended. Another start
    /// with the same epoch is another machine with the same key.
    const fn is_of(&self, nonce: Version) -> bool {
        nonce.epoch > self.nonce.epoch
            || (nonce.epoch == self.nonce.epoch && nonce.boot == self.nonce.boot)
    }
}

impl Leases {
    /// Grants what is asked for, to one node each.
    pub(super) fn grant(&mut self, input: &Input<'_>, now: Millis) {
        let quiet = self.quiet_until(input.electorate) > now;
        let asked = self.seen.keys().map(|(component, _)| component);
        let names: BTreeSet<_> = asked.chain(self.own.keys()).cloned().collect();
        self.granted.retain(|_, granted| granted.locked_until > now);
        for component in names {
            if self.is_given_back(input, &component) {
                self.granted.remove(&component);
            }
            if let Some((holder, nonce)) = self.choice(input, &component, quiet, now) {
                let granted = Granted {
                    holder,
                    nonce,
                    locked_until: now.plus(self.lock_ms()),
                };
                self.granted.insert(component, granted);
            }
        }
    }

    /// What is published of it.
    pub(super) fn grants(&self) -> Vec<LeaseGrant> {
        let grants = self.granted.iter();
        let grants = grants.map(|(component, granted)| LeaseGrant {
            component: component.clone(),
            holder: granted.holder,
            nonce: granted.nonce,
        });
        grants.collect()
    }

    /// Whose ask is granted, if one is.
    fn choice(
        &self,
        input: &Input<'_>,
        component: &ComponentName,
        quiet: bool,
        now: Millis,
    ) -> Option<(KeyBytes, Version)> {
        let line = self.line(input, component, now);
        let (first, seen) = line.first()?;
        let first = (first.3, seen.nonce);
        let Some(granted) = self.granted.get(component) else {
            let room = self.granted.len() < LEASES_MAX;
            return (room && !quiet).then_some(first);
        };
        #[cfg(test)]
        if self.planted == Some(super::Planted::NoLock) {
            return Some(first);
        }
        let (place, seen) = line.iter().find(|(place, _)| place.3 == granted.holder)?;
        let news = granted.is_of(seen.nonce) && seen.nonce > granted.nonce;
        (news && self.extends(quiet, place.3 == first.0, seen)).then_some((place.3, seen.nonce))
    }

    /// Whether who was granted it gets more time: who holds it always, who waits for a majority only
    /// while nobody else comes first, so that two who got a part each do not wait for ever.
    fn extends(&self, quiet: bool, first: bool, seen: &Seen) -> bool {
        #[cfg(test)]
        if self.planted == Some(super::Planted::Stubborn) {
            return true;
        }
        seen.state == LeaseState::Holds || (first && !quiet)
    }

    /// Whether the node that this one granted it to gave it up.
    fn is_given_back(&self, input: &Input<'_>, component: &ComponentName) -> bool {
        let Some(granted) = self.granted.get(component) else {
            return false;
        };
        if granted.holder == input.own {
            let own = self.own.get(component);
            return own.is_some_and(|own| own.gave_up(granted.nonce));
        }
        let covers = |ask: &LeaseAsk| {
            let start = (ask.nonce.epoch, ask.nonce.boot);
            ask.component == *component
                && ask.state == LeaseState::Released
                && start == (granted.nonce.epoch, granted.nonce.boot)
                && ask.nonce >= granted.nonce
        };
        let said = input.said.get(&granted.holder);
        said.is_some_and(|said| said.asks.iter().any(covers))
    }

    fn lock_ms(&self) -> u64 {
        #[cfg(test)]
        if self.planted == Some(super::Planted::NoDrift) {
            return super::LEASE_MS;
        }
        LOCK_MS
    }
}
