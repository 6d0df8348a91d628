//! Owners change, and take the realm back: rotation, recovery, and what is abandoned by it.

use realm_model::entry::{
    Body, ChainId, Fence, Head, NamespaceName, Payload, Recover, Rotate, TwoEntries,
};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::refusal::{Refusal, RefusalCode};

use super::ORDERS;
use crate::authority::Role;
use crate::ledger::CheckError;
use crate::testing::{
    Realm, approval, delegation, key, manifest_body, node_key, node_name, restart, revocation,
};

const AUTHORITY: ChainId = ChainId::Authority;

fn rotate(
    owners: &[&SecretKey],
    threshold: u32,
    recovery: &[&SecretKey],
    fences: Vec<Fence>,
) -> Body {
    let public = |keys: &[&SecretKey]| keys.iter().map(|key| key.public()).collect();
    Body::Rotate(Rotate {
        owners: public(owners),
        threshold,
        recovery: public(recovery),
        fences,
    })
}

fn recover(
    owners: &[&SecretKey],
    recovery: &[&SecretKey],
    fences: Vec<Fence>,
    fork: Option<TwoEntries>,
) -> Body {
    let public =
        |keys: &[&SecretKey]| -> Vec<PublicKey> { keys.iter().map(|key| key.public()).collect() };
    Body::Recover(Recover {
        owners: public(owners),
        threshold: 1,
        recovery: public(recovery),
        fences,
        fork,
    })
}

fn own_fence(realm: &Realm) -> Vec<Fence> {
    vec![realm.fence(NamespaceName::DEFAULT)]
}

fn code(taken: Result<Head, Refusal>) -> Option<RefusalCode> {
    taken.err().map(|refusal| refusal.code)
}

/// Case 9: the old owners and the new ones sign; one of the two is not enough.
#[test]
fn case_9_a_rotation_is_signed_by_the_old_owners_and_the_new() {
    let mut realm = Realm::of_one_node();
    let (old, a, b) = (realm.owner.clone(), key("a"), key("b"));
    let body = rotate(&[&a, &b], 2, &[], own_fence(&realm));
    for (signers, expected) in [
        (vec![&old], Some(RefusalCode::WrongOwner)),
        (vec![&a, &b], Some(RefusalCode::WrongOwner)),
        (vec![&old, &a], Some(RefusalCode::WrongOwner)),
        (vec![&old, &a, &a], Some(RefusalCode::WrongOwner)),
        (vec![&old, &a, &b], None),
    ] {
        let taken = realm.submit_by(&signers, AUTHORITY, body.clone());
        assert_eq!(code(taken), expected);
    }
    let wrong_owner = Some(RefusalCode::WrongOwner);
    assert_eq!(
        code(realm.submit_by(&[&old], AUTHORITY, approval("x", &[]))),
        wrong_owner
    );
    assert_eq!(
        code(realm.submit_by(&[&a], AUTHORITY, approval("x", &[]))),
        wrong_owner
    );
    assert_eq!(
        code(realm.submit_by(&[&a, &b], AUTHORITY, approval("x", &[]))),
        None
    );
    assert_eq!(realm.ledger.authority().role_of(&old.public(), 0), None);
    assert_eq!(
        realm.ledger.authority().role_of(&a.public(), 0),
        Some(Role::Owner)
    );
}

/// Case 9: a node that was away follows the rotations one by one.
#[test]
fn case_9_an_offline_node_catches_up_over_several_rotations() {
    let mut realm = Realm::of_one_node();
    let mut away = realm.clone();
    let keys = ["owner", "one", "two", "three"].map(key);
    for pair in keys.windows(2) {
        let body = rotate(&[&pair[1]], 1, &[], own_fence(&realm));
        let taken = realm.submit_by(&[&pair[0], &pair[1]], AUTHORITY, body);
        assert_eq!(code(taken), None);
        let manifest = manifest_body(
            ORDERS,
            realm.ledger.desired().version + 1,
            &[("orders", "1")],
        );
        let taken = realm.submit_by(&[&pair[1]], ChainId::DEFAULT, manifest);
        assert_eq!(code(taken), None);
    }
    for (chain, bytes) in realm.entries.clone() {
        if away
            .ledger
            .check(chain, &bytes, None)
            .is_err_and(|e| e.refusal().code == RefusalCode::Replayed)
        {
            continue;
        }
        away.take(chain, bytes).expect("it follows");
    }
    assert_eq!(away.ledger.authority(), realm.ledger.authority());
    assert_eq!(away.ledger.desired(), realm.ledger.desired());
}

#[test]
fn who_was_an_owner_cannot_sign_with_an_old_date() {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    let (old, new) = (realm.owner.clone(), key("new"));
    let backdated = |realm: &Realm, seen: Head| {
        let payload = Payload {
            authority: seen,
            ..realm.payload_in(ChainId::DEFAULT, restart("orders", &[]))
        };
        realm.signed(ChainId::DEFAULT, &payload, &[&old])
    };
    let seen = realm.ledger.head(AUTHORITY);
    let missing = rotate(&[&new], 1, &[], Vec::new());
    let taken = realm.submit_by(&[&old, &new], AUTHORITY, missing);
    assert_eq!(
        code(taken),
        Some(RefusalCode::Malformed),
        "a fence is missing"
    );
    let body = rotate(&[&new], 1, &[], own_fence(&realm));
    // An entry that came before the rotation, and is beyond its fence, is abandoned.
    let mut behind = realm.clone();
    let early = backdated(&behind, seen);
    behind
        .take(ChainId::DEFAULT, early.clone())
        .expect("before");
    let rotation = realm.signed(AUTHORITY, &realm.payload_in(AUTHORITY, body), &[&old, &new]);
    for one in [&mut realm, &mut behind] {
        one.take(AUTHORITY, rotation.clone()).expect("both signed");
        assert_eq!(one.ledger.head(ChainId::DEFAULT).seq, 1);
        let taken = one.take(ChainId::DEFAULT, early.clone());
        assert_eq!(code(taken), Some(RefusalCode::Abandoned));
    }
    assert_eq!(realm.ledger.desired(), behind.ledger.desired());
    let taken = realm.submit_by(&[&new], ChainId::DEFAULT, restart("orders", &[]));
    assert_eq!(code(taken), None);
}

/// A realm with a recovery key, a node and a manifest.
fn recoverable() -> (Realm, SecretKey, SecretKey) {
    let mut realm = Realm::of_one_node();
    let (owner, safe) = (realm.owner.clone(), key("safe"));
    let body = rotate(&[&owner], 1, &[&safe], Vec::new());
    realm
        .submit_by(&[&owner], AUTHORITY, body)
        .expect("a recovery key");
    realm.apply(ORDERS, &[("orders", "1")]);
    (realm, owner, safe)
}

#[test]
fn a_recovery_key_abandons_what_a_stolen_key_signed() {
    let (mut realm, owner, safe) = recoverable();
    let (thief, fresh) = (key("thief"), key("fresh"));
    let before = realm.clone();
    // The thief makes itself the only owner, and runs what it likes.
    let body = rotate(&[&thief], 1, &[&safe], own_fence(&realm));
    realm
        .submit_by(&[&owner, &thief], AUTHORITY, body)
        .expect("stolen");
    let theirs = manifest_body(ORDERS, 2, &[("orders", "evil")]);
    realm
        .submit_by(&[&thief], ChainId::DEFAULT, theirs)
        .expect("stolen");
    realm
        .submit_by(&[&thief], AUTHORITY, revocation("here"))
        .expect("stolen");

    let body = recover(&[&fresh], &[&safe], own_fence(&before), None);
    let payload = before.payload_in(AUTHORITY, body);
    let by_owner = realm.signed(AUTHORITY, &payload, &[&owner]);
    assert_eq!(
        code(realm.take(AUTHORITY, by_owner)),
        Some(RefusalCode::WrongOwner)
    );
    let entry = realm.signed(AUTHORITY, &payload, &[&safe]);
    let mut other = before;
    for one in [&mut realm, &mut other] {
        one.take(AUTHORITY, entry.clone())
            .expect("the recovery key");
        let authority = one.ledger.authority();
        assert_eq!(authority.owners, [fresh.public()]);
        assert!(authority.was_approved(&node_name("here"), authority.head.seq));
        assert_eq!(one.ledger.desired().version, 1);
    }
    assert_eq!(realm.ledger.desired(), other.ledger.desired());
    assert_eq!(realm.ledger.authority(), other.ledger.authority());
    // What the thief signed does not come back, and is no fork.
    for (chain, bytes) in realm.entries.clone() {
        let again = realm
            .ledger
            .check(chain, &bytes, None)
            .expect_err("old")
            .refusal();
        assert!(
            matches!(
                again.code,
                RefusalCode::Replayed
                    | RefusalCode::Abandoned
                    | RefusalCode::Stale
                    | RefusalCode::WrongParent
                    | RefusalCode::WrongOwner
            ),
            "{} {again}",
            again.code
        );
    }
    realm
        .submit_by(
            &[&fresh],
            ChainId::DEFAULT,
            manifest_body(ORDERS, 2, &[("orders", "2")]),
        )
        .expect("the new owner");
}

/// Who has the owners' keys alone cannot shut the recovery key out.
#[test]
fn recovery_keys_change_only_by_one_of_them() {
    let (mut realm, owner, safe) = recoverable();
    let (thief, second) = (key("thief"), key("second"));
    let wrong = Some(RefusalCode::WrongOwner);
    let mut check = |signers: &[&SecretKey], recovery: &[&SecretKey], expected| {
        let body = rotate(&[&owner], 1, recovery, Vec::new());
        let taken = realm.submit_by(signers, AUTHORITY, body);
        assert_eq!(code(taken), expected);
    };
    check(&[&owner], &[&thief], wrong);
    check(&[&owner, &thief], &[&thief], wrong);
    check(&[&owner], &[&safe, &thief], wrong);
    check(&[&owner], &[], wrong);
    check(&[&safe], &[&safe, &second], wrong);
    check(&[&owner], &[&safe], None);
    check(&[&owner, &safe], &[&safe, &second], None);
    check(&[&owner], &[&second, &safe], None);
    check(&[&owner, &second], &[&second], None);
    check(&[&owner, &safe], &[&safe], wrong);
    check(&[&owner, &second], &[], None);
    // Where there is none, the owners choose the first one.
    check(&[&owner], &[&safe], None);
}

#[test]
fn of_two_recoveries_every_node_takes_the_same() {
    let (realm, _, safe) = recoverable();
    let entry = |fresh: &str| {
        let body = recover(&[&key(fresh)], &[&safe], own_fence(&realm), None);
        realm.signed(AUTHORITY, &realm.payload_in(AUTHORITY, body), &[&safe])
    };
    let (a, b) = (entry("a"), entry("b"));
    let take_both = |first: &[u8], second: &[u8]| {
        let mut realm = realm.clone();
        realm.take(AUTHORITY, first.to_vec()).expect("the first");
        let _ = realm.take(AUTHORITY, second.to_vec());
        realm.ledger.authority().clone()
    };
    assert_eq!(take_both(&a, &b), take_both(&b, &a));
}

/// Case 10, on the authority chain: frozen until a recovery that shows the fork.
#[test]
fn case_10_a_fork_of_the_authority_chain_ends_with_a_recovery() {
    let (realm, owner, safe) = recoverable();
    let sign = |body: Body| realm.signed(AUTHORITY, &realm.payload_in(AUTHORITY, body), &[&owner]);
    let (x, y) = (sign(approval("x", &[])), sign(approval("y", &[])));
    let mut halves = [realm.clone(), realm.clone()];
    for (half, entry) in halves.iter_mut().zip([&x, &y]) {
        half.take(AUTHORITY, entry.clone()).expect("its first");
    }
    for (half, theirs) in halves.iter_mut().zip([&y, &x]) {
        let Err(CheckError::Forked(fork)) = half.ledger.check(AUTHORITY, theirs, None) else {
            panic!("a fork");
        };
        let proof = super::forks::prove(half, &fork);
        assert_eq!(half.ledger.hold(&proof), Ok(crate::ledger::Held::Frozen));
        let next = half.submit_by(&[&owner], AUTHORITY, approval("z", &[]));
        assert_eq!(code(next), Some(RefusalCode::Frozen));
        // What runs goes on, and so does its namespace.
        half.submit_by(&[&owner], ChainId::DEFAULT, restart("orders", &[]))
            .expect("another chain");
    }
    let fork = Some(TwoEntries {
        first: x.clone().into(),
        second: y.into(),
    });
    let same = Some(TwoEntries {
        first: x.clone().into(),
        second: x.into(),
    });
    let body = |fork| recover(&[&owner], &[&safe], Vec::new(), fork);
    assert!(code(halves[0].take(AUTHORITY, sign(body(same)))).is_some());
    assert_eq!(
        code(halves[0].take(AUTHORITY, sign(body(None)))),
        Some(RefusalCode::WrongOwner)
    );
    let stranger = recover(&[&key("thief")], &[], own_fence(&realm), fork.clone());
    assert_eq!(
        code(halves[0].take(AUTHORITY, sign(stranger))),
        Some(RefusalCode::WrongOwner)
    );
    let end = sign(body(fork));
    for half in &mut halves {
        half.take(AUTHORITY, end.clone())
            .expect("the owners end it");
        assert_eq!(half.ledger.frozen().count(), 0);
        assert_eq!(half.ledger.authority().name_of(&node_key("x")), None);
        half.submit_by(&[&owner], AUTHORITY, approval("z", &[]))
            .expect("it goes on");
    }
    let [one, other] = &halves;
    assert_eq!(one.ledger.authority(), other.ledger.authority());
}

#[test]
fn a_recovery_key_signs_nothing_else_and_each_key_is_one_thing() {
    let (mut realm, owner, safe) = recoverable();
    let wrong = Some(RefusalCode::WrongOwner);
    assert_eq!(
        code(realm.submit_by(&[&safe], AUTHORITY, approval("x", &[]))),
        wrong
    );
    assert_eq!(
        code(realm.submit_by(&[&safe], ChainId::DEFAULT, restart("orders", &[]))),
        wrong
    );
    let malformed = Some(RefusalCode::Malformed);
    let twice = rotate(&[&owner, &owner], 1, &[&safe], Vec::new());
    assert_eq!(
        code(realm.submit_by(&[&owner], AUTHORITY, twice)),
        malformed
    );
    let node = key("here");
    let as_owner = rotate(&[&owner, &node], 1, &[&safe], Vec::new());
    assert_eq!(
        code(realm.submit_by(&[&owner, &node], AUTHORITY, as_owner)),
        malformed
    );
    let mut delegate = delegation("team-a", safe.public());
    for taken in [safe.public(), owner.public(), node.public()] {
        delegate.key = taken;
        let body = Body::Delegate(delegate.clone());
        assert_eq!(code(realm.submit_by(&[&owner], AUTHORITY, body)), malformed);
    }
    let authority = realm.ledger.authority();
    assert_eq!(authority.role_of(&safe.public(), 0), Some(Role::Recovery));
    assert_eq!(
        authority.role_of(&node.public(), 0),
        Some(Role::Node(node_name("here")))
    );
}

/// Who was an owner, or may no longer approve, makes no fork of what came before.
#[test]
fn who_lost_its_power_cannot_freeze_the_authority_chain() {
    let mut realm = Realm::of_one_node();
    let (old, new) = (realm.owner.clone(), key("new"));
    let beside = |realm: &Realm, body: Body, keys: &[&SecretKey]| {
        realm.signed(AUTHORITY, &realm.payload_in(AUTHORITY, body), keys)
    };
    let before = beside(&realm, approval("evil", &[]), &[&old]);
    realm.submit(approval("x", &[])).expect("an approval");
    let at_rotation = beside(&realm, approval("evil", &[]), &[&old]);
    let thief = key("thief");
    let rival = rotate(&[&thief], 1, &[], own_fence(&realm));
    let rival = beside(&realm, rival, &[&old, &thief]);
    let body = rotate(&[&new], 1, &[], own_fence(&realm));
    realm
        .submit_by(&[&old, &new], AUTHORITY, body)
        .expect("both signed");
    for bytes in [before, at_rotation] {
        let taken = realm.take(AUTHORITY, bytes);
        assert_eq!(code(taken), Some(RefusalCode::Abandoned));
    }
    // Two rotations of one place are a fork for as long as no other one follows.
    let Err(CheckError::Forked(fork)) = realm.ledger.check(AUTHORITY, &rival, None) else {
        panic!("a fork");
    };
    let proof = super::forks::prove(&realm, &fork);
    let mut later = realm.clone();
    assert_eq!(realm.ledger.hold(&proof), Ok(crate::ledger::Held::Frozen));
    let (newest, body) = (
        key("newest"),
        rotate(&[&key("newest")], 1, &[], own_fence(&later)),
    );
    later
        .submit_by(&[&new, &newest], AUTHORITY, body)
        .expect("both signed");
    assert_eq!(
        code(later.take(AUTHORITY, rival)),
        Some(RefusalCode::Abandoned)
    );
    assert_eq!(later.ledger.hold(&proof), Ok(crate::ledger::Held::Settled));
}

/// An approval by a delegate gives way to what the owners signed, and makes no fork of it.
#[test]
fn an_approval_by_a_delegate_weighs_less_than_the_owners_word() {
    let mut realm = Realm::of_one_node();
    let (owner, helper) = (realm.owner.clone(), key("helper"));
    let mut body = delegation("helpers", helper.public());
    body.may_approve = true;
    realm.submit(Body::Delegate(body)).expect("a delegate");
    let sign = |realm: &Realm, node: &str, key: &SecretKey| {
        realm.signed(
            AUTHORITY,
            &realm.payload_in(AUTHORITY, approval(node, &[])),
            &[key],
        )
    };
    let (theirs, ours) = (sign(&realm, "a", &helper), sign(&realm, "b", &owner));
    let mut owners_first = realm.clone();
    owners_first
        .take(AUTHORITY, ours.clone())
        .expect("the owner");
    let refused = owners_first.take(AUTHORITY, theirs.clone());
    assert_eq!(code(refused), Some(RefusalCode::Abandoned));
    realm.take(AUTHORITY, theirs).expect("the delegate");
    let Err(CheckError::Forked(fork)) = realm.ledger.check(AUTHORITY, &ours, None) else {
        panic!("a fork");
    };
    let proof = super::forks::prove(&realm, &fork);
    assert_eq!(
        owners_first.ledger.hold(&proof),
        Ok(crate::ledger::Held::Settled)
    );
    assert_eq!(realm.ledger.hold(&proof), Ok(crate::ledger::Held::Frozen));
}
