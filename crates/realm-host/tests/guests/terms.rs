//! Replicas that are ended from outside: whatever their guests do, they end at once.

use std::time::Duration;

use realm_host::{Run, Term};
use realm_test_guests as guests;

use crate::harness::{eventually, get, guest};

/// A request that is under way in a guest that does `target` ends with its replica, and the next one
/// gets no guest.
async fn ends(path: &'static str, target: &str) {
    let loaded = guest(path)
        .limits(|limits| {
            limits.epoch_timeout_ms = 60_000;
            limits.wall_timeout_ms = 60_000;
        })
        .load();
    let term = Term::default();
    let replica = loaded.component.replica_until(7, Some(term.clone()));
    let asked = tokio::spawn({
        let (replica, request) = (replica.clone(), get(target));
        async move { replica.call(request).await.map(drop) }
    });
    eventually(|| replica.in_flight() == 1).await;
    // Long enough for one that computes to be moved to the threads for such.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!term.is_gone());
    term.end();
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.status), ("stopped", 503));
    eventually(|| term.is_gone()).await;
    assert_eq!((replica.in_flight(), loaded.count("stopped")), (0, 1));
    let error = replica.call(get("/")).await.map(drop).unwrap_err();
    assert_eq!((error.code, error.retry_after_s), ("stopped", Some(1)));
    assert!(replica.probe().await.is_err());
    // Another replica of the same component goes on.
    assert_eq!(loaded.body("/?ms=1").await, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_waits_ends_with_its_replica() {
    ends(guests::PARK, "/?ms=60000").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_computes_ends_with_its_replica() {
    ends(guests::SPIN, "/spin").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_ends_with_its_replica() {
    for what in ["park", "spin"] {
        let started = guest(guests::PROGRAM)
            .limits(|limits| {
                limits.epoch_timeout_ms = u64::MAX;
                limits.wall_timeout_ms = u64::MAX;
            })
            .program()
            .unwrap();
        let term = Term::default();
        let program = started.program.replica_until(7, Some(term.clone()));
        let run = Run {
            args: vec![what.to_owned()],
            ..Run::default()
        };
        let running = tokio::spawn(async move { program.run(run).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!running.is_finished(), "{what}");
        term.end();
        assert_eq!(running.await.unwrap().unwrap_err().code, "stopped");
        eventually(|| term.is_gone()).await;
    }
}
