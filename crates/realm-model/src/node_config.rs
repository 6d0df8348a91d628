//! `node.toml`: what belongs to the machine and to its operator. No manifest can widen it.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::name::NodeName;

/// The settings of one node. Every key is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The node's name; absent: the host name.
    pub name: Option<NodeName>,
    /// Tags that the operator proposes.
    pub tags: Vec<String>,
    /// Where the node listens.
    pub listen: Listeners,
    /// What guests may reach at most.
    pub guests: GuestPolicy,
    /// Proxies whose `Forwarded` and `X-Forwarded-*` headers are believed (IP addresses).
    pub trusted_proxies: Vec<std::net::IpAddr>,
}

/// Addresses of the listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listeners {
    /// HTTP/1.1 and HTTP/2 cleartext for routes.
    pub http: Vec<SocketAddr>,
    /// `/metrics` and health of the agent; loopback unless the operator opens it.
    pub admin: SocketAddr,
}

/// The widest that any grant on this node can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuestPolicy {
    /// Host directories (and what is below them) that a manifest may grant.
    pub dirs: Vec<String>,
    /// Private, loopback and link-local ranges that a manifest may open, as CIDR blocks.
    pub private_ranges: Vec<String>,
    /// Instances that may live at once, over all components.
    pub instances_max: u32,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            http: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)),
        }
    }
}

impl Default for GuestPolicy {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            private_ranges: Vec::new(),
            // 1,000 pool slots reserve 4 TiB of address space, well inside 128 TiB.
            instances_max: 1_000,
        }
    }
}
