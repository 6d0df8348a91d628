//! Changes that are told: each once it is done, and none that is not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realm_backends::Unwatched;
use realm_backends::blobs::{Announced, Directory};
use realm_backends::messaging::{Embedded, Room};
use realm_model::cloud::{
    Answer, BlobSource, Blobs as _, CloudError, Deliveries, Group, Letter, Message, Messaging,
    Subscription,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::heard::Heard;
use crate::sources::{get, put};

struct Told {
    blobs: Announced,
    messages: Arc<dyn Messaging>,
    _folder: TempDir,
}

/// A store that tells its changes, into a queue of so many messages.
async fn told(room: Room) -> Told {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let blobs = Directory::open(&path.join("blobs"), Arc::new(Heard::default())).unwrap();
    let queue = Embedded::open(
        path.join("queue"),
        room,
        Arc::new(Unwatched),
        Arc::new(|_| {}),
    );
    let messages: Arc<dyn Messaging> = Arc::new(queue.unwrap());
    messages.keep_groups(&[changes()]).await.unwrap();
    let blobs = Announced::new(Arc::new(blobs), Arc::clone(&messages), "changes");
    blobs.create("c").await.unwrap();
    Told {
        blobs,
        messages,
        _folder: folder,
    }
}

impl Told {
    /// So many messages, and no more.
    async fn heard(&self, n: usize) -> Vec<Value> {
        let subscription = Subscription {
            group: changes(),
            n_in_flight: 100,
            ack_wait: Duration::from_secs(60),
            n_deliveries: 1,
            dead_letter: None,
            wanted: None,
        };
        let mut deliveries = self.messages.subscribe(&subscription).await.unwrap();
        let mut heard = Vec::new();
        while heard.len() < n {
            let next = tokio::time::timeout(Duration::from_secs(60), deliveries.next());
            let delivery = next.await.unwrap().unwrap();
            assert_eq!(
                delivery.message.content_type.as_deref(),
                Some("application/json")
            );
            heard.push(serde_json::from_slice(&delivery.message.data).unwrap());
            delivery.receipt.ack().await.unwrap();
        }
        let more = tokio::time::timeout(Duration::from_millis(200), deliveries.next());
        assert!(more.await.is_err(), "more than {n} were told");
        heard
    }
}

fn changes() -> Group {
    Group {
        topic: "changes".to_owned(),
        name: "g".to_owned(),
    }
}

struct Broken;

impl BlobSource for Broken {
    fn next(&mut self) -> realm_model::cloud::Answer<'_, Option<Vec<u8>>> {
        Box::pin(std::future::ready(Err(CloudError::Failed(
            "broken".to_owned(),
        ))))
    }
}

#[tokio::test]
async fn each_change_is_told_once_it_is_done() {
    let told = told(Room::default()).await;
    let blobs = &told.blobs;
    put(blobs, "c", "a\"b/\u{e4}", 1, 70_000).await;
    put(blobs, "c", "empty", 1, 0).await;
    blobs.copy(("c", "empty"), ("c", "copy")).await.unwrap();
    blobs.create("d").await.unwrap();
    let name = "a\"b/\u{e4}";
    blobs.rename(("c", name), ("d", "moved")).await.unwrap();
    let both = ["copy".to_owned(), "never".to_owned()];
    blobs.remove("c", &both).await.unwrap();
    blobs.delete("c").await.unwrap();
    assert_eq!(
        told.heard(7).await,
        [
            json!({"kind": "written", "container": "c", "object": name, "size": 70_000}),
            json!({"kind": "written", "container": "c", "object": "empty", "size": 0}),
            json!({"kind": "copied", "container": "c", "object": "copy", "size": 0,
                "from": {"container": "c", "object": "empty"}}),
            json!({"kind": "moved", "container": "d", "object": "moved", "size": 70_000,
                "from": {"container": "c", "object": name}}),
            json!({"kind": "deleted", "container": "c", "object": "copy"}),
            json!({"kind": "deleted", "container": "c", "object": "never"}),
            json!({"kind": "container-deleted", "container": "c"}),
        ]
    );
    assert_eq!(get(blobs, "d", "moved").await.unwrap().len(), 70_000);
}

#[tokio::test]
async fn what_is_not_done_is_not_told() {
    let told = told(Room::default()).await;
    let blobs = &told.blobs;
    assert!(blobs.write("c", "o", Box::new(Broken)).await.is_err());
    assert!(blobs.write("none", "o", Box::new(Broken)).await.is_err());
    assert!(blobs.copy(("c", "none"), ("c", "o")).await.is_err());
    assert!(blobs.rename(("c", "none"), ("c", "o")).await.is_err());
    assert!(blobs.remove("none", &[String::new()]).await.is_err());
    assert!(blobs.delete("").await.is_err());
    assert_eq!(told.heard(0).await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_cannot_be_told_is_an_error_for_who_did_it() {
    let room = Room {
        n_messages_max: 1,
        ..Room::default()
    };
    let told = told(room).await;
    put(&told.blobs, "c", "one", 1, 10).await;
    let removed = told.blobs.remove("c", &["one".to_owned()]).await;
    assert!(
        matches!(&removed, Err(CloudError::Failed(words)) if words.contains("was not told")),
        "{removed:?}"
    );
    // It is done all the same, and done again once there is room, it is told.
    assert_eq!(told.blobs.object("c", "one").await, Ok(None));
    assert_eq!(told.heard(1).await.len(), 1);
    let again = told.blobs.remove("c", &["one".to_owned()]).await;
    assert_eq!(again, Ok(()));
    assert_eq!(told.heard(1).await[0]["kind"], "deleted");
}

/// A queue that takes its time with each message.
#[derive(Default)]
struct Slow {
    now: AtomicUsize,
    most: AtomicUsize,
    sent: Mutex<Vec<Vec<u8>>>,
}

impl Messaging for Slow {
    fn send<'a>(&'a self, _: &'a str, message: Message, _: Option<Duration>) -> Answer<'a, ()> {
        self.sent.lock().unwrap().push(message.data);
        Box::pin(async move {
            let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            tokio::task::yield_now().await;
            self.now.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        })
    }

    fn request<'a>(
        &'a self,
        _: &'a str,
        _: Message,
        _: Duration,
        _: u32,
    ) -> Answer<'a, Vec<Message>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn reply<'a>(&'a self, _: &'a str, _: Message) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe<'a>(&'a self, _: &'a Subscription) -> Answer<'a, Box<dyn Deliveries>> {
        Box::pin(std::future::ready(Err(CloudError::Unsupported("hear"))))
    }

    fn keep_groups<'a>(&'a self, _: &'a [Group]) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn dead(&self, _: usize) -> Answer<'_, Vec<Message>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn letters(&self) -> Answer<'_, Vec<Letter>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn letter(&self, _: u64) -> Answer<'_, Option<Letter>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn settle_letter(&self, _: u64, _: bool) -> Answer<'_, bool> {
        Box::pin(std::future::ready(Ok(false)))
    }
}

/// One after the other, a thousand deletions would wait for a thousand writes to a disk.
#[tokio::test]
async fn many_deletions_are_told_side_by_side_and_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Directory::open(folder.path(), Arc::new(Heard::default())).unwrap();
    let slow = Arc::new(Slow::default());
    let blobs = Announced::new(Arc::new(blobs), slow.clone(), "changes");
    assert!(blobs.is_told());
    blobs.create("c").await.unwrap();
    let names: Vec<_> = (0..1_000).map(|n| format!("o{n:04}")).collect();
    blobs.remove("c", &names).await.unwrap();
    let sent = slow.sent.lock().unwrap();
    let sent: Vec<Value> = sent
        .iter()
        .map(|one| serde_json::from_slice(one).unwrap())
        .collect();
    let told: Vec<_> = sent
        .iter()
        .map(|one| one["object"].as_str().unwrap())
        .collect();
    assert_eq!(told, names);
    assert!(
        slow.most.load(Ordering::Relaxed) >= 50,
        "one after the other"
    );
}

#[tokio::test]
async fn many_who_change_something_have_no_more_messages_on_their_way_than_one() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Directory::open(folder.path(), Arc::new(Heard::default())).unwrap();
    let slow = Arc::new(Slow::default());
    let blobs = Announced::new(Arc::new(blobs), slow.clone(), "changes");
    blobs.create("c").await.unwrap();
    let names = |of: usize| (0..200).map(move |n| format!("o{of}-{n}")).collect();
    let all: Vec<Vec<String>> = (0..10).map(names).collect();
    let removed = all.iter().map(|names| blobs.remove("c", names));
    for removed in futures_util::future::join_all(removed).await {
        removed.unwrap();
    }
    assert_eq!(slow.sent.lock().unwrap().len(), 2_000);
    let most = slow.most.load(Ordering::Relaxed);
    assert!((50..=100).contains(&most), "{most}");
}
