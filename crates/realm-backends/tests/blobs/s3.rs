//! S3: the suite against a real server, and what only a server far away can do wrong.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use realm_backends::Watch;
use realm_backends::blobs::{S3, S3Settings};
use realm_model::cloud::{Blobs, CloudError};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::conformance::{self, Subject};
use crate::heard::Heard;
use crate::sources::{Pattern, bytes, get, names, put};
use crate::swift::{BUCKET, PASSWORD, REGION, Swift, USER};

fn settings(swift: &Swift, prefix: &str) -> S3Settings {
    S3Settings {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        region: Some(REGION.to_owned()),
        endpoint: Some(swift.endpoint()),
        credentials: Some(Swift::credentials()),
        roots: None,
    }
}

fn client(settings: &S3Settings) -> (S3, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let watch: Arc<dyn Watch> = Arc::clone(&heard) as _;
    (S3::new(settings, watch).expect("settings"), heard)
}

fn swift() -> (TempDir, Swift) {
    let folder = tempfile::tempdir().expect("a folder");
    let swift = Swift::start(folder.path(), None);
    (folder, swift)
}

macro_rules! conform {
    ($name:ident: $($check:ident),* $(,)?) => {
        /// Each in a place of its own in one bucket of one server, which takes seconds to start.
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let (_folder, swift) = swift();
            $(
                let begun = Instant::now();
                let prefix = stringify!($check);
                let (blobs, heard) = client(&settings(&swift, prefix));
                let subject = Subject {
                    blobs: Arc::new(blobs),
                    // With `PREFIX/c/` before it.
                    object_bytes_max: 1_024 - prefix.len() - 3,
                    is_sorted: false,
                    n_listed: 200,
                };
                conformance::$check(&subject).await;
                println!("{prefix}: {:?}", begun.elapsed());
                assert_eq!(heard.all(), [""; 0]);
            )*
            // No parts of what was not finished.
            let left = swift.listing(BUCKET, "uploads");
            assert!(left.contains("ListMultipartUploadsResult"), "{left}");
            assert!(!left.contains("<UploadId>"), "{left}");
        }
    };
}

conform!(
    objects_are_kept:
    containers_come_and_go,
    what_is_not_there_is_said_so,
    bytes_come_back_as_they_were,
    an_object_is_seen_whole,
    of_many_writers_one_is_last,
    ranges_are_cut_and_refused,
    copies_and_moves,
);

conform!(
    sizes_are_kept:
    a_large_object_passes_through_little_memory,
    a_broken_source_writes_nothing,
    a_listing_has_each_name_once,
    a_full_container_is_deleted,
);

conform!(hostile_names_are_kept: no_name_is_taken_for_another);

/// Rows of a listing for objects that nobody wrote, by the server's own hand: a hundred thousand
/// writings would take it an hour.
fn seed(folder: &Path, keys: impl Iterator<Item = String>) {
    let script = "import sys, glob\n\
        from swift.container.backend import ContainerBroker\n\
        from swift.common.utils import Timestamp\n\
        for path in glob.glob(sys.argv[1] + '/devices/d1/containers/**/*.db', recursive=True):\n\
        \x20   broker = ContainerBroker(path)\n\
        \x20   if broker.get_info()['container'] != sys.argv[2]: continue\n\
        \x20   for key in sys.stdin.read().splitlines():\n\
        \x20       broker.put_object(key, Timestamp.now().internal, 3, 'a/b', 'd41d8cd98f00b204e9800998ecf8427e')\n\
        \x20   broker._commit_puts()\n\
        \x20   print('seeded')\n";
    let mut child = std::process::Command::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(folder)
        .arg(BUCKET)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = keys.map(|key| key + "\n").collect();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "seeded\n");
}

#[tokio::test]
async fn more_than_a_hundred_thousand_names_come_in_pages() {
    const N: usize = 100_001;
    let (folder, swift) = swift();
    let (blobs, _) = client(&settings(&swift, "p"));
    // Before, behind and beside them.
    for container in ["c", "b", "ca", "c!"] {
        blobs.create(container).await.unwrap();
        put(&blobs, container, "other", 1, 1).await;
    }
    seed(folder.path(), (0..N).map(|n| format!("p/c/img/{n:06}.jpg")));
    let listed = names(&blobs, "c", 1_000).await;
    let mut expected: Vec<String> = (0..N).map(|n| format!("img/{n:06}.jpg")).collect();
    expected.push("other".to_owned());
    assert_eq!(listed, expected);
    let from = blobs.list("c", Some("img/010000.jpg"), 2).await.unwrap();
    assert_eq!(from, ["img/010001.jpg", "img/010002.jpg"]);
    assert_eq!(names(&blobs, "ca", 10).await, ["other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_is_missed_and_one_that_comes_back_is_used() {
    let (_folder, mut swift) = swift();
    let (blobs, heard) = client(&settings(&swift, "p"));
    let blobs = Arc::new(blobs);
    blobs.create("c").await.unwrap();
    put(&*blobs, "c", "o", 1, 100_000).await;
    assert_eq!(heard.all(), [""; 0]);

    // While one is being written.
    let (here, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let source = Pattern::new(2, 12_000_000)
        .waits_at(11_000_000, &here, &go)
        .boxed();
    let writer = tokio::spawn({
        let blobs = Arc::clone(&blobs);
        async move { blobs.write("c", "cut", source).await }
    });
    here.notified().await;
    swift.stop();
    go.notify_one();
    let begun = Instant::now();
    assert_eq!(writer.await.unwrap(), Err(CloudError::Unavailable));
    let down = |result: Result<(), CloudError>| assert_eq!(result, Err(CloudError::Unavailable));
    down(get(&*blobs, "c", "o").await.map(drop));
    down(blobs.write("c", "new", Pattern::new(1, 10).boxed()).await);
    down(blobs.list("c", None, 10).await.map(drop));
    down(blobs.object("c", "o").await.map(drop));
    down(blobs.info("c").await.map(drop));
    down(blobs.create("d").await);
    down(blobs.delete("c").await);
    down(blobs.remove("c", &["o".to_owned()]).await);
    down(blobs.copy(("c", "o"), ("c", "p")).await);
    // Each within the time of a call.
    assert!(
        begun.elapsed() < Duration::from_secs(100),
        "{:?}",
        begun.elapsed()
    );
    let words = heard.all();
    assert!(
        words
            .iter()
            .all(|word| word.starts_with("down bucket `acme-blobs`: ")),
        "{words:?}"
    );
    assert!(
        !words.iter().any(|word| word.contains(PASSWORD)),
        "{words:?}"
    );

    // A call that comes while the server does waits for it.
    let reader = tokio::spawn({
        let blobs = Arc::clone(&blobs);
        async move { get(&*blobs, "c", "o").await }
    });
    swift.begin();
    swift.make_bucket(BUCKET);
    let early = reader.await.unwrap();
    assert!(
        matches!(&early, Ok(_) | Err(CloudError::Unavailable)),
        "{:?}",
        early.err()
    );
    assert!(get(&*blobs, "c", "o").await.unwrap() == bytes(1, 0, 100_000));
    assert_eq!(heard.all().last().unwrap(), "up");
    assert_eq!(
        names(&*blobs, "c", 10).await,
        ["o"],
        "nothing that was refused is there"
    );
    put(&*blobs, "c", "cut", 3, 12_000_000).await;

    // At once again: connections that the server closed are no error.
    swift.stop();
    swift.begin();
    swift.make_bucket(BUCKET);
    assert!(get(&*blobs, "c", "o").await.unwrap() == bytes(1, 0, 100_000));
}

#[tokio::test]
async fn who_may_not_is_told_nothing_and_the_operator_why() {
    let (_folder, swift) = swift();
    let right = settings(&swift, "p");
    let (blobs, _) = client(&right);
    blobs.create("c").await.unwrap();
    put(&blobs, "c", "o", 1, 10).await;
    let wrong = [
        (
            Some(format!("{USER}:guess")),
            BUCKET,
            "SignatureDoesNotMatch",
        ),
        (Some("nobody:secret".to_owned()), BUCKET, ""),
        (right.credentials.clone(), "no-such-bucket", "NoSuchBucket"),
    ];
    for (credentials, bucket, cause) in wrong {
        let (blobs, heard) = client(&S3Settings {
            credentials,
            bucket: bucket.to_owned(),
            ..right.clone()
        });
        let read = get(&blobs, "c", "o").await;
        assert_eq!(read, Err(CloudError::Unavailable), "{cause}");
        let listed = blobs.list("c", None, 10).await;
        assert_eq!(listed, Err(CloudError::Unavailable), "{cause}");
        let heard = heard.all().join("\n");
        assert!(
            heard.starts_with(&format!("down bucket `{bucket}`: ")),
            "{heard}"
        );
        assert!(heard.contains(cause), "{heard}");
        assert!(
            !heard.contains("guess") && !heard.contains(PASSWORD),
            "{heard}"
        );
    }
    assert_eq!(get(&blobs, "c", "o").await, Ok(bytes(1, 0, 10)));

    for (credentials, roots) in [(Some("no-colon"), None), (None, Some("no certificate"))] {
        let wrong = S3Settings {
            credentials: credentials.map(str::to_owned),
            roots: roots.map(|roots| roots.as_bytes().to_vec()),
            ..right.clone()
        };
        assert!(S3::new(&wrong, Arc::new(Heard::default())).is_err());
    }
}

#[tokio::test]
async fn others_in_the_bucket_are_left_alone() {
    let (_folder, swift) = swift();
    let (one, two) = (
        client(&settings(&swift, "one")).0,
        client(&settings(&swift, "two")).0,
    );
    let (all, _) = client(&settings(&swift, ""));
    for key in ["one/c/plain.jpg", "one/c/%zz", "one/c/%41", "elsewhere/x"] {
        assert_eq!(swift.put(BUCKET, Some(key), b"abc"), Some(200));
    }
    // A container that another program began is one; what no name leads to is not shown.
    assert_eq!(
        one.info("c").await.unwrap().map(|info| info.created_at_s),
        Some(0)
    );
    assert_eq!(names(&one, "c", 1).await, ["plain.jpg"]);
    assert_eq!(get(&one, "c", "plain.jpg").await, Ok(b"abc".to_vec()));
    put(&one, "c", "mine", 1, 10).await;
    two.create("c").await.unwrap();
    put(&two, "c", "mine", 2, 10).await;
    assert_eq!(get(&one, "c", "mine").await, Ok(bytes(1, 0, 10)));
    assert_eq!(names(&all, "one", 10).await, ["c/mine", "c/plain.jpg"]);
    one.delete("c").await.unwrap();
    assert_eq!(one.info("c").await, Ok(None));
    assert_eq!(names(&two, "c", 10).await, ["mine"]);
    assert_eq!(names(&all, "elsewhere", 10).await, ["x"]);
    let left: BTreeSet<_> = names(&all, "two", 10).await.into_iter().collect();
    assert_eq!(
        left,
        BTreeSet::from([".containers/c".to_owned(), "c/mine".to_owned()])
    );
}

#[tokio::test]
async fn over_tls_objects_go_to_who_proves_its_name_to_an_authority_of_the_operators_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_key = rcgen::KeyPair::generate().unwrap();
    let root = parameters.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, root_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let swift = Swift::start(folder.path(), Some((&leaf.pem(), &key.serialize_pem())));

    let ours = S3Settings {
        endpoint: Some(format!("https://localhost:{}", swift.port)),
        roots: Some(root.pem().into_bytes()),
        ..settings(&swift, "p")
    };
    let (trusting, heard) = client(&ours);
    trusting.create("c").await.unwrap();
    // The second goes in parts.
    for (name, n_bytes) in [("small", 100_000), ("large", 6_000_000)] {
        put(&trusting, "c", name, 7, n_bytes).await;
        let came = get(&trusting, "c", name).await;
        assert!(came == Ok(bytes(7, 0, n_bytes as usize)), "{name}");
    }
    assert_eq!(names(&trusting, "c", 10).await, ["large", "small"]);
    assert_eq!(heard.all(), [""; 0]);

    let nobody_knows_it = S3Settings {
        roots: None,
        ..ours.clone()
    };
    let of_another_name = S3Settings {
        endpoint: Some(swift.endpoint()),
        ..ours
    };
    for (other, why) in [
        (nobody_knows_it, "UnknownIssuer"),
        (of_another_name, "not valid for name"),
    ] {
        let (other, heard) = client(&other);
        let begun = Instant::now();
        assert_eq!(other.list("c", None, 1).await, Err(CloudError::Unavailable));
        assert!(begun.elapsed() < Duration::from_secs(12));
        let heard = heard.all().join("\n");
        assert!(heard.contains(why), "{why}: {heard}");
        // An operator reads the first 200 characters.
        assert!(heard.len() < 200, "{heard}");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_for_a_moment_is_asked_again() {
    let answers = [
        "HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nlast-modified: Sun, 22 Nov 2026 09:00:00 GMT\r\netag: \"x\"\r\nconnection: close\r\n\r\nyes",
    ];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4_096]);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let (blobs, heard) = client(&S3Settings {
        bucket: BUCKET.to_owned(),
        endpoint: Some(endpoint),
        ..S3Settings::default()
    });
    assert_eq!(get(&blobs, "c", "o").await, Ok(b"yes".to_vec()));
    assert_eq!(heard.all(), [""; 0]);
    server.join().unwrap();
}

/// A server of one connection: answers each request with an object of so many bytes, and counts what it is
/// rid of.
fn server(n_bytes: u64, sent: &Arc<AtomicU64>) -> (String, std::thread::JoinHandle<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::clone(sent);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut n_requests = 0;
        while std::io::Read::read(&mut stream, &mut [0; 4_096]).is_ok_and(|n| n > 0) {
            n_requests += 1;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {n_bytes}\r\nlast-modified: Sun, 22 Nov 2026 09:00:00 GMT\r\netag: \"x\"\r\n\r\n"
            );
            if stream.write_all(head.as_bytes()).is_err() {
                break;
            }
            let mut left = usize::try_from(n_bytes).unwrap();
            while left > 0 {
                let n = left.min(10_000);
                if stream.write_all(&[b'x'; 10_000][..n]).is_err() {
                    break;
                }
                sent.fetch_add(n as u64, Ordering::Relaxed);
                left -= n;
            }
        }
        n_requests
    });
    (endpoint, server)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn connections_outlive_the_runtimes_of_guests() {
    let (endpoint, server) = server(3, &Arc::default());
    let own = runtime();
    let (blobs, _) = own.block_on(async {
        client(&S3Settings {
            bucket: BUCKET.to_owned(),
            endpoint: Some(endpoint),
            ..S3Settings::default()
        })
    });
    for _ in 0..3 {
        let guest = runtime();
        assert_eq!(guest.block_on(get(&blobs, "c", "o")), Ok(b"xxx".to_vec()));
        drop(guest);
    }
    drop(blobs);
    drop(own);
    // All of them on the one connection that it takes.
    assert_eq!(server.join().unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_stays_in_the_server() {
    const N: u64 = 400_000_000;
    let sent = Arc::new(AtomicU64::new(0));
    let (endpoint, server) = server(N, &sent);
    let (blobs, _) = client(&S3Settings {
        bucket: BUCKET.to_owned(),
        endpoint: Some(endpoint),
        ..S3Settings::default()
    });
    let mut blob = blobs.read("c", "o", 0, u64::MAX).await.unwrap();
    assert_eq!(blob.n_bytes, N);
    blob.bytes.next().await.unwrap();
    // Until no more goes out: what is on the way is in buffers of the system, and a few of ours.
    let mut before = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    loop {
        pace.tick().await;
        let after = sent.load(Ordering::Relaxed);
        if after == before && after > 0 {
            break;
        }
        before = after;
    }
    assert!(before < 40_000_000, "{before} bytes on their way to nobody");
    drop(blob);
    drop(blobs);
    assert_eq!(server.join().unwrap(), 1);
}

/// Servers that are none.
#[tokio::test]
async fn what_never_answers_or_makes_no_sense_ends_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let settings = S3Settings {
        bucket: BUCKET.to_owned(),
        endpoint: Some(endpoint),
        credentials: Some("id:secret".to_owned()),
        ..S3Settings::default()
    };
    let (blobs, heard) = client(&settings);
    let begun = Instant::now();
    let all = tokio::join!(
        get(&blobs, "c", "o"),
        blobs.list("c", None, 1),
        blobs.create("c")
    );
    assert_eq!(all.0, Err(CloudError::Timeout));
    assert_eq!(all.1, Err(CloudError::Timeout));
    assert_eq!(all.2, Err(CloudError::Timeout));
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        heard.all(),
        ["down bucket `acme-blobs`: no answer in 10s"; 3]
    );

    for answer in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\nlast-modified: Sun, 22 Nov 2026 09:00:00 GMT\r\netag: \"x\"\r\n\r\nshort",
        "HTTP/1.1 400 Bad\r\ncontent-length: 42\r\n\r\n<Error><Code>../../etc/passwd</Code></Error>",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = std::io::Read::read(&mut stream, &mut [0; 4_096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let (blobs, _) = client(&S3Settings {
            endpoint: Some(endpoint),
            ..settings.clone()
        });
        let begun = Instant::now();
        assert!(get(&blobs, "c", "o").await.is_err(), "{answer}");
        assert!(blobs.list("c", None, 1).await.is_err(), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(22), "{answer}");
    }
}

/// A server that answers each request, and never comes to an end.
fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 8_192];
            let n = std::io::Read::read(&mut stream, &mut head).unwrap_or(0);
            let body = if head[..n].starts_with(b"POST") {
                "<DeleteResult><Deleted><Key>guest/c/%</Key></Deleted></DeleteResult>"
            } else {
                // A key that no name leads to, and more behind it.
                "<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>more</NextContinuationToken><KeyCount>1</KeyCount><Contents>\
                 <Key>guest/c/%</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>\
                 <ETag>x</ETag><Size>1</Size></Contents></ListBucketResult>"
            };
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_always_has_more_is_an_error_in_time() {
    let settings = S3Settings {
        bucket: BUCKET.to_owned(),
        prefix: "guest".to_owned(),
        region: Some(REGION.to_owned()),
        endpoint: Some(endless()),
        credentials: Some(Swift::credentials()),
        roots: None,
    };
    let (blobs, heard) = client(&settings);
    let both = async { tokio::join!(blobs.list("c", None, 10), blobs.delete("c")) };
    let both = tokio::time::timeout(Duration::from_secs(30), both).await;
    assert_eq!(
        both.expect("they end"),
        (Err(CloudError::Timeout), Err(CloudError::Timeout))
    );
    let heard = heard.all();
    assert!(
        heard.iter().any(|one| one.contains("no answer")),
        "{heard:?}"
    );
}
