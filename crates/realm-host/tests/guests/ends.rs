//! Guests that end badly, or cannot be loaded: each in its own way, and the client is told.

use std::time::Duration;

use realm_host::{INSPECT_BYTES_MAX, LoadError, inspect};
use realm_model::inspection::WasmKind;
use realm_model::manifest::Serve;
use realm_test_guests as guests;

use crate::harness::{get, guest, read};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn trap() {
    let trap = guest(guests::TRAP).load();
    let error = trap.get("/").await.unwrap_err();
    assert_eq!((error.code, error.status), ("trap", 500));
    // The reason is for the owner, not for the client.
    assert!(!error.message.contains("unreachable"), "{error:?}");
    trap.ended("trap").await;
    assert!(
        trap.log.agent().contains("unreachable"),
        "{}",
        trap.log.agent()
    );
    // The next request has nothing to do with it.
    assert_eq!(trap.body("/hello").await, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn trap_start() {
    let trap = guest(guests::TRAP_START).load();
    assert_eq!(trap.refusal("/").await, ("trap", 500));
    trap.ended("trap").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_trap() {
    let trap = guest(guests::P3_TRAP).load();
    assert_eq!(trap.refusal("/").await, ("trap", 500));
    trap.ended("trap").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn panics() {
    let panics = guest(guests::PANICS).load();
    assert_eq!(panics.refusal("/").await, ("trap", 500));
    let stderr = panics
        .log
        .lines(realm_model::api::LogStream::Stderr)
        .join("\n");
    assert!(stderr.contains("panicked"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn no_response() {
    let guest = guest(guests::NO_RESPONSE).load();
    assert_eq!(guest.refusal("/").await, ("no-response", 500));
    guest.ended("no-response").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn trap_mid_response() {
    let guest = guest(guests::TRAP_MID_RESPONSE).load();
    for bytes in [0, 7, 300_000] {
        let answer = guest.get(&format!("/?bytes={bytes}")).await.unwrap();
        // What was written before arrives, and then the body breaks off: it does not end.
        assert_eq!((answer.status, answer.body.len()), (200, bytes));
        assert!(
            answer.broken.is_some(),
            "{bytes} bytes: taken for a whole answer"
        );
    }
    crate::harness::eventually(|| guest.count("trap") == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn park() {
    let park = guest(guests::PARK)
        .limits(|limits| limits.wall_timeout_ms = 500)
        .load();
    assert_eq!(park.refusal("/?ms=60000").await, ("wall-timeout", 504));
    park.ended("wall-timeout").await;
    // Waiting is not running: next to nothing of that time is charged.
    assert!(
        park.meter().wasm_exec_ms.sum_ms < 200.0,
        "{:?}",
        park.meter()
    );
    assert_eq!(park.body("/?ms=1").await, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_does_not_count_as_running() {
    let park = guest(guests::PARK)
        .limits(|limits| limits.epoch_timeout_ms = 150)
        .load();
    assert_eq!(park.body("/?ms=400").await, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_ends_the_guest() {
    let park = guest(guests::PARK).load();
    let call = park.replica.call(get("/?ms=60000"));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), call)
            .await
            .is_err()
    );
    park.ended("cancelled").await;
    assert_eq!(park.meter().mem_current_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_dropped_ends_the_guest() {
    for path in [guests::BIG_BODY, guests::ECHO, guests::P3_ECHO] {
        let guest = guest(path).load();
        let endless = http_body_util::StreamBody::new(futures_util::stream::pending());
        let request = get("/?bytes=1000000000").map(|_| realm_host::Body::new(endless));
        let response = guest.replica.call(request).await.unwrap();
        drop(response);
        guest.ended("cancelled").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_time_covers_the_body() {
    for path in [guests::ECHO, guests::P3_ECHO] {
        let guest = guest(path)
            .limits(|limits| limits.wall_timeout_ms = 100)
            .load();
        let endless = http_body_util::StreamBody::new(futures_util::stream::pending());
        let request = get("/").map(|_| realm_host::Body::new(endless));
        let answer = read(guest.replica.call(request).await.unwrap()).await;
        assert!(answer.broken.is_some(), "{path}");
        guest.ended("wall-timeout").await;
    }
}

#[test]
pub(crate) fn bad_import() {
    let Err(error) = guest(guests::BAD_IMPORT).try_load() else {
        panic!("loaded");
    };
    assert_eq!(error.code(), "missing-import");
    let LoadError::MissingImports { imports } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(imports[0].0, "nobody:provides/this@1.0.0");
    assert!(
        error
            .to_string()
            .contains("`nobody:provides/this@1.0.0` (realm has no nobody:provides"),
        "{error}"
    );

    let seen = inspect(&std::fs::read(guests::BAD_IMPORT).unwrap()).unwrap();
    let missing: Vec<_> = seen
        .imports
        .iter()
        .filter(|import| !import.provided)
        .collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].name, imports[0].0);
}

#[test]
pub(crate) fn library() {
    let error = guest(guests::LIBRARY).try_load().map(drop).unwrap_err();
    assert_eq!(error.code(), "wrong-world", "{error}");
    let seen = inspect(&std::fs::read(guests::LIBRARY).unwrap()).unwrap();
    assert_eq!((seen.kind, seen.serve), (WasmKind::Component, None));
}

#[test]
fn what_is_no_artifact_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let host = realm_host::Host::new(realm_host::Config::default()).unwrap();
    let settings = guest(guests::HELLO).load_into(&host).unwrap();
    drop(settings);
    for (name, bytes) in [
        ("component", std::fs::read(guests::HELLO).unwrap()),
        ("nothing", Vec::new()),
        ("text", b"hello".to_vec()),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = crate::harness::load_file(&host, &path)
            .map(drop)
            .unwrap_err();
        assert_eq!(error.code(), "bad-artifact", "{name}");
    }
    // Code that counts fuel does not run where none is counted.
    let fueled = crate::harness::compiled(guests::HELLO, true);
    let error = crate::harness::load_file(&host, &fueled)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), "bad-artifact");
}

#[test]
fn every_guest_can_be_inspected() {
    for (name, path) in guests::GUESTS {
        let seen = inspect(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(seen.kind, WasmKind::Component, "{name}");
        assert_eq!(
            seen.health_export,
            matches!(*name, "health_ok" | "health_bad" | "health_flaky"),
            "{name}"
        );
        let serve = match *name {
            "library" | "bad_import" => None,
            "bytes"
            | "command"
            | "p3_command"
            | "fetch"
            | "p3_fetch"
            | "program"
            | "listen"
            | "p3_listen"
            | "p3_sockets"
            | "websocket"
            | "sdk_wasmtime_config"
            | "sdk_wasmtime_keyvalue" => Some(Serve::Cgi),
            name if name.starts_with("cgi_") => Some(Serve::Cgi),
            // Messages or changes of keys call them, and nothing else does.
            "watcher_draft" | "watcher_draft2" | "worker" => Some(Serve::Worker),
            _ => Some(Serve::Http),
        };
        if let Some(serve) = serve {
            assert_eq!(seen.serve, Some(serve), "{name}");
            assert!(
                seen.imports.iter().all(|import| import.provided),
                "{name}: {seen:?}"
            );
        }
    }
    for (guest, import) in [
        (guests::OUTBOUND, "outgoing-handler"),
        (guests::P3_OUTBOUND, "wasi:http/client"),
        (guests::NET, "wasi:sockets/tcp@"),
        (guests::NET, "ip-name-lookup"),
        (guests::P3_NET, "wasi:sockets/types"),
        (guests::P3_NET, "ip-name-lookup"),
    ] {
        let seen = inspect(&std::fs::read(guest).unwrap()).unwrap();
        let mut imports = seen.imports.iter();
        let found = imports.find(|found| found.name.contains(import)).unwrap();
        let note = found.note.as_deref().unwrap_or_default();
        assert!(note.contains("allowed_outbound"), "{import}: {note}");
    }
}

#[test]
fn any_prefix_of_a_component_can_be_inspected() {
    let bytes = std::fs::read(guests::HELLO).unwrap();
    for end in (0..bytes.len()).step_by(97) {
        // An answer or an error, never a panic.
        let _ = inspect(&bytes[..end]);
    }
    assert_eq!(inspect(b"").unwrap_err().code(), "not-wasm");
    let large = vec![0; INSPECT_BYTES_MAX + 1];
    assert_eq!(inspect(&large).unwrap_err().code(), "too-large");
}

proptest::proptest! {
    #[test]
    fn flipped_bytes_can_be_inspected(at: proptest::sample::Index, value: u8) {
        let mut bytes = std::fs::read(guests::COMMAND).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = inspect(&bytes);
    }

    #[test]
    fn random_bytes_can_be_inspected(tail: Vec<u8>, component: bool) {
        let head: &[u8] = if component { b"\0asm\x0d\0\x01\0" } else { b"\0asm\x01\0\0\0" };
        let _ = inspect(&[head, &tail].concat());
    }
}

#[test]
fn names_in_a_strangers_file_move_no_cursor() {
    let component = wat::parse_str(r#"(component (import "url=<https://a/\1b[2J>" (func)))"#);
    let module = wat::parse_str(
        r#"(module (import "ev\1b[2Jil" "f" (func)) (func (export "\1b]0;title\07")))"#,
    );
    for bytes in [component, module] {
        let Ok(seen) = inspect(&bytes.unwrap()) else {
            // Refused whole is safe as well.
            continue;
        };
        let names = seen.imports.iter().map(|import| &import.name);
        let notes = seen
            .imports
            .iter()
            .filter_map(|import| import.note.as_ref());
        for text in names.chain(notes).chain(&seen.exports) {
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}
