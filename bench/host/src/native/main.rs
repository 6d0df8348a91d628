//! The same operations as the guests `bench-stores` and `bench-worker`, without realm: a program with the
//! client alone.
//!
//! `realm-bench-native THREADS STORE PLACE OPERATION N BYTES` prints the nanoseconds of all together; THREADS
//! is `one` or `many`, as a program may be written either way and which is faster differs. Durability is
//! what realm's stores promise: what was written is on the disk before the next operation begins.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the harness reads the one and keeps the other"
)]

mod objects;
mod queue;
mod rows;
mod values;

use std::time::Duration;

use tokio::runtime::Builder;

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is asked for.
struct Work {
    /// A file, an address, or a port.
    place: String,
    operation: String,
    n: usize,
    bytes: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut runtime = match args.first().map(String::as_str) {
        Some("one") => Builder::new_current_thread(),
        Some("many") => Builder::new_multi_thread(),
        _ => usage(),
    };
    let runtime = runtime.enable_all().build().unwrap();
    let took = runtime.block_on(measured(&args[1..]));
    println!("{}", took.as_nanos());
}

fn usage() -> ! {
    eprintln!("usage: realm-bench-native one|many STORE PLACE OPERATION N BYTES [AT_ONCE]");
    std::process::exit(64);
}

async fn measured(args: &[String]) -> Duration {
    let [store, place, operation, n, bytes, more @ ..] = args else {
        usage();
    };
    let work = Work {
        place: place.clone(),
        operation: operation.clone(),
        n: n.parse().unwrap(),
        bytes: bytes.parse().unwrap(),
    };
    match (store.as_str(), more) {
        ("redb", []) => values::embedded(&work),
        ("redis", []) => values::redis(&work).await,
        ("nats", []) => values::nats(&work).await,
        ("nats", [at_once]) => queue::nats(&work, at_once.parse().unwrap()).await,
        ("folder", []) => objects::folder(&work),
        ("s3", []) => objects::s3(&work).await,
        ("sqlite", []) => rows::sqlite(&work),
        ("postgres", []) => rows::postgres(&work).await,
        (other, _) => panic!("no store `{other}`"),
    }
}
