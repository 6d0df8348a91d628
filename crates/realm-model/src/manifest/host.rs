//! Host names as manifests write them, and hosts of routes. No look-up, and no URL: only spelling.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::value::ValueError;
use crate::codes;
use crate::fields::cut;
use crate::route::HostPattern;

// RFC 1035.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// A DNS name in lower case without its trailing dot, or the rule it breaks, as a clause.
///
/// A name whose last label is a number is no name: clients read `127.1` and `0x7f000001` as
/// addresses, so a rule for them would mean something else than it says.
pub(crate) fn dns_name(text: &str) -> Result<String, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        return Err("it is empty");
    }
    if !name.is_ascii() {
        return Err("it is not ASCII: write the `xn--` form");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("it has more than 253 characters");
    }
    for label in name.split('.') {
        check_label(label)?;
    }
    if ends_in_a_number(&name) {
        return Err("it ends in a number, and is not an address");
    }
    Ok(name)
}

fn check_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() {
        return Err("it has an empty label");
    }
    if label.len() > LABEL_BYTES_MAX {
        return Err("a label has more than 63 characters");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("a label begins or ends with `-`");
    }
    if !label
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    {
        return Err("only letters, digits, `-`, `_` and `.` are allowed");
    }
    Ok(())
}

/// Whether the last label is decimal or hexadecimal: then a host is an address or nothing.
pub(crate) fn ends_in_a_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    let hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads the `host` of a route: a name, `*.name`, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn route_host(text: &str) -> Result<HostPattern, ValueError> {
    let error = |why: &str, hint: Option<String>| {
        let message = format!("`{}` is not a host: {why}", cut(text));
        Err(ValueError::new(codes::BAD_HOST, message).hint(hint))
    };
    let lower = text.to_ascii_lowercase();
    if lower == "*" {
        return error("it is every host", Some("leave `host` out".to_owned()));
    }
    if let Some((_, host)) = lower.split_once("://") {
        let host = host.split('/').next().unwrap_or(host);
        return error(
            "it is a URL",
            Some(format!("write `host = \"{}\"`", cut(host))),
        );
    }
    if let Some(inner) = lower.strip_prefix('[') {
        return match inner.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(address)) => Ok(HostPattern::Exact(format!("[{address}]"))),
            Some(Err(_)) | None => error("an IPv6 address in brackets was expected", None),
        };
    }
    if let Some((host, port)) = lower.split_once(':') {
        let hint = port
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| format!("write `host = \"{}\"`", cut(host)));
        return error("it has a port, and a route answers on every port", hint);
    }
    if lower.parse::<Ipv4Addr>().is_ok() {
        return Ok(HostPattern::Exact(lower));
    }
    if let Some(suffix) = lower.strip_prefix("*.") {
        return dns_name(suffix)
            .map(HostPattern::Below)
            .or_else(|why| error(why, None));
    }
    if lower.contains('*') {
        return error(
            "`*` stands alone before the first dot",
            Some("write `*.example.com`".to_owned()),
        );
    }
    dns_name(&lower)
        .map(HostPattern::Exact)
        .or_else(|why| error(why, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let host = route_host(text).map(|host| host.to_string());
        assert_eq!(host.ok().as_deref(), expected, "{text}");
    }

    #[test]
    fn hosts_have_one_spelling() {
        check("Shop.Example.COM", Some("shop.example.com"));
        check("shop.example.com.", Some("shop.example.com"));
        check("*.example.com", Some("*.example.com"));
        check("localhost", Some("localhost"));
        check("my_service", Some("my_service"));
        check("127.0.0.1", Some("127.0.0.1"));
        check("[0:0::1]", Some("[::1]"));
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        let long_label = "a".repeat(64);
        let long_name = ["a"; 128].join(".");
        for text in [
            "",
            ".",
            "*",
            "*.",
            "*foo",
            "a.*",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a/b",
            "a:80",
            "[::1]:80",
            "[::1",
            "::1",
            "http://a",
            "bücher.de",
            "127.1",
            "1.2.3.4.5",
            "0x7f.0x1",
            "a.1",
            "a\n",
            &long_label,
            &long_name,
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_port_is_taken_off_in_the_hint() {
        let error = route_host("shop.example.com:8080").expect_err("has a port");
        assert_eq!(
            error.hint.as_deref(),
            Some("write `host = \"shop.example.com\"`")
        );
    }
}
