//! What tells one request from another: everything that its component sees and does not name in `Vary`
//! by itself. And which requests are not for the cache at all.
//!
//! Nothing is normalised that the component sees as it was sent: it may make something of it, and what it
//! made for one spelling is not for who uses another.

use http::header::{CACHE_CONTROL, HeaderMap, IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{Method, Request};
use realm_model::observed::Revision;

use super::policy::is_identity;
use super::store::Key;
use crate::backend::RoutePrefix;
use crate::headers::VOUCHED_PREFIX;

/// Headers by which some frameworks take another request for the one that was made.
const RENAMING: [&str; 8] = [
    "x-http-method",
    "x-http-method-override",
    "x-http-path-override",
    "x-method-override",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// Headers of which some frameworks make links, and which nobody names in `Vary`. Proxies write some of them
/// into each request.
const LINKING: [&str; 8] = [
    "front-end-https",
    "x-forwarded",
    "x-host",
    "x-http-host-override",
    "x-original-host",
    "x-scheme",
    "x-script-name",
    "x-url-scheme",
];

/// Whether an answer to this could be for somebody else, or somebody else's for this: a plain GET or HEAD of
/// all of something, without a body.
pub(super) fn is_for_cache(request: &Request<()>, has_body: bool) -> bool {
    let headers = request.headers();
    let is_conditional = [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE];
    [Method::GET, Method::HEAD].contains(request.method())
        && !has_body
        && !is_conditional.iter().any(|name| headers.contains_key(name))
        && !RENAMING.iter().any(|name| headers.contains_key(*name))
}

/// What is asked for, whoever answers: what an unsafe method invalidates.
pub(super) fn uri(app: &str, host: &str, request: &Request<()>) -> Vec<u8> {
    let target = request.uri().path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    // No name and no host has a zero byte.
    [
        app.as_bytes(),
        b"\0",
        host.as_bytes(),
        b"\0",
        target.as_bytes(),
    ]
    .concat()
}

pub(super) fn key(uri: Vec<u8>, edition: Revision, request: &Request<()>) -> Key {
    let mut base = edition.0.as_bytes().to_vec();
    let mut add = |part: &[u8]| {
        base.extend_from_slice(&part.len().to_le_bytes());
        base.extend_from_slice(part);
    };
    add(request.uri().scheme_str().unwrap_or_default().as_bytes());
    // With its case and its port: links are made of it.
    let authority = request.uri().authority();
    let authority = authority.map_or("", |authority| authority.as_str());
    add(authority.as_bytes());
    let prefix = request.extensions().get::<RoutePrefix>();
    add(&prefix.map_or(0, |prefix| prefix.0).to_le_bytes());
    let mut told: Vec<(&str, &[u8])> = vouched(request.headers()).collect();
    told.sort_unstable();
    let linking = LINKING.iter().flat_map(|name| {
        let lines = request.headers().get_all(*name).iter();
        lines.map(|line| (*name, line.as_bytes()))
    });
    for (name, value) in told.into_iter().chain(linking) {
        add(name.as_bytes());
        add(value);
    }
    Key {
        uri: uri.into(),
        base: base.into(),
    }
}

/// What a web server says of a request, but for who makes it: that is dealt with as `Authorization` is.
fn vouched(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    let said = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    said.filter(|(name, _)| name.starts_with(VOUCHED_PREFIX) && !is_identity(name))
}

/// Whether the client wants nothing that would have to be asked for.
pub(super) fn is_only_if_cached(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|line| {
        let mut words = line.as_bytes().split(|byte| *byte == b',');
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"only-if-cached"))
    })
}

#[cfg(test)]
mod tests {
    use realm_model::digest::Digest;

    use super::*;

    fn asking(headers: &[(&'static str, &'static str)], prefix: usize) -> Key {
        of("app", "a.example", "one", headers, prefix)
    }

    fn of(
        app: &str,
        host: &str,
        edition: &str,
        headers: &[(&'static str, &'static str)],
        prefix: usize,
    ) -> Key {
        let mut request = Request::new(());
        *request.uri_mut() = "http://a.example/x?y".parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        if prefix > 0 {
            request.extensions_mut().insert(RoutePrefix(prefix));
        }
        let edition = Revision(Digest::of(edition.as_bytes()));
        key(uri(app, host, &request), edition, &request)
    }

    #[test]
    fn all_that_a_component_sees_and_nobody_names_tells_requests_apart() {
        let plain = asking(&[], 0);
        assert_eq!(plain, asking(&[("accept", "*/*"), ("cookie", "a=b")], 0));
        // How much of the path its route names: links are made of it.
        assert_ne!(plain, asking(&[], 2));
        // What a web server vouches for, but for who it is: that is dealt with as `Authorization` is.
        let over = |version| asking(&[("x-realm-ssl-protocol", version)], 0);
        assert_ne!(plain, over("TLSv1.3"));
        assert_ne!(over("TLSv1.2"), over("TLSv1.3"));
        assert_eq!(plain, asking(&[("x-realm-remote-user", "anna")], 0));
        let two = [("x-realm-a", "1"), ("x-realm-b", "2")];
        assert_eq!(asking(&two, 0), asking(&[two[1], two[0]], 0));
        assert_ne!(
            asking(&two, 0),
            asking(&[("x-realm-a", "2"), ("x-realm-b", "1")], 0)
        );
        for other in [
            of("other", "a.example", "one", &[], 0),
            of("app", "b.example", "one", &[], 0),
        ] {
            // And no change of one is one of the other.
            assert_ne!(plain.uri, other.uri);
        }
        let next = of("app", "a.example", "two", &[], 0);
        assert_eq!(plain.uri, next.uri);
        assert_ne!(plain.base, next.base);
    }
}
