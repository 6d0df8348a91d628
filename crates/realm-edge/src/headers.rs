//! Headers that belong to one connection, and headers that tell a request's way: removed before a
//! guest or a client sees them. Not what is put in their place; that is `answer`'s.

use http::header::{
    CONNECTION, EXPECT, FORWARDED, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The code of an answer that the edge gave in a backend's place.
pub(crate) const REALM_ERROR: HeaderName = HeaderName::from_static("realm-error");
/// What TCP proxies in front of HTTP servers set by custom; a guest may believe it.
const X_REAL_IP: &str = "x-real-ip";
const X_FORWARDED: &str = "x-forwarded-";

/// Removes what belongs to the client's connection, and keeps `TE: trailers`, which a guest may
/// act on. `Expect: 100-continue` is the edge's to answer.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    if !headers.keys().any(is_connection_bound) {
        return;
    }
    let wants_trailers = headers.get_all(TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    strip(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what belongs to a backend's connection, or is the edge's word.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    if headers
        .keys()
        .any(|name| is_connection_bound(name) || *name == REALM_ERROR)
    {
        strip(headers);
        headers.remove(REALM_ERROR);
    }
}

/// Removes from trailers what HTTP/2 forbids and HTTP/1 would misread.
pub(crate) fn strip_trailers(headers: &mut HeaderMap) {
    if headers.keys().any(is_connection_bound) {
        strip(headers);
    }
}

/// Removes the client's story of its way; a peer that is no trusted proxy may not tell one.
pub(crate) fn strip_forwarded(headers: &mut HeaderMap) {
    remove_where(headers, |name| {
        *name == FORWARDED || name.as_str() == X_REAL_IP || name.as_str().starts_with(X_FORWARDED)
    });
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
mod tests {
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
}
