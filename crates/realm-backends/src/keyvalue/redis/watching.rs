//! What changes in a bucket, by the notifications of the server.
//!
//! They name a key and not its value, so the value is read when the change is taken: several changes of
//! a key that was not taken yet are one, with the last value. A server that was not told to send them
//! sends none, and that is found out before watching begins. Not here: connections.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use realm_model::cloud::{Answer, Change, Changes, CloudError, check_key};
use redis::Cmd;
use tokio::sync::Notify;

use super::link::Link;
use super::names::Space;
use super::{Again, answer, ask, value};

/// Keys that changed and were not taken.
const KEYS_MAX: usize = 100_000;
/// Bytes of them.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a server has to send the notifications of a test.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);
/// What a server has to be told.
const HINT: &str =
    "watching needs notifications: `notify-keyspace-events Kg$xe` in its configuration";

/// Begins to watch the keys of a bucket.
pub(super) async fn watch(link: Arc<Link>, space: Space) -> Result<Box<dyn Changes>, CloudError> {
    let unavailable = |error: redis::RedisError| {
        link.down(&error);
        answer(&error)
    };
    let channel = format!("__keyspace@{}__:", link.database());
    let mut listening = link.listen().await.map_err(unavailable)?;
    let pattern = space.pattern_after(&channel);
    listening.psubscribe(pattern).await.map_err(unavailable)?;
    let mut messages = Box::pin(listening.into_on_message());
    let queue = Arc::new(Queue::default());

    let test = space.test();
    let mut set = Cmd::new();
    set.arg("SET").arg(&test).arg("").arg("PX").arg(1);
    let () = ask(&link, &set, Again::Yes).await?;
    // It goes by itself, or when it is looked for, and both is told.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut look = Cmd::new();
    look.arg("GET").arg(&test);
    let _: Option<Vec<u8>> = ask(&link, &look, Again::Yes).await?;
    let mut missing = BTreeSet::from(["set", "expire", "expired"]);
    let all = async {
        while !missing.is_empty() {
            let message = messages.next().await?;
            let key = message.get_channel_name().strip_prefix(&channel)?;
            if key == test {
                missing.remove(std::str::from_utf8(message.get_payload_bytes()).unwrap_or(""));
            } else if let Some(key) = space.key(key) {
                queue.put(key);
            }
        }
        Some(())
    };
    let told = tokio::time::timeout(TEST_TIMEOUT, all).await;
    if told.is_err() {
        link.notifications.failed(HINT);
        return Err(CloudError::Unsupported("tell what changes"));
    }
    link.notifications.answered();

    let space = Arc::new(space);
    let (of_task, names) = (queue.clone(), space.clone());
    let task = link.runtime.spawn(async move {
        while let Some(message) = messages.next().await {
            let name = message.get_channel_name().strip_prefix(&channel);
            let Some(key) = name.and_then(|name| names.key(name)) else {
                continue;
            };
            if !of_task.put(key) {
                break;
            }
        }
        of_task.end();
    });
    Ok(Box::new(Watching {
        link,
        space,
        queue,
        task: task.abort_handle(),
    }))
}

struct Watching {
    link: Arc<Link>,
    space: Arc<Space>,
    queue: Arc<Queue>,
    task: tokio::task::AbortHandle,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Changes for Watching {
    fn next(&mut self) -> Answer<'_, Change> {
        Box::pin(async {
            let key = self.queue.take().await?;
            let value = value(&self.link, self.space.name(&key)).await?;
            Ok(Change {
                key: key.as_ref().to_owned(),
                value,
            })
        })
    }
}

/// Keys that changed, each once, in the order of their first change.
#[derive(Default)]
struct Queue {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Default)]
struct Kept {
    order: VecDeque<Arc<str>>,
    names: BTreeSet<Arc<str>>,
    n_bytes: usize,
    end: Option<CloudError>,
}

impl Queue {
    /// Whether there was room. Whoever may write to the server may say any name on its channels: what is
    /// no key is no change.
    fn put(&self, key: &str) -> bool {
        if check_key(key).is_err() {
            return true;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.names.contains(key) {
            return true;
        }
        if kept.order.len() >= KEYS_MAX || kept.n_bytes + key.len() > BYTES_MAX {
            let words = "the watcher fell behind, and changes were missed";
            kept.end = Some(CloudError::Failed(words.to_owned()));
            return false;
        }
        let key: Arc<str> = key.into();
        kept.n_bytes += key.len();
        kept.names.insert(Arc::clone(&key));
        kept.order.push_back(key);
        drop(kept);
        self.changed.notify_one();
        true
    }

    /// No more come, and some may have been missed.
    fn end(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.end.get_or_insert(CloudError::Unavailable);
        self.changed.notify_one();
    }

    async fn take(&self) -> Result<Arc<str>, CloudError> {
        loop {
            {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(key) = kept.order.pop_front() {
                    kept.names.remove(&key);
                    kept.n_bytes -= key.len();
                    return Ok(key);
                }
                if let Some(end) = &kept.end {
                    return Err(end.clone());
                }
            }
            self.changed.notified().await;
        }
    }
}
