//! Chains: what is read from headers, whom it believes, and that what is written reads the same.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

fn check(fields: &[(&str, &str)], trusted: &[&str], expected: (&str, &str, &str, &str)) {
    let chain = read(&headers(fields));
    let trusted: Vec<IpAddr> = trusted
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    let asked = chain.asked(|address| trusted.contains(&address));
    let found = (
        asked.scheme.map_or("-", Scheme::as_str),
        asked.host.unwrap_or("-"),
        &*chain.x_forwarded_for(PEER),
        &*chain.forwarded(PEER, Scheme::Http, "inner:81"),
    );
    assert_eq!(found, expected, "{fields:?}");
}

#[test]
fn the_x_family_is_read_and_written_in_both_forms() {
    check(
        &[
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example.com"),
        ],
        &[],
        (
            "https",
            "shop.example.com",
            "203.0.113.7, 10.0.0.9",
            "for=203.0.113.7;host=shop.example.com;proto=https, \
             for=10.0.0.9;host=\"inner:81\";proto=http",
        ),
    );
}

#[test]
fn the_standard_family_is_read_where_the_other_is_silent() {
    check(
        &[(
            "forwarded",
            "For=\"[2001:db8::1]:4711\"; Proto=HTTPS;host=\"a.b:8080\" , for=unknown;by=_x",
        )],
        &[],
        (
            "-",
            "-",
            "2001:db8::1, unknown, 10.0.0.9",
            "for=\"[2001:db8::1]\";host=\"a.b:8080\";proto=https, for=unknown, \
             for=10.0.0.9;host=\"inner:81\";proto=http",
        ),
    );
    // A client behind a proxy that writes only the X family cannot speak through the other one.
    check(
        &[
            ("forwarded", "for=6.6.6.6;host=evil.example;proto=https"),
            ("x-forwarded-for", "203.0.113.7"),
        ],
        &[],
        (
            "-",
            "-",
            "203.0.113.7, 10.0.0.9",
            "for=203.0.113.7, for=10.0.0.9;host=\"inner:81\";proto=http",
        ),
    );
}

#[test]
fn the_walk_ends_at_the_first_stranger() {
    // The client wrote the first address and scheme itself; its proxies appended theirs.
    let fields = [
        ("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.0.0.1"),
        ("x-forwarded-proto", "ftp, https, http"),
        (
            "x-forwarded-host",
            "evil.example, shop.example.com, inner.example",
        ),
    ];
    let chain = read(&headers(&fields));
    let asked = chain.asked(|address| address == IpAddr::from([10, 0, 0, 1]));
    assert_eq!(asked.scheme, Some(Scheme::Https));
    assert_eq!(asked.host, Some("shop.example.com"));
    let asked = chain.asked(|_| false);
    assert_eq!(asked.scheme, Some(Scheme::Http));
    assert_eq!(asked.host, Some("inner.example"));
}

#[test]
fn what_is_damaged_is_forgotten_with_all_before_it() {
    let own = "for=10.0.0.9;host=\"inner:81\";proto=http";
    for fields in [
        [("forwarded", "for")],
        [("forwarded", "for=1.2.3.4 proto=http")],
        [("forwarded", "for=\"1.2.3.4")],
        [("forwarded", "for=nonsense")],
        [("forwarded", "=x")],
        [("x-forwarded-for", "1.2.3.4, <script>")],
        [("x-forwarded-for", "")],
    ] {
        check(&fields, &[], ("-", "-", "10.0.0.9", own));
    }
    check(
        &[("x-forwarded-for", "6.6.6.6, ?, 203.0.113.7:99")],
        &[],
        (
            "-",
            "-",
            "203.0.113.7, 10.0.0.9",
            &format!("for=203.0.113.7, {own}"),
        ),
    );
}

#[test]
fn a_chain_keeps_its_nearest_hops() {
    let long = vec!["1.2.3.4"; 1000].join(",") + ",5.6.7.8";
    let chain = read(&headers(&[("x-forwarded-for", &long)]));
    assert_eq!(chain.hops.len(), HOPS_MAX);
    let last = chain.hops.last().expect("a hop");
    assert_eq!(last.node, Node::Address(IpAddr::from([5, 6, 7, 8])));
}

proptest! {
    #[test]
    fn any_header_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            for name in ["forwarded", "x-forwarded-for", "x-forwarded-host"] {
                let mut headers = HeaderMap::new();
                headers.insert(HeaderName::from_static(name), value.clone());
                let chain = read(&headers);
                // Whatever came in, what goes out is a header value.
                prop_assert!(HeaderValue::try_from(chain.x_forwarded_for(PEER)).is_ok());
                let text = chain.forwarded(PEER, Scheme::Http, "a");
                prop_assert!(HeaderValue::try_from(text).is_ok());
            }
        }
    }

    #[test]
    fn nearly_right_headers_are_read(text in "(for|proto|host|by|=|;|,| |\"|\\\\|\\[|\\]|::1|1\\.2\\.3\\.4|:80|https|_x|a\\.b){0,16}") {
        let _ = read(&headers(&[("forwarded", &text)]));
        let _ = read(&headers(&[("x-forwarded-for", &text)]));
    }

    #[test]
    fn what_is_written_reads_the_same(chain in chains()) {
        // The peer's own hop comes after those it passed on.
        let text = chain.forwarded(PEER, Scheme::Https, "x:1");
        let again = read(&headers(&[("forwarded", &text)]));
        prop_assert_eq!(&again.hops[..chain.hops.len()], &chain.hops[..]);
        prop_assert_eq!(again.hops.len(), chain.hops.len() + 1);

        let text = chain.x_forwarded_for(PEER);
        let again = read(&headers(&[("x-forwarded-for", &text)]));
        let nodes: Vec<_> = chain.hops.iter().map(|hop| &hop.node).collect();
        let found: Vec<_> = again.hops.iter().map(|hop| &hop.node).take(nodes.len()).collect();
        prop_assert_eq!(found, nodes);
    }
}

fn chains() -> impl Strategy<Value = Chain> {
    let node = prop_oneof![
        any::<[u8; 4]>().prop_map(|bytes| Node::Address(IpAddr::from(bytes))),
        any::<[u8; 16]>().prop_map(|bytes| Node::Address(IpAddr::from(bytes).to_canonical())),
        "_[a-z0-9._-]{1,9}".prop_map(Node::Name),
        Just(Node::Name("unknown".to_owned())),
    ];
    let scheme = proptest::option::of(prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]);
    let host = proptest::option::of("[a-z]{1,9}(:[1-9][0-9]{0,3})?");
    let hop = (node, scheme, host).prop_map(|(node, scheme, host)| Hop { node, scheme, host });
    proptest::collection::vec(hop, 0..6).prop_map(|hops| Chain { hops })
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    headers
}
