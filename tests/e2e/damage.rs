//! A node whose disk fails it: a log that is torn or set back is filled again by the others, a full
//! disk takes nothing new and hurts nothing that runs.

use std::path::Path;
use std::process::Command;

use realm_model::entry::{Body, ChainId};
use realm_test_guests::{HELLO, VERSION_A, VERSION_B};

use crate::lab::Disk;
use crate::realms::{Node, Realms, delegation, next_entry, pinned};
use crate::support::{eventually, said};

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    said(command).ok();
}

/// Two nodes, and a component on the second.
async fn two() -> Realms {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[("app", VERSION_A, "beta")]));
    realms.run_there(&[("app", "beta")]).await;
    realms
}

fn restart(realms: &Realms) {
    realms.first().run(&["restart", "app", "--no-wait"]).ok();
}

async fn back_in_step(realms: &Realms) {
    realms.all_meet().await;
    realms.converge().await;
    realms.run_there(&[("app", "beta")]).await;
    eventually("all is well again", async || {
        realms.first().alarms().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_20_a_torn_tail_is_cut_and_what_is_missing_comes_from_the_others() {
    let mut realms = two().await;
    let log = realms.nodes[1].realm.path(".realm/log/default.log");
    // The beginning of a record, as a power cut leaves it: the first one stands at byte 16.
    for torn in [1, 60] {
        realms.nodes[1].kill_9();
        let good = std::fs::read(&log).unwrap();
        std::fs::write(&log, [&good[..], &good[16..16 + torn]].concat()).unwrap();
        restart(&realms);
        restart(&realms);
        realms.nodes[1].start();
        back_in_step(&realms).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_20_a_folder_from_a_backup_catches_up_and_is_no_clone() {
    let mut realms = two().await;
    let folder = realms.nodes[1].realm.path(".realm");
    let backup = realms.nodes[1].realm.path("backup");
    realms.nodes[1].take().terminate();
    copy(&folder, &backup);
    realms.nodes[1].start();
    realms.all_meet().await;
    for _ in 0..3 {
        restart(&realms);
    }
    realms.converge().await;
    let head = realms.nodes[1].head().await;
    realms.nodes[1].kill_9();
    std::fs::remove_dir_all(&folder).unwrap();
    copy(&backup, &folder);
    realms.nodes[1].start();
    back_in_step(&realms).await;
    assert_eq!(realms.nodes[1].head().await, head);
    for node in realms.running() {
        let what = format!("{} takes nobody for a clone", node.name);
        eventually(&what, async || node.alarms().await.is_empty().then_some(())).await;
    }
}

/// What a damaged log of a node becomes: the ways in which a disk or a person fails it.
fn damages(good: &[u8]) -> Vec<Option<Vec<u8>>> {
    let cut = |length: usize| Some(good[..length].to_vec());
    let mut flipped = good.to_vec();
    flipped[30] ^= 1;
    vec![None, cut(20), cut(good.len() - 1), Some(flipped)]
}

/// Runs the second node on a damaged log of `chain`, alone at first.
async fn mends(chain: &str) {
    let mut realms = two().await;
    let port = realms.nodes[0].stay_on_port();
    eventually("the other notes where it is now", async || {
        let book = realms.nodes[1].realm.read(".realm/peers.json");
        book.contains(&format!("/{port}")).then_some(())
    })
    .await;
    realms.all_meet().await;
    restart(&realms);
    realms.converge().await;
    let log = realms.nodes[1]
        .realm
        .path(&format!(".realm/log/{chain}.log"));
    realms.nodes[1].kill_9();
    let good = std::fs::read(&log).unwrap();
    let before = realms.first().realm.heads().await;
    realms.nodes[0].kill_9();
    for (number, damaged) in damages(&good).into_iter().enumerate() {
        match &damaged {
            Some(bytes) => std::fs::write(&log, bytes).unwrap(),
            None => std::fs::remove_file(&log).unwrap(),
        }
        // Alone it runs nothing, takes nothing, and says so.
        realms.nodes[1].start();
        let beta = &realms.nodes[1];
        let alarms = beta.status().await.alarms;
        let alarm = alarms.iter().find(|alarm| alarm.code == "log-damaged");
        let alarm = alarm.unwrap_or_else(|| panic!("{number}: {alarms:?}"));
        assert!(
            alarm.message.contains("no other node is reached"),
            "{alarm:?}"
        );
        assert!(beta.healthy().await.is_empty());
        assert_eq!(beta.get("/app/").await.0, 404);
        let body = Body::Delegate(delegation("team", realms.first().key().public()));
        let owner = realms.first().realm.owner();
        let entry = next_entry(beta, ChainId::Authority, &owner, body).await;
        let taken = beta.realm.client().submit(ChainId::Authority, entry).await;
        assert!(taken.is_err(), "{number}: {taken:?}");
        let refusals = beta.status().await.refusals;
        assert_eq!(refusals.get("gap"), Some(&1), "{refusals:?}");
        // What was there is kept, to its last byte.
        if let Some(bytes) = damaged.filter(|bytes| !bytes.is_empty()) {
            let folder = std::fs::read_dir(log.parent().unwrap()).unwrap();
            let kept = folder.filter_map(|file| std::fs::read(file.unwrap().path()).ok());
            assert!(kept.into_iter().any(|kept| kept == bytes), "{number}");
        }
        realms.nodes[0].start();
        back_in_step(&realms).await;
        assert_eq!(
            realms.nodes[1].realm.heads().await.authority,
            before.authority
        );
        assert!(realms.nodes[1].head().await.seq >= before.default.seq);
        realms.nodes[1].kill_9();
        realms.nodes[0].kill_9();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_20_a_damaged_log_is_set_aside_and_fetched_again() {
    mends("default").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_20_so_is_that_of_the_authority_chain() {
    mends("authority").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_20_a_node_that_has_nobody_to_ask_is_refused_with_what_to_do() {
    let mut realms = Realms::meet(&["alpha"]).await;
    realms.apply(&pinned(&[("app", VERSION_A, "alpha")]));
    restart(&realms);
    realms.nodes[0].kill_9();
    let log = realms.nodes[0].realm.path(".realm/log/default.log");
    let good = std::fs::read(&log).unwrap();
    for damaged in damages(&good).into_iter().flatten() {
        std::fs::write(&log, &damaged).unwrap();
        let refused = realms.nodes[0].begin();
        assert!(refused.stderr.after("error[").starts_with("log-damaged]"));
        refused.stderr.after("hint: ");
        assert_eq!(refused.ended().code(), Some(1));
        assert_eq!(std::fs::read(&log).unwrap(), damaged);
    }
    std::fs::write(&log, &good).unwrap();
    realms.nodes[0].start();
}

/// The files of a node's marks of this chain.
fn marks(node: &Node, chain: &str) -> [std::path::PathBuf; 2] {
    ["a", "b"].map(|copy| node.realm.path(&format!(".realm/marks/{chain}.{copy}")))
}

/// One copy of a mark is enough. Without any, nothing says how old the log is: nothing is run by it, with
/// the log and without, and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
async fn case_20_a_mark_that_is_lost_is_written_again_and_without_both_copies_nothing_runs() {
    let mut realms = two().await;
    restart(&realms);
    realms.converge().await;
    for chain in ["default", "authority"] {
        for copy in marks(&realms.nodes[1], chain) {
            realms.nodes[1].kill_9();
            std::fs::remove_file(&copy).unwrap();
            realms.nodes[1].start();
            assert!(copy.is_file(), "{}", copy.display());
            back_in_step(&realms).await;
        }
        let node = &mut realms.nodes[1];
        node.kill_9();
        let log = node.realm.path(&format!(".realm/log/{chain}.log"));
        let lost = [marks(node, chain).to_vec(), vec![log]].concat();
        let good: Vec<_> = lost
            .iter()
            .map(|file| std::fs::read(file).unwrap())
            .collect();
        for gone in [&lost[..2], &lost[2..]] {
            for file in gone {
                std::fs::remove_file(file).unwrap();
            }
            let refused = node.begin();
            assert!(refused.stderr.after("error[").starts_with("log-damaged]"));
            refused
                .stderr
                .after("hint: `marks/` comes back from the backup together with `log/`");
            assert_eq!(refused.ended().code(), Some(1));
            assert!(gone.iter().all(|file| !file.exists()));
        }
        for (file, bytes) in lost.iter().zip(good) {
            std::fs::write(file, bytes).unwrap();
        }
        node.start();
        back_in_step(&realms).await;
    }
}

/// Fills a disk to its last byte.
fn fill(disk: &Path) {
    let mut command = Command::new("sh");
    command
        .args(["-c", "cat /dev/zero > fill 2>/dev/null; true"])
        .current_dir(disk);
    said(command).ok();
}

/// Whether what is wanted there waits with a code that says so.
async fn waits(node: &Node) -> Option<String> {
    let status = node.status().await;
    let app = status
        .components
        .iter()
        .find(|one| one.name.as_str() == "app")?;
    app.waiting_on.first().map(|waits| waits.code.clone())
}

/// Two nodes, of which the second one has 16 MiB.
async fn with_a_small_disk() -> (Realms, Disk) {
    let mut realms = Realms::meet(&["alpha"]).await;
    realms.add("beta");
    let disk = realms.nodes[1].on_small_disk("16m");
    realms.invite(1);
    realms.approve(1, &[]);
    realms.nodes[1].start();
    realms.all_meet().await;
    (realms, disk)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_21_a_full_disk_takes_nothing_new_and_mends_itself_when_there_is_room() {
    let (mut realms, disk) = with_a_small_disk().await;
    realms.apply(&pinned(&[
        ("app", VERSION_A, "beta"),
        ("hello", HELLO, "alpha"),
    ]));
    realms
        .run_there(&[("app", "beta"), ("hello", "alpha")])
        .await;
    fill(&disk.path());
    let before = realms.nodes[1].head().await;
    realms.first().realm.guest(VERSION_B, "b.wasm");
    realms
        .first()
        .run(&["push", "app", "b.wasm", "--no-wait"])
        .ok();
    eventually("the full disk is told", async || {
        let refusals = realms.nodes[1].status().await.refusals;
        (refusals.contains_key("not-durable") || waits(&realms.nodes[1]).await.is_some())
            .then_some(())
    })
    .await;
    assert!(realms.nodes[1].head().await.seq <= before.seq + 1);
    assert_eq!(
        realms.nodes[1].get("/app/").await,
        (200, "version a\n".to_owned())
    );
    std::fs::remove_file(disk.path().join("fill")).unwrap();
    eventually("the new version is served", async || {
        (realms.nodes[1].get("/app/").await.1 == "version b\n").then_some(())
    })
    .await;
    realms.converge().await;
    // The disk goes after who uses it.
    realms.nodes[1].kill_9();
}

/// The alarms of this code that a node shows of another.
async fn told_of(node: &Node, other: &str, code: &str) -> Vec<String> {
    let alarms = node.status().await.alarms.into_iter();
    let told = alarms.filter(|alarm| alarm.code == code && alarm.node.as_str() == other);
    told.map(|alarm| format!("{}: {}", alarm.message, alarm.hint))
        .collect()
}

/// Waits until every node shows, or none does, that the disk of `other` takes nothing; what they say.
async fn full_disk_is_told(realms: &Realms, other: &str, told: bool) -> String {
    let mut said = String::new();
    for node in realms.running() {
        let what = format!("the full disk is told at {}: {told}", node.name);
        let alarms = eventually(&what, async || {
            let alarms = told_of(node, other, "not-durable").await;
            (alarms.is_empty() != told).then_some(alarms)
        })
        .await;
        said += &alarms.concat();
    }
    said
}

/// The owner works at the node whose disk is full, and at the other one: what was refused is nowhere, what was
/// acknowledged is there after a kill -9 on that disk, and everybody says why until there is room.
#[tokio::test(flavor = "multi_thread")]
async fn case_21_an_apply_at_a_full_disk_is_refused_and_told_and_nothing_acknowledged_is_lost() {
    let (mut realms, disk) = with_a_small_disk().await;
    // More than the rest of a page of the log has room for.
    let file = |name: &str| {
        let more = format!("# {}\n", name.repeat(16 * 1024));
        let text = pinned(&[("app", VERSION_A, "beta")]) + &more;
        realms.first().realm.write(name, &text);
        realms.first().realm.path(name).display().to_string()
    };
    let [first, second, third] = ["a", "b", "c"].map(file);
    realms.first().run(&["apply", &first, "--yes"]).ok();
    realms.run_there(&[("app", "beta")]).await;
    let acknowledged = realms.nodes[1].head().await;
    let refused = |realms: &Realms| {
        let apply = ["apply", &second, "--yes", "--no-wait"];
        realms.as_owner(1, &apply).fails(3, "not-durable");
    };
    fill(&disk.path());
    refused(&realms);
    let told = full_disk_is_told(&realms, "beta", true).await;
    assert!(told.contains("No space left"), "{told}");
    assert!(told.contains("`df`"), "{told}");
    // Room, and nothing else happens: it is over by itself.
    std::fs::remove_file(disk.path().join("fill")).unwrap();
    full_disk_is_told(&realms, "beta", false).await;
    assert_eq!(realms.nodes[1].head().await, acknowledged);
    assert!(!disk.path().join(".realm/try").exists());

    fill(&disk.path());
    refused(&realms);
    // Elsewhere it is taken, and what runs at the full disk goes on.
    let apply = ["apply", &third, "--yes", "--no-wait"];
    realms.first().run(&apply).ok();
    let newest = realms.first().head().await;
    assert_eq!(newest.seq, acknowledged.seq + 1);
    // A small one would find room in what the log has left of a page, beside the other one of its place.
    let restart = ["restart", "app", "--no-wait"];
    realms.as_owner(1, &restart).fails(3, "not-durable");
    eventually("it is asked to take what the other one has", async || {
        let refusals = realms.nodes[1].status().await.refusals;
        (refusals.get("not-durable") >= Some(&3)).then_some(())
    })
    .await;
    assert_eq!(
        realms.nodes[1].get("/app/").await,
        (200, "version a\n".to_owned())
    );
    realms.nodes[1].kill_9();
    // What the folder says without an agent: the first one is in force, to its last byte.
    realms.nodes[1].run(&["plan", &first]).code_is(0);
    realms.nodes[1].run(&["plan", &third]).code_is(2);
    std::fs::remove_file(disk.path().join("fill")).unwrap();
    realms.nodes[1].start();
    realms.converge().await;
    assert_eq!(realms.nodes[1].head().await, newest);
    full_disk_is_told(&realms, "beta", false).await;
    realms.run_there(&[("app", "beta")]).await;
    // The disk goes after who uses it.
    realms.nodes[1].kill_9();
}
