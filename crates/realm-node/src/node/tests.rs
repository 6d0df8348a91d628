//! The loop panics, and nobody who is served notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use realm_model::digest::Digest;
use realm_model::entry::{Body, ChainId, ManifestBody, Payload};
use realm_model::lock::{Lock, Pin};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

mod crowding;

use super::*;
use crate::Client;
use crate::found::{Founding, found};

const MANIFEST: &str = "[components.app]\nsource = \"file:./app.wasm\"\n[routing]\n\
                        \"*\" = [{ path = \"/...\", component = \"app\" }]\n";

/// Each is its own: one that stood where another belongs would be seen.
#[test]
fn what_node_toml_says_of_clients_is_what_the_edge_gets() {
    let text = "cache_max_mb = 3\ntrusted_proxies = [\"10.0.0.1\"]\n[listen]\nhttp = [\"127.0.0.1:81\"]\n\
                connections_max = 77\nproxy_protocol_from = [\"10.2.0.0/16\", \"::1\"]\n\
                fastcgi = [\"127.0.0.1:82\"]\n[fastcgi]\nconnections_max = 88\nallow = [\"10.3.0.0/16\"]\n";
    let (node, problems) = realm_model::node_config::parse(text);
    assert_eq!(problems, []);
    let temporary = tempfile::tempdir().unwrap();
    let owner = SecretKey::from_seed(&[1; 32]);
    let config = Config {
        node: node.unwrap(),
        ..Config::load(empty_folder(&temporary.path().join("realm"), &owner)).unwrap()
    };
    let edge = edge_config(&config, None).unwrap();
    let blocks = |of: &[realm_model::block::Block]| -> Vec<String> {
        of.iter().map(ToString::to_string).collect()
    };
    assert_eq!(edge.limits.connections_max, 77);
    assert_eq!(edge.fastcgi.connections_max, 88);
    assert_eq!(blocks(&edge.proxy_protocol_from), ["10.2.0.0/16", "::1"]);
    assert_eq!(blocks(&edge.fastcgi.allow), ["10.3.0.0/16"]);
    assert_eq!(edge.cache_bytes_max, 3 * 1024 * 1024);
    assert_eq!(edge.listen, ["127.0.0.1:81".parse().unwrap()]);
    assert_eq!(edge.fastcgi.listen.len(), 1);
    let proxy: std::net::IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(edge.trusted_proxies, [proxy]);
}

/// A realm folder with the compiled form of the app in its cache, so that no child is needed.
fn folder(root: &std::path::Path, owner: &SecretKey, app: &[u8]) -> RealmFolder {
    let folder = empty_folder(root, owner);
    let compiled = folder.compiled(&realm_host::fingerprint(false));
    std::fs::create_dir_all(&compiled).unwrap();
    let file = compiled.join(format!("{}.cwasm", Digest::of(app).hex()));
    realm_host::compile_bytes(app, &file, false).unwrap();
    crate::compile::write_checksum(&file).unwrap();
    folder
}

/// A realm folder with nothing in it.
fn empty_folder(root: &std::path::Path, owner: &SecretKey) -> RealmFolder {
    found(Founding {
        folder: root.to_owned(),
        owner,
        owner_file: owner.to_text(),
        node: &SecretKey::from_seed(&[2; 32]),
        recovery: None,
        nonce: [3; 32],
        name: "node-1".parse().unwrap(),
        created_unix_s: 0,
    })
    .unwrap();
    RealmFolder::open(root.to_owned()).unwrap()
}

/// Uploads the app and signs the manifest.
async fn apply(client: &Client, owner: &SecretKey, app: Vec<u8>) {
    let digest = Digest::of(&app);
    let size = app.len() as u64;
    let pieces = futures_util::stream::iter([Ok(bytes::Bytes::from(app))]);
    client.upload(&digest, pieces).await.unwrap();
    let heads = client.heads().await.unwrap();
    let pins = [("app".parse().unwrap(), Pin { digest, size })];
    let lock = Lock {
        version: 1,
        components: pins.into(),
    };
    let payload = Payload {
        seq: 1,
        prev: heads.default.hash,
        authority: heads.authority,
        created_unix_s: 0,
        body: Body::Manifest(ManifestBody {
            manifest: MANIFEST.to_owned(),
            lock: lock.to_text(),
        }),
    };
    let entry = payload.sign(heads.realm, ChainId::DEFAULT, owner);
    client.submit(ChainId::DEFAULT, entry).await.unwrap();
}

/// GETs `/`; the first line of the answer.
async fn get(address: std::net::SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_loop_costs_no_request_and_no_state() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("realm");
    let owner = SecretKey::from_seed(&[1; 32]);
    let app = std::fs::read(realm_test_guests::HELLO).unwrap();
    let mut config = Config::load(folder(&root, &owner, &app)).unwrap();
    config.node.listen.http = vec!["127.0.0.1:0".parse().unwrap()];
    config.node.listen.admin = "127.0.0.1:0".parse().unwrap();
    let node = Node::start(config).await.unwrap();
    let client = Client::new(&root.join("agent.sock"));
    apply(&client, &owner, app).await;
    let address = node.edge.addresses()[0];
    while get(address).await != "HTTP/1.1 200 OK" {
        tokio::task::yield_now().await;
    }
    let before = client.heads().await.unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let load = tokio::spawn(async move {
        let mut answers = Vec::new();
        while !stop.load(Relaxed) {
            answers.push(get(address).await);
        }
        answers
    });
    for _ in 0..2 {
        assert!(node.events.send(Event::Panic).await.is_ok());
        // Answered by the loop when it goes on; the question waits for it.
        assert_eq!(client.heads().await.unwrap(), before);
    }
    done.store(true, Relaxed);
    let answers = load.await.unwrap();
    assert!(answers.len() > 10, "{} answers", answers.len());
    assert!(
        answers.iter().all(|answer| answer == "HTTP/1.1 200 OK"),
        "{answers:?}"
    );
    let status = client.status().await.unwrap();
    assert_eq!(
        (status.components[0].healthy, status.components[0].wanted),
        (1, 1)
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_at_a_restart_is_answered_and_not_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("realm");
    let owner = SecretKey::from_seed(&[1; 32]);
    let app = std::fs::read(realm_test_guests::HELLO).unwrap();
    let folder = folder(&root, &owner, &app);
    let mut config = Config::load(folder).unwrap();
    config.node.listen.http = vec!["127.0.0.1:0".parse().unwrap()];
    config.node.listen.admin = "127.0.0.1:0".parse().unwrap();
    let node = Node::start(config.clone()).await.unwrap();
    apply(&Client::new(&root.join("agent.sock")), &owner, app).await;
    while get(node.edge.addresses()[0]).await != "HTTP/1.1 200 OK" {
        tokio::task::yield_now().await;
    }
    let address = node.edge.addresses()[0];
    node.stop().await;
    config.node.listen.http = vec![address];
    let starting = tokio::spawn(Node::start(config));
    // From the first moment at which somebody listens.
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(get(address).await, "HTTP/1.1 200 OK");
    starting.await.unwrap().unwrap().stop().await;
}

/// A figure of the metrics page.
async fn figure(node: &Node, name: &str) -> f64 {
    let address = node.admin_url().strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

/// Stands in for the child that compiles: copies what the test keeps, and writes down that it ran.
fn compiler(root: &std::path::Path, kept: &std::path::Path) -> std::path::PathBuf {
    let script = root.join("compiler");
    let (kept, runs) = (kept.display(), root.join("runs"));
    let lines = format!(
        "#!/bin/sh\necho >> '{}'\n/bin/cp '{kept}.sha256' \"${{7%.cwasm}}.sha256\"\n/bin/cp '{kept}.cwasm' \"$7\"\n",
        runs.display()
    );
    std::fs::write(&script, lines).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    script
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_component_is_unloaded_and_comes_back_even_where_its_file_is_lost() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("realm");
    let owner = SecretKey::from_seed(&[1; 32]);
    let app = std::fs::read(realm_test_guests::HELLO).unwrap();
    let mut config = Config::load(folder(&root, &owner, &app)).unwrap();
    let file = config
        .folder
        .compiled(&realm_host::fingerprint(false))
        .join(format!("{}.cwasm", Digest::of(&app).hex()));
    let kept = temporary.path().join("kept");
    for extension in ["cwasm", "sha256"] {
        std::fs::copy(
            file.with_extension(extension),
            kept.with_extension(extension),
        )
        .unwrap();
    }
    let compiler = compiler(temporary.path(), &kept);
    config.executable = compiler.clone();
    let blobs = Blobs::open(config.folder.blobs()).unwrap();
    let source = blobs.path(&Digest::of(&app));
    config.unload_after = Some(Duration::from_millis(40));
    config.node.listen.http = vec!["127.0.0.1:0".parse().unwrap()];
    config.node.listen.admin = "127.0.0.1:0".parse().unwrap();
    let node = Node::start(config).await.unwrap();
    let client = Client::new(&root.join("agent.sock"));
    apply(&client, &owner, app).await;
    let address = node.edge.addresses()[0];
    while get(address).await != "HTTP/1.1 200 OK" {
        tokio::task::yield_now().await;
    }
    let unloaded = async || while figure(&node, "realm_code_loaded").await > 0.0 {};
    let compilations = async || {
        let runs = std::fs::read(temporary.path().join("runs")).unwrap_or_default();
        assert_eq!(
            figure(&node, "realm_compilations_total").await,
            runs.len() as f64
        );
        runs.len()
    };
    unloaded().await;
    let loads = figure(&node, "realm_code_loads_total").await;
    assert_eq!(get(address).await, "HTTP/1.1 200 OK");
    assert_eq!(figure(&node, "realm_code_loads_total").await, loads + 1.0);
    assert_eq!(compilations().await, 0);

    // Neither the compiler is needed for it nor the bytes that were compiled.
    unloaded().await;
    let aside = |path: &std::path::Path| path.with_extension("aside");
    for path in [&compiler, &source] {
        std::fs::rename(path, aside(path)).unwrap();
    }
    assert_eq!(get(address).await, "HTTP/1.1 200 OK");
    assert_eq!(compilations().await, 0);
    for path in [&compiler, &source] {
        std::fs::rename(aside(path), path).unwrap();
    }

    // Once because it is gone, once because it is damaged.
    for (lost, damage) in [(1, false), (2, true)] {
        unloaded().await;
        if damage {
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        let refused = "HTTP/1.1 500 Internal Server Error";
        assert_eq!(get(address).await, refused);
        let mut answer = refused.to_owned();
        while answer == refused {
            answer = get(address).await;
        }
        assert_eq!(answer, "HTTP/1.1 200 OK");
        assert_eq!(compilations().await, lost);
    }
    let status = client.status().await.unwrap();
    let app = &status.components[0];
    assert_eq!((app.healthy, app.wanted, app.restarts), (1, 1, 0));
    node.stop().await;
}

/// Where the kernel pipes core files to a program no limit holds, and whoever runs as the same user could
/// attach: the flag is against both.
#[test]
fn no_core_and_nobody_attaches() {
    forbid_dumps();
    let behavior = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(behavior, DumpableBehavior::NotDumpable);
    let limit = rustix::process::getrlimit(Resource::Core);
    assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
}
