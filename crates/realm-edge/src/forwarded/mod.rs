//! The way a request came: `Forwarded` (RFC 7239) and `X-Forwarded-For`, `-Proto`, `-Host`.
//!
//! Both families are read into one [`Chain`] and written from it, so that a guest sees the same
//! story in either. Whether to read at all, which is a matter of trust, is the caller's decision.

mod read;

use std::fmt::{self, Write};
use std::net::IpAddr;

pub(crate) use read::{read, read_other};

/// Hops kept, the nearest ones: real chains have three, an attacker sends thousands.
const HOPS_MAX: usize = 32;

/// The proxies a request came through, client first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hops: Vec<Hop>,
}

/// What one proxy said of the connection it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) node: Node,
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: Option<String>,
}

/// Who connected to a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Address(IpAddr),
    /// `unknown` or `_hidden`: a name that tells nothing (RFC 7239 §6.2, §6.3).
    Name(String),
}

/// The scheme of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// What the client asked for, as the nearest chain of trusted proxies tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: Option<&'a str>,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("http") {
            Some(Self::Http)
        } else if text.eq_ignore_ascii_case("https") {
            Some(Self::Https)
        } else {
            None
        }
    }
}

impl Chain {
    /// Walks from the nearest hop towards the client for as long as the hop is a trusted proxy:
    /// what stands left of the first untrusted address was written by a stranger.
    pub(crate) fn asked(&self, is_trusted: impl Fn(IpAddr) -> bool) -> Asked<'_> {
        let is_trusted = |hop: &Hop| match &hop.node {
            Node::Address(address) => is_trusted(*address),
            Node::Name(_) => false,
        };
        let mut asked = Asked {
            scheme: None,
            host: None,
        };
        for hop in self.hops.iter().rev() {
            asked.scheme = hop.scheme.or(asked.scheme);
            asked.host = hop.host.as_deref().or(asked.host);
            if !is_trusted(hop) {
                break;
            }
        }
        asked
    }

    /// Who asked the first of the trusted proxies, the last of which is `peer`. One that they do not name
    /// counts as the proxy that knows it.
    pub(crate) fn client(&self, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
        let mut client = peer;
        for hop in self.hops.iter().rev() {
            let Node::Address(address) = hop.node else {
                break;
            };
            client = address.to_canonical();
            if !is_trusted(client) {
                break;
            }
        }
        client
    }

    /// Forgets schemes and hosts that a stranger wrote, left of the first address that is no trusted proxy: a
    /// guest makes links of them.
    pub(crate) fn forget_tales(&mut self, is_trusted: impl Fn(IpAddr) -> bool) {
        let is_stranger = |hop: &Hop| match hop.node {
            Node::Address(address) => !is_trusted(address),
            Node::Name(_) => true,
        };
        let told_by_strangers = self.hops.iter().rposition(is_stranger);
        for hop in &mut self.hops[..told_by_strangers.unwrap_or(0)] {
            (hop.scheme, hop.host) = (None, None);
        }
    }

    /// The chain as `X-Forwarded-For`, with the peer as its last hop.
    pub(crate) fn x_forwarded_for(&self, peer: IpAddr) -> String {
        let mut text = String::new();
        for hop in &self.hops {
            match &hop.node {
                Node::Address(address) => write!(text, "{address}, "),
                Node::Name(name) => write!(text, "{name}, "),
            }
            .expect("writing to a String cannot fail");
        }
        write!(text, "{peer}").expect("writing to a String cannot fail");
        text
    }

    /// The chain as `Forwarded`, with the peer's connection as its last hop.
    pub(crate) fn forwarded(&self, peer: IpAddr, scheme: Scheme, host: &str) -> String {
        let last = Element {
            node: &Node::Address(peer),
            scheme: Some(scheme),
            host: Some(host),
        };
        let mut text = String::new();
        for hop in &self.hops {
            let element = Element {
                node: &hop.node,
                scheme: hop.scheme,
                host: hop.host.as_deref(),
            };
            write!(text, "{element}, ").expect("writing to a String cannot fail");
        }
        write!(text, "{last}").expect("writing to a String cannot fail");
        text
    }
}

struct Element<'a> {
    node: &'a Node,
    scheme: Option<Scheme>,
    host: Option<&'a str>,
}

impl fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Node::Address(IpAddr::V4(address)) => write!(f, "for={address}")?,
            Node::Address(IpAddr::V6(address)) => write!(f, "for=\"[{address}]\"")?,
            Node::Name(name) => write!(f, "for={name}")?,
        }
        // A checked host has no quote and no backslash; a port or brackets need quotes.
        match self.host {
            Some(host) if host.contains([':', '[']) => write!(f, ";host=\"{host}\"")?,
            Some(host) => write!(f, ";host={host}")?,
            None => {}
        }
        if let Some(scheme) = self.scheme {
            write!(f, ";proto={}", scheme.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
