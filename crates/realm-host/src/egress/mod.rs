//! What a guest may reach over the network, checked twice.
//!
//! First the rules of `allowed_outbound`, against the name that the guest wrote or that it looked
//! up; then the address, against the ranges that are open. The address that was checked is the one
//! that is dialled, so a name cannot change its mind in between. `http` has the requests that the
//! host sends for a guest; `doors`, `sockets` and `lookup` are about what a guest does by itself.
//! Nothing here is made before a guest asks for it.

mod again;
mod denied;
mod doors;
mod http;
mod lookup;
mod names;
mod network;
mod pool;
mod ranges;
mod resolve;
mod response;
mod send;
mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use realm_model::grants::{OutboundHost, OutboundRule};
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::WasiCtx;

pub(crate) use network::Network;
pub use network::Resolver;

use crate::component::Settings;
use crate::config::Reach;
use crate::logs::LogSink;
use crate::meter::Meter;
use crate::state::State;

/// Name look-ups of one component at once. Each takes a thread until the system's resolver gives
/// up, even when nobody waits for it any more.
const LOOKUPS_MAX: usize = 16;

/// What one component may reach.
pub(crate) struct Policy {
    rules: Vec<OutboundRule>,
    network: Arc<Network>,
    lookups: Arc<Semaphore>,
    sockets: AtomicU32,
    pool: Arc<pool::Pool>,
    /// Made with the first connection that speaks it.
    tls: OnceLock<Option<Arc<ClientConfig>>>,
    meter: Arc<Meter>,
    log: Arc<dyn LogSink>,
}

/// The way out of one instance.
pub(crate) struct Egress {
    policy: Arc<Policy>,
    slot: u32,
    listen: Option<SocketAddr>,
    /// Requests in flight; made with the first.
    requests: Option<Arc<AtomicU32>>,
    /// What its sockets and look-ups share; made with the first.
    doors: Option<Arc<doors::Doors>>,
    /// Whether wasmtime asks them.
    asked: bool,
    places: Vec<sockets::Held>,
}

/// The way out of one instance, with what its host functions need.
pub(crate) struct NetworkView<'a> {
    pub(crate) egress: &'a mut Egress,
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) wasi: &'a mut WasiCtx,
}

struct HasNetwork;

impl HasData for HasNetwork {
    type Data<'a> = NetworkView<'a>;
}

/// What the rules say of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Open,
    NoRule,
    /// A rule names it, and its address is not public.
    Private,
}

/// Puts realm's own look-ups and the making of sockets in the place of wasmtime's, for WASI 0.2.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    http::link(linker)?;
    sockets::link(linker)?;
    lookup::link(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The same for WASI 0.3.
pub(crate) fn link_concurrent(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    sockets::link_concurrent(linker)?;
    lookup::link_concurrent(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl Egress {
    pub(crate) fn new(policy: Arc<Policy>, slot: u32) -> Self {
        Self {
            policy,
            slot,
            listen: None,
            requests: None,
            doors: None,
            asked: false,
            places: Vec::new(),
        }
    }

    /// Lets the guest listen on this address, and on no other.
    pub(crate) fn listen_on(&mut self, address: SocketAddr) {
        self.listen = Some(address);
    }
}

impl Policy {
    pub(crate) fn new(settings: &Settings, network: Arc<Network>) -> Self {
        Self {
            rules: settings.grants.allowed_outbound.clone(),
            network,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            sockets: AtomicU32::new(0),
            pool: Arc::default(),
            tls: OnceLock::new(),
            meter: Arc::clone(&settings.meter),
            log: Arc::clone(&settings.log),
        }
    }

    /// Whether everything is open, rules or none.
    fn is_free(&self) -> bool {
        self.network.reach == Reach::Everything
    }

    /// What the rules that match say of an address.
    fn judge(&self, address: IpAddr, matches: impl Fn(&OutboundRule) -> bool) -> Verdict {
        if self.is_free() {
            return Verdict::Open;
        }
        let mut verdict = Verdict::NoRule;
        for rule in self.rules.iter().filter(|rule| matches(rule)) {
            if self.opens(rule, address) {
                return Verdict::Open;
            }
            verdict = Verdict::Private;
        }
        verdict
    }

    /// Whether an address is open to a rule that matches its host.
    fn opens(&self, rule: &OutboundRule, address: IpAddr) -> bool {
        let named = match rule.host {
            OutboundHost::Name(_) | OutboundHost::Block { .. } => true,
            OutboundHost::Any | OutboundHost::Below(_) => false,
        };
        match self.network.reach {
            Reach::Public => self.network.ranges.open(address),
            Reach::Named => named || self.network.ranges.open(address),
            Reach::Everything => true,
        }
    }
}
