//! Messages as bytes: what is said reads back, the bytes of version 1 stay, unknown kinds and
//! versions are told from nonsense, and any bytes have an answer.

use proptest::prelude::*;

use super::*;

fn head(seq: u64) -> Head {
    Head {
        seq,
        hash: Digest::of(&seq.to_le_bytes()),
    }
}

fn state() -> Summary {
    Summary {
        heads: vec![head(7).of(ChainId::Authority)],
        forks: vec![ChainFork {
            chain: ChainId::Authority,
            proof: Digest::of(b"proof"),
        }],
        buckets: vec![Bucket {
            index: 63,
            digest: [9; 16].into(),
        }],
        beacon: None,
    }
}

fn hints() -> Vec<Hint> {
    vec![
        Hint::Heads {
            by: KeyBytes::new([8; 32]),
            records: None,
            heads: state().heads,
            forks: state().forks,
        },
        Hint::Record(vec![1, 2, 3]),
        Hint::Entry {
            at: head(8).of(ChainId::Authority),
            bytes: vec![4, 5],
        },
        Hint::Beacon(vec![6]),
    ]
}

fn requests() -> Vec<Request> {
    let chain = ChainId::Authority;
    vec![
        Request::Summary(state()),
        Request::Hashes {
            chain,
            from: 3,
            step: 2,
            count: HASHES_MAX,
        },
        Request::Entries {
            chain,
            from: u64::MAX,
            bytes_max: 1,
        },
        Request::Records {
            buckets: 1 << 63,
            known: vec![Known {
                key: KeyBytes::new([1; 32]),
                version: Version {
                    epoch: 1,
                    boot: 2,
                    counter: 3,
                },
            }],
        },
        Request::Fork { chain },
        Request::Beacon,
        Request::Summary(Summary {
            beacon: Some(BeaconMark {
                counter: 4,
                digest: Digest::of(b"beacon"),
            }),
            ..state()
        }),
    ]
}

fn answers() -> Vec<Answer> {
    vec![
        Answer::Unknown { version: 1 },
        Answer::Summary(state()),
        Answer::Hashes(vec![Digest::of(b"a"), Digest::of(b"b")]),
        Answer::Entries(vec![vec![1], vec![2, 3]]),
        Answer::Records(vec![vec![4; 9]]),
        Answer::Fork(Some(vec![5])),
        Answer::Fork(None),
        Answer::Busy { retry_ms: 900 },
        Answer::Refused,
        Answer::Beacon(Some(vec![7])),
        Answer::Beacon(None),
    ]
}

#[test]
fn every_message_reads_back_as_it_was_said() {
    for hint in hints() {
        assert_eq!(Hint::from_bytes(&hint.to_bytes()), Ok(hint));
    }
    for request in requests() {
        assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
    }
    for answer in answers() {
        assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
    }
}

/// Sent formats stay readable: these bytes were written by the first version 1.
#[test]
fn version_1_stays_as_it_is() {
    let all = hints().iter().map(Hint::to_bytes).collect::<Vec<_>>();
    let requests = requests().iter().map(Request::to_bytes).collect::<Vec<_>>();
    let answers = answers().iter().map(Answer::to_bytes).collect::<Vec<_>>();
    let hex = |bytes: &Vec<u8>| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let written: Vec<String> = all
        .iter()
        .chain(&requests)
        .chain(&answers)
        .map(hex)
        .collect();
    let fixture = include_str!("../../tests/fixtures/sync-version-1.txt");
    assert_eq!(written, fixture.lines().collect::<Vec<_>>());
}

#[test]
fn an_unknown_kind_or_version_is_told_from_nonsense() {
    let check = |bytes: &[u8], expected: MessageError| {
        assert_eq!(Request::from_bytes(bytes), Err(expected.clone()));
        assert_eq!(Answer::from_bytes(bytes), Err(expected.clone()));
        assert_eq!(Hint::from_bytes(bytes), Err(expected));
    };
    check(&[1, 99, 0x80], MessageError::Kind(99));
    check(&[2, 1, 0x80], MessageError::Version(2));
    check(&[1], MessageError::Malformed("it ends early".to_owned()));
}

#[test]
fn a_message_beyond_its_caps_is_refused() {
    let refused = |request: &Request| {
        let read = Request::from_bytes(&request.to_bytes());
        assert!(matches!(read, Err(MessageError::Malformed(_))), "{read:?}");
    };
    let chain = ChainId::Authority;
    let hashes = |step, count| Request::Hashes {
        chain,
        from: 0,
        step,
        count,
    };
    refused(&hashes(0, 1));
    refused(&hashes(1, 0));
    refused(&hashes(1, HASHES_MAX + 1));
    let mut twice = state();
    twice.buckets.push(twice.buckets[0]);
    refused(&Request::Summary(twice));
    let mut beyond = state();
    beyond.buckets[0].index = BUCKETS;
    refused(&Request::Summary(beyond));
    let mut many = state();
    many.heads = vec![many.heads[0]; limits::CHAINS_MAX + 1];
    refused(&Request::Summary(many));
    let large = Answer::Records(vec![vec![0; RECORD_BYTES_MAX + 1]]);
    assert!(Answer::from_bytes(&large.to_bytes()).is_err());
    let beacon = vec![0; BEACON_BYTES_MAX + 1];
    assert!(Hint::from_bytes(&Hint::Beacon(beacon.clone()).to_bytes()).is_err());
    assert!(Answer::from_bytes(&Answer::Beacon(Some(beacon)).to_bytes()).is_err());
    let huge = Hint::Record(vec![0; HINT_BYTES_MAX]).to_bytes();
    assert_eq!(
        Hint::from_bytes(&huge),
        Err(MessageError::Oversized(huge.len()))
    );
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(
        start in proptest::option::of(0u8..9),
        tail in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = start.map_or(Vec::new(), |kind| vec![WIRE_VERSION, kind]);
        bytes.extend(tail);
        // What reads at all can be said again, and is the same then.
        if let Ok(hint) = Hint::from_bytes(&bytes) {
            prop_assert_eq!(Hint::from_bytes(&hint.to_bytes()), Ok(hint));
        }
        if let Ok(request) = Request::from_bytes(&bytes) {
            prop_assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        }
        if let Ok(answer) = Answer::from_bytes(&bytes) {
            prop_assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
        }
    }

    #[test]
    fn a_changed_message_gives_an_answer(
        which in 0usize..22,
        at in any::<prop::sample::Index>(),
        cut in 0usize..5,
        with in proptest::collection::vec(any::<u8>(), 0..5),
    ) {
        let mut all: Vec<Vec<u8>> = hints().iter().map(Hint::to_bytes).collect();
        all.extend(requests().iter().map(Request::to_bytes));
        all.extend(answers().iter().map(Answer::to_bytes));
        let mut bytes = all.swap_remove(which);
        let start = at.index(bytes.len());
        let end = (start + cut).min(bytes.len());
        bytes.splice(start..end, with);
        let _ = (Hint::from_bytes(&bytes), Request::from_bytes(&bytes), Answer::from_bytes(&bytes));
    }
}
