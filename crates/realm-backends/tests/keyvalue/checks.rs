//! One call after another.

use std::time::{Duration, Instant};

use realm_model::cloud::{Check, CloudError, Edit, Revision, Swapped, limits};

use crate::Bench;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn a_value_comes_back(bench: &Bench) {
    let store = &*bench.store;
    assert_eq!(store.get("a", "k").await, Ok(None));
    assert_eq!(store.exists("a", "k").await, Ok(false));
    assert_eq!(store.delete("a", "k").await, Ok(()));
    store.set("a", "k", b"one", None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(b"one".to_vec())));
    assert_eq!(store.exists("a", "k").await, Ok(true));
    store.set("a", "k", b"two", None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(b"two".to_vec())));
    store.delete("a", "k").await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(None));
    assert_eq!(store.exists("a", "k").await, Ok(false));
    store.set("a", "k", b"three", None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(b"three".to_vec())));
}

pub(crate) async fn values_are_any_bytes(bench: &Bench) {
    let store = &*bench.store;
    let every: Vec<u8> = (0..=255).collect();
    for (nth, value) in [&b""[..], b"\0", b"\r\n$-1\r\n", &[0xff; 3], &every]
        .into_iter()
        .enumerate()
    {
        let key = format!("k{nth}");
        store.set("a", &key, value, None).await.unwrap();
        assert_eq!(
            store.get("a", &key).await,
            Ok(Some(value.to_vec())),
            "{nth}"
        );
        let seen = store.read("a", &key).await.unwrap();
        assert_eq!(seen.value.as_deref(), Some(value), "{nth}");
        let swapped = store.swap("a", &key, &seen.revision, b"\0x").await;
        assert_eq!(swapped, Ok(Swapped::Done), "{nth}");
        assert_eq!(
            store.get("a", &key).await,
            Ok(Some(b"\0x".to_vec())),
            "{nth}"
        );
    }
    let n_keys = store.keys("a", None).await.unwrap().keys.len();
    assert_eq!(n_keys, 5);
}

/// Keys that somebody might read otherwise.
const KEYS: &[&str] = &[
    "a",
    "A",
    ".",
    "..",
    ".a.",
    "a..b",
    "a.b",
    "*",
    ">",
    "a*",
    "?",
    "[a-z]",
    "\\",
    "^",
    " ",
    "a b",
    "\n",
    "\0",
    "\u{7f}",
    "=",
    "=2E",
    "%",
    "%3A",
    ":",
    "a:b",
    "/",
    "../../a",
    "-",
    "_",
    "__",
    "$KV",
    "grüße",
    "日本語",
    "🦀",
    "e\u{301}",
    "\u{e9}",
    "\u{feff}",
    "{a}",
    "'",
    "\"",
    "\u{10ffff}",
];

pub(crate) async fn keys_are_any_text(bench: &Bench) {
    let store = &*bench.store;
    let long = "ü".repeat(limits::KEY_BYTES_MAX / 2);
    let longest = "*".repeat(limits::KEY_BYTES_MAX);
    let all: Vec<&str> = KEYS.iter().copied().chain([&*long, &*longest]).collect();
    for key in &all {
        store.set("a", key, key.as_bytes(), None).await.unwrap();
    }
    for key in &all {
        let value = store.get("a", key).await.unwrap();
        assert_eq!(value.as_deref(), Some(key.as_bytes()), "{key:?}");
    }
    let mut listed = crate::listing::all_keys(store, "a").await;
    listed.sort();
    let mut sorted: Vec<String> = all.iter().map(|key| (*key).to_owned()).collect();
    sorted.sort();
    assert_eq!(listed, sorted);
    for key in &all {
        store.delete("a", key).await.unwrap();
        assert_eq!(store.get("a", key).await, Ok(None), "{key:?}");
    }
    assert_eq!(
        crate::listing::all_keys(store, "a").await,
        Vec::<String>::new()
    );
}

pub(crate) async fn bad_arguments_are_refused(bench: &Bench) {
    let store = &*bench.store;
    let long = "k".repeat(limits::KEY_BYTES_MAX + 1);
    for key in ["", &long] {
        let invalid = |result: Result<(), CloudError>| {
            let error = result.unwrap_err();
            assert!(matches!(error.code(), "invalid" | "too-large"), "{error:?}");
        };
        invalid(store.get("a", key).await.map(drop));
        invalid(store.set("a", key, b"", None).await);
        invalid(store.delete("a", key).await);
        invalid(store.exists("a", key).await.map(drop));
        invalid(store.ttl("a", key).await.map(drop));
        invalid(store.increment("a", key, 1).await.map(drop));
        invalid(store.read("a", key).await.map(drop));
        let revision = store.read("a", "k").await.unwrap().revision;
        invalid(store.swap("a", key, &revision, b"").await.map(drop));
        let keys = [key.to_owned()];
        invalid(store.get_many("a", &keys).await.map(drop));
        invalid(store.delete_many("a", &keys).await);
        invalid(store.set_many("a", &[(key.to_owned(), vec![])]).await);
        invalid(
            store
                .commit("a", &[], &[Edit::Delete(key.to_owned())])
                .await
                .map(drop),
        );
    }
    let large = vec![0; limits::VALUE_BYTES_MAX + 1];
    let error = store.set("a", "k", &large, None).await.unwrap_err();
    assert_eq!(error.code(), "too-large");
    let zero = store.set("a", "k", b"", Some(Duration::ZERO)).await;
    assert_eq!(zero.unwrap_err().code(), "invalid");
    for cursor in ["", "\u{0}", "99999999999999999999999.1", "zz.zz", &long] {
        match store.keys("a", Some(cursor)).await {
            Ok(page) => assert!(page.keys.is_empty(), "{cursor:?}: {page:?}"),
            Err(error) => assert!(matches!(error.code(), "invalid" | "too-large"), "{error:?}"),
        }
    }
    assert_eq!(store.get("a", "k").await, Ok(None));
    let nonsense = Revision(b"nonsense".to_vec());
    let swapped = store.swap("a", "k", &nonsense, b"x").await;
    assert!(
        !matches!(swapped, Ok(Swapped::Done)),
        "a revision that nobody made: {swapped:?}"
    );
    assert_eq!(store.get("a", "k").await, Ok(None));
}

pub(crate) async fn buckets_are_apart(bench: &Bench) {
    let store = &*bench.store;
    let pairs = [
        ("a", "b:c"),
        ("", "a:c"),
        ("", "%a:c"),
        ("", "%"),
        ("a:b", "c"),
        ("a%3Ab", "c"),
        ("*", "c"),
        ("a*", "c"),
        ("?", "c"),
        ("A", "c"),
        ("a.b", "c"),
        ("a_b", "c"),
        ("a", "c"),
        ("ab", "c"),
        ("a b", "c"),
        ("ä", "c"),
        ("a__b", "c"),
    ];
    for (nth, (bucket, key)) in pairs.iter().enumerate() {
        let value = nth.to_string();
        store
            .set(bucket, key, value.as_bytes(), None)
            .await
            .unwrap();
    }
    for (nth, (bucket, key)) in pairs.iter().enumerate() {
        let value = store.get(bucket, key).await.unwrap();
        assert_eq!(
            value,
            Some(nth.to_string().into_bytes()),
            "{bucket:?} {key:?}"
        );
        let mut keys = crate::listing::all_keys(store, bucket).await;
        keys.sort();
        let expected: &[&str] = match *bucket {
            "a" => &["b:c", "c"],
            "" => &["%", "%a:c", "a:c"],
            _ => &["c"],
        };
        assert_eq!(keys, expected, "{bucket:?}");
    }
    store.delete("a", "c").await.unwrap();
    assert_eq!(store.get("ab", "c").await, Ok(Some(b"13".to_vec())));
}

pub(crate) async fn large_values(bench: &Bench) {
    let store = &*bench.store;
    let largest = bench.can.value_bytes_max;
    for n_bytes in [1_023, 1_024, 1_025, 4_096, 100_000, largest] {
        let value: Vec<u8> = (0..n_bytes).map(|nth| (nth % 251) as u8).collect();
        store.set("a", "k", &value, None).await.unwrap();
        let seen = store.get("a", "k").await.unwrap().unwrap();
        assert!(seen == value, "{n_bytes}");
        let seen = store.read("a", "k").await.unwrap();
        assert_eq!(seen.value.as_ref().map(Vec::len), Some(n_bytes));
        let swapped = store.swap("a", "k", &seen.revision, &value[1..]).await;
        assert_eq!(swapped, Ok(Swapped::Done), "{n_bytes}");
        let seen = store.get("a", "k").await.unwrap().unwrap();
        assert!(seen == value[1..], "{n_bytes}");
    }
    if largest < limits::VALUE_BYTES_MAX {
        let value = vec![0; largest * 2];
        let error = store.set("a", "k2", &value, None).await.unwrap_err();
        assert_eq!(error.code(), "too-large");
        assert_eq!(store.get("a", "k2").await, Ok(None));
    }
    store.set("a", "k", b"small", None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(b"small".to_vec())));
}

pub(crate) async fn batches(bench: &Bench) {
    let store = &*bench.store;
    let pairs: Vec<(String, Vec<u8>)> = (0..limits::BATCH_MAX)
        .map(|nth| (format!("k{nth}"), nth.to_string().into_bytes()))
        .collect();
    store.set_many("a", &pairs).await.unwrap();
    let keys: Vec<String> = ["k7", "none", "k999", "k7"].map(str::to_owned).to_vec();
    let values = store.get_many("a", &keys).await.unwrap();
    let expected = ["7", "", "999", "7"].map(|text| (!text.is_empty()).then(|| text.into()));
    assert_eq!(values, expected);
    let all: Vec<String> = pairs.iter().map(|(key, _)| key.clone()).collect();
    let values = store.get_many("a", &all).await.unwrap();
    assert!(
        values
            .iter()
            .zip(&pairs)
            .all(|(got, (_, set))| got.as_ref() == Some(set))
    );
    let gone = ["k1", "none", "k2"].map(str::to_owned);
    store.delete_many("a", &gone).await.unwrap();
    assert_eq!(store.exists("a", "k1").await, Ok(false));
    assert_eq!(store.exists("a", "k2").await, Ok(false));
    assert_eq!(store.exists("a", "k3").await, Ok(true));
    assert_eq!(store.get_many("a", &[]).await, Ok(vec![]));
    assert_eq!(store.set_many("a", &[]).await, Ok(()));
    assert_eq!(store.delete_many("a", &[]).await, Ok(()));
}

pub(crate) async fn batches_have_limits(bench: &Bench) {
    let store = &*bench.store;
    let many: Vec<String> = (0..=limits::BATCH_MAX)
        .map(|nth| format!("k{nth}"))
        .collect();
    assert_eq!(
        store.get_many("a", &many).await.unwrap_err().code(),
        "invalid"
    );
    assert_eq!(
        store.delete_many("a", &many).await.unwrap_err().code(),
        "invalid"
    );
    let pairs: Vec<_> = many.iter().map(|key| (key.clone(), vec![])).collect();
    assert_eq!(
        store.set_many("a", &pairs).await.unwrap_err().code(),
        "invalid"
    );
    let n_bytes = bench.can.value_bytes_max;
    let value = vec![0; n_bytes];
    let n_keys = limits::BATCH_BYTES_MAX / n_bytes + 2;
    for key in &many[..n_keys] {
        store.set("a", key, &value, None).await.unwrap();
    }
    let error = store.get_many("a", &many[..n_keys]).await.unwrap_err();
    assert_eq!(error.code(), "too-large");
    let pairs: Vec<_> = many[..n_keys]
        .iter()
        .map(|key| (key.clone(), value.clone()))
        .collect();
    assert_eq!(
        store.set_many("b", &pairs).await.unwrap_err().code(),
        "too-large"
    );
    assert_eq!(store.exists("b", &many[0]).await, Ok(false));
}

pub(crate) async fn numbers(bench: &Bench) {
    let store = &*bench.store;
    assert_eq!(store.increment("a", "n", 5).await, Ok(5));
    assert_eq!(store.increment("a", "n", -7).await, Ok(-2));
    assert_eq!(store.increment("a", "n", 0).await, Ok(-2));
    assert_eq!(store.get("a", "n").await, Ok(Some(b"-2".to_vec())));
    store
        .set("a", "n", b"9223372036854775806", None)
        .await
        .unwrap();
    assert_eq!(store.increment("a", "n", 1).await, Ok(i64::MAX));
    assert_eq!(
        store.increment("a", "n", 1).await.unwrap_err().code(),
        "invalid"
    );
    assert_eq!(
        store.get("a", "n").await,
        Ok(Some(b"9223372036854775807".to_vec()))
    );
    for text in [
        "",
        "x",
        "1.5",
        " 1",
        "1 ",
        "+1",
        "01",
        "9223372036854775808",
    ] {
        store.set("a", "n", text.as_bytes(), None).await.unwrap();
        let error = store.increment("a", "n", 1).await.unwrap_err();
        assert_eq!(error.code(), "invalid", "{text:?}");
        assert_eq!(store.get("a", "n").await, Ok(Some(text.into())), "{text:?}");
    }
    store.delete("a", "n").await.unwrap();
    assert_eq!(store.increment("a", "n", 3).await, Ok(3));
}

pub(crate) async fn revisions(bench: &Bench) {
    let store = &*bench.store;
    let none = store.read("a", "k").await.unwrap();
    assert_eq!(none.value, None);
    assert!(none.revision.0.len() <= Revision::BYTES_MAX);
    assert_eq!(
        store.swap("a", "k", &none.revision, b"one").await,
        Ok(Swapped::Done)
    );
    let Swapped::Changed(one) = store.swap("a", "k", &none.revision, b"two").await.unwrap() else {
        panic!("a revision holds once");
    };
    assert_eq!(one.value.as_deref(), Some(&b"one"[..]));
    assert_eq!(store.read("a", "k").await, Ok(one.clone()));
    store.set("a", "k", b"two", None).await.unwrap();
    assert_ne!(
        store.swap("a", "k", &one.revision, b"x").await,
        Ok(Swapped::Done)
    );
    let two = store.read("a", "k").await.unwrap();
    store.delete("a", "k").await.unwrap();
    assert_ne!(
        store.swap("a", "k", &two.revision, b"x").await,
        Ok(Swapped::Done)
    );
    assert_eq!(store.get("a", "k").await, Ok(None));
    let none = store.read("a", "k").await.unwrap();
    assert_eq!(
        store.swap("a", "k", &none.revision, b"").await,
        Ok(Swapped::Done)
    );
    assert_eq!(store.get("a", "k").await, Ok(Some(vec![])));
    let empty = store.read("a", "k").await.unwrap();
    assert_ne!(empty.revision, none.revision, "an empty value is not none");
    store.increment("a", "n", 1).await.unwrap();
    let number = store.read("a", "n").await.unwrap();
    store.increment("a", "n", 1).await.unwrap();
    assert_ne!(
        store.swap("a", "n", &number.revision, b"x").await,
        Ok(Swapped::Done)
    );
}

pub(crate) async fn transactions(bench: &Bench) {
    let store = &*bench.store;
    let set = |key: &str, value: &[u8]| Edit::Set(key.to_owned(), value.to_vec(), None);
    let check = async |key: &str| Check {
        key: key.to_owned(),
        revision: store.read("a", key).await.unwrap().revision,
    };
    let checks = [check("one").await];
    assert_eq!(
        store.commit("a", &checks, &[set("one", b"1")]).await,
        Ok(true)
    );
    assert_eq!(
        store.commit("a", &checks, &[set("one", b"2")]).await,
        Ok(false)
    );
    assert_eq!(store.get("a", "one").await, Ok(Some(b"1".to_vec())));
    assert_eq!(store.commit("a", &checks, &[]).await, Ok(false));
    assert_eq!(
        store.commit("a", &[check("one").await], &[]).await,
        Ok(true)
    );
    assert_eq!(store.commit("a", &[], &[]).await, Ok(true));
    let twice = [
        set("one", b"3"),
        Edit::Delete("one".to_owned()),
        set("one", b"4"),
    ];
    assert_eq!(store.commit("a", &[], &twice).await, Ok(true));
    assert_eq!(store.get("a", "one").await, Ok(Some(b"4".to_vec())));
    let gone = [Edit::Delete("one".to_owned())];
    assert_eq!(
        store.commit("a", &[check("one").await], &gone).await,
        Ok(true)
    );
    assert_eq!(store.get("a", "one").await, Ok(None));

    let edits = [
        set("one", b"1"),
        set("two", b"2"),
        Edit::Delete("three".to_owned()),
    ];
    if !bench.can.commit_many {
        let error = store.commit("a", &[], &edits).await.unwrap_err();
        assert_eq!(error.code(), "unsupported");
        let error = store.commit("a", &[check("two").await], &edits[..1]).await;
        assert_eq!(error.unwrap_err().code(), "unsupported");
        assert_eq!(store.get("a", "one").await, Ok(None));
        return;
    }
    store.set("a", "three", b"3", None).await.unwrap();
    let checks = [check("one").await, check("two").await, check("three").await];
    store.set("a", "three", b"33", None).await.unwrap();
    assert_eq!(store.commit("a", &checks, &edits).await, Ok(false));
    assert_eq!(store.get("a", "one").await, Ok(None), "all or nothing");
    let checks = [check("three").await, check("two").await];
    assert_eq!(store.commit("a", &checks, &edits).await, Ok(true));
    let keys = ["one", "two", "three"].map(str::to_owned);
    let values = store.get_many("a", &keys).await.unwrap();
    assert_eq!(values, [Some(b"1".to_vec()), Some(b"2".to_vec()), None]);
    let many: Vec<Edit> = (0..=limits::BATCH_MAX)
        .map(|nth| set(&nth.to_string(), b""))
        .collect();
    assert_eq!(
        store.commit("a", &[], &many).await.unwrap_err().code(),
        "invalid"
    );
    assert_eq!(store.commit("a", &[], &many[1..]).await, Ok(true));
}

pub(crate) async fn bytes_are_counted(bench: &Bench) {
    let store = &*bench.store;
    if !bench.can.count_bytes {
        return;
    }
    let check = async |n_keys: usize, n_bytes: usize| {
        let expected = (n_keys * ("a".len() + limits::ENTRY_BYTES) + n_bytes) as u64;
        assert_eq!(store.bytes().await, Ok(Some(expected)));
    };
    check(0, 0).await;
    store.set("a", "key", b"value", None).await.unwrap();
    check(1, 8).await;
    store.set("a", "key", &[0; 5_000], None).await.unwrap();
    check(1, 5_003).await;
    store.set("b", "other", b"value", None).await.unwrap();
    check(2, 5_013).await;
    store.set("a", "key", b"", None).await.unwrap();
    check(2, 13).await;
    store.increment("a", "n", 100).await.unwrap();
    check(3, 17).await;
    let seen = store.read("a", "key").await.unwrap();
    let swapped = store.swap("a", "key", &seen.revision, b"12").await;
    assert_eq!(swapped, Ok(Swapped::Done));
    check(3, 19).await;
    let gone = ["key".to_owned(), "none".to_owned()];
    store.delete_many("a", &gone).await.unwrap();
    check(2, 14).await;
    store.delete("a", "n").await.unwrap();
    check(1, 10).await;
    let pairs: Vec<_> = (10..20)
        .map(|nth| (nth.to_string(), vec![0; 2_000]))
        .collect();
    store.set_many("a", &pairs).await.unwrap();
    check(11, 20_030).await;
    // A bucket is no room for what is not counted: its name stands before each of its keys.
    let long = "b".repeat(limits::NAME_BYTES_MAX);
    store.set(&long, "k", b"", None).await.unwrap();
    check(12, 20_030 + long.len() - 1 + 1).await;
    store.delete(&long, "k").await.unwrap();
    check(11, 20_030).await;
}

pub(crate) async fn wait_until(longest: Duration, done: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !done().await {
        assert!(
            began.elapsed() < longest,
            "it did not happen in {longest:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
