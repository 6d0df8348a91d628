//! What changes in a bucket, as the server delivers it.
//!
//! In the order of its messages, through restarts of the server and losses of the connection. The server
//! keeps one message for each key: of changes that it could not deliver at once the last is left. Not
//! here: connections.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::push::{OrderedError, OrderedErrorKind};
use async_nats::jetstream::kv;
use futures_util::{FutureExt, StreamExt};
use realm_model::cloud::{Answer, Change, Changes, CloudError, limits, within};

use super::link::{Link, words};
use super::names;

/// How often it is looked whether the bucket is still the same one.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Begins to watch a bucket, which is made if there is none.
pub(super) async fn watch(link: Arc<Link>, bucket: &str) -> Result<Box<dyn Changes>, CloudError> {
    let store = link.make(bucket).await?;
    let failed = |error: &dyn std::error::Error| {
        link.forget(&store);
        link.unavailable(&words(error))
    };
    let info = store.stream.get_info().await;
    let after = info.map_err(|error| failed(&error))?.state.last_sequence;
    // From this number on, and not "from now on": asked for anew after the connection broke, that would be
    // from then on.
    let entries = store.watch_all_from_revision(after + 1).await;
    let entries = entries.map_err(|error| failed(&error))?;
    Ok(Box::new(Watching {
        entries: Box::pin(entries),
        link,
        store,
    }))
}

struct Watching {
    link: Arc<Link>,
    store: Arc<kv::Store>,
    entries: Pin<Box<kv::Watch>>,
}

impl Watching {
    async fn entry(&mut self) -> Result<kv::Entry, CloudError> {
        loop {
            // The client takes a server at its word, and panics over a subject of another bucket.
            let next = AssertUnwindSafe(self.entries.next()).catch_unwind();
            let next = match tokio::time::timeout(LOOK_EVERY, next).await {
                Ok(Ok(next)) => Ok(next),
                Ok(Err(_)) => {
                    let why = "what it said of a change is not understood";
                    return Err(self.link.unavailable(why));
                }
                Err(elapsed) => Err(elapsed),
            };
            match next {
                Ok(Some(Ok(entry))) => return Ok(entry),
                // The client asks for what came after the last message, as soon as it can.
                Ok(Some(Err(error))) if is_heartbeat(&error) => {}
                Ok(Some(Err(error))) => return Err(self.link.unavailable(&words(&error))),
                Ok(None) => return Err(CloudError::Unavailable),
                // One that was deleted and made anew counts its messages anew: nothing would come.
                Err(_) if !self.link.is_current(&self.store) => {
                    return Err(CloudError::Failed("the bucket was deleted".to_owned()));
                }
                Err(_) => {}
            }
        }
    }
}

impl Changes for Watching {
    fn next(&mut self) -> Answer<'_, Change> {
        Box::pin(async {
            loop {
                let entry = self.entry().await?;
                // What another program named otherwise is not seen by guests.
                let Some(key) = names::guest_key(&entry.key) else {
                    continue;
                };
                let value = match entry.operation {
                    kv::Operation::Put => Some(Vec::from(entry.value)),
                    kv::Operation::Delete | kv::Operation::Purge => None,
                };
                let n_bytes = value.as_ref().map_or(0, Vec::len);
                within("the value", n_bytes, limits::VALUE_BYTES_MAX)?;
                return Ok(Change { key, value });
            }
        })
    }
}

fn is_heartbeat(error: &kv::WatcherError) -> bool {
    std::error::Error::source(error)
        .and_then(|one| one.downcast_ref::<OrderedError>())
        .is_some_and(|error| error.kind() == OrderedErrorKind::MissingHeartbeat)
}
