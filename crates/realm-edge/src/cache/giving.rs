//! An answer that is kept, as a client gets it.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    AGE, CACHE_STATUS, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap,
    HeaderValue,
};
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::policy::has_it;
use super::store::Entry;
use crate::backend::{Body, BoxError};
use crate::request_body;

/// Answers with what is kept.
pub(super) fn respond(
    entry: &Arc<Entry>,
    request: &HeaderMap,
    how: &str,
    ttl: i64,
) -> Response<Body> {
    let mut response = Response::new(given(entry));
    *response.status_mut() = entry.status;
    let headers = response.headers_mut();
    headers.clone_from(&entry.headers);
    let age = entry.policy.age(Instant::now()).as_secs();
    headers.insert(AGE, HeaderValue::from(age));
    tell(headers, &format!("realm; {how}; ttl={ttl}"));
    match has_it(request, entry.status, &entry.headers) {
        true => not_modified(response),
        false => response,
    }
}

/// The same for a client that has it already.
pub(super) fn not_modified(response: Response<Body>) -> Response<Body> {
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    for name in [
        CONTENT_LENGTH,
        CONTENT_TYPE,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
    ] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, request_body::empty())
}

/// Adds what this cache did to what others before it did (RFC 9211 §2).
pub(super) fn tell(headers: &mut HeaderMap, what: &str) {
    let mut all = String::new();
    for line in headers.get_all(CACHE_STATUS) {
        if let Ok(line) = line.to_str() {
            let _ = write!(all, "{line}, ");
        }
    }
    all.push_str(what);
    if let Ok(value) = HeaderValue::try_from(all) {
        headers.insert(CACHE_STATUS, value);
    }
}

/// The body of what is kept. As long as it is read, its bytes are not free.
struct Given {
    entry: Arc<Entry>,
    next: usize,
}

pub(super) fn given(entry: &Arc<Entry>) -> Body {
    let entry = Arc::clone(entry);
    Given { entry, next: 0 }.boxed_unsync()
}

impl HttpBody for Given {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = self.entry.body.get(self.next).cloned();
        self.next += 1;
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.entry.body.len()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.entry.body.iter().skip(self.next);
        let left = left.map(|piece| u64::try_from(piece.len()).unwrap_or(u64::MAX));
        SizeHint::with_exact(left.sum())
    }
}
