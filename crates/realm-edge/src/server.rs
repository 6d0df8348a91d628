//! Listeners, their accept loops, and the handle to it all. Not what a connection does: `serve`.
//!
//! One accept loop per listener on the runtime that `spawn` runs on; `workers` serve what it
//! accepts.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle as Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Edge;
use crate::aside::{Allowance, Answers};
use crate::config::Config;
use crate::connection::{Connection, Order};
use crate::fastcgi::{self, Accepted, Bound, FastCgi, FastCgiAddress, Listener};
use crate::observe::Observer;
use crate::ports::{self, Port, PortTrouble, Ports};
use crate::refusal;
use crate::registry::{Full, Place, Registry};
use crate::serve::{Http, serve};
use crate::table::Table;
use crate::throttle::Throttle;
use crate::tunnel;
use crate::upstream::Io;
use crate::workers::{Seat, Workers};

/// A pause after an error of `accept` that a retry would only repeat, as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The process, or the machine, has as many files open as it may: the same on all Unix.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// The edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// An address cannot be listened on.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket for web servers cannot be listened on.
    #[error("cannot listen on `{address}` for FastCGI")]
    FastCgi {
        /// The socket.
        address: FastCgiAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no threads to serve connections.
    #[error("cannot start {count} threads to serve connections")]
    Workers {
        /// How many were to be started.
        count: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running edge. Cheap to clone; dropping it stops nothing.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    edge: Arc<Edge>,
    registry: Arc<Registry>,
    workers: Workers,
    addresses: Vec<SocketAddr>,
    fastcgi_addresses: Vec<FastCgiAddress>,
    fastcgi: FastCgi,
    open: CancellationToken,
    stop: CancellationToken,
    listeners: TaskTracker,
    tasks: TaskTracker,
    /// Streams of other nodes and of web servers.
    tunnels: TaskTracker,
    /// What the thread that they come on spends on answers.
    aside: Arc<Allowance>,
    /// Ends what other nodes still wait for.
    cut: CancellationToken,
    ports: Ports,
    failed_accepts: Throttle,
    refused_by_edge: Throttle,
    refused_by_address: Throttle,
    refused_fastcgi: Throttle,
}

/// Listens and serves until [`Handle::shutdown`]. Begins with an empty table: every request is
/// refused with `no-route` until [`Handle::set_table`].
///
/// # Errors
///
/// An address that cannot be listened on; then none is.
pub async fn spawn(config: Config, observer: Arc<dyn Observer>) -> Result<Handle, EdgeError> {
    let handle = spawn_closed(config, observer).await?;
    handle.open();
    Ok(handle)
}

/// [`spawn`], but who connects waits, in the kernel's queue, until [`Handle::open`].
///
/// # Errors
///
/// An address that cannot be listened on; then none is.
pub async fn spawn_closed(
    config: Config,
    observer: Arc<dyn Observer>,
) -> Result<Handle, EdgeError> {
    let wanted = config.limits.connections_max;
    let files_max = config.limits.files_max;
    let limits = config.limits.within(files_max);
    if limits.connections_max < wanted {
        tracing::info!(
            connections_max = limits.connections_max,
            files_max,
            "the limit of open files lowers that of connections"
        );
    }
    let listeners = config
        .listen
        .iter()
        .map(|&address| {
            listen(address, &config.listen, limits.backlog)
                .and_then(|listener| Ok((listener.local_addr()?, TcpListener::from_std(listener)?)))
                .map_err(|source| EdgeError::Listen { address, source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let bound = config
        .fastcgi
        .listen
        .iter()
        .map(|wanted| {
            Bound::new(wanted, &[], limits.backlog)
                .and_then(|bound| Ok((bound.address()?, bound)))
                .map_err(|source| EdgeError::FastCgi {
                    address: wanted.address(),
                    source,
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let workers = Workers::start(config.workers).map_err(|source| EdgeError::Workers {
        count: config.workers,
        source,
    })?;
    let mut fronts = Vec::new();
    let mut fastcgi_addresses = Vec::new();
    for (address, bound) in bound {
        let bound = Arc::new(bound);
        for worker in 0..workers.count() {
            let runtime = workers.seat_at(worker).runtime.clone();
            let listener = bound
                .listener(&runtime)
                .map_err(|source| EdgeError::FastCgi {
                    address: address.clone(),
                    source,
                })?;
            fronts.push((Door::FastCgi(listener, worker, Arc::clone(&bound)), runtime));
        }
        fastcgi_addresses.push(address);
    }
    let registry = Arc::new(Registry::new(&limits));
    let shared = Arc::new(Shared {
        edge: Arc::new(Edge {
            table: ArcSwap::from_pointee(Table::default()),
            observer,
            trusted_proxies: config
                .trusted_proxies
                .iter()
                .map(|address| address.to_canonical())
                .collect(),
            limits,
        }),
        registry,
        workers,
        addresses: listeners.iter().map(|(address, _)| *address).collect(),
        fastcgi_addresses,
        fastcgi: config.fastcgi,
        open: CancellationToken::new(),
        stop: CancellationToken::new(),
        listeners: TaskTracker::new(),
        tasks: TaskTracker::new(),
        tunnels: TaskTracker::new(),
        aside: Arc::default(),
        cut: CancellationToken::new(),
        ports: Ports::default(),
        failed_accepts: Throttle::default(),
        refused_by_edge: Throttle::default(),
        refused_by_address: Throttle::default(),
        refused_fastcgi: Throttle::default(),
    });
    let http = Arc::new(Http::new(&shared.edge.limits, shared.tasks.clone()));
    for (_, listener) in listeners {
        let door = Door::Http(listener, Arc::clone(&http));
        shared.listeners.spawn(accept(Arc::clone(&shared), door));
    }
    for (door, runtime) in fronts {
        shared
            .listeners
            .spawn_on(accept(Arc::clone(&shared), door), &runtime);
    }
    shared.listeners.close();
    tokio::spawn(sweep(Arc::clone(&shared)));
    Ok(Handle { shared })
}

impl Shared {
    /// Web servers speak for many, so that none has a share of its own.
    fn enter_fastcgi(&self, peer: IpAddr) -> Option<(Arc<Connection>, Place)> {
        let peer = SocketAddr::new(peer, 0);
        let connection = Arc::new(Connection::new(peer, peer, |_| true));
        match self.registry.enter(&connection) {
            Ok(place) => Some((connection, place)),
            Err(full) => {
                self.warn_full(full, &connection);
                None
            }
        }
    }

    fn spawn_fastcgi(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        limits: fastcgi::Limits,
        connection: Arc<Connection>,
        place: Place,
        seat: Seat,
    ) {
        let limits = fastcgi::Limits {
            connections_told: self.edge.limits.connections_max,
            ..limits
        };
        let here = Some(connection.peer);
        let edge = Arc::clone(&self.edge);
        let runtime = seat.runtime.clone();
        let serving = async move {
            fastcgi::serve(edge, stream, limits, here, connection).await;
            drop((place, seat));
        };
        self.tasks.spawn_on(serving, &runtime);
    }

    fn warn_full(&self, full: Full, connection: &Connection) {
        let limits = &self.edge.limits;
        match full {
            Full::Edge => {
                if let Some(count) = self.refused_by_edge.count(Instant::now()) {
                    let connections_max = limits.connections_max;
                    tracing::warn!(count, connections_max, "too many connections");
                }
            }
            Full::Address => {
                if let Some(count) = self.refused_by_address.count(Instant::now()) {
                    let connections_max = limits.per_address();
                    let peer = connection.peer;
                    tracing::warn!(count, connections_max, %peer, "too many connections of one address");
                }
            }
        }
    }
}

impl Handle {
    /// The addresses listened on, in the order of the configuration, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.addresses
    }

    /// Begins to take connections; again, it changes nothing.
    pub fn open(&self) {
        self.shared.open.cancel();
    }

    /// Swaps the route table. Requests in flight keep the backends that they were given.
    pub fn set_table(&self, table: Table) {
        self.shared.edge.table.store(Arc::new(table));
    }

    /// Whether [`Handle::serve_node`] takes streams: not once it is shut down.
    pub fn takes_nodes(&self) -> bool {
        !self.shared.stop.is_cancelled()
    }

    /// Answers requests that another node brings on a stream, with what runs here. That the node is a
    /// member is for the caller to know. Returns at once: `runtime`, one thread, is where the stream's
    /// bytes come and go; it reads the requests there, and gives short answers itself.
    pub fn serve_node(&self, stream: impl Io, runtime: &Runtime) {
        let shared = &self.shared;
        if !self.takes_nodes() {
            return;
        }
        let answers = Answers {
            // Streams are kept while nobody uses them: they count for no seat.
            worker: shared.workers.seat().runtime.clone(),
            allowance: Arc::clone(&shared.aside),
        };
        let serving = tunnel::serve(
            Arc::clone(&shared.edge),
            answers,
            Box::new(stream),
            shared.stop.clone(),
        );
        let cut = shared.cut.clone();
        let serving = async move {
            tokio::select! {
                () = serving => {}
                () = cut.cancelled() => {}
            }
        };
        shared.tunnels.spawn_on(serving, runtime);
    }

    /// The sockets that web servers reach, in the order of the configuration, with their real ports.
    pub fn fastcgi_addresses(&self) -> &[FastCgiAddress] {
        &self.shared.fastcgi_addresses
    }

    /// Answers the requests that a web server brings over FastCGI. Whether it may bring any is for the caller
    /// to know; `peer` is where it is, and whose requests they are where it does not say so. Returns at once.
    pub fn serve_fastcgi(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        limits: fastcgi::Limits,
        peer: IpAddr,
    ) {
        let shared = &self.shared;
        if let Some((connection, place)) = shared.enter_fastcgi(peer)
            && self.takes_nodes()
        {
            shared.spawn_fastcgi(stream, limits, connection, place, shared.workers.seat());
        }
    }

    /// Listens on these ports of servers, here or on other nodes, and on no others: what comes there is
    /// carried to one of the replicas. Gives those that cannot be listened on; with each call they are
    /// tried again. Needs the runtime.
    pub fn set_ports(&self, wanted: Vec<Port>) -> Vec<PortTrouble> {
        let shared = &self.shared;
        match self.takes_nodes() {
            true => shared.ports.set(wanted, |listener, component| {
                let accepting = ports::accept(
                    Arc::clone(&shared.edge),
                    listener,
                    component,
                    shared.tunnels.clone(),
                    shared.cut.clone(),
                );
                let stop = shared.stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = accepting => {}
                        () = stop.cancelled() => {}
                    }
                })
                .abort_handle()
            }),
            false => Vec::new(),
        }
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.shared.registry.count()
    }

    /// Stops accepting, lets requests in flight end for up to `grace`, then cuts the rest. Returns
    /// the number of connections that were cut.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        let shared = &self.shared;
        shared.stop.cancel();
        shared
            .ports
            .set(Vec::new(), |_, _| unreachable!("none is wanted"));
        // No connection begins after this.
        shared.listeners.wait().await;
        shared.registry.give_order(Order::Drain);
        shared.tunnels.close();
        let drained = tokio::time::timeout(grace, async {
            tokio::join!(shared.registry.wait_empty(), shared.tunnels.wait())
        });
        let drained = drained.await;
        let n_cut = if drained.is_ok() {
            0
        } else {
            self.connections()
        };
        shared.registry.give_order(Order::Cut);
        shared.cut.cancel();
        shared.tunnels.wait().await;
        shared.tasks.close();
        shared.tasks.wait().await;
        shared.workers.stop();
        n_cut
    }
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

async fn sweep(shared: Arc<Shared>) {
    let registry = Arc::clone(&shared.registry);
    let sweeping = registry.sweep(&shared.edge.limits);
    // It goes on while the edge drains: limits hold to the end.
    let drained = async {
        shared.stop.cancelled().await;
        shared.listeners.wait().await;
        shared.registry.wait_empty().await;
    };
    tokio::select! {
        () = sweeping => {}
        () = drained => {}
    }
}

/// Where somebody may connect.
enum Door {
    Http(TcpListener, Arc<Http>),
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
            Self::Http(listener, http) => {
                let (stream, peer) = listener.accept().await?;
                begin(shared, http, stream, peer);
            }
            Self::FastCgi(listener, worker, _) => {
                begin_fastcgi(shared, *worker, listener.accept().await?);
            }
        }
        Ok(())
    }
}

async fn accept(shared: Arc<Shared>, door: Door) {
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

fn begin(shared: &Arc<Shared>, http: &Arc<Http>, stream: TcpStream, peer: SocketAddr) {
    // Answers are written whole; waiting to fill packets only delays them.
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| Ok((stream.local_addr()?, stream.into_std()?)));
    let Ok((local, stream)) = prepared else {
        return;
    };
    let edge = &shared.edge;
    let is_trusted = |address| edge.trusted_proxies.contains(&address);
    let connection = Arc::new(Connection::new(peer, local, is_trusted));
    let place = match shared.registry.enter(&connection) {
        Ok(place) => place,
        Err(full) => {
            shared.warn_full(full, &connection);
            turn_away(&stream);
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
    let Some((connection, place)) = shared.enter_fastcgi(peer) else {
        return;
    };
    let (limits, seat) = (shared.fastcgi.limits, shared.workers.seat_at(worker));
    match accepted {
        Accepted::Tcp(stream, _) => {
            shared.spawn_fastcgi(stream, limits, connection, place, seat);
        }
        Accepted::Unix(stream) => shared.spawn_fastcgi(stream, limits, connection, place, seat),
    }
}

/// Tells a client that there are too many, as far as that goes without waiting for it.
fn turn_away(mut stream: &StdStream) {
    // Bytes left unread would turn the close into a reset that overtakes the answer.
    let mut unread = [0; 4096];
    let _ = stream.read(&mut unread);
    let _ = stream.write(refusal::for_one_too_many());
}
