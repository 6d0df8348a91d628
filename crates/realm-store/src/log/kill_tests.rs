//! kill -9 on a real process that appends in a loop: whatever it said was acknowledged is there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Log;
use crate::files::RealFiles;
use crate::mark::Marks;
use crate::testing::{CHAIN, head_of, payload};

const FOLDER: &str = "REALM_STORE_KILL_TEST_FOLDER";
/// Rounds, each killed after another number of acknowledged entries.
const ROUNDS: usize = 24;
/// The child ends by itself if nobody kills it.
const ENTRIES_MAX: usize = 20_000;

fn length(number: usize) -> usize {
    // From one byte to several pages, so that writes straddle sectors and pages.
    1 + number * 7_919 % 9_000
}

/// The child: does nothing unless the test below starts it.
#[test]
fn appends_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let mut marks = Marks::open(RealFiles, folder.join("marks")).expect("marks");
    let path = folder.join("default.log");
    let (mut log, recovered) = Log::open(RealFiles, path, marks.floor(CHAIN)).expect("a log");
    for number in recovered.records.len()..ENTRIES_MAX {
        let payload = payload(number, length(number));
        log.append_payload(&payload).expect("appended");
        // One write per line: the parent never sees half of one.
        std::io::stderr()
            .write_all(format!("acknowledged {number}\n").as_bytes())
            .expect("the parent reads");
        marks.set(CHAIN, head_of(number, &payload)).expect("marked");
    }
}

#[test]
fn kill_9_takes_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged_total = 0;
    for round in 0..ROUNDS {
        let mut child = start(folder.path());
        let acknowledged = kill_after(&mut child, round % 7);

        let marks = Marks::open(RealFiles, folder.path().join("marks")).expect("marks");
        let path = folder.path().join("default.log");
        let (_, recovered) =
            Log::open(RealFiles, path, marks.floor(CHAIN)).expect("at least the mark");
        if let Some(last) = acknowledged {
            acknowledged_total = last + 1;
        }
        let found = recovered.records.len();
        assert!(
            (acknowledged_total..=acknowledged_total + 1).contains(&found),
            "round {round}: {acknowledged_total} acknowledged, {found} found"
        );
        for (number, record) in recovered.records.iter().enumerate() {
            assert!(
                *record == payload(number, length(number)),
                "record {number}"
            );
        }
        acknowledged_total = found;
    }
    assert!(acknowledged_total > ROUNDS, "the child did append");
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "log::kill_tests::appends_until_it_is_killed"])
        .arg("--nocapture")
        .env(FOLDER, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// Kills the child as soon as it has acknowledged some entries, and reads what else it said until
/// it was gone. Returns the number of the last acknowledged entry.
fn kill_after(child: &mut Child, lines: usize) -> Option<usize> {
    let mut output = BufReader::new(child.stderr.take().expect("piped"));
    let mut last = None;
    let mut seen = 0;
    let mut line = String::new();
    loop {
        if seen == lines {
            // The pipe is not read in the meantime: the child dies wherever it is.
            child.kill().expect("it runs");
        }
        line.clear();
        if output.read_line(&mut line).expect("text") == 0 {
            break;
        }
        seen += 1;
        let number = line.strip_prefix("acknowledged ").expect("its only lines");
        last = Some(number.trim().parse().expect("a number"));
    }
    let status = child.wait().expect("it ended");
    assert!(!status.success(), "it was killed");
    last
}
