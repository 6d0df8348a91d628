//! Records as bytes: what is signed reads back, no bit can change, format 1 stays, any bytes have
//! an answer, and a body of any size is made to fit.

use proptest::prelude::*;

use super::*;

fn realm() -> RealmId {
    RealmId::new(Digest::of(b"a realm"))
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

const VERSION: Version = Version {
    epoch: 4,
    boot: 77,
    counter: 9,
};

/// Every field has a value of its own.
fn full() -> NodeBody {
    let text = str::to_owned;
    let bytes = KeyBytes::new([5; 32]);
    let chain = crate::entry::ChainId::Authority;
    let head = crate::entry::Head {
        seq: 7,
        hash: Digest::of(b"7"),
    };
    NodeBody {
        agent: text("0.1.0"),
        wire: 1,
        machine: Machine {
            os: text("linux"),
            arch: text("x86_64"),
            cpus: 4,
            memory_mb: 8_000,
        },
        tags: vec![text("metal")],
        addresses: vec![text("/ip4/10.0.0.1/udp/443/quic-v1")],
        heads: vec![ChainHead { chain, head }],
        forks: vec![ChainFork {
            chain,
            proof: Digest::of(b"proof"),
        }],
        peers: vec![PeerLink {
            key: bytes,
            how: ReachedBy::Relay,
            rtt_ms: 12,
            why: text("no public address"),
        }],
        components: vec![ComponentSummary {
            serving: None,
            seats: None,
            failed: None,
            name: text("hello"),
            namespace: text("default"),
            wanted: 2,
            healthy: 1,
            state: text("starting"),
            code: text("fetching"),
            reason: text("2 of 3 MiB"),
            digest: Some(Digest::of(b"hello")),
        }],
        components_more: 3,
        load: Load {
            cpu_percent: 30,
            memory_mb: 200,
            instances: 5,
        },
        refusals: vec![RefusalCount {
            code: text("stale"),
            count: 2,
        }],
        blobs: vec![Digest::of(b"blob")],
        pending: vec![PendingJoin {
            key: bytes,
            name: "new".parse().expect("a name"),
            address: text("10.0.0.9"),
            proof: Some(Digest::of(b"voucher")),
            tags: None,
        }],
        alarms: vec![Alarm {
            code: text("cloned-key"),
            about: text("another machine"),
        }],
        ..NodeBody::of("bm-01".parse().expect("a name"))
    }
}

fn read(bytes: &[u8]) -> Result<NodeRecord, RecordError> {
    NodeRecord::open(bytes, realm())?.verify(key().public())
}

#[test]
fn a_record_reads_back_as_it_was_signed() {
    let bytes = NodeRecord::sign(realm(), &key(), VERSION, full());
    let record = read(&bytes).expect("its own bytes");
    assert_eq!(record.body, full());
    assert_eq!((record.node, record.version), (key().public(), VERSION));
}

#[test]
fn who_asks_to_join_keeps_its_tags_within_their_cap() {
    let check = |n: usize, expected: bool| {
        let mut body = full();
        body.pending[0].tags = Some(vec!["edge".parse().expect("a tag"); n]);
        let read = read(&NodeRecord::sign(realm(), &key(), VERSION, body.clone()));
        assert_eq!(
            read.is_ok_and(|record| record.body == body),
            expected,
            "{n}"
        );
    };
    check(1, true);
    check(limits::TAGS_MAX, true);
    check(limits::TAGS_MAX + 1, false);
}

fn lease_ask(state: LeaseState) -> LeaseAsk {
    LeaseAsk {
        component: "till".parse().expect("a name"),
        nonce: VERSION,
        state,
        members: 3,
    }
}

fn lease_grant() -> LeaseGrant {
    LeaseGrant {
        component: "till".parse().expect("a name"),
        holder: KeyBytes::new([9; 32]),
        nonce: VERSION,
    }
}

#[test]
fn leases_read_back_within_their_cap() {
    let check = |asks: Option<Vec<LeaseAsk>>, grants: Option<Vec<LeaseGrant>>, expected: bool| {
        let mut body = full();
        (body.asks, body.grants) = (asks, grants);
        let read = read(&seal(realm(), &key(), VERSION, encode(&body)));
        assert_eq!(read.is_ok_and(|record| record.body == body), expected);
        let fitted = NodeRecord::sign(realm(), &key(), VERSION, body);
        assert!(self::read(&fitted).is_ok());
    };
    let states = [LeaseState::Asks, LeaseState::Holds, LeaseState::Released];
    check(Some(states.map(lease_ask).to_vec()), None, true);
    check(None, Some(vec![lease_grant()]), true);
    let max = limits::LEASES_MAX;
    let asks = |n| Some(vec![lease_ask(LeaseState::Asks); n]);
    check(asks(max), Some(vec![lease_grant(); max]), true);
    check(asks(max + 1), None, false);
    check(None, Some(vec![lease_grant(); max + 1]), false);
}

#[test]
fn a_sealing_key_reads_back_as_one_clean_word() {
    let check = |recipient: &str, expected: bool| {
        let mut body = full();
        let sealing = crate::sealing::Sealing::sign(realm(), &key(), recipient.to_owned());
        body.sealing = Some(sealing);
        let read = read(&seal(realm(), &key(), VERSION, encode(&body)));
        assert_eq!(read.is_ok_and(|record| record.body == body), expected);
    };
    check(&format!("age1{}", "q".repeat(58)), true);
    check(&"q".repeat(64), false);
    check("age1\n", false);
}

/// A state of a newer agent is none of those known here, whatever its number.
#[test]
fn a_state_of_a_newer_agent_reads_as_another() {
    let bytes = encode(&lease_ask(LeaseState::Other));
    let read: LeaseAsk = decode(&bytes).expect("its own bytes");
    assert_eq!(read.state, LeaseState::Other);
}

#[test]
fn no_bit_of_a_record_can_change() {
    let bytes = NodeRecord::sign(realm(), &key(), VERSION, full());
    for at in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(read(&changed).is_err(), "bit {at}");
    }
}

#[test]
fn a_record_is_worth_nothing_elsewhere() {
    let elsewhere = RealmId::new(Digest::of(b"another realm"));
    let bytes = NodeRecord::sign(elsewhere, &key(), VERSION, full());
    assert_eq!(read(&bytes), Err(RecordError::WrongRealm));
    let bytes = NodeRecord::sign(realm(), &key(), VERSION, full());
    let other = SecretKey::from_seed(&[4; 32]).public();
    let opened = NodeRecord::open(&bytes, realm()).expect("an envelope");
    assert_eq!(opened.verify(other), Err(RecordError::BadSignature));
}

#[test]
fn versions_are_compared_by_epoch_then_boot_then_counter() {
    let version = |epoch, boot, counter| Version {
        epoch,
        boot,
        counter,
    };
    let ascending = [
        version(1, 9, 9),
        version(2, 1, 9),
        version(2, 2, 1),
        version(2, 2, 2),
    ];
    assert!(ascending.is_sorted());
}

#[test]
fn what_breaks_a_cap_is_poison_and_not_a_crash() {
    let check = |change: fn(&mut NodeBody)| {
        let mut body = full();
        change(&mut body);
        let bytes = seal(realm(), &key(), VERSION, encode(&body));
        assert!(matches!(read(&bytes), Err(RecordError::Poison(_))));
        // The same said by an honest node is made to fit.
        let fitted = NodeRecord::sign(realm(), &key(), VERSION, body);
        assert!(read(&fitted).is_ok());
    };
    check(|body| body.agent = "x".repeat(64));
    check(|body| body.alarms[0].about = "a\nb".to_owned());
    check(|body| body.components[0].reason = "\u{1b}[2J".to_owned());
    check(|body| body.blobs = vec![Digest::of(b""); limits::BLOBS_MAX + 1]);
    check(|body| body.tags = vec!["t".to_owned(); limits::TAGS_MAX + 1]);
    let nonsense = seal(realm(), &key(), VERSION, vec![0xff; 9]);
    assert!(matches!(read(&nonsense), Err(RecordError::Poison(_))));
}

#[test]
fn the_largest_body_fits() {
    let mut body = full();
    body.components[0].reason = "ü".repeat(400);
    body.components = vec![body.components[0].clone(); 5_000];
    body.blobs = (0..9_000u32)
        .map(|n| Digest::of(&n.to_le_bytes()))
        .collect();
    body.peers[0].why = "ü".repeat(200);
    body.peers = vec![body.peers[0].clone(); 900];
    let name = "x".repeat(crate::name::NAME_LENGTH_MAX);
    let grant = LeaseGrant {
        component: name.parse().expect("a name"),
        ..lease_grant()
    };
    body.grants = Some(vec![grant; 300]);
    let bytes = NodeRecord::sign(realm(), &key(), VERSION, body);
    assert!(bytes.len() <= RECORD_BYTES_MAX, "{}", bytes.len());
    let read = read(&bytes).expect("it fits").body;
    let shown = u32::try_from(read.components.len()).expect("few");
    assert_eq!(shown + read.components_more, 5_003);
    assert!(shown > 0 && !read.blobs.is_empty());
}

/// A newer agent may say more: what is known of it still reads.
#[test]
fn fields_of_a_newer_agent_are_passed_over() {
    let mut body = encode(&full());
    // An array of 16 becomes one of 21, with two more that this version has
    // no word for.
    assert_eq!(body[0], 0x90);
    body[0] = 0x95;
    body.extend(encode(&None::<u8>));
    body.extend(encode(&None::<u8>));
    body.extend(encode(&None::<u8>));
    body.extend(encode(&"a word"));
    body.extend(encode(&vec![1u8, 2]));
    let bytes = seal(realm(), &key(), VERSION, body);
    assert_eq!(read(&bytes).expect("the known part").body, full());
    let mut other = NodeRecord::sign(realm(), &key(), VERSION, full());
    other[1] = 2;
    assert_eq!(read(&other), Err(RecordError::Format(2)));
}

/// Sent formats stay readable: these bytes were written by the first version of format 1.
#[test]
fn format_1_stays_as_it_is() {
    let fixture = include_str!("../../tests/fixtures/record-format-1.txt");
    let bytes = NodeRecord::sign(realm(), &key(), VERSION, full());
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, fixture.trim());
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn any_signed_body_gives_an_answer(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&seal(realm(), &key(), VERSION, body));
    }

    #[test]
    fn a_changed_signed_body_gives_an_answer(
        at in any::<prop::sample::Index>(),
        cut in 0usize..9,
        with in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut body = encode(&full());
        let start = at.index(body.len());
        let end = (start + cut).min(body.len());
        body.splice(start..end, with);
        // What is taken is within its caps, and would be made again.
        if let Ok(record) = read(&seal(realm(), &key(), VERSION, body)) {
            prop_assert_eq!(record.body.clone().fit(), record.body);
        }
    }
}
