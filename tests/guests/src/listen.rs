//! A server with std's sockets: one connection after the other, one request on each.
//!
//! It listens on `ADDRESS`, or on 127.0.0.1 and `PORT`; after `CRASH_AFTER` connections it ends with
//! exit code 3. `/` answers with `VERSION`, `/echo` with the request's body, `/head` with its head;
//! `/doors?IP:PORT` tries the other doors to the network; `/crash` ends it without an answer,
//! `/half` breaks off, `/silent` never answers, `/stream` writes until somebody stops it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};

use guests::wasip2::cli::exit::exit_with_code;

fn main() {
    let variable = |name| std::env::var(name).ok();
    let number = |name| variable(name).and_then(|text| text.parse::<u64>().ok());
    let address =
        variable("ADDRESS").unwrap_or_else(|| format!("127.0.0.1:{}", number("PORT").unwrap_or(0)));
    let listener = match TcpListener::bind(&address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("{address}: {error}");
            return exit_with_code(2);
        }
    };
    println!("listening on {address}");
    let most = number("CRASH_AFTER").unwrap_or(u64::MAX);
    for _ in 0..most {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        // A client that goes away is no failure of the server.
        let _ = answer(stream);
    }
    exit_with_code(3);
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        let line = head[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            break;
        }
    }
    let target = head.split(' ').nth(1).unwrap_or("/").to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut writer = &stream;
    match path {
        "/echo" => respond(writer, &body),
        "/head" => respond(writer, head.as_bytes()),
        "/doors" => respond(writer, doors(query).as_bytes()),
        "/crash" => {
            exit_with_code(4);
            Ok(())
        }
        "/half" => writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"),
        "/silent" => reader.read_exact(&mut [0]),
        "/stream" => {
            writer.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                writer.write_all(&[b'x'; 4_096])?;
            }
        }
        _ => {
            let version = std::env::var("VERSION").unwrap_or_default();
            respond(writer, format!("version {version}\n").as_bytes())
        }
    }
}

fn respond(mut writer: &TcpStream, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(
        writer,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    writer.write_all(body)
}

/// Which doors beside its own are open.
fn doors(peer: &str) -> String {
    let told = |result: std::io::Result<()>| match result {
        Ok(()) => "open".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    guests::object([
        ("connect", told(TcpStream::connect(peer).map(drop))),
        ("listen", told(TcpListener::bind("127.0.0.1:0").map(drop))),
        ("udp", told(UdpSocket::bind("127.0.0.1:0").map(drop))),
        (
            "lookup",
            told(std::net::ToSocketAddrs::to_socket_addrs("localhost:80").map(drop)),
        ),
    ])
}
