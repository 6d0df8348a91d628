//! A response on its way to a client: checked against what its head says, and recorded when it
//! ends, fails or is given up.
//!
//! What fails here after the head was sent reaches the client as a broken response, never as a
//! clean end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use realm_model::name::NodeName;

use crate::backend::{Body, BoxError, is_in_vain};
use crate::connection::{Connection, Ending};
use crate::headers::strip_response_trailers;
use crate::observe::{Answered, MethodClass, Observer, Outcome, Protocol};
use crate::request_body::Upload;
use crate::stream::{self, Polled};
use crate::table::Group;
use crate::turns::{self, End};

/// The status that servers log where the client went before there was one.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// The code of a response whose body failed.
const BODY_FAILED: &str = "body-failed";
/// The code of a request whose client went before there was a response.
const CLIENT_GONE: &str = "client-gone";

/// Bytes and frames that a look ahead takes before it lets the rest come as it comes.
const AHEAD_BYTES_MAX: usize = 16 * 1024;
const AHEAD_FRAMES_MAX: usize = 16;

/// Why a response body was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum CutError {
    #[error("the response body is shorter than its content-length")]
    Short,
    #[error("the response body is longer than its content-length")]
    Long,
    #[error("the response body panicked")]
    Panic,
}

/// One request from its head to the end of its response. Tells the observer when dropped.
pub(crate) struct Record {
    observer: Arc<dyn Observer>,
    pub(crate) connection: Arc<Connection>,
    started: Instant,
    pub(crate) method: MethodClass,
    pub(crate) protocol: Protocol,
    pub(crate) group: Option<Arc<Group>>,
    /// It had its turn.
    pub(crate) is_begun: bool,
    pub(crate) upload: Option<Arc<Upload>>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) code: Option<&'static str>,
    pub(crate) is_retried: bool,
    /// Whether another node was asked last.
    pub(crate) is_far: bool,
    /// The nodes that were asked, if the client wants to know.
    pub(crate) path: Option<String>,
    bytes_out: u64,
    outcome: Outcome,
}

impl Record {
    pub(crate) fn new(
        observer: &Arc<dyn Observer>,
        connection: &Arc<Connection>,
        method: &Method,
        version: Version,
    ) -> Self {
        connection.begin_request();
        Self {
            observer: Arc::clone(observer),
            connection: Arc::clone(connection),
            started: Instant::now(),
            method: MethodClass::from(method),
            protocol: match connection.is_behind() {
                true => Protocol::FastCgi,
                false => Protocol::from(version),
            },
            group: None,
            is_begun: false,
            upload: None,
            status: None,
            code: None,
            is_retried: false,
            is_far: false,
            path: None,
            bytes_out: 0,
            outcome: Outcome::ClientGone,
        }
    }

    /// Notes who is asked; `None`: this node.
    pub(crate) fn goes_to(&mut self, node: Option<&NodeName>) {
        self.is_far = node.is_some();
        self.is_told(node.map_or("here", NodeName::as_str));
    }

    /// What was done for it was in vain where the component came to no answer, or the client went before there
    /// was one.
    fn end(&self) -> End {
        let is_failed = self.status.is_some_and(is_in_vain);
        let is_gone = self.status.is_none();
        match self.is_begun {
            false if is_gone => End::Left,
            false => End::Refused,
            true if is_gone || self.outcome == Outcome::BodyFailed => End::Badly,
            true if is_failed && self.code.is_some() => End::Badly,
            true => End::Well,
        }
    }

    /// Notes who was asked, if the client wants to know.
    pub(crate) fn is_told(&mut self, who: &str) {
        if let Some(path) = &mut self.path {
            if !path.is_empty() {
                path.push_str(", ");
            }
            path.push_str(who);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let gone = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).expect("499 is a status");
        let record = Answered {
            component: self.group.as_ref().map(|group| &group.component),
            method: self.method,
            protocol: self.protocol,
            status: self.status.unwrap_or(gone),
            code: if self.status.is_none() {
                Some(CLIENT_GONE)
            } else {
                self.code
            },
            outcome: self.outcome,
            duration: self.started.elapsed(),
            bytes_in: self.upload.as_ref().map_or(0, |upload| upload.bytes()),
            bytes_out: self.bytes_out,
            retried: self.is_retried,
        };
        // A drop may run while a panic unwinds, and a second panic would end the process.
        if catch_unwind(AssertUnwindSafe(|| self.observer.answered(&record))).is_err() {
            tracing::error!("the observer panicked");
        }
        self.connection.end_request();
        if self.group.is_some() {
            turns::ended(self.end());
        }
    }
}

/// The body of a response.
pub(crate) struct Reply {
    /// What was taken from the source by a look ahead.
    ahead: VecDeque<Result<Frame<Bytes>, BoxError>>,
    source: Source,
    record: Record,
}

enum Source {
    /// Nothing: HEAD, 204, 304.
    Nothing,
    /// The edge's own words.
    Whole(Bytes),
    /// A backend's body, and the bytes still owed where the head declares a length.
    Stream { body: Body, owed: Option<u64> },
}

impl Reply {
    pub(crate) fn nothing(record: Record) -> Self {
        Self::new(Source::Nothing, record)
    }

    pub(crate) fn whole(bytes: Bytes, record: Record) -> Self {
        if bytes.is_empty() {
            return Self::nothing(record);
        }
        Self::new(Source::Whole(bytes), record)
    }

    /// A backend's body; `owed` is its declared length.
    pub(crate) fn stream(body: Body, owed: Option<u64>, record: Record) -> Self {
        Self::new(Source::Stream { body, owed }, record)
    }

    fn new(source: Source, record: Record) -> Self {
        record.connection.mark_output();
        Self {
            ahead: VecDeque::new(),
            source,
            record,
        }
    }

    /// Takes what of a body without a length is there already: a short one that ends in that is sent with its
    /// length, in one piece with its head, and clients need not read chunks. Waits for nothing.
    pub(crate) async fn look_ahead(&mut self) {
        if self.size_hint().exact().is_none() {
            poll_fn(|context| {
                self.poll_ahead(context);
                Poll::Ready(())
            })
            .await;
        }
    }

    fn poll_ahead(&mut self, context: &mut Context<'_>) {
        let mut bytes = 0;
        while bytes < AHEAD_BYTES_MAX && self.ahead.len() < AHEAD_FRAMES_MAX {
            match self.poll_stream(context) {
                Poll::Pending => return,
                Poll::Ready(Some(frame)) => {
                    let data = frame.as_ref().ok().and_then(Frame::data_ref);
                    let length = data.map(Bytes::len);
                    self.ahead.push_back(frame);
                    match length {
                        Some(length) => bytes += length,
                        // Trailers, which have no place behind a length, or that it broke off.
                        None => return,
                    }
                }
                Poll::Ready(None) => {
                    let frames = std::mem::take(&mut self.ahead).into_iter().flatten();
                    let data: Vec<Bytes> = frames.flat_map(Frame::into_data).collect();
                    // Not until it is given is it complete.
                    self.record.outcome = Outcome::ClientGone;
                    let data = match <[Bytes; 1]>::try_from(data) {
                        Ok([data]) => data,
                        Err(data) => data.concat().into(),
                    };
                    self.source = match data.is_empty() {
                        true => Source::Nothing,
                        false => Source::Whole(data),
                    };
                    return;
                }
            }
        }
    }

    fn fail(&mut self, error: BoxError) -> BoxError {
        self.record.outcome = Outcome::BodyFailed;
        self.record.code = Some(BODY_FAILED);
        if self.record.protocol == Protocol::Http10 {
            self.record.connection.end_with(Ending::Reset);
        }
        // The guest's part is over: what holds it is let go at once.
        self.source = Source::Nothing;
        error
    }

    fn take_frame(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        let Source::Stream { owed, .. } = &mut self.source else {
            return Ok(frame);
        };
        match frame.into_data() {
            Ok(data) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                if let Some(rest) = owed {
                    *rest = rest.checked_sub(length).ok_or(CutError::Long)?;
                }
                Ok(Frame::data(data))
            }
            Err(_) if owed.is_some_and(|rest| rest > 0) => Err(CutError::Short.into()),
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                strip_response_trailers(&mut trailers);
                self.record.outcome = Outcome::Complete;
                Ok(Frame::trailers(trailers))
            }
        }
    }

    fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Source::Stream { body, owed } = &mut self.source else {
            return Poll::Ready(None);
        };
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(context)));
        let frame = match polled {
            Ok(polled) => ready!(polled),
            Err(_) => Some(Err(CutError::Panic.into())),
        };
        let frame = match frame {
            Some(frame) => Some(frame.and_then(|frame| self.take_frame(frame))),
            None if owed.is_some_and(|rest| rest > 0) => Some(Err(CutError::Short.into())),
            None => {
                self.record.outcome = Outcome::Complete;
                None
            }
        };
        Poll::Ready(frame.map(|frame| frame.map_err(|error| self.fail(error))))
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match (this.ahead.pop_front(), &mut this.source) {
            (Some(frame), _) => Some(frame),
            (None, Source::Nothing) => None,
            (None, Source::Whole(bytes)) => {
                let bytes = std::mem::take(bytes);
                this.source = Source::Nothing;
                Some(Ok(Frame::data(bytes)))
            }
            (None, Source::Stream { .. }) => match this.poll_stream(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    stream::note(Polled::Waits);
                    return Poll::Pending;
                }
            },
        };
        stream::note(Polled::Gave);
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            this.record.bytes_out += u64::try_from(length).unwrap_or(u64::MAX);
        }
        this.record.connection.mark_output();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            _ if !self.ahead.is_empty() => false,
            Source::Nothing => true,
            Source::Whole(_) => false,
            Source::Stream { body, owed } => {
                body.is_end_stream() && owed.is_none_or(|rest| rest == 0)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            _ if !self.ahead.is_empty() => SizeHint::new(),
            Source::Nothing => SizeHint::with_exact(0),
            Source::Whole(bytes) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Source::Stream { body, owed } => {
                owed.map_or_else(|| body.size_hint(), SizeHint::with_exact)
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // hyper does not poll a body past the end that it knows of.
        let is_whole = match &self.source {
            _ if !self.ahead.is_empty() => false,
            Source::Nothing => true,
            Source::Whole(_) => false,
            Source::Stream { body, owed } => *owed == Some(0) || body.is_end_stream(),
        };
        if is_whole && self.record.outcome == Outcome::ClientGone {
            self.record.outcome = Outcome::Complete;
        }
    }
}
