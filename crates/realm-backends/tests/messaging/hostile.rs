//! A node that lends or borrows messages and says what it should not: it ends its own stream, and reaches
//! nothing else.

use realm_backends::messaging::{LendError, offered};
use realm_model::cloud::Messaging as _;
use realm_model::lending_message::{BYTES_MAX, How, Lent, ToBorrower, ToLender};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::watch;

use crate::lending::Node;
use crate::support::{group, nothing_comes, soon, subscription, take, text};

async fn piece(stream: &mut DuplexStream, bytes: &[u8]) {
    let n = u32::try_from(bytes.len()).unwrap();
    let _ = stream.write_all(&n.to_be_bytes()).await;
    let _ = stream.write_all(bytes).await;
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
    let other_topic = realm_model::cloud::Message {
        topic: Some("secrets".to_owned()),
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
    for said in [never, ToLender::Ready, ToLender::NotHere] {
        let (here, mut there) = duplex(1_024);
        let (_parting, told) = watch::channel(false);
        piece(&mut there, &ToLender::Ready.to_bytes()).await;
        piece(&mut there, &said.to_bytes()).await;
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
    nothing_comes(&mut own).await;
}
