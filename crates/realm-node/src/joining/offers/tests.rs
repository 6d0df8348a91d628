//! Strangers that offer realms: they take no place from a realm that the owner founded, one source
//! takes none from others, and they choose no address on this machine or beside it.

use realm_model::digest::Digest;

use super::*;

fn realm(number: u32) -> RealmId {
    RealmId::new(Digest::of(&number.to_le_bytes()))
}

fn at(number: u8) -> Origin {
    Some(IpAddr::from([192, 0, 2, number]))
}

fn offer(
    offers: &mut Vec<KeptOffer>,
    number: u32,
    founded: bool,
    origin: u8,
    now: Instant,
) -> bool {
    let addresses = [format!("/ip4/192.0.2.{origin}/tcp/1")];
    note(
        offers,
        (realm(number), founded),
        &addresses,
        at(origin),
        now,
    )
}

fn is_kept(offers: &[KeptOffer], number: u32) -> bool {
    offers.iter().any(|offer| offer.realm == realm(number))
}

#[test]
fn the_newest_offer_replaces_the_oldest_that_never_answered() {
    let start = Instant::now();
    let mut offers = Vec::new();
    for number in 0..8 {
        let now = start + Duration::from_secs(number);
        assert!(offer(&mut offers, number as u32, false, number as u8, now));
    }
    let now = start + Duration::from_secs(9);
    assert!(answered(&mut offers, realm(0), now));
    assert!(!answered(&mut offers, realm(0), now));
    assert!(offer(&mut offers, 100, false, 100, now));
    assert_eq!(offers.len(), OFFERS_MAX);
    assert!(is_kept(&offers, 0) && !is_kept(&offers, 1) && is_kept(&offers, 100));
}

#[test]
fn one_source_replaces_its_own_offers_and_none_that_the_owner_founded() {
    let now = Instant::now();
    let mut offers = Vec::new();
    assert!(offer(&mut offers, 0, true, 1, now));
    assert!(offer(&mut offers, 1, false, 2, now));
    for number in 10..100 {
        assert!(offer(&mut offers, number, false, 1, now));
    }
    assert_eq!(offers.len(), 2 + OFFERS_PER_ORIGIN_MAX);
    assert!(is_kept(&offers, 0) && is_kept(&offers, 1) && is_kept(&offers, 99));
    for number in 100..200 {
        assert!(offer(&mut offers, number, false, number as u8, now));
    }
    assert_eq!(offers.len(), OFFERS_MAX);
    assert!(is_kept(&offers, 0), "the owner's");
    for number in 200..300 {
        offer(&mut offers, number, true, 1, now);
    }
    assert_eq!(offers.len(), OFFERS_MAX);
    assert!(
        !offer(&mut offers, 300, false, 9, now),
        "all are the owner's"
    );
}

#[test]
fn an_offer_that_leads_nowhere_is_forgotten() {
    let start = Instant::now();
    let mut offers = Vec::new();
    offer(&mut offers, 1, false, 1, start);
    offer(&mut offers, 2, false, 2, start);
    answered(&mut offers, realm(2), start);
    assert!(!expire(
        &mut offers,
        start + UNANSWERED_TTL - Duration::from_secs(1)
    ));
    assert!(expire(&mut offers, start + UNANSWERED_TTL));
    assert!(!is_kept(&offers, 1) && is_kept(&offers, 2));
    // What was read from the file counts from this start on.
    offers[0].heard = None;
    assert!(!expire(&mut offers, start + SILENT_TTL));
    assert!(expire(&mut offers, start + SILENT_TTL * 2));
    assert!(offers.is_empty());
}

#[test]
fn the_newest_addresses_of_a_realm_are_asked_first() {
    let now = Instant::now();
    let mut offers = Vec::new();
    for number in 0..20 {
        offer(&mut offers, 1, false, number, now);
    }
    offer(&mut offers, 1, false, 19, now);
    let [offer] = &offers[..] else {
        panic!("one realm");
    };
    assert_eq!(offer.addresses.len(), ADDRESSES_MAX);
    assert_eq!(offer.addresses[0], "/ip4/192.0.2.19/tcp/1");
}

#[test]
fn a_stranger_sends_the_machine_to_no_address_of_its_own() {
    let check = |address: &str, from: &str, expected: bool| {
        let address: NodeAddress = address.parse().unwrap();
        let from = Some(from.parse().unwrap());
        assert_eq!(may_ask(&address, from), expected, "{address} from {from:?}");
    };
    let far = "192.0.2.7";
    check("/ip4/198.51.100.1/tcp/80", far, true);
    check("/ip4/10.0.0.1/udp/4747/quic-v1", far, true);
    check("/ip4/127.0.0.1/tcp/6379", far, false);
    check("/ip6/::1/tcp/6379", far, false);
    check("/ip6/::ffff:127.0.0.1/tcp/6379", far, false);
    check("/ip4/169.254.169.254/tcp/80", far, false);
    check("/ip6/fe80::1/tcp/80", far, false);
    check("/ip4/0.0.0.0/tcp/80", far, false);
    check("/ip4/224.0.0.251/udp/5353/quic-v1", far, false);
    check("/ip4/255.255.255.255/udp/1/quic-v1", far, false);
    check("/dns/localhost/tcp/80", far, false);
    check("/ip4/127.0.0.1/tcp/4747", "127.0.0.1", true);
    check("/dns/localhost/tcp/4747", "127.0.0.1", true);
    check("/ip4/169.254.1.1/tcp/4747", "169.254.2.2", true);
    check("/ip4/169.254.1.1/tcp/4747", "127.0.0.1", false);
    let address: NodeAddress = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    assert!(!may_ask(&address, None), "through a relay");
}
