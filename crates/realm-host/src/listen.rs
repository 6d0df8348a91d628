//! The one door of a server: to bind one port of 127.0.0.1, to listen there, and to accept who
//! comes from this machine. Not what it may connect to (`egress`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use wasmtime_wasi::sockets::SocketAddrUse;

use crate::logs::{LogSink, say};

/// The grant of one instance.
pub(crate) struct Listen {
    port: u16,
    slot: u32,
    log: Arc<dyn LogSink>,
    told: AtomicBool,
}

impl Listen {
    pub(crate) fn new(port: u16, slot: u32, log: Arc<dyn LogSink>) -> Self {
        Self {
            port,
            slot,
            log,
            told: AtomicBool::new(false),
        }
    }

    /// Whether a socket may be used like this. Uses that are none of listening are not granted here.
    pub(crate) fn may(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpBind | SocketAddrUse::TcpListen => {
                let may = may_bind(self.port, address);
                if !may {
                    self.tell(address);
                }
                may
            }
            SocketAddrUse::TcpAccept => address.ip().to_canonical().is_loopback(),
            SocketAddrUse::TcpConnect
            | SocketAddrUse::UdpBind
            | SocketAddrUse::UdpSend
            | SocketAddrUse::UdpReceive => false,
        }
    }

    /// Servers bind every address by habit, and tell no more than "permission denied".
    fn tell(&self, address: SocketAddr) {
        // Once: a guest may try as often as it likes.
        if !self.told.swap(true, Relaxed) {
            let port = self.port;
            let words = format_args!(
                "bind-denied: {address}: a server may listen on 127.0.0.1:{port} alone, which is `PORT`"
            );
            say(&*self.log, self.slot, words);
        }
    }
}

/// Whether `address` is the one that `port` stands for: no other port, and no wildcard, which would
/// be every network of the machine.
pub(crate) fn may_bind(port: u16, address: SocketAddr) -> bool {
    port != 0 && address.port() == port && address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_granted() {
        for (address, expected) in [
            ("127.0.0.1:7000", true),
            ("127.0.0.1:7001", false),
            ("127.0.0.1:0", false),
            ("127.0.0.2:7000", false),
            ("0.0.0.0:7000", false),
            ("0.0.0.0:0", false),
            ("10.0.0.1:7000", false),
            ("[::]:7000", false),
            ("[::1]:7000", false),
            ("[::ffff:127.0.0.1]:7000", false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(may_bind(7_000, address), expected, "{address}");
            assert!(!may_bind(0, address));
        }
    }
}
