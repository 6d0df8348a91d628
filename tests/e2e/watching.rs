//! Components that a change of a key calls, by the words of a manifest: in the files of the agent, on a real
//! Redis, and on a real NATS.

use realm_test_guests as guests;

use crate::keyvalue::servers;
use crate::support::{Agent, Realm, eventually, get};

fn manifest(backend: &str) -> String {
    format!(
        r#"
[bindings.data]
interface = "wasi:keyvalue"
backend = "{backend}"

[components.app]
source = "file:./app.wasm"
bind = {{ default = "data", "*" = "data" }}

[components.watcher]
source = "file:./watcher.wasm"
bind = {{ default = "data" }}
watch = ["default"]

[routing]
"*" = [{{ path = "/...", component = "app" }}]
"#
    )
}

async fn call(agent: &Agent, query: &str) {
    let (status, said) = get(&agent.url(&format!("/?{query}"))).await;
    assert_eq!((status, said.as_str()), (200, "()"), "{query}");
}

async fn set(agent: &Agent, key: &str, value: &str) {
    call(
        agent,
        &format!("open=default&op=set&key={key}&value={value}"),
    )
    .await;
}

/// What the watcher was called with: `set KEY VALUE` and `delete KEY`.
fn heard(realm: &Realm) -> Vec<String> {
    let logs = tokio::task::block_in_place(|| realm.run(&["logs", "watcher"]).ok().stdout);
    let change = |line: &str| {
        let at = ["set ", "delete "]
            .iter()
            .find_map(|word| line.find(word))?;
        Some(line[at..].to_owned())
    };
    logs.lines().filter_map(change).collect()
}

async fn hears(realm: &Realm, change: &str) {
    eventually(&format!("the watcher hears `{change}`"), async || {
        heard(realm).iter().any(|one| one == change).then_some(())
    })
    .await;
}

/// Nothing is heard until watching has begun, and that is after the component runs.
async fn until_it_watches(realm: &Realm, agent: &Agent, key: &str) {
    let mut nth = 0;
    eventually("it watches", async || {
        nth += 1;
        // A server that was away a moment ago may be so for the store as well.
        let set = format!("/?open=default&op=set&key={key}&value={nth}");
        get(&agent.url(&set)).await;
        let begun = format!("set {key} ");
        heard(realm)
            .iter()
            .any(|one| one.starts_with(&begun))
            .then_some(())
    })
    .await;
}

async fn changes_call_it(realm: &Realm, agent: &Agent, name: &str) {
    until_it_watches(realm, agent, &format!("first-{name}")).await;
    let of = |key: &str| format!("{key}-{name}");
    // Another bucket of the same store.
    call(agent, "open=elsewhere&op=set&key=far&value=x").await;
    for (key, value) in [("c", "1"), ("a", "2"), ("b", "3")] {
        set(agent, &of(key), value).await;
    }
    hears(realm, &format!("set {} 3", of("b"))).await;
    call(agent, &format!("open=default&op=delete&key={}", of("a"))).await;
    hears(realm, &format!("delete {}", of("a"))).await;
    set(agent, &of("a"), "4").await;
    hears(realm, &format!("set {} 4", of("a"))).await;
    // It traps over this one, and hears the next; it writes itself, and hears that.
    set(agent, "trap", name).await;
    set(agent, "ask", name).await;
    let answer = format!("set answer {}", name.to_uppercase());
    hears(realm, &answer).await;
    let (_, answered) = get(&agent.url("/?open=default&key=answer")).await;
    assert_eq!(answered, name.to_uppercase());
    let seen = heard(realm);
    let first = format!("set first-{name} ");
    let seen = seen.iter().skip_while(|one| !one.starts_with(&first));
    let seen: Vec<_> = seen.filter(|one| !one.starts_with(&first)).collect();
    let expected = [
        format!("set {} 1", of("c")),
        format!("set {} 2", of("a")),
        format!("set {} 3", of("b")),
        format!("delete {}", of("a")),
        format!("set {} 4", of("a")),
        format!("set ask {name}"),
        answer,
    ];
    assert_eq!(seen, expected.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_key_calls_the_component_that_watches_it_whatever_stands_behind() {
    changes_call(guests::WATCHER_DRAFT2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_key_calls_one_of_the_older_draft_whatever_stands_behind() {
    changes_call(guests::WATCHER_DRAFT).await;
}

async fn changes_call(watcher: &str) {
    let mut redis = servers::redis(&[]);
    let mut nats = servers::nats("", None);
    let origins = [
        format!("redis://127.0.0.1:{}", redis.port),
        format!("nats://127.0.0.1:{}", nats.port),
    ];
    let realm = Realm::new();
    realm.guest(guests::KEYVALUE_CALL, "app.wasm");
    realm.guest(watcher, "watcher.wasm");
    let before = realm.read(".realm/node.toml");
    let config = format!("{before}\n[backends]\nallow = {origins:?}\n");
    realm.write(".realm/node.toml", &config);
    let agent = realm.agent();
    let mut backends = [
        ("embedded", "embedded", None),
        ("redis", &origins[0], Some(&mut redis)),
        ("nats", &origins[1], Some(&mut nats)),
    ];
    for (name, backend, server) in &mut backends {
        realm.write("realm.toml", &manifest(backend));
        realm.run(&["apply", "--yes"]).ok();
        changes_call_it(&realm, &agent, name).await;
        let Some(server) = server else {
            continue;
        };
        // A server that goes and comes back is watched again.
        server.kill();
        server.run();
        until_it_watches(&realm, &agent, &format!("again-{name}")).await;
    }
    let logs = realm.run(&["logs", "watcher"]).ok().stdout;
    let lost = logs.matches("change-lost: a change of `trap` in `default`");
    assert_eq!(lost.count(), backends.len(), "{logs}");
}
