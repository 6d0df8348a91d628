//! A running node: starts every part, introduces them to each other, stops them in order.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use realm_host::Host;
use realm_model::key::SecretKey;
use realm_model::name::NodeName;
use realm_model::observed::Observed;
use realm_store::blobs::Blobs;
use realm_store::folder::{AgentLock, RealmFolder};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::Api;
use crate::compile::Compiler;
use crate::config::Config;
use crate::core::Core;
use crate::error::NodeError;
use crate::event::Event;
use crate::executor::Executor;
use crate::identity::node_key;
use crate::journal::Journal;
use crate::machine::Machine;
use crate::page::MetricsPage;
use crate::rings::Rings;
use crate::traffic::Traffic;

/// Events that wait for the loop: more means that it is stuck, and senders wait with it.
const EVENTS_MAX: usize = 1_024;
/// Requests in flight get this long at shutdown: the default wall time of one request.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// Pause before the loop starts again after a panic, so that a panic at start takes no core.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A node that runs until it is stopped.
pub struct Node {
    edge: realm_edge::Handle,
    urls: Vec<String>,
    admin_url: String,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    #[cfg(test)]
    events: mpsc::Sender<Event>,
    // Released last: until then nobody else may touch the folder.
    _lock: AgentLock,
}

/// What the loop is made of, and made of again after a panic.
struct Parts {
    folder: RealmFolder,
    node: NodeName,
    key: SecretKey,
    urls: Vec<String>,
    host: Host,
    edge: realm_edge::Handle,
    compiler: Compiler,
    blobs: Blobs,
    rings: Rings,
    traffic: Traffic,
    events: mpsc::Sender<Event>,
    started: Instant,
}

impl Node {
    /// Starts the node of a realm folder. When this returns, it listens, and goes on with what was
    /// in force.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        let lock = config.folder.lock()?;
        raise_file_limit();
        let key = node_key(&config.folder)?;
        let (journal, ledger) = Journal::open(&config.folder)?;
        let node = name(&config, &ledger, &key)?;
        let host = host(&config).await?;
        let traffic = Traffic::default();
        let edge = realm_edge::spawn(
            realm_edge::Config {
                listen: config.node.listen.http.clone(),
                trusted_proxies: config.node.trusted_proxies.clone(),
                limits: realm_edge::EdgeLimits::default(),
            },
            Arc::new(traffic.clone()),
        )
        .await?;
        let urls: Vec<String> = edge
            .addresses()
            .iter()
            .map(|address| format!("http://{address}"))
            .collect();
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        #[cfg(test)]
        let events_for_tests = events.clone();
        let parts = Parts {
            compiler: Compiler::new(config.executable.clone(), config.folder.clone()),
            blobs: Blobs::open(config.folder.blobs()).map_err(NodeError::Blobs)?,
            rings: Rings::default(),
            folder: config.folder.clone(),
            node,
            key,
            urls: urls.clone(),
            host,
            edge: edge.clone(),
            traffic: traffic.clone(),
            events: events.clone(),
            started: Instant::now(),
        };
        let page = MetricsPage {
            machine: Arc::new(Machine::new(config.folder.root())),
            traffic,
            edge: edge.clone(),
        };
        let api = Api::new(events, parts.blobs.clone(), parts.rings.clone(), page);
        let (stop, stopping) = watch::channel(false);
        let (mut tasks, admin_url) = listen(&config, api, &stopping).await?;
        let core = parts.core(journal, ledger);
        tasks.push(tokio::spawn(run(parts, core, receiver, stopping)));
        Ok(Self {
            edge,
            urls,
            admin_url,
            stop,
            tasks,
            #[cfg(test)]
            events: events_for_tests,
            _lock: lock,
        })
    }

    /// Base URLs that the node answers on.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Base URL of the admin listener.
    pub fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// Stops: no new connections, requests in flight finish (30 s at most), then everything ends.
    pub async fn stop(self) {
        self.edge.shutdown(SHUTDOWN_GRACE).await;
        self.stop.send_replace(true);
        for task in self.tasks {
            // A task that panicked has ended as well.
            let _ = task.await;
        }
    }
}

impl Parts {
    fn core(&self, journal: Journal, ledger: realm_control::Ledger) -> Core {
        Core {
            node: self.node.clone(),
            node_key: self.key.public(),
            urls: self.urls.clone(),
            ledger,
            journal,
            executor: Executor::new(
                self.host.clone(),
                self.edge.clone(),
                self.compiler.clone(),
                self.blobs.clone(),
                self.rings.clone(),
                self.traffic.clone(),
                self.events.clone(),
            ),
            observed: Observed::default(),
            refusals: BTreeMap::new(),
            started: self.started,
        }
    }
}

/// Runs the loop; after a panic it is made again from what is on the disk, while the edge goes on
/// serving by its last table.
async fn run(
    parts: Parts,
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
        tracing::error!("the node's loop panicked and starts again; apps go on being served");
        loop {
            tokio::time::sleep(RESTART_PAUSE).await;
            match Journal::open(&parts.folder) {
                Ok((journal, ledger)) => {
                    let refusals = std::mem::take(&mut core.refusals);
                    core = parts.core(journal, ledger);
                    core.refusals = refusals;
                    break;
                }
                Err(error) => {
                    let reason = crate::executor::with_causes(&error);
                    tracing::error!(reason, "the log cannot be opened again; trying once more");
                }
            }
        }
    }
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

async fn host(config: &Config) -> Result<Host, NodeError> {
    let host = realm_host::Config {
        policy: config.node.guests.clone(),
        ..Default::default()
    };
    // Reserving the pool's address space takes some milliseconds.
    let made = tokio::task::spawn_blocking(move || Host::new(host)).await;
    match made {
        Ok(made) => made.map_err(NodeError::Host),
        Err(error) => Err(NodeError::Panicked(error.to_string())),
    }
}

async fn listen(
    config: &Config,
    api: Api,
    stopping: &watch::Receiver<bool>,
) -> Result<(Vec<JoinHandle<()>>, String), NodeError> {
    let path = config.folder.socket();
    let socket = crate::socket::bind(&path).map_err(|source| NodeError::Socket { path, source })?;
    let address = config.node.listen.admin;
    let admin = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| NodeError::Admin { address, source })?;
    let admin_url = format!("http://{}", admin.local_addr().unwrap_or(address));
    let ended = || {
        let mut stopping = stopping.clone();
        async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        }
    };
    let (router, admin_router) = (api.clone().router(), api.admin_router());
    let control = axum::serve(socket, router);
    let figures = axum::serve(admin, admin_router);
    // Cut, not drained: a log reader that follows would never end by itself.
    let (control_ended, figures_ended) = (ended(), ended());
    let tasks = vec![
        tokio::spawn(async move {
            tokio::select! {
                served = control.into_future() => drop(served),
                () = control_ended => {}
            }
        }),
        tokio::spawn(async move {
            tokio::select! {
                served = figures.into_future() => drop(served),
                () = figures_ended => {}
            }
        }),
    ];
    Ok((tasks, admin_url))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::{Founding, found};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_in_the_loop_ends_neither_the_edge_nor_the_state() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("realm");
        let owner = SecretKey::from_seed(&[1; 32]);
        found(Founding {
            folder: root.clone(),
            owner: &owner,
            owner_file: owner.to_text(),
            node: &SecretKey::from_seed(&[2; 32]),
            nonce: [3; 32],
            name: "node-1".parse().unwrap(),
            created_unix_s: 0,
        })
        .unwrap();
        let mut config = Config::load(RealmFolder::open(root.clone()).unwrap()).unwrap();
        config.node.listen.http = vec!["127.0.0.1:0".parse().unwrap()];
        config.node.listen.admin = "127.0.0.1:0".parse().unwrap();
        let node = Node::start(config).await.unwrap();
        let client = crate::Client::new(&root.join("agent.sock"));
        let before = client.heads().await.unwrap();

        assert!(node.events.send(Event::Panic).await.is_ok());
        // Answered by the loop that was made again; the question waits for it.
        assert_eq!(client.heads().await.unwrap(), before);
        let address = node.edge.addresses()[0];
        assert!(tokio::net::TcpStream::connect(address).await.is_ok());
        node.stop().await;
    }
}
