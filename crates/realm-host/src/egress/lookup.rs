//! `wasi:sockets/ip-name-lookup` of both generations: a guest looks up the names that its rules
//! are about, and learns those addresses that are open.
//!
//! What it learns is kept in its table of names: only from there, a name of a rule opens an
//! address to a socket. Not here: who answers (`resolve`).

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use wasmtime::Result;
use wasmtime::component::{Accessor, Linker, Resource, ResourceType};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network as p2;
use wasmtime_wasi::p2::{Network, Pollable, subscribe};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup as p3;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::doors::Doors;
use super::resolve::{Host, Unresolved};
use super::{Egress, HasNetwork, Verdict};
use crate::state::State;

/// The version that wasmtime links, and that stands for each release of its line.
const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// Why a look-up gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It is no host.
    NoHost,
    /// No rule lets it be looked up, or all that it resolves to is closed.
    Denied,
    Unresolved(Unresolved),
}

type Found = std::result::Result<Vec<IpAddr>, Failure>;

/// `resolve-address-stream` of WASI 0.2.
enum Lookup {
    Pending(AbortOnDropJoinHandle<Found>),
    Done(std::result::Result<std::vec::IntoIter<IpAddr>, Failure>),
}

/// What is to be done for a name.
enum Plan {
    Done(Found),
    Ask(Arc<Doors>, String),
}

impl Egress {
    fn plan(&mut self, text: &str) -> Plan {
        let Some(host) = Host::read(text) else {
            return Plan::Done(Err(Failure::NoHost));
        };
        let policy = &self.policy;
        match host {
            // It costs nobody a question; what it opens is decided when a socket goes there.
            Host::Address(address) => Plan::Done(Ok(vec![address])),
            Host::Name(name) => {
                let allowed =
                    policy.is_free() || policy.rules.iter().any(|rule| rule.allows_lookup(&name));
                if !allowed {
                    policy.deny_lookup(self.slot, &name);
                    return Plan::Done(Err(Failure::Denied));
                }
                Plan::Ask(Arc::clone(self.doors()), name)
            }
        }
    }
}

/// Asks, and keeps what is open.
async fn ask(doors: Arc<Doors>, name: String) -> Found {
    let policy = &doors.policy;
    let found = policy.resolve(&name).await.map_err(Failure::Unresolved)?;
    let is_open = |address: &IpAddr| {
        policy.judge(*address, |rule| rule.allows_lookup(&name)) == Verdict::Open
    };
    let (open, closed): (Vec<_>, Vec<_>) = found.into_iter().partition(is_open);
    if let ([], [first, ..]) = (&open[..], &closed[..]) {
        policy.deny_private_name(doors.slot, &name, *first);
        return Err(Failure::Denied);
    }
    doors.learn(&name, &open);
    Ok(open)
}

impl From<Failure> for p2::ErrorCode {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoHost => Self::InvalidArgument,
            Failure::Denied => Self::AccessDenied,
            Failure::Unresolved(Unresolved::Unknown) => Self::NameUnresolvable,
            Failure::Unresolved(Unresolved::Timeout) => Self::TemporaryResolverFailure,
        }
    }
}

impl From<Failure> for p3::ErrorCode {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoHost => Self::InvalidArgument,
            Failure::Denied => Self::AccessDenied,
            Failure::Unresolved(Unresolved::Unknown) => Self::NameUnresolvable,
            Failure::Unresolved(Unresolved::Timeout) => Self::TemporaryResolverFailure,
        }
    }
}

/// Puts this in the place of wasmtime's, for WASI 0.3.
pub(super) fn link_concurrent(linker: &mut Linker<State>) -> Result<()> {
    p3::add_to_linker::<_, HasNetwork>(linker, State::network)
}

/// The same for WASI 0.2.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    let mut lookup = linker.instance(INTERFACE)?;
    lookup.resource(
        "resolve-address-stream",
        ResourceType::host::<Lookup>(),
        |mut store, rep| {
            let table = store.data_mut().network().table;
            table.delete(Resource::<Lookup>::new_own(rep))?;
            Ok(())
        },
    )?;
    lookup.func_wrap(
        "resolve-addresses",
        |mut store, (network, name): (Resource<Network>, String)| {
            Ok((start(store.data_mut(), &network, &name)?,))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store, (this,): (Resource<Lookup>,)| {
            let lookup = store.data_mut().network().table.get_mut(&this)?;
            Ok((next(lookup),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store, (this,): (Resource<Lookup>,)| {
            let table = store.data_mut().network().table;
            Ok((subscribe(table, this)?,))
        },
    )
}

fn start(
    state: &mut State,
    network: &Resource<Network>,
    name: &str,
) -> Result<std::result::Result<Resource<Lookup>, p2::ErrorCode>> {
    let view = state.network();
    view.table.get(network)?;
    let lookup = match view.egress.plan(name) {
        // What is known at once is told at once.
        Plan::Done(Err(failure)) => return Ok(Err(failure.into())),
        Plan::Done(Ok(found)) => Lookup::Done(Ok(found.into_iter())),
        Plan::Ask(doors, name) => Lookup::Pending(spawn(ask(doors, name))),
    };
    Ok(Ok(view.table.push(lookup)?))
}

fn next(lookup: &mut Lookup) -> std::result::Result<Option<p2::IpAddress>, p2::ErrorCode> {
    if lookup
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
    {
        return Err(p2::ErrorCode::WouldBlock);
    }
    match lookup {
        Lookup::Pending(_) => Err(p2::ErrorCode::WouldBlock),
        Lookup::Done(Ok(found)) => Ok(found.next().map(Into::into)),
        Lookup::Done(Err(failure)) => Err((*failure).into()),
    }
}

impl Lookup {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Self::Pending(task) = self {
            let found = ready!(Future::poll(std::pin::Pin::new(task), context));
            *self = Self::Done(found.map(Vec::into_iter));
        }
        Poll::Ready(())
    }
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }
}

impl p3::Host for super::NetworkView<'_> {}

impl<U> p3::HostWithStore<U> for HasNetwork {
    async fn resolve_addresses(
        store: &Accessor<U, Self>,
        name: String,
    ) -> Result<std::result::Result<Vec<p3::IpAddress>, p3::ErrorCode>> {
        let plan = store.with(|mut access| access.get().egress.plan(&name));
        let found = match plan {
            Plan::Done(found) => found,
            Plan::Ask(doors, name) => ask(doors, name).await,
        };
        Ok(match found {
            Ok(found) => Ok(found.into_iter().map(Into::into).collect()),
            Err(failure) => Err(failure.into()),
        })
    }
}
