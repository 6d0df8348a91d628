//! Guests with databases: in the files of the agent, and in a real PostgreSQL, the same component in front
//! of both.

use std::path::Path;
use std::process::Command;

use realm_test_guests as guests;
use reqwest::Client;
use serde_json::{Value, json};

use crate::postgres::{Server, USER};
use crate::support::{Agent, Realm, eventually, get};

/// One component `app` at `/...` whose `default` is a database.
fn manifest(backend: &str) -> String {
    format!(
        "[bindings.data]\ninterface = \"wasi:sql\"\nbackend = \"{backend}\"\n\n\
         [components.app]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"data\" }}\n\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n"
    )
}

/// A realm whose component has a database of a server.
fn on(server: &Server, guest: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(guest, "app.wasm");
    realm.write("realm.toml", &manifest(&backend(server)));
    allow(&realm, server);
    realm
}

fn backend(server: &Server) -> String {
    let port = server.port;
    format!("postgres://{USER}@127.0.0.1:{port}/postgres?sslmode=disable")
}

fn allow(realm: &Realm, server: &Server) {
    let port = server.port;
    let allow = format!("[backends]\nallow = [\"postgres://127.0.0.1:{port}\"]\n");
    let before = realm.read(".realm/node.toml");
    realm.write(".realm/node.toml", &format!("{before}\n{allow}"));
}

fn passes(answer: &(u16, String)) {
    let (status, lines) = answer;
    let bad: Vec<_> = lines
        .lines()
        .filter(|line| !line.starts_with("ok "))
        .collect();
    assert!(
        *status == 200 && bad.is_empty() && lines.lines().count() >= 5,
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_pass_with_sqlite_pass_with_postgresql() {
    let server = Server::start(None, "trust");
    for guest in [
        guests::SQL,
        guests::SQL_DRAFT,
        guests::DOCUMENTS,
        guests::SEARCH,
    ] {
        let realm = on(&server, guest);
        let agent = realm.agent();
        realm.run(&["apply", "--yes"]).ok();
        passes(&get(&agent.url("/")).await);
        if guest == guests::SQL {
            let (_, found) = get(&agent.url("/words?spelling=tsvector")).await;
            let first = found.lines().next().unwrap_or_default();
            assert!(
                first.contains("A dog sleeps") && found.lines().count() == 2,
                "{found}"
            );
        }
        // The same component, and the operator has changed what is behind it.
        realm.write("realm.toml", &manifest("embedded"));
        realm.run(&["apply", "--yes"]).ok();
        passes(&get(&agent.url("/")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_that_are_found_with_sqlite_are_found_with_postgresql() {
    let server = Server::with_vectors();
    let realm = on(&server, guests::VECTORS);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    passes(&get(&agent.url("/")).await);
    realm.write("realm.toml", &manifest("embedded"));
    realm.run(&["apply", "--yes"]).ok();
    passes(&get(&agent.url("/")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator() {
    let mut server = Server::start(None, "trust");
    let realm = on(&server, guests::SQL);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let asked = agent.url("/run?sql=SELECT%201");
    assert_eq!(get(&asked).await, (200, "[Value::Integer(1)]\n".to_owned()));
    server.down();
    let (status, said) = get(&asked).await;
    assert_eq!((status, said.as_str()), (500, "unavailable"));
    let place = format!("127.0.0.1:{}", server.port);
    eventually("an alarm names the server", async || {
        let text = realm.run(&["status"]).ok().stdout;
        (text.contains("backend-down") && text.contains(&place)).then_some(())
    })
    .await;
    server.up();
    eventually("it answers again", async || {
        (get(&asked).await.0 == 200).then_some(())
    })
    .await;
    eventually("the alarm is over", async || {
        let text = realm.run(&["status"]).ok().stdout;
        (!text.contains("backend-down")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_node_toml_does_not_name_is_not_asked() {
    let server = Server::start(None, "trust");
    let realm = Realm::new();
    realm.guest(guests::SQL, "app.wasm");
    realm.write("realm.toml", &manifest(&backend(&server)));
    let _agent = realm.agent();
    let said = realm.run(&["apply", "--yes", "--timeout", "2s"]);
    said.fails(1, "not-running");
    eventually("the status says why", async || {
        let text = realm.run(&["status"]).ok().stdout;
        text.contains("backend-denied").then_some(())
    })
    .await;
}

/// Two components, `a` and `b`, each with a binding of its own.
fn two(first: &str, second: &str) -> String {
    let part = |name: &str, backend: &str| {
        format!(
            "[bindings.{name}]\ninterface = \"wasi:sql\"\nbackend = \"{backend}\"\n\n\
             [components.{name}]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"{name}\" }}\n\n"
        )
    };
    let routes = "[routing]\n\"*\" = [{ path = \"/a/...\", component = \"a\" }, { path = \"/b/...\", component = \"b\" }]\n";
    part("a", first) + &part("b", second) + routes
}

/// SQLite keeps bindings apart, and PostgreSQL its users: two bindings of one user are told to be one.
#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_one_postgresql_are_as_far_apart_as_its_users() {
    let server = Server::start(None, "trust");
    for user in ["ann", "bob"] {
        server.sql("postgres", &format!("CREATE ROLE {user} LOGIN"));
        server.sql("postgres", &format!("CREATE DATABASE {user} OWNER {user}"));
        let closed = format!("REVOKE CONNECT ON DATABASE {user} FROM PUBLIC");
        server.sql("postgres", &closed);
    }
    let realm = Realm::new();
    realm.guest(guests::SQL, "app.wasm");
    realm.write("realm.toml", &two("embedded", "embedded"));
    allow(&realm, &server);
    let agent = realm.agent();
    let by = |user: &str, database: &str| {
        let port = server.port;
        format!("postgres://{user}@127.0.0.1:{port}/{database}?sslmode=disable")
    };
    let run = async |component: &str, sql: &str| {
        let sql = sql.replace(' ', "%20");
        get(&agent.url(&format!("/{component}/run?sql={sql}"))).await
    };
    let is_apart = async |manifest: &str| {
        realm.write("realm.toml", manifest);
        let said = realm.run(&["apply", "--yes"]).ok().stderr;
        assert!(!said.contains("shared-database"), "{said}");
        assert_eq!(run("a", "CREATE TABLE kept (n INTEGER)").await.0, 200);
        assert_eq!(run("a", "INSERT INTO kept VALUES (7)").await.0, 200);
        let (status, said) = run("b", "SELECT n FROM kept").await;
        assert_ne!(status, 200, "{said}");
    };
    is_apart(&two("embedded", "embedded")).await;
    is_apart(&two(&by("ann", "ann"), &by("bob", "bob"))).await;

    // Nobody comes into another one's database, and one user has all of its own.
    realm.write("realm.toml", &two(&by("ann", "ann"), &by("bob", "ann")));
    realm.run(&["apply", "--yes"]).ok();
    let (status, said) = run("b", "SELECT 1").await;
    assert_eq!((status, said.as_str()), (500, "unavailable"));
    realm.write("realm.toml", &two(&by("ann", "ann"), &by("ann", "ann")));
    let said = realm.run(&["apply", "--yes"]).ok().stderr;
    assert!(said.contains("warning[shared-database]"), "{said}");
    eventually("the rows of the other one are there", async || {
        (run("b", "SELECT n FROM kept").await.1 == "[Value::Integer(7)]\n").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_outlives_a_kill_of_the_agent() {
    let realm = Realm::new();
    realm.guest(guests::DOCUMENTS, "app.wasm");
    realm.write("realm.toml", &manifest("embedded"));
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let put = agent.url("/put?id=a&body=%7B%22kept%22:true%7D");
    assert_eq!(get(&put).await, (200, "put".to_owned()));
    agent.kill_9();
    let agent = realm.agent();
    let kept = (200, "{\"kept\":true}".to_owned());
    eventually("it is still there", async || {
        (get(&agent.url("/get?id=a")).await == kept).then_some(())
    })
    .await;
}

/// The example in JavaScript, beside its manifest, and built first where it changed.
fn todo(realm: &Realm) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(root.join("scripts/languages.sh"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    std::fs::create_dir_all(realm.path("target/languages")).unwrap();
    let file = "target/languages/todo.wasm";
    std::fs::copy(root.join("examples").join(file), realm.path(file)).unwrap();
    let manifest = std::fs::read_to_string(root.join("examples/todo/realm.toml")).unwrap();
    manifest.replace("../target/", "./target/")
}

async fn add(agent: &Agent, what: &str) -> Value {
    let url = agent.url("/todo/");
    let answer = Client::new()
        .post(url)
        .body(what.to_owned())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn tasks(agent: &Agent) -> Value {
    serde_json::from_str(&get(&agent.url("/todo/")).await.1).unwrap()
}

async fn keeps_tasks(agent: &Agent) {
    assert_eq!(add(agent, "water the plants").await, json!({"id": 1}));
    assert_eq!(
        add(agent, "'; DROP TABLE tasks; --").await,
        json!({"id": 2})
    );
    let done = Client::new()
        .put(agent.url("/todo/1"))
        .send()
        .await
        .unwrap();
    assert_eq!(done.status(), 200);
    let missing = Client::new()
        .put(agent.url("/todo/9"))
        .send()
        .await
        .unwrap();
    assert_eq!(missing.status(), 404);
    let expected = json!([
        {"id": 1, "what": "water the plants", "done": true},
        {"id": 2, "what": "'; DROP TABLE tasks; --", "done": false},
    ]);
    assert_eq!(tasks(agent).await, expected);
    // Two at once never get one number.
    let several = (0..8).map(|_| add(agent, "<b>several</b>"));
    let ids = futures_util::future::join_all(several).await;
    let mut ids: Vec<_> = ids
        .iter()
        .map(|answer| answer["id"].as_u64().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (3..=10).collect::<Vec<_>>());
    let page = Client::new()
        .get(agent.url("/todo/"))
        .header("accept", "text/html");
    let page = page.send().await.unwrap().text().await.unwrap();
    assert!(page.contains("<s>water the plants</s>"), "{page}");
    assert!(
        page.contains("&#60;b&#62;several") && !page.contains("<b>several"),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_keeps_its_tasks_over_a_kill_and_in_either_database() {
    let realm = Realm::new();
    let manifest = todo(&realm);
    realm.write("realm.toml", &manifest);
    let agent = realm.agent();
    realm.run(&["apply", "--yes", "--timeout", "5m"]).ok();
    keeps_tasks(&agent).await;
    let before = tasks(&agent).await;
    agent.kill_9();
    let agent = realm.agent();
    let after = eventually("it serves again", async || {
        let (status, text) = get(&agent.url("/todo/")).await;
        (status == 200).then(|| serde_json::from_str::<Value>(&text).unwrap())
    })
    .await;
    assert_eq!(after, before);
    agent.terminate();

    let server = Server::start(None, "trust");
    allow(&realm, &server);
    let postgres = manifest.replace(
        "backend = \"embedded\"",
        &format!("backend = \"{}\"", backend(&server)),
    );
    assert_ne!(postgres, manifest);
    realm.write("realm.toml", &postgres);
    let agent = realm.agent();
    realm.run(&["apply", "--yes", "--timeout", "5m"]).ok();
    keeps_tasks(&agent).await;
    assert_eq!(server.sql("postgres", "SELECT COUNT(*) FROM tasks"), "10");
}
