//! From a socket that was accepted to a client that speaks HTTP: whose the connection is, where a proxy
//! says so, and the handshake, where the listener is one of HTTPS.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::answer::Edge;
use crate::connection::{Connection, Order};
use crate::forwarded::Scheme;
use crate::https::Front;
use crate::proxied::{self, Whose};
use crate::refusal;
use crate::registry::Place;
use crate::serve::linger;
use crate::tls::{Accepted, TlsLimits, accept};
use crate::wire::{Stream, Wire};

/// A header of the PROXY protocol, and with luck what follows it.
const HEADER_BYTES: usize = 1024;

/// A client that speaks HTTP.
pub(crate) struct Arrived {
    pub(crate) stream: Stream,
    /// `None`: its first bytes tell.
    pub(crate) is_http2: Option<bool>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) place: Place,
}

/// What goes wrong on the way there.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("no connection of a proxy")]
    Proxy(#[from] proxied::Unclear),
    #[error("there is no room for the client of a proxy")]
    Full,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("it took too long")]
    Late,
    #[error("it was ended")]
    Ended,
}

/// `None`: it came to nothing, and the socket is closed.
pub(crate) async fn arrive(
    edge: &Edge,
    tcp: TcpStream,
    connection: Arc<Connection>,
    place: Place,
) -> Option<Arrived> {
    let is_proxy = edge.speaks_for_others(connection.peer);
    if !is_proxy && connection.scheme == Scheme::Http {
        return Some(Arrived {
            stream: Stream::Plain(tcp.into()),
            is_http2: None,
            connection,
            place,
        });
    }
    let peer = connection.peer;
    let limits = edge
        .https
        .as_ref()
        .map_or_else(TlsLimits::default, |front| front.limits);
    // On the heap: only while it lasts is there need of so much.
    let arriving = Box::pin(async {
        let (wire, connection, place) = match is_proxy {
            false => (Wire::from(tcp), connection, place),
            true => whose(edge, tcp, connection, place).await?,
        };
        match &edge.https {
            Some(front) if connection.scheme == Scheme::Https => {
                handshake(front, wire, connection, place).await
            }
            Some(_) | None => Ok(Some(Arrived {
                stream: Stream::Plain(wire),
                is_http2: None,
                connection,
                place,
            })),
        }
    });
    let arrived = tokio::time::timeout(limits.handshake_timeout, arriving).await;
    arrived
        .unwrap_or(Err(Trouble::Late))
        .unwrap_or_else(|trouble| {
            let cause = std::error::Error::source(&trouble).map(ToString::to_string);
            tracing::debug!(%peer, %trouble, cause, "a connection came to nothing");
            None
        })
}

impl Edge {
    /// Whether a peer is a proxy that says whose its connections are.
    pub(crate) fn speaks_for_others(&self, peer: std::net::IpAddr) -> bool {
        self.proxy_protocol_from
            .iter()
            .any(|block| block.contains(peer))
    }
}

/// Reads whose a proxy's connection is; from then on it is that client's, and counts as one of its own.
async fn whose(
    edge: &Edge,
    mut tcp: TcpStream,
    connection: Arc<Connection>,
    place: Place,
) -> Result<(Wire, Arc<Connection>, Place), Trouble> {
    let mut ahead = BytesMut::with_capacity(HEADER_BYTES);
    let whose = unless_ended(&connection, async {
        Ok(proxied::read(&mut tcp, &mut ahead).await?)
    });
    let (peer, local) = match whose.await? {
        Whose::Client {
            source,
            destination,
        } => (source, destination),
        Whose::Proxy => (SocketAddr::new(connection.peer, 0), connection.local),
    };
    let is_trusted = |address| edge.trusted_proxies.contains(&address);
    let client = Connection::new(peer, local, is_trusted).on(connection.scheme);
    let client = Arc::new(client);
    let own = place.for_another(&client).map_err(|_| Trouble::Full)?;
    // Whoever was told to end before there was a client is told again.
    unless_ended(&connection, async { Ok(()) }).await?;
    drop(place);
    Ok((Wire::with_ahead(tcp, ahead.freeze()), client, own))
}

/// `Ok(None)`: it was told that this is the wrong way.
async fn handshake(
    front: &Front,
    wire: Wire,
    connection: Arc<Connection>,
    place: Place,
) -> Result<Option<Arrived>, Trouble> {
    let accepted = {
        let _turn = front.handshakes.begin(&connection);
        unless_ended(&connection, async {
            accept(&front.identity, wire)
                .await
                .map_err(Trouble::Handshake)
        })
        .await?
    };
    match accepted {
        Accepted::Client {
            stream,
            is_http2,
            told,
        } => {
            if is_http2 {
                connection.mark_http2();
            }
            connection.shook_hands(told);
            Ok(Some(Arrived {
                stream: Stream::Tls(stream),
                is_http2: Some(is_http2),
                connection,
                place,
            }))
        }
        Accepted::Plain(wire) => {
            let mut stream = Stream::Plain(wire);
            let answer = refusal::for_plain_http();
            if stream.tcp().write_all(answer).await.is_ok() {
                linger(&connection, &mut stream).await;
            }
            Ok(None)
        }
        Accepted::Challenged => Ok(None),
    }
}

/// Runs `doing` while the connection may go on.
async fn unless_ended<T>(
    connection: &Connection,
    doing: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let ended = poll_fn(|context| match connection.poll_order(context) {
        Order::Serve => Poll::Pending,
        Order::Drain | Order::Evict | Order::Cut => Poll::Ready(()),
    });
    tokio::select! {
        biased;
        () = ended => Err(Trouble::Ended),
        done = doing => done,
    }
}
