//! Guests that are not of this house: JavaScript by jco, Python by componentize-py, C by clang.
//! The default limits suit them, and one that needs more than it may have is told so.

use std::path::Path;
use std::process::Command;

use crate::alone::{interrupt, serve};
use crate::support::{Agent, Realm, eventually, figure, get};

const NAMES: [&str; 3] = ["c", "javascript", "python"];
const MIB: f64 = 1024.0 * 1024.0;

/// Copies examples/languages.toml and what it names, and builds that first where it changed.
pub(crate) fn copy(realm: &Realm) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(root.join("scripts/languages.sh"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    std::fs::create_dir_all(realm.path("target/languages")).unwrap();
    for name in NAMES.iter().chain(&["gallery"]) {
        let file = format!("target/languages/{name}.wasm");
        std::fs::copy(root.join("examples").join(&file), realm.path(&file)).unwrap();
    }
    std::fs::read_to_string(root.join("examples/languages.toml")).unwrap()
}

/// The manifest with one more component: `like` within `memory_max_mb`.
fn with(manifest: &str, name: &str, like: &str, memory_max_mb: u32) -> String {
    let component = format!(
        "[components.{name}]\nsource = \"file:./target/languages/{like}.wasm\"\nmemory_max_mb = {memory_max_mb}\n\n[routing]"
    );
    let route =
        format!("\"*\" = [\n  {{ path = \"/{name}/...\", component = \"{name}\", replicas = 1 }},");
    manifest
        .replace("[routing]", &component)
        .replace("\"*\" = [", &route)
}

struct Answer {
    status: u16,
    code: Option<String>,
    text: String,
}

async fn post(agent: &Agent, name: &str, body: String) -> Answer {
    let url = agent.url(&format!("/{name}/"));
    let response = reqwest::Client::new().post(url).body(body).send().await;
    let response = response.unwrap();
    let code = response.headers().get("realm-error");
    Answer {
        status: response.status().as_u16(),
        code: code.map(|code| code.to_str().unwrap().to_owned()),
        text: response.text().await.unwrap(),
    }
}

async fn counts(agent: &Agent, name: &str, body: String, words: u64) {
    let answer = post(agent, name, body).await;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text);
    let told: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(told["words"], words, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_other_languages_suit_the_defaults_and_are_told_what_they_lack() {
    let realm = Realm::new();
    let manifest = copy(&realm);
    // Both start with 10 to 13 MiB, and find no room for a body of 16 MiB.
    let manifest = with(&manifest, "small-javascript", "javascript", 20);
    let manifest = with(&manifest, "small-python", "python", 20);
    let manifest = with(&manifest, "small-c", "c", 1);
    realm.write("realm.toml", &manifest);
    let agent = realm.agent();
    realm.run(&["apply", "--yes", "--timeout", "5m"]).ok();

    suit_the_defaults(&agent).await;
    for name in ["javascript", "python"] {
        over_the_limit(&realm, &agent, &format!("small-{name}"), 20).await;
    }
    // Reads as it comes: any body fits.
    counts(&agent, "small-c", "word ".repeat(1 << 17), 1 << 17).await;
    too_small_to_start(&realm, &manifest).await;
}

async fn suit_the_defaults(agent: &Agent) {
    for (name, called, path) in [
        // What is behind the route's own part of the path: CGI's `PATH_INFO`.
        ("c", "C", "/you"),
        ("javascript", "JavaScript", "/javascript/you"),
        ("python", "Python", "/python/you"),
    ] {
        let hello = get(&agent.url(&format!("/{name}/you?and=me"))).await;
        let expected = format!("Hello from {called} at {path}\n");
        assert_eq!(hello, (200, expected));
        counts(agent, name, "as many words\nas here".into(), 5).await;
        counts(agent, name, "word ".repeat(1 << 17), 1 << 17).await;
    }
    let page = get(&agent.metrics_url).await.1;
    for name in NAMES {
        let peak = figure(&page, &format!("mem_peak_bytes{{component=\"{name}\"}}"));
        assert!(peak > 0.0 && peak < 128.0 * MIB, "{name}: {peak}");
        let ended = |outcome| {
            let labels = format!("{{component=\"{name}\",outcome=\"{outcome}\"}}");
            figure(&page, &format!("wasm_invocations_total{labels}"))
        };
        assert_eq!((ended("ok"), ended("exit")), (3.0, 0.0), "{name}");
    }
}

async fn over_the_limit(realm: &Realm, agent: &Agent, name: &str, memory_max_mb: u32) {
    let answer = post(agent, name, "x".repeat(16 << 20)).await;
    assert_eq!(
        (answer.status, answer.code.as_deref()),
        (500, Some("memory-limit")),
        "{name}: {}",
        answer.text
    );
    let log = realm.run(&["logs", name]).ok().stdout;
    let words = format!(" MiB, `memory_max_mb` is {memory_max_mb}");
    let told = log
        .lines()
        .any(|line| line.contains("memory-limit: the guest wanted ") && line.contains(&words));
    assert!(told, "{log}");
    // The next one is an instance of its own.
    counts(agent, name, "one two".into(), 2).await;
}

/// What cannot even start says what it needs, where a person looks first.
async fn too_small_to_start(realm: &Realm, manifest: &str) {
    let manifest = with(manifest, "tiny", "python", 8);
    realm.write("realm.toml", &manifest);
    let said = realm.run(&["apply", "--yes", "--timeout", "1s"]);
    said.fails(1, "not-running");
    let why = eventually("the probe of `tiny` failed", async || {
        let text = realm.run(&["status"]).ok().stdout;
        let line = text.lines().find(|line| line.starts_with("tiny"))?;
        line.contains("memory-limit").then(|| line.to_owned())
    })
    .await;
    assert!(why.contains("wanted 13 MiB, `memory_max_mb` is 8"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_and_run_take_the_guests_of_other_languages() {
    let realm = Realm::empty();
    copy(&realm);
    for (name, kind, serve, expected) in [
        (
            "c",
            "core module",
            "cgi",
            [
                "wasi_snapshot_preview1.environ_get  holds only what `env` names",
                "wasi_snapshot_preview1.fd_read  adapted to WASI 0.2",
            ],
        ),
        (
            "javascript",
            "component",
            "http",
            [
                "wasi:http/types@0.2.10 (realm has 0.2.x and 0.3.x)",
                "wasi:http/outgoing-handler@0.2.10 (realm has 0.2.x)  reaches only what `allowed_outbound` names",
            ],
        ),
        (
            "python",
            "component",
            "http",
            [
                "wasi:filesystem/types@0.2.9 (realm has 0.2.x and 0.3.x)  reaches only what `dirs` names",
                "wasi:cli/environment@0.2.9 (realm has 0.2.x and 0.3.x)  holds only what `env` and `args` name",
            ],
        ),
    ] {
        let file = format!("target/languages/{name}.wasm");
        let text = realm.run(&["inspect", &file]).ok().stdout;
        assert!(text.starts_with(&format!("{kind}, ")), "{text}");
        assert!(text.contains(&format!("serve:   {serve} ")), "{text}");
        assert!(!text.contains("missing"), "{text}");
        // In which version, and what the manifest must grant.
        for line in expected {
            let shown = format!("  provided  {line}\n");
            assert!(text.contains(&shown), "{shown}{text}");
        }
    }
    let hello = realm.run(&["run", "target/languages/c.wasm"]).ok().stdout;
    assert!(hello.ends_with("Hello from C at /\n"), "{hello}");
    // The same module of preview 1, over HTTP.
    let (child, url) = serve(&realm, &["target/languages/c.wasm"]);
    let (status, served) = get(&format!("{url}here")).await;
    assert_eq!((status, &*served), (200, "Hello from C at /here\n"));
    interrupt(child);
}
