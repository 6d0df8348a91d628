//! The head of an application's answer (RFC 3875 §6): lines up to an empty one. More is let pass than of
//! programs that are written for realm: these applications are there already, and other servers took
//! what they say.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};

/// Why what an application wrote is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("the head of the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the head of the answer has more than {0} fields")]
    TooMany(usize),
    #[error("the answer begins with a line that is no header")]
    NoField,
    #[error("the answer has a `Status` that is none from 200 to 599")]
    Status,
    #[error("the answer ends before its head does")]
    Cut,
}

/// Reads a head piece by piece. Of no use after an error.
#[derive(Debug)]
pub(super) struct HeadReader {
    /// What is kept of a head in memory.
    bytes_max: usize,
    fields_max: usize,
    line: Vec<u8>,
    bytes: usize,
    fields: usize,
    status: Option<StatusCode>,
    headers: HeaderMap,
}

impl HeadReader {
    /// Of a head with at most so many bytes and fields.
    pub(super) fn new(bytes_max: usize, fields_max: usize) -> Self {
        Self {
            bytes_max,
            fields_max,
            line: Vec::new(),
            bytes: 0,
            fields: 0,
            status: None,
            headers: HeaderMap::new(),
        }
    }

    /// The next bytes; `Some` at the end of the head, with the number of these bytes that belong to it.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<(Response<()>, usize)>, BadHead> {
        for (index, byte) in bytes.iter().enumerate() {
            self.bytes += 1;
            if self.bytes > self.bytes_max {
                return Err(BadHead::TooLong(self.bytes_max));
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.is_empty() {
                return Ok(Some((self.finish(), index + 1)));
            }
            self.field(&line)?;
        }
        Ok(None)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), BadHead> {
        self.fields += 1;
        if self.fields > self.fields_max {
            return Err(BadHead::TooMany(self.fields_max));
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or(BadHead::NoField)?);
        let name = HeaderName::from_bytes(name).map_err(|_| BadHead::NoField)?;
        let value = HeaderValue::from_bytes(value[1..].trim_ascii());
        let value = value.map_err(|_| BadHead::NoField)?;
        if name.as_str() == "status" {
            let code = value.as_bytes().split(|byte| *byte == b' ').next();
            let status = code.and_then(|code| StatusCode::from_bytes(code).ok());
            let status = status.filter(|status| (200..600).contains(&status.as_u16()));
            self.status = Some(status.ok_or(BadHead::Status)?);
        } else {
            self.headers.append(name, value);
        }
        Ok(())
    }

    fn finish(&mut self) -> Response<()> {
        let mut headers = std::mem::take(&mut self.headers);
        let status = self.status.unwrap_or(match headers.contains_key(LOCATION) {
            true => StatusCode::FOUND,
            false => StatusCode::OK,
        });
        if status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        head
    }
}
