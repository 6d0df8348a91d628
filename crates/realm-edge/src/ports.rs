//! Ports of servers that are listened on for other nodes' replicas: who connects is carried to one of
//! the replicas, here before elsewhere.
//!
//! Not what is carried (`relay`), nor which ports a node listens on.

mod shares;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use realm_model::name::ComponentName;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Edge, REPLICAS_TRIED_MAX};
use crate::backend::{CallError, Connected, Server};
use crate::doors::listen;
use crate::relay;
use shares::Shares;

/// Connections of one port at once; one more is closed at once. Each costs up to 600 KiB while both
/// directions are full.
const CONNECTIONS_MAX: usize = 256;
/// Connections of one client address to one port, so that nobody takes all of it; from this machine as
/// many as there are. An IPv6 client is its /64.
const CONNECTIONS_PER_ADDRESS_MAX: usize = CONNECTIONS_MAX / 4;
/// Connections that the kernel queues: a burst waits.
const BACKLOG: u32 = 128;
/// A pause after an error of `accept` that a retry would only repeat.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port that is listened on for a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Where.
    pub address: SocketAddr,
    /// Whose.
    pub component: ComponentName,
}

/// A port that cannot be listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTrouble {
    /// The port.
    pub port: Port,
    /// Why not.
    pub reason: String,
}

#[derive(Default)]
pub(crate) struct Ports(Mutex<BTreeMap<SocketAddr, Listening>>);

struct Listening {
    component: ComponentName,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ports {
    /// Listens on these, by `accept`, and on no others. Of two on one address the first one has it.
    pub(crate) fn set(
        &self,
        wanted: Vec<Port>,
        accept: impl Fn(TcpListener, ComponentName) -> AbortHandle,
    ) -> Vec<PortTrouble> {
        // Changed by whole entries: a panic cannot leave it torn.
        let mut listening = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut owners: BTreeMap<SocketAddr, ComponentName> = BTreeMap::new();
        let mut troubles = Vec::new();
        for port in wanted {
            match owners.get(&port.address) {
                Some(owner) => troubles.push(PortTrouble {
                    reason: format!("component `{owner}` has it"),
                    port,
                }),
                None => {
                    owners.insert(port.address, port.component);
                }
            }
        }
        listening.retain(|address, one| owners.get(address) == Some(&one.component));
        for (address, component) in owners {
            if listening.contains_key(&address) {
                continue;
            }
            let bound = listen(address, &[], BACKLOG).and_then(TcpListener::from_std);
            match bound {
                Ok(listener) => {
                    let task = accept(listener, component.clone());
                    listening.insert(address, Listening { component, task });
                }
                Err(error) => troubles.push(PortTrouble {
                    port: Port { address, component },
                    reason: error.to_string(),
                }),
            }
        }
        troubles
    }
}

/// Takes connections until it is given up; those that were taken go on.
pub(crate) async fn accept(
    edge: Arc<Edge>,
    listener: TcpListener,
    component: ComponentName,
    tasks: TaskTracker,
    cut: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shares = Arc::new(Shares::new(CONNECTIONS_PER_ADDRESS_MAX));
    loop {
        let Ok((socket, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let place = Arc::clone(&places).try_acquire_owned().ok();
        let share = Arc::clone(&shares).take(peer.ip());
        let (Some(place), Some(share)) = (place, share) else {
            tracing::debug!(%component, %peer, "too many connections");
            reset(&socket);
            continue;
        };
        let (edge, component, cut) = (Arc::clone(&edge), component.clone(), cut.clone());
        tasks.spawn(async move {
            let _places = (place, share);
            tokio::select! {
                () = serve(&edge, &component, socket) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

async fn serve(edge: &Edge, component: &ComponentName, socket: TcpStream) {
    let carried = match connect(edge, component).await {
        Ok(Server::Here(server, _place)) => relay::here(socket, server).await,
        Ok(Server::There(stream, _place)) => relay::across(socket, stream).await,
        Err(error) => {
            reset(&socket);
            Err(io::Error::other(error))
        }
    };
    if let Err(error) = carried {
        tracing::debug!(%component, %error, "a connection broke");
    }
}

/// A connection to one replica, else to others: no byte of the client has gone yet.
async fn connect(edge: &Edge, component: &ComponentName) -> Result<Server, CallError> {
    let group = edge.table.load().group(component).map(Arc::clone);
    let none = || {
        CallError::new(
            http::StatusCode::SERVICE_UNAVAILABLE,
            "no-backend",
            "the component has no healthy replica",
        )
    };
    let group = group.ok_or_else(none)?;
    let mut next = group.pick().ok_or_else(none)?;
    let (mut tried, mut error) = (Vec::new(), none());
    while let Some(connecting) = next.connect() {
        match connecting.await {
            Ok(Connected(server)) => return Ok(server),
            Err(failed) => error = failed,
        }
        tried.push(next);
        match group.pick_other(&tried) {
            Some(other) if tried.len() < REPLICAS_TRIED_MAX => next = other,
            Some(_) | None => break,
        }
    }
    Err(error)
}

/// Dropped after that, it tells the client that something is wrong.
fn reset(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
