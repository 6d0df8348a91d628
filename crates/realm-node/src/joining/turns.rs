//! Who may speak to a machine that waits: few at once, and of these few from one address. Keys cost
//! nothing, addresses something. Not here: what is said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Strangers that speak at once.
pub(super) const SPEAKERS_MAX: usize = 16;
/// Strangers from one address that speak at once: an owner's few nodes behind one router.
const SPEAKERS_PER_ORIGIN_MAX: usize = 4;

/// Where somebody comes from; `None`: through a relay.
pub(super) type Origin = Option<IpAddr>;

/// The turns that are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<BTreeMap<Origin, usize>>>);

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    origin: Origin,
}

impl Turns {
    /// Takes a turn; `None`: too many speak.
    pub(super) fn take(&self, origin: Origin) -> Option<Turn> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.get(&origin).copied().unwrap_or(0);
        if taken.values().sum::<usize>() >= SPEAKERS_MAX || here >= SPEAKERS_PER_ORIGIN_MAX {
            return None;
        }
        taken.insert(origin, here + 1);
        Some(Turn {
            turns: self.clone(),
            origin,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.origin) {
            Some(here) if *here > 1 => *here -= 1,
            Some(_) | None => {
                taken.remove(&self.origin);
            }
        }
    }
}

/// Where the other side of a connection is.
pub(super) fn origin(address: &str) -> Origin {
    let written = realm_model::address::read(address).ok()?;
    match written.address.host {
        realm_model::address::Host::Ip(ip) => Some(ip.to_canonical()),
        realm_model::address::Host::Name { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_turns_to_others_and_a_turn_that_ended_is_free() {
        let turns = Turns::default();
        let at = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let mut held: Vec<Turn> = (0..100).filter_map(|_| turns.take(at(1))).collect();
        assert_eq!(held.len(), SPEAKERS_PER_ORIGIN_MAX);
        held.extend((2..100).filter_map(|last| turns.take(at(last))));
        assert_eq!(held.len(), SPEAKERS_MAX);
        assert!(turns.take(None).is_none());
        held.truncate(1);
        assert!(turns.take(None).is_some());
        held.clear();
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
