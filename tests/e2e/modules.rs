//! Core modules of WASI preview 1: what no adapter makes a component of is refused by name, before anything
//! is signed; a reactor that a compiler for C made runs.

use std::process::Command;

use realm_test_guests::HELLO;

use crate::guides::Tools;
use crate::support::{Realm, get, said};

/// A module that imports one function.
fn importing(module: &str, name: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let import = [vec![1], text(module), text(name), vec![0, 0]].concat();
    let head = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02".to_vec();
    [head, vec![u8::try_from(import.len()).unwrap()], import].concat()
}

/// What is refused, the code, and the word that names it.
fn refused() -> [(Vec<u8>, &'static str, &'static str); 4] {
    [
        (importing("wasi", "thread-spawn"), "wasi-threads", "threads"),
        (importing("wasix_32v1", "callback_signal"), "wasix", "WASIX"),
        (
            importing("wasi_unstable", "fd_write"),
            "wasi-preview0",
            "preview 0",
        ),
        (importing("env", "log"), "foreign-import", "`env.log`"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_cannot_be_adapted_is_never_signed() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    for (bytes, code, word) in refused() {
        std::fs::write(realm.path("app.wasm"), bytes).unwrap();
        let said = realm.run(&["apply", "--yes"]).fails(1, code);
        assert!(said.stderr.contains(word), "{}", said.stderr);
        let inspected = realm.run(&["inspect", "app.wasm"]).ok().stdout;
        assert!(inspected.contains("refused: "), "{inspected}");
        assert!(inspected.contains(word), "{inspected}");
    }
    assert!(!realm.path("realm.lock").exists() && !realm.path("realm.toml.sig").exists());
    assert_eq!(realm.heads().await.version, 0);

    realm.guest(HELLO, "app.wasm");
    realm.run(&["apply", "--yes"]).ok();
    let signed = realm.read("realm.toml.sig");
    for (bytes, code, word) in refused() {
        std::fs::write(realm.path("new.wasm"), bytes).unwrap();
        let said = realm.run(&["push", "app", "new.wasm"]).fails(1, code);
        assert!(said.stderr.contains(word), "{}", said.stderr);
    }
    assert_eq!(realm.heads().await.version, 1);
    assert_eq!(realm.read("realm.toml.sig"), signed);
    assert_eq!(crate::support::get(&agent.url("/")).await.0, 200);
}

/// A reactor has no `main`: its libc is made ready by `_initialize`, which runs constructors, and what is called
/// is an export. This one tells how often each ran.
const REACTOR: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include "reactor.h"

static int ready, calls;

__attribute__((constructor)) static void prepare(void) { ready++; }

bool exports_wasi_cli_run_run(void) {
    const char *path = getenv("PATH_INFO");
    calls++;
    printf("Content-Type: text/plain\r\n\r\nready %d, call %d, path %s\n", ready, calls, path ? path : "none");
    return fflush(stdout) == 0;
}
"#;

const REACTOR_WIT: &str = "package test:reactor;
world reactor { export wasi:cli/run@0.2.10; }
package wasi:cli@0.2.10 { interface run { run: func() -> result; } }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_reactor_that_clang_made_is_adapted_and_runs() {
    let tools = Tools::of("c");
    let realm = Realm::new();
    realm.write("reactor.wit", REACTOR_WIT);
    realm.write("main.c", REACTOR);
    let build = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(realm.path("."));
        said(command).ok();
    };
    build(tools.path("wit-bindgen"), &["c", "reactor.wit"]);
    build(
        "clang-19",
        &[
            "--target=wasm32-wasi",
            "-mexec-model=reactor",
            "-O2",
            "-o",
            "app.wasm",
            "main.c",
            "reactor.c",
            "reactor_component_type.o",
        ],
    );
    // It is a module, with no `_start`, and what a compiler says of itself in it.
    let inspected = realm.run(&["inspect", "app.wasm", "--json"]).ok().stdout;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["kind"], "module");
    assert_eq!(inspected["refused"], serde_json::Value::Null);
    let exports = inspected["exports"].to_string();
    assert!(exports.contains("_initialize"), "{exports}");
    assert!(!exports.contains("_start"), "{exports}");

    // Without a realm, and behind a route: applied, then pushed.
    let told = realm.run(&["run", "app.wasm"]).ok().stdout;
    assert!(told.ends_with("ready 1, call 1, path none\n"), "{told}");
    std::fs::rename(realm.path("app.wasm"), realm.path("reactor.wasm")).unwrap();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    realm.run(&["push", "app", "reactor.wasm"]).ok();
    for _ in 0..3 {
        // A fresh instance each time, made ready once.
        let expected = (200, "ready 1, call 1, path /you\n".to_owned());
        assert_eq!(get(&agent.url("/you")).await, expected);
    }
}
