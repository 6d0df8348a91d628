//! `wasi:config` in its three versions: `vars`, and what stands beside them in a file, in Redis and in NATS.

use std::process::Command;
use std::sync::Arc;

use realm_host::Store;
use realm_model::cloud::KeyValue;
use realm_model::cloud::limits::{CONFIG_BYTES_MAX, CONFIG_VALUES_MAX};
use realm_test_guests as guests;

use crate::harness::{Guest, Loaded, guest};
use crate::keyvalue::{embedded, in_nats, in_redis, servers};

fn load(guest: Guest) -> Loaded {
    // On a machine with much to do.
    guest
        .limits(|limits| {
            limits.wall_timeout_ms = 60_000;
            limits.epoch_timeout_ms = 30_000;
        })
        .load()
}

fn bound(path: &'static str, store: &Arc<dyn KeyValue>) -> Guest {
    guest(path)
        .grants(|grants| drop(grants.vars.insert("color".into(), "red".into())))
        .bind("config", Store::Config(Arc::clone(store)))
}

/// What `wasi:config/store` holds, in the version that this guest was built for.
async fn check(path: &'static str) {
    let nothing = guest(path).load();
    assert_eq!(nothing.body("/").await, "{}\n");
    let granted = guest(path)
        .grants(|grants| drop(grants.vars.insert("color".into(), "red".into())))
        .load();
    assert_eq!(granted.body("/?key=color").await, "red");
    assert_eq!(granted.get("/?key=size").await.unwrap().status, 404);
    assert_eq!(granted.body("/").await, "{\"color\":\"red\"}\n");

    let (store, _folder) = embedded();
    check_store(path, &store).await;
    let redis = servers::redis(&[]);
    check_store(path, &in_redis(&redis)).await;
    let nats = servers::nats("", None);
    check_store(path, &in_nats(&nats)).await;
}

/// The same over a store, which is empty.
async fn check_store(path: &'static str, store: &Arc<dyn KeyValue>) {
    let loaded = load(bound(path, store));
    assert_eq!(loaded.body("/").await, "{\"color\":\"red\"}\n");
    assert_eq!(loaded.get("/?key=size").await.unwrap().status, 404);
    assert_eq!(loaded.get("/?key=").await.unwrap().status, 404);

    let set = async |key: &str, value: &[u8]| store.set("", key, value, None).await.unwrap();
    set("size", "größer".as_bytes()).await;
    set("color", b"blue").await;
    assert_eq!(loaded.body("/?key=size").await, "größer");
    assert_eq!(loaded.body("/?key=color").await, "red", "what was signed");
    assert_eq!(
        loaded.body("/").await,
        "{\"color\":\"red\",\"size\":\"größer\"}\n"
    );
    set("size", b"small").await;
    assert_eq!(loaded.body("/?key=size").await, "small", "at once");
    // Another bucket of the same store is none of it.
    store.set("other", "weight", b"1", None).await.unwrap();
    assert_eq!(loaded.get("/?key=weight").await.unwrap().status, 404);

    // More than a page.
    let more: Vec<_> = (0..2_100)
        .map(|nth| (format!("k{nth:04}"), b"v".to_vec()))
        .collect();
    for pairs in more.chunks(1_000) {
        store.set_many("", pairs).await.unwrap();
    }
    let all = loaded.body("/").await;
    let expected: String = more
        .iter()
        .map(|(key, _)| format!(",\"{key}\":\"v\""))
        .collect();
    assert!(
        all == format!("{{\"color\":\"red\"{expected},\"size\":\"small\"}}\n"),
        "{} bytes",
        all.len()
    );

    set("k0000", &[0xff]).await;
    let said = async |target: &str| {
        let answer = loaded.get(target).await.unwrap();
        (answer.status, answer.text().to_owned())
    };
    let bad = "Error::Upstream(\"the value of \\\"k0000\\\" is not text\")\n".to_owned();
    assert_eq!(said("/?key=k0000").await, (500, bad.clone()));
    assert_eq!(said("/").await, (500, bad));
    assert_eq!(said("/?key=k0001").await, (200, "v".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn config() {
    check(guests::CONFIG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn config_draft() {
    check(guests::CONFIG_DRAFT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn config_draft_2024_09_27() {
    check(guests::CONFIG_DRAFT_2024_09_27).await;
}

/// However much somebody writes there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_is_read_within_bounds() {
    let (store, _folder) = embedded();
    let loaded = load(bound(guests::CONFIG, &store));
    let said = async |target: &str| {
        let answer = loaded.get(target).await.unwrap();
        (answer.status, answer.text().to_owned())
    };
    let quarter = vec![b'v'; CONFIG_BYTES_MAX / 4];
    for nth in 0..4 {
        let key = format!("large{nth}");
        store.set("", &key, &quarter, None).await.unwrap();
    }
    let (status, words) = said("/").await;
    assert_eq!(status, 500);
    assert!(
        words.starts_with("Error::Upstream(\"what is read has 4194328 bytes, at most 4194304"),
        "{words}"
    );
    // One less, and it fits.
    store.delete("", "large3").await.unwrap();
    assert_eq!(said("/").await.0, 200);
    let large = vec![b'v'; CONFIG_BYTES_MAX + 1];
    store.set("", "large3", &large, None).await.unwrap();
    assert_eq!(said("/?key=large3").await.0, 500);

    for nth in 0..4 {
        store.delete("", &format!("large{nth}")).await.unwrap();
    }
    let many: Vec<_> = (0..=CONFIG_VALUES_MAX)
        .map(|nth| (format!("k{nth:05}"), b"v".to_vec()))
        .collect();
    for pairs in many.chunks(1_000) {
        store.set_many("", pairs).await.unwrap();
    }
    let (status, words) = said("/").await;
    assert_eq!(status, 500);
    assert!(words.contains("more than 10000 values"), "{words}");
    assert_eq!(said("/?key=k10000").await, (200, "v".to_owned()));
    store.delete("", "k10000").await.unwrap();
    let (status, all) = said("/").await;
    assert_eq!((status, all.matches("\":\"").count()), (200, 10_001));
    // A name of `vars` is not read there, whatever stands under it.
    store.set("", "color", &[0xff], None).await.unwrap();
    assert_eq!(said("/").await.0, 200);
}

/// Counted as what is read by `wasi:keyvalue` is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_within_its_operations() {
    let (store, _folder) = embedded();
    let loaded = bound(guests::CONFIG, &store)
        .limits(|limits| limits.operations_per_sec = Some(1))
        .load();
    eventually_refused(&loaded).await;
    // What the manifest says costs none.
    for _ in 0..20 {
        assert_eq!(loaded.body("/?key=color").await, "red");
    }
}

async fn eventually_refused(loaded: &Loaded) {
    for _ in 0..1_000 {
        let answer = loaded.get("/?key=size").await.unwrap();
        if answer.status == 500 {
            let words = answer.text();
            assert!(words.starts_with("Error::Upstream(\"the quota"), "{words}");
            return;
        }
    }
    panic!("it was never refused");
}

/// A server that is not there is an error of the version; what the operator signed is there all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_store_that_is_away_is_an_error_and_the_vars_are_there() {
    let mut redis = servers::redis(&[]);
    let mut nats = servers::nats("", None);
    let stores = [in_redis(&redis), in_nats(&nats)];
    let versions = [
        guests::CONFIG,
        guests::CONFIG_DRAFT,
        guests::CONFIG_DRAFT_2024_09_27,
    ];
    for store in &stores {
        store.set("", "size", b"large", None).await.unwrap();
    }
    let loaded = stores.iter().flat_map(|store| {
        let of_store = versions.iter().map(|path| load(bound(path, store)));
        of_store.collect::<Vec<_>>()
    });
    let loaded: Vec<_> = loaded.collect();
    for one in &loaded {
        assert_eq!(one.body("/?key=size").await, "large");
    }
    redis.kill();
    nats.kill();
    for one in &loaded {
        for target in ["/?key=size", "/"] {
            let answer = one.get(target).await.unwrap();
            assert_eq!(answer.status, 500);
            let words = answer.text();
            assert!(words.starts_with("Error::Io("), "{words}");
        }
        assert_eq!(one.body("/?key=color").await, "red");
    }
}

/// An operator with a client of the server: `redis-cli` here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_client_writes_is_read() {
    let redis = servers::redis(&[]);
    let store = in_redis(&redis);
    let loaded = load(bound(guests::CONFIG, &store));
    assert_eq!(loaded.get("/?key=size").await.unwrap().status, 404);
    let port = redis.port.to_string();
    let written = Command::new("redis-cli")
        .args(["-p", &port, "set", "cache:size", "large"])
        .output()
        .unwrap();
    assert!(written.status.success());
    assert_eq!(loaded.body("/?key=size").await, "large");
    assert_eq!(
        loaded.body("/").await,
        "{\"color\":\"red\",\"size\":\"large\"}\n"
    );
}
