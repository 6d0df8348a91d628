//! The grammar of outbound rules, what each allows, and what no rule can be made to allow.

use proptest::prelude::*;

use super::*;

/// The rule as it is written back, or a part of the error and its hint.
fn check(text: &str, expected: Result<&str, &str>) {
    match (text.parse::<OutboundRule>(), expected) {
        (Ok(rule), expected) => {
            assert_eq!(Ok(rule.to_string().as_str()), expected, "{text}");
            assert_eq!(rule.to_string().parse(), Ok(rule), "{text}");
        }
        (Err(error), Err(part)) => {
            let shown = format!("{} | {}", error.message, error.hint.unwrap_or_default());
            assert!(shown.contains(part), "{text}: {shown}");
            assert_eq!(error.code, codes::BAD_OUTBOUND, "{text}");
        }
        (Err(error), Ok(rule)) => panic!("{text}: {error}, expected {rule}"),
    }
}

fn allows(rule: &str, scheme: &str, host: &str, port: u16, expected: bool) {
    let parsed: OutboundRule = rule.parse().expect(rule);
    let seen = parsed.matches(scheme, host, port);
    assert_eq!(seen, expected, "{scheme}://{host}:{port} under {rule}");
}

#[test]
fn a_rule_is_scheme_host_and_port() {
    check("https://idp.example.com", Ok("https://idp.example.com:443"));
    check("http://a:8080", Ok("http://a:8080"));
    check(
        "HTTPS://IDP.Example.COM.",
        Ok("https://idp.example.com:443"),
    );
    check(
        "postgres://db.internal:5432",
        Ok("postgres://db.internal:5432"),
    );
    check("postgresql://db", Ok("postgres://db:5432"));
    check("mysql://db", Ok("mysql://db:3306"));
    check("redis://cache", Ok("redis://cache:6379"));
    check("nats://bus", Ok("nats://bus:4222"));
    check("wss://a", Ok("wss://a:443"));
    check("tcp://a:1", Ok("tcp://a:1"));
    check("h2+x-1.0://a:1", Ok("h2+x-1.0://a:1"));
    check(
        "https://xn--bcher-kva.de",
        Ok("https://xn--bcher-kva.de:443"),
    );
}

#[test]
fn stars_stand_for_every_scheme_host_or_port() {
    check("*://*:*", Ok("*://*:*"));
    check("https://*", Ok("https://*:443"));
    check("https://*.example.com", Ok("https://*.example.com:443"));
    check("*://a:80", Ok("*://a:80"));
    check("*://a", Err("write `*://a:*`"));
    check("*", Err("write `*://*:*`"));
    check("https://*foo", Err("before the first dot"));
    check("https://foo*", Err("before the first dot"));
    check("https://*.*.com", Err("before the first dot"));
    check("https://a.*.com", Err("before the first dot"));
    check("https://*.", Err("empty"));
    check("http*://a", Err("not a scheme"));
}

#[test]
fn ports_are_a_number_or_a_half_open_range() {
    check("a://b:8000..8010", Ok("a://b:8000..8010"));
    check("a://b:1..65536", Ok("a://b:*"));
    check("a://b:80..81", Ok("a://b:80"));
    for port in [
        "",
        "0",
        "65536",
        "99999999999",
        "-1",
        "+1",
        "a",
        "80..80",
        "81..80",
        "0..9",
        "1..65537",
        "..9",
        "9..",
        "1..2..3",
        "1-2",
        " 80",
        "٣",
    ] {
        check(&format!("a://b:{port}"), Err("is not a"));
    }
    check("tcp://b", Err("write `tcp://b:*`"));
}

#[test]
fn addresses_stand_alone_or_as_a_block() {
    check("http://10.0.0.1", Ok("http://10.0.0.1:80"));
    check("http://10.0.0.0/8:8080", Ok("http://10.0.0.0/8:8080"));
    check("http://0.0.0.0/0:*", Ok("http://0.0.0.0/0:*"));
    check("http://10.0.0.1/32", Ok("http://10.0.0.1:80"));
    check("http://[::1]:8080", Ok("http://[::1]:8080"));
    check("http://[0:0::1]", Ok("http://[::1]:80"));
    check("http://[fd00::/8]:*", Ok("http://[fd00::/8]:*"));
    check("http://[::ffff:10.0.0.1]", Ok("http://10.0.0.1:80"));
    check("http://[::ffff:10.0.0.0/104]", Ok("http://10.0.0.0/8:80"));
    check("http://10.1.2.3/8", Err("write the block `10.0.0.0/8`"));
    check("http://[fd00::]/8", Err("write `[fd00::/8]`"));
    check("http://10.0.0.0/33", Err("from 0 to 32"));
    check("http://[fd00::/129]", Err("from 0 to 128"));
    check("http://10.0.0.0/", Err("from 0 to 32"));
    check("http://::1", Err("in brackets"));
    check("http://[::1", Err("not closed"));
    check("http://[10.0.0.1]", Err("IPv6"));
    check("http://[a]", Err("IPv6"));
    check("http://[::1%eth0]", Err("IPv6"));
    check("http://[::1]a", Err("after the brackets"));
    for host in [
        "127.1",
        "1",
        "0x7f000001",
        "1.2.3.4.5",
        "1.2.3.256",
        "017.0.0.1",
        "a.0x1",
        "a.1",
        "1.2.3.4.",
    ] {
        check(&format!("http://{host}:80"), Err("not an address"));
    }
}

#[test]
fn what_other_systems_write_gets_an_answer() {
    check("", Err("expected `SCHEME://HOST[:PORT]`"));
    check("example.com", Err("write `https://example.com`"));
    check("example.com:443", Err("write `https://example.com:443`"));
    // What it is told to write can be written.
    for text in ["?", ":", ":80", "#", "/", "a?b", "self"] {
        check(text, Err("write `https://api.example.com`"));
    }
    check("https://?", Err("query"));
    check("https://:", Err("empty"));
    check("?://a", Err("not a scheme"));
    check("://a:1", Err("not a scheme"));
    check("1a://a:1", Err("not a scheme"));
    check("https://", Err("empty"));
    check("https://:80", Err("empty"));
    check("https://a/", Err("path"));
    check("https://a/b", Err("path"));
    check("https://a:443/b", Err("path"));
    check("https://a?b", Err("query"));
    check("https://a#b", Err("query"));
    check("https://user@a", Err("password"));
    check("https://user:pw@a:1", Err("password"));
    check("http://{a,b}:80", Err("one rule for each"));
    check("http://a,http://b", Err("one rule for each"));
    check("http://{{ host }}", Err("no templates"));
    check("http://self", Err("`self`"));
    check("http://a b", Err("plain ASCII"));
    check("https://bücher.de", Err("xn--"));
    check(&format!("https://{}", "a".repeat(512)), Err("512"));
}

#[test]
fn a_name_allows_itself_alone() {
    let rule = "https://idp.example.com";
    allows(rule, "https", "idp.example.com", 443, true);
    allows(rule, "HTTPS", "IDP.example.COM", 443, true);
    allows(rule, "https", "idp.example.com.", 443, true);
    allows(rule, "http", "idp.example.com", 443, false);
    allows(rule, "https", "idp.example.com", 444, false);
    allows(rule, "https", "idp.example.com", 0, false);
    allows(rule, "https", "example.com", 443, false);
    allows(rule, "https", "x.idp.example.com", 443, false);
    allows(rule, "https", "idp.example.com..", 443, false);
    allows(rule, "https", "192.0.2.1", 443, false);
    allows("postgres://db", "postgresql", "db", 5432, true);
    allows("postgresql://db", "postgres", "db", 5432, true);
}

#[test]
fn a_suffix_allows_what_is_below_it() {
    let rule = "https://*.example.com";
    allows(rule, "https", "a.example.com", 443, true);
    allows(rule, "https", "a.b.Example.com.", 443, true);
    allows(rule, "https", "example.com", 443, false);
    allows(rule, "https", ".example.com", 443, false);
    allows(rule, "https", "badexample.com", 443, false);
    allows(rule, "https", "example.com.evil.test", 443, false);
}

#[test]
fn a_block_allows_addresses_and_no_names() {
    let rule = "http://10.0.0.0/8:8000..8010";
    allows(rule, "http", "10.1.2.3", 8000, true);
    allows(rule, "http", "10.1.2.3", 8009, true);
    allows(rule, "http", "10.1.2.3", 8010, false);
    allows(rule, "http", "10.1.2.3", 7999, false);
    allows(rule, "http", "11.0.0.1", 8000, false);
    allows(rule, "http", "::ffff:10.1.2.3", 8000, true);
    allows(rule, "http", "[::ffff:10.1.2.3]", 8000, true);
    allows(rule, "http", "[::ffff:0b00:1]", 8000, false);
    allows(rule, "http", "10.example.com", 8000, false);
    allows("http://[::ffff:127.0.0.1]", "http", "127.0.0.1", 80, true);
    allows("http://127.0.0.1", "http", "localhost", 80, false);
    allows("http://[::1]", "http", "::1", 80, true);
    allows("http://[::1]", "http", "[0:0:0::1]", 80, true);
    allows("http://[::/0]:80", "http", "127.0.0.1", 80, false);
    allows("http://[::/0]:80", "http", "::ffff:127.0.0.1", 80, false);
}

#[test]
fn a_host_that_resolvers_read_in_several_ways_is_never_allowed() {
    for host in [
        "127.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "",
        ".",
        "a..b",
        "a b",
        "a/b",
        "a@b",
        "[::1",
        "::1]",
        "[127.0.0.1]",
        "::1%eth0",
        "bücher.de",
    ] {
        allows("*://*:*", "http", host, 80, false);
    }
    allows("*://*:*", "anything", "a.example", 1, true);
    allows("*://*:*", "anything", "169.254.169.254", 65_535, true);
    allows("*://*:*", "http", "127.0.0.1.", 80, true);
    allows("http://127.0.0.1", "http", "127.0.0.1.", 80, true);
    allows("*://*:*", "http", "a", 0, false);
}

/// What a rule opens to sockets of a guest: an address by itself, and the address of a name.
fn sockets(rule: &str, transport: Transport, target: &str, port: u16, expected: bool) {
    let parsed: OutboundRule = rule.parse().expect(rule);
    let seen = match target.parse() {
        Ok(address) => parsed.allows_address(transport, address, port),
        Err(_) => parsed.allows_name(transport, target, port),
    };
    assert_eq!(seen, expected, "{transport:?} {target}:{port} under {rule}");
}

#[test]
fn the_scheme_says_which_sockets_a_rule_opens() {
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    for scheme in ["tcp", "postgres", "wss", "anything"] {
        sockets(&format!("{scheme}://db:5"), tcp, "db", 5, true);
        sockets(&format!("{scheme}://db:5"), udp, "db", 5, false);
    }
    sockets("udp://ns:53", udp, "ns", 53, true);
    sockets("udp://ns:53", tcp, "ns", 53, false);
    sockets("*://*:53", udp, "9.9.9.9", 53, true);
    sockets("*://*:53", tcp, "9.9.9.9", 53, true);
    for scheme in ["http", "https"] {
        sockets(&format!("{scheme}://a:5"), tcp, "a", 5, false);
        sockets(&format!("{scheme}://*:5"), tcp, "9.9.9.9", 5, false);
        sockets(&format!("{scheme}://*:5"), udp, "9.9.9.9", 5, false);
    }
}

#[test]
fn a_socket_reaches_the_addresses_of_a_block_and_those_of_a_name() {
    let tcp = Transport::Tcp;
    sockets("tcp://10.0.0.0/8:80..90", tcp, "10.1.2.3", 89, true);
    sockets("tcp://10.0.0.0/8:80..90", tcp, "10.1.2.3", 90, false);
    sockets("tcp://10.0.0.0/8:80", tcp, "11.1.2.3", 80, false);
    sockets("tcp://10.0.0.0/8:80", tcp, "::ffff:10.1.2.3", 80, true);
    sockets("tcp://[fd00::/8]:80", tcp, "fd00::1", 80, true);
    sockets("tcp://[::/0]:80", tcp, "10.1.2.3", 80, false);
    sockets("tcp://db:80", tcp, "10.1.2.3", 80, false);
    sockets("tcp://db:80", tcp, "DB.", 80, true);
    sockets("tcp://*.internal:80", tcp, "db.internal", 80, true);
    sockets("tcp://*.internal:80", tcp, "internal", 80, false);
    sockets("tcp://10.0.0.0/8:80", tcp, "ten", 80, false);
}

#[test]
fn a_name_may_be_looked_up_where_a_socket_may_reach_it() {
    let check = |rule: &str, name: &str, expected: bool| {
        let parsed: OutboundRule = rule.parse().expect(rule);
        assert_eq!(parsed.allows_lookup(name), expected, "{name} under {rule}");
    };
    check("postgres://db.internal", "DB.internal.", true);
    check("udp://db.internal:1", "db.internal", true);
    check("*://*:*", "db.internal", true);
    check("tcp://*.internal:1", "db.internal", true);
    check("https://db.internal", "db.internal", false);
    check("tcp://10.0.0.0/8:1", "db.internal", false);
    check("tcp://other:1", "db.internal", false);
    check("*://*:*", "a b", false);
}

/// Rules that are made of the parts of the grammar.
fn rule() -> impl Strategy<Value = String> {
    let scheme = prop_oneof![Just("*".to_owned()), "[a-z][a-z0-9+.-]{0,6}"];
    let name = "[a-z][a-z0-9]{0,5}(\\.[a-z][a-z0-9_]{0,4}){0,2}";
    let host = prop_oneof![
        Just("*".to_owned()),
        name,
        name.prop_map(|name| format!("*.{name}")),
        any::<[u8; 4]>().prop_map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
        any::<u128>().prop_map(|bits| format!("[{}]", Ipv6Addr::from_bits(bits))),
        (any::<u8>(), 8u8..=32).prop_map(|(first, prefix)| format!("{first}.0.0.0/{prefix}")),
    ];
    let port = prop_oneof![
        Just("*".to_owned()),
        (1u16..).prop_map(|port| port.to_string()),
        (1u16..60_000, 1u16..5_000).prop_map(|(first, more)| format!("{first}..{}", first + more)),
    ];
    (scheme, host, port).prop_map(|(scheme, host, port)| format!("{scheme}://{host}:{port}"))
}

proptest! {
    #[test]
    fn a_rule_reads_back_as_written(text in rule()) {
        prop_assume!(!text.contains("//self:"));
        let rule: OutboundRule = text.parse().map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(rule.to_string().parse(), Ok(rule));
    }

    #[test]
    fn a_rule_allows_the_target_that_it_names(scheme in "[a-z]{1,5}", name in "[a-z]{1,5}(\\.[a-z]{1,5}){0,2}", port in 1u16..) {
        prop_assume!(name != "self");
        let rule: OutboundRule = format!("{scheme}://{name}:{port}").parse().expect("of the grammar");
        prop_assert!(rule.matches(&scheme, &name, port));
        let neighbour = format!("x{name}");
        prop_assert!(!rule.matches(&scheme, &neighbour, port));
        let other = if port == 1 { 2 } else { port - 1 };
        prop_assert!(!rule.matches(&scheme, &name, other));
    }

    #[test]
    fn any_text_gives_an_answer(text in "\\PC{0,60}", scheme in "\\PC{0,9}", host in "\\PC{0,40}", port: u16) {
        if let Ok(rule) = text.parse::<OutboundRule>() {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        for rule in ["*://*:*", "http://*.example.com", "http://10.0.0.0/8:*"] {
            let rule: OutboundRule = rule.parse().expect("of the grammar");
            rule.matches(&scheme, &host, port);
        }
    }

    #[test]
    fn texts_of_the_alphabet_give_an_answer(text in "[a*1-]{0,3}://[a-c0-9.*:/\\[\\]@{}-]{0,20}") {
        if let Ok(rule) = text.parse::<OutboundRule>() {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }
}
