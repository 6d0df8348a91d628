//! Which record of a key counts, and what is noticed on the way.

use proptest::prelude::*;
use realm_model::key::SecretKey;
use realm_model::record::{Alarm, NodeBody};

use super::*;
use crate::testing::key;

fn realm() -> RealmId {
    RealmId::new(Digest::of(b"a realm"))
}

fn members(names: &[&str]) -> Members {
    let keys = names.iter().map(|name| key(name).public());
    keys.map(|key| (key.into(), key)).collect()
}

fn version(epoch: u64, boot: u64, counter: u64) -> Version {
    Version {
        epoch,
        boot,
        counter,
    }
}

fn body(says: &str) -> NodeBody {
    let mut body = NodeBody::of("a".parse().expect("a name"));
    body.agent = says.to_owned();
    body
}

fn record(key: &SecretKey, version: Version, says: &str) -> Vec<u8> {
    NodeRecord::sign(realm(), key, version, body(says))
}

fn table() -> Records {
    Records::new(realm(), key("own").public())
}

#[test]
fn the_newest_record_counts_whatever_comes_when() {
    let (a, members) = (key("a"), members(&["a"]));
    let mut table = table();
    let mut check = |version, says: &str, expected: Offered| {
        let offered = table.offer(&record(&a, version, says), &members, true);
        assert_eq!(offered, expected, "{version:?}");
    };
    let taken = || Offered::Taken(a.public());
    check(version(1, 9, 1), "1", taken());
    check(version(1, 9, 3), "3", taken());
    check(version(1, 9, 2), "2", Offered::Older);
    check(version(1, 9, 3), "3", Offered::Known);
    check(version(2, 1, 1), "later start", taken());
    check(version(1, 9, 4), "4", Offered::Older);
    assert_eq!(
        table.get(a.public()).expect("held").body.agent,
        "later start"
    );
}

#[test]
fn what_is_known_or_older_or_a_strangers_costs_no_check() {
    let (a, members) = (key("a"), members(&["a"]));
    let mut table = table();
    let news = record(&a, version(1, 1, 2), "");
    assert_eq!(table.offer(&news, &members, false), Offered::Unchecked);
    table.offer(&news, &members, true);
    assert_eq!(table.offer(&news, &members, false), Offered::Known);
    let older = record(&a, version(1, 1, 1), "");
    assert_eq!(table.offer(&older, &members, false), Offered::Older);
    let stranger = record(&key("b"), version(1, 1, 1), "");
    assert_eq!(table.offer(&stranger, &members, false), Offered::Stranger);
}

#[test]
fn case_5_a_forged_record_is_refused() {
    let (a, members) = (key("a"), members(&["a"]));
    let mut table = table();
    let mut bytes = record(&a, version(1, 1, 1), "");
    *bytes.last_mut().expect("bytes") ^= 1;
    let refused = table.offer(&bytes, &members, true);
    assert_eq!(refused, Offered::Refused(RecordError::BadSignature));
    assert!(table.get(a.public()).is_none());
}

#[test]
fn case_15_two_machines_with_one_key_are_noticed_and_do_not_flap() {
    let (a, members) = (key("a"), members(&["a"]));
    let mut table = table();
    let mut offer = |version, says: &str| table.offer(&record(&a, version, says), &members, true);
    let cloned = Offered::Cloned(a.public());
    assert_eq!(offer(version(5, 70, 1), "one"), Offered::Taken(a.public()));
    // Another start with the same number: the one with the greater boot number counts.
    assert_eq!(offer(version(5, 30, 9), "two"), cloned);
    assert_eq!(offer(version(5, 70, 2), "one"), Offered::Taken(a.public()));
    assert_eq!(offer(version(5, 30, 10), "two"), Offered::Older);
    // One start that says two things at once.
    assert_eq!(offer(version(5, 70, 2), "other"), cloned);
    assert_eq!(table.get(a.public()).expect("held").body.agent, "one");
    assert!(table.cloned().contains(&a.public().into()));
    // A later start that knows of nothing ends it, one that raises the alarm does not.
    let mut told = body("one");
    told.alarms.push(Alarm {
        code: CLONED_KEY.to_owned(),
        about: String::new(),
    });
    let told = NodeRecord::sign(realm(), &a, version(6, 1, 1), told);
    table.offer(&told, &members, true);
    assert!(!table.cloned().is_empty());
    table.offer(&record(&a, version(7, 1, 1), ""), &members, true);
    assert!(table.cloned().is_empty());
}

#[test]
fn case_15_a_foreign_record_with_the_own_key_is_not_taken() {
    let (own, members) = (key("own"), members(&["own"]));
    let mut table = table();
    let first = record(&own, version(3, 50, 1), "here");
    table.set_own(&first, own.public()).expect("its own");
    let mut check = |version, expected: Offered| {
        let offered = table.offer(&record(&own, version, "there"), &members, true);
        assert_eq!(offered, expected);
    };
    check(version(2, 99, 9), Offered::Older);
    check(version(3, 50, 1), Offered::Foreign(version(3, 50, 1)));
    check(version(3, 20, 7), Offered::Foreign(version(3, 20, 7)));
    check(version(4, 1, 1), Offered::Foreign(version(4, 1, 1)));
    assert_eq!(table.get(own.public()).expect("held").body.agent, "here");
}

#[test]
fn case_30_a_poison_record_stands_aside_and_its_node_goes_on() {
    let (a, members) = (key("a"), members(&["a"]));
    let mut table = table();
    let good = record(&a, version(1, 1, 1), "good");
    table.offer(&good, &members, true);
    // It reads, and whoever consumes it panics.
    let poison = record(&a, version(1, 1, 2), "poison");
    table.offer(&poison, &members, true);
    let kept = table
        .quarantine(a.public(), "the view panicked")
        .expect("held");
    assert_eq!(*kept, *poison);
    let says = |table: &Records| table.get(a.public()).map(|one| one.body.agent.clone());
    assert_eq!(says(&table).as_deref(), Some("good"));
    assert_eq!(table.offer(&poison, &members, true), Offered::Known);
    assert_eq!(says(&table).as_deref(), Some("good"));
    // It need not be sent again.
    assert_eq!(table.known(u64::MAX)[0].version, version(1, 1, 2));

    // A file that is damaged holds up nothing.
    let mut table = self::table();
    for place in 0..kept.len() {
        let mut damaged = kept.to_vec();
        damaged[place] ^= 1;
        let heard = table.keep_away(&damaged, "it panicked before");
        assert!(heard.is_err(), "byte {place}");
    }
    assert!(table.quarantined().is_empty());
    // After a restart it is not taken again, the next one is.
    let whose = table.keep_away(&kept, "it panicked before");
    assert_eq!(whose, Ok(a.public().into()));
    assert_eq!(table.offer(&poison, &members, true), Offered::Known);
    assert!(table.get(a.public()).is_none());
    assert_eq!(table.known(u64::MAX)[0].version, version(1, 1, 2));
    let next = record(&a, version(1, 1, 3), "better");
    assert_eq!(
        table.offer(&next, &members, true),
        Offered::Taken(a.public())
    );
    assert!(table.quarantined().is_empty());
}

#[test]
fn case_30_who_makes_a_reader_panic_is_found_alone_or_in_company() {
    let names = ["own", "a", "b", "c", "d"];
    let members = members(&names);
    let mut table = table();
    let own = record(&key("own"), version(1, 1, 1), "own");
    table.set_own(&own, key("own").public()).expect("its own");
    for name in &names[1..] {
        table.offer(&record(&key(name), version(1, 1, 1), name), &members, true);
    }
    // What these readers cannot stand: all of a list at once.
    let check = |bad: &[&[&str]], expected: &[&str]| {
        let mut panics = |records: &Records| {
            let says: Vec<String> = records.iter().map(|one| one.body.agent.clone()).collect();
            let has = |one: &&str| says.iter().any(|said| said == one);
            bad.iter().any(|all| all.iter().all(&has))
        };
        let mut expected: Vec<KeyBytes> = expected
            .iter()
            .map(|name| key(name).public().into())
            .collect();
        expected.sort();
        assert_eq!(table.poisonous(&mut panics), expected, "{bad:?}");
    };
    check(&[], &[]);
    check(&[&["b"]], &["b"]);
    check(&[&["b"], &["d"]], &["b", "d"]);
    check(&[&["c", "own"]], &["c"]);
    // It is not the others.
    check(&[&["own"]], &[]);
    check(&[&[]], &[]);
    // One of two that nobody stands together.
    let either = [key("a"), key("d")].map(|one| KeyBytes::from(one.public()));
    let mut both = |records: &Records| either.iter().all(|one| records.get(*one).is_some());
    let found = table.poisonous(&mut both);
    assert!(found.len() == 1 && either.contains(&found[0]), "{found:?}");
}

#[test]
fn case_14_a_revoked_node_is_forgotten() {
    let mut table = table();
    table.offer(
        &record(&key("a"), version(1, 1, 1), ""),
        &members(&["a", "b"]),
        true,
    );
    table.offer(
        &record(&key("b"), version(1, 1, 1), ""),
        &members(&["a", "b"]),
        true,
    );
    table.purge(&members(&["b"]));
    assert_eq!(table.iter().count(), 1);
    assert!(table.get(key("a").public()).is_none());
}

proptest! {
    /// Any order of arrival, with repetitions, ends in one table; and two tables that exchange
    /// what differs end alike.
    #[test]
    fn every_order_ends_in_one_table(
        ops in proptest::collection::vec((0usize..4, 1u64..3, 1u64..3, 1u64..4), 1..24),
        swaps in proptest::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let names = ["a", "b", "c", "d"];
        let members = members(&names);
        let bytes = |(name, epoch, boot, counter): &(usize, u64, u64, u64)| {
            record(&key(names[*name]), version(*epoch, *boot, *counter), "")
        };
        let ordered: Vec<Vec<u8>> = ops.iter().map(bytes).collect();
        let mut shuffled = ordered.clone();
        for (i, swap) in swaps.iter().enumerate() {
            let n = shuffled.len();
            shuffled.swap(i % n, swap.index(n));
        }
        let fill = |all: &[Vec<u8>]| {
            let mut table = table();
            for bytes in all {
                table.offer(bytes, &members, true);
            }
            table
        };
        let (one, mut other) = (fill(&ordered), fill(&shuffled[..shuffled.len() / 2]));
        prop_assert_eq!(one.digest(), fill(&shuffled).digest());
        let differing = Records::differing(&other.buckets(), &one.buckets());
        for bytes in one.newer(differing, &other.known(differing)) {
            other.offer(&bytes, &members, true);
        }
        prop_assert_eq!(one.digest(), other.digest());
    }
}
