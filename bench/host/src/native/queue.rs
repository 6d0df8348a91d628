//! Messages: sent by many at once, and taken by one durable pull consumer.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::task::JoinSet;

use crate::Work;

const NAME: &str = "native";

/// `send` ends when all is sent, `work` when all of it is taken and acknowledged as well.
pub(crate) async fn nats(work: &Work, at_once: usize) -> Duration {
    let value = Bytes::from(vec![7_u8; work.bytes]);
    let client = async_nats::connect(&work.place).await.unwrap();
    let context = jetstream::new(client);
    // Anew: what an earlier measurement left is nobody's.
    let _ = context.delete_stream(NAME).await;
    let config = stream::Config {
        name: NAME.to_owned(),
        subjects: vec![format!("{NAME}.>")],
        ..stream::Config::default()
    };
    let stream = context.create_stream(config).await.unwrap();
    let config = consumer::pull::Config {
        durable_name: Some("taker".to_owned()),
        max_ack_pending: i64::try_from(at_once).unwrap(),
        ..consumer::pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let n = work.n * at_once;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (context, value, n) = (context.clone(), value.clone(), work.n);
        tasks.spawn(async move {
            for _ in 0..n {
                let sent = context.publish(format!("{NAME}.bench"), value.clone());
                sent.await.unwrap().await.unwrap();
            }
        });
    }
    if work.operation == "work" {
        let mut messages = consumer.messages().await.unwrap().take(n);
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            assert_eq!(message.payload.len(), work.bytes);
            tasks.spawn(async move { message.double_ack().await.unwrap() });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    began.elapsed()
}
