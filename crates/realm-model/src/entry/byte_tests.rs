//! Entries as bytes: no bit can change, format 1 stays as it is, and any bytes give an answer.

use proptest::prelude::*;

use super::tests::*;
use super::*;

#[test]
fn no_bit_of_an_entry_can_change() {
    let realm = realm();
    for body in bodies() {
        let bytes = realm.signed(&realm.next(body));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let refused = VerifiedEntry::verify(&changed, &realm.trust());
                assert!(refused.is_err(), "bit {bit} of byte {at}");
            }
        }
    }
    let (_, bytes) = found_realm(&key(1), [9; 32], 5);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(
                VerifiedEntry::genesis(&changed, None).is_err(),
                "bit {bit} of byte {at}"
            );
        }
    }
}

/// Stored formats stay readable: these bytes were written by the first version of format 1.
#[test]
fn format_1_stays_as_it_is() {
    let realm = realm();
    let fixture = include_str!("../../tests/fixtures/entries-format-1.txt");
    let lines: Vec<(&str, &str)> = fixture
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let (genesis, written) = (lines[0], found_realm(&key(1), [9; 32], 1_700_000_000));
    assert_eq!(genesis, ("genesis", hex(&written.1).as_str()));
    let read = VerifiedEntry::genesis(&unhex(genesis.1), None).expect("a genesis");
    assert_eq!(read.head(), realm.id.origin());
    assert_eq!(lines.len(), bodies().len());
    for ((kind, line), body) in lines.into_iter().zip(bodies()).skip(1) {
        let payload = realm.next(body);
        let read = VerifiedEntry::verify(&unhex(line), &realm.trust()).expect("an entry");
        assert_eq!((read.payload(), kind), (&payload, payload.body.kind()));
        assert_eq!(hex(&realm.signed(&payload)), line, "{kind}");
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits
        .map(|pair| std::str::from_utf8(pair).expect("ASCII"))
        .map(|pair| u8::from_str_radix(pair, 16).expect("hex"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let realm = realm();
        prop_assert!(VerifiedEntry::verify(&bytes, &realm.trust()).is_err());
        prop_assert!(VerifiedEntry::genesis(&bytes, None).is_err());
    }

    #[test]
    fn any_signed_bytes_give_an_answer(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let realm = realm();
        prop_assert!(VerifiedEntry::verify(&sign_bytes(&realm, &payload), &realm.trust()).is_err());
    }

    #[test]
    fn any_signed_body_gives_an_answer(kind in prop_oneof![0u32..12, 15u32..20], body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let realm = realm();
        let bytes = raw(&realm, |raw| {
            raw.kind = kind;
            raw.body = body.into();
        });
        if let Ok(entry) = VerifiedEntry::verify(&bytes, &realm.trust()) {
            prop_assert_eq!(entry.bytes(), bytes);
        }
    }

    #[test]
    fn a_changed_entry_is_refused(
        kind in 0usize..15,
        at in any::<prop::sample::Index>(),
        cut in 0usize..9,
        with in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let realm = realm();
        let bytes = realm.signed(&realm.next(bodies().swap_remove(kind)));
        let mut changed = bytes.clone();
        let start = at.index(bytes.len());
        changed.splice(start..(start + cut).min(bytes.len()), with);
        prop_assume!(changed != bytes);
        prop_assert!(VerifiedEntry::verify(&changed, &realm.trust()).is_err());
    }
}
