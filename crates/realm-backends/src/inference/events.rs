//! Events as servers send them (`text/event-stream`), from bytes that come in any pieces. Of an event only
//! its data is kept: names and ids say nothing here.

use realm_model::cloud::limits::GENERATION_EVENT_BYTES_MAX as BYTES_MAX;

/// A line, or an event of several, is longer than any is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// What came of events that are not whole yet.
#[derive(Default)]
pub(super) struct Events {
    line: Vec<u8>,
    /// The lines of data of the event so far.
    data: Vec<u8>,
    has_data: bool,
    /// The line before ended in CR: a LF that follows is a part of that.
    after_cr: bool,
}

impl Events {
    /// Takes bytes, and hands over the data of each event that they end.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut whole = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', rest);
            let more = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + more.len() > BYTES_MAX {
                return Err(TooLong);
            }
            self.line.extend_from_slice(more);
            let Some(end) = end else {
                break;
            };
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            whole.extend(self.end_line()?);
        }
        Ok(whole)
    }

    /// Deals with a line; an empty one ends the event.
    fn end_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Ok(std::mem::take(&mut self.has_data).then_some(data));
        }
        let (name, value) = match memchr::memchr(b':', &line) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (&line[..], &b""[..]),
        };
        if name != b"data" {
            return Ok(None);
        }
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.data.len() + value.len() + 1 > BYTES_MAX {
            return Err(TooLong);
        }
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], pieces: usize) -> Result<Vec<String>, TooLong> {
        let mut events = Events::default();
        let mut all = Vec::new();
        for piece in bytes.chunks(pieces.max(1)) {
            all.extend(events.take(piece)?);
        }
        let text = |data: Vec<u8>| String::from_utf8_lossy(&data).into_owned();
        Ok(all.into_iter().map(text).collect())
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        for pieces in [1, 2, 3, 7, text.len()] {
            let read = read(text.as_bytes(), pieces).unwrap();
            assert_eq!(read, expected, "{text:?} in pieces of {pieces}");
        }
    }

    #[test]
    fn data_of_events_is_read_however_lines_end() {
        check("data: a\n\ndata: b\n\n", &["a", "b"]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]);
        check("data: a\r\rdata: b\r\r", &["a", "b"]);
        check("data:a\n\n", &["a"]);
        check("data:  a\n\n", &[" a"]);
        check("data: a\ndata: b\n\n", &["a\nb"]);
        check(": ping\n\nevent: x\nid: 1\nretry: 5\ndata: a\n\n", &["a"]);
        check("\n\n\n: ping\n\n", &[]);
        check("data\n\n", &[""]);
        check("datas: a\n\nxdata: b\n\n", &[]);
        // What is not ended is no event.
        check("data: a\n", &[]);
        check("data: ü€😀\n\n", &["ü€😀"]);
    }

    #[test]
    fn lines_and_events_have_an_end() {
        let line = |n: usize| format!("data: {}", "x".repeat(n));
        let fits = format!("{}\n\n", line(BYTES_MAX - 6));
        assert_eq!(read(fits.as_bytes(), 1_000).map(|all| all.len()), Ok(1));
        let long = line(BYTES_MAX - 5);
        assert_eq!(read(long.as_bytes(), 1_000), Err(TooLong));
        let comment = format!(":{}", "x".repeat(BYTES_MAX));
        assert_eq!(read(comment.as_bytes(), 1_000), Err(TooLong));
        let many = format!("{}\n", line(1_000)).repeat(BYTES_MAX / 1_000);
        assert_eq!(read(many.as_bytes(), 1_000), Err(TooLong));
        let empty = "data\n".repeat(BYTES_MAX + 2);
        assert_eq!(read(empty.as_bytes(), 1_000), Err(TooLong));
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(bytes in "[adt:e \r\n]{0,80}", pieces in 1_usize..80) {
            let whole = read(bytes.as_bytes(), bytes.len());
            prop_assert_eq!(read(bytes.as_bytes(), pieces), whole);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&bytes, 3).is_ok());
        }
    }
}
