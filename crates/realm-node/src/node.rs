//! A running node: starts every part, introduces them to each other, stops them in order.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use realm_host::{Host, HostError};
use realm_model::entry::RealmId;
use realm_model::key::SecretKey;
use realm_model::name::NodeName;
use realm_model::observed::Millis;
use realm_store::blobs::Blobs;
use realm_store::fetch::Origins;
use realm_store::folder::{AgentLock, RealmFolder};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::access::{Gate, Mouth};
use crate::api::Api;
use crate::audit::Audit;
use crate::certificates::Certificates;
use crate::clock::Clock;
use crate::compile::Compiler;
use crate::config::Config;
use crate::core::{Core, EVENTS_AT_ONCE_MAX};
use crate::error::{NodeError, with_causes};
use crate::event::Event;
use crate::executor::{Executor, Means};
use crate::identity::node_key;
use crate::jobs::Jobs;
use crate::journal::Journal;
use crate::keeper::CompiledFiles;
use crate::lending::Lending;
use crate::listen::{MutualTls, serve};
use crate::machine::Machine;
use crate::network::{self, BlobServer, Door, Network, Peers};
use crate::pace::Pace;
use crate::page::MetricsPage;
use crate::remote::{Guests, Sessions};
use crate::rings::Rings;
use crate::sealing::SealingKey;
use crate::secrets::Looked;
use crate::serving::Serving;
use crate::stores::Shelf;
use crate::traffic::Traffic;
use crate::upstream::Beside;

/// Events that wait for the loop: more means that it is stuck, and senders wait with it.
const EVENTS_MAX: usize = EVENTS_AT_ONCE_MAX;
/// Requests in flight get this long at shutdown: the default wall time of one request.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// Who connects while what was in force starts again waits, this long at most, and is answered then,
/// instead of being refused. What takes longer, a compilation say, takes too long to wait for.
/// The tests wait for the loop, however slow the machine is.
const RESTORE_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 250 });
/// Saying good-bye to the other nodes.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the loop starts again after a panic, so that a panic at start takes no core.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A node that runs until it is stopped.
pub struct Node {
    edge: realm_edge::Handle,
    urls: Vec<String>,
    listening: Listening,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    net: Option<realm_net::Handle>,
    #[cfg(test)]
    events: mpsc::Sender<Event>,
    // Released last: until then nobody else may touch the folder.
    _lock: AgentLock,
}

/// A node whose engine is being made, before anything of its folder is looked at.
pub struct Prepared {
    config: Config,
    host: Host,
    warming: oneshot::Receiver<Result<(), HostError>>,
    events: mpsc::Sender<Event>,
    receiver: mpsc::Receiver<Event>,
}

impl Prepared {
    /// Begins with what takes longest: address space for the guests, reserved by a thread of its
    /// own. It needs no runtime.
    pub fn new(config: Config) -> Result<Self, NodeError> {
        for warning in &config.warnings {
            let (line, hint) = (warning.line, warning.hint.as_deref().unwrap_or_default());
            tracing::warn!(
                code = warning.code,
                line,
                hint,
                "node.toml: {}",
                warning.message
            );
        }
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let host = host(&config, CompiledFiles(events.clone()))?;
        let warming = warm(&host)?;
        Ok(Self {
            config,
            host,
            warming,
            events,
            receiver,
        })
    }

    /// Starts the node. When this returns, it listens, and goes on with what was in force.
    pub async fn start(self) -> Result<Node, NodeError> {
        let Self {
            config,
            host,
            warming,
            events,
            receiver,
        } = self;
        let lock = config.folder.lock()?;
        raise_file_limit();
        forbid_dumps();
        let key = node_key(&config.folder)?;
        let (journal, mut ledger) = Journal::open_or_mend(&config.folder, |ledger| {
            let nodes = ledger.authority().nodes.values();
            let mut others = nodes.filter(|node| node.key != key.public());
            let met = !network::places(&config.folder).is_empty();
            !config.node.p2p.listen.is_empty() && (met || others.next().is_some())
        })?;
        journal.hold_proofs(&mut ledger);
        let node = name(&config, &ledger, &key)?;
        let realm = ledger.authority().realm;
        let traffic = Traffic::default();
        let (stop, stopping) = watch::channel(false);
        let peers = Peers::default();
        let certificates = Certificates::open(
            &config.folder,
            &config.node,
            (key.public(), peers.clone()),
            &stopping,
        )?;
        let sealing_key = Arc::new(SealingKey::open_or_make(&config.folder)?);
        let shelf = Shelf::new(
            config.folder.stores(),
            config.node.backends.clone(),
            Arc::clone(&sealing_key),
            &node,
        );
        let edge_config = edge_config(&config, certificates.as_ref())?;
        let edge = realm_edge::spawn_closed(edge_config, Arc::new(traffic.clone())).await?;
        let urls = urls(&edge);
        #[cfg(test)]
        let events_for_tests = events.clone();
        let blobs = Blobs::open(config.folder.blobs()).map_err(NodeError::Blobs)?;
        let rings = Rings::default();
        let serving = Serving::new(&config.folder);
        let jobs = Jobs::open(&config.folder);
        let gate = Arc::new(Gate::new(realm, key.public()));
        let compiler = Compiler::new(config.executable.clone(), config.folder.clone());
        let guests = Guests {
            host: host.clone(),
            compiler: compiler.clone(),
            blobs: blobs.clone(),
        };
        let sessions = Sessions::new(config.node.exec.clone(), guests);
        let mut observed = serving.observed(ledger.desired(), &node, Millis(0));
        jobs.observe(&mut observed, ledger.desired(), &node);
        let machine = Arc::new(Machine::new(config.folder.root()));
        let (restored, is_restored) = oneshot::channel();
        let clock = Clock::start();
        let core = Core {
            sealing: sealing_key.sealing(realm, &key),
            looked: Looked::new(sealing_key),
            stood: Default::default(),
            began_with: ledger.desired().generation(),
            network: None,
            networking: !config.node.p2p.listen.is_empty(),
            restored: Some(restored),
            machine: Arc::clone(&machine),
            tags: config.node.tags.clone(),
            certificates: certificates.clone(),
            shelf: shelf.clone(),
            doors: crate::core::Doors::new(edge.clone(), &config.node.listen.ports),
            fed: VecDeque::new(),
            observed,
            node: node.clone(),
            node_key: key.public(),
            urls: urls.clone(),
            ledger,
            journal,
            executor: Executor::new(Means {
                host,
                edge: edge.clone(),
                compiler,
                blobs: blobs.clone(),
                rings: rings.clone(),
                traffic: traffic.clone(),
                serving,
                jobs,
                peers: peers.clone(),
                origins: Origins::new(&config.node.sources, |name| std::env::var(name).ok()),
                beside: Beside::new(&config.node.upstreams),
                shelf: shelf.clone(),
                events: events.clone(),
                clock,
            }),
            refusals: BTreeMap::new(),
            clock,
            planned_at: Millis(0),
            told: None,
            wake_at: None,
            surroundings: crate::core::Surroundings::default(),
            holding: crate::core::Holding::default(),
            look_at: None,
            inbox: VecDeque::new(),
            disk: None,
            stale: true,
            held_back: false,
            pace: Pace::new(Instant::now()),
            plans: 0,
        };
        let page = MetricsPage {
            machine,
            traffic,
            edge: edge.clone(),
            gate: Arc::clone(&gate),
            sessions: sessions.clone(),
            shelf: shelf.clone(),
        };
        let audit = Audit::open(&config.folder);
        let api = Api::new(
            events.clone(),
            blobs.clone(),
            rings,
            page,
            gate,
            sessions,
            audit,
        );
        let folder = config.folder.clone();
        let running = tokio::spawn(run(folder, core, receiver, stopping.clone()));
        // What was served is served again before anything else takes the processor.
        let _ = tokio::time::timeout(RESTORE_TIMEOUT, is_restored).await;
        edge.open();
        let net = match config.node.p2p.listen.is_empty() {
            true => None,
            false => {
                let settings = Meeting {
                    config: &config,
                    realm,
                    name: node,
                    key: &key,
                    edge: edge.clone(),
                    peers,
                    certificates,
                    lending: Lending::new(shelf, key.public()),
                    stopping: &stopping,
                    clock,
                };
                Some(meet(settings, &api, blobs, events).await?)
            }
        };
        let (mut tasks, listening) = listen(&config, &key, api, &stopping).await?;
        tasks.push(running);
        warming
            .await
            .map_err(|_| NodeError::Panicked("the engine was not made".to_owned()))?
            .map_err(NodeError::Host)?;
        Ok(Node {
            edge,
            urls,
            listening,
            stop,
            tasks,
            net,
            #[cfg(test)]
            events: events_for_tests,
            _lock: lock,
        })
    }
}

impl Node {
    /// [`Prepared::new`] and [`Prepared::start`] in one.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        Prepared::new(config)?.start().await
    }

    /// Base URLs that the node answers on.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Where web servers reach it over FastCGI: `unix:PATH` or `IP:PORT`.
    pub fn fastcgi_addresses(&self) -> Vec<String> {
        let addresses = self.edge.fastcgi_addresses().iter();
        addresses.map(ToString::to_string).collect()
    }

    /// Base URL of the admin listener.
    pub fn admin_url(&self) -> &str {
        &self.listening.admin_url
    }

    /// Where the control API is served over mutual TLS, if it is.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.listening.api_address
    }

    /// Stops: no new connections, requests in flight finish (30 s at most), then everything ends.
    pub async fn stop(self) {
        self.edge.shutdown(SHUTDOWN_GRACE).await;
        self.stop.send_replace(true);
        if let Some(net) = &self.net {
            // Closed connections tell the others at once; silence would be noticed later.
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, net.stop()).await;
        }
        for task in self.tasks {
            // A task that panicked has ended as well.
            let _ = task.await;
        }
    }
}

/// Runs the loop. After a panic it goes on with the ledger as it is on the disk and with the replicas
/// that serve, while the edge goes on by its last table.
async fn run(
    folder: RealmFolder,
    mut core: Core,
    mut events: mpsc::Receiver<Event>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let ended = {
            let running = AssertUnwindSafe(core.run(&mut events)).catch_unwind();
            tokio::select! {
                ended = running => ended,
                _ = stopping.wait_for(|stop| *stop) => return,
            }
        };
        if ended.is_ok() {
            return;
        }
        tracing::error!("the node's loop panicked and goes on; apps go on being served");
        loop {
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            match Journal::open_or_mend(&folder, |_| core.network.is_some()) {
                Ok((journal, ledger)) => {
                    core.recover(journal, ledger);
                    break;
                }
                Err(error) => {
                    let reason = with_causes(&error);
                    tracing::error!(reason, "the log cannot be opened again; trying once more");
                }
            }
        }
    }
}

/// What the node brings into the network.
struct Meeting<'a> {
    config: &'a Config,
    realm: RealmId,
    name: NodeName,
    key: &'a SecretKey,
    edge: realm_edge::Handle,
    peers: Peers,
    certificates: Option<Certificates>,
    lending: Lending,
    stopping: &'a watch::Receiver<bool>,
    /// The loop's.
    clock: Clock,
}

/// Starts the node's part in the network, and tells the loop of it.
async fn meet(
    meeting: Meeting<'_>,
    api: &Api,
    blobs: Blobs,
    events: mpsc::Sender<Event>,
) -> Result<realm_net::Handle, NodeError> {
    let Meeting {
        config, realm, key, ..
    } = meeting;
    let (net, happened) =
        network::spawn(&config.node.p2p, key, Some(realm)).map_err(NodeError::Net)?;
    meeting.peers.open(net.clone());
    let parts = network::Parts {
        net: net.clone(),
        realm,
        name: meeting.name,
        key: key.clone(),
        peers: meeting.peers,
        events: events.clone(),
    };
    let network =
        Network::new(&config.folder, parts, meeting.clock.now()).map_err(NodeError::Epoch)?;
    network.open_book();
    // The loop lives as long as this node: that it is gone is seen where the node stops.
    let _ = events.send(Event::Met(Box::new(network))).await;
    let door = Door {
        net: net.clone(),
        blobs: BlobServer::new(blobs),
        edge: meeting.edge,
        certificates: meeting.certificates,
        lending: meeting.lending.clone(),
        router: api.clone().router(),
        me: key.public(),
        tls: MutualTls(Arc::new(crate::tls::server(key)?)),
        passing: network::passing(),
        events,
    };
    let stopping = meeting.stopping.clone();
    tokio::spawn(meeting.lending.run(net.clone(), stopping));
    tokio::spawn(network::watch_connections(net.clone(), door.events.clone()));
    tokio::spawn(network::forward(door, happened));
    Ok(net)
}

/// The name that the owner bound to this node's key; before approval the one it proposes.
fn name(
    config: &Config,
    ledger: &realm_control::Ledger,
    key: &SecretKey,
) -> Result<NodeName, NodeError> {
    let authority = ledger.authority();
    let proposed = config
        .node
        .name
        .clone()
        .unwrap_or_else(crate::found::host_name);
    match authority.name_of(&key.public()) {
        Some(bound) => {
            if *bound != proposed {
                tracing::warn!(%bound, %proposed, "node.toml proposes another name than the owner approved");
            }
            Ok(bound.clone())
        }
        // Two nodes under one name would both run what is meant for one.
        None if authority.nodes.contains_key(&proposed) => {
            Err(NodeError::NameTaken { name: proposed })
        }
        None => Ok(proposed),
    }
}

fn urls(edge: &realm_edge::Handle) -> Vec<String> {
    let plain = edge.addresses().iter();
    let secure = edge.https_addresses().iter();
    plain
        .map(|address| format!("http://{address}"))
        .chain(secure.map(|address| format!("https://{address}")))
        .collect()
}

/// Bytes of answers that are kept.
fn cache_bytes(config: &realm_model::node_config::NodeConfig) -> usize {
    let mb = config.cache_max_mb;
    let mb = mb.unwrap_or(realm_model::limits::CACHE_MAX_MB);
    usize::try_from(mb.saturating_mul(1024 * 1024)).unwrap_or(usize::MAX)
}

fn edge_config(
    config: &Config,
    certificates: Option<&Certificates>,
) -> Result<realm_edge::Config, NodeError> {
    let proxies = config.node.listen.proxy_protocol_from.iter();
    Ok(realm_edge::Config {
        https: certificates.map(|certificates| certificates.https(&config.node)),
        // The reader took nothing else.
        proxy_protocol_from: proxies.filter_map(|block| block.parse().ok()).collect(),
        cache_bytes_max: cache_bytes(&config.node),
        listen: config.node.listen.http.clone(),
        fastcgi: crate::fastcgi::config(&config.node)?,
        trusted_proxies: config.node.trusted_proxies.clone(),
        workers: crate::machine::serving_threads(),
        limits: realm_edge::EdgeLimits {
            files_max: getrlimit(Resource::Nofile).current,
            connections_max: crate::fastcgi::number(config.node.listen.connections_max),
            ..Default::default()
        },
    })
}

/// The host, without an engine.
fn host(config: &Config, keeper: CompiledFiles) -> Result<Host, NodeError> {
    let defaults = realm_host::Config::default();
    let host = realm_host::Config {
        policy: config.node.guests.clone(),
        forbidden_dirs: vec![config.folder.root().to_owned()],
        unload_after: config.unload_after.unwrap_or(defaults.unload_after),
        keeper: Arc::new(keeper),
        in_turn: realm_edge::in_turn_with_caller,
        ..defaults
    };
    Host::cold(host).map_err(NodeError::Host)
}

/// Begins to make the engine at once.
fn warm(host: &Host) -> Result<oneshot::Receiver<Result<(), HostError>>, NodeError> {
    let host = host.clone();
    let (made, is_made) = oneshot::channel();
    std::thread::Builder::new()
        .name("realm-engine".to_owned())
        .spawn(move || {
            let _ = made.send(host.warm());
        })
        .map_err(|error| NodeError::Host(HostError::Thread(error)))?;
    Ok(is_made)
}

/// Where the node listens beside the edge.
struct Listening {
    admin_url: String,
    api_address: Option<SocketAddr>,
}

async fn listen(
    config: &Config,
    key: &SecretKey,
    api: Api,
    stopping: &watch::Receiver<bool>,
) -> Result<(Vec<JoinHandle<()>>, Listening), NodeError> {
    let path = config.folder.socket();
    let socket = crate::socket::bind(&path).map_err(|source| NodeError::Socket { path, source })?;
    let address = config.node.listen.admin;
    let admin = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| NodeError::Admin { address, source })?;
    let admin_url = format!("http://{}", admin.local_addr().unwrap_or(address));
    let (router, admin_router) = (api.clone().router(), api.admin_router());
    let mut tasks = vec![
        tokio::spawn(serve(
            socket,
            router.clone(),
            Mouth::Socket,
            stopping.clone(),
        )),
        tokio::spawn(serve(admin, admin_router, Mouth::Relayed, stopping.clone())),
    ];
    let mut api_address = None;
    if let Some(address) = config.node.listen.api {
        let cannot = |source| NodeError::Api { address, source };
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.map_err(cannot)?;
        api_address = Some(listener.local_addr().map_err(cannot)?);
        let way = MutualTls(Arc::new(crate::tls::server(key)?));
        tasks.push(tokio::spawn(serve(listener, router, way, stopping.clone())));
    }
    let listening = Listening {
        admin_url,
        api_address,
    };
    Ok((tasks, listening))
}

/// Every connection and every loaded component holds a file descriptor; the soft limit of most
/// systems (1,024) is for programs that use `select`.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// A core file, and whoever attaches to the process as the same user, would have the secrets of every
/// component.
fn forbid_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let forbidden = setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = forbidden {
        tracing::warn!(%error, "a crash of this process may leave a core file, with secrets in it");
    }
}

#[cfg(test)]
mod tests;
