//! WASI 0.3: the same as `net`: `/resolve?name=`, `/tcp?to=ADDRESS:PORT`, `/tcp?to=..&name=` (looks
//! the name up first), `/udp?to=`, `/hold?to=&count=` (keeps the streams alone), `/listen?at=`,
//! `/bind?at=`.

use std::net::SocketAddrV4;

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode as HttpError, Fields, Request, Response};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_bindgen::rt::async_support::StreamReader;
use wasip3::wit_bindgen::yield_async;
use wasip3::{wit_future, wit_stream};

struct Net;

wasip3::http::service::export!(Net);

impl Guest for Net {
    async fn handle(request: Request) -> Result<Response, HttpError> {
        let target = request.get_path_with_query().unwrap_or_default();
        let text = answer(&target).await;
        let (mut body, reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(text.into_bytes()).await;
        });
        Ok(response)
    }
}

async fn answer(target: &str) -> String {
    let text = |name| guests::query(target, name).unwrap_or_default();
    let name = text("name");
    if !name.is_empty() {
        match resolve_addresses(name).await {
            Ok(found) if target.starts_with("/resolve") => {
                let found: Vec<_> = found.into_iter().map(shown).collect();
                return found.join(" ");
            }
            Ok(_) => {}
            Err(error) => return format!("error: {error:?}"),
        }
    }
    let Ok(at) = text(if target.contains("at=") { "at" } else { "to" }).parse() else {
        return "to or at what address?".to_owned();
    };
    let path = target.split('?').next().unwrap_or_default();
    let told = match path {
        "/tcp" => tcp(at).await,
        "/udp" => udp(at).await,
        "/hold" => Ok(hold(at, text("count").parse().unwrap_or(1)).await),
        "/listen" => listen(at),
        "/bind" => UdpSocket::create(IpAddressFamily::Ipv4)
            .and_then(|socket| socket.bind(wasi(at)))
            .map(|()| "bound".to_owned()),
        _ => Ok("what?".to_owned()),
    };
    told.unwrap_or_else(|error| format!("error: {error:?}"))
}

async fn tcp(to: SocketAddrV4) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(wasi(to)).await?;
    let (mut sink, data) = wit_stream::new();
    let sent = socket.send(data);
    let (source, received) = socket.receive();
    // The streams live on by themselves.
    drop(socket);
    sink.write_all(b"ping".to_vec()).await;
    drop(sink);
    sent.await?;
    let answer = source.collect().await;
    received.await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn udp(to: SocketAddrV4) -> Result<String, ErrorCode> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
    socket.send(b"ping".to_vec(), Some(wasi(to))).await?;
    let (answer, _) = socket.receive().await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Opens connections until there are enough or one fails, lets them go, and does so once more.
async fn hold(to: SocketAddrV4, count: usize) -> String {
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut held: Vec<StreamReader<u8>> = Vec::new();
        let mut patience = 1_000;
        while held.len() < count {
            let Ok(socket) = TcpSocket::create(IpAddressFamily::Ipv4) else {
                // The host learns that a stream is gone while the guest waits for something.
                if patience == 0 {
                    break;
                }
                patience -= 1;
                yield_async().await;
                continue;
            };
            if socket.connect(wasi(to)).await.is_err() {
                break;
            }
            held.push(socket.receive().0);
        }
        counts.push(held.len().to_string());
    }
    counts.join(" ")
}

fn listen(at: SocketAddrV4) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(wasi(at))?;
    socket.listen().map(|_| "listening".to_owned())
}

fn wasi(address: SocketAddrV4) -> IpSocketAddress {
    let [a, b, c, d] = address.ip().octets();
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    })
}

fn shown(address: IpAddress) -> String {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => std::net::Ipv4Addr::new(a, b, c, d).to_string(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
            std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h).to_string()
        }
    }
}
