//! What each implementation keeps to, in the same words: one check for each promise of the trait.

use std::fs;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use realm_model::cloud::{Blobs, CloudError};
use tokio::sync::Notify;

pub(crate) use crate::naming::{a_listing_has_each_name_once, no_name_is_taken_for_another};
use crate::sources::{Pattern, bytes, digest, digest_of, get, names, put, range};

/// A backend, and in what it differs from another one.
pub(crate) struct Subject {
    pub(crate) blobs: Arc<dyn Blobs>,
    /// Bytes that the longest name of an object may have in a container with a short name.
    pub(crate) object_bytes_max: usize,
    /// Whether names come in the order of their bytes, whatever is in them.
    pub(crate) is_sorted: bool,
    /// Objects of the check that lists many.
    pub(crate) n_listed: usize,
}

/// What is larger than any piece or part of a backend.
const LARGE: u64 = 64 * 1024 * 1024;
/// Larger than one part.
const PARTS: u64 = 12 * 1024 * 1024;
const NO_CONTAINER: CloudError = CloudError::NotFound("the container");
const NO_OBJECT: CloudError = CloudError::NotFound("the object");

pub(crate) async fn containers_come_and_go(subject: &Subject) {
    let blobs = &*subject.blobs;
    assert_eq!(blobs.info("c").await, Ok(None));
    assert_eq!(blobs.delete("c").await, Ok(()));
    let before = now_s();
    blobs.create("c").await.unwrap();
    let made = blobs.info("c").await.unwrap().expect("it is there");
    assert!(
        (before - 2..=now_s() + 2).contains(&made.created_at_s),
        "{made:?}"
    );
    assert_eq!(names(blobs, "c", 10).await, Vec::<String>::new());
    put(blobs, "c", "o", 1, 10).await;
    blobs.create("c").await.unwrap();
    assert_eq!(blobs.info("c").await, Ok(Some(made)), "it stays as it was");
    assert_eq!(get(blobs, "c", "o").await, Ok(bytes(1, 0, 10)));

    // Names of containers are as hostile as those of objects, and none is in another one.
    let hostile = [
        "..",
        ".",
        "a/b",
        "a",
        "A",
        "a%2fb",
        "\u{e9}",
        "x\"<&>'",
        &"n".repeat(255),
    ];
    for name in hostile {
        blobs.create(name).await.unwrap();
        put(blobs, name, "b/o", 2, 20).await;
    }
    for name in hostile {
        assert_eq!(names(blobs, name, 10).await, ["b/o"], "{name}");
    }
    blobs.delete("a").await.unwrap();
    for name in hostile {
        assert_eq!(
            blobs.info(name).await.unwrap().is_some(),
            name != "a",
            "{name}"
        );
        blobs.delete(name).await.unwrap();
    }
    for bad in ["", "a\0b", &"n".repeat(256)] {
        assert!(blobs.create(bad).await.is_err());
        assert!(blobs.delete(bad).await.is_err());
        assert!(blobs.info(bad).await.is_err());
    }
    assert_eq!(get(blobs, "c", "o").await, Ok(bytes(1, 0, 10)));
}

pub(crate) async fn what_is_not_there_is_said_so(subject: &Subject) {
    let blobs = &*subject.blobs;
    blobs.create("c").await.unwrap();
    put(blobs, "c", "o", 1, 10).await;
    for (container, object) in [("none", "o"), ("c", "none")] {
        assert_eq!(blobs.object(container, object).await, Ok(None));
        assert_eq!(get(blobs, container, object).await, Err(NO_OBJECT));
        let from = (container, object);
        assert_eq!(blobs.copy(from, ("c", "new")).await, Err(NO_OBJECT));
        assert_eq!(blobs.rename(from, ("c", "new")).await, Err(NO_OBJECT));
        assert_eq!(blobs.rename(from, from).await, Err(NO_OBJECT));
        assert_eq!(blobs.copy(from, from).await, Err(NO_OBJECT));
        assert_eq!(blobs.remove(container, &[object.to_owned()]).await, Ok(()));
    }
    assert_eq!(blobs.object("c", "new").await, Ok(None));
    let written = blobs.write("none", "o", Pattern::new(1, 10).boxed());
    assert_eq!(written.await, Err(NO_CONTAINER));
    assert_eq!(blobs.list("none", None, 10).await, Err(NO_CONTAINER));
    assert_eq!(blobs.list("none", Some("a"), 10).await, Err(NO_CONTAINER));
    assert_eq!(
        blobs.copy(("c", "o"), ("none", "o")).await,
        Err(NO_CONTAINER)
    );
    assert_eq!(
        blobs.rename(("c", "o"), ("none", "o")).await,
        Err(NO_CONTAINER)
    );
    assert!(matches!(blobs.bytes("none").await, Ok(None | Some(0))));
    assert_eq!(blobs.info("none").await, Ok(None), "none of it made one");
    assert_eq!(get(blobs, "c", "o").await, Ok(bytes(1, 0, 10)));
}

pub(crate) async fn bytes_come_back_as_they_were(subject: &Subject) {
    let blobs = &*subject.blobs;
    blobs.create("c").await.unwrap();
    let before = now_s();
    for (seed, size) in [0, 1, 255, 60_000, 262_143, 262_144, 262_145, 600_000, PARTS]
        .iter()
        .enumerate()
    {
        let object = format!("o{size}");
        put(blobs, "c", &object, seed as u64, *size).await;
        let info = blobs
            .object("c", &object)
            .await
            .unwrap()
            .expect("it is there");
        assert_eq!(info.n_bytes, *size);
        assert!(
            (before - 2..=now_s() + 2).contains(&info.created_at_s),
            "{info:?}"
        );
        let got = get(blobs, "c", &object).await.unwrap();
        assert!(
            got == bytes(seed as u64, 0, usize::try_from(*size).unwrap()),
            "{size}"
        );
    }
    // Written over by fewer bytes, more, and none.
    for (seed, size) in [(20, 600_000), (21, 5), (22, PARTS), (23, 0), (24, 7)] {
        put(blobs, "c", "over", seed, size).await;
        let got = get(blobs, "c", "over").await.unwrap();
        assert!(
            got == bytes(seed, 0, usize::try_from(size).unwrap()),
            "{size}"
        );
    }
}

pub(crate) async fn a_large_object_passes_through_little_memory(subject: &Subject) {
    let blobs = &*subject.blobs;
    blobs.create("c").await.unwrap();
    // The highest that this process had begins anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_kib("VmRSS:");
    put(blobs, "c", "large", 9, LARGE).await;
    let (n, seen) = digest(blobs, "c", "large").await;
    let grown_mib = memory_kib("VmHWM:").saturating_sub(before) / 1024;
    assert_eq!(n, LARGE);
    assert_eq!(seen, digest_of(9, LARGE).await);
    assert!(grown_mib < 40, "{grown_mib} MiB for an object of 64 MiB");
    blobs.remove("c", &["large".to_owned()]).await.unwrap();
}

pub(crate) async fn an_object_is_seen_whole(subject: &Subject) {
    let blobs = &subject.blobs;
    blobs.create("c").await.unwrap();
    put(&**blobs, "c", "o", 0, 300_000).await;
    // While a new one comes, the old one is there.
    for size in [400_000, PARTS] {
        let old = get(&**blobs, "c", "o").await.unwrap();
        let (here, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let source = Pattern::new(size, size)
            .waits_at(size - 10_000, &here, &go)
            .boxed();
        let writer = tokio::spawn({
            let blobs = Arc::clone(blobs);
            async move { blobs.write("c", "o", source).await }
        });
        here.notified().await;
        assert!(get(&**blobs, "c", "o").await.unwrap() == old);
        assert_eq!(names(&**blobs, "c", 10).await, ["o"]);
        let info = blobs.object("c", "o").await.unwrap().unwrap();
        assert_eq!(info.n_bytes, old.len() as u64);
        go.notify_one();
        writer.await.unwrap().unwrap();
        let got = get(&**blobs, "c", "o").await.unwrap();
        assert!(got == bytes(size, 0, usize::try_from(size).unwrap()));
    }
    // What is being read stays as it was, or breaks off.
    let old = get(&**blobs, "c", "o").await.unwrap();
    let mut blob = blobs.read("c", "o", 0, u64::MAX).await.unwrap();
    let mut seen = blob.bytes.next().await.unwrap().unwrap();
    put(&**blobs, "c", "o", 77, PARTS).await;
    loop {
        match blob.bytes.next().await {
            Ok(Some(piece)) => seen.extend_from_slice(&piece),
            Ok(None) => {
                assert_eq!(seen.len(), old.len());
                break;
            }
            Err(_) => break,
        }
    }
    assert!(old.starts_with(&seen), "bytes of two objects");
}

pub(crate) async fn of_many_writers_one_is_last(subject: &Subject) {
    let blobs = &subject.blobs;
    blobs.create("c").await.unwrap();
    let writers: Vec<_> = (0..12_u64)
        .map(|n| {
            let blobs = Arc::clone(blobs);
            tokio::spawn(async move {
                // A server may refuse some of those that write one object at one moment: an error, and
                // nothing is written.
                for attempt in 1.. {
                    let bytes = Pattern::new(n, 300_000 + n * 1_000).boxed();
                    match blobs.write("c", "same", bytes).await {
                        Ok(()) => break,
                        Err(CloudError::Failed(_)) if attempt < 20 => {}
                        Err(error) => panic!("`same`: {error}"),
                    }
                }
                put(&*blobs, "c", &format!("own-{n:02}"), n, 1_000 + n).await;
            })
        })
        .collect();
    // Whoever looks meanwhile sees one of them.
    for _ in 0..20 {
        if let Ok(seen) = get(&**blobs, "c", "same").await {
            assert_is_one_of_them(&seen);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_is_one_of_them(&get(&**blobs, "c", "same").await.unwrap());
    for n in 0..12_u64 {
        let got = get(&**blobs, "c", &format!("own-{n:02}")).await.unwrap();
        assert!(got == bytes(n, 0, 1_000 + usize::try_from(n).unwrap()));
    }
    assert_eq!(names(&**blobs, "c", 5).await.len(), 13);
}

fn assert_is_one_of_them(seen: &[u8]) {
    let n = (seen.len() - 300_000) / 1_000;
    assert!(seen == bytes(n as u64, 0, 300_000 + n * 1_000), "a mixture");
}

pub(crate) async fn a_broken_source_writes_nothing(subject: &Subject) {
    let blobs = &*subject.blobs;
    blobs.create("c").await.unwrap();
    put(blobs, "c", "old", 5, 50).await;
    let broken = CloudError::Invalid("the source is broken".to_owned());
    for at in [0, 60_000, 300_000, PARTS - 1] {
        for object in ["old", "new"] {
            let source = Pattern::new(6, PARTS + 60_000).breaks_at(at).boxed();
            assert_eq!(blobs.write("c", object, source).await, Err(broken.clone()));
        }
    }
    // Nor one that is left alone.
    for at in [300_000, PARTS - 100_000] {
        let (here, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let source = Pattern::new(6, PARTS).waits_at(at, &here, &go).boxed();
        tokio::select! {
            _ = blobs.write("c", "old", source) => panic!("it waits"),
            () = here.notified() => {}
        }
    }
    assert_eq!(names(blobs, "c", 10).await, ["old"]);
    assert_eq!(get(blobs, "c", "old").await, Ok(bytes(5, 0, 50)));
    assert!(matches!(blobs.bytes("c").await, Ok(None | Some(50))));
}

pub(crate) async fn ranges_are_cut_and_refused(subject: &Subject) {
    let blobs = &*subject.blobs;
    blobs.create("c").await.unwrap();
    put(blobs, "c", "empty", 1, 0).await;
    for size in [1_000, 1_000_000] {
        put(blobs, "c", "o", size, size).await;
        // `end` is inclusive.
        for (start, end) in [
            (0, 0),
            (0, size - 1),
            (0, size),
            (0, u64::MAX),
            (10, 19),
            (size - 1, size - 1),
            (size - 1, u64::MAX),
            (size / 2, size - 2),
        ] {
            let got = range(blobs, "c", "o", start, end).await.unwrap();
            let n = usize::try_from(end.min(size - 1) - start + 1).unwrap();
            assert!(got == bytes(size, start, n), "{start}..={end} of {size}");
        }
        for (start, end) in [(5, 4), (size, size), (size, u64::MAX), (u64::MAX, u64::MAX)] {
            let error = range(blobs, "c", "o", start, end)
                .await
                .expect_err("refused");
            assert!(
                matches!(error, CloudError::Invalid(_)),
                "{start}..={end}: {error:?}"
            );
        }
    }
    for end in [0, 5, u64::MAX] {
        assert_eq!(range(blobs, "c", "empty", 0, end).await, Ok(Vec::new()));
    }
    for (start, end) in [(1, 1), (1, 0), (7, u64::MAX)] {
        let error = range(blobs, "c", "empty", start, end)
            .await
            .expect_err("refused");
        assert!(matches!(error, CloudError::Invalid(_)), "{error:?}");
    }
}

pub(crate) async fn copies_and_moves(subject: &Subject) {
    let blobs = &*subject.blobs;
    for container in ["c", "d"] {
        blobs.create(container).await.unwrap();
    }
    for size in [0, 1_000, PARTS] {
        let all = bytes(size, 0, usize::try_from(size).unwrap());
        put(blobs, "c", "a", size, size).await;
        put(blobs, "d", "b", 99, 2_000_000).await;
        // Over another one, in another container.
        blobs.copy(("c", "a"), ("d", "b")).await.unwrap();
        assert!(get(blobs, "d", "b").await.unwrap() == all);
        blobs.copy(("c", "a"), ("c", "a2")).await.unwrap();
        // The source may go.
        blobs.rename(("c", "a"), ("d", "b2")).await.unwrap();
        assert_eq!(blobs.object("c", "a").await, Ok(None));
        blobs.rename(("d", "b2"), ("d", "b3")).await.unwrap();
        blobs.rename(("d", "b3"), ("d", "b")).await.unwrap();
        assert_eq!(names(blobs, "c", 10).await, ["a2"]);
        assert_eq!(names(blobs, "d", 10).await, ["b"]);
        assert!(get(blobs, "d", "b").await.unwrap() == all);
        // Onto itself.
        blobs.copy(("c", "a2"), ("c", "a2")).await.unwrap();
        blobs.rename(("c", "a2"), ("c", "a2")).await.unwrap();
        assert!(get(blobs, "c", "a2").await.unwrap() == all);
        blobs.remove("c", &["a2".to_owned()]).await.unwrap();
        assert_eq!(names(blobs, "c", 10).await, Vec::<String>::new());
        assert!(get(blobs, "d", "b").await.unwrap() == all);
        assert!(matches!(blobs.bytes("c").await, Ok(None | Some(0))));
        let n_bytes = blobs.bytes("d").await.unwrap();
        assert!(n_bytes.is_none_or(|n_bytes| n_bytes == size), "{n_bytes:?}");
    }
}

pub(crate) async fn a_full_container_is_deleted(subject: &Subject) {
    let blobs = &*subject.blobs;
    blobs.create("c").await.unwrap();
    blobs.create("ca").await.unwrap();
    put(blobs, "ca", "other", 1, 3).await;
    let all: Vec<String> = (0..60).map(|n| format!("dir/{n}")).collect();
    for object in &all {
        put(blobs, "c", object, 1, 3).await;
    }
    put(blobs, "c", "parts", 1, PARTS).await;
    let expected = 180 + PARTS;
    assert!(
        matches!(blobs.bytes("c").await, Ok(None)) || blobs.bytes("c").await == Ok(Some(expected))
    );
    blobs.remove("c", &all[..10]).await.unwrap();
    assert_eq!(names(blobs, "c", 1_000).await.len(), 51);
    assert!(
        matches!(blobs.bytes("c").await, Ok(None))
            || blobs.bytes("c").await == Ok(Some(expected - 30))
    );
    blobs.delete("c").await.unwrap();
    assert_eq!(blobs.info("c").await, Ok(None));
    assert_eq!(blobs.list("c", None, 10).await, Err(NO_CONTAINER));
    assert_eq!(get(blobs, "c", "parts").await, Err(NO_OBJECT));
    let written = blobs.write("c", "o", Pattern::new(1, 10).boxed());
    assert_eq!(written.await, Err(NO_CONTAINER));
    blobs.create("c").await.unwrap();
    assert_eq!(names(blobs, "c", 10).await, Vec::<String>::new());
    assert!(matches!(blobs.bytes("c").await, Ok(None | Some(0))));
    assert_eq!(names(blobs, "ca", 10).await, ["other"]);
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

pub(crate) fn memory_kib(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}
