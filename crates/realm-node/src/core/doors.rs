//! The ports that servers insist on, on the addresses of this machine that node.toml names: listened on
//! wherever the server runs.
//!
//! Not what is carried there, nor to whom: that is the edge's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use realm_control::Desired;
use realm_edge::{Port, PortTrouble};
use realm_model::manifest::Mode;
use realm_model::observed::Millis;
use realm_model::route::HostPattern;

use super::Core;
use crate::certificates::Known;

/// When a port that another program has is tried again.
const AGAIN_MS: u64 = 5_000;

/// What is listened on.
pub(crate) struct Doors {
    edge: realm_edge::Handle,
    addresses: Vec<IpAddr>,
    troubles: Vec<PortTrouble>,
    look_at: Option<Millis>,
}

impl Doors {
    pub(crate) fn new(edge: realm_edge::Handle, addresses: &[IpAddr]) -> Self {
        Self {
            edge,
            addresses: addresses.to_vec(),
            troubles: Vec::new(),
            look_at: None,
        }
    }

    /// Ports that cannot be listened on.
    pub(crate) fn troubles(&self) -> &[PortTrouble] {
        &self.troubles
    }

    pub(crate) const fn look_at(&self) -> Option<Millis> {
        self.look_at
    }
}

/// The exact hosts of all routes.
pub(crate) fn exact_hosts(desired: &Desired) -> BTreeSet<String> {
    let manifest = desired.manifest.as_deref();
    let routes = manifest
        .into_iter()
        .flat_map(|manifest| manifest.routing.values().flatten());
    let hosts = routes.filter_map(|route| match &route.host {
        Some(HostPattern::Exact(host)) => Some(host.clone()),
        Some(HostPattern::Below(_)) | None => None,
    });
    hosts.collect()
}

impl Core {
    /// Tells for which hosts certificates may be ordered, those of all routes, and whether there are nodes
    /// that order them as well.
    pub(super) fn tell_hosts(&self) {
        let Some(certificates) = &self.certificates else {
            return;
        };
        let hosts = exact_hosts(self.ledger.desired());
        let nodes = self.ledger.authority().nodes.values();
        let others = nodes.filter(|node| node.key != self.node_key).count();
        certificates.learn(Known {
            hosts: Some(hosts),
            others,
        });
    }

    /// Listens where it should be listened.
    pub(super) fn keep_doors(&mut self) {
        if self.doors.addresses.is_empty() {
            return;
        }
        let manifest = self.ledger.desired().manifest.as_deref();
        let servers = manifest.into_iter().flat_map(|manifest| {
            let servers = manifest.components.iter();
            servers.filter_map(|(name, spec)| match spec.mode() {
                Mode::Server => Some((name, spec.listen?)),
                Mode::Answers | Mode::Upstream | Mode::Service | Mode::Once | Mode::Scheduled => {
                    None
                }
            })
        });
        let mut wanted = Vec::new();
        for (component, port) in servers {
            let mut replicas = self.observed.replicas.keys();
            let is_here = replicas.any(|id| id.component == *component);
            for ip in &self.doors.addresses {
                // There the server itself listens.
                if !(is_here && *ip == IpAddr::V4(Ipv4Addr::LOCALHOST)) {
                    let address = SocketAddr::new(*ip, port);
                    let component = component.clone();
                    wanted.push(Port { address, component });
                }
            }
        }
        let troubles = self.doors.edge.set_ports(wanted);
        let again = self.now().plus(AGAIN_MS);
        self.doors.look_at = (!troubles.is_empty()).then_some(again);
        if troubles != self.doors.troubles {
            for PortTrouble { port, reason } in &troubles {
                let Port { address, component } = port;
                tracing::warn!(code = "port-busy", %component, %address, reason, "a port of a server cannot be listened on");
            }
            self.doors.troubles = troubles;
        }
    }
}
