//! Sends one signal to a collector, a request at a time, and again where that may help.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, StatusCode};

use super::queue::{Batch, Queue};
use super::wire;
use crate::asking::{retry_after, words};
use crate::telemetry::Fate;
use crate::watch::Health;

/// How long the first of a request waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// Before the second attempt; doubles, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often one request is sent at most: over some minutes, while the queue fills behind it.
const ATTEMPTS_MAX: u32 = 8;
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Lane {
    pub(super) queue: Arc<Queue>,
    pub(super) client: Client,
    pub(super) url: String,
    pub(super) health: Arc<Health>,
}

/// What became of an attempt.
enum Sent {
    /// The collector has it, but for so many.
    Taken(u64),
    /// It may have it later.
    Later {
        why: String,
        pause: Option<Duration>,
    },
    /// It never will.
    Never { why: String, is_sick: bool },
}

impl Lane {
    /// Until the queue is closed and empty.
    pub(super) async fn run(self) {
        while self.queue.some().await {
            // The first one waits a moment for company; a full request, or the end, does not.
            let _ = tokio::time::timeout(GATHER, self.queue.enough()).await;
            let batch = self.queue.take();
            self.deliver(batch).await;
        }
    }

    async fn deliver(&self, batch: Batch) {
        let signal = self.queue.signal();
        let body = bytes::Bytes::from(request(&batch.items));
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS_MAX {
            match self.attempt(body.clone()).await {
                Sent::Taken(n_refused) => {
                    self.health.answered();
                    batch.count_partly(signal, n_refused);
                    return;
                }
                Sent::Never { why, is_sick } => {
                    // Who does not let this node in is of no use; who finds fault with bytes is well.
                    if is_sick {
                        self.health.failed(&why);
                    }
                    batch.count(signal, Fate::Refused);
                    return;
                }
                Sent::Later { why, pause: asked } => {
                    self.health.failed(&why);
                    if attempt == ATTEMPTS_MAX || self.queue.is_closed() {
                        break;
                    }
                    let wait = asked.unwrap_or(pause).min(PAUSE_MAX);
                    pause = (pause * 2).min(PAUSE_MAX);
                    tokio::time::sleep(wait).await;
                }
            }
        }
        batch.count(signal, Fate::Dropped);
    }

    async fn attempt(&self, body: bytes::Bytes) -> Sent {
        let request = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return Sent::Later {
                    why: words(&error.without_url()),
                    pause: None,
                };
            }
        };
        let status = response.status();
        if status.is_success() {
            return Sent::Taken(refused(response).await);
        }
        let why = format!("`{}` answers {status}", self.url);
        match status {
            // The specification's list of what is tried again.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Sent::Later {
                why,
                pause: retry_after(response.headers()).map(|pause| pause.max(PAUSE)),
            },
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Sent::Never {
                why,
                is_sick: false,
            },
            _ => Sent::Never { why, is_sick: true },
        }
    }
}

/// How many of a request the collector did not want though it took the request.
async fn refused(mut response: Response) -> u64 {
    let mut bytes = Vec::new();
    // What cannot be read says nothing: the status did.
    while let Ok(Some(chunk)) = response.chunk().await {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return 0;
        }
        bytes.extend_from_slice(&chunk);
    }
    let answered = wire::Answered::decode(bytes.as_slice()).unwrap_or_default();
    let rejected = answered.partial.map(|partial| partial.rejected);
    rejected.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// The message of a request: its only field is the first, once for each item.
fn request(items: &[Vec<u8>]) -> Vec<u8> {
    let bytes: usize = items.iter().map(|item| item.len() + 8).sum();
    let mut request = Vec::with_capacity(bytes);
    for item in items {
        encode_key(1, WireType::LengthDelimited, &mut request);
        encode_varint(item.len() as u64, &mut request);
        request.extend_from_slice(item);
    }
    request
}
