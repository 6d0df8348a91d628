//! Servers behind bindings over TLS: each real one is asked where an authority of the operator's file vouches
//! for its name, and else not.

use realm_test_guests as guests;

use crate::keyvalue::servers::{self, Tls};
use crate::postgres;
use crate::secrets;
use crate::support::{Agent, Realm, eventually, get};
use crate::swift::{self, Swift};

/// A server, and a component that needs it.
struct Case {
    /// Of the component, and of its binding.
    name: &'static str,
    interface: &'static str,
    guest: &'static str,
    /// As a binding names it, with `HOST` for where.
    backend: String,
    /// What `[backends] allow` has to name, the same way.
    origin: String,
    /// Paths of the guest, with `STORE` for what it opens, and what it answers when it got there.
    ask: &'static [(&'static str, &'static str)],
}

/// The name that the certificates have, and another one of the same machine.
const NAME: &str = "localhost";
const OTHER_NAME: &str = "127.0.0.1";

fn cases(redis: u16, nats: u16, postgres: u16, s3: u16) -> Vec<Case> {
    let keyvalue: &[_] = &[
        ("?open=STORE&op=set&key=k&bytes=100000", "()"),
        ("?open=STORE&key=k", "100000 bytes"),
    ];
    let case = |name, interface, guest, scheme: &str, port: u16, rest: &str, ask| {
        let origin = format!("{scheme}://HOST:{port}");
        Case {
            name,
            interface,
            guest,
            backend: format!("{origin}{rest}"),
            origin,
            ask,
        }
    };
    let objects = case(
        "objects",
        "wasi:blobstore",
        guests::BLOBSTORE,
        "https",
        s3,
        "",
        &[("write?c=STORE&o=o&n=100000", "Ok(())\n")],
    );
    vec![
        case(
            "redis",
            "wasi:keyvalue",
            guests::KEYVALUE_CALL,
            "rediss",
            redis,
            "",
            keyvalue,
        ),
        case(
            "nats",
            "wasi:keyvalue",
            guests::KEYVALUE_CALL,
            "tls",
            nats,
            "",
            keyvalue,
        ),
        case(
            "queue",
            "wasi:messaging",
            guests::MESSAGES,
            "tls",
            nats,
            "",
            &[("queue?client=STORE&send=x", "sent\n")],
        ),
        case(
            "sql",
            "wasi:sql",
            guests::SQL,
            "postgres",
            postgres,
            "/postgres",
            &[("run?db=STORE&sql=SELECT%201", "[Value::Integer(1)]\n")],
        ),
        Case {
            backend: format!(
                "s3://{}?region={}&endpoint={}",
                swift::BUCKET,
                swift::REGION,
                objects.origin
            ),
            ..objects
        },
    ]
}

/// Each opens `default` by the name that the server has, and `other` by another one.
fn manifest(cases: &[Case]) -> String {
    let mut text = String::new();
    for case in cases {
        let Case {
            name, interface, ..
        } = case;
        for (mark, host) in [("", NAME), ("-other", OTHER_NAME)] {
            let backend = case.backend.replace("HOST", host);
            let secret = match *name {
                "objects" | "sql" => format!("secret = \"{name}\"\n"),
                _ => String::new(),
            };
            text += &format!(
                "[bindings.{name}{mark}]\ninterface = \"{interface}\"\nbackend = \"{backend}\"\n{secret}\n"
            );
        }
        text += &format!(
            "[components.{name}]\nsource = \"file:./{name}.wasm\"\n\
             bind = {{ default = \"{name}\", other = \"{name}-other\" }}\n\n"
        );
    }
    text + "[routing]\n\"*\" = [\n\
            { path = \"/redis\", component = \"redis\" },\n\
            { path = \"/nats\", component = \"nats\" },\n\
            { path = \"/queue\", component = \"queue\" },\n\
            { path = \"/run\", component = \"sql\" },\n\
            { path = \"/write\", component = \"objects\" },\n\
            { path = \"/read\", component = \"objects\" },\n]\n"
}

async fn ask(agent: &Agent, case: &Case, path: &str, store: &str) -> (u16, String) {
    let path = path.replace("STORE", store);
    let component = if path.starts_with('?') { case.name } else { "" };
    get(&agent.url(&format!("/{component}{path}"))).await
}

/// Nobody is there for a component, and the operator reads why.
async fn is_refused(realm: &Realm, agent: &Agent, case: &Case, store: &str, why: &str) {
    let (path, answer) = case.ask[0];
    let (_, said) = ask(agent, case, path, store).await;
    assert_ne!(said, answer, "{} {store}", case.name);
    let mark = if store == "default" { "" } else { "-other" };
    let about = format!("binding `{}{mark}`", case.name);
    let told = eventually(&format!("an alarm for {about}"), async || {
        let alarms = realm.status().await.alarms;
        let mut down = alarms.into_iter().filter(|one| one.code == "backend-down");
        down.find_map(|one| one.message.contains(&about).then_some(one.message))
    })
    .await;
    assert!(told.contains(why), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_asked_over_tls_where_the_operators_authority_vouches_for_their_names() {
    let tls = Tls::new();
    let pem = |path: &str| std::fs::read_to_string(path).unwrap();
    let (certificate, key) = (pem(&tls.certificate), pem(&tls.key));
    let folder = tempfile::tempdir().unwrap();
    let redis = servers::redis_tls(&tls);
    let nats = servers::nats("", Some(&tls));
    let postgres = postgres::Server::start(Some((&certificate, &key)), "scram-sha-256");
    let swift = Swift::start(folder.path(), Some((&certificate, &key)));
    let cases = cases(redis.port, nats.port, postgres.port, swift.port);

    let realm = Realm::new();
    for case in &cases {
        realm.guest(case.guest, &format!("{}.wasm", case.name));
    }
    let user = format!("{}:{}", postgres::USER, postgres::PASSWORD);
    let values = [("sql", &*user), ("objects", &Swift::credentials())];
    secrets::write_with(&realm, &manifest(&cases), &values);
    let origins = cases
        .iter()
        .flat_map(|case| [NAME, OTHER_NAME].map(|host| case.origin.replace("HOST", host)));
    let origins: std::collections::BTreeSet<_> = origins.collect();
    let origins: Vec<_> = origins.into_iter().collect();
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = {origins:?}\n");
    let with_file = format!("{allow}ca_file = {:?}\n", tls.authority);

    realm.write(".realm/node.toml", &with_file);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    for case in &cases {
        for (path, answer) in case.ask {
            let seen = ask(&agent, case, path, "default").await;
            assert_eq!(seen, (200, (*answer).to_owned()), "{} {path}", case.name);
        }
        is_refused(&realm, &agent, case, "other", "not valid for name").await;
    }
    let (status, object) = get(&agent.url("/read?c=default&o=o")).await;
    assert_eq!((status, object.len() > 50_000), (200, true));
    agent.terminate();

    realm.write(".realm/node.toml", &allow);
    let agent = realm.agent();
    for case in &cases {
        eventually("it runs", async || {
            (realm.component(case.name).await.healthy == 1).then_some(())
        })
        .await;
        is_refused(&realm, &agent, case, "default", "UnknownIssuer").await;
    }
}
