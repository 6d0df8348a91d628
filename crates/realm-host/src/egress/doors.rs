//! Which addresses a guest's own sockets reach: what wasmtime asks before each system call.
//!
//! A rule is about an address by itself, or about a name that this instance looked up and that
//! resolved to it. Not here: making sockets (`sockets`) and look-ups (`lookup`).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use realm_model::grants::Transport;
use wasmtime_wasi::sockets::SocketAddrUse;

use super::names::Names;
use super::{Egress, Policy, Verdict};

/// What the sockets of one instance share.
pub(super) struct Doors {
    pub(super) policy: Arc<Policy>,
    pub(super) slot: u32,
    listen: Option<SocketAddr>,
    names: Mutex<Names>,
}

pub(super) const fn scheme(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

impl Doors {
    fn names(&self) -> MutexGuard<'_, Names> {
        // Whoever panicked left a table that is whole: each step of it is.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learn(&self, name: &str, addresses: &[IpAddr]) {
        self.names().learn(name, addresses, Instant::now());
    }

    /// The answer to wasmtime's question.
    pub(super) fn permits(&self, address: SocketAddr, purpose: SocketAddrUse) -> bool {
        if self.policy.is_free() {
            return true;
        }
        match purpose {
            SocketAddrUse::TcpConnect => self.reaches(Transport::Tcp, address),
            SocketAddrUse::UdpSend => self.reaches(Transport::Udp, address),
            // What a stranger sends is no doing of the guest's: nothing is told or counted.
            SocketAddrUse::UdpReceive => self.judge(Transport::Udp, address) == Verdict::Open,
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => self.binds(address, purpose),
            SocketAddrUse::TcpListen => {
                self.listen == Some(address) || self.refuse("listening on", address)
            }
            // Who comes is the edge, from this machine.
            SocketAddrUse::TcpAccept => {
                self.listen.is_some() && address.ip().to_canonical().is_loopback()
            }
        }
    }

    /// Connecting binds to any free port of any address, and asks like a guest that does: so that
    /// is open to both. A port of the guest's choice is not.
    fn binds(&self, address: SocketAddr, purpose: SocketAddrUse) -> bool {
        let is_any = address.ip().is_unspecified() && address.port() == 0;
        let is_granted = matches!(purpose, SocketAddrUse::TcpBind) && self.listen == Some(address);
        is_any || is_granted || self.refuse("binding to", address)
    }

    fn refuse(&self, what: &str, address: SocketAddr) -> bool {
        self.policy.deny_bind(self.slot, what, address, self.listen);
        false
    }

    fn reaches(&self, transport: Transport, address: SocketAddr) -> bool {
        let verdict = self.judge(transport, address);
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let name = || match self.names().last(ip) {
            Some(name) => name.to_string(),
            None => ip.to_string(),
        };
        match verdict {
            Verdict::Open => {}
            Verdict::NoRule => {
                let policy = &self.policy;
                policy.deny_unruled(self.slot, scheme(transport), &name(), port);
            }
            Verdict::Private => {
                let target = (scheme(transport), &*name(), port);
                self.policy.deny_private(self.slot, target, ip);
            }
        }
        verdict == Verdict::Open
    }

    fn judge(&self, transport: Transport, address: SocketAddr) -> Verdict {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let policy = &self.policy;
        let mut verdict = policy.judge(ip, |rule| rule.allows_address(transport, ip, port));
        if verdict == Verdict::Open {
            return verdict;
        }
        self.names().any(ip, Instant::now(), |name| {
            let named = policy.judge(ip, |rule| rule.allows_name(transport, name, port));
            if named != Verdict::NoRule {
                verdict = named;
            }
            named == Verdict::Open
        });
        verdict
    }
}

impl Egress {
    /// What this instance's sockets and look-ups share.
    pub(super) fn doors(&mut self) -> &Arc<Doors> {
        self.doors.get_or_insert_with(|| {
            Arc::new(Doors {
                policy: Arc::clone(&self.policy),
                slot: self.slot,
                listen: self.listen,
                names: Mutex::default(),
            })
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use realm_model::grants::Grants;
    use realm_model::limits::Limits;

    use super::*;
    use crate::component::Settings;
    use crate::config::{Config, Reach};
    use crate::egress::Network;
    use crate::logs::LogSink;

    struct Nowhere;

    impl LogSink for Nowhere {
        fn line(&self, _: u32, _: realm_model::api::LogStream, _: String) {}
    }

    pub(in crate::egress) fn policy(reach: Reach, rules: &[&str]) -> Arc<Policy> {
        let settings = Settings {
            name: "guest".parse().unwrap(),
            limits: Limits::default(),
            grants: Grants {
                allowed_outbound: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
                ..Grants::default()
            },
            stores: crate::cloud::Stores::default(),
            reuse: false,
            probe: None,
            log: Arc::new(Nowhere),
            meter: Arc::default(),
        };
        let config = Config {
            reach,
            ..Config::default()
        };
        Arc::new(Policy::new(
            &settings,
            Arc::new(Network::new(&config).unwrap()),
        ))
    }

    #[test]
    fn a_guest_that_listens_has_one_address() {
        let mut egress = Egress::new(policy(Reach::Public, &["tcp://9.9.9.9:53"]), 0);
        let address: SocketAddr = "127.0.0.1:8123".parse().unwrap();
        egress.listen = Some(address);
        let check = |at: &str, purpose: SocketAddrUse, expected: bool| {
            let mut egress = Egress::new(Arc::clone(&egress.policy), 0);
            egress.listen = Some(address);
            let permitted = egress.doors().permits(at.parse().unwrap(), purpose);
            assert_eq!(permitted, expected, "{purpose:?} {at}");
        };
        check("127.0.0.1:8123", SocketAddrUse::TcpBind, true);
        check("127.0.0.1:8123", SocketAddrUse::TcpListen, true);
        check("127.0.0.1:9", SocketAddrUse::TcpAccept, true);
        check("10.0.0.1:9", SocketAddrUse::TcpAccept, false);
        check("0.0.0.0:0", SocketAddrUse::TcpBind, true);
        check("0.0.0.0:0", SocketAddrUse::TcpListen, false);
        check("0.0.0.0:8123", SocketAddrUse::TcpBind, false);
        check("127.0.0.1:8124", SocketAddrUse::TcpBind, false);
        check("127.0.0.1:8124", SocketAddrUse::TcpListen, false);
        check("127.0.0.1:8123", SocketAddrUse::UdpBind, false);
        check("127.0.0.1:8123", SocketAddrUse::TcpConnect, false);
        check("9.9.9.9:53", SocketAddrUse::TcpConnect, true);
        check("9.9.9.9:53", SocketAddrUse::UdpSend, false);
        check("9.9.9.9:53", SocketAddrUse::UdpReceive, false);
    }
}
