//! One connection of a web server: its requests are answered like any others, several at once if it
//! wants that, and written back in records.
//!
//! No stream of a connection has a window of its own in FastCGI: what one request does not read, or one
//! client does not take, holds up the others of its connection. So there is little of each in memory, and
//! as many requests at once as the limits say. Not what a request means: `request`; nor its answer.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::request::{self, Asked};
use super::stdin::{Part, Sender, Stdin};
use super::{BadParams, Decoder, Event, Limits, Params, Role, Status};
use crate::answer::{Edge, answer};
use crate::connection::{Connection, Order};
use crate::request_body::Arriving;
use crate::response_body::Reply;

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;
/// Pieces of answers that wait to be written, of all requests of a connection together.
const PIECES_MAX: usize = 16;
/// Bytes of one piece.
const PIECE_BYTES_MAX: usize = 32 * 1024;

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// All of its answer is with the writer.
    Whole,
    /// Nobody waited for it any more.
    Aborted,
    /// Its answer broke off.
    Short,
}

/// What a task of a request comes to.
type Joined = Result<(u16, Ended), JoinError>;

/// A request under way.
struct Under {
    /// Where its body goes, while more may come.
    body: Option<Sender>,
    /// What ends it.
    connection: Arc<Connection>,
    is_aborted: bool,
}

/// Serves a connection until it ends. `here` is who asks where the web server does not say so. Once
/// `stop` is cancelled, what is under way is answered, and nothing else.
pub(crate) async fn serve(
    edge: Arc<Edge>,
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    limits: Limits,
    here: Option<IpAddr>,
    stop: CancellationToken,
) {
    let (read, write) = tokio::io::split(io);
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    let stall_max = edge.limits.write_stall_timeout;
    let mut served = Served {
        edge,
        here,
        decoder: Decoder::new(limits),
        requests: BTreeMap::new(),
        tasks: JoinSet::new(),
        pieces,
    };
    let ended = {
        let mut reading = pin!(served.run(read, stop));
        let mut writing = pin!(write_all(write, waiting, stall_max));
        tokio::select! {
            ended = reading.as_mut() => ended,
            written = writing.as_mut() => written,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a FastCGI connection ended");
    }
}

async fn write_all(
    mut io: impl AsyncWrite + Unpin,
    mut pieces: mpsc::Receiver<Piece>,
    stall_max: std::time::Duration,
) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        let mut bytes = piece.bytes;
        while bytes.has_remaining() {
            // A client that takes nothing for long is given up, with all others of the connection.
            let written = timeout(stall_max, io.write_buf(&mut bytes)).await;
            if written.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        // Who waits for the last bytes of a connection waits until they are on their way.
        drop(piece.written);
    }
    Ok(())
}

/// Bytes to be written.
struct Piece {
    bytes: Bytes,
    /// Dropped once they are.
    written: Option<tokio::sync::oneshot::Sender<()>>,
}

struct Served {
    edge: Arc<Edge>,
    here: Option<IpAddr>,
    decoder: Decoder,
    requests: BTreeMap<u16, Under>,
    tasks: JoinSet<(u16, Ended)>,
    pieces: mpsc::Sender<Piece>,
}

impl Served {
    async fn run(
        &mut self,
        mut io: impl AsyncRead + Unpin,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let mut input = BytesMut::with_capacity(READ_BYTES);
        loop {
            while let Some(event) = self.decoder.next(&mut input).map_err(io::Error::other)? {
                self.take(event).await?;
            }
            let is_idle = self.decoder.active() == 0;
            if is_idle && (self.decoder.closes() || stop.is_cancelled()) {
                return self.finish().await;
            }
            input.reserve(READ_BYTES);
            // A request whose parameters do not come is given the time of a head over HTTP.
            let is_answering = !self.tasks.is_empty();
            let patience = match (is_idle, is_answering) {
                (true, _) => self.edge.limits.idle_timeout,
                (false, false) => self.edge.limits.header_read_timeout,
                (false, true) => std::time::Duration::MAX,
            };
            tokio::select! {
                ended = self.tasks.join_next(), if is_answering => {
                    self.ended(ended).await?;
                }
                read = timeout(patience, io.read_buf(&mut input)) => {
                    if read.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                        // So web servers abort requests: whoever asked is gone.
                        return Ok(());
                    }
                }
                () = stop.cancelled(), if is_idle => {}
            }
        }
    }

    async fn ended(&mut self, ended: Option<Joined>) -> io::Result<()> {
        let Some(ended) = ended else { return Ok(()) };
        let (id, ended) = ended.map_err(io::Error::other)?;
        let under = self.requests.remove(&id);
        self.decoder.ended(id);
        let is_aborted = under.is_some_and(|under| under.is_aborted);
        match ended {
            Ended::Whole => Ok(()),
            Ended::Aborted if is_aborted => {
                let mut out = BytesMut::new();
                super::put_end(&mut out, id, Status::Complete, 0);
                send(&self.pieces, out.freeze()).await
            }
            // The end of the connection is all that every web server takes for an answer cut short.
            Ended::Aborted | Ended::Short => Err(io::Error::other("an answer was cut short")),
        }
    }

    async fn take(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Request { id, role, params } => self.begin(id, role, &params).await,
            Event::Bad { id, reason } => {
                let (status, why) = match reason {
                    BadParams::TooLarge | BadParams::TooMany | BadParams::LongName => (
                        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        "the parameters are too many or too large",
                    ),
                    BadParams::Cut => (StatusCode::BAD_REQUEST, "the parameters are cut short"),
                };
                self.refuse(id, status, why).await
            }
            Event::Stdin { id, bytes } => self.put(id, Part::Bytes(bytes)).await,
            Event::StdinEnd { id } => {
                self.put(id, Part::End).await?;
                if let Some(under) = self.requests.get_mut(&id) {
                    under.body = None;
                }
                Ok(())
            }
            Event::Abort { id } => {
                if let Some(under) = self.requests.get_mut(&id) {
                    under.is_aborted = true;
                    under.connection.give_order(Order::Cut);
                }
                Ok(())
            }
            Event::Reply(bytes) => send(&self.pieces, bytes).await,
        }
    }

    /// Waits where the request does not read: meanwhile others are answered, and may end.
    async fn put(&mut self, id: u16, part: Part) -> io::Result<()> {
        let under = self.requests.get(&id);
        let Some(body) = under.and_then(|under| under.body.clone()) else {
            return Ok(());
        };
        let mut sending = pin!(body.send(part));
        loop {
            tokio::select! {
                // Who does not want it any more lets it go.
                _ = sending.as_mut() => return Ok(()),
                ended = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(ended).await?,
            }
        }
    }

    async fn begin(&mut self, id: u16, role: Role, params: &Params) -> io::Result<()> {
        let asked = match request::read(params, self.here) {
            Ok(asked) => asked,
            Err(why) => return self.refuse(id, why.status(), &why.to_string()).await,
        };
        let (body, stdin) = match role {
            Role::Responder => Stdin::new(asked.length),
            // Whatever length the request of the client has, its body is not for who only lets it pass.
            Role::Authorizer => Stdin::new(Some(0)),
        };
        let Asked {
            request,
            vouched,
            client,
            scheme,
            length: _,
        } = asked;
        let edge = Arc::clone(&self.edge);
        let trusted = |address| edge.trusted_proxies.contains(&address);
        let connection = Arc::new(Connection::behind(client, scheme, vouched, trusted));
        let under = Under {
            body: (role == Role::Responder).then_some(body),
            connection: Arc::clone(&connection),
            is_aborted: false,
        };
        self.requests.insert(id, under);
        let pieces = self.pieces.clone();
        self.tasks.spawn(async move {
            let request = request.map(|()| Arriving::FastCgi(stdin));
            (id, respond(edge, connection, request, id, pieces).await)
        });
        Ok(())
    }

    /// Answers in a component's place.
    async fn refuse(&mut self, id: u16, status: StatusCode, why: &str) -> io::Result<()> {
        let mut out = BytesMut::new();
        let line = format!(
            "Status: {} {}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{why}\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
        );
        super::put_stdout(&mut out, id, line.as_bytes());
        super::put_end(&mut out, id, Status::Complete, 0);
        self.decoder.ended(id);
        send(&self.pieces, out.freeze()).await
    }

    /// Waits until all that was said is on its way.
    async fn finish(&self) -> io::Result<()> {
        let (written, all) = tokio::sync::oneshot::channel();
        let last = Piece {
            bytes: Bytes::new(),
            written: Some(written),
        };
        if self.pieces.send(last).await.is_ok() {
            let _ = all.await;
        }
        Ok(())
    }
}

async fn send(pieces: &mpsc::Sender<Piece>, bytes: Bytes) -> io::Result<()> {
    let piece = Piece {
        bytes,
        written: None,
    };
    let sent = pieces.send(piece).await;
    sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Answers one request.
async fn respond(
    edge: Arc<Edge>,
    connection: Arc<Connection>,
    request: Request<Arriving>,
    id: u16,
    pieces: mpsc::Sender<Piece>,
) -> Ended {
    let orders = Arc::clone(&connection);
    let answering = async {
        let Ok(response) = answer(edge, connection, request).await;
        write(response, id, &pieces).await
    };
    let mut answering = pin!(answering);
    poll_fn(|context| match orders.poll_order(context) {
        Order::Serve | Order::Drain | Order::Evict => {
            let polled = answering.as_mut().poll(context);
            polled.map(|written| written.map_or(Ended::Short, |()| Ended::Whole))
        }
        Order::Cut => Poll::Ready(Ended::Aborted),
    })
    .await
}

async fn write(response: Response<Reply>, id: u16, pieces: &mpsc::Sender<Piece>) -> io::Result<()> {
    let (mut parts, mut body) = response.into_parts();
    // Where nothing comes the head says what would, if anything.
    let length = body.size_hint().exact().filter(|length| *length > 0);
    if let Some(length) = length {
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut out = BytesMut::new();
    super::put_stdout(&mut out, id, &head(&parts));
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(io::Error::other)?;
        // There is no place for trailers.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        for part in data.chunks(PIECE_BYTES_MAX) {
            super::put_stdout(&mut out, id, part);
            send(pieces, out.split().freeze()).await?;
        }
    }
    super::put_end(&mut out, id, Status::Complete, 0);
    send(pieces, out.freeze()).await
}

/// The head as CGI has it (RFC 3875 §6.3).
fn head(parts: &http::response::Parts) -> BytesMut {
    let mut head = BytesMut::with_capacity(256);
    let status = parts.status;
    head.extend_from_slice(b"Status: ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.extend_from_slice(b" ");
    head.extend_from_slice(status.canonical_reason().unwrap_or("-").as_bytes());
    head.extend_from_slice(b"\r\n");
    let is_bound = |name| [CONNECTION, TRANSFER_ENCODING].contains(name);
    for (name, value) in parts.headers.iter().filter(|(name, _)| !is_bound(name)) {
        let line: [&[u8]; 4] = [
            name.as_str().as_bytes(),
            b": ",
            HeaderValue::as_bytes(value),
            b"\r\n",
        ];
        line.iter().for_each(|part| head.extend_from_slice(part));
    }
    head.extend_from_slice(b"\r\n");
    head
}
