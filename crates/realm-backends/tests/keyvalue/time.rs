//! Keys that end, and who is told.

use std::time::Instant;

use realm_model::cloud::{Change, Edit, Swapped, Versioned, limits};

use crate::Bench;
use crate::checks::{SECOND, wait_until};

pub(crate) async fn keys_end(bench: &Bench) {
    let store = &*bench.store;
    store.set("a", "stays", b"x", None).await.unwrap();
    assert_eq!(store.ttl("a", "stays").await, Ok(Some(None)));
    assert_eq!(store.ttl("a", "none").await, Ok(None));
    if !bench.can.end_keys {
        let refused = store.set("a", "k", b"x", Some(SECOND)).await.unwrap_err();
        assert_eq!(refused.code(), "unsupported");
        let edit = Edit::Set("k".to_owned(), b"x".to_vec(), Some(SECOND));
        let refused = store.commit("a", &[], &[edit]).await.unwrap_err();
        assert_eq!(refused.code(), "unsupported");
        assert_eq!(store.get("a", "k").await, Ok(None));
        return;
    }
    let began = Instant::now();
    for key in ["get", "many", "kept", "taken", "number", "swapped"] {
        store.set("a", key, b"1", Some(2 * SECOND)).await.unwrap();
    }
    let edit = Edit::Set("commit".to_owned(), b"x".to_vec(), Some(2 * SECOND));
    assert_eq!(store.commit("a", &[], &[edit]).await, Ok(true));
    let left = store.ttl("a", "get").await.unwrap().unwrap().unwrap();
    assert!(
        left <= 2 * SECOND && left + began.elapsed() >= SECOND,
        "{left:?}"
    );
    store.set("a", "taken", b"x", None).await.unwrap();
    assert_eq!(store.ttl("a", "taken").await, Ok(Some(None)));
    store
        .set("a", "kept", b"x", Some(100 * SECOND))
        .await
        .unwrap();
    assert_eq!(store.increment("a", "number", 4).await, Ok(5));
    let left = store.ttl("a", "number").await.unwrap().unwrap();
    assert!(
        left.is_some_and(|left| left <= 2 * SECOND),
        "its time stays: {left:?}"
    );
    let seen = store.read("a", "swapped").await.unwrap();
    let swapped = store.swap("a", "swapped", &seen.revision, b"x").await;
    assert_eq!(swapped, Ok(Swapped::Done));
    assert_eq!(store.ttl("a", "swapped").await, Ok(Some(None)));
    let before = store.read("a", "get").await.unwrap();

    wait_until(5 * SECOND, async || {
        store.exists("a", "get").await == Ok(false)
    })
    .await;
    assert!(began.elapsed() >= 2 * SECOND, "{:?}", began.elapsed());
    wait_until(5 * SECOND, async || {
        store.exists("a", "commit").await == Ok(false)
    })
    .await;
    wait_until(5 * SECOND, async || {
        store.exists("a", "number").await == Ok(false)
    })
    .await;
    assert_eq!(store.get("a", "get").await, Ok(None));
    assert_eq!(store.ttl("a", "get").await, Ok(None));
    let keys = ["many".to_owned(), "kept".to_owned()];
    assert_eq!(
        store.get_many("a", &keys).await,
        Ok(vec![None, Some(b"x".to_vec())])
    );
    let mut listed = crate::listing::all_keys(store, "a").await;
    listed.sort();
    assert_eq!(listed, ["kept", "stays", "swapped", "taken"]);
    let swapped = store
        .swap("a", "get", &before.revision, b"x")
        .await
        .unwrap();
    assert!(
        matches!(swapped, Swapped::Changed(Versioned { value: None, .. })),
        "{swapped:?}"
    );
    assert_eq!(
        store.increment("a", "number", 4).await,
        Ok(4),
        "it begins anew"
    );
    assert_eq!(store.ttl("a", "number").await, Ok(Some(None)));
    if bench.can.count_bytes {
        let n_bytes = ["kept", "stays", "swapped", "taken", "number", "xxxx4"]
            .concat()
            .len();
        let expected = n_bytes + 5 * ("a".len() + limits::ENTRY_BYTES);
        assert_eq!(store.bytes().await, Ok(Some(expected as u64)));
    }
}

pub(crate) async fn watchers_see_what_changes(bench: &Bench) {
    let store = &*bench.store;
    store.set("a", "before", b"x", None).await.unwrap();
    let mut changes = store.watch("a").await.unwrap();
    let mut next = async || {
        tokio::time::timeout(10 * SECOND, changes.next())
            .await
            .expect("in time")
            .unwrap()
    };
    let change = |key: &str, value: Option<&[u8]>| Change {
        key: key.to_owned(),
        value: value.map(<[u8]>::to_vec),
    };
    store.set("b", "other", b"x", None).await.unwrap();
    store.set("a", "grüße *", b"one", None).await.unwrap();
    assert_eq!(next().await, change("grüße *", Some(b"one")));
    store.delete("a", "grüße *").await.unwrap();
    assert_eq!(next().await, change("grüße *", None));
    store.increment("a", "n", 2).await.unwrap();
    assert_eq!(next().await, change("n", Some(b"2")));
    let seen = store.read("a", "n").await.unwrap();
    store.swap("a", "n", &seen.revision, b"").await.unwrap();
    assert_eq!(next().await, change("n", Some(b"")));
    store
        .set_many("a", &[("m".to_owned(), b"\0".to_vec())])
        .await
        .unwrap();
    assert_eq!(next().await, change("m", Some(b"\0")));
    store.delete_many("a", &["m".to_owned()]).await.unwrap();
    assert_eq!(next().await, change("m", None));
    let edit = Edit::Set("c".to_owned(), b"1".to_vec(), None);
    assert_eq!(store.commit("a", &[], &[edit]).await, Ok(true));
    assert_eq!(next().await, change("c", Some(b"1")));
    if bench.can.end_keys {
        store.set("a", "ends", b"x", Some(SECOND)).await.unwrap();
        assert_eq!(next().await, change("ends", Some(b"x")));
        let mut ended = next().await;
        // Setting a time is a change of its own where the server says so.
        while ended == change("ends", Some(b"x")) {
            ended = next().await;
        }
        assert_eq!(ended, change("ends", None));
    }
    store.set("a", "last", b"", None).await.unwrap();
    assert_eq!(next().await, change("last", Some(b"")));
}
