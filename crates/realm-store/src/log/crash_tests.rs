//! Every crash point of a script of appends, with everything a loss of power can leave of it; every
//! failure of every operation; a disk that fills up.

use std::io::ErrorKind;

use crate::files::faults::{Fault, FaultyFiles};
use crate::log::{Log, LogError};
use crate::testing::{Kept, log_path, payload};

/// Lengths of the appended payloads: a tiny one, one within a sector, one across sectors.
const LENGTHS: [usize; 4] = [1, 40, 700, 30];

/// The same for tests that square their number of cases.
const SHORTER_LENGTHS: [usize; 4] = [1, 40, 150, 30];

/// What a process did until it ended.
struct Run {
    acknowledged: Vec<Vec<u8>>,
    in_flight: Option<Vec<u8>>,
}

/// Opens and appends until something fails or everything is appended.
fn run(files: &FaultyFiles) -> Run {
    let mut run = Run {
        acknowledged: Vec::new(),
        in_flight: None,
    };
    let Ok(mut kept) = Kept::open(files) else {
        return run;
    };
    for (number, length) in LENGTHS.into_iter().enumerate() {
        let payload = payload(number, length);
        match kept.append(&payload) {
            Ok(marked) => {
                run.acknowledged.push(payload);
                if marked.is_err() {
                    return run;
                }
            }
            Err(_) => {
                run.in_flight = Some(payload);
                return run;
            }
        }
    }
    run
}

fn steps_of_a_clean_run() -> usize {
    let files = FaultyFiles::new();
    assert_eq!(run(&files).acknowledged.len(), LENGTHS.len());
    files.steps()
}

/// Opens, and checks that what is there is what was acknowledged, or that and the one in flight.
/// (That no mark is above the log: else the log is shorter than its mark.)
fn check(files: &FaultyFiles, run: &Run, context: &dyn std::fmt::Debug) -> Kept<FaultyFiles> {
    let kept = Kept::open(files).unwrap_or_else(|failure| panic!("{context:?}: {failure:?}"));
    let mut with_in_flight = run.acknowledged.clone();
    with_in_flight.extend(run.in_flight.clone());
    assert!(
        kept.records == run.acknowledged || kept.records == with_in_flight,
        "{context:?}: {} acknowledged, {} found",
        run.acknowledged.len(),
        kept.records.len()
    );
    kept
}

#[test]
fn power_lost_at_any_step_takes_nothing_that_was_acknowledged() {
    let mut crashes = 0;
    let mut torn = 0;
    for step in 0..steps_of_a_clean_run() {
        let files = FaultyFiles::new();
        files.fail_at(step, Fault::Stop);
        let run = run(&files);
        for survival in files.survivals() {
            let after = files.crash(&survival);
            let mut kept = check(&after, &run, &(step, &survival));
            crashes += 1;
            torn += usize::from(kept.torn_tail_bytes > 0);

            let next = payload(99, 20);
            kept.append(&next)
                .expect("a log that was reopened takes entries")
                .expect("and marks");
            let records = kept.records;
            let again = Kept::open(&after).expect("it opens again");
            assert_eq!(again.records, records, "{step} {survival:?}");
            assert_eq!(again.torn_tail_bytes, 0);
        }
    }
    // The fault layer does tear: a test that never saw a torn tail proves nothing.
    assert!(crashes > 3_000 && torn > 1_000, "{crashes} {torn}");
}

#[test]
fn power_lost_during_recovery_takes_nothing_either() {
    for step in 0..steps_of_a_clean_run() {
        let files = FaultyFiles::new();
        files.fail_at(step, Fault::Stop);
        let run = run(&files);
        let whole: Vec<_> = files.survivals();
        for survival in whole.into_iter().step_by(37) {
            for recovery_step in 0.. {
                let recovering = files.crash(&survival);
                recovering.fail_at(recovery_step, Fault::Stop);
                let recovered = Kept::open(&recovering).is_ok();
                for survival in recovering.survivals().into_iter().step_by(5) {
                    check(
                        &recovering.crash(&survival),
                        &run,
                        &(step, recovery_step, survival),
                    );
                }
                if recovered {
                    break;
                }
            }
        }
    }
}

#[test]
fn what_a_killed_process_left_is_durable_once_it_was_read() {
    for step in 0..steps_of_a_clean_run() {
        let files = FaultyFiles::new();
        files.fail_at(step, Fault::Stop);
        let run = run(&files);
        check_read_is_durable(&files.kill(), &run, step);
    }
}

#[test]
fn a_failed_sync_and_a_kill_do_not_make_a_record_look_durable() {
    for step in 0..steps_of_a_clean_run() {
        let files = FaultyFiles::new();
        files.fail_at(step, Fault::SyncLoses);
        // The process dies before it can cut back what it could not sync.
        files.fail_at(step + 1, Fault::Stop);
        let run = run(&files);
        check_read_is_durable(&files.kill(), &run, step);
    }
}

fn check_read_is_durable(files: &FaultyFiles, run: &Run, step: usize) {
    let mut kept = check(files, run, &step);
    check_durable(files, &kept.records, step);
    kept.append(&payload(99, 20))
        .expect("it takes entries")
        .expect("and marks");
    check_durable(files, &kept.records, step);
}

fn check_durable(files: &FaultyFiles, records: &[Vec<u8>], step: usize) {
    for survival in files.survivals() {
        let again = Kept::open(&files.crash(&survival))
            .unwrap_or_else(|failure| panic!("{step} {survival:?}: {failure:?}"));
        assert_eq!(again.records, records, "{step} {survival:?}");
    }
}

/// Lets operations fail while the process goes on, each append tried again with OTHER bytes: a
/// refused entry must never come back beside the one that took its place.
fn check_failures(faults: &[(usize, Fault)]) {
    let files = FaultyFiles::new();
    for (step, fault) in faults {
        files.fail_at(*step, *fault);
    }
    let mut kept = open_in_the_end(&files);
    for (number, length) in SHORTER_LENGTHS.into_iter().enumerate() {
        for attempt in 0.. {
            assert!(attempt <= faults.len(), "it goes on when the fault is gone");
            // Shorter at each attempt: what is left of the last one would stick out.
            let tried = payload(number + 100 * attempt, 1 + length / (attempt + 1));
            let before = Run {
                acknowledged: kept.records.clone(),
                in_flight: Some(tried.clone()),
            };
            if kept.append(&tried).is_ok() {
                break;
            }
            for survival in files.survivals().into_iter().step_by(3) {
                check(&files.crash(&survival), &before, &(faults, survival));
            }
        }
    }
    let run = Run {
        acknowledged: kept.records.clone(),
        in_flight: None,
    };
    assert_eq!(run.acknowledged.len(), SHORTER_LENGTHS.len());
    for survival in files.survivals() {
        check(&files.crash(&survival), &run, &(faults, survival));
    }
}

fn open_in_the_end(files: &FaultyFiles) -> Kept<FaultyFiles> {
    (0..4)
        .find_map(|_| Kept::open(files).ok())
        .expect("it opens when the fault is gone")
}

#[test]
fn any_operation_may_fail_once_or_twice() {
    // A failed attempt adds steps: go beyond those of a clean run.
    for step in 0..steps_of_a_clean_run() + 8 {
        for fault in [
            Fault::Error(ErrorKind::StorageFull),
            Fault::Error(ErrorKind::Other),
            Fault::SyncLoses,
        ] {
            check_failures(&[(step, fault)]);
            check_failures(&[(step, fault), (step + 1, fault)]);
            for later in 2..=4 {
                check_failures(&[(step, fault), (step + later, Fault::SyncLoses)]);
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let long = payload(1, 300);
    for space in 0..long.len() + 8 {
        let files = FaultyFiles::new();
        let mut kept = Kept::open(&files).expect("opens");
        kept.append(&payload(0, 20)).expect("room").expect("room");
        let before = files.contents(&log_path());

        files.set_space(Some(space));
        let error = kept.append(&long).expect_err("no room");
        assert!(error.is_disk_full(), "{error:?}");
        assert_eq!(files.contents(&log_path()), before, "nothing partial");
        assert_eq!(kept.log.records(), 1);

        files.set_space(None);
        kept.append(&long).expect("room again").expect("marked");
        let again = Kept::open(&files).expect("opens");
        assert_eq!(again.records, [payload(0, 20), long.clone()]);
    }
}

#[test]
fn a_log_below_its_mark_is_refused_and_left_alone() {
    let files = FaultyFiles::new();
    let run = run(&files);
    let whole = files.contents(&log_path()).expect("a log");
    let check = |bytes: &[u8]| {
        files.put(&log_path(), bytes);
        let error = Kept::open(&files).err().expect("too short");
        assert_eq!(files.contents(&log_path()).as_deref(), Some(bytes));
        error
    };
    // One byte less, the last record gone, all records gone.
    let last = LENGTHS.last().expect("some") + 8;
    for length in [whole.len() - 1, whole.len() - last, 16] {
        let error = check(&whole[..length]);
        let text = format!("{error:?}");
        assert!(text.contains("ShorterThanMark"), "{length}: {text}");
    }
    // A flip in the last record is told apart from a torn write, mark or no mark.
    let mut flipped = whole.clone();
    flipped[whole.len() - 10] ^= 4;
    assert!(format!("{:?}", check(&flipped)).contains("Damaged"));
    let alone = FaultyFiles::new();
    alone.put(&log_path(), &flipped);
    let error = Log::open(alone, log_path(), None).expect_err("damaged");
    assert!(
        matches!(error, LogError::Damaged { record: 3, .. }),
        "{error:?}"
    );

    // No file at all: no new one takes its place.
    let gone = FaultyFiles::new();
    let floor = Some(run.acknowledged.len() as u64);
    let error = Log::open(gone.clone(), log_path(), floor).expect_err("gone");
    assert!(
        matches!(
            error,
            LogError::ShorterThanMark {
                records: 0,
                mark: 4,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(gone.paths().is_empty());
}
