//! What is an address, what is understood as one, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::key::SecretKey;
use crate::manifest::parse_address;

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

/// `expected` is the proper spelling, or the code of the error.
#[track_caller]
fn check(text: &str, expected: &str) {
    match read(text) {
        Ok(written) => {
            let proper = written.address.to_string();
            assert_eq!(proper, expected, "{text}");
            assert_eq!(proper.parse(), Ok(written.address), "{text}");
            assert_eq!(written.warning.is_some(), proper != text, "{text}");
        }
        Err(error) => assert_eq!(error.code(), expected, "{text}: {error}"),
    }
}

#[test]
fn proper_addresses_stay_as_they_are() {
    for text in [
        "/dns/a/udp/443/quic-v1",
        "/dns4/bm-01.example.com/tcp/4001",
        "/dns6/a/udp/1/quic-v1",
        "/ip4/192.0.2.1/tcp/65535",
        "/ip6/2001:db8::1/udp/4001/quic-v1",
        &format!("/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{PEER}"),
    ] {
        check(text, text);
    }
    let address: NodeAddress = format!("/dns/a/tcp/1/p2p/{PEER}").parse().expect("proper");
    assert_eq!(address.peer, Some(SecretKey::from_seed(&[0; 32]).public()));
}

#[test]
fn what_people_write_is_understood() {
    for (text, expected) in [
        ("/dns4/bm-01/tcp/443/quic", "/dns4/bm-01/udp/443/quic-v1"),
        ("/dns4/bm-01/udp/443/quic", "/dns4/bm-01/udp/443/quic-v1"),
        ("/dns4/bm-01/udp/443", "/dns4/bm-01/udp/443/quic-v1"),
        ("/dns/Dev.Local./tcp/1", "/dns/dev.local/tcp/1"),
        ("/ip6/2001:DB8:0::1/tcp/1", "/ip6/2001:db8::1/tcp/1"),
        ("bm-01:4001", "/dns/bm-01/udp/4001/quic-v1"),
        ("bm-01", "/dns/bm-01/udp/4747/quic-v1"),
        (" bm-01\n", "/dns/bm-01/udp/4747/quic-v1"),
        ("192.0.2.1", "/ip4/192.0.2.1/udp/4747/quic-v1"),
        ("192.0.2.1:4001", "/ip4/192.0.2.1/udp/4001/quic-v1"),
        ("2001:db8::1", "/ip6/2001:db8::1/udp/4747/quic-v1"),
        ("[2001:db8::1]:4001", "/ip6/2001:db8::1/udp/4001/quic-v1"),
        ("[::1]", "/ip6/::1/udp/4747/quic-v1"),
    ] {
        check(text, expected);
    }
}

#[test]
fn the_warning_shows_the_proper_spelling_and_why() {
    let written = read("/dns4/bm-01/tcp/443/quic").expect("understood");
    assert_eq!(
        written.warning.as_deref(),
        Some(
            "`/dns4/bm-01/tcp/443/quic` is understood as `/dns4/bm-01/udp/443/quic-v1`: \
             QUIC runs over UDP, and its name is `quic-v1`"
        )
    );
    let written = read("bm-01").expect("understood");
    assert_eq!(
        written.warning.as_deref(),
        Some("`bm-01` is understood as `/dns/bm-01/udp/4747/quic-v1`")
    );
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
        "/dns/a/tcp/01",
        "/dns/a/sctp/1",
        "/dns/a/tcp/1/ws",
        "/dns/a/tcp/1/",
        "/dns/a b/tcp/1",
        "/dns//tcp/1",
        "/dnsaddr/a/tcp/1",
        "/ip4/a/tcp/1",
        "/ip4/010.0.0.1/tcp/1",
        "/ip6/1.2.3.4/tcp/1",
        "/ip6/fe80::1%eth0/tcp/1",
        "/unix/a/tcp/1",
        "https://bm-01",
        "bm-01:",
        "bm-01:0",
        "bm-01:https",
        "bm-01:443:1",
        "a/b",
        "127.1",
        "[::1",
        "[::1]443",
        "[a]:1",
        "bücher.de",
        &format!("/dns/{}/tcp/1", "a.".repeat(300)),
        &"a".repeat(600),
    ] {
        check(text, "bad-address");
    }
    for host in [
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ] {
        check(host, "unspecified-address");
    }
    check("/ip4/0.0.0.0/tcp/1", "unspecified-address");
    check("/dns/a/tcp/1/p2p/x", "bad-peer-id");
    check(
        "/dns/a/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "bad-peer-id",
    );
}

#[test]
fn programs_write_the_proper_spelling_and_may_listen_on_all_addresses() {
    let error = "/dns4/a/tcp/1/quic"
        .parse::<NodeAddress>()
        .expect_err("respelled");
    assert_eq!(error.hint(), "write `/dns4/a/udp/1/quic-v1`");
    for text in ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/443"] {
        let address: NodeAddress = text.parse().expect(text);
        assert_eq!(address.to_string(), text);
    }
    assert!("bm-01".parse::<NodeAddress>().is_err());
}

#[test]
fn a_hostile_text_is_shown_short_and_printable() {
    let text = format!("/dns/\u{1b}[2J{}/tcp/1", "x".repeat(100_000));
    let error = read(&text).expect_err("no address").to_string();
    assert!(error.len() < 300 && !error.contains('\u{1b}'), "{error}");
}

fn hosts() -> impl Strategy<Value = Host> {
    let families = prop_oneof![Just(Family::Any), Just(Family::V4), Just(Family::V6)];
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Host::Ip(IpAddr::V4(ip.into()))),
        any::<[u8; 16]>().prop_map(|ip| Host::Ip(IpAddr::V6(ip.into()))),
        (families, "[a-z][a-z0-9]{0,20}(\\.[a-z]{1,10}){0,3}")
            .prop_map(|(family, name)| Host::Name { family, name }),
    ]
}

proptest! {
    #[test]
    fn any_address_reads_back_as_written(
        host in hosts(),
        transport in prop_oneof![Just(Transport::Quic), Just(Transport::Tcp)],
        port in 1u16..,
        seed in any::<Option<[u8; 32]>>(),
    ) {
        let peer = seed.map(|seed| SecretKey::from_seed(&seed).public());
        let address = NodeAddress { host, transport, port, peer };
        let text = address.to_string();
        prop_assert_eq!(text.parse(), Ok(address.clone()));
        match read(&text) {
            Ok(written) => prop_assert_eq!(written, Written { address, warning: None }),
            Err(error) => prop_assert_eq!(error.code(), "unspecified-address"),
        }
    }

    // One grammar: what `realm peer add` understands means the same as `addr_hint` of a manifest.
    #[test]
    fn any_text_is_an_address_or_an_error(
        text in "(/dns4?|/ip4|/ip6)?/?(a|b\\.c|1\\.2\\.3\\.4|::1)(/udp|/tcp|:)?/?[0-9]{1,5}(/quic(-v1)?)?|\\PC{0,80}"
    ) {
        if let Ok(written) = read(&text) {
            let proper = written.address.to_string();
            prop_assert_eq!(proper.parse(), Ok(written.address));
            if text.starts_with('/') {
                let hint = parse_address(text.trim()).expect("the manifest takes it as well");
                prop_assert_eq!(hint.proper, proper);
            }
        }
    }
}
