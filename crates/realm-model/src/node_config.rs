//! `node.toml`: what belongs to the machine and to its operator. No manifest can widen it.
//!
//! [`parse`] turns text into a [`NodeConfig`] and every problem at once. Not here: where the file
//! lies, and what the node does with it.

mod fastcgi;
mod keys;
mod tls;
mod upstreams;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::block::{Block, BlockError};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::fields::{Fields, Report, cut};
use crate::manifest::{
    ValueError, check_endpoint, check_region, directory, is_registry, plain_name,
    without_duplicates, without_places,
};
use crate::name::NodeName;
use crate::section::Section;
pub use fastcgi::{
    CONNECTIONS_MAX, FASTCGI_REQUESTS_MAX, FastCgiAddress, FastCgiSettings, PARAMS_BYTES_MAX,
    PARAMS_MAX,
};
pub(crate) use keys::ROOT as NODE;
pub use keys::SECTIONS;
use keys::{
    BACKENDS, CALLER, EXEC, GUESTS, LISTEN, MULTIADDR, P2P, PORTS, PROGRAM, REGISTRY, ROOT, SOCKET,
    SOURCES, USER,
};
pub use tls::{
    ACME_NAMES_MAX, AcmeChallenge, AcmeSettings, CertificateFiles, ClientAuth, LETS_ENCRYPT,
    TlsSettings,
};
pub use upstreams::UpstreamPolicy;

/// A `node.toml` larger than this is refused before it is parsed: an honest one has a few lines.
pub const NODE_CONFIG_BYTES_MAX: usize = 64 * 1024;

/// `guests.instances_max` at most: four engines (with fuel and without, for WASI 0.2 and 0.3) of
/// 2,500 slots take about 40,000 of the 65,530 memory mappings that Linux gives a process by
/// default. Each is made when a component first needs it.
pub const INSTANCES_MAX: u32 = 2_500;

/// `exec.max_seconds` at most: a day. What runs for longer is a service.
pub const EXEC_SECONDS_MAX: u32 = 86_400;

/// `exec.max_at_once` at most: each holds a thread, three pipes and up to a mebibyte.
pub const EXEC_AT_ONCE_MAX: u32 = 64;

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
    /// Which web servers may ask over FastCGI, and how much.
    pub fastcgi: FastCgiSettings,
    /// MiB of answers that are kept; `None`: [`limits::CACHE_MAX_MB`].
    pub cache_max_mb: Option<u64>,
    /// What guests may reach at most.
    pub guests: GuestPolicy,
    /// What callers may run on this machine.
    pub exec: ExecPolicy,
    /// Proxies whose `Forwarded` and `X-Forwarded-*` headers are believed (IP addresses).
    pub trusted_proxies: Vec<IpAddr>,
    /// How the node meets the other nodes of its realm.
    pub p2p: Peering,
    /// HTTPS.
    pub tls: TlsSettings,
    /// Whom the node asks for the bytes of components, beside its peers.
    pub sources: SourceSettings,
    /// Services beside realm to which requests may be passed on.
    pub upstreams: UpstreamPolicy,
    /// Servers that may stand behind the stores of components.
    pub backends: BackendPolicy,
}

/// Which servers may stand behind the stores of components at most.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendPolicy {
    /// Origins as [`crate::binding::Backend::origin`] writes them; empty: none.
    pub allow: Vec<String>,
    /// A file with certificates of authorities, believed beside those of the machine.
    pub ca_file: Option<String>,
}

/// Whom a machine asks for the bytes of `registry:`, `s3:` and `ipfs:` sources, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceSettings {
    /// Gateways of IPFS, in the order in which they are asked.
    pub ipfs_gateways: Vec<String>,
    /// The S3 server, and the only one that gets the credentials; `None`: Amazon's.
    pub s3_endpoint: Option<String>,
    /// The region of S3.
    pub s3_region: Option<String>,
    /// A file with log-ins to registries, as `docker login` writes it.
    pub registry_auth: Option<String>,
    /// Registries that are asked without TLS.
    pub registries_without_tls: Vec<String>,
}

/// Where Kubo's gateway listens by default.
pub const IPFS_GATEWAY: &str = "http://127.0.0.1:8080";

/// `sources.ipfs_gateways` at most: each may be asked for one component in turn.
pub const IPFS_GATEWAYS_MAX: usize = 4;

/// How the node meets the other nodes of its realm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peering {
    /// Where other nodes reach this one: QUIC on the UDP port, and TCP on the same number. None: the
    /// node is alone.
    pub listen: Vec<SocketAddr>,
    /// Addresses under which others reach it from outside, when they are not those it listens on.
    pub announce: Vec<String>,
    /// Whether nodes of the realm are looked for on the local network.
    pub mdns: bool,
    /// Whether the node passes on connections for approved nodes that cannot be reached directly.
    pub relay: bool,
}

/// The port on which nodes meet, UDP and TCP, where nothing else is said: one that needs no privilege,
/// and that no common server listens on.
pub const P2P_PORT: u16 = 4747;

/// Addresses of the listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listeners {
    /// HTTP/1.1 and HTTP/2 cleartext for routes.
    pub http: Vec<SocketAddr>,
    /// FastCGI for routes.
    pub fastcgi: Vec<FastCgiAddress>,
    /// HTTPS for routes.
    pub https: Vec<SocketAddr>,
    /// Proxies that say by the PROXY protocol whose a connection is, as CIDR blocks.
    pub proxy_protocol_from: Vec<String>,
    /// Connections open at once on all of these.
    pub connections_max: u32,
    /// `/metrics` and health of the agent; loopback unless the operator opens it.
    pub admin: SocketAddr,
    /// The control API over mutual TLS; `None`: not at all.
    pub api: Option<SocketAddr>,
    /// Addresses on which the ports that servers insist on are listened on, wherever they run.
    pub ports: Vec<IpAddr>,
}

/// What callers may run on this machine, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecPolicy {
    /// Who may run commands of the machine; empty: nobody.
    pub allow: Vec<ExecCaller>,
    /// Who may run components, within limits and grants; empty: nobody.
    pub run: Vec<ExecCaller>,
    /// The user that commands run as; `None`: the agent's.
    pub user: Option<String>,
    /// The shell of commands that are one word.
    pub shell: String,
    /// How long a command may run.
    pub max_seconds: u32,
    /// Commands and components of callers at once.
    pub max_at_once: u32,
}

/// Somebody who may run something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecCaller {
    /// The owners of the realm.
    Owner,
    /// Delegates whose scope says so.
    Delegates,
}

impl Default for ExecPolicy {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            run: Vec::new(),
            user: None,
            shell: "/bin/sh".to_owned(),
            max_seconds: 3_600,
            max_at_once: 4,
        }
    }
}

/// The widest that any grant on this node can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuestPolicy {
    /// Host directories (and what is below them) that a manifest may grant.
    pub dirs: Vec<String>,
    /// Private, loopback and link-local ranges that a manifest may open, as CIDR blocks.
    pub private_ranges: Vec<String>,
    /// Files of certificates that guests' TLS trusts beside those that browsers trust.
    pub tls_roots: Vec<String>,
    /// Instances that may live at once, over all components.
    pub instances_max: u32,
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            ipfs_gateways: vec![IPFS_GATEWAY.to_owned()],
            s3_endpoint: None,
            s3_region: None,
            registry_auth: None,
            registries_without_tls: Vec::new(),
        }
    }
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            http: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            fastcgi: Vec::new(),
            https: Vec::new(),
            proxy_protocol_from: Vec::new(),
            connections_max: u32::try_from(LISTEN.default_of("connections_max"))
                .expect("it fits 32 bits"),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)),
            api: None,
            ports: Vec::new(),
        }
    }
}

impl Peering {
    /// The default, on whatever ports are free.
    pub fn anywhere() -> Self {
        let mut peering = Self::default();
        for address in &mut peering.listen {
            address.set_port(0);
        }
        peering
    }
}

impl Default for Peering {
    fn default() -> Self {
        Self {
            listen: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, P2P_PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, P2P_PORT)),
            ],
            announce: Vec::new(),
            mdns: true,
            relay: true,
        }
    }
}

impl Default for GuestPolicy {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            private_ranges: Vec::new(),
            tls_roots: Vec::new(),
            // 1,000 pool slots reserve 4 TiB of address space, well inside 128 TiB.
            instances_max: 1_000,
        }
    }
}

/// Parses and validates the text of a `node.toml`.
///
/// Returns the settings unless there is an error, and every problem that was found, in the order
/// of the text. Total: any text gives an answer.
pub fn parse(text: &str) -> (Option<NodeConfig>, Vec<Diagnostic>) {
    let mut report = Report::new(text);
    if text.len() > NODE_CONFIG_BYTES_MAX {
        let message = format!(
            "the file has {} bytes, at most {NODE_CONFIG_BYTES_MAX} are taken",
            text.len()
        );
        report.error(codes::TOO_LARGE, 0..0, message, None);
        return (None, report.finish().0);
    }
    let document = report.document();
    let config = read(&mut report, &document);
    let (problems, refused) = report.finish();
    ((!refused).then_some(config), problems)
}

fn read(report: &mut Report<'_>, document: &DeTable<'_>) -> NodeConfig {
    let root = Fields::root(report, document, &ROOT);
    let tls = tls::read(report, &root);
    let tags = root.texts(report, "tags", |text| plain_name(text, "tag"));
    let proxies = root.texts(report, "trusted_proxies", |text| {
        text.parse().map_err(|_| bad(text, "an IP address"))
    });
    NodeConfig {
        name: root.text(report, "name", |text| {
            text.parse().map_err(|error: crate::name::NameError| {
                ValueError::new(codes::BAD_NAME, error.to_string())
            })
        }),
        tags: without_duplicates(report, "tags", tags),
        listen: read_listeners(report, &root, &tls),
        fastcgi: fastcgi::read(report, &root),
        cache_max_mb: root.integer(report, "cache_max_mb"),
        guests: read_guests(report, &root),
        exec: read_exec(report, &root),
        trusted_proxies: without_places(proxies),
        p2p: read_peering(report, &root),
        tls,
        sources: read_sources(report, &root),
        upstreams: upstreams::read(report, &root),
        backends: read_backends(report, &root),
    }
}

fn section<'d, 'i>(
    report: &mut Report<'_>,
    root: &Fields<'d, 'i>,
    name: &str,
    section: &'static Section,
) -> Option<Fields<'d, 'i>> {
    let value = root.value(report, name)?;
    let place = root.key_span(name)?;
    Fields::open(report, value, section, place, "")
}

fn read_listeners(report: &mut Report<'_>, root: &Fields<'_, '_>, tls: &TlsSettings) -> Listeners {
    // What was written and does not do has its own problem.
    let has_certificates = tls.has_certificates() || root.has_within("tls", "certificates");
    let uses_tls = *tls != TlsSettings::default();
    let mut listeners = Listeners::default();
    let listen = section(report, root, "listen", &LISTEN);
    let has_https = listen
        .as_ref()
        .is_some_and(|listen| listen.key_span("https").is_some());
    if let Some(place) = root.key_span("tls").filter(|_| uses_tls && !has_https) {
        let message = "`[tls]` is for `https` under [listen], which is not there: nobody is shown a certificate".to_owned();
        let hint = "write `https = [\"0.0.0.0:443\"]` under [listen]".to_owned();
        report.warning(codes::NO_EFFECT, place, message, Some(hint));
    }
    let Some(listen) = listen else {
        return listeners;
    };
    if listen.key_span("http").is_some() {
        let http = listen.texts(report, "http", socket);
        listeners.http = without_duplicates(report, "http", http);
    }
    listeners.fastcgi = fastcgi::read_addresses(report, &listen);
    let https = listen.texts(report, "https", socket);
    listeners.https = without_duplicates(report, "https", https);
    if !listeners.https.is_empty() && !has_certificates {
        let message = "`https` needs a certificate, and `[tls]` has none".to_owned();
        let hint =
            "`dev = true` under [tls] makes one for this machine; docs/https.md shows the others";
        let place = listen.value_span("https");
        report.error(codes::BAD_VALUE, place, message, Some(hint.to_owned()));
    }
    let proxies = listen.texts(report, "proxy_protocol_from", block);
    listeners.proxy_protocol_from = without_duplicates(report, "proxy_protocol_from", proxies);
    listeners.connections_max = listen.number_u32(report, "connections_max");
    if let Some(admin) = listen.text(report, "admin", socket) {
        listeners.admin = admin;
    }
    listeners.api = listen.text(report, "api", socket);
    let ports = listen.texts(report, "ports", |text| {
        // A server has its port of 127.0.0.1 for itself, and with all addresses that one as well.
        let one: Option<IpAddr> = text.parse().ok();
        let one = one.map(|ip| ip.to_canonical());
        let one = one.filter(|ip| !ip.is_unspecified());
        one.ok_or_else(|| bad(text, PORTS.expected))
    });
    listeners.ports = without_places(ports);
    listeners
}

fn read_exec(report: &mut Report<'_>, root: &Fields<'_, '_>) -> ExecPolicy {
    let defaults = ExecPolicy::default();
    let Some(exec) = section(report, root, "exec", &EXEC) else {
        return defaults;
    };
    let caller = |text: &str| match text {
        "owner" => Ok(ExecCaller::Owner),
        "delegates" => Ok(ExecCaller::Delegates),
        _ => Err(bad(text, CALLER.expected)),
    };
    let allow = exec.texts(report, "allow", caller);
    let run = exec.texts(report, "run", caller);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let user = exec.text(report, "user", |text| {
        let fits = (1..=32).contains(&text.len()) && !text.starts_with(['-', '.']);
        match fits && text.chars().all(plain) {
            true => Ok(text.to_owned()),
            false => Err(bad(text, USER.expected)),
        }
    });
    let shell = exec.text(report, "shell", |text| {
        directory(text).map_err(|_| bad(text, PROGRAM.expected))
    });
    ExecPolicy {
        allow: without_places(allow),
        run: without_places(run),
        user,
        shell: shell.unwrap_or(defaults.shell),
        max_seconds: exec.number_u32(report, "max_seconds"),
        max_at_once: exec.number_u32(report, "max_at_once"),
    }
}

fn read_guests(report: &mut Report<'_>, root: &Fields<'_, '_>) -> GuestPolicy {
    let Some(guests) = section(report, root, "guests", &GUESTS) else {
        return GuestPolicy::default();
    };
    let dirs = guests.texts(report, "dirs", |text| {
        directory(text).map_err(|why| {
            let message = format!("`{}` does not do: {why}", cut(text));
            ValueError::new(codes::BAD_DIR, message)
        })
    });
    let ranges = guests.texts(report, "private_ranges", block);
    let roots = guests.texts(report, "tls_roots", |text| {
        directory(text).map_err(|_| bad(text, "an absolute path of a file"))
    });
    GuestPolicy {
        dirs: without_duplicates(report, "dirs", dirs),
        private_ranges: without_duplicates(report, "private_ranges", ranges),
        tls_roots: without_duplicates(report, "tls_roots", roots),
        instances_max: guests.number_u32(report, "instances_max"),
    }
}

fn read_peering(report: &mut Report<'_>, root: &Fields<'_, '_>) -> Peering {
    let mut peering = Peering::default();
    let Some(p2p) = section(report, root, "p2p", &P2P) else {
        return peering;
    };
    if p2p.key_span("listen").is_some() {
        let listen = p2p.texts(report, "listen", socket);
        peering.listen = without_duplicates(report, "listen", listen);
    }
    let announce = p2p.texts(report, "announce", multiaddr);
    peering.announce = without_duplicates(report, "announce", announce);
    peering.mdns = p2p.boolean(report, "mdns");
    peering.relay = p2p.boolean(report, "relay");
    peering
}

fn read_sources(report: &mut Report<'_>, root: &Fields<'_, '_>) -> SourceSettings {
    let mut settings = SourceSettings::default();
    let Some(sources) = section(report, root, "sources", &SOURCES) else {
        return settings;
    };
    if sources.key_span("ipfs_gateways").is_some() {
        let gateways = sources.texts(report, "ipfs_gateways", endpoint);
        if let Some((_, place)) = gateways.get(IPFS_GATEWAYS_MAX) {
            let message = format!("at most {IPFS_GATEWAYS_MAX} gateways are asked");
            report.error(codes::OUT_OF_RANGE, place.clone(), message, None);
        }
        settings.ipfs_gateways = without_duplicates(report, "ipfs_gateways", gateways);
    }
    settings.s3_endpoint = sources.text(report, "s3_endpoint", endpoint);
    settings.s3_region = sources.text(report, "s3_region", |text| {
        check_region(text).map_err(|(why, hint)| because(text, &why, hint))
    });
    settings.registry_auth = sources.text(report, "registry_auth", |text| {
        directory(text).map_err(|_| bad(text, "an absolute path of a file"))
    });
    let registries = sources.texts(report, "registries_without_tls", |text| {
        match is_registry(text) {
            true => Ok(text.to_ascii_lowercase()),
            false => Err(bad(text, REGISTRY.expected)),
        }
    });
    settings.registries_without_tls =
        without_duplicates(report, "registries_without_tls", registries);
    settings
}

fn read_backends(report: &mut Report<'_>, root: &Fields<'_, '_>) -> BackendPolicy {
    let Some(backends) = section(report, root, "backends", &BACKENDS) else {
        return BackendPolicy::default();
    };
    let allow = backends.texts(report, "allow", crate::binding::allowed);
    BackendPolicy {
        allow: without_duplicates(report, "allow", allow),
        ca_file: backends.text(report, "ca_file", |text| {
            crate::manifest::directory(text).map_err(|why| because(text, why, None))
        }),
    }
}

fn endpoint(text: &str) -> Result<String, ValueError> {
    check_endpoint(text).map_err(|(why, hint)| because(text, &why, hint))
}

fn because(text: &str, why: &str, hint: Option<String>) -> ValueError {
    let message = format!("`{}` does not do: {why}", cut(text));
    ValueError::new(codes::BAD_VALUE, message).hint(hint)
}

fn multiaddr(text: &str) -> Result<String, ValueError> {
    let parts: Vec<&str> = text.split('/').collect();
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let host = |kind: &str, host: &str| match kind {
        "ip4" => host.parse::<Ipv4Addr>().is_ok(),
        "ip6" => host.parse::<Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => !host.is_empty() && !host.contains(' '),
        _ => false,
    };
    let fits = match parts.as_slice() {
        ["", kind, name, "udp", number, "quic-v1"] | ["", kind, name, "tcp", number] => {
            host(kind, name) && port(number)
        }
        _ => false,
    };
    if fits {
        Ok(text.to_owned())
    } else {
        Err(bad(text, MULTIADDR.expected))
    }
}

fn socket(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| {
        let error = bad(text, SOCKET.expected);
        let port = text.strip_prefix(':').unwrap_or(text);
        match port.parse::<u16>() {
            Ok(port) => error.hint(Some(format!("write `127.0.0.1:{port}`"))),
            Err(_) if text.starts_with("localhost:") => {
                error.hint(Some(text.replacen("localhost", "write 127.0.0.1", 1)))
            }
            Err(_) => error,
        }
    })
}

fn block(text: &str) -> Result<String, ValueError> {
    text.parse::<Block>()
        .map(|block| block.to_string())
        .map_err(|error| range_error(text, &error))
}

fn range_error(text: &str, error: &BlockError) -> ValueError {
    let message = format!("`{}` is not a block of addresses: {error}", cut(text));
    ValueError::new(codes::BAD_VALUE, message)
}

fn bad(text: &str, expected: &str) -> ValueError {
    let message = format!("`{}` found, expected {expected}", cut(text));
    ValueError::new(codes::BAD_VALUE, message)
}

#[cfg(test)]
mod tests;
