//! What holds for any output of a CGI program: for `tests/fuzz`, and for nobody else.

use crate::cgi::HeadParser;

/// The first byte says where the rest is divided; the head is the same as of the whole.
pub fn cgi_output(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = HeadParser::default().feed(bytes);
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let mut parser = HeadParser::default();
    let divided = match parser.feed(first) {
        Ok(None) => parser
            .feed(second)
            .map(|head| head.map(|(head, taken)| (head, taken + first.len()))),
        ended => ended,
    };
    assert_eq!(whole, divided);
    if let Ok(Some((head, taken))) = whole {
        assert!(taken <= bytes.len());
        assert!((200..=599).contains(&head.status.as_u16()), "{head:?}");
    }
}
