//! Agents that are killed with SIGKILL while guests write: what was acknowledged is there, whatever stands
//! behind the binding, and of what was not there is no half. So with a server that is killed instead.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use realm_test_guests as guests;

use crate::messages;
use crate::postgres;
use crate::secrets::with_input;
use crate::support::{Agent, Realm, eventually, get};
use crate::swift::{self, Swift};

const N_WRITERS: u64 = 4;
const N_ROUNDS: u64 = 2;

/// What writers asked for by number, until nobody answered.
#[derive(Default)]
struct Written {
    asked: Vec<u64>,
    answered: Vec<u64>,
}

/// Writers ask one thing after the other; once each of them has been answered `n` times, the agent is killed.
async fn killed_while_asked(
    agent: Agent,
    round: u64,
    n: u64,
    path: fn(u64) -> String,
    answer: &'static str,
) -> Written {
    let mut writers = Vec::new();
    for writer in 0..N_WRITERS {
        let base = agent.url("");
        let n_answered = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&n_answered);
        let writing = tokio::spawn(async move {
            let client = reqwest::Client::new();
            let mut written = Written::default();
            for number in (round * 10 + writer) * 100_000.. {
                written.asked.push(number);
                let asked = client.get(format!("{base}{}", path(number)));
                let Ok(came) = asked.send().await else {
                    break;
                };
                // One that is cut off here was not read as an answer.
                let Ok(text) = came.text().await else {
                    break;
                };
                assert_eq!(text, answer, "{number}");
                written.answered.push(number);
                counted.fetch_add(1, Relaxed);
            }
            written
        });
        writers.push((writing, n_answered));
    }
    eventually("each of the writers is answered", async || {
        let all = writers
            .iter()
            .all(|(_, n_answered)| n_answered.load(Relaxed) >= n);
        all.then_some(())
    })
    .await;
    agent.kill_9();
    let mut all = Written::default();
    for (writing, _) in writers {
        let written = writing.await.unwrap();
        all.asked.extend(written.asked);
        all.answered.extend(written.answered);
    }
    all
}

/// One component `app` at `/...` with one store.
fn realm(guest: &str, interface: &str, backend: &str, more: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(guest, "app.wasm");
    realm.write(
        "realm.toml",
        &format!(
            "[bindings.data]\ninterface = \"{interface}\"\nbackend = \"{backend}\"\n{more}\n\
             [components.app]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"data\" }}\n\n\
             [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n"
        ),
    );
    realm
}

pub(crate) fn allow(realm: &Realm, origin: &str) {
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = [\"{origin}\"]\n");
    realm.write(".realm/node.toml", &allow);
}

/// What a path answers once the agent that was started again serves.
async fn answered(agent: &Agent, path: &str) -> String {
    eventually("it serves again", async || {
        let (status, text) = get(&agent.url(path)).await;
        (status == 200).then_some(text)
    })
    .await
}

/// The size of an object: every third is larger than what goes to a server in one piece.
fn size(number: u64) -> u64 {
    match number % 3 {
        1 => 6_000_000 + number % 1_000,
        _ => 1_000 + number % 50_000,
    }
}

/// As the guest writes it.
fn object(number: u64) -> Vec<u8> {
    (0..size(number))
        .map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(7 * 97) >> 7) as u8)
        .collect()
}

fn write(number: u64) -> String {
    format!("/write?c=default&o=o{number}&n={}", size(number))
}

async fn objects_outlive_the_agent(realm: &Realm) {
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let mut all = Written::default();
    for round in 0..N_ROUNDS {
        let written = killed_while_asked(agent, round, 2, write, "Ok(())\n").await;
        all.asked.extend(written.asked);
        all.answered.extend(written.answered);
        agent = realm.agent();
    }
    answered(&agent, &write(0)).await;
    let client = reqwest::Client::new();
    for number in all.asked {
        let url = agent.url(&format!("/read?c=default&o=o{number}"));
        let came = client.get(url).send().await.unwrap();
        let is_there = came.status() == 200;
        assert!(is_there || !all.answered.contains(&number), "{number}");
        if is_there {
            let bytes = came.bytes().await.unwrap();
            assert!(bytes == object(number), "{number}: {} bytes", bytes.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_guests_write_objects_loses_none_and_leaves_no_half_in_a_folder() {
    objects_outlive_the_agent(&realm(guests::BLOBSTORE, "wasi:blobstore", "embedded", "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_guests_write_objects_loses_none_and_leaves_no_half_in_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let server = Swift::start(folder.path(), None);
    let (bucket, region, origin) = (swift::BUCKET, swift::REGION, server.endpoint());
    let backend = format!("s3://{bucket}?region={region}&endpoint={origin}");
    let secret = "secret = \"door\"\n";
    let realm = realm(guests::BLOBSTORE, "wasi:blobstore", &backend, secret);
    let set = realm.command(&["secret", "set", "door"]);
    with_input(set, Swift::credentials().as_bytes()).ok();
    allow(&realm, &origin);
    objects_outlive_the_agent(&realm).await;
}

/// Two rows by one statement.
fn insert(number: u64) -> String {
    format!("/run?sql=INSERT INTO pairs VALUES ({number}, 1), ({number}, 2)")
}

async fn rows_outlive_the_agent(realm: &Realm) {
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let made = get(&agent.url("/run?sql=CREATE TABLE pairs (number BIGINT, half BIGINT)")).await;
    assert_eq!(made, (200, String::new()));
    let mut expected = Vec::new();
    for round in 0..N_ROUNDS {
        expected.extend(
            killed_while_asked(agent, round, 10, insert, "")
                .await
                .answered,
        );
        agent = realm.agent();
    }
    let having = |what: &str| {
        let rows = "SELECT number FROM pairs GROUP BY number HAVING COUNT(*)";
        format!("/run?sql={rows} {what} ORDER BY number")
    };
    let there = answered(&agent, &having("= 2")).await;
    for number in expected {
        assert!(there.contains(&format!("({number})")), "{number}");
    }
    assert_eq!(answered(&agent, &having("<> 2")).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_guests_insert_loses_no_row_and_leaves_no_half_in_sqlite() {
    rows_outlive_the_agent(&realm(guests::SQL, "wasi:sql", "embedded", "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_guests_insert_loses_no_row_and_leaves_no_half_in_postgresql() {
    let server = postgres::Server::start(None, "trust");
    let (user, port) = (postgres::USER, server.port);
    let backend = format!("postgres://{user}@127.0.0.1:{port}/postgres?sslmode=disable");
    let realm = realm(guests::SQL, "wasi:sql", &backend, "");
    allow(&realm, &format!("postgres://127.0.0.1:{port}"));
    rows_outlive_the_agent(&realm).await;
}

/// Until `is_over`: what was acknowledged, and how else a guest was answered.
async fn inserting(
    url: String,
    first: u64,
    is_over: Arc<AtomicBool>,
    n: Arc<AtomicU64>,
) -> (Vec<u64>, Vec<String>) {
    let client = reqwest::Client::new();
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    for number in first.. {
        if is_over.load(Relaxed) {
            break;
        }
        let asked = client.get(format!("{url}{}", insert(number)));
        let came = asked.send().await.unwrap();
        let status = came.status().as_u16();
        let text = came.text().await.unwrap();
        if (status, text.as_str()) == (200, "") {
            acknowledged.push(number);
            n.fetch_add(1, Relaxed);
        } else {
            refused.push(format!("{status} {text}"));
        }
    }
    (acknowledged, refused)
}

/// The agent and the guests go on, and so does the server once it is there again.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_postgresql_while_guests_insert_loses_no_row_and_leaves_no_half() {
    let mut server = postgres::Server::durable();
    let (user, port) = (postgres::USER, server.port);
    let backend = format!("postgres://{user}@127.0.0.1:{port}/postgres?sslmode=disable");
    let realm = realm(guests::SQL, "wasi:sql", &backend, "");
    allow(&realm, &format!("postgres://127.0.0.1:{port}"));
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let table = "CREATE TABLE pairs (number BIGINT, half BIGINT)";
    let made = get(&agent.url(&format!("/run?sql={table}"))).await;
    assert_eq!(made, (200, String::new()));
    let is_over = Arc::<AtomicBool>::default();
    let mut writers = Vec::new();
    for writer in 0..N_WRITERS {
        let n = Arc::<AtomicU64>::default();
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&n));
        let writing = inserting(agent.url(""), writer * 1_000_000, over, count);
        writers.push((tokio::spawn(writing), n));
    }
    let all_write = async || {
        let before: Vec<u64> = writers.iter().map(|(_, n)| n.load(Relaxed)).collect();
        eventually("each of the writers is answered", async || {
            let mut both = writers.iter().zip(&before);
            both.all(|((_, n), before)| n.load(Relaxed) >= before + 10)
                .then_some(())
        })
        .await;
    };
    for _ in 0..3 {
        all_write().await;
        tokio::task::block_in_place(|| server.kill_9());
        let (status, said) = get(&agent.url("/run?sql=SELECT 1")).await;
        assert_eq!((status, said.as_str()), (500, "unavailable"));
        tokio::task::block_in_place(|| server.up());
    }
    all_write().await;
    is_over.store(true, Relaxed);
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    for (writing, _) in writers {
        let (numbers, answers) = writing.await.unwrap();
        acknowledged.extend(numbers);
        refused.extend(answers);
    }
    let is_typed = |answer: &String| ["500 unavailable", "500 timeout"].contains(&answer.as_str());
    let odd: Vec<_> = refused.iter().filter(|answer| !is_typed(answer)).collect();
    assert!(odd.is_empty() && !refused.is_empty(), "{odd:?}");
    let having = |what: &str| {
        let rows = "SELECT number FROM pairs GROUP BY number HAVING COUNT(*)";
        server.sql("postgres", &format!("{rows} {what}"))
    };
    let there = having("= 2");
    let there: BTreeSet<u64> = there.lines().map(|line| line.parse().unwrap()).collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|number| !there.contains(number))
        .collect();
    assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());
    assert_eq!(having("<> 2"), "");
}

/// What a worker was at comes again from the server, to the agent that was started again.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_agent_amid_its_work_loses_no_message_of_nats() {
    let server = messages::Nats::start_with("");
    let backend = format!("nats://127.0.0.1:{}", server.port);
    let realm = messages::with_state(&backend);
    allow(&realm, &backend);
    let text = realm.read("realm.toml").replace("\"5s\"", "\"2500ms\"");
    realm.write("realm.toml", &text);
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let mut sent = Vec::new();
    for round in 0..2 {
        let url = agent.url("/");
        let n_sent = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&n_sent);
        let first = round * 1_000;
        let sending = async move { messages::send_from(&url, first, 60, &count).await };
        let sending = tokio::spawn(sending);
        // Some are done, some are under way, some wait.
        let before = messages::done(&realm).len();
        eventually("messages are sent and dealt with", async || {
            let n_done = messages::done(&realm).len() - before;
            (n_done >= 6 && n_sent.load(Relaxed) > 20).then_some(())
        })
        .await;
        agent.kill_9();
        let taken = sending.await.unwrap();
        sent.extend(taken);
        agent = realm.agent();
    }
    let text = realm
        .read("realm.toml")
        .replace("concurrency = 4", "concurrency = 100");
    realm.write("realm.toml", &text);
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    eventually("every message that was sent is dealt with", async || {
        let done = messages::done(&realm);
        sent.iter().all(|one| done.contains(one)).then_some(())
    })
    .await;
}
