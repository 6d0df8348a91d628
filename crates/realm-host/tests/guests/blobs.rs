//! Guests of `wasi:blobstore`: the same component against each backend, and what it may not.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use realm_backends::Unwatched;
use realm_backends::blobs::{Announced, Directory, S3, S3Settings};
use realm_backends::messaging::{Embedded, Room};
use realm_host::Store;
use realm_model::cloud::{Answer, Blob, BlobSource, Blobs, CloudError, ContainerInfo, ObjectInfo};
use realm_model::grants::StoreGrant;
use realm_test_guests as guests;
use tempfile::TempDir;

use crate::harness::{Guest, eventually, get, guest};
use crate::swift::{BUCKET, REGION, Swift};

fn folder() -> (TempDir, Arc<dyn Blobs>) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Directory::open(folder.path(), Arc::new(Unwatched)).unwrap();
    (folder, Arc::new(blobs))
}

/// A guest that has time, for which every container is in one store.
fn bound(blobs: &Arc<dyn Blobs>) -> Guest {
    guest(guests::BLOBSTORE)
        .bind(StoreGrant::ANY, Store::Blobs(Arc::clone(blobs)))
        .limits(|limits| {
            limits.memory_max_mb = 128;
            limits.wall_timeout_ms = 100_000;
            limits.epoch_timeout_ms = 60_000;
        })
}

/// What the guest says of each of its checks.
#[track_caller]
fn all_ok(lines: &str) {
    let bad: Vec<&str> = lines
        .lines()
        .filter(|line| !line.starts_with("ok "))
        .collect();
    assert!(bad.is_empty() && lines.lines().count() == 15, "{lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn blobstore() {
    let (_folder, blobs) = folder();
    let loaded = bound(&blobs).load();
    all_ok(&loaded.body("/?c=photos").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobstore_in_s3() {
    let folder = tempfile::tempdir().unwrap();
    let swift = Swift::start(folder.path(), None);
    let settings = S3Settings {
        bucket: BUCKET.to_owned(),
        prefix: "guest".to_owned(),
        region: Some(REGION.to_owned()),
        endpoint: Some(swift.endpoint()),
        credentials: Some(Swift::credentials()),
        roots: None,
    };
    let blobs: Arc<dyn Blobs> = Arc::new(S3::new(&settings, Arc::new(Unwatched)).unwrap());
    let loaded = bound(&blobs).load();
    all_ok(&loaded.body("/?c=photos").await);
    assert!(!swift.listing(BUCKET, "uploads").contains("<UploadId>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_nothing_binds_is_not_opened() {
    let (_folder, blobs) = folder();
    let (_other_folder, other) = folder_of_another(&blobs).await;
    let denied = "Err(\"no store is bound to this name\")\n";
    // Without any binding, and with one of another name.
    let nothing = guest(guests::BLOBSTORE).load();
    assert_eq!(nothing.body("/write?c=photos&o=a").await, denied);
    let named = guest(guests::BLOBSTORE)
        .bind("photos", Store::Blobs(Arc::clone(&blobs)))
        .load();
    assert_eq!(named.body("/write?c=photos&o=a&n=5").await, "Ok(())\n");
    for name in ["theirs", "Photos", "photos/../theirs", "", "*", "%00"] {
        assert_eq!(
            named.body(&format!("/write?c={name}&o=a")).await,
            denied,
            "{name}"
        );
    }
    let read = named.get("/read?c=theirs&o=mine").await.unwrap();
    assert_eq!(
        (read.status, read.text()),
        (404, "no store is bound to this name\n")
    );
    assert_eq!(other.object("theirs", "a").await, Ok(None));
    // The same name in two stores is two containers.
    let elsewhere = guest(guests::BLOBSTORE)
        .bind("photos", Store::Blobs(Arc::clone(&other)))
        .load();
    let read = elsewhere.get("/read?c=photos&o=a").await.unwrap();
    assert_eq!(read.text(), "the container is not there\n");
}

async fn folder_of_another(_one: &Arc<dyn Blobs>) -> (TempDir, Arc<dyn Blobs>) {
    let (folder, other) = folder();
    other.create("theirs").await.unwrap();
    (folder, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_of_bytes_holds_while_they_come() {
    let (_folder, blobs) = folder();
    let loaded = bound(&blobs)
        .limits(|limits| limits.storage_max_mb = 3)
        .load();
    let used_up = "Err(\"the quota is used up: `storage_max_mb`\")\n";
    assert_eq!(loaded.body("/write?c=c&o=a&n=2000000").await, "Ok(())\n");
    assert_eq!(loaded.body("/write?c=c&o=b&n=2000000").await, used_up);
    assert_eq!(blobs.object("c", "b").await, Ok(None));
    // Over itself it fits, and takes no more room.
    assert_eq!(loaded.body("/write?c=c&o=a&n=2500000").await, "Ok(())\n");
    assert_eq!(loaded.body("/write?c=c&o=a&n=9000000").await, used_up);
    assert_eq!(blobs.bytes("c").await, Ok(Some(2_500_000)));
    // Empty ones are not free.
    let mut n = 0;
    while loaded.body(&format!("/write?c=c&o=e{n}&n=0")).await == "Ok(())\n" {
        n += 1;
        assert!(n < 1_000, "objects without end");
    }
    assert!(n > 300, "{n}");
}

/// Without a binding and a `write-data` a guest has nothing but its share of what the host keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_go_nowhere_are_bounded() {
    let loaded = guest(guests::BLOBS_LIMITS)
        .limits(|limits| {
            limits.wall_timeout_ms = 60_000;
            limits.epoch_timeout_ms = 30_000;
        })
        .load();
    assert_eq!(loaded.body("/unplaced?n=10").await, "10");
    assert_eq!(loaded.body("/unplaced?n=100").await, "40");
}

/// A guest with 3 MiB in the store of the container `c`.
fn with_a_quota(blobs: &Arc<dyn Blobs>) -> Guest {
    guest(guests::BLOBS_LIMITS)
        .bind("c", Store::Blobs(Arc::clone(blobs)))
        .limits(|limits| {
            limits.storage_max_mb = 3;
            limits.wall_timeout_ms = 60_000;
            limits.epoch_timeout_ms = 30_000;
        })
}

const USED_UP: &str = "Err(\"the quota is used up: `storage_max_mb`\")";

/// Objects without a byte, in a container that is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn blobs_limits() {
    let (_folder, blobs) = folder();
    blobs.create("c").await.unwrap();
    blobs.write("c", "x", Box::new(Zeros(28))).await.unwrap();
    let loaded = with_a_quota(&blobs).load();
    let filled = loaded.body("/fill?c=c&n=1000").await;
    assert!(
        filled.starts_with("Ok(") && filled != "Ok(1000)",
        "{filled}"
    );
    let used = blobs.used().await.unwrap().unwrap();
    assert!(used <= 3 << 20, "{used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_moved_away_is_not_written_over() {
    let (_folder, blobs) = folder();
    blobs.create("c").await.unwrap();
    blobs.write("c", "x", Box::new(Zeros(20))).await.unwrap();
    let loaded = with_a_quota(&blobs).load();
    assert_eq!(loaded.body("/move_away?c=c&o=x&n=2000000").await, USED_UP);
    let left = Ok(vec!["x-moved".to_owned()]);
    assert_eq!(blobs.list("c", None, 10).await, left);
}

/// Out of another store, whose object is larger than it was when it was looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grows_while_it_is_copied_is_stopped() {
    let ((_folder, blobs), (_other_folder, other)) = (folder(), folder());
    blobs.create("c").await.unwrap();
    other.create("elsewhere").await.unwrap();
    let bytes = Box::new(Zeros(40));
    other.write("elsewhere", "x", bytes).await.unwrap();
    let source: Arc<dyn Blobs> = Arc::new(Swelling(other));
    let loaded = with_a_quota(&blobs)
        .bind("elsewhere", Store::Blobs(source))
        .load();
    let copied = loaded.body("/copy?c=elsewhere&o=x&to=c").await;
    assert_eq!(copied, USED_UP);
    assert_eq!(blobs.object("c", "x").await, Ok(None));
}

/// Pieces of 100,000 bytes.
struct Zeros(usize);

impl BlobSource for Zeros {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError> {
        let more = self.0.checked_sub(1);
        self.0 = more.unwrap_or(0);
        Box::pin(async move { Ok(more.map(|_| vec![0; 100_000])) })
    }
}

/// A store in which an object is written over between the look at it and the reading.
struct Swelling(Arc<dyn Blobs>);

impl Blobs for Swelling {
    fn create<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        self.0.create(container)
    }
    fn delete<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        self.0.delete(container)
    }
    fn info<'a>(&'a self, container: &'a str) -> Answer<'a, Option<ContainerInfo>> {
        self.0.info(container)
    }
    fn write<'a>(&'a self, c: &'a str, o: &'a str, bytes: Box<dyn BlobSource>) -> Answer<'a, ()> {
        self.0.write(c, o, bytes)
    }
    fn read<'a>(&'a self, c: &'a str, o: &'a str, start: u64, end: u64) -> Answer<'a, Blob> {
        self.0.read(c, o, start, end)
    }
    fn object<'a>(&'a self, c: &'a str, o: &'a str) -> Answer<'a, Option<ObjectInfo>> {
        Box::pin(async move {
            let info = self.0.object(c, o).await?;
            Ok(info.map(|info| ObjectInfo { n_bytes: 1, ..info }))
        })
    }
    fn list<'a>(&'a self, c: &'a str, after: Option<&'a str>, n: usize) -> Answer<'a, Vec<String>> {
        self.0.list(c, after, n)
    }
    fn remove<'a>(&'a self, container: &'a str, objects: &'a [String]) -> Answer<'a, ()> {
        self.0.remove(container, objects)
    }
    fn copy<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        self.0.copy(from, to)
    }
    fn rename<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        self.0.rename(from, to)
    }
    fn bytes<'a>(&'a self, container: &'a str) -> Answer<'a, Option<u64>> {
        self.0.bytes(container)
    }
    fn used(&self) -> Answer<'_, Option<u64>> {
        self.0.used()
    }
}

/// However many names a call has: each thousand is an operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deletions_are_an_operation() {
    let (_folder, blobs) = folder();
    blobs.create("c").await.unwrap();
    let limited = |n| {
        let limited = guest(guests::BLOBS_LIMITS).bind("c", Store::Blobs(Arc::clone(&blobs)));
        let limited = limited.limits(|limits| limits.operations_per_sec = Some(n));
        limited.load()
    };
    let used_up = "Err(\"the quota is used up: `operations_per_sec`\")";
    assert_eq!(limited(3).body("/delete?c=c&n=9001").await, used_up);
    assert_eq!(limited(11).body("/delete?c=c&n=9001").await, "Ok(())");
}

/// Each is a message, in a queue that others have as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_deletion_that_is_told_is_an_operation() {
    let (folder, blobs) = folder();
    blobs.create("c").await.unwrap();
    let path = folder.path().join("queue");
    let queue = Embedded::open(path, Room::default(), Arc::new(Unwatched), Arc::new(|_| {}));
    let told = Announced::new(Arc::clone(&blobs), Arc::new(queue.unwrap()), "changes");
    let told: Arc<dyn Blobs> = Arc::new(told);
    let limited = |n| {
        let limited = guest(guests::BLOBS_LIMITS).bind("c", Store::Blobs(Arc::clone(&told)));
        let limited = limited.limits(|limits| limits.operations_per_sec = Some(n));
        limited.load()
    };
    let used_up = "Err(\"the quota is used up: `operations_per_sec`\")";
    assert_eq!(limited(50).body("/delete?c=c&n=100").await, used_up);
    assert_eq!(limited(150).body("/delete?c=c&n=100").await, "Ok(())");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_and_objects_at_once_are_counted() {
    let (_folder, blobs) = folder();
    let loaded = bound(&blobs).load();
    let begun = loaded.body("/hold?c=c&n=17").await;
    let expected = "Ok(())\n".repeat(16)
        + "Err(\"16 objects are being written: the next one has to wait for one of them\")\n";
    assert_eq!(begun, expected);
    // With the guest they are given up, and nothing of them is there.
    let free = async || loaded.body("/hold?c=c&n=16").await == "Ok(())\n".repeat(16);
    let begun = std::time::Instant::now();
    while !free().await {
        assert!(begun.elapsed().as_secs() < 20, "they stay");
    }
    assert_eq!(blobs.list("c", None, 100).await, Ok(Vec::new()));

    let limited = bound(&blobs)
        .limits(|limits| limits.operations_per_sec = Some(3))
        .load();
    let mut last = String::new();
    for _ in 0..20 {
        last = limited.body("/write?c=c&o=a").await;
        if last.starts_with("Err") {
            break;
        }
    }
    assert_eq!(
        last,
        "Err(\"the quota is used up: `operations_per_sec`\")\n"
    );
}

/// A reader that takes nothing holds the guest up, and no memory is filled meanwhile; a guest that ends in
/// the middle of a writing leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_holds_the_guest_up() {
    const N: usize = 40_000_000;
    let (_folder, blobs) = folder();
    let loaded = bound(&blobs)
        .limits(|limits| limits.memory_max_mb = 8)
        .load();
    assert_eq!(
        loaded.body(&format!("/write?c=c&o=large&n={N}")).await,
        "Ok(())\n"
    );
    let rss_mib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            / 1024
    };
    let before = rss_mib();
    let response = loaded.replica.call(get("/read?c=c&o=large")).await.unwrap();
    let mut body = response.into_body();
    let mut n = 0;
    let mut grown = 0;
    while let Some(frame) = body.frame().await {
        let bytes = frame.unwrap().into_data().unwrap();
        n += bytes.len();
        grown = grown.max(rss_mib().saturating_sub(before));
        tokio::task::yield_now().await;
    }
    assert_eq!(n, N);
    assert!(grown < 24, "{grown} MiB for an object of 40");
    drop(body);

    // One whose reader leaves gives its place up.
    for _ in 0..70 {
        let response = loaded.replica.call(get("/read?c=c&o=large")).await.unwrap();
        drop(response);
    }
    eventually(|| loaded.replica.in_flight() == 0).await;
    assert_eq!(loaded.get("/read?c=c&o=large").await.unwrap().body.len(), N);
    assert_eq!(
        blobs.info("none").await,
        Ok(None::<realm_model::cloud::ContainerInfo>)
    );
    assert_eq!(blobs.delete("c").await, Ok::<(), CloudError>(()));
}
