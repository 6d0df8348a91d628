//! `wasi:config` over stores: one component writes, another reads it as configuration, and the server is
//! taken away.

use std::process::Command;

use realm_test_guests as guests;

use crate::keyvalue::servers;
use crate::support::{Realm, eventually, get};

/// `reader` at `/config`, with `color` signed, `writer` at `/...`, over one binding.
fn manifest(backend: &str) -> String {
    format!(
        "[bindings.settings]\ninterface = \"wasi:config\"\nbackend = \"{backend}\"\n\n\
         [components.reader]\nsource = \"file:./reader.wasm\"\nbind = {{ config = \"settings\" }}\n\
         vars = {{ color = \"red\" }}\n\n\
         [components.writer]\nsource = \"file:./writer.wasm\"\n\
         bind = {{ \"keyvalue:default\" = \"settings\" }}\n\n\
         [routing]\n\"*\" = [{{ path = \"/config\", component = \"reader\" }}, \
         {{ path = \"/...\", component = \"writer\" }}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_read_from_whatever_the_manifest_binds_and_what_is_signed_wins() {
    let redis = servers::redis(&[]);
    let nats = servers::nats("", None);
    let backends = [
        "embedded".to_owned(),
        format!("redis://127.0.0.1:{}", redis.port),
        format!("nats://127.0.0.1:{}", nats.port),
    ];
    let realm = Realm::new();
    realm.guest(guests::CONFIG, "reader.wasm");
    realm.guest(guests::KEYVALUE_CALL, "writer.wasm");
    realm.write("realm.toml", &manifest(&backends[0]));
    let before = realm.read(".realm/node.toml");
    let allow = format!(
        "{before}\n[backends]\nallow = [\"{}\", \"{}\"]\n",
        backends[1], backends[2]
    );
    realm.write(".realm/node.toml", &allow);
    let agent = realm.agent();
    for backend in &backends {
        realm.write("realm.toml", &manifest(backend));
        realm.run(&["apply", "--yes"]).ok();
        let read = async |key: &str| get(&agent.url(&format!("/config?key={key}"))).await;
        let write = async |key: &str, value: &str| {
            let url = agent.url(&format!("/?open=default&op=set&key={key}&value={value}"));
            assert_eq!(get(&url).await, (200, "()".to_owned()), "{backend}");
        };
        assert_eq!(read("size").await.0, 404, "{backend}");
        write("size", "large").await;
        write("color", "blue").await;
        assert_eq!(read("size").await, (200, "large".to_owned()), "{backend}");
        assert_eq!(read("color").await, (200, "red".to_owned()), "{backend}");
        assert_eq!(
            get(&agent.url("/config")).await,
            (200, "{\"color\":\"red\",\"size\":\"large\"}\n".to_owned()),
            "{backend}"
        );
    }
    // What one of them has, the others never had.
    realm.write("realm.toml", &manifest(&backends[0]));
    realm.run(&["apply", "--yes"]).ok();
    let set = agent.url("/?open=default&op=set&key=size&value=small");
    assert_eq!(get(&set).await.0, 200);
    let said = get(&agent.url("/config?key=size")).await;
    assert_eq!(said, (200, "small".to_owned()));
    realm.write("realm.toml", &manifest(&backends[1]));
    realm.run(&["apply", "--yes"]).ok();
    let said = get(&agent.url("/config?key=size")).await;
    assert_eq!(said, (200, "large".to_owned()));
    // An operator with a client of the server, under the name that docs/wasi-cloud.md says.
    let port = redis.port.to_string();
    let written = Command::new("redis-cli")
        .args(["-p", &port, "set", "settings:weight", "3"])
        .status();
    assert!(written.unwrap().success());
    let said = get(&agent.url("/config?key=weight")).await;
    assert_eq!(said, (200, "3".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_store_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator() {
    let mut server = servers::redis(&[]);
    let backend = format!("redis://127.0.0.1:{}", server.port);
    let realm = Realm::new();
    realm.guest(guests::CONFIG, "reader.wasm");
    realm.guest(guests::KEYVALUE_CALL, "writer.wasm");
    realm.write("realm.toml", &manifest(&backend));
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = [\"{backend}\"]\n");
    realm.write(".realm/node.toml", &allow);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let set = agent.url("/?open=default&op=set&key=size&value=large");
    assert_eq!(get(&set).await.0, 200);
    server.kill();
    let asked = agent.url("/config?key=size");
    let (status, said) = get(&asked).await;
    assert_eq!(status, 500);
    assert!(said.starts_with("Error::Io("), "{said}");
    let signed = get(&agent.url("/config?key=color")).await;
    assert_eq!(signed, (200, "red".to_owned()));
    let place = format!("127.0.0.1:{}", server.port);
    eventually("an alarm names the server", async || {
        let text = realm.run(&["status"]).ok().stdout;
        (text.contains("backend-down") && text.contains(&place)).then_some(())
    })
    .await;
    server.run();
    eventually("it answers again", async || {
        (get(&asked).await == (200, "large".to_owned())).then_some(())
    })
    .await;
    eventually("the alarm is over", async || {
        let text = realm.run(&["status"]).ok().stdout;
        (!text.contains("backend-down")).then_some(())
    })
    .await;
}
