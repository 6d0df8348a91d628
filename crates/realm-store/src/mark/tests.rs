//! Marks: two copies, never above the log, and what damage does to them.

use std::path::Path;

use super::*;
use crate::files::faults::{Fault, FaultyFiles};
use crate::testing::head_of;

const BOTH: [ChainId; 2] = [ChainId::Authority, ChainId::DEFAULT];

fn directory() -> PathBuf {
    PathBuf::from("/realm/marks")
}

fn open(files: &FaultyFiles) -> Result<Marks<FaultyFiles>, MarkError> {
    Marks::open(files.clone(), directory())
}

/// Both chains marked: the authority chain at entry 1, then 2, the other at entry 1.
fn marked() -> FaultyFiles {
    let files = FaultyFiles::new();
    let mut marks = open(&files).expect("opens");
    assert!(BOTH.iter().all(|chain| marks.get(*chain).is_none()));
    for (chain, seq) in [(BOTH[0], 0), (BOTH[0], 1), (BOTH[1], 0)] {
        marks.set(chain, head_of(seq, b"x")).expect("set");
    }
    files
}

fn path(name: &str) -> PathBuf {
    directory().join(name)
}

#[test]
fn a_mark_reads_back_and_gives_the_floor_of_its_log() {
    let files = marked();
    let marks = open(&files).expect("opens");
    assert_eq!(marks.get(BOTH[0]), Some(head_of(1, b"x")));
    assert_eq!(marks.get(BOTH[1]), Some(head_of(0, b"x")));
    // The authority chain counts its genesis, which is entry 0.
    assert_eq!(marks.floor(ChainId::Authority), Some(3));
    assert_eq!(marks.floor(ChainId::DEFAULT), Some(1));
    assert_eq!(files.paths().len(), 4, "two copies each, nothing else");
}

#[test]
fn a_mark_at_the_place_before_the_first_entry_asks_for_no_record() {
    let files = FaultyFiles::new();
    let origin = Head {
        seq: 0,
        hash: Digest::of(b"realm"),
    };
    let mut marks = open(&files).expect("opens");
    for chain in BOTH {
        assert_eq!(marks.floor(chain), None, "nothing vouches for anything");
        marks.set(chain, origin).expect("set");
    }
    let mut marks = open(&files).expect("opens");
    assert_eq!(marks.get(ChainId::DEFAULT), Some(origin));
    assert_eq!(marks.floor(ChainId::DEFAULT), Some(0));
    assert_eq!(marks.floor(ChainId::Authority), Some(1));
    marks
        .set(ChainId::DEFAULT, head_of(0, b"x"))
        .expect("entry 1 is above");
    assert_eq!(marks.floor(ChainId::DEFAULT), Some(1));
}

#[test]
fn a_look_makes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("marks");
    let marks = Marks::read(RealFiles, directory.clone()).expect("no marks");
    assert!(BOTH.iter().all(|chain| marks.get(*chain).is_none()));
    assert!(!directory.exists());
}

#[test]
fn format_1_stays_as_it_is() {
    let head = Head {
        seq: 0x0203,
        hash: Digest::from_bytes([9; 32]),
    };
    let mut fixture = b"realmmrk\x01\0\0\0".to_vec();
    fixture.extend(b"\x07\0\0\0\0\0\0\0\x03\x02\0\0\0\0\0\0");
    fixture.extend([9; 32]);
    fixture.extend(b"\x92\xd8\xc6\x90");
    assert_eq!(encode(7, head).as_slice(), fixture);
}

#[test]
fn a_mark_only_rises() {
    let files = marked();
    let mut marks = open(&files).expect("opens");
    for other in [head_of(0, b"x"), head_of(1, b"other hash")] {
        let error = marks.set(BOTH[0], other).expect_err("not above");
        assert!(matches!(error, MarkError::Backwards { have: 2, .. }));
    }
    marks.set(BOTH[0], head_of(1, b"x")).expect("the same");
    marks.set(BOTH[0], head_of(7, b"x")).expect("above");
    assert_eq!(marks.get(BOTH[0]), Some(head_of(7, b"x")));
}

#[test]
fn one_copy_may_be_lost_or_damaged_in_any_way() {
    let whole = marked().contents(&path("authority.a")).expect("a copy");
    let mut damages: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
    damages.extend((0..whole.len() * 8).map(|bit| {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    }));
    damages.push([whole.as_slice(), &[0]].concat());
    for damage in damages {
        for copy in ["a", "b"] {
            let files = marked();
            files.put(&path(&format!("authority.{copy}")), &damage);
            check_mended(&files);
        }
    }
    for copy in ["a", "b"] {
        let files = marked();
        files
            .remove(&path(&format!("authority.{copy}")))
            .expect("there");
        check_mended(&files);
    }
}

fn check_mended(files: &FaultyFiles) {
    let mut marks = open(files).expect("one copy is enough");
    let head = head_of(1, b"x");
    assert_eq!(marks.get(BOTH[0]), Some(head));
    marks.set(BOTH[0], head).expect("set");
    for copy in ["a", "b"] {
        let alone = FaultyFiles::new();
        let bytes = files.contents(&path(&format!("authority.{copy}")));
        alone.put(&path("authority.a"), &bytes.expect("written again"));
        assert_eq!(open(&alone).expect("opens").get(BOTH[0]), Some(head));
    }
}

#[test]
fn a_mark_of_which_no_copy_reads_is_an_error() {
    let check = |bytes: [Option<&[u8]>; 2]| {
        let files = FaultyFiles::new();
        for (copy, bytes) in COPIES.into_iter().zip(bytes) {
            if let Some(bytes) = bytes {
                files.put(&path(&format!("default.{copy}")), bytes);
            }
        }
        open(&files).expect_err("no copy reads")
    };
    for bytes in [
        [Some(&b""[..]), Some(b"x")],
        [None, Some(b"x")],
        [Some(b"x"), None],
    ] {
        assert!(matches!(check(bytes), MarkError::Damaged { .. }));
    }
    let mut later = encode(1, head_of(0, b"x"));
    later[8] = 9;
    let checksum = crc32c::crc32c(&later[..60]);
    later[60..].copy_from_slice(&checksum.to_le_bytes());
    let error = check([Some(&later), None]);
    assert!(matches!(error, MarkError::UnknownFormat { format: 9, .. }));
}

#[test]
fn the_newer_copy_counts() {
    let files = FaultyFiles::new();
    files.put(&path("default.a"), &encode(4, head_of(3, b"x")));
    files.put(&path("default.b"), &encode(5, head_of(4, b"x")));
    let marks = open(&files).expect("opens");
    assert_eq!(marks.get(ChainId::DEFAULT), Some(head_of(4, b"x")));
}

/// Sets marks 0, 1, 2 until something fails; returns how many were acknowledged.
fn set_three(files: &FaultyFiles) -> usize {
    let Ok(mut marks) = open(files) else { return 0 };
    (0..3)
        .take_while(|index| marks.set(ChainId::DEFAULT, head_of(*index, b"x")).is_ok())
        .count()
}

#[test]
fn power_lost_at_any_step_leaves_the_old_mark_or_the_new() {
    let clean = FaultyFiles::new();
    assert_eq!(set_three(&clean), 3);
    for step in 0..clean.steps() {
        let files = FaultyFiles::new();
        files.fail_at(step, Fault::Stop);
        let acknowledged = set_three(&files);
        for survival in files.survivals() {
            let marks = open(&files.crash(&survival)).expect("opens");
            let seq = marks.get(ChainId::DEFAULT).map_or(0, |head| head.seq);
            let allowed = acknowledged as u64..=acknowledged as u64 + 1;
            assert!(allowed.contains(&seq), "{step} {survival:?}: {seq}");
        }
    }
}

#[test]
fn power_lost_after_a_process_was_killed_leaves_a_mark_that_was_set() {
    let clean = FaultyFiles::new();
    assert_eq!(set_three(&clean), 3);
    for killed in 0..clean.steps() {
        for lost in 0..clean.steps() {
            let files = FaultyFiles::new();
            files.fail_at(killed, Fault::Stop);
            let first = set_three(&files);
            let files = files.kill();
            let Ok(mut marks) = open(&files) else {
                continue;
            };
            let stands = marks.get(ChainId::DEFAULT).map_or(0, |head| head.seq);
            let stands = usize::try_from(stands).expect("three were set");
            files.fail_at(files.steps() + lost, Fault::Stop);
            let acknowledged = (stands..stands + 3)
                .filter(|seq| marks.set(ChainId::DEFAULT, head_of(*seq, b"x")).is_ok())
                .map(|seq| head_of(seq, b"x").seq);
            // What stood only in the page cache when the first one was killed was not acknowledged.
            let least = acknowledged.last().unwrap_or(first as u64);
            for survival in files.survivals() {
                let marks = open(&files.crash(&survival)).expect("a copy reads");
                let seq = marks.get(ChainId::DEFAULT).map_or(0, |head| head.seq);
                assert!(
                    seq >= least,
                    "{killed} {lost} {survival:?}: {seq} < {least}"
                );
            }
        }
    }
}

#[test]
fn a_mark_that_is_not_written_again_is_durable() {
    let clean = FaultyFiles::new();
    assert_eq!(set_three(&clean), 3);
    let mut untouched = 0;
    for step in 0..clean.steps() {
        for fault in [Fault::Stop, Fault::SyncLoses] {
            let files = FaultyFiles::new();
            files.fail_at(step, fault);
            set_three(&files);
            // kill -9: the next process sees what was written, synced or not.
            let files = files.kill();
            let mut marks = open(&files).expect("opens");
            let Some(head) = marks.get(ChainId::DEFAULT) else {
                continue;
            };
            let before = files.contents(&path("default.a"));
            marks.set(ChainId::DEFAULT, head).expect("set");
            untouched += usize::from(files.contents(&path("default.a")) == before);
            for survival in files.survivals() {
                let after = open(&files.crash(&survival)).expect("opens");
                assert_eq!(after.get(ChainId::DEFAULT), Some(head), "{step} {fault:?}");
            }
        }
    }
    assert!(untouched > 0, "every mark was written again");
}

#[test]
fn a_mark_goes_on_after_any_failure() {
    let clean = FaultyFiles::new();
    set_three(&clean);
    for step in 1..clean.steps() {
        for fault in [Fault::Error(io::ErrorKind::StorageFull), Fault::SyncLoses] {
            let files = FaultyFiles::new();
            files.fail_at(step, fault);
            let Ok(mut marks) = open(&files) else {
                continue;
            };
            for index in 0..3 {
                let head = head_of(index, b"x");
                if let Err(error) = marks.set(ChainId::DEFAULT, head) {
                    assert_eq!(error.is_disk_full(), fault != Fault::SyncLoses);
                    marks
                        .set(ChainId::DEFAULT, head)
                        .expect("the fault is gone");
                }
            }
            for survival in files.survivals() {
                let after = open(&files.crash(&survival)).expect("opens");
                assert_eq!(after.get(ChainId::DEFAULT), Some(head_of(2, b"x")));
            }
        }
    }
}

#[test]
fn marks_are_kept_on_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("marks");
    let mut marks = Marks::open(RealFiles, directory.clone()).expect("made");
    marks.set(BOTH[1], head_of(4, b"x")).expect("set");
    let again = Marks::open(RealFiles, directory.clone()).expect("opens");
    assert_eq!(again.get(BOTH[1]), Some(head_of(4, b"x")));
    check_mode(&directory, 0o700);
    check_mode(&directory.join("default.a"), 0o600);
}

fn check_mode(path: &Path, expected: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, expected, "{}", path.display());
}

#[test]
fn each_namespace_has_marks_of_its_own() {
    let files = marked();
    let team = ChainId::of("team-a").expect("a chain");
    let mut marks = open(&files).expect("opens");
    assert_eq!((marks.get(team), marks.floor(team)), (None, None));
    marks.set(team, head_of(3, b"x")).expect("set");
    files.put(&path("notes.txt"), b"no mark");
    let marks = open(&files).expect("opens");
    assert_eq!(marks.get(team), Some(head_of(3, b"x")));
    assert_eq!(marks.floor(team), Some(4));
    assert_eq!(marks.chains().collect::<Vec<_>>(), [BOTH[0], BOTH[1], team]);
}

#[test]
fn a_mark_goes_back_only_when_the_owners_ended_a_history() {
    for back in [head_of(0, b"x"), head_of(1, b"y")] {
        let files = marked();
        let mut marks = open(&files).expect("opens");
        let refused = marks.set(BOTH[0], back).expect_err("back");
        assert!(matches!(refused, MarkError::Backwards { .. }), "{refused}");
        marks.reset(BOTH[0], back).expect("reset");
        assert_eq!(open(&files).expect("opens").get(BOTH[0]), Some(back));
    }
}
