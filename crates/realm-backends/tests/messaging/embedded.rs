//! The embedded queue: where it lies, and what is there after a start and after `kill -9`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use realm_backends::Unwatched;
use realm_backends::messaging::{Embedded, Room};
use realm_model::cloud::{Messaging, Subscription};

use crate::support::{
    Bed, SMALL, group, next, nothing_comes, soon, subscription, take, text, words,
};

fn open(path: &Path, room: Room) -> Arc<dyn Messaging> {
    Arc::new(Embedded::open(path.to_owned(), room, Arc::new(Unwatched), Arc::new(|_| {})).unwrap())
}

#[expect(
    clippy::unused_async,
    reason = "that of a server waits until it is there"
)]
pub(crate) async fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    Bed {
        messaging: open(&folder.path().join("queue"), Room::default()),
        small: open(&folder.path().join("small"), SMALL),
        _keep: Box::new(folder),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_finds_what_an_end_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue");
    let mortal = Subscription {
        n_deliveries: 2,
        ..subscription("orders", "w", 1)
    };
    let queue = open(&path, Room::default());
    let mut worker = queue.subscribe(&mortal).await.unwrap();
    for name in ["done", "under way", "waits", "later"] {
        let delay = (name == "later").then_some(Duration::from_millis(1_500));
        queue.send("orders", text(name), delay).await.unwrap();
    }
    assert_eq!(take(&mut worker).await, "done");
    let under_way = next(&mut worker).await;
    drop(queue);
    assert!(worker.next().await.is_err());
    drop((worker, under_way));

    let queue = open(&path, Room::default());
    let mut worker = queue.subscribe(&mortal).await.unwrap();
    let first = next(&mut worker).await;
    assert_eq!(
        (words(&first.message), first.attempt),
        ("under way".to_owned(), 2)
    );
    assert!(first.receipt.retry(Duration::ZERO, "no").await.unwrap());
    assert_eq!(take(&mut worker).await, "waits");
    assert_eq!(take(&mut worker).await, "later");
    nothing_comes(&mut worker).await;
    drop((worker, first, queue));

    let queue = open(&path, Room::default());
    let dead = queue.dead(10).await.unwrap();
    assert_eq!(dead.iter().map(words).collect::<Vec<_>>(), ["under way"]);
}

#[test]
fn a_file_of_another_process_or_kind_is_refused_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue");
    let open = |path: &Path| {
        let opened = Embedded::open(
            path.to_owned(),
            Room::default(),
            Arc::new(Unwatched),
            Arc::new(|_| {}),
        );
        opened.map(drop).unwrap_err()
    };
    let queue = Embedded::open(
        path.clone(),
        Room::default(),
        Arc::new(Unwatched),
        Arc::new(|_| {}),
    )
    .unwrap();
    assert!(open(&path).contains("already open"), "{}", open(&path));
    drop(queue);
    let other = folder.path().join("other");
    std::fs::write(
        &other,
        "this is something else, and long enough for a head".repeat(20),
    )
    .unwrap();
    assert!(!open(&other).is_empty());
    assert!(open(&folder.path().join("missing/queue")).contains("No such file"));
}

#[test]
fn the_file_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue");
    let _queue = Embedded::open(
        path.clone(),
        Room::default(),
        Arc::new(Unwatched),
        Arc::new(|_| {}),
    )
    .unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Says each number once it is sent, until it is killed. Started by the test below.
#[tokio::test(flavor = "multi_thread")]
async fn sends_until_it_is_killed() {
    let Some(path) = std::env::var_os("REALM_TEST_QUEUE") else {
        return;
    };
    let queue = open(Path::new(&path), Room::default());
    let mut worker = queue
        .subscribe(&subscription("orders", "w", 1))
        .await
        .unwrap();
    let mut n = 0;
    loop {
        let sent = (0..8).map(|_| {
            n += 1;
            let (queue, n) = (Arc::clone(&queue), n);
            tokio::spawn(async move {
                queue
                    .send("orders", text(n.to_string()), None)
                    .await
                    .unwrap();
                println!("sent {n}");
            })
        });
        for task in sent.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let done = take(&mut worker).await;
        println!("done {done}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_sent_and_repeats_nothing_that_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue");
    let (mut sent, mut done) = (Vec::new(), Vec::new());
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "embedded::sends_until_it_is_killed",
                "--nocapture",
            ])
            .env("REALM_TEST_QUEUE", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        for line in lines.by_ref().map_while(Result::ok) {
            said += usize::from(line.contains("done"));
            note(&line, round, &mut sent, &mut done);
            if said == 20 * round {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            note(&line, round, &mut sent, &mut done);
        }
        // Each round is drained, so that numbers can begin anew.
        let queue = open(&path, Room::default());
        let mut worker = queue
            .subscribe(&subscription("orders", "w", 1))
            .await
            .unwrap();
        let last = format!("the end of {round}");
        queue
            .send("orders", text(last.as_str()), None)
            .await
            .unwrap();
        loop {
            let words = take(&mut worker).await;
            if words == last {
                break;
            }
            let key = (round, words);
            assert!(!done.contains(&key), "{key:?} was done");
            sent.retain(|one| *one != key);
        }
        sent.retain(|one| !done.contains(one));
        assert_eq!(sent, [], "lost in round {round}");
        soon(queue.keep_groups(&[group("orders", "w")]))
            .await
            .unwrap();
    }
}

/// `sent 7` or `done 7`, perhaps after what the test's harness says on the same line.
fn note(
    line: &str,
    round: usize,
    sent: &mut Vec<(usize, String)>,
    done: &mut Vec<(usize, String)>,
) {
    let mut words = line.split(' ').rev();
    let (Some(number), Some(kind)) = (words.next(), words.next()) else {
        return;
    };
    if number.parse::<u64>().is_err() {
        return;
    }
    let key = (round, number.to_owned());
    if kind.ends_with("sent") {
        sent.push(key);
    } else if kind.ends_with("done") {
        done.push(key);
    }
}
