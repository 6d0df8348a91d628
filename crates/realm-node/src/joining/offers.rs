//! The realms that offer themselves to a machine that waits. Whoever reaches its port may offer: so
//! they are few, each source has a share, and those that lead nowhere are forgotten.
//!
//! Pure: time is an argument. Not here: asking them, and what is kept in the file.

use std::net::IpAddr;

use realm_model::address::{Host, NodeAddress};
use realm_model::entry::RealmId;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use super::turns::Origin;

/// Addresses that are kept of each realm that made an offer.
const ADDRESSES_MAX: usize = 8;
/// Realms that are asked at once.
const OFFERS_MAX: usize = 8;
/// Realms that are asked at once and were offered from one address.
const OFFERS_PER_ORIGIN_MAX: usize = 2;
/// An offer whose addresses never answered is forgotten after this time.
const UNANSWERED_TTL: Duration = Duration::from_secs(10 * 60);
/// An offer that once answered is forgotten after this time of silence: members sleep at night.
const SILENT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A realm that would take the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptOffer {
    pub(crate) realm: RealmId,
    /// The newest ones first.
    pub(crate) addresses: Vec<String>,
    /// The owner that the machine waits for signed the realm's first entry.
    #[serde(default)]
    founded: bool,
    /// One of the addresses answered once.
    #[serde(default)]
    answered: bool,
    #[serde(default)]
    origin: Origin,
    /// When it was made, or answered last; `None`: before this start.
    #[serde(skip)]
    heard: Option<Instant>,
}

/// Notes an offer. A realm that is new takes the place of another one, if there is none left; `false`:
/// all places belong to realms that the owner founded.
pub(super) fn note(
    offers: &mut Vec<KeptOffer>,
    (realm, founded): (RealmId, bool),
    addresses: &[String],
    origin: Origin,
    now: Instant,
) -> bool {
    let kept = offers.iter().position(|offer| offer.realm == realm);
    let at = match kept {
        Some(at) => at,
        None => {
            if !make_room(offers, origin, founded) {
                return false;
            }
            offers.push(KeptOffer {
                realm,
                addresses: Vec::new(),
                founded,
                answered: false,
                origin,
                heard: None,
            });
            offers.len() - 1
        }
    };
    let offer = &mut offers[at];
    offer.heard = Some(now);
    let mut known = addresses.to_vec();
    known.append(&mut offer.addresses);
    for address in known {
        if offer.addresses.len() < ADDRESSES_MAX && !offer.addresses.contains(&address) {
            offer.addresses.push(address);
        }
    }
    true
}

/// Notes that a realm answered at an address; returns whether that is to be kept.
pub(super) fn answered(offers: &mut [KeptOffer], realm: RealmId, now: Instant) -> bool {
    let Some(offer) = offers.iter_mut().find(|offer| offer.realm == realm) else {
        return false;
    };
    offer.heard = Some(now);
    !std::mem::replace(&mut offer.answered, true)
}

/// Forgets what leads nowhere; returns whether something did.
pub(super) fn expire(offers: &mut Vec<KeptOffer>, now: Instant) -> bool {
    let before = offers.len();
    offers.retain_mut(|offer| {
        let limit = match offer.answered {
            true => SILENT_TTL,
            false => UNANSWERED_TTL,
        };
        now.duration_since(*offer.heard.get_or_insert(now)) < limit
    });
    offers.len() < before
}

/// The share of one source first, then what never answered, then what was silent longest.
fn make_room(offers: &mut Vec<KeptOffer>, origin: Origin, founded: bool) -> bool {
    let mut weak: Vec<usize> = (0..offers.len())
        .filter(|at| !offers[*at].founded)
        .collect();
    let of_origin = weak.iter().filter(|at| offers[**at].origin == origin);
    if !founded && of_origin.count() >= OFFERS_PER_ORIGIN_MAX {
        weak.retain(|at| offers[*at].origin == origin);
    } else if offers.len() < OFFERS_MAX {
        return true;
    }
    let goes = weak
        .into_iter()
        .min_by_key(|at| (offers[*at].answered, offers[*at].heard));
    match goes {
        Some(at) => {
            offers.remove(at);
            true
        }
        None => false,
    }
}

/// Whether an address of an offer is asked. A stranger does not send this machine to its own services
/// or to those beside it on the link, unless the stranger is there itself; nor to names, which
/// may mean any of them.
pub(super) fn may_ask(address: &NodeAddress, origin: Origin) -> bool {
    match &address.host {
        Host::Ip(ip) => {
            let reach = Reach::of(ip.to_canonical());
            reach == Reach::Routed || origin.is_some_and(|origin| Reach::of(origin) == reach)
        }
        Host::Name { .. } => origin.is_some_and(|origin| Reach::of(origin) == Reach::Loopback),
    }
}

/// How far an address goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Loopback,
    Link,
    /// Unspecified, multicast, broadcast: nobody's address.
    Nobody,
    Routed,
}

impl Reach {
    fn of(ip: IpAddr) -> Self {
        let (link, broadcast) = match ip {
            IpAddr::V4(ip) => (ip.is_link_local(), ip.is_broadcast() || ip.octets()[0] == 0),
            IpAddr::V6(ip) => (ip.is_unicast_link_local(), false),
        };
        if ip.is_loopback() {
            Self::Loopback
        } else if link {
            Self::Link
        } else if ip.is_unspecified() || ip.is_multicast() || broadcast {
            Self::Nobody
        } else {
            Self::Routed
        }
    }
}

#[cfg(test)]
mod tests;
