//! Nodes that die, start again, and share a server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realm_backends::data::Flows;
use realm_model::cloud::workflows::{
    End, Ended, Handling, New, RunState, WorkflowError, Workflows as _,
};

use crate::server::Server;
use crate::support::{
    PATIENCE, ROOM, claim, done, handling, member, nothing_is_due, postgres, sqlite, start, state,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_again_goes_on_with_what_it_was_at() {
    let folder = tempfile::tempdir().unwrap();
    let first = sqlite(folder.path());
    let mut taking = member(&first).await;
    start(&first, "a").await;
    start(&first, "b").await;
    let run = claim(&mut taking).await;
    run.step("pay").await.unwrap();
    run.done("pay", b"paid").await.unwrap();
    // As after kill -9: nobody says anything of it.
    let second = sqlite(folder.path());
    let mut taking = member(&second).await;
    let (mut again, other) = (claim(&mut taking).await, claim(&mut taking).await);
    if again.facts().id == "b" {
        again = other;
    }
    assert_eq!(again.facts().n_failures, 1);
    assert_eq!(again.step("pay").await.unwrap().unwrap(), b"paid");
    assert_eq!(done(&*again, b"").await, Ended::Done);
    run.step("ship").await.unwrap();
    assert_eq!(run.done("ship", b"").await, Err(WorkflowError::Lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_never_comes_to_an_end_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let flows = sqlite(folder.path());
    let handling = Handling {
        lease: Duration::from_millis(50),
        ..handling()
    };
    let mut taking = flows.take_part(&handling).await.unwrap();
    start(&flows, "a").await;
    let mut dead = Vec::new();
    for nth in 0..3 {
        let run = claim(&mut taking).await;
        assert_eq!((run.facts().n_failures, run.facts().is_spent), (nth, false));
        dead.push(run);
    }
    let run = claim(&mut taking).await;
    assert!(run.facts().is_spent);
    let status = flows.status("a").await.unwrap().unwrap();
    assert!(status.last_failure.unwrap().contains("no end"));
    let ended = run.end(End::Rejected("spent".to_owned())).await;
    assert_eq!(ended, Ok(Ended::Failed));
    assert_eq!(
        state(&flows, "a").await,
        RunState::Failed("spent".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_node_stay_where_somebody_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let flows = sqlite(folder.path());
    let new = New {
        workflow: "order",
        id: "a",
        input: b"",
        bytes_max: ROOM,
    };
    assert_eq!(flows.start(new).await, Err(WorkflowError::Nowhere));
    assert_eq!(flows.status("a").await, Ok(None));
    // Who comes a moment later is waited for.
    let (started, member) = tokio::join!(flows.start(new), member(&flows));
    assert_eq!(started, Ok(true));
    drop(member);
    assert_eq!(
        flows.start(New { id: "b", ..new }).await,
        Err(WorkflowError::Nowhere)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_with_what_one_that_died_was_at() {
    let server = Server::start(None, "trust");
    let (first, second) = (postgres(&server), postgres(&server));
    let handling = Handling {
        lease: Duration::from_millis(500),
        ..handling()
    };
    let mut taking = first.take_part(&handling).await.unwrap();
    start(&first, "a").await;
    let dead = claim(&mut taking).await;
    dead.step("pay").await.unwrap();
    dead.done("pay", b"paid").await.unwrap();
    let mut taking = second.take_part(&handling).await.unwrap();
    // As long as it says that it is alive, it has it.
    for _ in 0..6 {
        assert!(nothing_is_due(&mut taking).await);
        dead.extend().await.unwrap();
    }
    let run = claim(&mut taking).await;
    assert_eq!(run.facts().n_failures, 1);
    assert_eq!(run.step("pay").await.unwrap().unwrap(), b"paid");
    // Both take themselves for the one: the journal hears the later.
    for run in [&dead, &run] {
        assert_eq!(run.step("ship").await.unwrap(), None);
    }
    assert_eq!(dead.done("ship", b"dead").await, Err(WorkflowError::Lost));
    run.done("ship", b"living").await.unwrap();
    assert_eq!(dead.extend().await, Err(WorkflowError::Lost));
    assert_eq!(done(&*run, b"").await, Ended::Done);
}

/// Takes runs and does three steps of each, and writes down who did.
async fn work(flows: Arc<Flows>, done: Arc<Mutex<BTreeMap<(String, usize), u32>>>) {
    let mut taking = member(&flows).await;
    loop {
        let run = taking.next().await.unwrap();
        let mut output = Vec::new();
        for nth in 0..3 {
            let name = format!("step {nth}");
            if run.step(&name).await.unwrap().is_none() {
                run.done(&name, b"x").await.unwrap();
                let place = (run.facts().id.clone(), nth);
                *done.lock().unwrap().entry(place).or_default() += 1;
            }
            output.push(b'x');
        }
        run.end(End::Done(output)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_what_is_due_and_do_each_step_once() {
    const N: usize = 60;
    let server = Server::start(None, "trust");
    let nodes = [postgres(&server), postgres(&server)].map(Arc::new);
    let steps = Arc::new(Mutex::new(BTreeMap::new()));
    let mut working = tokio::task::JoinSet::new();
    for node in nodes.iter().chain(&nodes) {
        working.spawn(work(Arc::clone(node), Arc::clone(&steps)));
    }
    for nth in 0..N {
        start(&nodes[nth % 2], &format!("run {nth}")).await;
    }
    let all_are_done = async {
        for nth in 0..N {
            let wanted = RunState::Done(b"xxx".to_vec());
            while state(&nodes[0], &format!("run {nth}")).await != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, all_are_done).await.unwrap();
    let steps = steps.lock().unwrap();
    assert_eq!(steps.len(), 3 * N);
    assert!(steps.values().all(|times| *times == 1), "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_one_node_starts_another_one_takes() {
    let server = Server::start(None, "trust");
    let (first, second) = (postgres(&server), postgres(&server));
    let mut taking = member(&second).await;
    assert!(start(&first, "a").await);
    let run = claim(&mut taking).await;
    assert_eq!(done(&*run, b"there").await, Ended::Done);
    assert_eq!(state(&first, "a").await, RunState::Done(b"there".to_vec()));
}
