//! What concerns the file alone.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use realm_backends::OpenError;
use realm_backends::keyvalue::Embedded;
use realm_backends::{Unwatched, Watch};
use realm_model::cloud::{Edit, KeyValue, limits};

use crate::checks::{SECOND, wait_until};
use crate::{Bench, Can, conformance};

conformance!(start());

fn start() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    Bench {
        store: Arc::new(open(&folder.path().join("kv"))),
        can: Can {
            end_keys: true,
            commit_many: true,
            count_bytes: true,
            tell_each_change: true,
            value_bytes_max: limits::VALUE_BYTES_MAX,
        },
        _held: Box::new(folder),
    }
}

pub(crate) fn open(path: &Path) -> Embedded {
    Embedded::open(path, Arc::new(Unwatched)).unwrap()
}

fn refused(path: &Path) -> OpenError {
    match Embedded::open(path, Arc::new(Unwatched)) {
        Ok(_) => panic!("it is opened"),
        Err(error) => error,
    }
}

/// Remembers what the operator is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Watch for Told {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(why.to_owned());
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let store = open(&path);
    store.set("a", "small", b"x", None).await.unwrap();
    store.set("a", "large", &[7; 100_000], None).await.unwrap();
    store.set("a", "ends", b"x", Some(SECOND)).await.unwrap();
    let before = store.read("a", "small").await.unwrap();
    drop(store);
    tokio::time::sleep(SECOND).await;
    let store = open(&path);
    assert_eq!(store.get("a", "small").await, Ok(Some(b"x".to_vec())));
    assert_eq!(store.get("a", "large").await, Ok(Some(vec![7; 100_000])));
    assert_eq!(store.get("a", "ends").await, Ok(None));
    assert_eq!(store.read("a", "small").await, Ok(before.clone()));
    assert_eq!(store.bytes().await, Ok(Some(6 + 100_005 + 2 * 65)));
    store.set("a", "small", b"y", None).await.unwrap();
    assert_ne!(
        store.read("a", "small").await.unwrap().revision,
        before.revision
    );
    let facts = fs::metadata(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&facts.permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// Nothing reads it, and yet it goes.
#[tokio::test]
async fn what_has_ended_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("kv"));
    let mut changes = store.watch("a").await.unwrap();
    let set = |nth: usize| Edit::Set(format!("k{nth}"), vec![b'x'], Some(SECOND));
    for nth in 0..3 {
        let edits: Vec<Edit> = (nth * 900..(nth + 1) * 900).map(set).collect();
        assert_eq!(store.commit("a", &[], &edits).await, Ok(true));
    }
    let (mut n_set, mut n_ended) = (0, 0);
    while n_ended < 2_700 {
        let next = tokio::time::timeout(10 * SECOND, changes.next()).await;
        match next.expect("it is swept").unwrap().value {
            Some(_) => n_set += 1,
            None => n_ended += 1,
        }
    }
    assert_eq!(n_set, 2_700);
    assert_eq!(store.bytes().await, Ok(Some(0)));
}

#[tokio::test]
async fn a_file_that_is_in_use_is_not_opened_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let store = open(&path);
    let error = refused(&path);
    assert_eq!(error.code(), "store-locked");
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
    drop(store);
    open(&path);
}

#[tokio::test]
async fn a_damaged_file_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let store = open(&path);
    let pairs: Vec<_> = (0..200)
        .map(|nth| (format!("k{nth}"), vec![b'v'; 10 * nth]))
        .collect();
    store.set_many("a", &pairs).await.unwrap();
    store.set("a", "k", b"v", None).await.unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut all = whole.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        all
    };
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("text", b"not a store at all".to_vec()),
        ("zeros", vec![0; 100_000]),
        ("cut short", whole[..whole.len() / 2].to_vec()),
        ("its head alone", whole[..4_096].to_vec()),
        ("another magic", with(0, b"x")),
        ("a version of the engine", with(64, &[0xff; 8])),
        ("the roots", with(64, &[0x55; 256])),
    ] {
        fs::write(&path, &bytes).unwrap();
        let error = refused(&path);
        assert_eq!(error.code(), "store-damaged", "{what}: {error}");
        assert!(
            error.to_string().contains("left as it is"),
            "{what}: {error}"
        );
        assert!(fs::read(&path).unwrap() == bytes, "{what}: it is changed");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(open(&path).get("a", "k").await, Ok(Some(b"v".to_vec())));
}

/// Whatever falls over, what is read is what was written, or an error.
#[tokio::test]
async fn no_damaged_value_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let store = open(&path);
    let value = |nth: usize| vec![(nth % 251) as u8; 50 + nth * 17];
    for nth in 0..300 {
        store
            .set("a", &format!("key-{nth}"), &value(nth), None)
            .await
            .unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut n_errors = 0;
    let mut n_told = 0;
    for step in 0..60 {
        let mut bytes = whole.clone();
        let at = 4_096 + step * (whole.len() - 4_096) / 60;
        bytes[at] ^= 1 << (step % 8);
        fs::write(&path, &bytes).unwrap();
        let told = Arc::new(Told::default());
        let Ok(store) = Embedded::open(&path, told.clone()) else {
            n_errors += 1;
            continue;
        };
        for nth in 0..300 {
            match store.get("a", &format!("key-{nth}")).await {
                Ok(Some(got)) => assert!(got == value(nth), "key-{nth} is another, bit {at}"),
                // A key that fell over is another key, and no trace says so.
                Ok(None) => {}
                Err(error) => {
                    assert!(
                        matches!(error.code(), "backend-failed" | "unavailable"),
                        "{error:?}"
                    );
                    n_errors += 1;
                }
            }
        }
        n_told += usize::from(!told.0.lock().unwrap().is_empty());
    }
    assert!(n_errors > 0, "the test hits something");
    assert!(n_told > 0, "the operator is told");
}

/// Without room the store says so, keeps what it has, and goes on when there is room.
#[tokio::test]
async fn a_watcher_that_falls_behind_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("kv"));
    let mut slow = store.watch("a").await.unwrap();
    let mut quick = store.watch("a").await.unwrap();
    let value = vec![0; 10 * 1024 * 1024];
    for _ in 0..8 {
        store.set("a", "k", &value, None).await.unwrap();
        quick.next().await.unwrap();
    }
    let mut n_seen = 0;
    let error = loop {
        match slow.next().await {
            Ok(_) => n_seen += 1,
            Err(error) => break error,
        }
    };
    assert!(n_seen < 8);
    assert!(error.to_string().contains("fell behind"), "{error}");
}

/// Calls at once share a wait for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_go_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&folder.path().join("kv")));
    let mut all = tokio::task::JoinSet::new();
    for nth in 0..2_000 {
        let store = store.clone();
        all.spawn(async move { store.set("a", &format!("k{nth}"), b"x", None).await });
    }
    // A wait of its own for each would be thousands of them.
    let began = std::time::Instant::now();
    assert!(all.join_all().await.into_iter().all(|one| one.is_ok()));
    let took = began.elapsed();
    let began = std::time::Instant::now();
    for nth in 0..20 {
        store
            .set("b", &format!("k{nth}"), b"x", None)
            .await
            .unwrap();
    }
    let alone = began.elapsed() / 20;
    assert!(
        took < alone * 1_000,
        "{took:?} for 2,000, {alone:?} for one"
    );
    wait_until(SECOND, async || store.bytes().await.unwrap().unwrap() > 0).await;
}

/// Values that wait for the writer are not copied before there is room for them: this process has a
/// memory of its own, where each test has.
#[tokio::test]
async fn many_large_writes_at_once_do_not_take_their_memory_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("kv"));
    let value = vec![7; limits::VALUE_BYTES_MAX];
    let before = peak_mb();
    let sets = (0..64).map(|_| store.set("a", "k", &value, None));
    // Some of them may be over time on a machine that has other work.
    let done = futures_util::future::join_all(sets).await;
    assert!(done.iter().any(Result::is_ok), "{done:?}");
    let more = peak_mb() - before;
    assert!(more < 500, "{more} MB for 64 values of 16 MiB");
}

/// The most memory that this process ever had.
fn peak_mb() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    let kb = line.unwrap().split_whitespace().nth(1).unwrap();
    kb.parse::<u64>().unwrap() / 1024
}

/// What was damaged and is written over is no trouble any more.
#[tokio::test]
async fn the_operator_hears_when_it_answers_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let store = open(&path);
    let value = vec![b'v'; 200];
    store.set("a", "k", &value, None).await.unwrap();
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    let starts: Vec<usize> = (0..bytes.len() - 200)
        .filter(|at| bytes[*at..*at + 200] == value)
        .collect();
    for at in starts {
        bytes[at] = b'w';
    }
    fs::write(&path, &bytes).unwrap();
    let told = Arc::new(Told::default());
    let store = Embedded::open(&path, told.clone()).unwrap();
    let last = || told.0.lock().unwrap().last().cloned();
    assert_eq!(
        store.get("a", "k").await.unwrap_err().code(),
        "backend-failed"
    );
    assert!(last().is_some_and(|last| last.contains("damaged")));
    store.set("a", "k", &value, None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(value)));
    assert_eq!(last().as_deref(), Some("up"));
}
