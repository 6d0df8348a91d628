//! What is removed from requests, responses and trailers, and what is kept.

use super::*;

fn check(strip: fn(&mut HeaderMap), fields: &[(&str, &str)], expected: &[(&str, &str)]) {
    let mut headers = map(fields);
    strip(&mut headers);
    assert_eq!(headers, map(expected));
    strip(&mut headers);
    assert_eq!(headers, map(expected), "stripping twice is stripping once");
}

#[test]
fn a_request_loses_what_belongs_to_its_connection() {
    check(
        strip_request,
        &[
            ("connection", "close, X-Private"),
            ("connection", "x-more"),
            ("x-private", "1"),
            ("x-more", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
            ("trailer", "x-sum"),
        ],
        &[("te", "trailers"), ("accept", "*/*"), ("trailer", "x-sum")],
    );
    check(strip_request, &[("te", "gzip")], &[]);
    check(
        strip_request,
        &[("x-a", "1"), ("x-a", "2")],
        &[("x-a", "1"), ("x-a", "2")],
    );
}

#[test]
fn a_response_cannot_speak_for_the_edge() {
    check(
        strip_response,
        &[
            ("realm-error", "no-route"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("server", "guest"),
        ],
        &[("server", "guest")],
    );
}

#[test]
fn a_forged_way_is_forgotten() {
    check(
        strip_forwarded,
        &[
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "1.2.3.4"),
            ("x-forward", "kept"),
        ],
        &[("x-forward", "kept")],
    );
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    headers
}

#[test]
fn what_guests_misread_is_dropped() {
    check(
        strip_request,
        &[
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded_proto", "https"),
            ("x.forwarded.host", "evil"),
            ("_", "1"),
            ("proxy", "http://evil/"),
            ("x-proxy", "kept"),
            ("x-request-id2", "kept"),
        ],
        &[("x-proxy", "kept"), ("x-request-id2", "kept")],
    );
    // A guest's own fields are its client's matter.
    check(
        strip_response,
        &[("x_odd", "1"), ("connection", "close")],
        &[("x_odd", "1")],
    );
}

#[test]
fn trailers_say_nothing_that_only_a_head_may() {
    let forbidden = [
        "age",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "host",
        "if-match",
        "if-none-match",
        "keep-alive",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "warning",
        "www-authenticate",
    ];
    let ways = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-port",
        "x-real-ip",
    ];
    let misread = ["proxy", "x_forwarded_for"];
    let kept = [("etag", "1"), ("grpc-status", "0"), ("x-sum", "7")];
    let with = |names: &[&'static str]| {
        let mut fields: Vec<_> = names.iter().map(|&name| (name, "1")).collect();
        fields.extend(kept);
        fields
    };
    for strip in [strip_request_trailers, strip_response_trailers] {
        check(strip, &with(&forbidden), &kept);
    }
    for names in [&ways[..], &misread] {
        check(strip_request_trailers, &with(names), &kept);
    }
    check(strip_response_trailers, &with(&["realm-error"]), &kept);
    check(strip_response_trailers, &with(&ways), &with(&ways));
}

#[test]
fn a_body_has_one_end() {
    let check = |version, values: &[&'static str], expected| {
        let fields: Vec<_> = values
            .iter()
            .map(|&value| ("transfer-encoding", value))
            .collect();
        let found = is_framing_clear(version, &map(&fields));
        assert_eq!(found, expected, "{version:?} {values:?}");
    };
    check(Version::HTTP_11, &[], true);
    check(Version::HTTP_11, &["chunked"], true);
    check(Version::HTTP_11, &[" Chunked\t"], true);
    check(Version::HTTP_11, &["identity, chunked"], false);
    check(Version::HTTP_11, &["chunked, chunked"], false);
    check(Version::HTTP_11, &["chunked", "chunked"], false);
    check(Version::HTTP_11, &["gzip", "chunked"], false);
    check(Version::HTTP_11, &[", chunked"], false);
    check(Version::HTTP_11, &["chunked;q=1"], false);
    check(Version::HTTP_11, &[""], false);
    check(Version::HTTP_10, &["chunked"], false);
    check(Version::HTTP_10, &[], true);
}
