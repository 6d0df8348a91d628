//! A component that was built for `wasi:cloud-core` as published, and nothing else.

use std::sync::Arc;

use realm_backends::Unwatched;
use realm_backends::blobs::Directory;
use realm_backends::keyvalue::Embedded;
use realm_backends::messaging::{Embedded as Queue, Room};
use realm_host::Store;
use realm_model::inspection::InterfaceUse;
use realm_model::manifest::Serve;
use realm_test_guests as guests;

use crate::harness::guest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn cloud_core() {
    let folder = tempfile::tempdir().unwrap();
    let keyvalue = Embedded::open(&folder.path().join("kv"), Arc::new(Unwatched)).unwrap();
    let blobs = Directory::open(&folder.path().join("blobs"), Arc::new(Unwatched)).unwrap();
    let path = folder.path().join("messages.redb");
    let queue = Queue::open(path, Room::default(), Arc::new(Unwatched), Arc::new(|_| {}));
    let loaded = guest(guests::CLOUD_CORE)
        .bind("default", Store::Keyvalue(Arc::new(keyvalue)))
        .bind("default", Store::Messaging(Arc::new(queue.unwrap())))
        .bind("pictures", Store::Blobs(Arc::new(blobs)))
        .grants(|grants| {
            grants
                .vars
                .insert("greeting".to_owned(), "hello".to_owned());
        })
        .load();
    for visit in 1..3 {
        assert_eq!(
            loaded.body("/some/path?x=1").await,
            format!(
                "path /some/path?x=1\n\
                 ok config hello\n\
                 ok keyvalue 1 there, visit {visit}\n\
                 ok blobstore bytes of an object\n\
                 ok messaging sent\n"
            )
        );
    }
    // Without bindings it is told so, each time.
    let nothing = guest(guests::CLOUD_CORE).load();
    let told = nothing.body("/").await;
    let failed = told.lines().filter(|line| line.starts_with("FAIL")).count();
    assert_eq!(failed, 4, "{told}");
}

/// What it imports is all there, and says what the manifest has to name.
#[test]
fn what_cloud_core_imports_is_provided() {
    let bytes = std::fs::read(guests::CLOUD_CORE).unwrap();
    let inspected = realm_host::inspect(&bytes).unwrap();
    assert_eq!(inspected.serve, Some(Serve::Http));
    for import in &inspected.imports {
        assert!(import.provided, "{import:?}");
    }
    let noted = |part: &str, note: &str| {
        let has = |import: &&InterfaceUse| {
            let of_note = import.note.as_deref().unwrap_or_default();
            import.name.starts_with(part) && of_note.contains(note)
        };
        inspected.imports.iter().any(|import| has(&import))
    };
    for (part, note) in [
        ("wasi:keyvalue/store@0.2.0-draft2", "`bind`"),
        ("wasi:blobstore/blobstore@0.2.0-draft", "`bind`"),
        ("wasi:messaging/producer@0.2.0-draft", "`bind`"),
        ("wasi:config/store@0.2.0-draft", "`vars`"),
    ] {
        assert!(noted(part, note), "{part}: {:?}", inspected.imports);
    }
}
