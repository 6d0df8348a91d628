//! The same operations as the guest `bench-stores`, without realm: a program with the client alone.
//!
//! `realm-bench-native redb FILE|redis ADDRESS get|set N BYTES` prints the nanoseconds of all together.
//! Durability is what realm's stores promise: each `set` is on the disk before the next one begins.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the harness reads the one and keeps the other"
)]

use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase as _, TableDefinition};

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bench");
const KEY: &str = "key-of-the-benchmark";

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [engine, place, operation, n, bytes] = args.as_slice() else {
        eprintln!("usage: realm-bench-native redb FILE|redis ADDRESS get|set N BYTES");
        std::process::exit(64);
    };
    let n: usize = n.parse().unwrap();
    let value = vec![7_u8; bytes.parse().unwrap()];
    let is_set = operation == "set";
    let took = match engine.as_str() {
        "redb" => embedded(place, is_set, n, &value),
        "redis" => redis(place, is_set, n, &value).await,
        other => panic!("no engine `{other}`"),
    };
    println!("{}", took.as_nanos());
}

fn embedded(place: &str, is_set: bool, n: usize, value: &[u8]) -> Duration {
    let database = Database::create(place).unwrap();
    let set = || {
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(TABLE).unwrap();
        table.insert(KEY, value).unwrap();
        drop(table);
        transaction.commit().unwrap();
    };
    set();
    let began = Instant::now();
    for _ in 0..n {
        if is_set {
            set();
        } else {
            let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
            let got = table.get(KEY).unwrap().unwrap().value().to_vec();
            assert_eq!(got.len(), value.len());
        }
    }
    began.elapsed()
}

async fn redis(place: &str, is_set: bool, n: usize, value: &[u8]) -> Duration {
    let client = redis::Client::open(format!("redis://{place}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let set = redis::cmd("SET").arg(KEY).arg(value).clone();
    let () = set.query_async(&mut connection).await.unwrap();
    let began = Instant::now();
    for _ in 0..n {
        if is_set {
            let () = set.query_async(&mut connection).await.unwrap();
        } else {
            let mut get = redis::cmd("GET");
            let got: Vec<u8> = get.arg(KEY).query_async(&mut connection).await.unwrap();
            assert_eq!(got.len(), value.len());
        }
    }
    began.elapsed()
}
