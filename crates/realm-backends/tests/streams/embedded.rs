//! What concerns the file alone.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realm_backends::streams::Embedded;
use realm_backends::{OpenError, Unwatched, Watch};
use realm_model::cloud::streams::{Bounds, Keep, Record};
use realm_model::cloud::{CloudError, Streams};

use crate::support::{Bed, SHORT_BYTES, append, at, record, replay, wait_until, words};

pub(crate) fn open(path: &Path) -> Arc<dyn Streams> {
    keeping(path, Keep::default())
}

fn keeping(path: &Path, keep: Keep) -> Arc<dyn Streams> {
    Arc::new(Embedded::open(path, keep, Arc::new(Unwatched)).unwrap())
}

pub(crate) fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let of_bytes = Keep {
        bytes: Some(SHORT_BYTES),
        age: None,
    };
    let of_age = Keep {
        bytes: None,
        age: Some(Duration::from_secs(1)),
    };
    Bed {
        streams: open(&path("streams")),
        short: keeping(&path("short"), of_bytes),
        brief: keeping(&path("brief"), of_age),
        _keep: Box::new(folder),
    }
}

fn refused(path: &Path) -> OpenError {
    match Embedded::open(path, Keep::default(), Arc::new(Unwatched)) {
        Ok(_) => panic!("it is opened"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_finds_what_an_end_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams");
    let streams = open(&path);
    for n in 0..10 {
        append(&streams, "orders", n.to_string()).await;
    }
    streams.trim(at("orders"), 4).await.unwrap();
    streams
        .commit(at("orders"), "bills", 7, None)
        .await
        .unwrap();
    assert_eq!(refused(&path).code(), "store-locked");
    let before = replay(&streams, "orders").await;
    drop(streams);
    let streams = open(&path);
    assert_eq!(replay(&streams, "orders").await, before);
    assert_eq!(streams.position(at("orders"), "bills").await, Ok(Some(7)));
    assert_eq!(append(&streams, "orders", "next").await, 11);
    let mode = fs::metadata(&path).unwrap().permissions();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode);
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(&folder.path().join("streams"));
    for _ in 0..20 {
        let batch = vec![record("x".repeat(1_000)); 1_000];
        streams.append(at("orders"), batch, None).await.unwrap();
    }
    let full = streams.bytes().await.unwrap().unwrap();
    assert!(full > 20_000_000, "{full}");
    streams.trim(at("orders"), 20_000).await.unwrap();
    wait_until("it is swept", async || {
        streams.bytes().await.unwrap().unwrap() < 2_000
    })
    .await;
    let bounds = Bounds {
        first: 20_000,
        last: 20_000,
    };
    assert_eq!(streams.bounds(at("orders")).await, Ok(bounds));
    assert_eq!(replay(&streams, "orders").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_manifest_keeps_holds_for_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(&folder.path().join("streams"));
    for n in 0..100 {
        append(&streams, "orders", n.to_string().repeat(5_000)).await;
    }
    streams.keep(Keep {
        bytes: Some(SHORT_BYTES),
        age: None,
    });
    append(&streams, "other", "x").await;
    wait_until("the oldest go", async || {
        streams.bytes().await.unwrap().unwrap() < SHORT_BYTES + 1_000
    })
    .await;
    let all = replay(&streams, "orders").await;
    assert_eq!(words(all.last().unwrap()), "99".repeat(5_000));
}

/// Remembers what the operator is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Watch for Told {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(why.to_owned());
    }

    fn up(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_damaged_is_said_to_be_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams");
    let streams = open(&path);
    let known = Record {
        data: b"a text that is found in the file".to_vec(),
        ..Record::default()
    };
    streams
        .append(at("orders"), vec![known.clone()], None)
        .await
        .unwrap();
    append(&streams, "other", "well").await;
    drop(streams);
    let whole = fs::read(&path).unwrap();

    // A bit of a record.
    let mut bytes = whole.clone();
    let windows = bytes.windows(known.data.len());
    let places: Vec<usize> = windows
        .enumerate()
        .filter(|(_, window)| *window == known.data)
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place + 3] ^= 4;
    }
    fs::write(&path, &bytes).unwrap();
    let told = Arc::<Told>::default();
    let watch: Arc<dyn Watch> = Arc::clone(&told) as _;
    let streams: Arc<dyn Streams> =
        Arc::new(Embedded::open(&path, Keep::default(), watch).unwrap());
    let read = streams.read(at("orders"), 0, 1, Duration::ZERO).await;
    let damaged = CloudError::Failed("the entry is damaged".to_owned());
    assert_eq!(read, Err(damaged.into()));
    let said = told.0.lock().unwrap().join("\n");
    assert!(said.contains("stream `orders` is damaged"), "{said}");
    // Its time is not: what comes after it is found.
    assert_eq!(streams.find(at("orders"), u64::MAX).await, Ok(2));
    assert_eq!(replay(&streams, "other").await.len(), 1);
    assert_eq!(append(&streams, "orders", "next").await, 2);
    drop(streams);

    // Its beginning, its end, and something else.
    for bytes in [
        [&[0; 64], &whole[64..]].concat(),
        whole[..100].to_vec(),
        b"hello".to_vec(),
    ] {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(refused(&path).code(), "store-damaged");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(replay(&open(&path), "orders").await.len(), 1);
}
