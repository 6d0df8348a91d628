//! Uses the network as an ordinary program does, through the standard library, and tells what came
//! of it in one line: `/resolve?name=`, `/tcp?to=HOST:PORT`, `/udp?to=`, `/hold?to=&count=`,
//! `/listen?at=`, `/bind?at=`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let text = |name| guests::parameter(&request, name).unwrap_or_default();
    let told = match &*guests::path(&request) {
        "/resolve" => resolve(&text("name")),
        "/tcp" => tcp(&text("to")),
        "/udp" => udp(&text("to")),
        "/hold" => Ok(hold(&text("to"), guests::number(&request, "count", 1))),
        "/listen" => TcpListener::bind(text("at")).map(|_| "listening".to_owned()),
        "/bind" => UdpSocket::bind(text("at")).map(|_| "bound".to_owned()),
        _ => Ok("what?".to_owned()),
    };
    let told = told.unwrap_or_else(|error| format!("error: {:?}", error.kind()));
    guests::text(out, 200, &told);
}

fn resolve(name: &str) -> std::io::Result<String> {
    let found = (name, 0).to_socket_addrs()?;
    let found: Vec<_> = found.map(|address| address.ip().to_string()).collect();
    Ok(found.join(" "))
}

/// Sends `ping`, and tells what comes back.
fn tcp(to: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(b"ping")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn udp(to: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"ping", to)?;
    let mut answer = [0; 64];
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Opens connections until there are enough or one fails, lets them go, and does so once more.
fn hold(to: &str, count: u64) -> String {
    let open = || {
        let streams: Vec<_> = (0..count)
            .map_while(|_| TcpStream::connect(to).ok())
            .collect();
        streams.len()
    };
    format!("{} {}", open(), open())
}
