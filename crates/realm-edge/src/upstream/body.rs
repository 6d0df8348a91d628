//! Bodies on their way to a server and back: counted, bounded in time, and tied to the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::pool::Lease;
use super::{Place, request_too_large, response_too_large, wall_timeout};
use crate::backend::{Body, BoxError, CallError};

/// A request body that ends with an error where it gets too large.
pub(crate) struct RequestBody {
    body: Body,
    left: u64,
    fault: Fault,
}

/// Whether a request body got too large.
#[derive(Clone, Default)]
pub(crate) struct Fault(Arc<AtomicBool>);

impl Fault {
    pub(crate) fn is_too_large(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl RequestBody {
    pub(crate) fn new(body: Body, bytes_max: u64) -> Self {
        Self {
            body,
            left: bytes_max,
            fault: Fault::default(),
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        self.fault.clone()
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)?) else {
            return Poll::Ready(None);
        };
        match take(&mut self.left, &frame) {
            true => Poll::Ready(Some(Ok(frame))),
            false => {
                self.fault.0.store(true, Relaxed);
                Poll::Ready(Some(Err(request_too_large().into())))
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

/// An answer that ends with an error where it gets too large: of that much at most.
///
/// # Errors
/// Where it says of itself that it is larger.
pub(crate) fn within(
    response: Response<Body>,
    is_head: bool,
    bytes_max: Option<u64>,
) -> Result<Response<Body>, CallError> {
    let Some(left) = bytes_max else {
        return Ok(response);
    };
    let has_body = !is_head && response.status() != StatusCode::NOT_MODIFIED;
    let announced = response.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if has_body && announced.is_some_and(|length| length > left) {
        return Err(response_too_large());
    }
    Ok(response.map(|body| {
        Body::new(Bounded {
            body: Some(body),
            left,
        })
    }))
}

/// The body of an answer, until it gets too large: then it is dropped, and the server hears of it.
struct Bounded {
    body: Option<Body>,
    left: u64,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let Some(frame) = ready!(Pin::new(body).poll_frame(context)?) else {
            return Poll::Ready(None);
        };
        match take(&mut self.left, &frame) {
            true => Poll::Ready(Some(Ok(frame))),
            false => {
                self.body = None;
                Poll::Ready(Some(Err(response_too_large().into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

/// Takes a frame off the bytes that may still come; `false`: it is larger than they are.
fn take(left: &mut u64, frame: &Frame<Bytes>) -> bool {
    let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
    let rest = left.checked_sub(bytes);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

/// A server's answer. Read whole, it gives the connection back; dropped before, it closes it, which
/// is how the server learns that nobody reads on.
pub(super) struct ReplyBody {
    body: Incoming,
    lease: Option<Lease>,
    /// `None`: whoever reads it bounds its time.
    wall: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl ReplyBody {
    pub(super) fn new(
        body: Incoming,
        lease: Lease,
        deadline: Option<Instant>,
        place: Place,
    ) -> Self {
        let mut reply = Self {
            body,
            lease: Some(lease),
            wall: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            _place: place,
        };
        reply.settle();
        reply
    }

    /// Gives the connection back once the body is at its end, which nobody may ask for.
    fn settle(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl HttpBody for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        // A server that always has more is never waited for: its time is looked at all the same.
        if this.lease.is_some()
            && this
                .wall
                .as_ref()
                .is_some_and(|wall| Instant::now() >= wall.deadline())
        {
            this.lease = None;
            return Poll::Ready(Some(Err(wall_timeout().into())));
        }
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.settle();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.lease = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                if let Some(lease) = this.lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(wall) = this.wall.as_mut().filter(|_| this.lease.is_some()) else {
                    return Poll::Pending;
                };
                ready!(wall.as_mut().poll(context));
                this.lease = None;
                Poll::Ready(Some(Err(wall_timeout().into())))
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
