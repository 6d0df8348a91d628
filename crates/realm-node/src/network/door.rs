//! What comes in from the network: streams go to those who serve them, all else to the loop.
//!
//! Nothing here waits for a peer: each stream has a task of its own, as many as the network lets in.

use std::time::Duration;

use axum::Router;
use realm_model::join::{Answer, JoinCode, Refused};
use realm_model::key::PublicKey;
use realm_net::{Class, Handle, Incoming, Protocol, Stream, Transport as _};
use tokio::sync::{mpsc, oneshot};

use super::{BlobServer, Knock};
use crate::access::Mouth;
use crate::certificates::Certificates;
use crate::event::Event;
use crate::joining::{answer, hear};
use crate::lending::Lending;
use crate::listen::{MutualTls, serve_stream};
use crate::places::Places;

/// A record is not signed more often either.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A caller names the node at once.
const TARGET_TIMEOUT: Duration = Duration::from_secs(10);
/// A key.
const TARGET_BYTES: usize = 32;
/// Calls that are passed on at once: they take streams between two members that those need themselves.
const PASSED_ON_MAX: usize = 64;
/// The same of one caller.
const PASSED_ON_EACH_MAX: usize = 8;

/// Who serves the streams of a node.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) net: Handle,
    pub(crate) blobs: BlobServer,
    /// For members that ask for certificates.
    pub(crate) certificates: Option<Certificates>,
    /// For messages that other nodes lend.
    pub(crate) lending: Lending,
    /// For requests of other nodes' clients.
    pub(crate) edge: realm_edge::Handle,
    /// The calls of the control API.
    pub(crate) router: Router,
    pub(crate) me: PublicKey,
    /// For calls that another node passes on.
    pub(crate) tls: MutualTls,
    pub(crate) passing: Places<PublicKey>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// Passes on what happens until the network or the loop ends.
pub(crate) async fn forward(door: Door, mut happened: mpsc::Receiver<realm_net::Event>) {
    while let Some(event) = happened.recv().await {
        if let realm_net::Event::Stream {
            from,
            class,
            address,
            protocol,
            incoming,
        } = event
        {
            let asker = Asker {
                key: from,
                class,
                address,
            };
            tokio::spawn(door.clone().stream(asker, protocol, incoming));
        } else if door.events.send(Event::Network(event)).await.is_err() {
            return;
        }
    }
}

/// Tells the loop that the connections are other ones, not more often than it matters.
pub(crate) async fn watch(net: Handle, events: mpsc::Sender<Event>) {
    let mut views = net.watch();
    // The handle would keep the network alive, and the network this task.
    drop(net);
    while views.changed().await.is_ok() && events.send(Event::Looked).await.is_ok() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The other end of a stream.
struct Asker {
    key: PublicKey,
    class: Class,
    address: String,
}

/// The places of callers whose calls are passed on.
pub(crate) fn passing() -> Places<PublicKey> {
    Places::new(PASSED_ON_MAX, PASSED_ON_EACH_MAX)
}

impl Door {
    async fn stream(self, asker: Asker, protocol: Protocol, incoming: Incoming) {
        let from = asker.key;
        // Declined, so that the other node knows that nobody had its request.
        if protocol == Protocol::Tunnel && !self.edge.takes_nodes() {
            return;
        }
        let certificates = self.certificates.clone();
        let certificates = certificates.filter(Certificates::is_shared);
        if protocol == Protocol::Cert && certificates.is_none() {
            return;
        }
        // A peer that went away meanwhile is no news.
        let Ok(stream) = incoming.accept().await else {
            return;
        };
        match protocol {
            Protocol::Join => self.knock(asker, stream).await,
            Protocol::Blob => {
                if let Err(error) = self.blobs.serve(from, stream).await {
                    tracing::debug!(peer = %from, %error, "a transfer of bytes ended early");
                }
            }
            Protocol::Api => serve_stream(self.router, stream, Mouth::Peer(from)).await,
            Protocol::Via => self.via(asker, stream).await,
            Protocol::Cert => {
                if let Some(certificates) = certificates {
                    certificates.serve(from, stream).await;
                }
            }
            Protocol::Lend => self.lending.serve(from, stream).await,
            Protocol::Tunnel => self.edge.serve_node(stream, self.net.sockets()),
        }
    }

    /// A caller speaks to a node through this one, or to this one through another.
    async fn via(self, asker: Asker, mut stream: Stream) {
        let named = tokio::time::timeout(TARGET_TIMEOUT, stream.read_message(TARGET_BYTES)).await;
        let Ok(Ok(Some(target))) = named else { return };
        let target = <[u8; 32]>::try_from(target).ok();
        let Some(target) = target.and_then(|bytes| PublicKey::from_bytes(bytes).ok()) else {
            return;
        };
        if target == self.me {
            // Whoever passes it on proves nothing about the caller, and sees and changes nothing.
            if let Some((stream, mouth)) = self.tls.accept(stream).await {
                serve_stream(self.router, stream, mouth).await;
            }
            return;
        }
        // One step is enough to reach whoever is reached at all, and cannot become a circle.
        if asker.class != Class::Client {
            return;
        }
        let Some(_place) = self.passing.take(asker.key, 0) else {
            return;
        };
        let Ok(mut far) = self.net.open(target, Protocol::Via).await else {
            return;
        };
        if far.write_message(target.as_bytes()).await.is_ok() {
            // It ends when both have ended, or one breaks; what each side says is for them.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
        }
    }

    async fn knock(&self, asker: Asker, mut stream: realm_net::Stream) {
        let request = match hear(&mut stream).await {
            Ok(request) => request,
            Err(error) => {
                if let Some(reply) = error.answer() {
                    let _ = answer(&mut stream, &reply).await;
                }
                return;
            }
        };
        let (reply, answered) = oneshot::channel();
        let knock = Knock {
            key: asker.key,
            address: asker.address,
            request,
            reply,
        };
        // A loop that is busy with the realm is not to be kept busier by strangers.
        let reply = match self.events.try_send(Event::Knocked(knock)) {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        let busy = || Answer::Refused(Refused::new(JoinCode::TooMany, "the node is busy", Some(5)));
        // Whoever hung up asks again.
        let _ = answer(&mut stream, &reply.unwrap_or_else(busy)).await;
    }
}
