//! What an instance may hold besides its first memory: more memories, tables, core instances, stack,
//! handles, headers, bytes of one call. Each written down here, and gone beyond.

use realm_host::{LoadError, Run, RunError, compile_bytes};
use realm_model::limits::Limits;
use realm_test_guests as guests;

use crate::harness::{Started, guest};

const PAGE_BYTES: u64 = 64 * 1024;
const TRAP: Result<u8, &str> = Err("trap");

/// A command of these parts, one of which is the core instance `$main` with a `run`: 0 is a good end.
fn command(parts: &str) -> Vec<u8> {
    let text = format!(
        r#"(component {parts}
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    );
    wat::parse_str(text).unwrap()
}

fn loaded(bytes: &[u8], limits: impl FnOnce(&mut Limits)) -> Result<Started, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compiled");
    compile_bytes(bytes, &path, false).unwrap();
    guest(guests::PROGRAM).limits(limits).program_at(&path)
}

/// How a run ends, and what the operator reads of it.
async fn ended(started: &Started) -> (Result<u8, &'static str>, String) {
    let code = started.program.run(Run::default()).await;
    let code = code.map_err(|RunError { code, .. }| code);
    (code, started.log.agent())
}

/// The same for parts under limits.
async fn run(parts: &str, limits: impl FnOnce(&mut Limits)) -> (Result<u8, &'static str>, String) {
    ended(&loaded(&command(parts), limits).unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memories_of_an_instance_have_one_limit() {
    // 64 pages in all: 40, 20 and 4 fit, wherever they are.
    let halves = |last: &str| {
        command(&format!(
            r#"(core module $half (memory 0)
                (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
            (core instance $a (instantiate $half))
            (core instance $b (instantiate $half))
            (core module $code
                (import "a" "grow" (func $a (param i32) (result i32)))
                (import "b" "grow" (func $b (param i32) (result i32)))
                (func (export "run") (result i32)
                    (if (i32.ne (call $a (i32.const 40)) (i32.const 0)) (then unreachable))
                    (if (i32.ne (call $b (i32.const 20)) (i32.const 0)) (then unreachable))
                    {last}))
            (core instance $main (instantiate $code
                (with "a" (instance $a)) (with "b" (instance $b))))"#
        ))
    };
    let limit = |limits: &mut Limits| limits.memory_max_mb = 4;
    // Refused is one page too many in either; what is left is given, and a guest that takes it well
    // goes on.
    let well = halves(
        "(if (i32.ne (call $a (i32.const 5)) (i32.const -1)) (then unreachable))
         (if (i32.ne (call $b (i32.const 5)) (i32.const -1)) (then unreachable))
         (i32.ne (call $b (i32.const 4)) (i32.const 20))",
    );
    let well = loaded(&well, limit).unwrap();
    assert_eq!(ended(&well).await.0, Ok(0));
    let meter = well.meter.snapshot();
    assert_eq!(meter.mem_peak_bytes, 64 * PAGE_BYTES);
    assert_eq!(meter.mem_current_bytes, 0);
    let badly = halves("(drop (call $b (i32.const 5))) unreachable");
    let (code, log) = ended(&loaded(&badly, limit).unwrap()).await;
    assert_eq!(code, Err("memory-limit"));
    assert!(log.contains("wanted 5 MiB, `memory_max_mb` is 4"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_count_as_memory_and_have_a_size() {
    let grown = |pages: u32, elements: &[(&str, u32, bool)]| {
        let checks: String = elements
            .iter()
            .map(|(table, count, fits)| {
                let compare = if *fits { "eq" } else { "ne" };
                format!(
                    "(if (i32.{compare} (i32.const -1)
                        (table.grow ${table} (ref.null func) (i32.const {count})))
                        (then unreachable))"
                )
            })
            .collect();
        format!(
            r#"(core module $code (memory {pages}) (table $t 0 funcref) (table $u 0 funcref)
                (func (export "run") (result i32) {checks} i32.const 0))
            (core instance $main (instantiate $code))"#
        )
    };
    // 8 pages and 60,000 pointers are 1,004,288 bytes of a MiB; another 5,000 fit, 6,000 do not.
    let limit = |limits: &mut Limits| limits.memory_max_mb = 1;
    for other in ["t", "u"] {
        let parts = grown(
            8,
            &[
                ("t", 60_000, true),
                (other, 6_000, false),
                (other, 5_000, true),
            ],
        );
        assert_eq!(run(&parts, limit).await.0, Ok(0));
    }
    let (code, log) = run(&grown(8, &[("t", 70_000, true)]), limit).await;
    assert_eq!(code, Err("memory-limit"));
    assert!(log.contains("`memory_max_mb` is 1"), "{log}");
    // However much memory there is.
    let parts = grown(1, &[("t", 100_000, true), ("t", 1, false), ("u", 1, true)]);
    assert_eq!(run(&parts, |_| {}).await.0, Ok(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_has_so_many_instances_memories_and_tables() {
    let many = |count: usize, of_each: &str| {
        let each = "(core instance (instantiate $each))".repeat(count);
        format!(
            r#"(core module $each {of_each}) {each}
            (core module $code (func (export "run") (result i32) i32.const 0))
            (core instance $main (instantiate $code))"#
        )
    };
    // One more instance is that of the code itself.
    for (count, most, of_each) in [
        (199, 200, ""),
        (32, 32, "(memory 0)"),
        (64, 64, "(table 0 funcref)"),
    ] {
        let fits = run(&many(count, of_each), |_| {}).await;
        assert_eq!(fits.0, Ok(0), "{of_each}");
        let told = match loaded(&command(&many(count + 1, of_each)), |_| {}) {
            Err(error) => {
                // The file is sound: nobody is to compile it again.
                assert_eq!(error.code(), "too-large", "{error:?}");
                format!("{error:?}")
            }
            Ok(more) => format!("{:?}", ended(&more).await),
        };
        let why = format!("exceeds the configured maximum of {most}");
        assert!(told.contains(&why), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recursion_without_end_ends_at_the_stack() {
    let parts = r#"(core module $code
            (func $deeper (param i32) (result i32)
                (i32.add (i32.const 1) (call $deeper (local.get 0))))
            (func (export "run") (result i32) (call $deeper (i32.const 0))))
        (core instance $main (instantiate $code))"#;
    let (code, log) = run(parts, |_| {}).await;
    assert_eq!(code, TRAP);
    assert!(log.contains("call stack exhausted"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_hands_over_so_many_bytes() {
    let logged = |mib: u32, calls: u32| {
        let pages = mib * 16 + 1;
        let call = format!(
            "(call $log (i32.const 2) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const {}))",
            mib * 1024 * 1024
        );
        let calls = call.repeat(calls as usize);
        format!(
            r#"(import "wasi:logging/logging@0.1.0-draft" (instance $logging
                (type $names (enum "trace" "debug" "info" "warn" "error" "critical"))
                (export "level" (type $level (eq $names)))
                (export "log" (func (param "level" $level)
                    (param "context" string) (param "message" string)))))
            (core module $store (memory (export "memory") {pages}))
            (core instance $store (instantiate $store))
            (core func $log (canon lower (func $logging "log") (memory (core memory $store "memory"))))
            (core module $code
                (import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
                (func (export "run") (result i32) {calls} i32.const 0))
            (core instance $main (instantiate $code
                (with "host" (instance (export "log" (func $log))))))"#
        )
    };
    // Of one call, not of all.
    assert_eq!(run(&logged(31, 2), |_| {}).await.0, Ok(0));
    let (code, log) = run(&logged(33, 1), |_| {}).await;
    assert_eq!(code, TRAP);
    assert!(log.contains("fuel"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_has_so_many_handles() {
    let made = |count: u32| {
        format!(
            r#"(type $thing (resource (rep i32)))
            (core func $new (canon resource.new $thing))
            (core module $code
                (import "host" "new" (func $new (param i32) (result i32)))
                (func (export "run") (result i32) (local $left i32)
                    (local.set $left (i32.const {count}))
                    (loop $more
                        (drop (call $new (i32.const 7)))
                        (br_if $more (local.tee $left
                            (i32.sub (local.get $left) (i32.const 1)))))
                    i32.const 0))
            (core instance $main (instantiate $code
                (with "host" (instance (export "new" (func $new))))))"#
        )
    };
    assert_eq!(run(&made(20_000), |_| {}).await.0, Ok(0));
    let (code, log) = run(&made(20_001), |_| {}).await;
    assert_eq!(code, TRAP);
    assert!(log.contains("handle"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_set_of_headers_has_so_many_bytes() {
    let appended = |count: u32| {
        format!(
            r#"(import "wasi:http/types@0.2.0" (instance $http
                (export "fields" (type $fields (sub resource)))
                (type $cases (variant
                    (case "invalid-syntax") (case "forbidden") (case "immutable")))
                (export "header-error" (type $error (eq $cases)))
                (export "[constructor]fields" (func (result (own $fields))))
                (export "[method]fields.append" (func (param "self" (borrow $fields))
                    (param "name" string) (param "value" (list u8))
                    (result (result (error $error)))))))
            (core module $store (memory (export "memory") 1)
                (data (i32.const 0) "a"))
            (core instance $store (instantiate $store))
            (core func $new (canon lower (func $http "[constructor]fields")))
            (core func $append (canon lower (func $http "[method]fields.append")
                (memory (core memory $store "memory"))))
            (core module $code
                (import "store" "memory" (memory 1))
                (import "host" "new" (func $new (result i32)))
                (import "host" "append" (func $append (param i32 i32 i32 i32 i32 i32)))
                (func (export "run") (result i32) (local $left i32) (local $fields i32)
                    (memory.fill (i32.const 100) (i32.const 0x61) (i32.const 1000))
                    (local.set $fields (call $new))
                    (local.set $left (i32.const {count}))
                    (loop $more
                        (call $append (local.get $fields) (i32.const 0) (i32.const 1)
                            (i32.const 100) (i32.const 1000) (i32.const 8))
                        (if (i32.load8_u (i32.const 8)) (then unreachable))
                        (br_if $more (local.tee $left
                            (i32.sub (local.get $left) (i32.const 1)))))
                    i32.const 0))
            (core instance $main (instantiate $code
                (with "store" (instance $store))
                (with "host" (instance
                    (export "new" (func $new)) (export "append" (func $append))))))"#
        )
    };
    // A thousand bytes each, and some of bookkeeping: 128 KiB are 131,072.
    assert_eq!(run(&appended(115), |_| {}).await.0, Ok(0));
    let (code, log) = run(&appended(132), |_| {}).await;
    assert_eq!(code, TRAP);
    assert!(log.contains("total size of fields exceeds limit"), "{log}");
}
