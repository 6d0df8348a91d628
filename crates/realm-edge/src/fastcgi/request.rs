//! What parameters of a web server say as a request of HTTP. Source: RFC 3875 §4.1, and what nginx,
//! Apache, lighttpd, Caddy and HAProxy really send.
//!
//! The web server vouches for who asks and how; what a client could have said itself is never taken for
//! that. Not where a request goes: that is for the routes, as with any other.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::Params;
use crate::forwarded::Scheme;
use crate::headers::VOUCHED_PREFIX;

/// What the web server says of who asks, and the headers in which a guest may believe it. Copies of these
/// that a client sends are removed from every request, over whatever protocol.
const VOUCHED: [(&str, &str); 9] = [
    ("AUTH_TYPE", "x-realm-auth-type"),
    ("REMOTE_USER", "x-realm-remote-user"),
    ("SSL_CIPHER", "x-realm-ssl-cipher"),
    ("SSL_CLIENT_I_DN", "x-realm-ssl-client-i-dn"),
    ("SSL_CLIENT_M_SERIAL", "x-realm-ssl-client-m-serial"),
    ("SSL_CLIENT_S_DN", "x-realm-ssl-client-s-dn"),
    ("SSL_CLIENT_VERIFY", "x-realm-ssl-client-verify"),
    ("SSL_PROTOCOL", "x-realm-ssl-protocol"),
    ("SSL_TLS_SNI", "x-realm-ssl-tls-sni"),
];

/// Before the names of all other parameters: what the operator of the web server adds
/// (`fastcgi_param APP_ENV`) reaches the guest as `x-realm-param-app-env`, and a program as `APP_ENV`.
const PARAM_PREFIX: &str = "x-realm-param-";

/// What web servers send by default and is in the request already, or says where things lie on their
/// machine.
const KNOWN: [&str; 41] = [
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "CONTEXT_DOCUMENT_ROOT",
    "CONTEXT_PREFIX",
    "DOCUMENT_ROOT",
    "DOCUMENT_URI",
    "DYLD_LIBRARY_PATH",
    "FCGI_ROLE",
    "GATEWAY_INTERFACE",
    "HTTPS",
    "LD_LIBRARY_PATH",
    "LIBPATH",
    "PATH",
    "PATH_INFO",
    "PATH_TRANSLATED",
    "PHP_ADMIN_VALUE",
    "PHP_VALUE",
    "QUERY_STRING",
    "REALM_HOST",
    "REDIRECT_STATUS",
    "REDIRECT_URI",
    "REDIRECT_URL",
    "REMOTE_ADDR",
    "REMOTE_HOST",
    "REMOTE_IDENT",
    "REMOTE_PORT",
    "REQUEST_METHOD",
    "REQUEST_SCHEME",
    "REQUEST_URI",
    "SCRIPT_FILENAME",
    "SCRIPT_NAME",
    "SCRIPT_URI",
    "SCRIPT_URL",
    "SERVER_ADDR",
    "SERVER_ADMIN",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SIGNATURE",
    "SERVER_SOFTWARE",
    "SHLIB_PATH",
];

/// Bytes of a decoded path that cannot stand in a path as they are (RFC 3986 §3.3).
const NOT_IN_PATHS: AsciiSet = CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A request as a web server tells it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request<()>,
    /// Headers for which the web server vouches: they are not among those of the request, from which such
    /// are removed.
    pub(crate) vouched: HeaderMap,
    /// Who asked the web server.
    pub(crate) client: IpAddr,
    pub(crate) scheme: Scheme,
    /// Bytes of the body; `None`: to its end.
    pub(crate) length: Option<u64>,
}

/// Why parameters are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("`REQUEST_METHOD` is missing, or no method")]
    Method,
    #[error("neither `REQUEST_URI` nor `SCRIPT_NAME` and `PATH_INFO` say a path")]
    Path,
    #[error("there is no host: `HTTP_HOST` and `SERVER_NAME` are missing, or none")]
    Host,
    #[error("`REMOTE_ADDR` is missing, or no address")]
    Client,
    #[error("`CONTENT_LENGTH` is no number")]
    Length,
    #[error("a parameter has a byte that no header can have")]
    Byte,
}

impl Unclear {
    /// The status for the client of the web server.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            // The web server's own words: nothing that a client could mend.
            Self::Client => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Method | Self::Path | Self::Host | Self::Length | Self::Byte => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

/// Reads a request. `here` is who asks where the web server does not say so: it came over a socket of
/// this machine, as it does from `cgi-fcgi`.
pub(crate) fn read(params: &Params, here: Option<IpAddr>) -> Result<Asked, Unclear> {
    let method = word(params, "REQUEST_METHOD").ok_or(Unclear::Method)?;
    let method = Method::from_bytes(method).map_err(|_| Unclear::Method)?;
    let client = word(params, "REMOTE_ADDR").map(address);
    let client = client.unwrap_or(here).ok_or(Unclear::Client)?;
    let scheme = scheme(params);
    let length = length(params)?;
    let (uri, host) = target(params, scheme)?;
    let mut headers = headers(params)?;
    headers.insert(HOST, host);
    // Some say 0 of each request without a body; a client says it where one could be (RFC 9110 §8.6).
    let is_said =
        |length: &u64| *length > 0 || [Method::POST, Method::PUT, Method::PATCH].contains(&method);
    if let Some(length) = length.filter(is_said) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let vouched = vouched(params)?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    // What the client spoke with the web server is no matter here: a body has one end, and a host is said.
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Ok(Asked {
        request,
        vouched,
        client,
        scheme,
        length,
    })
}

/// The value of a parameter that says something.
fn word<'p>(params: &'p Params, name: &str) -> Option<&'p [u8]> {
    params
        .get(name.as_bytes())
        .filter(|value| !value.is_empty())
}

fn text<'p>(params: &'p Params, name: &str) -> Option<&'p str> {
    word(params, name).and_then(|value| std::str::from_utf8(value).ok())
}

/// lighttpd and Apache write IPv6 with brackets where a port follows; nobody does without.
fn address(value: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(value).ok()?;
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    // nginx says so of a client that came over a Unix socket.
    let is_local = text == "unix:";
    match is_local {
        true => Some(IpAddr::from([127, 0, 0, 1])),
        false => inner.unwrap_or(text).parse().ok(),
    }
}

fn scheme(params: &Params) -> Scheme {
    let is = |name: &str, expected: &[&str]| {
        let value = text(params, name);
        value.is_some_and(|value| expected.iter().any(|one| value.eq_ignore_ascii_case(one)))
    };
    match is("HTTPS", &["on", "1", "https"]) || is("REQUEST_SCHEME", &["https"]) {
        true => Scheme::Https,
        false => Scheme::Http,
    }
}

fn length(params: &Params) -> Result<Option<u64>, Unclear> {
    // Caddy says -1 of a body whose length nobody knows.
    let value = word(params, "CONTENT_LENGTH").filter(|value| *value != b"-1");
    let Some(value) = value else {
        return Ok(None);
    };
    let is_number = value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| is_number);
    let number = number.and_then(|text| text.parse().ok());
    number.map(Some).ok_or(Unclear::Length)
}

/// The target as the client wrote it; where the web server does not say, what it made of it.
fn uri(params: &Params) -> Result<Uri, Unclear> {
    let written = word(params, "REQUEST_URI");
    let target = match written {
        Some(target) => Cow::Borrowed(target),
        None => Cow::Owned(decoded(params)?.into_bytes()),
    };
    let is_target = target.starts_with(b"/") || written.is_some();
    let uri = Uri::try_from(&*target).ok().filter(|_| is_target);
    uri.ok_or(Unclear::Path)
}

/// `SCRIPT_NAME` and `PATH_INFO` come decoded, the query does not (RFC 3875 §4.1.5, §4.1.7).
fn decoded(params: &Params) -> Result<String, Unclear> {
    let parts = ["SCRIPT_NAME", "PATH_INFO"].map(|name| params.get(name.as_bytes()));
    let path = parts.map(Option::unwrap_or_default).concat();
    // What reads a path as a text that ends there sees another one.
    if path.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        return Err(Unclear::Path);
    }
    let mut target = percent_encode(&path, &NOT_IN_PATHS).to_string();
    if let Some(query) = text(params, "QUERY_STRING") {
        target.push('?');
        target.push_str(query);
    }
    Ok(target)
}

/// What is asked for, and of which host. A target that names one (Apache passes it as it was written) wins
/// over `Host` (RFC 9112 §3.2.2), and the web server's own word over both.
fn target(params: &Params, scheme: Scheme) -> Result<(Uri, HeaderValue), Unclear> {
    let uri = uri(params)?;
    let Some(authority) = uri.authority() else {
        return Ok((uri, host(params, scheme)?));
    };
    if uri.scheme().is_none() {
        return Err(Unclear::Path);
    }
    let host = match word(params, "REALM_HOST") {
        Some(_) => host(params, scheme)?,
        None => HeaderValue::from_str(authority.as_str()).map_err(|_| Unclear::Host)?,
    };
    // Which scheme it is the web server knows, not who asks.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = match path.starts_with('/') {
        true => Cow::Borrowed(path),
        false => Cow::Owned(format!("/{path}")),
    };
    let uri = Uri::try_from(&*path).map_err(|_| Unclear::Path)?;
    Ok((uri, host))
}

/// The host that the client asked for. What realm's own snippets for web servers say comes first: that is
/// the host by which the server chose.
fn host(params: &Params, scheme: Scheme) -> Result<HeaderValue, Unclear> {
    let asked = word(params, "REALM_HOST").or_else(|| word(params, "HTTP_HOST"));
    let named = || {
        let name = text(params, "SERVER_NAME")?;
        let port = text(params, "SERVER_PORT");
        let usual = match scheme {
            Scheme::Http => "80",
            Scheme::Https => "443",
        };
        Some(match port {
            Some(port) if port != usual => format!("{name}:{port}").into_bytes(),
            Some(_) | None => name.as_bytes().to_vec(),
        })
    };
    let host = asked
        .map(<[u8]>::to_vec)
        .or_else(named)
        .ok_or(Unclear::Host)?;
    HeaderValue::from_bytes(&host).map_err(|_| Unclear::Host)
}

/// What the client said, as far as a guest may read it. The rest of what is misread, and the client's own
/// story of its way, go where they go with every request.
fn headers(params: &Params) -> Result<HeaderMap, Unclear> {
    let mut headers = HeaderMap::new();
    for (name, value) in params.iter() {
        let name = match name {
            // So operators take a header away (`fastcgi_param HTTP_X ""`).
            _ if value.is_empty() => None,
            b"CONTENT_TYPE" => Some(CONTENT_TYPE),
            _ => name.strip_prefix(b"HTTP_").and_then(header),
        };
        if let Some(name) = name {
            let value = HeaderValue::from_bytes(value).map_err(|_| Unclear::Byte)?;
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

/// What the web server says beside the request.
fn vouched(params: &Params) -> Result<HeaderMap, Unclear> {
    let mut vouched = HeaderMap::new();
    for (name, value) in params.iter() {
        // An empty `REMOTE_USER` is nobody.
        if value.is_empty() {
            continue;
        }
        let Ok(text) = std::str::from_utf8(name) else {
            continue;
        };
        // HAProxy reads it from the client's header, and checks nothing.
        if text == "AUTH_TYPE" && word(params, "REMOTE_USER").is_none() {
            continue;
        }
        let known = VOUCHED.iter().find(|(name, _)| *name == text);
        let name = match known {
            Some((_, header)) => Some(HeaderName::from_static(header)),
            None => param(text),
        };
        if let Some(name) = name {
            let value = HeaderValue::from_bytes(value).map_err(|_| Unclear::Byte)?;
            vouched.insert(name, value);
        }
    }
    Ok(vouched)
}

/// `APP_ENV` → `x-realm-param-app-env`; `None`: it is no word of the operator's.
fn param(name: &str) -> Option<HeaderName> {
    // As variables are written: two that differ in case would be one header.
    let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_own = name.bytes().all(is_plain)
        && !name.is_empty()
        && !name.starts_with("HTTP_")
        && KNOWN.binary_search(&name).is_err();
    let header = || {
        format!(
            "{PARAM_PREFIX}{}",
            name.to_ascii_lowercase().replace('_', "-")
        )
    };
    is_own
        .then(|| HeaderName::try_from(header()).ok())
        .flatten()
}

/// `X_REQUEST_ID` → `x-request-id`. `None`: it is no header that a web server makes so, or one of which
/// only the server has the true value.
fn header(name: &[u8]) -> Option<HeaderName> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if !name.iter().all(is_plain) {
        return None;
    }
    let lower = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    let name: Vec<u8> = name.iter().map(lower).collect();
    let name = HeaderName::from_bytes(&name).ok()?;
    let is_said_otherwise = [HOST, CONTENT_LENGTH, CONTENT_TYPE].contains(&name)
        || [http::header::TRANSFER_ENCODING].contains(&name)
        || name == "proxy"
        || name.as_str().starts_with(VOUCHED_PREFIX);
    (!is_said_otherwise).then_some(name)
}

#[cfg(test)]
mod tests {
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
            ("DOCUMENT_ROOT", "/var/www"),
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
        let asked =
            with(&[("REALM_HOST", "admin.example"), ("SERVER_NAME", "x")]).expect("a request");
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
}
