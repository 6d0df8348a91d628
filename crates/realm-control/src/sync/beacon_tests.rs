//! Beacons at one node: which one counts, what is passed on, and when it is stale.

use realm_model::beacon::Beacon;
use realm_model::refusal::RefusalCode;
use realm_model::sync::{Answer, Hint, Request, Summary};

use super::tests::{Bench, asked, entry, replied};
use super::*;
use crate::reach::{BEACONS_MISSED, signals};
use crate::sim_net::Template;
use crate::testing::{beacon_rule, key};

const EVERY_MS: u64 = Template::BEACON_EVERY_S as u64 * 1_000;

impl Bench {
    fn beacon_of(&mut self, from: usize, bytes: &[u8]) -> Judgement {
        self.hint(from, Hint::Beacon(bytes.to_vec()).to_bytes()).0
    }

    fn is_stale(&self) -> bool {
        let state = self.sync.beacon(self.now_ms).expect("the owner wants one");
        let every_ms = u64::from(state.rule.every_s) * 1_000;
        signals(&[].into(), state.age_ms, Some(every_ms)).stale
    }

    fn counter(&self) -> Option<u64> {
        let state = self.sync.beacon(self.now_ms).expect("the owner wants one");
        state.newest.map(|(counter, _)| counter)
    }

    /// Gives an entry of the owner to the node.
    fn authority(&mut self, body: realm_model::entry::Body) {
        let (chain, bytes) = self.realm.sign(&self.realm.payload(body));
        self.realm.take(chain, bytes.clone()).expect("the next one");
        let admitted = self.ledger.check(chain, &bytes, None).expect("the same");
        assert!(!self.ledger.apply(admitted).rebuild);
        self.on(Input::LedgerChanged);
    }
}

#[test]
fn the_newest_beacon_counts_and_goes_round_once() {
    let mut bench = Bench::new();
    let (old, new) = (bench.realm.beacon(4), bench.realm.beacon(5));
    assert_eq!(bench.counter(), None);
    assert_eq!(bench.beacon_of(1, &new), Judgement::Forward);
    for (from, again) in [(2, &new), (1, &old), (3, &new)] {
        assert_eq!(bench.beacon_of(from, again), Judgement::Drop);
    }
    assert_eq!(bench.counter(), Some(5));
    // Two with one number: every node keeps the same of them, whichever it hears first.
    let realm = bench.ledger.realm();
    let other = Beacon::sign(realm, &key("beacon"), 5, 99, Vec::new());
    let mut second = Bench::new();
    second.beacon_of(1, &other);
    second.beacon_of(1, &new);
    bench.beacon_of(1, &other);
    let newest = |bench: &Bench| bench.sync.newest_beacon();
    assert_eq!(newest(&bench), newest(&second));
    let from = bench.peer(1);
    let out = bench.request(from, Request::Beacon.to_bytes());
    assert_eq!(replied(&out), Answer::Beacon(newest(&second)));
}

#[test]
fn a_beacon_of_another_key_or_with_changed_bytes_counts_for_nothing() {
    let mut bench = Bench::new();
    let realm = bench.ledger.realm();
    let stolen = Beacon::sign(realm, &key("thief"), u64::MAX, 0, Vec::new());
    assert_eq!(bench.beacon_of(1, &stolen), Judgement::Drop);
    assert_eq!(bench.refused("wrong-owner"), 1);
    let mut flipped = bench.realm.beacon(1);
    *flipped.last_mut().expect("bytes") ^= 1;
    assert_eq!(bench.beacon_of(2, &flipped), Judgement::Blame);
    assert_eq!(bench.refused("beacon-false"), 1);
    assert_eq!(bench.counter(), None);
    let judged = bench.sync.judge_beacon(&stolen, &bench.ledger);
    assert_eq!(judged.err().map(|r| r.code), Some(RefusalCode::WrongOwner));
}

#[test]
fn a_newer_beacon_is_asked_for_kept_and_passed_on() {
    let mut bench = Bench::new();
    let bytes = bench.realm.beacon(3);
    let opened = Beacon::open(&bytes, bench.ledger.realm()).expect("a beacon");
    let theirs = Summary {
        heads: chains::heads(&bench.ledger),
        beacon: Some(opened.mark()),
        ..Summary::default()
    };
    let from = bench.peer(2);
    let out = bench.request(from, Request::Summary(theirs.clone()).to_bytes());
    let [(to, id, Request::Beacon)] = asked(&out)[..] else {
        panic!("{out:?}");
    };
    assert_eq!(to, from);
    let answer = Answer::Beacon(Some(bytes.clone())).to_bytes();
    let out = bench.on(Input::Answer { id, bytes: answer });
    assert!(out.contains(&Output::Beacon(bytes.clone())));
    assert!(out.contains(&Output::Publish(Hint::Beacon(bytes).to_bytes())));
    assert_eq!(
        asked(&bench.request(from, Request::Summary(theirs).to_bytes())),
        []
    );
}

/// An agent from before there were beacons says nothing of them, and answers that it does not know.
#[test]
fn case_34_a_peer_that_knows_no_beacons_is_no_worse_for_it() {
    let mut bench = Bench::new();
    let bytes = bench.realm.beacon(3);
    assert_eq!(bench.beacon_of(1, &bytes), Judgement::Forward);
    let peer = bench.peer(1);
    let before = Summary {
        heads: chains::heads(&bench.ledger),
        ..Summary::default()
    };
    let out = bench.request(peer, Request::Summary(before).to_bytes());
    assert_eq!(asked(&out), []);
    assert_eq!(bench.counter(), Some(3));
    let from = bench.peer(2);
    let ahead = Summary {
        heads: chains::heads(&bench.ledger),
        beacon: Some(realm_model::beacon::BeaconMark {
            counter: 9,
            digest: realm_model::digest::Digest::of(b"another"),
        }),
        ..Summary::default()
    };
    let out = bench.request(from, Request::Summary(ahead).to_bytes());
    let id = asked(&out)[0].1;
    let bytes = Answer::Unknown { version: 1 }.to_bytes();
    bench.on(Input::Answer { id, bytes });
    assert_eq!(bench.refused("peer-needs-newer-agent"), 1);
    assert_eq!(bench.sync.evidence().count(), 0);
    assert_eq!(bench.counter(), Some(3));
}

#[test]
fn case_26_without_a_beacon_for_long_a_node_is_stale() {
    let mut bench = Bench::new();
    bench.now_ms += BEACONS_MISSED * EVERY_MS;
    assert!(!bench.is_stale());
    bench.now_ms += 1;
    assert!(bench.is_stale());
    let bytes = bench.realm.beacon(1);
    bench.beacon_of(1, &bytes);
    assert!(!bench.is_stale());
    // The same one again is no news.
    bench.now_ms += BEACONS_MISSED * EVERY_MS + 1;
    bench.beacon_of(2, &bytes);
    assert!(bench.is_stale());
    bench.authority(beacon_rule(3_600));
    assert!(!bench.is_stale(), "another promise begins anew");
}

#[test]
fn case_26_beacons_that_pass_while_the_newest_head_is_withheld_are_noticed() {
    let mut bench = Bench::new();
    let withheld = bench.next();
    for counter in 1..=BEACONS_MISSED + 1 {
        bench.now_ms += EVERY_MS;
        let bytes = bench.realm.beacon(counter);
        assert_eq!(bench.beacon_of(1, &bytes), Judgement::Forward);
        assert_eq!(bench.counter(), Some(counter));
    }
    let state = bench.sync.beacon(bench.now_ms).expect("a rule");
    assert!(!state.met && bench.is_stale(), "{state:?}");
    // One honest link heals it.
    bench.hint(2, entry(&withheld));
    bench.on(Input::Tick);
    let state = bench.sync.beacon(bench.now_ms).expect("a rule");
    assert!(state.met && !bench.is_stale(), "{state:?}");
}

#[test]
fn what_was_kept_counts_after_a_restart_and_another_key_ends_it() {
    let mut bench = Bench::new();
    let (kept, older) = (bench.realm.beacon(7), bench.realm.beacon(6));
    bench.sync.restore_beacon(kept);
    bench.on(Input::Tick);
    assert_eq!(bench.counter(), Some(7));
    assert_eq!(bench.beacon_of(1, &older), Judgement::Drop);
    assert_eq!(bench.counter(), Some(7));
    bench.authority(realm_model::entry::Body::SetBeacon(
        realm_model::entry::SetBeacon {
            name: "watch".parse().expect("a name"),
            every_s: 5,
            key: Some(key("another beacon").public()),
        },
    ));
    assert_eq!(bench.counter(), None);
}
