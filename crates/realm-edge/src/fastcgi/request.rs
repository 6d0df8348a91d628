//! What parameters of a web server say as a request of HTTP. Source: RFC 3875 §4.1, and what nginx,
//! Apache, lighttpd, Caddy and HAProxy really send.
//!
//! The web server vouches for who asks and how; what a client could have said itself is never taken for
//! that. Not where a request goes: that is for the routes, as with any other.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, Request, StatusCode, Uri, Version};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::Params;
use crate::forwarded::Scheme;
use crate::headers::VOUCHED_PREFIX;

const AUTH_TYPE: &str = "x-realm-auth-type";
const REMOTE_USER: &str = "x-realm-remote-user";

/// What the web server says of who asks, and the headers in which a guest may believe it. Copies of these
/// that a client sends are removed from every request, over whatever protocol.
const VOUCHED: [(&str, &str); 9] = [
    ("AUTH_TYPE", AUTH_TYPE),
    ("REMOTE_USER", REMOTE_USER),
    ("SSL_CIPHER", "x-realm-ssl-cipher"),
    ("SSL_CLIENT_I_DN", "x-realm-ssl-client-i-dn"),
    ("SSL_CLIENT_M_SERIAL", "x-realm-ssl-client-m-serial"),
    ("SSL_CLIENT_S_DN", "x-realm-ssl-client-s-dn"),
    ("SSL_CLIENT_VERIFY", "x-realm-ssl-client-verify"),
    ("SSL_PROTOCOL", "x-realm-ssl-protocol"),
    ("SSL_TLS_SNI", "x-realm-ssl-tls-sni"),
];

/// Names of headers up to this length are read where they are: nearly all.
const SHORT_NAME_BYTES: usize = 64;

/// Before the names of all other parameters: what the operator of the web server adds
/// (`fastcgi_param APP_ENV`) reaches the guest as `x-realm-param-app-env`, and a program as `APP_ENV`.
const PARAM_PREFIX: &str = "x-realm-param-";

/// What web servers send by default and is in the request already, or says where things lie on their
/// machine.
const KNOWN: [&str; 42] = [
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
    "REALM_END",
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

/// Whether a web server wants to hear of the end of a request behind the body of it and not before, as what
/// `realm edge` prints for it says.
pub(crate) fn ends_behind_body(params: &Params) -> bool {
    params.get(b"REALM_END") == Some(&b"body"[..])
}

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
    let said = Said::of(params)?;
    let method = said.method.ok_or(Unclear::Method)?;
    let method = Method::from_bytes(method).map_err(|_| Unclear::Method)?;
    let client = said.remote_addr.map(address);
    let client = client.unwrap_or(here).ok_or(Unclear::Client)?;
    let scheme = said.scheme();
    let length = said.length()?;
    let (uri, host) = said.target(scheme)?;
    let Said {
        mut headers,
        vouched,
        ..
    } = said;
    headers.insert(HOST, host);
    // Some say 0 of each request without a body; a client says it where one could be (RFC 9110 §8.6).
    let is_said =
        |length: &u64| *length > 0 || [Method::POST, Method::PUT, Method::PATCH].contains(&method);
    if let Some(length) = length.filter(is_said) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
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

/// What the parameters say, of each name the last one, as CGI programs see it in their environment. One that
/// is empty says nothing.
#[derive(Default)]
struct Said<'p> {
    method: Option<&'p [u8]>,
    request_uri: Option<&'p [u8]>,
    script_name: &'p [u8],
    path_info: &'p [u8],
    query: Option<&'p [u8]>,
    realm_host: Option<&'p [u8]>,
    http_host: Option<&'p [u8]>,
    server_name: Option<&'p [u8]>,
    server_port: Option<&'p [u8]>,
    remote_addr: Option<&'p [u8]>,
    https: Option<&'p [u8]>,
    request_scheme: Option<&'p [u8]>,
    content_length: Option<&'p [u8]>,
    headers: HeaderMap,
    vouched: HeaderMap,
}

impl<'p> Said<'p> {
    /// One look at each pair: this is done for every request.
    fn of(params: &'p Params) -> Result<Self, Unclear> {
        let mut said = Self::default();
        for (name, value) in params.iter() {
            let word = Some(value).filter(|value| !value.is_empty());
            match name {
                b"REQUEST_METHOD" => said.method = word,
                b"REQUEST_URI" => said.request_uri = word,
                b"SCRIPT_NAME" => said.script_name = value,
                b"PATH_INFO" => said.path_info = value,
                b"QUERY_STRING" => said.query = word,
                b"REALM_HOST" => said.realm_host = word,
                b"HTTP_HOST" => said.http_host = word,
                b"SERVER_NAME" => said.server_name = word,
                b"SERVER_PORT" => said.server_port = word,
                b"REMOTE_ADDR" => said.remote_addr = word,
                b"HTTPS" => said.https = word,
                b"REQUEST_SCHEME" => said.request_scheme = word,
                b"CONTENT_LENGTH" => said.content_length = word,
                // So operators take a header away (`fastcgi_param HTTP_X ""`), and an empty `REMOTE_USER` is
                // nobody.
                _ if value.is_empty() => {}
                _ => said.other(name, value)?,
            }
        }
        // HAProxy reads it from the client's header, and checks nothing.
        if !said.vouched.contains_key(REMOTE_USER) {
            said.vouched.remove(AUTH_TYPE);
        }
        Ok(said)
    }

    /// What a guest may read: headers of the client, and what the web server vouches for. The rest of what is
    /// misread, and the client's own story of its way, go where they go with every request.
    fn other(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unclear> {
        let value = || HeaderValue::from_bytes(value).map_err(|_| Unclear::Byte);
        if let Some(name) = name.strip_prefix(b"HTTP_") {
            if let Some(name) = header(name) {
                self.headers.insert(name, value()?);
            }
            return Ok(());
        }
        if name == b"CONTENT_TYPE" {
            self.headers.insert(CONTENT_TYPE, value()?);
            return Ok(());
        }
        let known = VOUCHED.iter().find(|(known, _)| known.as_bytes() == name);
        let name = match known {
            Some((_, header)) => Some(HeaderName::from_static(header)),
            None => param(name),
        };
        if let Some(name) = name {
            self.vouched.insert(name, value()?);
        }
        Ok(())
    }

    fn scheme(&self) -> Scheme {
        let is = |value: Option<&[u8]>, expected: &[&str]| {
            let same =
                |one: &&str| value.is_some_and(|value| value.eq_ignore_ascii_case(one.as_bytes()));
            expected.iter().any(same)
        };
        let is_https = is(self.https, &["on", "1", "https"]) || is(self.request_scheme, &["https"]);
        match is_https {
            true => Scheme::Https,
            false => Scheme::Http,
        }
    }

    fn length(&self) -> Result<Option<u64>, Unclear> {
        // Caddy says -1 of a body whose length nobody knows.
        let Some(value) = self.content_length.filter(|value| *value != b"-1") else {
            return Ok(None);
        };
        let is_number = value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| is_number);
        let number = number.and_then(|text| text.parse().ok());
        number.map(Some).ok_or(Unclear::Length)
    }

    /// The target as the client wrote it; where the web server does not say, what it made of it.
    fn uri(&self) -> Result<Uri, Unclear> {
        let target = match self.request_uri {
            Some(target) => Cow::Borrowed(target),
            None => Cow::Owned(self.decoded()?.into_bytes()),
        };
        let is_target = target.starts_with(b"/") || self.request_uri.is_some();
        let uri = Uri::try_from(&*target).ok().filter(|_| is_target);
        uri.ok_or(Unclear::Path)
    }

    /// `SCRIPT_NAME` and `PATH_INFO` come decoded, the query does not (RFC 3875 §4.1.5, §4.1.7).
    fn decoded(&self) -> Result<String, Unclear> {
        let path = [self.script_name, self.path_info].concat();
        // What reads a path as a text that ends there sees another one.
        if path.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return Err(Unclear::Path);
        }
        let mut target = percent_encode(&path, &NOT_IN_PATHS).to_string();
        if let Some(query) = self.query.and_then(|query| std::str::from_utf8(query).ok()) {
            target.push('?');
            target.push_str(query);
        }
        Ok(target)
    }

    /// What is asked for, and of which host. A target that names one (Apache passes it as it was written) wins
    /// over `Host` (RFC 9112 §3.2.2), and the web server's own word over both.
    fn target(&self, scheme: Scheme) -> Result<(Uri, HeaderValue), Unclear> {
        let uri = self.uri()?;
        let Some(authority) = uri.authority() else {
            return Ok((uri, self.host(scheme)?));
        };
        if uri.scheme().is_none() {
            return Err(Unclear::Path);
        }
        let host = match self.realm_host {
            Some(_) => self.host(scheme)?,
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

    /// The host that the client asked for. What realm's own snippets for web servers say comes first: that
    /// is the host by which the server chose.
    fn host(&self, scheme: Scheme) -> Result<HeaderValue, Unclear> {
        let named = || {
            let name = self.server_name?;
            let usual: &[u8] = match scheme {
                Scheme::Http => b"80",
                Scheme::Https => b"443",
            };
            Some(match self.server_port {
                Some(port) if port != usual => Cow::Owned([name, b":", port].concat()),
                Some(_) | None => Cow::Borrowed(name),
            })
        };
        let asked = self.realm_host.or(self.http_host).map(Cow::Borrowed);
        let host = asked.or_else(named).ok_or(Unclear::Host)?;
        HeaderValue::from_bytes(&host).map_err(|_| Unclear::Host)
    }
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

/// `APP_ENV` → `x-realm-param-app-env`; `None`: it is no word of the operator's.
fn param(name: &[u8]) -> Option<HeaderName> {
    let name = std::str::from_utf8(name).ok()?;
    // As variables are written: two that differ in case would be one header.
    let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_own =
        !name.is_empty() && KNOWN.binary_search(&name).is_err() && name.bytes().all(is_plain);
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
    let mut short = [0; SHORT_NAME_BYTES];
    let mut long = Vec::new();
    let bytes = match short.get_mut(..name.len()) {
        Some(short) => short,
        None => {
            long.resize(name.len(), 0);
            &mut long[..]
        }
    };
    bytes.copy_from_slice(name);
    bytes
        .iter_mut()
        .filter(|byte| **byte == b'_')
        .for_each(|byte| *byte = b'-');
    let name = HeaderName::from_bytes(bytes).ok()?;
    let is_said_otherwise = [HOST, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING].contains(&name)
        || name == "proxy"
        || name.as_str().starts_with(VOUCHED_PREFIX);
    (!is_said_otherwise).then_some(name)
}

#[cfg(test)]
mod tests;
