//! `node.toml`: what belongs to the machine and to its operator. No manifest can widen it.
//!
//! [`parse`] turns text into a [`NodeConfig`] and every problem at once. Not here: where the file
//! lies, and what the node does with it.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::block::{Block, BlockError};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::fields::{Fields, Report, cut};
use crate::manifest::{ValueError, directory, plain_name, without_duplicates, without_places};
use crate::name::NodeName;
use crate::section::{Absent, Form, Key, Kind, Section};

/// A `node.toml` larger than this is refused before it is parsed: an honest one has a few lines.
pub const NODE_CONFIG_BYTES_MAX: usize = 64 * 1024;

/// `guests.instances_max` at most: four engines (with fuel and without, for WASI 0.2 and 0.3) of
/// 2,500 slots take about 40,000 of the 65,530 memory mappings that Linux gives a process by
/// default. Each is made when a component first needs it.
pub const INSTANCES_MAX: u32 = 2_500;

/// `exec.max_seconds` at most: a day. What runs for longer is a service.
pub const EXEC_SECONDS_MAX: u32 = 86_400;

/// `exec.max_at_once` at most: each holds a thread, three pipes and up to a mebibyte.
pub const EXEC_AT_ONCE_MAX: u32 = 64;

/// The settings of one node. Every key is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The node's name; absent: the host name.
    pub name: Option<NodeName>,
    /// Tags that the operator proposes.
    pub tags: Vec<String>,
    /// Where the node listens.
    pub listen: Listeners,
    /// What guests may reach at most.
    pub guests: GuestPolicy,
    /// What callers may run on this machine.
    pub exec: ExecPolicy,
    /// Proxies whose `Forwarded` and `X-Forwarded-*` headers are believed (IP addresses).
    pub trusted_proxies: Vec<std::net::IpAddr>,
}

/// Addresses of the listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listeners {
    /// HTTP/1.1 and HTTP/2 cleartext for routes.
    pub http: Vec<SocketAddr>,
    /// `/metrics` and health of the agent; loopback unless the operator opens it.
    pub admin: SocketAddr,
    /// The control API over mutual TLS; `None`: not at all.
    pub api: Option<SocketAddr>,
}

/// What callers may run on this machine, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecPolicy {
    /// Who may run commands of the machine; empty: nobody.
    pub allow: Vec<ExecCaller>,
    /// Who may run components, within limits and grants; empty: nobody.
    pub run: Vec<ExecCaller>,
    /// The user that commands run as; `None`: the agent's.
    pub user: Option<String>,
    /// The shell of commands that are one word.
    pub shell: String,
    /// How long a command may run.
    pub max_seconds: u32,
    /// Commands and components of callers at once.
    pub max_at_once: u32,
}

/// Somebody who may run something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecCaller {
    /// The owners of the realm.
    Owner,
    /// Delegates whose scope says so.
    Delegates,
}

impl Default for ExecPolicy {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            run: Vec::new(),
            user: None,
            shell: "/bin/sh".to_owned(),
            max_seconds: 3_600,
            max_at_once: 4,
        }
    }
}

/// The widest that any grant on this node can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuestPolicy {
    /// Host directories (and what is below them) that a manifest may grant.
    pub dirs: Vec<String>,
    /// Private, loopback and link-local ranges that a manifest may open, as CIDR blocks.
    pub private_ranges: Vec<String>,
    /// Files of certificates that guests' TLS trusts beside those that browsers trust.
    pub tls_roots: Vec<String>,
    /// Instances that may live at once, over all components.
    pub instances_max: u32,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            http: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)),
            api: None,
        }
    }
}

impl Default for GuestPolicy {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            private_ranges: Vec::new(),
            tls_roots: Vec::new(),
            // 1,000 pool slots reserve 4 TiB of address space, well inside 128 TiB.
            instances_max: 1_000,
        }
    }
}

const NAME: Form = Form {
    expected: "a name of letters, digits, `-`, `_` and `.`",
    pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    example: "bm-01",
};
const SOCKET: Form = Form {
    expected: "an IP address and a port, like `127.0.0.1:8080` or `[::]:80`",
    pattern: "^([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$",
    example: "127.0.0.1:8080",
};

const CALLER: Form = Form {
    expected: "`owner` or `delegates`",
    pattern: "^(owner|delegates)$",
    example: "owner",
};
const USER: Form = Form {
    expected: "the name or the number of a user",
    pattern: "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$",
    example: "deploy",
};
const PROGRAM: Form = Form {
    expected: "an absolute path",
    pattern: "^/",
    example: "/bin/bash",
};

/// The whole file.
pub static ROOT: Section = Section {
    title: "node.toml",
    doc: "The whole file; it belongs to the node's operator. A manifest cannot change it.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Text(NAME),
            absent: Absent::Means("the host name"),
            doc: "The node's name; the owner's approval binds it to the node's key",
        },
        Key {
            name: "tags",
            kind: Kind::Texts(NAME),
            absent: Absent::Means("none"),
            doc: "Tags that the operator proposes",
        },
        Key {
            name: "trusted_proxies",
            kind: Kind::Texts(Form {
                expected: "an IP address",
                pattern: "^[0-9A-Fa-f:.]+$",
                example: "10.0.0.1",
            }),
            absent: Absent::Means("none"),
            doc: "Proxies whose `Forwarded` and `X-Forwarded-*` headers are believed",
        },
        Key {
            name: "listen",
            kind: Kind::Table(&LISTEN),
            absent: Absent::Means("loopback, as below"),
            doc: "Where the node listens",
        },
        Key {
            name: "guests",
            kind: Kind::Table(&GUESTS),
            absent: Absent::Means("nothing is opened, as below"),
            doc: "What guests may reach at most",
        },
        Key {
            name: "exec",
            kind: Kind::Table(&EXEC),
            absent: Absent::Means("nobody may run anything, as below"),
            doc: "What callers of the control API may run on this machine",
        },
    ],
};

/// `[listen]`.
pub static LISTEN: Section = Section {
    title: "[listen]",
    doc: "Where the node listens.",
    keys: &[
        Key {
            name: "http",
            kind: Kind::Texts(SOCKET),
            absent: Absent::Word("[\"127.0.0.1:8080\"]"),
            doc: "HTTP/1.1 and HTTP/2 cleartext, for routes",
        },
        Key {
            name: "admin",
            kind: Kind::Text(SOCKET),
            absent: Absent::Word("127.0.0.1:9180"),
            doc: "`/metrics` and the health of the agent",
        },
        Key {
            name: "api",
            kind: Kind::Text(SOCKET),
            absent: Absent::Means("not at all"),
            doc: "The control API over mutual TLS, for keys with a role in the realm",
        },
    ],
};

/// `[exec]`.
pub static EXEC: Section = Section {
    title: "[exec]",
    doc: "What callers of the control API may run on this machine.",
    keys: &[
        Key {
            name: "allow",
            kind: Kind::Texts(CALLER),
            absent: Absent::Means("nobody"),
            doc: "Who may run commands (`realm exec`): `owner`, and `delegates` whose scope says so",
        },
        Key {
            name: "run",
            kind: Kind::Texts(CALLER),
            absent: Absent::Means("nobody"),
            doc: "Who may run components within limits and grants (`realm run --node`)",
        },
        Key {
            name: "user",
            kind: Kind::Text(USER),
            absent: Absent::Means("the user of the agent"),
            doc: "The user that commands run as; another one needs an agent that runs as root",
        },
        Key {
            name: "shell",
            kind: Kind::Text(PROGRAM),
            absent: Absent::Word("/bin/sh"),
            doc: "Gets a command that is one word, after `-c`",
        },
        Key {
            name: "max_seconds",
            kind: Kind::Integer {
                min: 1,
                max: EXEC_SECONDS_MAX as u64,
            },
            absent: Absent::Number(3_600),
            doc: "A command or component that runs for longer is killed",
        },
        Key {
            name: "max_at_once",
            kind: Kind::Integer {
                min: 1,
                max: EXEC_AT_ONCE_MAX as u64,
            },
            absent: Absent::Number(4),
            doc: "Commands and components of callers at once",
        },
    ],
};

/// `[guests]`.
pub static GUESTS: Section = Section {
    title: "[guests]",
    doc: "The widest that any grant on this node can be.",
    keys: &[
        Key {
            name: "dirs",
            kind: Kind::Texts(Form {
                expected: "an absolute directory",
                pattern: "^/",
                example: "/srv",
            }),
            absent: Absent::Means("none"),
            doc: "Host directories, with all below them, that a manifest may grant",
        },
        Key {
            name: "private_ranges",
            kind: Kind::Texts(Form {
                expected: "a block of addresses like `10.0.0.0/8` or `fd00::/8`, or one address",
                pattern: "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
                example: "10.0.0.0/8",
            }),
            absent: Absent::Means("none"),
            doc: "Private, loopback and link-local addresses that a manifest may open",
        },
        Key {
            name: "tls_roots",
            kind: Kind::Texts(Form {
                expected: "an absolute path of a file",
                pattern: "^/",
                example: "/etc/ssl/company.pem",
            }),
            absent: Absent::Means("none"),
            doc: "Files of PEM certificates that `https` of guests trusts, beside those that browsers trust",
        },
        Key {
            name: "instances_max",
            kind: Kind::Integer {
                min: 1,
                max: INSTANCES_MAX as u64,
            },
            absent: Absent::Number(1_000),
            doc: "Instances that may live at once, over all components",
        },
    ],
};

/// Every section, in the order of the reference.
pub static SECTIONS: [&Section; 4] = [&ROOT, &LISTEN, &GUESTS, &EXEC];

/// Parses and validates the text of a `node.toml`.
///
/// Returns the settings unless there is an error, and every problem that was found, in the order
/// of the text. Total: any text gives an answer.
pub fn parse(text: &str) -> (Option<NodeConfig>, Vec<Diagnostic>) {
    let mut report = Report::new(text);
    if text.len() > NODE_CONFIG_BYTES_MAX {
        let message = format!(
            "the file has {} bytes, at most {NODE_CONFIG_BYTES_MAX} are taken",
            text.len()
        );
        report.error(codes::TOO_LARGE, 0..0, message, None);
        return (None, report.finish().0);
    }
    let document = report.document();
    let config = read(&mut report, &document);
    let (problems, refused) = report.finish();
    ((!refused).then_some(config), problems)
}

fn read(report: &mut Report<'_>, document: &DeTable<'_>) -> NodeConfig {
    let root = Fields::root(report, document, &ROOT);
    let tags = root.texts(report, "tags", |text| plain_name(text, "tag"));
    let proxies = root.texts(report, "trusted_proxies", |text| {
        text.parse().map_err(|_| bad(text, "an IP address"))
    });
    NodeConfig {
        name: root.text(report, "name", |text| {
            text.parse().map_err(|error: crate::name::NameError| {
                ValueError::new(codes::BAD_NAME, error.to_string())
            })
        }),
        tags: without_duplicates(report, "tags", tags),
        listen: read_listeners(report, &root),
        guests: read_guests(report, &root),
        exec: read_exec(report, &root),
        trusted_proxies: without_places(proxies),
    }
}

fn section<'d, 'i>(
    report: &mut Report<'_>,
    root: &Fields<'d, 'i>,
    name: &str,
    section: &'static Section,
) -> Option<Fields<'d, 'i>> {
    let value = root.value(report, name)?;
    let place = root.key_span(name)?;
    Fields::open(report, value, section, place, "")
}

fn read_listeners(report: &mut Report<'_>, root: &Fields<'_, '_>) -> Listeners {
    let mut listeners = Listeners::default();
    let Some(listen) = section(report, root, "listen", &LISTEN) else {
        return listeners;
    };
    if listen.key_span("http").is_some() {
        let http = listen.texts(report, "http", socket);
        listeners.http = without_duplicates(report, "http", http);
    }
    if let Some(admin) = listen.text(report, "admin", socket) {
        listeners.admin = admin;
    }
    listeners.api = listen.text(report, "api", socket);
    listeners
}

fn read_exec(report: &mut Report<'_>, root: &Fields<'_, '_>) -> ExecPolicy {
    let defaults = ExecPolicy::default();
    let Some(exec) = section(report, root, "exec", &EXEC) else {
        return defaults;
    };
    let caller = |text: &str| match text {
        "owner" => Ok(ExecCaller::Owner),
        "delegates" => Ok(ExecCaller::Delegates),
        _ => Err(bad(text, CALLER.expected)),
    };
    let allow = exec.texts(report, "allow", caller);
    let run = exec.texts(report, "run", caller);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let user = exec.text(report, "user", |text| {
        let fits = (1..=32).contains(&text.len()) && !text.starts_with(['-', '.']);
        match fits && text.chars().all(plain) {
            true => Ok(text.to_owned()),
            false => Err(bad(text, USER.expected)),
        }
    });
    let shell = exec.text(report, "shell", |text| {
        directory(text).map_err(|_| bad(text, PROGRAM.expected))
    });
    ExecPolicy {
        allow: without_places(allow),
        run: without_places(run),
        user,
        shell: shell.unwrap_or(defaults.shell),
        max_seconds: exec.number_u32(report, "max_seconds"),
        max_at_once: exec.number_u32(report, "max_at_once"),
    }
}

fn read_guests(report: &mut Report<'_>, root: &Fields<'_, '_>) -> GuestPolicy {
    let Some(guests) = section(report, root, "guests", &GUESTS) else {
        return GuestPolicy::default();
    };
    let dirs = guests.texts(report, "dirs", |text| {
        directory(text).map_err(|why| {
            let message = format!("`{}` does not do: {why}", cut(text));
            ValueError::new(codes::BAD_DIR, message)
        })
    });
    let ranges = guests.texts(report, "private_ranges", |text| {
        text.parse::<Block>()
            .map(|block| block.to_string())
            .map_err(|error| range_error(text, &error))
    });
    let roots = guests.texts(report, "tls_roots", |text| {
        directory(text).map_err(|_| bad(text, "an absolute path of a file"))
    });
    GuestPolicy {
        dirs: without_duplicates(report, "dirs", dirs),
        private_ranges: without_duplicates(report, "private_ranges", ranges),
        tls_roots: without_duplicates(report, "tls_roots", roots),
        instances_max: guests.number_u32(report, "instances_max"),
    }
}

fn socket(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| {
        let error = bad(text, SOCKET.expected);
        let port = text.strip_prefix(':').unwrap_or(text);
        match port.parse::<u16>() {
            Ok(port) => error.hint(Some(format!("write `127.0.0.1:{port}`"))),
            Err(_) if text.starts_with("localhost:") => {
                error.hint(Some(text.replacen("localhost", "write 127.0.0.1", 1)))
            }
            Err(_) => error,
        }
    })
}

fn range_error(text: &str, error: &BlockError) -> ValueError {
    let message = format!("`{}` is not a block of addresses: {error}", cut(text));
    ValueError::new(codes::BAD_VALUE, message)
}

fn bad(text: &str, expected: &str) -> ValueError {
    let message = format!("`{}` found, expected {expected}", cut(text));
    ValueError::new(codes::BAD_VALUE, message)
}

#[cfg(test)]
mod tests;
