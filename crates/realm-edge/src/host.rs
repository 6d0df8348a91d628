//! The host of a request: what a client may write there, and the key that routes match.
//!
//! Strict on purpose: guests build links from it. Not the choice between `Host`, `:authority` and
//! an absolute target; that is `answer`'s.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// A DNS name has at most 253 characters (RFC 1035); with its dot and a port it stays below this.
pub(crate) const HOST_LENGTH_MAX: usize = 261;

/// A host that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host has more than {HOST_LENGTH_MAX} characters")]
    TooLong,
    #[error("the host has a character that no host name has")]
    Character,
    #[error("the host has an empty label")]
    Label,
    #[error("the port is not a number up to 65535")]
    Port,
    #[error("the IPv6 address in brackets is not one")]
    Address,
}

/// Checks `host[:port]` and gives the key that routes match: lower case, without port and without
/// one trailing dot, an IPv6 address in its canonical form in brackets.
pub(crate) fn route_key(text: &str) -> Result<Cow<'_, str>, HostError> {
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if text.len() > HOST_LENGTH_MAX {
        return Err(HostError::TooLong);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(HostError::Address)?;
        check_port(port)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostError::Address)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let end = text.find(':').unwrap_or(text.len());
    let (name, port) = text.split_at(end);
    check_port(port)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    check_name(name)?;
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// `:443`, or nothing. An empty port is allowed by RFC 3986 §3.2.3.
fn check_port(text: &str) -> Result<(), HostError> {
    let Some(digits) = text.strip_prefix(':') else {
        return if text.is_empty() {
            Ok(())
        } else {
            Err(HostError::Port)
        };
    };
    let is_port = digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits.is_empty() || digits.parse::<u16>().is_ok());
    if is_port {
        Ok(())
    } else {
        Err(HostError::Port)
    }
}

/// Letters, digits, `-`, `.` and the underscore that some name inside their networks.
fn check_name(name: &str) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    let mut previous = b'.';
    for byte in name.bytes() {
        match byte {
            b'.' if previous == b'.' => return Err(HostError::Label),
            b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => previous = byte,
            _ => return Err(HostError::Character),
        }
    }
    if previous == b'.' {
        return Err(HostError::Label);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<&str, HostError>) {
        let found = route_key(text);
        assert_eq!(found.as_deref(), expected.as_deref(), "{text}");
    }

    #[test]
    fn a_host_loses_case_port_and_one_dot() {
        check("example.com", Ok("example.com"));
        check("Shop.Example.COM:8080", Ok("shop.example.com"));
        check("example.com.", Ok("example.com"));
        check("example.com.:80", Ok("example.com"));
        check("example.com:", Ok("example.com"));
        check("my_host", Ok("my_host"));
        check("127.0.0.1:8080", Ok("127.0.0.1"));
        check("[::1]:8080", Ok("[::1]"));
        check("[0:0:0:0:0:0:0:1]", Ok("[::1]"));
        check("[FE80::A]", Ok("[fe80::a]"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        check("", Err(HostError::Empty));
        check(":80", Err(HostError::Empty));
        check(".", Err(HostError::Empty));
        check("example.com..", Err(HostError::Label));
        check("a..b", Err(HostError::Label));
        check(".a", Err(HostError::Label));
        check("user@example.com", Err(HostError::Character));
        check("exa mple.com", Err(HostError::Character));
        check("example.com/x", Err(HostError::Character));
        check("exämple.com", Err(HostError::Character));
        check("%65xample.com", Err(HostError::Character));
        check("a:b", Err(HostError::Port));
        check("a:65536", Err(HostError::Port));
        check("a:+80", Err(HostError::Port));
        check("a:80:80", Err(HostError::Port));
        check("[::1", Err(HostError::Address));
        check("[::1%25eth0]", Err(HostError::Address));
        check("[::1]x", Err(HostError::Port));
        check("[v1.x]", Err(HostError::Address));
        check(&"a".repeat(300), Err(HostError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,300}") {
            let _ = route_key(&text);
        }

        #[test]
        fn a_key_is_its_own_key(text in "[a-zA-Z0-9.:\\[\\]_-]{0,40}") {
            if let Ok(key) = route_key(&text) {
                let again = route_key(&key).expect("a key is a host");
                prop_assert_eq!(&again, &key);
                let upper = text.to_ascii_uppercase();
                prop_assert_eq!(route_key(&upper).expect("case does not matter"), key);
            }
        }
    }
}
