//! Against real servers, which scripts/setup-test.sh brings: the registry of Docker (`distribution`),
//! and OpenStack Swift, which speaks S3. Not here: what no honest server does (`origin_tests`).

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use realm_model::manifest::{ObjectSource, RegistrySource};
use reqwest::{Client, StatusCode};
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use tempfile::TempDir;

use super::download_tests::{Peer, Then};
use super::origin_tests::pin_of;
use super::*;
use crate::testing::payload;

#[path = "../../../../tests/peers/registry.rs"]
mod registry;
use registry::{REPOSITORY, Registry};

/// A real server takes its time when it starts on a busy machine.
const START: Duration = Duration::from_secs(60);
/// As Swift knows him.
const USER: &str = "acme:reader";
const PASSWORD: &str = "hush";

/// Processes that end with the test.
struct Server {
    children: Vec<Child>,
    _folder: TempDir,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(command: &mut Command) -> Child {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    spawned.unwrap_or_else(|error| {
        panic!("{command:?}: {error}; scripts/setup-test.sh brings what is missing")
    })
}

/// Fetches into a place where the first `here` bytes are already; gives the code of an error with
/// its text.
async fn fetched(
    source: &Source,
    origins: &Origins,
    bytes: &[u8],
    here: usize,
    peers: &[&dyn PeerSource],
) -> Result<Fetched, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    let pin = pin_of(bytes);
    if here > 0 {
        let partial = folder.path().join("partial").join(pin.digest.hex());
        fs::write(partial, &bytes[..here]).expect("written");
    }
    let fetched = fetch_shared(&blobs, pin, source, peers, origins, Timeouts::default()).await;
    assert_eq!(fetched.is_ok(), blobs.verify_pin(pin).await.is_ok());
    fetched.map_err(|error| format!("{} {error}", error.code()))
}

/// What `resolve` says: the bytes, or the code of the error.
async fn resolved(source: &Source, origins: &Origins) -> Result<Bytes, &'static str> {
    let resolved = resolve(source, Path::new("."), origins, 10_000_000).await;
    let checked = resolved.map(|(pin, bytes)| {
        assert_eq!(pin, pin_of(&bytes));
        bytes
    });
    checked.map_err(|error| error.code())
}

/// Case 27, for a source that has the right bytes: a peer that lies is blamed, and this one asked.
async fn case_27_a_peer_lies(source: &Source, origins: &Origins, bytes: &[u8]) {
    let liar = Peer::new("liar", &payload(666, bytes.len()), Then::End);
    let fetched = fetched(source, origins, bytes, 0, &[&liar]).await;
    let fetched = fetched.expect("from the source");
    let faults: Vec<String> = fetched.faults.iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("`liar` has other bytes"),
        "{faults:?}"
    );
    let from = fetched.from.expect("somebody");
    assert!(!from.is_empty() && from != "liar");
}

/// Case 27, for a source that serves other bytes of the same length: it is blamed by its name, and
/// who has the right ones is believed.
async fn case_27_the_source_lies(source: &Source, origins: &Origins, bytes: &[u8], name: &str) {
    let error = fetched(source, origins, bytes, 0, &[])
        .await
        .expect_err("a lie");
    let expected = format!("digest-mismatch `{name}` has other bytes");
    assert!(error.starts_with(&expected), "{error}");
    let half = Peer::new("half", &bytes[..bytes.len() / 2], Then::Break);
    let error = fetched(source, origins, bytes, 0, &[&half])
        .await
        .expect_err("a lie");
    assert!(
        error.contains(&expected["digest-mismatch ".len()..]),
        "{error}"
    );
    let honest = Peer::new("bm-01", bytes, Then::End);
    let fetched = fetched(source, origins, bytes, 0, &[&honest]).await;
    assert_eq!(fetched.expect("by a peer").from.as_deref(), Some("bm-01"));
}

/// Where an artifact is, by a tag or by a pin.
fn artifact(server: &Registry, tag: Option<&str>, digest: Option<Digest>) -> Source {
    Source::Registry(RegistrySource {
        host: server.address.clone(),
        repository: REPOSITORY.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Of a machine where somebody did `docker login`.
fn logged_in(server: &Registry) -> Origins {
    Origins {
        registry_auth: Some(server.log_in()),
        ..Origins::default()
    }
}

#[tokio::test]
async fn a_registry_gives_what_a_tag_means_and_then_what_is_pinned() {
    let server = Registry::start();
    let origins = logged_in(&server);
    let (one, two) = (payload(1, 700_000), payload(2, 700_000));
    let manifest = server.push("1.2", &one).await;
    let tagged = artifact(&server, Some("1.2"), None);
    assert_eq!(resolved(&tagged, &origins).await, Ok(one.clone().into()));
    assert_eq!(
        resolved(&tagged, &Origins::default()).await,
        Err("fetch-failed")
    );
    let other = artifact(&server, Some("1.3"), None);
    assert_eq!(resolved(&other, &origins).await, Err("fetch-failed"));

    // By the pin, whatever becomes of the tag; also from the middle on.
    server.push("1.2", &two).await;
    assert_eq!(resolved(&tagged, &origins).await, Ok(two.clone().into()));
    let by_pin = artifact(&server, None, Some(Digest::of(&one)));
    assert_eq!(resolved(&by_pin, &origins).await, Ok(one.clone().into()));
    for here in [0, 300_000] {
        let got = fetched(&tagged, &origins, &one, here, &[])
            .await
            .expect("fetched");
        let name = format!("registry:{}/{REPOSITORY}:1.2", server.address);
        assert_eq!((got.from, got.faults.len()), (Some(name), 0));
    }
    let refused = fetched(&tagged, &Origins::default(), &one, 0, &[]).await;
    let refused = refused.expect_err("nobody is logged in");
    assert!(refused.ends_with("answered 401"), "{refused}");

    // The digest that a registry shows is that of the manifest.
    let shown = artifact(&server, None, Some(manifest));
    let error = resolve(&shown, Path::new("."), &origins, 10_000_000).await;
    let error = error.expect_err("a manifest");
    let FetchError::ManifestPin { component, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(component, Digest::of(&one));
}

#[tokio::test]
async fn case_27_a_registry_that_serves_other_bytes_is_blamed_by_name() {
    let server = Registry::start();
    let origins = logged_in(&server);
    let bytes = payload(1, 700_000);
    server.push("1.2", &bytes).await;
    let source = artifact(&server, Some("1.2"), None);
    case_27_a_peer_lies(&source, &origins, &bytes).await;
    server.rots(Digest::of(&bytes), &payload(3, bytes.len()));
    assert_eq!(resolved(&source, &origins).await, Err("digest-mismatch"));
    let name = format!("registry:{}/{REPOSITORY}:1.2", server.address);
    case_27_the_source_lies(&source, &origins, &bytes, &name).await;
}

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port()
}

/// Swift with its S3 front, which knows one user: four processes, as its makers have it.
async fn swift() -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().display().to_string();
    fs::create_dir_all(folder.path().join("devices/d1")).expect("made");
    let mut children = Vec::new();
    let user = rustix::process::getuid().as_raw();
    let mut serve = |name: &str, port: u16, rest: &str| {
        let path = format!("{root}/{name}.conf");
        let common = format!(
            "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 0\nuser = USER\n\
             swift_dir = {root}\ndevices = {root}/devices\nmount_check = false\nlog_address = {root}/log\n"
        );
        let user = if user == 0 {
            "root".to_owned()
        } else {
            std::env::var("USER").unwrap_or_default()
        };
        fs::write(&path, format!("{}{rest}", common.replace("USER", &user))).expect("written");
        let program = format!("swift-{name}-server");
        let mut command = Command::new(program);
        children.push(start(command.arg(path).stderr(Stdio::null())));
    };
    for name in ["account", "container", "object"] {
        let port = free_port();
        let place = format!("r1z1-127.0.0.1:{port}/d1");
        let steps: [&[&str]; 3] = [
            &["create", "4", "1", "0"],
            &["add", &place, "1"],
            &["rebalance"],
        ];
        for step in steps {
            let mut command = Command::new("swift-ring-builder");
            command.arg(format!("{root}/{name}.builder")).args(step);
            start(command.stderr(Stdio::null())).wait().expect("ended");
        }
        serve(
            name,
            port,
            &format!(
                "[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n"
            ),
        );
    }
    let port = free_port();
    let proxy = format!(
        "[pipeline:main]\npipeline = catch_errors cache s3api tempauth proxy-server\n\
         [filter:catch_errors]\nuse = egg:swift#catch_errors\n\
         [filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n\
         [filter:s3api]\nuse = egg:swift#s3api\nlocation = {REGION}\n\
         [filter:tempauth]\nuse = egg:swift#tempauth\nuser_acme_reader = {PASSWORD} .admin\n\
         [app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n\
         error_suppression_limit = 1000000\n"
    );
    serve("proxy", port, &proxy);
    let server = Server {
        children,
        _folder: folder,
        address: format!("http://127.0.0.1:{port}"),
    };
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let ready = async {
        // Each of the four begins by itself, and an object needs all of them.
        for (key, bytes) in [("", &b""[..]), ("ready", b"x")] {
            while server.put(key, bytes.to_vec()).await != Some(StatusCode::OK) {
                pace.tick().await;
            }
        }
    };
    tokio::time::timeout(START, ready).await.expect("it serves");
    server
}

const REGION: &str = "garage-1";
const KEY: &str = "builds/orders@1.2+x=%20.wasm";

impl Server {
    /// Puts an object, or makes the bucket.
    async fn put(&self, key: &str, bytes: Vec<u8>) -> Option<StatusCode> {
        let endpoint = self.address.parse().expect("a URL");
        let bucket = Bucket::new(endpoint, UrlStyle::Path, "acme", REGION).expect("a bucket");
        let credentials = Credentials::new(USER, PASSWORD);
        let held = Duration::from_secs(60);
        let url = match key {
            "" => bucket.create_bucket(&credentials).sign(held),
            key => bucket.put_object(Some(&credentials), key).sign(held),
        };
        let answer = Client::new().put(url).body(bytes).send().await;
        answer.ok().map(|answer| answer.status())
    }

    fn s3(&self, password: Option<&str>) -> Origins {
        Origins {
            s3: S3Settings {
                endpoint: Some(self.address.clone()),
                region: Some(REGION.to_owned()),
                credentials: password.map(|password| Credentials::new(USER, password)),
            },
            ..Origins::default()
        }
    }
}

fn object(key: &str) -> Source {
    Source::S3(ObjectSource {
        bucket: "acme".to_owned(),
        key: key.to_owned(),
        endpoint: None,
        region: None,
        digest: None,
    })
}

#[tokio::test]
async fn case_27_an_object_in_s3_is_fetched_as_who_may_and_blamed_by_name() {
    let server = swift().await;
    let bytes = payload(1, 700_000);
    let put = server.put(KEY, bytes.clone()).await;
    assert_eq!(put, Some(StatusCode::OK));
    let (source, origins) = (object(KEY), server.s3(Some(PASSWORD)));
    assert_eq!(resolved(&source, &origins).await, Ok(bytes.clone().into()));
    for here in [0, 300_000] {
        let got = fetched(&source, &origins, &bytes, here, &[])
            .await
            .expect("fetched");
        let name = format!("s3://acme/{KEY}");
        assert_eq!((got.from, got.faults.len()), (Some(name), 0));
    }
    for (key, password) in [
        (KEY, None),
        (KEY, Some("guess")),
        ("builds/none", Some(PASSWORD)),
    ] {
        let origins = server.s3(password);
        assert_eq!(resolved(&object(key), &origins).await, Err("fetch-failed"));
    }

    case_27_a_peer_lies(&source, &origins, &bytes).await;
    let put = server.put(KEY, payload(3, bytes.len())).await;
    assert_eq!(put, Some(StatusCode::OK));
    case_27_the_source_lies(&source, &origins, &bytes, &format!("s3://acme/{KEY}")).await;
}
