//! A process that is killed while it appends: what it was told is appended is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use realm_model::cloud::streams::StreamError;

use crate::embedded::open;
use crate::support::{at, record, replay, words};

const PLACE: &str = "REALM_TEST_STREAMS";

/// The process that is killed: it appends, and says what is appended, until its end. Without the variable it
/// is a test of nothing, and passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = std::env::var_os(PLACE) else {
        return;
    };
    let streams = open(path.as_ref());
    let mut all = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let streams = Arc::clone(&streams);
        all.spawn(async move {
            let mut last = streams.bounds(at("guarded")).await.unwrap().last;
            for nth in 0_u64.. {
                let text = format!("{task}-{nth}");
                let batch = vec![record(text.clone()), record(text.clone())];
                let numbers = streams.append(at("free"), batch, None).await.unwrap();
                let mut lines = format!("acknowledged free {} {text}\n", numbers[1]);
                let guarded = vec![record(text.clone())];
                match streams.append(at("guarded"), guarded, Some(last)).await {
                    Ok(numbers) => {
                        last = numbers[0];
                        lines += &format!("acknowledged guarded {last} {text}\n");
                    }
                    Err(StreamError::Conflict(now)) => last = now,
                    Err(error) => panic!("{error}"),
                }
                // In one piece, so that a line is whole or not there.
                std::io::stdout()
                    .lock()
                    .write_all(lines.as_bytes())
                    .unwrap();
            }
        });
    }
    all.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams");
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
            .env(PLACE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut n_lines, mut killed) = (0, false);
        for line in lines {
            let line = line.unwrap();
            let Some(at) = line.find("acknowledged ") else {
                continue;
            };
            let words: Vec<&str> = line[at + 13..].split(' ').collect();
            let [stream, seq, text] = words[..] else {
                continue;
            };
            let seq: usize = seq.parse().unwrap();
            acknowledged.push((stream.to_owned(), seq, text.to_owned()));
            n_lines += 1;
            // In the middle of its work, and what it said until then is read to the end.
            if n_lines >= 100 + round * 37 && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "it ended by itself");
        let streams = open(&path);
        let (free, guarded) = (
            replay(&streams, "free").await,
            replay(&streams, "guarded").await,
        );
        for (stream, seq, text) in &acknowledged {
            let all = if stream == "free" { &free } else { &guarded };
            let found = all.get(seq - 1).unwrap_or_else(|| panic!("{stream} {seq}"));
            assert_eq!((found.seq, words(found)), (*seq as u64, text.clone()));
        }
        // A batch is there whole or not at all.
        assert!(free.len().is_multiple_of(2));
        for pair in free.chunks(2) {
            assert_eq!(words(&pair[0]), words(&pair[1]));
        }
    }
}
