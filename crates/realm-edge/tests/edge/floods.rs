//! HTTP/2 floods, frame by frame: each ends its own connection and nobody else's.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Rig, get, named, soon, whole};

/// CVE-2023-44487: streams opened and reset at once. The connection ends, others live.
#[tokio::test]
async fn a_rapid_reset_ends_its_connection() {
    let rig = Rig::new(crate::support::backend(|_| std::future::pending())).await;
    let mut stream = rig.connect().await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("sent");
    // HPACK: `:method GET`, `:scheme http`, `:path /` indexed; `:authority h` literal.
    let block = [0x82, 0x86, 0x84, 0x41, 0x01, b'h'];
    let mut flood = Vec::new();
    for id in (1..20_000_u32).step_by(2) {
        flood.extend([0, 0, block.len() as u8, 0x01, 0x05]);
        flood.extend(id.to_be_bytes());
        flood.extend(block);
        flood.extend([0, 0, 4, 0x03, 0]);
        flood.extend(id.to_be_bytes());
        flood.extend([0, 0, 0, 0x08]);
    }
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        let _ = writer.write_all(&flood).await;
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    soon(async {
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => {}
            () = writing => {}
        }
    })
    .await;
}

/// CONTINUATION frames without end: the head has a size in HTTP/2 as well.
#[tokio::test]
async fn a_continuation_flood_ends_its_connection() {
    let rig = Rig::new(named("a")).await;
    let mut stream = rig.connect().await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("sent");
    // HEADERS without END_HEADERS, then continuations that never end it.
    let mut flood = vec![0, 0, 1, 0x01, 0x01, 0, 0, 0, 1, 0x82];
    for _ in 0..10_000 {
        flood.extend([0, 0, 6, 0x09, 0, 0, 0, 0, 1]);
        flood.extend([0x40, 0x01, b'a', 0x02, b'b', b'c']);
    }
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        let _ = writer.write_all(&flood).await;
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    soon(async {
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => {}
            () = writing => {}
        }
    })
    .await;
    let (_, _, body) = whole(rig.send2(get("http://h/")).await).await;
    assert_eq!(body, "a");
}
