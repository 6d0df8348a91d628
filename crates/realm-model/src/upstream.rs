//! Upstreams: existing services that answer in a component's place, as a manifest names them, and what a
//! node allows of them. Not how they are spoken to: that is the edge's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::digest::Digest;
use crate::manifest::{ValueError, directory, dns_name, ends_in_a_number};
use crate::{codes, fields::cut};

/// Bytes of the path of a Unix socket: what Linux has room for, with its end.
const UNIX_BYTES_MAX: usize = 107;
/// What stands before the words of which an upstream's pin is the digest.
const PIN_WORDS: &str = "realm upstream 1";

/// A service beside realm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Upstream {
    /// Where it listens.
    pub address: Address,
    /// What it is spoken to in.
    pub speaks: Speaks,
    /// Connections that are kept for the next request.
    pub keep: u32,
}

/// What an upstream is spoken to in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaks {
    /// HTTP/1.1.
    Http,
    /// FastCGI, with where the scripts are.
    FastCgi(Scripts),
}

/// How a path becomes a script of an application.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Scripts {
    /// The document root, as the application sees it; without a `/` at its end.
    pub root: String,
    /// What the name of a script ends in.
    pub split: String,
    /// The script for paths that name none. With `/` at its beginning for all of them; without it, a path
    /// that ends in `/` has one of its own.
    pub index: String,
}

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// The path of a Unix socket.
    Unix(String),
    /// A host and a port.
    Tcp(Host, u16),
}

/// The host of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, which is looked up for each connection.
    Name(String),
}

/// An upstream that a node allows: a rule of `[upstreams] allow` in node.toml.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Allowed(Rule);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rule {
    Unix(String),
    /// Address, length of the prefix, port.
    Tcp(IpAddr, u8, u16),
}

impl Upstream {
    /// What stands for its bytes in `realm.lock`: the digest of where it is.
    pub fn pin(&self) -> Digest {
        Digest::of(format!("{PIN_WORDS}\n{self}").as_bytes())
    }

    /// Whether its protocol is HTTP.
    pub const fn is_http(&self) -> bool {
        matches!(self.speaks, Speaks::Http)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.speaks {
            Speaks::Http => "http",
            Speaks::FastCgi(_) => "fastcgi",
        };
        match &self.address {
            Address::Unix(path) => write!(f, "{scheme}:unix:{path}"),
            Address::Tcp(..) => write!(f, "{scheme}://{}", self.address),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Tcp(Host::Ip(IpAddr::V6(address)), port) => write!(f, "[{address}]:{port}"),
            Self::Tcp(Host::Ip(IpAddr::V4(address)), port) => write!(f, "{address}:{port}"),
            Self::Tcp(Host::Name(name), port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Reads the `upstream` of a component: where it is, and whether it speaks FastCGI.
pub(crate) fn read(text: &str) -> Result<(Address, bool), ValueError> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(wrong(text, "it has no scheme", None));
    };
    let is_fastcgi = match scheme {
        "fastcgi" => true,
        "http" => false,
        "https" => {
            let why = "TLS to an upstream is not spoken";
            let hint = "reach it over `http://`, by a proxy on that machine that speaks TLS, or by a component with `allowed_outbound`";
            return Err(wrong(text, why, Some(hint)));
        }
        "unix" => {
            let hint = "write `fastcgi:unix:PATH` or `http:unix:PATH`";
            return Err(wrong(text, "it does not say what is spoken", Some(hint)));
        }
        _ => return Err(wrong(text, "expected `fastcgi:` or `http:`", None)),
    };
    let address = match rest.strip_prefix("unix:") {
        Some(path) => Address::Unix(socket(text, path)?),
        None => {
            let authority = match rest.strip_prefix("//") {
                Some(authority) => authority,
                None if is_fastcgi => rest,
                None => return Err(wrong(text, "a URL begins with `http://`", None)),
            };
            let authority = authority.strip_suffix('/').unwrap_or(authority);
            let default = (!is_fastcgi).then_some(80);
            tcp(authority, default).map_err(|why| wrong(text, &why, None))?
        }
    };
    Ok((address, is_fastcgi))
}

fn socket(text: &str, path: &str) -> Result<String, ValueError> {
    let path = directory(path).map_err(|why| wrong(text, why, None))?;
    if path.len() > UNIX_BYTES_MAX {
        let why = format!("a socket's path has at most {UNIX_BYTES_MAX} bytes");
        return Err(wrong(text, &why, None));
    }
    Ok(path)
}

fn tcp(authority: &str, default: Option<u16>) -> Result<Address, String> {
    if authority.contains(['/', '?', '#']) {
        return Err("a path has no place in it: the request's own goes there".to_owned());
    }
    if authority.contains('@') {
        return Err("a user or a password would be readable in all that is signed".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
            let host: Ipv6Addr = host
                .parse()
                .map_err(|_| "in brackets stands an IPv6 address")?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return Err("after the bracket comes `:` and a port".to_owned()),
            };
            (Host::Ip(IpAddr::V6(host).to_canonical()), port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            (named(host)?, port)
        }
    };
    let port = match port {
        Some(port) => self::port(port)?,
        None => default.ok_or("it has no port")?,
    };
    Ok(Address::Tcp(host, port))
}

fn named(host: &str) -> Result<Host, String> {
    if let Ok(address) = host.parse() {
        return Ok(Host::Ip(IpAddr::V4(address)));
    }
    if ends_in_a_number(host) {
        return Err("its host ends in a number, and is not an address".to_owned());
    }
    dns_name(host)
        .map(Host::Name)
        .map_err(|why| format!("its host does not do: {why}"))
}

fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port > 0);
    port.ok_or_else(|| "its port is not a number from 1 to 65535".to_owned())
}

fn wrong(text: &str, why: &str, hint: Option<&str>) -> ValueError {
    let message = format!("`{}` is not an upstream: {why}", cut(text));
    let usual = "forms: `fastcgi:unix:/run/php/php-fpm.sock`, `fastcgi://127.0.0.1:9000`, `http://127.0.0.1:3000`, `http:unix:/run/app.sock`";
    ValueError::new(codes::BAD_UPSTREAM, message).hint(Some(hint.unwrap_or(usual)))
}

/// Reads `root`.
pub(crate) fn root(text: &str) -> Result<String, ValueError> {
    let path = directory(text).ok().filter(|path| is_plain(path));
    match path {
        Some(path) => Ok(path.trim_end_matches('/').to_owned()),
        None => {
            let message = format!("`{}` is not an absolute path of a folder", cut(text));
            Err(ValueError::new(codes::BAD_UPSTREAM, message))
        }
    }
}

/// Reads `split`. ASCII, and compared byte by byte: whoever folds letters decides differently from the
/// application which file is a script.
pub(crate) fn split(text: &str) -> Result<String, ValueError> {
    let rest = text.strip_prefix('.').unwrap_or_default();
    let fits = (1..=15).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    match fits {
        true => Ok(text.to_owned()),
        false => {
            let message = format!("`{}` does not end the name of a script", cut(text));
            let hint = "write `split = \".php\"`";
            Err(ValueError::new(codes::BAD_UPSTREAM, message).hint(Some(hint)))
        }
    }
}

/// Reads `index`.
pub(crate) fn index(text: &str) -> Result<String, ValueError> {
    let path = text.strip_prefix('/').unwrap_or(text);
    let segments = || path.split('/');
    let fits = text.len() <= 255
        && is_plain(path)
        && segments().all(|one| !matches!(one, "" | "." | ".."))
        && (text.starts_with('/') || segments().count() == 1);
    match fits {
        true => Ok(text.to_owned()),
        false => {
            let message = format!("`{}` is not the name of a script", cut(text));
            let hint = "write `index = \"index.php\"`, or `\"/index.php\"` for all paths that name no script";
            Err(ValueError::new(codes::BAD_UPSTREAM, message).hint(Some(hint)))
        }
    }
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

impl Allowed {
    /// Whether it allows the Unix socket at `path`.
    pub fn permits_unix(&self, path: &str) -> bool {
        match &self.0 {
            Rule::Unix(allowed) => allowed == path,
            Rule::Tcp(..) => false,
        }
    }

    /// Whether it allows this address and port.
    pub fn permits(&self, address: IpAddr, port: u16) -> bool {
        match self.0 {
            Rule::Unix(_) => false,
            Rule::Tcp(network, prefix, allowed) => {
                let block = Block {
                    address: network,
                    prefix,
                };
                allowed == port && block.contains(address)
            }
        }
    }
}

/// A text is no rule of what a node allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", Self::EXPECTED)]
pub struct NotARule;

impl NotARule {
    /// What a rule looks like.
    pub const EXPECTED: &str = "`unix:PATH`, or an IP address or block with a port, like `127.0.0.1:9000`, `10.0.0.0/8:8080` or `[fd00::/8]:80`";

    /// What to write in its place, where that is plain: what is written as in a manifest, or without its kind.
    pub fn hint(text: &str) -> Option<String> {
        let rest = ["fastcgi:", "http:", "https:"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text);
        let rest = match rest.strip_prefix("//") {
            Some(authority) => authority.trim_end_matches('/'),
            None => rest,
        };
        let rule = match rest.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None if rest.starts_with('/') => format!("unix:{rest}"),
            None => rest.to_owned(),
        };
        let does = rule.parse::<Allowed>().is_ok();
        does.then(|| format!("write `{}`", cut(&rule)))
    }
}

impl FromStr for Allowed {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = directory(path).map_err(|_| NotARule)?;
            return Ok(Self(Rule::Unix(path)));
        }
        let (host, number) = text.rsplit_once(':').ok_or(NotARule)?;
        let (host, is_v6) = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => (inner, true),
            None => (host, false),
        };
        let number = port(number).map_err(|_| NotARule)?;
        let block = match host.parse::<IpAddr>() {
            Ok(address) => Block::of(address),
            Err(_) => host.parse::<Block>().map_err(|_| NotARule)?,
        };
        // Without brackets it is not plain where an IPv6 address ends.
        if host.contains(':') != is_v6 {
            return Err(NotARule);
        }
        Ok(Self(Rule::Tcp(block.address, block.prefix, number)))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, prefix, port) = match &self.0 {
            Rule::Unix(path) => return write!(f, "unix:{path}"),
            Rule::Tcp(address, prefix, port) => (address, *prefix, port),
        };
        let block = Block {
            address: *address,
            prefix,
        };
        let host = match Block::of(*address) == block {
            true => address.to_string(),
            false => block.to_string(),
        };
        match address {
            IpAddr::V4(_) => write!(f, "{host}:{port}"),
            IpAddr::V6(_) => write!(f, "[{host}]:{port}"),
        }
    }
}

impl TryFrom<String> for Allowed {
    type Error = NotARule;

    fn try_from(text: String) -> Result<Self, NotARule> {
        text.parse()
    }
}

impl From<Allowed> for String {
    fn from(rule: Allowed) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match read(text) {
            Ok((address, true)) => format!("fastcgi {address}"),
            Ok((address, false)) => format!("http {address}"),
            Err(error) => error.message,
        }
    }

    #[test]
    fn an_upstream_is_a_protocol_and_an_address() {
        for (text, expected) in [
            (
                "fastcgi:unix:/run/php-fpm.sock",
                "fastcgi unix:/run/php-fpm.sock",
            ),
            ("fastcgi://127.0.0.1:9000", "fastcgi 127.0.0.1:9000"),
            ("fastcgi:127.0.0.1:9000", "fastcgi 127.0.0.1:9000"),
            ("fastcgi:[::1]:9000", "fastcgi [::1]:9000"),
            ("http://App.internal:3000/", "http app.internal:3000"),
            ("http://127.0.0.1", "http 127.0.0.1:80"),
            ("http://[::ffff:10.0.0.1]:81", "http 10.0.0.1:81"),
            ("http:unix:/run/app.sock", "http unix:/run/app.sock"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let long = format!("http:unix:/{}", "a".repeat(107));
        for text in [
            "",
            "127.0.0.1:9000",
            "unix:/run/php-fpm.sock",
            "https://example.com",
            "fastcgi:",
            "fastcgi://127.0.0.1",
            "fastcgi:unix:run/php.sock",
            "fastcgi:unix:/run/../php.sock",
            "http:127.0.0.1:80",
            "http://127.1:80",
            "http://127.0.0.1:0",
            "http://127.0.0.1:+80",
            "http://127.0.0.1:65536",
            "http://a:b@127.0.0.1:80",
            "http://127.0.0.1:80/app",
            "http://[::1:80",
            "http://[::1]80",
            "http://::1",
            "scgi://127.0.0.1:80",
            &long,
        ] {
            assert!(read(text).is_err(), "{text}: {}", shown(text));
        }
    }

    #[test]
    fn scripts_are_below_the_root_and_ascii() {
        assert_eq!(root("/srv/www/").unwrap(), "/srv/www");
        assert_eq!(root("/").unwrap(), "");
        for text in ["", "srv", "/srv/../etc", "/srv\n"] {
            assert!(root(text).is_err(), "{text}");
        }
        assert!(split(".php").is_ok() && split(".php5").is_ok());
        for text in [
            "",
            "php",
            ".",
            ".ph/p",
            ".\u{212a}hp",
            ".php\n",
            ".aaaaaaaaaaaaaaaa",
        ] {
            assert!(split(text).is_err(), "{text}");
        }
        assert!(index("index.php").is_ok() && index("/app/index.php").is_ok());
        for text in ["", "/", "a/b.php", "..", "/../a.php", "/a//b.php", "a\0"] {
            assert!(index(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_allows_what_it_says_and_nothing_else() {
        let rule = |text: &str| text.parse::<Allowed>().expect(text);
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        assert!(rule("unix:/run/a.sock").permits_unix("/run/a.sock"));
        assert!(!rule("unix:/run/a.sock").permits_unix("/run/a.sock2"));
        assert!(!rule("127.0.0.1:80").permits_unix("/run/a.sock"));
        assert!(rule("127.0.0.1:80").permits(ip("127.0.0.1"), 80));
        assert!(rule("127.0.0.1:80").permits(ip("::ffff:127.0.0.1"), 80));
        assert!(!rule("127.0.0.1:80").permits(ip("127.0.0.2"), 80));
        assert!(!rule("127.0.0.1:80").permits(ip("127.0.0.1"), 81));
        assert!(rule("10.0.0.0/8:80").permits(ip("10.9.9.9"), 80));
        assert!(!rule("10.0.0.0/8:80").permits(ip("11.0.0.1"), 80));
        assert!(rule("[fd00::/8]:80").permits(ip("fd12::1"), 80));
        for text in [
            "unix:/run/a.sock",
            "127.0.0.1:80",
            "10.0.0.0/8:80",
            "[fd00::/8]:80",
            "[::1]:9",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
        for text in [
            "",
            "unix:a",
            "127.0.0.1",
            "*:80",
            "10.0.0.1/8:80",
            "::1:80",
            "localhost:80",
            "127.0.0.1:0",
            "[127.0.0.1]:80",
        ] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pin_is_of_the_address_alone_and_stays() {
        let upstream = |keep| Upstream {
            address: Address::Unix("/run/php.sock".to_owned()),
            speaks: Speaks::Http,
            keep,
        };
        assert_eq!(upstream(0).pin(), upstream(1).pin());
        let expected = Digest::of(b"realm upstream 1\nhttp:unix:/run/php.sock");
        assert_eq!(upstream(0).pin(), expected);
    }
}
