//! What every key-value store does, asked of each of them: a file, Redis, and NATS, the last two real.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod checks;
mod crash;
mod embedded;
mod listing;
mod nats;
mod races;
mod redis;
mod servers;
mod time;

use std::any::Any;
use std::sync::Arc;

use realm_model::cloud::KeyValue;

/// A store that is asked, and what it can.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn KeyValue>,
    pub(crate) can: Can,
    /// Its folder or its server, while it is asked.
    pub(crate) _held: Box<dyn Any + Send + Sync>,
}

/// Where backends differ, as docs/wasi-cloud.md says.
#[derive(Clone, Copy)]
pub(crate) struct Can {
    pub(crate) end_keys: bool,
    pub(crate) commit_many: bool,
    pub(crate) count_bytes: bool,
    /// Whether a watcher sees each of two changes of one key, not the last alone.
    pub(crate) tell_each_change: bool,
    pub(crate) value_bytes_max: usize,
}

/// One test per check.
macro_rules! conformance {
    ($start:expr) => {
        conformance!(@ $start;
            checks: a_value_comes_back, values_are_any_bytes, keys_are_any_text, bad_arguments_are_refused,
            buckets_are_apart, large_values, batches, batches_have_limits, numbers, transactions,
            revisions, bytes_are_counted;
            time: keys_end, watchers_see_what_changes;
            listing: lists_every_key_once, lists_while_keys_change, no_keys,
            listings_are_apart;
            races: one_of_many_swaps_wins, no_increment_is_lost, transactions_do_not_mix,
            watchers_see_the_order
        );
    };
    (@ $start:expr; $($module:ident: $($name:ident),*);*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = $start;
                crate::$module::$name(&bench).await;
            }
        )*)*
    };
}
pub(crate) use conformance;
