//! The PROXY protocol, versions 1 and 2: a proxy that carries connections as they are says first whose
//! each one is. Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.
//!
//! Here is where a header ends, and which are taken; what is in it a crate reads. From whom one is
//! expected, and that nobody else may send one, is for the caller.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A header of version 1, with its end of line (§2.1).
const TEXT_BYTES_MAX: usize = 107;
/// A header of version 2. Addresses take 216 bytes at most; what a proxy adds of its client's
/// certificate and names stays far below this.
const BINARY_BYTES_MAX: usize = 4 * 1024;
/// Of either.
pub(crate) const HEADER_BYTES_MAX: usize = BINARY_BYTES_MAX;
/// Up to the length of a header of version 2 (§2.2).
const BINARY_START_BYTES: usize = 16;
const TEXT_START: &[u8] = b"PROXY ";

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Of this client, which connected to that address.
    Client {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// The proxy's own: it looks whether anybody is here, or does not know (§2.1, §2.2).
    Proxy,
}

/// No header that is taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("the connection ended in its PROXY header")]
    End,
    #[error("the connection failed in its PROXY header")]
    Io(#[from] io::Error),
    #[error("it begins with no PROXY header")]
    Missing,
    #[error("its PROXY header is longer than any honest one")]
    TooLong,
    #[error("its PROXY header is malformed")]
    Malformed,
}

/// Reads a header, and nothing of what follows it but what came with it, which stays in `buffer`.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Whose, Unclear> {
    loop {
        if let Some((whose, length)) = parse(buffer)? {
            buffer.advance(length);
            return Ok(whose);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(Unclear::End);
        }
    }
}

/// The header at the beginning of `bytes`, and its length; `None`: there is more to come.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Whose, usize)>, Unclear> {
    if begins(bytes, v2::PROTOCOL_PREFIX) {
        return binary(bytes);
    }
    if begins(bytes, TEXT_START) {
        return text(bytes);
    }
    Err(Unclear::Missing)
}

/// Whether `bytes` begin so, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn text(bytes: &[u8]) -> Result<Option<(Whose, usize)>, Unclear> {
    let line = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return match line.len() < TEXT_BYTES_MAX {
            true => Ok(None),
            false => Err(Unclear::TooLong),
        };
    };
    let length = end + 2;
    let header = v1::Header::try_from(&bytes[..length]).map_err(|_| Unclear::Malformed)?;
    // The crate takes `+443` for a port.
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" .:".contains(byte);
    if header.addresses != v1::Addresses::Unknown && !line[..end].iter().all(is_plain) {
        return Err(Unclear::Malformed);
    }
    let whose = match header.addresses {
        v1::Addresses::Tcp4(of) => client(
            (of.source_address, of.source_port),
            (of.destination_address, of.destination_port),
        ),
        v1::Addresses::Tcp6(of) => client(
            (of.source_address, of.source_port),
            (of.destination_address, of.destination_port),
        ),
        v1::Addresses::Unknown => Whose::Proxy,
    };
    Ok(Some((whose, length)))
}

fn binary(bytes: &[u8]) -> Result<Option<(Whose, usize)>, Unclear> {
    let Some(start) = bytes.get(..BINARY_START_BYTES) else {
        return Ok(None);
    };
    let follow = u16::from_be_bytes([start[14], start[15]]);
    let length = BINARY_START_BYTES + usize::from(follow);
    if length > BINARY_BYTES_MAX {
        return Err(Unclear::TooLong);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let header = v2::Header::try_from(header).map_err(|_| Unclear::Malformed)?;
    if header.command == v2::Command::Local {
        return Ok(Some((Whose::Proxy, length)));
    }
    let whose = match header.addresses {
        // Datagrams are not carried on a connection.
        v2::Addresses::IPv4(_) | v2::Addresses::IPv6(_)
            if header.protocol == v2::Protocol::Datagram =>
        {
            return Err(Unclear::Malformed);
        }
        v2::Addresses::IPv4(of) => client(
            (of.source_address, of.source_port),
            (of.destination_address, of.destination_port),
        ),
        v2::Addresses::IPv6(of) => client(
            (of.source_address, of.source_port),
            (of.destination_address, of.destination_port),
        ),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => Whose::Proxy,
    };
    Ok(Some((whose, length)))
}

fn client(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> Whose {
    Whose::Client {
        source: source.into(),
        destination: destination.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `client` and `server`, or `proxy`, and how many bytes follow; or the error.
    fn read_all(bytes: &[u8]) -> String {
        match parse(bytes) {
            Ok(Some((Whose::Proxy, length))) => format!("proxy +{}", bytes.len() - length),
            Ok(Some((
                Whose::Client {
                    source,
                    destination,
                },
                length,
            ))) => format!("{source} {destination} +{}", bytes.len() - length),
            Ok(None) => "more".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, expected: &str) {
        let bytes = bytes.as_ref();
        let said = read_all(bytes);
        assert_eq!(said, expected, "{:?}", String::from_utf8_lossy(bytes));
    }

    const MALFORMED: &str = "its PROXY header is malformed";
    const MISSING: &str = "it begins with no PROXY header";
    const TOO_LONG: &str = "its PROXY header is longer than any honest one";

    #[test]
    fn text_headers_say_whose_a_connection_is() {
        check(
            "PROXY TCP4 203.0.113.9 192.0.2.1 5000 443\r\nGET",
            "203.0.113.9:5000 192.0.2.1:443 +3",
        );
        check(
            "PROXY TCP6 2001:db8::9 2001:db8::1 5000 443\r\n",
            "[2001:db8::9]:5000 [2001:db8::1]:443 +0",
        );
        check("PROXY UNKNOWN\r\n", "proxy +0");
        check("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nx", "proxy +1");
        for part in [
            "",
            "P",
            "PROXY",
            "PROXY TCP4 203.0.113.9 192",
            "PROXY UNKNOWN\r",
        ] {
            check(part, "more");
        }
        for wrong in [
            "PROXY TCP4 203.0.113.9 192.0.2.1 5000\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 5000 65536\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 05000 443\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 +5000 443\r\n",
            "PROXY TCP4  203.0.113.9 192.0.2.1 5000 443\r\n",
            "PROXY TCP4 2001:db8::9 2001:db8::1 5000 443\r\n",
            "PROXY TCP6 203.0.113.9 192.0.2.1 5000 443\r\n",
            "PROXY UDP4 203.0.113.9 192.0.2.1 5000 443\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 5000 443 more\r\n",
            "PROXY TCP4 \u{0}203.0.113.9 192.0.2.1 5000 443\r\n",
            "PROXY \r\n",
            "PROXY \u{ff}\r\n",
        ] {
            check(wrong, MALFORMED);
        }
        for missing in [
            "GET / HTTP/1.1\r\n",
            "PROXX",
            "proxy TCP4",
            "\u{16}\u{3}\u{1}",
        ] {
            check(missing, MISSING);
        }
        let filled = format!("PROXY UNKNOWN {}", "x".repeat(93));
        check(&filled[..106], "more");
        check(&filled, TOO_LONG);
        check(format!("{filled}\r\n"), TOO_LONG);
    }

    fn v2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, kind], &length, rest].concat()
    }

    #[test]
    fn binary_headers_say_whose_a_connection_is() {
        let four = [203, 0, 113, 9, 192, 0, 2, 1, 0x13, 0x88, 1, 0xbb];
        let client = "203.0.113.9:5000 192.0.2.1:443";
        check(v2(0x21, 0x11, &four), &format!("{client} +0"));
        // What it adds is passed over.
        let more = [&four[..], &[0x20, 0, 5, 1, 2, 3, 4, 5]].concat();
        let followed = [v2(0x21, 0x11, &more), b"GET".to_vec()].concat();
        check(&followed, &format!("{client} +3"));
        for length in 0..followed.len() - 3 {
            check(&followed[..length], "more");
        }
        let mut six = [0; 36];
        (six[0], six[15], six[31], six[33], six[35]) = (0x20, 9, 1, 7, 8);
        check(v2(0x21, 0x21, &six), "[2000::9]:7 [::1]:8 +0");
        check(v2(0x20, 0x00, &[]), "proxy +0");
        check(v2(0x20, 0x11, &four), "proxy +0");
        check(v2(0x21, 0x00, &[]), "proxy +0");
        check(v2(0x21, 0x31, &[7; 216]), "proxy +0");
        for (command, kind, rest) in [
            (0x21, 0x11, &four[..11]),
            (0x21, 0x21, &four[..]),
            (0x21, 0x12, &four[..]),
            (0x22, 0x11, &four[..]),
            (0x11, 0x11, &four[..]),
            (0x21, 0x41, &four[..]),
            (0x21, 0x13, &four[..]),
        ] {
            check(v2(command, kind, rest), MALFORMED);
        }
        check(v2(0x21, 0x11, &[0; 4080]), "0.0.0.0:0 0.0.0.0:0 +0");
        check(&v2(0x21, 0x11, &[0; 4081])[..16], TOO_LONG);
    }

    proptest! {
        /// Whatever comes, in whatever pieces, is read in one way.
        #[test]
        fn any_bytes_are_read_in_one_way(
            start in prop_oneof![Just(&b""[..]), Just(&b"PROXY TCP4 "[..]), Just(v2::PROTOCOL_PREFIX)],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &rest].concat();
            let whole = parse(&bytes);
            for length in 0..bytes.len() {
                match (parse(&bytes[..length]), &whole) {
                    (Ok(None), _) => {}
                    (Ok(Some(part)), Ok(Some(whole))) => prop_assert_eq!(part, *whole),
                    (Err(_), Err(_)) => {}
                    (part, whole) => prop_assert!(false, "{:?} {:?}", part, whole),
                }
            }
        }
    }
}
