//! A request body on its way to a backend: counted, capped, timed, and given again where another
//! replica is asked, as long as no more than its beginning was read.
//!
//! Not a buffer: a frame is read from the client when the backend asks for one.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::backend::{Body, BoxError};
use crate::config::EdgeLimits;
use crate::connection::{Connection, Ending, Order};
use crate::fastcgi::Stdin;
use crate::headers::strip_request_trailers;
use crate::refusal::Refusal;

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum UploadError {
    #[error("the request body is larger than the server takes")]
    TooLarge,
    #[error("the client paused too long within the request body")]
    TooSlow,
    #[error("the request body breaks its encoding")]
    Malformed,
}

/// Bytes of a body that are kept until no other replica can be asked: a form, a document. They lie in
/// what was read anyway.
pub(crate) const KEPT_BYTES_MAX: usize = 64 * 1024;

/// How long a backend may take to let go of a body after its call has failed.
const LETTING_GO_MAX: Duration = Duration::from_secs(1);

/// A body as it comes from a client.
pub(crate) enum Arriving {
    /// Over HTTP.
    Http(Incoming),
    /// From a web server.
    FastCgi(Stdin),
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http(body) => {
                let polled = Pin::new(body).poll_frame(context);
                polled.map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
            }
            Self::FastCgi(body) => {
                let polled = Pin::new(body).poll_frame(context);
                polled.map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http(body) => body.is_end_stream(),
            Self::FastCgi(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(body) => body.size_hint(),
            Self::FastCgi(body) => body.size_hint(),
        }
    }
}

/// What the edge knows of a body that it gave away.
pub(crate) struct Upload {
    bytes: AtomicU64,
    fault: AtomicU8,
    size_hint: SizeHint,
    slot: Mutex<Slot>,
    /// Told when a backend lets go of the body.
    let_go: Notify,
}

struct Slot {
    body: Option<Arriving>,
    /// Whether the body may still be given to another replica.
    is_retryable: bool,
    /// What was read of it.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Whether that is all that was read.
    is_kept: bool,
}

/// No body: nothing to share, and nothing to allocate.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

impl Upload {
    pub(crate) fn new(body: Arriving) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicU64::new(0),
            fault: AtomicU8::new(0),
            size_hint: body.size_hint(),
            slot: Mutex::new(Slot {
                body: Some(body),
                is_retryable: true,
                kept: Vec::new(),
                kept_bytes: 0,
                is_kept: true,
            }),
            let_go: Notify::new(),
        })
    }

    /// The body as a backend reads it.
    pub(crate) fn body(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        limits: &EdgeLimits,
    ) -> Body {
        RequestBody {
            upload: Arc::clone(self),
            connection: Arc::clone(connection),
            incoming: None,
            again: self.with_slot(|slot| slot.kept.clone().into()),
            is_finished: false,
            bytes_max: limits.request_bytes_max,
            pause_max: connection.body_pause_max(limits),
            pause: None,
            is_paused: false,
        }
        .boxed_unsync()
    }

    /// Whether all of it can be given to another backend. Waits a moment for the one that had it: a
    /// connection that breaks lets go of what it was to send a little after it tells.
    pub(crate) async fn comes_back(&self) -> bool {
        let coming = async {
            loop {
                let let_go = self.let_go.notified();
                let mut let_go = std::pin::pin!(let_go);
                let_go.as_mut().enable();
                match self.with_slot(|slot| (slot.is_kept, slot.body.is_some())) {
                    (false, _) => return false,
                    (true, true) => return true,
                    (true, false) => let_go.await,
                }
            }
        };
        tokio::time::timeout(LETTING_GO_MAX, coming)
            .await
            .unwrap_or(false)
    }

    /// No retry comes any more: a body that the backend lets go is let go.
    pub(crate) fn settle(&self) {
        let kept = self.with_slot(|slot| {
            slot.is_retryable = false;
            slot.is_kept = false;
            std::mem::take(&mut slot.kept)
        });
        drop(kept);
    }

    /// Keeps what was read, as far as it may be wanted again.
    fn keep(&self, data: &Bytes) {
        self.with_slot(|slot| {
            let bytes = slot.kept_bytes.saturating_add(data.len());
            if !slot.is_retryable || bytes > KEPT_BYTES_MAX {
                slot.is_kept = false;
                slot.kept = Vec::new();
            } else if slot.is_kept {
                slot.kept_bytes = bytes;
                slot.kept.push(data.clone());
            }
        });
    }

    /// Bytes that the backend read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The client's own part in a failed call.
    pub(crate) fn fault(&self) -> Option<Refusal> {
        match self.fault.load(Relaxed) {
            0 => None,
            1 => Some(Refusal::request_too_large()),
            2 => Some(Refusal::request_timeout()),
            _ => Some(Refusal::bad_request()),
        }
    }

    fn fail(&self, error: UploadError) -> BoxError {
        let fault = match error {
            UploadError::TooLarge => 1,
            UploadError::TooSlow => 2,
            UploadError::Malformed => 3,
        };
        self.fault.store(fault, Relaxed);
        match error {
            // Backends tell a client that is late from one that breaks off by the kind of the error.
            UploadError::TooSlow => io::Error::new(io::ErrorKind::TimedOut, error).into(),
            UploadError::TooLarge | UploadError::Malformed => error.into(),
        }
    }

    fn with_slot<T>(&self, act: impl FnOnce(&mut Slot) -> T) -> T {
        // A panic cannot leave a slot half changed: each change is one assignment.
        act(&mut self.slot.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct RequestBody {
    upload: Arc<Upload>,
    connection: Arc<Connection>,
    /// `None` until the first read, so that an untouched body stays with the edge.
    incoming: Option<Arriving>,
    /// What another backend read of it before.
    again: VecDeque<Bytes>,
    is_finished: bool,
    bytes_max: u64,
    pause_max: Duration,
    /// Made at the first pause: bodies that are there at once cost no timer.
    pause: Option<Pin<Box<Sleep>>>,
    is_paused: bool,
}

impl RequestBody {
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let pause_max = self.pause_max;
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause_max)));
        if !self.is_paused {
            self.is_paused = true;
            pause.as_mut().reset(Instant::now() + pause_max);
        }
        pause.as_mut().poll(context)
    }

    /// An error of the transport. A client that went within its body waits for no answer; hyper
    /// notices that only when it has one to write, so the call is ended here.
    fn broken(&self, error: BoxError) -> BoxError {
        let cause = error
            .downcast_ref::<io::Error>()
            .or_else(|| error.source()?.downcast_ref::<io::Error>())
            .map(io::Error::kind);
        match cause {
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
                self.upload.fail(UploadError::Malformed)
            }
            _ => {
                if !self.connection.speaks_http2() {
                    self.connection.give_order(Order::Cut);
                }
                error
            }
        }
    }

    fn take_frame(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        match frame.into_data() {
            Ok(data) => {
                let added = u64::try_from(data.len()).unwrap_or(u64::MAX);
                let before = self.upload.bytes.fetch_add(added, Relaxed);
                if before.saturating_add(added) > self.bytes_max {
                    return Err(self.upload.fail(UploadError::TooLarge));
                }
                self.upload.keep(&data);
                Ok(Frame::data(data))
            }
            Err(frame) => {
                // They are not kept.
                self.upload.with_slot(|slot| slot.is_kept = false);
                let mut trailers = frame.into_trailers().unwrap_or_default();
                strip_request_trailers(&mut trailers);
                Ok(Frame::trailers(trailers))
            }
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.is_finished {
            return Poll::Ready(None);
        }
        if let Some(data) = this.again.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if this.incoming.is_none() {
            this.incoming = this.upload.with_slot(|slot| slot.body.take());
        }
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(incoming).poll_frame(context) {
            Poll::Pending => {
                if this.poll_pause(context).is_pending() {
                    return Poll::Pending;
                }
                Some(Err(this.upload.fail(UploadError::TooSlow)))
            }
            Poll::Ready(Some(Ok(frame))) => Some(this.take_frame(frame)),
            Poll::Ready(Some(Err(error))) => Some(Err(this.broken(error))),
            Poll::Ready(None) => None,
        };
        this.is_paused = false;
        match &frame {
            None => this.is_finished = true,
            Some(Ok(_)) => {}
            // The rest of a body that failed here is unread: let it go, so that hyper ends it.
            Some(Err(_)) => {
                this.is_finished = true;
                this.connection.end_with(Ending::Linger);
                this.incoming = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_finished
            || self.again.is_empty() && self.incoming.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Some(incoming) if self.again.is_empty() => incoming.size_hint(),
            None if self.is_finished => SizeHint::with_exact(0),
            Some(_) | None => self.upload.size_hint,
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let is_over = self.is_end_stream();
        let incoming = self.incoming.take();
        let (is_given_back, unread) = self.upload.with_slot(|slot| {
            if slot.is_retryable && slot.is_kept {
                slot.body = slot.body.take().or(incoming);
                (true, None)
            } else {
                (false, incoming.or(slot.body.take()))
            }
        });
        drop(unread);
        self.upload.let_go.notify_waiters();
        if !is_over && !is_given_back {
            self.connection.end_with(Ending::Linger);
        }
    }
}
