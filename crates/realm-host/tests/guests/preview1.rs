//! Core modules of WASI preview 1: adapted, compiled and run as what they are.

use std::path::PathBuf;

use realm_host::compile_bytes;
use realm_test_guests as guests;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::harness::{Started, get, guest, read};
use crate::programs::ran;

/// A module with memory, some imports of preview 1 and a body of `_start`.
fn module(imports: &str, data: &str, body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            {imports}
            (memory (export "memory") 1)
            {data}
            (func (export "_start") {body}))"#
    ))
    .unwrap()
}

const WRITE: &str = r#"(import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))"#;
const READ: &str = r#"(import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))"#;
const ENVIRON: &str = r#"(import "wasi_snapshot_preview1" "environ_get"
    (func $environ (param i32 i32) (result i32)))"#;
const EXIT: &str = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
const PRINT_HELLO: &str =
    "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 60)))";
const HELLO: &str = r#"(data (i32.const 0) "\08\00\00\00\06\00\00\00hello\0a")"#;

fn compiled(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compiled");
    compile_bytes(bytes, &path, false).unwrap();
    (folder, path)
}

fn program(bytes: &[u8], env: &[(&str, &str)]) -> Started {
    let (_folder, path) = compiled(bytes);
    guest(guests::PROGRAM)
        .grants(|grants| {
            let env = env
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            grants.env.extend(env);
        })
        .program_at(&path)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_writes_and_reads() {
    let hello = program(&module(WRITE, HELLO, PRINT_HELLO), &[]);
    assert_eq!(ran(&hello, &[], b"").await, (Ok(0), b"hello\n".to_vec()));
    // One buffer of 64 bytes at 100: filled from standard input, its first byte written.
    let echo = module(
        &format!("{WRITE} {READ}"),
        r#"(data (i32.const 0) "\64\00\00\00\40\00\00\00")
           (data (i32.const 8) "\64\00\00\00\01\00\00\00")"#,
        "(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 60)))
         (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 60)))",
    );
    let (code, written) = ran(&program(&echo, &[]), &[], b"xyz").await;
    assert_eq!((code, &*written), (Ok(0), &b"x"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_sees_what_is_granted() {
    let environ = module(
        &format!("{WRITE} {ENVIRON}"),
        // Pointers at 100, strings at 200: the first seven bytes of them are written.
        r#"(data (i32.const 0) "\c8\00\00\00\07\00\00\00")"#,
        &format!("(drop (call $environ (i32.const 100) (i32.const 200))) {PRINT_HELLO}"),
    );
    let (code, written) = ran(&program(&environ, &[("COLOR", "r")]), &[], b"").await;
    assert_eq!((code, &*written), (Ok(0), &b"COLOR=r"[..]));
    let (code, written) = ran(&program(&environ, &[]), &[], b"").await;
    assert_eq!((code, &*written), (Ok(0), &[0; 7][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_of_a_module_survives() {
    for code in [0, 1, 33, 255] {
        let exit = module(EXIT, "", &format!("(call $exit (i32.const {code}))"));
        assert_eq!(ran(&program(&exit, &[]), &[], b"").await.0, Ok(code));
    }
    let trap = program(&module(EXIT, "", "unreachable"), &[]);
    assert_eq!(ran(&trap, &[], b"").await.0.unwrap_err().code, "trap");
}

/// A module without `_start`, which says itself what it is: `_initialize` writes the text that a run
/// prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reactor_is_initialized_and_runs() {
    let text = format!(
        r#"(module {WRITE}
            (memory (export "memory") 1)
            {HELLO}
            (func (export "_initialize") (i32.store8 (i32.const 8) (i32.const 0x6a)))
            (func (export "wasi:cli/run@0.2.0#run") (result i32) {PRINT_HELLO} i32.const 0))"#
    );
    let wit = "package a:b;
        package wasi:cli@0.2.0 { interface run { run: func() -> result; } }
        world w { export wasi:cli/run@0.2.0; }";
    let mut resolve = Resolve::default();
    let package = resolve.push_source("w.wit", wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let reactor = program(&module, &[]);
    for _ in 0..2 {
        assert_eq!(ran(&reactor, &[], b"").await, (Ok(0), b"jello\n".to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_answers_requests() {
    let text = r"Content-Type: text/plain\0a\0ahello\0a";
    let length = "Content-Type: text/plain\n\nhello\n".len();
    let data = format!(r#"(data (i32.const 0) "\08\00\00\00\{length:02x}\00\00\00{text}")"#);
    let (_folder, path) = compiled(&module(WRITE, &data, PRINT_HELLO));
    let host = realm_host::Host::new(realm_host::Config::default()).unwrap();
    let component = crate::harness::load_file(&host, &path).unwrap();
    let response = component.replica(0).call(get("/")).await.unwrap();
    let answer = read(response).await;
    assert_eq!((answer.status, answer.text()), (200, "hello\n"));
    assert_eq!(answer.headers["content-type"], "text/plain");
}
