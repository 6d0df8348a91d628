//! WASI 0.3: a command that uses every kind of socket on loopback and tells what came of it, a
//! line each: it serves itself over TCP, sends itself datagrams, looks names up, and asks for what
//! no system gives.

use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
    UdpSocket,
};
use wasip3::wit_stream;

struct Sockets;

wasip3::cli::command::export!(Sockets);

impl wasip3::exports::cli::run::Guest for Sockets {
    async fn run() -> Result<(), ()> {
        println!("tcp: {:?}", tcp(v4(0), IpAddressFamily::Ipv4).await);
        println!("tcp on IPv6: {:?}", tcp(v6(), IpAddressFamily::Ipv6).await);
        println!("udp: {:?}", udp().await);
        println!("connect to port 0: {:?}", connect(v4(0)).await);
        println!("connect to port 1: {:?}", connect(v4(1)).await);
        println!("connect to no address: {:?}", connect(any(80)).await);
        println!("bind twice: {:?}", bind_twice());
        println!("receive before a connection: {:?}", early().await);
        for name in [
            "127.0.0.1",
            "::1",
            "[::1]",
            "127.1",
            "",
            "a b",
            "http://a",
            "a:80",
            "a..b",
        ] {
            println!("{name:?}: {:?}", resolve_addresses(name.to_owned()).await);
        }
        let found = resolve_addresses("localhost".to_owned()).await;
        println!("localhost: {}", found.is_ok_and(|found| !found.is_empty()));
        Ok(())
    }
}

/// What a server of its own gets from a client of its own, and the other way round.
async fn tcp(at: IpSocketAddress, family: IpAddressFamily) -> Result<(String, String), ErrorCode> {
    let server = TcpSocket::create(family)?;
    server.bind(at)?;
    let mut incoming = server.listen()?;
    let client = TcpSocket::create(family)?;
    let (connected, accepted) =
        futures(client.connect(server.get_local_address()?), incoming.next()).await;
    connected?;
    let accepted = accepted.ok_or(ErrorCode::InvalidState)?;
    let (there, back) = futures(exchange(client, "there"), exchange(accepted, "and back")).await;
    Ok((there?, back?))
}

async fn exchange(socket: TcpSocket, text: &str) -> Result<String, ErrorCode> {
    let (mut sink, data) = wit_stream::new();
    let sent = socket.send(data);
    let again = socket.send(wit_stream::new().1).await;
    assert!(matches!(again, Err(ErrorCode::InvalidState)), "{again:?}");
    let (source, received) = socket.receive();
    drop(socket);
    sink.write_all(text.as_bytes().to_vec()).await;
    drop(sink);
    sent.await?;
    let heard = source.collect().await;
    received.await?;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

async fn udp() -> Result<String, ErrorCode> {
    let server = UdpSocket::create(IpAddressFamily::Ipv4)?;
    server.bind(v4(0))?;
    let client = UdpSocket::create(IpAddressFamily::Ipv4)?;
    client.connect(server.get_local_address()?)?;
    client.send(b"ping".to_vec(), None).await?;
    let (heard, from) = server.receive().await?;
    server.send(heard, Some(from)).await?;
    let (heard, _) = client.receive().await?;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

async fn connect(to: IpSocketAddress) -> Result<(), ErrorCode> {
    TcpSocket::create(IpAddressFamily::Ipv4)?.connect(to).await
}

fn bind_twice() -> Result<(), ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(v4(0))?;
    socket.bind(v4(0))
}

async fn early() -> Result<usize, ErrorCode> {
    let (source, received) = TcpSocket::create(IpAddressFamily::Ipv4)?.receive();
    let heard = source.collect().await;
    received.await.map(|()| heard.len())
}

/// Both, at once.
async fn futures<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (Box::pin(one), Box::pin(other));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(|context| {
        use std::task::Poll;
        if first.is_none()
            && let Poll::Ready(done) = one.as_mut().poll(context)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = other.as_mut().poll(context)
        {
            second = Some(done);
        }
        match (first.take(), second.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

fn v4(port: u16) -> IpSocketAddress {
    let address = (127, 0, 0, 1);
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })
}

fn any(port: u16) -> IpSocketAddress {
    let address = (0, 0, 0, 0);
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })
}

fn v6() -> IpSocketAddress {
    IpSocketAddress::Ipv6(Ipv6SocketAddress {
        port: 0,
        flow_info: 0,
        address: (0, 0, 0, 0, 0, 0, 0, 1),
        scope_id: 0,
    })
}
