//! Bytes of messages that a node has in memory at once: bounded, whoever keeps them there.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realm_backends::Unwatched;
use realm_backends::messaging::{Embedded, Room};
use realm_model::cloud::{
    CloudError, Deliveries, Delivery, Message, Messaging, Subscription, limits,
};

use crate::support::{Bed, member, next, send, soon, subscription, text};

/// Large messages that are more than what may be in memory.
const MANY: usize = 90;
/// And what may be: 64 MiB, what one answer of a server brings, and one for each that has none.
const FEW: usize = 75;
/// How long nothing has to come until it is believed that nothing does.
const SILENCE: Duration = Duration::from_secs(2);

fn large() -> Message {
    text("x".repeat(limits::MESSAGE_BYTES_MAX))
}

/// All that a member gets as long as it keeps what it got.
async fn kept(worker: &mut Box<dyn Deliveries>) -> Vec<Delivery> {
    let mut kept = vec![next(worker).await];
    while let Ok(delivery) = tokio::time::timeout(SILENCE, worker.next()).await {
        kept.push(delivery.unwrap());
    }
    kept
}

pub(crate) async fn deliveries_are_bounded(bed: Bed) {
    let queue = &bed.messaging;
    let mut worker = member(queue, &subscription("orders", "w", 1_000)).await;
    let mut other = member(queue, &subscription("orders", "others", 2)).await;
    for _ in 0..MANY {
        soon(queue.send("orders", large(), None)).await.unwrap();
    }
    let mut held = kept(&mut worker).await;
    assert!((30..FEW).contains(&held.len()), "{}", held.len());
    // Nobody waits for who keeps all there is.
    for _ in 0..3 {
        next(&mut other).await.receipt.ack().await.unwrap();
    }
    let mut n = held.len();
    while n < MANY {
        for delivery in held.drain(..) {
            delivery.receipt.ack().await.unwrap();
        }
        held.push(next(&mut worker).await);
        n += 1;
    }
}

pub(crate) async fn requests_are_bounded(bed: Bed) {
    let queue = &bed.messaging;
    let mut worker = member(queue, &subscription("ask", "w", 1)).await;
    let asking = (0..MANY).map(|_| {
        let queue = Arc::clone(queue);
        tokio::spawn(async move {
            let minute = Duration::from_secs(60);
            queue.request("ask", large(), minute, 1).await
        })
    });
    let asking: Vec<_> = asking.collect();
    let held = kept(&mut worker).await;
    assert!((30..FEW).contains(&held.len()), "{}", held.len());
    for one in asking {
        one.abort();
    }
    drop(held);
    while let Ok(left) = tokio::time::timeout(SILENCE, worker.next()).await {
        drop(left);
    }
    let again = Arc::clone(queue);
    let asking = tokio::spawn(async move {
        let minute = Duration::from_secs(60);
        again.request("ask", large(), minute, 1).await
    });
    let asked = next(&mut worker).await;
    let inbox = asked.message.reply_to.clone().unwrap();
    queue.reply(&inbox, text("yes")).await.unwrap();
    assert_eq!(soon(asking).await.unwrap().unwrap(), [text("yes")]);
}

pub(crate) async fn replies_are_bounded(bed: Bed) {
    let queue = &bed.messaging;
    let mut worker = member(queue, &subscription("ask", "w", 1)).await;
    let asker = Arc::clone(queue);
    let asking = tokio::spawn(async move {
        let minute = Duration::from_secs(60);
        asker.request("ask", text("?"), minute, 100).await
    });
    let asked = next(&mut worker).await;
    let inbox = asked.message.reply_to.clone().unwrap();
    for _ in 0..40 {
        // The asker has enough at some point.
        let _ = queue.reply(&inbox, large()).await;
    }
    // It does not wait for the time of its request to end.
    let replies = soon(asking).await.unwrap().unwrap();
    let n_bytes: usize = replies.iter().map(|reply| reply.data.len()).sum();
    assert!(replies.len() >= 10, "{}", replies.len());
    assert!(n_bytes <= limits::REPLIES_BYTES_MAX, "{n_bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_keeps_its_room_until_it_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let (go, gone) = channel::<()>();
    let (gone, (dying, died)) = (Mutex::new(gone), channel());
    // A disk that stands still: the queue's thread waits for this test.
    let on_death = move |_: &_| {
        let _ = dying.send(());
        let _ = gone.lock().unwrap().recv();
    };
    let room = Room::default();
    let path = folder.path().join("queue");
    let queue = Embedded::open(path, room, Arc::new(Unwatched), Arc::new(on_death)).unwrap();
    let queue: Arc<dyn Messaging> = Arc::new(queue);
    let mortal = Subscription {
        n_deliveries: 1,
        ..subscription("orders", "w", 1)
    };
    let mut worker = member(&queue, &mortal).await;
    send(&queue, "orders", "bad").await;
    let bad = next(&mut worker).await;
    let stuck = tokio::spawn(async move { bad.receipt.retry(Duration::ZERO, "no").await });
    tokio::task::spawn_blocking(move || died.recv().unwrap())
        .await
        .unwrap();
    for _ in 0..MANY {
        let mut sending = queue.send("orders", large(), None);
        // Whoever wanted it is gone after the first look.
        assert!(futures_util::poll!(&mut sending).is_pending());
    }
    go.send(()).unwrap();
    assert_eq!(soon(stuck).await.unwrap(), Ok(true));
    let mut n = 0;
    send(&queue, "orders", "last").await;
    loop {
        let delivery = next(&mut worker).await;
        delivery.receipt.ack().await.unwrap();
        if delivery.message.data == b"last" {
            break;
        }
        n += 1;
    }
    assert!((30..FEW).contains(&n), "{n}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_has_room_for_says_so() {
    let bed = crate::embedded::bed().await;
    let queue = &bed.messaging;
    let _worker = member(queue, &subscription("ask", "w", 1)).await;
    let ask = || queue.request("ask", large(), Duration::from_millis(1), 1);
    let refused = loop {
        let error = soon(ask()).await.unwrap_err();
        if error != CloudError::Timeout {
            break error;
        }
    };
    let full = CloudError::Full("what waits for the subscribers of this topic");
    assert_eq!(refused, full);
}
