//! `wasi:keyvalue` in each of its versions, over each store that may stand behind it.

#[path = "../../../realm-backends/tests/keyvalue/servers.rs"]
#[expect(dead_code, reason = "shared with the tests of the stores themselves")]
pub(crate) mod servers;

use std::sync::Arc;

use realm_backends::keyvalue::{Embedded, Nats, Redis};
use realm_backends::{Access, Unwatched};
use realm_host::Store;
use realm_model::api::LogStream;
use realm_model::cloud::KeyValue;
use realm_model::trigger::Triggers;
use realm_test_guests as guests;
use tempfile::TempDir;

use crate::harness::{Guest, Loaded, eventually, get, guest, read};

pub(crate) fn embedded() -> (Arc<dyn KeyValue>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("kv"), Arc::new(Unwatched)).unwrap();
    (Arc::new(store), folder)
}

pub(crate) fn in_redis(server: &servers::Server) -> Arc<dyn KeyValue> {
    let access = Access {
        prefix: "cache:".to_owned(),
        ..Access::default()
    };
    Arc::new(Redis::new(&server.at(false), 0, &access, Arc::new(Unwatched)).unwrap())
}

pub(crate) fn in_nats(server: &servers::Server) -> Arc<dyn KeyValue> {
    let access = Access {
        prefix: "cache".to_owned(),
        ..Access::default()
    };
    Arc::new(Nats::new(&server.at(false), &access, Arc::new(Unwatched)).unwrap())
}

fn bound(guest: Guest, store: &Arc<dyn KeyValue>) -> Guest {
    guest.bind("default", Store::Keyvalue(store.clone()))
}

/// What the guest finds, whatever stands behind it; `lacks` names what this store cannot.
async fn check(store: &Arc<dyn KeyValue>, lacks: &[&str]) {
    let asked = bound(guest(guests::KEYVALUE), store)
        .limits(|limits| {
            limits.wall_timeout_ms = 60_000;
            // On a machine with much to do.
            limits.epoch_timeout_ms = 30_000;
            limits.memory_max_mb = 128;
        })
        .load();
    let names = [
        "values",
        "keys",
        "listing",
        "large",
        "refusals",
        "increment",
        "swap",
        "batch",
        "ttl",
        "transactions",
        "locks",
    ];
    let expected: String = names
        .iter()
        .map(|name| {
            let word = if lacks.contains(name) { "lacks" } else { "ok" };
            format!("{word} {name}\n")
        })
        .collect();
    assert_eq!(asked.body("/").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn keyvalue() {
    let (store, _folder) = embedded();
    check(&store, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_in_redis() {
    let server = servers::redis(&[]);
    check(&in_redis(&server), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_in_valkey() {
    let server = servers::valkey();
    check(&in_redis(&server), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_in_nats() {
    let server = servers::nats("", None);
    let lacks: &[&str] = if servers::nats_version() < (2, 11) {
        &["ttl", "transactions"]
    } else {
        &["transactions"]
    };
    check(&in_nats(&server), lacks).await;
}

/// One that can end single keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_in_a_newer_nats() {
    let server = servers::newer_nats();
    check(&in_nats(&server), &["transactions"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn keyvalue_draft() {
    let (store, _folder) = embedded();
    check_draft(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_draft_in_redis() {
    let server = servers::redis(&[]);
    check_draft(&in_redis(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_draft_in_nats() {
    let server = servers::nats("", None);
    check_draft(&in_nats(&server)).await;
}

async fn check_draft(store: &Arc<dyn KeyValue>) {
    let guest = patient(bound(guest(guests::KEYVALUE_DRAFT), store)).load();
    assert_eq!(guest.body("/").await, "ok");
}

/// On a machine with much to do.
fn patient(guest: Guest) -> Guest {
    guest.limits(|limits| {
        limits.wall_timeout_ms = 60_000;
        limits.epoch_timeout_ms = 30_000;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_keyvalue() {
    let (store, _folder) = embedded();
    check_p3(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_keyvalue_in_redis() {
    let server = servers::redis(&[]);
    check_p3(&in_redis(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_keyvalue_in_nats() {
    let server = servers::nats("", None);
    check_p3(&in_nats(&server)).await;
}

async fn check_p3(store: &Arc<dyn KeyValue>) {
    let pairs: Vec<_> = (0..1_500)
        .map(|nth| (format!("k{nth:04}"), vec![b'v']))
        .collect();
    for pairs in pairs.chunks(1_000) {
        store.set_many("", pairs).await.unwrap();
    }
    let guest = patient(bound(guest(guests::P3_KEYVALUE), store)).load();
    assert_eq!(guest.body("/").await, "ok");
}

/// What is written through one version is there in every other, counted and listed by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_store_is_served_in_every_version_at_once() {
    let (store, _folder) = embedded();
    check_side_by_side(&store).await;
    let redis = servers::redis(&[]);
    check_side_by_side(&in_redis(&redis)).await;
    let nats = servers::nats("", None);
    check_side_by_side(&in_nats(&nats)).await;
}

async fn check_side_by_side(store: &Arc<dyn KeyValue>) {
    let load = |path| patient(bound(guest(path), store)).load();
    let (draft, draft2) = (load(guests::KEYVALUE_DRAFT), load(guests::KEYVALUE_CALL));
    let spin = load(guests::P3_KEYVALUE);
    let draft = async |what: &str| draft.body(&format!("/?op={what}")).await;
    let draft2 = async |what: &str| draft2.body(&format!("/?open=default&op={what}")).await;
    let spin = async |what: &str| spin.body(&format!("/{what}")).await;

    assert_eq!(draft("set&key=n&value=41").await, "()");
    assert_eq!(draft2("increment&key=n").await, "42");
    assert_eq!(spin("get?n").await, "42");

    assert_eq!(spin("set?n=7").await, "()");
    assert_eq!(draft2("increment&key=n").await, "8");
    assert_eq!(draft("increment&key=n").await, "9");
    assert_eq!(spin("get?n").await, "9");
    assert_eq!(draft2("get&key=n").await, "9");

    assert_eq!(draft2("set&key=word&value=said").await, "()");
    assert_eq!(draft("get&key=word").await, "said");
    assert_eq!(spin("keys").await, "n word");
    assert_eq!(draft("keys").await, "n word");
    assert_eq!(spin("delete?word").await, "()");
    assert_eq!(draft("get&key=word").await, "none");
    assert_eq!(draft2("keys").await, "n");
    assert_eq!(draft("delete&key=n").await, "()");
    assert_eq!(spin("get?n").await, "none");
    assert_eq!(draft2("get&key=n").await, "none");
}

const N_MANY: usize = 100_500;

/// By the cursors of either draft: numbers in the older one, words in the newer one.
async fn lists_many(store: &Arc<dyn KeyValue>) {
    let all: Vec<_> = (0..N_MANY)
        .map(|nth| (format!("key/{nth:06}"), b"v".to_vec()))
        .collect();
    for pairs in all.chunks(1_000) {
        store.set_many("", pairs).await.unwrap();
    }
    let load = |path| {
        let guest = patient(bound(guest(path), store));
        guest.limits(|limits| limits.memory_max_mb = 128).load()
    };
    let expected = format!("{N_MANY} names, {N_MANY} keys, the last key/100499");
    let draft2 = load(guests::KEYVALUE_CALL);
    let counted = draft2.body("/?open=default&op=count").await;
    assert_eq!(counted, expected);
    assert_eq!(
        load(guests::KEYVALUE_DRAFT).body("/?op=count").await,
        expected
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_keys_are_listed_by_guests() {
    let (store, _folder) = embedded();
    lists_many(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_keys_are_listed_by_guests_in_redis() {
    let server = servers::redis(&[]);
    lists_many(&in_redis(&server)).await;
}

/// Calls that are under way at once hold values here, however many the guest begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_calls_under_way_hold_is_bounded() {
    let server = servers::redis(&[]);
    let store = in_redis(&server);
    let guest = bound(guest(guests::P3_KEYVALUE), &store)
        .limits(|limits| {
            limits.memory_max_mb = 128;
            limits.wall_timeout_ms = 60_000;
            limits.epoch_timeout_ms = 30_000;
        })
        .load();
    assert_eq!(guest.body("/sets?4").await, "4 done");
    // Nothing is written before all of them are begun.
    let paused = std::process::Command::new("redis-cli")
        .args([
            "-p",
            &server.port.to_string(),
            "CLIENT",
            "PAUSE",
            "5000",
            "WRITE",
        ])
        .status();
    assert!(paused.is_ok_and(|status| status.success()));
    let said = guest.body("/sets?16").await;
    assert!(said.contains("too many large values are held"), "{said}");
    assert_eq!(
        guest.body("/sets?4").await,
        "4 done",
        "they hold nothing any more"
    );
}

/// A page of a listing is here until the guest has read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listings_hold_is_bounded() {
    let (store, _folder) = embedded();
    let pairs: Vec<_> = (0..1_000)
        .map(|nth| (format!("{nth:01000}"), vec![b'v']))
        .collect();
    store.set_many("", &pairs).await.unwrap();
    let guest = bound(guest(guests::P3_KEYVALUE), &store)
        .limits(|limits| limits.wall_timeout_ms = 60_000)
        .load();
    assert_eq!(guest.body("/listings?20").await, "20");
    let given: usize = guest.body("/listings?80").await.parse().unwrap();
    assert!((30..=45).contains(&given), "{given} pages of a megabyte");
}

async fn said(guest: &Loaded, target: &str) -> String {
    guest.get(target).await.unwrap().text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn keyvalue_call() {
    let nothing = guest(guests::KEYVALUE_CALL).load();
    assert_eq!(
        said(&nothing, "/?open=default&key=k").await,
        "Error::NoSuchStore"
    );
    let (store, _folder) = embedded();
    let granted = bound(guest(guests::KEYVALUE_CALL), &store).load();
    assert_eq!(
        said(&granted, "/?open=default&op=set&key=k&value=v").await,
        "()"
    );
    assert_eq!(said(&granted, "/?open=default&key=k").await, "v");
    for name in ["", "*", "other", "default%00"] {
        let answer = said(&granted, &format!("/?open={name}&key=k")).await;
        assert_eq!(answer, "Error::NoSuchStore", "{name}");
    }
    // Every component has its secrets there; this one lists none.
    let secret = said(&granted, "/?open=secrets&key=k").await;
    assert_eq!(secret, "none");
    let written = said(&granted, "/?open=secrets&op=set&key=k&value=v").await;
    assert_eq!(written, "Error::AccessDenied");
}

/// Components see each other's values where they are bound to the same store, and nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_of_another_component() {
    let (ours, _folder) = embedded();
    let (theirs, _other) = embedded();
    let first = bound(guest(guests::KEYVALUE_CALL), &ours).load();
    let friend = guest(guests::KEYVALUE_CALL)
        .bind("shared", Store::Keyvalue(ours.clone()))
        .load();
    let stranger = bound(guest(guests::KEYVALUE_CALL), &theirs).load();
    assert_eq!(
        said(&first, "/?open=default&op=set&key=k&value=v").await,
        "()"
    );
    assert_eq!(said(&friend, "/?open=shared&key=k").await, "v");
    assert_eq!(
        said(&friend, "/?open=default&key=k").await,
        "Error::NoSuchStore"
    );
    assert_eq!(said(&stranger, "/?open=default&key=k").await, "none");
    assert_eq!(said(&stranger, "/?open=default&op=keys").await, "");
}

/// With `*` each name is a bucket of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_by_any_name() {
    let (store, _folder) = embedded();
    let guest = bound(guest(guests::KEYVALUE_CALL), &store)
        .bind("*", Store::Keyvalue(store.clone()))
        .load();
    for name in ["default", "users", "users:1"] {
        let set = format!("/?open={name}&op=set&key=k&value={name}");
        assert_eq!(said(&guest, &set).await, "()");
    }
    for name in ["default", "users", "users:1"] {
        assert_eq!(said(&guest, &format!("/?open={name}&key=k")).await, name);
    }
    assert_eq!(said(&guest, "/?open=nobody&key=k").await, "none");
    assert_eq!(said(&guest, "/?open=*&key=k").await, "Error::NoSuchStore");
}

/// How many replicas a component has is the operator's choice: what it may do does not grow with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_component_share_its_operations() {
    const PER_SEC: u32 = 20;
    let (store, _folder) = embedded();
    let one = bound(guest(guests::KEYVALUE_CALL), &store)
        .limits(|limits| limits.operations_per_sec = Some(PER_SEC))
        .load();
    let other = one.component.replica(8);
    let began = std::time::Instant::now();
    let (mut done, mut refused) = (0, 0);
    for _ in 0..60 {
        for replica in [&one.replica, &other] {
            let answer = replica.call(get("/?open=default&op=set&key=k&value=v"));
            match read(answer.await.unwrap()).await {
                answer if answer.status == 200 => done += 1,
                answer => {
                    assert!(answer.text().contains("operations_per_sec"), "{answer:?}");
                    refused += 1;
                }
            }
        }
    }
    // One second's worth at once, and what came in meanwhile; a bucket for each would give twice as much.
    let earned = f64::from(PER_SEC) * (1.0 + began.elapsed().as_secs_f64());
    assert!(f64::from(done) <= earned, "{done} of {earned}");
    assert_eq!(done + refused, 120);
    // Whoever is bound to the same store has operations of its own.
    let neighbour = bound(guest(guests::KEYVALUE_CALL), &store)
        .limits(|limits| limits.operations_per_sec = Some(1))
        .load();
    assert_eq!(said(&neighbour, "/?open=default&key=k").await, "v");
}

/// Bytes are those of the store: what one component wrote counts for the other that is bound to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_at_one_store_share_its_bytes() {
    let (store, _folder) = embedded();
    let component = |storage_max_mb: u64| {
        bound(guest(guests::KEYVALUE_CALL), &store)
            .limits(|limits| limits.storage_max_mb = storage_max_mb)
            .load()
    };
    let (small, large) = (component(1), component(2));
    let set = |key: &str| format!("/?open=default&op=set&key={key}&bytes=600000");
    assert_eq!(said(&small, &set("a")).await, "()");
    assert_eq!(said(&large, &set("b")).await, "()");
    for (who, key) in [(&small, "c"), (&large, "d")] {
        let grown = said(who, &set(key)).await;
        // 1.2 MB are there: too much for one, and with this for neither but the larger.
        let expected = std::ptr::eq(who, &large);
        assert_eq!(grown == "()", expected, "{grown}");
    }
    let refused = said(&large, &set("e")).await;
    assert!(refused.contains("storage_max_mb"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_within_its_bytes() {
    let (store, _folder) = embedded();
    let guest = bound(guest(guests::KEYVALUE_CALL), &store)
        .bind("*", Store::Keyvalue(store.clone()))
        .limits(|limits| limits.storage_max_mb = 1)
        .load();
    let set =
        |key: &str, n_bytes: usize| format!("/?open=default&op=set&key={key}&bytes={n_bytes}");
    assert_eq!(said(&guest, &set("a", 600_000)).await, "()");
    let refused = said(&guest, &set("b", 600_000)).await;
    assert!(refused.contains("storage_max_mb"), "{refused}");
    // Another name is another bucket, and the same quota.
    let elsewhere = said(&guest, "/?open=more&op=set&key=b&bytes=600000").await;
    assert!(elsewhere.contains("storage_max_mb"), "{elsewhere}");
    let many = said(&guest, "/?open=default&op=many&key=b&bytes=60000").await;
    assert!(many.contains("storage_max_mb"), "{many}");
    assert_eq!(said(&guest, "/?open=default&op=keys").await, "a");
    assert_eq!(said(&guest, &set("b", 400_000)).await, "()");
    let refused = said(&guest, "/?open=default&op=many&key=n&bytes=9000").await;
    assert!(refused.contains("storage_max_mb"), "{refused}");
    // What is there can be made smaller, and deleted.
    assert_eq!(said(&guest, &set("a", 599_000)).await, "()");
    assert_eq!(said(&guest, "/?open=default&op=delete&key=a").await, "()");
    assert_eq!(said(&guest, &set("c", 600_000)).await, "()");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_within_its_operations() {
    let (store, _folder) = embedded();
    let guest = bound(guest(guests::KEYVALUE_CALL), &store)
        .limits(|limits| limits.operations_per_sec = Some(5))
        .load();
    let mut n_refused = 0;
    for _ in 0..20 {
        let answer = said(&guest, "/?open=default&op=increment&key=n").await;
        if answer.contains("operations_per_sec") {
            n_refused += 1;
        }
    }
    // Five at once, and five in each second that this takes.
    assert!((1..=15).contains(&n_refused), "{n_refused}");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let many = said(&guest, "/?open=default&op=many&key=n&value=v").await;
    assert!(
        many.contains("operations_per_sec"),
        "a batch counts each key: {many}"
    );
}

/// What a guest holds of values is the host's memory: it has an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyvalue_that_is_held() {
    let (store, _folder) = embedded();
    let guest = bound(guest(guests::KEYVALUE_CALL), &store).load();
    let set = "/?open=default&op=set&key=k&bytes=10000000";
    assert_eq!(said(&guest, set).await, "()");
    let held = said(&guest, "/?open=default&op=hold&key=k").await;
    assert!(
        held.starts_with("4 ") && held.contains("too many large values"),
        "{held}"
    );
    assert_eq!(said(&guest, "/?open=default&key=k").await, "10000000 bytes");
}

/// A component hears of each change, in order, and of nothing from before.
async fn watches(path: &'static str) {
    let (store, _folder) = embedded();
    store.set("", "before", b"x", None).await.unwrap();
    let guest = guest(path)
        .bind("default", Store::Keyvalue(store.clone()))
        .load_worker();
    let triggers = Triggers {
        watches: vec!["default".to_owned()],
        ..Triggers::default()
    };
    let working = guest.replica.work(&triggers).await.unwrap().unwrap();
    let lines = || guest.log.lines(LogStream::Stdout);
    // Watching begins in a task of its own: until it has, nothing is heard.
    let mut nth = 0;
    while lines().is_empty() {
        nth += 1;
        store
            .set("", "first", nth.to_string().as_bytes(), None)
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    store.set("elsewhere", "k", b"x", None).await.unwrap();
    store.set("", "trap", b"", None).await.unwrap();
    store.set("", "k", b"1", None).await.unwrap();
    store.set("", "k", b"2", None).await.unwrap();
    store.delete("", "k").await.unwrap();
    store.set("", "ask", b"hello", None).await.unwrap();
    eventually(|| lines().iter().any(|line| line == "set answer HELLO")).await;
    let seen = lines();
    let seen = seen.iter().skip_while(|line| line.starts_with("set first"));
    let expected = [
        "set k 1",
        "set k 2",
        "delete k",
        "set ask hello",
        "set answer HELLO",
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert_eq!(store.get("", "answer").await, Ok(Some(b"HELLO".to_vec())));
    assert!(
        guest
            .log
            .agent()
            .contains("change-lost: a change of `trap`"),
        "{}",
        guest.log.agent()
    );
    working.take_no_more();
    eventually(|| working.under_way() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn watcher_draft() {
    watches(guests::WATCHER_DRAFT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn watcher_draft2() {
    watches(guests::WATCHER_DRAFT2).await;
}
