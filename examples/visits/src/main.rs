//! A server as on any machine: it takes a port, and answers one client after the other.
//!
//! It runs on, so that it can count in its memory; a component that answers requests by a handler
//! has a fresh instance for each and cannot.

use std::io::{BufRead as _, BufReader, Result, Write as _};
use std::net::{TcpListener, TcpStream};

fn main() -> Result<()> {
    // 127.0.0.1 and this port are all that it may listen on.
    let port: u16 = std::env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok())
        .expect("realm sets PORT");
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening on port {port}");
    let mut visits = 0_u64;
    for client in listener.incoming() {
        visits += 1;
        // A client that goes away is no reason to end.
        if let Err(error) = client.and_then(|client| answer(&client, visits)) {
            eprintln!("visit {visits}: {error}");
        }
    }
    Ok(())
}

fn answer(mut client: &TcpStream, visits: u64) -> Result<()> {
    for line in BufReader::new(client).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let body = format!("You are visit {visits} since this instance began.\n");
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}
