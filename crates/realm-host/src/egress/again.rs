//! A request that can be sent once more: a connection that had waited may be closed by the other
//! side just when the next request is on its way.
//!
//! Only what does no harm twice (RFC 9110, idempotent methods), and only while nothing of its body
//! is gone. Not here: when to try (`send`).

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use wasmtime_wasi_http::{Error, WasiBody};

/// What is needed to send a request once more.
pub(super) struct Again {
    head: Request<()>,
    body: Arc<Mutex<Kept>>,
}

/// A body that is being sent.
struct Kept {
    body: WasiBody,
    /// Whether a part of it is gone.
    is_begun: bool,
    is_over: bool,
}

/// The body as it is sent.
struct Sending(Arc<Mutex<Kept>>);

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn empty() -> WasiBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

impl Again {
    /// The request as it is sent, and what is kept of it.
    pub(super) fn keep(request: Request<WasiBody>) -> (Request<WasiBody>, Option<Self>) {
        if !request.method().is_idempotent() {
            return (request, None);
        }
        let (parts, body) = request.into_parts();
        let body = Arc::new(Mutex::new(Kept {
            body,
            is_begun: false,
            is_over: false,
        }));
        let again = Self {
            head: Request::from_parts(parts.clone(), ()),
            body: Arc::clone(&body),
        };
        let request = Request::from_parts(parts, Sending(body).boxed_unsync());
        (request, Some(again))
    }

    /// The same request, if nothing of its body is gone.
    pub(super) fn request(self) -> Option<Request<WasiBody>> {
        let mut kept = lock(&self.body);
        if kept.is_begun {
            return None;
        }
        let body = std::mem::replace(&mut kept.body, empty());
        let body = if kept.is_over { empty() } else { body };
        drop(kept);
        Some(self.head.map(|()| body))
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut kept = lock(&self.0);
        let polled = Pin::new(&mut kept.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(_)) => kept.is_begun = true,
            Poll::Ready(None) => kept.is_over = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn request(method: &str, body: &'static str) -> Request<WasiBody> {
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
        let request = Request::builder().method(method).uri("http://a/b");
        request.body(body.boxed_unsync()).unwrap()
    }

    /// Whether a request can be sent again after so many frames of its body, and what it is then.
    async fn check(method: &str, body: &'static str, frames: usize, expected: Option<&str>) {
        let (sent, again) = Again::keep(request(method, body));
        let mut sent = sent.into_body();
        for _ in 0..frames {
            sent.frame().await;
        }
        drop(sent);
        let again = again.and_then(Again::request);
        let text = match again {
            Some(again) => {
                assert_eq!(
                    (again.method().as_str(), again.uri().path()),
                    (method, "/b")
                );
                let bytes = again.into_body().collect().await.unwrap().to_bytes();
                Some(String::from_utf8(bytes.to_vec()).unwrap())
            }
            None => None,
        };
        assert_eq!(text.as_deref(), expected, "{method} {body} {frames}");
    }

    #[tokio::test]
    async fn what_does_no_harm_twice_is_sent_again_while_it_is_whole() {
        check("GET", "", 0, Some("")).await;
        check("GET", "", 1, Some("")).await;
        check("PUT", "text", 0, Some("text")).await;
        check("PUT", "text", 1, None).await;
        check("POST", "", 0, None).await;
        check("PATCH", "text", 0, None).await;
    }
}
