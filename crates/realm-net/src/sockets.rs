//! The thread of QUIC's sockets: packets come, are opened, sealed and leave there, whatever else the
//! network and the agent are busy with.
//!
//! On the agent's runtime each packet wakes a thread that looks for work to share and wakes another one
//! for that, and waits behind gossip and signatures. Here one thread does it all, one after the other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::Error;

/// The thread; it ends when this is dropped.
pub(crate) struct Sockets {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Sockets {
    pub(crate) fn start() -> Result<Self, Error> {
        let failed =
            |error: io::Error| Error::Setup(format!("cannot start a thread for sockets: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("realm-quic".to_owned());
        let thread = thread.spawn(move || {
            let _ = runtime.block_on(ended);
            // What still waits there waits for nobody.
            runtime.shutdown_background();
        });
        thread.map_err(failed)?;
        Ok(Self {
            runtime: handle,
            _end: end,
        })
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// A transport whose sockets, and the tasks that serve them, are on another runtime than the swarm's.
pub(crate) struct On<T> {
    transport: T,
    runtime: Handle,
}

impl<T> On<T> {
    pub(crate) const fn new(runtime: Handle, transport: T) -> Self {
        Self { transport, runtime }
    }
}

impl<T: Transport + Unpin> Transport for On<T>
where
    T::Dial: Unpin,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = On<T::Dial>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<T::Error>> {
        let _there = self.runtime.enter();
        self.transport.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        how: DialOpts,
    ) -> Result<Self::Dial, TransportError<T::Error>> {
        let _there = self.runtime.enter();
        let dial = self.transport.dial(address, how)?;
        Ok(On::new(self.runtime.clone(), dial))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        let Self { transport, runtime } = &mut *self;
        let _there = runtime.enter();
        Pin::new(transport).poll(context)
    }
}

impl<F: Future + Unpin> Future for On<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { transport, runtime } = &mut *self;
        let _there = runtime.enter();
        Pin::new(transport).poll(context)
    }
}
