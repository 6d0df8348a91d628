//! One connection of a web server: its requests are answered like any others, several at once if it
//! wants that, and written back in records.
//!
//! No stream of a connection has a window of its own in FastCGI: what one request does not read, or one
//! client does not take, holds up the others of its connection. So there is little of each in memory, and
//! as many requests at once as the limits say. Not what a request means: `request`; nor its answer.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until};

use super::aborts::Aborts;
use super::hearing::Hearing;
use super::request::{self, Asked};
use super::rest::Rest;
use super::stdin::{Part, Sender, Stdin};
use super::writing::{Ended, PIECE_BYTES_MAX, Piece, Writer, respond, send};
use super::{BadParams, Decoder, Event, GuestLog, Limits, Params, Role, Status};
use crate::answer::Edge;
use crate::connection::{Connection, Order};
use crate::request_body::Arriving;
use crate::serve::{LINGER_BYTES_MAX, LINGER_TIMEOUT};
use crate::turns::in_turn;

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;
/// And of a connection on which no body is expected: most parameters fit, and thousands that wait hold
/// little.
const PARAMS_BYTES: usize = 2 * 1024;

/// How long an answer that broke off waits for others of its connection, which end with that.
const BREAK_TIMEOUT: Duration = Duration::from_secs(5);

/// How soon it is seen that a web server is gone whose bytes nobody reads.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a task of a request comes to.
type Joined = Result<(u16, Ended), JoinError>;

/// A request under way.
struct Under {
    /// Where its body goes, while more may come.
    body: Option<Sender>,
    /// Said to who writes the answer once all of the body has come, where the end waits for that.
    is_said: Option<Arc<AtomicBool>>,
    /// What ends it.
    connection: Arc<Connection>,
    is_aborted: bool,
}

/// Serves a connection until it ends. `here` is who asks where the web server does not say so. `connection`
/// is that of the web server: its orders are obeyed, and the sweep sees on it when nothing moves.
pub(crate) async fn serve(
    edge: Arc<Edge>,
    (mut read, mut write): (impl Hearing, impl AsyncWrite + Send + Unpin),
    limits: Limits,
    here: Option<IpAddr>,
    connection: Arc<Connection>,
) {
    let pieces_max = (limits.stdout_waiting_bytes_max / PIECE_BYTES_MAX).max(1);
    let (pieces, waiting) = mpsc::channel(pieces_max);
    let front = Arc::clone(&connection);
    let mut served = Served {
        edge,
        here,
        decoder: Decoder::new(limits),
        limits,
        aborts: Aborts::new(limits.aborts_per_second_max, Instant::now()),
        requests: BTreeMap::new(),
        rests: BTreeMap::new(),
        tasks: JoinSet::new(),
        pieces,
        connection,
        has_unread: false,
        breaks: None,
    };
    let ended = {
        let mut reading = pin!(served.run(&mut read));
        let mut writing = pin!(write_all(&mut write, waiting, &front));
        let cut = poll_fn(|context| match front.poll_order(context) {
            Order::Serve | Order::Drain | Order::Evict => Poll::Pending,
            Order::Cut => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        });
        tokio::select! {
            ended = reading.as_mut() => ended,
            written = writing.as_mut() => written,
            cut = cut => cut,
        }
    };
    // Before their bodies end: a guest shall be ended because nobody waits for it, and not hear first that its
    // request broke off, and answer that.
    served.tasks.shutdown().await;
    match ended {
        Ok(()) if served.has_unread => linger(read, write, &front).await,
        Ok(()) => {}
        Err(error) => tracing::debug!(%error, "a FastCGI connection ended"),
    }
}

/// Reads on for a moment: a socket that is closed with unread bytes is reset, and the reset can overtake the
/// answer.
async fn linger(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    connection: &Connection,
) {
    let reading = async {
        let _ = write.shutdown().await;
        let mut unread = BytesMut::with_capacity(READ_BYTES);
        let mut n_read = 0;
        while n_read < LINGER_BYTES_MAX {
            unread.clear();
            match read.read_buf(&mut unread).await {
                Ok(0) | Err(_) => return,
                Ok(count) => n_read += count,
            }
            yield_now().await;
        }
    };
    let cut = poll_fn(|context| match connection.poll_order(context) {
        Order::Serve | Order::Drain => Poll::Pending,
        Order::Evict | Order::Cut => Poll::Ready(()),
    });
    tokio::select! {
        () = reading => {}
        () = cut => {}
        () = tokio::time::sleep(LINGER_TIMEOUT) => {}
    }
}

/// Writes what comes. Whether the web server takes it is noted: the sweep cuts who takes nothing for long,
/// with all requests of the connection.
async fn write_all(
    mut io: impl AsyncWrite + Unpin,
    mut pieces: mpsc::Receiver<Piece>,
    connection: &Connection,
) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        let mut bytes = piece.bytes;
        while bytes.has_remaining() {
            let written = poll_fn(|context| {
                let written = Pin::new(&mut io).poll_write(context, &bytes);
                connection.saw_write(written.is_pending());
                written
            });
            match written.await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes.advance(written),
            }
        }
        // Who waits for the last bytes of a connection waits until they are on their way.
        drop(piece.written);
    }
    Ok(())
}

struct Served {
    edge: Arc<Edge>,
    here: Option<IpAddr>,
    decoder: Decoder,
    limits: Limits,
    aborts: Aborts,
    requests: BTreeMap<u16, Under>,
    /// Those that are answered, and whose end waits for what is left of their bodies.
    rests: BTreeMap<u16, Rest>,
    tasks: JoinSet<(u16, Ended)>,
    pieces: mpsc::Sender<Piece>,
    /// The web server's.
    connection: Arc<Connection>,
    /// A request was answered before all of it came.
    has_unread: bool,
    /// An answer broke off: the connection ends with the last of its other requests, or then.
    breaks: Option<Instant>,
}

impl Served {
    async fn run(&mut self, io: &mut impl Hearing) -> io::Result<()> {
        let connection = Arc::clone(&self.connection);
        let mut input = BytesMut::new();
        loop {
            while let Some(event) = self.next(&mut input)? {
                self.take(event, &mut input, &*io).await?;
            }
            if self
                .breaks
                .is_some_and(|at| self.decoder.active() == 0 || at <= Instant::now())
            {
                return self.break_off().await;
            }
            let order = poll_fn(|context| Poll::Ready(connection.poll_order(context))).await;
            let is_over = order != Order::Serve;
            if is_over {
                self.end_rests(None).await?;
            }
            let is_idle = self.decoder.active() == 0;
            if is_idle && input.is_empty() && self.decoder.is_between_records() {
                connection.saw_no_request();
            }
            if is_idle && (self.decoder.closes() || is_over) {
                return self.finish().await;
            }
            let ordered = poll_fn(|context| match connection.poll_order(context) == order {
                true => Poll::Pending,
                false => Poll::Ready(()),
            });
            let has_body =
                !self.rests.is_empty() || self.requests.values().any(|under| under.body.is_some());
            let rest_ends = self.rests.values().map(Rest::ends).min();
            if has_body {
                input.reserve(READ_BYTES);
            } else if input.is_empty() && input.capacity() > READ_BYTES {
                input = BytesMut::with_capacity(PARAMS_BYTES);
            } else {
                input.reserve(PARAMS_BYTES);
            }
            tokio::select! {
                ended = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.ended(ended).await?;
                }
                // Not all that there is room for: what is read at once is what one part of a body holds.
                read = read_some(io, &mut input) => {
                    if read? == 0 {
                        // So web servers abort requests: whoever asked is gone.
                        return Ok(());
                    }
                    connection.saw_read();
                }
                () = until(rest_ends) => self.end_rests(rest_ends).await?,
                () = until(self.breaks) => {}
                () = ordered => {}
            }
        }
    }

    fn next(&mut self, input: &mut BytesMut) -> io::Result<Option<Event>> {
        self.decoder.next(input).map_err(io::Error::other)
    }

    async fn ended(&mut self, ended: Option<Joined>) -> io::Result<()> {
        let Some(ended) = ended else { return Ok(()) };
        let (id, ended) = ended.map_err(io::Error::other)?;
        self.end(id, ended).await
    }

    async fn end(&mut self, id: u16, ended: Ended) -> io::Result<()> {
        let under = self.requests.remove(&id);
        let has_body = under.as_ref().is_some_and(|under| under.body.is_some());
        if ended == Ended::Answered {
            self.rests.insert(id, Rest::new(Instant::now()));
            return match has_body {
                true => Ok(()),
                false => self.end_rest(id, true).await,
            };
        }
        self.has_unread |= has_body;
        self.decoder.ended(id);
        self.connection.end_request();
        let is_aborted = under.is_some_and(|under| under.is_aborted);
        match ended {
            Ended::Whole | Ended::Answered => Ok(()),
            Ended::Aborted if is_aborted => {
                let mut out = BytesMut::new();
                super::put_end(&mut out, id, Status::Complete, 0);
                send(&self.pieces, out.freeze()).await
            }
            Ended::Aborted | Ended::Short if self.decoder.active() == 0 => self.break_off().await,
            Ended::Aborted | Ended::Short => {
                self.breaks
                    .get_or_insert_with(|| Instant::now() + BREAK_TIMEOUT);
                Ok(())
            }
        }
    }

    /// Ends the connection in place of an answer, of which arrives what there was. The end of the connection
    /// alone is not enough: nginx and Caddy take that for the end of an answer without a length, unless
    /// something is wrong with it.
    async fn break_off(&self) -> io::Result<()> {
        let mut out = BytesMut::new();
        super::put_break(&mut out);
        send(&self.pieces, out.freeze()).await?;
        self.finish().await?;
        Err(io::Error::other("an answer was cut short"))
    }

    async fn take(
        &mut self,
        event: Event,
        input: &mut BytesMut,
        from: &impl Hearing,
    ) -> io::Result<()> {
        match event {
            Event::Request { id, role, params } => {
                // Most requests have no body, and its end came with them.
                let after = self.next(input)?;
                if after == Some(Event::Abort { id }) {
                    return self.abort(id).await;
                }
                let is_over = after == Some(Event::StdinEnd { id });
                self.begin(id, role, &params, is_over).await?;
                match after {
                    Some(after) if !is_over => Box::pin(self.take(after, input, from)).await,
                    Some(_) | None => Ok(()),
                }
            }
            Event::Bad { id, reason } => {
                let (status, why) = match reason {
                    BadParams::TooLarge | BadParams::TooMany | BadParams::LongName => (
                        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        "the parameters are too many or too large",
                    ),
                    BadParams::Cut => (StatusCode::BAD_REQUEST, "the parameters are cut short"),
                };
                self.refuse(id, status, why, false).await
            }
            Event::Stdin { id, bytes } => self.stdin(id, bytes, from).await,
            Event::StdinEnd { id } => self.stdin_end(id, from).await,
            Event::Abort { id } => self.abort(id).await,
            Event::Reply(bytes) => send(&self.pieces, bytes).await,
        }
    }

    async fn stdin(&mut self, id: u16, bytes: Bytes, from: &impl Hearing) -> io::Result<()> {
        let rest = self.rests.get_mut(&id);
        match rest.map(|rest| rest.came(bytes.len(), Instant::now())) {
            None => self.put(id, Part::Bytes(bytes), from).await,
            Some(true) => Ok(()),
            Some(false) => self.end_rest(id, false).await,
        }
    }

    async fn stdin_end(&mut self, id: u16, from: &impl Hearing) -> io::Result<()> {
        let said = self.requests.get(&id);
        if let Some(is_said) = said.and_then(|under| under.is_said.as_ref()) {
            is_said.store(true, Relaxed);
        }
        self.put(id, Part::End, from).await?;
        if let Some(under) = self.requests.get_mut(&id) {
            under.body = None;
        }
        match self.rests.contains_key(&id) {
            true => self.end_rest(id, true).await,
            false => Ok(()),
        }
    }

    /// Says the end of a request that is answered; what is left of its body is nobody's.
    async fn end_rest(&mut self, id: u16, is_whole: bool) -> io::Result<()> {
        self.rests.remove(&id);
        self.has_unread |= !is_whole;
        self.decoder.ended(id);
        self.connection.end_request();
        let mut out = BytesMut::new();
        super::put_end_request(&mut out, id, Status::Complete, 0);
        send(&self.pieces, out.freeze()).await
    }

    /// The same of all that are waited for until then at most; `None`: of all.
    async fn end_rests(&mut self, until: Option<Instant>) -> io::Result<()> {
        let is_over = |rest: &Rest| until.is_none_or(|until| rest.ends() <= until);
        let over = self.rests.iter().filter(|(_, rest)| is_over(rest));
        let over: Vec<u16> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.end_rest(id, false).await?;
        }
        Ok(())
    }

    /// Ends a request that nobody waits for any more, where it is; one that no guest has heard of at once.
    async fn abort(&mut self, id: u16) -> io::Result<()> {
        if !self.aborts.allow(Instant::now()) {
            return Err(io::Error::other("more requests are aborted than may be"));
        }
        if let Some(under) = self.requests.get_mut(&id) {
            under.is_aborted = true;
            under.connection.give_order(Order::Cut);
            return Ok(());
        }
        if self.rests.contains_key(&id) {
            return self.end_rest(id, false).await;
        }
        self.decoder.ended(id);
        let mut out = BytesMut::new();
        super::put_end(&mut out, id, Status::Complete, 0);
        send(&self.pieces, out.freeze()).await
    }

    /// Waits where the request does not read: meanwhile others are answered, and may end. So may the web
    /// server, which nobody hears while its bytes are not read.
    async fn put(&mut self, id: u16, part: Part, from: &impl Hearing) -> io::Result<()> {
        let under = self.requests.get(&id);
        let Some(body) = under.and_then(|under| under.body.clone()) else {
            return Ok(());
        };
        let mut sending = pin!(body.send(part));
        loop {
            tokio::select! {
                // Nearly always there is room: no timer is made then.
                biased;
                // Who does not want it any more lets it go.
                _ = sending.as_mut() => return Ok(()),
                ended = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(ended).await?,
                () = sleep(LOOK_INTERVAL) => {
                    if from.is_gone() {
                        return Err(io::Error::other("the web server went away in a body"));
                    }
                }
            }
        }
    }

    async fn begin(
        &mut self,
        id: u16,
        role: Role,
        params: &Params,
        is_over: bool,
    ) -> io::Result<()> {
        let asked = match request::read(params, self.here) {
            Ok(asked) => asked,
            Err(why) => {
                let why = (why.status(), why.to_string());
                let waits = !is_over && role == Role::Responder && self.waits(params);
                return self.refuse(id, why.0, &why.1, waits).await;
            }
        };
        let has_body = match role {
            Role::Responder => !is_over || asked.length.is_some_and(|length| length > 0),
            // Whatever length the request of the client has, its body is not for who only lets it pass.
            Role::Authorizer => false,
        };
        let (body, stdin) = match has_body {
            true => {
                let parts_max = self.limits.stdin_waiting_bytes_max / READ_BYTES;
                let (body, stdin) = Stdin::new(asked.length, parts_max);
                // What does not come any more is not waited for.
                ((!is_over).then_some(body), stdin)
            }
            false => (None, Stdin::none()),
        };
        let waits = body.is_some() && self.waits(params);
        let is_said = waits.then(Arc::<AtomicBool>::default);
        let Asked {
            request,
            vouched,
            client,
            scheme,
            length: _,
        } = asked;
        let edge = Arc::clone(&self.edge);
        let trusted = |address| edge.trusted_proxies.contains(&address);
        let connection = Connection::behind(client, scheme, vouched, trusted);
        let connection = Arc::new(connection.within(self.limits.times));
        let under = Under {
            body,
            is_said: is_said.clone(),
            connection: Arc::clone(&connection),
            is_aborted: false,
        };
        self.requests.insert(id, under);
        self.connection.begin_request();
        let log = GuestLog::new(self.limits.stderr_bytes_max);
        let mut request = request.map(|()| Arriving::FastCgi(stdin));
        request.extensions_mut().insert(log.clone());
        let answer = Writer {
            id,
            role,
            pieces: self.pieces.clone(),
            log,
            body: is_said,
        };
        let order = Arc::clone(&connection);
        let ordered = Arc::clone(&connection);
        let answering = respond(edge, connection, request, answer);
        let mut answering = Box::pin(in_turn(answering, move || order.is_to_end()));
        // Here, before it gets a task of its own: most answer without waiting for anything.
        match poll_fn(|context| Poll::Ready(answering.as_mut().poll(context))).await {
            Poll::Ready(ended) => self.end(id, ended).await,
            Poll::Pending => {
                self.tasks.spawn(async move {
                    let ended = poll_fn(|context| {
                        // Held back or not: an order wakes this task from here on.
                        ordered.poll_order(context);
                        answering.as_mut().poll(context)
                    });
                    (id, ended.await)
                });
                Ok(())
            }
        }
    }

    /// Whether the end of a request comes behind its body. What closes the connection behind the answer reads
    /// the rest of the body before that.
    fn waits(&self, params: &Params) -> bool {
        !self.decoder.closes() && request::ends_behind_body(params)
    }

    /// Answers in a component's place.
    async fn refuse(
        &mut self,
        id: u16,
        status: StatusCode,
        why: &str,
        waits: bool,
    ) -> io::Result<()> {
        let mut out = BytesMut::new();
        let line = format!(
            "Status: {} {}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{why}\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
        );
        super::put_stdout(&mut out, id, line.as_bytes());
        if waits {
            super::put_stdout_end(&mut out, id);
            self.connection.begin_request();
            self.rests.insert(id, Rest::new(Instant::now()));
        } else {
            super::put_end(&mut out, id, Status::Complete, 0);
            self.has_unread = true;
            self.decoder.ended(id);
        }
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

async fn read_some(io: &mut impl Hearing, input: &mut BytesMut) -> io::Result<usize> {
    io.read_buf(&mut input.limit(READ_BYTES)).await
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
