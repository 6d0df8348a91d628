//! What an instance may hold besides its first memory, gone beyond behind a route: the client gets the
//! status and the code, the operator the metric and the log line that docs/security.md has. The bounds
//! themselves are tested with the host, figure by figure.

use crate::limits::{Row, check, request};
use crate::support::{Realm, figure, get};

/// A command of these parts, one of which is the core instance `$main` with a `run`.
fn command(parts: &str) -> Vec<u8> {
    let text = format!(
        r#"(component {parts}
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    );
    wat::parse_str(text).unwrap()
}

/// Half a MiB of memory, and a table of more than that.
const TABLE: &str = r#"
    (core module $code (memory 8) (table $t 0 funcref)
        (func (export "run") (result i32)
            (drop (table.grow $t (ref.null func) (i32.const 90000)))
            unreachable))
    (core instance $main (instantiate $code))"#;

/// A handle more than there may be.
const HANDLES: &str = r#"
    (type $thing (resource (rep i32)))
    (core func $new (canon resource.new $thing))
    (core module $code
        (import "host" "new" (func $new (param i32) (result i32)))
        (func (export "run") (result i32) (local $left i32)
            (local.set $left (i32.const 20001))
            (loop $more
                (drop (call $new (i32.const 7)))
                (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            i32.const 0))
    (core instance $main (instantiate $code
        (with "host" (instance (export "new" (func $new))))))"#;

/// A line of 33 MiB for the log.
const BYTES: &str = r#"
    (import "wasi:logging/logging@0.1.0-draft" (instance $logging
        (type $names (enum "trace" "debug" "info" "warn" "error" "critical"))
        (export "level" (type $level (eq $names)))
        (export "log" (func (param "level" $level)
            (param "context" string) (param "message" string)))))
    (core module $store (memory (export "memory") 529))
    (core instance $store (instantiate $store))
    (core func $log (canon lower (func $logging "log") (memory (core memory $store "memory"))))
    (core module $code
        (import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
        (func (export "run") (result i32)
            (call $log (i32.const 2) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 34603008))
            i32.const 0))
    (core instance $main (instantiate $code
        (with "host" (instance (export "log" (func $log))))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn each_bound_of_an_instance_ends_as_documented() {
    let realm = Realm::new();
    // One more core instance than a component may have: that of the code itself.
    let instances = format!(
        r#"(core module $each) {}
        (core module $code (func (export "run") (result i32) i32.const 0))
        (core instance $main (instantiate $code))"#,
        "(core instance (instantiate $each))".repeat(200)
    );
    let mut manifest = String::new();
    let mut routes = String::from("[routing]\n\"*\" = [\n");
    for (name, parts, more) in [
        ("table", TABLE, "memory_max_mb = 1"),
        ("handles", HANDLES, ""),
        ("bytes", BYTES, ""),
        ("instances", &instances, ""),
    ] {
        std::fs::write(realm.path(&format!("{name}.wasm")), command(parts)).unwrap();
        manifest += &format!("[components.{name}]\nsource = \"file:./{name}.wasm\"\n{more}\n\n");
        routes += &format!("  {{ path = \"/{name}/...\", component = \"{name}\" }},\n");
    }
    realm.write("realm.toml", &format!("{manifest}{routes}]\n"));
    let agent = realm.agent();
    let said = realm.run(&["apply", "--yes", "--timeout", "2m"]);
    let said = said.fails(1, "not-running");
    assert!(
        said.stderr.contains("instances: too-large"),
        "{}",
        said.stderr
    );
    for (name, status, code, words) in [
        ("table", 500, "memory-limit", "`memory_max_mb` is 1"),
        ("handles", 500, "trap", "handle"),
        ("bytes", 500, "trap", "fuel"),
    ] {
        let row = Row {
            name,
            request: &request("GET", &format!("/{name}/"), ""),
            status,
            code,
            words,
        };
        check(&realm, &agent, &row).await;
    }
    // What can never start is never asked, and the operator reads why.
    let answer = reqwest::get(agent.url("/instances/")).await.unwrap();
    let code = answer.headers()["realm-error"].to_str().unwrap().to_owned();
    assert_eq!((answer.status().as_u16(), &*code), (503, "no-backend"));
    let why = format!("{:?}", realm.component("instances").await);
    assert!(why.contains("201 core module instances"), "{why}");
    // Compiled once: it would be the same again.
    let page = get(&agent.metrics_url).await.1;
    assert_eq!(figure(&page, "realm_compilations_total"), 4.0);
}
