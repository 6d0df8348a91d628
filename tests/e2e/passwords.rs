//! Passwords of the servers behind bindings: each real server lets in who has the sealed secret, and nobody
//! else.

use realm_test_guests as guests;

use crate::keyvalue::servers;
use crate::postgres;
use crate::secrets::with_input;
use crate::support::{Realm, eventually, get};
use crate::swift::Swift;

/// A server that wants a password, and a guest that needs it.
struct Case<'a> {
    interface: &'a str,
    guest: &'a str,
    /// As a binding names it.
    backend: String,
    /// What `[backends] allow` has to name.
    origin: String,
    right: String,
    wrong: String,
    /// A path of the guest, and what it answers when it got in.
    ask: &'a str,
    answer: (u16, &'a str),
}

async fn lets_in_who_has_the_secret(case: Case<'_>) {
    let realm = Realm::new();
    realm.guest(case.guest, "app.wasm");
    let manifest = format!(
        "[bindings.data]\ninterface = \"{}\"\nbackend = \"{}\"\nsecret = \"door\"\n\n\
         [components.app]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"data\" }}\n\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n",
        case.interface, case.backend
    );
    realm.write("realm.toml", &manifest);
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = [\"{}\"]\n", case.origin);
    realm.write(".realm/node.toml", &allow);
    let agent = realm.agent();
    let url = agent.url(case.ask);
    let set = |verb: &str, password: &str| {
        let command = realm.command(&["secret", verb, "door"]);
        with_input(command, password.as_bytes()).ok();
        realm.run(&["apply", "--yes"]).ok();
    };
    set("set", &case.wrong);
    let (status, refused) = get(&url).await;
    assert_ne!((status, refused.as_str()), case.answer);
    eventually("the operator is told", async || {
        let text = realm.run(&["status"]).ok().stdout;
        text.contains("backend-down").then_some(())
    })
    .await;
    set("rotate", &case.right);
    eventually("the new password opens it", async || {
        let (status, text) = get(&url).await;
        ((status, text.as_str()) == case.answer).then_some(())
    })
    .await;
    // It stands nowhere in the clear: not in the manifest, not in what the agent said.
    agent.signal("TERM");
    let said = std::iter::from_fn(|| agent.lines().next());
    let lines = said.collect::<Vec<_>>().join("\n") + &realm.read("realm.toml");
    assert!(lines.contains("a backend does not answer"), "{lines}");
    for password in [&case.wrong, &case.right] {
        assert!(!lines.contains(password.as_str()), "{lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_lets_in_who_has_the_secret() {
    let server = servers::redis(&servers::words("--requirepass hunter2"));
    let origin = format!("redis://127.0.0.1:{}", server.port);
    lets_in_who_has_the_secret(Case {
        interface: "wasi:keyvalue",
        guest: guests::KEYVALUE_CALL,
        backend: origin.clone(),
        origin,
        right: "hunter2".to_owned(),
        wrong: "hunter1".to_owned(),
        ask: "/?open=default&op=set&key=k&value=v",
        answer: (200, "()"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_lets_in_who_has_the_secret() {
    let server = servers::nats("--user shop --pass hunter2", None);
    let origin = format!("nats://127.0.0.1:{}", server.port);
    lets_in_who_has_the_secret(Case {
        interface: "wasi:keyvalue",
        guest: guests::KEYVALUE_CALL,
        backend: origin.clone(),
        origin,
        right: "shop:hunter2".to_owned(),
        wrong: "shop:hunter1".to_owned(),
        ask: "/?open=default&op=set&key=k&value=v",
        answer: (200, "()"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_lets_in_who_has_the_secret() {
    let server = postgres::Server::start(None, "scram-sha-256");
    let origin = format!("postgres://127.0.0.1:{}", server.port);
    lets_in_who_has_the_secret(Case {
        interface: "wasi:sql",
        guest: guests::SQL,
        backend: format!("{origin}/postgres?sslmode=disable"),
        origin,
        // The user as well.
        right: format!("{}:{}", postgres::USER, postgres::PASSWORD),
        wrong: format!("{}:hunter1", postgres::USER),
        ask: "/run?sql=SELECT%201",
        answer: (200, "[Value::Integer(1)]\n"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_lets_in_who_has_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let server = Swift::start(folder.path(), None);
    let origin = server.endpoint();
    let (bucket, region) = (crate::swift::BUCKET, crate::swift::REGION);
    let right = Swift::credentials();
    lets_in_who_has_the_secret(Case {
        interface: "wasi:blobstore",
        guest: guests::BLOBSTORE,
        backend: format!("s3://{bucket}?region={region}&endpoint={origin}"),
        origin,
        wrong: right.replace("hush", "rush"),
        right,
        ask: "/write?c=default&o=o&n=10",
        answer: (200, "Ok(())\n"),
    })
    .await;
}
