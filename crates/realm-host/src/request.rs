//! A request as a guest sees it: one absolute URI, and a body that is counted.
//!
//! The same for WASI 0.2 and 0.3, which read scheme and authority from different places.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, header};
use http_body::{Body as _, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use crate::invocation::Shared;
use crate::outcome::Outcome;
use crate::{Body, BoxError};

/// What an HTTP/1.0 client that names no host asked for.
const NO_AUTHORITY: &str = "localhost";

/// Gives the request an absolute URI: from its URI where that is absolute (HTTP/2, or the edge),
/// else from the `Host` header.
pub(crate) fn absolute(request: &mut Request<Body>) -> Result<(), Outcome> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if parts.authority.is_none() {
        let authority = match request.headers().get(header::HOST) {
            Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| Outcome::BadRequest)?,
            None => Authority::from_static(NO_AUTHORITY),
        };
        parts.authority = Some(authority);
    }
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Outcome::BadRequest)?;
    Ok(())
}

/// Whether the announced length alone is too much.
pub(crate) fn announces_too_much(request: &Request<Body>, bytes_max: u64) -> bool {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    announced.is_some_and(|length| length > bytes_max)
        || request.body().size_hint().lower() > bytes_max
}

/// A request body that ends with an error where it gets too large.
pub(crate) struct RequestBody {
    body: Body,
    left: u64,
    shared: Arc<Shared>,
}

impl RequestBody {
    pub(crate) fn new(body: Body, bytes_max: u64, shared: Arc<Shared>) -> Self {
        Self {
            body,
            left: bytes_max,
            shared,
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.shared.let_go_of_request();
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            // The reason belongs to the edge; a guest needs to know that there is no more. That it is not
            // the guest's fault is for the operator.
            Some(Err(error)) => {
                if is_late(&error) {
                    self.shared.refuse_body(Outcome::RequestTimeout);
                }
                return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
            }
            None => return Poll::Ready(None),
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.left = 0;
                self.body = Body::default();
                self.shared.refuse_body(Outcome::RequestTooLarge);
                Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether whoever hands the body over gave up waiting for the client.
fn is_late(error: &BoxError) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[track_caller]
    fn check(uri: &str, host: Option<&str>, expected: Result<&str, Outcome>) {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let mut request = request.body(Body::default()).unwrap();
        let result = absolute(&mut request).map(|()| request.uri().to_string());
        assert_eq!(result, expected.map(str::to_owned));
    }

    #[test]
    fn a_request_names_its_target_once() {
        check("/a?b", Some("x.example:81"), Ok("http://x.example:81/a?b"));
        check(
            "https://y.example/a",
            Some("x.example"),
            Ok("https://y.example/a"),
        );
        check("/", None, Ok("http://localhost/"));
        check("*", Some("x.example"), Ok("http://x.example*"));
        check("/", Some("a b"), Err(Outcome::BadRequest));
    }

    #[tokio::test]
    async fn a_body_ends_where_it_gets_too_large() {
        let pieces = [3, 3, 3]
            .map(|bytes| Ok::<_, crate::BoxError>(Frame::data(Bytes::from(vec![0; bytes]))));
        let stream = http_body_util::StreamBody::new(futures_util::stream::iter(pieces));
        let shared = Shared::new();
        let mut head = shared.expect_head();
        let mut body = RequestBody::new(Body::new(stream), 8, Arc::clone(&shared));
        for _ in 0..2 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::HttpRequestBodySize(_)), "{error}");
        assert!(body.frame().await.is_none());
        // Whoever waits for the answer gets this one, whatever the guest makes of the error.
        assert_eq!(
            head.try_recv().unwrap().unwrap_err(),
            Outcome::RequestTooLarge
        );
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_the_clients_fault() {
        use std::io::ErrorKind::{ConnectionReset, TimedOut};
        for (kind, expected) in [
            (TimedOut, Some(Outcome::RequestTimeout)),
            (ConnectionReset, None),
        ] {
            let error: crate::BoxError = std::io::Error::from(kind).into();
            let stream = futures_util::stream::iter([Err::<Frame<Bytes>, _>(error)]);
            let stream = http_body_util::StreamBody::new(stream);
            let shared = Shared::new();
            let mut head = shared.expect_head();
            let mut body = RequestBody::new(Body::new(stream), 8, Arc::clone(&shared));
            let error = body.frame().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::ConnectionTerminated), "{error}");
            let answer = head.try_recv().ok().map(Result::unwrap_err);
            assert_eq!(answer, expected, "{kind}");
        }
    }
}
