//! One request on one connection to an application: its body goes while its answer comes.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::super::record::{self, Kind};
use super::head::{BadHead, HeadReader};
use super::remarks::Listener;
use super::replies::{End, ID, Nonsense, Replies, Reply};
use super::{Kept, Remarks};
use crate::backend::{Body, BoxError};
use crate::upstream::{Io, Place, RequestBody, UpstreamCaps};

/// Bytes that are read at once: what a pipe holds.
const READ_BYTES: usize = 16 * 1024;
/// Parts of an answer that wait for the client: back-pressure reaches the application after these.
const PARTS_MAX: usize = 4;
/// Bytes of an answer that nobody wants (of HEAD) that are read for its end to come.
const UNWANTED_BYTES_MAX: usize = 1024 * 1024;

/// A connection to an application.
pub(super) struct Wire {
    reader: ReadHalf<Box<dyn Io>>,
    writer: WriteHalf<Box<dyn Io>>,
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        let (reader, writer) = split(io);
        Self { reader, writer }
    }

    /// Whether it is closed, or says something that nobody asked for.
    pub(super) fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        self.reader.read(&mut byte).now_or_never().is_some()
    }
}

/// Why there is no answer, or no whole one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// Before a byte of the answer.
    #[error("the application closed the connection without an answer")]
    Unanswered,
    /// Within the answer.
    #[error("the application closed the connection within its answer")]
    Broken,
    #[error("the application's answer is not FastCGI: {0}")]
    Nonsense(#[from] Nonsense),
    #[error("the application's answer is none of CGI: {0}")]
    Head(#[from] BadHead),
    #[error("the application has no room for the request")]
    Overloaded,
    #[error("the application answers no requests: it does not know the role")]
    UnknownRole,
    /// A status of its own that is no good one.
    #[error("the application ended with status {0}")]
    Status(u32),
    #[error("the request's body broke off")]
    Upload,
    #[error("the application took longer than it may")]
    TooLate,
    /// Nobody waits for the answer any more.
    #[error("the client is gone")]
    Gone,
}

/// One request that is on its way.
pub(super) struct Exchange {
    pub(super) wire: Wire,
    /// Beginning and parameters.
    pub(super) begin: Bytes,
    pub(super) body: RequestBody,
    /// Bytes that it has.
    pub(super) length: u64,
    /// Whether the client wants no body, whatever comes.
    pub(super) headless: bool,
    pub(super) deadline: Instant,
    pub(super) remarks: Arc<dyn Remarks>,
    pub(super) caps: UpstreamCaps,
    /// Where the connection goes afterwards, if it may be kept.
    pub(super) kept: Option<Arc<Kept>>,
    /// Held to the end.
    pub(super) place: Option<Arc<Place>>,
}

type Head = Result<Response<Body>, Failure>;

impl Exchange {
    /// Sends the request; returns with the head of the answer, whose body comes as it is read. Dropped, it
    /// ends the request, as dropping that body does.
    pub(super) async fn run(self) -> Head {
        let (head_to, head) = oneshot::channel();
        tokio::spawn(self.drive(head_to));
        // Without a word it has panicked.
        head.await.unwrap_or(Err(Failure::Broken))
    }

    async fn drive(self, head_to: oneshot::Sender<Head>) {
        let Self {
            wire,
            begin,
            body,
            length,
            headless,
            deadline,
            remarks,
            caps,
            kept,
            place,
        } = self;
        let Wire {
            mut reader,
            mut writer,
        } = wire;
        let mut answer = Answer {
            head: HeadReader::new(caps.head_bytes_max, caps.head_fields_max),
            head_to: Some(head_to),
            parts: None,
            headless,
            unwanted: 0,
        };
        let ended = {
            let mut sending = pin!(send(&mut writer, begin, body, length));
            let listener = Listener::new(remarks, caps.log_bytes_max);
            let mut receiving = pin!(receive(&mut reader, &mut answer, listener));
            let mut late = pin!(sleep_until(deadline));
            let mut sent = None;
            loop {
                tokio::select! {
                    ended = &mut receiving => {
                        break ended.map(|may_keep| may_keep && sent == Some(true));
                    }
                    result = &mut sending, if sent.is_none() => match result {
                        Ok(()) => sent = Some(true),
                        // It may have answered before it closed.
                        Err(Unsent::Wire) => sent = Some(false),
                        Err(Unsent::Upload) => break Err(Failure::Upload),
                    },
                    () = &mut late => break Err(Failure::TooLate),
                }
            }
        };
        match (&ended, kept) {
            (Ok(true), Some(kept)) => kept.keep(Wire { reader, writer }),
            // Closed before anything is told: that is how the application learns that nobody waits.
            (Ok(_) | Err(_), _) => drop((reader, writer)),
        }
        drop(place);
        answer.end(ended.map(drop)).await;
    }
}

enum Unsent {
    Wire,
    Upload,
}

async fn send(
    writer: &mut WriteHalf<Box<dyn Io>>,
    begin: Bytes,
    mut body: RequestBody,
    length: u64,
) -> Result<(), Unsent> {
    writer.write_all(&begin).await.map_err(|_| Unsent::Wire)?;
    let mut left = length;
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unsent::Upload)?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        // More than was said would be the next request's, to an application that reads by that number.
        left = left.checked_sub(bytes.len() as u64).ok_or(Unsent::Upload)?;
        out.clear();
        record::put_stream(&mut out, Kind::Stdin, ID, &bytes);
        writer.write_all(&out).await.map_err(|_| Unsent::Wire)?;
    }
    if left > 0 {
        return Err(Unsent::Upload);
    }
    out.clear();
    record::put(&mut out, Kind::Stdin, ID, &[]);
    writer.write_all(&out).await.map_err(|_| Unsent::Wire)?;
    writer.flush().await.map_err(|_| Unsent::Wire)
}

/// Reads the answer to its end; whether another request may begin on the connection.
async fn receive(
    reader: &mut ReadHalf<Box<dyn Io>>,
    answer: &mut Answer,
    mut remarks: Listener,
) -> Result<bool, Failure> {
    let mut replies = Replies::default();
    let mut input = BytesMut::new();
    let mut anything = false;
    loop {
        while let Some(reply) = replies.next(&mut input)? {
            match reply {
                Reply::Stdout(bytes) => answer.take(bytes).await?,
                Reply::Stderr(bytes) => remarks.hear(&bytes),
                Reply::End(End::Complete(0)) if answer.is_begun() => {
                    return Ok(replies.is_between() && input.is_empty());
                }
                Reply::End(End::Complete(0)) => return Err(BadHead::Cut.into()),
                Reply::End(End::Complete(status)) => return Err(Failure::Status(status)),
                Reply::End(End::Overloaded) if !answer.is_begun() => {
                    return Err(Failure::Overloaded);
                }
                Reply::End(End::Overloaded) => return Err(Failure::Broken),
                Reply::End(End::UnknownRole) => return Err(Failure::UnknownRole),
            }
        }
        input.reserve(READ_BYTES);
        let read = tokio::select! {
            read = reader.read_buf(&mut input) => read.unwrap_or(0),
            () = answer.unwanted_by_now() => return Err(Failure::Gone),
        };
        if read == 0 {
            return Err(match anything {
                true => Failure::Broken,
                false => Failure::Unanswered,
            });
        }
        anything = true;
    }
}

/// The answer on its way to the client.
struct Answer {
    head: HeadReader,
    /// Until the head is whole.
    head_to: Option<oneshot::Sender<Head>>,
    /// From then on; `None`: the body is nobody's.
    parts: Option<mpsc::Sender<Part>>,
    headless: bool,
    unwanted: usize,
}

/// A part of an answer's body.
enum Part {
    Bytes(Bytes),
    /// There is no more. Without it the body is not whole, however it ends.
    End,
    Failed(Failure),
}

impl Answer {
    const fn is_begun(&self) -> bool {
        self.head_to.is_none()
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let mut rest = bytes;
        if !self.is_begun() {
            let Some((head, taken)) = self.head.feed(&rest)? else {
                return Ok(());
            };
            rest = rest.slice(taken..);
            self.begin(head)?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let Some(parts) = &self.parts else {
            self.unwanted += rest.len();
            return match self.unwanted > UNWANTED_BYTES_MAX {
                true => Err(Failure::Gone),
                false => Ok(()),
            };
        };
        let sent = parts.send(Part::Bytes(rest)).await;
        sent.map_err(|_| Failure::Gone)
    }

    fn begin(&mut self, head: Response<()>) -> Result<(), Failure> {
        let status = head.status();
        let no_body = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let body = match self.headless || no_body {
            true => crate::request_body::empty(),
            false => {
                let (to, parts) = mpsc::channel(PARTS_MAX);
                self.parts = Some(to);
                ReplyBody { parts, over: false }.boxed_unsync()
            }
        };
        let is_told = match self.head_to.take() {
            Some(to) => to.send(Ok(head.map(|()| body))).is_ok(),
            None => false,
        };
        match is_told {
            true => Ok(()),
            false => Err(Failure::Gone),
        }
    }

    /// Returns once nobody waits for the answer.
    async fn unwanted_by_now(&mut self) {
        match (&mut self.head_to, &self.parts) {
            (Some(head), _) => head.closed().await,
            (None, Some(parts)) => parts.closed().await,
            (None, None) => std::future::pending().await,
        }
    }

    async fn end(self, ended: Result<(), Failure>) {
        if let Some(head_to) = self.head_to {
            let failure = ended.err().unwrap_or(Failure::Broken);
            // Who is gone needs no word.
            let _ = head_to.send(Err(failure));
            return;
        }
        if let Some(parts) = self.parts {
            let last = match ended {
                Ok(()) => Part::End,
                Err(failure) => Part::Failed(failure),
            };
            let _ = parts.send(last).await;
        }
    }
}

/// The body of an answer.
struct ReplyBody {
    parts: mpsc::Receiver<Part>,
    over: bool,
}

impl HttpBody for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let part = ready!(self.parts.poll_recv(context));
        let failure = match part {
            Some(Part::Bytes(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Part::End) => None,
            Some(Part::Failed(failure)) => Some(failure),
            None => Some(Failure::Broken),
        };
        self.over = true;
        Poll::Ready(failure.map(|failure| Err(super::answer_broke(failure).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever writes it may have panicked.
    #[tokio::test]
    async fn a_body_without_its_end_is_none() {
        for (last, is_whole) in [(Some(Part::End), true), (None, false)] {
            let (to, parts) = mpsc::channel(PARTS_MAX);
            let sent = to.send(Part::Bytes(Bytes::from_static(b"a"))).await;
            assert!(sent.is_ok());
            if let Some(last) = last {
                assert!(to.send(last).await.is_ok());
            }
            drop(to);
            let body = ReplyBody { parts, over: false };
            assert_eq!(body.collect().await.is_ok(), is_whole);
        }
    }
}
