//! Who may speak to a machine that waits: few at once, and of these few from one address. Keys cost
//! nothing, addresses something. Not here: what is said.

use std::net::IpAddr;

use crate::places::Places;

/// Strangers that speak at once.
pub(super) const SPEAKERS_MAX: usize = 16;
/// Strangers from one address that speak at once: an owner's few nodes behind one router.
const SPEAKERS_PER_ORIGIN_MAX: usize = 4;

/// Where somebody comes from; `None`: through a relay.
pub(super) type Origin = Option<IpAddr>;

/// The turns, none taken.
pub(super) fn turns() -> Places<Origin> {
    Places::new(SPEAKERS_MAX, SPEAKERS_PER_ORIGIN_MAX)
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
    use crate::places::Place;

    #[test]
    fn one_address_leaves_turns_to_others_and_a_turn_that_ended_is_free() {
        let turns = turns();
        let at = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let mut held: Vec<Place<Origin>> = (0..100).filter_map(|_| turns.take(at(1), 0)).collect();
        assert_eq!(held.len(), SPEAKERS_PER_ORIGIN_MAX);
        held.extend((2..100).filter_map(|last| turns.take(at(last), 0)));
        assert_eq!(held.len(), SPEAKERS_MAX);
        assert!(turns.take(None, 0).is_none());
        held.truncate(1);
        assert!(turns.take(None, 0).is_some());
        held.clear();
        assert_eq!(turns.holders(), 0);
    }
}
