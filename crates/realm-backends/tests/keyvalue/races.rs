//! Many callers at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use realm_model::cloud::{Check, CloudError, Edit, KeyValue, Swapped};
use tokio::task::JoinSet;

use crate::Bench;
use crate::checks::SECOND;

const TASKS: u64 = 8;
const STEPS: u64 = 25;

async fn spread<F: Future<Output = ()> + Send + 'static>(
    bench: &Bench,
    run: impl Fn(Arc<dyn KeyValue>, u64) -> F,
) {
    let mut all = JoinSet::new();
    for nth in 0..TASKS {
        all.spawn(run(bench.store.clone(), nth));
    }
    all.join_all().await;
}

/// Each task replaces what it read until it has done so a number of times: the count is exact only if no
/// replacement was lost, and none was done by two.
pub(crate) async fn one_of_many_swaps_wins(bench: &Bench) {
    spread(bench, async |store, _| {
        for _ in 0..STEPS {
            let mut seen = store.read("a", "n").await.unwrap();
            loop {
                let text = seen.value.as_deref().unwrap_or(b"0");
                let number: u64 = std::str::from_utf8(text).unwrap().parse().unwrap();
                let next = (number + 1).to_string();
                match store
                    .swap("a", "n", &seen.revision, next.as_bytes())
                    .await
                    .unwrap()
                {
                    Swapped::Done => break,
                    Swapped::Changed(now) => {
                        assert_ne!(now.revision, seen.revision);
                        seen = now;
                    }
                }
            }
        }
    })
    .await;
    let expected = (TASKS * STEPS).to_string().into_bytes();
    assert_eq!(bench.store.get("a", "n").await, Ok(Some(expected)));
}

pub(crate) async fn no_increment_is_lost(bench: &Bench) {
    spread(bench, async |store, nth| {
        for _ in 0..STEPS {
            store
                .increment("a", "n", 1 + i64::try_from(nth).unwrap())
                .await
                .unwrap();
        }
    })
    .await;
    let sum = STEPS * (TASKS + TASKS * (TASKS - 1) / 2);
    assert_eq!(
        bench.store.get("a", "n").await,
        Ok(Some(sum.to_string().into_bytes()))
    );
}

/// Money moves between accounts, and its sum stays.
pub(crate) async fn transactions_do_not_mix(bench: &Bench) {
    if !bench.can.commit_many {
        return;
    }
    let store = &*bench.store;
    for key in ["from", "to"] {
        store.set("a", key, b"1000", None).await.unwrap();
    }
    let done = Arc::new(AtomicU64::new(0));
    let counted = done.clone();
    spread(bench, move |store, _| {
        let done = counted.clone();
        async move {
            while done.load(Ordering::Relaxed) < TASKS * STEPS {
                let (from, to) = (store.read("a", "from"), store.read("a", "to"));
                let (from, to) = (from.await.unwrap(), to.await.unwrap());
                let number = |value: &Option<Vec<u8>>| -> i64 {
                    String::from_utf8(value.clone().unwrap())
                        .unwrap()
                        .parse()
                        .unwrap()
                };
                let (left, right) = (number(&from.value) - 1, number(&to.value) + 1);
                let check = |key: &str, revision| Check {
                    key: key.to_owned(),
                    revision,
                };
                let checks = [check("from", from.revision), check("to", to.revision)];
                let set =
                    |key: &str, n: i64| Edit::Set(key.to_owned(), n.to_string().into_bytes(), None);
                let edits = [set("from", left), set("to", right)];
                if store.commit("a", &checks, &edits).await.unwrap() {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    })
    .await;
    let done = done.load(Ordering::Relaxed);
    assert!(done >= TASKS * STEPS);
    let values = store
        .get_many("a", &["from".to_owned(), "to".to_owned()])
        .await
        .unwrap();
    let expected = [1000 - done, 1000 + done].map(|n| Some(n.to_string().into_bytes()));
    assert_eq!(values, expected);
}

/// Of each key a watcher sees no older value after a newer one, and the last.
pub(crate) async fn watchers_see_the_order(bench: &Bench) {
    let mut changes = bench.store.watch("a").await.unwrap();
    let each = bench.can.tell_each_change;
    let watching = tokio::spawn(async move {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let mut n_changes = 0;
        while seen.len() < 8 || seen.values().any(|last| *last < STEPS) {
            let next = tokio::time::timeout(20 * SECOND, changes.next()).await;
            let change = next.expect("in time").unwrap();
            let text = String::from_utf8(change.value.unwrap()).unwrap();
            let (number, last) = (text.parse().unwrap(), seen.entry(change.key).or_insert(0));
            assert!(number >= *last, "{number} after {last}");
            assert!(
                !each || number == *last + 1,
                "{number} after {last}: each is told"
            );
            *last = number;
            n_changes += 1;
        }
        n_changes
    });
    spread(bench, async |store, nth| {
        for step in 1..=STEPS {
            let (key, value) = (nth.to_string(), step.to_string());
            store.set("a", &key, value.as_bytes(), None).await.unwrap();
        }
    })
    .await;
    let n_changes = watching.await.unwrap();
    assert!(!each || n_changes == TASKS * STEPS);
}

/// Writes key after key while a server goes away and comes back: what was acknowledged, in order, and how
/// often it failed.
pub(crate) async fn write_until_it_is_back(store: Arc<impl KeyValue>) -> (Vec<String>, usize) {
    let (mut done, mut failed, mut after) = (Vec::new(), 0, 0);
    for nth in 0.. {
        let key = format!("k{nth}");
        match store.set("a", &key, key.as_bytes(), None).await {
            Ok(()) => {
                done.push(key);
                after += usize::from(failed > 0);
            }
            Err(error) => {
                assert!(
                    matches!(error, CloudError::Unavailable | CloudError::Timeout),
                    "{error:?}"
                );
                failed += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        if after > 50 {
            break;
        }
    }
    (done, failed)
}
