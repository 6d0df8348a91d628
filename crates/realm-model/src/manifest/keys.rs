//! The keys of `realm.toml`: the one table behind the reader, the JSON schema and the reference.
//!
//! A key that is not here does not exist. What a value *means* is in `read` and the value parsers.

mod front;
mod routes;
mod stores;

pub use front::{PER_CLIENT, RULE};
pub use routes::ROUTE;
pub use stores::{BINDING, SUBSCRIBE, WORKFLOW};

use crate::limits;
use crate::section::{Absent, Form, Key, Kind, Section};

const NAME: Form = Form {
    expected: "a name of letters, digits, `-` and `_`, or a version of it like `orders@blue`",
    pattern: "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}(@[A-Za-z0-9][A-Za-z0-9_-]{0,60})?$",
    example: "orders",
};
const LABEL: Form = Form {
    expected: "labels of letters, digits, `-` and `_`",
    pattern: "^[A-Za-z0-9][A-Za-z0-9_-]{0,60}$",
    example: "blue",
};
const NODE_NAME: Form = Form {
    expected: "a name of letters, digits, `-`, `_` and `.`",
    pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    example: "bm-01",
};
const ANY: Form = Form {
    expected: "any text",
    pattern: "",
    example: "info",
};

const SHARE: Form = Form {
    expected: "a share like `25%`",
    pattern: "^[0-9]{1,3}%$",
    example: "25%",
};
const TIME: Form = Form {
    expected: "a time span like `30s` or `5m`",
    pattern: "^[0-9][0-9A-Za-z. ]{0,31}$",
    example: "30s",
};

/// The whole file.
pub static ROOT: Section = Section {
    title: "realm.toml",
    doc: "The whole file.",
    keys: &[
        Key {
            name: "version",
            kind: Kind::Integer {
                min: 1,
                // TOML integers have 64 bits with a sign.
                max: i64::MAX as u64,
            },
            absent: Absent::Means("the last version plus one"),
            doc: "Version of the desired state; must be greater than the one in force",
        },
        Key {
            name: "owner",
            kind: Kind::Table(&OWNER),
            absent: Absent::Means("whoever the realm says owns it"),
            doc: "Who may apply this file",
        },
        Key {
            name: "nodes",
            kind: Kind::Named(NODE_NAME, &NODE),
            absent: Absent::Means("no node is described"),
            doc: "The machines",
        },
        Key {
            name: "components",
            kind: Kind::Named(NAME, &COMPONENT),
            absent: Absent::Means("nothing runs"),
            doc: "What runs",
        },
        Key {
            name: "routing",
            kind: Kind::Lists(
                Form {
                    expected: "a node's name, `tag:NAME` or `*`",
                    pattern: "^(\\*|tag:[A-Za-z0-9][A-Za-z0-9_.-]{0,62}|[A-Za-z0-9][A-Za-z0-9_.-]{0,62})$",
                    example: "bm-01",
                },
                &ROUTE,
            ),
            absent: Absent::Means("nothing is routed"),
            doc: "Which component answers what, on which nodes, with how many replicas",
        },
        Key {
            name: "bindings",
            kind: Kind::Named(NODE_NAME, &BINDING),
            absent: Absent::Means("no stores"),
            doc: "What stands behind the interfaces that components use: [stores](#stores)",
        },
        Key {
            name: "secrets",
            kind: Kind::TextTable(Form {
                expected: "a ciphertext `age-encrypted:BASE64`",
                pattern: "^age-encrypted:[A-Za-z0-9+/_=-]+$",
                example: "age-encrypted:YWdlLWVuY3J5cHRpb24ub3JnL3Yx",
            }),
            absent: Absent::Means("no secrets"),
            doc: "Ciphertexts by name; a component gets those that its `secrets` names",
        },
    ],
};

/// `[owner]`.
pub static OWNER: Section = Section {
    title: "[owner]",
    doc: "Who may apply this file. A guard against applying it to another realm: what counts is the realm's own record of its owners.",
    keys: &[Key {
        name: "pubkey",
        kind: Kind::Text(Form {
            expected: "an Ed25519 public key, `ed25519:BASE58`",
            pattern: "^ed25519:[1-9A-HJ-NP-Za-km-z]{32,44}$",
            example: "ed25519:AKnL4NNf3DGWZJS6cPknBuEGnVsV4A4m5tgebLHaRSZ9",
        }),
        absent: Absent::Refused,
        doc: "The owner's public key: `realm key show` prints it",
    }],
};

/// `[nodes."NAME"]`.
pub static NODE: Section = Section {
    title: "[nodes.\"NAME\"]",
    doc: "A machine, by the name that the owner approved its key under.",
    keys: &[
        Key {
            name: "tags",
            kind: Kind::Texts(NODE_NAME),
            absent: Absent::Means("none"),
            doc: "Tags for `routing.\"tag:NAME\"`",
        },
        Key {
            name: "addr_hint",
            kind: Kind::Text(Form {
                expected: "a multiaddr like `/dns/bm-01.example.com/udp/443/quic-v1`",
                pattern: "^/(dns|dns4|dns6|dnsaddr|ip4|ip6)/[^/]+/(udp|tcp)/[0-9]+(/quic(-v1)?)?(/p2p/[A-Za-z0-9]+)?$",
                example: "/dns/bm-01.example.com/udp/443/quic-v1",
            }),
            absent: Absent::Means("the node is found by its peers"),
            doc: "An address to try first",
        },
    ],
};

/// `[components.NAME]`.
pub static COMPONENT: Section = Section {
    title: "[components.NAME]",
    doc: "A WASI component: where its bytes come from, what it may use, what it may reach.",
    keys: &[
        Key {
            name: "source",
            kind: Kind::Text(Form {
                expected: "a source like `file:./build/orders.wasm`, or a URL with its `@sha256:` pin",
                pattern: "^[A-Za-z][A-Za-z0-9]*:.+$",
                example: "file:./build/orders.wasm",
            }),
            absent: Absent::Or("upstream"),
            doc: "Where its bytes come from",
        },
        Key {
            name: "upstream",
            kind: Kind::Text(Form {
                expected: "a service like `fastcgi:unix:/run/php/php-fpm.sock`, `fastcgi://127.0.0.1:9000`, `http://127.0.0.1:3000` or `http:unix:/run/app.sock`",
                pattern: "^(fastcgi|http):.+$",
                example: "fastcgi:unix:/run/php/php-fpm.sock",
            }),
            absent: Absent::Or("source"),
            doc: "In place of `source`: a service beside realm that answers, as [below](#upstreams). The node's `node.toml` must allow it",
        },
        Key {
            name: "root",
            kind: Kind::Text(Form {
                expected: "an absolute path of a folder",
                pattern: "^/",
                example: "/srv/www",
            }),
            absent: Absent::Means("with `upstream = \"fastcgi:…\"` it must be there"),
            doc: "The document root of a FastCGI application, as that application sees it",
        },
        Key {
            name: "split",
            kind: Kind::Text(Form {
                expected: "a `.` and letters and digits",
                pattern: "^\\.[A-Za-z0-9]{1,15}$",
                example: ".php",
            }),
            absent: Absent::Means("`.php`"),
            doc: "What the name of a script of a FastCGI application ends in; what follows it in a path is `PATH_INFO`",
        },
        Key {
            name: "index",
            kind: Kind::Text(Form {
                expected: "the name of a script",
                pattern: "^.+$",
                example: "index.php",
            }),
            absent: Absent::Means("`index.php`"),
            doc: "The script of a FastCGI application for paths that name none, as [below](#upstreams)",
        },
        Key {
            name: "keep_connections",
            // Each may hold a process of the application.
            kind: Kind::Integer { min: 0, max: 1_000 },
            absent: Absent::Means("0 for FastCGI, 32 for HTTP"),
            doc: "Connections to an upstream that are kept for the next request; to php-fpm each of them holds one of its processes",
        },
        Key {
            name: "world",
            kind: Kind::Text(Form {
                expected: "`wasi:http/proxy`, `wasi:http/service` or `wasi:cli/command`, with a version or without",
                pattern: "^wasi:(http/proxy|http/service|cli/command)(@0\\.[23](\\.[0-9]{1,5})?)?$",
                example: "wasi:http/proxy@0.2.6",
            }),
            absent: Absent::Means("what its bytes say"),
            doc: "The world it was built for",
        },
        Key {
            name: "serve",
            kind: Kind::OneOf(&["http", "cgi", "socket", "service", "job", "worker"]),
            absent: Absent::Means("inferred, as [below](#what-runs-how)"),
            doc: "How it runs: an HTTP handler per request, a command per request, a command that serves HTTP on a port, a command that runs on, one that runs to its end, or handlers that messages and changes of keys call",
        },
        Key {
            name: "listen",
            kind: Kind::Integer {
                min: 1,
                max: 65_535,
            },
            absent: Absent::Means("each instance has a port of its own, in the variable `PORT`"),
            doc: "The port on 127.0.0.1 that a server insists on; alone it means `serve = \"socket\"`",
        },
        Key {
            name: "schedule",
            kind: Kind::TextOrTable(
                Form {
                    expected: "a cron form like `0 3 * * *`",
                    pattern: "^[ -~]{1,256}$",
                    example: "0 3 * * *",
                },
                &SCHEDULE,
            ),
            absent: Absent::Means("a job runs once for each version"),
            doc: "When a job runs: a cron form in UTC, or a table; alone it means `serve = \"job\"`",
        },
        Key {
            name: "args",
            kind: Kind::Texts(ANY),
            absent: Absent::Means("none"),
            doc: "Command-line arguments after the component's name",
        },
        Key {
            name: "dirs",
            kind: Kind::Texts(Form {
                expected: "`HOST::GUEST`, `HOST::GUEST::ro` or `HOST::GUEST::rw`",
                pattern: "^/[^:]*(:[^:]+)*::/.*$",
                example: "/srv/data::/data::rw",
            }),
            absent: Absent::Means("none"),
            doc: "Host directories that the guest sees; without `::rw` it may only read. The node's `node.toml` must allow each",
        },
        Key {
            name: "reuse",
            kind: Kind::Boolean,
            absent: Absent::Word("false"),
            doc: "Whether one instance of an HTTP handler serves many requests, one after the other: what one leaves in its memory is there for the next",
        },
        Key {
            name: "allowed_outbound",
            kind: Kind::Texts(Form {
                expected: "a rule `SCHEME://HOST[:PORT]`",
                pattern: "^(\\*|[A-Za-z][A-Za-z0-9+.-]*)://[^/]+(/[0-9]+[^/]*)?$",
                example: "https://idp.example.com",
            }),
            absent: Absent::Means("nothing is reachable"),
            doc: "What it may connect to",
        },
        Key {
            name: "memory_max_mb",
            // A 32-bit guest cannot address more than 4 GiB.
            kind: Kind::Integer { min: 1, max: 4_096 },
            absent: Absent::Number(limits::MEMORY_MAX_MB),
            doc: "MiB of linear memory and tables of one instance",
        },
        Key {
            name: "fuel_per_sec",
            // Below 1000 an empty request takes minutes; 10^12 is far above what any core executes.
            kind: Kind::Integer {
                min: 1_000,
                max: 1_000_000_000_000,
            },
            absent: Absent::Means("not metered"),
            doc: "Fuel per second and replica: about one unit per Wasm instruction. A guest that has used it up waits, it is not ended",
        },
        Key {
            name: "epoch_timeout_ms",
            // An invocation that runs longer than an hour is a job.
            kind: Kind::Integer {
                min: 1,
                max: 3_600_000,
            },
            absent: Absent::Number(limits::EPOCH_TIMEOUT_MS),
            doc: "Milliseconds that one invocation may run; waiting does not count",
        },
        Key {
            name: "wall_timeout_ms",
            // A week: nothing that takes longer should hang on one connection or one process.
            kind: Kind::Integer {
                min: 1,
                max: 604_800_000,
            },
            absent: Absent::Number(limits::WALL_TIMEOUT_MS),
            doc: "Milliseconds that one invocation may take, waiting included; a job has 3_600_000 when absent",
        },
        Key {
            name: "max_concurrency",
            kind: Kind::Integer {
                min: 1,
                max: 10_000,
            },
            absent: Absent::Number(limits::MAX_CONCURRENCY as u64),
            doc: "Invocations at once per replica",
        },
        Key {
            name: "max_request_bytes",
            // 1 GiB: what the edge takes for any component.
            kind: Kind::Integer {
                min: 1,
                max: 1024 * 1024 * 1024,
            },
            absent: Absent::Number(limits::MAX_REQUEST_BYTES),
            doc: "Bytes of one request body",
        },
        Key {
            name: "max_response_bytes",
            // 1 TiB: no answer that means to end is longer.
            kind: Kind::Integer {
                min: 1,
                max: 1 << 40,
            },
            absent: Absent::Means("as long as it likes"),
            doc: "Bytes of the body of one answer",
        },
        Key {
            name: "websocket_idle_ms",
            // A day: what is silent for longer is nobody.
            kind: Kind::Integer {
                min: 1_000,
                max: 86_400_000,
            },
            absent: Absent::Number(limits::WEBSOCKET_IDLE_MS),
            doc: "Milliseconds that a WebSocket with a [server](#servers) may be silent in both directions until it is closed",
        },
        Key {
            name: "per_client",
            kind: Kind::Table(&PER_CLIENT),
            absent: Absent::Means("not counted"),
            doc: "Requests of one client that a node passes on; one more is refused with 429: [rates and rules](#rates-and-rules)",
        },
        Key {
            name: "rules",
            kind: Kind::Rows(&RULE),
            absent: Absent::Means("every request passes"),
            doc: "Which requests are refused before anything runs, in order",
        },
        Key {
            name: "cache",
            kind: Kind::Boolean,
            absent: Absent::Word("false"),
            doc: "Whether nodes keep those answers that say how long they are good, and give them to others who ask the same: [the cache](#the-cache)",
        },
        Key {
            name: "storage_max_mb",
            // A terabyte: what takes more has a server of its own.
            kind: Kind::Integer {
                min: 1,
                max: 1_048_576,
            },
            absent: Absent::Number(limits::STORAGE_MAX_MB),
            doc: "MiB that it may keep in each of its embedded stores; a server has quotas of its own",
        },
        Key {
            name: "operations_per_sec",
            kind: Kind::Integer {
                min: 1,
                max: 1_000_000,
            },
            absent: Absent::Means("not counted"),
            doc: "Operations on its stores per second, of its replicas on a node together; one more is refused",
        },
        Key {
            name: "bind",
            kind: Kind::TextTable(Form {
                expected: "the name of a binding",
                pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
                example: "cache",
            }),
            absent: Absent::Means("it opens no store"),
            doc: "What the guest opens by which name: `{ default = \"cache\" }`; `*` is every name that is not listed, `sql:default` the name of one interface alone; with `keyvalue:NAME` a binding of `wasi:config` is written into, with `config:NAME` one of `wasi:keyvalue` read as configuration",
        },
        Key {
            name: "subscribe",
            kind: Kind::Named(
                Form {
                    expected: "a topic, with `*` for one of its words and `>` for the last ones",
                    pattern: "^[A-Za-z0-9_.*>-]{1,255}$",
                    example: "orders.*",
                },
                &SUBSCRIBE,
            ),
            absent: Absent::Means("no message comes to it"),
            doc: "Topics whose messages call its `wasi:messaging/incoming-handler`",
        },
        Key {
            name: "watch",
            kind: Kind::Texts(Form {
                expected: "a name that `bind` lists",
                pattern: "^.{1,255}$",
                example: "default",
            }),
            absent: Absent::Means("no change comes to it"),
            doc: "Key-value stores whose changes call its `wasi:keyvalue/watcher`",
        },
        Key {
            name: "workflows",
            kind: Kind::Named(
                Form {
                    expected: "the name of a workflow",
                    pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
                    example: "order",
                },
                &WORKFLOW,
            ),
            absent: Absent::Means("it takes no runs"),
            doc: "Workflows whose runs call its `realm:cloud/workflow-handler`",
        },
        Key {
            name: "env",
            kind: Kind::TextTable(ANY),
            absent: Absent::Means("empty"),
            doc: "Environment variables. Readable by whoever reads this file: secrets belong under `[secrets]`",
        },
        Key {
            name: "vars",
            kind: Kind::TextTable(ANY),
            absent: Absent::Means("empty"),
            doc: "Configuration that the guest reads through `wasi:config/store`, before what a binding of `wasi:config` has under the same name",
        },
        Key {
            name: "singleton",
            kind: Kind::Boolean,
            absent: Absent::Word("false"),
            doc: "Whether it runs on one node of the realm at a time, and on none rather than on two: [the price](#singletons) is that it stays down where no majority of the nodes is reached",
        },
        Key {
            name: "restart",
            kind: Kind::OneOf(&["always", "on-failure", "never"]),
            absent: Absent::Means("`always`; for a job `on-failure`"),
            doc: "When a command that runs by itself is started again after it ends",
        },
        Key {
            name: "health",
            kind: Kind::TextOrTable(
                Form {
                    expected: "a path like `/healthz`, or `export`",
                    pattern: "^(export|/[!-~]*)$",
                    example: "/healthz",
                },
                &HEALTH,
            ),
            absent: Absent::Means("healthy once it is loaded"),
            doc: "How its health is asked: a path that it answers, `export` for the function of `realm:app/health`, or a table",
        },
        Key {
            name: "clock",
            kind: Kind::OneOf(&["none", "coarse", "precise"]),
            absent: Absent::Word("coarse"),
            doc: "The clocks it sees: standing still, 1 ms resolution, or the machine's own",
        },
        Key {
            name: "secrets",
            kind: Kind::Texts(NODE_NAME),
            absent: Absent::Means("none"),
            doc: "Names under `[secrets]` that it may open",
        },
    ],
};

/// `schedule = { … }`.
pub static SCHEDULE: Section = Section {
    title: "schedule = { … }",
    doc: "When a job runs, by the clock of a time zone.",
    keys: &[
        Key {
            name: "cron",
            kind: Kind::Text(Form {
                expected: "a cron form like `0 3 * * *`",
                pattern: "^[ -~]{1,256}$",
                example: "0 3 * * *",
            }),
            absent: Absent::Refused,
            doc: "Minute, hour, day of the month, month, day of the week; six fields begin with seconds; words like `@daily` are understood",
        },
        Key {
            name: "timezone",
            kind: Kind::Text(Form {
                expected: "a time zone like `Europe/Berlin`",
                pattern: "^[A-Za-z0-9_+/-]{1,64}$",
                example: "Europe/Berlin",
            }),
            absent: Absent::Word("UTC"),
            doc: "Whose clock counts",
        },
    ],
};

/// `health = { … }`.
pub static HEALTH: Section = Section {
    title: "health = { … }",
    doc: "A health check in full. It names either `path` or `export = true`.",
    keys: &[
        Key {
            name: "path",
            kind: Kind::Text(Form {
                expected: "a path like `/healthz`",
                pattern: "^/[!-~]*$",
                example: "/healthz",
            }),
            absent: Absent::Means("`export` must be `true`"),
            doc: "GET this path: an answer from 200 to 399 is healthy",
        },
        Key {
            name: "export",
            kind: Kind::Boolean,
            absent: Absent::Word("false"),
            doc: "Call the exported function of `realm:app/health`",
        },
        Key {
            name: "interval_ms",
            kind: Kind::Integer {
                min: 100,
                max: 3_600_000,
            },
            absent: Absent::Number(10_000),
            doc: "Milliseconds between questions",
        },
        Key {
            name: "timeout_ms",
            kind: Kind::Integer {
                min: 1,
                max: 60_000,
            },
            absent: Absent::Number(2_000),
            doc: "Milliseconds after which no answer is a bad one; at most `interval_ms`",
        },
        Key {
            name: "failures",
            kind: Kind::Integer { min: 1, max: 100 },
            absent: Absent::Number(3),
            doc: "Bad answers in a row until a replica is unhealthy",
        },
    ],
};

/// Every section, in the order of the reference.
pub static SECTIONS: [&Section; 12] = [
    &ROOT,
    &OWNER,
    &NODE,
    &COMPONENT,
    &PER_CLIENT,
    &RULE,
    &SUBSCRIBE,
    &WORKFLOW,
    &SCHEDULE,
    &HEALTH,
    &ROUTE,
    &BINDING,
];
