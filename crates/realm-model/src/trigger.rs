//! Triggers: what calls a component beside requests.

use serde::{Deserialize, Serialize};

use crate::cloud::rules::Rules;

/// What calls a component beside requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Triggers {
    /// Messages, for its `wasi:messaging/incoming-handler`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub subscriptions: Vec<SubscriptionSpec>,
    /// Changes of keys, for its `wasi:keyvalue/watcher`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub watches: Vec<String>,
}

/// One `[components.NAME.subscribe."TOPIC"]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SubscriptionSpec {
    /// The topic, with `*` and `>`.
    pub topic: String,
    /// The identifier of `bind` that it comes from.
    pub from: String,
    /// Who shares the messages.
    pub group: String,
    /// Messages under way at once, for each replica.
    pub concurrency: u32,
    /// Milliseconds without a word after which a message is delivered anew.
    pub ack_wait_ms: u64,
    /// Deliveries of one message until it is dead.
    pub attempts: u32,
    /// Milliseconds until the second delivery; it doubles with each further one.
    pub backoff_ms: u64,
    /// The topic to which the dead go.
    pub dead_letter: Option<String>,
    /// Which messages it takes.
    #[serde(rename = "where", skip_serializing_if = "Rules::is_empty", default)]
    pub rules: Rules,
}

impl Triggers {
    /// Whether nothing calls it but requests.
    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty() && self.watches.is_empty()
    }
}
