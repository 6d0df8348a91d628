//! Listings, page by page.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use realm_model::cloud::{KeyValue, limits};

use crate::Bench;

pub(crate) async fn all_keys(store: &dyn KeyValue, bucket: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.keys(bucket, cursor.as_deref()).await.unwrap();
        assert!(page.keys.len() <= limits::PAGE_KEYS, "{}", page.keys.len());
        all.extend(page.keys);
        assert!(page.cursor.is_none() || page.cursor != cursor, "it goes on");
        cursor = page.cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

async fn fill(store: &dyn KeyValue, bucket: &str, n_keys: usize) {
    let all: Vec<(String, Vec<u8>)> = (0..n_keys)
        .map(|nth| (format!("key-{nth:06}"), vec![b'v'; 8]))
        .collect();
    for pairs in all.chunks(limits::BATCH_MAX) {
        store.set_many(bucket, pairs).await.unwrap();
    }
}

pub(crate) async fn no_keys(bench: &Bench) {
    let page = bench.store.keys("a", None).await.unwrap();
    assert_eq!(page.keys, Vec::<String>::new());
    assert_eq!(all_keys(&*bench.store, "a").await, Vec::<String>::new());
}

pub(crate) async fn lists_every_key_once(bench: &Bench) {
    let store = &*bench.store;
    let n_keys = 100_001;
    fill(store, "other", 500).await;
    fill(store, "a", n_keys).await;
    let mut keys = all_keys(store, "a").await;
    assert_eq!(keys.len(), n_keys);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), n_keys);
    assert_eq!(
        (&*keys[0], &*keys[n_keys - 1]),
        ("key-000000", "key-100000")
    );
    assert_eq!(all_keys(store, "other").await.len(), 500);
}

/// Keys that stay are given once, whatever happens to others, and to their values.
pub(crate) async fn lists_while_keys_change(bench: &Bench) {
    let store = &*bench.store;
    let n_keys = 5_000;
    fill(store, "a", n_keys).await;
    let is_over = AtomicBool::new(false);
    let others = async {
        let mut nth = 0;
        while !is_over.load(Ordering::Relaxed) {
            nth += 1;
            let comes = format!("comes-{nth}");
            store.set("a", &comes, b"x", None).await.unwrap();
            store
                .set("a", &format!("key-{:06}", nth * 7 % n_keys), b"new", None)
                .await
                .unwrap();
            if nth % 2 == 0 {
                store.delete("a", &comes).await.unwrap();
            }
        }
        nth
    };
    let listing = async {
        for _ in 0..3 {
            let keys = all_keys(store, "a").await;
            let mut counts = BTreeMap::new();
            for key in keys.iter().filter(|key| key.starts_with("key-")) {
                *counts.entry(key).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), n_keys);
            assert!(counts.values().all(|n| *n == 1), "each once");
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (n_changes, ()) = tokio::join!(others, listing);
    assert!(n_changes > 0);
}

/// Who knows the cursor of a listing and lists another bucket with it changes nothing in the first one.
pub(crate) async fn listings_are_apart(bench: &Bench) {
    let store = &*bench.store;
    let n_keys = 4_000;
    fill(store, "a", n_keys).await;
    fill(store, "b", n_keys).await;
    let first = store.keys("a", None).await.unwrap();
    let cursor = first.cursor.expect("there are more");
    // A listing of a server begins at 0 with Redis, and at 1 with NATS; a file's cursors are keys.
    let number = cursor.split_once('.').map_or("", |(number, _)| number);
    for from in [0, 1] {
        let mut other = Some(format!("{number}.{from}"));
        // Not to its end, which would end the first one as well.
        for _ in 0..3 {
            let Some(cursor) = other.take() else { break };
            // A cursor that is none is refused: then nothing was listed.
            let page = store.keys("b", Some(&cursor)).await;
            other = page.ok().and_then(|page| page.cursor);
        }
    }
    let mut keys = first.keys;
    let mut next = Some(cursor);
    while let Some(cursor) = next {
        let page = store.keys("a", Some(&cursor)).await.unwrap();
        keys.extend(page.keys);
        next = page.cursor;
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), n_keys);
}
