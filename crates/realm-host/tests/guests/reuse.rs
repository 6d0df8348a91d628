//! Instances that serve one request after the other, and when they do not.

use std::time::Duration;

use realm_host::Host;
use realm_test_guests as guests;

use crate::harness::{Loaded, eventually, get, guest};

/// More than any instance serves.
const REQUESTS: u64 = 600;

/// What the guest counted; it is done when this returns.
async fn count(loaded: &Loaded, target: &str) -> u64 {
    let body = loaded.body(target).await;
    eventually(|| loaded.replica.in_flight() == 0).await;
    body.trim().parse().unwrap()
}

/// One after the other, in the same instance, until that has served enough.
async fn one_instance_serves_many(path: &'static str) {
    let counter = guest(path).reuse().load();
    let mut counts = Vec::new();
    for _ in 0..REQUESTS {
        counts.push(count(&counter, "/").await);
    }
    let first = counts.iter().filter(|count| **count == 1).count() as u64;
    let made = counter.meter().instantiation_ms.count;
    assert_eq!(made, first, "{counts:?}");
    assert!((3..=5).contains(&made), "{made}");
    assert!(counts.iter().all(|count| *count <= 255), "{counts:?}");
    let follow = |pair: &[u64]| pair[1] == pair[0] + 1 || pair[1] == 1;
    assert!(counts.windows(2).all(follow), "{counts:?}");
}

#[tokio::test]
async fn a_counter_counts_on() {
    one_instance_serves_many(guests::COUNTER).await;
}

#[tokio::test]
pub(crate) async fn p3_counter() {
    one_instance_serves_many(guests::P3_COUNTER).await;
}

#[tokio::test]
async fn an_instance_serves_one_request_at_a_time() {
    let counter = guest(guests::COUNTER).reuse().load();
    let waits = [(); 8].map(|()| count(&counter, "/?ms=100"));
    let counts = futures_util::future::join_all(waits).await;
    assert_eq!(counts, [1; 8]);
    let waits = [(); 8].map(|()| count(&counter, "/?ms=100"));
    let counts = futures_util::future::join_all(waits).await;
    assert_eq!(counts, [2; 8]);
}

/// What comes after `target` begins in a fresh instance.
async fn ends_the_instance(target: &str, outcome: &'static str) {
    let counter = guest(guests::COUNTER).reuse().load();
    assert_eq!(count(&counter, "/").await, 1);
    // The answer may be whole before its guest trapped.
    let _ = counter.get(target).await;
    eventually(|| counter.replica.in_flight() == 0).await;
    let expected = if outcome == "ok" { 2 } else { 1 };
    assert_eq!(counter.count(outcome), expected, "{target}");
    assert_eq!(count(&counter, "/").await, 1, "{target}");
}

#[tokio::test]
async fn an_instance_that_failed_or_holds_a_request_is_not_used_again() {
    ends_the_instance("/?trap=1", "trap").await;
    ends_the_instance("/?busy_ms=5000", "epoch-timeout").await;
    ends_the_instance("/?keep=1", "ok").await;
    ends_the_instance("/?stash=1", "ok").await;
    ends_the_instance("/?leak=200", "ok").await;
    ends_the_instance("/?grow=500", "memory-limit").await;
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_the_instance_with_it() {
    let counter = guest(guests::COUNTER).reuse().load();
    assert_eq!(count(&counter, "/").await, 1);
    let gone = tokio::time::timeout(
        Duration::from_millis(50),
        counter.replica.call(get("/?ms=10000")),
    );
    assert!(gone.await.is_err());
    eventually(|| counter.count("cancelled") == 1).await;
    assert_eq!(count(&counter, "/").await, 1);
}

#[tokio::test]
async fn running_time_is_that_of_one_request() {
    let counter = guest(guests::COUNTER)
        .reuse()
        .limits(|limits| limits.epoch_timeout_ms = 400)
        .load();
    for expected in 1..=4 {
        assert_eq!(count(&counter, "/?busy_ms=150").await, expected);
    }
    assert_eq!(
        counter.refusal("/?busy_ms=5000").await,
        ("epoch-timeout", 504)
    );
}

#[tokio::test]
async fn fuel_is_counted_from_request_to_request() {
    let counter = guest(guests::COUNTER)
        .reuse()
        .limits(|limits| limits.fuel_per_sec = Some(1_000_000_000))
        .load();
    assert_eq!(count(&counter, "/").await, 1);
    let first = counter.meter().fuel_used;
    for expected in 2..=11 {
        assert_eq!(count(&counter, "/").await, expected);
    }
    let more = counter.meter().fuel_used - first;
    assert!(
        first > 0 && more > first && more < 20 * first,
        "{first} {more}"
    );
}

#[tokio::test]
async fn memory_of_an_instance_that_nobody_asks_is_given_back() {
    let counter = guest(guests::COUNTER).reuse().load();
    assert_eq!(count(&counter, "/").await, 1);
    assert!(counter.meter().mem_current_bytes > 0);
    eventually(|| counter.meter().mem_current_bytes == 0).await;
    assert_eq!(count(&counter, "/").await, 1);
}

#[tokio::test]
async fn a_waiting_instance_makes_room_for_another_component() {
    let [mut first, second] = [(); 2].map(|()| guest(guests::COUNTER).reuse());
    first = first.config(|config| config.policy.instances_max = 1);
    let host = Host::new(first.configuration()).unwrap();
    let [first, second] = [first, second].map(|guest| guest.load_into(&host).unwrap());
    for _ in 0..20 {
        assert_eq!(count(&first, "/").await, 1);
        assert_eq!(count(&second, "/").await, 1);
    }
    assert_eq!(first.count("overloaded") + second.count("overloaded"), 0);
}
