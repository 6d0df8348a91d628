//! An answer on its way into records, and how it ended. Not the connection that it goes to.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;

use super::head::{HEAD_BYTES, head};
use super::{GuestLog, Role, Status};
use crate::answer::{Edge, answer};
use crate::connection::{Connection, Order};
use crate::request_body::Arriving;
use crate::response_body::Reply;

/// Bytes of one piece of an answer.
pub(super) const PIECE_BYTES_MAX: usize = 32 * 1024;

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All of its answer is with the writer.
    Whole,
    /// The same, but for the end of the request, whose body still came.
    Answered,
    /// Nobody waited for it any more.
    Aborted,
    /// Its answer broke off.
    Short,
}

/// Bytes to be written.
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Dropped once they are.
    pub(super) written: Option<tokio::sync::oneshot::Sender<()>>,
}

pub(super) async fn send(pieces: &mpsc::Sender<Piece>, bytes: Bytes) -> io::Result<()> {
    let piece = Piece {
        bytes,
        written: None,
    };
    let sent = pieces.send(piece).await;
    sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Answers one request.
pub(super) async fn respond(
    edge: Arc<Edge>,
    connection: Arc<Connection>,
    request: Request<Arriving>,
    writer: Writer,
) -> Ended {
    let orders = Arc::clone(&connection);
    let answering = async {
        let Ok(response) = answer(edge, connection, request).await;
        writer.write(response).await
    };
    let mut answering = pin!(answering);
    poll_fn(|context| match orders.poll_order(context) {
        Order::Serve | Order::Drain | Order::Evict => {
            let polled = answering.as_mut().poll(context);
            polled.map(|written| written.unwrap_or(Ended::Short))
        }
        Order::Cut => Poll::Ready(Ended::Aborted),
    })
    .await
}

/// Where the answer to a request goes.
pub(super) struct Writer {
    pub(super) id: u16,
    pub(super) role: Role,
    pub(super) pieces: mpsc::Sender<Piece>,
    pub(super) log: GuestLog,
    /// Whether all of the body has come, where the end of the request waits for that.
    pub(super) body: Option<Arc<AtomicBool>>,
}

impl Writer {
    /// Head, body and end: in one piece where all of it is there at once.
    async fn write(&self, response: Response<Reply>) -> io::Result<Ended> {
        let (mut parts, mut body) = response.into_parts();
        // Where nothing comes the head says what would, if anything.
        let length = body.size_hint().exact().filter(|length| *length > 0);
        if let Some(length) = length {
            parts
                .headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let mut out = BytesMut::with_capacity(HEAD_BYTES);
        self.put_log(&mut out);
        super::put_stdout(&mut out, self.id, &head(&parts, self.role));
        while !body.is_end_stream() {
            let frame = match body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    self.put_log(&mut out);
                    self.send(&mut out).await?;
                    body.frame().await
                }
            };
            let Some(frame) = frame else {
                break;
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    // Why is told to whoever reads the web server's log.
                    self.put_log(&mut out);
                    self.send(&mut out).await?;
                    return Err(io::Error::other(error));
                }
            };
            // There is no place for trailers.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            for part in data.chunks(PIECE_BYTES_MAX) {
                super::put_stdout(&mut out, self.id, part);
                if out.len() >= PIECE_BYTES_MAX {
                    self.send(&mut out).await?;
                }
            }
        }
        self.put_log(&mut out);
        super::put_stdout_end(&mut out, self.id);
        let body = self.body.as_ref();
        let ended = match body.is_none_or(|is_over| is_over.load(Relaxed)) {
            true => {
                super::put_end_request(&mut out, self.id, Status::Complete, 0);
                Ended::Whole
            }
            false => Ended::Answered,
        };
        self.send(&mut out).await?;
        Ok(ended)
    }

    /// A record for each line: nginx writes what one holds into its log as it is, newlines and all, and a
    /// guest could write lines there that nginx never wrote.
    fn put_log(&self, out: &mut BytesMut) {
        let lines = self.log.take();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            super::put_stderr(out, self.id, line);
        }
    }

    async fn send(&self, out: &mut BytesMut) -> io::Result<()> {
        match out.is_empty() {
            true => Ok(()),
            false => send(&self.pieces, out.split().freeze()).await,
        }
    }
}
