//! Who is reached, and the signals that follow.

use realm_model::digest::Digest;
use realm_model::entry::RealmId;
use realm_model::record::{NodeBody, NodeRecord, PeerLink, Version};

use super::*;
use crate::testing::key;

const NAMES: [&str; 6] = ["own", "a", "b", "c", "d", "e"];

fn members() -> Members {
    let keys = NAMES.map(|name| key(name).public());
    keys.into_iter().map(|key| (key.into(), key)).collect()
}

/// How each is reached, with the connections `own` has and those that records tell of.
fn reached(links: &[&str], told: &[(&str, &[&str])]) -> BTreeMap<PublicKey, Reached> {
    let realm = RealmId::new(Digest::of(b"a realm"));
    let mut records = Records::new(realm, key("own").public());
    for (name, peers) in told {
        let mut body = NodeBody::of(name.parse().expect("a name"));
        let link = |peer: &&str| PeerLink {
            key: key(peer).public().into(),
            how: ReachedBy::Direct,
            rtt_ms: 10,
            why: String::new(),
        };
        body.peers = peers.iter().map(link).collect();
        let version = Version {
            epoch: 1,
            boot: 1,
            counter: 1,
        };
        let bytes = NodeRecord::sign(realm, &key(name), version, body);
        records.offer(&bytes, &members(), true);
    }
    let link = |name: &&str| {
        let link = Link {
            how: ReachedBy::Direct,
            rtt_ms: 5,
            why: String::new(),
        };
        (key(name).public(), link)
    };
    let links = links.iter().map(link).collect();
    reach(key("own").public(), &links, &records, &members())
}

#[test]
fn a_node_is_reached_by_the_shortest_way() {
    let reached = reached(
        &["a"],
        &[("a", &["b", "own"]), ("b", &["c", "a"]), ("d", &["e"])],
    );
    let through = |hops, rtt_ms| Reached::Through {
        first: key("a").public(),
        hops,
        rtt_ms,
    };
    let of = |name: &str| reached[&key(name).public()].clone();
    assert_eq!(of("own"), Reached::Here);
    assert!(matches!(of("a"), Reached::Linked(_)));
    assert_eq!((of("b"), of("c")), (through(2, 15), through(3, 25)));
    // d says that it reaches e, and nobody reaches d.
    assert_eq!((of("d"), of("e")), (Reached::Lost, Reached::Lost));
    assert_eq!(lost(&reached).len(), 2);
}

#[test]
fn case_25_a_node_that_reaches_few_is_isolated() {
    let check = |links: &[&str], expected| {
        let signals = signals(&reached(links, &[]), 0, None);
        assert_eq!(signals.isolated, expected, "{links:?}");
    };
    check(&[], true);
    check(&["a", "b"], true);
    check(&["a", "b", "c"], false);
    // One honest link is enough to see the others.
    let seen = reached(&["a"], &[("a", &["b", "c", "d", "e"])]);
    assert!(!signals(&seen, 0, None).isolated);
    let alone = [(key("own").public(), Reached::Here)].into();
    assert!(!signals(&alone, 0, None).isolated);
    // Of two, the other one may just be switched off.
    let two = [
        (key("own").public(), Reached::Here),
        (key("a").public(), Reached::Lost),
    ];
    assert!(!signals(&two.into(), 0, None).isolated);
}

#[test]
fn case_26_an_overdue_beacon_is_stale() {
    let reached = reached(&["a", "b", "c"], &[]);
    let check = |age_ms, every_ms, expected| {
        assert_eq!(signals(&reached, age_ms, every_ms).stale, expected);
    };
    check(u64::MAX, None, false);
    check(30_000, Some(10_000), false);
    check(30_001, Some(10_000), true);
    check(u64::MAX - 1, Some(u64::MAX), false);
}

#[test]
fn case_35_nothing_is_decided_on_a_half_synced_view() {
    // Others, rounds, time since the start, a durable state of its own.
    let check = |others, rounds, up_ms, has_state, expected| {
        assert_eq!(may_act(others, rounds, up_ms, has_state), expected);
    };
    check(2, 0, 0, true, false);
    check(2, 0, ALONE_MS - 1, true, false);
    check(2, 0, ALONE_MS, true, true);
    check(2, 1, 0, true, true);
    check(0, 0, 0, true, true);
    check(2, 1, ALONE_MS, false, false);
    check(0, 0, ALONE_MS, false, false);
}
