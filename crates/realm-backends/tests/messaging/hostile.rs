//! A node that lends or borrows messages and says what it should not: it ends its own stream, and reaches
//! nothing else.

use realm_backends::messaging::{LendError, offered};
use realm_model::cloud::{CloudError, Message, Messaging as _, limits};
use realm_model::lending_message::{BYTES_MAX, Came, How, Lent, ToBorrower, ToLender};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::watch;

use crate::lending::Node;
use crate::support::{group, next, nothing_comes, soon, subscription, take, text, words};

async fn piece(stream: &mut DuplexStream, bytes: &[u8]) {
    let n = u32::try_from(bytes.len()).unwrap();
    let _ = stream.write_all(&n.to_be_bytes()).await;
    let _ = stream.write_all(bytes).await;
}

/// The next piece of what a queue says.
async fn heard(stream: &mut DuplexStream) -> Vec<u8> {
    let n = soon(stream.read_u32()).await.unwrap();
    let mut bytes = vec![0; usize::try_from(n).unwrap()];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// What becomes of a borrower to which a lender says this.
async fn told_to_a_borrower(said: &[ToBorrower]) -> LendError {
    let b = Node::new();
    let wanted = subscription("orders", "w", 1);
    let _worker = b.queue.subscribe(&wanted).await.unwrap();
    let (mut here, there) = duplex(4 * BYTES_MAX);
    for said in said {
        piece(&mut here, &said.to_bytes()).await;
    }
    let borrowed = b.queue.borrow(there, [1; 32], &wanted.group);
    soon(borrowed).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_lender_ends_its_own_stream_and_nothing_else() {
    let body = text("x").to_bytes();
    let which = Lent {
        message: 1,
        delivery: 1,
    };
    let given = |body: Vec<u8>| ToBorrower::Given {
        which,
        attempt: 1,
        body,
    };
    let asked = |body: Vec<u8>| ToBorrower::Asked {
        number: 1,
        timeout_ms: 1_000,
        n_replies: 1,
        body,
    };
    let other_topic = Message {
        topic: Some("secrets".to_owned()),
        ..text("x")
    };
    let letter = |key: &str, value: String| Message {
        topic: Some("orders".to_owned()),
        metadata: vec![(key.to_owned(), value)],
        ..text("x")
    };
    let offer = ToBorrower::Offer {
        binding: String::new(),
        topic: String::new(),
        group: String::new(),
    };
    for said in [
        given(body.clone()),
        ToBorrower::Nothing(1),
        ToBorrower::Nothing(0),
        ToBorrower::Waits(false),
        ToBorrower::Settled {
            ticket: 0,
            came: Came::Well,
        },
        given(letter("realm-dead-\u{7}", "x".to_owned()).to_bytes()),
        given(letter("realm-dead-else", "x".to_owned()).to_bytes()),
        given(letter("realm-dead-why", "x".repeat(2_000)).to_bytes()),
        asked(body),
        asked(b"none".to_vec()),
        asked(other_topic.to_bytes()),
        offer,
    ] {
        let error = told_to_a_borrower(std::slice::from_ref(&said)).await;
        assert!(matches!(error, LendError::Wrong(_)), "{said:?}: {error}");
    }
    // Many of each, and what is no piece at all.
    let b = Node::new();
    let wanted = subscription("orders", "w", 1);
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    for bytes in [&[0xff; 64][..], &[0, 0, 0, 1, 99], &[0, 0, 0, 0]] {
        let (mut here, there) = duplex(1_024);
        here.write_all(bytes).await.unwrap();
        let error = soon(b.queue.borrow(there, [1; 32], &wanted.group))
            .await
            .unwrap_err();
        assert!(matches!(error, LendError::Wrong(_)), "{error}");
        let (mut here, mut there) = duplex(1_024);
        here.write_all(bytes).await.unwrap();
        let error = soon(offered(&mut there)).await.unwrap_err();
        assert!(matches!(error, LendError::Wrong(_)), "{error}");
    }
    b.send("orders", "well").await;
    assert_eq!(take(&mut worker).await, "well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_borrower_ends_its_own_stream_and_reaches_no_other_group() {
    let wanted = subscription("orders", "w", 1);
    let a = Node::new();
    let groups = [group("orders", "w"), group("orders", "others")];
    a.queue.keep_groups(&groups).await.unwrap();
    a.send("orders", "one").await;
    let which = |message| Lent {
        message,
        delivery: 7,
    };
    let settle = |message, how| ToLender::Settle {
        ticket: 1,
        which: which(message),
        how,
    };
    let never = ToLender::Take(u32::MAX);
    let gone = [ToLender::NotHere, ToLender::NotHere];
    for said in [&[never][..], &[ToLender::Ready], &gone] {
        let (here, mut there) = duplex(1_024);
        let (_parting, told) = watch::channel(false);
        piece(&mut there, &ToLender::Ready.to_bytes()).await;
        for said in said {
            piece(&mut there, &said.to_bytes()).await;
        }
        let error = soon(a.queue.lend(here, "orders", &wanted, told))
            .await
            .unwrap_err();
        assert!(matches!(error, LendError::Wrong(_)), "{said:?}: {error}");
    }
    // It may say of messages of its group what it likes, and of those of others nothing.
    let (here, mut there) = duplex(1024 * 1024);
    let (_parting, told) = watch::channel(false);
    piece(&mut there, &ToLender::Ready.to_bytes()).await;
    for message in 0..200 {
        let retry = How::Retry {
            after_ms: u64::MAX,
            why: "x".repeat(1_000),
        };
        for how in [
            retry,
            How::Return { untouched: true },
            How::Extend,
            How::Done,
        ] {
            piece(&mut there, &settle(message, how).to_bytes()).await;
        }
    }
    let reply = ToLender::Reply {
        number: 3,
        body: b"none".to_vec(),
    };
    piece(&mut there, &reply.to_bytes()).await;
    let reading = async {
        let mut bytes = vec![0; 64 * 1024];
        let mut n = 0;
        // 800 answers of 14 bytes.
        while n < 800 * 14 {
            n += there.read(&mut bytes).await.unwrap();
        }
    };
    tokio::select! {
        ended = a.queue.lend(here, "orders", &wanted, told) => panic!("{ended:?}"),
        () = soon(reading) => {}
    }
    let mut other = a
        .queue
        .subscribe(&subscription("orders", "others", 1))
        .await
        .unwrap();
    let mut own = a.queue.subscribe(&wanted).await.unwrap();
    assert_eq!(take(&mut other).await, "one");
    // It never had that one.
    assert_eq!(take(&mut own).await, "one");
    nothing_comes(&mut own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lender_that_never_gives_what_it_has_keeps_no_member_from_its_own_queue() {
    for n_in_flight in [1, 4] {
        let b = Node::keeping("orders", "w").await;
        let wanted = subscription("orders", "w", n_in_flight);
        let mut worker = b.queue.subscribe(&wanted).await.unwrap();
        let (mut here, there) = duplex(64 * 1024);
        let (queue, of) = (Arc::clone(&b.queue), wanted.group.clone());
        let borrowing = tokio::spawn(async move { queue.borrow(there, [1; 32], &of).await });
        assert_eq!(heard(&mut here).await, ToLender::Ready.to_bytes());
        piece(&mut here, &ToBorrower::Waits(true).to_bytes()).await;
        let asked = async { assert_eq!(heard(&mut here).await, ToLender::Take(1).to_bytes()) };
        tokio::select! {
            biased;
            came = worker.next() => panic!("{}", words(&came.unwrap().message)),
            () = asked => {}
        }
        let n = n_in_flight.max(2) - 1;
        for number in 0..n {
            b.send("orders", number.to_string()).await;
        }
        let mut held = Vec::new();
        for number in 0..n {
            let delivery = next(&mut worker).await;
            assert_eq!(words(&delivery.message), number.to_string());
            held.push(delivery);
        }
        let ended = soon(borrowing).await.unwrap().unwrap_err();
        assert!(matches!(ended, LendError::Wrong(_)), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lender_that_says_without_an_end_what_means_nothing_is_left() {
    let flood = (0..200_000).map(|n| ToBorrower::Waits(n % 2 == 0));
    let error = told_to_a_borrower(&flood.collect::<Vec<_>>()).await;
    assert!(matches!(error, LendError::Wrong(_)), "{error}");
}

/// The end of a borrower that says what it likes, of a queue that lends to it.
async fn borrower(
    of: &Node,
    wanted: &realm_model::cloud::Subscription,
) -> (DuplexStream, watch::Sender<bool>) {
    let (here, mut there) = duplex(4 * BYTES_MAX);
    let (parting, told) = watch::channel(false);
    let (queue, wanted) = (Arc::clone(&of.queue), wanted.clone());
    tokio::spawn(async move { queue.lend(here, "orders", &wanted, told).await });
    heard(&mut there).await;
    piece(&mut there, &ToLender::Ready.to_bytes()).await;
    (there, parting)
}

/// What is given to it, for as long as something is said within a second.
async fn given(stream: &mut DuplexStream) -> Vec<Lent> {
    let mut given = Vec::new();
    let second = Duration::from_secs(1);
    while let Ok(bytes) = tokio::time::timeout(second, heard(stream)).await {
        if let Some(ToBorrower::Given { which, .. }) = ToBorrower::from_bytes(&bytes) {
            given.push(which);
        }
    }
    given
}

#[tokio::test(flavor = "multi_thread")]
async fn a_borrower_that_says_nothing_of_what_it_has_gets_no_more_than_so_many() {
    let wanted = subscription("orders", "w", 1);
    let a = Node::keeping("orders", "w").await;
    let sent = (0..4_200).map(|n: u32| {
        let queue = Arc::clone(&a.queue);
        tokio::spawn(async move { queue.send("orders", text(n.to_string()), None).await })
    });
    for one in sent.collect::<Vec<_>>() {
        soon(one).await.unwrap().unwrap();
    }
    let (mut stream, _parting) = borrower(&a, &wanted).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        piece(&mut stream, &ToLender::Take(2_000).to_bytes()).await;
        all.extend(given(&mut stream).await);
    }
    assert!((4_096..4_096 + 16).contains(&all.len()), "{}", all.len());
    for which in all.iter().take(100) {
        let done = ToLender::Settle {
            ticket: 1,
            which: *which,
            how: How::Done,
        };
        piece(&mut stream, &done.to_bytes()).await;
        heard(&mut stream).await;
    }
    piece(&mut stream, &ToLender::Take(50).to_bytes()).await;
    assert!(!given(&mut stream).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_borrower_ends_no_message_that_was_given_to_somebody_else() {
    let wanted = subscription("orders", "w", 1);
    let a = Node::keeping("orders", "w").await;
    a.send("orders", "one").await;
    let (mut honest, _parting) = borrower(&a, &wanted).await;
    piece(&mut honest, &ToLender::Take(1).to_bytes()).await;
    let which = given(&mut honest).await[0];
    let (mut other, _its_parting) = borrower(&a, &wanted).await;
    let mut said = Vec::new();
    for delivery in [0, 7, which.delivery - 1, which.delivery + 1, u64::MAX] {
        let done = ToLender::Settle {
            ticket: 1,
            which: Lent { delivery, ..which },
            how: How::Done,
        };
        piece(&mut other, &done.to_bytes()).await;
        said.push(heard(&mut other).await);
    }
    let failed = ToBorrower::Settled {
        ticket: 1,
        came: Came::Failed,
    };
    assert_eq!(said, vec![failed.to_bytes(); 5]);
    let back = ToLender::Settle {
        ticket: 1,
        which,
        how: How::Return { untouched: true },
    };
    piece(&mut honest, &back.to_bytes()).await;
    let mut own = a.queue.subscribe(&wanted).await.unwrap();
    assert_eq!(take(&mut own).await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_gone_is_not_made_again_by_a_node_that_answers_late() {
    let wanted = subscription("orders", "w", 1);
    let a = Node::keeping("orders", "w").await;
    let (here, mut there) = duplex(64 * 1024);
    let (_parting, told) = watch::channel(false);
    let (queue, of) = (Arc::clone(&a.queue), wanted.clone());
    let lending = tokio::spawn(async move { queue.lend(here, "orders", &of, told).await });
    heard(&mut there).await;
    a.queue.keep_groups(&[]).await.unwrap();
    piece(&mut there, &ToLender::Ready.to_bytes()).await;
    let ended = soon(lending).await.unwrap().unwrap_err();
    let gone = LendError::Queue(CloudError::NotFound("the group"));
    assert_eq!(ended.to_string(), gone.to_string());
    // What is sent now is for nobody.
    a.send("orders", "one").await;
    let mut own = a.queue.subscribe(&wanted).await.unwrap();
    nothing_comes(&mut own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_was_kept_for_what_is_lent_is_there_for_others_as_soon_as_less_comes() {
    let b = Node::keeping("own", "m").await;
    let large = text("x".repeat(limits::MESSAGE_BYTES_MAX));
    for _ in 0..70 {
        let sent = b.queue.send("own", large.clone(), None);
        soon(sent).await.unwrap();
    }
    let wanted = subscription("orders", "w", 1);
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let (mut here, there) = duplex(64 * 1024);
    let (queue, of) = (Arc::clone(&b.queue), wanted.group.clone());
    tokio::spawn(async move { queue.borrow(there, [1; 32], &of).await });
    assert_eq!(heard(&mut here).await, ToLender::Ready.to_bytes());
    piece(&mut here, &ToBorrower::Waits(true).to_bytes()).await;
    let working = tokio::spawn(async move { worker.next().await });
    assert_eq!(heard(&mut here).await, ToLender::Take(1).to_bytes());
    let message = Message {
        topic: Some("orders".to_owned()),
        ..text("small")
    };
    let which = Lent {
        message: 1,
        delivery: 1,
    };
    let given = ToBorrower::Given {
        which,
        attempt: 1,
        body: message.to_bytes(),
    };
    let given = given.to_bytes();
    let length = u32::try_from(given.len()).unwrap().to_be_bytes();
    let bytes = [&length[..], &given].concat();
    let (last, first) = bytes.split_last().unwrap();
    // Others take all the room that is left; meanwhile it says something, or it is not waited for.
    let mut other = b
        .queue
        .subscribe(&subscription("own", "m", 1_000))
        .await
        .unwrap();
    let mut held = Vec::new();
    for byte in first {
        here.write_all(&[*byte]).await.unwrap();
        let moment = Duration::from_millis(100);
        while let Ok(one) = tokio::time::timeout(moment, other.next()).await {
            held.push(one.unwrap());
        }
    }
    let n = held.len();
    assert!((30..70).contains(&n), "{n}");
    here.write_all(&[*last]).await.unwrap();
    let lent = soon(working).await.unwrap().unwrap();
    assert_eq!(words(&lent.message), "small");
    // The queue looks again by itself after 30 s.
    let more = tokio::time::timeout(Duration::from_secs(20), other.next());
    assert!(more.await.is_ok(), "nobody told that there is room");
}
