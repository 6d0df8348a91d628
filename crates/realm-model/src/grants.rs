//! What a component may reach. Empty means nothing: deny by default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The clocks a guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockGrant {
    /// Both clocks stand still at 0.
    None,
    /// 1 ms resolution: enough to measure a request, too coarse for timing attacks on a neighbour.
    #[default]
    Coarse,
    /// The machine's own resolution.
    Precise,
}

/// A host directory that a guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DirGrant {
    /// Absolute path on the node. The node's `node.toml` must allow it.
    pub host: String,
    /// Absolute path in the guest.
    pub guest: String,
    /// Whether the guest may change what is in it.
    pub writable: bool,
}

/// Everything one component may reach; see docs/manifest.md.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Grants {
    /// Allow-list of outbound targets, as written (`scheme://host:port`).
    pub allowed_outbound: Vec<OutboundRule>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Configuration, through `wasi:config/store`.
    pub vars: BTreeMap<String, String>,
    /// Command-line arguments after the component's name.
    pub args: Vec<String>,
    /// Directories.
    pub dirs: Vec<DirGrant>,
    /// Clocks.
    pub clock: ClockGrant,
    /// Names under `[secrets]` that it may open.
    pub secrets: Vec<String>,
}

/// One rule of `allowed_outbound`, parsed. Grammar: docs/manifest.md, "Outbound".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OutboundRule {
    /// The scheme; `None` for `*`.
    pub scheme: Option<String>,
    /// The hosts.
    pub host: OutboundHost,
    /// The ports.
    pub ports: PortRange,
}

/// What carries the bytes of a guest's own sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A connection.
    Tcp,
    /// Datagrams.
    Udp,
}

/// The host part of an outbound rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutboundHost {
    /// `*`: any host.
    Any,
    /// `*.example.com`: any name below the suffix (kept without `*.`), not the suffix itself.
    Below(String),
    /// One name, lower case, without a trailing dot.
    Name(String),
    /// Addresses: an IP literal or a CIDR block. Matches an IP literal in a URL and the address of a
    /// socket, never names.
    Block {
        /// The network address.
        address: std::net::IpAddr,
        /// Its prefix length.
        prefix: u8,
    },
}

/// Ports `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// First allowed port.
    pub first: u16,
    /// Last allowed port.
    pub last: u16,
}
