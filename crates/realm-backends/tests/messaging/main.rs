//! Every backend of messages, held to one list of checks.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod checks;
mod devices;
mod embedded;
mod hostile;
mod hostile_nats;
mod lending;
mod letters;
mod memory;
mod nats;
mod room;
mod rules;
mod support;

/// A test for each check and backend.
macro_rules! every_backend {
    ($($check:ident)*) => {
        mod on_nats {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    crate::checks::$check(crate::nats::bed().await).await;
                }
            )*
        }

        mod on_newer_nats {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    crate::checks::$check(crate::nats::newer_bed().await).await;
                }
            )*
        }

        mod on_embedded {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    crate::checks::$check(crate::embedded::bed().await).await;
                }
            )*
        }
    };
}

every_backend! {
    order_is_kept_with_one_in_flight
    a_worker_that_crashes_loses_nothing
    silence_is_delivered_again
    what_is_worked_on_is_not_delivered_again
    a_retry_waits_as_long_as_it_is_told
    a_message_dies_after_so_many_deliveries
    silence_kills_as_well
    the_newest_dead_letters_are_kept
    every_group_gets_each_message_once
    patterns_lead_to_groups
    groups_are_kept_and_forgotten
    a_request_has_replies
    a_request_without_reply_ends
    nobody_is_asked_twice
    large_and_binary_messages_arrive_as_they_are
    what_is_too_large_or_odd_is_refused
    ten_thousand_messages_arrive
    a_delayed_message_comes_later
    a_future_that_is_dropped_takes_nothing
    what_is_given_back_comes_again
    a_full_queue_says_so
    letters_that_meet_their_own_subscription_end
    dead_letters_are_listed_shown_delivered_again_and_dropped
    deliveries_are_bounded
    requests_are_bounded
    replies_are_bounded
    only_what_is_wanted_comes
    what_is_unwanted_is_gone
    unwanted_requests_end
}
