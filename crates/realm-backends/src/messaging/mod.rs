//! Messages by topic: a queue of the node's own, and NATS.

mod embedded;
pub(crate) mod nats;
mod requests;
mod selective;

use std::sync::Arc;

pub use embedded::{Embedded, LendError, decline, offered};
pub use nats::Nats;

/// How much a queue may hold. What is sent beyond it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Messages, counted once for each group that is not done with them; on NATS once.
    pub n_messages_max: u64,
    /// Bytes of messages, counted once.
    pub n_bytes_max: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            n_messages_max: 1_000_000,
            n_bytes_max: 1024 * 1024 * 1024,
        }
    }
}

/// A message that was delivered as often as it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The topic that it was sent to.
    pub topic: String,
    /// The group in which it died.
    pub group: String,
    /// How often it was delivered.
    pub n_deliveries: u32,
    /// What the last delivery came to.
    pub why: String,
}

/// Hears of each message that dies here. It must not block.
pub type OnDeath = Arc<dyn Fn(&Death) + Send + Sync>;
