//! What web servers really send, and what nobody should.

use bytes::BytesMut;

use super::super::ParamsLimits;
use super::super::params::{Reader, put};
use super::*;

fn params(pairs: &[(&str, &str)]) -> Params {
    let mut out = BytesMut::new();
    for (name, value) in pairs {
        assert!(put(&mut out, name.as_bytes(), value.as_bytes()));
    }
    let mut reader = Reader::default();
    reader.take(&out, &ParamsLimits::default()).expect("short");
    reader.end().expect("whole")
}

const PLAIN: [(&str, &str); 4] = [
    ("REQUEST_METHOD", "GET"),
    ("REQUEST_URI", "/a%20b?c=d"),
    ("HTTP_HOST", "shop.example"),
    ("REMOTE_ADDR", "203.0.113.9"),
];

fn with(more: &[(&str, &str)]) -> Result<Asked, Unclear> {
    read(&params(&[&PLAIN[..], more].concat()), None)
}

fn said(asked: &Asked, name: &str) -> String {
    let values = asked.request.headers().get_all(name).iter();
    let values = values.map(|value| value.to_str().expect("text"));
    values.collect::<Vec<_>>().join("|")
}

#[test]
fn what_nginx_sends_is_a_request() {
    let asked = with(&[
        ("SCRIPT_NAME", "/a b"),
        ("QUERY_STRING", "c=d"),
        ("CONTENT_TYPE", "text/plain"),
        ("CONTENT_LENGTH", "12"),
        ("HTTPS", "on"),
        ("SERVER_NAME", "_"),
        ("HTTP_X_REQUEST_ID", "7"),
        ("HTTP_COOKIE", "a=b; c=d"),
        ("REMOTE_USER", "ann"),
        // As it is decoded, and nobody reads it.
        ("DOCUMENT_ROOT", "/var/\nwww"),
    ])
    .expect("a request");
    assert_eq!(asked.request.method(), Method::GET);
    assert_eq!(asked.request.uri(), "/a%20b?c=d");
    assert_eq!(asked.client, IpAddr::from([203, 0, 113, 9]));
    assert_eq!((asked.scheme, asked.length), (Scheme::Https, Some(12)));
    let expected = [
        ("host", "shop.example"),
        ("content-type", "text/plain"),
        ("content-length", "12"),
        ("x-request-id", "7"),
        ("cookie", "a=b; c=d"),
    ];
    for (name, value) in expected {
        assert_eq!(said(&asked, name), value, "{name}");
    }
    assert_eq!(asked.request.headers().len(), expected.len());
    assert_eq!(asked.vouched.len(), 1);
    assert_eq!(asked.vouched["x-realm-remote-user"], "ann");
    assert_eq!(asked.vouched.len(), 1);
}

#[test]
fn what_a_client_says_is_not_what_the_server_vouches_for() {
    let asked = with(&[
        ("HTTP_X_REALM_REMOTE_USER", "root"),
        ("HTTP_PROXY", "http://evil/"),
        ("HTTP_CONTENT_LENGTH", "5"),
        ("HTTP_CONTENT_TYPE", "text/evil"),
        ("HTTP_TRANSFER_ENCODING", "chunked"),
        ("HTTP_X-ODD", "1"),
        ("HTTP_", "1"),
        ("http_x_lower", "1"),
    ])
    .expect("a request");
    let names: Vec<_> = asked
        .request
        .headers()
        .keys()
        .map(HeaderName::as_str)
        .collect();
    assert_eq!(names, ["host"]);
    assert!(asked.vouched.is_empty());
    assert_eq!(asked.length, None);
}

#[test]
fn without_a_target_it_is_made_of_its_parts() {
    let check = |script: &str, info: &str, query: &str, expected: Result<&str, Unclear>| {
        let pairs = [
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", script),
            ("PATH_INFO", info),
            ("QUERY_STRING", query),
            ("SERVER_NAME", "a.example"),
            ("SERVER_PORT", "8080"),
        ];
        let asked = read(&params(&pairs), Some(IpAddr::from([127, 0, 0, 1])));
        let uri = asked.map(|asked| (asked.request.uri().to_string(), said(&asked, "host")));
        let expected = expected.map(|uri| (uri.to_owned(), "a.example:8080".to_owned()));
        assert_eq!(uri, expected, "{script} {info}");
    };
    check("/app", "/x y/ü", "q=%20", Ok("/app/x%20y/%C3%BC?q=%20"));
    check("", "/a?b#c%2f", "", Ok("/a%3Fb%23c%252f"));
    check("", "", "", Err(Unclear::Path));
    check("app", "", "", Err(Unclear::Path));
    check("/a", "/b\n/c", "", Err(Unclear::Path));
    check("/a", "/b\0", "", Err(Unclear::Path));
}

#[test]
fn what_is_unclear_is_told_and_not_guessed() {
    let check = |more: &[(&str, &str)], expected| {
        assert_eq!(with(more).err(), Some(expected), "{more:?}");
    };
    check(&[("REQUEST_METHOD", "")], Unclear::Method);
    check(&[("REQUEST_METHOD", "GE T")], Unclear::Method);
    check(&[("REQUEST_URI", "a b")], Unclear::Path);
    check(&[("REQUEST_URI", "/a\nb")], Unclear::Path);
    check(&[("REQUEST_URI", "b.example:80")], Unclear::Path);
    check(&[("REMOTE_ADDR", "nobody")], Unclear::Client);
    check(&[("REMOTE_ADDR", "")], Unclear::Client);
    check(&[("CONTENT_LENGTH", "-2")], Unclear::Length);
    check(&[("CONTENT_LENGTH", "1 ")], Unclear::Length);
    check(
        &[("CONTENT_LENGTH", "99999999999999999999")],
        Unclear::Length,
    );
    check(&[("HTTP_HOST", "")], Unclear::Host);
    check(&[("HTTP_X_A", "a\nb")], Unclear::Byte);
    check(&[("REMOTE_USER", "a\rb")], Unclear::Byte);
    assert_eq!(with(&[("CONTENT_LENGTH", "")]).expect("none").length, None);
    assert_eq!(
        with(&[("REMOTE_ADDR", "unix:")]).expect("here").client,
        IpAddr::from([127, 0, 0, 1])
    );
}

#[test]
fn what_the_operator_adds_reaches_the_guest_and_no_header_passes_for_it() {
    assert!(KNOWN.is_sorted());
    let asked = with(&[
        ("APP_ENV", "live"),
        ("APP_ENV_2", "x"),
        ("app_env", "x"),
        ("EMPTY", ""),
        ("ODD-NAME", "x"),
        ("HTTP_X_REALM_PARAM_APP_ENV", "forged"),
        ("PHP_VALUE", "auto_prepend_file=x"),
    ])
    .expect("a request");
    let names: Vec<_> = asked.vouched.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-realm-param-app-env", "x-realm-param-app-env-2"]);
    assert_eq!(asked.vouched["x-realm-param-app-env"], "live");
    assert_eq!(said(&asked, "x-realm-param-app-env"), "");
    assert_eq!(
        with(&[("APP_ENV", "a\nb")]).expect_err("a newline"),
        Unclear::Byte
    );
}

#[test]
fn the_host_by_which_the_server_chose_comes_first() {
    let asked = with(&[("REALM_HOST", "admin.example"), ("SERVER_NAME", "x")]).expect("a request");
    assert_eq!(said(&asked, "host"), "admin.example");
    let absolute = ("REQUEST_URI", "http://b.example/x?y");
    let asked = with(&[absolute]).expect("a request");
    assert_eq!(asked.request.uri(), "/x?y");
    assert_eq!(said(&asked, "host"), "b.example");
    let asked = with(&[absolute, ("REALM_HOST", "admin.example")]).expect("a request");
    assert_eq!(asked.request.uri(), "/x?y");
    assert_eq!(said(&asked, "host"), "admin.example");
    let asked = with(&[("REQUEST_URI", "http://b.example?y")]).expect("a request");
    assert_eq!(asked.request.uri(), "/?y");
}

#[test]
fn a_length_is_what_a_client_would_say() {
    let check = |method: &str, length: &str, expected: &str| {
        let asked = with(&[("REQUEST_METHOD", method), ("CONTENT_LENGTH", length)]);
        let asked = asked.expect("a request");
        assert_eq!(
            said(&asked, "content-length"),
            expected,
            "{method} {length}"
        );
    };
    check("GET", "0", "");
    check("GET", "3", "3");
    check("POST", "0", "0");
    check("POST", "-1", "");
    let unknown = with(&[("CONTENT_LENGTH", "-1")]).expect("a request");
    assert_eq!(unknown.length, None);
}

#[test]
fn what_is_empty_is_not_there() {
    let asked = with(&[
        ("HTTP_X_OWN", ""),
        ("HTTP_USER_AGENT", ""),
        ("AUTH_TYPE", "Basic"),
    ]);
    let asked = asked.expect("a request");
    assert_eq!(
        asked.request.headers().len(),
        1,
        "{:?}",
        asked.request.headers()
    );
    // Nobody was asked who it is.
    assert!(asked.vouched.is_empty(), "{:?}", asked.vouched);
}
