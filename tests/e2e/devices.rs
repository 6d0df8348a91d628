//! Devices that speak MQTT, as mosquitto's clients do, with a nats-server that a worker's topics lead to:
//! let in by passwords of their own, and with the configuration that docs/wasi-cloud.md shows.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use realm_test_guests::WORKER;

use crate::messages::Nats;
use crate::secrets::with_input;
use crate::support::{Realm, Running, eventually};

/// A worker that does what devices say, and sends them what it has to say.
const MANIFEST: &str = r#"
[bindings.devices]
interface = "wasi:messaging"
backend = "BACKEND"
prefix = "iot"
secret = "nats"

[components.worker]
source = "file:./worker.wasm"
bind = { default = "devices" }

[components.worker.subscribe."up.*.*"]
attempts = 3
backoff = "100ms"
ack_wait = "2s"
"#;

/// What the operator of the server writes: `DEVICE` may say what it reads, and hear what is for it.
fn config(mqtt: u16) -> String {
    let config = r#"
server_name: "nats-1"
mqtt { host: "127.0.0.1", port: MQTT, ack_wait: "5s" }
authorization {
  users = [
    { user: realm, password: "of-realm" }
    { user: d1, password: "of-d1", allowed_connection_types: ["MQTT"], permissions: {
        publish: ["iot.up.d1.reading"]
        subscribe: ["iot.down.d1", "iot.down.d1.>", "$MQTT.sub.>"] } }
  ]
}
"#;
    config.replace("MQTT,", &format!("{mqtt},"))
}

struct Device {
    port: u16,
}

impl Device {
    fn command(&self, program: &str, id: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "stdbuf", "-oL", program])
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-i", id])
            .args(["-u", "d1", "-P", "of-d1"])
            .stdin(Stdio::null());
        command
    }

    fn publish(&self, topic: &str, words: &str, quality: &str) {
        let mut command = self.command("mosquitto_pub", "d1-says");
        let said = command.args(["-t", topic, "-m", words, "-q", quality]);
        let said = said.output().unwrap();
        let missing = "apt-get install mosquitto-clients";
        assert!(said.status.success(), "{missing}; or: {said:?}");
    }

    /// Hears what is for it, also what came while it was away.
    fn hears(&self) -> Running {
        let mut command = self.command("mosquitto_sub", "d1-hears");
        command.args(["-t", "iot/down/d1/#", "-q", "1", "-c", "-d"]);
        command.args(["-F", "heard %t %p"]);
        Running::start(command)
    }
}

fn realm(backend: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(WORKER, "worker.wasm");
    realm.write("realm.toml", &MANIFEST.replace("BACKEND", backend));
    let set = realm.command(&["secret", "set", "nats"]);
    with_input(set, b"realm:of-realm").ok();
    let origin = backend.trim_end_matches("?mqtt=1");
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = [\"{origin}\"]\n");
    realm.write(".realm/node.toml", &allow);
    realm
}

async fn says(realm: &Realm, words: &str) {
    eventually("the worker says so", async || {
        let logs = realm.run(&["logs", "worker"]).ok().stdout;
        logs.contains(words).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_calls_a_worker_and_hears_from_it_also_after_kill_9() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let nats = Nats::start_with(&config(port));
    let device = Device { port };
    let realm = realm(&format!("nats://127.0.0.1:{}?mqtt=1", nats.port));
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();

    let hears = device.hears();
    hears.stdout.after("Subscribed");
    for quality in ["0", "1"] {
        let words = format!("warm {quality}");
        device.publish("iot/up/d1/reading", &words, quality);
        says(&realm, &format!("done {words}")).await;
    }
    let forward = "forward down.d1.valve";
    device.publish("iot/up/d1/reading", forward, "1");
    assert_eq!(hears.stdout.after("heard "), "iot/down/d1/valve forwarded");
    // What fails comes again, and dies.
    device.publish("iot/up/d1/reading", "err", "1");
    says(&realm, "message-dead").await;
    // Nobody is another device, or the server's own hand.
    for topic in [
        "iot/up/d2/reading",
        "iot/down/d2/x",
        "$JS/API/STREAM/DELETE/iot",
    ] {
        device.publish(topic, "not allowed", "1");
    }

    // Both are away, and what was said meanwhile is not lost.
    drop(hears);
    agent.kill_9();
    for n in 0..5 {
        device.publish("iot/up/d1/reading", &format!("meanwhile {n}"), "1");
    }
    device.publish("iot/up/d1/reading", forward, "1");
    let agent = realm.agent();
    for n in 0..5 {
        says(&realm, &format!("done meanwhile {n}")).await;
    }
    says(&realm, &format!("done {forward}")).await;
    let hears = device.hears();
    assert_eq!(hears.stdout.after("heard "), "iot/down/d1/valve forwarded");
    let logs = realm.run(&["logs", "worker"]).ok().stdout;
    assert!(!logs.contains("not allowed"), "{logs}");
    agent.terminate();
}
