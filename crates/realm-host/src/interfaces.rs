//! Which interfaces this version of realm provides, and what to do about the others.
//!
//! One table for `inspect` and for the error at load, so that both say the same. It lists what
//! `state::linker` links: a component that imports only what is listed here, and does not link,
//! is a mistake in this table.

use realm_model::text::one_line;

/// Characters of a name in a list or a message; the longest of WASI's has 40. A component may
/// have names of 100,000, and a core module any characters in them.
const NAME_CHARS_MAX: usize = 200;

/// A name as it is shown. One that realm knows stays as it is.
pub(crate) fn shown(name: &str) -> String {
    one_line(name, NAME_CHARS_MAX)
}

/// One package in one line of versions.
struct Package {
    name: &'static str,
    interfaces: &'static [&'static str],
    line: Line,
}

/// The versions that are served alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// `0.2.0` and every later patch release.
    V02,
    /// `0.3.0` and every later patch release; no release candidates.
    V03,
    /// One version: pre-releases match exactly.
    Exactly(&'static str),
}

const CLI: &[&str] = &[
    "environment",
    "exit",
    "stdin",
    "stdout",
    "stderr",
    "terminal-input",
    "terminal-output",
    "terminal-stdin",
    "terminal-stdout",
    "terminal-stderr",
];

const PROVIDED: &[Package] = &[
    package("wasi:io", &["error", "poll", "streams"], Line::V02),
    package("wasi:cli", CLI, Line::V02),
    package("wasi:clocks", &["monotonic-clock", "wall-clock"], Line::V02),
    package("wasi:filesystem", &["preopens", "types"], Line::V02),
    package(
        "wasi:random",
        &["insecure", "insecure-seed", "random"],
        Line::V02,
    ),
    package(
        "wasi:sockets",
        &[
            "instance-network",
            "ip-name-lookup",
            "network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
        Line::V02,
    ),
    package("wasi:http", &["outgoing-handler", "types"], Line::V02),
    package("wasi:cli", CLI, Line::V03),
    package("wasi:cli", &["types"], Line::V03),
    package(
        "wasi:clocks",
        &["monotonic-clock", "system-clock", "types"],
        Line::V03,
    ),
    package("wasi:filesystem", &["preopens", "types"], Line::V03),
    package(
        "wasi:random",
        &["insecure", "insecure-seed", "random"],
        Line::V03,
    ),
    package("wasi:sockets", &["ip-name-lookup", "types"], Line::V03),
    package("wasi:http", &["client", "types"], Line::V03),
    package(
        "wasi:messaging",
        &["types", "producer", "request-reply"],
        Line::Exactly("0.2.0-draft"),
    ),
    package("realm:cloud", &["timers"], Line::Exactly("0.1.0")),
    package(
        "realm:cloud",
        &[
            "identity",
            "inference",
            "keys",
            "mail",
            "streams",
            "workflows",
        ],
        Line::Exactly("0.1.0"),
    ),
    package("fermyon:spin", &["llm"], Line::Exactly("2.0.0")),
    package("wasi:config", &["store"], Line::Exactly("0.2.0-rc.1")),
    package("wasi:config", &["store"], Line::Exactly("0.2.0-draft")),
    package(
        "wasi:config",
        &["store"],
        Line::Exactly("0.2.0-draft-2024-09-27"),
    ),
    package(
        "wasi:sql",
        &["readwrite", "types"],
        Line::Exactly("0.2.0-draft"),
    ),
    package("realm:cloud", DATABASES, Line::Exactly("0.1.0")),
    package("wasi:keyvalue", KEYVALUE, Line::Exactly("0.2.0-draft")),
    package("wasi:keyvalue", KEYVALUE, Line::Exactly("0.2.0-draft2")),
    package("spin:key-value", &["key-value"], Line::Exactly("3.0.0")),
    package(
        "realm:cloud",
        &["locks", "transactions", "ttl"],
        Line::Exactly("0.1.0"),
    ),
    package(
        "wasi:blobstore",
        &["blobstore", "container", "types"],
        Line::Exactly("0.2.0-draft"),
    ),
    package("wasi:logging", &["logging"], Line::Exactly("0.1.0-draft")),
    package("wasi:logging", &["logging"], Line::Exactly("")),
    package(
        "wasi:otel",
        &["logs", "metrics", "tracing", "types"],
        Line::Exactly("0.2.0-rc.2"),
    ),
    package(
        "wasmcloud:secrets",
        &["reveal", "secret", "store"],
        Line::Exactly("2.1.0"),
    ),
    package(
        "wasmcloud:secrets",
        &["reveal", "store"],
        Line::Exactly("0.1.0-draft"),
    ),
];

const DATABASES: &[&str] = &["documents", "search", "sql", "vectors"];

const KEYVALUE: &[&str] = &["atomics", "batch", "store"];

const fn package(name: &'static str, interfaces: &'static [&'static str], line: Line) -> Package {
    Package {
        name,
        interfaces,
        line,
    }
}

/// `wasi:http/types@0.2.6` in its parts; anything else is no interface name.
pub(crate) struct Name<'a> {
    /// `wasi:http`.
    pub(crate) package: &'a str,
    /// `types`.
    pub(crate) interface: &'a str,
    /// `0.2.6`; empty if there is none.
    pub(crate) version: &'a str,
}

impl<'a> Name<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (path, version) = text.split_once('@').unwrap_or((text, ""));
        let (package, interface) = path.split_once('/')?;
        package.contains(':').then_some(Self {
            package,
            interface,
            version,
        })
    }

    /// Whether it is `path` in a version that is compatible with the release line `line`
    /// (`"0.2"`).
    pub(crate) fn is(&self, path: &str, line: &str) -> bool {
        path.split_once('/') == Some((self.package, self.interface))
            && is_release_of(self.version, line)
    }
}

impl Line {
    fn has(self, version: &str) -> bool {
        match self {
            Self::V02 => is_release_of(version, "0.2"),
            Self::V03 => is_release_of(version, "0.3"),
            Self::Exactly(only) => version == only,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::V02 => "0.2.x",
            Self::V03 => "0.3.x",
            Self::Exactly("") => "no version",
            Self::Exactly(only) => only,
        }
    }
}

/// Whether `version` is `line` and a patch number, without a pre-release part.
pub(crate) fn is_release_of(version: &str, line: &str) -> bool {
    version
        .strip_prefix(line)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether an import of this name is provided.
pub(crate) fn provided(import: &str) -> bool {
    Name::parse(import).is_some_and(|name| of(&name).any(|package| package.line.has(name.version)))
}

/// Packages that have this interface, in whatever version.
fn of<'a>(name: &'a Name<'a>) -> impl Iterator<Item = &'static Package> + 'a {
    PROVIDED.iter().filter(|package| {
        package.name == name.package && package.interfaces.contains(&name.interface)
    })
}

/// Every interface that is served in one version alone, with that.
#[cfg(test)]
pub(crate) fn exactly_provided() -> impl Iterator<Item = String> {
    PROVIDED.iter().flat_map(|package| {
        let version = match package.line {
            Line::V02 | Line::V03 => None,
            Line::Exactly("") => Some(String::new()),
            Line::Exactly(version) => Some(format!("@{version}")),
        };
        let interfaces = package.interfaces.iter();
        interfaces.filter_map(move |interface| {
            let version = version.as_ref()?;
            Some(format!("{}/{interface}{version}", package.name))
        })
    })
}

/// The versions of this interface that are provided; empty: none.
pub(crate) fn versions(import: &str) -> String {
    let Some(name) = Name::parse(import) else {
        return String::new();
    };
    let versions: Vec<_> = of(&name).map(|package| package.line.text()).collect();
    versions.join(" and ")
}

/// What to do about an import that is not provided.
pub(crate) fn advice(import: &str) -> String {
    let import = &shown(import);
    let Some(name) = Name::parse(import) else {
        return "not an interface: the host provides only interfaces; compose the component with one that exports it (`wac plug`)".to_owned();
    };
    let versions = versions(import);
    if !versions.is_empty() {
        return format!(
            "realm has {}/{} in {versions}: build the component with bindings of that version",
            name.package, name.interface,
        );
    }
    let others: Vec<_> = PROVIDED
        .iter()
        .filter(|package| package.name == name.package)
        .flat_map(|package| package.interfaces)
        .copied()
        .collect();
    if others.is_empty() {
        return format!(
            "realm has no {}: build the component without it, or compose it with one that exports it (`wac plug`)",
            name.package
        );
    }
    format!(
        "realm has no {}/{}, only {}",
        name.package,
        name.interface,
        others.join(", ")
    )
}

/// What the manifest must grant so that a provided import reaches anything.
pub(crate) fn grant(import: &str) -> Option<&'static str> {
    let name = Name::parse(import)?;
    match (name.package, name.interface) {
        ("wasi:http", "outgoing-handler" | "client") => {
            Some("reaches only what `allowed_outbound` names")
        }
        ("wasi:filesystem", _) => Some("reaches only what `dirs` names"),
        ("wasi:cli", "environment") => Some("holds only what `env` and `args` name"),
        ("wasi:config", _) => {
            Some("holds only what `vars` names, and the store that `bind` names for it")
        }
        ("wasi:keyvalue", "store") | ("spin:key-value", _) => Some("opens only what `bind` names"),
        ("wasi:blobstore", _) => Some("opens only the containers that `bind` names"),
        ("wasi:messaging", _) | ("realm:cloud", "timers") => Some("reaches only what `bind` names"),
        ("wasmcloud:secrets", _) => Some("holds only what `secrets` names"),
        ("wasi:otel", "metrics" | "tracing") => Some("reaches only what `bind` names"),
        ("wasi:otel", "logs") => Some("goes to the component's log unless `bind` says otherwise"),
        ("wasi:sql", _) | ("realm:cloud", "keys" | "identity" | "workflows") => {
            Some("opens only what `bind` names")
        }
        ("realm:cloud", "mail") => Some("sends only through what `bind` names"),
        ("realm:cloud", "inference") | ("fermyon:spin", "llm") => {
            Some("asks only the models that `bind` names")
        }
        ("realm:cloud", one) if DATABASES.contains(&one) => Some("opens only what `bind` names"),
        ("wasi:clocks", "monotonic-clock" | "wall-clock" | "system-clock") => {
            Some("1 ms resolution unless `clock` says otherwise")
        }
        ("wasi:sockets", "ip-name-lookup") => Some(
            "looks up only names of `allowed_outbound` rules for sockets (`tcp://`, `udp://`, `postgres://`, ..)",
        ),
        ("wasi:sockets", "types" | "tcp" | "udp" | "tcp-create-socket" | "udp-create-socket") => {
            Some(
                "reaches only what `allowed_outbound` names (`tcp://`, `udp://`, `postgres://`, ..)",
            )
        }
        _ => None,
    }
}

/// A component that imports a function without parameters that gives a `u64` from this interface.
#[cfg(test)]
pub(crate) fn importing(interface: &str, function_name: &str) -> Vec<u8> {
    fn named(name: &str) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        [&[0, length], name.as_bytes()].concat()
    }
    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id, u8::try_from(content.len()).unwrap()], content].concat()
    }
    // One instance type of two declarations: a function's type, and an export of it.
    let function = [0x01, 0x40, 0x00, 0x00, 0x77];
    let export = [&[0x04][..], &named(function_name), &[0x01, 0x00]].concat();
    let types = [&[0x01, 0x42, 0x02][..], &function, &export].concat();
    let imports = [&[0x01][..], &named(interface), &[0x05, 0x00]].concat();
    let head = b"\0asm\x0d\0\x01\0".to_vec();
    [head, section(7, &types), section(10, &imports)].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wasmtime::component::{Component, Linker};
    use wasmtime::{Engine, Module};

    use super::*;
    use crate::engine::{Kind, code_settings};
    use crate::state::{self, State};

    /// The kind of engine that every interface is linked for.
    const EVERYTHING: Kind = Kind {
        fuel: false,
        concurrent: true,
    };

    #[test]
    fn release_lines_match_any_patch_and_no_candidate() {
        for import in [
            "wasi:http/types@0.2.0",
            "wasi:http/types@0.2.12",
            "wasi:http/client@0.3.0",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:config/store@0.2.0-draft",
            "wasi:config/store@0.2.0-draft-2024-09-27",
            "wasi:sql/readwrite@0.2.0-draft",
            "realm:cloud/sql@0.1.0",
            "realm:cloud/documents@0.1.0",
            "realm:cloud/search@0.1.0",
            "realm:cloud/vectors@0.1.0",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "spin:key-value/key-value@3.0.0",
            "realm:cloud/ttl@0.1.0",
            "realm:cloud/keys@0.1.0",
            "realm:cloud/identity@0.1.0",
            "realm:cloud/mail@0.1.0",
            "realm:cloud/workflows@0.1.0",
            "realm:cloud/inference@0.1.0",
            "fermyon:spin/llm@2.0.0",
        ] {
            assert!(provided(import), "{import}");
        }
        for import in [
            "wasi:http/types@0.2.0-rc-2023-11-10",
            "wasi:http/client@0.3.0-rc-2026-03-15",
            "wasi:http/types@0.1.0",
            "wasi:http/types",
            "wasi:http/types@0.2.",
            "wasi:config/store@0.2.0-draft2",
            "wasi:config/runtime@0.2.0-draft",
            "wasi:keyvalue/store@0.2.0-draft3",
            "wasi:keyvalue/watcher@0.2.0-draft",
            "env",
            "",
        ] {
            assert!(!provided(import), "{import}");
        }
    }

    #[test]
    fn advice_names_what_there_is() {
        assert!(advice("wasi:http/types@0.3.0-rc-2026-03-15").contains("0.2.x and 0.3.x"));
        assert!(advice("wasi:http/tunnel@0.2.0").contains("outgoing-handler"));
        assert!(advice("wasi:nn/graph@0.2.0").contains("realm has no wasi:nn"));
        assert!(advice("log").contains("wac plug"));
    }

    /// Interfaces that this table does not list, though they exist: WASI's own, and drafts.
    const OTHERS: &[&str] = &[
        "wasi:cli/command",
        "wasi:cli/run",
        "wasi:cli/types",
        "wasi:clocks/monotonic-clock",
        "wasi:clocks/system-clock",
        "wasi:clocks/timezone",
        "wasi:clocks/types",
        "wasi:clocks/wall-clock",
        "wasi:config/runtime",
        "wasi:config/store",
        "wasi:filesystem/preopens",
        "wasi:filesystem/types",
        "wasi:http/client",
        "wasi:http/handler",
        "wasi:http/incoming-handler",
        "wasi:http/outgoing-handler",
        "wasi:http/types",
        "wasi:io/error",
        "wasi:io/poll",
        "wasi:io/streams",
        "wasi:keyvalue/watcher",
        "wasi:logging/logging",
        "wasi:nn/graph",
        "wasi:sockets/instance-network",
        "wasi:sockets/ip-name-lookup",
        "wasi:sockets/network",
        "wasi:sockets/tcp",
        "wasi:sockets/tcp-create-socket",
        "wasi:sockets/types",
        "wasi:sockets/udp",
        "wasi:sockets/udp-create-socket",
        "wasi:sql/types",
        "wasi:tls/types",
    ];

    /// Interfaces without a function or a resource: nothing of them is linked, or has to be.
    const TYPES_ONLY: &[&str] = &["wasi:cli/types@0.3.0", "wasi:clocks/types@0.3.0"];

    /// Whether the linker has an interface of exactly this name.
    ///
    /// It cannot be asked, but it refuses to define a name twice.
    fn linked(linker: &mut Linker<State>, empty: &Module, name: &str) -> bool {
        linker.root().module(name, empty).is_err()
    }

    #[test]
    fn the_table_lists_what_is_linked_and_nothing_else() {
        let engine = Engine::new(&code_settings(EVERYTHING)).unwrap();
        let empty = Module::new(&engine, b"\0asm\x01\0\0\0").unwrap();
        let mut linker = state::linker(&engine, EVERYTHING).unwrap();
        let listed = PROVIDED.iter().flat_map(|package| {
            let interfaces = package.interfaces.iter();
            interfaces.map(|interface| format!("{}/{interface}", package.name))
        });
        let names = listed.chain(OTHERS.iter().map(|name| (*name).to_owned()));
        for name in names.collect::<BTreeSet<_>>() {
            for line in ["0.1", "0.2", "0.3", "0.4"] {
                let linked = (0..40)
                    .any(|patch| linked(&mut linker, &empty, &format!("{name}@{line}.{patch}")));
                let name = format!("{name}@{line}.0");
                let expected = linked || TYPES_ONLY.contains(&name.as_str());
                assert_eq!(provided(&name), expected, "{name}");
            }
            let linked_plain = linked(&mut linker, &empty, &name);
            assert_eq!(provided(&name), linked_plain, "{name}");
            for version in [
                "0.1.0-draft",
                "2.0.0",
                "2.1.0",
                "0.2.0-rc.1",
                "0.2.0-rc.2",
                "0.2.0-draft",
                "0.2.0-draft2",
                "0.2.0-draft-2024-09-27",
            ] {
                let name = format!("{name}@{version}");
                let linked = linked(&mut linker, &empty, &name);
                assert_eq!(provided(&name), linked, "{name}");
            }
        }
    }

    #[test]
    fn every_release_of_a_line_links() {
        let engine = Engine::new(&code_settings(EVERYTHING)).unwrap();
        let linker = state::linker(&engine, EVERYTHING).unwrap();
        for version in [
            "0.2.0",
            "0.2.3",
            "0.2.6",
            "0.2.12",
            "0.2.99",
            "0.3.0",
            "0.3.1",
            "0.3.99",
            "0.1.0",
            "0.4.0",
            "0.2.0-rc-2023-11-10",
            "0.3.0-rc-2026-03-15",
        ] {
            let name = format!("wasi:random/random@{version}");
            let component = Component::new(&engine, importing(&name, "get-random-u64")).unwrap();
            let linked = linker.instantiate_pre(&component);
            assert_eq!(linked.is_ok(), provided(&name), "{name} {:?}", linked.err());
        }
    }
}
