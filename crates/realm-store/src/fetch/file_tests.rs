//! `file:` sources: regular files of bounded size, and nothing else.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;
use crate::blobs::BlobError;

fn file(path: &str) -> Source {
    Source::File {
        path: path.to_owned(),
    }
}

struct Place {
    folder: tempfile::TempDir,
    blobs: Blobs,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().join("blobs")).expect("opens");
    fs::create_dir(folder.path().join("build")).expect("made");
    fs::write(folder.path().join("build/x.wasm"), b"bytes").expect("written");
    Place { folder, blobs }
}

fn pin(bytes: &[u8]) -> Pin {
    Pin {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
    }
}

#[tokio::test]
async fn a_file_is_resolved_and_fetched_relative_to_the_base() {
    let Place { folder, blobs } = place();
    let base = folder.path();
    let absolute = base.join("build/x.wasm").display().to_string();
    symlink("x.wasm", base.join("build/link.wasm")).expect("linked");
    for path in ["./build/x.wasm", "build/link.wasm", &absolute] {
        let (resolved, bytes) = resolve(&file(path), base, &Origins::default(), 100)
            .await
            .expect("there");
        assert_eq!((resolved, &bytes[..]), (pin(b"bytes"), &b"bytes"[..]));
        fetch(&blobs, resolved, &file(path), base)
            .await
            .expect("there");
        assert!(blobs.remove(&resolved.digest).await.expect("removed"));
    }
}

#[tokio::test]
async fn what_is_here_and_sound_is_not_fetched_again() {
    let Place { folder, blobs } = place();
    let pin = pin(b"bytes");
    let base = folder.path();
    blobs
        .put_bytes(None, Bytes::from_static(b"bytes"))
        .await
        .expect("kept");
    fetch(&blobs, pin, &file("no/such/file"), base)
        .await
        .expect("it is here");
    fs::write(blobs.path(&pin.digest), b"byteS").expect("damaged");
    let missing = fetch(&blobs, pin, &file("no/such/file"), base).await;
    assert!(matches!(missing, Err(FetchError::File { .. })));
    fetch(&blobs, pin, &file("build/x.wasm"), base)
        .await
        .expect("there");
    blobs.verify(&pin.digest).await.expect("mended");
}

#[tokio::test]
async fn a_file_that_changed_names_both_digests_and_itself() {
    let Place { folder, blobs } = place();
    let wanted = pin(b"other");
    let error = fetch(&blobs, wanted, &file("build/x.wasm"), folder.path())
        .await
        .expect_err("changed");
    let text = error.to_string();
    assert!(matches!(error, FetchError::Mismatch { .. }));
    for part in [
        "build/x.wasm",
        &wanted.digest.to_string(),
        &Digest::of(b"bytes").to_string(),
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(blobs.list().await.expect("listed").is_empty());
}

#[tokio::test]
async fn only_regular_files_of_a_fitting_size_are_read() {
    let Place { folder, blobs } = place();
    let base = folder.path();
    let pipe = base.join("pipe");
    let status = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(status.expect("mkfifo runs").success());
    let _socket = UnixListener::bind(base.join("socket")).expect("bound");
    symlink("/dev/zero", base.join("zero")).expect("linked");
    for path in ["build", "pipe", "socket", "zero", "/dev/null"] {
        let error = resolve(&file(path), base, &Origins::default(), 100)
            .await
            .expect_err(path);
        assert!(matches!(error, FetchError::NotAFile { .. }), "{error:?}");
    }
    let error = resolve(&file("build/x.wasm"), base, &Origins::default(), 4).await;
    let error = error.expect_err("too large");
    assert!(matches!(error, FetchError::TooLarge { bytes_max: 4, .. }));
    let mut small = pin(b"bytes");
    small.size = 4;
    let error = fetch(&blobs, small, &file("build/x.wasm"), base).await;
    assert!(matches!(error, Err(FetchError::TooLarge { .. })));
}

#[tokio::test]
async fn later_schemes_are_named() {
    let Place { folder, blobs } = place();
    let source = Source::Later {
        kind: "ipfs".to_owned(),
        location: "ipfs:bafy".to_owned(),
        digest: None,
    };
    let error = fetch(&blobs, pin(b"x"), &source, folder.path()).await;
    let text = error.expect_err("later").to_string();
    assert!(text.contains("`ipfs:bafy`"), "{text}");
    let error = resolve(&source, folder.path(), &Origins::default(), 9).await;
    assert!(matches!(error, Err(FetchError::Unsupported { .. })));
}

#[test]
fn what_the_disk_refuses_is_told_apart_from_the_source() {
    let full = BlobError::Io {
        operation: "write",
        path: PathBuf::from("blobs/0.part"),
        source: std::io::ErrorKind::StorageFull.into(),
    };
    let error = from_blob_error(full, "x.wasm".to_owned());
    let FetchError::Keep { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(source.is_disk_full());
}
