//! Any bytes of a web server: however they are cut they say the same, and the edge answers in records or
//! closes.

use bytes::BytesMut;
use realm_edge::fastcgi::{Decoder, Event, Fault, Limits, ParamsLimits};

use crate::front;

/// Small enough for an input to come to each limit.
const LIMITS: Limits = Limits {
    requests_max: 2,
    params: ParamsLimits {
        bytes_max: 256,
        pairs_max: 8,
        name_bytes_max: 32,
    },
    question_bytes_max: 1024,
    connections_told: 7,
    stdin_waiting_bytes_max: 16 * 1024,
    stdout_waiting_bytes_max: 32 * 1024,
    stderr_bytes_max: 0,
    aborts_per_second_max: 100,
    times: None,
};
/// What may wait for the rest of a record: its head, and a body that is read as a whole.
const WAITING_BYTES_MAX: usize = 8 + 1024;

/// The first byte says how the rest is cut: the same events come of it, and the same fault.
pub fn fastcgi_events(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let size = usize::from(*cut % 64) + 1;
    assert_eq!(events(bytes, size), events(bytes, bytes.len().max(1)));
}

fn events(bytes: &[u8], size: usize) -> (Vec<Event>, Option<Fault>) {
    let mut decoder = Decoder::new(LIMITS);
    let mut input = BytesMut::new();
    let mut events: Vec<Event> = Vec::new();
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            let event = match decoder.next(&mut input) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(fault) => return (events, Some(fault)),
            };
            match &event {
                Event::Request { params, .. } => {
                    let held: usize = params.iter().map(|(a, b)| a.len() + b.len()).sum();
                    assert!(held <= LIMITS.params.bytes_max);
                    assert!(params.len() <= LIMITS.params.pairs_max);
                }
                // Each is answered at once, so that others may begin.
                Event::Bad { id, .. } | Event::StdinEnd { id } | Event::Abort { id } => {
                    decoder.ended(*id);
                }
                Event::Stdin { bytes, .. } => assert!(!bytes.is_empty()),
                Event::Reply(_) => {}
            }
            put(&mut events, event);
        }
        assert!(decoder.active() <= LIMITS.requests_max);
        assert!(
            input.len() <= WAITING_BYTES_MAX,
            "{} bytes wait",
            input.len()
        );
    }
    (events, None)
}

/// A body is its bytes, however they came.
fn put(events: &mut Vec<Event>, event: Event) {
    if let (
        Some(Event::Stdin {
            id: last,
            bytes: had,
        }),
        Event::Stdin { id, bytes },
    ) = (events.last_mut(), &event)
        && last == id
    {
        *had = [&had[..], bytes].concat().into();
        return;
    }
    events.push(event);
}

/// One connection that sends these bytes and no more.
pub fn fastcgi_front(bytes: &[u8]) {
    let edge = front::edge();
    let mut rest = &front::exchange(edge.fastcgi, bytes, true)[..];
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        // So an answer ends that broke off; the connection ends with it.
        if *head == [0; 8] {
            assert!(after.is_empty(), "{after:?}");
            break;
        }
        let [version, kind, _, _, high, low, padding, _] = *head;
        assert_eq!(version, 1, "{head:?}");
        assert!(matches!(kind, 3 | 6 | 7 | 10 | 11), "{head:?}");
        let length = usize::from(u16::from_be_bytes([high, low])) + usize::from(padding);
        // The end of the connection may cut the last one.
        rest = after.get(length..).unwrap_or_default();
    }
    let after = front::exchange(edge.fastcgi, &good(), false);
    let after = String::from_utf8_lossy(&after);
    assert!(after.contains("Status: 200 "), "it serves on");
}

/// A request that is right, in a connection of its own.
pub(crate) fn good() -> Vec<u8> {
    request(1, 0, 0, "abc")
}

/// A request of a role, with a body.
pub(crate) fn request(role: u8, keep: u8, padding: u8, body: &str) -> Vec<u8> {
    let pairs = [
        ("REQUEST_METHOD", "POST"),
        ("REQUEST_URI", "/a?b"),
        ("HTTP_HOST", "a.example"),
        ("HTTP_X_A", "b"),
        ("REMOTE_ADDR", "203.0.113.7"),
    ];
    let mut params = Vec::new();
    for (name, value) in pairs {
        params.extend([name, value].map(|text| u8::try_from(text.len()).expect("short")));
        params.extend(name.bytes().chain(value.bytes()));
    }
    let records: [(u8, &[u8]); 5] = [
        (1, &[0, role, keep, 0, 0, 0, 0, 0]),
        (4, &params),
        (4, &[]),
        (5, body.as_bytes()),
        (5, &[]),
    ];
    let records = records.into_iter().flat_map(|(kind, content)| {
        let [high, low] = u16::try_from(content.len()).expect("short").to_be_bytes();
        let head = [1, kind, 0, 1, high, low, padding, 0];
        [&head[..], content, &vec![0; usize::from(padding)]].concat()
    });
    records.collect()
}

/// Requests, questions, an abort; each behind a byte that says how it is cut.
pub(crate) fn seeds(is_cut: bool) -> Vec<Vec<u8>> {
    let ask = b"\x01\x09\0\0\0\x11\0\0\x0f\0FCGI_MPXS_CONNS";
    let abort = [&request(1, 1, 0, "x")[..49], b"\x01\x02\0\x01\0\0\0\0"].concat();
    let all = [
        good(),
        request(2, 1, 3, ""),
        request(3, 1, 0, "filtered"),
        [request(1, 1, 0, "a"), request(1, 0, 7, "b")].concat(),
        ask.to_vec(),
        abort,
        b"\x01\x63\0\0\0\0\0\0".to_vec(),
    ];
    let cut = |seed: Vec<u8>| match is_cut {
        true => [vec![6], seed].concat(),
        false => seed,
    };
    all.into_iter().map(cut).collect()
}
