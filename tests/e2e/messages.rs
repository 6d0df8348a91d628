//! Queues and workers, with processes: none is lost whoever is killed, and the dead are seen.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use realm_test_guests::{MESSAGES, WORKER};

use crate::support::{Realm, eventually, figure, get};

/// A producer with a route, and a worker without; `backend` is what stands between them.
fn manifest(backend: &str, worker: &str) -> String {
    format!(
        r#"
[bindings.orders]
interface = "wasi:messaging"
backend = "{backend}"

[components.web]
source = "file:./web.wasm"
bind = {{ default = "orders" }}
subscribe = {{ echo = {{}}, twice = {{}}, silent = {{}} }}

[components.worker]
source = "file:./worker.wasm"
bind = {{ default = "orders" }}
wall_timeout_ms = 2_000
{worker}

[components.worker.subscribe.work]
concurrency = 4
attempts = 3
backoff = "100ms"
ack_wait = "5s"
dead_letter = "dead"

[routing]
"*" = [{{ path = "/...", component = "web" }}]
"#
    )
}

fn realm(backend: &str, worker: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(MESSAGES, "web.wasm");
    realm.guest(WORKER, "worker.wasm");
    realm.write("realm.toml", &manifest(backend, worker));
    realm
}

/// A folder of the machine that the worker writes into.
pub(crate) fn with_state(backend: &str) -> Realm {
    let realm = realm(backend, "");
    let state = realm.path("state");
    std::fs::create_dir(&state).unwrap();
    let dirs = format!("dirs = [\"{}::/state::rw\"]", state.display());
    realm.write("realm.toml", &manifest(backend, &dirs));
    let config = realm.read(".realm/node.toml");
    let config = format!("{config}\n[guests]\ndirs = [\"{}\"]\n", state.display());
    realm.write(".realm/node.toml", &config);
    realm
}

pub(crate) fn done(realm: &Realm) -> Vec<String> {
    let files = std::fs::read_dir(realm.path("state")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Sends `slow 0`, `slow 1`, .. as fast as they are taken, until it cannot: those that were.
pub(crate) async fn send_from(
    url: &str,
    first: usize,
    n: usize,
    n_sent: &AtomicUsize,
) -> Vec<String> {
    let mut sent = Vec::new();
    for number in first..first + n {
        let words = format!("slow {number}");
        let url = format!("{url}?send={}", words.replace(' ', "%20"));
        let client = reqwest::Client::new();
        match client.get(&url).send().await {
            Ok(answer) if answer.status() == 200 => {
                sent.push(words);
                n_sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_agent_loses_no_message() {
    let realm = with_state("embedded");
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let mut sent = Vec::new();
    for round in 0..3 {
        let url = agent.url("/");
        let n_sent = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&n_sent);
        let first = round * 1_000;
        let sending = tokio::spawn(async move { send_from(&url, first, 1_000, &count).await });
        // Some are done, some are under way, some wait.
        let before = done(&realm).len();
        eventually("messages are sent and dealt with", async || {
            let n_done = done(&realm).len() - before;
            (n_done >= 6 && n_sent.load(Ordering::Relaxed) > 40).then_some(())
        })
        .await;
        agent.kill_9();
        sent.extend(sending.await.unwrap());
        agent = realm.agent();
    }
    assert!(sent.len() > 100, "{}", sent.len());
    // A new version of the worker takes over meanwhile.
    let text = realm
        .read("realm.toml")
        .replace("attempts = 3", "attempts = 5");
    realm.write(
        "realm.toml",
        &text.replace("concurrency = 4", "concurrency = 100"),
    );
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    eventually("every message that was sent is dealt with", async || {
        let done = done(&realm);
        sent.iter().all(|one| done.contains(one)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told_counted_and_kept_apart() {
    let realm = realm("embedded", "");
    let agent = realm.agent();
    let said = realm.run(&["apply", "--yes"]).ok();
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    for words in ["ok", "err", "trap", "park", "ok"] {
        assert_eq!(get(&agent.url(&format!("/?send={words}"))).await.0, 200);
    }
    let count = |page: &str, result: &str| {
        figure(
            page,
            &format!("messages_total{{component=\"worker\",result=\"{result}\"}}"),
        )
    };
    let page = eventually("three are dead", async || {
        let page = get(&agent.metrics_url).await.1;
        let dead =
            page.contains("messages_total{component=\"worker\"") && count(&page, "dead") == 3.0;
        dead.then_some(page)
    })
    .await;
    assert_eq!((count(&page, "done"), count(&page, "retried")), (2.0, 6.0));
    let outcome = |outcome: &str| {
        let series =
            format!("wasm_invocations_total{{component=\"worker\",outcome=\"{outcome}\"}}");
        figure(&page, &series)
    };
    assert_eq!(
        ["trap", "guest-error", "wall-timeout"].map(outcome),
        [3.0; 3]
    );
    let logs = realm.run(&["logs", "worker"]).ok().stdout;
    for line in [
        "message-retried: a message of `work`, delivery 1 of 3, again in 100 ms: the guest says: it cannot be done",
        "message-dead: a message of `work` after 3 deliveries: trap: the component failed",
        "message-dead: a message of `work` after 3 deliveries: wall-timeout",
    ] {
        assert!(logs.contains(line), "{line}: {logs}");
    }
    let status = realm.component("worker").await;
    assert_eq!((status.healthy, status.wanted), (1, 1));
    the_dead_are_shown_and_dealt_with(&realm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_with_rules_takes_only_what_matches() {
    let realm = realm("embedded", "");
    let with_rules = |rules: &str| {
        let rules = format!("dead_letter = \"dead\"\nwhere = {rules}");
        let text = manifest("embedded", "").replace("dead_letter = \"dead\"", &rules);
        realm.write("realm.toml", &text);
        realm.run(&["apply", "--yes"]).ok()
    };
    let agent = realm.agent();
    with_rules(r#"{ "body.total" = { above = 100 }, "body.customer.country" = { prefix = "D" } }"#);
    let send = async |body: &str| {
        let url = reqwest::Url::parse_with_params(&agent.url("/"), [("send", body)]);
        let sent = reqwest::get(url.unwrap()).await.unwrap();
        assert_eq!(sent.status(), 200);
    };
    let order = |total: u32, country: &str| {
        format!(r#"{{"total":{total},"customer":{{"country":"{country}"}}}}"#)
    };
    for (total, country) in [(100, "DE"), (101, "DE"), (200, "FR"), (300, "DK")] {
        send(&order(total, country)).await;
    }
    send("ok").await;
    let count = |page: &str, result: &str| {
        figure(
            page,
            &format!("messages_total{{component=\"worker\",result=\"{result}\"}}"),
        )
    };
    let counted = async |done: f64, filtered: f64| {
        eventually("all are counted", async || {
            let page = get(&agent.metrics_url).await.1;
            let counted = (count(&page, "done"), count(&page, "filtered"));
            (counted == (done, filtered)).then_some(page)
        })
        .await
    };
    let page = counted(2.0, 3.0).await;
    let ran = "wasm_invocations_total{component=\"worker\",outcome=\"ok\"}";
    assert_eq!(figure(&page, ran), 2.0);
    let took = || {
        let logs = realm.run(&["logs", "worker"]).ok().stdout;
        let took = logs.lines().filter_map(|line| line.split_once("took "));
        took.map(|(_, body)| body.trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(took(), [order(101, "DE"), order(300, "DK")]);
    // Other rules hold from the next manifest on.
    with_rules(r#"{ "body" = { exists = false } }"#);
    eventually("the new rules hold", async || {
        send("ok").await;
        took().contains(&"ok".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_guest_runs_on_a_queue_of_the_nodes_own_and_on_nats() {
    let server = Nats::start();
    let backends = [
        "embedded".to_owned(),
        format!("nats://127.0.0.1:{}", server.port),
    ];
    for backend in &backends {
        let realm = realm(backend, "");
        let config = realm.read(".realm/node.toml");
        if backend != "embedded" {
            // Nobody is asked whom the operator does not name.
            let agent = realm.agent();
            let said = realm.run(&["apply", "--yes", "--timeout", "5s"]);
            let said = said.stdout + &said.stderr;
            assert!(said.contains("[backends] allow"), "{said}");
            agent.terminate();
            let allow = format!("{config}\n[backends]\nallow = [\"{backend}\"]\n");
            realm.write(".realm/node.toml", &allow);
        }
        let agent = realm.agent();
        realm.run(&["apply", "--yes"]).ok();
        let lines = eventually("the handler is a member of its groups", async || {
            let (status, lines) = get(&agent.url("/")).await;
            (status == 200 && !lines.contains("FAIL request")).then_some(lines)
        })
        .await;
        assert!(lines.lines().count() >= 13, "{lines}");
        assert!(
            lines.lines().all(|line| line.starts_with("ok ")),
            "{backend}: {lines}"
        );
        assert_eq!(get(&agent.url("/?send=ok%207")).await.0, 200);
        eventually("the worker has it", async || {
            let logs = realm.run(&["logs", "worker"]).ok().stdout;
            logs.contains("done ok 7").then_some(())
        })
        .await;
        let (status, words) = get(&agent.url("/?client=other&send=x")).await;
        assert_eq!(
            (status, words.contains("no store is bound")),
            (503, true),
            "{words}"
        );
        agent.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_packs_orders_and_says_which_it_cannot() {
    let realm = Realm::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let manifest = std::fs::read_to_string(root.join("orders/realm.toml")).unwrap();
    let built = root.join("target/wasm32-wasip2/release");
    for name in ["orders_shop.wasm", "orders_packer.wasm"] {
        if !built.join(name).exists() {
            let script = root.join("../scripts/examples.sh");
            assert!(Command::new(script).status().unwrap().success());
        }
        realm.guest(built.join(name).to_str().unwrap(), name);
    }
    let here = manifest.replace("../target/wasm32-wasip2/release", ".");
    realm.write("realm.toml", &here);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let client = reqwest::Client::new();
    for order in ["3 bicycles", "1 unicorn"] {
        let sent = client.post(agent.url("/orders/")).body(order).send().await;
        assert_eq!(sent.unwrap().status(), 202);
    }
    eventually("the packer is done with both", async || {
        let logs = realm.run(&["logs", "packer"]).ok().stdout;
        let gave_up = "gave up on 1 unicorn: the guest says: out of unicorns";
        (logs.contains("packed 3 bicycles") && logs.contains(gave_up)).then_some(())
    })
    .await;
}

/// A server on the loopback, which ends with this.
pub(crate) struct Nats {
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Nats {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With more in its configuration.
    pub(crate) fn start_with(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let log = folder.path().join("log");
        let file = folder.path().join("config");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "nats-server",
                "-js",
                "-a",
                "127.0.0.1",
            ])
            .args(["-p", &port.to_string(), "-sd"])
            .arg(folder.path().join("store"))
            .arg("-c")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .expect("setpriv is there: apt-get install util-linux");
        let server = Self {
            child,
            port,
            _folder: folder,
        };
        server.listens(&log);
        server
    }

    fn listens(&self, log: &Path) {
        let began = Instant::now();
        loop {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            if said.contains("Server is ready") {
                return;
            }
            let patience = Duration::from_secs(20);
            let missing = "nats-server is missing: apt-get install nats-server";
            assert!(began.elapsed() < patience, "{missing}; or: {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `err`, `trap` and `park` died: two of them live again and die again, one is dropped.
async fn the_dead_are_shown_and_dealt_with(realm: &Realm) {
    let dead = |more: &[&str]| {
        let verb = ["messages", "dead", "orders", "--json"];
        let said = tokio::task::block_in_place(|| realm.run(&[&verb, more].concat()).ok());
        serde_json::from_str::<serde_json::Value>(&said.stdout).unwrap()
    };
    let letters = |page: &serde_json::Value| page["letters"].as_array().unwrap().clone();
    let all = letters(&dead(&[]));
    assert_eq!(all.len(), 3);
    let mut texts = Vec::new();
    for letter in &all {
        assert_eq!(
            (&letter["topic"], &letter["group"]),
            (&"work".into(), &"worker".into())
        );
        assert_eq!(letter["deliveries"], 3);
        assert!(letter["died_unix_ms"].as_u64().is_some() && letter["bytes"].as_u64().is_some());
        assert!(!letter["why"].as_str().unwrap().is_empty() && letter["message"].is_null());
        let number = letter["number"].to_string();
        let said = tokio::task::block_in_place(|| {
            realm
                .run(&["messages", "dead", "orders", "show", &number])
                .ok()
        });
        texts.push(said.stdout.trim().to_owned());
    }
    texts.sort();
    assert_eq!(texts, ["err", "park", "trap"]);
    let number = all[0]["number"].to_string();
    assert_eq!(dead(&["retry", &number])["done"], 1);
    let again = eventually("it died again", async || {
        let again = letters(&dead(&[]));
        (again.len() == 3).then_some(again)
    })
    .await;
    // The last letter of three is a new one.
    assert!(again[0]["number"].as_u64() > all[0]["number"].as_u64());
    assert_eq!(dead(&["drop", &again[2]["number"].to_string()])["done"], 1);
    assert_eq!(letters(&dead(&[])).len(), 2);
    let refused = tokio::task::block_in_place(|| {
        realm.run(&["messages", "dead", "orders", "retry", &number])
    });
    assert!(
        refused.stderr.contains("there is no dead letter"),
        "{}",
        refused.stderr
    );
    let unknown = tokio::task::block_in_place(|| realm.run(&["messages", "dead", "nowhere"]));
    assert!(
        unknown.stderr.contains("unknown-name"),
        "{}",
        unknown.stderr
    );
    assert_eq!(dead(&["drop", "--all"])["done"], 2);
    assert!(letters(&dead(&[])).is_empty());
}

/// A group by another name: what is sent while no manifest and no replica has the first one does not wait for
/// it. How soon a replica is gone nobody says, so it is tried some times.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_gone_with_the_last_replica_that_took_part() {
    let realm = realm("embedded", "");
    let agent = realm.agent();
    let with = async |group: &str| {
        let keys = format!("concurrency = 1\ngroup = \"{group}\"");
        let text = manifest("embedded", "").replace("concurrency = 4", &keys);
        realm.write("realm.toml", &text);
        tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
        eventually("no older one is there", async || {
            let view = realm.component("worker").await;
            ((view.healthy, view.old) == (1, 0)).then_some(())
        })
        .await;
    };
    let took = |words: &str| {
        let logs = tokio::task::block_in_place(|| realm.run(&["logs", "worker"]).ok().stdout);
        let line = format!("took {words}");
        logs.lines().filter(|one| one.ends_with(&line)).count()
    };
    let send = async |words: &str| {
        let url = format!("/?send={}", words.replace(' ', "%20"));
        assert_eq!(get(&agent.url(&url)).await.0, 200);
        eventually("it is taken", async || (took(words) > 0).then_some(())).await;
    };
    with("one").await;
    for round in 0..10 {
        with("two").await;
        let words = format!("ok between {round}");
        send(&words).await;
        with("one").await;
        // One after the other: whatever waited for this group comes first.
        send(&format!("ok after {round}")).await;
        if took(&words) == 1 {
            return;
        }
    }
    panic!("what was sent meanwhile waited for the group");
}
