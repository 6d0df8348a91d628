//! A server that speaks no HTTP: it gives back every byte that comes, and once the other side has said
//! all, how many there were and what they add up to. One connection after the other; one that begins
//! with the byte 255 ends it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

fn main() {
    let port = std::env::var("PORT").unwrap_or_default();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("its own port");
    println!("listening on {port}");
    loop {
        if let Ok((stream, _)) = listener.accept() {
            // A client that goes away is no failure of the server.
            let _ = answer(stream);
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut count, mut sum) = (0_u64, 0_u64);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return stream.write_all(format!("{count} {sum}\n").as_bytes());
        }
        if count == 0 && buffer[0] == 255 {
            std::process::exit(1);
        }
        for byte in &buffer[..read] {
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        }
        count += read as u64;
        stream.write_all(&buffer[..read])?;
    }
}
