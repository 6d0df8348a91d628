//! The worlds of /wit, held to what is provided: who builds for one of them can be run.

use std::collections::BTreeSet;
use std::path::Path;

use wit_parser::{Resolve, WorldItem, WorldKey};

use crate::interfaces::{exactly_provided, provided};

/// Versions that no world for new apps has: there is a later one.
fn is_older(name: &str) -> bool {
    const OLDER: [&str; 6] = [
        "wasi:keyvalue/atomics@0.2.0-draft",
        "wasi:keyvalue/batch@0.2.0-draft",
        "wasi:keyvalue/store@0.2.0-draft",
        "wasi:config/store@0.2.0-draft",
        "wasi:config/store@0.2.0-draft-2024-09-27",
        "wasi:logging/logging",
    ];
    OLDER.contains(&name)
}

struct Worlds(Resolve, wit_parser::PackageId);

impl Worlds {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(folder).unwrap();
        Self(resolve, package)
    }

    /// The names of what a world imports and exports.
    fn names(&self, world: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let Self(resolve, package) = self;
        let world = resolve.select_world(&[*package], Some(world)).unwrap();
        let world = &resolve.worlds[world];
        let names = |items: &mut dyn Iterator<Item = (&WorldKey, &WorldItem)>| {
            let mut names = BTreeSet::new();
            for (key, _) in items {
                names.insert(resolve.name_world_key(key));
            }
            names
        };
        (
            names(&mut world.imports.iter()),
            names(&mut world.exports.iter()),
        )
    }
}

#[test]
fn the_world_of_realm_has_everything_that_realm_serves_and_nothing_else() {
    let worlds = Worlds::read();
    let (imports, exports) = worlds.names("realm:app/cloud-async");
    assert!(exports.is_empty(), "{exports:?}");
    for name in &imports {
        assert!(provided(name), "{name}");
    }
    for name in exactly_provided().filter(|name| !is_older(name)) {
        assert!(
            imports.contains(&name),
            "{name} is served, and no world has it"
        );
    }
    // The other one is for components without async functions.
    let (plain, _) = worlds.names("realm:app/cloud");
    assert!(plain.is_subset(&imports));
    let more: Vec<_> = imports.difference(&plain).map(String::as_str).collect();
    assert_eq!(
        more,
        [
            "spin:key-value/key-value@3.0.0",
            "wasmcloud:secrets/reveal@2.1.0",
            "wasmcloud:secrets/secret@2.1.0",
            "wasmcloud:secrets/store@2.1.0",
        ]
    );
}

#[test]
fn the_worlds_of_cloud_core_are_provided() {
    let worlds = Worlds::read();
    for (world, exported) in [
        ("imports", &[][..]),
        ("http-service", &["wasi:http/incoming-handler@0.2.1"][..]),
        (
            "messaging-service",
            &["wasi:messaging/incoming-handler@0.2.0-draft"],
        ),
        (
            "service",
            &[
                "wasi:http/incoming-handler@0.2.1",
                "wasi:messaging/incoming-handler@0.2.0-draft",
            ],
        ),
    ] {
        let name = format!("wasi:cloud-core/{world}@0.2.0-draft2");
        let (imports, exports) = worlds.names(&name);
        let packages = [
            "wasi:keyvalue/",
            "wasi:blobstore/",
            "wasi:messaging/",
            "wasi:config/",
            "wasi:http/",
        ];
        for package in packages {
            assert!(
                imports.iter().any(|name| name.starts_with(package)),
                "{world}: {package}"
            );
        }
        for import in &imports {
            assert!(provided(import), "{world}: {import}");
        }
        assert_eq!(
            exports.iter().map(String::as_str).collect::<Vec<_>>(),
            exported,
            "{world}"
        );
    }
}

#[test]
fn the_worlds_print_as_wit_that_reads_again() {
    let Worlds(resolve, package) = Worlds::read();
    let mut printer = wit_component::WitPrinter::default();
    let others: Vec<_> = resolve
        .packages
        .iter()
        .map(|(id, _)| id)
        .filter(|id| *id != package)
        .collect();
    printer.print(&resolve, package, &others).unwrap();
    let text = printer.output.to_string();
    let mut again = Resolve::default();
    again.push_str("again.wit", &text).unwrap();
}
