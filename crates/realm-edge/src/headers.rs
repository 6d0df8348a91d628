//! Headers that belong to one connection, that tell a request's way, that guests misread or that
//! no trailer may carry: removed before a guest or a client sees them. And the check that a body
//! has one end. Not what is put in their place; that is `origin`'s.

use http::Version;
use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, DATE, EXPECT, EXPIRES, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, LOCATION, MAX_FORWARDS, PRAGMA, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE,
    RETRY_AFTER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY, WARNING,
    WWW_AUTHENTICATE,
};

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The code of an answer that the edge gave in a backend's place.
pub(crate) const REALM_ERROR: HeaderName = HeaderName::from_static("realm-error");
/// Of a request that comes from another node: the component that it is for.
pub(crate) const REALM_TO: HeaderName = HeaderName::from_static("realm-to");
/// And the bytes of the path that its route names.
pub(crate) const REALM_PREFIX: HeaderName = HeaderName::from_static("realm-prefix");
/// Of an answer: the other node has none of a guest; its code is in `realm-error`, what happened here.
pub(crate) const REALM_REFUSED: HeaderName = HeaderName::from_static("realm-refused");
/// Another node may have one: the guest never had the request.
pub(crate) const REALM_AGAIN: HeaderName = HeaderName::from_static("realm-again");
/// Of an answer: the revision of the component that gave it, where that is one alone.
pub(crate) const REALM_EDITION: HeaderName = HeaderName::from_static("realm-edition");
/// Asks for [`REALM_PATH`]: a caller on this machine, or behind a trusted proxy.
pub(crate) const REALM_TRACE: HeaderName = HeaderName::from_static("realm-trace");
/// The nodes that were asked, in order; `here` is the one that answers the client.
pub(crate) const REALM_PATH: HeaderName = HeaderName::from_static("realm-path");
/// What headers begin with that a web server in front vouches for: who its client is.
pub(crate) const VOUCHED_PREFIX: &str = "x-realm-";
/// What TCP proxies in front of HTTP servers set by custom; a guest may believe it.
const X_REAL_IP: &str = "x-real-ip";
const X_FORWARDED: &str = "x-forwarded-";

/// Whether everyone who reads the request sees the same end of its body: without
/// `Transfer-Encoding`, or with `chunked` once and alone. hyper takes all that ends in `chunked`,
/// but `identity, chunked` and `chunked, chunked` are read otherwise elsewhere.
pub(crate) fn is_framing_clear(version: Version, headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            version == Version::HTTP_11
                && coding
                    .as_bytes()
                    .trim_ascii()
                    .eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

/// Removes what belongs to the client's connection and what guests misread, and keeps
/// `TE: trailers`, which a guest may act on. `Expect: 100-continue` is the edge's to answer.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    if !headers
        .keys()
        .any(|name| is_connection_bound(name) || is_misread(name) || is_between_nodes(name))
    {
        return;
    }
    let wants_trailers = headers.get_all(TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    strip(headers);
    remove_where(headers, |name| is_misread(name) || is_between_nodes(name));
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what belongs to a backend's connection, or is the edge's word.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    if headers
        .keys()
        .any(|name| is_connection_bound(name) || *name == REALM_ERROR || is_between_nodes(name))
    {
        strip(headers);
        remove_where(headers, |name| {
            *name == REALM_ERROR || is_between_nodes(name)
        });
    }
}

/// Removes from a request's trailers what only a head may say, the client's story of its way
/// included: a guest may merge trailers into the head that the edge made trustworthy.
pub(crate) fn strip_request_trailers(headers: &mut HeaderMap) {
    remove_where(headers, |name| {
        is_for_heads_only(name)
            || is_story_of_way(name)
            || is_misread(name)
            || name.as_str().starts_with(VOUCHED_PREFIX)
    });
}

/// Removes from a response's trailers what only a head may say.
pub(crate) fn strip_response_trailers(headers: &mut HeaderMap) {
    remove_where(headers, |name| {
        is_for_heads_only(name) || *name == REALM_ERROR
    });
}

/// Removes what only a web server in front may say, who vouches for it.
pub(crate) fn strip_vouched(headers: &mut HeaderMap) {
    remove_where(headers, |name| name.as_str().starts_with(VOUCHED_PREFIX));
}

/// Removes the client's story of its way; a peer that is no trusted proxy may not tell one.
pub(crate) fn strip_forwarded(headers: &mut HeaderMap) {
    remove_where(headers, is_story_of_way);
}

/// What nodes say to each other: no word of clients and guests.
fn is_between_nodes(name: &HeaderName) -> bool {
    [
        REALM_TO,
        REALM_PREFIX,
        REALM_REFUSED,
        REALM_AGAIN,
        REALM_EDITION,
        REALM_PATH,
    ]
    .contains(name)
}

fn is_story_of_way(name: &HeaderName) -> bool {
    *name == FORWARDED || name.as_str() == X_REAL_IP || name.as_str().starts_with(X_FORWARDED)
}

/// Names that a guest with CGI's conventions (RFC 3875 §4.1.18) takes for others:
/// `X_Forwarded_For` and `X-Forwarded-For` are both `HTTP_X_FORWARDED_FOR` to it, and `Proxy` is
/// `HTTP_PROXY`, which many programs obey ("httpoxy"). Some runtimes turn every odd character into
/// an underscore, so only letters, digits and `-` pass, as nginx and Apache have it by default.
fn is_misread(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "proxy"
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// What RFC 9110 §6.5.1 keeps out of trailers: framing, routing, authentication, request
/// modifiers, response controls and content format.
fn is_for_heads_only(name: &HeaderName) -> bool {
    is_connection_bound(name)
        || name.as_str().starts_with("if-")
        || [
            AGE,
            AUTHORIZATION,
            CACHE_CONTROL,
            CONTENT_ENCODING,
            CONTENT_LENGTH,
            CONTENT_RANGE,
            CONTENT_TYPE,
            COOKIE,
            DATE,
            EXPIRES,
            HOST,
            LOCATION,
            MAX_FORWARDS,
            PRAGMA,
            RANGE,
            RETRY_AFTER,
            SET_COOKIE,
            TRAILER,
            VARY,
            WARNING,
            WWW_AUTHENTICATE,
        ]
        .contains(name)
}

/// RFC 9110 §7.6.1, and `Proxy-*`. `Trailer` is kept: it announces what the body carries.
fn is_connection_bound(name: &HeaderName) -> bool {
    matches!(
        *name,
        CONNECTION | TE | TRANSFER_ENCODING | UPGRADE | EXPECT
    ) || *name == PROXY_AUTHENTICATE
        || *name == PROXY_AUTHORIZATION
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "proxy-authentication-info"
        )
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|item| HeaderName::from_bytes(item.trim_ascii()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove_where(headers, is_connection_bound);
}

fn remove_where(headers: &mut HeaderMap, is_removed: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| is_removed(name)).cloned() {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
