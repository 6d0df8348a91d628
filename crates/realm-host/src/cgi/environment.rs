//! A request's head as CGI's meta-variables (RFC 3875 §4.1).
//!
//! `PATH_INFO` is decoded, as the RFC wants it; `REQUEST_URI`, which every server adds, is as it
//! was sent. `PATH_TRANSLATED` is absent: there is no document root. `AUTH_TYPE` and `REMOTE_USER`, what
//! is known of the client's TLS, and parameters of the operator are there where a web server in front
//! vouches for them. There are no arguments from a query without `=`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName};

/// Headers that the edge alone writes: what a web server in front vouches for. `x-realm-remote-user` is
/// `REMOTE_USER`, `x-realm-param-app-env` is `APP_ENV`.
const VOUCHED: &str = "x-realm-";
const PARAM: &str = "param-";
const FORWARDED_FOR: &str = "x-forwarded-for";
/// The peer of a request that came through no edge: a probe, which this machine sends.
const NO_PEER: &str = "127.0.0.1";
const SOFTWARE: &str = concat!("realm/", env!("CARGO_PKG_VERSION"));

/// The meta-variables of one request.
pub type Environment = BTreeMap<String, String>;

/// The part of the path that named the program: an extension of a request. Without one it is
/// empty, and `PATH_INFO` is the whole path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptName(pub String);

/// The variables of a request with an absolute URI; `body_bytes` is the body's length, if known.
///
/// A header becomes `HTTP_NAME` if its name has letters, digits and `-` only: so no two headers
/// share a variable. Never `Proxy`, which programs take for an address (CVE-2016-5385), and never
/// `Authorization`, unless `credentials` says so: what may read an environment is up to the
/// program.
///
/// `None`: the path cannot be decoded (a wrong escape, a NUL, no UTF-8).
pub fn environment(
    head: &Parts,
    body_bytes: Option<u64>,
    credentials: bool,
) -> Option<Environment> {
    let path = head.uri.path();
    let script = head.extensions.get::<ScriptName>();
    let (script, rest) = script
        .and_then(|ScriptName(script)| split(path, script))
        .unwrap_or(("", path));
    let mut variables = Environment::new();
    let mut set = |name: &str, value: &str| {
        variables.insert(name.to_owned(), value.to_owned());
    };
    let scheme = head.uri.scheme_str().unwrap_or("http");
    let port = head
        .uri
        .port_u16()
        .unwrap_or(if scheme == "https" { 443 } else { 80 });
    set("GATEWAY_INTERFACE", "CGI/1.1");
    set("SERVER_SOFTWARE", SOFTWARE);
    set("SERVER_PROTOCOL", &format!("{:?}", head.version));
    set("SERVER_NAME", head.uri.host().unwrap_or("localhost"));
    set("SERVER_PORT", &port.to_string());
    set("REQUEST_METHOD", head.method.as_str());
    set("REQUEST_SCHEME", scheme);
    if scheme == "https" {
        set("HTTPS", "on");
    }
    let target = head.uri.path_and_query();
    set("REQUEST_URI", target.map_or("/", |target| target.as_str()));
    set("QUERY_STRING", head.uri.query().unwrap_or(""));
    set("SCRIPT_NAME", &decoded(script)?);
    set("PATH_INFO", &decoded(rest)?);
    set("REMOTE_ADDR", &peer(&head.headers));
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        set("CONTENT_TYPE", &String::from_utf8_lossy(kind.as_bytes()));
    }
    if let Some(bytes) = length(&head.headers, body_bytes) {
        set("CONTENT_LENGTH", &bytes.to_string());
    }
    if let Some(authority) = head.uri.authority() {
        set("HTTP_HOST", authority.as_str());
    }
    headers(&head.headers, credentials, &mut variables);
    vouched(&head.headers, &mut variables);
    Some(variables)
}

/// `path` after `script`, where that ends with a segment.
fn split<'a>(path: &'a str, script: &'a str) -> Option<(&'a str, &'a str)> {
    let script = script.trim_end_matches('/');
    let rest = path.strip_prefix(script)?;
    (rest.is_empty() || rest.starts_with('/')).then_some((script, rest))
}

fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let byte = match (*first, tail) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                digit(*high)? * 16 + digit(*low)?
            }
            (b'%', _) => return None,
            (byte, _) => byte,
        };
        if byte == 0 {
            return None;
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Whose connection the edge took: it writes the last hop itself.
fn peer(headers: &HeaderMap) -> String {
    let last = headers.get_all(FORWARDED_FOR).iter().next_back();
    last.and_then(|value| value.to_str().ok()?.rsplit(',').next())
        .and_then(|hop| hop.trim().parse::<IpAddr>().ok())
        .map_or_else(|| NO_PEER.to_owned(), |address| address.to_string())
}

/// Absent for a body whose length nobody knows yet, and for none: the end of standard input tells.
fn length(headers: &HeaderMap, body_bytes: Option<u64>) -> Option<u64> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    announced.or(body_bytes.filter(|bytes| *bytes > 0))
}

fn headers(headers: &HeaderMap, credentials: bool, variables: &mut Environment) {
    for name in headers.keys() {
        if !is_passed(name, credentials) {
            continue;
        }
        // What may come several times is one list; only cookies have a separator of their own.
        let separator = if *name == COOKIE { "; " } else { ", " };
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        let variable = name.as_str().to_ascii_uppercase().replace('-', "_");
        // One host, whatever was sent: the first.
        let value = if *name == HOST {
            values[0].to_string()
        } else {
            values.join(separator)
        };
        variables.insert(format!("HTTP_{variable}"), value);
    }
}

/// None of them takes the place of a variable of the request, or passes for a header of the client.
fn vouched(headers: &HeaderMap, variables: &mut Environment) {
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(VOUCHED) else {
            continue;
        };
        let name = name.strip_prefix(PARAM).unwrap_or(name);
        let variable = name.to_ascii_uppercase().replace('-', "_");
        if variable.is_empty() || variable.starts_with("HTTP_") {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        variables.entry(variable).or_insert(value);
    }
}

fn is_passed(name: &HeaderName, credentials: bool) -> bool {
    let text = name.as_str();
    // They have variables of their own, or belong to the connection.
    let other = [
        CONTENT_TYPE,
        CONTENT_LENGTH,
        CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let secret = *name == AUTHORIZATION || *name == PROXY_AUTHORIZATION;
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && text != "proxy"
        && !text.starts_with(VOUCHED)
        && !other.contains(name)
        && (credentials || !secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    fn variables(request: http::request::Builder) -> Environment {
        let (head, ()) = request.body(()).unwrap().into_parts();
        environment(&head, None, false).unwrap()
    }

    #[track_caller]
    fn check(request: http::request::Builder, expected: &[(&str, Option<&str>)]) {
        let variables = variables(request);
        for (name, value) in expected {
            let found = variables.get(*name).map(String::as_str);
            assert_eq!(found, *value, "{name} of {variables:?}");
        }
    }

    #[test]
    fn a_request_becomes_variables() {
        let request = Request::post("https://shop.example.com:8443/a%20b/c?x=1&y=%20")
            .header("content-type", "text/plain")
            .header("content-length", "12")
            .header("x-forwarded-for", "5.5.5.5")
            .header("x-forwarded-for", "6.6.6.6, 203.0.113.7")
            .header("accept-language", "de")
            .header("accept-language", "en")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        check(
            request,
            &[
                ("REQUEST_METHOD", Some("POST")),
                ("SCRIPT_NAME", Some("")),
                ("PATH_INFO", Some("/a b/c")),
                ("REQUEST_URI", Some("/a%20b/c?x=1&y=%20")),
                ("QUERY_STRING", Some("x=1&y=%20")),
                ("CONTENT_TYPE", Some("text/plain")),
                ("CONTENT_LENGTH", Some("12")),
                ("REMOTE_ADDR", Some("203.0.113.7")),
                ("SERVER_NAME", Some("shop.example.com")),
                ("SERVER_PORT", Some("8443")),
                ("SERVER_PROTOCOL", Some("HTTP/1.1")),
                ("SERVER_SOFTWARE", Some(SOFTWARE)),
                ("GATEWAY_INTERFACE", Some("CGI/1.1")),
                ("HTTPS", Some("on")),
                ("HTTP_HOST", Some("shop.example.com:8443")),
                ("HTTP_ACCEPT_LANGUAGE", Some("de, en")),
                ("HTTP_COOKIE", Some("a=1; b=2")),
                ("HTTP_CONTENT_LENGTH", None),
                ("HTTP_CONTENT_TYPE", None),
            ],
        );
        let plain = Request::get("http://[::1]/");
        check(
            plain,
            &[
                ("PATH_INFO", Some("/")),
                ("QUERY_STRING", Some("")),
                ("SERVER_NAME", Some("[::1]")),
                ("SERVER_PORT", Some("80")),
                ("CONTENT_LENGTH", None),
                ("HTTPS", None),
                ("REMOTE_ADDR", Some(NO_PEER)),
                ("PATH_TRANSLATED", None),
                ("REMOTE_USER", None),
            ],
        );
    }

    #[test]
    fn what_programs_would_misread_is_left_out() {
        let request = Request::get("http://x/")
            .header("proxy", "http://evil.example/")
            .header("x_forwarded_for", "6.6.6.6")
            .header("x.dot", "1")
            .header("authorization", "Bearer t")
            .header("proxy-authorization", "Basic t")
            .header("transfer-encoding", "chunked");
        let variables = variables(request);
        let passed: Vec<_> = variables
            .keys()
            .filter(|name| name.starts_with("HTTP_"))
            .collect();
        assert_eq!(passed, ["HTTP_HOST"]);
    }

    #[test]
    fn what_a_web_server_vouches_for_is_a_variable_and_no_header() {
        let request = Request::get("http://x/p")
            .header("x-realm-remote-user", "ann")
            .header("x-realm-auth-type", "Basic")
            .header("x-realm-ssl-client-s-dn", "CN=ann")
            .header("x-realm-param-app-env", "live")
            .header("x-realm-param-path-info", "/etc")
            .header("x-realm-param-http-proxy", "evil")
            .header("x-realm-param-", "none");
        check(
            request,
            &[
                ("REMOTE_USER", Some("ann")),
                ("AUTH_TYPE", Some("Basic")),
                ("SSL_CLIENT_S_DN", Some("CN=ann")),
                ("APP_ENV", Some("live")),
                ("PATH_INFO", Some("/p")),
                ("HTTP_PROXY", None),
                ("HTTP_X_REALM_REMOTE_USER", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn credentials_are_passed_where_they_are_wanted() {
        let request = Request::get("http://x/").header("authorization", "Bearer t");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let variables = environment(&head, None, true).unwrap();
        assert_eq!(variables["HTTP_AUTHORIZATION"], "Bearer t");
    }

    #[test]
    fn a_body_of_known_length_has_one() {
        let (head, ()) = Request::post("http://x/").body(()).unwrap().into_parts();
        let length = |bytes| {
            let variables = environment(&head, bytes, false).unwrap();
            variables.get("CONTENT_LENGTH").cloned()
        };
        assert_eq!(length(None), None);
        assert_eq!(length(Some(0)), None);
        assert_eq!(length(Some(7)).as_deref(), Some("7"));
    }

    #[test]
    fn the_path_is_split_where_the_script_ends() {
        for (path, script, expected) in [
            ("/app/x", "/app", ("/app", "/x")),
            ("/app/x", "/app/", ("/app", "/x")),
            ("/app", "/app", ("/app", "")),
            ("/apple", "/app", ("", "/apple")),
            ("/x", "/", ("", "/x")),
        ] {
            let mut request = Request::get(format!("http://h{path}")).body(()).unwrap();
            request
                .extensions_mut()
                .insert(ScriptName(script.to_owned()));
            let (head, ()) = request.into_parts();
            let variables = environment(&head, None, false).unwrap();
            let found = (&*variables["SCRIPT_NAME"], &*variables["PATH_INFO"]);
            assert_eq!(found, expected, "{path} {script}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for path in ["/%", "/%4", "/%zz", "/%00", "/%ff"] {
            assert_eq!(decoded(path), None, "{path}");
        }
        assert_eq!(decoded("/%C3%a4%2f+").as_deref(), Some("/ä/+"));
    }

    proptest! {
        #[test]
        fn any_headers_give_safe_variables(
            fields in proptest::collection::vec(("[!-~]{1,12}", "[ -~]{0,12}"), 0..12),
            path in "/[!-~]{0,20}",
        ) {
            let mut request = Request::get(format!("http://x{path}"));
            for (name, value) in &fields {
                if HeaderName::try_from(name).is_ok() {
                    request = request.header(name, value);
                }
            }
            let Ok(request) = request.body(()) else { return Ok(()) };
            let (head, ()) = request.into_parts();
            if let Some(variables) = environment(&head, None, false) {
                prop_assert!(!variables.contains_key("HTTP_PROXY"));
                prop_assert!(!variables.contains_key("HTTP_AUTHORIZATION"));
                for (name, value) in &variables {
                    prop_assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'));
                    prop_assert!(!value.contains('\0'));
                }
            }
        }
    }
}
