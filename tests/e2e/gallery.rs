//! The example `gallery`: images in a container of `wasi:blobstore`, through a component in Python.

use reqwest::{Client, Method};

use crate::languages;
use crate::support::{Agent, Realm};

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
    let hostile = "/gallery/..%2F..%2F<b>%20dog.jpg";
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
    assert!(page.contains("../../&lt;b&gt; dog.jpg"), "{page}");
    assert!(get(&agent, "/gallery/cat.png").await == (200, cat.clone()));

    // Written over while the agent is killed: the old one, or all of the new one.
    let url = agent.url("/gallery/cat.png");
    let over = tokio::spawn(async move {
        let body = vec![7; 30_000_000];
        drop(Client::new().put(url).body(body).send().await);
    });
    tokio::task::yield_now().await;
    agent.kill_9();
    over.await.unwrap();
    let agent = realm.agent();
    let (status, seen) = get(&agent, "/gallery/cat.png").await;
    assert_eq!(status, 200);
    assert!(seen == cat || seen == vec![7; 30_000_000]);
    assert_eq!(get(&agent, hostile).await, (200, b"woof".to_vec()));

    let gone = ask(&agent, Method::DELETE, "/gallery/cat.png", Vec::new()).await;
    assert_eq!(gone.0, 200);
    assert_eq!(get(&agent, "/gallery/cat.png").await.0, 404);
}
