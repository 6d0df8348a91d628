//! Guests with key-value stores: in a file of the agent that is killed, and on real servers.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use realm_test_guests as guests;

use crate::killed::allow;
use crate::support::{Agent, Realm, Running, eventually, get, on_free_ports};

#[path = "../../crates/realm-backends/tests/keyvalue/servers.rs"]
#[expect(dead_code, reason = "shared with the tests of the stores themselves")]
pub(crate) mod servers;

/// One component `app` at `/...` whose `default` is a key-value store.
fn manifest(backend: &str, more: &str) -> String {
    format!(
        "[bindings.data]\ninterface = \"wasi:keyvalue\"\nbackend = \"{backend}\"\n\n\
         [components.app]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"data\" }}\n{more}\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n"
    )
}

/// On a machine with much to do the checks of a guest take a while.
const LONG: &str = "wall_timeout_ms = 60000\nepoch_timeout_ms = 30000\n";

fn realm(guest: &str, backend: &str, more: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(guest, "app.wasm");
    realm.write("realm.toml", &manifest(backend, more));
    realm
}

/// Writes until nobody answers: what was acknowledged, and the last count.
async fn write(agent: &Agent, first: u64) -> tokio::task::JoinHandle<(Vec<u64>, u64)> {
    let url = agent.url("/?open=default");
    let began = Arc::new(AtomicBool::new(false));
    let seen = began.clone();
    let writing = tokio::spawn(async move {
        let client = reqwest::Client::new();
        let get = async |more: String| {
            let answer = client.get(format!("{url}{more}")).send().await.ok()?;
            let is_ok = answer.status() == 200;
            answer.text().await.ok().filter(|_| is_ok)
        };
        let (mut numbers, mut count) = (Vec::new(), 0);
        for number in first.. {
            let set = format!("&op=set&key=k{number}&value=v{number}");
            if get(set).await.is_none() {
                break;
            }
            numbers.push(number);
            let Some(text) = get("&op=increment&key=n".to_owned()).await else {
                break;
            };
            count = text.parse().unwrap();
            began.store(numbers.len() >= 10, Ordering::Relaxed);
        }
        (numbers, count)
    });
    eventually("guests write", async || {
        seen.load(Ordering::Relaxed).then_some(())
    })
    .await;
    writing
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_guests_write_loses_nothing_that_was_acknowledged() {
    values_outlive_the_agent(&realm(guests::KEYVALUE_CALL, "embedded", ""), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_guests_write_loses_nothing_that_was_acknowledged_with_redis() {
    let server = servers::redis(&[]);
    let origin = format!("redis://127.0.0.1:{}", server.port);
    let realm = realm(guests::KEYVALUE_CALL, &origin, "");
    allow(&realm, &origin);
    values_outlive_the_agent(&realm, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_guests_write_loses_nothing_that_was_acknowledged_with_nats() {
    let server = servers::nats("", None);
    let origin = format!("nats://127.0.0.1:{}", server.port);
    let realm = realm(guests::KEYVALUE_CALL, &origin, "");
    allow(&realm, &origin);
    values_outlive_the_agent(&realm, 2).await;
}

async fn values_outlive_the_agent(realm: &Realm, rounds: u64) {
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let (mut numbers, mut last) = (Vec::new(), 0);
    for round in 0..rounds {
        let mut writing = Vec::new();
        for task in 0..4 {
            writing.push(write(&agent, round * 1_000_000 + task * 100_000).await);
        }
        agent.kill_9();
        for writing in writing {
            let (written, count) = writing.await.unwrap();
            numbers.extend(written);
            last = count.max(last);
        }
        agent = realm.agent();
        let url = agent.url("/?open=default");
        eventually("it serves again", async || {
            (get(&url).await.0 == 400 || get(&url).await.0 == 200).then_some(())
        })
        .await;
        // One connection for all of them: there are hundreds.
        let client = reqwest::Client::new();
        for number in &numbers {
            let seen = client.get(format!("{url}&key=k{number}")).send().await;
            let seen = seen.unwrap().text().await.unwrap();
            assert_eq!(seen, format!("v{number}"), "round {round}");
        }
        let (_, count) = get(&format!("{url}&key=n")).await;
        assert!(count.parse::<u64>().unwrap() >= last, "{count} < {last}");
    }
    // Each of four writers had ten answers in each round.
    assert!(numbers.len() as u64 >= rounds * 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_not_see_which_store_it_has() {
    let redis = servers::redis(&[]);
    let nats = servers::nats("", None);
    let origins = [
        "embedded".to_owned(),
        format!("redis://127.0.0.1:{}", redis.port),
        format!("nats://127.0.0.1:{}", nats.port),
    ];
    let realm = realm(guests::KEYVALUE, &origins[0], LONG);
    let before = realm.read(".realm/node.toml");
    let (redis_origin, nats_origin) = (&origins[1], &origins[2]);
    let config = format!("{before}\n[backends]\nallow = [\"{redis_origin}\", \"{nats_origin}\"]\n");
    realm.write(".realm/node.toml", &config);
    let agent = realm.agent();
    for origin in &origins {
        realm.write("realm.toml", &manifest(origin, LONG));
        realm.run(&["apply", "--yes"]).ok();
        let (status, lines) = get(&agent.url("/")).await;
        let lacking: Vec<_> = lines
            .lines()
            .filter(|line| !line.starts_with("ok "))
            .collect();
        let expected: &[&str] = match origin {
            of_nats if of_nats.starts_with("nats") && servers::nats_version() < (2, 11) => {
                &["lacks ttl", "lacks transactions"]
            }
            of_nats if of_nats.starts_with("nats") => &["lacks transactions"],
            _ => &[],
        };
        assert_eq!((status, lacking), (200, expected.to_vec()), "{origin}");
        assert_eq!(lines.lines().count(), 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_node_toml_does_not_name_is_not_asked() {
    let realm = realm(guests::KEYVALUE_CALL, "redis://127.0.0.1:1", "");
    let _agent = realm.agent();
    // It is over as soon as the node gave up.
    let said = realm.run(&["apply", "--yes", "--timeout", "60s"]);
    let said = said.fails(1, "not-running");
    let hint = said.stderr.lines().find(|line| line.contains("hint:"));
    let hint = hint.unwrap_or_default();
    assert!(hint.contains("`[backends] allow`"), "{}", said.stderr);
    assert!(hint.contains("`realm explain app`"), "{}", said.stderr);
    eventually("the status says why", async || {
        let text = realm.run(&["status"]).ok().stdout;
        text.contains("backend-denied").then_some(())
    })
    .await;
}

/// The example, as its README has it.
#[tokio::test(flavor = "multi_thread")]
async fn the_guestbook_keeps_entries_and_names() {
    const BUILT: &str = "target/wasm32-wasip2/release/guestbook.wasm";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    if !root.join(BUILT).exists() {
        let built = Command::new("scripts/examples.sh").status();
        assert!(built.unwrap().success());
    }
    let realm = Realm::empty();
    std::fs::create_dir_all(realm.path("guestbook")).unwrap();
    std::fs::create_dir_all(realm.path(BUILT).parent().unwrap()).unwrap();
    std::fs::copy(root.join(BUILT), realm.path(BUILT)).unwrap();
    let manifest = std::fs::read_to_string(root.join("guestbook/realm.toml")).unwrap();
    realm.write("guestbook/realm.toml", &manifest);
    let up = ["up", "guestbook/realm.toml"];
    let up = [&up[..], &on_free_ports("up")[1..], &["--timeout", "5m"]].concat();
    let up = Running::start(realm.command(&up));
    let line = tokio::task::block_in_place(|| up.stdout.next()).unwrap();
    let url = line.split_whitespace().nth(1).unwrap().to_owned();

    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let first = client.get(&url).send().await.unwrap();
    let cookie = first.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"),
        "{cookie}"
    );
    let session = cookie.split(';').next().unwrap().to_owned();
    for text in ["Nice+place", "%3Cscript%3E+%26+more"] {
        let answer = client
            .post(&url)
            .header("cookie", &session)
            .body(format!("name=Ada&text={text}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 303);
    }
    let page = async |cookie: &str| {
        let answer = client
            .get(&url)
            .header("cookie", cookie)
            .send()
            .await
            .unwrap();
        answer.text().await.unwrap()
    };
    let known = page(&session).await;
    assert!(known.contains("value=\"Ada\""), "{known}");
    assert!(known.contains("<b>Ada</b>: Nice place"), "{known}");
    assert!(known.contains("&lt;script&gt; &amp; more"), "{known}");
    assert!(
        known.find("more") < known.find("Nice"),
        "the last comes first"
    );
    let stranger = page("session=nothing").await;
    assert!(
        stranger.contains("value=\"\"") && stranger.contains("Nice place"),
        "{stranger}"
    );
    let empty = client.post(&url).body("name=&text=x").send().await.unwrap();
    assert_eq!(empty.status(), 400);
    assert!(up.interrupt().success());
}
