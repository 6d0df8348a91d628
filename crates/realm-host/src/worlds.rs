//! The worlds of /wit, held to what is provided: who builds for one of them can be run.

use std::collections::BTreeSet;
use std::path::Path;

use wit_parser::{Resolve, Type, TypeDefKind, WorldItem, WorldKey};

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

/// WASI itself is here only as far as the others name it, and has its own documents.
fn is_of_wasi_itself(package: &str) -> bool {
    const PACKAGES: [&str; 5] = [
        "wasi:cli@",
        "wasi:clocks@",
        "wasi:http@",
        "wasi:io@",
        "wasi:random@",
    ];
    PACKAGES.iter().any(|name| package.starts_with(name))
}

#[test]
fn every_item_of_wit_says_what_it_is() {
    let Worlds(resolve, _) = Worlds::read();
    let of_package = |package: Option<wit_parser::PackageId>| {
        let name = resolve.packages[package.unwrap()].name.to_string();
        (!is_of_wasi_itself(&name)).then_some(name)
    };
    let (mut bare, mut packages) = (Vec::new(), BTreeSet::new());
    let mut look = |place: String, docs: &wit_parser::Docs| {
        if docs
            .contents
            .as_deref()
            .is_none_or(|words| words.trim().is_empty())
        {
            bare.push(place);
        }
    };
    for (_, world) in &resolve.worlds {
        if let Some(package) = of_package(world.package) {
            look(format!("{package} world {}", world.name), &world.docs);
        }
    }
    for (_, interface) in &resolve.interfaces {
        let Some(package) = of_package(interface.package) else {
            continue;
        };
        let name = interface.name.as_deref().unwrap_or_default();
        look(format!("{package} {name}"), &interface.docs);
        for (item, id) in &interface.types {
            let item_type = &resolve.types[*id];
            // A `use` takes the words with it from where the type is.
            let is_used = if let TypeDefKind::Type(Type::Id(from)) = item_type.kind {
                resolve.types[from].owner != item_type.owner
            } else {
                false
            };
            if !is_used {
                look(format!("{package} {name}.{item}"), &item_type.docs);
            }
        }
        for (item, function) in &interface.functions {
            look(format!("{package} {name}.{item}"), &function.docs);
        }
        packages.insert(package);
    }
    assert!(bare.is_empty(), "no `///`: {bare:#?}");
    // Also of those that no world of realm has.
    for older in ["wasi:config@0.2.0-draft", "wasi:logging"] {
        assert!(packages.contains(older), "{packages:?}");
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
