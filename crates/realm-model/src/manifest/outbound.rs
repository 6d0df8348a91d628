//! Rules of `allowed_outbound`: the grammar, and whether a rule allows a target.
//!
//! `SCHEME://HOST[:PORT]`; docs/manifest.md, "Outbound", has the whole grammar. Matching is pure:
//! by name or by IP literal as the guest wrote it. What a name resolves to is checked by the host
//! on every address against the node's own policy, never against these rules.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::host::{dns_name, ends_in_a_number};
use super::value::ValueError;
use crate::block::{Block, BlockError};
use crate::codes;
use crate::fields::cut;
use crate::grants::{OutboundHost, OutboundRule, PortRange, Transport};

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;

/// The port of a scheme, where a rule names none.
const WELL_KNOWN_PORTS: [(&str, u16); 14] = [
    ("http", 80),
    ("https", 443),
    ("ws", 80),
    ("wss", 443),
    ("postgres", 5432),
    ("mysql", 3306),
    ("redis", 6379),
    ("rediss", 6379),
    ("mongodb", 27017),
    ("nats", 4222),
    ("amqp", 5672),
    ("amqps", 5671),
    ("mqtt", 1883),
    ("mqtts", 8883),
];

/// Every port; 0 is none.
const ANY_PORT: PortRange = PortRange {
    first: 1,
    last: u16::MAX,
};

const RULE_BYTES_MAX: usize = 512;

impl OutboundRule {
    /// Whether the rule allows a target: `host` is a name or an IP literal (with or without
    /// brackets), in any case, with or without a trailing dot.
    pub fn matches(&self, scheme: &str, host: &str, port: u16) -> bool {
        let scheme = canonical_scheme(&scheme.to_ascii_lowercase());
        self.scheme
            .as_ref()
            .is_none_or(|allowed| *allowed == scheme)
            && self.ports.contains(port)
            && self.host.matches(host)
    }

    /// Whether the rule is about sockets of this transport that a guest opens by itself.
    ///
    /// `udp` is UDP. `http` and `https` are requests that the node sends for the guest, with the
    /// name in the request and on the certificate: an address says less than that, so they open
    /// no socket. Every other scheme is spoken over TCP.
    pub fn reaches(&self, transport: Transport) -> bool {
        match self.scheme.as_deref() {
            None => true,
            Some("http" | "https") => false,
            Some("udp") => transport == Transport::Udp,
            Some(_) => transport == Transport::Tcp,
        }
    }

    /// Whether a guest may look this name up: it is the host of a rule about sockets.
    pub fn allows_lookup(&self, name: &str) -> bool {
        (self.reaches(Transport::Tcp) || self.reaches(Transport::Udp)) && self.host.matches(name)
    }

    /// Whether a guest's socket may reach this port of an address that it knows by itself.
    pub fn allows_address(&self, transport: Transport, address: IpAddr, port: u16) -> bool {
        self.reaches(transport) && self.ports.contains(port) && self.host.matches_address(address)
    }

    /// Whether a guest's socket may reach this port of an address that the name resolved to.
    pub fn allows_name(&self, transport: Transport, name: &str, port: u16) -> bool {
        self.reaches(transport) && self.ports.contains(port) && self.host.matches(name)
    }
}

impl PortRange {
    /// Whether the port is in the range.
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl OutboundHost {
    /// Whether a host, a name or an IP literal, is allowed.
    pub fn matches(&self, host: &str) -> bool {
        let Some(target) = Target::read(host) else {
            return false;
        };
        match (self, target) {
            (_, Target::Address(target)) => self.matches_address(target),
            (Self::Any, Target::Name(_)) => true,
            (Self::Name(name), Target::Name(target)) => *name == target,
            (Self::Below(suffix), Target::Name(target)) => target
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.ends_with('.')),
            (Self::Block { .. }, Target::Name(_)) => false,
        }
    }

    /// Whether an address is allowed.
    pub fn matches_address(&self, target: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Block { address, prefix } => Block {
                address: *address,
                prefix: *prefix,
            }
            .contains(target),
            Self::Name(_) | Self::Below(_) => false,
        }
    }
}

/// A host that a guest asks for.
enum Target {
    Name(String),
    Address(IpAddr),
}

impl Target {
    /// `None` for what is neither a name nor an address in its usual spelling: `127.1` is an
    /// address to some resolvers, so that no rule can say what it allows.
    fn read(host: &str) -> Option<Self> {
        if let Some(inner) = host.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        if let Ok(address) = host.parse() {
            return Some(Self::Address(address));
        }
        // `1.2.3.4.` reaches 1.2.3.4 like the same text without the dot.
        let dotless = host.strip_suffix('.').unwrap_or(host);
        if let Ok(address) = dotless.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        dns_name(host).ok().map(Self::Name)
    }
}

impl FromStr for OutboundRule {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        parse(text).map_err(|problem| {
            let message = format!("`{}` is not an outbound rule: {}", cut(text), problem.why);
            ValueError::new(codes::BAD_OUTBOUND, message).hint(problem.hint)
        })
    }
}

struct Problem {
    why: String,
    hint: Option<String>,
}

fn problem<T>(why: impl Into<String>, hint: Option<String>) -> Result<T, Problem> {
    Err(Problem {
        why: why.into(),
        hint,
    })
}

fn parse(text: &str) -> Result<OutboundRule, Problem> {
    refuse_other_grammars(text)?;
    let Some((scheme, rest)) = text.split_once("://") else {
        let hint = match text {
            "*" => "to allow everything, write `*://*:*`".to_owned(),
            _ if parse(&format!("https://{text}")).is_ok() => {
                format!("write `https://{}`", cut(text))
            }
            _ => "write `https://api.example.com`".to_owned(),
        };
        return problem("it has no scheme", Some(hint));
    };
    let scheme = parse_scheme(scheme)?;
    let (host, port) = split_port(rest)?;
    let host = parse_host(host)?;
    let ports = match port {
        Some(port) => parse_ports(port)?,
        None => well_known(scheme.as_deref(), text)?,
    };
    Ok(OutboundRule {
        scheme,
        host,
        ports,
    })
}

/// What looks like the rule of another system gets an answer of its own.
fn refuse_other_grammars(text: &str) -> Result<(), Problem> {
    if text.len() > RULE_BYTES_MAX {
        return problem("it has more than 512 characters", None);
    }
    if text.contains("{{") {
        let hint = "write the rule in full; values belong into `vars` or `env`".to_owned();
        return problem("there are no templates", Some(hint));
    }
    if text.contains(['{', '}', ',']) {
        return problem(
            "there are no lists",
            Some("write one rule for each".to_owned()),
        );
    }
    if text.contains('@') {
        return problem(
            "a user or a password does not belong here",
            Some("write scheme, host and port alone".to_owned()),
        );
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let hint = "write `https://api.example.com`; a name in other letters takes its `xn--` form";
        return problem(
            "expected `SCHEME://HOST[:PORT]` in plain ASCII",
            Some(hint.to_owned()),
        );
    }
    Ok(())
}

/// `None` for `*`.
fn parse_scheme(scheme: &str) -> Result<Option<String>, Problem> {
    if scheme == "*" {
        return Ok(None);
    }
    // RFC 3986.
    let lower = scheme.to_ascii_lowercase();
    let letters = lower.starts_with(|c: char| c.is_ascii_lowercase())
        && lower
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !letters {
        let hint = "write a scheme like `https`, or `*` for all".to_owned();
        return problem(format!("`{}` is not a scheme", cut(scheme)), Some(hint));
    }
    Ok(Some(canonical_scheme(&lower)))
}

/// PostgreSQL has two spellings of one scheme; one rule covers both.
fn canonical_scheme(scheme: &str) -> String {
    match scheme {
        "postgresql" => "postgres".to_owned(),
        other => other.to_owned(),
    }
}

fn split_port(rest: &str) -> Result<(&str, Option<&str>), Problem> {
    if let Some(inner) = rest.strip_prefix('[') {
        let Some((_, after)) = inner.split_once(']') else {
            return problem("a bracket is not closed", None);
        };
        let host = &rest[..rest.len() - after.len()];
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None if after.starts_with('/')
                && after.len() > 1
                && after[1..].bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                let inside = &host[1..host.len() - 1];
                let hint = format!("write `[{inside}{after}]`");
                problem(
                    "the prefix of an IPv6 block stands inside the brackets",
                    Some(hint),
                )
            }
            None => problem("after the brackets comes `:PORT` or nothing", None),
        };
    }
    match rest.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            let hint = "write `[::1]:443`".to_owned();
            problem("an IPv6 address stands in brackets", Some(hint))
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((rest, None)),
    }
}

fn parse_host(host: &str) -> Result<OutboundHost, Problem> {
    if host == "*" {
        return Ok(OutboundHost::Any);
    }
    if host.eq_ignore_ascii_case("self") {
        let hint = "name the host that the routes of this realm answer for".to_owned();
        return problem("`self` has no meaning here", Some(hint));
    }
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        let is_v6 = inner
            .split('/')
            .next()
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        if !is_v6 {
            return problem("in brackets stands an IPv6 address or block", None);
        }
        return parse_block(inner);
    }
    if let Some((before, after)) = host.split_once('/') {
        if before.parse::<Ipv4Addr>().is_ok() {
            return parse_block(host);
        }
        let hint = (!before.is_empty()).then(|| format!("leave `/{}` out", cut(after)));
        return problem("a path cannot be matched", hint);
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return parse_block(host);
    }
    let (name, below) = match host.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (host, false),
    };
    if name.contains('*') {
        let hint = "write `*` or `*.example.com`".to_owned();
        return problem("`*` stands alone, or before the first dot", Some(hint));
    }
    if name.contains(['?', '#']) {
        return problem("a query or a fragment cannot be matched", None);
    }
    if ends_in_a_number(name) {
        let hint = "write an address in full, like `127.0.0.1`".to_owned();
        return problem(
            "its host ends in a number, and is not an address",
            Some(hint),
        );
    }
    match dns_name(name) {
        Ok(name) if below => Ok(OutboundHost::Below(name)),
        Ok(name) => Ok(OutboundHost::Name(name)),
        Err(why) => problem(format!("its host does not do: {why}"), None),
    }
}

fn parse_block(text: &str) -> Result<OutboundHost, Problem> {
    match text.parse::<Block>() {
        Ok(Block { address, prefix }) => Ok(OutboundHost::Block { address, prefix }),
        Err(error) => {
            let hint = match &error {
                BlockError::HostBits { block } => {
                    Some(format!("write the block `{block}`, or the address alone"))
                }
                BlockError::Address | BlockError::Prefix { .. } => None,
            };
            problem(error.to_string(), hint)
        }
    }
}

fn parse_ports(text: &str) -> Result<PortRange, Problem> {
    if text == "*" {
        return Ok(ANY_PORT);
    }
    if text.contains('/') {
        return problem("a path cannot be matched", None);
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| digits)
    };
    let range = match text.split_once("..") {
        None => number(text).map(|port| (port, port + 1)),
        Some((first, end)) => number(first).zip(number(end)),
    };
    // Half open: `8000..8010` ends with 8009.
    let range = range
        .filter(|(first, end)| first < end)
        .and_then(|(first, end)| Some((u16::try_from(first).ok()?, u16::try_from(end - 1).ok()?)));
    match range {
        Some((first @ 1.., last)) => Ok(PortRange { first, last }),
        Some((0, _)) | None => problem(
            format!("`{}` is not a port", cut(text)),
            Some("write a number from 1 to 65535, a range like `8000..8010` (8010 not included), or `*`".to_owned()),
        ),
    }
}

fn well_known(scheme: Option<&str>, text: &str) -> Result<PortRange, Problem> {
    let port = scheme.and_then(|scheme| {
        WELL_KNOWN_PORTS
            .iter()
            .find(|(known, _)| *known == scheme)
            .map(|(_, port)| *port)
    });
    match port {
        Some(port) => Ok(PortRange {
            first: port,
            last: port,
        }),
        None => problem(
            "it has no port, and its scheme has no usual one",
            Some(format!("write `{}:*` for every port", cut(text))),
        ),
    }
}

impl fmt::Display for OutboundRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_deref().unwrap_or("*"))?;
        match &self.host {
            OutboundHost::Any => f.write_str("*"),
            OutboundHost::Below(suffix) => write!(f, "*.{suffix}"),
            OutboundHost::Name(name) => f.write_str(name),
            OutboundHost::Block { address, prefix } => {
                let block = Block {
                    address: *address,
                    prefix: *prefix,
                };
                match address {
                    IpAddr::V4(_) => write!(f, "{block}"),
                    IpAddr::V6(_) => write!(f, "[{block}]"),
                }
            }
        }?;
        let PortRange { first, last } = self.ports;
        if self.ports == ANY_PORT {
            f.write_str(":*")
        } else if first == last {
            write!(f, ":{first}")
        } else {
            write!(f, ":{first}..{}", u32::from(last) + 1)
        }
    }
}
