//! Replays, forks and fences on namespace chains: cases 1 to 6, 10, 11, 20 and 34.

use std::collections::BTreeMap;

use proptest::prelude::*;
use realm_model::digest::Digest;
use realm_model::entry::{
    Body, ChainId, Fence, ForkProof, Head, NamespaceName, Payload, Resolve, Undelegate,
};
use realm_model::refusal::{Refusal, RefusalCode};

use super::ORDERS;
use crate::ledger::{CheckError, Fork, Held, Ledger, ReplayError};
use crate::testing::{Realm, approval, delegation, key, manifest_body, namespace, restart};

const OWN: ChainId = ChainId::DEFAULT;

fn code<T>(taken: Result<T, Refusal>) -> Option<RefusalCode> {
    taken.err().map(|refusal| refusal.code)
}

/// What a node makes of a fork, with the entry of its own log.
pub(super) fn prove(realm: &Realm, fork: &Fork) -> ForkProof {
    let id = realm.ledger.realm();
    let ours = realm.entries.iter().find(|(chain, bytes)| {
        *chain == fork.chain
            && realm_model::entry::Opened::open(bytes, id, *chain)
                .is_ok_and(|opened| opened.hash() == fork.ours.hash)
    });
    let (_, ours) = ours.expect("it is in the log");
    let proof = ForkProof::new(id, fork.chain, ours, &fork.theirs).expect("a fork");
    let sent = ForkProof::from_bytes(id, &proof.to_bytes()).expect("reads back");
    assert_eq!(sent, proof);
    proof
}

/// A realm that has a manifest, and two entries that want the next place.
fn forked() -> (Realm, [Vec<u8>; 2]) {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    let entry = |build| {
        let body = manifest_body(ORDERS, 2, &[("orders", build)]);
        realm.signed(OWN, &realm.payload_in(OWN, body), &[&realm.owner])
    };
    let both = [entry("left"), entry("right")];
    (realm, both)
}

/// Cases 10 and 11: both halves alarm, stand still at the last common entry, and go on with the winner.
#[test]
fn case_10_and_11_two_entries_at_one_place_freeze_the_chain_until_it_is_resolved() {
    let (realm, entries) = forked();
    let mut halves = [realm.clone(), realm.clone()];
    for (half, entry) in halves.iter_mut().zip(&entries) {
        half.take(OWN, entry.clone()).expect("its first");
    }
    let mut proofs = Vec::new();
    for (half, theirs) in halves.iter_mut().zip(entries.iter().rev()) {
        let running = half.ledger.desired().clone();
        let Err(CheckError::Forked(fork)) = half.ledger.check(OWN, theirs, None) else {
            panic!("a fork");
        };
        let proof = prove(half, &fork);
        assert_eq!(half.ledger.hold(&proof), Ok(Held::Frozen));
        assert_eq!(half.ledger.hold(&proof), Ok(Held::Known));
        let next = half.submit(restart("orders", &[]));
        assert_eq!(code(next), Some(RefusalCode::Frozen));
        assert_eq!(half.ledger.desired(), &running, "what runs goes on");
        half.submit(approval("there", &[]))
            .expect("another chain goes on");
        proofs.push(proof);
    }
    assert_eq!(proofs[0], proofs[1], "the same proof on both sides");
    // A third node that has neither stands still before both.
    let mut third = realm.clone();
    assert_eq!(third.ledger.hold(&proofs[0]), Ok(Held::Frozen));
    assert_eq!(
        code(third.take(OWN, entries[0].clone())),
        Some(RefusalCode::Frozen)
    );
    third.submit(approval("there", &[])).expect("another chain");

    let winner = halves[1].ledger.head(OWN);
    let fence = Fence {
        namespace: NamespaceName::DEFAULT,
        base: realm.ledger.head(OWN),
        head: winner,
    };
    let (chain, resolve) = halves[0].sign(&halves[0].payload(Body::Resolve(Resolve { fence })));
    let [loser, holder] = &mut halves;
    for one in [loser, holder, &mut third] {
        one.take(chain, resolve.clone()).expect("the owner");
        assert_eq!(one.ledger.frozen().count(), 0);
        assert_eq!(one.ledger.hold(&proofs[0]), Ok(Held::Settled));
        if one.ledger.head(OWN) != winner {
            assert_eq!(
                code(one.take(OWN, entries[0].clone())),
                Some(RefusalCode::Abandoned)
            );
            one.take(OWN, entries[1].clone()).expect("the winner");
        }
        one.submit(restart("orders", &[])).expect("it goes on");
    }
    assert_eq!(halves[0].ledger.desired(), halves[1].ledger.desired());
    assert_eq!(halves[0].ledger.desired(), third.ledger.desired());
    for one in [&halves[0], &halves[1], &third] {
        check_replay(one);
    }
}

/// Case 11: of two who push to one node, the second is told to look first; nothing freezes.
#[test]
fn case_11_the_second_push_to_one_node_is_stale() {
    let (mut realm, [left, right]) = forked();
    realm.take(OWN, left).expect("the first");
    let second = realm
        .ledger
        .check(OWN, &right, Some(0))
        .expect_err("too late");
    assert_eq!(second.refusal().code, RefusalCode::Stale);
    let other = realm.ledger.check(OWN, &right, None).expect_err("a fork");
    assert!(matches!(other, CheckError::Forked(_)));
    assert_eq!(realm.ledger.frozen().count(), 0);
    realm.submit(restart("orders", &[])).expect("it goes on");
}

/// The log of a node gives the state that it has in memory.
pub(super) fn check_replay(realm: &Realm) {
    let mut again = realm.clone();
    again.replay();
    assert_eq!(again.ledger.desired(), realm.ledger.desired());
    assert_eq!(again.ledger.authority(), realm.ledger.authority());
    assert_eq!(again.ledger.heads(), realm.ledger.heads());
}

#[test]
fn a_proof_is_two_good_entries_of_one_place() {
    let (mut realm, [left, right]) = forked();
    let id = realm.ledger.realm();
    let thief = key("thief");
    let body = manifest_body(ORDERS, 2, &[("orders", "evil")]);
    let forged = realm.signed(OWN, &realm.payload_in(OWN, body), &[&thief]);
    let proof = ForkProof::new(id, OWN, &left, &forged).expect("two entries");
    assert_eq!(
        code(realm.ledger.hold(&proof)),
        Some(RefusalCode::WrongOwner)
    );
    assert!(ForkProof::new(id, OWN, &left, &left).is_err());
    assert!(ForkProof::new(id, ChainId::Authority, &left, &right).is_err());
    let good = ForkProof::new(id, OWN, &left, &right)
        .expect("a proof")
        .to_bytes();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let held = ForkProof::from_bytes(id, &bytes).map(|proof| realm.clone().ledger.hold(&proof));
        assert!(!matches!(held, Ok(Ok(_))), "byte {at}");
    }
    // Above the authority chain that is known here nothing can be judged.
    let mut ahead = realm.clone();
    ahead.submit(approval("x", &[])).expect("an approval");
    let entry = |build| {
        let body = manifest_body(ORDERS, 2, &[("orders", build)]);
        ahead.signed(OWN, &ahead.payload_in(OWN, body), &[&ahead.owner])
    };
    let proof = ForkProof::new(id, OWN, &entry("a"), &entry("b")).expect("a proof");
    assert_eq!(code(realm.ledger.hold(&proof)), Some(RefusalCode::Gap));
}

/// Cases 1 to 3: a replay is nothing, however often and in whatever order; a gap is never applied early.
#[test]
fn case_1_2_3_replays_are_nothing_and_gaps_wait() {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    realm.apply(ORDERS, &[("orders", "2")]);
    let entries = realm.entries.clone();
    let before = (realm.ledger.desired().clone(), realm.ledger.heads());
    for round in 0..1_000 {
        let (chain, bytes) = &entries[round * 7 % entries.len()];
        let error = realm
            .ledger
            .check(*chain, bytes, None)
            .expect_err("a replay");
        assert_eq!(error.refusal().code, RefusalCode::Replayed);
    }
    assert_eq!(
        before,
        (realm.ledger.desired().clone(), realm.ledger.heads())
    );
    let mut fresh = Realm::found();
    fresh
        .take(entries[0].0, entries[0].1.clone())
        .expect("the first");
    let (chain, late) = entries.last().expect("there");
    assert_eq!(
        code(fresh.take(*chain, late.clone())),
        Some(RefusalCode::Gap)
    );
    assert_eq!(fresh.ledger.desired().version, 0);
}

/// Case 4: a stolen delegate's key at the end of all numbers; the chain goes on after it is replaced.
#[test]
fn case_4_the_highest_sequence_number_is_no_next_one() {
    let mut realm = Realm::of_one_node();
    let (owner, stolen) = (realm.owner.clone(), key("stolen"));
    let team = namespace("team-a");
    let chain = ChainId::Namespace(team);
    realm
        .submit(Body::Delegate(delegation("team-a", stolen.public())))
        .expect("a delegate");
    realm
        .apply_in(team, &stolen, ORDERS, &[("orders", "1")])
        .expect("theirs");
    let payload = Payload {
        seq: u64::MAX,
        ..realm.payload_in(chain, restart("orders", &[]))
    };
    let bytes = realm.signed(chain, &payload, &[&stolen]);
    assert_eq!(code(realm.take(chain, bytes)), Some(RefusalCode::Gap));
    let mut next = delegation("team-a", key("fresh").public());
    next.fences = vec![realm.fence(team)];
    realm
        .submit_by(&[&owner], ChainId::Authority, Body::Delegate(next))
        .expect("replaced");
    realm
        .submit_by(&[&key("fresh")], chain, restart("orders", &[]))
        .expect("usable");
}

/// Cases 5 and 6: no forged, changed or foreign entry gets in.
#[test]
fn case_5_6_forged_and_foreign_entries_are_refused() {
    let (mut realm, [left, _]) = forked();
    for at in 0..left.len() {
        let mut bytes = left.clone();
        bytes[at] ^= 0x10;
        assert!(realm.ledger.check(OWN, &bytes, None).is_err(), "byte {at}");
    }
    let small_order = |at: usize| {
        let mut bytes = left.clone();
        let end = bytes.len();
        bytes[end - at..].fill(0);
        bytes
    };
    assert!(realm.ledger.check(OWN, &small_order(64), None).is_err());
    assert!(realm.ledger.check(OWN, &small_order(32), None).is_err());
    let wrong_chain = realm
        .ledger
        .check(ChainId::Authority, &left, None)
        .expect_err("foreign");
    assert_eq!(wrong_chain.refusal().code, RefusalCode::WrongChain);
    let (other, bytes) = realm_model::entry::found_realm(&realm.owner, [9; 32], 0);
    assert_ne!(other, realm.ledger.realm());
    assert_eq!(
        code(realm.take(ChainId::Authority, bytes)),
        Some(RefusalCode::WrongRealm)
    );
}

/// Case 34: an agent stops at a kind that it does not know, and keeps what runs.
#[test]
fn case_34_an_unknown_kind_stops_the_chain_and_nothing_else() {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    for chain in [ChainId::Authority, OWN] {
        let payload = realm.payload_in(chain, restart("orders", &[]));
        let bytes = unknown_kind(&realm, chain, &payload);
        let before = realm.ledger.desired().clone();
        assert_eq!(
            code(realm.take(chain, bytes)),
            Some(RefusalCode::NeedsNewerAgent)
        );
        assert_eq!(realm.ledger.desired(), &before);
    }
    realm.submit(restart("orders", &[])).expect("it goes on");
}

/// An entry of a kind that no agent knows yet, well signed.
fn unknown_kind(realm: &Realm, chain: ChainId, payload: &Payload) -> Vec<u8> {
    let id = realm.ledger.realm();
    let known = payload.to_bytes();
    let mut unknown = known.clone();
    // The kind of a restart of `orders` stands before its body of nine bytes and their length.
    let at = known.len() - 11;
    assert_eq!(known[at], 18);
    unknown[at] = 23;
    let digest = id.digest();
    let parts: [&[u8]; 4] = [
        b"realm.entry.v1",
        digest.as_bytes(),
        chain.as_str().as_bytes(),
        &unknown,
    ];
    let lengths = parts.map(|part| (part.len() as u64).to_le_bytes());
    let message: Vec<u8> = parts
        .iter()
        .zip(&lengths)
        .flat_map(|(part, length)| [length.as_slice(), part].concat())
        .collect();
    let mut bytes = realm.signed(chain, payload, &[&realm.owner]);
    let place = bytes.windows(known.len()).position(|part| part == known);
    let place = place.expect("the payload is in it");
    bytes[place..place + known.len()].copy_from_slice(&unknown);
    let signature = bytes.len() - 64;
    bytes[signature..].copy_from_slice(realm.owner.sign(&message).as_bytes());
    bytes
}

/// What a stolen key signs with an old date never takes force, not even where its end is not known yet.
#[test]
fn a_backdated_history_does_not_take_force_on_a_node_that_joins() {
    let mut realm = Realm::of_one_node();
    let stolen = key("stolen");
    let team = namespace("team-a");
    let chain = ChainId::Namespace(team);
    realm
        .submit(Body::Delegate(delegation("team-a", stolen.public())))
        .expect("a delegate");
    let mut evil = realm.clone();
    for build in ["1", "2", "3"] {
        realm
            .apply_in(team, &stolen, ORDERS, &[("orders", build)])
            .expect("good");
        evil.apply_in(
            team,
            &stolen,
            ORDERS,
            &[("orders", &format!("evil{build}"))],
        )
        .expect("signed");
    }
    let fences = vec![realm.fence(team)];
    realm
        .submit(Body::Undelegate(Undelegate {
            namespace: team,
            fences,
        }))
        .expect("taken back");
    let mut joins = Realm::found();
    for (chain, bytes) in realm
        .entries
        .iter()
        .filter(|(chain, _)| *chain == ChainId::Authority)
    {
        joins
            .take(*chain, bytes.clone())
            .expect("the authority first");
    }
    let of = |realm: &Realm| -> Vec<Vec<u8>> {
        let entries = realm.entries.iter().filter(|(one, _)| *one == chain);
        entries.map(|(_, bytes)| bytes.clone()).collect()
    };
    let (good, bad) = (of(&realm), of(&evil));
    for bytes in &bad[..2] {
        joins
            .take(chain, bytes.clone())
            .expect("nothing speaks against it yet");
        assert_eq!(joins.ledger.desired().manifest, None, "it is not in force");
        assert_eq!(joins.ledger.in_force(chain).seq, 0);
    }
    assert_eq!(
        code(joins.take(chain, bad[2].clone())),
        Some(RefusalCode::Abandoned)
    );
    check_replay(&joins);
    // The one and the other: what was put aside comes back, and the log tells it.
    for bytes in [&good[0], &good[1], &bad[0], &good[0], &good[1], &good[2]] {
        let taken = joins.take(chain, bytes.clone());
        taken.expect("the history that the fence names, or nothing speaks against it");
        check_replay(&joins);
    }
    assert_eq!(joins.ledger.desired(), realm.ledger.desired());
    check_replay(&joins);
    assert_eq!(
        code(joins.take(chain, bad[0].clone())),
        Some(RefusalCode::Abandoned)
    );
}

/// A node that is behind when a fence comes goes on with what it runs.
#[test]
fn what_runs_goes_on_below_a_fence() {
    let mut realm = Realm::of_one_node();
    let stolen = key("stolen");
    let team = namespace("team-a");
    let chain = ChainId::Namespace(team);
    realm
        .submit(Body::Delegate(delegation("team-a", stolen.public())))
        .expect("a delegate");
    realm
        .apply_in(team, &stolen, ORDERS, &[("orders", "1")])
        .expect("good");
    let mut behind = realm.clone();
    let mut beside = realm.clone();
    for build in ["2", "3"] {
        realm
            .apply_in(team, &stolen, ORDERS, &[("orders", build)])
            .expect("good");
    }
    beside
        .apply_in(team, &stolen, ORDERS, &[("orders", "evil")])
        .expect("signed");
    let fences = vec![realm.fence(team)];
    realm
        .submit(Body::Undelegate(Undelegate {
            namespace: team,
            fences,
        }))
        .expect("taken back");
    let (authority, undelegate) = realm.entries.last().expect("there").clone();
    behind.take(authority, undelegate).expect("known");
    let runs = behind.ledger.desired().clone();
    assert_eq!(runs.namespaces[&team].version, 1);
    let evil = beside.entries.last().expect("there").1.clone();
    behind
        .take(chain, evil)
        .expect("nothing speaks against it yet");
    assert_eq!(behind.ledger.desired(), &runs);
    check_replay(&behind);
    for (one, bytes) in realm
        .entries
        .iter()
        .filter(|(one, _)| *one == chain)
        .skip(1)
    {
        behind
            .take(*one, bytes.clone())
            .expect("the history that holds");
    }
    assert_eq!(behind.ledger.desired(), realm.ledger.desired());
    check_replay(&behind);
}

#[test]
fn a_fence_is_sound() {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    let head = realm.ledger.head(OWN);
    let origin = realm.ledger.realm().origin();
    let resolve = |name: &str, base: Head, head: Head| {
        Body::Resolve(Resolve {
            fence: Fence {
                namespace: namespace(name),
                base,
                head,
            },
        })
    };
    let malformed = Some(RefusalCode::Malformed);
    assert_eq!(
        code(realm.submit(resolve("nobody", origin, head))),
        malformed
    );
    assert_eq!(
        code(realm.submit(resolve("default", head, origin))),
        malformed
    );
    let other = Head {
        seq: 1,
        hash: Digest::of(b"other"),
    };
    assert_eq!(
        code(realm.submit(resolve("default", head, other))),
        malformed
    );
    assert_eq!(code(realm.submit(resolve("default", origin, head))), None);
    assert_eq!(
        code(realm.submit(resolve("default", origin, head))),
        malformed,
        "it goes back"
    );
    assert_eq!(code(realm.submit(resolve("default", head, head))), None);
}

/// Case 20, as far as it is about logs and marks: nothing but a whole log is taken.
#[test]
fn case_20_a_log_without_the_marked_entry_is_refused() {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    realm.apply(ORDERS, &[("orders", "2")]);
    let marks: BTreeMap<ChainId, Head> = realm.ledger.heads();
    let whole = realm.records();
    assert!(Ledger::replay(&whole, &marks).is_ok());
    for chain in [ChainId::Authority, OWN] {
        for length in 0..whole[&chain].len() {
            let mut cut = whole.clone();
            cut.get_mut(&chain).expect("there").truncate(length);
            let error = Ledger::replay(&cut, &marks).expect_err("a short log");
            let expected = matches!(
                error,
                ReplayError::OtherThanMark { .. } | ReplayError::NoGenesis
            );
            assert!(
                expected || matches!(error, ReplayError::Refused { .. }),
                "{error}"
            );
        }
        for record in 0..whole[&chain].len() {
            let mut changed = whole.clone();
            let bytes = &mut changed.get_mut(&chain).expect("there")[record];
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            assert!(
                Ledger::replay(&changed, &marks).is_err(),
                "{chain} {record}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_proof_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let id = Realm::found().ledger.realm();
        prop_assert!(ForkProof::from_bytes(id, &bytes).is_err());
    }
}
