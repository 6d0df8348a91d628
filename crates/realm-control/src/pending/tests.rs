//! Strangers in any number: the list stays bounded, fair and usable.

use proptest::prelude::*;
use realm_model::digest::Digest;
use realm_model::key::SecretKey;

use super::*;

const MINUTE_MS: u64 = 60_000;

fn key(number: u32) -> PublicKey {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(&seed).public()
}

fn ask(name: &str) -> Ask {
    Ask {
        realm: None,
        name: name.parse().expect("a name"),
        tags: Vec::new(),
        addresses: Vec::new(),
        agent: "realm 0.1.0".to_owned(),
        proof: None,
        from: 0,
    }
}

/// An address in a network of its own.
fn ip(network: u32) -> Option<IpAddr> {
    let [_, a, b, c] = network.to_be_bytes();
    Some(IpAddr::from([10 + a, b, c, 1]))
}

/// `Ok(true)`: listed anew.
fn join(pending: &mut Pending, number: u32, network: u32, now_ms: u64) -> Result<bool, JoinCode> {
    let ask = ask(&format!("n{number}"));
    let asked = pending.ask(key(number), ask, ip(network), Millis(now_ms));
    asked.map_err(|refused| refused.code)
}

fn is_listed(pending: &Pending, number: u32) -> bool {
    pending.joins.contains_key(&key(number))
}

#[test]
fn a_key_is_listed_once_and_forgotten_after_a_day_of_silence() {
    let mut pending = Pending::default();
    assert_eq!(join(&mut pending, 1, 1, 0), Ok(true));
    assert_eq!(join(&mut pending, 1, 2, MINUTE_MS), Ok(false));
    let [listed] = pending.list()[..] else {
        panic!("one");
    };
    assert_eq!((listed.first, listed.last), (Millis(0), Millis(MINUTE_MS)));
    assert_eq!(listed.origin, ip(2));
    pending.expire(Millis(MINUTE_MS + PENDING_TTL_MS - 1));
    assert_eq!(pending.len(), 1);
    pending.expire(Millis(MINUTE_MS + PENDING_TTL_MS));
    assert!(pending.is_empty());

    assert_eq!(join(&mut pending, 2, 1, 2 * PENDING_TTL_MS), Ok(true));
    assert_eq!(pending.settle(&key(2)).map(|join| join.key), Some(key(2)));
    assert_eq!(pending.settle(&key(2)), None);
}

// Case 13: 10,000 join requests from fresh keys.
#[test]
fn case_13_ten_thousand_keys_of_one_network_leave_the_list_usable() {
    let mut pending = Pending::default();
    assert_eq!(join(&mut pending, 100_000, 1, 0), Ok(true));
    let mut codes: BTreeMap<&str, u32> = BTreeMap::new();
    for number in 0..10_000 {
        // A hundred in a second.
        let now_ms = 1 + u64::from(number) * 10;
        let answer = join(&mut pending, number, 2, now_ms);
        *codes
            .entry(answer.map_or_else(JoinCode::as_str, |_| "listed"))
            .or_default() += 1;
        assert!(pending.len() <= PENDING_MAX && pending.networks.len() <= 2);
    }
    assert_eq!(codes.values().sum::<u32>(), 10_000);
    assert!(
        codes["listed"] <= 64 && codes["too-many-joins"] > 9_000,
        "{codes:?}"
    );

    // The honest request that came before is there, and first; one that comes into the flood is second.
    let now_ms = 100_001;
    assert_eq!(join(&mut pending, 100_000, 1, now_ms), Ok(false));
    assert_eq!(join(&mut pending, 100_001, 3, now_ms), Ok(true));
    let first: Vec<PublicKey> = pending.list().iter().map(|join| join.key).collect();
    assert_eq!(first[..1], [key(100_000)]);
    assert!(first[..3].contains(&key(100_001)));
    assert_eq!(pending.len(), PENDING_MAX);
}

#[test]
fn case_13_ten_thousand_networks_push_nobody_out_who_keeps_asking() {
    let mut pending = Pending::default();
    for number in 0..4 {
        assert_eq!(join(&mut pending, number, 1, 0), Ok(true));
    }
    let mut full = 0;
    for number in 0..10_000 {
        let now_ms = 1 + u64::from(number) * 100;
        if number % 600 == 0 {
            // Asks again as every node does. It was first in its network.
            assert_eq!(join(&mut pending, 0, 1, now_ms), Ok(false));
        }
        let answer = join(&mut pending, 1_000 + number, 1_000 + number, now_ms);
        full += u32::from(answer == Err(JoinCode::ListFull));
        assert!(is_listed(&pending, 0), "{number}");
        assert!(pending.len() <= PENDING_MAX && pending.networks.len() <= NETWORKS_MAX);
    }
    assert!(full > 500, "{full}");
    // Ten minutes after the last of them, whoever is left of them makes room.
    let now_ms = 10_000 * 100 + SILENT_MS;
    assert_eq!(join(&mut pending, 0, 1, now_ms - 1), Ok(false));
    assert_eq!(join(&mut pending, 5, 2, now_ms), Ok(true));
    assert!(is_listed(&pending, 0));
}

#[test]
fn a_rack_may_use_every_place_until_others_want_one() {
    let mut pending = Pending::default();
    for number in 0..64 {
        assert_eq!(join(&mut pending, number, 1, u64::from(number)), Ok(true));
    }
    let check = |pending: &mut Pending, number, network, expected: Result<bool, JoinCode>| {
        assert_eq!(join(pending, number, network, 20_000), expected, "{number}");
        assert_eq!(pending.len(), PENDING_MAX);
    };
    check(&mut pending, 64, 1, Err(JoinCode::ListFull));
    check(&mut pending, 100, 2, Ok(true));
    assert!(
        !is_listed(&pending, 63) && is_listed(&pending, 62),
        "the newest went"
    );
    // 32 each, and no further: neither takes the place from the other in turn.
    for number in 101..132 {
        check(&mut pending, number, 2, Ok(true));
    }
    check(&mut pending, 132, 2, Err(JoinCode::ListFull));
    check(&mut pending, 64, 1, Err(JoinCode::ListFull));
    // What it asked meanwhile is counted.
    check(&mut pending, 64, 1, Err(JoinCode::TooMany));
    assert!((0..32).all(|number| is_listed(&pending, number)));
}

#[test]
fn networks_beyond_the_count_share_one() {
    let mut pending = Pending::default();
    let mut refused = 0;
    for number in 0..3_000 {
        let answer = join(&mut pending, number, number, u64::from(number));
        refused += u32::from(answer == Err(JoinCode::TooMany));
    }
    assert!(refused > 2_000, "{refused}");
    assert_eq!(pending.networks.len(), NETWORKS_MAX);
    // What was not used for long is forgotten.
    assert!(join(&mut pending, 9_999, 9_999, 24 * 60 * MINUTE_MS).is_ok());
    assert_eq!(pending.networks.len(), 1);
}

#[test]
fn a_network_is_a_site() {
    let network = |ip: &str| Network::of(Some(ip.parse().expect("an address")));
    assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.200"));
    assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
    assert_eq!(network("2001:db8:1::1"), network("2001:db8:1:ffff::2"));
    assert_ne!(network("2001:db8:1::1"), network("2001:db8:2::1"));
    assert_ne!(network("192.0.2.1"), Network::of(None));
}

#[test]
fn a_refusal_says_when_to_ask_again() {
    let mut pending = Pending::default();
    for number in 0..64 {
        assert_eq!(join(&mut pending, number, 1, 0), Ok(true));
    }
    let refused = pending
        .ask(key(64), ask("a"), ip(1), Millis(0))
        .expect_err("too many");
    assert_eq!(
        (refused.code, refused.retry_after_s),
        (JoinCode::TooMany, Some(10))
    );
    let refused = pending
        .ask(key(64), ask("a"), ip(1), Millis(10_000))
        .expect_err("full");
    assert_eq!(
        (refused.code, refused.retry_after_s),
        (JoinCode::ListFull, Some(RETRY_AFTER_S))
    );
}

#[test]
fn who_was_invited_is_known_by_the_proof() {
    let realm = RealmId::new(Digest::from_bytes([1; 32]));
    let voucher = Voucher::from_bytes([1; 16]);
    let mut pending = Pending::default();
    let proofs = [
        Some(voucher.proof(realm, &key(0))),
        None,
        // That of another key, seen on its way.
        Some(voucher.proof(realm, &key(0))),
        Some(Voucher::from_bytes([2; 16]).proof(realm, &key(3))),
    ];
    for (number, proof) in (0..).zip(proofs) {
        let ask = Ask { proof, ..ask("a") };
        assert!(pending.ask(key(number), ask, ip(number), Millis(0)).is_ok());
    }
    let vouched: Vec<PublicKey> = pending
        .vouched(&voucher, realm)
        .iter()
        .map(|join| join.key)
        .collect();
    assert_eq!(vouched, [key(0)]);
}

fn claims() -> Vec<(NodeName, PublicKey)> {
    ["bm-01", "bm-02", "bm-01", "bm-03", "bm-03"]
        .iter()
        .zip([0, 1, 2, 3, 3])
        .map(|(name, number)| (name.parse().expect("a name"), key(number)))
        .collect()
}

#[track_caller]
fn check(arguments: &[&str], expected: Result<&[usize], &str>) {
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let selected = select(&claims(), &arguments);
    match (&selected, expected) {
        (Ok(selected), Ok(expected)) => assert_eq!(selected, expected),
        (Err(error), Err(code)) => assert_eq!(error.code(), code, "{error}"),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("{selected:?}"),
    }
}

#[test]
fn six_words_are_never_taken_for_names() {
    let spoken = key(9).words();
    let mut names: Vec<String> = spoken.iter().map(|word| (*word).to_owned()).collect();
    names.push(spoken.join("-"));
    let claims: Vec<(NodeName, PublicKey)> = names
        .iter()
        .zip(20..)
        .map(|(name, number)| (name.parse().expect("a name"), key(number)))
        .collect();
    let refused = |arguments: &[String]| {
        let error = select(&claims, arguments).expect_err("nobody has these words");
        assert_eq!(error, SelectError::UnknownWords(spoken.join(" ")));
    };
    refused(&names[..WORDS]);
    refused(&names[WORDS..]);
    refused(&[spoken.join(" ").to_uppercase()]);
    refused(&[&names[..WORDS], &names[..1]].concat());
    // Fewer than six are names.
    assert_eq!(select(&claims, &names[..2]), Ok(vec![0, 1]));
}

#[test]
fn names_words_and_keys_select_and_a_name_that_two_claim_does_not() {
    let words = key(2).words();
    check(&["bm-02"], Ok(&[1]));
    check(&["bm-02", "bm-02"], Ok(&[1]));
    check(&["bm-01"], Err("name-not-unique"));
    // One node that two others report.
    check(&["bm-03"], Ok(&[3]));
    check(&["bm-04"], Err("unknown-name"));
    check(&[&words.join(" ")], Ok(&[2]));
    check(&[&words.join("-").to_uppercase()], Ok(&[2]));
    check(&words, Ok(&[2]));
    let mut all = vec!["bm-02"];
    all.extend(words);
    all.push("bm-03");
    check(&all, Ok(&[1, 2, 3]));
    check(&words[..5], Err("unknown-name"));
    check(&[&key(0).to_string()], Ok(&[0]));
    check(&[], Ok(&[]));
    let error = select(&claims(), &["bm-01".to_owned()]).expect_err("two");
    for number in [0, 2] {
        assert!(error.to_string().contains(&key(number).words().join(" ")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    // However strangers come, whoever was first in its network and keeps asking stays listed.
    #[test]
    fn the_first_of_a_network_stays(
        strangers in proptest::collection::vec(
            (1u32..2_000, prop_oneof![1u32..9, 1u32..5_000], 0u64..3_000), 1..600),
    ) {
        let mut pending = Pending::default();
        prop_assert_eq!(join(&mut pending, 0, 0, 0), Ok(true));
        let (mut now_ms, mut asked_ms) = (0, 0);
        for (number, network, pause_ms) in strangers {
            now_ms += pause_ms;
            if now_ms >= asked_ms + 5 * MINUTE_MS {
                asked_ms = now_ms;
                // Over a busy moment it asks again a little later.
                let answer = join(&mut pending, 0, 0, now_ms);
                prop_assert!(matches!(answer, Ok(false) | Err(JoinCode::TooMany)));
            }
            let _ = join(&mut pending, number, network, now_ms);
            prop_assert!(pending.len() <= PENDING_MAX);
            prop_assert!(is_listed(&pending, 0));
        }
    }
}
