//! Whether an answer may be used again, for how long, and for whom (RFC 9111): pure, with time as an
//! argument. Not where it is kept.
//!
//! Stricter than the standard allows: nothing without an explicit time, nothing with `Set-Cookie`. What a
//! client says in `Cache-Control` is advice (§5.2.1) that would let anybody past the cache, and is not taken.

use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use http::header::{
    AGE, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    EXPIRES, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    SET_COOKIE, TRAILER, VARY,
};

use super::directives::Directives;

/// Headers that one answer may vary by: real ones name three.
const VARY_MAX: usize = 16;
/// And bytes of their values in one request.
const VARY_BYTES_MAX: usize = 4 * 1024;
/// An answer that is older than this came from a broken clock or a broken cache.
const AGE_MAX: u64 = 1 << 31;

/// What a web server or a certificate vouches for: answers to it are somebody's, like those to
/// `Authorization`.
const IDENTITIES: [&str; 2] = ["x-realm-remote-user", "x-realm-auth-type"];
const IDENTITY_PREFIX: &str = "x-realm-ssl-client-";

/// How long an answer may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// When it came.
    at: Instant,
    /// How old it was then.
    age: Duration,
    lifetime: Duration,
    /// No stale answer, come what may.
    is_strict: bool,
    while_revalidate: Duration,
    if_error: Duration,
}

/// How an answer stands at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// For so long.
    Fresh(Duration),
    /// Since so long.
    Stale(Duration),
}

/// When an answer came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came {
    /// When it was asked for.
    pub(super) asked: Instant,
    pub(super) at: Instant,
    pub(super) unix: SystemTime,
}

/// What an answer depends on, with the values of the request that it was given to.
pub(super) type Varies = Vec<(HeaderName, Vec<HeaderValue>)>;

impl Policy {
    /// `None`: the answer is not for the cache.
    pub(super) fn of(
        is_somebodys: bool,
        status: StatusCode,
        headers: &HeaderMap,
        came: Came,
    ) -> Option<Self> {
        let said = Directives::of(headers);
        let is_open = said.public || said.must_revalidate || said.s_maxage.is_some();
        let is_kept_out = said.is_kept_out
            || !is_understood(status)
            || headers.contains_key(SET_COOKIE)
            || headers.contains_key(CONTENT_RANGE)
            || headers.contains_key(TRAILER)
            || is_somebodys && !is_open;
        if is_kept_out {
            return None;
        }
        let date = date(headers, &DATE);
        let lifetime = match (said.s_maxage.or(said.max_age), headers.get(EXPIRES)) {
            _ if said.no_cache => Duration::ZERO,
            (Some(seconds), _) => Duration::from_secs(seconds),
            (None, Some(_)) => {
                let expires = self::date(headers, &EXPIRES);
                let from = date.unwrap_or(came.unix);
                expires.map_or(Duration::ZERO, |expires| {
                    expires.duration_since(from).unwrap_or_default()
                })
            }
            // No explicit time, and none is guessed.
            (None, None) => return None,
        };
        let policy = Self {
            at: came.at,
            age: age(headers, date, came),
            lifetime,
            // Who writes `s-maxage` and `stale-while-revalidate` means both, as other shared caches read it.
            is_strict: said.must_revalidate || said.proxy_revalidate || said.no_cache,
            while_revalidate: Duration::from_secs(said.stale_while_revalidate.unwrap_or(0)),
            if_error: Duration::from_secs(said.stale_if_error.unwrap_or(0)),
        };
        let is_of_use = matches!(policy.freshness(came.at), Freshness::Fresh(_))
            || headers.contains_key(ETAG)
            || headers.contains_key(LAST_MODIFIED)
            || policy.may_serve_while_revalidating(Duration::ZERO)
            || policy.may_serve_on_error(Duration::ZERO);
        is_of_use.then_some(policy)
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        self.age
            .saturating_add(now.saturating_duration_since(self.at))
    }

    pub(super) fn freshness(&self, now: Instant) -> Freshness {
        let age = self.age(now);
        match self.lifetime.checked_sub(age) {
            Some(left) if !left.is_zero() => Freshness::Fresh(left),
            Some(_) | None => Freshness::Stale(age.saturating_sub(self.lifetime)),
        }
    }

    /// Whether somebody who waited for it can be given it.
    pub(super) fn is_for_others(&self, now: Instant) -> bool {
        match self.freshness(now) {
            Freshness::Fresh(_) => true,
            Freshness::Stale(past) => self.may_serve_while_revalidating(past),
        }
    }

    pub(super) fn may_serve_while_revalidating(&self, stale: Duration) -> bool {
        !self.is_strict && stale < self.while_revalidate
    }

    pub(super) fn may_serve_on_error(&self, stale: Duration) -> bool {
        !self.is_strict && stale < self.if_error
    }
}

/// Statuses whose meaning does not depend on what this cache cannot do, such as parts.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 302 | 307 | 308 | 404 | 405 | 410 | 414 | 451 | 500..=504
    )
}

/// RFC 9111 §4.2.3.
fn age(headers: &HeaderMap, date: Option<SystemTime>, came: Came) -> Duration {
    let said = headers.get(AGE).map(|age| {
        let text = age.to_str().ok().map(|text| text.trim());
        let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let text = text.filter(|text| !text.is_empty()).filter(is_number);
        // An age that is no number says that it went through a cache that is broken.
        text.map_or(AGE_MAX, |text| text.parse().unwrap_or(AGE_MAX))
    });
    let said = Duration::from_secs(said.unwrap_or(0).min(AGE_MAX));
    let apparent = date.and_then(|date| came.unix.duration_since(date).ok());
    // Dates have whole seconds: a part of one is none.
    let apparent = Duration::from_secs(apparent.unwrap_or_default().as_secs());
    let delay = came.at.saturating_duration_since(came.asked);
    apparent.max(said.saturating_add(delay))
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => httpdate::parse_http_date(line.to_str().ok()?.trim()).ok(),
        (_, _) => None,
    }
}

/// Whether an answer to a request is for who asks alone, unless it says otherwise (RFC 9111 §3.5).
pub(super) fn is_somebodys(request: &HeaderMap) -> bool {
    request.contains_key(AUTHORIZATION) || request.keys().any(|name| is_identity(name.as_str()))
}

pub(super) fn is_identity(name: &str) -> bool {
    IDENTITIES.contains(&name) || name.starts_with(IDENTITY_PREFIX)
}

/// What an answer depends on; `None` if that is too much, or everything.
pub(super) fn varies(answer: &HeaderMap, request: &HeaderMap) -> Option<Varies> {
    let mut names: Vec<HeaderName> = Vec::new();
    for line in answer.get_all(VARY) {
        for name in line.as_bytes().split(|byte| *byte == b',') {
            let name = name.trim_ascii();
            if name.is_empty() {
                continue;
            }
            // `*` is a token as well.
            let name = Some(name).filter(|name| *name != b"*");
            names.push(HeaderName::from_bytes(name?).ok()?);
        }
    }
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    if names.len() > VARY_MAX {
        return None;
    }
    let mut bytes = 0;
    let varies = names.into_iter().map(|name| {
        let lines: Vec<HeaderValue> = request.get_all(&name).iter().cloned().collect();
        bytes += lines.iter().map(HeaderValue::len).sum::<usize>();
        (name, lines)
    });
    let varies: Varies = varies.collect();
    (bytes <= VARY_BYTES_MAX).then_some(varies)
}

/// Whether a request is like the one that an answer was given to.
pub(super) fn is_alike(varies: &Varies, request: &HeaderMap) -> bool {
    varies
        .iter()
        .all(|(name, lines)| request.get_all(name).iter().eq(lines.iter()))
}

/// Whether the client of a GET or HEAD has this answer already (RFC 9110 §13.2.2).
pub(super) fn has_it(request: &HeaderMap, status: StatusCode, answer: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        let etag = answer.get(ETAG).map(|etag| opaque(etag.as_bytes()));
        let lines = request.get_all(IF_NONE_MATCH).iter();
        let mut tags = lines.flat_map(|line| tags(line.as_bytes()));
        return tags.any(|tag| tag == b"*" || Some(opaque(tag)) == etag);
    }
    match (
        date(request, &IF_MODIFIED_SINCE),
        date(answer, &LAST_MODIFIED),
    ) {
        (Some(since), Some(modified)) => modified <= since,
        (_, _) => false,
    }
}

/// Whether the answer 304 is about this one.
pub(super) fn is_still_it(kept: &HeaderMap, answer: &HeaderMap) -> bool {
    let tag = |headers: &HeaderMap| {
        let tag = headers.get(ETAG)?;
        Some(opaque(tag.as_bytes()).to_vec())
    };
    let modified = |headers: &HeaderMap| headers.get(LAST_MODIFIED).cloned();
    match (tag(kept), tag(answer)) {
        (Some(kept), Some(answer)) => kept == answer,
        (None, Some(_)) => false,
        (_, None) => match (modified(kept), modified(answer)) {
            (Some(kept), Some(answer)) => kept == answer,
            (_, None) => true,
            (None, Some(_)) => false,
        },
    }
}

/// The headers of an answer after a 304 about it (RFC 9111 §3.2).
pub(super) fn renewed(kept: &HeaderMap, answer: &HeaderMap) -> HeaderMap {
    let is_of_body = |name: &HeaderName| {
        [
            CONTENT_LENGTH,
            CONTENT_ENCODING,
            CONTENT_TYPE,
            CONTENT_RANGE,
        ]
        .contains(name)
    };
    let mut headers = kept.clone();
    // How old it was then says nothing of it any more, nor when that was.
    headers.remove(AGE);
    headers.remove(DATE);
    for name in answer.keys().filter(|name| !is_of_body(name)) {
        headers.remove(name);
        for value in answer.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// An entity tag without its weakness.
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The entity tags of a list; commas stand within quotes as well.
fn tags(line: &[u8]) -> Vec<&[u8]> {
    let (mut tags, mut begin, mut is_quoted) = (Vec::new(), 0, false);
    for (at, byte) in line.iter().enumerate() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => {
                tags.push(line[begin..at].trim_ascii());
                begin = at + 1;
            }
            _ => {}
        }
    }
    tags.push(line[begin..].trim_ascii());
    tags
}

#[cfg(test)]
mod tests;
