//! What holds for every backend of streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_model::cloud::streams::{Bounds, Place, Record, StreamError};
use realm_model::cloud::{CloudError, limits};

use crate::support::{Bed, SHORT_BYTES, append, at, record, replay, wait_until, words};

const NOW: Duration = Duration::ZERO;

pub(crate) async fn what_is_appended_is_read_in_order_as_often_as_one_likes(bed: Bed) {
    let streams = &bed.streams;
    assert_eq!(streams.read(at("orders"), 0, 10, NOW).await, Ok(vec![]));
    let nothing = Bounds { first: 1, last: 0 };
    assert_eq!(streams.bounds(at("orders")).await, Ok(nothing));
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let odd = Record {
        key: Some("Ärger: a=b%".to_owned()),
        data: vec![0, 255, 10],
        metadata: vec![
            pair("kind", "é"),
            pair("realm-dead-why", " a "),
            pair("a", ""),
            pair("kind", " b "),
        ],
    };
    let batch = vec![record("one"), odd.clone(), record("")];
    let numbers = streams.append(at("orders"), batch, None).await.unwrap();
    assert_eq!(numbers, [1, 2, 3]);
    for n in 4..=60 {
        assert_eq!(append(streams, "orders", n.to_string()).await, n);
    }
    for _ in 0..2 {
        let all = replay(streams, "orders").await;
        assert!(all.iter().map(|one| one.seq).eq(1..=60));
        assert!(all.is_sorted_by_key(|one| one.time_ms));
        assert!(all[0].time_ms > 1_700_000_000_000, "{}", all[0].time_ms);
        let sorted = vec![
            pair("a", ""),
            pair("kind", "é"),
            pair("kind", " b "),
            pair("realm-dead-why", " a "),
        ];
        let odd = Record {
            metadata: sorted,
            ..odd.clone()
        };
        assert_eq!(all[1].record, odd);
        assert_eq!(
            (words(&all[0]), words(&all[2])),
            ("one".to_owned(), String::new())
        );
        assert!(all[3..].iter().all(|one| words(one) == one.seq.to_string()));
    }
    let page = streams.read(at("orders"), 57, 2, NOW).await.unwrap();
    assert!(page.iter().map(|one| one.seq).eq([58, 59]));
    for after in [60, 61, u64::MAX] {
        assert_eq!(streams.read(at("orders"), after, 9, NOW).await, Ok(vec![]));
    }
    assert_eq!(streams.read(at("orders"), 0, 0, NOW).await, Ok(vec![]));
    let bounds = Bounds { first: 1, last: 60 };
    assert_eq!(streams.bounds(at("orders")).await, Ok(bounds));
}

pub(crate) async fn of_those_who_append_to_one_state_one_succeeds(bed: Bed) {
    let streams = &bed.streams;
    for last in 0..5_u64 {
        let mut racing = tokio::task::JoinSet::new();
        for n in 0..20 {
            let streams = Arc::clone(streams);
            racing.spawn(async move {
                let record = record(format!("{last} of {n}"));
                streams
                    .append(at("account"), vec![record], Some(last))
                    .await
            });
        }
        let ended = racing.join_all().await;
        let well: Vec<_> = ended.iter().filter_map(|one| one.as_ref().ok()).collect();
        assert_eq!(well, [&vec![last + 1]], "{ended:?}");
        let conflict = Err(StreamError::Conflict(last + 1));
        assert_eq!(ended.iter().filter(|one| **one == conflict).count(), 19);
    }
    assert_eq!(replay(streams, "account").await.len(), 5);
    // What fails makes nothing.
    let ended = streams.append(at("new"), vec![record("x")], Some(7)).await;
    assert_eq!(ended, Err(StreamError::Conflict(0)));
    assert_eq!(streams.read(at("new"), 0, 1, NOW).await, Ok(vec![]));
}

pub(crate) async fn many_who_append_at_once_lose_nothing(bed: Bed) {
    let mut appending = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let streams = Arc::clone(&bed.streams);
        appending.spawn(async move {
            for n in 0..20 {
                let batch = (0..5).map(|nth| record(format!("{writer} {}", n * 5 + nth)));
                let batch = batch.collect();
                let numbers = streams.append(at("orders"), batch, None).await.unwrap();
                assert!(numbers.is_sorted() && numbers.len() == 5, "{numbers:?}");
            }
        });
    }
    appending.join_all().await;
    let all = replay(&bed.streams, "orders").await;
    assert!(all.iter().map(|one| one.seq).eq(1..=1_600));
    let mut next: BTreeMap<String, u32> = BTreeMap::new();
    for one in &all {
        let words = words(one);
        let (writer, n) = words.split_once(' ').unwrap();
        let next = next.entry(writer.to_owned()).or_default();
        assert_eq!(n.parse(), Ok(*next), "{writer}");
        *next += 1;
    }
    assert!(next.values().all(|n| *n == 100) && next.len() == 16);
}

pub(crate) async fn a_reader_waits_for_what_comes(bed: Bed) {
    let wait = Duration::from_secs(9);
    for (name, before) in [("new", 0), ("old", 1)] {
        if before == 1 {
            append(&bed.streams, name, "before").await;
        }
        let began = Instant::now();
        let some = Duration::from_millis(400);
        let nothing = bed.streams.read(at(name), before, 5, some).await;
        assert_eq!(nothing, Ok(vec![]));
        assert!(began.elapsed() >= some);
        let streams = Arc::clone(&bed.streams);
        let reading = tokio::spawn(async move {
            let began = Instant::now();
            let found = streams.read(at(name), before, 5, wait).await.unwrap();
            (found, began.elapsed())
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        append(&bed.streams, "other", "not this").await;
        append(&bed.streams, name, "this").await;
        let (found, took) = reading.await.unwrap();
        assert_eq!(words(&found[0]), "this");
        assert!(took < wait, "{took:?}");
    }
}

pub(crate) async fn what_is_trimmed_is_gone_for_everybody(bed: Bed) {
    let streams = &bed.streams;
    assert_eq!(streams.trim(at("nothing"), 5).await, Ok(()));
    for n in 1..=10 {
        append(streams, "orders", n.to_string()).await;
    }
    for (before, first) in [(0, 1), (4, 4), (2, 4), (9, 9)] {
        assert_eq!(streams.trim(at("orders"), before).await, Ok(()));
        let bounds = Bounds { first, last: 10 };
        assert_eq!(streams.bounds(at("orders")).await, Ok(bounds), "{before}");
        let all = replay(streams, "orders").await;
        assert!(all.iter().map(|one| one.seq).eq(first..=10));
    }
    assert_eq!(streams.trim(at("orders"), u64::MAX).await, Ok(()));
    let bounds = Bounds {
        first: 11,
        last: 10,
    };
    assert_eq!(streams.bounds(at("orders")).await, Ok(bounds));
    assert_eq!(replay(streams, "orders").await, []);
    // Numbers are not used again.
    let next = streams
        .append(at("orders"), vec![record("x")], Some(10))
        .await;
    assert_eq!(next, Ok(vec![11]));
    assert_eq!(replay(streams, "orders").await.len(), 1);
}

pub(crate) async fn a_time_leads_to_its_record(bed: Bed) {
    let streams = &bed.streams;
    assert_eq!(streams.find(at("orders"), 0).await, Ok(1));
    for n in 0..30 {
        append(streams, "orders", n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    streams.trim(at("orders"), 6).await.unwrap();
    let all = replay(streams, "orders").await;
    for wanted in all.iter().map(|one| one.time_ms).chain([0, u64::MAX]) {
        let expected = all.iter().find(|one| one.time_ms >= wanted);
        let expected = expected.map_or(31, |one| one.seq);
        assert_eq!(
            streams.find(at("orders"), wanted).await,
            Ok(expected),
            "{wanted}"
        );
    }
}

pub(crate) async fn positions_are_kept_and_guarded(bed: Bed) {
    let streams = &bed.streams;
    let of = async |consumer: &str| streams.position(at("orders"), consumer).await.unwrap();
    assert_eq!(of("bills").await, None);
    streams
        .commit(at("orders"), "bills", 1, None)
        .await
        .unwrap_err();
    append(streams, "orders", "x").await;
    streams
        .commit(at("orders"), "bills", 5, None)
        .await
        .unwrap();
    assert_eq!((of("bills").await, of("mail").await), (Some(5), None));
    let conflict = Err(StreamError::Conflict(5));
    for expected in [None, Some(4)] {
        let ended = streams.commit(at("orders"), "bills", 9, expected).await;
        assert_eq!(ended, conflict);
    }
    let ended = streams.commit(at("orders"), "mail", 9, Some(0)).await;
    assert_eq!(ended, Err(StreamError::Conflict(0)));
    let mut racing = tokio::task::JoinSet::new();
    for n in 10..20 {
        let streams = Arc::clone(streams);
        racing.spawn(async move { streams.commit(at("orders"), "bills", n, Some(5)).await });
    }
    let ended = racing.join_all().await;
    assert_eq!(
        ended.iter().filter(|one| one.is_ok()).count(),
        1,
        "{ended:?}"
    );
    assert!((10..20).contains(&of("bills").await.unwrap()));
    // Back to the beginning, as for a replay.
    let now = of("bills").await;
    streams.commit(at("orders"), "bills", 0, now).await.unwrap();
    assert_eq!(of("bills").await, Some(0));
    for n in 1..limits::CONSUMERS_MAX {
        let name = format!("c{n}");
        streams.commit(at("orders"), &name, 1, None).await.unwrap();
    }
    let ended = streams.commit(at("orders"), "more", 1, None).await;
    assert_eq!(ended, Err(CloudError::Full("the list of consumers").into()));
    // Another stream has others.
    append(streams, "other", "x").await;
    streams.commit(at("other"), "more", 1, None).await.unwrap();
    assert_eq!(streams.position(at("other"), "bills").await, Ok(None));
}

pub(crate) async fn streams_do_not_meet(bed: Bed) {
    let places = [
        ("", "a.b"),
        ("a", "b"),
        ("", "a"),
        ("a.b", "a"),
        ("", "a_b"),
        ("", "A"),
    ];
    let places = places.map(|(part, name)| Place { part, name });
    for (nth, place) in places.into_iter().enumerate() {
        let batch = vec![record(nth.to_string()); nth + 1];
        bed.streams.append(place, batch, None).await.unwrap();
        bed.streams
            .commit(place, "c", nth as u64, None)
            .await
            .unwrap();
    }
    for (nth, place) in places.into_iter().enumerate() {
        let all = bed.streams.read(place, 0, 100, NOW).await.unwrap();
        assert_eq!(all.len(), nth + 1, "{place:?}");
        assert!(all.iter().all(|one| words(one) == nth.to_string()));
        let position = bed.streams.position(place, "c").await;
        assert_eq!(position, Ok(Some(nth as u64)), "{place:?}");
    }
}

pub(crate) async fn what_is_too_large_or_odd_is_refused(bed: Bed) {
    let streams = &bed.streams;
    let of = |bytes: usize| Record {
        data: vec![b'x'; bytes],
        ..Record::default()
    };
    let max = limits::RECORD_BYTES_MAX;
    let line = Record {
        key: Some("a\nb".to_owned()),
        ..of(1)
    };
    let many = vec![of(1); limits::RECORDS_MAX + 1];
    for wrong in [
        vec![],
        vec![of(max + 1)],
        vec![of(max); 5],
        vec![line],
        many,
    ] {
        streams.append(at("orders"), wrong, None).await.unwrap_err();
    }
    for name in ["", "a b", "*", ">", "a/b", &"x".repeat(65)] {
        streams
            .append(at(name), vec![of(1)], None)
            .await
            .unwrap_err();
        streams.read(at(name), 0, 1, NOW).await.unwrap_err();
        streams.position(at("orders"), name).await.unwrap_err();
    }
    assert_eq!(replay(streams, "orders").await, []);
    let numbers = streams.append(at("orders"), vec![of(max)], None).await;
    assert_eq!(numbers, Ok(vec![1]));
    let most = vec![of(1); limits::RECORDS_MAX];
    let numbers = streams.append(at("orders"), most, None).await.unwrap();
    assert_eq!(numbers.len(), limits::RECORDS_MAX);
}

pub(crate) async fn a_page_has_so_many_bytes(bed: Bed) {
    for n in 0..10_u8 {
        let large = Record {
            data: vec![n; 900_000],
            ..Record::default()
        };
        bed.streams
            .append(at("films"), vec![large], None)
            .await
            .unwrap();
    }
    let page = bed.streams.read(at("films"), 0, 1_000, NOW).await.unwrap();
    assert_eq!(page.len(), 4, "3.6 MB of 4 MiB");
    let all = replay(&bed.streams, "films").await;
    assert!(all.iter().map(|one| one.record.data[0]).eq(0..10));
}

pub(crate) async fn the_oldest_go_for_new_ones(bed: Bed) {
    let of = |n: u32| Record {
        data: n.to_string().repeat(1_000).into_bytes(),
        ..Record::default()
    };
    let mut last = 0;
    for n in 0..200 {
        let numbers = bed.short.append(at("orders"), vec![of(n)], None).await;
        last = *numbers.unwrap().last().unwrap();
    }
    assert_eq!(last, 200, "what is old is never in the way");
    let all = replay(&bed.short, "orders").await;
    let n_bytes: usize = all.iter().map(|one| one.record.size()).sum();
    assert!((n_bytes as u64) <= SHORT_BYTES, "{n_bytes}");
    assert!(n_bytes as u64 > SHORT_BYTES / 2, "{n_bytes}");
    let first = all[0].seq;
    assert!(first > 1 && all.iter().map(|one| one.seq).eq(first..=200));
    let bounds = Bounds { first, last: 200 };
    assert_eq!(bed.short.bounds(at("orders")).await, Ok(bounds));
}

pub(crate) async fn what_is_too_old_goes(bed: Bed) {
    append(&bed.brief, "orders", "old").await;
    append(&bed.brief, "orders", "old as well").await;
    wait_until("the old ones go", async || {
        bed.brief.bounds(at("orders")).await == Ok(Bounds { first: 3, last: 2 })
    })
    .await;
    assert_eq!(append(&bed.brief, "orders", "new").await, 3);
    let all = bed.brief.read(at("orders"), 0, 10, NOW).await.unwrap();
    assert!(all.len() <= 1, "{all:?}");
    append(&bed.streams, "orders", "stays").await;
    wait_until("the new one goes", async || {
        bed.brief.bounds(at("orders")).await == Ok(Bounds { first: 4, last: 3 })
    })
    .await;
    assert_eq!(replay(&bed.streams, "orders").await.len(), 1);
}

pub(crate) async fn a_hundred_thousand_records_are_replayed_in_order(bed: Bed) {
    for page in 0..100 {
        let batch = (0..1_000).map(|n| record((page * 1_000 + n).to_string()));
        let batch = batch.collect();
        bed.streams.append(at("orders"), batch, None).await.unwrap();
    }
    let all = replay(&bed.streams, "orders").await;
    assert_eq!(all.len(), 100_000);
    for (nth, one) in all.iter().enumerate() {
        assert_eq!((one.seq, words(one)), (nth as u64 + 1, nth.to_string()));
    }
    bed.streams.trim(at("orders"), 100_000).await.unwrap();
    let left = bed.streams.read(at("orders"), 0, 10, NOW).await.unwrap();
    assert!(left.iter().map(|one| one.seq).eq([100_000]));
}

pub(crate) async fn there_are_so_many_streams_and_no_more(bed: Bed) {
    let mut making = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let streams = Arc::clone(&bed.streams);
        making.spawn(async move {
            for n in (writer..limits::STREAMS_MAX).step_by(4) {
                append(&streams, &format!("s{n}"), "x").await;
            }
        });
    }
    making.join_all().await;
    let more = bed.streams.append(at("more"), vec![record("x")], None);
    assert_eq!(
        more.await,
        Err(CloudError::Full("the list of streams").into())
    );
    assert_eq!(append(&bed.streams, "s7", "y").await, 2);
}
