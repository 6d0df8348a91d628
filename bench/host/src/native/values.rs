//! Values by key.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use redb::{Database, ReadableDatabase as _, TableDefinition};

use crate::Work;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bench");
const KEY: &str = "key-of-the-benchmark";

pub(crate) fn embedded(work: &Work) -> Duration {
    let value = vec![7_u8; work.bytes];
    let database = Database::create(&work.place).unwrap();
    let set = || {
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(TABLE).unwrap();
        table.insert(KEY, value.as_slice()).unwrap();
        drop(table);
        transaction.commit().unwrap();
    };
    set();
    let began = Instant::now();
    for _ in 0..work.n {
        if work.operation == "set" {
            set();
        } else {
            let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
            let got = table.get(KEY).unwrap().unwrap().value().to_vec();
            assert_eq!(got.len(), work.bytes);
        }
    }
    began.elapsed()
}

pub(crate) async fn redis(work: &Work) -> Duration {
    let value = vec![7_u8; work.bytes];
    let client = redis::Client::open(format!("redis://{}", work.place)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let set = redis::cmd("SET").arg(KEY).arg(value).clone();
    let () = set.query_async(&mut connection).await.unwrap();
    let began = Instant::now();
    for _ in 0..work.n {
        if work.operation == "set" {
            let () = set.query_async(&mut connection).await.unwrap();
        } else {
            let mut get = redis::cmd("GET");
            let got: Vec<u8> = get.arg(KEY).query_async(&mut connection).await.unwrap();
            assert_eq!(got.len(), work.bytes);
        }
    }
    began.elapsed()
}

pub(crate) async fn nats(work: &Work) -> Duration {
    let value = Bytes::from(vec![7_u8; work.bytes]);
    let client = async_nats::connect(&work.place).await.unwrap();
    let context = jetstream::new(client);
    // `create_key_value` of the client wants an account's data as servers older than 2.10 do not give them.
    let config = jetstream::stream::Config {
        name: "KV_native".to_owned(),
        subjects: vec!["$KV.native.>".to_owned()],
        max_messages_per_subject: 1,
        discard: jetstream::stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..jetstream::stream::Config::default()
    };
    context.create_stream(config).await.unwrap();
    let bucket = context.get_key_value("native").await.unwrap();
    bucket.put(KEY, value.clone()).await.unwrap();
    let began = Instant::now();
    for _ in 0..work.n {
        if work.operation == "set" {
            bucket.put(KEY, value.clone()).await.unwrap();
        } else {
            let got = bucket.get(KEY).await.unwrap().unwrap();
            assert_eq!(got.len(), work.bytes);
        }
    }
    began.elapsed()
}
