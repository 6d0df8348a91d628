//! One test per rule of admission, through `refused` and `admitted`; then the order of arrival.

mod arrival;
mod delegates;
mod floor;
mod forks;
mod owners;
mod versions;

use proptest::prelude::*;
use realm_model::digest::Digest;
use realm_model::entry::{
    Body, ChainId, Genesis, Head, ManifestBody, NamespaceName, Payload, RealmId, VerifiedEntry,
};
use realm_model::lock::VERSION_MAX;
use realm_model::manifest::MANIFEST_BYTES_MAX;
use realm_model::refusal::RefusalCode;

use super::Ledger;
use crate::testing::{
    Realm, approval, approval_of, component_name, key, lock, manifest_body, node_key, node_name,
    restart, revocation,
};

const ORDERS: &str = r#"
[components.orders]
source = "file:orders.wasm"

[routing]
"here" = [{ path = "/orders/...", component = "orders" }]
"#;

#[test]
fn nodes_are_approved_and_revoked() {
    let mut realm = Realm::found();
    admitted(&mut realm, approval("a", &["metal"]));
    admitted(&mut realm, approval("b", &[]));
    // Other tags, then another name for the same key.
    admitted(&mut realm, approval("a", &["cloud"]));
    admitted(&mut realm, approval_of("c", node_key("b"), &[]));
    let authority = realm.ledger.authority();
    assert_eq!(authority.nodes[&node_name("a")].tags, ["cloud"]);
    assert_eq!(authority.name_of(&node_key("b")), Some(&node_name("c")));
    assert!(!authority.nodes.contains_key(&node_name("b")));
    assert!(authority.was_approved(&node_name("b"), 3));
    assert!(!authority.was_approved(&node_name("b"), 4));

    admitted(&mut realm, revocation("a"));
    assert!(!realm.ledger.authority().nodes.contains_key(&node_name("a")));
    assert_eq!(realm.ledger.authority().head.seq, 5);
    assert_eq!(realm.ledger.desired().head, realm.ledger.realm().origin());
}

#[test]
fn a_name_belongs_to_one_key() {
    let mut realm = Realm::of_one_node();
    let other = approval_of("here", node_key("there"), &[]);
    refused(
        &realm,
        other.clone(),
        RefusalCode::NameTaken,
        "is approved with the key",
    );
    admitted(&mut realm, revocation("here"));
    admitted(&mut realm, other);
}

#[test]
fn approvals_are_sane() {
    let realm = Realm::of_one_node();
    let malformed = RefusalCode::Malformed;
    refused(
        &realm,
        revocation("there"),
        RefusalCode::UnknownName,
        "no node with the key",
    );
    refused(
        &realm,
        approval("a", &["two words"]),
        malformed,
        "is not a tag",
    );
    refused(&realm, approval("a", &["t"; 33]), malformed, "33 tags");
    refused(
        &realm,
        approval("owner", &[]),
        malformed,
        "is an owner's key",
    );
    let genesis = Body::Genesis(Genesis {
        owners: vec![key("thief").public()],
        threshold: 1,
        nonce: Digest::of(b""),
    });
    refused(&realm, genesis, malformed, "a genesis does not belong into");
}

#[test]
fn each_chain_takes_its_own_kinds() {
    let realm = Realm::of_one_node();
    for (body, chain) in [
        (approval("a", &[]), ChainId::DEFAULT),
        (
            manifest_body(ORDERS, 1, &[("orders", "1")]),
            ChainId::Authority,
        ),
    ] {
        let head = realm.ledger.head(chain);
        let payload = Payload {
            seq: head.seq + 1,
            prev: head.hash,
            ..realm.payload(body)
        };
        let bytes = payload.sign(realm.ledger.realm(), chain, &realm.owner);
        let refusal = realm
            .ledger
            .check(chain, &bytes, None)
            .expect_err("a wrong chain")
            .refusal();
        assert_eq!(refusal.code, RefusalCode::Malformed);
    }
}

#[test]
fn the_threshold_of_owners_signs() {
    let (one, two) = (key("one"), key("two"));
    let zero = Digest::from_bytes([0; 32]);
    let genesis = Payload {
        seq: 0,
        prev: zero,
        authority: Head { seq: 0, hash: zero },
        created_unix_s: 0,
        body: Body::Genesis(Genesis {
            owners: vec![one.public(), two.public()],
            threshold: 2,
            nonce: Digest::of(b"nonce"),
        }),
    };
    let id = RealmId::new(Digest::of(&genesis.to_bytes()));
    let signed = |payload: &Payload, chain| {
        let message = payload.message(id, chain);
        let signatures = [&one, &two].map(|key| (key.public(), key.sign(&message)));
        payload.with_signatures(id, chain, &signatures)
    };
    let bytes = signed(&genesis, ChainId::Authority);
    let genesis = VerifiedEntry::genesis(&bytes, None).expect("both owners signed");
    let mut realm = Realm {
        ledger: Ledger::found(genesis),
        owner: one.clone(),
        genesis: bytes,
        entries: Vec::new(),
    };
    for body in [
        approval("a", &[]),
        manifest_body(ORDERS, 1, &[("orders", "1")]),
    ] {
        refused(&realm, body.clone(), RefusalCode::WrongOwner, "1 of the 2");
        let payload = realm.payload(body);
        let chain = crate::testing::chain_of(&payload.body);
        realm
            .take(chain, signed(&payload, chain))
            .expect("both signed");
    }
}

#[test]
fn a_manifest_brings_its_version_and_pins() {
    let mut realm = Realm::of_one_node();
    admitted(&mut realm, manifest_body(ORDERS, 1, &[("orders", "1")]));
    let desired = realm.ledger.desired();
    assert_eq!(desired.version, 1);
    assert_eq!(desired.head.seq, 1);
    assert_eq!(desired.manifest_text.as_deref(), Some(ORDERS));
    assert_eq!(
        desired.lock_text.as_deref(),
        Some(desired.lock.to_text().as_str())
    );
    // A jump is allowed, a version in the manifest as well.
    admitted(&mut realm, manifest_body(ORDERS, 5, &[("orders", "1")]));
    let named = format!("version = 9\n{ORDERS}");
    admitted(&mut realm, manifest_body(&named, 9, &[("orders", "1")]));
    assert_eq!(realm.ledger.desired().version, 9);
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() {
    let mut realm = Realm::of_one_node();
    let builds = [("orders", "1")];
    admitted(&mut realm, manifest_body(ORDERS, 4, &builds));
    let body = |text: &str, version| manifest_body(text, version, &builds);
    let named = |version: u64| format!("version = {version}\n{ORDERS}");
    let sourced = |source: &str| ORDERS.replace("file:orders.wasm", source);

    let invalid = RefusalCode::InvalidManifest;
    let typo = ORDERS.replace("source", "sauce");
    refused(&realm, body(&typo, 5), invalid, "realm.toml:2:13: ");
    refused(&realm, body(&typo, 5), invalid, "; and 1 more");
    let long = format!("{ORDERS}#{}", "x".repeat(MANIFEST_BYTES_MAX));
    refused(
        &realm,
        body(&long, 5),
        RefusalCode::Oversized,
        "the manifest has",
    );

    let thief = key("thief").public();
    let owned = format!("[owner]\npubkey = \"{thief}\"\n{ORDERS}");
    refused(
        &realm,
        body(&owned, 5),
        RefusalCode::WrongOwner,
        "none of this realm's",
    );

    let stale = RefusalCode::Stale;
    refused(&realm, body(ORDERS, 4), stale, "version 4 is not above 4");
    refused(
        &realm,
        body(&named(3), 5),
        stale,
        "version 3 is not above 4",
    );
    let unfit = RefusalCode::InvalidLock;
    refused(
        &realm,
        body(&named(6), 5),
        unfit,
        "of version 5, the manifest of version 6",
    );
    refused(
        &realm,
        manifest_body(ORDERS, 5, &[]),
        unfit,
        "no pin of `orders`",
    );
    let surplus = manifest_body(
        ORDERS,
        5,
        &[("a", ""), ("b", ""), ("c", ""), ("d", ""), ("orders", "1")],
    );
    refused(
        &realm,
        surplus,
        unfit,
        "pins `a`, `b`, `c` and 1 more, which",
    );
    let text = Body::Manifest(ManifestBody {
        manifest: ORDERS.to_owned(),
        lock: "version = -1".to_owned(),
    });
    refused(&realm, text, unfit, "not a realm.lock");

    let other = Digest::of(b"2");
    let http = sourced(&format!("https://a.example/o.wasm@{other}"));
    refused(
        &realm,
        body(&http, 5),
        RefusalCode::DigestMismatch,
        "realm.lock sha256:",
    );
    let registry = sourced(&format!("registry:ghcr.io/acme/orders:1.2@{other}"));
    refused(
        &realm,
        body(&registry, 5),
        RefusalCode::DigestMismatch,
        "realm.lock sha256:",
    );

    let pinned = sourced(&format!("https://a.example/o.wasm@{}", Digest::of(b"1")));
    admitted(&mut realm, body(&pinned, 5));
    // And a push cannot move what the manifest pins.
    let push = realm.push_body("orders", "2");
    refused(
        &realm,
        Body::Push(push),
        RefusalCode::DigestMismatch,
        "the source of",
    );
    let owned = format!("[owner]\npubkey = \"{}\"\n{ORDERS}", realm.owner.public());
    admitted(&mut realm, body(&owned, 6));
}

#[test]
fn a_push_changes_one_pin_and_the_version() {
    let mut realm = Realm::of_one_node();
    let two = format!("{ORDERS}\n[components.auth]\nsource = \"file:auth.wasm\"");
    let unknown = RefusalCode::UnknownName;
    let push = realm.push_body("orders", "2");
    refused(&realm, Body::Push(push), unknown, "nothing was applied yet");
    realm.apply(&two, &[("orders", "1"), ("auth", "1")]);

    let push = realm.push_body("orders", "2");
    let with = |change: &dyn Fn(&mut realm_model::entry::PushBody)| {
        let mut push = push.clone();
        change(&mut push);
        Body::Push(push)
    };
    let locked = |version, builds: &[(&str, &str)]| lock(version, builds).to_text();
    let unfit = RefusalCode::InvalidLock;
    for (body, code, part) in [
        (
            with(&|p| p.component = component_name("shop")),
            unknown,
            "no component `shop`",
        ),
        (
            with(&|p| p.manifest = Digest::of(b"")),
            RefusalCode::Stale,
            "another manifest",
        ),
        (
            with(&|p| p.lock = locked(1, &[("orders", "2"), ("auth", "1")])),
            RefusalCode::Stale,
            "version 1 is not above 1",
        ),
        (
            with(&|p| p.lock = locked(3, &[("orders", "2"), ("auth", "1")])),
            unfit,
            "from 1 to 2, not to 3",
        ),
        (
            with(&|p| p.lock = locked(2, &[("auth", "1")])),
            unfit,
            "no pin of `orders`",
        ),
        (
            with(&|p| p.lock = locked(2, &[("orders", "1"), ("auth", "1")])),
            unfit,
            "does not change the pin",
        ),
        (
            with(&|p| p.lock = locked(2, &[("orders", "2"), ("auth", "2")])),
            unfit,
            "changes no other pin",
        ),
        (
            with(&|p| p.lock = locked(2, &[("orders", "2")])),
            unfit,
            "changes no other pin",
        ),
    ] {
        refused(&realm, body, code, part);
    }
    admitted(&mut realm, Body::Push(push));
    let desired = realm.ledger.desired();
    assert_eq!(desired.version, 2);
    assert_eq!(*desired.lock, lock(2, &[("orders", "2"), ("auth", "1")]));
    assert_eq!(desired.manifest_text.as_deref(), Some(two.as_str()));
}

#[test]
fn no_version_takes_away_the_room_for_the_next() {
    let mut realm = Realm::of_one_node();
    let builds = [("orders", "1")];
    let unfit = RefusalCode::InvalidLock;
    for version in [u64::MAX, VERSION_MAX + 1] {
        refused(
            &realm,
            manifest_body(ORDERS, version, &builds),
            unfit,
            "the highest one is",
        );
    }
    let named = format!("version = {}\n{ORDERS}", i64::MAX);
    let largest = i64::MAX.unsigned_abs();
    refused(
        &realm,
        manifest_body(&named, largest, &builds),
        unfit,
        "the highest one is",
    );
    admitted(&mut realm, manifest_body(ORDERS, VERSION_MAX - 1, &builds));
    let push = realm.push_body("orders", "2");
    let far = realm_model::entry::PushBody {
        lock: lock(u64::MAX, &[("orders", "2")]).to_text(),
        ..push.clone()
    };
    refused(&realm, Body::Push(far), unfit, "raises the version by one");
    admitted(&mut realm, Body::Push(push));
    let last = realm.push_body("orders", "3");
    refused(&realm, Body::Push(last), unfit, "no version follows");
    // The realm goes on with what needs no version.
    admitted(&mut realm, restart("orders", &[]));
}

#[test]
fn restarts_are_counted_per_node() {
    let mut realm = Realm::of_one_node();
    let unknown = RefusalCode::UnknownName;
    refused(
        &realm,
        restart("orders", &[]),
        unknown,
        "nothing was applied yet",
    );
    realm.apply(ORDERS, &[("orders", "1")]);
    refused(&realm, restart("shop", &[]), unknown, "no component `shop`");
    refused(
        &realm,
        restart("orders", &["here", "there"]),
        unknown,
        "no node `there`",
    );

    admitted(&mut realm, restart("orders", &[]));
    admitted(&mut realm, restart("orders", &["here", "here"]));
    admitted(&mut realm, approval("there", &[]));
    admitted(&mut realm, restart("orders", &["there"]));
    let desired = realm.ledger.desired();
    let on = |node| desired.restarts_on(&component_name("orders"), &node_name(node));
    assert_eq!((on("here"), on("there"), on("elsewhere")), (2, 2, 1));
    assert_eq!(desired.version, 1, "a restart is no new version");

    let without = "[components.auth]\nsource = \"file:auth.wasm\"";
    realm.apply(without, &[("auth", "1")]);
    let own = &realm.ledger.desired().namespaces[&NamespaceName::DEFAULT];
    assert!(own.restarts.is_empty());
}

#[test]
fn a_revision_is_known_by_its_version_until_it_is_long_ago() {
    let mut realm = Realm::of_one_node();
    let (orders, here) = (component_name("orders"), node_name("here"));
    let mut revisions = Vec::new();
    for version in 1..=12 {
        realm.apply(ORDERS, &[("orders", &version.to_string())]);
        let revision = realm.ledger.desired().revision_of(&orders, &here);
        revisions.push(revision.expect("it is in the manifest"));
    }
    let desired = realm.ledger.desired();
    let versions = revisions
        .iter()
        .map(|revision| desired.version_of(&orders, &here, *revision));
    let known: Vec<u64> = versions.clone().flatten().collect();
    assert_eq!(known, [5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(versions.take(4).flatten().count(), 0);
}

#[test]
fn a_replay_is_told_from_an_old_entry() {
    let mut realm = Realm::of_one_node();
    realm.apply(ORDERS, &[("orders", "1")]);
    let rival = realm.sign(&realm.payload(manifest_body(ORDERS, 2, &[("orders", "x")])));
    realm.apply(ORDERS, &[("orders", "2")]);
    realm.apply(ORDERS, &[("orders", "3")]);
    let before = (realm.ledger.desired().clone(), realm.ledger.heads());
    for (chain, bytes) in realm.entries.clone() {
        let refusal = realm
            .ledger
            .check(chain, &bytes, None)
            .expect_err("a replay")
            .refusal();
        assert_eq!(refusal.code, RefusalCode::Replayed);
    }
    let refusal = realm
        .ledger
        .check(rival.0, &rival.1, None)
        .expect_err("an old one")
        .refusal();
    assert_eq!(refusal.code, RefusalCode::Forked);
    assert_eq!(
        before,
        (realm.ledger.desired().clone(), realm.ledger.heads())
    );
}

#[test]
fn the_signer_saw_this_authority_chain() {
    let mut realm = Realm::of_one_node();
    let seen = realm.ledger.head(ChainId::Authority);
    let other = Head {
        seq: seen.seq,
        hash: Digest::of(b"another history"),
    };
    let ahead = Head {
        seq: seen.seq + 1,
        hash: Digest::of(b"not here yet"),
    };
    let seen_by = |realm: &Realm, authority, version| {
        let body = manifest_body(ORDERS, version, &[("orders", "1")]);
        let payload = Payload {
            authority,
            ..realm.payload(body)
        };
        let (chain, bytes) = realm.sign(&payload);
        realm
            .ledger
            .check(chain, &bytes, None)
            .map_err(|error| error.refusal().code)
            .map(drop)
    };
    assert_eq!(seen_by(&realm, other, 1), Err(RefusalCode::WrongParent));
    assert_eq!(seen_by(&realm, ahead, 1), Err(RefusalCode::Gap));
    assert_eq!(seen_by(&realm, realm.ledger.realm().origin(), 1), Ok(()));
    realm.apply(ORDERS, &[("orders", "1")]);
    assert_eq!(seen_by(&realm, seen, 2), Ok(()));
    let origin = realm.ledger.realm().origin();
    assert_eq!(seen_by(&realm, origin, 2), Err(RefusalCode::Stale));
}

#[test]
#[should_panic(expected = "follows the head it was checked against")]
fn an_entry_is_not_applied_to_another_state() {
    let mut realm = Realm::of_one_node();
    let (chain, bytes) = realm.sign(&realm.payload(approval("a", &[])));
    let late = realm.ledger.check(chain, &bytes, None).expect("admissible");
    admitted(&mut realm, approval("b", &[]));
    let _ = realm.ledger.apply(late);
}

proptest! {
    /// Whatever the owner signs, in whatever order the two chains arrive: one state.
    #[test]
    fn every_interleaving_gives_the_same_state(
        steps in prop::collection::vec((0..7u8, 0..3u8), 0..24),
        merges in prop::collection::vec(any::<bool>(), 48),
    ) {
        let mut realm = Realm::of_one_node();
        for (kind, which) in steps {
            // Some are refused; what counts is that what was admitted once is admitted everywhere.
            let _ = realm.submit(random_body(&realm, kind, which));
        }
        let mut other = Realm::found();
        let (mut authority, mut default): (Vec<_>, Vec<_>) =
            realm.entries.iter().cloned().partition(|(chain, _)| *chain == ChainId::Authority);
        authority.reverse();
        default.reverse();
        let mut merges = merges.into_iter();
        while !(authority.is_empty() && default.is_empty()) {
            let default_first = merges.next().unwrap_or(true) && !default.is_empty();
            if default_first || authority.is_empty() {
                let (chain, bytes) = default.last().expect("not empty").clone();
                match other.take(chain, bytes) {
                    Ok(_) => {
                        default.pop();
                        continue;
                    }
                    // Its signer had seen more: it waits for the authority chain.
                    Err(refusal) => prop_assert_eq!(refusal.code, RefusalCode::Gap),
                }
            }
            let (chain, bytes) = authority.pop().expect("a gap has an entry that fills it");
            prop_assert!(other.take(chain, bytes).is_ok());
        }
        prop_assert_eq!(realm.ledger.desired(), other.ledger.desired());
        prop_assert_eq!(realm.ledger.authority(), other.ledger.authority());
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let ledger = Realm::of_one_node().ledger;
        for chain in [ChainId::Authority, ChainId::DEFAULT] {
            prop_assert!(ledger.check(chain, &bytes, None).is_err());
        }
    }

    #[test]
    fn no_flipped_bit_gets_in(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let realm = Realm::of_one_node();
        let body = manifest_body(ORDERS, 1, &[("orders", "1")]);
        let (chain, mut bytes) = realm.sign(&realm.payload(body));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(realm.ledger.check(chain, &bytes, None).is_err());
    }
}

fn random_body(realm: &Realm, kind: u8, which: u8) -> Body {
    let node = ["here", "b", "c"][usize::from(which)];
    let build = ["1", "2", "3"][usize::from(which)];
    let next = realm.ledger.desired().version + 1;
    match kind {
        0 => approval(node, &["metal"]),
        1 => revocation(node),
        2 => manifest_body(ORDERS, next, &[("orders", build)]),
        3 => Body::Push(realm.push_body("orders", build)),
        4 => restart("orders", &[]),
        5 => restart("orders", &[node]),
        _ => approval_of(node, node_key("c"), &[]),
    }
}

fn admitted(realm: &mut Realm, body: Body) {
    if let Err(refusal) = realm.submit(body) {
        panic!("refused: {} {refusal}", refusal.code);
    }
}

/// The entry is refused with this code, a message with this part, and without effect.
fn refused(realm: &Realm, body: Body, code: RefusalCode, part: &str) {
    let (chain, bytes) = realm.sign(&realm.payload(body));
    let refusal = realm
        .ledger
        .check(chain, &bytes, None)
        .expect_err(part)
        .refusal();
    assert_eq!(refusal.code, code, "{refusal}");
    assert!(refusal.message.contains(part), "`{part}` in `{refusal}`");
}
