//! Where somebody may connect: ports for HTTP and HTTPS, sockets for web servers, and the loops that let
//! who comes in. Not what a connection does: `serve` and `fastcgi`.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::connection::Connection;
use crate::fastcgi::{Accepted, Bound, Listener};
use crate::forwarded::Scheme;
use crate::refusal;
use crate::serve::{Http, serve};
use crate::server::{EdgeError, Shared};

/// A pause after an error of `accept` that a retry would only repeat, as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The process, or the machine, has as many files open as it may: the same on all Unix.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Where somebody may connect.
pub(crate) enum Door {
    Http(TcpListener, Scheme, Arc<Http>),
    /// At one of the workers, which serves who comes; the socket goes with the last of them.
    FastCgi(
        Listener,
        usize,
        #[expect(dead_code, reason = "it is kept open")] Arc<Bound>,
    ),
}

impl Door {
    /// Lets the next one in.
    async fn next(&self, shared: &Arc<Shared>) -> io::Result<()> {
        match self {
            Self::Http(listener, scheme, http) => {
                let (stream, peer) = listener.accept().await?;
                begin(shared, http, stream, (peer, *scheme));
            }
            Self::FastCgi(listener, worker, _) => {
                begin_fastcgi(shared, *worker, listener.accept().await?);
            }
        }
        Ok(())
    }
}

pub(crate) async fn accept(shared: Arc<Shared>, door: Door) {
    tokio::select! {
        () = shared.stop.cancelled() => return,
        () = shared.open.cancelled() => {}
    }
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = door.next(&shared) => accepted,
        };
        match accepted {
            Ok(()) => {}
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
                    shared.registry.make_room();
                }
                if let Some(count) = shared.failed_accepts.count(Instant::now()) {
                    tracing::warn!(%error, count, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error of `accept` is about the connection that was there, and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn begin(
    shared: &Arc<Shared>,
    http: &Arc<Http>,
    stream: TcpStream,
    (peer, scheme): (SocketAddr, Scheme),
) {
    // Answers are written whole; waiting to fill packets only delays them.
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| Ok((stream.local_addr()?, stream.into_std()?)));
    let Ok((local, stream)) = prepared else {
        return;
    };
    let edge = &shared.edge;
    // What a proxy brings counts for its clients, once it has said who they are.
    let is_trusted =
        |address| edge.trusted_proxies.contains(&address) || edge.speaks_for_others(address);
    let connection = Arc::new(Connection::new(peer, local, is_trusted).on(scheme));
    let place = match shared.registry.enter(&connection) {
        Ok(place) => place,
        Err(full) => {
            shared.warn_full(full, &connection);
            turn_away(&stream, scheme);
            return;
        }
    };
    let seat = shared.workers.seat();
    let _worker = seat.runtime.enter();
    // Leaves the reactor of the listener for that of the worker.
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    let serving = serve(
        Arc::clone(edge),
        Arc::clone(http),
        stream,
        connection,
        place,
    );
    let runtime = seat.runtime.clone();
    let serving = async move {
        serving.await;
        drop(seat);
    };
    shared.tasks.spawn_on(serving, &runtime);
}

fn begin_fastcgi(shared: &Shared, worker: usize, accepted: Accepted) {
    let peer = accepted.peer();
    if !accepted.may_ask(&shared.fastcgi.allow) {
        if let Some(count) = shared.refused_fastcgi.count(Instant::now()) {
            tracing::warn!(count, %peer, "FastCGI is not for this peer: `fastcgi.allow` in node.toml names those that may ask");
        }
        return;
    }
    let limits = shared.fastcgi.limits;
    let Some((connection, place)) = shared.enter_fastcgi(peer, &limits) else {
        return;
    };
    let seat = shared.workers.seat_near(worker);
    let accepted = match seat.worker == worker {
        true => Ok(accepted),
        false => accepted.at(&seat.runtime),
    };
    let Ok(accepted) = accepted else { return };
    match accepted {
        Accepted::Tcp(stream, _) => {
            shared.spawn_fastcgi(stream.into_split(), limits, connection, place, seat);
        }
        Accepted::Unix(stream) => {
            shared.spawn_fastcgi(stream.into_split(), limits, connection, place, seat);
        }
    }
}

/// Tells a client that there are too many, as far as that goes without waiting for it.
fn turn_away(mut stream: &StdStream, scheme: Scheme) {
    if scheme == Scheme::Https {
        // There is nothing that could be said without a handshake.
        return;
    }
    // Bytes left unread would turn the close into a reset that overtakes the answer.
    let mut unread = [0; 4096];
    let _ = stream.read(&mut unread);
    let _ = stream.write(refusal::for_one_too_many());
}

pub(crate) fn listen_on(
    addresses: &[SocketAddr],
    backlog: u32,
) -> Result<Vec<(SocketAddr, TcpListener)>, EdgeError> {
    let listeners = addresses.iter().map(|&address| {
        listen(address, addresses, backlog)
            .and_then(|listener| Ok((listener.local_addr()?, TcpListener::from_std(listener)?)))
            .map_err(|source| EdgeError::Listen { address, source })
    });
    listeners.collect()
}

pub(crate) fn listen(
    address: SocketAddr,
    all: &[SocketAddr],
    backlog: u32,
) -> io::Result<StdListener> {
    let socket = RawSocket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the last run's connections to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        let has_ipv4_twin = all
            .iter()
            .any(|other| other.is_ipv4() && other.port() == address.port());
        socket.set_only_v6(has_ipv4_twin)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
