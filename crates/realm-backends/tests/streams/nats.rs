//! NATS: a real server with JetStream, and what holds where it goes, comes back, or is not realm's alone.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use realm_backends::streams::Nats;
use realm_backends::{Access, Unwatched, Watch};
use realm_model::cloud::streams::{Bounds, Keep, Record, StreamError};
use realm_model::cloud::{CloudError, Streams, limits};

use crate::relay::Relay;
use crate::servers::{self, Server};
use crate::support::{Bed, SHORT_BYTES, append, at, record, replay, wait_until, words};

fn access(prefix: &str) -> Access {
    Access {
        prefix: prefix.to_owned(),
        ..Access::default()
    }
}

fn client(server: &Server, prefix: &str, keep: Keep) -> Arc<dyn Streams> {
    watched(server, prefix, keep, Arc::new(Unwatched))
}

fn watched(server: &Server, prefix: &str, keep: Keep, watch: Arc<dyn Watch>) -> Arc<dyn Streams> {
    on_port(server.port, prefix, keep, watch)
}

fn on_port(port: u16, prefix: &str, keep: Keep, watch: Arc<dyn Watch>) -> Arc<dyn Streams> {
    let host = format!("127.0.0.1:{port}");
    let nats = Nats::new(&host, false, &access(prefix), keep, watch);
    Arc::new(nats.unwrap())
}

pub(crate) fn bed() -> Bed {
    let server = servers::nats("", None);
    let of_bytes = Keep {
        bytes: Some(SHORT_BYTES),
        age: None,
    };
    let of_age = Keep {
        bytes: None,
        age: Some(Duration::from_secs(1)),
    };
    Bed {
        streams: client(&server, "events", Keep::default()),
        short: client(&server, "short", of_bytes),
        brief: client(&server, "brief", of_age),
        _keep: Box::new(server),
    }
}

async fn jetstream(server: &Server) -> jetstream::Context {
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port)).await;
    jetstream::new(client.unwrap())
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Watch for Told {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(why.to_owned());
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_has_everything() {
    let mut server = servers::nats("", None);
    let told = Arc::<Told>::default();
    let watch: Arc<dyn Watch> = Arc::clone(&told) as _;
    let streams = watched(&server, "events", Keep::default(), watch);
    for n in 0..50 {
        append(&streams, "orders", n.to_string()).await;
    }
    streams
        .commit(at("orders"), "bills", 20, None)
        .await
        .unwrap();
    server.kill();
    let began = Instant::now();
    let away = streams
        .append(at("orders"), vec![record("x")], Some(50))
        .await;
    assert!(matches!(
        away,
        Err(StreamError::Cloud(
            CloudError::Unavailable | CloudError::Timeout
        ))
    ));
    let away = streams
        .read(at("orders"), 0, 1, Duration::from_secs(9))
        .await;
    assert!(away.is_err(), "{away:?}");
    assert!(began.elapsed() < Duration::from_secs(21));
    assert!(!told.0.lock().unwrap().is_empty());
    server.run();
    wait_until("it is found again", async || {
        streams.bounds(at("orders")).await.is_ok()
    })
    .await;
    let all = replay(&streams, "orders").await;
    assert!(all.len() >= 50, "{}", all.len());
    assert!(
        all[..50]
            .iter()
            .enumerate()
            .all(|(n, one)| words(one) == n.to_string())
    );
    assert_eq!(streams.position(at("orders"), "bills").await, Ok(Some(20)));
    wait_until("it takes records again", async || {
        streams
            .append(at("orders"), vec![record("y")], None)
            .await
            .is_ok()
    })
    .await;
    wait_until("the operator hears", async || {
        told.0.lock().unwrap().contains(&"up".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_programs_do_with_a_stream_is_seen() {
    let server = servers::nats("", None);
    let streams = client(&server, "events", Keep::default());
    append(&streams, "orders.eu", "first").await;
    let jetstream = jetstream(&server).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Kind", "by hand");
    let sent =
        jetstream.publish_with_headers("events=stream.orders=2Eeu", headers, "second".into());
    sent.await.unwrap().await.unwrap();
    append(&streams, "orders.eu", "third").await;
    let stream = jetstream
        .get_stream("events=stream=orders=2Eeu")
        .await
        .unwrap();
    assert_eq!(stream.cached_info().state.messages, 3);
    let all = replay(&streams, "orders.eu").await;
    let pair = ("Kind".to_owned(), "by hand".to_owned());
    assert_eq!(
        (words(&all[1]), &all[1].record.metadata),
        ("second".to_owned(), &vec![pair])
    );
    // One that is taken out leaves a gap.
    stream.delete_message(2).await.unwrap();
    assert!(
        replay(&streams, "orders.eu")
            .await
            .iter()
            .map(|one| one.seq)
            .eq([1, 3])
    );
    let bounds = Bounds { first: 1, last: 3 };
    assert_eq!(streams.bounds(at("orders.eu")).await, Ok(bounds));
    assert_eq!(streams.find(at("orders.eu"), all[2].time_ms).await, Ok(3));
    // A stream that is deleted is made anew.
    jetstream
        .delete_stream("events=stream=orders=2Eeu")
        .await
        .unwrap();
    wait_until("it is there again", async || {
        streams
            .append(at("orders.eu"), vec![record("new")], None)
            .await
            .is_ok()
    })
    .await;
    assert_eq!(words(&replay(&streams, "orders.eu").await[0]), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_realms_is_left_alone() {
    let server = servers::nats("", None);
    let jetstream = jetstream(&server).await;
    let theirs = jetstream::stream::Config {
        name: "events=stream=orders".to_owned(),
        subjects: vec!["theirs".to_owned()],
        ..jetstream::stream::Config::default()
    };
    jetstream.create_stream(theirs).await.unwrap();
    let told = Arc::<Told>::default();
    let watch: Arc<dyn Watch> = Arc::clone(&told) as _;
    let streams = watched(&server, "events", Keep::default(), watch);
    let refused = streams.append(at("orders"), vec![record("x")], None).await;
    assert_eq!(refused, Err(CloudError::Unavailable.into()));
    let said = told.0.lock().unwrap().join("\n");
    assert!(said.contains("is there and not realm's"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_follows_the_manifest_and_all_else_its_operator() {
    let server = servers::nats("", None);
    append(&client(&server, "events", Keep::default()), "orders", "x").await;
    let jetstream = jetstream(&server).await;
    let config = async || {
        let stream = jetstream.get_stream("events=stream=orders").await.unwrap();
        stream.cached_info().config.clone()
    };
    let mut theirs = config().await;
    assert_eq!((theirs.max_age, theirs.max_bytes), (Duration::ZERO, -1));
    theirs.max_message_size = 5_000;
    jetstream.update_stream(&theirs).await.unwrap();
    let keep = Keep {
        age: Some(Duration::from_secs(3_600)),
        bytes: Some(SHORT_BYTES),
    };
    append(&client(&server, "events", keep), "orders", "y").await;
    let now = config().await;
    let expected = (Duration::from_secs(3_600), SHORT_BYTES as i64, 5_000);
    assert_eq!((now.max_age, now.max_bytes, now.max_message_size), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_records_under_a_condition_are_refused_and_not_half_done() {
    let server = servers::nats("", None);
    let streams = client(&server, "events", Keep::default());
    let both = vec![record("a"), record("b")];
    let ended = streams.append(at("orders"), both, Some(0)).await;
    assert!(matches!(
        ended,
        Err(StreamError::Cloud(CloudError::Unsupported(_)))
    ));
    assert_eq!(replay(&streams, "orders").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_one_record_does_not_fit_is_not_there_in_part() {
    let server = servers::nats("", None);
    let streams = client(&server, "events", Keep::default());
    // Within what a record may have, and not within what it takes on the way.
    let large = Record {
        data: vec![b'x'; limits::RECORD_BYTES_MAX - 8_191],
        metadata: vec![("a".to_owned(), "\u{a0}".repeat(4_095))],
        ..Record::default()
    };
    for expected in [None, Some(0)] {
        let batch = match expected {
            None => vec![record("small"), large.clone()],
            Some(_) => vec![large.clone()],
        };
        let ended = streams.append(at("orders"), batch, expected).await;
        let code = ended.map_err(|error| match error {
            StreamError::Cloud(error) => error.code(),
            StreamError::Conflict(_) => "conflict",
        });
        assert_eq!(code, Err("too-large"));
    }
    assert_eq!(replay(&streams, "orders").await, []);
    assert_eq!(append(&streams, "orders", "small").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_ahead_of_a_stream_that_was_made_anew_reads_nothing_of_it() {
    let server = servers::nats("", None);
    let streams = client(&server, "events", Keep::default());
    for n in 0..3 {
        append(&streams, "orders", n.to_string()).await;
    }
    let reading = {
        let streams = Arc::clone(&streams);
        let wait = Duration::from_secs(9);
        tokio::spawn(async move { streams.read(at("orders"), 100, 5, wait).await })
    };
    let jetstream = jetstream(&server).await;
    wait_until("it waits on the server", async || {
        let stream = jetstream.get_stream("events=stream=orders").await.unwrap();
        stream.cached_info().state.consumer_count == 1
    })
    .await;
    append(&streams, "orders", "not after 100").await;
    assert_eq!(reading.await.unwrap(), Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_reads_bring_records_at_a_time() {
    let server = servers::nats("", None);
    append(&client(&server, "events", Keep::default()), "orders", "x").await;
    // What it is asked for it does not give, so that all who ask wait for it.
    let relay = Relay::start(server.port, "$JS.API.CONSUMER.MSG.NEXT.").await;
    let streams = on_port(relay.port, "events", Keep::default(), Arc::new(Unwatched));
    let mut reading = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let streams = Arc::clone(&streams);
        reading.spawn(async move { streams.read(at("orders"), 0, 9, Duration::ZERO).await });
    }
    let jetstream = jetstream(&server).await;
    wait_until("all have their consumer", async || {
        let stream = jetstream.get_stream("events=stream=orders").await.unwrap();
        stream.cached_info().state.consumer_count == 40
    })
    .await;
    wait_until("some ask", async || relay.n_held() >= 16).await;
    // Behind which all others have heard that they have one.
    for _ in 0..50 {
        streams.bounds(at("orders")).await.unwrap();
    }
    assert_eq!(relay.n_held(), 16);
}
