//! What servers behind bindings see of many calls at once: a few connections, which are kept.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use realm_test_guests as guests;

use crate::keyvalue::servers;
use crate::support::{Load, Realm, lasting_port};

const N_CLIENTS: usize = 32;
const N_CALLS: u64 = 2_000;
/// Of a binding to one Redis, for each of the agent's threads that call guests.
const PER_THREAD: u64 = 4;
/// Of a binding to one NATS: one, and room for it to be made anew on a machine with much to do.
const FEW: u64 = 20;

fn manifest(interface: &str, backend: &str) -> String {
    format!(
        "[bindings.data]\ninterface = \"{interface}\"\nbackend = \"{backend}\"\n\n\
         [components.app]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"data\" }}\n\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n"
    )
}

/// Calls a guest that asks its store each time; `count` says how many connections the server has taken since
/// it began.
async fn called_often(
    interface: &str,
    guest: &str,
    origin: &str,
    path: &str,
    count: impl AsyncFn() -> u64,
) -> u64 {
    let realm = Realm::new();
    realm.guest(guest, "app.wasm");
    realm.write("realm.toml", &manifest(interface, origin));
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = [\"{origin}\"]\n");
    realm.write(".realm/node.toml", &allow);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let before = count().await;
    let load = Load::start(agent.url(path), N_CLIENTS, |status, _| status == 200);
    load.more(N_CALLS).await;
    let taken = count().await - before;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "{good} {first_bad:?}");
    taken
}

/// Over one connection of its own.
fn taken_by_redis(own: &TcpStream) -> u64 {
    let mut writer = own;
    writer.write_all(b"INFO stats\r\n").unwrap();
    let mut reader = BufReader::new(own);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let n_bytes: usize = line.trim().trim_start_matches('$').parse().unwrap();
    let mut text = vec![0; n_bytes + 2];
    reader.read_exact(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let figure = text
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    figure.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_share_a_few_connections_to_redis() {
    let server = servers::redis(&[]);
    let origin = format!("redis://127.0.0.1:{}", server.port);
    let own = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let path = "/?open=default&op=increment&key=n";
    let count = async || taken_by_redis(&own);
    let taken = called_often("wasi:keyvalue", guests::KEYVALUE_CALL, &origin, path, count).await;
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    assert!((1..=PER_THREAD * (threads + 1)).contains(&taken), "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_share_a_few_connections_to_nats() {
    let kinds = [
        (
            "wasi:keyvalue",
            guests::KEYVALUE_CALL,
            "/?open=default&op=set&key=n&value=v",
        ),
        ("wasi:messaging", guests::MESSAGES, "/?send=x"),
        (
            "realm:cloud/streams",
            guests::STREAMS,
            "/append?name=orders&words=x",
        ),
    ];
    for (interface, guest, path) in kinds {
        let port = lasting_port();
        let server = servers::nats(&format!("-m {port}"), None);
        let origin = format!("nats://127.0.0.1:{}", server.port);
        let count = async || {
            let url = format!("http://127.0.0.1:{port}/varz");
            let seen = reqwest::get(url).await.unwrap().text().await.unwrap();
            let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
            seen["total_connections"].as_u64().unwrap()
        };
        let taken = called_often(interface, guest, &origin, path, count).await;
        assert!(taken <= FEW, "{interface}: {taken}");
    }
}
