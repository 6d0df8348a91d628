//! A server that speaks WebSocket with many clients at once, on 127.0.0.1 and `PORT`.
//!
//! A text is given back, and so are bytes. Words that it knows: `version` is answered with `VERSION`,
//! `head` with the head of the handshake, `open` with how many are connected, `close` with the end,
//! `flood` with bytes for as long as somebody reads, `crash` with exit code 4. Without a handshake it
//! answers with its version as well; to `/wrong` with a word that the key does not make, to `/refused`
//! with 403, to `/other` with another protocol.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use guests::wasip2::cli::exit::exit_with_code;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

/// Bytes of a head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

struct Client {
    stream: Option<TcpStream>,
    head: Vec<u8>,
    socket: Option<WebSocket<TcpStream>>,
    floods: bool,
    /// What was answered is not all written.
    owes: bool,
}

fn main() {
    let port = std::env::var("PORT").unwrap_or_default();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("the port is its own");
    listener.set_nonblocking(true).expect("it need not wait");
    println!("listening on {port}");
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let mut moved = false;
        while let Ok((stream, _)) = listener.accept() {
            moved = true;
            if stream.set_nonblocking(true).is_ok() {
                clients.push(Client {
                    stream: Some(stream),
                    head: Vec::new(),
                    socket: None,
                    floods: false,
                    owes: false,
                });
            }
        }
        let open = clients.iter().filter(|one| one.socket.is_some()).count();
        clients.retain_mut(|client| match client.turn(open) {
            Ok(has_moved) => {
                moved |= has_moved;
                true
            }
            Err(()) => false,
        });
        if !moved {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Client {
    /// Does what there is to do; an error is its end.
    fn turn(&mut self, open: usize) -> Result<bool, ()> {
        match self.socket.is_some() {
            true => self.speak(open),
            false => self.listen(),
        }
    }

    fn listen(&mut self) -> Result<bool, ()> {
        let stream = self.stream.as_mut().ok_or(())?;
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => self.head.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Ok(_) | Err(_) => return Err(()),
        }
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
            let is_small = self.head.len() < HEAD_BYTES_MAX;
            return is_small.then_some(true).ok_or(());
        };
        let rest = self.head.split_off(end + 4);
        let head = String::from_utf8_lossy(&self.head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or("/");
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_key = name.eq_ignore_ascii_case("sec-websocket-key");
            is_key.then(|| value.trim().to_owned())
        });
        let asks = head
            .to_ascii_lowercase()
            .contains("\r\nupgrade: websocket\r\n");
        let Some(key) = key.filter(|_| asks) else {
            self.say("200 OK", &version());
            return Err(());
        };
        let (word, protocol) = match path {
            "/refused" => {
                self.say("403 Forbidden", "not you");
                return Err(());
            }
            "/wrong" => (derive_accept_key(b"another key"), "websocket"),
            "/other" => (derive_accept_key(key.as_bytes()), "chat"),
            _ => (derive_accept_key(key.as_bytes()), "websocket"),
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\
             sec-websocket-accept: {word}\r\nx-guest: {}\r\n\r\n",
            version()
        );
        let mut stream = self.stream.take().ok_or(())?;
        stream.write_all(answer.as_bytes()).map_err(|_| ())?;
        let socket = WebSocket::from_partially_read(stream, rest, Role::Server, None);
        self.socket = Some(socket);
        Ok(true)
    }

    fn say(&mut self, status: &str, words: &str) {
        let length = words.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{words}"
        );
        if let Some(stream) = &mut self.stream {
            let _ = stream.write_all(answer.as_bytes());
        }
    }

    fn speak(&mut self, open: usize) -> Result<bool, ()> {
        let Some(socket) = &mut self.socket else {
            return Err(());
        };
        if self.owes {
            self.owes = waits(socket.flush())?;
            // Who does not read is not listened to.
            return Ok(!self.owes);
        }
        if self.floods {
            self.owes = waits(socket.send(Message::binary(vec![7; 16 * 1024])))?;
            return Ok(true);
        }
        let message = match socket.read() {
            Ok(message) => message,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(_) => return Err(()),
        };
        let answer = match message {
            Message::Text(text) => match text.as_str() {
                "version" => Message::text(version()),
                "head" => Message::text(String::from_utf8_lossy(&self.head).into_owned()),
                "open" => Message::text(open.to_string()),
                "flood" => {
                    self.floods = true;
                    return Ok(true);
                }
                "close" => {
                    self.owes = waits(socket.close(None))?;
                    return Ok(true);
                }
                "crash" => {
                    exit_with_code(4);
                    return Err(());
                }
                _ => Message::Text(text),
            },
            Message::Binary(bytes) => Message::Binary(bytes),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                self.owes = waits(socket.flush())?;
                return Ok(true);
            }
        };
        self.owes = waits(socket.send(answer))?;
        Ok(true)
    }
}

/// Whether something is left to be written.
fn waits(done: Result<(), Error>) -> Result<bool, ()> {
    match done {
        Ok(()) => Ok(false),
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(_) => Err(()),
    }
}

fn version() -> String {
    std::env::var("VERSION").unwrap_or_else(|_| "none".to_owned())
}
