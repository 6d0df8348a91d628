//! Short words for records, streams and waiting.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_model::cloud::Streams;
use realm_model::cloud::streams::{Place, Record, StoredRecord};

/// A backend, and what has to stay there as long.
pub(crate) struct Bed {
    pub(crate) streams: Arc<dyn Streams>,
    /// The same, which keeps 256 KiB of each stream.
    pub(crate) short: Arc<dyn Streams>,
    /// The same, which keeps records for a second.
    pub(crate) brief: Arc<dyn Streams>,
    pub(crate) _keep: Box<dyn Any + Send>,
}

pub(crate) const SHORT_BYTES: u64 = 256 * 1024;

pub(crate) fn at(name: &str) -> Place<'_> {
    Place { part: "", name }
}

pub(crate) fn record(words: impl Into<String>) -> Record {
    Record {
        data: words.into().into_bytes(),
        ..Record::default()
    }
}

pub(crate) fn words(stored: &StoredRecord) -> String {
    String::from_utf8(stored.record.data.clone()).unwrap()
}

/// One record: its number.
pub(crate) async fn append(on: &Arc<dyn Streams>, name: &str, words: impl Into<String>) -> u64 {
    let numbers = on.append(at(name), vec![record(words)], None).await;
    numbers.unwrap()[0]
}

/// All that is there now, by pages.
pub(crate) async fn replay(on: &Arc<dyn Streams>, name: &str) -> Vec<StoredRecord> {
    let mut all: Vec<StoredRecord> = Vec::new();
    loop {
        let after = all.last().map_or(0, |one| one.seq);
        let page = on
            .read(at(name), after, 1_000, Duration::ZERO)
            .await
            .unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Waits until something holds.
pub(crate) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
