//! How much memory an instance takes that lives and waits. A difference of resident memory, so
//! that the agent itself is not counted with each of them.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::json;

use crate::cases::example;
use crate::http::Connection;
use crate::peers::{Peer, Tools};
use crate::process::{self, Memory};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;

/// What falls short of this is said in the last table of the report.
const PARKED_KB_MAX: f64 = 140.0;
/// Below the 1,000 instances that an agent holds by default.
const PARKED: &[usize] = &[100, 500, 900];
/// Until freed memory is back.
const SETTLE: Duration = Duration::from_secs(3);
/// Until all requests are parked.
const PARK_TIME_MAX: Duration = Duration::from_secs(60);

/// One number of parked requests.
#[derive(Debug, Serialize)]
struct Parked {
    count: usize,
    before: Memory,
    with: Memory,
    kb_each: f64,
}

pub(crate) fn parked(tools: &Tools<'_>, _: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let guest = example(tools, "limits.wasm")?;
    let counts = if tools.args.quick {
        &PARKED[..1]
    } else {
        PARKED
    };
    raise_open_files()?;
    let found: Vec<Parked> = counts
        .iter()
        .map(|count| park(tools, &guest, *count))
        .collect::<Result<_>>()?;
    let rows = found.iter().map(|one| {
        let each = |with: u64, before: u64| digits(kb_each(with, before, one.count));
        vec![
            one.count.to_string(),
            digits(one.kb_each),
            each(one.with.anon_kb, one.before.anon_kb),
            each(one.with.file_kb, one.before.file_kb),
            digits(count(usize::try_from(one.with.rss_kb).unwrap_or(usize::MAX)) / 1e3),
        ]
    });
    let verdict = |one: &Parked| {
        let spread = Spread {
            median: one.kb_each,
            min: one.kb_each,
            max: one.kb_each,
        };
        let target = format!("RSS per parked instance, {} of them", one.count);
        Verdict::new("parked", target, spread, "kB", Bound::AtMost(PARKED_KB_MAX))
    };
    Ok(CaseReport {
        name: "parked".to_owned(),
        title: "instances that live and wait".to_owned(),
        notes: vec![
            "Each is a request of its own connection, waiting inside a guest of WASI 0.2; what the agent has resident beside one that served one request.".to_owned(),
        ],
        tables: vec![Table {
            head: vec!["parked", "RSS kB each", "anon", "file", "agent RSS MB"],
            rows: rows.collect(),
        }],
        verdicts: found.iter().map(verdict).collect(),
        raw: json!({ "parked": found }),
        took_s: began.elapsed().as_secs_f64(),
    })
}

fn park(tools: &Tools<'_>, guest: &Path, count: usize) -> Result<Parked> {
    let more = "memory_max_mb = 16\nwall_timeout_ms = 600_000\nmax_concurrency = 1_000\n";
    let mut running = tools.start("parked", &Peer::Realm(more.to_owned()), guest)?;
    running.server.answers("GET", "/", b"")?;
    std::thread::sleep(SETTLE);
    let before = process::memory(running.server.id())?;
    let mut waiting: Vec<Connection<TcpStream>> = Vec::new();
    for _ in 0..count {
        let mut connection = Connection::open(running.server.address)?;
        connection.send("GET", "/sleep", b"")?;
        waiting.push(connection);
    }
    let socket = running.realm.as_ref().context("a realm")?.socket();
    let began = Instant::now();
    while in_flight(&socket)? != count {
        if began.elapsed() > PARK_TIME_MAX {
            bail!("{} of {count} requests are parked", in_flight(&socket)?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(SETTLE);
    let with = process::memory(running.server.id())?;
    let kb_each = kb_each(with.rss_kb, before.rss_kb, count);
    Ok(Parked {
        count,
        before,
        with,
        kb_each,
    })
}

/// Requests in flight, as the metrics page counts them.
fn in_flight(socket: &Path) -> Result<usize> {
    let page = Connection::open_socket(socket)?.ask("GET", "/metrics", b"")?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let values = page
        .lines()
        .filter(|line| line.starts_with("realm_replica_requests_in_flight{"));
    let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    Ok(values.sum())
}

pub(crate) fn kb_each(with: u64, before: u64, many: usize) -> f64 {
    let difference = i64::try_from(with).unwrap_or(0) - i64::try_from(before).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "kilobytes")]
    let difference = difference as f64;
    difference / count(many)
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
pub(crate) fn count(many: usize) -> f64 {
    many as f64
}

/// This process holds a connection for each parked request; servers inherit the limit.
pub(crate) fn raise_open_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .context("the limit of open files cannot be raised")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_per_piece() {
        assert!((kb_each(300, 100, 2) - 100.0).abs() < 1e-9);
        assert!((kb_each(100, 300, 2) + 100.0).abs() < 1e-9);
    }
}
