//! Messages: whole ones, those of later versions, and any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

fn realm() -> RealmId {
    RealmId::new(Digest::from_bytes([7; 32]))
}

fn ask() -> Ask {
    Ask {
        realm: Some(realm()),
        name: "bm-01".parse().expect("a name"),
        tags: vec!["metal".parse().expect("a tag")],
        addresses: vec!["/ip4/192.0.2.1/udp/443/quic-v1".parse().expect("proper")],
        agent: "realm 0.1.0".to_owned(),
        proof: Some(Proof::from_bytes([3; 32])),
        from: 0,
    }
}

fn requests() -> Vec<Request> {
    let page = Page {
        realm: realm(),
        from: 3,
    };
    let offer = Offer {
        realm: realm(),
        genesis: vec![1, 2, 3].into(),
        addresses: ask().addresses,
    };
    let bare = Ask {
        realm: None,
        proof: None,
        ..ask()
    };
    vec![
        Request::Ask(ask()),
        Request::Ask(bare),
        Request::Page(page),
        Request::Offer(offer),
    ]
}

fn answers() -> Vec<Answer> {
    let name: NodeName = "bm-01".parse().expect("a name");
    let mut answers = vec![
        Answer::Pending(Waiting {
            realm: realm(),
            retry_after_s: 60,
        }),
        Answer::Approved(Approved::page(realm(), name, 0, [[1, 2], [3, 4]])),
        Answer::Taken,
    ];
    for code in JoinCode::ALL {
        answers.push(Answer::Refused(Refused::new(code, "why", Some(1))));
    }
    answers
}

#[test]
fn messages_read_back_as_written() {
    for request in requests() {
        assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
    }
    for answer in answers() {
        assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
    }
}

#[test]
fn version_1_stays_as_it_is() {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(hex(&Request::Ask(ask()).to_bytes()), ASK_HEX);
    assert_eq!(hex(&Answer::Taken.to_bytes()), "0182034180");
}

const ASK_HEX: &str = "0182005880875820070707070707070707070707070707070707070707070707070707070707070765626d2d303181656d6574616c81781e2f6970342f3139322e302e322e312f7564702f3434332f717569632d76316b7265616c6d20302e312e305820030303030303030303030303030303030303030303030303030303030303030300";

#[test]
fn what_a_later_version_says_is_answered_and_passed_over() {
    let mut later = Request::Page(Page {
        realm: realm(),
        from: 0,
    })
    .to_bytes();
    later[0] = 2;
    let error = Request::from_bytes(&later).expect_err("version 2");
    assert_eq!(
        error,
        MessageError::Unknown {
            version: 2,
            kind: None
        }
    );
    let error = Request::from_bytes(&message(9, &WireTaken {})).expect_err("kind 9");
    let Answer::Refused(refused) = error.to_answer() else {
        panic!("a refusal");
    };
    assert_eq!(refused.code, JoinCode::NeedsNewerAgent);

    // One more field behind those of this version, an address and a code that it does not know.
    let mut body = cbor::encode(&ask());
    assert_eq!(body[0], 0x87);
    body[0] = 0x88;
    body.push(0xf5);
    let text = "/ip4/192.0.2.1/udp/443/quic-v1";
    let at = body
        .windows(text.len())
        .position(|at| at == text.as_bytes())
        .expect("there");
    body[at..at + text.len()].copy_from_slice(b"/ip4/192.0.2.1/udp/443/quic-v9");
    let bytes = [vec![VERSION], cbor::encode(&(ASK, ByteVec::from(body)))].concat();
    let expected = Ask {
        addresses: Vec::new(),
        ..ask()
    };
    assert_eq!(Request::from_bytes(&bytes), Ok(Request::Ask(expected)));
    assert_eq!(JoinCode::of("of-a-later-version"), JoinCode::Other);
}

#[test]
fn what_is_too_long_is_cut_or_refused() {
    let many = Ask {
        tags: vec!["metal".parse().expect("a tag"); TAGS_MAX + 1],
        addresses: vec![ask().addresses[0].clone(); ADDRESSES_MAX + 1],
        agent: "\u{1b}x".repeat(1_000),
        ..ask()
    };
    let Ok(Request::Ask(read)) = Request::from_bytes(&Request::Ask(many).to_bytes()) else {
        panic!("it reads");
    };
    assert_eq!(
        (read.tags.len(), read.addresses.len()),
        (TAGS_MAX, ADDRESSES_MAX)
    );
    assert!(read.agent.chars().count() <= AGENT_CHARS_MAX && !read.agent.contains('\u{1b}'));

    let error = Request::from_bytes(&vec![VERSION; REQUEST_BYTES_MAX + 1]);
    assert!(matches!(error, Err(MessageError::Oversized { .. })));
    // An array that claims more items than there are bytes takes no memory.
    let claims = [
        &[VERSION, 0x82, 0, 0x4b, 0x87, 0xf6, 0x61, b'a', 0x9b][..],
        &[0xff; 7],
    ]
    .concat();
    assert!(matches!(
        Request::from_bytes(&claims),
        Err(MessageError::Malformed(_))
    ));
}

#[test]
fn pages_end_and_carry_a_large_entry_alone() {
    let name: NodeName = "a".parse().expect("a name");
    let page = |sizes: &[usize]| {
        let entries = sizes.iter().map(|size| vec![0; *size]);
        let page = Approved::page(realm(), name.clone(), 5, entries);
        (page.entries.len(), page.more, page.next())
    };
    assert_eq!(page(&[]), (0, false, 5));
    assert_eq!(page(&[100, 100]), (2, false, 7));
    assert_eq!(page(&[PAGE_BYTES, 1]), (1, true, 6));
    assert_eq!(page(&[PAGE_BYTES + 1]), (1, false, 6));
    assert_eq!(page(&[1, PAGE_BYTES]), (1, true, 6));
    assert_eq!(
        page(&[0; ENTRIES_MAX + 1]),
        (ENTRIES_MAX, true, 5 + ENTRIES_MAX as u64)
    );
    let largest = Approved::page(realm(), name.clone(), 0, [vec![0; ENTRY_BYTES_MAX]]);
    let answer = Answer::Approved(largest);
    assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Request::from_bytes(&bytes);
        let _ = Answer::from_bytes(&bytes);
    }

    // Bytes near those of real messages come further than random ones.
    #[test]
    fn a_damaged_message_has_an_answer(which in 0usize..17, at in 0usize..200, with: u8, cut: bool) {
        let all: Vec<Vec<u8>> = requests().iter().map(Request::to_bytes)
            .chain(answers().iter().map(Answer::to_bytes)).collect();
        let mut bytes = all[which % all.len()].clone();
        let at = at % bytes.len();
        bytes[at] = with;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(request) = Request::from_bytes(&bytes) {
            prop_assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        }
        if let Ok(answer) = Answer::from_bytes(&bytes) {
            prop_assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
        }
    }
}
