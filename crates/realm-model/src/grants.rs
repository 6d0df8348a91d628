//! What a component may reach. Empty means nothing: deny by default.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::binding::{Binding, Interface};
use crate::manifest::{ComponentSpec, Mode};
use crate::upstream::Upstream;

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
    /// Stores that it may open, by interface and identifier.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stores: Vec<StoreGrant>,
}

impl Grants {
    /// The secrets that a node opens for it: those that it reads itself, and the passwords of its stores,
    /// which it does not see.
    pub fn secret_names(&self) -> BTreeSet<&String> {
        let specs = self.stores.iter().flat_map(|store| {
            let events = store.spec.events.as_ref();
            [Some(&store.spec), events.map(|events| &*events.spec)]
        });
        let of_stores = specs.flatten().filter_map(|spec| spec.secret.as_ref());
        self.secrets.iter().chain(of_stores).collect()
    }
}

impl Grants {
    /// The store that messages of an identifier come from, and the part of its topics that is the
    /// component's: a binding under `*` gives each identifier topics of its own.
    pub fn messages(&self, identifier: &str) -> Option<(&StoreGrant, String)> {
        let of = |identifier: &str| {
            let mut stores = self.stores.iter();
            stores.find(|store| {
                store.interface == Interface::Messaging && store.identifier == identifier
            })
        };
        let named = of(identifier).map(|store| (store, String::new()));
        named.or_else(|| Some((of(StoreGrant::ANY)?, identifier.to_owned())))
    }
}

/// What a guest that opens an identifier gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreGrant {
    /// Of which interface.
    pub interface: Interface,
    /// What the guest opens, or [`StoreGrant::ANY`].
    pub identifier: String,
    /// The name of the binding.
    pub binding: String,
    /// What stands behind it.
    pub spec: Binding,
}

impl StoreGrant {
    /// Every identifier that no other grant names; each is a bucket of its own in the binding.
    pub const ANY: &str = "*";
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

/// A thing that a component may be given, as a delegate's scope names it: stable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Requests over http and https.
    OutboundHttp,
    /// Sockets, and whatever else goes out.
    Sockets,
    /// Targets that may be on a private network: addresses, and any host at all.
    PrivateNetwork,
    /// Environment variables.
    Env,
    /// Directories, to read.
    Dirs,
    /// Directories, to write.
    DirsWrite,
    /// The precise clock.
    PreciseClock,
    /// Secrets.
    Secrets,
    /// Stores: whatever stands behind a binding.
    Stores,
    /// A port of its own.
    Listen,
    /// To run by itself, on every node: services, workers and jobs.
    RunAlone,
}

impl Capability {
    /// Every capability, for documentation.
    pub const ALL: [Self; 11] = [
        Self::OutboundHttp,
        Self::Sockets,
        Self::PrivateNetwork,
        Self::Env,
        Self::Dirs,
        Self::DirsWrite,
        Self::PreciseClock,
        Self::Secrets,
        Self::Stores,
        Self::Listen,
        Self::RunAlone,
    ];

    /// The stable spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OutboundHttp => "outbound-http",
            Self::Sockets => "sockets",
            Self::PrivateNetwork => "private-network",
            Self::Env => "env",
            Self::Dirs => "dirs",
            Self::DirsWrite => "dirs-write",
            Self::PreciseClock => "precise-clock",
            Self::Secrets => "secrets",
            Self::Stores => "stores",
            Self::Listen => "listen",
            Self::RunAlone => "run-alone",
        }
    }

    /// The capability of a spelling.
    pub fn of_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }

    /// What a component wants.
    pub fn of(spec: &ComponentSpec) -> std::collections::BTreeSet<Self> {
        let Grants {
            allowed_outbound,
            env,
            vars: _,
            args: _,
            dirs,
            clock,
            // With those of its stores.
            secrets: _,
            stores,
        } = &spec.grants;
        let http = |rule: &OutboundRule| {
            let scheme = rule.scheme.as_deref();
            matches!(scheme, Some("http" | "https"))
        };
        let private = |rule: &OutboundRule| match &rule.host {
            OutboundHost::Any | OutboundHost::Block { .. } => true,
            OutboundHost::Below(_) | OutboundHost::Name(_) => false,
        };
        let alone = match spec.mode() {
            Mode::Answers | Mode::Server | Mode::Upstream => false,
            Mode::Service | Mode::Worker | Mode::Once | Mode::Scheduled => true,
        };
        let rules = allowed_outbound;
        let to_http = spec.upstream().is_some_and(Upstream::is_http);
        let to_fastcgi = spec.upstream().is_some_and(|upstream| !upstream.is_http());
        [
            (Self::OutboundHttp, rules.iter().any(http) || to_http),
            (Self::Sockets, !rules.iter().all(http) || to_fastcgi),
            (
                Self::PrivateNetwork,
                rules.iter().any(private) || spec.upstream().is_some(),
            ),
            (Self::Env, !env.is_empty()),
            (Self::Dirs, !dirs.is_empty()),
            (Self::DirsWrite, dirs.iter().any(|dir| dir.writable)),
            (Self::PreciseClock, *clock == ClockGrant::Precise),
            (Self::Secrets, !spec.grants.secret_names().is_empty()),
            (Self::Stores, !stores.is_empty()),
            (Self::Listen, spec.listen.is_some()),
            (Self::RunAlone, alone),
        ]
        .into_iter()
        .filter_map(|(capability, wants)| wants.then_some(capability))
        .collect()
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
