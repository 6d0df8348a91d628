//! Changes of objects that call a component: what was answered was told, whoever dies.

use std::collections::BTreeSet;

use realm_test_guests::{BLOBSTORE, WORKER};
use serde_json::{Value, json};

use crate::support::{Realm, eventually, get};

/// A component that writes objects, and one that is called for each; `/state` is where it says so.
fn realm() -> Realm {
    let realm = Realm::new();
    realm.guest(BLOBSTORE, "app.wasm");
    realm.guest(WORKER, "worker.wasm");
    let state = realm.path("state");
    std::fs::create_dir(&state).unwrap();
    let state = state.display();
    realm.write(
        "realm.toml",
        &format!(
            r#"
[bindings.photos]
interface = "wasi:blobstore"
backend = "embedded"
events = "queue/photos.changed"

[bindings.queue]
interface = "wasi:messaging"
backend = "embedded"

[components.app]
source = "file:./app.wasm"
bind = {{ "*" = "photos" }}

[components.thumbnails]
source = "file:./worker.wasm"
bind = {{ default = "queue" }}
dirs = ["{state}::/state::rw"]

[components.thumbnails.subscribe."photos.*"]

[routing]
"*" = [{{ path = "/...", component = "app" }}]
"#
        ),
    );
    let config = realm.read(".realm/node.toml");
    let config = format!("{config}\n[guests]\ndirs = [\"{state}\"]\n");
    realm.write(".realm/node.toml", &config);
    realm
}

/// What the worker was called with, and is done with.
fn told(realm: &Realm) -> Vec<Value> {
    let files = std::fs::read_dir(realm.path("state")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| serde_json::from_str(&name).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_object_that_was_written_calls_a_worker_also_after_kill_9() {
    let realm = realm();
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let (status, said) = get(&agent.url("/write?c=album&o=a&n=70000")).await;
    assert_eq!((status, said.trim()), (200, "Ok(())"));
    let first = json!({"kind": "written", "container": "album", "object": "a", "size": 70_000});
    eventually("the worker is called", async || {
        told(&realm).contains(&first).then_some(())
    })
    .await;
    let mut answered = BTreeSet::new();
    for round in 0..2 {
        let url = agent.url("");
        let writing = tokio::spawn(async move {
            let mut answered = Vec::new();
            for number in 0..100_000 {
                let object = format!("o-{round}-{number}");
                let target = format!("{url}/write?c=album&o={object}&n=10");
                let Ok(answer) = reqwest::get(&target).await else {
                    break;
                };
                if answer
                    .text()
                    .await
                    .is_ok_and(|said| said.trim() == "Ok(())")
                {
                    answered.push(object);
                }
            }
            answered
        });
        let before = told(&realm).len();
        eventually("some are told", async || {
            (told(&realm).len() >= before + 20).then_some(())
        })
        .await;
        agent.kill_9();
        answered.extend(writing.await.unwrap());
        agent = realm.agent();
    }
    assert!(answered.len() >= 40, "{}", answered.len());
    eventually("every write that was answered is told", async || {
        let told = told(&realm);
        let told: BTreeSet<_> = told
            .iter()
            .filter_map(|one| one["object"].as_str())
            .collect();
        answered
            .iter()
            .all(|one| told.contains(one.as_str()))
            .then_some(())
    })
    .await;
    drop(agent);
}
