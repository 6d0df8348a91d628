//! Subscriptions with rules, which hold for every backend: what they do not want is done at once, and
//! nobody sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use realm_model::cloud::rules::{Check, Field, Literal, Number, Rule, Rules, Test, Wanted};
use realm_model::cloud::{CloudError, Message, Subscription};

use crate::support::{
    Bed, group, member, next, nothing_comes, send, soon, subscription, take, text, words,
};

/// Of numbers those above this one, unless they are for nobody; and who counts the others.
pub(crate) fn above(bound: i64, subscription: Subscription) -> (Subscription, Arc<AtomicU64>) {
    let test = |check| Test {
        checks: vec![check],
        ..Test::default()
    };
    let rules = Rules(vec![
        Rule {
            field: Field::Body(String::new()),
            any: vec![test(Check::Above(Number::Whole(bound)))],
        },
        Rule {
            field: Field::Metadata("for".to_owned()),
            any: vec![
                Test {
                    exists: Some(false),
                    ..Test::default()
                },
                Test {
                    not: vec![test(Check::Equals(Literal::Text("nobody".to_owned())))],
                    ..Test::default()
                },
            ],
        },
    ]);
    let left = Arc::<AtomicU64>::default();
    let count = Arc::clone(&left);
    let on_left = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let wanted = Wanted::new(&rules, on_left);
    (
        Subscription {
            wanted,
            ..subscription
        },
        left,
    )
}

fn count(left: &AtomicU64) -> u64 {
    left.load(Ordering::Relaxed)
}

pub(crate) async fn only_what_is_wanted_comes(bed: Bed) {
    let (large, left) = above(3, subscription("orders", "large", 2));
    let mut large = member(&bed.messaging, &large).await;
    let mut all = member(&bed.messaging, &subscription("orders", "all", 1)).await;
    for n in 0..6 {
        send(&bed.messaging, "orders", n.to_string()).await;
    }
    let for_nobody = Message {
        metadata: vec![("for".to_owned(), "nobody".to_owned())],
        ..text("7")
    };
    soon(bed.messaging.send("orders", for_nobody, None))
        .await
        .unwrap();
    send(&bed.messaging, "orders", "no number").await;
    send(&bed.messaging, "orders", "4.5").await;
    for expected in ["4", "5", "4.5"] {
        assert_eq!(take(&mut large).await, expected);
    }
    nothing_comes(&mut large).await;
    assert_eq!(count(&left), 6);
    for expected in ["0", "1", "2", "3", "4", "5", "7", "no number", "4.5"] {
        assert_eq!(take(&mut all).await, expected);
    }
}

pub(crate) async fn what_is_unwanted_is_gone(bed: Bed) {
    let once = Subscription {
        n_deliveries: 1,
        ack_wait: Duration::from_secs(2),
        ..subscription("orders", "w", 1)
    };
    let (large, left) = above(1_000, once.clone());
    bed.messaging
        .keep_groups(&[group("orders", "w")])
        .await
        .unwrap();
    for n in 0..300 {
        send(&bed.messaging, "orders", n.to_string()).await;
    }
    send(&bed.messaging, "orders", "1001").await;
    let mut worker = member(&bed.messaging, &large).await;
    let delivery = next(&mut worker).await;
    assert_eq!(
        (words(&delivery.message), delivery.attempt),
        ("1001".to_owned(), 1)
    );
    delivery.receipt.ack().await.unwrap();
    assert_eq!(count(&left), 300);
    drop(worker);
    // Whoever wants everything finds nothing of it.
    let mut worker = member(&bed.messaging, &once).await;
    nothing_comes(&mut worker).await;
    assert!(bed.messaging.dead(10).await.unwrap().is_empty());
}

pub(crate) async fn unwanted_requests_end(bed: Bed) {
    let (large, left) = above(3, subscription("sums", "w", 4));
    let mut worker = member(&bed.messaging, &large).await;
    let messaging = Arc::clone(&bed.messaging);
    let answering = tokio::spawn(async move {
        loop {
            let delivery = worker.next().await.unwrap();
            let reply_to = delivery.message.reply_to.clone().unwrap();
            let reply = text(words(&delivery.message) + "!");
            messaging.reply(&reply_to, reply).await.unwrap();
            delivery.receipt.ack().await.unwrap();
        }
    });
    let ask = |n: &str, timeout_ms| {
        let timeout = Duration::from_millis(timeout_ms);
        soon(bed.messaging.request("sums", text(n), timeout, 1))
    };
    assert_eq!(ask("3", 700).await, Err(CloudError::Timeout));
    let replies = ask("4", 20_000).await.unwrap();
    assert_eq!(words(&replies[0]), "4!");
    assert_eq!(count(&left), 1);
    answering.abort();
}
