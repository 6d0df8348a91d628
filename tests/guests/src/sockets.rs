//! Tries each door to the network and tells how it went, as JSON: `"open"` or the error's name.
//!
//! `?address=` (127.0.0.1:9 when absent) is where TCP and UDP try to go, `?name=` (localhost when
//! absent) is looked up, `?bind=` (127.0.0.1:0 when absent) is listened on.

use std::net::{Ipv4Addr, SocketAddrV4};

use guests::wasip2::sockets::instance_network::instance_network;
use guests::wasip2::sockets::ip_name_lookup::resolve_addresses;
use guests::wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
};
use guests::wasip2::sockets::tcp_create_socket::create_tcp_socket;
use guests::wasip2::sockets::udp_create_socket::create_udp_socket;
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let address = |name, default: &str| {
        let text = guests::parameter(&request, name).unwrap_or_else(|| default.to_owned());
        text.parse::<SocketAddrV4>().map(wasi_address)
    };
    let (Ok(peer), Ok(bind)) = (
        address("address", "127.0.0.1:9"),
        address("bind", "127.0.0.1:0"),
    ) else {
        return guests::text(out, 400, "an address is IPv4:PORT\n");
    };
    let name = guests::parameter(&request, "name").unwrap_or_else(|| "localhost".to_owned());
    let json = guests::object([
        ("tcp_connect", told(tcp_connect(peer))),
        ("tcp_listen", told(tcp_listen(bind))),
        ("udp_send", told(udp_send(peer))),
        ("udp_bind", told(udp_bind(bind))),
        ("resolve", told(resolve(&name))),
    ]);
    guests::json(out, 200, &json);
}

fn told(result: Result<(), ErrorCode>) -> String {
    result.map_or_else(|code| code.name().to_owned(), |()| "open".to_owned())
}

fn tcp_connect(peer: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), peer)?;
    socket.subscribe().block();
    socket.finish_connect().map(drop)
}

fn tcp_listen(bind: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), bind)?;
    socket.subscribe().block();
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.subscribe().block();
    socket.finish_listen()
}

fn udp_bind(bind: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), bind)?;
    socket.subscribe().block();
    socket.finish_bind()
}

fn udp_send(peer: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    let any = wasi_address(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    socket.start_bind(&instance_network(), any)?;
    socket.subscribe().block();
    socket.finish_bind()?;
    let (_, outgoing) = socket.stream(Some(peer))?;
    outgoing.subscribe().block();
    outgoing.check_send()?;
    let datagram = guests::wasip2::sockets::udp::OutgoingDatagram {
        data: b"hello".to_vec(),
        remote_address: None,
    };
    outgoing.send(&[datagram]).map(drop)
}

fn resolve(name: &str) -> Result<(), ErrorCode> {
    let stream = resolve_addresses(&instance_network(), name)?;
    loop {
        match stream.resolve_next_address() {
            Err(ErrorCode::WouldBlock) => stream.subscribe().block(),
            other => return other.map(drop),
        }
    }
}

fn wasi_address(address: SocketAddrV4) -> IpSocketAddress {
    let [a, b, c, d] = address.ip().octets();
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    })
}
