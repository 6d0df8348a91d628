//! Workflows that are cut off anywhere: what was written down is never done again, and the run comes to the
//! same end as one that nobody cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use realm_backends::data::Flows;
use realm_model::cloud::workflows::{
    End, Ended, Handling, Heard, Run, RunState, Slept, WorkflowError, Workflows as _,
};

use crate::support::{PATIENCE, ROOM, claim, handling, sqlite, start, state};

/// What a workflow does, one after the other.
#[derive(Debug, Clone, Copy)]
enum Op {
    Step,
    Sleep(u64),
    /// A signal that comes, or one that does not.
    Wait {
        comes: bool,
    },
}

/// How a call is cut off, and before which of its operations.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// It says that it failed.
    Fails(usize),
    /// Its replica is drained.
    GivesBack(usize),
    /// Its node dies before the operation.
    Vanishes(usize),
    /// Its node dies when what a step does is done, and not written down.
    VanishesUnwritten(usize),
    /// Its node dies at some moment while that is written down.
    VanishesWriting(usize, u64),
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let one = prop_oneof![
        4 => Just(Op::Step),
        1 => (0..15_u64).prop_map(Op::Sleep),
        1 => any::<bool>().prop_map(|comes| Op::Wait { comes }),
    ];
    proptest::collection::vec(one, 1..8)
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let at = 0..8_usize;
    let one = prop_oneof![
        at.clone().prop_map(Cut::Fails),
        at.clone().prop_map(Cut::GivesBack),
        at.clone().prop_map(Cut::Vanishes),
        at.clone().prop_map(Cut::VanishesUnwritten),
        (at, 0..3_000_u64).prop_map(|(at, us)| Cut::VanishesWriting(at, us)),
    ];
    proptest::collection::vec(one, 0..6)
}

/// What the world outside saw.
#[derive(Default)]
struct Seen {
    /// What each step came to, each time that it was done.
    done: BTreeMap<String, Vec<Vec<u8>>>,
    /// What is in the journal, for all that anybody was told.
    written: BTreeMap<String, Vec<u8>>,
}

/// How a call went on.
enum Went {
    Ended,
    CutOff,
}

async fn call(
    run: &Arc<dyn Run>,
    operations: &[Op],
    cut: Option<Cut>,
    seen: &mut Seen,
) -> Result<Went, WorkflowError> {
    let mut output = Vec::new();
    for (nth, operation) in operations.iter().enumerate() {
        match cut {
            Some(Cut::Fails(at)) if at == nth => {
                run.end(End::Failed("cut".to_owned())).await?;
                return Ok(Went::Ended);
            }
            Some(Cut::GivesBack(at)) if at == nth => {
                run.give_back().await?;
                return Ok(Went::Ended);
            }
            Some(Cut::Vanishes(at)) if at == nth => return Ok(Went::CutOff),
            Some(_) | None => {}
        }
        let name = format!("op {nth}");
        match operation {
            Op::Step => match run.step(&name).await? {
                Some(result) => {
                    assert!(
                        seen.done[&name].contains(&result),
                        "{name} came to that once"
                    );
                    let written = seen.written.entry(name).or_insert_with(|| result.clone());
                    assert_eq!(*written, result, "what is written stays");
                    output.extend(result);
                }
                None => {
                    assert!(
                        !seen.written.contains_key(&name),
                        "{name} was written before"
                    );
                    let times = seen.done.entry(name.clone()).or_default();
                    let result = format!("{nth}.{};", times.len()).into_bytes();
                    times.push(result.clone());
                    match cut {
                        Some(Cut::VanishesUnwritten(at)) if at == nth => return Ok(Went::CutOff),
                        Some(Cut::VanishesWriting(at, us)) if at == nth => {
                            let writing = run.done(&name, &result);
                            let _ = tokio::time::timeout(Duration::from_micros(us), writing).await;
                            return Ok(Went::CutOff);
                        }
                        Some(_) | None => {}
                    }
                    run.done(&name, &result).await?;
                    seen.written.insert(name, result.clone());
                    output.extend(result);
                }
            },
            Op::Sleep(ms) => match run.sleep(&name, Duration::from_millis(*ms)).await? {
                Slept::Over => output.extend(b"slept;"),
                Slept::Suspend => {
                    run.end(End::Suspended).await?;
                    return Ok(Went::Ended);
                }
            },
            Op::Wait { comes } => {
                let (signal, time) = match comes {
                    true => (name.clone(), None),
                    false => ("never".to_owned(), Some(Duration::from_millis(10))),
                };
                match run.wait_for(&name, &signal, time).await? {
                    Heard::Signal(data) => output.extend(data),
                    Heard::TimedOut => output.extend(b"nothing;"),
                    Heard::Suspend => {
                        run.end(End::Suspended).await?;
                        return Ok(Went::Ended);
                    }
                }
            }
        }
    }
    assert_eq!(run.end(End::Done(output)).await?, Ended::Done);
    Ok(Went::Ended)
}

async fn one_case(flows: &Flows, id: &str, operations: &[Op], cuts: &[Cut]) {
    let handling = Handling {
        n_attempts: 1_000,
        backoff: Duration::from_millis(1),
        lease: Duration::from_millis(100),
        ..handling()
    };
    let mut member = flows.take_part(&handling).await.unwrap();
    start(flows, id).await;
    for (nth, operation) in operations.iter().enumerate() {
        if let Op::Wait { comes: true } = operation {
            let (name, data) = (format!("op {nth}"), format!("signal {nth};"));
            let left = flows.signal(id, &name, data.as_bytes(), ROOM).await;
            assert_eq!(left, Ok(true));
        }
    }
    let mut seen = Seen::default();
    let (mut cuts, mut dead) = (cuts.iter(), Vec::new());
    let finish = async {
        loop {
            if let RunState::Done(output) = state(flows, id).await {
                return output;
            }
            let run = claim(&mut member).await;
            match call(&run, operations, cuts.next().copied(), &mut seen).await {
                Ok(Went::Ended) => {}
                // Its node is dead for all that the others know.
                Ok(Went::CutOff) | Err(WorkflowError::Lost) => dead.push(run),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let output = tokio::time::timeout(PATIENCE, finish).await.unwrap();
    let of = |(nth, operation): (usize, &Op)| match operation {
        Op::Step => seen.written[&format!("op {nth}")].clone(),
        Op::Sleep(_) => b"slept;".to_vec(),
        Op::Wait { comes: true } => format!("signal {nth};").into_bytes(),
        Op::Wait { comes: false } => b"nothing;".to_vec(),
    };
    let wanted: Vec<u8> = operations.iter().enumerate().flat_map(of).collect();
    assert_eq!(
        String::from_utf8(output).unwrap(),
        String::from_utf8(wanted).unwrap()
    );
    // Those that were dead and are not say what nobody hears.
    for zombie in dead {
        zombie.step("late").await.unwrap();
        assert_eq!(zombie.done("late", b"").await, Err(WorkflowError::Lost));
        let ended = zombie.end(End::Done(b"wrong".to_vec())).await;
        assert_eq!(ended, Err(WorkflowError::Lost));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_run_that_is_cut_off_anywhere_comes_to_the_end_of_one_that_is_not(
        operations in operations(),
        cuts in cuts(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let flows = sqlite(folder.path());
            one_case(&flows, "run", &operations, &cuts).await;
        });
    }
}

/// The same on a server, of which one is enough: every cut at every place of one workflow.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_a_server_that_is_cut_off_at_each_place_comes_to_its_end() {
    let server = crate::server::Server::start(None, "trust");
    let flows = crate::support::postgres(&server);
    let operations = [
        Op::Step,
        Op::Sleep(5),
        Op::Step,
        Op::Wait { comes: true },
        Op::Wait { comes: false },
        Op::Step,
    ];
    for at in 0..operations.len() {
        let cuts = [
            Cut::VanishesWriting(at, 200 * at as u64),
            Cut::VanishesUnwritten(at),
            Cut::Vanishes(at),
            Cut::Fails(at),
            Cut::GivesBack(at),
        ];
        one_case(&flows, &format!("run {at}"), &operations, &cuts).await;
    }
}
