//! Messages that one node's queue lends to another node: none is lost, whatever breaks, and what was said to
//! be done is not delivered again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realm_backends::Unwatched;
use realm_backends::messaging::{Embedded, LendError, Room, decline, offered};
use realm_model::cloud::{CloudError, Messaging as _, Subscription, limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{group, next, nothing_comes, soon, subscription, take, text, words};

/// A node's queue.
pub(crate) struct Node {
    pub(crate) queue: Arc<Embedded>,
    folder: tempfile::TempDir,
}

fn try_open(folder: &Path) -> Result<Arc<Embedded>, String> {
    let path = folder.join("queue");
    let opened = Embedded::open(path, Room::default(), Arc::new(Unwatched), Arc::new(|_| {}));
    opened.map(Arc::new)
}

impl Node {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let queue = try_open(folder.path()).unwrap();
        Self { queue, folder }
    }

    pub(crate) async fn keeping(topic: &str, name: &str) -> Self {
        let node = Self::new();
        node.queue.keep_groups(&[group(topic, name)]).await.unwrap();
        node
    }

    pub(crate) async fn send(&self, topic: &str, words: impl Into<String>) {
        let sent = self.queue.send(topic, text(words), None);
        soon(sent).await.unwrap();
    }
}

/// One node lends to another one, over streams that are made anew when they break, until this is dropped.
struct Between {
    tasks: Vec<JoinHandle<()>>,
    parting: watch::Sender<bool>,
}

impl Drop for Between {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// `cut`: bytes after which each stream breaks.
fn between(
    from: &Node,
    to: &Arc<Embedded>,
    subscription: &Subscription,
    cut: impl Fn() -> u64 + Send + 'static,
) -> Between {
    let (parting, told) = watch::channel(false);
    let (lender, borrower) = (Arc::clone(&from.queue), Arc::clone(to));
    let (subscription, key) = (subscription.clone(), [7; 32]);
    let task = tokio::spawn(async move {
        while !*told.borrow() {
            let (here, mut near) = duplex(64 * 1024);
            let (mut far, there) = duplex(64 * 1024);
            let budget = cut();
            let wire = async {
                let (mut near_reads, mut near_writes) = tokio::io::split(&mut near);
                let (mut far_reads, mut far_writes) = tokio::io::split(&mut far);
                tokio::select! {
                    () = carry(&mut near_reads, &mut far_writes, budget) => {}
                    () = carry(&mut far_reads, &mut near_writes, budget) => {}
                }
            };
            let lending = lender.lend(here, "orders", &subscription, told.clone());
            let borrowing = async {
                let mut there = there;
                let (_, group) = offered(&mut there).await?;
                borrower.borrow(there, key, &group).await
            };
            tokio::select! {
                () = wire => {}
                _ = lending => {}
                _ = borrowing => {}
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    Between {
        tasks: vec![task],
        parting,
    }
}

/// Carries bytes until so many have come: what is on its way then is lost.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    budget: u64,
) {
    let copied = tokio::io::copy(&mut from.take(budget), to).await;
    if copied.is_ok_and(|n| n < budget) {
        let _ = to.shutdown().await;
        std::future::pending().await
    }
}

const WHOLE: fn() -> u64 = || u64::MAX;

/// The queue of a folder anew, once nobody has it open any more.
async fn anew(old: Arc<Embedded>, folder: &Path) -> Arc<Embedded> {
    let weak = Arc::downgrade(&old);
    drop(old);
    soon(async {
        while weak.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Its thread ends a moment later.
    soon(async {
        loop {
            match try_open(folder) {
                Ok(queue) => return queue,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

/// Nothing waits in the queue of a node, and nothing is under way, also after a start.
async fn is_empty(node: Node, subscription: &Subscription) {
    let queue = anew(node.queue, node.folder.path()).await;
    let mut worker = queue.subscribe(subscription).await.unwrap();
    nothing_comes(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_on_one_node_is_taken_on_another_in_order() {
    let wanted = subscription("orders.*", "w", 1);
    let (a, b) = (Node::keeping("orders.*", "w").await, Node::new());
    for n in 0..50 {
        a.send("orders.new", format!("before {n}")).await;
    }
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let between = between(&a, &b.queue, &wanted, WHOLE);
    for n in 0..50 {
        let delivery = next(&mut worker).await;
        assert_eq!(delivery.attempt, 1);
        assert_eq!(delivery.message.topic.as_deref(), Some("orders.new"));
        assert_eq!(words(&delivery.message), format!("before {n}"));
        delivery.receipt.ack().await.unwrap();
    }
    for n in 0..50 {
        a.send("orders.new", format!("after {n}")).await;
        assert_eq!(take(&mut worker).await, format!("after {n}"));
    }
    drop((between, worker));
    is_empty(a, &wanted).await;
    is_empty(b, &wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_does_not_want_is_not_lent() {
    let all = subscription("orders", "w", 4);
    let (large, left) = crate::rules::above(2_990, all.clone());
    let (a, b) = (Node::keeping("orders", "w").await, Node::new());
    for n in 0..3_000 {
        a.send("orders", n.to_string()).await;
    }
    // It would take whatever comes: the lender leaves it out.
    let mut worker = b.queue.subscribe(&all).await.unwrap();
    let between = between(&a, &b.queue, &large, WHOLE);
    let mut taken = BTreeSet::new();
    for _ in 2_991..3_000 {
        taken.insert(take(&mut worker).await);
    }
    assert_eq!(taken, (2_991..3_000).map(|n| n.to_string()).collect());
    nothing_comes(&mut worker).await;
    assert_eq!(left.load(Ordering::Relaxed), 2_991);
    drop((between, worker));
    is_empty(a, &all).await;
    is_empty(b, &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_break_anywhere_lose_nothing_and_repeat_nothing_that_is_done() {
    let wanted = Subscription {
        ack_wait: Duration::from_millis(500),
        n_deliveries: 1_000,
        ..subscription("orders", "w", 8)
    };
    let (a, b) = (Node::keeping("orders", "w").await, Node::new());
    let mut sent = BTreeSet::new();
    for n in 0..1_000 {
        a.send("orders", n.to_string()).await;
        sent.insert(n.to_string());
    }
    let seed = Arc::new(AtomicU64::new(1));
    let cut = {
        let seed = Arc::clone(&seed);
        move || {
            let n = seed.fetch_add(1, Ordering::Relaxed);
            // From the first bytes of the offer on, and some that carry hundreds of messages.
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53
        }
    };
    let between = between(&a, &b.queue, &wanted, cut);
    let done = Arc::new(Mutex::new(BTreeSet::new()));
    let workers = (0..8).map(|_| {
        let (queue, wanted, done) = (Arc::clone(&b.queue), wanted.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut worker = queue.subscribe(&wanted).await.unwrap();
            loop {
                let delivery = worker.next().await.unwrap();
                let name = words(&delivery.message);
                assert!(!done.lock().unwrap().contains(&name), "{name} was done");
                if delivery.receipt.ack().await.is_ok() {
                    done.lock().unwrap().insert(name);
                }
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    let all_done = async {
        while *done.lock().unwrap() != sent {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let all_done = tokio::time::timeout(Duration::from_secs(120), all_done);
    all_done.await.expect("all are done");
    assert!(seed.load(Ordering::Relaxed) > 20, "streams broke");
    for worker in workers {
        assert!(!worker.is_finished());
        worker.abort();
    }
    drop(between);
    is_empty(a, &wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_had_when_it_died_comes_to_another() {
    let wanted = Subscription {
        ack_wait: Duration::from_secs(1),
        ..subscription("orders", "w", 4)
    };
    let a = Node::keeping("orders", "w").await;
    for n in 0..20 {
        a.send("orders", n.to_string()).await;
    }
    let b = Node::new();
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let dying = between(&a, &b.queue, &wanted, WHOLE);
    let mut left: BTreeSet<String> = (0..20).map(|n| n.to_string()).collect();
    let mut held = Vec::new();
    for n in 0..8 {
        let delivery = next(&mut worker).await;
        if n % 2 == 0 {
            delivery.receipt.ack().await.unwrap();
            left.remove(&words(&delivery.message));
        } else {
            held.push(delivery);
        }
    }
    // Not a word more comes from there.
    drop(dying);
    let c = Node::new();
    let mut other = c.queue.subscribe(&wanted).await.unwrap();
    let _between = between(&a, &c.queue, &wanted, WHOLE);
    let mut again = BTreeSet::new();
    while !left.is_empty() {
        let delivery = next(&mut other).await;
        delivery.receipt.ack().await.unwrap();
        assert!(left.remove(&words(&delivery.message)));
        if delivery.attempt == 2 {
            again.insert(words(&delivery.message));
        }
    }
    let held: BTreeSet<String> = held.iter().map(|one| words(&one.message)).collect();
    assert_eq!(again, held);
    nothing_comes(&mut other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_behind_a_node_that_is_busy() {
    let wanted = subscription("orders", "w", 1);
    let (a, b, c) = (Node::keeping("orders", "w").await, Node::new(), Node::new());
    let mut busy = b.queue.subscribe(&wanted).await.unwrap();
    let mut idle = c.queue.subscribe(&wanted).await.unwrap();
    let _to_b = between(&a, &b.queue, &wanted, WHOLE);
    a.send("orders", "long").await;
    let long = next(&mut busy).await;
    let _to_c = between(&a, &c.queue, &wanted, WHOLE);
    for n in 0..30 {
        a.send("orders", n.to_string()).await;
    }
    for n in 0..30 {
        assert_eq!(take(&mut idle).await, n.to_string());
    }
    long.receipt.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_serves_its_own_node_and_others_and_neither_waits_for_ever() {
    let wanted = subscription("orders", "w", 1);
    let (a, b) = (
        Node::keeping("orders", "w").await,
        Node::keeping("orders", "w").await,
    );
    for n in 0..40 {
        a.send("orders", format!("a{n}")).await;
        b.send("orders", format!("b{n}")).await;
    }
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let between = between(&a, &b.queue, &wanted, WHOLE);
    // Until the stream is there it is alone with its own.
    let mut came = Vec::new();
    for _ in 0..80 {
        came.push(take(&mut worker).await);
    }
    for node in ["a", "b"] {
        let own: Vec<&String> = came.iter().filter(|one| one.starts_with(node)).collect();
        let expected: Vec<String> = (0..40).map(|n| format!("{node}{n}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
    let first_of_a = came.iter().position(|one| one == "a0").unwrap();
    let last_of_b = came.iter().position(|one| one == "b39").unwrap();
    assert!(first_of_a < last_of_b, "{came:?}");
    nothing_comes(&mut worker).await;
    drop((between, worker));
    is_empty(a, &wanted).await;
    is_empty(b, &wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_comes_again_after_its_time_and_dies_where_it_was_sent() {
    let wanted = Subscription {
        n_deliveries: 2,
        dead_letter: Some("dead".to_owned()),
        ..subscription("orders", "w", 1)
    };
    let (a, b) = (Node::new(), Node::new());
    let groups = [group("orders", "w"), group("dead", "people")];
    a.queue.keep_groups(&groups).await.unwrap();
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let _between = between(&a, &b.queue, &wanted, WHOLE);
    // As large as any may be: as a dead letter it is larger.
    let large = realm_model::cloud::Message {
        metadata: vec![("k".to_owned(), "v".repeat(100)); limits::METADATA_PAIRS_MAX],
        ..text("bad")
    };
    a.queue.send("orders", large, None).await.unwrap();
    let first = next(&mut worker).await;
    let wait = Duration::from_millis(300);
    let began = tokio::time::Instant::now();
    assert!(!first.receipt.retry(wait, "not yet").await.unwrap());
    let second = next(&mut worker).await;
    assert!(began.elapsed() >= wait);
    assert_eq!(second.attempt, 2);
    assert!(second.receipt.retry(wait, "never\u{7}").await.unwrap());
    let dead = a.queue.dead(10).await.unwrap();
    assert_eq!(dead.iter().map(words).collect::<Vec<_>>(), ["bad"]);
    let why = crate::support::value(&dead[0], realm_model::cloud::DEAD_WHY);
    assert!(why.is_some_and(|why| why.starts_with("never") && !why.contains('\u{7}')));
    assert!(b.queue.dead(10).await.unwrap().is_empty());
    let people = subscription("dead", "people", 1);
    let mut reader = b.queue.subscribe(&people).await.unwrap();
    let _letters = between(&a, &b.queue, &people, WHOLE);
    assert_eq!(take(&mut reader).await, "bad");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delayed_comes_when_it_is_due_and_what_is_given_back_counts_for_nothing() {
    let wanted = subscription("orders", "w", 1);
    let (a, b) = (Node::keeping("orders", "w").await, Node::new());
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let _between = between(&a, &b.queue, &wanted, WHOLE);
    let began = tokio::time::Instant::now();
    let delay = Duration::from_millis(1_200);
    a.queue
        .send("orders", text("later"), Some(delay))
        .await
        .unwrap();
    a.send("orders", "now").await;
    assert_eq!(take(&mut worker).await, "now");
    let delivery = next(&mut worker).await;
    assert!(began.elapsed() >= delay);
    delivery.receipt.give_back().await.unwrap();
    let delivery = next(&mut worker).await;
    assert_eq!(
        (words(&delivery.message), delivery.attempt),
        ("later".to_owned(), 1)
    );
    // Dropped without a word, it is back at once, and that was a delivery.
    drop(delivery);
    let delivery = next(&mut worker).await;
    assert_eq!(delivery.attempt, 2);
    delivery.receipt.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_worked_on_elsewhere_is_not_delivered_again() {
    let wanted = Subscription {
        ack_wait: Duration::from_secs(1),
        ..subscription("orders", "w", 1)
    };
    let (a, b, c) = (Node::keeping("orders", "w").await, Node::new(), Node::new());
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let mut other = c.queue.subscribe(&wanted).await.unwrap();
    let to_b = between(&a, &b.queue, &wanted, WHOLE);
    a.send("orders", "long").await;
    let long = next(&mut worker).await;
    let to_c = between(&a, &c.queue, &wanted, WHOLE);
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        long.receipt.extend().await.unwrap();
    }
    // Nobody lends there any more, and the message is seen to its end all the same.
    to_b.parting.send_replace(true);
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        long.receipt.extend().await.unwrap();
    }
    long.receipt.ack().await.unwrap();
    a.send("orders", "next").await;
    assert_eq!(take(&mut other).await, "next");
    nothing_comes(&mut other).await;
    let mut tasks = to_b;
    soon(tasks.tasks.pop().unwrap()).await.unwrap();
    drop(to_c);
}

#[tokio::test(flavor = "multi_thread")]
async fn done_is_done_also_for_a_lender_that_started_anew() {
    let wanted = subscription("orders", "w", 1);
    let (mut a, b) = (Node::keeping("orders", "w").await, Node::new());
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let first = between(&a, &b.queue, &wanted, WHOLE);
    a.send("orders", "one").await;
    let one = next(&mut worker).await;
    drop(first);
    let folder = a.folder.path().to_owned();
    let spare = try_open(tempfile::tempdir().unwrap().path()).unwrap();
    let old = std::mem::replace(&mut a.queue, spare);
    a.queue = anew(old, &folder).await;
    let _second = between(&a, &b.queue, &wanted, WHOLE);
    one.receipt.ack().await.unwrap();
    nothing_comes(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_by_a_member_on_another_node() {
    let wanted = subscription("ask.*", "w", 1);
    let (a, b) = (Node::keeping("ask.*", "w").await, Node::new());
    let alone = a
        .queue
        .request("ask.me", text("?"), Duration::from_secs(5), 1);
    let nobody = CloudError::NotFound("a subscriber of this topic");
    assert_eq!(alone.await, Err(nobody));
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let _between = between(&a, &b.queue, &wanted, WHOLE);
    let queue = Arc::clone(&b.queue);
    let answering = tokio::spawn(async move {
        loop {
            let asked = worker.next().await.unwrap();
            assert_eq!(asked.message.topic.as_deref(), Some("ask.me"));
            let inbox = asked.message.reply_to.clone().unwrap();
            for n in 0..3 {
                let reply = text(format!("{} {n}", words(&asked.message)));
                queue.reply(&inbox, reply).await.unwrap();
            }
            asked.receipt.ack().await.unwrap();
        }
    });
    let ask = |n: u32| {
        a.queue
            .request("ask.me", text("well?"), Duration::from_secs(20), n)
    };
    let one = soon(async {
        loop {
            match ask(1).await {
                Ok(replies) => return replies,
                Err(error) => assert_eq!(error, CloudError::NotFound("a subscriber of this topic")),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(one.iter().map(words).collect::<Vec<_>>(), ["well? 0"]);
    let three = soon(ask(3)).await.unwrap();
    let expected = ["well? 0", "well? 1", "well? 2"];
    assert_eq!(three.iter().map(words).collect::<Vec<_>>(), expected);
    assert!(three.iter().all(|reply| reply.topic.is_none()));
    // Somebody here comes first.
    let mut here = a.queue.subscribe(&wanted).await.unwrap();
    let (reply, asked) = tokio::join!(ask(1), async {
        let asked = next(&mut here).await;
        let inbox = asked.message.reply_to.clone().unwrap();
        a.queue.reply(&inbox, text("here")).await.unwrap();
        asked
    });
    assert_eq!(words(&reply.unwrap()[0]), "here");
    drop(asked);
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_hears_at_once_that_the_last_member_went_and_that_one_came_again() {
    let wanted = subscription("ask", "w", 1);
    let (a, b) = (Node::keeping("ask", "w").await, Node::new());
    let worker = b.queue.subscribe(&wanted).await.unwrap();
    let _between = between(&a, &b.queue, &wanted, WHOLE);
    let ask = || {
        a.queue
            .request("ask", text("?"), Duration::from_millis(500), 1)
    };
    let until = async |expected: CloudError| {
        soon(async { while ask().await != Err(expected.clone()) {} }).await;
    };
    until(CloudError::Timeout).await;
    drop(worker);
    until(CloudError::NotFound("a subscriber of this topic")).await;
    let mut worker = b.queue.subscribe(&wanted).await.unwrap();
    let queue = Arc::clone(&b.queue);
    let answering = tokio::spawn(async move {
        loop {
            let asked = worker.next().await.unwrap();
            let inbox = asked.message.reply_to.clone().unwrap();
            queue.reply(&inbox, text("yes")).await.unwrap();
        }
    });
    soon(async { while ask().await.is_err() {} }).await;
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_member_says_so() {
    let wanted = subscription("orders", "w", 1);
    let (a, b) = (Node::keeping("orders", "w").await, Node::new());
    let (here, there) = duplex(1_024);
    let (_parting, told) = watch::channel(false);
    let borrowing = async {
        let mut there = there;
        let (binding, group) = offered(&mut there).await.unwrap();
        assert_eq!(
            (&*binding, &*group.topic, &*group.name),
            ("orders", "orders", "w")
        );
        b.queue.borrow(there, [1; 32], &group).await
    };
    let (lent, borrowed) = tokio::join!(
        a.queue.lend(here, "orders", &wanted, told.clone()),
        borrowing
    );
    assert!(matches!(lent, Err(LendError::NotHere)), "{lent:?}");
    assert!(matches!(borrowed, Err(LendError::NotHere)), "{borrowed:?}");
    let (here, mut there) = duplex(1_024);
    let declining = async {
        offered(&mut there).await.unwrap();
        decline(&mut there).await.unwrap();
    };
    let (lent, ()) = tokio::join!(a.queue.lend(here, "orders", &wanted, told), declining);
    assert!(matches!(lent, Err(LendError::NotHere)), "{lent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_go_both_ways_at_once() {
    let wanted = subscription("orders", "w", 4);
    let (a, b) = (
        Node::keeping("orders", "w").await,
        Node::keeping("back", "w").await,
    );
    let mut at_b = b.queue.subscribe(&wanted).await.unwrap();
    let back = subscription("back", "w", 4);
    let mut at_a = a.queue.subscribe(&back).await.unwrap();
    let _forth = between(&a, &b.queue, &wanted, WHOLE);
    let _back = between(&b, &a.queue, &back, WHOLE);
    let large = "x".repeat(limits::MESSAGE_BYTES_MAX);
    for _ in 0..12 {
        a.send("orders", large.as_str()).await;
        b.send("back", large.as_str()).await;
    }
    for _ in 0..12 {
        let (one, other) = tokio::join!(take(&mut at_b), take(&mut at_a));
        assert_eq!((one.len(), other.len()), (large.len(), large.len()));
    }
}
