//! Two components of one manifest and their stores, in the files of the agent and on one server: what both
//! bind they share, and everything else of the other is not there.

use futures_util::future::join_all;
use realm_test_guests as guests;

use crate::keyvalue::servers;
use crate::secrets;
use crate::support::{Agent, Realm, get};

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

#[tokio::test(flavor = "multi_thread")]
async fn two_components_share_what_both_bind_and_nothing_else() {
    let server = servers::redis(&[]);
    let origin = format!("redis://127.0.0.1:{}", server.port);
    let realm = Realm::new();
    realm.guest(guests::KEYVALUE_CALL, "app.wasm");
    realm.guest(guests::SECRETS, "reader.wasm");
    let values = [("key", "of the left"), ("other", "of the reader")];
    secrets::write_with(&realm, MANIFEST, &values);
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = [\"{origin}\"]\n");
    realm.write(".realm/node.toml", &allow);
    let agent = realm.agent();
    let sealed = realm.read("realm.toml");
    for backend in ["embedded", &origin] {
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
