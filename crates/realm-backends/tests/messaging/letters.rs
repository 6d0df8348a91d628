//! Dead letters, for whoever looks after a queue.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use realm_model::cloud::{DEAD_AT, DEAD_TOPIC, Letter, Message, Messaging, Subscription};

use crate::support::{
    Bed, member, next, nothing_comes, send, soon, subscription, take, text, value, words,
};

async fn letters(on: &dyn Messaging) -> Vec<Letter> {
    soon(on.letters()).await.unwrap()
}

pub(crate) async fn dead_letters_are_listed_shown_delivered_again_and_dropped(bed: Bed) {
    let queue = &bed.messaging;
    let mortal = Subscription {
        n_deliveries: 1,
        ..subscription("orders.*", "w", 1)
    };
    let mut worker = member(queue, &mortal).await;
    assert!(letters(&**queue).await.is_empty());
    for name in ["one", "two", "three"] {
        let message = Message {
            metadata: vec![("of".to_owned(), name.to_owned())],
            ..text(name)
        };
        soon(queue.send("orders.new", message, None)).await.unwrap();
        let delivery = next(&mut worker).await;
        assert!(delivery.receipt.retry(Duration::ZERO, "bad").await.unwrap());
    }
    let all = letters(&**queue).await;
    let names: Vec<_> = all.iter().map(|one| value(&one.message, "of")).collect();
    assert_eq!(names, [Some("three"), Some("two"), Some("one")]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for letter in &all {
        assert!(letter.message.data.is_empty() && letter.n_bytes > 3);
        assert_eq!(value(&letter.message, DEAD_TOPIC), Some("orders.new"));
        let at: u64 = value(&letter.message, DEAD_AT).unwrap().parse().unwrap();
        let ago = now.saturating_sub(Duration::from_millis(at));
        assert!(ago < Duration::from_secs(60), "{ago:?}");
    }
    let one = soon(queue.letter(all[2].number)).await.unwrap().unwrap();
    assert_eq!(
        (words(&one.message), one.n_bytes),
        ("one".to_owned(), all[2].n_bytes)
    );
    assert_eq!(soon(queue.letter(u64::MAX)).await.unwrap(), None);

    // It is a new message, and no letter any more.
    assert!(
        soon(queue.settle_letter(all[2].number, true))
            .await
            .unwrap()
    );
    let again = next(&mut worker).await;
    assert_eq!(
        (words(&again.message), again.attempt),
        ("one".to_owned(), 1)
    );
    assert!(!again.message.is_dead());
    assert_eq!(
        again.message.metadata,
        [("of".to_owned(), "one".to_owned())]
    );
    again.receipt.ack().await.unwrap();
    assert!(
        soon(queue.settle_letter(all[0].number, false))
            .await
            .unwrap()
    );
    assert!(
        !soon(queue.settle_letter(all[0].number, true))
            .await
            .unwrap()
    );
    assert_eq!(letters(&**queue).await, [all[1].clone()]);
    nothing_comes(&mut worker).await;
    send(queue, "orders.new", "more").await;
    assert_eq!(take(&mut worker).await, "more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_delivered_again_to_the_group_in_which_it_died_alone() {
    let bed = crate::embedded::bed().await;
    let queue = &bed.messaging;
    let mortal = Subscription {
        n_deliveries: 1,
        ..subscription("orders", "w", 1)
    };
    let mut worker = member(queue, &mortal).await;
    let mut other = member(queue, &subscription("orders", "others", 1)).await;
    send(queue, "orders", "bad").await;
    let delivery = next(&mut worker).await;
    assert!(delivery.receipt.retry(Duration::ZERO, "bad").await.unwrap());
    assert_eq!(take(&mut other).await, "bad");
    let number = letters(&**queue).await[0].number;
    assert!(soon(queue.settle_letter(number, true)).await.unwrap());
    assert_eq!(take(&mut worker).await, "bad");
    nothing_comes(&mut other).await;
}
