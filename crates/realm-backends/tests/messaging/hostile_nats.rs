//! What other clients of a NATS server, and a server itself, may say: it takes no more room than there is,
//! holds up nobody, and leads nowhere.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream;
use realm_backends::messaging::{Death, Nats, Room};
use realm_backends::{Access, Unwatched};
use realm_model::cloud::{CloudError, DEAD_WHY, Message, Messaging, Subscription, limits};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::nats::Server;
use crate::support::{
    member, next, nothing_comes, send, soon, subscription, take, text, value, words,
};

/// What a server takes with its headers.
const PAYLOAD_MAX: usize = 1024 * 1024;

struct Shop {
    server: Server,
    on: Arc<dyn Messaging>,
    deaths: Arc<Mutex<Vec<Death>>>,
}

fn shop(host: &str, devices: bool) -> (Arc<dyn Messaging>, Arc<Mutex<Vec<Death>>>) {
    let access = Access {
        prefix: "shop".to_owned(),
        ..Access::default()
    };
    let deaths = Arc::<Mutex<Vec<Death>>>::default();
    let seen = Arc::clone(&deaths);
    let on_death = Arc::new(move |death: &Death| seen.lock().unwrap().push(death.clone()));
    let (room, watch) = (Room::default(), Arc::new(Unwatched));
    let nats = Nats::new(host, false, &access, room, watch, on_death, devices);
    (Arc::new(nats.unwrap()), deaths)
}

impl Shop {
    fn new(devices: bool) -> Self {
        let server = Server::start(&[]);
        let (on, deaths) = shop(&server.host(), devices);
        Self { server, on, deaths }
    }

    async fn other_client(&self) -> jetstream::Context {
        let other = async_nats::connect(self.server.host()).await.unwrap();
        jetstream::new(other)
    }
}

/// Until the server has it.
async fn stored(on: &jetstream::Context, subject: &str, headers: HeaderMap, data: Vec<u8>) {
    let sent = on.publish_with_headers(subject.to_owned(), headers, data.into());
    sent.await.unwrap().await.unwrap();
}

/// The largest message that can be sent so, with metadata that take more room on their way than they have.
async fn largest(on: &Arc<dyn Messaging>, topic: &str, delay: Option<Duration>) -> Message {
    for n in (0..5_460).rev() {
        // A value that can be no header is written with three letters for each of its own.
        let message = Message {
            metadata: vec![("k".to_owned(), " ".to_owned() + &"-".repeat(n))],
            ..text("x".repeat(limits::MESSAGE_BYTES_MAX))
        };
        match soon(on.send(topic, message.clone(), delay)).await {
            Ok(()) => return message,
            Err(error) => assert!(matches!(error, CloudError::TooLarge { .. }), "{error}"),
        }
    }
    panic!("none fits");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_other_clients_have_no_more_room_than_messages() {
    const MANY: usize = 1_500;
    let shop = Shop::new(false);
    let mut worker = member(&shop.on, &subscription("orders", "w", 2_000)).await;
    let other = shop.other_client().await;
    for _ in 0..MANY {
        let mut headers = HeaderMap::new();
        // The most that the server keeps.
        headers.insert("X", "x".repeat(63 * 1024));
        stored(&other, "shop.orders", headers, Vec::new()).await;
    }
    let mut held = vec![next(&mut worker).await];
    while let Ok(one) = timeout(Duration::from_secs(2), worker.next()).await {
        held.push(one.unwrap());
    }
    assert!((300..1_000).contains(&held.len()), "{}", held.len());
    let mut n = held.len();
    while n < MANY {
        for one in held.drain(..) {
            one.receipt.ack().await.unwrap();
        }
        held.push(next(&mut worker).await);
        n += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_beside_the_words_of_its_death_is_kept_without_its_bytes() {
    let shop = Shop::new(false);
    let mortal = Subscription {
        n_deliveries: 1,
        dead_letter: Some("dead".to_owned()),
        ..subscription("orders", "w", 5)
    };
    let mut worker = member(&shop.on, &mortal).await;
    let mut dead = member(&shop.on, &subscription("dead", "w", 5)).await;
    largest(&shop.on, "orders", None).await;
    let delivery = next(&mut worker).await;
    assert_eq!(
        delivery.receipt.retry(Duration::ZERO, "bad").await,
        Ok(true)
    );
    // It is dead before anybody sees it, and is larger than any message.
    let other = shop.other_client().await;
    let large = vec![b'x'; PAYLOAD_MAX];
    stored(&other, "shop.orders", HeaderMap::new(), large).await;
    let whys = [
        "(without its bytes, which do not fit beside this) bad",
        "(without its bytes, which do not fit beside this) it is larger than a message may be",
    ];
    for why in whys {
        let delivery = next(&mut dead).await;
        assert_eq!(value(&delivery.message, DEAD_WHY), Some(why));
        assert!(delivery.message.data.is_empty());
        delivery.receipt.ack().await.unwrap();
    }
    let letters = soon(shop.on.letters()).await.unwrap();
    let kept = letters.iter().map(|one| value(&one.message, DEAD_WHY));
    assert_eq!(kept.rev().collect::<Vec<_>>(), whys.map(Some));
    // What is delivered again is what was sent.
    let again = soon(shop.on.settle_letter(letters[0].number, true)).await;
    assert_eq!(again, Err(CloudError::NotFound("the bytes of the message")));
    let dropped = soon(shop.on.settle_letter(letters[0].number, false)).await;
    assert_eq!(dropped, Ok(true));
    nothing_comes(&mut worker).await;
    assert_eq!(shop.deaths.lock().unwrap().len(), 2);
    send(&shop.on, "orders", "more").await;
    assert_eq!(take(&mut worker).await, "more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_cannot_be_sent_holds_up_no_other_and_comes_to_an_end() {
    let shop = Shop::new(true);
    let mut worker = member(&shop.on, &subscription(">", "w", 50)).await;
    let other = shop.other_client().await;
    let due = |more: &[(&str, &str)]| {
        let mut headers = HeaderMap::new();
        headers.insert("Realm-Due-Ms", "1");
        for (name, value) in more {
            headers.insert(*name, *value);
        }
        headers
    };
    // With what is said of it when it is sent it is larger than the server takes.
    let headers = "NATS/1.0\r\nRealm-Due-Ms: 1\r\n\r\n".len();
    let full = vec![b'x'; PAYLOAD_MAX - headers];
    stored(&other, "shop=later.full", due(&[]), full).await;
    // What the server would do because of it, it did when this was kept.
    let of_later = due(&[("Nats-Expected-Stream", "shop=later")]);
    stored(&other, "shop=later.strict", of_later, b"strict".to_vec()).await;
    let soon_due = Some(Duration::from_millis(50));
    let topics = ["a", "b", "c"];
    for topic in topics {
        soon(shop.on.send(topic, text(topic), soon_due))
            .await
            .unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        seen.insert(take(&mut worker).await);
    }
    assert_eq!(seen, ["a", "b", "c", "strict"].map(str::to_owned).into());
    // A guest's own is refused when it is sent, or comes.
    let message = largest(&shop.on, "d", soon_due).await;
    let delivery = next(&mut worker).await;
    assert_eq!(words(&delivery.message), words(&message));
    assert_eq!(delivery.message.metadata, message.metadata);
    delivery.receipt.ack().await.unwrap();
    let began = Instant::now();
    loop {
        let mut later = other.get_stream("shop=later").await.unwrap();
        if later.info().await.unwrap().state.messages == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(50)).await;
    }
    let deaths = shop.deaths.lock().unwrap().clone();
    let [death] = &*deaths else {
        panic!("{deaths:?}");
    };
    assert_eq!(death.topic, "full");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_never_takes_holds_up_no_timer_that_was_kept_behind_it() {
    let Shop { server, on, .. } = Shop::new(true);
    let worker = subscription(">", "w", 50);
    let group = std::slice::from_ref(&worker.group);
    soon(on.keep_groups(group)).await.unwrap();
    let delay = Some(Duration::from_millis(1));
    soon(on.send("first", text("first"), delay)).await.unwrap();
    let mut member_of_first = member(&on, &worker).await;
    assert_eq!(take(&mut member_of_first).await, "first");
    // Until nobody asks for what is due: this node is gone.
    drop((on, member_of_first));
    let other = async_nats::connect(server.host()).await.unwrap();
    let other = jetstream::new(other);
    let later = other.get_stream("shop=later").await.unwrap();
    let began = Instant::now();
    while later.consumer_info("realm").await.unwrap().num_waiting > 0 {
        assert!(began.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(50)).await;
    }
    // For one topic nothing can be kept for devices.
    let full = jetstream::stream::Config {
        name: "full".to_owned(),
        subjects: vec!["$MQTT.msgs.shop.bad".to_owned()],
        max_message_size: 1,
        ..Default::default()
    };
    other.create_stream(full).await.unwrap();
    for topic in ["bad", "a", "b", "c"] {
        let mut headers = HeaderMap::new();
        headers.insert("Realm-Due-Ms", "1");
        let subject = format!("shop=later.{topic}");
        stored(&other, &subject, headers, topic.as_bytes().to_vec()).await;
    }
    let (on, _) = shop(&server.host(), true);
    let mut worker = member(&on, &worker).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 3 {
        seen.insert(take(&mut worker).await);
    }
    assert_eq!(seen, ["a", "b", "c"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_goes_where_clients_wait_for_one_and_to_no_topic() {
    let shop = Shop::new(false);
    let mut worker = member(&shop.on, &subscription("ask", "w", 5)).await;
    let mut bills = member(&shop.on, &subscription("bills", "w", 5)).await;
    let other = async_nats::connect(shop.server.host()).await.unwrap();
    for reply in [
        "shop.bills",
        "shop=request.bills",
        "$JS.API.STREAM.DELETE.shop",
    ] {
        let asked = other.publish_with_reply("shop=request.ask", reply, "?".into());
        asked.await.unwrap();
    }
    other.flush().await.unwrap();
    nothing_comes(&mut worker).await;
    let asking = tokio::spawn(async move { other.request("shop=request.ask", "?".into()).await });
    let asked = next(&mut worker).await;
    let inbox = asked.message.reply_to.clone().unwrap();
    shop.on.reply(&inbox, text("yes")).await.unwrap();
    assert_eq!(&soon(asking).await.unwrap().unwrap().payload[..], b"yes");
    nothing_comes(&mut bills).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_names_others_leads_nobody_to_them() {
    let (server, elsewhere) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let host = server.local_addr().unwrap().to_string();
    let other = elsewhere.local_addr().unwrap();
    let said = format!(
        r#"INFO {{"server_id":"A","server_name":"a","version":"2.10.0","go":"go1","host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576,"proto":1,"client_id":1,"connect_urls":["{other}"]}}"#
    );
    // It answers the first words of who connects, and is gone.
    let serving = tokio::spawn(async move {
        let mut n = 0;
        while n < 6 {
            let (stream, _) = server.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let hello = format!("{said}\r\n");
            stream.write_all(hello.as_bytes()).await.unwrap();
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
                if line.starts_with("PING") {
                    n += 1;
                    let _ = stream.write_all(b"PONG\r\n").await;
                    break;
                }
                line.clear();
            }
        }
    });
    let (on, _) = shop(&host, false);
    let sending = tokio::spawn(async move {
        loop {
            let _ = on.send("orders", text("x"), None).await;
            sleep(Duration::from_millis(20)).await;
        }
    });
    let came = tokio::select! {
        came = elsewhere.accept() => Some(came),
        served = timeout(Duration::from_secs(120), serving) => {
            served.unwrap().unwrap();
            None
        }
    };
    sending.abort();
    assert!(came.is_none(), "it went where it was led");
}
