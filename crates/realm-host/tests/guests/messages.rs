//! Messages: what guests send and ask, and what calls them.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_backends::messaging::{Embedded, Nats, Room};
use realm_backends::{Access, Unwatched};
use realm_host::{Store, Term, Working};
use realm_model::api::LogStream;
use realm_model::cloud::rules::{Check, Field, Number, Rule, Rules, Test};
use realm_model::cloud::{DEAD_TOPIC, DEAD_WHY, Group, Message, Messaging};
use realm_model::trigger::{SubscriptionSpec, Triggers};
use realm_test_guests as guests;

use crate::harness::{Loaded, eventually, guest};
use crate::keyvalue::servers;

/// A queue, and its folder or its server.
struct Queue {
    messages: Arc<dyn Messaging>,
    _held: Box<dyn Any + Send + Sync>,
}

fn queue() -> Queue {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue");
    let opened = Embedded::open(path, Room::default(), Arc::new(Unwatched), Arc::new(|_| {}));
    Queue {
        messages: Arc::new(opened.unwrap()),
        _held: Box::new(folder),
    }
}

fn queue_in_nats() -> Queue {
    let server = servers::nats("", None);
    let access = Access {
        prefix: "queue".to_owned(),
        ..Access::default()
    };
    let host = format!("127.0.0.1:{}", server.port);
    let (room, on_death) = (Room::default(), Arc::new(|_: &_| {}));
    let client = Nats::new(
        &host,
        false,
        &access,
        room,
        Arc::new(Unwatched),
        on_death,
        false,
    );
    Queue {
        messages: Arc::new(client.unwrap()),
        _held: Box::new(server),
    }
}

impl Queue {
    fn store(&self) -> Store {
        Store::Messaging(Arc::clone(&self.messages))
    }

    async fn send(&self, topic: &str, words: &str) {
        let message = Message {
            data: words.as_bytes().to_vec(),
            ..Message::default()
        };
        self.messages.send(topic, message, None).await.unwrap();
    }

    async fn dead(&self) -> Vec<Message> {
        self.messages.dead(100).await.unwrap()
    }
}

fn subscription(topic: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        topic: topic.to_owned(),
        from: "default".to_owned(),
        group: "workers".to_owned(),
        concurrency: 4,
        ack_wait_ms: 30_000,
        attempts: 3,
        backoff_ms: 100,
        dead_letter: None,
        rules: Rules::default(),
    }
}

fn triggers(topics: &[&str]) -> Triggers {
    Triggers {
        subscriptions: topics.iter().map(|topic| subscription(topic)).collect(),
        ..Triggers::default()
    }
}

/// What is sent from here on waits for the subscriptions, which are made a moment later.
async fn keep(queue: &Queue, topics: &[&str]) {
    let groups = topics.iter().map(|topic| Group {
        topic: (*topic).to_owned(),
        name: "workers".to_owned(),
    });
    let groups: Vec<Group> = groups.collect();
    queue.messages.keep_groups(&groups).await.unwrap();
}

async fn working(loaded: &Loaded, triggers: &Triggers) -> Working {
    loaded.replica.work(triggers).await.unwrap().unwrap()
}

/// A worker of one queue that takes `orders`, after `change`.
async fn a_worker(change: impl FnOnce(&mut SubscriptionSpec)) -> (Queue, Loaded, Working) {
    a_worker_of(queue(), change).await
}

async fn a_worker_of(
    queue: Queue,
    change: impl FnOnce(&mut SubscriptionSpec),
) -> (Queue, Loaded, Working) {
    let loaded = guest(guests::WORKER)
        .limits(|limits| limits.wall_timeout_ms = 1_500)
        .bind("default", queue.store())
        .worker()
        .unwrap();
    let mut triggers = triggers(&["orders"]);
    change(&mut triggers.subscriptions[0]);
    keep(&queue, &["orders"]).await;
    let working = working(&loaded, &triggers).await;
    (queue, loaded, working)
}

impl Loaded {
    fn wrote(&self, line: &str) -> usize {
        let lines = self.log.lines(LogStream::Stdout);
        lines.iter().filter(|one| *one == line).count()
    }

    fn messages(&self, result: &str) -> u64 {
        let results = self.meter().messages;
        results.iter().find(|(name, _)| *name == result).unwrap().1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn messages() {
    let queue = queue();
    let loaded = guest(guests::MESSAGES)
        .bind("default", queue.store())
        .load();
    let working = working(&loaded, &triggers(&["echo", "twice", "silent"])).await;
    // Nobody is asked who is not there yet.
    for topic in ["echo", "twice"] {
        let patience = Duration::from_secs(10);
        let ask = || {
            queue
                .messages
                .request(topic, Message::default(), patience, 1)
        };
        while ask().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let lines = loaded.body("/").await;
    assert!(lines.lines().count() >= 13, "{lines}");
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    // What was sent in passing comes as well: ten, and a large one.
    eventually(|| loaded.wrote("took silent") >= 11 && working.under_way() == 0).await;
    assert_eq!(loaded.messages("retried") + loaded.messages("dead"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_not_bound_is_not_there() {
    let (ours, theirs) = (queue(), queue());
    let loaded = guest(guests::MESSAGES)
        .bind("theirs", theirs.store())
        .load();
    let answer = loaded.get("/?send=x").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("no store is bound"),
        "{}",
        answer.text()
    );
    let loaded = guest(guests::MESSAGES).load();
    assert_eq!(loaded.get("/?send=x").await.unwrap().status, 503);
    let loaded = guest(guests::MESSAGES).bind("default", ours.store()).load();
    assert_eq!(loaded.body("/?send=x").await, "sent\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_on_messages_are_counted() {
    let queue = queue();
    let loaded = guest(guests::MESSAGES)
        .limits(|limits| limits.operations_per_sec = Some(3))
        .bind("default", queue.store())
        .load();
    let mut refused = 0;
    for _ in 0..10 {
        refused += u32::from(loaded.get("/?send=x").await.unwrap().status == 503);
    }
    assert!((5..=7).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn worker() {
    let (queue, loaded, working) = a_worker(|_| {}).await;
    for n in 0..50 {
        queue.send("orders", &format!("ok {n}")).await;
    }
    queue.send("elsewhere", "not for it").await;
    eventually(|| loaded.messages("done") == 50 && working.under_way() == 0).await;
    for n in 0..50 {
        assert_eq!(loaded.wrote(&format!("done ok {n}")), 1, "{n}");
    }
    assert_eq!((loaded.count("ok"), working.under_way()), (50, 0));
    assert_eq!(loaded.replica.in_flight(), 0);
    assert!(queue.dead().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_subscription_does_not_want_costs_no_instance() {
    let above = Test {
        checks: vec![Check::Above(Number::Whole(39))],
        ..Test::default()
    };
    let rule = Rule {
        field: Field::Body(String::new()),
        any: vec![above],
    };
    let (queue, loaded, working) = a_worker(|spec| spec.rules = Rules(vec![rule])).await;
    for n in 0..50 {
        queue.send("orders", &n.to_string()).await;
    }
    let all = || loaded.messages("done") + loaded.messages("filtered") == 50;
    eventually(|| all() && working.under_way() == 0).await;
    assert_eq!((loaded.messages("done"), loaded.count("ok")), (10, 10));
    for n in 0..50 {
        let times = usize::from(n > 39);
        assert_eq!(loaded.wrote(&format!("done {n}")), times, "{n}");
    }
    assert!(queue.dead().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_dealt_with_comes_again_and_dies() {
    check_deaths(queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_dealt_with_comes_again_and_dies_in_nats() {
    check_deaths(queue_in_nats).await;
}

async fn check_deaths(queue: fn() -> Queue) {
    let cases = [
        ("err", "guest-error", "the guest says: it cannot be done"),
        ("trap", "trap", "trap: the component failed"),
        ("exit", "exit", "exit: the component ended"),
        (
            "park",
            "wall-timeout",
            "wall-timeout: the component took longer",
        ),
    ];
    for (word, code, why) in cases {
        let (queue, loaded, _working) = a_worker_of(queue(), |_| {}).await;
        let began = Instant::now();
        queue.send("orders", word).await;
        queue.send("orders", "ok").await;
        eventually(|| loaded.messages("dead") == 1).await;
        // 100 ms, then 200.
        assert!(began.elapsed() >= Duration::from_millis(300), "{word}");
        assert_eq!(loaded.wrote(&format!("took {word}")), 3, "{word}");
        assert_eq!(loaded.wrote("done ok"), 1, "{word}");
        assert_eq!(
            (loaded.count(code), loaded.messages("retried")),
            (3, 2),
            "{word}"
        );
        let dead = queue.dead().await;
        assert_eq!(dead.len(), 1, "{word}");
        assert_eq!(dead[0].data, word.as_bytes());
        let said = dead[0].metadata.iter().find(|(key, _)| key == DEAD_WHY);
        assert!(said.unwrap().1.starts_with(why), "{word}: {said:?}");
        let agent = loaded.log.agent();
        assert!(
            agent.contains("message-retried: a message of `orders`, delivery 1 of 3"),
            "{agent}"
        );
        assert!(
            agent.contains("message-dead: a message of `orders` after 3"),
            "{agent}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_come_to_the_topic_that_is_named() {
    check_dead_letter(queue()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_come_to_the_topic_that_is_named_in_nats() {
    check_dead_letter(queue_in_nats()).await;
}

/// They are kept as well, and whoever takes that topic is called with each once.
async fn check_dead_letter(queue: Queue) {
    let (queue, loaded, _working) = a_worker_of(queue, |spec| {
        spec.attempts = 2;
        spec.dead_letter = Some("graves".to_owned());
    })
    .await;
    let mourner = guest(guests::WORKER)
        .bind("default", queue.store())
        .worker()
        .unwrap();
    keep(&queue, &["orders", "graves"]).await;
    let _mourning = working(&mourner, &triggers(&["graves"])).await;
    // What fails everywhere fails in the grave as well, and goes no further.
    queue.send("orders", "err").await;
    queue.send("orders", "ok").await;
    eventually(|| mourner.messages("dead") == 1 && loaded.wrote("done ok") == 1).await;
    assert_eq!((loaded.wrote("took err"), loaded.messages("dead")), (2, 1));
    assert_eq!(mourner.wrote("took err"), 3);
    assert_eq!(mourner.wrote("took ok"), 0);
    let dead = queue.dead().await;
    let of = |message: &Message, name: &str| {
        let said = message.metadata.iter().find(|(key, _)| key == name);
        said.map(|(_, value)| value.clone())
    };
    let topics: Vec<_> = dead.iter().map(|one| of(one, DEAD_TOPIC)).collect();
    let topics: Vec<_> = topics.iter().map(Option::as_deref).collect();
    // The latest first.
    assert_eq!(topics, [Some("graves"), Some("orders")]);
    assert!(dead.iter().all(|one| one.data == b"err"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_worked_on_once_however_long_that_takes() {
    let (queue, loaded, _working) = a_worker(|spec| spec.ack_wait_ms = 300).await;
    queue.send("orders", "slow").await;
    queue.send("orders", "slow").await;
    eventually(|| loaded.messages("done") == 2).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(loaded.wrote("took slow"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_are_under_way_than_may_be() {
    let (queue, loaded, working) = a_worker(|spec| spec.concurrency = 1).await;
    for n in 0..3 {
        queue.send("orders", &format!("slow {n}")).await;
    }
    let mut most = 0;
    while loaded.messages("done") < 3 {
        most = most
            .max(working.under_way())
            .max(loaded.replica.in_flight());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(most, 1);
    let lines = loaded.log.lines(LogStream::Stdout);
    let expected = (0..3).flat_map(|n| [format!("took slow {n}"), format!("done slow {n}")]);
    assert_eq!(lines, expected.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_a_message_waits_and_is_not_blamed() {
    let queue = queue();
    let loaded = guest(guests::WORKER)
        .limits(|limits| limits.max_concurrency = 1)
        .bind("default", queue.store())
        .worker()
        .unwrap();
    keep(&queue, &["orders"]).await;
    let _working = working(&loaded, &triggers(&["orders"])).await;
    for n in 0..4 {
        queue.send("orders", &format!("slow {n}")).await;
    }
    eventually(|| loaded.messages("done") == 4).await;
    assert_eq!(loaded.messages("retried"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_takes_nothing_more_and_lets_what_is_under_way_end() {
    let (queue, loaded, working) = a_worker(|_| {}).await;
    queue.send("orders", "slow").await;
    eventually(|| loaded.wrote("took slow") == 1).await;
    working.take_no_more();
    queue.send("orders", "ok").await;
    eventually(|| working.under_way() == 0).await;
    assert_eq!((loaded.wrote("done slow"), loaded.wrote("took ok")), (1, 0));
    drop(working);
    // The next replica finds it.
    let other = loaded.component.replica(8);
    let _working = other.work(&triggers(&["orders"])).await.unwrap();
    eventually(|| loaded.messages("done") == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ended_goes_back() {
    let (queue, loaded, working) = a_worker(|spec| spec.attempts = 2).await;
    queue.send("orders", "slow").await;
    eventually(|| loaded.wrote("took slow") == 1).await;
    drop(working);
    eventually(|| loaded.replica.in_flight() == 0).await;
    assert_eq!(loaded.wrote("done slow"), 0);
    // A singleton that lost its lease ends the same way, and nothing is held against the message.
    let term = Term::default();
    let other = loaded.component.replica_until(7, Some(term.clone()));
    let second = other.work(&triggers(&["orders"])).await.unwrap();
    eventually(|| loaded.wrote("took slow") == 2).await;
    term.end();
    eventually(|| other.in_flight() == 0).await;
    drop(second);
    let third = loaded.component.replica(7);
    let _third = third.work(&triggers(&["orders"])).await.unwrap();
    eventually(|| loaded.wrote("done slow") == 1).await;
    assert!(queue.dead().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_sends_what_others_take() {
    let (queue, loaded, _working) = a_worker(|_| {}).await;
    let other = guest(guests::WORKER)
        .bind("default", queue.store())
        .worker()
        .unwrap();
    keep(&queue, &["orders", "bills.*"]).await;
    let _other = working(&other, &triggers(&["bills.*"])).await;
    queue.send("orders", "forward bills.new").await;
    eventually(|| other.wrote("done forwarded") == 1).await;
    assert_eq!(loaded.wrote("took forwarded"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_of_a_binding_for_all_has_topics_of_its_own() {
    let queue = queue();
    let loaded = guest(guests::MESSAGES).bind("*", queue.store()).load();
    let mut one = triggers(&["work"]);
    one.subscriptions[0].from = "one".to_owned();
    keep(&queue, &["one.work"]).await;
    let _working = working(&loaded, &one).await;
    queue.send("work", "for no name").await;
    assert_eq!(loaded.body("/?client=two&send=x").await, "sent\n");
    assert_eq!(loaded.body("/?client=one&send=x").await, "sent\n");
    eventually(|| loaded.wrote("took one.work") == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(loaded.log.lines(LogStream::Stdout), ["took one.work"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_handler_is_told_so() {
    let queue = queue();
    let error = guest(guests::HELLO).worker().map(drop).unwrap_err();
    assert_eq!(error.code(), "wrong-world");
    assert!(
        error
            .to_string()
            .contains("wasi:messaging/incoming-handler"),
        "{error}"
    );
    let loaded = guest(guests::HELLO).bind("default", queue.store()).load();
    let error = loaded
        .replica
        .work(&triggers(&["orders"]))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), "no-handler");
    assert!(
        loaded
            .replica
            .work(&Triggers::default())
            .await
            .unwrap()
            .is_none()
    );
    // A worker alone answers no requests.
    let error = guest(guests::WORKER).try_load().map(drop).unwrap_err();
    assert_eq!(error.code(), "wrong-world");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn timers() {
    check_timers(queue()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_in_nats() {
    check_timers(queue_in_nats()).await;
}

async fn check_timers(queue: Queue) {
    let (queue, worker, _working) = a_worker_of(queue, |_| {}).await;
    let loaded = guest(guests::TIMERS).bind("default", queue.store()).load();
    let began = Instant::now();
    assert_eq!(loaded.body("/?after=900&data=ok%20late").await, "set\n");
    assert_eq!(loaded.body("/?after=0&data=ok%20soon").await, "set\n");
    eventually(|| worker.wrote("done ok soon") == 1).await;
    assert!(worker.wrote("took ok late") == 0 || began.elapsed() >= Duration::from_millis(900));
    eventually(|| worker.wrote("done ok late") == 1).await;
    assert!(began.elapsed() >= Duration::from_millis(900));
    for odd in ["/?after=40000000000", "/?topic=a..b", "/?client=other"] {
        assert_eq!(loaded.get(odd).await.unwrap().status, 503, "{odd}");
    }
}
