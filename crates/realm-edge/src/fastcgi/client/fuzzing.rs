//! What holds for anything that an application says, and for any path that it is asked for: for
//! `tests/fuzz`, and for nobody else.

use bytes::BytesMut;
use http::StatusCode;
use realm_model::upstream::Scripts;

use super::head::{BadHead, HeadReader};
use super::replies::{Nonsense, Replies, Reply};
use super::script;
use crate::upstream::UpstreamCaps;

#[derive(Debug, Default, PartialEq)]
struct Told {
    out: Vec<u8>,
    log: Vec<u8>,
    ended: bool,
    nonsense: Option<Nonsense>,
    head: Option<Result<(StatusCode, usize), BadHead>>,
}

fn told(parts: &[&[u8]]) -> Told {
    let caps = UpstreamCaps::keeping(0);
    let mut reader = HeadReader::new(caps.head_bytes_max, caps.head_fields_max);
    let mut replies = Replies::default();
    let (mut input, mut told) = (BytesMut::new(), Told::default());
    for part in parts {
        input.extend_from_slice(part);
        loop {
            match replies.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Reply::Stdout(bytes))) => {
                    if told.head.is_none() {
                        told.head = match reader.feed(&bytes) {
                            Ok(None) => None,
                            Ok(Some((head, taken))) => {
                                Some(Ok((head.status(), told.out.len() + taken)))
                            }
                            Err(error) => Some(Err(error)),
                        };
                    }
                    told.out.extend_from_slice(&bytes);
                }
                Ok(Some(Reply::Stderr(bytes))) => told.log.extend_from_slice(&bytes),
                Ok(Some(Reply::End(_))) => told.ended = true,
                Err(nonsense) => {
                    told.nonsense = Some(nonsense);
                    return told;
                }
            }
        }
    }
    told
}

/// The first byte says where the rest is divided; what is told is the same as of the whole.
pub fn answer(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let whole = told(&[bytes]);
    assert_eq!(told(&[first, second]), whole);
    assert!(whole.out.len() + whole.log.len() <= bytes.len());
    if let Some(Ok((status, taken))) = whole.head {
        assert!(taken <= whole.out.len());
        assert!((200..=599).contains(&status.as_u16()), "{status}");
    }
    path(bytes);
}

/// No path leads out of the document root, or to what is no script.
fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let scripts = Scripts {
        root: "/srv/www".to_owned(),
        split: ".php".to_owned(),
        index: "index.php".to_owned(),
    };
    let Ok(script) = script::of(text, &scripts) else {
        return;
    };
    let whole = [&script.name[..], &script.info].concat();
    assert!(whole.starts_with(b"/") && script.name.ends_with(b".php"));
    assert!(!whole.iter().any(u8::is_ascii_control));
    let mut segments = whole.split(|byte| *byte == b'/');
    assert!(segments.all(|one| one != b".." && one != b"."));
}
