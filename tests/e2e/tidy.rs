//! Rules of the house that a compiler does not know: floors, the one home of each heavy
//! dependency, and what must stand in every crate.

use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Crate → the crates of this workspace that it may use. A new crate needs a line here, and a
/// reason in ARCHITECTURE.md.
const FLOORS: &[(&str, &[&str])] = &[
    ("realm-model", &[]),
    ("realm-control", &["realm-model"]),
    ("realm-store", &["realm-model"]),
    ("realm-host", &["realm-model"]),
    ("realm-edge", &["realm-model"]),
    ("realm-net", &["realm-model"]),
    ("realm-backends", &["realm-model"]),
    (
        "realm-node",
        &[
            "realm-model",
            "realm-control",
            "realm-store",
            "realm-host",
            "realm-edge",
            "realm-net",
            "realm-backends",
        ],
    ),
    (
        "realm",
        &[
            "realm-model",
            "realm-control",
            "realm-store",
            "realm-host",
            "realm-node",
        ],
    ),
    ("realm-test-guests", &[]),
    // Measures host and edge without the node between them.
    (
        "realm-bench-host",
        &["realm-model", "realm-host", "realm-edge"],
    ),
    (
        "realm-fuzz-checks",
        &["realm-model", "realm-store", "realm-host", "realm-edge"],
    ),
];

/// Dependencies that only these crates may name.
const HOMES: &[(&str, &[&str])] = &[
    ("wasmtime", &["realm-host"]),
    ("wasmtime-wasi", &["realm-host"]),
    ("wasmtime-wasi-http", &["realm-host"]),
    ("wasmparser", &["realm-host"]),
    ("ed25519-dalek", &["realm-model"]),
    ("minicbor", &["realm-model"]),
    ("toml", &["realm-model"]),
    ("croner", &["realm-model"]),
    ("reqwest", &["realm-store", "realm-backends"]),
    ("libp2p", &["realm-net"]),
    ("redb", &["realm-backends", "realm-bench-host"]),
    ("redis", &["realm-backends", "realm-bench-host"]),
    ("async-nats", &["realm-backends", "realm-bench-host"]),
    ("object_store", &["realm-backends", "realm-bench-host"]),
    ("rusqlite", &["realm-backends", "realm-bench-host"]),
    ("tokio-postgres", &["realm-backends", "realm-bench-host"]),
    ("aws-lc-rs", &["realm-backends", "realm-edge"]),
    ("lettre", &["realm-backends"]),
    ("chacha20poly1305", &["realm-backends"]),
    ("axum", &["realm-node"]),
    ("prometheus", &["realm-node"]),
    ("sysinfo", &["realm-node"]),
    ("clap", &["realm"]),
    ("age", &["realm", "realm-node"]),
    ("age-core", &["realm-node"]),
    ("bech32", &["realm-node"]),
    ("toml_edit", &["realm"]),
    (
        "hyper",
        &["realm-backends", "realm-edge", "realm-host", "realm-node"],
    ),
    ("anyhow", &["realm", "realm-node"]),
];

/// Crates of pure functions, and what they must not even name.
const PURE: &[&str] = &["realm-model", "realm-control"];
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper-util",
    "reqwest",
    "rustix",
    "tempfile",
    "getrandom",
    "tracing",
    "socket2",
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap()
}

/// What each is, and a call of it; whatever else there is to know stands beside it.
#[test]
fn the_small_apps_are_told_in_five_lines() {
    for name in ["guestbook", "gallery", "orders", "todo", "links"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}/README.md"));
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 5, "{name}: {lines:?}");
        assert_eq!(lines[0], format!("# {name}"));
        let call = lines[3].starts_with("$ curl ");
        assert!(
            call && lines[3].contains(&format!("localhost:8080/{name}/")),
            "{}",
            lines[3]
        );
    }
}

#[test]
fn crates_stand_on_their_floors() {
    for package in &metadata().packages {
        let Some((_, allowed)) = FLOORS
            .iter()
            .find(|(name, _)| package.name.as_str() == *name)
        else {
            panic!("`{}` has no line in FLOORS", package.name);
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|one| one.kind == DependencyKind::Normal)
        {
            let name = dependency.name.as_str();
            assert!(
                !name.starts_with("realm") || allowed.contains(&name),
                "`{}` must not depend on `{name}`",
                package.name
            );
            if let Some((_, homes)) = HOMES.iter().find(|(heavy, _)| *heavy == name) {
                assert!(
                    homes.contains(&package.name.as_str()),
                    "`{name}` is at home in {homes:?}, not in `{}`",
                    package.name
                );
            }
            assert!(
                !PURE.contains(&package.name.as_str()) || !IMPURE.contains(&name),
                "`{}` is pure and must not depend on `{name}`",
                package.name
            );
        }
    }
}

#[test]
fn every_dependency_is_named_in_the_sources() {
    for package in &metadata().packages {
        let root = package.manifest_path.parent().unwrap();
        let folders = |names: &[&str]| {
            let mut all = String::new();
            for name in names {
                let folder = root.join(name);
                if folder.is_dir() {
                    visit(folder.as_std_path(), &mut |_, text| all.push_str(text));
                }
            }
            all
        };
        let sources = folders(&["src"]);
        let tests = folders(&["src", "tests"]);
        for dependency in &package.dependencies {
            let code = match dependency.kind {
                DependencyKind::Normal => &sources,
                DependencyKind::Development => &tests,
                DependencyKind::Build | DependencyKind::Unknown => continue,
            };
            let name = dependency.rename.as_ref().unwrap_or(&dependency.name);
            assert!(
                names(code, &name.replace('-', "_")),
                "`{}` does not use `{name}`: remove it from its Cargo.toml",
                package.name
            );
        }
    }
}

/// Whether a line of code, not a comment, has the path `name::…`.
fn names(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let mut lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.any(|line| {
        line.match_indices(&path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|char| char.is_alphanumeric() || char == '_')
        })
    })
}

#[test]
fn every_dependency_says_why_it_is_there_and_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let table = text.split("[workspace.dependencies]\n").nth(1).unwrap();
    let table = table.split("\n[").next().unwrap();
    let packages = metadata().packages;
    let mut above = "";
    for line in table.lines() {
        if let Some((name, _)) = line.split_once(" = ") {
            let why = above.starts_with("# ") && !above.starts_with("# ---");
            assert!(why, "a line above `{name}` says why it is there");
            let mut dependencies = packages.iter().flat_map(|package| &package.dependencies);
            assert!(
                dependencies.any(|one| one.name == name),
                "nobody uses `{name}`"
            );
        }
        above = line;
    }
}

#[test]
fn every_crate_forbids_unsafe_code_and_opens_with_what_it_is() {
    for package in &metadata().packages {
        for target in package
            .targets
            .iter()
            .filter(|target| target.is_lib() || target.is_bin())
        {
            let text = std::fs::read_to_string(&target.src_path).unwrap();
            assert!(
                text.starts_with("//! "),
                "{} says what it is",
                target.src_path
            );
            let guarded = text.contains("#![forbid(unsafe_code)]")
                // The one file that loads compiled code is in the host.
                || (package.name == "realm-host" && text.contains("#![deny(unsafe_code)]"));
            assert!(guarded, "{} forbids unsafe code", target.src_path);
        }
    }
}

#[test]
fn unsafe_code_stands_in_one_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "crates", "tests/e2e"] {
        visit(&root.join(folder), &mut |path, text| {
            let code = |line: &&str| !line.trim_start().starts_with("//");
            if text
                .lines()
                .filter(code)
                .any(|line| line.contains("unsafe {") || line.contains("unsafe fn"))
            {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        });
    }
    // This file names the words it looks for.
    found.retain(|path| path != "tests/e2e/tidy.rs");
    assert_eq!(found, ["crates/realm-host/src/loading.rs"]);
}

#[test]
fn files_fit_a_head_and_open_with_what_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in [
        "src",
        "crates",
        "tests/e2e",
        "tests/guests/src",
        "tests/guests-build",
        "tests/sdks",
        "examples",
        "bench",
    ] {
        visit(&root.join(folder), &mut |path, text| {
            let lines = text.lines().count();
            assert!(lines <= 600, "{} has {lines} lines", path.display());
            assert!(
                text.starts_with("//!"),
                "{} says what it is in its first line",
                path.display()
            );
        });
    }
}

/// What plants failures in tests is compiled with debug assertions; `scripts/release.sh` looks for it
/// in the binary as well.
#[test]
fn a_release_has_no_debug_assertions() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let manifest = manifest.unwrap();
    let (_, release) = manifest.split_once("[profile.release]\n").unwrap();
    let keys = release.lines().take_while(|line| !line.starts_with('['));
    for key in keys {
        let changes = key.starts_with("debug-assertions") || key.starts_with("inherits");
        assert!(!changes, "{key}");
    }
}

#[test]
fn the_version_of_wasmtime_is_the_one_that_is_built_in() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let wanted = format!(
        "name = \"wasmtime\"\nversion = \"{}\"\n",
        realm_host::WASMTIME_VERSION
    );
    assert!(lock.contains(&wanted));
}

/// What docs/wasi-cloud.md counts, and what it says that shows it.
#[test]
fn each_building_block_that_is_covered_names_tests_and_the_count_is_theirs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/wasi-cloud.md")).unwrap();
    let guests = root.join("crates/realm-host/tests/guests");
    let mut of_guests = String::new();
    visit(&guests, &mut |_, text| of_guests.push_str(text));
    let (mut covered, mut part, mut none) = (0, 0, 0);
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        // Nothing before the first `|` and behind the last: seven cells.
        let &["", number, _, _, _, _, by, shown_by, ""] = &cells[..] else {
            continue;
        };
        let Ok(number) = number.parse::<usize>() else {
            continue;
        };
        assert_eq!(number, covered + part + none + 1, "{line}");
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        match (by.is_empty(), by.starts_with("*part*"), names.is_empty()) {
            (true, _, true) => none += 1,
            (false, true, true) => part += 1,
            (false, false, false) => covered += 1,
            _ => panic!("neither covered, nor part, nor none: {line}"),
        }
        for name in names {
            let text = match name.split_once("::") {
                Some((module, _)) => {
                    let file = root.join("tests/e2e").join(format!("{module}.rs"));
                    std::fs::read_to_string(&file)
                        .unwrap_or_else(|_| panic!("{number}: no {}", file.display()))
                }
                None => of_guests.clone(),
            };
            let test = name.rsplit("::").next().unwrap();
            assert!(is_test(&text, test), "{number}: no test `{name}`");
        }
    }
    let all = covered + part + none;
    let count = format!(
        "**The count**: {covered} of {all} are covered ({} %), {part} in part, {none} not at all.",
        (covered * 100 + all / 2) / all
    );
    assert!(all >= 46 && page.contains(&count), "the page says: {count}");
}

/// What docs/security.md says of limits and of bad neighbours: each row names tests that there are, who
/// is told a status has one end to end, and each kind of tests/neighbours has its row.
#[test]
fn each_limit_and_each_bad_neighbour_is_shown_by_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut of_crates = String::new();
    for folder in ["crates/realm-host", "crates/realm-node/src"] {
        visit(&root.join(folder), &mut |_, text| of_crates.push_str(text));
    }
    let source = |module: &str| {
        let file = root.join("tests/e2e").join(format!("{module}.rs"));
        std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("no {}", file.display()))
    };
    let quoted = |cell: &str| -> Vec<String> {
        let words = cell.split('`').skip(1).step_by(2);
        words.map(str::to_owned).collect()
    };
    let (mut limits, mut kinds) = (0, Vec::new());
    for line in page.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (status, shown_by) = match cells[..] {
            ["Limit" | "---" | "", ..] => continue,
            [_, _, _, status, shown_by] => {
                limits += 1;
                (Some(status), shown_by)
            }
            [kind, _, shown_by] if line.contains("`limits::") => {
                kinds.extend(quoted(kind));
                (None, shown_by)
            }
            _ => continue,
        };
        let names = quoted(shown_by);
        assert!(!names.is_empty(), "nothing shows it: {line}");
        for name in &names {
            let (text, test) = match name.split_once("::") {
                Some((module, test)) => (source(module), test),
                None => (of_crates.clone(), &**name),
            };
            assert!(is_test(&text, test), "no test `{name}`: {line}");
        }
        let status = status.filter(|status| status.starts_with(char::is_numeric));
        for code in status.map(quoted).unwrap_or_default() {
            assert!(
                names.iter().any(|name| name.starts_with("limits::")),
                "{line}"
            );
            let told = format!("code: \"{code}\"");
            let in_words = format!("\"{code}\", ");
            let text = source("limits");
            assert!(text.contains(&told) || text.contains(&in_words), "{line}");
        }
    }
    assert!(limits >= 15, "{limits} limits");
    let mut meant: Vec<&str> = crate::neighbours::bad::ALL
        .iter()
        .map(|bad| bad.name)
        .collect();
    meant.sort_unstable();
    kinds.sort_unstable();
    assert_eq!(kinds, meant);
}

/// Whether a source has a function of this name that is run as a test.
fn is_test(source: &str, name: &str) -> bool {
    let mut attributes = Vec::new();
    source.lines().map(str::trim).any(|line| {
        if line.starts_with("#[") {
            attributes.push(line);
            return false;
        }
        let is_it = line.contains(&format!("fn {name}("));
        let marked = attributes
            .iter()
            .any(|one| one.starts_with("#[test]") || one.starts_with("#[tokio::test"));
        attributes.clear();
        is_it && marked
    })
}

/// Calls `look` for every Rust file below `folder`, built ones left out.
fn visit(folder: &Path, look: &mut dyn FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                visit(&path, look);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}
