//! Guests that are built with what other projects publish: the SDKs of Spin and of wasmCloud, and the WIT in
//! wasmtime's crates. Each looks at what it reads back, and ends in a trap where that is something else.

use std::sync::Arc;

use realm_backends::Unwatched;
use realm_backends::blobs::Directory;
use realm_backends::keyvalue::Embedded;
use realm_host::Store;
use realm_model::api::LogStream;
use realm_model::cloud::{Blobs, KeyValue};
use realm_test_guests as guests;
use tempfile::TempDir;

use crate::harness::{Guest, guest};
use crate::programs::ran;

fn keyvalue() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("kv"), Arc::new(Unwatched)).unwrap();
    let store: Arc<dyn KeyValue> = Arc::new(store);
    (folder, Store::Keyvalue(store))
}

/// A guest on a machine with much to do, with what it asks for under `vars`.
fn patient(path: &'static str) -> Guest {
    guest(path)
        .grants(|grants| drop(grants.vars.insert("color".into(), "red".into())))
        .limits(|limits| {
            limits.wall_timeout_ms = 60_000;
            limits.epoch_timeout_ms = 30_000;
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_spin_keyvalue() {
    let (_folder, store) = keyvalue();
    let guest = patient(guests::SDK_SPIN_KEYVALUE)
        .bind("default", store)
        .load();
    // What one request left the next one finds.
    assert_eq!(guest.body("/spin").await, "ok 1");
    assert_eq!(guest.body("/spin?again").await, "ok 2");
    assert_eq!(guest.refusal("/elsewhere").await, ("trap", 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_spin_wasi() {
    let (_folder, store) = keyvalue();
    let guest = patient(guests::SDK_SPIN_WASI).bind("default", store).load();
    assert_eq!(guest.body("/").await, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_wasmcloud_keyvalue() {
    let (_folder, store) = keyvalue();
    let guest = patient(guests::SDK_WASMCLOUD_KEYVALUE)
        .bind("default", store)
        .load();
    assert_eq!(guest.body("/wasmcloud").await, "ok");
    assert_eq!(guest.refusal("/elsewhere").await, ("trap", 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_wasmcloud_config() {
    let guest = patient(guests::SDK_WASMCLOUD_CONFIG).load();
    assert_eq!(guest.body("/").await, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_wasmcloud_blobstore() {
    let folder = tempfile::tempdir().unwrap();
    let blobs: Arc<dyn Blobs> =
        Arc::new(Directory::open(folder.path(), Arc::new(Unwatched)).unwrap());
    let guest = patient(guests::SDK_WASMCLOUD_BLOBSTORE)
        .bind("photos", Store::Blobs(blobs))
        .load();
    assert_eq!(guest.body("/").await, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_wasmcloud_logging() {
    let guest = patient(guests::SDK_WASMCLOUD_LOGGING).load();
    assert_eq!(guest.body("/").await, "logged");
    assert_eq!(
        guest.log.lines(LogStream::Stderr),
        [
            "trace: at 1",
            "debug: at 2",
            "info [db]: at 3",
            "warn: at 4",
            "error: at 5",
            "critical: at 6",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_wasmtime_keyvalue() {
    let (_folder, store) = keyvalue();
    let command = patient(guests::SDK_WASMTIME_KEYVALUE)
        .bind("default", store)
        .program()
        .unwrap();
    assert_eq!(ran(&command, &[], b"").await, (Ok(0), b"ok\n".to_vec()));
    // It finds what it left, which is not what it expects of a new store.
    let again = ran(&command, &[], b"").await.0;
    assert_eq!(again.unwrap_err().code, "trap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sdk_wasmtime_config() {
    let command = patient(guests::SDK_WASMTIME_CONFIG).program().unwrap();
    assert_eq!(ran(&command, &[], b"").await, (Ok(0), b"ok\n".to_vec()));
    let nothing = guest(guests::SDK_WASMTIME_CONFIG).program().unwrap();
    assert_eq!(ran(&nothing, &[], b"").await.0.unwrap_err().code, "trap");
}
