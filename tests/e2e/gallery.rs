//! The example `gallery`: images in a container of `wasi:blobstore`, through a component in Python.

use reqwest::{Client, Method};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::languages;
use crate::support::{Agent, Realm, eventually};

const MANIFEST: &str = r#"
[components.gallery]
source = "file:./target/languages/gallery.wasm"
bind = { gallery = "images" }

[bindings.images]
interface = "wasi:blobstore"
backend = "embedded"

[routing]
"*" = [{ path = "/gallery/...", component = "gallery" }]
"#;

async fn ask(agent: &Agent, method: Method, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let request = Client::new().request(method, agent.url(path)).body(body);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.bytes().await.unwrap().to_vec())
}

async fn get(agent: &Agent, path: &str) -> (u16, Vec<u8>) {
    ask(agent, Method::GET, path, Vec::new()).await
}

/// Puts an image of `n_bytes` until half of it is on its way; what the agent and the system between them have
/// room for is far less than that, so that the guest has read much of it.
async fn half_sent(url: &str, path: &str, n_bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://"))
        .await
        .unwrap();
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n_bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![7; n_bytes / 2]).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn images_go_in_and_come_out_and_outlive_the_agent() {
    let realm = Realm::new();
    let example = languages::copy(&realm);
    for line in MANIFEST.lines().filter(|line| !line.contains("path = ")) {
        assert!(example.contains(line), "{line}");
    }
    realm.write("realm.toml", MANIFEST);
    let agent = realm.agent();
    realm.run(&["apply", "--yes", "--timeout", "5m"]).ok();

    let (status, page) = get(&agent, "/gallery/").await;
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&page).contains("PUT an image"));
    // Larger than what the guest could hold at once beside itself is no matter: it never does.
    let cat: Vec<u8> = (0..20_000_000_u32).map(|n| (n ^ (n >> 9)) as u8).collect();
    let put = ask(&agent, Method::PUT, "/gallery/cat.png", cat.clone()).await;
    assert_eq!(put, (201, b"cat.png is there\n".to_vec()));
    let hostile = "/gallery/%3Cb%3E%20my%20dog.jpg";
    let put = ask(&agent, Method::PUT, hostile, b"woof".to_vec()).await;
    assert_eq!(put.0, 201, "{put:?}");
    let bad = ask(
        &agent,
        Method::PUT,
        "/gallery/page.html",
        b"<script>".to_vec(),
    )
    .await;
    assert_eq!(bad.0, 404);

    let (_, page) = get(&agent, "/gallery/").await;
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("src=\"/gallery/cat.png\""), "{page}");
    assert!(page.contains("&lt;b&gt; my dog.jpg"), "{page}");
    assert!(get(&agent, "/gallery/cat.png").await == (200, cat.clone()));

    // Killed when half of another one is there: nobody has the end of it, and the old one stays.
    let half = half_sent(&agent.url, "/gallery/cat.png", 30_000_000).await;
    agent.kill_9();
    drop(half);
    let agent = realm.agent();
    let seen = eventually("the gallery is back", async || {
        let (status, seen) = get(&agent, "/gallery/cat.png").await;
        (status == 200).then_some(seen)
    })
    .await;
    assert!(seen == cat, "{} bytes", seen.len());
    assert_eq!(get(&agent, hostile).await, (200, b"woof".to_vec()));

    let gone = ask(&agent, Method::DELETE, "/gallery/cat.png", Vec::new()).await;
    assert_eq!(gone.0, 200);
    assert_eq!(get(&agent, "/gallery/cat.png").await.0, 404);
}
