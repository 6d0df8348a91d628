//! What holds for every backend of messages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_model::cloud::{
    CloudError, DEAD_DELIVERIES, DEAD_GROUP, DEAD_TOPIC, DEAD_WHY, Deliveries, Message, Messaging,
    Subscription, limits,
};

use crate::support::{
    Bed, group, member, next, nothing_comes, send, soon, subscription, take, text, value, words,
};

pub(crate) use crate::letters::dead_letters_are_listed_shown_delivered_again_and_dropped;
pub(crate) use crate::memory::{deliveries_are_bounded, replies_are_bounded, requests_are_bounded};
pub(crate) use crate::room::{a_full_queue_says_so, letters_that_meet_their_own_subscription_end};
pub(crate) use crate::rules::{
    only_what_is_wanted_comes, unwanted_requests_end, what_is_unwanted_is_gone,
};

const SHORT: Duration = Duration::from_millis(1_000);

pub(crate) async fn order_is_kept_with_one_in_flight(bed: Bed) {
    let mut worker = member(&bed.messaging, &subscription("orders", "w", 1)).await;
    for n in 0..100 {
        send(&bed.messaging, "orders", n.to_string()).await;
    }
    for n in 0..100 {
        let delivery = next(&mut worker).await;
        assert_eq!(words(&delivery.message), n.to_string());
        assert_eq!(delivery.attempt, 1);
        assert_eq!(delivery.message.topic.as_deref(), Some("orders"));
        if n == 50 {
            nothing_comes(&mut worker).await;
        }
        delivery.receipt.ack().await.unwrap();
    }
    nothing_comes(&mut worker).await;
}

pub(crate) async fn a_worker_that_crashes_loses_nothing(bed: Bed) {
    let both = Subscription {
        ack_wait: SHORT,
        n_deliveries: 50,
        ..subscription("orders", "w", 10)
    };
    let mut crashing = member(&bed.messaging, &both).await;
    for n in 0..200 {
        send(&bed.messaging, "orders", n.to_string()).await;
    }
    for n in 0..25 {
        let delivery = next(&mut crashing).await;
        if n % 3 == 0 {
            delivery.receipt.ack().await.unwrap();
        } else {
            // Neither a word nor an end: what a machine without power says.
            std::mem::forget(delivery.receipt);
        }
        if n % 10 == 9 {
            drop(crashing);
            crashing = member(&bed.messaging, &both).await;
        }
    }
    drop(crashing);
    let mut worker = member(&bed.messaging, &both).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 200 - 9 {
        seen.insert(take(&mut worker).await);
    }
    nothing_comes(&mut worker).await;
}

pub(crate) async fn silence_is_delivered_again(bed: Bed) {
    let both = Subscription {
        ack_wait: SHORT,
        ..subscription("orders", "w", 1)
    };
    let mut silent = member(&bed.messaging, &both).await;
    send(&bed.messaging, "orders", "a").await;
    let first = next(&mut silent).await;
    let began = Instant::now();
    let mut other = member(&bed.messaging, &both).await;
    drop(silent);
    let second = next(&mut other).await;
    assert!(
        began.elapsed() > SHORT.mul_f32(0.7),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        (second.attempt, words(&second.message)),
        (2, "a".to_owned())
    );
    second.receipt.ack().await.unwrap();
    // Late words change nothing.
    assert!(!first.receipt.retry(Duration::ZERO, "late").await.unwrap());
    nothing_comes(&mut other).await;
}

pub(crate) async fn what_is_worked_on_is_not_delivered_again(bed: Bed) {
    let both = Subscription {
        ack_wait: SHORT,
        ..subscription("orders", "w", 2)
    };
    let mut worker = member(&bed.messaging, &both).await;
    send(&bed.messaging, "orders", "a").await;
    let delivery = next(&mut worker).await;
    for _ in 0..4 {
        nothing_comes(&mut worker).await;
        delivery.receipt.extend().await.unwrap();
    }
    delivery.receipt.ack().await.unwrap();
    nothing_comes(&mut worker).await;
    nothing_comes(&mut worker).await;
}

pub(crate) async fn a_retry_waits_as_long_as_it_is_told(bed: Bed) {
    let mut worker = member(&bed.messaging, &subscription("orders", "w", 1)).await;
    send(&bed.messaging, "orders", "a").await;
    send(&bed.messaging, "orders", "b").await;
    for (attempt, wait_ms) in [(1, 900), (2, 1_500)] {
        let delivery = next(&mut worker).await;
        assert_eq!(
            (delivery.attempt, words(&delivery.message)),
            (attempt, "a".to_owned())
        );
        let wait = Duration::from_millis(wait_ms);
        let began = Instant::now();
        assert!(!delivery.receipt.retry(wait, "not yet").await.unwrap());
        if attempt == 1 {
            // It lets others pass meanwhile.
            assert_eq!(take(&mut worker).await, "b");
        }
        let delivery = next(&mut worker).await;
        let waited = began.elapsed();
        assert!(waited >= wait && waited < wait + SHORT * 2, "{waited:?}");
        assert_eq!(delivery.attempt, attempt + 1);
        delivery
            .receipt
            .retry(Duration::ZERO, "again")
            .await
            .unwrap();
        let delivery = next(&mut worker).await;
        assert_eq!(delivery.attempt, attempt + 2);
        if attempt == 1 {
            delivery.receipt.ack().await.unwrap();
            send(&bed.messaging, "orders", "a").await;
            let delivery = next(&mut worker).await;
            delivery
                .receipt
                .retry(Duration::ZERO, "once")
                .await
                .unwrap();
        }
    }
}

pub(crate) async fn a_message_dies_after_so_many_deliveries(bed: Bed) {
    let mortal = Subscription {
        n_deliveries: 3,
        dead_letter: Some("dead.orders".to_owned()),
        ..subscription("orders", "w", 1)
    };
    let mut worker = member(&bed.messaging, &mortal).await;
    let mut undertaker = member(&bed.messaging, &subscription("dead.*", "u", 1)).await;
    let message = Message {
        content_type: Some("text/plain".to_owned()),
        metadata: vec![("customer".to_owned(), "7".to_owned())],
        ..text("poison")
    };
    soon(bed.messaging.send("orders", message, None))
        .await
        .unwrap();
    send(&bed.messaging, "orders", "good").await;
    for attempt in 1..=3 {
        let delivery = next(&mut worker).await;
        assert_eq!(words(&delivery.message), "poison");
        assert_eq!(delivery.attempt, attempt);
        let dead = delivery.receipt.retry(Duration::ZERO, "it is bad").await;
        assert_eq!(dead, Ok(attempt == 3));
    }
    assert_eq!(take(&mut worker).await, "good");
    nothing_comes(&mut worker).await;
    let delivery = next(&mut undertaker).await;
    delivery.receipt.ack().await.unwrap();
    let kept = soon(bed.messaging.dead(10)).await.unwrap();
    assert_eq!(kept.len(), 1);
    for letter in [&delivery.message, &kept[0]] {
        assert_eq!(words(letter), "poison");
        assert_eq!(letter.content_type.as_deref(), Some("text/plain"));
        let told = [
            ("customer", "7"),
            (DEAD_TOPIC, "orders"),
            (DEAD_GROUP, "w"),
            (DEAD_DELIVERIES, "3"),
            (DEAD_WHY, "it is bad"),
        ];
        for (key, expected) in told {
            assert_eq!(value(letter, key), Some(expected), "{key}");
        }
    }
    nothing_comes(&mut undertaker).await;
}

pub(crate) async fn silence_kills_as_well(bed: Bed) {
    let mortal = Subscription {
        n_deliveries: 2,
        ack_wait: SHORT,
        ..subscription("orders", "w", 1)
    };
    let mut worker = member(&bed.messaging, &mortal).await;
    send(&bed.messaging, "orders", "deadly").await;
    for attempt in 1..=2 {
        let delivery = next(&mut worker).await;
        assert_eq!(delivery.attempt, attempt);
        std::mem::forget(delivery.receipt);
    }
    nothing_comes(&mut worker).await;
    nothing_comes(&mut worker).await;
    let kept = soon(bed.messaging.dead(10)).await.unwrap();
    assert_eq!(words(&kept[0]), "deadly");
    assert_eq!(value(&kept[0], DEAD_DELIVERIES), Some("2"));
    // The worker goes on.
    send(&bed.messaging, "orders", "good").await;
    assert_eq!(take(&mut worker).await, "good");
}

pub(crate) async fn the_newest_dead_letters_are_kept(bed: Bed) {
    let mortal = Subscription {
        n_deliveries: 1,
        ..subscription("orders", "w", 50)
    };
    let mut worker = member(&bed.messaging, &mortal).await;
    for n in 0..1_100 {
        send(&bed.messaging, "orders", n.to_string()).await;
        let delivery = next(&mut worker).await;
        assert!(delivery.receipt.retry(Duration::ZERO, "no").await.unwrap());
    }
    let kept = soon(bed.messaging.dead(5_000)).await.unwrap();
    assert_eq!(kept.len(), 1_000);
    assert_eq!(words(&kept[0]), "1099");
    assert_eq!(words(&kept[999]), "100");
    assert_eq!(soon(bed.messaging.dead(2)).await.unwrap(), kept[..2]);
}

pub(crate) async fn every_group_gets_each_message_once(bed: Bed) {
    let mut first = member(&bed.messaging, &subscription("orders", "mail", 3)).await;
    let mut second = member(&bed.messaging, &subscription("orders", "mail", 3)).await;
    let mut alone = member(&bed.messaging, &subscription("orders", "bills", 3)).await;
    for n in 0..30 {
        send(&bed.messaging, "orders", format!("{n:02}")).await;
    }
    let (mut shared, mut by_second) = (Vec::new(), 0);
    while shared.len() < 30 {
        let delivery = soon(async {
            tokio::select! {
                one = first.next() => one,
                one = second.next() => { by_second += 1; one },
            }
        });
        let delivery = delivery.await.unwrap();
        delivery.receipt.ack().await.unwrap();
        shared.push(words(&delivery.message));
    }
    assert!((1..30).contains(&by_second), "{by_second}");
    let expected: Vec<String> = (0..30).map(|n| format!("{n:02}")).collect();
    shared.sort();
    assert_eq!(shared, expected);
    for wanted in expected {
        assert_eq!(take(&mut alone).await, wanted);
    }
    for one in [&mut first, &mut second, &mut alone] {
        nothing_comes(one).await;
    }
}

pub(crate) async fn patterns_lead_to_groups(bed: Bed) {
    let mut one = member(&bed.messaging, &subscription("orders.*", "w", 9)).await;
    let mut rest = member(&bed.messaging, &subscription("orders.>", "w", 9)).await;
    let mut exact = member(&bed.messaging, &subscription("orders.new", "w", 9)).await;
    for topic in ["orders.new", "orders.new.eu", "orders", "other.new"] {
        send(&bed.messaging, topic, topic).await;
    }
    assert_eq!(take(&mut one).await, "orders.new");
    assert_eq!(take(&mut exact).await, "orders.new");
    assert_eq!(take(&mut rest).await, "orders.new");
    assert_eq!(take(&mut rest).await, "orders.new.eu");
    for member in [&mut one, &mut rest, &mut exact] {
        nothing_comes(member).await;
    }
}

pub(crate) async fn groups_are_kept_and_forgotten(bed: Bed) {
    send(&bed.messaging, "orders", "before anybody was there").await;
    let kept = [group("orders", "w"), group("orders", "old")];
    soon(bed.messaging.keep_groups(&kept)).await.unwrap();
    send(&bed.messaging, "orders", "a").await;
    let mut worker = member(&bed.messaging, &subscription("orders", "w", 9)).await;
    assert_eq!(take(&mut worker).await, "a");
    soon(bed.messaging.keep_groups(&kept[..1])).await.unwrap();
    soon(bed.messaging.keep_groups(&kept)).await.unwrap();
    send(&bed.messaging, "orders", "b").await;
    let mut old = member(&bed.messaging, &subscription("orders", "old", 9)).await;
    assert_eq!(take(&mut old).await, "b");
    assert_eq!(take(&mut worker).await, "b");
    nothing_comes(&mut old).await;
}

/// Replies to everything with the words and a mark of its own; `n` times to each.
fn answering(on: &Arc<dyn Messaging>, mut member: Box<dyn Deliveries>, mark: &str, n: usize) {
    let (on, mark) = (Arc::clone(on), mark.to_owned());
    tokio::spawn(async move {
        while let Ok(delivery) = member.next().await {
            let reply_to = delivery.message.reply_to.clone().unwrap();
            for _ in 0..n {
                let reply = Message {
                    metadata: vec![("mark".to_owned(), mark.clone())],
                    ..text(format!("{} {mark}", words(&delivery.message)))
                };
                on.reply(&reply_to, reply).await.unwrap();
            }
            delivery.receipt.ack().await.unwrap();
        }
    });
}

pub(crate) async fn a_request_has_replies(bed: Bed) {
    let on = &bed.messaging;
    // Two of one group: one of them is asked.
    for _ in 0..2 {
        answering(
            on,
            member(on, &subscription("time", "a", 5)).await,
            "one",
            1,
        );
    }
    answering(
        on,
        member(on, &subscription("time", "b", 5)).await,
        "two",
        2,
    );
    let patience = Duration::from_secs(20);
    let replies = soon(on.request("time", text("now?"), patience, 3))
        .await
        .unwrap();
    let mut got: Vec<String> = replies.iter().map(words).collect();
    got.sort();
    assert_eq!(got, ["now? one", "now? two", "now? two"]);
    assert!(replies.iter().all(|reply| value(reply, "mark").is_some()));
    // One is enough where one is asked for, and more than come are waited for until the time is over.
    let one = soon(on.request("time", text("?"), patience, 1))
        .await
        .unwrap();
    assert_eq!(one.len(), 1);
    let began = Instant::now();
    let some = soon(on.request("time", text("?"), SHORT, 50))
        .await
        .unwrap();
    assert_eq!(some.len(), 3);
    assert!(began.elapsed() >= SHORT);
    // Many at once do not mix.
    let asked = (0..50).map(|n| {
        let on = Arc::clone(on);
        tokio::spawn(async move { on.request("time", text(n.to_string()), patience, 3).await })
    });
    for (n, task) in asked.collect::<Vec<_>>().into_iter().enumerate() {
        for reply in soon(task).await.unwrap().unwrap() {
            assert!(words(&reply).starts_with(&format!("{n} ")));
        }
    }
}

pub(crate) async fn a_request_without_reply_ends(bed: Bed) {
    let on = &bed.messaging;
    let nobody = soon(on.request("time", text("?"), Duration::from_secs(25), 1)).await;
    assert!(matches!(nobody, Err(CloudError::NotFound(_))), "{nobody:?}");
    let mut silent = member(on, &subscription("time", "a", 5)).await;
    let began = Instant::now();
    let asked = on.request("time", text("?"), SHORT, 1);
    let (none, delivery) = tokio::join!(soon(asked), next(&mut silent));
    assert_eq!(none, Err(CloudError::Timeout));
    assert!(began.elapsed() >= SHORT && began.elapsed() < SHORT * 5);
    // A reply that comes late harms nobody.
    let reply_to = delivery.message.reply_to.clone().unwrap();
    on.reply(&reply_to, text("late")).await.unwrap();
}

pub(crate) async fn nobody_is_asked_twice(bed: Bed) {
    let on = &bed.messaging;
    let mut worker = member(on, &subscription("time", "a", 5)).await;
    let asked = tokio::spawn({
        let on = Arc::clone(on);
        async move { on.request("time", text("?"), SHORT * 2, 1).await }
    });
    let delivery = next(&mut worker).await;
    assert!(delivery.message.reply_to.is_some());
    assert!(!delivery.receipt.retry(Duration::ZERO, "no").await.unwrap());
    drop(delivery);
    nothing_comes(&mut worker).await;
    assert_eq!(soon(asked).await.unwrap(), Err(CloudError::Timeout));
    // What is sent has no reply to wait for.
    send(on, "time", "a message").await;
    assert_eq!(next(&mut worker).await.message.reply_to, None);
}

pub(crate) async fn large_and_binary_messages_arrive_as_they_are(bed: Bed) {
    let mut worker = member(&bed.messaging, &subscription("blobs", "w", 4)).await;
    let mut every_byte: Vec<u8> = (0..=255).collect();
    every_byte.extend(b"\r\n\r\nMSG x 1 2\r\n");
    let large = every_byte.iter().copied().cycle();
    let large: Vec<u8> = large.take(limits::MESSAGE_BYTES_MAX).collect();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let messages = [
        Message::default(),
        Message {
            data: every_byte,
            content_type: Some("application/octet-stream; q=\"ä\"".to_owned()),
            metadata: vec![
                pair("", "empty key"),
                pair("Nats-Msg-Id", "1"),
                pair("Nats-Rollup", "all"),
                pair("a", "first"),
                pair("a", "second"),
                pair("b", ""),
                pair("c: d", " spaces "),
                pair("größe", "1 %41 ü"),
            ],
            ..Message::default()
        },
        Message {
            data: large,
            ..Message::default()
        },
    ];
    for message in &messages {
        // Twice the same: nothing is taken for a repetition.
        for _ in 0..2 {
            soon(bed.messaging.send("blobs", message.clone(), None))
                .await
                .unwrap();
        }
    }
    for message in &messages {
        for _ in 0..2 {
            let delivery = next(&mut worker).await;
            let mut expected = message.clone();
            expected.topic = Some("blobs".to_owned());
            expected.metadata.sort();
            let mut got = delivery.message;
            got.metadata.sort();
            assert!(
                got == expected,
                "{:?} {:?}",
                got.metadata,
                expected.metadata
            );
            delivery.receipt.ack().await.unwrap();
        }
    }
}

pub(crate) async fn what_is_too_large_or_odd_is_refused(bed: Bed) {
    let on = &bed.messaging;
    let large = Message {
        data: vec![0; limits::MESSAGE_BYTES_MAX + 1],
        ..Message::default()
    };
    let sent = soon(on.send("blobs", large.clone(), None)).await;
    assert!(matches!(sent, Err(CloudError::TooLarge { .. })), "{sent:?}");
    let asked = soon(on.request("blobs", large, SHORT, 1)).await;
    assert!(
        matches!(asked, Err(CloudError::TooLarge { .. })),
        "{asked:?}"
    );
    for topic in ["", "a..b", "a b", "a.*", ">", "a\r\nPUB b 0"] {
        let sent = soon(on.send(topic, text("a"), None)).await;
        assert!(
            matches!(sent, Err(CloudError::Invalid(_))),
            "{topic:?} {sent:?}"
        );
        let asked = soon(on.request(topic, text("a"), SHORT, 1)).await;
        assert!(
            matches!(asked, Err(CloudError::Invalid(_))),
            "{topic:?} {asked:?}"
        );
    }
    for topic in ["", "a.>.b", "a\n"] {
        let asked = soon(on.subscribe(&subscription(topic, "w", 1))).await;
        assert!(matches!(asked, Err(CloudError::Invalid(_))), "{topic:?}");
    }
}

pub(crate) async fn ten_thousand_messages_arrive(bed: Bed) {
    const N: usize = 10_000;
    let mut first = member(&bed.messaging, &subscription("orders", "w", 100)).await;
    let mut second = member(&bed.messaging, &subscription("orders", "w", 100)).await;
    let senders = (0..50).map(|sender| {
        let on = Arc::clone(&bed.messaging);
        tokio::spawn(async move {
            for n in (sender..N).step_by(50) {
                on.send("orders", text(n.to_string()), None).await.unwrap();
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut seen = BTreeSet::new();
    let mut acks = tokio::task::JoinSet::new();
    while seen.len() < N {
        let delivery = soon(async {
            tokio::select! {
                one = first.next() => one,
                one = second.next() => one,
            }
        });
        let delivery = delivery.await.unwrap();
        assert!(seen.insert(words(&delivery.message)));
        acks.spawn(async move { delivery.receipt.ack().await.unwrap() });
    }
    for sender in senders {
        soon(sender).await.unwrap();
    }
    while let Some(ack) = acks.join_next().await {
        ack.unwrap();
    }
    nothing_comes(&mut first).await;
    nothing_comes(&mut second).await;
}

pub(crate) async fn a_delayed_message_comes_later(bed: Bed) {
    let mut worker = member(&bed.messaging, &subscription("orders", "w", 9)).await;
    let began = Instant::now();
    for (name, delay_ms) in [("late", 3_000), ("soon", 1_200), ("zero", 0)] {
        let delay = Duration::from_millis(delay_ms);
        let sent = bed.messaging.send("orders", text(name), Some(delay));
        soon(sent).await.unwrap();
    }
    send(&bed.messaging, "orders", "at once").await;
    assert_eq!(take(&mut worker).await, "zero");
    assert_eq!(take(&mut worker).await, "at once");
    for (name, delay_ms) in [("soon", 1_200), ("late", 3_000)] {
        let delivery = next(&mut worker).await;
        let waited = began.elapsed();
        assert_eq!(words(&delivery.message), name);
        assert_eq!(delivery.attempt, 1);
        let delay = Duration::from_millis(delay_ms);
        assert!(waited >= delay && waited < delay + SHORT * 2, "{waited:?}");
        delivery.receipt.ack().await.unwrap();
    }
    nothing_comes(&mut worker).await;
}

pub(crate) async fn a_future_that_is_dropped_takes_nothing(bed: Bed) {
    let mut worker = member(&bed.messaging, &subscription("orders", "w", 2)).await;
    let on = Arc::clone(&bed.messaging);
    let sender = tokio::spawn(async move {
        for n in 0..100 {
            on.send("orders", text(n.to_string()), None).await.unwrap();
        }
    });
    let mut seen = Vec::new();
    let began = Instant::now();
    while seen.len() < 100 && began.elapsed() < Duration::from_secs(25) {
        let short = Duration::from_micros(300);
        if let Ok(delivery) = tokio::time::timeout(short, worker.next()).await {
            let delivery = delivery.unwrap();
            assert_eq!(delivery.attempt, 1);
            delivery.receipt.ack().await.unwrap();
            seen.push(words(&delivery.message));
        }
    }
    soon(sender).await.unwrap();
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
}

pub(crate) async fn what_is_given_back_comes_again(bed: Bed) {
    let mut worker = member(&bed.messaging, &subscription("orders", "w", 1)).await;
    send(&bed.messaging, "orders", "a").await;
    send(&bed.messaging, "orders", "b").await;
    let delivery = next(&mut worker).await;
    delivery.receipt.give_back().await.unwrap();
    assert_eq!(take(&mut worker).await, "a");
    // Dropped without a word, long before `ack_wait` is over.
    drop(next(&mut worker).await);
    assert_eq!(take(&mut worker).await, "b");
    nothing_comes(&mut worker).await;
}
