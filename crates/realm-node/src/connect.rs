//! Ways to an agent, for its clients: the Unix socket, mutual TLS, and any stream that somebody opens.

mod peer;

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use realm_model::key::{PublicKey, SecretKey};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{self, TlsError};
pub use peer::{Goodbye, Peer, PeerError, Place};

/// TCP and TLS together: longer, and nobody is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to an agent.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The future of a connection.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Opens connections to one agent.
pub trait Connect: Debug + Send + Sync {
    /// A new connection.
    fn connect(&self) -> Connecting<'_>;

    /// The agent's place, for messages.
    fn place(&self) -> String;

    /// Whether it is the agent of this machine, of which one may run or not.
    fn is_local(&self) -> bool {
        false
    }

    /// The key that every connection has proved the node to have; `None`: they prove none, or it is
    /// the agent of this very machine.
    fn proven(&self) -> Option<PublicKey> {
        None
    }
}

/// The agent's Unix socket.
#[derive(Debug)]
pub(crate) struct Socket(PathBuf);

impl Socket {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Connect for Socket {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = crate::socket::connect(&self.0).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// The TCP port of a node, with mutual TLS.
pub struct Tls {
    address: String,
    node: PublicKey,
    config: Arc<ClientConfig>,
}

impl Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({} of {})", self.address, self.node)
    }
}

impl Tls {
    /// `address` is `HOST:PORT`; only the node of key `node` is talked to, and `key` is shown to it.
    pub fn new(address: &str, node: PublicKey, key: &SecretKey) -> Result<Self, TlsError> {
        Ok(Self {
            address: address.to_owned(),
            node,
            config: Arc::new(tls::client(key, node)?),
        })
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(&self.address).await?;
        // Keystrokes and short answers do not wait for more.
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        Ok(Box::new(
            connector.connect(tls::server_name(), stream).await?,
        ))
    }
}

impl Connect for Tls {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
            opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }

    fn place(&self) -> String {
        self.address.clone()
    }

    fn proven(&self) -> Option<PublicKey> {
        Some(self.node)
    }
}
