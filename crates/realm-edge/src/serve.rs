//! One connection: which protocol it speaks, hyper's part, obeying orders, and a close that does
//! not swallow the last answer. Not where connections come from.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Edge, answer};
use crate::arrival::{Arrived, arrive};
use crate::config::{EdgeLimits, HEADER_COUNT_MAX};
use crate::connection::{Connection, Ending, Order};
use crate::io::Socket;
use crate::registry::Place;
use crate::request_body::Arriving;
use crate::stream::watch;
use crate::turns::{self, in_turn};
use crate::websocket::{Gone, Switching, carry};
use crate::wire::Stream;

/// How long a closing connection reads on, so that its client sees the answer and not a reset.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// And how much: as much as a component takes by default, so that whoever sends such a body and
/// gets its answer early can read it.
pub(crate) const LINGER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// At once. On the heap: most connections never come to this.
const LINGER_READ_BYTES: usize = 16 * 1024;

/// The two protocols, with their limits.
pub(crate) struct Http {
    http1: http1::Builder,
    limits: EdgeLimits,
    tasks: TaskTracker,
}

/// Serves a connection until it ends; it holds its place until its socket is closed.
pub(crate) async fn serve(
    edge: Arc<Edge>,
    http: Arc<Http>,
    stream: TcpStream,
    connection: Arc<Connection>,
    place: Place,
) {
    let Some(arrived) = arrive(&edge, stream, connection, place).await else {
        return;
    };
    let Arrived {
        stream,
        is_http2,
        connection,
        place,
    } = arrived;
    let serving = async {
        drive(edge, &http, (stream, is_http2), &connection).await;
        close(&connection).await;
    };
    in_turn(serving, || connection.is_to_end()).await;
    drop(place);
}

/// Tells the protocols apart, where the handshake did not, and runs the one.
async fn drive(
    edge: Arc<Edge>,
    http: &Http,
    (stream, is_http2): (Stream, Option<bool>),
    connection: &Arc<Connection>,
) {
    let mut socket = Socket::new(stream, Arc::clone(connection));
    let told = poll_fn(|context| match (connection.poll_order(context), is_http2) {
        (Order::Serve, Some(is_http2)) => Poll::Ready(Some(is_http2)),
        (Order::Serve, None) => socket.poll_is_http2(context).map(Result::ok),
        (Order::Drain | Order::Evict | Order::Cut, _) => Poll::Ready(None),
    });
    let Some(is_http2) = told.await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let request = request.map(Arriving::Http);
        answer(Arc::clone(&edge), Arc::clone(connection), request)
    });
    let socket = TokioIo::new(socket);
    let result = if is_http2 {
        let over = CancellationToken::new();
        let _over = over.clone().drop_guard();
        let serving = http.http2(over).serve_connection(socket, service);
        obey(serving, |serving| serving.graceful_shutdown(), connection).await
    } else {
        let serving = http.http1.serve_connection(socket, service).with_upgrades();
        obey(serving, |serving| serving.graceful_shutdown(), connection).await
    };
    if let Err(error) = result {
        tracing::debug!(peer = %connection.peer, %error, "a connection ended");
    }
    if let Some(switching) = connection.take_switching() {
        switch(switching, connection).await;
    }
}

/// Carries the bytes of a WebSocket until its end.
async fn switch(switching: Switching, connection: &Connection) {
    let Switching {
        upgrade,
        switched,
        told,
    } = switching;
    // Else the client went before its last answer.
    let Ok(upgraded) = upgrade.await else { return };
    let stops = poll_fn(|context| match connection.poll_order(context) {
        Order::Serve | Order::Evict => Poll::Pending,
        Order::Drain | Order::Cut => Poll::Ready(Gone::Stops),
    });
    let cut = poll_fn(|context| match connection.poll_order(context) {
        Order::Serve | Order::Evict | Order::Drain => Poll::Pending,
        Order::Cut => Poll::Ready(()),
    });
    tokio::select! {
        () = carry(TokioIo::new(upgraded), switched, stops, Some(&told)) => {}
        () = cut => {}
    }
}

/// Runs a protocol until it ends or is ordered to.
async fn obey<P, E>(
    protocol: P,
    shut: impl Fn(Pin<&mut P>),
    connection: &Connection,
) -> Result<(), E>
where
    P: Future<Output = Result<(), E>>,
{
    let mut protocol = pin!(protocol);
    let mut is_draining = false;
    poll_fn(|context| {
        let order = connection.poll_order(context);
        match order {
            Order::Serve => {}
            Order::Drain | Order::Evict if is_draining => {}
            Order::Drain | Order::Evict => {
                is_draining = true;
                shut(protocol.as_mut());
            }
            Order::Cut => return Poll::Ready(Ok(())),
        }
        // Polled before an eviction too: it sends HTTP/2's farewell, and finds a request that
        // came in between.
        let polled = protocol.as_mut().poll(context);
        if polled.is_pending() && order == Order::Evict && connection.idle_since().is_some() {
            return Poll::Ready(Ok(()));
        }
        polled
    })
    .await
}

/// Closes the socket that hyper gave back.
async fn close(connection: &Connection) {
    let Some(mut stream) = connection.take_socket() else {
        return;
    };
    match connection.ending() {
        Ending::Close => {}
        Ending::Linger => linger(connection, &mut stream).await,
        Ending::Reset => {
            let _ = socket2::SockRef::from(&*stream.tcp()).set_linger(Some(Duration::ZERO));
        }
    }
}

pub(crate) async fn linger(connection: &Connection, stream: &mut Stream) {
    let reading = async {
        let _ = stream.shutdown().await;
        // Nobody wants to know what it says: it need not be deciphered.
        let stream = stream.tcp();
        let mut unread = vec![0; LINGER_READ_BYTES];
        let mut n_read = 0;
        while n_read < LINGER_BYTES_MAX {
            match stream.read(&mut unread).await {
                Ok(0) | Err(_) => return,
                Ok(count) => n_read += count,
            }
            turns::reads_on(!connection.is_excused());
            // Else many that send what nobody wants are read for milliseconds at a time, while
            // requests wait for the thread.
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

/// Runs the HTTP/2 streams of one connection as watched tasks that `shutdown` waits for. They end with it, also
/// those that are held back: it has room for so many, and the next one as well.
#[derive(Clone)]
struct Tracked {
    over: CancellationToken,
    tasks: TaskTracker,
    stall_max: Duration,
}

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        let watched = watch(future, self.stall_max);
        let over = self.over.clone();
        let ends = over.clone();
        let stream = async move {
            tokio::select! {
                biased;
                () = ends.cancelled() => {}
                () = watched => {}
            }
        };
        self.tasks
            .spawn(in_turn(stream, move || over.is_cancelled()));
    }
}

impl Http {
    pub(crate) fn new(limits: &EdgeLimits, tasks: TaskTracker) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .max_buf_size(limits.buffer_bytes_max)
            .max_header_size(limits.header_bytes_max)
            // The sweep keeps the time: hyper's own timer costs an allocation per request.
            .header_read_timeout(None);
        // hyper's own number lives on the stack; any other one costs an allocation per request.
        if limits.header_count_max != HEADER_COUNT_MAX {
            http1.max_headers(limits.header_count_max);
        }
        Self {
            http1,
            limits: limits.clone(),
            tasks,
        }
    }

    /// For one connection, which ends when `over` is cancelled.
    fn http2(&self, over: CancellationToken) -> http2::Builder<Tracked> {
        let limits = &self.limits;
        let mut http2 = http2::Builder::new(Tracked {
            over,
            tasks: self.tasks.clone(),
            stall_max: limits.write_stall_timeout,
        });
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .max_send_buf_size(limits.stream_send_buffer_bytes)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(limits.pending_resets_max)
            .max_local_error_reset_streams(limits.error_resets_max)
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout);
        http2
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_closing_connection_lets_others_run_between_two_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let mut stream = Stream::Plain(stream.into());
        client.writable().await.unwrap();
        let mut n_sent = 0;
        while let Ok(count) = client.try_write(&[0; 4096]) {
            n_sent += count;
        }
        drop(client);
        let connection = Connection::new(peer, address, |_| false);
        let mut n_turns = 0;
        let others = async {
            loop {
                n_turns += 1;
                yield_now().await;
            }
        };
        tokio::select! {
            () = linger(&connection, &mut stream) => {}
            () = others => {}
        }
        let n_read = n_sent.min(LINGER_BYTES_MAX);
        assert!(
            n_turns >= n_read / LINGER_READ_BYTES,
            "{n_turns} turns, {n_read} bytes"
        );
    }
}
