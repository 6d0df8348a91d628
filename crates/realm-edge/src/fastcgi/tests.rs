//! What web servers send, what attackers send, and any cut of both.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::record::{self, Head, Kind};
use super::*;

/// A record by hand: what a sound writer would not write can be written as well.
fn raw(kind: u8, id: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short");
    let [id_high, id_low] = id.to_be_bytes();
    let [high, low] = length.to_be_bytes();
    let head = [1, kind, id_high, id_low, high, low, padding, 0];
    [&head[..], content, &vec![0xff; usize::from(padding)]].concat()
}

fn begin(id: u16, role: u16, flags: u8) -> Vec<u8> {
    let [high, low] = role.to_be_bytes();
    raw(1, id, &[high, low, flags, 0, 0, 0, 0, 0], 0)
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (name, value) in pairs {
        assert!(params::put(&mut out, name.as_bytes(), value.as_bytes()));
    }
    out.to_vec()
}

/// What a decoder says of bytes that come in these parts; bodies are put together.
fn told(decoder: &mut Decoder, parts: &[&[u8]]) -> (Vec<Event>, Option<Fault>) {
    let mut events: Vec<Event> = Vec::new();
    let mut input = BytesMut::new();
    for part in parts {
        input.extend_from_slice(part);
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Err(fault) => return (events, Some(fault)),
                Ok(Some(Event::Stdin { id, bytes })) => {
                    if let Some(Event::Stdin {
                        id: last,
                        bytes: before,
                    }) = events.last_mut()
                        && *last == id
                    {
                        *before = [before.as_ref(), &bytes].concat().into();
                    } else {
                        events.push(Event::Stdin { id, bytes });
                    }
                }
                Ok(Some(event)) => events.push(event),
            }
        }
        assert!(input.len() < 2 * 1024, "{} bytes are kept", input.len());
    }
    (events, None)
}

fn events(bytes: &[u8]) -> Vec<Event> {
    let (events, fault) = told(&mut Decoder::new(Limits::default()), &[bytes]);
    assert_eq!(fault, None, "{events:?}");
    events
}

fn fault(bytes: &[u8]) -> Option<Fault> {
    told(&mut Decoder::new(Limits::default()), &[bytes]).1
}

/// The records of what is written: kind, request, content.
fn records(mut bytes: &[u8]) -> Vec<(u8, u16, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let head = Head::of(*head);
        let (content, rest) = rest.split_at(usize::from(head.content));
        let (_, rest) = rest.split_at(usize::from(head.padding));
        records.push((head.kind.byte(), head.id, content.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    records
}

fn replies(events: &[Event]) -> Vec<(u8, u16, Vec<u8>)> {
    let replies = events.iter().filter_map(|event| match event {
        Event::Reply(bytes) => Some(records(bytes)),
        Event::Request { .. }
        | Event::Bad { .. }
        | Event::Stdin { .. }
        | Event::StdinEnd { .. }
        | Event::Abort { .. } => None,
    });
    replies.flatten().collect()
}

/// A request as nginx sends it.
fn whole(id: u16, body: &[u8]) -> Vec<u8> {
    let params = pairs(&[("REQUEST_METHOD", "POST"), ("REQUEST_URI", "/a?b")]);
    let mut bytes = begin(id, 1, 0);
    bytes.extend(raw(4, id, &params, 3));
    bytes.extend(raw(4, id, &[], 0));
    if !body.is_empty() {
        bytes.extend(raw(5, id, body, 5));
    }
    bytes.extend(raw(5, id, &[], 0));
    bytes
}

#[test]
fn a_request_comes_with_parameters_and_body() {
    let events = events(&whole(1, b"hello"));
    let [
        Event::Request {
            id: 1,
            role,
            params,
        },
        body,
        end,
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(*role, Role::Responder);
    assert_eq!(params.get(b"REQUEST_URI"), Some(&b"/a?b"[..]));
    assert_eq!(params.len(), 2);
    let bytes = Bytes::from_static(b"hello");
    assert_eq!(*body, Event::Stdin { id: 1, bytes });
    assert_eq!(*end, Event::StdinEnd { id: 1 });
}

#[test]
fn a_pair_may_lie_across_records_and_its_lengths_as_well() {
    let long = "v".repeat(300);
    let params = pairs(&[("A", &long), ("", ""), ("B", ""), ("A", "last")]);
    let mut bytes = begin(7, 2, 1);
    for byte in &params {
        bytes.extend(raw(4, 7, &[*byte], 1));
    }
    bytes.extend(raw(4, 7, &[], 0));
    let events = events(&bytes);
    let [
        Event::Request {
            id: 7,
            role: Role::Authorizer,
            params,
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    let all: Vec<_> = params
        .iter()
        .map(|(name, value)| (name.len(), value.len()))
        .collect();
    assert_eq!(all, [(1, 300), (0, 0), (1, 0), (1, 4)]);
    assert_eq!(params.get(b"A"), Some(&b"last"[..]));
}

#[test]
fn nothing_is_kept_for_a_length_that_is_only_declared() {
    let check = |content: &[u8], expected| {
        let bytes = [begin(1, 1, 0), raw(4, 1, content, 0)].concat();
        assert_eq!(
            events(&bytes),
            [Event::Bad {
                id: 1,
                reason: expected
            }]
        );
    };
    let huge = [0xff, 0xff, 0xff, 0xff];
    check(&[huge, huge].concat(), BadParams::LongName);
    check(&[&[1][..], &huge].concat(), BadParams::TooLarge);
    check(&[&[0][..], &[0x80, 1, 0, 1]].concat(), BadParams::TooLarge);
    check(&[0x80, 0, 1, 1], BadParams::LongName);
    check(&[0; 2 * 201], BadParams::TooMany);
    // As much as is taken.
    let full = pairs(&[("A", &"v".repeat(64 * 1024 - 1))]);
    let mut bytes = begin(1, 1, 0);
    for part in full.chunks(60_000) {
        bytes.extend(raw(4, 1, part, 0));
    }
    bytes.extend(raw(4, 1, &[], 0));
    assert!(matches!(events(&bytes)[..], [Event::Request { .. }]));
    // The end of the stream in a pair; what else comes of it is nobody's.
    let cut = [
        begin(1, 1, 0),
        raw(4, 1, &[1], 0),
        raw(4, 1, &[], 0),
        raw(5, 1, b"x", 0),
    ]
    .concat();
    assert_eq!(
        events(&cut),
        [Event::Bad {
            id: 1,
            reason: BadParams::Cut
        }]
    );
}

#[test]
fn what_is_out_of_turn_or_no_fastcgi_ends_the_connection() {
    assert_eq!(fault(b"GET / HTTP/1.1\r\n"), Some(Fault::Version(b'G')));
    for kind in 1..=8 {
        assert_eq!(
            fault(&raw(kind, 0, &[0; 8], 0)),
            Some(Fault::NoId),
            "{kind}"
        );
    }
    for length in [0, 1, 7, 9, 600] {
        assert_eq!(fault(&raw(1, 1, &vec![0; length], 0)), Some(Fault::Length));
    }
    assert_eq!(fault(&raw(9, 0, &[0; 1025], 0)), Some(Fault::Length));
    let twice = [begin(1, 1, 1), begin(1, 1, 1)].concat();
    assert_eq!(fault(&twice), Some(Fault::Twice));
    let early = [begin(1, 1, 1), raw(5, 1, b"x", 0)].concat();
    assert_eq!(fault(&early), Some(Fault::Order));
    let late = [begin(1, 1, 1), raw(4, 1, &[], 0), raw(4, 1, &[0, 0], 0)].concat();
    assert_eq!(fault(&late), Some(Fault::Order));
}

#[test]
fn roles_and_room_that_nobody_has_are_refused_and_the_rest_is_nobodys() {
    for role in [0, 3, 4, 0xffff] {
        let bytes = [
            begin(9, role, 1),
            raw(4, 9, b"zz", 0),
            raw(8, 9, b"zz", 0),
            whole(9, b""),
        ]
        .concat();
        let events = events(&bytes);
        assert_eq!(replies(&events), [(3, 9, vec![0, 0, 0, 0, 3, 0, 0, 0])]);
        assert_eq!(events.len(), 3, "{events:?}");
    }
    let mut decoder = Decoder::new(Limits {
        requests_max: 2,
        ..Limits::default()
    });
    let three = [begin(1, 1, 1), begin(2, 1, 1), begin(3, 1, 1)].concat();
    let (events, None) = told(&mut decoder, &[&three]) else {
        panic!("no fault");
    };
    assert_eq!(replies(&events), [(3, 3, vec![0, 0, 0, 0, 2, 0, 0, 0])]);
    decoder.ended(1);
    let (events, None) = told(&mut decoder, &[&whole(3, b"")]) else {
        panic!("no fault");
    };
    assert!(matches!(
        events[..],
        [Event::Request { id: 3, .. }, Event::StdinEnd { id: 3 }]
    ));
    assert_eq!(decoder.active(), 2);
}

#[test]
fn questions_about_the_application_are_answered_at_any_time() {
    let asked = pairs(&[
        ("FCGI_MPXS_CONNS", ""),
        ("OTHER", "x"),
        ("FCGI_MAX_REQS", ""),
    ]);
    let bytes = [
        begin(1, 1, 1),
        raw(9, 0, &asked, 2),
        raw(77, 0, b"abc", 0),
        raw(77, 1, b"abc", 0),
    ]
    .concat();
    let expected = pairs(&[("FCGI_MAX_REQS", "32768"), ("FCGI_MPXS_CONNS", "1")]);
    let unknown = vec![77, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        replies(&events(&bytes)),
        [(10, 0, expected), (11, 0, unknown)]
    );
}

#[test]
fn who_goes_away_is_told_of_requests_that_are_under_way() {
    let abort = raw(2, 5, &[], 0);
    let bytes = [abort.clone(), whole(5, b"x"), abort.clone()].concat();
    let mut decoder = Decoder::new(Limits::default());
    let (events, None) = told(&mut decoder, &[&bytes]) else {
        panic!("no fault");
    };
    assert_eq!(events.last(), Some(&Event::Abort { id: 5 }));
    assert!(decoder.closes());
    decoder.ended(5);
    assert_eq!(told(&mut decoder, &[&abort]), (Vec::new(), None));
}

/// A request that was ended in the middle of a record takes the rest of that record with it: it is no
/// record of its own, and none of the next request of the same id.
#[test]
fn the_rest_of_an_ended_request_is_skipped() {
    let mut decoder = Decoder::new(Limits::default());
    let smuggled = whole(2, b"");
    let first = [begin(1, 1, 1), raw(4, 1, &[], 0), raw(5, 1, &smuggled, 9)].concat();
    let cut = first.len() - 20;
    let (events, None) = told(&mut decoder, &[&first[..cut]]) else {
        panic!("no fault");
    };
    assert_eq!(events.len(), 2, "{events:?}");
    decoder.ended(1);
    let rest = [&first[cut..], &whole(1, b"y")].concat();
    let (events, None) = told(&mut decoder, &[&rest]) else {
        panic!("no fault");
    };
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(matches!(events[0], Event::Request { id: 1, .. }));
}

/// A length that wraps is how a body becomes records of its own.
#[test]
fn what_is_longer_than_a_record_is_cut_and_never_wraps() {
    for length in [
        0, 1, 7, 8, 65_527, 65_528, 65_529, 65_535, 65_536, 131_072, 200_001,
    ] {
        let bytes: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
        let mut out = BytesMut::new();
        put_stdout(&mut out, 258, &bytes);
        put_stderr(&mut out, 258, b"why");
        put_end(&mut out, 258, Status::Complete, 1);
        let mut records = records(&out);
        assert_eq!(records.pop(), Some((3, 258, vec![0, 0, 0, 1, 0, 0, 0, 0])));
        assert_eq!(records.pop(), Some((6, 258, Vec::new())));
        assert_eq!(records.pop(), Some((7, 258, b"why".to_vec())));
        assert!(
            records
                .iter()
                .all(|(kind, id, content)| (*kind, *id) == (6, 258) && !content.is_empty())
        );
        let content: Vec<u8> = records
            .into_iter()
            .flat_map(|(_, _, content)| content)
            .collect();
        assert!(content == bytes, "{length}");
        assert_eq!(out.len() % 8, 0);
    }
}

#[test]
fn every_kind_is_the_byte_that_it_was_read_from() {
    assert!((0..=u8::MAX).all(|byte| Kind::of(byte).byte() == byte));
    assert_eq!(record::CONTENT_BYTES_MAX, usize::from(u16::MAX));
}

/// Records that mostly make sense, for any of a few requests.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![9 => 1..4u16, 1 => Just(0), 1 => any::<u16>()];
    let content = prop_oneof![
        2 => Just(Vec::new()),
        2 => vec((0..4usize, 0..200usize), 0..4).prop_map(|lengths| {
            let texts = lengths.iter().map(|(name, value)| ("n".repeat(*name), "v".repeat(*value)));
            let texts: Vec<_> = texts.collect();
            pairs(&texts.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>())
        }),
        1 => vec(any::<u8>(), 0..300),
        2 => (0..5u16, any::<u8>()).prop_map(|(role, flags)| begin(0, role, flags)[8..].to_vec()),
    ];
    let kind = prop_oneof![9 => 1..12u8, 1 => any::<u8>()];
    (kind, id, content, any::<u8>())
        .prop_map(|(kind, id, content, padding)| raw(kind, id, &content, padding))
}

fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let step = prop_oneof![
        3 => record(),
        2 => (1..4u16, vec(any::<u8>(), 0..300)).prop_map(|(id, body)| whole(id, &body)),
        1 => (1..4u16, 0..4u16).prop_map(|(id, role)| begin(id, role, 1)),
    ];
    vec(step, 0..12).prop_map(|steps| steps.concat())
}

proptest! {
    /// Also where a request ends between two of its records: here each one does so at its last byte.
    #[test]
    fn the_same_bytes_are_the_same_events_however_they_are_cut(
        bytes in conversation(),
        cuts in vec(1..40usize, 1..60),
    ) {
        let at_once = told(&mut Decoder::new(Limits::default()), &[&bytes]);
        let mut rest = &bytes[..];
        let mut parts = Vec::new();
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at((*cut).min(rest.len()));
            parts.push(part);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let in_parts = told(&mut Decoder::new(Limits::default()), &parts);
        prop_assert_eq!(at_once, in_parts);
    }

    #[test]
    fn any_bytes_are_events_or_a_fault(bytes in vec(any::<u8>(), 0..2000)) {
        let _ = told(&mut Decoder::new(Limits::default()), &[&bytes]);
        // The same behind a head that is sound.
        let framed: Vec<u8> = bytes.chunks(90).flat_map(|part| raw(part[0] % 12, u16::from(part.len() > 50), part, 0)).collect();
        let (events, _) = told(&mut Decoder::new(Limits::default()), &[&framed]);
        prop_assert!(events.len() <= framed.len() / 8);
    }

    #[test]
    fn pairs_come_back_as_they_were_written(
        written in vec((vec(any::<u8>(), 0..256), vec(any::<u8>(), 0..400)), 0..40),
    ) {
        let mut out = BytesMut::new();
        for (name, value) in &written {
            prop_assert!(params::put(&mut out, name, value));
        }
        let mut reader = params::Reader::default();
        for part in out.chunks(7) {
            prop_assert_eq!(reader.take(part, &ParamsLimits::default()), Ok(()));
        }
        let read = reader.end().expect("whole");
        let read: Vec<_> = read.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        prop_assert_eq!(read, written);
    }
}
