//! Where members may be reached, and when to try again. Pure: time is an argument in milliseconds.
//!
//! An attempt goes through stages: QUIC first, TCP when QUIC has not answered after a moment, relays
//! last. A firewall that swallows UDP so costs a moment, not a timeout. A member is tried for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use realm_model::key::PublicKey;

/// Addresses kept per member: several interfaces, two transports, two relays.
const ADDRESSES_MAX: usize = 16;
/// Longest address in bytes: a relayed one with a long name.
const ADDRESS_BYTES_MAX: usize = 512;
/// Head start of QUIC before TCP, and of TCP before a relay: longer than a handshake takes where many
/// wake up at once, or each of them would make a second one.
const STAGE_MS: u64 = 2_500;
/// Waits between attempts: doubled from the first to the last. The last is short, since a partition
/// of hours must heal within seconds, and a dial costs a packet.
const WAIT_FIRST_MS: u64 = 500;
const WAIT_LAST_MS: u64 = 8_000;
/// Head start of the node with the lower key, so that two nodes that find each other at once make one
/// connection and not two.
const SECOND_WAIT_MS: u64 = 1_000;

/// Which kind of way an address is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Quic,
    Tcp,
    Relay,
}

const KINDS: [Kind; 3] = [Kind::Quic, Kind::Tcp, Kind::Relay];

/// Where an address comes from: each source replaces what it said before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The agent: signed records, tickets, what a person typed.
    Told,
    /// A connection that worked.
    Worked,
    /// The peer itself, multicast, look-ups.
    Found,
}

/// The kind of an address, or none when it is not one that can be dialled.
pub(crate) fn kind(address: &Multiaddr) -> Option<Kind> {
    if address.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let nowhere = |part: &Part<'_>| {
        let no_host = ip_of(part).is_some_and(|ip| {
            ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST
        });
        no_host || matches!(part, Part::Udp(0) | Part::Tcp(0))
    };
    if address.iter().any(|part| nowhere(&part)) {
        return None;
    }
    let has = |wanted: fn(&Part<'_>) -> bool| address.iter().any(|part| wanted(&part));
    if has(|part| matches!(part, Part::P2pCircuit)) {
        Some(Kind::Relay)
    } else if has(|part| matches!(part, Part::QuicV1)) {
        Some(Kind::Quic)
    } else if has(|part| matches!(part, Part::Tcp(_))) {
        Some(Kind::Tcp)
    } else {
        None
    }
}

/// The number of a host, where the part is one.
pub(crate) fn ip_of(part: &Part<'_>) -> Option<IpAddr> {
    if let Part::Ip4(ip) = part {
        Some(IpAddr::V4(*ip))
    } else if let Part::Ip6(ip) = part {
        Some(IpAddr::V6(*ip))
    } else {
        None
    }
}

/// The address without the key at its end, which the swarm adds itself.
pub(crate) fn bare(mut address: Multiaddr) -> Multiaddr {
    if let Some(Part::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

#[derive(Debug, Default)]
struct Attempt {
    began_ms: u64,
    /// Kinds that were dialled.
    stage: usize,
    /// Dials that have not ended.
    under_way: usize,
}

#[derive(Debug, Default)]
struct Entry {
    addresses: Vec<(Source, Kind, Multiaddr)>,
    attempt: Option<Attempt>,
    failures: u32,
    not_before_ms: u64,
    trouble: BTreeMap<Kind, String>,
    looked_up_ms: Option<u64>,
}

/// Addresses and attempts of all members.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: BTreeMap<PublicKey, Entry>,
}

impl Book {
    /// Keeps entries of members alone.
    pub(crate) fn retain(&mut self, me: PublicKey, members: &BTreeSet<PublicKey>, now_ms: u64) {
        self.entries.retain(|key, _| members.contains(key));
        for key in members.iter().filter(|key| **key != me) {
            self.entries.entry(*key).or_insert_with(|| Entry {
                not_before_ms: if me < *key {
                    0
                } else {
                    now_ms + SECOND_WAIT_MS
                },
                ..Entry::default()
            });
        }
    }

    /// Takes what a source says in place of what it said before; what worked stays in front.
    pub(crate) fn learn(&mut self, key: PublicKey, source: Source, addresses: Vec<Multiaddr>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if source != Source::Worked {
            entry.addresses.retain(|(from, _, _)| *from != source);
        }
        for address in addresses.into_iter().take(ADDRESSES_MAX).map(bare) {
            let known = entry
                .addresses
                .iter()
                .any(|(_, _, known)| *known == address);
            if let (Some(kind), false) = (kind(&address), known) {
                entry.addresses.push((source, kind, address));
            }
        }
        entry.addresses.sort_by_key(|(source, _, _)| *source);
        entry.addresses.truncate(ADDRESSES_MAX);
    }

    pub(crate) fn has_addresses(&self, key: &PublicKey) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| !entry.addresses.is_empty())
    }

    /// The best kind of way that is known.
    pub(crate) fn best(&self, key: &PublicKey) -> Option<Kind> {
        self.entries
            .get(key)?
            .addresses
            .iter()
            .map(|(_, kind, _)| *kind)
            .min()
    }

    /// Begins an attempt if none is under way and it is time; returns whether it did. `at_once`, it
    /// is always time.
    pub(crate) fn begin(&mut self, key: &PublicKey, now_ms: u64, at_once: bool) -> bool {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.attempt.is_none()
            && (at_once || entry.not_before_ms <= now_ms)
            && !entry.addresses.is_empty()
        {
            entry.attempt = Some(Attempt {
                began_ms: now_ms,
                ..Attempt::default()
            });
            return true;
        }
        false
    }

    /// Whether it can be dialled: an attempt is under way, or would begin.
    pub(crate) fn is_open(&self, key: &PublicKey, now_ms: u64) -> bool {
        let open = |entry: &Entry| {
            entry.attempt.is_some()
                || (!entry.addresses.is_empty() && entry.not_before_ms <= now_ms)
        };
        self.entries.get(key).is_some_and(open)
    }

    /// Whether an attempt is under way.
    pub(crate) fn is_trying(&self, key: &PublicKey) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.attempt.is_some())
    }

    /// Members with an attempt under way.
    pub(crate) fn attempts(&self) -> Vec<PublicKey> {
        let under_way = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.attempt.is_some());
        under_way.map(|(key, _)| *key).collect()
    }

    /// The addresses to dial next in the attempt; one dial for all of them. `better_than` leaves out
    /// kinds that are no better than the way there is.
    pub(crate) fn step(
        &mut self,
        key: &PublicKey,
        now_ms: u64,
        better_than: Option<Kind>,
    ) -> Option<Vec<Multiaddr>> {
        let entry = self.entries.get_mut(key)?;
        let attempt = entry.attempt.as_mut()?;
        while let Some(kind) = KINDS.get(attempt.stage) {
            let addresses: Vec<_> = entry
                .addresses
                .iter()
                .filter(|(_, of, _)| of == kind && better_than.is_none_or(|best| of < &best))
                .map(|(_, _, address)| address.clone())
                .collect();
            // While an earlier stage is under way, the next waits for its turn.
            let turn_ms = attempt.began_ms + STAGE_MS * attempt.stage as u64;
            if !addresses.is_empty() && attempt.under_way > 0 && now_ms < turn_ms {
                return None;
            }
            attempt.stage += 1;
            if !addresses.is_empty() {
                attempt.under_way += 1;
                return Some(addresses);
            }
        }
        if attempt.under_way == 0 {
            Self::ended(key, entry, now_ms);
        }
        None
    }

    fn ended(key: &PublicKey, entry: &mut Entry, now_ms: u64) {
        entry.attempt = None;
        let wait_ms = (WAIT_FIRST_MS << entry.failures.min(8)).min(WAIT_LAST_MS);
        entry.failures = entry.failures.saturating_add(1);
        // Up to a quarter more, other for each key and time, so that nodes do not dial in step.
        let spread = u64::from(key.as_bytes()[usize::try_from(now_ms % 31).unwrap_or(0)]);
        entry.not_before_ms = now_ms + wait_ms + wait_ms * spread / 1_024;
    }

    /// A dial ended without a connection.
    pub(crate) fn failed(&mut self, key: &PublicKey, kind: Option<Kind>, why: String) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Some(kind) = kind {
            entry.trouble.insert(kind, why);
        }
        if let Some(attempt) = &mut entry.attempt {
            attempt.under_way = attempt.under_way.saturating_sub(1);
        }
    }

    /// A connection stands: the attempt is over.
    pub(crate) fn connected(&mut self, key: &PublicKey, kind: Kind) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempt = None;
            entry.failures = 0;
            entry.trouble.remove(&kind);
        }
    }

    /// The next attempt is in `wait_ms`, whatever was before.
    pub(crate) fn again(&mut self, key: &PublicKey, now_ms: u64, wait_ms: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempt = None;
            entry.failures = 0;
            entry.not_before_ms = now_ms + wait_ms;
        }
    }

    /// Forgets attempts, as after a restart of the network; addresses stay.
    pub(crate) fn restart(&mut self) {
        for entry in self.entries.values_mut() {
            entry.attempt = None;
            entry.not_before_ms = 0;
        }
    }

    /// Why ways better than `than` do not work; all ways, without it.
    pub(crate) fn trouble(&self, key: &PublicKey, than: Option<Kind>) -> Option<String> {
        let entry = self.entries.get(key)?;
        if entry.addresses.is_empty() && than.is_none() {
            return Some("no address is known".to_owned());
        }
        let worse = |kind: &Kind| than.is_none_or(|best| *kind < best);
        let told: Vec<_> = entry
            .trouble
            .iter()
            .filter(|(kind, _)| worse(kind))
            .map(|(kind, why)| format!("{}: {why}", name(*kind)))
            .collect();
        if told.is_empty() && than.is_some() {
            let unknown = !entry.addresses.iter().any(|(_, kind, _)| worse(kind));
            return (unknown && than > Some(Kind::Tcp))
                .then(|| "no direct address is known".to_owned());
        }
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// A member without an address that was not looked up for `pause_ms`; it counts as looked up.
    pub(crate) fn next_look_up(
        &mut self,
        keys: &[PublicKey],
        now_ms: u64,
        pause_ms: u64,
    ) -> Option<PublicKey> {
        let due = |entry: &Entry| {
            entry.addresses.is_empty()
                && entry
                    .looked_up_ms
                    .is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= pause_ms)
        };
        let key = keys
            .iter()
            .find(|key| self.entries.get(key).is_some_and(due))?;
        self.entries.get_mut(key)?.looked_up_ms = Some(now_ms);
        Some(*key)
    }
}

pub(crate) const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Quic => "quic",
        Kind::Tcp => "tcp",
        Kind::Relay => "relay",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realm_model::key::SecretKey;

    use super::*;

    const QUIC: &str = "/ip4/192.0.2.1/udp/4433/quic-v1";
    const TCP: &str = "/ip4/192.0.2.1/tcp/4433";

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed(&[seed; 32]).public()
    }

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn book(texts: &[&str]) -> (Book, PublicKey) {
        let (me, other) = (key(1).min(key(2)), key(1).max(key(2)));
        let mut book = Book::default();
        book.retain(me, &BTreeSet::from([me, other]), 0);
        book.learn(other, Source::Told, addresses(texts));
        (book, other)
    }

    #[test]
    fn quic_has_a_head_start_and_tcp_follows() {
        let (mut book, peer) = book(&[TCP, QUIC]);
        book.begin(&peer, 0, false);
        assert_eq!(book.step(&peer, 0, None), Some(addresses(&[QUIC])));
        assert_eq!(book.step(&peer, STAGE_MS - 1, None), None);
        assert_eq!(book.step(&peer, STAGE_MS, None), Some(addresses(&[TCP])));
        assert_eq!(book.step(&peer, STAGE_MS, None), None);
        assert!(book.is_trying(&peer));
    }

    #[test]
    fn a_stage_that_failed_is_not_waited_for() {
        let (mut book, peer) = book(&[TCP, QUIC]);
        book.begin(&peer, 0, false);
        book.step(&peer, 0, None);
        book.failed(&peer, Some(Kind::Quic), "swallowed".to_owned());
        assert_eq!(book.step(&peer, 1, None), Some(addresses(&[TCP])));
        book.connected(&peer, Kind::Tcp);
        assert_eq!(
            book.trouble(&peer, Some(Kind::Tcp)).as_deref(),
            Some("quic: swallowed")
        );
    }

    #[test]
    fn waits_grow_to_eight_seconds_and_never_end() {
        let (mut book, peer) = book(&[TCP]);
        let (mut now_ms, mut waits) = (0, Vec::new());
        for _ in 0..50 {
            let begun_ms = now_ms;
            while !book.is_trying(&peer) {
                book.begin(&peer, now_ms, false);
                now_ms += 50;
            }
            waits.push(now_ms - begun_ms);
            book.step(&peer, now_ms, None).unwrap();
            book.failed(&peer, Some(Kind::Tcp), "refused".to_owned());
            assert_eq!(book.step(&peer, now_ms, None), None);
        }
        assert!(waits[0] <= 50 && waits[1] <= 700, "{waits:?}");
        assert!(waits.iter().all(|wait_ms| *wait_ms <= 10_100), "{waits:?}");
        assert!(waits[49] >= 8_000, "{waits:?}");
    }

    #[test]
    fn only_better_ways_are_tried_where_one_stands() {
        let (mut book, peer) = book(&[TCP, QUIC]);
        book.begin(&peer, 0, true);
        assert_eq!(
            book.step(&peer, 0, Some(Kind::Tcp)),
            Some(addresses(&[QUIC]))
        );
        assert_eq!(book.step(&peer, 10_000, Some(Kind::Tcp)), None);
    }

    #[test]
    fn a_source_replaces_itself_alone_and_nothing_grows() {
        let (mut book, peer) = book(&[TCP]);
        book.learn(peer, Source::Worked, addresses(&[QUIC]));
        book.learn(peer, Source::Told, Vec::new());
        assert_eq!(book.best(&peer), Some(Kind::Quic));
        let many = |start: u16| {
            (start..start + 100)
                .map(|port| format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap())
                .collect()
        };
        book.learn(peer, Source::Found, many(1_000));
        book.learn(peer, Source::Told, many(2_000));
        assert_eq!(book.entries[&peer].addresses.len(), ADDRESSES_MAX);
        assert!(
            book.entries[&peer]
                .addresses
                .iter()
                .any(|(from, _, _)| *from == Source::Told)
        );
        book.learn(key(9), Source::Found, many(1));
        assert!(!book.has_addresses(&key(9)), "no member");
    }

    #[test]
    fn what_cannot_be_dialled_is_no_address() {
        for (text, expected) in [
            (QUIC, Some(Kind::Quic)),
            (TCP, Some(Kind::Tcp)),
            ("/dns4/bm-01/udp/443/quic-v1", Some(Kind::Quic)),
            ("/ip4/0.0.0.0/tcp/1", None),
            ("/ip6/::/udp/1/quic-v1", None),
            ("/ip4/255.255.255.255/tcp/1", None),
            ("/ip4/224.0.0.251/udp/1/quic-v1", None),
            ("/ip4/192.0.2.1/tcp/0", None),
            ("/ip4/192.0.2.1/udp/443", None),
            ("/ip4/192.0.2.1", None),
        ] {
            assert_eq!(kind(&text.parse().unwrap()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_address_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(address) = Multiaddr::try_from(bytes) {
                let _ = kind(&bare(address));
            }
        }
    }
}
