//! The smallest HTTP/1.1 client that can ask one question: does it answer, and with what. Not the
//! load generator. It reads answers with a length, in chunks, or up to the end.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Longer than any answer that is asked for here takes, a compilation behind it included.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than any answer that is asked for here has.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// A connection that stays open between questions.
pub(crate) struct Connection<S> {
    stream: BufReader<S>,
}

impl Connection<TcpStream> {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }
}

impl Connection<UnixStream> {
    pub(crate) fn open_socket(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("`{}` does not answer", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }
}

impl<S: Read + Write> Connection<S> {
    /// Sends a request without waiting for the answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<()> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        );
        // One write: two would wait for each other where Nagle is on.
        let message = [head.as_bytes(), body].concat();
        self.stream.get_mut().write_all(&message)?;
        Ok(())
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        self.send(method, path, body)?;
        answer(&mut self.stream)
    }
}

/// One question on a connection of its own.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    Connection::open(address)?.ask(method, path, body)
}

fn answer(stream: &mut impl std::io::BufRead) -> Result<Answer> {
    let status_line = line(stream)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse().ok());
    let status = status.with_context(|| format!("`{status_line}` is no status line"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = Some(
                value
                    .trim()
                    .parse::<u64>()
                    .context("a length that is no number")?,
            );
        }
        chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
    }
    let mut body = Vec::new();
    if chunked {
        while piece(stream, &mut body)? {}
    } else if let Some(length) = length {
        stream
            .take(length.min(BODY_BYTES_MAX))
            .read_to_end(&mut body)?;
    } else if status != 204 && status != 304 {
        stream.take(BODY_BYTES_MAX).read_to_end(&mut body)?;
    }
    Ok(Answer { status, body })
}

/// Reads one chunk; false at the last.
fn piece(stream: &mut impl std::io::BufRead, body: &mut Vec<u8>) -> Result<bool> {
    let size = line(stream)?;
    let size = size.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(size, 16).with_context(|| format!("`{size}` is no chunk"))?;
    if size > BODY_BYTES_MAX || body.len() as u64 > BODY_BYTES_MAX {
        bail!("an answer of more than {BODY_BYTES_MAX} bytes");
    }
    stream.take(size).read_to_end(body)?;
    // The end of the chunk; of the last one too, since no trailers are asked for.
    line(stream)?;
    Ok(size > 0)
}

fn line(stream: &mut impl std::io::BufRead) -> Result<String> {
    let mut text = String::new();
    if stream.take(64 * 1024).read_line(&mut text)? == 0 {
        bail!("the connection ended in the middle of an answer");
    }
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(u16, &str)>) {
        let got = answer(&mut text.as_bytes()).ok();
        let got = got.map(|one| (one.status, String::from_utf8(one.body).unwrap()));
        let got = got.as_ref().map(|(status, body)| (*status, body.as_str()));
        assert_eq!(got, expected);
    }

    #[test]
    fn answers_with_a_length_in_chunks_and_up_to_the_end() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            Some((200, "hi")),
        );
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n2;x\r\ni!\r\n0\r\n\r\n";
        check(chunked, Some((200, "hi!")));
        check("HTTP/1.1 404 Not Found\r\n\r\nno", Some((404, "no")));
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "")));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        check("", None);
        check("HTTP/1.1\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", None);
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            None,
        );
    }
}
