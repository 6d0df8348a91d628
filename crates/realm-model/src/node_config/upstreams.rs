//! `[upstreams]`: to which services beside realm a node passes requests on, and how much it takes of what
//! they say. Not where a component's service is: the manifest says that.

use serde::{Deserialize, Serialize};

use super::{bad, section};
use crate::fields::{Fields, Report};
use crate::manifest::without_duplicates;
use crate::section::{Absent, Form, Key, Kind, Section};
use crate::upstream::{Allowed, NotARule};

/// `[upstreams]`.
pub(super) static UPSTREAMS: Section = Section {
    title: "[upstreams]",
    doc: "To which services beside realm the node passes requests on at most, and how much it takes of what they say.",
    keys: &[
        Key {
            name: "allow",
            kind: Kind::Texts(Form {
                expected: NotARule::EXPECTED,
                pattern: "^(unix:/.+|[0-9.]+(/[0-9]{1,2})?:[0-9]{1,5}|\\[[0-9A-Fa-f:.]+(/[0-9]{1,3})?\\]:[0-9]{1,5})$",
                example: "unix:/run/php/php-fpm.sock",
            }),
            absent: Absent::Means("none"),
            doc: "Sockets and addresses that the `upstream` of a component may name; of a host name, each address that it has is looked at",
        },
        Key {
            name: "connect_timeout_ms",
            kind: Kind::Integer {
                min: 100,
                max: 60_000,
            },
            absent: Absent::Number(5_000),
            doc: "How long a service may take to take a connection",
        },
        Key {
            name: "kept_ms_max",
            kind: Kind::Integer {
                min: 100,
                max: 600_000,
            },
            absent: Absent::Number(4_000),
            doc: "How long a connection that nobody uses is kept (`keep_connections`): less than the service keeps it",
        },
        Key {
            name: "head_bytes_max",
            kind: Kind::Integer {
                min: 8_192,
                max: 1_048_576,
            },
            absent: Absent::Number(65_536),
            doc: "Bytes of the head of an answer; with more it is 502 `bad-response`",
        },
        Key {
            name: "head_fields_max",
            kind: Kind::Integer {
                min: 16,
                max: 4_096,
            },
            absent: Absent::Number(256),
            doc: "Fields of such a head",
        },
        Key {
            name: "collected_bytes_max",
            kind: Kind::Integer {
                min: 0,
                max: 67_108_864,
            },
            absent: Absent::Number(1_048_576),
            doc: "FastCGI: bytes of a request's body without a length that are collected to count them; with more the answer is 411",
        },
        Key {
            name: "log_bytes_max",
            kind: Kind::Integer {
                min: 0,
                max: 1_048_576,
            },
            absent: Absent::Number(65_536),
            doc: "FastCGI: bytes for the log (`realm logs`) that one request may make the application say",
        },
    ],
};

/// To which services a node passes requests on at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamPolicy {
    /// Sockets and addresses; empty: none.
    pub allow: Vec<Allowed>,
    /// How long a service may take to take a connection.
    pub connect_timeout_ms: u32,
    /// How long a connection that nobody uses is kept.
    pub kept_ms_max: u32,
    /// Bytes of the head of an answer.
    pub head_bytes_max: u32,
    /// Fields of such a head.
    pub head_fields_max: u32,
    /// FastCGI: bytes of a body without a length that are collected.
    pub collected_bytes_max: u32,
    /// FastCGI: bytes for the log that one request may make the application say.
    pub log_bytes_max: u32,
}

impl Default for UpstreamPolicy {
    fn default() -> Self {
        let number = |name| u32::try_from(UPSTREAMS.default_of(name)).expect("it fits 32 bits");
        Self {
            allow: Vec::new(),
            connect_timeout_ms: number("connect_timeout_ms"),
            kept_ms_max: number("kept_ms_max"),
            head_bytes_max: number("head_bytes_max"),
            head_fields_max: number("head_fields_max"),
            collected_bytes_max: number("collected_bytes_max"),
            log_bytes_max: number("log_bytes_max"),
        }
    }
}

/// `[upstreams]`.
pub(super) fn read(report: &mut Report<'_>, root: &Fields<'_, '_>) -> UpstreamPolicy {
    let Some(upstreams) = section(report, root, "upstreams", &UPSTREAMS) else {
        return UpstreamPolicy::default();
    };
    let allow = upstreams.texts(report, "allow", |text| {
        text.parse()
            .map_err(|NotARule| bad(text, NotARule::EXPECTED).hint(NotARule::hint(text)))
    });
    UpstreamPolicy {
        allow: without_duplicates(report, "allow", allow),
        connect_timeout_ms: upstreams.number_u32(report, "connect_timeout_ms"),
        kept_ms_max: upstreams.number_u32(report, "kept_ms_max"),
        head_bytes_max: upstreams.number_u32(report, "head_bytes_max"),
        head_fields_max: upstreams.number_u32(report, "head_fields_max"),
        collected_bytes_max: upstreams.number_u32(report, "collected_bytes_max"),
        log_bytes_max: upstreams.number_u32(report, "log_bytes_max"),
    }
}
