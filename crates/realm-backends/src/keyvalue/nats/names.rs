//! Names of buckets and keys as NATS takes them, and back.
//!
//! It takes letters, digits, `-` and `_` in the name of a bucket, and in that of a key `/`, `=` and single
//! dots within as well. What is of those stands as it is, so that other programs find it; everything else
//! stands as its bytes: `_2E` in buckets, `=2E` in keys. Not here: what is in them.

/// Bytes of the name of a bucket: the server takes 255 for that of the stream behind it, `KV_..`.
const BUCKET_BYTES_MAX: usize = 252;

/// The bucket of a server for one of a guest: the prefix, and `__` and its name where it has one. `None`:
/// that is too long, or nothing.
pub(super) fn bucket(prefix: &str, bucket: &str) -> Option<String> {
    let mut all = String::with_capacity(prefix.len() + bucket.len() + 2);
    part(&mut all, prefix);
    if !bucket.is_empty() {
        // No digits follow the first of them: no part has that in it.
        all.push_str("__");
        part(&mut all, bucket);
    }
    (1..=BUCKET_BYTES_MAX).contains(&all.len()).then_some(all)
}

fn part(all: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            all.push(char::from(byte));
        } else {
            escape(all, '_', byte);
        }
    }
}

/// The key of a server for one of a guest.
pub(super) fn key(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut all = String::with_capacity(key.len());
    for (nth, byte) in bytes.iter().copied().enumerate() {
        let is_dot_within = byte == b'.'
            && nth > 0
            && nth + 1 < bytes.len()
            // After one that stands for itself another would make an empty part.
            && !all.ends_with('.');
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/') || is_dot_within {
            all.push(char::from(byte));
        } else {
            escape(&mut all, '=', byte);
        }
    }
    all
}

/// The key of a guest for one of a server; `None`: a guest would name it otherwise.
pub(super) fn guest_key(of_server: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(of_server.len());
    let mut rest = of_server.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'=' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (key(&text) == of_server).then_some(text)
}

fn escape(all: &mut String, mark: char, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    all.push(mark);
    all.push(char::from(DIGITS[usize::from(byte >> 4)]));
    all.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_what_other_programs_expect() {
        assert_eq!(bucket("shop-1", "").unwrap(), "shop-1");
        assert_eq!(bucket("a_", "ü.b").unwrap(), "a_5F___C3_BC_2Eb");
        assert_eq!(bucket("", ""), None);
        assert_eq!(bucket("", &"_".repeat(85)), None);
        for (of_guest, of_server) in [
            ("users.7/name", "users.7/name"),
            ("a b", "a=20b"),
            (".a..b.", "=2Ea.=2Eb=2E"),
            ("=", "=3D"),
            ("*>", "=2A=3E"),
            ("grün", "gr=C3=BCn"),
        ] {
            assert_eq!(key(of_guest), of_server);
            assert_eq!(guest_key(of_server).as_deref(), Some(of_guest));
        }
        for none in ["=", "=4", "=zz", "=41", "a=2e", "=FF", "=2D", "a=2Eb"] {
            assert_eq!(guest_key(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(text in "[ -~äß.]{1,30}") {
            let of_server = key(&text);
            let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte);
            prop_assert!(of_server.bytes().all(is_taken), "{}", of_server);
            prop_assert!(!of_server.starts_with('.') && !of_server.ends_with('.'));
            prop_assert!(!of_server.contains(".."), "{}", of_server);
            prop_assert_eq!(guest_key(&of_server), Some(text));
        }

        #[test]
        fn bytes_of_a_server_are_read_or_refused(text in ".{0,20}") {
            let _ = guest_key(&text);
        }

        #[test]
        fn no_two_buckets_meet(names in prop::collection::btree_set("[a_.:é5F]{0,4}", 1..40)) {
            let mut seen = BTreeMap::new();
            for prefix in ["p", "pa", "p_", "p__a", "p5F"] {
                for name in &names {
                    let other = seen.insert(bucket(prefix, name), (prefix, name));
                    prop_assert!(other.is_none(), "{:?} and {} {}", other, prefix, name);
                }
            }
        }
    }
}
