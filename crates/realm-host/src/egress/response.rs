//! The body of an answer on its way to a guest: it fails when the other side pauses for too long,
//! and gives its connection back when it is over.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

use super::http::Request;
use super::pool::Lease;
use crate::body::has_too_many_trailers;

/// The body of one answer.
pub(super) struct Answer {
    body: Incoming,
    pause_max: Duration,
    /// Made when the guest first waits.
    pause: Option<Pin<Box<Sleep>>>,
    /// The connection, and the request's place among those of its instance.
    held: Option<(Lease, Request)>,
}

impl Answer {
    pub(super) fn new(body: Incoming, pause_max: Duration, lease: Lease, place: Request) -> Self {
        let mut answer = Self {
            body,
            pause_max,
            pause: None,
            held: Some((lease, place)),
        };
        if answer.body.is_end_stream() {
            answer.over();
        }
        answer
    }

    fn over(&mut self) {
        if let Some((lease, _)) = self.held.take() {
            lease.give_back();
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        if let Some((lease, _)) = self.held.take() {
            lease.give_up();
        }
        error
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if has_too_many_trailers(&frame) {
                    let error = Error::HttpResponseTrailerSectionSize(None);
                    return Poll::Ready(Some(Err(this.fail(error))));
                }
                this.pause = None;
                if this.body.is_end_stream() {
                    this.over();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.over();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.fail(error.into())))),
            Poll::Pending => {
                let until = Instant::now() + this.pause_max;
                let sleep = || Box::pin(tokio::time::sleep_until(until));
                let pause = this.pause.get_or_insert_with(sleep);
                if pause.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(this.fail(Error::ConnectionReadTimeout))))
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
