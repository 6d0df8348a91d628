//! `[listen] fastcgi` and `[fastcgi]`: where web servers reach the node as a FastCGI application, who may,
//! and how much one of them can ask for. Not the protocol.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::keys::{FASTCGI_ADDRESS, MODE, USER};
use super::{bad, range_error, section, socket};
use crate::block::Block;
use crate::codes;
use crate::fields::{Fields, Report, cut};
use crate::manifest::{ValueError, directory, without_duplicates};
use crate::section::{Absent, Form, Key, Kind, Section};

/// `sun_path` holds 108 bytes on Linux with the final NUL, 104 on the BSDs.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// `fastcgi.params_bytes_max` at most.
pub const PARAMS_BYTES_MAX: u32 = 256 * 1024;

/// `fastcgi.params_max` at most.
pub const PARAMS_MAX: u32 = 10_000;

/// `fastcgi.requests_per_connection` at most: ids of requests have 16 bits, and each holds what its client
/// has not taken yet.
pub const FASTCGI_REQUESTS_MAX: u32 = 1_000;

/// `listen.connections_max` and `fastcgi.connections_max` at most: each is a file of the process.
pub const CONNECTIONS_MAX: u32 = 1_000_000;

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

/// `[fastcgi]`.
pub(super) static FASTCGI: Section = Section {
    title: "[fastcgi]",
    doc: "Which web servers may ask over FastCGI, and how much. Who can connect is believed about whom it asks for.",
    keys: &[
        Key {
            name: "socket_mode",
            kind: Kind::Text(MODE),
            absent: Absent::Word("0660"),
            doc: "Mode of Unix sockets, as `chmod` takes it",
        },
        Key {
            name: "socket_group",
            kind: Kind::Text(Form {
                expected: "the name or the number of a group",
                pattern: "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$",
                example: "www-data",
            }),
            absent: Absent::Means("the agent's group"),
            doc: "The group of Unix sockets: that of the web server",
        },
        Key {
            name: "allow",
            kind: Kind::Texts(Form {
                expected: "a block of addresses like `10.0.0.0/8` or `fd00::/8`, or one address",
                pattern: "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
                example: "10.0.0.5",
            }),
            absent: Absent::Word("[\"127.0.0.0/8\", \"::1\"]"),
            doc: "Addresses from which web servers may connect over TCP",
        },
        Key {
            name: "requests_per_connection",
            kind: Kind::Integer {
                min: 1,
                max: FASTCGI_REQUESTS_MAX as u64,
            },
            absent: Absent::Number(32),
            doc: "Requests at once on one connection; one more hears `OVERLOADED`",
        },
        Key {
            name: "connections_max",
            kind: Kind::Integer {
                min: 1,
                max: CONNECTIONS_MAX as u64,
            },
            absent: Absent::Number(10_000),
            doc: "Connections of web servers at once, within those of `[listen]`; one more takes the place of the one that was idle for longest, or is closed. `FCGI_MAX_CONNS` says the smaller of both",
        },
        Key {
            name: "aborts_per_second_max",
            kind: Kind::Integer {
                min: 1,
                max: 100_000,
            },
            absent: Absent::Number(100),
            doc: "Requests of one connection that may be aborted in a second; with one more it ends, and what it has under way with it",
        },
        Key {
            name: "params_bytes_max",
            kind: Kind::Integer {
                min: 1024,
                max: PARAMS_BYTES_MAX as u64,
            },
            absent: Absent::Number(65_536),
            doc: "Bytes of all parameters of a request, names and values; above that the answer is 431",
        },
        Key {
            name: "params_max",
            kind: Kind::Integer {
                min: 10,
                max: PARAMS_MAX as u64,
            },
            absent: Absent::Number(200),
            doc: "Parameters of a request",
        },
        Key {
            name: "param_name_bytes_max",
            kind: Kind::Integer {
                min: 16,
                max: 4_096,
            },
            absent: Absent::Number(256),
            doc: "Bytes of the name of a parameter",
        },
        Key {
            name: "question_bytes_max",
            kind: Kind::Integer {
                min: 64,
                max: 65_535,
            },
            absent: Absent::Number(1_024),
            doc: "Bytes of a question about the application (`FCGI_GET_VALUES`), or of a record of a kind that nobody knows; a longer one ends the connection",
        },
        Key {
            name: "stdin_waiting_bytes_max",
            kind: Kind::Integer {
                min: 16_384,
                max: 16_777_216,
            },
            absent: Absent::Number(131_072),
            doc: "Bytes of one request's body that wait until the component reads them; then the connection is read no further. In steps of 16 KiB",
        },
        Key {
            name: "stdout_waiting_bytes_max",
            kind: Kind::Integer {
                min: 32_768,
                max: 67_108_864,
            },
            absent: Absent::Number(524_288),
            doc: "Bytes of answers that wait until the web server takes them, of all requests of one connection; then their components wait. In steps of 32 KiB",
        },
        Key {
            name: "stderr_bytes_max",
            kind: Kind::Integer {
                min: 0,
                max: 1_048_576,
            },
            absent: Absent::Number(16_384),
            doc: "Bytes of a component's standard error that one request may write to the web server's log; `realm logs` has all of it",
        },
        Key {
            name: "head_timeout_ms",
            kind: MOMENT,
            absent: Absent::Number(15_000),
            doc: "From the first byte of a request to the last of its parameters, while the connection has no other request; then it ends, as with the next two, within a second",
        },
        Key {
            name: "idle_timeout_ms",
            kind: MOMENT,
            absent: Absent::Number(75_000),
            doc: "How long a connection without a request is kept. More than the web server keeps it, so that no request meets its end",
        },
        Key {
            name: "stall_timeout_ms",
            kind: MOMENT,
            absent: Absent::Number(60_000),
            doc: "How long a web server may take nothing of what waits for it",
        },
        Key {
            name: "body_timeout_ms",
            kind: MOMENT,
            absent: Absent::Number(60_000),
            doc: "The longest pause within the body of a request that a component reads; then its request is answered 408",
        },
    ],
};

/// How long a connection may stand still: from as soon as a test would want it to a day.
const MOMENT: Kind = Kind::Integer {
    min: 100,
    max: 86_400_000,
};

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
    /// Connections of web servers at once.
    pub connections_max: u32,
    /// Requests of one connection that may be aborted in a second.
    pub aborts_per_second_max: u32,
    /// Bytes of a question about the application.
    pub question_bytes_max: u32,
    /// Bytes of the body of one request that wait for the component.
    pub stdin_waiting_bytes_max: u32,
    /// Bytes of the answers of one connection that wait for the web server.
    pub stdout_waiting_bytes_max: u32,
    /// From the first byte of a request to the last of its parameters.
    pub head_timeout_ms: u32,
    /// Without a request.
    pub idle_timeout_ms: u32,
    /// While the web server takes nothing.
    pub stall_timeout_ms: u32,
    /// The longest pause within a body.
    pub body_timeout_ms: u32,
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
            connections_max: number("connections_max"),
            aborts_per_second_max: number("aborts_per_second_max"),
            question_bytes_max: number("question_bytes_max"),
            stdin_waiting_bytes_max: number("stdin_waiting_bytes_max"),
            stdout_waiting_bytes_max: number("stdout_waiting_bytes_max"),
            head_timeout_ms: number("head_timeout_ms"),
            idle_timeout_ms: number("idle_timeout_ms"),
            stall_timeout_ms: number("stall_timeout_ms"),
            body_timeout_ms: number("body_timeout_ms"),
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
    settings.connections_max = fields.number_u32(report, "connections_max");
    settings.aborts_per_second_max = fields.number_u32(report, "aborts_per_second_max");
    settings.question_bytes_max = fields.number_u32(report, "question_bytes_max");
    settings.stdin_waiting_bytes_max = fields.number_u32(report, "stdin_waiting_bytes_max");
    settings.stdout_waiting_bytes_max = fields.number_u32(report, "stdout_waiting_bytes_max");
    settings.head_timeout_ms = fields.number_u32(report, "head_timeout_ms");
    settings.idle_timeout_ms = fields.number_u32(report, "idle_timeout_ms");
    settings.stall_timeout_ms = fields.number_u32(report, "stall_timeout_ms");
    settings.body_timeout_ms = fields.number_u32(report, "body_timeout_ms");
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
