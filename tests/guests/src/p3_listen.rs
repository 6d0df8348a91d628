//! WASI 0.3: a server on 127.0.0.1 and `PORT` that answers many clients at once, on connections that
//! are kept: `hello` and the number of the connection.

use wasip3::cli::environment::get_environment;
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_stream;

struct Server;

wasip3::cli::command::export!(Server);

impl wasip3::exports::cli::run::Guest for Server {
    async fn run() -> Result<(), ()> {
        let env = get_environment();
        let port = env.iter().find(|(name, _)| name == "PORT");
        let port = port.and_then(|(_, text)| text.parse().ok()).ok_or(())?;
        let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(drop)?;
        let address = Ipv4SocketAddress {
            port,
            address: (127, 0, 0, 1),
        };
        socket.bind(IpSocketAddress::Ipv4(address)).map_err(drop)?;
        let mut clients = socket.listen().map_err(drop)?;
        let mut number = 0;
        loop {
            let (result, accepted) = clients.read(Vec::with_capacity(1)).await;
            let StreamResult::Complete(_) = result else {
                return Err(());
            };
            for client in accepted {
                number += 1;
                wit_bindgen::spawn_local(answer(client, number));
            }
        }
    }
}

async fn answer(client: TcpSocket, number: u32) {
    let (mut source, _) = client.receive();
    let (mut sink, output) = wit_stream::new();
    let sent = client.send(output);
    let mut seen = Vec::new();
    loop {
        let (result, piece) = source.read(Vec::with_capacity(4_096)).await;
        let StreamResult::Complete(_) = result else {
            break;
        };
        seen.extend(piece);
        // Requests without a body.
        while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            seen.drain(..end + 4);
            let body = format!("hello {number}\n");
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            if !sink.write_all(answer.into_bytes()).await.is_empty() {
                return;
            }
        }
    }
    drop(sink);
    let _ = sent.await;
}
