//! The PROXY protocol in front of HTTP and HTTPS.

use std::net::SocketAddr;
use std::time::Duration;

use realm_edge::tls::TlsLimits;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::secure::Secure;
use crate::support::{mirror, read_all};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

async fn behind_proxies() -> Secure {
    Secure::with(mirror(), |config, https| {
        config.proxy_protocol_from = vec!["127.0.0.0/8".parse().expect("a block")];
        https.limits = TlsLimits {
            handshake_timeout: Duration::from_secs(2),
            ..TlsLimits::default()
        };
    })
    .await
}

/// Sends the parts one by one, reads to the end.
async fn send(address: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    for part in parts {
        // Who is refused meanwhile need not read the rest.
        let _ = stream.write_all(part).await;
        tokio::task::yield_now().await;
    }
    read_all(&mut stream).await
}

fn binary(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, kind], &length, rest].concat()
}

#[tokio::test]
async fn guests_see_the_client_of_a_proxy() {
    let secure = behind_proxies().await;
    let address = secure.rig.address;
    let four = [203, 0, 113, 9, 192, 0, 2, 1, 0x13, 0x88, 1, 0xbb];
    for header in [
        b"PROXY TCP4 203.0.113.9 192.0.2.1 5000 443\r\n".to_vec(),
        binary(0x21, 0x11, &four),
        binary(0x21, 0x11, &[&four[..], &[4, 0, 2, 0, 0]].concat()),
    ] {
        let whole = [&header, REQUEST.as_bytes()].concat();
        let (first, rest) = whole.split_at(9);
        for parts in [
            &[&whole[..]][..],
            &[&header, REQUEST.as_bytes()],
            &[first, rest],
        ] {
            let said = send(address, parts).await;
            assert!(
                said.contains("x-forwarded-for: 203.0.113.9\r\n")
                    || said.contains("x-forwarded-for: 203.0.113.9\n"),
                "{said}"
            );
            assert!(said.contains("for=203.0.113.9;"), "{said}");
            assert!(!said.contains("127.0.0.1"), "{said}");
        }
    }
    // Its own look whether anybody is here.
    for header in [&b"PROXY UNKNOWN\r\n"[..], &binary(0x20, 0, &[])] {
        let said = send(address, &[header, REQUEST.as_bytes()]).await;
        assert!(said.contains("x-forwarded-for: 127.0.0.1"), "{said}");
    }
}

#[tokio::test]
async fn the_header_comes_before_the_handshake() {
    let secure = behind_proxies().await;
    for version in ["--http1.1", "--http2"] {
        let said = secure.curl(&["--haproxy-protocol", version], "/").await;
        assert!(said.contains("x-forwarded-for: 127.0.0.1"), "{said}");
        assert!(said.contains("x-realm-ssl-protocol: TLSv1.3"), "{said}");
    }
    assert!(!secure.try_curl(&[], "/").await.status.success());
}

#[tokio::test]
async fn without_a_sound_header_a_proxy_gets_nothing() {
    let secure = behind_proxies().await;
    for parts in [
        &[REQUEST.as_bytes()][..],
        &[
            b"PROXY TCP4 nobody 192.0.2.1 5000 443\r\n",
            REQUEST.as_bytes(),
        ],
        &[
            b"PROXY TCP4 203.0.113.9 192.0.2.1 5000 443\n",
            REQUEST.as_bytes(),
        ],
        &[&[b'P'; 200]],
        &[b"PROXY ", &[b' '; 200]],
        &[&binary(0x21, 0x11, &[0; 3])],
        &[SIGNATURE, b"\x21\x11\xff\xff", &[0; 5000]],
        // A second header is no request.
        &[],
    ] {
        let said = match parts {
            [] => continue,
            parts => send(secure.rig.address, parts).await,
        };
        assert_eq!(said, "", "{:?}", String::from_utf8_lossy(parts[0]));
    }
    // And who says nothing is not waited for.
    let mut silent = TcpStream::connect(secure.rig.address)
        .await
        .expect("connected");
    silent.write_all(b"PROXY TCP4").await.expect("sent");
    assert_eq!(read_all(&mut silent).await, "");
    let twice = [b"PROXY UNKNOWN\r\n", &b"PROXY UNKNOWN\r\n"[..]].concat();
    let said = send(secure.rig.address, &[&twice, REQUEST.as_bytes()]).await;
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
}

#[tokio::test]
async fn nobody_else_says_who_is_connected() {
    let secure = Secure::with(mirror(), |config, _| {
        config.proxy_protocol_from = vec!["192.0.2.0/24".parse().expect("a block")];
    })
    .await;
    let text = b"PROXY TCP4 203.0.113.9 192.0.2.1 5000 443\r\n";
    let four = [203, 0, 113, 9, 192, 0, 2, 1, 0x13, 0x88, 1, 0xbb];
    for header in [&text[..], &binary(0x21, 0x11, &four)] {
        for address in [secure.rig.address, secure.https] {
            let said = send_any(address, &[header, REQUEST.as_bytes()].concat()).await;
            assert!(!said.contains("203.0.113.9"), "{said}");
            assert!(!said.contains("HTTP/1.1 200"), "{said}");
        }
    }
    assert!(
        !secure
            .try_curl(&["--haproxy-protocol"], "/")
            .await
            .status
            .success()
    );
}

/// As [`send`], of what may be no text.
async fn send_any(address: SocketAddr, bytes: &[u8]) -> String {
    use tokio::io::AsyncReadExt as _;

    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(bytes).await.expect("sent");
    let mut said = Vec::new();
    let _ = crate::support::soon(stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_client_counts_for_itself_and_not_for_its_proxy() {
    let secure = Secure::with(mirror(), |config, _| {
        config.proxy_protocol_from = vec!["127.0.0.1".parse().expect("a block")];
        config.limits.connections_per_address_max = Some(2);
        // None makes room for another one.
        config.limits.eviction_idle_min = Duration::from_secs(3_600);
    })
    .await;
    let connect = async |client: &str| {
        let mut stream = TcpStream::connect(secure.rig.address)
            .await
            .expect("connected");
        let header = format!("PROXY TCP4 {client} 192.0.2.1 5000 443\r\n");
        stream.write_all(header.as_bytes()).await.expect("sent");
        let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        // It may be refused already.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut start = [0; 12];
        use tokio::io::AsyncReadExt as _;
        let read = crate::support::soon(stream.read_exact(&mut start)).await;
        (read.is_ok(), stream)
    };
    let mut open = Vec::new();
    for (client, expected) in [
        ("203.0.113.9", true),
        ("203.0.113.9", true),
        ("203.0.113.9", false),
        ("203.0.113.10", true),
        ("203.0.113.10", true),
        ("203.0.113.10", false),
    ] {
        let (answered, stream) = connect(client).await;
        assert_eq!(answered, expected, "{client}");
        open.push(stream);
    }
}
