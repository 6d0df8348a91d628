//! How much an agent holds: instances that wait, and components that nobody asks. Figures are
//! differences of resident memory, so that the agent itself is not counted with each of them.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::json;

use crate::cases::example;
use crate::http::Connection;
use crate::peers::{Peer, Running, Tools};
use crate::process::{self, Memory};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;
use crate::throughput::{Metric, Target, Throughput};
use crate::variants;
use crate::wrk::Request;

/// The aims.
const PARKED_KB_MAX: f64 = 140.0;
const HOT_P99_RATIO_MAX: f64 = 1.1;
/// Below the 1,000 instances that an agent holds by default.
const PARKED: &[usize] = &[100, 500, 900];
/// Components with a digest of their own each, and with one digest; a manifest that is too large
/// is tried again with the next number.
const DISTINCT: u32 = 1_000;
const SAME: &[u32] = &[10_000, 1_400];
const QUICK: u32 = 100;
/// Until freed memory is back and loaded components are at rest.
const SETTLE: Duration = Duration::from_secs(3);
/// Until all requests are parked.
const PARK_TIME_MAX: Duration = Duration::from_secs(60);
/// Idle components that are asked once, to see how they come back.
const ASKED: u32 = 50;

const ALONE: &str = "hot alone";
const BESIDE_DISTINCT: &str = "beside distinct";
const BESIDE_SAME: &str = "beside one digest";

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

/// An agent with its components at rest.
#[derive(Debug, Serialize)]
struct AtRest {
    who: &'static str,
    idle_components: u32,
    memory: Memory,
    threads: u64,
    open_files: usize,
    /// Over the time of settling.
    idle_cpu_s: f64,
    /// The first request of some of the idle components, in milliseconds.
    first_request_ms: Vec<f64>,
    deploy_s: f64,
}

pub(crate) fn idle(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let guest = example(tools, "hello.wasm")?;
    raise_open_files()?;
    // Short paths, since they stand in the manifest.
    let folder = tempfile::tempdir().context("no folder for components")?;
    let distinct = if tools.args.quick { QUICK } else { DISTINCT };
    let files = variants::write(folder.path(), &guest, distinct)?;

    let mut notes = Vec::new();
    let (alone, alone_rest) = at_rest(tools, ALONE, &guest, &[])?;
    let (beside, beside_rest) = at_rest(tools, BESIDE_DISTINCT, &guest, &files)?;
    let (same, same_rest) = same_digest(tools, &guest, folder.path(), &mut notes)?;
    let rests = [alone_rest, beside_rest, same_rest];

    let mut report = hot(&guest).run_beside(
        vec![
            (ALONE, alone),
            (BESIDE_DISTINCT, beside),
            (BESIDE_SAME, same),
        ],
        tools,
        cores,
    )?;
    report.tables.push(Table {
        head: vec![
            "who",
            "idle components",
            "RSS kB each",
            "anon",
            "file",
            "agent RSS MB",
            "threads",
            "open files",
            "CPU ms/s",
            "first request ms",
            "at most",
        ],
        rows: rests.iter().map(|rest| rest.cells(&rests[0])).collect(),
    });
    notes.push(format!(
        "Resident memory {} s after everything runs, and CPU time over as long; then {ASKED} of the idle components get their first request.",
        SETTLE.as_secs()
    ));
    report.notes.extend(notes);
    report.raw["at_rest"] = json!(rests);
    report.took_s = began.elapsed().as_secs_f64();
    Ok(report)
}

/// As many components of one digest as a manifest takes.
fn same_digest(
    tools: &Tools<'_>,
    guest: &Path,
    folder: &Path,
    notes: &mut Vec<String>,
) -> Result<(Running, AtRest)> {
    let one = folder.join("s");
    fs::copy(guest, &one).context("the guest cannot be copied")?;
    let quick = [QUICK];
    let counts = if tools.args.quick { &quick[..] } else { SAME };
    let mut last = None;
    for count in counts {
        let files = vec![one.clone(); *count as usize];
        match at_rest(tools, BESIDE_SAME, guest, &files) {
            Ok(found) => return Ok(found),
            Err(error) if format!("{error:#}").contains("too-large") => {
                notes.push(format!(
                    "{count} components do not fit into one manifest: `too-large`."
                ));
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.context("no number of components")?)
}

/// Starts an agent with a hot component and idle ones, and looks at it when it is at rest.
fn at_rest(
    tools: &Tools<'_>,
    who: &'static str,
    guest: &Path,
    idle: &[PathBuf],
) -> Result<(Running, AtRest)> {
    let began = Instant::now();
    let mut running = tools.realm(who, &manifest(guest, idle))?;
    let deploy_s = began.elapsed().as_secs_f64();
    running.server.answers("GET", "/hot", b"")?;
    std::thread::sleep(SETTLE);
    let id = running.server.id();
    let cpu = process::cpu_seconds(id)?;
    std::thread::sleep(SETTLE);
    let idle_cpu_s = process::cpu_seconds(id)? - cpu;
    let mut rest = AtRest {
        who,
        idle_components: u32::try_from(idle.len()).unwrap_or(u32::MAX),
        memory: process::memory(id)?,
        threads: process::threads(id)?,
        open_files: process::open_files(id),
        idle_cpu_s,
        first_request_ms: Vec::new(),
        deploy_s,
    };
    let step = (rest.idle_components / ASKED).max(1);
    for at in (0..rest.idle_components).step_by(step as usize) {
        let asked = Instant::now();
        running
            .server
            .answers("GET", &format!("/{}", name(at)), b"")?;
        rest.first_request_ms
            .push(asked.elapsed().as_secs_f64() * 1e3);
    }
    eprintln!(
        "  idle: {who}: {} components, {} MB",
        idle.len(),
        rest.memory.rss_kb / 1000
    );
    Ok((running, rest))
}

impl AtRest {
    fn cells(&self, alone: &Self) -> Vec<String> {
        let components = self.idle_components as usize;
        let each = |with: u64, before: u64| match components {
            0 => "-".to_owned(),
            many => digits(kb_each(with, before, many)),
        };
        let back = Spread::of(self.first_request_ms.iter().copied());
        let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), digits);
        vec![
            self.who.to_owned(),
            components.to_string(),
            each(self.memory.rss_kb, alone.memory.rss_kb),
            each(self.memory.anon_kb, alone.memory.anon_kb),
            each(self.memory.file_kb, alone.memory.file_kb),
            digits(count(usize::try_from(self.memory.rss_kb).unwrap_or(usize::MAX)) / 1e3),
            self.threads.to_string(),
            self.open_files.to_string(),
            digits(self.idle_cpu_s * 1e3 / SETTLE.as_secs_f64()),
            text(back.map(|one| one.median)),
            text(back.map(|one| one.max)),
        ]
    }
}

/// The load on the hot component, the same in all three agents.
fn hot(guest: &Path) -> Throughput {
    let target = |who| Target {
        metric: Metric::P99,
        who,
        against: ALONE,
        bound: Bound::AtMost(HOT_P99_RATIO_MAX),
    };
    let peer = || Peer::Realm(String::new());
    Throughput {
        name: "idle",
        title: "a hot component alone, and beside idle ones",
        guest: guest.to_owned(),
        request: Request::Get,
        path: "/hot",
        contenders: vec![
            (ALONE, peer()),
            (BESIDE_DISTINCT, peer()),
            (BESIDE_SAME, peer()),
        ],
        targets: vec![target(BESIDE_DISTINCT), target(BESIDE_SAME)],
        notes: Vec::new(),
    }
}

/// As short as TOML allows, since a signed entry has a largest size.
fn manifest(hot: &Path, idle: &[PathBuf]) -> String {
    let mut text = format!("[components]\nhot={{source=\"file:{}\"}}\n", hot.display());
    for (at, file) in (0..).zip(idle) {
        let _ = writeln!(text, "{}={{source=\"file:{}\"}}", name(at), file.display());
    }
    text += "[routing]\n\"*\"=[{path=\"/hot\",component=\"hot\"},\n";
    for at in 0..u32::try_from(idle.len()).unwrap_or(u32::MAX) {
        let name = name(at);
        let _ = writeln!(text, "{{path=\"/{name}\",component=\"{name}\"}},");
    }
    text + "]\n"
}

fn name(at: u32) -> String {
    format!("i{at:x}")
}

fn kb_each(with: u64, before: u64, many: usize) -> f64 {
    let difference = i64::try_from(with).unwrap_or(0) - i64::try_from(before).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "kilobytes")]
    let difference = difference as f64;
    difference / count(many)
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn count(many: usize) -> f64 {
    many as f64
}

/// This process holds a connection for each parked request.
fn raise_open_files() -> Result<()> {
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

    #[test]
    fn a_manifest_as_short_as_can_be() {
        let text = manifest(Path::new("/h"), &[PathBuf::from("/a")]);
        let expected = "[components]\nhot={source=\"file:/h\"}\ni0={source=\"file:/a\"}\n[routing]\n\
                        \"*\"=[{path=\"/hot\",component=\"hot\"},\n{path=\"/i0\",component=\"i0\"},\n]\n";
        assert_eq!(text, expected);
    }
}
