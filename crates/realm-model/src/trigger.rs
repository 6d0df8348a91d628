//! Triggers: what calls a component beside requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest wait before something is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);

/// What calls a component beside requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Triggers {
    /// Messages, for its `wasi:messaging/incoming-handler`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub subscriptions: Vec<SubscriptionSpec>,
    /// Changes of keys, for its `wasi:keyvalue/watcher`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub watches: Vec<String>,
    /// Workflows, for its `realm:cloud/workflow-handler`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub workflows: Vec<WorkflowSpec>,
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
}

/// One `[components.NAME.workflows.WORKFLOW]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkflowSpec {
    /// The name of the workflow.
    pub workflow: String,
    /// The identifier of `bind` that its runs come from.
    pub from: String,
    /// Runs under way at once, for each replica.
    pub concurrency: u32,
    /// Milliseconds without a word after which somebody else gets a run.
    pub lease_ms: u64,
    /// Failures in a row, without a step forward, until a run has failed.
    pub attempts: u32,
    /// Milliseconds until the second attempt; it doubles with each further one.
    pub backoff_ms: u64,
}

impl Triggers {
    /// Whether nothing calls it but requests.
    pub fn is_empty(&self) -> bool {
        let Self {
            subscriptions,
            watches,
            workflows,
        } = self;
        subscriptions.is_empty() && watches.is_empty() && workflows.is_empty()
    }
}

/// How long until something is tried again: it doubles with each time.
pub fn backoff(first_ms: u64, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(32);
    Duration::from_millis(first_ms.saturating_mul(1 << doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_and_has_an_end() {
        let wait = |attempt| backoff(1_000, attempt).as_secs();
        assert_eq!([wait(0), wait(1), wait(2), wait(5)], [1, 1, 2, 16]);
        assert_eq!(wait(u32::MAX), 3_600);
        assert_eq!(backoff(u64::MAX, 40), BACKOFF_MAX);
    }
}
