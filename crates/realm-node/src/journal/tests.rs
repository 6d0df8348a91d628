//! The journal on a disk that loses what was not synced: after a power cut at any step, the ledger
//! is what was acknowledged, or that and the one entry that was under way.

use realm_control::Ledger;
use realm_model::entry::{ApproveNode, Body, ChainId, Head, Payload, RealmId, found_realm};
use realm_model::key::SecretKey;
use realm_store::files::Files as _;
use realm_store::files::faults::{Fault, FaultyFiles};
use realm_store::folder::RealmFolder;
use realm_store::log::LogError;
use realm_store::mark::MarkError;

use super::{Journal, JournalError};

fn owner() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

/// A folder whose paths are used on the faulty disk; the real one only has to exist.
fn folder() -> (tempfile::TempDir, RealmFolder) {
    let real = tempfile::tempdir().unwrap();
    let folder = RealmFolder::create(real.path().join("realm")).unwrap();
    (real, folder)
}

/// A disk with a realm that has its genesis and nothing else.
fn founded(folder: &RealmFolder) -> (FaultyFiles, RealmId) {
    let files = FaultyFiles::new();
    let logs = folder.log(ChainId::Authority);
    files.create_dir(logs.parent().unwrap()).unwrap();
    let (realm, genesis) = found_realm(&owner(), [7; 32], 0);
    Journal::begin_in(files.clone(), folder, &genesis).unwrap();
    (files.kill(), realm)
}

/// The approval of another node, as the next entry of the authority chain.
fn approval(realm: RealmId, head: Head) -> Vec<u8> {
    let node = SecretKey::from_seed(&[u8::try_from(head.seq).unwrap() + 10; 32]);
    let payload = Payload {
        seq: head.seq + 1,
        prev: head.hash,
        authority: head,
        created_unix_s: 0,
        body: Body::ApproveNode(ApproveNode {
            key: node.public(),
            name: format!("node-{}", head.seq).parse().unwrap(),
            tags: Vec::new(),
        }),
    };
    payload.sign(realm, ChainId::Authority, &owner())
}

/// Submits entries as the node's loop does, until one fails.
fn submit(
    journal: &mut Journal<FaultyFiles>,
    ledger: &mut Ledger,
    realm: RealmId,
    entries: usize,
) -> Result<(), JournalError> {
    submit_in_crowds(journal, ledger, realm, &vec![1; entries])
}

/// The same where so many come before anything is done by them.
fn submit_in_crowds(
    journal: &mut Journal<FaultyFiles>,
    ledger: &mut Ledger,
    realm: RealmId,
    crowds: &[usize],
) -> Result<(), JournalError> {
    for crowd in crowds {
        for _ in 0..*crowd {
            let head = ledger.head(ChainId::Authority);
            let admitted = ledger
                .check(ChainId::Authority, &approval(realm, head), None)
                .unwrap();
            journal.write_down(&admitted)?;
            let _ = ledger.apply(admitted);
        }
        // The power may be gone: the next start makes up for it.
        let _ = journal.raise_marks();
    }
    Ok(())
}

#[test]
fn a_power_cut_at_any_step_leaves_what_was_acknowledged() {
    for crowds in [&[1, 1, 1][..], &[3], &[1, 2]] {
        power_cut_at_any_step(crowds);
    }
}

fn power_cut_at_any_step(crowds: &[usize]) {
    let (_real, folder) = folder();
    let (fresh, realm) = founded(&folder);
    let steps = {
        let files = fresh.kill();
        let (mut journal, mut ledger) = Journal::open_in(files.clone(), &folder).unwrap();
        submit_in_crowds(&mut journal, &mut ledger, realm, crowds).unwrap();
        files.steps()
    };
    assert!(steps > 10, "{steps} steps of the disk");
    for step in 0..steps {
        let files = fresh.kill();
        files.fail_at(step, Fault::Stop);
        let mut acknowledged = realm.origin();
        if let Ok((mut journal, mut ledger)) = Journal::open_in(files.clone(), &folder) {
            // What fails is not acknowledged: the ledger stays before it.
            let _ = submit_in_crowds(&mut journal, &mut ledger, realm, crowds);
            acknowledged = ledger.head(ChainId::Authority);
        }
        for survival in files.survivals() {
            let after = files.crash(&survival);
            let (_, ledger) = Journal::open_in(after, &folder)
                .unwrap_or_else(|error| panic!("step {step}, {survival:?}: {error:?}"));
            let head = ledger.head(ChainId::Authority);
            assert!(
                head == acknowledged || head.seq == acknowledged.seq + 1,
                "{crowds:?}, step {step}, {survival:?}: {head:?} after {acknowledged:?}"
            );
        }
    }
}

#[test]
fn opening_what_was_closed_well_writes_nothing() {
    let (_real, folder) = folder();
    let (files, realm) = founded(&folder);
    let (mut journal, mut ledger) = Journal::open_in(files.clone(), &folder).unwrap();
    submit(&mut journal, &mut ledger, realm, 2).unwrap();
    let paths = files.paths();
    let contents = |files: &FaultyFiles| {
        paths
            .clone()
            .into_iter()
            .map(|path| files.contents(&path))
            .collect::<Vec<_>>()
    };
    let files = files.kill();
    let before = contents(&files);
    let (_, again) = Journal::open_in(files.clone(), &folder).unwrap();
    assert_eq!(again.heads(), ledger.heads());
    // A mark that is written again has another generation.
    assert_eq!((contents(&files), files.unsynced()), (before, 0));
    // One copy that lags behind is reason enough.
    let mark = folder.marks().join("authority.b");
    let old = folder.marks().join("default.b");
    files.put(&mark, &files.contents(&old).unwrap());
    Journal::open_in(files.clone(), &folder).unwrap();
    assert_ne!(files.contents(&mark), files.contents(&old));
}

#[test]
fn an_entry_that_is_not_durable_is_not_in_force_and_the_next_one_is_taken() {
    let (_real, folder) = folder();
    let (fresh, realm) = founded(&folder);
    for fault in [
        Fault::SyncLoses,
        Fault::Error(std::io::ErrorKind::StorageFull),
    ] {
        let files = fresh.kill();
        let (mut journal, mut ledger) = Journal::open_in(files.clone(), &folder).unwrap();
        for offset in 0..2 {
            files.fail_at(files.steps() + offset, fault);
            let before = ledger.head(ChainId::Authority);
            assert!(
                submit(&mut journal, &mut ledger, realm, 1).is_err(),
                "{fault:?}"
            );
            assert_eq!(ledger.head(ChainId::Authority), before);
        }
        submit(&mut journal, &mut ledger, realm, 2).unwrap();
        let (_, again) = Journal::open_in(files.kill(), &folder).unwrap();
        assert_eq!(
            again.head(ChainId::Authority),
            ledger.head(ChainId::Authority)
        );
    }
}

const COPIES: [&str; 2] = ["a", "b"];

fn remove_mark(folder: &RealmFolder, chain: ChainId, copies: &[&str]) {
    for copy in copies {
        let name = format!("{}.{copy}", chain.as_str());
        std::fs::remove_file(folder.marks().join(name)).unwrap();
    }
}

/// A realm on this machine's disk with two approvals.
fn real_realm() -> (tempfile::TempDir, RealmFolder) {
    let (real, folder) = folder();
    let (realm, genesis) = found_realm(&owner(), [7; 32], 0);
    let (mut journal, mut ledger) = Journal::begin(&folder, &genesis).unwrap();
    for _ in 0..2 {
        let head = ledger.head(ChainId::Authority);
        let bytes = approval(realm, head);
        let admitted = ledger.check(ChainId::Authority, &bytes, None).unwrap();
        journal.append(&admitted).unwrap();
        let _ = ledger.apply(admitted);
    }
    (real, folder)
}

/// Opens as an agent does and as a look beside it does; both say the same.
fn open_both(folder: &RealmFolder, check: impl Fn(Option<JournalError>)) {
    let before = files_of(folder);
    check(Journal::read_only(folder).err());
    assert_eq!(files_of(folder), before, "a look changes nothing");
    let opened = Journal::open(folder).map(drop);
    if opened.is_err() {
        assert_eq!(files_of(folder), before, "what is damaged is left as it is");
    }
    check(opened.err());
}

fn files_of(folder: &RealmFolder) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let mut files = Vec::new();
    let logs = folder.log(ChainId::DEFAULT);
    for directory in [folder.root(), &folder.marks(), logs.parent().unwrap()] {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        files.extend(paths.map(|path| (path.clone(), std::fs::read(path).ok())));
    }
    files.sort();
    files
}

#[test]
fn a_lost_mark_is_damage_and_no_shorter_history() {
    for chain in super::ALWAYS {
        let (_real, folder) = real_realm();
        open_both(&folder, |error| assert!(error.is_none(), "{error:?}"));
        // One copy is enough, and the other is written again.
        remove_mark(&folder, chain, &["a"]);
        open_both(&folder, |error| assert!(error.is_none(), "{error:?}"));
        remove_mark(&folder, chain, &COPIES);
        open_both(&folder, |error| {
            let error = error.expect("no mark");
            assert!(
                matches!(error, JournalError::MissingMark { chain: seen, .. } if seen == chain),
                "{error:?}"
            );
            let start = format!(
                "the high-water mark of chain `{}` is missing",
                chain.as_str()
            );
            assert!(error.to_string().starts_with(&start), "{error}");
        });
    }
}

#[test]
fn a_shorter_log_without_its_marks_does_not_open() {
    let (_real, folder) = real_realm();
    let log = folder.log(ChainId::Authority);
    let whole = std::fs::read(&log).unwrap();
    // The record of the genesis: header 16, then length, checksum, payload.
    let length = u32::from_le_bytes(*whole[16..].first_chunk().unwrap()) as usize;
    std::fs::write(&log, &whole[..16 + 8 + length]).unwrap();
    open_both(&folder, |error| {
        let Some(JournalError::Log { source, .. }) = &error else {
            panic!("{error:?}");
        };
        assert!(matches!(source, LogError::ShorterThanMark { .. }));
    });
    std::fs::remove_dir_all(folder.marks()).unwrap();
    open_both(&folder, |error| {
        assert!(
            matches!(error, Some(JournalError::MissingMark { .. })),
            "{error:?}"
        );
    });
    assert!(!folder.marks().exists());
    // Without any log it is no realm at all.
    for chain in super::ALWAYS {
        std::fs::remove_file(folder.log(chain)).unwrap();
    }
    open_both(&folder, |error| {
        assert!(
            matches!(error, Some(JournalError::NoGenesis { .. })),
            "{error:?}"
        );
    });
}

#[test]
fn the_marks_of_another_realm_do_not_vouch() {
    let (_other_place, other) = folder();
    let (_, genesis) = found_realm(&owner(), [8; 32], 0);
    Journal::begin(&other, &genesis).unwrap();
    for chain in super::ALWAYS {
        let (_real, folder) = real_realm();
        for copy in COPIES {
            let name = format!("{}.{copy}", chain.as_str());
            std::fs::copy(other.marks().join(&name), folder.marks().join(&name)).unwrap();
        }
        open_both(&folder, |error| {
            let Some(JournalError::OtherThanMark {
                chain: seen,
                seq: 0,
            }) = error
            else {
                panic!("{error:?}");
            };
            assert_eq!(seen, chain);
        });
    }
}

#[test]
fn a_founding_without_its_marks_is_none() {
    let (_real, folder) = folder();
    let (_, genesis) = found_realm(&owner(), [7; 32], 0);
    let begin = |files: &FaultyFiles| {
        files
            .create_dir(folder.log(ChainId::Authority).parent().unwrap())
            .unwrap();
        Journal::begin_in(files.clone(), &folder, &genesis).map(drop)
    };
    let clean = FaultyFiles::new();
    begin(&clean).unwrap();
    assert_eq!(clean.paths().len(), 6, "two logs, two copies of two marks");
    for step in 1..clean.steps() {
        let files = FaultyFiles::new();
        files.fail_at(step, Fault::Error(std::io::ErrorKind::Other));
        // What was begun opens; a failure that was mended on the way is none.
        if begin(&files).is_ok() {
            Journal::open_in(files.kill(), &folder)
                .unwrap_or_else(|error| panic!("step {step}: {error:?}"));
        }
    }
    let files = FaultyFiles::new();
    files.fail_at(clean.steps() - 1, Fault::Stop);
    let error = begin(&files).expect_err("the last mark");
    assert!(
        matches!(error, JournalError::Mark(MarkError::Io { .. })),
        "{error:?}"
    );
}

#[test]
fn a_power_cut_while_a_damaged_log_is_mended_loses_nothing_of_it() {
    let (_real, folder) = folder();
    let (files, realm) = founded(&folder);
    let (mut journal, mut ledger) = Journal::open_in(files.clone(), &folder).unwrap();
    submit(&mut journal, &mut ledger, realm, 3).unwrap();
    let floor = ledger.head(ChainId::Authority);
    let log = folder.log(ChainId::Authority);
    let mut damaged = files.contents(&log).unwrap();
    // A disk without a past.
    let fresh = FaultyFiles::new();
    fresh.create_dir(log.parent().unwrap()).unwrap();
    fresh.create_dir(&folder.marks()).unwrap();
    for path in files.paths() {
        fresh.put(&path, &files.contents(&path).unwrap());
    }
    let half = damaged.len() / 2;
    damaged[half] ^= 1;
    fresh.put(&log, &damaged);
    let alone = Journal::open_or_mend_in(fresh.kill(), &folder, |_| false);
    assert!(matches!(alone, Err(JournalError::Log { .. })));
    let steps = {
        let files = fresh.kill();
        Journal::open_or_mend_in(files.clone(), &folder, |_| true).unwrap();
        files.steps()
    };
    for step in 0..steps {
        let files = fresh.kill();
        files.fail_at(step, Fault::Stop);
        let _ = Journal::open_or_mend_in(files.clone(), &folder, |_| true);
        for survival in files.survivals() {
            let after = files.crash(&survival);
            let (journal, ledger) = Journal::open_or_mend_in(after.clone(), &folder, |_| true)
                .unwrap_or_else(|error| panic!("step {step}, {survival:?}: {error:?}"));
            let kept = |path: &std::path::PathBuf| after.contents(path) == Some(damaged.clone());
            let paths = after.paths();
            assert!(
                paths.iter().any(kept),
                "step {step}, {survival:?}: {paths:?}"
            );
            assert!(ledger.head(ChainId::Authority).seq < floor.seq);
            assert_eq!(journal.behind().get(&ChainId::Authority), Some(&floor));
        }
    }
}
