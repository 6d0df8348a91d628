//! A guest's response body, tied to the guest: while it is read the guest may run, when it is
//! dropped half-way the guest ends, and when the guest fails it ends with an error.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::task::AbortHandle;
use wasmtime_wasi_http::WasiBody;

use crate::BoxError;
use crate::cgi::FIELDS_MAX;
use crate::invocation::Shared;
use crate::outcome::{CallError, Outcome};
use crate::replica::Bound;

/// Bytes of a body that nobody will see: what a handler writes that does not know of HEAD.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Time for that: the client has its answer already, and a place of the component is taken.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends the guest's task, if it has one, unless it is disarmed.
pub(crate) struct EndOnDrop {
    task: Option<AbortHandle>,
    shared: Arc<Shared>,
}

impl EndOnDrop {
    pub(crate) fn new(task: Option<AbortHandle>, shared: Arc<Shared>) -> Self {
        Self { task, shared }
    }

    fn disarm(&mut self) {
        self.task = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            // First: a guest that notices that its reader is gone may still return in good order.
            self.shared.conclude(Outcome::Cancelled);
            task.abort();
        }
    }
}

/// What one look at a guest's body gave; `None`: its end.
pub(crate) type Read = Option<Result<Frame<Bytes>, wasmtime_wasi_http::Error>>;

/// The body that the edge reads.
pub(crate) struct ResponseBody {
    /// Dropped before `body`, through which the guest would see that its reader is gone.
    guest: EndOnDrop,
    body: WasiBody,
    /// What was read of it already.
    first: Option<Read>,
    /// Bytes that `content-length` promises and that were not read yet.
    left: Option<u64>,
    ended: bool,
    /// What it may be at most, and the bytes that are left of that.
    bound: Option<(Arc<Bound>, u64)>,
}

impl ResponseBody {
    pub(crate) fn new(
        headers: &HeaderMap,
        body: WasiBody,
        first: Option<Read>,
        guest: EndOnDrop,
    ) -> Self {
        let length = headers.get(header::CONTENT_LENGTH);
        Self {
            body,
            first,
            left: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            ended: false,
            bound: None,
            guest,
        }
    }

    /// The same with a size.
    ///
    /// # Errors
    /// Where it says of itself that it is larger.
    pub(crate) fn within(mut self, bound: Arc<Bound>) -> Result<Self, Outcome> {
        let bytes_max = bound.bytes_max;
        if self.left.is_some_and(|left| left > bytes_max) {
            return Err(bound.exceed());
        }
        self.bound = Some((bound, bytes_max));
        Ok(self)
    }

    /// Counts what was read; the outcome where it is too much.
    fn count(&mut self, bytes: u64) -> Result<(), Outcome> {
        let Some((bound, left)) = &mut self.bound else {
            return Ok(());
        };
        *left = left.checked_sub(bytes).ok_or_else(|| bound.exceed())?;
        Ok(())
    }

    /// Whether it says of itself that it is empty.
    pub(crate) fn announces_nothing(&self) -> bool {
        self.left == Some(0)
    }

    /// Reads the body without anyone looking: for answers that have none on the wire, so that the
    /// guest is not cut off. A guest that goes on writing, or takes its time, is.
    pub(crate) async fn drain(mut self) {
        let reading = async {
            let mut read = 0;
            while let Some(Ok(frame)) = self.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > DRAIN_BYTES_MAX {
                    return;
                }
            }
        };
        // Either way the body is dropped next, and the guest with it.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
    }

    /// The body was read whole: the guest may go on with what it does after its answer.
    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.guest.disarm();
            self.guest.shared.end_body();
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // Before the body is asked: who registers later misses what happens in between.
        self.guest.shared.watch(context.waker());
        let read = match self.first.take() {
            Some(first) => Poll::Ready(first),
            None => Pin::new(&mut self.body).poll_frame(context),
        };
        match read {
            Poll::Ready(Some(Ok(frame))) => {
                if has_too_many_trailers(&frame) {
                    self.guest.shared.conclude(Outcome::BadResponse);
                    return Poll::Ready(Some(Err(failed(Outcome::BadResponse))));
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                if let Err(outcome) = self.count(bytes) {
                    return Poll::Ready(Some(Err(failed(outcome))));
                }
                if let (Some(left), Some(data)) = (self.left.as_mut(), frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                // Who knows the length does not ask again after the last byte.
                if self.left == Some(0) || frame.is_trailers() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Box::new(error)))),
            Poll::Ready(None) => match self.guest.shared.failure() {
                // A store that is torn down closes its body as a finished one does.
                Some(outcome) if !self.ended => Poll::Ready(Some(Err(failed(outcome)))),
                None if self.left.is_some_and(|left| left > 0) => {
                    Poll::Ready(Some(Err(failed(Outcome::BadResponse))))
                }
                Some(_) | None => {
                    self.end();
                    Poll::Ready(None)
                }
            },
            Poll::Pending => match self.guest.shared.failure() {
                Some(outcome) if !self.ended => Poll::Ready(Some(Err(failed(outcome)))),
                Some(_) | None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Whether a body ends with more fields than a head may have.
pub(crate) fn has_too_many_trailers(frame: &Frame<Bytes>) -> bool {
    let trailers = frame.trailers_ref();
    trailers.is_some_and(|trailers| trailers.len() > FIELDS_MAX)
}

fn failed(outcome: Outcome) -> BoxError {
    Box::new(CallError::from(outcome))
}
