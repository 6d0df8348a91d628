//! Reads a chain of hops from the headers of a trusted proxy.
//!
//! `X-Forwarded-For` wins over `Forwarded`: most proxies write only the former and pass the
//! client's copy of the latter on unread, so it is worth less. Others do it the other way round, which
//! nothing shows: where it matters who a client is, both are heard.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

use super::{Chain, HOPS_MAX, Hop, Node, Scheme};
use crate::headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::host::route_key;

/// A hidden or unknown name is short; more is noise.
const NODE_NAME_LENGTH_MAX: usize = 64;

/// The chain that the headers tell; empty where they tell none or are damaged.
pub(crate) fn read(headers: &HeaderMap) -> Chain {
    nearest(if has_parts(headers) {
        read_parts(headers)
    } else {
        read_forwarded(headers)
    })
}

/// The chain that `Forwarded` tells where [`read`] does not look at it.
pub(crate) fn read_other(headers: &HeaderMap) -> Option<Chain> {
    let is_other = has_parts(headers) && headers.contains_key(FORWARDED);
    is_other.then(|| nearest(read_forwarded(headers)))
}

fn has_parts(headers: &HeaderMap) -> bool {
    [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST]
        .iter()
        .any(|name| headers.contains_key(name))
}

fn nearest(mut hops: Vec<Hop>) -> Chain {
    let surplus = hops.len().saturating_sub(HOPS_MAX);
    hops.drain(..surplus);
    Chain { hops }
}

fn read_parts(headers: &HeaderMap) -> Vec<Hop> {
    let mut hops: Vec<Hop> = Vec::new();
    for text in list(headers, &X_FORWARDED_FOR) {
        match parse_node(text) {
            Some(node) => hops.push(Hop {
                node,
                scheme: None,
                host: None,
            }),
            // What stands before a damaged address cannot be told apart from a forgery.
            None => hops.clear(),
        }
    }
    let schemes: Vec<_> = list(headers, &X_FORWARDED_PROTO).collect();
    let hosts: Vec<_> = list(headers, &X_FORWARDED_HOST).collect();
    if hops.is_empty() && !(schemes.is_empty() && hosts.is_empty()) {
        hops.push(Hop {
            node: Node::Name("unknown".to_owned()),
            scheme: None,
            host: None,
        });
    }
    let count = hops.len();
    for (index, hop) in hops.iter_mut().enumerate() {
        hop.scheme = aligned(&schemes, index, count).and_then(Scheme::parse);
        hop.host = aligned(&hosts, index, count).and_then(parse_host);
    }
    hops
}

/// One value speaks of the client's request, as most proxies mean it: it stands for every hop. As
/// many values as addresses: one each. Else only the last one is known to be the nearest proxy's.
fn aligned<'a>(values: &[&'a str], index: usize, count: usize) -> Option<&'a str> {
    if values.len() == 1 {
        values.first().copied()
    } else if values.len() == count {
        values.get(index).copied()
    } else if index + 1 == count {
        values.last().copied()
    } else {
        None
    }
}

fn read_forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let mut hops = Vec::new();
    for value in headers.get_all(FORWARDED) {
        let parsed = value.to_str().ok().and_then(parse_forwarded);
        match parsed {
            Some(parsed) => hops.extend(parsed),
            None => hops.clear(),
        }
    }
    hops
}

/// `for=192.0.2.1;proto=https, for="[2001:db8::1]:4711";host=example.com`; `None` where it breaks
/// the grammar.
fn parse_forwarded(text: &str) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (hop, after) = parse_element(rest)?;
        hops.push(hop);
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    Some(hops)
}

fn parse_element(text: &str) -> Option<(Hop, &str)> {
    let mut hop = Hop {
        node: Node::Name("unknown".to_owned()),
        scheme: None,
        host: None,
    };
    let mut rest = text;
    loop {
        let (name, after) = rest.trim_start().split_once('=')?;
        let (value, after) = parse_value(after)?;
        match name.to_ascii_lowercase().as_str() {
            "for" => hop.node = parse_node(&value)?,
            "proto" => hop.scheme = Scheme::parse(&value),
            "host" => hop.host = parse_host(&value),
            name if name.is_empty() || !name.bytes().all(is_token) => return None,
            _ => {}
        }
        rest = after.trim_start();
        match rest.strip_prefix(';') {
            Some(after) => rest = after,
            None if rest.is_empty() || rest.starts_with(',') => return Some((hop, rest)),
            None => return None,
        }
    }
}

/// A quoted string, or all up to the next delimiter: many proxies send addresses with a port
/// without the quotes they need.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t', '"']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// An address with or without port and brackets, or a name that hides one.
fn parse_node(text: &str) -> Option<Node> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    if let Ok(address) = address {
        return Some(Node::Address(address.to_canonical()));
    }
    let is_hidden = text.len() <= NODE_NAME_LENGTH_MAX
        && (text.eq_ignore_ascii_case("unknown") || text.starts_with('_'))
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    is_hidden.then(|| Node::Name(text.to_owned()))
}

fn parse_host(text: &str) -> Option<String> {
    route_key(text).ok().map(|_| text.to_owned())
}

fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        // A value that is no text breaks the chain as a damaged address does.
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
