//! `wasi:sockets` of both generations: how a guest gets sockets of its own, and how many.
//!
//! Wasmtime makes them, and is told to ask `doors` when a guest makes its first, so that nobody
//! else pays for it. One socket too many is refused, never queued: a guest could wait for itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use realm_model::grants::Transport;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, FutureConsumer, FutureReader, Linker, Resource, Source, StreamReader,
};
use wasmtime::{AsContextMut, Result, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::{network as p2, tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p2::{TcpSocket as TcpSocket2, UdpSocket as UdpSocket2};
use wasmtime_wasi::p3::bindings::sockets::types::{
    self as p3, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket,
};
use wasmtime_wasi::sockets::{
    TcpSocket, UdpSocket, WasiSockets, WasiSocketsCtxView, WasiSocketsView as _,
};
use wasmtime_wasi::{TrappableError, WasiCtxBuilder};

use super::doors::scheme;
use super::{Egress, NetworkView, Policy};
use crate::state::State;

/// Sockets that one instance may have: a pool of connections to a few servers.
const SOCKETS_MAX: usize = 64;
/// Sockets of all instances of a component: what stands behind it has bounds as well, and each
/// takes a descriptor of this process.
const COMPONENT_SOCKETS_MAX: u32 = 1_024;

/// One of the sockets that a component may have.
struct Place(Arc<Policy>);

/// A socket that lives in the guest's table, or of which a stream still does.
pub(super) struct Held {
    rep: u32,
    kind: Kind,
    place: Arc<Place>,
}

/// What a socket is in the table of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp2,
    Udp2,
    Tcp3,
    Udp3,
}

/// Why there is no socket.
enum Refused {
    Denied,
    TooMany,
}

impl Kind {
    const fn transport(self) -> Transport {
        match self {
            Self::Tcp2 | Self::Tcp3 => Transport::Tcp,
            Self::Udp2 | Self::Udp3 => Transport::Udp,
        }
    }
}

impl Place {
    fn take(policy: &Arc<Policy>) -> Option<Self> {
        let one_more =
            |count| (count < COMPONENT_SOCKETS_MAX || policy.is_free()).then_some(count + 1);
        let taken = policy.sockets.fetch_update(Relaxed, Relaxed, one_more);
        taken.is_ok().then(|| Self(Arc::clone(policy)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Relaxed);
    }
}

impl Egress {
    /// Whether any target of a transport is open.
    fn has(&self, transport: Transport) -> bool {
        self.policy.is_free()
            || self.policy.rules.iter().any(|rule| rule.reaches(transport))
            || (transport == Transport::Tcp && self.listen.is_some())
    }

    /// The place of a socket, for what is left of it when the socket is gone.
    fn place_of(&self, rep: u32) -> Option<Arc<Place>> {
        // The last one: those before it had the same number, and live on in their streams.
        let held = self.places.iter().rev().find(|held| held.rep == rep)?;
        Some(Arc::clone(&held.place))
    }
}

impl NetworkView<'_> {
    /// Lets one more socket be made; the first one puts the questions of wasmtime to `Doors`.
    fn enter(&mut self, kind: Kind) -> Result<Arc<Place>, Refused> {
        let egress = &mut *self.egress;
        if !egress.has(kind.transport()) {
            egress
                .policy
                .deny_sockets(egress.slot, scheme(kind.transport()));
            return Err(Refused::Denied);
        }
        egress.places.retain(|held| held.lives(self.table));
        if egress.places.len() >= SOCKETS_MAX && !egress.policy.is_free() {
            return Err(Refused::TooMany);
        }
        let place = Place::take(&egress.policy).ok_or(Refused::TooMany)?;
        if !std::mem::replace(&mut egress.asked, true) {
            let doors = Arc::clone(egress.doors());
            let (tcp, udp) = (egress.has(Transport::Tcp), egress.has(Transport::Udp));
            let mut wasi = WasiCtxBuilder::new();
            wasi.allow_tcp(tcp).allow_udp(udp);
            wasi.socket_addr_check(move |address, purpose| {
                Box::pin(std::future::ready(doors.permits(address, purpose)))
            });
            *self.wasi.sockets() = wasi.build().sockets().clone();
        }
        Ok(Arc::new(place))
    }

    fn hold(&mut self, rep: u32, kind: Kind, place: Arc<Place>) {
        let places = &mut self.egress.places;
        // The table gives a number anew when its socket is gone; streams may still have its place.
        places.retain(|held| held.rep != rep || held.is_shared());
        places.push(Held { rep, kind, place });
    }
}

impl Held {
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.place) > 1
    }

    fn lives(&self, table: &wasmtime::component::ResourceTable) -> bool {
        fn has<T: 'static>(table: &wasmtime::component::ResourceTable, rep: u32) -> bool {
            table.get(&Resource::<T>::new_borrow(rep)).is_ok()
        }
        self.is_shared()
            || match self.kind {
                Kind::Tcp2 => has::<TcpSocket2>(table, self.rep),
                Kind::Udp2 => has::<UdpSocket2>(table, self.rep),
                Kind::Tcp3 => has::<TcpSocket>(table, self.rep),
                Kind::Udp3 => has::<UdpSocket>(table, self.rep),
            }
    }
}

/// Puts the makers of sockets in the place of wasmtime's, for WASI 0.2.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    linker
        .instance("wasi:sockets/tcp-create-socket@0.2.12")?
        .func_wrap_async("create-tcp-socket", |mut store, (family,)| {
            Box::new(async move {
                let create = async |mut sockets: WasiSocketsCtxView<'_>| {
                    tcp_create_socket::Host::create_tcp_socket(&mut sockets, family)
                };
                Ok((make(store.data_mut().network(), Kind::Tcp2, create).await?,))
            })
        })?;
    linker
        .instance("wasi:sockets/udp-create-socket@0.2.12")?
        .func_wrap_async("create-udp-socket", |mut store, (family,)| {
            Box::new(async move {
                let create = async |mut sockets: WasiSocketsCtxView<'_>| {
                    udp_create_socket::Host::create_udp_socket(&mut sockets, family).await
                };
                Ok((make(store.data_mut().network(), Kind::Udp2, create).await?,))
            })
        })?;
    Ok(())
}

/// The same for WASI 0.3.
pub(super) fn link_concurrent(linker: &mut Linker<State>) -> Result<()> {
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
    types.func_wrap_async("[static]tcp-socket.create", |mut store, (family,)| {
        Box::new(async move {
            let create = async |mut sockets: WasiSocketsCtxView<'_>| {
                HostTcpSocket::create(&mut sockets, family)
            };
            Ok((make(store.data_mut().network(), Kind::Tcp3, create).await?,))
        })
    })?;
    types.func_wrap_async("[static]udp-socket.create", |mut store, (family,)| {
        Box::new(async move {
            let create = async |mut sockets: WasiSocketsCtxView<'_>| {
                HostUdpSocket::create(&mut sockets, family).await
            };
            Ok((make(store.data_mut().network(), Kind::Udp3, create).await?,))
        })
    })?;
    types.func_wrap("[method]tcp-socket.send", |store, (socket, data)| {
        Ok((send(store, socket, data)?,))
    })?;
    types.func_wrap("[method]tcp-socket.receive", |store, (socket,)| {
        Ok((receive(store, socket)?,))
    })
}

impl From<Refused> for p2::ErrorCode {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied => Self::AccessDenied,
            Refused::TooMany => Self::NewSocketLimit,
        }
    }
}

impl From<Refused> for p3::ErrorCode {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied => Self::AccessDenied,
            Refused::TooMany => Self::Other(Some("too many sockets".to_owned())),
        }
    }
}

/// What a guest gets that asks for a socket.
type Made<T, E> = Result<std::result::Result<Resource<T>, E>>;

/// Lets a guest have one more socket, which `create` makes.
async fn make<T: 'static, E>(
    mut view: NetworkView<'_>,
    kind: Kind,
    create: impl AsyncFnOnce(
        WasiSocketsCtxView<'_>,
    ) -> std::result::Result<Resource<T>, TrappableError<E>>,
) -> Made<T, E>
where
    E: From<Refused> + std::error::Error + Send + Sync + 'static,
{
    let place = match view.enter(kind) {
        Ok(place) => place,
        Err(refused) => return Ok(Err(refused.into())),
    };
    let sockets = WasiSocketsCtxView {
        ctx: view.wasi.sockets(),
        table: view.table,
    };
    match create(sockets).await {
        Ok(socket) => {
            view.hold(socket.rep(), kind, place);
            Ok(Ok(socket))
        }
        Err(error) => error.downcast().map(Err),
    }
}

type Told = std::result::Result<(), p3::ErrorCode>;

/// A connection lives as long as one of its streams does, with or without its socket; how a
/// stream ended is told when it is gone, and with that its share of the place: not in the same
/// breath, but while the guest waits for something.
struct Share {
    told: Option<oneshot::Sender<Told>>,
    _place: Arc<Place>,
}

impl Share {
    fn tell(&mut self, told: Told) {
        if let Some(sender) = self.told.take() {
            // Nobody may want to know.
            let _ = sender.send(told);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.tell(Ok(()));
    }
}

impl FutureConsumer<State> for Share {
    type Item = Told;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<'_, State>,
        mut source: Source<'_, Told>,
        _: bool,
    ) -> Poll<Result<()>> {
        let mut told = None;
        source.read(store, &mut told)?;
        if let Some(told) = told {
            self.tell(told);
        }
        Poll::Ready(Ok(()))
    }
}

/// The same future, which holds a share of the socket's place until it is there.
fn sharing(
    store: &mut StoreContextMut<'_, State>,
    ended: FutureReader<Told>,
    place: Option<Arc<Place>>,
) -> Result<FutureReader<Told>> {
    let Some(place) = place else {
        return Ok(ended);
    };
    let (sender, told) = oneshot::channel();
    let share = Share {
        told: Some(sender),
        _place: place,
    };
    ended.pipe(store.as_context_mut(), share)?;
    FutureReader::new(store.as_context_mut(), told)
}

fn send(
    mut store: StoreContextMut<'_, State>,
    socket: Resource<TcpSocket>,
    data: StreamReader<u8>,
) -> Result<FutureReader<Told>> {
    let place = store.data_mut().network().egress.place_of(socket.rep());
    let access = Access::<_, WasiSockets>::new(store.as_context_mut(), State::sockets);
    let ended = <WasiSockets as HostTcpSocketWithStore<State>>::send(access, socket, data)?;
    sharing(&mut store, ended, place)
}

fn receive(
    mut store: StoreContextMut<'_, State>,
    socket: Resource<TcpSocket>,
) -> Result<(StreamReader<u8>, FutureReader<Told>)> {
    let place = store.data_mut().network().egress.place_of(socket.rep());
    let access = Access::<_, WasiSockets>::new(store.as_context_mut(), State::sockets);
    let (data, ended) = <WasiSockets as HostTcpSocketWithStore<State>>::receive(access, socket)?;
    Ok((data, sharing(&mut store, ended, place)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Reach;
    use crate::egress::doors::tests::policy;

    #[test]
    fn a_component_has_so_many_sockets_in_all_its_instances() {
        let limited = policy(Reach::Public, &[]);
        let take = || Place::take(&limited);
        let mut taken: Vec<_> = (0..COMPONENT_SOCKETS_MAX).map_while(|_| take()).collect();
        assert_eq!(taken.len(), 1_024);
        assert!(take().is_none());
        taken.pop();
        assert!(take().is_some());
    }
}
