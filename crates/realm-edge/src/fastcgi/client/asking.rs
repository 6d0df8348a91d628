//! A request as an application of FastCGI hears it: the beginning, and the parameters of CGI/1.1
//! (RFC 3875 §4.1). Its body follows, and is not here.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName};
use http::request::Parts;
use http::{StatusCode, Version};
use realm_model::upstream::Scripts;

use super::super::params;
use super::super::record::{self, CONTENT_BYTES_MAX, Kind};
use super::replies::ID;
use super::script::{self, BadPath};
use crate::backend::CallError;
use crate::headers::X_FORWARDED_FOR;

const RESPONDER: u8 = 1;
const KEEP_CONNECTION: u8 = 1;

/// The bytes up to the body. `length` is what the body has.
pub(super) fn begin(
    parts: &Parts,
    length: u64,
    scripts: &Scripts,
    keep: bool,
) -> Result<Bytes, CallError> {
    let script = script::of(parts.uri.path(), scripts).map_err(|BadPath| {
        let message = "the path has a control character, or `.` or `..`, once it is decoded";
        CallError::new(StatusCode::BAD_REQUEST, "bad-path", message)
    })?;
    let mut out = Pairs::begin(keep);
    let root = scripts.root.as_bytes();
    let path = parts.uri.path_and_query();
    let authority = parts.uri.authority();
    let is_https = parts.uri.scheme_str() == Some("https");
    let port = authority.and_then(http::uri::Authority::port_u16);
    let port = port.unwrap_or(if is_https { 443 } else { 80 });
    out.put(b"GATEWAY_INTERFACE", b"CGI/1.1")?;
    out.put(b"SERVER_SOFTWARE", b"realm")?;
    out.put(b"SERVER_PROTOCOL", protocol(parts.version))?;
    out.put(
        b"SERVER_NAME",
        authority.map_or("localhost", |one| one.host()).as_bytes(),
    )?;
    out.put(b"SERVER_PORT", port.to_string().as_bytes())?;
    out.put(b"REQUEST_SCHEME", if is_https { b"https" } else { b"http" })?;
    if is_https {
        out.put(b"HTTPS", b"on")?;
    }
    out.put(b"REMOTE_ADDR", client(&parts.headers).as_bytes())?;
    out.put(b"REQUEST_METHOD", parts.method.as_str().as_bytes())?;
    out.put(
        b"REQUEST_URI",
        path.map_or("/", |one| one.as_str()).as_bytes(),
    )?;
    out.put(
        b"QUERY_STRING",
        parts.uri.query().unwrap_or_default().as_bytes(),
    )?;
    out.put(b"DOCUMENT_ROOT", root)?;
    out.put(b"DOCUMENT_URI", &[&script.name[..], &script.info].concat())?;
    out.put(b"SCRIPT_NAME", &script.name)?;
    out.put(b"SCRIPT_FILENAME", &[root, &script.name].concat())?;
    if !script.info.is_empty() {
        out.put(b"PATH_INFO", &script.info)?;
        out.put(b"PATH_TRANSLATED", &[root, &script.info].concat())?;
    }
    // PHP that was built to be safe behind redirects answers nothing without it.
    out.put(b"REDIRECT_STATUS", b"200")?;
    // Always: without it php-fpm waits for the body of a request that has none.
    out.put(b"CONTENT_LENGTH", length.to_string().as_bytes())?;
    if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
        out.put(b"CONTENT_TYPE", kind.as_bytes())?;
    }
    for name in parts.headers.keys() {
        if let Some(variable) = variable(name) {
            out.put(variable.as_bytes(), &value(&parts.headers, name))?;
        }
    }
    Ok(out.end())
}

const fn protocol(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2.0",
        _ => b"HTTP/1.1",
    }
}

/// Who asks: whom the nearest proxy names that is trusted, else who is connected. What stands further to
/// the left may be a stranger's word.
fn client(headers: &HeaderMap) -> String {
    let story = headers
        .get(X_FORWARDED_FOR)
        .and_then(|value| value.to_str().ok());
    let hops = story.unwrap_or_default().rsplit(',').map(str::trim);
    let mut addresses = hops.map(|hop| hop.parse::<std::net::IpAddr>().ok());
    let peer = addresses.next().flatten();
    let before = addresses.next().flatten();
    let address = before.or(peer).unwrap_or([127, 0, 0, 1].into());
    address.to_string()
}

/// The variable of a header. `None`: it has another one, or none: `Proxy` would be taken for a setting
/// (httpoxy), and of `a_b` and `a-b` nobody knows which one was meant.
fn variable(name: &HeaderName) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let has_none = *name == CONTENT_TYPE || *name == CONTENT_LENGTH || name.as_str() == "proxy";
    if has_none || !name.as_str().bytes().all(is_plain) {
        return None;
    }
    let upper = name.as_str().to_ascii_uppercase();
    Some(format!("HTTP_{}", upper.replace('-', "_")))
}

/// All values of a header, as one.
fn value(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let between: &[u8] = match *name == COOKIE {
        true => b"; ",
        false => b", ",
    };
    let values: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(|one| one.as_bytes())
        .collect();
    values.join(between)
}

/// Parameters, as records: a pair stands in one of them, because php-fpm reads each for itself.
struct Pairs {
    out: BytesMut,
    record: BytesMut,
    pair: BytesMut,
}

impl Pairs {
    fn begin(keep: bool) -> Self {
        let mut out = BytesMut::new();
        let flags = if keep { KEEP_CONNECTION } else { 0 };
        record::put(
            &mut out,
            Kind::BeginRequest,
            ID,
            &[0, RESPONDER, flags, 0, 0, 0, 0, 0],
        );
        Self {
            out,
            record: BytesMut::new(),
            pair: BytesMut::new(),
        }
    }

    fn put(&mut self, name: &[u8], value: &[u8]) -> Result<(), CallError> {
        self.pair.clear();
        let fits = params::put(&mut self.pair, name, value);
        if !fits || self.pair.len() > CONTENT_BYTES_MAX {
            return Err(too_large());
        }
        if self.record.len() + self.pair.len() > CONTENT_BYTES_MAX {
            self.flush();
        }
        self.record.extend_from_slice(&self.pair);
        Ok(())
    }

    fn flush(&mut self) {
        record::put(&mut self.out, Kind::Params, ID, &self.record);
        self.record.clear();
    }

    fn end(mut self) -> Bytes {
        if !self.record.is_empty() {
            self.flush();
        }
        // The end of the stream.
        self.flush();
        self.out.freeze()
    }
}

fn too_large() -> CallError {
    CallError::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers-too-large",
        "a header or the path is longer than FastCGI can say",
    )
}
