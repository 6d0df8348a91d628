//! What holds for any header of the PROXY protocol: for `tests/fuzz`, and for nobody else.

use crate::proxied::{HEADER_BYTES_MAX, Whose, parse};

/// A header is read whole or not at all, at the same place however its bytes come, and nobody makes the edge
/// wait for more than a header may have.
pub fn proxy_header(bytes: &[u8]) {
    let whole = parse(bytes).ok();
    let mut refused = false;
    for length in 0..=bytes.len().min(HEADER_BYTES_MAX) {
        match parse(&bytes[..length]) {
            Ok(Some((whose, end))) => {
                assert!(!refused && 0 < end && end <= length, "{length} {end}");
                assert_eq!(whole, Some(Some((whose, end))), "it ends in one place");
                if let Whose::Client {
                    source,
                    destination,
                } = whose
                {
                    assert_eq!(source.is_ipv4(), destination.is_ipv4());
                }
            }
            Ok(None) => {
                assert!(!refused && length < HEADER_BYTES_MAX, "it waits for ever");
                let end = whole.flatten().map(|(_, end)| end);
                assert!(end.is_none_or(|end| length < end), "it waits for too much");
            }
            Err(_) => {
                // Nothing that follows makes it good.
                assert_eq!(whole, None);
                refused = true;
            }
        }
    }
}
