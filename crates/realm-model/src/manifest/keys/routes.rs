//! The keys of routes.

use super::{LABEL, NAME, SHARE, TIME};
use crate::manifest::{REPLICAS_MAX, WEIGHT_MAX};
use crate::section::{Absent, Form, Key, Kind, Section};

/// One line of a list under `[routing]`.
pub static ROUTE: Section = Section {
    title: "routing.\"NAME\" = [{ … }]",
    doc: "One route. The key is a node's name, `tag:NAME` for the nodes with a tag, or `*` for all nodes.",
    keys: &[
        Key {
            name: "path",
            kind: Kind::Text(Form {
                expected: "a path like `/health`, or a prefix like `/auth/...`",
                pattern: "^/[A-Za-z0-9/._~!$&'()+,;=:@*-]*$",
                example: "/auth/...",
            }),
            absent: Absent::Refused,
            doc: "`/auth/...` is `/auth`, `/auth/` and all below it; any other path is itself alone",
        },
        Key {
            name: "host",
            kind: Kind::Text(Form {
                expected: "a host like `shop.example.com` or `*.example.com`",
                pattern: "^(\\*\\.)?[^/*]+$",
                example: "shop.example.com",
            }),
            absent: Absent::Means("every host"),
            doc: "The host that a request must name, without a port; `*.example.com` is every name below `example.com`",
        },
        Key {
            name: "component",
            kind: Kind::Text(NAME),
            absent: Absent::Refused,
            doc: "The component that answers: a name under `[components]`; beside `weights` the app, without a label",
        },
        Key {
            name: "weights",
            kind: Kind::IntegerTable {
                min: 0,
                max: WEIGHT_MAX as u64,
                names: LABEL,
            },
            absent: Absent::Means("the component answers alone"),
            doc: "Divides the requests between versions: `{ blue = 90, green = 10 }` gives `orders@blue` nine of ten. One with 0 runs and waits. Until the next change of this key, `realm promote` decides",
        },
        Key {
            name: "replicas",
            kind: Kind::Integer {
                min: 1,
                max: REPLICAS_MAX as u64,
            },
            absent: Absent::Number(1),
            doc: "Replicas of the component on these nodes together; like the keys below, it holds for all routes of the component in the list: the others may leave it out, and must not differ",
        },
        Key {
            name: "per_node",
            kind: Kind::Boolean,
            absent: Absent::Word("false"),
            doc: "Whether each of these nodes has so many replicas",
        },
        Key {
            name: "max_surge",
            kind: Kind::IntegerOrText {
                min: 0,
                max: REPLICAS_MAX as u64,
                form: SHARE,
            },
            absent: Absent::Word("25%"),
            doc: "Replicas in addition while a version replaces another; a share rounds up",
        },
        Key {
            name: "max_unavailable",
            kind: Kind::IntegerOrText {
                min: 0,
                max: REPLICAS_MAX as u64,
                form: SHARE,
            },
            absent: Absent::Number(0),
            doc: "Replicas that may be missing while a version replaces another; a share rounds down",
        },
        Key {
            name: "min_ready",
            kind: Kind::Text(TIME),
            absent: Absent::Word("2s"),
            doc: "How long a new replica is healthy before the next ones are replaced, up to `1h`",
        },
        Key {
            name: "progress_deadline",
            kind: Kind::Text(TIME),
            absent: Absent::Word("10m"),
            doc: "How long one replica of a new version is tried without getting healthy until the rollout has failed, from `1s` to `24h`",
        },
        Key {
            name: "on_fail",
            kind: Kind::OneOf(&["halt", "revert"]),
            absent: Absent::Word("halt"),
            doc: "What follows then: it stands still, or the version before comes back",
        },
        Key {
            name: "lost_after",
            kind: Kind::Text(TIME),
            absent: Absent::Word("30s"),
            doc: "How long a node is not reached before others have its replicas, from `1s` to `24h`",
        },
    ],
};
