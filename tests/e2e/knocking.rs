//! Strangers by the thousand: each has a key and a TCP connection of its own, from an address that a
//! test chooses, and speaks what an agent speaks to ask for membership (Noise, yamux, the join
//! protocol), without a network around it.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, PortUse, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::core::{Endpoint, Transport};
use libp2p::{Multiaddr, PeerId, noise, yamux};
use realm_model::join::{Answer, Request};
use realm_model::key::SecretKey;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

/// Who is not let in hears nothing, and waits for it no longer than that.
const KNOCK_TIME_MAX: Duration = Duration::from_secs(10);

/// What became of a knock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Knocked {
    /// No connection, or it was closed before the handshake had ended.
    ShutOut,
    /// Connected, and no answer.
    Unheard,
    /// Answered.
    Heard(Answer),
}

/// Asks a node at a TCP address over the join protocol, with this key, from this address.
pub(crate) async fn knock(
    from: IpAddr,
    node: SocketAddr,
    key: &SecretKey,
    request: &Request,
) -> Knocked {
    let Ok(Ok(mut muxer)) = tokio::time::timeout(KNOCK_TIME_MAX, connect(from, node, key)).await
    else {
        return Knocked::ShutOut;
    };
    let exchange = async {
        let stream = poll_fn(|cx| match muxer.poll_outbound_unpin(cx) {
            Poll::Ready(stream) => Poll::Ready(stream),
            // What the other side sends is taken meanwhile.
            Poll::Pending => match muxer.poll_unpin(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            },
        });
        let stream = stream.await.map_err(io::Error::other)?;
        let driven = poll_fn(|cx| match muxer.poll_unpin(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(io::Error::other(error)),
            Poll::Ready(Ok(_)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            answer = ask(stream, request) => answer,
            error = driven => Err(error),
        }
    };
    match tokio::time::timeout(KNOCK_TIME_MAX, exchange).await {
        Ok(Ok(bytes)) => Answer::from_bytes(&bytes).map_or(Knocked::Unheard, Knocked::Heard),
        Ok(Err(_)) | Err(_) => Knocked::Unheard,
    }
}

async fn connect(from: IpAddr, node: SocketAddr, key: &SecretKey) -> io::Result<StreamMuxerBox> {
    let keys = libp2p::identity::Keypair::ed25519_from_bytes(*key.seed()).unwrap();
    let mut transport: Boxed<(PeerId, StreamMuxerBox)> = From(from)
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keys).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let options = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let address = format!("/ip4/{}/tcp/{}", node.ip(), node.port());
    let dialling = transport.dial(address.parse().unwrap(), options).unwrap();
    Ok(dialling.await?.1)
}

/// Chooses the protocol, waits until the node takes the stream, and asks.
async fn ask(mut stream: SubstreamBox, request: &Request) -> io::Result<Vec<u8>> {
    const CHOICE: &[u8] = b"\x13/multistream/1.0.0\n\x0e/realm/join/1\n";
    stream.write_all(CHOICE).await?;
    stream.flush().await?;
    let mut echo = [0; CHOICE.len() + 1];
    stream.read_exact(&mut echo).await?;
    // Behind the echo of the choice: 0, if the node takes the stream.
    if echo[..CHOICE.len()] != *CHOICE || echo[CHOICE.len()] != 0 {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.write_all(&request.to_bytes()).await?;
    stream.close().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// TCP connections from one address.
struct From(IpAddr);

impl Transport for From {
    type Output = Compat<TcpStream>;
    type Error = io::Error;
    type ListenerUpgrade = std::future::Pending<io::Result<Self::Output>>;
    type Dial = Pin<Box<dyn Future<Output = io::Result<Self::Output>> + Send>>;

    fn listen_on(&mut self, _: ListenerId, at: Multiaddr) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(at))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        _: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        use libp2p::multiaddr::Protocol::{Ip4, Tcp};
        let parts: Vec<_> = address.iter().collect();
        let [Ip4(ip), Tcp(port)] = parts[..] else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let from = SocketAddr::new(self.0, 0);
        Ok(Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            // Thousands from a few addresses, one after the other.
            socket.set_reuseaddr(true)?;
            socket.bind(from)?;
            let stream = socket.connect(SocketAddr::new(ip.into(), port)).await?;
            Ok(stream.compat())
        }))
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}
