//! The folder: the suite, and what only files can do wrong.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_backends::Watch;
use realm_backends::blobs::Directory;
use realm_model::cloud::{Blobs, CloudError};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::conformance::{self, Subject, memory_kib};
use crate::heard::Heard;
use crate::sources::{Pattern, bytes, get, names, put};

fn open(folder: &Path) -> Directory {
    Directory::open(folder, Arc::new(Heard::default())).expect("opens")
}

fn subject() -> (TempDir, Subject) {
    let folder = tempfile::tempdir().expect("a folder");
    let subject = Subject {
        blobs: Arc::new(open(&folder.path().join("new/blobs"))),
        object_bytes_max: 1_024,
        is_sorted: true,
        n_listed: 2_500,
    };
    (folder, subject)
}

macro_rules! conform {
    ($($check:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                let (folder, subject) = subject();
                conformance::$check(&subject).await;
                // Nothing beside the folder, and nothing half-written in it.
                assert_eq!(files(folder.path(), 1), ["new/"]);
                assert_eq!(files(&folder.path().join("new/blobs/temporary"), 1), [""; 0]);
            }
        )*
    };
}

conform!(
    containers_come_and_go,
    what_is_not_there_is_said_so,
    bytes_come_back_as_they_were,
    a_large_object_passes_through_little_memory,
    an_object_is_seen_whole,
    of_many_writers_one_is_last,
    a_broken_source_writes_nothing,
    ranges_are_cut_and_refused,
    a_listing_has_each_name_once,
    no_name_is_taken_for_another,
    copies_and_moves,
    a_full_container_is_deleted,
);

/// Names in a folder, down to a depth, sorted; those of folders with a `/`.
fn files(folder: &Path, depth: usize) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !entry.file_type().unwrap().is_dir() {
            all.push(name);
            continue;
        }
        if depth > 1 {
            let below = files(&entry.path(), depth - 1);
            all.extend(below.iter().map(|below| format!("{name}/{below}")));
        }
        all.push(format!("{name}/"));
    }
    all.sort();
    all
}

#[tokio::test]
async fn an_operator_finds_plain_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = open(folder.path());
    blobs.create("photos").await.unwrap();
    put(&blobs, "photos", "cats/tom.jpg", 3, 500).await;
    let path = folder
        .path()
        .join("containers/photos/objects/cats%2ftom.jpg");
    assert_eq!(fs::read(&path).unwrap(), bytes(3, 0, 500));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // What was put there by hand and by no name is left alone, and not shown; a link is not followed.
    fs::write(path.with_file_name("Notes.TXT"), "mine").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path.with_file_name("link")).unwrap();
    assert_eq!(blobs.object("photos", "link").await, Ok(None));
    assert_eq!(
        get(&blobs, "photos", "link").await,
        Err(CloudError::NotFound("the object"))
    );
    assert_eq!(blobs.bytes("photos").await, Ok(Some(504)));
}

#[tokio::test]
async fn the_count_of_bytes_is_that_of_the_files_after_any_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut expected = 0;
    for round in 0..3_u64 {
        let blobs = open(folder.path());
        blobs.create("c").await.unwrap();
        // The first call of a start, in turn: a look, a writing, a removal.
        match round {
            0 => assert_eq!(blobs.bytes("c").await, Ok(Some(0))),
            1 => {
                put(&blobs, "c", "0-1", 1, 1).await;
                expected = expected - 1_001 + 1;
            }
            _ => {
                blobs.remove("c", &["0-1".to_owned()]).await.unwrap();
                expected -= 1;
            }
        }
        for n in 0..5 {
            let size = 1_000 + round * 10 + n;
            put(&blobs, "c", &format!("{round}-{n}"), 1, size).await;
            expected += size;
        }
        assert_eq!(blobs.bytes("c").await, Ok(Some(expected)));
        blobs
            .rename(("c", &format!("{round}-0")), ("c", "moved"))
            .await
            .unwrap();
        if round > 0 {
            expected -= 1_000 + (round - 1) * 10;
        }
        assert_eq!(blobs.bytes("c").await, Ok(Some(expected)));
    }
}

/// Whatever was done, what is counted along the way is what is counted anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_everything_takes_is_counted_along_the_way() {
    const OBJECT: u64 = 1_024;
    const CONTAINER: u64 = 4_096;
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Arc::new(open(folder.path()));
    let used = async || blobs.used().await.unwrap().unwrap();
    blobs.create("c").await.unwrap();
    put(&*blobs, "c", "before", 1, 10).await;
    assert_eq!(used().await, CONTAINER + OBJECT + 10);
    blobs.create("c").await.unwrap();
    blobs.create("d").await.unwrap();
    assert_eq!(used().await, 2 * CONTAINER + OBJECT + 10);
    put(&*blobs, "c", "before", 1, 3_000_000).await;
    put(&*blobs, "d", "empty", 1, 0).await;
    blobs.copy(("c", "before"), ("d", "copy")).await.unwrap();
    assert_eq!(used().await, 2 * CONTAINER + 3 * OBJECT + 6_000_000);
    blobs.rename(("d", "copy"), ("c", "before")).await.unwrap();
    blobs.rename(("c", "before"), ("c", "after")).await.unwrap();
    blobs.remove("d", &["none".to_owned()]).await.unwrap();
    assert_eq!(used().await, 2 * CONTAINER + 2 * OBJECT + 3_000_000);

    // What is being written counts, or many writers would be one too many.
    let (here, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let source = Pattern::new(2, 2_000_000)
        .waits_at(1_500_000, &here, &go)
        .boxed();
    let writer = tokio::spawn({
        let blobs = Arc::clone(&blobs);
        async move { blobs.write("c", "large", source).await }
    });
    here.notified().await;
    let meanwhile = used().await - 2 * CONTAINER - 2 * OBJECT - 3_000_000;
    assert!((1_000_000..1_600_000).contains(&meanwhile), "{meanwhile}");
    writer.abort();
    assert!(writer.await.is_err());
    let begun = Instant::now();
    while used().await != 2 * CONTAINER + 2 * OBJECT + 3_000_000 {
        assert!(begun.elapsed().as_secs() < 20, "{}", used().await);
    }
    blobs.delete("d").await.unwrap();
    assert_eq!(used().await, CONTAINER + OBJECT + 3_000_000);

    // Many at once, and the first count in the middle of them.
    drop(blobs);
    let blobs = Arc::new(open(folder.path()));
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let blobs = Arc::clone(&blobs);
            tokio::spawn(async move {
                for n in 0..12 {
                    put(&*blobs, "c", &format!("{}", (writer + n) % 5), n, n * 100).await;
                    blobs.remove("c", &[format!("{}", n % 3)]).await.unwrap();
                    let container = format!("c{writer}");
                    blobs.create(&container).await.unwrap();
                    put(&*blobs, &container, "o", n, 700).await;
                    if n % 2 == 0 {
                        blobs.delete(&container).await.unwrap();
                    }
                    blobs.used().await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let along_the_way = blobs.used().await.unwrap();
    drop(blobs);
    let blobs = open(folder.path());
    assert_eq!(blobs.used().await.unwrap(), along_the_way);
}

#[tokio::test]
async fn a_folder_has_one_at_a_time_and_of_its_own_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = || Directory::open(folder.path(), Arc::new(Heard::default())).err();
    let blobs = open(folder.path());
    assert_eq!(refused().expect("taken").kind(), ErrorKind::WouldBlock);
    drop(blobs);
    drop(open(folder.path()));
    fs::write(folder.path().join("realm-blobs"), "realm blobs 9\nmore").unwrap();
    let error = refused().expect("of a later version");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(
        error.to_string(),
        "its format is `realm blobs 9`, which this version does not know"
    );
}

#[tokio::test]
async fn what_a_crash_left_is_swept() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    let path = |name: &str| folder.path().join(name);
    fs::write(path("temporary/7"), "half").unwrap();
    fs::create_dir_all(path("temporary/8/objects")).unwrap();
    fs::create_dir_all(path("trash/41/objects")).unwrap();
    fs::write(path("trash/41/objects/a"), "gone").unwrap();
    let blobs = open(folder.path());
    assert_eq!(files(&path("temporary"), 1), [""; 0]);
    blobs.create("c").await.unwrap();
    put(&blobs, "c", "a", 1, 1_000_000).await;
    blobs.delete("c").await.unwrap();
    let begun = Instant::now();
    while !files(&path("trash"), 1).is_empty() {
        assert!(begun.elapsed().as_secs() < 20, "the trash stays");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_disk_that_fails_is_told_to_the_operator_and_not_to_the_guest() {
    let folder = tempfile::tempdir().expect("a folder");
    let heard = Arc::new(Heard::default());
    let watch: Arc<dyn Watch> = Arc::clone(&heard) as _;
    let blobs = Directory::open(folder.path(), watch).expect("opens");
    blobs.create("c").await.unwrap();
    // No permissions: root has them all.
    let (temporary, aside) = (folder.path().join("temporary"), folder.path().join("aside"));
    fs::rename(&temporary, &aside).unwrap();
    fs::write(&temporary, "").unwrap();
    let written = blobs.write("c", "o", Pattern::new(1, 1).boxed()).await;
    let Err(CloudError::Failed(words)) = written else {
        panic!("{written:?}");
    };
    assert_eq!(words, "not a directory");
    fs::remove_file(&temporary).unwrap();
    fs::rename(&aside, &temporary).unwrap();
    put(&blobs, "c", "o", 1, 1).await;
    let heard = heard.all();
    let root = folder.path().display();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(
        heard[0].starts_with(&format!("down `{root}`: ")),
        "{heard:?}"
    );
    assert_eq!(heard[1], "up");
}

/// A container that goes while somebody writes into it, and comes back, keeps its count.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_made_anew_counts_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Arc::new(open(folder.path()));
    blobs.create("c").await.unwrap();
    put(&*blobs, "c", "old", 1, 5_000).await;
    assert_eq!(blobs.bytes("c").await, Ok(Some(5_000)));
    let (here, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let source = Pattern::new(2, 600_000)
        .waits_at(500_000, &here, &go)
        .boxed();
    let writer = tokio::spawn({
        let blobs = Arc::clone(&blobs);
        async move { blobs.write("c", "new", source).await }
    });
    here.notified().await;
    blobs.delete("c").await.unwrap();
    assert_eq!(blobs.bytes("c").await, Ok(Some(0)));
    blobs.create("c").await.unwrap();
    assert_eq!(blobs.bytes("c").await, Ok(Some(0)));
    go.notify_one();
    writer.await.unwrap().unwrap();
    assert_eq!(names(&*blobs, "c", 10).await, ["new"]);
    assert_eq!(blobs.bytes("c").await, Ok(Some(600_000)));
}

#[tokio::test]
async fn more_than_a_hundred_thousand_names_are_listed_in_little_memory() {
    const N: usize = 100_001;
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = open(folder.path());
    blobs.create("c").await.unwrap();
    let name = |n: usize| format!("{n:06}-{}.jpg", "long".repeat(30));
    // As files, or the disk would have to say for each that it has it.
    let objects = folder.path().join("containers/c/objects");
    for n in 0..N {
        fs::write(objects.join(name(n)), "x").unwrap();
    }
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_kib("VmRSS:");
    let begun = Instant::now();
    let (mut n, mut last) = (0, None::<String>);
    loop {
        let page = blobs.list("c", last.as_deref(), 1_000).await.unwrap();
        for listed in &page {
            assert_eq!(*listed, name(n));
            n += 1;
        }
        if page.len() < 1_000 {
            break;
        }
        last = page.last().cloned();
    }
    assert_eq!(n, N);
    let grown_mib = memory_kib("VmHWM:").saturating_sub(before) / 1024;
    assert!(grown_mib < 10, "{grown_mib} MiB");
    println!("{N} names in {:?}, {grown_mib} MiB", begun.elapsed());
    assert_eq!(blobs.bytes("c").await, Ok(Some(N as u64)));
}

const FOLDER: &str = "REALM_BLOBS_KILL_TEST_FOLDER";
const ROUNDS: u32 = 24;

/// Objects of the child: small ones, large ones, and one that is written over.
fn of_number(number: u64) -> (String, u64) {
    match number % 3 {
        0 => (format!("small-{number}"), 1 + number % 500),
        1 => (format!("large-{number}"), 700_000 + number),
        _ => ("over".to_owned(), 200_000 + number * 1_000),
    }
}

/// The child: does nothing unless the test below starts it.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let blobs = open(Path::new(&folder));
    blobs.create("c").await.unwrap();
    let first = names(&blobs, "c", 1_000).await.len() as u64 * 2;
    for number in first..first + 5_000 {
        let (name, size) = of_number(number);
        put(&blobs, "c", &name, number, size).await;
        // One write per line: the parent never sees half of one.
        let line = format!("acknowledged {number}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn kill_9_takes_nothing_that_was_acknowledged_and_leaves_no_half() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged: Vec<u64> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = start(folder.path());
        let delay = Duration::from_micros(500) * round;
        acknowledged.extend(kill_after(&mut child, 1 + round as usize % 7, delay));

        let blobs = open(folder.path());
        let mut total = 0;
        for name in names(&blobs, "c", 1_000).await {
            let got = get(&blobs, "c", &name).await.unwrap();
            total += got.len() as u64;
            // Each is one that was written, whole, whether or not the child could still say so.
            let number = match name.split_once('-') {
                Some((_, number)) => number.parse().unwrap(),
                None => (got.len() as u64 - 200_000) / 1_000,
            };
            let (expected_name, size) = of_number(number);
            assert_eq!((expected_name, size), (name.clone(), got.len() as u64));
            assert!(got == bytes(number, 0, got.len()), "{name}");
        }
        assert_eq!(blobs.bytes("c").await, Ok(Some(total)));
        let latest = acknowledged.iter().rev().find(|number| *number % 3 == 2);
        for number in &acknowledged {
            let (name, size) = of_number(*number);
            let info = blobs.object("c", &name).await.unwrap();
            let info = info.unwrap_or_else(|| panic!("round {round}: {name} is lost"));
            // The last one that was acknowledged, or the one after it.
            if name == "over" {
                let latest = *latest.expect("one");
                assert!(info.n_bytes >= 200_000 + latest * 1_000, "round {round}");
            } else {
                assert_eq!(info.n_bytes, size);
            }
        }
        assert_eq!(files(&folder.path().join("temporary"), 1), [""; 0]);
    }
    assert!(acknowledged.len() > ROUNDS as usize, "the child did write");
}

fn start(folder: &Path) -> Child {
    let this: PathBuf = std::env::current_exe().expect("this test");
    Command::new(this)
        .args([
            "--exact",
            "directory::writes_until_it_is_killed",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// Kills the child wherever it is a while after so many lines, and gives the numbers of all that it said.
fn kill_after(child: &mut Child, lines: usize, delay: Duration) -> Vec<u64> {
    let mut numbers = Vec::new();
    let output = BufReader::new(child.stderr.take().expect("piped"));
    for line in output.lines() {
        let line = line.expect("text");
        let number = line.strip_prefix("acknowledged ").expect("its only lines");
        numbers.push(number.parse().expect("a number"));
        if numbers.len() == lines {
            // Not to wait for something: to meet it at another place each time.
            let begun = Instant::now();
            while begun.elapsed() < delay {
                std::hint::spin_loop();
            }
            child.kill().expect("it runs");
        }
    }
    assert!(!child.wait().expect("it ended").success(), "it was killed");
    numbers
}
