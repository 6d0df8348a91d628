//! Many nodes want the same bytes at one moment, and an origin has them: it is asked once or twice,
//! and whoever of those that ask first stands still or cannot reach it holds up nobody for long.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use realm_model::content_id::{BlockKind, ContentId};
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::view::ReachState;
use realm_test_guests::HELLO;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::realms::{Node, Realms};
use crate::support::{eventually, said};

const NAMES: [&str; 5] = ["alpha", "beta", "gamma", "delta", "epsilon"];
const BUILD_BYTES: usize = 2_000_000;
/// So large are the pieces in which an origin serves.
const PIECES: usize = 20;
/// What it may take others to notice that those ahead of them do not get on, several times over, and to
/// fetch and to run: a busy machine takes long to compile.
const SOON: Duration = Duration::from_secs(25);

/// A server with one build, which counts who asks for it.
struct Origin {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl Origin {
    /// Serves `build` at any path; each time takes so long.
    async fn start(build: Vec<u8>, takes: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (build, asked) = (Arc::new(build), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (build, counter) = (Arc::clone(&build), Arc::clone(&counter));
                // Who stands still or hangs up does so.
                tokio::spawn(async move { serve(stream, &build, takes, &counter).await });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

async fn serve(
    mut stream: TcpStream,
    build: &[u8],
    takes: Duration,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    asked.fetch_add(1, Relaxed);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        build.len()
    );
    stream.write_all(head.as_bytes()).await?;
    for piece in build.chunks(build.len().div_ceil(PIECES)) {
        tokio::time::sleep(takes / u32::try_from(PIECES).unwrap()).await;
        stream.write_all(piece).await?;
    }
    stream.shutdown().await
}

/// Another build of hello for each number: a custom section behind it.
fn build(number: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(HELLO).unwrap();
    let mut content = b"\x04fill".to_vec();
    content.extend(number.to_le_bytes());
    content.resize(BUILD_BYTES - bytes.len() - 6, 0x5a);
    bytes.push(0);
    let mut length = u32::try_from(content.len()).unwrap();
    for more in [true, true, true, true, false] {
        let low = u8::try_from(length & 0x7f).unwrap();
        bytes.push(low | if more { 0x80 } else { 0 });
        length >>= 7;
    }
    bytes.extend(content);
    assert_eq!(bytes.len(), BUILD_BYTES);
    bytes
}

/// The node that is the first to ask for these bytes, as the nodes find it.
fn first_of<'a>(realms: &'a Realms, bytes: &[u8]) -> &'a Node {
    let digest = Digest::of(bytes);
    let rank = |key: &PublicKey| {
        let ranked: [&[u8]; 3] = [b"realm.fetch.v1\0", digest.as_bytes(), key.as_bytes()];
        Digest::of(&ranked.concat())
    };
    let nodes = realms.nodes.iter();
    let first = nodes.min_by_key(|node| rank(&node.key().public()));
    first.unwrap()
}

/// A build for which this node is the first.
fn build_for(realms: &Realms, name: &str) -> Vec<u8> {
    let mut builds = (0..).map(build);
    builds
        .find(|bytes| first_of(realms, bytes).name == name)
        .unwrap()
}

/// On every node.
fn manifest(source: &str) -> String {
    format!(
        "[components.app]\nsource = \"{source}\"\n\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\", per_node = true }}]\n"
    )
}

fn http(origin: &Origin, bytes: &[u8]) -> String {
    format!("http://{}/build.wasm@{}", origin.address, Digest::of(bytes))
}

fn apply(realms: &Realms, source: &str) {
    let first = realms.first();
    first.realm.write("realm.toml", &manifest(source));
    first.run(&["apply", "--yes", "--no-wait"]).ok();
}

fn blob(node: &Node, bytes: &[u8]) -> PathBuf {
    let folder = node.realm.path(".realm/blobs");
    folder.join(Digest::of(bytes).hex())
}

/// Waits until the origin was asked so often; says whether no other node had given up the third one by then.
async fn is_asked_before_gamma_is_lost(realms: &Realms, origin: &Origin, times: usize) -> bool {
    eventually("the origin is asked", async || {
        (origin.asked() >= times).then_some(())
    })
    .await;
    for node in others(realms, "gamma") {
        if node.sees("gamma").await.reach.state == ReachState::Lost {
            return false;
        }
    }
    true
}

/// Waits until all of these nodes have the bytes; returns the time that it took.
async fn until_all_have(nodes: &[&Node], bytes: &[u8]) -> Duration {
    let began = Instant::now();
    for node in nodes {
        let what = format!("{} has the build", node.name);
        eventually(&what, async || blob(node, bytes).exists().then_some(())).await;
        assert_eq!(std::fs::read(blob(node, bytes)).unwrap(), bytes);
    }
    began.elapsed()
}

fn others<'a>(realms: &'a Realms, name: &str) -> Vec<&'a Node> {
    let nodes = realms.nodes.iter();
    nodes.filter(|node| node.name != name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_nodes_one_or_two_ask_the_origin() {
    let realms = Realms::meet(&NAMES).await;
    for number in 0..2 {
        let bytes = build(number);
        let origin = Origin::start(bytes.clone(), Duration::from_secs(1)).await;
        apply(&realms, &http(&origin, &bytes));
        let nodes: Vec<&Node> = realms.nodes.iter().collect();
        until_all_have(&nodes, &bytes).await;
        // `apply` asks as well, to see what it signs.
        let asked = origin.asked() - 1;
        assert!((1..=2).contains(&asked), "{asked} nodes asked the origin");
        for node in nodes {
            let what = format!("{} answers", node.name);
            eventually(&what, async || {
                (node.get("/").await == (200, "hello\n".to_owned())).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_stands_still_from_the_beginning_holds_up_nobody() {
    let realms = Realms::meet(&NAMES).await;
    let bytes = build_for(&realms, "gamma");
    let origin = Origin::start(bytes.clone(), Duration::from_secs(1)).await;
    let gamma = &realms.nodes[2];
    gamma.agent().signal("STOP");
    apply(&realms, &http(&origin, &bytes));
    assert!(is_asked_before_gamma_is_lost(&realms, &origin, 2).await);
    let took = until_all_have(&others(&realms, "gamma"), &bytes).await;
    assert!(took <= SOON, "{took:?}");
    let asked = origin.asked() - 1;
    assert!((1..=2).contains(&asked), "{asked} nodes asked the origin");
    gamma.agent().signal("CONT");
    until_all_have(&[gamma], &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_stops_half_way_holds_up_nobody() {
    let realms = Realms::meet(&NAMES).await;
    let bytes = build_for(&realms, "gamma");
    let origin = Origin::start(bytes.clone(), Duration::from_secs(3)).await;
    let gamma = &realms.nodes[2];
    apply(&realms, &http(&origin, &bytes));
    let partial = blob(gamma, &bytes).with_file_name("partial");
    let partial = partial.join(Digest::of(&bytes).hex());
    eventually("gamma has some of it", async || {
        let size = std::fs::metadata(&partial).ok()?.len();
        (size > 0).then_some(())
    })
    .await;
    gamma.agent().signal("STOP");
    assert!(!blob(gamma, &bytes).exists());
    assert!(is_asked_before_gamma_is_lost(&realms, &origin, 3).await);
    let took = until_all_have(&others(&realms, "gamma"), &bytes).await;
    assert!(took <= SOON, "{took:?}");
    let asked = origin.asked() - 1;
    assert!((2..=3).contains(&asked), "{asked} nodes asked the origin");
    gamma.agent().signal("CONT");
    until_all_have(&[gamma], &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_first_and_cannot_reach_the_origin_has_it_from_the_others() {
    // The origin of each node is what its own settings say: a gateway that is there, or one that is not.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = listener.local_addr().unwrap();
    drop(listener);
    let sources = format!("[sources]\nipfs_gateways = [\"http://{gateway}\"]\n");
    let mut realms = Realms::in_lab(None, &NAMES, &sources).await;
    let bytes = build_for(&realms, "gamma");
    let origin = Origin::start(bytes.clone(), Duration::from_millis(500)).await;
    for at in [0, 1, 3, 4] {
        let node = &mut realms.nodes[at];
        let settings = node.realm.read(".realm/node.toml");
        let settings = settings.replace(&gateway.to_string(), &origin.address);
        node.realm.write(".realm/node.toml", &settings);
        drop(node.take());
        node.start();
    }
    realms.all_meet().await;
    let source = format!("ipfs://{}", ContentId::of(BlockKind::Raw, &bytes));
    realms.first().realm.write("realm.toml", &manifest(&source));
    let mut apply = realms.first().command(&["apply", "--yes", "--no-wait"]);
    apply.env("IPFS_GATEWAY", format!("http://{}", origin.address));
    said(apply).ok();
    let nodes: Vec<&Node> = realms.nodes.iter().collect();
    let took = until_all_have(&nodes, &bytes).await;
    assert!(took <= SOON, "{took:?}");
    let asked = origin.asked() - 1;
    assert!((1..=2).contains(&asked), "{asked} nodes asked the origin");
    let from = realms.nodes[2].agent().after("fetched");
    let is_peer = NAMES.iter().any(|name| from.contains(name));
    assert!(is_peer, "{from}");
}
