//! Two components and their stores, in the files of the agent and on one server: what both bind they share,
//! and everything else of the other is not there, be it of one manifest or of a delegate's.

use futures_util::future::join_all;
use realm_test_guests as guests;

use crate::keyvalue::servers::{self, Server};
use crate::secrets;
use crate::support::{Agent, Realm, eventually, get};

/// Each has a store of its own and one in common; `few` may do little, and `reader` has a secret of its own.
const MANIFEST: &str = r#"
[bindings.one]
interface = "wasi:keyvalue"
backend = "embedded"

[bindings.two]
interface = "wasi:keyvalue"
backend = "embedded"

[bindings.common]
interface = "wasi:keyvalue"
backend = "embedded"

[components.left]
source = "file:./app.wasm"
bind = { default = "one", shared = "common" }
secrets = ["key"]

[components.right]
source = "file:./app.wasm"
bind = { default = "two", shared = "common", "*" = "two" }
storage_max_mb = 1

[components.few]
source = "file:./app.wasm"
bind = { shared = "common" }
operations_per_sec = 1

[components.reader]
source = "file:./reader.wasm"
secrets = ["other"]

[routing]
"*" = [
    { path = "/left", component = "left" },
    { path = "/right", component = "right" },
    { path = "/few", component = "few" },
    { path = "/reader", component = "reader" },
]
"#;

/// What a component answers.
async fn ask(agent: &Agent, who: &str, query: &str) -> String {
    get(&agent.url(&format!("/{who}?{query}"))).await.1
}

fn origins(redis: &Server, nats: &Server) -> [String; 2] {
    [
        format!("redis://127.0.0.1:{}", redis.port),
        format!("nats://127.0.0.1:{}", nats.port),
    ]
}

fn allow(realm: &Realm, origins: &[String]) {
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = {origins:?}\n");
    realm.write(".realm/node.toml", &allow);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_components_share_what_both_bind_and_nothing_else() {
    let (redis, nats) = (servers::redis(&[]), servers::nats("", None));
    let origins = origins(&redis, &nats);
    let realm = Realm::new();
    realm.guest(guests::KEYVALUE_CALL, "app.wasm");
    realm.guest(guests::SECRETS, "reader.wasm");
    let values = [("key", "of the left"), ("other", "of the reader")];
    secrets::write_with(&realm, MANIFEST, &values);
    allow(&realm, &origins);
    let agent = realm.agent();
    let sealed = realm.read("realm.toml");
    for backend in ["embedded", &origins[0], &origins[1]] {
        let manifest = sealed.replace("\"embedded\"", &format!("\"{backend}\""));
        realm.write("realm.toml", &manifest);
        realm.run(&["apply", "--yes"]).ok();
        values_of_the_other_are_not_there(&agent).await;
        what_is_not_bound_is_not_opened(&agent).await;
        operations_are_counted(&agent).await;
        bytes_are_counted(&agent, backend == "embedded").await;
    }
    secrets_of_the_other_are_not_there(&agent).await;
}

async fn values_of_the_other_are_not_there(agent: &Agent) {
    let set = |value: &str| format!("open=default&op=set&key=k&value={value}");
    assert_eq!(ask(agent, "left", &set("lefts")).await, "()");
    assert_eq!(ask(agent, "right", "open=default&key=k").await, "none");
    assert_eq!(ask(agent, "right", "open=default&op=keys").await, "");
    assert_eq!(ask(agent, "right", &set("rights")).await, "()");
    assert_eq!(ask(agent, "left", "open=default&key=k").await, "lefts");
    assert_eq!(ask(agent, "right", "open=default&key=k").await, "rights");
    let delete = "open=default&op=delete&key=k";
    assert_eq!(ask(agent, "right", delete).await, "()");
    assert_eq!(ask(agent, "left", "open=default&op=keys").await, "k");

    // Whatever a name says, it is one of its own binding.
    for (bucket, key) in [("one", "k"), ("..%2Fone", "k"), ("default", "%3Aone%3Ak")] {
        let seen = ask(agent, "right", &format!("open={bucket}&key={key}")).await;
        assert_eq!(seen, "none", "{bucket} {key}");
    }

    let both = "open=shared&op=set&key=k&value=both";
    assert_eq!(ask(agent, "left", both).await, "()");
    for who in ["left", "right", "few"] {
        assert_eq!(ask(agent, who, "open=shared&key=k").await, "both", "{who}");
    }
    let nth = "open=shared&op=increment&key=nth";
    assert_eq!(ask(agent, "right", nth).await, "1");
    assert_eq!(ask(agent, "left", nth).await, "2");
    assert_eq!(ask(agent, "left", "open=default&key=nth").await, "none");
}

/// Neither the names of bindings nor those of other components are names that lead somewhere.
async fn what_is_not_bound_is_not_opened(agent: &Agent) {
    for name in ["one", "two", "common", "", "*", "Shared", "shared%2F.."] {
        for op in ["get", "set", "keys"] {
            let query = format!("open={name}&op={op}&key=k&value=v");
            let seen = ask(agent, "left", &query).await;
            assert_eq!(seen, "Error::NoSuchStore", "{query}");
        }
    }
    let default = ask(agent, "few", "open=default&key=k").await;
    assert_eq!(default, "Error::NoSuchStore");
}

/// Of one component: the others go on.
async fn operations_are_counted(agent: &Agent) {
    let add = "open=shared&op=increment&key=counted";
    let answers = join_all((0..12).map(|_| ask(agent, "few", add))).await;
    let refused = |answer: &&String| answer.contains("operations_per_sec");
    let n_done = answers.len() - answers.iter().filter(refused).count();
    assert!(n_done < answers.len(), "{answers:?}");
    // What was refused was not done.
    let counted = ask(agent, "left", "open=shared&key=counted").await;
    let counted = counted.parse().unwrap_or(0);
    assert_eq!(n_done, counted, "{answers:?}");
    for answer in join_all((0..12).map(|_| ask(agent, "right", add))).await {
        assert!(answer.parse::<u64>().is_ok(), "{answer}");
    }
}

/// In embedded stores: a server has quotas of its own.
async fn bytes_are_counted(agent: &Agent, is_embedded: bool) {
    let set = |key: &str| format!("open=default&op=set&key={key}&bytes=600000");
    assert_eq!(ask(agent, "right", &set("a")).await, "()");
    let second = ask(agent, "right", &set("b")).await;
    assert_eq!(second.contains("storage_max_mb"), is_embedded, "{second}");
    let keys = ask(agent, "right", "open=default&op=keys").await;
    assert_eq!(keys.contains('b'), !is_embedded, "{keys}");
    for key in ["a", "b"] {
        assert_eq!(ask(agent, "left", &set(key)).await, "()");
    }
}

/// By either interface a component reads what it lists, and of what another one lists not even that it is there.
async fn secrets_of_the_other_are_not_there(agent: &Agent) {
    let keys = "open=secrets&op=keys";
    assert_eq!(
        ask(agent, "left", "open=secrets&key=key").await,
        "of the left"
    );
    assert_eq!(ask(agent, "left", keys).await, "key");
    assert_eq!(ask(agent, "left", "open=secrets&key=other").await, "none");
    assert_eq!(ask(agent, "right", "open=secrets&key=key").await, "none");
    assert_eq!(ask(agent, "right", keys).await, "");
    assert_eq!(
        ask(agent, "reader", "key=other").await,
        "text of the reader"
    );
    assert_eq!(ask(agent, "reader", "key=key").await, "not found");
    for op in ["set", "delete", "increment"] {
        let query = format!("open=secrets&op={op}&key=key&value=x");
        let seen = ask(agent, "left", &query).await;
        assert_eq!(seen, "Error::AccessDenied", "{op}");
    }
    assert_eq!(
        ask(agent, "left", "open=secrets&key=key").await,
        "of the left"
    );
}

/// A component with the store `cache` of its namespace.
fn with_cache(name: &str, backend: &str, prefix: &str) -> String {
    format!(
        "[bindings.cache]\ninterface = \"wasi:keyvalue\"\nbackend = \"{backend}\"\n{prefix}\n\
         [components.{name}]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"cache\" }}\n\n\
         [routing]\n\"*\" = [{{ path = \"/{name}\", component = \"{name}\" }}]\n"
    )
}

/// Their binding has the same name, and at last also says what the owners' values begin with.
#[tokio::test(flavor = "multi_thread")]
async fn a_delegate_reaches_no_value_of_the_owners_on_the_same_server() {
    let (redis, nats) = (servers::redis(&[]), servers::nats("", None));
    let origins = origins(&redis, &nats);
    let realm = Realm::new();
    realm.guest(guests::KEYVALUE_CALL, "app.wasm");
    allow(&realm, &origins);
    let agent = realm.agent();
    let key = realm.run(&["delegate", "key", "team.key"]).ok().stdout;
    let key = key.lines().next().unwrap();
    let scope = ["--apps", "shop-*", "--capabilities", "stores", "--yes"];
    realm
        .run(&[&["delegate", "add", "shop", key][..], &scope].concat())
        .ok();
    let by_team = ["--key", "team.key", "apply", "shop.toml"];
    let cases = [
        (&origins[0], ["", "prefix = \"cache:\"\n"]),
        (&origins[1], ["", "prefix = \"cache\"\n"]),
    ];
    for (backend, prefixes) in cases {
        realm.write("realm.toml", &with_cache("app", backend, ""));
        realm.run(&["apply", "--yes"]).ok();
        let set = |value: &str| format!("open=default&op=set&key=k&value={value}");
        assert_eq!(ask(&agent, "app", &set("owners")).await, "()");
        for prefix in prefixes {
            realm.write("shop.toml", &with_cache("shop-app", backend, prefix));
            realm
                .run(&[&by_team[..], &["--namespace", "shop", "--yes"]].concat())
                .ok();
            let theirs = eventually("the delegate's serves", async || {
                let url = agent.url("/shop-app?open=default&key=k");
                let (status, value) = get(&url).await;
                (status == 200).then_some(value)
            })
            .await;
            assert_eq!(theirs, "none", "{backend} {prefix}");
            assert_eq!(ask(&agent, "shop-app", "open=default&op=keys").await, "");
            assert_eq!(ask(&agent, "shop-app", &set("theirs")).await, "()");
            let delete = "open=default&op=delete&key=k";
            for (query, said) in [("open=default&key=k", "theirs"), (delete, "()")] {
                assert_eq!(ask(&agent, "shop-app", query).await, said);
                let ours = ask(&agent, "app", "open=default&key=k").await;
                assert_eq!(ours, "owners", "{backend} {prefix}");
            }
        }
    }
}

/// Two queues, each with who sends, asks and answers, and a worker; `also` has that of the left.
const QUEUES: &str = r#"
[bindings.left]
interface = "wasi:messaging"
backend = "BACKEND"

[bindings.right]
interface = "wasi:messaging"
backend = "BACKEND"

[components.left]
source = "file:./web.wasm"
bind = { default = "left" }
subscribe = { echo = {}, twice = {}, silent = {} }

[components.right]
source = "file:./web.wasm"
bind = { default = "right" }
subscribe = { echo = {}, twice = {}, silent = {} }

[components.of-left]
source = "file:./worker.wasm"
bind = { default = "left" }

[components.of-left.subscribe.work]
attempts = 1

[components.also]
source = "file:./worker.wasm"
bind = { default = "left" }

[components.also.subscribe.work]
attempts = 1
dead_letter = "dead"

[components.of-right]
source = "file:./worker.wasm"
bind = { default = "right" }

[components.of-right.subscribe.work]
attempts = 1

[routing]
"*" = [
    { path = "/left", component = "left" },
    { path = "/right", component = "right" },
]
"#;

/// What a worker took, in order.
fn took(realm: &Realm, worker: &str) -> Vec<String> {
    let logs = tokio::task::block_in_place(|| realm.run(&["logs", worker]).ok().stdout);
    let took = logs.lines().filter_map(|line| line.split_once("took "));
    took.map(|(_, words)| words.to_owned()).collect()
}

fn dead(realm: &Realm, binding: &str) -> usize {
    let verb = ["messages", "dead", binding, "--json"];
    let said = tokio::task::block_in_place(|| realm.run(&verb).ok().stdout);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    said["letters"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_queues_on_one_server_have_no_message_no_answer_and_no_death_in_common() {
    let nats = servers::nats("", None);
    let origin = format!("nats://127.0.0.1:{}", nats.port);
    for backend in ["embedded", &origin] {
        let realm = Realm::new();
        realm.guest(guests::MESSAGES, "web.wasm");
        realm.guest(guests::WORKER, "worker.wasm");
        realm.write("realm.toml", &QUEUES.replace("BACKEND", backend));
        allow(&realm, std::slice::from_ref(&origin));
        let agent = realm.agent();
        realm.run(&["apply", "--yes"]).ok();
        // The guest counts who answers it: as many as there are in its own queue.
        for who in ["left", "right"] {
            eventually("it is answered, by none but its own", async || {
                let lines = ask(&agent, who, "").await;
                let is_ok = |line: &str| line.starts_with("ok ");
                (lines.lines().count() >= 13 && lines.lines().all(is_ok)).then_some(())
            })
            .await;
        }
        for words in ["ok 1", "trap", "ok 2"] {
            let sent = ask(&agent, "left", &format!("send={words}")).await;
            assert_eq!(sent, "sent\n");
        }
        // What came from the left would have come before this.
        assert_eq!(ask(&agent, "right", "send=ok 3").await, "sent\n");
        for (worker, last) in [("of-left", "ok 2"), ("also", "ok 2"), ("of-right", "ok 3")] {
            eventually("each has its last", async || {
                let took = took(&realm, worker);
                took.iter().any(|words| words == last).then_some(())
            })
            .await;
        }
        assert_eq!(took(&realm, "of-right"), ["ok 3"], "{backend}");
        for worker in ["of-left", "also"] {
            let mut took = took(&realm, worker);
            took.sort();
            assert_eq!(took, ["ok 1", "ok 2", "trap"], "{backend}");
        }
        eventually("two have died on the left", async || {
            (dead(&realm, "left") == 2).then_some(())
        })
        .await;
        assert_eq!(dead(&realm, "right"), 0, "{backend}");
        agent.terminate();
    }
}
