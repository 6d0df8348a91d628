//! A process that is killed while it writes: what it was told is written is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use realm_model::cloud::{KeyValue, limits};

use crate::embedded::open;

const PLACE: &str = "REALM_TEST_KEYVALUE";

/// The process that is killed: it writes, and says what is written, until its end. Without the variable
/// it is a test of nothing, and passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = std::env::var_os(PLACE) else {
        return;
    };
    let store = std::sync::Arc::new(open(path.as_ref()));
    let first: u64 = match store.get("facts", "next").await.unwrap() {
        Some(text) => String::from_utf8(text).unwrap().parse().unwrap(),
        None => 0,
    };
    let mut all = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let store = store.clone();
        all.spawn(async move {
            for nth in 0.. {
                let number = first + nth * 8 + task;
                let key = format!("k{number}");
                store.set("a", &key, &value(number), None).await.unwrap();
                let sum = store.increment("facts", "sum", 1).await.unwrap();
                // In one piece, so that a line is whole or not there.
                let line = format!("acknowledged {number} {sum}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    all.join_all().await;
}

fn value(number: u64) -> Vec<u8> {
    let n_bytes = usize::try_from(number * 97 % 9_000).unwrap();
    vec![(number % 251) as u8; n_bytes]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let (mut numbers, mut sums) = (Vec::new(), Vec::new());
    for round in 0..4_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
            .env(PLACE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut n_lines = 0;
        let mut killed = false;
        for line in lines {
            let line = line.unwrap();
            let Some(at) = line.find("acknowledged ") else {
                continue;
            };
            let Some((number, sum)) = line[at + 13..].split_once(' ') else {
                continue;
            };
            numbers.push(number.parse::<u64>().unwrap());
            sums.push(sum.parse::<i64>().unwrap());
            n_lines += 1;
            // In the middle of its work, and what it said until then is read to the end.
            if n_lines >= 100 + round * 37 && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "it ended by itself");

        let store = open(&path);
        for number in &numbers {
            let seen = store.get("a", &format!("k{number}")).await.unwrap();
            assert_eq!(
                seen.as_deref(),
                Some(&value(*number)[..]),
                "k{number} in round {round}"
            );
        }
        let sum = store.increment("facts", "sum", 0).await.unwrap();
        assert!(sum >= *sums.iter().max().unwrap(), "{sum}");
        // Each was acknowledged once, so that the count is at least that of the lines.
        assert!(sum >= i64::try_from(numbers.len()).unwrap());
        let mut n_bytes = 0;
        let mut cursor = None;
        loop {
            let page = store.keys("a", cursor.as_deref()).await.unwrap();
            assert!(page.keys.len() <= limits::PAGE_KEYS);
            for key in &page.keys {
                let number: u64 = key[1..].parse().unwrap();
                n_bytes +=
                    ("a".len() + key.len() + value(number).len() + limits::ENTRY_BYTES) as u64;
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        for key in ["sum", "next"] {
            if let Some(value) = store.get("facts", key).await.unwrap() {
                n_bytes += ("facts".len() + key.len() + value.len() + limits::ENTRY_BYTES) as u64;
            }
        }
        assert_eq!(store.bytes().await, Ok(Some(n_bytes)), "the count is exact");
        let next = numbers.iter().max().unwrap() + 100;
        store
            .set("facts", "next", next.to_string().as_bytes(), None)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
