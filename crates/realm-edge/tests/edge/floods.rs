//! HTTP/2 floods, frame by frame: each ends its own connection, with the code that says why, and
//! nobody else's.

use std::cell::Cell;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Rig, backend, get, soon, text, whole};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The kind of a frame that says that a connection ends.
const GOAWAY: u8 = 7;
/// RFC 9113 §7: the other side behaves so that it may do harm.
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// So many floods, and answers to somebody else between their beginnings and ends.
const FLOODS: usize = 5;

/// Sends it all on a connection of its own until that ends; what came back.
async fn flooded(rig: &Rig, flood: &[u8]) -> Vec<u8> {
    let mut stream = rig.connect().await;
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        let _ = writer.write_all(PREFACE).await;
        let _ = writer.write_all(flood).await;
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    soon(async {
        tokio::select! {
            // The end may be a reset: what came before it was read all the same.
            _ = reader.read_to_end(&mut answer) => {}
            () = writing => {}
        }
    })
    .await;
    answer
}

/// The codes of the frames of this kind among those of an answer.
fn codes_of_goaway(mut answer: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = answer {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (frame, rest) = rest.split_at(length.min(rest.len()));
        if let (GOAWAY, [_, _, _, _, a, b, c, d, ..]) = (*kind, frame) {
            codes.push(u32::from_be_bytes([*a, *b, *c, *d]));
        }
        answer = rest;
    }
    codes
}

/// Each flood ends by `GOAWAY`, and whoever has a connection, or makes one, is answered meanwhile.
async fn check(flood: &[u8]) {
    let rig = Rig::new(backend(|request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        Ok(http::Response::new(text("a")))
    }))
    .await;
    let mut kept = rig.http2().await;
    let n_answered = Cell::new(0);
    let flooding = async {
        let mut n_floods = 0;
        while n_floods < FLOODS || n_answered.get() < FLOODS {
            n_floods += 1;
            let answer = flooded(&rig, flood).await;
            assert_eq!(codes_of_goaway(&answer), [ENHANCE_YOUR_CALM], "{answer:?}");
        }
    };
    let asking = async {
        loop {
            let answer = soon(kept.send_request(get("http://h/"))).await;
            let (_, _, body) = whole(answer.expect("an answer on a kept connection")).await;
            assert_eq!(body, "a");
            let (_, _, body) = whole(rig.send2(get("http://h/")).await).await;
            assert_eq!(body, "a");
            n_answered.set(n_answered.get() + 1);
        }
    };
    tokio::select! {
        () = flooding => {}
        () = asking => {}
    }
    let (_, _, body) = whole(rig.send2(get("http://h/")).await).await;
    assert_eq!(body, "a");
}

/// CVE-2023-44487: streams opened and reset at once.
#[tokio::test]
async fn a_rapid_reset_ends_its_connection_and_no_other() {
    // HPACK: `:method GET`, `:scheme http` indexed; `:path /never`, `:authority h` literal.
    let block = b"\x82\x86\x04\x06/never\x41\x01h";
    let mut flood = Vec::new();
    for id in (1..20_000_u32).step_by(2) {
        flood.extend([0, 0, block.len() as u8, 0x01, 0x05]);
        flood.extend(id.to_be_bytes());
        flood.extend(block);
        flood.extend([0, 0, 4, 0x03, 0]);
        flood.extend(id.to_be_bytes());
        flood.extend([0, 0, 0, 0x08]);
    }
    check(&flood).await;
}

/// CONTINUATION frames without end: the head has a size in HTTP/2 as well.
#[tokio::test]
async fn a_continuation_flood_ends_its_connection_and_no_other() {
    // HEADERS without END_HEADERS, then continuations that never end it.
    let mut flood = vec![0, 0, 1, 0x01, 0x01, 0, 0, 0, 1, 0x82];
    for _ in 0..10_000 {
        flood.extend([0, 0, 6, 0x09, 0, 0, 0, 0, 1]);
        flood.extend([0x40, 0x01, b'a', 0x02, b'b', b'c']);
    }
    check(&flood).await;
}
