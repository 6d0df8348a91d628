//! What holds whichever database it is.

use std::time::Duration;

use realm_model::cloud::CloudError;
use realm_model::cloud::workflows::{
    End, Ended, Heard, Phase, RunState, Slept, WorkflowError, Workflows as _,
};

use crate::support::{ROOM, both, claim, done, failed, member, nothing_is_due, start, state};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_once_and_remembered_with_its_output() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        assert!(start(flows, "a").await, "{name}");
        assert!(!start(flows, "a").await, "{name}");
        assert_eq!(state(flows, "a").await, RunState::Ready);
        let run = claim(&mut member).await;
        assert_eq!(
            (run.facts().id.as_str(), &*run.facts().input),
            ("a", &b"input"[..])
        );
        assert_eq!(state(flows, "a").await, RunState::Running);
        assert_eq!(done(&*run, b"\0output").await, Ended::Done);
        assert_eq!(
            state(flows, "a").await,
            RunState::Done(b"\0output".to_vec())
        );
        assert!(!start(flows, "a").await, "{name}");
        assert!(nothing_is_due(&mut member).await, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_found_again_and_a_name_is_used_once() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let run = claim(&mut member).await;
        assert_eq!(run.step("pay").await.unwrap(), None);
        run.done("pay", b"paid").await.unwrap();
        for again in [
            run.step("pay").await.map(drop),
            run.done("pay", b"other").await,
            run.done("ship", b"never asked").await,
            run.sleep("pay", Duration::ZERO).await.map(drop),
        ] {
            let is_invalid = matches!(again, Err(WorkflowError::Cloud(CloudError::Invalid(_))));
            assert!(is_invalid, "{name}: {again:?}");
        }
        assert!(matches!(failed(&*run, "x").await, Ended::Again(1, _)));
        let run = claim(&mut member).await;
        assert_eq!(run.step("pay").await.unwrap().unwrap(), b"paid");
        // Whatever it was, it is that for good.
        assert_eq!(run.step("nap").await.unwrap(), None);
        done(&*run, b"").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_does_not_become_something_else() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let run = claim(&mut member).await;
        run.step("pay").await.unwrap();
        run.done("pay", b"paid").await.unwrap();
        run.sleep("nap", Duration::from_secs(60)).await.unwrap();
        failed(&*run, "x").await;
        let run = claim(&mut member).await;
        for other in [
            run.sleep("pay", Duration::ZERO).await.map(drop),
            run.wait_for("nap", "go", None).await.map(drop),
        ] {
            assert!(other.is_err(), "{name}: {other:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_count_in_a_row_and_a_step_forward_begins_anew() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        for (nth, goes_on) in [(1, false), (2, false), (1, true), (2, false)] {
            let run = claim(&mut member).await;
            if goes_on {
                run.step("one").await.unwrap();
                run.done("one", b"").await.unwrap();
            }
            let ended = failed(&*run, "it\nrains").await;
            assert!(
                matches!(ended, Ended::Again(n, _) if n == nth),
                "{name}: {ended:?}"
            );
            let status = flows.status("a").await.unwrap().unwrap();
            assert_eq!(
                (status.n_failures, status.last_failure.as_deref()),
                (nth, Some("it rains"))
            );
            assert!(status.next_ms.is_some());
        }
        let run = claim(&mut member).await;
        assert_eq!(failed(&*run, "it pours").await, Ended::Failed);
        assert_eq!(
            state(flows, "a").await,
            RunState::Failed("it pours".to_owned())
        );
        // Given back is no failure.
        start(flows, "b").await;
        for _ in 0..4 {
            claim(&mut member).await.give_back().await.unwrap();
        }
        drop(claim(&mut member).await);
        assert_eq!(claim(&mut member).await.facts().n_failures, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sleeps_begin_with_the_first_call_and_end() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let time = Duration::from_millis(300);
        let run = claim(&mut member).await;
        let begun = std::time::Instant::now();
        assert_eq!(run.sleep("nap", time).await.unwrap(), Slept::Suspend);
        assert_eq!(run.end(End::Suspended).await.unwrap(), Ended::Suspended);
        let status = flows.status("a").await.unwrap().unwrap();
        assert!(
            status.state == RunState::Waiting && status.next_ms.is_some(),
            "{name}"
        );
        let run = claim(&mut member).await;
        assert!(
            begun.elapsed() >= time - Duration::from_millis(10),
            "{name}"
        );
        assert_eq!(run.sleep("nap", time).await.unwrap(), Slept::Over);
        assert_eq!(done(&*run, b"").await, Ended::Done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_heard_once_in_their_order_before_and_after_the_wait() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let signal = async |data: &[u8]| flows.signal("a", "go", data, ROOM).await.unwrap();
        assert!(signal(b"1").await && signal(b"2").await);
        let run = claim(&mut member).await;
        let wait = async |run: &dyn realm_model::cloud::workflows::Run, name: &str| {
            run.wait_for(name, "go", None).await.unwrap()
        };
        assert_eq!(
            wait(&*run, "x").await,
            Heard::Signal(b"1".to_vec()),
            "{name}"
        );
        assert_eq!(wait(&*run, "y").await, Heard::Signal(b"2".to_vec()));
        assert_eq!(wait(&*run, "z").await, Heard::Suspend);
        // While it says that it waits.
        assert!(signal(b"3").await);
        assert_eq!(run.end(End::Suspended).await.unwrap(), Ended::Suspended);
        let run = claim(&mut member).await;
        assert_eq!(wait(&*run, "x").await, Heard::Signal(b"1".to_vec()));
        assert_eq!(wait(&*run, "y").await, Heard::Signal(b"2".to_vec()));
        assert_eq!(wait(&*run, "z").await, Heard::Signal(b"3".to_vec()));
        assert_eq!(wait(&*run, "last").await, Heard::Suspend);
        run.end(End::Suspended).await.unwrap();
        // One of another name wakes nobody.
        assert!(flows.signal("a", "other", b"", ROOM).await.unwrap());
        assert!(nothing_is_due(&mut member).await, "{name}");
        assert!(signal(b"4").await);
        let run = claim(&mut member).await;
        done(&*run, b"").await;
        assert!(!signal(b"5").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_in_time_and_stays_ended() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let time = Some(Duration::from_millis(50));
        let run = claim(&mut member).await;
        assert_eq!(run.wait_for("w", "go", time).await.unwrap(), Heard::Suspend);
        run.end(End::Suspended).await.unwrap();
        let run = claim(&mut member).await;
        assert_eq!(
            run.wait_for("w", "go", time).await.unwrap(),
            Heard::TimedOut,
            "{name}"
        );
        failed(&*run, "x").await;
        flows.signal("a", "go", b"late", ROOM).await.unwrap();
        let run = claim(&mut member).await;
        assert_eq!(
            run.wait_for("w", "go", time).await.unwrap(),
            Heard::TimedOut
        );
        let heard = run.wait_for("v", "go", time).await.unwrap();
        assert_eq!(heard, Heard::Signal(b"late".to_vec()));
        done(&*run, b"").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_the_same_wait_is_no_step_forward() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let mut ends = Vec::new();
        for _ in 0..4 {
            let run = claim(&mut member).await;
            run.wait_for("w", "go", None).await.unwrap();
            let ended = failed(&*run, "x").await;
            ends.push(ended.clone());
            if ended == Ended::Failed {
                break;
            }
        }
        assert_eq!(
            (ends.len(), ends.last()),
            (3, Some(&Ended::Failed)),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancelled_is_obeyed_at_the_next_word() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let run = claim(&mut member).await;
        run.step("pay").await.unwrap();
        assert!(flows.cancel("a").await.unwrap(), "{name}");
        assert!(!flows.cancel("a").await.unwrap());
        assert_eq!(run.done("pay", b"").await, Err(WorkflowError::Lost));
        assert_eq!(run.extend().await, Err(WorkflowError::Lost));
        assert_eq!(
            run.end(End::Done(Vec::new())).await,
            Err(WorkflowError::Lost)
        );
        assert_eq!(state(flows, "a").await, RunState::Cancelled);
        drop(run);
        assert!(nothing_is_due(&mut member).await, "{name}");
        assert_eq!(state(flows, "a").await, RunState::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_steps_have_a_cap() {
    for (name, flows) in &both().all {
        let mut member = member(flows).await;
        start(flows, "a").await;
        let large = vec![1; 256 * 1024];
        let mut n = 0;
        let refused = loop {
            match flows.signal("a", "go", &large, ROOM).await {
                Ok(there) => assert!(there),
                Err(error) => break error,
            }
            n += 1;
        };
        assert_eq!((n, refused.code()), (15, "full"), "{name}");
        let run = claim(&mut member).await;
        for nth in 0..15 {
            let heard = run.wait_for(&nth.to_string(), "go", None).await.unwrap();
            assert_eq!(heard, Heard::Signal(large.clone()));
        }
        let refused = async {
            run.step("more").await?;
            run.done("more", &large).await
        };
        assert_eq!(refused.await.unwrap_err().code(), "full", "{name}");
        // What was heard made room.
        assert!(flows.signal("a", "go", &large, ROOM).await.unwrap());
        assert_eq!(done(&*run, b"").await, Ended::Done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_by_id_and_page() {
    for (name, flows) in &both().all {
        let _member = member(flows).await;
        for nth in 0..120 {
            start(flows, &format!("run {nth:03}")).await;
        }
        flows.cancel("run 007").await.unwrap();
        let first = flows.list(None).await.unwrap();
        assert_eq!(
            (first.runs.len(), first.cursor.as_deref()),
            (100, Some("run 099")),
            "{name}"
        );
        assert_eq!(first.runs[7].phase, Phase::Cancelled);
        let second = flows.list(first.cursor.as_deref()).await.unwrap();
        assert_eq!((second.runs.len(), second.cursor), (20, None));
        assert_eq!(second.runs[0].id, "run 100");
    }
}
