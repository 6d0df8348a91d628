//! The head of a program's answer (RFC 3875 §6): lines up to an empty one, which end in LF or
//! CRLF.
//!
//! Strict where leniency would guess: a program that writes its text at once, or a whole HTTP
//! response, is told so. A redirect within the server (a `Location` that is a path) is sent to the
//! client as well: routes are the edge's, and a client that follows it gets the same answer.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{StatusCode, header};
use realm_model::text::one_line;

/// Bytes of a head: what browsers and proxies take at most.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one line without its end: room for the longest cookie.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// Fields of a head.
pub const FIELDS_MAX: usize = 256;
/// Characters of a bad line that an error shows.
const SHOWN_CHARS_MAX: usize = 80;

/// Status and headers of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// As given, or 302 beside a `Location`, or 200.
    pub status: StatusCode,
    /// Without `Status`, and without those of a connection.
    pub headers: HeaderMap,
}

/// Why what a program wrote is no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than [`HEAD_BYTES_MAX`].
    #[error("the head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// Longer than [`LINE_BYTES_MAX`].
    #[error("a line of the head is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// More than [`FIELDS_MAX`].
    #[error("the head has more than {FIELDS_MAX} fields")]
    TooManyFields,
    /// An HTTP response in place of a CGI one.
    #[error("it begins with an HTTP status line: CGI wants `Status: 200 OK`")]
    NonParsed,
    /// A line that begins with a space.
    #[error("the line `{0}` continues the one before it, which CGI does not know")]
    Folded(String),
    /// A line without `name: value`.
    #[error(
        "the line `{0}` is no header: an answer begins with `Content-Type: ..` and an empty line"
    )]
    NoField(String),
    /// A field that may come once.
    #[error("`{0}` comes twice")]
    Twice(HeaderName),
    /// Not a status from 200 to 599.
    #[error("`Status: {0}` is no status from 200 to 599")]
    Status(String),
    /// Not a number of bytes.
    #[error("`Content-Length: {0}` is no number of bytes")]
    Length(String),
    /// None of the fields that make a head.
    #[error("the head has no `Content-Type`, no `Location` and no `Status`")]
    Empty,
}

/// Reads a head piece by piece. Of no use after an error.
#[derive(Debug, Default)]
pub struct HeadParser {
    line: Vec<u8>,
    bytes: usize,
    fields: usize,
    status: Option<StatusCode>,
    headers: HeaderMap,
}

impl HeadParser {
    /// The next bytes; `Some` at the end of the head, with the number of these bytes that belong
    /// to it. The same for any division of the same bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
        for (index, byte) in bytes.iter().enumerate() {
            self.bytes += 1;
            if self.bytes > HEAD_BYTES_MAX {
                return Err(HeadError::TooLong);
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > LINE_BYTES_MAX {
                    return Err(HeadError::LineTooLong);
                }
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.is_empty() {
                return Ok(Some((self.finish()?, index + 1)));
            }
            self.field(&line)?;
        }
        Ok(None)
    }

    /// Whether nothing was read yet.
    pub fn is_untouched(&self) -> bool {
        self.bytes == 0
    }

    fn field(&mut self, line: &[u8]) -> Result<(), HeadError> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(HeadError::TooManyFields);
        }
        if self.fields == 1 && line.starts_with(b"HTTP/") {
            return Err(HeadError::NonParsed);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(HeadError::Folded(shown(line)));
        }
        let (name, value) = parts(line).ok_or_else(|| HeadError::NoField(shown(line)))?;
        if name == "status" {
            return self.set_status(value.as_bytes());
        }
        let once = name == CONTENT_TYPE || name == LOCATION || name == CONTENT_LENGTH;
        if once && self.headers.contains_key(&name) {
            return Err(HeadError::Twice(name));
        }
        if name == CONTENT_LENGTH && number(value.as_bytes()).is_none() {
            return Err(HeadError::Length(shown(value.as_bytes())));
        }
        if !is_of_a_connection(&name) {
            self.headers.append(name, value);
        }
        Ok(())
    }

    /// `404 Not Found`, or `404`.
    fn set_status(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.status.is_some() {
            return Err(HeadError::Twice(HeaderName::from_static("status")));
        }
        let code = value.split(|byte| *byte == b' ').next().unwrap_or(value);
        let status = StatusCode::from_bytes(code).ok();
        let status = status.filter(|status| (200..600).contains(&status.as_u16()));
        self.status = Some(status.ok_or_else(|| HeadError::Status(shown(value)))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<Head, HeadError> {
        let headers = std::mem::take(&mut self.headers);
        let redirects = headers.contains_key(LOCATION);
        let status = match self.status {
            Some(status) => status,
            None if redirects => StatusCode::FOUND,
            None if headers.contains_key(CONTENT_TYPE) => StatusCode::OK,
            None => return Err(HeadError::Empty),
        };
        Ok(Head { status, headers })
    }
}

/// A header's name and value. Space before the colon is no part of a name (RFC 9112 §5.1).
fn parts(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
    Some((name, value))
}

/// Digits only, as RFC 9110 §8.6 has it: `parse` alone takes a sign.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

/// What only the server may say (RFC 3875 §6.3.4): how the body is framed is its affair.
fn is_of_a_connection(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || *name == header::PROXY_AUTHENTICATE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(4 * SHOWN_CHARS_MAX)];
    one_line(&String::from_utf8_lossy(start), SHOWN_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
        HeadParser::default().feed(text)
    }

    #[track_caller]
    fn check(text: &str, status: u16, headers: &[(&str, &str)], body: &str) {
        // Lines may end in CRLF as well.
        let crlf = text.replacen('\n', "\r\n", text.len() - body.len());
        for text in [text, &*crlf] {
            let (head, taken) = read(text.as_bytes()).unwrap().unwrap();
            let found: Vec<_> = head
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            assert_eq!((head.status.as_u16(), &*found), (status, headers));
            assert_eq!(&text[taken..], body);
        }
    }

    #[track_caller]
    fn refused(text: &str) -> HeadError {
        read(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn the_four_forms_of_an_answer() {
        let html = ("content-type", "text/html");
        check("Content-Type: text/html\n\n<p>", 200, &[html], "<p>");
        check(
            "status: 404 Not Found\nCONTENT-TYPE:text/html \n\n",
            404,
            &[html],
            "",
        );
        check("Status: 204\n\n", 204, &[], "");
        check(
            "Location: /local?x\n\n",
            302,
            &[("location", "/local?x")],
            "",
        );
        let there = ("location", "https://x.example/");
        check("Location: https://x.example/\n\n", 302, &[there], "");
        check(
            "Status: 301 Moved\nLocation: https://x.example/\nContent-Type: text/html\n\nmoved",
            301,
            &[there, html],
            "moved",
        );
        check(
            "Status: 201 \nLocation: https://x.example/\n\n",
            201,
            &[there],
            "",
        );
    }

    #[test]
    fn headers_pass_and_framing_does_not() {
        check(
            "Content-Type: a/b\nSet-Cookie: a=1\nSet-Cookie: b=2\nTransfer-Encoding: chunked\n\
             Connection: x\nKeep-Alive: 1\nContent-Length: 3\nX-Empty:\n\nabc",
            200,
            &[
                ("content-type", "a/b"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("content-length", "3"),
                ("x-empty", ""),
            ],
            "abc",
        );
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert_eq!(refused("HTTP/1.1 200 OK\n"), HeadError::NonParsed);
        assert_eq!(refused("hello\n"), HeadError::NoField("hello".to_owned()));
        let folded = refused("Content-Type: a/b\n c\n");
        assert_eq!(folded, HeadError::Folded("c".to_owned()));
        for line in ["Content-Type : a", ": a", "a b: c", "X: \u{1}", "X: a\rb"] {
            let error = refused(&format!("{line}\n"));
            assert!(matches!(error, HeadError::NoField(_)), "{line}: {error}");
        }
        for status in ["", "x", "99", "100", "101 Switching", "600", "2000", "20x"] {
            let error = refused(&format!("Status: {status}\n"));
            assert_eq!(error, HeadError::Status(status.to_owned()));
        }
        for name in [
            "Status: 200",
            "Location: /",
            "Content-Type: a",
            "Content-Length: 1",
        ] {
            let error = refused(&format!("{name}\n{name}\n"));
            assert!(matches!(error, HeadError::Twice(_)), "{name}: {error}");
        }
        for length in ["+1", "-1", "1 1", "0x1", "", "99999999999999999999"] {
            let error = refused(&format!("Content-Length: {length}\n"));
            assert_eq!(error, HeadError::Length(length.to_owned()));
        }
        assert_eq!(refused("\n"), HeadError::Empty);
        assert_eq!(refused("Set-Cookie: a=1\n\n"), HeadError::Empty);
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let line = |bytes: usize| format!("Content-Type: {}", "x".repeat(bytes - 14));
        assert!(read(line(LINE_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(refused(&line(LINE_BYTES_MAX + 1)), HeadError::LineTooLong);
        let many = |count: usize| "X: y\n".repeat(count);
        assert!(read(many(FIELDS_MAX).as_bytes()).is_ok());
        assert_eq!(refused(&many(FIELDS_MAX + 1)), HeadError::TooManyFields);
        let long = format!("X: {}\n", "y".repeat(LINE_BYTES_MAX - 4));
        assert_eq!(long.len() * 4, HEAD_BYTES_MAX);
        assert!(read(long.repeat(4).as_bytes()).is_ok());
        assert_eq!(refused(&(long.repeat(4) + "\n")), HeadError::TooLong);
    }

    /// Bytes that look like a head, or are none.
    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just("Content-Type: text/plain".to_owned()),
            Just("Status: 404 Not Found".to_owned()),
            Just("Location: /x".to_owned()),
            Just(String::new()),
            "[a-zA-Z: \t/-]{0,20}",
            "X-[a-z]{1,4}: [ -~]{0,10}",
        ];
        let lines = proptest::collection::vec((line, any::<bool>()), 0..8);
        let head = lines.prop_map(|lines| {
            let ended = |(line, crlf): (String, bool)| line + if crlf { "\r\n" } else { "\n" };
            lines
                .into_iter()
                .map(ended)
                .collect::<String>()
                .into_bytes()
        });
        prop_oneof![4 => head, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
    }

    proptest! {
        #[test]
        fn any_division_of_the_same_bytes_reads_the_same(
            bytes in answers(),
            mut cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let whole = read(&bytes);
            let mut cuts: Vec<_> = cuts.drain(..).map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut parser = HeadParser::default();
            let mut divided = Ok(None);
            for pair in cuts.windows(2) {
                divided = parser.feed(&bytes[pair[0]..pair[1]]);
                if let Ok(Some((_, taken))) = &mut divided {
                    *taken += pair[0];
                }
                if !matches!(divided, Ok(None)) {
                    break;
                }
            }
            prop_assert_eq!(whole, divided);
        }
    }
}
