//! The way into the network: a cheap handle, and the trait that a simulator implements as well.

use std::sync::Arc;

use realm_model::key::PublicKey;
use tokio::sync::{mpsc, oneshot, watch};

use crate::Error;
use crate::class::{Admission, Protocol, Topic};
use crate::codec::REQUEST_BYTES_MAX;
use crate::event::{Counters, Figures, HintId, PeerView, Verdict};
use crate::hints::HINT_BYTES_MAX;
use crate::stream::Stream;
use crate::streams::OpenReply;

/// Moves bytes between keys. Calls may fail at any time, and may be repeated.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Tells all members a hint of at most 64 KiB. Best effort, at once, to whom it reaches.
    fn publish(&self, topic: Topic, bytes: Vec<u8>) -> Result<(), Error>;

    /// Says what becomes of a hint.
    fn verdict(&self, hint: HintId, verdict: Verdict);

    /// Asks a member something (at most 256 KiB), and waits for its answer (at most 18 MiB).
    fn request(
        &self,
        peer: PublicKey,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + Send;

    /// Opens a stream to a peer that is connected, or a member with a known address.
    fn open(
        &self,
        peer: PublicKey,
        protocol: Protocol,
    ) -> impl Future<Output = Result<Stream, Error>> + Send;

    /// Says who is a member and who a client, in place of what was said before. Connections of keys
    /// whose class changes are closed.
    fn admit(&self, admission: Admission) -> impl Future<Output = Result<(), Error>> + Send;

    /// Says where a member may be reached, in place of what was said before. What is not an address
    /// is left out; at most 16 are kept. What is said of others than members is forgotten: admit first.
    fn addresses(&self, peer: PublicKey, addresses: Vec<String>) -> Result<(), Error>;

    /// Connects to whoever is at an address, or to the key that it names, and returns the key.
    fn dial(&self, address: &str) -> impl Future<Output = Result<PublicKey, Error>> + Send;

    /// All connected peers, and all members.
    fn peers(&self) -> Arc<Vec<PeerView>>;
}

/// A handle of the network. It stays valid when the network is started anew after a panic; the
/// network ends when the last handle is dropped.
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) views: watch::Receiver<Arc<Vec<PeerView>>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) me: PublicKey,
    pub(crate) sockets: tokio::runtime::Handle,
}

/// What a handle asks of the loop.
pub(crate) enum Command {
    Publish {
        topic: Topic,
        bytes: Vec<u8>,
    },
    Verdict {
        hint: HintId,
        verdict: Verdict,
    },
    Request {
        peer: PublicKey,
        bytes: Vec<u8>,
        reply: RequestReply,
    },
    Open {
        peer: PublicKey,
        protocol: Protocol,
        reply: OpenReply,
    },
    Admit {
        admission: Admission,
        done: oneshot::Sender<()>,
    },
    Addresses {
        peer: PublicKey,
        addresses: Vec<String>,
    },
    Dial {
        address: String,
        reply: DialReply,
    },
    Realm {
        realm: Option<String>,
        done: oneshot::Sender<Result<(), Error>>,
    },
    Disconnect {
        peer: PublicKey,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
    #[cfg(test)]
    Test(crate::tests::TestCommand),
}

pub(crate) type RequestReply = oneshot::Sender<Result<Vec<u8>, Error>>;
pub(crate) type DialReply = oneshot::Sender<Result<PublicKey, Error>>;

impl Handle {
    /// The key of this node.
    pub fn me(&self) -> PublicKey {
        self.me
    }

    /// Where the bytes of streams over QUIC come and go: one thread, which nothing may hold up.
    pub fn sockets(&self) -> &tokio::runtime::Handle {
        &self.sockets
    }

    /// Counts since the start.
    pub fn figures(&self) -> Figures {
        self.counters.snapshot()
    }

    /// Told with each change of [`Transport::peers`].
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<PeerView>>> {
        self.views.clone()
    }

    /// Joins a realm, or leaves it: the network starts anew under its protocol names.
    pub async fn set_realm(&self, realm: Option<String>) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Realm { realm, done }).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// Closes all connections to a peer. A wanted member is dialled again.
    pub fn disconnect(&self, peer: PublicKey) -> Result<(), Error> {
        self.send_at_once(Command::Disconnect { peer })
    }

    /// Ends the network: connections are closed, sockets given back.
    pub async fn stop(&self) {
        let (done, answer) = oneshot::channel();
        if self.send(Command::Stop { done }).await.is_ok() {
            let _ = answer.await;
        }
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands
            .send(command)
            .await
            .map_err(|_| Error::Stopped)
    }

    fn send_at_once(&self, command: Command) -> Result<(), Error> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded,
                mpsc::error::TrySendError::Closed(_) => Error::Stopped,
            })
    }
}

const fn within(size: usize, max: usize) -> Result<(), Error> {
    if size > max {
        Err(Error::TooLarge { size, max })
    } else {
        Ok(())
    }
}

impl Transport for Handle {
    fn publish(&self, topic: Topic, bytes: Vec<u8>) -> Result<(), Error> {
        within(bytes.len(), HINT_BYTES_MAX)?;
        self.send_at_once(Command::Publish { topic, bytes })
    }

    fn verdict(&self, hint: HintId, verdict: Verdict) {
        // A verdict that finds no room is as good as none: the hint goes no further.
        let _ = self.send_at_once(Command::Verdict { hint, verdict });
    }

    async fn request(&self, peer: PublicKey, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        within(bytes.len(), REQUEST_BYTES_MAX)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Request { peer, bytes, reply }).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    async fn open(&self, peer: PublicKey, protocol: Protocol) -> Result<Stream, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open {
            peer,
            protocol,
            reply,
        })
        .await?;
        let opened = answer.await.map_err(|_| Error::Stopped)??;
        opened.accepted().await
    }

    async fn admit(&self, admission: Admission) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Admit { admission, done }).await?;
        answer.await.map_err(|_| Error::Stopped)
    }

    fn addresses(&self, peer: PublicKey, addresses: Vec<String>) -> Result<(), Error> {
        self.send_at_once(Command::Addresses { peer, addresses })
    }

    async fn dial(&self, address: &str) -> Result<PublicKey, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Dial {
            address: address.to_owned(),
            reply,
        })
        .await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    fn peers(&self) -> Arc<Vec<PeerView>> {
        self.views.borrow().clone()
    }
}
