//! Peers that are honest, lie, break off or say nothing: the right bytes come, whoever has them
//! first, and only who is proven wrong is blamed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::{FutureExt as _, stream};

use super::*;
use crate::blobs::{BoxError, PARTIALS_MAX};
use crate::files::faults::{Fault, FaultyFiles};
use crate::files::{Files as _, RealFiles};
use crate::testing::payload;

const BYTES: usize = 1_000_000;
const PIECE: usize = 10_000;
/// What a download leaves of a source that stopped after this many bytes.
const HALF: usize = 500_000;

const PATIENCE: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    idle: Duration::from_millis(700),
    total: Duration::from_secs(20),
};

/// What a peer does after its bytes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Then {
    End,
    Break,
    Silence,
}

pub(super) struct Peer {
    name: &'static str,
    bytes: Vec<u8>,
    then: Then,
    /// Where it was asked to begin.
    asked: Mutex<Vec<u64>>,
}

impl Peer {
    pub(super) fn new(name: &'static str, bytes: &[u8], then: Then) -> Self {
        Self {
            name,
            bytes: bytes.to_vec(),
            then,
            asked: Mutex::default(),
        }
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().expect("no panic").clone()
    }
}

type Opening<'a> =
    std::pin::Pin<Box<dyn Future<Output = Result<ByteStream, BoxError>> + Send + 'a>>;

impl PeerSource for Peer {
    fn name(&self) -> &str {
        self.name
    }

    fn open<'a>(&'a self, _: &'a Digest, offset: u64) -> Opening<'a> {
        self.asked.lock().expect("no panic").push(offset);
        let rest = self.bytes.get(offset as usize..).unwrap_or(&[]);
        let pieces: Vec<_> = rest
            .chunks(PIECE)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let pieces = stream::iter(pieces);
        let body: ByteStream = match self.then {
            Then::End => pieces.boxed(),
            Then::Break => pieces
                .chain(stream::iter([Err("connection lost".into())]))
                .boxed(),
            Then::Silence => pieces.chain(stream::pending()).boxed(),
        };
        async move { Ok(body) }.boxed()
    }
}

fn good() -> Vec<u8> {
    payload(1, BYTES)
}

/// The right bytes with one bit flipped at `at`.
fn flipped(at: usize) -> Vec<u8> {
    let mut bytes = good();
    bytes[at] ^= 1;
    bytes
}

fn good_pin() -> Pin {
    Pin {
        digest: Digest::of(&good()),
        size: BYTES as u64,
    }
}

fn p2p() -> Source {
    Source::Later {
        kind: "p2p".to_owned(),
        location: "p2p:".to_owned(),
        digest: None,
    }
}

fn real() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    (folder, blobs)
}

async fn fetch_p2p<F: Files>(blobs: &Blobs<F>, peers: &[&Peer]) -> Result<Fetched, FetchError> {
    let peers: Vec<&dyn PeerSource> = peers.iter().map(|peer| *peer as &dyn PeerSource).collect();
    fetch_shared(
        blobs,
        good_pin(),
        &p2p(),
        &peers,
        &Origins::default(),
        PATIENCE,
    )
    .await
}

fn partial_bytes(folder: &Path) -> Option<u64> {
    let path = folder.join("partial").join(good_pin().digest.hex());
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

/// Fetches into a new folder; `expected` is who gave the last bytes and every fault, in order.
#[track_caller]
fn check(peers: &[&Peer], expected: (Option<&str>, &[&str])) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (folder, blobs) = real();
    let fetched = runtime.block_on(fetch_p2p(&blobs, peers));
    let sound = runtime.block_on(blobs.verify_pin(good_pin())).is_ok();
    let (from, faults) = match fetched {
        Ok(fetched) => (fetched.from, fetched.faults),
        Err(FetchError::All { faults }) => (None, faults),
        Err(error) => (None, vec![error]),
    };
    let faults: Vec<String> = faults
        .iter()
        .map(|fault| format!("{} {fault}", fault.code()))
        .collect();
    assert_eq!(from.as_deref(), expected.0, "{faults:?}");
    assert_eq!(faults.len(), expected.1.len(), "{faults:?}");
    for (fault, part) in faults.iter().zip(expected.1) {
        assert!(fault.contains(part), "{faults:?}");
    }
    assert_eq!(sound, expected.0.is_some());
    let names = RealFiles.names(folder.path()).expect("listed");
    assert_eq!(names.len(), usize::from(sound), "nothing partial is a blob");
    assert!(!sound || partial_bytes(folder.path()).is_none());
}

// Case 27: a source serves other bytes, or differs per node.
#[test]
fn case_27_who_serves_other_bytes_is_named_and_the_next_is_asked() {
    let [liar, honest] = [
        Peer::new("liar", &flipped(7), Then::End),
        Peer::new("bm-01", &good(), Then::End),
    ];
    check(
        &[&liar, &honest],
        (Some("bm-01"), &["digest-mismatch `liar` has other bytes"]),
    );
    assert_eq!((liar.asked(), honest.asked()), (vec![0], vec![0]));

    let more = Peer::new("more", &[good(), vec![0]].concat(), Then::End);
    check(
        &[&more, &honest],
        (
            Some("bm-01"),
            &["oversized `more` has more than 1000000 bytes"],
        ),
    );
    let other = Peer::new("other", &flipped(BYTES - 1), Then::End);
    check(
        &[&liar, &other],
        (None, &["`liar` has other", "`other` has other"]),
    );
    check(&[], (None, &["no-source no node that is reached"]));
}

#[test]
fn what_broke_off_is_resumed_by_the_next() {
    for (then, fault) in [
        (
            Then::Break,
            "fetch-failed failed to get the bytes from `half`",
        ),
        (Then::Silence, "fetch-failed `half` took too long"),
        (
            Then::End,
            "fetch-failed `half` ended after 500000 of 1000000 bytes",
        ),
    ] {
        let half = Peer::new("half", &good()[..HALF], then);
        let honest = Peer::new("bm-01", &good(), Then::End);
        check(&[&half, &honest], (Some("bm-01"), &[fault]));
        assert_eq!(honest.asked(), [HALF as u64], "the rest alone");
    }
}

#[test]
fn a_beginning_of_a_liar_does_not_blame_who_goes_on_with_it() {
    // It lies in the first byte and breaks off; the honest one is asked again for the whole.
    let liar = Peer::new("liar", &flipped(0)[..HALF], Then::Break);
    let honest = Peer::new("bm-01", &good(), Then::End);
    let wrong = "digest-mismatch `liar` gave other bytes, which ended at byte 500000";
    check(&[&liar, &honest], (Some("bm-01"), &["fetch-failed", wrong]));
    assert_eq!(honest.asked(), [HALF as u64, 0]);

    // Between two honest ones: the first is not blamed, the second in the row is.
    let first = Peer::new("first", &good()[..300_000], Then::Break);
    let liar = Peer::new("liar", &flipped(400_000)[..HALF], Then::Break);
    check(
        &[&first, &liar, &honest],
        (Some("bm-01"), &["`first`", "`liar`", wrong]),
    );

    // The last one lies, twice: then it is by its own bytes alone.
    let liar = Peer::new("liar", &flipped(BYTES - 1), Then::End);
    let half = Peer::new("half", &good()[..HALF], Then::Break);
    check(
        &[&half, &liar, &honest],
        (
            Some("bm-01"),
            &["`half`", "digest-mismatch `liar` has other bytes"],
        ),
    );
    assert_eq!(liar.asked(), [HALF as u64, 0]);
}

#[tokio::test]
async fn the_next_call_resumes_and_blames_nobody_for_what_was_here() {
    let (folder, blobs) = real();
    for bytes in [good(), flipped(1)] {
        let half = Peer::new("half", &bytes[..HALF], Then::Break);
        let error = fetch_p2p(&blobs, &[&half]).await.expect_err("broke off");
        assert!(matches!(error, FetchError::Peer { .. }), "{error:?}");
        assert_eq!(partial_bytes(folder.path()), Some(HALF as u64));
        assert!(!blobs.has(&good_pin().digest) && blobs.list().await.expect("listed").is_empty());

        // As after a restart of the agent.
        let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
        let honest = Peer::new("bm-01", &good(), Then::End);
        let fetched = fetch_p2p(&blobs, &[&honest]).await.expect("fetched");
        assert_eq!(fetched.from.as_deref(), Some("bm-01"));
        assert!(fetched.faults.is_empty(), "{:?}", fetched.faults);
        assert_eq!(honest.asked()[0], HALF as u64);
        assert_eq!(partial_bytes(folder.path()), None);
        assert!(blobs.remove(&good_pin().digest).await.expect("removed"));
    }
}

#[tokio::test]
async fn a_whole_partial_needs_nobody_and_a_wrong_one_is_made_anew() {
    let (folder, blobs) = real();
    let path = folder.path().join("partial").join(good_pin().digest.hex());
    fs::write(&path, good()).expect("written");
    let fetched = fetch_p2p(&blobs, &[]).await.expect("it is whole");
    assert_eq!(fetched.from, None);
    blobs.verify_pin(good_pin()).await.expect("sound");

    for wrong in [flipped(3), [good(), vec![0]].concat()] {
        blobs.remove(&good_pin().digest).await.expect("removed");
        fs::write(&path, &wrong).expect("written");
        let honest = Peer::new("bm-01", &good(), Then::End);
        let fetched = fetch_p2p(&blobs, &[&honest]).await.expect("fetched");
        assert_eq!((fetched.faults.len(), honest.asked()), (0, vec![0]));
    }
}

#[tokio::test]
async fn two_fetches_of_one_digest_share_a_download() {
    let (_folder, blobs) = real();
    let peers: Vec<Peer> = (0..8)
        .map(|_| Peer::new("bm-01", &good(), Then::End))
        .collect();
    let fetches = peers
        .iter()
        .map(async |peer| fetch_p2p(&blobs, &[peer]).await);
    for fetched in futures_util::future::join_all(fetches).await {
        fetched.expect("fetched");
    }
    let asked: usize = peers.iter().map(|peer| peer.asked().len()).sum();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn partials_are_few_and_go_when_nobody_wants_them() {
    let (folder, blobs) = real();
    let pins: Vec<Pin> = (0..PARTIALS_MAX as u64 + 4)
        .map(|number| Pin {
            digest: Digest::of(&number.to_le_bytes()),
            size: BYTES as u64,
        })
        .collect();
    for (number, pin) in pins.iter().enumerate() {
        let half = Peer::new("half", &good()[..1_000 + number], Then::Break);
        let fetched = fetch_shared(
            &blobs,
            *pin,
            &p2p(),
            &[&half],
            &Origins::default(),
            PATIENCE,
        )
        .await;
        assert!(fetched.is_err());
    }
    let left = || {
        RealFiles
            .names(&folder.path().join("partial"))
            .expect("listed")
            .len()
    };
    assert_eq!(left(), PARTIALS_MAX);
    let wanted = BTreeSet::from([pins[PARTIALS_MAX + 3].digest]);
    assert_eq!(
        blobs.keep_partials(wanted.clone()).await.expect("removed"),
        PARTIALS_MAX - 1
    );
    assert_eq!(left(), 1);

    // What is no partial download, and what is a blob by now, goes at the next start.
    fs::write(folder.path().join("partial/README"), "x").expect("written");
    let pin = blobs
        .put_bytes(None, Bytes::from_static(b"x"))
        .await
        .expect("kept");
    fs::write(folder.path().join("partial").join(pin.digest.hex()), "x").expect("written");
    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    assert_eq!(left(), 1);
    assert_eq!(blobs.keep_partials(wanted).await.expect("kept"), 0);
    assert_eq!(
        blobs.keep_partials(BTreeSet::new()).await.expect("removed"),
        1
    );
}

#[tokio::test]
async fn a_source_that_gave_nothing_leaves_nothing() {
    let (folder, blobs) = real();
    let empty = Peer::new("empty", &[], Then::Break);
    assert!(fetch_p2p(&blobs, &[&empty]).await.is_err());
    assert_eq!(partial_bytes(folder.path()), None);
}

#[tokio::test]
async fn other_kinds_of_sources_are_answered() {
    let (_folder, blobs) = real();
    let honest = Peer::new("bm-01", &good(), Then::End);
    let other = Digest::of(b"other");
    let check = async |source: Source, expected: &str| {
        let fetched = fetch_shared(
            &blobs,
            good_pin(),
            &source,
            &[&honest],
            &Origins::default(),
            PATIENCE,
        )
        .await;
        let code = fetched.map_or_else(|error| error.code(), |_| "fetched");
        assert_eq!(code, expected, "{source:?}");
    };
    let later = |kind: &str, digest| Source::Later {
        kind: kind.to_owned(),
        location: format!("{kind}:x"),
        digest,
    };
    let url = "http://127.0.0.1:1/x".to_owned();
    check(later("s3", None), "source-unsupported").await;
    check(later("p2p", Some(other)), "digest-mismatch").await;
    check(
        Source::Http {
            url: url.clone(),
            digest: other,
        },
        "digest-mismatch",
    )
    .await;
    let registry = realm_model::manifest::RegistrySource {
        host: "127.0.0.1:1".to_owned(),
        repository: "orders".to_owned(),
        tag: None,
        digest: Some(other),
    };
    check(Source::Registry(registry), "digest-mismatch").await;
    let object = realm_model::manifest::ObjectSource {
        bucket: "acme".to_owned(),
        key: "orders".to_owned(),
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        region: None,
        digest: Some(other),
    };
    check(Source::S3(object), "digest-mismatch").await;
    let file = realm_model::manifest::IpfsSource {
        cid: realm_model::content_id::ContentId::of(
            realm_model::content_id::BlockKind::Raw,
            &good(),
        ),
        path: Vec::new(),
        digest: Some(other),
    };
    check(Source::Ipfs(file), "digest-mismatch").await;
    assert_eq!(honest.asked(), [0; 0]);
    // Nothing listens at the URL: the peer was asked first.
    check(
        Source::Http {
            url,
            digest: good_pin().digest,
        },
        "fetched",
    )
    .await;
    blobs.remove(&good_pin().digest).await.expect("removed");
    // A file is that of another machine, though one of this name is here.
    check(
        Source::File {
            path: "/etc/passwd".to_owned(),
        },
        "fetched",
    )
    .await;
}

const FOLDER: &str = "REALM_STORE_DOWNLOAD_TEST_FOLDER";

/// The child: downloads and is killed; does nothing unless the test below starts it.
#[tokio::test]
async fn downloads_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let blobs = Blobs::open(PathBuf::from(folder)).expect("opens");
    let half = Peer::new("half", &good()[..HALF], Then::Silence);
    let patient = Timeouts {
        idle: PATIENCE.total,
        ..PATIENCE
    };
    let peers: [&dyn PeerSource; 1] = [&half];
    let source = p2p();
    let origins = Origins::default();
    let fetch = fetch_shared(&blobs, good_pin(), &source, &peers, &origins, patient);
    let told = async {
        // Everything but the last piece of less than 256 KiB is on the disk by then.
        while half.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        std::io::stderr()
            .write_all(b"asked\n")
            .expect("the parent reads");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = fetch => {}
        () = told => {}
    }
}

// Case 21, and kill -9 in the middle of a download.
#[tokio::test]
async fn kill_9_in_the_middle_is_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "fetch::download_tests::downloads_until_it_is_killed",
            "--nocapture",
        ])
        .env(FOLDER, folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    let asked = stderr
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "asked");
    assert!(asked, "the child did begin");
    while partial_bytes(folder.path()).is_none_or(|bytes| bytes == 0) {
        tokio::task::yield_now().await;
    }
    child.kill().expect("killed");
    child.wait().expect("ended");

    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    assert!(blobs.list().await.expect("listed").is_empty());
    let honest = Peer::new("bm-01", &good(), Then::End);
    let fetched = fetch_p2p(&blobs, &[&honest]).await.expect("fetched");
    assert!(fetched.faults.is_empty());
    assert!(honest.asked()[0] > 0, "the beginning was there");
    blobs.verify_pin(good_pin()).await.expect("sound");
}

#[tokio::test]
async fn case_21_a_full_disk_blames_no_source_and_recovers() {
    let files = FaultyFiles::new();
    let blobs = Blobs::open_in(files.clone(), PathBuf::from("/realm/blobs")).expect("opens");
    for space in [0, 1, PIECE, HALF, BYTES - 1] {
        files.set_space(Some(space));
        let honest = Peer::new("bm-01", &good(), Then::End);
        let error = fetch_p2p(&blobs, &[&honest, &honest])
            .await
            .expect_err("no room");
        let FetchError::Keep { source, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(source.is_disk_full(), "{error:?}");
        assert_eq!(honest.asked().len(), 1, "no other source has more room");
        assert!(blobs.list().await.expect("listed").is_empty());
        files.set_space(None);
    }
    let honest = Peer::new("bm-01", &good(), Then::End);
    fetch_p2p(&blobs, &[&honest]).await.expect("room");
    blobs.verify_pin(good_pin()).await.expect("sound");
}

#[tokio::test]
async fn power_lost_at_any_step_of_a_resumed_download_leaves_no_wrong_blob() {
    let small = payload(2, 60);
    let pin = Pin {
        digest: Digest::of(&small),
        size: 60,
    };
    // Whether it said that the blob is there.
    let run = async |files: &FaultyFiles| -> bool {
        let open = || Blobs::open_in(files.clone(), PathBuf::from("/realm/blobs"));
        let half = Peer::new("half", &small[..30], Then::Break);
        let honest = Peer::new("bm-01", &small, Then::End);
        for peer in [&half, &honest] {
            let Ok(blobs) = open() else {
                return false;
            };
            let fetched =
                fetch_shared(&blobs, pin, &p2p(), &[peer], &Origins::default(), PATIENCE).await;
            if fetched.is_ok() {
                return true;
            }
        }
        false
    };
    let clean = FaultyFiles::new();
    assert!(run(&clean).await);
    let mut crashes = 0;
    for step in 0..clean.steps() {
        for fault in [
            Fault::Stop,
            Fault::SyncLoses,
            Fault::Error(std::io::ErrorKind::Other),
        ] {
            let files = FaultyFiles::new();
            files.fail_at(step, fault);
            let acknowledged = run(&files).await;
            for survival in files.survivals() {
                let after = files.crash(&survival);
                let blobs = Blobs::open_in(after, PathBuf::from("/realm/blobs")).expect("opens");
                for digest in blobs.list().await.expect("listed") {
                    blobs.verify(&digest).await.expect("whole");
                }
                let there = blobs.has(&pin.digest);
                assert!(
                    there || !acknowledged || step < 2,
                    "{step} {fault:?} {survival:?}"
                );
                let honest = Peer::new("bm-01", &small, Then::End);
                let fetched = fetch_shared(
                    &blobs,
                    pin,
                    &p2p(),
                    &[&honest],
                    &Origins::default(),
                    PATIENCE,
                )
                .await;
                assert!(fetched.expect("fetched").faults.is_empty());
                crashes += 1;
            }
        }
    }
    assert!(crashes > 100, "{crashes}");
}
