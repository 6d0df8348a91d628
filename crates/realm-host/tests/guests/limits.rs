//! Every limit, by a guest that goes beyond it, and what its neighbours notice: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use realm_host::{Body, BoxError, Config, Host, Run};
use realm_test_guests as guests;

use crate::harness::{Loaded, eventually, get, guest, post, read};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn spin() {
    let spin = guest(guests::SPIN)
        .limits(|limits| limits.epoch_timeout_ms = 100)
        .load();
    let began = Instant::now();
    assert_eq!(spin.refusal("/spin").await, ("epoch-timeout", 504));
    assert!(began.elapsed() >= Duration::from_millis(100));
    spin.ended("epoch-timeout").await;
    let meter = spin.meter();
    assert!(meter.wasm_exec_ms.sum_ms >= 100.0, "{meter:?}");
    assert!(meter.epoch_preemptions > 10, "{meter:?}");
    assert_eq!(spin.body("/").await, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_spin() {
    let spin = guest(guests::P3_SPIN)
        .limits(|limits| limits.epoch_timeout_ms = 100)
        .load();
    assert_eq!(spin.refusal("/spin").await, ("epoch-timeout", 504));
    assert_eq!(spin.body("/").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spinning_guest_is_ended_by_the_wall_as_well() {
    for path in [guests::SPIN, guests::P3_SPIN] {
        let spin = guest(path)
            .limits(|limits| {
                limits.epoch_timeout_ms = 60_000;
                limits.wall_timeout_ms = 100;
            })
            .load();
        assert_eq!(spin.refusal("/spin").await, ("wall-timeout", 504));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spinning_start_is_ended() {
    let slow = guest(guests::SLOW_START)
        .limits(|limits| limits.epoch_timeout_ms = 50)
        .grants(|grants| drop(grants.env.insert("BURN_MS".into(), "60000".into())))
        .load();
    assert_eq!(slow.refusal("/").await, ("epoch-timeout", 504));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_guest_beside_spinning_ones_stays_quick() {
    let host = Host::new(Config::default()).unwrap();
    let spin = guest(guests::SPIN).limits(|limits| limits.epoch_timeout_ms = 60_000);
    let spin = spin.load_into(&host).unwrap();
    let hello = guest(guests::HELLO).load_into(&host).unwrap();
    hello.body("/").await;
    let mut spinning = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let replica = spin.replica.clone();
        spinning.spawn(async move { replica.call(get("/spin")).await.map(drop) });
    }
    eventually(|| spin.replica.in_flight() == 32).await;
    // On a worker, and woken by a timer, as a connection is: behind all that is ready there.
    let replica = hello.replica.clone();
    let times = tokio::spawn(async move {
        let mut times = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            let answer = read(replica.call(get("/")).await.unwrap()).await;
            assert_eq!(answer.text(), "hello\n");
            times.push(began.elapsed());
        }
        times.sort();
        times
    });
    let median = times.await.unwrap()[50];
    // Were they on these workers, 16 guests would come first on each, with a tick each.
    assert!(median < Duration::from_millis(10), "{median:?}");
    assert!(nice_of("realm-heavy") > nice_of("realm-epoch"));
    // SCHED_IDLE: whoever wakes up goes first, at once.
    assert_eq!(stat_of("realm-heavy", 41), 5);
    assert_eq!(spin.replica.in_flight(), 32);
    spinning.abort_all();
    eventually(|| spin.replica.in_flight() == 0).await;
}

/// Threads that want all the processor there is.
struct Others {
    go_on: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Others {
    fn take_all() -> Self {
        let go_on = Arc::new(AtomicBool::new(true));
        let n_threads = 2 * std::thread::available_parallelism().unwrap().get();
        let thread = |_| {
            let go_on = Arc::clone(&go_on);
            std::thread::spawn(move || {
                while go_on.load(Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..n_threads).map(thread).collect();
        Self { go_on, threads }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.go_on.store(false, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("it only spins");
        }
    }
}

/// Those that wait for a processor too: here others take all there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_time_of_guests_that_get_no_processor_is_kept() {
    let spin = guest(guests::SPIN).limits(|limits| {
        limits.epoch_timeout_ms = 60_000;
        limits.wall_timeout_ms = 1_000;
        limits.max_concurrency = 64;
    });
    let spin = spin.load();
    let others = Others::take_all();
    let began = Instant::now();
    let mut spinning = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let replica = spin.replica.clone();
        spinning.spawn(async move {
            let answered = replica.call(get("/spin")).await;
            answered.map(drop).map_err(|error| error.code)
        });
    }
    let ends = spinning.join_all().await;
    let took = began.elapsed();
    let program = guest(guests::PROGRAM).limits(|limits| {
        limits.epoch_timeout_ms = 60_000;
        limits.wall_timeout_ms = 1_000;
        limits.max_concurrency = 64;
    });
    let program = program.program().unwrap().program;
    let running_at = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let program = program.clone();
        running.spawn(async move {
            let args = vec!["spin".into()];
            let run = Run {
                args,
                ..Run::default()
            };
            program.run(run).await.map_err(|error| error.code)
        });
    }
    let runs = running.join_all().await;
    let ran = running_at.elapsed();
    drop(others);
    assert!(
        ends.iter().all(|end| *end == Err("wall-timeout")),
        "{ends:?}"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(
        runs.iter().all(|end| *end == Err("wall-timeout")),
        "{runs:?}"
    );
    assert!(ran < Duration::from_secs(3), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn memory_bomb() {
    let bomb = guest(guests::MEMORY_BOMB)
        .limits(|limits| limits.memory_max_mb = 16)
        .load();
    assert_eq!(bomb.refusal("/").await, ("memory-limit", 500));
    bomb.ended("memory-limit").await;
    let meter = bomb.meter();
    assert!(meter.mem_peak_bytes <= 16 * 1024 * 1024, "{meter:?}");
    assert!(meter.mem_peak_bytes > 14 * 1024 * 1024, "{meter:?}");
    assert_eq!(meter.mem_current_bytes, 0);
    // A guest that takes a refusal well is not ended for it.
    let told = bomb.body("/grow").await;
    let mib: u64 = told.split(' ').nth(2).unwrap().parse().unwrap();
    assert!((14..=16).contains(&mib), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn handle_bomb() {
    let bomb = guest(guests::HANDLE_BOMB).load();
    assert_eq!(bomb.refusal("/").await, ("trap", 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_is_said_at_once() {
    let park = guest(guests::PARK)
        .limits(|limits| {
            limits.max_concurrency = 2;
            limits.wall_timeout_ms = 60_000;
        })
        .load();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let replica = park.replica.clone();
        calls.spawn(async move { replica.call(get("/?ms=60000")).await.map(drop) });
    }
    // Two run, two wait for a quarter of a second, the fifth is refused straight away.
    let error = calls.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        (error.code, error.status, error.retry_after_s),
        ("overloaded", 503, Some(1))
    );
    eventually(|| park.replica.in_flight() == 2).await;
    eventually(|| park.count("overloaded") == 3).await;
    // Other replicas have room of their own.
    let other = park.component.replica(8);
    assert!(other.call(get("/?ms=1")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_bounded_over_all_components() {
    let park = guest(guests::PARK)
        .config(|config| config.policy.instances_max = 2)
        .load();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let replica = park.replica.clone();
        calls.spawn(async move { replica.call(get("/?ms=60000")).await.map(drop) });
    }
    eventually(|| park.replica.in_flight() == 2).await;
    assert_eq!(park.refusal("/?ms=1").await, ("overloaded", 503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_body_has_a_size() {
    for path in [guests::ECHO, guests::P3_ECHO, guests::NEVER_READS] {
        let guest = guest(path)
            .limits(|limits| limits.max_request_bytes = 1_000)
            .load();
        let answer = guest.send(post("/", vec![1; 1_000])).await.unwrap();
        assert_eq!((answer.status, answer.broken), (200, None), "{path}");
        // Announced: refused before anything runs.
        let error = guest.send(post("/", vec![1; 1_001])).await.unwrap_err();
        assert_eq!(
            (error.code, error.status),
            ("request-too-large", 413),
            "{path}"
        );
    }
}

/// A body of pieces of 100 bytes that does not say how long it is.
fn unannounced(pieces: usize) -> Body {
    let frames = (0..pieces).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![1; 100]))));
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_body_that_grows_too_large_ends_where_it_does() {
    // Answers after the body was read: 413 in its place.
    let compute = guest(guests::ECHO)
        .limits(|limits| limits.max_request_bytes = 1_000)
        .load();
    let request = get("/").map(|_| unannounced(11));
    match compute.send(request).await {
        // The echo answers first, so its answer breaks off.
        Ok(answer) => assert!(
            answer.broken.is_some() && answer.body.len() <= 1_000,
            "{answer:?}"
        ),
        Err(error) => assert_eq!((error.code, error.status), ("request-too-large", 413)),
    }
    let early = guest(guests::EARLY_ANSWER)
        .limits(|limits| limits.max_request_bytes = 1_000)
        .load();
    let answer = early.send(get("/").map(|_| unannounced(11))).await.unwrap();
    assert_eq!(answer.text(), "early\nread 1000 bytes\n");
}

/// Three answers that fit, two that say that they do not, and two that go on and on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_a_size() {
    let big = guest(guests::BIG_BODY)
        .limits(|limits| limits.max_response_bytes = Some(1_000))
        .load();
    for target in ["/?bytes=1000&length=1", "/?bytes=1000"] {
        let answer = big.get(target).await.unwrap();
        assert_eq!(
            (answer.body.len(), answer.broken),
            (1_000, None),
            "{target}"
        );
    }
    // HEAD has no body, whatever its length says.
    let mut head = get("/?bytes=1001&length=1");
    *head.method_mut() = http::Method::HEAD;
    assert_eq!(big.send(head).await.unwrap().status, 200);
    eventually(|| big.count("ok") == 3).await;
    for target in ["/?bytes=1001&length=1", "/?bytes=100000000&length=1"] {
        let refused = big.refusal(target).await;
        assert_eq!(refused, ("response-too-large", 502), "{target}");
    }
    for target in ["/?bytes=1001", "/?bytes=100000000"] {
        let answer = big.get(target).await.unwrap();
        let broken = answer.broken.unwrap();
        assert!(broken.contains("larger than it may be"), "{broken}");
        assert!(answer.body.len() <= 1_000, "{}", answer.body.len());
    }
    eventually(|| big.count("response-too-large") == 4 && big.replica.in_flight() == 0).await;
    assert_eq!((big.count("ok"), big.count("cancelled")), (3, 0));
    assert_eq!(big.meter().mem_current_bytes, 0);
    let log = big.log.agent();
    let line =
        "response-too-large: the answer is larger than the 1000 bytes of `max_response_bytes`";
    assert!(log.contains(line), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_a_size_in_each_world() {
    for path in [guests::ECHO, guests::P3_ECHO, guests::CGI_ECHO] {
        let echo = guest(path)
            .limits(|limits| limits.max_response_bytes = Some(1_000))
            .reuse()
            .load();
        for _ in 0..2 {
            let answer = echo.send(post("/", vec![b'x'; 1_000])).await.unwrap();
            assert_eq!((answer.body.len(), answer.broken), (1_000, None), "{path}");
            match echo.send(post("/", vec![b'x'; 1_001])).await {
                Ok(answer) => assert!(answer.broken.is_some(), "{path}: {answer:?}"),
                Err(error) => assert_eq!((error.code, error.status), ("response-too-large", 502)),
            }
        }
        eventually(|| echo.count("response-too-large") == 2).await;
        eventually(|| echo.count("ok") == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fuel_suspends_and_never_kills() {
    let compute = guest(guests::COMPUTE)
        .limits(|limits| limits.fuel_per_sec = Some(u64::MAX / 4))
        .load();
    compute.body("/?n=1000000").await;
    compute.ended("ok").await;
    let cost = compute.meter().fuel_used;
    // Three and a half such requests per second: the bucket holds a second's worth, so of five
    // requests the last must wait.
    let throttled = guest(guests::COMPUTE)
        .limits(|limits| limits.fuel_per_sec = Some(cost * 7 / 2))
        .load();
    let began = Instant::now();
    for _ in 0..6 {
        throttled.body("/?n=1000000").await;
    }
    let elapsed = began.elapsed();
    eventually(|| throttled.count("ok") == 6).await;
    let meter = throttled.meter();
    // After five requests the debt is 1.5 of them: 0.43 s.
    assert!(
        elapsed > Duration::from_millis(350),
        "{elapsed:?} {meter:?}"
    );
    assert!(meter.throttled_ms > 350, "{meter:?}");
    assert!(
        meter.fuel_used.abs_diff(cost * 6) < cost / 2,
        "{} {cost}",
        meter.fuel_used
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spinning_guest_without_fuel_stands_still() {
    for path in [guests::SPIN, guests::P3_SPIN] {
        let spin = guest(path)
            .limits(|limits| {
                limits.fuel_per_sec = Some(1_000_000);
                limits.wall_timeout_ms = 600;
            })
            .load();
        // Its running time never reaches the limit: it is suspended within a few ticks.
        assert_eq!(spin.refusal("/spin").await, ("wall-timeout", 504));
        spin.ended("wall-timeout").await;
        let meter = spin.meter();
        assert!(meter.wasm_exec_ms.sum_ms < 150.0, "{path} {meter:?}");
        assert!(meter.throttled_ms > 300, "{path} {meter:?}");
    }
}

/// Counted in ticks, and of a length by which a busy machine still counts well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_in_debt_stops_at_the_next_tick_and_runs_no_more() {
    assert_eq!(Config::default().epoch_tick, Duration::from_millis(1));
    for path in [guests::SPIN, guests::P3_SPIN] {
        let spin = guest(path)
            .config(|config| config.epoch_tick = Duration::from_millis(100))
            .limits(|limits| {
                limits.fuel_per_sec = Some(1);
                limits.wall_timeout_ms = 1_000;
            })
            .load();
        assert_eq!(spin.refusal("/spin").await, ("wall-timeout", 504));
        spin.ended("wall-timeout").await;
        let first = spin.meter();
        // The first tick of ten finds it in debt.
        assert_eq!(first.epoch_preemptions, 1, "{path} {first:?}");
        assert!(first.fuel_used > 1_000, "{path} {first:?}");
        assert!(first.throttled_ms > 0, "{path} {first:?}");
        // What it took beyond the limit is owed by whoever comes next, all of whose time goes by.
        assert_eq!(spin.refusal("/").await, ("wall-timeout", 504));
        eventually(|| spin.count("wall-timeout") == 2).await;
        let second = spin.meter();
        assert_eq!(second.epoch_preemptions, 1, "{path} {second:?}");
        assert_eq!(second.fuel_used, first.fuel_used, "{path}");
        assert!(
            second.throttled_ms >= first.throttled_ms + 500,
            "{path} {first:?} {second:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_time_counts_waiting_for_room() {
    let mut config = Config::default();
    config.policy.instances_max = 2;
    let host = Host::new(config).unwrap();
    let holder = guest(guests::PARK).load_into(&host).unwrap();
    let waiter = guest(guests::PARK)
        .limits(|limits| limits.wall_timeout_ms = 100)
        .load_into(&host)
        .unwrap();
    let call = |component: &Loaded, target: &'static str| {
        let replica = component.replica.clone();
        async move { replica.call(get(target)).await.map(drop) }
    };
    // Nobody waits longer than 250 ms for room; a machine that is too busy to end it before is asked
    // once more.
    for _ in 0..100 {
        let mut held = tokio::task::JoinSet::new();
        for _ in 0..2 {
            held.spawn(call(&holder, "/?ms=60000"));
        }
        eventually(|| holder.replica.in_flight() == 2).await;
        let waiting = tokio::spawn(call(&waiter, "/?ms=50"));
        tokio::time::sleep(Duration::from_millis(150)).await;
        drop(held);
        let ended = waiting.await.unwrap().map_err(|error| error.code);
        eventually(|| holder.replica.in_flight() == 0).await;
        if ended != Err("overloaded") {
            assert_eq!(ended, Err("wall-timeout"));
            return;
        }
    }
    panic!("never admitted");
}

fn nice_of(name: &str) -> i64 {
    stat_of(name, 19)
}

/// The highest value of a field of /proc/PID/stat among the threads of this name.
fn stat_of(name: &str, field: usize) -> i64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let niceness = tasks.filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        // The tail begins with field 3.
        let value = tail.split_whitespace().nth(field - 3)?.parse().ok()?;
        head.ends_with(name).then_some(value)
    });
    niceness.max().unwrap()
}
