//! Entries: each kind reads back as signed, each refusal has its code, and no byte can change.

use super::wire::{Envelope, RawPayload, decode, encode, envelope, signed_message};
use super::*;
use crate::refusal::RefusalCode;

/// A realm of two owners, and the place after its genesis.
pub(super) struct Realm {
    pub(super) owners: [SecretKey; 2],
    pub(super) keys: Vec<PublicKey>,
    pub(super) id: RealmId,
    pub(super) head: Head,
    pub(super) threshold: u32,
}

pub(super) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

pub(super) fn digest(seed: u8) -> Digest {
    Digest::from_bytes([seed; 32])
}

pub(super) fn realm() -> Realm {
    let (id, _) = found_realm(&key(1), [9; 32], 1_700_000_000);
    Realm {
        owners: [key(1), key(2)],
        keys: vec![key(1).public(), key(2).public()],
        id,
        head: Head {
            seq: 6,
            hash: digest(6),
        },
        threshold: 1,
    }
}

impl Realm {
    pub(super) fn trust(&self) -> Trust<'_> {
        Trust {
            realm: self.id,
            chain: ChainId::DEFAULT,
            head: self.head,
            keys: &self.keys,
            threshold: self.threshold,
        }
    }

    /// The payload that follows the head.
    pub(super) fn next(&self, body: Body) -> Payload {
        Payload {
            seq: self.head.seq.wrapping_add(1),
            prev: self.head.hash,
            authority: Head {
                seq: 3,
                hash: digest(3),
            },
            created_unix_s: 1_700_000_000,
            body,
        }
    }

    pub(super) fn signed(&self, payload: &Payload) -> Vec<u8> {
        payload.sign(self.id, ChainId::DEFAULT, &self.owners[0])
    }

    pub(super) fn check(&self, bytes: &[u8], expected: Result<(), RefusalCode>) {
        let seen = VerifiedEntry::verify(bytes, &self.trust());
        let seen = seen.map(|entry| assert_eq!(entry.bytes(), bytes));
        assert_eq!(seen.map_err(|refusal| refusal.code), expected);
    }
}

pub(super) fn restart() -> Body {
    Body::Restart(RestartBody {
        component: "orders".parse().expect("a name"),
        nodes: vec!["bm-01".parse().expect("a name")],
    })
}

pub(super) fn bodies() -> Vec<Body> {
    vec![
        Body::Genesis(Genesis {
            owners: vec![key(1).public()],
            threshold: 1,
            nonce: digest(1),
        }),
        Body::ApproveNode(ApproveNode {
            key: key(3).public(),
            name: "bm-01".parse().expect("a name"),
            tags: vec!["metal".to_owned()],
        }),
        Body::RevokeNode(RevokeNode {
            key: key(3).public(),
        }),
        Body::Manifest(ManifestBody {
            manifest: "version = 1\n".to_owned(),
            lock: "version = 1\n".to_owned(),
        }),
        Body::Push(PushBody {
            component: "orders".parse().expect("a name"),
            manifest: digest(4),
            lock: "version = 2\n".to_owned(),
        }),
        restart(),
        Body::SetNode(SetNode {
            key: key(3).public(),
            cordoned: true,
            drained: false,
        }),
        Body::ApproveUntil(ApproveUntil {
            key: key(3).public(),
            name: "bm-01".parse().expect("a name"),
            tags: vec!["metal".to_owned()],
            not_after_unix_s: 1_800_000_000,
        }),
        Body::Rotate(Rotate {
            owners: vec![key(1).public(), key(2).public()],
            threshold: 2,
            recovery: vec![key(4).public()],
            fences: vec![fence("default")],
        }),
        delegation(None, None),
        delegation(Some(3), Some(1_800_000_000)),
        Body::Undelegate(Undelegate {
            namespace: "team-a".parse().expect("a name"),
            fences: vec![fence("team-a")],
        }),
        Body::Resolve(Resolve {
            fence: fence("team-a"),
        }),
        recovery(None),
        recovery(Some(TwoEntries {
            first: vec![1, 2].into(),
            second: vec![3].into(),
        })),
        beacon(Some(key(7).public())),
        beacon(None),
        super::samples::weigh(),
        super::samples::rollback(),
    ]
}

fn fence(name: &str) -> Fence {
    let head = |seed: u8| Head {
        seq: u64::from(seed),
        hash: digest(seed),
    };
    Fence {
        namespace: name.parse().expect("a name"),
        base: head(4),
        head: head(5),
    }
}

fn delegation(replicas_max: Option<u32>, not_after_unix_s: Option<u64>) -> Body {
    Body::Delegate(Delegate {
        namespace: "team-a".parse().expect("a name"),
        key: key(5).public(),
        apps: vec!["shop-*".to_owned()],
        hosts: vec!["*.example.com".to_owned()],
        tags: vec!["metal".to_owned()],
        capabilities: vec!["env".to_owned()],
        may_exec: true,
        may_approve: false,
        fences: vec![fence("team-a")],
        replicas_max,
        not_after_unix_s,
    })
}

fn beacon(key: Option<PublicKey>) -> Body {
    Body::SetBeacon(SetBeacon {
        name: "watch".parse().expect("a name"),
        every_s: 300,
        key,
    })
}

fn recovery(fork: Option<TwoEntries>) -> Body {
    Body::Recover(Recover {
        owners: vec![key(6).public()],
        threshold: 1,
        recovery: vec![key(4).public()],
        fences: vec![fence("default")],
        fork,
    })
}

#[test]
fn each_kind_reads_back_as_it_was_signed() {
    let realm = realm();
    for body in bodies() {
        let payload = realm.next(body);
        let bytes = realm.signed(&payload);
        let entry = VerifiedEntry::verify(&bytes, &realm.trust()).expect("signed by an owner");
        assert_eq!(entry.payload(), &payload);
        assert_eq!(entry.bytes(), bytes);
        assert_eq!(entry.chain(), ChainId::DEFAULT);
        assert_eq!(entry.signers(), [realm.keys[0]]);
        let hash = Digest::of(&payload.to_bytes());
        assert_eq!(entry.head(), Head { seq: 7, hash });
    }
}

#[test]
fn a_genesis_founds_the_realm_that_it_names() {
    let (id, bytes) = found_realm(&key(1), [9; 32], 5);
    let entry = VerifiedEntry::genesis(&bytes, None).expect("its own realm");
    assert_eq!(entry.head(), id.origin());
    assert_eq!(entry.chain(), ChainId::Authority);
    assert!(VerifiedEntry::genesis(&bytes, Some(id)).is_ok());
    let (other, _) = found_realm(&key(1), [8; 32], 5);
    assert_ne!(id, other, "the nonce tells two realms of one owner apart");
    let refusal = VerifiedEntry::genesis(&bytes, Some(other)).expect_err("another realm");
    assert_eq!(refusal.code, RefusalCode::WrongRealm);
    assert_eq!(id.to_string().parse(), Ok(id));
}

/// A genesis with one thing changed, signed by these keys for the realm that it makes.
fn genesis(change: impl FnOnce(&mut Payload), signers: &[u8], chain: ChainId) -> Vec<u8> {
    let zero = digest(0);
    let mut payload = Payload {
        seq: 0,
        prev: zero,
        authority: Head { seq: 0, hash: zero },
        created_unix_s: 5,
        body: Body::Genesis(Genesis {
            owners: vec![key(1).public(), key(2).public()],
            threshold: 2,
            nonce: digest(9),
        }),
    };
    change(&mut payload);
    let id = RealmId::new(Digest::of(&payload.to_bytes()));
    let message = payload.message(id, chain);
    let signatures: Vec<_> = signers
        .iter()
        .map(|seed| (key(*seed).public(), key(*seed).sign(&message)))
        .collect();
    payload.with_signatures(id, chain, &signatures)
}

#[test]
fn a_genesis_is_refused_if_it_cannot_vouch_for_itself() {
    let check = |bytes: &[u8], expected: Option<RefusalCode>| {
        let seen = VerifiedEntry::genesis(bytes, None).err();
        assert_eq!(seen.map(|refusal| refusal.code), expected);
    };
    let owners = |owners: Vec<PublicKey>, threshold| {
        move |payload: &mut Payload| {
            payload.body = Body::Genesis(Genesis {
                owners,
                threshold,
                nonce: digest(9),
            });
        }
    };
    let one = key(1).public();
    let authority = ChainId::Authority;
    check(&genesis(|_| {}, &[1, 2], authority), None);
    check(
        &genesis(|_| {}, &[1], authority),
        Some(RefusalCode::WrongOwner),
    );
    check(
        &genesis(|_| {}, &[1, 1], authority),
        Some(RefusalCode::WrongOwner),
    );
    check(
        &genesis(|_| {}, &[3, 4], authority),
        Some(RefusalCode::WrongOwner),
    );
    check(
        &genesis(|_| {}, &[], authority),
        Some(RefusalCode::Unsigned),
    );
    check(
        &genesis(|_| {}, &[1, 2], ChainId::DEFAULT),
        Some(RefusalCode::Malformed),
    );
    check(
        &genesis(|payload| payload.seq = 1, &[1, 2], authority),
        Some(RefusalCode::Malformed),
    );
    check(
        &genesis(|payload| payload.body = restart(), &[1, 2], authority),
        Some(RefusalCode::Malformed),
    );
    check(
        &genesis(owners(Vec::new(), 0), &[1], authority),
        Some(RefusalCode::Malformed),
    );
    check(
        &genesis(owners(vec![one], 0), &[1], authority),
        Some(RefusalCode::Malformed),
    );
    check(
        &genesis(owners(vec![one], 2), &[1], authority),
        Some(RefusalCode::Malformed),
    );
    check(
        &genesis(owners(vec![one; 17], 1), &[1], authority),
        Some(RefusalCode::Malformed),
    );
    // Two places for one owner are not two owners.
    check(
        &genesis(owners(vec![one, one], 2), &[1, 1], authority),
        Some(RefusalCode::WrongOwner),
    );
}

#[test]
fn signatures_are_those_of_owners_over_these_bytes() {
    let realm = realm();
    let payload = realm.next(restart());
    let sign = |signatures: &[(PublicKey, Signature)]| {
        payload.with_signatures(realm.id, ChainId::DEFAULT, signatures)
    };
    let by = |seed: u8| {
        let message = payload.message(realm.id, ChainId::DEFAULT);
        (key(seed).public(), key(seed).sign(&message))
    };
    realm.check(&sign(&[by(1)]), Ok(()));
    realm.check(&sign(&[by(1), by(2)]), Ok(()));
    realm.check(&sign(&[]), Err(RefusalCode::Unsigned));
    realm.check(&sign(&[by(3)]), Err(RefusalCode::WrongOwner));
    // The name of an owner over the signature of another.
    realm.check(
        &sign(&[(key(1).public(), by(2).1)]),
        Err(RefusalCode::BadSignature),
    );
    // One good signature does not carry a bad one of an owner.
    realm.check(
        &sign(&[by(1), (key(2).public(), by(1).1)]),
        Err(RefusalCode::BadSignature),
    );
    realm.check(&sign(&[by(1); 17]), Err(RefusalCode::Malformed));
    // Signed for another realm or chain, in an envelope of this one.
    let (other, _) = found_realm(&key(1), [8; 32], 5);
    for (id, chain) in [(other, ChainId::DEFAULT), (realm.id, ChainId::Authority)] {
        let signature = key(1).sign(&payload.message(id, chain));
        realm.check(
            &sign(&[(key(1).public(), signature)]),
            Err(RefusalCode::BadSignature),
        );
    }
}

/// Case 7: one key that signs twice does not reach a threshold of two.
#[test]
fn case_7_a_threshold_counts_owners_not_signatures() {
    let realm = Realm {
        threshold: 2,
        ..realm()
    };
    let payload = realm.next(restart());
    let message = payload.message(realm.id, ChainId::DEFAULT);
    let by = |seed: u8| (key(seed).public(), key(seed).sign(&message));
    let check = |signatures: &[(PublicKey, Signature)], expected| {
        realm.check(
            &payload.with_signatures(realm.id, ChainId::DEFAULT, signatures),
            expected,
        );
    };
    check(&[by(1), by(2)], Ok(()));
    check(&[by(2), by(1)], Ok(()));
    check(&[by(1)], Err(RefusalCode::WrongOwner));
    check(&[by(1), by(1)], Err(RefusalCode::WrongOwner));
    check(&[by(1), by(3)], Err(RefusalCode::WrongOwner));
}

#[test]
fn a_threshold_of_none_still_asks_for_one() {
    let realm = Realm {
        threshold: 0,
        ..realm()
    };
    let payload = realm.next(restart());
    realm.check(
        &payload.sign(realm.id, ChainId::DEFAULT, &key(3)),
        Err(RefusalCode::WrongOwner),
    );
    realm.check(&realm.signed(&payload), Ok(()));
}

#[test]
fn an_entry_is_for_one_realm_and_one_chain() {
    let realm = realm();
    let payload = realm.next(restart());
    let (other, _) = found_realm(&key(1), [8; 32], 5);
    let bytes = payload.sign(other, ChainId::DEFAULT, &realm.owners[0]);
    realm.check(&bytes, Err(RefusalCode::WrongRealm));
    let bytes = payload.sign(realm.id, ChainId::Authority, &realm.owners[0]);
    realm.check(&bytes, Err(RefusalCode::WrongChain));
    let bytes = change(&realm.signed(&payload), |envelope| {
        envelope.chain = "staging".to_owned()
    });
    realm.check(&bytes, Err(RefusalCode::WrongChain));
}

#[test]
fn a_message_about_unsigned_bytes_shows_them_and_does_what_none_of_them_says() {
    let realm = realm();
    let bytes = change(&realm.signed(&realm.next(restart())), |envelope| {
        envelope.chain = format!("\u{1b}[2J\n\u{202e}{}", "x".repeat(10_000));
    });
    let refusal = VerifiedEntry::verify(&bytes, &realm.trust()).expect_err("another chain");
    assert_eq!(
        refusal.message,
        format!(
            "the entry is for chain `\\u{{1b}}[2J\\u{{a}}\\u{{202e}}{}`, expected `default`",
            "x".repeat(34)
        )
    );
}

#[test]
fn an_entry_stands_right_behind_the_head() {
    let mut realm = realm();
    let check = |realm: &Realm, seq, prev, expected| {
        let payload = Payload {
            seq,
            prev,
            ..realm.next(restart())
        };
        realm.check(&realm.signed(&payload), expected);
    };
    let hash = realm.head.hash;
    check(&realm, 7, hash, Ok(()));
    check(&realm, 7, digest(5), Err(RefusalCode::WrongParent));
    for seq in [8, 1_000, u64::MAX] {
        check(&realm, seq, hash, Err(RefusalCode::Gap));
    }
    for seq in [0, 5, 6] {
        check(&realm, seq, hash, Err(RefusalCode::Stale));
    }
    // The entry that is the head is a replay; one before it is stale.
    let payload = realm.next(restart());
    let bytes = realm.signed(&payload);
    realm.head = VerifiedEntry::verify(&bytes, &realm.trust())
        .expect("the next one")
        .head();
    realm.check(&bytes, Err(RefusalCode::Replayed));
    realm.head.seq += 1;
    realm.check(&bytes, Err(RefusalCode::Stale));
    // The end of the numbers is no way around.
    realm.head = Head {
        seq: u64::MAX,
        hash,
    };
    for seq in [0, 1, u64::MAX] {
        check(&realm, seq, hash, Err(RefusalCode::Stale));
    }
}

/// Case 2: the same entry again, also when it looks like another one.
#[test]
fn case_2_the_same_payload_under_other_signatures_is_a_replay() {
    let mut realm = realm();
    let payload = realm.next(restart());
    let bytes = realm.signed(&payload);
    realm.head = VerifiedEntry::verify(&bytes, &realm.trust())
        .expect("the next one")
        .head();
    let again = payload.sign(realm.id, ChainId::DEFAULT, &realm.owners[1]);
    realm.check(&again, Err(RefusalCode::Replayed));
}

#[test]
fn what_is_too_large_is_not_even_parsed() {
    let realm = realm();
    realm.check(&vec![0; ENTRY_BYTES_MAX + 1], Err(RefusalCode::Oversized));
    realm.check(&vec![0; ENTRY_BYTES_MAX], Err(RefusalCode::Malformed));
    let of_size = |size: usize| {
        realm.signed(&realm.next(Body::Manifest(ManifestBody {
            manifest: "#".repeat(size),
            lock: String::new(),
        })))
    };
    let overhead = of_size(ENTRY_BYTES_MAX / 2).len() - ENTRY_BYTES_MAX / 2;
    let largest = of_size(ENTRY_BYTES_MAX - overhead);
    assert_eq!(largest.len(), ENTRY_BYTES_MAX);
    realm.check(&largest, Ok(()));
    realm.check(
        &of_size(ENTRY_BYTES_MAX - overhead + 1),
        Err(RefusalCode::Oversized),
    );
}

/// The entry with its envelope changed, in the one encoding.
pub(super) fn change(bytes: &[u8], change: impl FnOnce(&mut Envelope)) -> Vec<u8> {
    let mut envelope: Envelope = decode(bytes, "entry").expect("an entry");
    change(&mut envelope);
    encode(&envelope)
}

/// A payload of raw parts, signed by an owner.
pub(super) fn raw(realm: &Realm, change: impl FnOnce(&mut RawPayload)) -> Vec<u8> {
    let bytes = realm.next(restart()).to_bytes();
    let mut raw: RawPayload = decode(&bytes, "payload").expect("a payload");
    change(&mut raw);
    sign_bytes(realm, &encode(&raw))
}

pub(super) fn sign_bytes(realm: &Realm, payload: &[u8]) -> Vec<u8> {
    let message = signed_message(realm.id.digest(), ChainId::DEFAULT.as_str(), payload);
    let signature = realm.owners[0].sign(&message);
    envelope(
        realm.id,
        ChainId::DEFAULT,
        payload,
        &[(realm.keys[0], signature)],
    )
}

#[test]
fn what_this_version_does_not_know_asks_for_a_newer_one() {
    let realm = realm();
    realm.check(
        &raw(&realm, |raw| raw.kind = 23),
        Err(RefusalCode::NeedsNewerAgent),
    );
    realm.check(
        &raw(&realm, |raw| raw.kind = u32::MAX),
        Err(RefusalCode::NeedsNewerAgent),
    );
    // A kind of the future that stands in the wrong place is refused for its place.
    let bytes = raw(&realm, |raw| {
        raw.kind = 23;
        raw.seq = 9;
    });
    realm.check(&bytes, Err(RefusalCode::Gap));
    let bytes = realm.signed(&realm.next(restart()));
    realm.check(
        &change(&bytes, |envelope| envelope.format = 2),
        Err(RefusalCode::NeedsNewerAgent),
    );
    // A format may have another shape: an array of the number alone.
    realm.check(&[0x81, 2], Err(RefusalCode::NeedsNewerAgent));
    realm.check(&[0x81, 1], Err(RefusalCode::Malformed));
}

#[test]
fn what_an_owner_signed_must_still_be_an_entry() {
    let realm = realm();
    for payload in [b"".as_slice(), b"\x80", b"\xff", b"not cbor"] {
        realm.check(&sign_bytes(&realm, payload), Err(RefusalCode::Malformed));
    }
    realm.check(
        &raw(&realm, |raw| raw.body = vec![0x80].into()),
        Err(RefusalCode::Malformed),
    );
    realm.check(
        &raw(&realm, |raw| raw.body.push(0)),
        Err(RefusalCode::Malformed),
    );
    let mut trailing = realm.next(restart()).to_bytes();
    trailing.push(0xf6);
    realm.check(&sign_bytes(&realm, &trailing), Err(RefusalCode::Malformed));
    // Names inside are checked as everywhere.
    let bad_name = minicbor::to_vec(("a/b", Vec::<&str>::new())).expect("encodes");
    realm.check(
        &raw(&realm, |raw| raw.body = bad_name.into()),
        Err(RefusalCode::Malformed),
    );
    // A field of the future must not be read over.
    let more = minicbor::to_vec(("orders", Vec::<&str>::new(), 1)).expect("encodes");
    realm.check(
        &raw(&realm, |raw| raw.body = more.into()),
        Err(RefusalCode::Malformed),
    );
}

#[test]
fn an_entry_has_one_encoding() {
    let realm = realm();
    let bytes = realm.signed(&realm.next(restart()));
    realm.check(&bytes, Ok(()));
    let mut trailing = bytes.clone();
    trailing.push(0);
    realm.check(&trailing, Err(RefusalCode::Malformed));
    for end in 0..bytes.len() {
        realm.check(&bytes[..end], Err(RefusalCode::Malformed));
    }
    // Nothing of these is covered by the signature; each decodes to the same entry.
    assert_eq!(bytes[..2], [0x85, 0x01], "an array of five, format 1");
    let longer_length = [&[0x98, 5], &bytes[1..]].concat();
    let longer_number = [&[0x85, 0x18, 0x01], &bytes[2..]].concat();
    let indefinite = [&[0x9f], &bytes[1..], &[0xff]].concat();
    let another_field = [&[0x86], &bytes[1..], &[0x00]].concat();
    for twin in [longer_length, longer_number, indefinite, another_field] {
        let decoded: Envelope = minicbor::decode(&twin).expect("the same entry");
        assert_eq!(encode(&decoded), bytes);
        realm.check(&twin, Err(RefusalCode::Malformed));
    }
}
