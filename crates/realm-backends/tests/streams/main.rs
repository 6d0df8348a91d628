//! Every backend of streams, held to one list of checks.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod checks;
mod crash;
mod embedded;
mod nats;
mod relay;
#[path = "../keyvalue/servers.rs"]
#[expect(dead_code, reason = "shared with the tests of key-value stores")]
mod servers;
mod support;

/// A test for each check and backend.
macro_rules! every_backend {
    ($($check:ident)*) => {
        mod on_nats {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    crate::checks::$check(crate::nats::bed()).await;
                }
            )*
        }

        mod on_embedded {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    crate::checks::$check(crate::embedded::bed()).await;
                }
            )*
        }
    };
}

every_backend! {
    what_is_appended_is_read_in_order_as_often_as_one_likes
    of_those_who_append_to_one_state_one_succeeds
    many_who_append_at_once_lose_nothing
    a_reader_waits_for_what_comes
    what_is_trimmed_is_gone_for_everybody
    a_time_leads_to_its_record
    positions_are_kept_and_guarded
    streams_do_not_meet
    what_is_too_large_or_odd_is_refused
    a_page_has_so_many_bytes
    the_oldest_go_for_new_ones
    what_is_too_old_goes
    a_hundred_thousand_records_are_replayed_in_order
    there_are_so_many_streams_and_no_more
}
