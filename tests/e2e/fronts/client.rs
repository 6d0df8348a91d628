//! HTTP/1.1 as bytes: what a client that does everything by hand sees of an answer, its end included.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// Who asks: this machine by another name than its usual one, which is what nobody's word would be taken for.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A request to be sent.
#[derive(Clone)]
pub(crate) struct Ask {
    method: &'static str,
    target: String,
    host: String,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Clone)]
enum Body {
    None,
    Length(Vec<u8>),
    Chunked(Vec<u8>),
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the end of the body is the one that its head promised.
    pub(crate) is_whole: bool,
    /// From the first byte of the body to the end.
    pub(crate) lasted: Duration,
}

impl Ask {
    pub(crate) fn get(target: &str) -> Self {
        Self::of("GET", target)
    }

    pub(crate) fn head(target: &str) -> Self {
        Self::of("HEAD", target)
    }

    pub(crate) fn post(target: &str, body: Vec<u8>) -> Self {
        Self {
            body: Body::Length(body),
            ..Self::of("POST", target)
        }
    }

    pub(crate) fn post_chunked(target: &str, body: Vec<u8>) -> Self {
        Self {
            body: Body::Chunked(body),
            ..Self::of("POST", target)
        }
    }

    fn of(method: &'static str, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            host: super::HOST.to_owned(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match &self.body {
            Body::None => String::new(),
            Body::Length(body) => format!("Content-Length: {}\r\n", body.len()),
            Body::Chunked(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        head += "\r\n";
        head.into_bytes()
    }

    fn body_bytes(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Length(body) => body.clone(),
            Body::Chunked(body) => {
                let mut bytes = Vec::new();
                // No server has buffers of this size.
                for part in body.chunks(7_001) {
                    bytes.extend(format!("{:x}\r\n", part.len()).bytes());
                    bytes.extend(part);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
                bytes
            }
        }
    }

    /// Sends it, and reads the answer meanwhile.
    pub(crate) fn send(&self, port: u16) -> Got {
        let mut stream = connect(port);
        let mut writer = stream.try_clone().unwrap();
        let bytes = [self.head_bytes(), self.body_bytes()].concat();
        let writing = std::thread::spawn(move || {
            // Who answers before it has read all may close.
            let _ = writer.write_all(&bytes);
        });
        let got = read(&mut stream, self.method == "HEAD");
        let _ = stream.shutdown(std::net::Shutdown::Both);
        writing.join().unwrap();
        got
    }

    /// Sends the head and so many bytes of the body.
    pub(crate) fn begin(&self, port: u16, bytes: usize) -> Begun {
        let mut stream = connect(port);
        stream.write_all(&self.head_bytes()).unwrap();
        let mut body = self.body_bytes();
        let rest = body.split_off(bytes);
        stream.write_all(&body).unwrap();
        Begun {
            stream,
            rest,
            came: Vec::new(),
        }
    }
}

/// A request of which a part was sent. The client goes away where this is dropped.
pub(crate) struct Begun {
    stream: TcpStream,
    /// Of the body.
    rest: Vec<u8>,
    came: Vec<u8>,
}

impl Begun {
    /// Waits for so many bytes of the answer's body.
    pub(crate) fn hear(&mut self, bytes: usize) {
        let mut piece = vec![0; 64 * 1024];
        while parse(&self.came, false).body.len() < bytes {
            let read = self.stream.read(&mut piece).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&self.came));
            self.came.extend_from_slice(&piece[..read]);
        }
    }

    /// Sends the rest, and reads the answer to its end.
    pub(crate) fn finish(mut self) -> Got {
        self.stream.write_all(&self.rest).unwrap();
        // A reset after the answer is no matter.
        let _ = self.stream.read_to_end(&mut self.came);
        parse(&self.came, false)
    }
}

/// As [`CLIENT`]. The library has no way to say from where.
fn connect(port: u16) -> TcpStream {
    let connecting = async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddrV4::new(CLIENT, 0).into()).unwrap();
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
        socket.connect(at).await.unwrap().into_std().unwrap()
    };
    let runtime = tokio::runtime::Handle::current();
    let stream = std::thread::spawn(move || runtime.block_on(connecting));
    let stream = stream.join().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read(stream: &mut TcpStream, is_head: bool) -> Got {
    let mut bytes = Vec::new();
    let mut began = None;
    let mut piece = vec![0; 64 * 1024];
    // A reset after the answer is no matter.
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..read]);
        let has_body = head_end(&bytes).is_some_and(|end| bytes.len() > end + 4);
        if has_body && began.is_none() {
            began = Some(Instant::now());
        }
        // Who refuses a body may wait for the rest of it, and nobody sends that.
        if bytes.starts_with(b"HTTP/1.1 413 ") && parse(&bytes, is_head).is_whole {
            break;
        }
    }
    let mut got = parse(&bytes, is_head);
    got.lasted = began.map_or(Duration::ZERO, |began| began.elapsed());
    got
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n")
}

fn parse(bytes: &[u8], is_head: bool) -> Got {
    let Some(end) = head_end(bytes) else {
        return Got::default();
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let rest = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|text| text.parse().ok()).unwrap_or(0);
    if status == 100 {
        return parse(rest, is_head);
    }
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    let mut got = Got {
        status,
        headers: headers.collect(),
        ..Got::default()
    };
    let is_chunked = got.header("transfer-encoding").is_some();
    let length = got
        .header("content-length")
        .map(|text| text.parse::<usize>().unwrap());
    (got.body, got.is_whole) = match (is_chunked, length) {
        _ if is_head || status == 304 || status == 204 => (rest.to_vec(), rest.is_empty()),
        (true, _) => dechunked(rest),
        (false, Some(length)) => (rest.to_vec(), rest.len() == length),
        // To the end of the connection: nobody can tell.
        (false, None) => (rest.to_vec(), true),
    };
    got
}

fn dechunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return (body, false);
        };
        let size = String::from_utf8_lossy(&rest[..end]).into_owned();
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            return (body, false);
        };
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, true);
        }
        let here = size.min(rest.len());
        body.extend_from_slice(&rest[..here]);
        if here < size || rest.len() < size + 2 {
            return (body, false);
        }
        rest = &rest[size + 2..];
    }
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        let found = all.find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}: {}", self.status, self.text()))
    }
}
