//! What components cost that nobody asks: their memory, and what they do to the one that is asked
//! all the time. Two ways: an agent, and host and edge alone.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use crate::cases::{built, example};
use crate::parked::{count, kb_each, raise_open_files};
use crate::peers::{Peer, Running, Tools};
use crate::process::{self, Memory};
use crate::report::{Bound, CaseReport, Table, digits};
use crate::server::{Server, free_address};
use crate::stats::Spread;
use crate::throughput::{Metric, Target, Throughput};
use crate::variants;
use crate::wrk::Request;

/// What falls short of this is said in the last table of the report.
const HOT_P99_RATIO_MAX: f64 = 1.1;
/// Components with a digest of their own each.
const DISTINCT: u32 = 1_000;
/// Components of one digest.
const SAME: u32 = 10_000;
const QUICK: u32 = 100;
/// Until loaded components are at rest.
const SETTLE: Duration = Duration::from_secs(3);
/// By then realm has unloaded what nobody asks for: after 60 to 75 s.
const UNLOADED: Duration = Duration::from_secs(80);
/// Idle components that are asked once, to see how they come back.
const ASKED: u32 = 50;

const ALONE: &str = "hot alone";
const BESIDE_DISTINCT: &str = "beside distinct digests";
const BESIDE_SAME: &str = "beside one digest";

/// A server with its components, deployed and at rest.
#[derive(Debug, Serialize)]
struct AtRest {
    who: &'static str,
    idle_components: u32,
    /// Just deployed: with the code in memory.
    deployed: Memory,
    memory: Memory,
    threads: u64,
    open_files: usize,
    /// Over the time of settling.
    idle_cpu_s: f64,
    /// The first request of some of the idle components, in milliseconds.
    first_request_ms: Vec<f64>,
    deploy_s: f64,
}

/// An agent with all of them in one manifest.
pub(crate) fn idle(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let guest = example(tools, "hello.wasm")?;
    raise_open_files()?;
    // Short paths, since they stand in the manifest.
    let folder = tempfile::tempdir().context("no folder for components")?;
    let one = folder.path().join("s");
    fs::copy(&guest, &one).context("the guest cannot be copied")?;
    let (distinct, same) = match (tools.args.quick, tools.args.idle) {
        (true, None) => (QUICK, QUICK),
        (_, same) => (DISTINCT, same.unwrap_or(SAME)),
    };
    let distinct = variants::write(folder.path(), &guest, distinct)?;
    let same = vec![one; same as usize];
    let mut running = Vec::new();
    for (who, files) in [
        (ALONE, &vec![]),
        (BESIDE_DISTINCT, &distinct),
        (BESIDE_SAME, &same),
    ] {
        let start = || tools.realm(&format!("idle {who}"), &manifest(&guest, files));
        running.push(deployed(who, files.len(), start)?);
    }
    rest(&mut running)?;
    let mut notes = vec![
        "One agent each, with one signed manifest of all its components and their routes."
            .to_owned(),
    ];
    notes.push(how_it_was_measured());
    let case = hot(
        "idle",
        "an agent: a hot component alone, and beside idle ones",
        notes,
        &guest,
    );
    finish(&case, running, began, tools, cores)
}

/// Host and edge, joined as the agent joins them.
pub(crate) fn idle_host(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let guest = example(tools, "hello.wasm")?;
    raise_open_files()?;
    let (distinct, same) = if tools.args.quick {
        (QUICK, QUICK)
    } else {
        (DISTINCT, SAME)
    };
    let mut running = Vec::new();
    for (who, count, digests) in [
        (ALONE, 0, "same"),
        (BESIDE_DISTINCT, distinct, "distinct"),
        (BESIDE_SAME, same, "same"),
    ] {
        running.push(deployed(who, count as usize, || {
            host(tools, who, count, digests, &guest)
        })?);
    }
    rest(&mut running)?;
    let notes = vec![
        "NOT the agent: realm's host and edge in a program of their own (`bench/host`), no metrics. It shows what the route table and components cost.".to_owned(),
        how_it_was_measured(),
    ];
    let title = "host and edge without the agent: a hot component alone, and beside idle ones";
    finish(
        &hot("idle-host", title, notes, &guest),
        running,
        began,
        tools,
        cores,
    )
}

fn host(tools: &Tools<'_>, who: &str, count: u32, digests: &str, guest: &Path) -> Result<Running> {
    let folder = tools.folder(&format!("host {who}").replace(' ', "-"))?;
    let address = free_address()?;
    let mut command = Command::new(built(&tools.args.host)?);
    command
        .current_dir(&folder)
        .arg(address.to_string())
        .arg(count.to_string());
    command.arg(digests).arg(guest);
    let server = Server::start(who, address, command, &folder.join("log"))?;
    Ok(Running {
        server,
        realm: None,
    })
}

fn how_it_was_measured() -> String {
    format!(
        "Twice the rounds of half the time: p99 of one round says little. Resident memory {} s after everything is deployed, and once realm has unloaded what nobody asked for, {} s later, with CPU time over {0} s; then {ASKED} of the idle components get their first request.",
        SETTLE.as_secs(),
        UNLOADED.as_secs()
    )
}

fn finish(
    case: &Throughput,
    running: Vec<(&'static str, Running, AtRest)>,
    began: Instant,
    tools: &Tools<'_>,
    cores: &[usize],
) -> Result<CaseReport> {
    let mut servers = Vec::new();
    let mut rests = Vec::new();
    for (who, server, rest) in running {
        servers.push((who, server));
        rests.push(rest);
    }
    let mut report = case.run_beside(servers, tools, cores)?;
    report.tables.push(Table {
        head: vec![
            "who",
            "idle components",
            "RSS kB each, deployed",
            "anon",
            "file",
            "RSS kB each, idle",
            "anon",
            "file",
            "RSS MB of all",
            "threads",
            "open files",
            "CPU ms/s",
            "first request ms",
            "at most",
        ],
        rows: rests.iter().map(|rest| rest.cells(&rests[0])).collect(),
    });
    report.raw["at_rest"] = json!(rests);
    report.took_s = began.elapsed().as_secs_f64();
    Ok(report)
}

/// Starts a server with a hot component and idle ones.
fn deployed(
    who: &'static str,
    idle: usize,
    start: impl FnOnce() -> Result<Running>,
) -> Result<(&'static str, Running, AtRest)> {
    let began = Instant::now();
    let mut running = start()?;
    running.server.answers("GET", "/hot", b"")?;
    let deploy_s = began.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let deployed = process::memory(running.server.id())?;
    eprintln!(
        "  {who}: {idle} components, {} MB, {deploy_s:.1} s",
        deployed.rss_kb / 1000
    );
    let rest = AtRest {
        who,
        idle_components: u32::try_from(idle).unwrap_or(u32::MAX),
        deployed,
        memory: deployed,
        threads: 0,
        open_files: 0,
        idle_cpu_s: 0.0,
        first_request_ms: Vec::new(),
        deploy_s,
    };
    Ok((who, running, rest))
}

/// Looks at the servers once nobody has asked them for long, and then asks.
fn rest(servers: &mut [(&'static str, Running, AtRest)]) -> Result<()> {
    std::thread::sleep(UNLOADED);
    for (who, running, rest) in servers {
        let id = running.server.id();
        let cpu = process::cpu_seconds(id)?;
        std::thread::sleep(SETTLE);
        rest.idle_cpu_s = process::cpu_seconds(id)? - cpu;
        rest.memory = process::memory(id)?;
        rest.threads = process::threads(id)?;
        rest.open_files = process::open_files(id);
        let step = (rest.idle_components / ASKED).max(1);
        for at in (0..rest.idle_components).step_by(step as usize) {
            let asked = Instant::now();
            let path = format!("/{}", name(at));
            running.server.answers("GET", &path, b"")?;
            let took = asked.elapsed().as_secs_f64();
            rest.first_request_ms.push(took * 1e3);
        }
        eprintln!("  {who}: at rest {} MB", rest.memory.rss_kb / 1000);
    }
    Ok(())
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
            each(self.deployed.rss_kb, alone.deployed.rss_kb),
            each(self.deployed.anon_kb, alone.deployed.anon_kb),
            each(self.deployed.file_kb, alone.deployed.file_kb),
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

/// The load on the hot component, the same in all three.
fn hot(name: &'static str, title: &'static str, notes: Vec<String>, guest: &Path) -> Throughput {
    let target = |who| Target {
        metric: Metric::P99,
        who,
        against: ALONE,
        bound: Bound::AtMost(HOT_P99_RATIO_MAX),
    };
    let peer = || Peer::Realm(String::new());
    Throughput {
        name,
        title,
        guest: guest.to_owned(),
        request: Request::Get,
        path: "/hot",
        contenders: vec![
            (ALONE, peer()),
            (BESIDE_DISTINCT, peer()),
            (BESIDE_SAME, peer()),
        ],
        targets: vec![target(BESIDE_DISTINCT), target(BESIDE_SAME)],
        notes,
        finer: true,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_as_short_as_can_be() {
        let text = manifest(Path::new("/h"), &[PathBuf::from("/a")]);
        let expected = "[components]\nhot={source=\"file:/h\"}\ni0={source=\"file:/a\"}\n[routing]\n\
                        \"*\"=[{path=\"/hot\",component=\"hot\"},\n{path=\"/i0\",component=\"i0\"},\n]\n";
        assert_eq!(text, expected);
    }
}
