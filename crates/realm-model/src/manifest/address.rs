//! Addresses of nodes (multiaddrs), as people write them and as libp2p spells them.
//!
//! `/tcp/443/quic` and `/udp/443/quic` are understood: QUIC runs over UDP, and its proper name
//! is `quic-v1`. Only spelling; whether anybody answers there is another question.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::host::dns_name;
use super::value::ValueError;
use crate::codes;
use crate::fields::cut;

/// An address of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// In its proper spelling.
    pub proper: String,
    /// Whether it was written otherwise.
    pub respelled: bool,
}

/// Reads `/dns4/HOST/udp/PORT/quic-v1` or `/ip4/ADDRESS/tcp/PORT`, with `/p2p/PEER` after it or not.
pub fn parse_address(text: &str) -> Result<Address, ValueError> {
    let error = |why: &str| {
        let message = format!("`{}` is not an address of a node: {why}", cut(text));
        let hint = "write `/dns/bm-01.example.com/udp/443/quic-v1`, or `/ip4/192.0.2.1/tcp/443`";
        ValueError::new(codes::BAD_ADDRESS, message).hint(Some(hint))
    };
    let mut parts = text.split('/');
    if parts.next() != Some("") || text.len() > 512 {
        return Err(error("it must begin with `/`"));
    }
    let (kind, host) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let host = host_of(kind, host).map_err(|why| error(&why))?;
    let transport = parts.next().unwrap_or("");
    let port = parts.next().unwrap_or("");
    let number = port
        .parse::<u16>()
        .ok()
        .filter(|number| *number > 0 && *number.to_string() == *port);
    let number = number.ok_or_else(|| error("its port is not a number from 1 to 65535"))?;
    let mut rest: Vec<&str> = parts.collect();
    let quic = matches!(rest.first(), Some(&("quic" | "quic-v1")));
    if quic {
        rest.remove(0);
    }
    let transport = match (transport, quic) {
        ("udp" | "tcp", true) | ("udp", false) => format!("udp/{number}/quic-v1"),
        ("tcp", false) => format!("tcp/{number}"),
        _ => {
            return Err(error(
                "after the host comes `/udp/PORT/quic-v1` or `/tcp/PORT`",
            ));
        }
    };
    let peer = match rest.as_slice() {
        [] => String::new(),
        ["p2p", peer] if is_peer(peer) => format!("/p2p/{peer}"),
        _ => {
            return Err(error(
                "after the port may come `/p2p/PEER` and nothing else",
            ));
        }
    };
    let proper = format!("/{kind}/{host}/{transport}{peer}");
    Ok(Address {
        respelled: proper != text,
        proper,
    })
}

fn host_of(kind: &str, host: &str) -> Result<String, String> {
    match kind {
        "dns" | "dns4" | "dns6" | "dnsaddr" => {
            dns_name(host).map_err(|why| format!("its host does not do: {why}"))
        }
        "ip4" => match host.parse::<Ipv4Addr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err("after `/ip4/` comes an IPv4 address".to_owned()),
        },
        "ip6" => match host.parse::<Ipv6Addr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err("after `/ip6/` comes an IPv6 address".to_owned()),
        },
        _ => Err("it begins with `/dns/`, `/dns4/`, `/dns6/`, `/ip4/` or `/ip6/`".to_owned()),
    }
}

/// Base58 or base32 of a peer's id.
fn is_peer(text: &str) -> bool {
    (32..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let address = parse_address(text).ok();
        assert_eq!(
            address.as_ref().map(|address| address.proper.as_str()),
            expected,
            "{text}"
        );
        if let Some(address) = address {
            assert_eq!(address.respelled, address.proper != text, "{text}");
            assert_eq!(
                parse_address(&address.proper).expect("proper").proper,
                address.proper
            );
        }
    }

    #[test]
    fn slips_of_the_pen_are_understood() {
        check(
            "/dns/dev-laptop.local/udp/443/quic",
            Some("/dns/dev-laptop.local/udp/443/quic-v1"),
        );
        check(
            "/dns4/bm-01/tcp/443/quic",
            Some("/dns4/bm-01/udp/443/quic-v1"),
        );
        check("/dns4/bm-01/udp/443", Some("/dns4/bm-01/udp/443/quic-v1"));
        check(
            "/dns/Dev.Local./udp/443/quic-v1",
            Some("/dns/dev.local/udp/443/quic-v1"),
        );
    }

    #[test]
    fn proper_addresses_stay_as_they_are() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        for text in [
            "/dns/a/udp/443/quic-v1".to_owned(),
            "/ip4/192.0.2.1/tcp/4001".to_owned(),
            "/ip6/2001:db8::1/udp/4001/quic-v1".to_owned(),
            format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}"),
        ] {
            check(&text, Some(&text));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "/",
            "dns/a/tcp/1",
            "/dns",
            "/dns/a",
            "/dns/a/tcp",
            "/dns/a/tcp/",
            "/dns/a/tcp/0",
            "/dns/a/tcp/65536",
            "/dns/a/tcp/+1",
            "/dns/a/sctp/1",
            "/dns/a/tcp/1/ws",
            "/dns/a/tcp/1/p2p/x",
            "/dns/a b/tcp/1",
            "/dns//tcp/1",
            "/ip4/a/tcp/1",
            "/ip6/1.2.3.4/tcp/1",
            "/unix/a/tcp/1",
            "/dns/a/tcp/1/",
        ] {
            check(text, None);
        }
    }
}
