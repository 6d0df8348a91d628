//! Why a node does not start, and how reasons become one line.

use std::net::SocketAddr;
use std::path::PathBuf;

use realm_model::name::NodeName;
use realm_model::text::one_line;
use realm_store::folder::FolderError;

use crate::identity::IdentityError;
use crate::journal::JournalError;

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The realm folder is not usable, or another agent holds it.
    #[error("the realm folder cannot be used")]
    Folder(#[from] FolderError),
    /// The folder does not say who this node is.
    #[error("the node's identity cannot be read")]
    Identity(#[from] IdentityError),
    /// The key that opens secrets cannot be used.
    #[error("the secrets of this node cannot be opened")]
    Sealing(#[from] crate::sealing::SealingError),
    /// The log is damaged or unreadable.
    #[error("the log of the realm cannot be used")]
    Journal(#[from] JournalError),
    /// The store of components is unusable.
    #[error("the store of components cannot be used")]
    Blobs(#[source] realm_store::blobs::BlobError),
    /// The WebAssembly engine does not start.
    #[error("the WebAssembly engine does not start")]
    Host(#[source] realm_host::HostError),
    /// The listeners for routes cannot be opened.
    #[error("the edge cannot listen")]
    Edge(#[from] realm_edge::EdgeError),
    /// The group of the sockets for web servers is unknown.
    #[error("there is no group `{name}` on this machine: `fastcgi.socket_group` in node.toml")]
    NoGroup {
        /// The group.
        name: String,
    },
    /// The control socket cannot be opened.
    #[error("cannot listen on `{}`", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The admin listener cannot be opened.
    #[error("cannot listen on {address} for /metrics")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The control API cannot be served over TCP.
    #[error("cannot listen on {address} for the control API")]
    Api {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The node's certificate cannot be made.
    #[error("the control API cannot be served over TLS")]
    Tls(#[from] crate::tls::TlsError),
    /// HTTPS cannot be set up.
    #[error("HTTPS cannot be set up")]
    Https(#[from] realm_edge::tls::TlsError),
    /// Another node has this name.
    #[error("the name `{name}` belongs to another node of this realm")]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// The network does not start.
    #[error("the network of nodes does not start")]
    Net(#[source] realm_net::Error),
    /// The count of starts cannot be made durable.
    #[error("the realm folder cannot be written")]
    Epoch(#[source] std::io::Error),
    /// The machine could not join a realm.
    #[error("the machine could not join")]
    Join(#[from] crate::joining::JoinError),
    /// A part panicked while it started.
    #[error("a part of the node panicked while it started: {0}")]
    Panicked(String),
}

impl NodeError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Folder(FolderError::Locked { .. }) => "already-running",
            Self::Folder(_) => "bad-realm-folder",
            Self::Identity(_) => "no-identity",
            Self::Sealing(_) => "no-sealing-key",
            Self::Journal(_) => "log-damaged",
            Self::Blobs(_) => "store-unusable",
            Self::Host(_) => "engine",
            Self::Edge(_)
            | Self::Admin { .. }
            | Self::Api { .. }
            | Self::Tls(_)
            | Self::NoGroup { .. }
            | Self::Https(_)
            | Self::Socket { .. } => "cannot-listen",
            Self::NameTaken { .. } => "name-taken",
            Self::Net(_) => "no-network",
            Self::Epoch(_) => "store-unusable",
            Self::Join(_) => "not-joined",
            Self::Panicked(_) => "internal",
        }
    }

    /// What a person does next.
    pub fn hint(&self) -> Option<&'static str> {
        if self.needs_privilege() {
            return Some(LOW_PORT_REMEDY);
        }
        match self {
            Self::Folder(FolderError::Locked { .. }) => {
                Some("`realm status` talks to the agent that runs")
            }
            Self::Folder(FolderError::Unsafe { .. }) => {
                Some("`chown` the folder to the user who runs the agent, and `chmod go-w` it")
            }
            Self::Sealing(_) => Some(
                "`sealing.key` in the realm folder has mode 600 and an age identity in it; without the file a new key is made, and `realm secret reseal` seals to it",
            ),
            Self::Journal(JournalError::MissingMark { .. }) => {
                Some("`marks/` comes back from the backup together with `log/`")
            }
            Self::Journal(_) => Some(
                "the log is left as it is; restore the realm folder from a copy, or install the newer realm that wrote it",
            ),
            Self::Edge(realm_edge::EdgeError::FastCgi { .. }) => Some(
                "look at `fastcgi` under [listen] in node.toml: a socket's folder must be there, and the agent's user may write it and belongs to the group of `socket_group`; only a socket that nobody listens on is replaced; a port must be free",
            ),
            Self::NoGroup { .. } => {
                Some("name the group of the web server, `www-data` on Debian, or its number")
            }
            Self::Edge(_) => Some(
                "choose another address: `--http 127.0.0.1:0`, or [listen] in node.toml; a second agent on this machine needs `--admin 127.0.0.1:0` as well",
            ),
            Self::Admin { .. } => Some(
                "choose another address: `--admin 127.0.0.1:0`, or [listen] in node.toml; a second agent on this machine needs `--http 127.0.0.1:0` as well",
            ),
            Self::Api { .. } => Some("choose another address: `api` under [listen] in node.toml"),
            Self::NameTaken { .. } => Some("choose another `name` in node.toml"),
            Self::Net(_) => Some(
                "choose another address: `--p2p 127.0.0.1:0`, or `[p2p]` in node.toml, where `listen = []` starts the node alone",
            ),
            Self::Epoch(_) => Some("look at the disk (`df`, `dmesg`), then try again"),
            Self::Folder(_)
            | Self::Identity(_)
            | Self::Blobs(_)
            | Self::Host(_)
            | Self::Socket { .. }
            | Self::Join(_)
            | Self::Tls(_)
            | Self::Https(_)
            | Self::Panicked(_) => None,
        }
    }
}

impl NodeError {
    /// Whether it is about a port that only the privileged may listen on.
    fn needs_privilege(&self) -> bool {
        use realm_edge::EdgeError;
        match self {
            Self::Edge(EdgeError::Listen { address, source })
            | Self::Edge(EdgeError::FastCgi {
                address: realm_edge::fastcgi::FastCgiAddress::Tcp(address),
                source,
            })
            | Self::Admin { address, source }
            | Self::Api { address, source } => is_privileged(*address, source),
            Self::Edge(EdgeError::FastCgi { .. } | EdgeError::Workers { .. })
            | Self::Folder(_)
            | Self::Identity(_)
            | Self::Journal(_)
            | Self::Sealing(_)
            | Self::Blobs(_)
            | Self::Host(_)
            | Self::NoGroup { .. }
            | Self::Socket { .. }
            | Self::Tls(_)
            | Self::Https(_)
            | Self::NameTaken { .. }
            | Self::Net(_)
            | Self::Epoch(_)
            | Self::Join(_)
            | Self::Panicked(_) => false,
        }
    }
}

/// Ports that only the privileged may listen on, where the system does not say otherwise.
const LOW_PORTS_END: u16 = 1_024;

/// How somebody who is not root gets a port below 1024.
pub(crate) const LOW_PORT_REMEDY: &str = "a port below 1024 is for root alone: for a service of systemd `AmbientCapabilities=CAP_NET_BIND_SERVICE` (`systemctl edit realm`), for a program `setcap cap_net_bind_service=+ep $(command -v realm)`, for everybody on the machine `sysctl net.ipv4.ip_unprivileged_port_start=80`; or choose a higher port under [listen] in node.toml";

/// Whether it was refused for what the port is, and not for who has it.
pub(crate) fn is_privileged(address: SocketAddr, error: &std::io::Error) -> bool {
    (1..LOW_PORTS_END).contains(&address.port())
        && error.kind() == std::io::ErrorKind::PermissionDenied
}

/// Characters of a reason that are kept: some sentences, or the first lines of a parser's complaint.
pub(crate) const REASON_CHARS_MAX: usize = 1_000;

/// An error and what is below it, in one printable line of bounded length: it becomes a table cell.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    one_line(&text, REASON_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use std::io;

    use realm_edge::EdgeError;
    use realm_edge::fastcgi::FastCgiAddress;

    use super::*;

    #[test]
    fn a_port_for_the_privileged_says_how_one_gets_it() {
        let address = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let taken = || io::Error::from(io::ErrorKind::AddrInUse);
        let listen = |port, source| {
            NodeError::Edge(EdgeError::Listen {
                address: address(port),
                source,
            })
        };
        let fastcgi = |address| {
            NodeError::Edge(EdgeError::FastCgi {
                address,
                source: denied(),
            })
        };
        for (error, expected) in [
            (listen(443, denied()), true),
            (fastcgi(FastCgiAddress::Tcp(address(999))), true),
            (
                NodeError::Admin {
                    address: address(80),
                    source: denied(),
                },
                true,
            ),
            (listen(443, taken()), false),
            (listen(8443, denied()), false),
            (
                fastcgi(FastCgiAddress::Unix("/run/realm.sock".into())),
                false,
            ),
        ] {
            let hint = error.hint().expect("there is one");
            assert_eq!(hint.contains("AmbientCapabilities"), expected, "{error}");
        }
    }
}
