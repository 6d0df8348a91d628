//! Objects whose changes are told: a message for each one that is done, before the guest hears that it is.
//!
//! Not here: who takes the messages, and what a queue promises of them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use realm_model::cloud::{
    Answer, Blob, BlobSource, Blobs, CloudError, ContainerInfo, Message, Messaging, ObjectInfo,
    limits,
};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A store of objects, and where its changes are told.
///
/// A change is done and durable before its message is sent, and the message is durable before the change
/// is answered. So what was answered was told. A change whose message could not be sent is an error for
/// who made it, though it is done; one over which the node died was not answered, and may be done and not
/// told.
pub struct Announced {
    blobs: Arc<dyn Blobs>,
    messages: Arc<dyn Messaging>,
    topic: String,
    /// For what is on its way, of all who change something at the same time.
    places: Semaphore,
}

/// Messages that are on their way at once: each has up to four names in it.
const AT_ONCE_MAX: usize = 100;

/// What a message says.
#[derive(Serialize)]
struct Event<'a> {
    /// `written`, `copied`, `moved`, `deleted`, `container-deleted`.
    kind: &'static str,
    container: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    /// Bytes of it; nobody knows them where somebody else was at it as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Of what was copied or moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Place<'a>>,
}

#[derive(Serialize)]
struct Place<'a> {
    container: &'a str,
    object: &'a str,
}

/// Counts what passes.
struct Counted {
    bytes: Box<dyn BlobSource>,
    count: Arc<std::sync::atomic::AtomicU64>,
}

impl BlobSource for Counted {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let piece = self.bytes.next().await?;
            let n = piece.as_ref().map_or(0, Vec::len) as u64;
            self.count
                .fetch_add(n, std::sync::atomic::Ordering::Relaxed);
            Ok(piece)
        })
    }
}

impl Announced {
    /// Tells the changes of `blobs` to a topic.
    pub fn new(blobs: Arc<dyn Blobs>, messages: Arc<dyn Messaging>, topic: &str) -> Self {
        Self {
            blobs,
            messages,
            topic: topic.to_owned(),
            places: Semaphore::new(AT_ONCE_MAX),
        }
    }

    async fn tell(&self, event: &Event<'_>) -> Result<(), CloudError> {
        let not_told = || {
            let words = "it is done, and was not told: do it again".to_owned();
            CloudError::Failed(words)
        };
        let patience = Duration::from_millis(limits::CALL_TIMEOUT_MS);
        let place = timeout(patience, self.places.acquire()).await;
        let _place = place.map_err(|_| not_told())?.map_err(|_| not_told())?;
        let message = Message {
            data: serde_json::to_vec(event).map_err(|_| not_told())?,
            content_type: Some("application/json".to_owned()),
            ..Message::default()
        };
        let sent = self.messages.send(&self.topic, message, None).await;
        sent.map_err(|_| not_told())
    }

    async fn deleted(&self, container: &str, object: &str) -> Result<(), CloudError> {
        let event = Event {
            kind: "deleted",
            container,
            object: Some(object),
            size: None,
            from: None,
        };
        self.tell(&event).await
    }

    async fn told_of(
        &self,
        kind: &'static str,
        from: (&str, &str),
        to: (&str, &str),
    ) -> Result<(), CloudError> {
        let (container, object) = to;
        let found = self.blobs.object(container, object).await;
        let event = Event {
            kind,
            container,
            object: Some(object),
            // Deleted since, or not to be seen at this time: it is told without.
            size: found.ok().flatten().map(|found| found.n_bytes),
            from: Some(Place {
                container: from.0,
                object: from.1,
            }),
        };
        self.tell(&event).await
    }
}

impl Blobs for Announced {
    fn create<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        self.blobs.create(container)
    }

    fn delete<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.blobs.delete(container).await?;
            let event = Event {
                kind: "container-deleted",
                container,
                object: None,
                size: None,
                from: None,
            };
            self.tell(&event).await
        })
    }

    fn info<'a>(&'a self, container: &'a str) -> Answer<'a, Option<ContainerInfo>> {
        self.blobs.info(container)
    }

    fn write<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        bytes: Box<dyn BlobSource>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let count = Arc::default();
            let counted = Counted {
                bytes,
                count: Arc::clone(&count),
            };
            let written = self.blobs.write(container, object, Box::new(counted));
            written.await?;
            let event = Event {
                kind: "written",
                container,
                object: Some(object),
                size: Some(count.load(std::sync::atomic::Ordering::Relaxed)),
                from: None,
            };
            self.tell(&event).await
        })
    }

    fn read<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        start: u64,
        end: u64,
    ) -> Answer<'a, Blob> {
        self.blobs.read(container, object, start, end)
    }

    fn object<'a>(&'a self, container: &'a str, object: &'a str) -> Answer<'a, Option<ObjectInfo>> {
        self.blobs.object(container, object)
    }

    fn list<'a>(
        &'a self,
        container: &'a str,
        after: Option<&'a str>,
        n_max: usize,
    ) -> Answer<'a, Vec<String>> {
        self.blobs.list(container, after, n_max)
    }

    fn remove<'a>(&'a self, container: &'a str, objects: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move {
            self.blobs.remove(container, objects).await?;
            // Side by side, in the order of the names: a queue writes those that come together at once.
            let told = objects.iter();
            let told: Vec<Answer<'_, ()>> = told
                .map(|object| Box::pin(self.deleted(container, object)) as _)
                .collect();
            let told = stream::iter(told).buffered(AT_ONCE_MAX);
            told.try_collect().await
        })
    }

    fn copy<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        Box::pin(async move {
            self.blobs.copy(from, to).await?;
            self.told_of("copied", from, to).await
        })
    }

    fn rename<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        Box::pin(async move {
            self.blobs.rename(from, to).await?;
            self.told_of("moved", from, to).await
        })
    }

    fn is_told(&self) -> bool {
        true
    }

    fn bytes<'a>(&'a self, container: &'a str) -> Answer<'a, Option<u64>> {
        self.blobs.bytes(container)
    }

    fn used(&self) -> Answer<'_, Option<u64>> {
        self.blobs.used()
    }
}
