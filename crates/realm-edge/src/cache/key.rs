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
const RENAMING: [&str; 5] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
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
    for (name, value) in told {
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
