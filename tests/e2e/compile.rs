//! Compiling a component: shown while it goes on, at low priority, and once.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use realm_model::digest::Digest;
use realm_test_guests::{FILES, HELLO};

use crate::support::{Realm, Running, eventually, get, said, signal};

/// The priority that a compiler runs at.
const NICENESS: &str = "10";

/// The compiled files of a realm.
fn compiled(realm: &Realm) -> Vec<PathBuf> {
    crate::crash::walk(&realm.path(".realm/cache"), "cwasm")
}

/// The fields of /proc/PID/stat after the command's name, which may hold anything.
fn stat(process: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(fields.map(str::to_owned).collect())
}

/// Field 19 of proc_pid_stat(5).
fn niceness(process: &str) -> Option<String> {
    stat(process)?.get(16).cloned()
}

/// The children of a process that are compilers.
fn compilers(parent: u32) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|process| {
        // Field 4: the parent.
        stat(process).is_some_and(|fields| fields.get(1) == Some(&parent.to_string()))
            && std::fs::read_to_string(format!("/proc/{process}/cmdline"))
                .is_ok_and(|line| line.contains(realm_node::COMPILE_VERB))
    });
    ours.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_is_shown_and_happens_once() {
    let realm = Realm::new();
    // The largest guest: it compiles long enough to be looked at.
    realm.app(FILES, "");
    let agent = realm.agent();
    // On a busy machine it may be compiled before the verb has ended.
    let apply = realm.command(&["apply", "--yes", "--no-wait"]);
    let applying = std::thread::spawn(move || said(apply));
    // At low priority, from before it does anything; held still, it can be looked at.
    let child = loop {
        assert_eq!(compiled(&realm).len(), 0, "compiled before it was seen");
        let mut children = compilers(agent.id()).into_iter();
        if let Some(child) = children.find(|one| niceness(one).as_deref() == Some(NICENESS)) {
            break child;
        }
    };
    signal(child.parse().unwrap(), "STOP");
    applying.join().unwrap().ok();
    let told = eventually("it says for how long", async || {
        let waiting = realm.component("app").await.waiting_on;
        let told = waiting.into_iter().find(|one| one.code == "compiling")?;
        told.message.ends_with(" so far").then_some(told.message)
    });
    let told = told.await;
    assert!(told.starts_with("compiling app ("), "{told}");
    signal(child.parse().unwrap(), "CONT");
    let serves = async |url: String| {
        eventually("it serves", async || {
            (get(&url).await.0 == 200).then_some(())
        })
        .await;
    };
    serves(agent.url("/")).await;
    let before = identity(&realm);
    // Neither a restart of the component nor one of the agent compiles again.
    tokio::task::block_in_place(|| realm.run(&["restart", "app"]).ok());
    assert_eq!(identity(&realm), before);
    agent.kill_9();
    let agent = realm.agent();
    serves(agent.url("/")).await;
    assert_eq!(identity(&realm), before);
}

/// What a file that is written again does not keep.
fn identity(realm: &Realm) -> (PathBuf, u64, i64, i64) {
    let files = compiled(realm);
    assert_eq!(files.len(), 1, "{files:?}");
    let metadata = std::fs::metadata(&files[0]).unwrap();
    (
        files[0].clone(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compiler_lowers_its_priority_before_it_reads() {
    let realm = Realm::empty();
    // A pipe holds it still for as long as the test looks.
    let made = Command::new("mkfifo").arg(realm.path("source")).status();
    assert!(made.unwrap().success());
    let bytes = std::fs::read(HELLO).unwrap();
    let child = Running::start(realm.command(&[
        realm_node::COMPILE_VERB,
        "--source",
        "source",
        "--digest",
        &Digest::of(&bytes).to_string(),
        "--destination",
        "hello.cwasm",
    ]));
    let process = child.id().to_string();
    eventually("it is nice", async || {
        (niceness(&process)? == NICENESS).then_some(())
    })
    .await;
    assert!(!realm.path("hello.cwasm").exists());
    std::fs::write(realm.path("source"), bytes).unwrap();
    assert!(child.ended().success());
    assert!(realm.path("hello.cwasm").exists());
}
