//! What a queue has room for.

use std::time::Duration;

use realm_model::cloud::{CloudError, Subscription};

use crate::support::{Bed, member, next, nothing_comes, send, soon, subscription, take, text};

pub(crate) async fn a_full_queue_says_so(bed: Bed) {
    let mut worker = member(&bed.small, &subscription("orders", "w", 100)).await;
    let mut n = 0;
    let refused = loop {
        match soon(bed.small.send("orders", text(n.to_string()), None)).await {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((n, refused), (20, CloudError::Full("the queue")));
    for wanted in 0..20 {
        assert_eq!(take(&mut worker).await, wanted.to_string());
    }
    let half = "x".repeat(45_000);
    send(&bed.small, "orders", half.as_str()).await;
    send(&bed.small, "orders", half.as_str()).await;
    let refused = soon(bed.small.send("orders", text(half.as_str()), None)).await;
    assert_eq!(refused, Err(CloudError::Full("the queue")));
    take(&mut worker).await;
    send(&bed.small, "orders", half.as_str()).await;
}

/// Two groups that hear of all orders, the dead ones too, and can deal with none of them: a letter dies once
/// more and goes no further, where each death would otherwise make two.
pub(crate) async fn letters_that_meet_their_own_subscription_end(bed: Bed) {
    let mut members = Vec::new();
    for name in ["bills", "mail"] {
        let all = Subscription {
            n_deliveries: 1,
            dead_letter: Some("orders.dead".to_owned()),
            ..subscription("orders.>", name, 1)
        };
        members.push(member(&bed.messaging, &all).await);
    }
    send(&bed.messaging, "orders.new", "poison").await;
    // The message, and the letters of both.
    for nth in 0..3 {
        for member in &mut members {
            let delivery = next(member).await;
            assert_eq!(delivery.message.is_dead(), nth > 0);
            let dead = delivery.receipt.retry(Duration::ZERO, "it is bad").await;
            assert_eq!(dead, Ok(true));
        }
    }
    for member in &mut members {
        nothing_comes(member).await;
    }
    assert_eq!(soon(bed.messaging.dead(100)).await.unwrap().len(), 6);
}
