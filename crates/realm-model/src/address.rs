//! Where a node answers: multiaddrs of the forms that realm speaks, and what a person writes
//! instead of them.
//!
//! [`NodeAddress`] has one spelling, which libp2p reads as it is; [`read`] also understands
//! `/dns4/bm-01/tcp/443/quic` and `bm-01:443`, and says how it did. Only spelling: whether
//! anybody answers there, and who, is another question.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::key::PublicKey;
use crate::manifest::dns_name;
use crate::peer_id::PeerIdError;
use crate::text::one_line;

/// The port of an address that names none: QUIC beside https, as in the examples of the manifest.
pub const PORT_DEFAULT: u16 = crate::node_config::P2P_PORT;
/// A longer text is not looked at: a DNS name has 253 characters, a peer id 52.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// Characters of a faulty text in a message.
const SHOWN_CHARS_MAX: usize = 80;

const EXAMPLE: &str = "write `/dns/bm-01.example.com/udp/443/quic-v1`, or `bm-01.example.com:443`";

/// An address of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    /// The machine.
    pub host: Host,
    /// How to speak with it.
    pub transport: Transport,
    /// The port of that transport; not 0, except where one listens on any.
    pub port: u16,
    /// The key that must answer; `None`: whoever answers.
    pub peer: Option<PublicKey>,
}

/// A machine by its address or its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A DNS name, lower case, without its last dot.
    Name {
        /// Which addresses of the name are taken.
        family: Family,
        /// The name.
        name: String,
    },
}

/// Which addresses of a name are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `/dns/`: all.
    Any,
    /// `/dns4/`.
    V4,
    /// `/dns6/`.
    V6,
}

/// How nodes speak with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// `/udp/PORT/quic-v1`: TLS 1.3 is part of it.
    Quic,
    /// `/tcp/PORT`: with Noise and yamux above it.
    Tcp,
}

/// What somebody wrote, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The address.
    pub address: NodeAddress,
    /// How it was understood, if it was not written properly: shown to whoever wrote it.
    pub warning: Option<String>,
}

/// A text is not an address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address of a node: {why}")]
pub struct AddressError {
    /// The text, shortened and printable.
    pub text: String,
    /// What is wrong.
    pub why: AddressFault,
}

/// What is wrong with an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Longer than any address.
    #[error("it has more than {ADDRESS_BYTES_MAX} bytes")]
    TooLong,
    /// A URL.
    #[error("it is a URL")]
    Url,
    /// It does not begin as an address does.
    #[error("it begins with `/dns/`, `/dns4/`, `/dns6/`, `/ip4/` or `/ip6/`")]
    Kind,
    /// The host is no name or address.
    #[error("its host does not do: {0}")]
    Host(&'static str),
    /// An address that no machine has: it stands for all of them, or for many.
    #[error("no single machine has the address `{0}`")]
    Unspecified(IpAddr),
    /// Neither QUIC nor TCP.
    #[error("after the host comes `/udp/PORT/quic-v1` or `/tcp/PORT`")]
    Transport,
    /// Not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// Something else than a peer id behind the port.
    #[error("after the port comes `/p2p/PEER` or nothing")]
    Rest,
    /// The peer id does not read.
    #[error("its peer id does not do: {0}")]
    Peer(PeerIdError),
    /// Understood, where only the proper spelling is taken.
    #[error("its proper spelling is `{0}`")]
    Spelling(String),
}

impl AddressError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self.why {
            AddressFault::TooLong
            | AddressFault::Url
            | AddressFault::Kind
            | AddressFault::Host(_)
            | AddressFault::Transport
            | AddressFault::Port
            | AddressFault::Rest
            | AddressFault::Spelling(_) => "bad-address",
            AddressFault::Unspecified(_) => "unspecified-address",
            AddressFault::Peer(_) => "bad-peer-id",
        }
    }

    /// What to write instead.
    pub fn hint(&self) -> String {
        match &self.why {
            AddressFault::Unspecified(_) => {
                "write the address under which the machine is reached from here".to_owned()
            }
            AddressFault::Peer(_) => {
                "leave `/p2p/…` out, or copy the peer id that `realm node show` prints there"
                    .to_owned()
            }
            AddressFault::Spelling(proper) => format!("write `{proper}`"),
            AddressFault::TooLong
            | AddressFault::Url
            | AddressFault::Kind
            | AddressFault::Host(_)
            | AddressFault::Transport
            | AddressFault::Port
            | AddressFault::Rest => EXAMPLE.to_owned(),
        }
    }
}

/// Reads what a person writes for the address of another node.
///
/// Besides proper multiaddrs: `/tcp/443/quic`, `/udp/443/quic` and `/udp/443` (all QUIC), and a
/// host with a port or without (then [`PORT_DEFAULT`]). An address that no single machine has,
/// such as `0.0.0.0`, is refused.
pub fn read(text: &str) -> Result<Written, AddressError> {
    let trimmed = text.trim();
    let read = if trimmed.starts_with('/') {
        multiaddr(trimmed)
    } else {
        short(trimmed)
    };
    let address = read
        .and_then(|address| match address.host {
            Host::Ip(ip) if stands_for_many(ip) => Err(AddressFault::Unspecified(ip)),
            Host::Ip(_) | Host::Name { .. } if address.port == 0 => Err(AddressFault::Port),
            Host::Ip(_) | Host::Name { .. } => Ok(address),
        })
        .map_err(|why| error(text, why))?;
    let proper = address.to_string();
    let warning = (proper != text).then(|| {
        let why = if trimmed.contains("/quic") && !trimmed.contains("/quic-v1") {
            ": QUIC runs over UDP, and its name is `quic-v1`"
        } else {
            ""
        };
        format!("`{}` is understood as `{proper}`{why}", shown(text))
    });
    Ok(Written { address, warning })
}

impl NodeAddress {
    /// The address without the key that must answer.
    #[must_use]
    pub fn without_peer(mut self) -> Self {
        self.peer = None;
        self
    }

    /// The address with the key that must answer.
    #[must_use]
    pub const fn with_peer(mut self, peer: PublicKey) -> Self {
        self.peer = Some(peer);
        self
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => write!(f, "/ip4/{ip}")?,
            Host::Ip(IpAddr::V6(ip)) => write!(f, "/ip6/{ip}")?,
            Host::Name { family, name } => write!(f, "/{}/{name}", family.as_str())?,
        }
        match self.transport {
            Transport::Quic => write!(f, "/udp/{}/quic-v1", self.port)?,
            Transport::Tcp => write!(f, "/tcp/{}", self.port)?,
        }
        match self.peer {
            Some(peer) => write!(f, "/p2p/{}", peer.peer_id()),
            None => Ok(()),
        }
    }
}

/// Takes the proper spelling alone, for what programs write; an address to listen on (`0.0.0.0`,
/// port 0) is one as well.
impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = multiaddr(text).map_err(|why| error(text, why))?;
        let proper = address.to_string();
        if proper == text {
            Ok(address)
        } else {
            Err(error(text, AddressFault::Spelling(proper)))
        }
    }
}

impl Family {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "dns",
            Self::V4 => "dns4",
            Self::V6 => "dns6",
        }
    }
}

fn error(text: &str, why: AddressFault) -> AddressError {
    AddressError {
        text: shown(text),
        why,
    }
}

fn shown(text: &str) -> String {
    one_line(text, SHOWN_CHARS_MAX)
}

/// Broadcast, multicast and "any" lead nowhere or to whoever comes first.
fn stands_for_many(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn multiaddr(text: &str) -> Result<NodeAddress, AddressFault> {
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(AddressFault::TooLong);
    }
    let mut parts = text.split('/');
    if parts.next() != Some("") {
        return Err(AddressFault::Kind);
    }
    let kind = parts.next().unwrap_or("");
    let host = host_of(kind, parts.next().unwrap_or(""))?;
    let transport = parts.next().unwrap_or("");
    if !matches!(transport, "udp" | "tcp") {
        return Err(AddressFault::Transport);
    }
    let port = port_of(parts.next().unwrap_or(""))?;
    let mut rest: Vec<&str> = parts.collect();
    let quic = matches!(rest.first(), Some(&("quic" | "quic-v1")));
    if quic {
        rest.remove(0);
    }
    let transport = if quic || transport == "udp" {
        Transport::Quic
    } else {
        Transport::Tcp
    };
    let peer = match rest.as_slice() {
        [] => None,
        ["p2p", id] => Some(PublicKey::from_peer_id(id).map_err(AddressFault::Peer)?),
        _ => return Err(AddressFault::Rest),
    };
    Ok(NodeAddress {
        host,
        transport,
        port,
        peer,
    })
}

fn host_of(kind: &str, host: &str) -> Result<Host, AddressFault> {
    let name = |family| {
        let name = dns_name(host).map_err(AddressFault::Host)?;
        Ok(Host::Name { family, name })
    };
    match kind {
        "dns" => name(Family::Any),
        "dns4" => name(Family::V4),
        "dns6" => name(Family::V6),
        "ip4" => match host.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(Host::Ip(ip.into())),
            Err(_) => Err(AddressFault::Host("after `/ip4/` comes an IPv4 address")),
        },
        "ip6" => match host.parse::<Ipv6Addr>() {
            Ok(ip) => Ok(Host::Ip(ip.into())),
            Err(_) => Err(AddressFault::Host("after `/ip6/` comes an IPv6 address")),
        },
        _ => Err(AddressFault::Kind),
    }
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT`, an IPv6 address.
fn short(text: &str) -> Result<NodeAddress, AddressFault> {
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(AddressFault::TooLong);
    }
    if text.contains("://") {
        return Err(AddressFault::Url);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, after) = rest
                .split_once(']')
                .ok_or(AddressFault::Host("a bracket is not closed"))?;
            let ip: Ipv6Addr = ip
                .parse()
                .map_err(|_| AddressFault::Host("in brackets stands an IPv6 address"))?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return Err(AddressFault::Port),
            };
            (Host::Ip(ip.into()), port)
        }
        None => match text.parse::<IpAddr>() {
            Ok(ip) => (Host::Ip(ip), None),
            Err(_) => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                (short_host(host)?, port)
            }
        },
    };
    Ok(NodeAddress {
        host,
        transport: Transport::Quic,
        port: port.map_or(Ok(PORT_DEFAULT), port_of)?,
        peer: None,
    })
}

fn short_host(host: &str) -> Result<Host, AddressFault> {
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let name = dns_name(host).map_err(AddressFault::Host)?;
    let family = Family::Any;
    Ok(Host::Name { family, name })
}

/// `parse` alone would take `+1` and `0001`.
fn port_of(text: &str) -> Result<u16, AddressFault> {
    let port: u16 = text.parse().map_err(|_| AddressFault::Port)?;
    if port.to_string() == text {
        Ok(port)
    } else {
        Err(AddressFault::Port)
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
