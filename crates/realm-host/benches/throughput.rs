//! How many requests per second the host alone answers: no sockets, no HTTP parsing.
//!
//! `RUST_BACKTRACE=0 cargo bench -p realm-host --bench throughput -- [SECONDS]`: with backtraces
//! on, wasmtime takes one per request, and a third of the speed with it.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt as _;
use realm_host::{Body, Config, Host, LogSink, Meter, Replica, Settings, compile};
use realm_model::api::LogStream;
use realm_model::limits::Limits;
use realm_test_guests as guests;

struct Silent;

impl LogSink for Silent {
    fn line(&self, _: u32, _: LogStream, _: String) {}
}

#[tokio::main]
async fn main() {
    // Cargo adds an argument of its own.
    let seconds = std::env::args().find_map(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(5));
    let cores = std::thread::available_parallelism().unwrap().get();
    for (name, path) in [("hello", guests::HELLO), ("p3-hello", guests::P3_HELLO)] {
        for fuel_per_sec in [None, Some(u64::MAX / 4)] {
            let replica = replica(path, fuel_per_sec);
            measure(&replica, 1, time / 5).await;
            for callers in [1, cores, cores * 8] {
                let (count, took) = measure(&replica, callers, time).await;
                let per_sec = count as f64 / took.as_secs_f64();
                let micros = took.as_secs_f64() * 1e6 * callers as f64 / count as f64;
                let metered = if fuel_per_sec.is_some() {
                    "metered"
                } else {
                    ""
                };
                println!(
                    "{name:10} {metered:8} {callers:3} callers {per_sec:9.0} req/s {micros:8.1} µs each"
                );
            }
        }
    }
}

fn replica(path: &str, fuel_per_sec: Option<u64>) -> Replica {
    let folder = tempfile::tempdir().unwrap();
    let compiled = folder.path().join("compiled");
    let code = compile(&std::fs::read(path).unwrap(), fuel_per_sec.is_some()).unwrap();
    std::fs::write(&compiled, code).unwrap();
    let settings = Settings {
        name: "guest".parse().unwrap(),
        limits: Limits {
            fuel_per_sec,
            max_concurrency: 1_000,
            ..Limits::default()
        },
        grants: Default::default(),
        stores: realm_host::Stores::default(),
        reuse: false,
        probe: None,
        log: Arc::new(Silent),
        meter: Arc::new(Meter::new()),
    };
    let host = Host::new(Config::default()).unwrap();
    host.load(settings, &compiled).unwrap().replica(0)
}

/// Calls for `time`, each caller one request after the other.
async fn measure(replica: &Replica, callers: usize, time: Duration) -> (u64, Duration) {
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (replica, stop, count) = (replica.clone(), Arc::clone(&stop), Arc::clone(&count));
        tasks.spawn(async move {
            while !stop.load(Relaxed) {
                let response = replica.call(request()).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert!(body.starts_with(b"hello"));
                count.fetch_add(1, Relaxed);
            }
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Relaxed);
    tasks.join_all().await;
    (count.load(Relaxed), began.elapsed())
}

fn request() -> Request<Body> {
    Request::builder()
        .uri("/")
        .header("host", "shop.example.com")
        .header("user-agent", "throughput")
        .header("accept", "*/*")
        .body(Body::default())
        .unwrap()
}
