//! Listeners, their accept loops, and the handle to it all. Not what a connection does: `serve`.
//!
//! One accept loop per listener on the runtime that `spawn` runs on; `workers` serve what it
//! accepts.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use realm_model::front::Fronted;
use realm_model::name::ComponentName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle as Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Edge;
use crate::aside::{Allowance, Answers};
use crate::cache::{Cache, CacheFigures};
use crate::config::Config;
use crate::connection::{Connection, Order};
use crate::doors::{self, Door, listen_on};
use crate::fastcgi::{self, Bound, FastCgi, FastCgiAddress};
use crate::forwarded::Scheme;
use crate::gate::{Gate, States};
use crate::https::Front;
use crate::observe::Observer;
use crate::ports::{self, Port, PortTrouble, Ports};
use crate::registry::{Full, Place, Registry};
use crate::serve::Http;
use crate::table::Table;
use crate::throttle::Throttle;
use crate::tunnel;
use crate::upstream::Io;
use crate::workers::{Seat, Workers};

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

pub(crate) struct Shared {
    pub(crate) edge: Arc<Edge>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) workers: Workers,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) fastcgi_addresses: Vec<FastCgiAddress>,
    pub(crate) fastcgi: FastCgi,
    pub(crate) https_addresses: Vec<SocketAddr>,
    pub(crate) open: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) listeners: TaskTracker,
    pub(crate) tasks: TaskTracker,
    /// Streams of other nodes and of web servers.
    pub(crate) tunnels: TaskTracker,
    /// What the thread that they come on spends on answers.
    pub(crate) aside: Arc<Allowance>,
    /// Ends what other nodes still wait for.
    pub(crate) cut: CancellationToken,
    pub(crate) ports: Ports,
    pub(crate) gates: States,
    /// `None`: nothing is kept.
    pub(crate) cache: Option<Arc<Cache>>,
    pub(crate) failed_accepts: Throttle,
    pub(crate) refused_by_edge: Throttle,
    pub(crate) refused_by_address: Throttle,
    pub(crate) refused_fastcgi: Throttle,
    pub(crate) refused_web_servers: Throttle,
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
    let listeners = listen_on(&config.listen, limits.backlog)?;
    let https_listeners = match &config.https {
        Some(https) => listen_on(&https.listen, limits.backlog)?,
        None => Vec::new(),
    };
    let addresses_of = |listeners: &[(SocketAddr, TcpListener)]| -> Vec<SocketAddr> {
        listeners.iter().map(|(address, _)| *address).collect()
    };
    let (addresses, https_addresses) = (addresses_of(&listeners), addresses_of(&https_listeners));
    let front = config.https.as_ref();
    let front = front.map(|https| Front::new(https, &https_addresses));
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
    let workers = Workers::start(config.workers, limits.turn_timeout).map_err(|source| {
        EdgeError::Workers {
            count: config.workers,
            source,
        }
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
    let registry = Arc::new(Registry::new(&limits, config.fastcgi.connections_max));
    let shared = Arc::new(Shared {
        edge: Arc::new(Edge {
            table: ArcSwap::from_pointee(Table::default()),
            observer,
            trusted_proxies: config
                .trusted_proxies
                .iter()
                .map(|address| address.to_canonical())
                .collect(),
            proxy_protocol_from: config.proxy_protocol_from,
            https: front,
            limits,
        }),
        registry,
        workers,
        addresses,
        https_addresses,
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
        gates: States::default(),
        cache: (config.cache_bytes_max > 0).then(|| Cache::new(config.cache_bytes_max)),
        failed_accepts: Throttle::default(),
        refused_by_edge: Throttle::default(),
        refused_by_address: Throttle::default(),
        refused_fastcgi: Throttle::default(),
        refused_web_servers: Throttle::default(),
    });
    let http = Arc::new(Http::new(&shared.edge.limits, shared.tasks.clone()));
    let plain = listeners.into_iter().map(|(_, one)| (one, Scheme::Http));
    let secure = https_listeners
        .into_iter()
        .map(|(_, one)| (one, Scheme::Https));
    for (listener, scheme) in plain.chain(secure) {
        let door = Door::Http(listener, scheme, Arc::clone(&http));
        let accepting = doors::accept(Arc::clone(&shared), door);
        shared.listeners.spawn(accepting);
    }
    for (door, runtime) in fronts {
        let accepting = doors::accept(Arc::clone(&shared), door);
        shared.listeners.spawn_on(accepting, &runtime);
    }
    shared.listeners.close();
    tokio::spawn(sweep(Arc::clone(&shared)));
    Ok(Handle { shared })
}

impl Shared {
    /// Web servers speak for many, so that none has a share of its own.
    pub(crate) fn enter_fastcgi(
        &self,
        peer: IpAddr,
        limits: &fastcgi::Limits,
    ) -> Option<(Arc<Connection>, Place)> {
        let peer = SocketAddr::new(peer, 0);
        let connection = Connection::new(peer, peer, |_| true).of_web_server();
        let connection = Arc::new(connection.within(limits.times));
        match self.registry.enter(&connection) {
            Ok(place) => Some((connection, place)),
            Err(full) => {
                self.warn_full(full, &connection);
                None
            }
        }
    }

    pub(crate) fn spawn_fastcgi(
        &self,
        halves: (
            impl fastcgi::Hearing + 'static,
            impl AsyncWrite + Send + Unpin + 'static,
        ),
        limits: fastcgi::Limits,
        connection: Arc<Connection>,
        place: Place,
        seat: Seat,
    ) {
        let most = self.edge.limits.connections_max;
        let limits = fastcgi::Limits {
            connections_told: most.min(self.fastcgi.connections_max),
            ..limits
        };
        let here = Some(connection.peer);
        let edge = Arc::clone(&self.edge);
        let runtime = seat.runtime.clone();
        let serving = async move {
            fastcgi::serve(edge, halves, limits, here, connection).await;
            drop((place, seat));
        };
        self.tasks.spawn_on(serving, &runtime);
    }

    pub(crate) fn warn_full(&self, full: Full, connection: &Connection) {
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
            Full::WebServers => {
                if let Some(count) = self.refused_web_servers.count(Instant::now()) {
                    let connections_max = self.fastcgi.connections_max;
                    tracing::warn!(count, connections_max, "too many connections over FastCGI");
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

    /// The same of those for HTTPS.
    pub fn https_addresses(&self) -> &[SocketAddr] {
        &self.shared.https_addresses
    }

    /// Begins to take connections; again, it changes nothing.
    pub fn open(&self) {
        self.shared.open.cancel();
    }

    /// The gates of a table that is about to come into force: clients of components that had one before
    /// are remembered.
    pub fn gates(
        &self,
        fronted: BTreeMap<ComponentName, Fronted>,
    ) -> BTreeMap<ComponentName, Gate> {
        let shared = &self.shared;
        shared.gates.gates(fronted, shared.cache.as_ref())
    }

    /// What the cache did for each component that has one.
    pub fn cache_figures(&self) -> BTreeMap<ComponentName, CacheFigures> {
        let cache = self.shared.cache.as_ref();
        cache.map_or_else(BTreeMap::new, |cache| cache.figures())
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
        stream: impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
        limits: fastcgi::Limits,
        peer: IpAddr,
    ) {
        let shared = &self.shared;
        if let Some((connection, place)) = shared.enter_fastcgi(peer, &limits)
            && self.takes_nodes()
        {
            let (read, write) = tokio::io::split(stream);
            let halves = (fastcgi::Through(read), write);
            shared.spawn_fastcgi(halves, limits, connection, place, shared.workers.seat());
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
