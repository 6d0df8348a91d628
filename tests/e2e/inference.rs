//! Components that ask models, by the words of a manifest: what stands behind is changed by a line of it.

use std::path::Path;
use std::process::Command;

use realm_test_guests as guests;

use crate::engines::{EngineServer, KEY};
use crate::metrics::promtool;
use crate::secrets::with_input;
use crate::support::{Agent, Realm, app_manifest, eventually, get};

/// One component `app` at `/...` that asks one engine for answers and for vectors.
fn manifest(port: u16) -> String {
    let mut text = String::new();
    for (name, model) in [("assistant", "small"), ("near", "small-vectors")] {
        text += &format!(
            "[bindings.{name}]\ninterface = \"realm:cloud/inference\"\n\
             backend = \"openai+http://127.0.0.1:{port}\"\nsecret = \"engine\"\nmodel = \"{model}\"\n\n"
        );
    }
    text + &app_manifest("bind = { default = \"assistant\", vectors = \"near\" }")
}

/// Another manifest with the same secrets.
fn write(realm: &Realm, manifest: &str) {
    let sealed = realm.read("realm.toml");
    let secrets = &sealed[sealed.find("[secrets]").unwrap()..];
    realm.write("realm.toml", &format!("{manifest}\n{secrets}"));
}

/// A realm that is let to the engines.
fn realm(ports: &[u16], key: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(guests::INFERENCE, "app.wasm");
    realm.write("realm.toml", &manifest(ports[0]));
    with_input(realm.command(&["secret", "set", "engine"]), key.as_bytes()).ok();
    let allow: Vec<String> = ports
        .iter()
        .map(|port| format!("\"openai+http://127.0.0.1:{port}\""))
        .collect();
    let before = realm.read(".realm/node.toml");
    let backends = format!("[backends]\nallow = [{}]\n", allow.join(", "));
    realm.write(".realm/node.toml", &format!("{before}\n{backends}"));
    realm
}

async fn alarm(realm: &Realm) -> Option<String> {
    let alarms = realm.status().await.alarms;
    let mut down = alarms.into_iter().filter(|one| one.code == "backend-down");
    down.next().map(|one| one.message)
}

async fn passes(agent: &Agent) {
    let lines = get(&agent.url("/")).await.1;
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    assert_eq!(lines.lines().count(), 10, "{lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_component_asks_whichever_engine_the_manifest_names() {
    let (mut llama, mistral) = (EngineServer::llama(), EngineServer::mistral());
    let realm = realm(&[llama.port, mistral.port], KEY);
    let agent = realm.agent();
    realm.run(&["apply", "-y"]).ok();
    passes(&agent).await;
    let first = get(&agent.url("/ask?tokens=24")).await.1;
    assert_eq!(alarm(&realm).await, None);

    llama.stop();
    let gone = get(&agent.url("/ask")).await;
    assert_eq!(gone, (503, "Error::Unavailable".to_owned()));
    let about = eventually("an alarm", async || alarm(&realm).await).await;
    assert!(
        about.contains("binding `assistant`: `http://127.0.0.1"),
        "{about}"
    );
    assert!(!about.contains(KEY), "{about}");
    llama.start_again();
    assert_eq!(
        get(&agent.url("/ask?tokens=24")).await,
        (200, first.clone())
    );
    eventually("the alarm ends", async || {
        alarm(&realm).await.is_none().then_some(())
    })
    .await;
    let page = get(&agent.metrics_url).await.1;
    let counted = |what: &str| {
        let start = format!("inference_tokens_total{{component=\"app\",direction=\"{what}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{page}"))
            .parse::<u64>()
            .unwrap()
    };
    assert!(counted("in") > 100 && counted("out") > 100, "{page}");
    promtool(&page);

    // Another engine behind the same names: the component does not change.
    write(&realm, &manifest(mistral.port));
    realm.run(&["apply", "-y"]).ok();
    eventually("the other engine answers", async || {
        let (status, text) = get(&agent.url("/ask?tokens=24")).await;
        (status == 200 && text != first).then_some(())
    })
    .await;
    drop(llama);
    passes(&agent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_the_node_does_not_name_or_that_wants_another_key_is_told() {
    let server = EngineServer::mistral();
    let realm = realm(&[server.port], "another-key");
    let agent = realm.agent();
    realm.run(&["apply", "-y"]).ok();
    let refused = get(&agent.url("/ask")).await;
    assert_eq!(refused, (503, "Error::Unavailable".to_owned()));
    let about = eventually("an alarm", async || alarm(&realm).await).await;
    assert!(about.contains("does not let this node in (401"), "{about}");
    assert!(!about.contains("another-key"), "{about}");
    write(&realm, &manifest(9));
    let applied = realm.run(&["apply", "-y"]);
    assert!(
        applied.stderr.contains("backend-denied"),
        "{}",
        applied.stderr
    );
}

/// The example, with its engine at another port, and one that wants a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_has_a_page_on_which_a_model_answers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = root.join("examples/target/wasm32-wasip2/release/ask.wasm");
    if !built.exists() {
        let made = Command::new(root.join("scripts/examples.sh")).status();
        assert!(made.unwrap().success());
    }
    let mut engine = EngineServer::llama();
    let realm = realm(&[engine.port], KEY);
    realm.guest(built.to_str().unwrap(), "ask.wasm");
    let manifest = std::fs::read_to_string(root.join("examples/ask/realm.toml")).unwrap();
    let manifest = manifest
        .replace("../target/wasm32-wasip2/release", ".")
        .replace("127.0.0.1:8081", &format!("127.0.0.1:{}", engine.port))
        .replace(
            "model = \"small\"",
            "model = \"small\"\nsecret = \"engine\"",
        );
    write(&realm, &manifest);
    let agent = realm.agent();
    realm.run(&["apply", "-y"]).ok();
    let (status, page) = get(&agent.url("/ask/")).await;
    assert!(status == 200 && page.contains("<form"), "{status}: {page}");
    let question = agent.url("/ask/?q=Why+is+the+sky+blue");
    let (status, answer) = get(&question).await;
    // What breaks off says why in parentheses, on a line of its own.
    assert!(
        status == 200 && !answer.trim().is_empty() && !answer.contains("\n("),
        "{status}: {answer}"
    );
    engine.stop();
    let (_, said) = get(&question).await;
    assert!(said.contains("(the model does not answer)"), "{said}");
}
