//! Files that are as large as they may be: who is refused, what is forgotten, and that runs end.

use realm_backends::data::Flows;
use realm_model::cloud::workflows::{
    End, Ended, Handling, New, RunState, WorkflowError, Workflows as _,
};
use realm_model::cloud::{CloudError, Quota, limits};

use crate::support::{claim, done, failed, handling, sqlite, state};

const MIB: u64 = 1024 * 1024;

fn held_to(bytes_max: u64) -> Handling {
    Handling {
        bytes_max,
        ..handling()
    }
}

async fn begin(
    flows: &Flows,
    id: &str,
    input: &[u8],
    bytes_max: u64,
) -> Result<bool, WorkflowError> {
    let new = New {
        workflow: "order",
        id,
        input,
        bytes_max,
    };
    flows.start(new).await
}

fn quota() -> WorkflowError {
    CloudError::Quota(Quota::Bytes).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_forgets_runs_at_their_end_and_refuses_others() {
    let folder = tempfile::tempdir().unwrap();
    let flows = sqlite(folder.path());
    let bytes_max = 4 * MIB;
    let mut member = flows.take_part(&held_to(bytes_max)).await.unwrap();
    let input = vec![5; 200 * 1024];
    // Many times what fits, one after the other.
    for nth in 0..60 {
        let id = format!("done {nth}");
        assert!(begin(&flows, &id, &input, bytes_max).await.unwrap());
        let run = claim(&mut member).await;
        assert_eq!(run.facts().id, id);
        assert_eq!(done(&*run, &input).await, Ended::Done);
    }
    assert_eq!(flows.status("done 0").await, Ok(None));
    // And at once.
    let mut n = 0;
    let refused = loop {
        match begin(&flows, &format!("open {n}"), &input, bytes_max).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, quota());
    // A row that is written anew is there twice for a moment.
    assert!((10..40).contains(&n), "{n}");
    // Those that are there come to their end all the same.
    for _ in 0..n {
        let run = claim(&mut member).await;
        assert_eq!(done(&*run, b"output").await, Ended::Done);
    }
    assert!(begin(&flows, "another", &input, bytes_max).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_come_to_their_end_however_much_they_came_to() {
    let folder = tempfile::tempdir().unwrap();
    let flows = sqlite(folder.path());
    let bytes_max = MIB;
    let mut member = flows.take_part(&held_to(bytes_max)).await.unwrap();
    // More than the quota and what ends may take beside it.
    let n = 280;
    for nth in 0..n {
        let id = format!("run {nth}");
        assert!(begin(&flows, &id, b"", bytes_max).await.unwrap());
    }
    let output = vec![7; limits::RUN_BYTES_MAX];
    let mut last = String::new();
    for nth in 0..n {
        let run = claim(&mut member).await;
        assert_eq!(done(&*run, &output).await, Ended::Done, "{nth}");
        last.clone_from(&run.facts().id);
    }
    assert_eq!(state(&flows, &last).await, RunState::Done(output));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_come_to_their_end_also_after_the_quota_was_lowered() {
    let folder = tempfile::tempdir().unwrap();
    let before = sqlite(folder.path());
    let member = before.take_part(&held_to(200 * MIB)).await.unwrap();
    let input = vec![5; limits::RUN_BYTES_MAX];
    let n = 280;
    for nth in 0..n {
        let id = format!("run {nth}");
        assert!(begin(&before, &id, &input, 200 * MIB).await.unwrap());
    }
    // Who may have little sees runs to their end in a store that is not full for others.
    let mut small = before.take_part(&held_to(MIB)).await.unwrap();
    let run = claim(&mut small).await;
    assert_eq!(done(&*run, &input).await, Ended::Done);
    drop((run, member, small, before));
    // The agent starts again, and what is at its end is forgotten before somebody is refused.
    let flows = sqlite(folder.path());
    let mut member = flows.take_part(&held_to(MIB)).await.unwrap();
    let mut n_open = n - 1;
    let refused = loop {
        match begin(&flows, &format!("more {n_open}"), &input, MIB).await {
            Ok(_) => n_open += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, quota());
    assert!(n_open < n + 2, "{n_open}");
    assert!(flows.cancel("run 279").await.unwrap());
    let first = claim(&mut member).await;
    assert!(matches!(
        failed(&*first, "it rains").await,
        Ended::Again(1, _)
    ));
    drop(first);
    let mut n_done = 0;
    for _ in 0..n_open - 1 {
        let run = claim(&mut member).await;
        run.extend().await.unwrap();
        match run.end(End::Done(input.clone())).await.unwrap() {
            Ended::Done => n_done += 1,
            Ended::Failed => {
                let id = run.facts().id.as_str();
                if let Some(status) = flows.status(id).await.unwrap() {
                    let words = "the store is full, and has no room for what it came to";
                    assert_eq!(status.state, RunState::Failed(words.to_owned()));
                }
            }
            Ended::Suspended | Ended::Again(..) => panic!("{}", run.facts().id),
        }
    }
    // What ends makes room for what others come to.
    assert!(n_done > n / 2, "{n_done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_little_has_nothing_forgotten_of_who_may_have_more() {
    let folder = tempfile::tempdir().unwrap();
    let flows = sqlite(folder.path());
    let (large, small) = (64 * MIB, MIB);
    let mut member = flows.take_part(&held_to(large)).await.unwrap();
    let output = vec![7; 200 * 1024];
    let payments: Vec<String> = (0..20).map(|nth| format!("payment {nth}")).collect();
    for id in &payments {
        assert!(begin(&flows, id, b"", large).await.unwrap());
        let run = claim(&mut member).await;
        assert_eq!(done(&*run, &output).await, Ended::Done);
    }
    assert!(begin(&flows, "large", &output, large).await.unwrap());
    drop((member, flows));
    // The agent starts again, and the first one to call is not the one who may have more.
    let flows = sqlite(folder.path());
    let member = flows.take_part(&held_to(large)).await.unwrap();
    let mut n = 1;
    let refused = loop {
        match begin(&flows, &format!("small {n}"), &output, small).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, quota());
    let refused = flows.signal("large", "go", &output, small).await;
    assert_eq!(refused, Err(quota()));
    for id in &payments {
        assert!(!begin(&flows, id, b"", large).await.unwrap(), "{id}");
    }
    // Both see runs to their ends.
    drop(member);
    let mut member = flows.take_part(&held_to(small)).await.unwrap();
    for _ in 0..n {
        let run = claim(&mut member).await;
        assert_eq!(done(&*run, &output).await, Ended::Done);
    }
    for id in &payments {
        assert!(matches!(state(&flows, id).await, RunState::Done(_)));
    }
}
