//! What the owner of a component is told where something was denied: which rule is missing, as it
//! is written in the manifest, or whose word is missing beside it.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use realm_model::grants::OutboundRule;
use realm_model::text::one_line;

use super::Policy;
use crate::config::Reach;
use crate::logs::say;

/// Characters of a host in the log: a name of the DNS has 253 at most, but a guest may ask for
/// 64 KiB.
const HOST_CHARS_MAX: usize = 256;

impl Policy {
    /// No rule names a target.
    pub(super) fn deny_unruled(&self, slot: u32, scheme: &str, host: &str, port: u16) {
        let target = target(scheme, host, port);
        self.deny(slot, &target, no_rule(&target));
    }

    /// A rule names a target, and its address is not open.
    pub(super) fn deny_private(
        &self,
        slot: u32,
        (scheme, host, port): (&str, &str, u16),
        address: IpAddr,
    ) {
        self.deny(
            slot,
            &target(scheme, host, port),
            not_public(address, self.network.reach),
        );
    }

    /// A name may be looked up, and nothing that it resolves to is open.
    pub(super) fn deny_private_name(&self, slot: u32, name: &str, address: IpAddr) {
        let name = one_line(name, HOST_CHARS_MAX);
        self.deny(
            slot,
            &format!("look-up of `{name}`"),
            not_public(address, self.network.reach),
        );
    }

    /// No rule lets a name be looked up.
    pub(super) fn deny_lookup(&self, slot: u32, name: &str) {
        let name = one_line(name, HOST_CHARS_MAX);
        let why = no_rule(&format!("tcp://{name}:*"));
        self.deny(slot, &format!("look-up of `{name}`"), why);
    }

    /// Nothing opens any socket of a kind.
    pub(super) fn deny_sockets(&self, slot: u32, scheme: &str) {
        let why = format!(
            "no rule of `allowed_outbound` opens one; to connect, add the target as `{scheme}://HOST:PORT` (`--allow` of `realm run`); to listen, write `serve = \"socket\"` (`--inherit-network` of `realm run`)"
        );
        self.deny(slot, &format!("a {scheme} socket"), why);
    }

    /// A place of its own on the network.
    pub(super) fn deny_bind(
        &self,
        slot: u32,
        what: &str,
        address: SocketAddr,
        listen: Option<SocketAddr>,
    ) {
        let why = match listen {
            Some(only) => format!("a server may listen on {only} alone, which is `PORT`"),
            None => "a component listens only where the manifest says `serve = \"socket\"`, and a program of `realm run` with `--inherit-network`".to_owned(),
        };
        self.meter.outbound_denied();
        say(
            &*self.log,
            slot,
            format_args!("bind-denied: {what} {address}: {why}"),
        );
    }

    /// Tells the component's owner, and counts.
    fn deny(&self, slot: u32, what: &str, why: impl Display) {
        self.meter.outbound_denied();
        say(
            &*self.log,
            slot,
            format_args!("outbound-denied: {what}: {why}"),
        );
    }
}

/// A target as a rule writes it.
fn target(scheme: &str, host: &str, port: u16) -> String {
    let host = one_line(host, HOST_CHARS_MAX);
    if host.contains(':') {
        format!("{scheme}://[{host}]:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }
}

fn not_public(address: IpAddr, reach: Reach) -> String {
    let remedy = match reach {
        Reach::Named => "allow the name or the address itself",
        Reach::Public | Reach::Everything => {
            "the node's operator opens such ranges with `guests.private_ranges` in node.toml"
        }
    };
    format!("`{address}` is not public; {remedy}")
}

fn no_rule(rule: &str) -> String {
    match rule.parse::<OutboundRule>() {
        Ok(rule) => {
            format!("no rule of `allowed_outbound` names it; add `allowed_outbound = [\"{rule}\"]`")
        }
        Err(_) => "no rule of `allowed_outbound` can name it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_written_as_the_manifest_has_it() {
        let check = |scheme: &str, host: &str, expected: &str| {
            let told = no_rule(&target(scheme, host, 5432));
            assert!(told.contains(expected), "{told}");
            let rule = told.split('"').nth(1).map(str::parse::<OutboundRule>);
            assert_eq!(rule.is_some(), expected.contains('"'), "{told}");
            assert!(rule.is_none_or(|rule| rule.is_ok()), "{told}");
        };
        check("tcp", "db.internal", "[\"tcp://db.internal:5432\"]");
        check("udp", "10.0.0.1", "[\"udp://10.0.0.1:5432\"]");
        check("https", "fd00::1", "[\"https://[fd00::1]:5432\"]");
        check(
            "http",
            "2130706433",
            "no rule of `allowed_outbound` can name it",
        );
        check("http", "a\nb", "no rule of `allowed_outbound` can name it");
    }
}
