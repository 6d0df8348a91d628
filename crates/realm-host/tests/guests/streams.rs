//! Guests with streams in a file. The same guest asks a real server in the end-to-end tests.

use std::path::Path;
use std::sync::Arc;

use realm_backends::Unwatched;
use realm_backends::streams::Embedded;
use realm_host::Store;
use realm_model::cloud::Streams;
use realm_model::cloud::streams::{Keep, Place, Record};
use realm_test_guests as guests;

use crate::harness::{Loaded, guest};

fn open(folder: &Path) -> Arc<dyn Streams> {
    let path = folder.join("streams");
    Arc::new(Embedded::open(&path, Keep::default(), Arc::new(Unwatched)).unwrap())
}

/// What a guest says, whatever came of it.
async fn said(loaded: &Loaded, target: &str) -> String {
    loaded.get(target).await.unwrap().text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn streams() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::Streams(open(folder.path()));
    let loaded = guest(guests::STREAMS)
        .limits(|limits| limits.wall_timeout_ms = 60_000)
        .bind("default", store)
        .load();
    for run in 0..2 {
        let answer = loaded.body(&format!("/?run={run}")).await;
        let mut lines = answer.lines();
        assert!(
            lines.all(|line| line.starts_with("ok ")) && answer.lines().count() >= 11,
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_under_a_star_has_streams_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path());
    let loaded = guest(guests::STREAMS)
        .bind("*", Store::Streams(Arc::clone(&streams)))
        .load();
    for (store, words) in [("a", "one"), ("b", "two"), ("a", "three")] {
        loaded
            .body(&format!("/append?store={store}&name=x&words={words}"))
            .await;
    }
    assert_eq!(
        said(&loaded, "/replay?store=a&name=x").await,
        "1 one\n2 three\n"
    );
    assert_eq!(said(&loaded, "/replay?store=b&name=x").await, "1 two\n");
    let place = Place {
        part: "a",
        name: "x",
    };
    assert_eq!(streams.bounds(place).await.unwrap().last, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_operations_on_streams_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path());
    let loaded = guest(guests::STREAMS)
        .limits(|limits| {
            limits.storage_max_mb = 1;
            limits.operations_per_sec = Some(20);
        })
        .bind("default", Store::Streams(Arc::clone(&streams)))
        .load();
    assert_eq!(said(&loaded, "/append?name=x&words=a").await, "1");
    let place = Place {
        part: "",
        name: "x",
    };
    let large = Record {
        data: vec![0; 1_000_000],
        ..Record::default()
    };
    streams
        .append(place, vec![large.clone()], None)
        .await
        .unwrap();
    streams.append(place, vec![large], None).await.unwrap();
    let full = said(&loaded, "/append?name=x&words=b").await;
    assert!(
        full.contains("Quota") && full.contains("storage_max_mb"),
        "{full}"
    );
    // What is taken away makes room.
    streams.trim(place, 4).await.unwrap();
    loop {
        let appended = said(&loaded, "/append?name=x&words=c").await;
        if appended == "4" {
            break;
        }
        assert!(appended.contains("Quota"), "{appended}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let mut refused = 0;
    for _ in 0..100 {
        let said = said(&loaded, "/append?name=y&words=x").await;
        refused += u32::from(said.contains("operations_per_sec"));
    }
    assert!(refused > 0);
}
