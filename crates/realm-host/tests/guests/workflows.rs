//! Workflows of a guest, in a file of the node. The same guest runs on a real server in the end-to-end tests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_backends::data::Flows;
use realm_host::{Store, Working};
use realm_model::api::LogStream;
use realm_model::trigger::{Triggers, WorkflowSpec};
use realm_test_guests as guests;

use crate::harness::{Loaded, guest};

fn store(folder: &Path) -> Store {
    Store::Workflows(Arc::new(Flows::sqlite(folder)))
}

fn triggers() -> Triggers {
    let spec = WorkflowSpec {
        workflow: "test".to_owned(),
        from: "default".to_owned(),
        concurrency: 4,
        lease_ms: 3_000,
        attempts: 3,
        backoff_ms: 50,
    };
    Triggers {
        workflows: vec![spec],
        ..Triggers::default()
    }
}

async fn working(loaded: &Loaded) -> Working {
    loaded.replica.work(&triggers()).await.unwrap().unwrap()
}

async fn said(loaded: &Loaded, target: &str) -> String {
    loaded.get(target).await.unwrap().text().to_owned()
}

/// Until a run stands like this.
async fn until(loaded: &Loaded, id: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let state = said(loaded, &format!("/get?id={id}")).await;
        if state == wanted {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{id}: {state}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn runs(loaded: &Loaded, outcome: &str) -> u64 {
    let all = loaded.meter().workflows;
    all.iter().find(|(name, _)| *name == outcome).unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn workflows() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = guest(guests::WORKFLOWS)
        .bind("default", store(folder.path()))
        .limits(|limits| limits.wall_timeout_ms = 120_000)
        .load();
    let working = working(&loaded).await;
    // Twice, beside what the first time left.
    for tag in ["a", "b"] {
        let lines = loaded.body(&format!("/checks?tag={tag}")).await;
        assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
        assert_eq!(lines.lines().count(), 25, "{lines}");
    }
    let counts = ["done", "suspended", "retried", "failed"].map(|one| runs(&loaded, one));
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let log = loaded.log.agent();
    for line in [
        "workflow-retried: the run `a-fail` of `test`, failure 1 of 3, again in 50 ms: the guest says: it rains and pours",
        "workflow-failed: the run `a-fail` of `test`: the guest says: it rains and pours",
        "workflow-failed: the run `b-reject` of `test`: the guest says: never",
        "workflow-failed: the run `a-trap` of `test`: trap: ",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    drop(working);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_nobody_takes_here_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = guest(guests::WORKFLOWS)
        .bind("default", store(folder.path()))
        .load();
    let answer = said(&loaded, "/start?id=a&input=echo").await;
    assert_eq!(answer, "Error::Nowhere");
    let _working = working(&loaded).await;
    let other = said(&loaded, "/start?id=a&input=echo&workflow=other").await;
    assert_eq!(other, "Error::Nowhere");
    assert_eq!(said(&loaded, "/start?id=a&input=echo%20b").await, "true");
    until(&loaded, "a", "done b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_ends_gives_its_run_back_without_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = guest(guests::WORKFLOWS)
        .bind("default", store(folder.path()))
        .load();
    let first = working(&loaded).await;
    assert_eq!(said(&loaded, "/start?id=p&input=park").await, "true");
    until(&loaded, "p", "running").await;
    let counted = async {
        while first.under_way() != 1 {
            tokio::task::yield_now().await;
        }
    };
    let counted = tokio::time::timeout(std::time::Duration::from_secs(60), counted);
    counted.await.unwrap();
    first.take_no_more();
    drop(first);
    until(&loaded, "p", "ready").await;
    let _second = working(&loaded).await;
    until(&loaded, "p", "running").await;
    assert_eq!((runs(&loaded, "retried"), runs(&loaded, "failed")), (0, 0));
    // It runs from when it is taken: the guest says so a moment later.
    let took = |line: &&String| *line == "took p of test: park";
    let begun = Instant::now();
    while loaded
        .log
        .lines(LogStream::Stdout)
        .iter()
        .filter(took)
        .count()
        < 2
    {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its instance ends, and the run stays cancelled.
    assert_eq!(said(&loaded, "/cancel?id=p").await, "true");
    until(&loaded, "p", "cancelled").await;
    let begun = Instant::now();
    while loaded.replica.in_flight() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until(&loaded, "p", "cancelled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_on_workflows_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = guest(guests::WORKFLOWS)
        .bind("default", store(folder.path()))
        .limits(|limits| limits.operations_per_sec = Some(1))
        .load();
    let _working = working(&loaded).await;
    let mut answers = Vec::new();
    for nth in 0..4 {
        let answer = said(&loaded, &format!("/start?id={nth}&input=echo")).await;
        answers.push(answer);
    }
    assert!(
        answers.iter().any(|one| one.starts_with("Error::Quota")),
        "{answers:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_without_the_handler_is_not_asked_to_run_workflows() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = guest(guests::HELLO)
        .bind("default", store(folder.path()))
        .load();
    let refused = loaded.replica.work(&triggers()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("realm:cloud/workflow-handler"),
        "{refused}"
    );
}
