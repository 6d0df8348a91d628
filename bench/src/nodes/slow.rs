//! One slow node of two that answer: how long a request takes that a third node of the realm passes on,
//! beside nginx in front of the same two. The slow one is the same process for all of them: it is let
//! run for a tenth of the time. Requests come at fixed times, however long the answers take.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::json;

use super::crowd::{Crowd, Member};
use super::hop::{PATH, address, hello_elsewhere, metrics_address, nginx};
use super::spread::Sorted;
use crate::http::{self, Connection};
use crate::machine;
use crate::peers::Tools;
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;

const NAME: &str = "slow";
/// The third asks the other two.
const NODES: usize = 3;
const SLOW: usize = 1;
/// The slow one stands still and runs in turn: what the kernel does with a container that may use a
/// tenth of a core, at its usual period, only that it needs no rights and no load.
const STANDS_STILL: Duration = Duration::from_millis(90);
const RUNS: Duration = Duration::from_millis(10);
/// As many clients as find an answer before their next request is due, also where one waits for the slow
/// node: together a request per millisecond.
const LOAD: Load = Load {
    clients: 128,
    every: Duration::from_millis(128),
};
const WARM_UP: Duration = Duration::from_secs(1);
const ANSWER: &[u8] = b"Hello from a component.\n";

const REALM: &str = "realm, another node";
const ROUND_ROBIN: &str = "nginx, round robin";
const LEAST_CONN: &str = "nginx, least_conn";

/// A request per client and period, each client at its own time of the period.
#[derive(Clone, Copy)]
struct Load {
    clients: u32,
    every: Duration,
}

/// One way to the component.
struct Way {
    who: &'static str,
    address: SocketAddr,
}

/// What one round of one way gave.
#[derive(Debug, Serialize)]
struct Round {
    round: u32,
    who: &'static str,
    is_slow: bool,
    requests: usize,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Of the answers.
    slow_node_percent: f64,
}

pub(crate) fn slow(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let nginx = machine::version(&tools.args.nginx, &["-v"])
        .context("`nginx` is missing\nhint: on Debian: apt-get install nginx")?;
    // Client, proxy and each node are machines: each finds a core of its own, where there are so many.
    machine::put_on(&tools.all_cores)?;
    let measured = measure(tools);
    machine::put_on(cores)?;
    Ok(report(&measured?, tools, &nginx, began))
}

fn measure(tools: &Tools<'_>) -> Result<Vec<Round>> {
    let crowd = hello_elsewhere(tools, NODES)?;
    let targets: Vec<SocketAddr> = crowd.members[1..]
        .iter()
        .map(address)
        .collect::<Result<_>>()?;
    let round_robin = nginx(tools, "slow-nginx", "", &targets)?;
    let least_conn = nginx(tools, "slow-nginx-least", "least_conn;", &targets)?;
    let mut ways = vec![
        Way {
            who: REALM,
            address: address(&crowd.members[0])?,
        },
        Way {
            who: ROUND_ROBIN,
            address: round_robin.address,
        },
        Way {
            who: LEAST_CONN,
            address: least_conn.address,
        },
    ];
    for way in &ways {
        LOAD.ask(way.address, WARM_UP)?;
    }
    let mut rounds = Vec::new();
    for is_slow in [false, true] {
        let slowed = is_slow.then(|| Slowed::begin(crowd.members[SLOW].id()));
        let slowed = slowed.transpose()?;
        for round in 1..=tools.args.rounds() {
            ways.rotate_left(usize::from(round > 1));
            for way in &ways {
                let one = measure_one(&crowd, way, tools.args.round_time(), round, is_slow)?;
                eprintln!(
                    "  {NAME} round {round}{}: {}: p50 {:.2} p99 {:.2} ms, {:.1} % by {}",
                    if is_slow { ", one slow" } else { "" },
                    one.who,
                    one.p50_ms,
                    one.p99_ms,
                    one.slow_node_percent,
                    crowd.members[SLOW].name
                );
                rounds.push(one);
            }
        }
        drop(slowed);
    }
    Ok(rounds)
}

fn measure_one(
    crowd: &Crowd,
    way: &Way,
    time: Duration,
    round: u32,
    is_slow: bool,
) -> Result<Round> {
    let answered = || -> Result<Vec<f64>> { crowd.members[1..].iter().map(invocations).collect() };
    let before = answered()?;
    let took = LOAD.ask(way.address, time).with_context(|| way.who)?;
    let by: Vec<f64> = answered()?.iter().zip(before).map(|(b, a)| b - a).collect();
    Ok(Round {
        round,
        who: way.who,
        is_slow,
        requests: took.len(),
        slow_node_percent: 100.0 * by[SLOW - 1] / by.iter().sum::<f64>().max(1.0),
        p50_ms: took.at(50),
        p90_ms: took.at(90),
        p99_ms: took.at(99),
        max_ms: took.at(100),
    })
}

/// Requests that the component on this node has answered so far.
fn invocations(member: &Member) -> Result<f64> {
    let page = http::ask(metrics_address(member)?, "GET", "/metrics", b"")?;
    let page = String::from_utf8(page.body).context("metrics that are no text")?;
    let line = page.lines().find_map(|line| {
        let of = line.strip_prefix("wasm_invocations_total{component=\"hello\",")?;
        of.strip_prefix("outcome=\"ok\"} ")
    });
    let line = line.with_context(|| format!("{} counts no invocations", member.name))?;
    Ok(line.trim().parse()?)
}

impl Load {
    /// Milliseconds from when each request was due to the end of its answer.
    fn ask(self, address: SocketAddr, time: Duration) -> Result<Sorted> {
        let connections: Vec<Connection<TcpStream>> = (0..self.clients)
            .map(|_| Connection::open(address))
            .collect::<Result<_>>()?;
        // All are there before the first one begins.
        let began = Instant::now() + Duration::from_millis(50);
        let took: Result<Vec<Vec<f64>>> = thread::scope(|scope| {
            let clients = (0..self.clients).zip(connections);
            let clients = clients.map(|(number, connection)| {
                let first = began + self.every * number / self.clients;
                scope.spawn(move || self.client(connection, first, began + time))
            });
            let clients: Vec<_> = clients.collect();
            let ended = clients.into_iter().map(|client| {
                let ended = client.join();
                ended.unwrap_or_else(|_| bail!("a client panicked"))
            });
            ended.collect()
        });
        Ok(Sorted::of(took?.into_iter().flatten()))
    }

    fn client(
        self,
        mut connection: Connection<TcpStream>,
        first: Instant,
        end: Instant,
    ) -> Result<Vec<f64>> {
        let mut took = Vec::new();
        let mut due = first;
        while due < end {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let answer = connection.ask("GET", PATH, b"")?;
            if answer.status != 200 || answer.body != ANSWER {
                bail!("the answer was {}", answer.status);
            }
            took.push(due.elapsed().as_secs_f64() * 1e3);
            due += self.every;
        }
        Ok(took)
    }
}

/// A process that stands still for most of the time; it runs again when this is dropped.
struct Slowed {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slowed {
    fn begin(id: u32) -> Result<Self> {
        let id = Pid::from_raw(id.cast_signed()).context("no agent runs")?;
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut next = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                for (signal, time) in [(Signal::STOP, STANDS_STILL), (Signal::CONT, RUNS)] {
                    // An agent that ended is noticed by who asks it.
                    let _ = kill_process(id, signal);
                    next += time;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }
        });
        Ok(Self {
            ends,
            thread: Some(thread),
        })
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // Its last signal lets the process run.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn report(rounds: &[Round], tools: &Tools<'_>, nginx: &str, began: Instant) -> CaseReport {
    let of = |who: &str, is_slow: bool, value: fn(&Round) -> f64| {
        let meant = rounds
            .iter()
            .filter(|one| one.who == who && one.is_slow == is_slow);
        Spread::of(meant.map(value))
    };
    let row = |who: &'static str| {
        let median = |is_slow, value| of(who, is_slow, value).map(|found| digits(found.median));
        let range = of(who, true, |one| one.p99_ms)?;
        Some(vec![
            who.to_owned(),
            median(false, |one| one.p50_ms)?,
            median(false, |one| one.p99_ms)?,
            median(true, |one| one.p50_ms)?,
            median(true, |one| one.p90_ms)?,
            median(true, |one| one.p99_ms)?,
            format!("{}–{}", digits(range.min), digits(range.max)),
            median(true, |one| one.slow_node_percent)?,
        ])
    };
    let p99 = |who: &str, round: u32| {
        let mut all = rounds.iter();
        let found = all.find(|one| one.who == who && one.is_slow && one.round == round);
        found.map(|one| one.p99_ms)
    };
    let ratios = (1..=tools.args.rounds())
        .filter_map(|round| Some(p99(REALM, round)? / p99(ROUND_ROBIN, round)?));
    let verdict = Spread::of(ratios).map(|measured| {
        let what = format!("p99 with one slow node: realm / {ROUND_ROBIN}");
        Verdict::new(NAME, what, measured, "x", Bound::AtMost(1.0))
    });
    CaseReport {
        name: NAME.to_owned(),
        title: "one slow node of two that answer".to_owned(),
        notes: vec![
            format!(
                "hello, WASI 0.2, on two of three nodes; realm is asked at the third, nginx ({nginx}; 2 workers, kept connections) stands in front of the HTTP ports of the same two. All on loopback of one machine, on the cores {:?}.",
                tools.all_cores
            ),
            format!(
                "The slow node is stopped (SIGSTOP) for {} ms and runs (SIGCONT) for {} ms, in all rounds with one slow node, which come after all others. {} clients with a connection each ask every {} ms, each at its own time of these; a request is charged from when it was due.",
                STANDS_STILL.as_millis(),
                RUNS.as_millis(),
                LOAD.clients,
                LOAD.every.as_millis()
            ),
        ],
        tables: vec![Table {
            head: vec![
                "through",
                "both well: p50 ms",
                "p99 ms",
                "one slow: p50 ms",
                "p90 ms",
                "p99 ms",
                "min–max",
                "answered by the slow one, %",
            ],
            rows: [REALM, ROUND_ROBIN, LEAST_CONN]
                .into_iter()
                .filter_map(row)
                .collect(),
        }],
        verdicts: verdict.into_iter().collect(),
        raw: json!(rounds),
        took_s: began.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{Ipv4Addr, TcpListener};
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn who_waits_for_an_answer_is_late_with_the_next_request() {
        const TAKES: Duration = Duration::from_millis(50);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            for _ in lines.filter(String::is_empty) {
                thread::sleep(TAKES);
                let text = std::str::from_utf8(ANSWER).unwrap();
                let length = text.len();
                write!(
                    &stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}"
                )
                .unwrap();
            }
        });
        let load = Load {
            clients: 1,
            every: Duration::from_millis(20),
        };
        let took = load.ask(address, Duration::from_millis(100)).unwrap();
        server.join().unwrap();
        // Due at 0, 20, 40, 60 and 80; answered at 50, 100, 150, 200 and 250, or later.
        assert_eq!(took.len(), 5);
        assert!(took.at(0) >= 50.0, "{took:?}");
        assert!(took.at(100) >= 170.0, "{took:?}");
    }

    #[test]
    fn a_slow_process_stands_still_and_runs_in_the_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let state = |child: &Child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.split(' ').nth(2).unwrap().to_owned()
        };
        let slowed = Slowed::begin(child.id()).unwrap();
        let looks = (0..100).map(|_| {
            thread::sleep(Duration::from_millis(3));
            state(&child)
        });
        let stopped = looks.filter(|state| state == "T").count();
        drop(slowed);
        let after = state(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(stopped > 50, "{stopped}");
        assert_eq!(after, "S");
    }
}
