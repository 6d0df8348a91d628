//! Mistakes in a manifest, as a person sees them, and the plan.

use realm_test_guests::{HELLO, VERSION_A};

use crate::support::{Realm, get};

#[test]
fn every_mistake_is_shown_at_once_with_its_place() {
    let realm = Realm::new();
    realm.write(
        "realm.toml",
        r#"[components.auth]
sorce = "file:./auth.wasm"
memory_max_mb = "64"

[routing]
"*" = [{ path = "/auth/...", component = "auht" }]
"#,
    );
    let said = realm.run(&["plan"]).fails(1, "invalid-manifest");
    insta::assert_snapshot!(said.stderr, @r#"
    error[missing-key]: `[components.auth]` has no `source`, expected a string: a source like `file:./build/orders.wasm`, or a URL with its `@sha256:` pin
     --> realm.toml:1:13
      |
    1 | [components.auth]
      |             ^^^^

    error[unknown-key]: unknown key `sorce` in `[components.auth]`
     --> realm.toml:2:1
      |
    2 | sorce = "file:./auth.wasm"
      | ^^^^^
      |
      = hint: did you mean `source`?

    error[wrong-type]: found a string, expected an integer from 1 to 4096
     --> realm.toml:3:17
      |
    3 | memory_max_mb = "64"
      |                 ^^^^
      |
      = hint: write it as `64`

    error[unknown-component]: no component `auht` under `[components]`
     --> realm.toml:6:42
      |
    6 | "*" = [{ path = "/auth/...", component = "auht" }]
      |                                          ^^^^^^
      |
      = hint: did you mean `auth`?

    error[invalid-manifest]: `realm.toml` has 4 errors
    hint: docs/manifest.md describes every key; `realm schema` is for your editor
    "#);
    // The same as data, for an editor.
    let json = realm.run(&["plan", "--json"]);
    let problems: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(problems["problems"][0]["line"], 1);
}

#[test]
fn the_specifications_manifest_is_understood_and_its_sources_are_asked() {
    let realm = Realm::new();
    let text = include_str!("../../crates/realm-model/tests/fixtures/3-realm.toml");
    let owner = realm.owner().public().to_string();
    let line = text
        .lines()
        .find(|line| line.starts_with("pubkey"))
        .unwrap();
    realm.write(
        "realm.toml",
        // Nobody listens there, and a test asks nobody else.
        &text
            .replace(line, &format!("pubkey = \"{owner}\""))
            .replace("ghcr.io", "127.0.0.1:1"),
    );
    let said = realm.run(&["plan"]).fails(1, "fetch-failed");
    assert!(
        said.stderr
            .contains("failed to get `http://127.0.0.1:1/v2/acme/auth/blobs/sha256:"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("orders.wasm"),
        "every source is told: {}",
        said.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_shows_changes_and_says_by_exit_code() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let _agent = realm.agent();
    assert_eq!(realm.run(&["plan"]).code, 2);
    realm.run(&["apply"]).fails(64, "confirmation-needed");
    assert_eq!(realm.heads().await.version, 0, "not without a yes");
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(realm.run(&["plan"]).code, 0);
    let again = realm.run(&["apply", "--yes"]).ok();
    assert!(
        again.stderr.contains("nothing to change"),
        "{}",
        again.stderr
    );
    assert_eq!(realm.heads().await.version, 1);
    realm.app(VERSION_A, "memory_max_mb = 32");
    let plan = realm.run(&["plan"]);
    assert_eq!(plan.code, 2);
    let without_digests: Vec<_> = plan
        .stdout
        .lines()
        .map(|line| line.split("sha256:").next().unwrap().trim_end())
        .collect();
    insta::assert_snapshot!(without_digests.join("\n"), @r#"
    ~ component app
        memory_max_mb: 128 → 32
        pin:
    plan: 0 to add, 1 to change, 0 to remove

    NODE    COMPONENT  REPLICAS  VERSION
    node-1  app        1         1 → 2
    "#);
    let json: serde_json::Value =
        serde_json::from_str(&realm.run(&["plan", "--json"]).stdout).unwrap();
    assert_eq!(json["version_in_force"], 1);
    assert_eq!(json["version"], 2);
    assert!(!json["changes"].as_array().unwrap().is_empty());
    assert_eq!(json["placement"]["components"][0]["replaced"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_sources_are_fetched_by_the_agent_and_checked() {
    let good = std::fs::read(HELLO).unwrap();
    let digest = realm_model::digest::Digest::of(&good);
    let origin = Origin::start(good.clone()).await;
    let realm = Realm::new();
    let agent = realm.agent();
    let manifest = |path: &str| {
        crate::support::app_manifest("")
            .replace("file:./app.wasm", &format!("{}{path}@{digest}", origin.url))
    };
    realm.write("realm.toml", &manifest("/good.wasm"));
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
    // Other bytes than pinned are refused when they are applied.
    realm.write(
        "realm.toml",
        &manifest("/bad.wasm")
            .replace("[components.app]", "[components.other]")
            .replace("\"app\"", "\"other\""),
    );
    let said = realm.run(&["apply", "--yes"]).fails(1, "digest-mismatch");
    assert!(said.stderr.contains(&digest.to_string()), "{}", said.stderr);
    assert_eq!(get(&agent.url("/")).await.0, 200);
    // A pin is a must.
    realm.write(
        "realm.toml",
        &crate::support::app_manifest("")
            .replace("file:./app.wasm", &format!("{}/good.wasm", origin.url)),
    );
    let said = realm.run(&["apply", "--yes"]).fails(1, "invalid-manifest");
    assert!(said.stderr.contains("@sha256:"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_changed_its_bytes_is_named_and_nothing_runs() {
    let good = std::fs::read(HELLO).unwrap();
    let digest = realm_model::digest::Digest::of(&good);
    let origin = Origin::start(good).await;
    let realm = Realm::new();
    let agent = realm.agent();
    let text = crate::support::app_manifest("").replace(
        "file:./app.wasm",
        &format!("{}/once.wasm@{digest}", origin.url),
    );
    realm.write("realm.toml", &text);
    // The CLI got the right bytes; the agent asks a moment later, and gets others.
    let said = realm
        .run(&["apply", "--yes", "--timeout", "3s"])
        .fails(1, "not-running");
    assert!(said.stderr.contains("other bytes"), "{}", said.stderr);
    assert!(
        said.stderr.contains("once.wasm"),
        "the source is named: {}",
        said.stderr
    );
    assert_eq!(get(&agent.url("/")).await.0, 503);
}

/// An HTTP server with `/good.wasm`, `/bad.wasm`, and `/once.wasm`, which is good the first time.
struct Origin {
    url: String,
}

impl Origin {
    async fn start(good: Vec<u8>) -> Self {
        use http_body_util::Full;
        use hyper::body::Bytes;
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let good = Bytes::from(good);
        let asked = std::sync::Arc::new(AtomicBool::new(false));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (good, asked) = (good.clone(), std::sync::Arc::clone(&asked));
                let service = hyper::service::service_fn(
                    move |request: hyper::Request<hyper::body::Incoming>| {
                        let bad = match request.uri().path() {
                            "/bad.wasm" => true,
                            "/once.wasm" => asked.swap(true, Relaxed),
                            _ => false,
                        };
                        let mut bytes = good.to_vec();
                        if bad {
                            bytes[10] ^= 1;
                        }
                        async move {
                            Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(
                                Bytes::from(bytes),
                            )))
                        }
                    },
                );
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
                );
            }
        });
        Self { url }
    }
}
