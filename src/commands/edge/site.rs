//! What a web server in front has to know of this node: hosts, the way to realm, bounds. Not how a
//! server's configuration is written.
//!
//! Names and paths come from manifests and command lines: only those are taken that mean nothing but
//! themselves in every configuration file.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use realm_model::api::Heads;
use realm_model::entry::NamespaceName;
use realm_model::manifest::Manifest;
use realm_model::node_config::{FastCgiAddress, NodeConfig};
use realm_model::route::HostPattern;
use realm_node::{ClientError, Config};
use realm_store::folder::RealmFolder;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::resolve::read_manifest;

/// A DNS name has no more characters (RFC 1035).
const NAME_LENGTH_MAX: usize = 253;
/// What Linux takes for the path of a socket, without the byte that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Where node.toml's own example has the socket.
const USUAL_SOCKET: &str = "/run/realm/fastcgi.sock";
/// The web server waits longer than realm, so that the answer is realm's, with its code.
const WAIT_LONGER_S: u64 = 5;
/// What the edge waits for a piece of a body, or for a client to take one, and a bit.
const STALL_S: u64 = 65;

/// How the web server speaks with realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    FastCgi,
    Http,
}

/// Where realm answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Door {
    /// An absolute path of plain characters.
    Unix(String),
    Tcp(SocketAddr),
}

/// Where the web server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// A host with a block of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Exact(String),
    /// Any name below this one.
    Below(String),
}

/// What the routes want.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    hosts: BTreeSet<HostPattern>,
    any_host: bool,
    body_bytes_max: u64,
    wall_ms_max: u64,
}

/// Everything that a configuration is made of.
#[derive(Debug)]
pub(super) struct Site {
    /// Exact ones first.
    pub(super) hosts: Vec<Host>,
    /// Whether every other host goes to realm as well.
    pub(super) any_host: bool,
    pub(super) protocol: Protocol,
    pub(super) door: Door,
    pub(super) listen: Listen,
    /// Bytes of a body that any of the components takes.
    pub(super) body_bytes_max: u64,
    /// How long to wait for realm, in seconds.
    pub(super) wait_s: u64,
    /// How long to wait for a client or for realm to take something, in seconds.
    pub(super) stall_s: u64,
    /// What its reader should know.
    pub(super) remark: Option<String>,
}

impl Wanted {
    /// The routes of a manifest, or those in force: by the agent, or by its log if none runs.
    pub(super) async fn find(context: &Context, manifest: Option<&Path>) -> Result<Self, Failure> {
        let mut wanted = Self::default();
        if let Some(path) = manifest {
            wanted.add(&read_manifest(path, context.json())?.1);
            return Ok(wanted);
        }
        let all = heads(context, None).await?;
        for namespace in all.namespaces.keys().copied() {
            let heads = heads(context, Some(namespace)).await?;
            let found = heads.namespaces.get(&namespace);
            let text = match namespace.is_default() {
                true => heads.manifest.as_deref(),
                false => found.and_then(|found| found.manifest.as_deref()),
            };
            // What is in force was checked; an agent of a later version may know more keys.
            if let Some(manifest) = text.and_then(|text| realm_model::manifest::parse(text).0) {
                wanted.add(&manifest);
            }
        }
        Ok(wanted)
    }

    /// Every list of routes: whoever is asked answers, here or by another node.
    pub(super) fn add(&mut self, manifest: &Manifest) {
        for route in manifest.routing.values().flatten() {
            match &route.host {
                Some(host) => {
                    self.hosts.insert(host.clone());
                }
                None => self.any_host = true,
            }
            for component in route.answering() {
                let Some(spec) = manifest.components.get(component) else {
                    continue;
                };
                let limits = &spec.limits;
                self.body_bytes_max = self.body_bytes_max.max(limits.max_request_bytes);
                self.wall_ms_max = self.wall_ms_max.max(limits.wall_timeout_ms);
            }
        }
    }
}

#[cfg(test)]
impl Wanted {
    pub(super) fn of(hosts: impl IntoIterator<Item = HostPattern>, any_host: bool) -> Self {
        Self {
            hosts: hosts.into_iter().collect(),
            any_host,
            ..Self::default()
        }
    }
}

async fn heads(context: &Context, namespace: Option<NamespaceName>) -> Result<Heads, Failure> {
    let client = context.client().await?;
    let answer = match namespace {
        Some(namespace) => client.heads_of(namespace).await,
        None => client.heads().await,
    };
    match answer {
        Err(ClientError::NotRunning { .. }) => {
            realm_node::offline_heads(&context.folder()?, namespace)
                .map_err(|error| Failure::from_error("bad-realm-folder", &error))
        }
        answer => Ok(answer?),
    }
}

impl Site {
    /// Refuses a host that could be more than a name to a configuration file.
    pub(super) fn new(
        wanted: Wanted,
        protocol: Protocol,
        door: Door,
        listen: Listen,
    ) -> Result<Self, Failure> {
        let hosts: Result<Vec<Host>, Failure> = wanted.hosts.iter().map(Host::of).collect();
        let mut hosts = hosts?;
        hosts.sort();
        let has_none = hosts.is_empty() && !wanted.any_host;
        let remark = has_none.then(|| {
            "no route is in force yet: the configuration sends every host to realm".to_owned()
        });
        let limits = realm_model::limits::Limits::default();
        let or = |found: u64, absent: u64| if found == 0 { absent } else { found };
        let wall_ms = or(wanted.wall_ms_max, limits.wall_timeout_ms);
        Ok(Self {
            hosts,
            any_host: wanted.any_host || has_none,
            protocol,
            door,
            listen,
            body_bytes_max: or(wanted.body_bytes_max, limits.max_request_bytes),
            wait_s: wall_ms.div_ceil(1_000) + WAIT_LONGER_S,
            stall_s: STALL_S,
            remark,
        })
    }

    /// What follows a host in a `Host` header, where browsers write it.
    pub(super) fn port_suffix(&self) -> String {
        match self.listen.port {
            80 | 443 => String::new(),
            port => format!(":{port}"),
        }
    }

    /// The first lines of every configuration. `group`: as whom the server runs.
    pub(super) fn head(&self, server: &str, place: &str, group: &str) -> String {
        let over = match self.protocol {
            Protocol::FastCgi => "FastCGI",
            Protocol::Http => "HTTP",
        };
        let mut text = format!(
            "# {server} in front of realm, over {over}: {place}\n\
             # Every path goes to realm, which knows the routes: print this anew when hosts come or go.\n\
             #\n\
             # node.toml of the realm folder needs:\n"
        );
        match (&self.protocol, &self.door) {
            (Protocol::FastCgi, Door::Unix(path)) => {
                text.push_str(&format!(
                    "#   [listen]\n#   fastcgi = [\"unix:{path}\"]\n#   [fastcgi]\n\
                     #   socket_group = \"{group}\"  # a group of the user that the server runs as\n"
                ));
            }
            (Protocol::FastCgi, Door::Tcp(address)) => {
                text.push_str(&format!("#   [listen]\n#   fastcgi = [\"{address}\"]\n"));
                if !address.ip().is_loopback() {
                    text.push_str(
                        "#   [fastcgi]\n#   allow = [\"ADDRESS\"]  # of the machine with this server\n",
                    );
                }
            }
            (Protocol::Http, door) => {
                let proxy = match door {
                    Door::Tcp(address) if !address.ip().is_loopback() => {
                        "ADDRESS\"]  # of the machine with this server".to_owned()
                    }
                    Door::Tcp(address) => format!("{}\"]", address.ip()),
                    Door::Unix(_) => "127.0.0.1\"]".to_owned(),
                };
                text.push_str(&format!("#   trusted_proxies = [\"{proxy}\n"));
            }
        }
        text.push('\n');
        text
    }
}

impl Host {
    fn of(pattern: &HostPattern) -> Result<Self, Failure> {
        let (name, host) = match pattern {
            HostPattern::Exact(name) => (name, Self::Exact(name.clone())),
            HostPattern::Below(name) => (name, Self::Below(name.clone())),
        };
        let is_address = matches!(pattern, HostPattern::Exact(_)) && is_bracketed(name);
        if is_address || is_plain_name(name) {
            return Ok(host);
        }
        let message = format!("the host `{}` is no name", name.escape_debug());
        Err(Failure::new("bad-host", message)
            .hint("hosts of routes have letters, digits, `-`, `_` and `.`"))
    }
}

fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    let edges = [name.bytes().next(), name.bytes().next_back()];
    name.len() <= NAME_LENGTH_MAX
        && edges
            .iter()
            .all(|edge| edge.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        && name.bytes().all(plain)
}

fn is_bracketed(name: &str) -> bool {
    let inner = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
}

/// An absolute path that needs no quotes anywhere.
fn is_plain_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    path.len() <= SOCKET_PATH_BYTES_MAX
        && path.len() > 1
        && path.starts_with('/')
        && path.bytes().all(plain)
}

impl Door {
    /// The one that docs and examples have.
    pub(super) fn usual() -> Self {
        Self::Unix(USUAL_SOCKET.to_owned())
    }

    pub(super) fn usual_http() -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))
    }

    fn unix(path: &str) -> Result<Self, Failure> {
        if is_plain_path(path) {
            return Ok(Self::Unix(path.to_owned()));
        }
        let message = format!("`{}` does not do as a socket", path.escape_debug());
        Err(Failure::new("bad-path", message)
            .hint(
                "an absolute path of letters, digits, `/`, `.`, `_` and `-`, of at most 107 bytes",
            )
            .exit(exit::USAGE))
    }

    /// As seen from this machine: who listens everywhere is met on loopback.
    fn tcp(mut address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        Self::Tcp(address)
    }
}

impl FromStr for Door {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path).map_err(|failure| failure.message().to_owned());
        }
        let address: Option<SocketAddr> = text.parse().ok();
        let address = address.filter(|address| address.port() != 0);
        address
            .map(Self::tcp)
            .ok_or_else(|| "expected `unix:PATH` or `ADDRESS:PORT`".to_owned())
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: None,
            port: 80,
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = |port: u16| Self {
            address: None,
            port,
        };
        let one = |address: SocketAddr| Self {
            address: Some(address.ip()),
            port: address.port(),
        };
        let listen = text.parse().map(all).or_else(|_| text.parse().map(one));
        let listen: Option<Self> = listen.ok().filter(|listen: &Self| listen.port != 0);
        listen.ok_or_else(|| "expected `PORT` or `ADDRESS:PORT`".to_owned())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// node.toml of a realm folder.
pub(super) fn node_config(folder: RealmFolder) -> Result<NodeConfig, Failure> {
    let loaded = Config::load(folder).map(|config| config.node);
    loaded.map_err(|error| crate::commands::agent::bad_config(&error))
}

/// Where a node answers: a socket of this machine before all others.
pub(super) fn door_of(node: &NodeConfig, protocol: Protocol) -> Result<Option<Door>, Failure> {
    match protocol {
        Protocol::FastCgi => {
            let addresses = &node.listen.fastcgi;
            let is_socket = |one: &&FastCgiAddress| matches!(one, FastCgiAddress::Unix(_));
            let best = addresses.iter().find(is_socket).or(addresses.first());
            let door = best.map(|address| match address {
                FastCgiAddress::Unix(path) => Door::unix(path),
                FastCgiAddress::Tcp(address) => Ok(Door::tcp(*address)),
            });
            door.transpose()
        }
        Protocol::Http => Ok(node.listen.http.first().copied().map(Door::tcp)),
    }
}
