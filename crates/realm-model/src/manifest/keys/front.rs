//! The keys of what holds for requests before anybody answers them.

use crate::section::{Absent, Form, Key, Kind, Section};

/// The most that one client may ask for in a second, and in one go: beyond that nothing is limited.
const REQUESTS_MAX: u64 = 1_000_000;

/// `per_client = { … }`.
pub static PER_CLIENT: Section = Section {
    title: "per_client = { … }",
    doc: "A bucket of requests for each client: an IPv4 address, or a /64 of IPv6. The node where a request comes in counts it, and no other one does.",
    keys: &[
        Key {
            name: "requests_per_sec",
            kind: Kind::Integer {
                min: 1,
                max: REQUESTS_MAX,
            },
            absent: Absent::Refused,
            doc: "Requests that a client has more with each second",
        },
        Key {
            name: "burst",
            kind: Kind::Integer {
                min: 1,
                max: REQUESTS_MAX,
            },
            absent: Absent::Means("the same as `requests_per_sec`"),
            doc: "Requests that it may send at once, after a pause",
        },
    ],
};

/// `[[components.NAME.rules]]`.
pub static RULE: Section = Section {
    title: "[[components.NAME.rules]]",
    doc: "One rule. A request meets it that meets all of its conditions, each of them by one item; the first rule that is met decides.",
    keys: &[
        Key {
            name: "action",
            kind: Kind::OneOf(&["deny", "allow"]),
            absent: Absent::Refused,
            doc: "Whether the request is refused with 403, or passes whatever later rules say",
        },
        Key {
            name: "clients",
            kind: Kind::Texts(Form {
                expected: "an address or a CIDR block like `203.0.113.0/24`",
                pattern: "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
                example: "203.0.113.0/24",
            }),
            absent: Absent::Means("any client"),
            doc: "Where the client is: behind trusted proxies and web servers it is theirs, and not they",
        },
        Key {
            name: "hosts",
            kind: Kind::Texts(Form {
                expected: "a host like `shop.example.com` or `*.example.com`",
                pattern: "^(\\*\\.)?[^/*]+$",
                example: "admin.example.com",
            }),
            absent: Absent::Means("any host"),
            doc: "The host that is asked for, as routes match it",
        },
        Key {
            name: "methods",
            kind: Kind::Texts(Form {
                expected: "a method like `POST`",
                pattern: "^[A-Z][A-Z-]{0,31}$",
                example: "POST",
            }),
            absent: Absent::Means("any method"),
            doc: "The method; `HEAD` is one of its own",
        },
        Key {
            name: "paths",
            kind: Kind::Texts(Form {
                expected: "a path like `/health`, or a prefix like `/auth/...`",
                pattern: "^/[A-Za-z0-9/._~!$&'()+,;=:@*-]*$",
                example: "/admin/...",
            }),
            absent: Absent::Means("any path"),
            doc: "The path, as routes match it, in every way in which it may be read: `/%61dmin`, `//admin` and `/admin;x` are `/admin` as well",
        },
        Key {
            name: "headers",
            kind: Kind::TextTable(Form {
                expected: "a value, with a `*` at its beginning or end for anything that stands there",
                pattern: "^.{1,1024}$",
                example: "*bot*",
            }),
            absent: Absent::Means("any headers"),
            doc: "Headers by name, each of which must be met: `*` is any value, `*bot*` one with `bot` in it, whatever the case. They are those that the component sees",
        },
    ],
};
