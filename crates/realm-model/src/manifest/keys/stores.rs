//! The keys of bindings, subscriptions and workflows.

use super::{ANY, NODE_NAME, TIME};
use crate::binding::Backend;
use crate::section::{Absent, Form, Key, Kind, Section};

/// `[bindings.NAME]`.
pub static BINDING: Section = Section {
    title: "[bindings.NAME]",
    doc: "What stands behind an interface. Components that bind the same name share what is in it; others see nothing of it, but for [SQL of a server](wasi-cloud.md#databases-wasisql-and-realmcloudsql), which knows users alone.",
    keys: &[
        Key {
            name: "interface",
            kind: Kind::OneOf(&[
                "wasi:keyvalue",
                "wasi:blobstore",
                "wasi:messaging",
                "wasi:sql",
                "wasi:otel",
                "realm:cloud/keys",
                "realm:cloud/identity",
                "realm:cloud/mail",
                "realm:cloud/streams",
                "realm:cloud/workflows",
                "realm:cloud/inference",
                "wasi:config",
            ]),
            absent: Absent::Refused,
            doc: "What it is for",
        },
        Key {
            name: "backend",
            kind: Kind::Text(Form {
                expected: Backend::EXPECTED,
                pattern: "^(embedded|[a-z0-9+]+://.+)$",
                example: "redis://cache.internal:6379",
            }),
            absent: Absent::Refused,
            doc: "What stands behind it: a store of the node's own, or a server that the `node.toml` of each node allows",
        },
        Key {
            name: "prefix",
            kind: Kind::Text(Form {
                expected: "letters, digits, `-`, `_`, `.`, `:` and `/`",
                pattern: "^[A-Za-z0-9_.:/-]{0,128}$",
                example: "shop:",
            }),
            absent: Absent::Means("the name of the binding"),
            doc: "What stands before every name on a server, so that bindings do not meet there (of SQL before named databases and workflows alone); of keys and identities what tells those of one secret apart",
        },
        Key {
            name: "secret",
            kind: Kind::Text(NODE_NAME),
            absent: Absent::Means("no password"),
            doc: "The name under `[secrets]` of the password, of `USER:PASSWORD`, for S3 of `ACCESS_KEY_ID:SECRET`, for a collector of its headers, for an engine of models of its key or its headers, for keys and identities of their roots: 32 random bytes in base64, newest first, one to a line",
        },
        Key {
            name: "issuer",
            kind: Kind::Text(Form {
                expected: "the URL below which `/.well-known/jwks.json` is served",
                pattern: "^[!#-\\[\\]-~]{1,255}$",
                example: "https://shop.example.org",
            }),
            absent: Absent::Means("needed for an identity, without effect elsewhere"),
            doc: "Who signs, as the tokens of an identity say",
        },
        Key {
            name: "senders",
            kind: Kind::Texts(Form {
                expected: "addresses like `shop@example.org`, and `*@example.org` for a whole domain",
                pattern: "^[^@\\s]+@[A-Za-z0-9.-]+$",
                example: "shop@example.org",
            }),
            absent: Absent::Means("needed for mail, without effect elsewhere"),
            doc: "As whom mail may be sent",
        },
        Key {
            name: "model",
            kind: Kind::Text(Form {
                expected: "letters, digits, `-`, `_`, `.`, `:`, `/`, `@` and `+`",
                pattern: "^[A-Za-z0-9_.:/@+-]{1,255}$",
                example: "llama3.2:3b",
            }),
            absent: Absent::Means("needed for inference, without effect elsewhere"),
            doc: "The model, as its engine calls it",
        },
        Key {
            name: "events",
            kind: Kind::Text(Form {
                expected: "the name of a binding of `wasi:messaging`, `/` and a topic",
                pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]{1,255}$",
                example: "queue/objects.changed",
            }),
            absent: Absent::Means("nobody is told"),
            doc: "Of objects: the topic to which each change of one is told, as JSON, before the guest that made it hears that it is done",
        },
        Key {
            name: "keep_hours",
            // A hundred years.
            kind: Kind::Integer {
                min: 1,
                max: 876_000,
            },
            absent: Absent::Means("records stay, whatever their age"),
            doc: "Of streams: hours after which records go",
        },
        Key {
            name: "keep_mb",
            kind: Kind::Integer {
                min: 1,
                max: 1_048_576,
            },
            absent: Absent::Means("no record goes for a new one"),
            doc: "Of streams: MiB of each; its oldest records go for new ones",
        },
    ],
};

/// `[components.NAME.subscribe."TOPIC"]`.
pub static SUBSCRIBE: Section = Section {
    title: "[components.NAME.subscribe.\"TOPIC\"]",
    doc: "A topic whose messages call the component, each until it is done with or dead.",
    keys: &[
        Key {
            name: "from",
            kind: Kind::Text(ANY),
            absent: Absent::Word("default"),
            doc: "The name in `bind` of the messaging that they come from",
        },
        Key {
            name: "group",
            kind: Kind::Text(NODE_NAME),
            absent: Absent::Means("the component's name, without its label"),
            doc: "Who shares the messages: each goes to one of a group, and to every group",
        },
        Key {
            name: "concurrency",
            kind: Kind::Integer { min: 1, max: 1_000 },
            absent: Absent::Number(8),
            doc: "Messages under way at once, for each replica",
        },
        Key {
            name: "ack_wait",
            kind: Kind::Text(TIME),
            absent: Absent::Word("30s"),
            doc: "How long a replica that says nothing has a message until another one gets it, from `1s` to `1h`",
        },
        Key {
            name: "attempts",
            kind: Kind::Integer { min: 1, max: 100 },
            absent: Absent::Number(5),
            doc: "Deliveries of one message until it is dead",
        },
        Key {
            name: "backoff",
            kind: Kind::Text(TIME),
            absent: Absent::Word("1s"),
            doc: "How long until the second delivery; twice as long with each further one, up to an hour",
        },
        Key {
            name: "dead_letter",
            kind: Kind::Text(Form {
                expected: "a topic like `orders.dead`",
                pattern: "^[A-Za-z0-9_.-]{1,255}$",
                example: "orders.dead",
            }),
            absent: Absent::Means(
                "it is counted, logged, and among the last 1,000 that are kept beside the queue",
            ),
            doc: "The topic to which dead messages go as well",
        },
        Key {
            name: "where",
            kind: Kind::Rules(Form {
                expected: "a field in quotes: `topic`, `content_type`, `metadata.KEY`, `body` or `body.PATH`",
                pattern: "^(topic|content_type|metadata\\..+|body|body\\..+)$",
                example: "body.total",
            }),
            absent: Absent::Means("every message"),
            doc: "Which messages it takes: [rules](wasi-cloud.md#rules), all of which hold, each a value, one of `{ equals, prefix, suffix, above, below, exists, not }`, or a list of which one fits. Others are done at once",
        },
    ],
};

/// `[components.NAME.workflows.WORKFLOW]`.
pub static WORKFLOW: Section = Section {
    title: "[components.NAME.workflows.WORKFLOW]",
    doc: "A workflow whose runs the component takes, each until it is done or has failed.",
    keys: &[
        Key {
            name: "from",
            kind: Kind::Text(ANY),
            absent: Absent::Word("default"),
            doc: "The name in `bind` of the workflows that they come from",
        },
        Key {
            name: "concurrency",
            kind: Kind::Integer { min: 1, max: 1_000 },
            absent: Absent::Number(8),
            doc: "Runs under way at once, for each replica; those that wait for a time or a signal are not",
        },
        Key {
            name: "lease",
            kind: Kind::Text(TIME),
            absent: Absent::Word("30s"),
            doc: "How long a replica that says nothing has a run until another one gets it, from `1s` to `1h`",
        },
        Key {
            name: "attempts",
            kind: Kind::Integer { min: 1, max: 1_000 },
            absent: Absent::Number(20),
            doc: "Failures in a row, without a step forward, until a run has failed",
        },
        Key {
            name: "backoff",
            kind: Kind::Text(TIME),
            absent: Absent::Word("1s"),
            doc: "How long until the second attempt; twice as long with each further one, up to an hour",
        },
    ],
};
