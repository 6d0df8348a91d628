//! Blobs: what was acknowledged is there and whole, whatever stopped the writer.

use std::fs;
use std::path::Path;

use futures_util::stream;

use super::*;
use crate::files::faults::{Fault, FaultyFiles};
use crate::testing::payload;

type Pieces = Vec<Result<Bytes, io::Error>>;

fn pieces(bytes: &[u8], size: usize) -> Pieces {
    bytes
        .chunks(size)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect()
}

fn real() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().join("blobs")).expect("opens");
    (folder, blobs)
}

fn files_in(blobs: &Blobs) -> Vec<String> {
    RealFiles
        .names(&blobs.inner.directory)
        .expect("it can be listed")
}

#[tokio::test]
async fn a_hash_that_nobody_waits_for_ends() {
    let (_folder, blobs) = real();
    let pin = blobs.put_bytes(None, Bytes::from(payload(1, 100_000)));
    let digest = pin.await.expect("kept").digest;
    let (waiting, given_up) = verify::waiting();
    verify::verify(&blobs.inner, digest, None, &given_up).expect("sound");
    drop(waiting);
    let ended = verify::verify(&blobs.inner, digest, None, &given_up);
    assert!(matches!(ended, Err(BlobError::Io { .. })), "{ended:?}");
}

#[tokio::test]
async fn others_see_how_far_a_download_is_while_it_is_under_way() {
    let (_folder, blobs) = real();
    let bytes = payload(1, 1_000);
    let digest = Digest::of(&bytes);
    let pin = Pin {
        digest,
        size: 1_000,
    };
    let begin = async || blobs.resume(pin).await.expect("opens").expect("alone");
    assert_eq!(blobs.downloading(&digest), None);
    let mut partial = begin().await;
    assert_eq!(blobs.downloading(&digest), Some(0));
    partial.append(&bytes[..600]).expect("written");
    assert_eq!(blobs.downloading(&digest), Some(600));
    drop(partial);
    assert_eq!(blobs.downloading(&digest), None, "nobody goes on with it");
    let mut partial = begin().await;
    assert_eq!(blobs.downloading(&digest), Some(600));
    partial.restart().expect("cut");
    assert_eq!(blobs.downloading(&digest), Some(0));
}

#[tokio::test]
async fn what_is_put_is_there_under_its_digest() {
    let (_folder, blobs) = real();
    let bytes = payload(1, 100_000);
    let digest = Digest::of(&bytes);
    let pin = Pin {
        digest,
        size: 100_000,
    };
    assert!(!blobs.has(&digest));
    let stream = stream::iter(pieces(&bytes, 999));
    let put = blobs.put(Some(digest), stream, 100_000).await;
    assert_eq!(put.expect("kept"), pin);
    assert!(blobs.has(&digest));
    assert_eq!(fs::read(blobs.path(&digest)).expect("a file"), bytes);
    assert_eq!(blobs.verify(&digest).await.expect("sound"), pin);

    let other = blobs.put_bytes(None, Bytes::new()).await.expect("empty");
    let reader = io::Cursor::new(bytes);
    let read = blobs.put_reader(None, reader, 100_000).await.expect("kept");
    assert_eq!(read, pin);
    let mut both = vec![digest, other.digest];
    both.sort();
    assert_eq!(blobs.list().await.expect("listed"), both);

    assert!(blobs.remove(&digest).await.expect("removed"));
    assert!(!blobs.remove(&digest).await.expect("gone already"));
    let error = blobs.verify(&digest).await.expect_err("gone");
    assert!(matches!(error, BlobError::Missing(missing) if missing == digest));
}

#[tokio::test]
async fn other_bytes_than_asked_for_are_not_kept() {
    let (_folder, blobs) = real();
    let (expected, got) = (Digest::of(b"right"), Digest::of(b"wrong"));
    let error = blobs
        .put_bytes(Some(expected), Bytes::from_static(b"wrong"))
        .await
        .expect_err("other bytes");
    assert_eq!(
        error.to_string(),
        format!("expected `{expected}`, got `{got}`")
    );
    assert_eq!(files_in(&blobs), [""; 0]);
}

#[tokio::test]
async fn more_bytes_than_the_cap_are_not_taken() {
    let (_folder, blobs) = real();
    let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[0; 1_000])));
    let error = blobs.put(None, endless, 10_500).await.expect_err("endless");
    assert!(matches!(error, BlobError::TooLarge { bytes_max: 10_500 }));
    let error = blobs.put_reader(None, io::repeat(0), 10).await;
    assert!(matches!(error, Err(BlobError::TooLarge { bytes_max: 10 })));
    let exact = stream::iter(pieces(&[0; 10], 3));
    assert_eq!(blobs.put(None, exact, 10).await.expect("fits").size, 10);
    assert_eq!(files_in(&blobs).len(), 1);
}

#[tokio::test]
async fn a_sender_that_fails_leaves_nothing() {
    let (_folder, blobs) = real();
    let mut broken = pieces(b"some bytes", 3);
    broken.push(Err(io::Error::other("the line is dead")));
    let error = blobs
        .put(None, stream::iter(broken), 100)
        .await
        .expect_err("broken");
    let BlobError::Receive(source) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.to_string(), "the line is dead");
    assert_eq!(files_in(&blobs), [""; 0]);
}

#[test]
fn a_put_that_is_dropped_half_way_leaves_nothing() {
    let (_folder, blobs) = real();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        // Bytes come, but not the end: without a digest nothing else tells that more would come.
        let stalled = stream::iter(pieces(b"not all of it", 2)).chain(stream::pending());
        let mut put = std::pin::pin!(blobs.put(None, stalled, 100));
        while files_in(&blobs).is_empty() {
            assert!(futures_util::poll!(put.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    });
    // Waits for the thread that writes.
    drop(runtime);
    assert_eq!(files_in(&blobs), [""; 0]);
}

#[tokio::test]
async fn the_same_blob_can_be_put_many_times_at_once() {
    let (_folder, blobs) = real();
    let bytes = Bytes::from(payload(1, 300_000));
    let digest = Digest::of(&bytes);
    let puts = (0..16).map(|_| blobs.put_bytes(Some(digest), bytes.clone()));
    for put in futures_util::future::join_all(puts).await {
        assert_eq!(put.expect("kept").digest, digest);
    }
    blobs.verify(&digest).await.expect("sound");
    assert_eq!(files_in(&blobs), [digest.hex()]);
}

#[tokio::test]
async fn a_flipped_bit_on_the_disk_is_found_and_mended() {
    let (_folder, blobs) = real();
    let bytes = payload(1, 5_000);
    let digest = Digest::of(&bytes);
    let put = || blobs.put_bytes(Some(digest), bytes.clone().into());
    put().await.expect("kept");
    let mut flipped = bytes.clone();
    flipped[4_321] ^= 1;
    fs::write(blobs.path(&digest), &flipped).expect("written");
    let error = blobs.verify(&digest).await.expect_err("flipped");
    let got = Digest::of(&flipped);
    assert!(
        matches!(error, BlobError::Damaged { expected, found } if expected == digest && found == Found::Bytes(got))
    );
    put().await.expect("kept");
    blobs.verify(&digest).await.expect("mended");
}

#[tokio::test]
async fn whatever_is_in_the_place_of_a_blob_has_an_answer_soon() {
    use std::os::unix::fs::symlink;
    let (folder, blobs) = real();
    let bytes = Bytes::from_static(b"a component");
    let pin = blobs.put_bytes(None, bytes.clone()).await.expect("kept");
    let path = blobs.path(&pin.digest);
    blobs.verify_pin(pin).await.expect("sound");
    let check = async |found: Option<Found>, found_of_pin: Option<Found>| {
        let results = [
            (blobs.verify(&pin.digest).await.map(drop), found),
            (blobs.verify_pin(pin).await, found_of_pin),
        ];
        for (result, expected) in results {
            match result {
                Ok(()) => assert_eq!(None, expected),
                Err(BlobError::Damaged {
                    expected: digest,
                    found,
                }) => {
                    assert_eq!((digest, Some(found)), (pin.digest, expected));
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    check(None, None).await;

    // Sparse: 1 TiB that takes no room and would take an hour.
    let huge = fs::File::create(&path).expect("opened");
    huge.set_len(1 << 40).expect("extended");
    check(Some(Found::TooLarge), Some(Found::TooLarge)).await;
    huge.set_len(0).expect("cut");
    let short = Found::Size {
        bytes: 0,
        pinned: 11,
    };
    let empty = Found::Bytes(Digest::of(b""));
    check(Some(empty), Some(short)).await;

    let other = folder.path().join("other");
    fs::write(&other, &bytes).expect("written");
    let not_a_file = Some(Found::NotAFile);
    for target in [Path::new("/dev/zero"), &other, Path::new("nowhere")] {
        fs::remove_file(&path).expect("removed");
        symlink(target, &path).expect("linked");
        check(not_a_file, not_a_file).await;
    }
    assert!(
        blobs
            .remove(&pin.digest)
            .await
            .expect("the link is removed")
    );
    assert!(other.exists(), "and not what it led to");
    let mode = rustix::fs::Mode::RUSR;
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).expect("made");
    check(not_a_file, not_a_file).await;
    blobs.put_bytes(None, bytes).await.expect("kept");
    check(None, None).await;
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    check(not_a_file, not_a_file).await;
}

#[tokio::test]
async fn a_disk_that_does_not_read_is_no_damage() {
    let files = FaultyFiles::new();
    let blobs = open_faulty(&files).expect("opens");
    let pin = blobs.put_bytes(None, second().into()).await.expect("kept");
    for offset in 0..3 {
        files.fail_at(files.steps() + offset, Fault::Error(io::ErrorKind::Other));
        let error = blobs.verify_pin(pin).await.expect_err("it fails");
        assert!(matches!(error, BlobError::Io { .. }), "{error:?}");
    }
    blobs.verify_pin(pin).await.expect("sound");
}

#[tokio::test]
async fn no_blob_is_larger_than_what_can_be_verified() {
    let (_folder, blobs) = real();
    // One piece, so that nothing is written before it is refused.
    let more = Bytes::from(vec![0; BLOB_BYTES_MAX as usize + 1]);
    let error = blobs.put_bytes(None, more).await;
    assert!(matches!(
        error,
        Err(BlobError::TooLarge {
            bytes_max: BLOB_BYTES_MAX
        })
    ));
    assert_eq!(files_in(&blobs), [""; 0]);
}

#[tokio::test]
async fn opening_removes_what_was_never_completed_and_nothing_else() {
    let (_folder, blobs) = real();
    let pin = blobs.put_bytes(None, Bytes::from_static(b"x")).await;
    let pin = pin.expect("kept");
    let directory = &blobs.inner.directory;
    fs::write(directory.join("0.part"), b"half").expect("written");
    fs::write(directory.join("README"), b"by hand").expect("written");
    let blobs = Blobs::open(directory.clone()).expect("opens");
    assert_eq!(files_in(&blobs), [pin.digest.hex().as_str(), "README"]);
    assert_eq!(blobs.list().await.expect("listed"), [pin.digest]);
    check_mode(directory, 0o700);
    check_mode(&blobs.path(&pin.digest), 0o600);
}

fn check_mode(path: &Path, expected: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, expected, "{}", path.display());
}

const FIRST: &[u8] = b"the first blob";

fn second() -> Vec<u8> {
    payload(2, 40)
}

fn open_faulty(files: &FaultyFiles) -> Result<Blobs<FaultyFiles>, BlobError> {
    Blobs::open_in(files.clone(), PathBuf::from("/realm/blobs"))
}

/// Puts two blobs until something fails; returns the digests that were acknowledged.
async fn put_two(files: &FaultyFiles) -> Vec<Digest> {
    let mut acknowledged = Vec::new();
    let Ok(blobs) = open_faulty(files) else {
        return acknowledged;
    };
    for bytes in [FIRST.to_vec(), second()] {
        let size = bytes.len() as u64;
        let put = blobs.put(None, stream::iter(pieces(&bytes, 25)), size);
        match put.await {
            Ok(pin) => acknowledged.push(pin.digest),
            Err(_) => return acknowledged,
        }
    }
    acknowledged
}

#[tokio::test]
async fn power_lost_at_any_step_leaves_whole_blobs_only() {
    let clean = FaultyFiles::new();
    assert_eq!(put_two(&clean).await.len(), 2);
    for step in 0..clean.steps() {
        let files = FaultyFiles::new();
        files.fail_at(step, Fault::Stop);
        let acknowledged = put_two(&files).await;
        for survival in files.survivals() {
            let after = files.crash(&survival);
            let blobs = open_faulty(&after).expect("opens");
            let there = blobs.list().await.expect("listed");
            for digest in &there {
                blobs.verify(digest).await.expect("whole");
            }
            for digest in &acknowledged {
                assert!(there.contains(digest), "{step} {survival:?}");
            }
            assert_eq!(after.paths().len(), there.len(), "no leftovers");
        }
    }
}

#[tokio::test]
async fn a_full_disk_or_a_failing_one_shows_no_partial_blob() {
    let clean = FaultyFiles::new();
    put_two(&clean).await;
    let digest = Digest::of(&second());
    for step in 0..clean.steps() {
        for fault in [Fault::Error(io::ErrorKind::StorageFull), Fault::SyncLoses] {
            let files = FaultyFiles::new();
            let Ok(blobs) = open_faulty(&files) else {
                continue;
            };
            files.fail_at(step, fault);
            let put = || blobs.put_bytes(None, second().into());
            if let Err(error) = put().await {
                assert_eq!(error.is_disk_full(), fault != Fault::SyncLoses);
                if blobs.has(&digest) {
                    blobs.verify(&digest).await.expect("whole");
                }
                put().await.expect("the fault is gone");
            }
            for survival in files.survivals() {
                let after = open_faulty(&files.crash(&survival)).expect("opens");
                after.verify(&digest).await.expect("durable");
            }
        }
    }
    let files = FaultyFiles::new();
    let blobs = open_faulty(&files).expect("opens");
    for space in 0..second().len() {
        files.set_space(Some(space));
        let error = blobs.put_bytes(None, second().into()).await;
        assert!(error.expect_err("no room").is_disk_full());
        assert!(files.paths().is_empty());
    }
    files.set_space(None);
    blobs.put_bytes(None, second().into()).await.expect("room");
}
