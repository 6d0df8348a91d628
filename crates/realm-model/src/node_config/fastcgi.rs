//! `[listen] fastcgi` and `[fastcgi]`: where web servers reach the node as a FastCGI application, who may,
//! and how much one of them can ask for. Not the protocol.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::keys::{FASTCGI, FASTCGI_ADDRESS, MODE, USER};
use super::{bad, range_error, section, socket};
use crate::block::Block;
use crate::codes;
use crate::fields::{Fields, Report, cut};
use crate::manifest::{ValueError, directory, without_duplicates};

/// `sun_path` holds 108 bytes on Linux with the final NUL, 104 on the BSDs.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// `fastcgi.params_bytes_max` at most.
pub const PARAMS_BYTES_MAX: u32 = 256 * 1024;

/// `fastcgi.params_max` at most.
pub const PARAMS_MAX: u32 = 10_000;

/// `fastcgi.requests_per_connection` at most: ids of requests have 16 bits, and each holds what its client
/// has not taken yet.
pub const FASTCGI_REQUESTS_MAX: u32 = 1_000;

/// Where a web server reaches the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FastCgiAddress {
    /// A Unix socket, by its absolute path.
    Unix(String),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl fmt::Display for FastCgiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl From<FastCgiAddress> for String {
    fn from(address: FastCgiAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for FastCgiAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        address(&text).map_err(|error| error.message)
    }
}

/// `[fastcgi]`: who may ask over FastCGI, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FastCgiSettings {
    /// Mode of the Unix sockets.
    pub socket_mode: u32,
    /// The group that the Unix sockets belong to; `None`: that of the agent.
    pub socket_group: Option<String>,
    /// Blocks of addresses from which web servers may connect over TCP.
    pub allow: Vec<String>,
    /// Requests at once on one connection.
    pub requests_per_connection: u32,
    /// Bytes of the parameters of one request, names and values.
    pub params_bytes_max: u32,
    /// Parameters of one request.
    pub params_max: u32,
    /// Bytes of the name of a parameter.
    pub param_name_bytes_max: u32,
    /// Bytes of guests' standard error that one request may write to the web server's log.
    pub stderr_bytes_max: u32,
}

impl Default for FastCgiSettings {
    fn default() -> Self {
        let number = |name| u32::try_from(FASTCGI.default_of(name)).expect("it fits 32 bits");
        Self {
            socket_mode: 0o660,
            socket_group: None,
            allow: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
            requests_per_connection: number("requests_per_connection"),
            params_bytes_max: number("params_bytes_max"),
            params_max: number("params_max"),
            param_name_bytes_max: number("param_name_bytes_max"),
            stderr_bytes_max: number("stderr_bytes_max"),
        }
    }
}

/// `listen.fastcgi`.
pub(super) fn read_addresses(
    report: &mut Report<'_>,
    listen: &Fields<'_, '_>,
) -> Vec<FastCgiAddress> {
    let addresses = listen.texts(report, "fastcgi", address);
    without_duplicates(report, "fastcgi", addresses)
}

fn address(text: &str) -> Result<FastCgiAddress, ValueError> {
    let Some(path) = text.strip_prefix("unix:") else {
        return socket(text).map(FastCgiAddress::Tcp).map_err(|error| {
            let message = format!(
                "`{}` found, expected {}",
                cut(text),
                FASTCGI_ADDRESS.expected
            );
            let hint = match text.starts_with('/') {
                true => Some(format!("write `unix:{text}`")),
                false => error.hint,
            };
            ValueError::new(codes::BAD_VALUE, message).hint(hint)
        });
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = directory(path).map_err(|_| bad(text, FASTCGI_ADDRESS.expected))?;
    match path.len() {
        0..=SOCKET_PATH_BYTES_MAX => Ok(FastCgiAddress::Unix(path)),
        _ => {
            let message = format!(
                "`{}` has more than {SOCKET_PATH_BYTES_MAX} bytes, which no socket can",
                cut(text)
            );
            Err(ValueError::new(codes::BAD_VALUE, message))
        }
    }
}

/// `[fastcgi]`.
pub(super) fn read(report: &mut Report<'_>, root: &Fields<'_, '_>) -> FastCgiSettings {
    let mut settings = FastCgiSettings::default();
    let Some(fields) = section(report, root, "fastcgi", &FASTCGI) else {
        return settings;
    };
    if let Some(mode) = fields.text(report, "socket_mode", mode) {
        settings.socket_mode = mode;
    }
    settings.socket_group = fields.text(report, "socket_group", |text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let fits = (1..=32).contains(&text.len()) && !text.starts_with(['-', '.']);
        match fits && text.chars().all(plain) {
            true => Ok(text.to_owned()),
            false => Err(bad(text, USER.expected)),
        }
    });
    if fields.key_span("allow").is_some() {
        let blocks = fields.texts(report, "allow", |text| {
            let block = text.parse::<Block>().map(|block| block.to_string());
            block.map_err(|error| range_error(text, &error))
        });
        settings.allow = without_duplicates(report, "allow", blocks);
    }
    settings.requests_per_connection = fields.number_u32(report, "requests_per_connection");
    settings.params_bytes_max = fields.number_u32(report, "params_bytes_max");
    settings.params_max = fields.number_u32(report, "params_max");
    settings.param_name_bytes_max = fields.number_u32(report, "param_name_bytes_max");
    settings.stderr_bytes_max = fields.number_u32(report, "stderr_bytes_max");
    settings
}

/// A mode as `chmod` takes it. A socket that everybody on the machine may connect to is the operator's to
/// choose.
fn mode(text: &str) -> Result<u32, ValueError> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_octal =
        (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| is_octal);
    // No set-user-id, no sticky bit: they mean nothing here.
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| bad(text, MODE.expected))
}
