//! The way to a node over the network of nodes, for a caller who has no agent: by the key that it
//! acts with, directly, or through another node that reaches the one that is meant.

use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use realm_model::entry::RealmId;
use realm_model::key::{PublicKey, SecretKey};
use realm_net::{Handle, Protocol, Transport as _};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::{Connect, Connecting, Stream};
use crate::error::with_causes;
use crate::network;
use crate::tls::{self, TlsError};

/// Reaching anybody: a person waits for this.
const REACH_TIMEOUT: Duration = Duration::from_secs(30);
/// Dialling one node, at all its addresses at once.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// Closing connections.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(200);
/// Addresses of one node that are tried.
const ADDRESSES_MAX: usize = 8;
/// Nodes that are tried.
const NODES_MAX: usize = 8;
/// Reasons that are told where nobody was reached.
const REASONS_MAX: usize = 4;

/// A node, and where it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its key; `None`: whoever answers there.
    pub node: Option<PublicKey>,
    /// Multiaddrs.
    pub addresses: Vec<String>,
}

/// A caller in the network.
pub struct Peer {
    net: Handle,
    node: PublicKey,
    /// Through whom; `None`: directly.
    via: Option<Via>,
}

/// What ends the connections of a [`Peer`].
pub struct Goodbye(Handle);

impl Goodbye {
    /// Closes the connections, where the other side would notice only after seconds of silence that
    /// nobody is there. No longer than a person waits without noticing.
    pub async fn say(self) {
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.0.stop()).await;
    }
}

/// Another node, that passes on what is encrypted for the one that is meant.
struct Via {
    node: PublicKey,
    tls: TlsConnector,
}

/// Nobody was reached.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The network does not start.
    #[error("the network does not start")]
    Start(#[source] realm_net::Error),
    /// The key makes no certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No node answered.
    #[error("no node of the realm is reached: {0}")]
    Unreached(String),
}

impl Peer {
    /// Reaches `target`, or any of `places` if none is named. Must run within a tokio runtime.
    pub async fn reach(
        key: &SecretKey,
        realm: RealmId,
        places: &[Place],
        target: Option<PublicKey>,
    ) -> Result<Self, PeerError> {
        let settings = network::caller(key, realm);
        let (net, mut events) = realm_net::spawn(settings).map_err(PeerError::Start)?;
        // Nothing that happens is of interest to a caller, and the queue must not fill.
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let mut failures = Vec::new();
        let (meant, others): (Vec<&Place>, Vec<&Place>) = places
            .iter()
            .partition(|place| target.is_some() && place.node == target);
        let deadline = Instant::now() + REACH_TIMEOUT;
        for place in meant.into_iter().chain(others).take(NODES_MAX) {
            let patience = deadline.min(Instant::now() + DIAL_TIMEOUT);
            match tokio::time::timeout_at(patience, dial(&net, place, &mut failures)).await {
                Ok(Some(reached)) => {
                    let node = target.unwrap_or(reached);
                    let via = match node == reached {
                        true => None,
                        false => Some(Via {
                            node: reached,
                            tls: TlsConnector::from(Arc::new(tls::client(key, node)?)),
                        }),
                    };
                    return Ok(Self { net, node, via });
                }
                Ok(None) => {}
                Err(_) => failures.push(format!("{}: no answer", place.addresses.join(", "))),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(PeerError::Unreached(reasons(&failures)))
    }

    /// For the end of what is said: see [`Goodbye::say`].
    pub fn goodbye(&self) -> Goodbye {
        Goodbye(self.net.clone())
    }

    /// The node that is meant, if another one passes everything on.
    pub fn relayed(&self) -> Option<PublicKey> {
        self.via.is_some().then_some(self.node)
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let broken = |error: realm_net::Error| io::Error::other(with_causes(&error));
        let Some(via) = &self.via else {
            let stream = self.net.open(self.node, Protocol::Api).await;
            return Ok(Box::new(stream.map_err(broken)?));
        };
        let stream = self.net.open(via.node, Protocol::Via).await;
        let mut stream = stream.map_err(broken)?;
        let named = stream.write_message(self.node.as_bytes()).await;
        named.map_err(broken)?;
        let encrypting = via.tls.connect(tls::server_name(), stream);
        let encrypted = tokio::time::timeout(DIAL_TIMEOUT, encrypting).await;
        Ok(Box::new(
            encrypted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
        ))
    }
}

/// Dials all addresses of a node at once: the first that leads to it counts.
async fn dial(net: &Handle, place: &Place, failures: &mut Vec<String>) -> Option<PublicKey> {
    let dials = place.addresses.iter().take(ADDRESSES_MAX).map(|address| {
        let address = match place.node {
            Some(node) if !address.contains("/p2p/") => format!("{address}/p2p/{}", node.peer_id()),
            Some(_) | None => address.clone(),
        };
        async move {
            match net.dial(&address).await {
                Ok(node) if place.node.is_none_or(|wanted| wanted == node) => Ok(node),
                Ok(_) => Err(format!("{address}: another key answers")),
                Err(error) => Err(format!("{address}: {}", with_causes(&error))),
            }
        }
    });
    let mut dials: FuturesUnordered<_> = dials.collect();
    while let Some(dialled) = dials.next().await {
        match dialled {
            Ok(node) => return Some(node),
            Err(why) => failures.push(why),
        }
    }
    None
}

fn reasons(failures: &[String]) -> String {
    let more = failures.len().saturating_sub(REASONS_MAX);
    let told = failures[..failures.len() - more].join("; ");
    match (failures.is_empty(), more) {
        (true, _) => "no address is known".to_owned(),
        (false, 0) => told,
        (false, more) => format!("{told}; and {more} more"),
    }
}

impl Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.node)
    }
}

impl Connect for Peer {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(self.open())
    }

    fn place(&self) -> String {
        match &self.via {
            None => format!("node {}", self.node),
            Some(via) => format!("node {} through {}", self.node, via.node),
        }
    }

    fn proven(&self) -> Option<PublicKey> {
        // A node in between passes on what is encrypted for this key.
        Some(self.node)
    }
}
