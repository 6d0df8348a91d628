//! From what a guest calls a host to addresses, within bounds: places of the component and of the
//! whole host, and a time after which nobody waits any more.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Policy;

/// The system's resolver asks each of its servers twice, with 5 s for each; who waits for longer
/// has no name server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);
/// Addresses of one name: more than any client tries.
const ADDRESSES_MAX: usize = 32;

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// There are none, or the resolver failed; the system does not tell these apart.
    Unknown,
    /// No answer in time.
    Timeout,
}

/// A host as a guest writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// In lower case, with `xn--` where it was not ASCII.
    Name(String),
    /// Written as an address in any of its forms.
    Address(IpAddr),
}

impl Host {
    /// Reads a host as browsers do; `None` for what is none.
    pub(super) fn read(text: &str) -> Option<Self> {
        match url::Host::parse(text) {
            Ok(url::Host::Domain(name)) => Some(Self::Name(name)),
            Ok(url::Host::Ipv4(address)) => Some(Self::Address(address.into())),
            Ok(url::Host::Ipv6(address)) => Some(Self::Address(address.into())),
            Err(_) => text
                .parse::<Ipv6Addr>()
                .ok()
                .map(|v6| Self::Address(v6.into())),
        }
    }
}

impl Policy {
    /// Asks the resolver. No rule is looked at here.
    pub(super) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let found = timeout(LOOKUP_TIMEOUT, self.ask(name)).await;
        let mut found = found.map_err(|_| Unresolved::Timeout)??;
        found
            .iter_mut()
            .for_each(|address| *address = address.to_canonical());
        let mut seen = Vec::new();
        found.retain(|address| {
            let is_new = !seen.contains(address) && seen.len() < ADDRESSES_MAX;
            if is_new {
                seen.push(*address);
            }
            is_new
        });
        Ok(found)
    }

    async fn ask(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let network = &self.network;
        let mine = Arc::clone(&self.lookups).acquire_owned().await;
        let shared = Arc::clone(&network.lookups).acquire_owned().await;
        let resolver = network.resolver.clone();
        let name = name.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let found = resolver.resolve(&name);
            // Given back when the thread is free, not when the caller stops waiting.
            drop((mine, shared));
            found
        });
        found
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(Unresolved::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let seen = Host::read(text).map(|host| match host {
            Host::Name(name) => name,
            Host::Address(address) => format!("[{address}]"),
        });
        assert_eq!(seen.as_deref(), expected, "{text}");
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        check("Example.COM", Some("example.com"));
        check("example.com.", Some("example.com."));
        check("m\u{fc}nchen.de", Some("xn--mnchen-3ya.de"));
        check("127.0.0.1", Some("[127.0.0.1]"));
        check("127.1", Some("[127.0.0.1]"));
        check("2130706433", Some("[127.0.0.1]"));
        check("0x7f.1", Some("[127.0.0.1]"));
        check("::1", Some("[::1]"));
        check("[::1]", Some("[::1]"));
        check("::ffff:10.0.0.1", Some("[::ffff:10.0.0.1]"));
        for text in [
            "",
            " ",
            "a b",
            "a:80",
            "http://a",
            "a/b",
            "a@b",
            "1.2.3.4.5",
            "[::1",
        ] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "\\PC{0,80}") {
            if let Some(Host::Name(name)) = Host::read(&text) {
                prop_assert!(name.is_ascii() && !name.contains(['@', '/', ':', ' ']), "{}", name);
            }
        }
    }
}
