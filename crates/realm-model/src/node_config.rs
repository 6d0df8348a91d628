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
            doc: "Tags that the operator proposes. Read and kept; without effect in this version: `routing.\"tag:NAME\"` goes by the tags of `[nodes]`",
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
pub static SECTIONS: [&Section; 3] = [&ROOT, &LISTEN, &GUESTS];

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
    listeners
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn good(text: &str) -> NodeConfig {
        let (config, problems) = parse(text);
        assert_eq!(problems, [], "{text}");
        config.expect("no problems")
    }

    fn refused(text: &str, expected: &[(&str, usize, usize)]) {
        let (config, problems) = parse(text);
        let seen: Vec<_> = problems
            .iter()
            .map(|problem| (problem.code, problem.line, problem.column))
            .collect();
        assert_eq!(seen, expected, "{text}: {problems:#?}");
        assert_eq!(config, None, "{text}");
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(good(""), NodeConfig::default());
        assert_eq!(good("[listen]\n[guests]\n"), NodeConfig::default());
    }

    #[test]
    fn every_key_is_read() {
        let config = good(FULL);
        assert_eq!(config.name, Some("bm-01".parse().expect("a name")));
        assert_eq!(config.tags, ["metal"]);
        assert_eq!(
            config.trusted_proxies,
            ["10.0.0.1".parse::<std::net::IpAddr>().expect("an address")]
        );
        assert_eq!(config.listen.http.len(), 2);
        assert_eq!(config.listen.admin.to_string(), "127.0.0.1:9000");
        assert_eq!(config.guests.dirs, ["/srv"]);
        assert_eq!(config.guests.private_ranges, ["10.0.0.0/8", "::1"]);
        assert_eq!(config.guests.tls_roots, ["/etc/ssl/company.pem"]);
        assert_eq!(config.guests.instances_max, 200);
    }

    const FULL: &str = r#"
name = "bm-01"
tags = ["metal"]
trusted_proxies = ["10.0.0.1"]
[listen]
http = ["0.0.0.0:80", "[::]:8080"]
admin = "127.0.0.1:9000"
[guests]
dirs = ["/srv/"]
private_ranges = ["10.0.0.0/8", "::1"]
tls_roots = ["/etc/ssl/company.pem"]
instances_max = 200
"#;

    #[test]
    fn every_problem_is_told_with_its_place() {
        refused(
            "nam = 'a'\nname = 'a b'\ntags = ['x', 'x']\ntrusted_proxies = ['proxy']\n",
            &[
                (codes::UNKNOWN_KEY, 1, 1),
                (codes::BAD_NAME, 2, 8),
                (codes::DUPLICATE_VALUE, 3, 14),
                (codes::BAD_VALUE, 4, 20),
            ],
        );
        refused(
            "[listen]\nhttp = [':80']\nadmin = 9180\n[guests]\ndirs = ['srv']\nprivate_ranges = ['10.0.0.1/8']\ninstances_max = 0\ntls_roots = ['ca.pem']\n",
            &[
                (codes::BAD_VALUE, 2, 9),
                (codes::WRONG_TYPE, 3, 9),
                (codes::BAD_DIR, 5, 9),
                (codes::BAD_VALUE, 6, 19),
                (codes::OUT_OF_RANGE, 7, 17),
                (codes::BAD_VALUE, 8, 14),
            ],
        );
        refused(
            &"#".repeat(NODE_CONFIG_BYTES_MAX + 1),
            &[(codes::TOO_LARGE, 1, 1)],
        );
        refused("listen = 1", &[(codes::WRONG_TYPE, 1, 10)]);
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "(\\PC|\n){0,200}") {
            let (config, problems) = parse(&text);
            prop_assert!(config.is_some() || !problems.is_empty());
        }

        #[test]
        fn a_changed_file_gives_an_answer(at in 0..FULL.len(), with in "\\PC{0,3}", cut in 0usize..9) {
            let end = (at + cut).min(FULL.len());
            let text = format!("{}{with}{}", &FULL[..at], &FULL[end..]);
            let (config, problems) = parse(&text);
            prop_assert!(config.is_some() || !problems.is_empty());
        }
    }
}
