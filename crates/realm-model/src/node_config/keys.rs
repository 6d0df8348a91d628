//! The table of every key of `node.toml`: the reader, the hints and the reference come from it.
//! Not what a value means: that is the reader's.

use super::fastcgi::FASTCGI;
use super::tls::{ACME, TLS};
use super::upstreams::UPSTREAMS;
use super::{CONNECTIONS_MAX, EXEC_AT_ONCE_MAX, EXEC_SECONDS_MAX, INSTANCES_MAX};
use crate::limits;
use crate::section::{Absent, Form, Key, Kind, Section};

pub(super) const NAME: Form = Form {
    expected: "a name of letters, digits, `-`, `_` and `.`",
    pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    example: "bm-01",
};
pub(super) const SOCKET: Form = Form {
    expected: "an IP address and a port, like `127.0.0.1:8080` or `[::]:80`",
    pattern: "^([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$",
    example: "127.0.0.1:8080",
};

pub(super) const PORTS: Form = Form {
    expected: "one IP address of this machine",
    pattern: "^[0-9A-Fa-f:.]+$",
    example: "10.0.0.1",
};

pub(super) const MULTIADDR: Form = Form {
    expected: "an address like `/dns4/bm-01.example.com/udp/4747/quic-v1`",
    pattern: "^/(ip4|ip6|dns|dns4|dns6)/[^/ ]+/(udp/[0-9]{1,5}/quic-v1|tcp/[0-9]{1,5})$",
    example: "/ip4/192.0.2.1/udp/4747/quic-v1",
};
pub(super) const CALLER: Form = Form {
    expected: "`owner` or `delegates`",
    pattern: "^(owner|delegates)$",
    example: "owner",
};
pub(super) const USER: Form = Form {
    expected: "the name or the number of a user",
    pattern: "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$",
    example: "deploy",
};
pub(super) const ENDPOINT: Form = Form {
    expected: "an address like `https://s3.example.com` or `http://127.0.0.1:9000`",
    pattern: "^https?://[^/?#@]+/?$",
    example: "https://s3.example.com",
};
pub(super) const REGISTRY: Form = Form {
    expected: "a registry's host, with its port if it has one of its own",
    pattern: "^[A-Za-z0-9_.:\\[\\]-]+$",
    example: "registry.example.com:5000",
};
pub(super) const PROGRAM: Form = Form {
    expected: "an absolute path",
    pattern: "^/",
    example: "/bin/bash",
};

pub(super) const FASTCGI_ADDRESS: Form = Form {
    expected: "`unix:` and an absolute path, or an IP address and a port",
    pattern: "^(unix:/.+|([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5})$",
    example: "unix:/run/realm/fastcgi.sock",
};
pub(super) const MODE: Form = Form {
    expected: "a mode in octal digits, like `0660`",
    pattern: "^(0o?)?[0-7]{3}$",
    example: "0660",
};
const BLOCK: Form = Form {
    expected: "a block of addresses like `10.0.0.0/8` or `fd00::/8`, or one address",
    pattern: "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
    example: "10.0.0.0/8",
};

/// The whole file.
pub(crate) static ROOT: Section = Section {
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
            doc: "Tags that the operator proposes when the machine asks to join, beside `realm join --tags`. What counts is what the owner's approval names (`realm nodes tag` changes it), and `[nodes]`",
        },
        Key {
            name: "trusted_proxies",
            kind: Kind::Texts(Form {
                expected: "an IP address",
                pattern: "^[0-9A-Fa-f:.]+$",
                example: "10.0.0.1",
            }),
            absent: Absent::Means("none"),
            doc: "Proxies whose `Forwarded` and `X-Forwarded-*` headers are believed: each has to set or drop both families, not only one",
        },
        Key {
            name: "listen",
            kind: Kind::Table(&LISTEN),
            absent: Absent::Means("loopback, as below"),
            doc: "Where the node listens",
        },
        Key {
            name: "fastcgi",
            kind: Kind::Table(&FASTCGI),
            absent: Absent::Means("as below"),
            doc: "Which web servers may ask over FastCGI, and how much",
        },
        Key {
            name: "cache_max_mb",
            // More than that is a cache of its own, on a disk.
            kind: Kind::Integer {
                min: 0,
                max: 1_048_576,
            },
            absent: Absent::Number(limits::CACHE_MAX_MB),
            doc: "MiB of answers that are kept in memory, of all components with `cache`; 0 keeps none",
        },
        Key {
            name: "guests",
            kind: Kind::Table(&GUESTS),
            absent: Absent::Means("nothing is opened, as below"),
            doc: "What guests may reach at most",
        },
        Key {
            name: "p2p",
            kind: Kind::Table(&P2P),
            absent: Absent::Means("port 4747 on every address, as below"),
            doc: "How the node meets the other nodes of its realm",
        },
        Key {
            name: "exec",
            kind: Kind::Table(&EXEC),
            absent: Absent::Means("nobody may run anything, as below"),
            doc: "What callers of the control API may run on this machine",
        },
        Key {
            name: "tls",
            kind: Kind::Table(&TLS),
            absent: Absent::Means("no certificates, as below"),
            doc: "Certificates of HTTPS",
        },
        Key {
            name: "sources",
            kind: Kind::Table(&SOURCES),
            absent: Absent::Means("as below"),
            doc: "Whom the node asks for the bytes of components, beside its peers",
        },
        Key {
            name: "upstreams",
            kind: Kind::Table(&UPSTREAMS),
            absent: Absent::Means("requests are passed on to none"),
            doc: "To which services beside realm the node passes requests on at most",
        },
        Key {
            name: "backends",
            kind: Kind::Table(&BACKENDS),
            absent: Absent::Means("none but the stores of the node's own"),
            doc: "Which servers may stand behind the stores of components",
        },
    ],
};

/// `[listen]`.
pub(super) static LISTEN: Section = Section {
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
            name: "https",
            kind: Kind::Texts(SOCKET),
            absent: Absent::Means("not at all"),
            doc: "The same over TLS, with certificates as `[tls]` says",
        },
        Key {
            name: "proxy_protocol_from",
            kind: Kind::Texts(BLOCK),
            absent: Absent::Means("nobody"),
            doc: "Proxies that begin each connection, on `http` and `https`, with a header of the PROXY protocol (version 1 or 2), which says whose it is. They must send one; nobody else may",
        },
        Key {
            name: "fastcgi",
            kind: Kind::Texts(FASTCGI_ADDRESS),
            absent: Absent::Means("not at all"),
            doc: "FastCGI, for routes: where nginx, Apache and other web servers reach the node ([edge.md](edge.md))",
        },
        Key {
            name: "connections_max",
            kind: Kind::Integer {
                min: 16,
                max: CONNECTIONS_MAX as u64,
            },
            absent: Absent::Number(10_000),
            doc: "Connections open at once on `http`, `https` and `fastcgi` together; one more takes the place of the one that was idle for longest, or is refused. The limit of open files may lower it",
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
        Key {
            name: "ports",
            kind: Kind::Texts(PORTS),
            absent: Absent::Means("none"),
            doc: "Addresses of this machine on which the ports of servers (`listen` of a component) are reached, wherever in the realm they run",
        },
    ],
};

/// `[backends]`.
pub(super) static BACKENDS: Section = Section {
    title: "[backends]",
    doc: "Which servers may stand behind the stores of components at most.",
    keys: &[
        Key {
            name: "allow",
            kind: Kind::Texts(Form {
                expected: "the origin of a server like `redis://cache.internal:6379`",
                pattern: "^[a-z0-9+]+://.+$",
                example: "postgres://db.internal:5432",
            }),
            absent: Absent::Means("none"),
            doc: "Servers that the `backend` of a binding may name: scheme, host and port, and `?sslmode=disable` or `?tls=none` where PostgreSQL or mail may be asked without TLS on another machine; of S3 the `endpoint`, or `s3://BUCKET` at Amazon's",
        },
        Key {
            name: "ca_file",
            kind: Kind::Text(Form {
                expected: "an absolute path of a file",
                pattern: "^/",
                example: "/etc/realm/backends.pem",
            }),
            absent: Absent::Means("the authorities of the machine alone"),
            doc: "Certificates of authorities, in PEM, that are believed as well when such a server is asked over TLS",
        },
    ],
};

/// `[exec]`.
pub(super) static EXEC: Section = Section {
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
pub(super) static GUESTS: Section = Section {
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
            kind: Kind::Texts(BLOCK),
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

/// `[p2p]`.
pub(super) static P2P: Section = Section {
    title: "[p2p]",
    doc: "How the node meets the other nodes of its realm. Whom the owner has not approved can ask to join, and nothing else.",
    keys: &[
        Key {
            name: "listen",
            kind: Kind::Texts(SOCKET),
            absent: Absent::Word("[\"0.0.0.0:4747\", \"[::]:4747\"]"),
            doc: "QUIC on the UDP port, and TCP on the same number; `[]`: the node is alone",
        },
        Key {
            name: "announce",
            kind: Kind::Texts(MULTIADDR),
            absent: Absent::Means("what it listens on, and what others see"),
            doc: "Addresses under which others reach it from outside, for instance behind a forwarded port",
        },
        Key {
            name: "mdns",
            kind: Kind::Boolean,
            absent: Absent::Word("true"),
            doc: "Look for nodes of the realm on the local network",
        },
        Key {
            name: "relay",
            kind: Kind::Boolean,
            absent: Absent::Word("true"),
            doc: "Pass on connections for approved nodes that cannot be reached directly",
        },
    ],
};

/// `[sources]`.
pub(super) static SOURCES: Section = Section {
    title: "[sources]",
    doc: "Whom the node asks for the bytes of `registry:`, `s3:` and `ipfs:` sources, beside its peers. Credentials are not here: see [operations.md](operations.md#sources-of-components).",
    keys: &[
        Key {
            name: "ipfs_gateways",
            kind: Kind::Texts(ENDPOINT),
            absent: Absent::Word("[\"http://127.0.0.1:8080\"]"),
            doc: "Gateways of IPFS that give single blocks, in the order in which they are asked; at most 4. Each block is checked, so a gateway need not be trusted",
        },
        Key {
            name: "s3_endpoint",
            kind: Kind::Text(ENDPOINT),
            absent: Absent::Means("Amazon's, by the region"),
            doc: "The S3 server of sources that name none, and the only one that gets the credentials",
        },
        Key {
            name: "s3_region",
            kind: Kind::Text(Form {
                expected: "a region like `eu-central-1`",
                pattern: "^[A-Za-z0-9_-]{1,64}$",
                example: "eu-central-1",
            }),
            absent: Absent::Word("us-east-1"),
            doc: "The region of sources that name none",
        },
        Key {
            name: "registry_auth",
            kind: Kind::Text(Form {
                expected: "an absolute path of a file",
                pattern: "^/",
                example: "/etc/realm/registries.json",
            }),
            absent: Absent::Means("what the environment says"),
            doc: "A file with log-ins to registries, as `docker login` writes it; read at each fetch",
        },
        Key {
            name: "registries_without_tls",
            kind: Kind::Texts(REGISTRY),
            absent: Absent::Means("those on loopback"),
            doc: "Registries that are asked over `http`",
        },
    ],
};

/// Every section, in the order of the reference.
pub static SECTIONS: [&Section; 11] = [
    &ROOT, &LISTEN, &FASTCGI, &TLS, &ACME, &GUESTS, &EXEC, &P2P, &SOURCES, &UPSTREAMS, &BACKENDS,
];
